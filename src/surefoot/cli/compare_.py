"""`surefoot compare METHOD... --env ID...`: runs what is missing, and says what the seeds say."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.checks import UsageError
from surefoot.envs import nearest
from surefoot.methods import METHODS

if TYPE_CHECKING:
    from surefoot.experiments.plan import Cell, Run
    from surefoot.experiments.store import Store
    from surefoot.experiments.table import Comparison
    from surefoot.experiments.work import Crew

USAGE = "usage: surefoot compare METHOD... --env ID... [--seeds N] [--jobs J]"

HELP = f"""{USAGE}

Trains every method in every environment on several seeds, and compares them: interquartile mean
with intervals, probability of improvement, learning curves, and a verdict in words. Runs that are
finished are used as they are, those that were broken off go on, and only what is missing is
trained. Ctrl-C once: every run saves, and the same command goes on.

  METHOD...       names of methods, or settings files (train --print-config), called by their stem

  --env ID...     environments; with several, returns are normalised in each
  --seeds N       seeds a method (5), at least 3 for a verdict
  --seed FIRST    the first seed (0)
  --jobs J        runs at a time, a process pinned to a core each (as many as there are cores)
  --baseline M    the method the others are held against (the last one named)
  --store DIR     a store of results: what it holds is not run, what is run is added
  --run-dir DIR   where run folders live (runs)
  --vmap          train the seeds of jax: and gymnax: cells as one vmap each (where jax has an
                  accelerator), --no-vmap one by one
  --out DIR       where tables and pictures go (compare/<methods>-<eight letters>)
  --dry-run       say what would be run, and do nothing
  --quiet         print nothing but the tables
  --json          print one line of JSON at the end instead of everything else

Every other flag is one of train (--steps, -n, --preset, --num-envs, --gamma, ...) and holds for all
methods; to vary a method's own settings write a file:

  surefoot train ppo --env ID --method.clip 0.1 --print-config > tight.json
  surefoot compare ppo tight.json --env ID"""

VALUED = ("--seeds", "--seed", "--jobs", "--baseline", "--store", "--run-dir", "--out")
SWITCHES = ("--dry-run", "--quiet", "--json", "--vmap", "--no-vmap")
REFUSED = {
    "--config": "name the settings file in place of a method",
    "--print-config": "surefoot train METHOD --print-config prints settings",
}
SEEDS = 5
POLL = 0.1
"""Seconds between looks at the processes."""


@dataclass(frozen=True)
class Request:
    """What a command line of `compare` asks for."""

    methods: list[str]
    envs: list[str]
    seeds: list[int]
    jobs: int
    baseline: str | None
    store: Path | None
    runs: Path
    out: Path | None
    vmap: bool | None
    """Whether seeds on the device are trained as one; None: where jax has an accelerator."""
    dry_run: bool
    quiet: bool
    json: bool
    shared: list[str]
    """Flags of `train` that hold for every cell."""


def run(args: Sequence[str]) -> int:
    """Parse, run what is missing, and print the comparison."""
    if not args or any(a in ("-h", "--help") for a in args):
        print(HELP)
        return 0
    if args[0] == "--together":  # how this command starts the process of a vmap
        from surefoot.cli import together

        return together.run(args[1:])
    request = parse(list(args))
    cells = cells_of(request)
    labels = list(dict.fromkeys(c.label for c in cells))
    baseline = baseline_of(request.baseline, labels)
    plan = Plan(request, cells, store_at(request.store))
    if request.dry_run:
        print("\n".join(plan.lines()))
        return 0
    if not (request.quiet or request.json):
        print(plan.head(), flush=True)
    code, lost = plan.carry_out()
    if code == 130:
        return code
    return closing(plan, labels, baseline, lost) or code


# The command line.


def parse(args: list[str]) -> Request:
    """The request that arguments describe. Raises `UsageError`."""
    methods, flags, shared = split_args(args)
    if not methods:
        raise UsageError(f"METHOD is missing; {USAGE.removeprefix('usage: ')}")
    if not flags.get("--env"):
        raise UsageError(f"--env is missing; {USAGE.removeprefix('usage: ')}")
    first, count = whole(flags, "--seed", 0, 0), whole(flags, "--seeds", SEEDS, 1)
    path = {
        k: Path(v[0]) if (v := flags.get(k)) else None for k in ("--store", "--run-dir", "--out")
    }
    from surefoot.provenance import visible_cores

    return Request(
        methods=methods,
        envs=list(dict.fromkeys(flags["--env"])),
        seeds=list(range(first, first + count)),
        jobs=whole(flags, "--jobs", visible_cores(), 1),
        baseline=flags.get("--baseline", [None])[0],
        store=path["--store"],
        runs=path["--run-dir"] or Path("runs"),
        out=path["--out"],
        vmap=True if "--vmap" in flags else False if "--no-vmap" in flags else None,
        dry_run="--dry-run" in flags,
        quiet="--quiet" in flags,
        json="--json" in flags,
        shared=shared,
    )


def split_args(args: list[str]) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """(methods, flags of this command with their values, flags for `train`)."""
    methods, groups = grouped(args)
    flags: dict[str, list[str]] = {}
    shared: list[str] = []
    for name, values in groups:
        if name == "--env":
            flags[name] = [*flags.get(name, []), *values]
        elif name in (*VALUED, *SWITCHES):
            flags[name] = one_value(name, values, SWITCHES)
        else:
            refuse(name)
            shared += [name, *values]
    return methods, flags, shared


def grouped(args: list[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """What stands before the first flag, and every flag with the values that follow it."""
    groups: list[tuple[str, list[str]]] = [("", [])]
    for arg in args:
        if is_flag(arg):
            head, equals, tail = arg.partition("=")
            groups.append((head, [tail] if equals else []))
        else:
            groups[-1][1].append(arg)
    return groups[0][1], groups[1:]


def is_flag(arg: str) -> bool:
    """Whether an argument is a flag and not a value such as -1."""
    return arg.startswith("-") and not arg[1:2].isdigit() and arg[1:2] != "."


def one_value(name: str, values: list[str], switches: Sequence[str]) -> list[str]:
    """The values of a flag that has one, or none if it is a switch. Raises `UsageError` where there
    are too many or few."""
    wanted = 0 if name in switches else 1
    if len(values) != wanted:
        takes = "one value" if wanted else "no value"
        raise UsageError(f"{name} takes {takes}; got {' '.join(values) or 'none'}")
    return values


def refuse(name: str) -> None:
    """Raise `UsageError` for flags of `train` that make no sense for several methods."""
    if name in REFUSED:
        raise UsageError(f"{name} is not a flag of compare; {REFUSED[name]}")
    if name.startswith("--method"):
        raise UsageError(
            f"{name} is of one method, and compare has several; write its settings to a file: "
            f"surefoot train METHOD --env ID {name} ... --print-config > my.json"
        )


def whole(flags: dict[str, list[str]], name: str, default: int, low: int) -> int:
    """A whole number given by a flag. Raises `UsageError`."""
    from surefoot.cli.flags import whole_number

    if name not in flags:
        return default
    try:
        value = whole_number(flags[name][0])
    except ValueError:
        value = low - 1
    if value < low:
        raise UsageError(f"{name} is {flags[name][0]}; allowed: a whole number of at least {low}")
    return value


def cells_of(request: Request) -> list[Cell]:
    """Every method in every environment. Raises `UsageError` for what cannot be compared."""
    from surefoot.experiments.plan import Cell

    cells = [
        Cell(label, settings(name, env, request))
        for label, name in labels_of(request.methods).items()
        for env in request.envs
    ]
    known: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        other = known.setdefault((cell.hash, cell.env), cell)
        if other is not cell:
            raise UsageError(
                f"{other.label} and {cell.label} have the same settings in {cell.env}; "
                "there is nothing to compare"
            )
    return cells


def labels_of(methods: list[str]) -> dict[str, str]:
    """What each method is called -> its name or file. Raises `UsageError`."""
    out: dict[str, str] = {}
    for name in methods:
        file = name not in METHODS
        if file and not name.endswith(".json"):
            raise UsageError(
                f"no method is called {name!r}{nearest(name, METHODS)}; there are "
                f"{', '.join(METHODS)}, and settings files end in .json"
            )
        label = Path(name).stem if file else name
        if label in out:
            raise UsageError(f"two methods are called {label}; name each once")
        out[label] = name
    return out


def settings(method: str, env: str, request: Request) -> Any:
    """The settings of a cell, as `train` would resolve them."""
    from surefoot.cli.train_ import parse_train
    from surefoot.config import method_name, read_config

    args = ["--env", env, "--seed", str(request.seeds[-1])]  # the largest: allowed, so are all
    if method in METHODS:
        return parse_train(method, [*args, *request.shared]).config
    name = method_name(read_config(Path(method)).method)
    return parse_train(name, ["--config", method, *args, *request.shared]).config


def baseline_of(asked: str | None, labels: list[str]) -> str:
    """The method that others are held against. Raises `UsageError` for one that is not there."""
    if asked is None:
        return labels[-1]
    label = Path(asked).stem if asked.endswith(".json") else asked
    if label not in labels:
        raise UsageError(
            f"--baseline is {asked!r}{nearest(label, labels)}; allowed: {', '.join(labels)}"
        )
    return label


def store_at(folder: Path | None) -> Store | None:
    """The store that `--store` names, which may be one that is made yet. Raises `UsageError` for a
    file."""
    from surefoot.experiments.store import Store

    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"--store is {folder}, a file; a store is a folder")
    return None if folder is None else Store(folder)


# Running what is missing.


class Plan:
    """Every run of a comparison, and where its result is."""

    def __init__(
        self, request: Request, cells: list[Cell], store: Store | None, folders: bool = False
    ) -> None:
        """With `folders` a row of the store does not stand for a run: what is asked of it is in its
        folder alone."""
        from surefoot.experiments.plan import runs_of, state

        self.request, self.cells, self.store = request, cells, store
        self.rows = {} if store is None else store.rows()
        self.runs = [r for c in cells for r in runs_of(c, request.seeds, request.runs)]
        # Seed by seed, so that a comparison broken off has as many of each method as it can.
        self.runs.sort(key=lambda r: r.seed)
        self.state = {
            r: "stored" if not folders and (r.cell.hash, r.seed) in self.rows else state(r)
            for r in self.runs
        }

    @property
    def todo(self) -> list[Run]:
        """Runs that are not finished."""
        return [r for r in self.runs if self.state[r] in ("resume", "train")]

    def head(self) -> str:
        """The first line: what will be done."""
        counts = {
            word: sum(s in kinds for s in self.state.values())
            for word, kinds in (
                ("finished", ("finished", "stored")),
                ("to go on with", ("resume",)),
                ("to train", ("train",)),
            )
        }
        said = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
        seeds = self.request.seeds
        which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
        names = " ".join(dict.fromkeys(c.label for c in self.cells))
        at_once = f", {self.request.jobs} at a time" if len(self.todo) > 1 else ""
        line = f"{names} · {' '.join(self.request.envs)} · {which} · {said}{at_once}"
        return line + self._no_rows()

    def _no_rows(self) -> str:
        """Why a store answers nothing, where that may not be what is meant: a folder that was
        misspelt is as new as one that is to begin."""
        if self.store is None or self.rows:
            return ""
        there, rows = self.store.folder.exists(), self.store.path.exists()
        why = "has no row of this learning epoch" if rows else "is empty" if there else "is new"
        return f" · store {self.store.folder} {why}"

    def lines(self) -> list[str]:
        """What `--dry-run` prints."""
        words = {"resume": "go on", "train": "train"}
        return [self.head()] + [
            f"  {words.get(self.state[r], self.state[r]):<9} {r.name:<40} {r.folder}"
            for r in self.runs
        ]

    def carry_out(self) -> tuple[int, list[str]]:
        """Run what is missing; (exit code, a line on every run that failed)."""
        from surefoot.cli.session import Stop
        from surefoot.experiments.plan import tasks_of
        from surefoot.experiments.progress import Progress
        from surefoot.experiments.work import Crew

        self._check_environments()
        crew = Crew(tasks_of(self.todo, self._vmapped()), self.request.jobs)
        quiet = self.request.quiet or self.request.json
        progress = Progress(crew, self.runs, len(self.todo), quiet)
        self._keep([r for r in self.runs if self.state[r] == "finished" or self._untold(r)])
        kept = 0
        try:
            with Stop() as stop:
                while crew.step() and not stop.asked:
                    progress()
                    self._keep(crew.done[kept:])
                    kept = len(crew.done)
                    time.sleep(POLL)
                if stop.asked:
                    crew.stop()
        except KeyboardInterrupt:  # asked twice: the processes are asked twice as well
            crew.stop()
            return self._interrupted(crew), []
        finally:
            progress.close()
        self._keep(crew.done[kept:])
        if stop.asked and set(self.todo) - set(crew.done):
            return self._interrupted(crew), []
        return max((f.exit_code for f in crew.failures), default=0), [
            f.words for f in crew.failures
        ]

    def _vmapped(self) -> bool:
        """Whether seeds that begin on the device are trained as one."""
        from surefoot.experiments.plan import on_device

        if self.request.vmap is not None:
            return self.request.vmap
        return any(on_device(r.cell.env) for r in self.todo) and accelerator()

    def _check_environments(self) -> None:
        """Make each environment once, so that a wrong name is one line and not one a run."""
        from surefoot import envs

        for env in dict.fromkeys(r.cell.env for r in self.todo):
            made = envs.make(env, 1)
            if not made.spec.on_device:
                made.close()

    def _keep(self, runs: list[Run]) -> None:
        """Add finished runs to the store. Those that hold no result are named with the table."""
        from surefoot.checks import EnvironmentFault

        if self.store is None:
            return
        for run in runs:
            with contextlib.suppress(EnvironmentFault):
                self.store.add(run)

    def _untold(self, run: Run) -> bool:
        """Whether the store has a run but not its course, which its folder could tell."""
        from surefoot.experiments.plan import state

        if self.state[run] != "stored" or self.store is None:
            return False
        row = self.rows[run.cell.hash, run.seed]
        return self.store.lacks_course(row) and state(run) == "finished"

    def _interrupted(self, crew: Crew) -> int:
        finished = len(self.runs) - len(set(self.todo) - set(crew.done))
        command = shlex.join(["surefoot", *sys.argv[1:]])
        print(
            f"stopped   {finished} of {len(self.runs)} runs are finished; go on with: {command}",
            file=sys.stderr,
        )
        return 130


def accelerator() -> bool:
    """Whether jax would run on something other than a processor. Asked in a process of its own: jax
    takes the memory of the device it finds."""
    code = "import jax, sys; sys.exit(7 * (jax.default_backend() != 'cpu'))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 7


# What came out.


def gather(plan: Plan, labels: list[str], baseline: str, lost: list[str]) -> Comparison:
    """The results of every run that is finished. What cannot be read is a line under missing."""
    from surefoot.checks import EnvironmentFault
    from surefoot.experiments.plan import state
    from surefoot.experiments.results import read_run
    from surefoot.experiments.table import Comparison, with_scale

    results: dict[tuple[str, str], list[Any]] = {}
    missing = list(lost)
    for run in sorted(plan.runs, key=lambda r: r.seed):
        here = results.setdefault((run.cell.label, run.cell.env), [])
        row = plan.rows.get((run.cell.hash, run.seed))
        try:
            if row is not None and plan.store is not None:
                here.append(plan.store.result(row))
            elif state(run) == "finished":
                here.append(read_run(run.folder))
        except EnvironmentFault as error:
            missing.append(f"{run.name} is missing: {error}")
    request = plan.request
    comparison = Comparison(
        methods=tuple(labels),
        envs=tuple(request.envs),
        seeds=tuple(request.seeds),
        baseline=baseline,
        results=results,
        missing=tuple(missing),
        notes=tuple(notes(plan)),
        command=command_of(request, baseline),
    )
    return with_scale(comparison)


def notes(plan: Plan) -> list[str]:
    """Lines on what differs between the runs of a comparison and is not to be compared: versions of
    environments, and code."""
    from surefoot.experiments.plan import LEARNING_EPOCH

    codes = {code for run in plan.runs if (code := made_with(plan, run)[1])}
    out = [
        f"{env}: runs with several versions of {package}: {', '.join(found)}"
        for (env, package), found in sorted(env_versions(plan).items())
        if len(found) > 1
    ]
    if len(codes) > 1:
        out.append(
            f"runs of {len(codes)} states of surefoot's code, between which nothing moved learning "
            f"(epoch {LEARNING_EPOCH})"
        )
    return out


def env_versions(plan: Plan) -> dict[tuple[str, str], list[str]]:
    """(environment, package its dynamics come from) -> the versions that runs were made with."""
    from surefoot.experiments.store import env_packages

    seen: dict[tuple[str, str], set[str]] = {}
    for run in plan.runs:
        versions, _ = made_with(plan, run)
        for package in env_packages(run.cell.env):
            if package in versions:
                seen.setdefault((run.cell.env, package), set()).add(versions[package])
    return {key: sorted(found) for key, found in seen.items()}


def made_with(plan: Plan, run: Run) -> tuple[dict[str, str], str]:
    """Versions and hash of the code that a run was made with; nothing where there is no run."""
    row = plan.rows.get((run.cell.hash, run.seed))
    if row is not None:
        return row["env_versions"], row["code"] or ""
    path = run.folder / "config.json"
    described: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"versions": {}}
    return described["versions"], described.get("code", "")


def command_of(request: Request, baseline: str) -> str:
    """The command line that makes the table again, with nothing of this machine in it."""
    words = ["surefoot", "compare", *request.methods, "--env", *request.envs]
    words += ["--seeds", str(len(request.seeds))]
    words += ["--seed", str(request.seeds[0])] if request.seeds[0] else []
    words += ["--baseline", baseline] if request.baseline else []
    return shlex.join([*words, *request.shared])


def closing(plan: Plan, labels: list[str], baseline: str, lost: list[str]) -> int:
    """Write tables and pictures, and print them. 3 where nothing is finished."""
    from surefoot.experiments import table

    comparison = gather(plan, labels, baseline, lost)
    said, clocks = table.summary(comparison), table.timings(comparison)
    folder = out_folder(plan, labels, baseline)
    files = write_files(comparison, said | whereabouts(plan, folder), folder)
    if plan.request.json:
        print(json.dumps(said | {"timings": clocks, "folder": str(folder)}))
    else:
        print("\n".join(table.closing_lines(said, clocks)))
        print(f" files    {folder}/{{{','.join(files)}}}")
        if "curves.png" not in files:
            print(' plots    matplotlib is not installed; pip install "surefoot[plots]" draws them')
    return 0 if said["methods"] or lost else 3


def out_folder(plan: Plan, labels: list[str], baseline: str) -> Path:
    """Where the files of a comparison go."""
    from surefoot.experiments.plan import LEARNING_EPOCH, digest

    if plan.request.out is not None:
        return plan.request.out
    cells = [[c.label, c.env, c.hash] for c in plan.cells]
    key = digest([cells, plan.request.seeds, baseline, LEARNING_EPOCH])
    return Path("compare") / f"{'-'.join(labels)[:60]}-{key}"


def whereabouts(plan: Plan, folder: Path) -> dict[str, Any]:
    """Where the runs of a comparison and its store are, seen from the folder of its files, so that
    all of them can be moved together: what `surefoot report` reads."""
    from surefoot.experiments.plan import LEARNING_EPOCH

    request = plan.request
    store = None if request.store is None else seen_from(folder, request.store)
    cells = [
        {
            "method": c.label,
            "env": c.env,
            "hash": c.hash,
            "runs": seen_from(folder, c.folder(request.runs)),
        }
        for c in plan.cells
    ]
    return {"learning_epoch": LEARNING_EPOCH, "store": store, "cells": cells}


def seen_from(folder: Path, path: Path) -> str:
    """The way from a folder to a path; the whole path where there is none (another drive)."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def write_files(comparison: Comparison, said: dict[str, Any], folder: Path) -> list[str]:
    """Tables, numbers and pictures; their names. Clocks are in timings.csv alone."""
    from surefoot.experiments import plots, table
    from surefoot.experiments.store import write_whole

    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "table.md": table.table_text(said),
        "summary.json": json.dumps(said, indent=1) + "\n",
        "results.csv": table.results_csv(comparison),
        "curves.csv": table.curves_csv(comparison),
        "timings.csv": table.timings_csv(comparison),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    drawn = plots.draw(comparison, folder) if plots.available() and said["methods"] else []
    return [*texts, *drawn]
