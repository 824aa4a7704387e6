"""Checkpoints: a training run on disk, and whether a file belongs to a run."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .. import containers, disk
from ..checks import check_path, shown
from ..networks.network import MCNetwork
from .loop import TrainingRun, copied_weights


def recipe_of(optimizer: object) -> object:
    """The code of an optimizer function and the values that it uses.

    A loop that defines the function again in each round creates a new object each time, with an equal recipe.
    """
    if isinstance(optimizer, partial):
        return partial, recipe_of(optimizer.func), optimizer.args, optimizer.keywords
    if not isinstance(optimizer, FunctionType):
        return optimizer
    try:
        used = inspect.getclosurevars(optimizer)
    except ValueError:  # a variable without a value so far
        return optimizer
    return optimizer.__code__, optimizer.__defaults__, optimizer.__kwdefaults__, used.nonlocals, used.globals


def are_equal(left: object, right: object) -> bool:
    """Whether two values of any type are equal."""
    try:
        return bool(left == right)
    except (ValueError, TypeError, RuntimeError):  # a comparison of arrays is an array
        return False


class Checkpoint:
    """A file with the complete state of a run, so that it can continue. The file contains no code."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path(path, "checkpoint")
        _, old = disk.check_target(path, "checkpoint")
        self.content = None if old is None else containers.read(path, ("checkpoint",), "checkpoint")

    @property
    def seed(self) -> int | None:
        """The seed of the run in the file, if there is one."""
        return None if self.content is None else int(self.content[2]["run"]["seed"])

    def write(self, run: TrainingRun) -> None:
        """Replace the file atomically by the state of `run` after its last epoch."""
        arrays = {f"model.{name}": values for name, values in copied_weights(run.model).items()}
        arrays |= {f"best.{name}": values for name, values in (run.best or {}).items()}
        numbers: dict[str, Any] = {}
        state = run.learner.optimizer.state_dict()["state"]
        for number, entries in state.items():
            for name, value in entries.items():
                place = f"optimizer.{number}.{name}"
                (arrays if isinstance(value, Tensor) else numbers)[place] = value
        facts = {
            "run": _facts(run),
            "rows": run.rows,
            "best_value": run.best_value,
            "waited": run.epochs_without_improvement,
            "stopped": run.stopped,
            "rates": [group["lr"] for group in run.learner.optimizer.param_groups],
            "numbers": numbers,
            "plateau": None if run.plateau is None else run.plateau.state_dict(),
            "scaler": None if run.learner.scaler is None else run.learner.scaler.state_dict(),
        }
        containers.write(self.path, "checkpoint", {k: v.cpu().numpy() for k, v in arrays.items()}, facts, "checkpoint")

    def read_into(self, run: TrainingRun) -> None:
        """Set `run` to the state in the file; refuses the file of a different run and names the difference."""
        if self.content is None:
            return
        _, arrays, facts = self.content
        for name, value in json.loads(json.dumps(_facts(run))).items():
            if facts["run"].get(name) != value:
                raise ValueError(
                    f"`checkpoint` must be of the same training; got {shown(str(self.path))}, made with another "
                    f"`{name}`. Give another path, or remove the file to start again."
                )
        # Copied into memory of torch, which is aligned as in an uninterrupted run: kernels may depend on the alignment.
        tensors = {name: torch.tensor(values) for name, values in arrays.items()}
        run.model.load_state_dict(_under("model.", tensors))
        run.best = _under("best.", tensors) or None
        optimizer = run.learner.optimizer
        state = optimizer.state_dict()
        for place, value in _under("optimizer.", tensors | facts["numbers"]).items():
            number, name = place.split(".", 1)
            state["state"].setdefault(int(number), {})[name] = value
        optimizer.load_state_dict(state)
        for group, rate in zip(optimizer.param_groups, facts["rates"], strict=True):
            group["lr"] = rate
        if run.plateau is not None:
            run.plateau.load_state_dict(facts["plateau"])
        if run.learner.scaler is not None:
            run.learner.scaler.load_state_dict(facts["scaler"])
        run.rows, run.best_value = facts["rows"], facts["best_value"]
        run.epochs_without_improvement, run.stopped = facts["waited"], facts["stopped"]


def _facts(run: TrainingRun) -> dict[str, Any]:
    """The facts in which a run and its checkpoint must agree."""
    weights = run.learner.class_weights
    return {
        **run.settings.facts(),
        "model": run.model.spec if isinstance(run.model, MCNetwork) else str(run.model),
        "x": [len(run.train), _digest(run.model.buffers() if isinstance(run.model, MCNetwork) else [])],
        "y": _digest([run.train.targets]),
        "class_weight": None if weights is None else weights.tolist(),
    }


def _digest(tensors: Iterable[Tensor]) -> str:
    return hashlib.sha256(b"".join(values.cpu().numpy().tobytes() for values in tensors)).hexdigest()


def _under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
