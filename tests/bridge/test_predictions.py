"""R and Python give the same numbers to the bit, in this process by rpy2 and in a separate Rscript.

The results are exchanged in files that both languages read, so these tests test the files as well.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mcdropout as mcd
from mcdropout.predictions.prediction import MCPrediction

LABELS = ["cat", "dog", "emu"]
IMAGE = (10, 8, 1)  # the sides differ, so that an exchange of axes fails


@dataclass
class Task:
    """A network and its inputs on disk, and the arguments with which both languages call `mc_predict()`."""

    folder: Path
    model: Path
    x: np.ndarray
    settings: dict[str, Any]

    def in_python(self) -> MCPrediction:
        return mcd.mc_predict(mcd.mc_load(self.model), self.x, **self.settings, progress=False)

    def in_r(self, run: Callable[[str], object], name: str) -> MCPrediction:
        """Predict by `run`, which executes R code, and read what R saved."""
        file = self.folder / f"{name}.safetensors"
        run(f"""
            x <- mc_read_idx("{self.folder / "x.idx"}") / 255
            if ({self.x.ndim} == 4) dim(x) <- c(dim(x), 1)
            pred <- mc_predict(mc_load("{self.model}"), x, {as_r(self.settings)}, progress = FALSE)
            mc_save(pred, "{file}")
        """)
        loaded = mcd.mc_load(file)
        assert isinstance(loaded, MCPrediction)
        return loaded


def as_r(settings: dict[str, Any]) -> str:
    """The settings as arguments of a call in R."""
    texts = {name: str(value).upper() if isinstance(value, bool) else repr(value) for name, value in settings.items()}
    return ", ".join(f"{name} = {text.replace('[', 'c(').replace(']', ')')}" for name, text in texts.items())


def write_idx(path: Path, values: np.ndarray) -> None:
    """Bytes in the format of the MNIST family, which both languages read."""
    sizes = np.array(values.shape, ">u4").tobytes()
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes())


def images(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, *IMAGE[:2]))


TASKS = {
    "classes": (mcd.mc_cnn, {"labels": LABELS}, {"n_samples": 6, "seed": 3, "batch_size": 4}),
    "binary": (mcd.mc_cnn, {"labels": LABELS[:2], "task": "binary"}, {"n_samples": 5, "seed": 2**40}),
    "numbered": (mcd.mc_cnn, {"n_outputs": 3}, {"n_samples": 5, "seed": 0, "keep_samples": False}),
    "fresh masks": (mcd.mc_cnn, {"labels": LABELS}, {"n_samples": 4, "seed": 1, "masks": "per_input",
                                                     "ids": [5, 3, 11, 2, 8, 9, 1]}),
    "weights": (mcd.mc_bayes_cnn, {"labels": LABELS}, {"n_samples": 6, "seed": 5, "batch_size": 3}),
    "values": (mcd.mc_mlp, {"task": "regression", "noise": "heteroscedastic", "n_outputs": 2},
               {"n_samples": 6, "seed": 7, "level": 0.8}),
}  # fmt: skip


@pytest.fixture(params=TASKS)
def task(request, tmp_path) -> Task:
    make, arguments, settings = TASKS[request.param]
    pixels = images(7)
    if make is mcd.mc_mlp:
        pixels = pixels[:, :, 0]
        net = make(10, hidden=12, dropout=0.3, seed=4, **arguments)
    else:
        if make is mcd.mc_cnn:
            arguments = {"dropout": 0.3, **arguments}
        net = make(IMAGE, filters=(3, 4), kernel_size=2, hidden=16, seed=4, **arguments)
    x = (pixels / 255).reshape(7, *net.input_shape)
    write_idx(tmp_path / "x.idx", pixels)
    mcd.mc_save(net, tmp_path / "net.safetensors")
    return Task(tmp_path, tmp_path / "net.safetensors", x, settings)


def assert_same(of_r: MCPrediction, of_python: MCPrediction) -> None:
    """Every field except the seconds is equal to the bit, with its type."""
    for field in fields(MCPrediction):
        left, right = getattr(of_r, field.name), getattr(of_python, field.name)
        if field.name == "seconds":
            continue
        if not isinstance(right, np.ndarray):
            assert left == right, field.name
            continue
        np.testing.assert_array_equal(left, right, err_msg=field.name)
        if field.name not in (
            "ids",
            "samples",
        ):  # integers of R have 32 bits, and draws the shortest type that suffices
            assert left.dtype == right.dtype, field.name


def test_r_in_this_process_predicts_the_same(task, robjects):
    assert_same(task.in_r(robjects.r, "inside"), task.in_python())


def test_r_in_a_separate_process_predicts_the_same(task, rscript):
    assert_same(task.in_r(lambda code: rscript("library(mcdropout);" + code), "outside"), task.in_python())


def test_arrays_of_r_have_the_elements_at_the_same_positions(robjects):
    pixels = np.arange(2 * 3 * 4, dtype=np.float64).reshape(2, 3, 4)
    with_r = robjects.r("function(x) x[2, 3, 1]")
    assert (
        with_r(robjects.r.array(robjects.FloatVector(pixels.ravel("F")), dim=robjects.IntVector((2, 3, 4))))[0]
        == (pixels[1, 2, 0])
    )


PRODUCT = """
import torch
left, right = torch.arange(96.0).sin().reshape(8, 12), torch.arange(36.0).cos().reshape(12, 3)
bits = (left @ right).numpy().tobytes().hex()
"""


def test_torch_in_r_multiplies_to_the_bit_although_r_loads_another_linear_algebra(rscript):
    in_python: dict[str, str] = {}
    exec(PRODUCT, in_python)
    in_r = rscript(
        f"""
        library(mcdropout)
        stopifnot(mc_python_available())
        cat(reticulate::py_run_string('{PRODUCT}')$bits)
        """
    )
    assert in_r == in_python["bits"]


@pytest.fixture(scope="module")
def r_fields(robjects) -> Callable[[str], np.ndarray]:
    """`r_fields(code)`: the result of R code on one prediction of seven inputs, nine draws, level 0.9."""
    robjects.r("""
        set.seed(1)
        net <- mc_mlp(4, labels = c("cat", "dog", "emu"), hidden = 8)
        bridge <- mc_predict(net, matrix(rnorm(28), 7), n_samples = 9, level = 0.9, seed = 5, progress = FALSE)
    """)
    return lambda code: np.asarray(robjects.r(code)).copy()


@pytest.mark.parametrize(
    ("field", "by_r"),
    [
        ("mean", "apply(bridge$samples, 2:3, mean)"),
        ("variance", "apply(bridge$samples, 2:3, var)"),
        ("std", "apply(bridge$samples, 2:3, sd)"),
        ("lower", "apply(bridge$samples, 2:3, quantile, 0.05, type = 7)"),
        ("upper", "apply(bridge$samples, 2:3, quantile, 0.95, type = 7)"),
        ("mcse", "apply(bridge$samples, 2:3, sd) / sqrt(9)"),
        ("predictive_entropy", "apply(bridge$mean, 1, function(p) -sum(p * log(p)))"),
        ("expected_entropy", "colMeans(apply(bridge$samples, 1:2, function(p) -sum(p * log(p))))"),
    ],
)
def test_statistics_of_the_draws_computed_by_r_equal_the_fields(field, by_r, r_fields):
    # 1e-12: sums of doubles in another order
    np.testing.assert_allclose(r_fields(f"unname(bridge${field})"), r_fields(by_r), rtol=0, atol=1e-12)


TRAIN = """
    library(mcdropout)
    y <- factor(c("dog", "cat", "emu", "cat", "dog", "emu", "cat"), levels = c("unused", "emu", "dog", "cat"))
    x <- mc_read_idx(commandArgs(TRUE)[1]) / 255
    dim(x) <- c(dim(x), 1)
    net <- mc_cnn(c(10, 8, 1), c("cat", "dog", "emu"), filters = 3, hidden = 5, dropout = 0.2)
    net <- mc_fit(net, x, y, epochs = 3, batch_size = 2, seed = 6, progress = FALSE)
"""


@pytest.fixture
def trained_in_python(tmp_path) -> mcd.MCNetwork:
    write_idx(tmp_path / "x.idx", images(7))
    x = (images(7) / 255)[..., None]
    y = ["dog", "cat", "emu", "cat", "dog", "emu", "cat"]
    net = mcd.mc_cnn(IMAGE, LABELS, filters=3, hidden=5, dropout=0.2)
    return mcd.mc_fit(net, x, y, epochs=3, batch_size=2, seed=6, progress=False)


def test_r_learns_the_same_weights_from_a_factor(trained_in_python, rscript, tmp_path):
    rscript(TRAIN + "mc_save(net, commandArgs(TRUE)[2])", str(tmp_path / "x.idx"), str(tmp_path / "net.safetensors"))
    trained_in_r = mcd.mc_load(tmp_path / "net.safetensors")
    assert isinstance(trained_in_r, mcd.MCNetwork)
    assert trained_in_r.labels == trained_in_python.labels
    expected = trained_in_python.state_dict()
    for name, weights in trained_in_r.state_dict().items():
        np.testing.assert_array_equal(weights.numpy(), expected[name].numpy(), err_msg=name)
    assert trained_in_r.history is not None
    assert trained_in_python.history is not None
    np.testing.assert_array_equal(trained_in_r.history["loss"], trained_in_python.history["loss"])


def test_save_rds_keeps_the_weights(trained_in_python, rscript, tmp_path):
    rscript(TRAIN + "saveRDS(net, commandArgs(TRUE)[2])", str(tmp_path / "x.idx"), str(tmp_path / "net.rds"))
    rscript(
        f"""
        library(mcdropout)
        x <- mc_read_idx("{tmp_path / "x.idx"}") / 255
        dim(x) <- c(dim(x), 1)
        mc_save(mc_predict(readRDS("{tmp_path / "net.rds"}"), x, 4, seed = 1), "{tmp_path / "pred.safetensors"}")
        """
    )
    x = (images(7) / 255)[..., None]
    of_the_file = mcd.mc_load(tmp_path / "pred.safetensors")
    assert isinstance(of_the_file, MCPrediction)
    assert_same(of_the_file, mcd.mc_predict(trained_in_python, x, 4, seed=1, progress=False))


def test_factor_levels_are_the_labels(task, robjects):
    prediction = task.in_r(robjects.r, "levels")
    if prediction.labels is not None:
        levels = list(robjects.r("levels(pred$predicted)"))
        assert levels == [str(label) for label in prediction.labels]
        assert list(robjects.r("as.character(pred$predicted)")) == [str(label) for label in prediction.predicted]


def test_the_bundled_sample_is_the_same(robjects):
    data = mcd.mc_sample_data()
    np.testing.assert_array_equal(np.asarray(robjects.r("mc_sample_data()$x_test")), data.x_test)
    assert list(robjects.r("as.character(mc_sample_data()$y_test)")) == data.y_test.tolist()


FORKED = """
library(mcdropout)
x <- as.matrix(iris[1:4])[rep(1:150, 40), ]
net <- mc_mlp(4, labels = levels(iris$Species), hidden = 300)
sampler <- mc_sampler(net, x[1:3, ], n_samples = 6, seed = 1)
reticulate::py_run_string("import torch; torch.set_num_threads(2); torch.zeros(3_000_000).add_(1).exp_()")
predict <- function(i) c(mc_predict(net, x, n_samples = 6, seed = i)$mean[1, 1], sampler(x)$mean[2, 1])
of_this_process <- lapply(1:2, predict)
of_forks <- parallel::mclapply(1:2, predict, mc.cores = 2)
cat(max(abs(unlist(of_this_process) - unlist(of_forks))))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_processes_forked_by_mclapply_predict_the_same(r_environment):
    command = ["Rscript", "-e", FORKED]
    environment = {name: value for name, value in r_environment.items() if name != "OMP_NUM_THREADS"}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert completed.returncode == 0, completed.stderr
    assert float(completed.stdout.split()[-1]) < 1e-5  # one thread of torch and two add in different orders
