"""Loops over small steps of torch, run outside Python's lock.

Each step of such a loop is short, and several workers that take them would wait for Python's lock between any two.
TorchScript runs the whole loop without it. It is on its way out of torch; where it is gone the same runs in Python.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch


@cache
def native(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as TorchScript, or as it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.script(function)
    except (AttributeError, RuntimeError):
        return function
