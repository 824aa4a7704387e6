"""Every public function on an accelerator that is none: `pretend_cases.py` has the tests, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

TESTS = Path(__file__).parent


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="needs a torch that takes a backend written in Python",
)
def test_on_a_pretend_device():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", str(TESTS / "pretend_cases.py")],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(TESTS.parents[1] / "python"), str(TESTS))),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
