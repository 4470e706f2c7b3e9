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
from surefoot.experiments.reproduce.versions import VERSIONS
from surefoot.experiments.table import markdown, text

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
    }


def version_lines(paper: str, scope: Scope) -> list[str]:
    """Versions then and now of the tasks of a scope; of one that stands in for another, that."""
    out = []
    for task in scope.tasks:
        v = VERSIONS[task.plain]
        stands_in = task in scope.foreign
        out.append(f"{task.plain}: not the paper's task for this" if stands_in else v.line(paper))
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
    foreign = task in scope.foreign
    d = scope.item.effect_size and bool(measure.better)
    theirs = _effects({k: n for k, n in task.paper.items() if k[1] == measure.name}) if d else {}
    sizes = _our_effects(ours, measure) if d else {}
    rows = {
        e.label: _row(e.words, paper.get(e.label), ours.get(e.label), foreign)
        | ({"paper_d": _plain(theirs.get(e.label)), "d": _plain(sizes.get(e.label))} if d else {})
        for e in scope.entrants
    }
    return {"rows": rows, "says": _sentences(scope, measure, paper, ours, foreign)}


def _row(words: str, paper: Number | None, ours: Ours | None, foreign: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"words": words, "paper": None, "ours": None, "difference": None}
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
    if paper is not None and paper.mean is not None and not foreign:
        inside = None if low is None or high is None else low <= paper.mean <= high
        row["difference"] = {
            "value": ours.mean - paper.mean,
            "share": (ours.mean - paper.mean) / abs(paper.mean) if paper.mean else None,
            "paper_inside": inside,
        }
    return row


def _effects(numbers: Mapping[tuple[str, str], Number]) -> dict[str, float]:
    """Effect sizes of a paper's column against its best mean."""
    whole = {
        label: (n.mean, n.std)
        for (label, _), n in numbers.items()
        if n.mean is not None and n.std is not None
    }
    best = max(whole.values(), default=None)
    return {} if best is None else {k: effect_size(v, best) for k, v in whole.items()}


def _our_effects(ours: Mapping[str, Ours], measure: Measure) -> dict[str, float]:
    whole = {k: (o.mean, o.std) for k, o in ours.items() if o.std is not None}
    if not whole:
        return {}
    best = max(whole.values(), key=lambda v: measure.better * v[0])
    return {k: effect_size(v, best) for k, v in whole.items()}


def _plain(x: float | None) -> Any:
    return x if x is None or math.isfinite(x) else "inf"


def _sentences(
    scope: Scope,
    measure: Measure,
    paper: Mapping[str, Number],
    ours: Mapping[str, Ours],
    foreign: bool,
) -> list[str]:
    """What agrees and what does not, from the numbers alone."""
    told = {k: n.mean for k, n in paper.items() if n.mean is not None}
    both = [k for k in told if k in ours and not foreign]
    words = {e.label: e.words for e in scope.entrants}
    out = []
    ends = {k: i for k in both if (i := ours[k].interval) is not None}
    inside = [k for k, (low, high) in ends.items() if low <= told[k] <= high]
    if ends:
        out.append(f"the paper's mean lies in our 95 % interval in {len(inside)} of {len(ends)}")
    if measure.better and len(ours) > 1:
        means = {k: o.mean for k, o in ours.items()}
        first = max(means, key=lambda k: measure.better * means[k])
        if len(both) > 1:
            theirs = max(both, key=lambda k: measure.better * told[k])
            place = 1 + sum(measure.better * (means[k] - means[theirs]) > 0 for k in both)
            out.append(
                f"best of these in the paper: {words[theirs]}, ours: {words[first]}"
                + ("" if theirs == first else f"; {words[theirs]} is number {place} here")
            )
        else:
            out.append(f"best here: {words[first]}")
    if len(both) > 2:
        r = _rank_correlation([told[k] for k in both], [ours[k].mean for k in both])
        if r is not None:
            out.append(f"rank correlation of the paper's order and ours {r:.2f}")
    return out


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's, ties sharing their mean rank; None where one side is all ties."""
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


# Words.


def grid(rows: Mapping[str, Any]) -> list[list[str]]:
    """The table of a task and a measure, header first."""
    d = any("d" in row for row in rows.values())
    head = ["", "seeds", "paper", "ours: mean ± deviation", "95 % interval", "ours - paper"]
    out = [head + ["paper's d", "d"] * d]
    for row in rows.values():
        ours, apart = row["ours"], row["difference"]
        cells = [row["words"], str(len(ours["values"])) if ours else "0"]
        cells.append(row["paper"]["text"] if row["paper"] else "-")
        cells += [*_ours(ours), _apart(apart)]
        out.append(cells + [_d(row.get("paper_d")), _d(row.get("d"))] * d)
    return out


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


def _blocks(said: Mapping[str, Any]) -> list[tuple[str, list[list[str]], list[str]]]:
    """(heading, table, sentences) of every task and measure."""
    several = len(said["measures"]) > 1
    out = []
    for env, by_measure in said["tasks"].items():
        for name, block in by_measure.items():
            heading = f"{env}, {said['measures'][name]}" if several else env
            out.append((heading, grid(block["rows"]), block["says"]))
    return out


def _notes(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, line) of all that stands under the tables."""
    out = [("numbers", said["numbers"]), ("claim", said["claim"])]
    out += [("version", line) for line in said.get("versions", [])]
    out += [("differs", line) for line in said["departures"]]
    out += [("missing", line) for line in said.get("missing", [])]
    return out + [("note", line) for line in said.get("notes", [])]


def lines(said: Mapping[str, Any]) -> list[str]:
    """What a terminal shows."""
    out = [] if len(said["measures"]) > 1 else [f" {next(iter(said['measures'].values()))}"]
    for heading, table, says in _blocks(said):
        out += [f" {heading}", *text(table), *(f" says     {line}" for line in says)]
    return out + [f" {kind:<8} {line}" for kind, line in _notes(said)]


def page(said: Mapping[str, Any]) -> str:
    """reproduce.md: no clock in it, so that the same runs give the same bytes."""
    out = [f"# {said['title']}", "", f"Made by `{said['command']}`."]
    out += [f"{line[0].upper()}{line[1:]}." for line in said["share"]]
    if len(said["measures"]) == 1:
        out.append(f"Shown: {next(iter(said['measures'].values()))}.")
    out.append("")
    for heading, table, says in _blocks(said):
        out += [f"## {heading}", "", *markdown(table), "", *(f"- {line}" for line in says), ""]
    out += [f"- {kind}: {line}" for kind, line in _notes(said)]
    return "\n".join(out).rstrip() + "\n"
