"""What the update of every first-order method costs beside PPO's, in one run.

    python benchmarks/family_cost.py
    python benchmarks/family_cost.py --table    # of what was measured, measuring nothing

All update the same policy on the same batch: 2048 rows of a rollout on HalfCheetah-v5 (17 -> 6)
after some updates of PPO with its preset, 64 x 64 tanh. Every method takes the same 320 gradient
steps (10 epochs of 32 minibatches) with the same Adam, and none stops early; V-MPO and MDPO once
more with the steps of their own defaults. `policy` is the method's update alone, `update` the whole
of `learn` (values, advantages, policy, critic, ruler). Compiled and warm, all of them in turn; a
ratio is that of two medians, of processor time (`cpu`, which others on the machine hardly change)
and of time on the clock (`wall`). Writes results/family_cost.json, and --table
results/first_order/cost.md; `test_docs.py` holds that table and pages say what that file does.
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

OUT = Path(__file__).resolve().parent / "results" / "family_cost.json"
TABLE = OUT.with_name("first_order") / "cost.md"
OWN = ", own steps"
"""How the rows of methods with their own steps end."""
BOUND = 1.5
"""Ratio to PPO's at the same number of steps that none may exceed."""
PARTS = ("policy", "update")
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def methods(sgd: Any) -> dict[str, Any]:
    """Every method with PPO's steps, none of which ends early; two with their own."""
    import surefoot as sf

    same = {
        "ppo": sf.PPO(sgd=sgd),
        "ppo_kl": sf.PPOKL(sgd=sgd),
        "trefree": sf.TREFree(sgd=sgd),
        "trefree_ratio": sf.TREFreeRatio(sgd=sgd),
        "trefree_free": sf.TREFreeFree(sgd=sgd),
        "trgppo": sf.TRGPPO(sgd=sgd),
        "mdpo": sf.MDPO(sgd=sgd),
        "mdpo, q 1.5": sf.MDPO(q=1.5, sgd=sgd),
        "vmpo": sf.VMPO(sgd=sgd),
        "vmpo, slower target": sf.VMPO(target_every=10, sgd=sgd),
        "spo": sf.SPO(sgd=sgd),
        "espo": sf.ESPO(stop_deviation=1e9, sgd=sgd),
        "truly_ppo": sf.TrulyPPO(sgd=sgd),
        "tr_ppo": sf.TRPPO(sgd=sgd),
        "ppo_rb": sf.PPORB(sgd=sgd),
        "spu": sf.SPU(stop_kl=1e9, sgd=sgd),
        "discovered_po": sf.DiscoveredPO(sgd=sgd),
    }
    return same | {f"mdpo{OWN}": sf.MDPO(), f"vmpo{OWN}": sf.VMPO()}


def under_way(env: str, updates: int) -> tuple[Any, Any]:
    """An agent of PPO after some updates, and its next rollout."""
    from surefoot import Agent

    agent = Agent("ppo", env, seed=0, callback=lambda a: a.update < updates)
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
    state = method.init(ts.policy, key)
    ts = dataclasses.replace(ts, method_state=state)
    # As arguments: constants would be folded at length.
    batch = jax.jit(lambda r, ts: algo.advantage(r, ts.policy, ts.critic, ts.progress))(rollout, ts)
    policy = jax.jit(lambda p, s, b: method.update(p, s, b, key))
    whole = jax.jit(lambda ts, rollout, seen: learn(algo, ts, rollout, seen))
    return {
        "policy": lambda: jax.block_until_ready(policy(ts.policy, state, batch))[2],
        "update": lambda: jax.block_until_ready(whole(ts, rollout, seen))[1],
    }


def measure(runs: dict[str, dict[str, Callable[[], Any]]], repeats: int) -> dict[str, Any]:
    """Milliseconds of every call on either clock, all of them in turn."""
    kinds = [f"{part}_{clock}" for part in PARTS for clock in CLOCKS]
    times: dict[str, Any] = {name: {kind: [] for kind in kinds} for name in runs}
    for turn in range(repeats + 1):  # the first compiles
        for name, parts in runs.items():
            for part, call in parts.items():
                start = {clock: now() for clock, now in CLOCKS.items()}
                call()
                for clock, now in CLOCKS.items() if turn else ():
                    spent = 1000 * (now() - start[clock])
                    times[name][f"{part}_{clock}"].append(round(spent, 3))
    return times


def table(measured: dict[str, Any]) -> str:
    """What was measured, as a page."""
    rows, commit = measured["methods"], measured["git"]["commit"][:7]
    repeats = len(rows[0]["runs_ms"]["policy_cpu"])
    head = ("method", "gradient steps", "policy, ms", "beside PPO", "update, ms", "beside PPO")
    out = [
        "# What an update costs beside PPO's",
        "",
        f"Made by `{measured['command']} --table` from `benchmarks/results/{OUT.name}`, measured "
        f"at {commit} on {measured['cores']} core: medians of {repeats} updates in "
        f"milliseconds of processor time, of a batch of {measured['rows_of_a_batch']} rows of "
        f"{measured['env']}, a policy of 64 x 64. Policy: the method's update alone; "
        "update: the whole of `learn`, with values, advantages, critic and ruler. No method may "
        f"take more than {measured['bound']} times PPO's at PPO's number of steps.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for row in rows:
        cells = [f"{row[k][f'{part}_cpu']:.2f}" for part in PARTS for k in ("ms", "ratio")]
        out.append(f"| {' | '.join([row['method'], str(row['steps']), *cells])} |")
    return "\n".join(out) + "\n"


def sentence(measured: dict[str, Any], name: str) -> str:
    """What a method's page says of its cost."""
    rows = {row["method"]: row for row in measured["methods"]}
    ratios = lambda r: [f"{r['ratio'][f'{part}_cpu']:.2f}" for part in PARTS]  # noqa: E731
    policy, update = ratios(rows[name])
    said = (
        f"Its update takes {policy} times PPO's processor time at the same {rows[name]['steps']} "
        f"gradient steps, the whole of `learn` {update} times"
    )
    if own := rows.get(name + OWN):
        policy, update = ratios(own)
        said += f"; with its own {own['steps']} steps, on the whole batch, {policy} and {update}"
    return f"{said} times PPO's with {rows['ppo']['steps']}." if own else f"{said}."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="envpool:HalfCheetah-v5")
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--out", default=str(OUT))
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        TABLE.write_text(table(json.loads(Path(args.out).read_text())))
        return
    from surefoot.provenance import environment

    agent, (rollout, seen, _) = under_way(args.env, args.updates)
    every = methods(agent.config.method.sgd)
    runs = {name: calls(agent, rollout, seen, method) for name, method in every.items()}
    times = measure(runs, args.repeats)
    median = lambda name: {k: statistics.median(v) for k, v in times[name].items()}  # noqa: E731
    base, rows = median("ppo"), []
    for name, method in every.items():
        ms = median(name)
        ratio = {kind: round(ms[kind] / base[kind], 3) for kind in ms}
        steps = method.sgd.epochs * method.sgd.minibatches
        row = {"method": name, "steps": steps, "ratio": ratio, "ms": ms, "runs_ms": times[name]}
        rows.append(row)
        said = f"{name:<20} {steps:>4} steps, x PPO:"
        print(said, ", ".join(f"{kind} {x:.2f}" for kind, x in ratio.items()))
    same = [r for r in rows if not r["method"].endswith(OWN)]
    worst = max(same, key=lambda r: r["ratio"]["policy_cpu"])
    result = {
        "command": "python benchmarks/family_cost.py",
        **environment(),
        "env": args.env,
        "rows_of_a_batch": agent.config.rows,
        "bound": BOUND,
        "worst": {"method": worst["method"], "policy_cpu": worst["ratio"]["policy_cpu"]},
        "methods": rows,
    }
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(f"most: {worst['method']}, {worst['ratio']['policy_cpu']:.2f} of at most {BOUND}")


if __name__ == "__main__":
    main()
