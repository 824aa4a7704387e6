"""Prints "N passed, N failed, N skipped" over pytest and R CMD check; fails if a test failed or none ran.

Usage: count_tests.py PYTEST_XML R_COUNTS
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def pytest_counts(report: Path) -> tuple[int, int, int]:
    """The numbers of passed, failed and skipped tests. Without a report pytest itself failed, which counts as one."""
    if not report.exists():
        return 0, 1, 0
    suites = ElementTree.parse(report).getroot().findall("testsuite")
    total, errors, failures, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "errors", "failures", "skipped")
    )
    return total - errors - failures - skipped, errors + failures, skipped


def r_counts(report: Path) -> tuple[int, int, int]:
    """The same numbers from judge_check.R; zeros where R is not installed."""
    if not report.exists():
        return 0, 0, 0
    passed, failed, skipped = (int(word) for word in report.read_text().split())
    return passed, failed, skipped


def main() -> None:
    """Print the sums of both reports."""
    counts = zip(pytest_counts(Path(sys.argv[1])), r_counts(Path(sys.argv[2])), strict=True)
    passed, failed, skipped = (sum(pair) for pair in counts)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()
