"""Make a network Bayesian."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..checks import shown
from ..variational.conversion import check_layers, converted
from ..variational.posteriors import Posterior
from ..variational.priors import Prior
from .bayesian import Model, Variational
from .network import MCNetwork


def mc_to_bayesian(
    model: Model,
    *,
    layers: str | Sequence[str] | None = None,
    posterior: Posterior | None = None,
    prior: Prior | None = None,
    prior_from_weights: bool = False,
    estimator: str | None = None,
    kl_samples: int = 1,
) -> Model:
    """A variational copy of a trained plain network: its weights are the posterior means.

    model: any torch module; it stays as it is. layers: paths of the linear layers and convolutions (one- and
    two-dimensional) to change, all of them by default; each keeps its stride, padding and all else. Layers of other
    classes, as inside of `torch.nn.MultiheadAttention`, stay plain. prior_from_weights: whether the trained weights
    are also the location of the prior, which keeps them near there (Krishnan et al., 2020, arXiv:1906.05323). Other
    arguments are those of `mc_bayes_cnn()`. Train on with `mc_fit()`, or sample at once.

    Raises ValueError for layers that are not there, or that share their weights with others.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch module; got {shown(type(model).__name__)}.")
    variational = Variational.checked(prior, posterior, estimator, kl_samples)
    named = check_layers(layers)
    if isinstance(model, MCNetwork) and named is not None:  # "conv1" for "layers.conv1"
        inside = dict(model.layers.named_modules())
        named = [f"layers.{one}" if one in inside else one for one in named]
    made = converted(model, named, posterior, prior, prior_from_weights, estimator, kl_samples)
    if isinstance(made, MCNetwork):
        made.spec = {
            "kind": "bayesian",
            "model": made.spec,
            "layers": named,
            "prior_from_weights": prior_from_weights,
            "seed": made.spec["seed"],
            **variational.spec(),
        }
    return made  # type: ignore[return-value]  # a module alone becomes its twin
