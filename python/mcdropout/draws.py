"""Draw networks and run inputs through them: chunks, engines, masks kept while they are small.

A draw is a network. Its masks are keyed (`randomness`), so draws can be made in any order and in any pieces.

Three engines give the same numbers, the quickest that does so for a network being taken: `folded` lays the draws along
the inputs' axis (`folding`), `vmap` has torch run all draws at once whatever their axes, the loop takes one draw after
the other. In each, what comes before the first site is computed once for all draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from threading import Barrier, Thread, local
from traceback import clear_frames
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import (  # torch has no public way to say this, and its stubs leave it out
    _set_vmap_fallback_warning_enabled,  # pyright: ignore[reportAttributeAccessIssue]
    is_batchedtensor,
    peek_interpreter_stack,  # pyright: ignore[reportAttributeAccessIssue]
)

from .checks import IdenticalDraws, OutOfMemory, warn
from .devices import awaited, chunk_bytes, for_float64, give_memory_back, sent, shared_lock
from .folding import FoldedMode, Layout, can_be_folded
from .inputs import Inputs
from .operations import HANDLERS, is_opened
from .outputs import Outputs
from .precision import cast_arguments, rounding
from .randomness import (
    OwnStream,
    generator_starts,
    keep_masks,
    normals,
    other_generators_kept,
    seeded_generators,
    uniforms,
)
from .sites import (
    NORMAL_KINDS,
    Probe,
    Replica,
    SampleMode,
    Site,
    caveats_on,
    mask_numbers,
    raise_flags,
    same_numbers,
    tensors_in,
)
from .waiting import fused_calls, unmade

CHUNK_BYTES = 8 << 20  # largest intermediate result of a chunk; tests/benchmarks/bench_chunks.py shows the sweep
ROW_BYTES = 64  # so large at least is a row taken to be: of smaller ones several results lie about at a time
PREFIX_BYTES = 64 << 20  # largest result of a chunk before the first site, where one pass serves all draws
MASK_BYTES = 256 << 20  # masks of all draws are kept for the next batch up to this size, else made again
INPUTS_PER_CHUNK = 4  # so few at least that a mask, once read, serves several inputs
INPUTS_PER_WEIGHTS = 64  # weights of a draw are larger than what they work on, and want to serve more
FEW_DRAWS = 8  # where fewer than so many fit into a chunk, vmap costs more than it saves

TOO_LARGE = "`model` needs more memory for one draw of one input than there is; use a smaller network."

Masks = dict[str, Tensor]
T = TypeVar("T")


class Sampler:
    """Runs inputs through draws of one model; inputs of another shape are probed anew, and get masks of their own.

    `make_plan` gets inputs on a device, and the device. Where nothing may run beside the model, the first device does
    all.
    """

    def __init__(
        self,
        make_plan: Callable[[Inputs, torch.device], Plan],
        example: Inputs,
        seed: int,
        workers: int | None,
        devices: list[torch.device],
    ) -> None:
        self.make_plan, self.seed, self.workers, self.told = make_plan, seed, workers, False
        self.first = make_plan(example, devices[0])
        self.input_bytes = example.nbytes // len(example)
        self.devices = devices[:1] if self.first.alone else devices
        self.plans = {(example.signature, 0): self.first}

    def plan(self, inputs: Inputs, lane: int = 0) -> Plan:
        """How inputs that lie on a device are drawn there; `lane` is the device's place in `devices`."""
        key = inputs.signature, lane
        if key not in self.plans:
            self.plans[key] = self.make_plan(inputs, self.devices[lane])
        return self.plans[key]

    @contextmanager
    def at_work(self) -> Iterator[list[Workers]]:
        """The workers of each device for one prediction.

        Tells, in the first, of what the spread leaves out or depends on; in each, of calls that no probe had seen.
        """
        if not self.told:
            for caveat in caveats_on(self.first.probe):
                warn(caveat)
        self.told = True
        with ExitStack() as stack:
            if self.first.probe.alone:
                stack.enter_context(OwnStream(self.seed))
                stack.enter_context(other_generators_kept(self.seed))
            crews = [Workers.wanted(self.workers, device, self.devices.count(device)) for device in self.devices]
            yield [stack.enter_context(workers) for workers in crews]
        unknown = sorted({name for plan in self.plans.values() for name in plan.unknown - plan.probe.passed_over})
        if unknown:
            warn(
                "`model` made dropout calls that its first inputs did not show and that were left out: "
                f"{', '.join(unknown)}."
            )
        numbers = sorted({one for plan in self.plans.values() for one in plan.unknown_numbers})
        if numbers:
            warn(
                "`model` drew random numbers of its own that its first inputs did not show, by "
                f"{', '.join(numbers)}; they depend on `batch_size` too."
            )

    def check_spread(self) -> None:
        """Draws that are all the same say nothing, whatever the reason."""
        if not any(plan.has_spread for plan in self.plans.values()):
            raise IdenticalDraws(
                "`model` gave the same outputs in every draw, so the spread would say nothing; see `mc_sites()` "
                "for what was sampled, and look whether what comes after it can change the output."
            )


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
        self.idle, self.more_replicas, self.gradients = [replica], more_replicas, replica.gradients
        self.engine, self.engine_reason = "loop", ""
        if probe.alone or any(site.kind == "generator" for site in self.sites.values()):
            self.engine_reason = "generators draw for one draw after the other"
        self.chosen_on = 0  # so many inputs
        self.failed: dict[str, str] = {}  # engines that were chosen and could not go on, and why
        self.choosing = shared_lock()
        self.layout, self.trial = Layout(), local()  # what folded passes lay out; `trial.layout`: while one finds out
        self.tail = torch.Size()  # axes of the outputs after draw and input
        # random numbers that are not keyed depend on who draws first
        self.alone = more_replicas is None or probe.alone
        self.weights = {name: site for name, site in self.sites.items() if site.kind == "weights"}
        # a hook of the user's, where there is one, may look at any result
        self.fused = fused_calls(probe, self.device, masks) if more_replicas is not None else {}
        row_bytes = max(ROW_BYTES, probe.largest(without=unmade(self.fused)))
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
        self.rooms = local()
        self.prefix_can_be_kept = not probe.alone
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
                for out in map(work, parts) if self.alone else workers.side_by_side(work, parts):
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
            replica = self.idle.pop()
        except IndexError:
            assert self.more_replicas is not None
            replica = self.more_replicas()
            raise_flags(replica, self.probe.raised)
            replica.gradients, replica.fixed = self.gradients, self.probe.fixed
            replica.passed_over = self.probe.passed_over
        try:
            yield replica
        finally:
            self.idle.append(replica)

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
        with _out_of_memory_passed_over():
            return _joined([self._chunk(inputs, ids, part) for part in self._draw_parts(draws)], 0)
        return self._in_halves(inputs, ids, draws)

    def _draw_parts(self, draws: range) -> list[range]:
        step = self.draws_per_chunk
        return [range(start, min(start + step, draws.stop)) for start in range(draws.start, draws.stop, step)]

    def _in_halves(self, inputs: Inputs, ids: np.ndarray, draws: range) -> Tensor:
        self.kept.clear()
        give_memory_back(self.device)
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
                if engine == "loop" or _is_out_of_memory(error):
                    raise
                text = _first_line(error)
                _let_go_of_what_it_made(error)
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
        with _out_of_memory_passed_over(), self._borrowed() as replica:
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
                _let_go_of_what_it_made(error)
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
        give_memory_back(self.device)
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
        held = vars(self.rooms)
        if name not in held or len(held[name]) < n_bytes:
            held[name] = torch.empty(n_bytes, dtype=torch.uint8, device=self.device)
        return held[name][:n_bytes]

    def _as_ids(self, ids: np.ndarray) -> Tensor | None:
        return sent(torch.from_numpy(ids), for_float64(self.device)) if self.masks == "per_input" else None


@contextmanager
def _no_talk_of_batching_rules() -> Iterator[None]:
    """An operation that vmap has no rule for runs once per draw, as in the loop: no more than that is meant by it."""
    _set_vmap_fallback_warning_enabled(False)
    try:
        yield
    finally:
        _set_vmap_fallback_warning_enabled(True)  # as torch has it


class VectorisedMode(SampleMode):
    """A pass under vmap, or of one draw; linear layers take all draws at once.

    vmap makes a product of every linear layer and adds its bias apart; where inputs do not lie outermost it even
    multiplies a few rows at a time.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.linear:
            if self.reduced is not None:
                args, kwargs = cast_arguments(func, args, kwargs or {}, self.reduced)
            return _linear(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, whose arguments it has."""
    if not is_batchedtensor(input) or any(one is not None and is_batchedtensor(one) for one in (weight, bias)):
        return F.linear(input, weight, bias)
    return _LinearOfDraws.apply(input, weight, bias)


class _LinearOfDraws(torch.autograd.Function):
    """`F.linear` of many draws under vmap: of their rows, as they lie in memory."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]  # torch says *args
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int]:  # type: ignore[override]  # torch says *args
        x = x.movedim(in_dims[0], 0)
        order = sorted(range(x.ndim - 1), key=lambda axis: -x.stride(axis))
        rows = x.permute(*order, -1)
        out = F.linear(rows.reshape(-1, x.shape[-1]), weight, bias).unflatten(0, rows.shape[:-1])
        back = sorted(range(len(order)), key=lambda place: order[place])
        return out.permute(*back, -1), 0


class OtherCalls(Exception):
    """A pass before the first site is not what the first pass was, or cannot be kept."""


class Prefix:
    """The results of all torch calls before the first site: the same in every draw, so computed in the first alone.

    A pass makes the same calls up to there, so the results are handed out by their order. That they are the same calls,
    of the same functions with the same arguments, is seen as they are made: a model may keep in one pass what it takes
    from there in the next. Whether a later call wrote into a result is seen from torch's own count of the writes to
    each tensor. Calls that give no tensor are made anew, and so is what happens inside `torch.func.grad()` and its
    like, whose tensors are no longer any once it has ended.
    """

    inputs: Inputs  # as the first pass left them

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any]] = []  # the function, what it was given, what it gave
        self.counts: Counter[str] = Counter()  # stochastic calls before the first site, for the names of later ones
        self.versions: list[tuple[Tensor, int]] | None = None  # None while the first pass is under way

    def complete(self, counts: Counter[str]) -> None:
        """The first site is reached."""
        given = [self.inputs.args, self.inputs.kwargs, self.inputs.constants]
        tensors = tensors_in([[result for _, _, result in self.calls], given])
        if any(one.is_inference() for one in tensors):
            raise OtherCalls("no writes to inference tensors are counted")
        if any(one.requires_grad for one in tensors):
            raise OtherCalls("gradients go back through a pass once")
        self.counts, self.versions = counts, [(one, one._version) for one in tensors]

    def was_written_to(self) -> bool:
        """Whether a call after the first site changed a result in place."""
        return self.versions is None or any(tensor._version != version for tensor, version in self.versions)


def _transforming() -> bool:
    """Whether a function of `torch.func` is at work: tensors made now belong to it."""
    return peek_interpreter_stack() is not None


class RecordingMode(SampleMode):
    """A draw that notes what comes before its first site."""

    def __init__(self, replica: Replica, sites: dict[str, Site], masks: Masks, n_inputs: int, prefix: Prefix) -> None:
        super().__init__(replica, sites, masks, n_inputs)
        self.prefix = prefix

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if self.prefix.versions is None and not is_opened(func):
            if not _transforming():
                self.prefix.calls.append((func, (args, kwargs or {}), result))
            elif func in HANDLERS:
                raise OtherCalls("a stochastic call that is made anew would be counted twice")
        return result

    def at_site(self, counts: Counter[str]) -> None:
        if self.prefix.versions is None:
            self.prefix.complete(counts)


class ReplayingMode(SampleMode):
    """A draw that takes what comes before its first site from an earlier one."""

    def __init__(self, replica: Replica, sites: dict[str, Site], masks: Masks, n_inputs: int, prefix: Prefix) -> None:
        super().__init__(replica, sites, masks, n_inputs)
        self.calls.counts.update(prefix.counts)
        self.known = iter(prefix.calls)
        self.left = len(prefix.calls)

    def at_site(self, counts: Counter[str]) -> None:
        if self.left > 0:
            raise OtherCalls("a site was reached before all calls had been made")

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.left == 0 or is_opened(func) or _transforming():
            return super().__torch_function__(func, types, args, kwargs)
        self.left -= 1
        known, given, result = next(self.known)
        if known != func or not _same_arguments(given, (args, kwargs or {})):
            raise OtherCalls(f"{func} where the first pass called {known}, or with other arguments")
        return result if tensors_in(result) else super().__torch_function__(func, types, args, kwargs)


def _same_arguments(one: Any, other: Any) -> bool:
    """Whether a call is given the very tensors that another was, or equal ones, and else what is equal."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_same_arguments, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same_arguments(one[name], other[name]) for name in one)
    try:
        return bool(one == other)
    except Exception:  # of arrays, and of what cannot be compared
        return False


# ---- workers --------------------------------------------------------------------------------------------------


NEW_THREADS = shared_lock()  # how many threads of torch a new thread gets is one number for the whole process


def _threads_of_one(n: int) -> ThreadPoolExecutor:
    """So many threads, each of which works with one thread of torch.

    Torch has no such setting for one thread alone: what one sets, all that come after it start with. So all are made
    before there is any work, and a last one, which does nothing else, puts back what new threads had.
    """
    pool, all_here = ThreadPoolExecutor(n), Barrier(n)

    def settle() -> int:
        usual = torch.get_num_threads()
        all_here.wait()  # so that none takes the place of another
        torch.set_num_threads(1)
        return usual

    with NEW_THREADS:
        try:
            usual = [awaited(one) for one in [pool.submit(settle) for _ in range(n)]]
        except BaseException:  # no room for so many
            all_here.abort()
            pool.shutdown(wait=False)
            raise
        last = Thread(target=torch.set_num_threads, args=(usual[0],))
        last.start()
        last.join()
    return pool


class Workers:
    """Threads that work on chunks side by side, for as long as one prediction takes.

    Each computes with one thread of torch: whole chunks side by side wait for nobody, where threads that share every
    small operation wait for each other at its end, and the numbers do not depend on how many there are. They are made
    once, when the first two chunks come: every new thread would take memory of its own and keep it.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self.pool: ThreadPoolExecutor | None = None

    @classmethod
    def wanted(cls, workers: int | None, device: torch.device, sharing: int = 1) -> Workers:
        """As many as asked for; else, on a CPU, as torch would use for one operation: elsewhere one drives all.

        `sharing`: how many crews work on the device.
        """
        return cls(workers or (max(1, torch.get_num_threads() // sharing) if device.type == "cpu" else 1))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def side_by_side(self, work: Callable[[slice], T], parts: list[slice]) -> Iterator[T]:
        """The results for all parts, in order."""
        if self.n_workers == 1 or len(parts) == 1:
            return map(work, parts)
        if self.pool is None:
            self.pool = _threads_of_one(self.n_workers)
        return map(awaited, [self.pool.submit(work, part) for part in parts])


# ---- sizes and masks ------------------------------------------------------------------------------------------


def chunk_sizes(
    n_samples: int, bytes_per_row: int, inputs_at_least: int = INPUTS_PER_CHUNK, budget: int = CHUNK_BYTES
) -> tuple[int, int]:
    """(draws, inputs) of a chunk, whose largest intermediate result should take `budget` bytes: what stays in cache.

    Depends on the network and the device alone, never on the machine's load or the caller's batch size, so that two
    runs agree to the bit.
    """
    rows = max(1, budget // max(1, bytes_per_row))
    most = max(1, rows // inputs_at_least)
    pieces = 1 if n_samples <= 1.5 * most else -(-n_samples // most)  # rather fewer inputs than a small last piece
    draws = -(-n_samples // pieces)
    return draws, max(1, rows // draws)


def site_masks(
    seed: int, site: Site, draws: Tensor, ids: Tensor | None, room: Callable[[int], Tensor] | None = None
) -> Tensor:
    """Masks of a site, (draw, ...): the factor, 0 or 1, or number in [0, 1) that the site's kind asks for.

    Shared masks (`ids` None) have the shape of one input's mask; else the inputs lie along the site's own axis. A
    site that no input has for itself (no axis grows with the inputs) has one mask per draw in both cases.
    With `room` they are the decisions themselves, 1 to keep and 0 to drop, in the bytes that it gives.
    """
    per_input = ids is not None and site.axis is not None
    which = ids if ids is not None and per_input else torch.zeros(1, dtype=torch.int64, device=draws.device)
    masks = "per_input" if per_input else "shared"
    given = seed, masks, site.key
    if site.kind in ("generator", "start"):
        return generator_starts(seed, site.key, draws)
    if site.kind == "uniforms":
        made = uniforms(*given, site.n_elements, draws, which, site.dtype)
    elif site.kind in NORMAL_KINDS:
        made = normals(*given, site.n_elements, draws, which)
    elif site.axis == 0 and site.shape[0] == 1 and site.channels_innermost:
        channels, *sides = site.shape[1:]
        kept = keep_masks(*given, site.rate, site.n_elements, draws, which, channels, room)
        kept = kept.view(len(draws), -1, *sides, channels)
        return (mask_numbers(kept, site) if room is None else kept).movedim(-1, 2)
    else:
        made = keep_masks(*given, site.rate, site.n_elements, draws, which, 1, room)
    made = made.view(len(draws), len(which), *site.shape)
    if site.axis is None:
        made = made[:, 0]
    else:
        axis = 1 + site.axis
        made = made.movedim(1, axis if site.inputs_outermost else axis + 1)
        made = made.flatten(axis, axis + 1)  # inputs and their k entries, as they lie in the site's own tensor
    order = (0, *(one + 1 for one in site.order))
    back = sorted(range(made.ndim), key=lambda one: order[one])
    made = made.permute(order).contiguous()  # in memory as the input it meets
    return (mask_numbers(made, site) if room is None else made).permute(back)


class _KeyedNoise:
    """The noise of some draws of one site, for weights on a device."""

    def __init__(self, seed: int, site: Site, draws: Tensor, device: torch.device) -> None:
        self.seed, self.site, self.draws, self.device = seed, site, draws, device

    def normals(self, n: int) -> Tensor:
        one = torch.zeros_like(self.draws[:1])
        return normals(self.seed, "shared", self.site.key, n, self.draws, one, self.site.dtype)[:, 0].to(self.device)

    def each(self, sample: Callable[[], Tensor]) -> Tensor:
        drawn = []
        for start in generator_starts(self.seed, self.site.key, self.draws).tolist():
            with seeded_generators(start):
                drawn.append(sample())
        return torch.stack(drawn)


def drawn_weights(seed: int, site: Site, draws: Tensor, device: torch.device) -> Tensor:
    """The weights of a variational layer, (draw, weight)."""
    assert site.layer is not None
    with torch.no_grad():
        return site.layer.draw(_KeyedNoise(seed, site, draws, device)).contiguous()


@contextmanager
def _out_of_memory_passed_over() -> Iterator[None]:
    """Go on behind the block if it runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _let_go_of_what_it_made(error)


def _let_go_of_what_it_made(error: BaseException | None) -> None:
    """Free what the frames of a failed pass hold.

    An error may outlive its handling, in a cycle (as of a context manager in Python 3.13) or with who has kept it, and
    its traceback would hold on to all that the pass had made.
    """
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """The parts in one; a single one is not copied."""
    return torch.cat(parts, dim=dim) if len(parts) > 1 else parts[0]


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
