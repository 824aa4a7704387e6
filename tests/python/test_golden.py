"""The package computes the stored numbers: cases of `tests/reference/make_golden.py` and files of older versions."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
GOLDEN = json.loads((REFERENCE / "golden.json").read_text(encoding="utf-8"))
# (relative, absolute) tolerances. The stored numbers have 6 digits. Another order of float32 sums changes them by about
# 1e-5 of their size, and changes differences of large numbers by several times as much.
TOLERANCES = (1e-3, 2e-5)
# A training step moves a weight whose gradient is about 0 by up to the learning rate, 0.001. Rounding decides the
# direction. The cases have 4 steps.
TOLERANCES_AFTER_TRAINING = (1e-2, 4e-3)


sys.path.append(str(REFERENCE))
MAKE = importlib.import_module("make_golden")
CASES = dict(MAKE.cases())


def same(actual: list[object], expected: list[object], tolerances: tuple[float, float] = TOLERANCES) -> bool:
    relative, absolute = tolerances
    return len(actual) == len(expected) and all(
        value == number if isinstance(number, str) else value == pytest.approx(number, rel=relative, abs=absolute)
        for value, number in zip(actual, expected, strict=True)
    )


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_a_case_gives_the_stored_numbers(name):
    results = MAKE.computed(CASES[name])
    tolerances = TOLERANCES_AFTER_TRAINING if "trained" in name else TOLERANCES
    assert set(GOLDEN["cases"][name]) <= set(results)
    for part, expected in GOLDEN["cases"][name].items():
        actual = MAKE.rounded(results[part])
        assert same(actual, expected, tolerances), (part, actual, expected)


def test_every_case_is_stored():
    not_stored = {name for name in CASES if "float16" in name or name.startswith("keras")}
    assert set(GOLDEN["cases"]) == set(CASES) - not_stored
    assert all(GOLDEN["cases"].values())


@pytest.mark.parametrize("name", GOLDEN["saved"])
def test_a_file_of_an_older_version_loads_and_gives_the_stored_numbers(name):
    with pytest.warns(UserWarning, match="is a file of an earlier version, .* which has no checksum"):
        results = MAKE.opened(REFERENCE / "saved" / name)
    for part, expected in GOLDEN["saved"][name].items():
        actual = MAKE.rounded(results[part])
        assert same(actual, expected), (part, actual, expected)
