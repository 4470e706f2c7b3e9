"""MCPO beside the paper and beside its ablations, from the results store.

    python benchmarks/mcpo_tables.py            # results/mcpo/*.md

Table 1 (classic control), table 2 (MuJoCo, at a tenth of its steps), section 4.2 (MiniGrid) and
section 4.5 (ablations, on LunarLander-v3) of Le et al., 2022: the cells of `surefoot reproduce
mcpo`, at the steps that were run here, with the worst state's KL. Score: mean return of the last
100 training episodes at the end of a run; mean, deviation over seeds and the 95 % t interval of the
mean. d is Cohen's effect size against the best mean of its column, with the pooled deviation; below
0.5 the paper calls a method indifferent from the best. Makes no run: the commands that fill the
store are in docs/methods/mcpo.md.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from surefoot.experiments.reproduce.beside import Ours, effects
from surefoot.experiments.reproduce.items import Scope, narrowed, quick, whole
from surefoot.experiments.reproduce.papers.mcpo import (
    ABLATIONS_ITEM,
    MINIGRID_ITEM,
    TABLE_1_ITEM,
    TABLE_2_ITEM,
)
from surefoot.experiments.store import Key, Store
from surefoot.experiments.table import markdown

OUT = Path(__file__).resolve().parent / "results" / "mcpo"
Rows = dict[Key, dict[str, Any]]

STEPS_1 = {"Pendulum-v1": (1,), "LunarLander-v3": (1,), "BipedalWalker-v3": (2, 5)}
"""Million steps that were run here; the paper's BipedalWalker has 5."""
LONG = ("table-1-ppo-kl-fixed", "mcpo-10")
"""The rows of BipedalWalker at five million."""
MUJOCO = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
UNLOCK = {"MiniGrid-Unlock-v0": 10**5, "MiniGrid-UnlockPickup-v0": 3 * 10**5}
"""Task -> steps that were run here."""


def summary(ours: Ours) -> str:
    """mean +- deviation [interval]."""
    digits = 3 if abs(ours.mean) < 10 else 1
    if ours.std is None or ours.interval is None:
        return f"{ours.mean:.{digits}f}"
    shown = (f"{x:.{digits}f}" for x in (ours.mean, ours.std, *ours.interval))
    return "{} ± {} [{}, {}]".format(*shown)


def compared(rows: Rows, scope: Scope, success: bool = False) -> str:
    """The one task of a scope: every method's seeds, score, effect size, worst KL, and what the
    paper has."""
    (task,) = scope.tasks
    found = {
        c.label: [rows[c.hash, s]["result"] for s in scope.seeds if (c.hash, s) in rows]
        for c in scope.cells()
    }
    ours = {k: Ours(tuple(r["score"] for r in got)) for k, got in found.items() if got}
    d = effects({k: (o.mean, o.std) for k, o in ours.items()})
    paper = {k: n for (k, name), n in task.paper.items() if name == "score" and n.std is not None}
    theirs = effects(
        {e.label: (n.mean, n.std) for e in scope.entrants if (n := paper.get(e.label))}
    )
    head = ["method", "seeds", "return: mean ± deviation [95 %]", "d"]
    head += ["success"] * success + ["worst state's KL"] + ["paper", "paper's d"] * bool(theirs)
    lines = [head]
    for e in scope.entrants:
        results = found[e.label]
        cells = [e.words, str(len(results))]
        if results:
            cells += [summary(ours[e.label]), f"{d[e.label]:.2f}" if e.label in d else "-"]
            cells += [f"{statistics.mean(r['success'] for r in results):.2f}"] if success else []
            cells += [f"{max(r['worst_kl'] for r in results):.3g}"]
        else:
            cells += ["not run", "-"] + ["-"] * success + ["-"]
        cells += [paper[e.label].text, f"{theirs[e.label]:.2f}"] if theirs else []
        lines.append(cells)
    return "\n".join(markdown(lines))


def table_1(rows: Rows) -> str:
    """Classic control."""
    out = ["# Table 1 of the MCPO paper\n"]
    for env, run in STEPS_1.items():
        for millions in run:
            long = env.startswith("Bipedal")
            note = " (the paper: five million)" if long and millions < 5 else ""
            labels = LONG if millions == 5 else ()
            scope = narrowed(whole(TABLE_1_ITEM), [env], labels, millions * 10**6)
            out += [f"## {env}, {millions} million steps{note}\n", compared(rows, scope) + "\n"]
    return "\n".join(out)


def table_2(rows: Rows) -> str:
    """MuJoCo."""
    out = [
        "# Table 2 of the MCPO paper, at one million steps (the paper: ten million, -v2 tasks)\n"
    ]
    for env in MUJOCO:
        scope = narrowed(whole(TABLE_2_ITEM), [env], steps=10**6)
        out += [f"## {env}\n", compared(rows, scope) + "\n"]
    return "\n".join(out)


def minigrid(rows: Rows) -> str:
    """Unlock and UnlockPickup."""
    out = ["# MiniGrid, section 4.2 of the MCPO paper\n"]
    for env, steps in UNLOCK.items():
        scope = narrowed(whole(MINIGRID_ITEM), [env], steps=steps)
        out += [f"## {env}, {steps} steps\n", compared(rows, scope, success=True)]
    return "\n".join(out) + "\n"


def ablations(rows: Rows) -> str:
    """Section 4.5."""
    head = "# Ablations, section 4.5 of the MCPO paper, on LunarLander-v3 at 300 000 steps\n\n"
    return head + compared(rows, narrowed(quick(ABLATIONS_ITEM), seeds=range(5))) + "\n"


def main() -> None:
    """Write the tables."""
    rows = Store(OUT.parent).rows()
    OUT.mkdir(exist_ok=True)
    made = {"table1": table_1, "table2": table_2, "minigrid": minigrid, "ablations": ablations}
    for name, make in made.items():
        (OUT / f"{name}.md").write_text(make(rows))
        print(OUT / f"{name}.md")


if __name__ == "__main__":
    main()
