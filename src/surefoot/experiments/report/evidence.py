"""What a report stands on: a run of its folder or of the results store, read once and kept small.

A folder has everything: the ruler of every update, the clock, the certificate, versions and the
command. A row of the store has a score, a curve, what became of the bound, and the total time.
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
from surefoot.experiments.results import Result, read_run, sigma, up_to
from surefoot.experiments.store import Store
from surefoot.methods import METHODS
from surefoot.runs import described, updates
from surefoot.sinks import json_lines
from surefoot.types import PROMISES
from surefoot.verifier import AGREE, CERTIFICATE, Verifier, load

COLUMNS = (
    "env_steps",
    "episode_return",
    "kl_mean",
    "kl_q99",
    "kl_max",
    "kl_reverse",
    "kl_reverse_max",
    "projection_share",
    "kl_part_cov",
    "entropy",
    "accepted",
    "update_skipped",
    "backtracks",
    "fixpo_steps",
    "fixup_tries",
    "papi_eta",
)
"""Of `metrics.jsonl`, those that a report shows (docs/metrics.md says what they are)."""

Trace = dict[str, np.ndarray]
"""Column -> its value after every update [updates], NaN where it is null or not there; columns that
no update has are left out. Of KL null is infinite: it was not finite."""
KL = {"kl_q99", *PROMISES.values()}
"""Columns whose null breaks what is promised."""
NAMED = 5
"""Most updates that a note names."""


@dataclass(frozen=True)
class Certificate:
    """What checking the certificate of a run found."""

    updates: int
    checked: int
    """Updates whose value was computed in float64 while training."""
    recomputed: int
    """Updates whose value was computed again now, from kept arrays."""
    largest: float | None
    """Largest float64 value; None where none was checked."""
    worst: int
    """Its update."""
    above: int
    """Updates with a value above the bound."""
    findings: tuple[str, ...]
    """What is wrong; empty where it holds."""


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
    trace: Trace
    """Empty for rows of the store."""
    curve: np.ndarray
    """Steps, seconds since the start and return [points, 3] of every update with a return. Seconds
    of the store's rows are spread evenly over steps; NaN where there is no clock."""
    certificate: Certificate | None
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
    spread = spread_of_actions(trace, folder)
    if spread is not None:
        trace["sigma"] = spread
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
        trace=trace,
        curve=curve_of(trace, clock_of(folder)),
        certificate=certified(folder),
        notes=tuple(notes),
    )


def from_store(store: Store, row: Mapping[str, Any], label: str) -> Evidence:
    """A run of a row of the store. Raises `EnvironmentFault` where its curve is missing."""
    result = store.result(dict(row))
    points = np.array(result.curve, float).reshape(-1, 2)
    seconds = points[:, 0] * (result.seconds / result.env_steps if result.env_steps else math.nan)
    versions = {"surefoot": row["surefoot"], **row["env_versions"]}
    return Evidence(
        label=label,
        env=row["env"],
        seed=row["seed"],
        place=str(store.folder),
        stored=True,
        settings=row["settings"],
        about={"versions": versions, "git": row["git"], "code": row["code"]},
        promise=result.promise,
        bound=result.bound,
        result=result,
        trace={},
        curve=np.column_stack([points[:, 0], seconds, points[:, 1]]),
        certificate=None,
    )


# The parts of a folder.


def traced(rows: Sequence[Mapping[str, Any]], folder: Path) -> Trace:
    """The columns of a report. Raises `EnvironmentFault` for one that is not of numbers."""
    out: Trace = {}
    for name in COLUMNS:
        if not any(name in row for row in rows):
            continue
        values = [row.get(name) for row in rows]
        if not all(x is None or isinstance(x, (int, float)) for x in values):
            raise EnvironmentFault(f"{folder / 'metrics.jsonl'}: {name} is not a number")
        numbers = np.array([math.nan if x is None else x for x in values], np.float64)
        if name in KL:
            there = np.array([name in row for row in rows])
            numbers[there & ~np.isfinite(numbers)] = math.inf
        out[name] = numbers
    return out


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


def spread_of_actions(trace: Trace, folder: Path) -> np.ndarray | None:
    """Sigma of a Gaussian policy [updates]: the geometric mean over action dimensions and states,
    on the scale of the network's output; None for other policies. The number of dimensions is that
    of the newest checkpoint's mean."""
    if "kl_part_cov" not in trace or "entropy" not in trace:
        return None
    for path in sorted((folder / "checkpoints").glob("[0-9]*/arrays.safetensors"), reverse=True):
        try:
            arrays = load(path)
        except (OSError, ValueError):
            continue
        means = [x for n, x in arrays.items() if n.endswith("head/mean/bias")]
        if means:
            return sigma(trace["entropy"], means[0].shape[-1])
    return None


def clock_of(folder: Path) -> np.ndarray:
    """Environment steps and seconds since the start [rows, 2] by `timings.jsonl`, over all
    stretches of a run: its clock starts again where the run was resumed, and what was done twice
    counts twice."""
    path = folder / "timings.jsonl"
    before, last, out = 0.0, 0.0, dict[float, float]()
    for row in json_lines(path, torn=True) if path.exists() else []:
        now = row.get("seconds")
        if now is None or now < last:
            before, last = before + last, 0.0
        last = now or 0.0
        if now is not None and "env_steps" in row:
            out[row["env_steps"]] = before + last
    return np.array(sorted(out.items()), float).reshape(-1, 2)


def curve_of(trace: Trace, clock: np.ndarray) -> np.ndarray:
    """Steps, seconds and return [points, 3] of the updates that report a return."""
    returns = trace.get("episode_return", np.full(len(trace["env_steps"]), math.nan))
    known = np.isfinite(returns)
    steps = trace["env_steps"][known]
    seconds = np.interp(steps, *clock.T) if len(clock) else np.full(len(steps), math.nan)
    return np.column_stack([steps, seconds, returns[known]])


def certified(folder: Path) -> Certificate | None:
    """The certificate of a run, checked now; None where the run has none."""
    if not (folder / CERTIFICATE).is_file():
        return None
    check = Verifier(folder).verify()
    bound = math.inf if check.bound is None else check.bound
    exact = [(line["float64"], line["update"]) for line in check.lines]
    largest = max((pair for pair in exact if pair[0] is not None), default=(None, 0))
    above = sum(
        line["float32"] > bound or (line["float64"] or 0.0) > bound * (1 + AGREE)
        for line in check.lines
    )
    return Certificate(
        updates=len(check.lines),
        checked=sum(x is not None for x, _ in exact),
        recomputed=check.recomputed,
        largest=largest[0],
        worst=largest[1],
        above=above,
        findings=tuple(check.findings),
    )


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
