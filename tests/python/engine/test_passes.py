"""The parts of a plan: replicas for workers, masks kept between batches, an engine chosen on few inputs."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mcdropout as mcd
from mcdropout.engine.plan import MaskCache

N, DRAWS = 6, 4


class Apply(nn.Module):
    """A network whose forward is a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def slowly(x: torch.Tensor) -> torch.Tensor:
    """The same, after so long that the other worker needs a replica of its own."""
    time.sleep(0.01)
    return x


def only_in_training(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A dropout behind a flag that sampling has to set."""
    x = slowly(x)
    return F.dropout(x, 0.5) if model.training else x


def with_steady_numbers(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Random numbers: some start anew in each pass and are no site, the others make one."""
    steady = torch.rand(x.shape[-1], generator=torch.Generator().manual_seed(3))
    return slowly(x) + steady + torch.randn_like(x)


def beside_a_slope_of_evaluation(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A call that is random in training alone, beside one that is always random."""
    return F.rrelu(slowly(x), 0.1, 0.9, training=False) + torch.randn_like(x)


@pytest.mark.parametrize("function", [only_in_training, with_steady_numbers, beside_a_slope_of_evaluation])
def test_each_worker_draws_what_one_alone_draws(function, monkeypatch):
    monkeypatch.setattr("mcdropout.engine.chunks.chunk_sizes", lambda *_: (DRAWS, 1))
    model, x = Apply(function).eval(), numbers(N, 3)
    results = {}
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        result = mcd.mc_predict(model, x, DRAWS, outputs="values", seed=1, keep_samples=True, progress=False)
        results[n_threads] = result.samples
    torch.set_num_threads(1)
    assert np.ptp(results[1], axis=0).min() > 0
    np.testing.assert_array_equal(results[1], results[2])


def test_an_engine_chosen_on_one_input_is_chosen_again_for_several():
    """A row that meets the rows of all draws broadcasts, so the first pass does not see that rows must be repeated."""
    model, x = Apply(lambda model, x: x + F.dropout(x * 2, 0.5, model.training)).eval(), numbers(N, 3)
    sampler = mcd.mc_sampler(model, x[:1], DRAWS, outputs="values", seed=1)
    assert sampler(x[:1]).engine == "folded"
    several = sampler(x)
    assert several.engine == "folded", several.engine_reason
    np.testing.assert_allclose(
        several.mean, mcd.mc_predict(model, x, DRAWS, outputs="values", seed=1, progress=False).mean, atol=1e-6
    )


@pytest.mark.parametrize(("limit", "n_rounds", "at_once", "after"), [(1000, 1, 4, 4), (100, 4, 3, 2), (0, 4, 1, 0)])
def test_masks_beyond_the_limit_are_kept_for_one_round(limit, n_rounds, at_once, after, monkeypatch):
    """Four rounds of 40 bytes: all are kept where they fit, else those that fit and the one that is drawn now."""
    monkeypatch.setattr("mcdropout.engine.plan.MASK_BYTES", limit)
    passes: Any = SimpleNamespace(masks=lambda draws, ids, names: {"a": torch.zeros(10)})
    sizes: Any = SimpleNamespace(draw_parts=lambda draws: [range(i, i + 2) for i in range(0, 8, 2)])
    cache = MaskCache(passes, sizes, frozenset({"a"}), has_weights=True)
    kept = [len(cache.kept) for _ in cache.rounds(range(8))]
    assert (len(kept), max(kept), len(cache.kept)) == (n_rounds, at_once, after)
