"""The settings of a training run, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checks import check_choice, check_count, check_number, shown
from .losses import Objective

Model = TypeVar("Model", bound=nn.Module)

MakeOptimizer = Callable[[Any], Optimizer]

Augment = Callable[[Tensor, torch.Generator], Tensor]

Callback = Callable[[dict[str, Any]], object]

KLWeight = str | float | Mapping[str, Any] | Callable[[int], float]

Weights = dict[str, Tensor]

SPREADS = (
    "log_variance",
    "weight_rho",
    "bias_rho",
    "tril",
)  # names of parameters for variances and deviations


@dataclass(frozen=True)
class TrainingSettings:
    """The arguments of `mc_fit()` that decide the trained weights, checked."""

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str | MakeOptimizer
    weight_decay: float
    validation_split: float
    early_stopping: int | None
    monitor: str
    reduce_lr: tuple[int, float] | None
    kl_weight: _KLWeight
    precision: str
    seed: int

    def check_monitor(self, objective: Objective, validated: bool) -> None:
        """Refuse a metric that the run does not measure."""
        watched = self.early_stopping is not None or self.reduce_lr is not None
        validated = validated or not watched
        metrics = ["loss", objective.metric]
        metrics += [f"val_{name}" for name in metrics] if validated else []
        if isinstance(self.monitor, str) and self.monitor in metrics:
            return
        words = ", ".join(f'"{name}"' for name in metrics)
        hint = "" if validated else " Hold inputs out with `validation_split` for metrics that start with val_."
        raise ValueError(f"`monitor` must be one of {words}; got {shown(self.monitor)}.{hint}")

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether `value` of the monitored metric is an improvement."""
        return best is None or (value > best if self.larger_is_better else value < best)

    @property
    def larger_is_better(self) -> bool:
        """Whether the monitored metric is better when larger."""
        return self.monitor.endswith("accuracy")

    def facts(self) -> dict[str, Any]:
        """All settings but `epochs` in a form for JSON: a run and its checkpoint must agree in them."""
        facts = {name: value for name, value in vars(self).items() if name != "epochs"}
        facts["optimizer"] = "a function" if callable(self.optimizer) else self.optimizer
        facts["reduce_lr"] = None if self.reduce_lr is None else list(self.reduce_lr)
        facts["kl_weight"] = self.kl_weight.facts()
        return facts


@dataclass(frozen=True)
class _KLWeight:
    """The weight of the KL divergence, epoch by epoch."""

    weight: str | float | Callable[[int], float]
    warm_up: int = 0

    def at(self, epoch: int, n_values: int) -> float:
        """The weight in this epoch."""
        if callable(self.weight):
            return check_number(self.weight(epoch), "kl_weight", at_least=0)
        full = 1 / n_values if isinstance(self.weight, str) else self.weight
        return full * min(1.0, epoch / self.warm_up) if self.warm_up else full

    def facts(self) -> dict[str, Any]:
        """The weight in a form for JSON."""
        return {"weight": "a function" if callable(self.weight) else self.weight, "warm_up": self.warm_up}


def kl_weight_of(kl_weight: Any) -> _KLWeight:
    """The argument `kl_weight` of `mc_fit()`, checked."""
    if isinstance(kl_weight, Mapping):
        if "warm_up" not in kl_weight or not set(kl_weight) <= {"warm_up", "weight"}:
            raise ValueError(
                "`kl_weight` must have `warm_up` and perhaps `weight` where it is a mapping; "
                f"got {shown(dict(kl_weight))}."
            )
        full = kl_weight.get("weight", "1/N")
        if isinstance(full, Mapping) or callable(full):
            raise ValueError(f'`kl_weight\'s weight` must be "1/N" or a number; got {shown(full)}.')
        return _KLWeight(kl_weight_of(full).weight, check_count(kl_weight["warm_up"], "kl_weight's warm_up"))
    if callable(kl_weight):
        check_number(kl_weight(1), "kl_weight", at_least=0)  # a wrong function fails before training starts
        return _KLWeight(kl_weight)  # type: ignore[arg-type]  # a function of the epoch
    if isinstance(kl_weight, str):
        return _KLWeight(check_choice(kl_weight, "kl_weight", ("1/N",)))
    return _KLWeight(check_number(kl_weight, "kl_weight", at_least=0))


def spread_name(path: str) -> str:
    """The name of a layer's standard deviation in the history."""
    return f"std_{path.removeprefix('layers.')}"
