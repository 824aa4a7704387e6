"""The model that users give, as a torch or a Keras one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..checks import shown
from ..data.labels import Label
from ..data.sources import InputSource
from ..engine.sampler import Sampler
from ..predictions.outputs import Select
from ..sites.keras.loading import check_keras, is_keras, is_keras_2, load_model
from .keras_model import KerasModel
from .options import SamplingOptions, SiteOptions
from .torch_model import TorchModel


def network_of(
    model: Any,
    outputs: str | None,
    labels: Iterable[Label] | None,
    select: Select | None,
    precision: str,
    device: str | Sequence[str],
    constants: Mapping[str, Any] | None = None,
) -> TorchModel | KerasModel:
    """How to run this model, by the library that it was made with."""
    if isinstance(model, (str, os.PathLike)) and str(model).endswith(".keras"):
        model = load_model(model)
    return kind_of(model).of(model, outputs, labels, select, precision, device, constants)


def kind_of(model: Any) -> type[TorchModel] | type[KerasModel]:
    """What runs models of the library that this one was made with; refuses what is no model."""
    if is_keras(model) or is_keras_2(model):
        check_keras(model)
        return KerasModel
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch module or a Keras model; got {shown(type(model).__name__)}.")
    return TorchModel


def sampler_for(
    network: TorchModel | KerasModel, feed: InputSource, request: SamplingOptions, besides: SiteOptions, **more: Any
) -> Sampler:
    """The sampler of a network for inputs like the first ones."""
    return network.sampler(network.placed(feed.head(3), network.replica.device), request, besides, **more)
