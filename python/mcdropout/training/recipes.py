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

    Functions of its own module that it calls count with their code, others with their names. Values in lists, arrays
    and objects do not count, because a run may change them.
    """
    if function is None:
        return None
    words = repr(_described(function, getattr(function, "__module__", None), [])).encode(errors="backslashreplace")
    return [".".join(map(str, sys.version_info[:2])), hashlib.sha256(words).hexdigest()]


def _described(value: object, module: str | None, seen: list[FunctionType]) -> object:
    """What stays the same in every process, as tuples of words. seen: functions that are described already."""

    def parts(*values: object) -> tuple[object, ...]:
        return tuple(_described(part, module, seen) for part in values)

    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return repr(value)
    if isinstance(value, tuple):
        return parts(*value)
    if isinstance(value, frozenset):
        return sorted(repr(part) for part in value)
    if isinstance(value, partial):
        return parts(value.func, value.args, *sorted(value.keywords.items()))
    if isinstance(value, MethodType):
        return parts(value.__func__, value.__self__)
    if isinstance(value, CodeType):
        return value.co_code.hex(), value.co_names, parts(*value.co_consts)
    if isinstance(value, FunctionType) and isinstance(vars(value).get("recipe"), str):  # of a function of R
        return vars(value)["recipe"]
    if isinstance(value, FunctionType) and value.__module__ == module and value not in seen:
        seen.append(value)
        recipe = recipe_of(value)
        code, *used = recipe if isinstance(recipe, tuple) else (value.__code__,)
        return parts(code, *(tuple(sorted(part.items())) if isinstance(part, dict) else part for part in used))
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, ModuleType)):
        return getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__)
    return parts(type(value), vars(type(value)).get("__call__"))
