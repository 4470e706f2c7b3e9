"""MCPO beside the paper and beside its ablations, from the results store.

    python benchmarks/mcpo_tables.py            # results/mcpo/*.md

Table 1 (classic control), table 2 (MuJoCo, at a tenth of its steps), section 4.2 (MiniGrid) and
section 4.5 (ablations, on LunarLander-v3) of Le et al., 2022: the cells of `surefoot reproduce
mcpo`, at the steps that were run here, with the worst state's KL; and a diagnostic of ours, how
much of LunarLander-v3 is the batch. Score: mean return of the last 100 training episodes at the end
of a run; mean, deviation over seeds and the 95 % t interval of the mean. d is Cohen's effect size
against the best mean of its column, with the pooled deviation of two samples of one size; below 0.5
the paper calls a method indifferent from the best. It prints no d: that is made here, of its means
and deviations. Every table has its own seeds, whatever else the store holds. Makes no run: the
commands that fill the store are in docs/methods/mcpo.md. `tests/test_mcpo_tables.py` holds that the
tables are what this makes.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from surefoot.config import read_config
from surefoot.experiments.plan import settings_hash
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

HERE = Path(__file__).resolve().parent
OUT, SETTINGS = HERE / "results" / "mcpo", HERE / "settings"
Rows = dict[Key, dict[str, Any]]

STEPS_1 = {
    "Pendulum-v1": ((1, 5),),
    "LunarLander-v3": ((1, 5),),
    "BipedalWalker-v3": ((2, 3), (5, 3)),
}
"""(Million steps, seeds) that were run here; the paper's BipedalWalker has 5 million, all have five
seeds."""
LONG = ("table-1-ppo-kl-fixed", "mcpo-10")
"""The rows of BipedalWalker at five million."""
MUJOCO, SEEDS_2 = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"), range(3)
UNLOCK = {"MiniGrid-Unlock-v0": (10**5, 5), "MiniGrid-UnlockPickup-v0": (3 * 10**5, 3)}
"""Task -> (steps, seeds) that were run here."""
BATCHES = {
    "mcpo-10": ("MCPO, N 10", "8192 (table 1)"),
    "table-1-ppo-kl-fixed": ("KL Fixed, beta 0.1", "8192 (table 1)"),
    "mcpo-10-batch-2048": ("MCPO, N 10", "2048"),
    "ppo-kl-fixed-batch-2048": ("KL Fixed, beta 0.1", "2048"),
}
"""Stem of a settings file -> method and batch."""
TWICE = "†"
"""The mark of an entry that the paper has twice."""


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
    count = collections.Counter(paper.values())
    twice = {label for label, n in paper.items() if count[n] > 1}
    head = ["method", "seeds", "return: mean ± deviation [95 %]", "d"]
    head += (
        ["success"] * success
        + ["worst state's KL"]
        + ["paper", "paper's d, computed"] * bool(theirs)
    )
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
        if theirs:
            mark = f" {TWICE}" * (e.label in twice)
            cells += [paper[e.label].text + mark, f"{theirs[e.label]:.2f}{mark}"]
        lines.append(cells)
    out = "\n".join(markdown(lines))
    if twice:
        words = " and ".join(e.words for e in scope.entrants if e.label in twice)
        out += (
            f"\n\n{TWICE} {words} have the same entry in the paper, to the deviation: almost "
            "surely a slip of copying. No target, and what is computed from it means nothing."
        )
    return out


def table_1(rows: Rows) -> str:
    """Classic control."""
    out = ["# Table 1 of the MCPO paper\n"]
    for env, run in STEPS_1.items():
        for millions, seeds in run:
            long = env.startswith("Bipedal")
            note = " (the paper: five million)" if long and millions < 5 else ""
            labels = LONG if millions == 5 else ()
            scope = narrowed(whole(TABLE_1_ITEM), [env], labels, millions * 10**6, range(seeds))
            out += [f"## {env}, {millions} million steps{note}\n", compared(rows, scope) + "\n"]
    return "\n".join(out)


def table_2(rows: Rows) -> str:
    """MuJoCo."""
    out = [
        "# Table 2 of the MCPO paper, at one million steps (the paper: ten million, -v2 tasks)\n"
    ]
    for env in MUJOCO:
        scope = narrowed(whole(TABLE_2_ITEM), [env], steps=10**6, seeds=SEEDS_2)
        out += [f"## {env}\n", compared(rows, scope) + "\n"]
    return "\n".join(out)


def minigrid(rows: Rows) -> str:
    """Unlock and UnlockPickup."""
    out = ["# MiniGrid, section 4.2 of the MCPO paper\n"]
    for env, (steps, seeds) in UNLOCK.items():
        scope = narrowed(whole(MINIGRID_ITEM), [env], steps=steps, seeds=range(seeds))
        out += [f"## {env}, {steps} steps\n", compared(rows, scope, success=True)]
    return "\n".join(out) + "\n"


def ablations(rows: Rows) -> str:
    """Section 4.5."""
    head = "# Ablations, section 4.5 of the MCPO paper, on LunarLander-v3 at 300 000 steps\n\n"
    return head + compared(rows, quick(ABLATIONS_ITEM)) + "\n"


def batch(rows: Rows) -> str:
    """MCPO and its nearest relative with another batch."""
    lines = [["method", "batch", "updates", "seeds", "return: mean ± deviation [95 %]"]]
    lines[0] += ["mean of the worst states' KL"]
    for stem, (words, size) in BATCHES.items():
        config = dataclasses.replace(
            read_config(SETTINGS / f"{stem}.json"),
            env="envpool:LunarLander-v3",
            steps=300_000,
            num_envs=16,
        )
        key = settings_hash(config)
        found = [rows[key, seed]["result"] for seed in range(3) if (key, seed) in rows]
        if not found:
            lines.append([words, size, "-", "0", "not run", "-"])
            continue
        updates = statistics.mean(r["updates"] for r in found)
        kl = statistics.mean(r["worst_kl"] for r in found)
        ours = summary(Ours(tuple(r["score"] for r in found)))
        lines.append([words, size, f"{updates:.0f}", str(len(found)), ours, f"{kl:.3g}"])
    head = "# A diagnostic: the batch, on LunarLander-v3 at 300 000 steps\n\n"
    return head + "\n".join(markdown(lines)) + "\n"


def pages(rows: Rows) -> dict[str, str]:
    """Name -> table."""
    made = (table_1, table_2, minigrid, ablations, batch)
    return {make.__name__.replace("_", ""): make(rows) for make in made}


def main() -> None:
    """Write the tables."""
    OUT.mkdir(exist_ok=True)
    for name, page in pages(Store(OUT.parent).rows()).items():
        (OUT / f"{name}.md").write_text(page)
        print(OUT / f"{name}.md")


if __name__ == "__main__":
    main()
