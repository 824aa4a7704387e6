"""Labels and target values: names, codes, one-hot rows and factors.

Neither torch nor pandas is imported unless the user has imported it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from ..checks import entries, listed, shown
from .libraries import as_pandas, is_a, is_pandas
from .rows import ArrayRows, as_numbers, check_finite, from_table, from_tensor, without_mask

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
        if "\0" in value:
            raise ValueError(f"A label must have no NUL character, which NumPy and R cannot keep; got {shown(value)}.")
        return _writable(value)
    raise ValueError(f"A label must be a string, a whole number or a truth value; got {shown(value)}.")


def as_label_set(labels: Iterable[object], name: str = "labels") -> tuple[Label, ...]:
    """The declared labels of a model, at least two and all different, in the order given."""
    listed_labels = entries(labels)
    if listed_labels is None:
        raise ValueError(f"`{name}` must be a list of at least two labels; got {shown(labels)}.")
    label_set = tuple(as_label(label) for label in listed_labels)
    if len(label_set) < 2:
        raise ValueError(f"`{name}` must be a list of at least two labels; got {shown(list(label_set))}.")
    texts = Counter(map(str, label_set))  # R cannot tell 3 from "3"
    values = Counter(label_set)  # Python cannot tell True from 1
    twice = next((label for label in label_set if texts[str(label)] > 1 or values[label] > 1), None)
    if twice is not None:
        raise ValueError(f"`{name}` must all be different; got {shown(twice)} more than once.")
    return label_set


def label_array(labels: Sequence[Label]) -> np.ndarray:
    """Labels as a NumPy array of integers, of truth values, or of strings; mixed labels become strings."""
    kinds = {type(label) for label in labels}
    if kinds == {int} or kinds == {bool}:
        return np.array(labels)
    return np.array([str(label) for label in labels])


def as_labels(
    y: object, labels: Sequence[Label] | None = None, name: str = "y"
) -> tuple[np.ndarray, tuple[Label, ...]]:
    """Position of each input's label in `labels`, (input,) int64, and the labels themselves.

    `y` has strings, whole numbers, truth values, a categorical (unused categories are allowed), or one-hot rows
    (input, label). Without `labels`, the labels are the categories, or the sorted values of `y`. With `labels`, a
    value of `y` is looked up unchanged, and then by its text, so that "3" from R matches 3.

    Raises ValueError for a missing or unknown label, naming the first input that has one.
    """
    declared = None if labels is None else as_label_set(labels)
    values, own_labels = _label_values(y, declared, name)
    for number, value in enumerate(values, start=1):
        if _is_missing(value):
            raise ValueError(f"`{name}` must have a label for every input; got none at input number {number}.")
        if value.__hash__ is None:  # a list inside a list
            raise ValueError(f"`{name}` must have one label per input; got {shown(value)} at input number {number}.")
    _refuse_mixed_kinds(values, name)
    if declared is None:
        declared = as_label_set(own_labels if own_labels is not None else _sorted(set(values)), name)
    return _codes(values, declared, name), declared


def as_targets(y: object, n_outputs: int | None, name: str = "y") -> np.ndarray:
    """Values to learn, (input, output) float64; one axis is enough where there is one output.

    `n_outputs` None takes any number of outputs.
    """
    values = as_numbers(y, name)
    columns = values[:, None] if values.ndim == 1 else values
    if columns.ndim != 2 or columns.shape[1] != (n_outputs or columns.shape[1]):
        raise ValueError(f"`{name}` must have shape (input, {n_outputs or 'output'}); got {values.shape}.")
    check_finite(ArrayRows(columns), name)
    return columns.astype(np.float64)


def _refuse_mixed_kinds(values: list[Any], name: str) -> None:
    """Refuse truth values beside numbers, because Python cannot tell True from 1."""
    kinds = [type(value) for value in values]
    if bool in kinds and {int, float} & set(kinds):
        number = kinds.index(bool)
        raise ValueError(
            f"`{name}` must not have truth values beside numbers; got {values[number]} at input number {number + 1}."
        )


def _label_values(y: Any, declared: tuple[Label, ...] | None, name: str) -> tuple[list[Any], list[Any] | None]:
    """One plain value per input, and the labels that `y` itself declares, or None."""
    y = as_pandas(y)
    if is_a(y, "pandas", "DataFrame"):
        return _from_one_hot(from_table(y, name), list(y.columns), name)
    if is_pandas(y) and hasattr(y.dtype, "categories"):
        return y.astype(object).tolist(), y.dtype.categories.tolist()
    if is_a(y, "torch", "Tensor"):
        y = from_tensor(y, name)
    try:
        y = without_mask(y)
        values = np.asarray(y, dtype=_object_if_list(y))
    except Exception as error:  # the user's classes may fail in any way
        raise ValueError(f"`{name}` must have one label per input; got {shown(y)}.") from error
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        columns = declared or tuple(range(values.shape[1]))
        if values.shape[1] != len(columns):
            raise ValueError(
                f"`{name}` must have one column per label ({len(columns)}) if it has one-hot rows; "
                f"got {values.shape[1]} columns."
            )
        return _from_one_hot(values, list(columns), name)
    if values.ndim != 1:
        raise ValueError(f"`{name}` must have one label per input; got shape {values.shape}.")
    return values.tolist(), None


def _from_one_hot(rows: np.ndarray, columns: list[Any], name: str) -> tuple[list[Any], list[Any]]:
    if 0 in rows.shape:
        raise ValueError(f"`{name}` must hold at least one input; got shape {rows.shape}.")
    try:
        rows = rows.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must have one label per input, or rows of 0 and 1; got {shown(rows)}.") from error
    bad = ((rows != 0) & (rows != 1)).any(axis=1) | (rows.sum(axis=1) != 1)
    if bad.any():
        raise ValueError(
            f"`{name}` must have one 1 and otherwise 0 in every one-hot row; "
            f"got {shown(rows[bad.argmax()].tolist())} at input number {bad.argmax() + 1}."
        )
    return [columns[i] for i in rows.argmax(axis=1)], columns


def _codes(values: list[Any], declared: tuple[Label, ...], name: str) -> np.ndarray:
    exact: dict[Any, int] = {label: code for code, label in enumerate(declared)}
    by_text: dict[str | None, int] = {str(label): code for code, label in enumerate(declared)}
    codes = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        code = exact.get(value)
        if code is None:
            code = by_text.get(_text(value))
            if code is None:
                raise ValueError(
                    f"`{name}` must hold labels out of {listed(declared)}; got {shown(value)} at input number {i + 1}."
                )
            exact[value] = code
        codes[i] = code
    return codes


def _text(value: object) -> str | None:
    """The value as text; None for objects that have none."""
    whole = isinstance(value, float) and value.is_integer()
    try:
        return _writable(str(int(cast(float, value)) if whole else value))
    except Exception:  # the user's classes may fail in any way
        return None


def _writable(text: str) -> str:
    """The text with escapes for what UTF-8 cannot write, as in a folder's name in another encoding."""
    return text.encode(errors="backslashreplace").decode()


def _sorted(labels: Iterable[Any]) -> list[Any]:
    labels = list(labels)
    return sorted(labels, key=str) if len({type(label) for label in labels}) > 1 else sorted(labels)


def _is_missing(value: object) -> bool:
    if value is None or isinstance(value, float):
        return value is None or value != value
    return type(value).__name__ in ("NAType", "NaTType")


def _object_if_list(y: object) -> type | None:
    return object if isinstance(y, (list, tuple)) else None  # so that ["a", 1] keeps its 1
