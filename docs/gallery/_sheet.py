"""What the scripts of the gallery share: a table of rows as CSV, and a figure that is the same
bytes each time."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
BLUE, RED, GREEN, GREY, YELLOW = "#1b6ca8", "#c8553d", "#588157", "#888888", "#d9a441"


def text(x: Any) -> str:
    """A cell: numbers with six digits, nothing where there is none."""
    if isinstance(x, float) and x != x:
        return ""
    return f"{float(x) + 0.0:.6g}" if isinstance(x, float) or hasattr(x, "dtype") else str(x)


def write(rows: Rows, path: Path) -> None:
    """Rows of the same keys as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([text(x) for x in row.values()] for row in rows)


def columns(rows: Rows, *names: str, **where: Any) -> list[list[Any]]:
    """Some columns of the rows that have the given values."""
    kept = [r for r in rows if all(r[k] == v for k, v in where.items())]
    return [[r[name] for r in kept] for name in names]


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing SVG with the same bytes each time."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams |= {"svg.hashsalt": "surefoot", "svg.fonttype": "none", "font.size": 9}
    return pyplot


def main(script: str, doc: str, rows: Callable[[], Rows], draw: Callable[[Any, Rows], Any]) -> None:
    """Write NAME.csv and, with matplotlib, NAME.svg beside a script, or into --out."""
    here = Path(script).resolve()
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=form)
    parser.add_argument("--out", type=Path, default=here.parent)
    out = parser.parse_args().out / here.stem
    table = rows()
    write(table, out.with_suffix(".csv"))
    try:
        plt = pyplot()
    except ModuleNotFoundError as error:
        print(f"{out.stem}.svg is not drawn: {error}; pip install surefoot[plots]")
        return
    figure = draw(plt, table)
    figure.savefig(out.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
