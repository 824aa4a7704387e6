"""The example of triage in both languages, with few epochs and draws: its output and its files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mcdropout as mcd

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FEW = ["--epochs", "2", "--draws", "10"]
FILES = ["policy_{}.json", "reliability_{}.png", "risk_coverage_{}.png", "uncertainty_{}.png", "drift_{}.png",
        "report_{}.html"]  # fmt: skip

pytestmark = pytest.mark.slow  # trains twice for two epochs


@pytest.fixture(scope="module")
def runs(r_environment, tmp_path_factory):
    """The output of each language, and the folder with the files of both."""
    folder = tmp_path_factory.mktemp("triage")
    commands = {
        "python": [sys.executable, "-W", "error", EXAMPLES / "triage.py", *FEW],
        "r": ["Rscript", EXAMPLES / "triage.R", *FEW],
    }
    printed = {}
    for language, command in commands.items():
        completed = subprocess.run(command, cwd=folder, env=r_environment, capture_output=True, text=True, check=False)
        assert completed.returncode == 0, completed.stderr
        printed[language] = completed.stdout
    return printed, folder / "output"


def test_both_languages_learn_and_print_the_same_policy(runs):
    printed, folder = runs
    policies = [(folder / f"triage_policy_{language}.json").read_text() for language in printed]
    assert policies[0] == policies[1]
    policy = mcd.mc_load(folder / "triage_policy_r.json")
    assert isinstance(policy, mcd.MCPolicy)
    assert policy.guaranteed
    for text in printed.values():
        assert repr(policy) in text


@pytest.mark.parametrize("language", ["python", "r"])
def test_the_promise_is_compared_with_the_test_images(runs, language):
    text = runs[0][language]
    n, accepted = map(int, re.findall(r"Of (\d+) test images (\d+) ", text)[0])
    assert n == 1000
    assert 0 < accepted < n
    of_all, of_accepted = map(float, re.findall(r"of all images: ([\d.]+)%; of the accepted: ([\d.]+)%", text)[0])
    of_referred = float(re.findall(r"of the referred: ([\d.]+)%", text)[0])
    assert of_accepted < of_all < of_referred
    low, high = map(float, re.findall(r"from these images is ([\d.]+)% to ([\d.]+)%", text)[0])
    assert low <= of_accepted <= high
    assert low <= 10  # the promise is not refuted


@pytest.mark.parametrize("language", ["python", "r"])
def test_the_turned_images_raise_the_alarm(runs, language):
    text = runs[0][language]
    alarm, since = map(int, re.findall(r"alarm at input (\d+), .*; since about input (\d+)", text)[0])
    assert alarm > 1000
    assert abs(since - 1001) <= 50
    assert "in batch 5 (turned)" in text


@pytest.mark.parametrize("language", ["python", "r"])
def test_the_example_writes_its_files(runs, language):
    folder = runs[1]
    files = {file.name for file in folder.iterdir() if language in file.stem.split("_")}
    assert files == {f"triage_{name.format(language)}" for name in FILES}
    assert json.loads((folder / f"triage_policy_{language}.json").read_text())
    page = (folder / f"triage_report_{language}.html").read_text("utf-8")
    assert page.count('"place": ') + page.count('"place":') >= 1000
    assert "DRIFT: alarm at input" in page
