"""`mc_predict()`: draw networks, run the inputs through them, keep the summaries.

Inputs come in batches; the summaries of a batch are made when its draws are complete, so that memory does not grow
with inputs x draws unless the draws are kept.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .arrays import Label, as_device, label_array
from .checks import (
    OutOfMemory,
    check_choice,
    check_count,
    check_flag,
    check_length,
    check_number,
    check_seed,
    shown,
    whole,
)
from .draws import Plan, Sampler, Workers
from .inputs import ArrayFeed, Feed, Inputs, Taking, feed_of
from .models import MCNetwork
from .outputs import Outputs, Select
from .prediction import BY_INPUT, MCPrediction
from .randomness import input_ids
from .sites import Replica, StochasticMode, advice_on, probe, replicate, sites_table
from .summaries import standard_error, summarise_classes, summarise_values

MASKS = ("shared", "per_input")
PRECISIONS = ("float32", "bfloat16", "float16")
DRAWS_BYTES = 256 << 20  # draws of one batch, float32: summaries in float64 take some times as much
FIRST_ROUND = 10  # draws before `tolerance` is first looked at; each further round adds about a half

Progress = bool | Callable[[int, int, str], object]


def mc_predict(
    model: nn.Module,
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
    stochastic_depth: bool = True,
    workers: int | None = None,
    precision: str = "float32",
    device: str = "auto",
    seed: int | None = None,
    progress: Progress = True,
) -> MCPrediction:
    """Predict with Monte Carlo dropout: `n_samples` networks drawn by their dropout masks, and what they say.

    model: any torch module with dropout; it stays as it is. Our own networks take images as (input, height, width,
      channel); other modules get tensors as they are given.
    x: an array with inputs along the first axis; a tuple (by position) or a mapping (by keyword) of several; a torch
      Dataset or DataLoader, or any iterator of batches, so that data larger than memory streams. Where batches are
      pairs, the first of each is taken. Whole numbers stay whole by keyword and for models with an embedding.
    n_samples: number of draws, at least 2. batch_size: inputs handled at a time; it never changes the result.
    level: of the intervals.
    masks: "shared" (draw t is the same network for every input) or "per_input" (fresh masks for each input, keyed by
      `ids`, its position by default).
    tolerance: draw only until each input's largest Monte Carlo standard error of `mean` is below this, `n_samples`
      being the most; `prediction.n_samples` then says how many each input took, and kept draws end in NaN.
    keep_samples: keep the draws themselves, float32 (draw, input, output).
    outputs: what a module that is not ours returns, "logits", "probabilities", "values" or "mean_log_variance"
      (means, then log variances, along the last axis); a single logit or probability is that of the second of two
      labels. labels: names of its classes, 0, 1, ... by default; with more than two axes they tell which is theirs.
    select: which part of a tuple or mapping that `model` returns, or a function that takes it out.
    stochastic_depth: whether whole blocks that are skipped at random when training are sampled too.
    workers: threads that each work on a chunk of draws x inputs with one thread of torch; by default as many as torch
      uses on a CPU, and one on a GPU.
    precision: "float32", "bfloat16" or "float16" for the network; summaries are in float64 always.
    device: "auto", "cpu", "cuda", ...
    seed: decides every mask; None draws one and the result carries it.
    progress: a bar on long runs, or a function of (done, total, text).

    The result for an input depends on the model, that input, `seed` and `n_samples` alone, up to rounding.

    Raises ValueError for arguments that cannot be, NoStochasticSites where there is no dropout to sample,
    IdenticalDraws where all draws are the same, OutOfMemory where the draws to keep would not fit.
    Reference: Gal and Ghahramani (2016), arXiv:1506.02142.
    """
    started = time.perf_counter()
    request = Request.checked(n_samples, batch_size, level, masks, tolerance, keep_samples, workers, seed)
    network = Network.of(model, outputs, labels, select, precision, device)
    feed = network.feed(x)
    ids = None if ids is None else check_ids(ids)
    if ids is not None and feed.n_inputs is not None:
        check_length(len(ids), "ids", feed.n_inputs, "x")
    sampler = network.sampler(feed.head(3), request, stochastic_depth)
    return draw_all(network, sampler, feed, request, ids, progress, started)


def mc_predict_point(
    model: nn.Module,
    x: Any,
    batch_size: int = 128,
    *,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    precision: str = "float32",
    device: str = "auto",
    progress: Progress = True,
) -> np.ndarray:
    """The ordinary prediction with dropout off, to compare: probabilities (input, label) or values (input, output).

    Arguments are those of `mc_predict()`; labels are in the order of `model.labels`.
    """
    batch_size = check_count(batch_size, "batch_size")
    network = Network.of(model, outputs, labels, select, precision, device)
    feed = network.feed(x)
    parts = []
    with reporting(progress, feed.n_inputs, "Predicting") as report:
        for inputs in feed.batches(batch_size):
            with network.replica.predicting(), StochasticMode(network.replica.calls):
                result = network.replica.run(inputs)
            if not parts:
                network.outputs.check(result, len(inputs))
            parts.append(network.outputs.draws(network.outputs.tensor(result)[None])[0][0].cpu().numpy())
            report(len(inputs))
    return np.concatenate(parts)


def mc_sites(model: nn.Module, x: Any, *, stochastic_depth: bool = True) -> pd.DataFrame:
    """The places where `mc_predict(model, x)` will sample: one row per site.

    Columns: site (module path and call number), operation, rate (of dropping), shape (of the mask of one input).
    Warns where the spread is likely to say little: dropout before the last layer alone, and rates under 0.1 or over 0.7
    in anything but a network of ours for values. Raises NoStochasticSites where there is nothing to sample.
    """
    network = Network.of(model, None if isinstance(model, MCNetwork) else "values", None, None, "float32", "cpu")
    found = probe(model, network.replica, network.feed(x).head, stochastic_depth)
    ours = isinstance(model, MCNetwork)
    for advice in advice_on(found, not ours or network.outputs.task == "classification"):
        warnings.warn(advice, stacklevel=2)
    return sites_table(found)


def mc_sampler(
    model: nn.Module,
    example: Any,
    n_samples: int = 50,
    *,
    level: float = 0.95,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    stochastic_depth: bool = True,
    precision: str = "float32",
    device: str = "auto",
    seed: int | None = None,
) -> MCSampler:
    """Prepare `mc_predict()` for a service that is asked again and again: the result is called with inputs.

    Sites, masks and chunks are made once, from `example` (inputs like those to come). The answers are those of
    `mc_predict()` with shared masks, the same seed and no draws kept. Other arguments are those of `mc_predict()`.
    """
    request = Request.checked(n_samples, 128, level, "shared", None, False, None, seed)
    network = Network.of(model, outputs, labels, select, precision, device)
    sampler = network.sampler(network.feed(example).head(3), request, stochastic_depth)
    prepared = MCSampler(network, sampler, request)
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


@dataclass
class MCSampler:
    """What `mc_sampler()` gives: call it with inputs.

    Weights that are changed in place, as by an optimizer or `load_state_dict()`, are seen; ones that are put in place
    of others are not.
    """

    network: Network
    sampler: Sampler
    request: Request

    def __call__(self, x: Any) -> MCPrediction:
        """Predict these inputs."""
        feed = self.network.feed(x)
        return draw_all(self.network, self.sampler, feed, self.request, None, False, time.perf_counter())


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


# ---- the model ------------------------------------------------------------------------------------------------


@dataclass
class Network:
    """The model to sample: how it takes inputs, and what its outputs mean."""

    model: nn.Module
    replica: Replica
    outputs: Outputs
    taking: Taking

    @classmethod
    def of(
        cls,
        model: Any,
        outputs: str | None,
        labels: Iterable[Label] | None,
        select: Select | None,
        precision: str,
        device: str,
    ) -> Network:
        """Check what can be known before anything runs."""
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch module; got {shown(type(model).__name__)}.")
        check_choice(precision, "precision", PRECISIONS)
        ours = isinstance(model, MCNetwork)
        known = Outputs(model.outputs, model.labels or ()) if isinstance(model, MCNetwork) else None
        meaning = Outputs.declared(outputs, labels, select, known)
        where = as_device(device)
        modules = list(model.modules())
        dtypes = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
        taking = Taking(
            where,
            dtype=dtypes[0] if dtypes else torch.float32,
            keep_whole_numbers=any(isinstance(one, nn.Embedding | nn.EmbeddingBag) for one in modules),
            channels_last=not ours and any(isinstance(one, nn.Conv2d) for one in modules),  # ours do so themselves
        )
        return cls(model, replicate(model, where, precision), meaning, taking)

    def feed(self, x: Any) -> Feed:
        """`x` checked, as inputs that can be taken batch by batch."""
        feed = feed_of(x, self.taking)
        if isinstance(self.model, MCNetwork):
            shape = feed.shape if isinstance(feed, ArrayFeed) else (1, *feed.head(1).args[0].shape[1:])
            self.model.check_input_shape(shape)
        return feed

    def sampler(self, example: Inputs, request: Request, stochastic_depth: bool, rate: float | None = None) -> Sampler:
        """Find the sites, check the outputs, and make ready to draw; `rate` in place of the rates of all sites."""
        check_flag(stochastic_depth, "stochastic_depth")
        # hooks of the user may share what they note, so nothing runs beside them
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

        def make_plan(inputs: Inputs) -> Plan:
            replica = self._replica()
            found = probe(self.model, replica, inputs.cycled, stochastic_depth)
            if rate is not None:
                found.sites = {name: replace(site, rate=rate) for name, site in found.sites.items()}
            self.outputs.check(found.output, found.n_inputs)
            more = None if hooked else self._replica
            return Plan(found, replica, more, self.outputs, request.n_samples, request.seed, request.masks)

        return Sampler(make_plan, example, request.seed, request.workers)

    def _replica(self) -> Replica:
        return replicate(self.model, self.replica.device, self.replica.precision)


# ---- batches --------------------------------------------------------------------------------------------------


def draw_all(
    network: Network,
    sampler: Sampler,
    feed: Feed,
    request: Request,
    ids: Sequence[object] | None,
    progress: Progress,
    started: float,
) -> MCPrediction:
    """The prediction of a network whose sampler is ready: batches, rounds of draws, summaries."""
    out = network.outputs.tensor(sampler.first.probe.output)
    values, noise = network.outputs.draws(out[None])
    if request.keep_samples and feed.n_inputs is not None:
        shape = (request.n_samples, feed.n_inputs, *values.shape[2:])
        check_room(shape, 1 if noise is None else 2)
    size = max(1, min(request.batch_size, DRAWS_BYTES // (4 * request.n_samples * out[0].numel())))
    collected = Collected(feed.n_inputs if request.keep_samples else None, request)
    seen = 0
    with sampler.at_work() as workers, reporting(progress, feed.n_inputs, "Sampling") as report:
        for inputs in feed.batches(size):
            names = None if ids is None else ids[seen : seen + len(inputs)]
            numbers = input_ids(names, len(inputs)) + (seen if ids is None else 0)
            for part in _drawn(sampler, inputs, numbers, request, seen, workers, report):
                collected.put(part, seen, network.outputs, request.level)
            seen += len(inputs)
    if ids is not None:
        check_length(len(ids), "ids", seen, "x")
    sampler.check_spread()
    summary = collected.summary()
    for name in ("predicted", "second"):
        if name in summary:
            summary[name] = label_array(network.outputs.labels)[summary[name]]
    return MCPrediction(
        task=network.outputs.task,
        n_samples=request.n_samples if request.tolerance is None else collected.n_drawn(),
        level=request.level,
        seed=request.seed,
        masks=request.masks,
        engine=sampler.first.engine,
        engine_reason=sampler.first.engine_reason,
        device=str(network.replica.device),
        precision=network.replica.precision,
        seconds=time.perf_counter() - started,
        labels=network.outputs.labels if network.outputs.task == "classification" else None,
        ids=None if ids is None else np.asarray(ids),
        samples=collected.samples(),
        noise_variances=collected.noise_variances(),
        **summary,
    )


@dataclass
class Drawn:
    """The complete draws of some inputs of a batch."""

    places: np.ndarray  # positions in the batch
    values: Tensor  # (draw, input, ...): class probabilities or means
    noise: Tensor | None


def _drawn(
    sampler: Sampler,
    inputs: Inputs,
    ids: np.ndarray,
    request: Request,
    first: int,
    workers: Workers,
    report: Callable[[int], None],
) -> Iterator[Drawn]:
    """Draw in rounds; the inputs that are known well enough leave after each."""
    places = np.arange(len(inputs))
    values, noise = None, None
    for draws in request.rounds():
        last = draws.stop == request.n_samples
        raw = sampler.run(inputs, ids, draws, workers, report if last else _say_nothing)
        new_values, new_noise = sampler.first.outputs.draws(raw)
        _check_finite(new_values, first, places)
        values = new_values if values is None else torch.cat([values, new_values])
        noise = new_noise if noise is None or new_noise is None else torch.cat([noise, new_noise])
        if request.tolerance is None or last:
            break
        errors = standard_error(values).flatten(1).amax(dim=1)  # (input,)
        done = errors <= request.tolerance
        if bool(done.any()):
            yield Drawn(places[done.cpu().numpy()], values[:, done], None if noise is None else noise[:, done])
            report(int(done.sum()))
            if bool(done.all()):
                return
            left = (~done).nonzero()[:, 0]
            where = left.cpu().numpy()
            inputs, ids, places = inputs[left], ids[where], places[where]
            values, noise = values[:, left], None if noise is None else noise[:, left]
    assert values is not None
    yield Drawn(places, values, noise)


def _say_nothing(_: int) -> None: ...


def _check_finite(values: Tensor, first: int, places: np.ndarray) -> None:
    """Name the first input for which the model returned no number."""
    sound = values.isfinite().flatten(2).all(dim=-1).all(dim=0)
    if not bool(sound.all()):
        number = first + int(places[int((~sound).nonzero()[0])]) + 1
        raise ValueError(
            f"`model` returned NaN or infinite values for input number {number}; look at its weights and at the scale "
            "of `x`."
        )


class Collected:
    """Summaries, and the draws where they are wanted, of the batches so far."""

    def __init__(self, n_inputs: int | None, request: Request) -> None:
        self.n_inputs, self.request = n_inputs, request
        self.places: list[np.ndarray] = []
        self.counts: list[np.ndarray] = []
        self.parts: list[dict[str, np.ndarray]] = []
        self.kept: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]  # of streams: places and draws, and noise
        self.room: list[np.ndarray | None] = [None, None]  # of known length: samples, noise variances

    def put(self, drawn: Drawn, first: int, outputs: Outputs, level: float) -> None:
        """Take over the draws of some inputs of the batch that starts at `first`."""
        places = first + drawn.places
        self.places.append(places)
        self.counts.append(np.full(len(places), len(drawn.values)))
        if outputs.task == "classification":
            made = summarise_classes(drawn.values, level)
        else:
            made = summarise_values(drawn.values, drawn.noise, level)
        self.parts.append({name: value.cpu().numpy() for name, value in made.items() if name in BY_INPUT})
        if self.request.keep_samples:
            for which, draws in enumerate((drawn.values, drawn.noise)):
                if draws is not None:
                    self._keep(which, draws.cpu().numpy(), places)

    def _keep(self, which: int, draws: np.ndarray, places: np.ndarray) -> None:
        if self.n_inputs is None:
            check_room(draws.shape, 1)
            self.kept[which].append((places, draws))
            return
        if self.room[which] is None:
            shape = (self.request.n_samples, self.n_inputs, *draws.shape[2:])
            empty = np.empty if self.request.tolerance is None else _nan
            self.room[which] = empty(shape, dtype=np.float32)
        room = self.room[which]
        assert room is not None
        consecutive = slice(places[0], places[-1] + 1) if places[-1] - places[0] + 1 == len(places) else places
        room[: len(draws), consecutive] = draws

    def _order(self) -> np.ndarray:
        return np.concatenate(self.places).argsort(kind="stable")

    def summary(self) -> dict[str, np.ndarray]:
        """Each summary for all inputs, in their order."""
        order = self._order()
        return {name: np.concatenate([part[name] for part in self.parts])[order] for name in self.parts[0]}

    def n_drawn(self) -> np.ndarray:
        """Draws that each input took."""
        return np.concatenate(self.counts)[self._order()]

    def samples(self) -> np.ndarray | None:
        """The draws that were kept."""
        return self._all(0)

    def noise_variances(self) -> np.ndarray | None:
        """Their noise variances."""
        return self._all(1)

    def _all(self, which: int) -> np.ndarray | None:
        if self.room[which] is not None or not self.kept[which]:
            return self.room[which]
        n_inputs = sum(len(places) for places, _ in self.kept[which])
        whole = _nan((self.request.n_samples, n_inputs, *self.kept[which][0][1].shape[2:]), dtype=np.float32)
        for places, draws in self.kept[which]:
            whole[: len(draws), places] = draws
        return whole


def _nan(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.full(shape, np.nan, dtype=dtype)


def check_room(shape: tuple[int, ...], arrays: int) -> None:
    """Refuse to keep float32 draws of this shape that memory has no room for."""
    needed, free = 4 * math.prod(shape) * arrays, _free_memory()
    if needed > free:
        raise OutOfMemory(
            f"`keep_samples` would need {needed / 2**30:.1f} GiB for {shape[0]} draws of {shape[1]} inputs, and "
            f"{free / 2**30:.1f} GiB are free; set it to false to get the summaries alone."
        )


def _free_memory() -> int:
    """Bytes of memory that are free, or could be."""
    try:
        with open("/proc/meminfo") as lines:
            found = {line.split(":")[0]: line.split()[1] for line in lines}
        return int(found["MemAvailable"]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def reporting(progress: Progress, total: int | None, text: str) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more inputs are done: a bar, the caller's own function, or nothing.

    The caller's function is told 0 as the total where nobody knows it.
    """
    if callable(progress):
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            progress(done, total or 0, text)

        yield tell
        return
    show = check_flag(progress, "progress")
    with tqdm(total=total, desc=text, unit="input", leave=False, delay=1.0, disable=not show) as bar:

        def update(more: int) -> None:
            bar.update(more)

        yield update
