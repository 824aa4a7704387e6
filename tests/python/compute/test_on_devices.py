"""Every public function on an accelerator, a pretend one or a GPU: `device_cases.py` has the tests, run by itself."""

import os
import subprocess
from pathlib import Path

import pytest
from processes import pytest_command
from torch.utils import backend_registration

TESTS = Path(__file__).resolve().parents[1]


def run_the_cases_on(device):
    done = subprocess.run(
        [*pytest_command(), "-p", "no:cacheprovider", str(TESTS / "device_cases.py")],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(TESTS.parents[1] / "python"), str(TESTS))),
            "OMP_NUM_THREADS": "1",
            "TEST_DEVICE": device,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="needs a torch that takes a backend written in Python",
)
def test_on_a_pretend_device():
    run_the_cases_on("pretend")


@pytest.mark.gpu
def test_on_a_gpu():
    run_the_cases_on("cuda")
