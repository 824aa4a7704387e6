"""The inputs of a model: one tensor or several, by position or by name, with constants."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import shown

Part = slice | Tensor  # which inputs: a slice, or positions

Path = tuple[int | str, ...]  # where an array is: its position or keyword, and its name in a mapping that lies there

Casts = Mapping[Path, torch.dtype]  # the types that a model takes instead of those given, where they lie

Kinds = tuple[tuple[Path, torch.dtype], ...]


@dataclass(frozen=True)
class Inputs:
    """Some inputs as the model is called with them: `model(*args, **kwargs, **constants)`.

    Each of `args` and `kwargs` is a tensor, None, or a mapping of such. All tensors there have one entry for each
    input; `constants` are the same for all inputs.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    n: int
    constants: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, part: Part) -> Inputs:
        """Some of them."""
        n = len(range(*part.indices(self.n))) if isinstance(part, slice) else len(part)
        return self.changed(lambda _, value: value[part], n)

    def changed(self, change: Callable[[Path, Tensor], Tensor], n: int | None = None) -> Inputs:
        """With every tensor changed but the constants; of `n` inputs then, by default of as many."""
        args = tuple(_changed((place,), value, change) for place, value in enumerate(self.args))
        kwargs = {name: _changed((name,), value, change) for name, value in self.kwargs.items()}
        return Inputs(args, kwargs, self.n if n is None else n, self.constants)

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same, wherever the tensor is."""
        return self.changed(lambda _, value: change(value))

    @property
    def arrays(self) -> dict[Path, Tensor]:
        """The tensors that have an entry for each input, by where they are."""
        found: dict[Path, Tensor] = {}

        def note(path: Path, value: Tensor) -> Tensor:
            found[path] = value
            return value

        self.changed(note)
        return found

    @property
    def nbytes(self) -> int:
        """Size of all tensors that have an entry for each input."""
        return sum(value.nbytes for value in self.arrays.values())

    def clone(self) -> Inputs:
        """A copy that may be written to."""
        constants = _changed((), self.constants, lambda _, value: value.clone())
        return self.with_constants(constants).each_tensor(Tensor.clone)

    def with_constants(self, constants: dict[str, Any]) -> Inputs:
        """With these beside them."""
        return Inputs(self.args, self.kwargs, self.n, constants)

    def noised(self, generator: torch.Generator) -> Inputs:
        """With noise added to the floating point inputs, for each of them the same however many there are."""

        def add(_: Path, value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            noise = [torch.randn(value.shape[1:], generator=generator, dtype=torch.float32) for _ in range(self.n)]
            return value + torch.stack(noise).to(value)

        return self.changed(add)

    def cast(self, casts: Casts) -> Inputs:
        """With the types that the model takes."""
        if not casts:
            return self

        def cast(path: Path, value: Tensor) -> Tensor:
            dtype = casts.get(path)
            if dtype == torch.int64 and value.is_floating_point():
                _check_whole(value, self.name(path))
            return value if dtype is None else value.to(dtype)

        return self.changed(cast)

    @property
    def kinds(self) -> Kinds:
        """The type of each array, by which a model may take it in another way."""
        return tuple((path, value.dtype) for path, value in self.arrays.items())

    @property
    def signature(self) -> tuple[Any, ...]:
        """Shapes and types of one input, by which a model may go other ways."""
        return tuple((path, tuple(value.shape[1:]), value.dtype) for path, value in self.arrays.items())

    @property
    def shapes(self) -> str:
        """The shapes of one input in words."""
        return ", ".join(_shape_words(value) for value in self.arrays.values())

    def name(self, path: Path) -> str:
        """What messages call an array."""
        words = [one for one in path if isinstance(one, str)]
        if words or len(self.arrays) == 1:
            return f"`{words[-1]}`" if words else "`x`"
        return f"`x`'s array number {int(path[0]) + 1}"

    def cycled(self, n: int) -> Inputs:
        """The first n, starting again where there are fewer."""
        return self[torch.arange(n) % self.n]


def _changed(path: Path, value: Any, change: Callable[[Path, Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, Mapping):
        return {name: _changed((*path, name), one, change) for name, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_changed((*path, place), one, change) for place, one in enumerate(value))
    return value


def _shape_words(x: Tensor) -> str:
    sizes = ", ".join(map(str, ("input", *x.shape[1:])))
    kind = "truth values" if x.dtype == torch.bool else "numbers" if x.is_floating_point() else "whole numbers"
    if x.ndim == 1:
        return f"({sizes}) of single {kind}"
    return f"({sizes})" if x.is_floating_point() else f"({sizes}) of {kind}"


@dataclass(frozen=True)
class Takes:
    """What a model can be given by keyword."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    anything: bool = True  # besides
    positional: tuple[str, ...] = ()  # of both, those that may be given by position, in that order
    mapping: bool = False  # whether one argument may be a mapping, which then has other names

    @classmethod
    def of(cls, forward: Callable[..., Any]) -> Takes:
        """As its signature tells, if it has one."""
        try:
            parameters = inspect.signature(forward).parameters
        except (TypeError, ValueError):
            return cls()
        named = [one for one in parameters.values() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        return cls(
            tuple(one.name for one in named if one.default is one.empty),
            tuple(one.name for one in named if one.default is not one.empty),
            any(one.kind is one.VAR_KEYWORD for one in parameters.values()),
            tuple(one.name for one in named if one.kind is one.POSITIONAL_OR_KEYWORD),
        )

    def __contains__(self, name: str) -> bool:
        return self.anything or name in self.required or name in self.optional

    def is_argument(self, x: Mapping[str, Any]) -> bool:
        """Whether a mapping is one argument, not several by keyword."""
        return self.mapping and not any(name in self for name in x)

    def check(self, names: Iterable[str], argument: str) -> None:
        """Refuse names that the model does not take."""
        strange = next((name for name in names if name not in self), None)
        if strange is not None:
            known = ", ".join((*self.required, *self.optional)) or "none"
            raise ValueError(f"`{argument}` must have names that `model` takes ({known}); got {shown(strange)}.")


def _check_whole(x: Tensor, name: str) -> None:
    broken = x[x != x.trunc()]
    if len(broken):
        raise ValueError(f"{name} must hold whole numbers, as `model` takes no others there; got {broken[0]:g}.")


def as_constants(given: Any, takes: Takes, dtype: torch.dtype) -> dict[str, Any]:
    """What a model is given beside its inputs, by keyword; arrays become tensors, floating ones of the model's type.

    Raises ValueError for what is no mapping of names, and for names that the model does not take.
    """
    if given is None or (isinstance(given, list | tuple) and not given):  # as an empty list of R's comes
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"`constants` must give names to what `model` takes beside `x`; got {shown(given)}.")
    takes.check(given, "constants")
    return {name: _as_constant(value, dtype) for name, value in given.items()}


def _as_constant(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "buifc":
        value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Mapping):
        return {name: _as_constant(one, dtype) for name, one in value.items()}
    if type(value) in (tuple, list):
        parts = [_as_constant(one, dtype) for one in value]
        return parts if type(value) is list else tuple(parts)
    if isinstance(value, Tensor):
        return value.detach().to(dtype) if value.is_floating_point() else value.detach()
    return value


def check_given_once(constants: Iterable[str], inputs: Inputs, takes: Takes) -> None:
    """Refuse constants that have the name of an input, given by position or by keyword."""
    given = {*takes.positional[: len(inputs.args)], *inputs.kwargs}
    twice = next((name for name in constants if name in given), None)
    if twice is not None:
        raise ValueError(f"`constants` must not name what `x` gives; got {shown(twice)}.")


def placed_constants(constants: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """With all tensors on a device."""
    return _changed((), constants, lambda _, value: value.to(device))
