"""The plan of a prediction: the passes of a model, the sizes of chunks, the masks that are kept, and the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compute.devices import empty_cache
from ..compute.out_of_memory import Shortage, suppress_out_of_memory
from ..compute.threads import Workers
from ..data.inputs import Inputs
from .chunks import MASK_BYTES, ChunkSizes
from .engines import Engine, EngineChoice, Passes, too_large
from .masks import Masks


class MaskCache:
    """The masks and weights of a plan.

    shared: sites whose masks are the same for all inputs; these are kept up to a size. has_weights: whether weights are
    among them.
    """

    def __init__(self, passes: Passes[Any, Any], sizes: ChunkSizes, shared: frozenset[str], has_weights: bool) -> None:
        self.passes, self.sizes, self.shared, self.has_weights = passes, sizes, shared, has_weights
        self.kept: dict[range, Masks] = {}

    def rounds(self, draws: range) -> Iterator[range]:
        """The draws in rounds of all inputs; the shared masks of a round are computed before it starts.

        Shared masks beyond the size that is kept are computed again for each chunk. Weights cost as much as the network
        itself, so the weights of a round are kept until the round ends.
        """
        all_kept = True
        for part in self.sizes.draw_parts(draws):
            if part not in self.kept:
                masks = self.passes.masks(part, None, self.shared)
                kept_bytes = sum(mask.nbytes for known in (*self.kept.values(), masks) for mask in known.values())
                if kept_bytes > MASK_BYTES:
                    all_kept = False
                    break
                self.kept[part] = masks
        if all_kept or not self.has_weights:
            yield draws
            return
        for part in self.sizes.draw_parts(draws):
            known = self.kept.get(part)
            self.kept[part] = known or self.passes.masks(part, None, self.shared)
            yield part
            if known is None:
                self.kept.pop(part, None)  # it was removed already if memory ran out

    def masks(self, draws: range, ids: np.ndarray, engine: Engine) -> Masks:
        """All masks and weights of some draws for some inputs, in the form that an engine needs."""
        known = self.kept.get(draws, {})
        return {**known, **self.passes.masks(draws, ids, self.passes.names - known.keys(), engine)}

    def clear(self) -> None:
        """Free the memory."""
        self.kept.clear()


class SamplingPlan:
    """The plan to sample inputs of one shape: passes, sizes of chunks, masks and the engine."""

    def __init__(self, passes: Passes[Any, Any], sizes: ChunkSizes, masks: MaskCache, choice: EngineChoice) -> None:
        self.passes, self.sizes, self.masks, self.choice = passes, sizes, masks, choice
        self.differing: list[
            Tensor
        ] = []  # whether draws differed; read only at the end, because reading waits for a GPU

    @classmethod
    def of(cls, passes: Passes[Any, Any], n_samples: int, batch_size: int) -> SamplingPlan:
        """The plan for a number of draws."""
        sites = passes.probe.sites
        weights = {name: site for name, site in sites.items() if site.kind == "weights"}
        sizes = ChunkSizes(
            passes.device, n_samples, batch_size, passes.row_bytes(), passes.probe.prefix_bytes, bool(weights)
        )
        shared = frozenset(sites if passes.masks_for == "shared" else weights)
        reason = passes.loop_reason()
        if not reason and weights and len(shared) == len(sites) and sizes.holds_few_draws():
            sizes.draw_one_after_the_other(sum(site.n_elements * site.dtype.itemsize for site in sites.values()))
            reason = "weights of so few draws fit into a chunk that one draw after the other is quickest"
        return cls(passes, sizes, MaskCache(passes, sizes, shared, bool(weights)), EngineChoice(passes, reason))

    def run(
        self, inputs: Inputs, ids: np.ndarray, draws: range, workers: Workers, report: Callable[[int], None]
    ) -> Tensor:
        """Raw outputs (draw, input, ...) of some draws."""
        self.choice.get_ready(inputs, ids)
        parts = self.sizes.input_parts(len(inputs), loop=self.choice.engine.name == "loop")
        rounds = []
        for part_of_draws in self.masks.rounds(draws):
            outputs = []
            work = partial(self._part, inputs, ids, part_of_draws)
            with self.choice.engine.around_chunks():
                for out in map(work, parts) if self.passes.serial else workers.map_parallel(work, parts):
                    if part_of_draws.stop == draws.stop:
                        report(out.shape[1])
                    outputs.append(out)
            rounds.append(_joined(outputs, 1))
        out = _joined(rounds, 0)
        self.differing = [torch.stack([*self.differing, (out[1:] != out[:1]).any()]).any()]
        return out

    @property
    def has_spread(self) -> bool:
        """Whether any draws differed."""
        return any(map(bool, self.differing))

    def _part(self, inputs: Inputs, ids: np.ndarray, draws: range, part: slice) -> Tensor:
        """Outputs of a few inputs; if memory runs out, half as many inputs at a time."""
        inputs, ids = inputs[part], ids[part]
        with suppress_out_of_memory() as shortage:
            return _joined([self._chunk(inputs, ids, some_draws) for some_draws in self.sizes.draw_parts(draws)], 0)
        return self._in_halves(inputs, ids, draws, shortage)

    def _chunk(self, inputs: Inputs, ids: np.ndarray, draws: range) -> Tensor:
        return self.choice.run(inputs, ids, lambda engine, ids: self.masks.masks(draws, ids, engine))

    def _in_halves(self, inputs: Inputs, ids: np.ndarray, draws: range, shortage: Shortage) -> Tensor:
        self.masks.clear()
        self.choice.engine.forget_chunks()
        empty_cache(self.passes.device)
        if len(inputs) > 1:
            self.sizes.halve_inputs()
            halves = slice(0, len(inputs) // 2), slice(len(inputs) // 2, None)
            return torch.cat([self._part(inputs, ids, draws, half) for half in halves], dim=1)
        if self.sizes.halve_draws():
            return self._part(inputs, ids, draws, slice(None))
        raise too_large(shortage)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """The parts as one tensor; a single part is not copied."""
    return torch.cat(parts, dim=dim) if len(parts) > 1 else parts[0]
