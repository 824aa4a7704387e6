"""R for the bridge tests: inside this process by rpy2, and in an `Rscript` of its own.

Where R, its package or rpy2 is missing the tests skip, but in CI (`CI=true`) they fail.
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
    """Everything in this folder needs R."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("bridge")


def give_up(reason: str) -> None:
    """Skip on a machine without R; in CI nothing may go missing unseen."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def r_environment() -> dict[str, str]:
    """The environment in which R finds the project's own library and this Python."""
    if shutil.which("Rscript") is None:
        give_up("R is not installed.")
    library = ROOT / ".rlib"
    if not (library / "mcdropout").is_dir():
        give_up("The R package is not installed in .rlib; run `make setup`.")
    settings = {
        "R_LIBS": str(library),
        "RETICULATE_PYTHON": sys.executable,
        "RETICULATE_CHECK_REQUIRED_PACKAGES": "0",  # would ask a package index
    }
    return {**os.environ, **settings}


@pytest.fixture(scope="session")
def rscript(r_environment: dict[str, str]) -> Callable[..., str]:
    """`rscript(code, *arguments)`: what R code prints, run in a process of its own."""

    def run(code: str, *arguments: str) -> str:
        command = ["Rscript", "-e", code, *arguments]
        done = subprocess.run(command, env=r_environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def robjects(r_environment: dict[str, str]) -> ModuleType:
    """`rpy2.robjects` with R started in this process and our R package attached."""
    if importlib.util.find_spec("rpy2") is None or importlib.util.find_spec("rpy2.robjects") is None:
        give_up("rpy2 is not installed; run `make setup`.")
    os.environ.update(r_environment)  # R reads it as it starts, for good
    import rpy2.robjects as robjects

    robjects.r("suppressPackageStartupMessages(library(mcdropout))")
    return robjects
