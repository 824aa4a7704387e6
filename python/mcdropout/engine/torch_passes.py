"""The passes of a torch model: its masks, and the engines that run draws of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import local

import numpy as np
import torch
from torch import Tensor

from ..compute.devices import for_float64
from ..compute.precision import rounding
from ..compute.transfers import to_device
from ..data.inputs import Inputs
from ..predictions.outputs import Outputs
from ..sites.interception import SampleMode
from ..sites.probe import Probe
from ..sites.replica import Replica, raise_flags
from .engines import Engine, ReplicaPool
from .fold import FoldedEngine, can_be_folded
from .fused import fused_calls, never_materialised
from .loop import LoopEngine
from .masks import Masks, drawn_weights, site_masks


class TorchPasses:
    """What the probes found out about a torch model, and replicas of it to run.

    masks_for: "shared" or "per_input". unknown: stochastic calls that no probe had seen; unknown_numbers: random
    numbers that the model drew itself and that no probe had seen.
    """

    def __init__(
        self,
        probe: Probe,
        replica: Replica,
        more_replicas: Callable[[], Replica] | None,
        outputs: Outputs,
        seed: int,
        masks_for: str,
    ) -> None:
        self.probe, self.outputs, self.seed, self.masks_for = probe, outputs, seed, masks_for
        self.device, self.gradients = replica.device, replica.gradients
        self.tolerance = rounding(replica.precision, replica.device)
        self.more_replicas = more_replicas
        self.replicas = ReplicaPool(replica, None if more_replicas is None else self._new_replica)
        # a hook of the user's, where there is one, may look at any result
        self.fused = fused_calls(probe, self.device, masks_for) if more_replicas is not None else {}
        # random numbers that are not keyed depend on who draws first
        self.serial = more_replicas is None or probe.serial
        self.unknown: set[str] = set()
        self.unknown_numbers: set[str] = set()
        self.thread_buffers = local()

    @property
    def names(self) -> frozenset[str]:
        """The names of the sites."""
        return frozenset(self.probe.sites)

    def row_bytes(self) -> int:
        """Bytes of the largest intermediate result of one input in one draw, masks of its own among them."""
        largest = self.probe.largest(without=never_materialised(self.fused))
        own = [site.n_elements for site in self.probe.sites.values() if not site.layer]
        return max(largest, *own) if self.masks_for == "per_input" and own else largest

    def loop_reason(self) -> str:
        """Why draws can come one after the other alone; "" where they need not."""
        if self.probe.serial or any(site.kind == "generator" for site in self.probe.sites.values()):
            return "generators draw for one draw after the other"
        return "" if self._can_be_folded() else "the masks of its sites cannot be laid along the axis of the inputs"

    def engines(self) -> list[Engine]:
        """The ways to run draws, the quickest first; the last can run them all."""
        sites = self.probe.sites
        engines: list[Engine] = [LoopEngine(sites, self._run_pass, prefix_can_be_kept=not self.probe.serial)]
        if self._can_be_folded():
            engines.insert(0, FoldedEngine(sites, self._run_pass, self.fused))
        return engines

    def _can_be_folded(self) -> bool:
        return all(can_be_folded(site) for site in self.probe.sites.values() if site.kind != "start")

    @contextmanager
    def borrowed(self) -> Iterator[Replica]:
        """A replica for one chunk, which records no gradients."""
        with self.replicas.borrowed() as replica, replica.predicting():
            yield replica

    def _new_replica(self) -> Replica:
        assert self.more_replicas is not None
        replica = self.more_replicas()
        raise_flags(replica, self.probe.raised)
        replica.gradients, replica.fixed = self.gradients, self.probe.fixed
        replica.passed_over = self.probe.passed_over
        return replica

    def _run_pass(self, replica: Replica, inputs: Inputs, mode: SampleMode) -> Tensor:
        """The wanted tensor of one pass."""
        with mode:
            result = self.outputs.tensor(replica.run(inputs)).detach()
        self.unknown |= mode.unknown
        self.unknown_numbers |= mode.unknown_numbers
        return result

    def masks(self, draws: range, ids: np.ndarray | None, names: frozenset[str], engine: Engine | None = None) -> Masks:
        """Masks and weights of some draws at these sites.

        ids: of the inputs; without them the masks are those that inputs share.
        """
        device = for_float64(self.device)
        which = torch.arange(draws.start, draws.stop, device=device)
        own = ids is not None and self.masks_for == "per_input"
        own_ids = to_device(torch.from_numpy(ids), device) if ids is not None and own else None
        byte_masks = engine.byte_masks if engine is not None and own else frozenset()
        masks = {}
        for name, site in self.probe.sites.items():
            if name not in names:
                continue
            if site.layer is not None:
                masks[name] = drawn_weights(self.seed, site, which, self.device)
            else:
                buffer = partial(self._buffer, name) if name in byte_masks else None
                masks[name] = site_masks(self.seed, site, which, own_ids, buffer).to(self.device)
        return masks

    def _buffer(self, name: str, n_bytes: int) -> Tensor:
        """Memory for the masks of one chunk at a site, which each thread uses for chunk after chunk.

        To free so much memory and ask for it again costs a third of the time that the masks do.
        """
        buffers = vars(self.thread_buffers)
        if name not in buffers or len(buffers[name]) < n_bytes:
            buffers[name] = torch.empty(n_bytes, dtype=torch.uint8, device=self.device)
        return buffers[name][:n_bytes]
