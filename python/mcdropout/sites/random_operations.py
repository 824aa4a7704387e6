"""Random numbers that a model draws itself with torch's functions; they are replaced by keyed ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes  # torch has no public way to do this

from .calls import STOCHASTIC_DEPTH, Handler, Mode, StochasticCall
from .operations import written_mask

DROP_PATH = re.compile("drop_?path|stochastic_?depth", re.IGNORECASE)


def _numbers(mode: Mode, func: Any, like: Tensor, kind: str) -> Tensor:
    """Keyed random numbers in the shape of `like`, and in its type if that is a floating one."""
    if like.is_complex():
        parts = torch.view_as_complex(_numbers(mode, func, torch.view_as_real(like), kind).contiguous())
        return parts * 0.5**0.5 if kind == "normals" else parts  # so that the variance is 1
    like = like if like.is_floating_point() else torch.zeros(like.shape, device=like.device)
    name, rate = func.__name__.strip("_"), math.nan
    if kind == "uniforms" and _drops_paths(mode):  # Hugging Face's DropPath compares them with a rate
        name, rate = STOCHASTIC_DEPTH, float(getattr(mode.module(), "drop_prob", math.nan))
    return mode.apply(StochasticCall(name, rate, True, tuple(like.shape), kind), like)


def _made_of(kind: str) -> Handler:
    """The handler of a function that makes random numbers of given sizes, such as `torch.rand()`."""

    def handler(mode: Mode, func: Any, *size: Any, out: Tensor | None = None, **kwargs: Any) -> Tensor:
        x = torch.zeros(*size, **kwargs)
        result = _numbers(mode, func, x, kind)
        return result if out is None else written_mask(out, result)

    return handler


def _like(kind: str) -> Handler:
    """The handler of a function that makes random numbers like a tensor, such as `torch.rand_like()`."""

    def handler(mode: Mode, func: Any, input: Tensor, **kwargs: Any) -> Tensor:
        return _numbers(mode, func, torch.zeros_like(input, **kwargs), kind)

    return handler


def _filled(kind: str, names: tuple[str, ...], usual: tuple[float, ...], make: Callable[..., Tensor]) -> Handler:
    """The handler of a method that fills its tensor with `make(numbers, *parameters)`, such as `Tensor.uniform_()`."""

    def handler(mode: Mode, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        parameters = {**dict(zip(names, usual, strict=True)), **dict(zip(names, args, strict=False)), **kwargs}
        return written_mask(x, make(_numbers(mode, func, x, kind), *(parameters[name] for name in names)).to(x.dtype))

    return handler


def _normal(
    mode: Mode, func: Any, mean: Any = 0.0, std: Any = 1.0, size: Any = None, out: Tensor | None = None, **kwargs: Any
) -> Tensor:
    """`torch.normal()`, of means and deviations that are numbers or tensors."""
    tensors = [parameter for parameter in (mean, std) if isinstance(parameter, Tensor)]
    if tensors:
        shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
        like = torch.zeros_like(tensors[0].expand(shape))
    else:
        like = torch.zeros(size, **kwargs)
    result = _numbers(mode, func, like, "normals") * std + mean
    return result if out is None else written_mask(out, result)


def _bernoulli(mode: Mode, func: Any, x: Tensor, p: Any = None, out: Tensor | None = None, **kwargs: Any) -> Tensor:
    """`torch.bernoulli(probabilities)`, `Tensor.bernoulli(p)` and `Tensor.bernoulli_(p)`.

    torchvision and timm use the last one, to keep a block with probability p.
    """
    in_place = func is Tensor.bernoulli_
    p = 0.5 if p is None and in_place else x if p is None else p
    if isinstance(p, Tensor):
        result = (_numbers(mode, func, x, "uniforms") < p).to(x.dtype)
    else:
        like = x if x.is_floating_point() else torch.zeros(x.shape, device=x.device)
        name = STOCHASTIC_DEPTH if _drops_paths(mode) else func.__name__.strip("_")
        result = mode.apply(StochasticCall(name, 1 - float(p), True, tuple(x.shape), "keep"), like).to(x.dtype)
    return written_mask(x, result) if in_place else result if out is None else written_mask(out, result)


def _rrelu(
    mode: Mode,
    func: Any,
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """A rectifier whose slope below 0 is drawn in training."""
    if not training:
        return func(input, lower, upper, training, inplace)
    slope = _numbers(mode, func, input, "uniforms") * (upper - lower) + lower
    result = torch.where(input < 0, input * slope, input)
    return written_mask(input, result) if inplace else result


def _by_torch(mode: Mode, func: Any, *args: Any, generator: torch.Generator | None = None, **kwargs: Any) -> Tensor:
    """A function for which torch draws: its random numbers are not simple, or come from the model's generator."""
    options = kwargs if generator is None else {**kwargs, "generator": generator}
    return mode.by_torch(func.__name__.strip("_"), lambda: func(*args, **options), generator)


def _keyed(handler: Handler) -> Handler:
    """`handler` for calls without a generator; with a generator, torch draws."""

    def handled(mode: Mode, func: Any, *args: Any, generator: torch.Generator | None = None, **kwargs: Any) -> Any:
        if generator is None and mode.is_fixed():
            with _disable_current_modes():  # so that torch draws them
                result = func(*args, **kwargs)
            mode.drew_fixed()
            return result
        if generator is None:
            return handler(mode, func, *args, **kwargs)
        return _by_torch(mode, func, *args, generator=generator, **kwargs)

    return handled


def _drops_paths(mode: Mode) -> bool:
    return DROP_PATH.search(type(mode.module()).__name__) is not None


# The handlers of random numbers. They are used while a model is sampled, and not in its ordinary prediction.
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
