"""Inputs and outputs of predictions: several inputs, streams, types, selected outputs, axes and tolerance."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

import mcdropout as mcd
from mcdropout import MCPrediction
from mcdropout.sampling import model, torch_model
from mcdropout.sampling.options import ModelOptions

N, STEPS, LABELS, DRAWS = 11, 4, 5, 8


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


OPTIONS: dict[str, Any] = {"outputs": "logits", "seed": 3, "progress": False}


def predict(model, x, n_samples=DRAWS, **options: Any) -> Any:
    return mcd.mc_predict(model, x, n_samples, **(OPTIONS | options))


class Net(nn.Module):
    """A dropout network on three features. `combine` makes one input of its arguments, `wrap` makes its result."""

    def __init__(self, combine: Callable[..., Any] = lambda *args: args[0], wrap: Callable[..., Any] = lambda out: out):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, LABELS))
        self.combine, self.wrap = combine, wrap

    def forward(self, *args, **kwargs):
        return self.wrap(self.body(self.combine(*args, **kwargs)))


@pytest.fixture
def x():
    return numbers(N, 3)


@pytest.fixture
def expected(x):
    return predict(Net(), x)


def assert_same(actual, expected):
    """Equal up to the rounding of float32 sums in another order."""
    np.testing.assert_allclose(actual.mean, expected.mean, atol=1e-6)
    np.testing.assert_allclose(actual.samples, expected.samples, atol=1e-6)


# ---- inputs --------------------------------------------------------------------------------------------------------


def test_several_inputs_by_position(x, expected):
    assert_same(predict(Net(lambda a, b: a - b), (x + 1, np.ones_like(x))), expected)


def test_several_inputs_by_keyword(x, expected):
    model = Net(lambda left, right, scale=None: left * right)
    assert_same(predict(model, {"left": x / 2, "right": np.full_like(x, 2), "scale": None}), expected)


def test_arrays_of_unequal_lengths_are_refused(x):
    with pytest.raises(ValueError, match=r"must be as long as `its first array` \(11\); got length 9"):
        predict(Net(lambda a, b: a), (x, x[:9]))


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: TensorDataset(t),
        lambda t: TensorDataset(t, torch.zeros(N)),
        lambda t: DataLoader(t, batch_size=4),
        lambda t: DataLoader(TensorDataset(t, torch.zeros(N)), batch_size=3),
        lambda t: DataLoader(Stream(t), batch_size=5),
        lambda t: Stream(t),
        lambda t: iter(t.split(4)),
        lambda t: (batch.numpy() for batch in t.split(2)),
    ],
    ids=["dataset", "pairs", "loader", "loader of pairs", "loader of a stream", "stream", "iterator", "generator"],
)
@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("batch_size", [2, 128])
def test_streams_give_the_numbers_of_the_array(x, wrap, masks, batch_size):
    state = torch.get_rng_state()
    prediction = predict(Net(), wrap(torch.from_numpy(x)), masks=masks, batch_size=batch_size)
    assert_same(prediction, predict(Net(), x, masks=masks))
    assert torch.equal(torch.get_rng_state(), state)


def test_targets_in_batches_by_keyword_are_ignored(x, expected):
    batches = [{"features": torch.from_numpy(part), "labels": torch.zeros(len(part))} for part in (x[:6], x[6:])]
    assert_same(predict(Net(lambda features: features), iter(batches)), expected)


def test_a_loader_that_shuffles_is_refused(x):
    loader = DataLoader(TensorDataset(torch.from_numpy(x)), shuffle=True)
    with pytest.raises(ValueError, match="a DataLoader that shuffles, so results could not be matched to inputs"):
        predict(Net(), loader)


def test_an_empty_stream_is_refused():
    with pytest.raises(ValueError, match="`x` must hold at least one input; got an empty stream"):
        predict(Net(), iter([]))


def test_ids_of_a_stream_are_counted_when_it_ends(x):
    with pytest.raises(ValueError, match=r"`ids` must be as long as `x` \(11\); got length 12"):
        predict(Net(), iter(torch.from_numpy(x).split(4)), ids=range(12))


def test_token_ids_stay_whole_numbers():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.drop, self.head = nn.Embedding(20, 6), nn.Dropout(0.5), nn.Linear(6, LABELS)

        def forward(self, input_ids):
            return self.head(self.drop(self.embed(input_ids).mean(dim=1)))

    ids = np.random.default_rng(0).integers(0, 20, (N, STEPS))
    expected = predict(Tokens().eval(), ids)
    assert expected.engine == "folded"
    assert len(predict(Tokens(), {"input_ids": ids.astype(np.int32)})) == N


# ---- types of inputs -----------------------------------------------------------------------------------------------


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose weights do not depend on earlier tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def point(model, x, **options):
    return mcd.mc_predict_point(model, x, **({"outputs": "values", "progress": False} | options))


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


# ---- batches -------------------------------------------------------------------------------------------------------


class Pair(Net):
    """Two arrays, of which the second is optional, and a target, as in models that compute their loss."""

    def forward(self, left, right=None, labels=None):
        assert labels is None
        return self.body(left if right is None else left * right)


def test_batches_of_three_parts_are_refused(x):
    left, right = torch.from_numpy(x), torch.from_numpy(x + 1)
    loader = DataLoader(TensorDataset(left, right, torch.zeros(N)), batch_size=4)
    for run in (point, predict, mcd.mc_sites):
        with pytest.raises(
            ValueError, match=r"`x` must come in batches of inputs, or of \(inputs, target\); got one of 3"
        ):
            run(Pair(), loader)
    with pytest.raises(ValueError, match="got one of 4 parts.* images as one array"):
        predict(Net(), iter([list(x[:4])]))


@pytest.mark.parametrize(
    "batch",
    [
        lambda left, right: ((left, right), torch.zeros(len(left))),
        lambda left, right: [[left, right], torch.zeros(len(left))],
        lambda left, right: ({"left": left, "right": right}, torch.zeros(len(left))),
        lambda left, right: {"left": left, "right": right, "labels": torch.zeros(len(left))},
        lambda left, right: {"left": left, "right": right, "name": ["word"] * len(left), "row": torch.zeros(len(left))},
    ],
    ids=["tuples", "lists", "mapping and target", "mapping with labels", "mapping with keys that the model lacks"],
)
def test_batches_of_every_form_pass_all_inputs(x, batch):
    left, right = torch.from_numpy(x), torch.from_numpy(x + 1)
    parts: Any = zip(left.split(4), right.split(4), strict=True)
    assert_same(predict(Pair(), (batch(*pair) for pair in parts)), predict(Pair(), (x, x + 1)))


class Named(Net):
    """The second input has a name of targets. It is optional if the name is "y"."""

    def __init__(self, name):
        super().__init__()
        self.forward = self.with_y if name == "y" else self.with_labels

    def with_y(self, left, y=None):
        return self.body(left if y is None else left * y)

    def with_labels(self, left, labels):
        return self.body(left * labels)


def test_a_key_that_the_model_accepts_is_not_a_target(x):
    for name in ("y", "labels"):
        batch = {"left": torch.from_numpy(x), name: torch.from_numpy(x + 1)}
        assert_same(predict(Named(name), iter([batch])), predict(Pair(), (x, x + 1)))


def test_a_misspelt_key_is_refused(x):
    batch = {"left": torch.from_numpy(x), "rigth": torch.from_numpy(x)}
    with pytest.raises(ValueError, match='batches with "rigth", which `model` does not take .it takes left, right'):
        predict(Pair(), iter([batch]))


def test_a_pair_for_a_model_of_two_inputs_is_refused(x):
    class Product(Net):
        def forward(self, left, right):
            return self.body(left * right)

    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(x)), batch_size=4)
    with pytest.raises(ValueError, match="inputs are one array, and `model` takes left, right; give them as"):
        predict(Product(), loader)


class Rows(nn.Module):
    """Uses the first eight numbers of each row, so it accepts a list of images as if their channels were inputs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, LABELS))

    def forward(self, x):
        return self.body(x.flatten(1)[:, :8])


class Images(Dataset):
    def __init__(self, n, channels):
        self.images = torch.from_numpy(numbers(n, channels, 8, 8))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        return self.images[position]


@pytest.mark.parametrize(("channels", "size"), [(3, 1), (3, 2), (1, 2), (2, 2)])
def test_lists_of_images_are_refused(channels, size):
    images = Images(5 if channels == 2 else 6, channels)  # with two channels, only the last batch of five has 1 image
    for run in (predict, point):
        with pytest.raises(ValueError, match="`x` must give as many inputs as its dataset has items; got"):
            run(Rows(), DataLoader(images, batch_size=size, collate_fn=list))
    if size == 2:
        for run in (predict, point):
            with pytest.raises(ValueError, match="got a list of two arrays of shape .*which may be two inputs"):
                run(Rows(), iter([list(images.images[:2]), list(images.images[2:4])]))


def test_a_frozen_backbone_refuses_lists_of_images():
    images = Images(6, 3)
    backbone = nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(8))
    model = mcd.mc_frozen_backbone(backbone, nn.Sequential(nn.Dropout(0.5), nn.Linear(8, LABELS)))
    assert len(predict(model, DataLoader(images, batch_size=4))) == 6
    with pytest.raises(ValueError, match="as its dataset has items; got 3 in a batch of 2"):
        predict(model, DataLoader(images, batch_size=2, collate_fn=list))
    with pytest.raises(ValueError, match="which may be two inputs"):
        predict(model, iter([list(images.images[:2])]))


def test_lists_of_images_from_an_iterable_dataset_are_refused():
    images = Images(6, 3).images
    with pytest.raises(ValueError, match="as its dataset has items; got 3 in a batch of 2"):
        predict(Rows(), DataLoader(Stream(images), batch_size=2, collate_fn=list))


def test_batches_of_a_custom_batch_sampler_are_counted():
    images, sampler = Images(6, 3), [[0, 1], [2, 3], [4, 5]]
    assert len(predict(Rows(), DataLoader(images, batch_sampler=sampler))) == 6
    with pytest.raises(ValueError, match="got 9 inputs of 6 items"):  # as soon as there are too many
        predict(Rows(), DataLoader(images, batch_sampler=sampler, collate_fn=list))
    with pytest.raises(ValueError, match="got 3 inputs of 6 items"):
        predict(Rows(), DataLoader(Images(6, 1), batch_sampler=sampler, collate_fn=list))


def test_items_that_are_batches_may_have_any_length(x):
    parts: Any = [torch.from_numpy(x[:7]), torch.from_numpy(x[7:])]
    assert_same(predict(Net(), DataLoader(parts, batch_size=None)), predict(Net(), x))
    with pytest.raises(ValueError, match="set `batch_size` of a DataLoader whose items are batches to none"):
        predict(Net(), DataLoader(parts, batch_size=1, collate_fn=lambda items: items[0]))


def test_a_loader_may_have_images_as_targets():
    images = Images(6, 3).images
    for size in (2, 3, 4):
        assert len(predict(Rows(), DataLoader(TensorDataset(images, images), batch_size=size))) == 6
    assert len(predict(Rows(), iter([(images, images)]))) == 6  # a tuple is (inputs, target)


def test_inputs_and_targets_of_unequal_lengths_are_refused(x):
    with pytest.raises(ValueError, match="of one length; got 4 inputs and 5 targets"):
        predict(Net(), iter([(torch.from_numpy(x[:4]), torch.zeros(5))]))


class InOrder(Sampler):
    """A custom sampler."""

    def __init__(self, order):
        self.order = order

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


def loader_of(data, sampler=None, batches=None, **options: Any):
    options |= {} if batches else {"batch_size": 4}
    return DataLoader(data, sampler=sampler, batch_sampler=batches, **options)


NOT_IN_ORDER = {
    "subset": lambda data: loader_of(data, SubsetRandomSampler(range(N))),
    "weighted": lambda data: loader_of(data, WeightedRandomSampler([1.0] * N, N)),
    "batches": lambda data: loader_of(data, batches=BatchSampler(RandomSampler(data), 4, False)),
    "batches of a subset": lambda data: loader_of(data, batches=BatchSampler(SubsetRandomSampler(range(N)), 4, False)),
    "distributed": lambda data: loader_of(data, DistributedSampler(data, 1, 0, shuffle=True)),
    "a share": lambda data: loader_of(data, DistributedSampler(data, 2, 0, shuffle=False)),
    "backwards": lambda data: loader_of(data, InOrder(range(N)[::-1])),
    "too few": lambda data: loader_of(data, InOrder(range(N - 1))),
    "too many": lambda data: loader_of(data, InOrder([*range(N), 0])),
    "batches by length": lambda data: loader_of(data, batches=InOrder([[3, 1, 2], [0, *range(4, N)]])),
    "of a part": lambda data: loader_of(data, SequentialSampler(range(4))),
    "drop_last": lambda data: loader_of(data, drop_last=True),
    "drop_last of a stream": lambda data: DataLoader(Stream(data.tensors[0]), batch_size=4, drop_last=True),
}


@pytest.mark.parametrize("name", NOT_IN_ORDER)
def test_loaders_that_do_not_yield_all_inputs_in_order_are_refused(x, name):
    loader = NOT_IN_ORDER[name](TensorDataset(torch.from_numpy(x)))
    state = torch.get_rng_state()
    for run in (point, predict, mcd.mc_sites):
        with pytest.raises(ValueError, match="so results could not be matched to inputs"):
            run(Net(), loader)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "load",
    [
        lambda data: loader_of(data, SequentialSampler(data)),
        lambda data: loader_of(data, InOrder(range(N))),
        lambda data: loader_of(data, batches=InOrder([range(4), [4, 5], [*range(6, N)]])),
        lambda data: loader_of(data, DistributedSampler(data, 1, 0, shuffle=False)),
        lambda data: DataLoader(data, batch_size=N, drop_last=True),
        lambda data: loader_of(Subset(data, range(N))),
        lambda data: DataLoader(data, sampler=BatchSampler(SequentialSampler(data), 4, False), batch_size=None),
    ],
)
def test_loaders_that_yield_all_inputs_in_order_are_accepted(x, expected, load):
    assert_same(predict(Net(), load(TensorDataset(torch.from_numpy(x)))), expected)


# ---- constants, and mappings as one argument -----------------------------------------------------------------------


class Graph(nn.Module):
    """Nodes with features, whose neighbours are the same for all inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x, neighbours=None, scale=1.0, deep=False):
        if neighbours is not None:
            x = neighbours @ x
        x = F.dropout(torch.relu(self.first(x * scale)), 0.5, True)
        return self.head(x.relu() if deep else x).mean(dim=1)


@pytest.mark.parametrize("n", [STEPS, N])
@pytest.mark.parametrize(
    "wrap",
    [np.asarray, torch.from_numpy, lambda array: torch.from_numpy(array).double()],
    ids=["numpy", "torch", "double"],
)
def test_constants_are_passed_on_for_every_number_of_inputs(wrap, n):
    """Constants are never cut into batches, even if there are as many inputs as nodes."""
    x, neighbours = numbers(n, STEPS, 3), np.abs(numbers(STEPS, STEPS, seed=2))
    model = seeded(Graph)
    constants = {"neighbours": wrap(neighbours), "scale": 2.0, "deep": True}
    multiplied = 2 * (neighbours @ x)
    expected = predict(model, multiplied)
    assert_same(predict(model, x, constants=constants), expected)
    assert_same(predict(model, x, masks="shared", batch_size=3, constants=constants), expected)
    sampler = mcd.mc_sampler(model, x[:2], DRAWS, outputs="logits", seed=3, constants=constants)
    np.testing.assert_allclose(sampler(x).mean, expected.mean, atol=1e-6)
    y = np.arange(n) % 2
    rates = mcd.mc_compare_rates(model, x, y, [0.3], DRAWS, constants=constants, **OPTIONS)
    pd.testing.assert_frame_equal(rates, mcd.mc_compare_rates(model, multiplied, y, [0.3], DRAWS, **OPTIONS))
    table = mcd.mc_convergence(model, x, [4, 8], constants=constants, **OPTIONS).table
    pd.testing.assert_frame_equal(table, mcd.mc_convergence(model, multiplied, [4, 8], **OPTIONS).table)
    assert len(mcd.mc_sites(model, x, constants=constants)) == 1


@pytest.mark.parametrize("select", [torch.index_select, torch.Tensor.index_select])
def test_codes_of_index_select_out_of_range_are_refused(select):
    class Selects(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.drop = nn.Parameter(torch.eye(5)), nn.Dropout(0.5)

        def forward(self, code):
            return self.drop(select(self.table, 0, code))

    assert predict(Selects().eval(), np.arange(N) % 5, outputs="values").mean.shape == (N, 5)
    for run in (point, predict):
        with pytest.raises(ValueError, match="must hold whole numbers from 0 to 4, which .* got 7 in input number 3"):
            run(Selects().eval(), np.array([0, 1, 7, 3]), outputs="values")


def test_the_point_prediction_accepts_constants():
    class Scaled(Net):
        def forward(self, x, scale):
            return self.body(x * scale)

    x = numbers(N, 3)
    np.testing.assert_allclose(point(Scaled(), x, constants={"scale": 2.0}), point(Net(), 2 * x), atol=1e-6)


def test_a_constant_that_the_model_writes_to_does_not_change(x):
    class Writes(Net):
        def forward(self, x, scale):
            scale += 1
            return self.body(x * scale)

    scale = torch.ones(3)
    assert_same(predict(Writes(), x, constants={"scale": scale}), predict(Net(), 2 * x))
    assert scale.tolist() == [1, 1, 1]


def test_bad_constants_are_refused(x):
    with pytest.raises(ValueError, match="`constants` must give names to what `model` takes beside `x`; got 2"):
        predict(Net(), x, constants=2)
    with pytest.raises(ValueError, match=r'names that `model` takes \(left, right, labels\); got "scale"'):
        predict(Pair(), x, constants={"scale": 2})


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.drop = nn.Embedding(5, 3), nn.Dropout(0.5)

    def forward(self, ids, scale):
        scale = self.embed.weight[0] * scale
        return self.drop(self.embed(ids) * scale)


def test_a_failure_on_another_device_is_explained_with_the_constants_of_the_first():
    options = ModelOptions("values", device="cpu", constants={"scale": np.ones(3, np.float32)})
    network = model.network_of(Scaled(), options)
    placed = network.placed(network.source(np.arange(N) % 5 + 1).head(N), torch.device("cpu"))
    on_other_device = placed.with_constants({"scale": torch.ones(3, device="meta")})
    message = "must hold whole numbers from 0 to 4, which `model` looks up in `embed`; got 5 in input number 5"
    with pytest.raises(ValueError, match=message), network.failures_explained(on_other_device):
        raise RuntimeError


def test_names_that_the_model_does_not_accept_are_refused(x):
    for run in (predict, point, lambda model, x: mcd.mc_sites(model, x)):
        with pytest.raises(ValueError, match=r'`x` must have names that `model` takes \(left, right, .*got "rigth"'):
            run(Pair(), {"left": x, "rigth": x})


@pytest.mark.parametrize(
    "form", [lambda x: (x, x), lambda x: {"left": x, "right": x}, lambda x: iter([{"left": x, "right": x}])]
)
def test_constants_that_repeat_an_input_are_refused(x, form):
    for run in (predict, point):
        with pytest.raises(ValueError, match='`constants` must not name what `x` gives; got "right"'):
            run(Pair(), form(x), constants={"labels": None, "right": x})


def test_empty_constants_are_the_same_as_no_constants(x, expected):
    for empty in ({}, [], ()):
        assert_same(predict(Net(), x, constants=empty), expected)


def test_warnings_about_the_few_inputs_of_a_probe_are_not_shown(x):
    def spread_out(x):
        spread = x[:, :1].std(dim=0)  # torch warns of the degrees of freedom if there is only one input
        return x + 0 * spread.nan_to_num()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(Net(spread_out), x)


class Batch(nn.Module):
    """All inputs in one dictionary."""

    def __init__(self):
        super().__init__()
        self.embed, self.drop, self.head = nn.Embedding(9, 6), nn.Dropout(0.5), nn.Linear(6, 2)

    def forward(self, batch):
        words = self.drop(self.embed(batch["ids"])) * batch["mask"][..., None]
        return self.head(words.sum(dim=1))


@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_a_mapping_may_be_one_argument(masks):
    class TwoArguments(Batch):
        def forward(self, ids, mask):  # pyright: ignore[reportIncompatibleMethodOverride]
            return super().forward({"ids": ids, "mask": mask})

    ids, mask = np.arange(N * STEPS).reshape(N, STEPS) % 9, np.arange(N * STEPS).reshape(N, STEPS) % 3 > 0
    expected = predict(seeded(TwoArguments), (ids, mask), masks=masks)
    inputs = {"ids": ids, "mask": mask}
    for x in ((inputs,), {"batch": inputs}):
        assert_same(predict(seeded(Batch), x, masks=masks, batch_size=3), expected)
    stream = iter([(({"ids": ids[:4], "mask": mask[:4]},), None)])
    of_a_stream = predict(seeded(Batch), stream, masks=masks, batch_size=3)
    np.testing.assert_allclose(of_a_stream.mean, expected.mean[:4], atol=1e-6)
    ids[7, 1] = 9
    with pytest.raises(ValueError, match="`ids` must hold whole numbers from 0 to 8, .*; got 9 in input number 8"):
        predict(seeded(Batch), (inputs,), masks=masks)
    with pytest.raises(ValueError, match=r"must be as long as `its first array` \(11\); got length 5"):
        predict(seeded(Batch), ({"ids": ids, "mask": mask[:5]},))


# ---- outputs -------------------------------------------------------------------------------------------------------

RESULTS: dict[str, tuple[Callable[..., Any], Any]] = {  # how the network wraps its result, and `select`
    "tuple": (lambda out: (out * 0, out), 1),
    "list": (lambda out: [out, out * 0], 0),
    "mapping": (lambda out: OrderedDict(other=out * 0, scores=out), "scores"),
    "mapping by position": (lambda out: OrderedDict(other=out * 0, scores=out), 1),
    "function": (lambda out: (out - 1, 1), lambda result: result[0] + result[1]),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_part_of_the_result_is_selected(x, expected, name):
    wrap, select = RESULTS[name]
    model = Net(wrap=wrap)
    assert_same(predict(model, x, select=select), expected)
    of_the_part = point(model, x, outputs="logits", select=select)
    np.testing.assert_allclose(of_the_part, point(Net(), x, outputs="logits"), atol=1e-6)


def test_logits_of_hugging_face_need_no_select(x, expected):
    assert_same(predict(Net(wrap=lambda out: OrderedDict(loss=None, logits=out)), x), expected)


def test_several_parts_without_select_are_refused(x):
    with pytest.raises(TypeError, match=r"returns several parts \(2 without names\); say which with `select`"):
        predict(Net(wrap=lambda out: (out, out)), x)
    with pytest.raises(ValueError, match=r'`select` must name a part of what `model` returns \("a"\); got "b"'):
        predict(Net(wrap=lambda out: {"a": out}), x, select="b")
    with pytest.raises(TypeError, match='`model` must return a tensor; got "NoneType"'):
        predict(Net(wrap=lambda out: None), x)


class Maps(nn.Module):
    """Class maps (input, label, height, width), or (input, height, width, label) with `last`."""

    def __init__(self, last=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.drop, self.out = nn.Conv2d(2, 8, 3), nn.Dropout2d(0.5), nn.Conv2d(8, LABELS, 1)
        self.last = last

    def forward(self, x):
        out = self.out(self.drop(torch.relu(self.conv(x))))
        return out.movedim(1, -1) if self.last else out


@pytest.mark.parametrize("last", [False, True])
def test_segmentation_maps(last, monkeypatch):
    x = numbers(N, 2, 8, 9)
    names = list("abcde")
    result = predict(Maps(last), x, labels=names)
    assert result.mean.shape == (N, 6, 7, LABELS)
    assert result.predicted.shape == result.mutual_information.shape == (N, 6, 7)
    assert result.samples.shape == (DRAWS, N, 6, 7, LABELS)
    np.testing.assert_allclose(result.mean.sum(axis=-1), 1, atol=1e-6)
    monkeypatch.setattr("mcdropout.sampling.draw.DRAWS_BYTES", 3 * 4 * DRAWS * 6 * 7 * LABELS)  # three inputs at a time
    assert_same(predict(Maps(last), x, labels=names), result)
    with pytest.raises(ValueError, match="needs one row of probabilities per input"):
        result.to_pandas()
    restored = MCPrediction.from_state(*result.to_state())
    np.testing.assert_array_equal(restored.predicted, result.predicted)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_a_single_channel_belongs_to_the_second_of_two_labels(last, outputs):
    class Single(Maps):
        def forward(self, x):
            out = super().forward(x)[..., :1] if last else super().forward(x)[:, :1]
            return out.sigmoid() if outputs == "probabilities" else out

    def add_first_label(out):
        axis = out.ndim - 1 if last else 1
        return torch.cat([1 - out, out] if outputs == "probabilities" else [torch.zeros_like(out), out], dim=axis)

    x = numbers(N, 2, 8, 9)
    options = {"outputs": outputs, "labels": ["no", "yes"]}
    result = predict(Single(last), x, **options)
    assert result.mean.shape == (N, 6, 7, 2)
    assert_same(result, predict(Single(last), x, select=add_first_label, **options))
    np.testing.assert_allclose(
        point(Single(last), x, **options), point(Single(last), x, select=add_first_label, **options), atol=1e-6
    )
    with pytest.raises(ValueError, match="2 labels fit 2 axes.*two for a single channel"):
        predict(Single(last), numbers(N, 2, 8, 4), **options)  # maps are 2 wide too


def test_the_message_on_multilabel_outputs_does_not_suggest_a_softmax(x):
    model = Net(wrap=torch.sigmoid)
    for run in (point, predict):
        with pytest.raises(
            ValueError, match="do not sum to 1, as where several labels.*one label at a time by `select`"
        ):
            run(model, x, outputs="probabilities", labels=list("abcde"))
    of_one_label = predict(model, x, outputs="probabilities", labels=["no", "yes"], select=lambda out: out[:, 3])
    np.testing.assert_allclose(of_one_label.mean[:, 1], predict(model, x, outputs="values").mean[:, 3], atol=1e-6)


def test_labels_must_identify_their_axis():
    with pytest.raises(ValueError, match="`labels` must tell the axis of the classes in outputs of shape"):
        predict(Maps(), numbers(N, 2, 8, 9))
    with pytest.raises(ValueError, match="5 labels fit 2 axes"):
        predict(Maps(), numbers(N, 2, 7, 9), labels=list("abcde"))


def test_sequences_of_values():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    result = predict(model, numbers(N, STEPS, 3), outputs="values")
    assert result.mean.shape == (N, STEPS, 2)
    assert result.conf_int.shape == (N, STEPS, 2, 2)
    assert result.to_pandas().shape[0] == N


# ---- tolerance -----------------------------------------------------------------------------------------------------


def test_tolerance_stops_each_input_at_its_own_number_of_draws(x):
    result = predict(Net(), x, 400, tolerance=0.02)
    assert len(set(result.n_samples)) > 1
    assert (result.mcse.max(axis=1) <= 0.02)[result.n_samples < 400].all()
    n_finite = np.isfinite(result.samples[..., 0]).sum(axis=0)
    np.testing.assert_array_equal(n_finite, result.n_samples)
    all_draws = predict(Net(), x, 400).samples
    for i, n_drawn in enumerate(result.n_samples):
        np.testing.assert_allclose(result.samples[:n_drawn, i], all_draws[:n_drawn, i], atol=1e-6)
        mean = all_draws[:n_drawn, i].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(result.mean[i], mean, atol=1e-6)


@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_tolerance_does_not_depend_on_other_inputs(x, masks):
    expected = predict(Net(), x, 200, tolerance=0.02, masks=masks)
    for batch_size in (1, 4):
        result = predict(Net(), x, 200, tolerance=0.02, masks=masks, batch_size=batch_size)
        np.testing.assert_array_equal(result.n_samples, expected.n_samples)
        np.testing.assert_allclose(result.mean, expected.mean, atol=1e-6)
    of_two_inputs = predict(Net(), x[[7, 2]], 200, tolerance=0.02, masks=masks, ids=[7, 2])
    np.testing.assert_array_equal(of_two_inputs.n_samples, expected[[7, 2]].n_samples)
    np.testing.assert_allclose(of_two_inputs.mean, expected[[7, 2]].mean, atol=1e-6)


def test_tolerance_works_on_streams_and_without_kept_draws(x):
    expected = predict(Net(), x, 200, tolerance=0.02)
    of_a_stream = predict(Net(), iter(torch.from_numpy(x).split(4)), 200, tolerance=0.02)
    np.testing.assert_array_equal(of_a_stream.n_samples, expected.n_samples)
    np.testing.assert_allclose(of_a_stream.samples, expected.samples, atol=1e-6)
    assert predict(Net(), x, 200, tolerance=0.02, keep_samples=False).samples is None


def test_a_tiny_tolerance_needs_all_draws_and_a_wide_one_the_fewest(x):
    assert predict(Net(), x, 50, tolerance=1e-9).n_samples.tolist() == [50] * N
    assert predict(Net(), x, 50, tolerance=10).n_samples.tolist() == [10] * N
    assert predict(Net(), x, 7, tolerance=10).n_samples.tolist() == [7] * N


def test_bad_tolerance_is_refused(x):
    with pytest.raises(ValueError, match="`tolerance` must be a number above 0; got -1"):
        predict(Net(), x, tolerance=-1)


def test_a_prediction_with_tolerance_equals_the_one_from_its_state(x):
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    result = predict(model, x, 100, tolerance=0.05, outputs="mean_log_variance")
    restored: Any = MCPrediction.from_state(*result.to_state())
    np.testing.assert_array_equal(restored.n_samples, result.n_samples)
    np.testing.assert_array_equal(restored[[3, 1]].n_samples, result.n_samples[[3, 1]])
    y = numbers(N, 1)
    n_draws = result.n_samples[4]
    draws = result.samples[:n_draws, 4].astype(np.float64)
    noise = result.noise_variances[:n_draws, 4].astype(np.float64)
    density = np.exp(-0.5 * (y[4] - draws) ** 2 / noise) / np.sqrt(2 * np.pi * noise)
    np.testing.assert_allclose(result.log_density(y)[4], np.log(density.mean(axis=0)), rtol=1e-6)


# ---- the prepared sampler ------------------------------------------------------------------------------------------


def test_the_prepared_sampler_gives_the_numbers_of_mc_predict(x):
    sampler = mcd.mc_sampler(Net(), x[:2], DRAWS, outputs="logits", seed=3)
    expected = predict(Net(), x)
    for part in (slice(0, 1), slice(4, 9)):
        np.testing.assert_allclose(sampler(x[part]).mean, expected.mean[part], atol=1e-6)
    assert sampler(x[:1]).samples is None


def test_the_prepared_sampler_checks_each_input(x):
    sampler = mcd.mc_sampler(Net(), x[:2], DRAWS, outputs="logits", seed=3)
    bad = x.copy()
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match="got a missing value .NA or NaN. in input number 3 of 11"):
        sampler(bad)
    assert len(sampler(x)) == N


# ---- labels of a network of the package ----------------------------------------------------------------------------

ANIMALS = ("dog", "cat", "emu")
FUNCTIONS = {
    "mc_predict": lambda net, x, labels: mcd.mc_predict(net, x, DRAWS, labels=labels, progress=False),
    "mc_predict_point": lambda net, x, labels: mcd.mc_predict_point(net, x, labels=labels, progress=False),
    "mc_sampler": lambda net, x, labels: mcd.mc_sampler(net, x, DRAWS, labels=labels),
    "mc_convergence": lambda net, x, labels: mcd.mc_convergence(net, x, (2, 5), labels=labels, progress=False),
    "mc_compare_rates": lambda net, x, labels: mcd.mc_compare_rates(
        net, x, np.array(ANIMALS)[np.arange(N) % 3], (0.2, 0.5), DRAWS, labels=labels, progress=False
    ),
}
NETWORKS = {
    "dropout": lambda: mcd.mc_mlp(3, ANIMALS, dropout=0.3),
    "Bayesian": lambda: mcd.mc_to_bayesian(mcd.mc_mlp(3, ANIMALS)),
    "frozen backbone": lambda: mcd.mc_frozen_backbone(nn.Linear(3, 4), mcd.mc_mlp(4, ANIMALS, dropout=0.3)),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("labels", [["cat", "dog", "emu"], ["dog", "cat"], ["dog", "cat", "fox"]])
def test_labels_that_differ_from_those_of_the_network_are_refused(function, kind, labels, x):
    got = ", ".join(f'"{label}"' for label in labels)
    message = f'`labels` must be left out, or be those of `model` in their order, "dog", "cat", "emu"; got {got}.'
    with pytest.raises(ValueError, match=re.escape(message)):
        FUNCTIONS[function](NETWORKS[kind](), x, labels)


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name != "mc_compare_rates"])
def test_the_labels_of_the_network_may_be_repeated(function, x):
    FUNCTIONS[function](NETWORKS["dropout"](), x, ANIMALS)
    prediction = mcd.mc_predict(mcd.mc_mlp(3, [0, 1], dropout=0.3), x, DRAWS, labels=["0", "1"], progress=False)
    assert prediction.labels == (0, 1)  # the labels of the network, with their type


def test_a_network_for_values_has_no_labels(x):
    message = '`labels` must be left out where `model` is a network for values; got "cat", "dog".'
    with pytest.raises(ValueError, match=re.escape(message)):
        mcd.mc_predict(mcd.mc_mlp(3, task="regression"), x, DRAWS, labels=["cat", "dog"], progress=False)


def test_true_labels_are_matched_to_labels_by_name(x):
    names = np.array(ANIMALS)[np.arange(N) % 3]
    net = mcd.mc_mlp(3, ANIMALS, dropout=0.3)
    containers = [
        names,
        pd.Categorical(names, categories=["emu", "dog", "cat"]),
        pd.Series(pd.Categorical(names, categories=["emu", "fox", "dog", "cat"])),
        pd.get_dummies(pd.Series(names))[["cat", "emu", "dog"]],
    ]
    prediction = mcd.mc_predict(net, x, DRAWS, seed=3, progress=False)
    assert {mcd.mc_scores(prediction, y).accuracy for y in containers} == {
        float(np.mean(prediction.predicted == names))
    }
    networks = [mcd.mc_fit(mcd.mc_mlp(3, ANIMALS), x, y, epochs=2, seed=1, progress=False) for y in containers]
    weights = [network.get_parameter("layers.output.weight") for network in networks]
    assert all(torch.equal(weights[0], others) for others in weights[1:])
