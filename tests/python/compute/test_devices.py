"""Devices: what must not depend on them, and what is done for a GPU's sake, as far as a CPU can show it.

Tests that need a CUDA device are marked, and skipped elsewhere.
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
from mcdropout.sampling.options import SamplingOptions, SiteOptions
from mcdropout.sampling.results import Batch
from mcdropout.sites.replica import replicate

N, LABELS, DRAWS = 11, 5, 6
MASKS = ("shared", "per_input")


class Net(nn.Module):
    """Convolution, batch norm, dropout of elements and of channels before a pool, a skip, dropout at an odd rate."""

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


def assert_same(one, other, atol=1e-5):
    """The same but for sums of float32 in another order: chunks of other sizes, other numbers of threads."""
    for name in ("predicted", "n_samples"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("samples", "mean", "variance", "lower", "mutual_information"):
        if getattr(one, name) is not None or getattr(other, name) is not None:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=atol, err_msg=name)


# ---- several devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("options", [{}, {"tolerance": 0.05}, {"keep_samples": False}, {"ids": range(50, 50 + N)}])
def test_several_devices_give_the_numbers_of_one(x, masks, options):
    one = predict(Net(), x, batch_size=2, masks=masks, **options)
    for n_devices in (2, 3):
        several = predict(Net(), x, batch_size=2, masks=masks, device=["cpu"] * n_devices, **options)
        assert several.device == ", ".join(["cpu"] * n_devices)
        assert_same(several, one)


def test_several_devices_take_streams_and_serve(x):
    one = predict(Net(), x)
    here = threading.get_ident()

    def batches():
        for start in range(0, N, 3):
            assert threading.get_ident() == here  # a caller's iterator is the caller's thread's, as R's must be
            yield torch.from_numpy(x[start : start + 3])

    streamed = predict(Net(), batches(), device=("cpu", "cpu"))
    np.testing.assert_allclose(streamed.samples, one.samples, atol=1e-5)  # float32 sums in another order
    sampler = mcd.mc_sampler(Net(), x[:2], DRAWS, outputs="logits", seed=3, device=["cpu", "cpu"])
    for _ in range(2):
        np.testing.assert_allclose(sampler(x).mean, one.mean, atol=1e-5)
    point = mcd.mc_predict_point(Net(), x, outputs="logits", device=["cpu", "cpu"], progress=False)
    np.testing.assert_array_equal(point, mcd.mc_predict_point(Net(), x, outputs="logits", progress=False))


def test_progress_is_told_from_the_callers_thread(x):
    told = []
    predict(
        Net(),
        x,
        batch_size=2,
        device=["cpu", "cpu"],
        progress=lambda *said: told.append((*said, threading.get_ident())),
    )
    assert [one[0] for one in told] == [2, 4, 6, 8, 10, 11]
    assert {one[3] for one in told} == {threading.get_ident()}


def test_an_error_on_one_of_several_devices_is_the_callers(x):
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
    """The user's hooks may share what they note, so nothing runs beside them."""
    model, seen = Net(), []
    model.head.register_forward_hook(lambda *_: seen.append(threading.get_ident()))
    assert predict(model, x, batch_size=2, device=["cpu", "cpu"]).device == "cpu"
    assert set(seen) == {threading.get_ident()}


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
def test_a_device_that_cannot_be_gets_one_sentence(x, device, text):
    for call in (predict, lambda *given, **more: mcd.mc_sampler(*given, outputs="logits", **more)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
            call(Net(), x, device=device)
        assert str(caught.value) == text


def test_one_device_may_be_named_as_several():
    assert as_devices("cpu") == as_devices(["cpu"]) == as_devices(torch.device("cpu")) == [torch.device("cpu")]


def test_lanes_take_turns_and_keep_the_order():
    asked, n_lanes = [], 3

    def given():
        for number in range(20):
            asked.append(number)
            yield number

    with DeviceThreads(n_lanes) as lanes:
        for done, (number, lane) in enumerate(lanes.in_order(lambda *both: both, given())):
            assert (number, lane) == (done, done % n_lanes)
            assert len(asked) <= done + 2 * n_lanes  # no more in memory than are worked on or wait
    assert len(asked) == 20


@pytest.mark.parametrize("n_threads", [1, 2])
def test_lanes_compute_with_as_many_threads_as_the_caller(n_threads):
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def of_openmp(*_):
        return {one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "openmp"}

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        here = of_openmp()
        with DeviceThreads(2) as lanes:
            assert list(lanes.in_order(of_openmp, range(2))) == [here, here]
    finally:
        torch.set_num_threads(before)


# ---- chunks --------------------------------------------------------------------------------------------------------


def test_chunks_are_sized_by_the_whole_memory_of_a_card(monkeypatch):
    def card(**has):
        monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(**has))

    memory = 140 << 30
    card(get_device_properties=lambda _: SimpleNamespace(total_memory=memory))
    assert chunk_bytes(torch.device("cuda:1"), 8 << 20) == memory // 64
    card(recommended_max_memory=lambda: 32 << 30)
    assert chunk_bytes(torch.device("mps"), 8 << 20) == (32 << 30) // 64
    card()
    assert chunk_bytes(torch.device("mps"), 8 << 20) == 8 << 20
    assert chunk_bytes(torch.device("cpu"), 8 << 20) == 8 << 20


@pytest.mark.parametrize("masks", MASKS)
def test_chunks_as_large_as_a_cards_change_nothing(x, masks, monkeypatch):
    usual = predict(Net(), x, masks=masks)
    monkeypatch.setattr("mcdropout.engine.chunks.chunk_bytes", lambda device, on_cpu: 2 << 30)
    np.testing.assert_allclose(predict(Net(), x, masks=masks).samples, usual.samples, atol=1e-5)


# ---- running out of memory -----------------------------------------------------------------------------------------


class Held:
    """Stands for what a failed pass had made: it must be gone before the next one starts."""

    alive = 0

    def __init__(self):
        Held.alive += 1

    def __del__(self):
        Held.alive -= 1


def cuda_error():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def scarce(most_rows, error, monkeypatch):
    """Passes of more rows than that run out of memory."""
    kept = []  # errors may outlive their handling: in Python 3.13 many do, here all
    folded = FoldedEngine.run

    def limited(self, replica, inputs, masks):
        assert Held.alive == 0, "an error holds on to the memory of the pass that failed"
        held = Held()
        if len(inputs) * len(next(iter(masks.values()))) > most_rows:
            kept.append(error())
            raise kept[-1]
        del held
        return folded(self, replica, inputs, masks)

    monkeypatch.setattr(FoldedEngine, "run", limited)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("error", [cuda_error, MemoryError], ids=["cuda", "host"])
def test_running_out_of_memory_halves_and_goes_on(x, masks, error, monkeypatch):
    usual = predict(Net(), x, masks=masks)
    given_back = []
    monkeypatch.setattr("mcdropout.engine.plan.empty_cache", given_back.append)
    scarce(6, error, monkeypatch)
    again = predict(Net(), x, masks=masks)
    assert again.engine == "folded"
    assert given_back[0] == torch.device("cpu")
    np.testing.assert_allclose(again.samples, usual.samples, atol=1e-5)


def test_an_engine_that_memory_is_too_small_for_is_passed_over(x, monkeypatch):
    usual = predict(Net(), x)
    scarce(0, cuda_error, monkeypatch)
    again = predict(Net(), x)
    assert again.engine == "loop"
    assert again.engine_reason.startswith("folded failed: CUDA out of memory")
    np.testing.assert_allclose(again.samples, usual.samples, atol=1e-5)


def test_too_little_memory_for_one_draw_of_one_input_is_said(x, monkeypatch):
    def none(*_):
        raise cuda_error()

    monkeypatch.setattr(LoopEngine, "run", none)
    with pytest.raises(mcd.OutOfMemory, match="more memory for one draw of one input than there is; use a smaller"):
        predict(Net(), x)


def test_memory_is_given_back_to_the_device(monkeypatch):
    emptied = []

    def module_of(device):
        return SimpleNamespace(empty_cache=lambda: emptied.append(device))

    monkeypatch.setattr(
        torch, "get_device_module", lambda device: SimpleNamespace(empty_cache=lambda: emptied.append(device))
    )
    for name in ("cpu", "cuda:1", "mps"):
        devices.empty_cache(torch.device(name))
    assert [one.type for one in emptied] == ["cuda", "mps"]


# ---- copies --------------------------------------------------------------------------------------------------------


def test_what_is_packed_comes_back():
    tensors = {
        "bytes": torch.tensor([True, False, True]),
        "wide": torch.arange(6, dtype=torch.float64).reshape(3, 2).T,
        "codes": torch.tensor([[3], [2**40]]),
        "a column of one number": torch.arange(6).reshape(3, 2).T[:1, :1],
        "draws": torch.arange(12, dtype=torch.float32).reshape(2, 3, 2),
    }
    found = unpack(pack(tensors), {name: (one.shape, one.dtype) for name, one in tensors.items()})
    assert found.keys() == tensors.keys()
    for name, one in tensors.items():
        assert found[name].dtype == one.numpy().dtype
        np.testing.assert_array_equal(found[name], one.numpy())


def test_inputs_travel_from_pinned_memory_beside_the_work(monkeypatch):
    """What `torch.cuda` is asked for, in which order; here the tensors stay where they are."""
    said, now = [], ["here"]

    class Stream:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            now[0] = self.name

        def __exit__(self, *_):
            now[0] = "here"

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    def copied(x, device, non_blocking=False):
        said.append(f"copied {now[0]} to {device}, waiting {not non_blocking}")
        return x.clone()

    cuda = SimpleNamespace(
        Stream=lambda _: Stream("beside"), current_stream=lambda _: Stream("here"), stream=lambda stream: stream
    )
    monkeypatch.setattr(transfers, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: (said.append("pinned"), x)[1])
    monkeypatch.setattr(torch.Tensor, "to", copied)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: said.append(f"used {stream.name}"))
    transfers._copy_stream.cache_clear()
    x = torch.arange(3.0)
    copy = to_device(x, torch.device("cuda:1"))
    transfers._copy_stream.cache_clear()
    assert said == ["pinned", "copied beside to cuda:1, waiting False", "here waits for beside", "used here"]
    assert torch.equal(copy, x)


def test_on_a_cpu_nothing_is_copied():
    x = torch.arange(3.0)
    assert to_device(x, torch.device("cpu")) is x
    assert np.shares_memory(to_host_async({"x": x})()["x"], x.numpy())
    assert for_float64(torch.device("mps")) == torch.device("cpu")


class Questions(TorchDispatchMode):
    """Notes what asks a device for numbers and would wait for all that it was given to do."""

    ASKING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name in self.ASKING:
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("outputs", ["logits", "probabilities", "values", "mean_log_variance"])
@pytest.mark.parametrize("engine", ["folded", "loop"])
def test_drawing_asks_the_device_for_nothing(x, outputs, engine, only_engine, monkeypatch):
    """So that a GPU is given the next batch while it works on this one."""
    only_engine(engine)
    for where in ("predictions.summaries", "sampling.results"):
        monkeypatch.setattr(f"mcdropout.{where}.is_on_host", lambda x: False)  # as of a GPU
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 4))
    if outputs == "probabilities":
        model.append(nn.Softmax(dim=-1))
    network = network_of(model.eval(), outputs, None, None, "float32", "cpu")
    request = SamplingOptions.checked(DRAWS, 128, 0.95, "shared", None, True, 1, 3)
    feed = network.feed(numbers(N, 3))
    sampler = sampler_for(network, feed, request, SiteOptions(True, False))
    inputs = next(feed.batches(N))

    def one_batch():
        batch = Batch(inputs, np.arange(N), 0)
        drawn = _drawn(sampler.plan(inputs), batch, inputs, request, Workers(1), lambda _: None)
        return [part.summarised(request, slice(0, N)) for part in drawn]

    one_batch()  # chooses the engine and makes the masks
    with Questions() as questions:
        one_batch()
    assert questions.asked == []
    with Questions() as questions:
        assert sampler.first.has_spread
    assert questions.asked == ["_local_scalar_dense"]  # the net catches something


# ---- torch's own generators ----------------------------------------------------------------------------------------


def test_a_devices_generator_is_lent_and_put_back(monkeypatch):
    """With a generator of the host's in the place of the device's, of which torch makes no others."""
    own, asked = torch.Generator().manual_seed(5), []

    def set_state(state, *where):
        asked.append(where)
        own.set_state(state)

    card = SimpleNamespace(
        get_rng_state=lambda *where: (asked.append(where), own.get_state())[1],
        set_rng_state=set_state,
        manual_seed=own.manual_seed,
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _: card)
    monkeypatch.setattr(generators, "current_device", lambda _: nullcontext())
    before = own.get_state(), torch.get_rng_state()
    wanted = [torch.rand(3, generator=torch.Generator().manual_seed(8)) for _ in range(2)]
    for name, where in (("cuda:1", (torch.device("cuda:1"),)), ("mps", ())):
        stream, device = OwnStream(8), torch.device(name)
        with stream.lent(device):
            first = torch.rand(2, generator=own), torch.rand(2)
        assert stream.has_drawn
        with stream.lent(device):
            rest = torch.rand(1, generator=own), torch.rand(1)
        assert all(map(torch.equal, map(torch.cat, zip(first, rest, strict=True)), wanted))
        assert torch.equal(own.get_state(), before[0])
        assert torch.equal(torch.get_rng_state(), before[1])
        assert set(asked) == {where}
        asked.clear()


# ---- nothing of the host's in a pass on another device -------------------------------------------------------------


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("make", [Net, lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.25, batch_first=True)])
def test_passes_and_masks_lie_on_the_device(masks, make, monkeypatch):
    """On torch's device without numbers: a tensor that was made on the host would not go with the others."""
    meta = torch.device("meta")
    model = make().eval()
    x = numbers(3, 2, 8, 8)[:, 0] if isinstance(model, nn.TransformerEncoderLayer) else numbers(3, 2, 8, 8)
    network = network_of(model, "values", None, None, "float32", "cpu")
    request = SamplingOptions.checked(DRAWS, 128, 0.95, masks, None, True, 1, 3)
    monkeypatch.setattr(network.outputs, "check", lambda *_: None)
    passes = sampler_for(network, network.feed(x), request, SiteOptions(True, False)).first.passes
    passes.device = meta
    sites = {name: site for name, site in passes.probe.sites.items() if site.rate != 0.3}  # its ties ask for numbers
    made = passes.masks(range(DRAWS), np.arange(3), frozenset(sites))
    assert {mask.device for mask in made.values()} == {meta}
    replica = replicate(model, meta)
    replica.device = torch.device("cpu")  # that of its autocast, of which torch has none without numbers
    inputs = network.feed(x).head(3).each_tensor(lambda one: one.to(meta))
    with replica.predicting(), FoldedMode(replica, sites, made, 3, fused={}):  # fused on a CPU alone
        out = replica.run(inputs)
    assert (out.device, len(out)) == (meta, 3 * DRAWS)


# ---- on a GPU ------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("engine", ["folded", "loop"])
def test_a_gpu_gives_the_cpus_numbers(x, masks, engine, only_engine):
    only_engine(engine)
    cpu = predict(Net(), x, masks=masks, device="cpu")
    for batch_size in (2, 128):
        gpu = predict(Net(), x, masks=masks, device="cuda", batch_size=batch_size)
        assert gpu.engine == engine
        # convolutions of float32 may be taken in TF32 (10 bits) where the user's settings say so, as torch's do
        np.testing.assert_allclose(gpu.samples, cpu.samples, atol=5e-3)
        assert np.abs(gpu.samples - cpu.samples).mean() < 1e-3


@pytest.mark.gpu
def test_tolerance_and_streams_on_a_gpu(x):
    for options in ({"tolerance": 0.05}, {"keep_samples": False}, {"precision": "bfloat16"}):
        gpu = predict(Net(), iter(torch.from_numpy(x).split(3)), device="cuda", **options)
        np.testing.assert_allclose(gpu.mean, predict(Net(), x, device="cpu", **options).mean, atol=3e-2)


@pytest.mark.gpu
def test_two_runs_on_a_gpu_agree_to_the_bit(x):
    one, again = predict(Net(), x, device="cuda"), predict(Net(), x, device="cuda")
    for name in ("predicted", "samples", "mean", "variance", "lower", "mutual_information"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name), err_msg=name)


@pytest.mark.gpu
def test_copies_to_and_from_a_gpu_arrive():
    cuda = torch.device("cuda")
    hosts = [torch.randn(1000, 100, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    waiting = []
    for host in hosts:
        there = to_device(host, cuda)
        waiting.append(to_host_async({"twice": there * 2, "sum": there.double().sum(dim=1), "sign": there > 0}))
    for host, arrived in zip(hosts, waiting, strict=True):
        found = arrived()
        np.testing.assert_array_equal(found["twice"], (host * 2).numpy())
        np.testing.assert_allclose(found["sum"], host.double().sum(dim=1).numpy(), atol=1e-10)
        np.testing.assert_array_equal(found["sign"], (host > 0).numpy())


@pytest.mark.gpu
def test_running_out_of_a_gpus_memory_goes_on(x, monkeypatch):
    usual = predict(Net(), x, device="cuda")
    scarce(6, cuda_error, monkeypatch)
    np.testing.assert_allclose(predict(Net(), x, device="cuda").samples, usual.samples, atol=5e-3)


@pytest.mark.gpu
def test_a_gpus_settings_stay_as_they_were(x):
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
    found = predict(Noisy(), x, device="cuda")
    np.testing.assert_allclose(predict(Noisy(), x, device="cpu").samples, found.samples, atol=1e-4)  # sums in float32
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.gpu
def test_several_cards_give_the_numbers_of_one(x):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    one = predict(Net(), x, batch_size=2, device="cuda:0")
    for device in (["cuda:0", "cuda:1"], "cuda:1"):  # TF32, as above
        assert_same(predict(Net(), x, batch_size=2, device=device), one, atol=5e-3)


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
def test_recurrent_layers_on_a_gpu_say_nothing_and_give_the_cpus_numbers(make, options):
    model, x = Recurrent(make, **options), np.random.default_rng(0).normal(size=(7, 4, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpu = predict(model, x, outputs="values", device="cuda")
    cpu = predict(model, x, outputs="values", device="cpu")
    np.testing.assert_allclose(gpu.samples, cpu.samples, atol=1e-3)  # cuDNN takes TF32 here too


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
def test_codes_out_of_range_do_not_end_the_work_on_a_gpu(x, look_up):
    codes = np.arange(33).reshape(11, 3) % 20
    model = Lookup(look_up)
    usual = predict(model, codes, device="cuda")
    for row in (0, 9):
        wrong = codes.copy()
        wrong[row, 1] = 20
        for batch_size in (2, 128):
            with pytest.raises(ValueError, match=f"whole numbers .* got 20 in input number {row + 1}"):
                predict(model, wrong, device="cuda", batch_size=batch_size)
        with pytest.raises(ValueError, match="whole numbers .* got 20"):
            mcd.mc_predict_point(model, wrong, outputs="logits", device="cuda")
    np.testing.assert_array_equal(predict(model, codes, device="cuda").samples, usual.samples)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "convnext_tiny", "efficientnet_b0"])
def test_networks_of_many_convolutions_keep_their_engine_on_a_gpu(torchvision, name):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=5)
    if name == "resnet18":
        model.fc = nn.Sequential(nn.Dropout(0.3), model.fc)
    x = torch.rand(5, 3, 64, 64)
    options: dict[str, Any] = {"outputs": "values", "seed": 1, "progress": False}
    gpu, cpu = (mcd.mc_predict(model.eval(), x, 4, device=device, **options) for device in ("cuda", "cpu"))
    assert gpu.engine == "folded", gpu.engine_reason
    assert gpu.samples is not None
    assert cpu.samples is not None
    np.testing.assert_allclose(gpu.samples, cpu.samples, atol=2e-2 * np.abs(cpu.samples).max())  # TF32
