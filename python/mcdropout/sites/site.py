"""A site: one place in a model where randomness enters.

The name of a site is the path of the module that calls, and the number of the call in one pass: "features.3[0]". Its
masks are keyed by its place among the sites, so renaming a module does not change them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import NoStochasticSites
from .calls import ALPHA, NUMBERS, STOCHASTIC_DEPTH, Shape, StochasticCall, Variational

T = TypeVar("T")

ALL_EXPERTS = "and in a mixture of experts each must get them all, and its result a weight"


@dataclass(frozen=True)
class Site:
    """A place where randomness enters, and the mask that a single input needs there."""

    name: str
    operation: str
    rate: float
    kind: str  # see `operations.KINDS`
    shape: Shape  # of the mask for one input
    x_shape: Shape  # of the tensor at the site, for one input
    axis: int | None  # the axis that grows with the number of inputs; None if none does
    inputs_outermost: bool  # along that axis: all of input 1, all of input 2, ...; else 1 2 3 1 2 3 ...
    order: Shape  # axes from the outermost to the innermost in memory
    dtype: torch.dtype
    place: int = 0  # its position among the sites, in the order of a pass

    layer: Variational | None = None  # the layer of the weights, for the kind "weights"

    @property
    def key(self) -> str:
        """The key of its masks: its place.

        A name would let two models with the same operations in the same order draw different masks.
        """
        return str(self.place)

    @property
    def n_elements(self) -> int:
        """The number of elements in the mask of one input."""
        return int(torch.Size(self.shape).numel())

    @property
    def channels_innermost(self) -> bool:
        """Whether the channels, axis 1, are innermost in memory."""
        n_axes = len(self.shape)
        return n_axes > 2 and self.order == (0, *range(2, n_axes), 1)

    @property
    def factor(self) -> float:
        """The factor of a part that is kept."""
        if self.kind == "scale" and self.rate < 1:
            return 1 / (1 - self.rate)
        return 1.0

    def at_rate(self, rate: float) -> Site:
        """The site with another rate, if torch scales the kept parts; the model's own decisions keep their rate."""
        return replace(self, rate=rate) if self.kind in RATED_KINDS else self


DROPPING = re.compile("dropout|drop_?path|stochastic_?depth|attention_forward", re.IGNORECASE)

RATED_KINDS = ("scale", "alpha", "gaussian")  # kinds that their rate describes completely

NORMAL_KINDS = ("gaussian", "noise", "normals")  # kinds of normal numbers

NUMBERED = "numbers "

REST = "[...]"  # the site of calls that not every pass makes, as in a model that draws until a number fits


class DropCall(Protocol):
    """A call that drops or draws, of any library."""

    @property
    def drop(self) -> StochasticCall: ...


@dataclass(frozen=True)
class Call:
    """One stochastic call as a probe records it."""

    name: str
    drop: StochasticCall
    x: Tensor
    order: Shape
    own: Tensor | None = None  # state of the model's generator, if the call draws from one
    mapped: int | None = None  # number of slices over which `torch.func.vmap` maps it, each with its own randomness


def tensors_in(value: Any) -> list[Tensor]:
    """A tensor, or all tensors in a tuple, list or mapping, at any depth."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def mask_numbers(numbers: Tensor, site: Site) -> Tensor:
    """The numbers that the site applies, from decisions (0 or 1) or from random numbers."""
    numbers = numbers.to(site.dtype)
    if site.kind in NUMBERS:
        return numbers
    if site.kind == "gaussian":
        return numbers.mul_((site.rate / (1 - site.rate)) ** 0.5).add_(1)  # the variance of dropout at this rate
    return numbers.mul_(site.rate if site.kind == "noise" else site.factor)


def dropped(x: Tensor, mask: Tensor, site: Site, n_inputs: int) -> Tensor:
    """`x` under its mask: a factor for dropout, 0 or 1 for alpha dropout, the result itself otherwise.

    The k entries of a mask for one input are repeated for each input along an axis of n_inputs * k entries.
    """
    if site.kind == "weights":
        return mask
    shape = x.shape
    if site.axis is not None and mask.shape[site.axis] not in (1, shape[site.axis]):
        if site.inputs_outermost:
            x, mask = x.unflatten(site.axis, (n_inputs, -1)), mask.unsqueeze(site.axis)
        else:
            x, mask = x.unflatten(site.axis, (-1, n_inputs)), mask.unsqueeze(site.axis + 1)
    result = applied(x, mask, site)
    return result if result.shape == shape else result.reshape(shape)


def applied(x: Tensor, mask: Tensor, site: Site) -> Tensor:
    """`x` under a mask that broadcasts to its shape."""
    if site.kind == "scale":
        return x * mask
    if site.kind == "alpha":
        keep = 1 - site.rate
        a = (keep * (1 + site.rate * ALPHA**2)) ** -0.5  # keeps mean 0 and variance 1 (Klambauer et al., 2017)
        return x * (a * mask) + (a * ALPHA * (1 - mask) - a * ALPHA * site.rate)
    return torch.zeros_like(x) + mask


def is_random(drop: StochasticCall) -> bool:
    """Whether the call gives the model random numbers, whose use is not known."""
    return drop.kind in (*NUMBERS, "generator") or (drop.kind == "keep" and drop.operation != STOCHASTIC_DEPTH)


def owner_of(name: str) -> str:
    """The path of the module that makes a call."""
    return name.rsplit("[", 1)[0]


def where_of(name: str, drop: StochasticCall) -> str:
    """The operation of a call and the module that makes it, as in "multinomial in head"."""
    return f"{drop.operation} in {owner_of(name) or 'itself'}"


def at_rate(sites: dict[str, Site], rate: float) -> dict[str, Site]:
    """The sites at another rate. Raises NoStochasticSites if no site can have another rate."""
    changed = {name: site.at_rate(rate) for name, site in sites.items()}
    if all(site is sites[name] for name, site in changed.items()):
        operations = ", ".join(dict.fromkeys(site.operation for site in sites.values()))
        raise NoStochasticSites(
            f"`model` has no dropout whose rate could be another: what is sampled there is {operations}."
        )
    return changed
