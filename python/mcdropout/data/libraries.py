"""Whether a value belongs to a library, without importing that library."""

from __future__ import annotations

import sys
from types import ModuleType


def _loaded(module: str) -> ModuleType | None:
    return sys.modules.get(module)


def is_a(value: object, module: str, name: str) -> bool:
    """Whether `value` is of a class of a module, without importing that module."""
    loaded = _loaded(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def is_pandas(value: object) -> bool:
    """Whether `value` is a container of pandas."""
    return any(is_a(value, "pandas", name) for name in ("DataFrame", "Series", "Index", "Categorical"))
