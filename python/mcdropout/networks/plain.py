"""A convolutional network for images and a dense one for tables, with dropout after every hidden layer."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from ..checks import check_choice, check_count, check_number, check_seed
from ..data.labels import Label
from .network import (
    Head,
    MCNetwork,
    activation_layer,
    add_dense,
    check_counts,
    check_rates,
    image_shape,
    pools_and_last_sides,
    start_as_keras,
    weights_from,
)


def mc_cnn(
    input_shape: Sequence[int],
    labels: Iterable[Label] | None = None,
    *,
    n_outputs: int | None = None,
    task: str = "classification",
    filters: int | Sequence[int] = (32, 64),
    kernel_size: int = 3,
    hidden: int | Sequence[int] = (128,),
    dropout: float | Sequence[float] = (0.25, 0.25, 0.5),
    activation: str = "relu",
    noise: str = "homoscedastic",
    seed: int = 0,
) -> MCNetwork:
    """A convolutional network for images, with dropout after every hidden layer.

    Each entry of `filters` is a convolution without padding, an activation, dropout, and a 2 x 2 maximum
    pool (a side that is down to 1 is left alone); each entry of `hidden` is a dense layer, an activation
    and dropout. `dropout` is the rate of dropping: one number for all, or one per entry of `filters` and then
    of `hidden`. The defaults are the network of the R Keras example.

    `input_shape` is (height, width, channel). `task` is "classification" (softmax over `labels`), "binary"
    (two labels, one logit for the second) or "regression" (`n_outputs` numbers, 1 by default); `noise` is for
    values only: "homoscedastic" learns one noise variance per output, "heteroscedastic" one per input and
    output, "none" learns by squared error alone. That is taken in standard units, as if there were noise of variance
    1/2 in them, against which a Bayesian network weighs its KL divergence. Without `labels`, the labels are 0, 1,
    ..., `n_outputs` - 1. The first weights come from `seed` alone.

    Raises ValueError for labels, sizes or rates that cannot work.
    """
    shape = image_shape(input_shape)
    widths = check_counts(filters, "filters")
    if not widths:
        raise ValueError("`filters` must hold at least one whole number; got none.")
    dense = check_counts(hidden, "hidden")
    kernel = check_count(kernel_size, "kernel_size")
    rates = check_rates(dropout, "dropout", len(widths) + len(dense), "`filters` and `hidden` together")
    make = activation_layer(activation)
    head = Head.checked(labels, n_outputs, task, noise)
    pools, sides = pools_and_last_sides(shape, len(widths), kernel)
    seed = check_seed(seed)

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with weights_from(seed):
        channels = shape[2]
        for i, width in enumerate(widths):
            layers[f"conv{i + 1}"] = nn.Conv2d(channels, width, kernel)
            layers[f"conv{i + 1}_activation"] = make()
            layers[f"conv{i + 1}_dropout"] = nn.Dropout(rates[i])
            layers[f"conv{i + 1}_pool"] = nn.MaxPool2d(pools[i])
            channels = width
        layers["flatten"] = nn.Flatten()
        features = channels * math.prod(sides)
        add_dense(layers, features, dense, rates[len(widths) :], make, head.width)
        start_as_keras(layers)

    spec = {
        "kind": "cnn",
        "input_shape": list(shape),
        **head.spec(),
        "filters": widths,
        "kernel_size": kernel,
        "hidden": dense,
        "dropout": rates,
        "activation": activation,
        "seed": seed,
    }
    return MCNetwork(spec, layers)


def mc_mlp(
    n_features: int,
    labels: Iterable[Label] | None = None,
    *,
    n_outputs: int | None = None,
    task: str = "classification",
    hidden: int | Sequence[int] = (50,),
    dropout: float | Sequence[float] = 0.1,
    input_dropout: float = 0.0,
    activation: str = "relu",
    noise: str = "homoscedastic",
    seed: int = 0,
) -> MCNetwork:
    """A dense network for tables, with dropout after every hidden layer (and, if asked, on the features).

    `hidden` has the width of each hidden layer; `dropout` one rate for all of them, or one each: small
    networks want low ones, as in Gal and Ghahramani (2016), arXiv:1506.02142. Features are standardised
    by the means and standard deviations `mc_fit()` found in the training part, in float64: columns far from zero,
    such as time stamps, keep their digits.
    `labels`, `n_outputs`, `task`, `noise` and `seed` are those of `mc_cnn()`.

    Raises ValueError for labels, sizes or rates that cannot work.
    """
    n_features = check_count(n_features, "n_features")
    dense = check_counts(hidden, "hidden")
    rates = check_rates(dropout, "dropout", len(dense), "`hidden`")
    input_rate = check_number(input_dropout, "input_dropout", at_least=0, below=1)
    make = activation_layer(activation)
    head = Head.checked(labels, n_outputs, task, noise)
    seed = check_seed(seed)

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if input_rate > 0:
        layers["input_dropout"] = nn.Dropout(input_rate)
    with weights_from(seed):
        add_dense(layers, n_features, dense, rates, make, head.width)
        start_as_keras(layers)

    spec = {
        "kind": "mlp",
        "n_features": n_features,
        **head.spec(),
        "hidden": dense,
        "dropout": rates,
        "input_dropout": input_rate,
        "activation": activation,
        "seed": seed,
    }
    return MCNetwork(spec, layers)


def build_plain(spec: dict[str, Any]) -> MCNetwork:
    """The network that `spec` names, with fresh weights; only the two kinds of this module are known."""
    kinds = {"cnn": mc_cnn, "mlp": mc_mlp}
    kind = check_choice(spec.get("kind"), "kind", list(kinds))
    arguments = {key: value for key, value in spec.items() if key != "kind"}
    return kinds[kind](**arguments)
