"""MCPO beside the paper and beside its ablations, from the results store.

    python benchmarks/mcpo_tables.py            # results/mcpo/*.md

Table 1 (classic control), table 2 (MuJoCo, at a tenth of its steps), section 4.2 (MiniGrid) and
section 4.5 (ablations, on LunarLander-v3) of Le et al., 2022. Score: mean return of the last 100
training episodes at the end of a run; mean, deviation over seeds and the 95 % t interval of the
mean. d is Cohen's effect size against the best mean of its column, with the pooled deviation; below
0.5 the paper calls a method indifferent from the best. Makes no run: the commands that fill the
store are in docs/methods/mcpo.md.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from surefoot.experiments.reproduce.beside import effect_size
from surefoot.experiments.reproduce.papers.mcpo import (
    ABLATIONS,
    NAMES_1,
    NAMES_2,
    TABLE_1,
    TABLE_2,
)
from surefoot.experiments.reproduce.papers.mcpo import CLASSIC as COLUMNS_1
from surefoot.experiments.reproduce.papers.mcpo import MUJOCO as COLUMNS_2

HERE = Path(__file__).resolve().parent
STORE, SETTINGS, OUT = HERE / "results" / "runs.jsonl", HERE / "settings", HERE / "results" / "mcpo"
Row = dict[str, Any]

CLASSIC = NAMES_1
PAPER_1 = {env: {k: row[i] for k, row in TABLE_1.items()} for i, env in enumerate(COLUMNS_1)}
STEPS_1 = {"Pendulum-v1": (1,), "LunarLander-v3": (1,), "BipedalWalker-v3": (2, 5)}
"""Million steps that were run here; the paper's BipedalWalker has 5."""
MUJOCO = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
PAPER_2 = {env: {k: row[i] for k, row in TABLE_2.items()} for i, env in enumerate(COLUMNS_2)}
MINIGRID = {
    "ppo_kl": "KL Adaptive, d_targ 0.01",
    "ppo-kl-fixed-minigrid": "KL Fixed, beta 0.1",
    "ppo": "PPO, clip 0.3",
    "mdpo": "MDPO, beta_0 2",
    "vmpo": "V-MPO, alpha_0 1",
    "mcpo": "MCPO, N 10",
}
ABLATION_ROWS = {label: words for label, (words, _, _) in ABLATIONS.items()}


def plain(env: str) -> str:
    """An environment without its suite."""
    return env.rpartition(":")[2]


def stored() -> list[Row]:
    """Rows of the store."""
    return [json.loads(line) for line in STORE.read_text().splitlines()]


def method_of(name: str) -> tuple[Any, Any]:
    """Method and batch of a settings file."""
    settings = json.loads((SETTINGS / f"{name}.json").read_text())
    return settings["method"], settings["batch"]


def find(rows: list[Row], name: str, env: str, steps: int) -> dict[int, Row]:
    """Seed -> row of a settings file; or of a method with the preset chosen by itself, which is one
    that no settings file has."""
    files = {path.stem: method_of(path.stem) for path in SETTINGS.glob("*.json")}
    found = {}
    for row in rows:
        s = row["settings"]
        if plain(row["env"]) != env or s["steps"] != steps:
            continue
        has = (s["method"], s["batch"])
        if (
            has == files[name]
            if name in files
            else row["method"] == name and has not in files.values()
        ):
            found[row["seed"]] = row
    return found


def summary(values: list[float]) -> str:
    """mean +- deviation [interval]."""
    from scipy.stats import t

    mean, n = statistics.mean(values), len(values)
    digits = 3 if abs(mean) < 10 else 1
    if n < 2:
        return f"{mean:.{digits}f}"
    std = statistics.stdev(values)
    half = float(t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    shown = (f"{x:.{digits}f}" for x in (mean, std, mean - half, mean + half))
    return "{} ± {} [{}, {}]".format(*shown)


def cohen(values: list[float], best: list[float]) -> float:
    """Cohen's effect size of two samples."""
    a, b = ((statistics.mean(x), statistics.stdev(x)) for x in (values, best))
    return effect_size(a, b)


def grid(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(r) + " |" for r in rows)


def compared(
    rows: list[Row],
    names: dict[str, str],
    env: str,
    steps: int,
    paper: dict[str, tuple[float, float]] | None = None,
    success: bool = False,
) -> str:
    """A task: every method's seeds, score, effect size, worst KL, and what the paper has."""
    found = {n: find(rows, n, env, steps) for n in names}
    scores = {n: [r["result"]["score"] for r in f.values()] for n, f in found.items()}
    whole = {n: x for n, x in scores.items() if len(x) > 1}
    best = max(whole.values(), key=statistics.mean) if whole else []
    top = max(paper.values()) if paper else (0.0, 1.0)
    head = ["method", "seeds", "return: mean ± deviation [95 %]", "d"]
    head += ["success"] if success else []
    head += ["worst state's KL"] + (["paper", "paper's d"] if paper else [])
    lines = []
    for name, words in names.items():
        got = scores[name]
        if not got:
            cells = [words, "0", "not run", "-"] + (["-"] if success else []) + ["-"]
        else:
            d = f"{cohen(got, best):.2f}" if len(got) > 1 else "-"
            cells = [words, str(len(got)), summary(got), d]
            results = [r["result"] for r in found[name].values()]
            if success:
                rate = statistics.mean(r["success"] for r in results)
                cells.append(f"{rate:.2f}")
            cells.append(f"{max(r['worst_kl'] for r in results):.3g}")
        if paper:
            mean, std = paper[name]
            cells += [f"{mean:g} ± {std:g}", f"{effect_size(paper[name], top):.2f}"]
        lines.append(cells)
    return grid(head, lines)


def table_1(rows: list[Row]) -> str:
    """Classic control."""
    out = ["# Table 1 of the MCPO paper\n"]
    for env, values in PAPER_1.items():
        for millions in STEPS_1[env]:
            names = CLASSIC
            if millions == 5:
                names = {k: CLASSIC[k] for k in ("table-1-ppo-kl-fixed", "mcpo-10")}
            paper = {k: v for k, v in values.items() if k in names}
            note = (
                " (the paper: five million)" if env.startswith("Bipedal") and millions < 5 else ""
            )
            out.append(f"## {env}, {millions} million steps{note}\n")
            out.append(compared(rows, names, env, millions * 10**6, paper) + "\n")
    return "\n".join(out)


def table_2(rows: list[Row]) -> str:
    """MuJoCo."""
    out = [
        "# Table 2 of the MCPO paper, at one million steps (the paper: ten million, -v2 tasks)\n"
    ]
    for env in MUJOCO:
        out += [f"## {env}\n", compared(rows, NAMES_2, env, 10**6, PAPER_2[env]) + "\n"]
    return "\n".join(out)


def minigrid(rows: list[Row]) -> str:
    """Unlock and UnlockPickup."""
    out = ["# MiniGrid, section 4.2 of the MCPO paper\n"]
    for env, steps in (("MiniGrid-Unlock-v0", 10**5), ("MiniGrid-UnlockPickup-v0", 3 * 10**5)):
        out += [f"## {env}, {steps} steps\n", compared(rows, MINIGRID, env, steps, success=True)]
    return "\n".join(out) + "\n"


def ablations(rows: list[Row]) -> str:
    """Section 4.5."""
    head = "# Ablations, section 4.5 of the MCPO paper, on LunarLander-v3 at 300 000 steps\n\n"
    return head + compared(rows, ABLATION_ROWS, "LunarLander-v3", 300_000) + "\n"


def main() -> None:
    """Write the tables."""
    rows = stored()
    OUT.mkdir(exist_ok=True)
    made = {"table1": table_1, "table2": table_2, "minigrid": minigrid, "ablations": ablations}
    for name, make in made.items():
        (OUT / f"{name}.md").write_text(make(rows))
        print(OUT / f"{name}.md")


if __name__ == "__main__":
    main()
