"""Kill runs with -9 and resume them: the end must be that of the unbroken run, to the bit.

    python benchmarks/kill.py                      # 10 kills x 3 environments x 2 methods
    python benchmarks/kill.py table                # what is there, in short

For each environment and method one run is left alone; ten are killed at moments drawn uniformly
between 5 % and 95 % of its wall time, two of them as soon as a checkpoint begins to be written, and
resumed. A line of JSON a kill goes to benchmarks/results/kill.jsonl; what is there is not run
again. Equal means: every file of the last checkpoint (its manifest has their hashes), and every
byte of metrics.jsonl and certificate.jsonl.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from surefoot.runs import finished

HERE = Path(__file__).resolve().parent
STORE = HERE / "results" / "kill.jsonl"
WORK = {
    # environment: steps, steps between checkpoints, environments
    "jax:CartPole-v1": (1_200_000, 100_000, 8),
    "Hopper-v5": (200_000, 20_000, 8),
    "envpool:Hopper-v5": (500_000, 50_000, 16),
}
METHODS = ("trpo", "ppo")
KILLS, WRITING = 10, 2


def command(method: str, env: str, folder: Path) -> list[str]:
    steps, every, envs = WORK[env]
    flags = f"--env {env} --steps {steps} --checkpoint-every {every} --num-envs {envs} --seed 7"
    return [
        *(sys.executable, "-m", "surefoot", "train", method, *flags.split()),
        *("--run-dir", str(folder), "--quiet"),
    ]


def result(folder: Path) -> dict[str, str]:
    """What must be equal."""
    last = max((folder / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    return {
        "checkpoint": last.name,
        "state": hashlib.sha256((last / "manifest.json").read_bytes()).hexdigest(),
        "metrics": hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest(),
        "certificate": hashlib.sha256((folder / "certificate.jsonl").read_bytes()).hexdigest(),
    }


def kill_at(process: subprocess.Popen, folder: Path, moment: float, writing: bool) -> float:
    """Kill the process after `moment` seconds, or at the first checkpoint being written after
    that; the seconds it lived."""
    start = time.perf_counter()
    while process.poll() is None and time.perf_counter() - start < moment:
        time.sleep(0.001)
    checkpoints = folder / "checkpoints"
    while writing and process.poll() is None:
        names = os.listdir(checkpoints) if checkpoints.is_dir() else []
        if any(n.startswith(".tmp-") for n in names):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    return time.perf_counter() - start


def one(method: str, env: str, number: int, wall: float, whole: dict[str, str], root: Path) -> dict:
    """One kill, at a moment that depends on its number alone, and its resume.

    A run that was too fast for its kill (the machine is shared) is repeated with the wall time it
    had; one of those to be killed while a checkpoint is written, until it is.
    """
    folder = root / f"kill-{number}"
    draw = random.Random(f"{method} {env} {number}").uniform(0.05, 0.95)
    writing = number < WRITING
    log, litter = subprocess.DEVNULL, 0
    for _ in range(20):
        process = subprocess.Popen(command(method, env, folder), stdout=log, stderr=log)
        lived = kill_at(process, folder, draw * wall, writing)
        litter = len(list(folder.glob("checkpoints/.tmp-*")))
        if not finished(folder) and (litter or not writing):
            break
        if finished(folder):
            wall = min(wall, lived) * 0.9
        shutil.rmtree(folder)
    again = subprocess.run(
        [sys.executable, "-m", "surefoot", "resume", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.search(
        r"; ([\d ]+) steps are done again \(a checkpoint every ([\d ]+)\)", again.stdout
    )
    ended = result(folder) if again.returncode == 0 else {}
    record = {
        "method": method,
        "env": env,
        "kill": number,
        "share": round(draw, 4),
        "while_writing": writing,
        "found_half_written": litter,
        "seconds_lived": round(lived, 2),
        "exit": again.returncode,
        "resumed": bool(said),
        "done_again": int(said[1].replace(" ", "")) if said else None,
        "checkpoint_every": int(said[2].replace(" ", "")) if said else None,
        "state_equal": ended.get("state") == whole["state"],
        "metrics_equal": ended.get("metrics") == whole["metrics"],
        "certificate_equal": ended.get("certificate") == whole["certificate"],
        "said": again.stderr.strip()[-300:],
    }
    shutil.rmtree(folder, ignore_errors=True)
    return record


def group(method: str, env: str, root: Path) -> None:
    """The unbroken run and its ten kills."""
    from surefoot.provenance import environment

    missing = [
        n
        for n in range(KILLS)
        if (method, env, n) not in {(r["method"], r["env"], r["kill"]) for r in read()}
    ]
    if not missing:
        return
    folder = root / "whole"
    start = time.perf_counter()
    subprocess.run(command(method, env, folder), check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    whole = result(folder)
    for number in missing:
        record = one(method, env, number, wall, whole, root)
        record |= {"seconds_whole": round(wall, 2), "steps": WORK[env][0], **environment()}
        with STORE.open("a") as f:
            f.write(json.dumps(record) + "\n")
        keys = ("kill", "share", "done_again", "state_equal", "metrics_equal", "said")
        print(method, env, {k: record[k] for k in keys}, flush=True)


def read() -> list[dict]:
    return [json.loads(x) for x in STORE.read_text().splitlines()] if STORE.exists() else []


def table() -> None:
    rows = read()
    for env in WORK:
        for method in METHODS:
            mine = [r for r in rows if (r["method"], r["env"]) == (method, env)]
            good = sum(r["state_equal"] and r["metrics_equal"] for r in mine)
            most = max((r["done_again"] or 0 for r in mine), default=0)
            half = sum(bool(r["found_half_written"]) for r in mine)
            print(
                f"{method:<5} {env:<18} equal {good} of {len(mine)}; at most {most} steps done "
                f"again, a checkpoint every {WORK[env][1]}; {half} killed while one was written"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--env", choices=WORK, nargs="*", default=list(WORK))
    args = parser.parse_args()
    if args.what == "run":
        for env in args.env:
            for method in METHODS:
                with tempfile.TemporaryDirectory() as root:
                    group(method, env, Path(root))
    table()


if __name__ == "__main__":
    main()
