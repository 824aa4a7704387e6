"""A Keras model, wrapped for `mc_predict()`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..checks import shown
from ..compute.out_of_memory import is_out_of_memory
from ..compute.streams import random_state_kept
from ..data.conversion import InputConversion, has_whole_numbers, ways_to_take
from ..data.inputs import Casts, Inputs, Kinds, Path, Takes
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
from .options import ModelOptions, SamplingOptions, SiteOptions

# Words in the names of losses; of a cross-entropy, `from_logits` says whether outputs are logits.
CLASSIFICATION_LOSSES = ("crossentropy",)

REGRESSION_LOSSES = ("mean_squared", "mean_absolute", "huber", "log_cosh")


@dataclass
class KerasModel:
    """The Keras model to sample: how it takes inputs, and what its outputs mean."""

    model: Any
    replica: Replica
    outputs: Outputs
    conversion: InputConversion
    named: dict[str, Any]  # the symbolic inputs by name, if the model has symbolic inputs
    known_casts: dict[Kinds, Casts] = field(default_factory=dict)  # the types to which arrays of these types are cast
    lookups: dict[Any, int] = field(default_factory=dict)  # lookups of embeddings in one pass, by inputs' signature

    @classmethod
    def of(cls, model: Any, options: ModelOptions) -> KerasModel:
        """The wrapped model; checks everything that can be checked before the model runs."""
        backend = check_keras(model)
        if options.precision != "float32":
            raise ValueError(
                "`precision` of a Keras model is that of its layers, by their dtype policy; got "
                f"{shown(options.precision)}."
            )
        if options.constants:
            raise ValueError(
                "`constants` are for torch modules, and Keras models take inputs alone; got "
                f"{shown(list(options.constants))}; hold them in a model around it, which calls it with them."
            )
        where, device, select = _device(backend), options.device, options.select
        if isinstance(device, (list, tuple)) and len(device) == 1:
            device = device[0]
        if device not in ("auto", where.type, str(where)):
            raise ValueError(
                f"`device` of a Keras model is where Keras has put it, {where}; got {shown(device)}. Set it by "
                "`keras.device()`."
            )
        outputs = Outputs.declared(options.outputs or outputs_of(model, select), options.labels, select, None)
        replica = Replica(model, backend, where, outputs.tensor)
        inputs = _named_inputs(model)
        conversion = InputConversion(
            dtype=torch.float64 if any(weights.dtype == "float64" for weights in model.weights) else torch.float32,
            takes=Takes(tuple(inputs), (), False) if inputs else replace(Takes.of(model.call), mapping=True),
        )
        return cls(model, replica, replace(outputs, select=None), conversion, inputs)

    def source(self, x: Any) -> InputSource:
        """The source of the inputs `x`, checked."""
        if hasattr(x, "as_numpy_iterator"):  # a dataset of TensorFlow's
            if _shuffles(x):
                raise ValueError(
                    "`x` is a dataset that shuffles, so results could not be matched to inputs; give it before "
                    "`shuffle()`."
                )
            x = x.as_numpy_iterator()
        if isinstance(x, Mapping) and set(x) == {"inputs"} != set(self.named or x):
            x = x["inputs"]  # Keras's name for the inputs of a model
        return source_of(tuple(x) if isinstance(x, list) and self._takes_several() else x, self.conversion)

    def _takes_several(self) -> bool:
        return len(symbolic_inputs(self.model)) > 1

    def sampler(
        self, example: Inputs, options: SamplingOptions, site_options: SiteOptions, rate: float | None = None
    ) -> Sampler:
        """Find the sites, check the outputs, and prepare to draw; `rate` replaces the rates of all dropouts."""

        def make_plan(inputs: Inputs, _: torch.device) -> SamplingPlan:
            replica = self._new_replica()
            with self.failures_explained(inputs):
                result = probe_keras(replica, inputs.cycled, site_options.gaussian_noise)
            if rate is not None:
                result.sites = at_rate(result.sites, rate)
            self.outputs.check(result.output, result.n_inputs)
            # TensorFlow and JAX start threads themselves
            more_replicas = self._new_replica if replica.backend == "torch" else None
            passes = KerasPasses(result, replica, more_replicas, self.outputs, options.seed, options.masks)
            return SamplingPlan.of(passes, options.n_samples, options.batch_size)

        return Sampler(make_plan, example, options.seed, options.workers, [self.replica.device])

    def casts_for(self, inputs: Inputs) -> Casts:
        """The types to which these inputs are cast: those the model declares, else those of a trial on three inputs."""
        kinds = inputs.kinds
        if kinds not in self.known_casts:
            self.known_casts[kinds] = (
                _whole_numbers_wanted(self.named) if self.named else self._find_casts(inputs.cycled(3))
            )
        return self.known_casts[kinds]

    def _find_casts(self, head: Inputs) -> Casts:
        if not has_whole_numbers(head):
            return {}
        ways = ways_to_take(head, self.conversion.dtype)
        return next((casts for casts in ways if self._takes(head.cast(casts))), {})

    def _takes(self, inputs: Inputs) -> bool:
        try:
            with random_state_kept():
                self.replica.run(inputs, CarefulPass(inputs))
        except Exception:  # each backend raises its own types of errors
            return False
        return True

    @contextmanager
    def failures_explained(self, inputs: Inputs, first: int = 0) -> Iterator[None]:
        """Refuse lookups out of range before the block; explain a failure of the model inside it in one sentence."""
        try:
            self._check_lookups(inputs, first)
            yield
        except Exception as error:
            self.known_casts.pop(inputs.kinds, None)  # other numbers of these types may work
            if not str(error).startswith("`") and not is_out_of_memory(error):
                self.point(inputs)
            raise

    @cached_property
    def tables(self) -> list[tuple[Path, int, str]] | None:
        """The paths of the inputs of embeddings, with the size and name of each embedding.

        None if an embedding gets anything but an input of the model.
        """
        paths = {id(x): ((place,), (name,)) for place, (name, x) in enumerate(self.named.items())}
        tables = []
        for layer in filter(looks_up, self.model._flatten_layers()):
            looked_up = [paths.get(id(node.input_tensors[0]), ()) for node in layer._inbound_nodes]
            if not looked_up or not all(looked_up):
                return None
            tables += [
                (path, layer.input_dim, layer.name) for by_place_and_name in looked_up for path in by_place_and_name
            ]
        return tables

    def _check_lookups(self, inputs: Inputs, first: int) -> None:
        """Refuse numbers out of the range of an embedding, which backends would wrap or turn into NaN."""
        if self.tables is not None:
            arrays = inputs.arrays
            for path, size, name in self.tables:
                if path in arrays:
                    check_looked_up(arrays[path].long(), (0, size - 1), name, inputs, lambda path=path: [path], first)
            return
        careful = CarefulPass(inputs, first, self.lookups.get(inputs.signature, math.inf))
        with suppress(Exception), random_state_kept():  # other errors come again in the block, and are explained there
            self.replica.run(inputs, careful)
            self.lookups[inputs.signature] = careful.n_looked_up
        if careful.trouble is not None:
            raise careful.trouble

    def placed(self, inputs: Inputs, _: torch.device) -> Inputs:
        """Inputs in the types that the model takes; they stay on the host until the replica passes them to Keras."""
        return inputs.cast(self.casts_for(inputs))

    def _new_replica(self) -> Replica:
        return Replica(self.model, self.replica.backend, self.replica.device, self.replica.take)

    def point(self, inputs: Inputs) -> Tensor:
        """The output of the model with dropout off."""
        return self.replica.to_torch(self.replica.take(run_or_explain(self.replica, inputs, Pass())))

    def probed(self, head: Callable[[int], Inputs], site_options: SiteOptions) -> Probe:
        """The probe of the model: its sites, among others."""
        with self.failures_explained(head(3)):
            return probe_keras(self.replica, head, site_options.gaussian_noise)

    def is_of_values(self) -> bool:
        """Whether the model is known to predict values."""
        return outputs_of(self.model, None) == "values"


def _device(backend: str) -> torch.device:
    """The device of the masks: on torch that of the model, else the CPU."""
    if backend != "torch":
        return torch.device("cpu")
    return load_keras().ops.convert_to_tensor(0.0).device


def _named_inputs(model: Any) -> dict[str, Any]:
    """The symbolic inputs by name, as in the dictionary that the model was made with if there is one."""
    graph = getattr(model, "_functional", None) or model  # of a sequential model
    struct = getattr(graph, "_inputs_struct", None)
    return struct if isinstance(struct, dict) else {x.name: x for x in symbolic_inputs(model)}


def _whole_numbers_wanted(inputs: dict[str, Any]) -> Casts:
    """The inputs that must be whole numbers, by their place and by their name; Keras would truncate others.

    All other inputs are cast by Keras to the declared type.
    """
    whole = [(place, name) for place, (name, x) in enumerate(inputs.items()) if "int" in str(x.dtype)]
    return {(path,): torch.int64 for place_and_name in whole for path in place_and_name}


def _shuffles(dataset: Any) -> bool:
    return "Shuffle" in type(dataset).__name__ or any(map(_shuffles, dataset._inputs()))


def outputs_of(model: Any, select: Select | None) -> str | None:
    """What the model returns, if its last activation or its loss is clear; else None.

    A softmax gives probabilities, and so does the sigmoid of a single output. Without an activation, the loss that the
    model was compiled with tells logits from values.
    """
    last = _last_layer(model, select)
    activation = _activation(last) if last is not None else ""
    single = last is not None and last.output.shape[-1] == 1
    if activation == "softmax" and not single:
        return "probabilities"
    if activation == "sigmoid":
        return "probabilities" if single else None
    if activation in ("linear", ""):
        by_loss = _outputs_by_loss(model)
        return None if by_loss == "probabilities" and activation == "linear" else by_loss
    return None


def _last_layer(model: Any, select: Select | None) -> Any:
    """The layer that computes the selected output; None if no graph of the model shows it."""
    graph = getattr(model, "_functional", None) or model  # of a sequential model
    struct = getattr(graph, "_outputs_struct", None)  # as the model returns them
    named = struct if isinstance(struct, dict) else {}
    tensors = load_keras().tree.flatten(struct) if struct is not None else []
    if isinstance(select, str) and select in named:
        tensors = load_keras().tree.flatten(named[select])
    elif isinstance(select, int) and 0 <= select < len(tensors):
        tensors = [tensors[select]]
    if len(tensors) != 1 or callable(select):
        return None
    layer = tensors[0]._keras_history.operation
    nested = isinstance(layer, load_keras().Model)
    return _last_layer(layer, None) if nested else layer


def _activation(layer: Any) -> str:
    """The name of the activation of a layer; "" if it is not known."""
    kinds = load_keras().layers
    if isinstance(layer, kinds.Softmax):
        return "softmax" if layer.axis == -1 else ""
    if not isinstance(layer, (kinds.Dense, kinds.Activation, kinds.EinsumDense)):
        return ""
    return getattr(layer.activation, "__name__", "")


def _outputs_by_loss(model: Any) -> str | None:
    """What the model returns according to its loss; None if the loss does not say."""
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
