"""`mc_predict()`: draw networks, run the inputs through them, keep the summaries.

A draw is a network. Its masks are keyed (`randomness`), so the draws can be made in any order and in any pieces:
inputs come in batches, a batch is worked off in chunks of draws x inputs that stay in cache, and the summaries of
a batch are made when its draws are complete. Memory does not grow with inputs x draws unless the draws are kept.

Draws are vectorised with `torch.func.vmap` over the masks. The input is not batched there, so what comes before
the first site is computed once for all draws. Where vmap cannot go, the same masks run in a loop.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .arrays import Label, Rows, as_device, as_label_set, as_rows, check_finite, label_array
from .checks import (
    IdenticalDraws,
    OutOfMemory,
    check_choice,
    check_count,
    check_flag,
    check_length,
    check_number,
    check_seed,
    shown,
)
from .models import MCNetwork
from .prediction import BY_INPUT, MCPrediction
from .randomness import input_ids, keep_masks
from .sites import DropoutMode, Probe, Replica, SampleMode, Site, probe, random_state_kept, replicate, sites_table
from .summaries import summarise_classes, summarise_values

OUTPUTS = ("logits", "probabilities", "values", "mean_log_variance")
MASKS = ("shared", "per_input")
PRECISIONS = ("float32", "bfloat16", "float16")

CHUNK_BYTES = 16 << 20  # largest intermediate result of a chunk; tests/benchmarks/chunks.py shows the sweep
MASK_BYTES = 256 << 20  # masks of all draws are kept for the next batch up to this size, else made again
INPUTS_PER_CHUNK = 4  # so few at least that a mask, once read, serves several inputs
SUM_TOLERANCE = 1e-3  # probabilities in float16 sum to 1 to about this

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
    keep_samples: bool = True,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    precision: str = "float32",
    device: str = "auto",
    seed: int | None = None,
    progress: Progress = True,
) -> MCPrediction:
    """Predict with Monte Carlo dropout: `n_samples` networks drawn by their dropout masks, and what they say.

    model: any torch module with dropout; it stays as it is. x: an array with inputs along the first axis; our own
    networks take images as (input, height, width, channel), other modules get tensors as they are given.
    n_samples: number of draws, at least 2. batch_size: inputs handled at a time; it never changes the result.
    level: of the intervals. masks: "shared" (draw t is the same network for every input) or "per_input" (fresh
    masks for each input, keyed by `ids`, its position by default). keep_samples: keep the draws themselves,
    float32 (draw, input, output). outputs: what a module that is not ours returns, "logits", "probabilities",
    "values" or "mean_log_variance" (means, then log variances, along the last axis); a single logit or probability
    is that of the second of two labels. labels: names of its classes, 0, 1, ... by default. precision: "float32",
    "bfloat16" or "float16" for the network; summaries are in float64 always. device: "auto", "cpu", "cuda", ...
    seed: decides every mask; None draws one and the result carries it. progress: a bar on long runs, or a function
    of (done, total, text).

    The result for an input depends on the model, that input, `seed` and `n_samples` alone, up to rounding.

    Raises ValueError for arguments that cannot be, NoStochasticSites where there is no dropout to sample,
    IdenticalDraws where all draws are the same, OutOfMemory where the draws to keep would not fit.
    Reference: Gal and Ghahramani (2016), arXiv:1506.02142.
    """
    started = time.perf_counter()
    n_samples = check_count(n_samples, "n_samples", at_least=2)
    batch_size = check_count(batch_size, "batch_size")
    level = check_number(level, "level", above=0, below=1)
    check_choice(masks, "masks", MASKS)
    check_flag(keep_samples, "keep_samples")
    seed = check_seed(seed)
    target = Target.of(model, outputs, labels, precision, device)
    rows = target.rows(x)
    if ids is not None:
        check_length(len(ids), "ids", rows.shape[0], "x")

    found = probe(model, target.replica, lambda n: target.tensor(rows, np.arange(n) % rows.shape[0]))
    target.check_outputs(found.output, found.n_inputs)
    sampler = Sampler(found, n_samples, seed, masks)
    numbers = input_ids(ids, rows.shape[0])
    parts: list[dict[str, np.ndarray]] = []
    kept = Kept(n_samples, rows.shape[0]) if keep_samples else None
    with sampler.at_work(), reporting(progress, rows.shape[0], "Sampling") as report:
        for start in range(0, rows.shape[0], batch_size):
            where = slice(start, min(start + batch_size, rows.shape[0]))
            batch = target.tensor(rows, where)
            draws = Draws(*target.draws(sampler.run(batch, numbers[where], report)))
            draws.check_finite(start)
            parts.append(draws.summaries(target, level))
            if kept is not None:
                kept.put(draws, where)
    summary = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    sampler.check_spread()
    for name in ("predicted", "second"):
        if name in summary:
            summary[name] = label_array(target.labels)[summary[name]]
    return MCPrediction(
        task=target.task,
        n_samples=n_samples,
        level=level,
        seed=seed,
        masks=masks,
        engine=sampler.engine,
        engine_reason=sampler.engine_reason,
        device=str(target.replica.device),
        precision=precision,
        seconds=time.perf_counter() - started,
        labels=target.labels or None,
        ids=None if ids is None else np.asarray(ids),
        samples=None if kept is None else kept.samples,
        noise_variances=None if kept is None else kept.noise_variances,
        **summary,
    )


def mc_predict_point(
    model: nn.Module,
    x: Any,
    batch_size: int = 128,
    *,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    precision: str = "float32",
    device: str = "auto",
    progress: Progress = True,
) -> np.ndarray:
    """The ordinary prediction with dropout off, to compare: probabilities (input, label) or values (input, output).

    Arguments are those of `mc_predict()`; labels are in the order of `model.labels`.
    """
    batch_size = check_count(batch_size, "batch_size")
    target = Target.of(model, outputs, labels, precision, device)
    rows = target.rows(x)
    parts = []
    with reporting(progress, rows.shape[0], "Predicting") as report:
        for start in range(0, rows.shape[0], batch_size):
            batch = target.tensor(rows, slice(start, start + batch_size))
            with target.replica.predicting(), DropoutMode(target.replica.calls):
                out = target.output(target.replica.module(batch))
            if start == 0:
                target.check_outputs(out, len(batch))
            parts.append(target.draws(out[None])[0][0].cpu().numpy())
            report(len(batch))
    return np.concatenate(parts)


def mc_sites(model: nn.Module, x: Any) -> pd.DataFrame:
    """The places where `mc_predict(model, x)` will sample: one row per site.

    Columns: site (module path and call number), operation, rate (of dropping), shape (of the mask of one input).
    Raises NoStochasticSites where there is nothing to sample.
    """
    target = Target.of(model, None if isinstance(model, MCNetwork) else "values", None, "float32", "cpu")
    rows = target.rows(x)
    return sites_table(probe(model, target.replica, lambda n: target.tensor(rows, np.arange(n) % rows.shape[0])))


# ---- the model and what it returns ----------------------------------------------------------------------------


@dataclass
class Target:
    """The model to sample: how it takes inputs, and what its outputs mean."""

    model: nn.Module
    replica: Replica
    outputs: str
    labels: tuple[Label, ...]  # () for values, and until the first output says how many there are

    @classmethod
    def of(cls, model: Any, outputs: str | None, labels: Iterable[Label] | None, precision: str, device: str) -> Target:
        """Check what is known before anything runs."""
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch module; got {shown(type(model).__name__)}.")
        check_choice(precision, "precision", PRECISIONS)
        if isinstance(model, MCNetwork):
            if outputs not in (None, model.outputs):
                raise ValueError(f'`outputs` is known for this model, "{model.outputs}"; got {shown(outputs)}.')
            outputs, known = model.outputs, model.labels or ()
        elif outputs is None:
            words = ", ".join(f'"{one}"' for one in OUTPUTS)
            raise ValueError(f"`outputs` must say what `model` returns, one of {words}; got none.")
        else:
            known = ()
        check_choice(outputs, "outputs", OUTPUTS)
        if labels is not None:
            known = as_label_set(labels)
        return cls(model, replicate(model, as_device(device), precision), outputs, known)

    @property
    def task(self) -> str:
        return "classification" if self.outputs in ("logits", "probabilities") else "regression"

    def rows(self, x: Any) -> Rows:
        """`x` checked, as rows that can be taken batch by batch."""
        rows = as_rows(x)
        if isinstance(self.model, MCNetwork):
            self.model.check_input_shape(rows.shape)
        check_finite(rows)
        return rows

    def tensor(self, rows: Rows, where: slice | np.ndarray) -> Tensor:
        """Some of the inputs, copied so that an in-place operation of the model cannot reach the caller's array."""
        batch = torch.tensor(rows.take(where), device=self.replica.device)
        if batch.ndim == 4 and not isinstance(self.model, MCNetwork):
            batch = batch.contiguous(memory_format=torch.channels_last)  # quicker for convolutions, the same numbers
        return batch

    def output(self, result: Any) -> Tensor:
        """The tensor in what the model returned."""
        if not isinstance(result, Tensor):
            raise TypeError(f"`model` must return a tensor; got {shown(type(result).__name__)}.")
        return result

    def check_outputs(self, result: Any, n_inputs: int) -> None:
        """See that the outputs are what they are said to be, on `n_inputs` inputs."""
        out = self.output(result).float()
        axes = 2 if self.task == "classification" else None
        if out.shape[:1] != (n_inputs,) or (axes is not None and out.ndim != axes) or out.ndim < 2:
            raise ValueError(
                f"`model` must return (input, output) for {self.outputs}; got shape {tuple(out.shape)} for "
                f"{n_inputs} inputs."
            )
        self._check_meaning(out)
        if self.task == "classification":
            n_labels = max(2, out.shape[-1])
            self.labels = self.labels or tuple(range(n_labels))
            if len(self.labels) != n_labels:
                raise ValueError(
                    f"`labels` must name the {n_labels} outputs of `model`; got {len(self.labels)} labels."
                )
        elif self.outputs == "mean_log_variance" and out.shape[-1] % 2:
            raise ValueError(
                f"`model` must return as many log variances as means; got {out.shape[-1]} columns, an odd number."
            )

    def _check_meaning(self, out: Tensor) -> None:
        """Declared logits that are all probabilities, or the other way round, are an error."""
        sums = out.sum(dim=-1)
        between = bool(((out >= 0) & (out <= 1)).all())
        single = out.shape[-1] == 1
        proper = between and (single or bool(torch.allclose(sums, torch.ones_like(sums), atol=SUM_TOLERANCE)))
        if self.outputs == "logits" and proper and not single:
            raise ValueError(
                '`outputs` is "logits", but `model` returned probabilities (in [0, 1], summing to 1); '
                'set it to "probabilities".'
            )
        if self.outputs == "probabilities" and not proper:
            raise ValueError(
                '`outputs` is "probabilities", but `model` returned numbers that are not (in [0, 1], summing to 1); '
                'set it to "logits" if they come before the softmax.'
            )

    def draws(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw outputs (draw, input, ...) to class probabilities or means, and the noise variance where told."""
        out = out.float()
        if self.outputs == "mean_log_variance":
            mean, log_variance = out.chunk(2, dim=-1)
            return mean, log_variance.exp()
        if self.outputs == "values":
            return out, None
        if out.shape[-1] == 1:
            return self._two_labels(out), None
        return (out.softmax(dim=-1) if self.outputs == "logits" else out), None

    def _two_labels(self, out: Tensor) -> Tensor:
        if self.outputs == "logits":
            return torch.cat([torch.sigmoid(-out), torch.sigmoid(out)], dim=-1)
        return torch.cat([1 - out, out], dim=-1)


@dataclass
class Draws:
    """The complete draws of one batch of inputs."""

    values: Tensor  # (draw, input, output): class probabilities or means
    noise: Tensor | None

    def check_finite(self, first: int) -> None:
        """Name the first input for which the model returned no number."""
        sound = self.values.isfinite().flatten(2).all(dim=-1).all(dim=0)
        if not bool(sound.all()):
            number = first + int((~sound).nonzero()[0]) + 1
            raise ValueError(
                f"`model` returned NaN or infinite values for input number {number}; look at its weights and at "
                "the scale of `x`."
            )

    def summaries(self, target: Target, level: float) -> dict[str, np.ndarray]:
        """Everything that is kept of these draws, on the host."""
        if target.task == "classification":
            made = summarise_classes(self.values, level)
        else:
            made = summarise_values(self.values, self.noise, level)
        return {name: value.cpu().numpy() for name, value in made.items() if name in BY_INPUT}


class Kept:
    """The draws that the caller wants to keep: float32 (draw, input, output)."""

    def __init__(self, n_samples: int, n_inputs: int) -> None:
        self.n_samples, self.n_inputs = n_samples, n_inputs
        self.samples: np.ndarray | None = None
        self.noise_variances: np.ndarray | None = None

    def put(self, draws: Draws, where: slice) -> None:
        """Take over one batch; the room is made, and checked, with the first."""
        if self.samples is None:
            self.samples = self._room(draws.values, 1 if draws.noise is None else 2)
            self.noise_variances = None if draws.noise is None else self._room(draws.noise, 1)
        self.samples[:, where] = draws.values.cpu().numpy()
        if self.noise_variances is not None and draws.noise is not None:
            self.noise_variances[:, where] = draws.noise.cpu().numpy()

    def _room(self, like: Tensor, arrays: int) -> np.ndarray:
        shape = (self.n_samples, self.n_inputs, *like.shape[2:])
        needed, free = 4 * int(np.prod(shape, dtype=np.int64)) * arrays, _free_memory()
        if needed > free:
            raise OutOfMemory(
                f"`keep_samples` would need {needed / 2**30:.1f} GiB for {shape[0]} draws of {shape[1]} inputs, and "
                f"{free / 2**30:.1f} GiB are free; set it to false to get the summaries alone."
            )
        return np.empty(shape, dtype=np.float32)


def _free_memory() -> int:
    """Bytes of memory that are free, or could be."""
    try:
        with open("/proc/meminfo") as lines:
            found = {line.split(":")[0]: line.split()[1] for line in lines}
        return int(found["MemAvailable"]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# ---- drawing --------------------------------------------------------------------------------------------------


@dataclass
class Sampler:
    """Runs batches of inputs through all draws, in chunks."""

    probe: Probe
    n_samples: int
    seed: int
    masks: str
    engine: str = "vmap"
    engine_reason: str = ""
    draws_per_chunk: int = field(init=False)
    inputs_per_chunk: int = field(init=False)
    has_spread: bool = False
    unknown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.replica = self.probe.replica
        self.sites = self.probe.sites
        self.made: dict[range, dict[str, Tensor]] = {}
        self.draws_per_chunk, self.inputs_per_chunk = chunk_sizes(self.n_samples, self.probe.bytes_per_row)

    def run(self, batch: Tensor, numbers: np.ndarray, report: Callable[[int], None]) -> Tensor:
        """Raw outputs (draw, input, ...) of a batch."""
        if self.engine == "vmap" and not self.engine_reason:
            self._choose_engine(batch[:3], numbers[:3])
        pieces = [self._inputs(batch[where], numbers[where], report) for where in self._input_pieces(len(batch))]
        out = torch.cat(pieces, dim=1)
        self.has_spread = self.has_spread or bool((out[1:] != out[:1]).any())
        return out

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Tell of what cannot be keyed: random numbers of the model's own, and calls that no probe had seen."""
        if self.probe.own_randomness:
            warnings.warn(
                "`model` draws random numbers of its own besides dropout; they depend on `batch_size` too.",
                stacklevel=4,
            )
        with random_state_kept() if self.probe.own_randomness else nullcontext():
            if self.probe.own_randomness:
                torch.manual_seed(self.seed)
            yield
        if self.unknown:
            warnings.warn(
                f"`model` made dropout calls that its first inputs did not show and that were left out: "
                f"{', '.join(sorted(self.unknown))}.",
                stacklevel=4,
            )

    def check_spread(self) -> None:
        """Draws that are all the same say nothing, whatever the reason."""
        if not self.has_spread:
            raise IdenticalDraws(
                "`model` gave the same outputs in every draw, so the spread would say nothing; see `mc_sites()` "
                "for what was sampled, and look whether what comes after it can change the output."
            )

    def _input_pieces(self, n_inputs: int) -> list[slice]:
        step = self.inputs_per_chunk if self.engine == "vmap" else self.inputs_per_chunk * self.draws_per_chunk
        return [slice(start, min(start + step, n_inputs)) for start in range(0, n_inputs, step)]

    def _draw_pieces(self) -> list[range]:
        step = self.draws_per_chunk
        return [range(start, min(start + step, self.n_samples)) for start in range(0, self.n_samples, step)]

    def _inputs(self, inputs: Tensor, numbers: np.ndarray, report: Callable[[int], None]) -> Tensor:
        """All draws for a few inputs; halves what is done at a time when memory runs out."""
        try:
            out = torch.cat([self._chunk(inputs, numbers, draws) for draws in self._draw_pieces()])
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            return self._in_halves(inputs, numbers, report, error)
        report(len(inputs))
        return out

    def _in_halves(
        self, inputs: Tensor, numbers: np.ndarray, report: Callable[[int], None], error: Exception
    ) -> Tensor:
        self.made.clear()
        if len(inputs) > 1:
            self.inputs_per_chunk = max(1, self.inputs_per_chunk // 2)
            half = len(inputs) // 2
            pieces = [
                self._inputs(inputs[:half], numbers[:half], report),
                self._inputs(inputs[half:], numbers[half:], report),
            ]
            return torch.cat(pieces, dim=1)
        if self.draws_per_chunk > 1:
            self.draws_per_chunk //= 2
            return self._inputs(inputs, numbers, report)
        raise OutOfMemory(
            "`model` needs more memory for one draw of one input than there is; use a smaller network or smaller "
            "inputs."
        ) from error

    def _chunk(self, inputs: Tensor, numbers: np.ndarray, draws: range) -> Tensor:
        masks = self._masks(draws, numbers)
        run = self._vectorised if self.engine == "vmap" else self._looped
        return run(inputs, masks)

    def _vectorised(self, inputs: Tensor, masks: dict[str, Tensor]) -> Tensor:
        def one_draw(own: dict[str, Tensor]) -> Tensor:
            return self._pass(inputs, own)

        with self.replica.predicting():
            return torch.func.vmap(one_draw)(masks)

    def _looped(self, inputs: Tensor, masks: dict[str, Tensor]) -> Tensor:
        n_draws = len(next(iter(masks.values())))
        with self.replica.predicting():
            return torch.stack(
                [self._pass(inputs, {name: mask[draw] for name, mask in masks.items()}) for draw in range(n_draws)]
            )

    def _pass(self, inputs: Tensor, masks: dict[str, Tensor]) -> Tensor:
        """One pass of the network under the masks of one draw."""
        mode = SampleMode(self.replica.calls, self.sites, masks, len(inputs))
        with mode:
            result = self.replica.module(inputs)
        self.unknown |= mode.unknown
        if not isinstance(result, Tensor):
            raise TypeError(f"`model` must return a tensor; got {shown(type(result).__name__)}.")
        return result

    def _choose_engine(self, inputs: Tensor, numbers: np.ndarray) -> None:
        """vmap if it gives the loop's numbers on two draws of a few inputs, else the loop."""
        masks = self._masks(range(2), numbers)
        looped = self._looped(inputs.clone(), masks)
        try:
            vectorised = self._vectorised(inputs.clone(), masks)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # vmap fails in as many ways as models are written
            self.engine, self.engine_reason = "loop", f"vmap failed: {_first_line(error)}"
            return
        self.engine_reason = "vmap gives the loop's numbers"
        tolerance = 1e-4 if self.replica.precision == "float32" else 5e-2  # float32 sums in another order; bfloat16
        scale = looped.float().abs().max().clamp(min=1e-6)
        if not bool(((vectorised - looped).float().abs() <= tolerance * scale).all()):
            self.engine, self.engine_reason = "loop", "vmap gave other numbers, as with in-place operations"

    def _masks(self, draws: range, numbers: np.ndarray) -> dict[str, Tensor]:
        """The masks of some draws, for some inputs; shared ones are kept for the next batch while they are small."""
        if self.masks == "per_input":
            return self._made(draws, torch.from_numpy(numbers).to(self.replica.device))
        if draws not in self.made:
            made = self._made(draws, None)
            held = sum(mask.nbytes for masks in (*self.made.values(), made) for mask in masks.values())
            if held > MASK_BYTES:
                return made
            self.made[draws] = made
        return self.made[draws]

    def _made(self, draws: range, ids: Tensor | None) -> dict[str, Tensor]:
        which = torch.arange(draws.start, draws.stop, device=self.replica.device)
        return {name: site_masks(self.seed, site, which, ids) for name, site in self.sites.items()}


def chunk_sizes(n_samples: int, bytes_per_row: int) -> tuple[int, int]:
    """(draws, inputs) of a chunk, whose largest intermediate result should stay in cache.

    Depends on the network alone, never on the machine's load or the caller's batch size, so that two runs agree to
    the bit.
    """
    rows = max(1, CHUNK_BYTES // max(1, bytes_per_row))
    draws = max(1, min(n_samples, rows // INPUTS_PER_CHUNK))
    return draws, max(1, rows // draws)


def site_masks(seed: int, site: Site, draws: Tensor, ids: Tensor | None) -> Tensor:
    """Masks of a site, (draw, ...): a factor 0 or 1/(1 - rate), for alpha dropout 0 or 1.

    Shared masks (`ids` None) have the shape of one input's mask; else the inputs lie along the site's own axis. A
    site that no input has for itself (no axis grows with the inputs) has one mask per draw in both cases.
    """
    per_input = ids is not None and site.axis is not None
    which = ids if ids is not None and per_input else torch.zeros(1, dtype=torch.int64, device=draws.device)
    kind = "per_input" if per_input else "shared"
    kept = keep_masks(seed, kind, site.name, site.rate, site.n_elements, draws, which)
    kept = kept.view(len(draws), len(which), *site.shape)
    axis = 0 if site.axis is None else site.axis
    kept = kept.movedim(1, axis + 1).flatten(axis + 1, axis + 2)
    order = (0, *(one + 1 for one in site.order))
    back = sorted(range(kept.ndim), key=lambda one: order[one])
    mask = kept.permute(order).contiguous().to(site.dtype)  # in memory as the input it meets
    return (mask if site.alpha else mask.mul_(1 / (1 - site.rate))).permute(back)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def reporting(progress: Progress, total: int, text: str) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more inputs are done: a bar, the caller's own function, or nothing."""
    if callable(progress):
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            progress(done, total, text)

        yield tell
        return
    show = check_flag(progress, "progress")
    with tqdm(total=total, desc=text, unit="input", leave=False, delay=1.0, disable=not show) as bar:

        def update(more: int) -> None:
            bar.update(more)

        yield update
