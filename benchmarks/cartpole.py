"""CartPole-v1 by TRPO's preset: seconds from the command to its last line, and the score, for seeds
0 to 4.

    python benchmarks/cartpole.py

Each seed is the command `surefoot train trpo --env CartPole-v1 --seed N --json` in a process of its
own; its score is the mean of 20 deterministic evaluation episodes. Appends to
results/cartpole.jsonl.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OUT = Path(__file__).resolve().parent / "results" / "cartpole.jsonl"


def main() -> None:
    lines = OUT.read_text().splitlines() if OUT.exists() else []
    done = {json.loads(line)["seed"] for line in lines}
    for seed in (s for s in range(5) if s not in done):
        with tempfile.TemporaryDirectory() as folder:
            args = ["train", "trpo", "--env", "CartPole-v1", "--seed", str(seed), "--json"]
            command = [sys.executable, "-m", "surefoot", *args, "--run-dir", f"{folder}/run"]
            start = time.perf_counter()
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds = time.perf_counter() - start
            config = json.loads(Path(f"{folder}/run/config.json").read_text())
        scored = json.loads(result.stdout)
        record = {
            "command": " ".join(["surefoot", *args]),
            "seed": seed,
            "seconds": round(seconds, 1),
            "return": scored["return"],
            "env_steps": scored["env_steps"],
            "versions": config["versions"],
            "cores": config["cores"],
            "git": config["git"],
        }
        with OUT.open("a") as f:
            f.write(json.dumps(record) + "\n")
        print(f"seed {seed}: {scored['return']['mean']:.1f} in {seconds:.1f} s")


if __name__ == "__main__":
    main()
