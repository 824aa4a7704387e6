"""Checks of plain arguments.

Each check returns the value in the type that the package works with, or raises an error of one sentence: the argument,
what it must be, what it is. `R/checks.R` uses the same sentences; a bridge test compares them.
"""

from __future__ import annotations

import io
import math
import operator
import os
import reprlib
import secrets
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SKIPPED_PACKAGES = (__name__.partition(".")[0], "contextlib")  # a warning never points at their lines

MAX_SEED = 2**53 - 1  # the largest whole number that R's doubles hold exactly

LEAST_ALPHA = 1e-12  # the least probability that may be left beside a level

MOST_SHOWN = 80  # characters of a value in a message

SHORT = reprlib.Repr()  # its texts are cut after `MOST_SHOWN`; it reads no more of a value than that may need
SHORT.maxlist = SHORT.maxtuple = SHORT.maxset = SHORT.maxfrozenset = SHORT.maxdict = SHORT.maxarray = MOST_SHOWN
SHORT.maxdeque = SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 2 * MOST_SHOWN

WITHOUT_ORDER = (str, bytes, bytearray, memoryview, set, frozenset, dict, io.IOBase)  # their entries are no list


def warn(text: str) -> None:
    """Warn, with the line outside this package that made the call as the place of the warning."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in SKIPPED_PACKAGES:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def shown(value: object) -> str:
    """`value` as it appears in a message: one line of at most 80 characters, strings in double quotes."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return _shown_text(str.__str__(value))
    shape = _shape(value)
    try:
        text = SHORT.repr(value)
    except Exception:  # the user's classes may fail in any way
        return f"{type(value).__name__} that cannot be shown"
    if shape and (len(text) > MOST_SHOWN or "\n" in text):
        text = f"{type(value).__name__} of shape {shape}"
    text = _printable(" ".join(text.split()) if "\n" in text else text)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def _shown_text(text: str) -> str:
    if len(text) > 4 * MOST_SHOWN:  # a long text is not copied as a whole
        text = text[: 2 * MOST_SHOWN] + text[-2 * MOST_SHOWN :]
    text = f'"{_printable(text)}"'
    return text if len(text) <= MOST_SHOWN else f"{text[:38]}...{text[-39:]}"  # the end of a path names the file


def _printable(text: str) -> str:
    """The text with escapes for what ends a line or cannot be written, such as half of a surrogate pair."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def _shape(value: object) -> tuple[int, ...]:
    """The shape of an array, a tensor or a table; () for anything else."""
    try:
        return tuple(int(size) for size in value.shape)  # type: ignore[attr-defined]  # else it fails
    except Exception:  # the user's classes may fail in any way
        return ()


def entries(value: object) -> list[Any] | None:
    """The entries of a list or of anything else that has an order; None for one value, as for text and for a set."""
    if (
        isinstance(value, WITHOUT_ORDER)
        or not isinstance(value, Iterable)
        or getattr(value, "is_nested", False) is True
    ):
        return None
    try:
        return list(value)
    except TypeError:  # an array without axes
        return None


def as_list(value: object) -> list[Any]:
    """One value or several, as a list."""
    values = entries(value)
    return [value] if values is None else values


def as_whole_number(value: object) -> int | None:
    """`value` as an int if it is a whole number of any type, such as 50.0; else, as for True, None."""
    number = as_real_number(value)
    return int(number) if number is not None and number == int(number) else None


def as_real_number(value: object) -> int | float | None:
    """`value` as a Python number if it is a finite number of any type; else, as for True, None."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    number = int(value) if isinstance(value, (int, np.integer)) else float(value)
    return number if isinstance(number, int) or math.isfinite(number) else None


def check_count(value: object, name: str, at_least: int = 1) -> int:
    """A whole number of at least `at_least`."""
    number = as_whole_number(value)
    if number is None or number < at_least:
        raise ValueError(f"`{name}` must be a whole number of at least {at_least}; got {shown(value)}.")
    if number > MAX_SEED:
        raise ValueError(f"`{name}` must be a whole number of at most 2^53 - 1; got {shown(value)}.")
    return number


def check_number(
    value: object,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """A finite number within the bounds that are not None."""
    number = as_real_number(value)
    words: list[str] = []
    fits = number is not None and abs(number) <= sys.float_info.max
    for bound, text, holds in (
        (above, "above", operator.gt),
        (at_least, "of at least", operator.ge),
        (below, "below", operator.lt),
        (at_most, "at most", operator.le),
    ):
        if bound is not None:
            words.append(f"{text} {bound}")
            fits = fits and number is not None and holds(number, bound)
    if number is None or not fits:
        wanted = " ".join(["a number", " and ".join(words)]).strip()
        raise ValueError(f"`{name}` must be {wanted}; got {shown(value)}.")
    return float(number)


def check_level(value: object, name: str) -> float:
    """A probability between 0 and 1, of which 1 minus it has digits enough."""
    level = check_number(value, name, above=0, below=1)
    if 1 - level < LEAST_ALPHA:
        raise ValueError(f"`{name}` must be at least {LEAST_ALPHA:g} below 1; got {shown(value)}.")
    return level


def check_text(value: object, name: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string; got {shown(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise ValueError(f"`{name}` must be text that UTF-8 can hold; got {shown(value)}.") from error
    return value


def check_flag(value: object, name: str) -> bool:
    """True or False, and no value that Python only treats as true or false."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ValueError(f"`{name}` must be true or false; got {shown(value)}.")


def check_choice(value: object, name: str, choices: Sequence[str]) -> str:
    """One of the words in `choices`."""
    if isinstance(value, str) and value in choices:
        return value
    words = ", ".join(f'"{choice}"' for choice in choices)
    raise ValueError(f"`{name}` must be one of {words}; got {shown(value)}.")


def listed(labels: Sequence[object]) -> str:
    """Labels in words, the first ten of them."""
    words = ", ".join(map(shown, labels[:10]))
    return words if len(labels) <= 10 else f"{words} and {len(labels) - 10} more"


def check_seed(value: object, name: str = "seed") -> int:
    """A whole number from 0 to 2^53 - 1; None draws one, without touching any global generator."""
    if value is None:
        return secrets.randbelow(2**31)
    number = as_whole_number(value)
    if number is not None and 0 <= number <= MAX_SEED:
        return number
    raise ValueError(f"`{name}` must be a whole number from 0 to 2^53 - 1; got {shown(value)}.")


def check_path(value: object, name: str = "path") -> Path:
    """The name of a file or folder."""
    try:
        text = os.fspath(value)  # type: ignore[call-overload]  # else it fails
        os.fsencode(text)
    except Exception:  # the user's classes may fail in any way
        text = None
    if isinstance(text, str) and text and "\0" not in text:
        return Path(text)
    raise ValueError(f"`{name}` must be a path; got {shown(value)}.")


def check_length(got: int, name: str, wanted: int, of: str) -> None:
    """Check that an argument is as long as another; `of` names the other."""
    if got != wanted:
        raise ValueError(f"`{name}` must be as long as `{of}` ({wanted}); got length {got}.")
