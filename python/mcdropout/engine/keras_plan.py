"""The plan of a prediction by a Keras model, on torch, TensorFlow or JAX.

Chunks, masks and the choice between vectorised draws and a loop are those of `plan`; a pass is the replica's. On
TensorFlow and JAX vectorised draws are compiled, with masks and inputs as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor  # torch has no public way to ask this
from torch.overrides import TorchFunctionMode

from ..data.inputs import Inputs
from ..sites.keras.loading import load_keras
from ..sites.keras.passes import SamplePass
from ..sites.keras.probe import KerasProbe
from ..sites.keras.replica import Replica
from ..sites.site import Site
from .masks import Masks, site_masks
from .plan import Plan

DRAW = "draw"  # beside the masks, for what a model draws itself: no site is called so


class KerasPlan(Plan):
    """How inputs of one shape are drawn."""

    probe: KerasProbe

    def __init__(self, probe: KerasProbe, replica: Replica, more: Callable[[], Replica] | None, *rest: Any) -> None:
        super().__init__(probe, replica, more, *rest)  # pyright: ignore[reportArgumentType]  (a replica of Keras's)
        self.replica, self.at = replica, probe.keras_sites()
        self.n_compiled = 0  # inputs of the largest chunk so far: smaller ones are filled up, not compiled anew
        if probe.own_randomness:
            self.engine, self.engine_reason = "loop", "the model draws random numbers of its own"
        probe.raise_in(replica)

    @contextmanager
    def _borrowed(self) -> Iterator[Any]:
        """A replica for one chunk: cells keep their masks in attributes, so workers share none."""
        try:
            replica: Any = self.replica_pool.pop()
        except IndexError:
            assert self.more_replicas is not None
            replica = self.more_replicas()
            self.probe.raise_in(replica)
        try:
            yield replica
        finally:
            self.replica_pool.append(replica)

    # ---- engines

    def _engines(self) -> dict[str, Callable[[Any, Inputs, Masks], Tensor]]:
        return {"vmap": self._vectorised, "loop": self._looped}

    def _vectorised(self, replica: Any, inputs: Inputs, masks: Masks) -> Tensor:
        return self._by_backend(replica, inputs, masks, compiled=False)

    def _by_backend(self, replica: Replica, inputs: Inputs, masks: Masks, compiled: bool) -> Tensor:
        given = replica.given(inputs)
        if replica.backend == "torch":
            with ChannelsStayLast():
                return torch.func.vmap(lambda own: self._of(replica, given, own, len(inputs)))(masks)
        if replica.backend == "jax":
            values = [variable.value for variable in self._variables]
            return replica.to_torch((self._jitted if compiled else self._over_draws_jax)(values, masks, given))
        over = self._graph if compiled else self._over_draws_tensorflow
        return replica.to_torch(over(masks, given))

    def _chunk(self, inputs: Inputs, ids: np.ndarray, draws: range) -> Tensor:
        if self.engine != "vmap" or self.replica.backend == "torch":
            return super()._chunk(inputs, ids, draws)
        n = len(inputs)
        if n < self.n_compiled:
            inputs = inputs.cycled(self.n_compiled)
            ids = ids[np.arange(self.n_compiled) % n]
        self.n_compiled = len(inputs)
        return self._by_backend(self.replica, inputs, self._masks(draws, ids), compiled=True)[:, :n]

    def _looped(self, replica: Any, inputs: Inputs, masks: Masks) -> Tensor:
        given = replica.given(inputs)
        draws = []
        for draw in range(len(next(iter(masks.values())))):
            own = {name: mask[draw] for name, mask in masks.items()}
            values = [(state, np.array([self.seed % 2**31, own[DRAW]])) for _, state in replica.seeds if DRAW in own]
            draws.append(replica.to_torch(self._of(replica, given, own, len(inputs), values)))
        return torch.stack(draws)

    def _in_halves(self, inputs: Inputs, ids: np.ndarray, draws: range) -> Tensor:
        self.n_compiled = 0
        return super()._in_halves(inputs, ids, draws)

    def _of(self, replica: Replica, given: Any, masks: Any, n_inputs: int, values: Any = None) -> Any:
        """The wanted tensor of one pass under the masks of one draw (vectorised: of many)."""
        on = SamplePass(self.at, masks, n_inputs)
        result = replica.take(replica.called(given, on, values))
        self.unknown |= on.unknown
        return result

    # ---- JAX and TensorFlow

    @cached_property
    def _variables(self) -> list[Any]:
        """Arguments of what JAX compiles: else it would take the weights for constants."""
        return list(self.replica.model.variables)

    def _over_draws_jax(self, values: Any, masks: Any, given: Any) -> Any:
        n_inputs = _n_inputs(given)
        state = list(zip(self._variables, values, strict=True))
        return import_module("jax").vmap(lambda own: self._of(self.replica, given, own, n_inputs, state))(masks)

    @cached_property
    def _jitted(self) -> Callable[..., Any]:
        return import_module("jax").jit(self._over_draws_jax)

    def _over_draws_tensorflow(self, masks: Any, given: Any) -> Any:
        n_inputs = _n_inputs(given)
        over = import_module("tensorflow").vectorized_map
        return over(lambda own: self._of(self.replica, given, own, n_inputs), masks, warn=False)

    @cached_property
    def _graph(self) -> Callable[..., Any]:
        return import_module("tensorflow").function(self._over_draws_tensorflow, autograph=False)

    # ---- masks

    def _made(self, draws: range, sites: dict[str, Site], ids: Tensor | None = None) -> Any:
        which = torch.arange(draws.start, draws.stop, device=self.device)
        made = {}
        for name in sites:
            at = self.at[name]
            mask = at.layout.outward(site_masks(self.seed, at.site, which, ids))
            made[name] = mask if self.replica.backend == "torch" else mask.numpy()
        return {**made, DRAW: which} if self.probe.own_randomness else made


class ChannelsStayLast(TorchFunctionMode):
    """Leaves images as they lie in memory, channels last, which is what torch is quickest with.

    Keras turns them to channels first for each convolution and pool, has them copied so, and has those of convolutions
    copied back. It also asks for their memory format, which vmap cannot tell.
    """

    turned: Tensor | None = None  # the latest that was turned to channels first

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.is_contiguous and is_batchedtensor(args[0]):
            return True
        if func is Tensor.contiguous and args[0] is self.turned and not kwargs:
            return args[0]
        result = func(*args, **(kwargs or {}))
        if func is torch.permute and len(args) == 2:
            last = args[0].ndim - 1
            self.turned = result if tuple(args[1]) == (0, last, *range(1, last)) else None
        return result


def _n_inputs(given: Any) -> int:
    args, kwargs = given
    return load_keras().tree.flatten([args, kwargs])[0].shape[0]
