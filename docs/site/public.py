"""The public names of the package, from its source: what is documented, and the page of them."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "src" / "surefoot"


def homes() -> dict[str, str]:
    """Public name -> module it lives in, below surefoot."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_HOMES":
            return ast.literal_eval(node.value)
    raise LookupError("surefoot/__init__.py has no table of homes")


def source(module: str) -> Path:
    """The file of a module below surefoot."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def undocumented() -> list[str]:
    """Public names, their public methods and their fields that nobody has described."""
    out = []
    for name, module in sorted(homes().items()):
        body = ast.parse(source(module).read_text()).body
        found = [n for n in body if getattr(n, "name", None) == name]
        if not found:
            out.append(f"{module}.{name} (not there)")
        for node in found:
            out += [f"{module}.{name}{rest}" for rest in lacking(node)]
    return out


def lacking(node: ast.AST) -> list[str]:
    """What of a class or function has no description: "" is itself."""
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        return []
    out = [] if ast.get_docstring(node) else [""]
    if isinstance(node, ast.ClassDef):
        for item, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                out += [] if ast.get_docstring(item) else [f".{item.name}"]
            field = isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            if field and not described(item, following):
                out.append(f".{item.target.id}")
    return out


def described(field: ast.AnnAssign, following: ast.stmt | None) -> bool:
    """Whether a field needs no description or has one: a string below it, which may serve several
    fields above it in a row of class variables."""
    name = getattr(field.target, "id", "")
    if name.startswith("_") or "ClassVar" in ast.unparse(field.annotation):
        return True
    return isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)


def page() -> str:
    """Markdown with a directive for each name."""
    lines = ["# Public names", "", "`from surefoot import ...`", ""]
    for name, module in sorted(homes().items(), key=lambda x: (x[1].split(".")[0], x[0])):
        lines += [f"::: surefoot.{module}.{name}", ""]
    return "\n".join(lines)
