"""Engines, the replicas that they run, and the choice between engines.

An engine runs a chunk: some draws of some inputs. All engines must give the same numbers; the first of a model's list
that gives the numbers of the loop is chosen. A rule orders the list (`TorchPasses.engines`), not the clock, so that two
runs on any machine choose the same engine.
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
from ..compute.generators import generators_held
from ..compute.memory import free_frames
from ..compute.out_of_memory import Shortage, is_out_of_memory, suppress_out_of_memory
from ..data.inputs import Inputs
from ..errors import OutOfMemory
from ..predictions.outputs import Outputs
from ..sites.comparison import same_numbers
from ..sites.probe import Probe
from .masks import Masks

P = TypeVar("P", bound=Probe)

R = TypeVar("R", bound=Any)


class Engine(ABC):
    """One way to run draws.

    byte_masks: sites whose masks it takes as bytes if each input has its own mask.
    """

    name: str
    byte_masks: frozenset[str] = frozenset()

    @abstractmethod
    def run(self, replica: Any, inputs: Inputs, masks: Masks) -> Tensor:
        """Outputs (draw, input, ...)."""

    def settle(self) -> None:  # noqa: B027  # most engines determine nothing
        """Keep what the run on a few inputs has determined; later runs use it."""

    def around_chunks(self) -> AbstractContextManager[None]:
        """The context in which chunks run."""
        return nullcontext()

    def filled_up(self, inputs: Inputs, ids: np.ndarray) -> tuple[Inputs, np.ndarray]:
        """The inputs of a chunk, with more inputs if the engine needs chunks of one size."""
        return inputs, ids

    def forget_chunks(self) -> None:  # noqa: B027  # most engines keep no sizes
        """Forget the sizes of the chunks so far: memory was too small for them."""


class Passes(ABC, Generic[P, R]):
    """The probe of a model and its replicas; a subclass for each library.

    masks_for: "shared" or "per_input". serial: passes must not run at the same time. unknown: stochastic calls that no
    probe had seen. unknown_numbers: random numbers of the model that no probe had seen. tolerance: the largest allowed
    relative difference between the numbers of two engines.
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
        # random numbers that are not keyed depend on the order of passes
        self.serial = new_replica is None or probe.serial
        self.unknown: set[str] = set()
        self.unknown_numbers: set[str] = set()

    @property
    def names(self) -> frozenset[str]:
        """The names of the sites."""
        return frozenset(self.probe.sites)

    @contextmanager
    def borrowed(self) -> Iterator[R]:
        """A replica for one chunk; workers share none, because a model may keep results in attributes."""
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
        """Bytes of the largest intermediate result of one input in one draw, or of its own masks."""
        own = [site.n_elements for site in self.probe.sites.values() if not site.layer]
        return max(self.probe.largest(self.not_in_memory()), *(own if self.masks_for == "per_input" else ()), 0)

    def not_in_memory(self) -> frozenset[str]:
        """Calls whose results are never computed as one tensor."""
        return frozenset()

    def loop_reason(self) -> str:
        """The reason why only the loop can draw; "" if there is none."""
        if self.probe.serial or any(site.kind == "generator" for site in self.probe.sites.values()):
            return "generators draw for one draw after the other"
        return ""

    @abstractmethod
    def prepare(self, replica: R) -> None:
        """Prepare a new replica to draw at the sites of the probe."""

    @abstractmethod
    def engines(self) -> list[Engine]:
        """The engines, the fastest first; the last can run all models."""

    @abstractmethod
    def masks(self, draws: range, ids: np.ndarray | None, names: frozenset[str], engine: Engine | None = None) -> Masks:
        """Masks and weights of some draws at these sites, in the form that `engine` needs.

        ids: those of the inputs; None for masks that inputs share.
        """

    def keyed_ids(self, ids: np.ndarray | None) -> np.ndarray | None:
        """The ids if masks depend on them, else None."""
        return ids if self.masks_for == "per_input" else None


class EngineChoice:
    """The engine that runs a model's draws, and why.

    reason: why only the loop is used, if that is known before any engine is tried.
    """

    def __init__(self, passes: Passes[Any, Any], reason: str = "") -> None:
        self.passes, self.reason = passes, reason
        self.engine = passes.engines()[-1]
        self.failed: dict[str, str] = {}  # engines that were chosen and failed later, with the error
        self.chosen_on = 0  # the number of inputs on which the engine was chosen
        self.output_axes = torch.Size()  # axes of the outputs after draw and input
        self.lock = shared_lock()

    def get_ready(self, inputs: Inputs, ids: np.ndarray) -> None:
        """Choose an engine, unless one was chosen that is valid for so many inputs."""
        if self._is_open(len(inputs)):
            with self._choosing():
                if self._is_open(len(inputs)):  # no other thread has chosen meanwhile
                    self._choose(inputs[slice(0, 3)], ids[:3])

    def _is_open(self, n_inputs: int) -> bool:
        """Whether no engine was chosen that is valid for so many inputs."""
        # an engine chosen on one input may have confused the one row of the input with the rows of all draws
        return not self.reason or (self.engine.name == "folded" and self.chosen_on == 1 < n_inputs)

    @contextmanager
    def _choosing(self) -> Iterator[None]:
        """Other threads wait. The model may need the lock of the generators: all threads take it first."""
        with generators_held(), self.lock:
            yield

    def run(self, inputs: Inputs, ids: np.ndarray, masks: Callable[[Engine, np.ndarray], Masks]) -> Tensor:
        """Outputs (draw, input, ...) of a chunk; if the engine fails, another engine takes over."""
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
            with self._choosing():
                if self.engine is engine:  # else another worker has already replaced it
                    self.failed[engine.name] = failure
                    self._choose(inputs[slice(0, 3)], ids[:3])

    def _choose(self, inputs: Inputs, ids: np.ndarray) -> None:
        """Choose the first engine that gives the numbers of the loop on two draws of a few inputs."""
        *candidates, loop = self.passes.engines()
        masks = self.passes.masks(range(2), ids, self.passes.names)
        looped = None
        with suppress_out_of_memory() as shortage, self.passes.borrowed() as replica:
            looped = loop.run(replica, inputs, masks)
        if looped is None:
            empty_cache(self.passes.device)
            if len(inputs) == 1:
                raise too_large(shortage)
            self._choose(inputs[slice(0, 1)], ids[:1])
            return
        self.output_axes = looped.shape[2:]
        failures = [f"{name} failed: {text}" for name, text in self.failed.items()]
        for engine in candidates:
            if engine.name in self.failed:
                continue
            try:
                with self.passes.borrowed() as replica, engine.around_chunks():
                    result = engine.run(replica, inputs, masks)
            except Exception as error:  # models may fail in any way
                failures.append(f"{engine.name} failed: {_first_line(error)}")
                free_frames(error)
                continue
            if same_numbers(looped, result, self.passes.tolerance):
                engine.settle()
                self._settle(engine, "; ".join([*failures, f"{engine.name} gives the loop's numbers"]), len(inputs))
                return
            failures.append(f"{engine.name} gave other numbers than the loop")
        self._settle(loop, "; ".join(failures) or "there is no other engine for this network", len(inputs))

    def _settle(self, engine: Engine, reason: str, n_inputs: int) -> None:
        """Use an engine; `_is_open()` says so in other threads only after the last assignment."""
        self.engine = engine
        self.reason = reason
        self.chosen_on = n_inputs


def too_large(shortage: Shortage) -> OutOfMemory:
    """The error where the smallest chunk has too little memory."""
    return OutOfMemory(
        f"`model` needs more memory for one draw of one input than there is: {shortage.numbers}; use a smaller network."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
