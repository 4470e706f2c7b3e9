"""Numbers that tables and figures are about, read of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from surefoot.experiments.reproduce.items import Measure
from surefoot.experiments.results import sigma as spread

Rows = Sequence[Mapping[str, Any]]

SCORE = Measure("score", "mean return of the last 100 training episodes at the end of a run")
SUCCESS = Measure("success", "success rate of the last 100 training episodes at the end of a run")


def values(rows: Rows, column: str) -> np.ndarray:
    """The finite values of a column of `metrics.jsonl`, in order; empty where it has none."""
    got = [r[column] for r in rows if r.get(column) is not None]
    return np.array(got, float)


def mean_of(column: str, part: slice) -> Callable[[Rows], float | None]:
    """Mean of a column over a part of the updates, in tenths of the run; None where the run has too
    few updates to have such a part."""

    def read(rows: Rows) -> float | None:
        got = values(rows, column)
        tenth = max(1, len(got) // 10)
        start = 0 if part.start is None else part.start * tenth
        stop = None if part.stop is None else part.stop * tenth
        there = got[start:stop]
        return float(np.mean(there)) if len(there) else None

    return read


FIXUP_START = Measure(
    "fixup_start",
    "fix-up gradient steps an update, mean over the first tenth of the updates",
    better=0,
    of=mean_of("fixpo_steps", slice(None, 1)),
)
FIXUP_LATER = Measure(
    "fixup_later",
    "fix-up gradient steps an update, mean over the third tenth of the updates",
    better=0,
    of=mean_of("fixpo_steps", slice(2, 3)),
)


def sigma(actions: int) -> Measure:
    """Standard deviation of a Gaussian policy of `actions` dimensions at the end of a run: the
    geometric mean over actions, from the entropy H: exp(H / d - log(2 pi e) / 2)."""

    def read(rows: Rows) -> float | None:
        got = values(rows, "entropy")
        if not len(got):
            return None
        return float(spread(got[-1:], actions)[0])

    return Measure(
        "sigma",
        "standard deviation of the policy at the end, geometric mean over actions",
        better=0,
        of=read,
    )


def log_ratio(column: str) -> Callable[[Rows], float | None]:
    """Median over updates of the logarithm of an extreme of the ratio."""

    def read(rows: Rows) -> float | None:
        got = values(rows, column)
        positive = got[got > 0]  # a ratio of 0 is one that float32 cannot hold
        return float(np.median(np.log(positive))) if len(positive) else None

    return read


LOG_RATIO_LOW = Measure(
    "log_ratio_low",
    "log of the batch's smallest ratio new / old, median over updates",
    better=0,
    of=log_ratio("ratio_min"),
)
LOG_RATIO_HIGH = Measure(
    "log_ratio_high",
    "log of the batch's largest ratio new / old, median over updates",
    better=0,
    of=log_ratio("ratio_max"),
)
