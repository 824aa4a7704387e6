"""Bayesian versions of the plain networks of this package, and a Bayesian residual network.

They are trained by `mc_fit()`, predict with `mc_predict()` and are saved like the plain networks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import Tensor, nn

from ..checks import check_count, check_seed
from ..data.labels import Label
from ..sites.operations import is_sampled
from ..variational.conversion import BAYESIAN_CLASSES, bayesian_layer
from ..variational.convolutions import BayesConv2d
from ..variational.linear import BayesLinear
from ..variational.options import BayesOptions
from ..variational.posteriors import Posterior
from ..variational.priors import Prior
from .network import Head, MCNetwork, activation_layer, check_filters, image_shape, weights_from
from .plain import mc_cnn, mc_mlp

Model = TypeVar("Model", bound=nn.Module)


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
    """A Bayesian convolutional network: the network of `mc_cnn()` with a distribution over every weight instead of
    dropout.

    The posterior means start at the initial weights of the plain network.

    Args:
        input_shape: Height, width and channels of an image.
        labels: The names of the classes. By default 0, 1, ..., `n_outputs` - 1.
        n_outputs: The number of classes without `labels`, or of values. 1 by default for values.
        task: "classification" (softmax over `labels`), "binary" (two labels, one logit for the second) or "regression".
        filters: Filters of each convolution, which is followed by the activation and a 2 x 2 maximum pool.
        kernel_size: Height and width of the convolutions, in pixels.
        hidden: Units of each dense layer.
        activation: The activation of the hidden layers: "relu", "tanh", "silu" and others.
        noise: For values: "homoscedastic" learns one noise variance for each output, "heteroscedastic" one for each
            input and output, "none" learns by squared error alone. The squared error is taken in standard units, as if
            the noise had variance 1/2 in them; a Bayesian network weighs its KL divergence against that.
        prior: The distribution of the weights before training, of `mc_prior_normal()` (standard normal by default) and
            its kin.
        posterior: The family of the learnt distribution, of `mc_posterior_normal()` (by default) and its kin.
        estimator: How the noise of the weights enters while learning: "reparameterization", "local_reparameterization"
            or "flipout". The last two are for the mean-field normal posterior, whose default is "flipout".
        kl_samples: Draws for a KL divergence that has no closed form.
        seed: Decides the first weights.

    Returns:
        The network, untrained.

    Raises:
        ValueError: For what cannot work, and for posteriors that memory has no room for.

    References:
        Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.

    Examples:
        >>> import mcdropout as mcd
        >>> net = mcd.mc_bayes_cnn((28, 28, 1), labels=range(10), prior=mcd.mc_prior_laplace(0, 0.1))
        >>> len(mcd.mc_posterior_table(net))
        4
    """
    options = BayesOptions.checked(posterior, prior, None, estimator, kl_samples)
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
    return _bayesian_network("bayes_cnn", plain, options)


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
    """A Bayesian dense network: the network of `mc_mlp()` with a distribution over every weight instead of dropout.

    Without hidden layers it is a Bayesian linear or logistic regression.

    Args:
        n_features: Columns of the table.
        labels: The names of the classes. By default 0, 1, ..., `n_outputs` - 1.
        n_outputs: The number of classes without `labels`, or of values. 1 by default for values.
        task: "classification" (softmax over `labels`), "binary" (two labels, one logit for the second) or "regression".
        hidden: Units of each hidden layer; () for none.
        activation: The activation of the hidden layers: "relu", "tanh", "silu" and others.
        noise: For values: "homoscedastic" learns one noise variance for each output, "heteroscedastic" one for each
            input and output, "none" learns by squared error alone. The squared error is taken in standard units, as if
            the noise had variance 1/2 in them; a Bayesian network weighs its KL divergence against that.
        prior: The distribution of the weights before training, of `mc_prior_normal()` (standard normal by default) and
            its kin.
        posterior: The family of the learnt distribution, of `mc_posterior_normal()` (by default) and its kin.
        estimator: How the noise of the weights enters while learning: "reparameterization", "local_reparameterization"
            or "flipout". The last two are for the mean-field normal posterior, whose default is "flipout".
        kl_samples: Draws for a KL divergence that has no closed form.
        seed: Decides the first weights.

    Returns:
        The network, untrained.

    Raises:
        ValueError: For what cannot work, and for posteriors that memory has no room for.

    References:
        Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_bayes_mlp(3, task="regression", hidden=()).task
        'regression'
    """
    options = BayesOptions.checked(posterior, prior, None, estimator, kl_samples)
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
    return _bayesian_network("bayes_mlp", plain, options)


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
    """A Bayesian residual network, for images or for the features of a frozen backbone.

    Each entry of `filters` is a block. A block has two padded convolutions with batch norm and a shortcut beside them:
    a 1 x 1 convolution with batch norm if the number of channels changes, else the identity. The block adds both and
    applies the activation and a 2 x 2 maximum pool; a side of length 1 is not pooled. After the blocks, a Bayesian
    dense layer takes the largest value of each channel.

    Args:
        input_shape: Height, width and channels of an input.
        labels: The names of the classes. By default 0, 1, ..., `n_outputs` - 1.
        n_outputs: The number of classes without `labels`, or of values. 1 by default for values.
        task: "classification" (softmax over `labels`), "binary" (two labels, one logit for the second) or "regression".
        filters: Filters of each block.
        kernel_size: Height and width of the convolutions, in pixels.
        activation: The activation of the hidden layers: "relu", "tanh", "silu" and others.
        noise: For values: "homoscedastic" learns one noise variance for each output, "heteroscedastic" one for each
            input and output, "none" learns by squared error alone. The squared error is taken in standard units, as if
            the noise had variance 1/2 in them; a Bayesian network weighs its KL divergence against that.
        prior: The distribution of the weights before training, of `mc_prior_normal()` (standard normal by default) and
            its kin.
        posterior: The family of the learnt distribution, of `mc_posterior_normal()` (by default) and its kin.
        estimator: How the noise of the weights enters while learning: "reparameterization", "local_reparameterization"
            or "flipout". The last two are for the mean-field normal posterior, whose default is "flipout".
        kl_samples: Draws for a KL divergence that has no closed form.
        seed: Decides the first weights.

    Returns:
        The network, untrained.

    Raises:
        ValueError: For what cannot work, and for posteriors that memory has no room for.

    References:
        He et al. (2016), Deep residual learning for image recognition, arXiv:1512.03385.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_bayes_resnet((8, 8, 3), labels=["ill", "well"], filters=(4, 8)).labels
        ('ill', 'well')
    """
    options = BayesOptions.checked(posterior, prior, None, estimator, kl_samples)
    shape = image_shape(input_shape)
    widths = check_filters(filters)
    kernel = check_count(kernel_size, "kernel_size")
    make = activation_layer(activation)
    head = Head.checked(labels, n_outputs, task, noise)
    seed = check_seed(seed)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    (height, width), channels = shape[:2], shape[2]
    with weights_from(seed):
        for i, n_filters in enumerate(widths):
            pool = (min(height, 2), min(width, 2))
            layers[f"block{i + 1}"] = ResidualBlock(channels, n_filters, kernel, make, pool, options)
            height, width, channels = max(height // 2, 1), max(width // 2, 1), n_filters
        layers["pool"] = nn.AdaptiveMaxPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["output"] = BayesLinear(channels, head.width, **options.arguments)
    spec = {
        "kind": "bayes_resnet",
        "input_shape": list(shape),
        **head.spec(),
        "filters": widths,
        "kernel_size": kernel,
        "activation": activation,
        "seed": seed,
        **options.to_spec(),
    }
    return MCNetwork(spec, layers)


class ResidualBlock(nn.Module):
    """Two variational convolutions with a shortcut, followed by a pool."""

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        kernel: int,
        make: type[nn.Module],
        pool: tuple[int, int],
        options: BayesOptions,
    ) -> None:
        super().__init__()
        arguments = options.arguments
        self.conv1 = BayesConv2d(n_inputs, n_outputs, kernel, padding="same", **arguments)
        self.norm1 = nn.BatchNorm2d(n_outputs)
        self.activation1 = make()
        self.conv2 = BayesConv2d(n_outputs, n_outputs, kernel, padding="same", **arguments)
        self.norm2 = nn.BatchNorm2d(n_outputs)
        self.shortcut = nn.Sequential()
        if n_inputs != n_outputs:
            self.shortcut = nn.Sequential(
                OrderedDict(conv=BayesConv2d(n_inputs, n_outputs, 1, **arguments), norm=nn.BatchNorm2d(n_outputs))
            )
        self.activation2 = make()
        self.pool = nn.MaxPool2d(pool)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the block, with half the height and width of `x` (input, channel, height, width)."""
        out = self.activation1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return self.pool(self.activation2(out + self.shortcut(x)))


class _Layers(nn.Sequential):
    """A sequence of layers. While sampling, a convolution also computes the relu and the pool that follow it."""

    def forward(self, input: Tensor) -> Tensor:
        """The output of the last layer."""
        x, layers = input, list(self)
        if not is_sampled(x):
            return super().forward(x)
        while layers:
            first, *following = layers[:3]
            if _can_be_fused(first, *following):
                x, layers = first(x, pool=following[1].kernel_size), layers[3:]
            else:
                x, layers = first(x), layers[1:]
        return x


def _can_be_fused(first: nn.Module, *following: nn.Module) -> bool:
    """Whether these are a convolution, a relu and a pool without hooks of the user."""
    if not isinstance(first, BayesConv2d) or tuple(map(type, following)) != (nn.ReLU, nn.MaxPool2d):
        return False
    # a replica has two hooks on each layer
    return all(len(layer._forward_hooks) + len(layer._forward_pre_hooks) <= 2 for layer in following)


def _bayesian_network(kind: str, plain: MCNetwork, options: BayesOptions) -> MCNetwork:
    """`plain` with Bayesian layers, without its dropout."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with weights_from(plain.spec["seed"]):
        for name, layer in plain.layers.named_children():
            if not isinstance(layer, nn.Dropout):
                layers[name] = bayesian_layer(layer, options) if type(layer) in BAYESIAN_CLASSES else layer
            if isinstance(layer, nn.ReLU):
                layer.inplace = True  # no other layer reads its input; saves a third of a prediction's time
    left_out = ("kind", "dropout", "input_dropout")
    spec = {"kind": kind, **{name: value for name, value in plain.spec.items() if name not in left_out}}
    return MCNetwork({**spec, **options.to_spec()}, _Layers(layers))
