"""Train a peer (Stable-Baselines3 PPO or sb3-contrib TRPO) for the equal-learning comparison.

Runs in the peers' own environment (see benchmarks/README.md). One line of JSON a run is appended to
the results file; a run that is already there is skipped. Settings are the classic configuration:
2048 steps an update from 8 Gymnasium environments, 64x64 tanh, observation and reward normalisation
on.

    python benchmarks/peers/learn_sb3.py --method ppo --env HalfCheetah-v5 --seeds 0 1 2 3 4
"""

import argparse
import json
import platform
import time
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import sb3_contrib
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

SETTINGS = {
    "ppo": dict(
        n_steps=256,
        batch_size=64,
        n_epochs=10,
        learning_rate=3e-4,
        clip_range=0.2,
        gamma=0.99,
        gae_lambda=0.95,
    ),
    "trpo": dict(
        n_steps=256,
        batch_size=128,
        learning_rate=1e-3,
        n_critic_updates=10,
        cg_max_steps=10,
        cg_damping=0.1,
        target_kl=0.01,
        gamma=0.99,
        gae_lambda=0.95,
    ),
}
CLASSES = {"ppo": sb3.PPO, "trpo": sb3_contrib.TRPO}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=list(SETTINGS), required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--out", default="benchmarks/results/equal_learning_peers.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(r["method"], r["env"], r["seed"], r["steps_asked"]) for r in map(json.loads, lines)}
    for seed in args.seeds:
        if (args.method, args.env, seed, args.steps) in done:
            continue
        venv = make_vec_env(args.env, n_envs=8, seed=seed)
        venv = VecNormalize(venv, gamma=SETTINGS[args.method]["gamma"])
        model = CLASSES[args.method](
            "MlpPolicy",
            venv,
            seed=seed,
            device="cpu",
            stats_window_size=100,
            **SETTINGS[args.method],
        )
        start = time.perf_counter()
        model.learn(args.steps)
        seconds = time.perf_counter() - start
        window = [e["r"] for e in model.ep_info_buffer]
        venv.training, venv.norm_reward = False, False
        venv.seed(10_000 + seed)
        returns, _ = evaluate_policy(
            model, venv, n_eval_episodes=20, deterministic=True, return_episode_rewards=True
        )
        record = {
            "library": "sb3" if args.method == "ppo" else "sb3-contrib",
            "method": args.method,
            "env": args.env,
            "seed": seed,
            "steps_asked": args.steps,
            "env_steps": model.num_timesteps,
            "num_envs": 8,
            "train_return_last100": float(np.mean(window)),
            "eval_return_mean": float(np.mean(returns)),
            "eval_episodes": 20,
            "seconds": round(seconds, 1),
            "settings": SETTINGS[args.method],
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "stable_baselines3": sb3.__version__,
                "sb3_contrib": sb3_contrib.__version__,
                "gymnasium": gymnasium.__version__,
                "mujoco": mujoco.__version__,
                "numpy": np.__version__,
            },
        }
        with out.open("a") as f:
            f.write(json.dumps(record) + "\n")
        print(
            json.dumps(
                {
                    k: record[k]
                    for k in (
                        "method",
                        "env",
                        "seed",
                        "train_return_last100",
                        "eval_return_mean",
                        "seconds",
                    )
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
