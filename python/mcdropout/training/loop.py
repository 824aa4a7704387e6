"""The loop over epochs: metrics, early stopping, and the restored weights after an epoch that fails."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..compute.streams import OwnDraws
from ..errors import interrupts_kept
from ..networks.network import MCNetwork
from .examples import Examples
from .losses import Objective
from .optimizers import plateau
from .settings import Augment, TrainingSettings, Weights, spread_name
from .step import Learner, all_finite, batch_sizes, weighted_mean


class EpochMetrics:
    """Loss and metric of an epoch, as means over its inputs. Only the end of an epoch waits for the device.

    The metric is computed for many batches at a time, because each call costs time on small networks.
    """

    AT_A_TIME = 64  # batches

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.losses: list[Tensor] = []
        self.loss_sizes: list[int] = []
        self.qualities: list[Tensor] = []
        self.quality_sizes: list[int] = []
        self.pending: list[tuple[Tensor, Tensor]] = []  # outputs and targets without a metric so far

    def add(self, loss: Tensor, out: Tensor, y: Tensor) -> None:
        """Count one batch."""
        self.losses.append(loss)
        self.loss_sizes.append(y.shape[0])
        self.pending.append((out, y))
        if len(self.pending) == self.AT_A_TIME:
            self._compute_quality()

    def means(self, prefix: str) -> dict[str, float]:
        """Loss and metric, under their names in the history."""
        if self.pending:
            self._compute_quality()
        quality = weighted_mean(self.qualities, self.quality_sizes)
        return {
            f"{prefix}loss": weighted_mean(self.losses, self.loss_sizes),
            f"{prefix}{self.objective.metric}": self.objective.shown_quality(quality),
        }

    def _compute_quality(self) -> None:
        out, y = (torch.cat(parts) for parts in zip(*self.pending, strict=True))
        self.qualities.append(self.objective.quality(out, y))
        self.quality_sizes.append(len(y))
        self.pending = []


class TrainingRun:
    """A training in progress, epoch by epoch, until the last epoch or an early stop."""

    def __init__(
        self, learner: Learner, settings: TrainingSettings, train: Examples, held_out: Examples | None
    ) -> None:
        self.learner = learner
        self.model = learner.model
        self.settings = settings
        self.train = train
        self.held_out = held_out
        self.sizes = batch_sizes(len(train), settings.batch_size, learner.model)
        self.latest: tuple[Tensor, Tensor] | None = None  # the batch of the latest step
        self.plateau = plateau(learner.optimizer, settings)
        self.rows: list[dict[str, float]] = []
        self.best: Weights | None = None
        self.best_value: float | None = None
        self.epochs_without_improvement = 0
        self.stopped = False

    @property
    def finished(self) -> bool:
        return self.stopped or len(self.rows) >= self.settings.epochs

    @property
    def has_learnt(self) -> bool:
        """Whether the weights have changed: by a complete epoch, or by the steps before an interrupt."""
        return bool(self.rows) or self.learner.steps > 0

    @property
    def batches_per_epoch(self) -> int:
        return len(self.sizes)

    def one_epoch(self, augment: Augment | None, report: Callable[[int, str], None]) -> dict[str, float]:
        """Train once on every input; returns the row of the history."""
        started = time.perf_counter()
        epoch = len(self.rows) + 1
        row: dict[str, float] = {"epoch": epoch}
        rate = self.learner.optimizer.param_groups[0]["lr"]
        metrics = EpochMetrics(self.learner.objective)
        parts: list[tuple[Tensor, Tensor]] = []
        with self._weights_restored_on_error(), interrupts_kept():
            order, generator = self.learner.seed(self.settings.seed, epoch, len(self.train))
            self.model.train()
            text = self._text(epoch)
            self.learner.kl_weight = self.settings.kl_weight.at(epoch, self.train.n_values)
            for x, y in self.train.batches(order, self.sizes):
                inputs = x if augment is None else self._augmented(augment, x, generator)
                self.latest = self.train.prepared(inputs), y
                result = self.learner.step(*self.latest)
                metrics.add(result.loss, result.out, y)
                if result.kl is not None:
                    parts.append((result.nll, result.kl))
                report(1, text)
            row |= metrics.means("")
            self._check_finite(row, "loss", self._is_sound(with_loss=self.held_out is None))
            if self.held_out is not None:
                row |= self._evaluated(self.held_out).means("val_")
                self._check_finite(row, "val_loss")
        if parts:
            nlls, kls = zip(*parts, strict=True)
            row |= {
                "nll": weighted_mean(list(nlls), metrics.loss_sizes),
                "kl": weighted_mean(list(kls), metrics.loss_sizes),
                "kl_weight": self.learner.kl_weight,
                **self._spreads(),
            }
        row |= {"learning_rate": rate, "seconds": time.perf_counter() - started}
        self._record(row)
        return row

    def _augmented(self, augment: Augment, x: Tensor, generator: torch.Generator) -> Tensor:
        with OwnDraws(self.learner.stream):
            augmented = augment(x, generator)
        shape = tuple(getattr(augmented, "shape", ()))
        if isinstance(self.model, MCNetwork) and shape != tuple(x.shape):
            raise ValueError(f"`augment` must give a tensor of the shape that it gets, {tuple(x.shape)}; got {shape}.")
        return augmented

    @staticmethod
    def _check_finite(row: dict[str, float], name: str, sound: bool = True) -> None:
        """Refuse an epoch whose loss is not finite, or whose weights are not sound."""
        if not (sound and math.isfinite(row[name])):
            raise FloatingPointError(
                f"The {name} must stay finite; it was not in epoch {row['epoch']}, and the model keeps its weights "
                "from before that epoch. Use a smaller `learning_rate`, or look for extreme values in `x` and `y`."
            )

    def _is_sound(self, with_loss: bool = True) -> bool:
        """Whether the weights are finite and give a finite loss: the last step may have made them too large."""
        checked: list[Tensor] = list(self.model.parameters())
        if with_loss and self.latest is not None:
            self.model.eval()
            with suppress(Exception):  # some models of users work in training alone
                checked.append(self.learner.evaluate(*self.latest)[0])
        return all_finite(checked)  # one question to the device

    @contextmanager
    def _weights_restored_on_error(self) -> Iterator[None]:
        """An error restores the weights from before the epoch. An interrupt does so only if training has failed."""
        before, steps = copied(tensors_of(self.model)), self.learner.steps
        try:
            yield
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt) or not self._is_sound():
                restore_tensors(self.model, before)
                self.learner.steps = steps
            raise

    def finish(self) -> None:
        """Restore the best weights, if there are any, and set `history` of the model."""
        if self.best is not None:
            self.model.load_state_dict(self.best)
        names = ["epoch", "loss", self.learner.objective.metric]
        names += [f"val_{name}" for name in names[1:]] if self.held_out is not None else []
        if self.learner.layers:
            names += ["nll", "kl", "kl_weight", *(spread_name(path) for path in self.learner.layers)]
        model: Any = self.model
        model.history = pd.DataFrame(self.rows, columns=[*names, "learning_rate", "seconds"])

    def _spreads(self) -> dict[str, float]:
        """The mean posterior standard deviation of each Bayesian layer."""
        with torch.no_grad():
            spreads = [layer.deviations().mean() for layer in self.learner.layers.values()]
            return dict(zip(map(spread_name, self.learner.layers), torch.stack(spreads).tolist(), strict=True))

    def _evaluated(self, part: Examples) -> EpochMetrics:
        self.model.eval()
        metrics = EpochMetrics(self.learner.objective)
        for x, y in part.batches(None, self.settings.batch_size):
            metrics.add(*self.learner.evaluate(part.prepared(x), y), y)
        return metrics

    def _record(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        value = row.get(self.settings.monitor)
        if value is None:
            return
        if self.plateau is not None:
            self.plateau.step(value)
        if self.settings.early_stopping is None:
            return
        if self.settings.is_better(value, self.best_value):
            self.best, self.best_value = copied_weights(self.model), value
            self.epochs_without_improvement = 0
        else:
            self.epochs_without_improvement += 1
        self.stopped = self.epochs_without_improvement >= self.settings.early_stopping

    def _text(self, epoch: int) -> str:
        text = f"Epoch {epoch} of {self.settings.epochs}"
        if not self.rows:
            return text
        shown_names = [name for name in self.rows[-1] if name.removeprefix("val_") in ("loss", "accuracy", "rmse")]
        return ", ".join([text, *(f"{name} {self.rows[-1][name]:.3f}" for name in shown_names)])


def copied_weights(model: nn.Module) -> Weights:
    """Copies of all parameters and buffers in the state dict."""
    return copied(model.state_dict())


def tensors_of(model: nn.Module) -> Weights:
    """All parameters and buffers, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copied(tensors: Weights) -> Weights:
    """Copies of tensors."""
    return {name: values.detach().clone() for name, values in tensors.items()}


def restore_tensors(model: nn.Module, saved: Weights) -> None:
    """Set parameters and buffers to the saved values."""
    with torch.no_grad():
        for name, values in tensors_of(model).items():
            if name in saved:
                values.copy_(saved[name])
