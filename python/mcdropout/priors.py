"""What is believed of the weights of a variational layer before data are seen, and what is searched among afterwards.

A prior is a family and its numbers, which lie in each layer as buffers; a posterior is a family and where it starts,
its numbers being what a layer learns. Both say what they are in JSON, unless they hold what a user wrote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Cauchy,
    Distribution,
    Laplace,
    MixtureSameFamily,
    Normal,
    StudentT,
    constraints,
)

from .checks import check_choice, check_count, check_number, free_memory, shown

Number = float | np.ndarray | Tensor  # one for all weights, or one for each
MakePosterior = Callable[[Tensor, Tensor], Distribution]

SERIES_TERMS = 30  # below 2 the terms of the exponential integral's series fall under 1e-17 of its sum
FRACTION_LEVELS = 40  # from 2 on the continued fraction is exact to about 1e-14 (found against scipy.special.exp1)
START_SCALE = 0.05  # so small that a network learns at first as its plain twin does
COPIES = 5  # of a covariance's parameters while it learns: they, their gradient, Adam's two moments, the triangle


# ---- priors ----------------------------------------------------------------------------------------------------


class Horseshoe(Distribution):
    """A normal whose standard deviation is `scale` times a half-Cauchy number: small weights go to 0, large ones stay.

    The density has a pole at `loc`; within 1e-18 scales of it the value there is taken.
    Reference: Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals,
    doi:10.1093/biomet/asq017.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  # pyright: ignore  (as torch's own distributions have it)
    support = constraints.real  # pyright: ignore  (torch declares both as properties and sets them like this)
    has_rsample = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(torch.as_tensor(loc), torch.as_tensor(scale))
        super().__init__(self.loc.shape, validate_args=validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Numbers drawn with torch's global generator."""
        shape = self._extended_shape(torch.Size(sample_shape))
        local = torch.empty(shape, dtype=self.loc.dtype, device=self.loc.device).cauchy_().abs()
        return self.loc + self.scale * local * torch.randn_like(local)

    def log_prob(self, value: Tensor) -> Tensor:
        """Natural logarithm of the density: (2 pi^3)^(-1/2) exp(u) E1(u) / scale with u = z^2 / 2."""
        z = ((value - self.loc) / self.scale).double()
        u = (z.square() / 2).clamp(min=1e-36)
        log_density = _ScaledExponentialIntegral.apply(u).log() - 0.5 * math.log(2 * math.pi**3)  # pyright: ignore  (torch gives apply no type)
        return log_density.to(value.dtype) - self.scale.log()


class _ScaledExponentialIntegral(torch.autograd.Function):
    """exp(u) E1(u) for u > 0, float64; torch has none."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:  # type: ignore[override]  # torch says *args
        small = u.clamp(max=2)
        series, term = torch.zeros_like(u), torch.ones_like(u)
        for k in range(1, SERIES_TERMS + 1):
            term = term * (-small / k)
            series -= term / k
        series = small.exp() * (series - np.euler_gamma - small.log())
        large = u.clamp(min=2)
        below = large + 2 * FRACTION_LEVELS + 1
        for k in range(FRACTION_LEVELS, 0, -1):  # 1/(u + 1 - 1/(u + 3 - 4/(u + 5 - ...)))
            below = large + (2 * k - 1) - k * k / below
        result = torch.where(u < 2, series, 1 / below)
        ctx.save_for_backward(u, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # torch says *args
        u, result = ctx.saved_tensors
        return gradient * (result - 1 / u)


class _StudentT(StudentT):
    """Without the distribution that torch draws it from, and whose checks cannot be left out."""

    def __init__(self, loc: Tensor, scale: Tensor, df: Tensor, validate_args: bool | None = None) -> None:
        self.df, self.loc, self.scale = torch.broadcast_tensors(df, loc, scale)
        Distribution.__init__(self, self.df.shape, validate_args=validate_args)


def _mixture(loc: Tensor, scales: Tensor, weights: Tensor, validate_args: bool | None = None) -> Distribution:
    shape = (*loc.shape, len(scales))
    parts = Normal(loc.unsqueeze(-1).expand(shape), scales.expand(shape), validate_args)
    return MixtureSameFamily(Categorical(weights.expand(shape), validate_args=validate_args), parts, validate_args)


FAMILIES: dict[str, Callable[..., Distribution]] = {
    "normal": Normal,
    "laplace": Laplace,
    "student_t": _StudentT,
    "cauchy": Cauchy,
    "horseshoe": Horseshoe,
    "mixture": _mixture,
}
OWN = ("scales", "weights")  # numbers of a mixture's parts, not of the weights of a layer


@dataclass(frozen=True)
class Prior:
    """What `mc_prior_normal()` and its kin give: a family of distributions and its numbers."""

    family: str
    numbers: dict[str, Any] = field(default_factory=dict)
    custom: Distribution | None = None

    def tensors(self, shape: Sequence[int]) -> dict[str, Tensor]:
        """The numbers for weights of this shape; refuses those that are made for another."""
        found = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in self.numbers.items()}
        shapes = [tuple(value.shape) for name, value in found.items() if name not in OWN]
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
        return {"family": self.family, **{name: _listed(value) for name, value in self.numbers.items()}}

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
    """Weights are normal about `loc` with standard deviation `scale`: shrinks them as an L2 penalty does.

    loc, scale: one number for all weights, or an array of their shape. Raises ValueError for a scale that is not
    above 0.
    """
    return Prior("normal", {"loc": _loc(loc), "scale": _scale(scale)})


def mc_prior_laplace(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """Weights are Laplace about `loc`, with mean absolute deviation `scale`: an L1 penalty. Else as a normal prior."""
    return Prior("laplace", {"loc": _loc(loc), "scale": _scale(scale)})


def mc_prior_student_t(loc: Number = 0.0, scale: Number = 1.0, df: Number = 3.0) -> Prior:
    """Weights are Student-t with `df` degrees of freedom, above 0: large ones are less shrunk than by a normal."""
    return Prior("student_t", {"loc": _loc(loc), "scale": _scale(scale), "df": _scale(df, "df")})


def mc_prior_cauchy(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """Weights are Cauchy about `loc`; half of them lie within `scale` of it, and large ones are hardly shrunk."""
    return Prior("cauchy", {"loc": _loc(loc), "scale": _scale(scale)})


def mc_prior_horseshoe(loc: Number = 0.0, scale: Number = 1.0) -> Prior:
    """Weights are normal about `loc` with a standard deviation of `scale` times a half-Cauchy number.

    Small weights are pushed to `loc`, large ones are left alone.
    Reference: Carvalho, Polson and Scott (2010), doi:10.1093/biomet/asq017.
    """
    return Prior("horseshoe", {"loc": _loc(loc), "scale": _scale(scale)})


def mc_prior_mixture(
    scales: Sequence[float] = (1.0, 0.1), weights: Sequence[float] = (0.5, 0.5), loc: Number = 0.0
) -> Prior:
    """Weights are of several normals about one `loc`, with standard deviations `scales`, in shares `weights`.

    `weights` are above 0 and are divided by their sum.
    Reference: Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.
    """
    parts = [check_number(one, "scales", above=0) for one in _several(scales, "scales")]
    shares = [check_number(one, "weights", above=0) for one in _several(weights, "weights")]
    if len(parts) != len(shares):
        raise ValueError(f"`weights` must be as long as `scales` ({len(parts)}); got length {len(shares)}.")
    total = sum(shares)
    return Prior("mixture", {"loc": _loc(loc), "scales": parts, "weights": [one / total for one in shares]})


def mc_prior_custom(distribution: Distribution) -> Prior:
    """Weights are of a `torch.distributions` object, of one number or of their shape; it needs `log_prob`.

    Such a prior cannot be written to a file by `mc_save()`.
    """
    if not isinstance(distribution, Distribution):
        raise ValueError(
            f"`distribution` must be a torch.distributions object; got {shown(type(distribution).__name__)}."
        )
    return Prior("custom", {}, distribution)


# ---- posteriors ------------------------------------------------------------------------------------------------


POSTERIORS = ("normal", "multivariate_normal", "custom")


@dataclass(frozen=True)
class Posterior:
    """What `mc_posterior_normal()` and its kin give: a family, and where its mean and its scale start."""

    family: str
    scale: float = START_SCALE
    mean: float | None = None
    make: MakePosterior | None = None

    def n_parameters(self, n_weights: int) -> int:
        """How many numbers stand for the distribution of `n_weights` weights of a layer."""
        return n_weights + (n_weights * (n_weights + 1) // 2 if self.family == "multivariate_normal" else n_weights)

    def check_room(self, n_weights: int) -> None:
        """Refuse what memory has no room for."""
        count = self.n_parameters(n_weights)
        needed, free = COPIES * 4 * count, free_memory()
        if self.family == "multivariate_normal" and needed > free:
            raise ValueError(
                f"`posterior` with a full covariance would give {n_weights:,} weights {count:,} parameters; training "
                f"them needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free. Use mc_posterior_normal()."
            )

    def to_spec(self) -> dict[str, Any]:
        """The posterior as JSON can hold it."""
        if self.make is not None:
            raise ValueError(
                "`object` has a posterior that is a function of your own, which no file of ours can hold; save its "
                "weights with torch.save()."
            )
        return {"family": self.family, "scale": self.scale, "mean": self.mean}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Posterior:
        """What `to_spec()` was asked of."""
        family = check_choice(spec.get("family"), "family", POSTERIORS[:2])
        return cls(family, **_start(spec.get("scale"), spec.get("mean")))

    def __repr__(self) -> str:
        mean = "" if self.mean is None else f", mean={self.mean}"
        return f"posterior {self.family}(scale={self.scale}{mean})"


def mc_posterior_normal(scale: float = START_SCALE, mean: float | None = None) -> Posterior:
    """Every weight has a normal posterior of its own (mean-field): two parameters for each.

    scale: standard deviation to start from, above 0. mean: where all means start; by default as the weights of a
    plain layer do.
    Reference: Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.
    """
    return Posterior("normal", **_start(scale, mean))


def mc_posterior_multivariate_normal(scale: float = START_SCALE, mean: float | None = None) -> Posterior:
    """All weights of a layer, bias included, are normal together, with a full covariance.

    n weights have n means and n (n + 1) / 2 entries of the covariance's lower-triangular root:
    `mc_posterior_parameters()` counts them, and what would not fit into memory is refused.
    scale, mean: as in `mc_posterior_normal()`; the weights start uncorrelated.
    """
    return Posterior("multivariate_normal", **_start(scale, mean))


def mc_posterior_custom(make: MakePosterior, scale: float = START_SCALE, mean: float | None = None) -> Posterior:
    """A posterior of one's own: a function of two tensors, location and scale, to a `torch.distributions` object.

    Both tensors have the shape of the weights (and then of the biases) and are learnt; the scale is above 0. The
    object must have `rsample`, of that shape, and a finite `mean` or `mode`, which is what predicts without
    sampling. In a prediction its noise comes from a generator of its own, seeded by seed, site and draw. Such a
    posterior cannot be written to a file by `mc_save()`. scale, mean: where the tensors start.
    """
    if not callable(make):
        raise ValueError(f"`make` must be a function of location and scale; got {shown(make)}.")
    return Posterior("custom", **_start(scale, mean), make=make)


def mc_posterior_parameters(posterior: Posterior, n_weights: int) -> int:
    """How many parameters a layer of `n_weights` weights, biases included, would have under `posterior`."""
    return check_posterior(posterior).n_parameters(check_count(n_weights, "n_weights"))


# ---- checks ----------------------------------------------------------------------------------------------------


def check_prior(prior: object, name: str = "prior") -> Prior:
    """A prior of ours; standard normal where none is given."""
    if prior is None:
        return mc_prior_normal()
    if isinstance(prior, Distribution):
        return mc_prior_custom(prior)
    if not isinstance(prior, Prior):
        raise ValueError(f"`{name}` must be made by mc_prior_normal() or its kin; got {shown(prior)}.")
    return prior


def check_posterior(posterior: object) -> Posterior:
    """A posterior of ours; mean-field normal where none is given."""
    if posterior is None:
        return mc_posterior_normal()
    if not isinstance(posterior, Posterior):
        raise ValueError(f"`posterior` must be made by mc_posterior_normal() or its kin; got {shown(posterior)}.")
    return posterior


def _start(scale: object, mean: object) -> dict[str, Any]:
    return {
        "scale": check_number(scale, "scale", above=0),
        "mean": None if mean is None else check_number(mean, "mean"),
    }


def _are_many(values: object) -> bool:
    return hasattr(values, "__len__") and not isinstance(values, str)


def _several(values: Any, name: str) -> list[Any]:
    found = list(values) if _are_many(values) else [values]
    if not found:
        raise ValueError(f"`{name}` must hold at least one number; got none.")
    return found


def _loc(loc: Any) -> Any:
    return _array(loc, "loc") if _are_many(loc) else check_number(loc, "loc")


def _scale(scale: Any, name: str = "scale") -> Any:
    if not _are_many(scale):
        return check_number(scale, name, above=0)
    values = _array(scale, name)
    if not (values > 0).all():
        raise ValueError(f"`{name}` must be above 0 for every weight; got {shown(float(values.min()))}.")
    return values


def _array(values: Any, name: str) -> np.ndarray:
    try:
        found = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float32)
    except (TypeError, ValueError) as error:  # words, or rows of several lengths
        raise ValueError(f"`{name}` must be a number, or an array of numbers; got {shown(values)}.") from error
    if not np.isfinite(found).all():
        raise ValueError(f"`{name}` must hold finite numbers only; got one that is not.")
    return found


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
