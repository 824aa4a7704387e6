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
    from .calibration import MCCalibration as MCCalibration
    from .calibration import MCConformal as MCConformal
    from .calibration import mc_apply as mc_apply
    from .calibration import mc_calibrate as mc_calibrate
    from .calibration import mc_conformal as mc_conformal
    from .charts import mc_balance_table as mc_balance_table
    from .charts import mc_band_table as mc_band_table
    from .charts import mc_plot_balance as mc_plot_balance
    from .charts import mc_plot_band as mc_plot_band
    from .charts import mc_plot_history as mc_plot_history
    from .charts import mc_plot_images as mc_plot_images
    from .charts import mc_plot_reliability as mc_plot_reliability
    from .charts import mc_plot_risk_coverage as mc_plot_risk_coverage
    from .charts import mc_plot_uncertainty as mc_plot_uncertainty
    from .charts import mc_uncertainty_table as mc_uncertainty_table
    from .checks import IdenticalDraws as IdenticalDraws
    from .checks import NoStochasticSites as NoStochasticSites
    from .checks import OutOfMemory as OutOfMemory
    from .checks import UnreadableFile as UnreadableFile
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
    from .plots import mc_plot_probabilities as mc_plot_probabilities
    from .plots import mc_probabilities_table as mc_probabilities_table
    from .prediction import MCPrediction as MCPrediction
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

HOMES = {  # where each public name lives
    "IdenticalDraws": "checks",
    "MCCalibration": "calibration",
    "MCConformal": "calibration",
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
    "mc_calibrate": "calibration",
    "mc_cnn": "models",
    "mc_conformal": "calibration",
    "mc_decide": "decisions",
    "mc_fit": "training",
    "mc_load": "files",
    "mc_mlp": "models",
    "mc_ood_scores": "scores",
    "mc_plot_balance": "charts",
    "mc_plot_band": "charts",
    "mc_plot_history": "charts",
    "mc_plot_images": "charts",
    "mc_plot_probabilities": "plots",
    "mc_plot_reliability": "charts",
    "mc_plot_risk_coverage": "charts",
    "mc_plot_uncertainty": "charts",
    "mc_predict": "sampling",
    "mc_predict_point": "sampling",
    "mc_probabilities_table": "plots",
    "mc_read_idx": "datasets",
    "mc_read_images": "datasets",
    "mc_report": "report",
    "mc_sample_data": "datasets",
    "mc_sampler": "sampling",
    "mc_save": "files",
    "mc_scores": "scores",
    "mc_sites": "sampling",
    "mc_train_on_batch": "training",
    "mc_triage": "decisions",
    "mc_uncertainty_table": "charts",
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
