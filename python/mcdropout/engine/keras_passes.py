"""The passes of a Keras model, on torch, TensorFlow or JAX.

Draws are vectorised, or come one after the other. On TensorFlow and JAX vectorised draws are compiled, with masks and
inputs as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import (  # torch has no public functions for these
    _set_vmap_fallback_warning_enabled,  # pyright: ignore[reportAttributeAccessIssue]  # torch's stubs omit it
    is_batchedtensor,
)
from torch.overrides import TorchFunctionMode

from ..data.inputs import Inputs
from ..predictions.outputs import Outputs
from ..sites.keras.loading import load_keras
from ..sites.keras.passes import SamplePass
from ..sites.keras.probe import KerasProbe
from ..sites.keras.replica import Replica
from .engines import Engine, Passes
from .masks import Masks, site_masks

DRAW = "draw"  # the key of the draws' numbers among the masks; no site has this name


class KerasPasses(Passes[KerasProbe, Replica]):
    """The passes of a Keras model."""

    def __init__(
        self,
        probe: KerasProbe,
        replica: Replica,
        new_replica: Callable[[], Replica] | None,
        outputs: Outputs,
        seed: int,
        masks_for: str,
    ) -> None:
        super().__init__(probe, replica, new_replica, outputs, seed, masks_for)
        self.replica, self.sites, self.tolerance = replica, probe.keras_sites(), replica.rounding()
        self.prepare(replica)

    def prepare(self, replica: Replica) -> None:
        self.probe.raise_in(replica)

    def loop_reason(self) -> str:
        draws_itself = "the model draws random numbers of its own" if self.probe.own_randomness else ""
        return draws_itself or super().loop_reason()

    def engines(self) -> list[Engine]:
        return [KerasVmapEngine(self), KerasLoopEngine(self)]

    def masks(self, draws: range, ids: np.ndarray | None, names: frozenset[str], engine: Engine | None = None) -> Any:
        """As in `Passes`, as tensors of the backend."""
        draw_numbers, mask_ids = torch.arange(draws.start, draws.stop, device=self.device), self.keyed_ids(ids)
        id_tensor = None if mask_ids is None else torch.from_numpy(mask_ids).to(self.device)
        masks = {}
        for name, site in self.sites.items():
            if name in names:
                mask = site.layout.outward(site_masks(self.seed, site.site, draw_numbers, id_tensor))
                masks[name] = mask if self.replica.backend == "torch" else mask.numpy()
        return {**masks, DRAW: draw_numbers} if self.probe.own_randomness else masks

    def one_pass(self, replica: Replica, arguments: Any, masks: Any, n_inputs: int, values: Any = None) -> Any:
        """The selected output tensor of one pass under the masks of one draw, or of many draws if vectorised."""
        sample_pass = SamplePass(self.sites, masks, n_inputs)
        result = replica.take(replica.called(arguments, sample_pass, values))
        self.unknown |= sample_pass.unknown
        return result


class KerasLoopEngine(Engine):
    """One draw after the other."""

    name = "loop"

    def __init__(self, passes: KerasPasses) -> None:
        self.passes = passes

    def run(self, replica: Replica, inputs: Inputs, masks: Masks) -> Tensor:
        arguments, seed = replica.given(inputs), self.passes.seed
        draws = []
        for draw in range(len(next(iter(masks.values())))):
            of_draw = {name: mask[draw] for name, mask in masks.items()}
            values = [(state, np.array([seed % 2**31, of_draw[DRAW]])) for _, state in replica.seeds if DRAW in of_draw]
            draws.append(replica.to_torch(self.passes.one_pass(replica, arguments, of_draw, len(inputs), values)))
        return torch.stack(draws)


class KerasVmapEngine(Engine):
    """All draws of a chunk at once, vectorised by the backend."""

    name = "vmap"

    def __init__(self, passes: KerasPasses) -> None:
        self.passes, self.replica = passes, passes.replica
        self.settled = False
        self.n_compiled = 0  # inputs of the largest chunk so far; smaller chunks are filled up, not compiled again

    def run(self, replica: Replica, inputs: Inputs, masks: Masks) -> Tensor:
        arguments = replica.given(inputs)
        if replica.backend == "torch":
            with ChannelsStayLast():
                return torch.func.vmap(lambda of_draw: self.passes.one_pass(replica, arguments, of_draw, len(inputs)))(
                    masks
                )
        if replica.backend == "jax":
            values = [variable.value for variable in self._variables]
            over_draws = self._jitted if self.settled else self._over_draws_jax
            return replica.to_torch(over_draws(values, masks, arguments))
        return replica.to_torch((self._graph if self.settled else self._over_draws_tensorflow)(masks, arguments))

    def settle(self) -> None:
        self.settled = True

    def around_chunks(self) -> AbstractContextManager[None]:
        return _without_fallback_warnings() if self.replica.backend == "torch" else nullcontext()

    def filled_up(self, inputs: Inputs, ids: np.ndarray) -> tuple[Inputs, np.ndarray]:
        if self.replica.backend == "torch":
            return inputs, ids
        if len(inputs) < self.n_compiled:
            ids = ids[np.arange(self.n_compiled) % len(inputs)]
            inputs = inputs.cycled(self.n_compiled)
        self.n_compiled = len(inputs)
        return inputs, ids

    def forget_chunks(self) -> None:
        self.n_compiled = 0

    # ---- JAX and TensorFlow

    @cached_property
    def _variables(self) -> list[Any]:
        """The weights, which are arguments of the function that JAX compiles; else they would become constants."""
        return list(self.replica.model.variables)

    def _over_draws_jax(self, values: Any, masks: Any, arguments: Any) -> Any:
        n_inputs = _n_inputs(arguments)
        state = list(zip(self._variables, values, strict=True))
        vmap = import_module("jax").vmap
        return vmap(lambda of_draw: self.passes.one_pass(self.replica, arguments, of_draw, n_inputs, state))(masks)

    @cached_property
    def _jitted(self) -> Callable[..., Any]:
        return import_module("jax").jit(self._over_draws_jax)

    def _over_draws_tensorflow(self, masks: Any, arguments: Any) -> Any:
        n_inputs = _n_inputs(arguments)
        vectorized_map = import_module("tensorflow").vectorized_map
        return vectorized_map(
            lambda of_draw: self.passes.one_pass(self.replica, arguments, of_draw, n_inputs), masks, warn=False
        )

    @cached_property
    def _graph(self) -> Callable[..., Any]:
        return import_module("tensorflow").function(self._over_draws_tensorflow, autograph=False)


@contextmanager
def _without_fallback_warnings() -> Iterator[None]:
    """Silence torch's warning of operations that vmap has no rule for; they run once per draw, as in the loop."""
    _set_vmap_fallback_warning_enabled(False)
    try:
        yield
    finally:
        _set_vmap_fallback_warning_enabled(True)  # torch's default


class ChannelsStayLast(TorchFunctionMode):
    """Keeps images with channels last in memory, which is fastest in torch.

    Keras permutes images to channels first for each convolution and pool, copies them in that order, and copies the
    results of convolutions back. It also asks for their memory format, which vmap cannot answer.
    """

    permuted: Tensor | None = None  # the latest tensor that was permuted to channels first

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.is_contiguous and is_batchedtensor(args[0]):
            return True
        if func is Tensor.contiguous and args[0] is self.permuted and not kwargs:
            return args[0]
        result = func(*args, **(kwargs or {}))
        if func is torch.permute and len(args) == 2:
            last = args[0].ndim - 1
            self.permuted = result if tuple(args[1]) == (0, last, *range(1, last)) else None
        return result


def _n_inputs(arguments: Any) -> int:
    args, kwargs = arguments
    return load_keras().tree.flatten([args, kwargs])[0].shape[0]
