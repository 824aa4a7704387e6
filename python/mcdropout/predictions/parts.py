"""Checks of the parts of an object, when it is built and when it is opened from a file. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from ..checks import check_number, check_seed, listed, shown
from ..data.labels import Label, as_label_set, label_array
from ..errors import UnreadableFile

# what parts that do not fit together raise
DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError)

OLDER_LACK = ("temperature",)  # the parts that files of the first version do not have


@contextmanager
def opening(kind: str, cls: type, names: Iterable[str], may_lack: Iterable[str] = ()) -> Iterator[None]:
    """A context in which an object of a class is built from the parts in a file, which have these names.

    Parts that do not fit raise UnreadableFile with the sentence of the check that refused them.

    may_lack: the parts that a file may lack, as those of older versions do.
    """
    try:
        given, known = set(names), {field.name for field in fields(cls) if field.init}
        unknown, lacking = sorted(given - known), sorted(known - given - set(may_lack))
        if unknown or lacking:
            what = f"unknown parts, {listed(unknown)}" if unknown else f"no {listed(lacking)}"
            raise ValueError(f"it has {what}.")
        yield
    except UnreadableFile:
        raise
    except DAMAGED as error:
        sentence = f": {error}" if str(error).endswith(".") else "."  # other words are those of a library
        raise UnreadableFile(
            f"`path` must be a file as mc_save() writes it; got a {kind} whose parts do not fit{sentence}"
        ) from error


def as_tuple(value: object, name: str) -> tuple[Any, ...]:
    """A list of a file as a tuple; a string is no list."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"`{name}` must be a list; got {shown(value)}.")
    return tuple(value)


def as_array(values: object, name: str, dtype: type[np.int64 | np.float64]) -> np.ndarray:
    """A list of numbers of a file as an array."""
    kinds = (int,) if dtype is np.int64 else (int, float)
    numbers = as_tuple(values, name)
    if not all(isinstance(number, kinds) and not isinstance(number, bool) for number in numbers):
        raise ValueError(
            f"`{name}` must be a list of {'whole ' if dtype is np.int64 else ''}numbers; got {shown(values)}."
        )
    return np.array(numbers, dtype)


def as_table(columns: object, name: str, dtypes: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """A table from lists of equal lengths, by name; pandas finds the types that `dtypes` does not give."""
    if not isinstance(columns, Mapping) or not all(isinstance(values, list) for values in columns.values()):
        raise ValueError(f"`{name}` must have a list for each column; got {shown(columns)}.")
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError(f"`{name}` must have columns of equal lengths; got {[*map(len, columns.values())]}.")
    dtypes = dtypes or {}
    for column, dtype in dtypes.items():  # pandas would make text and numbers truth values
        kinds = {np.bool_: (bool, np.bool_), object: (object,)}.get(dtype, (int, float, np.number, type(None)))
        if not all(isinstance(value, kinds) for value in columns.get(column, ())):
            raise ValueError(f"`{name}.{column}` must be of one type; got {shown(columns[column])}.")
    return pd.DataFrame({column: pd.Series(values, dtype=dtypes.get(column)) for column, values in columns.items()})


def check_text(value: object, name: str) -> None:
    """A string."""
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be text; got {shown(value)}.")


def check_names(names: object, name: str, at_least: int = 1) -> None:
    """A tuple of different strings that are not empty."""
    are_names = isinstance(names, tuple) and all(isinstance(each, str) and each for each in names)
    if not isinstance(names, tuple) or not are_names or len(set(names)) < max(len(names), at_least):
        raise ValueError(f"`{name}` must be at least {at_least} different names; got {shown(names)}.")


def check_label_set(labels: object, name: str = "labels") -> None:
    """A tuple of at least two different labels."""
    if not isinstance(labels, tuple):
        raise ValueError(f"`{name}` must be a tuple of at least two labels; got {shown(labels)}.")
    as_label_set(labels, name)


def check_temperature(temperature: object) -> None:
    """The temperature of a prediction; older files have none."""
    if temperature is not None:
        check_number(temperature, "temperature", above=0)


def check_given_seed(seed: object) -> None:
    """A seed that is given, not drawn."""
    if seed is None:
        raise ValueError("`seed` must be a whole number from 0 to 2^53 - 1; got none.")
    check_seed(seed)


def check_array(
    values: object,
    name: str,
    shape: tuple[int, ...] | None = None,
    *,
    least: float | None = None,
    most: float | None = None,
    whole: bool = False,
    finite: bool = False,
) -> None:
    """An array of numbers, of this shape and within these bounds. NaN is within all bounds unless `finite` is true."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        got = values.dtype if isinstance(values, np.ndarray) else shown(values)
        raise ValueError(f"`{name}` must be an array of numbers; got {got}.")
    if whole and not (values == np.floor(values)).all():  # R counts in floating point
        raise ValueError(f"`{name}` must hold whole numbers only; got {shown(values[values != np.floor(values)][0])}.")
    if shape is not None and values.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}; got {values.shape}.")
    if not values.size:
        return
    # reductions take no memory; fmin and fmax leave out NaN
    with np.errstate(invalid="ignore"):
        lowest, highest = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
    if least is not None and lowest < least:
        raise ValueError(f"`{name}` must hold numbers of at least {least:g}; got {lowest:g}.")
    if most is not None and highest > most:
        raise ValueError(f"`{name}` must hold numbers of at most {most:g}; got {highest:g}.")
    if finite and not np.isfinite(values).all():
        raise ValueError(f"`{name}` must hold finite numbers only; got NaN or infinity.")


def check_table(table: object, name: str, columns: Sequence[str]) -> None:
    """A table that has these columns."""
    if not isinstance(table, pd.DataFrame) or not set(columns) <= set(table.columns):
        got = listed(list(table.columns)) if isinstance(table, pd.DataFrame) else shown(table)
        raise ValueError(f"`{name}` must be a table with the columns {listed(columns)}; got {got}.")


def check_column(table: pd.DataFrame, name: str, column: str, **bounds: Any) -> None:
    """A column of numbers within bounds, as for `check_array()`. A table without rows has no types."""
    if len(table):
        check_array(table[column].to_numpy(), f"{name}.{column}", **bounds)


def agree(holds: object, name: str, wanted: str) -> None:
    """Refuse a part that does not agree with the others."""
    if not bool(holds):
        raise ValueError(f"`{name}` must {wanted}.")


def codes_of(values: np.ndarray, labels: Sequence[Label], name: str) -> np.ndarray:
    """The position of each label among `labels`, in the shape of `values`."""
    names = pd.Index(label_array(labels))
    codes = names.get_indexer(pd.Index(values.ravel().astype(names.to_numpy().dtype, copy=False)))
    if (codes < 0).any():
        unknown = values.ravel()[codes.argmin()]
        raise ValueError(f"`{name}` must hold labels out of {listed(labels)}; got {shown(unknown)}.")
    return codes.reshape(values.shape).astype(np.int64)
