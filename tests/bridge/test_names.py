"""The two languages have the same functions with the same arguments in the same order."""

from __future__ import annotations

import inspect
import json
from importlib.metadata import requires

import pytest

import mcdropout
from mcdropout.predictions.uncertainty import WORDS

PUBLIC = sorted(name for name in mcdropout.__all__ if name.startswith("mc_"))

# Functions that exist only in R, with the reason.
ONLY_R = {
    "mc_python_available": "R users need to know whether Python is available",
}

FORMALS = """
names <- grep("^mc_", getNamespaceExports("mcdropout"), value = TRUE)
arguments <- function(name) as.character(names(formals(getExportedValue("mcdropout", name))))
cat(jsonlite::toJSON(sapply(names, arguments, simplify = FALSE)))
"""


@pytest.fixture(scope="module")
def r_functions(rscript) -> dict[str, list[str]]:
    """The public functions of R with their arguments, without `...`, which only forces options to be named."""
    functions = json.loads(rscript(FORMALS))
    return {name: [argument for argument in functions[name] if argument != "..."] for name in functions}


@pytest.mark.parametrize("name", PUBLIC)
def test_r_has_the_same_function_with_the_same_arguments(name, r_functions):
    assert r_functions[name] == list(inspect.signature(getattr(mcdropout, name)).parameters)


def test_r_has_no_function_that_python_lacks(r_functions):
    assert set(r_functions) - set(PUBLIC) <= set(ONLY_R)


def test_every_function_that_is_listed_as_only_in_r_exists(r_functions):
    assert set(ONLY_R) <= set(r_functions)


def test_r_requires_the_same_python_packages(rscript):
    core = {requirement for requirement in requires("mcdropout") or [] if "extra ==" not in requirement}
    assert set(json.loads(rscript("cat(jsonlite::toJSON(mcdropout:::python_packages))"))) == core


def test_both_languages_have_the_same_words_for_the_measures_of_uncertainty(rscript):
    table = json.loads(rscript("cat(jsonlite::toJSON(mcdropout:::measure_table))"))
    assert table == {name: [words] if unit is None else [words, unit] for name, (words, unit) in WORDS.items()}
