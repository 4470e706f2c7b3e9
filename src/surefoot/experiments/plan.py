"""What there is to do: cells of a method in an environment, their run folders, and what is missing.

The folder of a run follows from its settings and from the learning epoch alone, so that the same
command finds what it left behind.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from surefoot.checks import UsageError
from surefoot.config import Config, method_name, read_config, to_json
from surefoot.envs import split
from surefoot.runs import LOCK, Busy, finished, owner

LEARNING_EPOCH = 4
"""Number of entries under *Learning* in the changelog: results of another epoch do not count."""

WITHOUT_EFFECT = ("seed", "preset", "keep_checkpoints", "certify_every")
"""Settings that do not tell two cells apart: they change no bit of a run, or are its seed."""

DEVICE_SUITES = ("jax", "gymnax", "probe")

State = Literal["finished", "resume", "train"]


def moved_settings(record: Any) -> dict[str, Any]:
    """The settings of a record that are not at their defaults, as JSON data, records with their
    kind.

    What is left out may gain fields without a run becoming another; a default that moves moves
    learning, and with it the epoch.
    """
    out: dict[str, Any] = {} if isinstance(record, Config) else {"type": type(record).__name__}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(record, Config) and field.name in WITHOUT_EFFECT:
            continue
        if value == field.default and type(value) is type(field.default):
            continue
        nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
        out[field.name] = moved_settings(value) if nested else to_json(value)
    return out


def digest(data: Any) -> str:
    """Eight hex digits of JSON data."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def settings_hash(config: Config[Any, Any]) -> str:
    """Eight hex digits that differ between cells: all settings but the seed."""
    return digest(moved_settings(config))


def plain_name(env: str) -> str:
    """An environment's id as part of a file name."""
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in env)


@dataclass(frozen=True)
class Cell:
    """A method in an environment, over seeds."""

    label: str
    """What the method is called in the table: its name, or the stem of its settings file."""
    config: Config[Any, Any]

    @property
    def method(self) -> str:
        """Lower-case name of the method."""
        return method_name(self.config.method)

    @property
    def env(self) -> str:
        """Id of the environment."""
        return self.config.env

    @functools.cached_property
    def hash(self) -> str:
        """`settings_hash` of its settings."""
        return settings_hash(self.config)

    def folder(self, root: Path) -> Path:
        """Where the runs of the cell live: one folder for all that use these settings."""
        key = digest([self.hash, LEARNING_EPOCH])
        return root / f"{self.method}-{plain_name(self.env)}-{key}"


@dataclass(frozen=True)
class Run:
    """A seed of a cell and its folder."""

    cell: Cell
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """`trpo CartPole-v1 seed 0`."""
        return f"{self.cell.label} {self.cell.env} seed {self.seed}"

    @property
    def settings_file(self) -> Path:
        """The settings of the cell, for `train --config`."""
        return self.folder.parent / "settings.json"

    @property
    def log(self) -> Path:
        """What the process that trains it prints."""
        return self.folder.with_suffix(".log")


def runs_of(cell: Cell, seeds: list[int], root: Path) -> list[Run]:
    """The runs of a cell."""
    return [Run(cell, seed, cell.folder(root) / f"seed-{seed}") for seed in seeds]


def state(run: Run) -> State:
    """What is to be done with a run. Raises `UsageError` where its folder holds something else."""
    if not (run.folder / "config.json").exists():
        left = sorted(p.name for p in run.folder.glob("*")) if run.folder.exists() else []
        if any(not _litter(name) for name in left):
            raise UsageError(
                f"{run.folder} holds files but no config.json, so it is no run; move it away"
            )
        return "train"
    there = read_config(run.folder / "config.json")
    if settings_hash(there) != run.cell.hash or there.seed != run.seed:
        raise UsageError(f"{run.folder} holds a run with other settings; move it away")
    return "finished" if finished(run.folder) else "resume"


def _litter(name: str) -> bool:
    return name == LOCK or name.startswith(".tmp-")


@dataclass(frozen=True)
class Task:
    """Runs that one process trains: one, or seeds of a cell as one vmap on the device."""

    runs: tuple[Run, ...]

    @property
    def together(self) -> bool:
        """Whether it is a vmap, which has the machine for itself."""
        return len(self.runs) > 1

    @property
    def first(self) -> Run:
        """The run whose progress is that of all; its log is theirs."""
        return self.runs[0]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return all(state(run) == "finished" for run in self.runs)

    @property
    def name(self) -> str:
        """`ppo jax:CartPole-v1 seed 0`, or `seeds 0 to 4`."""
        if not self.together:
            return self.first.name
        cell = self.first.cell
        return f"{cell.label} {cell.env} seeds {', '.join(str(r.seed) for r in self.runs)}"


def tasks_of(runs: list[Run], vmap: bool) -> list[Task]:
    """Tasks for runs that are not finished.

    With `vmap` seeds of a cell on the device that have not begun are one task. Seeds that were
    broken off as one go on as one, those among them that are finished or not asked for included:
    the bits are those of the company.
    """
    companies = {r: c for r in runs if (c := company(r))}
    taken = {member for c in companies.values() for member in c}
    tasks: dict[Any, tuple[Run, ...]] = {}
    for run in runs:
        if run in companies:
            tasks[companies[run]] = companies[run]
        elif run in taken:  # its company knows of it, it does not yet
            continue
        elif vmap and on_device(run.cell.env) and state(run) == "train":
            tasks[run.folder.parent] = (*tasks.get(run.folder.parent, ()), run)
        else:
            tasks[run] = (run,)
    return [Task(members) for members in tasks.values()]


def on_device(env: str) -> bool:
    """Whether an environment is compiled together with the update."""
    return split(env)[0] in DEVICE_SUITES


def company(run: Run) -> tuple[Run, ...] | None:
    """Every run of the vmap that a run was begun in; None for one of its own."""
    path = run.folder / "config.json"
    seeds = json.loads(path.read_text()).get("vmap") if path.exists() else None
    root = run.folder.parent
    return None if seeds is None else tuple(Run(run.cell, s, root / f"seed-{s}") for s in seeds)


def busy(task: Task) -> bool:
    """Whether another process is writing to a run of a task."""
    for run in task.runs:
        if (run.folder / LOCK).exists():
            try:
                with owner(run.folder):
                    continue
            except Busy:
                return True
    return False


def prepare(task: Task) -> list[str]:
    """Make room for the runs of a task and write their settings; the arguments of `surefoot` that
    train them or go on with them."""
    run = task.first
    states = [state(r) for r in task.runs]
    if states == ["resume"]:
        return ["resume", str(run.folder), "--quiet"]
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    run.settings_file.write_text(json.dumps(to_json(run.cell.config), indent=1) + "\n")
    if task.together:
        seeds = [str(r.seed) for r in task.runs]
        return ["compare", "--together", str(run.settings_file), *seeds]
    if run.folder.exists():  # empty, but for what a killed process left
        shutil.rmtree(run.folder)
    command = ["train", run.cell.method, "--config", str(run.settings_file)]
    return [*command, "--seed", str(run.seed), "--run-dir", str(run.folder), "--quiet"]
