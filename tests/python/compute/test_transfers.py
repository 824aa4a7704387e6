"""Copies between the host and a device, as far as a test on a CPU can show them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from image_model import DRAWS, N, numbers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mcdropout.compute import transfers
from mcdropout.compute.devices import for_float64
from mcdropout.compute.threads import Workers
from mcdropout.compute.transfers import pack, to_device, to_host_async, unpack
from mcdropout.sampling.draw import _drawn
from mcdropout.sampling.model import network_of, sampler_for
from mcdropout.sampling.options import ModelOptions, SamplingOptions, SiteOptions
from mcdropout.sampling.results import Batch


@pytest.fixture
def x():
    return numbers(N, 2, 8, 8)


def test_packed_tensors_are_unpacked_unchanged():
    tensors = {
        "bytes": torch.tensor([True, False, True]),
        "wide": torch.arange(6, dtype=torch.float64).reshape(3, 2).T,
        "codes": torch.tensor([[3], [2**40]]),
        "a column of one number": torch.arange(6).reshape(3, 2).T[:1, :1],
        "draws": torch.arange(12, dtype=torch.float32).reshape(2, 3, 2),
    }
    unpacked = unpack(pack(tensors), {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    assert unpacked.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert unpacked[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(unpacked[name], tensor.numpy())


def test_inputs_are_copied_from_pinned_memory_in_a_second_stream(monkeypatch):
    """The calls of `torch.cuda` in their order. The tensors of the test stay on the host."""
    calls, streams = [], ["work"]

    class Stream:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            streams.append(self.name)

        def __exit__(self, *_):
            streams.pop()

        def wait_stream(self, other):
            calls.append(f"{self.name} waits for {other.name}")

    def copy_to(x, device, non_blocking=False):
        calls.append(f"copied in {streams[-1]} to {device}, waiting {not non_blocking}")
        return x.clone()

    cuda = SimpleNamespace(
        Stream=lambda _: Stream("copies"), current_stream=lambda _: Stream("work"), stream=lambda stream: stream
    )
    monkeypatch.setattr(transfers, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: (calls.append("pinned"), x)[1])
    monkeypatch.setattr(torch.Tensor, "to", copy_to)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: calls.append(f"used in {stream.name}"))
    transfers._copy_stream.cache_clear()
    x = torch.arange(3.0)
    copy = to_device(x, torch.device("cuda:1"))
    transfers._copy_stream.cache_clear()
    assert calls == ["pinned", "copied in copies to cuda:1, waiting False", "work waits for copies", "used in work"]
    assert torch.equal(copy, x)


def test_on_a_cpu_nothing_is_copied():
    x = torch.arange(3.0)
    assert to_device(x, torch.device("cpu")) is x
    assert np.shares_memory(to_host_async({"x": x})()["x"], x.numpy())
    assert for_float64(torch.device("mps")) == torch.device("cpu")


class RecordWaits(TorchDispatchMode):
    """Records the operations that read numbers from a device and therefore wait for all its work."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name in self.WAITING:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("outputs", ["logits", "probabilities", "values", "mean_log_variance"])
@pytest.mark.parametrize("engine", ["folded", "loop"])
def test_drawing_does_not_wait_for_the_device(x, outputs, engine, only_engine, monkeypatch):
    """A GPU receives the next batch while it works on the current one."""
    only_engine(engine)
    for module in ("predictions.summaries", "sampling.results"):
        monkeypatch.setattr(f"mcdropout.{module}.is_on_host", lambda x: False)  # as on a GPU
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 4))
    if outputs == "probabilities":
        model.append(nn.Softmax(dim=-1))
    network = network_of(model.eval(), ModelOptions(outputs, device="cpu"))
    request = SamplingOptions.checked(DRAWS, 128, 0.95, "shared", None, True, 1, 3)
    source = network.source(numbers(N, 3))
    sampler = sampler_for(network, source, request, SiteOptions(True, False))
    inputs = next(source.batches(N))

    def one_batch():
        batch = Batch(inputs, np.arange(N), 0)
        drawn = _drawn(sampler.plan(inputs), batch, inputs, request, Workers(1), lambda _: None)
        return [part.summarised(request, slice(0, N)) for part in drawn]

    one_batch()  # chooses the engine and draws the masks
    with RecordWaits() as waits:
        one_batch()
    assert waits.names == []
    with RecordWaits() as waits:
        assert sampler.first.has_spread
    assert waits.names == ["_local_scalar_dense"]  # the record is not always empty
