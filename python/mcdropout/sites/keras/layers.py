"""Copies of Keras layers whose dropping and noise come from masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..calls import Shape, StochasticCall
from .loading import ATTENTION, RECURRENT_MASKS, load_keras
from .passes import PassOwner


def apply(replica: PassOwner, path: str, drop: StochasticCall, x: Any) -> Any:
    """Hand a stochastic call to the pass of the replica."""
    return replica.now.on.apply(path, drop, x)


def keyed_class(keras: Any, cls: type) -> type | None:
    """A class for the twins of `cls`, whose own dropping comes from masks; None where it drops nothing itself.

    It comes between a class of the user's and Keras's own in the order in which methods are looked up, so that a
    `call()` of the user's that asks `super()` meets it too.
    """
    homes = {base: made for base, made in _callers(keras).items() if issubclass(cls, base)}
    if not homes:
        return None
    base = next(one for one in cls.__mro__ if one in homes)
    keyed = type(base.__name__, (base,), {"call": homes[base], "__module__": base.__module__})
    if cls is base:
        return keyed
    return type(cls.__name__, (cls, keyed), {"__module__": cls.__module__})


def _callers(keras: Any) -> dict[type, Callable[..., Any]]:
    """Keras's classes whose `call()` drops, and what to call instead."""
    layers = keras.layers
    spatial = layers.SpatialDropout1D.__mro__[1]
    return {
        layers.Dropout: _dropout_call,
        spatial: _spatial_call,
        layers.AlphaDropout: _alpha_call,
        layers.GaussianDropout: _gaussian_call,
        layers.GaussianNoise: _noise_call,
    }


def _dropout_call(self: Any, inputs: Any, training: Any = False) -> Any:
    shape = mask_shape_of(self.name, inputs, self.noise_shape)
    operation = ATTENTION if "_mcdropout_of_attention" in vars(self) else "dropout"
    return _met(self, inputs, StochasticCall(operation, float(self.rate), True, shape))


def _spatial_call(self: Any, inputs: Any, training: Any = False) -> Any:
    shape = tuple(int(size) for size in self._get_noise_shape(inputs))
    operation = f"dropout{len(shape) - 2}d"
    return _met(self, inputs, StochasticCall(operation, float(self.rate), True, shape))


def _alpha_call(self: Any, inputs: Any, training: Any = False) -> Any:
    shape = mask_shape_of(self.name, inputs, self.noise_shape)
    return _met(self, inputs, StochasticCall("alpha_dropout", float(self.rate), True, shape, "alpha"))


def _gaussian_call(self: Any, inputs: Any, training: Any = False) -> Any:
    return _met(
        self, inputs, StochasticCall("gaussian_dropout", float(self.rate), True, tuple(inputs.shape), "gaussian")
    )


def _noise_call(self: Any, inputs: Any, training: Any = False) -> Any:
    return _met(self, inputs, StochasticCall("gaussian_noise", float(self.stddev), True, tuple(inputs.shape), "noise"))


def _met(self: Any, x: Any, drop: StochasticCall) -> Any:
    return self._mcdropout(drop, x) if drop.rate > 0 else x


def mask_shape_of(name: str, x: Any, given: Any) -> Shape:
    """The shape of the mask; a number of inputs that is written there means one mask for each."""
    shape = tuple(x.shape)
    if given is None:
        return shape
    wanted = tuple(size if one is None else int(one) for size, one in zip(shape, given, strict=False))
    wanted = (shape[0] if wanted[0] > 1 else wanted[0], *wanted[1:])
    if len(given) != len(shape) or any(one not in (1, size) for size, one in zip(shape, wanted, strict=True)):
        raise ValueError(
            f"`model` has a dropout, {name}, whose `noise_shape` {tuple(given)} does not fit what it meets, of "
            f"shape {shape}; each entry must be 1 or none."
        )
    return wanted


def intercept(twin: Any, replica: PassOwner, path: str) -> bool:
    """Let the masks in where a layer drops in the midst of its work: recurrent cells, and plain attention.

    True for a cell, which asks for its masks only in training.
    """
    own, layers = twin.__dict__, load_keras().layers
    if isinstance(twin, (layers.MultiHeadAttention, layers.GroupQueryAttention)) and hasattr(twin, "_dropout_layer"):
        vars(twin._dropout_layer)["_mcdropout_of_attention"] = True
    if all(hasattr(twin, name) for name in RECURRENT_MASKS):
        for name, rate in zip(RECURRENT_MASKS, (twin.dropout, twin.recurrent_dropout), strict=True):
            own[name] = _kept_mask(twin, replica, path, name.removeprefix("get"), float(rate))
        return twin.dropout > 0 or twin.recurrent_dropout > 0
    if hasattr(type(twin), "_apply_scores") and getattr(twin, "dropout", 0) > 0:
        apply_scores = twin._apply_scores

        def applied(scores: Any, value: Any, scores_mask: Any = None, training: Any = False) -> Any:
            _, weights = apply_scores(scores, value, scores_mask=scores_mask, training=False)
            drop = StochasticCall(ATTENTION, float(twin.dropout), True, tuple(weights.shape))
            weights = apply(replica, path, drop, weights)
            return load_keras().ops.matmul(weights, value), weights

        own["_apply_scores"] = applied
    return False


def cells(layer: Any) -> list[Any]:
    """The cells of a recurrent layer."""
    cell = getattr(layer, "cell", None)
    return [] if cell is None else [cell, *getattr(cell, "cells", [])]


def _kept_mask(twin: Any, replica: PassOwner, path: str, attribute: str, rate: float) -> Callable[[Any], Any]:
    """A recurrent cell's mask, made once for all steps of a pass, as Keras does: Gal and Ghahramani (2016b)."""
    replica.kept_masks.append((twin, attribute))
    operation = "recurrent_dropout" if "recurrent" in attribute else "dropout"

    def mask(step_input: Any) -> Any:
        if rate > 0 and getattr(twin, attribute) is None:
            ones = load_keras().ops.ones_like(step_input)
            drop = StochasticCall(operation, rate, True, tuple(step_input.shape))
            count = getattr(twin, "dropout_mask_count", None)
            place = f"{path}.{operation}"
            made = [apply(replica, place, drop, ones) for _ in range(count or 1)]
            twin.__dict__[attribute] = made if count else made[0]
        return getattr(twin, attribute)

    return mask


def announce(twin: Any, replica: PassOwner, path: str, raised: bool) -> None:
    """Let a layer say what it has made of what; with `raised` it works as in training."""
    call = twin.call

    def called(*args: Any, **kwargs: Any) -> Any:
        now = replica.now
        if twin._call_has_training_arg:
            place = _place_of_training(twin)
            asked = args[place] if len(args) > place else kwargs.get("training")
            args, kwargs = args[:place], {**kwargs, "training": asked}
            if raised or path in replica.raised:
                kwargs["training"] = True
            elif replica.raised.intersection(now.path):  # what is above it hands on what it was given itself
                kwargs["training"] = replica.asked.get(path, False)
            elif not replica.raised:
                replica.asked[path] = asked
        now.path.append(path)
        try:
            now.on.entered(twin, path, args)
            result = call(*args, **kwargs)
        finally:
            now.path.pop()
        now.on.left(twin, args[0] if args else None, result)
        return result

    twin.__dict__["call"] = called


def _place_of_training(layer: Any) -> int:
    return list(layer._call_signature.parameters).index("training")
