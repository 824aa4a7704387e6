"""The description of a stochastic call, and the protocols that handlers of such calls use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Noise(Protocol):
    """The keyed noise of some draws of one site."""

    def normals(self, n: int) -> Tensor:
        """Standard normal numbers, (draw, n)."""
        ...

    def each(self, sample: Callable[[], Tensor]) -> Tensor:
        """The results of `sample` in each draw, (draw, ...), with torch's global generators seeded by the draw."""
        ...


class Variational(Protocol):
    """A layer with a distribution over its weights."""

    n_weights: int

    def draw(self, noise: Noise) -> Tensor:
        """The weights of some draws, (draw, weight)."""
        ...

    def split(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights, (weight,), as the tensors that the layer computes with."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """The parameters that are trained."""
        ...

    def means(self) -> tuple[Tensor, Tensor | None]:
        """The tensors that the layer computes with outside of sampling."""
        ...


@dataclass(frozen=True)
class StochasticCall:
    """One call that drops parts of a tensor or draws random numbers."""

    operation: str
    rate: float
    active: bool  # whether torch would sample in this call
    mask_shape: Shape
    kind: str = "scale"  # see `KINDS`
    layer: Variational | None = None  # the layer of the weights, for the kind "weights"

    @property
    def samples(self) -> bool:
        """Whether this call can make draws differ."""
        return self.kind in ("weights", *NUMBERS, "generator") or self.rate > 0


# scale: dropped parts become 0, the others are multiplied by 1/(1 - rate). alpha: dropped parts become SELU's limit,
# and mean and variance are kept. keep: the tensor becomes the decisions, 0 or 1.
# gaussian: each part is multiplied by a normal number of mean 1. noise: a normal number of deviation `rate` is added.
# weights: the weights of a variational layer, (weight,), are drawn.
# uniforms, normals: the tensor becomes numbers in [0, 1), or standard normal numbers, which the model uses.
# generator: torch draws, with its generator seeded anew in each draw. start: the same, for calls that no probe saw.
KINDS = ("scale", "alpha", "keep", "gaussian", "noise", "weights", "uniforms", "normals", "generator", "start")

NUMBERS = ("uniforms", "normals")

STOCHASTIC_DEPTH = "stochastic_depth"

ALPHA = -1.7580993408473766  # SELU's value at minus infinity, where alpha dropout sends a dropped unit


class Mode(Protocol):
    """The mode that intercepted a call, as its handler uses it."""

    def apply(self, drop: StochasticCall, x: Tensor) -> Tensor: ...

    def skip(self) -> None: ...

    def is_fixed(self) -> bool: ...

    def drew_fixed(self) -> None: ...

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor: ...

    def module(self) -> nn.Module | None: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> Any: ...


Handler = Callable[..., Any]
