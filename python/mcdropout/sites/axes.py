"""The axis of a mask that grows with the inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C._functorch import (
    CVmapInterpreterPtr,  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to ask this, and its stubs omit it
    RandomnessType,  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to ask this, and its stubs omit it
    TransformType,  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to ask this, and its stubs omit it
    peek_interpreter_stack,  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to ask this, and its stubs omit it
)

from .calls import Shape
from .site import ALL_EXPERTS, Call, Site, is_random


def n_slices_with_own_randomness() -> int | None:
    """The number of slices over which `vmap` maps the running code, if each slice must have randomness of its own."""
    interpreter = peek_interpreter_stack()
    if interpreter is None or interpreter.key() != TransformType.Vmap:
        return None
    mapping = CVmapInterpreterPtr(interpreter)
    return mapping.batchSize() if mapping.randomness() == RandomnessType.Different else None


def check_mapped(name: str, calls: list[Call | None]) -> None:
    """Refuse a call that is mapped over anything but the inputs, because a mask has no axis of slices."""
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
    """The site of a call, from the probes on one, two and three inputs."""
    calls = [None if call is None or call.x.numel() == 0 else call for call in calls]
    kind, axis = next(call.drop.kind for call in calls if call is not None), None
    try:
        if kind != "generator":
            axis = _input_axis(name, [None if call is None else call.drop.mask_shape for call in calls])
    except ValueError:
        if not is_random(next(call.drop for call in calls if call is not None)):
            raise
        kind = "generator"
    present = [call for call in calls if call is not None]  # all of them, else `_input_axis` has raised
    first, last = present[0], present[-1]
    if first.drop.kind in ("scale", "alpha") and not first.x.is_floating_point():
        raise ValueError(f"`model` has a dropout at {name} of whole numbers, which torch cannot drop; give it others.")
    outermost = True
    if axis is not None and first.drop.mask_shape[axis] > 1:
        outermost = _inputs_outermost(first, last, axis)
        if outermost is None:
            of_one, of_three = noised()
            if name in of_one and name in of_three:
                outermost = _inputs_outermost(of_one[name], of_three[name], axis)
        if outermost is None and is_random(first.drop):
            outermost = True  # made only from sizes, which usually have inputs first
        if outermost is None:
            raise ValueError(
                f"`model` has a dropout at {name} where inputs cannot be told apart: {first.x.shape[axis]} entries for "
                "each lie along one axis, and they are all the same."
            )
    return Site(
        name=name,
        operation=first.drop.operation,
        rate=first.drop.rate,
        kind="scale" if kind == "alpha" and first.drop.rate == 1 else kind,  # torch gives zeros then
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
    """The axis that has k, 2k and 3k entries for one, two and three inputs; None if no axis grows."""
    if len(set(shapes)) == 1:
        return None
    first = shapes[0]
    if first is not None and all(shape is not None and len(shape) == len(first) for shape in shapes):
        growing = [axis for axis in range(len(first)) if len({shape[axis] for shape in shapes if shape}) > 1]
        if len(growing) == 1:
            axis = growing[0]
            if all(shape and shape[axis] == n * first[axis] for n, shape in enumerate(shapes, 1)):
                return axis
    words = ", ".join("none" if shape is None else str(shape) for shape in shapes)
    raise ValueError(
        f"`model` has a dropout at {name} where inputs cannot be told apart: its shapes for one, two and three inputs "
        f"are {words}; one axis must grow with the inputs, {ALL_EXPERTS}."
    )


def _inputs_outermost(one: Call, three: Call, axis: int) -> bool | None:
    """The order of three inputs of k entries each along an axis: 1 1 2 2 3 3 (True) or 1 2 3 1 2 3 (False).

    None for a tie. The entries of the first input are known from the probe on that input alone; the order is the one in
    which they are found again among those of three inputs.
    """
    size = one.x.shape[axis]
    alone, together = one.x.double(), three.x.double()
    if_outermost = together.narrow(axis, 0, size)
    if_innermost = together.unflatten(axis, (size, 3)).select(axis + 1, 0)
    outer_difference, inner_difference = (_difference(part, alone) for part in (if_outermost, if_innermost))
    if abs(outer_difference - inner_difference) <= 1e-3 * max(outer_difference, inner_difference):
        return None
    return outer_difference < inner_difference


def _difference(a: Tensor, b: Tensor) -> float:
    """The sum of relative differences, so that large numbers weigh no more than small ones."""
    relative = (a - b).abs() / torch.maximum(a.abs(), b.abs())
    return float(relative.nan_to_num(nan=0.0).sum())  # NaN is 0 / 0, or both numbers are infinite
