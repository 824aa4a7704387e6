"""The loss and the metric of each task, and the weights of the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_choice, check_number, entries, listed, shown
from ..data.labels import Label, as_label, as_labels, as_targets
from ..networks.network import MCNetwork

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Objective:
    """Loss and metric of one task, both means over a batch.

    loss: (outputs, targets, weight of each label or None) to a number with a gradient.
    quality: (outputs, targets) to the share of hits, or to the squared error in the caller's units.
    metric: "accuracy", the quality itself, or "rmse", its square root.
    """

    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    quality: Callable[[Tensor, Tensor], Tensor]
    metric: str

    def shown_quality(self, quality: float) -> float:
        """The metric, from the mean quality of an epoch."""
        return math.sqrt(quality) if self.metric == "rmse" else quality


def objective_of(model: nn.Module) -> Objective:
    """The objective for the `task` and `outputs` of a model; TypeError for a module without these attributes."""
    task, outputs = getattr(model, "task", None), getattr(model, "outputs", None)
    if not isinstance(model, nn.Module) or task is None or outputs is None or not hasattr(model, "labels"):
        raise TypeError(
            "`model` must be a network of mc_cnn() or mc_mlp(), or a torch module with the attributes `task`, "
            f"`labels` and `outputs`; got {type(model).__name__}."
        )
    if task == "classification":
        return Objective(_cross_entropy, _hits, "accuracy")
    if task == "binary":
        return Objective(_binary_cross_entropy, _binary_hits, "accuracy")
    if check_choice(outputs, "outputs", ("values", "mean_log_variance")) == "values":
        return Objective(_squared_error, _squared_error_in_units(model), "rmse")
    return Objective(_gaussian, _squared_error_in_units(model), "rmse")


def raw_outputs(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The function from prepared inputs to the outputs in the loss: in standard units for networks of this package."""
    return model.standard_outputs if isinstance(model, MCNetwork) else model


def preparation(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The function that prepares inputs for `raw_outputs()`."""
    return model.standard_inputs if isinstance(model, MCNetwork) else _unchanged


def as_model_targets(model: Any, y: object, name: str = "y") -> np.ndarray:
    """`y` checked and converted: label codes (input,) int64, or values (input, output) float64."""
    if model.task != "regression":
        return as_labels(y, model.labels, name)[0]
    return as_targets(y, model.n_outputs if isinstance(model, MCNetwork) else None, name)


def as_loss_targets(model: Any, targets: np.ndarray) -> Tensor:
    """Targets for the loss: codes, 0 or 1 as float32, or values in standard units."""
    values = torch.from_numpy(targets)
    if model.task == "classification":
        return values
    return (
        model.standard_targets(values)
        if isinstance(model, MCNetwork) and model.task == "regression"
        else values.float()
    )


def as_class_weights(
    class_weight: str | Mapping[Label, float] | Sequence[float] | None, model: Any, codes: np.ndarray
) -> Tensor | None:
    """The weight of each label, (label,) float32, in the order of `model.labels`; labels not named weigh 1.

    "balanced": inversely to how often a label occurs in `codes`, 1 on average over the inputs.
    """
    if class_weight is None:
        return None
    labels: tuple[Label, ...] | None = model.labels
    if labels is None:
        raise ValueError("`class_weight` must be left out where values are learnt; got one.")
    if isinstance(class_weight, str):
        check_choice(class_weight, "class_weight", ("balanced",))
        counts = np.bincount(codes, minlength=len(labels))
        weights = len(codes) / ((counts > 0).sum() * np.maximum(counts, 1))
    elif isinstance(class_weight, Mapping):
        weights = _weights_by_label(class_weight, labels)
    else:
        numbers = entries(class_weight)
        if numbers is None:
            raise ValueError(f'`class_weight` must be "balanced" or weights by label; got {shown(class_weight)}.')
        weights = [check_number(weight, "class_weight", at_least=0) for weight in numbers]
        if len(weights) != len(labels):
            raise ValueError(f"`class_weight` must have one weight per label ({len(labels)}); got {len(weights)}.")
    if not np.any(weights):
        raise ValueError("`class_weight` must be above 0 for at least one label; got 0 for all.")
    return torch.tensor(np.asarray(weights), dtype=torch.float32)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _weights_by_label(class_weight: Mapping[Label, float], labels: tuple[Label, ...]) -> list[float]:
    place = {str(label): i for i, label in enumerate(labels)}
    weights = [1.0] * len(labels)
    for label, weight in class_weight.items():
        if str(as_label(label)) not in place:
            raise ValueError(f"`class_weight` must name labels out of {listed(labels)}; got {shown(label)}.")
        weights[place[str(as_label(label))]] = check_number(weight, "class_weight", at_least=0)
    return weights


def _cross_entropy(out: Tensor, codes: Tensor, weights: Tensor | None) -> Tensor:
    return F.cross_entropy(out, codes, weights)


def _hits(out: Tensor, codes: Tensor) -> Tensor:
    return (out.argmax(-1) == codes).float().mean()


def _binary_cross_entropy(out: Tensor, codes: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return F.binary_cross_entropy_with_logits(out[:, 0], codes)
    input_weights = weights[codes.long()]
    return F.binary_cross_entropy_with_logits(out[:, 0], codes, input_weights, reduction="sum") / input_weights.sum()


def _binary_hits(out: Tensor, codes: Tensor) -> Tensor:
    return ((out[:, 0] > 0) == codes.bool()).float().mean()


def _squared_error(out: Tensor, values: Tensor, _: Tensor | None) -> Tensor:
    return F.mse_loss(out, values)


def _gaussian(out: Tensor, values: Tensor, _: Tensor | None) -> Tensor:
    mean, log_variance = out.chunk(2, dim=-1)
    return 0.5 * (LOG_2PI + log_variance + (values - mean).square() * (-log_variance).exp()).mean()


def _squared_error_in_units(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def quality(out: Tensor, values: Tensor) -> Tensor:
        error = out[:, : values.shape[1]] - values  # log-variances may follow the means
        return (error * model.target_scale if isinstance(model, MCNetwork) else error).square().mean()

    return quality
