"""Tables of the posterior and the weights of Bayesian networks."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..checks import check_count, check_level, shown
from ..variational.layer import BayesLayer, layer_facts, variational_layers

PERCENTILES = (5, 25, 50, 75, 95)  # of the posterior standard deviations of the weights of a layer


def mc_posterior_table(model: nn.Module) -> pd.DataFrame:
    """Summarise the posterior of each Bayesian layer. `mc_plot_posterior()` draws it.

    Args:
        model: A network with Bayesian layers.

    Returns:
        One row for each layer, with columns layer (its path), n_weights, n_parameters, std and variance (means over the
        weights of their posterior standard deviation and variance), kl (from the prior, in nats, summed over the
        weights), std_5, std_25, std_50, std_75 and std_95 (percentiles of the standard deviations) and prior_std (of
        the prior, mean over the weights; NaN or infinite if the prior has none).

    Raises:
        ValueError: For a network without Bayesian layers.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], hidden=(4,))
        >>> mcd.mc_posterior_table(net).n_weights.tolist()
        [16, 10]
    """
    layers = _layers_of(model)
    rows = []
    for (path, facts), layer in zip(layer_facts(model).items(), layers.values(), strict=True):
        with torch.no_grad():
            quantiles = np.quantile(layer.deviations().double().cpu().numpy(), np.array(PERCENTILES) / 100)
        spread = {f"std_{percent}": value for percent, value in zip(PERCENTILES, quantiles, strict=True)}
        rows.append({"layer": path, **facts, **spread, "prior_std": layer.prior_deviation()})
    return pd.DataFrame(rows).astype({"n_weights": int, "n_parameters": int})


def mc_weights_table(model: nn.Module, *, n_weights: int = 8, level: float = 0.95) -> pd.DataFrame:
    """List the weights of each Bayesian layer that are most certainly not zero. `mc_plot_posterior()` draws them.

    Args:
        model: A network with Bayesian layers.
        n_weights: The greatest number of weights of each layer.
        level: The level of the intervals, in (0, 1).

    Returns:
        One row for each weight, with columns layer (its path), weight (`weight[0, 3]` or `bias[2]`, positions from 0),
        mean, std (of its posterior), lower and upper (the middle `level` of a normal distribution with that mean and
        standard deviation, which is exact for normal posteriors) and signal (|mean| / std). The weights with the
        highest signal are listed, the highest first.

    Raises:
        ValueError: For a network without Bayesian layers.

    References:
        Blundell et al. (2015), arXiv:1505.05424, for the signal-to-noise ratio.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_mlp(3, ["no", "yes"], hidden=(4,))
        >>> len(mcd.mc_weights_table(net, n_weights=3))
        6
    """
    return weights_of(model, n_weights, level)


def weights_of(model: nn.Module, n_weights: int, level: float, first: int = 0) -> pd.DataFrame:
    """The table of `mc_weights_table()`, with positions counted from `first`."""
    layers = _layers_of(model)
    n_weights = check_count(n_weights, "n_weights")
    quantile = NormalDist().inv_cdf((1 + check_level(level, "level")) / 2)
    tables = []
    for path, layer in layers.items():
        with torch.no_grad():
            means = [values.flatten() for values in layer.means() if values is not None]
            mean = torch.cat(means).double().cpu().numpy()
            std = layer.deviations().double().cpu().numpy()
        signal = np.abs(mean) / np.maximum(std, np.finfo(np.float64).tiny)
        chosen = np.argsort(-np.nan_to_num(signal), kind="stable")[:n_weights]
        parts = {
            "layer": path,
            "weight": [_weight_name(layer, int(place), first) for place in chosen],
            "mean": mean[chosen],
            "std": std[chosen],
            "lower": mean[chosen] - quantile * std[chosen],
            "upper": mean[chosen] + quantile * std[chosen],
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
    """The name of the weight at this position. Biases follow the weights."""
    n = layer.n_weights - layer.n_biases
    if place >= n:
        return f"bias[{place - n + first}]"
    indices = np.unravel_index(place, layer.weight_shape)
    return f"weight[{', '.join(str(int(index) + first) for index in indices)}]"
