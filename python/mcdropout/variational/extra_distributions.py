"""Distributions that torch lacks, and checks of the parameters that users pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal, StudentT, constraints

from ..checks import as_list, check_number, shown

Number = float | np.ndarray | Tensor  # one number for all weights, or an array of their shape

SERIES_TERMS = 30  # for u below 2, later terms of the exponential integral's series are below 1e-17 of the sum

FRACTION_LEVELS = 40  # for u from 2 on, the relative error against scipy.special.exp1 is about 1e-14

START_SCALE = 0.05  # small, so that a network learns at first as the plain network does

COPIES = 5  # arrays per parameter of a covariance in training: itself, gradient, Adam's two moments, the triangle


class Horseshoe(Distribution):
    """A normal distribution whose standard deviation is `scale` times a half-Cauchy number.

    It pulls small weights to `loc` and hardly changes large ones. The density is infinite at `loc`. Closer
    than about 1e-18 scales, the value at that distance is used.
    Reference: Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals,
    doi:10.1093/biomet/asq017.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  # pyright: ignore  (as in torch's own distributions)
    support = constraints.real  # pyright: ignore  (torch declares both as properties and sets them like this)
    has_rsample = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(torch.as_tensor(loc), torch.as_tensor(scale))
        super().__init__(self.loc.shape, validate_args=validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw with torch's global generator."""
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
    """exp(u) E1(u) for u > 0 in float64, where E1 is the exponential integral."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:  # type: ignore[override]  # torch says *args
        small = u.clamp(max=2)
        series, term = torch.zeros_like(u), torch.ones_like(u)
        for k in range(1, SERIES_TERMS + 1):
            term = term * (-small / k)
            series -= term / k
        series = small.exp() * (series - np.euler_gamma - small.log())
        large = u.clamp(min=2)
        denominator = large + 2 * FRACTION_LEVELS + 1
        for k in range(FRACTION_LEVELS, 0, -1):  # 1/(u + 1 - 1/(u + 3 - 4/(u + 5 - ...)))
            denominator = large + (2 * k - 1) - k * k / denominator
        result = torch.where(u < 2, series, 1 / denominator)
        ctx.save_for_backward(u, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # torch says *args
        u, result = ctx.saved_tensors
        return gradient * (result - 1 / u)


class StandardStudentT(StudentT):
    """A Student-t distribution without torch's inner chi-squared distribution, whose checks cannot be turned off."""

    def __init__(self, loc: Tensor, scale: Tensor, df: Tensor, validate_args: bool | None = None) -> None:
        self.df, self.loc, self.scale = torch.broadcast_tensors(df, loc, scale)
        Distribution.__init__(self, self.df.shape, validate_args=validate_args)


def mixture(loc: Tensor, scales: Tensor, weights: Tensor, validate_args: bool | None = None) -> Distribution:
    """A mixture of normal distributions around the same mean."""
    shape = (*loc.shape, len(scales))
    components = Normal(loc.unsqueeze(-1).expand(shape), scales.expand(shape), validate_args)
    return MixtureSameFamily(Categorical(weights.expand(shape), validate_args=validate_args), components, validate_args)


def _are_many(values: object) -> bool:
    return hasattr(values, "__len__") and not isinstance(values, str)


def several(values: Any, name: str) -> list[Any]:
    """One value or several, as a list that is not empty."""
    items = as_list(values)
    if not items:
        raise ValueError(f"`{name}` must hold at least one number; got none.")
    return items


def location_of(loc: Any) -> Any:
    """A location, one number or an array."""
    return _array(loc, "loc") if _are_many(loc) else check_number(loc, "loc")


def scale_of(scale: Any, name: str = "scale") -> Any:
    """A scale above 0, one number or an array."""
    if not _are_many(scale):
        return check_number(scale, name, above=0)
    values = _array(scale, name)
    if not (values > 0).all():
        raise ValueError(f"`{name}` must be above 0 for every weight; got {shown(float(values.min()))}.")
    return values


def _array(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # words, rows of several lengths, a tensor without numbers
        raise ValueError(f"`{name}` must be a number, or an array of numbers; got {shown(values)}.") from error
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must hold finite numbers only; got one that is not.")
    return array


def listed(value: Any) -> Any:
    """An array as lists, for JSON."""
    return value.tolist() if isinstance(value, np.ndarray) else value
