"""A chart as inline SVG, drawn by hand: axes, lines, bands, markers, labels at the ends of lines.

Colours are variables of the page (`--s0`, `--ink`, ...), so that a picture follows its theme, and
lines differ in dashes and markers as well, so that nothing rests on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from surefoot.experiments.report.chart import (
    Chart,
    Series,
    ends_text,
    log_ticks,
    look,
    picked,
    span,
    stretches,
    tick_text,
    ticks,
)
from surefoot.experiments.report.markup import Markup, element

WIDTH, HEIGHT = 340, 230
TOP, BOTTOM, LEFT = 10, 42, 50
DASHES = ("", "7 3", "2 2.5", "9 3 2 3")
LABELLED = 6
"""Most lines that are labelled at their ends; of more the legend has to do."""
LETTER = 6.3
"""Width of a letter of labels, about."""
SPACED = 13.0
"""Distance of labels."""
LOST = 2
"""The marker of what is not finite: points up."""
LONGEST = 11
"""Letters of a label at a line's end."""

Map = Callable[[np.ndarray], np.ndarray]


class Frame(NamedTuple):
    """The plotted area, and how numbers become places in it."""

    right: float
    low: float
    high: float
    x: Map
    y: Map


def dashes(style: int) -> str:
    """Dashes of the lines of a style."""
    return DASHES[look(style)[1]]


def colour(style: int) -> str:
    """The class of the colour of a style."""
    return f"c{look(style)[0]}"


def marker(style: int, x: float, y: float) -> str:
    """The path of a marker."""
    r = 3.2
    square = f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z"
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r:.1f} 0a{r} {r} 0 1 0 {-2 * r:.1f} 0z",
        square,
        f"M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z",
        f"M{x:.1f} {y - 1.3 * r:.1f}l{1.3 * r:.1f} {1.3 * r:.1f} {-1.3 * r:.1f} {1.3 * r:.1f}"
        f" {-1.3 * r:.1f} {-1.3 * r:.1f}z",
        f"M{x:.1f} {y + 1.2 * r:.1f}l{1.2 * r:.1f} {-2.1 * r:.1f}h{-2.4 * r:.1f}z",
        f"M{x - 1.4 * r:.1f} {y - 0.5 * r:.1f}h{2.8 * r:.1f}v{r:.1f}h{-2.8 * r:.1f}z",
    )
    return shapes[look(style)[2]]


def draw(chart: Chart) -> Markup:
    """The picture, with title and description for those who cannot see it."""
    frame = framed(chart)
    name = f"figure-{chart.name}"
    parts = [
        element("title", chart.title, id=f"{name}-title"),
        element("desc", ends_text(chart), id=f"{name}-desc"),
        grid(chart, frame),
    ]
    parts += [area(s, frame) for s in chart.series if s.low is not None]
    if chart.bound is not None:
        parts.append(bound(chart.bound, frame))
    parts += [line(s, frame) for s in chart.series]
    if chart.lost:
        parts.append(lost(chart, frame))
    if labelled(chart):
        parts.append(labels(chart, frame))
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="many" if len(chart.series) > LABELLED else None,
    )


def labelled(chart: Chart) -> bool:
    """Whether lines carry their names."""
    return chart.labelled and 1 < len(chart.series) + (chart.bound is not None) <= LABELLED


def framed(chart: Chart) -> Frame:
    """The area that is left between labels."""
    words = [s.label for s in chart.series]
    words += bound_lines(chart) if chart.bound is not None else []
    longest = min(max((len(w) for w in words), default=0), LONGEST)
    right = WIDTH - (LETTER * longest + 10 if labelled(chart) else 18)
    low, high = span(chart)
    known = [s.x[~np.isnan(s.y)] for s in chart.series]
    xs = np.concatenate([*known, np.zeros(0)])
    start, end = (float(xs.min()), float(xs.max())) if len(xs) else (0.0, 1.0)
    if not chart.x_label.endswith(" s"):
        start = min(start, 0.0)
    end = end if end > start else start + 1.0
    bottom, top = (math.log10(e) if chart.log else e for e in (low, high))

    def across(x: np.ndarray) -> np.ndarray:
        return np.asarray(LEFT + (x - start) / (end - start) * (right - LEFT))

    def up(y: np.ndarray) -> np.ndarray:
        inside = np.clip(y, low, high)
        share = ((np.log10(inside) if chart.log else inside) - bottom) / (top - bottom)
        return np.asarray(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP))

    return Frame(right, low, high, across, up)


def grid(chart: Chart, frame: Frame) -> Markup:
    """Axes, their numbers and names."""
    parts = []
    for value in (log_ticks if chart.log else ticks)(frame.low, frame.high):
        y = float(frame.y(np.array(value)))
        parts.append(element("path", d=f"M{LEFT} {y:.1f}H{frame.right:.1f}", class_="grid"))
        parts.append(
            element("text", tick_text(value), x=LEFT - 6, y=f"{y + 4:.1f}", text_anchor="end")
        )
    base = HEIGHT - BOTTOM
    x0, x1 = float(frame.x(np.array(0.0))), float(frame.x(np.array(1.0)))
    inverse = [(edge - x0) / (x1 - x0) for edge in (LEFT, frame.right)]
    for value in ticks(*inverse, about=4):
        x = float(frame.x(np.array(value)))
        parts.append(element("path", d=f"M{x:.1f} {base}v4", class_="axis"))
        parts.append(
            element("text", tick_text(value), x=f"{x:.1f}", y=base + 17, text_anchor="middle")
        )
    parts.append(element("path", d=f"M{LEFT} {TOP}V{base}H{frame.right:.1f}", class_="axis"))
    middle = f"{(LEFT + frame.right) / 2:.1f}"
    parts.append(
        element("text", chart.x_label, x=middle, y=HEIGHT - 6, text_anchor="middle", class_="name")
    )
    return element("g", *parts)


def points(x: np.ndarray, y: np.ndarray) -> str:
    """Places as the numbers of a path."""
    return " ".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))


def area(s: Series, frame: Frame) -> Markup | None:
    """The band of a line."""
    if s.low is None or s.high is None:
        return None
    path = ""
    for part in stretches(~np.isnan(s.low) & ~np.isnan(s.high)):
        x = frame.x(s.x[part])
        there, back = points(x, frame.y(s.high[part])), points(x[::-1], frame.y(s.low[part])[::-1])
        path += f"M{there}L{back}z"
    return element("path", d=path, class_=f"band {colour(s.style)}") if path else None


def line(s: Series, frame: Frame) -> Markup:
    """A line with markers, of which there are a few."""
    known = ~np.isnan(s.y)
    x, y = frame.x(s.x), frame.y(np.where(known, s.y, frame.low))
    path = "".join("M" + points(x[part], y[part]) for part in stretches(known))
    there = np.flatnonzero(known)
    few = there[picked(len(there), 5)] if len(there) else there
    marks = "".join(marker(s.style, float(x[i]), float(y[i])) for i in few)
    return element(
        "g",
        element("path", d=path, stroke_dasharray=dashes(s.style) or None, class_="line"),
        element("path", d=marks, class_="mark"),
        class_=colour(s.style),
    )


def bound(value: float, frame: Frame) -> Markup:
    """The line that is not to be crossed."""
    y = float(frame.y(np.array(value)))
    return element("path", d=f"M{LEFT} {y:.1f}H{frame.right:.1f}", class_="bound")


def lost(chart: Chart, frame: Frame) -> Markup:
    """Marks at the top where values are not finite."""
    at = frame.x(np.array([x for x, _ in chart.lost]))
    return element("path", d="".join(marker(LOST, float(x), TOP + 4.0) for x in at), class_="lost")


def bound_lines(chart: Chart) -> list[str]:
    """The name of the bound as it stands at its end, in lines that fit."""
    return ["bound on", chart.bound_on] if chart.bound_on else ["bound"]


def labels(chart: Chart, frame: Frame) -> Markup:
    """Names at the ends of lines, moved apart where they would lie on each other."""
    wanted = list[tuple[float, list[str], str]]()
    for s in chart.series:
        known = np.flatnonzero(~np.isnan(s.y))
        if len(known):
            wanted.append((float(frame.y(s.y[known[-1] : known[-1] + 1])[0]), [s.label], "end"))
    if chart.bound is not None:
        wanted.append((float(frame.y(np.array(chart.bound))), bound_lines(chart), "end of-bound"))
    wanted.sort()
    sizes = [SPACED * len(words) for _, words, _ in wanted]
    tops = [y - (size - SPACED) / 2 for (y, _, _), size in zip(wanted, sizes, strict=True)]
    heights = apart(tops, sizes, TOP + 4.0, HEIGHT - BOTTOM - 4.0 + SPACED)
    texts = [
        element(
            "text",
            clipped(word),
            x=f"{frame.right + 6:.1f}",
            y=f"{y + 4 + i * SPACED:.1f}",
            class_=kind,
        )
        for (_, words, kind), y in zip(wanted, heights, strict=True)
        for i, word in enumerate(words)
    ]
    return element("g", *texts)


def apart(places: list[float], sizes: list[float], low: float, high: float) -> list[float]:
    """Growing places of things of these sizes, moved so that none lies on the next, all between two
    ends as long as there is room."""
    out, free = list[float](), low
    for place, size in zip(places, sizes, strict=True):
        out.append(max(place, free))
        free = out[-1] + size
    end = high
    for i in range(len(out) - 1, -1, -1):
        out[i] = min(out[i], end - sizes[i])
        end = out[i]
    free = low
    for i, size in enumerate(sizes):
        out[i] = max(out[i], free)
        free = out[i] + size
    return out


def clipped(word: str) -> str:
    """A label that fits."""
    return word if len(word) <= LONGEST else word[: LONGEST - 1] + "…"


def swatch(style: int, kind: str = "line") -> Markup:
    """A piece of a line for the legend; `kind` is line, bound, or lost."""
    if kind == "bound":
        inside = [element("path", d="M1 6H29", class_="bound")]
    elif kind == "lost":
        inside = [element("path", d=marker(LOST, 15, 6), class_="lost")]
    else:
        dash = dashes(style) or None
        inside = [
            element("path", d="M1 6H29", stroke_dasharray=dash, class_="line"),
            element("path", d=marker(style, 15, 6), class_="mark"),
        ]
    return element(
        "svg",
        *inside,
        viewBox="0 0 30 12",
        class_=f"swatch {colour(style)}",
        aria_hidden="true",
        focusable="false",
    )
