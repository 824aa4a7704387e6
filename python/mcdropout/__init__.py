"""How sure a neural network is of its prediction, and what to do about it.

Train a convolutional or dense network in mini-batches, predict with Monte Carlo dropout, and get the mean, the
spread and the aleatoric and epistemic parts of the uncertainty for every input. Names are loaded when first used,
so that importing the package loads no torch and changes nothing.
"""

from __future__ import annotations

from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .acquisition import mc_acquire as mc_acquire
    from .backbones import FrozenNetwork as FrozenNetwork
    from .backbones import mc_frozen_backbone as mc_frozen_backbone
    from .bayes_models import mc_bayes_cnn as mc_bayes_cnn
    from .bayes_models import mc_bayes_mlp as mc_bayes_mlp
    from .bayes_models import mc_bayes_resnet as mc_bayes_resnet
    from .bayes_models import mc_posterior_table as mc_posterior_table
    from .bayes_models import mc_to_bayesian as mc_to_bayesian
    from .bayes_models import mc_weights_table as mc_weights_table
    from .calibration import MCCalibration as MCCalibration
    from .calibration import MCConformal as MCConformal
    from .calibration import mc_apply as mc_apply
    from .calibration import mc_calibrate as mc_calibrate
    from .calibration import mc_conformal as mc_conformal
    from .charts import mc_balance_table as mc_balance_table
    from .charts import mc_band_table as mc_band_table
    from .charts import mc_draws_table as mc_draws_table
    from .charts import mc_plot_balance as mc_plot_balance
    from .charts import mc_plot_band as mc_plot_band
    from .charts import mc_plot_draws as mc_plot_draws
    from .charts import mc_plot_history as mc_plot_history
    from .charts import mc_plot_images as mc_plot_images
    from .charts import mc_plot_posterior as mc_plot_posterior
    from .charts import mc_plot_reliability as mc_plot_reliability
    from .charts import mc_plot_risk_coverage as mc_plot_risk_coverage
    from .charts import mc_plot_uncertainty as mc_plot_uncertainty
    from .charts import mc_uncertainty_table as mc_uncertainty_table
    from .checks import IdenticalDraws as IdenticalDraws
    from .checks import NoStochasticSites as NoStochasticSites
    from .checks import OutOfMemory as OutOfMemory
    from .checks import UnreadableFile as UnreadableFile
    from .convergence import MCConvergence as MCConvergence
    from .convergence import mc_compare_rates as mc_compare_rates
    from .convergence import mc_convergence as mc_convergence
    from .datasets import mc_read_idx as mc_read_idx
    from .datasets import mc_read_images as mc_read_images
    from .datasets import mc_sample_data as mc_sample_data
    from .decisions import MCPolicy as MCPolicy
    from .decisions import mc_decide as mc_decide
    from .decisions import mc_triage as mc_triage
    from .files import mc_load as mc_load
    from .files import mc_save as mc_save
    from .models import MCNetwork as MCNetwork
    from .models import mc_cnn as mc_cnn
    from .models import mc_mlp as mc_mlp
    from .monitoring import MCMonitor as MCMonitor
    from .monitoring import mc_monitor as mc_monitor
    from .plots import mc_plot_convergence as mc_plot_convergence
    from .plots import mc_plot_drift as mc_plot_drift
    from .plots import mc_plot_probabilities as mc_plot_probabilities
    from .plots import mc_probabilities_table as mc_probabilities_table
    from .prediction import MCPrediction as MCPrediction
    from .priors import mc_posterior_custom as mc_posterior_custom
    from .priors import mc_posterior_multivariate_normal as mc_posterior_multivariate_normal
    from .priors import mc_posterior_normal as mc_posterior_normal
    from .priors import mc_posterior_parameters as mc_posterior_parameters
    from .priors import mc_prior_cauchy as mc_prior_cauchy
    from .priors import mc_prior_custom as mc_prior_custom
    from .priors import mc_prior_horseshoe as mc_prior_horseshoe
    from .priors import mc_prior_laplace as mc_prior_laplace
    from .priors import mc_prior_mixture as mc_prior_mixture
    from .priors import mc_prior_normal as mc_prior_normal
    from .priors import mc_prior_student_t as mc_prior_student_t
    from .report import mc_report as mc_report
    from .sampling import mc_predict as mc_predict
    from .sampling import mc_predict_point as mc_predict_point
    from .sampling import mc_sampler as mc_sampler
    from .sampling import mc_sites as mc_sites
    from .scores import MCScores as MCScores
    from .scores import mc_ood_scores as mc_ood_scores
    from .scores import mc_scores as mc_scores
    from .training import mc_fit as mc_fit
    from .training import mc_train_on_batch as mc_train_on_batch
    from .variational import BayesConv1d as BayesConv1d
    from .variational import BayesConv2d as BayesConv2d
    from .variational import BayesLinear as BayesLinear

HOMES = {  # where each public name lives
    "BayesConv1d": "variational",
    "BayesConv2d": "variational",
    "BayesLinear": "variational",
    "FrozenNetwork": "backbones",
    "IdenticalDraws": "checks",
    "MCCalibration": "calibration",
    "MCConformal": "calibration",
    "MCConvergence": "convergence",
    "MCMonitor": "monitoring",
    "MCNetwork": "models",
    "MCPolicy": "decisions",
    "MCPrediction": "prediction",
    "MCScores": "scores",
    "NoStochasticSites": "checks",
    "OutOfMemory": "checks",
    "UnreadableFile": "checks",
    "mc_acquire": "acquisition",
    "mc_apply": "calibration",
    "mc_balance_table": "charts",
    "mc_band_table": "charts",
    "mc_bayes_cnn": "bayes_models",
    "mc_bayes_mlp": "bayes_models",
    "mc_bayes_resnet": "bayes_models",
    "mc_calibrate": "calibration",
    "mc_cnn": "models",
    "mc_compare_rates": "convergence",
    "mc_conformal": "calibration",
    "mc_convergence": "convergence",
    "mc_decide": "decisions",
    "mc_draws_table": "charts",
    "mc_fit": "training",
    "mc_frozen_backbone": "backbones",
    "mc_load": "files",
    "mc_mlp": "models",
    "mc_monitor": "monitoring",
    "mc_ood_scores": "scores",
    "mc_plot_balance": "charts",
    "mc_plot_band": "charts",
    "mc_plot_convergence": "plots",
    "mc_plot_draws": "charts",
    "mc_plot_drift": "plots",
    "mc_plot_history": "charts",
    "mc_plot_images": "charts",
    "mc_plot_posterior": "charts",
    "mc_plot_probabilities": "plots",
    "mc_plot_reliability": "charts",
    "mc_plot_risk_coverage": "charts",
    "mc_plot_uncertainty": "charts",
    "mc_posterior_custom": "priors",
    "mc_posterior_multivariate_normal": "priors",
    "mc_posterior_normal": "priors",
    "mc_posterior_parameters": "priors",
    "mc_posterior_table": "bayes_models",
    "mc_predict": "sampling",
    "mc_predict_point": "sampling",
    "mc_prior_cauchy": "priors",
    "mc_prior_custom": "priors",
    "mc_prior_horseshoe": "priors",
    "mc_prior_laplace": "priors",
    "mc_prior_mixture": "priors",
    "mc_prior_normal": "priors",
    "mc_prior_student_t": "priors",
    "mc_probabilities_table": "plots",
    "mc_read_idx": "datasets",
    "mc_read_images": "datasets",
    "mc_report": "report",
    "mc_sample_data": "datasets",
    "mc_sampler": "sampling",
    "mc_save": "files",
    "mc_scores": "scores",
    "mc_sites": "sampling",
    "mc_to_bayesian": "bayes_models",
    "mc_train_on_batch": "training",
    "mc_triage": "decisions",
    "mc_uncertainty_table": "charts",
    "mc_weights_table": "bayes_models",
}

__all__ = list(HOMES)  # pyright: ignore[reportUnsupportedDunderAll]  (one list, not two)


def _version() -> str:
    """The version of the checkout or R package that this core lies in, else of what pip installed."""
    description = Path(__file__).parents[2] / "DESCRIPTION"
    if description.exists():
        return next(line.split()[1] for line in description.read_text().splitlines() if line.startswith("Version:"))
    return metadata.version("mcdropout")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
