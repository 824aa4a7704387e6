"""`mc_predict()`: draw networks, run the inputs through them, keep the summaries.

Inputs come in batches; the summaries of a batch are made when its draws are complete, so that memory does not grow
with inputs x draws unless the draws are kept.
"""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .arrays import Label, as_devices, label_array, row_names_of
from .backbones import FrozenNetwork, behind_backbone
from .checks import (
    OutOfMemory,
    check_choice,
    check_count,
    check_flag,
    check_length,
    check_number,
    check_seed,
    free_memory,
    shown,
    warn,
    whole,
)
from .devices import Lanes, answers_at_once, chunk_bytes, fetched, for_float64
from .draws import Plan, Sampler, Workers
from .inputs import (
    ArrayFeed,
    Casts,
    Feed,
    Inputs,
    Kinds,
    Path,
    Takes,
    Taking,
    as_constants,
    check_given_once,
    feed_of,
    has_whole_numbers,
    placed_constants,
    ways_to_take,
)
from .keras_draws import KerasNetwork
from .keras_sites import check_keras, is_keras, is_keras_2, load_model
from .models import MCNetwork
from .outputs import Outputs, Select
from .precision import PRECISIONS
from .prediction import BY_INPUT, MCPrediction, with_index
from .progress import Progress, reporting
from .randomness import OwnStream, input_ids, other_generators_kept
from .sites import (
    CarefulMode,
    Probe,
    Replica,
    StochasticMode,
    advice_on,
    at_rate,
    caveats_on,
    explained,
    first_line,
    probe,
    random_state_kept,
    replicate,
    sites_table,
    tensors_in,
    unwrapped,
    with_gradients_if_asked,
)
from .snapshots import Snapshot
from .summaries import standard_error, summarise_classes, summarise_values
from .variational import BayesConv2d

MASKS = ("shared", "per_input")
GROUP_BYTES = 2 << 20  # batches are drawn together as long as neither they nor their draws are larger
DRAWS_BYTES = 8 << 20  # draws at a time on a CPU, float32; there are some copies of them for a while
PIECE_NUMBERS = 1 << 16  # of them that are summarised at once: in float64 they and what is made of them stay in cache
ASKED_FROM = 16 << 20  # of fewer bytes nobody asks whether memory has room: to ask takes as long as a small prediction
FIRST_ROUND = 10  # draws before `tolerance` is first looked at; each further round adds about a half


def mc_predict(
    model: Any,
    x: Any,
    n_samples: int = 50,
    batch_size: int = 128,
    *,
    level: float = 0.95,
    masks: str = "shared",
    ids: Sequence[object] | None = None,
    tolerance: float | None = None,
    keep_samples: bool = True,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    constants: Mapping[str, Any] | None = None,
    stochastic_depth: bool = True,
    gaussian_noise: bool = False,
    workers: int | None = None,
    precision: str = "float32",
    device: str | Sequence[str] = "auto",
    seed: int | None = None,
    progress: Progress = True,
) -> MCPrediction:
    """Predict with `n_samples` networks, drawn by dropout masks and by the posteriors of variational layers.

    model: any torch module with dropout or variational layers, or Keras 3 model on its backend torch, TensorFlow or JAX
      (or the path of its `.keras` file); it stays as it is. Our own networks and Keras take images as (input, height,
      width, channel); other modules get tensors as they are given. Random numbers that the model draws itself, as by
      `rand` or `bernoulli`, are sampled too; uniform ones and decisions also where training alone draws them.
    x: an array with inputs along the first axis; a tuple (by position) or a mapping (by keyword) of several, in which a
      mapping may stand for an argument that is one, as in `({"ids": ids, "mask": mask},)`; a torch Dataset or
      DataLoader, or any iterator of batches, so that data larger than memory streams.
      Truth values and whole numbers reach a module as they are, floating numbers as the type of its weights. Where it
      fails on its first inputs so, whole numbers are tried as int64 and then as floating (as pixels and features want
      to be), of as few arrays as can be; floating codes that are all whole are tried as int64.
      A batch is one of these forms, or a pair (inputs, target), of which the inputs are taken; three parts or more are
      refused, and so is a list of two arrays of one shape with three axes or more, unless a DataLoader made it: it may
      be two images. In batches by keyword, what `model` has no argument for is left out, and so are `labels`, `label`,
      `targets` and `target` unless it must have them. A loader must give all inputs in their order, one for each item
      of its dataset, unless those are batches (`batch_size=None`).
    n_samples: number of draws, at least 2. batch_size: inputs handled at a time; changes rounding alone.
    level: of the intervals.
    masks: "shared" (draw t is the same network for every input) or "per_input" (fresh masks for each input, keyed by
      `ids`, its position by default: inputs with the same id get the same masks; an index of `x` keys none); weights
      of variational layers are drawn once for all inputs in both cases.
    tolerance: draw only until each input's largest Monte Carlo standard error of `mean` is below this, `n_samples`
      being the most; `prediction.n_samples` then says how many each input took, and kept draws end in NaN.
      Inputs whose first draws happen to agree stop early, so answers lean to the sure side: on real images, with a
      tolerance that 100 draws meet, the likeliest label gained 0.002 and mutual information lost 0.009 nats.
    keep_samples: keep the draws themselves, float32 (draw, input, output); float64 for values of our own networks.
    outputs: what a module that is not ours returns (of a Keras model read from its last activation, or from its loss,
      where that is sure), "logits", "probabilities", "values" or "mean_log_variance"
      (means, then log variances, along the last axis); a single logit or probability is that of the second of two
      labels, as is a single channel, the second axis or the last, of a map. Several labels that may hold at once are
      "values", or one of them at a time, by `select`. labels: names of its classes, 0, 1, ... by default; with more
      than two axes they tell which is theirs. Our own networks have theirs, and refuse others.
    select: which part of a tuple or mapping that `model` returns, or a function that takes it out.
    constants: what else `model` is given, by keyword, the same for all inputs: flags, edges, an adjacency matrix. A
      mapping of names; arrays become tensors, floating ones of the type of its weights. Not for Keras models.
    stochastic_depth: whether whole blocks that are skipped at random when training are sampled too.
    gaussian_noise: whether normal noise that acts in training alone is sampled too, as that of Keras's `GaussianNoise`.
    workers: threads that each work on a chunk of draws x inputs with one thread of torch, one alone with all of
      torch's; by default as many as torch uses on a CPU, and one on a GPU. With how many changes the result by rounding
      alone. Keras on TensorFlow and JAX has threads of its own. Processes that are forked off compute with one thread;
      there GPUs and Keras on TensorFlow or JAX are refused: start such by "spawn".
    precision: "float32", "bfloat16" or "float16" for the network; summaries are in float64 always. On real images
      either moves the mean by less than a tenth of what another `seed` does (tests/benchmarks/bench_precision.py).
    device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1", ..., or several, as in
      `["cuda:0", "cuda:1"]`, which take batches in turns; with how many changes the result by rounding alone. Precision
      and device of a Keras model are as Keras has them.
    seed: from 0 to 2^53 - 1, decides every mask; None draws one and the result carries it.
    progress: a bar on long runs, or a function of (done, total, text).

    The result for an input depends on the model, that input, `seed` and `n_samples` alone, up to rounding (about 1e-5);
    the same call gives the same numbers to the bit on one machine with as many threads of torch.

    Raises ValueError for arguments that cannot be, NoStochasticSites where there is no dropout to sample,
    IdenticalDraws where all draws are the same, OutOfMemory where the draws to keep would not fit.
    Reference: Gal and Ghahramani (2016), arXiv:1506.02142.
    """
    started = time.perf_counter()
    request = Request.checked(n_samples, batch_size, level, masks, tolerance, keep_samples, workers, seed)
    names = row_names_of(x)
    model, x = behind_backbone(model, x, device)
    besides = Besides.checked(stochastic_depth, gaussian_noise)
    network = network_of(model, outputs, labels, select, precision, device, constants)
    feed = network.feed(x)
    ids = None if ids is None else check_ids(ids)
    if ids is not None and feed.n_inputs is not None:
        check_length(len(ids), "ids", feed.n_inputs, "x")
    sampler = sampler_for(network, feed, request, besides)
    return with_index(draw_all(network, sampler, feed, request, ids, progress, started), names)


def mc_predict_point(
    model: Any,
    x: Any,
    batch_size: int = 128,
    *,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    constants: Mapping[str, Any] | None = None,
    precision: str = "float32",
    device: str | Sequence[str] = "auto",
    progress: Progress = True,
) -> np.ndarray:
    """The ordinary prediction with dropout off, to compare: probabilities (input, label) or values (input, output).

    Arguments are those of `mc_predict()`, of several devices the first is taken; labels are in the order of
    `model.labels`. Random numbers that the model draws in prediction are those that its own call would draw now; the
    generators that they come from stay where they are.
    """
    batch_size = check_count(batch_size, "batch_size")
    model, x = behind_backbone(model, x, device)
    network = network_of(model, outputs, labels, select, precision, device, constants)
    feed = network.feed(x)
    parts, n_seen, stream = [], 0, OwnStream(None)

    def point(placed: Inputs) -> Any:
        with stream:
            return network.point(placed)

    with (
        reporting(progress, feed.n_inputs, "input", "Predicting") as report,
        other_generators_kept(waits=False) as moved,
    ):
        network.settle(feed.head(3))
        for inputs in feed.batches(batch_size):
            placed = network.placed(inputs, network.replica.device)
            with network.telling(placed, n_seen):
                result = point(placed)
            if not parts:
                network.outputs.check(result, len(inputs))
            raw = network.outputs.tensor(result).detach()
            values = network.outputs.draws(raw.to(for_float64(raw.device))[None])[0]
            _check_sound(_sound(values).cpu().numpy(), n_seen + np.arange(len(inputs)))
            parts.append(values[0].cpu().numpy())
            n_seen += len(inputs)
            report(len(inputs))
        moved(lambda: point(network.placed(feed.head(1), network.replica.device)))
    return np.concatenate(parts)


def mc_sites(
    model: Any,
    x: Any,
    *,
    constants: Mapping[str, Any] | None = None,
    stochastic_depth: bool = True,
    gaussian_noise: bool = False,
) -> pd.DataFrame:
    """The places where `mc_predict(model, x)` will sample: one row per site.

    Columns: site (module path and call number), operation, rate (of dropping; of a 0 where the model draws decisions
    itself; NaN where numbers or weights are drawn), shape (of the mask of one input, or how many weights). The masks
    of a site are keyed by its row, so models with the same rows draw the same masks, from torch and from Keras.
    Warns of random numbers that are left out or cannot be keyed, and where the spread is likely to say little: dropout
    before the last layer alone, and rates under 0.1 or over 0.7 in anything but a network of ours, or a Keras model by
    its loss, for values. Raises NoStochasticSites where there is nothing to sample.
    """
    model, x = behind_backbone(model, x)
    besides = Besides.checked(stochastic_depth, gaussian_noise)
    where = "cpu" if isinstance(model, nn.Module) and not is_keras(model) else "auto"
    outputs = None if isinstance(model, MCNetwork) else "values"
    network = network_of(model, outputs, None, None, "float32", where, constants)
    feed = network.feed(x)
    network.settle(feed.head(3))
    found = network.probed(lambda n: network.placed(feed.head(n), network.replica.device), besides)
    check_numbers(found.output, found.n_inputs)
    for text in (*caveats_on(found), *advice_on(found, classifier=not network.is_of_values())):
        warn(text)
    return sites_table(found)


def mc_sampler(
    model: Any,
    example: Any,
    n_samples: int = 50,
    *,
    level: float = 0.95,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    constants: Mapping[str, Any] | None = None,
    stochastic_depth: bool = True,
    gaussian_noise: bool = False,
    precision: str = "float32",
    device: str | Sequence[str] = "auto",
    seed: int | None = None,
) -> MCSampler:
    """Prepare `mc_predict()` for a service that is asked again and again: the result is called with inputs.

    Sites, masks and chunks are made once, from `example` (inputs like those to come), and made anew in the first call
    after the model was changed: trained on, given other weights, statistics or rates. The answers are those of
    `mc_predict()` with shared masks, the same seed and no draws kept. Other arguments are those of `mc_predict()`.
    """
    request = Request.checked(n_samples, 128, level, "shared", None, False, None, seed)
    besides = Besides.checked(stochastic_depth, gaussian_noise)
    labels = None if labels is None else list(labels)
    if isinstance(model, (str, os.PathLike)) and str(model).endswith(".keras"):
        model = load_model(model)
    kind_of(model)

    def network() -> Network | KerasNetwork:
        inner = model.head if isinstance(model, FrozenNetwork) else model
        return network_of(inner, outputs, labels, select, precision, device, constants)

    prepared = MCSampler(model, network, request, besides)
    prepared(example)  # the engine is chosen and the masks are made here, not in the first answer
    return prepared


def check_ids(ids: Any) -> list[Any]:
    """Whole numbers of 64 bits, or words."""
    found = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else [ids]
    for one in found:
        number = whole(one)
        if not (isinstance(one, str) or (number is not None and -(2**63) <= number < 2**63)) or found == [ids]:
            raise ValueError(f"`ids` must be whole numbers or words, one per input; got {shown(one)}.")
    return found


class MCSampler:
    """What `mc_sampler()` gives: call it with inputs.

    It answers as the model is when it is called: the first call after a change takes as long as `mc_predict()` does.
    What is written behind torch's back into weights of another device than the one that draws (by `weight.data`, by
    NumPy) is not seen there; make a new sampler then.
    """

    def __init__(
        self, model: Any, network: Callable[[], Network | KerasNetwork], request: Request, besides: Besides
    ) -> None:
        self.model, self.network, self.request, self.besides = model, network, request, besides
        self.prepared: tuple[Snapshot, Network | KerasNetwork, Sampler] | None = None

    def __call__(self, x: Any) -> MCPrediction:
        """Predict these inputs."""
        names = row_names_of(x)
        started = time.perf_counter()
        known = self.prepared
        if known is None or not known[0].holds():
            seen, network = Snapshot(self.model), self.network()
            feed = self._feed(network, x)
            known = self.prepared = seen, network, sampler_for(network, feed, self.request, self.besides)
        else:
            feed = self._feed(known[1], x)
        _, network, sampler = known
        return with_index(draw_all(network, sampler, feed, self.request, None, False, started), names)

    def _feed(self, network: Network | KerasNetwork, x: Any) -> Feed:
        if isinstance(self.model, FrozenNetwork):
            x = self.model.looked_at(x, device=network.replica.device)
        return network.feed(x)


@dataclass(frozen=True)
class Request:
    """What is asked of a prediction, checked."""

    n_samples: int
    batch_size: int
    level: float
    masks: str
    tolerance: float | None
    keep_samples: bool
    workers: int | None
    seed: int

    @classmethod
    def checked(
        cls,
        n_samples: int,
        batch_size: int,
        level: float,
        masks: str,
        tolerance: float | None,
        keep_samples: bool,
        workers: int | None,
        seed: int | None,
    ) -> Request:
        """Each argument in turn."""
        return cls(
            check_count(n_samples, "n_samples", at_least=2),
            check_count(batch_size, "batch_size"),
            check_number(level, "level", above=0, below=1),
            check_choice(masks, "masks", MASKS),
            None if tolerance is None else check_number(tolerance, "tolerance", above=0),
            check_flag(keep_samples, "keep_samples"),
            None if workers is None else check_count(workers, "workers"),
            check_seed(seed),
        )

    def rounds(self) -> list[range]:
        """The draws in rounds, fixed in advance: all at once, or 10, 15, 22, 33, ... with `tolerance`."""
        ends = [self.n_samples]
        if self.tolerance is not None:
            ends, end = [], FIRST_ROUND
            while end < self.n_samples:
                ends.append(end)
                end += end // 2
            ends.append(self.n_samples)
        return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Besides:
    """What is sampled besides dropout, if that is wished."""

    stochastic_depth: bool
    gaussian_noise: bool

    @classmethod
    def checked(cls, stochastic_depth: bool, gaussian_noise: bool) -> Besides:
        """Each in turn."""
        return cls(check_flag(stochastic_depth, "stochastic_depth"), check_flag(gaussian_noise, "gaussian_noise"))


# ---- the model ------------------------------------------------------------------------------------------------


def network_of(
    model: Any,
    outputs: str | None,
    labels: Iterable[Label] | None,
    select: Select | None,
    precision: str,
    device: str | Sequence[str],
    constants: Mapping[str, Any] | None = None,
) -> Network | KerasNetwork:
    """How to run this model, by the library that it was made with."""
    if isinstance(model, (str, os.PathLike)) and str(model).endswith(".keras"):
        model = load_model(model)
    return kind_of(model).of(model, outputs, labels, select, precision, device, constants)


def kind_of(model: Any) -> type[Network] | type[KerasNetwork]:
    """What runs models of the library that this one was made with; refuses what is no model."""
    if is_keras(model) or is_keras_2(model):
        check_keras(model)
        return KerasNetwork
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch module or a Keras model; got {shown(type(model).__name__)}.")
    return Network


@dataclass
class Network:
    """The model to sample: how it takes inputs, and what its outputs mean."""

    model: nn.Module
    replica: Replica
    outputs: Outputs
    taking: Taking
    devices: list[torch.device]  # the replica's is the first
    constants: dict[torch.device, dict[str, Any]]  # what the model is given beside its inputs, by where it is
    # how it takes arrays of these types, or why it takes them in no way
    settled: dict[Kinds, tuple[Casts, ValueError | None]] = field(default_factory=dict)
    settling: Any = field(default_factory=threading.Lock)

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
    ) -> Network:
        """Check what can be known before anything runs."""
        check_choice(precision, "precision", PRECISIONS)
        ours = isinstance(model, MCNetwork)
        known = Outputs(model.outputs, model.labels or ()) if isinstance(model, MCNetwork) else None
        if isinstance(model, MCNetwork):
            # `feed()` and `Outputs.draws()` put numbers into units, in float64; `select` gets the caller's
            model = model.standard_view(values=select is None)
        meaning = Outputs.declared(outputs, labels, select, known)
        devices = as_devices(device)
        modules = list(model.modules())
        dtypes = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
        taking = Taking(
            dtype=dtypes[0] if dtypes else torch.float32,
            floats=ours,
            channels_last=not ours
            and any(isinstance(one, nn.Conv2d | BayesConv2d) for one in modules),  # ours do so themselves
            columns=model.columns if isinstance(model, MCNetwork) else (),
            takes=Takes.of(unwrapped(model).forward),
        )
        given = as_constants(constants, taking.takes, taking.dtype)
        there = {devices[0]: placed_constants(given, devices[0])}
        return cls(model, replicate(model, devices[0], precision), meaning, taking, devices, there)

    def feed(self, x: Any) -> Feed:
        """`x` checked, as inputs that can be taken batch by batch."""
        if isinstance(self.model, MCNetwork) and not self.model.is_image:
            self.taking = replace(self.taking, standard=self.model.units("feature", "cpu").standard)
        if isinstance(self.model, MCNetwork) and self.model.gives_standard and self.outputs.task == "regression":
            self.outputs.callers = _in_callers_units(self.model)
        feed = feed_of(x, self.taking)
        if isinstance(self.model, MCNetwork):
            shape = feed.shape if isinstance(feed, ArrayFeed) else (1, *feed.head(1).args[0].shape[1:])
            self.model.check_input_shape(shape)
        if constants := self.constants[self.devices[0]]:
            check_given_once(constants, feed.head(1), self.taking.takes)
        return feed

    def placed(self, inputs: Inputs, device: torch.device) -> Inputs:
        """Inputs as the model takes them on a device."""
        if device not in self.constants:
            self.constants[device] = placed_constants(self.constants[self.devices[0]], device)
        inputs = inputs.cast(self.settle(inputs))
        return self.taking.placed(inputs, device).with_constants(self.constants[device])

    def settle(self, inputs: Inputs) -> Casts:
        """The types that the model takes for those of these inputs; found out on the first three where they are new."""
        kinds = inputs.kinds
        with self.settling:
            if kinds not in self.settled:
                self.settled[kinds] = self._found_out(inputs)
            return self.settled[kinds][0]

    def _found_out(self, inputs: Inputs) -> tuple[Casts, ValueError | None]:
        """See `ways_to_take()` for whole numbers.

        Inputs stay in their own order in memory if it, as one that calls `view()`, can take no other.
        """
        head = inputs.cycled(3)
        whole = not self.taking.floats and has_whole_numbers(head)
        if not (whole or self.taking.channels_last):
            return {}, None
        failures = []
        for casts in ways_to_take(head, self.taking.dtype) if whole else ({},):
            failure = self._failure(head, casts)
            if self.taking.channels_last and "view size is not compatible" in str(failure):
                self.taking = replace(self.taking, channels_last=False)
                failure = self._failure(head, casts)
            if failure is None:
                return casts, None
            failures.append(failure)
        told = next((one for one in failures if str(one).startswith("`")), None)
        given, floating = first_line(failures[0]), first_line(failures[-1])
        if told is not None or (given != floating and any(not x.is_floating_point() for x in head.arrays.values())):
            return {}, ValueError(
                told
                or f"`model` fails on inputs of shape {head.shapes}, as they are ({given}) and as floating point "
                f"numbers ({floating}); give it what it takes."
            )
        return {}, None

    def _failure(self, inputs: Inputs, casts: Casts) -> Exception | None:
        """The error that the model raises."""
        floated = frozenset(path for path, dtype in casts.items() if dtype.is_floating_point)
        try:
            with random_state_kept(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._carefully(self.taking.placed(inputs.cast(casts), self.replica.device), floated=floated)
        except Exception as error:  # it comes again, and is told of, when the model is probed
            return error
        return None

    def _carefully(self, inputs: Inputs, first: int = 0, floated: frozenset[Path] = frozenset()) -> None:
        def work() -> None:
            own = inputs.with_constants(self.constants[self.devices[0]]).clone()
            with self.replica.predicting(), CarefulMode(self.replica, own, first, floated):
                self.replica.run(own)

        with_gradients_if_asked(self.replica, work)

    def point(self, inputs: Inputs) -> Any:
        """What the model returns with nothing dropped."""

        def work() -> Any:
            with self.replica.predicting(), StochasticMode(self.replica):
                return self.replica.run(inputs.clone())

        with explained(self.replica, inputs):
            return with_gradients_if_asked(self.replica, work)

    @contextmanager
    def telling(self, inputs: Inputs, first: int = 0) -> Iterator[None]:
        """If the model fails on these inputs, say which of them are whole numbers out of range, if any are."""
        try:
            yield
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            if str(error).startswith("`") and error.__cause__ is None:  # not of the model's
                raise
            # told of once: other numbers of these types may be taken
            _, trouble = self.settled.pop(inputs.kinds, ({}, None))
            inputs = inputs.each_tensor(lambda x: x.to(self.replica.device))
            try:
                with random_state_kept():
                    self._carefully(inputs, first)
            except ValueError as found:
                if str(found).startswith("`"):
                    raise found from error
            except Exception:  # as before
                pass
            if trouble is not None:
                raise trouble from error
            raise

    def probed(self, head: Callable[[int], Inputs], besides: Besides) -> Probe:
        """Its sites, and what else the probes find out."""
        with self.telling(head(3)):
            return probe(self.model, self.replica, head, besides.stochastic_depth, besides.gaussian_noise)

    def is_of_values(self) -> bool:
        """Whether it is known to be a network for values."""
        return isinstance(self.model, MCNetwork) and self.outputs.task != "classification"

    def sampler(self, example: Inputs, request: Request, besides: Besides, rate: float | None = None) -> Sampler:
        """Find the sites, check the outputs, and make ready to draw; `rate` in place of the rates of all sites."""
        # hooks of the user may share what they note, so nothing runs beside them
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

        def make_plan(inputs: Inputs, device: torch.device) -> Plan:
            def more_replicas() -> Replica:
                return replicate(self.model, device, self.replica.precision)

            replica = more_replicas()
            with self.telling(inputs):
                found = probe(self.model, replica, inputs.cycled, besides.stochastic_depth, besides.gaussian_noise)
            if rate is not None:
                found.sites = at_rate(found.sites, rate)
            self.outputs.check(found.output, found.n_inputs)
            more = None if hooked else more_replicas
            return Plan(
                found,
                replica,
                more,
                self.outputs,
                request.n_samples,
                request.seed,
                request.masks,
                request.batch_size,
            )

        return Sampler(make_plan, example, request.seed, request.workers, self.devices)


def _in_callers_units(model: MCNetwork) -> Callable[[Tensor], Tensor]:
    """With the units of now, which go to each device once: to copy them there for every batch would make a GPU wait."""
    units = cache(partial(model.units, "target"))
    return lambda out: model.in_callers_units(out, units(out.device))


# ---- batches --------------------------------------------------------------------------------------------------


def sampler_for(
    network: Network | KerasNetwork, feed: Feed, request: Request, besides: Besides, **more: Any
) -> Sampler:
    """The sampler of a network for inputs like the first ones."""
    return network.sampler(network.placed(feed.head(3), network.replica.device), request, besides, **more)


def draw_all(
    network: Network | KerasNetwork,
    sampler: Sampler,
    feed: Feed,
    request: Request,
    ids: Sequence[object] | None,
    progress: Progress,
    started: float,
) -> MCPrediction:
    """The prediction of a network whose sampler is ready: batches, rounds of draws, summaries."""
    out = network.outputs.tensor(sampler.first.probe.output)
    values, noise = network.outputs.draws(out[None].to(for_float64(out.device)))
    if request.keep_samples and feed.n_inputs is not None:
        shape = (request.n_samples, feed.n_inputs, *values.shape[2:])
        check_room(shape, 1 if noise is None else 2, values.itemsize)
    devices = sampler.devices
    most_bytes = chunk_bytes(devices[0], DRAWS_BYTES)
    size = group_size(request, 4 * out[0].numel(), sampler.input_bytes, most_bytes, len(devices) > 1)
    collected = Collected(feed.n_inputs, request)
    # beside a GPU: the next batch is on its way before this one's summaries are waited for
    behind = 0 if devices[0].type == "cpu" or len(devices) > 1 else 1
    under_way: deque[tuple[int, Iterable[Summarised]]] = deque()
    with (
        sampler.at_work() as crews,
        Lanes(len(devices)) as lanes,
        reporting(progress, feed.n_inputs, "input", "Sampling") as report,
    ):
        in_threads = len(devices) > 1
        # small results that lie about for long keep the memory around them from being used again
        at_once = behind == 0 and not in_threads

        def work(batch: Batch, lane: int) -> tuple[int, Iterable[Summarised]]:
            inputs = network.placed(batch.inputs, devices[lane])
            plan = sampler.plan(inputs, lane)
            # a caller's function, which may be R's, is called from the caller's thread alone
            told = _say_nothing if in_threads else report
            drawn = _drawn(plan, batch, inputs, request, crews[lane], told)
            done = (
                one
                for part in _told(drawn, network, inputs, batch.first)
                for one in crews[lane].side_by_side(partial(part.summarised, request), part.pieces())
            )
            return len(inputs), done if at_once else list(done)

        batches = _batches(feed, size, ids)
        for done in lanes.in_order(work, batches):
            under_way.append(done)
            if in_threads:
                report(done[0])
            if len(under_way) > behind:
                collected.put(under_way.popleft()[1])
        for _, parts in under_way:
            collected.put(parts)
    if ids is not None:
        check_length(len(ids), "ids", collected.n_seen, "x")
    sampler.check_spread()
    summary = collected.summary()
    for name in ("predicted", "second"):
        if name in summary:
            summary[name] = label_array(network.outputs.labels)[summary.pop(name)]
    return MCPrediction(
        task=network.outputs.task,
        n_samples=request.n_samples if request.tolerance is None else collected.n_drawn(),
        level=request.level,
        seed=request.seed,
        masks=request.masks,
        engine=sampler.first.engine,
        engine_reason=sampler.first.engine_reason,
        device=", ".join(map(str, devices)),
        precision=network.replica.precision,
        seconds=time.perf_counter() - started,
        labels=network.outputs.labels if network.outputs.task == "classification" else None,
        ids=None if ids is None else np.asarray(ids),
        id_names=("id",),
        samples=collected.samples(),
        noise_variances=collected.noise_variances(),
        temperature=1.0,
        **summary,
    )


def group_size(request: Request, output_bytes: int, input_bytes: int, most_bytes: int, single: bool) -> int:
    """Inputs that are drawn together: a batch, several where both they and their draws are small, fewer where large.

    `single`: one batch at most, as where several devices take turns.
    """
    draws_bytes = request.n_samples * output_bytes
    batches = 1 if single else max(1, GROUP_BYTES // (max(draws_bytes, input_bytes) * request.batch_size))
    return max(1, min(batches * request.batch_size, most_bytes // draws_bytes))


@dataclass
class Batch:
    """Some inputs, in the host's memory."""

    inputs: Inputs
    ids: np.ndarray
    first: int  # position of the first among all inputs


def _batches(feed: Feed, size: int, ids: Sequence[object] | None) -> Iterator[Batch]:
    """All inputs, in order, with what their masks are keyed by."""
    first = 0
    for inputs in feed.batches(size):
        names = None if ids is None else ids[first : first + len(inputs)]
        if names is not None and len(names) < len(inputs):
            raise ValueError(f"`ids` must be as long as `x`; got length {len(ids or ())}, and `x` goes on.")
        yield Batch(inputs, input_ids(names, len(inputs)) + (first if ids is None else 0), first)
        first += len(inputs)


@dataclass
class Summarised:
    """What is kept of the draws of some inputs."""

    places: np.ndarray  # positions among all inputs
    n_draws: int
    arrays: Callable[[], dict[str, np.ndarray]]  # as soon as the device has made them: see `Drawn.summarised()`


@dataclass
class Drawn:
    """The complete draws of some inputs."""

    places: np.ndarray  # positions among all inputs
    raw: Tensor  # (draw, input, ...)
    outputs: Outputs

    def pieces(self) -> list[slice]:
        """The inputs, on a CPU so many at a time that the summaries are made in cache."""
        n = len(self.places)
        step = max(1, PIECE_NUMBERS // self.raw[:, 0].numel()) if self.raw.is_cpu else n
        return [slice(start, start + step) for start in range(0, n, step)]

    def summarised(self, request: Request, piece: slice) -> Summarised:
        """Summaries by their names, "sound" (whether all numbers are finite), and the draws where they are wanted."""
        values, noise = self.outputs.draws(self.raw[:, piece])
        if self.outputs.task == "classification":
            made = summarise_classes(values, request.level)
        else:
            made = summarise_values(values, noise, request.level)
        made["sound"] = _sound(values)
        if request.keep_samples:
            made["samples"] = values.contiguous()
            if noise is not None:
                made["noise_variances"] = noise.contiguous()
        return Summarised(self.places[piece], len(values), fetched(made))

    def largest_error(self, piece: slice) -> Tensor:
        """The largest Monte Carlo standard error of each input's means, (input,)."""
        values, _ = self.outputs.draws(self.raw[:, piece])
        return standard_error(values).flatten(1).amax(dim=1)


def _sound(values: Tensor) -> Tensor:
    """Whether all numbers of each input are finite."""
    if answers_at_once(values) and bool(values.sum(dtype=torch.float64).isfinite()):  # then all that it met are
        return torch.ones(values.shape[1], dtype=torch.bool)
    return values.isfinite().flatten(2).all(dim=-1).all(dim=0)


def _drawn(
    plan: Plan,
    batch: Batch,
    inputs: Inputs,
    request: Request,
    workers: Workers,
    report: Callable[[int], None],
) -> Iterator[Drawn]:
    """Draw in rounds; the inputs that are known well enough leave after each. `inputs`: the batch's, on the device."""
    drawn, ids = None, batch.ids
    for draws in request.rounds():
        last = draws.stop == request.n_samples
        raw = plan.run(inputs, ids, draws, workers, report if last else _say_nothing).to(for_float64(plan.device))
        if drawn is None:
            drawn = Drawn(batch.first + np.arange(len(inputs)), raw, plan.outputs)
        else:
            drawn.raw = torch.cat([drawn.raw, raw])
        if request.tolerance is None or last:
            break
        errors = torch.cat(list(workers.side_by_side(drawn.largest_error, drawn.pieces())))
        done = errors <= request.tolerance
        if bool(done.any()):
            yield replace(drawn, places=drawn.places[done.cpu().numpy()], raw=drawn.raw[:, done])
            report(int(done.sum()))
            if bool(done.all()):
                return
            left = (~done).nonzero()[:, 0]
            still = left.cpu().numpy()
            inputs, ids = inputs[left.to(plan.device)], ids[still]
            drawn = replace(drawn, places=drawn.places[still], raw=drawn.raw[:, left])
    assert drawn is not None
    yield drawn


def _told(drawn: Iterator[Drawn], network: Network | KerasNetwork, inputs: Inputs, first: int) -> Iterator[Drawn]:
    with network.telling(inputs, first):
        yield from drawn


def _say_nothing(_: int) -> None: ...


class Collected:
    """Summaries, and the draws where they are wanted, of the inputs so far."""

    def __init__(self, n_inputs: int | None, request: Request) -> None:
        self.n_inputs, self.request = n_inputs, request
        self.counts = Store((), n_inputs)
        self.summaries: dict[str, Store] = {}
        self.draws: list[Store | None] = [None, None]  # samples, noise variances
        self.n_seen = 0

    def put(self, parts: Iterable[Summarised]) -> None:
        """Take over a batch."""
        for part in parts:
            arrays, places = part.arrays(), part.places
            _check_sound(arrays.pop("sound"), places)
            self.n_seen += len(places)
            if self.request.tolerance is not None:
                self.counts.put(places, np.full(len(places), part.n_draws))
            for which, name in enumerate(("samples", "noise_variances")):
                if name in arrays:
                    self._keep(which, places, arrays.pop(name))
            for name in arrays.keys() & BY_INPUT:
                store = self.summaries.setdefault(name, Store((), self.n_inputs))
                store.put(places, arrays[name])

    def _keep(self, which: int, places: np.ndarray, draws: np.ndarray) -> None:
        store = self.draws[which]
        if store is None:
            store = self.draws[which] = Store((self.request.n_samples,), self.n_inputs)
        store.put(places, draws)

    def summary(self) -> dict[str, np.ndarray]:
        """Each summary for all inputs, in their order; they are handed over and not kept."""
        return {name: self.summaries.pop(name).whole() for name in list(self.summaries)}

    def n_drawn(self) -> np.ndarray:
        """Draws that each input took."""
        return self.counts.whole()

    def samples(self) -> np.ndarray | None:
        """The draws that were kept."""
        return None if self.draws[0] is None else self.draws[0].whole()

    def noise_variances(self) -> np.ndarray | None:
        """Their noise variances."""
        return None if self.draws[1] is None else self.draws[1].whole()


def _check_sound(sound: np.ndarray, places: np.ndarray) -> None:
    """Name the first input for which the model returned no number."""
    if not sound.all():
        raise ValueError(
            f"`model` returned NaN or infinite values for input number {places[~sound].min() + 1}; look at its weights "
            "and at the scale of `x`."
        )


def check_numbers(output: Any, n_inputs: int) -> None:
    """Name the first input for which a model returned NaN or infinity; not minus infinity, as logits may be that."""
    by_input = [one for one in tensors_in(output) if one.is_floating_point() and one.ndim and len(one) == n_inputs]
    if by_input:
        unsound = (by_input[0].isnan() | by_input[0].isposinf()).reshape(n_inputs, -1).any(dim=1)
        _check_sound(~unsound.cpu().numpy(), np.arange(n_inputs))


class Store:
    """An array that is filled by the positions of inputs, and grows where nobody knows how many will come.

    One place for all batches: a small array kept from each would hold on to the memory around it.

    `before`: lengths of the axes before that of the inputs; what is put may be shorter there, and NaN is left.
    """

    def __init__(self, before: tuple[int, ...], n_inputs: int | None) -> None:
        self.before, self.n_inputs, self.n = before, n_inputs, 0
        self.array: np.ndarray | None = None

    def put(self, places: np.ndarray, values: np.ndarray) -> None:
        """Values (..., input, ...) of the inputs at these positions."""
        axis = len(self.before)
        self.n = max(self.n, int(places.max()) + 1)
        if self.array is None and values.shape[: axis + 1] == (*self.before, self.n_inputs) and _run_of(places):
            self.array = np.array(values, order="C")  # all at once
            return
        if self.array is None or self.array.shape[axis] < self.n:
            self._grow(values)
        assert self.array is not None
        own = slice(places[0], places[-1] + 1) if _run_of(places) else places
        self.array[(*map(slice, values.shape[:axis]), own)] = values

    def _grow(self, values: np.ndarray) -> None:
        axis = len(self.before)
        old = self.array
        room = self.n_inputs or max(self.n, 0 if old is None else 2 * old.shape[axis])
        shape = (*self.before, room, *values.shape[axis + 1 :])
        if axis:
            check_room(shape, 1, values.itemsize)
        self.array = np.full(shape, np.nan, values.dtype) if axis else np.empty(shape, values.dtype)
        if old is not None:
            self.array[(slice(None),) * axis + (slice(old.shape[axis]),)] = old

    def whole(self) -> np.ndarray:
        """What was put, in the order of the inputs."""
        assert self.array is not None
        if self.array.shape[len(self.before)] == self.n:
            return self.array
        if self.before:
            return self.array[(slice(None),) * len(self.before) + (slice(self.n),)].copy()
        self.array.resize((self.n, *self.array.shape[1:]), refcheck=False)  # where it is: a copy would take as much
        return self.array


def _run_of(places: np.ndarray) -> bool:
    return places[-1] - places[0] + 1 == len(places)


def check_room(shape: tuple[int, ...], arrays: int, itemsize: int) -> None:
    """Refuse to keep draws of this shape, so many bytes a number, that memory has no room for."""
    needed = itemsize * math.prod(shape) * arrays
    if needed > ASKED_FROM and needed > (free := free_memory()):
        raise OutOfMemory(
            f"`keep_samples` would need {needed / 2**30:.1f} GiB for {shape[0]} draws of {shape[1]} inputs, and "
            f"{free / 2**30:.1f} GiB are free; set it to false to get the summaries alone."
        )
