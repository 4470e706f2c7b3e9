"""What every test may ask for: float64, and rank promotion that raises."""

from __future__ import annotations

import gc
import hashlib
import importlib
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from jaxtyping import install_import_hook

# Before anything of the package is imported: shapes and types in its signatures are checked while
# testing.
install_import_hook("surefoot", "typecheck.checked")

# Most of the time of the tests is compilation, which takes a fifth of the time unoptimised, in one
# piece instead of several at once, and by the older emitters of fusions (another jax may not know
# that flag). Read when the backend starts.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# Processes that tests start would compile the package's source every time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Commands run in this process leave its compilation cache alone, and the one of whoever tests.
os.environ["SUREFOOT_CACHE"] = "off"
jax.config.update("jax_numpy_rank_promotion", "raise")


def processor() -> str:
    """The processor in eight letters: compiled code of one kind must not run on another."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = [line for line in lines if line.startswith(("model name", "flags"))][:2] or [
        platform.processor()
    ]
    return hashlib.sha256("".join(model).encode()).hexdigest()[:8]


def pytest_configure(config: pytest.Config) -> None:
    """Keep what is compiled between runs: most of the time of the fast tests is compilation."""
    folder = Path(config.rootpath) / ".pytest_cache" / f"jax-{processor()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish() -> None:
    """Look through fewer objects less often: modules and tests stay, and what tracing makes goes
    without being looked for. It was one second in twenty-five."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


MAPS = 20_000
"""Memory maps of this process above which compiled programs go; Linux allows 65 530."""


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for the length of a test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True, scope="module")
def few_maps() -> Iterator[None]:
    """Let go of compiled programs before they are so many that the system maps no more memory."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
        gc.collect()


def need(module: str) -> Any:
    """A module of an extra: its tests are skipped where it is missing, but never silently in CI."""
    if os.environ.get("CI") == "true":
        with warnings.catch_warnings():  # Box2D warns from C, which as an error ends the process
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    return pytest.importorskip(module)
