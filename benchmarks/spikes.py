"""Training while one reward in ten thousand is a fault of 1e9, beside the same seeds without.

    python benchmarks/spikes.py --method fixpo trpo ppo --env Hopper-v5 --steps 300000 --seeds 10

Faults have random signs. Both runs of a seed are judged alike, by 20 deterministic episodes of the
task as it is, without faults. Each run checks every update in float64 and is then certified.
Appends a line a seed to results/spikes.jsonl and skips those that stand there.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from surefoot import Agent
from surefoot.cli import main as surefoot
from surefoot.evaluate import play
from surefoot.provenance import environment

OUT = Path(__file__).resolve().parent / "results" / "spikes.jsonl"
SIZE, RATE = 1e9, 1e-4
EPISODES, EVAL_SEED = 20, 900_000


class Faults(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One reward in ten thousand is +-1e9."""

    seen = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.draw = np.random.default_rng([seed, 77])
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self.draw.random() < RATE:
            Faults.seen += 1
            reward = SIZE * self.draw.choice([-1.0, 1.0])
        return obs, reward, terminated, truncated, info


def train(method: str, env: str, preset: str, steps: int, seed: int, faulty: bool) -> dict:
    """One run and what became of it."""
    name = f"Faulty{env}" if faulty else env
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=lambda **kw: Faults(gymnasium.make(env, **kw)))
    Faults.seen, start = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = ["train", method, "--env", name, "--preset", preset, "--steps", str(steps)]
        words += ["--seed", str(seed), "--certify-every", "1", "--run-dir", str(run), "--quiet"]
        code = surefoot(words)
        lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
        agent = Agent.load(run)
        score, _ = play(env, agent.policy, agent.obs_stats, EPISODES, EVAL_SEED, True)
        leaves = jax.tree.leaves((agent.policy, agent.state.critic))
        out = {
            "exit": code,
            "certify": surefoot(["certify", str(run)]),
            "finite": all(bool(np.isfinite(np.asarray(x)).all()) for x in leaves),
            "return": round(float(np.mean(score)), 2),
            "updates": len(lines),
            "undone": sum(x["update_skipped"] or x["value_skipped"] for x in lines),
            "faults": Faults.seen,
            "spikes_found": sum(x["reward_spikes"] for x in lines),
            "seconds": round(time.perf_counter() - start, 1),
        }
        agent.close()
    return out


def main() -> None:
    """Every method and seed that does not stand in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", nargs="+", default=["fixpo", "trpo", "ppo"])
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--preset", default="mujoco", help="what follows the method's name")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    stand = [json.loads(x) for x in OUT.read_text().splitlines()] if OUT.exists() else []
    done = {(x["method"], x["env"], x["steps"], x["seed"]) for x in stand}
    for method in args.method:
        for seed in range(args.seeds):
            if (method, args.env, args.steps, seed) in done:
                continue
            preset = f"{method}-{args.preset}"
            line = {"method": method, "env": args.env, "steps": args.steps, "seed": seed}
            line["preset"] = preset
            for kind in ("without", "with"):
                line[kind] = train(
                    method, args.env, preset, args.steps, seed, faulty=kind == "with"
                )
            line["share"] = round(line["with"]["return"] / line["without"]["return"], 3)
            line["versions"] = environment()["versions"]
            with OUT.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(method, seed, line["without"]["return"], line["with"]["return"], line["share"])


if __name__ == "__main__":
    main()
