"""A replica of a Keras model: copies of its layers that share the user's variables.

The user's layers are not changed, because the replica has copies of them. A stateless scope keeps every variable
unchanged.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...compute.precision import ROUNDING, TF32, rounding
from ...compute.streams import random_state_kept
from ...data.inputs import Inputs
from .layer_copies import LayerCopies
from .loading import keras_source, load_keras
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
