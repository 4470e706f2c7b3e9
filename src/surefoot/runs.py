"""A run folder: who may write to it, how far it is, and where it goes on from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surefoot import checkpoint
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.sinks import json_lines, last_update

LOCK, MORE = ".lock", "target.json"
"""The lock of a run, and what `resume --more` has asked of it."""


class Busy(UsageError):
    """Another process writes to the run."""


@contextlib.contextmanager
def owner(folder: Path) -> Iterator[None]:
    """Be the only writer of a run while the block lasts; a process that dies lets go of it.

    What a killed writer left behind is removed. Raises `Busy` where another process holds the run.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(
            f"{folder} is being written by another process; wait for it, or stop it"
        ) from None
    try:
        for part in ("checkpoints", "best"):
            checkpoint.sweep_litter(folder / part)
        for path in folder.glob(f"{checkpoint.TEMPORARY}*"):
            path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def described(folder: Path) -> dict[str, Any]:
    """A run's `config.json`, with the target that `resume --more` set. Raises `UsageError` where
    there is no run.

    `config.json` itself never changes once a run has begun: certificates stand on its hash.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} does not exist; surefoot list runs shows what there is")
    path = folder / "config.json"
    if not path.exists():
        seeds = sorted(p.parent.name for p in folder.glob("*/config.json"))
        hint = f"; it holds the runs {', '.join(seeds)}: name one of them" if seeds else ""
        raise UsageError(f"{folder} is not a run: it has no config.json{hint}")
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("target"), int):
        raise UsageError(f"{path} is not of a run: it has no number of steps under target")
    further = folder / MORE
    return data | (json.loads(further.read_text()) if further.exists() else {})


def steps_written(folder: Path) -> int:
    """Environment steps on the last whole line of `metrics.jsonl`; 0 where there is none."""
    return int(last_update(folder).get("env_steps", 0))


def updates(folder: Path) -> list[dict[str, Any]]:
    """Every update of a run so far, as `metrics.jsonl` has it.

    Raises `UsageError` where there is none, `EnvironmentFault` where a line is not an update.
    """
    path = folder / "metrics.jsonl"
    rows = json_lines(path, growing=True) if path.exists() else []
    if not rows:
        raise UsageError(f"{folder} has no update yet: {path.name} is missing or empty")
    for i, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not {"update", "env_steps"} <= row.keys():
            raise EnvironmentFault(f"{path} line {i} is not an update: it has no env_steps")
    return rows


def finished(folder: Path) -> bool:
    """Whether a run has reached its target and its last checkpoint is whole."""
    try:
        target = described(folder)["target"]
    except UsageError:
        return False
    last = checkpoint.numbered(folder / "checkpoints")[-1:]
    if not last or steps_written(folder) < target:
        return False
    try:
        _, state = checkpoint.read(last[0])
    except checkpoint.DamagedCheckpoint:
        return False
    return state["env_steps"] >= target
