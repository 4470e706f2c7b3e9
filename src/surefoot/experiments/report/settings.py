"""Settings and versions side by side, with what differs marked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from surefoot.experiments.report.evidence import Evidence, flat
from surefoot.experiments.report.gather import Material

ABSENT = "–"
"""Where a method has no such field."""


@dataclass(frozen=True)
class Row:
    """A field over the columns of a sheet."""

    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether it is not the same everywhere."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Sheet:
    """Fields of the methods of an environment, those that differ first."""

    columns: tuple[str, ...]
    rows: dict[str, Row]


def compared(m: Material) -> dict[str, Sheet]:
    """Environment -> settings of its methods side by side. A field that runs of one method do not
    agree on (where a checkpoint was every so often) has all its values in one cell; seeds are
    listed as such."""
    out = {}
    for env in m.comparison.envs:
        cells = {method: runs for (method, e), runs in m.cells.items() if e == env}
        columns = {method: merged(runs) for method, runs in cells.items()}
        names = list(dict.fromkeys(name for column in columns.values() for name in column))
        rows = {n: Row(tuple(c.get(n, ABSENT) for c in columns.values())) for n in names}
        ordered = sorted(rows, key=lambda n: not rows[n].differs)  # stable: else as they stand
        out[env] = Sheet(tuple(columns), {n: rows[n] for n in ordered})
    return out


def merged(runs: Iterable[Evidence]) -> dict[str, str]:
    """The settings of runs of one method, as text."""
    runs = list(runs)
    every = [flat(x.settings) for x in runs]
    out = {
        name: either(worded(s.get(name)) if name in s else ABSENT for s in every)
        for name in dict.fromkeys(n for s in every for n in s)
        if name != "seed"
    }
    return {"seeds": " ".join(str(s) for s in sorted({x.seed for x in runs}))} | out


def worded(value: Any) -> str:
    """A setting as it is typed."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(worded(v) for v in value) or "none"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:_}"
    return str(value)


def either(values: Iterable[str]) -> str:
    """Distinct values, in the order they come."""
    return ", ".join(dict.fromkeys(values))


def versions(m: Material) -> dict[str, dict[str, int]]:
    """What runs were made with -> value -> number of runs; `not recorded` where a run does not say,
    which for the store's rows is everything but the environments' packages and the code."""
    out: dict[str, dict[str, int]] = {}
    known = [made_with(x) for x in m.evidence]
    for name in dict.fromkeys(n for k in known for n in k):
        counts = out.setdefault(name, {})
        for k in known:
            value = k.get(name, "not recorded")
            counts[value] = counts.get(value, 0) + 1
    return out


def made_with(x: Evidence) -> dict[str, str]:
    """Versions, code and machine of a run."""
    about = x.about
    out = {k: str(v) for k, v in (about.get("versions") or {}).items()}
    if about.get("code"):
        out["surefoot's code"] = str(about["code"])
    git = about.get("git")
    if isinstance(git, dict):
        changed = ", changed" if git.get("changed") else ""
        out["commit"] = f"{str(git.get('commit'))[:12]}{changed}"
    for key, word in (("machine", "processor"), ("cores", "cores"), ("threads", "threads")):
        if about.get(key) is not None:
            out[word] = str(about[key])
    return out
