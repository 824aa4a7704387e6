"""Checkpoints: a training run on disk, and whether a file belongs to a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import containers, disk
from ..checks import check_path, shown
from ..compute.out_of_memory import is_out_of_memory
from ..data.rows import Rows, from_tensor
from ..errors import UnreadableFile
from ..networks.network import MCNetwork
from .fingerprints import fingerprint_of_optimizer, fingerprint_of_rows
from .loop import TrainingRun, copied_weights
from .recipes import fingerprint_of_function
from .settings import Augment

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm: training changes them


class Checkpoint:
    """A file with the complete state of a run, so that it can continue. The file contains no code."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path(path, "checkpoint")
        _, old = disk.check_target(path, "checkpoint")
        self.content = None if old is None else containers.read(path, ("checkpoint",), "checkpoint")
        self.arguments: dict[str, Any] = {}
        self.functions: dict[str, Any] = {}
        try:
            self.seed = None if self.content is None else int(self.content[2]["run"]["seed"])
        except containers.DAMAGED as error:
            raise self._damaged() from error

    def _damaged(self) -> UnreadableFile:
        got = shown(str(self.path))
        return UnreadableFile(f"`checkpoint` must be a file as mc_fit() writes it; got {got}, whose parts do not fit.")

    def set_arguments(self, x: Rows, validation_x: Rows | None = None, *, augment: Augment | None) -> None:
        """Arguments of `mc_fit()` by which the file recognises its run, besides the settings and the optimizer."""
        self.arguments["x"] = fingerprint_of_rows(x)
        self.arguments["validation_data"] = None if validation_x is None else [fingerprint_of_rows(validation_x)]
        self.functions["augment"] = fingerprint_of_function(augment)

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
            "arguments": self.arguments,
            "functions": self.functions,
            "rows": run.rows,
            "best_value": run.best_value,
            "waited": run.epochs_without_improvement,
            "stopped": run.stopped,
            "rates": [group["lr"] for group in run.learner.optimizer.param_groups],
            "numbers": numbers,
            "plateau": None if run.plateau is None else run.plateau.state_dict(),
            "scaler": None if run.learner.scaler is None else run.learner.scaler.state_dict(),
        }
        containers.write(
            self.path, "checkpoint", {name: from_tensor(values) for name, values in arrays.items()}, facts, "checkpoint"
        )

    def read_into(self, run: TrainingRun) -> None:
        """Set `run` to the state in the file; refuses the file of a different run and names the difference."""
        if self.arguments["validation_data"] is not None and run.held_out is not None:
            self.arguments["validation_data"].append(_digest([run.held_out.targets]))
        self.arguments["optimizer"] = fingerprint_of_optimizer(run.learner.optimizer)
        kl_weight = run.settings.kl_weight.weight
        self.functions["kl_weight"] = fingerprint_of_function(kl_weight) if callable(kl_weight) else None
        if self.content is None:
            return
        _, arrays, facts = self.content
        of_run = _facts(run)
        try:
            different = self._different(facts, of_run)
            if different is None:
                _restore(run, arrays, facts)
        except containers.DAMAGED as error:
            if is_out_of_memory(error):
                raise
            raise self._damaged() from error
        if different is not None:
            raise ValueError(
                f"`checkpoint` must be of the same training; got {shown(str(self.path))}, made with another "
                f"`{different}`. Give another path, or remove the file to start again."
            )

    def _different(self, facts: Mapping[str, Any], of_run: dict[str, Any]) -> str | None:
        """The first argument in which the file and the run differ. Files of format 1 know only those in `of_run`."""
        of_run, arguments = json.loads(json.dumps([of_run, self.arguments]))
        different = [name for name, value in of_run.items() if facts["run"].get(name) != value]
        if "arguments" in facts:
            different += [name for name, value in arguments.items() if facts["arguments"].get(name) != value]
            for name, function in self.functions.items():
                stored = facts["functions"][name]
                is_of_other_python = None not in (function, stored) and function[0] != stored[0]  # looks different
                different += [name] if function != stored and not is_of_other_python else []
        return next(iter(different), None)


def _restore(run: TrainingRun, arrays: containers.Arrays, facts: Mapping[str, Any]) -> None:
    """Set `run` to the state in a file. The rows of the history come last: a run without them has learnt nothing."""
    # Copied into memory of torch, which is aligned as in an uninterrupted run: kernels may depend on the alignment.
    tensors = {name: torch.tensor(values) for name, values in arrays.items()}
    shapes = {name: values.shape for name, values in run.model.state_dict().items()}
    best = _under("best.", tensors)
    if best and {name: values.shape for name, values in best.items()} != shapes:
        raise ValueError("The best weights do not fit the model.")
    run.model.load_state_dict(_under("model.", tensors))
    run.best = best or None
    optimizer = run.learner.optimizer
    state = optimizer.state_dict()
    is_usual = isinstance(run.settings.optimizer, str)  # one of a user may keep anything
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for place, value in _under("optimizer.", tensors | facts["numbers"]).items():
        number, name = place.split(".", 1)
        if is_usual and isinstance(value, Tensor) and value.ndim > 0 and value.shape != weights[int(number)].shape:
            raise ValueError("The state of the optimizer does not fit the model.")
        state["state"].setdefault(int(number), {})[name] = value
    if is_usual and len({frozenset(entries) for entries in state["state"].values()}) > 1:
        raise ValueError("The state of the optimizer is not complete.")
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, facts["rates"], strict=True):
        group["lr"] = float(rate)
    if run.plateau is not None:
        run.plateau.load_state_dict(facts["plateau"])
    if run.learner.scaler is not None:
        run.learner.scaler.load_state_dict(facts["scaler"])
    best_value, rows = facts["best_value"], facts["rows"]
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
        raise ValueError("The history is not complete.")
    run.best_value = None if best_value is None else float(best_value)
    run.epochs_without_improvement, run.stopped = int(facts["waited"]), bool(facts["stopped"])
    run.rows = rows


def _facts(run: TrainingRun) -> dict[str, Any]:
    """The facts in which a run and its checkpoint must agree."""
    weights = run.learner.class_weights
    buffers = run.model.named_buffers() if isinstance(run.model, MCNetwork) else []
    units = [values for name, values in buffers if name.rpartition(".")[2] not in STATISTICS]
    return {
        **run.settings.facts(),
        "model": run.model.spec if isinstance(run.model, MCNetwork) else str(run.model),
        "x": [len(run.train), _digest(units)],
        "y": _digest([run.train.targets]),
        "class_weight": None if weights is None else weights.tolist(),
    }


def _digest(tensors: Iterable[Tensor]) -> str:
    return hashlib.sha256(b"".join(values.cpu().numpy().tobytes() for values in tensors)).hexdigest()


def _under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
