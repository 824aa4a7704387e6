"""One step: a batch, its loss, and the update of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ..checks import check_count, check_number, shown
from ..compute.streams import OwnDraws, OwnStream
from ..networks.network import ACTIVATIONS, MCNetwork
from ..variational.layer import BayesLayer, kl_divergence_of, variational_layers
from .losses import Objective, raw_outputs


class Learner:
    """A model, its loss and its optimizer. Trains on a batch, or evaluates a batch."""

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
        self.is_own_network = isinstance(model, MCNetwork)
        self.drawing: AbstractContextManager[Any] = nullcontext()  # inside, a network of this package uses the stream
        with torch.no_grad(), OwnStream(0) as stream:  # a KL divergence in closed form draws nothing
            self.kl_draws = bool(self.layers) and (kl_divergence_of(self.layers.values()), stream.has_drawn)[1]

    def seed(self, seed: int, epoch: int, n: int = 0) -> tuple[Tensor, torch.Generator]:
        """Seed the dropout of an epoch; returns the order of `n` inputs and a generator for augmentation."""
        dropout, order, augmentation = np.random.SeedSequence([seed, epoch]).generate_state(3, np.uint64) >> 1
        self.stream.start(int(dropout))
        if self.is_own_network:
            self.drawing = _drawing(self.model, self.stream)
        positions = torch.randperm(n, generator=torch.Generator().manual_seed(int(order)))
        return positions, torch.Generator().manual_seed(int(augmentation))

    def global_generators(self) -> AbstractContextManager[None]:
        """Inside, torch's global generators are in the state of the stream, for models from outside this package.

        Such a model may draw where no torch mode can intercept it, and again in the backward pass, as activation
        checkpointing does. The whole step therefore uses these generators.
        """
        return nullcontext() if self.is_own_network else self.stream.lent(self.device)

    def step(self, x: Tensor, y: Tensor, check: bool = False) -> StepResult:
        """Train on one batch. The result stays on the device, because a transfer would wait for the device.

        With `check` a loss or a gradient that is not finite is refused, before the weights change.
        """
        with self.global_generators():
            self.optimizer.zero_grad()
            with self.drawing:
                out = self._training_outputs(x)
            loss = nll = self.objective.loss(out, y, self.class_weights)
            kl = None
            if self.layers:
                with OwnDraws(self.stream) if self.is_own_network and self.kl_draws else nullcontext():
                    kl = kl_divergence_of(self.layers.values())
                loss = nll + self.kl_weight * kl
            if self.scaler is None:
                loss.backward()
                if check:
                    self._check_gradients(loss)
                self.optimizer.step()
            else:
                self.scaler.scale(loss).backward()
                self.scaler.step(self.optimizer)
                self.scaler.update()
        self.steps += 1
        return StepResult(loss.detach(), out.detach(), nll.detach(), None if kl is None else kl.detach())

    def evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss without class weights, and outputs of one batch."""
        with torch.no_grad(), self.global_generators(), self.drawing:
            out = self._outputs(x)
        return self.objective.loss(out, y, None), out

    def _check_gradients(self, loss: Tensor) -> None:
        gradients = [weights.grad for weights in self.model.parameters() if weights.grad is not None]
        if not all_finite([loss, *gradients]):
            self.optimizer.zero_grad()
            raise FloatingPointError(
                "The loss and its gradient must be finite; they are not in this step, which leaves `model` unchanged. "
                "Use a smaller learning rate, or look for extreme values in `x` and `y`."
            )

    def _training_outputs(self, x: Tensor) -> Tensor:
        try:
            return self._outputs(x)
        except ValueError as error:
            if len(x) > 1 or not has_batch_norm(self.model):
                raise
            raise ValueError(
                "`x` must give at least two inputs for each step, because the batch normalization of `model` computes "
                "a variance; got one. Use larger batches."
            ) from error

    def _outputs(self, x: Tensor) -> Tensor:
        if self.precision is torch.float32:
            return self.outputs(x)
        with torch.autocast(self.device.type, self.precision):
            return self.outputs(x).float()


# The layers of this package's networks that never draw.
WITHOUT_DRAWS = {nn.Linear, nn.Conv1d, nn.Conv2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.BatchNorm2d, nn.Flatten}
WITHOUT_DRAWS |= {nn.Sequential, *ACTIVATIONS.values()}


def _drawing(model: nn.Module, stream: OwnStream) -> AbstractContextManager[Any]:
    """Inside, this network draws from the stream.

    Methods of the layers that draw are replaced, which is much faster than intercepting every torch call. All calls are
    intercepted if unknown code may draw, such as a layer or a hook of the user.
    """
    replaced = _ReplacedMethods()
    for layer in model.modules():
        is_own_class = type(layer).__module__.partition(".")[0] == "mcdropout"
        if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
            return OwnDraws(stream)
        if type(layer) is nn.Dropout:
            replaced.append((layer, "forward", partial(_dropped, layer, stream)))
        elif is_own_class and isinstance(layer, BayesLayer) and layer.posterior.make is None:
            replaced.append((layer, "drawn", stream.drawn))
        elif not (type(layer) in WITHOUT_DRAWS or (is_own_class and not isinstance(layer, BayesLayer))):
            return OwnDraws(stream)
    return replaced


class _ReplacedMethods(list[tuple[nn.Module, str, Callable[..., Any]]]):
    """(layer, name of a method, function in its place inside)."""

    def __enter__(self) -> None:
        for layer, name, function in self:
            vars(layer)[name] = function

    def __exit__(self, *_: object) -> None:
        for layer, name, _function in self:
            vars(layer).pop(name, None)


def _dropped(layer: nn.Dropout, stream: OwnStream, x: Tensor) -> Tensor:
    return stream.drawn(F.dropout, x, p=layer.p, training=layer.training, inplace=layer.inplace)


class StepResult(NamedTuple):
    """Loss and outputs of one batch."""

    loss: Tensor
    out: Tensor
    nll: Tensor  # the loss without its KL term
    kl: Tensor | None


def reduction(reduce_lr: int | Mapping[str, float] | None) -> tuple[int, float] | None:
    """Patience and factor of the argument `reduce_lr`, checked."""
    if reduce_lr is None:
        return None
    schedule = reduce_lr if isinstance(reduce_lr, Mapping) else {"patience": reduce_lr}
    if "patience" not in schedule or not set(schedule) <= {"patience", "factor"}:
        raise ValueError(
            "`reduce_lr` must be a number of epochs, or a mapping with `patience` and `factor`; "
            f"got {shown(dict(schedule))}."
        )
    factor = check_number(schedule.get("factor", 0.5), "reduce_lr's factor", above=0, below=1)
    return check_count(schedule["patience"], "reduce_lr"), factor


def weighted_mean(values: list[Tensor], weights: list[int]) -> float:
    """The mean of values of batches, weighted by their sizes."""
    return float(np.average(torch.stack(values).cpu().double().numpy(), weights=weights))


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers of all tensors are finite."""
    return bool(torch.stack([torch.isfinite(values).all() for values in tensors]).all())


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a layer needs more than one input to train on."""
    return any(isinstance(layer, _BatchNorm) for layer in model.modules())


def batch_sizes(n: int, size: int, model: nn.Module) -> list[int]:
    """The sizes of the batches of an epoch; with batch normalization a last single input joins the batch before it."""
    sizes = [size] * (n // size) + [n % size] * (n % size > 0)
    return [*sizes[:-2], size + 1] if n % size == 1 and n > size and has_batch_norm(model) else sizes
