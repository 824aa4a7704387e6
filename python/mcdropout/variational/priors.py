"""Priors: distributions of a layer's weights before training.

A prior is a family and its parameters. Each layer keeps the parameters as buffers. A prior has a description in JSON,
unless it contains a distribution of the user.
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
from .extra_distributions import Horseshoe, Number, StandardStudentT, listed, location_of, mixture, scale_of, several

FAMILIES: dict[str, Callable[..., Distribution]] = {
    "normal": Normal,
    "laplace": Laplace,
    "student_t": StandardStudentT,
    "cauchy": Cauchy,
    "horseshoe": Horseshoe,
    "mixture": mixture,
}

PER_COMPONENT = ("scales", "weights")  # one entry per component of a mixture, not per weight of a layer


@dataclass(frozen=True)
class Prior:
    """A prior: the distribution of a layer's weights before training.

    `mc_prior_normal()` and the other `mc_prior_...()` functions make one. Bayesian layers, the `mc_bayes_...()`
    functions and `mc_to_bayesian()` take it as `prior` or `bias_prior`.

    Attributes:
        family: "normal", "laplace", "student_t", "cauchy", "horseshoe", "mixture" or "custom".
        numbers: The parameters of the family by name, such as `loc` and `scale`: numbers, or arrays of the weights'
            shape.
        custom: For a custom family: its `torch.distributions` object.

    References:
        Fortuin (2022), Priors in Bayesian deep learning: a review, arXiv:2105.06868.

    Examples:
        >>> import mcdropout as mcd
        >>> prior = mcd.mc_prior_laplace(0, 0.1)
        >>> isinstance(prior, mcd.Prior), prior.family, prior.numbers
        (True, 'laplace', {'loc': 0.0, 'scale': 0.1})
    """

    family: str
    numbers: dict[str, Any] = field(default_factory=dict)
    custom: Distribution | None = None

    def tensors(self, shape: Sequence[int]) -> dict[str, Tensor]:
        """The parameters for weights of this shape; refuses parameters that do not broadcast to it."""
        parameters = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in self.numbers.items()}
        shapes = [tuple(value.shape) for name, value in parameters.items() if name not in PER_COMPONENT]
        if self.custom is not None:
            shapes.append(tuple(self.custom.batch_shape + self.custom.event_shape))
        for parameter_shape in shapes:
            sizes = zip(reversed(parameter_shape), reversed(tuple(shape)), strict=False)
            if len(parameter_shape) > len(shape) or any(size not in (1, n_weights) for size, n_weights in sizes):
                raise ValueError(
                    f"`prior` must be of one number for all weights, or of their shape {tuple(shape)}; "
                    f"got shape {parameter_shape}."
                )
        return parameters

    def distribution(self, tensors: Mapping[str, Tensor]) -> Distribution:
        """The distribution of the weights, from the result of `tensors()` on any device."""
        # The parameters were checked when the prior was made. torch's own checks would wait for a GPU at every step.
        return self.custom if self.custom is not None else FAMILIES[self.family](**tensors, validate_args=False)

    def centred(self, loc: Number) -> Prior:
        """The same prior around another location."""
        if self.custom is not None:
            raise ValueError("`prior` must have a location to be moved; got a distribution of your own.")
        return Prior(self.family, {**self.numbers, "loc": loc})

    def to_spec(self) -> dict[str, Any]:
        """The prior in a form for JSON."""
        if self.custom is not None:
            raise ValueError(
                "`object` has a prior that is a distribution of your own, which mc_save() cannot write to a file; save "
                "its weights with torch.save()."
            )
        return {"family": self.family, **{name: listed(value) for name, value in self.numbers.items()}}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Prior:
        """The prior that `to_spec()` described."""
        family = check_choice(spec.get("family"), "family", list(MAKERS))
        numbers = {name: np.asarray(v) if isinstance(v, list) else v for name, v in spec.items() if name != "family"}
        made = MAKERS[family](**numbers)
        return cls(family, {name: numbers[name] for name in made.numbers})  # weights are divided by their sum but once

    def __repr__(self) -> str:
        if self.custom is not None:
            return f"prior {self.custom}"
        words = ", ".join(f"{name}={value if np.ndim(value) < 1 else '...'}" for name, value in self.numbers.items())
        return f"prior {self.family}({words})"


def _located(family: str, loc: Number, scale: Number, **others: Any) -> Prior:
    """A prior of a family with a location and a scale."""
    return Prior(family, {"loc": location_of(loc), "scale": scale_of(scale), **others})


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
    return _located("normal", loc, scale)


def mc_prior_laplace(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """A Laplace prior, which shrinks weights as an L1 penalty does.

    Args:
        loc: The mean and median: one number for all weights, or an array of their shape.
        scale: The mean absolute deviation, above 0.

    Returns:
        The prior.

    Raises:
        ValueError: For a scale that is not above 0.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], prior=mcd.mc_prior_laplace(0, 0.1))
    """
    return _located("laplace", loc, scale)


def mc_prior_student_t(loc: Number = 0.0, scale: Number = 1.0, df: Number = 3.0) -> Prior:
    """A Student-t prior, which shrinks large weights less than a normal one does.

    Args:
        loc: The centre: one number for all weights, or an array of their shape.
        scale: The scale, above 0.
        df: Degrees of freedom, above 0.

    Returns:
        The prior.

    Raises:
        ValueError: For a scale or degrees of freedom that are not above 0.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], prior=mcd.mc_prior_student_t(0, 0.1))
    """
    return _located("student_t", loc, scale, df=scale_of(df, "df"))


def mc_prior_cauchy(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """A Cauchy prior, which hardly shrinks large weights.

    Args:
        loc: The median: one number for all weights, or an array of their shape.
        scale: The distance from `loc` within which half of the weights lie, above 0.

    Returns:
        The prior.

    Raises:
        ValueError: For a scale that is not above 0.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], prior=mcd.mc_prior_cauchy(0, 0.1))
    """
    return _located("cauchy", loc, scale)


def mc_prior_horseshoe(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """A horseshoe prior: normal, with a standard deviation of `scale` times a half-Cauchy number.

    Small weights are pulled to `loc`; large weights are hardly changed.

    Args:
        loc: The centre, where the density is infinite: one number for all weights, or an array of their shape.
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
    return _located("horseshoe", loc, scale)


def mc_prior_mixture(
    scales: Sequence[float] = (1.0, 0.1), weights: Sequence[float] = (0.5, 0.5), loc: Number = 0.0
) -> Prior:
    """A mixture of normal distributions around one centre.

    Args:
        scales: The standard deviations of the components, above 0.
        weights: The shares of the components, above 0; the function divides them by their sum.
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
    deviations = [check_number(scale, "scales", above=0) for scale in several(scales, "scales")]
    shares = [check_number(weight, "weights", above=0) for weight in several(weights, "weights")]
    if len(deviations) != len(shares):
        raise ValueError(f"`weights` must be as long as `scales` ({len(deviations)}); got length {len(shares)}.")
    total = sum(shares)
    return Prior(
        "mixture", {"loc": location_of(loc), "scales": deviations, "weights": [share / total for share in shares]}
    )


def mc_prior_custom(distribution: Distribution) -> Prior:
    """A prior of your own. `mc_save()` cannot write it to a file.

    Args:
        distribution: A `torch.distributions` object with `log_prob`, for one weight or of the shape of the
            weights.

    Returns:
        The prior.

    Raises:
        ValueError: For an object that is not a `torch.distributions` object.

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


MAKERS: dict[str, Callable[..., Prior]] = {
    "normal": mc_prior_normal,
    "laplace": mc_prior_laplace,
    "student_t": mc_prior_student_t,
    "cauchy": mc_prior_cauchy,
    "horseshoe": mc_prior_horseshoe,
    "mixture": mc_prior_mixture,
}


def check_prior(prior: object, name: str = "prior") -> Prior:
    """Check a prior; None becomes standard normal, and a torch distribution a custom prior."""
    if prior is None:
        return mc_prior_normal()
    if isinstance(prior, Distribution):
        return mc_prior_custom(prior)
    if not isinstance(prior, Prior):
        raise ValueError(f"`{name}` must be made by one of the mc_prior_...() functions; got {shown(prior)}.")
    return prior
