"""Functions without a name, partial functions and callable objects where functions with names are usual."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import Apply, numbers, predict
from torch import Tensor, nn

import mcdropout as mcd

N, FEATURES = 9, 4


class Called:
    """A callable object without `__name__`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Dropping:
    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


WRAPPED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "partial": functools.partial,
    "lambda": lambda function: lambda *args, **kwargs: function(*args, **kwargs),
    "object": Called,
}


# ---- dropout in a model


DROPOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.dropout": lambda x: F.dropout(x, 0.5),
    "torch.dropout": lambda x: torch.dropout(x, 0.5, True),
    "torch.dropout_": lambda x: torch.dropout_(x.clone(), 0.5, True),
    "partial": functools.partial(F.dropout, p=0.5),
    "partial of partial": functools.partial(functools.partial(F.dropout, training=True), p=0.5),
    "object": Called(functools.partial(F.dropout, p=0.5)),
    "method": Dropping().drop,
    "compiled": torch.compile(lambda x: F.dropout(x, 0.5), backend="eager"),
    "without a graph": torch.no_grad()(lambda x: F.dropout(x, 0.5)),
}


@pytest.mark.parametrize("drop", DROPOUTS.values(), ids=DROPOUTS)
def test_dropout_is_sampled_whatever_calls_it(drop: Callable[[Tensor], Tensor]) -> None:
    def model(drop: Callable[[Tensor], Tensor]) -> nn.Module:
        torch.manual_seed(0)
        return Apply(lambda m, x: m.last(drop(m.first(x).relu())), first=nn.Linear(FEATURES, 8), last=nn.Linear(8, 2))

    x = numbers(N, FEATURES)
    usual = predict(model(nn.Dropout(0.5)), x).samples
    np.testing.assert_allclose(predict(model(drop), x).samples, usual, atol=1e-6)
    assert usual.std(axis=0).min() > 0


def test_layers_that_are_functions() -> None:
    """A model of plain functions has one module, and its sites are told apart by the number of the call."""
    torch.manual_seed(0)
    weights = [torch.randn(8, FEATURES), torch.randn(3, 8)]

    def forward(_: nn.Module, x: Tensor) -> Tensor:
        x = F.dropout(F.linear(x, weights[0]).relu(), 0.3, training=False)
        return F.linear(F.dropout(x, 0.1), weights[1])

    x = numbers(N, FEATURES)
    assert mcd.mc_sites(Apply(forward), x)[["site", "rate"]].to_numpy().tolist() == [["[1]", 0.1]]


# ---- arguments


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_functions_as_arguments_of_mc_fit(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    x = numbers(N, FEATURES)
    y = np.where(x[:, 0] > 0, "a", "b")
    rows: list[int] = []

    def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    def fitted(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Tensor:
        net = mcd.mc_fit(
            mcd.mc_mlp(FEATURES, labels=["a", "b"]),
            x,
            y,
            epochs=2,
            seed=1,
            optimizer=wrap(optimizer),
            augment=wrap(lambda batch, generator: batch + 1),
            callbacks=wrap(lambda row: rows.append(row["epoch"])),
            progress=wrap(lambda done, total, text: None),
        )
        return torch.cat([weights.flatten() for weights in net.parameters()])

    torch.testing.assert_close(fitted(wrap), fitted(lambda function: function), atol=0, rtol=0)
    assert rows == [1, 2, 1, 2]


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_functions_as_arguments_of_mc_predict(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.4), nn.Linear(8, 2))
    reported: list[int] = []
    found = predict(
        Apply(lambda m, x: {"a": m.inner(x), "b": x}, inner=model),
        numbers(N, FEATURES),
        select=wrap(lambda result: result["a"]),
        progress=wrap(lambda done, total, text: reported.append(done)),
    )
    usual = predict(Apply(lambda m, x: m.inner(x), inner=model), numbers(N, FEATURES))
    np.testing.assert_array_equal(found.samples, usual.samples)
    assert reported[-1] == N


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_function_that_makes_a_distribution(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    def drawn(make: Callable[..., Any]) -> np.ndarray:
        net = mcd.mc_bayes_mlp(FEATURES, labels=["a", "b"], posterior=mcd.mc_posterior_custom(make), seed=1)
        return predict(net, numbers(N, FEATURES), outputs=None).samples

    np.testing.assert_array_equal(drawn(wrap(torch.distributions.Laplace)), drawn(torch.distributions.Laplace))


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_factory_of_models_for_rates(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    x = numbers(N, FEATURES)

    def model(rate: float) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(rate), nn.Linear(8, 2)).eval()

    def table(make: Callable[..., Any]) -> Any:
        return mcd.mc_compare_rates(make, x, np.zeros((N, 2)), (0.2, 0.5), outputs="values", seed=1, progress=False)

    assert table(wrap(model)).equals(table(model))
