"""Every public function on an accelerator, pretend or GPU. The tests are in `device_cases.py`, run in a new process."""

import os
import subprocess
from pathlib import Path

import pytest
from processes import pytest_command
from torch.utils import backend_registration

TESTS = Path(__file__).resolve().parents[1]


def run_device_cases(device):
    completed = subprocess.run(
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
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="needs a torch that accepts a backend written in Python",
)
def test_on_a_pretend_device():
    run_device_cases("pretend")


@pytest.mark.gpu
def test_on_a_gpu():
    run_device_cases("cuda")
