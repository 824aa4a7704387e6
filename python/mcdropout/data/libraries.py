"""Whether a value belongs to a library, without importing that library."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np


def _loaded(module: str) -> ModuleType | None:
    return sys.modules.get(module)


def is_a(value: object, module: str, name: str) -> bool:
    """Whether `value` is of a class of a module, without importing that module."""
    loaded = _loaded(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def as_pandas(value: Any) -> Any:
    """A data frame of another library, such as polars, PyArrow or narwhals, as one of pandas; else `value` unchanged.

    Such frames have a protocol for exchange between libraries. A column of one has that protocol too, but no columns.
    """
    exchanged = hasattr(value, "__arrow_c_stream__") or hasattr(value, "__dataframe__")
    if not exchanged or not hasattr(value, "columns") or is_pandas(value):
        return value
    import pandas as pd

    names = list(getattr(value, "column_names", value.columns))  # PyArrow's `columns` are the columns themselves
    columns = value.columns if hasattr(value, "column_names") else [value[name] for name in names]
    table = pd.DataFrame({place: np.asarray(column) for place, column in enumerate(columns)})
    return table.set_axis(names, axis=1)


def is_pandas(value: object) -> bool:
    """Whether `value` is a container of pandas."""
    return any(is_a(value, "pandas", name) for name in ("DataFrame", "Series", "Index", "Categorical"))
