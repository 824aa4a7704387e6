"""What users hold, to rows of float32 and label codes: NumPy, tensors, tables, lists, R's doubles, factors.

Nothing large is copied: rows are cast batch by batch, when they are taken.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .checks import shown

Label = int | str | bool


def as_label(value: object) -> Label:
    """One label as a plain Python value: whole numbers to int, text to str, truth values to bool."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)) and float(value).is_integer():  # R's 3 is 3.0
        return int(value)
    if isinstance(value, str):
        return str(value)
    raise ValueError(f"A label must be a string, a whole number or a truth value; got {shown(value)}.")


def as_label_set(labels: Iterable[object], name: str = "labels") -> tuple[Label, ...]:
    """The declared labels of a model, at least two and all different, in the order given."""
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise ValueError(f"`{name}` must be a list of at least two labels; got {shown(labels)}.")
    found = tuple(as_label(label) for label in labels)
    if len(found) < 2:
        raise ValueError(f"`{name}` must be a list of at least two labels; got {shown(list(found))}.")
    texts = [str(label) for label in found]  # 3 and "3" could not be told apart once they cross languages
    twice = next((label for label in found if texts.count(str(label)) > 1), None)
    if twice is not None:
        raise ValueError(f"`{name}` must all be different; got {shown(twice)} more than once.")
    return found
