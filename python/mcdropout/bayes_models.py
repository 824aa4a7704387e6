"""Networks whose weights are distributions: the plain ones of this package, a residual one, and those of others.

They learn with `mc_fit()`, predict with `mc_predict()` and are saved as the plain ones are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .arrays import Label
from .checks import check_choice, check_count, check_number, check_seed, shown
from .models import MCNetwork, _activation, _Head, _image_shape, check_counts, mc_cnn, mc_mlp, weights_from
from .models import build as build_plain
from .operations import is_sampled
from .priors import Posterior, Prior, check_posterior, check_prior
from .variational import (
    TWINS,
    BayesConv2d,
    BayesLayer,
    BayesLinear,
    check_estimator,
    check_layers,
    converted,
    layer_facts,
    variational_layers,
    variational_twin,
)

Model = TypeVar("Model", bound=nn.Module)

SHARES = (5, 25, 50, 75, 95)  # per cent of the weights of a layer


def mc_bayes_cnn(
    input_shape: Sequence[int],
    labels: Iterable[Label] | None = None,
    *,
    n_outputs: int | None = None,
    task: str = "classification",
    filters: int | Sequence[int] = (32, 64),
    kernel_size: int = 3,
    hidden: int | Sequence[int] = (128,),
    activation: str = "relu",
    noise: str = "homoscedastic",
    prior: Prior | None = None,
    posterior: Posterior | None = None,
    estimator: str | None = None,
    kl_samples: int = 1,
    seed: int = 0,
) -> MCNetwork:
    """The network of `mc_cnn()` with a distribution over every weight in the place of dropout.

    prior: of `mc_prior_normal()` (standard normal by default) and its kin. posterior: of `mc_posterior_normal()` and
    its kin. estimator: how weight noise enters while learning, "reparameterization", "local_reparameterization" or
    "flipout"; the latter two are for the mean-field normal posterior, whose default is "flipout". kl_samples: draws
    for a KL divergence that has no closed form. Everything else is as in `mc_cnn()`; the means start where the
    weights of a plain network do.

    Raises ValueError for what cannot work, and for posteriors that memory has no room for.
    Reference: Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.
    """
    variational = _Variational.checked(prior, posterior, estimator, kl_samples)
    plain = mc_cnn(
        input_shape,
        labels,
        n_outputs=n_outputs,
        task=task,
        filters=filters,
        kernel_size=kernel_size,
        hidden=hidden,
        dropout=0,
        activation=activation,
        noise=noise,
        seed=seed,
    )
    return variational.network("bayes_cnn", plain)


def mc_bayes_mlp(
    n_features: int,
    labels: Iterable[Label] | None = None,
    *,
    n_outputs: int | None = None,
    task: str = "classification",
    hidden: int | Sequence[int] = (50,),
    activation: str = "relu",
    noise: str = "homoscedastic",
    prior: Prior | None = None,
    posterior: Posterior | None = None,
    estimator: str | None = None,
    kl_samples: int = 1,
    seed: int = 0,
) -> MCNetwork:
    """The network of `mc_mlp()` with a distribution over every weight in the place of dropout.

    Without `hidden` layers it is a Bayesian linear or logistic regression. Arguments are those of `mc_mlp()` and
    `mc_bayes_cnn()`.
    """
    variational = _Variational.checked(prior, posterior, estimator, kl_samples)
    plain = mc_mlp(
        n_features,
        labels,
        n_outputs=n_outputs,
        task=task,
        hidden=hidden,
        dropout=0,
        activation=activation,
        noise=noise,
        seed=seed,
    )
    return variational.network("bayes_mlp", plain)


def mc_bayes_resnet(
    input_shape: Sequence[int],
    labels: Iterable[Label] | None = None,
    *,
    n_outputs: int | None = None,
    task: str = "classification",
    filters: int | Sequence[int] = (64, 128),
    kernel_size: int = 3,
    activation: str = "silu",
    noise: str = "homoscedastic",
    prior: Prior | None = None,
    posterior: Posterior | None = None,
    estimator: str | None = None,
    kl_samples: int = 1,
    seed: int = 0,
) -> MCNetwork:
    """A residual network of variational convolutions, for images or for what a frozen backbone makes of them.

    Each entry of `filters` is a block: two padded convolutions with batch norm, beside them a 1 x 1 convolution with
    batch norm where the number of channels changes, their sum, the activation ("silu" is also called swish), and a
    2 x 2 maximum pool (a side that is down to 1 is left alone). Then come the largest value of each channel and a
    variational dense layer. Other arguments are those of `mc_bayes_cnn()`.
    """
    variational = _Variational.checked(prior, posterior, estimator, kl_samples)
    shape = _image_shape(input_shape)
    widths = check_counts(filters, "filters")
    if not widths:
        raise ValueError("`filters` must hold at least one whole number; got none.")
    kernel = check_count(kernel_size, "kernel_size")
    make = _activation(activation)
    head = _Head.checked(labels, n_outputs, task, noise)
    seed = check_seed(seed)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    (height, width), channels = shape[:2], shape[2]
    with weights_from(seed):
        for i, filters_here in enumerate(widths):
            pool = (min(height, 2), min(width, 2))
            layers[f"block{i + 1}"] = ResidualBlock(channels, filters_here, kernel, make, pool, variational.options)
            height, width, channels = max(height // 2, 1), max(width // 2, 1), filters_here
        layers["pool"] = nn.AdaptiveMaxPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["output"] = BayesLinear(channels, head.width, **variational.options)
    spec = {
        "kind": "bayes_resnet",
        "input_shape": list(shape),
        **head.spec(),
        "filters": widths,
        "kernel_size": kernel,
        "activation": activation,
        "seed": seed,
        **variational.spec(),
    }
    return MCNetwork(spec, layers)


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
    variational = _Variational.checked(prior, posterior, estimator, kl_samples)
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


def mc_posterior_table(model: nn.Module) -> pd.DataFrame:
    """What the weights of each variational layer are distributed like: one row per layer.

    Columns: layer (its path), n_weights, n_parameters, std and variance (means over the weights of their posterior
    standard deviation and variance), kl (from the prior, in nats, summed over the weights), std_5, std_25, std_50,
    std_75 and std_95 (what that many per cent of the weights have at most as standard deviation), prior_std (that of
    the prior, mean over the weights; NaN or infinite where the prior has none).
    Raises ValueError for a network without variational layers. `mc_plot_posterior()` draws it.
    """
    layers = _layers_of(model)
    rows = []
    for (path, facts), layer in zip(layer_facts(model).items(), layers.values(), strict=True):
        with torch.no_grad():
            quantiles = np.quantile(layer.deviations().double().cpu().numpy(), np.array(SHARES) / 100)
        spread = {f"std_{share}": value for share, value in zip(SHARES, quantiles, strict=True)}
        rows.append({"layer": path, **facts, **spread, "prior_std": layer.prior_deviation()})
    return pd.DataFrame(rows).astype({"n_weights": int, "n_parameters": int})


def mc_weights_table(model: nn.Module, *, n_weights: int = 8, level: float = 0.95) -> pd.DataFrame:
    """The weights of each variational layer that are most surely not zero: one row per weight.

    Columns: layer (its path), weight (`weight[0, 3]` or `bias[2]`, positions from 0), mean, std (of its posterior),
    lower and upper (the middle `level` of a normal distribution of that mean and deviation, so exact for normal
    posteriors), signal (|mean| / std, by which the weights are chosen and sorted). n_weights: of each layer at most.
    Raises ValueError for a network without variational layers. `mc_plot_posterior()` draws it.
    Reference: Blundell et al. (2015), arXiv:1505.05424, for the signal-to-noise ratio.
    """
    return weights_of(model, n_weights, level)


def weights_of(model: nn.Module, n_weights: int, level: float, first: int = 0) -> pd.DataFrame:
    """The same, with the number that the first position is called by."""
    layers = _layers_of(model)
    n_weights = check_count(n_weights, "n_weights")
    reach = NormalDist().inv_cdf((1 + check_number(level, "level", above=0, below=1)) / 2)
    tables = []
    for path, layer in layers.items():
        with torch.no_grad():
            mean = torch.cat([one.flatten() for one in layer.means() if one is not None]).double().cpu().numpy()
            std = layer.deviations().double().cpu().numpy()
        signal = np.abs(mean) / np.maximum(std, np.finfo(np.float64).tiny)
        chosen = np.argsort(-np.nan_to_num(signal), kind="stable")[:n_weights]
        parts = {
            "layer": path,
            "weight": [_weight_name(layer, int(place), first) for place in chosen],
            "mean": mean[chosen],
            "std": std[chosen],
            "lower": mean[chosen] - reach * std[chosen],
            "upper": mean[chosen] + reach * std[chosen],
            "signal": signal[chosen],
        }
        tables.append(pd.DataFrame(parts))
    return pd.concat(tables, ignore_index=True)


def _layers_of(model: object) -> dict[str, BayesLayer]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch module; got {shown(type(model).__name__)}.")
    layers = variational_layers(model)
    if not layers:
        raise ValueError("`model` must have variational layers; it has none. See mc_to_bayesian().")
    return layers


def _weight_name(layer: BayesLayer, place: int, first: int) -> str:
    """What the weight at that place is called, biases being last."""
    n = layer.n_weights - layer.n_biases
    if place >= n:
        return f"bias[{place - n + first}]"
    where = np.unravel_index(place, layer.weight_shape)
    return f"weight[{', '.join(str(int(one) + first) for one in where)}]"


def build(spec: dict[str, Any]) -> MCNetwork:
    """The network that `spec` names, with fresh weights; only the kinds of this package are known."""
    kinds = {"bayes_cnn": mc_bayes_cnn, "bayes_mlp": mc_bayes_mlp, "bayes_resnet": mc_bayes_resnet}
    kind = spec.get("kind")
    if kind not in (*kinds, "bayesian"):
        return build_plain(spec)
    arguments = {key: value for key, value in spec.items() if key not in ("kind", "custom")}
    arguments["prior"] = Prior.from_spec(arguments["prior"])
    arguments["posterior"] = Posterior.from_spec(arguments["posterior"])
    if kind != "bayesian":
        return kinds[check_choice(kind, "kind", list(kinds))](**arguments)
    plain = build(arguments.pop("model"))
    del arguments["seed"]
    return mc_to_bayesian(plain, **arguments)


class ResidualBlock(nn.Module):
    """Two variational convolutions beside a shortcut, and a pool."""

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        kernel: int,
        make: type[nn.Module],
        pool: tuple[int, int],
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        self.conv1 = BayesConv2d(n_inputs, n_outputs, kernel, padding="same", **options)
        self.norm1 = nn.BatchNorm2d(n_outputs)
        self.activation1 = make()
        self.conv2 = BayesConv2d(n_outputs, n_outputs, kernel, padding="same", **options)
        self.norm2 = nn.BatchNorm2d(n_outputs)
        self.shortcut = nn.Sequential()
        if n_inputs != n_outputs:
            self.shortcut = nn.Sequential(
                OrderedDict(conv=BayesConv2d(n_inputs, n_outputs, 1, **options), norm=nn.BatchNorm2d(n_outputs))
            )
        self.activation2 = make()
        self.pool = nn.MaxPool2d(pool)

    def forward(self, x: Tensor) -> Tensor:
        """(input, channel, height, width) to half the height and width."""
        out = self.activation1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.pool(self.activation2(out + self.shortcut(x)))


class _Layers(nn.Sequential):
    """Layers one after the other; where draws are made, a convolution does the relu and the pool after it as well."""

    def forward(self, input: Tensor) -> Tensor:
        """What the last layer gives."""
        x, layers = input, list(self)
        if not is_sampled(x):
            return super().forward(x)
        while layers:
            first, *after = layers[:3]
            if _are_pooled(first, *after):
                x, layers = first(x, pool=after[1].kernel_size), layers[3:]
            else:
                x, layers = first(x), layers[1:]
        return x


def _are_pooled(first: nn.Module, *after: nn.Module) -> bool:
    """Whether these are a convolution, a relu and a pool that nobody watches."""
    if not isinstance(first, BayesConv2d) or tuple(map(type, after)) != (nn.ReLU, nn.MaxPool2d):
        return False
    # two hooks on each are those of a replica
    return all(len(one._forward_hooks) + len(one._forward_pre_hooks) <= 2 for one in after)


class _Variational:
    """What is asked of all variational layers of a network, checked."""

    def __init__(self, prior: Prior, posterior: Posterior, estimator: str, kl_samples: int) -> None:
        self.prior, self.posterior, self.estimator, self.kl_samples = prior, posterior, estimator, kl_samples

    @classmethod
    def checked(
        cls, prior: Prior | None, posterior: Posterior | None, estimator: str | None, kl_samples: int
    ) -> _Variational:
        found = check_posterior(posterior)
        return cls(check_prior(prior), found, check_estimator(estimator, found), check_count(kl_samples, "kl_samples"))

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of a layer."""
        return vars(self)

    def spec(self) -> dict[str, Any]:
        """As JSON can hold it; what holds a user's own function is told when it is to be written."""
        facts: dict[str, Any] = {"estimator": self.estimator, "kl_samples": self.kl_samples}
        for name, one in (("prior", self.prior), ("posterior", self.posterior)):
            facts[name] = one if one.family == "custom" else one.to_spec()
        return facts

    def network(self, kind: str, plain: MCNetwork) -> MCNetwork:
        """`plain` with variational layers, without its dropout."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        with weights_from(plain.spec["seed"]):
            for name, layer in plain.layers.named_children():
                if not isinstance(layer, nn.Dropout):
                    layers[name] = variational_twin(layer, **self.options) if type(layer) in TWINS else layer
                if isinstance(layer, nn.ReLU):
                    layer.inplace = True  # what comes before belongs to it alone; saves a third of a prediction's time
        left_out = ("kind", "dropout", "input_dropout")
        spec = {"kind": kind, **{name: value for name, value in plain.spec.items() if name not in left_out}}
        return MCNetwork({**spec, **self.spec()}, _Layers(layers))


def savable_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec of a network as JSON can hold it; refuses functions and distributions of the user's own."""
    return {name: one.to_spec() if isinstance(one, Prior | Posterior) else one for name, one in spec.items()}


def is_bayesian(model: nn.Module) -> bool:
    """Whether a network has variational layers."""
    return bool(variational_layers(model))
