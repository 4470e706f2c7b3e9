"""Where the numbers of a run go: JSON lines, timings, TensorBoard. A sink is called with every
update and closed once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Update(NamedTuple):
    """What one update of a run says."""

    metrics: dict[str, Any]
    """Numbers that the same command repeats to the byte: no clock in them."""
    timings: dict[str, float]
    """`update`, `env_steps`, `seconds` since the start, `steps_per_second`, and where the time
    went."""


@runtime_checkable
class Sink(Protocol):
    """Takes updates."""

    def __call__(self, update: Update) -> None: ...
    def close(self) -> None: ...


def _line(values: dict[str, Any]) -> str:
    """One line of strict JSON; numbers that are not finite become null (and `update_skipped` says
    why)."""
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()
    }
    return json.dumps(clean, allow_nan=False) + "\n"


class JsonLines:
    """`metrics.jsonl` and, apart from it, `timings.jsonl`: a line an update, flushed."""

    def __init__(self, folder: Path) -> None:
        self._metrics = (folder / "metrics.jsonl").open("a")
        self._timings = (folder / "timings.jsonl").open("a")

    def __call__(self, update: Update) -> None:
        self._metrics.write(_line(update.metrics))
        self._metrics.flush()
        self._timings.write(_line(update.timings))
        self._timings.flush()

    def close(self) -> None:
        """Close both files."""
        self._metrics.close()
        self._timings.close()


class TensorBoard:
    """`events.*` for TensorBoard, under the same keys, against environment steps."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=10)

    def __call__(self, update: Update) -> None:
        step = int(update.metrics["env_steps"])
        values = update.metrics | {k: update.timings[k] for k in ("seconds", "steps_per_second")}
        for key, value in values.items():
            if key not in ("env_steps", "update") and value is not None and math.isfinite(value):
                self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
