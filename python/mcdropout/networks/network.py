"""The base of all networks of this package: labels, units of features and targets, and input checks.

`spec` contains the arguments that a network was made with. With it, a file can describe a network without any code.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import as_list, check_choice, check_count, check_number, entries, shown
from ..compute.memory import check_free
from ..compute.streams import OwnStream
from ..data.labels import Label, as_label_set

if TYPE_CHECKING:
    import pandas as pd

TASKS = ("classification", "binary", "regression")

NOISES = ("homoscedastic", "heteroscedastic", "none")

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}

CONSTANT = 1e-12  # a column whose std is below this share of its mean is constant: some thousand float64 roundings


class MCNetwork(nn.Module):
    """A network of `mc_cnn()`, `mc_mlp()` or their Bayesian counterparts: torch layers with labels, units and checks.

    The layers work in standard units of features and values; `forward` takes and returns the caller's units. A mean is
    stored in two parts: `..._mean` is rounded to float32, and `..._rest` is the rounding error. Together they have the
    digits of float64, also on devices without float64.

    Attributes:
        spec: The arguments it was made with, as JSON values.
        labels: The names of the classes; None for values.
        task: "classification", "binary" or "regression".
        outputs: What `forward` returns: "logits", "values" or "mean_log_variance".
        input_shape: The shape of one input.
        history: A row for each epoch of the last `mc_fit()`, or None.
        columns: The names of the features, if it was trained on a table with names. The columns of later tables are
            sorted in this order.
    """

    target_mean: Tensor
    target_rest: Tensor
    target_scale: Tensor
    feature_mean: Tensor
    feature_rest: Tensor
    feature_scale: Tensor
    scales_set: Tensor
    takes_standard = gives_standard = False  # whether `forward` is in these units: see `standard_view()`

    def __init__(self, spec: dict[str, Any], layers: OrderedDict[str, nn.Module] | nn.Sequential) -> None:
        super().__init__()
        self.spec = spec
        self.layers = layers if isinstance(layers, nn.Sequential) else nn.Sequential(layers)
        self.history: pd.DataFrame | None = None
        self.columns: tuple[str, ...] = ()
        self.labels: tuple[Label, ...] | None = None if spec["labels"] is None else tuple(spec["labels"])
        self.task: str = spec["task"]
        self.noise: str = spec["noise"]
        self.n_outputs: int = spec["n_outputs"]
        self.is_image = "input_shape" in spec
        self.input_shape: tuple[int, ...] = tuple(spec["input_shape"]) if self.is_image else (spec["n_features"],)
        self.register_buffer("scales_set", torch.tensor(False))  # further training keeps the units of the first
        if not self.is_image:
            self._register_units("feature", spec["n_features"])
        if self.task == "regression":
            self._register_units("target", self.n_outputs)
        learns_one_noise = self.outputs == "mean_log_variance" and self.noise == "homoscedastic"
        self.log_variance = nn.Parameter(torch.zeros(self.n_outputs)) if learns_one_noise else None
        self.eval()  # the state after `mc_fit()`: callers switch dropout on

    @property
    def outputs(self) -> str:
        """What `forward` returns: "logits", "values" or "mean_log_variance"."""
        if self.task != "regression":
            return "logits"
        return "values" if self.noise == "none" else "mean_log_variance"

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of a batch, (input, height, width, channel) or (input, feature), in the caller's units.

        "logits": (input, label), one column if binary. "values": (input, output). "mean_log_variance":
        (input, 2 x output), the means and then the natural logarithms of the noise variances.
        """
        out = self.standard_outputs(x if self.takes_standard else self.standard_inputs(x))
        return out if self.gives_standard else self.in_callers_units(out)

    def standard_view(self, values: bool = True) -> MCNetwork:
        """A view of this network that shares all its parts, but whose `forward` works in standard units.

        It takes features of a table in standard units. It returns values in standard units unless `values` is false.
        """
        view = copy.copy(self)
        view.takes_standard, view.gives_standard = not self.is_image, values
        return view

    def units(self, what: str, device: torch.device | str) -> Units:
        """The present standard units of "feature" or "target", on a device."""
        return Units(*(getattr(self, f"{what}_{part}").to(device) for part in ("mean", "rest", "scale")))

    def standard_inputs(self, x: Tensor) -> Tensor:
        """The inputs of the layers: images with channels first, or features in standard units."""
        if self.is_image:
            return x.permute(0, 3, 1, 2)  # a view in channels-last memory, so nothing is copied
        return self.units("feature", x.device).standard(x)

    def standard_outputs(self, x: Tensor) -> Tensor:
        """The outputs of `forward` for standard inputs, in the standard units in which the loss is computed."""
        out = self.layers(x)
        if self.log_variance is not None:
            out = torch.cat([out, self.log_variance.expand_as(out)], dim=-1)
        return out

    def in_callers_units(self, out: Tensor, units: Units | None = None) -> Tensor:
        """Standard values in the caller's units: mean * scale + centre, log-variance + 2 log(scale).

        `units` are those of "target" on the device of `out`; by default they are copied there.
        """
        if self.outputs == "logits":
            return out
        units = units or self.units("target", out.device)
        if self.outputs == "values":
            return units.callers(out)
        mean, log_variance = out.chunk(2, dim=-1)
        return torch.cat([units.callers(mean), log_variance + 2 * units.scale.log()], dim=-1)

    def standard_targets(self, y: Tensor) -> Tensor:
        """Values (input, output) in standard units. `y` is float64, so a mean far from zero costs no digits."""
        return self.units("target", y.device).standard(y)

    def set_scales(self, features: tuple[np.ndarray, np.ndarray] | None, targets: np.ndarray | None) -> None:
        """Set the standard units from (mean, std) of the features of a table and from `targets` (input, output).

        Only the first call has an effect, so further training continues with the function learnt so far.
        """
        if bool(self.scales_set):
            return
        self.scales_set.fill_(True)
        if features is not None and not self.is_image:
            self._fill("feature", *features)
        if targets is not None and self.task == "regression":
            self._fill("target", *mean_and_std(targets))

    def _register_units(self, what: str, n: int) -> None:
        self.register_buffer(f"{what}_mean", torch.zeros(n))
        self.register_buffer(f"{what}_rest", torch.zeros(n))
        self.register_buffer(f"{what}_scale", torch.ones(n))

    def _fill(self, what: str, mean: np.ndarray, std: np.ndarray) -> None:
        rounded = mean.astype(np.float32)
        # the rounding errors of a constant column must not be scaled up to the size of a signal
        constant = std <= np.maximum(np.abs(mean) * CONSTANT, np.finfo(np.float32).tiny)
        parts = {"mean": rounded, "rest": mean - rounded, "scale": np.where(constant, 1.0, std)}
        for part, values in parts.items():
            getattr(self, f"{what}_{part}").copy_(torch.from_numpy(values.astype(np.float32)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any, **others: Any) -> None:
        for what in ("feature", "target"):  # files of the first version have no `..._rest`
            if f"{prefix}{what}_mean" in state_dict:
                mean = state_dict[f"{prefix}{what}_mean"]
                state_dict.setdefault(f"{prefix}{what}_rest", torch.zeros_like(mean))
        super()._load_from_state_dict(state_dict, prefix, *more, **others)

    def check_input_shape(self, shape: Sequence[int], name: str = "x") -> None:
        """Refuse inputs (input, ...) of another shape than this network takes."""
        shape = tuple(shape)
        if shape[1:] == self.input_shape:
            return
        sizes = ", ".join(str(size) for size in self.input_shape)
        problem = f"`{name}` must have shape (input, {sizes}); got {shape}."
        raise ValueError(f"{problem} {_suggestion(shape, self.input_shape)}".rstrip())

    def extra_repr(self) -> str:
        head = f"noise={self.noise}, n_outputs" if self.labels is None else "n_labels"
        return f"task={self.task}, input_shape={self.input_shape}, {head}={self.n_outputs}"


class Units(NamedTuple):
    """Standard units: (number - mean - rest) / scale."""

    mean: Tensor
    rest: Tensor
    scale: Tensor

    def standard(self, x: Tensor) -> Tensor:
        """Numbers in standard units. The mean is subtracted in the type of `x`; the result has the network's type."""
        return ((x - self.mean - self.rest) / self.scale).to(self.mean.dtype)

    def callers(self, x: Tensor) -> Tensor:
        """Standard numbers in the caller's units, in the type of `x`."""
        return x * self.scale + self.rest + self.mean


def mean_and_std(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std of each column, in float64. Subtracting the first row gives a constant column an exact std of 0."""
    first = table[0].astype(np.float64)
    table = table - first
    return first + table.mean(axis=0), table.std(axis=0)


class _FirstWeights(OwnStream):
    """The stream of the first weights. It refuses weights for which there is no memory before they are drawn."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].device.type == "cpu":
            check_free(args[0].nbytes)
        return super().__torch_dispatch__(func, types, args, kwargs)


def weights_from(seed: int) -> OwnStream:
    """A context in which weights are drawn from `seed`; the global generators keep their state."""
    return _FirstWeights(seed)


class Head:
    """The checked arguments of the last layer: labels with logits, or values with their noise."""

    def __init__(self, labels: tuple[Label, ...] | None, n_outputs: int, task: str, noise: str) -> None:
        self.labels = labels
        self.n_outputs = n_outputs
        self.task = task
        self.noise = noise

    @classmethod
    def checked(cls, labels: Iterable[Label] | None, n_outputs: int | None, task: str, noise: str) -> Head:
        check_choice(task, "task", TASKS)
        check_choice(noise, "noise", NOISES)
        count = None if n_outputs is None else check_count(n_outputs, "n_outputs")
        if task == "regression":
            if labels is not None:
                raise ValueError('`labels` must be left out when `task` is "regression"; use `n_outputs`.')
            return cls(None, 1 if count is None else count, task, noise)
        names = _labels(labels, count)
        if task == "binary" and len(names) != 2:
            raise ValueError(f'`labels` must be two when `task` is "binary"; got {len(names)}.')
        return cls(names, len(names), task, noise)

    @property
    def width(self) -> int:
        """The number of units of the last layer."""
        if self.task == "binary":
            return 1
        has_variances = self.task == "regression" and self.noise == "heteroscedastic"
        return 2 * self.n_outputs if has_variances else self.n_outputs

    def spec(self) -> dict[str, Any]:
        labels = None if self.labels is None else list(self.labels)
        return {"labels": labels, "n_outputs": self.n_outputs, "task": self.task, "noise": self.noise}


def _labels(labels: Iterable[Label] | None, count: int | None) -> tuple[Label, ...]:
    if labels is None:
        if count is None:
            raise ValueError(
                "`labels` must name the classes; got nothing. "
                'Give `labels`, or `n_outputs` for classes 0, 1, ..., or `task` = "regression" for values.'
            )
        return tuple(range(check_count(count, "n_outputs", at_least=2)))
    names = as_label_set(labels)
    if count is not None and count != len(names):
        raise ValueError(f"`n_outputs` must be the number of `labels` ({len(names)}); got {count}.")
    return names


def check_counts(value: object, name: str) -> list[int]:
    """A list of whole numbers of at least 1. A single number gives a list of one."""
    return [check_count(number, name) for number in as_list(value)]


def check_filters(filters: object) -> list[int]:
    """The filters of each convolution or block, of which there is at least one."""
    counts = check_counts(filters, "filters")
    if not counts:
        raise ValueError("`filters` must hold at least one whole number; got none.")
    return counts


def check_rates(value: object, name: str, n_layers: int, of: str) -> list[float]:
    """A list of `n_layers` rates of dropping in [0, 1). A single rate is used for all layers."""
    values = entries(value)
    if values is None:
        return [check_number(value, name, at_least=0, below=1)] * n_layers
    rates = [check_number(rate, name, at_least=0, below=1) for rate in values]
    if len(rates) != n_layers:
        raise ValueError(f"`{name}` must be one rate, or one per layer of {of} ({n_layers}); got {len(rates)} rates.")
    return rates


def activation_layer(name: str) -> type[nn.Module]:
    """The layer class of an activation."""
    return ACTIVATIONS[check_choice(name, "activation", list(ACTIVATIONS))]


def image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """The checked height, width and channels of an image."""
    sizes = check_counts(input_shape, "input_shape")
    if len(sizes) != 3:
        raise ValueError(
            f"`input_shape` must be three whole numbers (height, width, channel); got {shown(tuple(sizes))}. "
            "Grey images have 1 channel, colour images 3."
        )
    return sizes[0], sizes[1], sizes[2]


def pools_and_last_sides(
    shape: tuple[int, int, int], n_layers: int, kernel: int
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The size of each pool, and height and width after the last. Refuses images that are too small for the layers."""
    height, width, _ = shape
    pools: list[tuple[int, int]] = []
    sums: list[str] = []  # the arithmetic of the shorter side, for the message
    for _ in range(n_layers):
        shorter = min(height, width)
        height, width = height - kernel + 1, width - kernel + 1
        left = min(height, width)
        sums.append(f"{shorter} - {kernel - 1} = {left}")
        if left < 1:
            raise ValueError(
                f"`input_shape` must be large enough for {n_layers} convolutions with `kernel_size` "
                f"{kernel}; got {shape}, which leaves {', '.join(sums)} on its shorter side. "
                "Use larger images, fewer `filters` or a smaller `kernel_size`."
            )
        pools.append((min(height, 2), min(width, 2)))
        height, width = max(height // 2, 1), max(width // 2, 1)
        if left > 1:
            sums.append(f"{left} / 2 = {left // 2}")
    return pools, (height, width)


def add_dense(
    layers: OrderedDict[str, nn.Module],
    n_inputs: int,
    hidden: list[int],
    rates: list[float],
    make: type[nn.Module],
    n_outputs: int,
) -> None:
    """Add hidden layers to a dense network: linear layer, activation and dropout."""
    for i, (width, rate) in enumerate(zip(hidden, rates, strict=True)):
        layers[f"dense{i + 1}"] = nn.Linear(n_inputs, width)
        layers[f"dense{i + 1}_activation"] = make()
        layers[f"dense{i + 1}_dropout"] = nn.Dropout(rate)
        n_inputs = width
    layers["output"] = nn.Linear(n_inputs, n_outputs)


def start_as_keras(layers: OrderedDict[str, nn.Module]) -> None:
    """Draw weights uniformly by Glorot and Bengio (2010) and set biases to 0: faster at first than torch's default."""
    for layer in layers.values():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None  # this package makes these layers with a bias
            nn.init.zeros_(layer.bias)


def _suggestion(shape: tuple[int, ...], input_shape: tuple[int, ...]) -> str:
    if shape == input_shape:
        return "A single input also needs the input axis in front."
    if len(input_shape) == 3 and input_shape[2] == 1 and shape[1:] == input_shape[:2]:
        return "Add the channel axis at the end."
    if len(input_shape) == 3 and shape[1:] == (input_shape[2], *input_shape[:2]):
        return "Move the channel axis to the end."
    return ""
