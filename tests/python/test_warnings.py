"""Every warning names the line, outside the package, that called a public function."""

import ast
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import mcdropout as mcd
from mcdropout.evaluation.calibration import _summaries

PACKAGE = Path(mcd.__file__).parent


class Jittered(nn.Module):
    """Uses Python's random numbers, and has dropout only before its last layer."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(3, 5), nn.Dropout(0.05), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(self.drop(self.first(x))) + 1e-3 * random.random()


class Centred(nn.Module):
    """Subtracts the mean of the batch, so the output of an input depends on the other inputs."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x - x.mean(dim=0, keepdim=True))


def interrupt(row):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names that the code of `CALLS` uses."""
    rng = np.random.default_rng(0)
    labels = ["a", "b", "a", "b", "a", "b", "b"]
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Dropout(0.05), nn.Linear(4, 2))
    network = mcd.mc_mlp(3, labels=["a", "b"], dropout=0.3)
    draws = rng.dirichlet(np.ones(2), (4, 7)).astype(np.float32)
    x = rng.standard_normal((7, 3)).astype(np.float32)
    certain_draws = np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1, 1]][None].repeat(4, axis=0)
    # the labels of two inputs identify each of the 4 draws
    distinct_draws = np.eye(2, dtype=np.float32)[np.arange(4)[:, None] >> np.arange(7) & 1]
    prediction = mcd.mc_predict(network, x, 4, seed=1, progress=False)
    return {
        "mcd": mcd,
        "interrupt": interrupt,
        "options": {"outputs": "values", "seed": 1},
        "x": x,
        "y": labels,
        "jittered": Jittered(),
        "centred": Centred(),
        "model": model,
        "network": network,
        "prediction": _with_draws(prediction, draws),
        "certain": _with_draws(prediction, certain_draws),
        "distinct": _with_draws(prediction, distinct_draws),
    }


def _with_draws(prediction, draws):
    changed = replace(prediction, samples=draws, n_samples=len(draws))
    return replace(changed, **_summaries(draws, changed))


CALLS = {
    "mc_predict": "mcd.mc_predict(jittered, x, 4, **options, progress=False)",
    "mc_predict, mixed inputs": "mcd.mc_predict(centred, x, 4, **options, progress=False)",
    "mc_sampler": "mcd.mc_sampler(jittered, x, 4, **options)",
    "a sampler": "sampler(x)",
    "mc_convergence": "mcd.mc_convergence(jittered, x, (2, 4), **options, progress=False)",
    "mc_compare_rates": "mcd.mc_compare_rates(jittered, x, x[:, :2], (0.3,), 4, **options, progress=False)",
    "mc_sites": "mcd.mc_sites(model, x)",
    "mc_calibrate": "mcd.mc_calibrate(certain, y)",
    "mc_conformal": "mcd.mc_conformal(prediction, y, level=0.95)",
    "mc_triage": "mcd.mc_triage(prediction, y, max_error=0.01)",
    "mc_acquire": "mcd.mc_acquire(distinct, 5, by='batchbald')",
    "mc_fit": "mcd.mc_fit(network, x, y, epochs=3, batch_size=4, callbacks=interrupt, progress=False)",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_warning_names_the_line_of_the_call(names, name):
    if name == "a sampler":  # it warns again after its model has changed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = {**names, "sampler": mcd.mc_sampler(names["jittered"], names["x"], 4, **names["options"])}
            names["jittered"].changed = True
    code = compile(f"def caller():\n    return {CALLS[name]}\n\n\ncaller()\n", "caller.py", "exec")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(code, dict(names))
    assert caught
    assert {(warning.filename, warning.lineno) for warning in caught} == {("caller.py", 2)}


def test_only_checks_calls_warnings_warn():
    callers = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
    ]
    assert callers == ["checks.py"]
