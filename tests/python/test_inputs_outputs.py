"""What goes in and what comes out: several inputs, streams, parts of outputs, any number of axes, tolerance."""

import re
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import mcdropout as mcd
from mcdropout import MCPrediction

N, STEPS, LABELS, DRAWS = 11, 4, 5, 8


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def predict(model, x, n_samples=DRAWS, **options):
    return mcd.mc_predict(model, x, n_samples, **({"outputs": "logits", "seed": 3, "progress": False} | options))


class Net(nn.Module):
    """A dropout net on three features, and the ways in which models take and return."""

    def __init__(self, take=lambda *args, **kwargs: args[0], give=lambda out: out):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, LABELS))
        self.take, self.give = take, give

    def forward(self, *args, **kwargs):
        return self.give(self.body(self.take(*args, **kwargs)))


@pytest.fixture
def x():
    return numbers(N, 3)


@pytest.fixture
def usual(x):
    return predict(Net(), x)


def assert_same(one, other):
    """Rounding of float32 sums in another order."""
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-6)
    np.testing.assert_allclose(one.samples, other.samples, atol=1e-6)


# ---- inputs --------------------------------------------------------------------------------------------------------


def test_several_inputs_by_position(x, usual):
    assert_same(predict(Net(lambda a, b: a - b), (x + 1, np.ones_like(x))), usual)


def test_several_inputs_by_keyword(x, usual):
    model = Net(lambda left, right, scale=None: left * right)
    assert_same(predict(model, {"left": x / 2, "right": np.full_like(x, 2), "scale": None}), usual)


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


def test_batches_by_keyword_leave_the_targets_aside(x, usual):
    batches = [{"features": torch.from_numpy(part), "labels": torch.zeros(len(part))} for part in (x[:6], x[6:])]
    assert_same(predict(Net(lambda features: features), iter(batches)), usual)


def test_a_loader_that_shuffles_is_refused(x):
    loader = DataLoader(torch.from_numpy(x), shuffle=True)
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
    usual = predict(Tokens().eval(), ids)
    assert usual.engine == "folded"
    assert len(predict(Tokens(), {"input_ids": ids.astype(np.int32)})) == N


# ---- outputs -------------------------------------------------------------------------------------------------------

GIVES = {
    "tuple": (lambda out: (out * 0, out), 1),
    "list": (lambda out: [out, out * 0], 0),
    "mapping": (lambda out: OrderedDict(other=out * 0, scores=out), "scores"),
    "mapping by place": (lambda out: OrderedDict(other=out * 0, scores=out), 1),
    "function": (lambda out: (out - 1, 1), lambda result: result[0] + result[1]),
}


@pytest.mark.parametrize("name", GIVES)
def test_a_part_is_selected(x, usual, name):
    give, select = GIVES[name]
    assert_same(predict(Net(give=give), x, select=select), usual)
    point = mcd.mc_predict_point(Net(give=give), x, outputs="logits", select=select, progress=False)
    np.testing.assert_allclose(point, mcd.mc_predict_point(Net(), x, outputs="logits", progress=False), atol=1e-6)


def test_hugging_faces_logits_need_no_select(x, usual):
    assert_same(predict(Net(give=lambda out: OrderedDict(loss=None, logits=out)), x), usual)


def test_several_parts_are_asked_about(x):
    with pytest.raises(TypeError, match=r"returns several parts \(2 without names\); say which with `select`"):
        predict(Net(give=lambda out: (out, out)), x)
    with pytest.raises(ValueError, match=r'`select` must name a part of what `model` returns \("a"\); got "b"'):
        predict(Net(give=lambda out: {"a": out}), x, select="b")
    with pytest.raises(TypeError, match='`model` must return a tensor; got "NoneType"'):
        predict(Net(give=lambda out: None), x)


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
    monkeypatch.setattr("mcdropout.sampling.DRAWS_BYTES", 3 * 4 * DRAWS * 6 * 7 * LABELS)  # three inputs at a time
    assert_same(predict(Maps(last), x, labels=names), result)
    with pytest.raises(ValueError, match="needs one row of probabilities per input"):
        result.to_pandas()
    back = MCPrediction.from_state(*result.to_state())
    np.testing.assert_array_equal(back.predicted, result.predicted)


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
    usual = predict(Net(), x, 200, tolerance=0.02)
    streamed = predict(Net(), iter(torch.from_numpy(x).split(4)), 200, tolerance=0.02)
    np.testing.assert_array_equal(streamed.n_samples, usual.n_samples)
    np.testing.assert_allclose(streamed.samples, usual.samples, atol=1e-6)
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
    usual = predict(Net(), x)
    for part in (slice(0, 1), slice(4, 9)):
        np.testing.assert_allclose(sampler(x[part]).mean, usual.mean[part], atol=1e-6)
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
    held = [
        names,
        pd.Categorical(names, categories=["emu", "dog", "cat"]),
        pd.Series(pd.Categorical(names, categories=["emu", "fox", "dog", "cat"])),
        pd.get_dummies(pd.Series(names))[["cat", "emu", "dog"]],
    ]
    prediction = mcd.mc_predict(net, x, DRAWS, seed=3, progress=False)
    scores = [mcd.mc_scores(prediction, y).accuracy for y in held]
    assert set(scores) == {float((prediction.predicted == names).mean())}
    learnt = [mcd.mc_fit(mcd.mc_mlp(3, ANIMALS), x, y, epochs=2, seed=1, progress=False) for y in held]
    for one in learnt[1:]:
        assert torch.equal(one.layers.output.weight, learnt[0].layers.output.weight)
