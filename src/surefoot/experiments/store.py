"""The store of results: a row a finished run, so that later work fills missing cells and never
repeats present ones.

`runs.jsonl` holds the rows, `curves/` a small file a run, `courses/` one with what the ruler said
over time and what the certificate was found to be; runs added by older versions lack that. A row
counts while the settings and the seed are the same and nothing has moved learning: its epoch is the
number of entries under *Learning* in the changelog. Rows of other epochs stay, and are passed over.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.checks import EnvironmentFault
from surefoot.config import to_json
from surefoot.envs import split
from surefoot.experiments.course import Course, from_data, read_course, to_data
from surefoot.experiments.plan import LEARNING_EPOCH, Cell, Run, plain_name
from surefoot.experiments.results import Result, read_run

ROWS = "runs.jsonl"
PACKAGES = {
    "envpool": ["envpool"],
    "gymnax": ["gymnax"],
    "jax": ["surefoot"],
    "probe": ["surefoot"],
}
"""Suite -> the packages whose version is that of its environments; Gymnasium's depend on the id."""

Key = tuple[str, int]
"""(settings hash, seed)."""


def env_packages(env: str) -> list[str]:
    """Packages that an environment's dynamics come from."""
    suite, tail = split(env)
    if suite:
        return PACKAGES[suite]
    import gymnasium

    entry = str(getattr(gymnasium.registry.get(tail), "entry_point", "")).lower()
    parts = [p for p in ("mujoco", "box2d", "minigrid") if p in entry or tail.lower().startswith(p)]
    return ["gymnasium", *parts]


class Store:
    """A folder of results. Several processes may add to it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / ROWS

    def rows(self) -> dict[Key, dict[str, Any]]:
        """Rows of this learning epoch; of two with the same key the first. Raises
        `EnvironmentFault` naming a line that is not one."""
        return {k: r for r in self._all() if (k := _key(r)) and r["epoch"] == LEARNING_EPOCH}

    def _all(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        whole = lines[:-1]  # what follows the last line break is a row that was never finished
        rows = []
        for i, line in enumerate(whole, 1):
            try:
                row = json.loads(line)
                _key(row)
            except (ValueError, KeyError, TypeError) as error:
                raise EnvironmentFault(f"{self.path} line {i} is not a row: {error}") from error
            rows.append(row)
        return rows[::-1]  # so that in a mapping the first of equal keys wins

    def result(self, row: dict[str, Any]) -> Result:
        """The result that a row holds, equal to what `read_run` said of its folder. Raises
        `EnvironmentFault` where its curve is missing."""
        path = self.folder / row["curve"]
        try:
            points = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]
        except OSError as error:
            raise EnvironmentFault(f"{path} cannot be read: {error.strerror}") from error
        numbers = row["result"]
        special = {k: float(v) for k, v in numbers.items() if v == "inf"}
        curve = tuple((int(a), float(b)) for a, b in points)
        return Result(**(numbers | special), seed=row["seed"], curve=curve)

    def course(self, row: Mapping[str, Any]) -> Course | None:
        """What is kept of a row's run over time; None where nothing is. Raises `EnvironmentFault`
        where its file is no course."""
        path = self.folder / course_file(row)
        if not path.exists():
            return None
        try:
            return from_data(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EnvironmentFault(f"{path} is not the course of a run: {error}") from error

    def lacks_course(self, row: Mapping[str, Any]) -> bool:
        """Whether nothing is kept of a row's run over time."""
        return not (self.folder / course_file(row)).exists()

    def add(self, run: Run) -> bool:
        """Add a finished run; False where it is there already, though its course is kept now where
        the row is of this very training and had none.

        Curve and course are written first and the row as one line under a lock, so that a row never
        lacks its curve and two writers never mix. Raises `EnvironmentFault` where the run says
        nothing.
        """
        from filelock import FileLock

        result = read_run(run.folder)
        row = make_row(run.cell, result, json.loads((run.folder / "config.json").read_text()))
        for name in ("curves", "courses"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{ROWS}.lock"):
            there = self.rows().get(_key(row))
            if there is None:
                write_whole(self.folder / row["curve"], curve_text(result))
            elif same_training(self.result(there), result):
                row = there
            else:
                return False
            if self.lacks_course(row):
                course = to_data(read_course(run.folder, result.env_steps))
                write_whole(self.folder / course_file(row), json.dumps(course) + "\n")
            if there is None:
                self._append(json.dumps(row) + "\n")
        return there is None

    def _append(self, line: str) -> None:
        with self.path.open("ab+") as f:
            f.seek(0)
            data = f.read()
            f.truncate(data.rfind(b"\n") + 1)  # a row that a killed writer left unfinished
            f.write(line.encode())
            f.flush()
            os.fsync(f.fileno())


def _key(row: dict[str, Any]) -> Key:
    return row["settings_hash"], row["seed"]


def course_file(row: Mapping[str, Any]) -> str:
    """Where the course of a row's run is."""
    return f"courses/{Path(row['curve']).stem}.json"


def same_training(a: Result, b: Result) -> bool:
    """Whether two results of the same settings and seed are of one training, wherever it was."""
    return math.isclose(a.score, b.score, rel_tol=1e-9)


def make_row(cell: Cell, result: Result, described: dict[str, Any]) -> dict[str, Any]:
    """The row of a finished run; `described` is its config.json."""
    versions = described["versions"]
    name = f"{cell.method}-{plain_name(cell.env)}-{cell.hash}-e{LEARNING_EPOCH}-{result.seed}.csv"
    numbers = {f: v for f, v in vars(result).items() if f not in ("seed", "curve")}
    if result.success is None:
        del numbers["success"]
    return {
        "method": cell.method,
        "env": cell.env,
        "suite": split(cell.env)[0] or "gymnasium",
        "env_versions": {p: versions[p] for p in env_packages(cell.env) if p in versions},
        "seed": result.seed,
        "settings_hash": cell.hash,
        "epoch": LEARNING_EPOCH,
        "surefoot": versions["surefoot"],
        "git": described["git"],
        "code": described.get("code"),
        "result": {k: to_json(v) for k, v in numbers.items()},
        "curve": f"curves/{name}",
        "settings": described["settings"],
    }


def curve_text(result: Result) -> str:
    """A curve as comma-separated values."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["env_steps", "episode_return"])
    writer.writerows([steps, repr(value)] for steps, value in result.curve)
    return out.getvalue()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody sees half of it."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
