"""A Keras model as `mc_predict()` sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..checks import shown
from ..compute.streams import random_state_kept
from ..data.conversion import InputConversion, has_whole_numbers, ways_to_take
from ..data.inputs import Casts, Inputs, Kinds, Path, Takes
from ..data.labels import Label
from ..data.sources import InputSource, source_of
from ..engine.keras_passes import KerasPasses
from ..engine.plan import SamplingPlan
from ..engine.sampler import Sampler
from ..predictions.outputs import Outputs, Select
from ..sites.keras.loading import check_keras, load_keras
from ..sites.keras.passes import CarefulPass, Pass, looks_up
from ..sites.keras.probe import probe_keras, run_or_explain, symbolic_inputs
from ..sites.keras.replica import Replica
from ..sites.lookups import check_looked_up
from ..sites.probe import Probe
from ..sites.site import at_rate
from .options import SamplingOptions, SiteOptions

# Words in the names of losses; with cross-entropies, `from_logits` says the rest.
CLASSIFICATION_LOSSES = ("crossentropy",)

REGRESSION_LOSSES = ("mean_squared", "mean_absolute", "huber", "log_cosh")


@dataclass
class KerasModel:
    """The Keras model to sample: how it takes inputs, and what its outputs mean."""

    model: Any
    replica: Replica
    outputs: Outputs
    taking: InputConversion
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
    ) -> KerasModel:
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
        taking = InputConversion(
            dtype=torch.float64 if any(one.dtype == "float64" for one in model.weights) else torch.float32,
            takes=Takes(tuple(inputs), (), False) if inputs else replace(Takes.of(model.call), mapping=True),
        )
        return cls(model, replica, replace(meaning, select=None), taking, inputs)

    def feed(self, x: Any) -> InputSource:
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
        return source_of(tuple(x) if isinstance(x, list) and self._takes_several() else x, self.taking)

    def _takes_several(self) -> bool:
        return len(symbolic_inputs(self.model)) > 1

    def sampler(
        self, example: Inputs, request: SamplingOptions, besides: SiteOptions, rate: float | None = None
    ) -> Sampler:
        """Find the sites, check the outputs, and make ready to draw; `rate` in place of the rates of all dropouts."""

        def make_plan(inputs: Inputs, _: torch.device) -> SamplingPlan:
            replica = self._new_replica()
            with self.telling(inputs):
                probed = probe_keras(replica, inputs.cycled, besides.gaussian_noise)
            if rate is not None:
                probed.sites = at_rate(probed.sites, rate)
            self.outputs.check(probed.output, probed.n_inputs)
            # TensorFlow and JAX have threads of their own
            more_replicas = self._new_replica if replica.backend == "torch" else None
            passes = KerasPasses(probed, replica, more_replicas, self.outputs, request.seed, request.masks)
            return SamplingPlan.of(passes, request.n_samples, request.batch_size)

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

    def probed(self, head: Callable[[int], Inputs], besides: SiteOptions) -> Probe:
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
    if any(word in name for word in CLASSIFICATION_LOSSES):
        from_logits = getattr(loss, "from_logits", False) or getattr(loss, "_fn_kwargs", {}).get("from_logits")
        return "logits" if from_logits else "probabilities"
    return "values" if any(word in name for word in REGRESSION_LOSSES) else None
