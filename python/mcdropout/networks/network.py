"""What all networks of this package share: labels, units of features and targets, and input checks.

`spec` holds the arguments that a network was made with, so a file can describe a network without holding any code.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import check_choice, check_count, check_number, shown
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

CONSTANT = 1e-12  # a column that varies by less of its mean is constant: some thousand roundings of float64


class MCNetwork(nn.Module):
    """A network of `mc_cnn()`, `mc_mlp()` or their Bayesian kin: torch layers, and what is needed to use them alone.

    Values are learnt, and features seen, in standard units; `forward` takes and returns the caller's units. A mean is
    held
    in two parts, `..._mean` and `..._rest`, what float32 rounds off it: together they have the digits of float64, also
    on
    devices that have none.

    Attributes:
        spec: The arguments it was made with, as JSON can hold them.
        labels: The names of the classes; None for values.
        task: "classification", "binary" or "regression".
        outputs: What `forward` returns: "logits", "values" or "mean_log_variance".
        input_shape: The shape of one input.
        history: A row for each epoch of the last `mc_fit()`, or None.
        columns: Names of the features, if it was trained on a table that has them. Tables to come are put in their
            order.
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
        self.columns: tuple[str, ...] = ()  # of the table that it was trained on, if they had names
        self.labels: tuple[Label, ...] | None = None if spec["labels"] is None else tuple(spec["labels"])
        self.task: str = spec["task"]
        self.noise: str = spec["noise"]
        self.n_outputs: int = spec["n_outputs"]
        self.is_image = "input_shape" in spec
        self.input_shape: tuple[int, ...] = tuple(spec["input_shape"]) if self.is_image else (spec["n_features"],)
        self.register_buffer("scales_set", torch.tensor(False))  # once set, training goes on in these units
        if not self.is_image:
            self._register_units("feature", spec["n_features"])
        if self.task == "regression":
            self._register_units("target", self.n_outputs)
        learns_one_noise = self.outputs == "mean_log_variance" and self.noise == "homoscedastic"
        self.log_variance = nn.Parameter(torch.zeros(self.n_outputs)) if learns_one_noise else None
        self.eval()  # as `mc_fit()` leaves it: dropout is switched on by those who want it

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
        """This very network, all its parts shared, but for a `forward` that does without the caller's units.

        It takes the features of a table, and unless `values` is false gives values, in standard units.
        """
        view = copy.copy(self)
        view.takes_standard, view.gives_standard = not self.is_image, values
        return view

    def units(self, what: str, device: torch.device | str) -> Units:
        """The standard units of "feature" or "target" as they are now, on a device."""
        return Units(*(getattr(self, f"{what}_{part}").to(device) for part in ("mean", "rest", "scale")))

    def standard_inputs(self, x: Tensor) -> Tensor:
        """Inputs as the layers take them: channels first, or features in standard units."""
        if self.is_image:
            return x.permute(0, 3, 1, 2)  # a view, and already in channels-last memory: never copied
        return self.units("feature", x.device).standard(x)

    def standard_outputs(self, x: Tensor) -> Tensor:
        """As `forward`, from standard inputs to values in standard units: those the loss is taken in."""
        out = self.layers(x)
        if self.log_variance is not None:
            out = torch.cat([out, self.log_variance.expand_as(out)], dim=-1)
        return out

    def in_callers_units(self, out: Tensor, units: Units | None = None) -> Tensor:
        """Standard values back to the caller's units: mean * scale + centre, log-variance + 2 log(scale).

        units: those of "target" on the device of `out`, where they have been fetched before.
        """
        if self.outputs == "logits":
            return out
        units = units or self.units("target", out.device)
        if self.outputs == "values":
            return units.callers(out)
        mean, log_variance = out.chunk(2, dim=-1)
        return torch.cat([units.callers(mean), log_variance + 2 * units.scale.log()], dim=-1)

    def standard_targets(self, y: Tensor) -> Tensor:
        """Values (input, output) in standard units; float64 in, so that a far-off mean costs no digits."""
        return self.units("target", y.device).standard(y)

    def set_scales(self, features: tuple[np.ndarray, np.ndarray] | None, targets: np.ndarray | None) -> None:
        """Settle the standard units: (mean, std) of the features of a table, and `targets` (input, output).

        Only the first call counts, so that training on goes on with the function learnt so far.
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
        # a constant column: its rounding must not be blown up to the size of a signal
        constant = std <= np.maximum(np.abs(mean) * CONSTANT, np.finfo(np.float32).tiny)
        found = {"mean": rounded, "rest": mean - rounded, "scale": np.where(constant, 1.0, std)}
        for part, values in found.items():
            getattr(self, f"{what}_{part}").copy_(torch.from_numpy(values.astype(np.float32)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any, **others: Any) -> None:
        for what in ("feature", "target"):  # those of the first version have no rest
            if f"{prefix}{what}_mean" in state_dict:
                mean = state_dict[f"{prefix}{what}_mean"]
                state_dict.setdefault(f"{prefix}{what}_rest", torch.zeros_like(mean))
        super()._load_from_state_dict(state_dict, prefix, *more, **others)

    def check_input_shape(self, shape: Sequence[int], name: str = "x") -> None:
        """Refuse inputs, (input, ...), whose axes are not this network's, and say what is amiss."""
        shape = tuple(shape)
        wanted = self.input_shape
        if shape[1:] == wanted:
            return
        words = ", ".join(str(size) for size in wanted)
        problem = f"`{name}` must have shape (input, {words}); got {shape}."
        raise ValueError(f"{problem} {_way_out(shape, wanted)}".rstrip())

    def extra_repr(self) -> str:
        head = f"noise={self.noise}, n_outputs" if self.labels is None else "n_labels"
        return f"task={self.task}, input_shape={self.input_shape}, {head}={self.n_outputs}"


class Units(NamedTuple):
    """The standard units of some numbers: (number - mean - rest) / scale."""

    mean: Tensor
    rest: Tensor
    scale: Tensor

    def standard(self, x: Tensor) -> Tensor:
        """In standard units and the network's own type, the mean taken off in the type of `x`."""
        return ((x - self.mean - self.rest) / self.scale).to(self.mean.dtype)

    def callers(self, x: Tensor) -> Tensor:
        """Back from standard units, in the type of `x`."""
        return x * self.scale + self.rest + self.mean


def mean_and_std(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each column, in float64; taken from the first row on, so that a constant column has a deviation of 0."""
    first = table[0].astype(np.float64)
    table = table - first
    return first + table.mean(axis=0), table.std(axis=0)


def weights_from(seed: int) -> OwnStream:
    """Inside, weights are drawn from `seed`; no global generator moves."""
    return OwnStream(seed)


class Head:
    """What the last layer gives, checked: labels and logits, or values and their noise."""

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
        found = _labels(labels, count)
        if task == "binary" and len(found) != 2:
            raise ValueError(f'`labels` must be two when `task` is "binary"; got {len(found)}.')
        return cls(found, len(found), task, noise)

    @property
    def width(self) -> int:
        """Units of the last layer."""
        if self.task == "binary":
            return 1
        both = self.task == "regression" and self.noise == "heteroscedastic"
        return 2 * self.n_outputs if both else self.n_outputs

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
    found = as_label_set(labels)
    if count is not None and count != len(found):
        raise ValueError(f"`n_outputs` must be the number of `labels` ({len(found)}); got {count}.")
    return found


def check_counts(value: object, name: str) -> list[int]:
    """Whole numbers of at least 1; one alone counts as a list of one."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        value = [value]
    return [check_count(one, name) for one in value]


def check_rates(value: object, name: str, wanted: int, of: str) -> list[float]:
    """Rates of dropping in [0, 1), `wanted` of them; one number alone stands for all."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [check_number(value, name, at_least=0, below=1)] * wanted
    rates = [check_number(one, name, at_least=0, below=1) for one in value]
    if len(rates) != wanted:
        raise ValueError(f"`{name}` must be one rate, or one per layer of {of} ({wanted}); got {len(rates)} rates.")
    return rates


def activation_layer(name: str) -> type[nn.Module]:
    """The layer of an activation by its name."""
    return ACTIVATIONS[check_choice(name, "activation", list(ACTIVATIONS))]


def image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Height, width and channels of an image, checked."""
    sizes = check_counts(input_shape, "input_shape")
    if len(sizes) != 3:
        raise ValueError(
            f"`input_shape` must be three whole numbers (height, width, channel); got {shown(tuple(sizes))}. "
            "Grey images have 1 channel, coloured ones 3."
        )
    return sizes[0], sizes[1], sizes[2]


def pools_and_last_sides(
    shape: tuple[int, int, int], n_layers: int, kernel: int
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Size of each pool, and height and width after the last; refuses what leaves nothing, with the sums."""
    height, width, _ = shape
    pools: list[tuple[int, int]] = []
    sums: list[str] = []  # on the shorter side, which runs out first
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
    """Weights uniform by Glorot and Bengio (2010), biases 0: learns faster at first than torch's own start."""
    for layer in layers.values():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None  # as both kinds are made above
            nn.init.zeros_(layer.bias)


def _way_out(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if shape == wanted:
        return "One input alone still needs the input axis in front."
    if len(wanted) == 3 and wanted[2] == 1 and shape[1:] == wanted[:2]:
        return "Add the channel axis at the end."
    if len(wanted) == 3 and shape[1:] == (wanted[2], *wanted[:2]):
        return "Move the channel axis to the end."
    return ""
