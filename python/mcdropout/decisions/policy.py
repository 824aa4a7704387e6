"""A policy: its thresholds, its promises, and its description in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from ..checks import as_whole_number, check_choice, check_count, check_number, check_seed, entries, shown
from ..data.labels import Label
from ..predictions.parts import (
    OLDER_LACK,
    agree,
    as_table,
    as_tuple,
    check_column,
    check_label_set,
    check_names,
    check_table,
    check_temperature,
    check_text,
    opening,
)
from ..predictions.prediction import Array
from ..predictions.uncertainty import CLASS_MEASURES

TIERS = {2: ("accept", "refer"), 3: ("accept", "second check", "refer")}

BASES = ("max_error", "budget", "costs", "uncertainty_threshold")

TABLES = {
    "outcome": ("tier", "n", "share", "wrong", "error", "upper_bound"),
    "promises": ("tier", "kind", "label", "max_error", "n", "wrong", "upper_bound", "kept"),
    "curve": ("coverage", "n", "wrong"),
}

DTYPES = {"label": object, "error": np.float64, "upper_bound": np.float64}  # those that pandas could not tell

Limits = list[dict[str, Any]]  # each: kind ("wrong", "misses", "false_alarms"), label (or None), max_error


@dataclass(frozen=True, repr=False)
class MCPolicy:
    """A triage policy, which `mc_triage()` returns and `mc_decide()` applies: thresholds, and what they are based on.

    An input belongs to the first tier whose thresholds it does not exceed in any measure.

    Attributes:
        thresholds: One row for each tier but the last, one column for each measure; a row of None accepts no input.
        measures: The measures of uncertainty.
        tiers: The names of the tiers.
        basis: What the thresholds were chosen for: "max_error", "budget", "costs" or "uncertainty_threshold".
        promises: One row for each limit on the error, with the result on the test inputs: `n` accepted, `wrong` of
            them, the exact upper bound at the confidence of that limit, and whether the limit is `kept`.
        outcome: One row for each tier: the result on all calibration inputs, with `upper_bound` if labels were not used
            to choose the thresholds.
        curve: The thresholds that were considered, with coverage and errors. With `max_error` also their p-values on
            the test inputs and the levels of their tests (0: not tested).
        needed: What would be needed for a promise that could not be given.
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
    temperature: float | None = None  # of the calibration prediction; None in older files

    def __post_init__(self) -> None:
        """Refuse parts of another type or range than `mc_triage()` gives, and parts that do not fit together."""
        check_choice(self.basis, "basis", BASES)
        check_names(self.tiers, "tiers", at_least=2)
        check_names(self.measures, "measures")
        for measure in self.measures:
            check_choice(measure, "measures", tuple(CLASS_MEASURES))
        check_label_set(self.labels)
        check_number(self.confidence, "confidence", above=0, below=1)
        check_count(self.n_inputs, "n_inputs")
        agree(check_count(self.n_test, "n_test") <= self.n_inputs, "n_test", "not be more than `n_inputs`")
        if self.seed is not None:
            check_seed(self.seed)
        if self.mean_cost is not None:
            check_number(self.mean_cost, "mean_cost")
        if self.needed is not None:
            check_text(self.needed, "needed")
        check_temperature(self.temperature)
        _check_thresholds(self)
        _check_tables(self)

    @property
    def guaranteed(self) -> bool:
        """Whether the policy has promises, and all of them are kept."""
        return len(self.promises) > 0 and bool(self.promises["kept"].all())

    def words(self) -> str:
        """The tiers, the promises and the number of inputs that they are based on, as text."""
        return "\n".join(_policy_words(self))

    def __repr__(self) -> str:
        return self.words()

    def to_state(self) -> dict[str, Any]:
        """The content of a file, in types that JSON has."""
        self.__post_init__()  # what was changed in place since must not give a file that cannot be opened
        state = {name: getattr(self, name) for name in self.__dataclass_fields__}
        tables = {name: _plain(state[name]) for name in ("outcome", "promises", "curve")}
        rows = [None if row is None else list(row) for row in self.thresholds]
        lists = {name: list(state[name]) for name in ("tiers", "measures", "labels")}
        return {**state, **tables, **lists, "thresholds": rows}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MCPolicy:
        """The policy from the result of `to_state()`."""
        with opening("policy", cls, state, OLDER_LACK):
            tables = {name: as_table(state[name], name, DTYPES) for name in TABLES}
            rows = [
                None if row is None else as_tuple(row, "thresholds")
                for row in as_tuple(state["thresholds"], "thresholds")
            ]
            tuples = {name: as_tuple(state[name], name) for name in ("tiers", "measures", "labels")}
            return cls(**{**state, **tables, **tuples, "thresholds": tuple(rows)})


def _check_thresholds(policy: MCPolicy) -> None:
    """One row of finite thresholds for each tier but the last, one threshold for each measure, none that falls."""
    n_rows, n_columns, rows = len(policy.tiers) - 1, len(policy.measures), policy.thresholds
    fit = isinstance(rows, tuple) and len(rows) == n_rows
    fit = fit and all(row is None or (isinstance(row, tuple) and len(row) == n_columns) for row in rows)
    agree(
        fit, "thresholds", f"have {n_rows} rows of {n_columns} thresholds: for each tier but the last, and each measure"
    )
    given = [[check_number(number, "thresholds") for number in row] for row in rows if row is not None]
    agree((np.diff(given, axis=0) >= 0).all() if given else True, "thresholds", "not fall from tier to tier")


def _check_tables(policy: MCPolicy) -> None:
    """Tables of counts and shares that belong to the same inputs as the rest."""
    for name, columns in TABLES.items():
        table = getattr(policy, name)
        check_table(table, name, (*policy.measures, *columns) if name == "curve" else columns)
        for column in {"n", "wrong"} & set(columns):
            check_column(table, name, column, least=0, whole=True)
        for column in {"share", "error", "upper_bound", "max_error", "coverage"} & set(columns):
            check_column(table, name, column, least=0, most=1)
        agree((table["wrong"] <= table["n"]).all(), f"{name}.wrong", "not be more than `n`")
        agree((table["n"] <= policy.n_inputs).all(), f"{name}.n", "not be more than `n_inputs`")
    outcome, promises = policy.outcome, policy.promises
    agree(tuple(outcome["tier"]) == policy.tiers, "outcome.tier", "be the tiers, in their order")
    agree(outcome["n"].sum() == policy.n_inputs, "outcome.n", "sum to `n_inputs`")
    shares = {"share": outcome["n"] / policy.n_inputs, "error": outcome["wrong"] / outcome["n"].where(outcome["n"] > 0)}
    for column, values in shares.items():
        agree(np.allclose(outcome[column], values, equal_nan=True), f"outcome.{column}", "be a quotient of its counts")
    for measure in policy.measures:
        check_column(policy.curve, "curve", measure, finite=True)
    agree(promises["tier"].isin(policy.tiers[:-1]).all(), "promises.tier", "be tiers, but not the last")
    agree(promises["kind"].isin(("wrong", "misses", "false_alarms")).all(), "promises.kind", "be kinds of errors")
    for kind, label in zip(promises["kind"], promises["label"], strict=True):
        agree(
            label is None if kind == "wrong" else label in policy.labels,
            "promises.label",
            "be a label, or none for all",
        )
    kept = (promises["upper_bound"] <= promises["max_error"] + 1e-12).tolist()
    agree(promises["kept"].tolist() == kept, "promises.kept", "say whether the bound is within the limit")


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
        limits = [limit for limit in policy.promises.to_dict(orient="records") if limit["kept"]]
        if not limits:
            return missing
        promises = "; ".join(limit_words(limit, policy.tiers) for limit in limits)
        results = "; ".join(
            f"{limit['wrong']} of {limit['n']}{of_label(limit)} wrong, bound {_percent(limit['upper_bound'])}"
            for limit in limits
        )
        return [
            *missing,
            f"Promise: with {_percent(policy.confidence)} confidence, {promises}.",
            f"It rests on {policy.n_test} calibration inputs that had no part in choosing what to test: {results}.",
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


def limit_words(limit: Mapping[str, Any], tiers: Sequence[str] = ()) -> str:
    """A limit on errors in words."""
    share = _percent(limit["max_error"])
    if limit["kind"] == "misses":
        return f"at most {share} of the accepted inputs that are {shown(limit['label'])} are called something else"
    if limit["kind"] == "false_alarms":
        return f"at most {share} of the inputs accepted as {shown(limit['label'])} are something else"
    if tiers and limit["tier"] != tiers[0]:
        return f'at most {share} of those up to "{limit["tier"]}" are wrong'
    return f"at most {share} of the accepted are wrong"


def of_label(limit: Mapping[str, Any]) -> str:
    """The words for the inputs of the limit's label; empty if the limit is for all labels."""
    if limit["kind"] == "wrong":
        return ""
    return f" {'that are' if limit['kind'] == 'misses' else 'as'} {shown(limit['label'])}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def reasons(policy: MCPolicy, uncertainties: Array, places: Array) -> list[str]:
    """The reason for each input's tier: the thresholds of the tier before that it exceeds, or its own in the first."""
    texts = [
        [f"{name} {value:.4g}" for value in column]
        for name, column in zip(policy.measures, uncertainties.T, strict=True)
    ]
    return [
        _reason(policy, uncertainties[i], [text[i] for text in texts], int(place))
        for i, place in enumerate(places.tolist())
    ]


def _reason(policy: MCPolicy, uncertainty: Array, texts: list[str], place: int) -> str:
    above = None if place == 0 else policy.thresholds[place - 1]
    if place > 0 and above is None:
        return f'no threshold for "{policy.tiers[place - 1]}"'
    if place == 0:
        row = cast("tuple[float, ...]", policy.thresholds[0])
        return " and ".join(f"{text} is at most {limit:.4g}" for text, limit in zip(texts, row, strict=True))
    limits = cast("tuple[float, ...]", above)
    over = [
        f"{text} is above {limit:.4g}"
        for text, limit, value in zip(texts, limits, uncertainty, strict=True)
        if value > limit
    ]
    return " and ".join(over)


def tier_names(tiers: object) -> tuple[str, ...]:
    """The names of the tiers, from a number or from names."""
    number = as_whole_number(tiers)
    if number in TIERS:
        return TIERS[number]
    names = tuple(entries(tiers) or ())
    if len(names) < 2 or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ValueError(f"`tiers` must be 2, 3 or at least two different names; got {shown(tiers)}.")
    return names


def quoted(words: Iterable[object]) -> str:
    """Words in quotation marks."""
    return ", ".join(shown(str(word)) for word in words)


def _plain(table: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns as lists of plain values, with None for NaN."""
    columns = {str(name): table[name].tolist() for name in table.columns}
    return {name: [None if value != value else value for value in values] for name, values in columns.items()}


def promise_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The promises as a table, from one mapping for each."""
    return as_table({name: [row[name] for row in rows] for name in TABLES["promises"]}, "promises", DTYPES)
