"""Random numbers that a model draws besides dropout: keyed where that can be, named where it cannot."""

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


FROM_2_TO_3: dict[str, Any] = {"from": 2, "to": 3}  # `from` is a word of Python


class Apply(nn.Module):
    """Any function of (module, x) as a network, in eval mode."""

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
    """How far NumPy's global generator is."""
    state: Any = np.random.get_state()
    return state[2]


def predict(model, x, n_samples=6, **more: Any) -> Any:
    return mcd.mc_predict(model, x, n_samples, **{"outputs": "values", "seed": 3, "progress": False, **more})


def loop(model, x, n_draws, training):
    """Mean and variance of the model's own outputs, dropout off or on."""
    model.train(training)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        draws = torch.stack([model(torch.from_numpy(x)) for _ in range(n_draws)]).double().numpy()
    model.eval()
    return draws.mean(axis=0), draws.var(axis=0, ddof=1)


def assert_like_the_loop(found, model, x, training):
    """The mean and variance of as many draws as `found` has, each within five of their standard errors.

    Of the variance too, by the fourth moment; 1e-7 for outputs that never change.
    """
    draws = found.samples.astype(np.float64)
    mean, variance = loop(model, x, len(draws), training)
    error = np.sqrt((draws.var(axis=0) + variance) / len(draws))
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * error + 1e-7).all()
    fourth = ((draws - draws.mean(axis=0)) ** 4).mean(axis=0)
    error = np.sqrt(2 * np.maximum(fourth - variance**2, 0) / len(draws))
    # of two values that are as likely the variance is known to the next order, 1 / n, alone
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
    "one below another": lambda m, x: x * (torch.rand(len(x), WIDTH) < torch.rand(len(x), WIDTH)),
    "behind a rare decision": lambda m, x: x + torch.empty(1).bernoulli_(0.15) * torch.randn_like(x),
    "behind a rare number": lambda m, x: x + (torch.rand(1) < 0.15) * torch.randn_like(x),
    "complex": lambda m, x: (x * torch.randn(len(x), WIDTH, dtype=torch.cfloat)).abs(),
    "like a complex one": lambda m, x: torch.randn_like(x * 1j).real + x,
    "of nn.init": lambda m, x: x + nn.init.uniform_(torch.empty_like(x)),
    "before a dropout": lambda m, x: F.dropout(x + torch.randn_like(x), 0.3, m.training),
    "after a dropout": lambda m, x: F.dropout(x, 0.3, m.training) + torch.rand_like(x),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYED)
def test_random_numbers_of_a_prediction_are_drawn_anew_in_every_draw_and_keyed(name, monkeypatch):
    model, x, state = Apply(KEYED[name]), numbers(N, WIDTH), torch.get_rng_state()
    found = predict(model, x, 1500, masks="per_input")
    assert_like_the_loop(found, model, x, training="dropout" in name)
    some = predict(model, x[[4, 2]], 20, masks="per_input", ids=[4, 2], batch_size=1)
    np.testing.assert_allclose(some.samples, found.samples[:20, [4, 2]], atol=1e-6)  # products of other sizes
    shared = predict(model, np.repeat(x[:1], N, axis=0), 20)
    np.testing.assert_allclose(shared.samples, np.repeat(shared.samples[:, :1], N, axis=1), atol=1e-6)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("name", KEYED)
def test_every_engine_draws_the_same_random_numbers(name, masks, only_engine):
    x, found = numbers(N, WIDTH), []
    for engine in ENGINES:
        only_engine(engine)
        found.append(predict(Apply(KEYED[name]), x, 40, masks=masks).samples)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)  # sums in another order


class Locked(nn.Module):
    """The same mask at each step of a sequence."""

    def forward(self, x):
        return x * x.new_empty(len(x), 1, x.shape[2]).bernoulli_(0.6) / 0.6 if self.training else x


class DropBlock(nn.Module):
    """Drops squares of an image."""

    def forward(self, x):
        if not self.training:
            return x
        seeds = (torch.rand(len(x), *x.shape[2:]) < 0.05).float()
        return x * (1 - F.max_pool2d(seeds[:, None], 3, 1, 1))


class Jumps(nn.Module):
    """Leaves out a layer where a number that is drawn in every pass falls below a rate, when training."""

    def __init__(self, rate):
        super().__init__()
        self.rate, self.layer = rate, nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        decision = torch.rand([])
        return x if self.training and decision < self.rate else self.layer(x)


class DropPath(nn.Module):
    """Whole inputs; nothing says what its rate is called."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return x * (torch.rand(len(x), 1) >= self.rate) / (1 - self.rate) if self.training else x


class KeptBelow(nn.Module):
    """Whole inputs, kept where a number is low."""

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
    "beside a dropout": (lambda: nn.Sequential(Locked(), nn.Flatten(), nn.Dropout(0.3)), (N, 4, WIDTH)),
    "whole layers": (lambda: nn.Sequential(Jumps(0.3), nn.Tanh()), (N, WIDTH)),
    "a path by its name": (lambda: nn.Sequential(DropPath(0.3), nn.Linear(WIDTH, 2)), (N, WIDTH)),
    "a path that is kept below": (lambda: nn.Sequential(KeptBelow(0.3), nn.Linear(WIDTH, 2)), (N, WIDTH)),
    "the operation beneath": (lambda: nn.Sequential(Native(), nn.Linear(WIDTH, 2)), (N, WIDTH)),
    "slopes": (lambda: nn.Sequential(nn.RReLU(0.1, 0.9), nn.Linear(WIDTH, 2)), (N, WIDTH)),
}


@pytest.mark.parametrize("name", IN_TRAINING)
def test_uniform_and_bernoulli_draws_of_training_alone_are_sites(name):
    make, shape = IN_TRAINING[name]
    torch.manual_seed(0)
    model, x = make().eval(), numbers(*shape)
    before = {name: module.training for name, module in model.named_modules()}
    found = predict(model, x, 1500)
    assert_like_the_loop(found, model, x, training=True)
    assert {name: module.training for name, module in model.named_modules()} == before
    np.testing.assert_allclose(predict(model, x, 1500, batch_size=2).samples, found.samples, atol=1e-6)


def test_sites_of_random_numbers_are_listed_with_what_draws_them():
    model = nn.Sequential(Locked(), nn.Dropout(0.2), Apply(lambda m, x: x + torch.randn_like(x)), nn.Flatten())
    table = mcd.mc_sites(model.eval(), numbers(N, 4, WIDTH))
    assert table.site.tolist() == ["0[numbers 0]", "1[0]", "2[numbers 0]"]
    assert table.operation.tolist() == ["bernoulli", "dropout", "randn_like"]
    np.testing.assert_allclose(table.rate, [0.4, 0.2, np.nan])
    assert table["shape"].tolist() == ["1 x 3", "4 x 3", "4 x 3"]


def test_numbers_that_nothing_looks_at_are_no_sites():
    model = nn.Sequential(Jumps(0.0), nn.Dropout(0.4)).eval()  # as layer drop of rate 0 in language models
    x = numbers(N, WIDTH)
    assert mcd.mc_sites(model, x).site.tolist() == ["1[0]"]
    assert predict(model, x).engine == "folded"


# ---- normal noise of training alone -------------------------------------------------------------------------------


def noise_when_training(m, x):
    return F.dropout(x, 0.5, m.training) + (torch.randn_like(x) if m.training else 0)


@pytest.mark.parametrize("make", [
    lambda: Apply(noise_when_training),
    lambda: nn.Sequential(nn.Dropout(0.5), Apply(lambda m, x: x + torch.randn_like(x) if m.training else x)).eval(),
    lambda: nn.Sequential(nn.Dropout(0.5), Apply(lambda m, x: x + torch.randn_like(x) * m.training)).eval(),
])  # fmt: skip
def test_normal_noise_of_training_alone_is_sampled_on_request_and_else_named(make):
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


def test_noise_alone_is_refused_with_the_way_to_sample_it():
    model = Apply(lambda m, x: x + torch.randn_like(x) if m.training else x)
    with pytest.raises(mcd.NoStochasticSites, match="by randn_like in itself; set `gaussian_noise` to true"):
        predict(model, numbers(N, WIDTH))
    assert predict(model, numbers(N, WIDTH), gaussian_noise=True).engine == "folded"
    settled = mcd.mc_convergence(
        model, numbers(N, WIDTH), (5, 9), outputs="values", gaussian_noise=True, progress=False
    )
    assert (settled.table.mcse > 0).all()


# ---- what cannot be keyed ----------------------------------------------------------------------------------------


def test_what_torch_draws_for_all_inputs_is_drawn_anew_in_every_draw_whatever_the_batches():
    model, x = Apply(lambda m, x: F.dropout(x, 0.5, m.training)[:, torch.randperm(WIDTH)]), numbers(N, WIDTH)
    state = torch.get_rng_state()
    found = predict(model, x, 12)
    np.testing.assert_array_equal(predict(model, x, 12, batch_size=2).samples, found.samples)
    kept = found.samples[:, :, None, :] == x[None, :, :, None] * 2  # which input column comes out where
    assert len({tuple(map(tuple, one[0])) for one in kept}) > 3
    assert mcd.mc_sites(model, x).operation.tolist() == ["dropout", "randperm"]  # without a warning
    assert torch.equal(torch.get_rng_state(), state)


def test_what_torch_draws_for_each_input_is_named_and_repeats():
    model = Apply(lambda m, x: F.dropout(x, 0.5, m.training) + torch.multinomial(torch.ones(len(x), 4), 1))
    x = np.zeros((N, WIDTH), dtype=np.float32)
    with pytest.warns(
        UserWarning, match="cannot be keyed by input, by multinomial in itself; they depend on `batch_size`"
    ):
        found = predict(model, x, 12).samples
    assert len(np.unique(found[:, 0])) == 4  # drawn anew in every draw, though behind the last site
    with pytest.warns(UserWarning, match="multinomial"):
        np.testing.assert_array_equal(predict(model, x, 12).samples, found)


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_what_python_and_numpy_draw_is_named_and_repeats(draw):
    model, x = (
        Apply(lambda m, x: (x + draw()) * F.dropout(torch.ones(len(x), WIDTH), 0.2, m.training)),
        numbers(N, WIDTH),
    )
    states = random.getstate(), position_of_numpy()
    found = []
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"by (Python's `random`|`numpy.random`); they depend on `batch_size`"):
            found.append(predict(model, x, 9).samples)
    np.testing.assert_array_equal(*found)
    added = (found[0] / 1.25 - x)[:, 0, 0]
    assert len(np.unique(added[np.abs(found[0][:, 0, 0]) > 0].round(3))) > 4  # drawn anew, though before the first site
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
def test_what_is_drawn_until_it_suits_is_drawn_so_in_every_draw(function):
    model, x = Apply(function), numbers(N, WIDTH)
    with pytest.warns(UserWarning, match="of its own .* they depend on `batch_size` too"):
        found = predict(model, x, 1500)
    assert found.engine == "loop"
    assert_like_the_loop(found, model, x, training=True)


def test_numbers_that_no_call_shows_are_told_apart_from_inputs_that_mix():
    rng = np.random.default_rng(0)
    model = Apply(lambda m, x: F.dropout(x, 0.2, m.training) + torch.from_numpy(rng.standard_normal(x.shape)).float())
    with pytest.warns(UserWarning, match="cannot be keyed by input, by what no call of torch's shows"):
        found = predict(model, numbers(N, WIDTH), 1500)
    assert_like_the_loop(found, model, numbers(N, WIDTH), training=True)


def test_numbers_that_a_seed_fixes_stay():
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


def test_a_generator_of_the_models_own_in_training_alone_is_named():
    own = torch.Generator().manual_seed(0)
    model = Apply(
        lambda m, x: F.dropout(x, 0.5, m.training) + (torch.randn(x.shape, generator=own) if m.training else 0)
    )
    with pytest.warns(UserWarning, match="when training, besides dropout, by randn in itself"):
        predict(model, numbers(N, WIDTH))


def test_slices_that_are_not_the_inputs_are_refused_where_each_wants_a_mask():
    def by_column(m, x):
        return torch.func.vmap(lambda one: F.dropout(one, 0.3, m.training), in_dims=1, randomness="different")(x).T

    with pytest.raises(
        ValueError, match=r"^`model` has a dropout at \[0\] inside `torch.func.vmap` .* outside of it\.$"
    ):
        predict(Apply(by_column), numbers(N, WIDTH))


def test_complex_outputs_are_refused():
    model = Apply(lambda m, x: torch.fft.fft(F.dropout(x, 0.3, m.training)))
    for run in (predict, lambda *given: mcd.mc_predict_point(*given, outputs="values", progress=False)):
        with pytest.raises(ValueError, match="must return real numbers; got complex ones"):
            run(model, numbers(N, WIDTH))
    assert predict(model, numbers(N, WIDTH), select=lambda out: out.abs()).engine == "folded"


def test_predictions_of_models_that_draw_from_numpy_wait_for_each_other():
    model, x = nn.Sequential(nn.Dropout(0.3), Apply(lambda m, x: x * np.random.rand())).eval(), numbers(N, WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are not keyed
        alone, state = predict(model, x, 20).samples, position_of_numpy()
        found = []
        threads = [threading.Thread(target=lambda: found.append(predict(model, x, 20).samples)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for one in found:
        np.testing.assert_array_equal(one, alone)
    assert position_of_numpy() == state


class Scripted(nn.Module):
    """Draws where no function of torch's can be met."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_compiled_code_draws_is_named_and_repeats():
    model, x = nn.Sequential(torch.jit.script(Scripted()), nn.Dropout(0.2)).eval(), np.zeros((N, WIDTH), np.float32)
    state, found = torch.get_rng_state(), []
    for _ in range(2):
        with pytest.warns(UserWarning, match="by compiled code; they depend on `batch_size`"):
            found.append(predict(model, x, 9).samples)
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0])) > 0.7 * found[0].size  # drawn anew, though before the first site; 1 in 5 is 0
    assert torch.equal(torch.get_rng_state(), state)


def test_what_another_thread_draws_once_from_numpy_is_not_taken_for_the_models():
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
    assert np.random.rand() != drawn[0]  # nothing was put back


def test_what_python_draws_when_training_alone_is_named():
    model = Apply(lambda m, x: m.drop(x) * (random.random() if m.training else 1), drop=nn.Dropout(0.5))
    with pytest.warns(UserWarning, match="when training, besides dropout, by Python's `random`; they are left out"):
        draws = predict(model, np.ones((N, WIDTH), dtype=np.float32)).samples
    assert set(np.unique(draws)) == {0.0, 2.0}
    with pytest.raises(mcd.NoStochasticSites, match="by Python's `random`, cannot be sampled; draw it by `torch.rand`"):
        predict(Apply(lambda m, x: x * (random.random() if m.training else 1)), numbers(N, WIDTH))


def test_a_generator_of_the_models_own_is_kept_where_it_starts_anew_and_keyed_where_it_goes_on():
    def anew(m, x):
        return F.dropout(x @ torch.randn(WIDTH, 2, generator=torch.Generator().manual_seed(4)), 0.5, m.training)

    own = torch.Generator().manual_seed(4)
    x, weights = numbers(N, WIDTH), torch.randn(WIDTH, 2, generator=torch.Generator().manual_seed(4)).numpy()
    draws = predict(Apply(anew), x).samples
    np.testing.assert_allclose(draws[draws != 0], np.broadcast_to(2 * x @ weights, draws.shape)[draws != 0], rtol=1e-5)
    assert mcd.mc_sites(Apply(anew), x).operation.tolist() == ["dropout"]
    state = own.get_state()
    goes_on = Apply(lambda m, x: x @ torch.randn(WIDTH, 2, generator=own))
    found = predict(goes_on, x, 5).samples
    assert len(np.unique(found[:, 0, 0])) == 5
    np.testing.assert_array_equal(predict(goes_on, x, 5, batch_size=3).samples, found)
    assert torch.equal(own.get_state(), state)


# ---- what it does not disturb -------------------------------------------------------------------------------------


def test_a_module_that_changes_more_than_dropout_is_refused_beside_random_numbers():
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
def test_the_ordinary_prediction_draws_as_the_model_does_now_and_moves_no_generator(draw, batch_size):
    model, x = Apply(lambda m, x: F.dropout(draw(m, x), 0.5, m.training)), numbers(N, WIDTH)

    def states():
        return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())

    before, of_numpy = states(), np.random.get_state()
    point = mcd.mc_predict_point(model, x, batch_size, outputs="values", progress=False)
    assert states() == before
    with torch.random.fork_rng():
        try:
            own = torch.cat([model(part) for part in torch.from_numpy(x).split(batch_size)])
        finally:
            random.setstate(before[1])
            np.random.set_state(of_numpy)
    np.testing.assert_allclose(point, own.numpy(), atol=1e-6)


def test_the_ordinary_prediction_leaves_what_a_loader_draws():
    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from torch.from_numpy(numbers(N, WIDTH)) + random.random()

    model, state = Apply(lambda m, x: F.dropout(x, 0.5, m.training)), random.getstate()
    mcd.mc_predict_point(model, torch.utils.data.DataLoader(Rows(), batch_size=2), outputs="values", progress=False)
    assert random.getstate() != state  # as when the loader is read by anybody else


def test_what_is_left_out_is_told_once_for_all_rates_and_can_be_let_in():
    model, y = Apply(noise_when_training), numbers(N, WIDTH, seed=2)
    given = {"outputs": "values", "seed": 1, "progress": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        without = mcd.mc_compare_rates(model, numbers(N, WIDTH), y, (0.2, 0.6), 30, **given)
    assert [str(one.message)[:47] for one in caught] == ["`model` draws normal numbers when training, by "]
    with_noise = mcd.mc_compare_rates(model, numbers(N, WIDTH), y, (0.2, 0.6), 30, gaussian_noise=True, **given)
    assert (with_noise.spread > without.spread).all()


def test_rates_are_compared_where_torch_scales_what_is_kept():
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
