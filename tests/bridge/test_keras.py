"""R builds a Keras model through reticulate and predicts; Python predicts the same from the file that R saves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

IN_R = """
library(mcdropout)
folder <- commandArgs(TRUE)[[1]]
stopifnot(mc_python_available())
keras <- reticulate::import("keras")
layers <- keras$layers
model <- keras$Sequential(list(
  keras$Input(c(8L, 7L, 1L)), layers$Conv2D(4L, 3L, activation = "relu"), layers$Dropout(0.25),
  layers$Flatten(), layers$Dense(6L, activation = "relu"), layers$Dropout(0.5), layers$Dense(3L, activation = "softmax")
))
model$set_weights(lapply(model$get_weights(), function(w) 0.5 * array(sin(seq_along(w)), dim(w))))
x <- array(cos(seq_len(5 * 8 * 7)), c(5, 8, 7, 1))
before <- model$get_weights()
pred <- mc_predict(model, x, n_samples = 4, batch_size = 2, labels = c("a", "b", "c"), seed = 3)
stopifnot(identical(before, model$get_weights()))
path <- file.path(folder, "model.keras")
model$save(path)
of_file <- mc_predict(path, x, n_samples = 4, labels = c("a", "b", "c"), seed = 3)
unbuilt <- keras$Sequential(list(layers$Dense(2L)))
error <- tryCatch(mc_predict(unbuilt, x), error = function(e) c(class(e)[[1]], conditionMessage(e)))
cat("\\n", jsonlite::toJSON(
  list(
    x = x, samples = pred$samples, of_file = of_file$samples, labels = colnames(pred$mean),
    sites = mc_sites(model, x)$shape, point = unname(mc_predict_point(model, x)),
    keras = model$predict(x, verbose = 0L),
    engine = pred$engine, error = error
  ),
  digits = NA
), sep = "")
"""
IN_PYTHON = """
import sys
import numpy as np
import mcdropout as mcd
folder = sys.argv[1]
pred = mcd.mc_predict(folder + "/model.keras", np.load(folder + "/x.npy"), n_samples=4, seed=3, progress=False)
np.save(folder + "/samples.npy", pred.samples)
"""


@pytest.mark.parametrize("backend", ["torch", "tensorflow", "jax"])
def test_r_and_python_predict_the_same_with_a_keras_model(backend, r_environment, tmp_path):
    if find_spec("keras") is None or find_spec(backend) is None:
        pytest.skip(f"needs Keras on {backend}: FOR_TESTS=yes tools/setup.sh")
    keras_settings = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    script = tmp_path / "in_r.R"
    script.write_text(IN_R)
    completed = subprocess.run(
        ["Rscript", str(script), str(tmp_path)],
        env={**r_environment, **keras_settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    in_r = json.loads(completed.stdout.splitlines()[-1])
    assert in_r["sites"] == ["4 x 6 x 5", "6"]
    assert in_r["labels"] == ["a", "b", "c"]
    assert in_r["engine"] == ["vmap"]
    np.testing.assert_allclose(in_r["point"], in_r["keras"], atol=1e-6)
    assert in_r["error"][0].startswith("mcdropout_error")
    assert in_r["error"][1] == "`model` has no weights yet; fit it, load its weights, or call it on some inputs first."
    samples = np.array(in_r["samples"])
    np.testing.assert_allclose(np.array(in_r["of_file"]), samples, rtol=0, atol=1e-6)
    np.save(tmp_path / "x.npy", np.array(in_r["x"]))
    environment = {**os.environ, **keras_settings, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "python")}
    subprocess.run([sys.executable, "-c", IN_PYTHON, str(tmp_path)], env=environment, check=True, capture_output=True)
    # float32 rounding: R and Python load different linear algebra
    np.testing.assert_allclose(samples, np.load(tmp_path / "samples.npy"), rtol=0, atol=1e-5)
