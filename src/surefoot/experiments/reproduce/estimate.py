"""How long a scope would take, before it is begun.

A run takes what it costs to start and its steps at the pace of its method in its task. The pace is
that of rows of the store (the fastest of them: what slows a run down is what else the machine
does), and where it has none the figure below, measured on one core of the two-core machine that
the library's other figures are of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from surefoot.envs import split
from surefoot.experiments.plan import Cell, Run

START = 5.0
"""Seconds until the first update of a run whose programs are compiled already."""
PACE = {
    "Pendulum-v1": 23,
    "LunarLander-v3": 26,
    "BipedalWalker-v3": 110,
    "BipedalWalkerHardcore-v3": 205,
    "HalfCheetah-v5": 34,
    "Hopper-v5": 58,
    "Walker2d-v5": 91,
    "Swimmer-v5": 56,
    "InvertedDoublePendulum-v5": 39,
    "Reacher-v5": 26,
    "Ant-v5": 205,
    "Humanoid-v5": 295,
    "HumanoidStandup-v5": 350,
    "MiniGrid-Unlock-v0": 264,
    "MiniGrid-UnlockPickup-v0": 300,
}
"""Task -> seconds of one core that a first-order method takes for a million steps. Those of the
results store are its fastest runs; BipedalWalker, Ant and the humanoids are processor seconds of
25 000 steps, and rougher."""
FACTORS = {"mcpo": 1.4, "fixpo": 1.1, "trpl": 1.3}
"""Method -> its pace over a first-order method's."""
FACTORS_MINIGRID = {"mcpo": 2.2}
"""The same where an update is most of the time: wide observations."""


@dataclass(frozen=True)
class Estimate:
    """Seconds until all runs are finished, and where the number comes from."""

    seconds: float
    runs: int
    jobs: int
    source: str

    @property
    def words(self) -> str:
        """`about 4 min for 15 runs, 2 at a time (...)`."""
        plural = "s" * (self.runs != 1)
        return (
            f"about {duration(self.seconds)} for {self.runs} run{plural}, "
            f"{self.jobs} at a time ({self.source})"
        )


def duration(seconds: float) -> str:
    """`40 s`, `6 min`, `2.5 h`, `3.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def paces(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """(method, environment) -> seconds a step of the fastest row of a store."""
    out: dict[tuple[str, str], float] = {}
    for row in rows:
        result = row["result"]
        if result["env_steps"] and result["seconds"] > 0:
            key = row["method"], row["env"]
            pace = result["seconds"] / result["env_steps"]
            out[key] = min(pace, out.get(key, pace))
    return out


def shipped(cell: Cell) -> float:
    """Seconds a step by the figures above."""
    tail = split(cell.env)[1]
    factors = FACTORS_MINIGRID if tail.startswith("MiniGrid") else FACTORS
    return PACE[tail] * factors.get(cell.method, 1.0) / 1e6


def estimate(
    runs: Iterable[Run], jobs: int, rows: Iterable[Mapping[str, Any]] = (), cores: int | None = None
) -> Estimate:
    """How long these runs take, `jobs` at a time on `cores` cores (as many as jobs where None).

    Runs that were broken off count as if they began anew. Processes beyond the cores gain nothing.
    """
    known = paces(rows)
    seconds: list[float] = []
    sources: set[bool] = set()
    for run in runs:
        key = run.cell.method, run.cell.env
        sources.add(key in known)
        pace = known.get(key) or shipped(run.cell)
        seconds.append(START + pace * run.cell.config.steps)
    at_once = max(1, min(jobs, cores or jobs))
    total = max([sum(seconds) / at_once, *seconds], default=0.0)
    source = {
        frozenset({True}): "by the pace of the store's runs",
        frozenset({False}): "by figures measured on two cores of 2026",
        frozenset({True, False}): "by the pace of the store's runs, and figures of two cores of "
        "2026 where it has none",
    }.get(frozenset(sources), "nothing is left to run")
    return Estimate(total, len(seconds), jobs, source)
