"""Fixtures that all Python tests share."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from optional import import_or_skip
from torchvision_operators import declare_what_torchvision_lacks

from mcdropout import MCPrediction
from mcdropout.engine.torch_passes import TorchPasses
from mcdropout.predictions.summaries import summarise_classes, summarise_values

SETTINGS: dict[str, Any] = {
    "level": 0.9, "seed": 1, "masks": "shared", "engine": "folded", "engine_reason": "", "device": "cpu",
    "precision": "float32", "seconds": 0.5,
}  # fmt: skip


@pytest.fixture(scope="session")
def classes_of() -> Callable[..., MCPrediction]:
    """`classes_of(samples, labels)`: the prediction with these draws, (draw, input, label)."""

    def make(samples: np.ndarray, labels: Sequence[str] | None = None, **changes: object) -> MCPrediction:
        names = np.array(labels if labels is not None else [f"label {k}" for k in range(samples.shape[2])])
        summaries = {name: value.numpy() for name, value in summarise_classes(torch.tensor(samples), 0.9).items()}
        summaries |= {name: names[summaries[name]] for name in ("predicted", "second")}
        draws = {"labels": tuple(names.tolist()), "n_samples": len(samples), "samples": samples.astype(np.float32)}
        return MCPrediction(task="classification", **{**summaries, **draws, **SETTINGS, **changes})

    return make


@pytest.fixture(scope="session")
def example_classes(classes_of) -> Callable[..., tuple[MCPrediction, np.ndarray]]:
    """`example_classes(n_inputs, ...)`: a prediction, and true labels drawn from its probabilities."""

    def make(
        n_inputs: int, n_labels: int = 4, n_draws: int = 6, seed: int = 0, sharpness: float = 2.0, **changes: object
    ) -> tuple[MCPrediction, np.ndarray]:
        rng = np.random.default_rng(seed)
        scores = rng.normal(0, sharpness, (n_inputs, n_labels))
        codes = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
        draws = np.exp(scores + rng.normal(0, 0.5, (n_draws, n_inputs, n_labels)))
        prediction = classes_of((draws / draws.sum(axis=-1, keepdims=True)).astype(np.float32), **changes)
        return prediction, np.array(prediction.labels)[codes]

    return make


@pytest.fixture(scope="session")
def example_values() -> Callable[..., tuple[MCPrediction, np.ndarray]]:
    """`example_values(n_inputs, ...)`: a prediction of values (input, 2), with noise or without, and observations."""

    def make(n_inputs: int, n_draws: int = 7, seed: int = 0, noise: bool = True) -> tuple[MCPrediction, np.ndarray]:
        rng = np.random.default_rng(seed)
        scale = np.array([1.0, 20.0])
        draws = (rng.normal(0, 1, (n_inputs, 1)) + rng.normal(0, 0.3, (n_draws, n_inputs, 2))) * scale
        spread = rng.uniform(0.2, 1, (n_inputs, 1)) * scale
        variances = np.broadcast_to(spread**2, draws.shape).astype(np.float32) if noise else None
        y = draws.mean(axis=0) + rng.normal(0, 1, (n_inputs, 2)) * spread
        samples = draws.astype(np.float32)
        noise_tensor = None if variances is None else torch.tensor(variances)
        summaries: dict[str, Any] = {
            name: value.numpy() for name, value in summarise_values(torch.tensor(samples), noise_tensor, 0.9).items()
        }
        summaries |= {"n_samples": n_draws, "samples": samples, "noise_variances": variances}
        return MCPrediction(task="regression", **summaries, **SETTINGS), y

    return make


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One thread of torch in each file.

    Small networks are not faster with more threads, and much slower if another process uses the same cores. The number
    is restored after each file, because the bridge tests compare with an R that uses all threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def only_engine(monkeypatch):
    """`only_engine(name)`: allow only this engine, and the loop, with which every engine is compared."""
    engines = TorchPasses.engines

    def allow(name):
        allowed = (name, "loop")
        monkeypatch.setattr(
            TorchPasses, "engines", lambda self: [engine for engine in engines(self) if engine.name in allowed]
        )

    return allow


@pytest.fixture(scope="session")
def torchvision():
    """The package torchvision; it loads with a CPU build of torch too."""
    declare_what_torchvision_lacks()
    return import_or_skip("torchvision")
