"""Inputs and labels in the forms that users have: accepted forms mean the same, other forms are refused."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optional import import_or_skip

from mcdropout.compute.devices import as_device
from mcdropout.data.images import ImageFiles
from mcdropout.data.labels import as_labels, as_targets, label_array
from mcdropout.data.rows import ArrayRows, as_rows, check_finite, columns_of, in_order

X = np.arange(24.0).reshape(4, 3, 2)


@pytest.mark.parametrize(
    "x",
    [X, np.asfortranarray(X), X.astype(np.int16), X[::-1][::-1], X.tolist(), torch.from_numpy(X),
     torch.from_numpy(X).bfloat16(), torch.from_numpy(X).requires_grad_()],
    ids=["C order", "Fortran order", "int16", "a view", "lists", "tensor", "bfloat16 tensor", "with gradient"],
)  # fmt: skip
def test_rows_of_every_container_are_the_same_float32_numbers(x):
    rows = as_rows(x)
    assert rows.shape == (4, 3, 2)
    for index in (slice(1, 3), np.array([3, 0])):
        selected = rows.take(index)
        np.testing.assert_array_equal(selected, X[index])
        assert selected.dtype == np.float32
        assert selected.flags.c_contiguous
        assert selected.flags.writeable


class Frame:
    """A data frame of another library, with the least that one has."""

    def __init__(self, columns: dict[str, object]) -> None:
        self.values = {name: pd.Series(values).to_numpy() for name, values in columns.items()}
        self.columns = list(columns)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise AssertionError("Only its presence counts; columns are read by name.")

    def __getitem__(self, name: str) -> object:
        return self.values[name]


def polars_frame(columns: dict[str, object]) -> object:
    return import_or_skip("polars").DataFrame(columns)


def arrow_table(columns: dict[str, object]) -> object:
    return import_or_skip("pyarrow").table(columns)


def arrow_batch(columns: dict[str, object]) -> object:
    return import_or_skip("pyarrow").record_batch(columns)


def narwhals_frame(columns: dict[str, object]) -> object:
    return import_or_skip("narwhals").from_native(pd.DataFrame(columns))


FRAMES = pytest.mark.parametrize("frame", [Frame, polars_frame, arrow_table, arrow_batch, narwhals_frame])


@FRAMES
def test_data_frames_of_other_libraries_have_the_rows_and_columns_of_pandas(frame):
    columns = {"a": [1.5, 2, 3], "b": [4, 5, 6], "c": [True, False, True]}
    rows, expected = as_rows(frame(columns)), as_rows(pd.DataFrame(columns))
    assert columns_of(rows) == columns_of(expected) == ("a", "b", "c")
    np.testing.assert_array_equal(rows.take(slice(None)), expected.take(slice(None)))
    with pytest.raises(ValueError, match="got a missing value .* in input number 2 of 3"):
        check_finite(as_rows(frame({"a": [1, None, 3]})))
    with pytest.raises(TypeError, match='`x` must have numeric columns only; got "b", which is not'):
        as_rows(frame({"a": [1], "b": ["text"]}))


@FRAMES
def test_one_hot_rows_in_a_data_frame_of_another_library_are_matched_by_name(frame):
    codes, labels = as_labels(frame({"v": [0, 1, 0], "u": [1, 0, 1]}), ["u", "v"])
    assert (codes.tolist(), labels) == ([0, 1, 0], ("u", "v"))


@given(st.permutations(list("abcde")))
def test_columns_of_any_data_frame_are_found_in_any_order(order):
    rows = as_rows(Frame({name: [float(ord(name)), 0.0] for name in order}))
    expected = [[float(ord(name)) for name in "abcde"], [0.0] * 5]
    np.testing.assert_array_equal(in_order(rows, tuple("abcde")).take(slice(None)), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns when such tensors are made
@pytest.mark.parametrize("name", ["x", "y"])
def test_tensors_of_every_kind_are_read_or_refused_in_one_sentence(name):
    def read(tensor):
        if name == "x":
            return as_rows(tensor).take(slice(None)).tolist()
        return as_targets(tensor, 2).tolist()

    values = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    quantized = torch.quantize_per_tensor(values, 1.0, 0, torch.quint8)
    complex_values = torch.complex(torch.zeros(2, 2), -values).conj()
    for same in (values.to_sparse(), values.to_sparse_csr(), values.to_mkldnn(), quantized, complex_values.imag):
        assert read(same) == values.tolist()
    for wrong, kind in ((values.to("meta"), "a meta"), (torch.nested.nested_tensor([values, values[:1]]), "a nested")):
        message = f"^`{name}` must be a tensor of one shape with numbers in memory; got {kind} tensor.$"
        with pytest.raises(TypeError, match=message):
            read(wrong)
    with pytest.raises(TypeError, match=f"^`{name}` must hold numbers; got type complex64.$"):
        read(complex_values)


def test_rows_of_read_only_memory_are_writable():
    x = X.astype(np.float32)
    x.flags.writeable = False
    selected = as_rows(x).take(slice(1, 3))
    selected[:] = 0  # torch warns of read-only memory
    np.testing.assert_array_equal(x, X)


def test_only_the_selected_rows_of_an_array_are_copied():
    x = np.asfortranarray(X)
    x.flags.writeable = False  # like the memory of R
    rows = as_rows(x)
    assert isinstance(rows, ArrayRows)
    assert rows.values is x


def test_tables_give_their_numbers_and_a_column_without_numbers_is_refused():
    table = pd.DataFrame({"a": [1, 2], "b": [True, False], "c": pd.array([3, None], dtype="Int64")})
    np.testing.assert_array_equal(as_rows(table).take(slice(None)), [[1, 1, 3], [2, 0, np.nan]])
    with pytest.raises(TypeError, match='`x` must have numeric columns only; got "d", which is not'):
        as_rows(table.assign(d=["x", "y"]))


def test_image_files_are_rows_already():
    files = ImageFiles(["a.png", "b.png"])
    assert as_rows(files) is files


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (np.zeros((0, 3)), ValueError, r"`x` must hold at least one input; got shape \(0, 3\)"),
        ([], ValueError, "`x` must hold at least one input"),
        (3.0, ValueError, "`x` must have a first axis of inputs; got a single number"),
        ([[1, 2], [3]], ValueError, "`x` must be an array of one shape; got lists of unequal lengths"),
        ([["a", "b"]], TypeError, "`x` must hold numbers; got text"),
        (np.array([1, None]), TypeError, "`x` must hold numbers; got objects of several kinds"),
        (None, TypeError, "`x` must hold numbers; got an object of type NoneType"),
        (np.zeros(3, complex), TypeError, "`x` must hold numbers; got type complex128"),
    ],
)
def test_objects_without_inputs_are_refused(x, kind, message):
    with pytest.raises(kind, match=message):
        as_rows(x)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, r"a missing value \(NA or NaN\)"),
        (-np.inf, "an infinite value"),
        (1e300, r"1e\+300, too large for float32,"),
    ],
)
def test_the_message_on_a_number_that_is_not_finite_names_its_input(order, value, words):
    x = np.zeros((2000, 7, 5, 11), order=order)  # several pieces
    x[1700, 3, 4, 2] = x[1800, 0, 0, 0] = value
    with pytest.raises(ValueError, match=f"`x` must hold finite numbers only; got {words} in input number 1701 of"):
        check_finite(as_rows(x))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinity_of_half_precision_is_found(value):
    x = np.zeros((5, 3), np.float16)
    x[3, 1] = value
    words = "a missing value" if np.isnan(value) else "an infinite value"
    with pytest.raises(ValueError, match=f"got {words} .*in input number 4 of 5"):
        check_finite(as_rows(x))


@pytest.mark.parametrize("kind", ["float64", "float16", "int64", "bool"])
def test_masked_numbers_are_missing(kind):
    x = np.ma.masked_array(np.ones((5, 3), kind), mask=False)
    rows = as_rows(x)
    assert isinstance(rows, ArrayRows)
    assert rows.values.dtype == kind
    x[2, 1] = np.ma.masked
    for masked in (x, list(x)):
        with pytest.raises(ValueError, match="got a missing value .NA or NaN. in input number 3 of 5"):
            check_finite(as_rows(masked))
    with pytest.raises(ValueError, match="got a missing value .NA or NaN. in input number 3 of 5"):
        as_targets(x, 3)


@pytest.mark.parametrize("y", [[1, 2, 1, 2], ["a", "b", "b", "a"], [True, False, True, True]])
def test_a_masked_label_is_missing(y):
    with pytest.raises(ValueError, match="must have a label for every input; got none at input number 3"):
        as_labels(np.ma.masked_array(y, mask=[False, False, True, False]))


def test_finite_numbers_are_accepted():
    for x in (X, X.astype(int), X[:, ::2], np.full((2, 3), 3e38)):
        check_finite(as_rows(x))


@pytest.mark.parametrize(
    ("y", "labels", "expected_codes", "expected_labels"),
    [
        (["b", "a", "b"], None, [1, 0, 1], ("a", "b")),
        ([3.0, 1.0, 3.0], None, [1, 0, 1], (1, 3)),
        (np.array([True, False]), None, [1, 0], (False, True)),
        (torch.tensor([5, 2]), None, [1, 0], (2, 5)),
        ([[1], [0]], None, [1, 0], (0, 1)),
        (pd.Series(["x", "y"], index=[7, 8]), None, [0, 1], ("x", "y")),
        (pd.Categorical(["x", "y"], categories=["z", "y", "x"]), None, [2, 1], ("z", "y", "x")),
        (pd.Series(["x", "y"], dtype="category"), ["y", "w", "x"], [2, 0], ("y", "w", "x")),
        (["3", "1"], [1, 2, 3], [2, 0], (1, 2, 3)),
        ([3, 1.0], ["1", "3"], [1, 0], ("1", "3")),
        (np.eye(3)[[2, 0]], None, [2, 0], (0, 1, 2)),
        (np.eye(3, dtype=bool)[[2, 0]], ["c", "a", "b"], [2, 0], ("c", "a", "b")),
        (pd.DataFrame({"a": [0, 1], "b": [1, 0]}), ["b", "a"], [0, 1], ("b", "a")),
    ],
)
def test_labels_of_every_form_give_codes_and_their_labels(y, labels, expected_codes, expected_labels):
    codes, actual_labels = as_labels(y, labels)
    assert codes.tolist() == expected_codes
    assert codes.dtype == np.int64
    assert actual_labels == expected_labels
    assert [type(label) for label in actual_labels] == [type(label) for label in expected_labels]


# Labels cannot hold NUL, and halves of surrogate pairs are escaped.
WRITABLE = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


@given(
    st.lists(st.text(WRITABLE, max_size=3), min_size=2, max_size=9, unique=True),
    st.data(),
)
def test_codes_give_the_labels_back(labels, data):
    y = data.draw(st.lists(st.sampled_from(labels), min_size=1, max_size=20))
    codes, actual_labels = as_labels(y, labels)
    assert [actual_labels[code] for code in codes] == y


@pytest.mark.parametrize(
    ("y", "labels", "message"),
    [
        (["a", "q"], ["a", "b"], '`y` must hold labels out of "a", "b"; got "q" at input number 2'),
        ([1, 2.5], [1, 2], "`y` must hold labels out of 1, 2; got 2.5 at input number 2"),
        (["a", None], ["a", "b"], "`y` must have a label for every input; got none at input number 2"),
        ([1.0, float("nan")], None, "got none at input number 2"),
        (["a", pd.NA], None, "got none at input number 2"),
        (pd.Series(["a", None]), None, "got none at input number 2"),
        (pd.Categorical([None, "x"], categories=["x", "y"]), None, "got none at input number 1"),
        (["a", "a"], None, r"`y` must be a list of at least two labels; got \['a'\]"),
        (np.eye(3) * 2, None, "`y` must have one 1 and otherwise 0 in every one-hot row"),
        (np.eye(3), ["a", "b"], r"`y` must have one column per label \(2\) if it has one-hot rows; got 3 columns"),
        ([[1, 0], [0]], None, r"`y` must have one label per input; got \[1, 0\] at input number 1"),
        (None, ["a", "b"], r"`y` must have one label per input; got shape \(\)"),
    ],
)
def test_invalid_labels_are_refused(y, labels, message):
    with pytest.raises(ValueError, match=message):
        as_labels(y, labels)


def test_labels_of_undecodable_folders_are_text_that_can_be_written():
    folder = b"caf\xe9".decode(errors="surrogateescape")
    codes, labels = as_labels([folder, "b", folder], [folder, "b"])
    assert (codes.tolist(), labels) == ([0, 1, 0], ("caf\\udce9", "b"))
    assert as_labels([folder, "b", folder])[1] == ("b", "caf\\udce9")
    assert as_labels(["caf\\udce9", "b"], [folder, "b"])[0].tolist() == [0, 1]


def test_values_are_columns_of_float64():
    assert as_targets([1, 2, 3], 1).tolist() == [[1.0], [2.0], [3.0]]
    assert as_targets(np.ones((3, 2), np.float32), 2).dtype == np.float64
    with pytest.raises(ValueError, match=r"`y` must have shape \(input, 2\); got \(3,\)"):
        as_targets([1, 2, 3], 2)
    with pytest.raises(ValueError, match="`y` must hold finite numbers only; got a missing value .* number 2 of 2"):
        as_targets([1, np.nan], 1)
    with pytest.raises(TypeError, match="`y` must hold numbers; got text"):
        as_targets(["a"], 1)


def test_label_arrays_have_numpy_types():
    assert label_array((3, 1)).dtype == np.int64
    assert label_array((True, False)).dtype == bool
    assert label_array(("a", "bb")).tolist() == ["a", "bb"]


def test_devices_that_are_not_available_are_refused():
    assert as_device("cpu") == as_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match='`device` "meta" is not available here; use "cpu" or "auto"'):
        as_device("meta")
    with pytest.raises(ValueError, match='`device` "cuda:99" is not available here'):
        as_device("cuda:99")
    with pytest.raises(ValueError, match='`device` must be "auto", "cpu", "cuda", "cuda:1" or the like; got "gpu"'):
        as_device("gpu")


def test_arrays_and_lists_need_neither_torch_nor_pandas():
    code = """
import sys
from mcdropout.data.labels import as_labels
from mcdropout.data.rows import as_rows, check_finite
check_finite(as_rows([[1.0, 2.0]])); as_labels(["a", "b"])
print([name for name in ("torch", "pandas") if name in sys.modules])
"""
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert completed.stdout.strip() == "[]"


def test_rows_have_the_same_strides_for_every_memory_layout():
    plain = np.random.default_rng(0).random((7, 5, 4, 1))
    with_new_axis = np.ascontiguousarray(plain[..., 0])[..., None]  # the new axis has a stride of 0
    for values in (plain, with_new_axis, np.asfortranarray(plain), plain[::-1][::-1]):
        rows = as_rows(values).take(slice(0, 3))
        assert rows.strides == (5 * 4 * 4, 4 * 4, 4, 4)
        assert rows.flags.writeable
