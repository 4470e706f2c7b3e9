"""The tables of docs/gate.md, from the files of the learning gate: `python benchmarks/gate.py
table` writes them, and a test holds that they are what the files say."""

from __future__ import annotations

import math
from pathlib import Path

import gate
from gate_runs import CARTPOLE, CHOICES, NAMES, TASKS, VALUES


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


def losses(folder: Path) -> list[str]:
    """A row a method: the smallest planted loss on each task, and the smallest of all."""
    tasks = (*CHOICES, CARTPOLE)
    lines = [
        "| method | " + " | ".join(tasks) + " | smallest found |",
        "|---|" + "---|" * len(tasks) + "---|",
    ]
    rows = gate.planted(folder)
    for name in NAMES:
        holds = gate.read_draws(name, folder)[0][2:]  # losses of other settings say nothing now
        own = {r["task"]: r for r in rows if (r["method"], r["stamp"]) == (name, holds)}
        cells = [_loss(own[t]) if t in own else "not planted yet" for t in tasks]
        best = gate.smallest(list(own.values()))
        word = "not known yet" if len(own) < len(tasks) else "none"
        if best and len(own) == len(tasks):
            word = f"{float(best['share']):.0%}, on {best['task']}"
        lines.append(f"| `{name}` | " + " | ".join([*cells, word]) + " |")
    return lines


def _loss(row: dict[str, str]) -> str:
    if row["share"] == "none":
        return "none"
    without, with_ = float(row["mean_without"]), float(row["mean_with"])
    power, low, high = (float(row[k]) for k in ("power", "power_low", "power_high"))
    return (
        f"{float(row['share']):.0%}: {with_ / without - 1:+.1%}, "
        f"found {power:.0%} [{low:.0%}, {high:.0%}]"
    )


TABLES = {"thresholds": thresholds, "losses": losses}


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
