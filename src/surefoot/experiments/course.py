"""The course of a run: the ruler over time, the clock and the certificate, read of its folder once
and kept small, so that a report can show them where the folder is not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot.checks import EnvironmentFault
from surefoot.experiments.results import sigma, up_to
from surefoot.runs import described, updates
from surefoot.sinks import json_lines
from surefoot.types import PROMISES
from surefoot.verifier import AGREE, CERTIFICATE, Verifier, load

COLUMNS = (
    "env_steps",
    "episode_return",
    "kl_mean",
    "kl_q99",
    "kl_max",
    "kl_reverse",
    "kl_reverse_max",
    "projection_share",
    "kl_part_cov",
    "entropy",
    "accepted",
    "update_skipped",
    "backtracks",
    "fixpo_steps",
    "fixup_tries",
    "papi_eta",
)
"""Of `metrics.jsonl`, those that a report shows (docs/metrics.md says what they are)."""
ELSEWHERE = ("env_steps", "episode_return", "kl_part_cov")
"""Those of them that are not of the ruler's charts."""
KL = {"kl_q99", *PROMISES.values()}
"""Columns whose null breaks what is promised."""
STRETCHES = 40
"""Stretches of updates that a course is kept in."""
ABOUT = ("versions", "machine", "cores", "threads")
"""What is kept of `config.json`."""

Trace = dict[str, np.ndarray]
"""Column -> its value after every update [updates], NaN where it is null or not there; columns that
no update has are left out. Of KL null is infinite: it was not finite."""


class Column(NamedTuple):
    """A column of the ruler in stretches of updates, each [stretches]."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """Smallest and largest value of any update: nothing is lost by thinning."""
    known: np.ndarray
    """Updates that have the column."""
    lost: np.ndarray
    """Updates whose value is infinite; mean and `high` are then, too."""


@dataclass(frozen=True)
class Ruler:
    """The ruler of a run, in stretches of updates: of one update each where it is whole."""

    updates: int
    """Of the run."""
    at: np.ndarray
    """Number of the first update of each stretch, from 0."""
    steps: np.ndarray
    """Environment steps, means over the updates of the stretch."""
    columns: dict[str, Column]

    @property
    def counts(self) -> np.ndarray:
        """Updates of each stretch."""
        return np.diff(np.append(self.at, self.updates))


def whole(trace: Trace) -> Ruler:
    """A ruler of stretches of one update."""
    columns = {
        name: Column(x, x, x, (~np.isnan(x)).astype(int), np.isinf(x).astype(int))
        for name, x in trace.items()
        if name not in ELSEWHERE
    }
    n = len(trace["env_steps"])
    return Ruler(n, np.arange(n), trace["env_steps"], columns)


def pooled(rulers: Sequence[Ruler], name: str, n: int) -> tuple[np.ndarray, Column]:
    """A column of several runs in at most `n` stretches of the longest: its environment steps and
    its values. Every run must have the column."""
    longest = max(r.updates for r in rulers)
    where = np.concatenate([r.at * n // longest for r in rulers])
    counts = np.concatenate([r.counts for r in rulers])
    ahead = np.concatenate([r.steps * r.counts for r in rulers])
    parts = [np.concatenate(p) for p in zip(*(r.columns[name] for r in rulers), strict=True)]
    steps, out = list[float](), list[tuple[float, ...]]()
    for i in np.unique(where):
        here = where == i
        steps.append(ahead[here].sum() / counts[here].sum())
        mean, low, high, known, lost = (p[here & (parts[3] > 0)] for p in parts)
        found = known.sum()
        some = (math.nan,) * 3
        if found:  # rounding must not put the mean outside
            least, most = low.min(), high.max()
            some = min(max(mean @ known / found, least), most), least, most
        out.append((*some, found, lost.sum()))
    return np.array(steps), Column(*np.array(out, float).T)


def thinned(ruler: Ruler, n: int = STRETCHES) -> Ruler:
    """The same in at most `n` stretches."""
    n = min(n, len(ruler.at))
    _, first = np.unique(ruler.at * n // ruler.updates, return_index=True)
    got = {name: pooled([ruler], name, n) for name in ruler.columns}
    weights = ruler.counts
    steps = np.add.reduceat(ruler.steps * weights, first) / np.add.reduceat(weights, first)
    columns = {name: column for name, (_, column) in got.items()}
    return Ruler(ruler.updates, ruler.at[first], steps, columns)


@dataclass(frozen=True)
class Certificate:
    """What checking the certificate of a run found."""

    updates: int
    checked: int
    """Updates whose value was computed in float64 while training."""
    recomputed: int
    """Updates whose value was computed again when it was checked, from kept arrays."""
    largest: float | None
    """Largest float64 value; None where none was checked."""
    worst: int
    """Its update."""
    above: int
    """Updates with a value above the bound."""
    findings: tuple[str, ...]
    """What is wrong; empty where it holds."""


# Of a folder.


def traced(rows: Sequence[Mapping[str, Any]], folder: Path) -> Trace:
    """The columns of a report, sigma among them. Raises `EnvironmentFault` for one that is not of
    numbers."""
    out: Trace = {}
    for name in COLUMNS:
        if not any(name in row for row in rows):
            continue
        values = [row.get(name) for row in rows]
        if not all(x is None or isinstance(x, (int, float)) for x in values):
            raise EnvironmentFault(f"{folder / 'metrics.jsonl'}: {name} is not a number")
        numbers = np.array([math.nan if x is None else x for x in values], np.float64)
        if name in KL:
            there = np.array([name in row for row in rows])
            numbers[there & ~np.isfinite(numbers)] = math.inf
        out[name] = numbers
    spread = spread_of_actions(out, folder)
    return out if spread is None else out | {"sigma": spread}


def spread_of_actions(trace: Trace, folder: Path) -> np.ndarray | None:
    """Sigma of a Gaussian policy [updates]: the geometric mean over action dimensions and states,
    on the scale of the network's output; None for other policies. The number of dimensions is that
    of the newest checkpoint's mean."""
    if "kl_part_cov" not in trace or "entropy" not in trace:
        return None
    for path in sorted((folder / "checkpoints").glob("[0-9]*/arrays.safetensors"), reverse=True):
        try:
            arrays = load(path)
        except (OSError, ValueError):
            continue
        means = [x for n, x in arrays.items() if n.endswith("head/mean/bias")]
        if means:
            return sigma(trace["entropy"], means[0].shape[-1])
    return None


def clock_of(folder: Path) -> np.ndarray:
    """Environment steps and seconds since the start [rows, 2] by `timings.jsonl`, over all
    stretches of a run: its clock starts again where the run was resumed, and what was done twice
    counts twice."""
    path = folder / "timings.jsonl"
    before, last, out = 0.0, 0.0, dict[float, float]()
    for row in json_lines(path, torn=True) if path.exists() else []:
        now = row.get("seconds")
        if now is None or now < last:
            before, last = before + last, 0.0
        last = now or 0.0
        if now is not None and "env_steps" in row:
            out[row["env_steps"]] = before + last
    return np.array(sorted(out.items()), float).reshape(-1, 2)


def certified(folder: Path) -> Certificate | None:
    """The certificate of a run, checked now; None where the run has none."""
    if not (folder / CERTIFICATE).is_file():
        return None
    check = Verifier(folder).verify()
    bound = math.inf if check.bound is None else check.bound
    exact = [(line["float64"], line["update"]) for line in check.lines]
    largest = max((pair for pair in exact if pair[0] is not None), default=(None, 0))
    above = sum(
        line["float32"] > bound or (line["float64"] or 0.0) > bound * (1 + AGREE)
        for line in check.lines
    )
    return Certificate(
        updates=len(check.lines),
        checked=sum(x is not None for x, _ in exact),
        recomputed=check.recomputed,
        largest=largest[0],
        worst=largest[1],
        above=above,
        findings=tuple(check.findings),
    )


# Kept.


@dataclass(frozen=True)
class Course:
    """What the store keeps of a run beside its row and its curve."""

    ruler: Ruler
    clock: np.ndarray
    """Environment steps and seconds [points, 2]; of no points where there is no clock."""
    certificate: Certificate | None
    about: dict[str, Any]
    """Of `config.json`, the fields of `ABOUT`."""


def read_course(folder: Path, steps: int) -> Course:
    """The course of a run folder up to `steps` environment steps. Raises as `traced` does."""
    ruler = whole(traced(up_to(updates(folder), steps), folder))
    clock = clock_of(folder)
    if len(clock):
        few = np.linspace(0, len(clock) - 1, min(len(clock), STRETCHES)).round().astype(int)
        clock = clock[few]
    about = described(folder)
    kept = {k: about[k] for k in ABOUT if k in about}
    return Course(thinned(ruler), clock, certified(folder), kept)


def to_data(course: Course) -> dict[str, Any]:
    """As JSON data, numbers to five digits; ends of a band that are the mean, and counts that are
    those of the stretch or none, are left out."""
    r = course.ruler
    columns: dict[str, Any] = {}
    for name, c in r.columns.items():
        own: dict[str, Any] = {"mean": numbers(c.mean)}
        own |= {k: got for k in ("low", "high") if (got := numbers(getattr(c, k))) != own["mean"]}
        if not np.array_equal(c.known, r.counts):
            own["known"] = c.known.astype(int).tolist()
        if c.lost.any():
            own["lost"] = c.lost.astype(int).tolist()
        columns[name] = own
    return {
        "updates": r.updates,
        "at": r.at.tolist(),
        "env_steps": numbers(r.steps, 7),
        "columns": columns,
        "clock": [[int(steps), round(float(seconds), 3)] for steps, seconds in course.clock],
        "certificate": None if course.certificate is None else asdict(course.certificate),
        "about": course.about,
    }


def from_data(data: Mapping[str, Any]) -> Course:
    """The way back."""
    at = np.array(data["at"], int)
    counts = np.diff(np.append(at, data["updates"]))

    def column(own: Mapping[str, Any]) -> Column:
        mean = floats(own["mean"])
        low, high = (floats(own[k]) if k in own else mean for k in ("low", "high"))
        known, lost = own.get("known", counts), own.get("lost", np.zeros(len(mean)))
        return Column(mean, low, high, np.array(known, float), np.array(lost, float))

    said = data["certificate"]
    columns = {name: column(own) for name, own in data["columns"].items()}
    return Course(
        ruler=Ruler(data["updates"], at, floats(data["env_steps"]), columns),
        clock=np.array(data["clock"], float).reshape(-1, 2),
        certificate=said and Certificate(**(said | {"findings": tuple(said["findings"])})),
        about=dict(data["about"]),
    )


def numbers(x: np.ndarray, digits: int = 5) -> list[float | str | None]:
    """JSON data of numbers: `inf`, and null for NaN."""
    return [
        None if math.isnan(v) else str(float(v)) if math.isinf(v) else float(f"{v:.{digits}g}")
        for v in x
    ]


def floats(x: Sequence[Any]) -> np.ndarray:
    """The way back."""
    return np.array([math.nan if v is None else float(v) for v in x])
