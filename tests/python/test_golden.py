"""What the package computes stays what it was: cases of `tests/reference/make_golden.py`, files of older versions."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
GOLDEN = json.loads((REFERENCE / "golden.json").read_text(encoding="utf-8"))
# Numbers are kept with 6 digits. Sums of float32 in another order move them by about 1e-5 of their size, differences of
# large numbers by some times that. A step of training moves a weight whose gradient is about 0 by up to its rate,
# 0.001, in a direction that rounding decides: there are 4 steps.
CLOSE = {"rel": 1e-3, "abs": 2e-5}
AFTER_TRAINING = {"rel": 1e-2, "abs": 4e-3}


def _make_golden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_golden", REFERENCE / "make_golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_golden"] = module
    spec.loader.exec_module(module)
    return module


MAKE = _make_golden()
CASES = dict(MAKE.cases())


def same(found: list[object], wanted: list[object], close: dict[str, Any] = CLOSE) -> bool:
    return len(found) == len(wanted) and all(
        one == other if isinstance(other, str) else one == pytest.approx(other, **close)
        for one, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_a_case_gives_the_numbers_of_before(name):
    found = MAKE.computed(CASES[name])
    close = AFTER_TRAINING if "trained" in name else CLOSE
    assert set(GOLDEN["cases"][name]) <= set(found)
    for part, wanted in GOLDEN["cases"][name].items():
        assert same(MAKE.rounded(found[part]), wanted, close), (part, MAKE.rounded(found[part]), wanted)


def test_every_case_is_held():
    left_out = {name for name in CASES if "float16" in name or name.startswith("keras")}
    assert set(GOLDEN["cases"]) == set(CASES) - left_out
    assert all(GOLDEN["cases"].values())


@pytest.mark.parametrize("name", GOLDEN["saved"])
def test_a_file_of_an_older_version_opens_and_means_the_same(name):
    found = MAKE.opened(REFERENCE / "saved" / name)
    for part, wanted in GOLDEN["saved"][name].items():
        assert same(MAKE.rounded(found[part]), wanted), (part, MAKE.rounded(found[part]), wanted)
