"""The stochastic operations: what each drops, and where in its working the randomness enters.

`HANDLERS` says for a torch function how it is met. A handler takes the mode that met the call, does what the function
does, and hands every tensor that is to lose some of its parts to `mode.meet(drop, x)`.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor  # torch has no public way to ask this
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils._python_dispatch import _disable_current_modes  # torch has no public way to do this

Shape = tuple[int, ...]


class Noise(Protocol):
    """The keyed noise of some draws of one site."""

    def normals(self, n: int) -> Tensor:
        """Standard normal numbers, (draw, n)."""
        ...

    def each(self, sample: Callable[[], Tensor]) -> Tensor:
        """What `sample` gives in each draw, (draw, ...), with torch's own generators seeded by the draw."""
        ...


class Variational(Protocol):
    """What a layer with a distribution over its weights offers."""

    n_weights: int

    def draw(self, noise: Noise) -> Tensor:
        """Its weights, (draw, weight)."""
        ...

    def split(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights, (weight,), as the tensors it works with."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """What is learnt of it."""
        ...

    def means(self) -> tuple[Tensor, Tensor | None]:
        """These tensors where nothing samples."""
        ...


@dataclass(frozen=True)
class Drop:
    """One dropping of parts of a tensor."""

    operation: str
    rate: float
    active: bool  # whether torch would have sampled here
    mask_shape: Shape
    kind: str = "scale"  # what the parts become, see `KINDS`
    layer: Variational | None = None  # of kind "weights": whose they are

    @property
    def samples(self) -> bool:
        """Whether draws can differ by it."""
        return self.kind in ("weights", *NUMBERS, "generator") or self.rate > 0


# scale: 0, and the others grow by 1/(1 - rate). alpha: SELU's floor, mean and variance kept. keep: the tensor itself
# becomes the 0 or 1 of each decision.
# gaussian: each grows by a normal factor of mean 1. noise: a normal number is added, whose deviation is `rate`.
# weights: nothing is dropped; the weights of a variational layer, (weight,), are drawn whole.
# uniforms, normals: the tensor becomes numbers in [0, 1), or standard normal ones, for what the model makes of them.
# generator: torch draws, its own generator started anew in each draw. start: the same, of calls that no probe shows.
KINDS = ("scale", "alpha", "keep", "gaussian", "noise", "weights", "uniforms", "normals", "generator", "start")
NUMBERS = ("uniforms", "normals")
STOCHASTIC_DEPTH = "stochastic_depth"

ALPHA = -1.7580993408473766  # SELU's value at minus infinity, where alpha dropout sends a dropped unit


class Mode(Protocol):
    """What a handler needs of the mode that met the call."""

    def meet(self, drop: Drop, x: Tensor) -> Tensor: ...

    def pass_over(self) -> None: ...

    def is_fixed(self) -> bool: ...

    def drew_fixed(self) -> None: ...

    def by_torch(self, operation: str, run: Callable[[], Tensor], own: torch.Generator | None) -> Tensor: ...

    def module(self) -> nn.Module | None: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> Any: ...


Handler = Callable[..., Any]

CHANNELS = (F.dropout1d, F.dropout2d, F.dropout3d, torch.feature_dropout, torch.feature_dropout_)
ALPHAS = (F.alpha_dropout, torch.alpha_dropout, torch.alpha_dropout_)
ALPHA_CHANNELS = (F.feature_alpha_dropout, torch.feature_alpha_dropout, torch.feature_alpha_dropout_)
IN_PLACE = (torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_)
OFF_BY_DEFAULT = (F.alpha_dropout, F.feature_alpha_dropout)
UNBATCHED_AXES = {F.dropout1d: 2, F.dropout3d: 4}  # axes of an input without a batch axis, where torch allows one
DROP_PATH = re.compile("drop_?path|stochastic_?depth", re.IGNORECASE)


# ---- the dropout functions ------------------------------------------------------------------------------------


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
    drop = Drop(
        operation=func.__name__.rstrip("_"),
        rate=float(p),
        active=func not in OFF_BY_DEFAULT if given is None else bool(given),
        mask_shape=_mask_shape(func, input),
        kind="alpha" if func in ALPHAS or func in ALPHA_CHANNELS else "scale",
    )
    result = mode.meet(drop, input)
    return _written(input, result) if inplace or func in IN_PLACE else result


def _native_dropout(mode: Mode, func: Any, input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """The operation beneath the others; beside its result it gives where something was kept."""
    result = mode.meet(Drop("native_dropout", float(p), bool(train), tuple(input.shape)), input)
    return result, (result != 0) | (input == 0)


def _written(x: Tensor, result: Tensor) -> Tensor:
    """`result` in the place of `x`.

    vmap cannot write many draws where there is one tensor. Most models use what the call returns and never look at `x`
    again; those that do are found out when vmap's numbers are held against the loop's.
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


# ---- attention ------------------------------------------------------------------------------------------------


def _attention(
    mode: Mode,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot product attention, its weights dropped by their mask between softmax and sum.

    Where nothing is dropped torch's fused kernel does it, but not under vmap, which would call it once per draw.
    """
    if dropout_p == 0:
        mode.pass_over()
    if dropout_p == 0 and not any(is_batchedtensor(one) for one in (query, key, value)):
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
    if attn_mask is not None:  # as torch: where there is nothing to see, 0
        weights = weights.masked_fill((scores == -math.inf).all(dim=-1, keepdim=True), 0)
    if dropout_p == 0:
        return weights @ value
    drop = Drop("scaled_dot_product_attention", float(dropout_p), True, tuple(weights.shape))
    weights = mode.meet(drop, weights)
    with mode:  # `value` may want to be laid out as the weights now are
        return weights @ value


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


# ---- recurrent networks ---------------------------------------------------------------------------------------


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
            x = mode.meet(Drop(func.__name__, float(rate), bool(active), tuple(x.shape)), x)
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


# ---- random numbers -------------------------------------------------------------------------------------------


def _numbers(mode: Mode, func: Any, like: Tensor, kind: str) -> Tensor:
    """Keyed random numbers in the shape of `like`, in its type where that has fractions."""
    if like.is_complex():
        parts = torch.view_as_complex(_numbers(mode, func, torch.view_as_real(like), kind).contiguous())
        return parts * 0.5**0.5 if kind == "normals" else parts  # of variance 1 together
    like = like if like.is_floating_point() else torch.zeros(like.shape, device=like.device)
    name, rate = func.__name__.strip("_"), math.nan
    if kind == "uniforms" and _drops_paths(mode):  # Hugging Face's DropPath makes its decision from them
        name, rate = STOCHASTIC_DEPTH, float(getattr(mode.module(), "drop_prob", math.nan))
    return mode.meet(Drop(name, rate, True, tuple(like.shape), kind), like)


def _made_of(kind: str) -> Handler:
    """A function that makes a tensor of random numbers, as `torch.rand()`, from its sizes."""

    def handler(mode: Mode, func: Any, *size: Any, out: Tensor | None = None, **kwargs: Any) -> Tensor:
        x = torch.zeros(*size, **kwargs)
        result = _numbers(mode, func, x, kind)
        return result if out is None else _written(out, result)

    return handler


def _like(kind: str) -> Handler:
    """A function that makes a tensor of random numbers, as `torch.rand_like()`, from another tensor."""

    def handler(mode: Mode, func: Any, input: Tensor, **kwargs: Any) -> Tensor:
        return _numbers(mode, func, torch.zeros_like(input, **kwargs), kind)

    return handler


def _filled(kind: str, names: tuple[str, ...], usual: tuple[float, ...], make: Callable[..., Tensor]) -> Handler:
    """A method that fills its tensor, as `Tensor.uniform_(from, to)`, with `make(numbers, *parameters)`."""

    def handler(mode: Mode, func: Any, x: Tensor, *given: Any, **kwargs: Any) -> Tensor:
        parameters = {**dict(zip(names, usual, strict=True)), **dict(zip(names, given, strict=False)), **kwargs}
        return _written(x, make(_numbers(mode, func, x, kind), *(parameters[name] for name in names)).to(x.dtype))

    return handler


def _normal(
    mode: Mode, func: Any, mean: Any = 0.0, std: Any = 1.0, size: Any = None, out: Tensor | None = None, **kwargs: Any
) -> Tensor:
    """`torch.normal()`: of means and deviations, each a number or a tensor."""
    tensors = [one for one in (mean, std) if isinstance(one, Tensor)]
    if tensors:
        shape = torch.broadcast_shapes(*(one.shape for one in tensors))
        like = torch.zeros_like(tensors[0].expand(shape))
    else:
        like = torch.zeros(size, **kwargs)
    result = _numbers(mode, func, like, "normals") * std + mean
    return result if out is None else _written(out, result)


def _bernoulli(mode: Mode, func: Any, x: Tensor, p: Any = None, out: Tensor | None = None, **kwargs: Any) -> Tensor:
    """`torch.bernoulli(probabilities)`, `Tensor.bernoulli(p)` and `Tensor.bernoulli_(p)`.

    By the last torchvision and timm keep a block with probability p.
    """
    in_place = func is Tensor.bernoulli_
    p = 0.5 if p is None and in_place else x if p is None else p
    if isinstance(p, Tensor):
        result = (_numbers(mode, func, x, "uniforms") < p).to(x.dtype)
    else:
        like = x if x.is_floating_point() else torch.zeros(x.shape, device=x.device)
        name = STOCHASTIC_DEPTH if _drops_paths(mode) else func.__name__.strip("_")
        result = mode.meet(Drop(name, 1 - float(p), True, tuple(x.shape), "keep"), like).to(x.dtype)
    return _written(x, result) if in_place else result if out is None else _written(out, result)


def _rrelu(
    mode: Mode,
    func: Any,
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """A rectifier whose slope below 0 is drawn when training."""
    if not training:
        return func(input, lower, upper, training, inplace)
    slope = _numbers(mode, func, input, "uniforms") * (upper - lower) + lower
    result = torch.where(input < 0, input * slope, input)
    return _written(input, result) if inplace else result


def _by_torch(mode: Mode, func: Any, *args: Any, generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
    """A function of random numbers that have no simple form, or come from the model's own generator: torch draws."""
    given = kwargs if generator is None else {**kwargs, "generator": generator}
    return mode.by_torch(func.__name__.strip("_"), lambda: func(*args, **given), generator)


def _keyed(handler: Handler) -> Handler:
    """`handler` for calls that leave the generator to torch."""

    def handled(mode: Mode, func: Any, *args: Any, generator: torch.Generator | None = None, **kwargs: Any) -> Any:
        if generator is None and mode.is_fixed():
            with _disable_current_modes():  # nobody is to draw them otherwise
                result = func(*args, **kwargs)
            mode.drew_fixed()
            return result
        if generator is None:
            return handler(mode, func, *args, **kwargs)
        return _by_torch(mode, func, *args, generator=generator, **kwargs)

    return handled


def _drops_paths(mode: Mode) -> bool:
    return DROP_PATH.search(type(mode.module()).__name__) is not None


# ---- variational layers ---------------------------------------------------------------------------------------


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
    drawn = mode.meet(Drop("weight_draw", math.nan, True, (layer.n_weights,), "weights", layer), anchor)
    return layer.means() if drawn is anchor else layer.split(drawn)


def _is_sampled(mode: Mode, func: Any, anchor: Tensor) -> bool:
    return True


RELUS = frozenset((F.relu, torch.relu, Tensor.relu))

HANDLERS: dict[Any, Handler] = {
    weight_draw: _weight_draw,
    is_sampled: _is_sampled,
    **dict.fromkeys((F.dropout, torch.dropout, *CHANNELS, *ALPHAS, *ALPHA_CHANNELS, *IN_PLACE), _dropout),
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _opened,
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _recurrent),
    torch.native_dropout: _native_dropout,
    F.gumbel_softmax: _opened,
    nn.init.uniform_: _initialised(Tensor.uniform_),
    nn.init.normal_: _initialised(Tensor.normal_),
    F.fractional_max_pool2d_with_indices: _opened,
    F.fractional_max_pool3d_with_indices: _opened,
}

# Those of random numbers. What they give is keyed where a model is sampled; its ordinary prediction leaves them alone.
RANDOM: dict[Any, Handler] = {
    torch.rand: _keyed(_made_of("uniforms")),
    torch.randn: _keyed(_made_of("normals")),
    torch.rand_like: _keyed(_like("uniforms")),
    torch.randn_like: _keyed(_like("normals")),
    torch.normal: _keyed(_normal),
    Tensor.uniform_: _keyed(
        _filled("uniforms", ("from", "to"), (0.0, 1.0), lambda u, low, high: u * (high - low) + low)
    ),
    Tensor.normal_: _keyed(_filled("normals", ("mean", "std"), (0.0, 1.0), lambda z, mean, std: z * std + mean)),
    Tensor.exponential_: _keyed(_filled("uniforms", ("lambd",), (1.0,), lambda u, rate: -torch.log1p(-u) / rate)),
    **dict.fromkeys((torch.bernoulli, Tensor.bernoulli, Tensor.bernoulli_), _keyed(_bernoulli)),
    **dict.fromkeys((F.rrelu, torch.rrelu, torch.rrelu_), _keyed(_rrelu)),
    **dict.fromkeys(
        (
            *(torch.randint, torch.randint_like, torch.randperm, torch.multinomial, Tensor.multinomial),
            *(torch.poisson, torch.binomial),
            *(getattr(torch, name) for name in ("_standard_gamma", "_sample_dirichlet")),  # of `torch.distributions`
            *(Tensor.random_, Tensor.geometric_, Tensor.cauchy_, Tensor.log_normal_),
        ),
        _by_torch,
    ),
}


def drops(func: Any) -> bool:
    """Whether this function is a dropout and no more."""
    return HANDLERS.get(func) is _dropout


def is_opened(func: Any) -> bool:
    """Whether the calls inside this function are met one by one."""
    return HANDLERS.get(func) is _opened
