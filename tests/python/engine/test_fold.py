"""Draws laid along axis 0: whatever a network does with them, the numbers are the loop's."""

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mcdropout as mcd
from mcdropout.data.inputs import Inputs
from mcdropout.engine.fold import FoldedEngine, FoldedMode
from mcdropout.engine.fused import fused_calls
from mcdropout.engine.torch_passes import TorchPasses
from mcdropout.sites.probe import probe
from mcdropout.sites.replica import replicate

N, DRAWS = 5, 7


class Apply(nn.Module):
    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args):
        return self.function(self, *args)


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def predict(model, x, **more: Any) -> Any:
    torch.manual_seed(0)
    return mcd.mc_predict(model, x, DRAWS, **({"outputs": "values", "seed": 1, "progress": False} | more))


def by_loop(model, x, **more):
    with pytest.MonkeyPatch.context() as patch:
        every = TorchPasses.engines
        patch.setattr(TorchPasses, "engines", lambda self: every(self)[-1:])
        return predict(model, x, **more)


def drop(m, x):
    return F.dropout(x, 0.5, m.training)


def crossing(m, x):
    """Attention of what was dropped over what was not."""
    query, memory = drop(m, x[:, :2]), x
    return F.scaled_dot_product_attention(query[:, None], memory[:, None], memory[:, None]).flatten(1)


def last_step(m, x):
    """As sequence classifiers take one step of each input, chosen by the input itself."""
    hidden = drop(m, x)
    return hidden[torch.arange(len(hidden)), x[..., 0].argmax(dim=1)]


def picked(m, x):
    """As transformers pick rows of a mask: no argument of the call has draws, but there are as many numbers as rows."""
    hidden = drop(m, x)
    return hidden.masked_fill((x > 0)[torch.arange(len(hidden))], 0.0)


def picked_and_reshaped(m, x):
    """The rows picked so go on as rows of all draws."""
    hidden = drop(m, x)
    return hidden.reshape(len(x), 12) + x[torch.arange(len(hidden))].reshape(len(x), 12)


FOLDED = {
    "a skip from before the first site": lambda m, x: x + drop(m, x * 2),
    "a skip in place": lambda m, x: (x * 1).add_(drop(m, x)),
    "a skip into draws, in place": lambda m, x: drop(m, x).add_(x).mul(x),
    "rows picked by how many there are": picked,
    "rows picked so and reshaped": picked_and_reshaped,
    "joined": lambda m, x: torch.cat([x, drop(m, x)], dim=-1),
    "a mask of the input": lambda m, x: drop(m, x).masked_fill(x > 0, 0.0),
    "products of both": lambda m, x: drop(m, x) @ x.transpose(1, 2),
    "attention over both": crossing,
    "a step of each input": last_step,
    "the number of inputs noted before": lambda m, x: drop(m, x).reshape(len(x), 2, 6).view(len(x), 12),
    "that number, and one size left open": lambda m, x: drop(m, x).reshape(len(x), 3, -1).view((len(x), -1)),
    "inputs along axis 1": lambda m, x: (x.transpose(0, 1) + drop(m, x.transpose(0, 1))).transpose(0, 1),
    "along axis 1, their number noted": lambda m, x: drop(m, x.transpose(0, 1)).view(4, len(x), 3, 1).transpose(0, 1),
    "several sites": lambda m, x: drop(m, drop(m, x).relu() + x),
    "rows of an input": lambda m, x: drop(m, x.flatten(0, 1)).unflatten(0, (-1, 4)),
    "recurrent": lambda m, x: m.rnn(x)[0],
    "recurrent after a site": lambda m, x: m.rnn(drop(m, x))[0],
}


@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("name", FOLDED)
def test_folded_gives_the_loops_draws(name, masks, only_engine, monkeypatch):
    torch.manual_seed(0)
    rnn = nn.GRU(3, 4, num_layers=2, dropout=0.5, batch_first=True, bidirectional=True)
    model, x = Apply(FOLDED[name], rnn=rnn), numbers(N, 4, 3)
    for sizes in ((DRAWS, N), (3, 2), (1, 1), (2, 1)):
        monkeypatch.setattr("mcdropout.engine.chunks.chunk_sizes", lambda *_, sizes=sizes: sizes)
        folded = predict(model, x, masks=masks)
        assert folded.engine == "folded", folded.engine_reason
        looped = by_loop(model, x, masks=masks)
        np.testing.assert_allclose(folded.samples, looped.samples, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "engine"),
    [
        # inputs are not outermost
        (lambda m, x: drop(m, x.transpose(0, 1).flatten(0, 1)).unflatten(0, (4, -1)).transpose(0, 1), "loop"),
        (lambda m, x: drop(m, x) - drop(m, x).mean(dim=0), "loop"),  # mixes inputs
    ],
)
@pytest.mark.filterwarnings("ignore:`model` gives an input other numbers")  # the last is a case of it
def test_what_cannot_be_folded_runs_otherwise(function, engine):
    result = predict(Apply(function), numbers(N, 4, 3), masks="per_input", batch_size=N)
    assert result.engine == engine, result.engine_reason


# ---- dropouts that wait for their pool


def convolutional(**layers):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.25), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Dropout(0.5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def probed(model, x):
    model = model.eval().to(memory_format=torch.channels_last)
    x = torch.from_numpy(x).to(memory_format=torch.channels_last)
    replica = replicate(model, torch.device("cpu"))
    return replica, probe(model, replica, lambda n: Inputs((x[:n],), {}, n))


def test_what_leads_to_a_pool_waits_for_it():
    _, found = probed(convolutional(), numbers(N, 1, 12, 12))
    cpu, elsewhere = torch.device("cpu"), torch.device("mps")
    first = dict.fromkeys(["convolution 1", "relu 1", "2[0]"], "2[0]")
    second = dict.fromkeys(["pool 1", "convolution 2", "relu 2", "6[0]"], "6[0]")
    assert fused_calls(found, cpu, "shared") == first | second
    assert fused_calls(found, elsewhere, "shared") == {}


@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("side", [22, 23, 24, 25])
@pytest.mark.parametrize(
    "more",
    [{}, {"stride": 2}, {"stride": (1, 2)}, {"padding": 1}, {"padding": "valid"}, {"padding": "same"}, {"dilation": 2}],
    ids=str,
)
def test_convolutions_make_what_the_pool_takes_and_no_more(more, side, precision, masks, only_engine):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.25), nn.MaxPool2d((2, 3)),
        nn.Conv2d(4, 6, 3, **more), nn.ReLU(), nn.Dropout(0.5), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip
    x = numbers(N, 1, side, side)
    model(torch.from_numpy(x))
    folded = predict(model, x, masks=masks, precision=precision)
    assert folded.engine == "folded", folded.engine_reason
    only_engine("loop")
    looped = predict(model, x, masks=masks, precision=precision)
    scale = np.abs(looped.samples).max()
    # sums in another order; 8 bits of bfloat16, twice
    np.testing.assert_allclose(folded.samples, looped.samples, atol=scale * (1e-5 if precision == "float32" else 2e-2))


class Convolved(TorchDispatchMode):
    """Notes the shapes of all results of convolutions."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.shapes.append(tuple(result.shape))
        return result


def test_rows_that_no_pool_takes_are_not_computed():
    replica, found = probed(convolutional(), numbers(N, 1, 13, 13))  # 11 -> 5, of which 4 are wanted: 3 -> 2 -> 1
    fused = fused_calls(found, torch.device("cpu"), "shared")
    masks = {name: torch.ones(DRAWS, *site.shape) for name, site in found.sites.items()}
    mode = FoldedMode(replica, found.sites, masks, N, fused)
    with Convolved() as convolved, replica.predicting(), mode:
        replica.root(torch.from_numpy(numbers(N, 1, 13, 13)))
    assert convolved.shapes == [(N, 4, 8, 8), (N * DRAWS, 6, 2, 2)]


def test_hooks_of_the_user_see_true_results():
    """What waits has a stand-in without numbers, which nobody else may see."""
    model, seen = convolutional(), []
    model[4].register_forward_hook(lambda module, args, result: seen.append(result.clone()))
    x = numbers(N, 1, 12, 12)
    predict(model, x, batch_size=N)
    draws = max(seen, key=len)
    assert draws.shape == (N * DRAWS, 6, 3, 3)
    assert len(draws.unique(dim=0)) == N * DRAWS


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.max_pool2d(drop(m, x), 2).flatten(1).sum(1, True) + drop(m, x).flatten(1),
        lambda m, x: (lambda d: F.max_pool2d(d, 2).flatten(1) + d.mean(dim=(1, 2, 3))[:, None])(drop(m, x)),
        lambda m, x: F.max_pool2d(drop(m, x), 3, stride=2).flatten(1),
        lambda m, x: F.max_pool2d(drop(m, m.conv(x).relu_()), 2).flatten(1),
        lambda m, x: F.max_pool2d(input=drop(m, torch.relu(input=m.conv(x))), kernel_size=2).flatten(1),
        lambda m, x: F.max_pool2d(F.dropout2d(m.conv(x).relu(), 0.5, m.training), 2).flatten(1),
    ],
)
@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_pools_of_all_kinds_give_the_loops_draws(function, masks, only_engine):
    torch.manual_seed(0)
    model, x = Apply(function, conv=nn.Conv2d(1, 4, 3)), numbers(N, 1, 12, 12)
    folded = predict(model, x, masks=masks)
    assert folded.engine == "folded"
    only_engine("loop")
    np.testing.assert_allclose(predict(model, x, masks=masks).samples, folded.samples, atol=1e-5)


def test_what_takes_a_stand_in_gets_the_true_result():
    replica, found = probed(convolutional(), numbers(N, 1, 12, 12))
    site = found.sites["2[0]"]
    masks = {"2[0]": torch.rand(DRAWS, *site.shape)}
    x = torch.randn(N, 4, 10, 10).to(memory_format=torch.channels_last)
    with FoldedMode(replica, found.sites, masks, N, {"2[0]": "2[0]"}) as mode:
        stand_in = mode.drop(x, site)
        taken = torch.stack([stand_in, stand_in])[1]
        assert len(mode.deferred) == 1
        del stand_in
        assert not mode.deferred
    torch.testing.assert_close(taken, (x * masks["2[0]"]).flatten(0, 1), rtol=0, atol=0)


# ---- reduced precision


class Everything(nn.Module):
    """A network whose layers want their numbers in one type."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Dropout(0.25)
        self.rnn, self.layer_norm = nn.LSTM(8, 8, batch_first=True), nn.LayerNorm(8)
        self.attention, self.prelu = nn.MultiheadAttention(8, 2, dropout=0.25, batch_first=True), nn.PReLU()
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.drop(self.prelu(self.norm(self.conv(x)))).transpose(1, 2)
        x = self.layer_norm(self.rnn(x)[0] + x)
        return self.head((self.attention(x, x, x)[0] + x).mean(dim=1))


@pytest.mark.parametrize(("precision", "bits"), [("bfloat16", 8), ("float16", 11)])
@pytest.mark.parametrize("engine", ["folded", "loop"])
def test_reduced_precision_in_every_engine(engine, precision, bits, only_engine):
    torch.manual_seed(0)
    model, x = Everything().eval(), numbers(N, 3, 10)
    full = predict(model, x)
    only_engine(engine)
    reduced = predict(model, x, precision=precision)
    assert reduced.engine == engine, reduced.engine_reason
    # roundings of 2^-bits, some ten of them one after the other
    np.testing.assert_allclose(reduced.samples, full.samples, atol=20 * 2**-bits * np.abs(full.samples).max())
    assert (reduced.samples != full.samples).any()


def test_the_callers_autocast_is_left_out():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)), numbers(N, 3)
    usual = predict(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(predict(model, x).samples, usual.samples)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_encoders_in_reduced_precision(precision):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    result = predict(nn.TransformerEncoder(layer, 2).eval(), numbers(N, 6, 8), precision=precision)
    assert (result.std > 0).all()


# ---- dropouts that wait for their linear layer


@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_inputs", [1, 5, 6, 40])
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.out(drop(m, x)),
        lambda m, x: m.out(drop(m, m.hidden(drop(m, x)).relu())),
        lambda m, x: m.out(F.dropout1d(x[:, :, None], 0.5, m.training)[:, :, 0]),
        lambda m, x: F.linear(drop(m, x), m.out.weight),
        lambda m, x: F.linear(bias=m.out.bias, weight=m.out.weight, input=drop(m, x)),
        lambda m, x: (lambda d: m.out(d) + m.out(d))(drop(m, x)),
        lambda m, x: m.out(drop(m, x.unflatten(1, (2, 6))).flatten(1)),
        lambda m, x: m.short(drop(m, x.unflatten(1, (2, 6)))).flatten(1),
    ],
)
def test_linear_layers_after_a_dropout_give_the_loops_draws(function, n_inputs, precision, masks, only_engine):
    torch.manual_seed(0)
    model = Apply(function, hidden=nn.Linear(12, 12), out=nn.Linear(12, 3), short=nn.Linear(6, 2))
    x = numbers(n_inputs, 12)
    folded = predict(model, x, masks=masks, precision=precision)
    assert folded.engine == "folded", folded.engine_reason
    only_engine("loop")
    looped = predict(model, x, masks=masks, precision=precision)
    scale = np.abs(looped.samples).max()
    # sums in another order; 8 bits of bfloat16, several times
    np.testing.assert_allclose(folded.samples, looped.samples, atol=scale * (1e-5 if precision == "float32" else 2e-2))


def test_masks_meet_the_weights_where_inputs_are_many(monkeypatch):
    """One product for all draws of what has none yet."""
    model, products = nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 3)), []
    linear = FoldedMode._linear_of_masked_weights

    def noted(self, *args, **kwargs):
        result = linear(self, *args, **kwargs)
        products.append(result is not None)
        return result

    monkeypatch.setattr(FoldedMode, "_linear_of_masked_weights", noted)
    predict(model, numbers(40, 12))
    assert products == [False, True]  # three inputs when the engine is chosen are too few
    products.clear()
    predict(model, numbers(40, 12), masks="per_input")
    assert products == []


# ---- any chain of layers


class Beside(nn.Module):
    """A result that two calls take."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x)
        return y + y.amax(dim=(2, 3), keepdim=True) + (x if x.shape == y.shape else 0)


def any_network(choose: random.Random) -> nn.Sequential:
    """Up to nine layers in any order, most of which could wait for each other."""
    layers, channels, shared = [], 1, nn.Dropout(0.3)
    for _ in range(choose.randint(2, 9)):
        kind = choose.choice(
            ["convolution", "convolution", "relu", "relu", "dropout", "dropout", "pool", "pool", "other"]
        )
        if kind == "convolution":
            width = choose.choice([2, 4, 8])
            options = {"stride": choose.choice([1, 1, 2]), "padding": choose.choice([0, 0, 1, "valid"])}
            layers.append(nn.Conv2d(channels, width, choose.choice([1, 2, 3]), bias=choose.random() < 0.7, **options))
            channels = width
        elif kind == "relu":
            layers.append(nn.ReLU(inplace=choose.random() < 0.3))
        elif kind == "dropout":
            layers.append(nn.Dropout(choose.choice([0.0, 0.1, 0.25, 0.5]), inplace=choose.random() < 0.2))
        elif kind == "pool":
            options = {"stride": choose.choice([None, None, None, 1]), "ceil_mode": choose.random() < 0.15}
            layers.append(nn.MaxPool2d(choose.choice([2, 2, 3, (2, 1), (1, 3)]), **options))
        else:
            others = [nn.BatchNorm2d(channels), nn.Dropout2d(0.3), nn.GELU(), nn.AvgPool2d(2), nn.AlphaDropout(0.2)]
            others += [shared, Beside(nn.Sequential(nn.ReLU(), nn.Dropout(0.25)))]
            layers.append(choose.choice(others))
    hidden = [nn.LazyLinear(6), nn.ReLU()] if choose.random() < 0.6 else []
    return nn.Sequential(*layers, nn.Flatten(), *hidden, nn.Dropout(0.5), nn.LazyLinear(3))


@pytest.mark.parametrize("seed", range(60))
def test_any_network_gives_the_loops_draws(seed, only_engine):
    choose = random.Random(seed)
    torch.manual_seed(seed)
    model = any_network(choose)
    side = choose.choice([9, 12, 13, 14, 17])
    x = numbers(choose.choice([3, 8, 20]), 1, side, side)
    try:
        model.eval()(torch.from_numpy(x))
    except RuntimeError:
        return  # pooled to nothing
    options = {"masks": choose.choice(["shared", "per_input"]), "batch_size": choose.choice([4, 128])}
    quick = predict(model, x, **options)
    only_engine("loop")
    looped = predict(model, x, **options)
    scale = max(1e-3, np.abs(looped.samples).max())
    np.testing.assert_allclose(quick.samples, looped.samples, atol=2e-5 * scale)  # sums in another order


# ---- numbers of inputs and draws that equal other lengths


class Equal(nn.Module):
    """Features, weights and constants of one length, `size`."""

    def __init__(self, function, size):
        super().__init__()
        self.function, self.size = function, size
        self.first = nn.Linear(size, size)
        self.weight = nn.Parameter(torch.randn(size, size))
        self.scale = nn.Parameter(torch.rand(size) + 0.5)
        self.cube = nn.Parameter(torch.randn(size, size, size))
        self.register_buffer("gate", torch.arange(size) % 2 == 1)

    def forward(self, x):
        return self.function(self, x, F.dropout(self.first(x), 0.5, self.training))


def written(m, x, h):
    out = torch.zeros(len(h), m.size)
    out[:, : m.size] = h
    return out + x


def column_by_column(m, x, h):
    return torch.stack([h[:, at] * x[:, at] for at in range(m.size)], dim=1) + m.scale.sqrt()


EQUAL = {
    "addcmul": lambda m, x, h: torch.addcmul(x, m.scale, h),
    "addcmul of what is made of weights": lambda m, x, h: torch.addcmul(x, m.scale.exp(), h),
    "where": lambda m, x, h: torch.where(m.gate, x, h),
    "where of a made mask": lambda m, x, h: torch.where(m.gate & (m.scale > 0), x, h),
    "einsum": lambda m, x, h: torch.einsum("ni,ij,nj->n", x, m.weight, h)[:, None],
    "einsum of made weights": lambda m, x, h: torch.einsum("ni,ij,nj->nj", x, m.weight.tanh(), h),
    "bilinear": lambda m, x, h: F.bilinear(x, h, m.cube),
    "bilinear of made weights": lambda m, x, h: F.bilinear(x, h, m.cube.tanh()),
    "joined with a token": lambda m, x, h: torch.cat([m.scale.expand(len(x), 1, -1), h[:, None]], dim=1).flatten(1),
    "joined with places": lambda m, x, h: torch.cat([x, h + torch.linspace(0, 1, m.size)], dim=1),
    "rows by number": lambda m, x, h: h[torch.arange(len(h)), x.argmax(dim=1)][:, None],
    "rows by a number noted before": lambda m, x, h: h[torch.arange(len(x)), x.argmax(dim=1)][:, None],
    "columns of each": lambda m, x, h: h.gather(1, x.argsort(dim=1)),
    "reshaped to a number noted before": lambda m, x, h: h.reshape(len(x), 1, m.size).flatten(1) + x,
    "the number noted last": lambda m, x, h: h.t().reshape(-1, len(x)).t() @ m.weight,
    "powers and products": lambda m, x, h: torch.lerp(x, h @ m.weight.exp() @ m.weight, m.scale),
    "distances": lambda m, x, h: torch.cdist(h, m.weight) + torch.cdist(x, m.weight.sin()),
    "written to": written,
    "column by column": column_by_column,
    "a batch of products": lambda m, x, h: torch.baddbmm(
        x[:, None], h[:, None], m.weight.expand(len(x), -1, -1)
    ).flatten(1),
    "what drops twice": lambda m, x, h: torch.addcmul(h, m.scale.exp(), drop(m, x)) + drop(m, h * x),
    "padded rows": lambda m, x, h: h * torch.ones_like(x[:, :1]) + F.pad(x, (0, 1))[:, : m.size],
}
ALWAYS_FOLDED = ("addcmul", "where", "einsum", "bilinear", "joined", "powers", "distances", "written to", "column by")


@pytest.mark.parametrize("name", EQUAL)
def test_lengths_that_are_equal_by_chance_change_nothing(name, monkeypatch):
    # (features, inputs, draws of a chunk, inputs of a chunk): inputs, draws, rows or all of them as many as features
    for place, (size, n_inputs, draws, inputs) in enumerate((
        (4, 4, 5, 4), (4, 7, 2, 2), (4, 9, 4, 3), (3, 3, 3, 3), (6, 7, 3, 2), (6, 11, 2, 3), (5, 8, 7, 1), (2, 3, 1, 2),
        (4, 1, 4, 1), (7, 2, 7, 2), (1, 4, 2, 2),
    )):  # fmt: skip
        masks = ("shared", "per_input")[place % 2]
        torch.manual_seed(size)
        model, x = Equal(EQUAL[name], size), numbers(n_inputs, size)
        monkeypatch.setattr("mcdropout.engine.chunks.chunk_sizes", lambda *_, sizes=(draws, inputs): sizes)
        result = predict(model, x, masks=masks)
        if name.startswith(ALWAYS_FOLDED):
            assert result.engine == "folded", (size, n_inputs, result.engine_reason)
        looped = by_loop(model, x, masks=masks)
        # float32: sums of up to 6 x 6 products in another order
        np.testing.assert_allclose(result.samples, looped.samples, rtol=1e-4, atol=1e-5, err_msg=str((size, n_inputs)))


def test_an_engine_chosen_on_one_input_is_chosen_again_for_several():
    torch.manual_seed(0)
    model, x = Equal(EQUAL["joined with a token"], 4), numbers(6, 4)
    sampler = mcd.mc_sampler(model, x[:1], DRAWS, outputs="values", seed=1)
    wanted = predict(model, x)
    for some in (x[:1], x, x[:1], x[:4]):
        result = sampler(some)
        assert result.engine == "folded", result.engine_reason
        np.testing.assert_allclose(result.mean, wanted.mean[: len(some)], atol=1e-6)  # float32


@pytest.mark.parametrize("workers", [1, 3])
def test_an_engine_that_fails_later_hands_over_to_the_next(workers, monkeypatch):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 9), nn.Dropout(0.5), nn.Linear(9, 2)), numbers(23, 5)
    wanted = predict(model, x, masks="per_input")
    monkeypatch.setattr("mcdropout.engine.chunks.chunk_sizes", lambda *_: (3, 4))
    passes, usual = [], FoldedEngine.run

    def fails_at_the_fifth(self, replica, inputs, masks):
        passes.append(len(inputs))
        if len(passes) >= 5:
            raise RuntimeError("no more")
        return usual(self, replica, inputs, masks)

    monkeypatch.setattr(FoldedEngine, "run", fails_at_the_fifth)
    result = predict(model, x, masks="per_input", workers=workers)
    assert result.engine == "loop"
    assert result.engine_reason.startswith("folded failed: no more")
    np.testing.assert_allclose(result.samples, wanted.samples, atol=1e-5)


def test_what_fails_in_every_engine_is_raised():
    def forward(m, x):
        if (x > 5).any():
            raise ValueError("too large")
        return drop(m, x)

    x = numbers(9, 3)
    x[8] = 9
    with pytest.raises(ValueError, match="too large"):
        predict(Apply(forward), x, batch_size=4)
