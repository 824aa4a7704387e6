"""Files that repeat a field of DESCRIPTION agree with it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def field_of_description(field: str) -> str:
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
def test_a_file_agrees_with_description(file, pattern, field):
    path = ROOT / file
    if not path.exists():
        pytest.skip(f"{file} is not part of the source distribution")
    assert re.findall(pattern, path.read_text(), re.MULTILINE) == [field_of_description(field)]
