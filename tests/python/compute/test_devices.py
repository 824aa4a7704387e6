"""Devices: the numbers do not depend on them, and work for a GPU is arranged as far as a test on a CPU can show.

Tests that need a CUDA device have the mark `gpu` and are skipped on other machines.
"""

import threading
import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mcdropout as mcd
from mcdropout.compute import devices, generators, transfers
from mcdropout.compute.devices import as_devices, chunk_bytes, for_float64
from mcdropout.compute.streams import OwnStream
from mcdropout.compute.threads import DeviceThreads, Workers
from mcdropout.compute.transfers import pack, to_device, to_host_async, unpack
from mcdropout.engine.fold import FoldedEngine, FoldedMode
from mcdropout.engine.loop import LoopEngine
from mcdropout.sampling.draw import _drawn
from mcdropout.sampling.model import network_of, sampler_for
from mcdropout.sampling.options import ModelOptions, SamplingOptions, SiteOptions
from mcdropout.sampling.results import Batch
from mcdropout.sites.replica import replicate

N, LABELS, DRAWS = 11, 5, 6
MASKS = ("shared", "per_input")


class Net(nn.Module):
    """Convolution, batch norm, dropout of elements before a pool, and dropout of channels (rate 0.3) beside a skip."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.conv, self.norm, self.head = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Linear(6 * 9, LABELS)
        self.drop, self.channels = nn.Dropout(0.25), nn.Dropout2d(0.3)

    def forward(self, x):
        h = F.max_pool2d(self.drop(F.relu(self.norm(self.conv(x)))), 2)
        return self.head((h + self.channels(h)).flatten(1))


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.fixture
def x():
    return numbers(N, 2, 8, 8)


def predict(model, x, **options: Any) -> Any:
    settings: dict[str, Any] = {"outputs": "logits", "seed": 3, "progress": False} | options
    return mcd.mc_predict(model, x, DRAWS, **settings)


def assert_same(actual, expected, atol=1e-5):
    """Equal up to the order of float32 sums, which depends on the sizes of chunks and on the number of threads."""
    for name in ("predicted", "n_samples"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), err_msg=name)
    for name in ("samples", "mean", "variance", "lower", "mutual_information"):
        if getattr(actual, name) is not None or getattr(expected, name) is not None:
            np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), atol=atol, err_msg=name)


# ---- several devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("options", [{}, {"tolerance": 0.05}, {"keep_samples": False}, {"ids": range(50, 50 + N)}])
def test_several_devices_give_the_numbers_of_one(x, masks, options):
    of_one_device = predict(Net(), x, batch_size=2, masks=masks, **options)
    for n_devices in (2, 3):
        prediction = predict(Net(), x, batch_size=2, masks=masks, device=["cpu"] * n_devices, **options)
        assert prediction.device == ", ".join(["cpu"] * n_devices)
        assert_same(prediction, of_one_device)


def test_streams_samplers_and_point_predictions_accept_several_devices(x):
    of_one_device = predict(Net(), x)
    calling_thread = threading.get_ident()

    def batches():
        for start in range(0, N, 3):
            # R requires that its iterators run in the thread of the caller
            assert threading.get_ident() == calling_thread
            yield torch.from_numpy(x[start : start + 3])

    of_a_stream = predict(Net(), batches(), device=("cpu", "cpu"))
    np.testing.assert_allclose(of_a_stream.samples, of_one_device.samples, atol=1e-5)  # another order of float32 sums
    sampler = mcd.mc_sampler(Net(), x[:2], DRAWS, outputs="logits", seed=3, device=["cpu", "cpu"])
    for _ in range(2):
        np.testing.assert_allclose(sampler(x).mean, of_one_device.mean, atol=1e-5)
    point = mcd.mc_predict_point(Net(), x, outputs="logits", device=["cpu", "cpu"], progress=False)
    np.testing.assert_array_equal(point, mcd.mc_predict_point(Net(), x, outputs="logits", progress=False))


def test_progress_is_reported_from_the_callers_thread(x):
    reports = []

    def report(n_done, *_):
        reports.append((n_done, threading.get_ident()))

    predict(Net(), x, batch_size=2, device=["cpu", "cpu"], progress=report)
    assert [n_done for n_done, _ in reports] == [2, 4, 6, 8, 10, 11]
    assert {thread for _, thread in reports} == {threading.get_ident()}


def test_an_error_on_one_of_several_devices_is_raised_to_the_caller(x):
    class Fails(Net):
        def forward(self, x):
            if bool((x > 90).any()):
                raise KeyError("the last input fails")
            return super().forward(x)

    x[-1, 0, 0, 0] = 99
    n_threads = threading.active_count()
    with pytest.raises(KeyError, match="the last input fails"):
        predict(Fails(), x, batch_size=2, device=["cpu", "cpu"])
    assert threading.active_count() == n_threads
    x[-1] = 0
    assert len(predict(Fails(), x, batch_size=2, device=["cpu", "cpu"])) == N


def test_a_model_with_hooks_stays_on_the_first_device(x):
    """Hooks of the user may share data, so no other thread runs at the same time."""
    model, threads = Net(), []
    model.head.register_forward_hook(lambda *_: threads.append(threading.get_ident()))
    assert predict(model, x, batch_size=2, device=["cpu", "cpu"]).device == "cpu"
    assert set(threads) == {threading.get_ident()}


@pytest.mark.parametrize(
    ("device", "text"),
    [
        ([], '`device` must be "auto", "cpu", "cuda", "cuda:1" or the like; got [].'),
        (["cpu", "gpu"], '`device` must be "auto", "cpu", "cuda", "cuda:1" or the like; got "gpu".'),
        (["cpu", None], '`device` must be "auto", "cpu", "cuda", "cuda:1" or the like; got None.'),
        (["cpu", "cuda:7"], '`device` "cuda:7" is not available here; use "cpu" or "auto".'),
        ("meta", '`device` "meta" is not available here; use "cpu" or "auto".'),
    ],
)
def test_a_device_that_is_not_available_is_refused(x, device, text):
    for call in (predict, lambda *args, **options: mcd.mc_sampler(*args, outputs="logits", **options)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
            call(Net(), x, device=device)
        assert str(caught.value) == text


def test_one_device_may_be_given_as_a_list():
    assert as_devices("cpu") == as_devices(["cpu"]) == as_devices(torch.device("cpu")) == [torch.device("cpu")]


def test_device_threads_work_in_turn_and_keep_the_order():
    generated, n_devices = [], 3

    def items():
        for item in range(20):
            generated.append(item)
            yield item

    with DeviceThreads(n_devices) as threads:
        for n_done, (item, device_index) in enumerate(threads.in_order(lambda *args: args, items())):
            assert (item, device_index) == (n_done, n_done % n_devices)
            assert len(generated) <= n_done + 2 * n_devices  # memory has only the items in work and those that wait
    assert len(generated) == 20


@pytest.mark.parametrize("n_threads", [1, 2])
def test_device_threads_compute_with_as_many_threads_as_the_caller(n_threads):
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def openmp_threads(*_):
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"}

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        of_the_caller = openmp_threads()
        with DeviceThreads(2) as threads:
            assert list(threads.in_order(openmp_threads, range(2))) == [of_the_caller, of_the_caller]
    finally:
        torch.set_num_threads(before)


# ---- chunks --------------------------------------------------------------------------------------------------------


def test_chunks_are_sized_by_the_total_memory_of_a_gpu(monkeypatch):
    def set_device_module(**attributes):
        monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(**attributes))

    memory = 140 << 30
    set_device_module(get_device_properties=lambda _: SimpleNamespace(total_memory=memory))
    assert chunk_bytes(torch.device("cuda:1"), 8 << 20) == memory // 64
    set_device_module(recommended_max_memory=lambda: 32 << 30)
    assert chunk_bytes(torch.device("mps"), 8 << 20) == (32 << 30) // 64
    set_device_module()
    assert chunk_bytes(torch.device("mps"), 8 << 20) == 8 << 20
    assert chunk_bytes(torch.device("cpu"), 8 << 20) == 8 << 20


@pytest.mark.parametrize("masks", MASKS)
def test_chunks_as_large_as_on_a_gpu_give_the_same_numbers(x, masks, monkeypatch):
    expected = predict(Net(), x, masks=masks)
    monkeypatch.setattr("mcdropout.engine.chunks.chunk_bytes", lambda device, on_cpu: 2 << 30)
    np.testing.assert_allclose(predict(Net(), x, masks=masks).samples, expected.samples, atol=1e-5)


# ---- running out of memory -----------------------------------------------------------------------------------------


class PassMemory:
    """Stands for the tensors of a pass. Those of a failed pass must be released before the next pass starts."""

    alive = 0

    def __init__(self):
        PassMemory.alive += 1

    def __del__(self):
        PassMemory.alive -= 1


def cuda_error():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def limit_memory(max_rows, error, monkeypatch):
    """Make passes of more rows run out of memory."""
    errors = []  # Python 3.13 keeps many errors after they were handled; this list keeps all
    run_folded = FoldedEngine.run

    def run(self, replica, inputs, masks):
        assert PassMemory.alive == 0, "an error refers to the memory of the pass that failed"
        memory = PassMemory()
        if len(inputs) * len(next(iter(masks.values()))) > max_rows:
            errors.append(error())
            raise errors[-1]
        del memory
        return run_folded(self, replica, inputs, masks)

    monkeypatch.setattr(FoldedEngine, "run", run)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("error", [cuda_error, MemoryError], ids=["cuda", "host"])
def test_running_out_of_memory_halves_the_chunks(x, masks, error, monkeypatch):
    expected = predict(Net(), x, masks=masks)
    emptied = []
    monkeypatch.setattr("mcdropout.engine.plan.empty_cache", emptied.append)
    limit_memory(6, error, monkeypatch)
    prediction = predict(Net(), x, masks=masks)
    assert prediction.engine == "folded"
    assert emptied[0] == torch.device("cpu")
    np.testing.assert_allclose(prediction.samples, expected.samples, atol=1e-5)


def test_an_engine_that_needs_too_much_memory_is_replaced(x, monkeypatch):
    expected = predict(Net(), x)
    limit_memory(0, cuda_error, monkeypatch)
    prediction = predict(Net(), x)
    assert prediction.engine == "loop"
    assert prediction.engine_reason.startswith("folded failed: CUDA out of memory")
    np.testing.assert_allclose(prediction.samples, expected.samples, atol=1e-5)


def test_too_little_memory_for_one_draw_of_one_input_has_its_own_error(x, monkeypatch):
    def fail(*_):
        raise cuda_error()

    monkeypatch.setattr(LoopEngine, "run", fail)
    message = (
        r"`model` needs more memory for one draw of one input than there is: it asked for 2\.0 GiB, and .* were free; "
        r"use a smaller network\."
    )
    with pytest.raises(mcd.OutOfMemory, match=message):
        predict(Net(), x)


def test_the_cache_of_a_device_is_emptied(monkeypatch):
    emptied = []
    monkeypatch.setattr(
        torch, "get_device_module", lambda device: SimpleNamespace(empty_cache=lambda: emptied.append(device))
    )
    for name in ("cpu", "cuda:1", "mps"):
        devices.empty_cache(torch.device(name))
    assert [device.type for device in emptied] == ["cuda", "mps"]


# ---- copies --------------------------------------------------------------------------------------------------------


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


# ---- torch's own generators ----------------------------------------------------------------------------------------


def test_the_generator_of_a_device_is_seeded_and_restored(monkeypatch):
    """A generator of the host replaces that of the device, because torch creates no others."""
    device_generator, calls = torch.Generator().manual_seed(5), []

    def get_state(*args):
        calls.append(args)
        return device_generator.get_state()

    def set_state(state, *args):
        calls.append(args)
        device_generator.set_state(state)

    device_module = SimpleNamespace(
        get_rng_state=get_state, set_rng_state=set_state, manual_seed=device_generator.manual_seed
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _: device_module)
    monkeypatch.setattr(generators, "current_device", lambda _: nullcontext())
    before = device_generator.get_state(), torch.get_rng_state()
    expected = [torch.rand(3, generator=torch.Generator().manual_seed(8)) for _ in range(2)]
    for name, device_arguments in (("cuda:1", (torch.device("cuda:1"),)), ("mps", ())):
        stream, device = OwnStream(8), torch.device(name)
        with stream.lent(device):
            first_two = torch.rand(2, generator=device_generator), torch.rand(2)
        assert stream.has_drawn
        with stream.lent(device):
            third = torch.rand(1, generator=device_generator), torch.rand(1)
        assert all(map(torch.equal, map(torch.cat, zip(first_two, third, strict=True)), expected))
        assert torch.equal(device_generator.get_state(), before[0])
        assert torch.equal(torch.get_rng_state(), before[1])
        assert set(calls) == {device_arguments}
        calls.clear()


# ---- no tensor of the host in a pass on another device -------------------------------------------------------------


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("make", [Net, lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.25, batch_first=True)])
def test_passes_and_masks_are_on_the_device(masks, make, monkeypatch):
    """Torch's device "meta" has no numbers; operations that mix its tensors with tensors of the host fail."""
    meta = torch.device("meta")
    model = make().eval()
    x = numbers(3, 2, 8, 8)[:, 0] if isinstance(model, nn.TransformerEncoderLayer) else numbers(3, 2, 8, 8)
    network = network_of(model, ModelOptions("values", device="cpu"))
    request = SamplingOptions.checked(DRAWS, 128, 0.95, masks, None, True, 1, 3)
    monkeypatch.setattr(network.outputs, "check", lambda *_: None)
    passes = sampler_for(network, network.source(x), request, SiteOptions(True, False)).first.passes
    passes.device = meta
    sites = {name: site for name, site in passes.probe.sites.items() if site.rate != 0.3}  # ties at 0.3 read numbers
    kept_masks = passes.masks(range(DRAWS), np.arange(3), frozenset(sites))
    assert {mask.device for mask in kept_masks.values()} == {meta}
    replica = replicate(model, meta)
    replica.device = torch.device("cpu")  # the device of its autocast: "meta" has no autocast
    inputs = network.source(x).head(3).each_tensor(lambda tensor: tensor.to(meta))
    with replica.predicting(), FoldedMode(replica, sites, kept_masks, 3, fused={}):  # fused only on a CPU
        out = replica.run(inputs)
    assert (out.device, len(out)) == (meta, 3 * DRAWS)


# ---- on a GPU ------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("engine", ["folded", "loop"])
def test_a_gpu_gives_the_numbers_of_the_cpu(x, masks, engine, only_engine):
    only_engine(engine)
    cpu = predict(Net(), x, masks=masks, device="cpu")
    for batch_size in (2, 128):
        gpu = predict(Net(), x, masks=masks, device="cuda", batch_size=batch_size)
        assert gpu.engine == engine
        # float32 convolutions may use TF32 (10 bits) if the user's settings allow it; the defaults of torch do
        np.testing.assert_allclose(gpu.samples, cpu.samples, atol=5e-3)
        assert np.abs(gpu.samples - cpu.samples).mean() < 1e-3


@pytest.mark.gpu
def test_tolerance_and_streams_on_a_gpu(x):
    for options in ({"tolerance": 0.05}, {"keep_samples": False}, {"precision": "bfloat16"}):
        gpu = predict(Net(), iter(torch.from_numpy(x).split(3)), device="cuda", **options)
        np.testing.assert_allclose(gpu.mean, predict(Net(), x, device="cpu", **options).mean, atol=3e-2)


@pytest.mark.gpu
def test_two_runs_on_a_gpu_agree_to_the_bit(x):
    first, second = predict(Net(), x, device="cuda"), predict(Net(), x, device="cuda")
    for name in ("predicted", "samples", "mean", "variance", "lower", "mutual_information"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@pytest.mark.gpu
def test_copies_to_and_from_a_gpu_are_complete():
    cuda = torch.device("cuda")
    tensors = [torch.randn(1000, 100, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    pending = []
    for tensor in tensors:
        copy = to_device(tensor, cuda)
        pending.append(to_host_async({"twice": copy * 2, "sum": copy.double().sum(dim=1), "sign": copy > 0}))
    for tensor, result_of in zip(tensors, pending, strict=True):
        arrays = result_of()
        np.testing.assert_array_equal(arrays["twice"], (tensor * 2).numpy())
        np.testing.assert_allclose(arrays["sum"], tensor.double().sum(dim=1).numpy(), atol=1e-10)
        np.testing.assert_array_equal(arrays["sign"], (tensor > 0).numpy())


@pytest.mark.gpu
def test_running_out_of_memory_on_a_gpu_halves_the_chunks(x, monkeypatch):
    expected = predict(Net(), x, device="cuda")
    limit_memory(6, cuda_error, monkeypatch)
    np.testing.assert_allclose(predict(Net(), x, device="cuda").samples, expected.samples, atol=5e-3)


@pytest.mark.gpu
def test_predicting_does_not_change_the_settings_of_a_gpu(x):
    def settings():
        backends = torch.backends
        return (
            *(backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark),
            *(backends.cudnn.deterministic, torch.get_float32_matmul_precision(), torch.cuda.current_device()),
            *(torch.cuda.current_stream(), torch.cuda.get_rng_state().tolist(), torch.get_rng_state().tolist()),
        )

    model, before = Net(), settings()
    predict(model, x, device="cuda")
    assert settings() == before
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.gpu
def test_random_numbers_that_a_model_draws_on_a_gpu_are_keyed(x):
    class Noisy(Net):
        def forward(self, x):
            return super().forward(x + torch.randn(x.shape, device=x.device))

    before = torch.cuda.get_rng_state()
    gpu = predict(Noisy(), x, device="cuda")
    np.testing.assert_allclose(predict(Noisy(), x, device="cpu").samples, gpu.samples, atol=1e-4)  # float32 sums
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.gpu
def test_several_gpus_give_the_numbers_of_one(x):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    of_one_gpu = predict(Net(), x, batch_size=2, device="cuda:0")
    for device in (["cuda:0", "cuda:1"], "cuda:1"):  # TF32, as above
        assert_same(predict(Net(), x, batch_size=2, device=device), of_one_gpu, atol=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("outputs", ["values", "logits"])
def test_one_input_on_a_gpu(x, outputs):
    model = Net()
    gpu, cpu = (predict(model, x[:1], outputs=outputs, device=device) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(gpu.samples, cpu.samples, atol=5e-3)  # TF32, as above
    point = mcd.mc_predict_point(model, x[:1], outputs=outputs, device="cuda")
    assert len(point) == 1


class Recurrent(nn.Module):
    def __init__(self, make, **options):
        super().__init__()
        torch.manual_seed(0)
        self.layers = make(3, 8, num_layers=3, dropout=0.3, batch_first=True, **options)
        self.last = nn.LazyLinear(2)
        self.last(self.layers(torch.zeros(1, 4, 3))[0])

    def forward(self, x):
        return self.last(self.layers(x)[0][:, -1])


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # of torch 2.11 on a CPU
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (nn.LSTM, {}),
        (nn.LSTM, {"proj_size": 5}),
        (nn.GRU, {"bidirectional": True}),
        (nn.RNN, {"bias": False}),
        (nn.RNN, {"nonlinearity": "relu"}),
    ],
)
def test_recurrent_layers_on_a_gpu_warn_of_nothing_and_give_the_numbers_of_the_cpu(make, options):
    model, x = Recurrent(make, **options), np.random.default_rng(0).normal(size=(7, 4, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpu = predict(model, x, outputs="values", device="cuda")
    cpu = predict(model, x, outputs="values", device="cpu")
    np.testing.assert_allclose(gpu.samples, cpu.samples, atol=1e-3)  # cuDNN uses TF32 here too


class Lookup(nn.Module):
    def __init__(self, look_up):
        super().__init__()
        self.embed, self.drop, self.last = nn.Embedding(20, 6), nn.Dropout(0.5), nn.Linear(6, 5)
        self.look_up = look_up

    def forward(self, codes):
        return self.last(self.drop(self.look_up(self.embed, codes).mean(dim=1)))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "look_up",
    [
        lambda embed, codes: embed(codes),
        lambda embed, codes: embed.weight[codes],
        lambda embed, codes: embed.weight.index_select(0, codes.flatten()).unflatten(0, codes.shape),
    ],
    ids=["embedding", "indexing", "index_select"],
)
def test_codes_out_of_range_do_not_disable_a_gpu(x, look_up):
    codes = np.arange(33).reshape(11, 3) % 20
    model = Lookup(look_up)
    expected = predict(model, codes, device="cuda")
    for row in (0, 9):
        wrong = codes.copy()
        wrong[row, 1] = 20
        for batch_size in (2, 128):
            with pytest.raises(ValueError, match=f"whole numbers .* got 20 in input number {row + 1}"):
                predict(model, wrong, device="cuda", batch_size=batch_size)
        with pytest.raises(ValueError, match="whole numbers .* got 20"):
            mcd.mc_predict_point(model, wrong, outputs="logits", device="cuda")
    np.testing.assert_array_equal(predict(model, codes, device="cuda").samples, expected.samples)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "convnext_tiny", "efficientnet_b0"])
def test_networks_of_many_convolutions_keep_their_engine_on_a_gpu(torchvision, name):
    torch.manual_seed(0)
    options = {"drop_rate": 0.3} if name == "densenet121" else {}
    model = getattr(torchvision.models, name)(num_classes=5, **options)
    if name == "resnet18":
        model.fc = nn.Sequential(nn.Dropout(0.3), model.fc)
    x = torch.rand(5, 3, 64, 64)
    options: dict[str, Any] = {"outputs": "values", "seed": 1, "progress": False}
    gpu, cpu = (mcd.mc_predict(model.eval(), x, 4, device=device, **options) for device in ("cuda", "cpu"))
    assert gpu.engine == "folded", gpu.engine_reason
    assert gpu.samples is not None
    assert cpu.samples is not None
    np.testing.assert_allclose(gpu.samples, cpu.samples, atol=2e-2 * np.abs(cpu.samples).max())  # TF32
