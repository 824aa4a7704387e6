"""R for the bridge tests: inside this process by rpy2, and in a separate `Rscript`.

If R, the R package or rpy2 is missing, the tests are skipped; in CI (`CI=true`) they fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder: it needs R."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("bridge")


def skip_or_fail(reason: str) -> None:
    """Skip on a machine without R. In CI fail, so that a missing R is noticed."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def r_environment() -> dict[str, str]:
    """The environment in which R finds the library of the project and this Python."""
    if shutil.which("Rscript") is None:
        skip_or_fail("R is not installed.")
    library = ROOT / ".rlib"
    if not (library / "mcdropout").is_dir():
        skip_or_fail("The R package is not installed in .rlib; run `make setup`.")
    settings = {
        "R_LIBS": str(library),
        "RETICULATE_PYTHON": sys.executable,
        "RETICULATE_CHECK_REQUIRED_PACKAGES": "0",  # the check would call a package index
    }
    return {**os.environ, **settings}


@pytest.fixture(scope="session")
def rscript(r_environment: dict[str, str]) -> Callable[..., str]:
    """`rscript(code, *arguments)`: the output of R code, run in a new process."""

    def run(code: str, *arguments: str) -> str:
        command = ["Rscript", "-e", code, *arguments]
        completed = subprocess.run(command, env=r_environment, capture_output=True, text=True, check=False)
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    return run


@pytest.fixture(scope="session")
def robjects(r_environment: dict[str, str]) -> ModuleType:
    """`rpy2.robjects` with R started in this process and the R package attached."""
    if importlib.util.find_spec("rpy2") is None or importlib.util.find_spec("rpy2.robjects") is None:
        skip_or_fail("rpy2 is not installed; run `make setup`.")
    os.environ.update(r_environment)  # R reads the environment only when it starts
    import rpy2.robjects as robjects

    robjects.r("suppressPackageStartupMessages(library(mcdropout))")
    return robjects
