"""What R says at its door is what the core says: the same sentence for the same bad value."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from mcdropout import checks

# A check in both languages, with the settings it is called with.
COUNT = (lambda v: checks.check_count(v, "n"), "as_count({}, 'n')")
COUNT_OF_2 = (lambda v: checks.check_count(v, "n", at_least=2), "as_count({}, 'n', at_least = 2)")
LEVEL = (lambda v: checks.check_number(v, "level", above=0, below=1), "as_number({}, 'level', above = 0, below = 1)")
RATE = (lambda v: checks.check_number(v, "rate", at_least=0, below=1), "as_number({}, 'rate', at_least = 0, below = 1)")
SHARE = (lambda v: checks.check_number(v, "share", at_most=0.5), "as_number({}, 'share', at_most = 0.5)")
ANY = (lambda v: checks.check_number(v, "shift"), "as_number({}, 'shift')")
FLAG = (lambda v: checks.check_flag(v, "keep"), "as_flag({}, 'keep')")
CHOICE = (lambda v: checks.check_choice(v, "masks", ["shared", "own"]), "as_choice({}, c('shared', 'own'), 'masks')")
SEED = (lambda v: checks.check_seed(v), "as_seed({}, 'seed')")
LENGTH = (lambda v: checks.check_length(v, "y", 7, "x"), "check_length({}, 'y', 7, 'x')")

BAD = [
    *((COUNT, value) for value in (0, -1, 2.5, "a", "", "{x}", 0.001, "x" * 200)),
    *((COUNT_OF_2, value) for value in (1, -3.5, "2")),
    *((LEVEL, value) for value in (0, 1, 95, -0.25, "0.9")),
    *((RATE, value) for value in (1, -0.5, "half")),
    *((SHARE, value) for value in (0.75, "a")),
    *((ANY, value) for value in ("a", "")),
    *((FLAG, value) for value in (1, 0, "yes")),
    *((CHOICE, value) for value in ("Shared", "", 3, "a {b}")),
    *((SEED, value) for value in (-1, 2.5, "a", 2**53)),
    *((LENGTH, value) for value in (6, 8)),
]


@pytest.fixture(scope="module")
def said_by_r(rscript) -> list[str]:
    """R's sentence for each of BAD."""
    calls = [check[1].format(json.dumps(value)) for check, value in BAD]
    lines = [f"say(mcdropout:::{call})" for call in calls]
    say = "say <- function(code) tryCatch({code; 'accepted'}, error = conditionMessage)"
    return json.loads(rscript(f"{say}; cat(jsonlite::toJSON(c({', '.join(lines)})))"))


def sentence(check: Callable[[object], object], value: object) -> str:
    with pytest.raises(ValueError, match="must be") as error:
        check(value)
    return str(error.value)


@pytest.mark.parametrize("case", range(len(BAD)), ids=lambda i: f"{BAD[i][0][1].split('(')[0]}-{BAD[i][1]!s:.10}")
def test_r_says_the_same_sentence(case, said_by_r):
    check, value = BAD[case]
    assert said_by_r[case] == sentence(check[0], value)


def test_python_errors_reach_r_as_they_are(robjects):
    import mcdropout

    with pytest.raises(ValueError, match="large enough") as error:
        mcdropout.mc_cnn((4, 4, 1), labels=["a", "b"])
    said = robjects.r('tryCatch(mc_cnn(c(4, 4, 1), c("a", "b")), error = conditionMessage)')
    assert said[0] == str(error.value)
