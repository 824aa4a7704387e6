"""The plan of a prediction: chunks, masks, and the engine that runs them.

Three engines give the same numbers, and the quickest that does so for a network is taken: `folded` lays the draws along
the inputs' axis (`fold`), `vmap` has torch run all draws at once, and the loop takes one draw after the other. In each,
what comes before the first site is computed once for all draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from threading import local

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import _set_vmap_fallback_warning_enabled  # pyright: ignore[reportAttributeAccessIssue]  # torch has no public way to say this, and its stubs leave it out

from ..compute.devices import chunk_bytes, empty_cache, for_float64
from ..compute.forks import shared_lock
from ..compute.memory import is_out_of_memory, let_go_of_what_it_made, out_of_memory_passed_over
from ..compute.precision import rounding
from ..compute.threads import Workers
from ..compute.transfers import to_device
from ..data.inputs import Inputs
from ..errors import OutOfMemory
from ..predictions.outputs import Outputs
from ..sites.comparison import same_numbers
from ..sites.interception import SampleMode
from ..sites.probe import Probe
from ..sites.replica import Replica, raise_flags
from ..sites.site import Site
from .chunks import (
    CHUNK_BYTES,
    FEW_DRAWS,
    INPUTS_PER_CHUNK,
    INPUTS_PER_WEIGHTS,
    MASK_BYTES,
    PREFIX_BYTES,
    ROW_BYTES,
    chunk_sizes,
)
from .fold import FoldedMode, Layout, can_be_folded
from .fused import fused_calls, never_materialised
from .loop import OtherCalls, Prefix, RecordingMode, ReplayingMode
from .masks import Masks, drawn_weights, site_masks
from .vectorised import VectorisedMode

TOO_LARGE = "`model` needs more memory for one draw of one input than there is; use a smaller network."


class Plan:
    """How inputs of one shape are drawn: sites, engine, chunks, masks, and a replica for each worker."""

    def __init__(
        self,
        probe: Probe,
        replica: Replica,
        more_replicas: Callable[[], Replica] | None,
        outputs: Outputs,
        n_samples: int,
        seed: int,
        masks: str,
        batch_size: int,
    ) -> None:
        self.probe, self.outputs, self.seed, self.masks = probe, outputs, seed, masks
        self.device, self.precision, self.sites = replica.device, replica.precision, probe.sites
        self.replica_pool, self.more_replicas, self.gradients = [replica], more_replicas, replica.gradients
        self.engine, self.engine_reason = "loop", ""
        if probe.serial or any(site.kind == "generator" for site in self.sites.values()):
            self.engine_reason = "generators draw for one draw after the other"
        self.chosen_on = 0  # so many inputs
        self.failed: dict[str, str] = {}  # engines that were chosen and could not go on, and why
        self.choosing = shared_lock()
        self.layout, self.trial = Layout(), local()  # what folded passes lay out; `trial.layout`: while one finds out
        self.tail = torch.Size()  # axes of the outputs after draw and input
        # random numbers that are not keyed depend on who draws first
        self.serial = more_replicas is None or probe.serial
        self.weights = {name: site for name, site in self.sites.items() if site.kind == "weights"}
        # a hook of the user's, where there is one, may look at any result
        self.fused = fused_calls(probe, self.device, masks) if more_replicas is not None else {}
        row_bytes = max(ROW_BYTES, probe.largest(without=never_materialised(self.fused)))
        if masks == "per_input":
            row_bytes = max(row_bytes, *(site.n_elements for site in self.sites.values() if not site.layer), 0)
        at_least = INPUTS_PER_WEIGHTS if self.weights else INPUTS_PER_CHUNK
        budget = chunk_bytes(self.device, CHUNK_BYTES)
        self.draws_per_chunk, inputs = chunk_sizes(n_samples, row_bytes, at_least, budget)
        most = chunk_bytes(self.device, PREFIX_BYTES) // max(1, probe.prefix_bytes)
        self.most_inputs = max(1, min(batch_size, most))  # in a pass that knows of no draws
        self.inputs_per_chunk = min(inputs, self.most_inputs)
        self.inputs_per_loop = min(inputs * self.draws_per_chunk, self.most_inputs)  # one draw at a time
        if self.weights and self._kept_sites() == self.sites and self.draws_per_chunk < min(FEW_DRAWS, n_samples):
            self._draw_one_after_the_other(n_samples)
        self.thread_buffers = local()
        self.prefix_can_be_kept = not probe.serial
        self.differing: list[Tensor] = []  # whether draws differed so far; not asked before the end, lest we wait
        self.unknown: set[str] = set()
        self.unknown_numbers: set[str] = set()
        self.kept: dict[range, Masks] = {}

    def run(
        self, inputs: Inputs, ids: np.ndarray, draws: range, workers: Workers, report: Callable[[int], None]
    ) -> Tensor:
        """Raw outputs (draw, input, ...) of some draws."""
        with self.choosing:
            # where there was one input, calls may have taken it for all draws without laying it out
            if not self.engine_reason or (self.engine == "folded" and self.chosen_on == 1 < len(inputs)):
                self._choose_engine(inputs[slice(0, 3)], ids[:3])
        step = self.inputs_per_loop if self.engine == "loop" else self.inputs_per_chunk
        pieces = -(-len(inputs) // step)
        step = -(-len(inputs) // pieces)  # pieces of about one length, so that no worker waits for the others
        parts = [slice(start, start + step) for start in range(0, len(inputs), step)]
        rounds = []
        for some in self._rounds(draws):
            done = []
            work = partial(self._some_inputs, inputs, ids, some)
            with _no_talk_of_batching_rules() if self.engine != "loop" else nullcontext():
                for out in map(work, parts) if self.serial else workers.map_parallel(work, parts):
                    if some.stop == draws.stop:
                        report(out.shape[1])
                    done.append(out)
            rounds.append(_joined(done, 1))
        out = _joined(rounds, 0)
        self.differing = [torch.stack([*self.differing, (out[1:] != out[:1]).any()]).any()]
        return out

    @property
    def has_spread(self) -> bool:
        """Whether any draws differed."""
        return any(map(bool, self.differing))

    @contextmanager
    def _borrowed(self) -> Iterator[Replica]:
        """A replica for one chunk: a model may keep what it computes in attributes, so workers share none."""
        try:
            replica = self.replica_pool.pop()
        except IndexError:
            assert self.more_replicas is not None
            replica = self.more_replicas()
            raise_flags(replica, self.probe.raised)
            replica.gradients, replica.fixed = self.gradients, self.probe.fixed
            replica.passed_over = self.probe.passed_over
        try:
            yield replica
        finally:
            self.replica_pool.append(replica)

    # ---- chunks

    def _draw_one_after_the_other(self, n_samples: int) -> None:
        """Whole networks of weights in the loop, all draws of a few inputs in one chunk if memory has room for them.

        Each draw's weights serve as many inputs as the cache has room for beside what the network makes of them, and
        what comes before the first weights is computed once.
        """
        draw_bytes = sum(site.n_elements * site.dtype.itemsize for site in self.sites.values())
        self.draws_per_chunk = max(1, min(n_samples, MASK_BYTES // draw_bytes))
        self.inputs_per_chunk = self.inputs_per_loop = min(self.inputs_per_loop, INPUTS_PER_WEIGHTS)
        self.engine_reason = "weights of so few draws fit into a chunk that one draw after the other is quickest"

    def _some_inputs(self, inputs: Inputs, ids: np.ndarray, draws: range, part: slice) -> Tensor:
        """A few inputs; halves what is done at a time when memory runs out."""
        inputs, ids = inputs[part], ids[part]
        with out_of_memory_passed_over():
            return _joined([self._chunk(inputs, ids, part) for part in self._draw_parts(draws)], 0)
        return self._in_halves(inputs, ids, draws)

    def _draw_parts(self, draws: range) -> list[range]:
        step = self.draws_per_chunk
        return [range(start, min(start + step, draws.stop)) for start in range(draws.start, draws.stop, step)]

    def _in_halves(self, inputs: Inputs, ids: np.ndarray, draws: range) -> Tensor:
        self.kept.clear()
        empty_cache(self.device)
        if len(inputs) > 1:
            self.inputs_per_chunk = max(1, self.inputs_per_chunk // 2)
            halves = slice(0, len(inputs) // 2), slice(len(inputs) // 2, None)
            return torch.cat([self._some_inputs(inputs, ids, draws, half) for half in halves], dim=1)
        if self.draws_per_chunk > 1:
            self.draws_per_chunk //= 2
            return self._some_inputs(inputs, ids, draws, slice(None))
        raise OutOfMemory(TOO_LARGE)

    def _chunk(self, inputs: Inputs, ids: np.ndarray, draws: range) -> Tensor:
        while True:
            engine = self.engine
            try:
                masks = self._masks(draws, ids)
                with self._borrowed() as replica:
                    out = self._engines()[engine](replica, inputs, masks)
                if engine != "loop" and out.shape[2:] != self.tail:
                    raise ValueError(f"outputs of shape {tuple(out.shape[2:])} where the first had {tuple(self.tail)}")
                return out
            except Exception as error:
                if engine == "loop" or is_out_of_memory(error):
                    raise
                text = _first_line(error)
                let_go_of_what_it_made(error)
            self._hand_over(engine, text, inputs, ids)

    def _hand_over(self, engine: str, failure: str, inputs: Inputs, ids: np.ndarray) -> None:
        """Another engine goes on where this one failed."""
        with self.choosing:
            if self.engine == engine:  # else another worker was first
                self.failed[engine] = failure
                self._choose_engine(inputs[slice(0, 3)], ids[:3])

    # ---- engines

    def _engines(self) -> dict[str, Callable[[Replica, Inputs, Masks], Tensor]]:
        """The ways to run draws, the quickest first; the last can run them all."""
        engines = {"folded": self._folded, "vmap": self._vectorised, "loop": self._looped}
        if not all(can_be_folded(site) for site in self.sites.values() if site.kind != "start"):
            del engines["folded"]
        return engines

    def _folded(self, replica: Replica, inputs: Inputs, masks: Masks) -> Tensor:
        n_draws = len(next(iter(masks.values())))
        layout = vars(self.trial).get("layout", self.layout)
        mode = FoldedMode(replica, self.sites, masks, len(inputs), n_draws, self.fused, layout)
        with replica.predicting():
            return self._run(replica, inputs.clone(), mode).unflatten(0, (n_draws, len(inputs)))

    def _vectorised(self, replica: Replica, inputs: Inputs, masks: Masks) -> Tensor:
        with replica.predicting():
            return torch.func.vmap(lambda own: self._pass(replica, inputs, own))(masks)

    def _looped(self, replica: Replica, inputs: Inputs, masks: Masks) -> Tensor:
        n_draws = len(next(iter(masks.values())))
        own = [{name: mask[draw] for name, mask in masks.items()} for draw in range(n_draws)]
        with replica.predicting():
            if self.prefix_can_be_kept:
                with suppress(OtherCalls):
                    return self._looped_with_prefix(replica, inputs, own)
                self.prefix_can_be_kept = False  # the passes differ before the first site
            return torch.stack([self._pass(replica, inputs, masks) for masks in own])

    def _looped_with_prefix(self, replica: Replica, inputs: Inputs, own: list[Masks]) -> Tensor:
        draws, prefix = [], Prefix()
        for masks in own:
            draws.append(self._pass(replica, inputs, masks, prefix if self.prefix_can_be_kept else None))
            if prefix.was_written_to():
                self.prefix_can_be_kept = False
        return torch.stack(draws)

    def _pass(self, replica: Replica, inputs: Inputs, masks: Masks, prefix: Prefix | None = None) -> Tensor:
        """One pass of the network under the masks of one draw (under vmap: of many)."""
        given = replica, self.sites, masks, len(inputs)
        inputs = inputs.clone()  # a model may write to what it is given
        if prefix is None:
            mode = VectorisedMode(*given)
        elif prefix.versions is None:
            mode, prefix.inputs = RecordingMode(*given, prefix), inputs
        else:
            mode, inputs = ReplayingMode(*given, prefix), prefix.inputs
        return self._run(replica, inputs, mode)

    def _run(self, replica: Replica, inputs: Inputs, mode: SampleMode) -> Tensor:
        with mode:
            result = self.outputs.tensor(replica.run(inputs)).detach()
        self.unknown |= mode.unknown
        self.unknown_numbers |= mode.unknown_numbers
        return result

    def _choose_engine(self, inputs: Inputs, ids: np.ndarray) -> None:
        """The first that gives the loop's numbers on two draws of a few inputs."""
        self.engine = "loop"  # whose masks are numbers
        masks = self._made(range(2), self.sites, self._as_ids(ids))
        looped = None
        with out_of_memory_passed_over(), self._borrowed() as replica:
            looped = self._looped(replica, inputs, masks)
        if looped is None:
            self._choose_engine_by_fewer(inputs, ids)
            return
        self.chosen_on, self.tail = len(inputs), looped.shape[2:]
        failures = [f"{engine} failed: {text}" for engine, text in self.failed.items()]
        for engine, run in self._engines().items():
            if engine == "loop":
                break
            if engine in self.failed:
                continue
            self.trial.layout = layout = Layout()
            try:
                with self._borrowed() as replica, _no_talk_of_batching_rules():
                    result = run(replica, inputs, masks)
            except Exception as error:  # there are as many ways to fail as models are written
                failures.append(f"{engine} failed: {_first_line(error)}")
                let_go_of_what_it_made(error)
                continue
            finally:
                del self.trial.layout
            if self._same(looped, result):
                layout.settled = True
                self.layout = layout
                self.engine, self.engine_reason = engine, "; ".join([*failures, f"{engine} gives the loop's numbers"])
                return
            failures.append(f"{engine} gave other numbers than the loop")
        self.engine, self.engine_reason = "loop", "; ".join(failures)

    def _choose_engine_by_fewer(self, inputs: Inputs, ids: np.ndarray) -> None:
        empty_cache(self.device)
        if len(inputs) == 1:
            raise OutOfMemory(TOO_LARGE)
        self._choose_engine(inputs[slice(0, 1)], ids[:1])

    def _same(self, looped: Tensor, result: Tensor) -> bool:
        return same_numbers(looped, result, rounding(self.precision, self.device))

    # ---- masks and weights

    def _rounds(self, draws: range) -> Iterator[range]:
        """The draws, some after others for all inputs, with what each needs made before the workers ask for it.

        Shared masks and weights are kept for the next batch, up to a size. Masks beyond it are made when they are
        wanted; weights, which cost as much as the network itself, are kept for one round after the other.
        """
        whole = True
        for part in self._draw_parts(draws):
            if part not in self.kept:
                made = self._made(part, self._kept_sites())
                held = sum(mask.nbytes for masks in (*self.kept.values(), made) for mask in masks.values())
                if held > MASK_BYTES:
                    whole = False
                    break
                self.kept[part] = made
        if whole or not self.weights:
            yield draws
            return
        for part in self._draw_parts(draws):
            known = self.kept.get(part)
            self.kept[part] = known or self._made(part, self._kept_sites())
            yield part
            if known is None:
                self.kept.pop(part, None)  # gone where memory ran out

    def _kept_sites(self) -> dict[str, Site]:
        """The sites that are the same for all inputs."""
        return self.sites if self.masks == "shared" else self.weights

    def _masks(self, draws: range, ids: np.ndarray) -> Masks:
        """The masks and weights of some draws, for some inputs."""
        made = self.kept.get(draws, {})
        missing = {name: site for name, site in self.sites.items() if name not in made}
        return {**made, **self._made(draws, missing, self._as_ids(ids))}

    def _made(self, draws: range, sites: dict[str, Site], ids: Tensor | None = None) -> Masks:
        which = torch.arange(draws.start, draws.stop, device=for_float64(self.device))
        # masks of which each is used once are made numbers of where they meet their input, in the cache
        raw = self.fused if ids is not None and self.engine == "folded" else ()
        return {
            name: drawn_weights(self.seed, site, which, self.device)
            if site.layer
            else site_masks(self.seed, site, which, ids, partial(self._room, name) if name in raw else None).to(
                self.device
            )
            for name, site in sites.items()
        }

    def _room(self, name: str, n_bytes: int) -> Tensor:
        """Room for the masks of one chunk at a site: each thread's own, again and again.

        To hand so much memory back and ask for it anew costs a third of the time that the masks do.
        """
        held = vars(self.thread_buffers)
        if name not in held or len(held[name]) < n_bytes:
            held[name] = torch.empty(n_bytes, dtype=torch.uint8, device=self.device)
        return held[name][:n_bytes]

    def _as_ids(self, ids: np.ndarray) -> Tensor | None:
        return to_device(torch.from_numpy(ids), for_float64(self.device)) if self.masks == "per_input" else None


@contextmanager
def _no_talk_of_batching_rules() -> Iterator[None]:
    """An operation that vmap has no rule for runs once per draw, as in the loop: no more than that is meant by it."""
    _set_vmap_fallback_warning_enabled(False)
    try:
        yield
    finally:
        _set_vmap_fallback_warning_enabled(True)  # as torch has it


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """The parts in one; a single one is not copied."""
    return torch.cat(parts, dim=dim) if len(parts) > 1 else parts[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
