"""The code of functions that a user gives, to recognise them: in one process, and in another one."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType


def recipe_of(optimizer: object) -> object:
    """The code of an optimizer function and the values that it uses.

    A loop that defines the function again in each round creates a new object each time, with an equal recipe.
    """
    if isinstance(optimizer, partial):
        return partial, recipe_of(optimizer.func), optimizer.args, optimizer.keywords
    if not isinstance(optimizer, FunctionType):
        return optimizer
    try:
        used = inspect.getclosurevars(optimizer)
    except ValueError:  # a variable without a value so far
        return optimizer
    return optimizer.__code__, optimizer.__defaults__, optimizer.__kwdefaults__, used.nonlocals, used.globals


def are_equal(left: object, right: object) -> bool:
    """Whether two values of any type are equal."""
    try:
        return bool(left == right)
    except (ValueError, TypeError, RuntimeError):  # a comparison of arrays is an array
        return False


def fingerprint_of_function(function: object) -> list[str] | None:
    """Python's version and a fingerprint of a function's code and the constants that it uses; of None, None.

    It misses values in the lists, arrays and objects that the function uses, because a run may change them.
    """
    if function is None:
        return None
    words = repr(_described(function, ())).encode(errors="backslashreplace")
    return [".".join(map(str, sys.version_info[:2])), hashlib.sha256(words).hexdigest()]


def _described(value: object, outer: tuple[object, ...]) -> object:
    """What stays the same in every process, as tuples of words."""
    if any(value is part for part in outer):  # a function that calls itself
        return "itself"
    outer = (*outer, value)
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return repr(value)
    if isinstance(value, tuple):
        return tuple(_described(part, outer) for part in value)
    if isinstance(value, frozenset):
        return sorted(repr(part) for part in value)
    if isinstance(value, partial):
        return "partial", _described((value.func, value.args, tuple(sorted(value.keywords.items()))), outer)
    if isinstance(value, MethodType):
        return "method", _described((value.__func__, value.__self__), outer)
    if isinstance(value, CodeType):
        return value.co_code.hex(), value.co_names, _described(value.co_consts, outer)
    if isinstance(value, FunctionType):
        if isinstance(getattr(value, "recipe", None), str):  # of a function of R
            return vars(value)["recipe"]
        recipe = recipe_of(value)
        code, *used = recipe if isinstance(recipe, tuple) else (value.__code__,)
        named = [tuple(sorted(part.items())) if isinstance(part, dict) else part for part in used]
        return "function", _described((code, *named), outer)
    if isinstance(value, (type, ModuleType, BuiltinFunctionType)):
        return getattr(value, "__module__", ""), value.__name__
    return "object", _described((type(value), vars(type(value)).get("__call__")), outer)
