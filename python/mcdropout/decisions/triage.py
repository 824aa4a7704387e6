"""`mc_triage()`: learn which predictions are accepted, checked again, or referred to a person. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..checks import check_number, check_seed, shown, warn
from ..predictions.prediction import MCPrediction
from ..predictions.truth import check_classes
from ..predictions.uncertainty import check_measures
from .cases import CalibrationCases
from .costs import CostTable
from .learn_then_test import PolicySettings, policy_of, with_promise
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
    """Learn from labelled inputs which predictions can be accepted, and which a person should check.

    Give one of `max_error`, `budget`, `costs` and `uncertainty_threshold`. The promise of `max_error` is made by learn
    then test. It holds for any network, measure and number of accepted inputs, if the network was not trained on these
    inputs and new inputs are like them. A random quarter of the inputs chooses thresholds and their order. The others
    test them by the exact binomial p-value of the errors among the accepted inputs. A strict threshold and the most
    promising one get half of the allowed error probability each, and pass it on as long as they pass (fallback
    procedure). Several limits hold at once. If no threshold passes, all inputs are referred, and a warning and `needed`
    say what would be needed.

    Args:
        prediction: The prediction of inputs that the network was not trained on.
        y: The true label of each input.
        max_error: With probability `confidence`, at most this share of the accepted inputs is wrong. One number, or one
            for each tier but the last: the second is for the inputs of the first two tiers together.
        confidence: The confidence of the promise, in (0, 1).
        measure: The measure of uncertainty, or several; an input is accepted if it exceeds none of their thresholds.
        tiers: 2 (accept, refer), 3 (accept, second check, refer), or names of your own.
        costs: `{"error": 50, "refer": 1}`: the cost of a wrong accepted input (or a table, true label by predicted),
            and of an input in each later tier; `{"second check": (0.2, 0.9)}` for a tier that corrects 90 % of the
            errors. The thresholds have the least mean cost. Beside another argument, costs are only reported.
        budget: The share of the inputs that people can check, one number for each tier but the first. With three tiers
            and one `max_error` it is the share of the last tier.
        by_label: True holds `max_error` for the inputs of every true label. `{"misses": {label: limit}, "false_alarms":
            {label: limit}}` is for some: misses are accepted inputs of that label that are called something else, as a
            share of the accepted inputs of that label; false alarms are inputs accepted as that label that are not, as
            a share of those accepted as it.
        uncertainty_threshold: Your own thresholds, one for each tier but the last, for one measure.
        seed: Chooses the random quarter.

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
    cost_table = None if costs is None else CostTable.of(costs, names, cases)
    limits = _limits(max_error, by_label, names, budget is not None, cases)
    basis = _basis(bool(limits), budget is not None, uncertainty_threshold is not None, cost_table is not None)
    settings = PolicySettings(basis, names, confidence, cost_table)
    if basis == "max_error":
        last = None if budget is None else _shares(budget, 1)[0]
        policy = with_promise(cases, limits, last, check_seed(seed), settings)
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
        thresholds = cast(CostTable, cost_table).cheapest(path, cases)
    return policy_of(cases, thresholds, [], None, path.curve(cases), len(cases.true), settings)


def _basis(has_limits: bool, has_budget: bool, has_thresholds: bool, has_costs: bool) -> str:
    """The argument that chooses the thresholds."""
    bases = [
        name
        for name, is_given in (
            ("max_error", has_limits),
            ("budget", has_budget and not has_limits),
            ("uncertainty_threshold", has_thresholds),
        )
        if is_given
    ]
    if len(bases) > 1:
        raise ValueError(f"`{bases[0]}` and `{bases[1]}` must not both be given: each alone sets the thresholds.")
    if not bases and not has_costs:
        raise ValueError("One of `max_error`, `budget`, `costs` and `uncertainty_threshold` must be given; got none.")
    return bases[0] if bases else "costs"


def _limits(
    max_error: object, by_label: object, names: tuple[str, ...], has_budget: bool, cases: CalibrationCases
) -> Limits:
    """All limits on the error, with the position of the tier up to which each holds."""
    if max_error is None and by_label in (None, False):
        return []
    errors = [] if max_error is None else as_numbers(max_error)
    errors = [check_number(error, "max_error", above=0, below=1) for error in errors]
    n_needed = 1 if has_budget else len(names) - 1
    if has_budget and len(names) != 3:
        raise ValueError(
            "`budget` must not be given beside `max_error` but for three tiers, where it is the share of the last: "
            "with two, the limit alone says what must be referred."
        )
    if len(errors) != n_needed and not (len(errors) == 0 and n_needed == 1):
        hint = "; or `budget` says what share the last takes" if len(names) == 3 and not has_budget else ""
        numbers = "one number" if n_needed == 1 else f"{n_needed} numbers"
        raise ValueError(f"`max_error` must have {numbers} for {len(names)} tiers{hint}; got {len(errors)}.")
    if errors != sorted(errors):
        raise ValueError(f"`max_error` must not fall from tier to tier; got {shown(errors)}.")
    limits = [{"tier": tier, "kind": "wrong", "label": None, "max_error": error} for tier, error in enumerate(errors)]
    if by_label in (None, False):
        return limits
    by_labels = _label_limits(by_label, errors, cases)
    return (by_labels + limits[1:]) if by_label is True else (limits + by_labels)


def _label_limits(by_label: object, errors: list[float], cases: CalibrationCases) -> Limits:
    if by_label is True:
        if not errors:
            raise ValueError("`max_error` must be given with `by_label` set to true; got none.")
        by_kind: Mapping[str, Any] = {"misses": dict.fromkeys(cases.labels, errors[0])}
    elif isinstance(by_label, Mapping) and by_label and set(by_label) <= set(KINDS):
        by_kind = by_label
    else:
        got = quoted(by_label) if isinstance(by_label, Mapping) and by_label else shown(by_label)
        raise ValueError(f"`by_label` must be true, or limits by label for {quoted(KINDS)}; got {got}.")
    limits: Limits = []
    for kind, of_labels in by_kind.items():
        if not isinstance(of_labels, Mapping) or not of_labels:
            raise ValueError(f'`by_label` must have a limit for each label of "{kind}"; got {shown(of_labels)}.')
        for label, limit in of_labels.items():
            bound = check_number(limit, "by_label", above=0, below=1)
            limits.append({"tier": 0, "kind": kind, "label": cases.labels[cases.code(label)], "max_error": bound})
    return limits


def _shares(budget: float | Sequence[float], n_needed: int) -> list[float]:
    shares = [check_number(share, "budget", at_least=0, at_most=1) for share in as_numbers(budget)]
    if len(shares) != n_needed or sum(shares) > 1 + 1e-9:
        raise ValueError(
            f"`budget` must have {n_needed} numbers that sum to at most 1, one per tier but the "
            f"first; got {shown(shares)}."
        )
    return shares


def _own_thresholds(
    thresholds: object, names: tuple[str, ...], cases: CalibrationCases
) -> list[tuple[float, ...] | None]:
    values = [check_number(threshold, "uncertainty_threshold") for threshold in as_numbers(thresholds)]
    if len(cases.measures) > 1:
        raise ValueError(f"`measure` must be one with `uncertainty_threshold`; got {len(cases.measures)}.")
    if len(values) != len(names) - 1 or values != sorted(values):
        raise ValueError(
            f"`uncertainty_threshold` must have {len(names) - 1} rising numbers for {len(names)} tiers; "
            f"got {shown(values)}."
        )
    return [(value,) for value in values]
