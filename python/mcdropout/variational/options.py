"""The options of a Bayesian layer: its distributions, and how it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..checks import check_choice, check_count, shown
from .posteriors import Posterior, check_posterior
from .priors import Prior, check_prior

ESTIMATORS = ("reparameterization", "local_reparameterization", "flipout")


@dataclass(frozen=True)
class BayesOptions:
    """The options that all Bayesian layers share, checked. The field names are the layers' argument names."""

    posterior: Posterior
    prior: Prior
    bias_prior: Prior
    estimator: str
    kl_samples: int

    @classmethod
    def checked(
        cls,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        bias_prior: Prior | None = None,
        estimator: str | None = None,
        kl_samples: int = 1,
    ) -> BayesOptions:
        """Check the options and fill in the defaults; `bias_prior` is `prior` by default."""
        checked_posterior, checked_prior = check_posterior(posterior), check_prior(prior)
        return cls(
            checked_posterior,
            checked_prior,
            checked_prior if bias_prior is None else check_prior(bias_prior, "bias_prior"),
            check_estimator(estimator, checked_posterior),
            check_count(kl_samples, "kl_samples"),
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The options as arguments of a layer's constructor."""
        return dict(vars(self))

    def to_spec(self) -> dict[str, Any]:
        """The options of a network in a form for JSON; code of the user stays, and `mc_save()` refuses it."""
        facts: dict[str, Any] = {"estimator": self.estimator, "kl_samples": self.kl_samples}
        for name, family in (("prior", self.prior), ("posterior", self.posterior)):
            facts[name] = family if family.family == "custom" else family.to_spec()
        return facts


def check_estimator(estimator: object, posterior: Posterior) -> str:
    """An estimator that suits the posterior: sign changes and sums of variances need independent weights."""
    if estimator is None:
        return "flipout" if posterior.family == "normal" else "reparameterization"
    checked = check_choice(estimator, "estimator", ESTIMATORS)
    if posterior.family != "normal" and checked != "reparameterization":
        raise ValueError(
            '`estimator` must be "reparameterization" where `posterior` is not mean-field normal; '
            f"got {shown(checked)}."
        )
    return checked
