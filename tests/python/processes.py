"""The command for tests that run in a new process."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pytest_command() -> list[str]:
    """The command that runs pytest; it measures coverage if this process does."""
    coverage = sys.modules.get("coverage")
    if coverage is None or coverage.Coverage.current() is None:
        return [sys.executable, "-m", "pytest", "-q", "--tb=short"]
    return [
        *(sys.executable, "-m", "coverage", "run", "--parallel-mode", f"--rcfile={ROOT / 'pyproject.toml'}"),
        *(f"--data-file={ROOT / '.setup' / 'coverage'}", "-m", "pytest", "-q", "--tb=short"),
    ]
