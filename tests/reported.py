"""Run folders and a comparison for tests of the report, written without training: half of the cells
have folders, half are rows of the store alone."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from surefoot import checkpoint
from surefoot.cli import compare_, main
from surefoot.experiments.plan import Run
from surefoot.experiments.store import Store
from test_store import fabricate

ENVS = ("jax:CartPole-v1", "jax:Pendulum-v1")
COMPARE = ["compare", "trpo", "ppo", "--env", *ENVS, "--steps", "1000", "--seeds", "3"]
COMPARE += ["--store", "results", "--out", "compared", "--quiet"]
SIGMA, ACTIONS = 0.3, 2


def entropy(sigma: float) -> float:
    """Of a Gaussian over two actions with this deviation in both."""
    return ACTIONS * (math.log(sigma) + 0.5 * math.log(2 * math.pi * math.e))


def columns(i: int, seed: int, gaussian: bool) -> dict[str, Any]:
    """What the ruler says of update `i`."""
    out: dict[str, Any] = {
        "kl_mean": 0.008 + 0.0001 * i + 0.0002 * seed,
        "kl_q99": 0.03 + 0.001 * i,
        "kl_max": 0.1 * i,
        "entropy": entropy(SIGMA) if gaussian else 0.6 - 0.01 * i,
        "accepted": i != 4,
        "backtracks": i % 3,
        "update_skipped": False,
    }
    return out | ({"kl_part_mean": 0.006, "kl_part_cov": 0.002} if gaussian else {})


def rich(run: Run, end: float = 100.0) -> Run:
    """A finished run with every column of a trust panel."""
    first = 20.0 + run.seed
    gaussian = "Pendulum" in run.cell.env
    rows = [
        {
            "env_steps": 100 * i,
            "update": i,
            "episode_return": None if i == 1 else first + (end - first) * (i - 2) / 8,
        }
        | columns(i, run.seed, gaussian)
        for i in range(1, 11)
    ]
    fabricate(run, metrics=rows, seconds=2.0 + run.seed)
    if gaussian:
        arrays = {"policy/head/mean/bias": np.zeros(ACTIONS, np.float32)}
        last = run.folder / "checkpoints" / "000010"
        shutil.rmtree(last)
        checkpoint.save(last, arrays, {"env_steps": 1000})
    return run


def compared() -> Path:
    """In the working directory: `surefoot compare` of two methods in two environments, of which PPO
    is known from the store alone, and on Pendulum without its course."""
    request = compare_.parse(COMPARE[1:])
    store = Store(Path("results"))
    for run in compare_.Plan(request, compare_.cells_of(request), None).runs:
        end = {"trpo": 300.0, "ppo": 200.0}[run.cell.label]
        rich(run, end + 3 * math.sin(7.0 * run.seed + len(run.cell.label)))
        if run.cell.label == "ppo":
            store.add(run)
            shutil.rmtree(run.folder)
    for path in Path("results/courses").glob("*Pendulum*"):  # rows of older versions have none
        path.unlink()
    if main(COMPARE):
        raise RuntimeError("nothing was compared")
    return Path("compared")


def edit(path: Path, **values: Any) -> None:
    """Change keys of a file of JSON."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
