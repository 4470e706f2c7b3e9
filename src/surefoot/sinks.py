"""Where the numbers of a run go: JSON lines, timings, TensorBoard. A sink is called with every
update and closed once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from surefoot.checks import EnvironmentFault

TAIL = 65536
"""Bytes read at first from the end of `metrics.jsonl`."""


class Update(NamedTuple):
    """What one update of a run says."""

    metrics: dict[str, Any]
    """Numbers and lists of them that the same command repeats to the byte: no clock in them."""
    timings: dict[str, float]
    """`update`, `env_steps`, `seconds` since the start, `steps_per_second`, and where the time
    went."""


@runtime_checkable
class Sink(Protocol):
    """Takes updates."""

    def __call__(self, update: Update) -> None: ...
    def close(self) -> None: ...


def _line(values: dict[str, Any]) -> str:
    """One line of strict JSON; numbers that are not finite become null, in lists too (and
    `update_skipped` says why)."""

    def strict(x: Any) -> Any:
        return None if isinstance(x, float) and not math.isfinite(x) else x

    clean = {k: [*map(strict, v)] if isinstance(v, list) else strict(v) for k, v in values.items()}
    return json.dumps(clean, allow_nan=False) + "\n"


class JsonLines:
    """`metrics.jsonl` and, apart from it, `timings.jsonl`: a line an update, flushed.

    `metrics.jsonl` is under contract: a checkpoint says how long it was and what it held (`mark`),
    and a run that goes on from there cuts it back first (`at`; without it lines are added to what
    is there), so that it ends up equal to the byte to that of a run that was never stopped. Timings
    are only ever added to.
    """

    def __init__(self, folder: Path, at: dict[str, Any] | None = None) -> None:
        self.path = folder / "metrics.jsonl"
        there = self.path.read_bytes() if self.path.exists() else b""
        kept = there if at is None else kept_lines(self.path, at)
        self._hash, self._size = hashlib.sha256(kept), len(kept)
        self._metrics = self.path.open("ab")
        self._metrics.truncate(self._size)
        self._timings = (folder / "timings.jsonl").open("a")

    def __call__(self, update: Update) -> None:
        line = _line(update.metrics).encode()
        self._metrics.write(line)
        self._metrics.flush()
        self._hash.update(line)
        self._size += len(line)
        self.note(update.timings)

    def note(self, timings: dict[str, Any]) -> None:
        """A line of timings that is not an update's."""
        self._timings.write(_line(timings))
        self._timings.flush()

    def mark(self) -> dict[str, Any]:
        """Bring the metrics to the disk; their length in bytes and SHA-256, for a checkpoint."""
        with self.path.open("ab") as f:  # this may come after `close`
            os.fsync(f.fileno())
        return {"metrics_bytes": self._size, "metrics_sha256": self._hash.hexdigest()}

    def close(self) -> None:
        """Close both files."""
        self._metrics.close()
        self._timings.close()


def kept_lines(path: Path, at: dict[str, Any]) -> bytes:
    """The part of `metrics.jsonl` that a checkpoint stands on.

    Raises `EnvironmentFault` where the file is shorter than that, or was changed since.
    """
    data = path.read_bytes() if path.exists() else b""
    size = at["metrics_bytes"]
    if len(data) < size:
        raise EnvironmentFault(
            f"{path} has {len(data)} bytes, the checkpoint was written after {size}; "
            "it was cut, and the run cannot go on without a gap"
        )
    if hashlib.sha256(data[:size]).hexdigest() != at["metrics_sha256"]:
        raise EnvironmentFault(
            f"{path} was edited: its first {size} bytes are not those the checkpoint was written "
            "after"
        )
    return data[:size]


def last_update(folder: Path) -> dict[str, Any]:
    """The last whole line of a run's `metrics.jsonl`; empty where there is none.

    Lines may be long, for methods report vectors too: more and more of the end is read until one
    is whole.
    """
    path, span = folder / "metrics.jsonl", TAIL
    if not path.exists():
        return {}
    with path.open("rb") as f:
        size = f.seek(0, os.SEEK_END)
        while True:
            f.seek(max(0, size - span))
            for line in reversed(f.read().splitlines(keepends=True)):
                with contextlib.suppress(ValueError):  # the first one read may be cut, and the last
                    row = json.loads(line) if line.endswith(b"\n") else None
                    if isinstance(row, dict):
                        return row
            if span >= size:
                return {}
            span *= 8


def json_lines(path: Path, torn: bool = False, growing: bool = False) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines.

    Lines that are none are passed over with `torn` (a killed writer leaves half a line in files
    that are only ever added to), else raise `EnvironmentFault` naming the line. With `growing` what
    stands behind the last line feed is not read: somebody may be writing it.
    """
    text = path.read_text()
    rows = []
    for i, line in enumerate((text[: text.rfind("\n") + 1] if growing else text).splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if not torn:
                raise EnvironmentFault(f"{path} line {i} is not JSON: {error}") from error
    return rows


class TensorBoard:
    """`events.*` for TensorBoard, under the same keys, against environment steps.

    Numbers only: the place in a vector says what an entry is, which neither a scalar nor a
    histogram of values shows.
    """

    def __init__(self, folder: Path, purge: int | None = None) -> None:
        """`purge`: the environment step from which what stands in older files no longer counts."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)

    def __call__(self, update: Update) -> None:
        step = int(update.metrics["env_steps"])
        values = update.metrics | {k: update.timings[k] for k in ("seconds", "steps_per_second")}
        for key, value in values.items():
            if key in ("env_steps", "update") or value is None or isinstance(value, list):
                continue
            if math.isfinite(value):
                self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
