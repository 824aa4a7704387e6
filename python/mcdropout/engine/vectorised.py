"""All draws at once by torch's vmap."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_batchedtensor  # torch has no public way to say this, and its stubs leave it out

from ..compute.precision import cast_arguments
from ..sites.interception import SampleMode


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
