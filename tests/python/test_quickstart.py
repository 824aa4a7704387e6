"""The promises of the quickstart, tested on the script itself: it runs once, and the tests read its files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mcdropout as mcd

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "quickstart.py"
ENTROPIES = ["predictive_entropy", "expected_entropy", "mutual_information"]

pytestmark = [
    pytest.mark.slow,  # trains for eight epochs
    pytest.mark.skipif(not SCRIPT.exists(), reason="the examples are not in the source distribution"),
]


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
    """The folder in which the script ran, and its output. A warning is an error."""
    folder = tmp_path_factory.mktemp("quickstart")
    completed = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT], cwd=folder, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return folder, completed.stdout


@pytest.fixture(scope="session")
def numbers(quickstart):
    return pd.read_csv(quickstart[0] / "output" / "quickstart_python.csv")


@pytest.fixture(scope="session")
def wrong(numbers):
    """For each test image, whether its most probable label differs from its true label."""
    data = mcd.mc_sample_data()
    assert [*data.labels, *ENTROPIES] == list(numbers.columns)
    return numbers[list(data.labels)].idxmax(axis=1).to_numpy() != data.y_test


def test_eight_epochs_reach_81_percent(wrong):
    assert len(wrong) == 1000
    assert 1 - wrong.mean() >= 0.81


def test_the_most_uncertain_tenth_has_twice_its_share_of_the_errors(numbers, wrong):
    most_uncertain = np.argsort(-numbers["predictive_entropy"].to_numpy(), kind="stable")[:100]
    assert wrong[most_uncertain].sum() / wrong.sum() >= 2 * 0.10


def test_the_output_agrees_with_the_files(quickstart, numbers, wrong):
    printed = quickstart[1]
    assert f"Test accuracy: {1 - wrong.mean():.3f}" in printed
    first = int(numbers["predictive_entropy"].to_numpy().argmax())
    table = printed.split("The most uncertain images")[1].splitlines()
    assert table[3].split()[0] == str(first)
    total, aleatoric, epistemic = (f"{numbers[name][first]:.3f}" for name in ENTROPIES)
    assert table[3].split()[-3:] == [total, aleatoric, epistemic]


def test_the_numbers_are_complete_and_add_up(numbers):
    assert not numbers.isna().any(axis=None)
    np.testing.assert_allclose(numbers.iloc[:, :10].sum(axis=1), 1, atol=1e-6)  # float32 softmax
    total, aleatoric, epistemic = (numbers[name] for name in ENTROPIES)
    np.testing.assert_allclose(total, aleatoric + epistemic, atol=1e-12)


def test_the_picture_is_written_and_nothing_outside_the_output_folder(quickstart):
    assert (quickstart[0] / "output" / "quickstart_python.png").read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in quickstart[0].iterdir()] == ["output"]
