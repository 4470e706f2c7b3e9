"""What every test may ask for: float64, and rank promotion that raises."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for the length of a test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def need(module: str) -> Any:
    """A module of an extra: its tests are skipped where it is missing, but never silently in CI."""
    if os.environ.get("CI") == "true":
        return importlib.import_module(module)
    return pytest.importorskip(module)
