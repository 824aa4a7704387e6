"""`mc_fit()`: train a network on arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checks import check_choice, check_count, check_number, check_seed, shown, warn
from ..compute.devices import as_device
from ..compute.precision import PRECISIONS
from ..data.labels import Label
from ..data.rows import columns_of
from ..networks.frozen import FrozenNetwork, split_backbone
from ..networks.network import MCNetwork
from ..progress import Progress, reporting
from .checkpoints import Checkpoint
from .examples import Examples, examples, set_scales, split, validation_examples
from .loop import TrainingRun, copied, put_back, tensors_of
from .losses import as_class_weights, objective_of
from .optimizers import OPTIMIZERS, make_optimizer
from .settings import Augment, Callback, KLWeight, MakeOptimizer, Model, TrainingSettings, Weights, kl_weight_of
from .step import Learner, reduction


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
    """Train a network in place on inputs and their labels or values.

    The loss is the cross-entropy in nats. For values it is the negative log-likelihood (without noise, the squared
    error)
    in standard deviations of the training values. An interrupt (Ctrl-C) stops with a warning and keeps what was learnt.

    `model.history` has a row for each epoch: epoch, loss, accuracy or rmse (in the caller's units), both with "val_" in
    front, learning_rate and seconds. With Bayesian layers it also has nll, the loss without its KL term; kl, the
    divergence
    of all layers in nats; kl_weight, so that loss = nll + kl_weight * kl; and for each layer std_<its path>, the mean
    posterior standard deviation of its weights. Validation uses the posterior means, and leaves out the KL term.

    Args:
        model: A network of `mc_cnn()`, `mc_mlp()` or their kin, or any torch module with attributes `task`, `labels`
            and `outputs` like theirs.
        x: The inputs along the first axis: an array, tensor, data frame or image files. A network of this package keeps
            the names of a data frame's columns, and finds them in other data frames, in any order.
        y: The labels (input,), or the values (input, output).
        epochs: How often all inputs are learnt from.
        batch_size: Inputs of one step.
        learning_rate: Of the optimizer.
        optimizer: "adam", "adamw", "sgd" (momentum 0.9) or "rmsprop"; or a function from parameters to an optimizer,
            which then has its own learning rate and weight decay.
        weight_decay: Of the optimizer.
        validation_split: The share of the inputs to hold out, of each label alike; from 0 to below 1.
        validation_data: Inputs and labels to validate on, instead.
        early_stopping: Epochs without a better `monitor` after which to stop. The best weights are then put back.
        monitor: "loss", "accuracy" (for values "rmse"), or one of these with "val_" in front.
        reduce_lr: Epochs without a better `monitor` after which the learning rate is halved, or a mapping with
            `patience` and `factor`.
        class_weight: "balanced", or weights of the labels in the training loss, by label or in their order.
        kl_weight: The weight of the KL divergence in the loss. "1/N", one over the number of training values, makes the
            loss the negative evidence lower bound for each value. Or a number, at least 0; a function of the epoch (1,
            2, ...); or for a warm-up a mapping with `warm_up`, the epochs in which it rises evenly to `weight` ("1/N"
            by default).
        augment: A function of a batch of inputs and a torch.Generator that returns the batch to learn from. A network
            of this package passes tables in the caller's units, in float64 on the host.
        callbacks: Functions that are called after each epoch with its row of the history. One that returns True or
            "stop" ends training.
        precision: "float32", or "bfloat16" or "float16" for mixed precision.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" and so on.
        seed: Decides the held-out part, the order and the dropout. None draws one, or takes the checkpoint's. Networks
            of this package draw from generators of their own. Other modules get torch's global generators during each
            step; no other thread should draw from them then.
        checkpoint: A file that is written after every epoch. Where it exists, training goes on from it, and ends with
            the weights of a run that was never interrupted: to the bit on one machine with the same number of threads.
        progress: True shows a bar on long runs. A function is called with (done, total, text).

    Returns:
        `model`, trained.

    Raises:
        ValueError: For arguments that cannot be used.
        FloatingPointError: When the loss or a weight is no longer a number. After any error, what the model learnt in
            that epoch is taken back; a model that had learnt nothing before is as it was.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(100, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(mcd.mc_mlp(4, labels=["no", "yes"]), x, y, epochs=2, seed=1, progress=False)
        >>> net.history[["epoch", "loss"]].shape
        (2, 2)
    """
    given, objective = model, objective_of(model)
    file = None if checkpoint is None else Checkpoint(checkpoint)
    settings = TrainingSettings(
        epochs=check_count(epochs, "epochs"),
        batch_size=check_count(batch_size, "batch_size"),
        learning_rate=check_number(learning_rate, "learning_rate", above=0),
        optimizer=optimizer if callable(optimizer) else check_choice(optimizer, "optimizer", OPTIMIZERS),
        weight_decay=check_number(weight_decay, "weight_decay", at_least=0),
        validation_split=check_number(validation_split, "validation_split", at_least=0, below=1),
        early_stopping=None if early_stopping is None else check_count(early_stopping, "early_stopping"),
        monitor=monitor,
        reduce_lr=reduction(reduce_lr),
        kl_weight=kl_weight_of(kl_weight),
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
        validation_data = (split_backbone(model, validation_data[0], found_device, name)[1], validation_data[1])
    model, x = split_backbone(model, x, found_device)

    rows, targets = examples(model, x, y, "x", "y")
    columns = columns_of(rows)
    others = validation_examples(model, validation_data, settings, columns)
    learnt, held = split(targets, settings)
    settings.check_monitor(objective, validated=others is not None or held is not None)
    class_weights = as_class_weights(class_weight, model, targets[learnt])
    before, run = Before.of(model), None
    try:
        if isinstance(model, MCNetwork):
            set_scales(model, rows, targets, learnt)
            model.columns = model.columns or columns
        with at_work(model, found_device):
            train = Examples.of(model, rows, targets, found_device, augment is not None).choice(learnt)
            held_out = None if held is None else train.choice(held)
            if others is not None:
                held_out = Examples.of(model, *others, found_device)
            made = make_optimizer(model, settings.optimizer, settings.learning_rate, settings.weight_decay)
            learner = Learner(model, objective, made, class_weights, settings.precision, found_device)
            run = TrainingRun(learner, settings, train, held_out)
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


def device_of(model: nn.Module) -> torch.device:
    """The device of a network's weights."""
    return next((weights.device for weights in model.parameters()), torch.device("cpu"))


@dataclass
class Before:
    """A network before its training, to be put back where nothing comes of it."""

    NOTES = ("history", "columns", "stepper")  # what training hangs on a network

    model: nn.Module
    tensors: Weights
    notes: dict[str, Any]
    flags: list[tuple[nn.Module, bool]]

    @classmethod
    def of(cls, model: nn.Module, weights: bool = True) -> Before:
        """As it is now; without its `weights` where a copy of them costs too much."""
        tensors = copied(tensors_of(model) if weights else dict(model.named_buffers()))
        notes = {name: vars(model)[name] for name in cls.NOTES if name in vars(model)}
        return cls(model, tensors, notes, [(module, module.training) for module in model.modules()])

    def put_back(self) -> None:
        """Leave no trace."""
        put_back(self.model, self.tensors)
        for name in self.NOTES:
            vars(self.model).pop(name, None)
        vars(self.model).update(self.notes)
        for module, flag in self.flags:
            module.training = flag


@contextmanager
def at_work(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the model is on `device`; afterwards where it was, and ready to predict."""
    home = device_of(model)
    try:
        model.to(device)
        yield
    finally:
        model.to(home)
        model.eval()
