"""Pictures of a comparison: learning curves, intervals, performance profile. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.experiments import statistics as st
from surefoot.experiments.report.chart import Chart, Series
from surefoot.experiments.report.figures import profile as shares
from surefoot.experiments.report.files import plot
from surefoot.experiments.report.style import ON_LIGHT
from surefoot.experiments.table import Comparison, course

NAMES = ("curves.png", "intervals.png", "profile.png")
TITLES = {"iqm": "IQM", "mean": "mean", "median": "median"}


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(c: Comparison, folder: Path) -> list[str]:
    """Write the three pictures into a folder; their names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for name, paint in zip(NAMES, (curves, intervals, profile), strict=True):
        figure = Figure(layout="constrained", dpi=120)
        FigureCanvasAgg(figure)
        paint(c, figure)
        figure.savefig(folder / name)
    return list(NAMES)


def colours(c: Comparison) -> dict[str, str]:
    """A colour a method, the same in every picture."""
    return {m: ON_LIGHT[i % len(ON_LIGHT)] for i, m in enumerate(c.methods)}


def curves(c: Comparison, figure: Any) -> None:
    """A panel an environment: interquartile mean over seeds, its interval, and every run thin."""
    figure.set_size_inches(4.8 * len(c.envs), 3.6)
    for axis, env in zip(figure.subplots(1, len(c.envs), squeeze=False)[0], c.envs, strict=True):
        series, heights = list[Series](), list[float]()
        for i, (m, colour) in enumerate(colours(c).items()):
            seen = [r.curve for r in c.results.get((m, env), [])]
            if not seen:
                continue
            for curve in seen:
                axis.plot(*np.array(curve).T, color=colour, alpha=0.25, linewidth=0.6)
                heights += [h for _, h in curve]
            k = course(seen)
            series.append(Series(m, k.steps, k.iqm, k.low, k.high, style=i))
        title = env if len(series) > 1 else " on ".join([*(s.label for s in series), env])
        # Cut at what was seen: at three seeds an interval can be many times that.
        limits = (min(heights), max(heights)) if heights else None
        plot(
            axis,
            Chart("curves", title, "environment steps", "return", tuple(series), limits=limits),
        )


def intervals(c: Comparison, figure: Any) -> None:
    """A panel an aggregate: a point and its 95 % interval for every method."""
    figure.set_size_inches(10, 1.2 + 0.4 * len(c.present))
    axes = figure.subplots(1, len(st.AGGREGATES), sharey=True)
    order = list(reversed(c.present))
    for axis, name in zip(axes, st.AGGREGATES, strict=True):
        for i, m in enumerate(order):
            got = st.estimate(c.scores(m), name)
            low, high = got.interval()
            if not np.isnan(low):
                axis.plot([low, high], [i, i], color=colours(c)[m], linewidth=6, alpha=0.35)
            axis.plot([got.value], [i], "o", color=colours(c)[m])
        axis.set(title=TITLES[name], yticks=range(len(order)), yticklabels=order)
        axis.set_ylim(-0.6, len(order) - 0.4)
    figure.supxlabel("normalised score" if c.scale else "return", fontsize="medium")


def profile(c: Comparison, figure: Any) -> None:
    """Share of runs with a score above each threshold, every environment counting the same."""
    figure.set_size_inches(5, 3.6)
    chart = shares(c)
    if chart is not None:
        plot(figure.subplots(), chart)
