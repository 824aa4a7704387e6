"""What the checks of plain arguments take and refuse, and how values are shown in messages."""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mcdropout as mcd
from mcdropout import checks

untyped: Any = mcd  # its arguments may have any type


def test_a_long_text_is_shown_by_both_ends():
    path = "photographs/of/" + "deep/" * 20 + "image.png"
    assert checks.shown(path) == '"photographs/of/deep/deep/deep/deep/de...eep/deep/deep/deep/deep/deep/image.png"'
    assert len(checks.shown(path)) == 80
    assert checks.shown("a" * 10**6) == f'"{"a" * 37}...{"a" * 38}"'


def test_any_other_long_value_is_shown_by_its_start():
    assert checks.shown(list(range(100))) == repr(list(range(100)))[:77] + "..."


def _fail(*_: object) -> None:
    raise RuntimeError("no")


fail: Any = _fail


class Broken(str):
    """Text of which everything fails."""

    __repr__ = __len__ = __str__ = __format__ = __eq__ = fail
    __hash__ = str.__hash__


class BrokenObject:
    __repr__ = __len__ = __str__ = fail

    @property
    def shape(self):
        raise RuntimeError("no")


def test_every_value_is_shown_in_one_line_of_at_most_80_characters():
    recursive: list = []
    recursive.append(recursive)
    for value, text in {
        "two\nlines\r\u2028\x1b[31m": r'"two\nlines\r\u2028\x1b[31m"',
        "half of a pair \udcff": r'"half of a pair \udcff"',
        Broken("text"): '"text"',
        10**5000: "int that cannot be shown",
        10**400: "1" + "0" * 76 + "...",
        None: "None",
    }.items():
        assert checks.shown(value) == text
    for value, text in [
        (np.zeros((2, 2)), "ndarray of shape (2, 2)"),
        (np.arange(3), "array([0, 1, 2])"),
        (np.array(3), "array(3)"),
        (np.arange(99), "ndarray of shape (99,)"),
        (torch.zeros(4, 5, 6), "Tensor of shape (4, 5, 6)"),
        (pd.DataFrame({"a": [1]}), "DataFrame of shape (1, 1)"),
        (BrokenObject(), None),
        ([BrokenObject()], None),
        ([Broken("text")], None),
        (recursive, "[[[[[[[...]]]]]]]"),
        (["\udcff\n"], r"['\udcff\n']"),
        (dict.fromkeys(range(10**6)), None),
        (b"\n" * 10**6, None),
        (Decimal("0.5"), "Decimal('0.5')"),
    ]:
        shown = checks.shown(value)
        assert len(shown) <= 80
        assert shown.isprintable()
        assert text is None or shown == text


def test_a_number_is_taken_from_every_type_of_numbers_and_from_no_other():
    for value in (2, 2.0, np.int8(2), np.uint64(2), np.float16(2), np.longdouble(2)):
        assert checks.check_count(value, "n") == 2
        assert type(checks.check_count(value, "n")) is int
        assert type(checks.check_number(value, "n")) is float
    for value in (True, np.True_, "2", Decimal(2), Fraction(2), np.array(2), torch.tensor(2), 2j, None, b"2", [2]):
        with pytest.raises(
            ValueError, match=re.escape(f"`n` must be a whole number of at least 1; got {checks.shown(value)}.")
        ):
            checks.check_count(value, "n")
        with pytest.raises(ValueError, match=re.escape(f"`n` must be a number; got {checks.shown(value)}.")):
            checks.check_number(value, "n")


def test_numbers_that_no_float_holds_are_refused():
    with pytest.raises(ValueError, match=r"`share` must be a number at most 1; got 1000.*\.\.\."):
        checks.check_number(10**400, "share", at_most=1)
    with pytest.raises(ValueError, match=r"`n` must be a whole number of at most 2\^53 - 1; got 1000.*\.\.\."):
        checks.check_count(10**400, "n")
    with pytest.raises(ValueError, match=r"`seed` must be a whole number from 0 to 2\^53 - 1; got int that cannot"):
        checks.check_seed(10**5000)
    assert checks.check_count(2**53 - 1, "n") == 2**53 - 1


def test_a_flag_may_be_a_truth_value_of_numpy():
    assert checks.check_flag(np.True_, "flag") is True
    with pytest.raises(ValueError, match="`flag` must be true or false; got 1"):
        checks.check_flag(1, "flag")


class OddPath:
    def __fspath__(self):
        return b"bytes"


@pytest.mark.parametrize("path", ["", b"a.png", 5, None, True, ["a.png"], "a\0.png", OddPath(), np.array("a")])
def test_what_is_no_path_is_refused(path):
    message = re.escape(f"`path` must be a path; got {checks.shown(path)}.")
    with pytest.raises(ValueError, match=message):
        checks.check_path(path)
    with pytest.raises(ValueError, match=message):
        mcd.mc_save(mcd.mc_mlp(2, ["a", "b"], hidden=1), path)
    if path is not None:  # which means no file
        with pytest.raises(ValueError, match=message):
            mcd.mc_plot_balance(["a", "b"], path=path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": b"ab"}, "`hidden` must be a whole number of at least 1; got b'ab'."),
        ({"hidden": {3, 4}}, "`hidden` must be a whole number of at least 1; got {3, 4}."),
        ({"hidden": np.array(2.5)}, "`hidden` must be a whole number of at least 1; got array(2.5)."),
        ({"hidden": [3, None]}, "`hidden` must be a whole number of at least 1; got None."),
        ({"dropout": np.array(0.5)}, "`dropout` must be a number of at least 0 and below 1; got array(0.5)."),
        ({"dropout": {0.5}}, "`dropout` must be a number of at least 0 and below 1; got {0.5}."),
        ({"dropout": 10**400}, "`dropout` must be a number of at least 0 and below 1; got 1000"),
    ],
)
def test_what_is_no_list_of_numbers_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mcd.mc_mlp(2, labels=["a", "b"], **arguments)


class BrokenList(list):
    __repr__ = __len__ = __iter__ = fail


def test_arguments_that_are_no_list_no_text_and_no_level_are_refused_in_one_sentence(tmp_path):
    net, x, y = mcd.mc_mlp(4, ["a", "b"], hidden=3), np.random.default_rng(0).normal(size=(6, 4)), ["a", "b"] * 3
    classes = mcd.mc_predict(net, x, n_samples=3, seed=1, progress=False)
    values = mcd.mc_predict(mcd.mc_mlp(4, task="regression", hidden=3), x, n_samples=3, seed=1, progress=False)
    bayes = mcd.mc_bayes_mlp(4, ["a", "b"], hidden=2)
    tensor, table, report = torch.tensor(3), pd.DataFrame({"a": [1]}), tmp_path / "report.html"
    for call, message in [
        (
            lambda: untyped.mc_sampler(net, x, labels=tensor),
            "A label must be a string, a whole number or a truth value; got",
        ),
        (
            lambda: untyped.mc_triage(classes, y, max_error=0.1, by_label=table),
            "`by_label` must be true, or limits by label",
        ),
        (
            lambda: untyped.mc_plot_risk_coverage(untyped.mc_scores(classes, y), measures=tensor),
            "`measures` must be one of",
        ),
        (lambda: untyped.mc_report(classes, measure="", path=report), "`measure` must be one of"),
        (lambda: untyped.mc_report(classes, measure=table, path=report), "`measure` must be one of"),
        (
            lambda: untyped.mc_weights_table(bayes, level=1 - 1e-16),
            "`level` must be at least 1e-12 below 1; got 0.99",
        ),
        (lambda: untyped.mc_prior_mixture(tensor, (1, 1)), "`scales` must be a number above 0; got tensor(3)."),
        (
            lambda: untyped.mc_to_bayesian(net, layers=tensor),
            "`layers` must name linear layers or convolutions of `model`",
        ),
        (lambda: untyped.mc_predict(net, x, outputs=pd.NA), '`outputs` is known for this model, "'),
        (lambda: untyped.mc_plot_band(values, range(6), x_label=5), "`x_label` must be a string; got 5."),
        (lambda: untyped.mc_plot_band(values, [10**400] * 6), '`x` must be one number per input; got "list".'),
        (
            lambda: untyped.mc_scores(classes, [BrokenObject()] * 6),
            '`y` must hold labels out of "a", "b"; got <BrokenObject',
        ),
        (lambda: untyped.mc_scores(classes, BrokenList()), "`y` must have one label per input; got <BrokenList"),
        (lambda: untyped.mc_plot_balance(y, path="a" * 300 + "/b.png"), "`path` must be in a folder that exists; got"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
            call()
        assert str(caught.value).isprintable()
