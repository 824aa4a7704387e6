"""Make a network Bayesian."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..checks import shown
from ..variational.conversion import check_layers, converted
from ..variational.options import BayesOptions
from ..variational.posteriors import Posterior
from ..variational.priors import Prior
from .bayesian import Model
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
    """A Bayesian copy of a trained plain network, whose weights become the posterior means.

    The copy can be trained further with `mc_fit()` or sampled without training.

    Args:
        model: Any torch module. It is not changed.
        layers: Paths of the linear layers and convolutions (in one and two dimensions) to convert; all by default. Each
            keeps its stride, padding and other settings. Layers of other classes, such as those inside
            `torch.nn.MultiheadAttention`, stay plain.
        posterior: The family of the learnt distribution, of `mc_posterior_normal()` (by default) and its kin.
        prior: The distribution of the weights before training, of `mc_prior_normal()` (standard normal by default) and
            its kin.
        prior_from_weights: Whether the priors are centred at the trained weights, which keeps the weights near them.
        estimator: How the noise of the weights enters while learning: "reparameterization", "local_reparameterization"
            or "flipout". The last two are for the mean-field normal posterior, whose default is "flipout".
        kl_samples: Draws for a KL divergence that has no closed form.

    Returns:
        The copy, of the same class as `model`.

    Raises:
        ValueError: For layers that do not exist, or that share their weights with others.

    References:
        Krishnan et al. (2020), Specifying weight priors in Bayesian deep neural networks, arXiv:1906.05323.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_to_bayesian(mcd.mc_mlp(4, labels=["no", "yes"]), layers="output")
        >>> mcd.mc_posterior_table(net).layer.tolist()
        ['layers.output']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch module; got {shown(type(model).__name__)}.")
    options = BayesOptions.checked(posterior, prior, None, estimator, kl_samples)
    paths = check_layers(layers)
    if isinstance(model, MCNetwork) and paths is not None:  # users may write "conv1" for "layers.conv1"
        children = dict(model.layers.named_modules())
        paths = [f"layers.{path}" if path in children else path for path in paths]
    bayesian = converted(model, paths, options, prior_from_weights)
    if isinstance(bayesian, MCNetwork):
        bayesian.spec = {
            "kind": "bayesian",
            "model": bayesian.spec,
            "layers": paths,
            "prior_from_weights": prior_from_weights,
            "seed": bayesian.spec["seed"],
            **options.to_spec(),
        }
    return bayesian  # type: ignore[return-value]  # a model that is one plain layer gives a Bayesian layer
