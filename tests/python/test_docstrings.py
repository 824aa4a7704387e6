"""Docstrings of public names: Google form, true to the signature, with examples that run."""

from __future__ import annotations

import doctest
import inspect
import re
import warnings

import matplotlib as mpl
import numpy as np
import pytest

import mcdropout as mcd

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "References", "Examples")
PUBLIC = {name: getattr(mcd, name) for name in mcd.__all__}
FUNCTIONS = [name for name, one in PUBLIC.items() if inspect.isfunction(one)]
CLASSES = [name for name, one in PUBLIC.items() if inspect.isclass(one) and not issubclass(one, Exception)]


def sections(name: str) -> dict[str, str]:
    """The sections of a docstring; "" has what stands before them."""
    text = inspect.getdoc(PUBLIC[name]) or ""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(section: str) -> list[str]:
    """The names that a section describes."""
    return re.findall(r"^    (\w+): ", section, flags=re.MULTILINE)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_returns_and_raises(name):
    found = sections(name)
    order = [section for section in SECTIONS if section in found]
    assert list(found) == ["", *order]
    assert found[""].split("\n\n")[0].rstrip().endswith((".", ":"))
    takes = list(inspect.signature(PUBLIC[name]).parameters)
    assert entries(found.get("Args", "")) == takes
    assert "Examples" in found
    returns = inspect.signature(PUBLIC[name]).return_annotation
    assert ("Returns" in found) == (returns not in ("None", None))
    assert "Raises" in found or not takes


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_says_what_it_has(name):
    found = sections(name)
    assert {"Args", "Attributes", "Examples"} & set(found)
    for attribute in entries(found.get("Attributes", "")):
        known = hasattr(PUBLIC[name], attribute) or attribute in inspect.get_annotations(PUBLIC[name])
        assert known or re.search(rf"self\.{attribute}\b", inspect.getsource(PUBLIC[name])), attribute


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg", force=True)
    examples = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    with warnings.catch_warnings(), np.printoptions(legacy=False):
        warnings.simplefilter("error")
        for one in examples:
            runner.run(one, out=said.append)
    assert runner.failures == 0, "".join(said)
    assert runner.tries > 0 or "Examples" not in sections(name)
