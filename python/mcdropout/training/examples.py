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

ON_DEVICE = 1 << 30  # bytes: up to this size all inputs go to a GPU at once, larger ones batch by batch


@dataclass(frozen=True)
class Examples:
    """Inputs and targets for training or validation, in batches."""

    inputs: Tensor | Rows
    targets: Tensor
    index: Tensor  # the positions of the inputs that belong to this part
    device: torch.device
    place: torch.device  # the device of the batches of inputs
    prepare: Callable[[Tensor], Tensor] | None  # converts a batch for the layers; None: already done

    @classmethod
    def of(
        cls, model: nn.Module, rows: Rows, targets: np.ndarray, device: torch.device, unscaled: bool = False
    ) -> Examples:
        """All inputs; an array becomes one tensor, files stay files.

        A table for a network of this package is converted to standard units here, in float64 and once for all epochs.
        With `unscaled` the batches stay in the caller's units, in float64 on the host.
        """
        place, prepare = device, preparation(model)
        if isinstance(rows, ArrayRows) and isinstance(model, MCNetwork) and not model.is_image:
            if unscaled:
                inputs, place = torch.from_numpy(doubles(rows, slice(None))), torch.device("cpu")
            else:
                inputs, prepare = _in_standard_units(model, rows), None
        else:
            inputs = torch.from_numpy(rows.take(slice(None))) if isinstance(rows, ArrayRows) else rows
        if isinstance(inputs, Tensor) and inputs.nbytes <= ON_DEVICE:
            inputs = inputs.to(place)
        loss_targets = as_loss_targets(model, targets).to(device)
        return cls(inputs, loss_targets, torch.arange(len(targets)), device, place, prepare)

    def subset(self, index: np.ndarray) -> Examples:
        """Only the inputs at these positions, in the same memory."""
        return replace(self, index=torch.from_numpy(index))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n_values(self) -> int:
        """The number of values in the loss of an epoch."""
        return len(self) * (self.targets.shape[1] if self.targets.ndim > 1 else 1)

    def batches(self, order: Tensor | None, size: int | list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of inputs and their targets, in this order, of one size or of these sizes.

        The order goes to the device at once, because a transfer for every batch would make a GPU wait.
        """
        host_index = self.index if order is None else self.index[order]
        device_index = host_index.to(self.device)
        for on_host, on_device in zip(host_index.split(size), device_index.split(size), strict=True):
            if not isinstance(self.inputs, Tensor):
                x = torch.from_numpy(self.inputs.take(on_host.numpy()))
            else:
                x = self.inputs[on_host if self.inputs.is_cpu else on_device]
            yield to_device(x, self.place), self.targets[on_device]

    def prepared(self, x: Tensor) -> Tensor:
        """A batch in the form that the layers take."""
        return (x if self.prepare is None else self.prepare(x)).to(self.device)


def examples(
    model: nn.Module, x: object, y: object, x_name: str, y_name: str, columns: tuple[str, ...] = ()
) -> tuple[Rows, np.ndarray]:
    """Inputs and targets, checked; targets are codes or values. `columns` serves for a model without column names."""
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
    """Positions of the inputs for training, and of the held-out inputs, if any."""
    positions = np.arange(len(targets))
    if settings.validation_split == 0:
        return positions, None
    strata = targets if targets.ndim == 1 else np.zeros(len(targets), np.int64)
    held_out = stratified_choice(strata, settings.validation_split, settings.seed)
    if len(held_out) in (0, len(targets)):
        raise ValueError(
            "`validation_split` must leave inputs on both sides; "
            f"got {settings.validation_split} of {len(targets)} inputs."
        )
    return np.setdiff1d(positions, held_out), held_out


def stratified_choice(strata: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Sorted positions of a random `share` of the entries; every stratum has that share, up to one entry.

    Entries are shuffled and then sorted by stratum. Every k-th entry is selected, with k = 1 / `share`.
    """
    shuffled = np.random.default_rng([seed, 0]).permutation(len(strata))
    by_stratum = shuffled[np.argsort(strata[shuffled], kind="stable")]
    n_selected = round(share * len(strata))
    steps = ((np.arange(n_selected) + 0.5) * len(strata) / max(n_selected, 1)).astype(np.int64)
    return np.sort(by_stratum[steps])


def set_scales(model: MCNetwork, rows: Rows, targets: np.ndarray, train: np.ndarray) -> None:
    """Set the standard units of a table's features and of values from the training part."""
    if bool(model.scales_set):
        return
    features = None
    if not model.is_image:
        mean, std = mean_and_std(doubles(rows, train))
        if isinstance(rows, ArrayRows) and rows.values.dtype.kind == "f":  # a column may be constant up to rounding
            std[std <= np.abs(mean) * np.finfo(rows.values.dtype).eps] = 0
        features = mean, std
    model.set_scales(features, targets[train] if model.task == "regression" else None)


def _in_standard_units(model: MCNetwork, rows: Rows) -> Tensor:
    """A table in standard units for the layers. The conversion runs in float64, piece by piece."""
    n, n_features = rows.shape
    step = max(1, PIECE // n_features)
    pieces = (doubles(rows, slice(start, start + step)) for start in range(0, n, step))
    return torch.cat([model.standard_inputs(torch.from_numpy(piece)) for piece in pieces])
