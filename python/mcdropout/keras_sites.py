"""Find and intercept the stochastic layers of a Keras 3 model, on any backend, without touching the model.

The model is called as `model.predict()` calls it, so batch norm and everything else behave as in prediction. Work
happens on a replica: twins of its layers that share the user's variables, among which the stochastic ones let in keyed
masks instead of Keras's random numbers. A twin is an object of its own, so the user's layers are not changed, and a
stateless scope keeps every variable as it is. For as long as a pass runs, Keras's functions of random numbers, by which
layers of the user's own draw, ask whether the call comes from a replica (`_numbers_met`).

Masks are made in torch's order, channels first, and turned to where Keras has its channels: a Keras model and a torch
model with the same operations in the same order draw the same masks. Keras is imported by its users only.
"""

from __future__ import annotations

import copy
import inspect
import math
import os
import re
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial, wraps
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes  # torch has no public way to do this

from .checks import NoStochasticSites, shown
from .devices import IN_CHILD, check_can_go_on, shared_lock
from .inputs import Inputs, Path
from .operations import ALPHA, NUMBERS, Drop, Shape
from .precision import ROUNDING, TF32, rounding
from .sites import (
    USUAL,
    Call,
    Probe,
    Site,
    Trial,
    alike,
    check_looked_up,
    is_random,
    nothing_to_sample,
    owner_of,
    owners_to_raise,
    random_state_kept,
    site_of,
    where_of,
    without_effect,
)

BACKENDS = ("torch", "tensorflow", "jax")
OLD_HOMES = ("tf_keras.", "keras.engine.", "keras.src.engine.", "tensorflow.python.keras.")  # of Keras 2's classes
NOT_OURS = ("_inbound_nodes", "_outbound_nodes", "_tracker", "optimizer", "_optimizer", "history")
ATTENTION = "attention"  # of weights (input, head, query, key): these are no image
RECURRENT_MASKS = ("get_dropout_mask", "get_recurrent_dropout_mask")


# ---- which models are Keras's ---------------------------------------------------------------------------------


def is_keras(model: object) -> bool:
    """Whether this is a Keras 3 model or layer; asks nobody who has not loaded Keras already."""
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "Layer") and isinstance(model, keras.Layer) and not is_keras_2(model)


def is_keras_2(model: object) -> bool:
    """Whether this is a model of the older `tf.keras`, whose layers Keras 3 does not know."""
    return any(f"{base.__module__}.".startswith(OLD_HOMES) for base in type(model).__mro__)


def load_keras() -> Any:
    """The module `keras`, or a sentence that says what to install."""
    try:
        keras = import_module("keras")
    except ImportError as error:
        if error.name in (None, "keras"):
            raise ImportError("Keras models need Keras; run `pip install mcdropout[keras]`.") from error
        package = error.name.split(".")[0]
        raise ImportError(
            f"Keras is set to a backend that needs {package}; run `pip install {package}`, or choose another by "
            'the environment variable KERAS_BACKEND before Keras is loaded: "torch" is there.'
        ) from error
    check_can_go_on(keras.backend.backend())
    return keras


def load_model(path: str | os.PathLike[str]) -> Any:
    """The model in a `.keras` file, as `keras.saving.load_model()` gives it: code in it is not run."""
    if not os.path.exists(path):
        raise ValueError(f"`model` must be a model or a file that exists; got {shown(str(path))}.")
    return load_keras().saving.load_model(path)


def check_keras(model: Any) -> str:
    """The backend of this Keras model, if it can be sampled there.

    Raises TypeError for Keras 2, ValueError for a backend without what is needed and for a model without weights.
    """
    if is_keras_2(model):
        raise TypeError(
            '`model` is a Keras 2 model (tf.keras): save it by `model.save("model.h5")` and load it in Keras 3 by '
            '`keras.saving.load_model("model.h5", compile=False)`.'
        )
    backend = load_keras().backend.backend()
    if backend not in BACKENDS:
        words = ", ".join(f'"{one}"' for one in BACKENDS)
        raise ValueError(
            f"`model` must be on one of Keras's backends {words}; got {shown(backend)}. Set the environment variable "
            "KERAS_BACKEND before Keras is loaded."
        )
    if not model.built:
        raise ValueError("`model` has no weights yet; fit it, load its weights, or call it on some inputs first.")
    return backend


# ---- passes ---------------------------------------------------------------------------------------------------


class Pass:
    """One pass through a replica, with nothing dropped; numbers that the model draws itself are left to Keras."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.fixed: set[str] = set()  # what is drawn by numbers as seeds

    def named(self, path: str) -> str:
        """What a call of the layer at `path` is called."""
        self.counts[path] += 1
        return f"{path}[{self.counts[path] - 1}]"

    def meet(self, path: str, drop: Drop, x: Any) -> Any:
        """What becomes of `x` where the layer at `path` would drop."""
        return self.at(self.named(path), drop, x)

    def numbers(self, name: str, drop: Drop, x: Any) -> Any:
        """The random numbers that the model asks for, in the place of `x`; else a seed for Keras to draw them by."""
        return GIVEN

    def by_keras(self, name: str, drop: Drop, run: Run) -> Any:
        """What Keras draws by `run(seed)`."""
        return run(GIVEN)

    def at(self, name: str, drop: Drop, x: Any) -> Any:
        """What becomes of `x`; here nothing is dropped."""
        return x

    def entered(self, layer: Any, path: str, args: tuple[Any, ...]) -> None:
        """The layer at `path` is called."""

    def left(self, layer: Any, x: Any, result: Any) -> None:
        """A layer has made `result` of `x`."""


class CarefulPass(Pass):
    """A pass that says what is wrong with whole numbers, of which each backend makes something else.

    Dropout must not meet them, which no backend can drop; and embeddings must have those that they are asked for. The
    pass ends after so many `lookups`. `trouble` is what was wrong: Keras changes the words of what is raised in it.
    first: position of the first of `inputs` among all.
    """

    def __init__(self, inputs: Inputs, first: int = 0, lookups: float = math.inf) -> None:
        super().__init__()
        self.inputs, self.first, self.lookups = inputs, first, lookups
        self.n_looked_up = 0
        self.trouble: ValueError | None = None

    def entered(self, layer: Any, path: str, args: tuple[Any, ...]) -> None:
        if not args or not looks_up(layer):
            return
        self.n_looked_up += 1
        ids = _numbers_of(args[0])
        if ids is not None:
            try:
                check_looked_up(
                    ids.long(), (0, layer.input_dim - 1), path, self.inputs, partial(self._places, ids), self.first
                )
            except ValueError as error:
                self.trouble = error
                raise
        if self.n_looked_up >= self.lookups:
            raise Enough

    def _places(self, ids: Tensor) -> list[Path]:
        """The inputs that hold these numbers."""
        return [place for place, one in self.inputs.arrays.items() if torch.equal(one.double().cpu(), ids)]

    def at(self, name: str, drop: Drop, x: Any) -> Any:
        if not load_keras().backend.is_float_dtype(x.dtype):
            raise TypeError("dropout takes floating point numbers alone")
        return x


class Enough(Exception):
    """A careful pass has seen all that it is for."""


def looks_up(layer: Any) -> bool:
    """Whether this is an embedding that works as Keras's does."""
    kind = load_keras().layers.Embedding
    return isinstance(layer, kind) and type(layer).call is kind.call


def _numbers_of(x: Any) -> Tensor | None:
    """The numbers of a tensor of the backend; None where it has none yet, as in code that is being compiled."""
    try:
        return torch.from_numpy(np.array(load_keras().ops.convert_to_numpy(x), dtype=np.float64))
    except Exception:  # each backend has errors of its own
        return None


@dataclass(frozen=True)
class Layout:
    """Where a tensor's channels are."""

    last: bool = False  # the last axis, where torch has them first
    flat: Shape | None = None  # (height, width, channel) that were made one axis

    def inward(self, x: Tensor) -> Tensor:
        """As torch would have it; flattened ones stay as they are."""
        return x.movedim(-1, 1) if self.last else x

    def outward(self, mask: Tensor) -> Tensor:
        """Masks (draw, ...) of torch's order, for Keras."""
        if self.last:
            mask = mask.movedim(2, -1)
        elif self.flat is not None:
            *sides, channels = self.flat
            mask = mask.unflatten(-1, (channels, *sides)).movedim(2, -1).flatten(2)
        return mask.contiguous()

    def shape(self, shape: Shape) -> Shape:
        """A shape of Keras's as torch would have it."""
        return (shape[0], shape[-1], *shape[1:-1]) if self.last else shape


@dataclass(frozen=True)
class KerasCall:
    """One stochastic call as a probe sees it."""

    drop: Drop
    x: Any
    layout: Layout


class ProbePass(Pass):
    """Notes the stochastic calls, where the channels are, and the size of the largest result; drops nothing."""

    def __init__(self, gaussian_noise: bool, trial: Trial = USUAL) -> None:
        super().__init__()
        self.gaussian_noise, self.trial = gaussian_noise, trial
        self.found: dict[str, KerasCall] = {}
        self.weighted = [0, 0]  # dense layers and convolutions before the first site, and after it
        self.dropped = False
        self.largest = 0  # bytes of the largest result at or after the first call
        self.layouts: dict[int, tuple[Any, Layout]] = {}  # by the tensor's id, which lives as long as it is kept here

    def at(self, name: str, drop: Drop, x: Any) -> Any:
        self.found[name] = KerasCall(drop, x, Layout() if drop.operation == ATTENTION else self.layout_of(x))
        self.dropped = self.dropped or self.gaussian_noise or drop.kind != "noise"
        self._seen(x)
        return x

    def numbers(self, name: str, drop: Drop, x: Any) -> Any:
        self.at(name, drop, x)
        return _tried(name, drop, x, self.trial)

    def by_keras(self, name: str, drop: Drop, run: Run) -> Any:
        result = run(0)
        self.found[name] = KerasCall(replace(drop, mask_shape=tuple(result.shape)), result, Layout())
        self.dropped = True
        return result

    def left(self, layer: Any, x: Any, result: Any) -> None:
        x = x[0] if isinstance(x, (list, tuple)) and x else x
        if isinstance(layer, _weighted_kinds()):
            self.weighted[self.dropped] += 1
        if not _is_tensor(result):
            return
        self._seen(result)
        rank = len(result.shape)
        before = self.layout_of(x) if _is_tensor(x) else Layout()
        given = getattr(layer, "data_format", None)
        if type(layer).__name__ == "Flatten":
            if _is_tensor(x) and len(x.shape) > 2 and (before.last or given == "channels_first"):
                shape = tuple(x.shape[1:])
                layout = Layout(flat=shape if before.last else (*shape[1:], shape[0]))
                self.layouts[id(result)] = result, layout
        elif given is not None and rank > 2:
            self.layouts[id(result)] = result, Layout(last=given == "channels_last")
        elif _is_tensor(x) and tuple(x.shape[:-1]) == tuple(result.shape[:-1]) and id(x) in self.layouts:
            same = before.flat is None or tuple(x.shape) == tuple(result.shape)
            self.layouts[id(result)] = result, before if same else Layout()

    def layout_of(self, x: Any) -> Layout:
        """What is known of it; images that no layer has touched have their channels where Keras's settings say."""
        known = self.layouts.get(id(x))
        if known is not None:
            return known[1]
        return Layout(last=len(x.shape) > 3 and load_keras().config.image_data_format() == "channels_last")

    def _seen(self, x: Any) -> None:
        if self.found:
            self.largest = max(self.largest, math.prod(x.shape) * np.dtype(load_keras().backend.floatx()).itemsize)


class SamplePass(Pass):
    """Applies the masks of one draw (or, where draws are vectorised, of many) at their sites."""

    def __init__(self, sites: Mapping[str, KerasSite], masks: Mapping[str, Any], n_inputs: int) -> None:
        super().__init__()
        self.sites, self.masks, self.n_inputs = sites, masks, n_inputs
        self.unknown: set[str] = set()

    def at(self, name: str, drop: Drop, x: Any) -> Any:
        if name in self.sites:
            return dropped(x, self.masks[name], self.sites[name], self.n_inputs)
        self.unknown.add(name)
        return x

    def numbers(self, name: str, drop: Drop, x: Any) -> Any:
        if name not in self.sites:
            self.unknown.add(name)
            return load_keras().ops.zeros_like(x) if drop.kind == "normals" else _tried(name, drop, x, USUAL)
        if self.sites[name].site.kind == "generator":
            return int(self.masks[name]) % MAX_KERAS_SEED
        return dropped(x, self.masks[name], self.sites[name], self.n_inputs)

    def by_keras(self, name: str, drop: Drop, run: Run) -> Any:
        if name not in self.sites:
            self.unknown.add(name)
            return run(0)
        return run(int(self.masks[name]) % MAX_KERAS_SEED)


class Now(threading.local):
    """The pass that a thread is in, and the layers whose code is running, from the outermost to the innermost."""

    def __init__(self) -> None:
        self.on = Pass()
        self.path: list[str] = []


class PassOwner(Protocol):
    """What copied layers, and functions of Keras's, must know of the replica that runs them."""

    now: Now
    raised: frozenset[str]
    asked: dict[str, Any]
    kept_masks: list[tuple[Any, str]]


def _tried(name: str, drop: Drop, x: Any, trial: Trial) -> Any:
    """What stands for random numbers where none are drawn, as in `sites`."""
    made = trial.numbers(name, drop, tuple(map(int, x.shape)))
    return load_keras().ops.convert_to_tensor(made.numpy(), dtype=load_keras().backend.standardize_dtype(x.dtype))


@cache
def _weighted_kinds() -> tuple[type, ...]:
    """Dense layers and convolutions."""
    layers = load_keras().layers
    convolutions = (layers.Conv1D, layers.DepthwiseConv1D, layers.SeparableConv1D)
    return (layers.Dense, layers.EinsumDense, *(one.__mro__[1] for one in convolutions))


@dataclass(frozen=True)
class KerasSite:
    """A site, and where Keras has its channels."""

    site: Site
    layout: Layout


def dropped(x: Any, mask: Any, at: KerasSite, n_inputs: int) -> Any:
    """`x` under its mask, both of the backend; several entries for each input meet a mask made for one."""
    ops, site = load_keras().ops, at.site
    shape = tuple(x.shape)
    wanted = tuple(size * n_inputs if axis == site.axis else size for axis, size in enumerate(site.x_shape))
    if at.layout.shape(shape) != wanted:
        raise ValueError(
            f"`model` meets its dropout at {site.name} with shape {at.layout.shape(shape)} where its first inputs gave "
            f"{wanted}; inputs of one call must all take the same way through it."
        )
    mask = ops.cast(mask, x.dtype)
    if isinstance(x, Tensor):
        x = x.contiguous()  # a convolution may have left it with channels first in memory, which all that follows keeps
    axis = site.axis
    if axis is not None and mask.shape[axis] not in (1, shape[axis]):
        parts = (n_inputs, shape[axis] // n_inputs) if site.inputs_outermost else (shape[axis] // n_inputs, n_inputs)
        x = ops.reshape(x, (*shape[:axis], *parts, *shape[axis + 1 :]))
        mask = ops.expand_dims(mask, axis if site.inputs_outermost else axis + 1)
    if site.kind == "alpha":
        a = ((1 - site.rate) * (1 + site.rate * ALPHA**2)) ** -0.5  # as in `sites`
        result = x * (a * mask) + (a * ALPHA * (1 - mask) - a * ALPHA * site.rate)
    else:
        result = x + mask if site.kind in ("noise", "keep", *NUMBERS) else x * mask  # numbers come in place of zeros
    return result if tuple(result.shape) == shape else ops.reshape(result, shape)


# ---- the replica ----------------------------------------------------------------------------------------------


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
        self.root = Twins(self).of(model, "")
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
        with _unwrapped(), _numbers_met(self), scope, self.without_gradients():
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
        home = f"{_source(load_keras())}.layers.preprocessing"
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


class Twins:
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
            twin.__dict__["_mcdropout"] = partial(_meet, self.replica, path)
        if _intercept(twin, self.replica, path):
            self.raised.add(id(twin))
        raised = keyed is not None or any(id(one) in self.raised for one in (twin, *_cells(twin)))
        _announce(twin, self.replica, path, raised)
        return twin

    def part(self, value: Any, path: str, name: str = "") -> Any:
        """What stands for an attribute, or for a part of one."""
        if name in NOT_OURS or value is None or isinstance(value, (str, int, float, type, types.FunctionType)):
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
    return import_module(f"{_source(keras)}.ops.node").Node


def _source(keras: Any) -> str:
    """Where this version of Keras has its modules."""
    return keras.layers.Dropout.__module__.split(".layers.")[0]


def _is_a_holder(value: Any) -> bool:
    """Whether this is an object of a class that is none of the libraries'."""
    home = type(value).__module__.split(".")[0]
    libraries = ("builtins", "keras", "tensorflow", "jax", "jaxlib", "torch", "numpy", "collections", "inspect")
    return hasattr(value, "__dict__") and home not in libraries and not isinstance(value, types.ModuleType)


# ---- interception ---------------------------------------------------------------------------------------------


def _meet(replica: PassOwner, path: str, drop: Drop, x: Any) -> Any:
    return replica.now.on.meet(path, drop, x)


def keyed_class(keras: Any, cls: type) -> type | None:
    """A class for the twins of `cls`, whose own dropping comes from masks; None where it drops nothing itself.

    It comes between a class of the user's and Keras's own in the order in which methods are looked up, so that a
    `call()` of the user's that asks `super()` meets it too.
    """
    homes = {base: made for base, made in _callers(keras).items() if issubclass(cls, base)}
    if not homes:
        return None
    base = next(one for one in cls.__mro__ if one in homes)
    keyed = type(base.__name__, (base,), {"call": homes[base], "__module__": base.__module__})
    if cls is base:
        return keyed
    return type(cls.__name__, (cls, keyed), {"__module__": cls.__module__})


def _callers(keras: Any) -> dict[type, Callable[..., Any]]:
    """Keras's classes whose `call()` drops, and what to call instead."""
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
    shape = _noise_shape(self.name, inputs, self.noise_shape)
    operation = ATTENTION if "_mcdropout_of_attention" in vars(self) else "dropout"
    return _met(self, inputs, Drop(operation, float(self.rate), True, shape))


def _spatial_call(self: Any, inputs: Any, training: Any = False) -> Any:
    shape = tuple(int(size) for size in self._get_noise_shape(inputs))
    operation = f"dropout{len(shape) - 2}d"
    return _met(self, inputs, Drop(operation, float(self.rate), True, shape))


def _alpha_call(self: Any, inputs: Any, training: Any = False) -> Any:
    shape = _noise_shape(self.name, inputs, self.noise_shape)
    return _met(self, inputs, Drop("alpha_dropout", float(self.rate), True, shape, "alpha"))


def _gaussian_call(self: Any, inputs: Any, training: Any = False) -> Any:
    return _met(self, inputs, Drop("gaussian_dropout", float(self.rate), True, tuple(inputs.shape), "gaussian"))


def _noise_call(self: Any, inputs: Any, training: Any = False) -> Any:
    return _met(self, inputs, Drop("gaussian_noise", float(self.stddev), True, tuple(inputs.shape), "noise"))


def _met(self: Any, x: Any, drop: Drop) -> Any:
    return self._mcdropout(drop, x) if drop.rate > 0 else x


def _noise_shape(name: str, x: Any, given: Any) -> Shape:
    """The shape of the mask; a number of inputs that is written there means one mask for each."""
    shape = tuple(x.shape)
    if given is None:
        return shape
    wanted = tuple(size if one is None else int(one) for size, one in zip(shape, given, strict=False))
    wanted = (shape[0] if wanted[0] > 1 else wanted[0], *wanted[1:])
    if len(given) != len(shape) or any(one not in (1, size) for size, one in zip(shape, wanted, strict=True)):
        raise ValueError(
            f"`model` has a dropout, {name}, whose `noise_shape` {tuple(given)} does not fit what it meets, of "
            f"shape {shape}; each entry must be 1 or none."
        )
    return wanted


def _intercept(twin: Any, replica: PassOwner, path: str) -> bool:
    """Let the masks in where a layer drops in the midst of its work: recurrent cells, and plain attention.

    True for a cell, which asks for its masks only in training.
    """
    own, layers = twin.__dict__, load_keras().layers
    if isinstance(twin, (layers.MultiHeadAttention, layers.GroupQueryAttention)) and hasattr(twin, "_dropout_layer"):
        vars(twin._dropout_layer)["_mcdropout_of_attention"] = True
    if all(hasattr(twin, name) for name in RECURRENT_MASKS):
        for name, rate in zip(RECURRENT_MASKS, (twin.dropout, twin.recurrent_dropout), strict=True):
            own[name] = _kept_mask(twin, replica, path, name.removeprefix("get"), float(rate))
        return twin.dropout > 0 or twin.recurrent_dropout > 0
    if hasattr(type(twin), "_apply_scores") and getattr(twin, "dropout", 0) > 0:
        apply_scores = twin._apply_scores

        def applied(scores: Any, value: Any, scores_mask: Any = None, training: Any = False) -> Any:
            _, weights = apply_scores(scores, value, scores_mask=scores_mask, training=False)
            drop = Drop(ATTENTION, float(twin.dropout), True, tuple(weights.shape))
            weights = _meet(replica, path, drop, weights)
            return load_keras().ops.matmul(weights, value), weights

        own["_apply_scores"] = applied
    return False


def _cells(layer: Any) -> list[Any]:
    """The cells of a recurrent layer."""
    cell = getattr(layer, "cell", None)
    return [] if cell is None else [cell, *getattr(cell, "cells", [])]


def _kept_mask(twin: Any, replica: PassOwner, path: str, attribute: str, rate: float) -> Callable[[Any], Any]:
    """A recurrent cell's mask, made once for all steps of a pass, as Keras does: Gal and Ghahramani (2016b)."""
    replica.kept_masks.append((twin, attribute))
    operation = "recurrent_dropout" if "recurrent" in attribute else "dropout"

    def mask(step_input: Any) -> Any:
        if rate > 0 and getattr(twin, attribute) is None:
            ones = load_keras().ops.ones_like(step_input)
            drop = Drop(operation, rate, True, tuple(step_input.shape))
            count = getattr(twin, "dropout_mask_count", None)
            place = f"{path}.{operation}"
            made = [_meet(replica, place, drop, ones) for _ in range(count or 1)]
            twin.__dict__[attribute] = made if count else made[0]
        return getattr(twin, attribute)

    return mask


def _announce(twin: Any, replica: PassOwner, path: str, raised: bool) -> None:
    """Let a layer say what it has made of what; with `raised` it works as in training."""
    call = twin.call

    def called(*args: Any, **kwargs: Any) -> Any:
        now = replica.now
        if twin._call_has_training_arg:
            place = _place_of_training(twin)
            asked = args[place] if len(args) > place else kwargs.get("training")
            args, kwargs = args[:place], {**kwargs, "training": asked}
            if raised or path in replica.raised:
                kwargs["training"] = True
            elif replica.raised.intersection(now.path):  # what is above it hands on what it was given itself
                kwargs["training"] = replica.asked.get(path, False)
            elif not replica.raised:
                replica.asked[path] = asked
        now.path.append(path)
        try:
            now.on.entered(twin, path, args)
            result = call(*args, **kwargs)
        finally:
            now.path.pop()
        now.on.left(twin, args[0] if args else None, result)
        return result

    twin.__dict__["call"] = called


def _place_of_training(layer: Any) -> int:
    return list(layer._call_signature.parameters).index("training")


# ---- random numbers -------------------------------------------------------------------------------------------

GIVEN = None  # the seed that the model gives Keras itself
MAX_KERAS_SEED = 2**31
Run = Callable[[int | None], Any]
TORCHS_OWN = "torch's generator"
PASSING = threading.local()  # `replica`: whose pass a thread is in
PATCHED = shared_lock()
PATCHES: dict[Any, list[Any]] = {}  # by module: how many passes run, and its own functions


def _in_forked_child() -> None:
    """None of the passes that ran goes on here, so Keras has its own functions back."""
    for module, passes in PATCHES.items():
        _put_back(module, passes)
    PATCHES.clear()


def _put_back(module: Any, passes: list[Any]) -> None:
    for name, function in passes[1].items():
        setattr(module, name, function)


IN_CHILD.append(_in_forked_child)


@contextmanager
def _numbers_met(replica: PassOwner) -> Iterator[None]:
    """Inside, what this thread asks Keras's functions of random numbers for is met by the replica's pass."""
    module = import_module(f"{_source(load_keras())}.backend").random
    with PATCHED:
        passes = PATCHES.setdefault(module, [0, {}])
        passes[0] += 1
        if passes[0] == 1:
            passes[1] = {name: getattr(module, name) for name in RANDOM if hasattr(module, name)}
            for name, function in passes[1].items():
                setattr(module, name, _asking(function, RANDOM[name]))
    before, PASSING.replica = getattr(PASSING, "replica", None), replica
    try:
        yield
    finally:
        PASSING.replica = before
        with PATCHED:
            passes[0] -= 1
            if passes[0] == 0:
                _put_back(module, passes)


def _asking(function: Callable[..., Any], handler: Callable[..., Any]) -> Callable[..., Any]:
    """A function of Keras's that lets the replica, whose pass calls it, answer."""
    signature = inspect.signature(function)

    @wraps(function)
    def asking(*args: Any, **kwargs: Any) -> Any:
        replica = getattr(PASSING, "replica", None)
        if replica is None:
            return function(*args, **kwargs)
        on, path = replica.now.on, replica.now.path[-1] if replica.now.path else ""
        bound = signature.bind(*args, **kwargs)
        if isinstance(bound.arguments.get("seed"), int):
            on.fixed.add(f"{function.__name__} of a fixed seed in {path or 'itself'}")  # the same in every pass
            with _disable_current_modes():
                return function(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments

        def run(seed: int | None) -> Any:
            with _disable_current_modes():  # Keras seeds torch's generator and puts it back: nothing for us to watch
                return function(**{**given, "seed": given["seed"] if seed is GIVEN else seed})

        PASSING.replica = None  # what the function calls itself is its own business
        try:
            return handler(on, path, run, **given)
        finally:
            PASSING.replica = replica

    return asking


def _dropout_asked(on: Pass, path: str, run: Run, inputs: Any, rate: Any, noise_shape: Any, seed: Any) -> Any:
    drop = Drop("dropout", float(rate), True, _noise_shape(path, inputs, noise_shape))
    return on.meet(path, drop, inputs) if drop.rate > 0 else inputs


def _asked(
    on: Pass, path: str, run: Run, operation: str, kind: str, shape: Any, dtype: Any, make: Any, rate: float = math.nan
) -> Any:
    """`make(numbers)` of keyed numbers of that kind, or what Keras draws itself."""
    keras = load_keras()
    sizes = tuple(int(size) for size in shape)
    drop = Drop(operation, rate, True, sizes, kind)
    numbers = on.numbers(on.named(path), drop, keras.ops.zeros(sizes, keras.config.floatx()))
    if numbers is GIVEN or isinstance(numbers, int):
        return run(numbers)
    return keras.ops.cast(make(numbers), dtype or keras.config.floatx())


def _uniform_asked(on: Pass, path: str, run: Run, shape: Any, minval: Any, maxval: Any, dtype: Any, seed: Any) -> Any:
    return _asked(on, path, run, "uniform", "uniforms", shape, dtype, lambda u: u * (maxval - minval) + minval)


def _normal_asked(on: Pass, path: str, run: Run, shape: Any, mean: Any, stddev: Any, dtype: Any, seed: Any) -> Any:
    return _asked(on, path, run, "normal", "normals", shape, dtype, lambda z: z * stddev + mean)


def _truncated_asked(on: Pass, path: str, run: Run, shape: Any, mean: Any, stddev: Any, dtype: Any, seed: Any) -> Any:
    return _asked(on, path, run, "truncated_normal", "normals", shape, dtype, lambda z: _truncated(z) * stddev + mean)


def _truncated(normal: Any) -> Any:
    """Numbers of a standard normal distribution, as those of one that is cut off at -2 and 2."""
    ops, root = load_keras().ops, math.sqrt(2)
    return root * ops.erfinv(math.erf(root) * ops.erf(normal / root))


def _binomial_asked(
    on: Pass, path: str, run: Run, shape: Any, counts: Any, probabilities: Any, dtype: Any, seed: Any
) -> Any:
    ops = load_keras().ops
    if not (np.asarray(ops.convert_to_numpy(counts)) == 1).all():
        return _left_to_keras("binomial")(on, path, run)
    if isinstance(probabilities, (int, float, np.number)):
        rate = 1 - float(probabilities)
        return _asked(on, path, run, "bernoulli", "keep", shape, dtype, lambda kept: kept, rate)
    below = ops.convert_to_tensor(probabilities)
    return _asked(on, path, run, "bernoulli", "uniforms", shape, dtype, lambda u: u < ops.cast(below, u.dtype))


def _left_to_keras(operation: str) -> Callable[..., Any]:
    """Numbers of no simple form: Keras draws them, by a seed for each draw."""

    def asked(on: Pass, path: str, run: Run, **given: Any) -> Any:
        return on.by_keras(on.named(path), Drop(operation, math.nan, True, (), "generator"), run)

    return asked


RANDOM: dict[str, Callable[..., Any]] = {
    "dropout": _dropout_asked,
    "uniform": _uniform_asked,
    "normal": _normal_asked,
    "binomial": _binomial_asked,
    "truncated_normal": _truncated_asked,
    **{name: _left_to_keras(name) for name in ("categorical", "randint", "shuffle", "gamma", "beta")},
}


# ---- finding the sites ----------------------------------------------------------------------------------------


@dataclass
class KerasProbe(Probe):
    """What the probes found out; the masks are keyed by `sites`, and `layouts` say how Keras wants them."""

    layouts: dict[str, Layout]
    asked: dict[str, Any]  # see `Replica`

    def keras_sites(self) -> dict[str, KerasSite]:
        """Both together."""
        return {name: KerasSite(site, self.layouts[name]) for name, site in self.sites.items()}

    def raise_in(self, replica: Replica) -> None:
        """Let the layers of a replica draw that do so in training alone."""
        replica.asked, replica.raised = self.asked, frozenset(self.raised)


def probe_keras(replica: Replica, head: Callable[[int], Inputs], gaussian_noise: bool) -> KerasProbe:
    """Find the sites of the model, as `sites.probe()` does for torch, and put up what they need in the replica.

    Raises NoStochasticSites where nothing would be sampled, and ValueError where what is dropped cannot be told apart
    by inputs, or where training changes more than what is drawn.
    """
    tolerance = max(1e-3, replica.rounding())
    probed = partial(_probed, replica, gaussian_noise=gaussian_noise)
    replica.raised = frozenset()
    with random_state_kept():
        plain, plain_output, own = _watched(replica, head(3), gaussian_noise)
        idle = without_effect(plain.found, plain_output, lambda trial: probed(head(3), trial=trial)[1])
        in_training, own_in_training = _in_training(replica, head(1), gaussian_noise)
        augmenting = {name for name in in_training if replica.is_preprocessing(owner_of(name))}

        def is_wanted(name: str, drop: Drop) -> bool:
            """Whether a call that acts in training alone is to be sampled."""
            return drop.kind != "generator" and (gaussian_noise or drop.kind != "normals") and name not in augmenting

        hidden = {name: call for name, call in in_training.items() if is_wanted(name, call.drop)}
        raised, plainly = owners_to_raise(hidden, plain.found, idle, in_training)
        replica.raised = frozenset(plainly)
        if plainly and not alike(plain_output, probed(head(3))[1], tolerance):
            where = ", ".join(path or "itself" for path in plainly)
            raise ValueError(
                f"`model` changes more than its dropout when training, in {where}, so it cannot be sampled as it "
                "predicts; call dropout there whatever `training` is, and what else changes in a layer of its own."
            )
        replica.raised = frozenset(raised)
        passes, outputs = zip(*(probed(head(n_inputs)) for n_inputs in (1, 2, 3)), strict=True)
    sites, layouts = {}, {}
    passed_over, by_batch, place = set(), [], 0
    for name in dict.fromkeys(name for on in passes for name in on.found):
        calls = [on.found.get(name) for on in passes]
        call = next(one for one in calls if one is not None)
        by_noise = call.drop.operation == "gaussian_noise" and not gaussian_noise
        # normal numbers that act in training alone are met where a dropout beside them has put up the flag
        acts = call.drop.kind != "normals" or name in hidden or (name in plain.found and name not in idle)
        if by_noise or not acts or name in idle - hidden.keys():
            passed_over.add(name)
            continue
        layout = call.layout if _grows_first(calls) and call.drop.kind != "generator" else Layout()
        torch_calls = [_as_torch(replica, name, one, layout) for one in calls]
        sites[name] = site_of(name, place, torch_calls, partial(_noised, replica, probed, head, name, layout))
        layouts[name] = Layout() if sites[name].kind == "generator" else layout
        if sites[name].kind == "generator" and len({one and one.drop.mask_shape for one in calls}) > 1:
            by_batch.append(where_of(name, call.drop))
        place += 1
    left_out = {name: call.drop for name, call in in_training.items() if name not in sites}
    noise = tuple(where_of(name, drop) for name, drop in left_out.items() if drop.kind in ("normals", "noise"))
    rest = {name: where_of(name, drop) for name, drop in left_out.items() if is_random(drop) and drop.kind != "normals"}
    others = tuple(one for one in own_in_training if one not in own and one not in plain.fixed)
    if all(site.rate == 1 and site.kind != "noise" for site in sites.values()):
        alone = tuple(where for name, where in rest.items() if name not in augmenting)
        alone += tuple(sorted(plain.fixed))
        keys = "`keras.random.uniform` or `keras.random.dropout` with a `SeedGenerator`"
        raise NoStochasticSites(nothing_to_sample(noise, (*own, *others, *alone), "keras.layers.Dropout", keys))
    before, after = passes[0].weighted
    steadily = not own and not any(site.kind == "generator" for site in sites.values())
    return KerasProbe(
        sites,
        {"": passes[0].largest},
        outputs[2],
        3,
        (*by_batch, *own),
        (*rest.values(), *others),
        noise,
        frozenset(passed_over),
        TORCHS_OWN in own,
        raised,
        {},
        (before, after),
        0,
        steadily and len(outputs[2]) == 3 and not alike(outputs[0], outputs[2][:1], tolerance),
        layouts,
        replica.asked,
    )


ELSEWHERE = "numbers that are not those of `keras.random`"


def _watched(
    replica: Replica, inputs: Inputs, gaussian_noise: bool, training: bool = False
) -> tuple[ProbePass, Tensor, tuple[str, ...]]:
    """A pass, what it gives, and what it draws from besides the functions of Keras: two passes differ by that."""
    on = ProbePass(gaussian_noise)
    first, _ = explained(replica, inputs, lambda: replica.watched(inputs, on, training))
    again, names = replica.watched(inputs, ProbePass(gaussian_noise), training)
    outputs = [replica.to_torch(replica.take(one)) for one in (first, again)]
    unnamed = (ELSEWHERE,) if not names and not alike(outputs[0], outputs[1], 1e-5) else ()
    return on, outputs[0], (*names, *unnamed)


def _in_training(
    replica: Replica, inputs: Inputs, gaussian_noise: bool
) -> tuple[dict[str, KerasCall], tuple[str, ...]]:
    """The calls of a pass as in training that make a difference, and what else it draws from; {} if that fails."""

    def run(trial: Trial) -> Tensor:
        on = ProbePass(gaussian_noise, trial)
        return replica.to_torch(replica.take(replica.run(inputs, on, training=True)))

    asked = replica.asked
    replica.asked = {}
    try:
        on, output, names = _watched(replica, inputs, gaussian_noise, training=True)
        idle = without_effect(on.found, output, run)
    except Exception:  # some models want targets when training: then prediction is all there is to see
        return {}, ()
    finally:
        replica.asked = asked
    return {name: call for name, call in on.found.items() if name not in idle}, (*names, *sorted(on.fixed))


def _probed(replica: Replica, inputs: Inputs, gaussian_noise: bool, trial: Trial = USUAL) -> tuple[ProbePass, Tensor]:
    on = ProbePass(gaussian_noise, trial)
    return on, replica.to_torch(replica.take(run_or_explain(replica, inputs, on)))


def run_or_explain(replica: Replica, inputs: Inputs, on: Pass) -> Any:
    """What the model returns; its own errors become one sentence."""
    return explained(replica, inputs, lambda: replica.run(inputs, on))


def explained(replica: Replica, inputs: Inputs, run: Callable[[], Any]) -> Any:
    """What `run` gives of these inputs; errors of the model's become one sentence."""
    try:
        return run()
    except Exception as error:  # each backend has errors of its own
        if isinstance(error, MemoryError) or str(error).startswith("`model`"):
            raise
        size = next((size for size in fixed_sizes(replica.model) if _takes(replica, inputs.cycled(size))), None)
        if size is not None:
            raise ValueError(
                f"`model` takes only {size} inputs at a time, and what it says of one must not depend on how many "
                "come with it; build it once more without a batch size (and not `stateful`), and give that its weights "
                "by `set_weights(model.get_weights())`."
            ) from error
        text = (_said(error).strip() or "no words").splitlines()[0].rstrip(".: ")
        raise ValueError(
            f"`model` fails on inputs of shape {inputs.shapes}, {len(inputs)} at a time: {type(error).__name__}, "
            f"{text}; it must take any number of inputs, each as it was made for."
        ) from error


def fixed_sizes(model: Any) -> list[int]:
    """Numbers of inputs that the model was built for, where it was built for some."""
    shapes = [one.shape for one in symbolic_inputs(model)]
    shapes += [one.shape for layer in model._flatten_layers() for one in _states_of(layer)]
    return sorted({int(shape[0]) for shape in shapes if len(shape) and shape[0] is not None})


def _states_of(layer: Any) -> list[Any]:
    """What a stateful layer keeps from one call to the next."""
    return load_keras().tree.flatten(getattr(layer, "states", None)) if getattr(layer, "stateful", False) else []


def _takes(replica: Replica, inputs: Inputs) -> bool:
    try:
        replica.run(inputs, Pass())
    except Exception:
        return False
    return True


def symbolic_inputs(model: Any) -> list[Any]:
    """What a functional or sequential model says of its inputs; none of a subclassed one."""
    try:
        return list(model.inputs or [])
    except AttributeError:
        return []


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Keras says around every error where it was; ours already say so."""
    try:
        yield
    except Exception as error:
        text = _said(error)
        if text.startswith("`model`") and text != str(error):
            raise ValueError(text) from error
        raise


def _said(error: Exception) -> str:
    """What an error says, without what Keras says around it."""
    marked = re.search("\x1b\\[1m(.*?)\x1b\\[0m", str(error), re.DOTALL)
    return marked.group(1) if marked else str(error)


def _grows_first(calls: list[KerasCall | None]) -> bool:
    """Whether the inputs lie along the first axis: only there is it known where the channels are."""
    sizes = [int(call.x.shape[0]) if len(call.x.shape) else 1 for call in calls if call is not None]
    return sizes == [sizes[0] * n for n in (1, 2, 3)]


def _as_torch(replica: Replica, name: str, call: KerasCall | None, layout: Layout) -> Call | None:
    if call is None:
        return None
    x = layout.inward(replica.as_site_input(call.x))
    drop = replace(call.drop, mask_shape=layout.shape(call.drop.mask_shape))
    return Call(name, drop, x, tuple(range(x.ndim)))


def _noised(
    replica: Replica,
    probed: Callable[[Inputs], tuple[ProbePass, Tensor]],
    head: Callable[[int], Inputs],
    name: str,
    layout: Layout,
) -> tuple[dict[str, Call], dict[str, Call]]:
    """The calls on one and on three inputs that differ for sure, as in `sites`."""
    found = []
    for n_inputs in (1, 3):
        noised = head(n_inputs).noised(torch.Generator().manual_seed(0))
        call = _as_torch(replica, name, probed(noised)[0].found.get(name), layout)
        found.append({} if call is None else {name: call})
    return found[0], found[1]


def _is_tensor(x: Any) -> bool:
    return load_keras().ops.is_tensor(x)
