"""Every kind of dropout is sampled and nothing else: each operation in comparison with torch, and known pitfalls."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

import mcdropout as mcd
from mcdropout.sites.interception import KEYED
from mcdropout.sites.operations import _opened

N, DRAWS = 7, 6


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def predict(model, x, n_samples=DRAWS, **options: Any) -> Any:
    return mcd.mc_predict(model, x, n_samples, **({"outputs": "values", "seed": 3, "progress": False} | options))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


class Apply(nn.Module):
    """A function of the input and the training flag, as a model."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


DROPOUTS = {
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "dropout in place": lambda m, x: F.dropout(x * 1, 0.5, m.training, inplace=True),
    "torch.dropout": lambda m, x: torch.dropout(x, 0.5, m.training),
    "torch.dropout_": lambda m, x: torch.dropout_(x * 1, 0.5, m.training),
    "dropout1d": lambda m, x: F.dropout1d(x.flatten(2), 0.5, m.training),
    "dropout2d": lambda m, x: F.dropout2d(x, 0.5, m.training),
    "dropout3d": lambda m, x: F.dropout3d(x[..., None], 0.5, m.training),
    "alpha_dropout": lambda m, x: F.alpha_dropout(x, 0.5, m.training),
    "feature_alpha_dropout": lambda m, x: F.feature_alpha_dropout(x, 0.5, m.training),
    "always on": lambda m, x: F.dropout(x, 0.5),
    "skipped when not training": lambda m, x: F.dropout(x, 0.5) if m.training else x,
    "rate 0 when not training": lambda m, x: F.dropout(x, 0.5 if m.training else 0.0),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_every_kind_of_dropout_samples(name):
    result = predict(Apply(DROPOUTS[name]), np.abs(numbers(N, 4, 3, 5)) + 1, 30)
    assert (result.std > 0).mean() > 0.9
    assert result.engine == "folded"


KINDS = {
    nn.Dropout: (3,),
    nn.Dropout1d: (3, 4),
    nn.Dropout2d: (3, 4, 4),
    nn.Dropout3d: (3, 2, 4, 4),
    nn.AlphaDropout: (3,),
    nn.FeatureAlphaDropout: (3, 4, 4),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_dropout_layer_samples_in_place_or_not(kind, inplace):
    x = numbers(N, *KINDS[kind])
    model, plain = (
        Apply(lambda m, x: m.drop(x * 1), drop=kind(0.5, inplace=where)).eval() for where in (inplace, False)
    )
    result = predict(model, x)
    assert result.std.max() > 0
    np.testing.assert_array_equal(result.samples, predict(plain, x).samples)
    np.testing.assert_array_equal(predict(kind(0.5, inplace=inplace), x).samples, result.samples)
    assert x.tobytes() == numbers(N, *KINDS[kind]).tobytes()


@pytest.mark.parametrize("function", [F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout])
def test_whole_channels_are_dropped(function):
    axes = {F.dropout1d: 3, F.dropout2d: 4, F.dropout3d: 5}.get(function, 4)
    x = np.ones((N, 8, 3, 2, 2)[:axes], dtype=np.float32)
    draws = predict(Apply(lambda m, x: function(x, 0.5, m.training)), x, masks="per_input").samples
    flat = draws.reshape(DRAWS, N, 8, -1)
    assert (flat == flat[..., :1]).all()
    assert len(np.unique(flat)) == 2


def test_dropout_with_training_false_stays_off():
    model = Apply(lambda m, x: F.dropout(x, 0.9, training=False) + 0 * F.dropout(x, 0.5, m.training))
    with pytest.raises(mcd.IdenticalDraws, match="the same outputs in every draw"):
        predict(model, numbers(N, 3))


def test_a_rate_of_1_drops_everything():
    model = Apply(lambda m, x: F.dropout(x, 1.0, m.training) + F.dropout(x, 0.5, m.training))
    draws = predict(model, np.ones((N, 3), dtype=np.float32), 30).samples
    assert set(np.unique(draws)) == {0.0, 2.0}


# ---- attention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("causal", "mask"), [(False, None), (True, None), (False, "bool"), (False, "float")])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("gqa", [False, True])
def test_attention_without_dropped_weights_equals_torch(causal, scale, mask, gqa, monkeypatch):
    attn_mask = None
    if mask == "bool":
        attn_mask = torch.from_numpy(numbers(5, 5) > -0.5)
        attn_mask[2] = False  # a query that attends to no key
    if mask == "float":
        attn_mask = torch.from_numpy(numbers(5, 5))

    def attention(rate):
        def apply(m, x):
            q = x.reshape(-1, 4, 5, 6)
            k = v = q[:, :2] if gqa else q
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask, rate if m.training else 0.0, causal, scale=scale, enable_gqa=gqa
            )

        return Apply(apply)

    x = numbers(N, 120)
    with torch.no_grad():
        expected = attention(0.5).eval()(torch.from_numpy(x)).numpy()
    monkeypatch.setattr(
        "mcdropout.engine.masks.keep_masks",
        lambda seed, rate, n, draws, ids, *_: torch.ones(len(draws), len(ids), n, dtype=torch.uint8),
    )
    with pytest.raises(mcd.IdenticalDraws, match="the same"):
        predict(attention(0.5), x)
    monkeypatch.setattr("mcdropout.sampling.draw.Sampler.check_spread", lambda self: None)
    got = predict(attention(0.5), x).samples / 2  # every weight is kept and doubled
    np.testing.assert_allclose(got[0], expected, atol=1e-5)


def test_attention_weights_are_dropped_between_softmax_and_sum():
    # With the identity as value the output is the weights after dropout: 0, or softmax / (1 - rate).
    def apply(m, x):
        return F.scaled_dot_product_attention(x, x, torch.eye(5).expand(len(x), 5, 5), None, 0.25 * m.training)

    x = numbers(N, 5, 6)
    weights = torch.softmax(torch.from_numpy(x) @ torch.from_numpy(x).mT / math.sqrt(6), dim=-1).numpy()
    ratio = predict(Apply(apply), x, 200).samples / weights
    np.testing.assert_allclose(np.unique(np.round(ratio, 3)), [0, 1.333], atol=2e-3)
    assert abs((ratio == 0).mean() - 0.25) < 0.04  # 5,000 masked weights, the same for all inputs: 6 standard errors


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_draws_the_same_for_an_input_alone(batch_first, need_weights):
    attention = seeded(lambda: nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=batch_first))

    def apply(m, x):
        x = x if batch_first else x.transpose(0, 1)
        out = m.attention(x, x, x, need_weights=need_weights)[0]
        return out if batch_first else out.transpose(0, 1)

    model, x = Apply(apply, attention=attention), numbers(N, 5, 6)
    for masks in ("shared", "per_input"):
        together = predict(model, x, masks=masks)
        alone = predict(model, x[4:5], masks=masks, ids=[4])
        np.testing.assert_allclose(together.samples[:, 4:5], alone.samples, atol=1e-5)
        assert (together.std > 0).all()


ATTENTION = {
    "plain": ({}, {}),
    "weights of each head": ({}, {"average_attn_weights": False}),
    "no weights": ({}, {"need_weights": False}),
    "inputs second": ({"batch_first": False}, {}),
    "other sizes": ({"kdim": 4, "vdim": 3}, {}),
    "no bias": ({"bias": False}, {"need_weights": False}),
    "padded keys": ({}, {"key_padding_mask": "padding"}),
    "padded keys, no weights": ({}, {"key_padding_mask": "padding", "need_weights": False}),
    "a boolean mask": ({}, {"attn_mask": torch.ones(5, 4, dtype=torch.bool).triu(2)}),
    "a mask of numbers for each head": ({}, {"attn_mask": "heads", "key_padding_mask": "numbers"}),
    "causal": ({}, {"attn_mask": torch.ones(5, 4, dtype=torch.bool).triu(1), "is_causal": True, "need_weights": False}),
    "a bias of the keys": ({"add_bias_kv": True}, {}),
    "a zero among the keys": ({"add_zero_attn": True}, {"need_weights": False}),
}


@pytest.mark.parametrize("engine", ["folded", "loop"])
@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("name", ATTENTION)
def test_multihead_attention_equals_torch(name, masks, engine, only_engine):
    """Without dropout, and in comparison with the Python code of torch under the same masks."""
    layer_options, call_options = ATTENTION[name]
    options = {"batch_first": True} | layer_options
    attention = seeded(lambda: nn.MultiheadAttention(6, 2, dropout=0.3, **options))
    with torch.no_grad():
        attention.in_proj_bias.normal_() if options.get("bias", True) else None
    key_size, value_size = options.get("kdim", 6), options.get("vdim", 6)

    def apply(m, x):
        query, key, value = x[..., :6], x[:, :4, :key_size], x[:, :4, :value_size]
        tensors = {
            "padding": x[:, :4, 0] > 1,
            "numbers": x[:, :4, 1],
            "heads": x[:, None, :, :4].expand(-1, 2, -1, -1).flatten(0, 1),
        }
        arguments = {
            key: tensors.get(mask, mask) if isinstance(mask, str) else mask for key, mask in call_options.items()
        }
        if not options["batch_first"]:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        out, weights = m.attention(query, key, value, **arguments)
        out = out if options["batch_first"] else out.transpose(0, 1)
        return out if weights is None else torch.cat([out.flatten(1), weights.flatten(1)], dim=1)

    model, x = Apply(apply, attention=attention), numbers(N, 5, 6)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(mcd.mc_predict_point(model, x, outputs="values", progress=False), expected, atol=1e-6)
    only_engine("loop")
    looped = predict(model, x, masks=masks).samples
    assert looped.std(axis=0).max() > 0.05
    only_engine(engine)
    drawn = predict(model, x, masks=masks)
    only_in_the_loop = "a bias of the keys", "a zero among the keys"
    assert drawn.engine == ("loop" if name in only_in_the_loop else engine), drawn.engine_reason
    np.testing.assert_allclose(drawn.samples, looped, atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KEYED, F.multi_head_attention_forward, _opened)
        only_engine("loop")
        np.testing.assert_allclose(predict(model, x, masks=masks).samples, looped, atol=1e-5)


# ---- recurrent networks --------------------------------------------------------------------------------------------

RECURRENT = [
    lambda: nn.LSTM(4, 5, 3, dropout=0.4, batch_first=True),
    lambda: nn.LSTM(4, 6, 2, dropout=0.4, bidirectional=True, proj_size=3),
    lambda: nn.GRU(4, 5, 2, dropout=0.4, bidirectional=True, batch_first=True),
    lambda: nn.RNN(4, 5, 2, dropout=0.4, nonlinearity="relu"),
    lambda: nn.RNN(4, 5, 2, dropout=0.4, bias=False),
]


def recurrent(make):
    rnn = seeded(make)

    def apply(m, x):
        out, state = m.rnn(x if rnn.batch_first else x.transpose(0, 1))
        states = torch.cat(
            [part.transpose(0, 1).flatten(1) for part in (state if isinstance(state, tuple) else (state,))], 1
        )
        out = out if rnn.batch_first else out.transpose(0, 1)
        return torch.cat([out.flatten(1), states], dim=1)

    return Apply(apply, rnn=rnn)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # a warning of torch
@pytest.mark.parametrize("make", RECURRENT)
def test_recurrent_layers_run_one_by_one_equal_torch(make, monkeypatch):
    model, x = recurrent(make), numbers(N, 6, 4)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(x)).numpy()
    monkeypatch.setattr("mcdropout.engine.masks.mask_numbers", lambda kept, site: torch.ones(kept.shape))
    monkeypatch.setattr("mcdropout.sampling.draw.Sampler.check_spread", lambda self: None)
    np.testing.assert_allclose(predict(model, x).samples[0], expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("make", RECURRENT)
def test_dropout_between_recurrent_layers_samples(make):
    model, x = recurrent(make), numbers(N, 6, 4)
    for masks in ("shared", "per_input"):
        together = predict(model, x, 30, masks=masks)
        assert (together.std.max(axis=1) > 0).all()
        alone = predict(model, x[2:3], 30, masks=masks, ids=[2])
        np.testing.assert_allclose(together.samples[:, 2:3], alone.samples, atol=1e-6)


def test_recurrent_moments_equal_those_of_a_naive_loop():
    model, x, n_draws = recurrent(RECURRENT[0]), numbers(3, 6, 4), 1500
    ours = predict(model, x, n_draws)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model.train()
        naive = torch.stack([model(torch.from_numpy(x)) for _ in range(n_draws)]).double().numpy()
        model.eval()
    error = np.sqrt((ours.variance + naive.var(axis=0, ddof=1)) / n_draws) + 1e-7
    assert (np.abs(ours.mean - naive.mean(axis=0)) < 5.5 * error).all()  # about 180 comparisons


def test_packed_sequences_are_refused():
    rnn = nn.LSTM(4, 5, 2, dropout=0.4, batch_first=True)

    def apply(m, x):
        lengths = torch.full((len(x),), x.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(m.rnn(packed)[0], batch_first=True)[0]

    with pytest.raises(ValueError, match="between the layers of LSTM on a packed sequence"):
        predict(Apply(apply, rnn=rnn), numbers(N, 6, 4))


# ---- stochastic depth ----------------------------------------------------------------------------------------------


class StochasticDepth(nn.Module):
    """Stochastic depth as in torchvision and timm: a block is skipped for an input with the rate as probability."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training:
            return x
        keep = torch.empty((len(x), 1), dtype=x.dtype).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)


class DropPath(nn.Module):
    """Stochastic depth as in transformers."""

    def __init__(self, rate):
        super().__init__()
        self.drop_prob = rate

    def forward(self, x):
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        return x / keep * (keep + torch.rand((len(x), 1), dtype=x.dtype, device=x.device)).floor_()


@pytest.mark.parametrize("make", [StochasticDepth, DropPath])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_are_skipped_at_their_rate(make, precision):
    model = Apply(lambda m, x: m.path(x), path=make(0.2))
    x = np.ones((N, 3), dtype=np.float32)
    draws = predict(model, x, 400, masks="per_input", precision=precision).samples
    assert (draws == draws[..., :1]).all()  # the whole block is skipped
    np.testing.assert_allclose(np.unique(draws), [0, 1.25], atol=1e-2)
    assert abs((draws[..., 0] == 0).mean() - 0.2) < 0.04  # 2,800 masks: 5 standard errors
    shared = predict(model, x, 50).samples
    assert (shared == shared[:, :1]).all()


@pytest.mark.parametrize("make", [StochasticDepth, DropPath])
def test_stochastic_depth_can_be_switched_off(make):
    model = Apply(lambda m, x: F.dropout(m.path(x), 0.5, m.training), path=make(0.2))
    assert mcd.mc_sites(model, numbers(N, 3)).rate.round(6).tolist() == [0.2, 0.5]
    assert mcd.mc_sites(model, numbers(N, 3), stochastic_depth=False).rate.tolist() == [0.5]
    draws = predict(model, np.ones((N, 3), dtype=np.float32), 40, stochastic_depth=False).samples
    assert set(np.unique(draws)) == {0.0, 2.0}


# ---- the axis of the inputs ----------------------------------------------------------------------------------------


def test_heads_before_the_inputs_get_separate_masks():
    def heads_first(m, x):
        """Splits the features into heads and concatenates the heads along the first axis: inputs 1 2 3 1 2 3."""
        heads = torch.cat(x.chunk(2, dim=1))
        return torch.cat(F.dropout(heads, 0.5, m.training).chunk(2), dim=1)

    x = np.abs(numbers(N, 8)) + 1
    for masks in ("shared", "per_input"):
        together = predict(Apply(heads_first), x, masks=masks)
        alone = predict(Apply(heads_first), x[5:6], masks=masks, ids=[5])
        np.testing.assert_array_equal(together.samples[:, 5:6], alone.samples)


def test_masks_of_parameters_are_the_same_for_all_inputs():
    model = Apply(lambda m, x: F.linear(x, F.dropout(m.layer.weight, 0.5, m.training)), layer=nn.Linear(3, 4))
    for masks in ("shared", "per_input"):
        draws = predict(model, np.ones((N, 3), dtype=np.float32), masks=masks).samples
        assert (draws == draws[:, :1]).all()


def test_dropout_without_an_identifiable_input_axis_is_refused():
    model = Apply(lambda m, x: F.dropout((x @ x.T).flatten()[None].expand(len(x), -1), 0.5, m.training))
    with pytest.raises(ValueError, match=r"\(1, 1\), \(2, 4\), \(3, 9\); one axis must grow"):
        predict(model, numbers(N, 3))


# ---- the loop computes the part before the first site once -------------------------------------------------------


class Counting(TorchFunctionMode):
    """Records the weight shapes of the linear layers that are computed."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear:
            self.weights.append(tuple(args[1].shape))
        return func(*args, **(kwargs or {}))


def test_the_loop_computes_the_prefix_once(only_engine):
    only_engine("loop")
    model = nn.Sequential(nn.Linear(3, 40), nn.Linear(40, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    with Counting() as counting:
        predict(model, numbers(N, 3), 20)
    # 4 probes, 2 draws to choose the engine (1 prefix), 20 draws of one chunk (1 prefix).
    assert counting.weights.count((40, 3)) == 4 + 1 + 1
    assert counting.weights.count((2, 4)) == 4 + 2 + 20


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (m.layer(x)).add_(F.dropout(x, 0.5, m.training)),  # writes to a result of the prefix
        lambda m, x: x.add_(F.dropout(x, 0.5, m.training)),  # writes to the input
        lambda m, x: x.mul_(2) + F.dropout(x, 0.5, m.training),  # writes to the input before the site
        lambda m, x: (
            F.dropout(m.layer(x), 0.0, m.training) + F.dropout(x, 0.5, m.training)
        ),  # a call that drops nothing
        lambda m, x: F.dropout(x * (2 if (x.sum() > 1e9) else 1), 0.5, m.training),  # branches on values
        lambda m, x: m.mha(x[:, None], x[:, None], x[:, None])[0][:, 0],  # a site inside a function written in Python
    ],
)
def test_the_cached_prefix_changes_no_number(function, monkeypatch, only_engine):
    only_engine("loop")
    mha = nn.MultiheadAttention(3, 1, dropout=0.5, batch_first=True)
    model = seeded(lambda: Apply(function, layer=nn.Linear(3, 3), mha=mha))
    cached = predict(model, numbers(N, 3), 10)
    monkeypatch.setattr("mcdropout.engine.loop.Prefix.was_written_to", lambda self: True)
    np.testing.assert_allclose(predict(model, numbers(N, 3), 10).samples, cached.samples, atol=1e-6)


# ---- linear layers of many draws in one pass -------------------------------------------------------------------------


@pytest.mark.parametrize("masks", ["shared", "per_input"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.out(F.dropout(x, 0.5, m.training)),
        lambda m, x: m.out(F.dropout(x.transpose(0, 1), 0.5, m.training)).transpose(0, 1),
        lambda m, x: m.out(F.dropout(x, 0.5, m.training).permute(2, 0, 1, 3)).movedim(0, 2),
        lambda m, x: F.linear(F.dropout(x, 0.5, m.training).flip(1), m.out.weight),
        lambda m, x: F.linear(bias=m.out.bias, weight=m.out.weight, input=F.dropout(x, 0.5, m.training)),
        lambda m, x: F.linear(x, F.dropout(m.out.weight, 0.5, m.training)),
        lambda m, x: m.out(x) * F.dropout(x, 0.5, m.training).mean(dim=(1, 2, 3), keepdim=True),
    ],
    ids=["last axis", "inputs second", "inputs in between", "flipped", "by keyword", "of the weights", "none"],
)
def test_linear_layers_of_many_draws_equal_the_loop(function, precision, masks, only_engine):
    model = Apply(function, out=seeded(lambda: nn.Linear(5, 3)))
    x = numbers(N, 4, 6, 5)
    only_engine("folded")
    together = predict(model, x, masks=masks, precision=precision, batch_size=N)
    assert together.engine == "folded", together.engine_reason
    only_engine("loop")
    looped = predict(model, x, masks=masks, precision=precision, batch_size=N)
    scale = np.abs(looped.samples).max()
    # float32: another order of the sums; bfloat16: a mantissa of 8 bits
    tolerance = scale * (1e-5 if precision == "float32" else 1e-2)
    np.testing.assert_allclose(together.samples, looped.samples, atol=tolerance)
