"""What the certificate costs: share of the wall time of training spent in writing it.

    python benchmarks/certificate.py --updates 200

One process trains with the preset and times `Certifier.record` and what a checkpoint adds, beside
collection and learning, so that the load of the machine falls on both alike. One line of JSON a
setting, appended to benchmarks/results/certificate.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from surefoot import envs
from surefoot.certificate import Certifier, promised
from surefoot.loops import fresh_state, plain
from surefoot.presets import choose
from surefoot.provenance import environment, write_config
from surefoot.rollouts.host import HostCollector
from surefoot.train import learn_jit
from surefoot.verifier import Verifier

RESULTS = Path(__file__).parent / "results" / "certificate.jsonl"
WARM = 5
"""Updates before the clock: compilation."""


def measure(method: str, env: str, every: int, updates: int, folder: Path) -> dict[str, Any]:
    """Seconds an update with and in the certificate, and what the verifier then says."""
    config = choose(method, env)
    config = dataclasses.replace(config, certify_every=every, steps=config.rows * updates)
    made = envs.make(env, config.num_envs, config.seed, config.workers)
    promise, bound = promised(config)
    write_config(folder, config, promise=promise, bound=bound)
    collector = HostCollector(made, config.rollout_steps, config.seed)
    ts = fresh_state(config, made.spec)
    certifier = Certifier(folder, config)
    certifier.first(ts.policy)
    rest, own, metrics = 0.0, 0.0, []
    for update in range(1, updates + 1):
        start = time.perf_counter()
        old = ts.policy
        rollout, seen, _ = collector.collect(old, ts.obs_stats, update - 1)
        ts, report = learn_jit(config.algorithm, ts, rollout, seen)
        report = plain(jax.device_get(report))
        trained = time.perf_counter()
        certifier.record(update, old, ts.policy, lambda r=rollout: r, report)
        if update % 49 == 0:  # a checkpoint every 100 000 steps of 2048 an update
            certifier.state()
            certifier.sweep()
        done = time.perf_counter()
        metrics.append(json.dumps(report))
        if update > WARM:
            rest, own = rest + trained - start, own + done - trained
    certifier.state()
    certifier.sweep(last=True)
    certifier.close()
    made.close()
    (folder / "metrics.jsonl").write_text("\n".join(metrics) + "\n")
    start = time.perf_counter()
    check = Verifier(folder).verify()
    kept = sum(p.stat().st_size for p in (folder / "certificate").iterdir())
    return {
        "method": method,
        "env": env,
        "certify_every": every,
        "updates": updates,
        "ms_training": round(1e3 * rest / (updates - WARM), 2),
        "ms_certificate": round(1e3 * own / (updates - WARM), 3),
        "share": round(own / (own + rest), 4),
        "kept_megabytes": round(kept / 1e6, 1),
        "seconds_to_verify": round(time.perf_counter() - start, 2),
        "findings": len(check.findings),
        "largest": check.kept.largest,
    }


def main() -> None:
    """Every setting once, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--methods", nargs="+", default=["ppo", "trpo"])
    parser.add_argument("--env", default="envpool:HalfCheetah-v5")
    parser.add_argument("--every", nargs="+", type=int, default=[8, 1])
    args = parser.parse_args()
    for method in args.methods:
        for every in args.every:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(method, args.env, every, args.updates, Path(folder))
            row |= {"cores": environment()["cores"], "versions": environment()["versions"]}
            print(json.dumps(row))
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
