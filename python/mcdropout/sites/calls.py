"""The description of a stochastic call, and the protocols that handlers of such calls rely on."""

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
        """What `sample` gives in each draw, (draw, ...), with torch's own generators seeded by the draw."""
        ...


class Variational(Protocol):
    """What a layer with a distribution over its weights offers."""

    n_weights: int

    def draw(self, noise: Noise) -> Tensor:
        """Its weights, (draw, weight)."""
        ...

    def split(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights, (weight,), as the tensors it works with."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """What is learnt of it."""
        ...

    def means(self) -> tuple[Tensor, Tensor | None]:
        """These tensors where nothing samples."""
        ...


@dataclass(frozen=True)
class StochasticCall:
    """One dropping of parts of a tensor."""

    operation: str
    rate: float
    active: bool  # whether torch would have sampled here
    mask_shape: Shape
    kind: str = "scale"  # what the parts become, see `KINDS`
    layer: Variational | None = None  # of kind "weights": whose they are

    @property
    def samples(self) -> bool:
        """Whether draws can differ by it."""
        return self.kind in ("weights", *NUMBERS, "generator") or self.rate > 0


# scale: 0, and the others grow by 1/(1 - rate). alpha: SELU's floor, mean and variance kept. keep: the tensor itself
# becomes the 0 or 1 of each decision.
# gaussian: each grows by a normal factor of mean 1. noise: a normal number is added, whose deviation is `rate`.
# weights: nothing is dropped; the weights of a variational layer, (weight,), are drawn whole.
# uniforms, normals: the tensor becomes numbers in [0, 1), or standard normal ones, for what the model makes of them.
# generator: torch draws, its own generator started anew in each draw. start: the same, of calls that no probe shows.
KINDS = ("scale", "alpha", "keep", "gaussian", "noise", "weights", "uniforms", "normals", "generator", "start")

NUMBERS = ("uniforms", "normals")

STOCHASTIC_DEPTH = "stochastic_depth"

ALPHA = -1.7580993408473766  # SELU's value at minus infinity, where alpha dropout sends a dropped unit


class Mode(Protocol):
    """What a handler needs of the mode that met the call."""

    def apply(self, drop: StochasticCall, x: Tensor) -> Tensor: ...

    def skip(self) -> None: ...

    def is_fixed(self) -> bool: ...

    def drew_fixed(self) -> None: ...

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor: ...

    def module(self) -> nn.Module | None: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> Any: ...


Handler = Callable[..., Any]
