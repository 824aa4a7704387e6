"""Ctrl-C and kill -9 at any moment of training and prediction lose nothing.

A moment is a number of function calls, so it does not depend on how busy the machine is. Each moment gets a forked
process, because all of them then share one import of torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")

START = """
import json, os, random, signal, sys, traceback, warnings
from pathlib import Path
import numpy as np
import torch
import mcdropout as mcd

folder, n_moments = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
X = np.random.default_rng(0).normal(size=(23, 3)).astype("float32")
Y = np.where(X[:, 0] > 0, "a", "b")

def network():
    return mcd.mc_mlp(3, ["a", "b"], hidden=4, dropout=0.2, seed=1)

def fit(path):
    return mcd.mc_fit(network(), X, Y, epochs=3, batch_size=8, validation_split=0.2, seed=1, progress=False,
                      checkpoint=path)

def predict(model):
    return mcd.mc_predict(model, X, n_samples=6, batch_size=5, seed=1, keep_samples=True).samples

def weights(model):
    return {name: values.numpy().copy() for name, values in model.state_dict().items()}

def equal(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)

def world():
    numbers = str(np.random.get_state()[1].tolist()), np.random.get_state()[2:], torch.get_rng_state().tolist()
    return numbers, random.getstate(), torch.get_num_threads(), list(warnings.filters), torch.is_grad_enabled()

def run_until(moment, signal_number, work):
    \"\"\"Run `work`, and send a signal at its call of this number; gives the number of calls.\"\"\"
    calls = 0
    def count(frame, event, argument):
        nonlocal calls
        if event == "call":
            calls += 1
            if calls == moment:
                sys.setprofile(None)
                os.kill(os.getpid(), signal_number)
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls

def in_child(work):
    \"\"\"The exit status of `work` in a forked process.\"\"\"
    child = os.fork()
    if child == 0:
        signal.alarm(100)  # ends a process that hangs
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def moments(work):
    \"\"\"Numbers of calls, chosen from all that `work` makes.\"\"\"
    run_until(0, 0, work)  # fills caches
    return random.Random(0).sample(range(1, run_until(0, 0, work)), n_moments)

failures = []
"""

KILLED_TRAINING = """
expected = weights(fit(folder / "whole"))
def once():
    (folder / "counted").unlink(missing_ok=True)
    fit(folder / "counted")
n_continued = n_killed = 0
for moment in moments(once):
    path = folder / f"run{moment}"
    status = in_child(lambda: run_until(moment, signal.SIGKILL, lambda: fit(path)))
    n_continued += path.exists()
    n_killed += status == -signal.SIGKILL  # a run may make fewer calls than the one that was counted
    if status not in (0, -signal.SIGKILL) or not equal(weights(fit(path)), expected):
        failures.append(moment)
left_over = sorted(name for name in os.listdir(folder) if not name.startswith(("run", "whole", "counted")))
print(json.dumps({"failures": failures, "n_continued": n_continued, "n_killed": n_killed, "left_over": left_over}))
"""

INTERRUPTED_TRAINING = """
expected = weights(fit(folder / "whole"))
def once():
    (folder / "counted").unlink(missing_ok=True)
    fit(folder / "counted")
def interrupted(moment):
    path, before = folder / f"run{moment}", world()
    model = network()
    untrained = weights(model)
    def work():
        mcd.mc_fit(model, X, Y, epochs=3, batch_size=8, validation_split=0.2, seed=1, progress=False,
                   checkpoint=path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside = world()
        try:
            n_calls = run_until(moment, signal.SIGINT, work)
            told = any("Training was interrupted" in str(warning.message) for warning in caught)
            assert n_calls < moment or told or equal(weights(model), expected), "no word of the interrupt"
        except KeyboardInterrupt:
            assert equal(weights(model), untrained) or path.exists(), "the weights have changed"
        assert world() == inside, "the state of the process"
    assert world() == before
    assert all(np.isfinite(values).all() for values in weights(model).values()), "weights"
    assert not any(module.training for module in model.modules()), "left in training mode"
    assert equal(weights(fit(path)), expected), "continued"
    predict(model)
for moment in moments(once):
    status = in_child(lambda: interrupted(moment))
    assert status in (0, 1), f"a process ended with status {status} after an interrupt at call {moment}"
    if status == 1:
        failures.append(moment)
print(json.dumps({"failures": failures}))
"""

INTERRUPTED_PREDICTION = """
model = fit(folder / "whole")
expected, before = predict(model), weights(model)
def interrupted(moment):
    outside = world()
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    try:
        assert run_until(moment, signal.SIGINT, lambda: predict(model)) < moment, "no KeyboardInterrupt"
    except KeyboardInterrupt:
        pass
    assert world() == outside, "the state of the process"
    assert equal(weights(model), before), "weights"
    assert modes == [module.training for module in model.modules()], "modes"
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert np.array_equal(predict(model), expected), "the next prediction"
for moment in moments(lambda: predict(model)):
    status = in_child(lambda: interrupted(moment))
    assert status in (0, 1), f"a process ended with status {status} after an interrupt at call {moment}"
    if status == 1:
        failures.append(moment)
print(json.dumps({"failures": failures}))
"""


def results_of(code: str, folder: Path, n_moments: int, most_failures: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", START + code, str(folder), str(n_moments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "python"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert len(results["failures"]) <= most_failures, done.stderr
    return results


def open_moments(n_moments: int) -> int:
    """The failures that are accepted after Ctrl-C; a process that hangs is never accepted.

    Python may take an interrupt on entering the `__exit__` of a block, and then the block is not left. This was seen at
    1 of 810 moments. More than the result of this function is a fault of the package.
    """
    return max(1, n_moments // 100)


MOMENTS = pytest.mark.parametrize("n_moments", [20, pytest.param(200, marks=pytest.mark.slow)])


@MOMENTS
def test_a_killed_training_continues_to_the_same_weights(tmp_path: Path, n_moments: int) -> None:
    results = results_of(KILLED_TRAINING, tmp_path, n_moments)
    n_continued, n_killed = results["n_continued"], results["n_killed"]
    assert 0 < n_continued < n_moments  # some were killed after the first checkpoint, some before
    assert n_killed > n_moments / 2
    assert results["left_over"] == []


@MOMENTS
def test_an_interrupted_training_leaves_everything_as_found_and_continues(tmp_path: Path, n_moments: int) -> None:
    results_of(INTERRUPTED_TRAINING, tmp_path, n_moments, open_moments(n_moments))


@MOMENTS
def test_an_interrupted_prediction_leaves_everything_as_found(tmp_path: Path, n_moments: int) -> None:
    results_of(INTERRUPTED_PREDICTION, tmp_path, n_moments, open_moments(n_moments))
