"""Bayesian layers: their draws, their training, their KL divergence and the conversion of plain layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special
from scipy import stats as scipy_stats
from torch import Tensor, nn
from torch.distributions import Gumbel, Independent, Laplace, MultivariateNormal, Normal, Poisson, kl_divergence

import mcdropout as mcd
from mcdropout.engine.fold import FoldedEngine
from mcdropout.engine.randomness import SiteSeed, normals
from mcdropout.engine.torch_passes import TorchPasses
from mcdropout.variational.convolutions import BayesConv1d, BayesConv2d
from mcdropout.variational.extra_distributions import Horseshoe
from mcdropout.variational.layer import BayesLayer, kl_divergence_of, variational_layers
from mcdropout.variational.linear import BayesLinear
from mcdropout.variational.options import ESTIMATORS, BayesOptions

N = mcd.mc_posterior_normal
FULL = mcd.mc_posterior_multivariate_normal

stats: Any = scipy_stats  # its stubs give frozen distributions no density
untyped: Any = mcd  # for arguments of a wrong type


def laplace(scale: float = 0.3) -> mcd.Posterior:
    return mcd.mc_posterior_custom(Laplace, scale=scale)


def without_spread(layer: BayesLayer) -> BayesLayer:
    """The layer with standard deviations that are 0 in float32: softplus(-200) underflows."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.endswith("rho"):
                parameter.fill_(-200)
    return layer


@torch.no_grad()
def nats(*layers: BayesLayer) -> float:
    return float(kl_divergence_of(layers))


def weight_and_bias(layer: BayesLayer) -> tuple[Tensor, Tensor]:
    """The posterior means."""
    weight, bias = layer.means()
    assert bias is not None
    return weight, bias


def samples_of(prediction: mcd.MCPrediction) -> np.ndarray:
    assert prediction.samples is not None
    return np.asarray(prediction.samples)


# ---- comparison with the plain layers --------------------------------------------------------------------------

CONVOLUTIONS = st.fixed_dictionaries(
    {
        "kernel_size": st.integers(1, 3),
        "stride": st.integers(1, 2),
        "padding": st.integers(0, 2) | st.just("valid"),
        "dilation": st.integers(1, 2),
        "groups": st.sampled_from([1, 2]),
        "bias": st.booleans(),
        "padding_mode": st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    }
)


@settings(max_examples=40, deadline=None)
@given(options=CONVOLUTIONS, n_spatial=st.sampled_from([1, 2]), estimator=st.sampled_from(ESTIMATORS))
def test_a_convolution_without_spread_equals_the_plain_convolution_for_all_options(options, n_spatial, estimator):
    plain_class, bayesian_class = ((nn.Conv1d, BayesConv1d), (nn.Conv2d, BayesConv2d))[n_spatial - 1]
    plain = plain_class(4, 6, **options)
    layer = without_spread(bayesian_class.of(plain, estimator=estimator))
    x = torch.randn(3, 4, *(9, 7)[:n_spatial])
    expected = plain(x)
    assert torch.equal(layer.eval()(x), expected)
    in_training = layer.train()(x)
    if estimator == "local_reparameterization":  # the variance is 1e-30 instead of 0, so that its root has a derivative
        torch.testing.assert_close(in_training, expected, rtol=0, atol=1e-13)
    else:
        assert torch.equal(in_training, expected)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    batch=st.sampled_from([(), (3,), (2, 4)]),
    bias=st.booleans(),
    estimator=st.sampled_from(ESTIMATORS),
)
def test_a_linear_layer_without_spread_equals_the_plain_layer(sizes, batch, bias, estimator):
    plain = nn.Linear(*sizes, bias=bias)
    layer = without_spread(BayesLinear.of(plain, estimator=estimator))
    x = torch.randn(*batch, sizes[0])
    assert torch.equal(layer.eval()(x), plain(x))
    torch.testing.assert_close(layer.train()(x), plain(x), rtol=0, atol=1e-13)


def test_a_convolution_takes_a_single_input_without_a_batch_axis():
    layer = BayesConv2d(2, 3, 3)
    for estimator in ESTIMATORS:
        layer.estimator = estimator
        assert layer.train()(torch.randn(2, 5, 5)).shape == (3, 3, 3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_outputs_of_every_estimator_have_the_mean_and_variance_that_the_weights_imply(kind, estimator):
    torch.manual_seed(1)
    layer = BayesLinear(3, 2, posterior=N(0.4)) if kind == "linear" else BayesConv1d(3, 2, 2, posterior=N(0.4))
    layer.estimator = estimator
    x = torch.randn(1, 3) if kind == "linear" else torch.randn(1, 3, 4)
    mean = layer.eval()(x)
    variance = layer.plain(x.square(), torch.full_like(layer.weight, 0.16), torch.full((2,), 0.16))
    with torch.no_grad():
        draws = torch.stack([layer.train()(x) for _ in range(4000)])
    errors = (draws.mean(0) - mean) / (variance / 4000).sqrt()
    assert errors.abs().max() < 4.5  # at most 8 numbers: 6e-5
    assert ((draws.var(0) / variance - 1) / math.sqrt(2 / 4000)).abs().max() < 4.5


def test_inputs_share_noise_only_with_reparameterization():
    x = torch.ones(400, 3)
    n_unique = {}
    for estimator in ESTIMATORS:
        layer = BayesLinear(3, 1, posterior=N(0.5), estimator=estimator)
        n_unique[estimator] = len(layer.train()(x).unique())
    assert n_unique["reparameterization"] == 1
    assert n_unique["local_reparameterization"] > 300
    assert n_unique["flipout"] > 300  # the bias has separate noise for each input


# ---- gradients ------------------------------------------------------------------------------------------------


N_GRADIENTS = 3000


def expected_loss(parameters: Sequence[Tensor], x: Tensor, y: Tensor, noise: float = 0.5) -> Tensor:
    """Expected Gaussian negative log-likelihood of y, summed, of a linear layer under a mean-field posterior."""
    mean, rho, bias, bias_rho = parameters
    prediction = x @ mean.T + bias
    variance = x.square() @ F.softplus(rho).square().T + F.softplus(bias_rho).square()
    return ((y - prediction).square() + variance).sum() / (2 * noise)


def finite_differences(
    loss: Callable[[list[Tensor]], Tensor], parameters: Sequence[Tensor], step: float = 1e-5
) -> Tensor:
    """The derivatives of a loss by all entries of the parameters, in float64."""
    start = [parameter.detach().double() for parameter in parameters]
    slopes = []
    for i, parameter in enumerate(start):
        for j in range(parameter.numel()):
            losses = []
            for sign in (1, -1):
                moved = [other.clone() for other in start]
                moved[i].view(-1)[j] += sign * step
                losses.append(float(loss(moved)))
            slopes.append((losses[0] - losses[1]) / (2 * step))
    return torch.tensor(slopes, dtype=torch.float64)


def gradient_scores(loss: Callable[[], Tensor], parameters: Sequence[Tensor], expected: Tensor) -> Tensor:
    """Errors of the mean gradient of a random loss, in standard errors."""
    gradients = [
        torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss(), parameters)])
        for _ in range(N_GRADIENTS)
    ]
    drawn = torch.stack(gradients).double()
    return (drawn.mean(0) - expected) / (drawn.std(0) / math.sqrt(N_GRADIENTS))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_gradients_are_unbiased(kind, estimator):
    """The expected likelihood of a quadratic loss is exact, so that its finite differences are the true gradient."""
    torch.manual_seed(2)
    if kind == "linear":
        layer, x = BayesLinear(3, 2, posterior=N(0.4), estimator=estimator), torch.randn(5, 3)
        rows, y = x, torch.randn(5, 2)
        target = y
    else:
        layer, x = BayesConv1d(2, 2, 2, posterior=N(0.4), estimator=estimator), torch.randn(3, 2, 4)
        rows = x.unfold(2, 2, 1).permute(0, 2, 1, 3).reshape(9, 4)  # (input and position, channel and kernel position)
        y = torch.randn(9, 2)
        target = y.view(3, 3, 2).transpose(1, 2)
    assert layer.bias_mean is not None
    assert layer.bias_rho is not None
    parameters = [layer.weight_mean, layer.weight_rho, layer.bias_mean, layer.bias_rho]
    matrices = [parameter.flatten(1) if parameter.ndim > 1 else parameter for parameter in parameters]
    expected = finite_differences(lambda moved: expected_loss(moved, rows.double(), y.double()), matrices)
    layer.train()
    # the sum of squares is divided by twice the noise variance of 0.5
    scores = gradient_scores(lambda: (layer(x) - target).square().sum(), parameters, expected)
    assert scores.abs().max() < 4.5  # up to 24 numbers: 2e-4


@pytest.mark.parametrize("posterior", [FULL(0.4), laplace(0.3)], ids=["full", "custom"])
def test_gradients_of_other_posteriors_are_unbiased(posterior):
    torch.manual_seed(3)
    layer, x, y = BayesLinear(2, 1, posterior=posterior), torch.randn(6, 2), torch.randn(6, 1)
    rows = torch.cat([x, torch.ones(6, 1)], dim=1).double()

    @torch.no_grad()
    def loss(values: list[Tensor]) -> Tensor:
        moved = copy.deepcopy(layer).double()
        for parameter, value in zip(moved.parameters(), values, strict=True):
            parameter.copy_(value)
        weight, bias = weight_and_bias(moved)
        spread = (rows @ moved.covariance() * rows).sum()
        return (y - (x.double() @ weight.T + bias)).square().sum() + spread

    parameters = list(layer.parameters())
    expected = finite_differences(loss, parameters)
    layer.train()
    scores = gradient_scores(lambda: (layer(x) - y).square().sum(), parameters, expected)
    assert scores.abs().max() < 4.5


# ---- the KL divergence ----------------------------------------------------------------------------------------

PRIORS: dict[str, tuple[mcd.Prior, Callable[[Any], Any]]] = {
    "normal": (mcd.mc_prior_normal(0.2, 0.7), stats.norm(0.2, 0.7).logpdf),
    "laplace": (mcd.mc_prior_laplace(0.2, 0.7), stats.laplace(0.2, 0.7).logpdf),
    "student_t": (mcd.mc_prior_student_t(0.2, 0.7, 4.0), stats.t(4, 0.2, 0.7).logpdf),
    "cauchy": (mcd.mc_prior_cauchy(0.2, 0.7), stats.cauchy(0.2, 0.7).logpdf),
    "mixture": (
        mcd.mc_prior_mixture((1.0, 0.1), (3, 1), 0.2),
        lambda w: np.log(0.75 * stats.norm(0.2, 1).pdf(w) + 0.25 * stats.norm(0.2, 0.1).pdf(w)),
    ),
    "horseshoe": (
        mcd.mc_prior_horseshoe(0.2, 0.7),
        lambda w: (
            ((w - 0.2) / 0.7) ** 2 / 2
            + np.log(special.exp1(((w - 0.2) / 0.7) ** 2 / 2))
            - 0.5 * np.log(2 * np.pi**3)
            - np.log(0.7)
        ),
    ),
    "custom": (mcd.mc_prior_custom(Gumbel(0.2, 0.7)), stats.gumbel_r(0.2, 0.7).logpdf),
}


def integrated_kl(loc, scale, log_prior):
    """KL divergence of a normal posterior by quadrature, split at the prior's location, which may be a pole."""
    posterior = stats.norm(loc, scale)

    def integrand(w):
        return posterior.pdf(w) * (posterior.logpdf(w) - log_prior(w))

    sides = [(loc - 9 * scale, 0.2), (0.2, loc + 9 * scale)]
    return sum(integrate.quad(integrand, *side, limit=400)[0] for side in sides)


@pytest.mark.parametrize("name", PRIORS)
def test_the_kl_divergence_equals_quadrature(name):
    torch.manual_seed(4)
    prior, log_prior = PRIORS[name]
    layer = BayesLinear(1, 1, bias=False, posterior=N(0.5, mean=0.3), prior=prior, kl_samples=100_000)
    expected = integrated_kl(0.3, 0.5, log_prior)
    drawn = 0.3 + 0.5 * np.random.default_rng(0).normal(size=100_000)
    error = (stats.norm(0.3, 0.5).logpdf(drawn) - log_prior(drawn)).std() / math.sqrt(100_000)
    closed = name in ("normal", "laplace")  # torch.distributions has a closed form
    assert abs(nats(layer) - expected) < (1e-6 if closed else 4.5 * error)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("posterior", [N(0.3), FULL(0.3), laplace()], ids=["normal", "full", "custom"])
def test_the_kl_divergence_equals_the_mean_of_100000_samples(name, posterior):
    torch.manual_seed(5)
    prior, log_prior = PRIORS[name]
    layer = BayesLinear(2, 1, posterior=posterior, prior=prior, kl_samples=50_000)
    with torch.no_grad():
        if posterior.family == "multivariate_normal":
            layer.tril.add_(0.1 * torch.randn_like(layer.tril))
            distribution = layer.full_posterior()
        else:
            family = posterior.make or Normal
            weight, bias = weight_and_bias(layer)
            scale = layer.deviations() if posterior.make is None else torch.full((3,), 0.3)
            distribution = Independent(family(torch.cat([weight.flatten(), bias]), scale), 1)
        drawn = distribution.sample(torch.Size((100_000,)))
        terms = distribution.log_prob(drawn).double().numpy() - log_prior(drawn.double().numpy()).sum(axis=1)
        error = terms.std() * math.sqrt(1 / 100_000 + 1 / 50_000)
        assert abs(nats(layer) - terms.mean()) < 4.5 * error + 1e-5


def test_the_kl_divergence_of_a_full_covariance_equals_that_of_torch():
    torch.manual_seed(6)
    loc, scale = torch.randn(2, 3), torch.rand(2, 3) + 0.5
    layer = BayesLinear(
        3, 2, posterior=FULL(0.3), prior=mcd.mc_prior_normal(loc, scale), bias_prior=mcd.mc_prior_normal(0.5, 2)
    )
    with torch.no_grad():
        layer.tril.add_(0.3 * torch.randn_like(layer.tril))
    centre = torch.cat([loc.flatten(), torch.full((2,), 0.5)])
    prior = MultivariateNormal(centre, scale_tril=torch.cat([scale.flatten(), torch.full((2,), 2.0)]).diag())
    torch.testing.assert_close(layer.kl(), kl_divergence(layer.full_posterior(), prior), rtol=1e-5, atol=1e-5)


def test_the_kl_divergence_is_a_sum_over_weights_and_layers():
    # moving the prior by 2 standard deviations adds 2^2 / 2 nats for each weight
    near = BayesLinear(20, 30, posterior=N(0.1, mean=0.0), prior=mcd.mc_prior_normal(0, 1))
    far = BayesLinear(20, 30, posterior=N(0.1, mean=0.0), prior=mcd.mc_prior_normal(2, 1))
    assert nats(far) - nats(near) == pytest.approx(2 * 630, rel=1e-5)
    assert nats(near, far) == pytest.approx(nats(near) + nats(far), rel=1e-6)


@given(z=st.floats(1e-6, 30), scale=st.floats(0.1, 10))
@settings(max_examples=60, deadline=None)
def test_the_density_of_the_horseshoe_and_its_derivative(z, scale):
    value = torch.tensor(z * scale, dtype=torch.float64, requires_grad=True)
    log_density = Horseshoe(torch.zeros(()).double(), torch.tensor(scale, dtype=torch.float64)).log_prob(value)
    u = z**2 / 2
    scaled = special.exp1(u) * np.exp(u) if u < 500 else None
    if scaled is not None and scaled > 0:
        expected = np.log(scaled) - 0.5 * np.log(2 * np.pi**3) - np.log(scale)
        assert log_density.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        log_density.backward()
        assert value.grad is not None
        slope = (1 - 1 / (u * scaled)) * z / scale
        # 1 - 1 / (u g) loses digits where the two terms nearly cancel, and so does SciPy's product
        assert float(value.grad) == pytest.approx(slope, rel=1e-6, abs=1e-6 / scale)


@pytest.mark.parametrize("z", [0.05, 0.5, 2.0, 6.0])
def test_the_horseshoe_is_a_mixture_of_normals_over_a_half_cauchy_scale(z):
    def weighted_density(s):  # a normal of deviation s, weighted by the half-Cauchy density of s
        return math.exp(-0.5 * (z / s) ** 2) / (s * math.sqrt(2 * math.pi)) * 2 / (math.pi * (1 + s**2)) if s else 0.0

    mixed, _ = integrate.quad(weighted_density, 0, np.inf, limit=400)
    assert Horseshoe(0.0, 1.0).log_prob(torch.tensor(z)).item() == pytest.approx(math.log(mixed), abs=1e-5)


def test_draws_of_the_horseshoe_follow_its_density():
    torch.manual_seed(7)
    horseshoe = Horseshoe(0.5, 2.0)
    drawn = horseshoe.rsample((20_000,)).numpy()
    for low, high in ((-1.5, 0.5), (0.5, 2.5), (2.5, 12.5)):  # the peak is at 0.5
        share, _ = integrate.quad(lambda z: horseshoe.log_prob(torch.tensor(z)).exp().item(), low, high)
        drawn_share = ((drawn > low) & (drawn < high)).mean()
        assert abs(drawn_share - share) < 4.5 * math.sqrt(share * (1 - share) / 20_000)


# ---- the posterior of a linear regression ---------------------------------------------------------------------


class Regression(nn.Module):
    """A module of the user with a squared error as its loss: a known noise variance of one half."""

    task, labels, outputs = "regression", None, "values"

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def regression_data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])  # correlated, and so is the posterior
    y = x @ np.array([[0.7], [-0.4]]) + 0.3 + math.sqrt(0.5) * generator.normal(size=(40, 1))
    return x.astype(np.float32), y.astype(np.float32)


def test_biases_may_have_a_separate_prior():
    for family, torch_family in ((mcd.mc_prior_normal, Normal), (mcd.mc_prior_laplace, Laplace)):
        layer = BayesLinear(3, 2, posterior=N(0.2), prior=mcd.mc_prior_normal(0, 3), bias_prior=family(1, 0.5))
        weight, bias = (means.detach() for means in weight_and_bias(layer))
        expected = kl_divergence(Normal(weight, 0.2), Normal(0.0, 3.0)).sum()
        expected = expected + kl_divergence(Normal(bias, 0.2), torch_family(1.0, 0.5)).sum()
        assert nats(layer) == pytest.approx(float(expected), rel=1e-5)  # float32
        deviation = (6 * 3 + 2 * float(torch_family(1.0, 0.5).stddev)) / 8
        assert layer.prior_deviation() == pytest.approx(deviation, rel=1e-6)


def test_deviations_are_the_square_roots_of_the_variances():
    layer = BayesLinear(3, 2, posterior=FULL(0.2))
    with torch.no_grad():
        layer.tril.add_(torch.randn_like(layer.tril))
    torch.testing.assert_close(layer.deviations(), layer.full_posterior().variance.sqrt())


def test_the_full_posterior_of_a_linear_regression_is_recovered():
    x, y = regression_data()
    rows = np.column_stack([x, np.ones(len(x))]).astype(float)
    precision = rows.T @ rows / 0.5 + np.eye(3)  # prior standard normal
    covariance = np.linalg.inv(precision)
    mean = covariance @ rows.T @ y[:, 0] / 0.5

    torch.manual_seed(8)
    layer = BayesLinear(2, 1, posterior=FULL(0.3))
    net = Regression(layer)
    means, covariances = [], []

    def record(row: dict[str, Any]) -> None:
        means.append(layer.mean.detach().numpy().copy())
        covariances.append(layer.covariance().detach().numpy())

    for rate, epochs in ((0.03, 400), (0.01, 400), (0.002, 1200)):
        mcd.mc_fit(
            net, x, y, epochs=epochs, batch_size=40, learning_rate=rate, seed=1, progress=False, callbacks=record
        )
    # means of the last 1000 steps, in posterior standard deviations; noise of the gradient causes a few hundredths
    deviations = np.sqrt(np.diag(covariance))
    assert np.abs((np.mean(means[-1000:], axis=0) - mean) / deviations).max() < 0.05
    relative = np.mean(covariances[-1000:], axis=0) / np.outer(deviations, deviations)
    assert np.abs(relative - covariance / np.outer(deviations, deviations)).max() < 0.08

    # Draws of a layer with the exact posterior have its mean and covariance, within Monte Carlo error.
    root = np.linalg.cholesky(covariance)
    np.fill_diagonal(root, np.log(np.expm1(root.diagonal())))  # the inverse of softplus
    with torch.no_grad():
        layer.mean.copy_(torch.from_numpy(mean))
        layer.tril.copy_(torch.from_numpy(root[np.tril_indices(3)]))
    prediction = mcd.mc_predict(net, x, 4000, outputs="values", seed=1, progress=False)
    variance = (rows @ covariance * rows).sum(axis=1)
    assert np.abs((prediction.mean[:, 0] - rows @ mean) / np.sqrt(variance)).max() < 4.5 / math.sqrt(4000)
    assert np.abs(prediction.variance[:, 0] / variance - 1).max() < 4.5 * math.sqrt(2 / 4000)


# ---- sampling -------------------------------------------------------------------------------------------------


def network(posterior: mcd.Posterior | None = None) -> Any:
    """Convolutions and a dense layer, with dropout and batch norm."""
    torch.manual_seed(9)
    return nn.Sequential(
        BayesConv2d(1, 4, 3, posterior=N(0.3)),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Dropout(0.2),
        nn.Conv2d(4, 3, 3),
        nn.Flatten(),
        BayesLinear(3 * 16, 3, posterior=posterior or N(0.2)),
    )


def images(n: int = 23) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 1, 8, 8)).astype(np.float32)


def sampled(net: nn.Module, x: object = None, n_samples: int = 12, **options: Any) -> mcd.MCPrediction:
    settings: dict[str, Any] = {"outputs": "logits", "seed": 3, "progress": False} | options
    return mcd.mc_predict(net, images() if x is None else x, n_samples, **settings)


ROUNDING: dict[str, Any] = {"rtol": 0, "atol": 2e-6}  # of sums of 50 float32 products, through a softmax


@pytest.mark.parametrize("posterior", [None, FULL(0.1), laplace()], ids=["normal", "full", "custom"])
@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_a_draw_does_not_depend_on_batches_order_or_subset(posterior, masks):
    net = network(posterior)
    together = sampled(net, masks=masks, ids=range(23))
    batches = sampled(net, batch_size=5, masks=masks, ids=range(23))
    order = np.random.default_rng(0).permutation(23)[:9]
    subset = sampled(net, images()[order], masks=masks, ids=order)
    np.testing.assert_allclose(samples_of(batches), samples_of(together), **ROUNDING)
    np.testing.assert_allclose(samples_of(subset), samples_of(together)[:, order], **ROUNDING)
    assert together.engine == "folded"


def test_a_draw_does_not_depend_on_the_number_of_draws():
    few, many = sampled(network(), n_samples=4), sampled(network(), n_samples=30)
    np.testing.assert_allclose(samples_of(many)[:4], samples_of(few), **ROUNDING)


@pytest.mark.parametrize("posterior", [None, FULL(0.1)], ids=["normal", "full"])
def test_each_draw_is_a_network_with_keyed_weights(posterior):
    """Compared with a loop that builds each network from the keyed normal numbers, without dropout."""
    net = network(posterior)
    net[3].p = 0.0
    with torch.no_grad():  # make all weights different
        for layer in variational_layers(net).values():
            for parameter in layer.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    prediction = sampled(net)
    for draw in (0, 7):
        weights = {}
        for path, layer in variational_layers(net).items():
            site = "0" if path == "0" else "1"
            noise = normals(SiteSeed(3, "shared", site), layer.n_weights, torch.tensor([draw]), torch.tensor([0]))[
                0, 0
            ].float()
            mean = torch.cat([means.flatten() for means in weight_and_bias(layer)])
            weights[path] = mean + (layer.scale_tril() @ noise if layer.full else layer.deviations() * noise)
        with torch.no_grad():
            x = torch.from_numpy(images())
            x = net[0].plain(x, *net[0].split(weights["0"]))
            x = net.eval()[5](net[4](net[2](net[1](x))))
            x = net[6].plain(x, *net[6].split(weights["6"])).softmax(-1)
        np.testing.assert_allclose(samples_of(prediction)[draw], x.numpy(), **ROUNDING)


@settings(max_examples=25, deadline=None)
@given(options=CONVOLUTIONS, n_spatial=st.sampled_from([1, 2]))
def test_convolutions_of_many_draws_equal_convolutions_draw_by_draw(options, n_spatial):
    kind = (BayesConv1d, BayesConv2d)[n_spatial - 1]
    first, second = kind(2, 6, **options), kind(6, 4, 2, groups=2)  # all draws share the inputs of the first
    x = torch.randn(3, 2, *(9, 8)[:n_spatial])
    model = nn.Sequential(first, second).eval()
    all_engines = TorchPasses.engines
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcdropout.engine.chunks.FEW_DRAWS", 1)
        together = sampled(model, x, 5, outputs="values", select=lambda out: out.flatten(1))
        patch.setattr(TorchPasses, "engines", lambda self: all_engines(self)[-1:])
        looped = sampled(model, x, 5, outputs="values", select=lambda out: out.flatten(1))
    assert together.engine == "folded", together.engine_reason
    # float32 rounding of sums of up to 24 products of up to 18 products each
    np.testing.assert_allclose(samples_of(together), samples_of(looped), rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    options=CONVOLUTIONS,
    pool=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    channels=st.sampled_from([2, 40]),  # few products and many
    channels_last=st.booleans(),
)
def test_a_convolution_with_a_pool_equals_a_convolution_a_relu_and_a_pool(options, pool, channels, channels_last):
    layer = BayesConv2d(channels, 6, **options).eval()
    x = torch.randn(3, channels, 12, 11)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    with torch.no_grad():
        plain = layer(x)
        # float32 rounding of sums of up to 360 products; outside a prediction the weights are the means
        torch.testing.assert_close(layer.sampled(x, layer.weight_mean), plain, rtol=1e-4, atol=1e-5)
        expected = F.max_pool2d(plain.relu(), pool)
        torch.testing.assert_close(layer(x, pool=pool), expected, rtol=1e-4, atol=1e-5)


def test_convolutions_skip_pixels_outside_all_windows_of_the_pool():
    layer = BayesConv2d(2, 3, 3, stride=2)  # 12 x 11 pixels become 5 x 5, and two windows a side cover 4 x 4
    assert layer._without_unpooled_border(torch.zeros(1, 2, 12, 11), (2, 2)).shape == (1, 2, 10, 9)
    x = torch.zeros(1, 2, 10, 9)
    assert layer._without_unpooled_border(x, (2, 2)).shape == x.shape


def wide(n_samples: int, **options: Any) -> mcd.MCPrediction:
    """A prediction with large draws, so that few fit into a chunk: 40 filters on 30 x 28 pixels."""
    net = mcd.mc_bayes_cnn((30, 28, 1), list("abc"), filters=(40, 6), hidden=(5,), seed=2)
    x = np.random.default_rng(1).normal(size=(9, 30, 28, 1)).astype(np.float32)
    return mcd.mc_predict(net, x, n_samples, seed=3, progress=False, **options)


def test_the_loop_of_a_large_network_gives_the_numbers_of_the_folded_pass(monkeypatch):
    monkeypatch.setattr("mcdropout.engine.chunks.CHUNK_BYTES", 1 << 18)
    looped, batches = wide(11), wide(11, batch_size=4, masks="per_input")
    assert looped.engine == batches.engine == "loop"
    monkeypatch.setattr("mcdropout.engine.chunks.FEW_DRAWS", 1)
    folded = wide(11)
    assert folded.engine == "folded"
    np.testing.assert_allclose(samples_of(looped), samples_of(folded), **ROUNDING)
    np.testing.assert_allclose(samples_of(batches), samples_of(folded), **ROUNDING)
    assert looped.variance.max() > 0


def test_draws_that_do_not_fit_into_memory_are_made_in_rounds(monkeypatch):
    monkeypatch.setattr("mcdropout.engine.chunks.CHUNK_BYTES", 1 << 18)
    expected = wide(11)
    monkeypatch.setattr("mcdropout.engine.chunks.MASK_BYTES", 1 << 16)
    monkeypatch.setattr("mcdropout.engine.plan.MASK_BYTES", 1 << 16)  # the weights of one draw
    np.testing.assert_allclose(samples_of(wide(11, batch_size=4)), samples_of(expected), **ROUNDING)


def test_a_hook_on_the_relu_after_a_convolution_is_called():
    net = mcd.mc_bayes_cnn((12, 12, 1), list("abc"), filters=(4,), hidden=(5,), seed=2)
    x = np.random.default_rng(1).normal(size=(9, 12, 12, 1)).astype(np.float32)
    expected = mcd.mc_predict(net, x, 11, seed=3, progress=False)
    shapes = []
    net.layers.get_submodule("conv1_activation").register_forward_hook(
        lambda module, args, out: shapes.append(out.shape[1:])
    )
    hooked = mcd.mc_predict(net, x, 11, seed=3, progress=False)
    assert (4, 10, 10) in shapes
    np.testing.assert_allclose(samples_of(hooked), samples_of(expected), **ROUNDING)


def test_the_loop_gives_the_numbers_of_the_folded_pass(monkeypatch):
    folded = sampled(network())
    monkeypatch.setattr(FoldedEngine, "run", lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
    looped = sampled(network())
    assert looped.engine == "loop"
    np.testing.assert_allclose(samples_of(looped), samples_of(folded), **ROUNDING)


@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_weights_that_do_not_fit_into_the_cache_are_drawn_in_rounds(monkeypatch, masks):
    expected = sampled(network(), masks=masks)
    monkeypatch.setattr("mcdropout.engine.plan.MASK_BYTES", 3000)
    monkeypatch.setattr("mcdropout.engine.chunks.chunk_sizes", lambda *_: (5, 3))
    progress = []
    in_rounds = sampled(network(), masks=masks, progress=lambda done, total, text: progress.append(done))
    np.testing.assert_allclose(samples_of(in_rounds), samples_of(expected), **ROUNDING)
    assert progress[-1] == 23


def test_many_draws_have_the_mean_and_variance_of_the_weights():
    torch.manual_seed(0)
    layer = BayesLinear(3, 2, posterior=FULL(0.3))
    with torch.no_grad():
        layer.tril.add_(0.2 * torch.randn_like(layer.tril))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    prediction = mcd.mc_predict(layer, x, 20_000, outputs="values", seed=1, progress=False)
    covariance = layer.covariance().detach().numpy()
    indices = [[0, 1, 2, 6], [3, 4, 5, 7]]  # weights and bias of each output
    rows = np.column_stack([x, np.ones(4)])
    blocks = [covariance[np.ix_(index, index)] for index in indices]
    variance = np.stack([(rows @ block * rows).sum(axis=1) for block in blocks], axis=1)
    with torch.no_grad():
        mean = layer.eval()(torch.from_numpy(x)).numpy()
    assert np.abs((prediction.mean - mean) / np.sqrt(variance / 20_000)).max() < 4.5
    assert np.abs((prediction.variance / variance - 1) / math.sqrt(2 / 20_000)).max() < 4.5


def test_a_custom_posterior_is_drawn_from_a_separate_generator():
    layer = BayesLinear(2, 1, posterior=laplace(0.5))
    x = np.eye(2, dtype=np.float32)
    state = torch.get_rng_state()
    prediction = mcd.mc_predict(layer, x, 4000, outputs="values", seed=1, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        deviations = samples_of(prediction)[:, :, 0] - layer.eval()(torch.from_numpy(x)).numpy()[:, 0]
    # weight + bias, both Laplace: variance 2 * 2 * 0.5^2 = 1, fourth moment 3 + 3 / 2 (excess 3 each, halved)
    assert abs(deviations.var(axis=0) - 1).max() < 4.5 * math.sqrt(3.5 / 4000)
    assert (deviations**4).mean() == pytest.approx(4.5, abs=0.8)  # its own error is about 0.2


def test_a_sampler_uses_the_present_weights():
    layer = BayesLinear(2, 1, posterior=N(0.3))
    x = np.ones((3, 2), np.float32)
    sampler = mcd.mc_sampler(layer, x, 20, outputs="values", seed=1)
    with torch.no_grad():
        layer.weight_mean.add_(1)
    expected = mcd.mc_predict(layer, x, 20, outputs="values", seed=1, progress=False)
    np.testing.assert_array_equal(sampler(x).mean, expected.mean)


def test_the_point_prediction_uses_the_means_and_leaves_the_model_unchanged():
    net = network().train()
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    sampled(net)
    point = mcd.mc_predict_point(net, images(), outputs="logits")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())
    with torch.no_grad():
        np.testing.assert_allclose(point, net.eval()(torch.from_numpy(images())).softmax(-1).numpy(), **ROUNDING)


def test_sites_list_each_layer_with_its_number_of_weights():
    sites = mcd.mc_sites(network(), images())
    assert sites["site"].tolist() == ["0[0]", "3[0]", "6[0]"]
    assert sites["operation"].tolist() == ["weight_draw", "dropout", "weight_draw"]
    assert sites["shape"].tolist() == ["40", "4 x 6 x 6", "147"]
    assert sites["rate"].isna().tolist() == [True, False, True]


def test_a_layer_without_spread_is_an_error():
    with pytest.raises(mcd.IdenticalDraws):
        mcd.mc_predict(without_spread(BayesLinear(2, 1)), np.ones((3, 2)), 5, outputs="values", progress=False)


def test_double_precision_is_kept():
    layer = BayesLinear(3, 2, dtype=torch.float64, posterior=N(0.2))
    prediction = mcd.mc_predict(layer, np.ones((2, 3)), 5, outputs="values", seed=1, progress=False)
    assert layer.kl().dtype == torch.float64
    assert prediction.variance.min() > 0


# ---- conversion -----------------------------------------------------------------------------------------------


def test_conversion_keeps_options_and_weights_and_leaves_the_model_unchanged():
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="circular", groups=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, dilation=2, padding="same"),
        nn.Flatten(),
        nn.Linear(6 * 25, 3),
    ).eval()
    x = torch.randn(2, 4, 9, 9)
    expected = plain(x)
    bayesian = mcd.mc_to_bayesian(plain)
    assert [type(layer).__name__ for layer in bayesian] == [
        "BayesConv2d",
        "ReLU",
        "BayesConv2d",
        "Flatten",
        "BayesLinear",
    ]
    assert torch.equal(bayesian(x), expected)
    assert torch.equal(plain(x), expected)
    assert not bayesian.training
    mcd.mc_predict(bayesian, x, 5, outputs="values", progress=False)


def test_conversion_of_named_layers_with_priors_centred_on_the_weights():
    plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    bayesian: Any = mcd.mc_to_bayesian(
        plain, layers="2", prior_from_weights=True, posterior=N(0.7), prior=mcd.mc_prior_normal(5, 0.7)
    )
    assert type(bayesian[0]) is nn.Linear
    # posterior and prior are equal, so their divergence is 0
    assert nats(bayesian[2]) == pytest.approx(0, abs=1e-5)
    far_prior: Any = mcd.mc_to_bayesian(plain, layers=["2"], prior=mcd.mc_prior_normal(5, 0.7), posterior=N(0.7))
    assert nats(far_prior[2]) > 100


def test_conversion_of_a_transformer_leaves_it_working():
    plain = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True).eval()
    bayesian = mcd.mc_to_bayesian(plain)
    x = torch.randn(3, 5, 8)
    assert type(bayesian.linear1) is BayesLinear
    with torch.no_grad():
        torch.testing.assert_close(bayesian(x), plain(x), rtol=0, atol=1e-6)
    prediction = mcd.mc_predict(bayesian, x, 5, outputs="values", seed=1, progress=False)
    assert prediction.variance.min() > 0


def test_conversion_of_a_single_layer():
    plain = nn.Linear(2, 3)
    layer = mcd.mc_to_bayesian(plain)
    assert type(layer) is BayesLinear
    assert torch.equal(layer.weight, plain.weight)


def test_options_are_the_arguments_of_a_layer_and_the_record_in_a_file():
    options = BayesOptions.checked(N(0.2), mcd.mc_prior_laplace(0, 0.1), None, None, 3)
    assert options.bias_prior is options.prior
    layer = BayesLinear(3, 2, **options.arguments)
    layer_options = BayesOptions(layer.posterior, layer.prior, layer.bias_prior, layer.estimator, layer.kl_samples)
    assert layer_options == options
    assert options.to_spec() == {
        "estimator": "flipout",
        "kl_samples": 3,
        "prior": {"family": "laplace", "loc": 0.0, "scale": 0.1},
        "posterior": {"family": "normal", "scale": 0.2, "mean": None},
    }


# ---- refusals -------------------------------------------------------------------------------------------------


def test_parameters_of_a_full_covariance_are_counted_and_refused_if_they_do_not_fit(monkeypatch):
    assert mcd.mc_posterior_parameters(FULL(), 4) == 14  # 3 inputs, one output: 4 means, 10 of the lower triangle
    assert mcd.mc_posterior_parameters(FULL(), 6) == 27  # 2 inputs, 2 outputs
    assert mcd.mc_posterior_parameters(N(), 6) == 12
    assert sum(parameter.numel() for parameter in BayesLinear(3, 1, posterior=FULL()).parameters()) == 14
    monkeypatch.setattr("mcdropout.variational.posteriors.free_memory", lambda: 2**30)
    message = r"would give 20,100 weights 202,035,150 parameters; training them needs 3.8 GiB, and 1.0 GiB are free"
    for make in (
        lambda: BayesLinear(200, 100, posterior=FULL()),
        lambda: BayesConv2d(2, 100, (10, 10), posterior=FULL()),
    ):
        with pytest.raises(mcd.OutOfMemory, match=message):
            make()
    BayesLinear(200, 100, posterior=N())  # 40,200 parameters
    monkeypatch.setattr("mcdropout.variational.posteriors.free_memory", lambda: 0)
    BayesLinear(200, 100, posterior=N())  # torch itself reports if so few do not fit


def test_a_full_covariance_is_refused_before_any_allocation():
    # the plain weights would need 400 TB, more than a process can address
    for make in (
        lambda: BayesLinear(10**7, 10**7, posterior=FULL()),
        lambda: BayesConv2d(10**6, 10**6, (10, 10), posterior=FULL()),
    ):
        with pytest.raises(mcd.OutOfMemory, match=r"^`posterior` with a full covariance would give 1[0-9,]+ weights"):
            make()


CUSTOM = mcd.mc_prior_custom(Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mcd.mc_prior_normal(0, 0), "`scale` must be a number above 0; got 0."),
        (lambda: mcd.mc_prior_laplace(0, -1), "`scale` must be a number above 0; got -1."),
        (lambda: mcd.mc_prior_student_t(0, 1, 0), "`df` must be a number above 0; got 0."),
        (lambda: mcd.mc_prior_cauchy(math.nan), "`loc` must be a number; got nan."),
        (
            lambda: untyped.mc_prior_normal(["a", "b"]),
            "`loc` must be a number, or an array of numbers; got ['a', 'b'].",
        ),
        (
            lambda: untyped.mc_prior_normal(0, [[1.0], [1.0, 2.0]]),
            "`scale` must be a number, or an array of numbers; got [[1.0], [1.0, 2.0]].",
        ),
        (lambda: untyped.mc_prior_horseshoe(0, [1.0, -2.0]), "`scale` must be above 0 for every weight; got -2.0."),
        (lambda: mcd.mc_prior_mixture((1, 0)), "`scales` must be a number above 0; got 0."),
        (lambda: mcd.mc_prior_mixture((1, 2), (1, 2, 3)), "`weights` must be as long as `scales` (2); got length 3."),
        (lambda: untyped.mc_prior_custom("normal"), '`distribution` must be a torch.distributions object; got "str".'),
        (lambda: mcd.mc_posterior_normal(0), "`scale` must be a number above 0; got 0."),
        (lambda: untyped.mc_posterior_custom(3), "`make` must be a function of location and scale; got 3."),
        (
            lambda: BayesLinear(2, 3, prior=mcd.mc_prior_normal(np.zeros(4))),
            "`prior` must be of one number for all weights, or of their shape (3, 2); got shape (4,).",
        ),
        (
            lambda: BayesLinear(2, 3, prior=mcd.mc_prior_custom(Normal(torch.zeros(3), 1.0))),
            "`prior` must be of one number for all weights, or of their shape (3, 2); got shape (3,).",
        ),
        (
            lambda: untyped.BayesLinear(2, 3, prior=3),
            "`prior` must be made by one of the mc_prior_...() functions; got 3.",
        ),
        (
            lambda: untyped.BayesLinear(2, 3, prior=FULL(0.1, 2)),
            "`prior` must be made by one of the mc_prior_...() functions; got posterior multivariate_normal(scale=0.1, "
            "mean=2.0).",
        ),
        (
            lambda: untyped.BayesLinear(2, 3, posterior=3),
            "`posterior` must be made by one of the mc_posterior_...() functions; got 3.",
        ),
        (
            lambda: BayesLinear(2, 3, posterior=mcd.mc_posterior_custom(lambda _, scale: Poisson(scale))),
            '`posterior`\'s function must give a torch.distributions object with rsample; got "Poisson".',
        ),
        (
            lambda: BayesLinear(2, 3, posterior=mcd.mc_posterior_custom(lambda loc, scale: Normal(0.0, 1.0))),
            "`posterior`'s function must give weights of shape (3, 2); got ().",
        ),
        (
            lambda: BayesLinear(2, 3, posterior=FULL(), estimator="flipout"),
            '`estimator` must be "reparameterization" where `posterior` is not mean-field normal; got "flipout".',
        ),
        (
            lambda: BayesLinear(2, 3, estimator="vi"),
            '`estimator` must be one of "reparameterization", "local_reparameterization", "flipout"; got "vi".',
        ),
        (lambda: BayesLinear(2, 3, kl_samples=0), "`kl_samples` must be a whole number of at least 1; got 0."),
        (
            lambda: mcd.mc_to_bayesian(nn.ReLU()),
            "`model` must have a linear layer or a convolution to change; it has none.",
        ),
        (
            lambda: mcd.mc_to_bayesian(nn.Linear(2, 2), layers="a"),
            '`layers` must name linear layers or convolutions of `model`; got "a".',
        ),
        (
            lambda: untyped.mc_to_bayesian(nn.Linear(2, 2), layers=3),
            "`layers` must name linear layers or convolutions of `model`; got 3.",
        ),
        (
            lambda: mcd.mc_to_bayesian(mcd.mc_mlp(2, ["a", "b"]), layers=[]),
            "`layers` must name linear layers or convolutions of `model`; got [].",
        ),
        (
            lambda: mcd.mc_to_bayesian(nn.Linear(2, 2), prior=CUSTOM, prior_from_weights=True),
            "`prior` must have a location to be moved; got a distribution of your own.",
        ),
        (
            lambda: mcd.mc_posterior_table(nn.Linear(2, 2)),
            "`model` must have variational layers; it has none. See mc_to_bayesian().",
        ),
    ],
)
def test_wrong_arguments_have_a_one_sentence_error(make, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole sentence is compared)
        make()
    assert str(error.value) == message


def test_layers_that_share_weights_are_not_converted():
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match=r"must not share their weights; 0\.weight and 1\.weight do"):
        mcd.mc_to_bayesian(tied)
