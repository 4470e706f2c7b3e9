"""Updates that were undone because something was not finite: each leaves a file, and too many of
them stop the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.provenance import write_json
from surefoot.sinks import Update

LIMIT, SPAN = 5, 100
"""As many incidents in as many updates stop a run."""
PARTS = {"update_skipped": "policy", "value_skipped": "critic"}
"""Column that says an update was undone -> what was kept as it was."""


class Incidents:
    """A sink that writes `incidents/000123.json` for every update that was undone.

    `learn` has kept the last good state by then, and training goes on. `tripped` once five of the
    last hundred updates were undone. `rollout` gives what the update learned from; `recent` are the
    numbers of incidents that still count.
    """

    def __init__(
        self, folder: Path, rollout: Callable[[], Any], recent: Iterable[int] = ()
    ) -> None:
        self.folder, self._rollout = folder / "incidents", rollout
        self.recent = list(recent)
        self.tripped = False

    def __call__(self, update: Update) -> None:
        kept = [part for column, part in PARTS.items() if update.metrics[column]]
        if not kept:
            return
        number = update.metrics["update"]
        self.recent[:] = [n for n in self.recent if n > number - SPAN] + [number]
        self.tripped = len(self.recent) >= LIMIT
        self.folder.mkdir(exist_ok=True)
        what = {"update": number, "kept_as_it_was": kept, "rollout": summary(self._rollout())}
        metrics = {k: plain(v) for k, v in update.metrics.items()}
        write_json(self.folder / f"{number:06d}.json", what | {"metrics": metrics})

    def close(self) -> None:
        """Nothing to close."""


def plain(x: Any) -> Any:
    """A number, or a list of them, as strict JSON has it; one that is not finite in words."""
    if isinstance(x, list):
        return [plain(v) for v in x]
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def summary(rollout: Any) -> dict[str, Any]:
    """Smallest and largest of what a rollout held, and how many entries were not finite."""
    out: dict[str, Any] = {}
    for name in ("obs", "action", "reward"):
        x = np.asarray(getattr(rollout, name), np.float64)
        good = x[np.isfinite(x)]
        ends = [float(good.min()), float(good.max())] if good.size else None
        out[name] = {"range": ends, "not_finite": int(x.size - good.size)}
    return out
