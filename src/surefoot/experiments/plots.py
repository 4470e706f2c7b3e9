"""Pictures of a comparison: learning curves, intervals, performance profile. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.experiments import statistics as st
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
    return {m: f"C{i % 10}" for i, m in enumerate(c.methods)}


def curves(c: Comparison, figure: Any) -> None:
    """A panel an environment: interquartile mean over seeds, its interval, and every run thin."""
    figure.set_size_inches(4.8 * len(c.envs), 3.6)
    for axis, env in zip(figure.subplots(1, len(c.envs), squeeze=False)[0], c.envs, strict=True):
        for m, colour in colours(c).items():
            if not c.results.get((m, env)):
                continue
            k = course(c, m, env)
            for r in c.results[m, env]:
                axis.plot(*np.array(r.curve).T, color=colour, alpha=0.25, linewidth=0.6)
            axis.plot(k.steps, k.iqm, color=colour, label=m)
            axis.fill_between(k.steps, k.low, k.high, color=colour, alpha=0.15, linewidth=0)
        _within_runs(c, env, axis)
        axis.set(title=env, xlabel="environment steps", ylabel="return")
        axis.legend(frameon=False)


def _within_runs(c: Comparison, env: str, axis: Any) -> None:
    """Cut the axis at what was seen: at three seeds an interval can be many times that."""
    heights = [h for m in c.methods for r in c.results.get((m, env), []) for _, h in r.curve]
    if heights and max(heights) > min(heights):
        margin = 0.1 * (max(heights) - min(heights))
        axis.set_ylim(min(heights) - margin, max(heights) + margin)


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
    axis = figure.subplots()
    grid = st.profile_grid([c.scores(m) for m in c.present])
    for m in c.present:
        axis.plot(grid, st.profile(c.scores(m), grid), label=m, color=colours(c)[m])
    score = "normalised score" if c.scale else "return"
    axis.set(xlabel=f"{score} s", ylabel=f"share of runs with {score} > s", ylim=(-0.02, 1.02))
    axis.legend(frameon=False)
