"""Types of inputs: integers, booleans, codes, pixels, and columns of tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from input_models import DRAWS, STEPS, Maps, N, Net, assert_same, numbers, point, predict, seeded
from torch import nn

import mcdropout as mcd
from mcdropout.sampling import torch_model


@pytest.fixture
def x():
    return numbers(N, 3)


@pytest.fixture
def expected(x):
    return predict(Net(), x)


class Sensor(nn.Module):
    """A transformer of measurements, with a mask that is true at padding."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.2, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 2)

    def forward(self, x, padding):
        return self.head(self.body(self.first(x), src_key_padding_mask=padding)[:, 0])


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("by", ["position", "keyword"])
def test_a_boolean_mask_hides_padding_from_attention(by, wrap):
    model, x = seeded(Sensor), numbers(N, STEPS, 3)
    padding = np.arange(STEPS) >= np.array([1, 2, 3] * N)[:N, None]
    with torch.no_grad():
        of_the_model = model(torch.from_numpy(x), torch.from_numpy(padding)).numpy()
    inputs = (wrap(x), wrap(padding)) if by == "position" else {"x": wrap(x), "padding": wrap(padding)}
    np.testing.assert_allclose(point(model, inputs), of_the_model, atol=1e-6)  # rounding of float32
    x[padding] = 99
    changed_padding = {"x": x, "padding": padding}
    np.testing.assert_allclose(predict(model, changed_padding).mean, predict(model, inputs).mean, atol=1e-6)


def test_an_integer_mask_of_attention_is_refused_and_never_added():
    x, padding = numbers(N, STEPS, 3), np.ones((N, STEPS), np.int64)
    padding[:, 0] = 0
    for run in (point, predict):
        with pytest.raises(ValueError, match="only bool and floating types of src_key_padding_mask are supported"):
            run(seeded(Sensor), (x, padding))


def test_a_model_may_subtract_a_boolean_mask_from_1():
    model = Net(lambda x, mask: x * (1 - mask))  # torch does not subtract tensors of bool
    x, mask = numbers(N, 3), np.arange(3 * N).reshape(N, 3) % 2 == 0
    np.testing.assert_allclose(point(model, (x, mask)), point(Net(), x * ~mask), atol=1e-6)


class Codes(nn.Module):
    """Numeric columns and the code of a category, which is used by an embedding, as one-hot rows or in a table."""

    def __init__(self, through="embedding"):
        super().__init__()
        self.through, self.embed, self.table = through, nn.Embedding(5, 5), nn.Parameter(torch.eye(5))
        self.head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))

    def forward(self, columns, code):
        encoders = {"embedding": self.embed, "one_hot": lambda x: F.one_hot(x, 5), "table": lambda x: self.table[x]}
        return self.head(torch.cat([columns, encoders[self.through](code)], dim=1))


@pytest.mark.parametrize("kind", ["int64", "int32", "int16", "int8", "uint8", "float32", "float64"])
@pytest.mark.parametrize("through", ["embedding", "one_hot", "table"])
def test_codes_of_every_type_are_looked_up(through, kind):
    model = seeded(lambda: Codes(through))
    columns, codes = numbers(N, 3), np.arange(N) % 5
    with torch.no_grad():
        of_the_model = model(torch.from_numpy(columns), torch.from_numpy(codes)).numpy()
    np.testing.assert_allclose(point(model, (columns, codes.astype(kind))), of_the_model, atol=1e-6)
    by_keyword = predict(model, {"columns": columns, "code": codes.astype(kind)})
    assert_same(by_keyword, predict(model, (columns, codes)))


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "bool"])
def test_integer_columns_with_codes_give_the_numbers_of_float_columns(kind):
    columns, codes = (np.arange(3 * N).reshape(N, 3) % 7).astype(kind), np.arange(N) % 5
    assert_same(predict(seeded(Codes), (columns, codes)), predict(seeded(Codes), (columns.astype(np.float32), codes)))


class FirstNumbers(Codes):
    """The numeric columns are first multiplied by weights, which requires floating point numbers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, columns, code):
        return super().forward(self.linear(columns), code)


def test_integer_columns_become_float_while_codes_stay_integers():
    columns, codes = np.arange(3 * N).reshape(N, 3) % 7, np.arange(N) % 5
    model = seeded(FirstNumbers)
    assert_same(predict(model, (columns, codes)), predict(model, (columns.astype(np.float32), codes)))
    sampler = mcd.mc_sampler(model, (columns[:2], codes[:2]), DRAWS, outputs="logits", seed=3)
    np.testing.assert_allclose(sampler((columns, codes)).mean, predict(model, (columns, codes)).mean, atol=1e-6)


@pytest.mark.parametrize("kind", ["uint8", "int32", "int64", "bool"])
def test_integer_pixels_and_features_give_the_numbers_of_float_ones(kind):
    x = np.random.default_rng(0).integers(0, 256, (N, 2, 8, 9)).astype(kind)
    assert_same(predict(Maps(), x, labels=list("abcde")), predict(Maps(), x.astype(np.float32), labels=list("abcde")))
    features = x[:, 0, 0, :3]
    assert_same(predict(Net(), features), predict(Net(), features.astype(np.float32)))
    assert_same(predict(Net(), torch.from_numpy(features)), predict(Net(), features.astype(np.float32)))
    assert_same(predict(Net(lambda x: x / 255), features), predict(Net(lambda x: x / 255), features.astype(np.float32)))


def test_integer_tables_keep_their_type(x):
    dtypes = set()

    def record(x):
        dtypes.add(x.dtype)
        return x.float()

    model = Net(record)
    for table, dtype in [
        (pd.DataFrame({"a": [1, 2], "b": [3, 4], "c": [5, 6]}), torch.int64),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4], "c": [5, 6]}, dtype="Int64"), torch.int64),
        (pd.DataFrame({"a": [True, False], "b": [True, True], "c": [False, True]}), torch.bool),
        (pd.DataFrame({"a": [1, 2], "b": [0.5, 4], "c": [5, 6]}), torch.float32),
    ]:
        dtypes.clear()
        point(model, table)
        assert dtypes == {dtype}


def test_dropout_of_integers_gives_floats():
    model = nn.Sequential(nn.Dropout(0.5), nn.Identity())  # a scaled integer mask would be 0 or 1, not 0 or 2
    x = np.full((N, 3), 4)
    assert set(np.unique(predict(model, x, 50, outputs="values").samples)) == {0.0, 8.0}


def as_stream(types, values):
    return iter([values.astype(kind) for kind in types])


TYPES_OF_FEATURES = (np.float32, np.int64, np.uint8, bool, np.float64, np.int32)
TYPES_OF_CODES = (np.int64, np.float64, np.int8, np.uint8, np.int64)


def network_of_codes():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3))


@pytest.mark.parametrize("types", [TYPES_OF_FEATURES, TYPES_OF_FEATURES[::-1]])
@pytest.mark.parametrize("start", [nn.Identity, nn.Dropout])
def test_the_type_of_features_may_change_between_batches(types, start):
    zeros_and_ones = (numbers(N, 3) > 0).astype(np.float32)
    model = nn.Sequential(start(), Net())
    expected = predict(model, zeros_and_ones)
    sampler = mcd.mc_sampler(model, zeros_and_ones.astype(types[0]), DRAWS, outputs="logits", seed=3)
    for kind in types:
        np.testing.assert_allclose(sampler(zeros_and_ones.astype(kind)).mean, expected.mean, atol=1e-6)
    of_a_stream = predict(model, as_stream(types, zeros_and_ones))
    np.testing.assert_allclose(of_a_stream.mean, np.tile(expected.mean, (len(types), 1)), atol=1e-6)
    points = mcd.mc_predict_point(model, as_stream(types, zeros_and_ones), outputs="logits", progress=False)
    np.testing.assert_allclose(points[-N:], points[:N], atol=1e-6)


def test_lists_and_tables_of_integers_may_follow_floats(x):
    sampler = mcd.mc_sampler(Net(), x, DRAWS, outputs="logits", seed=3)
    expected = predict(Net(), np.array([[1.0, 2.0, 3.0]]))
    for inputs in ([[1, 2, 3]], pd.DataFrame({"a": [1], "b": [2], "c": [3]}), pd.DataFrame([[1.0, 2, 3]])):
        np.testing.assert_allclose(sampler(inputs).mean, expected.mean, atol=1e-6)


@pytest.mark.parametrize("types", [TYPES_OF_CODES, TYPES_OF_CODES[1:]])
def test_the_type_of_codes_may_change_between_batches(types):
    codes = np.arange(2 * N).reshape(N, 2) % 5
    expected = predict(network_of_codes(), codes)
    sampler = mcd.mc_sampler(network_of_codes(), codes.astype(types[0]), DRAWS, outputs="logits", seed=3)
    for kind in types:
        np.testing.assert_allclose(sampler(codes.astype(kind)).mean, expected.mean, atol=1e-6)
    of_a_stream = predict(network_of_codes(), as_stream(types, codes))
    np.testing.assert_allclose(of_a_stream.mean, np.tile(expected.mean, (len(types), 1)), atol=1e-6)


def test_refused_inputs_do_not_decide_the_conversion_of_later_inputs_of_their_type():
    codes = np.arange(2 * N).reshape(N, 2) % 5
    sampler = mcd.mc_sampler(network_of_codes(), codes, DRAWS, outputs="logits", seed=3)
    for _ in range(2):
        with pytest.raises(ValueError, match="^`model` fails on"):
            sampler(codes + 0.5)
    np.testing.assert_allclose(sampler(codes + 0.0).mean, sampler(codes).mean, atol=1e-6)


def test_the_conversion_of_floats_needs_no_pass(x, monkeypatch):
    passes, failure_of = [], torch_model.TorchModel._failure

    def record(*args):
        passes.append(args)
        return failure_of(*args)

    monkeypatch.setattr(torch_model.TorchModel, "_failure", record)
    sampler = mcd.mc_sampler(Net(), x, DRAWS, outputs="logits", seed=3)
    sampler(x)
    sampler(x[:2])
    assert not passes
    predict(Net(), as_stream((bool, bool, float, bool), x > 0))
    assert len(passes) == 4  # three conversions of bool, and one of floats that are whole numbers


@pytest.mark.parametrize(("late", "number"), [(False, 2), (True, 10)])
@pytest.mark.parametrize(("value", "words"), [(-1, "-1"), (5, "5")])
def test_codes_out_of_range_are_refused(late, number, value, words):
    columns, codes = numbers(N, 3), np.arange(N) % 5
    codes[number - 1] = value
    text = (
        f"must hold whole numbers from 0 to 4, which `model` looks up in `embed`; got {words} in input number {number}"
    )
    for run in (point, predict, lambda model, x: mcd.mc_sites(model, x) if not late else predict(model, x)):
        with pytest.raises(ValueError, match="`x`'s array number 2 " + text):
            run(seeded(Codes), (columns, codes))
        with pytest.raises(ValueError, match="`code` " + text):
            run(seeded(Codes), {"columns": columns, "code": codes.astype(float)})
    with pytest.raises(ValueError, match=text):
        predict(seeded(Codes), (columns, codes), batch_size=2)


def test_codes_that_are_not_whole_numbers_are_refused():
    codes = np.r_[np.zeros(N - 1), 1.5]
    with pytest.raises(ValueError, match="`x`'s array number 2 must hold whole numbers, .* got 1.5"):
        predict(seeded(Codes), (numbers(N, 3), codes))


def test_the_message_has_both_failures_of_integers():
    with pytest.raises(
        ValueError, match=r"as they are \(RuntimeError, .*\) and as floating point numbers .*\(4x7 and 3x8|3x7"
    ):
        predict(Net(), np.ones((N, 7), int))


def test_the_message_on_a_row_without_an_axis_of_inputs_names_its_shape():
    for run in (point, predict):
        with pytest.raises(ValueError, match=r"of shape \(input\) of single numbers: RuntimeError"):
            run(Net(), numbers(7))


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_complex_numbers_are_refused(wrap):
    for run in (point, predict):
        with pytest.raises(TypeError, match="`x` must hold numbers; got type complex64"):
            run(Net(), wrap(numbers(N, 3) + 1j * numbers(N, 3, seed=1)))
