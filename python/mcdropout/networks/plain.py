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
    check_filters,
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

    The defaults are the network of the R Keras example for MNIST.

    Args:
        input_shape: Height, width and channels of an image.
        labels: The names of the classes. By default 0, 1, ..., `n_outputs` - 1.
        n_outputs: The number of classes without `labels`, or of values. 1 by default for values.
        task: "classification" (softmax over `labels`), "binary" (two labels, one logit for the second) or "regression".
        filters: Filters of each convolution. After a convolution without padding come the activation, dropout, and a 2
            x 2 maximum pool. A side of length 1 is not pooled.
        kernel_size: Height and width of the convolutions, in pixels.
        hidden: Units of each dense layer, which is followed by the activation and dropout.
        dropout: Rates of dropping, from 0 to 1: one for all, or one for each entry of `filters` and then of `hidden`.
        activation: The activation of the hidden layers: "relu", "tanh", "silu" and others.
        noise: For values: "homoscedastic" learns one noise variance for each output, "heteroscedastic" one for each
            input and output, "none" learns by squared error alone. The squared error is taken in standard units, as if
            the noise had variance 1/2 in them; a Bayesian network weighs its KL divergence against that.
        seed: Decides the first weights.

    Returns:
        The network, untrained: a torch module that `mc_fit()`, `mc_predict()` and `mc_save()` take.

    Raises:
        ValueError: For labels, sizes or rates that cannot work.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_cnn((28, 28, 1), labels=["cat", "dog"]).task
        'classification'
    """
    shape = image_shape(input_shape)
    widths = check_filters(filters)
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
    """A dense network for tables, with dropout after every hidden layer.

    Features are standardised by the means and standard deviations of the training inputs of `mc_fit()`, in float64.
    Columns far from zero, such as time stamps, keep their digits.

    Args:
        n_features: Columns of the table.
        labels: The names of the classes. By default 0, 1, ..., `n_outputs` - 1.
        n_outputs: The number of classes without `labels`, or of values. 1 by default for values.
        task: "classification" (softmax over `labels`), "binary" (two labels, one logit for the second) or "regression".
        hidden: Units of each hidden layer.
        dropout: Rates of dropping, from 0 to 1: one for all hidden layers, or one for each. Small networks need low
            rates.
        input_dropout: The rate of dropping features.
        activation: The activation of the hidden layers: "relu", "tanh", "silu" and others.
        noise: For values: "homoscedastic" learns one noise variance for each output, "heteroscedastic" one for each
            input and output, "none" learns by squared error alone. The squared error is taken in standard units, as if
            the noise had variance 1/2 in them; a Bayesian network weighs its KL divergence against that.
        seed: Decides the first weights.

    Returns:
        The network, untrained.

    Raises:
        ValueError: For labels, sizes or rates that cannot work.

    References:
        Gal and Ghahramani (2016), Dropout as a Bayesian approximation, arXiv:1506.02142.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_mlp(4, task="regression", hidden=(50, 50)).n_outputs
        1
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
    """The network of a specification, with new weights. It is one of the two kinds of this module."""
    kinds = {"cnn": mc_cnn, "mlp": mc_mlp}
    kind = check_choice(spec.get("kind"), "kind", list(kinds))
    arguments = {key: value for key, value in spec.items() if key != "kind"}
    return kinds[kind](**arguments)
