"""Layers whose weights are distributions: what a draw takes, how they learn, and what their KL divergence is.

In a prediction a draw is a network: all weights of a layer are drawn whole, from noise that is keyed as masks are
(`randomness`). How noise enters while learning is the estimator's business alone:

* "reparameterization": one draw of the weights for each batch;
* "local_reparameterization": noise on what the layer gives out, of the variance that its weights make there, for each
  input; for a convolution each position has noise of its own, as if its weights were drawn anew there;
* "flipout": one draw for each batch, whose deviations from the mean change sign at random for each input.

Outside of both, in `eval()`, a layer works with its posterior means.

References: Blundell et al. (2015), arXiv:1505.05424; Kingma, Salimans and Welling (2015), arXiv:1506.02557; Wen et
al. (2018), arXiv:1803.04386.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor  # torch has no public way to ask this
from torch.distributions import Distribution, MultivariateNormal, Normal, kl_divergence

from .checks import check_choice, check_count, check_flag, shown
from .native import native
from .operations import Noise, is_sampled, weight_draw
from .priors import Posterior, Prior, check_posterior, check_prior

FEW_PRODUCTS = 64  # up to so many terms of a sum torch's convolution on a CPU is slower than a matrix product
PRODUCT_BYTES = 512 << 10  # of a piece of such products: two of them and their terms about fill a core's second cache
ESTIMATORS = ("reparameterization", "local_reparameterization", "flipout")


class BayesLayer(nn.Module):
    """What variational layers share: the parameters of the posterior, the prior's numbers, draws, and the KL term.

    n_weights: of weights and biases together. Parameters of a mean-field posterior are `weight_mean`, `weight_rho`
    and, with a bias, `bias_mean`, `bias_rho`, standard deviations being softplus(rho); those of a full covariance are
    `mean` (weights, then biases) and `tril`, the entries of its root's lower triangle row by row, with softplus on
    the diagonal.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        posterior: Posterior | None,
        prior: Prior | None,
        bias_prior: Prior | None,
        estimator: str | None,
        kl_samples: int,
    ) -> None:
        super().__init__()
        self.posterior = check_posterior(posterior)
        self.prior = check_prior(prior)
        self.bias_prior = check_prior(bias_prior, "bias_prior") if bias_prior is not None else self.prior
        self.estimator = check_estimator(estimator, self.posterior)
        self.kl_samples = check_count(kl_samples, "kl_samples")
        self.weight_shape = tuple(weight.shape)
        self.n_biases = 0 if bias is None else bias.numel()
        self.n_weights = weight.numel() + self.n_biases
        self._keep_prior("weight", self.prior, self.weight_shape)
        if bias is not None:
            self._keep_prior("bias", self.bias_prior, tuple(bias.shape))
        rho = _inverse_softplus(self.posterior.scale)
        self.full = self.posterior.family == "multivariate_normal"
        if self.full:
            n = self.n_weights
            self.mean = nn.Parameter(weight.new_empty(n))
            self.tril = nn.Parameter(weight.new_zeros(n * (n + 1) // 2))
            places = torch.arange(n, device=weight.device)
            with torch.no_grad():
                self.tril[places * (places + 3) // 2] = rho
        else:
            self.weight_mean = nn.Parameter(torch.empty_like(weight))
            self.weight_rho = nn.Parameter(torch.full_like(weight, rho))
            self.bias_mean = None if bias is None else nn.Parameter(torch.empty_like(bias))
            self.bias_rho = None if bias is None else nn.Parameter(torch.full_like(bias, rho))
        self.set_means(weight, bias)
        if self.posterior.make is not None:
            for one, shape in zip(self._custom(), self._shapes(), strict=True):
                _check_custom(one, shape)

    # ---- the posterior

    def set_means(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start from these means, unless the posterior says where they start."""
        start = self.posterior.mean
        given = [weight, *([] if bias is None else [bias])]
        with torch.no_grad():
            flat = torch.cat([one.detach().flatten() for one in given])
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
            return torch.cat([one.stddev.flatten() for one in self._custom()])
        return torch.cat([F.softplus(rho).flatten() for rho in self._rhos()])

    def covariance(self) -> Tensor:
        """Covariance of all weights, biases last, (weight, weight)."""
        root = self.scale_tril() if self.full else self.deviations().diag()
        return root @ root.T

    def means(self) -> tuple[Tensor, Tensor | None]:
        """Weights and biases where nothing samples."""
        if self.full:
            return self.split(self.mean)
        if self.posterior.make is None:
            return self.weight_mean, self.bias_mean
        weight, *bias = [_centre(one) for one in self._custom()]
        return weight, (bias[0] if bias else None)

    @property
    def weight(self) -> Tensor:
        """The posterior means of the weights, for code that looks for those of a plain layer."""
        return self.means()[0]

    @property
    def bias(self) -> Tensor | None:
        """The posterior means of the biases."""
        return self.means()[1]

    def split(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """All weights, (weight,), as weights and biases."""
        weight = weights[: self.n_weights - self.n_biases].view(self.weight_shape)
        return weight, (weights[self.n_weights - self.n_biases :] if self.n_biases else None)

    def draw(self, noise: Noise) -> Tensor:
        """Weights of some draws, (draw, weight)."""
        if self.posterior.make is not None:
            return noise.each(lambda: torch.cat([one.rsample().flatten() for one in self._custom()]))
        normals = noise.normals(self.n_weights)
        if self.full:
            return self.mean + normals @ self.scale_tril().T
        mean = torch.cat([one.flatten() for one in self._mean_parameters()])
        return normals.mul_(self.deviations()).add_(mean)  # in place: of many draws this is large

    # ---- learning

    @staticmethod
    def drawn(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """What a function of torch's draws; `mc_fit()` has it drawn from generators of its own."""
        return function(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """The plain layer's outputs, with weights that are drawn where something samples."""
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
        """Outputs in the draw under way; `anchor` is any tensor of the layer."""
        return self.plain(x, *weight_draw(anchor, self))

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the plain layer does with these weights."""
        raise NotImplementedError

    def _reparameterized(self) -> tuple[Tensor, Tensor | None]:
        if self.posterior.make is not None:
            weight, *bias = [one.rsample() for one in self._custom()]
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
        # rounding may leave a variance of 0 a little below it, and the root has no slope at 0
        return torch.addcmul(mean, variance.clamp(min=1e-30).sqrt(), self._normals_like(mean))

    def _flipped(self, x: Tensor) -> Tensor:
        mean = self.plain(x, self.weight_mean, self.bias_mean)
        deviation = F.softplus(self.weight_rho) * self.drawn(torch.randn_like, self.weight_mean)
        moved = self.plain(x * self._signs(x, self._input_axis(x)), deviation, None)
        out = torch.addcmul(mean, moved, self._signs(mean, self._output_axis(mean)))
        if self.bias_rho is None:
            return out
        shape = self._along(mean, self._output_axis(mean))
        noise = self.drawn(torch.randn, shape, dtype=mean.dtype, device=mean.device)
        return out + F.softplus(self.bias_rho).view(-1, *self._ones_after(mean)) * noise

    def _along(self, x: Tensor, axis: int) -> tuple[int, ...]:
        """Shape of one number for each input and each entry of `axis`."""
        kept = range(x.ndim) if self._ones_after(x) == () else (0, axis)
        return tuple(size if place in kept else 1 for place, size in enumerate(x.shape))

    def _normals_like(self, x: Tensor) -> Tensor:
        """Normal numbers for `x`, filled in the order of memory: torch is ten times slower where channels lie last."""
        made = torch.empty_like(x)  # dense, whatever its order
        self.drawn(Tensor.normal_, made.as_strided((made.numel(),), (1,)))
        return made

    def _signs(self, x: Tensor, axis: int) -> Tensor:
        shape = self._along(x, axis)
        return self.drawn(torch.randint, 0, 2, shape, device=x.device).to(x.dtype).mul_(2).sub_(1)

    def _ones_after(self, out: Tensor) -> tuple[int, ...]:
        """Axes of size 1 that put one number per output unit beside the outputs."""
        return ()

    def _input_axis(self, x: Tensor) -> int:
        return x.ndim - 1

    def _output_axis(self, out: Tensor) -> int:
        return out.ndim - 1

    # ---- the KL divergence

    def kl(self) -> Tensor:
        """KL divergence from prior to posterior in nats, summed over all weights: a number with a gradient.

        In closed form where there is one; else the mean over `kl_samples` draws.
        """
        if self.full:
            return self._full_kl()
        posteriors = self._custom() if self.posterior.make is not None else self._normals()
        total = torch.zeros((), device=self.weight_mean.device)
        for name, posterior in zip(("weight", "bias"), posteriors, strict=False):
            prior = self._prior(name)
            try:
                total = total + kl_divergence(posterior, prior).sum()
            except NotImplementedError:
                drawn = posterior.rsample((self.kl_samples,))
                total = total + (posterior.log_prob(drawn).sum() - prior.log_prob(drawn).sum()) / self.kl_samples
        return total

    def _normals(self) -> list[Distribution]:
        pairs = zip(self._mean_parameters(), self._rhos(), strict=True)
        return [Normal(mean, F.softplus(rho), validate_args=False) for mean, rho in pairs]

    def _full_kl(self) -> Tensor:
        root = self.scale_tril()
        log_determinant = root.diagonal().log().sum()
        names = ("weight", "bias")[: 2 if self.n_biases else 1]
        priors = [self._prior(name) for name in names]
        normal = [one for one in priors if type(one) is Normal]
        if len(normal) == len(priors):
            flat = [
                (one.loc.expand(shape).flatten(), one.scale.expand(shape).flatten())
                for one, shape in zip(normal, self._shapes(), strict=True)
            ]
            loc, scale = (torch.cat(parts) for parts in zip(*flat, strict=True))
            # as torch has it for two multivariate normals, without its root of a diagonal prior
            trace = (root / scale[:, None]).square().sum()
            distance = ((self.mean - loc) / scale).square().sum()
            return 0.5 * (trace + distance - self.n_weights) + scale.log().sum() - log_determinant
        noise = torch.randn(self.kl_samples, self.n_weights, device=root.device, dtype=root.dtype)
        drawn = self.mean + noise @ root.T
        own = -0.5 * (noise.square().sum() / self.kl_samples + self.n_weights * math.log(2 * math.pi)) - log_determinant
        pieces = drawn.split([self.n_weights - self.n_biases, self.n_biases], dim=1)
        for prior, piece, shape in zip(priors, pieces, self._shapes(), strict=False):
            own = own - prior.log_prob(piece.view(-1, *shape)).sum() / self.kl_samples
        return own

    def _keep_prior(self, what: str, prior: Prior, shape: tuple[int, ...]) -> None:
        for name, value in prior.tensors(shape).items():
            self.register_buffer(f"{what}_prior_{name}", value)

    def _prior(self, what: str) -> Distribution:
        prior = self.prior if what == "weight" else self.bias_prior
        return prior.distribution({name: getattr(self, f"{what}_prior_{name}") for name in prior.numbers})

    def prior_deviation(self) -> float:
        """Standard deviation of the prior, mean over all weights; NaN where the distribution tells none."""
        parts = zip(("weight", "bias"), self._shapes(), strict=False)
        try:
            deviations = [self._prior(what).stddev.expand(shape).flatten() for what, shape in parts]
        except NotImplementedError:
            return math.nan
        return float(torch.cat(deviations).double().mean())

    def full_posterior(self) -> MultivariateNormal:
        """A full covariance as a distribution of all weights, biases last."""
        return MultivariateNormal(self.mean, scale_tril=self.scale_tril())

    def extra_repr(self) -> str:
        return f"posterior={self.posterior.family}, {self.prior}, estimator={self.estimator}"


class BayesLinear(BayesLayer):
    """`torch.nn.Linear` with a distribution over its weights.

    posterior, prior: of `mc_posterior_normal()`, `mc_prior_normal()` and their kin; bias_prior: as `prior` by
    default. estimator: "reparameterization", "local_reparameterization" or "flipout"; the latter two are for
    mean-field normal posteriors, whose default is "flipout". kl_samples: draws for a KL divergence that has no closed
    form. Everything else is the plain layer's.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        bias_prior: Prior | None = None,
        estimator: str | None = None,
        kl_samples: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_before(posterior, in_features * out_features + (out_features if bias else 0))
        twin = nn.Linear(in_features, out_features, bias, device=device, dtype=dtype)
        super().__init__(twin.weight, twin.bias, posterior, prior, bias_prior, estimator, kl_samples)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def of(cls, twin: nn.Linear, **options: Any) -> BayesLinear:
        """The variational twin of a plain layer, whose weights become the posterior means."""
        weight = twin.weight
        made = cls(
            twin.in_features,
            twin.out_features,
            twin.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            **options,
        )
        made.set_means(weight, twin.bias)
        return made

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the plain layer does with these weights."""
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.n_biases > 0}, {super().extra_repr()}"


class _ConvolutionOfDraws(torch.autograd.Function):
    """`F.conv2d` of many draws at once, under vmap: one draw after the other, with the channels last in memory.

    torch's own rule makes one grouped convolution of them, and leaves its result in an order in which what comes next
    is slow.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:  # type: ignore[override]  # torch says *args
        return F.conv2d(x, weight, bias, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> Any:
        x, weight, bias, *options = given

        def of(value: Tensor | None, dim: int | None, draw: int) -> Tensor | None:
            return value if value is None or dim is None else value.select(dim, draw)

        whole: Tensor | None = None
        for draw in range(info.batch_size):
            own, weights = of(x, in_dims[0], draw), of(weight, in_dims[1], draw)
            assert own is not None
            assert weights is not None
            out = F.conv2d(own, weights, of(bias, in_dims[2], draw), *options)
            if whole is None:
                last = (info.batch_size, *out.shape[:-3], *out.shape[-2:], out.shape[-3])
                whole = out.new_empty(last).movedim(-1, -3)
            whole[draw] = out
        return whole, 0


def _largest_products(terms: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor, rows: int) -> None:
    """Fill `out` (row, channel) with the largest of terms[i] @ weight over i, plus bias, above 0 if `relu`.

    terms: (place in the window of a pool, row, term); weight: (term, channel). Some rows at a time, so that products
    stay in the cache. The bias and the relu may come after the pool: neither changes the order of numbers.
    """
    other = torch.empty_like(out[:rows])
    for start in range(0, out.size(0), rows):
        best = out[start : start + rows]
        torch.mm(terms[0, start : start + rows], weight, out=best)
        for place in range(1, terms.size(0)):
            product = other[: best.size(0)]
            torch.mm(terms[place, start : start + rows], weight, out=product)
            torch.maximum(best, product, out=best)
        best.add_(bias)
        if relu:
            best.relu_()


class _BayesConv(BayesLayer):
    twin_class: type[nn.Conv1d | nn.Conv2d]
    n_spatial: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        bias_prior: Prior | None = None,
        estimator: str | None = None,
        kl_samples: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options: dict[str, Any] = {  # their types differ between one dimension and two
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "bias": bias,
            "padding_mode": padding_mode,
        }
        meta = self.twin_class(in_channels, out_channels, device="meta", **options)
        _check_before(posterior, sum(one.numel() for one in meta.parameters()))
        twin = self.twin_class(in_channels, out_channels, device=device, dtype=dtype, **options)
        super().__init__(twin.weight, twin.bias, posterior, prior, bias_prior, estimator, kl_samples)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = twin.kernel_size, twin.stride, twin.dilation
        self.padding, self.padding_mode = twin.padding, twin.padding_mode
        self.sides = twin._reversed_padding_repeated_twice  # as F.pad wants them

    @classmethod
    def of(cls, twin: nn.Conv1d | nn.Conv2d, **options: Any) -> _BayesConv:
        """The variational twin of a plain layer, whose weights become the posterior means."""
        made = cls(
            twin.in_channels,
            twin.out_channels,
            twin.kernel_size,
            twin.stride,
            twin.padding,
            twin.dilation,
            twin.groups,
            twin.bias is not None,
            twin.padding_mode,
            device=twin.weight.device,
            dtype=twin.weight.dtype,
            **options,
        )
        made.set_means(twin.weight, twin.bias)
        return made

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the plain layer does with these weights."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self.sides, mode=self.padding_mode), 0
        convolve: Any = F.conv2d if self.n_spatial == 2 else F.conv1d
        if self.n_spatial == 2 and is_batchedtensor(weight):
            convolve = _ConvolutionOfDraws.apply
        return convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _flipped(self, x: Tensor) -> Tensor:
        if x.ndim == self.n_spatial + 1:  # one input without an axis of inputs
            return super()._flipped(x[None])[0]
        return super()._flipped(x)

    def _ones_after(self, out: Tensor) -> tuple[int, ...]:
        return (1,) * self.n_spatial

    def _input_axis(self, x: Tensor) -> int:
        return 1

    def _output_axis(self, out: Tensor) -> int:
        return 1

    def extra_repr(self) -> str:
        shape = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{shape}, padding={self.padding}, groups={self.groups}, {super().extra_repr()}"


class BayesConv1d(_BayesConv):
    """`torch.nn.Conv1d` with a distribution over its weights; the options are those of `BayesLinear`."""

    twin_class, n_spatial = nn.Conv1d, 1


class BayesConv2d(_BayesConv):
    """`torch.nn.Conv2d` with a distribution over its weights; the options are those of `BayesLinear`."""

    twin_class, n_spatial = nn.Conv2d, 2

    def pooled(self, x: Tensor, pool: tuple[int, int]) -> Tensor:
        """The maximum pool of the relu of the outputs in the draw under way, its windows side by side."""
        anchor = self.mean if self.full else self.weight_mean
        if self._has_few_products(x):
            return self._products(x, anchor, pool, relu=True)
        x = self._without_rest(x, pool)
        return F.max_pool2d(self.plain(x, *weight_draw(anchor, self)), pool).relu_()

    def forward(self, x: Tensor, pool: tuple[int, int] | None = None) -> Tensor:
        """The plain layer's outputs; with `pool`, where something samples, what `pooled()` makes of them."""
        return super().forward(x) if pool is None else self.pooled(x, pool)

    def sampled(self, x: Tensor, anchor: Tensor) -> Tensor:
        """Outputs in the draw under way; `anchor` is any tensor of the layer."""
        return self._products(x, anchor) if self._has_few_products(x) else super().sampled(x, anchor)

    def _has_few_products(self, x: Tensor) -> bool:
        few = self.groups == 1 and math.prod(self.weight_shape[1:]) <= FEW_PRODUCTS
        return few and x.ndim == 4 and x.device.type == "cpu" and not is_batchedtensor(x)

    def _products(self, x: Tensor, anchor: Tensor, pool: tuple[int, int] = (1, 1), relu: bool = False) -> Tensor:
        """The convolution as matrix products, whose terms are laid out before the draw: once for all draws."""
        terms, (height, width) = self._terms(x, pool)
        weight, bias = weight_draw(anchor, self)
        weight = weight.flatten(1).T.to(terms.dtype)
        bias = weight.new_zeros(self.out_channels) if bias is None else bias.to(terms.dtype)
        if is_batchedtensor(weight):
            out = (terms @ weight).amax(dim=0) + bias
            out = out.relu() if relu else out
        else:
            out = terms.new_empty(terms.shape[1], self.out_channels)
            native(_largest_products)(terms, weight, bias, relu, out, max(1, PRODUCT_BYTES // out[0].nbytes))
        return out.view(-1, height, width, self.out_channels).permute(0, 3, 1, 2)

    def _terms(self, x: Tensor, pool: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """What the weights meet, (place in the pool's window, input x pooled place, term), and the pooled sides."""
        x = F.pad(x, self.sides, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)
        sides = self._output_sides(x)
        height, width = sides[0] // pool[0], sides[1] // pool[1]
        terms = F.unfold(x, self.kernel_size, self.dilation, 0, self.stride).unflatten(2, sides)
        terms = terms[:, :, : height * pool[0], : width * pool[1]]
        terms = terms.unflatten(3, (width, pool[1])).unflatten(2, (height, pool[0]))  # input, term, row, a, column, b
        return terms.permute(3, 5, 0, 2, 4, 1).reshape(pool[0] * pool[1], -1, terms.shape[1]), (height, width)

    def _output_sides(self, x: Tensor) -> list[int]:
        """Height and width of the outputs for inputs that are padded already."""
        options = zip(x.shape[-2:], self.kernel_size, self.dilation, self.stride, strict=True)
        return [(size - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, dilation, stride in options]

    def _without_rest(self, x: Tensor, pool: tuple[int, int]) -> Tensor:
        """`x` without the last rows and columns that no whole window of the pool comes from."""
        if any(self.sides) or is_batchedtensor(x):
            return x
        rows, columns = (
            size - side % window * stride
            for size, side, window, stride in zip(x.shape[-2:], self._output_sides(x), pool, self.stride, strict=True)
        )
        part = x[..., :rows, :columns]
        return part if part.shape == x.shape else part.contiguous(memory_format=torch.channels_last)


TWINS: dict[type[nn.Module], type[BayesLinear | BayesConv1d | BayesConv2d]] = {
    nn.Linear: BayesLinear,
    nn.Conv1d: BayesConv1d,
    nn.Conv2d: BayesConv2d,
}


def variational_twin(plain: nn.Module, **options: Any) -> BayesLayer:
    """The variational twin of a layer whose class is in `TWINS`."""
    kind: Any = TWINS[type(plain)]
    return kind.of(plain, **options)


# ---- networks --------------------------------------------------------------------------------------------------


def variational_layers(model: nn.Module) -> dict[str, BayesLayer]:
    """The variational layers of a network, by their paths."""
    return {path: one for path, one in model.named_modules() if isinstance(one, BayesLayer)}


def kl_divergence_of(layers: Iterable[BayesLayer]) -> Tensor:
    """KL divergence from prior to posterior of all these layers together, in nats; a number with a gradient."""
    return torch.stack([layer.kl() for layer in layers]).sum()


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


# ---- checks ----------------------------------------------------------------------------------------------------


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


def check_estimator(estimator: object, posterior: Posterior) -> str:
    """One that the posterior can do: signs may change and variances add up only where weights are independent."""
    if estimator is None:
        return "flipout" if posterior.family == "normal" else "reparameterization"
    found = check_choice(estimator, "estimator", ESTIMATORS)
    if posterior.family != "normal" and found != "reparameterization":
        raise ValueError(
            f'`estimator` must be "reparameterization" where `posterior` is not mean-field normal; got {shown(found)}.'
        )
    return found


def _check_before(posterior: Posterior | None, n_weights: int) -> None:
    """Refuse what is too large before anything is allocated."""
    check_posterior(posterior).check_room(n_weights)


def _check_custom(made: object, shape: tuple[int, ...]) -> None:
    if not isinstance(made, Distribution) or not made.has_rsample:
        raise ValueError(
            "`posterior`'s function must give a torch.distributions object with rsample; got "
            f"{shown(type(made).__name__)}."
        )
    got = tuple(made.batch_shape + made.event_shape)
    if got != shape:
        raise ValueError(f"`posterior`'s function must give weights of shape {shape}; got {got}.")
    _centre(made)


def _centre(distribution: Distribution) -> Tensor:
    """What predicts without sampling: the mean, or the mode where the mean is none."""
    for name in ("mean", "mode"):
        try:
            found = getattr(distribution, name)
        except NotImplementedError:
            continue
        if found.is_meta or bool(found.isfinite().all()):
            return found
    raise ValueError(
        "`posterior`'s function must give a distribution with a finite mean or mode; got one with neither."
    )


def _inverse_softplus(scale: float) -> float:
    """Where softplus gives `scale`."""
    return scale + math.log(-math.expm1(-scale))


def layer_facts(model: nn.Module) -> dict[str, Mapping[str, float]]:
    """Per variational layer: weights, parameters, mean standard deviation, mean variance, KL divergence."""
    found = {}
    with torch.no_grad():
        for path, layer in variational_layers(model).items():
            deviations = layer.deviations().double()
            found[path] = {
                "n_weights": layer.n_weights,
                "n_parameters": sum(one.numel() for one in layer.parameters()),
                "std": float(deviations.mean()),
                "variance": float(deviations.square().mean()),
                "kl": float(layer.kl()),
            }
    return found
