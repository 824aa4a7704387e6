"""What DESCRIPTION says of the project, and the files that have to repeat it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def described(field: str) -> str:
    """A field of DESCRIPTION."""
    match = re.search(rf"^{field}:\s*(\S+)$", (ROOT / "DESCRIPTION").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


@pytest.mark.parametrize(
    ("file", "pattern", "field"),
    [
        ("pyproject.toml", r'^Homepage = "(.*)"$', "URL"),
        ("pyproject.toml", r'^Issues = "(.*)"$', "BugReports"),
        ("CITATION.cff", r"^url: (.*)$", "URL"),
        ("CITATION.cff", r"^version: (.*)$", "Version"),
    ],
)
def test_a_file_repeats_what_description_says(file, pattern, field):
    path = ROOT / file
    if not path.exists():
        pytest.skip(f"{file} is not part of the source distribution")
    assert re.findall(pattern, path.read_text(), re.MULTILINE) == [described(field)]
