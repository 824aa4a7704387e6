"""The passes of a torch model: its masks, and the engines for its draws."""

from __future__ import annotations

from collections.abc import Callable
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
from .engines import Engine, Passes
from .fold import FoldedEngine, can_be_folded
from .fused import fused_calls, never_materialised
from .loop import LoopEngine
from .masks import Masks, drawn_weights, site_masks


class TorchPasses(Passes[Probe, Replica]):
    """The passes of a torch model."""

    def __init__(
        self,
        probe: Probe,
        replica: Replica,
        new_replica: Callable[[], Replica] | None,
        outputs: Outputs,
        seed: int,
        masks_for: str,
    ) -> None:
        super().__init__(probe, replica, new_replica, outputs, seed, masks_for)
        self.gradients, self.tolerance = replica.gradients, rounding(replica.precision, replica.device)
        # a hook of the user may read any result, so none is deferred then
        self.fused = fused_calls(probe, self.device, masks_for) if new_replica is not None else {}
        self.thread_buffers = local()

    def not_in_memory(self) -> frozenset[str]:
        return never_materialised(self.fused)

    def loop_reason(self) -> str:
        folded = "" if self._can_be_folded() else "the masks of its sites cannot be laid along the axis of the inputs"
        return super().loop_reason() or folded

    def engines(self) -> list[Engine]:
        sites = self.probe.sites
        engines: list[Engine] = [LoopEngine(sites, self._run_pass, prefix_can_be_kept=not self.probe.serial)]
        if self._can_be_folded():
            engines.insert(0, FoldedEngine(sites, self._run_pass, self.fused))
        return engines

    def _can_be_folded(self) -> bool:
        return all(can_be_folded(site) for site in self.probe.sites.values() if site.kind != "start")

    def prepare(self, replica: Replica) -> None:
        raise_flags(replica, self.probe.raised)
        replica.gradients, replica.fixed = self.gradients, self.probe.fixed
        replica.passed_over = self.probe.passed_over

    def _run_pass(self, replica: Replica, inputs: Inputs, mode: SampleMode) -> Tensor:
        """The selected output tensor of one pass."""
        with replica.predicting(), mode:
            result = self.outputs.tensor(replica.run(inputs)).detach()
        self.unknown |= mode.unknown
        self.unknown_numbers |= mode.unknown_numbers
        return result

    def masks(self, draws: range, ids: np.ndarray | None, names: frozenset[str], engine: Engine | None = None) -> Masks:
        device, mask_ids = for_float64(self.device), self.keyed_ids(ids)
        draw_numbers = torch.arange(draws.start, draws.stop, device=device)
        id_tensor = None if mask_ids is None else to_device(torch.from_numpy(mask_ids), device)
        byte_masks = engine.byte_masks if engine is not None and mask_ids is not None else frozenset()
        masks = {}
        for name, site in self.probe.sites.items():
            if name not in names:
                continue
            if site.layer is not None:
                masks[name] = drawn_weights(self.seed, site, draw_numbers, self.device)
            else:
                buffer = partial(self._buffer, name) if name in byte_masks else None
                masks[name] = site_masks(self.seed, site, draw_numbers, id_tensor, buffer).to(self.device)
        return masks

    def _buffer(self, name: str, n_bytes: int) -> Tensor:
        """Memory for the masks of one chunk at a site; each thread uses it for all its chunks.

        Freeing and allocating it for each chunk would cost a third of the time of the masks.
        """
        buffers = vars(self.thread_buffers)
        if name not in buffers or len(buffers[name]) < n_bytes:
            buffers[name] = torch.empty(n_bytes, dtype=torch.uint8, device=self.device)
        return buffers[name][:n_bytes]
