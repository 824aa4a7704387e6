"""Packages that only some tests need."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest


def import_or_skip(name: str) -> Any:
    """The module of this name. Without it the test is skipped; in CI, which must have it, the test fails."""
    if os.environ.get("CI") == "true":
        return import_module(name)
    return pytest.importorskip(name)
