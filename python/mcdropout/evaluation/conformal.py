"""`mc_conformal()`: prediction sets and intervals with guaranteed coverage. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from ..checks import check_choice, check_count, check_flag, check_length, check_number, warn
from ..data.labels import Label
from ..predictions.parts import OLDER_LACK, agree, as_tuple, check_label_set, check_temperature, opening
from ..predictions.prediction import SUM_TOLERANCE, Array, MCPrediction, index_of
from ..predictions.truth import (
    check_calibration,
    check_labels,
    check_prediction,
    codes_to_learn_from,
    labels_of,
    true_values,
)

CLASS_METHODS = ("lac", "aps", "raps")

VALUE_METHODS = ("absolute", "normalized", "cqr")


@dataclass(frozen=True)
class MCConformal:
    """Limits learnt by `mc_conformal()`; `mc_apply()` gives the sets or intervals of a prediction.

    Attributes:
        method: The nonconformity.
        level: The share of new inputs whose set or interval contains the truth.
        limits: The largest nonconformity inside the set or interval: one number; with `by_label` one for each label;
            for values one for each output. None if there were too few inputs for a limit: then every set contains
            the label, or every interval is infinite.
        n_inputs: Number of inputs for each limit.
        by_label: Whether the coverage holds for each true label.
        labels: The labels of the network; None for values.
        penalty: The penalty of "raps".
        n_free: The number of labels without penalty of "raps".
        allow_empty: Whether sets may be empty.
        temperature: The temperature of the calibration prediction.
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
    temperature: float | None = None  # None in older files

    def __post_init__(self) -> None:
        """Refuse parts of another type or range than `mc_conformal()` gives, and parts that do not fit together."""
        check_choice(self.method, "method", VALUE_METHODS if self.labels is None else CLASS_METHODS)
        check_number(self.level, "level", above=0, below=1)
        check_flag(self.allow_empty, "allow_empty")
        check_number(self.penalty, "penalty", at_least=0)
        check_count(self.n_free, "n_free", at_least=0)
        check_temperature(self.temperature)
        by_label = check_flag(self.by_label, "by_label")
        n_limits = len(as_tuple(self.limits, "limits"))
        if self.labels is None:
            agree(not by_label, "by_label", "be false for values, which have no labels")
            agree(n_limits >= 1, "limits", "be one for each output")
        else:
            check_label_set(self.labels)
            agree(
                n_limits == (len(self.labels) if by_label else 1), "limits", "be one, or with `by_label` one per label"
            )
        check_length(len(as_tuple(self.n_inputs, "n_inputs")), "n_inputs", n_limits, "limits")
        for limit, n in zip(self.limits, self.n_inputs, strict=True):
            place = _place(check_count(n, "n_inputs", at_least=0), self.level)
            agree((limit is None) == (place > n), "limits", "be none where there are too few inputs, and only there")
            if limit is not None:
                # 1 - probability is below 0 where rounding makes a probability more than 1
                least = {"cqr": None, "absolute": 0, "normalized": 0}.get(self.method, -SUM_TOLERANCE)
                check_number(limit, "limits", at_least=least)

    def words(self) -> str:
        """The coverage, and the limits that have too few inputs, as text."""
        kind = "sets" if self.labels is not None else "intervals"
        group = " of each label" if self.by_label else " of each output" if self.labels is None else ""
        lines = [
            f"# Conformal {kind} ({self.method}): the truth is inside for at least {100 * self.level:g} % of new "
            f"inputs{group} like the {sum(self.n_inputs) if self.by_label else self.n_inputs[0]} it was learnt on."
        ]
        names = self.labels if self.by_label and self.labels else [f"output {i + 1}" for i in range(len(self.limits))]
        names = ["all labels together"] if self.labels and not self.by_label else names
        for name, limit, n in zip(names, self.limits, self.n_inputs, strict=True):
            if limit is None:
                effect = "every set contains this label" if self.by_label else f"all {kind} are without limit"
                lines.append(f"{name}: {n} inputs are fewer than the {least_inputs(self.level)} needed; {effect}.")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.words()

    def apply(self, prediction: MCPrediction) -> pd.DataFrame:
        """A table with one row per input.

        For classes it has the columns `size` and `in_<label>`: whether the set contains that label. For values it has
        `lower` and `upper`, followed by the number of the output if there are several.
        """
        prediction = check_prediction(prediction)
        if (prediction.task == "classification") != (self.labels is not None):
            kind, other = ("classes", "values") if self.labels is not None else ("values", "classes")
            raise ValueError(f"`prediction` must be of {kind}, like the one learnt on; got one of {other}.")
        if self.labels is not None:
            check_labels(prediction, self.labels, "the conformal sets")
            check_calibration(prediction, self.temperature, "the one that the conformal sets were learnt on")
            return self._sets(prediction)
        return self._intervals(prediction)

    def _sets(self, prediction: MCPrediction) -> pd.DataFrame:
        nonconformity = label_nonconformity(prediction.mean, self.method, self.penalty, self.n_free)
        limits = np.array([np.inf if limit is None else limit for limit in self.limits], np.float64)
        inside = nonconformity <= limits
        if not self.allow_empty:
            inside[np.arange(len(inside)), prediction.mean.argmax(axis=1)] = True
        columns = {f"in_{label}": inside[:, place] for place, label in enumerate(labels_of(prediction))}
        return pd.DataFrame({"size": inside.sum(axis=1), **columns}, index=index_of(prediction))

    def _intervals(self, prediction: MCPrediction) -> pd.DataFrame:
        mean = prediction.mean.reshape(len(prediction), -1)
        if mean.shape[1] != len(self.limits):
            raise ValueError(f"`prediction` must have {len(self.limits)} outputs; got {mean.shape[1]}.")
        limits = np.array([np.inf if limit is None else limit for limit in self.limits], np.float64)
        lower, upper, scale = _value_frame(prediction, self.method)
        columns = {}
        for place in range(mean.shape[1]):
            suffix = "" if mean.shape[1] == 1 else f"_{place + 1}"
            margin = limits[place] * scale[:, place] if np.isfinite(limits[place]) else np.inf
            columns[f"lower{suffix}"] = lower[:, place] - margin
            columns[f"upper{suffix}"] = upper[:, place] + margin
        return pd.DataFrame(columns, index=index_of(prediction))

    def to_state(self) -> dict[str, Any]:
        """The content of a file, in types that JSON has."""
        self.__post_init__()  # what was changed in place since must not give a file that cannot be opened
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MCConformal:
        """The limits from the result of `to_state()`."""
        with opening("conformal", cls, state, OLDER_LACK):
            parts: dict[str, Any] = {
                name: tuple(part) if isinstance(part, list) else part for name, part in state.items()
            }
            return cls(**parts)


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
    """Learn sets of labels, or intervals of values, that contain the truth for at least `level` of new inputs.

    The guarantee holds for every network. It needs inputs that the network was not trained on, and new inputs from the
    same source in no particular order. The coverage is over all inputs, or with `by_label` over the inputs of each true
    label. The limit is the ceil((n + 1) level)-th smallest nonconformity of the n inputs.

    Args:
        prediction: The prediction of inputs that the network was not trained on.
        y: The true label of each input, or the observed values.
        level: The coverage: the share of new inputs whose set or interval contains the truth, in (0, 1).
        method: For classes "lac" (1 - probability; the smallest sets, the default), "aps" (the sum of the probabilities
            down to this label, without the randomisation) or "raps" (the same with `penalty` for every label after the
            first `n_free`). For values "absolute" (distance from the mean, the default), "normalized" (in standard
            deviations, with the noise if the network estimates it) or "cqr" (distance beyond the prediction's own
            interval).
        by_label: Whether the coverage holds for the inputs of each true label.
        penalty: The penalty of "raps".
        n_free: The number of labels without penalty of "raps".
        allow_empty: Whether the set may be empty if even the most probable label does not conform.

    Returns:
        The limits, for `mc_apply()`. With too few inputs a limit is None, and a warning says how many are needed.

    Raises:
        ValueError: If `y` has another length or unknown labels.

    References:
        Sadinle, Lei and Wasserman (2019), arXiv:1609.00451 (lac). Romano, Sesia and Candes (2020), arXiv:2006.02544
        (aps). Angelopoulos et al. (2021), arXiv:2009.14193 (raps). Lei et al. (2018), arXiv:1604.04173 (values).
        Romano, Patterson and Candes (2019), arXiv:1905.03222 (cqr). Vovk (2012), arXiv:1209.2673 (by label).

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> sets = mcd.mc_apply(mcd.mc_conformal(prediction, y, level=0.9), prediction)
        >>> len(sets)
        300
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
    """Number of inputs needed for a limit: the least n with (n + 1) level <= n."""
    return int(np.ceil(level / (1 - level) - 1e-9))


def _limits(groups: list[Array], level: float) -> tuple[float | None, ...]:
    """The ceil((n + 1) level)-th smallest score of each group; None if the group is too small."""
    limits: list[float | None] = []
    for scores in groups:
        place = _place(len(scores), level)
        limits.append(float(np.partition(scores, place - 1)[place - 1]) if place <= len(scores) else None)
    return tuple(limits)


def _place(n: int, level: float) -> int:
    """The place of the limit among n sorted scores; above n if they are too few."""
    return int(np.ceil((n + 1) * level - 1e-9))  # 1e-9: 10 * 0.7 must give 7, although 0.7 is not exact


def label_nonconformity(mean: Array, method: str, penalty: float, n_free: int) -> Array:
    """The nonconformity of each label, (input, label)."""
    if method == "lac":
        return 1 - mean
    order = np.argsort(-mean, axis=1, kind="stable")
    ordered = np.cumsum(np.take_along_axis(mean, order, axis=1), axis=1)
    if method == "raps":
        with np.errstate(over="ignore"):
            ordered = ordered + penalty * np.maximum(np.arange(1, mean.shape[1] + 1) - n_free, 0)
    nonconformity = np.empty_like(mean)
    np.put_along_axis(nonconformity, order, ordered, axis=1)
    return nonconformity


def _value_nonconformity(prediction: MCPrediction, y: Array, method: str) -> Array:
    """Distance of each value from the method's interval, in units of its scale, (input, output)."""
    lower, upper, scale = _value_frame(prediction, method)
    flat = y.reshape(len(y), -1)
    return np.maximum(lower - flat, flat - upper) / scale


def _value_frame(prediction: MCPrediction, method: str) -> tuple[Array, Array, Array]:
    """The interval from which a distance is measured, and the unit of the distance, each (input, output)."""
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
