"""Inputs of a model: several arrays, streams, constants, and mappings as one argument."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from input_models import (
    DRAWS,
    LABELS,
    OPTIONS,
    STEPS,
    N,
    Net,
    Pair,
    Stream,
    assert_same,
    numbers,
    point,
    predict,
    seeded,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mcdropout as mcd
from mcdropout.sampling import model
from mcdropout.sampling.options import ModelOptions


@pytest.fixture
def x():
    return numbers(N, 3)


@pytest.fixture
def expected(x):
    return predict(Net(), x)


# ---- arrays and streams --------------------------------------------------------------------------------------------


def test_several_inputs_by_position(x, expected):
    assert_same(predict(Net(lambda a, b: a - b), (x + 1, np.ones_like(x))), expected)


def test_several_inputs_by_keyword(x, expected):
    model = Net(lambda left, right, scale=None: left * right)
    assert_same(predict(model, {"left": x / 2, "right": np.full_like(x, 2), "scale": None}), expected)


def test_arrays_of_unequal_lengths_are_refused(x):
    with pytest.raises(ValueError, match=r"must be as long as `its first array` \(11\); got length 9"):
        predict(Net(lambda a, b: a), (x, x[:9]))


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
