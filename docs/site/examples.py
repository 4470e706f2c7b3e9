"""Run every example of the documentation: Python blocks, doctests and the gallery.

    python docs/site/examples.py

Blocks marked `python` in docs/, each in a fresh name space and an empty folder (RUN and PATH stand
for a short run's folder and for an array file of its certificate); `>>>` examples in docstrings of
the package; scripts in docs/gallery, whose tables must be those that are committed. Ends with exit
code 1 where one fails, and says which.
"""

from __future__ import annotations

import contextlib
import csv
import doctest
import importlib
import io
import math
import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "surefoot"
TOLERANCE = 1e-3
"""Largest relative difference of a number of the gallery from the committed one."""


def blocks() -> list[tuple[str, str]]:
    """Where a Python block stands, and what it says."""
    out = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text()
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
            line = text.count("\n", 0, match.start()) + 1
            out.append((f"{path.relative_to(ROOT)}:{line}", match[1]))
    return out


def small_run(folder: Path) -> tuple[str, str]:
    """A short run's folder and an array file of its certificate."""
    from surefoot.cli import main

    run = folder / "run"
    words = ["train", "trpo", "--env", "Pendulum-v1", "--steps", "4096", "--quiet"]
    assert main([*words, "--run-dir", str(run)]) == 0
    return str(run), str(max((run / "certificate").glob("*.safetensors")))


def run_blocks() -> list[str]:
    """Names of blocks that fail."""
    failed = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run, path = small_run(Path(folder))
        for where, code in blocks():
            try:
                module = ModuleType(where)
                sys.modules[where] = module  # dataclasses look for their module there
                module.__dict__["PATH"] = Path(path)
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(code.replace('"RUN"', repr(run)), module.__dict__)
            except Exception:
                traceback.print_exc()
                failed.append(where)
    return failed


def run_doctests() -> list[str]:
    """Modules whose doctests fail."""
    failed = []
    for path in sorted(SOURCE.rglob("*.py")):
        if ">>>" not in path.read_text():
            continue
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        if doctest.testmod(importlib.import_module(name)).failed:
            failed.append(name)
    return failed


def same(old: Path, new: Path) -> bool:
    """Whether two tables say the same, numbers within the tolerance."""

    def alike(a: str, b: str) -> bool:
        words = a.split(), b.split()
        if len(words[0]) != len(words[1]):
            return False
        for x, y in zip(*words, strict=True):
            try:
                if not math.isclose(float(x), float(y), rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                    return False
            except ValueError:
                if x != y:
                    return False
        return True

    rows = [list(csv.reader(path.open())) for path in (old, new)]
    return len(rows[0]) == len(rows[1]) and all(
        len(a) == len(b) and all(map(alike, a, b)) for a, b in zip(*rows, strict=True)
    )


def run_gallery() -> list[str]:
    """Scripts that fail or draw something else than what is committed."""
    failed = []
    for script in sorted((ROOT / "docs" / "gallery").glob("[!_]*.py")):
        with tempfile.TemporaryDirectory() as out:
            words = [sys.executable, str(script), "--out", out]
            done = subprocess.run(words, env=os.environ | {"MPLBACKEND": "Agg"})
            tables = sorted(Path(out).glob("*.csv"))
            stale = [x.name for x in tables if not same(script.with_name(x.name), x)]
            if done.returncode or not tables or stale:
                failed.append(f"{script.relative_to(ROOT)} {' '.join(stale)}")
    return failed


def main() -> int:
    """Everything; the exit code."""
    os.environ.setdefault("SUREFOOT_CACHE", "off")
    failed = run_blocks() + run_doctests() + run_gallery()
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    print(f"{len(blocks())} blocks, doctests and gallery run, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
