"""Rows of numbers: NumPy arrays, tensors, tables, lists and R's doubles as float32 rows.

Large arrays are not copied: rows are cast batch by batch, when they are taken. Neither torch nor pandas is imported
unless the user has imported it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from ..checks import shown
from .libraries import as_pandas, is_a, is_pandas

if TYPE_CHECKING:
    import torch

PIECE = 1 << 18  # numbers that are checked at once: 2 MB of doubles stay in cache

LARGEST = float(np.finfo(np.float32).max)


@runtime_checkable
class Rows(Protocol):
    """Inputs that are taken a batch at a time: an array in memory, or files that are read on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes, inputs first."""
        ...

    def take(self, index: slice | np.ndarray) -> np.ndarray:
        """The selected inputs, float32, C-contiguous and writable."""
        ...


class ArrayRows:
    """Rows of an array of any numeric type and memory order; the array is never copied or cast at once.

    columns: the names of a table's columns, if they are words and all different.
    """

    def __init__(self, values: np.ndarray, columns: Sequence[object] = ()) -> None:
        self.values = values
        words = tuple(column for column in columns if isinstance(column, str))
        self.columns = words if len(set(words)) == len(columns) else ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes, inputs first."""
        return self.values.shape

    def take(self, index: slice | np.ndarray) -> np.ndarray:
        """The selected inputs, float32, C-contiguous and writable."""
        rows = np.ascontiguousarray(self.values[index], dtype=np.float32)
        # An axis of size 1 may have any stride. Torch chooses a memory format, and so the last bits, by the strides.
        rows = rows.reshape(-1).reshape(rows.shape)
        return rows if rows.flags.writeable else rows.copy()  # torch does not accept read-only memory


def as_rows(x: object, name: str = "x") -> Rows:
    """Rows of an array, tensor, data frame, nested list or image files, with inputs along the first axis.

    Raises ValueError if there are no inputs, and TypeError if they are not numbers.
    """
    x = as_pandas(x)
    columns = list(cast(Any, x).columns) if is_a(x, "pandas", "DataFrame") else ()
    rows = cast(Rows, x) if _is_rows(x) else ArrayRows(as_numbers(x, name), columns)
    if len(rows.shape) == 0:
        raise ValueError(f"`{name}` must have a first axis of inputs; got a single number.")
    if 0 in rows.shape:
        raise ValueError(f"`{name}` must hold at least one input; got shape {tuple(rows.shape)}.")
    return rows


def doubles(rows: Rows, index: slice | np.ndarray) -> np.ndarray:
    """A copy of the selected inputs in float64, with all their digits."""
    values = rows.values[index] if isinstance(rows, ArrayRows) else rows.take(index)
    return np.array(values, dtype=np.float64, order="C")


def row_names_of(x: object) -> Any | None:
    """The index of the first table among the inputs, unless the index only counts from 0."""
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple) else (x,)
    for part in parts:
        if is_a(part, "pandas", "DataFrame") or is_a(part, "pandas", "Series"):
            index = cast(Any, part).index
            if not (is_a(index, "pandas", "RangeIndex") and (index.start, index.step) == (0, 1)):
                return index
    return None


def columns_of(rows: Rows) -> tuple[str, ...]:
    """The names of a table's columns; () where it has none."""
    return rows.columns if isinstance(rows, ArrayRows) else ()


def in_order(rows: Rows, columns: Sequence[str], name: str = "x") -> Rows:
    """A table with its columns in the order of `columns`; rows without column names do not change.

    Raises ValueError if the column names differ.
    """
    names = columns_of(rows)
    if not names or not columns or names == tuple(columns):
        return rows
    unknown = next((name for name in names if name not in columns), None)
    missing = next((name for name in columns if name not in names), None)
    if unknown is not None or missing is not None:
        got = f"no {shown(missing)}" if missing is not None else f"also {shown(unknown)}"
        raise ValueError(f"`{name}` must have the columns that `model` was trained on, in any order; got {got}.")
    assert isinstance(rows, ArrayRows)
    return ArrayRows(rows.values[:, [names.index(column) for column in columns]], columns)


def check_finite(rows: Rows, name: str = "x") -> None:
    """Refuse NaN, infinite values, and values too large for float32; the error names the first such input.

    Files are not opened: their pixels are always finite.
    """
    if not isinstance(rows, ArrayRows) or rows.values.dtype.kind != "f":
        return
    values = rows.values
    if _all_finite(values):
        return
    step = max(PIECE // max(values[0].size, 1), 1)
    for start in range(0, len(values), step):
        piece = values[start : start + step].reshape(len(values[start : start + step]), -1)
        bad = ~(np.abs(piece.astype(np.float64)) <= LARGEST)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"`{name}` must hold finite numbers only; got {_named(float(piece[row, column]))} "
                f"in input number {start + row + 1} of {len(values)}."
            )


def _is_rows(x: object) -> bool:
    if isinstance(x, (np.ndarray, list, tuple)) or is_a(x, "torch", "Tensor"):
        return False
    return not is_pandas(x) and not isinstance(x, ModuleType) and isinstance(x, Rows)


def as_numbers(x: Any, name: str) -> np.ndarray:
    """The numbers of an array, tensor, table or list as an array; `name` is the argument in messages."""
    x = as_pandas(x)
    if is_a(x, "pandas", "DataFrame"):
        return from_table(x, name)
    if is_a(x, "pandas", "Series") and x.dtype.kind in "buif":
        return from_table(x.to_frame(), name)[:, 0]
    try:
        values = from_tensor(x, name) if is_a(x, "torch", "Tensor") else np.asarray(without_mask(x))
    except ValueError as error:  # NumPy on lists of unequal lengths
        raise ValueError(f"`{name}` must be an array of one shape; got lists of unequal lengths.") from error
    if values.dtype.kind not in "buif":
        raise TypeError(f"`{name}` must hold numbers; got {_kind(x, values)}.")
    return values


def without_mask(x: Any) -> Any:
    """A masked array with NaN or None instead of each masked value; the hidden value has no meaning."""
    if isinstance(x, list | tuple) and any(isinstance(part, np.ma.MaskedArray) for part in x):
        x = np.ma.stack(x)
    if not isinstance(x, np.ma.MaskedArray) or not np.ma.is_masked(x):
        return x
    dtype, missing = (np.float64, np.nan) if x.dtype.kind in "buif" else (object, None)
    values = np.asarray(x).astype(dtype)
    values[np.ma.getmaskarray(x)] = missing
    return values


def from_tensor(x: torch.Tensor, name: str = "x") -> np.ndarray:
    """A tensor as an array: dense, and in float32 if NumPy lacks its type."""
    import torch

    try:
        x = x.detach().cpu()
        x = x.dequantize() if x.is_quantized else x if x.layout is torch.strided else x.to_dense()
        known = not x.is_floating_point() or x.dtype in (torch.float16, torch.float32, torch.float64)
        return (x if known else x.float()).resolve_conj().resolve_neg().numpy()  # NumPy has no bfloat16
    except (RuntimeError, NotImplementedError) as error:
        kind = "a nested" if x.is_nested else "a meta" if x.is_meta else f"a {x.dtype}"
        raise TypeError(f"`{name}` must be a tensor of one shape with numbers in memory; got {kind} tensor.") from error


def from_table(x: Any, name: str) -> np.ndarray:
    """The numbers of a table: whole numbers or truth values if all columns have them, else float64."""
    words = [str(column) for column, dtype in x.dtypes.items() if dtype.kind not in "buif"]
    if words:
        raise TypeError(f"`{name}` must have numeric columns only; got {shown(words[0])}, which is not.")
    whole = all(dtype.kind in "bi" or (dtype.kind == "u" and dtype.itemsize < 8) for dtype in x.dtypes)
    nullable = any(not isinstance(dtype, np.dtype) for dtype in x.dtypes)  # pandas's own types
    if not whole or x.empty or (nullable and x.isna().to_numpy().any()):
        return x.to_numpy(dtype=np.float64, na_value=np.nan)
    return x.to_numpy(dtype=bool if all(dtype.kind == "b" for dtype in x.dtypes) else np.int64)


def _all_finite(values: np.ndarray) -> bool:
    flat = values.reshape(-1, order="A")  # a view in C order and in Fortran order
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        # as Python floats, because float16 rounds LARGEST to infinity; NaN fails both comparisons
        if not (float(piece.min()) >= -LARGEST and float(piece.max()) <= LARGEST):
            return False
    return True


def _named(value: float) -> str:
    if np.isnan(value):
        return "a missing value (NA or NaN)"
    return "an infinite value" if np.isinf(value) else f"{value:.3g}, too large for float32,"


def _kind(x: object, values: np.ndarray) -> str:
    if values.dtype.kind in "US":
        return "text"
    if values.ndim == 0 or values.dtype.kind == "O":
        return f"an object of type {type(x).__name__}" if values.ndim == 0 else "objects of several kinds"
    return f"type {values.dtype}"
