"""The stochastic operations of torch.

`HANDLERS` maps a torch function to its handler. A handler gets the mode that intercepted the call, computes the result
of the function, and calls `mode.apply(drop, x)` for every tensor of which parts are dropped.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.overrides import handle_torch_function, has_torch_function_unary

from .calls import Handler, Mode, Shape, StochasticCall, Variational

CHANNELS = (F.dropout1d, F.dropout2d, F.dropout3d, torch.feature_dropout, torch.feature_dropout_)

ALPHAS = (F.alpha_dropout, torch.alpha_dropout, torch.alpha_dropout_)

ALPHA_CHANNELS = (F.feature_alpha_dropout, torch.feature_alpha_dropout, torch.feature_alpha_dropout_)

IN_PLACE = (torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_)

OFF_BY_DEFAULT = (F.alpha_dropout, F.feature_alpha_dropout)

UNBATCHED_AXES = {F.dropout1d: 2, F.dropout3d: 4}  # number of axes of an input without a batch, if torch allows it


def _dropout(
    mode: Mode,
    func: Any,
    input: Tensor,
    p: float = 0.5,
    training: bool | None = None,
    inplace: bool = False,
    train: bool | None = None,
) -> Tensor:
    """Any dropout function; the arguments have torch's names."""
    is_training = training if train is None else train
    drop = StochasticCall(
        operation=func.__name__.rstrip("_"),
        rate=float(p),
        active=func not in OFF_BY_DEFAULT if is_training is None else bool(is_training),
        mask_shape=_mask_shape(func, input),
        kind="alpha" if func in ALPHAS or func in ALPHA_CHANNELS else "scale",
    )
    result = mode.apply(drop, input)
    return written_mask(input, result) if inplace or func in IN_PLACE else result


def _native_dropout(mode: Mode, func: Any, input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """The operation that the others call; it returns its result and the mask of kept elements."""
    result = mode.apply(StochasticCall("native_dropout", float(p), bool(train), tuple(input.shape)), input)
    return result, (result != 0) | (input == 0)


def written_mask(x: Tensor, result: Tensor) -> Tensor:
    """`result`, written into `x` if it fits.

    Many draws do not fit into the memory of one. Most models use the returned tensor and do not read `x` again; others
    are detected because the numbers of their engine differ from those of the loop.
    """
    if result is x:
        return x
    try:
        return x.copy_(result)
    except RuntimeError:
        return result


def _mask_shape(func: Any, x: Tensor) -> Shape:
    """The shape of the mask for `x`: that of `x` for elements, (batch, channel, 1, ...) for channels."""
    shape = tuple(x.shape)
    if func not in CHANNELS and func not in ALPHA_CHANNELS:
        return shape
    kept = 1 if UNBATCHED_AXES.get(func) == x.ndim else 2
    return shape[:kept] + (1,) * (x.ndim - kept)


ATTENTION = inspect.signature(
    lambda query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False: None
)  # that of `F.scaled_dot_product_attention`, a built-in function, for which Python knows no signature


def _attention(mode: Mode, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Scaled dot product attention: the dropout mask is applied to the weights, between softmax and sum.

    Without dropout, torch's fused kernel computes the result.
    """
    bound = ATTENTION.bind(*args, **kwargs)
    bound.apply_defaults()
    query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa = bound.args
    if dropout_p == 0:
        mode.skip()
        return func(query, key, value, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, dim=-3), value.repeat_interleave(groups, dim=-3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        hidden = attn_mask.logical_not() if attn_mask.dtype == torch.bool else None
        scores = scores + attn_mask if hidden is None else scores.masked_fill(hidden, -math.inf)
    weights = scores.softmax(dim=-1)
    if attn_mask is not None:  # torch gives 0 if every key is hidden
        weights = weights.masked_fill((scores == -math.inf).all(dim=-1, keepdim=True), 0)
    drop = StochasticCall("scaled_dot_product_attention", float(dropout_p), True, tuple(weights.shape))
    weights = mode.apply(drop, weights)
    with mode:  # the mode repeats `value` for the draws if the weights have a mask for each draw
        return weights @ value


MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)

RARE = ("bias_k", "bias_v", "add_zero_attn", "static_k", "static_v")  # its options that are hardly ever used


def _multi_head_attention(mode: Mode, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Multi-head attention as linear layers and attention, which use no number of inputs before the dropout.

    So the number of inputs may grow at the dropout, as it does when many draws share a pass.
    """
    bound = MULTI_HEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    arguments = bound.arguments
    if arguments["query"].ndim != 3 or any(
        arguments[name] is not None and arguments[name] is not False for name in RARE
    ):
        return _opened(mode, func, *args, **kwargs)
    with mode:
        query, key, value = (
            x.unflatten(-1, (arguments["num_heads"], -1)).permute(1, 2, 0, 3) for x in _projected(arguments)
        )  # (input, head, token, feature)
        mask = _attention_mask(arguments, query)
        rate = arguments["dropout_p"] if arguments["training"] else 0.0
        weights = None
        if arguments["need_weights"]:
            scores = query * math.sqrt(1 / query.shape[-1]) @ key.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            if rate > 0:
                weights = F.dropout(weights.flatten(0, 1), rate).unflatten(0, (-1, arguments["num_heads"]))
            out = weights @ value
            weights = weights.mean(dim=1) if arguments["average_attn_weights"] else weights
        else:
            causal = arguments["is_causal"] and arguments["key_padding_mask"] is None
            out = F.scaled_dot_product_attention(query, key, value, None if causal else mask, rate, causal)
        out = out.permute(2, 0, 1, 3).flatten(2)
        return F.linear(out, arguments["out_proj_weight"], arguments["out_proj_bias"]), weights


def _projected(arguments: dict[str, Any]) -> list[Tensor]:
    """Queries, keys and values of multi-head attention, (token, input, feature)."""
    inputs = [arguments[name] for name in ("query", "key", "value")]
    biases = arguments["in_proj_bias"]
    if arguments["use_separate_proj_weight"]:
        weights = [arguments[f"{name}_proj_weight"] for name in "qkv"]
    elif inputs[0] is inputs[1] is inputs[2]:
        return list(F.linear(inputs[0], arguments["in_proj_weight"], biases).chunk(3, dim=-1))
    else:
        weights = arguments["in_proj_weight"].chunk(3)
    parts = (None, None, None) if biases is None else biases.chunk(3)
    return [F.linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, parts, strict=True)]


def _attention_mask(arguments: dict[str, Any], query: Tensor) -> Tensor | None:
    """The mask that is added to the scores (input, head, token, token) of multi-head attention; None for none."""
    masks = []
    if arguments["attn_mask"] is not None:
        mask = arguments["attn_mask"]
        masks.append(mask.unflatten(0, (-1, arguments["num_heads"])) if mask.ndim == 3 else mask)
    if arguments["key_padding_mask"] is not None:
        masks.append(arguments["key_padding_mask"][:, None, None, :])
    added = [
        torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, -math.inf) if mask.dtype == torch.bool else mask
        for mask in masks
    ]
    return sum(added[1:], added[0]) if added else None


def _opened(mode: Mode, func: Any, *args: Any, **kwargs: Any) -> Any:
    """A torch function written in Python, run inside the mode, so that it intercepts the calls inside too."""
    with mode:
        return _without_dispatch(func)(*args, **kwargs)


OVERRIDE_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def _initialised(fill: Callable[..., Tensor]) -> Handler:
    """The handler of a function of `torch.nn.init` that fills its tensor by the method `fill`."""

    def handler(mode: Mode, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with mode, torch.no_grad():
            return fill(tensor, *args, *(value for name, value in kwargs.items() if name != "generator"))

    return handler


@cache
def _without_dispatch(func: Any) -> Any:
    """`func` without the check for overrides at its start; the mode has already intercepted the call."""
    names = {**func.__globals__, **dict.fromkeys(OVERRIDE_CHECKS, lambda *_: False)}
    unchecked = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    unchecked.__kwdefaults__ = func.__kwdefaults__
    return unchecked


def _recurrent(mode: Mode, func: Any, *args: Any) -> Any:
    """LSTM, GRU and RNN with dropout between their layers, one layer after the other."""
    if not isinstance(args[3], bool):  # for a packed sequence, the sizes of its steps come before the weights
        return _packed(func, args)
    x, state, weights, has_biases, n_layers, rate, active, both_ways, batch_first = args
    batch_axis = 0 if batch_first else 1
    if rate == 0 or n_layers == 1:
        return func(x, _for_rows(state, x.shape[batch_axis]), *args[2:])
    ways, per_layer = 2 if both_ways else 1, len(weights) // n_layers
    last_states = []
    for layer in range(n_layers):
        if layer > 0:
            x = mode.apply(StochasticCall(func.__name__, float(rate), bool(active), tuple(x.shape)), x)
        of_layer = slice(layer * ways, (layer + 1) * ways)
        first_state = tuple(part[of_layer] for part in state) if isinstance(state, tuple) else state[of_layer]
        first_state = _for_rows(first_state, x.shape[batch_axis])
        layer_weights = _in_one_piece(func, weights[layer * per_layer : (layer + 1) * per_layer], ways)
        x, *last_state = func(x, first_state, layer_weights, has_biases, 1, 0.0, False, both_ways, batch_first)
        last_states.append(last_state)
    rows = x.shape[batch_axis]
    return (x, *(torch.cat([_for_rows(part, rows) for part in parts]) for parts in zip(*last_states, strict=True)))


def _in_one_piece(func: Any, weights: list[Tensor], ways: int) -> list[Tensor]:
    """The weights of one layer in contiguous memory, as cuDNN needs them; else it copies them with a warning."""
    first, recurrent, *_ = weights
    if not first.is_cuda or torch.is_grad_enabled() or not torch.backends.cudnn.is_acceptable(first):
        return weights
    kind = {torch.rnn_tanh: "RNN_TANH", torch.rnn_relu: "RNN_RELU"}.get(func, func.__name__.upper())
    gates = 4 if kind == "LSTM" else 3 if kind == "GRU" else 1
    n_hidden = recurrent.shape[0] // gates
    n_projected = recurrent.shape[1] if recurrent.shape[1] != n_hidden else 0
    copies = [tensor.detach().clone() for tensor in weights]
    sizes = (first.shape[1], get_cudnn_mode(kind), n_hidden, n_projected)
    torch._cudnn_rnn_flatten_weight(  # pyright: ignore[reportPrivateImportUsage]
        copies, len(weights) // ways, *sizes, 1, False, ways == 2
    )
    return copies


def _for_rows(state: Any, n: int) -> Any:
    """States (layer, row, unit), repeated for `n` rows; torch would read beyond the end of fewer states."""
    if isinstance(state, tuple):
        return tuple(_for_rows(part, n) for part in state)
    return state if state.ndim < 3 or state.shape[1] == n else state.repeat(1, n // state.shape[1], 1)


def _packed(func: Any, args: tuple) -> Any:
    """Recurrent layers of a packed sequence, which has no axis of inputs for masks; refuses dropout between layers."""
    if args[5] > 1 and args[6] > 0:
        raise ValueError(
            f"`model` drops between the layers of {func.__name__.upper()} on a packed sequence, where inputs cannot be "
            "told apart; give it padded sequences instead."
        )
    return func(*args)


def weight_draw(anchor: Tensor, layer: Variational) -> tuple[Tensor, Tensor | None]:
    """The weights of `layer` in the current draw, or their means outside of sampling; `anchor`: any of its tensors."""
    if has_torch_function_unary(anchor):
        return handle_torch_function(weight_draw, (anchor,), anchor, layer)
    return layer.means()


def is_sampled(anchor: Tensor) -> bool:
    """Whether a prediction is sampled now; it draws the weights themselves, whatever the layer does in training."""
    if has_torch_function_unary(anchor):
        return handle_torch_function(is_sampled, (anchor,), anchor)
    return False


def _weight_draw(mode: Mode, func: Any, anchor: Tensor, layer: Variational) -> tuple[Tensor, Tensor | None]:
    weights = mode.apply(StochasticCall("weight_draw", math.nan, True, (layer.n_weights,), "weights", layer), anchor)
    return layer.means() if weights is anchor else layer.split(weights)


def _is_sampled(mode: Mode, func: Any, anchor: Tensor) -> bool:
    return True


RELUS = frozenset((F.relu, torch.relu, Tensor.relu))

HANDLERS: dict[Any, Handler] = {
    weight_draw: _weight_draw,
    is_sampled: _is_sampled,
    **dict.fromkeys((F.dropout, torch.dropout, *CHANNELS, *ALPHAS, *ALPHA_CHANNELS, *IN_PLACE), _dropout),
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _recurrent),
    torch.native_dropout: _native_dropout,
    F.gumbel_softmax: _opened,
    nn.init.uniform_: _initialised(Tensor.uniform_),
    nn.init.normal_: _initialised(Tensor.normal_),
    F.fractional_max_pool2d_with_indices: _opened,
    F.fractional_max_pool3d_with_indices: _opened,
}


def drops(func: Any) -> bool:
    """Whether this function is a dropout and computes nothing else."""
    return HANDLERS.get(func) is _dropout


def is_opened(func: Any) -> bool:
    """Whether the calls inside this function are intercepted one by one."""
    return HANDLERS.get(func) in (_opened, _multi_head_attention)
