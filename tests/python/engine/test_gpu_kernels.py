"""What the kernels of a GPU compute and how they are called; on a CPU torch's operations stand in for the kernels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mcdropout as mcd
from mcdropout.compute import gpu_kernels
from mcdropout.compute.gpu_kernels import GpuKernel, masked_maximum, packed_bits
from mcdropout.engine import fused, masks
from mcdropout.engine.fused import Convolution, Pooling
from mcdropout.engine.masks import keep_masks
from mcdropout.engine.randomness import WORD, SiteSeed, philox
from mcdropout.sites.site import Site

SIZES = [(32, 6, 5), (8, 3, 4), (3, 5, 8), (1, 1, 128), (64, 2, 2)]  # channels, height, width


def in_32_bits(words: tuple[Tensor, ...]) -> list[Tensor]:
    return [torch.where(word > 0x7FFFFFFF, word - (1 << 32), word).int() for word in words]


def philox_of(block: Tensor, draw: Tensor, low: Tensor, high: Tensor, k0: int, k1: int) -> tuple[Tensor, ...]:
    shape = torch.broadcast_shapes(block.shape, draw.shape, low.shape, high.shape)
    counter = [(part.long() & WORD).expand(shape) for part in (block, draw, low, high)]
    return philox((k0, k1), (counter[0], counter[1], counter[2], counter[3]))


class Words:
    def __call__(self, *counter: Tensor, k0: int, k1: int) -> list[Tensor]:
        return in_32_bits(philox_of(counter[0], counter[1], counter[2], counter[3], k0, k1))


def fields_reached(shift: Tensor, byte: Tensor, *, field: int, threshold: int) -> Tensor:
    assert shift.dtype == byte.dtype == torch.uint8
    return ((byte >> shift & field) >= threshold).to(torch.uint8)


def fields_reached_or_settled(
    element: Tensor, byte: Tensor, *counter: Tensor, k0: int, k1: int, threshold: int, limit: int
) -> Tensor:
    assert {part.dtype for part in (element, byte, *counter)} == {torch.int32}
    word = philox_of(element, counter[0], counter[1], counter[2], k0, k1)[0]
    return torch.where(byte == threshold, word >= limit, byte > threshold).int()


def packed_bits_of(n: int) -> Callable[..., Tensor]:
    def packed(*bits: Tensor) -> Tensor:
        assert len(bits) == n
        return torch.stack([bit << place for place, bit in enumerate(bits)]).sum(dim=0, dtype=torch.uint8)

    return packed


def masked_maximum_of(n: int, relu: bool) -> Callable[..., Tensor]:
    def maximum(packed: Tensor, bias: Tensor, *windows: Tensor, factor: float) -> Tensor:
        assert len(windows) == n
        assert {tensor.dtype for tensor in (packed, bias, *windows)} == {packed.dtype}
        kept = [(x + bias) * (packed.int() >> place & 1) for place, x in enumerate(windows)]
        best = torch.stack(torch.broadcast_tensors(*kept)).amax(dim=0)
        return (best.relu() if relu else best) * factor

    return maximum


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are taken everywhere, and torch's operations do their work."""
    for module in (masks, fused):
        monkeypatch.setattr(module, "is_worthwhile", lambda device, n_elements: True)
    monkeypatch.setattr(masks, "philox_words", Words())
    monkeypatch.setattr(masks, "fields_reached", fields_reached)
    monkeypatch.setattr(masks, "fields_reached_or_settled", fields_reached_or_settled)
    monkeypatch.setattr(fused, "packed_bits", packed_bits_of)
    monkeypatch.setattr(fused, "masked_maximum", masked_maximum_of)


def masks_of(rate: float, channels: int, n_elements: int, device: str = "cpu", n: tuple[int, int] = (3, 2)) -> Tensor:
    draws = torch.arange(5, 5 + n[0], device=device)
    ids = (1 << 40) + 7 * torch.arange(n[1], device=device)
    return keep_masks(SiteSeed(11, "per_input", "0"), rate, n_elements, draws, ids, channels)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("rate", [0.5, 0.25, 0.0625, 3 / 256, 0.1, 0.9, 1 / 3])
def test_masks_by_kernels_are_the_usual_ones(
    rate: float, sizes: tuple[int, int, int], request: pytest.FixtureRequest
) -> None:
    channels, height, width = sizes
    usual = masks_of(rate, channels, channels * height * width)
    request.getfixturevalue("with_kernels")
    assert torch.equal(masks_of(rate, channels, channels * height * width), usual)


def image_site(rate: float, shape: tuple[int, ...], dtype: torch.dtype) -> Site:
    return Site("0[0]", "dropout", rate, "scale", shape, shape, 0, True, (0, 2, 3, 1), dtype)


class Images(nn.Module):
    """A convolution, a relu or none, a dropout and a max-pool, twice."""

    def __init__(self, kernel: int | tuple[int, int], relu: bool, bias: bool, rate: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        relus = [nn.ReLU() if relu else nn.Identity() for _ in range(2)]
        self.first = nn.Sequential(nn.Conv2d(2, 8, 3, bias=bias), relus[0], nn.Dropout(rate), nn.MaxPool2d(kernel))
        self.second = nn.Sequential(nn.Conv2d(8, 16, 2, bias=bias), relus[1], nn.Dropout(0.5), nn.MaxPool2d(kernel))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).flatten(1)


def predict(model: nn.Module, x: Tensor, masks: str = "shared", **settings: Any) -> mcd.MCPrediction:
    settings = {"seed": 3, "outputs": "values", "progress": False, "workers": 1, **settings}
    return mcd.mc_predict(model, x, 5, masks=masks, **settings)


@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("kernel", [2, (1, 2), (2, 1), (3, 2), 3])
@pytest.mark.parametrize(("relu", "bias"), [(True, True), (False, True), (True, False)])
def test_pools_by_kernels_give_the_usual_numbers(
    masks: str, kernel: int | tuple[int, int], relu: bool, bias: bool, request: pytest.FixtureRequest
) -> None:
    model, x = Images(kernel, relu, bias, rate=0.3).eval(), torch.randn(7, 2, 22, 21)
    usual = predict(model, x, masks)
    request.getfixturevalue("with_kernels")
    by_kernels = predict(model, x, masks)
    assert by_kernels.engine == "folded"
    assert usual.samples is not None
    assert by_kernels.samples is not None
    torch.testing.assert_close(by_kernels.samples, usual.samples, atol=1e-6, rtol=1e-5)  # the bias is added elsewhere


def test_what_is_not_a_number_stays_so(with_kernels: None) -> None:
    x = torch.full((1, 1, 2, 2), float("nan"))
    site = image_site(0.5, (1, 1, 2, 2), torch.float32)
    pooling = Pooling(x, False, site, torch.ones(3, 1, 1, 2, 2), (2, 2), (3, 1, 1, 1), 1)
    assert pooling.computed(1, 1).isnan().all()


def test_where_torch_cannot_compile_the_operations_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As here, without a GPU: `None` is the answer, and it is asked for once."""
    kernel = packed_bits(2)
    kernel.failed = False
    assert kernel(torch.ones(2, dtype=torch.uint8), torch.ones(2, dtype=torch.uint8)) is None
    assert kernel.failed
    model, x = Images(2, True, True, rate=0.3).eval(), torch.randn(7, 2, 22, 21)
    usual = predict(model, x)
    for module in (masks, fused):
        monkeypatch.setattr(module, "is_worthwhile", lambda device, n_elements: True)
    assert torch.equal(torch.from_numpy(predict(model, x).samples), torch.from_numpy(usual.samples))


def test_a_lack_of_memory_is_no_failure_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = GpuKernel("template <typename T> T same(T x) { return x; }")

    def full() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(kernel, "_compiled", full)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        kernel(torch.ones(1))
    assert not kernel.failed


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("rate", [0.5, 0.25, 0.0625, 3 / 256, 0.1, 0.9])
def test_masks_of_kernels_on_a_gpu(rate: float, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    channels, height, width = sizes
    n_elements = channels * height * width
    monkeypatch.setattr(gpu_kernels, "LEAST_ELEMENTS", 1)
    by_kernels = masks_of(rate, channels, n_elements, "cuda", (9, 11))
    assert not gpu_kernels.philox_words.failed
    assert not gpu_kernels.fields_reached.failed
    assert not gpu_kernels.fields_reached_or_settled.failed
    assert torch.equal(by_kernels.cpu(), masks_of(rate, channels, n_elements, "cpu", (9, 11)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("kernel", [(2, 2), (1, 2), (3, 2)])
def test_pools_of_kernels_on_a_gpu(
    kernel: tuple[int, int], relu: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_kernels, "LEAST_ELEMENTS", 1)
    generator = torch.Generator("cuda").manual_seed(0)
    options: Any = {"device": "cuda", "generator": generator}
    x, weight, bias = (torch.randn(*shape, **options) for shape in ((7, 4, 9, 8), (16, 4, 2, 2), (16,)))
    x, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight))
    for draws, inputs in ((5, 1), (5, 7)):
        kept = (torch.rand(draws, inputs, 8, 7, 16, **options) < 0.75).movedim(-1, 2)
        site = image_site(0.25, (1, 16, 8, 7), dtype)
        arguments = {"input": x.to(dtype), "weight": weight.to(dtype), "bias": bias.to(dtype)}
        convolution = Convolution(arguments, (7, 16, 8, 7))
        mask = kept.to(dtype) * site.factor
        pooling = Pooling(convolution, relu, site, mask, kernel, (35, 16, 8 // kernel[0], 7 // kernel[1]), 7)
        out = F.conv2d(x.double(), weight.double(), bias.double())
        wanted = F.max_pool2d(((out.relu() if relu else out) * kept / 0.75).flatten(0, 1), kernel)
        found = pooling.computed(*wanted.shape[2:])
        assert not masked_maximum(kernel[0] * kernel[1], relu).failed
        assert found.is_contiguous(memory_format=torch.channels_last)
        # sums of 16 products of up to 10, rounded: TF32 and float16 have 10 bits, bfloat16 has 7
        torch.testing.assert_close(found.double(), wanted, atol=1e-1 if dtype == torch.bfloat16 else 1e-2, rtol=2**-7)
