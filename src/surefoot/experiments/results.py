"""What a finished run says: its score, its curve, what became of the bound, how long it took."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.checks import EnvironmentFault
from surefoot.sinks import json_lines
from surefoot.verifier import COLUMNS

CURVE_POINTS = 200
"""Points of a curve that are kept."""


@dataclass(frozen=True)
class Result:
    """A finished run in numbers. Returns are means over the last 100 training episodes, as in
    `metrics.jsonl`."""

    seed: int
    score: float
    """Return at the end."""
    first: float
    """The first return reported."""
    auc: float
    """Mean of the return over environment steps (trapezoids), from its first report to the end."""
    env_steps: int
    updates: int
    bound: float | None
    """The bound asked for; None where the method promises nothing."""
    promise: str
    bound_kept: float | None
    """Share of updates within the bound; None where none was asked."""
    worst_kl: float
    """Largest KL(old, new) of any state in any update; infinite where one was not finite."""
    seconds: float
    """Wall time from the first update on, summed over the stretches that a run was resumed in."""
    curve: tuple[tuple[int, float], ...]
    """(environment steps, return), at most 200 of them, the first and the last among them."""
    success: float | None = None
    """Success rate of the last 100 training episodes at the end; None where the environment has no
    notion of it."""

    @property
    def steps_per_second(self) -> float:
        """Environment steps over wall time."""
        return self.env_steps / self.seconds if self.seconds > 0 else math.nan


def read_run(folder: Path, steps: int | None = None) -> Result:
    """The result of a run folder after `steps` environment steps; None: after those of its
    settings. Raises `EnvironmentFault` where its files do not hold one: no episode ended, or lines
    that are not JSON."""
    described = json.loads((folder / "config.json").read_text())
    settings = described["settings"]
    rows = up_to(json_lines(folder / "metrics.jsonl"), steps or settings["steps"])
    seen = [(r["env_steps"], r["episode_return"]) for r in rows if r["episode_return"] is not None]
    if not seen:
        raise EnvironmentFault(
            f"no episode of {folder} ended within {rows[-1]['env_steps'] if rows else 0} steps; "
            "more --steps would show a return"
        )
    promise, bound = described["promise"], described["bound"]
    return Result(
        seed=settings["seed"],
        score=seen[-1][1],
        first=seen[0][1],
        auc=area(seen),
        env_steps=rows[-1]["env_steps"],
        updates=rows[-1]["update"],
        bound=bound,
        promise=promise,
        bound_kept=None if bound is None else bound_kept(promise, bound, rows),
        worst_kl=max(math.inf if r["kl_max"] is None else r["kl_max"] for r in rows),
        seconds=wall_seconds(
            [
                r
                for r in json_lines(folder / "timings.jsonl", torn=True)
                if r.get("env_steps", 0) <= rows[-1]["env_steps"]
            ]
        ),
        curve=thinned(seen),
        success=rows[-1].get("success_rate"),
    )


def up_to(rows: Sequence[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """Updates up to the first that reaches `steps`: a run may have been extended since."""
    for i, row in enumerate(rows):
        if row["env_steps"] >= steps:
            return list(rows[: i + 1])
    return list(rows)


def bound_kept(promise: str, bound: float, rows: Sequence[dict[str, Any]]) -> float:
    """Share of updates within a bound, by the column of the metrics that a promise is about.

    An update whose KL is not finite (null) did not keep it.
    """
    key = COLUMNS.get(promise, "kl_mean")
    return sum(r[key] is not None and r[key] <= bound for r in rows) / len(rows)


def area(curve: Sequence[tuple[int, float]]) -> float:
    """Mean height of a curve of (steps, return): the area under it over its length."""
    if len(curve) == 1:
        return curve[0][1]
    steps, height = np.array(curve, float).T
    return float(np.trapezoid(height, steps) / (steps[-1] - steps[0]))


def thinned(curve: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """At most `CURVE_POINTS` of a curve, evenly picked, both ends among them."""
    n = len(curve)
    picked = sorted({round(i) for i in np.linspace(0, n - 1, min(n, CURVE_POINTS))})
    return tuple((int(curve[i][0]), float(curve[i][1])) for i in picked)


def wall_seconds(rows: Sequence[dict[str, Any]]) -> float:
    """Seconds of training over all stretches of a run: the clock of `timings.jsonl` starts again
    where the run was resumed."""
    total, last = 0.0, 0.0
    for row in rows:
        now = row.get("seconds")
        if now is None or now < last:
            total, last = total + last, 0.0
        last = now or 0.0
    return total + last


def common_curve(
    curves: Sequence[Sequence[tuple[float, float]]], points: int = CURVE_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Curves at the same steps: steps [points], and returns [points, curves], linear between what
    was reported; from where all have begun to where the first ends."""
    start, end = max(c[0][0] for c in curves), min(c[-1][0] for c in curves)
    steps = np.unique(np.linspace(start, max(start, end), points).round())
    columns = [np.interp(steps, *np.array(c, float).T) for c in curves]
    return steps, np.stack(columns, axis=-1)


def sigma(entropy: np.ndarray, actions: int) -> np.ndarray:
    """Geometric mean over `actions` dimensions of a Gaussian's standard deviations, from its
    entropy [...] in nats.

    The entropy over d dimensions is the log of the volume: H = d / 2 log(2 pi e) +
    log(sigma_1 ... sigma_d), so that their geometric mean is exp(H / d) / sqrt(2 pi e).
    """
    return np.exp(np.asarray(entropy) / actions) / math.sqrt(2 * math.pi * math.e)
