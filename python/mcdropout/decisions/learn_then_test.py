"""Thresholds with a guaranteed error rate, by tests of many candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import betainc

from ..predictions.prediction import Array
from .cases import N_CANDIDATES, CalibrationCases, ThresholdPath, tiers_of
from .costs import CostTable
from .policy import Limits, MCPolicy, limit_words, of_label, promise_table

PILOT = 0.25  # share of the calibration inputs that choose which thresholds are tested, and in which order

MOST_LABELLED = 10**6  # nobody labels more inputs; an error rate that needs more is treated as equal to the limit


@dataclass(frozen=True)
class PolicySettings:
    """What the thresholds of a policy are chosen for; see `MCPolicy`."""

    basis: str
    tiers: tuple[str, ...]
    confidence: float
    costs: CostTable | None


def binomial_p(wrong: Array, n: Array, max_error: float) -> Array:
    """P(at most `wrong` errors in n) if each case is wrong with probability `max_error`; 1 where n is 0.

    A small value is evidence that the error rate is below `max_error`. The function is continuous in `wrong` and n, so
    it also takes the expected outcome of a test.
    """
    right = np.maximum(n - wrong, np.finfo(float).tiny)
    return np.where(n > wrong, betainc(right, wrong + 1, 1 - max_error), 1.0)


def upper_bound(wrong: int, n: int, confidence: float) -> float:
    """Exact one-sided upper bound of the error rate (Clopper and Pearson, 1934); 1 where n is 0."""
    return float(stats.beta.ppf(confidence, wrong + 1, n - wrong)) if wrong < n else 1.0


def least_error_free(max_error: float, confidence: float) -> int:
    """Accepted cases needed if none of them is wrong: the least n with (1 - max_error)^n <= 1 - confidence."""
    return math.ceil(min(math.log(1 - confidence) / math.log1p(-max_error), 1e300) - 1e-9)


def _p_values(
    path: ThresholdPath, cases: CalibrationCases, limits: Limits, ratio: float = 1.0, more: float = 0.0
) -> Array:
    """p-value of each step, (step,): the largest over the limits, because a step must pass every limit.

    ratio and more: each count is increased by `more`, then multiplied by `ratio`.
    """
    p_values = []
    for limit in limits:
        concerned = cases.concerned(limit)
        n, wrong = path.accepted(concerned * 1.0), path.accepted((concerned & cases.wrong) * 1.0)
        p_values.append(binomial_p((wrong + more) * ratio, (n + more) * ratio, limit["max_error"]))
    return np.max(p_values, axis=0)


def _tested(
    pilot: CalibrationCases, test: CalibrationCases, limits: Limits, alpha: float
) -> tuple[ThresholdPath, Array, Array, int]:
    """The path on the test inputs, the p-value and the level of each step, and the most promising step.

    Path and order depend on the pilot inputs only, so the steps are hypotheses in a fixed sequence for the test inputs.
    Given the number of accepted test inputs, the number of wrong ones among them is binomial. The steps are tested from
    strict to lax by the fallback procedure. The most promising step gets half of `alpha`; a strict step, which should
    pass if the uncertainty is informative, gets the other half. A step that passes adds its level to the next step's. A
    step that fails loses its level.
    """
    on_pilot = pilot.path(N_CANDIDATES)
    ratio = len(test.true) / len(pilot.true)
    # half an error is added, because no error among few inputs does not mean that the error rate is 0
    best = int(_p_values(on_pilot, pilot, limits, ratio, more=0.5).argmin())
    level = np.zeros(len(on_pilot.thresholds))
    level[min(_strict_start(on_pilot, pilot, limits, ratio, alpha / 2), best)] += alpha / 2
    level[best] += alpha / 2
    path = ThresholdPath.through(on_pilot.thresholds, test.uncertainties)
    p = _p_values(path, test, limits)
    for step in range(1, len(level)):
        if p[step - 1] <= level[step - 1]:
            level[step] += level[step - 1]
    return path, p, level, best


def _strict_start(path: ThresholdPath, pilot: CalibrationCases, limits: Limits, ratio: float, alpha: float) -> int:
    """The first step expected to accept twice as many test inputs as are needed without an error; else the last."""
    enough = np.ones(len(path.thresholds), dtype=bool)
    for limit in limits:
        expected = ratio * path.accepted(pilot.concerned(limit) * 1.0)
        enough &= expected >= 2 * least_error_free(limit["max_error"], 1 - alpha)
    return int(enough.argmax()) if enough.any() else len(enough) - 1


def policy_with_promise(
    cases: CalibrationCases, limits: Limits, last_share: float | None, seed: int, settings: PolicySettings
) -> MCPolicy:
    """The policy whose thresholds keep the limits of each tier; the tiers share the probability of an error.

    last_share: the share of the inputs in the last tier, if a budget sets the last threshold.
    """
    order = np.random.default_rng(seed).permutation(len(cases.true))
    n_pilot = max(round(PILOT * len(order)), 1)
    pilot, test = cases[order[:n_pilot]], cases[order[n_pilot:]]
    n_tests = 1 + max(limit["tier"] for limit in limits)
    alpha = (1 - settings.confidence) / n_tests
    thresholds: list[tuple[float, ...] | None] = []
    promises, curves, needed = [], [], None
    for tier in range(n_tests):
        tier_limits = [limit for limit in limits if limit["tier"] == tier]
        path, p, level, best = _tested(pilot, test, tier_limits, alpha)
        passed = np.flatnonzero((level > 0) & (p <= level))
        row = tuple(path.thresholds[passed[-1]].tolist()) if len(passed) else None
        previous = thresholds[-1] if thresholds else None
        if row is None and previous is None and needed is None:
            needed = explain_failure(path, test, tier_limits, best, 1 - alpha, len(cases.true))
        if previous is not None:  # a looser promise also holds at the threshold of a tighter one
            row = previous if row is None else tuple(map(max, row, previous))
        thresholds.append(row)
        promises += _promises(test, tier_limits, thresholds, settings.tiers[tier], 1 - alpha)
        curves.append(path.curve(test).assign(p_value=p, level=level, tier=settings.tiers[tier]))
    if last_share is not None:
        row, previous = cases.path().within(last_share), thresholds[-1]
        thresholds.append(row if previous is None or row is None else tuple(map(max, row, previous)))
    curve = pd.concat(curves, ignore_index=True)
    policy = policy_of(cases, thresholds, curve, settings, promises=promises, n_test=len(test.true), seed=seed)
    return policy if needed is None else MCPolicy(**{**vars(policy), "needed": needed})


def _promises(
    test: CalibrationCases, limits: Limits, thresholds: list[tuple[float, ...] | None], tier: str, confidence: float
) -> list[dict[str, Any]]:
    """What the test inputs accepted by the first tiers show about each limit."""
    accepted = tiers_of(test.uncertainties, thresholds) < len(thresholds)
    rows = []
    for limit in limits:
        counted = accepted & test.concerned(limit)
        n, wrong = int(counted.sum()), int((counted & test.wrong).sum())
        bound = upper_bound(wrong, n, confidence)
        kept = bool(bound <= limit["max_error"] + 1e-12)
        rows.append({**limit, "tier": tier, "n": n, "wrong": wrong, "upper_bound": bound, "kept": kept})
    return rows


def explain_failure(
    path: ThresholdPath, test: CalibrationCases, limits: Limits, step: int, confidence: float, n_inputs: int
) -> str:
    """Why no threshold passed, and what would help, for the limit with the largest p-value at this step."""
    counts, p_values = [], []
    for limit in limits:
        concerned = test.concerned(limit)
        n = int(path.accepted(concerned * 1.0)[step])
        wrong = int(path.accepted((concerned & test.wrong) * 1.0)[step])
        counts.append((n, wrong))
        p_values.append(float(binomial_p(np.array(wrong), np.array(n), limit["max_error"])))
    worst = int(np.argmax(p_values))
    limit, (n, wrong) = limits[worst], counts[worst]
    error_free = least_error_free(limit["max_error"], confidence)
    words = f"at least {error_free}" if error_free <= MOST_LABELLED else f"more than {MOST_LABELLED:,}"
    reason = (
        f"No threshold can promise that {limit_words(limit)}. Of the {len(test.true)} inputs used for the test, the "
        f"most promising threshold accepts {n}{of_label(limit)}, {wrong} of them wrong; "
        f"{words} without an error are needed, or more with errors."
    )
    enough = cases_needed(wrong / n if n else 0.0, limit["max_error"], confidence)
    if enough is None:
        return (
            f"{reason} With this error rate no number of inputs would be enough: allow more error, or train a better "
            "network."
        )
    total = math.ceil(enough / max(n, 0.5) * n_inputs)
    return (
        f"{reason} With this error rate about {_rounded_up(total)} labelled inputs in all would be enough; there are "
        f"{n_inputs}."
    )


def cases_needed(rate: float, max_error: float, confidence: float) -> int | None:
    """Accepted cases of this error rate that are needed for the promise; None if no number is enough."""
    if rate >= max_error:
        return None
    low, high = 1, 1
    while binomial_p(np.array(rate * high), np.array(high), max_error) > 1 - confidence:
        low, high = high, 2 * high
        if high > MOST_LABELLED:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        passes = binomial_p(np.array(rate * middle), np.array(middle), max_error) <= 1 - confidence
        low, high = (low, middle) if passes else (middle, high)
    return high


def _rounded_up(number: int) -> str:
    """The number rounded up to two digits, because it is an estimate."""
    step = 10 ** max(len(str(number)) - 2, 0)
    return f"{math.ceil(number / step) * step:,}"


def policy_of(
    cases: CalibrationCases,
    thresholds: Sequence[tuple[float, ...] | None],
    curve: pd.DataFrame,
    settings: PolicySettings,
    *,
    promises: Sequence[dict[str, Any]] = (),
    n_test: int | None = None,
    seed: int | None = None,
) -> MCPolicy:
    """The policy of the chosen thresholds, with its promises; without `n_test`, all cases count as test inputs."""
    n_tiers = len(settings.tiers)
    places = tiers_of(cases.uncertainties, thresholds)
    n = np.bincount(places, minlength=n_tiers)
    wrong = np.bincount(places[cases.wrong], minlength=n_tiers)
    if settings.basis in ("budget", "uncertainty_threshold"):  # the bound is exact: the thresholds do not use labels
        upper = [
            upper_bound(int(errors), int(size), settings.confidence) for errors, size in zip(wrong, n, strict=True)
        ]
    else:
        upper = [np.nan] * n_tiers
    error = np.divide(wrong, n, out=np.full(n_tiers, np.nan), where=n > 0)
    outcome = pd.DataFrame(
        {
            "tier": settings.tiers,
            "n": n,
            "share": n / len(places),
            "wrong": wrong,
            "error": error,
            "upper_bound": upper,
        }
    )
    return MCPolicy(
        basis=settings.basis,
        tiers=settings.tiers,
        measures=cases.measures,
        thresholds=tuple(thresholds),
        labels=cases.labels,
        confidence=settings.confidence,
        n_inputs=len(places),
        n_test=len(places) if n_test is None else n_test,
        seed=seed,
        outcome=outcome,
        promises=promise_table(promises),
        curve=curve,
        mean_cost=None if settings.costs is None else settings.costs.mean(places),
        temperature=cases.temperature,
    )
