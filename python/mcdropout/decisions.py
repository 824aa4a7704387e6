"""Triage: which predictions are accepted, which get a second check, which go to a person. Needs no torch.

A policy is learnt on labelled inputs, says what it promises, and decides about new predictions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import betainc

from .arrays import Label
from .checks import check_count, check_number, check_seed, shown, warn, whole
from .measures import (
    check_calibration,
    check_classes,
    check_labels,
    check_measures,
    codes_to_learn_from,
    labels_of,
    measured,
    predicted_codes,
)
from .prediction import Array, MCPrediction, index_of

TIERS = {2: ("accept", "refer"), 3: ("accept", "second check", "refer")}
PILOT = 0.25  # share of the calibration inputs that choose which thresholds are tested, and in which order
N_CANDIDATES = 200  # thresholds that may be tested: steps of half a per cent of the inputs
N_PATH = 1000  # steps of the path through several measures where nothing is tested
MOST_LABELLED = 10**6  # nobody labels more; a rate that needs them is as good as the limit itself
KINDS = ("misses", "false_alarms")
FOR_VALUES = "; `mc_conformal()` gives intervals for values"

Limits = list[dict[str, Any]]  # each: kind ("wrong", "misses", "false_alarms"), label (or None), max_error


@dataclass(frozen=True, repr=False)
class MCPolicy:
    """What `mc_triage()` learns and `mc_decide()` follows: thresholds, and what they rest on.

    An input is in the first tier all of whose `thresholds` (one row per tier but the last, one column per measure) its
    doubt does not exceed; a row of None takes none. `basis` says what they were chosen for: "max_error", "budget",
    "costs" or "uncertainty_threshold". `promises`: one row per limit on the error, with what the test inputs showed:
    `n` accepted, `wrong` of them, the exact upper bound at the confidence of that limit, and whether it is `kept`.
    `outcome`: one row per tier, what it does to all calibration inputs (`upper_bound` where labels had no part in
    choosing the thresholds). `curve`: the thresholds that were looked at,
    with coverage and errors, and for a promise their p-value among the test inputs and the level it was tested at (0:
    not tested). `needed` says what a promise that
    could not be given would take.
    """

    basis: str
    tiers: tuple[str, ...]
    measures: tuple[str, ...]
    thresholds: tuple[tuple[float, ...] | None, ...]
    labels: tuple[Label, ...]
    confidence: float
    n_inputs: int
    n_test: int
    seed: int | None
    outcome: pd.DataFrame
    promises: pd.DataFrame
    curve: pd.DataFrame
    mean_cost: float | None = None
    needed: str | None = None
    temperature: float | None = None  # of the prediction it was learnt on; None in older files

    @property
    def guaranteed(self) -> bool:
        """Whether it makes a promise, and every limit asked for could be promised."""
        return len(self.promises) > 0 and bool(self.promises["kept"].all())

    def words(self) -> str:
        """What it does, what it promises and on how many inputs that rests, as text."""
        return "\n".join(_policy_words(self))

    def __repr__(self) -> str:
        return self.words()

    def to_state(self) -> dict[str, Any]:
        """What a file keeps, as JSON holds it."""
        state = {name: getattr(self, name) for name in self.__dataclass_fields__}
        tables = {name: _plain(state[name]) for name in ("outcome", "promises", "curve")}
        rows = [None if row is None else list(row) for row in self.thresholds]
        lists = {name: list(state[name]) for name in ("tiers", "measures", "labels")}
        return {**state, **tables, **lists, "thresholds": rows}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MCPolicy:
        """What `to_state()` took apart."""
        tables = {name: _table(state[name]) for name in ("outcome", "promises", "curve")}
        rows = tuple(None if row is None else tuple(float(one) for one in row) for row in state["thresholds"])
        tuples = {name: tuple(state[name]) for name in ("tiers", "measures", "labels")}
        policy = cls(**{**state, **tables, **tuples, "thresholds": rows})
        widths = {len(policy.measures)} | {len(row) for row in rows if row is not None}
        if len(rows) != len(policy.tiers) - 1 or len(widths) != 1:
            raise ValueError("A policy must have one threshold per tier but the last, and per measure.")
        return policy


def mc_triage(
    prediction: MCPrediction,
    y: object,
    *,
    max_error: float | Sequence[float] | None = None,
    confidence: float = 0.95,
    measure: str | Sequence[str] = "predictive_entropy",
    tiers: int | Sequence[str] = 2,
    costs: Mapping[str, Any] | None = None,
    budget: float | Sequence[float] | None = None,
    by_label: bool | Mapping[str, Mapping[Any, float]] | None = None,
    uncertainty_threshold: float | Sequence[float] | None = None,
    seed: int | None = 0,
) -> MCPolicy:
    """Learn on labelled inputs which predictions can be accepted, and which people should see.

    tiers: 2 (accept, refer), 3 (accept, second check, refer), or names of one's own. measure: of doubt, one or
    several; an input is accepted if it exceeds none of their thresholds. Give one of:

    * `max_error`: with probability `confidence`, of the accepted cases at most this share is wrong. One number, or one
      per tier but the last: the second is for the cases of the first two tiers together. `by_label=True` holds it for
      the inputs of every true label; `by_label={"misses": {label: limit}, "false_alarms": {label: limit}}` for some:
      misses are accepted inputs of that label that are called something else, as a share of the accepted inputs of
      that label; false alarms are inputs accepted as that label that are not, as a share of those accepted as it.
    * `budget`: the share of the inputs that people can see, one number per tier but the first. With three tiers and one
      `max_error` it is the share of the last tier.
    * `costs`: `{"error": 50, "refer": 1}`, the cost of a wrong accepted case (or a table, true label by predicted)
      and of a case in each later tier; `{"second check": (0.2, 0.9)}` for one that finds 90 % of the errors. The
      thresholds of the least mean cost. With another choice they only say what it would have cost.
    * `uncertainty_threshold`: thresholds of one's own, one per tier but the last, for one measure.

    The promise is a learn-then-test one, and holds for any network, measure and number accepted, if the calibration
    inputs were not trained on and are like those to come. A random quarter of them (by `seed`) chooses thresholds and
    the order in which they are tested on the others, by the exact binomial p-value of the errors among the accepted,
    from strict to lax: a strict one and the most promising one have half of the chance of being wrong each, and hand
    it on for as long as they pass (fallback procedure). Several limits hold at once. Where no threshold passes, all
    is referred, and a warning and `needed` say what it would take.

    Raises ValueError for y of another length, with unknown labels or of one label alone, and for limits out of (0, 1).
    References: Angelopoulos et al. (2021), arXiv:2110.01052 (learn then test); Laufer-Goldshtein et al. (2023),
    arXiv:2210.07913 (ordering by a part of the data); Wiens and Dmitrienko (2005), Journal of Biopharmaceutical
    Statistics 15 (fallback procedure); Geifman and El-Yaniv (2017), arXiv:1705.08500 (selective risk).
    """
    prediction = check_classes(prediction, FOR_VALUES)
    cases = _Cases.of(prediction, y, check_measures(measure, prediction))
    names = _tier_names(tiers)
    confidence = check_number(confidence, "confidence", above=0, below=1)
    prices = None if costs is None else _Prices.of(costs, names, cases)
    limits = _limits(max_error, by_label, names, budget is not None, cases)
    basis = _basis(bool(limits), budget is not None, uncertainty_threshold is not None, prices is not None)
    given = (basis, names, confidence, prices)
    if basis == "max_error":
        last = None if budget is None else _shares(budget, 1)[0]
        policy = _with_promise(cases, limits, last, check_seed(seed), *given)
        if policy.needed is not None:
            warn(policy.needed)
        return policy
    path = cases.path()
    if basis == "budget":
        shares = _shares(cast("float | Sequence[float]", budget), len(names) - 1)
        thresholds = [path.within(sum(shares[place:])) for place in range(len(shares))]
    elif basis == "uncertainty_threshold":
        thresholds = _own_thresholds(uncertainty_threshold, names, cases)
    else:
        thresholds = cast(_Prices, prices).cheapest(path, cases)
    return _policy(cases, thresholds, [], None, path.curve(cases), len(cases.true), *given)


def mc_decide(policy: MCPolicy, prediction: MCPrediction) -> pd.DataFrame:
    """One row per input: the label predicted, the tier, the reason in words, and the doubt by each measure.

    Raises ValueError for a prediction of other labels than those of the policy, at another temperature than the one it
    was learnt on, of values, or with NaN.
    """
    if not isinstance(policy, MCPolicy):
        raise TypeError(f'`policy` must be what `mc_triage()` returns; got "{type(policy).__name__}".')
    prediction = check_classes(prediction, "")
    check_labels(prediction, policy.labels, "the policy")
    check_calibration(prediction, policy.temperature, "the one that the policy was learnt on")
    doubts = np.stack([measured(prediction, one) for one in policy.measures], axis=1)  # (input, measure)
    places = _tiers_of(doubts, policy.thresholds)
    columns = {
        "predicted": prediction.predicted,
        "tier": np.array(policy.tiers, dtype=object)[places],
        "reason": _reasons(policy, doubts, places),
        **dict(zip(policy.measures, doubts.T, strict=True)),
    }
    return pd.DataFrame(columns, index=index_of(prediction))


# Calibration inputs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cases:
    """Labelled inputs with their doubt, (input, measure)."""

    true: Array
    predicted: Array
    doubts: Array
    measures: tuple[str, ...]
    labels: tuple[Label, ...]
    temperature: float | None = None

    @classmethod
    def of(cls, prediction: MCPrediction, y: object, measures: tuple[str, ...]) -> _Cases:
        true, labels = codes_to_learn_from(y, prediction), labels_of(prediction)
        doubts = np.stack([measured(prediction, one) for one in measures], axis=1)
        return cls(true, predicted_codes(prediction), doubts, measures, labels, prediction.temperature)

    @property
    def wrong(self) -> Array:
        return self.true != self.predicted

    def __getitem__(self, chosen: Array) -> _Cases:
        true, predicted, doubts = (values[chosen] for values in (self.true, self.predicted, self.doubts))
        return _Cases(true, predicted, doubts, self.measures, self.labels, self.temperature)

    def code(self, label: object) -> int:
        """The place of a label that may be written as in the other language."""
        names = [str(one) for one in self.labels]
        number = whole(label)
        name = str(label if number is None else number)
        if name not in names:
            words = ", ".join(shown(one) for one in self.labels)
            raise ValueError(f"`by_label` must hold labels out of {words}; got {shown(label)}.")
        return names.index(name)

    def path(self, most: int | None = None) -> _Path:
        """Thresholds from strict to lax; at most `most`, else every value of one measure, or a fine path of several."""
        most = N_PATH if most is None and len(self.measures) > 1 else most
        if most is None and len(self.measures) == 1:
            return _Path.through(np.unique(self.doubts[:, 0])[:, None], self.doubts)
        ordered = np.sort(self.doubts, axis=0)
        assert most is not None
        ends = np.unique(np.ceil(len(ordered) * np.arange(1, most + 1) / most - 1e-9).astype(np.int64))
        return _Path.through(np.unique(ordered[ends - 1], axis=0), self.doubts)

    def concerned(self, limit: Mapping[str, Any]) -> Array:
        """Whether a limit on the error counts an input."""
        if limit["kind"] == "wrong":
            return np.ones(len(self.true), dtype=bool)
        return (self.true if limit["kind"] == "misses" else self.predicted) == self.code(limit["label"])


@dataclass(frozen=True)
class _Path:
    """Thresholds from strict to lax, (step, measure), and the first step that accepts each input."""

    thresholds: Array
    first: Array  # the number of steps where none does

    @classmethod
    def through(cls, thresholds: Array, doubts: Array) -> _Path:
        steps = [np.searchsorted(thresholds[:, m], doubts[:, m], side="left") for m in range(doubts.shape[1])]
        return cls(thresholds, np.max(steps, axis=0))

    def accepted(self, weights: Array | None = None) -> Array:
        """How many inputs each step accepts, or the sum of their weights, (step,)."""
        n_steps = len(self.thresholds)
        return np.bincount(self.first, weights=weights, minlength=n_steps + 1)[:n_steps].cumsum()

    def within(self, rest: float) -> tuple[float, ...] | None:
        """The strictest thresholds that leave at most this share of the inputs over."""
        n = len(self.first)
        steps = np.flatnonzero(n - self.accepted() <= rest * n + 1e-9)  # 0.1 of 10 is 1, whatever the rounding
        return tuple(self.thresholds[steps[0]].tolist()) if rest < 1 else None

    def curve(self, cases: _Cases) -> pd.DataFrame:
        """What each step accepts and how much of it is wrong, at most `N_CANDIDATES` steps."""
        n, wrong = self.accepted(), self.accepted(cases.wrong * 1.0)
        chosen = np.unique(np.linspace(0, len(n) - 1, N_CANDIDATES).astype(np.int64))
        thresholds = dict(zip(cases.measures, self.thresholds[chosen].T, strict=True))
        return pd.DataFrame(
            {
                **thresholds,
                "coverage": n[chosen] / len(cases.true),
                "n": n[chosen],
                "wrong": wrong[chosen].astype(np.int64),
            }
        )


def _tiers_of(doubts: Array, thresholds: Sequence[tuple[float, ...] | None]) -> Array:
    """The place of each input's tier, (input,)."""
    places = np.full(len(doubts), len(thresholds))
    for place in range(len(thresholds) - 1, -1, -1):
        row = thresholds[place]
        if row is not None:
            places[(doubts <= np.array(row)).all(axis=1)] = place
    return places


# Learn, then test -----------------------------------------------------------------------------------------


def binomial_p(wrong: Array, n: Array, max_error: float) -> Array:
    """P(at most `wrong` of n) if each is wrong with probability `max_error`: small where that is too much.

    Continuous in `wrong` and n, so that the expected outcome of a test may be asked about. 1 where n is 0.
    """
    right = np.maximum(n - wrong, np.finfo(float).tiny)
    return np.where(n > wrong, betainc(right, wrong + 1, 1 - max_error), 1.0)


def upper_bound(wrong: int, n: int, confidence: float) -> float:
    """Exact one-sided bound of the share that is wrong (Clopper and Pearson, 1934); 1 where n is 0."""
    return float(stats.beta.ppf(confidence, wrong + 1, n - wrong)) if wrong < n else 1.0


def least_error_free(max_error: float, confidence: float) -> int:
    """How many accepted cases without an error it takes: the least n with (1 - max_error)^n <= 1 - confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_error) - 1e-9)


def _p_values(path: _Path, cases: _Cases, limits: Limits, ratio: float = 1.0, more: float = 0.0) -> Array:
    """p-value of each step, the largest over the limits: a step passes if it passes them all, (step,)."""
    found = []
    for limit in limits:
        concerned = cases.concerned(limit)
        n, wrong = path.accepted(concerned * 1.0), path.accepted((concerned & cases.wrong) * 1.0)
        found.append(binomial_p((wrong + more) * ratio, (n + more) * ratio, limit["max_error"]))
    return np.max(found, axis=0)


def _tested(pilot: _Cases, test: _Cases, limits: Limits, alpha: float) -> tuple[_Path, Array, Array, int]:
    """The path on the test inputs, the p-value and the level of each step, and the most promising step.

    Path and order are functions of the pilot inputs alone, so on the test inputs the steps are hypotheses in a fixed
    sequence, and given the number accepted, the wrong ones among them are binomial. They are tested from strict to lax
    by the fallback procedure: half of `alpha` belongs to the step that promises most, half to a strict one that should
    pass if the doubt is worth anything; a step that passes hands its level on to the next, one that fails loses it.
    """
    on_pilot = pilot.path(N_CANDIDATES)
    ratio = len(test.true) / len(pilot.true)
    # half an error more than there were: none among few does not mean that there will be none
    best = int(_p_values(on_pilot, pilot, limits, ratio, more=0.5).argmin())
    level = np.zeros(len(on_pilot.thresholds))
    level[min(_strict_start(on_pilot, pilot, limits, ratio, alpha / 2), best)] += alpha / 2
    level[best] += alpha / 2
    path = _Path.through(on_pilot.thresholds, test.doubts)
    p = _p_values(path, test, limits)
    for step in range(1, len(level)):
        if p[step - 1] <= level[step - 1]:
            level[step] += level[step - 1]
    return path, p, level, best


def _strict_start(path: _Path, pilot: _Cases, limits: Limits, ratio: float, alpha: float) -> int:
    """The first step that should accept twice as many test inputs as pass without an error; else the last."""
    enough = np.ones(len(path.thresholds), dtype=bool)
    for limit in limits:
        expected = ratio * path.accepted(pilot.concerned(limit) * 1.0)
        enough &= expected >= 2 * least_error_free(limit["max_error"], 1 - alpha)
    return int(enough.argmax()) if enough.any() else len(enough) - 1


def _with_promise(
    cases: _Cases,
    limits: Limits,
    last_share: float | None,
    seed: int,
    basis: str,
    names: tuple[str, ...],
    confidence: float,
    prices: _Prices | None,
) -> MCPolicy:
    """Thresholds for each tier's own limits; several tiers share the chance of being wrong."""
    order = np.random.default_rng(seed).permutation(len(cases.true))
    n_pilot = max(round(PILOT * len(order)), 1)
    pilot, test = cases[order[:n_pilot]], cases[order[n_pilot:]]
    n_tests = 1 + max(limit["tier"] for limit in limits)
    alpha = (1 - confidence) / n_tests
    thresholds: list[tuple[float, ...] | None] = []
    promises, curves, needed = [], [], None
    for tier in range(n_tests):
        own = [limit for limit in limits if limit["tier"] == tier]
        path, p, level, best = _tested(pilot, test, own, alpha)
        passed = np.flatnonzero((level > 0) & (p <= level))
        row = tuple(path.thresholds[passed[-1]].tolist()) if len(passed) else None
        before = thresholds[-1] if thresholds else None
        if row is None and before is None and needed is None:
            needed = _what_it_takes(path, test, own, best, 1 - alpha, len(cases.true))
        if before is not None:  # a looser promise holds wherever a tighter one does
            row = before if row is None else tuple(map(max, row, before))
        thresholds.append(row)
        promises += _promises(test, own, thresholds, names[tier], 1 - alpha)
        curves.append(path.curve(test).assign(p_value=p, level=level, tier=names[tier]))
    if last_share is not None:
        rest = cases.path().within(last_share)
        before = thresholds[-1]
        thresholds.append(rest if before is None or rest is None else tuple(map(max, rest, before)))
    curve = pd.concat(curves, ignore_index=True)
    policy = _policy(cases, thresholds, promises, seed, curve, len(test.true), basis, names, confidence, prices)
    return policy if needed is None else MCPolicy(**{**vars(policy), "needed": needed})


def _promises(
    test: _Cases, limits: Limits, thresholds: list[tuple[float, ...] | None], tier: str, confidence: float
) -> list[dict[str, Any]]:
    accepted = _tiers_of(test.doubts, thresholds) < len(thresholds)
    rows = []
    for limit in limits:
        counted = accepted & test.concerned(limit)
        n, wrong = int(counted.sum()), int((counted & test.wrong).sum())
        bound = upper_bound(wrong, n, confidence)
        kept = bool(bound <= limit["max_error"] + 1e-12)
        rows.append({**limit, "tier": tier, "n": n, "wrong": wrong, "upper_bound": bound, "kept": kept})
    return rows


def _what_it_takes(path: _Path, test: _Cases, limits: Limits, start: int, confidence: float, n_inputs: int) -> str:
    """Why no threshold passed, and what would help, for the limit that is furthest from being kept."""
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
    said = (
        f"No threshold can promise that {_limit_words(limit)}: of the {len(test.true)} inputs kept for the test, the "
        f"most promising one accepts {n}{_of_label(limit)}, {wrong} of them wrong, where it takes at least {free} "
        "without an error, or more with some"
    )
    enough = _enough(wrong / n if n else 0.0, limit["max_error"], confidence)
    if enough is None:
        return f"{said}. At this error rate no number of inputs would do: allow more error, or train a better network."
    total = math.ceil(enough / max(n, 0.5) * n_inputs)
    return (
        f"{said}. At this error rate about {_rounded_up(total)} labelled inputs in all would do; there are {n_inputs}."
    )


def _enough(rate: float, max_error: float, confidence: float) -> int | None:
    """How many accepted cases of this error rate keep the promise; None where no number would."""
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
    """To two digits: it is an estimate."""
    step = 10 ** max(len(str(number)) - 2, 0)
    return f"{math.ceil(number / step) * step:,}"


# Costs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prices:
    """What each input costs in each tier, (input, tier)."""

    each: Array

    @classmethod
    def of(cls, costs: Mapping[str, Any], names: tuple[str, ...], cases: _Cases) -> _Prices:
        wanted = ("error", *names[1:])
        if not isinstance(costs, Mapping) or set(costs) != set(wanted):
            got = _quoted(costs) if isinstance(costs, Mapping) and costs else shown(costs)
            raise ValueError(f"`costs` must have a cost for each of {_quoted(wanted)}; got {got}.")
        error = _error_costs(costs["error"], cases)
        columns = [error]
        for name in names[1:]:
            pair = np.atleast_1d(np.asarray(costs[name], dtype=object)).ravel().tolist()
            if len(pair) not in (1, 2):
                raise ValueError(f'`costs` must have one or two numbers for "{name}"; got {shown(costs[name])}.')
            price = check_number(pair[0], f'costs["{name}"]', at_least=0)
            found = check_number(pair[1], f'costs["{name}"]', at_least=0, at_most=1) if len(pair) == 2 else 1.0
            columns.append(price + (1 - found) * error)
        return cls(np.stack(columns, axis=1))

    def mean(self, places: Array) -> float:
        """Mean cost of inputs in these tiers."""
        return float(self.each[np.arange(len(places)), places].mean())

    def cheapest(self, path: _Path, cases: _Cases) -> list[tuple[float, ...] | None]:
        """Thresholds of the least total cost, tier by tier: none accepted, or up to each step of the path."""
        sums = [np.append(0, path.accepted(column)) for column in self.each.T]  # (0 or step) for each tier
        least, choices = sums[0], []
        for column in sums[1:]:
            # up to here by the earlier tiers, from there on by this one
            gain = least - column
            best = np.minimum.accumulate(gain)
            choices.append(_first_places(gain, best))
            least = best + column
        ends, place = [], len(least) - 1
        for choice in reversed(choices):
            place = int(choice[place])
            ends.append(place)
        return [None if end == 0 else tuple(path.thresholds[end - 1].tolist()) for end in reversed(ends)]


def _first_places(values: Array, running_least: Array) -> Array:
    """Where the running minimum was reached, the laxest of equals."""
    places = np.where(values <= running_least, np.arange(len(values)), 0)
    return np.maximum.accumulate(places)


def _error_costs(cost: object, cases: _Cases) -> Array:
    """What accepting each input costs: one cost for every error, or one for each pair of true and predicted label."""
    size = len(cases.labels)
    table = np.asarray(cost.to_numpy() if isinstance(cost, pd.DataFrame) else cost)
    if table.ndim == 0:
        return cases.wrong * check_number(table.item(), 'costs["error"]', at_least=0)
    if table.shape != (size, size) or table.dtype.kind not in "iuf" or not np.isfinite(table).all():
        raise ValueError(
            f'`costs["error"]` must be a number or a table of {size} x {size} numbers, true label by predicted; '
            f"got {shown(cost)}."
        )
    return table[cases.true, cases.predicted].astype(np.float64)


# In words -------------------------------------------------------------------------------------------------


def _policy(
    cases: _Cases,
    thresholds: Sequence[tuple[float, ...] | None],
    promises: list[dict[str, Any]],
    seed: int | None,
    curve: pd.DataFrame,
    n_test: int,
    basis: str,
    names: tuple[str, ...],
    confidence: float,
    prices: _Prices | None,
) -> MCPolicy:
    places = _tiers_of(cases.doubts, thresholds)
    n = np.bincount(places, minlength=len(names))
    wrong = np.bincount(places[cases.wrong], minlength=len(names))
    exact = basis in ("budget", "uncertainty_threshold")  # labels had no part in choosing the thresholds
    upper = [upper_bound(int(bad), int(of), confidence) if exact else np.nan for bad, of in zip(wrong, n, strict=True)]
    error = np.divide(wrong, n, out=np.full(len(names), np.nan), where=n > 0)
    outcome = pd.DataFrame(
        {"tier": names, "n": n, "share": n / len(places), "wrong": wrong, "error": error, "upper_bound": upper}
    )
    columns = ["tier", "kind", "label", "max_error", "n", "wrong", "upper_bound", "kept"]
    return MCPolicy(
        basis=basis,
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
        mean_cost=None if prices is None else prices.mean(places),
        temperature=cases.temperature,
    )


def _policy_words(policy: MCPolicy) -> list[str]:
    lines = [f"# A triage policy, by {' and '.join(policy.measures)}"]
    rows: list[Any] = list(policy.outcome.itertuples())
    for place, row in enumerate(rows):
        if place == len(policy.tiers) - 1:
            rule = "the rest"
        else:
            rule = _rule_words(policy.measures, policy.thresholds[place])
        errors = f", {row.wrong} of {row.n} wrong" if row.n else ""
        lines.append(f"{row.tier}: {rule}; {_percent(row.share)} of the {policy.n_inputs} calibration inputs{errors}")
    lines += _promise_words(policy)
    if policy.mean_cost is not None:
        lines.append(f"Mean cost of a calibration input: {policy.mean_cost:.4g}.")
    return lines


def _promise_words(policy: MCPolicy) -> list[str]:
    first = policy.outcome.iloc[0]
    if policy.basis == "max_error":
        missing = [] if policy.needed is None else [policy.needed]
        limits = [one for one in policy.promises.to_dict(orient="records") if one["kept"]]
        if not limits:
            return missing
        what = "; ".join(_limit_words(one, policy.tiers) for one in limits)
        seen = "; ".join(
            f"{one['wrong']} of {one['n']}{_of_label(one)} wrong, bound {_percent(one['upper_bound'])}"
            for one in limits
        )
        return [
            *missing,
            f"Promise: with {_percent(policy.confidence)} confidence, {what}.",
            f"It rests on {policy.n_test} calibration inputs that had no part in choosing what to test: {seen}.",
            "It holds for inputs from the same source as these, not after a shift.",
        ]
    if policy.basis == "costs":
        return [
            "No promise: the thresholds were chosen on these same inputs for the least mean cost, so expect a little "
            "more errors and cost on others."
        ]
    if not first["n"]:
        return ["No promise: none of the calibration inputs was accepted."]
    bound = _percent(first["upper_bound"])
    return [
        f"No limit was asked for. Of inputs from this source, at most {bound} of those accepted are wrong, with "
        f"{_percent(policy.confidence)} confidence (exact, from {first['n']} accepted)."
    ]


def _rule_words(measures: tuple[str, ...], row: tuple[float, ...] | None) -> str:
    if row is None:
        return "none"
    return " and ".join(f"{name} at most {limit:.4g}" for name, limit in zip(measures, row, strict=True))


def _limit_words(limit: Mapping[str, Any], tiers: Sequence[str] = ()) -> str:
    share = _percent(limit["max_error"])
    if limit["kind"] == "misses":
        return f"at most {share} of the accepted inputs that are {shown(limit['label'])} are called something else"
    if limit["kind"] == "false_alarms":
        return f"at most {share} of the inputs accepted as {shown(limit['label'])} are something else"
    if tiers and limit["tier"] != tiers[0]:
        return f'at most {share} of those up to "{limit["tier"]}" are wrong'
    return f"at most {share} of the accepted are wrong"


def _of_label(limit: Mapping[str, Any]) -> str:
    if limit["kind"] == "wrong":
        return ""
    return f" {'that are' if limit['kind'] == 'misses' else 'as'} {shown(limit['label'])}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _reasons(policy: MCPolicy, doubts: Array, places: Array) -> list[str]:
    """Why each input is where it is: the measures that kept it out of the tier before, and its own rule."""
    texts = [
        [f"{name} {value:.4g}" for value in column] for name, column in zip(policy.measures, doubts.T, strict=True)
    ]
    return [
        _reason(policy, doubts[i], [text[i] for text in texts], int(place)) for i, place in enumerate(places.tolist())
    ]


def _reason(policy: MCPolicy, doubt: Array, texts: list[str], place: int) -> str:
    above = None if place == 0 else policy.thresholds[place - 1]
    if place > 0 and above is None:
        return f'no threshold for "{policy.tiers[place - 1]}"'
    if place == 0:
        row = cast("tuple[float, ...]", policy.thresholds[0])
        return " and ".join(f"{text} is at most {limit:.4g}" for text, limit in zip(texts, row, strict=True))
    limits = cast("tuple[float, ...]", above)
    over = [
        f"{text} is above {limit:.4g}" for text, limit, one in zip(texts, limits, doubt, strict=True) if one > limit
    ]
    return " and ".join(over)


# What comes in --------------------------------------------------------------------------------------------


def _tier_names(tiers: object) -> tuple[str, ...]:
    number = whole(tiers)
    if number in TIERS:
        return TIERS[number]
    names = tuple(tiers) if isinstance(tiers, Sequence) and not isinstance(tiers, str) else ()
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(one, str) and one for one in names):
        raise ValueError(f"`tiers` must be 2, 3 or at least two different names; got {shown(tiers)}.")
    return names


def _basis(limited: bool, budgeted: bool, own: bool, priced: bool) -> str:
    found = [
        name
        for name, there in (
            ("max_error", limited),
            ("budget", budgeted and not limited),
            ("uncertainty_threshold", own),
        )
        if there
    ]
    if len(found) > 1:
        raise ValueError(f"`{found[0]}` and `{found[1]}` must not be given both: each alone sets the thresholds.")
    if not found and not priced:
        raise ValueError("One of `max_error`, `budget`, `costs` and `uncertainty_threshold` must be given; got none.")
    return found[0] if found else "costs"


def _limits(max_error: object, by_label: object, names: tuple[str, ...], budgeted: bool, cases: _Cases) -> Limits:
    """Every limit on the error, with the place of the tier up to which it holds."""
    if max_error is None and by_label in (None, False):
        return []
    errors = [] if max_error is None else _numbers(max_error)
    errors = [check_number(one, "max_error", above=0, below=1) for one in errors]
    wanted = 1 if budgeted else len(names) - 1
    if budgeted and len(names) != 3:
        raise ValueError(
            "`budget` must not be given beside `max_error` but for three tiers, where it is the share of the last: "
            "with two, the limit alone says what must be referred."
        )
    if len(errors) != wanted and not (len(errors) == 0 and wanted == 1):
        hint = "; or `budget` says what share the last takes" if len(names) == 3 and not budgeted else ""
        numbers = "one number" if wanted == 1 else f"{wanted} numbers"
        raise ValueError(f"`max_error` must have {numbers} for {len(names)} tiers{hint}; got {len(errors)}.")
    if errors != sorted(errors):
        raise ValueError(f"`max_error` must not fall from tier to tier; got {shown(errors)}.")
    limits = [{"tier": tier, "kind": "wrong", "label": None, "max_error": one} for tier, one in enumerate(errors)]
    if by_label in (None, False):
        return limits
    own = _label_limits(by_label, errors, cases)
    return (own + limits[1:]) if by_label is True else (limits + own)


def _label_limits(by_label: object, errors: list[float], cases: _Cases) -> Limits:
    if by_label is True:
        if not errors:
            raise ValueError("`max_error` must be given with `by_label` set to true; got none.")
        given: Mapping[str, Any] = {"misses": dict.fromkeys(cases.labels, errors[0])}
    elif isinstance(by_label, Mapping) and by_label and set(by_label) <= set(KINDS):
        given = by_label
    else:
        got = _quoted(by_label) if isinstance(by_label, Mapping) and by_label else shown(by_label)
        raise ValueError(f"`by_label` must be true, or limits by label for {_quoted(KINDS)}; got {got}.")
    limits: Limits = []
    for kind, by in given.items():
        if not isinstance(by, Mapping) or not by:
            raise ValueError(f'`by_label` must have a limit for each label of "{kind}"; got {shown(by)}.')
        for label, limit in by.items():
            bound = check_number(limit, "by_label", above=0, below=1)
            limits.append({"tier": 0, "kind": kind, "label": cases.labels[cases.code(label)], "max_error": bound})
    return limits


def _quoted(words: Iterable[object]) -> str:
    return ", ".join(f'"{one}"' for one in words)


def _numbers(values: object) -> list[Any]:
    return list(values) if isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, str) else [values]


def _shares(budget: float | Sequence[float], wanted: int) -> list[float]:
    shares = [check_number(one, "budget", at_least=0, at_most=1) for one in _numbers(budget)]
    if len(shares) != wanted or sum(shares) > 1 + 1e-9:
        raise ValueError(
            f"`budget` must have {check_count(wanted, 'wanted')} numbers that sum to at most 1, one per tier but the "
            f"first; got {shown(shares)}."
        )
    return shares


def _own_thresholds(given: object, names: tuple[str, ...], cases: _Cases) -> list[tuple[float, ...] | None]:
    values = [check_number(one, "uncertainty_threshold") for one in _numbers(given)]
    if len(cases.measures) > 1:
        raise ValueError(f"`measure` must be one with `uncertainty_threshold`; got {len(cases.measures)}.")
    if len(values) != len(names) - 1 or values != sorted(values):
        raise ValueError(
            f"`uncertainty_threshold` must have {len(names) - 1} rising numbers for {len(names)} tiers; "
            f"got {shown(values)}."
        )
    return [(value,) for value in values]


# To and from JSON -----------------------------------------------------------------------------------------


def _plain(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns of plain values; what is not there is None."""
    columns = {str(name): table[name].tolist() for name in table.columns}
    return {name: [None if one != one else one for one in values] for name, values in columns.items()}


def _table(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    shares = [name for name in ("error", "upper_bound") if name in table]
    return table.astype(dict.fromkeys(shares, np.float64))
