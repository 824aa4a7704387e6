"""What users hold, to rows of float32 and label codes: NumPy, tensors, tables, lists, R's doubles, factors.

Nothing large is copied: rows are cast batch by batch, when they are taken. Neither torch nor pandas is loaded
unless the user has it loaded already, or asks for a device.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from .checks import ForkedProcess, shown

if TYPE_CHECKING:
    import torch

Label = int | str | bool

PIECE = 1 << 18  # numbers looked at in one go: 2 MB of doubles, which stays in cache
LARGEST = float(np.finfo(np.float32).max)


# Inputs ---------------------------------------------------------------------------------------------------


@runtime_checkable
class Rows(Protocol):
    """Inputs that can be taken a batch at a time: an array in memory, or files that are read when needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes, inputs first."""
        ...

    def take(self, index: slice | np.ndarray) -> np.ndarray:
        """Those inputs alone, float32, C-contiguous and writable."""
        ...


class ArrayRows:
    """Rows of an array of any numeric type and memory order; never copied or cast as a whole.

    columns: the names of a table's columns, if they are words and all different.
    """

    def __init__(self, values: np.ndarray, columns: Sequence[object] = ()) -> None:
        self.values = values
        words = tuple(one for one in columns if isinstance(one, str))
        self.columns = words if len(set(words)) == len(columns) else ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes, inputs first."""
        return self.values.shape

    def take(self, index: slice | np.ndarray) -> np.ndarray:
        """Those inputs alone, float32, C-contiguous and writable."""
        rows = np.ascontiguousarray(self.values[index], dtype=np.float32)
        # An axis of size 1 may keep any stride, and torch chooses its memory format, so its last bits, by strides.
        rows = rows.reshape(-1).reshape(rows.shape)
        return rows if rows.flags.writeable else rows.copy()  # torch takes no read-only memory


def as_rows(x: object, name: str = "x") -> Rows:
    """Anything that holds inputs along its first axis: array, tensor, data frame, nested lists, image files.

    Raises ValueError where there are no inputs, and TypeError where they are not numbers.
    """
    columns = list(cast(Any, x).columns) if _is_a(x, "pandas", "DataFrame") else ()
    rows = cast(Rows, x) if _is_rows(x) else ArrayRows(_as_numbers(x, name), columns)
    if len(rows.shape) == 0:
        raise ValueError(f"`{name}` must have a first axis of inputs; got one number alone.")
    if 0 in rows.shape:
        raise ValueError(f"`{name}` must hold at least one input; got shape {tuple(rows.shape)}.")
    return rows


def doubles(rows: Rows, index: slice | np.ndarray) -> np.ndarray:
    """Those inputs alone in float64, with all the digits that they are held with; copied."""
    values = rows.values[index] if isinstance(rows, ArrayRows) else rows.take(index)
    return np.array(values, dtype=np.float64, order="C")


def row_names_of(x: object) -> Any | None:
    """The index of a table, unless it only counts from 0; of several inputs, that of the first which has one."""
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple) else (x,)
    for part in parts:
        if _is_a(part, "pandas", "DataFrame") or _is_a(part, "pandas", "Series"):
            index = cast(Any, part).index
            if not (_is_a(index, "pandas", "RangeIndex") and (index.start, index.step) == (0, 1)):
                return index
    return None


def columns_of(rows: Rows) -> tuple[str, ...]:
    """The names of a table's columns; () where it has none."""
    return rows.columns if isinstance(rows, ArrayRows) else ()


def in_order(rows: Rows, columns: Sequence[str], name: str = "x") -> Rows:
    """A table with its columns in the order of `columns`; what has no names is taken as it is.

    Raises ValueError where the names are others.
    """
    own = columns_of(rows)
    if not own or not columns or own == tuple(columns):
        return rows
    strange = next((one for one in own if one not in columns), None)
    missing = next((one for one in columns if one not in own), None)
    if strange is not None or missing is not None:
        got = f"no {shown(missing)}" if missing is not None else f"{shown(strange)} besides"
        raise ValueError(f"`{name}` must have the columns that `model` was trained on, in any order; got {got}.")
    assert isinstance(rows, ArrayRows)
    return ArrayRows(rows.values[:, [own.index(one) for one in columns]], columns)


def check_finite(rows: Rows, name: str = "x") -> None:
    """Refuse NaN, infinite values, and those too large for float32, naming the first input that has one.

    Files are not opened: what is decoded from them is finite.
    """
    if not isinstance(rows, ArrayRows) or rows.values.dtype.kind != "f":
        return
    values = rows.values
    if _all_usable(values):
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
    if isinstance(x, (np.ndarray, list, tuple)) or _is_a(x, "torch", "Tensor"):
        return False
    return not _is_pandas(x) and isinstance(x, Rows)


def _as_numbers(x: Any, name: str) -> np.ndarray:
    if _is_a(x, "pandas", "DataFrame"):
        return _from_table(x, name)
    if _is_a(x, "pandas", "Series") and x.dtype.kind in "buif":
        return _from_table(x.to_frame(), name)[:, 0]
    try:
        values = _from_tensor(x) if _is_a(x, "torch", "Tensor") else np.asarray(_without_mask(x))
    except ValueError as error:  # NumPy on lists of unequal lengths
        raise ValueError(f"`{name}` must be an array of one shape; got lists of unequal lengths.") from error
    if values.dtype.kind not in "buif":
        raise TypeError(f"`{name}` must hold numbers; got {_kind(x, values)}.")
    return values


def _without_mask(x: Any) -> Any:
    """A masked array with NaN, or None, where it is masked: what lies below is nothing that the caller means."""
    if isinstance(x, list | tuple) and any(isinstance(one, np.ma.MaskedArray) for one in x):
        x = np.ma.stack(x)
    if not isinstance(x, np.ma.MaskedArray) or not np.ma.is_masked(x):
        return x
    kind, lacking = (np.float64, np.nan) if x.dtype.kind in "buif" else (object, None)
    values = np.asarray(x).astype(kind)
    values[np.ma.getmaskarray(x)] = lacking
    return values


def _from_tensor(x: torch.Tensor) -> np.ndarray:
    x = x.detach().cpu()
    known = not x.is_floating_point() or str(x.dtype) in ("torch.float16", "torch.float32", "torch.float64")
    return (x if known else x.float()).resolve_conj().resolve_neg().numpy()  # NumPy has no bfloat16


def _from_table(x: Any, name: str) -> np.ndarray:
    """A table's numbers: whole numbers or truth values where all columns hold such, else float64."""
    words = [str(column) for column, dtype in x.dtypes.items() if dtype.kind not in "buif"]
    if words:
        raise TypeError(f"`{name}` must have numeric columns only; got {shown(words[0])}, which is not.")
    whole = all(dtype.kind in "bi" or (dtype.kind == "u" and dtype.itemsize < 8) for dtype in x.dtypes)
    may_lack = any(not isinstance(dtype, np.dtype) for dtype in x.dtypes)  # pandas's own types
    if not whole or x.empty or (may_lack and x.isna().to_numpy().any()):
        return x.to_numpy(dtype=np.float64, na_value=np.nan)
    return x.to_numpy(dtype=bool if all(dtype.kind == "b" for dtype in x.dtypes) else np.int64)


def _all_usable(values: np.ndarray) -> bool:
    flat = values.reshape(-1, order="A")  # a view, for C and Fortran order alike
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        # as Python's numbers: float16 would take LARGEST for infinity; NaN fails both
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


# Labels and values ----------------------------------------------------------------------------------------


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


def label_array(labels: Sequence[Label]) -> np.ndarray:
    """Labels as NumPy has them: integers, truth values, or strings (also where they are mixed)."""
    kinds = {type(label) for label in labels}
    if kinds == {int} or kinds == {bool}:
        return np.array(labels)
    return np.array([str(label) for label in labels])


def as_labels(
    y: object, labels: Sequence[Label] | None = None, name: str = "y"
) -> tuple[np.ndarray, tuple[Label, ...]]:
    """Position of each input's label in `labels`, (input,) int64, and the labels themselves.

    `y` has strings, whole numbers, truth values, a categorical (unused categories are welcome), or one-hot
    rows (input, label). Without `labels` they are the categories, or what occurs in `y`, sorted. With them, a
    label is looked up as it is, and then by its text, so that "3" from R meets 3.

    Raises ValueError for a missing or unknown label, naming the first input that has one.
    """
    declared = None if labels is None else as_label_set(labels)
    values, own_labels = _label_values(y, declared, name)
    for number, value in enumerate(values, start=1):
        if _is_missing(value):
            raise ValueError(f"`{name}` must have a label for every input; got none at input number {number}.")
        if value.__hash__ is None:  # a list inside a list
            raise ValueError(f"`{name}` must have one label per input; got {shown(value)} at input number {number}.")
    if declared is None:
        declared = as_label_set(own_labels if own_labels is not None else _sorted(set(values)), name)
    return _codes(values, declared, name), declared


def as_targets(y: object, n_outputs: int | None, name: str = "y") -> np.ndarray:
    """Values to learn, (input, output) float64; one axis is enough where there is one output.

    `n_outputs` None takes any number of outputs.
    """
    values = _as_numbers(y, name)
    columns = values[:, None] if values.ndim == 1 else values
    if columns.ndim != 2 or columns.shape[1] != (n_outputs or columns.shape[1]):
        raise ValueError(f"`{name}` must have shape (input, {n_outputs or 'output'}); got {values.shape}.")
    check_finite(ArrayRows(columns), name)
    return columns.astype(np.float64)


def _label_values(y: Any, declared: tuple[Label, ...] | None, name: str) -> tuple[list[Any], list[Any] | None]:
    """One plain value per input, and the labels that `y` itself declares, if it does."""
    if _is_a(y, "pandas", "DataFrame"):
        return _from_one_hot(_from_table(y, name), list(y.columns), name)
    if _is_pandas(y) and hasattr(y.dtype, "categories"):
        return y.astype(object).tolist(), y.dtype.categories.tolist()
    y = _without_mask(y)
    values = _from_tensor(y) if _is_a(y, "torch", "Tensor") else np.asarray(y, dtype=_object_if_list(y))
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
    rows = rows.astype(np.float64)
    bad = ((rows != 0) & (rows != 1)).any(axis=1) | (rows.sum(axis=1) != 1)
    if bad.any():
        raise ValueError(
            f"`{name}` must have one 1 and otherwise 0 in every one-hot row; "
            f"got {shown(rows[bad.argmax()].tolist())} at input number {bad.argmax() + 1}."
        )
    return [columns[i] for i in rows.argmax(axis=1)], columns


def _codes(values: list[Any], declared: tuple[Label, ...], name: str) -> np.ndarray:
    exact: dict[Any, int] = {label: code for code, label in enumerate(declared)}
    by_text = {str(label): code for code, label in enumerate(declared)}
    codes = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        code = exact.get(value)
        if code is None:
            code = by_text.get(_text(value))
            if code is None:
                words = ", ".join(shown(label) for label in declared)
                raise ValueError(
                    f"`{name}` must hold labels out of {words}; got {shown(value)} at input number {i + 1}."
                )
            exact[value] = code
        codes[i] = code
    return codes


def _text(value: object) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(cast(float, value)) if whole else value)


def _sorted(labels: Iterable[Any]) -> list[Any]:
    labels = list(labels)
    return sorted(labels, key=str) if len({type(label) for label in labels}) > 1 else sorted(labels)


def _is_missing(value: object) -> bool:
    if value is None or isinstance(value, float):
        return value is None or value != value
    return type(value).__name__ in ("NAType", "NaTType")


def _object_if_list(y: object) -> type | None:
    return object if isinstance(y, (list, tuple)) else None  # so that ["a", 1] keeps its 1


# Devices --------------------------------------------------------------------------------------------------


def as_device(device: object) -> torch.device:
    """The torch device: "auto" is the first GPU if there is one, else the CPU.

    Raises ValueError for a device that is not here.
    """
    import torch

    if device == "auto":
        device = "cuda" if has_gpu() else "cpu"
    try:
        found = torch.device(cast(str, device))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'`device` must be "auto", "cpu", "cuda", "cuda:1" or the like; got {shown(device)}.'
        ) from error
    if found.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ForkedProcess("`device` is a GPU, which")
    if found.type == "cpu" or _answers(found):
        return found
    raise ValueError(f'`device` "{found}" is not available here; use "cpu" or "auto".')


def has_gpu() -> bool:
    """Whether torch finds a GPU that it can compute on."""
    import torch

    return torch.cuda.is_available()


def as_devices(device: object) -> list[torch.device]:
    """One device or several, each as `as_device()` takes it."""
    if isinstance(device, (list, tuple)) and device:
        return [as_device(one) for one in device]
    return [as_device(device)]


def _answers(device: torch.device) -> bool:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return device.type != "meta"


# What something is, without importing the library it would come from ---------------------------------------


def _loaded(module: str) -> ModuleType | None:
    return sys.modules.get(module)


def _is_a(value: object, module: str, name: str) -> bool:
    loaded = _loaded(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _is_pandas(value: object) -> bool:
    return any(_is_a(value, "pandas", name) for name in ("DataFrame", "Series", "Index", "Categorical"))
