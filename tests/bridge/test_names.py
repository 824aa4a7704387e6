"""The two languages have the same functions with the same arguments in the same order."""

from __future__ import annotations

import inspect
import json
from importlib.metadata import requires

import pytest

import mcdropout

PUBLIC = sorted(name for name in mcdropout.__all__ if name.startswith("mc_"))

# What R alone has, and why.
ONLY_R = {
    "mc_python_available": "R users need to know whether Python is there",
}

FORMALS = """
names <- grep("^mc_", getNamespaceExports("mcdropout"), value = TRUE)
one <- function(name) as.character(names(formals(getExportedValue("mcdropout", name))))
cat(jsonlite::toJSON(sapply(names, one, simplify = FALSE)))
"""


@pytest.fixture(scope="module")
def r_functions(rscript) -> dict[str, list[str]]:
    """R's public functions, each with its arguments; `...` keeps options by name and stands for nothing."""
    found = json.loads(rscript(FORMALS))
    return {name: [argument for argument in found[name] if argument != "..."] for name in found}


@pytest.mark.parametrize("name", PUBLIC)
def test_r_has_the_same_function_with_the_same_arguments(name, r_functions):
    assert r_functions[name] == list(inspect.signature(getattr(mcdropout, name)).parameters)


def test_r_has_no_function_that_python_lacks(r_functions):
    assert set(r_functions) - set(PUBLIC) <= set(ONLY_R)


def test_no_exception_is_out_of_date(r_functions):
    assert set(ONLY_R) <= set(r_functions)


def test_r_asks_for_the_same_python_packages(rscript):
    core = {requirement for requirement in requires("mcdropout") or [] if "extra ==" not in requirement}
    assert set(json.loads(rscript("cat(jsonlite::toJSON(mcdropout:::python_packages))"))) == core


def test_both_languages_name_the_measures_of_uncertainty_alike(rscript):
    from mcdropout.predictions.uncertainty import WORDS

    found = json.loads(rscript("cat(jsonlite::toJSON(mcdropout:::measure_table))"))
    assert found == {name: [words] if unit is None else [words, unit] for name, (words, unit) in WORDS.items()}
