"""Reduced precision: which functions of torch compute in it, and which stay in float32.

The cast is made where every call of a model is intercepted, so that it reaches the calls inside torch's functions too:
products of matrices and convolutions take their float32 arguments in the reduced type, normalisations and what must
have all its arguments in one type take them in float32, and everything else works on what it is given.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PRECISIONS = ("float32", "bfloat16", "float16")  # as torch names them

TF32 = "tf32"  # what a GPU may take float32 in: 10 bits of each number

ROUNDING = {"float32": 1e-4, TF32: 1e-2, "bfloat16": 5e-2, "float16": 5e-2}  # of sums of products in another order

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
    """How far apart, on their own scale, numbers of a network may be that are computed in two ways."""
    return ROUNDING[TF32 if precision == "float32" and _may_round(device) else precision]


def _may_round(device: torch.device) -> bool:
    """Whether the user's settings let a device take products of float32 in TF32: convolutions, if they are torch's."""
    if device.type != "cuda":
        return False
    try:
        return bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:  # set in torch's newer way, which the older cannot read
        return True


def cast_arguments(func: Any, args: tuple, kwargs: dict[str, Any], dtype: torch.dtype) -> tuple[tuple, dict[str, Any]]:
    """The arguments as `func` takes them where `dtype` is the precision of the network."""
    if func in PRODUCTS:
        given, wanted = torch.float32, dtype
    elif func in IN_FLOAT32:
        given, wanted = dtype, torch.float32
    else:
        return args, kwargs
    return _cast(args, given, wanted), {name: _cast(one, given, wanted) for name, one in kwargs.items()}


def _cast(value: Any, given: torch.dtype, wanted: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(wanted) if value.dtype == given else value
    return type(value)(_cast(one, given, wanted) for one in value) if type(value) in (tuple, list) else value
