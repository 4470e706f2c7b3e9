"""What pictures of a run share: colours, columns of the metrics, a file and its table."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot.checks import EnvironmentFault

Table = list[dict[str, Any]]

INK = "#7a7a7a"
"""Of text, frames and everything that is no data."""
BLUE, RED, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
"""Of Okabe and Ito's palette, which is told apart with every kind of colour vision, those whose
contrast is at least 3 on white and on the dark pages of documentation."""
COLOUR_MAP = "cividis"
SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
    # Nothing behind the picture, so that it stands on light pages and on dark ones.
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
    # The same bytes each time, and text that can be searched.
    "svg.hashsalt": "surefoot",
    "svg.fonttype": "none",
}


class Picture(NamedTuple):
    """A picture, and the numbers in it."""

    name: str
    """Its files' name, without an ending."""
    rows: Table
    """What is drawn; all rows have the same keys."""
    paint: Callable[[Any], None]
    """Draws it into a matplotlib figure."""


def write(picture: Picture, folder: Path, form: str) -> list[Path]:
    """Write a picture as `svg` or `png`, and its table as CSV; the two paths."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn, table = folder / f"{picture.name}.{form}", folder / f"{picture.name}.csv"
    write_table(picture.rows, table)
    with rc_context(SETTINGS):
        figure = Figure(dpi=150)
        picture.paint(figure)
        figure.savefig(drawn, metadata={"Date": None} if form == "svg" else None)
    return [drawn, table]


def write_table(rows: Table, path: Path) -> None:
    """Rows of the same keys as CSV, whole or not at all; what is not known is an empty cell."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows(["" if x is None else x for x in row.values()] for row in rows)
    temporary.replace(path)


def picked(rows: Sequence[dict[str, Any]], **columns: str) -> Table:
    """A table of some columns under other names, `update` and `env_steps` before them."""
    names = {"update": "update", "env_steps": "env_steps"} | columns
    return [{new: row.get(old) for new, old in names.items()} for row in rows]


def column(rows: Table, name: str) -> np.ndarray:
    """A column as float64, [rows]; NaN where there is no number. Raises `EnvironmentFault` where
    there is something else."""
    try:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)
    except (TypeError, ValueError) as error:
        raise EnvironmentFault(f"metrics.jsonl: {name} is not a number: {error}") from error


def log_where_it_can(axis: Any, *heights: np.ndarray) -> None:
    """A logarithmic axis, unless there is nothing above zero to show on one."""
    if any(np.any(h[np.isfinite(h)] > 0) for h in heights):
        axis.set_yscale("log")


def moving_mean(x: np.ndarray, width: int) -> np.ndarray:
    """The mean over `width` neighbours, fewer at the ends; entries that are NaN do not count."""
    known = np.isfinite(x)
    kernel = np.ones(max(1, min(width, len(x))))
    total = np.convolve(np.where(known, x, 0.0), kernel, "same")
    count = np.convolve(known.astype(float), kernel, "same")
    return np.where(count > 0.5, total / np.maximum(count, 1), np.nan)
