"""The argument checks of R and of Python give the same message for the same wrong value."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from mcdropout import checks, mc_cnn

# A check in both languages, with its settings.
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

WRONG = [
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
def messages_of_r(rscript) -> list[str]:
    """The message of R for each of WRONG."""
    calls = [check[1].format(json.dumps(value)) for check, value in WRONG]
    messages = [f"message_of(mcdropout:::{call})" for call in calls]
    message_of = "message_of <- function(code) tryCatch({code; 'accepted'}, error = conditionMessage)"
    return json.loads(rscript(f"{message_of}; cat(jsonlite::toJSON(c({', '.join(messages)})))"))


def message_of(check: Callable[[object], object], value: object) -> str:
    with pytest.raises(ValueError, match="must be") as error:
        check(value)
    return str(error.value)


@pytest.mark.parametrize("case", range(len(WRONG)), ids=lambda i: f"{WRONG[i][0][1].split('(')[0]}-{WRONG[i][1]!s:.10}")
def test_r_gives_the_same_message(case, messages_of_r):
    check, value = WRONG[case]
    assert messages_of_r[case] == message_of(check[0], value)


def test_r_does_not_change_the_message_of_a_python_error(robjects):
    with pytest.raises(ValueError, match="large enough") as error:
        mc_cnn((4, 4, 1), labels=["a", "b"])
    message = robjects.r('tryCatch(mc_cnn(c(4, 4, 1), c("a", "b")), error = conditionMessage)')
    assert message[0] == str(error.value)
