"""Features of a frozen backbone, computed once and then read from a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import shown
from ..data.images import ImageFiles, opened_image
from ..data.rows import ArrayRows, Rows
from ..sites.replica import replicate
from .feature_cache import FeatureCache

Prepare = Callable[[Tensor], Any]

POOLINGS = ("mean", "max")

N_KEY_INPUTS = 8  # number of prepared inputs in a key: different functions for preparing get different keys


@dataclass
class Backbone:
    """A backbone, the function that prepares its inputs, and the function that runs it."""

    module: Any  # a torch module, or a Keras model
    prepare: Prepare
    layer: str | None
    input_shape: tuple[int, ...] | None
    run: Callable[[Any, Any], Any] = nn.Module.__call__

    def runner(self, device: torch.device) -> Callable[[Any], Any]:
        """A function from a prepared batch to the output of the layer. It does not change the user's module."""
        if not isinstance(self.module, nn.Module):
            return self.module
        replica = replicate(self.module, device).root  # in eval mode, with its own statistics
        if self.layer is not None:
            if not isinstance(self.layer, str) or self.layer not in dict(replica.named_modules()):
                raise ValueError(f"`layer` must be the path of a layer of `backbone`; got {shown(self.layer)}.")
            replica.get_submodule(self.layer).register_forward_hook(_stop)

        def run(x: Any) -> Any:
            try:
                result = self.run(replica, x)
            except StopAtLayer as reached:
                return reached.output
            if self.layer is not None:
                raise ValueError(f"`layer` must be a layer that is used; {shown(self.layer)} is not.")
            return result

        return run

    def fingerprint(self) -> bytes:
        """A digest of the layer's name and the weights."""
        digest = hashlib.blake2b(str(self.layer).encode())
        if isinstance(self.module, nn.Module):
            for name, values in self.module.state_dict().items():
                digest.update(name.encode())
                digest.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        else:
            for values in self.module.model.get_weights():
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.digest()


class StopAtLayer(Exception):
    """Ends a forward pass at the layer whose output is used as features."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(module: nn.Module, args: Any, output: Any) -> None:
    raise StopAtLayer(output)


@dataclass
class FeatureExtractor:
    """Computes the features of inputs, or reads them from a cache."""

    source: Backbone
    pooling: str | None
    batch_size: int
    cache: FeatureCache

    def shape_of(self, input_shape: Sequence[int], channels_last: bool = True) -> tuple[int, ...]:
        """The shape of the features of one input of shape `input_shape`."""
        rows = ArrayRows(np.zeros((1, *input_shape), np.float32))
        return tuple(self.computed(rows, torch.device("cpu"), channels_last).shape[1:])

    def features(self, rows: Rows, device: torch.device, channels_last: bool) -> np.ndarray | Rows:
        """Features of all inputs, from the cache if they are in it."""
        key = self._key(rows, channels_last)
        cached = self.cache.get(key, rows.shape[0])
        if cached is not None:
            return cached
        return self.cache.put(key, rows.shape[0], self._batches(rows, device, channels_last))

    def computed(self, rows: Rows, device: torch.device, channels_last: bool) -> np.ndarray:
        """Features of all inputs, computed without the cache."""
        return np.concatenate(list(self._batches(rows, device, channels_last)))

    def _batches(self, rows: Rows, device: torch.device, channels_last: bool) -> Iterator[np.ndarray]:
        run = self.source.runner(device)
        for start in range(0, rows.shape[0], self.batch_size):
            part = slice(start, min(start + self.batch_size, rows.shape[0]))
            with torch.no_grad():
                features = _features(run, self._prepared(rows, part, device))
                yield self._arranged(features, part.stop - part.start, channels_last)

    def _prepared(self, rows: Rows, part: slice, device: torch.device) -> Any:
        x = torch.from_numpy(rows.take(part))
        if isinstance(rows, ArrayRows) and rows.values.dtype == np.uint8:
            x = x / 255 if self.source.prepare is not no_preparation else x
        x = self.source.prepare(x.to(device))
        return x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.ndim == 4 else x

    def _arranged(self, features: Any, n: int, channels_last: bool) -> np.ndarray:
        if not isinstance(features, Tensor) or features.ndim not in (2, 4) or len(features) != n:
            got = tuple(features.shape) if isinstance(features, Tensor) else shown(type(features).__name__)
            raise ValueError(
                f"`backbone` must give features (input, feature) or (input, channel, height, width); got {got} for {n} "
                "inputs. Name a `layer` that does."
            )
        features = features.float()
        if features.ndim == 4 and self.pooling is not None:
            features = features.mean(dim=(2, 3)) if self.pooling == "mean" else features.amax(dim=(2, 3))
        if features.ndim == 4 and channels_last:
            features = features.permute(0, 2, 3, 1)
        if not bool(features.isfinite().all()):
            raise ValueError("`backbone` must give finite features; it gave NaN or infinite ones.")
        return np.ascontiguousarray(features.cpu().numpy())

    def _key(self, rows: Rows, channels_last: bool) -> str:
        """The key of the features in the cache. It depends on the inputs, their preparation and the backbone.

        It misses code in the backbone's `forward` that its print does not show.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.source.fingerprint())
        digest.update(repr(self.source.module).encode() if isinstance(self.source.module, nn.Module) else b"")
        digest.update(f"{self.pooling} {channels_last} {tuple(rows.shape)}".encode())
        prepared = self._prepared(rows, slice(0, min(N_KEY_INPUTS, rows.shape[0])), torch.device("cpu"))
        if isinstance(prepared, Tensor):
            digest.update(prepared.contiguous().numpy().tobytes())
        if isinstance(rows, ImageFiles):
            for path in rows.paths:
                with opened_image(path) as file:
                    status = os.fstat(file.fileno())
                digest.update(os.fsencode(path) + f" {status.st_size} {status.st_mtime_ns}".encode())
            return digest.hexdigest()
        for start in range(0, rows.shape[0], self.batch_size):
            digest.update(rows.take(slice(start, start + self.batch_size)).tobytes())
        return digest.hexdigest()


def _features(run: Callable[[Any], Any], x: Any) -> Any:
    try:
        return run(x)
    except (RuntimeError, LookupError, AttributeError) as error:
        text = (str(error).strip() or "no words").splitlines()[0].rstrip(".")
        shape = tuple(getattr(x, "shape", ()))
        raise ValueError(
            f"`backbone` fails on inputs that are prepared as {shape}: {text}; give it what it takes."
        ) from error


def make_head(function: object, extractor: FeatureExtractor) -> nn.Module:
    """The head that the user's function makes for the shape of the features."""
    if not callable(function):
        raise ValueError(
            f"`head` must be a network, or a function from the features' shape to one; got {shown(function)}."
        )
    if extractor.source.input_shape is None:
        raise ValueError("`input_shape` must be given where `head` is a function and `backbone` a module; got none.")
    head = function(extractor.shape_of(extractor.source.input_shape))
    if not isinstance(head, nn.Module):
        raise ValueError(f"`head` must give a network; got {shown(type(head).__name__)}.")
    return head


def no_preparation(x: Tensor) -> Tensor:
    """The inputs unchanged, for a backbone whose user prepares them."""
    return x
