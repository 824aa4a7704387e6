"""Draw networks from a Keras model: what `draws` does for torch, on torch, TensorFlow or JAX.

Chunks, masks and the choice between vectorised draws and a loop are those of `draws`; a pass is the replica's. On
TensorFlow and JAX vectorised draws are compiled, with masks and inputs as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor  # torch has no public way to ask this
from torch.overrides import TorchFunctionMode

from .arrays import Label
from .checks import shown
from .draws import Masks, Plan, Sampler, site_masks
from .inputs import Casts, Feed, Inputs, Kinds, Path, Takes, Taking, feed_of, has_whole_numbers, ways_to_take
from .keras_sites import (
    CarefulPass,
    KerasProbe,
    Pass,
    Replica,
    SamplePass,
    check_keras,
    load_keras,
    looks_up,
    probe_keras,
    run_or_explain,
    symbolic_inputs,
)
from .outputs import Outputs, Select
from .sites import Probe, Site, at_rate, check_looked_up, random_state_kept

# Words in the names of losses; with cross-entropies, `from_logits` says the rest.
OF_CLASSES = ("crossentropy",)
OF_VALUES = ("mean_squared", "mean_absolute", "huber", "log_cosh")


DRAW = "draw"  # beside the masks, for what a model draws itself: no site is called so


class KerasPlan(Plan):
    """How inputs of one shape are drawn."""

    probe: KerasProbe

    def __init__(self, probe: KerasProbe, replica: Replica, more: Callable[[], Replica] | None, *rest: Any) -> None:
        super().__init__(probe, replica, more, *rest)  # pyright: ignore[reportArgumentType]  (a replica of Keras's)
        self.replica, self.at = replica, probe.keras_sites()
        self.n_compiled = 0  # inputs of the largest chunk so far: smaller ones are filled up, not compiled anew
        if probe.own_randomness:
            self.engine, self.engine_reason = "loop", "the model draws random numbers of its own"
        probe.raise_in(replica)

    @contextmanager
    def _borrowed(self) -> Iterator[Any]:
        """A replica for one chunk: cells keep their masks in attributes, so workers share none."""
        try:
            replica: Any = self.idle.pop()
        except IndexError:
            assert self.more_replicas is not None
            replica = self.more_replicas()
            self.probe.raise_in(replica)
        try:
            yield replica
        finally:
            self.idle.append(replica)

    # ---- engines

    def _engines(self) -> dict[str, Callable[[Any, Inputs, Masks], Tensor]]:
        return {"vmap": self._vectorised, "loop": self._looped}

    def _vectorised(self, replica: Any, inputs: Inputs, masks: Masks) -> Tensor:
        return self._by_backend(replica, inputs, masks, compiled=False)

    def _by_backend(self, replica: Replica, inputs: Inputs, masks: Masks, compiled: bool) -> Tensor:
        given = replica.given(inputs)
        if replica.backend == "torch":
            with ChannelsStayLast():
                return torch.func.vmap(lambda own: self._of(replica, given, own, len(inputs)))(masks)
        if replica.backend == "jax":
            values = [variable.value for variable in self._variables]
            return replica.to_torch((self._jitted if compiled else self._over_draws_jax)(values, masks, given))
        over = self._graph if compiled else self._over_draws_tensorflow
        return replica.to_torch(over(masks, given))

    def _chunk(self, inputs: Inputs, ids: np.ndarray, draws: range) -> Tensor:
        if self.engine != "vmap" or self.replica.backend == "torch":
            return super()._chunk(inputs, ids, draws)
        n = len(inputs)
        if n < self.n_compiled:
            inputs = inputs.cycled(self.n_compiled)
            ids = ids[np.arange(self.n_compiled) % n]
        self.n_compiled = len(inputs)
        return self._by_backend(self.replica, inputs, self._masks(draws, ids), compiled=True)[:, :n]

    def _looped(self, replica: Any, inputs: Inputs, masks: Masks) -> Tensor:
        given = replica.given(inputs)
        draws = []
        for draw in range(len(next(iter(masks.values())))):
            own = {name: mask[draw] for name, mask in masks.items()}
            values = [(state, np.array([self.seed % 2**31, own[DRAW]])) for _, state in replica.seeds if DRAW in own]
            draws.append(replica.to_torch(self._of(replica, given, own, len(inputs), values)))
        return torch.stack(draws)

    def _in_halves(self, inputs: Inputs, ids: np.ndarray, draws: range) -> Tensor:
        self.n_compiled = 0
        return super()._in_halves(inputs, ids, draws)

    def _of(self, replica: Replica, given: Any, masks: Any, n_inputs: int, values: Any = None) -> Any:
        """The wanted tensor of one pass under the masks of one draw (vectorised: of many)."""
        on = SamplePass(self.at, masks, n_inputs)
        result = replica.take(replica.called(given, on, values))
        self.unknown |= on.unknown
        return result

    # ---- JAX and TensorFlow

    @cached_property
    def _variables(self) -> list[Any]:
        """Arguments of what JAX compiles: else it would take the weights for constants."""
        return list(self.replica.model.variables)

    def _over_draws_jax(self, values: Any, masks: Any, given: Any) -> Any:
        n_inputs = _n_inputs(given)
        state = list(zip(self._variables, values, strict=True))
        return import_module("jax").vmap(lambda own: self._of(self.replica, given, own, n_inputs, state))(masks)

    @cached_property
    def _jitted(self) -> Callable[..., Any]:
        return import_module("jax").jit(self._over_draws_jax)

    def _over_draws_tensorflow(self, masks: Any, given: Any) -> Any:
        n_inputs = _n_inputs(given)
        over = import_module("tensorflow").vectorized_map
        return over(lambda own: self._of(self.replica, given, own, n_inputs), masks, warn=False)

    @cached_property
    def _graph(self) -> Callable[..., Any]:
        return import_module("tensorflow").function(self._over_draws_tensorflow, autograph=False)

    # ---- masks

    def _made(self, draws: range, sites: dict[str, Site], ids: Tensor | None = None) -> Any:
        which = torch.arange(draws.start, draws.stop, device=self.device)
        made = {}
        for name in sites:
            at = self.at[name]
            mask = at.layout.outward(site_masks(self.seed, at.site, which, ids))
            made[name] = mask if self.replica.backend == "torch" else mask.numpy()
        return {**made, DRAW: which} if self.probe.own_randomness else made


class ChannelsStayLast(TorchFunctionMode):
    """Leaves images as they lie in memory, channels last, which is what torch is quickest with.

    Keras turns them to channels first for each convolution and pool, has them copied so, and has those of convolutions
    copied back. It also asks for their memory format, which vmap cannot tell.
    """

    turned: Tensor | None = None  # the latest that was turned to channels first

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.is_contiguous and is_batchedtensor(args[0]):
            return True
        if func is Tensor.contiguous and args[0] is self.turned and not kwargs:
            return args[0]
        result = func(*args, **(kwargs or {}))
        if func is torch.permute and len(args) == 2:
            last = args[0].ndim - 1
            self.turned = result if tuple(args[1]) == (0, last, *range(1, last)) else None
        return result


def _n_inputs(given: Any) -> int:
    args, kwargs = given
    return load_keras().tree.flatten([args, kwargs])[0].shape[0]


# ---- the model ------------------------------------------------------------------------------------------------


class Request(Protocol):
    """What is asked for, as far as draws need it."""

    @property
    def n_samples(self) -> int: ...

    @property
    def masks(self) -> str: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def workers(self) -> int | None: ...

    @property
    def seed(self) -> int: ...


class Besides(Protocol):
    """What is sampled besides dropout."""

    @property
    def gaussian_noise(self) -> bool: ...


@dataclass
class KerasNetwork:
    """The Keras model to sample: how it takes inputs, and what its outputs mean."""

    model: Any
    replica: Replica
    outputs: Outputs
    taking: Taking
    named: dict[str, Any]  # the symbolic inputs of a model that has some
    settled: dict[Kinds, Casts] = field(default_factory=dict)  # how it takes arrays of these types
    lookups: dict[Any, int] = field(default_factory=dict)  # in embeddings in one pass, by the signature of its inputs

    @classmethod
    def of(
        cls,
        model: Any,
        outputs: str | None,
        labels: Iterable[Label] | None,
        select: Select | None,
        precision: str,
        device: str | Sequence[str],
        constants: Mapping[str, Any] | None = None,
    ) -> KerasNetwork:
        """Check what can be known before anything runs."""
        backend = check_keras(model)
        if precision != "float32":
            raise ValueError(
                f"`precision` of a Keras model is that of its layers, by their dtype policy; got {shown(precision)}."
            )
        if constants:
            raise ValueError(
                f"`constants` are for torch modules, and Keras models take inputs alone; got {shown(list(constants))}; "
                "hold them in a model around it, which calls it with them."
            )
        where = _device(backend)
        if isinstance(device, (list, tuple)) and len(device) == 1:
            device = device[0]
        if device not in ("auto", where.type, str(where)):
            raise ValueError(
                f"`device` of a Keras model is where Keras has put it, {where}; got {shown(device)}. Set it by "
                "`keras.device()`."
            )
        meaning = Outputs.declared(outputs or outputs_of(model, select), labels, select, None)
        replica = Replica(model, backend, where, meaning.tensor)
        inputs = _named_inputs(model)
        taking = Taking(
            dtype=torch.float64 if any(one.dtype == "float64" for one in model.weights) else torch.float32,
            takes=Takes(tuple(inputs), (), False) if inputs else replace(Takes.of(model.call), mapping=True),
        )
        return cls(model, replica, replace(meaning, select=None), taking, inputs)

    def feed(self, x: Any) -> Feed:
        """`x` checked, as inputs that can be taken batch by batch."""
        if hasattr(x, "as_numpy_iterator"):  # a dataset of TensorFlow's
            if _shuffles(x):
                raise ValueError(
                    "`x` is a dataset that shuffles, so results could not be matched to inputs; give it before "
                    "`shuffle()`."
                )
            x = x.as_numpy_iterator()
        if isinstance(x, Mapping) and set(x) == {"inputs"} != set(self.named or x):
            x = x["inputs"]  # as Keras calls what a model is given
        return feed_of(tuple(x) if isinstance(x, list) and self._takes_several() else x, self.taking)

    def _takes_several(self) -> bool:
        return len(symbolic_inputs(self.model)) > 1

    def sampler(self, example: Inputs, request: Request, besides: Besides, rate: float | None = None) -> Sampler:
        """Find the sites, check the outputs, and make ready to draw; `rate` in place of the rates of all dropouts."""

        def make_plan(inputs: Inputs, _: torch.device) -> Plan:
            replica = self._new_replica()
            with self.telling(inputs):
                found = probe_keras(replica, inputs.cycled, besides.gaussian_noise)
            if rate is not None:
                found.sites = at_rate(found.sites, rate)
            self.outputs.check(found.output, found.n_inputs)
            more = self._new_replica if replica.backend == "torch" else None  # the others have threads of their own
            return KerasPlan(
                found,
                replica,
                more,
                self.outputs,
                request.n_samples,
                request.seed,
                request.masks,
                request.batch_size,
            )

        return Sampler(make_plan, example, request.seed, request.workers, [self.replica.device])

    def settle(self, inputs: Inputs) -> Casts:
        """The types that the model takes for those of these inputs; found out on the first three where it says none."""
        kinds = inputs.kinds
        if kinds not in self.settled:
            self.settled[kinds] = _whole_numbers_wanted(self.named) if self.named else self._found_out(inputs.cycled(3))
        return self.settled[kinds]

    def _found_out(self, head: Inputs) -> Casts:
        if not has_whole_numbers(head):
            return {}
        ways = ways_to_take(head, self.taking.dtype)
        return next((casts for casts in ways if self._takes(head.cast(casts))), {})

    def _takes(self, inputs: Inputs) -> bool:
        try:
            with random_state_kept():
                self.replica.run(inputs, CarefulPass(inputs))
        except Exception:  # each backend has errors of its own
            return False
        return True

    @contextmanager
    def telling(self, inputs: Inputs, first: int = 0) -> Iterator[None]:
        """If the model fails on these inputs, say so in one sentence; if it looks up what is not there, before."""
        try:
            self._check_lookups(inputs, first)
            yield
        except Exception as error:
            self.settled.pop(inputs.kinds, None)  # other numbers of these types may be taken
            if not str(error).startswith("`") and not isinstance(error, MemoryError):
                self.point(inputs)
            raise

    @cached_property
    def tables(self) -> list[tuple[Path, int, str]] | None:
        """Where the inputs are that embeddings look up, and the size and name of each; None where one gets others."""
        places = {id(one): ((place,), (name,)) for place, (name, one) in enumerate(self.named.items())}
        found = []
        for layer in filter(looks_up, self.model._flatten_layers()):
            given = [places.get(id(node.input_tensors[0]), ()) for node in layer._inbound_nodes]
            if not given or not all(given):
                return None
            found += [(place, layer.input_dim, layer.name) for both in given for place in both]
        return found

    def _check_lookups(self, inputs: Inputs, first: int) -> None:
        """Refuse numbers that embeddings do not have: backends wrap them, or make them NaN."""
        if self.tables is not None:
            arrays = inputs.arrays
            for place, size, name in self.tables:
                if place in arrays:
                    check_looked_up(
                        arrays[place].long(), (0, size - 1), name, inputs, lambda place=place: [place], first
                    )
            return
        careful = CarefulPass(inputs, first, self.lookups.get(inputs.signature, math.inf))
        with suppress(Exception), random_state_kept():  # what else is wrong is told of when it comes again
            self.replica.run(inputs, careful)
            self.lookups[inputs.signature] = careful.n_looked_up
        if careful.trouble is not None:
            raise careful.trouble

    def placed(self, inputs: Inputs, _: torch.device) -> Inputs:
        """Inputs stay with the host: the replica hands them to Keras."""
        return inputs.cast(self.settle(inputs))

    def _new_replica(self) -> Replica:
        return Replica(self.model, self.replica.backend, self.replica.device, self.replica.take)

    def point(self, inputs: Inputs) -> Tensor:
        """What the model returns with nothing dropped."""
        return self.replica.to_torch(self.replica.take(run_or_explain(self.replica, inputs, Pass())))

    def probed(self, head: Callable[[int], Inputs], besides: Besides) -> Probe:
        """Its sites, and what else the probes find out."""
        with self.telling(head(3)):
            return probe_keras(self.replica, head, besides.gaussian_noise)

    def is_of_values(self) -> bool:
        """Whether it is known to be a network for values."""
        return outputs_of(self.model, None) == "values"


def _device(backend: str) -> torch.device:
    """Where masks are made: next to the model on torch, else on the CPU."""
    if backend != "torch":
        return torch.device("cpu")
    return load_keras().ops.convert_to_tensor(0.0).device


def _named_inputs(model: Any) -> dict[str, Any]:
    """The symbolic inputs by name: those of the dictionary that the model was made with, where there is one."""
    graph = getattr(model, "_functional", None) or model  # of a sequential model
    struct = getattr(graph, "_inputs_struct", None)
    return struct if isinstance(struct, dict) else {one.name: one for one in symbolic_inputs(model)}


def _whole_numbers_wanted(inputs: dict[str, Any]) -> Casts:
    """Which inputs are to be whole numbers, by their place and by their name: Keras would cut others.

    To all else Keras gives the type that is said of its input.
    """
    wanted = [(place, name) for place, (name, one) in enumerate(inputs.items()) if "int" in str(one.dtype)]
    return {(where,): torch.int64 for pair in wanted for where in pair}


def _shuffles(dataset: Any) -> bool:
    return "Shuffle" in type(dataset).__name__ or any(map(_shuffles, dataset._inputs()))


# ---- what the outputs mean ------------------------------------------------------------------------------------


def outputs_of(model: Any, select: Select | None) -> str | None:
    """What the model returns, where its last activation or its loss says so for sure; else None.

    A softmax gives probabilities, and so does the sigmoid of a single output. What has no activation is logits or
    values as the loss says that it was compiled with.
    """
    last = _last_layer(model, select)
    activation = _activation(last) if last is not None else ""
    single = last is not None and last.output.shape[-1] == 1
    if activation == "softmax" and not single:
        return "probabilities"
    if activation == "sigmoid":
        return "probabilities" if single else None
    if activation in ("linear", ""):
        said = _said_by_loss(model)
        return None if said == "probabilities" and activation == "linear" else said
    return None


def _last_layer(model: Any, select: Select | None) -> Any:
    """The layer that made the wanted output; None where no graph tells."""
    graph = getattr(model, "_functional", None) or model  # of a sequential model
    struct = getattr(graph, "_outputs_struct", None)  # as the model returns them
    named = struct if isinstance(struct, dict) else {}
    found = load_keras().tree.flatten(struct) if struct is not None else []
    if isinstance(select, str) and select in named:
        found = load_keras().tree.flatten(named[select])
    elif isinstance(select, int) and 0 <= select < len(found):
        found = [found[select]]
    if len(found) != 1 or callable(select):
        return None
    layer = found[0]._keras_history.operation
    nested = isinstance(layer, load_keras().Model)
    return _last_layer(layer, None) if nested else layer


def _activation(layer: Any) -> str:
    """The name of its activation; "" where it is not known."""
    kinds = load_keras().layers
    if isinstance(layer, kinds.Softmax):
        return "softmax" if layer.axis == -1 else ""
    if not isinstance(layer, (kinds.Dense, kinds.Activation, kinds.EinsumDense)):
        return ""
    return getattr(layer.activation, "__name__", "")


def _said_by_loss(model: Any) -> str | None:
    loss = getattr(model, "loss", None)
    if loss is None or isinstance(loss, (dict, list, tuple)):
        return None
    try:
        loss = load_keras().losses.get(loss)
    except ValueError:
        return None
    name = getattr(loss, "name", None) or getattr(loss, "__name__", "")
    if any(word in name for word in OF_CLASSES):
        from_logits = getattr(loss, "from_logits", False) or getattr(loss, "_fn_kwargs", {}).get("from_logits")
        return "logits" if from_logits else "probabilities"
    return "values" if any(word in name for word in OF_VALUES) else None
