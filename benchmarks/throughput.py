"""The speed table: surefoot beside its peers, in turn, in one run on one machine; medians of
several processes.

    make bench                      # makes both environments first
    python benchmarks/throughput.py --peers .venvs/peers/bin/python --runs 3

Writes benchmarks/results/throughput.json (every single figure, versions, machine) and prints the
table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = [str(HERE / "speed_surefoot.py")]
PEER = [str(HERE / "peers" / "speed_sb3.py")]

# name, our arguments, the peer's arguments, the figure, the ratio asked for (peer time / our time,
# or rate / rate)
PAIRS = [
    (
        "PPO, HalfCheetah-v5, 8 Gymnasium environments",
        ["ppo", "HalfCheetah-v5", "--num-envs", "8"],
        ["ppo", "HalfCheetah-v5"],
        "steps_per_second",
        4.8,
    ),
    (
        "PPO, envpool:HalfCheetah-v5, 64",
        ["ppo", "envpool:HalfCheetah-v5", "--num-envs", "64", "--updates", "120"],
        ["ppo", "HalfCheetah-v5"],
        "steps_per_second",
        9.0,
    ),
    (
        "TRPO, envpool:HalfCheetah-v5, 64",
        ["trpo", "envpool:HalfCheetah-v5", "--num-envs", "64", "--updates", "120"],
        ["trpo", "HalfCheetah-v5"],
        "steps_per_second",
        4.5,
    ),
    (
        "TRPO policy step, 2048 rows, CG 10",
        ["policy-step", "--cg", "10"],
        ["policy-step", "--cg", "10"],
        "policy_step_ms",
        7.5,
    ),
    (
        "PPO, jax:CartPole-v1",
        ["ppo", "jax:CartPole-v1", "--num-envs", "64", "--updates", "120"],
        ["ppo", "CartPole-v1"],
        "steps_per_second",
        22.0,
    ),
]


def call(python: str, args: list[str]) -> dict:
    env = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    done = subprocess.run(
        [python, *args], capture_output=True, text=True, env=env, cwd=tempfile.gettempdir()
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(args)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def command_seconds(command: list[str], env: dict[str, str], until: str | None = None) -> float:
    """Seconds until a command ends, or until a file of the given name has a line in it."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
    ) as process:
        if until is None:
            process.wait()
            return time.perf_counter() - start
        path = Path(until)
        while process.poll() is None and not (path.exists() and path.stat().st_size):
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def start_up(runs: int) -> dict[str, list[float]]:
    """Seconds of `surefoot --help`, and of `train` to its first metric line with the compilation
    cache cold and warm."""
    surefoot = [sys.executable, "-m", "surefoot"]
    times: dict[str, list[float]] = {"help": [], "cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as name:
        for i in range(runs):
            env = dict(os.environ, SUREFOOT_CACHE=f"{name}/cache{i}")
            times["help"].append(command_seconds([*surefoot, "--help"], env))
            for kind in ("cold", "fill", "warm"):
                run = f"{name}/{kind}{i}"
                command = [*surefoot, "train", "trpo", "--env", "HalfCheetah-v5", "--run-dir", run]
                if (
                    kind == "fill"
                ):  # a whole short run, so that everything a run compiles is in the cache
                    command_seconds([*command, "--steps", "4096"], env)
                    continue
                times[kind].append(command_seconds(command, env, f"{run}/metrics.jsonl"))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default=".venvs/peers/bin/python")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", default=str(HERE / "results" / "throughput.json"))
    args = parser.parse_args()
    rows, raw = [], []
    for name, ours, peer, key, floor in PAIRS:
        a, b = [], []
        for _ in range(args.runs):
            b.append(call(os.path.abspath(args.peers), PEER + peer))
            a.append(call(sys.executable, OURS + ours))
            if name.startswith("PPO, envpool"):
                raw.append(
                    call(
                        sys.executable,
                        [*OURS, "raw-envpool", "envpool:HalfCheetah-v5", "--num-envs", "64"],
                    )
                )
        mine, theirs = (statistics.median(r[key] for r in rs) for rs in (a, b))
        ratio = theirs / mine if key.endswith("_ms") else mine / theirs
        rows.append(
            {
                "work": name,
                "surefoot": mine,
                "peer": theirs,
                "unit": key,
                "ratio": ratio,
                "asked": floor,
                "runs_surefoot": a,
                "runs_peer": b,
            }
        )
        print(
            f"{name:<48} {mine:>10.1f} {theirs:>10.1f} {key:<17} "
            f"ratio {ratio:5.2f} (asked {floor})",
            flush=True,
        )
    limit = statistics.median(r["steps_per_second"] for r in raw)
    share = next(r["surefoot"] for r in rows if r["work"].startswith("PPO, envpool")) / limit
    print(f"raw EnvPool, 64: {limit:.0f} steps/s; PPO has {share:.0%} of it (asked 50%)")
    runs = [r for row in rows for r in row["runs_surefoot"] if "peak_gb" in r]
    memory, peak = (max(r[k] for r in runs) for k in ("resident_gb", "peak_gb"))
    print(f"memory: {memory:.2f} GB resident in training (asked 0.7), {peak:.2f} GB in compiling")
    starts = {k: sorted(v) for k, v in start_up(args.runs).items()}
    for kind, asked in (("help", 1), ("cold", 6), ("warm", 3)):
        print(f"start-up, {kind}: {statistics.median(starts[kind]):.2f} s (asked {asked})")
    record = {
        "command": " ".join(["python", *sys.argv]),
        "machine": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        "rows": rows,
        "raw_envpool": [r["steps_per_second"] for r in raw],
        "share_of_raw": share,
        "resident_gb": memory,
        "peak_gb_while_compiling": peak,
        "start_up_seconds": starts,
    }
    Path(args.out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
