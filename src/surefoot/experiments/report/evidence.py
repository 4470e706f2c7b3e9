"""What a report stands on: a run of its folder or of the results store, read once and kept small.

A folder has everything: the ruler of every update, the clock, the certificate, versions and the
command. A row of the store has a score, a curve, what became of the bound, and the total time; the
store also keeps the course of runs: the ruler in stretches, the clock, and what the certificate was
found to be.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.checks import EnvironmentFault
from surefoot.experiments.course import (
    KL,
    Certificate,
    Ruler,
    Trace,
    certified,
    clock_of,
    traced,
    whole,
)
from surefoot.experiments.results import Result, read_run, up_to
from surefoot.experiments.store import Store
from surefoot.methods import METHODS
from surefoot.runs import described, updates

NAMED = 5
"""Most updates that a note names."""


@dataclass(frozen=True)
class Evidence:
    """A run, wherever it is known from."""

    label: str
    """What its method is called in the report."""
    env: str
    seed: int
    place: str
    """Its folder, or the store it is a row of."""
    stored: bool
    """Whether it is known from the store alone."""
    settings: dict[str, Any]
    about: dict[str, Any]
    """What `config.json` says beside settings, or what the store's row does."""
    promise: str
    bound: float | None
    result: Result | None
    ruler: Ruler | None
    """None for rows of the store whose course it does not keep."""
    curve: np.ndarray
    """Steps, seconds since the start and return [points, 3] of every update with a return. Seconds
    of the store's rows without a course are spread evenly over steps; NaN where there is no
    clock."""
    certificate: Certificate | None
    """Of rows of the store as it was checked when the run was added, else as it is now."""
    notes: tuple[str, ...] = ()
    """What is missing or unusual, each naming the run."""

    @property
    def name(self) -> str:
        """`trpo CartPole-v1 seed 0`."""
        return f"{self.label} {self.env} seed {self.seed}"

    @property
    def command(self) -> str | None:
        """The line that trained it; None where it is not known."""
        words = self.about.get("command")
        return shlex.join(map(str, words)) if isinstance(words, list) and words else None


def from_folder(folder: Path, label: str, steps: int | None = None) -> Evidence:
    """A run of its folder up to `steps` environment steps; None: as far as it was asked to go.

    Raises `UsageError` where there is no run or no update yet, `EnvironmentFault` where its files
    hold something else. What is not there, and what older runs did not write, is a note.
    """
    about = described(folder)
    settings = about.get("settings")
    if not isinstance(settings, dict) or not {"env", "seed"} <= settings.keys():
        raise EnvironmentFault(f"{folder / 'config.json'} has no settings of a run")
    steps = steps or int(about["target"])
    rows = up_to(updates(folder), steps)
    name = f"{label} {settings['env']} seed {settings['seed']}"
    notes: list[str] = []
    if rows[-1]["env_steps"] < steps:
        notes.append(f"{name} is at {rows[-1]['env_steps']} of {steps} steps")
    trace = traced(rows, folder)
    if lost := not_finite(trace, [row.get("update", i + 1) for i, row in enumerate(rows)]):
        notes.append(f"{name}: the KL is not finite in {lost}")
    result = None
    try:
        result = read_run(folder, steps)
    except EnvironmentFault as error:
        notes.append(f"{name} has no score: {error}")
    except (KeyError, TypeError, OSError) as error:
        lacks = error.args[0] if isinstance(error, KeyError) else error
        notes.append(f"{name} has no score: its files lack {lacks}, as those of older runs do")
    return Evidence(
        label=label,
        env=settings["env"],
        seed=settings["seed"],
        place=str(folder),
        stored=False,
        settings=settings,
        about={k: v for k, v in about.items() if k != "settings"},
        promise=about.get("promise", "not recorded"),
        bound=about.get("bound"),
        result=result,
        ruler=whole(trace),
        curve=curve_of(trace, clock_of(folder)),
        certificate=certified(folder),
        notes=tuple(notes),
    )


def from_store(store: Store, row: Mapping[str, Any], label: str) -> Evidence:
    """A run of a row of the store. Raises `EnvironmentFault` where its curve is missing."""
    result, course = store.result(dict(row)), store.course(row)
    points = np.array(result.curve, float).reshape(-1, 2)
    clock = np.array([(0, 0.0), (result.env_steps or math.nan, result.seconds)])
    if course is not None and len(course.clock):
        clock = course.clock
    versions = {"surefoot": row["surefoot"], **row["env_versions"]}
    about = {"versions": versions, "git": row["git"], "code": row["code"]}
    return Evidence(
        label=label,
        env=row["env"],
        seed=row["seed"],
        place=str(store.folder),
        stored=True,
        settings=row["settings"],
        about=about if course is None else about | course.about,
        promise=result.promise,
        bound=result.bound,
        result=result,
        ruler=None if course is None else course.ruler,
        curve=np.column_stack([points[:, 0], np.interp(points[:, 0], *clock.T), points[:, 1]]),
        certificate=None if course is None else course.certificate,
    )


# The parts of a folder.


def not_finite(trace: Trace, numbers: Sequence[int]) -> str:
    """`update 7`, `updates 7, 9`: those whose KL is infinite; empty where none is."""
    lost = np.any(
        [np.isinf(trace[k]) for k in KL & trace.keys()] or [np.zeros(len(numbers), bool)], axis=0
    )
    here = [str(n) for n, gone in zip(numbers, lost, strict=True) if gone]
    if not here:
        return ""
    more = f" and {len(here) - NAMED} more" if len(here) > NAMED else ""
    return f"update{'s'[: len(here) != 1]} {', '.join(here[:NAMED])}{more}"


def curve_of(trace: Trace, clock: np.ndarray) -> np.ndarray:
    """Steps, seconds and return [points, 3] of the updates that report a return."""
    returns = trace.get("episode_return", np.full(len(trace["env_steps"]), math.nan))
    known = np.isfinite(returns)
    steps = trace["env_steps"][known]
    seconds = np.interp(steps, *clock.T) if len(clock) else np.full(len(steps), math.nan)
    return np.column_stack([steps, seconds, returns[known]])


# Names.


def method_of(settings: Mapping[str, Any]) -> str:
    """What the method of a run is called: `trpo`, `Fixup(ppo)`."""
    method, around = settings.get("method"), list[str]()
    while isinstance(method, dict) and isinstance(method.get("inner"), dict):
        around.append(str(method.get("type")))
        method = method["inner"]
    kind = str(method.get("type")) if isinstance(method, dict) else "?"
    names = {entry.record: name for name, entry in METHODS.items()}
    return "".join(f"{w}(" for w in around) + names.get(kind, kind) + ")" * len(around)


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names: `method.sgd.lr`; the kind of a record stands under its own name."""
    if not isinstance(settings, dict):
        return {prefix: settings}
    out: dict[str, Any] = {}
    for key, value in settings.items():
        name = prefix if key == "type" and prefix else f"{prefix}.{key}" if prefix else key
        out |= flat(value, name)
    return out
