"""The paper's numbers beside ours: intervals, effect sizes, the deviation, and a sentence on each
task."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.experiments import statistics as st
from surefoot.experiments.reproduce.items import Measure, Number, Scope, Task, share
from surefoot.experiments.reproduce.versions import ENVPOOL, ENVPOOL_MUJOCO, PHYSICS, VERSIONS
from surefoot.experiments.table import markdown, text

EFFECT_SIZE = (
    "Cohen's d against the best mean of the column; the paper prints none, and its d is computed "
    "here, from its means and deviations"
)
INDIFFERENT = 0.5
"""Below this effect size the MCPO paper calls a method indifferent from the best."""

Values = Mapping[tuple[str, str, str], Sequence[float]]
"""(label, environment, measure) -> a number a seed."""


def effect_size(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Cohen's d of two (mean, deviation) of samples of equal size: the distance of the means over
    the pooled deviation; infinite where neither varies and they differ."""
    if a == b:
        return 0.0
    pooled = math.sqrt((a[1] ** 2 + b[1] ** 2) / 2)
    apart = abs(a[0] - b[0])
    return apart / pooled if pooled else (math.inf if apart else 0.0)


@dataclass(frozen=True)
class Ours:
    """A cell of ours over its seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.mean(self.values)

    @property
    def std(self) -> float | None:
        """Deviation over seeds; None with one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean, as `compare` makes it; None where there is none."""
        low, high = st.estimate([np.array(self.values)], "mean").interval()
        known = len(self.values) > 1 and math.isfinite(float(low)) and math.isfinite(float(high))
        return (float(low), float(high)) if known else None


def compared(scope: Scope, values: Values) -> dict[str, Any]:
    """Everything that is said of a scope, as JSON data with no clock in it.

    `values` holds what runs and rows answered; a cell without any is one that was not run.
    """
    item = scope.item
    tasks = {
        t.env: {m.name: _task(scope, t, m, values) for m in item.measures} for t in scope.tasks
    }
    return {
        "item": item.name,
        "title": item.title,
        "share": share(scope),
        "claim": item.expect,
        "numbers": item.numbers,
        "measures": {m.name: m.words for m in item.measures},
        "tasks": tasks,
        "departures": list(item.departures),
        "effect_size": EFFECT_SIZE if item.effect_size else "",
    }


def version_lines(paper: str, scope: Scope) -> list[str]:
    """Versions then and now of the tasks of a scope; of one that stands in for another, that; and
    what is known of EnvPool's implementation, where tasks are of it."""
    out = []
    for task in scope.tasks:
        v = VERSIONS[task.plain]
        stands_in = task in scope.foreign
        out.append(f"{task.plain}: not the paper's task for this" if stands_in else v.line(paper))
    pooled = [t for t in scope.tasks if t not in scope.foreign and t.env.startswith("envpool:")]
    if pooled:
        out.append(ENVPOOL.format(tasks=", ".join(t.plain for t in pooled)))
    if any(PHYSICS in VERSIONS[t.plain].changed for t in pooled):
        out.append(ENVPOOL_MUJOCO)
    return out


def _task(scope: Scope, task: Task, measure: Measure, values: Values) -> dict[str, Any]:
    ours = {
        e.label: Ours(tuple(got))
        for e in scope.entrants
        if (got := values.get((e.label, task.env, measure.name)))
    }
    paper = {
        e.label: number
        for e in scope.entrants
        if (number := task.paper.get((e.label, measure.name)))
    }
    both = [] if task in scope.foreign else [k for k in paper if k in ours]
    both = [k for k in both if paper[k].mean is not None]
    steps = paper_steps(scope, task)
    d = scope.item.effect_size and bool(measure.better)
    column = {label: n for (label, name), n in task.paper.items() if name == measure.name}
    theirs = effects({k: (n.mean, n.std) for k, n in column.items()}, measure.better) if d else {}
    sizes = effects({k: (o.mean, o.std) for k, o in ours.items()}, measure.better) if d else {}
    rows = {
        e.label: _row(e.words, paper.get(e.label), ours.get(e.label))
        | {
            "difference": _difference(paper[e.label], ours[e.label], task.steps == steps)
            if e.label in both
            else None
        }
        | ({"paper_d": _plain(theirs.get(e.label)), "d": _plain(sizes.get(e.label))} if d else {})
        for e in scope.entrants
    }
    says = _sentences(scope, measure, paper, ours, both, task.steps == steps)
    if both and task.steps != steps:
        at = "of which it states no steps" if steps is None else f"at {steps:,} steps"
        says = [f"ours are at {task.steps:,} steps, the paper's runs {at}", *says]
    return {"steps": task.steps, "paper_steps": steps, "rows": rows, "says": says}


def paper_steps(scope: Scope, task: Task) -> int | None:
    """Environment steps of the runs that a paper's numbers of a task are of; None where it does not
    say, and of a task that stands in for another."""
    own = {t.env: t.steps for t in scope.item.tasks}
    return own.get(task.env) if scope.item.steps_stated else None


def _row(words: str, paper: Number | None, ours: Ours | None) -> dict[str, Any]:
    row: dict[str, Any] = {"words": words, "paper": None, "ours": None}
    if paper is not None:
        row["paper"] = {k: v for k, v in vars(paper).items() if v not in (None, "")}
        row["paper"]["text"] = paper.text
    if ours is None:
        return row
    low, high = ours.interval or (None, None)
    row["ours"] = {
        "values": list(ours.values),
        "mean": ours.mean,
        "std": ours.std,
        "low": low,
        "high": high,
    }
    return row


def _difference(paper: Number, ours: Ours, same_steps: bool) -> dict[str, Any]:
    """Ours minus the paper's; whether the paper's mean lies in our interval is said at the paper's
    steps alone."""
    assert paper.mean is not None
    apart, ends = ours.mean - paper.mean, ours.interval if same_steps else None
    return {
        "value": apart,
        "share": apart / abs(paper.mean) if paper.mean else None,
        "paper_inside": None if ends is None else ends[0] <= paper.mean <= ends[1],
    }


def effects(
    column: Mapping[str, tuple[float | None, float | None]], better: int = 1
) -> dict[str, float]:
    """Effect sizes of a column of (mean, deviation) against its best mean: the largest, or with
    `better` -1 the smallest. Rows without a deviation have none, and are not the best."""
    whole = {k: (m, s) for k, (m, s) in column.items() if m is not None and s is not None}
    if not whole:
        return {}
    best = max(whole.values(), key=lambda v: better * v[0])
    return {k: effect_size(v, best) for k, v in whole.items()}


def _plain(x: float | None) -> Any:
    return x if x is None or math.isfinite(x) else "inf"


def _sentences(
    scope: Scope,
    measure: Measure,
    paper: Mapping[str, Number],
    ours: Mapping[str, Ours],
    both: Sequence[str],
    same_steps: bool,
) -> list[str]:
    """What agrees and what does not, from the numbers alone. `both`: the rows of which there is a
    number of the paper's and one of ours, which alone are held against each other."""
    told = {k: mean for k in both if (mean := paper[k].mean) is not None}
    words = {e.label: e.words for e in scope.entrants}
    out = []
    ends = {k: i for k in both if (i := ours[k].interval) is not None} if same_steps else {}
    inside = [k for k, (low, high) in ends.items() if low <= told[k] <= high]
    if ends:
        out.append(f"the paper's mean lies in our 95 % interval in {len(inside)} of {len(ends)}")
    if measure.better and len(both) > 1:
        out.append(_order(told, {k: ours[k].mean for k in both}, measure.better, words))
    elif measure.better and len(ours) > 1:
        (first, *_) = _places({k: o.mean for k, o in ours.items()}, measure.better)
        out.append(f"best here: {_shared(first, words)}")
    if len(both) > 2:
        r = _rank_correlation(list(told.values()), [ours[k].mean for k in both])
        if r is not None:
            out.append(f"rank correlation of the paper's order and ours {r:.2f}")
    return out


def _order(
    told: Mapping[str, float], means: Mapping[str, float], better: int, words: Mapping[str, str]
) -> str:
    """Who is best in the paper and who is here, of the same rows; and where the paper's best are
    here, unless one of them is best here too."""
    (theirs, *_), places = _places(told, better), _places(means, better)
    said = f"best of these in the paper: {_shared(theirs, words)}, "
    said += f"ours: {_shared(places[0], words)}"
    if set(theirs) & set(places[0]):
        return said
    for number, place in zip(_numbers(places), places, strict=True):
        for label in [k for k in place if k in theirs][:1]:
            tied = [label, *(k for k in place if k != label)]
            said += f"; {_shared(tied, words, f'is number {number} here')}"
    return said


def _places(means: Mapping[str, float], better: int) -> list[list[str]]:
    """Labels by their means, the best first; those that tie share a place."""
    at = sorted(set(means.values()), key=lambda x: -better * x)
    return [[k for k, mean in means.items() if mean == x] for x in at]


def _numbers(places: Sequence[Sequence[str]]) -> list[int]:
    """The number of each place: one more than there are labels before it."""
    return [1 + sum(map(len, places[:i])) for i in range(len(places))]


def _shared(labels: Sequence[str], words: Mapping[str, str], then: str = "") -> str:
    """`MCPO, N 5 (shared with PPO)`: a label, and those it ties with."""
    first, *others = (words[k] for k in labels)
    tie = f"(shared with {' and '.join(others)})" if others else ""
    return " ".join(x for x in (first, then, tie) if x)


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's, ties sharing their mean rank; None where one side is all ties."""
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


# Words.


def grid(block: Mapping[str, Any]) -> list[list[str]]:
    """The table of a task and a measure, header first."""
    rows = block["rows"]
    d = any("d" in row for row in rows.values())
    head = ["", "seeds", "paper", "ours: mean ± deviation", "95 % interval", _minus(block)]
    out = [head + ["paper's d, computed", "d"] * d]
    for row in rows.values():
        ours, apart = row["ours"], row["difference"]
        cells = [row["words"], str(len(ours["values"])) if ours else "0"]
        cells.append(row["paper"]["text"] if row["paper"] else "-")
        cells += [*_ours(ours), _apart(apart)]
        out.append(cells + [_d(row.get("paper_d")), _d(row.get("d"))] * d)
    return out


def _minus(block: Mapping[str, Any]) -> str:
    """The head of the column of differences: with the steps of both, unless they are the same."""
    ours, paper = block["steps"], block["paper_steps"]
    if ours == paper or all(row["difference"] is None for row in block["rows"].values()):
        return "ours - paper"
    at = "(steps not stated)" if paper is None else f"at {paper:,}"
    return f"ours at {ours:,} - paper {at}"


def _ours(ours: Mapping[str, Any] | None) -> list[str]:
    if ours is None:
        return ["not run", "-"]
    std = "" if ours["std"] is None else f" ± {st.number_text(ours['std'])}"
    ends = "-" if ours["low"] is None else st.interval_text(ours["low"], ours["high"])
    return [st.number_text(ours["mean"]) + std, ends]


def _apart(apart: Mapping[str, Any] | None) -> str:
    if apart is None:
        return "-"
    share_ = "" if apart["share"] is None else f" ({100 * apart['share']:+.0f} %)"
    return st.number_text(apart["value"], sign=True) + share_


def _d(x: Any) -> str:
    return "-" if x is None else x if isinstance(x, str) else f"{x:.2f}"


def _blocks(said: Mapping[str, Any]) -> list[tuple[str, list[list[str]], list[tuple[str, str]]]]:
    """(heading, table, (kind, line) of what stands under it) of every task and measure; under the
    last of a task also the packages that its runs were made with."""
    several = len(said["measures"]) > 1
    out = []
    for env, by_measure in said["tasks"].items():
        under = list[tuple[str, str]]()
        for name, block in by_measure.items():
            heading = f"{env}, {said['measures'][name]}" if several else env
            under = [("says", line) for line in block["says"]]
            out.append((heading, grid(block), under))
        if found := said.get("made_with", {}).get(env):
            under.append(("ran with", ", ".join(found)))
    return out


def _notes(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, line) of all that stands under the tables."""
    out = [("numbers", said["numbers"]), ("claim", said["claim"])]
    out += [("d", said["effect_size"])] * bool(said["effect_size"])
    out += [("version", line) for line in said.get("versions", [])]
    out += [("differs", line) for line in said["departures"]]
    out += [("missing", line) for line in said.get("missing", [])]
    return out + [("note", line) for line in said.get("notes", [])]


def lines(said: Mapping[str, Any]) -> list[str]:
    """What a terminal shows."""
    out = [] if len(said["measures"]) > 1 else [f" {next(iter(said['measures'].values()))}"]
    for heading, table, under in _blocks(said):
        out += [f" {heading}", *text(table), *(f" {kind:<8} {line}" for kind, line in under)]
    return out + [f" {kind:<8} {line}" for kind, line in _notes(said)]


def page(said: Mapping[str, Any]) -> str:
    """reproduce.md: no clock in it, so that the same runs give the same bytes."""
    out = [f"# {said['title']}", "", f"Made by `{said['command']}`."]
    out += [f"{line[0].upper()}{line[1:]}." for line in said["share"]]
    if len(said["measures"]) == 1:
        out.append(f"Shown: {next(iter(said['measures'].values()))}.")
    out.append("")
    for heading, table, under in _blocks(said):
        said_under = [f"- {line}" if kind == "says" else f"- {kind} {line}" for kind, line in under]
        out += [f"## {heading}", "", *markdown(table), "", *said_under, ""]
    out += [f"- {kind}: {line}" for kind, line in _notes(said)]
    return "\n".join(out).rstrip() + "\n"
