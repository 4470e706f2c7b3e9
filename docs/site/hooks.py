"""What mkdocs does not do by itself: pages made from files outside docs/, the code of the update on
every method's page, and a page of the public names."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {
    "README.md": "readme.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results/learning.md": "learning.md",
    "benchmarks/results/compare/table.md": "comparison.md",
    "benchmarks/results/first_order/asked.md": "asked.md",
    "benchmarks/results/first_order/cost.md": "cost.md",
    "tests/PLANTED.md": "planted.md",
}
"""Files of the repository that become pages."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
HEADING = "## The algorithm, and the code"


def beside(name: str) -> ModuleType:
    """A file of this folder as a module."""
    spec = importlib.util.spec_from_file_location(
        f"site_{name}", Path(__file__).with_name(f"{name}.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


public, source = beside("public"), beside("source")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from elsewhere."""
    lacking = public.undocumented()
    if lacking:
        raise PluginError("without a docstring: " + ", ".join(lacking))
    for source, page in OUTSIDE.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "api.md", content=public.page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Set links right and show the code."""
    here = page.file.src_uri
    written = next((s for s, p in OUTSIDE.items() if p == here), f"docs/{here}")
    markdown = LINK.sub(lambda m: link(m, written, here), markdown)
    if here.startswith("methods/"):
        markdown = with_code(markdown, Path(here).stem)
    return markdown


def link(found: re.Match[str], written: str, here: str) -> str:
    """A link as the site has it: to a page, to a file below docs/, or the bare name of a file of
    the repository. `written` is the file that it stands in."""
    picture, text, target, anchor = found.groups()
    if "://" in target:
        return found[0]
    path = os.path.normpath(os.path.join(os.path.dirname(written), target))
    if path in OUTSIDE:
        to = OUTSIDE[path]
    elif path.startswith("docs/") and (ROOT / path).exists():
        to = path.removeprefix("docs/")
    elif (ROOT / path).exists():
        return f"{text} (`{path}`)"
    else:
        return found[0]  # strict: mkdocs says what is wrong
    to = os.path.relpath(to, os.path.dirname(here) or ".")
    return f"{picture}[{text}]({to}{anchor or ''})"


def with_code(markdown: str, name: str) -> str:
    """A method's page with the source of its update where the section on the algorithm ends."""
    from surefoot.methods import METHODS
    from surefoot.wrappers import WRAPPERS

    entry = METHODS.get(name) or {k.lower(): v for k, v in WRAPPERS.items()}.get(name)
    if entry is None:
        return markdown
    if HEADING not in markdown:
        raise PluginError(f"docs/methods/{name}.md has no section {HEADING!r}")
    module = entry.module if hasattr(entry, "module") else entry
    record = entry.record if hasattr(entry, "record") else None
    before, after = markdown.split(HEADING, 1)
    section, *rest = re.split(r"(?m)^(?=## )", after, maxsplit=1)
    title, shown = f"{module.replace('.', '/')}.py", source.code(module, record)
    code = f'\n```python title="{title}"\n{shown}\n```\n\n'
    return before + HEADING + section + code + "".join(rest)
