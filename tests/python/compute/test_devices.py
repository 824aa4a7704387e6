"""Devices: the numbers do not depend on them. The tests need no GPU."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from image_model import DRAWS, MASKS, N, Net, assert_same, numbers, predict
from torch import nn

import mcdropout as mcd
from mcdropout.compute import devices
from mcdropout.compute.devices import as_devices, chunk_bytes
from mcdropout.compute.threads import DeviceThreads
from mcdropout.engine.fold import FoldedMode
from mcdropout.sampling.model import network_of, sampler_for
from mcdropout.sampling.options import ModelOptions, SamplingOptions, SiteOptions
from mcdropout.sites.replica import replicate


@pytest.fixture
def x():
    return numbers(N, 2, 8, 8)


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


# ---- memory --------------------------------------------------------------------------------------------------------


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


def test_the_cache_of_a_device_is_emptied(monkeypatch):
    emptied = []
    monkeypatch.setattr(
        torch, "get_device_module", lambda device: SimpleNamespace(empty_cache=lambda: emptied.append(device))
    )
    for name in ("cpu", "cuda:1", "mps"):
        devices.empty_cache(torch.device(name))
    assert [device.type for device in emptied] == ["cuda", "mps"]


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
