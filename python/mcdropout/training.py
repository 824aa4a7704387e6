"""Train on arrays in mini-batches: one readable loop on torch's own optimisers and schedulers.

Every epoch's order and dropout come from (seed, epoch) alone. So a run that was interrupted and resumed from
its checkpoint ends with the very weights of one that was not. Networks of ours draw from generators of their own;
other modules, which may draw in ways that only torch's global generators serve, have these lent for each step.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ReduceLROnPlateau

from . import containers
from .arrays import PIECE, ArrayRows, Label, Rows, as_device, as_rows, check_finite, columns_of, doubles, in_order
from .backbones import FrozenNetwork, behind_backbone
from .checks import (
    check_choice,
    check_count,
    check_length,
    check_number,
    check_path,
    check_seed,
    shown,
    warn,
)
from .devices import sent
from .models import ACTIVATIONS, MCNetwork, mean_and_std
from .objectives import (
    Objective,
    as_class_weights,
    as_loss_targets,
    as_model_targets,
    objective_of,
    preparation,
    raw_outputs,
)
from .precision import PRECISIONS
from .progress import Progress, reporting
from .randomness import OwnDraws, OwnStream
from .variational import BayesLayer, kl_divergence_of, variational_layers

Model = TypeVar("Model", bound=nn.Module)
MakeOptimizer = Callable[[Any], Optimizer]
Augment = Callable[[Tensor, torch.Generator], Tensor]
Callback = Callable[[dict[str, Any]], object]
KLWeight = str | float | Mapping[str, Any] | Callable[[int], float]
Weights = dict[str, Tensor]

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
SPREADS = ("log_variance", "weight_rho", "bias_rho", "tril")  # names of parameters that say how wide something is
ON_DEVICE = 1 << 30  # bytes: inputs up to this go to a GPU whole, larger ones batch by batch


def mc_fit(
    model: Model,
    x: object,
    y: object,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    optimizer: str | MakeOptimizer = "adam",
    weight_decay: float = 0.0,
    validation_split: float = 0.0,
    validation_data: tuple[object, object] | None = None,
    early_stopping: int | None = None,
    monitor: str = "val_loss",
    reduce_lr: int | Mapping[str, float] | None = None,
    class_weight: str | Mapping[Label, float] | Sequence[float] | None = None,
    kl_weight: KLWeight = "1/N",
    augment: Augment | None = None,
    callbacks: Callback | Sequence[Callback] | None = None,
    precision: str = "float32",
    device: str | torch.device = "auto",
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = True,
) -> Model:
    """Train `model` in place on inputs `x` and their labels or values `y`; gives it back, ready to predict.

    model: of `mc_cnn()`, `mc_mlp()` or their kin, or any torch module with attributes `task`, `labels`, `outputs`
      like theirs.
    x: (input, ...), an array, tensor, data frame or image files. A network of ours keeps the names of a data frame's
      columns, and finds them in others, in any order. y: labels, or values (input, output).
    optimizer: "adam", "adamw", "sgd" (momentum 0.9), "rmsprop", or a function from parameters to an optimizer,
      which then has its own learning rate and weight decay.
    validation_split: share of the inputs to hold out, of each label alike. validation_data: (x, y) instead.
    early_stopping: epochs without a better `monitor` after which to stop; the best weights are then put back.
    monitor: "loss", "accuracy" (for values "rmse"), or one of these with "val_" before it.
    reduce_lr: epochs without a better `monitor` after which the learning rate is halved, or a mapping with
      `patience` and `factor`.
    class_weight: "balanced", or weights in the training loss, by label or in the order of the labels.
    kl_weight: of the KL divergence of variational layers, which is added to the loss: "1/N", one over the number of
      values learnt from, makes the loss the negative evidence lower bound per value; or a number, at least 0; a
      function of the epoch (1, 2, ...) to a number; or for a warm-up a mapping with `warm_up`, a number of epochs in
      which it rises evenly to `weight` ("1/N" by default).
    augment: called with a batch of inputs and a torch.Generator; gives the batch to learn from. A network of ours gives
      it tables in the caller's units, in float64 in the host's memory.
    callbacks: called after each epoch with its row of the history; one that gives True or "stop" ends training.
    precision: "float32", or for mixed precision "bfloat16" or "float16".
    seed: decides the held-out part, the order and the dropout; None draws one (or takes the checkpoint's). Networks of
      ours draw from generators of their own. For other modules torch's global generators are borrowed during each step
      and put back after it, so let no other thread draw from them meanwhile.
    checkpoint: a file, written after every epoch; where it exists, training goes on from it, and ends with the weights
      of a run that was never interrupted: to the bit on one machine with as many threads of torch.
    progress: a bar, or a function that is called with (batches done, batches in all, text).

    `model.history` has a row per epoch: epoch, loss, accuracy or rmse, both with "val_", learning_rate, seconds.
    The loss is cross-entropy in nats; for values it is the negative log-likelihood (without noise, the squared
    error) in standard deviations of the training values, while rmse is in the caller's units. With variational
    layers the row also has nll, the loss without its KL term, kl, the divergence in nats of all layers, and
    kl_weight, so that loss = nll + kl_weight * kl; and for each layer std_<its path>, the mean posterior standard
    deviation of its weights after the epoch. Validation is of the posterior means, and without the KL term. An
    interrupt (Ctrl-C) stops with a warning and keeps what was learnt.

    Raises ValueError for arguments that cannot be used, and FloatingPointError when the loss or a weight is no
    number any more. Whatever the error, what the model learnt in that epoch is taken back; where it had learnt nothing
    before, it is as it was, its units and columns too.
    """
    given, objective = model, objective_of(model)
    file = None if checkpoint is None else _Checkpoint(checkpoint)
    settings = _Settings(
        epochs=check_count(epochs, "epochs"),
        batch_size=check_count(batch_size, "batch_size"),
        learning_rate=check_number(learning_rate, "learning_rate", above=0),
        optimizer=optimizer if callable(optimizer) else check_choice(optimizer, "optimizer", OPTIMIZERS),
        weight_decay=check_number(weight_decay, "weight_decay", at_least=0),
        validation_split=check_number(validation_split, "validation_split", at_least=0, below=1),
        early_stopping=None if early_stopping is None else check_count(early_stopping, "early_stopping"),
        monitor=monitor,
        reduce_lr=_reduction(reduce_lr),
        kl_weight=_kl_weight(kl_weight),
        precision=check_choice(precision, "precision", PRECISIONS),
        seed=check_seed(file.seed if file is not None and seed is None else seed),
    )
    found_device = as_device(device)
    told = _functions(callbacks, "callbacks")
    if augment is not None:
        _functions(augment, "augment")
        if isinstance(model, FrozenNetwork):
            raise ValueError(
                "`augment` must be left out where `model` has a frozen backbone, whose features are computed once; "
                "change the inputs before."
            )
    if isinstance(model, FrozenNetwork) and isinstance(validation_data, (tuple, list)) and len(validation_data) == 2:
        name = "validation_data's x"
        validation_data = (behind_backbone(model, validation_data[0], found_device, name)[1], validation_data[1])
    model, x = behind_backbone(model, x, found_device)

    rows, targets = _examples(model, x, y, "x", "y")
    columns = columns_of(rows)
    others = _validation_examples(model, validation_data, settings, columns)
    learnt, held = _split(targets, settings)
    settings.check_monitor(objective, validated=others is not None or held is not None)
    class_weights = as_class_weights(class_weight, model, targets[learnt])
    before, run = _Before.of(model), None
    try:
        if isinstance(model, MCNetwork):
            _set_scales(model, rows, targets, learnt)
            model.columns = model.columns or columns
        with _at_work(model, found_device):
            train = _Part.of(model, rows, targets, found_device, augment is not None).choice(learnt)
            held_out = None if held is None else train.choice(held)
            if others is not None:
                held_out = _Part.of(model, *others, found_device)
            made = make_optimizer(model, settings.optimizer, settings.learning_rate, settings.weight_decay)
            learner = _Learner(model, objective, made, class_weights, settings.precision, found_device)
            run = _Run(learner, settings, train, held_out)
            if file is not None:
                file.read_into(run)
            try:
                done, total = (epochs * run.batches_per_epoch for epochs in (len(run.rows), settings.epochs))
                with reporting(progress, total, "batch", done=done, every=0.1) as report:
                    while not run.finished:
                        row = run.one_epoch(augment, report)
                        answers = [tell(dict(row)) for tell in told]
                        run.stopped |= any(
                            isinstance(answer, (bool, np.bool_, str)) and answer in (True, "stop") for answer in answers
                        )
                        if file is not None:
                            file.write(run)
            except KeyboardInterrupt:
                kept = "keeps what it learnt" if run.has_learnt else "is as it was"
                warn(f"Training was interrupted after epoch {len(run.rows)}; the model {kept}.")
            finally:
                run.settle()
    finally:
        if run is None or not run.has_learnt:
            before.put_back()
    return given


def _functions(given: Any, name: str) -> list[Any]:
    """One function or several, as a list."""
    found = [given] if callable(given) else given if isinstance(given, (list, tuple)) else [given]
    found = [] if given is None else list(found)
    wrong = next((one for one in found if not callable(one)), None)
    if wrong is not None:
        raise ValueError(f"`{name}` must be a function; got {shown(wrong)}.")
    return found


def mc_train_on_batch(
    model: nn.Module,
    x: object,
    y: object,
    *,
    optimizer: str | MakeOptimizer | Optimizer | None = None,
    kl_weight: float | None = None,
) -> dict[str, float]:
    """One step on one mini-batch, for loops of one's own: gives its loss, and its accuracy or rmse.

    The optimizer (Adam with rate 0.001 by default; else as in `mc_fit()`, or a torch optimizer) stays with the
    model from call to call, until another is given. A function is called once: it is another where its code, or a
    value that it uses, is another. Dropout comes from the network's seed and the number of its steps so far,
    whatever optimizer took them. A network for tables or values that has learnt nothing yet takes its units from
    this batch.
    A network with variational layers needs a `kl_weight`, one over the number of inputs of all batches of an epoch,
    and also gives nll and kl.
    """
    objective = objective_of(model)
    if isinstance(model, FrozenNetwork):
        model, x = model.head, model.looked_at(x)
    variational = bool(variational_layers(model))
    if variational and kl_weight is None:
        raise ValueError(
            "`kl_weight` must be given for a network with variational layers; one over the number of all inputs is "
            "right."
        )
    weight = 0.0 if kl_weight is None else check_number(kl_weight, "kl_weight", at_least=0)
    rows, targets = _examples(model, x, y, "x", "y")
    before = _Before.of(model, weights="stepper" not in vars(model))
    try:
        if isinstance(model, MCNetwork):
            _set_scales(model, rows, targets, np.arange(len(targets)))
            model.columns = model.columns or columns_of(rows)
        stepper = _stepper(model, objective, optimizer)
        device = stepper.learner.device
        seed = model.spec["seed"] if isinstance(model, MCNetwork) else 0
        batch = _Part.of(model, rows, targets, device)
        with _at_work(model, device):
            stepper.learner.seed(seed, stepper.steps)
            model.train()
            stepper.learner.kl_weight = weight
            [(x_there, goals)] = batch.batches(None, len(batch))
            learnt = stepper.learner.step(batch.prepared(x_there), goals)
            quality = float(objective.quality(learnt.out, goals))
    except BaseException:
        before.put_back()
        raise
    stepper.steps += 1
    parts = {} if learnt.kl is None else {"nll": float(learnt.nll), "kl": float(learnt.kl)}
    return {"loss": float(learnt.loss), objective.metric: objective.shown_quality(quality), **parts}


# The loop --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
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
class _Part:
    """Inputs and targets to learn from or to validate on, given out in batches."""

    inputs: Tensor | Rows
    targets: Tensor
    index: Tensor  # which of the inputs are in this part
    device: torch.device
    place: torch.device  # where batches of inputs are handed out
    prepare: Callable[[Tensor], Tensor] | None  # what a batch still needs before the layers can take it

    @classmethod
    def of(
        cls, model: nn.Module, rows: Rows, targets: np.ndarray, device: torch.device, as_they_are: bool = False
    ) -> _Part:
        """All inputs; an array becomes one tensor, files stay files.

        A table is put into the standard units of a network of ours here, in float64 and once for all epochs, unless
        batches are wanted as they are: then in float64 in the host's memory.
        """
        place, prepare = device, preparation(model)
        if isinstance(rows, ArrayRows) and isinstance(model, MCNetwork) and not model.is_image:
            if as_they_are:
                inputs, place = torch.from_numpy(doubles(rows, slice(None))), torch.device("cpu")
            else:
                inputs, prepare = _in_standard_units(model, rows), None
        else:
            inputs = torch.from_numpy(rows.take(slice(None))) if isinstance(rows, ArrayRows) else rows
        if isinstance(inputs, Tensor) and inputs.nbytes <= ON_DEVICE:
            inputs = inputs.to(place)
        goals = as_loss_targets(model, targets).to(device)
        return cls(inputs, goals, torch.arange(len(targets)), device, place, prepare)

    def choice(self, index: np.ndarray) -> _Part:
        """Those inputs alone, sharing the memory."""
        return replace(self, index=torch.from_numpy(index))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n_values(self) -> int:
        """How many values the loss is a mean over, in an epoch."""
        return len(self) * (self.targets.shape[1] if self.targets.ndim > 1 else 1)

    def batches(self, order: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (whole rows of the array at once, never one by one) and their targets, in an order.

        The order goes to the device as a whole: a GPU would wait for every batch of it.
        """
        chosen = self.index if order is None else self.index[order]
        there = chosen.to(self.device)
        for on_host, on_device in zip(chosen.split(size), there.split(size), strict=True):
            if not isinstance(self.inputs, Tensor):
                x = torch.from_numpy(self.inputs.take(on_host.numpy()))
            else:
                x = self.inputs[on_host if self.inputs.is_cpu else on_device]
            yield sent(x, self.place), self.targets[on_device]

    def prepared(self, x: Tensor) -> Tensor:
        """A batch as the layers take it."""
        return (x if self.prepare is None else self.prepare(x)).to(self.device)


class _Learner:
    """A model, its loss and its optimizer: learns from a batch, or says how good it is on one."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        class_weights: Tensor | None,
        precision: str,
        device: torch.device,
    ) -> None:
        self.model = model
        self.objective = objective
        self.outputs = raw_outputs(model)
        self.class_weights = None if class_weights is None else class_weights.to(device)
        self.optimizer = optimizer
        self.precision = getattr(torch, precision)
        self.scaler = torch.amp.GradScaler(device.type) if precision == "float16" else None
        self.device = device
        self.layers = variational_layers(model)
        self.kl_weight = 0.0
        self.steps = 0
        self.stream = OwnStream(0)
        self.ours = isinstance(model, MCNetwork)
        self.drawing: AbstractContextManager[Any] = nullcontext()  # in which a network of ours draws from the stream
        with torch.no_grad(), OwnStream(0) as stream:  # where the KL divergence has a closed form, nothing is drawn
            self.kl_draws = bool(self.layers) and (kl_divergence_of(self.layers.values()), stream.has_drawn)[1]

    def seed(self, seed: int, epoch: int, n: int = 0) -> tuple[Tensor, torch.Generator]:
        """Seed the dropout of an epoch; gives the epoch's order of `n` inputs, and a generator for augmentation."""
        dropout, order, augmentation = np.random.SeedSequence([seed, epoch]).generate_state(3, np.uint64) >> 1
        self.stream.start(int(dropout))
        if self.ours:
            self.drawing = _drawing(self.model, self.stream)
        shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(int(order)))
        return shuffled, torch.Generator().manual_seed(int(augmentation))

    def lent(self) -> AbstractContextManager[None]:
        """Inside, the global generators go by the seed where the model is not of ours.

        Such may draw where no mode of torch looks, and again when gradients are taken, as activation checkpointing
        does, so these are lent for the whole step.
        """
        return nullcontext() if self.ours else self.stream.lent(self.device)

    def step(self, x: Tensor, y: Tensor) -> _Learnt:
        """Learn from one batch; what comes of it is still on the device: reading it would wait for it."""
        with self.lent():
            self.optimizer.zero_grad()
            with self.drawing:
                out = self._outputs(x)
            loss = nll = self.objective.loss(out, y, self.class_weights)
            kl = None
            if self.layers:
                with OwnDraws(self.stream) if self.ours and self.kl_draws else nullcontext():
                    kl = kl_divergence_of(self.layers.values())
                loss = nll + self.kl_weight * kl
            if self.scaler is None:
                loss.backward()
                self.optimizer.step()
            else:
                self.scaler.scale(loss).backward()
                self.scaler.step(self.optimizer)
                self.scaler.update()
        self.steps += 1
        return _Learnt(loss.detach(), out.detach(), nll.detach(), None if kl is None else kl.detach())

    def judge(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, every label weighing the same, and outputs of one batch."""
        with torch.no_grad(), self.lent(), self.drawing:
            out = self._outputs(x)
        return self.objective.loss(out, y, None), out

    def _outputs(self, x: Tensor) -> Tensor:
        if self.precision is torch.float32:
            return self.outputs(x)
        with torch.autocast(self.device.type, self.precision):
            return self.outputs(x).float()


# What never draws, of the layers that our networks are made of.
STILL = {nn.Linear, nn.Conv1d, nn.Conv2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.BatchNorm2d, nn.Flatten, nn.Sequential}
STILL |= set(ACTIVATIONS.values())


def _drawing(model: nn.Module, stream: OwnStream) -> AbstractContextManager[Any]:
    """Inside, what this network draws comes from the stream.

    Its layers that draw are told so, which is far quicker than to look at every call of torch's: that is done where
    anything may draw that is not known here, such as a layer of the user's, or a hook.
    """
    told = _Told()
    for layer in model.modules():
        ours = type(layer).__module__.startswith(f"{__package__}.")
        if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
            return OwnDraws(stream)
        if type(layer) is nn.Dropout:
            told.append((layer, "forward", partial(_dropped, layer, stream)))
        elif ours and isinstance(layer, BayesLayer) and layer.posterior.make is None:
            told.append((layer, "drawn", stream.drawn))
        elif not (type(layer) in STILL or (ours and not isinstance(layer, BayesLayer))):
            return OwnDraws(stream)
    return told


class _Told(list[tuple[nn.Module, str, Callable[..., Any]]]):
    """Layers and what of theirs is another function inside."""

    def __enter__(self) -> None:
        for layer, name, function in self:
            vars(layer)[name] = function

    def __exit__(self, *_: object) -> None:
        for layer, name, _function in self:
            vars(layer).pop(name, None)


def _dropped(layer: nn.Dropout, stream: OwnStream, x: Tensor) -> Tensor:
    return stream.drawn(F.dropout, x, p=layer.p, training=layer.training, inplace=layer.inplace)


class _Learnt(NamedTuple):
    """What one batch gave."""

    loss: Tensor
    out: Tensor
    nll: Tensor  # the loss without its KL term
    kl: Tensor | None


class _Tally:
    """Loss and metric of an epoch, as means over its inputs; the device is waited for once, at the end.

    Outputs are judged many batches at a time: on small networks every call counts.
    """

    AT_A_TIME = 64  # batches

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.losses: list[Tensor] = []
        self.loss_sizes: list[int] = []
        self.qualities: list[Tensor] = []
        self.quality_sizes: list[int] = []
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, loss: Tensor, out: Tensor, y: Tensor) -> None:
        """Count one batch."""
        self.losses.append(loss)
        self.loss_sizes.append(y.shape[0])
        self.waiting.append((out, y))
        if len(self.waiting) == self.AT_A_TIME:
            self._judge()

    def means(self, prefix: str) -> dict[str, float]:
        """Loss and metric, under their names in the history."""
        if self.waiting:
            self._judge()
        quality = _weighted_mean(self.qualities, self.quality_sizes)
        return {
            f"{prefix}loss": _weighted_mean(self.losses, self.loss_sizes),
            f"{prefix}{self.objective.metric}": self.objective.shown_quality(quality),
        }

    def _judge(self) -> None:
        out, y = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
        self.qualities.append(self.objective.quality(out, y))
        self.quality_sizes.append(len(y))
        self.waiting = []


class _Run:
    """A training under way: one epoch after another, until the last or until it stops by itself."""

    def __init__(self, learner: _Learner, settings: _Settings, train: _Part, held_out: _Part | None) -> None:
        self.learner = learner
        self.model = learner.model
        self.settings = settings
        self.train = train
        self.held_out = held_out
        self.plateau = _plateau(learner.optimizer, settings)
        self.rows: list[dict[str, float]] = []
        self.best: Weights | None = None
        self.best_value: float | None = None
        self.waited = 0
        self.stopped = False

    @property
    def finished(self) -> bool:
        return self.stopped or len(self.rows) >= self.settings.epochs

    @property
    def has_learnt(self) -> bool:
        """Whether the model is another than before: an epoch was finished, or an interrupt left its first part."""
        return bool(self.rows) or self.learner.steps > 0

    @property
    def batches_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.settings.batch_size)

    def one_epoch(self, augment: Augment | None, report: Callable[[int, str], None]) -> dict[str, float]:
        """Learn from every input once; gives the row of the history."""
        started = time.perf_counter()
        epoch = len(self.rows) + 1
        row: dict[str, float] = {"epoch": epoch}
        rate = self.learner.optimizer.param_groups[0]["lr"]
        tally = _Tally(self.learner.objective)
        parts: list[tuple[Tensor, Tensor]] = []
        with self._good_weights_kept():
            order, generator = self.learner.seed(self.settings.seed, epoch, len(self.train))
            self.model.train()
            text = self._text(epoch)
            self.learner.kl_weight = self.settings.kl_weight.at(epoch, self.train.n_values)
            for x, y in self.train.batches(order, self.settings.batch_size):
                given = x if augment is None else self._augmented(augment, x, generator)
                learnt = self.learner.step(self.train.prepared(given), y)
                tally.add(learnt.loss, learnt.out, y)
                if learnt.kl is not None:
                    parts.append((learnt.nll, learnt.kl))
                report(1, text)
            row |= tally.means("")
            if not (math.isfinite(row["loss"]) and _all_finite(self.model)):
                raise FloatingPointError(
                    f"The loss must stay a number; it was none in epoch {epoch}, and the model keeps its weights from "
                    "before that. Use a smaller `learning_rate`, or look for extreme values in `x` and `y`."
                )
        if self.held_out is not None:
            row |= self._judged(self.held_out).means("val_")
        if parts:
            nlls, kls = zip(*parts, strict=True)
            row |= {
                "nll": _weighted_mean(list(nlls), tally.loss_sizes),
                "kl": _weighted_mean(list(kls), tally.loss_sizes),
                "kl_weight": self.learner.kl_weight,
                **self._spreads(),
            }
        row |= {"learning_rate": rate, "seconds": time.perf_counter() - started}
        self._note(row)
        return row

    def _augmented(self, augment: Augment, x: Tensor, generator: torch.Generator) -> Tensor:
        with OwnDraws(self.learner.stream):
            given = augment(x, generator)
        shape = tuple(getattr(given, "shape", ()))
        if isinstance(self.model, MCNetwork) and shape != tuple(x.shape):
            raise ValueError(f"`augment` must give a tensor of the shape that it gets, {tuple(x.shape)}; got {shape}.")
        return given

    @contextmanager
    def _good_weights_kept(self) -> Iterator[None]:
        """An error takes back what the epoch has learnt; an interrupt only what is no number any more."""
        before, steps = _copied(_tensors(self.model)), self.learner.steps
        try:
            yield
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt) or not _all_finite(self.model):
                _put_back(self.model, before)
                self.learner.steps = steps
            raise

    def settle(self) -> None:
        """Put the best weights back, if any were kept, and hang the history on the model."""
        if self.best is not None:
            self.model.load_state_dict(self.best)
        names = ["epoch", "loss", self.learner.objective.metric]
        names += [f"val_{name}" for name in names[1:]] if self.held_out is not None else []
        if self.learner.layers:
            names += ["nll", "kl", "kl_weight", *(_spread_name(path) for path in self.learner.layers)]
        model: Any = self.model
        model.history = pd.DataFrame(self.rows, columns=[*names, "learning_rate", "seconds"])

    def _spreads(self) -> dict[str, float]:
        """The mean posterior standard deviation of each variational layer."""
        with torch.no_grad():
            spreads = [one.deviations().mean() for one in self.learner.layers.values()]
            return dict(zip(map(_spread_name, self.learner.layers), torch.stack(spreads).tolist(), strict=True))

    def _judged(self, part: _Part) -> _Tally:
        self.model.eval()
        tally = _Tally(self.learner.objective)
        for x, y in part.batches(None, self.settings.batch_size):
            tally.add(*self.learner.judge(part.prepared(x), y), y)
        return tally

    def _note(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        value = row.get(self.settings.monitor)
        if value is None:
            return
        if self.plateau is not None:
            self.plateau.step(value)
        if self.settings.early_stopping is None:
            return
        if self.settings.is_better(value, self.best_value):
            self.best, self.best_value, self.waited = copied_weights(self.model), value, 0
        else:
            self.waited += 1
        self.stopped = self.waited >= self.settings.early_stopping

    def _text(self, epoch: int) -> str:
        text = f"Epoch {epoch} of {self.settings.epochs}"
        if not self.rows:
            return text
        shown_names = [name for name in self.rows[-1] if name.removeprefix("val_") in ("loss", "accuracy", "rmse")]
        return ", ".join([text, *(f"{name} {self.rows[-1][name]:.3f}" for name in shown_names)])


# What the loop is made from ---------------------------------------------------------------------------------


def make_optimizer(
    model: nn.Module, optimizer: object, learning_rate: float = 1e-3, weight_decay: float = 0.0
) -> Optimizer:
    """The optimizer that is asked for: by name, as a function from parameters, or ready-made."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if callable(optimizer):
        made = optimizer(model.parameters())
        if not isinstance(made, Optimizer):
            raise TypeError(f"`optimizer` must give a torch optimizer; got {shown(made)}.")
        return made
    named = [(name.rpartition(".")[2], weight) for name, weight in model.named_parameters()]
    decayed = [weight for name, weight in named if name not in SPREADS]
    free = [weight for name, weight in named if name in SPREADS]
    groups: list[dict[str, Any]] = [{"params": decayed}]
    if free:
        groups.append({"params": free, "weight_decay": 0.0})  # these are no weights to shrink
    common: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if optimizer == "rmsprop":
        return RMSprop(groups, **common)
    if optimizer == "sgd":
        return SGD(groups, momentum=0.9, **common)
    return (Adam if optimizer == "adam" else AdamW)(groups, **common)


def copied_weights(model: nn.Module) -> Weights:
    """All parameters and buffers as they are now."""
    return {name: values.detach().clone() for name, values in model.state_dict().items()}


def _reduction(reduce_lr: int | Mapping[str, float] | None) -> tuple[int, float] | None:
    """Patience and factor."""
    if reduce_lr is None:
        return None
    given = reduce_lr if isinstance(reduce_lr, Mapping) else {"patience": reduce_lr}
    if "patience" not in given or not set(given) <= {"patience", "factor"}:
        raise ValueError(
            "`reduce_lr` must be a number of epochs, or a mapping with `patience` and `factor`; "
            f"got {shown(dict(given))}."
        )
    factor = check_number(given.get("factor", 0.5), "reduce_lr's factor", above=0, below=1)
    return check_count(given["patience"], "reduce_lr"), factor


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


def _kl_weight(given: Any) -> _KLWeight:
    if isinstance(given, Mapping):
        if "warm_up" not in given or not set(given) <= {"warm_up", "weight"}:
            raise ValueError(
                f"`kl_weight` must have `warm_up` and perhaps `weight` where it is a mapping; got {shown(dict(given))}."
            )
        full = given.get("weight", "1/N")
        if isinstance(full, Mapping) or callable(full):  # a schedule of its own
            raise ValueError(f'`kl_weight\'s weight` must be "1/N" or a number; got {shown(full)}.')
        return _KLWeight(_kl_weight(full).weight, check_count(given["warm_up"], "kl_weight's warm_up"))
    if callable(given):
        check_number(given(1), "kl_weight", at_least=0)  # before anything is learnt
        return _KLWeight(given)  # type: ignore[arg-type]  # a function of the epoch
    if isinstance(given, str):
        return _KLWeight(check_choice(given, "kl_weight", ("1/N",)))
    return _KLWeight(check_number(given, "kl_weight", at_least=0))


def _spread_name(path: str) -> str:
    return f"std_{path.removeprefix('layers.')}"


def _plateau(optimizer: Optimizer, settings: _Settings) -> ReduceLROnPlateau | None:
    if settings.reduce_lr is None:
        return None
    patience, factor = settings.reduce_lr
    mode = "max" if settings.wants_more else "min"
    return ReduceLROnPlateau(optimizer, mode, factor, patience - 1, threshold=0.0)  # torch waits one longer


def _examples(
    model: nn.Module, x: object, y: object, x_name: str, y_name: str, columns: tuple[str, ...] = ()
) -> tuple[Rows, np.ndarray]:
    """Inputs and targets, checked: what `y` says as codes or values. `columns` unless the model knows its own."""
    rows = as_rows(x, x_name)
    if isinstance(model, MCNetwork):
        rows = in_order(rows, model.columns or columns, x_name)
        model.check_input_shape(rows.shape, x_name)
    check_finite(rows, x_name)
    targets = as_model_targets(model, y, y_name)
    check_length(len(targets), y_name, rows.shape[0], x_name)
    return rows, targets


def _validation_examples(
    model: nn.Module, validation_data: object, settings: _Settings, columns: tuple[str, ...]
) -> tuple[Rows, np.ndarray] | None:
    if validation_data is None:
        return None
    if settings.validation_split > 0:
        raise ValueError("`validation_split` must be 0 where `validation_data` is given; got both.")
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise ValueError("`validation_data` must be a pair (x, y); got something else.")
    x, y = validation_data
    return _examples(model, x, y, "validation_data's x", "validation_data's y", columns)


def _split(targets: np.ndarray, settings: _Settings) -> tuple[np.ndarray, np.ndarray | None]:
    """Which inputs to learn from, and which to hold out if any."""
    everything = np.arange(len(targets))
    if settings.validation_split == 0:
        return everything, None
    strata = targets if targets.ndim == 1 else np.zeros(len(targets), np.int64)
    held = stratified_choice(strata, settings.validation_split, settings.seed)
    if len(held) in (0, len(targets)):
        raise ValueError(
            "`validation_split` must leave inputs on both sides; "
            f"got {settings.validation_split} of {len(targets)} inputs."
        )
    return np.setdiff1d(everything, held), held


def stratified_choice(strata: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Positions of `share` of the entries, sorted: of every stratum that share, to within one entry.

    Entries are shuffled, lined up stratum by stratum, and taken at equal steps along the line.
    """
    shuffled = np.random.default_rng([seed, 0]).permutation(len(strata))
    line = shuffled[np.argsort(strata[shuffled], kind="stable")]
    wanted = round(share * len(strata))
    steps = ((np.arange(wanted) + 0.5) * len(strata) / max(wanted, 1)).astype(np.int64)
    return np.sort(line[steps])


def _set_scales(model: MCNetwork, rows: Rows, targets: np.ndarray, train: np.ndarray) -> None:
    """The standard units of a table's features and of values, from the training part alone."""
    if bool(model.scales_set):
        return
    features = None
    if not model.is_image:
        mean, std = mean_and_std(doubles(rows, train))
        if isinstance(rows, ArrayRows) and rows.values.dtype.kind == "f":  # it may be constant but for its own rounding
            std[std <= np.abs(mean) * np.finfo(rows.values.dtype).eps] = 0
        features = mean, std
    model.set_scales(features, targets[train] if model.task == "regression" else None)


def _in_standard_units(model: MCNetwork, rows: Rows) -> Tensor:
    """A whole table as the layers take it, some rows at a time in float64."""
    n, n_features = rows.shape
    step = max(1, PIECE // n_features)
    pieces = (doubles(rows, slice(start, start + step)) for start in range(0, n, step))
    return torch.cat([model.standard_inputs(torch.from_numpy(piece)) for piece in pieces])


def _weighted_mean(values: list[Tensor], weights: list[int]) -> float:
    return float(np.average(torch.stack(values).cpu().double().numpy(), weights=weights))


def _all_finite(model: nn.Module) -> bool:
    return bool(torch.stack([torch.isfinite(weights).all() for weights in model.parameters()]).all())


def _device_of(model: nn.Module) -> torch.device:
    return next((weights.device for weights in model.parameters()), torch.device("cpu"))


def _tensors(model: nn.Module) -> Weights:
    """All parameters and buffers, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _copied(tensors: Weights) -> Weights:
    return {name: values.detach().clone() for name, values in tensors.items()}


def _put_back(model: nn.Module, kept: Weights) -> None:
    """Set parameters and buffers to what they were."""
    with torch.no_grad():
        for name, values in _tensors(model).items():
            if name in kept:
                values.copy_(kept[name])


@dataclass
class _Before:
    """A network before its training, to be put back where nothing comes of it."""

    NOTES = ("history", "columns", "stepper")  # what training hangs on a network

    model: nn.Module
    tensors: Weights
    notes: dict[str, Any]
    flags: list[tuple[nn.Module, bool]]

    @classmethod
    def of(cls, model: nn.Module, weights: bool = True) -> _Before:
        """As it is now; without its `weights` where a copy of them costs too much."""
        tensors = _copied(_tensors(model) if weights else dict(model.named_buffers()))
        notes = {name: vars(model)[name] for name in cls.NOTES if name in vars(model)}
        return cls(model, tensors, notes, [(module, module.training) for module in model.modules()])

    def put_back(self) -> None:
        """Leave no trace."""
        _put_back(self.model, self.tensors)
        for name in self.NOTES:
            vars(self.model).pop(name, None)
        vars(self.model).update(self.notes)
        for module, flag in self.flags:
            module.training = flag


@contextmanager
def _at_work(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the model is on `device`; afterwards where it was, and ready to predict."""
    home = _device_of(model)
    try:
        model.to(device)
        yield
    finally:
        model.to(home)
        model.eval()


# Steps of one's own -----------------------------------------------------------------------------------------


@dataclass
class _Stepper:
    """What `mc_train_on_batch()` keeps with a model from call to call; no part of what is saved."""

    given: object  # the optimizer as it was asked for
    recipe: object
    learner: _Learner
    steps: int = 0


def _stepper(model: nn.Module, objective: Objective, optimizer: object) -> _Stepper:
    kept = getattr(model, "stepper", None)
    kept = kept if isinstance(kept, _Stepper) else None
    if optimizer is None:
        if kept is not None:
            return kept
        optimizer = "adam"
    if kept is not None and (optimizer is kept.given or _are_equal(_recipe(optimizer), kept.recipe)):
        return kept
    if isinstance(optimizer, str):
        check_choice(optimizer, "optimizer", OPTIMIZERS)
    made = make_optimizer(model, optimizer)
    learner = _Learner(model, objective, made, None, "float32", _device_of(model))
    steps = 0 if kept is None else kept.steps  # the model's, whatever takes them: masks must not come again
    stepper = _Stepper(optimizer, _recipe(optimizer), learner, steps)
    model.stepper = stepper  # type: ignore[assignment]  # a plain attribute, outside the state dict
    return stepper


def _recipe(optimizer: object) -> object:
    """What an optimizer's function makes it from: its code and the values it uses.

    A loop that writes the function anew in each round makes another object each time, with the same recipe.
    """
    if isinstance(optimizer, partial):
        return partial, _recipe(optimizer.func), optimizer.args, optimizer.keywords
    if not isinstance(optimizer, FunctionType):
        return optimizer
    try:
        used = inspect.getclosurevars(optimizer)
    except ValueError:  # a variable that has no value yet
        return optimizer
    return optimizer.__code__, optimizer.__defaults__, optimizer.__kwdefaults__, used.nonlocals, used.globals


def _are_equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except (ValueError, TypeError, RuntimeError):  # arrays among the values have no one answer
        return False


# Checkpoints ------------------------------------------------------------------------------------------------


class _Checkpoint:
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

    def write(self, run: _Run) -> None:
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

    def read_into(self, run: _Run) -> None:
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


def _facts(run: _Run) -> dict[str, Any]:
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
