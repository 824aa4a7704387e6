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

from .. import containers
from ..checks import check_path, shown
from ..networks.network import MCNetwork
from .loop import TrainingRun, copied_weights


def recipe_of(optimizer: object) -> object:
    """What an optimizer's function makes it from: its code and the values it uses.

    A loop that writes the function anew in each round makes another object each time, with the same recipe.
    """
    if isinstance(optimizer, partial):
        return partial, recipe_of(optimizer.func), optimizer.args, optimizer.keywords
    if not isinstance(optimizer, FunctionType):
        return optimizer
    try:
        used = inspect.getclosurevars(optimizer)
    except ValueError:  # a variable that has no value yet
        return optimizer
    return optimizer.__code__, optimizer.__defaults__, optimizer.__kwdefaults__, used.nonlocals, used.globals


def are_equal(one: object, other: object) -> bool:
    """Whether two values of any type are equal."""
    try:
        return bool(one == other)
    except (ValueError, TypeError, RuntimeError):  # arrays among the values have no one answer
        return False


class Checkpoint:
    """A file with all that a run needs to go on as if it had never stopped; no code in it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path(path, "checkpoint")
        if not self.path.absolute().parent.is_dir():
            raise ValueError(f"`checkpoint` must be in a folder that exists; got {shown(str(path))}.")
        self.found = containers.read(path, ("checkpoint",)) if self.path.exists() else None

    @property
    def seed(self) -> int | None:
        """The seed of the run in the file, if there is one."""
        return None if self.found is None else int(self.found[2]["run"]["seed"])

    def write(self, run: TrainingRun) -> None:
        """Replace the file with the state of `run` after its last epoch, in one step."""
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
            "waited": run.waited,
            "stopped": run.stopped,
            "rates": [group["lr"] for group in run.learner.optimizer.param_groups],
            "numbers": numbers,
            "plateau": None if run.plateau is None else run.plateau.state_dict(),
            "scaler": None if run.learner.scaler is None else run.learner.scaler.state_dict(),
        }
        containers.write(self.path, "checkpoint", {k: v.cpu().numpy() for k, v in arrays.items()}, facts)

    def read_into(self, run: TrainingRun) -> None:
        """Put `run` where the file's run was; refuses the file of another run, saying what differs."""
        if self.found is None:
            return
        _, arrays, facts = self.found
        for name, value in json.loads(json.dumps(_facts(run))).items():
            if facts["run"].get(name) != value:
                raise ValueError(
                    f"`checkpoint` must be of the same training; got {shown(str(self.path))}, made with another "
                    f"`{name}`. Give another path, or remove the file to start again."
                )
        # in torch's own memory, aligned as in a run that was never interrupted: nothing is left to how a kernel goes
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
        run.waited, run.stopped = facts["waited"], facts["stopped"]


def _facts(run: TrainingRun) -> dict[str, Any]:
    """What two runs must share to be one."""
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
