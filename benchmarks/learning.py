"""Learning curves over seeds: the table of TRPO and PPO, and equal learning beside
Stable-Baselines3.

    python benchmarks/learning.py presets --jobs 2     # presets, envpool:, one million steps, seeds
    0 to 4 python benchmarks/learning.py equal --jobs 2       # the peers' settings, the same 8
    Gymnasium environments python benchmarks/learning.py table                # the tables from what
    is there

A line of JSON a finished run goes to benchmarks/results/learning.jsonl; what is there is not run
again. Runs are one-core processes, pinned, `--jobs` at a time. The peers' lines come from
benchmarks/peers/learn_sb3.py.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
STORE = RESULTS / "learning.jsonl"
PEERS = RESULTS / "equal_learning_peers.jsonl"
SEEDS = range(5)
STEPS = 1_000_000
ACTION_DIM = {"HalfCheetah-v5": 6, "Hopper-v5": 3}

WORK = {
    "presets": [
        (m, e, s)
        for m in ("trpo", "ppo")
        for e in ("envpool:HalfCheetah-v5", "envpool:Hopper-v5")
        for s in SEEDS
    ],
    "equal": [
        (m, e, s) for m in ("trpo", "ppo") for e in ("HalfCheetah-v5", "Hopper-v5") for s in SEEDS
    ],
    "npg": [("npg", e, s) for e in ("CartPole-v1", "envpool:HalfCheetah-v5") for s in range(3)],
}


def configuration(kind: str, method: str, env: str, seed: int):
    """The settings of a run: a preset's, or the ones benchmarks/peers/learn_sb3.py gives its
    library."""
    import dataclasses

    from surefoot import PPO, SGD, TRPO, Config, ValueFit
    from surefoot.presets import choose

    if kind != "equal":
        return dataclasses.replace(choose(method, env), seed=seed)
    if method == "ppo":
        sgd = SGD(lr=3e-4, epochs=10, minibatches=32, max_grad_norm=0.5, adam_eps=1e-5)
        record, value, scope = PPO(clip=0.2, sgd=sgd), ValueFit(sgd), "minibatch"
    else:
        # The peer averages its KL over action dimensions, in the bound and in the Fisher matrix
        # alike: its 0.01 and its damping of 0.1 are d times that here.
        d = ACTION_DIM[env]
        record = TRPO(
            max_kl=0.01 * d, cg_damping=0.1 * d, cg_iters=10, backtrack=0.8, max_backtracks=9
        )
        value = ValueFit(SGD(lr=1e-3, epochs=10, minibatches=16, max_grad_norm=None, adam_eps=1e-5))
        scope = "batch"
    return Config(
        method=record,
        value=value,
        env=env,
        steps=STEPS,
        seed=seed,
        num_envs=8,
        batch=2048,
        gamma=0.99,
        lam=0.95,
        normalize_advantage=scope,
    )


def run(kind: str, method: str, env: str, seed: int) -> None:
    """Train one seed in this process and append its line."""
    from surefoot import Agent, evaluate
    from surefoot.config import to_json
    from surefoot.provenance import environment
    from surefoot.sinks import Update

    config = configuration(kind, method, env, seed)
    agent = Agent(config.method, env, config=config)
    curve, accepted, last = [], [], {}

    class Curve:
        def __call__(self, update: Update) -> None:
            m = update.metrics
            last.update(m)
            accepted.append(bool(m.get("accepted", True)))
            if m["update"] % 25 == 0:
                curve.append([m["env_steps"], m["episode_return"]])

        def close(self) -> None: ...

    start = time.perf_counter()
    agent.learn(config.steps, [Curve()])
    seconds = time.perf_counter() - start
    score = evaluate(agent, 20)
    trust = agent.trust_report()
    record = {
        "kind": kind,
        "method": method,
        "env": env,
        "seed": seed,
        "env_steps": agent.env_steps,
        "train_return_last100": last["episode_return"],
        "eval_return_mean": score.mean,
        "eval_episodes": 20,
        "max_kl": trust.max_kl,
        "kl_mean_largest": max(trust.kl_mean),
        "kl_mean_median": statistics.median(trust.kl_mean),
        "kl_worst_state": max(trust.kl_max),
        "violations": trust.violations,
        "accepted_share": sum(accepted) / len(accepted),
        "updates": agent.update,
        "seconds": round(seconds, 1),
        "curve": curve,
        "settings": to_json(config),
        **environment(),
    }
    with STORE.open("a") as f:
        f.write(json.dumps(record) + "\n")
    shown = (
        "method",
        "env",
        "seed",
        "train_return_last100",
        "eval_return_mean",
        "accepted_share",
        "seconds",
    )
    print(json.dumps({k: record[k] for k in shown}), flush=True)


def done() -> set[tuple[str, str, str, int]]:
    return {(r["kind"], r["method"], r["env"], r["seed"]) for r in read(STORE)}


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_all(kind: str, jobs: int) -> None:
    """Run what is missing, `jobs` pinned processes at a time."""
    cores = sorted(os.sched_getaffinity(0))
    waiting = [w for w in WORK[kind] if (kind, *w) not in done()]
    running: list[tuple[subprocess.Popen, int]] = []
    free = list(range(jobs))
    while waiting or running:
        while waiting and free:
            method, env, seed = waiting.pop(0)
            slot = free.pop(0)
            command = [sys.executable, __file__, "one", "--only", kind, method, env, str(seed)]
            process = subprocess.Popen(["taskset", "-c", str(cores[slot % len(cores)]), *command])
            running.append((process, slot))
        time.sleep(0.2)
        for process, slot in list(running):
            if process.poll() is not None:
                running.remove((process, slot))
                free.append(slot)
                if process.returncode:
                    raise SystemExit(f"a run failed with code {process.returncode}")


def iqm(x):
    from surefoot.evaluate import interquartile_mean

    return interquartile_mean(x)


def interval(x, n: int = 10_000):
    """Interquartile mean over seeds and its 95 % bootstrap interval."""
    import numpy as np

    x = np.asarray(x, float)
    rng = np.random.default_rng(0)
    draws = [iqm(x[rng.integers(0, len(x), len(x))]) for _ in range(n)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return iqm(x), float(low), float(high)


def difference(ours, theirs, n: int = 10_000):
    """Difference of interquartile means, ours minus theirs, and its 95 % bootstrap interval."""
    import numpy as np

    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    rng = np.random.default_rng(0)
    pick = lambda x: x[rng.integers(0, len(x), len(x))]  # noqa: E731
    draws = [iqm(pick(a)) - iqm(pick(b)) for _ in range(n)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return iqm(a) - iqm(b), float(low), float(high)


HEADER = [
    "# Learning at one million steps",
    "",
    "Made by `python benchmarks/learning.py table` from `learning.jsonl` and "
    "`equal_learning_peers.jsonl`.",
    "Training return: mean of the last 100 training episodes. Evaluation return: mean of 20 "
    "deterministic episodes.",
    "Both: interquartile mean over seeds with a 95 % bootstrap interval. Seconds are of one pinned "
    "core, taken while",
    "other runs had the second one: they say little about speed (that is `throughput.json`).",
    "",
    "## Presets",
    "",
    "`python benchmarks/learning.py presets --jobs 2`, and `npg` in place of `presets`.",
    "",
    "| method | environment | seeds | training return | evaluation return "
    "| largest mean KL / max_kl | median / max_kl | accepted, least | worst state KL | seconds |",
    "|---|---|---|---|---|---|---|---|---|---|",
]

EQUAL_HEADER = [
    "",
    "## Equal learning",
    "",
    "The same settings on both sides and the same 8 Gymnasium environments:",
    "`python benchmarks/learning.py equal --jobs 2`, and `benchmarks/peers/learn_sb3.py` in the "
    "peers' environment.",
    "",
    "| method | environment | seeds | measure | surefoot | peer | difference | relative |",
    "|---|---|---|---|---|---|---|---|",
]


def cell(x) -> str:
    return "{:.0f} [{:.0f}, {:.0f}]".format(*interval(x))


def preset_row(method: str, env: str, rows: list[dict]) -> str:
    """A line of the first table."""
    bound = rows[0]["max_kl"]
    largest = max(r["kl_mean_largest"] for r in rows)
    median = min(r["kl_mean_median"] for r in rows)
    seeds = sorted(r["seed"] for r in rows)
    cells = [
        method,
        env,
        f"{seeds[0]} to {seeds[-1]}",
        cell([r["train_return_last100"] for r in rows]),
        cell([r["eval_return_mean"] for r in rows]),
        "no bound" if bound is None else f"{largest / bound:.4f}",
        "no bound" if bound is None else f"{median / bound:.4f}",
        "no bound" if bound is None else f"{min(r['accepted_share'] for r in rows):.1%}",
        f"{max(r['kl_worst_state'] for r in rows):.3g}",
        f"{statistics.median(r['seconds'] for r in rows):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def equal_rows(method: str, env: str, ours: list[dict], theirs: list[dict]) -> list[str]:
    """Lines of the second table: seeds 0 to 4, and all where there are more on both sides."""
    lines = []
    common = {r["seed"] for r in ours} & {r["seed"] for r in theirs}
    for top in sorted({min(4, max(common)), max(common)}):
        for key, name in (("train_return_last100", "training"), ("eval_return_mean", "evaluation")):
            x, y = (
                [r[key] for r in rs if r["seed"] <= top and r["seed"] in common]
                for rs in (ours, theirs)
            )
            gap = "{:+.0f} [{:+.0f}, {:+.0f}]".format(*difference(x, y))
            relative = f"{(iqm(x) - iqm(y)) / abs(iqm(y)):+.0%}"
            cells = [method, env, f"0 to {top}", name, cell(x), cell(y), gap, relative]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def group(rows: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    """Rows by the values of some keys, in order of first appearance."""
    out: dict[tuple, list[dict]] = {}
    for row in rows:
        out.setdefault(tuple(row[k] for k in keys), []).append(row)
    return out


def table() -> None:
    """Write benchmarks/results/learning.md."""
    rows, peers = read(STORE), group(read(PEERS), "method", "env")
    lines = list(HEADER)
    for (kind, method, env), got in group(rows, "kind", "method", "env").items():
        if kind != "equal":
            lines.append(preset_row(method, env, got))
    lines += EQUAL_HEADER
    for (kind, method, env), got in group(rows, "kind", "method", "env").items():
        if kind == "equal" and (method, env) in peers:
            lines += equal_rows(method, env, got, peers[method, env])
    text = "\n".join(lines) + "\n"
    (RESULTS / "learning.md").write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*WORK, "table", "one"])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs=4, metavar=("KIND", "METHOD", "ENV", "SEED"))
    args = parser.parse_args()
    if args.what == "table":
        table()
    elif args.what == "one":
        kind, method, env, seed = args.only
        run(kind, method, env, int(seed))
    else:
        run_all(args.what, args.jobs)
        table()


if __name__ == "__main__":
    main()
