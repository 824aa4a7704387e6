"""Docstrings of public names: they have the Google form, match the signature, and have examples that run."""

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
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]
CLASSES = [name for name, value in PUBLIC.items() if inspect.isclass(value) and not issubclass(value, Exception)]


def sections(name: str) -> dict[str, str]:
    """The sections of a docstring. The key "" has the text before the first section."""
    text = inspect.getdoc(PUBLIC[name]) or ""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(section: str) -> list[str]:
    """The names that a section describes."""
    return re.findall(r"^    (\w+): ", section, flags=re.MULTILINE)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_of_a_function_has_its_arguments_result_and_errors(name):
    text_of = sections(name)
    order = [section for section in SECTIONS if section in text_of]
    assert list(text_of) == ["", *order]
    assert text_of[""].split("\n\n")[0].rstrip().endswith((".", ":"))
    parameters = list(inspect.signature(PUBLIC[name]).parameters)
    assert entries(text_of.get("Args", "")) == parameters
    assert "Examples" in text_of
    returns = inspect.signature(PUBLIC[name]).return_annotation
    assert ("Returns" in text_of) == (returns not in ("None", None))
    assert "Raises" in text_of or not parameters


@pytest.mark.parametrize("name", CLASSES)
def test_a_docstring_of_a_class_has_only_attributes_that_exist(name):
    text_of = sections(name)
    assert {"Args", "Attributes", "Examples"} & set(text_of)
    for attribute in entries(text_of.get("Attributes", "")):
        of_the_class = hasattr(PUBLIC[name], attribute) or attribute in inspect.get_annotations(PUBLIC[name])
        assert of_the_class or re.search(rf"self\.{attribute}\b", inspect.getsource(PUBLIC[name])), attribute


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg", force=True)
    examples = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    output: list[str] = []
    with warnings.catch_warnings(), np.printoptions(legacy=False):
        warnings.simplefilter("error")
        for example in examples:
            runner.run(example, out=output.append)
    assert runner.failures == 0, "".join(output)
    assert runner.tries > 0 or "Examples" not in sections(name)
