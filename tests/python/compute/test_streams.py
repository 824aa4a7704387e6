"""A stream of random numbers: torch's global generator is neither used nor changed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.compute.streams import DRAWING, OwnDraws, OwnStream

FEATURES = 3
X = np.random.default_rng(0).normal(size=(13, FEATURES)).astype(np.float32)
DRAWS_OF = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout in place": lambda x: F.dropout(x.clone(), 0.3, inplace=True),
    "all dropped": lambda x: F.dropout(x, 1.0),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.2, training=True),
    "channel dropout": lambda x: F.dropout1d(x[None], 0.4),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.3),
    "lstm": lambda x: lstm()(x)[0],
    "rrelu": lambda x: F.rrelu(-x, training=True),
    "gumbel": lambda x: F.gumbel_softmax(x),
    "rand": lambda x: torch.rand(4),
    "rand like": torch.rand_like,
    "randn like": torch.randn_like,
    "randint": lambda x: torch.randint(0, 9, (5,), device=x.device),
    "permutation": lambda x: torch.randperm(7),
    "normal": lambda x: torch.normal(x, 1.0),
    "normal in place": lambda x: x.clone().normal_(),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "multinomial": lambda x: torch.multinomial(x.sigmoid(), 2),
    "poisson": lambda x: torch.poisson(x.exp()),
    "gamma": lambda x: torch.distributions.Gamma(x.exp(), 1.0).rsample(),
    "initial weights": lambda x: nn.Linear(4, 3).weight,
}


def lstm():
    layer = nn.LSTM(FEATURES, 4, num_layers=2, dropout=0.5)
    with torch.no_grad():
        for weights in layer.parameters():
            weights.fill_(0.3)
    return layer


@pytest.mark.parametrize("mode", [OwnStream, lambda seed: OwnDraws(OwnStream(seed))], ids=["stream", "draws"])
@pytest.mark.parametrize("draw", DRAWS_OF.values(), ids=DRAWS_OF)
def test_a_stream_gives_the_numbers_of_the_global_generator_and_does_not_change_it(draw, mode):
    x = torch.from_numpy(X)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = [draw(x).detach() for _ in range(2)]
        state = torch.get_rng_state()
        with mode(5):
            actual = [draw(x).detach() for _ in range(2)]
        assert all(map(torch.equal, expected, actual))
        assert torch.equal(torch.get_rng_state(), state)


def test_a_stream_records_whether_anything_was_drawn():
    x = torch.from_numpy(X)
    with OwnStream(0) as stream:
        F.dropout(x, 0.5, training=False)
        F.rrelu(-x)
        F.scaled_dot_product_attention(x[None], x[None], x[None])
        torch.rand(2, generator=torch.Generator())
        assert not stream.has_drawn
        F.dropout(x, 0.5)
        assert stream.has_drawn


def test_operations_without_a_generator_argument_use_the_global_generator_which_is_restored():
    def draw():
        return [torch.ops.aten.native_dropout(x, 0.5, True)[0], torch.rand(3)]

    x = torch.from_numpy(X)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = draw()
        state = torch.get_rng_state()
        with OwnStream(5) as stream:
            actual = draw()
        assert all(map(torch.equal, expected, actual))
        assert stream.has_drawn
        assert torch.equal(torch.get_rng_state(), state)


def test_the_name_of_every_drawing_operation_of_torch_contains_a_known_word():
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    drawing = set()
    for name in names:
        base, _, overload = name.removeprefix("aten::").partition(".")
        operation = getattr(getattr(torch.ops.aten, base, None), overload or "default", None)
        if operation is not None and torch.Tag.nondeterministic_seeded in operation.tags:
            drawing.add(base)
    assert "bernoulli_" in drawing
    assert not [name for name in drawing if not any(word in name for word in (*DRAWING, "miopen"))]
