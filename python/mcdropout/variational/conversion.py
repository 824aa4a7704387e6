"""Replace the layers of a network by Bayesian ones."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn

from ..checks import check_flag, shown
from .convolutions import BayesConv1d, BayesConv2d
from .layer import BayesLayer
from .linear import BayesLinear
from .posteriors import Posterior
from .priors import Prior, check_prior

TWINS: dict[type[nn.Module], type[BayesLinear | BayesConv1d | BayesConv2d]] = {
    nn.Linear: BayesLinear,
    nn.Conv1d: BayesConv1d,
    nn.Conv2d: BayesConv2d,
}


def variational_twin(plain: nn.Module, **options: Any) -> BayesLayer:
    """The variational twin of a layer whose class is in `TWINS`."""
    kind: Any = TWINS[type(plain)]
    return kind.of(plain, **options)


def converted(
    model: nn.Module,
    layers: Iterable[str] | str | None,
    posterior: Posterior | None,
    prior: Prior | None,
    prior_from_weights: bool,
    estimator: str | None,
    kl_samples: int,
) -> nn.Module:
    """A copy of `model` with variational layers in place of plain ones; see `mc_to_bayesian()`."""
    options: dict[str, Any] = {"estimator": estimator, "kl_samples": kl_samples, "posterior": posterior}
    centred = check_flag(prior_from_weights, "prior_from_weights")
    believed = check_prior(prior)
    chosen = _chosen(model, check_layers(layers))
    changed = copy.deepcopy(model)
    vars(changed).pop("stepper", None)  # its optimizer knows the layers that go
    for path in chosen:
        twin = changed.get_submodule(path)
        assert isinstance(twin, nn.Linear | nn.Conv1d | nn.Conv2d)  # as `_chosen` has seen
        own: dict[str, Any] = {"prior": believed}
        if centred:
            own = {"prior": believed.centred(twin.weight.detach())}
            if twin.bias is not None:
                own["bias_prior"] = believed.centred(twin.bias.detach())
        made = variational_twin(twin, **own, **options).train(twin.training)
        if path == "":
            return made
        parent, _, name = path.rpartition(".")
        setattr(changed.get_submodule(parent), name, made)
    return changed


def _chosen(model: nn.Module, wanted: list[str] | None) -> list[str]:
    """Paths of the layers to change; refuses what cannot be."""
    able = [path for path, one in model.named_modules() if type(one) in TWINS]
    if not able:
        raise ValueError("`model` must have a linear layer or a convolution to change; it has none.")
    chosen = able if wanted is None else wanted
    for one in chosen:
        if one not in able:
            raise _not_named(one)
    owners: dict[int, str] = {}
    for path, one in model.named_modules(remove_duplicate=False):
        for name, parameter in one.named_parameters(recurse=False):
            first = owners.setdefault(id(parameter), f"{path}.{name}")
            if first != f"{path}.{name}" and (path in chosen or first.rpartition(".")[0] in chosen):
                raise ValueError(
                    f"`layers` must not share their weights; {first} and {path}.{name} do. Leave them out of `layers`."
                )
    return chosen


def check_layers(layers: object) -> list[str] | None:
    """Names of layers, one or several; None stays None."""
    if layers is None:
        return None
    found = [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, Iterable) else []
    if not found or not all(isinstance(one, str) for one in found):
        raise _not_named(layers)
    return found


def _not_named(got: object) -> ValueError:
    return ValueError(f"`layers` must name linear layers or convolutions of `model`; got {shown(got)}.")
