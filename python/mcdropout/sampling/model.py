"""The model of the user, as a torch model or a Keras model."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from ..checks import shown
from ..data.sources import InputSource
from ..engine.sampler import Sampler
from ..sites.keras.loading import check_keras, is_keras, is_keras_2, load_model
from .keras_model import KerasModel
from .options import ModelOptions, SamplingOptions, SiteOptions
from .torch_model import TorchModel


def network_of(model: Any, options: ModelOptions) -> TorchModel | KerasModel:
    """The model, wrapped for the library that it was made with."""
    if isinstance(model, (str, os.PathLike)) and str(model).endswith(".keras"):
        model = load_model(model)
    return kind_of(model).of(model, options)


def kind_of(model: Any) -> type[TorchModel] | type[KerasModel]:
    """The class that wraps models of this library. Raises TypeError for an object that is no model."""
    if is_keras(model) or is_keras_2(model):
        check_keras(model)
        return KerasModel
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch module or a Keras model; got {shown(type(model).__name__)}.")
    return TorchModel


def sampler_for(
    network: TorchModel | KerasModel,
    source: InputSource,
    options: SamplingOptions,
    site_options: SiteOptions,
    **more: Any,
) -> Sampler:
    """A sampler of the network, for inputs like the first three of `source`."""
    return network.sampler(network.placed(source.head(3), network.replica.device), options, site_options, **more)
