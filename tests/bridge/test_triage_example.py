"""The example of triage in both languages, with few epochs and draws: what it prints, and what it leaves behind."""

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
LEFT = ["policy_{}.json", "reliability_{}.png", "risk_coverage_{}.png", "uncertainty_{}.png", "drift_{}.png",
        "report_{}.html"]  # fmt: skip

pytestmark = pytest.mark.slow  # trains twice for two epochs


@pytest.fixture(scope="module")
def runs(r_environment, tmp_path_factory):
    """What each language printed, and the folder with what both have written."""
    folder = tmp_path_factory.mktemp("triage")
    commands = {
        "python": [sys.executable, "-W", "error", EXAMPLES / "triage.py", *FEW],
        "r": ["Rscript", EXAMPLES / "triage.R", *FEW],
    }
    printed = {}
    for language, command in commands.items():
        done = subprocess.run(command, cwd=folder, env=r_environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed[language] = done.stdout
    return printed, folder / "output"


def test_both_learn_the_same_policy_and_say_the_same(runs):
    printed, folder = runs
    policies = [(folder / f"triage_policy_{language}.json").read_text() for language in printed]
    assert policies[0] == policies[1]
    policy = mcd.mc_load(folder / "triage_policy_r.json")
    assert isinstance(policy, mcd.MCPolicy)
    assert policy.guaranteed
    for text in printed.values():
        assert repr(policy) in text


@pytest.mark.parametrize("language", ["python", "r"])
def test_what_was_promised_is_held_against_the_test_images(runs, language):
    text = runs[0][language]
    n, accepted = map(int, re.findall(r"Of (\d+) test images (\d+) ", text)[0])
    assert n == 1000
    assert 0 < accepted < n
    everywhere, among = map(float, re.findall(r"all: ([\d.]+)%; among the accepted: ([\d.]+)%", text)[0])
    referred = float(re.findall(r"referred to a person: ([\d.]+)%", text)[0])
    assert among < everywhere < referred
    low, high = map(float, re.findall(r"between ([\d.]+)% and ([\d.]+)%", text)[0])
    assert low <= among <= high
    assert low <= 10  # what was promised is not refuted


@pytest.mark.parametrize("language", ["python", "r"])
def test_the_alarm_is_raised_by_the_turned_images(runs, language):
    text = runs[0][language]
    alarm, since = map(int, re.findall(r"alarm at input (\d+), .*; since about input (\d+)", text)[0])
    assert alarm > 1000
    assert abs(since - 1001) <= 50
    assert "in batch 5 (turned)" in text


@pytest.mark.parametrize("language", ["python", "r"])
def test_what_it_leaves_behind(runs, language):
    folder = runs[1]
    files = {one.name for one in folder.iterdir() if language in one.stem.split("_")}
    assert files == {f"triage_{name.format(language)}" for name in LEFT}
    assert json.loads((folder / f"triage_policy_{language}.json").read_text())
    page = (folder / f"triage_report_{language}.html").read_text("utf-8")
    assert page.count('"place": ') + page.count('"place":') >= 1000
    assert "DRIFT: alarm at input" in page
