"""Loops over small torch operations, run outside Python's lock.

Each step of such a loop is short, so several workers would wait for Python's lock between any two steps. TorchScript
runs the whole loop without the lock. Torch deprecates TorchScript; without it, the same function runs in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from .forks import warnings_ignored


@cache
def native(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as TorchScript, or unchanged where TorchScript cannot compile it."""
    try:
        with warnings_ignored(DeprecationWarning):
            return torch.jit.script(function)
    except (AttributeError, RuntimeError):
        return function
