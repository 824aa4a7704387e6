"""The base of all Bayesian layers: draws of weights, estimators of the gradient, and the KL divergence.

In a prediction, each draw has one set of weights for all inputs. The noise has a key, as masks do. In training, the
estimator decides how noise enters:

* "reparameterization": one draw of the weights for each batch;
* "local_reparameterization": noise on the outputs of the layer for each input, with the variance that the weights
  cause. A convolution has separate noise at each position, as if each position had its own draw of the weights;
* "flipout": one draw for each batch, whose deviations from the mean change sign at random for each input.

Otherwise, in `eval()`, a layer uses its posterior means.

References: Blundell et al. (2015), arXiv:1505.05424; Kingma, Salimans and Welling (2015), arXiv:1506.02557; Wen et
al. (2018), arXiv:1803.04386.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal

from ..checks import shown
from ..sites.calls import Noise
from ..sites.operations import is_sampled, weight_draw
from .divergence import full_divergence, independent_divergence
from .options import BayesOptions
from .priors import Prior


class BayesLayer(nn.Module):
    """The base class: parameters of the posterior, buffers of the prior, draws, and the KL divergence.

    `n_weights` counts weights and biases. A mean-field posterior has the parameters `weight_mean` and `weight_rho`, and
    with a bias `bias_mean` and `bias_rho`; standard deviations are softplus(rho). A full covariance has the parameters
    `mean` (weights, then biases) and `tril`, the entries of the lower triangle of its root, row by row; softplus is
    applied to the diagonal.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, options: BayesOptions) -> None:
        super().__init__()
        self.posterior = options.posterior
        self.prior = options.prior
        self.bias_prior = options.bias_prior
        self.estimator = options.estimator
        self.kl_samples = options.kl_samples
        self.weight_shape = tuple(weight.shape)
        self.n_biases = 0 if bias is None else bias.numel()
        self.n_weights = weight.numel() + self.n_biases
        self._register_prior("weight", self.prior, self.weight_shape)
        if bias is not None:
            self._register_prior("bias", self.bias_prior, tuple(bias.shape))
        rho = _inverse_softplus(self.posterior.scale)
        self.full = self.posterior.family == "multivariate_normal"
        if self.full:
            n = self.n_weights
            self.mean = nn.Parameter(weight.new_empty(n))
            self.tril = nn.Parameter(weight.new_zeros(n * (n + 1) // 2))
            row = torch.arange(n, device=weight.device)
            with torch.no_grad():
                self.tril[row * (row + 3) // 2] = rho  # the diagonal
        else:
            self.weight_mean = nn.Parameter(torch.empty_like(weight))
            self.weight_rho = nn.Parameter(torch.full_like(weight, rho))
            self.bias_mean = None if bias is None else nn.Parameter(torch.empty_like(bias))
            self.bias_rho = None if bias is None else nn.Parameter(torch.full_like(bias, rho))
        self.set_means(weight, bias)
        if self.posterior.make is not None:
            for distribution, shape in zip(self._custom(), self._shapes(), strict=True):
                _check_custom(distribution, shape)

    # ---- the posterior

    def set_means(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from these means, unless the posterior has a mean to start from."""
        start = self.posterior.mean
        tensors = [weight, *([] if bias is None else [bias])]
        with torch.no_grad():
            flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
            if start is not None:
                flat = torch.full_like(flat, start)
            for parameter, values in zip(self._mean_parameters(), self._pieces(flat), strict=True):
                parameter.copy_(values.view_as(parameter))

    def _mean_parameters(self) -> list[Tensor]:
        if self.full:
            return [self.mean]
        return [self.weight_mean, *([] if self.bias_mean is None else [self.bias_mean])]

    def _pieces(self, flat: Tensor) -> list[Tensor]:
        if self.full:
            return [flat]
        return list(flat.split([self.n_weights - self.n_biases, *([self.n_biases] if self.n_biases else [])]))

    def _shapes(self) -> list[tuple[int, ...]]:
        return [self.weight_shape, *([(self.n_biases,)] if self.n_biases else [])]

    def scale_tril(self) -> Tensor:
        """The lower-triangular root of a full covariance, (weight, weight)."""
        n = self.n_weights
        row, column = torch.tril_indices(n, n, device=self.tril.device)
        values = torch.where(row == column, F.softplus(self.tril), self.tril)
        return values.new_zeros(n, n).index_put((row, column), values)

    def _rhos(self) -> list[Tensor]:
        return [self.weight_rho, *([] if self.bias_rho is None else [self.bias_rho])]

    def _custom(self) -> list[Distribution]:
        make = self.posterior.make
        assert make is not None
        pairs = zip(self._mean_parameters(), self._rhos(), strict=True)
        return [make(mean, F.softplus(rho)) for mean, rho in pairs]

    def deviations(self) -> Tensor:
        """Standard deviation of every weight, biases last, (weight,)."""
        if self.full:
            return self.scale_tril().square().sum(dim=1).sqrt()
        if self.posterior.make is not None:
            return torch.cat([distribution.stddev.flatten() for distribution in self._custom()])
        return torch.cat([F.softplus(rho).flatten() for rho in self._rhos()])

    def covariance(self) -> Tensor:
        """Covariance of all weights, biases last, (weight, weight)."""
        root = self.scale_tril() if self.full else self.deviations().diag()
        return root @ root.T

    def means(self) -> tuple[Tensor, Tensor | None]:
        """Weights and biases of a prediction without sampling."""
        if self.full:
            return self.split(self.mean)
        if self.posterior.make is None:
            return self.weight_mean, self.bias_mean
        weight, *bias = [_centre(distribution) for distribution in self._custom()]
        return weight, (bias[0] if bias else None)

    @property
    def weight(self) -> Tensor:
        """The posterior means of the weights, under the name that a plain layer has."""
        return self.means()[0]

    @property
    def bias(self) -> Tensor | None:
        """The posterior means of the biases."""
        return self.means()[1]

    def split(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split all weights, (..., weight), into weights and biases. Leading axes, such as draws, stay."""
        weight = weights[..., : self.n_weights - self.n_biases].unflatten(-1, self.weight_shape)
        return weight, (weights[..., self.n_weights - self.n_biases :] if self.n_biases else None)

    def draw(self, noise: Noise) -> Tensor:
        """Draw all weights, (draw, weight)."""
        if self.posterior.make is not None:
            return noise.each(lambda: torch.cat([distribution.rsample().flatten() for distribution in self._custom()]))
        normals = noise.normals(self.n_weights)
        if self.full:
            return self.mean + normals @ self.scale_tril().T
        mean = torch.cat([parameter.flatten() for parameter in self._mean_parameters()])
        return normals.mul_(self.deviations()).add_(mean)  # in place, because many draws need much memory

    # ---- learning

    @staticmethod
    def drawn(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Call a torch function that draws. `mc_fit()` replaces this method to draw from its own generators."""
        return function(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the layer: with drawn weights in a sampled prediction and in training, else with the means."""
        anchor = self.mean if self.full else self.weight_mean
        if is_sampled(anchor):
            return self.sampled(x, anchor)
        if not self.training:
            return self.plain(x, *self.means())
        if self.estimator == "local_reparameterization":
            return self._locally(x)
        if self.estimator == "flipout":
            return self._flipped(x)
        return self.plain(x, *self._reparameterized())

    def sampled(self, x: Tensor, anchor: Tensor) -> Tensor:
        """Outputs in the current draw; `anchor` is any tensor of the layer."""
        return self.plain(x, *weight_draw(anchor, self))

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Outputs of the plain layer with these weights."""
        raise NotImplementedError

    def _reparameterized(self) -> tuple[Tensor, Tensor | None]:
        if self.posterior.make is not None:
            weight, *bias = [distribution.rsample() for distribution in self._custom()]
            return weight, (bias[0] if bias else None)
        if self.full:
            return self.split(self.mean + self.scale_tril() @ self.drawn(torch.randn_like, self.mean))
        bias = None
        if self.bias_mean is not None and self.bias_rho is not None:
            bias = torch.addcmul(
                self.bias_mean, F.softplus(self.bias_rho), self.drawn(torch.randn_like, self.bias_mean)
            )
        noise = self.drawn(torch.randn_like, self.weight_mean)
        return torch.addcmul(self.weight_mean, F.softplus(self.weight_rho), noise), bias

    def _locally(self, x: Tensor) -> Tensor:
        mean = self.plain(x, self.weight_mean, self.bias_mean)
        bias = None if self.bias_rho is None else F.softplus(self.bias_rho).square()
        variance = self.plain(x.square(), F.softplus(self.weight_rho).square(), bias)
        # Rounding may give a variance slightly below 0, and the root has no derivative at 0.
        return torch.addcmul(mean, variance.clamp(min=1e-30).sqrt(), self._normals_like(mean))

    def _flipped(self, x: Tensor) -> Tensor:
        mean = self.plain(x, self.weight_mean, self.bias_mean)
        deviation = F.softplus(self.weight_rho) * self.drawn(torch.randn_like, self.weight_mean)
        deviating = self.plain(x * self._signs(x, self._input_axis(x)), deviation, None)
        out = torch.addcmul(mean, deviating, self._signs(mean, self._output_axis(mean)))
        if self.bias_rho is None:
            return out
        shape = self._along(mean, self._output_axis(mean))
        noise = self.drawn(torch.randn, shape, dtype=mean.dtype, device=mean.device)
        return out + F.softplus(self.bias_rho).view(-1, *self._ones_after(mean)) * noise

    def _along(self, x: Tensor, axis: int) -> tuple[int, ...]:
        """Shape of a tensor with one number for each input and each entry of `axis`."""
        kept_axes = range(x.ndim) if self._ones_after(x) == () else (0, axis)
        return tuple(size if place in kept_axes else 1 for place, size in enumerate(x.shape))

    def _normals_like(self, x: Tensor) -> Tensor:
        """Normal numbers of the shape of `x`, filled in memory order: torch is ten times slower for channels-last."""
        normals = torch.empty_like(x)  # always dense
        self.drawn(Tensor.normal_, normals.as_strided((normals.numel(),), (1,)))
        return normals

    def _signs(self, x: Tensor, axis: int) -> Tensor:
        shape = self._along(x, axis)
        return self.drawn(torch.randint, 0, 2, shape, device=x.device).to(x.dtype).mul_(2).sub_(1)

    def _ones_after(self, out: Tensor) -> tuple[int, ...]:
        """Trailing axes of size 1 that make one number per output unit broadcast to the outputs."""
        return ()

    def _input_axis(self, x: Tensor) -> int:
        return x.ndim - 1

    def _output_axis(self, out: Tensor) -> int:
        return out.ndim - 1

    # ---- the KL divergence

    def kl(self) -> Tensor:
        """KL divergence of the posterior from the prior in nats, summed over all weights, with a gradient.

        The closed form where there is one; otherwise the mean over `kl_samples` draws.
        """
        priors = [self._prior(name) for name in ("weight", "bias")[: 2 if self.n_biases else 1]]
        if self.full:
            return full_divergence(self.mean, self.scale_tril(), priors, self._shapes(), self.kl_samples)
        posteriors = self._custom() if self.posterior.make is not None else self._normals()
        return independent_divergence(posteriors, priors, self.kl_samples)

    def _normals(self) -> list[Distribution]:
        pairs = zip(self._mean_parameters(), self._rhos(), strict=True)
        return [Normal(mean, F.softplus(rho), validate_args=False) for mean, rho in pairs]

    def _register_prior(self, name: str, prior: Prior, shape: tuple[int, ...]) -> None:
        for parameter, value in prior.tensors(shape).items():
            self.register_buffer(f"{name}_prior_{parameter}", value)

    def _prior(self, name: str) -> Distribution:
        prior = self.prior if name == "weight" else self.bias_prior
        return prior.distribution({number: getattr(self, f"{name}_prior_{number}") for number in prior.numbers})

    def prior_deviation(self) -> float:
        """Standard deviation of the prior, mean over all weights; NaN if the distribution has no `stddev`."""
        parts = zip(("weight", "bias"), self._shapes(), strict=False)
        try:
            deviations = [self._prior(name).stddev.expand(shape).flatten() for name, shape in parts]
        except NotImplementedError:
            return math.nan
        return float(torch.cat(deviations).double().mean())

    def full_posterior(self) -> MultivariateNormal:
        """The posterior with a full covariance as a distribution of all weights, biases last."""
        return MultivariateNormal(self.mean, scale_tril=self.scale_tril())

    def extra_repr(self) -> str:
        return f"posterior={self.posterior.family}, {self.prior}, estimator={self.estimator}"


def variational_layers(model: nn.Module) -> dict[str, BayesLayer]:
    """The Bayesian layers of a network, by their paths."""
    return {path: module for path, module in model.named_modules() if isinstance(module, BayesLayer)}


def kl_divergence_of(layers: Iterable[BayesLayer]) -> Tensor:
    """KL divergence of the posteriors from the priors in nats, summed over all layers, with a gradient."""
    return torch.stack([layer.kl() for layer in layers]).sum()


def _check_custom(distribution: object, shape: tuple[int, ...]) -> None:
    if not isinstance(distribution, Distribution) or not distribution.has_rsample:
        raise ValueError(
            "`posterior`'s function must give a torch.distributions object with rsample; got "
            f"{shown(type(distribution).__name__)}."
        )
    got = tuple(distribution.batch_shape + distribution.event_shape)
    if got != shape:
        raise ValueError(f"`posterior`'s function must give weights of shape {shape}; got {got}.")
    _centre(distribution)


def _centre(distribution: Distribution) -> Tensor:
    """The weights for predictions without sampling: the mean, or the mode where the mean is not finite."""
    for name in ("mean", "mode"):
        try:
            centre = getattr(distribution, name)
        except NotImplementedError:
            continue
        if centre.is_meta or bool(centre.isfinite().all()):
            return centre
    raise ValueError(
        "`posterior`'s function must give a distribution with a finite mean or mode; got one with neither."
    )


def _inverse_softplus(scale: float) -> float:
    """The number whose softplus is `scale`."""
    return scale + math.log(-math.expm1(-scale))


def layer_facts(model: nn.Module) -> dict[str, Mapping[str, float]]:
    """For each Bayesian layer: weights, parameters, mean standard deviation, mean variance, KL divergence."""
    facts: dict[str, Mapping[str, float]] = {}
    with torch.no_grad():
        for path, layer in variational_layers(model).items():
            deviations = layer.deviations().double()
            facts[path] = {
                "n_weights": layer.n_weights,
                "n_parameters": sum(parameter.numel() for parameter in layer.parameters()),
                "std": float(deviations.mean()),
                "variance": float(deviations.square().mean()),
                "kl": float(layer.kl()),
            }
    return facts
