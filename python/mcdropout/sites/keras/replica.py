"""A replica of a Keras model: copies of its layers that share the user's variables.

A copied layer is an object of its own, so the user's layers are not changed, and a stateless scope keeps every variable
as it is.
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
from .layers import announce, apply, cells, intercept, keyed_class
from .loading import SHARED_ATTRIBUTES, keras_source, load_keras
from .numbers import TORCHS_OWN, numbers_met
from .passes import Now, Pass


class Replica:
    """A stand-in for the user's model: twins of its layers, and the user's own variables.

    device: where torch makes the masks. `take` finds the one tensor that is wanted in what the model returns.
    """

    precision = "float32"  # what a layer computes in is its own dtype policy's matter
    gradients = False  # no layer asks for them in its working

    def __init__(self, model: Any, backend: str, device: torch.device, take: Callable[[Any], Any]) -> None:
        self.model, self.backend, self.device, self.take = model, backend, device, take
        self.now = Now()
        self.twins: dict[str, Any] = {}  # by path
        self.raised: frozenset[str] = frozenset()  # paths of the user's own layers that draw in training alone
        self.asked: dict[str, Any] = {}  # by path: what `training` a layer is given where none of those is raised
        self.kept_masks: list[tuple[Any, str]] = []  # recurrent cells, and the attributes where they keep them
        self.root = LayerCopies(self).of(model, "")
        self.seeds = seed_generators(model)

    def run(self, inputs: Inputs, on: Pass, values: list[tuple[Any, Any]] | None = None, training: bool = False) -> Any:
        """What the model returns in one pass, of the backend's tensors; `values`: other values of its variables."""
        return self.called(self.given(inputs), on, values, training)

    def called(self, given: Any, on: Pass, values: list[tuple[Any, Any]] | None = None, training: bool = False) -> Any:
        """The same, of the arguments as the model takes them."""
        return self._called(given, on, values, training)[0]

    def _called(
        self, given: Any, on: Pass, values: list[tuple[Any, Any]] | None = None, training: bool = False
    ) -> tuple[Any, Any]:
        args, kwargs = given
        scope = load_keras().StatelessScope(state_mapping=values, initialize_variables=False)
        self.now.on, self.now.path = on, []
        for cell, attribute in self.kept_masks:
            cell.__dict__[attribute] = None
        with _unwrapped(), numbers_met(self), scope, self.without_gradients():
            return self.root(*args, training=training, **kwargs), scope

    def watched(self, inputs: Inputs, on: Pass, training: bool = False) -> tuple[Any, tuple[str, ...]]:
        """The same as `run()`, and what the model has drawn from besides the functions of Keras."""
        with random_state_kept() as torch_has_moved:
            result, scope = self._called(self.given(inputs), on, training=training)
            names = [f"the seeds of {name}" for name, seed in self.seeds if scope.get_current_value(seed) is not None]
            return result, (*dict.fromkeys(names), *([TORCHS_OWN] if torch_has_moved() else []))

    def is_preprocessing(self, path: str) -> bool:
        """Whether a layer of Keras's that changes data, not the network, is at this path: those draw to train by."""
        twin = self.twins.get(path)
        home = f"{keras_source(load_keras())}.layers.preprocessing"
        return any(base.__module__.startswith(home) for base in type(twin).__mro__)

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Torch alone would note them."""
        return torch.no_grad() if self.backend == "torch" else nullcontext()

    def given(self, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs as the model is called with them, of the backend.

        Several by position are a list, as Keras has them; by name a dictionary, or keywords that the model has.
        """
        args = [self.from_torch(one) for one in inputs.args]
        kwargs = {name: self.from_torch(one) for name, one in inputs.kwargs.items()}
        if not kwargs:
            return (args[0] if len(args) == 1 else args,), {}
        if set(kwargs) <= set(self.model._call_signature.parameters):
            return (), kwargs
        return (kwargs,), {}

    def from_torch(self, x: Any) -> Any:
        """The backend's tensor of a torch one."""
        if isinstance(x, Mapping):
            return {name: self.from_torch(one) for name, one in x.items()}
        if not isinstance(x, Tensor):
            return x
        return x.to(self.device) if self.backend == "torch" else load_keras().ops.convert_to_tensor(x.numpy())

    def to_torch(self, x: Any) -> Tensor:
        """The torch tensor of one of the backend."""
        if self.backend == "torch":
            return x.detach()
        return torch.from_numpy(np.array(load_keras().ops.cast(x, "float32")))

    def rounding(self) -> float:
        """How far apart, on their own scale, its numbers may be that are computed in two ways."""
        if any(str(one.compute_dtype).endswith("float16") for one in self.model._flatten_layers()):
            return ROUNDING["bfloat16"]
        if self.backend == "torch":
            return rounding("float32", self.device)
        return ROUNDING[TF32 if self._has_gpu() else "float32"]

    def _has_gpu(self) -> bool:
        if self.backend == "jax":
            return sys.modules["jax"].default_backend() == "gpu"
        return bool(sys.modules["tensorflow"].config.list_logical_devices("GPU"))

    def as_site_input(self, x: Any) -> Tensor:
        """The same, for a probe."""
        return self.to_torch(x).float()


def seed_generators(model: Any) -> list[tuple[str, Any]]:
    """The states of all of Keras's sources of random numbers in a model, and whose each is."""
    layers = [model, *model._flatten_layers(include_self=False)]
    found = {id(one): (layer.name, one.state) for layer in layers for one in getattr(layer, "_seed_generators", [])}
    return list(found.values())


class LayerCopies:
    """Copies of layers, and of what holds them; all else is shared."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.keras = load_keras()
        self.node = _node_class(self.keras)
        self.made: dict[int, Any] = {}
        self.names: set[str] = set()
        self.raised: set[int] = set()  # ids of twins that drop in training alone

    def of(self, layer: Any, path: str) -> Any:
        """The twin of a layer; `path` names it in a model."""
        known = self.made.get(id(layer))
        if known is not None:
            return known
        keyed = keyed_class(self.keras, type(layer))
        twin = object.__new__(keyed or type(layer))
        self.made[id(layer)] = self.replica.twins[path] = twin
        twin.__dict__.update({name: self.part(value, path, name) for name, value in vars(layer).items()})
        if keyed is not None:
            twin.__dict__["_mcdropout"] = partial(apply, self.replica, path)
        if intercept(twin, self.replica, path):
            self.raised.add(id(twin))
        raised = keyed is not None or any(id(one) in self.raised for one in (twin, *cells(twin)))
        announce(twin, self.replica, path, raised)
        return twin

    def part(self, value: Any, path: str, name: str = "") -> Any:
        """What stands for an attribute, or for a part of one."""
        if name in SHARED_ATTRIBUTES or value is None or isinstance(value, (str, int, float, type, types.FunctionType)):
            return value
        if id(value) in self.made:
            return self.made[id(value)]
        if isinstance(value, self.keras.Layer):
            return self.of(value, self._unique(f"{path}/{value.name}" if path else value.name))
        if isinstance(value, types.MethodType):
            owner = self.part(value.__self__, path)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if isinstance(value, self.node):
            twin = copy.copy(value)
            twin.operation = self.part(value.operation, path)
            return twin
        if isinstance(value, Mapping):
            parts = {key: self.part(one, path) for key, one in value.items()}
            same = all(parts[key] is one for key, one in value.items())
            return value if same else parts
        if isinstance(value, (list, tuple, set)):
            found = [self.part(one, path) for one in value]
            if all(new is old for new, old in zip(found, value, strict=True)):
                return value
            kind = next(one for one in (list, tuple, set) if isinstance(value, one))
            return type(value)(*found) if hasattr(value, "_fields") else kind(found)
        if _is_a_holder(value):
            return self._held(value, path)
        return value

    def _held(self, value: Any, path: str) -> Any:
        """An object of the user's own that may hold layers."""
        self.made[id(value)] = value  # should it hold itself
        parts = {name: self.part(one, path, name) for name, one in vars(value).items()}
        if all(parts[name] is one for name, one in vars(value).items()):
            return value
        twin = self.made[id(value)] = copy.copy(value)
        twin.__dict__.update(parts)
        return twin

    def _unique(self, name: str) -> str:
        number, found = 1, name
        while found in self.names:
            number, found = number + 1, f"{name}~{number + 1}"
        self.names.add(found)
        return found


def _node_class(keras: Any) -> type:
    return import_module(f"{keras_source(keras)}.ops.node").Node


def _is_a_holder(value: Any) -> bool:
    """Whether this is an object of a class that is none of the libraries'."""
    home = type(value).__module__.split(".")[0]
    libraries = ("builtins", "keras", "tensorflow", "jax", "jaxlib", "torch", "numpy", "collections", "inspect")
    return hasattr(value, "__dict__") and home not in libraries and not isinstance(value, types.ModuleType)


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Keras says around every error where it was; ours already say so."""
    try:
        yield
    except Exception as error:
        text = said(error)
        if text.startswith("`model`") and text != str(error):
            raise ValueError(text) from error
        raise


def said(error: Exception) -> str:
    """What an error says, without what Keras says around it."""
    marked = re.search("\x1b\\[1m(.*?)\x1b\\[0m", str(error), re.DOTALL)
    return marked.group(1) if marked else str(error)
