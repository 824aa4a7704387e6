"""`mc_triage()`: learn which predictions are accepted, checked again, or sent to a person. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import as_list, check_level, check_number, check_seed, shown, warn
from ..predictions.prediction import MCPrediction
from ..predictions.truth import check_classes
from ..predictions.uncertainty import check_measures
from .cases import CalibrationCases
from .costs import CostTable
from .learn_then_test import PolicySettings, policy_of, policy_with_promise
from .policy import Limits, MCPolicy, quoted, tier_names

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

    Give one of `max_error`, `budget`, `costs` and `uncertainty_threshold`. With `max_error` the guarantee follows the
    learn-then-test method. It holds for every network, every measure and every number of accepted inputs, if the
    calibration inputs were not used in training and are like the new inputs. A random quarter of them is used to choose
    thresholds and the order of their tests. The other inputs test each threshold with the exact binomial p-value of the
    errors among the accepted inputs, from strict to lax. A strict threshold and the most promising one each get half of
    the allowed error probability, and pass it on as long as the tests succeed (fallback procedure). Several limits hold
    at the same time. If no threshold passes, all inputs are referred. A warning and the policy's `needed` then say how
    many inputs would be needed.

    Args:
        prediction: The prediction of inputs that the network was not trained on.
        y: The true label of each input.
        max_error: Largest share of wrong cases among the accepted cases, which holds with probability `confidence`. One
            number, or one for each tier but the last: the second number is for the cases of the first two tiers
            together.
        confidence: The confidence of the guarantee, in (0, 1).
        measure: One or several measures of uncertainty. With several, an input is accepted if it exceeds none of their
            thresholds.
        tiers: 2 (accept, refer), 3 (accept, second check, refer), or your own names of the tiers.
        costs: `{"error": 50, "refer": 1}`: the cost of a wrong accepted case (or a table, true label by predicted
            label) and of a case in each later tier. `{"second check": (0.2, 0.9)}` is a check with cost 0.2 that finds
            90 % of the errors. The thresholds minimise the mean cost. If other arguments set the thresholds, the costs
            are only used to report the mean cost.
        budget: Share of the inputs that people can see, one number for each tier but the first. With three tiers and
            one `max_error`, it is the share of the last tier.
        by_label: True: `max_error` holds for the inputs of every true label. Or limits for some labels,
            `{"misses": {label: limit}, "false_alarms": {label: limit}}`. A miss is an accepted input of this label that
            is predicted as another label; its share is of the accepted inputs of this label. A false alarm is an input
            that is accepted as this label but has another label; its share is of the inputs accepted as this label.
        uncertainty_threshold: Your own thresholds for a single measure, one for each tier but the last.
        seed: Seed of the split of the calibration inputs.

    Returns:
        The policy, for `mc_decide()`.

    Raises:
        ValueError: If `y` has another length, unknown labels or only one label, or if a limit lies outside (0, 1).

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
    confidence = check_level(confidence, "confidence")
    cost_table = None if costs is None else CostTable.of(costs, names, cases)
    limits = _limits(max_error, by_label, names, budget is not None, cases)
    basis = _basis(bool(limits), budget is not None, uncertainty_threshold is not None, cost_table is not None)
    settings = PolicySettings(basis, names, confidence, cost_table)
    if basis == "max_error":
        last_share = None if budget is None else _shares(budget, 1)[0]
        policy = policy_with_promise(cases, limits, last_share, check_seed(seed), settings)
        if policy.needed is not None:
            warn(policy.needed)
        return policy
    path = cases.path()
    if basis == "budget":
        shares = _shares(budget, len(names) - 1)
        thresholds = [path.within(sum(shares[place:])) for place in range(len(shares))]
    elif basis == "uncertainty_threshold":
        thresholds = _own_thresholds(uncertainty_threshold, names, cases)
    else:
        assert cost_table is not None  # `_basis` returns "costs" only if costs are given
        thresholds = cost_table.cheapest(path)
    return policy_of(cases, thresholds, path.curve(cases), settings)


def _basis(has_limits: bool, has_budget: bool, has_thresholds: bool, has_costs: bool) -> str:
    """The argument that sets the thresholds; a budget beside limits only sets the last tier."""
    set_by = {
        "max_error": has_limits,
        "budget": has_budget and not has_limits,
        "uncertainty_threshold": has_thresholds,
    }
    names = [name for name, is_given in set_by.items() if is_given]
    if len(names) > 1:
        raise ValueError(f"`{names[0]}` and `{names[1]}` must not both be given: each of them sets the thresholds.")
    if not names and not has_costs:
        raise ValueError("One of `max_error`, `budget`, `costs` and `uncertainty_threshold` must be given; got none.")
    return names[0] if names else "costs"


def _limits(
    max_error: object, by_label: object, names: tuple[str, ...], has_budget: bool, cases: CalibrationCases
) -> Limits:
    """Every limit on the error, with the place of the last tier that it covers."""
    if max_error is None and (by_label is None or by_label is False):
        return []
    errors = [] if max_error is None else as_list(max_error)
    errors = [check_number(error, "max_error", above=0, below=1) for error in errors]
    n_errors = 1 if has_budget else len(names) - 1
    if has_budget and len(names) != 3:
        raise ValueError(
            "`budget` must not be given with `max_error` unless there are three tiers, where it is the share of the "
            "last tier: with two tiers, `max_error` sets the share that is referred."
        )
    if len(errors) != n_errors and not (len(errors) == 0 and n_errors == 1):
        hint = "; or `budget` sets the share of the last tier" if len(names) == 3 and not has_budget else ""
        numbers = "one number" if n_errors == 1 else f"{n_errors} numbers"
        raise ValueError(f"`max_error` must have {numbers} for {len(names)} tiers{hint}; got {len(errors)}.")
    if errors != sorted(errors):
        raise ValueError(f"`max_error` must not fall from tier to tier; got {shown(errors)}.")
    limits = [{"tier": tier, "kind": "wrong", "label": None, "max_error": error} for tier, error in enumerate(errors)]
    if by_label is None or by_label is False:
        return limits
    label_limits = _label_limits(by_label, errors, cases)
    return (label_limits + limits[1:]) if by_label is True else (limits + label_limits)


def _label_limits(by_label: object, errors: list[float], cases: CalibrationCases) -> Limits:
    """The limits for single labels, all on the first tier."""
    if by_label is True:
        if not errors:
            raise ValueError("`max_error` must be given with `by_label` set to true; got none.")
        limits_of: Mapping[str, Any] = {"misses": dict.fromkeys(cases.labels, errors[0])}
    elif isinstance(by_label, Mapping) and by_label and set(by_label) <= set(KINDS):
        limits_of = by_label
    else:
        got = quoted(by_label) if isinstance(by_label, Mapping) and by_label else shown(by_label)
        raise ValueError(f"`by_label` must be true, or limits by label for {quoted(KINDS)}; got {got}.")
    limits: Limits = []
    for kind, bounds in limits_of.items():
        if not isinstance(bounds, Mapping) or not bounds:
            raise ValueError(f'`by_label` must have a limit for each label of "{kind}"; got {shown(bounds)}.')
        for label, bound in bounds.items():
            max_error = check_number(bound, "by_label", above=0, below=1)
            limits.append({"tier": 0, "kind": kind, "label": cases.labels[cases.code(label)], "max_error": max_error})
    return limits


def _shares(budget: object, n_shares: int) -> list[float]:
    """The budget as one share for each tier but the first."""
    shares = [check_number(share, "budget", at_least=0, at_most=1) for share in as_list(budget)]
    if len(shares) != n_shares or sum(shares) > 1 + 1e-9:
        raise ValueError(
            f"`budget` must have one number for each tier but the first, {n_shares} in all, with a sum of at most 1; "
            f"got {shown(shares)}."
        )
    return shares


def _own_thresholds(
    thresholds: object, names: tuple[str, ...], cases: CalibrationCases
) -> list[tuple[float, ...] | None]:
    values = [check_number(threshold, "uncertainty_threshold") for threshold in as_list(thresholds)]
    if len(cases.measures) > 1:
        raise ValueError(f"`measure` must be a single measure with `uncertainty_threshold`; got {len(cases.measures)}.")
    if len(values) != len(names) - 1 or values != sorted(values):
        raise ValueError(
            f"`uncertainty_threshold` must have one number for each tier but the last, {len(names) - 1} in all, in "
            f"rising order; got {shown(values)}."
        )
    return [(value,) for value in values]
