"""Thresholds with a guaranteed error rate, by tests of many candidates (learn then test)."""

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
from .policy import Limits, MCPolicy, limit_words, of_label

PILOT = 0.25  # share of the calibration inputs that choose the thresholds to test and their order

MOST_LABELLED = 10**6  # nobody labels more inputs, so a larger number counts as impossible


@dataclass(frozen=True)
class PolicySettings:
    """The settings that all ways to choose thresholds share.

    basis: see `MCPolicy`. names: those of the tiers. costs: None without costs.
    """

    basis: str
    names: tuple[str, ...]
    confidence: float
    costs: CostTable | None


def binomial_p(wrong: Array, n: Array, max_error: float) -> Array:
    """P(at most `wrong` of n) if each is wrong with probability `max_error`; small if `max_error` is too high.

    Continuous in `wrong` and n, so that it can be computed for expected numbers. 1 if n is 0.
    """
    right = np.maximum(n - wrong, np.finfo(float).tiny)
    return np.where(n > wrong, betainc(right, wrong + 1, 1 - max_error), 1.0)


def upper_bound(wrong: int, n: int, confidence: float) -> float:
    """Exact one-sided bound of the share of errors (Clopper and Pearson, 1934); 1 if n is 0."""
    return float(stats.beta.ppf(confidence, wrong + 1, n - wrong)) if wrong < n else 1.0


def least_error_free(max_error: float, confidence: float) -> int:
    """The number of accepted inputs without an error that is needed: (1 - max_error)^n <= 1 - confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_error) - 1e-9)


def _p_values(
    path: ThresholdPath, cases: CalibrationCases, limits: Limits, ratio: float = 1.0, more: float = 0.0
) -> Array:
    """p-value of each step, (step,): the largest over the limits, because a step must pass all of them."""
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

    Path and order depend only on the pilot inputs. So on the test inputs the steps are hypotheses in a fixed sequence,
    and given the number of accepted inputs, the number of errors is binomial. They are tested from strict to lax by the
    fallback procedure: half of `alpha` belongs to the most promising step, half to a strict step that should pass if
    the uncertainty is useful. A step that passes gives its level to the next; a step that fails loses it.
    """
    on_pilot = pilot.path(N_CANDIDATES)
    ratio = len(test.true) / len(pilot.true)
    # half an error more than observed, because no error among few inputs does not mean an error rate of 0
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
    """The first step that should accept twice the test inputs that pass without an error; else the last step."""
    is_large = np.ones(len(path.thresholds), dtype=bool)
    for limit in limits:
        expected = ratio * path.accepted(pilot.concerned(limit) * 1.0)
        is_large &= expected >= 2 * least_error_free(limit["max_error"], 1 - alpha)
    return int(is_large.argmax()) if is_large.any() else len(is_large) - 1


def with_promise(
    cases: CalibrationCases,
    limits: Limits,
    last_share: float | None,
    seed: int,
    settings: PolicySettings,
) -> MCPolicy:
    """Thresholds for the limits of each tier; several tiers share the probability that a promise is wrong."""
    order = np.random.default_rng(seed).permutation(len(cases.true))
    n_pilot = max(round(PILOT * len(order)), 1)
    pilot, test = cases[order[:n_pilot]], cases[order[n_pilot:]]
    n_tests = 1 + max(limit["tier"] for limit in limits)
    alpha = (1 - settings.confidence) / n_tests
    thresholds: list[tuple[float, ...] | None] = []
    promises, curves, needed = [], [], None
    for tier in range(n_tests):
        of_tier = [limit for limit in limits if limit["tier"] == tier]
        path, p, level, best = _tested(pilot, test, of_tier, alpha)
        passed = np.flatnonzero((level > 0) & (p <= level))
        row = tuple(path.thresholds[passed[-1]].tolist()) if len(passed) else None
        before = thresholds[-1] if thresholds else None
        if row is None and before is None and needed is None:
            needed = explain_failure(path, test, of_tier, best, 1 - alpha, len(cases.true))
        if before is not None:  # where a tighter promise holds, a looser one holds too
            row = before if row is None else tuple(map(max, row, before))
        thresholds.append(row)
        promises += _promises(test, of_tier, thresholds, settings.names[tier], 1 - alpha)
        curves.append(path.curve(test).assign(p_value=p, level=level, tier=settings.names[tier]))
    if last_share is not None:
        row = cases.path().within(last_share)
        before = thresholds[-1]
        thresholds.append(row if before is None or row is None else tuple(map(max, row, before)))
    curve = pd.concat(curves, ignore_index=True)
    policy = policy_of(cases, thresholds, promises, seed, curve, len(test.true), settings)
    return policy if needed is None else MCPolicy(**{**vars(policy), "needed": needed})


def _promises(
    test: CalibrationCases, limits: Limits, thresholds: list[tuple[float, ...] | None], tier: str, confidence: float
) -> list[dict[str, Any]]:
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
    path: ThresholdPath, test: CalibrationCases, limits: Limits, start: int, confidence: float, n_inputs: int
) -> str:
    """Why no threshold passed and what would help, for the limit that is missed by most."""
    share = dict.fromkeys(range(len(limits)), 0.0)
    counts = []
    for place, limit in enumerate(limits):
        concerned = test.concerned(limit)
        n = int(path.accepted(concerned * 1.0)[start])
        wrong = int(path.accepted((concerned & test.wrong) * 1.0)[start])
        counts.append((n, wrong))
        share[place] = float(binomial_p(np.array(wrong), np.array(n), limit["max_error"]))
    worst = max(share, key=lambda place: share[place])
    limit, (n, wrong) = limits[worst], counts[worst]
    free = least_error_free(limit["max_error"], confidence)
    reason = (
        f"No threshold can promise that {limit_words(limit)}: of the {len(test.true)} inputs kept for the test, the "
        f"most promising one accepts {n}{of_label(limit)}, {wrong} of them wrong, where it takes at least {free} "
        "without an error, or more with some"
    )
    n_needed = _needed_accepted(wrong / n if n else 0.0, limit["max_error"], confidence)
    if n_needed is None:
        return (
            f"{reason}. At this error rate no number of inputs would do: allow more error, or train a better network."
        )
    total = math.ceil(n_needed / max(n, 0.5) * n_inputs)
    needed = _rounded_up(total)
    return f"{reason}. At this error rate about {needed} labelled inputs in all would do; there are {n_inputs}."


def _needed_accepted(rate: float, max_error: float, confidence: float) -> int | None:
    """The number of accepted inputs with this error rate that keeps the promise; None if no number does."""
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
    """A number rounded up to two digits, because it is an estimate."""
    step = 10 ** max(len(str(number)) - 2, 0)
    return f"{math.ceil(number / step) * step:,}"


def policy_of(
    cases: CalibrationCases,
    thresholds: Sequence[tuple[float, ...] | None],
    promises: list[dict[str, Any]],
    seed: int | None,
    curve: pd.DataFrame,
    n_test: int,
    settings: PolicySettings,
) -> MCPolicy:
    """The policy of the chosen thresholds, with its promises."""
    names, confidence = settings.names, settings.confidence
    places = tiers_of(cases.uncertainties, thresholds)
    n = np.bincount(places, minlength=len(names))
    wrong = np.bincount(places[cases.wrong], minlength=len(names))
    exact = settings.basis in ("budget", "uncertainty_threshold")  # the thresholds do not depend on the labels
    upper = [upper_bound(int(bad), int(of), confidence) if exact else np.nan for bad, of in zip(wrong, n, strict=True)]
    error = np.divide(wrong, n, out=np.full(len(names), np.nan), where=n > 0)
    outcome = pd.DataFrame(
        {"tier": names, "n": n, "share": n / len(places), "wrong": wrong, "error": error, "upper_bound": upper}
    )
    columns = ["tier", "kind", "label", "max_error", "n", "wrong", "upper_bound", "kept"]
    return MCPolicy(
        basis=settings.basis,
        tiers=names,
        measures=cases.measures,
        thresholds=tuple(thresholds),
        labels=cases.labels,
        confidence=confidence,
        n_inputs=len(places),
        n_test=n_test,
        seed=seed,
        outcome=outcome,
        promises=pd.DataFrame(promises, columns=columns),
        curve=curve,
        mean_cost=None if settings.costs is None else settings.costs.mean(places),
        temperature=cases.temperature,
    )
