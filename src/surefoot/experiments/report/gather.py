"""From run folders, or the folder of a comparison, to the runs of a report under the names it
calls them by."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.envs import nearest
from surefoot.experiments.course import STRETCHES
from surefoot.experiments.plan import LEARNING_EPOCH, WITHOUT_EFFECT, digest
from surefoot.experiments.report.evidence import Evidence, from_folder, from_store, method_of
from surefoot.experiments.store import Store, same_training
from surefoot.experiments.table import Comparison, summary, with_scale
from surefoot.runs import described

SUMMARY = "summary.json"
LISTS = {
    "cells": (dict, "objects"),
    "seeds": (int, "integers"),
    "envs": (str, "texts"),
    "notes": (str, "texts"),
}
"""Of a summary, and what they are of."""
CELL = ("method", "env", "hash", "runs")
"""Texts of a cell."""


@dataclass(frozen=True)
class Material:
    """All that a report shows."""

    evidence: tuple[Evidence, ...]
    """Every run, by method, environment and seed."""
    comparison: Comparison
    """Those with a score."""
    said: dict[str, Any]
    """`table.summary` of the comparison."""
    commands: tuple[str, ...]
    """The lines that make all of it again."""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    cells: dict[tuple[str, str], list[Evidence]] = field(default_factory=dict)
    """(method, environment) -> its runs."""

    @property
    def title(self) -> str:
        """Methods and environments."""
        c = self.comparison
        seeds = {e.seed for e in self.evidence}
        one = f" seed {min(seeds)}" if len(self.evidence) == 1 else ""
        return f"{listed(c.methods)} on {listed(c.envs)}{one}"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def gather(paths: Sequence[Path], baseline: str | None = None) -> Material:
    """What is known of runs, or of one comparison. Raises `UsageError` for paths that are neither,
    `EnvironmentFault` where nothing can be read of them."""
    compared = [p for p in paths if (p / SUMMARY).is_file()]
    if compared and len(paths) > 1:
        raise UsageError(
            f"{compared[0]} is a comparison, and {len(paths)} folders are named; name runs, or "
            "one comparison alone"
        )
    return of_comparison(compared[0], baseline) if compared else of_runs(paths, baseline)


def assembled(
    evidence: Sequence[Evidence],
    comparison: Comparison,
    commands: Sequence[str],
    notes: Sequence[str],
    missing: Sequence[str] = (),
) -> Material:
    """A report's material: the comparison filled with the results there are."""
    results = {
        (m, e): [x.result for x in evidence if (x.label, x.env) == (m, e) and x.result is not None]
        for m in comparison.methods
        for e in comparison.envs
    }
    results = {k: runs for k, runs in results.items() if runs}
    comparison = dataclasses.replace(comparison, results=results)
    comparison = with_scale(comparison) if results else comparison
    cells: dict[tuple[str, str], list[Evidence]] = {}
    for e in comparison.envs:
        for m in comparison.methods:
            here = [x for x in evidence if (x.label, x.env) == (m, e)]
            if here:
                cells[m, e] = here
    stored = sum(x.stored for x in evidence)
    own = [words for x in evidence for words in x.notes]
    bare = sum(x.stored and x.ruler is None for x in evidence)
    if stored:
        words = (
            f"{stored} of {len(evidence)} runs are known from the results store alone: it keeps "
            "score, curve, share of updates within the bound, worst KL and total time"
        )
        if bare < stored:
            words += (
                f"; of {stored - bare} of them also the ruler over time in {STRETCHES} stretches, "
                "and what checking the certificate found when they were added"
            )
        own.append(f"{words}; of {bare} not" if 0 < bare < stored else words)
    returned = [x for x in evidence if len(x.curve)]
    clockless = sum(not np.isfinite(x.curve[:, 1]).all() for x in returned)
    if clockless:
        own.append(
            f"{clockless} of {len(returned)} runs with a return have no clock (timings.jsonl), "
            "and are not in the charts against seconds"
        )
    ordered = [x for runs in cells.values() for x in runs]
    trained = [x.command for x in ordered if x.command is not None]
    return Material(
        evidence=tuple(ordered),
        comparison=comparison,
        said=summary(comparison) if results else {"methods": {}, "verdicts": []},
        commands=tuple(dict.fromkeys(commands or trained)),
        notes=tuple([*own, *notes]),
        missing=tuple(missing),
        cells=cells,
    )


# Runs by their folders.


def of_runs(paths: Sequence[Path], baseline: str | None) -> Material:
    """Run folders, or folders of several seeds."""
    folders = list({f.resolve(): f for p in paths for f in expanded(p)}.values())
    names = labels([described(f).get("settings", {}) for f in folders])
    evidence = [from_folder(f, name) for f, name in zip(folders, names, strict=True)]
    seen: dict[tuple[str, str, int], Evidence] = {}
    for x in evidence:
        other = seen.setdefault((x.label, x.env, x.seed), x)
        if other is not x:
            raise UsageError(
                f"{other.place} and {x.place} are one training, {x.name}; name one of them"
            )
    methods = tuple(dict.fromkeys(names))
    comparison = Comparison(
        methods=methods,
        envs=tuple(dict.fromkeys(x.env for x in evidence)),
        seeds=tuple(sorted({x.seed for x in evidence})),
        baseline=baseline_of(baseline, methods, methods[-1]),
        results={},
    )
    evidence.sort(key=lambda x: x.seed)
    return assembled(evidence, comparison, [], [])


def expanded(path: Path) -> list[Path]:
    """A run, or the runs that a folder holds (`train --seeds`, a cell of `compare`). Raises
    `UsageError` where there is neither."""
    if (path / "config.json").exists() or not path.is_dir():
        described(path)  # it says what is wrong
        return [path]
    inside = [p.parent for p in path.glob("*/config.json")]
    if not inside:
        raise UsageError(
            f"{path} is neither a run (it has no config.json) nor a comparison (no {SUMMARY}); "
            "surefoot list runs shows what there is"
        )
    return sorted(inside, key=lambda p: (len(p.name), p.name))


def labels(settings: Sequence[dict[str, Any]]) -> list[str]:
    """What the method of each run is called: its name, with four letters of its settings where one
    environment has runs of one method with several."""
    names = [method_of(s) for s in settings]
    keys = [
        digest({k: v for k, v in s.items() if k not in ("env", *WITHOUT_EFFECT)}) for s in settings
    ]
    kinds: dict[tuple[str, Any], set[str]] = {}
    for name, key, s in zip(names, keys, settings, strict=True):
        kinds.setdefault((name, s.get("env")), set()).add(key)
    several = {name for (name, _), found in kinds.items() if len(found) > 1}
    return [
        f"{name} {key[:4]}" if name in several else name
        for name, key in zip(names, keys, strict=True)
    ]


def baseline_of(asked: str | None, names: Sequence[str], usual: str) -> str:
    """The method that others are held against. Raises `UsageError` for one that is not there."""
    if asked is not None and asked not in names:
        raise UsageError(
            f"--baseline is {asked!r}{nearest(asked, names)}; allowed: {', '.join(names)}"
        )
    return asked or usual


# A comparison.


def of_comparison(folder: Path, baseline: str | None) -> Material:
    """The runs of a comparison by what its summary.json says of where they are."""
    said = read_summary(folder)
    cells = said["cells"]
    store = None if said["store"] is None else Store(folder / said["store"])
    rows = {} if store is None else store.rows()
    evidence, missing, notes = list[Evidence](), list[str](), list[str]()
    for cell in cells:
        for seed in said["seeds"]:
            name = f"{cell['method']} {cell['env']} seed {seed}"
            row = rows.get((cell["hash"], seed))
            run = Path(folder / cell["runs"] / f"seed-{seed}")
            try:
                found = from_store(store, row, cell["method"]) if store and row else None
                if (run / "config.json").exists():
                    settings = described(run)["settings"]
                    here = from_folder(run, cell["method"], settings["steps"])
                    found = chosen(found, here, notes)
            except (EnvironmentFault, UsageError) as error:
                missing.append(f"{name} is missing: {error}")
                continue
            if found is None:
                missing.append(f"{name} is missing: no {shown(run)}, and no row of the store")
            else:
                evidence.append(found)
    if not evidence:
        raise EnvironmentFault(
            f"none of the runs of {folder} is there ({missing[0]}); make it again: "
            f"{said['command']}"
        )
    methods = tuple(dict.fromkeys(c["method"] for c in cells))
    comparison = Comparison(
        methods=methods,
        envs=tuple(said["envs"]),
        seeds=tuple(said["seeds"]),
        baseline=baseline_of(baseline, methods, said["baseline"]),
        results={},
        missing=tuple(missing),
        notes=tuple(said["notes"]),
        command=said["command"],
    )
    commands = [said["command"]]
    material = assembled(evidence, comparison, commands, [*notes, *said["notes"]], missing)
    moved = since(said, material.said)
    return dataclasses.replace(material, notes=(*material.notes, *moved))


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary.json of a comparison. Raises `EnvironmentFault` where it does not say which runs
    it is of, or says it of another learning epoch."""
    path = folder / SUMMARY
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(said, dict) or "command" not in said:
        raise EnvironmentFault(f"{path} is not of a comparison: it has no command")
    if not {"cells", "store", "learning_epoch"} <= said.keys():
        raise EnvironmentFault(
            f"{path} does not say where its runs are, as it did not in earlier versions; write it "
            f"again, finished runs are used as they are: {said['command']}"
        )
    if said["learning_epoch"] != LEARNING_EPOCH:
        raise EnvironmentFault(
            f"{folder} is of learning epoch {said['learning_epoch']}, and this surefoot is at "
            f"{LEARNING_EPOCH}, which trains otherwise; make it again: {said['command']}"
        )
    wrong = flaw(said)
    if wrong is not None:
        raise EnvironmentFault(
            f"{path} is not whole: {wrong}; write it again, finished runs are used as they are: "
            f"{said['command']}"
        )
    return said


def flaw(said: dict[str, Any]) -> str | None:
    """What keeps a summary from being read; None where nothing does."""
    for key, (kind, words) in LISTS.items():
        value = said.get(key)
        if not isinstance(value, list) or not all(isinstance(x, kind) for x in value):
            return f"{key} is not a list of {words}"
        if not value and key != "notes":
            return f"{key} is empty"
    for key, kinds in (("command", str), ("baseline", str), ("store", (str, NoneType))):
        if not isinstance(said.get(key), kinds):
            return f"{key} is not a text"
    cells = [cell_flaw(c, said["envs"]) for c in said["cells"]]
    if any(cells):
        return next(f"cell {i} {words}" for i, words in enumerate(cells, 1) if words)
    try:
        _ = [float(row["iqm"]["value"]) for row in said.get("methods", {}).values()]
    except (AttributeError, KeyError, TypeError, ValueError):
        return "methods has a row without its iqm"
    return None


def cell_flaw(cell: dict[str, Any], envs: Sequence[str]) -> str | None:
    """What a cell of a summary lacks."""
    lacks = [k for k in CELL if not isinstance(cell.get(k), str)]
    if lacks:
        return f"has no {', '.join(lacks)}"
    return None if cell["env"] in envs else f"is of {cell['env']}, which envs lacks"


def chosen(row: Evidence | None, run: Evidence, notes: list[str]) -> Evidence:
    """The folder of a run, unless the store has another training of the same settings: then the
    row, which is what the comparison counted."""
    if row is None or row.result is None:
        return run
    if run.result is not None and same_training(run.result, row.result):
        return run
    notes.append(
        f"{run.name}: {shown(Path(run.place))} holds another training than the store's row, which "
        "was compared; the row is shown"
    )
    return row


def shown(path: Path) -> str:
    """The last two parts of a path."""
    return "/".join(path.parts[-2:])


def since(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A line where the runs say something else than when the comparison was written."""
    old, new = (
        {m: row["iqm"]["value"] for m, row in said.get("methods", {}).items()}
        for said in (then, now)
    )
    same = old.keys() == new.keys() and all(
        math.isclose(old[m], new[m], rel_tol=1e-6, abs_tol=1e-9) for m in old
    )
    if same:
        return []
    return [f"the runs are not those that {SUMMARY} was written from; make the comparison again"]
