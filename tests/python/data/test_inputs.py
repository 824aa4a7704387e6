"""What goes in and what comes out: several inputs, streams, parts of outputs, any number of axes, tolerance."""

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
def test_streams_give_the_same(x, wrap, masks, batch_size):
    state = torch.get_rng_state()
    got = predict(Net(), wrap(torch.from_numpy(x)), masks=masks, batch_size=batch_size)
    assert_same(got, predict(Net(), x, masks=masks))
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_by_keyword_leave_the_targets_aside(x, expected):
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


def made(make):
    """A module whose weights do not depend on what ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def point(model, x, **options):
    return mcd.mc_predict_point(model, x, **({"outputs": "values", "progress": False} | options))


class Sensor(nn.Module):
    """A transformer of measurements, with a mask that is true where there is nothing."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.2, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 2)

    def forward(self, x, padding):
        return self.head(self.body(self.first(x), src_key_padding_mask=padding)[:, 0])


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("by", ["position", "keyword"])
def test_truth_values_hide_in_attention_as_they_do_in_the_model(by, wrap):
    model, x = made(Sensor), numbers(N, STEPS, 3)
    padding = np.arange(STEPS) >= np.array([1, 2, 3] * N)[:N, None]
    with torch.no_grad():
        own = model(torch.from_numpy(x), torch.from_numpy(padding)).numpy()
    given = (wrap(x), wrap(padding)) if by == "position" else {"x": wrap(x), "padding": wrap(padding)}
    np.testing.assert_allclose(point(model, given), own, atol=1e-6)  # rounding of float32
    x[padding] = 99  # what is hidden
    hidden = {"x": x, "padding": padding}
    np.testing.assert_allclose(predict(model, hidden).mean, predict(model, given).mean, atol=1e-6)


def test_a_mask_of_whole_numbers_is_refused_by_attention_and_never_added():
    x, padding = numbers(N, STEPS, 3), np.ones((N, STEPS), np.int64)
    padding[:, 0] = 0
    for run in (point, predict):
        with pytest.raises(ValueError, match="only bool and floating types of src_key_padding_mask are supported"):
            run(made(Sensor), (x, padding))


def test_a_mask_may_be_subtracted_from_one_though_it_is_of_truth_values():
    model = Net(lambda x, mask: x * (1 - mask))  # torch subtracts no truth values
    x, mask = numbers(N, 3), np.arange(3 * N).reshape(N, 3) % 2 == 0
    np.testing.assert_allclose(point(model, (x, mask)), point(Net(), x * ~mask), atol=1e-6)


class Codes(nn.Module):
    """Numeric columns beside the code of a category, through an embedding, as one-hot rows or in a table of its own."""

    def __init__(self, through="embedding"):
        super().__init__()
        self.through, self.embed, self.table = through, nn.Embedding(5, 5), nn.Parameter(torch.eye(5))
        self.head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))

    def forward(self, columns, code):
        ways = {"embedding": self.embed, "one_hot": lambda one: F.one_hot(one, 5), "table": lambda one: self.table[one]}
        return self.head(torch.cat([columns, ways[self.through](code)], dim=1))


@pytest.mark.parametrize("kind", ["int64", "int32", "int16", "int8", "uint8", "float32", "float64"])
@pytest.mark.parametrize("through", ["embedding", "one_hot", "table"])
def test_codes_of_any_type_are_looked_up(through, kind):
    model = made(lambda: Codes(through))
    columns, codes = numbers(N, 3), np.arange(N) % 5
    with torch.no_grad():
        own = model(torch.from_numpy(columns), torch.from_numpy(codes)).numpy()
    np.testing.assert_allclose(point(model, (columns, codes.astype(kind))), own, atol=1e-6)
    by_keyword = predict(model, {"columns": columns, "code": codes.astype(kind)})
    assert_same(by_keyword, predict(model, (columns, codes)))


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "bool"])
def test_whole_columns_go_with_codes_as_floating_ones_do(kind):
    columns, codes = (np.arange(3 * N).reshape(N, 3) % 7).astype(kind), np.arange(N) % 5
    assert_same(predict(made(Codes), (columns, codes)), predict(made(Codes), (columns.astype(np.float32), codes)))


class FirstNumbers(Codes):
    """The numeric columns meet weights first, which take floating numbers alone."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, columns, code):
        return super().forward(self.linear(columns), code)


def test_whole_columns_become_floating_where_codes_beside_them_stay_whole():
    columns, codes = np.arange(3 * N).reshape(N, 3) % 7, np.arange(N) % 5
    model = made(FirstNumbers)
    assert_same(predict(model, (columns, codes)), predict(model, (columns.astype(np.float32), codes)))
    sampler = mcd.mc_sampler(model, (columns[:2], codes[:2]), DRAWS, outputs="logits", seed=3)
    np.testing.assert_allclose(sampler((columns, codes)).mean, predict(model, (columns, codes)).mean, atol=1e-6)


@pytest.mark.parametrize("kind", ["uint8", "int32", "int64", "bool"])
def test_pixels_and_features_of_whole_numbers_go_on_working(kind):
    x = np.random.default_rng(0).integers(0, 256, (N, 2, 8, 9)).astype(kind)
    assert_same(predict(Maps(), x, labels=list("abcde")), predict(Maps(), x.astype(np.float32), labels=list("abcde")))
    features = x[:, 0, 0, :3]
    assert_same(predict(Net(), features), predict(Net(), features.astype(np.float32)))
    assert_same(predict(Net(), torch.from_numpy(features)), predict(Net(), features.astype(np.float32)))
    assert_same(predict(Net(lambda x: x / 255), features), predict(Net(lambda x: x / 255), features.astype(np.float32)))


def test_tables_of_whole_numbers_keep_their_type(x):
    seen = []
    model = Net(lambda one: (seen.append(one.dtype), one.float())[1])
    for table, dtype in [
        (pd.DataFrame({"a": [1, 2], "b": [3, 4], "c": [5, 6]}), torch.int64),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4], "c": [5, 6]}, dtype="Int64"), torch.int64),
        (pd.DataFrame({"a": [True, False], "b": [True, True], "c": [False, True]}), torch.bool),
        (pd.DataFrame({"a": [1, 2], "b": [0.5, 4], "c": [5, 6]}), torch.float32),
    ]:
        seen.clear()
        point(model, table)
        assert set(seen) == {dtype}


def test_dropout_on_whole_numbers_drops_floating_ones():
    model = nn.Sequential(nn.Dropout(0.5), nn.Identity())  # a mask of whole numbers would be 0 or 1, not 0 or 2
    x = np.full((N, 3), 4)
    assert set(np.unique(predict(model, x, 50, outputs="values").samples)) == {0.0, 8.0}


def as_stream(kinds, values):
    return iter([values.astype(kind) for kind in kinds])


KINDS_OF_FEATURES = (np.float32, np.int64, np.uint8, bool, np.float64, np.int32)
KINDS_OF_CODES = (np.int64, np.float64, np.int8, np.uint8, np.int64)


def codes_alone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3))


@pytest.mark.parametrize("kinds", [KINDS_OF_FEATURES, KINDS_OF_FEATURES[::-1]])
@pytest.mark.parametrize("start", [nn.Identity, nn.Dropout])
def test_features_of_any_type_may_follow_those_of_another(kinds, start):
    zeros_and_ones = (numbers(N, 3) > 0).astype(np.float32)
    model = nn.Sequential(start(), Net())
    expected = predict(model, zeros_and_ones)
    sampler = mcd.mc_sampler(model, zeros_and_ones.astype(kinds[0]), DRAWS, outputs="logits", seed=3)
    for kind in kinds:
        np.testing.assert_allclose(sampler(zeros_and_ones.astype(kind)).mean, expected.mean, atol=1e-6)
    streamed = predict(model, as_stream(kinds, zeros_and_ones))
    np.testing.assert_allclose(streamed.mean, np.tile(expected.mean, (len(kinds), 1)), atol=1e-6)
    point = mcd.mc_predict_point(model, as_stream(kinds, zeros_and_ones), outputs="logits", progress=False)
    np.testing.assert_allclose(point[-N:], point[:N], atol=1e-6)


def test_lists_and_tables_of_whole_numbers_may_follow_floating_ones(x):
    sampler = mcd.mc_sampler(Net(), x, DRAWS, outputs="logits", seed=3)
    expected = predict(Net(), np.array([[1.0, 2.0, 3.0]]))
    for one in ([[1, 2, 3]], pd.DataFrame({"a": [1], "b": [2], "c": [3]}), pd.DataFrame([[1.0, 2, 3]])):
        np.testing.assert_allclose(sampler(one).mean, expected.mean, atol=1e-6)


@pytest.mark.parametrize("kinds", [KINDS_OF_CODES, KINDS_OF_CODES[1:]])
def test_codes_of_any_type_may_follow_those_of_another(kinds):
    codes = np.arange(2 * N).reshape(N, 2) % 5
    expected = predict(codes_alone(), codes)
    sampler = mcd.mc_sampler(codes_alone(), codes.astype(kinds[0]), DRAWS, outputs="logits", seed=3)
    for kind in kinds:
        np.testing.assert_allclose(sampler(codes.astype(kind)).mean, expected.mean, atol=1e-6)
    streamed = predict(codes_alone(), as_stream(kinds, codes))
    np.testing.assert_allclose(streamed.mean, np.tile(expected.mean, (len(kinds), 1)), atol=1e-6)


def test_inputs_that_were_refused_do_not_settle_how_others_of_their_type_are_taken():
    codes = np.arange(2 * N).reshape(N, 2) % 5
    sampler = mcd.mc_sampler(codes_alone(), codes, DRAWS, outputs="logits", seed=3)
    for _ in range(2):
        with pytest.raises(ValueError, match="^`model` fails on"):
            sampler(codes + 0.5)
    np.testing.assert_allclose(sampler(codes + 0.0).mean, sampler(codes).mean, atol=1e-6)


def test_floating_numbers_are_settled_without_a_pass(x, monkeypatch):
    passes, tried = [], torch_model.TorchModel._failure
    monkeypatch.setattr(torch_model.TorchModel, "_failure", lambda *given: passes.append(given) or tried(*given))
    sampler = mcd.mc_sampler(Net(), x, DRAWS, outputs="logits", seed=3)
    sampler(x)
    sampler(x[:2])
    assert not passes
    predict(Net(), as_stream((bool, bool, float, bool), x > 0))
    assert len(passes) == 4  # three ways for truth values, one for floating numbers that are whole


@pytest.mark.parametrize(("late", "number"), [(False, 2), (True, 10)])
@pytest.mark.parametrize(("value", "words"), [(-1, "-1"), (5, "5")])
def test_codes_out_of_range_are_named(late, number, value, words):
    columns, codes = numbers(N, 3), np.arange(N) % 5
    codes[number - 1] = value
    text = (
        f"must hold whole numbers from 0 to 4, which `model` looks up in `embed`; got {words} in input number {number}"
    )
    for run in (point, predict, lambda model, x: mcd.mc_sites(model, x) if not late else predict(model, x)):
        with pytest.raises(ValueError, match="`x`'s array number 2 " + text):
            run(made(Codes), (columns, codes))
        with pytest.raises(ValueError, match="`code` " + text):
            run(made(Codes), {"columns": columns, "code": codes.astype(float)})
    with pytest.raises(ValueError, match=text):
        predict(made(Codes), (columns, codes), batch_size=2)


def test_codes_that_are_not_whole_are_named():
    codes = np.r_[np.zeros(N - 1), 1.5]
    with pytest.raises(ValueError, match="`x`'s array number 2 must hold whole numbers, .* got 1.5"):
        predict(made(Codes), (numbers(N, 3), codes))


def test_both_failures_of_whole_numbers_are_told():
    with pytest.raises(
        ValueError, match=r"as they are \(RuntimeError, .*\) and as floating point numbers .*\(4x7 and 3x8|3x7"
    ):
        predict(Net(), np.ones((N, 7), int))


def test_one_row_without_the_axis_of_inputs_is_told_apart():
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
    """Two arrays, the second of which may be left out, and a target that models with a loss have."""

    def __init__(self):
        super().__init__()

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
    ids=["tuples", "lists", "mapping and target", "mapping with labels", "mapping with more than the model takes"],
)
def test_batches_give_all_inputs(x, batch):
    left, right = torch.from_numpy(x), torch.from_numpy(x + 1)
    parts = zip(left.split(4), right.split(4), strict=True)
    assert_same(predict(Pair(), (batch(*pair) for pair in parts)), predict(Pair(), (x, x + 1)))


class Named(Net):
    """Whose second input is called as targets are, and may be left out if it is `y`."""

    def __init__(self, name):
        super().__init__()
        self.forward = self.with_y if name == "y" else self.with_labels

    def with_y(self, left, y=None):
        return self.body(left if y is None else left * y)

    def with_labels(self, left, labels):
        return self.body(left * labels)


def test_a_key_that_the_model_needs_is_no_target(x):
    for name in ("y", "labels"):
        batch = {"left": torch.from_numpy(x), name: torch.from_numpy(x + 1)}
        assert_same(predict(Named(name), iter([batch])), predict(Pair(), (x, x + 1)))


def test_a_misspelt_key_is_refused(x):
    batch = {"left": torch.from_numpy(x), "rigth": torch.from_numpy(x)}
    with pytest.raises(ValueError, match='batches with "rigth", which `model` does not take .it takes left, right'):
        predict(Pair(), iter([batch]))


def test_a_pair_that_is_one_input_of_two_is_refused(x):
    class Both(Net):
        def forward(self, left, right):
            return self.body(left * right)

    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(x)), batch_size=4)
    with pytest.raises(ValueError, match="inputs are one array, and `model` takes left, right; give them as"):
        predict(Both(), loader)


class Rows(nn.Module):
    """Takes rows of eight, and whatever else: lists of images go through it as if their channels were inputs."""

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

    def __getitem__(self, place):
        return self.images[place]


class Flowing(IterableDataset):
    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(self.images)


@pytest.mark.parametrize(("channels", "size"), [(3, 1), (3, 2), (1, 2), (2, 2)])
def test_lists_of_images_are_refused(channels, size):
    images = Images(5 if channels == 2 else 6, channels)  # five of two channels: their last batch alone gives it away
    for run in (predict, point):
        with pytest.raises(ValueError, match="`x` must give as many inputs as its dataset has items; got"):
            run(Rows(), DataLoader(images, batch_size=size, collate_fn=list))
    if size == 2:
        for run in (predict, point):
            with pytest.raises(ValueError, match="got a list of two arrays of shape .*which may be two inputs"):
                run(Rows(), iter([list(images.images[:2]), list(images.images[2:4])]))


def test_lists_of_images_are_refused_behind_a_backbone():
    images = Images(6, 3)
    backbone = nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(8))
    model = mcd.mc_frozen_backbone(backbone, nn.Sequential(nn.Dropout(0.5), nn.Linear(8, LABELS)))
    assert len(predict(model, DataLoader(images, batch_size=4))) == 6
    with pytest.raises(ValueError, match="as its dataset has items; got 3 in a batch of 2"):
        predict(model, DataLoader(images, batch_size=2, collate_fn=list))
    with pytest.raises(ValueError, match="which may be two inputs"):
        predict(model, iter([list(images.images[:2])]))


def test_lists_of_images_without_end_are_refused():
    images = Images(6, 3).images
    with pytest.raises(ValueError, match="as its dataset has items; got 3 in a batch of 2"):
        predict(Rows(), DataLoader(Flowing(images), batch_size=2, collate_fn=list))


def test_batches_by_a_sampler_of_the_users_own_are_counted():
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
        predict(Net(), DataLoader(parts, batch_size=1, collate_fn=lambda some: some[0]))


def test_images_whose_targets_are_images_are_taken_from_a_loader():
    images = Images(6, 3).images
    for size in (2, 3, 4):
        assert len(predict(Rows(), DataLoader(TensorDataset(images, images), batch_size=size))) == 6
    assert len(predict(Rows(), iter([(images, images)]))) == 6  # as they are in a tuple


def test_inputs_and_targets_of_unequal_lengths_are_refused(x):
    with pytest.raises(ValueError, match="of one length; got 4 inputs and 5 targets"):
        predict(Net(), iter([(torch.from_numpy(x[:4]), torch.zeros(5))]))


class InOrder(Sampler):
    """A sampler of one's own."""

    def __init__(self, order):
        self.order = order

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


def loader_of(data, sampler=None, batches=None, **more):
    return DataLoader(data, sampler=sampler, batch_sampler=batches, **({} if batches else {"batch_size": 4}), **more)


SHUFFLED = {
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


@pytest.mark.parametrize("name", SHUFFLED)
def test_loaders_that_do_not_give_all_inputs_in_order_are_refused(x, name):
    loader = SHUFFLED[name](TensorDataset(torch.from_numpy(x)))
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
def test_loaders_that_give_all_inputs_in_order_are_taken(x, expected, load):
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
    "wrap", [np.asarray, torch.from_numpy, lambda one: torch.from_numpy(one).double()], ids=["numpy", "torch", "double"]
)
def test_constants_are_passed_on_whatever_the_number_of_inputs(wrap, n):
    """Also where there are as many inputs as nodes: constants are never cut."""
    x, neighbours = numbers(n, STEPS, 3), np.abs(numbers(STEPS, STEPS, seed=2))
    model = made(Graph)
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
def test_codes_by_which_rows_are_selected_are_named_too(select):
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


def test_the_point_prediction_takes_constants():
    class Scaled(Net):
        def forward(self, x, scale):
            return self.body(x * scale)

    x = numbers(N, 3)
    np.testing.assert_allclose(point(Scaled(), x, constants={"scale": 2.0}), point(Net(), 2 * x), atol=1e-6)


def test_a_constant_that_the_model_writes_to_stays_as_it_was(x):
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


def test_a_failure_on_another_device_is_looked_at_with_the_constants_of_the_first():
    network = model.network_of(Scaled(), "values", None, None, "float32", "cpu", {"scale": np.ones(3, np.float32)})
    placed = network.placed(network.feed(np.arange(N) % 5 + 1).head(N), torch.device("cpu"))
    there = placed.with_constants({"scale": torch.ones(3, device="meta")})
    said = "must hold whole numbers from 0 to 4, which `model` looks up in `embed`; got 5 in input number 5"
    with pytest.raises(ValueError, match=said), network.telling(there):
        raise RuntimeError


def test_names_that_the_model_does_not_take_are_refused(x):
    for run in (predict, point, lambda model, x: mcd.mc_sites(model, x)):
        with pytest.raises(ValueError, match=r'`x` must have names that `model` takes \(left, right, .*got "rigth"'):
            run(Pair(), {"left": x, "rigth": x})


@pytest.mark.parametrize(
    "given", [lambda x: (x, x), lambda x: {"left": x, "right": x}, lambda x: iter([{"left": x, "right": x}])]
)
def test_constants_that_repeat_an_input_are_refused(x, given):
    for run in (predict, point):
        with pytest.raises(ValueError, match='`constants` must not name what `x` gives; got "right"'):
            run(Pair(), given(x), constants={"labels": None, "right": x})


def test_empty_constants_are_none(x, expected):
    for empty in ({}, [], ()):
        assert_same(predict(Net(), x, constants=empty), expected)


def test_warnings_about_the_few_inputs_of_a_probe_are_not_shown(x):
    def spread_out(x):
        spread = x[:, :1].std(dim=0)  # of one input alone torch warns of its degrees of freedom
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
    expected = predict(made(TwoArguments), (ids, mask), masks=masks)
    one = {"ids": ids, "mask": mask}
    for x in (
        (one,),
        {"batch": one},
        iter([(({"ids": ids[:4], "mask": mask[:4]},), None), ({"batch": one}, None)][:1]),
    ):
        got = predict(made(Batch), x, masks=masks, batch_size=3)
        assert_same(got, expected) if len(got) == N else np.testing.assert_allclose(
            got.mean, expected.mean[:4], atol=1e-6
        )
    ids[7, 1] = 9
    with pytest.raises(ValueError, match="`ids` must hold whole numbers from 0 to 8, .*; got 9 in input number 8"):
        predict(made(Batch), (one,), masks=masks)
    with pytest.raises(ValueError, match=r"must be as long as `its first array` \(11\); got length 5"):
        predict(made(Batch), ({"ids": ids, "mask": mask[:5]},))


# ---- outputs -------------------------------------------------------------------------------------------------------

GIVES = {
    "tuple": (lambda out: (out * 0, out), 1),
    "list": (lambda out: [out, out * 0], 0),
    "mapping": (lambda out: OrderedDict(other=out * 0, scores=out), "scores"),
    "mapping by place": (lambda out: OrderedDict(other=out * 0, scores=out), 1),
    "function": (lambda out: (out - 1, 1), lambda result: result[0] + result[1]),
}


@pytest.mark.parametrize("name", GIVES)
def test_a_part_is_selected(x, expected, name):
    give, select = GIVES[name]
    assert_same(predict(Net(wrap=give), x, select=select), expected)
    point = mcd.mc_predict_point(Net(wrap=give), x, outputs="logits", select=select, progress=False)
    np.testing.assert_allclose(point, mcd.mc_predict_point(Net(), x, outputs="logits", progress=False), atol=1e-6)


def test_hugging_faces_logits_need_no_select(x, expected):
    assert_same(predict(Net(wrap=lambda out: OrderedDict(loss=None, logits=out)), x), expected)


def test_several_parts_are_sampler_about(x):
    with pytest.raises(TypeError, match=r"returns several parts \(2 without names\); say which with `select`"):
        predict(Net(wrap=lambda out: (out, out)), x)
    with pytest.raises(ValueError, match=r'`select` must name a part of what `model` returns \("a"\); got "b"'):
        predict(Net(wrap=lambda out: {"a": out}), x, select="b")
    with pytest.raises(TypeError, match='`model` must return a tensor; got "NoneType"'):
        predict(Net(wrap=lambda out: None), x)


class Maps(nn.Module):
    """Class maps (input, label, height, width), or labels last."""

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
    back = MCPrediction.from_state(*result.to_state())
    np.testing.assert_array_equal(back.predicted, result.predicted)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_a_single_channel_is_that_of_the_second_of_two_labels(last, outputs):
    class Single(Maps):
        def forward(self, x):
            out = super().forward(x)[..., :1] if last else super().forward(x)[:, :1]
            return out.sigmoid() if outputs == "probabilities" else out

    def both(out):
        axis = out.ndim - 1 if last else 1
        return torch.cat([1 - out, out] if outputs == "probabilities" else [torch.zeros_like(out), out], dim=axis)

    x = numbers(N, 2, 8, 9)
    options = {"outputs": outputs, "labels": ["no", "yes"]}
    result = predict(Single(last), x, **options)
    assert result.mean.shape == (N, 6, 7, 2)
    assert_same(result, predict(Single(last), x, select=both, **options))
    np.testing.assert_allclose(
        point(Single(last), x, **options), point(Single(last), x, select=both, **options), atol=1e-6
    )
    with pytest.raises(ValueError, match="2 labels fit 2 axes.*two for a single channel"):
        predict(Single(last), numbers(N, 2, 8, 4), **options)  # maps are 2 wide too


def test_several_labels_at_once_are_not_led_to_a_softmax(x):
    model = Net(wrap=torch.sigmoid)
    for run in (point, predict):
        with pytest.raises(
            ValueError, match="do not sum to 1, as where several labels.*one label at a time by `select`"
        ):
            run(model, x, outputs="probabilities", labels=list("abcde"))
    one = predict(model, x, outputs="probabilities", labels=["no", "yes"], select=lambda out: out[:, 3])
    np.testing.assert_allclose(one.mean[:, 1], predict(model, x, outputs="values").mean[:, 3], atol=1e-6)


def test_labels_must_tell_their_axis():
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


def test_tolerance_stops_each_input_when_it_is_known_well_enough(x):
    result = predict(Net(), x, 400, tolerance=0.02)
    assert len(set(result.n_samples)) > 1
    assert (result.mcse.max(axis=1) <= 0.02)[result.n_samples < 400].all()
    drawn = np.isfinite(result.samples[..., 0]).sum(axis=0)
    np.testing.assert_array_equal(drawn, result.n_samples)
    everything = predict(Net(), x, 400)
    for i, n_drawn in enumerate(result.n_samples):
        np.testing.assert_allclose(result.samples[:n_drawn, i], everything.samples[:n_drawn, i], atol=1e-6)
        mean = everything.samples[:n_drawn, i].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(result.mean[i], mean, atol=1e-6)


@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_tolerance_does_not_look_at_the_neighbours(x, masks):
    together = predict(Net(), x, 200, tolerance=0.02, masks=masks)
    for batch_size in (1, 4):
        other = predict(Net(), x, 200, tolerance=0.02, masks=masks, batch_size=batch_size)
        np.testing.assert_array_equal(other.n_samples, together.n_samples)
        np.testing.assert_allclose(other.mean, together.mean, atol=1e-6)
    part = together[[7, 2]]
    alone = predict(Net(), x[[7, 2]], 200, tolerance=0.02, masks=masks, ids=[7, 2])
    np.testing.assert_array_equal(alone.n_samples, part.n_samples)
    np.testing.assert_allclose(alone.mean, part.mean, atol=1e-6)


def test_tolerance_works_on_streams_and_without_kept_draws(x):
    expected = predict(Net(), x, 200, tolerance=0.02)
    streamed = predict(Net(), iter(torch.from_numpy(x).split(4)), 200, tolerance=0.02)
    np.testing.assert_array_equal(streamed.n_samples, expected.n_samples)
    np.testing.assert_allclose(streamed.samples, expected.samples, atol=1e-6)
    assert predict(Net(), x, 200, tolerance=0.02, keep_samples=False).samples is None


def test_a_tolerance_out_of_reach_takes_all_draws_and_a_wide_one_the_fewest(x):
    assert predict(Net(), x, 50, tolerance=1e-9).n_samples.tolist() == [50] * N
    assert predict(Net(), x, 50, tolerance=10).n_samples.tolist() == [10] * N
    assert predict(Net(), x, 7, tolerance=10).n_samples.tolist() == [7] * N


def test_bad_tolerance_is_refused(x):
    with pytest.raises(ValueError, match="`tolerance` must be a number above 0; got -1"):
        predict(Net(), x, tolerance=-1)


def test_a_table_of_values_with_tolerance_goes_there_and_back(x):
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    result = predict(model, x, 100, tolerance=0.05, outputs="mean_log_variance")
    back = MCPrediction.from_state(*result.to_state())
    np.testing.assert_array_equal(back.n_samples, result.n_samples)
    np.testing.assert_array_equal(back[[3, 1]].n_samples, result.n_samples[[3, 1]])
    y = numbers(N, 1)
    some = result[[4]]
    kept = some.samples[: some.n_samples[0], 0].astype(np.float64)
    noise = some.noise_variances[: some.n_samples[0], 0].astype(np.float64)
    density = np.exp(-0.5 * (y[4] - kept) ** 2 / noise) / np.sqrt(2 * np.pi * noise)
    np.testing.assert_allclose(result.log_density(y)[4], np.log(density.mean(axis=0)), rtol=1e-6)


# ---- the prepared sampler ------------------------------------------------------------------------------------------


def test_the_prepared_sampler_answers_as_mc_predict(x):
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


# ---- labels of a network that has its own --------------------------------------------------------------------------

ANIMALS = ("dog", "cat", "emu")
ASKED = {
    "mc_predict": lambda net, x, labels: mcd.mc_predict(net, x, DRAWS, labels=labels, progress=False),
    "mc_predict_point": lambda net, x, labels: mcd.mc_predict_point(net, x, labels=labels, progress=False),
    "mc_sampler": lambda net, x, labels: mcd.mc_sampler(net, x, DRAWS, labels=labels),
    "mc_convergence": lambda net, x, labels: mcd.mc_convergence(net, x, (2, 5), labels=labels, progress=False),
    "mc_compare_rates": lambda net, x, labels: mcd.mc_compare_rates(
        net, x, np.array(ANIMALS)[np.arange(N) % 3], (0.2, 0.5), DRAWS, labels=labels, progress=False
    ),
}
OURS = {
    "a network": lambda: mcd.mc_mlp(3, ANIMALS, dropout=0.3),
    "made Bayesian": lambda: mcd.mc_to_bayesian(mcd.mc_mlp(3, ANIMALS)),
    "behind a backbone": lambda: mcd.mc_frozen_backbone(nn.Linear(3, 4), mcd.mc_mlp(4, ANIMALS, dropout=0.3)),
}


@pytest.mark.parametrize("function", ASKED)
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("labels", [["cat", "dog", "emu"], ["dog", "cat"], ["dog", "cat", "fox"]])
def test_other_labels_than_the_networks_own_are_refused(function, kind, labels, x):
    got = ", ".join(f'"{label}"' for label in labels)
    said = f'`labels` must be left out, or be those of `model` in their order, "dog", "cat", "emu"; got {got}.'
    if (function, kind) != ("mc_compare_rates", "behind a backbone"):  # which has no rates of its own yet
        with pytest.raises(ValueError, match=re.escape(said)):
            ASKED[function](OURS[kind](), x, labels)


@pytest.mark.parametrize("function", [name for name in ASKED if name != "mc_compare_rates"])
def test_the_networks_own_labels_may_be_given_again(function, x):
    ASKED[function](OURS["a network"](), x, ANIMALS)
    found = mcd.mc_predict(mcd.mc_mlp(3, [0, 1], dropout=0.3), x, DRAWS, labels=["0", "1"], progress=False)
    assert found.labels == (0, 1)  # its own, whatever the type that they were given in


def test_a_network_for_values_has_no_labels(x):
    said = '`labels` must be left out where `model` is a network for values; got "cat", "dog".'
    with pytest.raises(ValueError, match=re.escape(said)):
        mcd.mc_predict(mcd.mc_mlp(3, task="regression"), x, DRAWS, labels=["cat", "dog"], progress=False)


def test_truths_are_matched_to_labels_by_name(x):
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
