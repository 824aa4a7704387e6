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

SPREADS = ("log_variance", "weight_rho", "bias_rho", "tril")  # names of parameters that say how wide something is


@dataclass(frozen=True)
class TrainingSettings:
    """The arguments of `mc_fit()` that decide what is learnt, checked."""

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
        """Refuse to watch what will not be measured."""
        measured = ["loss", objective.metric]
        measured += [f"val_{name}" for name in measured] if validated else []
        if self.monitor in measured or (self.early_stopping is None and self.reduce_lr is None):
            return
        words = ", ".join(f'"{name}"' for name in measured)
        way_out = "" if validated else " Hold inputs out with `validation_split` to watch those."
        raise ValueError(f"`monitor` must be one of {words}; got {shown(self.monitor)}.{way_out}")

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether `value` of the monitored metric is an improvement."""
        return best is None or (value > best if self.wants_more else value < best)

    @property
    def wants_more(self) -> bool:
        """Whether the monitored metric is better when larger."""
        return self.monitor.endswith("accuracy")

    def facts(self) -> dict[str, Any]:
        """All but `epochs`, as JSON can hold it: what two runs must share to be one."""
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
        """Its value in this epoch."""
        if callable(self.weight):
            return check_number(self.weight(epoch), "kl_weight", at_least=0)
        full = 1 / n_values if isinstance(self.weight, str) else self.weight
        return full * min(1.0, epoch / self.warm_up) if self.warm_up else full

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"weight": "a function" if callable(self.weight) else self.weight, "warm_up": self.warm_up}


def kl_weight_of(given: Any) -> _KLWeight:
    """The weight of the KL divergence over the steps of a run."""
    if isinstance(given, Mapping):
        if "warm_up" not in given or not set(given) <= {"warm_up", "weight"}:
            raise ValueError(
                f"`kl_weight` must have `warm_up` and perhaps `weight` where it is a mapping; got {shown(dict(given))}."
            )
        full = given.get("weight", "1/N")
        if isinstance(full, Mapping) or callable(full):  # a schedule of its own
            raise ValueError(f'`kl_weight\'s weight` must be "1/N" or a number; got {shown(full)}.')
        return _KLWeight(kl_weight_of(full).weight, check_count(given["warm_up"], "kl_weight's warm_up"))
    if callable(given):
        check_number(given(1), "kl_weight", at_least=0)  # before anything is learnt
        return _KLWeight(given)  # type: ignore[arg-type]  # a function of the epoch
    if isinstance(given, str):
        return _KLWeight(check_choice(given, "kl_weight", ("1/N",)))
    return _KLWeight(check_number(given, "kl_weight", at_least=0))


def spread_name(path: str) -> str:
    """The name of a layer's standard deviation in the history."""
    return f"std_{path.removeprefix('layers.')}"
