"""What FixPO's update costs beside PPO's at the same batch, minibatches and epochs, in one run.

    python benchmarks/fixpo_cost.py

Both update the same policy on the same batch: 8192 rows of a rollout on HalfCheetah-v5 (17 -> 6),
after some updates of FixPO with its published settings: 64 x 64 tanh, 10 epochs of 16 minibatches.
`policy` is the method's update alone, `update` the whole of `learn` (values, advantages, policy,
critic, ruler). Compiled and warm, all of them in turn; a ratio is that of two medians, of processor
time (`cpu`, which others on the machine hardly change) and of time on the clock (`wall`). The
bounds ask for none, few and many fix-up steps. Writes results/fixpo_cost.json.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent / "results" / "fixpo_cost.json"
BOUNDS = (1e6, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
"""The first is never felt; the published one is 0.5."""
PARTS = ("policy", "update")
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def under_way(env: str, updates: int) -> tuple[Any, Any]:
    """An agent of FixPO after some updates, and its next rollout."""
    from surefoot import Agent

    agent = Agent("fixpo", env, seed=0, callback=lambda a: a.update < updates)
    agent.learn(10**6, sinks=[])
    ts = agent.state
    # The benchmark reaches inside for one real rollout.
    return agent, agent._loop.collector.collect(ts.policy, ts.obs_stats, int(ts.update))


def calls(agent: Any, rollout: Any, seen: Any, method: Any) -> dict[str, Callable[[], Any]]:
    """For each part a compiled call that does it and returns the report."""
    import jax

    from surefoot.train import learn

    algo = dataclasses.replace(agent.config.algorithm, method=method)
    ts, key = agent.state, jax.random.key(0)
    same = type(method) is type(agent.config.method)
    state = ts.method_state if same else method.init(ts.policy, key)
    ts = dataclasses.replace(ts, method_state=state)
    # As arguments: constants would be folded at length.
    batch = jax.jit(lambda r, ts: algo.advantage(r, ts.policy, ts.critic, ts.progress))(rollout, ts)
    policy = jax.jit(lambda p, s, b: method.update(p, s, b, key))
    whole = jax.jit(lambda ts, rollout, seen: learn(algo, ts, rollout, seen))
    return {
        "policy": lambda: jax.block_until_ready(policy(ts.policy, state, batch))[2],
        "update": lambda: jax.block_until_ready(whole(ts, rollout, seen))[1],
    }


def measure(runs: dict[Any, dict[str, Callable[[], Any]]], repeats: int) -> dict[Any, Any]:
    """Milliseconds of every call on either clock, all of them in turn."""
    kinds = [f"{part}_{clock}" for part in PARTS for clock in CLOCKS]
    times: dict[Any, Any] = {name: {kind: [] for kind in kinds} for name in runs}
    for turn in range(repeats + 1):  # the first compiles
        for name, parts in runs.items():
            for part, call in parts.items():
                start = {clock: now() for clock, now in CLOCKS.items()}
                call()
                for clock, now in CLOCKS.items() if turn else ():
                    spent = 1000 * (now() - start[clock])
                    times[name][f"{part}_{clock}"].append(round(spent, 3))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="envpool:HalfCheetah-v5")
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", default=str(OUT))
    args = parser.parse_args()
    from surefoot import PPO
    from surefoot.provenance import environment

    agent, (rollout, seen, _) = under_way(args.env, args.updates)
    fixpo = agent.config.method
    methods = {b: dataclasses.replace(fixpo, max_kl=b) for b in BOUNDS} | {
        "ppo": PPO(sgd=fixpo.sgd)
    }
    runs = {name: calls(agent, rollout, seen, method) for name, method in methods.items()}
    times = measure(runs, args.repeats)
    median = lambda name: {k: statistics.median(v) for k, v in times[name].items()}  # noqa: E731
    base, rows = median("ppo"), []
    for bound in BOUNDS:
        info, ms = runs[bound]["policy"](), median(bound)
        ratio = {kind: round(ms[kind] / base[kind], 3) for kind in ms}
        steps, sweeps = int(info["fixpo_steps"]), float(info["fixpo_sweeps"])
        row = {"max_kl": bound, "fixup_steps": steps, "sweeps": sweeps, "ratio": ratio, "ms": ms}
        rows.append(row | {"runs_ms": times[bound]})
        said = f"max_kl {bound:<8g} {steps:>4} steps in {sweeps:4.1f} passes, x PPO:"
        print(said, ", ".join(f"{kind} {x:.2f}" for kind, x in ratio.items()))
    result = {
        "command": "python benchmarks/fixpo_cost.py",
        **environment(),
        "env": args.env,
        "rows_of_a_batch": agent.config.rows,
        "ppo": {"ms": base, "runs_ms": times["ppo"]},
        "fixpo": rows,
    }
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
