"""Optimizers, and the schedule that lowers the learning rate on a plateau."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..checks import check_choice, shown
from .settings import SPREADS, TrainingSettings

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")


def make_optimizer(
    model: nn.Module, optimizer: object, learning_rate: float = 1e-3, weight_decay: float = 0.0
) -> Optimizer:
    """The optimizer: by name, as a function of the parameters, or a torch optimizer."""
    if isinstance(optimizer, Optimizer) or callable(optimizer):
        result = optimizer if isinstance(optimizer, Optimizer) else optimizer(model.parameters())
        if not isinstance(result, Optimizer):
            raise TypeError(f"`optimizer` must give a torch optimizer; got {shown(result)}.")
        held = {id(weights) for group in result.param_groups for weights in group["params"]}
        if held.isdisjoint(map(id, model.parameters())):
            raise ValueError("`optimizer` must have parameters of `model`; got one of other parameters.")
        return result
    check_choice(optimizer, "optimizer", OPTIMIZERS)
    named = [(name.rpartition(".")[2], weight) for name, weight in model.named_parameters()]
    decayed = [weight for name, weight in named if name not in SPREADS]
    undecayed = [weight for name, weight in named if name in SPREADS]
    groups: list[dict[str, Any]] = [{"params": decayed}]
    if undecayed:
        groups.append({"params": undecayed, "weight_decay": 0.0})  # standard deviations and variances do not decay
    common: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if optimizer == "rmsprop":
        return RMSprop(groups, **common)
    if optimizer == "sgd":
        return SGD(groups, momentum=0.9, **common)
    return (Adam if optimizer == "adam" else AdamW)(groups, **common)


def plateau(optimizer: Optimizer, settings: TrainingSettings) -> ReduceLROnPlateau | None:
    """The schedule that lowers the learning rate on a plateau; None without `reduce_lr`."""
    if settings.reduce_lr is None:
        return None
    patience, factor = settings.reduce_lr
    mode = "max" if settings.larger_is_better else "min"
    return ReduceLROnPlateau(optimizer, mode, factor, patience - 1, threshold=0.0)  # torch waits one epoch more
