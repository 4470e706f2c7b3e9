"""EnvPool: many environments stepped by one call to C++ threads. Resets on the step after an end, ignoring that action."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.checks import EnvironmentFault
from surefoot.envs.spaces import ActionDoor, flat_obs_dim
from surefoot.types import EnvSpec, Step


class EnvPoolEnvs:
    """A pool with EnvPool's Gymnasium interface. `make(seed)` builds it: its seed is fixed at construction."""

    def __init__(self, make: Any, env_id: str, seed: int) -> None:
        self._make, self._seed = make, seed
        self.pool = make(seed)
        self.door = ActionDoor(self.pool.action_space, env_id)
        d = flat_obs_dim(self.pool.observation_space, env_id)
        config = self.pool.spec.config
        n = int(config.num_envs)
        limit = getattr(config, "max_episode_steps", None)
        self.spec = EnvSpec(env_id, "envpool", n, d, self.door.dim, self.door.discrete, limit)
        self._ended = np.zeros(n, bool)
        self._fresh = True

    def reset(self, seed: int) -> np.ndarray:
        """Begin new episodes; a pool that has stepped, or has another seed, is made anew (reset restores nothing)."""
        if seed != self._seed or not self._fresh:
            self.close()
            self.pool, self._seed = self._make(seed), seed
        self._fresh = False
        self._ended = np.zeros(self.spec.num_envs, bool)
        return np.asarray(self._call("reset")[0])

    def step(self, action: np.ndarray) -> Step:
        """One step of every environment; rows after an end are only a reset and masked."""
        obs, reward, terminated, truncated, _ = self._call("step", self.door(action))
        mask = ~self._ended
        terminated, truncated = np.asarray(terminated, bool) & mask, np.asarray(truncated, bool) & mask
        self._ended = terminated | truncated
        return Step(np.asarray(obs), np.where(mask, reward, 0.0), terminated, truncated, mask)

    def close(self) -> None:
        """Stop the pool's threads."""
        self.pool.close()

    def _call(self, name: str, *args: Any) -> Any:
        try:
            return getattr(self.pool, name)(*args)
        except Exception as error:
            raise EnvironmentFault(f"{self.spec.id} failed in {name}: {type(error).__name__}: {error}") from error
