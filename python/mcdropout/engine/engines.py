"""What an engine is, the replicas that it runs, and the choice between engines.

An engine runs a chunk: some draws of some inputs. All engines give the same numbers, and the first on a model's list
that does so is taken. The list is ordered by a rule (`TorchPasses.engines`), never by the clock, so that two runs on
any machine take the same one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..compute.devices import empty_cache
from ..compute.forks import shared_lock
from ..compute.memory import free_frames, is_out_of_memory, suppress_out_of_memory
from ..data.inputs import Inputs
from ..errors import OutOfMemory
from ..predictions.outputs import Outputs
from ..sites.comparison import same_numbers
from ..sites.probe import Probe
from .masks import Masks

TOO_LARGE = "`model` needs more memory for one draw of one input than there is; use a smaller network."

P = TypeVar("P", bound=Probe)

R = TypeVar("R", bound=Any)


class Engine(ABC):
    """One way to run draws.

    byte_masks: sites whose masks it takes as bytes where each input has its own.
    """

    name: str
    byte_masks: frozenset[str] = frozenset()

    @abstractmethod
    def run(self, replica: Any, inputs: Inputs, masks: Masks) -> Tensor:
        """Outputs (draw, input, ...)."""

    def settle(self) -> None:  # noqa: B027  # most engines find nothing out
        """Keep what the run on a few inputs found out: later runs do the same."""

    def around_chunks(self) -> AbstractContextManager[None]:
        """What holds while chunks run."""
        return nullcontext()

    def filled_up(self, inputs: Inputs, ids: np.ndarray) -> tuple[Inputs, np.ndarray]:
        """The inputs of a chunk, and more where the engine takes chunks of one size alone."""
        return inputs, ids

    def forget_chunks(self) -> None:  # noqa: B027  # most engines keep no sizes
        """Forget the sizes of the chunks so far: memory was too small for them."""


class Passes(ABC, Generic[P, R]):
    """What the probes found out about a model, and replicas of it to run; a subclass for each library.

    masks_for: "shared" or "per_input". serial: nothing may run beside a pass. unknown: stochastic calls that no probe
    had seen; unknown_numbers: random numbers that the model drew itself and that no probe had seen. tolerance: how far
    apart, on their own scale, the numbers of two engines may be.
    """

    tolerance: float

    def __init__(
        self,
        probe: P,
        replica: R,
        new_replica: Callable[[], R] | None,
        outputs: Outputs,
        seed: int,
        masks_for: str,
    ) -> None:
        self.probe, self.outputs, self.seed, self.masks_for = probe, outputs, seed, masks_for
        self.device: torch.device = replica.device
        self.new_replica, self.idle = new_replica, [replica]
        # random numbers that are not keyed depend on who draws first
        self.serial = new_replica is None or probe.serial
        self.unknown: set[str] = set()
        self.unknown_numbers: set[str] = set()

    @property
    def names(self) -> frozenset[str]:
        """The names of the sites."""
        return frozenset(self.probe.sites)

    @contextmanager
    def borrowed(self) -> Iterator[R]:
        """A replica for one chunk: a model may keep what it computes in attributes, so workers share none."""
        try:
            replica = self.idle.pop()
        except IndexError:
            assert self.new_replica is not None
            replica = self.new_replica()
            self.prepare(replica)
        try:
            yield replica
        finally:
            self.idle.append(replica)

    def row_bytes(self) -> int:
        """Bytes of the largest intermediate result of one input in one draw, masks of its own among them."""
        own = [site.n_elements for site in self.probe.sites.values() if not site.layer]
        return max(self.probe.largest(self.not_in_memory()), *(own if self.masks_for == "per_input" else ()), 0)

    def not_in_memory(self) -> frozenset[str]:
        """Calls whose results are never in memory as one tensor."""
        return frozenset()

    def loop_reason(self) -> str:
        """Why draws can come one after the other alone; "" where they need not."""
        if self.probe.serial or any(site.kind == "generator" for site in self.probe.sites.values()):
            return "generators draw for one draw after the other"
        return ""

    @abstractmethod
    def prepare(self, replica: R) -> None:
        """Let a new replica draw where the probes have found sites."""

    @abstractmethod
    def engines(self) -> list[Engine]:
        """The ways to run draws, the quickest first; the last can run them all."""

    @abstractmethod
    def masks(self, draws: range, ids: np.ndarray | None, names: frozenset[str], engine: Engine | None = None) -> Masks:
        """Masks and weights of some draws at these sites, as `engine` takes them.

        ids: of the inputs; without them the masks are those that inputs share.
        """

    def keyed_ids(self, ids: np.ndarray | None) -> np.ndarray | None:
        """The ids where masks depend on them, else none."""
        return ids if self.masks_for == "per_input" else None


class EngineChoice:
    """The engine that runs a model's draws, and why.

    reason: why none but the loop is tried, where that is known before.
    """

    def __init__(self, passes: Passes[Any, Any], reason: str = "") -> None:
        self.passes, self.reason = passes, reason
        self.engine = passes.engines()[-1]
        self.failed: dict[str, str] = {}  # engines that were chosen and could not go on, and why
        self.chosen_on = 0  # so many inputs
        self.output_axes = torch.Size()  # axes of the outputs after draw and input
        self.lock = shared_lock()

    def get_ready(self, inputs: Inputs, ids: np.ndarray) -> None:
        """Choose an engine, where none is chosen that is known to serve for so many inputs."""
        with self.lock:
            # calls that met a single input may have taken its row for the rows of all draws
            if not self.reason or (self.engine.name == "folded" and self.chosen_on == 1 < len(inputs)):
                self._choose(inputs[slice(0, 3)], ids[:3])

    def run(self, inputs: Inputs, ids: np.ndarray, masks: Callable[[Engine, np.ndarray], Masks]) -> Tensor:
        """Outputs (draw, input, ...) of a chunk; another engine goes on where one fails."""
        while True:
            engine = self.engine
            try:
                filled, filled_ids = engine.filled_up(inputs, ids)
                chunk_masks = masks(engine, filled_ids)
                with self.passes.borrowed() as replica:
                    out = engine.run(replica, filled, chunk_masks)[:, : len(inputs)]
                if engine.name != "loop" and out.shape[2:] != self.output_axes:
                    first = tuple(self.output_axes)
                    raise ValueError(f"outputs of shape {tuple(out.shape[2:])} where the first had {first}")
                return out
            except Exception as error:
                if engine.name == "loop" or is_out_of_memory(error):
                    raise
                failure = _first_line(error)
                free_frames(error)
            with self.lock:
                if self.engine is engine:  # else another worker was first
                    self.failed[engine.name] = failure
                    self._choose(inputs[slice(0, 3)], ids[:3])

    def _choose(self, inputs: Inputs, ids: np.ndarray) -> None:
        """Take the first engine that gives the loop's numbers on two draws of a few inputs."""
        *candidates, loop = self.passes.engines()
        masks = self.passes.masks(range(2), ids, self.passes.names)
        looped = None
        with suppress_out_of_memory(), self.passes.borrowed() as replica:
            looped = loop.run(replica, inputs, masks)
        if looped is None:
            self._choose_on_fewer(inputs, ids)
            return
        self.chosen_on, self.output_axes = len(inputs), looped.shape[2:]
        failures = [f"{name} failed: {text}" for name, text in self.failed.items()]
        for engine in candidates:
            if engine.name in self.failed:
                continue
            try:
                with self.passes.borrowed() as replica, engine.around_chunks():
                    result = engine.run(replica, inputs, masks)
            except Exception as error:  # there are as many ways to fail as models are written
                failures.append(f"{engine.name} failed: {_first_line(error)}")
                free_frames(error)
                continue
            if same_numbers(looped, result, self.passes.tolerance):
                engine.settle()
                self.engine, self.reason = engine, "; ".join([*failures, f"{engine.name} gives the loop's numbers"])
                return
            failures.append(f"{engine.name} gave other numbers than the loop")
        self.engine, self.reason = loop, "; ".join(failures) or "there is no other engine for this network"

    def _choose_on_fewer(self, inputs: Inputs, ids: np.ndarray) -> None:
        empty_cache(self.passes.device)
        if len(inputs) == 1:
            raise OutOfMemory(TOO_LARGE)
        self._choose(inputs[slice(0, 1)], ids[:1])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
