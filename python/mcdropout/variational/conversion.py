"""Replace the layers of a network by Bayesian ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..checks import as_list, check_flag, shown
from ..compute.streams import OwnStream
from .convolutions import BayesConv1d, BayesConv2d
from .layer import BayesLayer
from .linear import BayesLinear
from .options import BayesOptions

BAYESIAN_CLASSES: dict[type[nn.Module], type[BayesLinear | BayesConv1d | BayesConv2d]] = {
    nn.Linear: BayesLinear,
    nn.Conv1d: BayesConv1d,
    nn.Conv2d: BayesConv2d,
}


def bayesian_layer(plain: nn.Module, options: BayesOptions) -> BayesLayer:
    """The Bayesian copy of a plain layer, whose class must be in `BAYESIAN_CLASSES`."""
    bayesian_class: Any = BAYESIAN_CLASSES[type(plain)]
    return bayesian_class.of(plain, **options.arguments)


def converted(model: nn.Module, layers: Sequence[str] | None, options: BayesOptions, from_weights: bool) -> nn.Module:
    """A copy of `model` with Bayesian layers in place of the plain layers at these paths; see `mc_to_bayesian()`.

    from_weights: the priors are centred on the trained weights.
    """
    from_weights = check_flag(from_weights, "prior_from_weights")
    paths = _paths_to_convert(model, layers)
    bayesian = copy.deepcopy(model)
    vars(bayesian).pop("stepper", None)  # its optimizer refers to the layers that are replaced
    for path in paths:
        plain = bayesian.get_submodule(path)
        assert isinstance(plain, nn.Linear | nn.Conv1d | nn.Conv2d)  # `_paths_to_convert` has checked this
        if from_weights:
            bias_prior = options.prior if plain.bias is None else options.prior.centred(plain.bias.detach())
            layer_options = replace(options, prior=options.prior.centred(plain.weight.detach()), bias_prior=bias_prior)
        else:
            layer_options = options
        with OwnStream(0):  # the constructor draws weights, which those of the plain layer then replace
            layer = bayesian_layer(plain, layer_options).train(plain.training)
        if path == "":
            return layer
        parent, _, name = path.rpartition(".")
        setattr(bayesian.get_submodule(parent), name, layer)
    return bayesian


def _paths_to_convert(model: nn.Module, paths: Sequence[str] | None) -> Sequence[str]:
    """Paths of the layers to convert; refuses layers of other classes and layers that share weights."""
    convertible = [path for path, module in model.named_modules() if type(module) in BAYESIAN_CLASSES]
    if not convertible:
        raise ValueError("`model` must have a linear layer or a convolution to change; it has none.")
    if paths is None:
        paths = convertible
    for path in paths:
        if path not in convertible:
            raise _wrong_layers(path)
    owners: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            owner = owners.setdefault(id(parameter), f"{path}.{name}")
            if owner != f"{path}.{name}" and (path in paths or owner.rpartition(".")[0] in paths):
                raise ValueError(
                    f"`layers` must not share their weights; {owner} and {path}.{name} do. Leave them out of `layers`."
                )
    return paths


def check_layers(layers: object) -> list[str] | None:
    """Names of layers, one or several; None stays None."""
    if layers is None:
        return None
    names = list(layers) if isinstance(layers, (set, frozenset)) else as_list(layers)
    if not names or not all(isinstance(name, str) for name in names):
        raise _wrong_layers(layers)
    return names


def _wrong_layers(layers: object) -> ValueError:
    return ValueError(f"`layers` must name linear layers or convolutions of `model`; got {shown(layers)}.")
