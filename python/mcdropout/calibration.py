"""Probabilities made honest, and sets and intervals that hold the truth as often as they say. Needs no torch.

Both are learnt on labelled inputs that the network was not trained on, and applied by `mc_apply()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import entr, logsumexp, xlogy

from .arrays import Label, label_array
from .checks import check_choice, check_count, check_flag, check_number, warn
from .measures import (
    check_calibration,
    check_classes,
    check_labels,
    check_prediction,
    codes_to_learn_from,
    labels_of,
    true_values,
)
from .prediction import Array, MCPrediction, index_of

# A probability of 0 among the draws is one that float32 cannot hold: it is taken for the least that it can.
LEAST = float(np.finfo(np.float32).smallest_subnormal)
COLDEST, HOTTEST = 0.05, 20.0
N_TEMPERATURES = 25  # first tried, so that the search that follows starts in the right valley
PIECE = 1 << 20  # numbers of the draws that are worked on in one go

CLASS_METHODS = ("lac", "aps", "raps")
VALUE_METHODS = ("absolute", "normalized", "cqr")


# Temperature ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MCCalibration:
    """A temperature for the draws, learnt by `mc_calibrate()`; `mc_apply()` gives the calibrated prediction.

    `log_loss_before` and `log_loss_after` are those of the `n_inputs` it was learnt on; `curve` the log loss at
    other temperatures.
    """

    temperature: float
    labels: tuple[Label, ...]
    n_inputs: int
    log_loss_before: float
    log_loss_after: float
    curve: pd.DataFrame  # temperature, log_loss

    def words(self) -> str:
        """What was learnt, as text."""
        what = "the draws were too sure" if self.temperature > 1 else "the draws were not sure enough"
        return (
            f"# Calibration of the draws: temperature {self.temperature:.3f}; {what}.\n"
            f"Log loss {self.log_loss_before:.4f} before and {self.log_loss_after:.4f} after, on the "
            f"{self.n_inputs} inputs it was learnt on."
        )

    def __str__(self) -> str:
        return self.words()

    def apply(self, prediction: MCPrediction) -> MCPrediction:
        """The prediction with every draw at this temperature, and all summaries made anew."""
        prediction = _as_drawn(check_classes(prediction, ""))
        check_labels(prediction, self.labels, "the calibration")
        draws = np.concatenate(
            [_tempered(logs, self.temperature).astype(np.float32) for logs in _log_draws(prediction)], axis=1
        )
        return replace(prediction, samples=draws, temperature=self.temperature, **_summaries(draws, prediction))

    def to_state(self) -> dict[str, Any]:
        """What a file keeps, as JSON holds it."""
        return {**asdict(self), "labels": list(self.labels), "curve": self.curve.to_dict(orient="list")}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MCCalibration:
        """What `to_state()` took apart."""
        return cls(**{**state, "labels": tuple(state["labels"]), "curve": pd.DataFrame(state["curve"])})


def mc_calibrate(prediction: MCPrediction, y: object) -> MCCalibration:
    """Learn a temperature that makes the probabilities honest: temperature scaling of the draws.

    Every draw's probabilities are raised to 1 / temperature and scaled to sum to 1; the temperature is the one at
    which the mean over the draws has the least log loss on these inputs, which the network must not have been trained
    on. Above 1 it takes confidence away. `mc_apply()` then calibrates other predictions of this network, whose
    `temperature` then says so.

    Raises ValueError for a prediction of values, without its draws or calibrated already, and for y of another length,
    with unknown labels or of one label alone.
    Reference: Guo et al. (2017), arXiv:1706.04599; scaling each draw before the mean: Rahaman and Thiery (2021),
    arXiv:2007.08792.
    """
    prediction = _as_drawn(check_classes(prediction, "; `mc_conformal()` calibrates the intervals of values"))
    codes = codes_to_learn_from(y, prediction)
    pieces = list(_log_draws(prediction))

    def loss(log_temperature: float) -> float:
        return _log_loss(pieces, codes, float(np.exp(log_temperature)))

    tried = np.linspace(np.log(COLDEST), np.log(HOTTEST), N_TEMPERATURES)
    losses = np.array([loss(one) for one in tried])
    best = int(losses.argmin())
    around = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
    found = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-4})
    candidates = {float(np.exp(found.x)): float(found.fun), float(np.exp(tried[best])): float(losses[best])}
    before = candidates[1.0] = loss(0.0)
    temperature = min(candidates, key=lambda one: candidates[one])
    if best in (0, len(tried) - 1):
        warn(
            f"The temperature is at the end of what was searched, {temperature:.3g}: these inputs do not tell it, "
            "as where no prediction is wrong. Calibrate on more inputs."
        )
    curve = pd.DataFrame({"temperature": np.exp(tried), "log_loss": losses})
    return MCCalibration(temperature, labels_of(prediction), len(codes), before, candidates[temperature], curve)


def _as_drawn(prediction: MCPrediction) -> MCPrediction:
    """The prediction, if its draws are as the network gave them."""
    if not prediction.is_calibrated():
        return prediction
    raise ValueError(
        f"`prediction` must be as `mc_predict()` gave it; got one that is calibrated already, at temperature "
        f"{prediction.temperature:.4g}. Take the prediction from before `mc_apply()`."
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
    """Probabilities of the draws at that temperature."""
    scaled = logs / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=-1, keepdims=True)
    return scaled


def _log_loss(pieces: list[Array], codes: Array, temperature: float) -> float:
    """Log loss of the mean over the draws, in logarithms throughout, so that no probability becomes 0."""
    total, start = 0.0, 0
    for logs in pieces:
        true = codes[start : start + logs.shape[1]]
        scaled = logs / temperature
        own = scaled[:, np.arange(len(true)), true] - np.asarray(logsumexp(scaled, axis=-1))  # (draw, input)
        there = ~np.isnan(own)  # with `tolerance`, inputs differ in their draws
        own = np.where(there, own, -np.inf)
        total -= float((np.asarray(logsumexp(own, axis=0)) - np.log(there.sum(axis=0))).sum())
        start += len(true)
    return float(total / len(codes))


def _summaries(draws: Array, prediction: MCPrediction) -> dict[str, Any]:
    """All summaries of the draws, as `mc_predict()` makes them."""
    counts = (~np.isnan(draws[:, :, 0])).sum(axis=0)
    result: dict[str, Array] = {}
    for count in np.unique(counts):  # one group, but with `tolerance`
        where = counts == count
        for name, values in _summaries_of(draws[:count, where].astype(np.float64), prediction.level).items():
            whole = result.setdefault(name, np.empty((len(counts), *values.shape[1:]), dtype=values.dtype))
            whole[where] = values
    names = label_array(labels_of(prediction))
    return result | {name: names[result[name]] for name in ("predicted", "second")}


def _summaries_of(draws: Array, level: float) -> dict[str, Array]:
    mean = draws.mean(axis=0)
    order = np.argsort(-mean, axis=-1, kind="stable")
    ranked = np.take_along_axis(mean, order, axis=-1)
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    own = entr(draws).sum(axis=-1)
    cross = -xlogy(draws, mean).sum(axis=-1)
    total, expected = entr(mean).sum(axis=-1), own.mean(axis=0)
    votes = np.apply_along_axis(np.bincount, 0, draws.argmax(axis=-1), minlength=draws.shape[-1])
    return {
        "mean": mean,
        "variance": draws.var(axis=0, ddof=1),
        "lower": lower,
        "upper": upper,
        "predicted": order[:, 0],
        "second": order[:, 1],
        "confidence": ranked[:, 0],
        "margin": ranked[:, 0] - ranked[:, 1],
        "predictive_entropy": total,
        "expected_entropy": expected,
        "mutual_information": np.maximum(total - expected, 0),
        "predictive_entropy_mcse": _standard_error(cross),
        "expected_entropy_mcse": _standard_error(own),
        "mutual_information_mcse": _standard_error(cross - own),
        "variation_ratio": 1 - votes.max(axis=0) / len(draws),
    }


def _standard_error(terms: Array) -> Array:
    return terms.std(axis=0, ddof=1) / np.sqrt(len(terms))


# Conformal sets and intervals -----------------------------------------------------------------------------


@dataclass(frozen=True)
class MCConformal:
    """Limits learnt by `mc_conformal()`; `mc_apply()` gives the sets or intervals of a prediction.

    `limits`: what the nonconformity may be at most, one number; one per label with `by_label`, one per output for
    values. None where there were too few inputs to set one: all labels, or the whole line. `n_inputs` likewise.
    """

    method: str
    level: float
    limits: tuple[float | None, ...]
    n_inputs: tuple[int, ...]
    by_label: bool
    labels: tuple[Label, ...] | None = None
    penalty: float = 0.0
    n_free: int = 0
    allow_empty: bool = False
    temperature: float | None = None  # of the prediction it was learnt on; None in older files

    def words(self) -> str:
        """What was learnt, as text."""
        what = "sets" if self.labels is not None else "intervals"
        each = " of each label" if self.by_label else " of each output" if self.labels is None else ""
        lines = [
            f"# Conformal {what} ({self.method}): the truth is inside for at least {100 * self.level:g} % of new "
            f"inputs{each} like the {sum(self.n_inputs) if self.by_label else self.n_inputs[0]} it was learnt on."
        ]
        names = self.labels if self.by_label and self.labels else [f"output {i + 1}" for i in range(len(self.limits))]
        names = ["all labels together"] if self.labels and not self.by_label else names
        for name, limit, n in zip(names, self.limits, self.n_inputs, strict=True):
            if limit is None:
                outcome = "every set has this label" if self.by_label else f"all {what} are without limit"
                lines.append(f"{name}: {n} inputs are fewer than the {least_inputs(self.level)} it takes; {outcome}.")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.words()

    def apply(self, prediction: MCPrediction) -> pd.DataFrame:
        """One row per input; for classes `size` and `in_<label>`, whether the set has that label.

        For values `lower` and `upper`, with the number of the output behind where there are several.
        """
        prediction = check_prediction(prediction)
        if (prediction.task == "classification") != (self.labels is not None):
            of = "classes" if self.labels is not None else "values"
            raise ValueError(f"`prediction` must be of {of}, as what was learnt is; got one of the other kind.")
        if self.labels is not None:
            check_labels(prediction, self.labels, "the conformal sets")
            check_calibration(prediction, self.temperature, "the one that the conformal sets were learnt on")
            return self._sets(prediction)
        return self._intervals(prediction)

    def _sets(self, prediction: MCPrediction) -> pd.DataFrame:
        nonconformity = label_nonconformity(prediction.mean, self.method, self.penalty, self.n_free)
        limits = np.array([np.inf if limit is None else limit for limit in self.limits])
        inside = nonconformity <= limits
        if not self.allow_empty:
            inside[np.arange(len(inside)), prediction.mean.argmax(axis=1)] = True
        columns = {f"in_{label}": inside[:, place] for place, label in enumerate(labels_of(prediction))}
        return pd.DataFrame({"size": inside.sum(axis=1), **columns}, index=index_of(prediction))

    def _intervals(self, prediction: MCPrediction) -> pd.DataFrame:
        mean = prediction.mean.reshape(len(prediction), -1)
        if mean.shape[1] != len(self.limits):
            raise ValueError(f"`prediction` must have {len(self.limits)} outputs; got {mean.shape[1]}.")
        limits = np.array([np.inf if limit is None else limit for limit in self.limits])
        below, above, scale = _value_frame(prediction, self.method)
        columns = {}
        for place in range(mean.shape[1]):
            ending = "" if mean.shape[1] == 1 else f"_{place + 1}"
            reach = limits[place] * scale[:, place] if np.isfinite(limits[place]) else np.inf
            columns[f"lower{ending}"] = below[:, place] - reach
            columns[f"upper{ending}"] = above[:, place] + reach
        return pd.DataFrame(columns, index=index_of(prediction))

    def to_state(self) -> dict[str, Any]:
        """What a file keeps, as JSON holds it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MCConformal:
        """What `to_state()` took apart."""
        known: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in state.items()}
        return cls(**known)


def mc_conformal(
    prediction: MCPrediction,
    y: object,
    *,
    level: float = 0.9,
    method: str | None = None,
    by_label: bool = False,
    penalty: float = 0.1,
    n_free: int = 1,
    allow_empty: bool = False,
) -> MCConformal:
    """Learn sets of labels, or intervals, that hold the truth for at least `level` of new inputs.

    Whatever the network is worth: it needs only that the inputs here, which it was not trained on, and the new ones
    come from one source in no particular order. The coverage is over inputs, and with `by_label` over those of each
    true label. The limit is the ceil((n + 1) level)-th smallest nonconformity of the n inputs.

    method, for classes: "lac" (1 - probability; the smallest sets, the default), "aps" (probability of the labels
    down to this one, without the randomisation), "raps" (the same with `penalty` for every label after the first
    `n_free`). For values: "absolute" (distance from the mean, the default), "normalized" (in standard deviations,
    with the noise where the network tells it), "cqr" (beyond the prediction's own interval). allow_empty: leave the
    most probable label out too where it does not conform.

    Raises ValueError for y of another length or with unknown labels. Too few inputs give limits of None, and a
    warning that says how many it takes.
    References: Sadinle, Lei, Wasserman (2019), arXiv:1609.00451 (lac); Romano, Sesia, Candes (2020),
    arXiv:2006.02544 (aps); Angelopoulos et al. (2021), arXiv:2009.14193 (raps); Lei et al. (2018), arXiv:1604.04173
    (values); Romano, Patterson, Candes (2019), arXiv:1905.03222 (cqr); Vovk (2012), arXiv:1209.2673 (by label).
    """
    prediction = check_prediction(prediction)
    of_classes = prediction.task == "classification"
    level = check_number(level, "level", above=0, below=1)
    methods = CLASS_METHODS if of_classes else VALUE_METHODS
    method = methods[0] if method is None else check_choice(method, "method", methods)
    by_label, allow_empty = check_flag(by_label, "by_label"), check_flag(allow_empty, "allow_empty")
    penalty = check_number(penalty, "penalty", at_least=0)
    n_free = check_count(n_free, "n_free", at_least=0)
    if not of_classes:
        if by_label:
            raise ValueError("`by_label` must be false for values, which have no labels; got true.")
        groups = list(_value_nonconformity(prediction, true_values(y, prediction), method).T)
        learnt = MCConformal(method, level, _limits(groups, level), tuple(map(len, groups)), by_label=False)
    else:
        codes = codes_to_learn_from(y, prediction)
        scores = label_nonconformity(prediction.mean, method, penalty, n_free)[np.arange(len(codes)), codes]
        labels = labels_of(prediction)
        groups = [scores[codes == code] for code in range(len(labels))] if by_label else [scores]
        learnt = MCConformal(
            method,
            level,
            _limits(groups, level),
            tuple(map(len, groups)),
            by_label,
            labels,
            penalty,
            n_free,
            allow_empty,
            prediction.temperature,
        )
    if None in learnt.limits:
        warn(learnt.words().partition("\n")[2].replace("\n", " "))
    return learnt


def least_inputs(level: float) -> int:
    """How many inputs it takes to set a limit: the least n with (n + 1) level <= n."""
    return int(np.ceil(level / (1 - level) - 1e-9))


def _limits(groups: list[Array], level: float) -> tuple[float | None, ...]:
    """The ceil((n + 1) level)-th smallest of each group; None where that is beyond the last."""
    limits: list[float | None] = []
    for scores in groups:
        # less a little, as 10 * 0.7 must not be 8 because 0.7 is not exact
        place = int(np.ceil((len(scores) + 1) * level - 1e-9))
        limits.append(float(np.partition(scores, place - 1)[place - 1]) if place <= len(scores) else None)
    return tuple(limits)


def label_nonconformity(mean: Array, method: str, penalty: float, n_free: int) -> Array:
    """How little each label conforms, (input, label)."""
    if method == "lac":
        return 1 - mean
    order = np.argsort(-mean, axis=1, kind="stable")
    reached = np.cumsum(np.take_along_axis(mean, order, axis=1), axis=1)
    if method == "raps":
        reached = reached + penalty * np.maximum(np.arange(1, mean.shape[1] + 1) - n_free, 0)
    nonconformity = np.empty_like(mean)
    np.put_along_axis(nonconformity, order, reached, axis=1)
    return nonconformity


def _value_nonconformity(prediction: MCPrediction, y: Array, method: str) -> Array:
    """How far each value is out, (input, output), in what the limit scales."""
    below, above, scale = _value_frame(prediction, method)
    flat = y.reshape(len(y), -1)
    return np.maximum(below - flat, flat - above) / scale


def _value_frame(prediction: MCPrediction, method: str) -> tuple[Array, Array, Array]:
    """From where to where nothing is out, and the unit of what is, each (input, output)."""
    mean = prediction.mean.reshape(len(prediction), -1)
    if method == "cqr":
        with_noise = prediction.pred_lower is not None
        lower = cast(Array, prediction.pred_lower if with_noise else prediction.lower)
        upper = cast(Array, prediction.pred_upper if with_noise else prediction.upper)
        return lower.reshape(mean.shape), upper.reshape(mean.shape), np.ones(mean.shape)
    if method == "absolute":
        return mean, mean, np.ones(mean.shape)
    variance = prediction.variance if prediction.total_variance is None else prediction.total_variance
    scale = np.sqrt(variance).reshape(mean.shape)
    if not (scale > 0).all():
        raise ValueError(
            '`prediction` must have a spread above 0 for every input with `method` "normalized"; got 0 at input '
            f'number {int(np.argwhere(scale <= 0)[0][0]) + 1}. Use "absolute".'
        )
    return mean, mean, scale


def mc_apply(learnt: MCCalibration | MCConformal, prediction: MCPrediction) -> MCPrediction | pd.DataFrame:
    """Apply what was learnt on labelled inputs to a prediction of the same network.

    Of `mc_calibrate()`: the calibrated prediction. Of `mc_conformal()`: a table of sets or intervals, one row per
    input.

    Raises ValueError for a prediction of other labels, for one to be calibrated that is so already, and for sets learnt
    on a prediction at another temperature. Raises TypeError for anything else.
    """
    if not isinstance(learnt, (MCCalibration, MCConformal)):
        raise TypeError(
            f'`learnt` must be what `mc_calibrate()` or `mc_conformal()` returns; got "{type(learnt).__name__}".'
        )
    return learnt.apply(prediction)
