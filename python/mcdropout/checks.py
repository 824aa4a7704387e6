"""Argument checks: every wording that a user can see about a plain argument, and the exception classes.

Each check returns the value in the form the rest of the package relies on, or raises one sentence:
the argument, what it must be, what came. `R/checks.R` says the same sentences; a bridge test compares them.
"""

from __future__ import annotations

import math
import numbers
import secrets
from collections.abc import Sequence

MAX_SEED = 2**53 - 1  # the largest whole number that R's doubles hold exactly


class NoStochasticSites(ValueError):
    """The model has nothing to sample: no dropout with a rate above 0."""


class IdenticalDraws(ValueError):
    """Every draw came out the same, so the spread would say nothing."""


class OutOfMemory(MemoryError):
    """What was asked for does not fit in memory."""


class UnreadableFile(ValueError):
    """A file that is not ours, is cut short, or was written by a newer version."""


def shown(value: object) -> str:
    """`value` as it appears in a message: strings in double quotes, long values shortened."""
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_count(value: object, name: str, at_least: int = 1) -> int:
    """A whole number of at least `at_least`; 50.0 is one, True is not."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        if value == int(value) and value >= at_least:
            return int(value)
    raise ValueError(f"`{name}` must be a whole number of at least {at_least}; got {shown(value)}.")


def check_number(
    value: object,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """A finite number within the bounds that are given."""
    bounds = [
        (f"above {above}", lambda v: v > above) if above is not None else None,
        (f"of at least {at_least}", lambda v: v >= at_least) if at_least is not None else None,
        (f"below {below}", lambda v: v < below) if below is not None else None,
        (f"at most {at_most}", lambda v: v <= at_most) if at_most is not None else None,
    ]
    wanted = [bound for bound in bounds if bound is not None]
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        if all(holds(value) for _, holds in wanted):
            return float(value)
    words = " and ".join(words for words, _ in wanted)
    raise ValueError(f"`{name}` must be a number {words}".rstrip() + f"; got {shown(value)}.")


def check_flag(value: object, name: str) -> bool:
    """True or False, nothing that merely counts as such."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"`{name}` must be true or false; got {shown(value)}.")


def check_choice(value: object, name: str, choices: Sequence[str]) -> str:
    """One of the words in `choices`."""
    if isinstance(value, str) and value in choices:
        return value
    words = ", ".join(f'"{choice}"' for choice in choices)
    raise ValueError(f"`{name}` must be one of {words}; got {shown(value)}.")


def check_seed(value: object, name: str = "seed") -> int:
    """A whole number from 0 to 2^53 - 1; None draws one, without touching any global generator."""
    if value is None:
        return secrets.randbelow(2**31)
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        if value == int(value) and 0 <= value <= MAX_SEED:
            return int(value)
    raise ValueError(f"`{name}` must be a whole number from 0 to 2^53 - 1; got {shown(value)}.")


def check_length(got: int, name: str, wanted: int, of: str) -> None:
    """Two arguments that must be of one length."""
    if got != wanted:
        raise ValueError(f"`{name}` must be as long as `{of}` ({wanted}); got length {got}.")
