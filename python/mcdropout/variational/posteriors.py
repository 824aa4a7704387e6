"""Posteriors: the family of the learnt distribution of a layer's weights, and the values at the start of training.

A posterior has a description in JSON, unless it contains code of the user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from ..checks import check_choice, check_count, check_number, shown
from ..compute.memory import free_memory, in_words
from ..errors import OutOfMemory
from .extra_distributions import COPIES, START_SCALE

MakePosterior = Callable[[Tensor, Tensor], Distribution]

POSTERIORS = ("normal", "multivariate_normal", "custom")


@dataclass(frozen=True)
class Posterior:
    """A posterior: the family of the learnt distribution of a layer's weights, and the values it starts from.

    `mc_posterior_normal()`, `mc_posterior_multivariate_normal()` and `mc_posterior_custom()` make one. Bayesian layers,
    the `mc_bayes_...()` functions and `mc_to_bayesian()` take it as `posterior`.

    Attributes:
        family: "normal" (mean-field), "multivariate_normal" (full covariance) or "custom".
        scale: The standard deviation at the start; for a custom family the scale at the start.
        mean: The mean of all weights at the start. None: the weights of a plain layer.
        make: For a custom family: the function of location and scale that returns a `torch.distributions` object.

    References:
        Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.

    Examples:
        >>> import mcdropout as mcd
        >>> posterior = mcd.mc_posterior_normal(0.01)
        >>> isinstance(posterior, mcd.Posterior), posterior.family, posterior.scale
        (True, 'normal', 0.01)
    """

    family: str
    scale: float = START_SCALE
    mean: float | None = None
    make: MakePosterior | None = None

    def n_parameters(self, n_weights: int) -> int:
        """The number of parameters of the distribution of a layer with `n_weights` weights."""
        return n_weights + (n_weights * (n_weights + 1) // 2 if self.family == "multivariate_normal" else n_weights)

    def check_room(self, n_weights: int) -> None:
        """Refuse a posterior that is too large to train in the free memory."""
        count = self.n_parameters(n_weights)
        needed, free = COPIES * 4 * count, free_memory()
        if self.family == "multivariate_normal" and needed > free:
            raise OutOfMemory(
                f"`posterior` with a full covariance would give {n_weights:,} weights {count:,} parameters; training "
                f"them needs {in_words(needed)}, and {in_words(free)} are free. Use mc_posterior_normal()."
            )

    def to_spec(self) -> dict[str, Any]:
        """The posterior in a form for JSON."""
        if self.make is not None:
            raise ValueError(
                "`object` has a posterior that is a function of your own, which mc_save() cannot write to a file; save "
                "its weights with torch.save()."
            )
        return {"family": self.family, "scale": self.scale, "mean": self.mean}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Posterior:
        """The posterior that `to_spec()` described."""
        family = check_choice(spec.get("family"), "family", POSTERIORS[:2])
        return cls(family, **_start(spec.get("scale"), spec.get("mean")))

    def __repr__(self) -> str:
        mean = "" if self.mean is None else f", mean={self.mean}"
        return f"posterior {self.family}(scale={self.scale}{mean})"


def mc_posterior_normal(scale: float = START_SCALE, mean: float | None = None) -> Posterior:
    """A normal posterior for every weight (mean-field): two parameters for each.

    Args:
        scale: The standard deviation to start from, above 0.
        mean: The value that all means start from. By default the weights of a plain layer.

    Returns:
        The posterior.

    Raises:
        ValueError: For a scale that is not above 0.

    References:
        Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], posterior=mcd.mc_posterior_normal(0.01))
    """
    return Posterior("normal", **_start(scale, mean))


def mc_posterior_multivariate_normal(scale: float = START_SCALE, mean: float | None = None) -> Posterior:
    """A normal posterior of all weights of a layer together, bias included, with a full covariance.

    n weights have n means and n (n + 1) / 2 entries of the covariance's lower-triangular root. A layer that does not
    fit into memory is refused. The weights start uncorrelated.

    Args:
        scale: The standard deviation to start from, above 0.
        mean: The value that all means start from. By default the weights of a plain layer.

    Returns:
        The posterior.

    Raises:
        ValueError: For a scale that is not above 0.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_posterior_parameters(mcd.mc_posterior_multivariate_normal(), 10)
        65
    """
    return Posterior("multivariate_normal", **_start(scale, mean))


def mc_posterior_custom(make: MakePosterior, scale: float = START_SCALE, mean: float | None = None) -> Posterior:
    """A posterior of your own. `mc_save()` cannot write it to a file.

    In a prediction its noise comes from a separate generator, seeded by seed, site and draw.

    Args:
        make: A function of two tensors, location and scale, that returns a `torch.distributions` object. It is called
            once for the weights and once for the biases, with tensors of their shape. Both tensors are learnt; the
            scale is above 0. The object must have that shape and `rsample`, and a finite `mean` or `mode`, which is
            used for predictions without sampling.
        scale: The scale to start from, above 0.
        mean: The location to start from. By default the weights of a plain layer.

    Returns:
        The posterior.

    Raises:
        ValueError: For a scale that is not above 0.

    Examples:
        >>> import mcdropout as mcd
        >>> import torch
        >>> posterior = mcd.mc_posterior_custom(torch.distributions.Laplace)
    """
    if not callable(make):
        raise ValueError(f"`make` must be a function of location and scale; got {shown(make)}.")
    return Posterior("custom", **_start(scale, mean), make=make)


def mc_posterior_parameters(posterior: Posterior, n_weights: int) -> int:
    """Count the parameters of a layer under a posterior.

    Args:
        posterior: The result of one of the `mc_posterior_...()` functions.
        n_weights: The number of weights of the layer, biases included.

    Returns:
        The number of parameters.

    Raises:
        ValueError: For a number of weights that is not at least 1.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_posterior_parameters(mcd.mc_posterior_normal(), 10)
        20
    """
    return check_posterior(posterior).n_parameters(check_count(n_weights, "n_weights"))


def check_posterior(posterior: object) -> Posterior:
    """Check a posterior; None becomes mean-field normal."""
    if posterior is None:
        return mc_posterior_normal()
    if not isinstance(posterior, Posterior):
        raise ValueError(
            f"`posterior` must be made by one of the mc_posterior_...() functions; got {shown(posterior)}."
        )
    return posterior


def _start(scale: object, mean: object) -> dict[str, Any]:
    return {
        "scale": check_number(scale, "scale", above=0),
        "mean": None if mean is None else check_number(mean, "mean"),
    }
