"""What checkpoints cost at the default interval, as a share of the wall time of training.

    python benchmarks/checkpoint_cost.py           # three runs of each, medians

Timed inside the run, from the first checkpoint to the end of training: writing checkpoints (the
metrics synced, the environments captured, everything hashed, written, synced and thinned out), and,
where a checkpoint begins new episodes, making the environments anew. Writes
benchmarks/results/checkpoint_cost.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

STORE = Path(__file__).resolve().parent / "results" / "checkpoint_cost.json"
WORK = [
    ("trpo", "jax:CartPole-v1", 1_000_000),
    ("trpo", "Hopper-v5", 200_000),
    ("ppo", "envpool:Hopper-v5", 700_000),
    ("ppo", "envpool:HalfCheetah-v5", 700_000),
]
REPEATS = 3


def measure(method: str, env: str, steps: int) -> dict:
    """One run in this process."""
    from surefoot import Agent
    from surefoot.cli import session
    from surefoot.presets import choose
    from surefoot.provenance import write_config

    config = choose(method, env)
    agent = Agent(config.method, env, config=config)
    spent = {"writing": 0.0, "anew": 0.0, "checkpoints": 0}
    begun: list[float] = []

    def timed(call, name):
        def run(*args, **options):
            start = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    class Saver(session.Saver):
        def save(self):
            spent["checkpoints"] += 1
            begun.append(time.perf_counter())
            return timed(super().save, "writing")()

    session.Saver = Saver
    session.closing = lambda *_: 0
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder), agent.config)
        if agent.loop.level == "barrier":
            env_ = agent.loop.collector.env
            env_.reset = timed(env_.reset, "anew")
        session.train(agent, Path(folder), steps, session.Talk(quiet=True))
        wall = time.perf_counter() - begun[0]
    return {
        **{k: round(v, 4) for k, v in spent.items()},
        "seconds": round(wall, 3),
        "share": round((spent["writing"] + spent["anew"]) / wall, 5),
        "every": agent.checkpoint_every,
        "milliseconds_each": round(1000 * spent["writing"] / spent["checkpoints"], 2),
    }


def main() -> None:
    if len(sys.argv) > 1:
        method, env, steps = sys.argv[1:]
        print(json.dumps(measure(method, env, int(steps))))
        return
    from surefoot.provenance import environment

    rows = []
    for method, env, steps in WORK:
        runs = []
        for _ in range(REPEATS):
            call = [sys.executable, __file__, method, env, str(steps)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        share = statistics.median(r["share"] for r in runs)
        rows.append({"method": method, "env": env, "steps": steps, "share": share, "runs": runs})
        print(f"{method:<5} {env:<24} {100 * share:.2f} % of wall time", flush=True)
    command = "python benchmarks/checkpoint_cost.py"
    STORE.write_text(
        json.dumps({"command": command, **environment(), "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
