"""Random numbers that a model draws in addition to dropout: keyed where possible, else named in a warning."""

from __future__ import annotations

import random
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import distributions, nn

import mcdropout as mcd

N, WIDTH = 7, 3
ENGINES = ("folded", "loop")


FROM_2_TO_3: dict[str, Any] = {"from": 2, "to": 3}  # `from` is a keyword of Python


class Apply(nn.Module):
    """A function of (module, x) as a network in eval mode."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)
        self.eval()

    def forward(self, x):
        return self.function(self, x)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def position_of_numpy() -> int:
    """The position of the global generator of NumPy."""
    state: Any = np.random.get_state()
    return state[2]


def predict(model, x, n_samples=6, **more: Any) -> Any:
    return mcd.mc_predict(model, x, n_samples, **{"outputs": "values", "seed": 3, "progress": False, **more})


def loop(model, x, n_draws, training):
    """Mean and variance of the outputs of the model itself, in train or eval mode."""
    model.train(training)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        draws = torch.stack([model(torch.from_numpy(x)) for _ in range(n_draws)]).double().numpy()
    model.eval()
    return draws.mean(axis=0), draws.var(axis=0, ddof=1)


def assert_like_the_loop(result, model, x, training):
    """Compare the mean and the variance with a loop of equally many draws, within five standard errors.

    The standard error of the variance comes from the fourth moment. The term 1e-7 is for constant outputs.
    """
    draws = result.samples.astype(np.float64)
    mean, variance = loop(model, x, len(draws), training)
    error = np.sqrt((draws.var(axis=0) + variance) / len(draws))
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * error + 1e-7).all()
    fourth = ((draws - draws.mean(axis=0)) ** 4).mean(axis=0)
    error = np.sqrt(2 * np.maximum(fourth - variance**2, 0) / len(draws))
    # For two equally likely values this standard error is 0, and the error of the variance is of order 1 / n.
    assert (np.abs(draws.var(axis=0, ddof=1) - variance) < 5 * error + 25 * variance / len(draws) + 1e-7).all()


def concrete(m, x):
    u = torch.rand_like(x)
    z = torch.sigmoid((torch.logit(torch.tensor(0.3)) + torch.logit(u.clamp(1e-6, 1 - 1e-6))) / 0.1)
    return x * (1 - z) / 0.7


KEYED = {
    "rand": lambda m, x: x * torch.rand(len(x), WIDTH),
    "rand, a size": lambda m, x: x + torch.rand((len(x), WIDTH), dtype=torch.float64).float(),
    "rand, one number": lambda m, x: x * torch.rand([]),
    "rand_like": concrete,
    "uniform_": lambda m, x: x * torch.empty_like(x).uniform_(-1, 3),
    "uniform_, by name": lambda m, x: x * torch.empty_like(x).uniform_(**FROM_2_TO_3),
    "bernoulli of probabilities": lambda m, x: torch.bernoulli(torch.sigmoid(x)),
    "bernoulli, a rate": lambda m, x: x * torch.bernoulli(x, 0.2),
    "bernoulli of a tensor": lambda m, x: x.sigmoid().bernoulli() + x,
    "bernoulli_": lambda m, x: x * x.new_empty(len(x), 1).bernoulli_(0.6),
    "bernoulli_ of bytes": lambda m, x: x.masked_fill(torch.empty(len(x), WIDTH, dtype=torch.bool).bernoulli_(0.4), 0),
    "bernoulli_ of a tensor": lambda m, x: x + torch.empty_like(x).bernoulli_(torch.sigmoid(x)),
    "randn": lambda m, x: x + torch.randn(len(x), WIDTH),
    "randn_like": lambda m, x: x + 0.3 * torch.randn_like(x),
    "weights": lambda m, x: F.linear(x, torch.randn(2, WIDTH)),
    "normal, tensors": lambda m, x: torch.normal(x, x.abs()),
    "normal, numbers": lambda m, x: x + torch.normal(1.0, 2.0, (len(x), WIDTH)),
    "normal, a tensor and a number": lambda m, x: torch.normal(x, std=0.5),
    "normal_": lambda m, x: x * torch.empty_like(x).normal_(1, 0.2),
    "exponential_": lambda m, x: x * torch.empty_like(x).exponential_(2.0),
    "gumbel_softmax": lambda m, x: F.gumbel_softmax(x, tau=0.7),
    "Normal": lambda m, x: distributions.Normal(x, 0.4).rsample(),
    "LogNormal": lambda m, x: distributions.LogNormal(0.1 * x, 0.2).rsample(),
    "Bernoulli": lambda m, x: distributions.Bernoulli(torch.sigmoid(x)).sample() * x,
    "RelaxedBernoulli": lambda m, x: distributions.RelaxedBernoulli(torch.tensor(0.5), torch.sigmoid(x)).rsample(),
    "Laplace": lambda m, x: distributions.Laplace(x, 0.3).rsample(),
    "numbers in their differences": lambda m, x: x + torch.rand_like(x) - torch.rand_like(x),
    "noise before a norm": lambda m, x: F.layer_norm(x + torch.randn_like(x), (WIDTH,)),
    "noise before a softmax": lambda m, x: torch.softmax(x + torch.randn_like(x), 1),
    "an order": lambda m, x: x.gather(1, torch.rand(len(x), WIDTH).argsort(1)),
    "a choice": lambda m, x: x * F.one_hot(torch.rand(len(x), WIDTH).argmax(1), WIDTH),
    "a comparison": lambda m, x: x * (torch.rand(len(x), WIDTH) < torch.rand(len(x), WIDTH)),
    "after a rare decision": lambda m, x: x + torch.empty(1).bernoulli_(0.15) * torch.randn_like(x),
    "after a rare number": lambda m, x: x + (torch.rand(1) < 0.15) * torch.randn_like(x),
    "complex": lambda m, x: (x * torch.randn(len(x), WIDTH, dtype=torch.cfloat)).abs(),
    "like a complex tensor": lambda m, x: torch.randn_like(x * 1j).real + x,
    "of nn.init": lambda m, x: x + nn.init.uniform_(torch.empty_like(x)),
    "before a dropout": lambda m, x: F.dropout(x + torch.randn_like(x), 0.3, m.training),
    "after a dropout": lambda m, x: F.dropout(x, 0.3, m.training) + torch.rand_like(x),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYED)
def test_random_numbers_differ_between_draws_and_are_keyed(name, monkeypatch):
    model, x, state = Apply(KEYED[name]), numbers(N, WIDTH), torch.get_rng_state()
    result = predict(model, x, 1500, masks="per_input")
    assert_like_the_loop(result, model, x, training="dropout" in name)
    subset = predict(model, x[[4, 2]], 20, masks="per_input", ids=[4, 2], batch_size=1)
    # the rounding of a product depends on its size
    np.testing.assert_allclose(subset.samples, result.samples[:20, [4, 2]], atol=1e-6)
    shared = predict(model, np.repeat(x[:1], N, axis=0), 20)
    np.testing.assert_allclose(shared.samples, np.repeat(shared.samples[:, :1], N, axis=1), atol=1e-6)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("name", KEYED)
def test_every_engine_draws_the_same_random_numbers(name, masks, only_engine):
    x, samples = numbers(N, WIDTH), []
    for engine in ENGINES:
        only_engine(engine)
        samples.append(predict(Apply(KEYED[name]), x, 40, masks=masks).samples)
    for other in samples[1:]:
        np.testing.assert_allclose(other, samples[0], atol=1e-5)  # another order of the sums


class Locked(nn.Module):
    """Locked dropout: the same mask at each step of a sequence."""

    def forward(self, x):
        return x * x.new_empty(len(x), 1, x.shape[2]).bernoulli_(0.6) / 0.6 if self.training else x


class DropBlock(nn.Module):
    """DropBlock: drops squares of an image."""

    def forward(self, x):
        if not self.training:
            return x
        seeds = (torch.rand(len(x), *x.shape[2:]) < 0.05).float()
        return x * (1 - F.max_pool2d(seeds[:, None], 3, 1, 1))


class LayerDrop(nn.Module):
    """Layer drop: skips a layer in training if a random number is below the rate."""

    def __init__(self, rate):
        super().__init__()
        self.rate, self.layer = rate, nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        decision = torch.rand([])
        return x if self.training and decision < self.rate else self.layer(x)


class DropPath(nn.Module):
    """Drops whole inputs. Its rate is not in an attribute of a known name."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return x * (torch.rand(len(x), 1) >= self.rate) / (1 - self.rate) if self.training else x


class KeptBelow(nn.Module):
    """Drops whole inputs, with the comparison reversed: low numbers keep an input."""

    def __init__(self, rate):
        super().__init__()
        self.drop_prob = rate

    def forward(self, x):
        return x * (torch.rand(len(x), 1) < 1 - self.drop_prob) / (1 - self.drop_prob) if self.training else x


KeptBelow.__name__ = "StochasticDepth"


class Native(nn.Module):
    def forward(self, x):
        return torch.native_dropout(x, 0.3, self.training)[0]


IN_TRAINING = {
    "locked": (lambda: nn.Sequential(Locked(), nn.Flatten(), nn.Linear(4 * WIDTH, 2)), (N, 4, WIDTH)),
    "drop block": (lambda: nn.Sequential(DropBlock(), nn.Flatten(), nn.Linear(60, 2)), (N, 2, 5, 6)),
    "together with dropout": (lambda: nn.Sequential(Locked(), nn.Flatten(), nn.Dropout(0.3)), (N, 4, WIDTH)),
    "whole layers": (lambda: nn.Sequential(LayerDrop(0.3), nn.Tanh()), (N, WIDTH)),
    "drop path, by its class name": (lambda: nn.Sequential(DropPath(0.3), nn.Linear(WIDTH, 2)), (N, WIDTH)),
    "drop path, reversed comparison": (lambda: nn.Sequential(KeptBelow(0.3), nn.Linear(WIDTH, 2)), (N, WIDTH)),
    "native_dropout": (lambda: nn.Sequential(Native(), nn.Linear(WIDTH, 2)), (N, WIDTH)),
    "random slopes": (lambda: nn.Sequential(nn.RReLU(0.1, 0.9), nn.Linear(WIDTH, 2)), (N, WIDTH)),
}


@pytest.mark.parametrize("name", IN_TRAINING)
def test_uniform_and_bernoulli_draws_in_training_mode_are_sites(name):
    make, shape = IN_TRAINING[name]
    torch.manual_seed(0)
    model, x = make().eval(), numbers(*shape)
    before = {name: module.training for name, module in model.named_modules()}
    result = predict(model, x, 1500)
    assert_like_the_loop(result, model, x, training=True)
    assert {name: module.training for name, module in model.named_modules()} == before
    np.testing.assert_allclose(predict(model, x, 1500, batch_size=2).samples, result.samples, atol=1e-6)


def test_sites_of_random_numbers_are_listed_with_their_operation():
    model = nn.Sequential(Locked(), nn.Dropout(0.2), Apply(lambda m, x: x + torch.randn_like(x)), nn.Flatten())
    table = mcd.mc_sites(model.eval(), numbers(N, 4, WIDTH))
    assert table.site.tolist() == ["0[numbers 0]", "1[0]", "2[numbers 0]"]
    assert table.operation.tolist() == ["bernoulli", "dropout", "randn_like"]
    np.testing.assert_allclose(table.rate, [0.4, 0.2, np.nan])
    assert table["shape"].tolist() == ["1 x 3", "4 x 3", "4 x 3"]


def test_unused_random_numbers_are_no_sites():
    model = nn.Sequential(LayerDrop(0.0), nn.Dropout(0.4)).eval()  # some language models have layer drop of rate 0
    x = numbers(N, WIDTH)
    assert mcd.mc_sites(model, x).site.tolist() == ["1[0]"]
    assert predict(model, x).engine == "folded"


# ---- normal noise in training mode ---------------------------------------------------------------------------------


def noise_when_training(m, x):
    return F.dropout(x, 0.5, m.training) + (torch.randn_like(x) if m.training else 0)


@pytest.mark.parametrize("make", [
    lambda: Apply(noise_when_training),
    lambda: nn.Sequential(nn.Dropout(0.5), Apply(lambda m, x: x + torch.randn_like(x) if m.training else x)).eval(),
    lambda: nn.Sequential(nn.Dropout(0.5), Apply(lambda m, x: x + torch.randn_like(x) * m.training)).eval(),
])  # fmt: skip
def test_normal_noise_in_training_mode_is_sampled_on_request_and_else_named(make):
    x = np.ones((N, WIDTH), dtype=np.float32)
    with pytest.warns(
        UserWarning, match=r"normal numbers when training, by randn_like in (itself|1); they are left out"
    ):
        draws = predict(make(), x, 40).samples
    assert set(np.unique(draws)) == {0.0, 2.0}
    with pytest.warns(UserWarning, match="they are left out unless `gaussian_noise` is true"):
        assert len(mcd.mc_sites(make(), x)) == 1
    assert mcd.mc_sites(make(), x, gaussian_noise=True).operation.tolist() == ["dropout", "randn_like"]
    model = make()
    assert_like_the_loop(predict(model, x, 1500, gaussian_noise=True), model, x, training=True)


def test_a_model_with_only_noise_is_refused_with_the_remedy():
    model = Apply(lambda m, x: x + torch.randn_like(x) if m.training else x)
    with pytest.raises(mcd.NoStochasticSites, match="by randn_like in itself; set `gaussian_noise` to true"):
        predict(model, numbers(N, WIDTH))
    assert predict(model, numbers(N, WIDTH), gaussian_noise=True).engine == "folded"
    convergence = mcd.mc_convergence(
        model, numbers(N, WIDTH), (5, 9), outputs="values", gaussian_noise=True, progress=False
    )
    assert (convergence.table.mcse > 0).all()


# ---- random numbers that cannot be keyed ---------------------------------------------------------------------------


def test_random_numbers_for_all_inputs_differ_between_draws_and_not_between_batch_sizes():
    model, x = Apply(lambda m, x: F.dropout(x, 0.5, m.training)[:, torch.randperm(WIDTH)]), numbers(N, WIDTH)
    state = torch.get_rng_state()
    result = predict(model, x, 12)
    np.testing.assert_array_equal(predict(model, x, 12, batch_size=2).samples, result.samples)
    kept = result.samples[:, :, None, :] == x[None, :, :, None] * 2  # the input column in each output column
    assert len({tuple(map(tuple, draw[0])) for draw in kept}) > 3
    assert mcd.mc_sites(model, x).operation.tolist() == ["dropout", "randperm"]  # without a warning
    assert torch.equal(torch.get_rng_state(), state)


def test_random_numbers_per_input_without_a_key_are_named_and_reproducible():
    model = Apply(lambda m, x: F.dropout(x, 0.5, m.training) + torch.multinomial(torch.ones(len(x), 4), 1))
    x = np.zeros((N, WIDTH), dtype=np.float32)
    with pytest.warns(
        UserWarning, match="cannot be keyed by input, by multinomial in itself; they depend on `batch_size`"
    ):
        result = predict(model, x, 12).samples
    assert len(np.unique(result[:, 0])) == 4  # the draws differ, although this is after the last site
    with pytest.warns(UserWarning, match="multinomial"):
        np.testing.assert_array_equal(predict(model, x, 12).samples, result)


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_random_numbers_of_python_and_numpy_are_named_and_reproducible(draw):
    model, x = (
        Apply(lambda m, x: (x + draw()) * F.dropout(torch.ones(len(x), WIDTH), 0.2, m.training)),
        numbers(N, WIDTH),
    )
    states = random.getstate(), position_of_numpy()
    runs = []
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"by (Python's `random`|`numpy.random`); they depend on `batch_size`"):
            runs.append(predict(model, x, 9).samples)
    np.testing.assert_array_equal(*runs)
    added = (runs[0] / 1.25 - x)[:, 0, 0]
    # the draws differ, although the number is drawn before the first site
    assert len(np.unique(added[np.abs(runs[0][:, 0, 0]) > 0].round(3))) > 4
    assert (random.getstate(), position_of_numpy()) == states


def until_far_from_zero(m, x):
    z = torch.randn_like(x)
    while bool((near := z.abs() <= 0.5).any()):
        z = torch.where(near, torch.randn_like(x), z)
    return F.dropout(x, 0.2, m.training) + z


@pytest.mark.parametrize("function", [
    until_far_from_zero,
    lambda m, x: F.dropout(x, 0.2, m.training) + distributions.VonMises(x, torch.ones_like(x)).sample(),
])  # fmt: skip
def test_rejection_sampling_runs_in_every_draw(function):
    model, x = Apply(function), numbers(N, WIDTH)
    with pytest.warns(UserWarning, match="of its own .* they depend on `batch_size` too"):
        result = predict(model, x, 1500)
    assert result.engine == "loop"
    assert_like_the_loop(result, model, x, training=True)


def test_random_numbers_without_a_visible_call_are_distinguished_from_mixed_inputs():
    rng = np.random.default_rng(0)
    model = Apply(lambda m, x: F.dropout(x, 0.2, m.training) + torch.from_numpy(rng.standard_normal(x.shape)).float())
    with pytest.warns(UserWarning, match="cannot be keyed by input, by what no call of torch's shows"):
        result = predict(model, numbers(N, WIDTH), 1500)
    assert_like_the_loop(result, model, numbers(N, WIDTH), training=True)


def test_random_numbers_of_a_fixed_seed_do_not_change():
    def fixed(m, x):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            features = torch.randn(WIDTH, 2) + torch.rand(2)
        return F.dropout(x @ features, 0.5, m.training)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = (torch.randn(WIDTH, 2) + torch.rand(2)).numpy()
    x, state = numbers(N, WIDTH), torch.get_rng_state()
    draws = predict(Apply(fixed), x, 30).samples
    kept = draws != 0
    np.testing.assert_allclose(draws[kept], np.broadcast_to(2 * x @ features, draws.shape)[kept], rtol=1e-5)
    assert mcd.mc_sites(Apply(fixed), x).operation.tolist() == ["dropout"]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_of_the_model_in_training_mode_is_named():
    own = torch.Generator().manual_seed(0)
    model = Apply(
        lambda m, x: F.dropout(x, 0.5, m.training) + (torch.randn(x.shape, generator=own) if m.training else 0)
    )
    with pytest.warns(UserWarning, match="when training, besides dropout, by randn in itself"):
        predict(model, numbers(N, WIDTH))


def test_vmap_over_another_axis_than_the_inputs_with_separate_masks_is_refused():
    def by_column(m, x):
        over_columns = torch.func.vmap(
            lambda column: F.dropout(column, 0.3, m.training), in_dims=1, randomness="different"
        )
        return over_columns(x).T

    with pytest.raises(
        ValueError, match=r"^`model` has a dropout at \[0\] inside `torch.func.vmap` .* outside of it\.$"
    ):
        predict(Apply(by_column), numbers(N, WIDTH))


def test_complex_outputs_are_refused():
    model = Apply(lambda m, x: torch.fft.fft(F.dropout(x, 0.3, m.training)))
    for run in (predict, lambda *arguments: mcd.mc_predict_point(*arguments, outputs="values", progress=False)):
        with pytest.raises(ValueError, match="must return real numbers; got complex ones"):
            run(model, numbers(N, WIDTH))
    assert predict(model, numbers(N, WIDTH), select=lambda out: out.abs()).engine == "folded"


def test_parallel_predictions_of_models_that_draw_from_numpy_do_not_interfere():
    model, x = nn.Sequential(nn.Dropout(0.3), Apply(lambda m, x: x * np.random.rand())).eval(), numbers(N, WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that the numbers are not keyed
        alone, state = predict(model, x, 20).samples, position_of_numpy()
        results = []
        threads = [threading.Thread(target=lambda: results.append(predict(model, x, 20).samples)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for samples in results:
        np.testing.assert_array_equal(samples, alone)
    assert position_of_numpy() == state


class Scripted(nn.Module):
    """Draws in compiled code, where calls of torch cannot be intercepted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_random_numbers_of_compiled_code_are_named_and_reproducible():
    model, x = nn.Sequential(torch.jit.script(Scripted()), nn.Dropout(0.2)).eval(), np.zeros((N, WIDTH), np.float32)
    state, runs = torch.get_rng_state(), []
    for _ in range(2):
        with pytest.warns(UserWarning, match="by compiled code; they depend on `batch_size`"):
            runs.append(predict(model, x, 9).samples)
    np.testing.assert_array_equal(*runs)
    assert len(np.unique(runs[0])) > 0.7 * runs[0].size  # the draws differ; one in five values is 0
    assert torch.equal(torch.get_rng_state(), state)


def test_random_numbers_of_another_thread_are_not_attributed_to_the_model():
    drawn = []

    def elsewhere():
        if not drawn:
            drawn.append(np.random.rand())

    class Beside(nn.Module):
        def forward(self, x):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            return F.dropout(x, 0.5, self.training)

    predict(Beside(), numbers(N, WIDTH))
    assert np.random.rand() != drawn[0]  # the state of the generator was not reset


def test_random_numbers_of_python_in_training_mode_are_named():
    model = Apply(lambda m, x: m.drop(x) * (random.random() if m.training else 1), drop=nn.Dropout(0.5))
    with pytest.warns(UserWarning, match="when training, besides dropout, by Python's `random`; they are left out"):
        draws = predict(model, np.ones((N, WIDTH), dtype=np.float32)).samples
    assert set(np.unique(draws)) == {0.0, 2.0}
    with pytest.raises(mcd.NoStochasticSites, match="by Python's `random`, cannot be sampled; draw it by `torch.rand`"):
        predict(Apply(lambda m, x: x * (random.random() if m.training else 1)), numbers(N, WIDTH))


def test_a_generator_created_in_forward_is_left_alone_and_a_continuing_one_is_keyed():
    def with_new_generator(m, x):
        return F.dropout(x @ torch.randn(WIDTH, 2, generator=torch.Generator().manual_seed(4)), 0.5, m.training)

    own = torch.Generator().manual_seed(4)
    x, weights = numbers(N, WIDTH), torch.randn(WIDTH, 2, generator=torch.Generator().manual_seed(4)).numpy()
    draws = predict(Apply(with_new_generator), x).samples
    np.testing.assert_allclose(draws[draws != 0], np.broadcast_to(2 * x @ weights, draws.shape)[draws != 0], rtol=1e-5)
    assert mcd.mc_sites(Apply(with_new_generator), x).operation.tolist() == ["dropout"]
    state = own.get_state()
    continuing = Apply(lambda m, x: x @ torch.randn(WIDTH, 2, generator=own))
    result = predict(continuing, x, 5).samples
    assert len(np.unique(result[:, 0, 0])) == 5
    np.testing.assert_array_equal(predict(continuing, x, 5, batch_size=3).samples, result)
    assert torch.equal(own.get_state(), state)


# ---- other behaviour stays the same --------------------------------------------------------------------------------


def test_a_module_that_changes_more_than_dropout_is_refused_with_random_numbers_too():
    model = nn.Sequential(Locked(), nn.Flatten(), Apply(lambda m, x: F.dropout(x, 0.4, True) * 3 if m.training else x))
    with pytest.raises(ValueError, match="changes more than its dropout when training, in 2"):
        predict(model.eval(), numbers(N, 4, WIDTH))


DRAWN_OUTSIDE = {
    "torch": lambda m, x: x + torch.rand_like(x),
    "several kinds": lambda m, x: x + torch.rand_like(x) * torch.bernoulli(x.sigmoid()) + torch.multinomial(x.exp(), 1),
    "NumPy": lambda m, x: x + np.random.rand(),
    "Python": lambda m, x: x + random.random(),
}


@pytest.mark.parametrize("batch_size", [3, N, 128])
@pytest.mark.parametrize("draw", DRAWN_OUTSIDE.values(), ids=DRAWN_OUTSIDE)
def test_the_point_prediction_draws_like_the_model_and_leaves_the_generators(draw, batch_size):
    model, x = Apply(lambda m, x: F.dropout(draw(m, x), 0.5, m.training)), numbers(N, WIDTH)

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())

    before, numpy_state = states(), np.random.get_state()
    point = mcd.mc_predict_point(model, x, batch_size, outputs="values", progress=False)
    assert states() == before
    with torch.random.fork_rng():
        try:
            expected = torch.cat([model(part) for part in torch.from_numpy(x).split(batch_size)])
        finally:
            random.setstate(before[1])
            np.random.set_state(numpy_state)
    np.testing.assert_allclose(point, expected.numpy(), atol=1e-6)


def test_random_numbers_of_a_loader_still_advance_the_generator():
    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from torch.from_numpy(numbers(N, WIDTH)) + random.random()

    model, state = Apply(lambda m, x: F.dropout(x, 0.5, m.training)), random.getstate()
    mcd.mc_predict_point(model, torch.utils.data.DataLoader(Rows(), batch_size=2), outputs="values", progress=False)
    assert random.getstate() != state  # as outside of a prediction


def test_left_out_noise_gets_one_warning_for_all_rates_and_can_be_included():
    model, y = Apply(noise_when_training), numbers(N, WIDTH, seed=2)
    options = {"outputs": "values", "seed": 1, "progress": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        without = mcd.mc_compare_rates(model, numbers(N, WIDTH), y, (0.2, 0.6), 30, **options)
    assert [str(warning.message)[:47] for warning in caught] == ["`model` draws normal numbers when training, by "]
    with_noise = mcd.mc_compare_rates(model, numbers(N, WIDTH), y, (0.2, 0.6), 30, gaussian_noise=True, **options)
    assert (with_noise.spread > without.spread).all()


def test_rates_are_compared_in_models_with_other_random_numbers():
    model = nn.Sequential(Locked(), nn.Flatten(), nn.Linear(4 * WIDTH, 8), nn.Dropout(0.5), nn.Linear(8, 1)).eval()
    table = mcd.mc_compare_rates(
        model,
        numbers(N, 4, WIDTH),
        numbers(N, 1, seed=2)[:, 0],
        (0.2, 0.6),
        30,
        outputs="values",
        seed=1,
        progress=False,
    )
    assert np.isfinite(table.loss).all()
    assert table.loss.nunique() == 2
