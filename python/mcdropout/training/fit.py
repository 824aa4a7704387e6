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
from ..data.rows import as_rows, columns_of
from ..networks.frozen import FrozenNetwork, split_backbone
from ..networks.network import MCNetwork
from ..progress import Progress, reporting
from .checkpoints import Checkpoint
from .examples import Examples, examples, set_scales, split, validation_examples
from .loop import TrainingRun, copied, restore_tensors, tensors_of
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
    error) in standard deviations of the training values. An interrupt (Ctrl-C) stops training with a warning, and the
    model keeps its progress.

    `model.history` has a row for each epoch: epoch, loss, accuracy or rmse (in the caller's units), the same for
    validation with the prefix "val_", learning_rate and seconds. With Bayesian layers it also has nll, the loss without
    its KL term; kl, the divergence of all layers in nats; kl_weight, so that loss = nll + kl_weight * kl; and for each
    layer std_<its path>, the mean posterior standard deviation of its weights. Validation uses the posterior means and
    has no KL term.

    Args:
        model: A network of this package, such as `mc_cnn()` or `mc_mlp()`, or any torch module with the same attributes
            `task`, `labels` and `outputs`.
        x: The inputs along the first axis: an array, tensor, data frame or image files. A network of this package
            stores the names of a data frame's columns, and finds these columns in other data frames, in any order.
        y: The labels (input,), or the values (input, output).
        epochs: The number of passes over all training inputs.
        batch_size: The number of inputs in one step. Under batch normalization a last single input joins the step
            before it.
        learning_rate: The learning rate of the optimizer.
        optimizer: "adam", "adamw", "sgd" (momentum 0.9) or "rmsprop"; or a function from parameters to an optimizer
            with its own learning rate and weight decay.
        weight_decay: The weight decay of the optimizer.
        validation_split: The share of the inputs to hold out, equal for each label; from 0 to below 1.
        validation_data: Inputs and labels for validation, instead of `validation_split`.
        early_stopping: The number of epochs without a better `monitor` after which training stops. The model then has
            its best weights.
        monitor: "loss", "accuracy" (for values "rmse"), or one of these with the prefix "val_".
        reduce_lr: The number of epochs without a better `monitor` after which the learning rate is halved, or a mapping
            with `patience` and `factor`.
        class_weight: "balanced", or weights of the labels in the training loss, by label or in their order.
        kl_weight: The weight of the KL divergence in the loss. "1/N", one over the number of training values, makes the
            loss the negative evidence lower bound for each value. Or a number, at least 0; a function of the epoch (1,
            2, ...); or for a warm-up a mapping with `warm_up`, the number of epochs of a linear rise to `weight`
            ("1/N" by default).
        augment: A function of a batch of inputs and a torch.Generator that returns the batch to train on. With a
            network of this package it gets tables in the caller's units, in float64 on the host.
        callbacks: Functions that are called after each epoch with its row of the history. A function that returns True
            or "stop" ends training.
        precision: "float32", or "bfloat16" or "float16" for mixed precision.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" and so on.
        seed: Decides the held-out part, the order and the dropout. None draws a seed, or uses the checkpoint's. A GPU
            drops other units than a CPU with the same seed.
            Networks of this package draw from their own generators. Other modules draw from torch's global generators
            during each step. No other thread should draw from these at that time, and such a module must not wait for a
            thread that predicts or trains.
        checkpoint: A file that is written after every epoch. If it exists, training continues from it, and ends with
            the weights of an uninterrupted run: to the bit on one machine with the same number of threads. The file of
            a run with other data, functions or settings is refused.
        progress: True shows a bar on long runs. A function is called with (done, total, text).

    Returns:
        `model`, trained.

    Raises:
        ValueError: For arguments that cannot be used.
        FloatingPointError: When the loss or a weight is not finite. After any error the model has its state from before
            that epoch.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(100, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(mcd.mc_mlp(4, labels=["no", "yes"]), x, y, epochs=2, seed=1, progress=False)
        >>> net.history[["epoch", "loss"]].shape
        (2, 2)
    """
    model_argument, objective = model, objective_of(model)
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
    device = as_device(device)
    callback_functions = _functions(callbacks, "callbacks")
    if augment is not None:
        if not callable(augment):
            raise ValueError(f"`augment` must be a function; got {shown(augment)}.")
        if isinstance(model, FrozenNetwork):
            raise ValueError(
                "`augment` must be left out where `model` has a frozen backbone, whose features are computed once; "
                "change the inputs before training."
            )
    images: list[object] = [x]
    if isinstance(model, FrozenNetwork) and isinstance(validation_data, (tuple, list)) and len(validation_data) == 2:
        name = "validation_data's x"
        images.append(validation_data[0])
        validation_data = (split_backbone(model, validation_data[0], device, name)[1], validation_data[1])
    model, x = split_backbone(model, x, device)

    rows, targets = examples(model, x, y, "x", "y")
    columns = columns_of(rows)
    validation = validation_examples(model, validation_data, settings, columns)
    train_index, held_out_index = split(targets, settings)
    settings.check_monitor(objective, validated=validation is not None or held_out_index is not None)
    class_weights = as_class_weights(class_weight, model, targets[train_index])
    if file is not None:
        sources = [rows, *(() if validation is None else validation[:1])]
        if isinstance(model_argument, FrozenNetwork):  # features differ in their last bits between devices
            sources = [as_rows(part) for part in images]
        file.set_arguments(*sources, augment=augment)
    before, run = ModelState.of(model), None
    try:
        if isinstance(model, MCNetwork):
            set_scales(model, rows, targets, train_index)
            model.columns = model.columns or columns
        with on_device(model, device):
            train = Examples.of(model, rows, targets, device, unscaled=augment is not None).subset(train_index)
            held_out = None if held_out_index is None else train.subset(held_out_index)
            if validation is not None:
                held_out = Examples.of(model, *validation, device)
            torch_optimizer = make_optimizer(model, settings.optimizer, settings.learning_rate, settings.weight_decay)
            learner = Learner(model, objective, torch_optimizer, class_weights, settings.precision, device)
            run = TrainingRun(learner, settings, train, held_out)
            if file is not None:
                file.read_into(run)
            try:
                done, total = (epochs * run.batches_per_epoch for epochs in (len(run.rows), settings.epochs))
                with reporting(progress, total, "batch", done=done, every=0.1) as report:
                    while not run.finished:
                        row = run.one_epoch(augment, report)
                        answers = [callback(dict(row)) for callback in callback_functions]
                        run.stopped |= any(
                            isinstance(answer, (bool, np.bool_, str)) and answer in (True, "stop") for answer in answers
                        )
                        if file is not None:
                            file.write(run)
            except KeyboardInterrupt:
                outcome = "keeps its progress" if run.has_learnt else "is unchanged"
                warn(f"Training was interrupted after epoch {len(run.rows)}; the model {outcome}.")
            finally:
                run.finish()
    finally:
        if run is None or not run.has_learnt:
            before.restore()
    return model_argument


def _functions(argument: Any, name: str) -> list[Any]:
    """One function or several, as a list; None becomes an empty list."""
    if argument is None:
        return []
    functions = list(argument) if isinstance(argument, (list, tuple)) and not callable(argument) else [argument]
    wrong = next((item for item in functions if not callable(item)), None)
    if wrong is not None:
        raise ValueError(f"`{name}` must be a function; got {shown(wrong)}.")
    return functions


def device_of(model: nn.Module) -> torch.device:
    """The device of a network's weights."""
    return next((weights.device for weights in model.parameters()), torch.device("cpu"))


@dataclass
class ModelState:
    """The state of a network before its training, to restore after an error."""

    ATTRIBUTES = ("history", "columns", "stepper")  # attributes that training sets on a network

    model: nn.Module
    tensors: Weights
    attributes: dict[str, Any]
    training_flags: list[tuple[nn.Module, bool]]

    @classmethod
    def of(cls, model: nn.Module, weights: bool = True) -> ModelState:
        """The present state; without `weights` only the buffers, where a copy of the weights costs too much."""
        tensors = copied(tensors_of(model) if weights else dict(model.named_buffers()))
        attributes = {name: vars(model)[name] for name in cls.ATTRIBUTES if name in vars(model)}
        return cls(model, tensors, attributes, [(module, module.training) for module in model.modules()])

    def restore(self) -> None:
        """Set the model to this state."""
        restore_tensors(self.model, self.tensors)
        for name in self.ATTRIBUTES:
            vars(self.model).pop(name, None)
        vars(self.model).update(self.attributes)
        for module, flag in self.training_flags:
            module.training = flag


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the model is on `device`; afterwards on its previous device and in eval mode."""
    previous_device = device_of(model)
    try:
        model.to(device)
        yield
    finally:
        model.to(previous_device)
        model.eval()
