"""The parts of a drift monitor: their types and ranges, and what must agree with what."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checks import check_choice, check_count, check_number
from ..predictions.parts import (
    agree,
    check_array,
    check_column,
    check_given_seed,
    check_label_set,
    check_table,
    check_temperature,
)
from ..predictions.prediction import TASKS
from ..predictions.uncertainty import CLASS_MEASURES, VALUE_MEASURES
from .bets import N_BETS, log_unstarted

Monitor = Any  # an MCMonitor, whose module imports this one

FEWEST = 20  # with fewer inputs in the reference, no rank has a probability below one in twenty

COLUMNS = ("batch", "name", "n", "seen", "mean", "ks", "ks_p_value", "psi", "psi_limit", "log10_evidence", "drift")


def check_monitor(monitor: Monitor) -> None:
    """Refuse parts of another type or range than a monitor has, and parts that do not belong to the same stream."""
    _check_settings(monitor)
    _check_progress(monitor)
    _check_batches(monitor)


def _check_settings(monitor: Monitor) -> None:
    """What `mc_monitor()` was given, and the reference."""
    of_classes = check_choice(monitor.task, "task", TASKS) == "classification"
    check_choice(monitor.measure, "measure", tuple(CLASS_MEASURES if of_classes else VALUE_MEASURES))
    if of_classes:
        check_label_set(monitor.labels)
    agree(of_classes or monitor.labels is None, "labels", "be left out for values")
    check_number(monitor.false_alarm_rate, "false_alarm_rate", above=0, below=1)
    n_bins = check_count(monitor.n_bins, "n_bins", at_least=2)
    check_given_seed(monitor.seed)
    check_temperature(monitor.temperature)
    check_array(monitor.reference, "reference", finite=True)
    fits = monitor.reference.ndim == 1 and len(monitor.reference) >= max(FEWEST, n_bins)
    agree(fits and (np.diff(monitor.reference) >= 0).all(), "reference", "be sorted numbers, at least 20 and `n_bins`")


def _check_progress(monitor: Monitor) -> None:
    """The counts, the capital of the bets, and the alarm."""
    n_seen = check_count(monitor.n_seen, "n_seen", at_least=0)
    n_batches = check_count(monitor.n_batches, "n_batches", at_least=0)
    check_array(monitor.counts, "counts", (len(monitor.reference) + 1,), least=0, whole=True)
    agree(monitor.counts.sum() == n_seen, "counts", "sum to `n_seen`")
    for name in ("log_capital", "log_best"):
        check_array(getattr(monitor, name), name, (N_BETS,), finite=True)
    slack = 1e-6 * (1 + np.abs(monitor.log_capital))  # rounding of long sums
    agree((monitor.log_best <= monitor.log_capital + slack).all(), "log_best", "not be more than `log_capital`")
    check_array(monitor.best_start, "best_start", (N_BETS,), least=1, most=n_seen + 1, whole=True)
    check_number(monitor.highest_evidence, "highest_evidence", at_least=0)
    for name, most in (("input", n_seen), ("batch", n_batches)):
        alarm, since = getattr(monitor, f"alarm_{name}"), getattr(monitor, f"since_{name}")
        agree((alarm is None) == (not monitor.drift), f"alarm_{name}", "be given if there was an alarm, and only then")
        agree(alarm is None or check_count(alarm, f"alarm_{name}") <= most, f"alarm_{name}", f"be at most {most}")
        if since is not None:  # the table may no longer have the row of `since_batch`
            fits = alarm is not None and check_count(since, f"since_{name}") <= alarm
            agree(fits, f"since_{name}", f"not be after `alarm_{name}`")
    agree(
        monitor.drift == (monitor.since_input is not None),
        "since_input",
        "be given if there was an alarm, and only then",
    )
    is_quiet = monitor.highest_evidence < monitor.alarm_at
    agree(is_quiet or monitor.drift, "alarm_input", "be given where `highest_evidence` reaches the alarm")


def _check_batches(monitor: Monitor) -> None:
    """The rows of the last batches, which lead to the present state."""
    batches, n_batches = monitor.batches, monitor.n_batches
    check_table(batches, "batches", COLUMNS)
    agree(min(n_batches, 1) <= len(batches) <= n_batches, "batches", "have rows of the last batches")
    for column in ("batch", "n", "seen"):
        check_column(batches, "batches", column, least=1, whole=True)
    for column in ("ks", "ks_p_value"):
        check_column(batches, "batches", column, least=0, most=1, finite=True)
    for column in ("mean", "psi", "psi_limit", "log10_evidence"):
        check_column(batches, "batches", column, finite=True)
    agree(all(name is None or isinstance(name, str) for name in batches["name"]), "batches.name", "be text or none")
    evidence = np.logaddexp(np.logaddexp.reduce(monitor.log_capital), log_unstarted(monitor.n_seen)) / math.log(10)
    last = 0.0
    if n_batches:
        numbers = np.arange(n_batches - len(batches), n_batches) + 1
        agree((batches["batch"] == numbers).all(), "batches.batch", "be the numbers of the last batches")
        agree((batches["seen"].diff() == batches["n"])[1:].all(), "batches.seen", "rise by `n`")
        before = batches["seen"].iloc[0] - batches["n"].iloc[0]
        agree(before >= numbers[0] - 1 and (before == 0 or numbers[0] > 1), "batches.seen", "count all inputs")
        agree(batches["seen"].iloc[-1] == monitor.n_seen, "batches.seen", "end at `n_seen`")
        had_alarm = monitor.drift & (numbers >= (monitor.alarm_batch or 0))
        agree((batches["drift"] == had_alarm).all(), "batches.drift", "be true from `alarm_batch` on")
        last = batches["log10_evidence"].iloc[-1]
        highest = monitor.highest_evidence
        agree((batches["log10_evidence"] <= highest).all(), "highest_evidence", "be the highest of all batches")
    else:
        agree(monitor.n_seen == 0, "n_seen", "be 0 without batches")
    agree(
        math.isclose(evidence, last, rel_tol=1e-6, abs_tol=1e-6), "log_capital", "give the evidence of the last batch"
    )
