"""A replica of a Keras model: copies of its layers that share the user's variables.

The user's layers are not changed, because the replica has copies of them. A stateless scope keeps every variable
unchanged.
"""

from __future__ import annotations

import copy
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...compute.precision import ROUNDING, TF32, rounding
from ...compute.streams import random_state_kept
from ...data.inputs import Inputs
from .layer_copies import announce, apply, cells, intercept, keyed_class
from .loading import SHARED_ATTRIBUTES, keras_source, load_keras
from .numbers import TORCH_GENERATOR, numbers_intercepted
from .passes import Now, Pass


class Replica:
    """A copy of the user's model, with copies of its layers and the user's variables.

    device: the device on which torch makes the masks. take: returns the selected tensor of the model's result.
    """

    precision = "float32"  # the dtype policy of each layer decides its precision
    gradients = False  # no layer needs gradients in its forward pass

    def __init__(self, model: Any, backend: str, device: torch.device, take: Callable[[Any], Any]) -> None:
        self.model, self.backend, self.device, self.take = model, backend, device, take
        self.now = Now()
        self.copies: dict[str, Any] = {}  # of layers, by path
        self.raised: frozenset[str] = frozenset()  # paths of the user's layers that draw only in training
        self.asked: dict[str, Any] = {}  # by path: the `training` that a layer gets if no layer is raised
        self.kept_masks: list[tuple[Any, str]] = []  # recurrent cells, and the attributes that hold their masks
        self.root = LayerCopies(self).of(model, "")
        self.seeds = seed_generators(model)

    def run(self, inputs: Inputs, on: Pass, values: list[tuple[Any, Any]] | None = None, training: bool = False) -> Any:
        """The result of the model in one pass, as tensors of the backend; `values` replace values of its variables."""
        return self.called(self.given(inputs), on, values, training)

    def called(
        self, arguments: Any, on: Pass, values: list[tuple[Any, Any]] | None = None, training: bool = False
    ) -> Any:
        """As `run()`, for positional and keyword arguments of the model."""
        return self._called(arguments, on, values, training)[0]

    def _called(
        self, arguments: Any, on: Pass, values: list[tuple[Any, Any]] | None = None, training: bool = False
    ) -> tuple[Any, Any]:
        args, kwargs = arguments
        scope = load_keras().StatelessScope(state_mapping=values, initialize_variables=False)
        self.now.on, self.now.path = on, []
        for cell, attribute in self.kept_masks:
            cell.__dict__[attribute] = None
        with _unwrapped(), numbers_intercepted(self), scope, self.without_gradients():
            return self.root(*args, training=training, **kwargs), scope

    def watched(self, inputs: Inputs, on: Pass, training: bool = False) -> tuple[Any, tuple[str, ...]]:
        """The result of `run()`, and the model's sources of random numbers other than Keras's functions."""
        with random_state_kept() as torch_has_moved:
            result, scope = self._called(self.given(inputs), on, training=training)
            names = [f"the seeds of {name}" for name, seed in self.seeds if scope.get_current_value(seed) is not None]
            return result, (*dict.fromkeys(names), *([TORCH_GENERATOR] if torch_has_moved() else []))

    def is_preprocessing(self, path: str) -> bool:
        """Whether the layer at this path is a preprocessing layer of Keras, which draws to augment training data."""
        layer = self.copies.get(path)
        home = f"{keras_source(load_keras())}.layers.preprocessing"
        return any(base.__module__.startswith(home) for base in type(layer).__mro__)

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Compute without gradients; only torch would record them."""
        return torch.no_grad() if self.backend == "torch" else nullcontext()

    def given(self, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments of the model for these inputs, as tensors of the backend.

        Several inputs by position are a list, as usual in Keras. Inputs by name are a dictionary, or keywords if the
        model has them.
        """
        args = [self.from_torch(x) for x in inputs.args]
        kwargs = {name: self.from_torch(x) for name, x in inputs.kwargs.items()}
        if not kwargs:
            return (args[0] if len(args) == 1 else args,), {}
        if set(kwargs) <= set(self.model._call_signature.parameters):
            return (), kwargs
        return (kwargs,), {}

    def from_torch(self, x: Any) -> Any:
        """A tensor of the backend, from a torch tensor."""
        if isinstance(x, Mapping):
            return {name: self.from_torch(part) for name, part in x.items()}
        if not isinstance(x, Tensor):
            return x
        return x.to(self.device) if self.backend == "torch" else load_keras().ops.convert_to_tensor(x.numpy())

    def to_torch(self, x: Any) -> Tensor:
        """A torch tensor, from a tensor of the backend."""
        if self.backend == "torch":
            return x.detach()
        return torch.from_numpy(np.array(load_keras().ops.cast(x, "float32")))

    def rounding(self) -> float:
        """The largest expected relative difference between two ways to compute the same numbers."""
        if any(str(layer.compute_dtype).endswith("float16") for layer in self.model._flatten_layers()):
            return ROUNDING["bfloat16"]
        if self.backend == "torch":
            return rounding("float32", self.device)
        return ROUNDING[TF32 if self._has_gpu() else "float32"]

    def _has_gpu(self) -> bool:
        if self.backend == "jax":
            return sys.modules["jax"].default_backend() == "gpu"
        return bool(sys.modules["tensorflow"].config.list_logical_devices("GPU"))

    def as_site_input(self, x: Any) -> Tensor:
        """A torch tensor in float32, for a probe."""
        return self.to_torch(x).float()


def seed_generators(model: Any) -> list[tuple[str, Any]]:
    """The states of Keras's seed generators in a model, with the names of their layers."""
    layers = [model, *model._flatten_layers(include_self=False)]
    states = {
        id(generator): (layer.name, generator.state)
        for layer in layers
        for generator in getattr(layer, "_seed_generators", [])
    }
    return list(states.values())


class LayerCopies:
    """Copies of layers and of objects that hold layers; everything else is shared."""

    def __init__(self, replica: Replica) -> None:
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


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise errors of this package without the text that Keras adds to every error."""
    try:
        yield
    except Exception as error:
        text = original_text(error)
        if text.startswith("`model`") and text != str(error):
            raise ValueError(text) from error
        raise


def original_text(error: Exception) -> str:
    """The text of an error, without the text that Keras adds."""
    marked = re.search("\x1b\\[1m(.*?)\x1b\\[0m", str(error), re.DOTALL)
    return marked.group(1) if marked else str(error)
