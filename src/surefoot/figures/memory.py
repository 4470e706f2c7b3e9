"""What a memory of past policies does in a run: the pictures of Le et al. (2022), Figures 1 and 4,
from the columns that MCPO reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from surefoot.checks import UsageError
from surefoot.figures.sheet import (
    BLUE,
    COLOUR_MAP,
    GREEN,
    INK,
    PURPLE,
    RED,
    Picture,
    Table,
    column,
    log_where_it_can,
    moving_mean,
    picked,
)

SHOWN = 6
"""Updates of the stretch that is drawn where none is asked for."""
LINKS = 3
"""Queries that an arrow links to what they attended, as in the paper."""
CELLS = 200
"""Columns of the picture of weights, at most."""
LANES = {
    "written": ("written to memory", RED),
    "old": ("old policy", GREEN),
    "attended": ("attended most", PURPLE),
    "query": ("query", BLUE),
}
"""Rows of marks, from the top: in the table, on the axis, colour."""

Updates = Sequence[dict[str, Any]]


class Stretch(NamedTuple):
    """Minibatch steps of a run, both ends included."""

    start: int
    stop: int

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and self.start <= step <= self.stop


def made(updates: Updates) -> Updates:
    """The updates that were not undone: what an undone one wrote is not in the memory. Raises
    `UsageError` where all were."""
    kept = [row for row in updates if not row.get("update_skipped")]
    if not kept:
        raise UsageError("every update of the run was undone: nothing was written or attended")
    return kept


def stretch(updates: Updates, start: int | None, stop: int | None) -> Stretch:
    """The stretch from `start` to `stop`; `SHOWN` updates in the middle of the run, or beside the
    one end that is given. Raises `UsageError` where it holds no update."""
    an_update = len(updates[0]["mcpo_written"])
    end = updates[-1]["mcpo_step"] + an_update
    if start is None and stop is None:
        first = max(0, (len(updates) - SHOWN) // 2)
        last = updates[min(first + SHOWN, len(updates)) - 1]
        return Stretch(updates[first]["mcpo_step"], last["mcpo_step"] + an_update)
    start = max(0, (stop or 0) - SHOWN * an_update) if start is None else start
    stop = start + SHOWN * an_update if stop is None else stop
    if not 0 <= start < stop or start >= end:
        raise UsageError(
            f"--start {start} --stop {stop} is no stretch of this run; "
            f"allowed: minibatch steps with 0 <= start < stop, start below {end}"
        )
    return Stretch(start, min(stop, end))


def mark_rows(updates: Updates, here: Stretch) -> Table:
    """What is marked in a stretch: a row a mark, with its lane, step and update; of a query also
    the step it attended most, and whether an arrow links the two."""
    queries = [u for u in updates if u["mcpo_query"] in here and u["mcpo_attended"] >= 0]
    arrows = linked(queries, here)
    at = {
        "written": [(u, i) for u in updates for i in written(u) if i in here],
        "old": [(u, u["mcpo_step"]) for u in updates if u["mcpo_step"] in here],
        "attended": [(u, u["mcpo_attended"]) for u in queries if u["mcpo_attended"] in here],
        "query": [(u, u["mcpo_query"]) for u in queries],
    }
    return [
        {
            "lane": lane,
            "step": step,
            "update": u["update"],
            "attended": u["mcpo_attended"] if lane == "query" else None,
            "linked": lane == "query" and u["update"] in arrows,
        }
        for lane, found in at.items()
        for u, step in found
    ]


def written(update: dict[str, Any]) -> list[int]:
    """Minibatch steps, counted from 1 over the run, after which an update wrote its policy."""
    return [i for i, wrote in enumerate(update["mcpo_written"], update["mcpo_step"] + 1) if wrote]


def linked(queries: Updates, here: Stretch) -> set[int]:
    """Numbers of the updates whose query gets an arrow: spread over the stretch, first of those
    that attended a policy written within it."""

    def spread(found: list[int], count: int) -> list[int]:
        places = np.linspace(0, len(found) - 1, min(count, len(found)))
        return [found[i] for i in places.round().astype(int)]

    inside = spread([u["update"] for u in queries if u["mcpo_attended"] in here], LINKS)
    before = [u["update"] for u in queries if u["mcpo_attended"] not in here]
    return {*inside, *spread(before, LINKS - len(inside))}


def marks(title: str, updates: Updates, start: int | None, stop: int | None) -> Picture:
    """Figure 1a: where policies are written, where the old policy is, which policy is attended
    most, and three queries linked to what they attended. A query whose attended policy was written
    before the stretch points out of it, to the number of that step."""
    here = stretch(updates, start, stop)
    rows = mark_rows(updates, here)
    if not rows:
        raise UsageError(f"steps {here.start} to {here.stop} hold no mark; name more with --stop")
    height = {lane: len(LANES) - 1 - i for i, lane in enumerate(LANES)}

    def paint(figure: Any) -> None:
        figure.set_size_inches(9, 2.8)
        axis = figure.subplots()
        for lane, (_, colour) in LANES.items():
            at = [r["step"] for r in rows if r["lane"] == lane and (lane != "query" or r["linked"])]
            y = height[lane]
            axis.vlines(at, y - 0.35, y + 0.35, color=colour, linewidth=1.2)
        for r in rows:
            if r["linked"]:
                away = r["attended"] not in here
                axis.annotate(
                    f"to step {r['attended']}" if away else "",
                    xy=(max(r["attended"], here.start), height["attended"] - 0.35),
                    xytext=(r["step"], height["query"] + 0.35),
                    arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 1},
                    color=INK,
                    fontsize=7,
                    ha="left",
                )
        margin = 0.01 * (here.stop - here.start)
        axis.set_xlim(here.start - margin, here.stop + margin)
        axis.set_yticks([height[lane] for lane in LANES], [word for word, _ in LANES.values()])
        axis.tick_params(axis="y", length=0)
        axis.set(
            title=f"{title}: policies of minibatch steps {here.start} to {here.stop}",
            xlabel="minibatch steps of the run",
        )

    return Picture("marks", rows, paint)


def slot(title: str, updates: Updates) -> Picture:
    """Figure 1c: the slot attended most over training, by age rank (0 is the oldest policy held)
    and by age, and the weights of all slots.

    The paper plots a slot's index j* and calls large ones older, while a queue that is added to at
    its end has the newest there. Drawn here is the age rank; the paper's direction, if that was the
    other, is the same picture upside down.
    """
    own = {k: f"mcpo_{k}" for k in ("slot", "filled", "age", "attention")}
    taken = picked(updates, **own)
    slots = max(len(r["attention"] or []) for r in taken)
    rows = [
        {k: v for k, v in r.items() if k != "attention"}
        | {f"weight_{i}": (r["attention"] or [None] * slots)[i] for i in range(slots)}
        for r in taken
    ]

    def paint(figure: Any) -> None:
        figure.set_size_inches(8, 6.5)
        figure.suptitle(f"{title}: the slot attended most, at the 10th step of every update")
        steps, at = column(rows, "env_steps"), column(rows, "slot")
        rank, age, weights = figure.subplots(3, 1, sharex=True)
        rank.plot(steps, at, ".", color=BLUE, markersize=3, label="slot")
        smooth = moving_mean(at, max(1, len(at) // 25))
        rank.plot(steps, smooth, color=RED, label="moving mean")
        rank.plot(steps, column(rows, "filled") - 1, "--", color=INK, linewidth=1, label="newest")
        rank.set(ylabel="age rank\n(0 is the oldest)")
        rank.legend(ncols=3)
        age.plot(steps, column(rows, "age"), ".", color=BLUE, markersize=3)
        log_where_it_can(age, column(rows, "age"))
        age.set(ylabel="age of its policy\n(minibatch steps)")
        edges, heights = binned(
            steps, np.array([column(rows, f"weight_{i}") for i in range(slots)])
        )
        mesh = weights.pcolormesh(
            edges, np.arange(slots + 1) - 0.5, heights, cmap=COLOUR_MAP, vmin=0, rasterized=True
        )
        figure.colorbar(mesh, ax=weights, label="attention weight")
        weights.set(ylabel="age rank\n(0 is the oldest)", xlabel="environment steps")

    return Picture("slot", rows, paint)


def binned(steps: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `CELLS` edges over steps [U], and the means between them of heights [S, U]."""
    groups = np.array_split(np.arange(len(steps)), min(CELLS, len(steps)))
    mean = lambda x: x[np.isfinite(x)].mean() if np.isfinite(x).any() else np.nan  # noqa: E731
    begin = steps[0] - (steps[1] - steps[0] if len(steps) > 1 else steps[0])
    edges = np.array([begin, *(steps[g[-1]] for g in groups)])
    return edges, np.array([[mean(row[g]) for g in groups] for row in heights])


def alpha(title: str, updates: Updates) -> Picture:
    """Figure 4: alpha, the weight of the virtual region, over training: its mean over rows and
    minibatches, with a standard deviation over rows on either side; the paper sees it grow."""
    rows = picked(updates, alpha="mcpo_alpha", spread="mcpo_alpha_spread")

    def paint(figure: Any) -> None:
        figure.set_size_inches(6, 3.4)
        axis = figure.subplots()
        steps, mean, spread = (column(rows, k) for k in ("env_steps", "alpha", "spread"))
        axis.fill_between(steps, mean - spread, mean + spread, color=BLUE, alpha=0.25, linewidth=0)
        axis.plot(steps, mean, color=BLUE)
        first, last = ends(mean)
        axis.set(
            title=f"{title}\nmean alpha: {first:.4f} in the first tenth, {last:.4f} in the last",
            xlabel="environment steps",
            ylabel="alpha, weight of the virtual region",
        )

    return Picture("alpha", rows, paint)


def ends(x: np.ndarray) -> tuple[float, float]:
    """Means of the first and the last tenth of what is known; NaN where nothing is."""
    known = x[np.isfinite(x)]
    tenth = max(1, len(known) // 10)
    return (
        (float(known[:tenth].mean()), float(known[-tenth:].mean()))
        if len(known)
        else (
            np.nan,
            np.nan,
        )
    )


PANELS = {
    "beta": ("beta, weight of both regions", "mean over minibatches"),
    "writes": ("policies written", "an update"),
    "filled": ("slots filled", "at the end of an update"),
    "attention_entropy": ("entropy of the attention", "nats"),
    "psi_gain": ("gain of the virtual policy", "mean of (ratio - 1) A"),
}
DISTANCES = {
    "kl_old_theta": ("KL(old, theta)", BLUE),
    "kl_old_psi": ("KL(old, psi)", GREEN),
    "kl_theta_psi": ("KL(theta, psi)", RED),
}


def regions(title: str, updates: Updates) -> Picture:
    """Both regions and the memory over training: distances among theta, old and psi, beta, writes,
    slots filled, entropy of the attention, gain of psi."""
    rows = picked(updates, **{k: f"mcpo_{k}" for k in (*DISTANCES, *PANELS)})
    return Picture("regions", rows, lambda figure: panels(figure, title, rows, DISTANCES, PANELS))


REGION_PANELS = {
    "writes": ("policies written", "an update"),
    "filled": ("slots filled", "at the end of an update"),
    "age": ("age of the policy attended most", "updates"),
    "psi_gain": ("gain of the virtual policy", "mean of (ratio - 1) A"),
}
REGION_DISTANCES = {
    "kl_old_psi": ("KL(old, psi)", GREEN),
    "kl_new_psi": ("KL(new, psi)", RED),
}


def virtual(title: str, updates: Updates) -> Picture:
    """The same of a `VirtualRegion` round another method, which blends once an update."""
    kinds = REGION_DISTANCES, REGION_PANELS
    rows = picked(updates, **{k: f"virtual_{k}" for kind in kinds for k in kind})
    return Picture("virtual", rows, lambda figure: panels(figure, title, rows, *kinds))


def panels(
    figure: Any,
    title: str,
    rows: Table,
    distances: dict[str, tuple[str, str]],
    others: dict[str, tuple[str, str]],
) -> None:
    """Distances in the first panel, each of the others in one of its own."""
    figure.set_size_inches(10, 5.2)
    figure.suptitle(title)
    steps = column(rows, "env_steps")
    first, *rest = figure.subplots(2, 3, sharex=True).flat
    for name, (word, colour) in distances.items():
        first.plot(steps, column(rows, name), color=colour, linewidth=1, label=word)
    log_where_it_can(first, *(column(rows, name) for name in distances))
    first.set(title="distances", ylabel="nats, mean over states")
    first.legend()
    for axis, (name, (word, unit)) in zip(rest, others.items(), strict=False):
        axis.plot(steps, column(rows, name), color=BLUE, linewidth=1)
        axis.set(title=word, ylabel=unit)
    for axis in rest[len(others) :]:
        axis.remove()
    for axis in (first, *rest)[: 1 + len(others)]:
        axis.set_xlabel("environment steps")
        axis.tick_params(labelbottom=True)
