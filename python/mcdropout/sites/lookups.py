"""Codes that a model looks up in a table: their range, and an error that names a code out of range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_batchedtensor  # torch has no public way to ask this, and its stubs omit it

from ..data.inputs import Inputs, Path


def check_looked_up(
    ids: Tensor, ends: tuple[int, int], path: str, inputs: Inputs, paths: Callable[[], list[Path]], first: int
) -> None:
    """Raise ValueError with the first number that is out of range.

    path: that of the layer. paths: returns the paths of the inputs that `ids` are. first: position of the first of
    `inputs` among all.
    """
    lowest, highest = ends
    wrong = ((ids < lowest) | (ids > highest)).flatten().nonzero()
    if not len(wrong):
        return
    where = f"`{path}`" if path else "a table"
    value = int(ids.flatten()[wrong[0, 0]])
    per_input, remainder = divmod(ids.numel(), len(inputs))
    number = "" if remainder else f" in input number {first + int(wrong[0, 0]) // per_input + 1}"
    looked_up = paths()
    if not looked_up and len(inputs.arrays) > 1:
        raise ValueError(
            f"`model` must find whole numbers from {lowest} to {highest} in what it looks up in {where}; "
            f"got {value}{number}."
        )
    name = inputs.name(looked_up[0] if looked_up else next(iter(inputs.arrays)))
    raise ValueError(
        f"{name} must hold whole numbers from {lowest} to {highest}, which `model` looks up in {where}; "
        f"got {value}{number}."
    )


WHOLE_NUMBERS = (torch.int64, torch.int32)


def _looked_up(input: Any, weight: Tensor, *_: Any, **__: Any) -> tuple[Any, int, int]:
    return input, 0, len(weight) - 1


def _indexed(table: Tensor, index: Any) -> tuple[Any, int, int]:
    return index, -len(table) if table.ndim else 0, len(table) - 1 if table.ndim else 0


def _selected(table: Tensor, dim: int, index: Tensor) -> tuple[Any, int, int]:
    return index, 0, table.shape[dim] - 1


def _made_one_hot(tensor: Tensor, num_classes: int = -1) -> tuple[Any, int, int]:
    return (None if num_classes < 0 else tensor), 0, num_classes - 1


# functions that return the codes, the lowest and the highest code of a call
LOOKUPS: dict[Any, Callable[..., tuple[Any, int, int]]] = {
    F.embedding: _looked_up,
    F.embedding_bag: _looked_up,
    F.one_hot: _made_one_hot,
    Tensor.__getitem__: _indexed,
    torch.index_select: _selected,
    Tensor.index_select: _selected,
}


def check_on_device(ids: Any, lowest: int, highest: int) -> None:
    """Raise torch's error for codes out of range; on a GPU torch would abort all work of the process."""
    if isinstance(ids, Tensor) and ids.is_cuda and ids.dtype in WHOLE_NUMBERS and not is_batchedtensor(ids):
        if bool(((ids < lowest) | (ids > highest)).any()):
            raise IndexError("index out of range in self")


def _masks_of_heads(*_: Any, key_padding_mask: Any = None, attn_mask: Any = None, **__: Any) -> tuple[Any, ...]:
    return key_padding_mask, attn_mask


def _mask_of_scores(query: Any, key: Any, value: Any, attn_mask: Any = None, *_: Any, **__: Any) -> tuple[Any, ...]:
    return (attn_mask,)


MASKS: dict[Any, Callable[..., tuple[Any, ...]]] = {
    F.multi_head_attention_forward: _masks_of_heads,
    F.scaled_dot_product_attention: _mask_of_scores,
}
