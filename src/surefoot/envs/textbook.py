"""The textbook's problems as Gymnasium environments, so that every method runs on them:
`surefoot/SingleState-v0`, `surefoot/SimpleRegulator-v0`, `surefoot/LinearQuadratic-v0` and
`surefoot/2048-v0`. Importing this registers them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from surefoot.exact.problems import LQR, LinearQuadratic, Problem, SingleState, Twenty48

NAMESPACE = "surefoot/"
PROBLEMS: dict[str, tuple[Problem, int, int]] = {
    "SingleState-v0": (SingleState(), 3, 0),
    "SimpleRegulator-v0": (LinearQuadratic(), 10, 0),
    "LinearQuadratic-v0": (LQR, 50, 0),
    "2048-v0": (Twenty48(), 2000, 4),
}
"""Name -> problem, depth, and how many actions there are (0: one real number)."""


class TextbookEnv(gymnasium.Env):
    """One trajectory of a problem of `surefoot.exact`; `TimeLimit` cuts it."""

    def __init__(self, name: str) -> None:
        self.name = name
        problem, _, actions = PROBLEMS[name]
        first = problem.reset(np.random.default_rng(0), 1)[0]
        low, high = (0, 15) if actions else (-np.inf, np.inf)
        self.observation_space = gymnasium.spaces.Box(low, high, first.shape, np.float32)
        self.action_space: Any = (
            gymnasium.spaces.Discrete(actions)
            if actions
            else gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        )
        self.state = first[None]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A first state of the problem."""
        super().reset(seed=seed)
        self.state = PROBLEMS[self.name][0].reset(self.np_random, 1)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of the problem."""
        problem, _, actions = PROBLEMS[self.name]
        row = np.array([int(action)]) if actions else np.asarray(action, float)[None]
        reward, self.state, ended = problem.step(self.state, row, self.np_random)
        return self._obs(), float(reward[0]), bool(ended[0]), False, {}

    def _obs(self) -> np.ndarray:
        return self.state[0].astype(np.float32)


for _name, (_, _depth, _) in PROBLEMS.items():
    if NAMESPACE + _name not in gymnasium.registry:
        gymnasium.register(
            NAMESPACE + _name,
            "surefoot.envs.textbook:TextbookEnv",
            max_episode_steps=_depth,
            kwargs={"name": _name},
        )
