"""A prediction held against the truth: how good it is, how honest its probabilities are, what its doubt is worth.

Plain numbers and tables; pictures are drawn from the tables. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import ndtr

from .arrays import as_label
from .checks import check_count, check_number, check_seed
from .measures import (
    check_calibration,
    check_labels,
    check_prediction,
    labels_of,
    measured,
    measures_of,
    predicted_codes,
    true_codes,
    true_values,
)
from .prediction import Array, MCPrediction

N_CURVE_POINTS = 1000  # more could not be told apart in a picture
PIECE = 1 << 18  # numbers of the draws that are worked on in one go
TPR = 0.95  # the share of the inputs from inside that "FPR at 95 %" lets through

Numbers = list[tuple[str, str, float, float]]  # score, of (measure or output), at (coverage, risk or level), value


@dataclass(frozen=True, repr=False)
class MCScores:
    """What `mc_scores()` returns: numbers, and the tables that pictures are drawn from.

    For classes, one number each: `accuracy`; `log_loss` (mean, in nats); `brier` (summed over the labels, 0 to 2) and
    `brier_halved` (0 to 1, for two labels the usual one); `ece_equal_width`, `ece_equal_mass` (expected calibration
    error of the predicted label) and `classwise_ece` (mean over the labels of the error of each label's probability).
    Tables: `by_measure`, how well each measure of doubt finds the errors; `at_coverage`, `at_risk`; `by_label`;
    `reliability`; `risk_coverage`.

    For values, one number per output: `rmse`, `mae`, `log_density`, `crps`. Tables: `by_interval` (coverage, width and
    interval score of `conf_int` and `pred_int`), `by_measure`, `risk_coverage`; `pit` has the shape of the mean.

    `table` has all numbers in one table: score, of (which measure or output), at (which coverage, risk or level),
    value, and with `n_resamples` the bootstrap's lower and upper. `notes` says what is missing, and why.
    """

    task: str
    n_inputs: int
    table: pd.DataFrame
    by_measure: pd.DataFrame
    risk_coverage: pd.DataFrame
    level: float
    n_resamples: int
    seed: int | None
    accuracy: float | None = None
    log_loss: float | None = None
    brier: float | None = None
    brier_halved: float | None = None
    ece_equal_width: float | None = None
    ece_equal_mass: float | None = None
    classwise_ece: float | None = None
    at_coverage: pd.DataFrame | None = None
    at_risk: pd.DataFrame | None = None
    by_label: pd.DataFrame | None = None
    reliability: pd.DataFrame | None = None
    rmse: Array | None = None
    mae: Array | None = None
    log_density: Array | None = None
    crps: Array | None = None
    by_interval: pd.DataFrame | None = None
    pit: Array | None = None
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> pd.DataFrame:
        """All numbers, one row each; a copy of `table`."""
        return self.table.copy()

    def words(self) -> str:
        """The scores as text, as `print()` shows them."""
        head = f"# Scores of {self.n_inputs} inputs"
        plain = self.table[(self.table["of"] == "") & self.table["at"].isna()]
        lines = [f"{row.score:<16} {row.value:.4f}{_interval_words(row)}" for row in plain.itertuples()]
        tables = [self.by_measure, self.by_interval, self._by_output()]
        shown = [table.to_string(index=False, float_format="{:.4f}".format) for table in tables if table is not None]
        return "\n".join([head, *lines, *shown, *self.notes])

    def __repr__(self) -> str:
        return self.words()

    def _by_output(self) -> pd.DataFrame | None:
        if self.rmse is None:
            return None
        names = [name for name in ("rmse", "mae", "log_density", "crps") if getattr(self, name) is not None]
        columns = {name: getattr(self, name) for name in names}
        return pd.DataFrame({"output": np.arange(1, len(self.rmse) + 1), **columns})


def mc_scores(
    prediction: MCPrediction,
    y: object,
    *,
    n_bins: int = 15,
    coverages: Sequence[float] = (0.8, 0.9, 0.95),
    risks: Sequence[float] = (0.01, 0.05),
    n_resamples: int = 0,
    level: float = 0.95,
    seed: int | None = None,
) -> MCScores:
    """How good a prediction is, how honest its probabilities, and whether its doubt finds its errors.

    y: the true label of each input, or the values observed. n_bins: of the reliability diagrams; bins hold what is
    above their lower and up to their upper edge, and inputs of one confidence stay in one bin. coverages: shares of
    the inputs, the least doubtful first, whose accuracy is asked for; inputs that are equally doubtful go together,
    so it is that of the least share that is at least so large. risks: error rates for which the largest share is
    asked for. n_resamples: of the bootstrap over the inputs, percentile intervals at `level`; 0 for none.

    AURC is the mean over k of the error rate among the k least doubtful inputs, for ties its mean over their orders;
    the excess is over that of a measure which puts all errors last. For values the risk is the squared error (mean
    over the outputs). The log density and CRPS are of the whole mixture of the draws, so they need the draws.

    Raises ValueError for y of another length or with unknown labels, and for predictions that hold NaN.
    References: Guo et al. (2017), arXiv:1706.04599; Nixon et al. (2019), arXiv:1904.01685 (equal mass, classwise);
    Geifman, Uziel, El-Yaniv (2019), arXiv:1805.08206 (AURC); Gneiting and Raftery (2007),
    doi:10.1198/016214506000001437 (CRPS, interval score); Grimit et al. (2006), doi:10.1256/qj.05.235 (CRPS of a
    mixture).
    """
    prediction = check_prediction(prediction)
    n_bins = check_count(n_bins, "n_bins")
    n_resamples = check_count(n_resamples, "n_resamples", at_least=0)
    level = check_number(level, "level", above=0, below=1)
    seed = check_seed(seed) if n_resamples or seed is not None else None
    shares = _shares(coverages, "coverages", above_zero=True)
    rates = _shares(risks, "risks")
    if prediction.task == "classification":
        cases = _Classes.of(prediction, y, n_bins, shares, rates)
        table = _with_intervals(cases.numbers, len(prediction), n_resamples, level, seed)
        return _class_scores(prediction, cases, table, level, n_resamples, seed)
    values = _Values.of(prediction, true_values(y, prediction))
    table = _with_intervals(values.numbers, len(prediction), n_resamples, level, seed)
    return _value_scores(prediction, values, table, level, n_resamples, seed)


def mc_ood_scores(
    prediction_in: MCPrediction,
    prediction_out: MCPrediction,
    *,
    n_resamples: int = 0,
    level: float = 0.95,
    seed: int | None = None,
) -> pd.DataFrame:
    """How well each measure of doubt tells inputs like those learnt from (in) and others (out) apart.

    One row per measure. `auroc`: chance that an input from outside is the more doubtful of two. `aupr_out` and
    `aupr_in`: average precision of finding those from outside, or from inside. `fpr_at_95`: share of those from
    outside that pass where 95 % of those from inside do; smaller is better. With `n_resamples` each has its
    bootstrap interval, `auroc_lower` and so on.

    Raises ValueError for predictions of different label sets.
    Reference: Hendrycks and Gimpel (2017), arXiv:1610.02136; Liang, Li, Srikant (2018), arXiv:1706.02690 (FPR).
    """
    inside, outside = (
        check_prediction(prediction_in, "prediction_in"),
        check_prediction(prediction_out, "prediction_out"),
    )
    if inside.task != outside.task:
        raise ValueError(
            "`prediction_out` must be of the same network as `prediction_in`; got one of classes and one of values."
        )
    if inside.labels is not None:
        check_labels(outside, labels_of(inside), "`prediction_in`", "prediction_out")
        check_calibration(outside, inside.temperature, "`prediction_in`", "prediction_out")
    n_resamples = check_count(n_resamples, "n_resamples", at_least=0)
    level = check_number(level, "level", above=0, below=1)
    rng = np.random.default_rng(check_seed(seed))
    rows = []
    for measure in (name for name in measures_of(inside) if name in measures_of(outside)):
        known = measured(inside, measure, "prediction_in")
        strange = measured(outside, measure, "prediction_out")
        row = {"measure": measure, **_ood_numbers(known, strange)}
        again = [
            _ood_numbers(rng.choice(known, len(known)), rng.choice(strange, len(strange))) for _ in range(n_resamples)
        ]
        for name in ("auroc", "aupr_in", "aupr_out", "fpr_at_95") if again else ():
            low, high = _percentiles(np.array([one[name] for one in again]), level)
            row |= {f"{name}_lower": float(low), f"{name}_upper": float(high)}
        rows.append(row)
    return pd.DataFrame(rows)


# By doubt -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DoubtCurve:
    """Inputs in order of doubt, the least first: one entry for each value of the measure that occurs.

    Inputs that are equally doubtful can only be taken together, so nothing here depends on their order.
    """

    threshold: Array  # the value of the measure: inputs up to it are taken
    n: Array  # how many they are
    loss: Array  # the sum of their losses; for errors, how many

    @classmethod
    def of(cls, doubt: Array, loss: Array) -> DoubtCurve:
        order = np.argsort(doubt)
        ordered = doubt[order]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        return cls(ordered[ends], ends + 1, np.cumsum(loss[order], dtype=np.float64)[ends])

    @property
    def coverage(self) -> Array:
        return self.n / self.n[-1]

    @property
    def risk(self) -> Array:
        return self.loss / self.n


def auroc(curve: DoubtCurve) -> float:
    """Chance that of an error and a correct input the error is the more doubtful, ties counting half.

    NaN where there are no errors, or nothing else.
    """
    errors = np.diff(curve.loss, prepend=0)
    others = np.diff(curve.n, prepend=0) - errors
    pairs = errors.sum() * others.sum()
    return float((errors * (np.cumsum(others) - others / 2)).sum() / pairs) if pairs else float("nan")


def average_precision(curve: DoubtCurve) -> float:
    """Average precision of finding the errors, the most doubtful inputs first; NaN where there are none."""
    if not curve.loss[-1]:
        return float("nan")
    errors = np.diff(curve.loss, prepend=0)[::-1]
    precision = np.cumsum(errors) / np.cumsum(np.diff(curve.n, prepend=0)[::-1])
    return float((precision * errors).sum() / errors.sum())


def aurc(curve: DoubtCurve) -> float:
    """Mean over k of the mean loss of the k least doubtful inputs; within ties, that of a random order."""
    k = np.arange(1, curve.n[-1] + 1)
    return float((np.interp(k, np.append(0, curve.n), np.append(0, curve.loss)) / k).mean())


def best_aurc(loss: Array) -> float:
    """The least AURC that any order of these losses has."""
    return float((np.cumsum(np.sort(loss), dtype=np.float64) / np.arange(1, len(loss) + 1)).mean())


def accuracy_at(curve: DoubtCurve, coverage: float) -> tuple[float, float, float]:
    """Least share of the inputs that is at least `coverage`, its accuracy, and the threshold that takes it."""
    # a share such as 0.9 of 10 inputs is 9 of them, whatever the rounding of 0.9 * 10
    place = int(np.searchsorted(curve.n, coverage * curve.n[-1] - 1e-9))
    return float(curve.coverage[place]), float(1 - curve.risk[place]), float(curve.threshold[place])


def coverage_at(curve: DoubtCurve, risk: float) -> tuple[float, float]:
    """Largest share of the inputs whose error rate is at most `risk`, and its threshold; 0 and NaN where none is."""
    places = np.flatnonzero(curve.loss <= risk * curve.n + 1e-9)
    return (float(curve.coverage[places[-1]]), float(curve.threshold[places[-1]])) if len(places) else (0.0, np.nan)


def _thinned(curve: DoubtCurve, measure: str) -> pd.DataFrame:
    wanted = np.linspace(1, curve.n[-1], min(N_CURVE_POINTS, int(curve.n[-1])))
    places = np.unique(np.searchsorted(curve.n, wanted - 1e-9))
    return pd.DataFrame(
        {
            "measure": measure,
            "threshold": curve.threshold[places],
            "n": curve.n[places],
            "coverage": curve.coverage[places],
            "risk": curve.risk[places],
        }
    )


def _ood_numbers(known: Array, strange: Array) -> dict[str, float]:
    doubt = np.concatenate([known, strange])
    is_strange = np.repeat([0.0, 1.0], [len(known), len(strange)])
    curve = DoubtCurve.of(doubt, is_strange)
    reversed_curve = DoubtCurve.of(-doubt, 1 - is_strange)
    ordered = np.sort(known)
    threshold = ordered[int(np.ceil(TPR * len(known) - 1e-9)) - 1]
    return {
        "auroc": auroc(curve),
        "aupr_in": average_precision(reversed_curve),
        "aupr_out": average_precision(curve),
        "fpr_at_95": float((strange <= threshold).mean()),
    }


# Classes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Classes:
    """A prediction of classes and the truth, and what is asked of them."""

    mean: Array  # (input, label)
    predicted: Array  # codes
    true: Array  # codes
    doubts: dict[str, Array]
    n_bins: int
    coverages: tuple[float, ...]
    risks: tuple[float, ...]

    @classmethod
    def of(
        cls, prediction: MCPrediction, y: object, n_bins: int, coverages: tuple[float, ...], risks: tuple[float, ...]
    ) -> _Classes:
        true = true_codes(y, prediction)
        doubts = {name: measured(prediction, name) for name in measures_of(prediction)}
        return cls(prediction.mean, predicted_codes(prediction), true, doubts, n_bins, coverages, risks)

    @cached_property
    def wrong(self) -> Array:
        return (self.predicted != self.true).astype(np.float64)

    @cached_property
    def confidence(self) -> Array:
        return self.mean[np.arange(len(self.mean)), self.predicted]

    @cached_property
    def curves(self) -> dict[str, DoubtCurve]:
        return {name: DoubtCurve.of(doubt, self.wrong) for name, doubt in self.doubts.items()}

    def numbers(self, chosen: Array | None = None) -> Numbers:
        """Every score, of all inputs or of those chosen."""
        if chosen is not None:
            parts = {name: getattr(self, name)[chosen] for name in ("mean", "predicted", "true")}
            doubts = {name: doubt[chosen] for name, doubt in self.doubts.items()}
            return _Classes(
                **parts, doubts=doubts, n_bins=self.n_bins, coverages=self.coverages, risks=self.risks
            ).numbers()
        found = [(name, "", np.nan, value) for name, value in self._plain().items()]
        best = best_aurc(self.wrong)
        for name, curve in self.curves.items():
            area = aurc(curve)
            found += [
                ("auroc", name, np.nan, auroc(curve)),
                ("aupr", name, np.nan, average_precision(curve)),
                ("aurc", name, np.nan, area),
                ("excess_aurc", name, np.nan, area - best),
                *(("accuracy_at_coverage", name, one, accuracy_at(curve, one)[1]) for one in self.coverages),
                *(("coverage_at_risk", name, one, coverage_at(curve, one)[0]) for one in self.risks),
            ]
        return found

    def _plain(self) -> dict[str, float]:
        rows = np.arange(len(self.mean))
        of_truth = self.mean[rows, self.true]
        with np.errstate(divide="ignore"):  # probability 0 for what came true: an infinite loss, and rightly so
            log_loss = float(-np.log(of_truth).mean())
        brier = float((np.einsum("ij,ij->i", self.mean, self.mean) - 2 * of_truth + 1).mean())
        right = 1 - self.wrong
        return {
            "accuracy": float(right.mean()),
            "log_loss": log_loss,
            "brier": brier,
            "brier_halved": brier / 2,
            "ece_equal_width": _calibration_error(self.confidence, right, equal_width_edges(self.n_bins)),
            "ece_equal_mass": _calibration_error(
                self.confidence, right, equal_mass_edges(self.confidence, self.n_bins)
            ),
            "classwise_ece": float(self.label_errors.mean()),
        }

    @cached_property
    def label_errors(self) -> Array:
        """Calibration error of each label's probability, (label,), equal width."""
        edges = equal_width_edges(self.n_bins)
        columns = range(self.mean.shape[1])
        return np.array([_calibration_error(self.mean[:, k], (self.true == k) * 1.0, edges) for k in columns])


def equal_width_edges(n_bins: int) -> Array:
    """Inner edges of `n_bins` bins of [0, 1]."""
    return np.arange(1, n_bins) / n_bins


def equal_mass_edges(values: Array, n_bins: int) -> Array:
    """Inner edges of bins that hold as many values each, as far as ties, which stay together, allow."""
    ordered = np.sort(values)
    ends = np.ceil(len(values) * np.arange(1, n_bins) / n_bins - 1e-9).astype(np.int64)
    edges = np.unique(ordered[np.maximum(ends, 1) - 1])
    return edges[edges < ordered[-1]]  # nothing lies above the greatest


def _binned(values: Array, outcome: Array, edges: Array) -> tuple[Array, Array, Array]:
    """Number, sum of the values and of the outcomes in each bin, (bin,); a bin holds its upper edge."""
    bins = np.searchsorted(edges, values, side="left")
    n = np.bincount(bins, minlength=len(edges) + 1)
    expected, seen = (np.bincount(bins, weights=what, minlength=len(n)) for what in (values, outcome))
    return n, expected, seen


def _calibration_error(values: Array, outcome: Array, edges: Array) -> float:
    """Mean over the inputs of the gap, in their bin, between the mean probability and what came true."""
    _, expected, seen = _binned(values, outcome, edges)
    return float(np.abs(expected - seen).sum() / len(values))


def _reliability(cases: _Classes, level: float) -> pd.DataFrame:
    """Both diagrams; the bounds of the accuracy are exact (Clopper and Pearson)."""
    tables = []
    for binning, edges in (
        ("equal_width", equal_width_edges(cases.n_bins)),
        ("equal_mass", equal_mass_edges(cases.confidence, cases.n_bins)),
    ):
        n, expected, seen = _binned(cases.confidence, 1 - cases.wrong, edges)
        filled = n > 0
        low, high = exact_bounds(seen[filled], n[filled], level)
        columns = {
            "binning": binning,
            "bin": np.flatnonzero(filled) + 1,
            "from": np.append(0, edges)[filled],
            "to": np.append(edges, 1)[filled],
            "n": n[filled],
            "confidence": expected[filled] / n[filled],
            "accuracy": seen[filled] / n[filled],
            "lower": low,
            "upper": high,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def exact_bounds(count: Array, n: Array, level: float) -> tuple[Array, Array]:
    """Exact two-sided interval of a share, `count` of `n`: Clopper and Pearson (1934), doi:10.1093/biomet/26.4.404."""
    tail = (1 - level) / 2
    low = np.where(count > 0, stats.beta.ppf(tail, np.maximum(count, 1), n - count + 1), 0.0)
    high = np.where(count < n, stats.beta.ppf(1 - tail, count + 1, np.maximum(n - count, 1)), 1.0)
    return low, high


def _by_label(prediction: MCPrediction, cases: _Classes) -> pd.DataFrame:
    size = len(labels_of(prediction))
    n, n_predicted = (np.bincount(codes, minlength=size) for codes in (cases.true, cases.predicted))
    right = np.bincount(cases.true[cases.wrong == 0], minlength=size)
    with np.errstate(invalid="ignore"):  # a label that nothing has
        return pd.DataFrame(
            {
                "label": [as_label(label) for label in labels_of(prediction)],
                "n": n,
                "n_predicted": n_predicted,
                "sensitivity": right / n,
                "precision": right / n_predicted,
                "ece": cases.label_errors,
            }
        )


def _class_scores(
    prediction: MCPrediction, cases: _Classes, table: pd.DataFrame, level: float, n_resamples: int, seed: int | None
) -> MCScores:
    of_all = table[table["of"] == ""]
    plain: dict[str, Any] = dict(zip(of_all["score"], of_all["value"].tolist(), strict=True))
    curves = cases.curves
    at_coverage = [
        dict(
            zip(
                ("measure", "wanted", "coverage", "accuracy", "threshold"),
                (name, one, *accuracy_at(curve, one)),
                strict=True,
            )
        )
        for name, curve in curves.items()
        for one in cases.coverages
    ]
    at_risk = [
        dict(zip(("measure", "risk", "coverage", "threshold"), (name, one, *coverage_at(curve, one)), strict=True))
        for name, curve in curves.items()
        for one in cases.risks
    ]
    return MCScores(
        task="classification",
        n_inputs=len(prediction),
        table=table,
        by_measure=_wide(table, ("auroc", "aupr", "aurc", "excess_aurc")),
        risk_coverage=pd.concat([_thinned(curve, name) for name, curve in curves.items()], ignore_index=True),
        at_coverage=pd.DataFrame(at_coverage, columns=["measure", "wanted", "coverage", "accuracy", "threshold"]),
        at_risk=pd.DataFrame(at_risk, columns=["measure", "risk", "coverage", "threshold"]),
        by_label=_by_label(prediction, cases),
        reliability=_reliability(cases, level),
        level=level,
        n_resamples=n_resamples,
        seed=seed,
        **plain,
    )


def _wide(table: pd.DataFrame, scores: tuple[str, ...]) -> pd.DataFrame:
    """One row per measure, one column per score."""
    rows: dict[str, dict[str, Any]] = {}
    for score, of, value in zip(table["score"], table["of"], table["value"], strict=True):
        if score in scores:
            rows.setdefault(of, {"measure": of})[score] = value
    return pd.DataFrame(list(rows.values()), columns=["measure", *scores])


# Values ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Values:
    """What each input of a prediction of values contributes to the scores, (input, output), and its doubt."""

    terms: dict[str, Array]
    intervals: dict[str, dict[str, Array]]
    doubts: dict[str, Array]
    level: float
    pit: Array | None
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, prediction: MCPrediction, y: Array) -> _Values:
        error = (y - prediction.mean).reshape(len(y), -1)
        terms = {"rmse": error**2, "mae": np.abs(error)}
        pit, notes = None, []
        if prediction.samples is None:
            notes.append("Log density, CRPS and PIT need the draws: predict with `keep_samples` set to true.")
        else:
            parts = [_from_draws(piece, truth) for piece, truth in _pieces(prediction, y)]
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            pit = joined.pop("pit").reshape(y.shape)
            terms |= {name: value.reshape(len(y), -1) for name, value in joined.items()}
            if prediction.noise_variances is None:
                notes.append("The log density needs a network that tells its noise.")
        bounds = {"conf_int": prediction.conf_int, "pred_int": prediction.pred_int}
        intervals = {
            name: _interval_terms(pair.reshape(len(y), -1, 2), y.reshape(len(y), -1), prediction.level)
            for name, pair in bounds.items()
            if pair is not None
        }
        doubts = {name: measured(prediction, name) for name in measures_of(prediction)}
        return cls(terms, intervals, doubts, prediction.level, pit, tuple(notes))

    def curves(self, chosen: Array | slice = slice(None)) -> dict[str, DoubtCurve]:
        loss = self.terms["rmse"][chosen].mean(axis=1)
        return {name: DoubtCurve.of(doubt[chosen], loss) for name, doubt in self.doubts.items()}

    def numbers(self, chosen: Array | None = None) -> Numbers:
        """Every score, of all inputs or of those chosen."""
        where = slice(None) if chosen is None else chosen
        found: Numbers = []
        for name, term in self.terms.items():
            means = term[where].mean(axis=0)
            means = np.sqrt(means) if name == "rmse" else means
            found += [(name, str(place), np.nan, float(value)) for place, value in enumerate(means, start=1)]
        for kind, parts in self.intervals.items():
            for name, term in parts.items():
                means = term[where].mean(axis=0)
                score = f"{kind}_{name}"
                found += [(score, str(place), self.level, float(value)) for place, value in enumerate(means, start=1)]
        best = best_aurc(self.terms["rmse"][where].mean(axis=1))
        for name, curve in self.curves(where).items():
            area = aurc(curve)
            found += [("aurc", name, np.nan, area), ("excess_aurc", name, np.nan, area - best)]
        return found


def _pieces(prediction: MCPrediction, y: Array) -> Iterator[tuple[MCPrediction, Array]]:
    assert prediction.samples is not None
    step = max(PIECE // prediction.samples[:, :1].size, 1)
    for start in range(0, len(y), step):
        yield prediction[start : start + step], y[start : start + step]


def _from_draws(prediction: MCPrediction, y: Array) -> dict[str, Array]:
    """What only the whole distribution of the draws tells: of the shape of y."""
    assert prediction.samples is not None
    draws = prediction.samples.astype(np.float64)
    counts = (~np.isnan(draws)).sum(axis=0)  # with `tolerance`, inputs differ in their draws
    if prediction.noise_variances is None:
        below = np.nansum((draws < y) + (draws == y) / 2, axis=0)
        return {"crps": _crps_of_draws(draws, y, counts), "pit": below / counts}
    scales = np.sqrt(prediction.noise_variances.astype(np.float64))
    return {
        "log_density": prediction.log_density(y),
        "crps": _crps_of_mixture(draws, scales, y, counts),
        "pit": np.nansum(ndtr((y - draws) / scales), axis=0) / counts,
    }


def _crps_of_draws(draws: Array, y: Array, counts: Array) -> Array:
    """CRPS of the draws as they are: E|x - y| - E|x - x'| / 2, the second by order statistics."""
    ordered = np.sort(draws, axis=0)  # NaN last
    place = np.arange(1, len(draws) + 1).reshape(-1, *(1,) * y.ndim)
    between = np.nansum((2 * place - counts - 1) * ordered, axis=0) / counts**2
    return np.nansum(np.abs(draws - y), axis=0) / counts - between


def _crps_of_mixture(means: Array, scales: Array, y: Array, counts: Array) -> Array:
    """CRPS of an equal mixture of normal distributions, in closed form."""
    apart = np.nansum(_mean_distance(y - means, scales), axis=0) / counts
    between = np.nansum(_mean_distance(0 * means, np.sqrt(2) * scales), axis=0)  # each with itself
    for one in range(len(means) - 1):
        both = np.sqrt(scales[one] ** 2 + scales[one + 1 :] ** 2)
        between += 2 * np.nansum(_mean_distance(means[one] - means[one + 1 :], both), axis=0)
    return apart - between / (2 * counts**2)


def _mean_distance(mean: Array, scale: Array) -> Array:
    """E|z| for z normal with that mean and scale."""
    ratio = mean / scale
    return mean * (2 * ndtr(ratio) - 1) + scale * np.sqrt(2 / np.pi) * np.exp(-0.5 * ratio**2)


def _interval_terms(bounds: Array, y: Array, level: float) -> dict[str, Array]:
    lower, upper = bounds[..., 0], bounds[..., 1]
    outside = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    return {
        "coverage": ((lower <= y) & (y <= upper)).astype(np.float64),
        "width": upper - lower,
        "interval_score": upper - lower + 2 / (1 - level) * outside,
    }


def _value_scores(
    prediction: MCPrediction, values: _Values, table: pd.DataFrame, level: float, n_resamples: int, seed: int | None
) -> MCScores:
    outputs: dict[str, Any] = {name: table.loc[table["score"] == name, "value"].to_numpy() for name in values.terms}
    rows = []
    for kind, parts in values.intervals.items():
        means = {name: term.mean(axis=0) for name, term in parts.items()}
        n_outputs = len(means["width"])
        rows.append(pd.DataFrame({"interval": kind, "output": range(1, n_outputs + 1), "level": values.level, **means}))
    return MCScores(
        task="regression",
        n_inputs=len(prediction),
        table=table,
        by_measure=_wide(table, ("aurc", "excess_aurc")),
        risk_coverage=pd.concat([_thinned(curve, name) for name, curve in values.curves().items()], ignore_index=True),
        by_interval=pd.concat(rows, ignore_index=True),
        pit=values.pit,
        notes=values.notes,
        level=level,
        n_resamples=n_resamples,
        seed=seed,
        **outputs,
    )


# What comes in, and how sure it is ------------------------------------------------------------------------


def _shares(values: Sequence[float], name: str, above_zero: bool = False) -> tuple[float, ...]:
    bounds: dict[str, Any] = {"at_most": 1} | ({"above": 0} if above_zero else {"at_least": 0})
    given = [values] if np.ndim(values) == 0 else list(values)
    return tuple(check_number(one, name, **bounds) for one in given)


def _with_intervals(
    numbers: Callable[[Array | None], Numbers], n_inputs: int, n_resamples: int, level: float, seed: int | None
) -> pd.DataFrame:
    """All numbers as a table, with percentile intervals of the bootstrap where they are wanted."""
    table = pd.DataFrame(numbers(None), columns=["score", "of", "at", "value"])
    if n_resamples == 0:
        return table
    rng = np.random.default_rng(seed)
    again = [[value for *_, value in numbers(rng.integers(0, n_inputs, n_inputs))] for _ in range(n_resamples)]
    table["lower"], table["upper"] = _percentiles(np.array(again), level)
    return table


def _percentiles(values: Array, level: float) -> Array:
    """Lower and upper percentile along the first axis; resamples without errors have no AUROC, and are left out."""
    none = np.isnan(values).all(axis=0)
    filled = np.where(none, 0, values)
    bounds = np.nanquantile(filled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(none, np.nan, bounds)


def _interval_words(row: Any) -> str:
    return f" ({row.lower:.4f} to {row.upper:.4f})" if hasattr(row, "lower") else ""
