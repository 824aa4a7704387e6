"""Copies of Keras layers that take their dropout and noise from masks."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from ..calls import Shape, StochasticCall
from .loading import ATTENTION, RECURRENT_MASKS, SHARED_ATTRIBUTES, keras_source, load_keras
from .passes import PassOwner


class LayerCopies:
    """Copies of layers and of objects that hold layers; everything else is shared."""

    def __init__(self, replica: PassOwner) -> None:
        self.replica = replica
        self.keras = load_keras()
        self.node = _node_class(self.keras)
        self.copies: dict[int, Any] = {}  # by the id of the original
        self.names: set[str] = set()
        self.raised: set[int] = set()  # ids of copies that drop only in training

    def of(self, layer: Any, path: str) -> Any:
        """The copy of a layer; `path` names it in a model."""
        known = self.copies.get(id(layer))
        if known is not None:
            return known
        keyed = keyed_class(self.keras, type(layer))
        duplicate = object.__new__(keyed or type(layer))
        self.copies[id(layer)] = self.replica.copies[path] = duplicate
        duplicate.__dict__.update({name: self.part(value, path, name) for name, value in vars(layer).items()})
        if keyed is not None:
            duplicate.__dict__["_mcdropout"] = partial(apply, self.replica, path)
        if intercept(duplicate, self.replica, path):
            self.raised.add(id(duplicate))
        raised = keyed is not None or any(id(part) in self.raised for part in (duplicate, *cells(duplicate)))
        announce(duplicate, self.replica, path, raised)
        return duplicate

    def part(self, value: Any, path: str, name: str = "") -> Any:
        """The copy of an attribute or of a part of it, or the original if it holds no layer."""
        if name in SHARED_ATTRIBUTES or value is None or isinstance(value, (str, int, float, type, types.FunctionType)):
            return value
        if id(value) in self.copies:
            return self.copies[id(value)]
        if isinstance(value, self.keras.Layer):
            return self.of(value, self._unique(f"{path}/{value.name}" if path else value.name))
        if isinstance(value, types.MethodType):
            owner = self.part(value.__self__, path)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if isinstance(value, self.node):
            duplicate = copy.copy(value)
            duplicate.operation = self.part(value.operation, path)
            return duplicate
        if isinstance(value, Mapping):
            parts = {key: self.part(part, path) for key, part in value.items()}
            same = all(parts[key] is part for key, part in value.items())
            return value if same else parts
        if isinstance(value, (list, tuple, set)):
            copies = [self.part(part, path) for part in value]
            if all(new is old for new, old in zip(copies, value, strict=True)):
                return value
            kind = next(kind for kind in (list, tuple, set) if isinstance(value, kind))
            return type(value)(*copies) if hasattr(value, "_fields") else kind(copies)
        if _is_a_holder(value):
            return self._holder(value, path)
        return value

    def _holder(self, value: Any, path: str) -> Any:
        """The copy of an object of the user that holds layers, or the original if it holds none."""
        self.copies[id(value)] = value  # in case it holds itself
        parts = {name: self.part(part, path, name) for name, part in vars(value).items()}
        if all(parts[name] is part for name, part in vars(value).items()):
            return value
        duplicate = self.copies[id(value)] = copy.copy(value)
        duplicate.__dict__.update(parts)
        return duplicate

    def _unique(self, name: str) -> str:
        number, unique = 1, name
        while unique in self.names:
            number, unique = number + 1, f"{name}~{number + 1}"
        self.names.add(unique)
        return unique


def _node_class(keras: Any) -> type:
    return import_module(f"{keras_source(keras)}.ops.node").Node


def _is_a_holder(value: Any) -> bool:
    """Whether the class of this object belongs to none of the libraries."""
    home = type(value).__module__.split(".")[0]
    libraries = ("builtins", "keras", "tensorflow", "jax", "jaxlib", "torch", "numpy", "collections", "inspect")
    return hasattr(value, "__dict__") and home not in libraries and not isinstance(value, types.ModuleType)


def apply(replica: PassOwner, path: str, drop: StochasticCall, x: Any) -> Any:
    """The result of a stochastic call in the current pass of the replica."""
    return replica.now.on.apply(path, drop, x)


def keyed_class(keras: Any, cls: type) -> type | None:
    """A class for the copies of `cls` that takes its dropout from masks; None if `cls` drops nothing itself.

    In the method resolution order it comes between a class of the user and Keras's class, so that a `call()` of the
    user that uses `super()` finds it too.
    """
    calls = {base: call for base, call in _callers(keras).items() if issubclass(cls, base)}
    if not calls:
        return None
    base = next(parent for parent in cls.__mro__ if parent in calls)
    keyed = type(base.__name__, (base,), {"call": calls[base], "__module__": base.__module__})
    if cls is base:
        return keyed
    return type(cls.__name__, (cls, keyed), {"__module__": cls.__module__})


def _callers(keras: Any) -> dict[type, Callable[..., Any]]:
    """Keras's classes whose `call()` drops, and the functions that replace it."""
    layers = keras.layers
    spatial = layers.SpatialDropout1D.__mro__[1]
    return {
        layers.Dropout: _dropout_call,
        spatial: _spatial_call,
        layers.AlphaDropout: _alpha_call,
        layers.GaussianDropout: _gaussian_call,
        layers.GaussianNoise: _noise_call,
    }


def _dropout_call(self: Any, inputs: Any, training: Any = False) -> Any:
    shape = mask_shape_of(self.name, inputs, self.noise_shape)
    operation = ATTENTION if "_mcdropout_of_attention" in vars(self) else "dropout"
    return _applied(self, inputs, StochasticCall(operation, float(self.rate), True, shape))


def _spatial_call(self: Any, inputs: Any, training: Any = False) -> Any:
    shape = tuple(int(size) for size in self._get_noise_shape(inputs))
    operation = f"dropout{len(shape) - 2}d"
    return _applied(self, inputs, StochasticCall(operation, float(self.rate), True, shape))


def _alpha_call(self: Any, inputs: Any, training: Any = False) -> Any:
    shape = mask_shape_of(self.name, inputs, self.noise_shape)
    return _applied(self, inputs, StochasticCall("alpha_dropout", float(self.rate), True, shape, "alpha"))


def _gaussian_call(self: Any, inputs: Any, training: Any = False) -> Any:
    return _applied(
        self, inputs, StochasticCall("gaussian_dropout", float(self.rate), True, tuple(inputs.shape), "gaussian")
    )


def _noise_call(self: Any, inputs: Any, training: Any = False) -> Any:
    return _applied(
        self, inputs, StochasticCall("gaussian_noise", float(self.stddev), True, tuple(inputs.shape), "noise")
    )


def _applied(self: Any, x: Any, drop: StochasticCall) -> Any:
    return self._mcdropout(drop, x) if drop.rate > 0 else x


def mask_shape_of(name: str, x: Any, noise_shape: Any) -> Shape:
    """The shape of the mask; a fixed number of inputs in `noise_shape` means one mask for each input."""
    shape = tuple(x.shape)
    if noise_shape is None:
        return shape
    mask_shape = tuple(size if fixed is None else int(fixed) for size, fixed in zip(shape, noise_shape, strict=False))
    mask_shape = (shape[0] if mask_shape[0] > 1 else mask_shape[0], *mask_shape[1:])
    sizes = zip(shape, mask_shape, strict=True)
    if len(noise_shape) != len(shape) or any(mask_size not in (1, size) for size, mask_size in sizes):
        raise ValueError(
            f"`model` has a dropout, {name}, whose `noise_shape` {tuple(noise_shape)} does not fit what it meets, of "
            f"shape {shape}; each entry must be 1 or none."
        )
    return mask_shape


def intercept(copy: Any, replica: PassOwner, path: str) -> bool:
    """Apply masks inside layers that drop in the middle of their computation: recurrent cells and plain attention.

    True for a cell, which uses its masks only in training.
    """
    attributes, layers = copy.__dict__, load_keras().layers
    if isinstance(copy, (layers.MultiHeadAttention, layers.GroupQueryAttention)) and hasattr(copy, "_dropout_layer"):
        vars(copy._dropout_layer)["_mcdropout_of_attention"] = True
    if all(hasattr(copy, name) for name in RECURRENT_MASKS):
        for name, rate in zip(RECURRENT_MASKS, (copy.dropout, copy.recurrent_dropout), strict=True):
            attributes[name] = _kept_mask(copy, replica, path, name.removeprefix("get"), float(rate))
        return copy.dropout > 0 or copy.recurrent_dropout > 0
    if hasattr(type(copy), "_apply_scores") and getattr(copy, "dropout", 0) > 0:
        apply_scores = copy._apply_scores

        def applied(scores: Any, value: Any, scores_mask: Any = None, training: Any = False) -> Any:
            _, weights = apply_scores(scores, value, scores_mask=scores_mask, training=False)
            drop = StochasticCall(ATTENTION, float(copy.dropout), True, tuple(weights.shape))
            weights = apply(replica, path, drop, weights)
            return load_keras().ops.matmul(weights, value), weights

        attributes["_apply_scores"] = applied
    return False


def cells(layer: Any) -> list[Any]:
    """The cells of a recurrent layer."""
    cell = getattr(layer, "cell", None)
    return [] if cell is None else [cell, *getattr(cell, "cells", [])]


def _kept_mask(copy: Any, replica: PassOwner, path: str, attribute: str, rate: float) -> Callable[[Any], Any]:
    """A function that makes the mask of a recurrent cell once for all steps of a pass (Gal and Ghahramani, 2016b)."""
    replica.kept_masks.append((copy, attribute))
    operation = "recurrent_dropout" if "recurrent" in attribute else "dropout"

    def mask(step_input: Any) -> Any:
        if rate > 0 and getattr(copy, attribute) is None:
            ones = load_keras().ops.ones_like(step_input)
            drop = StochasticCall(operation, rate, True, tuple(step_input.shape))
            count = getattr(copy, "dropout_mask_count", None)
            place = f"{path}.{operation}"
            masks = [apply(replica, place, drop, ones) for _ in range(count or 1)]
            copy.__dict__[attribute] = masks if count else masks[0]
        return getattr(copy, attribute)

    return mask


def announce(copy: Any, replica: PassOwner, path: str, raised: bool) -> None:
    """Record the calls and results of a layer; with `raised` the layer works as in training."""
    call = copy.call

    def called(*args: Any, **kwargs: Any) -> Any:
        now = replica.now
        if copy._call_has_training_arg:
            place = _place_of_training(copy)
            asked = args[place] if len(args) > place else kwargs.get("training")
            args, kwargs = args[:place], {**kwargs, "training": asked}
            if raised or path in replica.raised:
                kwargs["training"] = True
            elif replica.raised.intersection(now.path):  # a layer around it passes on its own `training`
                kwargs["training"] = replica.asked.get(path, False)
            elif not replica.raised:
                replica.asked[path] = asked
        now.path.append(path)
        try:
            now.on.entered(copy, path, args)
            result = call(*args, **kwargs)
        finally:
            now.path.pop()
        now.on.left(copy, args[0] if args else None, result)
        return result

    copy.__dict__["call"] = called


def _place_of_training(layer: Any) -> int:
    return list(layer._call_signature.parameters).index("training")
