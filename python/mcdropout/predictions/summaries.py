"""Summaries of draws: mean, variance, intervals, entropies, and their Monte Carlo errors.

Every function takes draws as a tensor (draw, input, output) on any device and works in float64, so that rounding
stays far below the Monte Carlo error. Entropies are in nats, with 0 log 0 = 0. All parts of a decomposition come
from the same draws, so they add up. Draws with the inputs innermost in memory are summarised several times as fast,
because there are many inputs and few labels.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from ..compute.devices import is_on_host

TINY = 2.0**-1022  # float64's least normal number: 0 log 0 is taken as 0 log of it


def mean_and_variance(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the draws, and variance with the n - 1 divisor (R's `var`), both (input, output).

    The variance is the mean square around the mean. A difference of squares would lose all digits of a spread that is
    small beside the mean.
    """
    draws = draws.double()
    mean = draws.mean(dim=0)
    return mean, (draws - mean).square_().sum(dim=0) / (len(draws) - 1)


def quantiles(draws: Tensor, probabilities: list[float]) -> list[Tensor]:
    """Quantiles over the draws, R's type 7 (linear between order statistics), each (input, output).

    Reference: Hyndman and Fan (1996), doi:10.1080/00031305.1996.10473566.
    """
    # NumPy's sort is several times as fast as torch's on a CPU
    ordered = torch.from_numpy(np.sort(draws.numpy(), axis=0)) if draws.is_cpu else draws.sort(dim=0).values
    return [_type_7(ordered, probability) for probability in probabilities]


def _type_7(ordered: Tensor, probability: float) -> Tensor:
    place = (len(ordered) - 1) * probability
    below = math.floor(place)
    low, high = ordered[below].double(), ordered[min(below + 1, len(ordered) - 1)].double()
    return low + (place - below) * (high - low)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy over the last axis, in nats; exactly 0 where one label has all the probability."""
    return -_log(probabilities).mul_(probabilities).sum(dim=-1)


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.double().clamp(min=TINY).log_()


def entropy_parts(draws: Tensor) -> dict[str, Tensor]:
    """The predictive entropy and its two parts, each (input,), in nats, with Monte Carlo errors.

    predictive_entropy (total) = H[mean p]; expected_entropy (aleatoric) = mean H[p]; mutual_information (epistemic)
    = their difference, at most log(n_labels) and log(n_draws); rounding below 0 is shown as 0. The errors are those
    of a mean of independent terms: H[p_t] itself, the cross entropy -sum p_t log(mean p) for the total (its delta
    method), and their difference, KL(p_t || mean p), for the mutual information.

    Reference: Houlsby, Huszar, Ghahramani, Lengyel (2011), arXiv:1112.5745; Depeweg et al. (2018), arXiv:1710.07283.
    """
    draws = draws.double()
    mean = draws.mean(dim=0)
    entropies = entropy(draws)  # (draw, input)
    cross = -(draws * _log(mean)).sum(dim=-1)  # (draw, input); its mean over the draws is the entropy of the mean
    predictive, expected = entropy(mean), entropies.mean(dim=0)
    return {
        "predictive_entropy": predictive,
        "expected_entropy": expected,
        "mutual_information": (predictive - expected).clamp(min=0),
        "predictive_entropy_mcse": standard_error(cross),
        "expected_entropy_mcse": standard_error(entropies),
        "mutual_information_mcse": standard_error(cross - entropies),
    }


def standard_error(terms: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean of independent terms along the first axis."""
    return (mean_and_variance(terms)[1] / len(terms)).sqrt()


def variation_ratio(draws: Tensor) -> Tensor:
    """Share of the draws that do not vote for the most voted label, (input,): 0 to 1 - 1/n_labels.

    Reference: Freeman (1965), Elementary applied statistics; Gal (2016), Uncertainty in deep learning, section 3.3.
    """
    votes = (draws == draws.amax(dim=-1, keepdim=True)).float()  # sums are exact, and faster than of whole numbers
    if not is_on_host(draws) or float(votes.sum(dim=-1).amax()) > 1:  # of equal labels the first gets the vote
        labels = torch.arange(draws.shape[-1], device=draws.device)
        votes = (draws.argmax(dim=-1, keepdim=True) == labels).float()
    return 1 - votes.sum(dim=0).amax(dim=-1).double() / len(draws)


def summarise_classes(draws: Tensor, level: float) -> dict[str, Tensor]:
    """All summaries of class probabilities (draw, input, label); `predicted` and `second` are label codes."""
    draws_in_float64 = draws.double()
    mean, variance = mean_and_variance(draws_in_float64)
    lower, upper = quantiles(draws, [(1 - level) / 2, (1 + level) / 2])
    top = mean.topk(2, dim=-1)
    return {
        "mean": mean,
        "variance": variance,
        "lower": lower,
        "upper": upper,
        "predicted": top.indices[..., 0],
        "second": top.indices[..., 1],
        "confidence": top.values[..., 0],
        "margin": top.values[..., 0] - top.values[..., 1],
        **entropy_parts(draws_in_float64),
        "variation_ratio": variation_ratio(draws),
    }


def summarise_values(draws: Tensor, noise_variance: Tensor | None, level: float) -> dict[str, Tensor]:
    """All summaries of values (draw, input, output...); `noise_variance` has the same shape, or is None.

    The total variance is the law of total variance: aleatoric E[noise variance] + epistemic Var[mean]. `pred_lower`
    and `pred_upper` are quantiles of the equal mixture of one normal distribution per draw.

    Reference: Kendall and Gal (2017), arXiv:1703.04977.
    """
    mean, variance = mean_and_variance(draws)
    tails = [(1 - level) / 2, (1 + level) / 2]
    lower, upper = quantiles(draws, tails)
    result = {"mean": mean, "variance": variance, "lower": lower, "upper": upper}
    if noise_variance is not None:
        aleatoric = noise_variance.double().mean(dim=0)
        pred_lower, pred_upper = (mixture_quantile(draws, noise_variance, tail) for tail in tails)
        result |= {
            "aleatoric_variance": aleatoric,
            "total_variance": variance + aleatoric,
            "pred_lower": pred_lower,
            "pred_upper": pred_upper,
        }
    return result


def mixture_quantile(means: Tensor, variances: Tensor, probability: float) -> Tensor:
    """Quantile of an equal mixture of normal distributions along the first axis, by bisection.

    The mixture's quantile lies between the least and the greatest of its members' quantiles; 60 halvings bring that
    bracket down to float64's rounding.
    """
    means, scales = means.double(), variances.double().sqrt()
    of_members = means + scales * NormalDist().inv_cdf(probability)
    low, high = of_members.amin(dim=0), of_members.amax(dim=0)
    for _ in range(60):
        middle = (low + high) / 2
        below = torch.special.ndtr((middle - means) / scales).mean(dim=0) < probability
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
