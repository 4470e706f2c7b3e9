"""The tables of docs/reproduce.md, from the data.

python -m surefoot.experiments.reproduce.pages docs/reproduce.md        # writes them anew
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from surefoot.experiments.reproduce.items import Task
from surefoot.experiments.reproduce.papers import all_papers
from surefoot.experiments.reproduce.versions import PHYSICS, VERSIONS
from surefoot.experiments.table import Table, markdown


def items() -> Table:
    """A row an item: what it is made of, and its quick part."""
    rows = [["paper", "item", "what", "tasks", "methods", "seeds", "steps", "`--quick`"]]
    for paper in all_papers().values():
        for item in paper.items:
            steps = sorted({t.steps for t in item.tasks})
            stated = "" if item.steps_stated else " (our choice)"
            quick = item.quick
            rows.append(
                [
                    paper.name,
                    ", also ".join(f"`{name}`" for name in (item.name, *item.also)),
                    item.title,
                    ", ".join(t.plain for t in item.tasks),
                    str(len(item.entrants)),
                    str(item.seeds),
                    " and ".join(f"{n:,}" for n in steps) + stated,
                    f"{_parts(quick.tasks)}, {len(quick.labels) or len(item.entrants)} methods, "
                    f"{quick.seeds} seeds",
                ]
            )
    return rows


def _parts(tasks: tuple[Task, ...]) -> str:
    return ", ".join(f"{t.plain} at {t.steps:,}" for t in tasks)


def later() -> Table:
    """A row an item that is not there yet."""
    rows = [["paper", "item", "what", "why not yet"]]
    for paper in all_papers().values():
        rows += [[paper.name, f"`{x.name}`", x.title, x.why] for x in paper.later]
    return rows


def versions() -> Table:
    """A row a task: then, now, what changed, what to expect."""
    rows = [["now", "then", "what changed", "what to expect"]]
    for v in VERSIONS.values():
        then = "; ".join(f"{paper}: {name}" for paper, name in sorted(v.then.items()))
        own = [c for c in v.changed if c != PHYSICS]
        said = "; ".join(own) or ("the simulator alone" if v.changed else "nothing")
        rows.append([v.now, then, said, v.expect])
    return rows


TABLES = {"items": items, "later": later, "versions": versions}


def written(text: str) -> str:
    """A page with every table between its two marks made anew."""
    for name, table in TABLES.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        body = "\n" + "\n".join(markdown(table())) + "\n\n"
        text = marks.sub(lambda m, body=body: m[1] + body + m[2], text)
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(written(page.read_text()))
