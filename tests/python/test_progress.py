"""Progress bars and other processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from processes import ROOT

START = """
import multiprocessing, os, signal
import mcdropout.progress as progress
def work():
    with progress.reporting(True, 3, "unit") as report:
        report(1, "text")
"""


def printed(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT / "python")},
    )
    return done.stdout.strip()


def test_a_bar_does_not_set_the_start_method_of_multiprocessing() -> None:
    assert printed("work(); print(multiprocessing.get_start_method(allow_none=True))") == "None"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_a_process_killed_with_the_lock_of_a_bar_does_not_stop_the_others() -> None:
    code = """
work()
child = os.fork()
if child == 0:
    progress.Bar.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
work()
print("done")
"""
    assert printed(code) == "done"
