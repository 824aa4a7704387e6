"""The Bayesian linear layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layer import BayesLayer
from .options import BayesOptions
from .posteriors import Posterior
from .priors import Prior


class BayesLinear(BayesLayer):
    """A Bayesian linear layer: `torch.nn.Linear` with a distribution over its weights.

    Args:
        in_features: As in `torch.nn.Linear`.
        out_features: As in `torch.nn.Linear`.
        bias: Whether there is a bias.
        posterior: The family of the learnt distribution: `mc_posterior_normal()` (the default) or another
            `mc_posterior_...()`.
        prior: The distribution of the weights before training: `mc_prior_normal()` (standard normal, the default) or
            another `mc_prior_...()`.
        bias_prior: The prior of the biases; `prior` by default.
        estimator: How the noise of the weights enters in training: "reparameterization", "local_reparameterization" or
            "flipout". The last two need the mean-field normal posterior, for which "flipout" is the default.
        kl_samples: Number of draws for a KL divergence without a closed form.
        device: As in `torch.nn.Linear`.
        dtype: As in `torch.nn.Linear`.

    Examples:
        >>> import mcdropout as mcd
        >>> import torch
        >>> mcd.BayesLinear(3, 2)(torch.ones(5, 3)).shape
        torch.Size([5, 2])
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
        options = BayesOptions.checked(posterior, prior, bias_prior, estimator, kl_samples)
        options.posterior.check_room(in_features * out_features + (out_features if bias else 0))
        plain = nn.Linear(in_features, out_features, bias, device=device, dtype=dtype)
        super().__init__(plain.weight, plain.bias, options)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def of(cls, plain: nn.Linear, **options: Any) -> BayesLinear:
        """The Bayesian copy of a plain layer; the plain layer's weights become the posterior means."""
        weight = plain.weight
        layer = cls(
            plain.in_features,
            plain.out_features,
            plain.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            **options,
        )
        layer.set_means(weight, plain.bias)
        return layer

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Outputs of the plain layer with these weights."""
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.n_biases > 0}, {super().extra_repr()}"
