"""Steady-state speed of a peer in the classic configuration; prints one line of JSON.

    python benchmarks/peers/speed_sb3.py ppo HalfCheetah-v5 --updates 12

Runs in the peers' own environment. Import, construction and the first updates are excluded. One
torch thread, which is faster here than two. `policy-step` times the policy part of one sb3-contrib
TRPO update on 2048 rows of 17 -> 6.
"""

import argparse
import json
import resource
import statistics
import time

import numpy as np
import torch
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

WARMUP = 3


class Clock(BaseCallback):
    """Notes the time at the start of every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def _on_rollout_start(self) -> None:
        self.times.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def build(method: str, env: str, num_envs: int, cg: int):
    venv = VecNormalize(make_vec_env(env, n_envs=num_envs, seed=0))
    if method == "ppo":
        return PPO(
            "MlpPolicy",
            venv,
            n_steps=2048 // num_envs,
            batch_size=64,
            n_epochs=10,
            device="cpu",
            seed=0,
        )
    return TRPO(
        "MlpPolicy",
        venv,
        n_steps=2048 // num_envs,
        batch_size=128,
        n_critic_updates=10,
        cg_max_steps=cg,
        device="cpu",
        seed=0,
    )


def policy_step_ms(cg: int, repeats: int) -> float:
    """Median milliseconds of one TRPO update without its critic."""
    model = build("trpo", "HalfCheetah-v5", 8, cg)
    model.n_critic_updates = 0
    model.learn(2048)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.train()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=["ppo", "trpo", "policy-step"])
    parser.add_argument("env", nargs="?", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--cg", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.method == "policy-step":
        print(json.dumps({"policy_step_ms": policy_step_ms(args.cg, args.updates)}))
        return
    clock = Clock()
    build(args.method, args.env, args.num_envs, args.cg).learn(
        2048 * (args.updates + WARMUP + 1), callback=clock
    )
    per_update = np.diff(clock.times)[WARMUP:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        json.dumps(
            {
                "steps_per_second": 2048 / float(np.mean(per_update)),
                "peak_gb": peak,
                "updates": len(per_update),
            }
        )
    )


if __name__ == "__main__":
    main()
