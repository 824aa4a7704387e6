"""What is opened is checked like what is built: each part of each kind of object, by hand and by random damage."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mcdropout as mcd
from mcdropout.errors import UnreadableFile
from mcdropout.files import TEXTS


@dataclass(repr=False)
class Case:
    """An object that was learnt, its use, and the state that its file holds."""

    learnt: Any
    use: Callable[[Any], object]

    def state(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.learnt.to_state()))

    def opened(self, state: dict[str, Any]) -> Any:
        return type(self.learnt).from_state(state)


@pytest.fixture(scope="module")
def cases(example_classes, example_values) -> dict[str, Case]:
    prediction, y = example_classes(200)
    values, observed = example_values(60)

    def decide(policy: mcd.MCPolicy) -> None:
        policy.words()
        mcd.mc_decide(policy, prediction)

    def apply(learnt: Any) -> None:
        learnt.words()
        mcd.mc_apply(learnt, prediction if learnt.labels else values)

    def update(monitor: mcd.MCMonitor) -> None:
        monitor.words()
        monitor.update(prediction if monitor.labels else values).words()

    monitor = mcd.mc_monitor(prediction).update(prediction[:30], name="Monday").update(prediction[30:35])
    alarmed = mcd.mc_monitor(values, measure="std", false_alarm_rate=0.5)
    for _ in range(3):
        alarmed.update(replace(values, variance=values.variance * 40))
    assert alarmed.drift
    return {
        "policy with a promise": Case(mcd.mc_triage(prediction, y, max_error=0.5, tiers=3, budget=0.1), decide),
        "policy by cost": Case(mcd.mc_triage(prediction, y, costs={"error": 5, "refer": 1}), decide),
        "policy by budget": Case(
            mcd.mc_triage(prediction, y, budget=[0.1, 0.2], tiers=3, measure=["std", "predictive_entropy"]), decide
        ),
        "calibration": Case(mcd.mc_calibrate(prediction, y), apply),
        "conformal sets": Case(mcd.mc_conformal(prediction, y, method="raps"), apply),
        "conformal sets by label": Case(mcd.mc_conformal(prediction, y, by_label=True), apply),
        "conformal intervals": Case(mcd.mc_conformal(values, observed, method="cqr"), apply),
        "monitor": Case(monitor, update),
        "monitor with an alarm": Case(alarmed, update),
    }


KINDS = [
    "policy with a promise", "policy by cost", "policy by budget", "calibration", "conformal sets",
    "conformal sets by label", "conformal intervals", "monitor", "monitor with an alarm",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_an_object_gives_an_equal_object(cases, kind):
    case = cases[kind]
    state = case.state()
    assert plain(case.opened(state).to_state()) == state


NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "part", "value", "sentence"),
    [
        ("calibration", "temperature", -1, "`temperature` must be a number above 0; got -1."),
        ("calibration", "temperature", 0, "`temperature` must be a number above 0; got 0."),
        ("calibration", "temperature", NAN, "`temperature` must be a number above 0; got nan."),
        ("calibration", "log_loss_after", 1e3, "`log_loss_after` must be a number at most"),
        ("conformal sets", "method", "nope", '`method` must be one of "lac", "aps", "raps"; got "nope".'),
        ("conformal sets", "method", "cqr", '`method` must be one of "lac", "aps", "raps"; got "cqr".'),
        ("conformal sets", "level", -5, "`level` must be a number above 0 and below 1; got -5."),
        ("conformal sets", "limits", [NAN], "`limits` must be a number of at least -0.01; got nan."),
        ("conformal sets", "limits", [None], "`limits` must be none where there are too few inputs"),
        ("conformal sets", "limits", [0.5, 0.5], "`limits` must be one, or with `by_label` one per label."),
        ("conformal sets by label", "limits", [0.5], "`limits` must be one, or with `by_label` one per label."),
        ("conformal sets", "n_inputs", [200, 3], "`n_inputs` must be as long as `limits` (1); got length 2."),
        ("policy by cost", "thresholds", [[float("inf")]], "`thresholds` must be a number; got inf."),
        ("policy by cost", "thresholds", [[NAN]], "`thresholds` must be a number; got nan."),
        ("policy by cost", "thresholds", [[1, 2]], "`thresholds` must have 1 rows of 1 thresholds"),
        ("policy by budget", "thresholds", [[0.9, 0.9], [0.8, 0.9]], "`thresholds` must not fall from tier to tier."),
        ("policy by cost", "tiers", "ab", '`tiers` must be a list; got "ab".'),
        ("policy by cost", "tiers", ["a", "a"], "`tiers` must be at least 2 different names; got ('a', 'a')."),
        ("policy by cost", "tiers", ["a", "b"], "`outcome.tier` must be the tiers, in their order."),
        ("policy by cost", "confidence", 7, "`confidence` must be a number above 0 and below 1; got 7."),
        ("policy by cost", "measures", ["std2"], "`measures` must be one of"),
        ("policy by cost", "surprise", 1, 'it has unknown parts, "surprise".'),
        ("monitor", "false_alarm_rate", 2, "`false_alarm_rate` must be a number above 0 and below 1; got 2."),
        ("monitor", "n_bins", 0, "`n_bins` must be a whole number of at least 2; got 0."),
        ("monitor", "log_capital", [1e308] * 12, "`log_capital` must give the evidence of the last batch."),
        ("monitor", "n_seen", 34, "`counts` must sum to `n_seen`."),
        ("monitor", "measure", "total_std", "`measure` must be one of"),
        ("monitor with an alarm", "alarm_input", None, "`since_input` must not be after `alarm_input`."),
        ("monitor with an alarm", "since_input", 10**9, "`since_input` must not be after `alarm_input`."),
    ],
)  # fmt: skip
def test_a_part_that_cannot_be_is_refused_with_its_sentence(cases, kind, part, value, sentence):
    case = cases[kind]
    with pytest.raises(UnreadableFile, match="must be a file as mc_save.. writes it; got a .* do not fit: ") as refused:
        case.opened({**case.state(), part: value})
    assert sentence in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_without_one_of_its_parts_is_refused(cases, kind):
    case = cases[kind]
    for part in case.state():
        state = case.state()
        del state[part]
        if part == "temperature" and kind != "calibration":  # files of the first version have none
            assert case.opened(state).temperature is None
        else:
            with pytest.raises(UnreadableFile, match=f'whose parts do not fit: it has no "{part}".'):
                case.opened(state)


def test_building_refuses_what_opening_refuses(cases):
    for kind, part, value in [
        ("calibration", "temperature", -1.0), ("conformal sets", "level", -5.0), ("policy by cost", "confidence", 7.0),
        ("monitor", "n_bins", 0),
    ]:  # fmt: skip
        parts = {name: getattr(cases[kind].learnt, name) for name in cases[kind].state()}
        with pytest.raises(ValueError, match=f"`{part}` must be"):
            type(cases[kind].learnt)(**{**parts, part: value})


def test_a_probability_that_rounding_makes_more_than_one_gives_a_limit(example_classes):
    prediction, _ = example_classes(30)
    mean = np.zeros_like(prediction.mean)
    mean[:, 0], mean[::2, 1] = 1.0000001, 1.0000001
    mean[::2, 0] = 0
    labels = np.array(prediction.labels)[mean.argmax(axis=1)]
    assert mcd.mc_conformal(replace(prediction, mean=mean), labels).limits[0] == pytest.approx(-1e-7)


def test_what_was_changed_in_place_is_not_written(example_classes, tmp_path):
    prediction, y = example_classes(60)
    monitor, policy = mcd.mc_monitor(prediction), mcd.mc_triage(prediction, y, budget=0.2)
    monitor.n_bins = 0
    policy.outcome.loc[0, "n"] = 7
    prediction.mean[0] = 7
    for changed, part in ((monitor, "n_bins"), (policy, "outcome.wrong"), (prediction, "mean")):
        with pytest.raises(ValueError, match=f"`{part}` must"):
            mcd.mc_save(changed, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


# Random damage --------------------------------------------------------------------------------------------

odd = st.one_of(
    st.sampled_from([None, True, False, -1, 0, 1, 2, 7, 0.5, 10**400, 1e308, -1e308, NAN, "", "x", [], {}]),
    st.floats(), st.integers(), st.text(max_size=3), st.lists(st.floats(0, 1), max_size=3),
)  # fmt: skip


def damage(data: st.DataObject, part: Any) -> Any:
    """The part with one value of it replaced, left out, or repeated."""
    if isinstance(part, (list, dict)) and part and data.draw(st.integers(0, 3)):
        place = data.draw(st.sampled_from(range(len(part)) if isinstance(part, list) else sorted(part)))
        if isinstance(part, list) and data.draw(st.booleans()):
            return part[:place] + (part[place:][:1] * 2 if data.draw(st.booleans()) else []) + part[place + 1 :]
        changed = copy.copy(part)
        changed[place] = damage(data, part[place])
        return changed
    return data.draw(odd)


def plain(value: Any) -> Any:
    """A state as JSON gives it back, with None for NaN."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if value != value else value


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_gives_an_equal_object_that_works(cases, kind, data):
    case = cases[kind]
    state = case.state()
    part = data.draw(st.sampled_from(sorted(state)))
    state[part] = damage(data, state[part])
    try:
        opened = case.opened(copy.deepcopy(state))
    except UnreadableFile:
        return
    assert plain(opened.to_state()) == plain(state)
    with suppress(ValueError):  # it may be of another network now
        case.use(opened)


def test_every_kind_of_text_is_tested(cases):
    assert {type(case.learnt) for case in cases.values()} == set(TEXTS.values())


# Predictions ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictions(example_classes, example_values) -> dict[str, mcd.MCPrediction]:
    classes, _ = example_classes(9, ids=np.array([f"case {i}" for i in range(9)]))
    values, _ = example_values(9)
    draws = classes.samples.copy()
    draws[3:, 2] = np.nan
    fewer = replace(classes, samples=draws, n_samples=np.where(np.arange(9) == 2, 3, len(draws)))
    return {"classes": classes, "values": values, "fewer draws": fewer}


@pytest.mark.parametrize(
    ("which", "part", "value", "sentence"),
    [
        ("classes", "mean", lambda old: np.where(old > 0.5, 7, old), "`mean` must hold numbers of at most 1"),
        ("classes", "mean", lambda old: old / 2, "`mean` must hold probabilities that sum to 1."),
        ("classes", "mean", lambda old: old[:, :3], "`labels` must be as long as `the last axis of mean` (3)"),
        ("classes", "samples", lambda old: old - 1, "`samples` must hold numbers of at least -0.01; got -"),
        ("classes", "samples", lambda old: old[:5], "`samples` must hold as many draws of each input"),
        ("fewer draws", "n_samples", lambda old: old * 0 + 6, "`samples` must hold as many draws of each input as"),
        ("classes", "n_samples", lambda _: 0, "`n_samples` must be a whole number of at least 2; got 0."),
        ("classes", "level", lambda _: 9, "`level` must be a number above 0 and below 1; got 9."),
        ("classes", "labels", lambda old: old[:1] * 4, "`labels` must all be different"),
        ("classes", "labels", lambda _: "abcd", '`labels` must be a list; got "abcd".'),
        ("classes", "task", lambda _: "regression", "`labels` must be left out where `task` is \"regression\"."),
        ("classes", "confidence", lambda old: old.astype(str), "`confidence` must be an array of numbers; got <U"),
        ("classes", "confidence", lambda old: old[:, None], "`confidence` must have shape (9,); got (9, 1)."),
        ("classes", "predicted", lambda old: old + 4, "`predicted` must hold numbers of at most 3; got "),
        ("classes", "masks", lambda _: "none", '`masks` must be one of "shared", "per_input"; got "none".'),
        ("classes", "ids", lambda old: old[1:], "`ids` must be as long as `mean` (9); got length 8."),
        ("classes", "surprise", lambda _: 1, 'it has unknown parts, "surprise".'),
        ("values", "variance", lambda old: -old, "`variance` must hold numbers of at least 0; got -"),
        ("values", "lower", lambda old: old + 1e3, "`lower` must not be above `upper`."),
        ("values", "temperature", lambda _: -1, "`temperature` must be a number above 0; got -1."),
    ],
)  # fmt: skip
def test_a_part_of_a_prediction_that_cannot_be_is_refused(predictions, which, part, value, sentence):
    arrays, facts = predictions[which].to_state()
    state = arrays if part in arrays else facts
    state[part] = value(state.get(part))
    with pytest.raises(UnreadableFile, match="got a prediction whose parts do not fit: ") as refused:
        mcd.MCPrediction.from_state(arrays, facts)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("which", ["classes", "values", "fewer draws"])
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_of_a_prediction_is_refused_or_gives_an_equal_prediction(predictions, which, data):
    arrays, facts = predictions[which].to_state()
    part = data.draw(st.sampled_from(sorted([*arrays, *facts])))
    if part in arrays:
        arrays[part] = damage_array(data, arrays[part])
    else:
        facts[part] = damage(data, facts[part])
    try:
        opened = mcd.MCPrediction.from_state(arrays, facts)
    except UnreadableFile:
        return
    again, facts_again = opened.to_state()
    assert list(again) == [name for name in again if name in arrays]
    for name, values in again.items():
        np.testing.assert_array_equal(values, arrays[name])
    for state in (facts, facts_again):  # text of an id that is no whole number
        state["ids"] = [str(each) for each in state.get("ids") or ()]
    assert plain(facts_again) == {name: value for name, value in plain(facts).items() if value is not None}
    repr(opened)
    opened.to_pandas()


def damage_array(data: st.DataObject, values: np.ndarray) -> np.ndarray:
    """The array with one number replaced, a part left out, or another type or shape."""
    number = data.draw(st.sampled_from([-7.0, -0.5, 0.0, 0.3, 1.0, 7.0, NAN, float("inf")]))
    changed = values.astype(np.float64)
    changed[(0,) * values.ndim] = number
    ways = [changed, values[1:], values[..., None], values.astype(str), values.T, values.ravel(), values[:0]]
    return ways[data.draw(st.integers(0, len(ways) - 1))]


def test_a_prediction_whose_label_is_none_of_its_labels_is_refused(predictions):
    odd_label = replace(predictions["classes"], predicted=np.array(["zebra"] * 9))
    for use in (odd_label.to_state, lambda: mcd.mc_scores(odd_label, ["label 1", "label 2", "label 0"] * 3)):
        with pytest.raises(ValueError, match='`predicted` must hold labels out of .*; got "zebra"'):
            use()
