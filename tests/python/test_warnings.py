"""Every warning points at the line, outside the package, that called a public function."""

import ast
import random
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import mcdropout as mcd
from mcdropout.evaluation.calibration import _summaries

PACKAGE = Path(mcd.__file__).parent


class Jittered(nn.Module):
    """Draws numbers of its own, and its dropout comes before its last layer alone."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(3, 5), nn.Dropout(0.05), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(self.drop(self.first(x))) + 1e-3 * random.random()


class Centred(nn.Module):
    """Gives an input other numbers when other inputs come with it."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x - x.mean(dim=0, keepdim=True))


def interrupted(row):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def names():
    rng = np.random.default_rng(0)
    labels = ["a", "b", "a", "b", "a", "b", "b"]
    draws = rng.dirichlet(np.ones(2), (4, 7)).astype(np.float32)
    sure = np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1, 1]][None].repeat(4, axis=0)
    apart = np.eye(2, dtype=np.float32)[np.arange(4)[:, None] >> np.arange(7) & 1]  # two inputs tell 4 draws apart
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Dropout(0.05), nn.Linear(4, 2))
    net = mcd.mc_mlp(3, labels=["a", "b"], dropout=0.3)
    x = rng.standard_normal((7, 3)).astype(np.float32)
    given = {"x": x, "y": labels, "jittered": Jittered(), "centred": Centred(), "model": model, "net": net}
    prediction = mcd.mc_predict(net, x, 4, seed=1, progress=False)
    made = {name: _of_draws(prediction, draws) for name, draws in (("drawn", draws), ("sure", sure), ("apart", apart))}
    return {"mcd": mcd, "interrupted": interrupted, "given": {"outputs": "values", "seed": 1}, **given, **made}


def _of_draws(prediction, draws):
    made = replace(prediction, samples=draws, n_samples=len(draws))
    return replace(made, **_summaries(draws, made))


CALLS = {
    "mc_predict": "mcd.mc_predict(jittered, x, 4, **given, progress=False)",
    "mc_predict, mixed inputs": "mcd.mc_predict(centred, x, 4, **given, progress=False)",
    "mc_sampler": "mcd.mc_sampler(jittered, x, 4, **given)",
    "a sampler": "sampler(x)",
    "mc_convergence": "mcd.mc_convergence(jittered, x, (2, 4), **given, progress=False)",
    "mc_compare_rates": "mcd.mc_compare_rates(jittered, x, x[:, :2], (0.3,), 4, **given, progress=False)",
    "mc_sites": "mcd.mc_sites(model, x)",
    "mc_calibrate": "mcd.mc_calibrate(sure, y)",
    "mc_conformal": "mcd.mc_conformal(drawn, y, level=0.95)",
    "mc_triage": "mcd.mc_triage(drawn, y, max_error=0.01)",
    "mc_acquire": "mcd.mc_acquire(apart, 5, by='batchbald')",
    "mc_fit": "mcd.mc_fit(net, x, y, epochs=3, batch_size=4, callbacks=interrupted, progress=False)",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_warning_points_at_the_line_that_called(names, name):
    if name == "a sampler":  # which tells again where its model is another
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = {**names, "sampler": mcd.mc_sampler(names["jittered"], names["x"], 4, **names["given"])}
            names["jittered"].changed = True
    code = compile(f"def theirs():\n    return {CALLS[name]}\n\n\ntheirs()\n", "theirs.py", "exec")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(code, dict(names))
    assert caught
    assert {(one.filename, one.lineno) for one in caught} == {("theirs.py", 2)}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_no_module_chooses_a_line_by_itself(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    found = [call.lineno for call in calls if ast.unparse(call.func) == "warnings.warn"]
    assert len(found) == (path.stem == "checks")
