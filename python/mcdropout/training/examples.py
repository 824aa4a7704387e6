"""The examples to train and validate on, and their split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import check_length
from ..compute.transfers import to_device
from ..data.rows import PIECE, ArrayRows, Rows, as_rows, check_finite, doubles, in_order
from ..networks.network import MCNetwork, mean_and_std
from .losses import as_loss_targets, as_model_targets, preparation
from .settings import TrainingSettings

ON_DEVICE = 1 << 30  # bytes: inputs up to this go to a GPU whole, larger ones batch by batch


@dataclass(frozen=True)
class Examples:
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
    ) -> Examples:
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

    def choice(self, index: np.ndarray) -> Examples:
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
            yield to_device(x, self.place), self.targets[on_device]

    def prepared(self, x: Tensor) -> Tensor:
        """A batch as the layers take it."""
        return (x if self.prepare is None else self.prepare(x)).to(self.device)


def examples(
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


def validation_examples(
    model: nn.Module, validation_data: object, settings: TrainingSettings, columns: tuple[str, ...]
) -> tuple[Rows, np.ndarray] | None:
    """The examples of `validation_data`, checked."""
    if validation_data is None:
        return None
    if settings.validation_split > 0:
        raise ValueError("`validation_split` must be 0 where `validation_data` is given; got both.")
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise ValueError("`validation_data` must be a pair (x, y); got something else.")
    x, y = validation_data
    return examples(model, x, y, "validation_data's x", "validation_data's y", columns)


def split(targets: np.ndarray, settings: TrainingSettings) -> tuple[np.ndarray, np.ndarray | None]:
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


def set_scales(model: MCNetwork, rows: Rows, targets: np.ndarray, train: np.ndarray) -> None:
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
