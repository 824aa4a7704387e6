"""Models with state in attributes, closures, other uses of the training flag, shapes that change, and other dtypes."""

import functools
import importlib
import sys
from collections import OrderedDict, deque
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import DRAWS, Apply, numbers, predict
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mcdropout as mcd
from mcdropout.sites.axes import _inputs_outermost
from mcdropout.sites.calls import StochasticCall
from mcdropout.sites.comparison import same_numbers
from mcdropout.sites.site import Call

N = 40


@pytest.fixture
def small_chunks(monkeypatch):
    """Many chunks and two threads of torch, so that workers run at the same time."""
    monkeypatch.setattr("mcdropout.engine.chunks.chunk_sizes", lambda *args: (DRAWS, 1))
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


class StoresSkip(nn.Module):
    """Stores an intermediate result in an attribute, as many U-nets do."""

    def __init__(self):
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(3, 200), nn.Dropout(0.5), nn.Linear(200, 2)

    def forward(self, x):
        self.skip = self.a(x)
        h = self.drop(torch.tanh(self.skip))
        for _ in range(20):
            h = torch.tanh(h)
        return self.b(h + self.skip)


def test_workers_share_no_state_of_the_model(small_chunks):
    model, x = StoresSkip(), numbers(400, 3)
    np.testing.assert_array_equal(predict(model, x, workers=4).samples, predict(model, x, workers=1).samples)
    assert not hasattr(model, "skip")


def test_hooks_of_the_user_do_not_run_in_parallel(small_chunks):
    model, stored = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2)), {}
    model[0].register_forward_hook(lambda module, args, out: stored.update(first=out))
    model.register_forward_hook(lambda module, args, out: out + stored["first"].mean(dim=-1, keepdim=True))
    x = numbers(400, 3)
    np.testing.assert_allclose(predict(model, x).samples, predict(model, x, workers=1).samples, atol=1e-6)


def test_a_dropout_called_input_by_input_is_refused():
    model = Apply(lambda m, x: torch.stack([m.drop(row) for row in x]), drop=nn.Dropout(0.5))
    with pytest.raises(
        ValueError, match=r"at drop\[1\] where inputs cannot be told apart: .* are none, \(3,\), \(3,\)"
    ):
        predict(model, numbers(N, 3))


class Norm(nn.Module):
    """A model that calls its batch norm through a reference to it."""

    def __init__(self, refer):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.call = refer(self.norm)

    def forward(self, x):
        return self.drop(self.call(x))


REFERENCES = {
    "attribute": lambda norm: norm,
    "list": lambda norm: functools.partial(lambda container, x: container[0](x), [norm]),
    "ordered dict": lambda norm: functools.partial(lambda container, x: container["a"](x), OrderedDict(a=norm)),
    "deque": lambda norm: functools.partial(lambda container, x: container[0](x), deque([norm])),
    "partial": lambda norm: functools.partial(nn.BatchNorm1d.forward, norm),
    "bound method": lambda norm: norm.forward,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_referenced_module_is_that_of_the_replica(name):
    model, x = Norm(REFERENCES[name]).train(), numbers(N, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    full = predict(model, x)
    np.testing.assert_allclose(predict(model, x, batch_size=3).samples, full.samples, atol=1e-6)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_closure_over_the_model_is_refused():
    model = Norm(lambda norm: lambda x: norm(x)).train()
    before = model.get_buffer("norm.running_mean").clone()
    with pytest.raises(TypeError, match="reaches its weights past its modules"):
        predict(model, numbers(N, 3))
    assert torch.equal(model.get_buffer("norm.running_mean"), before)


def test_a_prediction_adds_nothing_to_a_collection_of_the_model():
    class Collects(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.seen = nn.Dropout(0.5), deque()

        def forward(self, x):
            self.seen.append(len(x))
            return self.drop(x)

    model = Collects()
    predict(model, numbers(N, 3))
    assert len(model.seen) == 0


def test_attributes_that_cannot_be_copied_are_shared():
    import threading

    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.lock = nn.Dropout(0.5), threading.Lock()

        def forward(self, x):
            with self.lock:
                return self.drop(x)

    assert (predict(Locked(), numbers(N, 3)).std > 0).any()


@pytest.mark.parametrize("folded", [True, False])
def test_equal_first_inputs_do_not_hide_the_order_of_the_inputs(folded):
    def fold(m, x):
        """Dropout on an axis of steps and inputs, with the inputs in the order 1 2 3 1 2 3 or 1 1 2 2 3 3."""
        n, steps = x.shape[:2]
        flat = (x.transpose(0, 1) if folded else x).reshape(n * steps, -1)
        flat = F.dropout(flat + 1, 0.5, m.training)
        return (flat.reshape(steps, n, -1).transpose(0, 1) if folded else flat.reshape(n, steps, -1)).flatten(1)

    x = numbers(N, 6, 5)
    x[:3] = 0
    full = predict(Apply(fold), x)
    np.testing.assert_array_equal(predict(Apply(fold), x, batch_size=7).samples, full.samples)
    np.testing.assert_allclose(predict(Apply(fold), x[10:12]).samples, full.samples[:, 10:12], atol=1e-6)
    sampler = mcd.mc_sampler(Apply(fold), np.zeros((1, 6, 5)), DRAWS, outputs="values", seed=3)
    np.testing.assert_allclose(sampler(x).mean, full.mean, atol=1e-6)


def test_batches_of_different_lengths_get_different_masks():
    model = Apply(lambda m, x: F.dropout(x, 0.5, m.training).mean(dim=1))
    short, long = np.ones((4, 1, 3), dtype=np.float32), np.ones((5, 7, 3), dtype=np.float32)
    streamed = predict(model, iter([short, long]), 50)
    np.testing.assert_array_equal(streamed.samples[:, :4], predict(model, short, 50).samples)
    np.testing.assert_array_equal(streamed.samples[:, 4:], predict(model, long, 50).samples)
    sampler = mcd.mc_sampler(model, short, 50, outputs="values", seed=3)
    np.testing.assert_array_equal(sampler(long).variance, predict(model, long, 50).variance)


def test_shapes_that_depend_on_the_values_are_refused():
    model = Apply(lambda m, x: F.dropout(x[:, : 2 + int(x.max() > 90)], 0.5, m.training).sum(dim=1, keepdim=True))
    x = numbers(N, 3)
    x[-1] = 99
    with pytest.raises(ValueError, match=r"meets its dropout at \[0\] with shape .* where its first inputs gave"):
        predict(model, x, batch_size=N - 1)


def test_training_that_changes_more_than_dropout_is_refused():
    model = Apply(lambda m, x: F.dropout(x, 0.5) if m.training else 10 * x)
    with pytest.raises(ValueError, match="changes more than its dropout when training"):
        predict(model, numbers(N, 3))


def test_a_block_with_norm_in_its_name_is_not_a_normalisation_layer():
    class PreNormBlock(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5) if self.training else x

    model = nn.Sequential(PreNormBlock(), nn.Dropout(0.25))
    assert mcd.mc_sites(model, numbers(N, 3)).rate.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("engine", ["folded", "loop"])
def test_inside_inference_mode(engine, only_engine):
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)), numbers(N, 3)
    expected = predict(model, x)
    only_engine(engine)
    with torch.inference_mode():
        inside = predict(model, torch.from_numpy(x))
    assert inside.engine == engine
    np.testing.assert_allclose(inside.samples, expected.samples, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_other_dtypes(dtype):
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    expected = predict(model, numbers(N, 3))
    other = predict(model.to(dtype), numbers(N, 3))
    tolerance = {torch.float64: 1e-6, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]  # mantissas of 11 and 8 bits
    np.testing.assert_allclose(other.samples, expected.samples, atol=tolerance)


def test_one_number_per_input_is_a_column():
    model = Apply(lambda m, x: F.dropout(m.layer(x), 0.5, m.training).squeeze(-1), layer=nn.Linear(3, 1))
    assert predict(model, numbers(N, 3)).mean.shape == (N, 1)
    assert predict(model, numbers(N, 3), outputs="logits").mean.shape == (N, 2)


def test_tied_and_parametrized_weights():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    model = nn.Sequential(layer, nn.Dropout(0.5), layer)
    full = predict(model, numbers(N, 3))
    assert full.engine == "folded"
    np.testing.assert_allclose(predict(model, numbers(N, 3), batch_size=3).samples, full.samples, atol=1e-6)


def test_draws_that_exceed_the_memory_are_refused_before_the_first():
    passes = []

    def count(m, x):
        passes.append(len(x))
        return F.dropout(x, 0.5, m.training)

    with pytest.raises(mcd.OutOfMemory, match="set it to false"):
        predict(Apply(count), numbers(N, 3), 10**12)
    assert sum(passes) <= 1 + 3 + 1 + 2 + 3  # only the passes of the probe


def test_a_keyboard_interrupt_ends_the_workers(small_chunks):
    def interrupt(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(StoresSkip(), numbers(400, 3), progress=interrupt)
    assert torch.get_num_threads() == 2


def test_an_error_of_the_model_is_reported_with_the_shape_of_the_inputs():
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5))
    with pytest.raises(
        ValueError, match=r"`model` fails on 3 inputs of shape \(input, 7\): RuntimeError, mat1 and mat2"
    ):
        predict(model, numbers(N, 7))


# ---- computations before the first site that differ between passes


class Memo(nn.Module):
    """Caches a tensor for each input shape: only the first pass with a shape computes it."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.cached = nn.Linear(12, 9), nn.Linear(9, 3), None

    def forward(self, x):
        if self.cached is None or self.cached[0] != x.shape:
            self.cached = x.shape, torch.linspace(0, 1, 9)
        return self.last(F.dropout(self.first(x), 0.5, self.training) + self.cached[1])


class Shift(nn.Module):
    """Calls different functions before its dropout in every second pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.passes = nn.Linear(12, 9), nn.Linear(9, 3), 0

    def forward(self, x):
        self.passes += 1
        x = x.neg() if self.passes % 2 else x * -1
        return self.last(F.dropout(self.first(x), 0.5, self.training))


@pytest.mark.parametrize("kind", [Memo, Shift])
@pytest.mark.parametrize("engine", ["folded", "loop"])
def test_a_cached_prefix_gives_the_draws_of_full_passes(kind, engine, only_engine):
    only_engine(engine)
    torch.manual_seed(0)
    model, x = kind(), np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    result: Any = mcd.mc_predict(model, x, 30, outputs="values", seed=1, progress=False, batch_size=2)
    assert result.engine == engine, result.engine_reason
    masks = predict(
        nn.Sequential(nn.Dropout(0.5)), np.ones((1, 9), np.float32), 30, outputs="values", seed=1, progress=False
    ).samples[:, 0]
    with torch.no_grad():
        hidden = model.first(torch.from_numpy(-x if kind is Shift else x))
        shift = torch.linspace(0, 1, 9) if kind is Memo else 0
        expected = [model.last(hidden * mask + shift).numpy() for mask in torch.from_numpy(masks)]
    np.testing.assert_allclose(result.samples, expected, atol=1e-5)


class Inference(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    @torch.inference_mode()
    def forward(self, x):
        return self.last(F.dropout(self.first(x), 0.5, self.training))


def test_a_forward_under_inference_mode_is_sampled():
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    result = mcd.mc_predict(Inference(), x, 5, outputs="values", seed=1, progress=False)
    assert result.variance.min() > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_a_view_after_convolutions_keeps_the_order_of_the_inputs(channels, masks):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(channels, 6, 3), nn.Linear(6 * 5 * 5, 3)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv(x)), 2)
            return self.out(F.dropout(x.view(-1, 6 * 5 * 5), 0.5, self.training))

    torch.manual_seed(0)
    model, x = Net(), np.random.default_rng(0).standard_normal((5, channels, 12, 12)).astype(np.float32)
    assert len(mcd.mc_sites(model, x)) == 1
    result = mcd.mc_predict(model, x, 5, outputs="values", seed=1, masks=masks, progress=False)
    assert result.variance.min() > 0
    point = mcd.mc_predict_point(model, x, outputs="values", progress=False)
    with torch.no_grad():
        np.testing.assert_allclose(point, model.eval()(torch.from_numpy(x)), atol=1e-5)


def test_a_model_that_mixes_inputs_gets_a_warning():
    class Centred(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, self.training) - x.mean(dim=0)

    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    with pytest.warns(UserWarning, match=r"^`model` gives an input other numbers when other inputs come with it"):
        mcd.mc_predict(Centred(), x, 5, outputs="values", seed=1, progress=False)


@pytest.mark.parametrize(("convert", "words"), [
    (lambda x: (x, x), "^`model` fails on 3 inputs of shape .*: TypeError, .*; it must take inputs of this shape"),
    (lambda x: {"pixels": x}, r'^`x` must have names that `model` takes \(input\); got "pixels"\.$'),
])  # fmt: skip
def test_inputs_that_the_model_does_not_take_are_named_in_a_sentence(convert, words):
    model, x = nn.Sequential(nn.Dropout(0.5)), np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match=words):
        mcd.mc_predict(model, convert(x), 5, outputs="values", progress=False)


# ---- outputs with some huge, infinite or NaN values


INF, NAN = float("inf"), float("nan")


def test_values_are_compared_one_by_one():
    rng = torch.Generator().manual_seed(0)
    plain = torch.randn(3, 40, generator=rng)
    for huge in (-1e9, torch.finfo(torch.float32).min, -INF, INF, NAN):
        values = plain.clone()
        values[:, ::3] = huge
        values[0, 1] = huge  # a position that is masked for one input only
        assert same_numbers(values, values + 1e-7 * plain, 1e-4), huge
        other = values.clone()
        other[1, 4] += 0.1
        assert not same_numbers(values, other, 1e-3), huge
    prices = torch.tensor([[0.03, 210_000.0], [0.02, 190_000.0]])  # a rate and a price
    assert not same_numbers(prices, prices * torch.tensor([1.1, 1.0]), 1e-3)
    # A value that is small by chance has the rounding errors of the larger ones: 7e-6 is more than 1e-4 of 6e-4.
    outputs = torch.linspace(0.3, 4.3, 36)
    outputs[5] = -6e-4
    assert same_numbers(outputs, outputs + 7e-6, 1e-4)


@pytest.mark.parametrize(
    ("values", "other"), [([INF], [-INF]), ([NAN], [0.0]), ([0.0], [NAN]), ([3e38], [INF]), ([0.0, 1.0], [-INF, 1.0])]
)
def test_infinite_values_equal_only_themselves(values, other):
    assert not same_numbers(torch.tensor(values), torch.tensor(other), 1e-3)


@pytest.mark.parametrize("n", [1, 6, 5000])
def test_small_values_may_have_the_rounding_error_of_large_ones(n):
    # The values are near 1 and differ by 1e-6. Some are far below 1e-2, where 1e-6 exceeds 1e-4 of the value.
    rng = torch.Generator().manual_seed(1)
    values = torch.randn(n, generator=rng)
    assert same_numbers(values, values + 1e-6 * torch.randn(n, generator=rng), 1e-4)


class Masked(nn.Module):
    """Masks every third of 20 outputs. With `by_input` the masked positions differ between inputs."""

    def __init__(self, fill, by_input):
        super().__init__()
        self.first, self.last, self.fill, self.by_input = nn.Linear(7, 64), nn.Linear(64, 20), fill, by_input

    def mask(self, x, h):
        masked = torch.arange(20) % 3 == 0
        if self.by_input:
            masked = (torch.arange(20) + (x[:, :1] > 0)) % 3 == 0
        return self.last(h).masked_fill(masked, self.fill)


class MaskedPlain(Masked):
    def forward(self, x):
        return self.mask(x, F.dropout(F.relu(self.first(x)), 0.4, self.training))


class MaskedAndScaled(Masked):
    def forward(self, x):
        h = F.relu(self.first(x))
        return self.mask(x, F.dropout(h, 0.4) * 3 if self.training else h)


class MaskedAndMixed(Masked):
    def forward(self, x):
        h = F.dropout(F.relu(self.first(x)), 0.4, self.training)
        return self.mask(x, h - h.mean(dim=0))


def masked_network(kind, fill, by_input):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return kind(fill, by_input)


masked_cases = [
    pytest.mark.parametrize("fill", [-1e4, -1e9, torch.finfo(torch.float32).min, -INF]),
    pytest.mark.parametrize("by_input", [False, True]),
]


def for_masked(test):
    return masked_cases[0](masked_cases[1](test))


@for_masked
def test_huge_outputs_do_not_hide_that_training_changes_more(fill, by_input):
    with pytest.raises(ValueError, match=r"changes more than its dropout when training, in itself, so it cannot be"):
        predict(masked_network(MaskedAndScaled, fill, by_input), numbers(9, 7), outputs="logits")


@for_masked
def test_huge_outputs_do_not_hide_that_inputs_mix(fill, by_input):
    with pytest.warns(UserWarning, match=r"^`model` gives an input other numbers when other inputs come with it"):
        result = predict(masked_network(MaskedAndMixed, fill, by_input), numbers(9, 7), outputs="logits")
    assert result.engine != "folded", result.engine_reason  # folding would change the results


@for_masked
def test_huge_outputs_do_not_exclude_the_fastest_engine(fill, by_input):
    result = predict(masked_network(MaskedPlain, fill, by_input), numbers(9, 7), outputs="logits")
    assert result.engine == "folded", result.engine_reason


CALLS = {
    "mc_predict": lambda model, x, options: predict(model, x, **options),
    "mc_predict_point": lambda model, x, options: mcd.mc_predict_point(model, x, progress=False, **options),
    "mc_sites": lambda model, x, options: mcd.mc_sites(model, x),
    "mc_sampler": lambda model, x, options: mcd.mc_sampler(model, x, DRAWS, **options),
    "mc_convergence": lambda model, x, options: mcd.mc_convergence(model, x, (3, 5), progress=False, **options),
    "mc_compare_rates": lambda model, x, options: mcd.mc_compare_rates(
        model,
        x,
        ["0", "1"] * 4 if options["outputs"] != "values" else numbers(8, 2),
        (0.1, 0.2),
        4,
        progress=False,
        **options,
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("outputs", ["logits", "probabilities", "values"])
@pytest.mark.parametrize("broken", [NAN, INF])
def test_weights_that_are_nan_or_infinite_raise_one_error(call, outputs, broken):
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 2))
    if outputs == "probabilities":
        model.append(nn.Softmax(dim=1))
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(broken)
        model.get_parameter("3.weight").fill_(1.0)
    options = {"outputs": outputs} | ({} if outputs == "values" else {"labels": ["0", "1"]})
    with pytest.raises(
        ValueError,
        match=r"^`model` returned NaN or infinite values for input number 1; look at its weights and at the scale",
    ):
        CALLS[call](model, np.abs(numbers(8, 5)), options)


def test_the_error_names_the_first_input_with_nan_outputs():
    model = Apply(lambda m, x: m.drop(x).abs() - torch.where(x == 2, NAN, 0.0), drop=nn.Dropout(0.5))
    x = np.ones((9, 3), np.float32)
    x[7] = 2
    words = "infinite values for input number 8;"
    with pytest.raises(ValueError, match=words):
        mcd.mc_predict_point(model, x, 2, outputs="values", progress=False)
    with pytest.raises(ValueError, match=words):
        predict(model, x, batch_size=2)


def test_logits_of_minus_infinity_are_accepted():
    model, x = masked_network(MaskedPlain, -INF, False), numbers(9, 7)
    assert len(mcd.mc_sites(model, x)) == 1
    for result in (
        predict(model, x, outputs="logits").mean,
        mcd.mc_predict_point(model, x, outputs="logits", progress=False),
    ):
        assert (result[:, ::3] == 0).all()
        np.testing.assert_allclose(result.sum(axis=1), 1, atol=1e-6)  # float32


@pytest.mark.filterwarnings("ignore:std")
def test_standardising_over_the_batch_gets_a_warning():
    def forward(m, x):
        h = m.first(x)
        return m.last(m.drop((h - h.mean(0)) / h.std(0)))  # NaN for a batch of one input

    model = Apply(forward, first=nn.Linear(5, 8), drop=nn.Dropout(0.4), last=nn.Linear(8, 3))
    with pytest.warns(UserWarning, match=r"^`model` gives an input other numbers when other inputs come with it"):
        predict(model, numbers(12, 5), outputs="logits")


def test_rounding_of_huge_values_does_not_change_the_detected_order_of_inputs():
    drop = StochasticCall("dropout", 0.5, True, (2, 2))
    entries = torch.tensor([[1e9, 1.0], [1e9, 2.0]])  # of one input
    three = torch.cat([entries, entries + torch.tensor([0.0, 3.0]), entries + torch.tensor([0.0, 6.0])])
    three[1, 0] += 64  # the rounding of float32 near 1e9 differs between kernels
    first = Call("a[0]", drop, entries, (0, 1))
    assert _inputs_outermost(first, Call("a[0]", drop, three, (0, 1)), 0)


# ---- gradients and transforms in `forward`, and the cached prefix of the first draw


class Inner(nn.Module):
    """`f` returns one number for each row; a forward calls `before` before a site, and `after` has the site."""

    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Dropout(0.4), nn.Linear(24, 1))
        self.before = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Dropout(0.0))
        self.after = nn.Sequential(nn.Dropout(0.4), nn.Linear(24, 2))


def by_autograd(m, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(m.f(x).sum(), x)[0]


def by_autograd_turned_on(m, x):
    with torch.enable_grad():
        h = m.before(x.detach().requires_grad_())
        return torch.autograd.grad(m.after(h).sum(), h)[0] + h


func = torch.func
TRANSFORMS = {
    "grad of a sum": lambda m, x: func.grad(lambda rows: m.f(rows).sum())(x),
    "grad of each": lambda m, x: func.vmap(func.grad(lambda row: m.f(row).sum()), randomness="same")(x),
    "jacrev": lambda m, x: func.vmap(func.jacrev(lambda row: m.after(m.before(row))), randomness="same")(x).flatten(1),
    "jvp": lambda m, x: func.jvp(m.f, (x,), (torch.ones_like(x),))[1],
    "jvp before": lambda m, x: m.after(func.jvp(m.before, (x,), (torch.ones_like(x),))[1]),
    "grad before": lambda m, x: m.after(m.before(x + func.grad(lambda rows: m.before(rows).sum())(x * 2))),
    "vmap before": lambda m, x: m.after(func.vmap(m.before)(x)),
    "vmap around": lambda m, x: func.vmap(lambda row: m.after(m.before(row)), randomness="same")(x),
    "autograd": by_autograd,
    "autograd turned on": by_autograd_turned_on,
}


class FixedMask(nn.Module):
    """Replaces the dropout of `Inner` by a fixed mask for all inputs."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x):
        return x * self.mask


@pytest.mark.parametrize("engine", ["folded", "loop"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_and_gradients_in_a_forward_are_computed_in_every_draw(name, engine, only_engine):
    only_engine(engine)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        inner = Inner()
    model, x = Apply(lambda m, x: TRANSFORMS[name](m.inner, x), inner=inner), numbers(5, 6)
    result = predict(model, x, 7)
    masks = predict(
        nn.Sequential(nn.Dropout(0.4)), np.ones((1, 24), np.float32), 7, outputs="values", seed=3, progress=False
    ).samples[:, 0]  # the masks of the only site
    expected = []
    for mask in torch.from_numpy(masks):
        inner.f[2] = inner.after[0] = FixedMask(mask)
        expected.append(TRANSFORMS[name](inner, torch.from_numpy(x)).detach().numpy())
    np.testing.assert_allclose(result.samples, expected, atol=1e-5)  # float32 sums of 24 terms in another order


def test_the_point_prediction_computes_gradients_that_the_model_needs():
    model, x = Apply(by_autograd, f=nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 1))), numbers(5, 6)
    expected = by_autograd(model, torch.from_numpy(x))
    np.testing.assert_allclose(mcd.mc_predict_point(model, x, outputs="values", progress=False), expected, atol=1e-6)


class Counts(nn.Module):
    """Makes the same calls in every pass, with other numbers in every second pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.passes = nn.Linear(12, 9), nn.Linear(9, 3), 0

    def forward(self, x):
        self.passes += 1
        shift = torch.from_numpy(np.full(12, self.passes % 2, np.float32))
        return self.last(F.dropout(self.first(x * (1 + self.passes % 2) + shift), 0.5, self.training))


@pytest.mark.filterwarnings("ignore:`model` (keeps something|gives an input other)")
def test_a_prefix_whose_arguments_change_is_not_replayed(only_engine):
    only_engine("loop")
    model, x = Counts(), numbers(1, 12)
    draws = predict(model, x, 30).samples[:, 0]
    ones = np.ones((1, 9), np.float32)
    masks = predict(nn.Sequential(nn.Dropout(0.5)), ones, 30).samples
    with torch.no_grad():
        even, odd = (
            model.last(model.first(torch.from_numpy(x) * (1 + k) + k) * torch.from_numpy(masks[:, 0])).numpy()
            for k in (0, 1)
        )
    alternating = [np.where(np.arange(30)[:, None] % 2 == k, even, odd) for k in (0, 1)]
    assert any(np.allclose(draws, expected, atol=1e-5) for expected in alternating)


class Products(TorchDispatchMode):
    """Records the shapes of the weights in matrix products."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.addmm.default:
            self.shapes.append(tuple(args[2].shape))
        return func(*args, **(kwargs or {}))


def test_a_prefix_that_reads_shapes_is_cached(only_engine):
    only_engine("loop")

    def forward(m, x):
        h = m.first(x.reshape(x.shape[0], -1))
        return m.last(F.dropout(h.T.T, 0.5, m.training))

    model = Apply(forward, first=nn.Linear(6, 9), last=nn.Linear(9, 2))
    sampler = mcd.mc_sampler(model, numbers(4, 6), 10, outputs="values", seed=3)
    with Products() as products:
        sampler(numbers(4, 6))
    # The sampler chose its engine before. Ten draws share one prefix.
    assert (products.shapes.count((6, 9)), products.shapes.count((9, 2))) == (1, 10)


class KeepsHiddenState(nn.Module):
    """Keeps a hidden state between batches, and resets it when the number of inputs changes."""

    def __init__(self):
        super().__init__()
        self.rnn, self.drop, self.last, self.hidden = (
            nn.GRU(3, 8, batch_first=True),
            nn.Dropout(0.4),
            nn.Linear(8, 2),
            None,
        )

    def forward(self, x):
        if self.hidden is not None and self.hidden.shape[1] != len(x):
            self.hidden = None
        h, self.hidden = self.rnn(x, self.hidden)
        return self.last(self.drop(h[:, -1]))


class KeepsBuffer(nn.Module):
    """Keeps a state between batches in a buffer, for any number of inputs."""

    level: torch.Tensor

    def __init__(self):
        super().__init__()
        self.first, self.drop = nn.Linear(3, 2), nn.Dropout(0.4)
        self.register_buffer("level", torch.zeros(3))

    def forward(self, x):
        self.level.mul_(0.5).add_(x.mean(dim=(0, 1)) + 1)
        return self.drop(self.first(x[:, -1] + self.level))


@pytest.mark.filterwarnings("ignore:`model` gives an input other numbers")
@pytest.mark.parametrize("kind", [KeepsHiddenState, KeepsBuffer])
def test_state_between_batches_gets_a_warning(kind):
    with pytest.warns(UserWarning, match=r"^`model` keeps something of one batch for the next, so results depend on"):
        predict(kind(), numbers(9, 5, 3), batch_size=4)


def test_a_skip_connection_in_an_attribute_gets_no_warning(recwarn):
    predict(StoresSkip(), numbers(9, 3))
    assert not recwarn.list


# ---- models with a fixed batch size, and models with nothing to sample


def test_a_hidden_state_of_a_fixed_batch_size_is_reported_with_the_number_of_inputs():
    model = Apply(lambda m, x: m.drop(m.rnn(x, torch.zeros(1, 8, 4))[0][:, -1]), rnn=nn.GRU(3, 4, batch_first=True),
                  drop=nn.Dropout(0.4))  # fmt: skip
    with pytest.raises(
        ValueError,
        match=r"^`model` fails on 3 inputs of shape \(input, 5, 3\): RuntimeError, .* hidden .*; it must take inputs "
        r"of this shape, and any number of them, as one to three are tried\.$",
    ):
        predict(model, numbers(16, 5, 3), batch_size=8)


def test_batch_norm_without_statistics_is_reported_with_the_remedy():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Dropout(0.4))
    words = (
        r"fails on one input of shape \(input, 5\): .*one to three are tried \(train the batch norm at 1 with `track_r"
    )
    for call in (predict, mcd.mc_sites):
        with pytest.raises(ValueError, match=words):
            call(model, numbers(12, 5))


def test_pairs_of_rows_must_be_passed_as_one_input():
    def forward(m, x):
        h = F.dropout(m.first(x), 0.4, m.training)
        return (h[0::2] - h[1::2]).square()

    with pytest.raises(ValueError, match=r"one row for each input; got .* for 3 inputs; .* as a pair, is one input\.$"):
        predict(Apply(forward, first=nn.Linear(3, 8)), numbers(8, 3))


class Experts(nn.Module):
    """A mixture of experts: each input goes to one of three networks."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.3), nn.Linear(8, 2)) for _ in range(3))

    def forward(self, x):
        which, out = x[:, 0].long(), x.new_zeros(len(x), 2)
        for k, part in enumerate(self.parts):
            at = (which == k).nonzero()[:, 0]
            out = out.index_add(0, at, part(x[at]))
        return out


@pytest.mark.parametrize("first", [[0, 1, 2], [0, 0, 0], [1, 0, 1]])
def test_experts_that_get_only_some_inputs_are_refused(first):
    x = numbers(9, 2)
    x[:, 0] = [*first, 0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match=r"and in a mixture of experts each must get them all, and its result"):
        predict(Experts(), x)


def test_a_model_with_only_rate_1_is_refused():
    with pytest.raises(mcd.NoStochasticSites, match=r"no dropout but of rate 1, which drops all of its input, so"):
        predict(nn.Sequential(nn.Linear(3, 4), nn.Dropout(1.0), nn.Linear(4, 2)), numbers(5, 3))


# ---- graphs, compiled and scripted parts


def small_network() -> Any:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Dropout(0.4), nn.Linear(24, 3)).eval()


def functional(m, x):
    return m.net[3](F.dropout(m.net[1](m.net[0](x)), 0.4, m.training))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small_network()

    def forward(self, x):
        return functional(self, x)


class Decorated(Functional):
    @torch.compile(backend="eager")
    def forward(self, x):
        return functional(self, x)


class HoldsCompiled(Functional):
    def __init__(self):
        super().__init__()
        self.call = torch.compile(self.working, backend="eager")

    def working(self, x):
        return functional(self, x)

    def forward(self, x):
        return self.call(x)


def compiled_in_place(part=None):
    net = small_network()
    (net if part is None else net[part]).compile(backend="eager")
    return net


def traced(net) -> Any:
    return torch.jit.trace(net, torch.ones(2, 6))


def compiled(net) -> Any:
    return torch.compile(net, backend="eager")


SAMPLED = {
    "a graph": lambda: torch.fx.symbolic_trace(small_network()),
    "a graph in a network": lambda: nn.Sequential(torch.fx.symbolic_trace(small_network())),
    "a graph traced in train mode": lambda: torch.fx.symbolic_trace(Functional().train()),
    "compiled": lambda: compiled(small_network()),
    "compiled twice": lambda: compiled(nn.Sequential(compiled(small_network()))),
    "compiled parts": lambda: nn.Sequential(*(compiled(layer) for layer in small_network())),
    "compiled in place": compiled_in_place,
    "a part compiled in place": lambda: compiled_in_place(2),
    "a forward compiled by a decorator": Decorated,
    "a method compiled in an attribute": HoldsCompiled,
    "DataParallel within": lambda: nn.Sequential(nn.DataParallel(small_network())),
    "a script without dropout": lambda: nn.Sequential(torch.jit.script(small_network()[:2]), *small_network()[2:]),
}


SCALED = """
import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropout_rate = rate

    def forward(self, x):
        if self.dropout_rate > 0:
            x = {applied}
        return x * self.dropout_rate
"""


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize(
    ("applied", "refused"),
    [("x + 1.0", False), ("torch.dropout(x, 0.5, self.training)", True)],
    ids=["none", "in a branch"],
)
def test_dropout_in_a_script_is_found_by_its_operations_not_by_names(applied, refused, tmp_path, monkeypatch):
    (tmp_path / "dropout").mkdir()
    (tmp_path / "dropout" / "scaled_network.py").write_text(SCALED.format(applied=applied))
    monkeypatch.syspath_prepend(tmp_path / "dropout")
    monkeypatch.delitem(sys.modules, "scaled_network", raising=False)
    scaled = importlib.import_module("scaled_network").Scaled(0.5)
    model, x = nn.Sequential(torch.jit.script(scaled), *small_network()), numbers(5, 6)
    if refused:
        with pytest.raises(TypeError, match="holds a TorchScript module at 0, whose dropout calls"):
            predict(model, x)
    else:
        np.testing.assert_array_equal(
            predict(model, x).samples, predict(nn.Sequential(scaled, *small_network()), x).samples
        )


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize("name", SAMPLED)
def test_graphs_and_compiled_parts_are_sampled_like_the_original_network(name):
    model, x = SAMPLED[name](), numbers(5, 6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = predict(model, x)
    np.testing.assert_array_equal(result.samples, predict(small_network(), x).samples)
    assert mcd.mc_sites(model, x).rate.tolist() == [0.4]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def exported():
    batch = torch.export.Dim("batch")
    return torch.export.export(small_network(), (torch.ones(5, 6),), dynamic_shapes=({0: batch},)).module()


REFUSED = {
    "a script": (lambda: torch.jit.script(small_network()), "is a TorchScript module, whose dropout"),
    "a scripted part": (
        lambda: nn.Sequential(nn.Sequential(torch.jit.script(small_network()))), "holds a TorchScript module at 0.0,",
    ),
    "a traced part": (
        lambda: nn.Sequential(traced(small_network())), "holds a TorchScript module at 0, ",
    ),
    "an exported graph": (exported, "is or holds a graph of `torch.export`, which has fixed"),
    "an exported part": (lambda: nn.Sequential(exported(), nn.Dropout(0.5)), "is or holds a graph of `torch.export`, "),
    "a graph traced in eval mode": (
        lambda: torch.fx.symbolic_trace(Functional().eval()), "traced in eval mode, which has fixed its functional",
    ),
}  # fmt: skip
DROP_COMPILED = torch.compile(lambda x: F.dropout(x, 0.5, True), backend="eager")


def test_a_compiled_function_is_sampled_like_the_original():
    x, net = numbers(5, 6), small_network()
    compiled = Apply(lambda m, x: DROP_COMPILED(m.net(x)), net=net)
    with torch.no_grad():
        compiled(torch.from_numpy(x))
    plain = predict(Apply(lambda m, x: F.dropout(m.net(x), 0.5, True), net=net), x, outputs="values")
    np.testing.assert_allclose(predict(compiled, x, outputs="values").samples, plain.samples, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", REFUSED)
def test_graphs_with_fixed_dropout_are_refused_with_the_remedy(name):
    make, words = REFUSED[name]
    for call in (predict, mcd.mc_sites):
        with pytest.raises(
            TypeError, match=rf"{words}.*; .*(pass the original `torch.nn.Module`|the original function)\.$"
        ):
            call(make(), numbers(5, 6))
