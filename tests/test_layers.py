"""The import rule: a module may import only from rows below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import surefoot

ROOT = Path(surefoot.__file__).parent
ROWS = [
    ["checks", "types", "verifier"],
    ["distributions"],
    ["networks", "normalize"],
    [
        "sgd",
        "curvature",
        "projection",
        "value",
        "advantages",
        "rewards",
        "surrogates",
        "measure",
        "divergences",
        "multipliers",
        "memory",
        "ranges",
        "repair",
    ],
    ["exact"],
    ["wrappers"],
    ["methods"],
    ["envs"],
    ["rollouts"],
    ["train"],
    ["config"],
    [
        "presets",
        "loops",
        "evaluate",
        "checkpoint",
        "certificate",
        "sinks",
        "provenance",
        "runs",
        "incidents",
    ],
    ["build", "agent", "console", "replay", "figures"],
    ["experiments"],
    ["cli", "__main__"],
]
"""From the bottom. Within a row modules may import each other, but methods may not."""
RANK = {name: i for i, row in enumerate(ROWS) for name in row}
ABOVE_METHODS = {"envs", "rollouts", "train", "evaluate", "loops"}


def modules():
    """Every module of the package as (its parts, its file)."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield parts[:-1] if parts[-1] == "__init__" else parts, path


def imported(path, parts):
    """Parts of every surefoot module that a file imports, wherever in the file; annotations are
    imports too."""
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            head, *rest = name.split(".")
            if head == "surefoot" and rest:
                out.add(tuple(rest))
    return out


MODULES = [m for m in modules() if m[0]]


@pytest.mark.parametrize(("parts", "path"), MODULES, ids=[".".join(p) for p, _ in MODULES])
def test_imports_point_down(parts, path):
    here = parts[0]
    assert here in RANK, f"{here} has no row yet: add it to ROWS and to ARCHITECTURE.md"
    for target in imported(path, parts):
        there = target[0]
        if there == here or there not in RANK:
            continue  # the same package, or a public name of `surefoot` itself
        assert RANK[there] <= RANK[here], (
            f"{'.'.join(parts)} imports {'.'.join(target)}, which is above it"
        )


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda p: p.stem)
def test_methods_know_neither_each_other_nor_where_data_comes_from(path):
    for target in imported(path, ("methods", path.stem)):
        assert target[0] != "methods" and target[0] not in ABOVE_METHODS, (
            f"{path.name} imports {'.'.join(target)}"
        )


@pytest.mark.parametrize("name", ROWS[0])
def test_the_bottom_imports_nothing_of_ours(name):
    assert {t[0] for t in imported(ROOT / f"{name}.py", (name,))} <= {"checks", "types"} - {name}


def test_the_table_of_methods_imports_no_method():
    tree = ast.parse((ROOT / "methods" / "__init__.py").read_text())
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert all(not n.startswith("surefoot") for n in names)


def test_no_private_name_of_jax():
    for _, path in modules():
        assert "jax._src" not in path.read_text(), path
