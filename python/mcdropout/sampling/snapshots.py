"""Whether a model has changed: a record of all that its predictions depend on."""

from __future__ import annotations

from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..sites.keras.loading import is_keras
from ..variational.layer import variational_layers


class Snapshot:
    """What a prediction depends on in a model, as it is now: tensors, attributes, and what lists and mappings hold.

    Looked at by identity and by torch's counts of writes. Tensors that a replica has copies of, and weights that draws
    are made from, are compared whole: these may also have been written to behind torch's back.
    """

    def __init__(self, model: Any) -> None:
        self.empty: list[Any] = []
        self.arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self.holders: list[tuple[Any, list[Any]]] = []
        self.tensors: list[tuple[Tensor, Tensor, tuple[Any, ...], Tensor | None]] = []
        self.seen: dict[int, Any] = {}  # kept alive, so that no other comes to have their ids
        keras = is_keras(model)  # whose replicas read the user's own variables
        layers = {} if keras else variational_layers(model)
        self.copied = {id(one) for layer in layers.values() for one in layer.parameters()}
        for layer in [model, *model._flatten_layers(include_self=False)] if keras else model.modules():
            self._note(vars(layer), 1 if keras else 3)

    def _note(self, value: Any, depth: int) -> None:
        if id(value) in self.seen:
            return
        if isinstance(value, Tensor):
            self.seen[id(value)] = value
            compared = not isinstance(value, nn.Parameter) or id(value) in self.copied
            compared = compared and value.layout == torch.strided and not value.is_quantized
            alias = value.detach()  # so that its memory goes to no other tensor
            self.tensors.append((value, alias, _state_of(value), alias.clone() if compared else None))
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.seen[id(value)] = value
            self.arrays.append((value, value.copy()))
        elif isinstance(value, (dict, list, set, np.ndarray)):
            self.seen[id(value)] = value
            parts = list(_parts(value))
            if parts:
                self.holders.append((value, parts))
            else:
                self.empty.append(value)
            for part in parts:
                self._note(part, depth)
        elif isinstance(value, tuple):
            for part in value:
                self._note(part, depth)
        elif (
            depth > 0
            and not isinstance(value, (nn.Module, type))
            and isinstance(getattr(value, "__dict__", None), dict)
        ):
            self._note(vars(value), depth - 2)

    def holds(self) -> bool:
        """Whether all is as it was."""
        if any(map(len, self.empty)) or not all(_is_same(*one) for one in self.holders):
            return False
        if not all(_is_same_array(*one) for one in self.arrays):
            return False
        return all(
            _state_of(tensor) == state and (copy is None or _is_equal(tensor, copy))
            for tensor, _, state, copy in self.tensors
        )


def _parts(holder: Any) -> Any:
    if isinstance(holder, np.ndarray):
        return holder.ravel().tolist()  # of objects: these themselves
    return holder.values() if isinstance(holder, dict) else holder


def _is_same(holder: Any, parts: list[Any]) -> bool:
    """Whether it holds the same objects; in which mode a module is does not matter, since a replica sets its own."""
    now = _parts(holder)
    if len(now) != len(parts):
        return False
    if all(map(is_, now, parts)):
        return True
    if not isinstance(holder, dict) or "training" not in holder:
        return False
    return all(one is part or name == "training" for (name, one), part in zip(holder.items(), parts, strict=True))


def _state_of(tensor: Tensor) -> tuple[Any, ...]:
    """What changes when a tensor is written to by torch, or gets other memory."""
    version = 0 if tensor.is_inference() else tensor._version
    return (version, tensor.data_ptr(), tensor.stride()) if tensor.layout == torch.strided else (version,)


def _is_equal(tensor: Tensor, copy: Tensor) -> bool:
    """Whether the numbers are the same, NaN among them."""
    return torch.equal(tensor, copy) or (
        bool(copy.isnan().any())
        and torch.equal(tensor.nan_to_num(), copy.nan_to_num())
        and torch.equal(tensor.isnan(), copy.isnan())
    )


def _is_same_array(array: np.ndarray, copy: np.ndarray) -> bool:
    return np.array_equal(array, copy, equal_nan=array.dtype.kind in "fcmM")
