"""How sure a neural network is of its prediction, and what to do about it.

Train a convolutional or dense network in mini-batches, predict with Monte Carlo dropout, and get the mean, the
spread and the aleatoric and epistemic parts of the uncertainty for every input. Names are loaded when first used,
so that importing the package loads no torch and changes nothing.
"""

from __future__ import annotations

from importlib import import_module, metadata
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.idx import mc_read_idx as mc_read_idx
    from .data.images import ImageFiles as ImageFiles
    from .data.images import mc_read_images as mc_read_images
    from .data.samples import SampleData as SampleData
    from .data.samples import mc_sample_data as mc_sample_data
    from .decisions.acquisition import mc_acquire as mc_acquire
    from .decisions.decide import mc_decide as mc_decide
    from .decisions.monitoring import MCMonitor as MCMonitor
    from .decisions.monitoring import mc_monitor as mc_monitor
    from .decisions.policy import MCPolicy as MCPolicy
    from .decisions.triage import mc_triage as mc_triage
    from .errors import IdenticalDraws as IdenticalDraws
    from .errors import NoStochasticSites as NoStochasticSites
    from .errors import OutOfMemory as OutOfMemory
    from .errors import UnreadableFile as UnreadableFile
    from .evaluation.apply import mc_apply as mc_apply
    from .evaluation.calibration import MCCalibration as MCCalibration
    from .evaluation.calibration import mc_calibrate as mc_calibrate
    from .evaluation.conformal import MCConformal as MCConformal
    from .evaluation.conformal import mc_conformal as mc_conformal
    from .evaluation.convergence import MCConvergence as MCConvergence
    from .evaluation.convergence import mc_compare_rates as mc_compare_rates
    from .evaluation.convergence import mc_convergence as mc_convergence
    from .evaluation.out_of_distribution import mc_ood_scores as mc_ood_scores
    from .evaluation.result import MCScores as MCScores
    from .evaluation.scores import mc_scores as mc_scores
    from .files import mc_load as mc_load
    from .files import mc_save as mc_save
    from .networks.bayesian import mc_bayes_cnn as mc_bayes_cnn
    from .networks.bayesian import mc_bayes_mlp as mc_bayes_mlp
    from .networks.bayesian import mc_bayes_resnet as mc_bayes_resnet
    from .networks.conversion import mc_to_bayesian as mc_to_bayesian
    from .networks.frozen import FrozenNetwork as FrozenNetwork
    from .networks.frozen import mc_frozen_backbone as mc_frozen_backbone
    from .networks.network import MCNetwork as MCNetwork
    from .networks.plain import mc_cnn as mc_cnn
    from .networks.plain import mc_mlp as mc_mlp
    from .networks.weights import mc_posterior_table as mc_posterior_table
    from .networks.weights import mc_weights_table as mc_weights_table
    from .plots.band import mc_band_table as mc_band_table
    from .plots.band import mc_plot_band as mc_plot_band
    from .plots.convergence import mc_plot_convergence as mc_plot_convergence
    from .plots.draws import mc_draws_table as mc_draws_table
    from .plots.draws import mc_plot_draws as mc_plot_draws
    from .plots.drift import mc_plot_drift as mc_plot_drift
    from .plots.posterior import mc_plot_posterior as mc_plot_posterior
    from .plots.probabilities import mc_plot_probabilities as mc_plot_probabilities
    from .plots.probabilities import mc_probabilities_table as mc_probabilities_table
    from .plots.scores import mc_plot_reliability as mc_plot_reliability
    from .plots.scores import mc_plot_risk_coverage as mc_plot_risk_coverage
    from .plots.training_data import mc_balance_table as mc_balance_table
    from .plots.training_data import mc_plot_balance as mc_plot_balance
    from .plots.training_data import mc_plot_history as mc_plot_history
    from .plots.training_data import mc_plot_images as mc_plot_images
    from .plots.uncertainty import mc_plot_uncertainty as mc_plot_uncertainty
    from .plots.uncertainty import mc_uncertainty_table as mc_uncertainty_table
    from .predictions.prediction import MCPrediction as MCPrediction
    from .report.report import mc_report as mc_report
    from .sampling.predict import mc_predict as mc_predict
    from .sampling.predict import mc_predict_point as mc_predict_point
    from .sampling.predict import mc_sites as mc_sites
    from .sampling.sampler import MCSampler as MCSampler
    from .sampling.sampler import mc_sampler as mc_sampler
    from .training.fit import mc_fit as mc_fit
    from .training.one_batch import mc_train_on_batch as mc_train_on_batch
    from .variational.convolutions import BayesConv1d as BayesConv1d
    from .variational.convolutions import BayesConv2d as BayesConv2d
    from .variational.linear import BayesLinear as BayesLinear
    from .variational.posteriors import Posterior as Posterior
    from .variational.posteriors import mc_posterior_custom as mc_posterior_custom
    from .variational.posteriors import mc_posterior_multivariate_normal as mc_posterior_multivariate_normal
    from .variational.posteriors import mc_posterior_normal as mc_posterior_normal
    from .variational.posteriors import mc_posterior_parameters as mc_posterior_parameters
    from .variational.priors import Prior as Prior
    from .variational.priors import mc_prior_cauchy as mc_prior_cauchy
    from .variational.priors import mc_prior_custom as mc_prior_custom
    from .variational.priors import mc_prior_horseshoe as mc_prior_horseshoe
    from .variational.priors import mc_prior_laplace as mc_prior_laplace
    from .variational.priors import mc_prior_mixture as mc_prior_mixture
    from .variational.priors import mc_prior_normal as mc_prior_normal
    from .variational.priors import mc_prior_student_t as mc_prior_student_t

HOMES = {  # the module of each public name
    "BayesConv1d": "variational.convolutions",
    "BayesConv2d": "variational.convolutions",
    "BayesLinear": "variational.linear",
    "FrozenNetwork": "networks.frozen",
    "IdenticalDraws": "errors",
    "ImageFiles": "data.images",
    "MCCalibration": "evaluation.calibration",
    "MCConformal": "evaluation.conformal",
    "MCConvergence": "evaluation.convergence",
    "MCMonitor": "decisions.monitoring",
    "MCNetwork": "networks.network",
    "MCPolicy": "decisions.policy",
    "MCPrediction": "predictions.prediction",
    "MCSampler": "sampling.sampler",
    "MCScores": "evaluation.result",
    "NoStochasticSites": "errors",
    "OutOfMemory": "errors",
    "Posterior": "variational.posteriors",
    "Prior": "variational.priors",
    "SampleData": "data.samples",
    "UnreadableFile": "errors",
    "mc_acquire": "decisions.acquisition",
    "mc_apply": "evaluation.apply",
    "mc_balance_table": "plots.training_data",
    "mc_band_table": "plots.band",
    "mc_bayes_cnn": "networks.bayesian",
    "mc_bayes_mlp": "networks.bayesian",
    "mc_bayes_resnet": "networks.bayesian",
    "mc_calibrate": "evaluation.calibration",
    "mc_cnn": "networks.plain",
    "mc_compare_rates": "evaluation.convergence",
    "mc_conformal": "evaluation.conformal",
    "mc_convergence": "evaluation.convergence",
    "mc_decide": "decisions.decide",
    "mc_draws_table": "plots.draws",
    "mc_fit": "training.fit",
    "mc_frozen_backbone": "networks.frozen",
    "mc_load": "files",
    "mc_mlp": "networks.plain",
    "mc_monitor": "decisions.monitoring",
    "mc_ood_scores": "evaluation.out_of_distribution",
    "mc_plot_balance": "plots.training_data",
    "mc_plot_band": "plots.band",
    "mc_plot_convergence": "plots.convergence",
    "mc_plot_draws": "plots.draws",
    "mc_plot_drift": "plots.drift",
    "mc_plot_history": "plots.training_data",
    "mc_plot_images": "plots.training_data",
    "mc_plot_posterior": "plots.posterior",
    "mc_plot_probabilities": "plots.probabilities",
    "mc_plot_reliability": "plots.scores",
    "mc_plot_risk_coverage": "plots.scores",
    "mc_plot_uncertainty": "plots.uncertainty",
    "mc_posterior_custom": "variational.posteriors",
    "mc_posterior_multivariate_normal": "variational.posteriors",
    "mc_posterior_normal": "variational.posteriors",
    "mc_posterior_parameters": "variational.posteriors",
    "mc_posterior_table": "networks.weights",
    "mc_predict": "sampling.predict",
    "mc_predict_point": "sampling.predict",
    "mc_prior_cauchy": "variational.priors",
    "mc_prior_custom": "variational.priors",
    "mc_prior_horseshoe": "variational.priors",
    "mc_prior_laplace": "variational.priors",
    "mc_prior_mixture": "variational.priors",
    "mc_prior_normal": "variational.priors",
    "mc_prior_student_t": "variational.priors",
    "mc_probabilities_table": "plots.probabilities",
    "mc_read_idx": "data.idx",
    "mc_read_images": "data.images",
    "mc_report": "report.report",
    "mc_sample_data": "data.samples",
    "mc_sampler": "sampling.sampler",
    "mc_save": "files",
    "mc_scores": "evaluation.scores",
    "mc_sites": "sampling.predict",
    "mc_to_bayesian": "networks.conversion",
    "mc_train_on_batch": "training.one_batch",
    "mc_triage": "decisions.triage",
    "mc_uncertainty_table": "plots.uncertainty",
    "mc_weights_table": "networks.weights",
}

__all__ = list(HOMES)  # pyright: ignore[reportUnsupportedDunderAll]  (one list, not two)


def _version() -> str:
    """The version of the checkout or the R package around this core, else the version that pip installed."""
    description = Path(__file__).parents[2] / "DESCRIPTION"
    if description.exists():
        return next(line.split()[1] for line in description.read_text().splitlines() if line.startswith("Version:"))
    return metadata.version("mcdropout")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{HOMES[name]}", __name__), name)
    if isfunction(value):
        from .compute.out_of_memory import explains_out_of_memory

        value = explains_out_of_memory(name)(value)
        value.__module__ = __name__  # where pickle finds this function
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
