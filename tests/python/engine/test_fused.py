"""Dropout, relu and max-pool in one go give what torch gives one after the other, to the bit."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdropout.compute.torchscript import native
from mcdropout.engine import fused, masks, randomness
from mcdropout.engine.fused import masked_max_pool, plain_kernel


def one_after_the_other(x, mask, kernel, relu):
    product = (x.relu() if relu else x) * mask
    return F.max_pool2d(product.flatten(0, 1), kernel).unflatten(0, product.shape[:2])


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)),  # draws, inputs, channels
    sides=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    piece=st.sampled_from([1, 100, 500, 1 << 19]),
    shared=st.booleans(),
    undrawn=st.booleans(),
    relu=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_piece_gives_torchs_numbers(sizes, sides, kernel, piece, shared, undrawn, relu, dtype, seed):
    draws, inputs, channels = sizes
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1 if undrawn else draws, inputs, channels, *sides, generator=generator).to(dtype)
    mask = (torch.rand(draws, 1 if shared else inputs, channels, *sides, generator=generator) < 0.7).to(dtype) / 0.7
    before = fused.PIECE_BYTES
    fused.PIECE_BYTES = piece
    try:
        result = masked_max_pool(x, mask, kernel, relu)
    finally:
        fused.PIECE_BYTES = before
    assert torch.equal(result, one_after_the_other(x, mask, kernel, relu))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.7])
def test_a_factor_on_the_maxima_is_one_on_the_masks_to_the_bit(rate, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 4, 6, 6, generator=generator).to(dtype)
    kept = (torch.rand(3, 2, 4, 6, 6, generator=generator) >= rate).to(torch.uint8)
    factor = 1 / (1 - rate)
    wanted = one_after_the_other(x, kept.to(dtype).mul_(factor), (2, 2), True)
    if dtype == torch.bfloat16:  # a mask of numbers holds the factor in 8 bits
        torch.testing.assert_close(masked_max_pool(x, kept, (2, 2), True, factor), wanted, rtol=2**-7, atol=0)
        return
    assert torch.equal(masked_max_pool(x, kept, (2, 2), True, factor), wanted)


def test_not_a_number_stays_one():
    x = torch.full((1, 1, 1, 2, 2), float("nan"))
    assert masked_max_pool(x, torch.ones(3, 1, 1, 2, 2), (2, 2)).isnan().all()


def test_without_torchscript_python_does_the_same(monkeypatch):
    x, mask = torch.randn(3, 2, 4, 6, 6), torch.rand(3, 1, 4, 6, 6)
    usual = masked_max_pool(x, mask, (2, 2), True)
    monkeypatch.setattr(fused, "native", lambda function: function)
    assert torch.equal(masked_max_pool(x, mask, (2, 2), True), usual)


@pytest.mark.parametrize(
    ("arguments", "kernel"),
    [
        ({"kernel_size": 2}, (2, 2)),
        ({"kernel_size": (2, 3), "stride": (2, 3)}, (2, 3)),
        ({"kernel_size": 3, "stride": 2}, None),
        ({"kernel_size": 2, "padding": 1}, None),
        ({"kernel_size": 2, "dilation": 2}, None),
        ({"kernel_size": 2, "ceil_mode": True}, None),
        ({"kernel_size": 2, "return_indices": True}, None),
    ],
)
def test_only_windows_side_by_side(arguments, kernel):
    assert plain_kernel(**arguments) == kernel


@pytest.mark.parametrize(
    "loop", [fused._by_pieces, masks._decide, masks._decide_by_pieces, randomness.philox_rounds, randomness._box_muller]
)
def test_loops_are_compiled(loop: Callable[..., object]) -> None:
    """A function that TorchScript cannot compile would run in Python, with the same numbers and slower."""
    assert isinstance(native(loop), torch.jit.ScriptFunction)
