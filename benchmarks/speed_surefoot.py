"""Steady-state speed of surefoot with everything on; prints one line of JSON.

    python benchmarks/speed_surefoot.py ppo HalfCheetah-v5 --num-envs 8 --updates 60

Everything on: observation and reward normalisation, the ruler, `metrics.jsonl`, `timings.jsonl`,
TensorBoard, a live panel (drawn on a terminal that is thrown away) and checkpoints. Import,
compilation and the first updates are excluded. `policy-step` times TRPO's update alone on 2048 rows
of 17 -> 6.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

WARMUP = 5


def settings(method: str, cg: int):
    from surefoot import PPO, SGD, TRPO, ValueFit

    if method == "ppo":
        sgd = SGD(lr=3e-4, epochs=10, minibatches=32)
        return PPO(sgd=sgd), ValueFit(sgd), "minibatch"
    return (
        TRPO(cg_iters=cg),
        ValueFit(SGD(lr=1e-3, epochs=10, minibatches=16, max_grad_norm=None)),
        "batch",
    )


def train(method: str, env: str, num_envs: int, updates: int, cg: int) -> dict:
    from rich.console import Console

    from surefoot import Agent, Config
    from surefoot.cli.train_ import Saver
    from surefoot.console import Panel
    from surefoot.provenance import write_config
    from surefoot.sinks import JsonLines, TensorBoard

    record, value, scope = settings(method, cg)
    config = Config(
        method=record, value=value, env=env, num_envs=num_envs, normalize_advantage=scope
    )
    agent = Agent(record, env, config=config)
    steps = 2048 * (updates + WARMUP)
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w") as nowhere:
        folder = Path(name)
        write_config(folder, agent.config)
        panel = Panel(
            agent,
            steps,
            "bench",
            name,
            console=Console(file=nowhere, force_terminal=True, width=160),
        )
        agent.learn(
            steps, [panel, JsonLines(folder), TensorBoard(folder), Saver(agent, folder, 100_000)]
        )
        rows = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    first, last = rows[WARMUP - 1], rows[-1]
    mean_ms = lambda key: round(1000 * statistics.mean(r[key] for r in rows[WARMUP:]), 2)  # noqa: E731
    return {
        "steps_per_second": (last["env_steps"] - first["env_steps"])
        / (last["seconds"] - first["seconds"]),
        "collect_ms": mean_ms("seconds_collect"),
        "learn_ms": mean_ms("seconds_learn"),
        "update_ms": mean_ms("seconds_update"),
        "resident_gb": int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e9,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def policy_step_ms(cg: int, repeats: int) -> float:
    import jax

    from surefoot import Agent

    record, value, _ = settings("trpo", cg)
    agent = Agent(record, "HalfCheetah-v5", value=value, num_envs=8, preset="none")
    collector = agent._loop.collector  # the benchmark reaches inside for one real rollout
    rollout, _, _ = collector.collect(agent.policy, None, 0)
    ts, algo = agent.state, agent.config.algorithm
    batch = jax.jit(lambda: algo.advantage(rollout, ts.policy, ts.critic, ts.progress))()
    step = jax.jit(lambda p, b: record.update(p, (), b, ts.key)[0])
    policy = step(ts.policy, batch)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(step(ts.policy, batch))
        times.append(time.perf_counter() - start)
    del policy
    return 1000 * statistics.median(times)


def raw_envpool(env: str, num_envs: int, steps: int) -> float:
    """Random actions through a bare pool: the limit."""
    import envpool
    import numpy as np

    pool = envpool.make_gymnasium(
        env.removeprefix("envpool:"),
        num_envs=num_envs,
        seed=0,
        num_threads=len(os.sched_getaffinity(0)),
    )
    pool.reset()
    rng = np.random.default_rng(0)
    actions = [rng.uniform(-1, 1, (num_envs, *pool.action_space.shape)) for _ in range(16)]
    for i in range(50):
        pool.step(actions[i % 16])
    start = time.perf_counter()
    for i in range(steps // num_envs):
        pool.step(actions[i % 16])
    return steps // num_envs * num_envs / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=["ppo", "trpo", "policy-step", "raw-envpool"])
    parser.add_argument("env", nargs="?", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--cg", type=int, default=15)
    args = parser.parse_args()
    if args.method == "policy-step":
        print(json.dumps({"policy_step_ms": policy_step_ms(args.cg, args.updates)}))
    elif args.method == "raw-envpool":
        print(
            json.dumps(
                {"steps_per_second": raw_envpool(args.env, args.num_envs, 2048 * args.updates)}
            )
        )
    else:
        print(json.dumps(train(args.method, args.env, args.num_envs, args.updates, args.cg)))


if __name__ == "__main__":
    main()
