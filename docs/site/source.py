"""The source that a method's page shows: its `update`, after what it calls of the same record."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {"report"}
"""Called by updates, and no part of the algorithm."""

Functions = dict[str, ast.FunctionDef]


def code(module: str, record: str | None) -> str:
    """Functions of a record, dedented, in the order of the file with `update` last; of a module's
    first record that has an `update` where none is named."""
    text = (ROOT / "src" / Path(*module.split(".")).with_suffix(".py")).read_text()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and record in (None, node.name):
            own = {x.name: x for x in node.body if isinstance(x, ast.FunctionDef)}
            if "update" in own:
                parts = [*(own[name] for name in own if name in called(own)), own["update"]]
                return "\n\n".join(lines(text, part) for part in parts)
    raise LookupError(f"{module} has no update of {record}")


def called(own: Functions) -> set[str]:
    """Names of the functions that `update` comes to by `self.NAME`, at first or second hand."""
    found, ask = set(), ["update"]
    while ask:
        for node in ast.walk(own[ask.pop()]):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "self":
                new = {node.attr} & set(own) - found - LEFT_OUT
                found |= new
                ask += new
    return found - {"update"}


def lines(text: str, part: ast.FunctionDef) -> str:
    """The lines of a method, with its decorators, dedented."""
    first = min([part.lineno, *(x.lineno for x in part.decorator_list)])
    return "\n".join(
        line.removeprefix("    ") for line in text.splitlines()[first - 1 : part.end_lineno]
    )
