"""Priors: what is believed of a layer's weights before data are seen.

A prior is a family and its numbers, which each layer holds as buffers. It describes itself in JSON, unless it holds
code of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Cauchy, Distribution, Laplace, Normal

from ..checks import check_choice, check_number, shown
from .distributions import Horseshoe, Number, StandardStudentT, listed, location_of, mixture, scale_of, several

FAMILIES: dict[str, Callable[..., Distribution]] = {
    "normal": Normal,
    "laplace": Laplace,
    "student_t": StandardStudentT,
    "cauchy": Cauchy,
    "horseshoe": Horseshoe,
    "mixture": mixture,
}

PER_COMPONENT = ("scales", "weights")  # numbers of a mixture's parts, not of the weights of a layer


@dataclass(frozen=True)
class Prior:
    """What `mc_prior_normal()` and its kin give: a family of distributions and its numbers."""

    family: str
    numbers: dict[str, Any] = field(default_factory=dict)
    custom: Distribution | None = None

    def tensors(self, shape: Sequence[int]) -> dict[str, Tensor]:
        """The numbers for weights of this shape; refuses those that are made for another."""
        found = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in self.numbers.items()}
        shapes = [tuple(value.shape) for name, value in found.items() if name not in PER_COMPONENT]
        if self.custom is not None:
            shapes.append(tuple(self.custom.batch_shape + self.custom.event_shape))
        for one in shapes:
            fits = len(one) <= len(shape)
            if not fits or any(a not in (1, b) for a, b in zip(reversed(one), reversed(tuple(shape)), strict=False)):
                raise ValueError(
                    f"`prior` must be of one number for all weights, or of their shape {tuple(shape)}; got shape {one}."
                )
        return found

    def distribution(self, tensors: Mapping[str, Tensor]) -> Distribution:
        """The distribution of the weights, from what `tensors()` gave (perhaps on another device)."""
        # checked where it was asked for; torch's own checks, at every step, would wait for a GPU
        return self.custom if self.custom is not None else FAMILIES[self.family](**tensors, validate_args=False)

    def centred(self, loc: Number) -> Prior:
        """The same prior about another location."""
        if self.custom is not None:
            raise ValueError("`prior` must have a location to be moved; got a distribution of your own.")
        return Prior(self.family, {**self.numbers, "loc": loc})

    def to_spec(self) -> dict[str, Any]:
        """The prior as JSON can hold it."""
        if self.custom is not None:
            raise ValueError(
                "`object` has a prior that is a distribution of your own, which no file of ours can hold; save its "
                "weights with torch.save()."
            )
        return {"family": self.family, **{name: listed(value) for name, value in self.numbers.items()}}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Prior:
        """What `to_spec()` was asked of."""
        return cls(
            check_choice(spec.get("family"), "family", list(FAMILIES)),
            {name: np.asarray(v) if isinstance(v, list) else v for name, v in spec.items() if name != "family"},
        )

    def __repr__(self) -> str:
        if self.custom is not None:
            return f"prior {self.custom}"
        words = ", ".join(f"{name}={value if np.ndim(value) < 1 else '...'}" for name, value in self.numbers.items())
        return f"prior {self.family}({words})"


def mc_prior_normal(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """A normal prior, which shrinks weights as an L2 penalty does.

    Args:
        loc: The mean: one number for all weights, or an array of their shape.
        scale: The standard deviation, above 0; one number or an array.

    Returns:
        The prior.

    Raises:
        ValueError: For a scale that is not above 0.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], prior=mcd.mc_prior_normal(0, 0.5))
    """
    return Prior("normal", {"loc": location_of(loc), "scale": scale_of(scale)})


def mc_prior_laplace(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """A Laplace prior, which shrinks weights as an L1 penalty does.

    Args:
        loc: The centre: one number for all weights, or an array of their shape.
        scale: The mean absolute deviation, above 0.

    Returns:
        The prior.

    Raises:
        ValueError: For a scale that is not above 0.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], prior=mcd.mc_prior_laplace(0, 0.1))
    """
    return Prior("laplace", {"loc": location_of(loc), "scale": scale_of(scale)})


def mc_prior_student_t(loc: Number = 0.0, scale: Number = 1.0, df: Number = 3.0) -> Prior:
    """A Student-t prior, which shrinks large weights less than a normal one does.

    Args:
        loc: The centre: one number for all weights, or an array of their shape.
        scale: The scale, above 0.
        df: Degrees of freedom, above 0.

    Returns:
        The prior.

    Raises:
        ValueError: For a scale that is not above 0.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], prior=mcd.mc_prior_student_t(0, 0.1))
    """
    return Prior("student_t", {"loc": location_of(loc), "scale": scale_of(scale), "df": scale_of(df, "df")})


def mc_prior_cauchy(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """A Cauchy prior, which hardly shrinks large weights.

    Args:
        loc: The centre: one number for all weights, or an array of their shape.
        scale: Half of the weights lie within it of `loc`; above 0.

    Returns:
        The prior.

    Raises:
        ValueError: For a scale that is not above 0.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], prior=mcd.mc_prior_cauchy(0, 0.1))
    """
    return Prior("cauchy", {"loc": location_of(loc), "scale": scale_of(scale)})


def mc_prior_horseshoe(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """A horseshoe prior: normal, with a standard deviation of `scale` times a half-Cauchy number.

    Small weights are pushed to `loc`, large ones are left alone.

    Args:
        loc: The centre: one number for all weights, or an array of their shape.
        scale: The scale of the half-Cauchy, above 0.

    Returns:
        The prior.

    Raises:
        ValueError: For a scale that is not above 0.

    References:
        Carvalho, Polson and Scott (2010), doi:10.1093/biomet/asq017.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], prior=mcd.mc_prior_horseshoe(0, 0.1))
    """
    return Prior("horseshoe", {"loc": location_of(loc), "scale": scale_of(scale)})


def mc_prior_mixture(
    scales: Sequence[float] = (1.0, 0.1), weights: Sequence[float] = (0.5, 0.5), loc: Number = 0.0
) -> Prior:
    """A mixture of normal distributions around one centre.

    Args:
        scales: Their standard deviations, above 0.
        weights: Their shares, above 0; they are divided by their sum.
        loc: The centre: one number for all weights, or an array of their shape.

    Returns:
        The prior.

    Raises:
        ValueError: For numbers that are not above 0.

    References:
        Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], prior=mcd.mc_prior_mixture((1.0, 0.1)))
    """
    parts = [check_number(one, "scales", above=0) for one in several(scales, "scales")]
    shares = [check_number(one, "weights", above=0) for one in several(weights, "weights")]
    if len(parts) != len(shares):
        raise ValueError(f"`weights` must be as long as `scales` ({len(parts)}); got length {len(shares)}.")
    total = sum(shares)
    return Prior("mixture", {"loc": location_of(loc), "scales": parts, "weights": [one / total for one in shares]})


def mc_prior_custom(distribution: Distribution) -> Prior:
    """A prior of your own. `mc_save()` cannot write it to a file.

    Args:
        distribution: A `torch.distributions` object, of one number or of the shape of the weights. It needs `log_prob`.

    Returns:
        The prior.

    Raises:
        TypeError: For an object without `log_prob`.

    Examples:
        >>> import mcdropout as mcd
        >>> import torch
        >>> prior = mcd.mc_prior_custom(torch.distributions.Gumbel(0.0, 1.0))
    """
    if not isinstance(distribution, Distribution):
        raise ValueError(
            f"`distribution` must be a torch.distributions object; got {shown(type(distribution).__name__)}."
        )
    return Prior("custom", {}, distribution)


def check_prior(prior: object, name: str = "prior") -> Prior:
    """A prior of ours; standard normal where none is given."""
    if prior is None:
        return mc_prior_normal()
    if isinstance(prior, Distribution):
        return mc_prior_custom(prior)
    if not isinstance(prior, Prior):
        raise ValueError(f"`{name}` must be made by mc_prior_normal() or its kin; got {shown(prior)}.")
    return prior
