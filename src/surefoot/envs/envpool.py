"""EnvPool: many environments stepped by one call to C++ threads. Resets on the step after an end,
ignoring that action.

Where a task ends on the very step of its time limit, EnvPool calls it a cut and not an end; nothing
it returns could tell them apart.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from surefoot.envs.spaces import ActionDoor, check_shape, failed, flat_obs_dim
from surefoot.types import EnvSpec, Step


class EnvPoolEnvs:
    """A pool with EnvPool's Gymnasium interface. `make(seed)` builds it: its seed is fixed at
    construction."""

    def __init__(self, make: Any, env_id: str, seed: int) -> None:
        self._make, self._seed = make, seed
        self.pool = make(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EnvPool's bounds are float64, its boxes float32
            self.door = ActionDoor(self.pool.action_space, env_id)
            d = flat_obs_dim(self.pool.observation_space, env_id)
        config = self.pool.spec.config
        n = int(config.num_envs)
        limit = getattr(config, "max_episode_steps", None)
        self.spec = EnvSpec(env_id, "envpool", n, d, self.door.dim, self.door.discrete, limit)
        self._ended = np.zeros(n, bool)
        self._fresh = True

    def reset(self, seed: int) -> np.ndarray:
        """Begin new episodes; a pool that has stepped, or has another seed, is made anew (reset
        restores nothing)."""
        if seed != self._seed or not self._fresh:
            self.close()
            self.pool, self._seed = self._make(seed), seed
        self._fresh = False
        self._ended = np.zeros(self.spec.num_envs, bool)
        return self._call("reset")[0]

    def step(self, action: np.ndarray) -> Step:
        """One step of every environment; rows after an end are only a reset and masked."""
        obs, reward, terminated, truncated, _ = self._call("step", self.door(action))
        mask = ~self._ended
        terminated, truncated = (
            np.asarray(terminated, bool) & mask,
            np.asarray(truncated, bool) & mask,
        )
        self._ended = terminated | truncated
        return Step(obs, np.where(mask, reward, 0.0), terminated, truncated, mask)

    def close(self) -> None:
        """Stop the pool's threads."""
        self.pool.close()

    def _call(self, name: str, *args: Any) -> tuple[Any, ...]:
        try:
            obs, *rest = getattr(self.pool, name)(*args)
            obs = np.asarray(obs)
            check_shape("observation", obs.shape, (self.spec.num_envs, self.spec.obs_dim))
        except Exception as error:
            raise failed(self.spec.id, name, error) from error
        return obs, *rest
