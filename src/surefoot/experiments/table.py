"""A comparison in numbers and words: from results of runs to summary, tables and files."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surefoot.console import clock, steps_text
from surefoot.experiments import statistics as st
from surefoot.experiments.results import CURVE_POINTS, Result, common_curve

BOUND_WORDS = {
    "mean_kl": "mean",
    "max_kl": "each",
    "mean_reverse_kl": "mean reverse",
    "max_reverse_kl": "each reverse",
    "projection": "projected, of its bounds",
}
"""What a promise is about -> how the table says it."""


@dataclass(frozen=True)
class Comparison:
    """Results of methods on environments over seeds."""

    methods: tuple[str, ...]
    envs: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    results: dict[tuple[str, str], list[Result]]
    """(method, environment) -> finished runs by seed."""
    missing: tuple[str, ...] = ()
    """A line on every run that is missing."""
    notes: tuple[str, ...] = ()
    """Lines on what the numbers depend on."""
    command: str = ""
    """What makes this table."""
    scale: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Environment -> (return that scores 0, return that scores 1); empty where there is one
    environment, whose scores are returns."""

    @property
    def present(self) -> tuple[str, ...]:
        """Methods with a run in every environment, the best first."""
        whole = [m for m in self.methods if all(self.results.get((m, e)) for e in self.envs)]
        values = {m: float(st.aggregate(self.scores(m))) for m in whole}
        return tuple(sorted(whole, key=lambda m: -values[m]))

    def scores(self, method: str, key: str = "score") -> list[np.ndarray]:
        """Scores [seeds] of a method in every environment, normalised where there are several."""
        return [self.normalised(e, self.raw(method, e, key)) for e in self.envs]

    def raw(self, method: str, env: str, key: str = "score") -> np.ndarray:
        """Returns [seeds] as the environment pays them."""
        return np.array([getattr(r, key) for r in self.results[method, env]])

    def normalised(self, env: str, x: np.ndarray) -> np.ndarray:
        """Returns of an environment on the scale of the table."""
        if env not in self.scale:
            return x
        zero, one = self.scale[env]
        return (x - zero) / (one - zero)


def scale_of(results: dict[tuple[str, str], list[Result]], env: str) -> tuple[float, float]:
    """(return that scores 0, return that scores 1) in an environment.

    0 is the mean over all runs of the first return they report, 1 the mean final return of the
    method whose mean is highest. Where no method is above the start, returns are only shifted.
    """
    cells = [runs for (_, e), runs in results.items() if e == env and runs]
    zero = float(np.mean([r.first for runs in cells for r in runs]))
    best = max(float(np.mean([r.score for r in runs])) for runs in cells)
    return zero, best if best > zero else zero + 1.0


def with_scale(comparison: Comparison) -> Comparison:
    """The comparison with its scores normalised if it has several environments."""
    if len(comparison.envs) == 1:
        return comparison
    got = [e for (_, e), runs in comparison.results.items() if runs]
    scale = {e: scale_of(comparison.results, e) for e in comparison.envs if e in got}
    return dataclasses.replace(comparison, scale=scale)


# The summary: plain data, the same for the same runs.


def summary(c: Comparison) -> dict[str, Any]:
    """All that the tables say but clocks, as JSON data."""
    methods = c.present
    out: dict[str, Any] = {
        "command": c.command,
        "envs": list(c.envs),
        "seeds": list(c.seeds),
        "baseline": c.baseline,
        "score": score_words(c),
        "methods": {m: _row(c, m, c.scores(m), c.scores(m, "auc"), c.envs) for m in methods},
        "verdicts": verdicts(c),
        "missing": list(c.missing),
        "notes": list(c.notes),
    }
    if c.scale:
        out["scale"] = {e: {"zero": a, "one": b} for e, (a, b) in c.scale.items()}
        out["by_env"] = {e: {m: _env_row(c, m, e) for m in _best_first(c, e)} for e in c.envs}
    return out


def score_words(c: Comparison) -> str:
    """What a score is."""
    words = "mean return of the last 100 training episodes at the end of a run"
    if not c.scale:
        return words
    return (
        f"{words}, normalised in each environment: 0 is the mean over all runs of the first return "
        "they report, 1 the mean final return of its best method"
    )


def _best_first(c: Comparison, env: str) -> list[str]:
    got = [m for m in c.methods if c.results.get((m, env))]
    return sorted(got, key=lambda m: -float(st.aggregate([c.raw(m, env)])))


def _env_row(c: Comparison, method: str, env: str) -> dict[str, Any]:
    return _row(c, method, [c.raw(method, env)], [c.raw(method, env, "auc")], (env,))


def _row(
    c: Comparison, method: str, scores: st.Scores, areas: st.Scores, envs: Sequence[str]
) -> dict[str, Any]:
    runs = [r for e in envs for r in c.results[method, e]]
    out: dict[str, Any] = {"seeds": [len(x) for x in scores]}
    out |= {name: _aggregate(scores, name) for name in st.AGGREGATES}
    low, high = st.percentile(st.pooled_iqm, scores)
    out["rliable_iqm"] = {"value": float(st.pooled_iqm(scores)), "low": low, "high": high}
    out["auc"] = _aggregate(areas, "iqm")
    if all(r.success is not None for r in runs):
        rates = [np.array([r.success for r in c.results[method, e]]) for e in envs]
        out["success"] = _rate(rates)
    out["spread"] = float(np.mean([st.spread(x) for x in scores]))
    out["improvement"] = _improvement(c, method, scores, envs)
    out["bound_kept"] = None if any(r.bound_kept is None for r in runs) else updates_kept(runs)
    out["bound"] = bound_words(runs)
    out["worst_kl"] = _plain(max(r.worst_kl for r in runs))
    return out


def updates_kept(runs: Sequence[Result]) -> float | None:
    """Share of the updates of all runs that are within their bounds; None where none has one."""
    have = [(r.bound_kept, r.updates) for r in runs if r.bound_kept is not None]
    if not have:
        return None
    if all(kept == 1 for kept, _ in have):
        return 1.0  # exactly, whatever sums round to
    return sum(kept * n for kept, n in have) / sum(n for _, n in have)


def _aggregate(scores: st.Scores, name: str) -> dict[str, Any]:
    got = st.estimate(scores, name)
    low, high = got.interval()
    return {"value": _plain(got.value), "low": _plain(low), "high": _plain(high)}


def _rate(rates: st.Scores) -> dict[str, Any]:
    """A mean of rates; its interval ends where rates do."""
    out = _aggregate(rates, "mean")
    return {k: x if x is None else min(max(x, 0.0), 1.0) for k, x in out.items()}


def _plain(x: Any) -> Any:
    """A number as JSON holds it: none for what is not known, `inf` as text."""
    number = float(x)
    if math.isnan(number):
        return None
    return number if math.isfinite(number) else "inf"


def _improvement(
    c: Comparison, method: str, scores: st.Scores, envs: Sequence[str]
) -> dict[str, Any] | None:
    there = all(c.results.get((c.baseline, e)) for e in envs)
    if method == c.baseline or not there:
        return None
    theirs = [c.normalised(e, c.raw(c.baseline, e)) for e in envs]
    ours = [c.normalised(e, c.raw(method, e)) for e in envs]
    value = float(st.improvement(ours, theirs))
    ends = st.improvement_interval(
        value, [(len(x), len(y)) for x, y in zip(scores, theirs, strict=True)]
    )
    low, high = ends or (None, None)
    return {"value": value, "low": low, "high": high}


def bound_words(runs: Sequence[Result]) -> str:
    """`mean <= 0.01`, or that no bound was asked."""
    asked = {(r.promise, r.bound) for r in runs if r.bound is not None}
    if not asked:
        return "no bound asked"
    promise = sorted({BOUND_WORDS.get(p, p) for p, _ in asked})
    bounds = sorted({b for _, b in asked if b is not None})
    said = f"{bounds[0]:g}" if len(bounds) == 1 else f"{bounds[0]:g} to {bounds[-1]:g}"
    return f"{', '.join(promise)} <= {said}"


def verdicts(c: Comparison) -> list[dict[str, Any]]:
    """Every method against the baseline, in the order of the table."""
    if c.baseline not in c.present:
        return []
    others = [m for m in c.present if m != c.baseline]
    out = []
    for m in others:
        v = st.verdict((m, c.baseline), c.scores(m), c.scores(c.baseline), len(others))
        out.append(
            {
                "method": m,
                "baseline": c.baseline,
                "difference": _plain(v.gap.value),
                "low": _plain(v.low),
                "high": _plain(v.high),
                "level": v.level,
                "decided": v.decided,
                "further_seeds": v.further,
                "words": v.words,
            }
        )
    return out


def timings(c: Comparison) -> dict[str, Any]:
    """Seconds a run and steps a second of every method, means over its runs."""
    out = {}
    for m in c.methods:
        runs = [r for e in c.envs for r in c.results.get((m, e), [])]
        if runs:
            seconds = sum(r.seconds for r in runs)
            out[m] = {
                "seconds_a_run": round(seconds / len(runs), 1),
                "steps_per_second": round(sum(r.env_steps for r in runs) / max(seconds, 1e-9), 1),
            }
    return out


# Tables.

Table = list[list[str]]
"""Rows of cells, the header first."""


def _ends(cell: dict[str, Any]) -> str:
    if cell["low"] is None or cell["high"] is None:
        return "-"
    return st.interval_text(cell["low"], cell["high"])


def _share(cell: dict[str, Any] | None, ends: bool) -> str:
    if cell is None:
        return "-"
    if not ends or cell["low"] is None:
        return f"{cell['value']:.2f}"
    return f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"


def _kept(row: dict[str, Any]) -> str:
    if row["bound_kept"] is None:
        return row["bound"]
    return f"{share_kept(row['bound_kept'])} ({row['bound']})"


def share_kept(share: float) -> str:
    """A share of updates within a bound, `99.98 %`: rounded down, so that 100 is said of all
    updates alone."""
    hundredths = 10_000 if share >= 1 else min(math.floor(1e4 * share + 1e-6), 9_999)
    return f"{hundredths / 100:.4g} %"


def _kl(x: Any) -> str:
    return x if isinstance(x, str) else f"{x:.3g}"


def _knows_success(rows: dict[str, Any]) -> bool:
    return any("success" in row for row in rows.values())


def short_table(rows: dict[str, Any], baseline: str, clocks: dict[str, Any]) -> Table:
    """What a terminal shows."""
    known = _knows_success(rows)
    head = ["", "IQM", "95 % interval", *["success"][:known], f"P(better than {baseline})"]
    out = [[*head, "AUC", "spread", "bound kept", "worst state KL", "time a run", "steps/s"]]
    for method, row in rows.items():
        cells = [method, st.number_text(row["iqm"]["value"]), _ends(row["iqm"])]
        cells += [_share(row.get("success"), True)][:known]
        cells += [_share(row["improvement"], True), st.number_text(row["auc"]["value"])]
        cells += [st.number_text(row["spread"]), _kept(row), _kl(row["worst_kl"])]
        spent = clocks[method]
        cells += [clock(spent["seconds_a_run"]), steps_text(spent["steps_per_second"])]
        out.append(cells)
    return out


def long_table(rows: dict[str, Any], baseline: str) -> Table:
    """What table.md holds: everything but clocks."""
    known = _knows_success(rows)
    head = ["method", "seeds", "IQM", "mean", "median", *["success"][:known]]
    out = [
        [*head, f"P(better than {baseline})", "AUC (IQM)", "spread", "bound kept", "worst state KL"]
    ]
    for method, row in rows.items():
        cells = [method, ", ".join(str(n) for n in sorted(set(row["seeds"])))]
        for name in (*st.AGGREGATES, "improvement", "auc"):
            cell = row[name]
            if name == "improvement":
                cells += [_share(row.get("success"), True)][:known]
                cells.append(_share(cell, True))
            else:
                cells.append(f"{st.number_text(cell['value'])} {_ends(cell)}")
        cells += [st.number_text(row["spread"]), _kept(row), _kl(row["worst_kl"])]
        out.append(cells)
    return out


def text(table: Table) -> list[str]:
    """A table as lines with columns as wide as they need to be."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        " " + "   ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def markdown(table: Table) -> list[str]:
    """A table as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return [lines[0], "|" + "---|" * len(table[0]), *lines[1:]]


def closing_lines(s: dict[str, Any], clocks: dict[str, Any]) -> list[str]:
    """What `compare` prints at its end: tables and verdicts."""
    lines: list[str] = []
    if s["methods"]:
        lines += text(short_table(s["methods"], s["baseline"], clocks))
    for env, rows in s.get("by_env", {}).items():
        lines += [f" {env}, returns", *text(short_table(rows, s["baseline"], clocks))]
    said = [v["words"] for v in s["verdicts"]]
    lines += [f" verdict  {words}" for words in said]
    lines += [f" missing  {words}" for words in s["missing"]]
    return lines + [f" note     {words}" for words in s["notes"]]


EXPLAINED = (
    "Intervals are 95 %, studentised with the stratified bootstrap's standard error. IQM: "
    "interquartile mean over seeds, averaged over environments (of three seeds none is cut, and it "
    "is the mean). P(better): probability of beating a run of the baseline, ties counting half. "
    "AUC: mean return over environment steps, from the first report on. Spread: distance between "
    "the 5th and 95th percentile over seeds. Bound kept: share of updates. Worst state KL: "
    "the largest of any state in any update."
)

SUCCESS = (
    "Success: mean over seeds of the success rate of the last 100 training episodes at the end."
)


def table_text(s: dict[str, Any]) -> str:
    """table.md: no clock in it, so that the same runs give the same bytes."""
    lines = [f"# {' and '.join(s['methods']) or 'Nothing finished'}", ""]
    tables = [s["methods"], *s.get("by_env", {}).values()]
    also = f" {SUCCESS}" if any(_knows_success(rows) for rows in tables) else ""
    lines += [f"Made by `{s['command']}`. Score: {s['score']}.", f"{EXPLAINED}{also}", ""]
    if s["methods"]:
        lines += [*markdown(long_table(s["methods"], s["baseline"])), ""]
    for env, rows in s.get("by_env", {}).items():
        zero, one = s["scale"][env]["zero"], s["scale"][env]["one"]
        lines += [
            f"## {env}",
            "",
            f"Returns; 0 of the scale above is {st.number_text(zero)}, 1 is {st.number_text(one)}.",
            "",
            *markdown(long_table(rows, s["baseline"])),
            "",
        ]
    lines += [f"- {v['words']}" for v in s["verdicts"]]
    lines += [f"- missing: {words}" for words in s["missing"]]
    lines += [f"- {words}" for words in s["notes"]]
    return "\n".join(lines).rstrip() + "\n"


# Files of numbers.


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if c is None else c for c in row] for row in rows])
    return out.getvalue()


def results_csv(c: Comparison) -> str:
    """A row a run, no clock in it."""
    keys = ["score", "auc", "first", "env_steps", "updates", "bound", "bound_kept", "worst_kl"]
    if any(r.success is not None for runs in c.results.values() for r in runs):
        keys.append("success")
    rows = [
        [m, e, r.seed, *(getattr(r, k) for k in keys)]
        for m in c.methods
        for e in c.envs
        for r in c.results.get((m, e), [])
    ]
    return csv_text(["method", "env", "seed", *keys], rows)


def timings_csv(c: Comparison) -> str:
    """A row a run: how long it took."""
    rows = [
        [m, e, r.seed, round(r.seconds, 3), round(r.steps_per_second, 1)]
        for m in c.methods
        for e in c.envs
        for r in c.results.get((m, e), [])
    ]
    return csv_text(["method", "env", "seed", "seconds", "steps_per_second"], rows)


@dataclass(frozen=True)
class Course:
    """A learning curve of a method in an environment over seeds."""

    steps: np.ndarray
    """Environment steps [points]."""
    iqm: np.ndarray
    """Interquartile mean over seeds [points], in returns."""
    low: np.ndarray
    high: np.ndarray
    """Ends of the 95 % interval at each point by itself; NaN with one seed."""


def course(curves: Sequence[Sequence[tuple[float, float]]], points: int = CURVE_POINTS) -> Course:
    """The learning curve over seeds, from one of (environment steps, return) of each."""
    steps, columns = common_curve(curves, points)
    got = st.estimate([columns])
    low, high = got.interval()
    return Course(steps, np.asarray(got.value), np.asarray(low), np.asarray(high))


def curves_csv(c: Comparison) -> str:
    """Learning curves: a row a point."""
    rows = []
    for e in c.envs:
        for m in _best_first(c, e):
            k = course([r.curve for r in c.results[m, e]])
            for point in zip(k.steps, k.iqm, k.low, k.high, strict=True):
                values = [None if math.isnan(x) else round(float(x), 6) for x in point[1:]]
                rows.append([m, e, int(point[0]), *values])
    return csv_text(["method", "env", "env_steps", "iqm", "low", "high"], rows)
