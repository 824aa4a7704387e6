"""Records of a model, to see whether it has changed."""

from __future__ import annotations

from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..sites.keras.loading import is_keras
from ..variational.layer import variational_layers


class Snapshot:
    """The parts of a model that its predictions depend on: tensors, attributes, the members of lists and mappings.

    They are compared by identity and by torch's counts of writes. Tensors that a replica copies, and weights from which
    draws are made, are compared by value: they may also have been written without torch's notice.
    """

    def __init__(self, model: Any) -> None:
        self.empty: list[Any] = []
        self.arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self.holders: list[tuple[Any, list[Any]]] = []
        self.tensors: list[tuple[Tensor, Tensor, tuple[Any, ...], Tensor | None]] = []
        self.seen: dict[int, Any] = {}  # keeps the objects alive, so that no other object gets one of their ids
        keras = is_keras(model)  # replicas of Keras models read the variables of the user's model
        layers = {} if keras else variational_layers(model)
        self.copied = {id(parameter) for layer in layers.values() for parameter in layer.parameters()}
        for layer in [model, *model._flatten_layers(include_self=False)] if keras else model.modules():
            self._note(vars(layer), 1 if keras else 3)

    def _note(self, value: Any, depth: int) -> None:
        if id(value) in self.seen:
            return
        if isinstance(value, Tensor):
            self.seen[id(value)] = value
            compared = not isinstance(value, nn.Parameter) or id(value) in self.copied
            compared = compared and value.layout == torch.strided and not value.is_quantized
            alias = value.detach()  # keeps the memory, so that no other tensor gets it
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
        """Whether the model is unchanged."""
        if any(map(len, self.empty)) or not all(_is_same(*holder_and_parts) for holder_and_parts in self.holders):
            return False
        if not all(_is_same_array(*array_and_copy) for array_and_copy in self.arrays):
            return False
        return all(
            _state_of(tensor) == state and (copy is None or _is_equal(tensor, copy))
            for tensor, _, state, copy in self.tensors
        )


def _parts(holder: Any) -> Any:
    """The members of a list, set, mapping or array of objects."""
    if isinstance(holder, np.ndarray):
        return holder.ravel().tolist()  # the objects themselves
    return holder.values() if isinstance(holder, dict) else holder


def _is_same(holder: Any, parts: list[Any]) -> bool:
    """Whether a holder has the same members; the mode of a module does not matter, because a replica sets it."""
    now = _parts(holder)
    if len(now) != len(parts):
        return False
    if all(map(is_, now, parts)):
        return True
    if not isinstance(holder, dict) or "training" not in holder:
        return False
    return all(value is part or name == "training" for (name, value), part in zip(holder.items(), parts, strict=True))


def _state_of(tensor: Tensor) -> tuple[Any, ...]:
    """The properties of a tensor that change when torch writes to it or it gets other memory."""
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
