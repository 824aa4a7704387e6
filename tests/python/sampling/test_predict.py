"""`mc_predict()`: its promises, on small modules where every axis has another size."""

import copy
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mcdropout as mcd
from mcdropout.data.inputs import Inputs
from mcdropout.engine.chunks import CHUNK_BYTES, chunk_sizes
from mcdropout.engine.fold import FoldedEngine
from mcdropout.engine.torch_passes import TorchPasses
from mcdropout.sampling.options import MASKS
from mcdropout.sites.probe import probe
from mcdropout.sites.replica import replicate

N, LABELS, DRAWS = 11, 5, 7


class ConvNet(nn.Module):
    """Convolution, batch norm, a skip connection, dropout of channels and of elements."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout2d(0.3)
        self.head = nn.Linear(6 * 4, LABELS)

    def forward(self, x):
        h = F.relu(self.norm(self.conv(x)))
        h = h + self.drop(h)
        h = F.dropout(F.adaptive_avg_pool2d(h, 2).flatten(1), 0.4, self.training)
        return self.head(h)


class Functional(nn.Module):
    """Only functional calls: one behind the flag, one skipped when not training."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, LABELS)

    def forward(self, x):
        h = F.dropout(torch.tanh(self.first(x)), 0.5, training=self.training)
        if self.training:
            h = F.dropout(h, 0.25)
        return self.last(h)


def mlp(*rates, kind: Any = nn.Dropout):
    layers = []
    for width, rate in zip((8, 6), rates, strict=False):
        layers += [nn.LazyLinear(width), nn.SELU(), kind(rate)]
    model = nn.Sequential(*layers, nn.LazyLinear(LABELS))
    model(torch.zeros(1, 3))
    return model


def seeded(make, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **kwargs)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def convnet():
    model: Any = seeded(ConvNet)
    model.norm.running_mean += 0.3
    model.norm.running_var *= 1.7
    return model


@pytest.fixture
def images():
    return numbers(N, 2, 8, 9)


def predict(model, x, n_samples=DRAWS, **options: Any) -> Any:
    settings: dict[str, Any] = {"outputs": "logits", "seed": 3, "progress": False} | options
    return mcd.mc_predict(model, x, n_samples, **settings)


def assert_same(one, other, atol=1e-5):
    """Rounding of the network itself: float32 sums in another order."""
    for name in ("mean", "variance", "lower", "upper", "predictive_entropy", "mutual_information"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=atol, err_msg=name)
    if one.samples is not None and other.samples is not None:
        np.testing.assert_allclose(one.samples, other.samples, atol=atol)


# ---- the result depends on the model, the input, the seed and n_samples alone -----------------------------------


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_batch_size_does_not_matter(convnet, images, masks, batch_size):
    everything = predict(convnet, images, batch_size=N, masks=masks)
    assert_same(predict(convnet, images, batch_size=batch_size, masks=masks), everything)


@pytest.mark.parametrize("masks", MASKS)
def test_chunking_does_not_matter(convnet, images, masks, monkeypatch):
    usual = predict(convnet, images, masks=masks)
    for size in (1, 3000, 20_000):  # one row at a time, a few, more
        monkeypatch.setattr("mcdropout.engine.chunks.CHUNK_BYTES", size)
        assert_same(predict(convnet, images, masks=masks), usual)


@pytest.mark.parametrize("masks", MASKS)
def test_the_number_of_workers_does_not_matter(convnet, images, masks, monkeypatch):
    monkeypatch.setattr("mcdropout.engine.chunks.CHUNK_BYTES", 20_000)  # many chunks
    alone, threads = predict(convnet, images, masks=masks, workers=1), torch.get_num_threads()
    for workers in (2, 5):
        np.testing.assert_array_equal(predict(convnet, images, masks=masks, workers=workers).samples, alone.samples)
    assert torch.get_num_threads() == threads


def test_an_error_in_a_worker_is_the_callers(monkeypatch):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            if len(x) == 1 and bool((x > 90).any()):
                raise TimeoutError("the last input fails")  # the class that waiting for a worker uses too
            return self.drop(x)

    monkeypatch.setattr("mcdropout.engine.chunks.chunk_sizes", lambda *args: (DRAWS, 1))
    x = numbers(N, 3)
    x[-1] = 99
    with pytest.raises(TimeoutError, match="the last input fails"):
        predict(Fails(), x, outputs="values", workers=2)


@pytest.mark.parametrize("masks", MASKS)
def test_a_subset_and_a_permutation_keep_each_inputs_result(convnet, images, masks):
    ids = [f"case {i}" for i in range(N)]
    usual = predict(convnet, images, masks=masks, ids=ids)
    order = np.array([4, 0, 9, 2])
    assert_same(predict(convnet, images[order], masks=masks, ids=[ids[i] for i in order]), usual[order])


def test_per_input_masks_follow_the_position_by_default(convnet, images):
    usual = predict(convnet, images, masks="per_input")
    assert_same(predict(convnet, images, masks="per_input", ids=range(N)), usual)
    assert np.abs(predict(convnet, images[::-1], masks="per_input")[::-1].mean - usual.mean).max() > 1e-3


def test_shared_masks_need_no_ids_to_permute(convnet, images):
    assert_same(predict(convnet, images[::-1])[::-1], predict(convnet, images))


def test_equal_inputs_get_equal_draws_only_with_shared_masks(convnet, images):
    twice = np.repeat(images[:1], 2, axis=0)
    shared = predict(convnet, twice).samples
    np.testing.assert_allclose(shared[:, 0], shared[:, 1], atol=1e-6)
    fresh = predict(convnet, twice, masks="per_input").samples
    assert np.abs(fresh[:, 0] - fresh[:, 1]).max() > 1e-3


def test_kept_or_not_the_summaries_are_the_same_to_the_bit(convnet, images):
    kept, bare = predict(convnet, images), predict(convnet, images, keep_samples=False)
    assert bare.samples is None
    assert kept.samples.shape == (DRAWS, N, LABELS)
    np.testing.assert_array_equal(kept.mean, bare.mean)
    np.testing.assert_array_equal(kept.variance, bare.variance)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("make", [ConvNet, Functional, lambda: mlp(0.3, 0.5, kind=nn.AlphaDropout)])
def test_all_engines_give_the_same_draws(make, masks, only_engine):
    model = seeded(make)
    x = numbers(N, 2, 8, 9) if isinstance(model, ConvNet) else numbers(N, 3)
    results = []
    for engine in ("folded", "loop"):
        only_engine(engine)
        results.append(predict(model, x, masks=masks))
        assert results[-1].engine == engine
    assert_same(*results)


def test_the_result_says_why_an_engine_was_passed_over(convnet, images, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Not today.\nMore words.")

    monkeypatch.setattr(FoldedEngine, "run", lambda self, replica, inputs, masks: torch.zeros(1))
    result = predict(convnet, images)
    assert result.engine == "loop"
    assert result.engine_reason == "folded gave other numbers than the loop"
    monkeypatch.setattr(FoldedEngine, "run", refuse)
    assert predict(convnet, images).engine_reason == "folded failed: Not today."


def test_more_draws_begin_with_the_fewer(convnet, images):
    np.testing.assert_allclose(
        predict(convnet, images, 13).samples[:DRAWS], predict(convnet, images, DRAWS).samples, atol=1e-5
    )


def test_two_runs_agree_to_the_bit(convnet, images):
    np.testing.assert_array_equal(predict(convnet, images).samples, predict(convnet, images).samples)


def test_another_seed_gives_other_draws_and_none_draws_one(convnet, images):
    usual = predict(convnet, images)
    assert np.abs(predict(convnet, images, seed=4).mean - usual.mean).max() > 1e-3
    drawn = predict(convnet, images, seed=None)
    assert_same(predict(convnet, images, seed=drawn.seed), drawn)


def test_threads_do_not_disturb_each_other(convnet, images):
    wanted = {seed: predict(convnet, images, seed=seed).samples for seed in range(4)}
    got = {}

    def work(seed):
        got[seed] = predict(convnet, images, seed=seed).samples

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, samples in wanted.items():
        np.testing.assert_array_equal(got[seed], samples)


# ---- the numbers are those of Monte Carlo dropout ----------------------------------------------------------------


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("kind", [nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_moments_are_those_of_the_naive_loop(kind, masks):
    model, x, n_draws = seeded(mlp, 0.25, 0.1, kind=kind), numbers(N, 3), 2000
    ours = predict(model, x, n_draws, masks=masks)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model.train()
        naive = torch.stack([model(torch.from_numpy(x)).softmax(-1) for _ in range(n_draws)]).double().numpy()
        model.eval()
    error = np.sqrt(ours.variance / n_draws + naive.var(axis=0, ddof=1) / n_draws)
    # 110 comparisons of two independent means (and variances): 5 standard errors leave a chance of 6e-5.
    assert (np.abs(ours.mean - naive.mean(axis=0)) < 5 * error).all()
    squares = (ours.samples - ours.mean) ** 2, (naive - naive.mean(axis=0)) ** 2
    error = np.sqrt(sum(square.var(axis=0) for square in squares) / n_draws)
    assert (np.abs(squares[0].mean(axis=0) - squares[1].mean(axis=0)) < 5 * error).all()


def test_a_single_dropout_is_its_mask_times_the_input():
    class Bare(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.2, self.training)

    x = np.abs(numbers(N, 3)) + 1
    draws = predict(Bare(), x, 500, outputs="values").samples
    ratio = draws / x
    assert set(np.round(np.unique(ratio), 5)) == {0.0, 1.25}  # 1 / (1 - rate)
    assert abs((ratio == 0).mean() - 0.2) < 0.05  # 1,500 decisions, shared by the inputs: 5 standard errors
    assert ((ratio > 0) == (ratio[:, :1] > 0)).all()


def test_channels_are_dropped_as_wholes():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout2d(0.5)

        def forward(self, x):
            return self.drop(x)

    x = np.ones((N, 3, 4, 5), dtype=np.float32)
    draws = predict(Bare(), x, 20, outputs="values", masks="per_input").samples  # (draw, input, channel, 4, 5)
    assert (draws == draws[..., :1, :1]).all()
    assert set(np.unique(draws)) == {0.0, 2.0}


def test_batch_norm_uses_its_running_statistics_and_keeps_them(convnet, images):
    before = {name: value.clone() for name, value in convnet.state_dict().items()}
    lone, crowd = predict(convnet, images[:1]), predict(convnet, images)
    np.testing.assert_allclose(lone.mean[0], crowd.mean[0], atol=1e-5)  # statistics of the batch would differ
    for name, value in convnet.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_calls_that_are_skipped_when_not_training_are_found():
    model = seeded(Functional)
    table = mcd.mc_sites(model, numbers(N, 3))
    assert table[["site", "rate"]].values.tolist() == [["[0]", 0.5], ["[1]", 0.25]]


def test_a_shared_instance_is_a_site_at_each_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)
            self.alias = self.drop

        def forward(self, x):
            return self.drop(self.alias(x))

    draws = predict(Twice(), np.ones((N, 3), dtype=np.float32), 200, outputs="values").samples
    assert mcd.mc_sites(Twice(), numbers(N, 3)).site.tolist() == ["drop[0]", "drop[1]"]
    assert set(np.unique(draws)) == {0.0, 4.0}
    assert abs((draws[:, 0] > 0).mean() - 0.25) < 0.1  # 600 decisions: 5 standard errors


def test_an_in_place_dropout_has_torchs_meaning():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop = nn.Linear(3, 6), nn.Dropout(0.5, inplace=True)

        def forward(self, x):
            h = self.first(x)
            return h + self.drop(h)  # both terms are dropped, since `h` itself is

    model, x = seeded(InPlace), numbers(N, 3)
    result = predict(model, x, 40, outputs="values")
    h = mcd.mc_predict_point(model, x, outputs="values", progress=False)
    ratio = result.samples / h
    assert set(np.round(np.unique(ratio), 3)) == {0.0, 2.0}


def test_masks_lie_along_the_axis_that_grows_with_the_inputs():
    class SequenceFirst(nn.Module):
        """(input, step, feature) to (step, input, feature) and back, as recurrent code does."""

        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(x.transpose(0, 1)).transpose(0, 1)

    x = np.ones((N, 4, 3), dtype=np.float32)
    shared = predict(SequenceFirst(), x, outputs="values")
    assert (shared.samples == shared.samples[:, :1]).all()
    assert_alone = predict(SequenceFirst(), x[:1], outputs="values")
    np.testing.assert_array_equal(shared.samples[:, :1], assert_alone.samples)
    fresh = predict(SequenceFirst(), x, outputs="values", masks="per_input")
    np.testing.assert_array_equal(
        fresh.samples[:, 4:6],
        predict(SequenceFirst(), x[4:6], outputs="values", masks="per_input", ids=[4, 5]).samples,
    )


def test_inputs_folded_with_windows_get_one_mask_per_input():
    class Windows(nn.Module):
        """Two windows of each input lie beside each other along the first axis."""

        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(x.reshape(len(x) * 2, -1)).reshape(x.shape)

    x = np.ones((N, 6), dtype=np.float32)
    for masks in MASKS:
        everything = predict(Windows(), x, outputs="values", masks=masks)
        alone = predict(Windows(), x[3:4], outputs="values", masks=masks, ids=[3])
        np.testing.assert_array_equal(everything.samples[:, 3:4], alone.samples)


def test_two_labels_from_one_logit():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    result = predict(model, numbers(N, 3), labels=["no", "yes"])
    np.testing.assert_allclose(result.samples.sum(axis=-1), 1, atol=1e-6)
    point = mcd.mc_predict_point(model, numbers(N, 3), outputs="logits", progress=False)
    with torch.no_grad():
        np.testing.assert_allclose(point[:, 1], torch.sigmoid(model.eval()(torch.from_numpy(numbers(N, 3))))[:, 0])


def test_mean_and_log_variance_give_both_parts():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2 * 2))
    result = predict(model, numbers(N, 3), outputs="mean_log_variance")
    assert result.mean.shape == (N, 2)
    np.testing.assert_allclose(result.total_variance, result.variance + result.aleatoric_variance)
    np.testing.assert_allclose(result.aleatoric_variance, result.noise_variances.mean(axis=0, dtype=np.float64))
    assert (result.pred_int[..., 0] < result.conf_int[..., 0]).all()


# ---- things stay as they were found ------------------------------------------------------------------------------


def state_of(model):
    return [(id(module), module.training, len(module._forward_hooks)) for module in model.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_random_state_stay_as_they_were(convnet, images, training):
    convnet.train(training)
    before, torch_state = state_of(convnet), torch.get_rng_state()
    numpy_state: Any = np.random.get_state()
    predict(convnet, images)
    assert state_of(convnet) == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    state: Any = np.random.get_state()
    np.testing.assert_array_equal(state[1], numpy_state[1])
    assert not torch.is_inference_mode_enabled()


def test_the_model_and_the_random_state_stay_after_an_error(convnet, images):
    class Fails(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.passes = inner, []

        def forward(self, x):
            self.passes.append(len(x))
            if len(self.passes) > 9:
                raise RuntimeError("the tenth pass fails")
            return self.inner(x) + 0 * torch.rand(1)

    model = Fails(convnet).train()
    before, state = state_of(model), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="the tenth pass fails"):
        predict(model, images, batch_size=1)
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_the_inputs_stay_as_they_were():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True), nn.Linear(3, LABELS))
    for x in (numbers(N, 3), torch.from_numpy(numbers(N, 3))):
        before = x.copy() if isinstance(x, np.ndarray) else x.clone()
        predict(model, x)
        assert (x == before).all()


def test_buffers_that_a_model_writes_stay_as_they_were():
    class Counts(nn.Module):
        passes: torch.Tensor

        def __init__(self):
            super().__init__()
            self.register_buffer("passes", torch.zeros(1))
            self.drop, self.last = nn.Dropout(0.5), nn.Linear(3, LABELS)

        def forward(self, x):
            self.passes += 1
            return self.last(self.drop(x))

    model = Counts()
    predict(model, numbers(N, 3))
    assert model.passes.item() == 0


def test_a_compiled_or_wrapped_model_is_sampled_as_the_one_inside(convnet, images):
    usual = predict(convnet, images)
    assert_same(predict(nn.DataParallel(convnet), images), usual)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch.compile itself has to say
        assert_same(predict(torch.compile(convnet), images), usual)


# ---- wrong input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_samples": 0}, "`n_samples` must be a whole number of at least 2; got 0."),
        ({"n_samples": -3}, "`n_samples` must be a whole number of at least 2; got -3."),
        ({"n_samples": 2.5}, "`n_samples` must be a whole number of at least 2; got 2.5."),
        ({"n_samples": "a"}, '`n_samples` must be a whole number of at least 2; got "a".'),
        ({"n_samples": None}, "`n_samples` must be a whole number of at least 2; got None."),
        ({"n_samples": float("nan")}, "`n_samples` must be a whole number of at least 2; got nan."),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1; got 0."),
        ({"batch_size": True}, "`batch_size` must be a whole number of at least 1; got True."),
        ({"level": 1}, "`level` must be a number above 0 and below 1; got 1."),
        ({"masks": "fresh"}, '`masks` must be one of "shared", "per_input"; got "fresh".'),
        ({"precision": "half"}, '`precision` must be one of "float32", "bfloat16", "float16"; got "half".'),
        ({"seed": -1}, "`seed` must be a whole number from 0 to 2^53 - 1; got -1."),
        ({"keep_samples": 1}, "`keep_samples` must be true or false; got 1."),
        ({"ids": [1, 2]}, "`ids` must be as long as `x` (11); got length 2."),
        ({"ids": 5}, "`ids` must be whole numbers or words, one per input; got 5."),
        ({"ids": [None] * N}, "`ids` must be whole numbers or words, one per input; got None."),
        ({"ids": [2**63] * N}, "`ids` must be whole numbers or words, one per input; got 9223372036854775808."),
        ({"device": "cuda:7"}, '`device` "cuda:7" is not available here'),
        ({"outputs": None}, "`outputs` must say what `model` returns"),
        ({"outputs": "softmax"}, '`outputs` must be one of "logits"'),
        ({"outputs": "probabilities"}, 'set it to "logits" if they come before the softmax.'),
        ({"labels": ["a", "b"]}, "`labels` must name the 5 outputs of `model`; got 2 labels."),
        ({"progress": "yes"}, '`progress` must be true or false; got "yes".'),
    ],
)
def test_bad_arguments_get_one_sentence(convnet, images, options, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below, whole or from its start)
        predict(convnet, images, **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


ASK_OF_A_MODEL = {
    "mc_predict": lambda model, x: mcd.mc_predict(model, x),
    "mc_predict_point": lambda model, x: mcd.mc_predict_point(model, x),
    "mc_sites": lambda model, x: mcd.mc_sites(model, x),
    "mc_sampler": lambda model, x: mcd.mc_sampler(model, x),
    "mc_convergence": lambda model, x: mcd.mc_convergence(model, x),
    "mc_compare_rates": lambda model, x: mcd.mc_compare_rates(model, x, [0] * len(x), (0.1, 0.2)),
    "mc_fit": lambda model, x: mcd.mc_fit(model, x, [0] * len(x)),
    "mc_train_on_batch": lambda model, x: mcd.mc_train_on_batch(model, x, [0] * len(x)),
    "mc_to_bayesian": lambda model, _: mcd.mc_to_bayesian(model),
    "mc_posterior_table": lambda model, _: mcd.mc_posterior_table(model),
    "mc_weights_table": lambda model, _: mcd.mc_weights_table(model),
    "mc_plot_posterior": lambda model, _: mcd.mc_plot_posterior(model),
}


@pytest.mark.parametrize(("model", "kind"), [({}, "dict"), ("abc", "str"), (3, "int"), (None, "NoneType")])
@pytest.mark.parametrize("function", ASK_OF_A_MODEL)
def test_a_model_that_is_none_is_refused_by_every_function(function, model, kind):
    words = rf'`model` must be a (network of .*|torch module|torch module or a Keras model); got "?{kind}"?\.'
    with pytest.raises(TypeError, match=words):
        ASK_OF_A_MODEL[function](model, numbers(5, 3))


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(3, LABELS)), mlp(0.0, 0.0)], ids=["none", "rate 0"])
def test_a_model_without_dropout_is_refused(model):
    with pytest.raises(mcd.NoStochasticSites, match="add `torch.nn.Dropout` layers and train again"):
        predict(model, numbers(N, 3))


def test_draws_without_any_spread_are_an_error():
    class Ignores(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return x + 0 * self.drop(x)

    with pytest.raises(mcd.IdenticalDraws, match="the same outputs in every draw"):
        predict(Ignores(), numbers(N, 3), outputs="values")


def test_declared_logits_that_are_probabilities_are_an_error():
    model = nn.Sequential(mlp(0.5), nn.Softmax(dim=-1))
    with pytest.raises(ValueError, match='set it to "probabilities"'):
        predict(model, numbers(N, 3))
    assert predict(model, numbers(N, 3), outputs="probabilities").task == "classification"


def test_a_network_that_returns_nan_is_named_with_its_input():
    class Logarithm(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(torch.log(x))

    x = np.abs(numbers(N, 3)) + 1
    x[6, 1] = -1
    with pytest.raises(ValueError, match="NaN or infinite values for input number 7"):
        predict(Logarithm(), x, outputs="values", batch_size=4)


def test_draws_that_do_not_fit_are_refused_before_they_are_made(convnet, images, monkeypatch):
    monkeypatch.setattr("mcdropout.sampling.results.free_memory", lambda: 100)
    monkeypatch.setattr("mcdropout.sampling.results.LEAST_CHECKED", 0)
    with pytest.raises(mcd.OutOfMemory, match="for 7 draws of 11 inputs, and .* set it to false"):
        predict(convnet, images)
    assert len(predict(convnet, images, keep_samples=False)) == N


def test_running_out_of_memory_halves_the_chunks(convnet, images, monkeypatch):
    usual = predict(convnet, images)
    full = FoldedEngine.run

    def scarce(self, replica, inputs, masks):
        if len(next(iter(masks.values()))) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return full(self, replica, inputs, masks)

    monkeypatch.setattr(FoldedEngine, "run", scarce)
    assert_same(predict(convnet, images), usual)


def test_progress_can_be_a_function(convnet, images):
    seen = []
    predict(convnet, images, batch_size=4, progress=lambda *told: seen.append(told))
    assert seen[-1] == (N, N, "Sampling")


@pytest.mark.parametrize(("n_samples", "bytes_per_row"), [(50, 86_528), (1000, 400), (3, 10**9), (200, 1)])
def test_chunks_fit_the_budget(n_samples, bytes_per_row):
    draws, inputs = chunk_sizes(n_samples, bytes_per_row)
    assert 1 <= draws <= n_samples
    assert inputs >= 1
    assert draws * inputs * bytes_per_row <= CHUNK_BYTES or draws * inputs == 1


def test_dropouts_that_drop_nothing_are_no_first_site():
    """What comes before the first that does is computed once, and is no part of a chunk."""
    x = torch.from_numpy(np.random.default_rng(0).random((8, 1, 12, 12), dtype=np.float32))

    def sizes(rate):
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.Dropout(rate), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(512, 16), nn.ReLU(),
            nn.Dropout(0.5), nn.Linear(16, 3),
        )  # fmt: skip
        replica = replicate(model.eval(), torch.device("cpu"))
        found = probe(model, replica, lambda n: Inputs((x[:n],), {}, n))
        return found.largest(frozenset()), found.prefix_bytes

    before, after = 4 * 8 * 10 * 10, 4 * 16
    assert sizes(0.0) == (after, before)
    assert sizes(0.25) == (before, before)


# ---- a prepared sampler ---------------------------------------------------------------------------------------


class Parts(nn.Module):
    """A linear layer, batch norm, dropout, and numbers beside: a list, a mapping, a tensor, an array, a setting."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(3, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.5),
            nn.Linear(6, 2),
        )
        self.factors, self.settings, self.shift, self.array = [1.0, 2.0], {"power": 2}, torch.zeros(6), np.ones(6, "f4")
        self.options = Options()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(4)
            for weights in self.parameters():
                weights.normal_()
        self.eval()

    def forward(self, x):
        h = self.norm(self.first(x)) * self.factors[1] + self.shift + torch.from_numpy(self.array)
        return self.last(self.drop(h) ** self.settings["power"]) * self.options.scale


class Options:
    scale = 1.0

    def __init__(self):
        self.scale = 3.0


def other_state():
    other = Parts()
    with torch.no_grad():
        for one in other.state_dict().values():
            if one.is_floating_point():
                one.mul_(0.5).add_(0.25)
    return other.state_dict()


def trained_on(model):
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    model(torch.arange(15.0).reshape(5, 3)).sum().backward()
    optimizer.step()
    model.eval()


CHANGES = {
    "training": trained_on,
    "other state": lambda model: model.load_state_dict(other_state()),
    "assigned state": lambda model: model.load_state_dict(other_state(), assign=True),
    "weights in place": lambda model: model.first.weight.detach().add_(1),
    "weights behind torch's back": lambda model: model.first.weight.data.add_(1),
    "weights by NumPy": lambda model: np.add(a := model.first.weight.detach().numpy(), 1, out=a),
    "other memory": lambda model: setattr(model.first.weight, "data", model.first.weight.data + 1),
    "another parameter": lambda model: setattr(model.first, "weight", nn.Parameter(model.first.weight.detach() + 1)),
    "another layer": lambda model: setattr(model, "last", nn.Linear(6, 2)),
    "another type": lambda model: model.double(),
    "statistics in place": lambda model: model.norm.running_mean.add_(1),
    "statistics behind torch's back": lambda model: model.norm.running_var.data.mul_(4),
    "a rate": lambda model: setattr(model.drop, "p", 0.25),
    "an entry of a list": lambda model: model.factors.__setitem__(1, 5.0),
    "an entry of a mapping": lambda model: model.settings.update(power=3),
    "an attribute of an attribute": lambda model: setattr(model.options, "scale", 4.0),
    "a tensor beside": lambda model: model.shift.add_(2),
    "an array beside": lambda model: np.add(model.array, 2, out=model.array),
    "a hook": lambda model: model.first.register_forward_hook(lambda module, given, out: out + 1),
    "a hook before": lambda model: model.last.register_forward_pre_hook(lambda module, given: (given[0] + 1,)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_sampler_answers_as_the_model_is_when_it_is_called(change):
    model, x = Parts(), numbers(4, 3)
    given = {"outputs": "values", "seed": 3}
    ask = mcd.mc_sampler(model, x[:2], DRAWS, **given)
    before = ask(x).mean
    change(model)
    now = mcd.mc_predict(model, x, DRAWS, **given, progress=False).mean
    assert not np.array_equal(now, before)
    np.testing.assert_array_equal(ask(x).mean, now)
    np.testing.assert_array_equal(ask(x).mean, now)


class Scaled(nn.Module):
    """Dropout, times a number of an array that is neither torch's nor a copy of the model's."""

    def __init__(self, array):
        super().__init__()
        self.drop, self.array = nn.Dropout(0.5), array

    def forward(self, x):
        return self.drop(x) * float(self.array[1])


def read_only(numbers):
    seen = numbers.view()
    seen.flags.writeable = False
    return seen


ARRAYS = {
    "as usual": lambda numbers: numbers,
    "negative strides": lambda numbers: numbers[::-1],
    "read-only": read_only,
    "other order of bytes": lambda numbers: numbers.astype(">f4"),
    "long double": lambda numbers: numbers.astype(np.longdouble),
    "complex without its imaginary part": lambda numbers: numbers.astype(complex).real,
    "objects": lambda numbers: numbers.astype(object),
    "texts": lambda numbers: numbers.astype("U8"),
    "with NaN": lambda numbers: np.where(numbers == 3, np.nan, numbers),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ARRAYS)
def test_a_sampler_sees_changes_of_an_array_of_any_kind(kind, monkeypatch):
    made = []
    usual = TorchPasses.__init__
    monkeypatch.setattr(TorchPasses, "__init__", lambda *given: (made.append(1), usual(*given))[1])
    array = ARRAYS[kind](np.array([1.0, 2.0, 3.0]))
    model, x = Scaled(array), numbers(4, 3)
    ask = mcd.mc_sampler(model, x[:2], DRAWS, outputs="values", seed=3)
    before = ask(x).mean
    assert len(made) == 1  # what stays is not made anew
    (array if array.base is None else array.base)[1] = 5
    np.testing.assert_allclose(ask(x).mean, before * 2.5, rtol=1e-5)


def test_a_sampler_of_a_model_that_stays_is_made_once_and_leaves_the_model(monkeypatch):
    made = []
    usual = TorchPasses.__init__
    monkeypatch.setattr(TorchPasses, "__init__", lambda *given: (made.append(1), usual(*given))[1])
    model, x = Parts(), numbers(4, 3)
    before = copy.deepcopy(model.state_dict())
    ask = mcd.mc_sampler(model, x[:2], DRAWS, outputs="values", seed=3)
    first = ask(x).mean
    model.train()
    assert np.array_equal(ask(x).mean, first)
    model.eval()
    model(torch.from_numpy(x))
    assert np.array_equal(ask(x).mean, first)
    assert len(made) == 1
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_a_sampler_of_our_own_network_knows_what_it_learnt_since(monkeypatch):
    x = numbers(40, 3) * 9 + 50
    ask_about = {"a table": (mcd.mc_mlp(3, labels=["u", "v"]), np.where(x[:, 0] > 50, "u", "v"))}
    ask_about["values"] = (mcd.mc_mlp(3, task="regression"), x[:, 1] * 7)
    ask_about["weights"] = (mcd.mc_bayes_mlp(3, task="regression"), x[:, 1] * 7)
    for net, y in ask_about.values():
        ask = mcd.mc_sampler(net, x[:2], DRAWS, seed=3)
        for _ in range(2):
            mcd.mc_fit(net, x, y, epochs=1, seed=1, progress=False)
            wanted = mcd.mc_predict(net, x, DRAWS, seed=3, progress=False)
            np.testing.assert_array_equal(ask(x).mean, wanted.mean)


def test_draws_that_a_sampler_keeps_are_made_anew_where_weights_were_written_behind_torchs_back():
    net, x = mcd.mc_bayes_mlp(3, labels=["u", "v"]), numbers(4, 3)
    ask = mcd.mc_sampler(net, x, DRAWS, seed=3)
    for weights in net.parameters():
        weights.data.add_(0.5)
    wanted = mcd.mc_predict(net, x, DRAWS, seed=3, progress=False).mean
    np.testing.assert_array_equal(ask(x).mean, wanted)


def test_a_sampler_can_be_prepared_from_a_stream():
    model, x = Parts(), numbers(4, 3)
    given = {"outputs": "values", "seed": 3}
    ask = mcd.mc_sampler(model, iter([x]), DRAWS, **given)
    np.testing.assert_array_equal(ask(x).mean, mcd.mc_predict(model, x, DRAWS, **given, progress=False).mean)
