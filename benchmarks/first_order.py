"""What was asked of the first-order family on CartPole-v1 and Pendulum-v1, and who passes.

    python benchmarks/first_order.py

From results/runs.jsonl and nothing else: runs with a method's preset. Writes
results/first_order/asked.md; `test_docs.py` holds that it is what this makes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from results_page import seeds_text

from surefoot.cli.train_ import parse_train
from surefoot.experiments import statistics as st
from surefoot.experiments.plan import settings_hash
from surefoot.experiments.store import Store
from surefoot.experiments.table import markdown

RESULTS = Path(__file__).resolve().parent / "results"
OUT = RESULTS / "first_order" / "asked.md"
STEPS, SEEDS = 200_000, range(5)
ASKED = {"CartPole-v1": 450.0, "Pendulum-v1": -400.0}
"""Least interquartile mean over five seeds of the return of the last 100 training episodes, set
before the runs."""
CONTROLS = ("trefree_ratio", "trefree_free")
"""Shown as the paper writes them; they may fail."""
FAMILY = (
    *("ppo", "ppo_kl", "trefree", *CONTROLS, "trgppo", "mdpo", "vmpo", "espo", "spo"),
    *("truly_ppo", "tr_ppo", "ppo_rb", "spu", "discovered_po"),
)


def scores(store: Store, method: str, env: str) -> dict[int, float]:
    """Seed -> score of the runs with a method's preset."""
    config = parse_train(method, ["--env", env, "--steps", str(STEPS)]).config
    wanted = settings_hash(config)
    return {
        seed: store.result(row).score
        for (key, seed), row in sorted(store.rows().items())
        if key == wanted
    }


def page(store: Store) -> str:
    """The text of the page."""
    head = ["method", *(f"{env}, at least {least:g}" for env, least in ASKED.items()), "passes"]
    rows, fresh = [], []
    for method in FAMILY:
        cells, passed = [], []
        for env, least in ASKED.items():
            all_of = scores(store, method, env)
            first = [all_of[seed] for seed in SEEDS]
            value = float(st.aggregate([np.array(first)]))
            cells.append(st.number_text(value))
            passed.append(value >= least)
            if more := [seed for seed in all_of if seed not in SEEDS]:
                later = np.array([all_of[seed] for seed in more])
                each = ", ".join(st.number_text(x) for x in later)
                value = float(st.aggregate([later]))
                said = "above" if value >= least else "below"
                fresh.append(
                    f"- {method} on {env}, seeds {seeds_text(more)}: {each}; "
                    f"{st.number_text(value)}, {said} {least:g}"
                )
        verdict = "yes" if all(passed) else "no"
        verdict += ", a control" if method in CONTROLS else ""
        rows.append([f"`{method}`", *cells, verdict])
    out = [
        "# What was asked of the first-order family",
        "",
        f"Interquartile mean over seeds {seeds_text(list(SEEDS))} of the return of the last 100 "
        f"training episodes, with the presets, after {STEPS:,} steps".replace(",000", " 000")
        + "; the least values were set before the runs. Made by `python benchmarks/first_order.py` "
        "from `benchmarks/results/runs.jsonl`; intervals: `benchmarks/results/first_order/table.md`"
        ".",
        "",
        *markdown([head, *rows]),
    ]
    out += [
        "",
        "The presets of `espo` and `spo` for Pendulum-v1 became what they are by runs of other "
        "seeds, after these had been looked at.",
    ]
    if fresh:
        out += ["", "Seeds that were not looked at before:", "", *fresh]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    OUT.write_text(page(Store(RESULTS)))
    print(OUT)
