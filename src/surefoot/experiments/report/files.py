"""What stands beside the page: every number as CSV, and the charts as PNG where matplotlib is
installed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.experiments.report.chart import HEADER, Chart, look, rows, short, span
from surefoot.experiments.report.figures import Figures
from surefoot.experiments.report.gather import Material
from surefoot.experiments.report.markup import identifier
from surefoot.experiments.report.settings import compared
from surefoot.experiments.report.style import ON_LIGHT
from surefoot.experiments.report.svg import LABELLED
from surefoot.experiments.store import write_whole
from surefoot.experiments.table import csv_text, results_csv

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 2)), (0, (7, 2, 2, 2)))
MARKS = "os^Dv_"
PAGE = "report.html"
OWN = re.compile(
    r"(curves|profile|trust|results|certificates|settings)\.csv|(curves|profile|trust-.+)\.png"
)
"""Names of the files beside a page."""


def tables(m: Material, drawn: Figures) -> dict[str, str]:
    """CSV files by name, only those that have anything in them."""
    charts = {
        "curves.csv": [c for group in drawn.curves.values() for c in group],
        "profile.csv": [drawn.profile] if drawn.profile else [],
        "trust.csv": [c for panel in drawn.panels for c in panel.charts],
    }
    out = {
        name: csv_text(HEADER, (r for c in cs for r in rows(c)))
        for name, cs in charts.items()
        if cs
    }
    if m.comparison.results:
        out["results.csv"] = results_csv(m.comparison)
    certified = [
        (
            x.name,
            x.promise,
            x.bound,
            c.updates,
            c.checked,
            c.recomputed,
            c.above,
            c.largest,
            c.worst,
        )
        for x in m.evidence
        if (c := x.certificate) is not None
    ]
    if certified:
        head = ("run", "promise", "bound", "updates", "checked", "recomputed", "above", "largest")
        out["certificates.csv"] = csv_text((*head, "worst_update"), certified)
    lines = [
        (env, field, said, "yes" if row.differs else "no", value)
        for env, sheet in compared(m).items()
        for field, row in sheet.rows.items()
        for said, value in zip(sheet.columns, row.values, strict=True)
    ]
    out["settings.csv"] = csv_text(("env", "field", "method", "differs", "value"), lines)
    return out


def write(folder: Path, page: str, m: Material, drawn: Figures, paint: bool) -> list[str]:
    """Write the page and all that stands beside it; the names of the files, the page first.
    Pictures, with `paint`, need matplotlib. Files of an earlier report there that are not of this
    one are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {PAGE: page, **tables(m, drawn)}
    names = {*files, *(picture_names(drawn) if paint else [])}
    for path in earlier(folder):
        if path.name not in names:
            path.unlink()
    for name, content in files.items():
        write_whole(folder / name, content)
    return [*files, *(draw(folder, drawn) if paint else [])]


def earlier(folder: Path) -> list[Path]:
    """What an earlier report left beside its page: files of a report's names that the page tells
    of, so that nothing of others is taken for one."""
    page = folder / PAGE
    if not page.is_file():
        return []
    said = page.read_text(encoding="utf-8", errors="replace")
    return [p for p in folder.iterdir() if OWN.fullmatch(p.name) and p.name in said]


# Pictures.


def sheets(drawn: Figures) -> dict[str, tuple[str, list[tuple[str, tuple[Chart, ...]]]]]:
    """File -> its title, and rows of charts each with a name: curves, profile, and the trust panels
    of an environment together."""
    out: dict[str, tuple[str, list[tuple[str, tuple[Chart, ...]]]]] = {}
    curves = [("", group) for group in drawn.curves.values() if group]
    if curves:
        out["curves.png"] = "", curves
    if drawn.profile:
        out["profile.png"] = "", [("", (drawn.profile,))]
    for env in dict.fromkeys(p.env for p in drawn.panels if p.charts):
        here = [(p.method, p.charts) for p in drawn.panels if p.env == env and p.charts]
        out[f"trust-{identifier(env)}.png"] = env, here
    return out


def picture_names(drawn: Figures) -> list[str]:
    """The files that `draw` writes."""
    return list(sheets(drawn))


def draw(folder: Path, drawn: Figures) -> list[str]:
    """Write the charts as PNG; their names."""
    for name, (title, lines) in sheets(drawn).items():
        sheet(folder / name, title, lines)
    return picture_names(drawn)


def sheet(path: Path, title: str, lines: Sequence[tuple[str, tuple[Chart, ...]]]) -> None:
    """Charts in rows as one picture, on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = max(len(charts) for _, charts in lines)
    figure = Figure(layout="constrained", dpi=110, figsize=(4.6 * width, 3.1 * len(lines)))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), width, squeeze=False)
    for (name, charts), row in zip(lines, axes, strict=True):
        for axis, chart in zip(row, charts, strict=False):
            plot(axis, chart)
        for axis in row[len(charts) :]:
            axis.set_axis_off()
        if name:
            row[0].set_ylabel(f"{name}\n{charts[0].y_label}", fontsize=8)
    if title:
        figure.suptitle(title)
    figure.savefig(path, metadata={"Software": None})


def plot(axis: Any, chart: Chart) -> None:
    """A chart in the axes of matplotlib."""
    top, many = span(chart)[1], len(chart.series) > LABELLED
    for s in chart.series:
        hue, dashes, mark = look(s.style)
        colour = ON_LIGHT[hue]
        axis.plot(
            s.x,
            np.minimum(s.y, top),
            label=s.label,
            color=colour,
            linestyle=DASHES[dashes],
            marker=MARKS[mark],
            markevery=max(1, math.ceil(len(s.x) / 5)),
            markersize=4,
            linewidth=1.4,
        )
        if s.low is not None and s.high is not None and not np.isnan(s.low).all():
            low, high = np.minimum(s.low, top), np.minimum(s.high, top)
            axis.fill_between(
                s.x, low, high, color=colour, alpha=0.05 if many else 0.15, linewidth=0
            )
    if chart.bound is not None:
        axis.axhline(chart.bound, color="#b00020", linestyle="--", linewidth=1.2)
        axis.annotate(
            f"{chart.bound_name} {short(chart.bound)}",
            (0.99, chart.bound),
            ha="right",
            va="bottom",
            xycoords=("axes fraction", "data"),
            fontsize=8,
            color="#b00020",
        )
    if chart.lost:
        x = [x for x, _ in chart.lost]
        axis.plot(x, [top] * len(x), "^", color="#b00020", clip_on=False, label=chart.lost_text)
    if chart.log:
        axis.set_yscale("log")
    axis.set_ylim(*span(chart))
    axis.set_title(chart.title, fontsize=8)
    axis.set_xlabel(chart.x_label, fontsize=8)
    axis.set_ylabel(chart.y_label, fontsize=8)
    axis.tick_params(labelsize=8)
    if len(chart.series) > 1 or chart.lost:
        beside: Any = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if many else {}
        axis.legend(frameon=False, fontsize=7, **beside)
