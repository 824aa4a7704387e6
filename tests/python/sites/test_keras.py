"""Keras models on each backend of Keras. The tests are in `keras_cases.py`, which runs in one process per backend."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from processes import pytest_command

import mcdropout as mcd
from mcdropout.sites.keras.loading import load_keras

TESTS = Path(__file__).resolve().parents[1]
PYTHON = TESTS.parents[1] / "python"
BACKENDS = {"torch": "torch", "tensorflow": "tensorflow", "jax": "jax"}
SLOW = ("tensorflow", "jax")  # they compile for minutes
needs_keras = pytest.mark.skipif(find_spec("keras") is None, reason="needs Keras: FOR_TESTS=yes tools/setup.sh")


def environment(**more):
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(PYTHON), **more}


def run_python(code, **more):
    """Run `code` in a new interpreter and return its output and its errors."""
    completed = subprocess.run(
        [sys.executable, "-c", code], env=environment(**more), capture_output=True, text=True, check=False
    )
    return completed.stdout + completed.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("draws")


@pytest.fixture(scope="module", params=["torch", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def tested(request, folder):
    """Run `keras_cases.py` on a backend; return the backend and the completed process."""
    if find_spec("keras") is None or find_spec(BACKENDS[request.param]) is None:
        pytest.skip(f"needs Keras on {request.param}: FOR_TESTS=yes tools/setup.sh")
    ignored = ["-W", "ignore:__array__ implementation:DeprecationWarning"]  # from the conversion of Keras to NumPy
    completed = subprocess.run(
        [*pytest_command(), *ignored, str(TESTS / "keras_cases.py")],
        env=environment(KERAS_BACKEND=request.param, MCDROPOUT_KERAS_DRAWS=str(folder)),
        capture_output=True,
        text=True,
        check=False,
    )
    return request.param, completed


def test_on_each_backend(tested):
    _, completed = tested
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_each_backend_draws_the_same(tested, folder):
    backend, _ = tested
    draws_of = {path.name.removeprefix(f"{backend} "): np.load(path) for path in folder.glob(f"{backend} *.npz")}
    assert len(draws_of) >= 15
    for name, draws in draws_of.items():
        first = np.load(next(path for other in BACKENDS if (path := folder / f"{other} {name}").exists()))
        for kind in ("shared", "per_input"):
            np.testing.assert_allclose(draws[kind], first[kind], rtol=0, atol=1e-4, err_msg=f"{name} {kind}")


def test_importing_mcdropout_does_not_import_keras():
    modules = "mcdropout.sampling.predict, mcdropout.plots.draws, mcdropout.files"
    assert run_python(f"import sys; import {modules}; print('keras' in sys.modules)").strip() == "False"


@needs_keras
def test_a_backend_that_is_not_installed_is_named():
    output = run_python("from mcdropout.sites.keras.loading import load_keras; load_keras()", KERAS_BACKEND="no_such")
    assert "no_such" in output


def test_a_missing_keras_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match="Keras models need Keras; run `pip install mcdropout\\[keras\\]`."):
        load_keras()


@needs_keras
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_missing_backend_is_named_with_the_remedy(backend):
    code = (
        f"import sys; sys.modules['{backend}'] = None\n"
        "from mcdropout.sites.keras.loading import load_keras\n"
        "try:\n    load_keras()\nexcept ImportError as error:\n    print(error)\n"
    )
    output = run_python(code, KERAS_BACKEND=backend)
    assert f"run `pip install {backend}`, or choose another by the environment variable KERAS_BACKEND" in output


def test_keras_2_is_refused_with_the_remedy():
    old = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})
    with pytest.raises(
        TypeError, match="`model` is a Keras 2 model \\(tf.keras\\): save it by .* and load it in Keras 3"
    ):
        mcd.mc_predict(old(), np.zeros((2, 3)))


@needs_keras
@pytest.mark.slow  # trains for three epochs
def test_the_keras_example_runs(tmp_path):
    script = TESTS.parents[1] / "examples" / "keras_mnist.py"
    if not script.exists():
        pytest.skip("the examples are not in the source distribution")
    completed = subprocess.run(
        [sys.executable, str(script)],
        env=environment(KERAS_BACKEND="torch"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    numbers = {line.split(":")[0]: line.split(":")[1] for line in completed.stdout.splitlines() if ": " in line}
    assert float(numbers["Test accuracy"]) >= 0.7
    assert "(1000, 10) (1000, 10) (30, 1000, 10)" in completed.stdout
