"""Drift: whether new inputs are still like earlier ones, judged by how uncertain the network is. Needs no torch.

A monitor is built from a reference. It takes one batch after another, and says whether they differ and since when.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..checks import check_choice, check_count, check_number, check_seed, shown
from ..compute.forks import shared_lock
from ..compute.out_of_memory import explains_out_of_memory
from ..data.labels import Label
from ..predictions.parts import OLDER_LACK, as_array, as_table, as_tuple, opening
from ..predictions.prediction import Array, MCPrediction
from ..predictions.truth import check_calibration, check_labels, check_prediction
from ..predictions.uncertainty import measured, measures_of
from .bets import N_BETS, Bets, cells_of, log_weights, smoothed_ranks, uniform_lots
from .monitor_parts import COLUMNS, FEWEST, check_monitor

MOST_BATCHES = 1_000  # largest number of rows in the table of batches

DTYPES = dict.fromkeys(COLUMNS, np.float64) | {
    "batch": np.int64, "name": object, "n": np.int64, "seen": np.int64, "drift": np.bool_
}  # fmt: skip


@dataclass(repr=False)
class MCMonitor:
    """A drift monitor, which `mc_monitor()` returns. `update()` takes one batch after another.

    Several threads may update one monitor, and save it meanwhile. The batches are numbered in the order of the updates.

    Attributes:
        batches: One row for each of the last 1,000 batches: `name`, if given; `n` inputs, `seen` inputs so far, `mean`
            of the measure; `ks` and `ks_p_value`, the Kolmogorov-Smirnov test of this batch against the reference;
            `psi`, the population stability index, and `psi_limit`, which a batch of this size exceeds by chance once in
            twenty times; `log10_evidence`, of the sequential test over the whole run; `drift`, whether there had been
            an alarm by then.
        drift: Whether there was an alarm.
        alarm_input: The input that raised the alarm, counted from 1.
        alarm_batch: The batch of that input, counted from 1.
        since_input: The input at which the change most probably began.
        since_batch: The batch at which the change most probably began.
        alarm_at: The evidence, as log10, that raises an alarm.
        n_seen: Number of inputs so far.
        n_batches: Number of batches so far.
    """

    task: str
    measure: str
    labels: tuple[Label, ...] | None
    false_alarm_rate: float
    n_bins: int
    seed: int
    reference: Array  # sorted
    counts: Array  # (cell,), number of inputs below the first value of the reference, below the second, and so on
    n_seen: int
    batches: pd.DataFrame  # the last `MOST_BATCHES` batches
    n_batches: int
    highest_evidence: float  # log10, at the end of a batch
    log_capital: Array  # (bet,), capital at stake
    log_best: Array  # (bet,), capital of the best start
    best_start: Array  # (bet,), the number of that start, an input counted from 1
    alarm_input: int | None = None
    alarm_batch: int | None = None
    since_input: int | None = None
    since_batch: int | None = None
    temperature: float | None = None  # of the reference; None in older files
    edges: Array = field(init=False)

    def __post_init__(self) -> None:
        check_monitor(self)
        for name in ("n_bins", "seed", "n_seen", "n_batches"):
            setattr(self, name, int(getattr(self, name)))  # 3.0 is 3
        shares = np.arange(1, self.n_bins) / self.n_bins
        self.edges = np.unique(np.quantile(self.reference, shares, method="inverted_cdf"))
        self._lock = shared_lock()  # held during an update

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = shared_lock()

    @property
    def drift(self) -> bool:
        """Whether there was an alarm."""
        return self.alarm_input is not None

    @property
    def alarm_at(self) -> float:
        """The evidence, as log10, that raises an alarm: 1 / `false_alarm_rate`."""
        return -math.log10(self.false_alarm_rate)

    @explains_out_of_memory("update")
    def update(self, prediction: MCPrediction, *, name: str | None = None) -> MCMonitor:
        """Add the next batch, of any size, to this monitor, and return the monitor.

        name: a name of the batch, such as its date. The sequential test does not depend on how the inputs are divided
        into batches. A prediction with other labels or without the measure raises ValueError and changes nothing.
        """
        values = _uncertainties(prediction, self.measure, self.task, self.labels, self.temperature, "prediction")
        if name is not None and not isinstance(name, str):
            raise ValueError(f"`name` must be a string; got {shown(name)}.")
        with self._lock:
            self._add(values, name)
        return self

    def _add(self, values: Array, name: str | None) -> None:
        """Add the values of the next batch."""
        n_before = self.n_seen
        p, q, counts = self._ranks(values)
        bets = Bets.placed(p, q, n_before, self.log_capital, self.log_best, self.best_start)
        evidence = bets.log_evidence / math.log(10)
        row = self._row(values, n_before + len(values))
        alarms = np.flatnonzero(evidence >= self.alarm_at)
        is_first = self.alarm_input is None and len(alarms) > 0
        row |= {"name": name, "log10_evidence": float(evidence[-1]), "drift": self.drift or is_first}
        batches = _table([*self.batches.to_dict(orient="records"), row][-MOST_BATCHES:])
        changes: dict[str, Any] = {
            "batches": batches,
            "n_seen": n_before + len(values),
            "n_batches": self.n_batches + 1,
            "counts": counts,
            "highest_evidence": max(self.highest_evidence, float(evidence[-1])),
            "log_capital": bets.log_capital[:, -1],
            "log_best": bets.next_best,
            "best_start": bets.next_start,
        }
        if is_first:
            first = int(alarms[0])
            since = int(bets.starts[bets.log_best[:, first].argmax(), first])
            changes |= {"alarm_input": n_before + first + 1, "alarm_batch": self.n_batches + 1}
            changes |= {"since_input": since, "since_batch": _batch_of(since, batches)}
        vars(self).update(changes)  # in one step, so that no reader, interrupt or fork sees a part of them

    def _ranks(self, values: Array) -> tuple[Array, Array, Array]:
        """Each value's rank from above and from below, (value,), and the counts after these values."""
        uniforms = uniform_lots(self.seed, self.n_seen, len(values))
        cells = cells_of(values, self.reference, self._among_equals(), uniforms[:, 0])
        return smoothed_ranks(cells, self.counts, uniforms[:, 1])

    def _among_equals(self) -> Array:
        """A number in (0, 1) for each input of the reference, which orders inputs with equal values."""
        drawn = np.random.default_rng([self.seed, 1]).random(len(self.reference))
        return drawn[np.lexsort((drawn, self.reference.searchsorted(self.reference)))]

    def _row(self, values: Array, seen: int) -> dict[str, Any]:
        """The numbers of a single batch."""
        test = stats.ks_2samp(self.reference, values, method="asymp")
        return {
            "batch": self.n_batches + 1,
            "n": len(values),
            "seen": seen,
            "mean": float(values.mean()),
            "ks": float(test.statistic),  # pyright: ignore[reportAttributeAccessIssue]  (SciPy's types lack it)
            "ks_p_value": float(test.pvalue),  # pyright: ignore[reportAttributeAccessIssue]
            "psi": stability_index(self.reference, values, self.edges),
            "psi_limit": _psi_limit(len(self.edges) + 1, len(self.reference), len(values)),
        }

    def words(self) -> str:
        """The measure, the last batch, and the alarm or its absence, as text."""
        with self._lock:
            return "\n".join(_words(self))

    def __repr__(self) -> str:
        return self.words()

    def to_state(self) -> dict[str, Any]:
        """The content of a file, in types that JSON has."""
        with self._lock:
            check_monitor(self)  # what was changed in place since must not give a file that cannot be opened
            values = self.__getstate__()
        state = {name: values[name] for name in self.__dataclass_fields__ if name != "edges"}
        state["batches"] = state["batches"].to_dict(orient="list")
        state["labels"] = None if self.labels is None else list(self.labels)
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in state.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MCMonitor:
        """The monitor from the result of `to_state()`."""
        dtypes = dict.fromkeys(("reference", "log_capital", "log_best"), np.float64)
        dtypes |= dict.fromkeys(("best_start", "counts"), np.int64)
        with opening("monitor", cls, state, OLDER_LACK):
            arrays = {name: as_array(state[name], name, dtype) for name, dtype in dtypes.items()}
            batches = as_table(state["batches"], "batches", DTYPES)
            labels = None if state["labels"] is None else as_tuple(state["labels"], "labels")
            return cls(**{**state, **arrays, "batches": batches, "labels": labels})


def mc_monitor(
    reference: MCPrediction,
    *,
    measure: str = "predictive_entropy",
    false_alarm_rate: float = 0.01,
    n_bins: int = 10,
    seed: int | None = 0,
) -> MCMonitor:
    """Watch whether new inputs are still like those of a reference, by how uncertain the network is about them.

    `monitor.update(prediction)` takes the next batch. The sequential test is a conformal test martingale. It uses the
    rank of each new input's uncertainty among all inputs before it, including the reference. As long as nothing
    changes, this rank is uniform and independent of the earlier ranks, for every network and every measure. The test
    bets against that: it bets that uncertainty is higher, lower, further out or further in than before. At every input
    it starts such bets with a part of its capital. By Ville's inequality the capital ever reaches 1 /
    `false_alarm_rate` with a probability of at most `false_alarm_rate`.

    The monitor does not keep the inputs. It keeps how many of them fell between each two neighbours of the reference. A
    new input gets a random rank among the inputs in its interval. As long as nothing changes, every rank is equally
    likely, so the guarantee is exact. Size and time of an update do not grow with the stream. The Kolmogorov-Smirnov
    test and the population stability index of each batch are exact too. Their p-values and limits hold for a single
    batch, and among many batches some exceed them by chance.

    A change that does not alter the distribution of the uncertainty cannot be detected by it. Another measure may
    detect it.

    Args:
        reference: A prediction of normal inputs that the network was not trained on: at least 20, better some hundreds.
        measure: A measure of uncertainty, as in `mc_scores()`.
        false_alarm_rate: Probability that the sequential test ever raises an alarm while nothing changes, over the
            whole run, however long it is and however often the result is read.
        n_bins: Number of bins of the population stability index. Each bin has the same number of inputs of the
            reference.
        seed: Seed of the random ranks.

    Returns:
        The monitor.

    Raises:
        ValueError: If the reference has fewer than 20 inputs or lacks the measure.

    References:
        Vovk, Gammerman and Shafer (2022), Algorithmic learning in a random world, chapter 8, and Vovk et al. (2021),
        arXiv:2102.10439 (conformal test martingales). Ville (1939), Etude critique de la notion de collectif. Yurdakul
        and Naranjo (2020), Journal of Risk Model Validation 14 (population stability index by chance).

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> monitor = mcd.mc_monitor(prediction)
        >>> monitor.update(mcd.mc_predict(net, x[:50], 20, seed=2, progress=False)).drift
        False
    """
    prediction = check_prediction(reference, "reference")
    check_choice(measure, "measure", measures_of(prediction))
    rate = check_number(false_alarm_rate, "false_alarm_rate", above=0, below=1)
    bins = check_count(n_bins, "n_bins", at_least=2)
    seed = check_seed(seed)
    values = _uncertainties(
        prediction, measure, prediction.task, prediction.labels, prediction.temperature, "reference"
    )
    if len(values) < max(FEWEST, bins):
        raise ValueError(f"`reference` must have at least {max(FEWEST, bins)} inputs; got {len(values)}.")
    first = np.full(N_BETS, log_weights(np.array([1]))[0])
    return MCMonitor(
        task=prediction.task,
        measure=measure,
        labels=prediction.labels,
        false_alarm_rate=rate,
        n_bins=bins,
        seed=seed,
        reference=np.sort(values),
        counts=np.zeros(len(values) + 1, dtype=np.int64),
        n_seen=0,
        batches=_table([]),
        n_batches=0,
        highest_evidence=0.0,
        log_capital=first,
        log_best=first,
        best_start=np.ones(N_BETS, dtype=np.int64),
        temperature=prediction.temperature,
    )


def stability_index(reference: Array, values: Array, edges: Array) -> float:
    """Population stability index: sum over bins of (share now - share before) log(share now / share before).

    A bin contains values above its lower edge and up to its upper edge. Half an input is added to every bin, so that
    the index stays finite if a bin is empty.
    """
    before, now = (
        np.bincount(np.searchsorted(edges, sample, side="left"), minlength=len(edges) + 1) + 0.5
        for sample in (reference, values)
    )
    before, now = before / before.sum(), now / now.sum()
    return float(((now - before) * np.log(now / before)).sum())


def _psi_limit(n_bins: int, n_reference: int, n: int) -> float:
    """The limit that the index of n inputs exceeds by chance once in twenty times, to first order."""
    return float(stats.chi2.ppf(0.95, max(n_bins - 1, 1)) * (1 / n_reference + 1 / n))


def _uncertainties(
    prediction: object,
    measure: str,
    task: str,
    labels: tuple[Label, ...] | None,
    temperature: float | None,
    name: str,
) -> Array:
    """The measure of each input, (input,), if the prediction fits the reference."""
    checked = check_prediction(prediction, name)
    if checked.task != task:
        kinds = {"classification": "classes", "regression": "values"}
        raise ValueError(f"`{name}` must be of {kinds[task]}, like the reference; got one of {kinds[checked.task]}.")
    if labels is not None:
        check_labels(checked, labels, "the reference", name)
        check_calibration(checked, temperature, "the reference", name)
    return measured(checked, measure, name)


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return as_table({name: [row[name] for row in rows] for name in COLUMNS}, "batches", DTYPES)


def _batch_of(number: int, batches: pd.DataFrame) -> int | None:
    """The batch of the input with this number, if the table still has its row."""
    if number <= batches["seen"].iloc[0] - batches["n"].iloc[0]:
        return None
    return int(batches["batch"].iloc[int(np.searchsorted(batches["seen"], number))])


def _words(monitor: MCMonitor) -> list[str]:
    lines = [
        f"# A drift monitor of {monitor.measure}, against {len(monitor.reference)} reference inputs",
        f"Seen: {monitor.n_seen} inputs in {monitor.n_batches} batches.",
    ]
    if len(monitor.batches):
        last: Any = next(monitor.batches.iloc[[-1]].itertuples())
        lines.append(
            f"Last batch: {last.n} inputs, mean {last.mean:.4g} (reference {monitor.reference.mean():.4g}); "
            f"Kolmogorov-Smirnov {last.ks:.3f} (p {last.ks_p_value:.2g}), population stability index {last.psi:.3f} "
            f"(by chance up to {last.psi_limit:.3f})."
        )
    rate = f"{100 * monitor.false_alarm_rate:.3g} %"
    if not monitor.drift:
        return [
            *lines,
            f"No drift: the highest evidence at the end of a batch was 10^{monitor.highest_evidence:.2f}; an alarm "
            f"needs 10^{monitor.alarm_at:.2f}. While nothing changes, the probability of ever having an alarm is at "
            f"most {rate}.",
        ]
    since = "" if monitor.since_batch is None else f", in {_batch_words(monitor, monitor.since_batch)}"
    return [
        *lines,
        f"DRIFT: alarm at input {monitor.alarm_input}, in {_batch_words(monitor, monitor.alarm_batch)}; since about "
        f"input {monitor.since_input}{since}.",
        f"While nothing changes, the probability of an alarm in the whole run is at most {rate}.",
    ]


def _batch_words(monitor: MCMonitor, batch: int | None) -> str:
    names = monitor.batches.set_index("batch")["name"]
    name = names.get(batch)  # None if the table no longer has the row
    return f"batch {batch}" if name is None else f"batch {batch} ({name})"
