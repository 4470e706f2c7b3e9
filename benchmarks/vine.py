"""TRPO's vine procedure against its single path: CartPole-v1 and Hopper-v5, one million simulator
steps each (trunk and branches all counted), five seeds.

    python benchmarks/vine.py [--envs CartPole-v1 Hopper-v5] [--ways vine single] [--seeds 0 1 ...]
                              [--steps 1_000_000] [--table]

The vine runs are presets trpo-vine-cartpole and trpo-vine-mujoco, the single path is what
`surefoot train trpo --env ID` takes. A line a run is appended to results/vine.jsonl; runs that are
there already are skipped. --table prints what is there and runs nothing.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from surefoot import Agent, evaluate
from surefoot.config import to_json
from surefoot.presets import choose
from surefoot.provenance import environment

OUT = Path(__file__).resolve().parent / "results" / "vine.jsonl"
PRESETS = {"CartPole-v1": "trpo-vine-cartpole", "Hopper-v5": "trpo-vine-mujoco"}
POINTS = 20
"""Points kept of a learning curve."""


def settings(env: str, way: str, seed: int, steps: int):
    """The configuration of a run."""
    config = choose("trpo", env, PRESETS[env] if way == "vine" else None)
    return dataclasses.replace(config, seed=seed, steps=steps)


def run(env: str, way: str, seed: int, steps: int) -> dict:
    """Train, and say what came of it."""
    config = settings(env, way, seed, steps)
    curve, start = [], time.perf_counter()

    def watch(agent: Agent) -> None:
        if agent.recent and agent.env_steps * POINTS >= (len(curve) + 1) * steps:
            curve.append([agent.env_steps, round(agent.report["episode_return"], 2)])

    agent = Agent("trpo", env, watch, config=config).learn(steps, sinks=())
    seconds = time.perf_counter() - start
    trust = agent.trust_report()
    score = json.loads(json.dumps(evaluate(agent, episodes=20).to_json()))
    agent.close()
    return {
        "env": env,
        "way": way,
        "seed": seed,
        "steps": steps,
        "env_steps": agent.env_steps,
        "updates": agent.update,
        "episode_return": agent.report["episode_return"],
        "evaluation": score,
        "curve": curve,
        "largest_kl": max(trust.kl_mean),
        "violations": trust.violations,
        "rolled_back": trust.rolled_back,
        "seconds": round(seconds, 1),
        "vine": to_json(config.vine),
        "trunk": [config.num_envs, config.rollout_steps],
        "preset": config.preset,
        **environment(),
        "command": f"python benchmarks/vine.py --envs {env} --ways {way} --seeds {seed}",
    }


def finished() -> list[dict]:
    """The runs that are there."""
    return [json.loads(x) for x in OUT.read_text().splitlines()] if OUT.exists() else []


def table() -> None:
    """A row an environment and way: interquartile mean and range over seeds."""
    rows = finished()
    print("| environment | way | seeds | updates | last 100 training episodes | evaluation |")
    print("|---|---|---|---|---|---|")
    for env in PRESETS:
        for way in ("vine", "single"):
            here = [r for r in rows if (r["env"], r["way"]) == (env, way)]
            if not here:
                continue
            number = lambda xs: f"{np.median(xs):.0f} [{min(xs):.0f}, {max(xs):.0f}]"  # noqa: E731
            returns = number([r["episode_return"] for r in here])
            scores = number([r["evaluation"]["return"]["mean"] for r in here])
            updates = number([r["updates"] for r in here])
            print(f"| {env} | {way} | {len(here)} | {updates} | {returns} | {scores} |")


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--envs", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--ways", nargs="+", choices=("vine", "single"), default=["vine", "single"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        return table()
    done = {(r["env"], r["way"], r["seed"], r["steps"]) for r in finished()}
    for seed in args.seeds:
        for env in args.envs:
            for way in args.ways:
                if (env, way, seed, args.steps) in done:
                    continue
                record = run(env, way, seed, args.steps)
                with OUT.open("a") as f:
                    f.write(json.dumps(record) + "\n")
                print(
                    f"{env} {way} seed {seed}: {record['episode_return']:.0f} in "
                    f"{record['updates']} updates, {record['seconds']:.0f} s",
                    flush=True,
                )
    return None


if __name__ == "__main__":
    main()
