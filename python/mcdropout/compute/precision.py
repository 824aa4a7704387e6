"""Reduced precision: which functions of torch compute in it, and which stay in float32.

Every call of a model is intercepted, and the cast happens there. So the cast also reaches calls inside torch's
functions. Matrix products and convolutions get their float32 arguments in the reduced type. Normalisations, and
functions that need all arguments in one type, get them in float32. All other functions get their arguments unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PRECISIONS = ("float32", "bfloat16", "float16")  # as torch names them

TF32 = "tf32"  # a GPU may round float32 to this type, with 10 bits of fraction

# largest relative difference between sums of products in another order
ROUNDING = {"float32": 1e-4, TF32: 1e-2, "bfloat16": 5e-2, "float16": 5e-2}

PRODUCTS = frozenset(
    (
        *(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        *(F.linear, F.scaled_dot_product_attention, torch.einsum),
        *(torch.matmul, torch.mm, torch.mv, torch.bmm, torch.addmm, torch.addmv, torch.addbmm, torch.baddbmm),
        *(Tensor.matmul, Tensor.mm, Tensor.mv, Tensor.bmm, Tensor.addmm, Tensor.addmv, Tensor.addbmm, Tensor.baddbmm),
        *(Tensor.__matmul__, Tensor.__rmatmul__),
    )
)

IN_FLOAT32 = frozenset(
    (
        *(F.layer_norm, F.group_norm, F.instance_norm, F.local_response_norm, F.normalize, F.rms_norm),
        *(F.prelu, F.bilinear, F.grid_sample, torch.prelu, torch.dot, torch.cross, torch.tensordot),
        *(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu),
        *(torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell),
    )
)


def rounding(precision: str, device: torch.device) -> float:
    """Largest relative difference between two ways to compute the same numbers of a network."""
    return ROUNDING[TF32 if precision == "float32" and _may_round(device) else precision]


def _may_round(device: torch.device) -> bool:
    """Whether the user's settings allow TF32 for float32 products. Torch's defaults allow it for convolutions."""
    if device.type != "cuda":
        return False
    try:
        return bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:  # set by torch's newer interface, which the older one cannot read
        return True


def cast_arguments(func: Any, args: tuple, kwargs: dict[str, Any], dtype: torch.dtype) -> tuple[tuple, dict[str, Any]]:
    """The arguments of `func`, cast for a network of precision `dtype`."""
    if func in PRODUCTS:
        source, target = torch.float32, dtype
    elif func in IN_FLOAT32:
        source, target = dtype, torch.float32
    else:
        return args, kwargs
    return _cast(args, source, target), {name: _cast(value, source, target) for name, value in kwargs.items()}


def _cast(value: Any, source: torch.dtype, target: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(target) if value.dtype == source else value
    return type(value)(_cast(item, source, target) for item in value) if type(value) in (tuple, list) else value
