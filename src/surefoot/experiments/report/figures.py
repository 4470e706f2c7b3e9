"""The charts of a report: learning curves, performance profile, the trust panel over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from surefoot.experiments import statistics as st
from surefoot.experiments import table as tb
from surefoot.experiments.course import Column, pooled
from surefoot.experiments.report.chart import Chart, Series
from surefoot.experiments.report.evidence import Evidence
from surefoot.experiments.report.gather import Material
from surefoot.experiments.report.markup import identifier
from surefoot.types import PROMISES

POINTS = 120
"""Most points of a line."""
SEEDS_BAND = "95 % interval of the interquartile mean over seeds, at each point by itself"
UPDATES_BAND = "smallest to largest of any update of any seed"
BOUNDED = {
    "kl_mean": "mean over states of KL(old, new)",
    "kl_max": "worst state of KL(old, new)",
    "kl_reverse": "mean over states of KL(new, old)",
    "kl_reverse_max": "worst state of KL(new, old)",
    "projection_share": "share of its bound that KL(projected, old) takes, worst state",
}
"""Columns that a promise may be about, in words."""
BOUND_ON = {"kl_mean": "the mean", "kl_max": "each state"}
"""Those that the chart of the KL shows, as it names them."""
REPAIRS = {
    "backtracks": "backtracks",
    "fixpo_steps": "fix-up steps",
    "fixup_tries": "fix-up tries",
    "papi_eta": "share of the way",
}


@dataclass(frozen=True)
class Panel:
    """The trust panel of a cell."""

    method: str
    env: str
    charts: tuple[Chart, ...]
    """Empty where no run of the cell has its folder, or a course in the store."""
    runs: int
    """Runs that the charts are of."""
    asked: int
    """Runs of the cell."""


@dataclass(frozen=True)
class Figures:
    """All charts of a report."""

    curves: dict[str, tuple[Chart, ...]] = field(default_factory=dict)
    """Environment -> against steps, and against seconds; those that have anything to show."""
    profile: Chart | None = None
    """None where there is one run, or no method with a score in every environment."""
    panels: tuple[Panel, ...] = ()


def figures(m: Material) -> Figures:
    """The charts of a report."""
    styles = {method: i for i, method in enumerate(m.comparison.methods)}
    c = m.comparison
    runs = sum(len(c.results[x, e]) for x in c.present for e in c.envs)
    return Figures(
        curves={e: learning(m, e, i, styles) for i, e in enumerate(m.comparison.envs)},
        profile=profile(m.comparison) if runs > 1 else None,
        panels=tuple(panel(key, cell, i) for i, (key, cell) in enumerate(m.cells.items())),
    )


# Learning curves.


def learning(m: Material, env: str, number: int, styles: dict[str, int]) -> tuple[Chart, ...]:
    """Return against steps and against seconds: the interquartile mean over seeds."""
    cells = {method: runs for (method, e), runs in m.cells.items() if e == env}
    out = []
    for word, label in [("steps", "environment steps"), ("seconds", "seconds of training")]:
        series, seen = [], list[np.ndarray]()
        for method, runs in cells.items():
            curves = [x.curve for x in runs if len(x.curve)]
            if word == "seconds":
                curves = [c for c in curves if np.isfinite(c).all()]
            if curves:
                series.append(average(method, curves, word, styles[method]))
                seen += [c[:, 2] for c in curves]
        if not series:
            continue
        heights = np.concatenate(seen)
        chart = Chart(
            name=identifier("return", word, str(number)),
            title=f"Return against {word}, {env}",
            x_label=label,
            y_label="mean return of the last 100 training episodes",
            series=tuple(series),
            band=SEEDS_BAND if any(s.low is not None for s in series) else "",
            limits=(float(heights.min()), float(heights.max())),
        )
        out.append(chart)
    return tuple(out)


def average(method: str, curves: Sequence[np.ndarray], axis: str, style: int) -> Series:
    """One line over seeds, with its interval where there are several.

    Seeds are averaged at the same number of steps; against seconds it is drawn at the median time
    they took to get there, so that a seed on a busy machine neither hides how the others ended nor
    draws the line out.
    """
    k = tb.course([[(float(p[0]), float(p[2])) for p in c] for c in curves], POINTS)
    at = k.steps
    if axis == "seconds":
        at = np.median([np.interp(at, c[:, 0], c[:, 1]) for c in curves], axis=0)
    if len(curves) == 1:
        return Series(method, at, k.iqm, style=style)
    return Series(method, at, k.iqm, k.low, k.high, style)


def profile(c: tb.Comparison) -> Chart | None:
    """Share of runs above each score."""
    styles = {method: i for i, method in enumerate(c.methods)}
    methods = c.present
    if not methods:
        return None
    grid = st.profile_grid([c.scores(x) for x in methods], POINTS)
    score = "normalised score" if c.scale else "return"
    series = [Series(x, grid, st.profile(c.scores(x), grid), style=styles[x]) for x in methods]
    return Chart(
        name="profile",
        title=f"Share of runs with a {score} above each threshold",
        x_label=f"{score} s",
        y_label=f"share of runs with {score} > s",
        series=tuple(series),
        limits=(0.0, 1.0),
        labelled=False,
        falling=True,
    )


# The trust panel.


class Line(NamedTuple):
    """A column over the training of several seeds."""

    steps: np.ndarray
    of: Column


def course(runs: Sequence[Evidence], column: str, most: int = POINTS) -> Line | None:
    """A column of the ruler over runs, in no more stretches than those of the store are kept in;
    None where none of them has it."""
    have = [x.ruler for x in runs if x.ruler is not None and column in x.ruler.columns]
    if not have:
        return None
    kept = [len(r.at) for r in have if len(r.at) < r.updates]
    n = min(most, *kept, max(r.updates for r in have))
    return Line(*pooled(have, column, n))


def lost(line: Line) -> tuple[tuple[float, int], ...]:
    """Where updates are not finite, and how many."""
    return tuple((float(x), int(n)) for x, n in zip(line.steps, line.of.lost, strict=True) if n)


def panel(key: tuple[str, str], runs: Sequence[Evidence], number: int) -> Panel:
    """The trust panel of a cell: KL against its bound, what was accepted and mended, sigma,
    entropy."""
    method, env = key
    there = [x for x in runs if x.ruler is not None]
    charts = [kl_chart(there, number), judged_chart(there, number), accepted_chart(there, number)]
    charts += [
        single(there, number, column, words, words.capitalize())
        for column, words in REPAIRS.items()
    ]
    charts.append(single(there, number, "sigma", "geometric mean over actions and states", "Sigma"))
    charts.append(single(there, number, "entropy", "nats", "Entropy of the policy"))
    return Panel(method, env, tuple(c for c in charts if c is not None), len(there), len(runs))


def bound_of(runs: Sequence[Evidence]) -> tuple[str, float | None]:
    """The column that is promised, and its bound: None where nothing is, or not the same by all."""
    asked = {(x.promise, x.bound) for x in runs}
    promise, bound = asked.pop() if len(asked) == 1 else ("none", None)
    return PROMISES.get(promise, "kl_mean"), bound


def kl_chart(runs: Sequence[Evidence], number: int) -> Chart | None:
    """Mean, 99th percentile and worst state of KL(old, new), and the bound where it is on one."""
    column, bound = bound_of(runs)
    series, missed = [], ()
    for i, (name, word) in enumerate(
        [("kl_mean", "mean"), ("kl_q99", "99 %"), ("kl_max", "worst state")]
    ):
        got = course(runs, name)
        if got is None:
            continue
        missed = lost(got)  # of the last: where the mean is not finite, the worst state is not
        if name == "kl_max":  # the worst of a stretch is the line, so that no peak is averaged away
            series.append(Series(word, got.steps, got.of.high, style=i))
        else:
            series.append(Series(word, got.steps, got.of.mean, got.of.low, got.of.high, i))
    if not series:
        return None
    return Chart(
        name=f"kl-{number}",
        title="KL(old, new): mean, 99th percentile, worst state",
        x_label="environment steps",
        y_label="nats, over the states of the batch",
        series=tuple(series),
        band=UPDATES_BAND,
        bound=bound if column in BOUND_ON else None,
        bound_on=BOUND_ON.get(column, ""),
        lost=missed,
        log=True,
    )


def judged_chart(runs: Sequence[Evidence], number: int) -> Chart | None:
    """The column that is promised, where the chart of the KL does not have it."""
    column, bound = bound_of(runs)
    if bound is None or column in BOUND_ON:
        return None
    return single(runs, number, column, column, f"What is promised: {BOUNDED[column]}", bound)


def accepted_chart(runs: Sequence[Evidence], number: int) -> Chart | None:
    """Share of updates that were accepted: by the line search where there is one, else those that
    were not undone."""
    got = course(runs, "accepted")
    title = "Accepted by the line search"
    if got is None:
        undone = course(runs, "update_skipped")
        title = "Kept: finite, and not undone"
        if undone is None:
            return None
        u = undone.of
        got = Line(undone.steps, Column(1 - u.mean, 1 - u.high, 1 - u.low, u.known, u.lost))
    return Chart(
        name=f"accepted-{number}",
        title=title,
        x_label="environment steps",
        y_label="share of updates",
        series=(Series("accepted", got.steps, got.of.mean),),
        limits=(0.0, 1.0),
    )


def single(
    runs: Sequence[Evidence],
    number: int,
    column: str,
    y_label: str,
    title: str,
    bound: float | None = None,
) -> Chart | None:
    """A chart of one column; None where no run has it."""
    got = course(runs, column)
    if got is None:
        return None
    chart = Chart(
        name=identifier(column.replace("_", "-"), str(number)),
        title=title,
        x_label="environment steps",
        y_label=y_label,
        series=(Series(column, got.steps, got.of.mean, got.of.low, got.of.high),),
        band=UPDATES_BAND,
        bound=bound,
        lost=lost(got),
    )
    return None if chart.empty else chart
