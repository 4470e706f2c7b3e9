"""A chart as numbers: what is drawn as SVG and PNG, what stands in tables and in CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

COLOURS, DASHES, MARKERS = 8, 4, 6
"""How many there are of each."""


@dataclass(frozen=True)
class Series:
    """A line, with a band round it where it has one."""

    label: str
    x: np.ndarray
    """[points], growing."""
    y: np.ndarray
    """[points], NaN where nothing is known; infinite values are drawn at the top."""
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    style: int = 0
    """Which colour, dashes and marker: the same for a method throughout a report."""


@dataclass(frozen=True)
class Chart:
    """Lines over one axis."""

    name: str
    """Unique in a report: letters, digits and hyphens."""
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    band: str = ""
    """What the bands are, in words."""
    bound: float | None = None
    """Height of a horizontal line: what is not to be exceeded."""
    bound_on: str = ""
    """What the bound is on, where several lines are drawn: `the mean`."""
    lost: tuple[tuple[float, int], ...] = ()
    """(x, number of updates) where values are not finite; marked at the top."""
    log: bool = False
    limits: tuple[float, float] | None = None
    """Ends of the vertical axis; bands are cut there. None: what is drawn."""
    labelled: bool = True
    """Whether few lines carry their names at their ends, where these lie apart."""
    falling: bool = False
    """Whether the lines are shares that fall from one to zero, of which the ends say nothing."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any((~np.isnan(s.y)).any() for s in self.series)

    @property
    def bound_name(self) -> str:
        """`bound on the mean`."""
        return f"bound on {self.bound_on}" if self.bound_on else "bound"

    @property
    def lost_text(self) -> str:
        """How many updates are not finite; empty where all are."""
        n = sum(count for _, count in self.lost)
        return f"not finite, drawn at the top: {n} update{'s'[: n != 1]}" if n else ""


HEADER = ("figure", "series", "x", "value", "low", "high")
"""Of the CSV of charts; `x` is what the chart's horizontal axis says."""


def number(x: float) -> str:
    """Six digits, as they stand in tables and CSV; empty where there is no number."""
    return f"{x:.6g}" if math.isfinite(x) else ("" if math.isnan(x) else str(x))


def rows(chart: Chart, most: int | None = None) -> Iterator[tuple[str, ...]]:
    """The numbers of a chart in the form of `HEADER`; with `most` so many points of each line, both
    ends among them."""
    for s in chart.series:
        n = len(s.x)
        for i in picked(n, n if most is None else most):
            ends = ("" if e is None else number(float(e[i])) for e in (s.low, s.high))
            yield (chart.name, s.label, number(float(s.x[i])), number(float(s.y[i])), *ends)


def picked(n: int, most: int) -> list[int]:
    """At most so many of n indices, evenly spread, both ends among them."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, most))}) if n else []


def ends_text(chart: Chart) -> str:
    """What a chart shows in a sentence a line: the text alternative of its picture."""
    said = [(half_text if chart.falling else line_text)(s) for s in chart.series]
    if chart.bound is not None:
        said.append(f"the {chart.bound_name} is {short(chart.bound)}")
    if chart.lost:
        said.append(chart.lost_text)
    scale = ", logarithmic" if chart.log else ""
    return f"{chart.y_label}{scale}, over {chart.x_label}. {'. '.join(said)}."


def line_text(s: Series) -> str:
    """Where a line begins and ends, and its band there."""
    known = np.flatnonzero(~np.isnan(s.y))
    if not len(known):
        return f"{s.label}: nothing is known"
    first, last = known[0], known[-1]
    at = [f"{short(float(s.y[i]))} at {short(float(s.x[i]))}" for i in dict.fromkeys((first, last))]
    words = f"{s.label}: {', '.join(at)}"
    if s.low is None or s.high is None or np.isnan(s.low[last]):
        return words
    return f"{words}, band from {short(float(s.low[last]))} to {short(float(s.high[last]))}"


def half_text(s: Series) -> str:
    """How far a falling share is above a half."""
    high = np.flatnonzero(s.y > 0.5)
    if not len(high):
        return f"{s.label}: a half nowhere"
    return f"{s.label}: above a half up to {short(float(s.x[high[-1]]))}"


def look(style: int) -> tuple[int, int, int]:
    """Which colour, dashes and marker a style has; colour and dashes alone tell any 32 apart."""
    return style % COLOURS, (style + style // COLOURS) % DASHES, style % MARKERS


def short(x: float) -> str:
    """Three digits: `1.25M`, `204k`, `0.0098`."""
    size = abs(x)
    if not math.isfinite(x):
        return str(x)
    if size >= 999_500:
        return f"{x / 1e6:.3g}M"
    if size >= 9_995:
        return f"{x / 1e3:.3g}k"
    return f"{x:.4g}" if size >= 1000 else f"{x:.3g}"


# Axes.


def span(chart: Chart) -> tuple[float, float]:
    """Ends of the vertical axis: its limits, or all that is drawn, with a margin."""
    heights = [] if chart.bound is None else [np.array([chart.bound])]
    if chart.limits is not None:
        heights.append(np.array(chart.limits))
    else:
        heights += [e for s in chart.series for e in (s.y, s.low, s.high) if e is not None]
    all_of = np.concatenate([np.asarray(h, float) for h in heights] or [np.zeros(1)])
    seen = all_of[np.isfinite(all_of) & ((all_of > 0) | (not chart.log))]
    if not len(seen):
        return (0.1, 1.0) if chart.log else (0.0, 1.0)
    low, high = float(seen.min()), float(seen.max())
    if chart.log:
        low, high = max(low, high * 1e-8), high
        return low / 1.4, high * 1.4
    margin = 0.05 * (high - low) or max(0.05 * abs(high), 0.5)
    return low - margin, high + margin


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two ends, `about` so many."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten between two ends; where they are fewer than two, also 2 and 5 times one."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**i for i in range(first, last + 1)]
    inside = [x for x in decades if low <= x <= high]
    if len(inside) < 2:
        return [m * d for d in decades for m in (1, 2, 5) if low <= m * d <= high]
    return inside[:: -(-len(inside) // most)]


def tick_text(x: float) -> str:
    """A tick's number, as short as it can be."""
    return "0" if x == 0 else f"{x:.0e}".replace("e-0", "e-") if abs(x) < 1e-3 else short(x)


def stretches(known: Sequence[bool] | np.ndarray) -> list[slice]:
    """Runs of neighbours that are known."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(known, int), [0]])))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
