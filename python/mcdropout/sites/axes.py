"""Which axis of a mask belongs to the inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C._functorch import (
    CVmapInterpreterPtr,  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to ask this, and its stubs leave it out
    RandomnessType,  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to ask this, and its stubs leave it out
    TransformType,  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to ask this, and its stubs leave it out
    peek_interpreter_stack,  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to ask this, and its stubs leave it out
)

from .calls import Shape
from .site import ALL_EXPERTS, Call, Site, is_random


def mapped_apart() -> int | None:
    """Over how many slices the code that runs is mapped, if these are to have randomness of their own."""
    inner = peek_interpreter_stack()
    if inner is None or inner.key() != TransformType.Vmap:
        return None
    mapping = CVmapInterpreterPtr(inner)
    return mapping.batchSize() if mapping.randomness() == RandomnessType.Different else None


def check_mapped(name: str, calls: list[Call | None]) -> None:
    """Refuse what is mapped over anything but the inputs: a mask knows of no slices."""
    sizes = [None if call is None else call.mapped for call in calls]
    if sizes not in ([None] * len(sizes), [1, 2, 3]):
        raise ValueError(
            f'`model` has a dropout at {name} inside `torch.func.vmap` with `randomness="different"`, where slices '
            "that are not the inputs would want masks of their own; map over the inputs alone, or drop outside of it."
        )


def site_of(
    name: str,
    place: int,
    calls: list[Call | None],
    noised: Callable[[], tuple[dict[str, Call], dict[str, Call]]],
) -> Site:
    """A site from its calls on one, two and three inputs."""
    calls = [None if call is None or call.x.numel() == 0 else call for call in calls]
    kind, axis = next(call.drop.kind for call in calls if call is not None), None
    try:
        if kind != "generator":
            axis = _input_axis(name, [None if call is None else call.drop.mask_shape for call in calls])
    except ValueError:
        if not is_random(next(call.drop for call in calls if call is not None)):
            raise
        kind = "generator"
    made = [call for call in calls if call is not None]  # all of them, else `_input_axis` has refused
    first, last = made[0], made[-1]
    if first.drop.kind in ("scale", "alpha") and not first.x.is_floating_point():
        raise ValueError(f"`model` has a dropout at {name} of whole numbers, which torch cannot drop; give it others.")
    outermost = True
    if axis is not None and first.drop.mask_shape[axis] > 1:
        outermost = _inputs_outermost(first, last, axis)
        if outermost is None:
            one, three = noised()
            outermost = _inputs_outermost(one[name], three[name], axis) if name in one and name in three else None
        if outermost is None and is_random(first.drop):
            outermost = True  # made from sizes alone, in which inputs come first as a rule
        if outermost is None:
            raise ValueError(
                f"`model` has a dropout at {name} where inputs cannot be told apart: {first.x.shape[axis]} entries for "
                "each lie along one axis, and they are all the same."
            )
    return Site(
        name=name,
        operation=first.drop.operation,
        rate=first.drop.rate,
        kind="scale" if kind == "alpha" and first.drop.rate == 1 else kind,  # as torch: all 0
        shape=first.drop.mask_shape,
        x_shape=tuple(first.x.shape),
        axis=axis,
        inputs_outermost=outermost,
        order=last.order,
        dtype=first.x.dtype,
        place=place,
        layer=first.drop.layer,
    )


def _input_axis(name: str, shapes: list[Shape | None]) -> int | None:
    """The axis that has k, 2k and 3k entries for one, two and three inputs; None if nothing grows."""
    if len(set(shapes)) == 1:
        return None
    one = shapes[0]
    if one is not None and all(shape is not None and len(shape) == len(one) for shape in shapes):
        grown = [axis for axis in range(len(one)) if len({shape[axis] for shape in shapes if shape}) > 1]
        if len(grown) == 1 and all(shape and shape[grown[0]] == n * one[grown[0]] for n, shape in enumerate(shapes, 1)):
            return grown[0]
    words = ", ".join("none" if shape is None else str(shape) for shape in shapes)
    raise ValueError(
        f"`model` has a dropout at {name} where inputs cannot be told apart: its shapes for one, two and three inputs "
        f"are {words}; one axis must grow with the inputs, {ALL_EXPERTS}."
    )


def _inputs_outermost(one: Call, three: Call, axis: int) -> bool | None:
    """How three inputs of k entries each lie along an axis: 1 1 2 2 3 3 (True) or 1 2 3 1 2 3; None for a tie.

    Seen from where the first input's entries, known from the probe on it alone, come to lie.
    """
    size = one.x.shape[axis]
    alone, together = one.x.double(), three.x.double()
    outermost = together.narrow(axis, 0, size)
    innermost = together.unflatten(axis, (size, 3)).select(axis + 1, 0)
    first, second = (_apart(place, alone) for place in (outermost, innermost))
    if abs(first - second) <= 1e-3 * max(first, second):
        return None
    return first < second


def _apart(one: Tensor, other: Tensor) -> float:
    """How far numbers lie apart, each by its own size: large ones say no more than small ones."""
    gap = (one - other).abs() / torch.maximum(one.abs(), other.abs())
    return float(gap.nan_to_num(nan=0.0).sum())  # 0 / 0, and where both are infinite
