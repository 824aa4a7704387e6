"""`mc_calibrate()`: a temperature that calibrates the probabilities of the draws. Only `mc_apply()` needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from ..checks import check_count, check_number, warn
from ..data.labels import Label, label_array
from ..predictions.parts import as_table, as_tuple, check_column, check_label_set, check_table, opening
from ..predictions.prediction import Array, MCPrediction
from ..predictions.truth import check_classes, check_labels, codes_to_learn_from, labels_of

# A probability of 0 among the draws is too small for float32; the smallest float32 number replaces it.
LEAST = float(np.finfo(np.float32).smallest_subnormal)

COLDEST, HOTTEST = 0.05, 20.0  # range of the search for the temperature

N_TEMPERATURES = 25  # grid before the search, so that the search starts near the global minimum

PIECE = 1 << 20  # numbers of the draws per piece


@dataclass(frozen=True)
class MCCalibration:
    """A temperature for the draws, learnt by `mc_calibrate()`; `mc_apply()` gives the calibrated prediction.

    Attributes:
        temperature: The temperature; above 1 it lowers the confidence.
        labels: The labels of the network.
        n_inputs: Number of inputs that the temperature was learnt on.
        log_loss_before: The log loss of these inputs before calibration, in nats.
        log_loss_after: The log loss of these inputs after calibration, in nats.
        curve: The log loss at other temperatures.
    """

    temperature: float
    labels: tuple[Label, ...]
    n_inputs: int
    log_loss_before: float
    log_loss_after: float
    curve: pd.DataFrame  # temperature, log_loss

    def __post_init__(self) -> None:
        """Refuse parts of another type or range than `mc_calibrate()` gives."""
        check_number(self.temperature, "temperature", above=0)
        check_label_set(self.labels)
        check_count(self.n_inputs, "n_inputs")
        check_number(self.log_loss_before, "log_loss_before")
        check_number(self.log_loss_after, "log_loss_after", at_most=self.log_loss_before)
        check_table(self.curve, "curve", ("temperature", "log_loss"))
        check_column(self.curve, "curve", "temperature", least=0, finite=True)
        check_column(self.curve, "curve", "log_loss", finite=True)

    def words(self) -> str:
        """The temperature and its effect, as text."""
        sureness = "too sure" if self.temperature > 1 else "not sure enough"
        return (
            f"# Calibration of the draws: temperature {self.temperature:.3f}; the draws were {sureness}.\n"
            f"Log loss {self.log_loss_before:.4f} before and {self.log_loss_after:.4f} after, on the "
            f"{self.n_inputs} inputs it was learnt on."
        )

    def __str__(self) -> str:
        return self.words()

    def apply(self, prediction: MCPrediction) -> MCPrediction:
        """The prediction with every draw at this temperature, and all summaries recomputed."""
        prediction = _check_not_calibrated(check_classes(prediction, ""))
        check_labels(prediction, self.labels, "the calibration")
        draws = np.concatenate(
            [_tempered(logs, self.temperature).astype(np.float32) for logs in _log_draws(prediction)], axis=1
        )
        return replace(prediction, samples=draws, temperature=self.temperature, **_summaries(draws, prediction))

    def to_state(self) -> dict[str, Any]:
        """The content of a file, in types that JSON has."""
        self.__post_init__()  # what was changed in place since must not give a file that cannot be opened
        return {**asdict(self), "labels": list(self.labels), "curve": self.curve.to_dict(orient="list")}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MCCalibration:
        """The calibration from the result of `to_state()`."""
        with opening("calibration", cls, state):
            labels, curve = as_tuple(state["labels"], "labels"), as_table(state["curve"], "curve")
            return cls(**{**state, "labels": labels, "curve": curve})


def mc_calibrate(prediction: MCPrediction, y: object) -> MCCalibration:
    """Learn a temperature that calibrates the probabilities: temperature scaling of the draws.

    The probabilities of every draw are raised to 1 / temperature and scaled to sum to 1. The learnt temperature
    minimises the log loss of the mean over the draws on these inputs. A temperature above 1 lowers the confidence.

    Args:
        prediction: A prediction of classes, with its draws, of inputs that the network was not trained on.
        y: The true label of each input.

    Returns:
        The temperature, for `mc_apply()`.

    Raises:
        ValueError: If the prediction is of values, lacks its draws or is already calibrated, or if `y` has another
            length, unknown labels or only one label.

    References:
        Guo et al. (2017), arXiv:1706.04599. Rahaman and Thiery (2021), arXiv:2007.08792 (scaling each draw before the
        mean).

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> learnt = mcd.mc_calibrate(prediction, y)
        >>> mcd.mc_apply(learnt, prediction).temperature == learnt.temperature
        True
    """
    prediction = _check_not_calibrated(
        check_classes(prediction, "; `mc_conformal()` calibrates the intervals of values")
    )
    codes = codes_to_learn_from(y, prediction)
    pieces = list(_log_draws(prediction))

    def loss(log_temperature: float) -> float:
        return _log_loss(pieces, codes, float(np.exp(log_temperature)))

    grid = np.linspace(np.log(COLDEST), np.log(HOTTEST), N_TEMPERATURES)
    losses = np.array([loss(log_temperature) for log_temperature in grid])
    best = int(losses.argmin())
    neighbours = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    minimum = minimize_scalar(loss, bounds=neighbours, method="bounded", options={"xatol": 1e-4})
    loss_at = {float(np.exp(minimum.x)): float(minimum.fun), float(np.exp(grid[best])): float(losses[best])}
    before = loss_at[1.0] = loss(0.0)
    temperature = min(loss_at, key=lambda candidate: loss_at[candidate])
    if best in (0, len(grid) - 1):
        warn(
            f"The temperature is at the end of the range that was searched, {temperature:.3g}: these inputs do not "
            "determine it, for example because no prediction is wrong. Calibrate on more inputs."
        )
    curve = pd.DataFrame({"temperature": np.exp(grid), "log_loss": losses})
    return MCCalibration(temperature, labels_of(prediction), len(codes), before, loss_at[temperature], curve)


def _check_not_calibrated(prediction: MCPrediction) -> MCPrediction:
    """The prediction, if it is not calibrated."""
    if not prediction.is_calibrated():
        return prediction
    raise ValueError(
        f"`prediction` must not be calibrated; got one that is calibrated at temperature {prediction.temperature:.4g}. "
        "Use the prediction that `mc_predict()` returned."
    )


def _log_draws(prediction: MCPrediction) -> Iterator[Array]:
    """Logarithms of the draws, (draw, input, label), piece by piece."""
    if prediction.samples is None:
        raise ValueError("`prediction` must hold its draws; predict with `keep_samples` set to true.")
    samples = prediction.samples
    step = max(PIECE // samples[:, :1].size, 1)
    for start in range(0, samples.shape[1], step):
        yield np.log(np.maximum(samples[:, start : start + step].astype(np.float64), LEAST))


def _tempered(logs: Array, temperature: float) -> Array:
    """The probabilities of the draws at that temperature."""
    scaled = logs / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=-1, keepdims=True)
    return scaled


def _log_loss(pieces: list[Array], codes: Array, temperature: float) -> float:
    """Log loss of the mean over the draws. All steps use logarithms, so that no probability becomes 0."""
    total, start = 0.0, 0
    for logs in pieces:
        true = codes[start : start + logs.shape[1]]
        scaled = logs / temperature
        log_true = scaled[:, np.arange(len(true)), true] - np.asarray(logsumexp(scaled, axis=-1))  # (draw, input)
        is_drawn = ~np.isnan(log_true)  # with `tolerance`, the number of draws differs between inputs
        log_true = np.where(is_drawn, log_true, -np.inf)
        total -= float((np.asarray(logsumexp(log_true, axis=0)) - np.log(is_drawn.sum(axis=0))).sum())
        start += len(true)
    return float(total / len(codes))


def _summaries(draws: Array, prediction: MCPrediction) -> dict[str, Any]:
    """All summaries of the draws, as in `mc_predict()`."""
    import torch  # here, so that a calibration opens without torch

    from ..predictions.summaries import summarise_classes

    counts = (~np.isnan(draws[:, :, 0])).sum(axis=0)
    summaries: dict[str, Array] = {}
    for count in np.unique(counts):  # a single count, except with `tolerance`
        group = counts == count
        computed = summarise_classes(torch.from_numpy(draws[:count, group]), prediction.level)
        for name, values in ((name, tensor.numpy()) for name, tensor in computed.items()):
            summary = summaries.setdefault(name, np.empty((len(counts), *values.shape[1:]), dtype=values.dtype))
            summary[group] = values
    labels = label_array(labels_of(prediction))
    return summaries | {name: labels[summaries[name]] for name in ("predicted", "second")}
