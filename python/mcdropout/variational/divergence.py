"""The KL divergence of posteriors from priors, in nats, with a gradient.

It has a closed form for pairs of distributions that torch knows, and for a full covariance with normal priors.
Otherwise it is the mean over draws of the posterior (Blundell et al. (2015), arXiv:1505.05424).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence


def independent_divergence(
    posteriors: Sequence[Distribution], priors: Sequence[Distribution], n_samples: int
) -> Tensor:
    """The sum over independent weights; without a closed form, the mean over `n_samples` draws."""
    divergences = []
    for posterior, prior in zip(posteriors, priors, strict=True):
        try:
            divergences.append(kl_divergence(posterior, prior).sum())
        except NotImplementedError:
            drawn = posterior.rsample(torch.Size([n_samples]))
            divergences.append((posterior.log_prob(drawn).sum() - prior.log_prob(drawn).sum()) / n_samples)
    return torch.stack(divergences).sum()


def full_divergence(
    mean: Tensor, root: Tensor, priors: Sequence[Distribution], shapes: Sequence[tuple[int, ...]], n_samples: int
) -> Tensor:
    """That of a multivariate normal posterior with mean (weight,) and lower-triangular root (weight, weight).

    priors: those of consecutive weights, which have these shapes. Without a closed form, the mean over `n_samples`
    draws.
    """
    log_determinant = root.diagonal().log().sum()
    n_weights = len(mean)
    normal_priors = [prior for prior in priors if type(prior) is Normal]
    if len(normal_priors) == len(priors):
        flat = [
            (prior.loc.expand(shape).flatten(), prior.scale.expand(shape).flatten())
            for prior, shape in zip(normal_priors, shapes, strict=True)
        ]
        loc, scale = (torch.cat(parts) for parts in zip(*flat, strict=True))
        # torch's formula for two multivariate normals, simplified for a diagonal prior
        trace = (root / scale[:, None]).square().sum()
        distance = ((mean - loc) / scale).square().sum()
        return 0.5 * (trace + distance - n_weights) + scale.log().sum() - log_determinant
    noise = torch.randn(n_samples, n_weights, device=root.device, dtype=root.dtype)
    drawn = mean + noise @ root.T
    divergence = -0.5 * (noise.square().sum() / n_samples + n_weights * math.log(2 * math.pi)) - log_determinant
    pieces = drawn.split([math.prod(shape) for shape in shapes], dim=1)
    for prior, piece, shape in zip(priors, pieces, shapes, strict=True):
        divergence = divergence - prior.log_prob(piece.view(-1, *shape)).sum() / n_samples
    return divergence
