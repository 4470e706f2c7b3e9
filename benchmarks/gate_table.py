"""The tables of docs/gate.md, from the files of the learning gate: `python benchmarks/gate.py
table` writes them, and a test holds that they are what the files say."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import gate
from gate_runs import AIMS, CARTPOLE, NAMES, TASKS, VALUES, fault_of


def thresholds(folder: Path) -> list[str]:
    """A row a method: what it is calibrated on, means and thresholds of its scores."""
    lines = [
        "| method | draws | epoch, settings | " + " | ".join(TASKS) + " |",
        "|---|---|---|" + "---|" * len(TASKS),
    ]
    for name in NAMES:
        head, draws = gate.read_draws(name, folder)
        if len(draws) < gate.DRAWS:
            lines.append(f"| `{name}` | not yet |" + " |" * (1 + len(TASKS)))
            continue
        _, _, epoch, _, settings, *_ = head.split()
        cells = []
        for task in TASKS:
            scores = [d[task] for d in draws.values()]
            mean, limit = math.fsum(scores) / len(scores), gate.threshold(scores)
            digits = 1 if task == CARTPOLE else 3
            shown = f"{limit:.{digits}f}"
            cells.append(shown if task in VALUES else f"{mean:.{digits}f}, {shown}")
        lines.append(
            f"| `{name}` | {len(draws)} | {epoch}, {settings} | " + " | ".join(cells) + " |"
        )
    return lines


def now(folder: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Method -> task -> the row of its planted loss, of the settings its thresholds are of: losses
    of others say nothing now."""
    rows = gate.planted(folder)
    out = {}
    for name in NAMES:
        holds = gate.read_draws(name, folder)[0][2:]
        own = [r for r in rows if (r["method"], r["stamp"]) == (name, holds)]
        out[name] = {r["task"]: r for r in own}
    return out


def losses(folder: Path) -> list[str]:
    """A row a method: the smallest loss of the policy's fault on each task, and of all."""
    tasks = AIMS["policy"]
    lines = [
        "| method | " + " | ".join(tasks) + " | smallest found |",
        "|---|" + "---|" * len(tasks) + "---|",
    ]
    for name, own in now(folder).items():
        cells = [_loss(own[t]) if t in own else "not planted yet" for t in tasks]
        known = all(t in own for t in tasks)
        best = gate.smallest(list(own.values())) if known else None
        word = f"{_share(best)}, on {best['task']}" if best else "none" if known else ""
        lines.append(f"| `{name}` | " + " | ".join([*cells, word or "not known yet"]) + " |")
    return lines


def critics(folder: Path) -> list[str]:
    """A row a method: the smallest loss of the critic's fault on each task."""
    tasks = AIMS["critic"]
    lines = ["| method | " + " | ".join(tasks) + " |", "|---|" + "---|" * len(tasks)]
    for name, own in now(folder).items():
        cells = [_loss(own[t]) if t in own else "not planted yet" for t in tasks]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def _share(row: dict[str, str]) -> str:
    """A share; of the smallest that is tried, that it may be less."""
    share = float(row["share"])
    less = "\u2264 " if share == min(gate.SHARES[fault_of(row["task"])]) else ""
    return f"{less}{share:.0%}"


def _loss(row: dict[str, str]) -> str:
    if row["share"] == "none":
        return "none"
    without, with_ = float(row["mean_without"]), float(row["mean_with"])
    cost = f"off by {-with_:.3f}" if row["task"] in VALUES else f"{with_ / without - 1:+.1%}"
    power, low, high = (float(row[k]) for k in ("power", "power_low", "power_high"))
    return f"{_share(row)}: {cost}, found {power:.0%} [{low:.0%}, {high:.0%}]"


def together(folder: Path) -> list[str]:
    """How likely one gate is to find the smallest loss of every method."""
    best = [gate.smallest(list(own.values())) for own in now(folder).values()]
    powers = [float(row["power"]) for row in best if row]
    if len(powers) < len(NAMES):
        return ["Not known yet: the losses of some methods are missing."]
    expected = len(powers) - math.fsum(powers)
    return [
        f"One gate with the smallest loss of each of {len(powers)} methods planted finds all of "
        f"them in {math.prod(powers):.0%} of cases,",
        f"the product of the shares found, and misses {expected:.1f} of them in the mean.",
    ]


def alike(folder: Path) -> list[str]:
    """Pairs of methods of whose draws most are the same to the digits that are kept."""
    draws = {name: gate.read_draws(name, folder)[1] for name in NAMES}
    tasks = AIMS["policy"]
    lines = ["| methods | " + " | ".join(tasks) + " |", "|---|" + "---|" * len(tasks)]
    for a, b in itertools.combinations(NAMES, 2):
        both = draws[a].keys() & draws[b].keys()
        same = [sum(draws[a][s][t] == draws[b][s][t] for s in both) for t in tasks]
        if 2 * max(same) > len(both) > 0:
            cells = [f"{n} of {len(both)}" for n in same]
            lines.append(f"| `{a}`, `{b}` | " + " | ".join(cells) + " |")
    return lines


PACKAGES = ("python", "jax", "jaxlib")
"""Versions that the table of runs shows; the file has all."""


def runs(folder: Path) -> list[str]:
    """A row a gate that was kept."""
    path = folder / gate.KEPT
    kept = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    if not kept:
        return ["None is kept yet."]
    lines = [
        "| planted | seed | methods that alarm | looks that do | time | on | versions | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in kept:
        each = run["methods"].values()
        alarm = sum(bool(x["alarms"]) for x in each)
        looks, found = (sum(len(x[k]) for x in each) for k in ("scores", "alarms"))
        minutes, seconds = divmod(round(run["seconds"]), 60)
        git = run["git"] or {}
        cells = [
            run["plant"] or "nothing",
            str(run["seed"]),
            f"{alarm} of {len(each)}",
            f"{found} of {looks}",
            f"{minutes} min {seconds} s",
            f"{run['jobs']} of {run['cores']} cores, {run['processor'] or run['machine']}",
            ", ".join(f"{p} {run['versions'][p]}" for p in PACKAGES),
            str(git.get("commit", "-"))[:8] + " and changes" * bool(git.get("changed")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


TABLES = {
    "runs": runs,
    "thresholds": thresholds,
    "losses": losses,
    "together": together,
    "critics": critics,
    "alike": alike,
}


def page(text: str, folder: Path) -> str:
    """The page with its tables made anew, each between `<!-- name -->` and `<!-- end -->`."""
    for name, make in TABLES.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        if not mark:
            raise ValueError(f"the page has no place for the table of {name}")
        _, end, after = rest.partition("<!-- end -->")
        text = before + mark + "\n".join(make(folder)) + "\n" + end + after
    return text


def write() -> None:
    """Make the tables of docs/gate.md anew."""
    gate.PAGE.write_text(page(gate.PAGE.read_text(), gate.RESULTS))
