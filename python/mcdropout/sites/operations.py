"""The stochastic operations of torch: what each drops, and where randomness enters its computation.

`HANDLERS` maps a torch function to its handler. A handler takes the mode that intercepted the call, does what the
function does, and passes every tensor that loses some of its parts to `mode.apply(drop, x)`.
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

UNBATCHED_AXES = {F.dropout1d: 2, F.dropout3d: 4}  # axes of an input without a batch axis, where torch allows one


def _dropout(
    mode: Mode,
    func: Any,
    input: Tensor,
    p: float = 0.5,
    training: bool | None = None,
    inplace: bool = False,
    train: bool | None = None,
) -> Tensor:
    """Any dropout function; the arguments have torch's own names."""
    given = training if train is None else train
    drop = StochasticCall(
        operation=func.__name__.rstrip("_"),
        rate=float(p),
        active=func not in OFF_BY_DEFAULT if given is None else bool(given),
        mask_shape=_mask_shape(func, input),
        kind="alpha" if func in ALPHAS or func in ALPHA_CHANNELS else "scale",
    )
    result = mode.apply(drop, input)
    return written_mask(input, result) if inplace or func in IN_PLACE else result


def _native_dropout(mode: Mode, func: Any, input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """The operation beneath the others; beside its result it gives where something was kept."""
    result = mode.apply(StochasticCall("native_dropout", float(p), bool(train), tuple(input.shape)), input)
    return result, (result != 0) | (input == 0)


def written_mask(x: Tensor, result: Tensor) -> Tensor:
    """`result` in the place of `x`.

    Many draws cannot be written where there is room for one. Most models use what the call returns and never look at
    `x` again; the others are found when the numbers of an engine are compared with the loop's.
    """
    if result is x:
        return x
    try:
        return x.copy_(result)
    except RuntimeError:
        return result


def _mask_shape(func: Any, x: Tensor) -> Shape:
    """Shape of the mask for `x`: its own for elements, (batch, channel, 1, ...) for channels."""
    shape = tuple(x.shape)
    if func not in CHANNELS and func not in ALPHA_CHANNELS:
        return shape
    kept = 1 if UNBATCHED_AXES.get(func) == x.ndim else 2
    return shape[:kept] + (1,) * (x.ndim - kept)


ATTENTION = inspect.signature(
    lambda query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False: None
)  # of `F.scaled_dot_product_attention`, which is built in and has no signature of its own


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
    if attn_mask is not None:  # as in torch: 0 where every key is hidden
        weights = weights.masked_fill((scores == -math.inf).all(dim=-1, keepdim=True), 0)
    drop = StochasticCall("scaled_dot_product_attention", float(dropout_p), True, tuple(weights.shape))
    weights = mode.apply(drop, weights)
    with mode:  # the mode repeats `value` for the draws where the weights have a mask for each draw
        return weights @ value


MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)

RARE = ("bias_k", "bias_v", "add_zero_attn", "static_k", "static_v")  # options of it that nearly nobody uses


def _multi_head_attention(mode: Mode, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Multi-head attention as linear layers and attention, which note no number of inputs before the weights drop.

    So the number of inputs may grow where the first weights drop, as it does when many draws share a pass.
    """
    bound = MULTI_HEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if given["query"].ndim != 3 or any(given[name] is not None and given[name] is not False for name in RARE):
        return _opened(mode, func, *args, **kwargs)
    with mode:
        query, key, value = (
            x.unflatten(-1, (given["num_heads"], -1)).permute(1, 2, 0, 3) for x in _projected(given)
        )  # (input, head, token, feature)
        mask = _attention_mask(given, query)
        rate = given["dropout_p"] if given["training"] else 0.0
        weights = None
        if given["need_weights"]:
            scores = query * math.sqrt(1 / query.shape[-1]) @ key.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            if rate > 0:
                weights = F.dropout(weights.flatten(0, 1), rate).unflatten(0, (-1, given["num_heads"]))
            out = weights @ value
            weights = weights.mean(dim=1) if given["average_attn_weights"] else weights
        else:
            causal = given["is_causal"] and given["key_padding_mask"] is None
            out = F.scaled_dot_product_attention(query, key, value, None if causal else mask, rate, causal)
        out = out.permute(2, 0, 1, 3).flatten(2)
        return F.linear(out, given["out_proj_weight"], given["out_proj_bias"]), weights


def _projected(given: dict[str, Any]) -> list[Tensor]:
    """Queries, keys and values of multi-head attention, (token, input, feature)."""
    inputs = [given[name] for name in ("query", "key", "value")]
    biases = given["in_proj_bias"]
    if given["use_separate_proj_weight"]:
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    elif inputs[0] is inputs[1] is inputs[2]:
        return list(F.linear(inputs[0], given["in_proj_weight"], biases).chunk(3, dim=-1))
    else:
        weights = given["in_proj_weight"].chunk(3)
    parts = (None, None, None) if biases is None else biases.chunk(3)
    return [F.linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, parts, strict=True)]


def _attention_mask(given: dict[str, Any], query: Tensor) -> Tensor | None:
    """What is added to the scores (input, head, token, token) of multi-head attention; None for nothing."""
    masks = []
    if given["attn_mask"] is not None:
        mask = given["attn_mask"]
        masks.append(mask.unflatten(0, (-1, given["num_heads"])) if mask.ndim == 3 else mask)
    if given["key_padding_mask"] is not None:
        masks.append(given["key_padding_mask"][:, None, None, :])
    hidden = [
        torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, -math.inf) if mask.dtype == torch.bool else mask
        for mask in masks
    ]
    return sum(hidden[1:], hidden[0]) if hidden else None


def _opened(mode: Mode, func: Any, *args: Any, **kwargs: Any) -> Any:
    """A torch function written in Python, run with the mode on, so that the calls inside are met too."""
    with mode:
        return _without_dispatch(func)(*args, **kwargs)


QUESTIONS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def _initialised(fill: Callable[..., Tensor]) -> Handler:
    """A function of `torch.nn.init` that fills its tensor by a method of it."""

    def handler(mode: Mode, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with mode, torch.no_grad():
            return fill(tensor, *args, *(value for name, value in kwargs.items() if name != "generator"))

    return handler


@cache
def _without_dispatch(func: Any) -> Any:
    """`func` without its first question, whether somebody wants to take the call over: the mode already has."""
    names = {**func.__globals__, **dict.fromkeys(QUESTIONS, lambda *_: False)}
    opened = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


def _recurrent(mode: Mode, func: Any, *args: Any) -> Any:
    """LSTM, GRU and RNN with dropout between their layers: one layer after the other."""
    if not isinstance(args[3], bool):  # there it has the weights, and where each step's rows end before them
        return _packed(func, args)
    x, state, weights, has_biases, n_layers, rate, active, both_ways, batch_first = args
    batch_axis = 0 if batch_first else 1
    if rate == 0 or n_layers == 1:
        return func(x, _for_rows(state, x.shape[batch_axis]), *args[2:])
    ways, per_layer = 2 if both_ways else 1, len(weights) // n_layers
    ends = []
    for layer in range(n_layers):
        if layer > 0:
            x = mode.apply(StochasticCall(func.__name__, float(rate), bool(active), tuple(x.shape)), x)
        own = slice(layer * ways, (layer + 1) * ways)
        begin = tuple(one[own] for one in state) if isinstance(state, tuple) else state[own]
        begin = _for_rows(begin, x.shape[batch_axis])
        part = weights[layer * per_layer : (layer + 1) * per_layer]
        x, *end = func(x, begin, _in_one_piece(func, part, ways), has_biases, 1, 0.0, False, both_ways, batch_first)
        ends.append(end)
    rows = x.shape[batch_axis]
    return (x, *(torch.cat([_for_rows(one, rows) for one in states]) for states in zip(*ends, strict=True)))


def _in_one_piece(func: Any, weights: list[Tensor], ways: int) -> list[Tensor]:
    """The weights of one layer as cuDNN wants them, which would copy them in every call as well, with a warning."""
    first, recurrent, *_ = weights
    if not first.is_cuda or torch.is_grad_enabled() or not torch.backends.cudnn.is_acceptable(first):
        return weights
    kind = {torch.rnn_tanh: "RNN_TANH", torch.rnn_relu: "RNN_RELU"}.get(func, func.__name__.upper())
    gates = 4 if kind == "LSTM" else 3 if kind == "GRU" else 1
    n_hidden = recurrent.shape[0] // gates
    n_projected = recurrent.shape[1] if recurrent.shape[1] != n_hidden else 0
    copies = [one.detach().clone() for one in weights]
    sizes = (first.shape[1], get_cudnn_mode(kind), n_hidden, n_projected)
    torch._cudnn_rnn_flatten_weight(  # pyright: ignore[reportPrivateImportUsage]
        copies, len(weights) // ways, *sizes, 1, False, ways == 2
    )
    return copies


def _for_rows(state: Any, n: int) -> Any:
    """States (layer, row, unit) repeated until there is one for each of `n` rows: torch reads on where they end."""
    if isinstance(state, tuple):
        return tuple(_for_rows(one, n) for one in state)
    return state if state.ndim < 3 or state.shape[1] == n else state.repeat(1, n // state.shape[1], 1)


def _packed(func: Any, args: tuple) -> Any:
    """A packed sequence has no axis of inputs, so a mask for one input cannot be laid along it."""
    if args[5] > 1 and args[6] > 0:
        raise ValueError(
            f"`model` drops between the layers of {func.__name__.upper()} on a packed sequence, where inputs cannot be "
            "told apart; give it padded sequences instead."
        )
    return func(*args)


def weight_draw(anchor: Tensor, layer: Variational) -> tuple[Tensor, Tensor | None]:
    """The weights of `layer` in the draw under way, their means where nothing samples; `anchor` is any tensor of it."""
    if has_torch_function_unary(anchor):
        return handle_torch_function(weight_draw, (anchor,), anchor, layer)
    return layer.means()


def is_sampled(anchor: Tensor) -> bool:
    """Whether a prediction is under way, which draws whole weights however the layer learns."""
    if has_torch_function_unary(anchor):
        return handle_torch_function(is_sampled, (anchor,), anchor)
    return False


def _weight_draw(mode: Mode, func: Any, anchor: Tensor, layer: Variational) -> tuple[Tensor, Tensor | None]:
    drawn = mode.apply(StochasticCall("weight_draw", math.nan, True, (layer.n_weights,), "weights", layer), anchor)
    return layer.means() if drawn is anchor else layer.split(drawn)


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
    """Whether this function is a dropout and no more."""
    return HANDLERS.get(func) is _dropout


def is_opened(func: Any) -> bool:
    """Whether the calls inside this function are met one by one."""
    return HANDLERS.get(func) in (_opened, _multi_head_attention)
