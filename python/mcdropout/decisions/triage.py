"""`mc_triage()`: learn which predictions are accepted, checked again, or sent to a person. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..checks import check_count, check_number, check_seed, shown, warn
from ..predictions.prediction import MCPrediction
from ..predictions.truth import check_classes
from ..predictions.uncertainty import check_measures
from .cases import CalibrationCases
from .costs import CostTable
from .learn_then_test import policy_of, with_promise
from .policy import Limits, MCPolicy, as_numbers, quoted, tier_names

KINDS = ("misses", "false_alarms")

FOR_VALUES = "; `mc_conformal()` gives intervals for values"


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

    Give one of `max_error`, `budget`, `costs` and `uncertainty_threshold`. The promise of `max_error` is a
    learn-then-test
    one. It holds for any network, measure and number accepted, if the inputs here were not trained on and are like
    those to
    come. A random quarter of them chooses thresholds and the order in which they are tested on the others, by the exact
    binomial p-value of the errors among the accepted. A strict threshold and the most promising one have half of the
    allowed
    error probability each, and hand it on for as long as they pass (fallback procedure). Several limits hold at once.
    Where
    no threshold passes, all is referred, and a warning and `needed` say what it would take.

    Args:
        prediction: The prediction of inputs that the network was not trained on.
        y: The true label of each input.
        max_error: With probability `confidence`, at most this share of the accepted inputs is wrong. One number, or one
            for each tier but the last: the second is for the inputs of the first two tiers together.
        confidence: The confidence of the promise, in (0, 1).
        measure: The measure of uncertainty, or several; an input is accepted if it exceeds none of their thresholds.
        tiers: 2 (accept, refer), 3 (accept, second check, refer), or names of your own.
        costs: `{"error": 50, "refer": 1}`: the cost of a wrong accepted input (or a table, true label by predicted),
            and of an input in each later tier; `{"second check": (0.2, 0.9)}` for one that finds 90 % of the errors.
            The thresholds of the least mean cost are taken. With another choice costs only say what it would have cost.
        budget: The share of the inputs that people can see, one number for each tier but the first. With three tiers
            and one `max_error` it is the share of the last tier.
        by_label: True holds `max_error` for the inputs of every true label. `{"misses": {label: limit}, "false_alarms":
            {label: limit}}` is for some: misses are accepted inputs of that label that are called something else, as a
            share of the accepted inputs of that label; false alarms are inputs accepted as that label that are not, as
            a share of those accepted as it.
        uncertainty_threshold: Thresholds of your own, one for each tier but the last, for one measure.
        seed: Chooses the quarter.

    Returns:
        The policy, for `mc_decide()`.

    Raises:
        ValueError: For `y` of another length, with unknown labels or of one label alone, and for limits outside (0, 1).

    References:
        Angelopoulos et al. (2021), arXiv:2110.01052 (learn then test). Laufer-Goldshtein et al. (2023),
        arXiv:2210.07913 (ordering by a part of the data). Wiens and Dmitrienko (2005), Journal of Biopharmaceutical
        Statistics 15 (fallback procedure). Geifman and El-Yaniv (2017), arXiv:1705.08500 (selective risk).

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> policy = mcd.mc_triage(prediction, y, budget=0.2)
        >>> mcd.mc_decide(policy, prediction).tier.nunique()
        2
    """
    prediction = check_classes(prediction, FOR_VALUES)
    cases = CalibrationCases.of(prediction, y, check_measures(measure, prediction))
    names = tier_names(tiers)
    confidence = check_number(confidence, "confidence", above=0, below=1)
    prices = None if costs is None else CostTable.of(costs, names, cases)
    limits = _limits(max_error, by_label, names, budget is not None, cases)
    basis = _basis(bool(limits), budget is not None, uncertainty_threshold is not None, prices is not None)
    given = (basis, names, confidence, prices)
    if basis == "max_error":
        last = None if budget is None else _shares(budget, 1)[0]
        policy = with_promise(cases, limits, last, check_seed(seed), *given)
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
        thresholds = cast(CostTable, prices).cheapest(path, cases)
    return policy_of(cases, thresholds, [], None, path.curve(cases), len(cases.true), *given)


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


def _limits(
    max_error: object, by_label: object, names: tuple[str, ...], budgeted: bool, cases: CalibrationCases
) -> Limits:
    """Every limit on the error, with the place of the tier up to which it holds."""
    if max_error is None and by_label in (None, False):
        return []
    errors = [] if max_error is None else as_numbers(max_error)
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


def _label_limits(by_label: object, errors: list[float], cases: CalibrationCases) -> Limits:
    if by_label is True:
        if not errors:
            raise ValueError("`max_error` must be given with `by_label` set to true; got none.")
        given: Mapping[str, Any] = {"misses": dict.fromkeys(cases.labels, errors[0])}
    elif isinstance(by_label, Mapping) and by_label and set(by_label) <= set(KINDS):
        given = by_label
    else:
        got = quoted(by_label) if isinstance(by_label, Mapping) and by_label else shown(by_label)
        raise ValueError(f"`by_label` must be true, or limits by label for {quoted(KINDS)}; got {got}.")
    limits: Limits = []
    for kind, by in given.items():
        if not isinstance(by, Mapping) or not by:
            raise ValueError(f'`by_label` must have a limit for each label of "{kind}"; got {shown(by)}.')
        for label, limit in by.items():
            bound = check_number(limit, "by_label", above=0, below=1)
            limits.append({"tier": 0, "kind": kind, "label": cases.labels[cases.code(label)], "max_error": bound})
    return limits


def _shares(budget: float | Sequence[float], wanted: int) -> list[float]:
    shares = [check_number(one, "budget", at_least=0, at_most=1) for one in as_numbers(budget)]
    if len(shares) != wanted or sum(shares) > 1 + 1e-9:
        raise ValueError(
            f"`budget` must have {check_count(wanted, 'wanted')} numbers that sum to at most 1, one per tier but the "
            f"first; got {shown(shares)}."
        )
    return shares


def _own_thresholds(given: object, names: tuple[str, ...], cases: CalibrationCases) -> list[tuple[float, ...] | None]:
    values = [check_number(one, "uncertainty_threshold") for one in as_numbers(given)]
    if len(cases.measures) > 1:
        raise ValueError(f"`measure` must be one with `uncertainty_threshold`; got {len(cases.measures)}.")
    if len(values) != len(names) - 1 or values != sorted(values):
        raise ValueError(
            f"`uncertainty_threshold` must have {len(names) - 1} rising numbers for {len(names)} tiers; "
            f"got {shown(values)}."
        )
    return [(value,) for value in values]
