"""gymnax environments, 1.0.1 (six values from a step) and 0.0.9 (five), behind the same pure
functions.

The time limit is always ours: gymnax's own is moved out of reach, so that 0.0.9, whose one flag
does not tell an end from a cut, is as exact as 1.0.1. The one exception shows its agent the time:
there the limit is part of the task, and its end is an end.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from surefoot.checks import UsageError
from surefoot.types import Array, Key

_FAR = 1 << 30
_SHOWS_THE_TIME = ("DiscountingChain-bsuite",)
"""Environments whose observation is a share of the time limit."""


class GymnaxEnv:
    """One gymnax environment as a `PureEnv`."""

    suite = "gymnax"

    def __init__(self, env: Any, params: Any, env_id: str) -> None:
        self._env, self.id = env, env_id
        limit = None if env_id in _SHOWS_THE_TIME else getattr(params, "max_steps_in_episode", None)
        self.max_episode_steps = None if limit is None else int(limit)
        self._params = (
            params if limit is None else dataclasses.replace(params, max_steps_in_episode=_FAR)
        )
        action, obs = env.action_space(params), env.observation_space(params)
        self.discrete = hasattr(action, "n")
        shape = tuple(getattr(action, "shape", ()))
        if not self.discrete and len(shape) != 1:
            raise UsageError(
                f"gymnax:{self.id} has actions of shape {shape}; supported are Discrete and 1-D Box"
            )
        if len(obs.shape) != 1:
            raise UsageError(
                f"gymnax:{self.id} has observations of shape {obs.shape}; supported are 1-D Box"
            )
        self.obs_dim = int(obs.shape[0])
        if self.discrete:
            self.action_dim = int(action.n)
        else:
            self.action_dim = int(np.prod(shape))
            self._low = np.broadcast_to(np.asarray(action.low, np.float32), shape)
            self._high = np.broadcast_to(np.asarray(action.high, np.float32), shape)
            self._finite = bool(np.all(np.isfinite(self._low) & np.isfinite(self._high)))

    def reset(self, key: Key) -> tuple[Any, Array]:
        """A fresh state and its observation."""
        obs, state = self._env.reset_env(key, self._params)
        return state, obs.astype(jnp.float32)

    def step(self, state: Any, action: Any, key: Key) -> tuple[Any, Array, Array, Array]:
        """One step without gymnax's own reset."""
        if not self.discrete and self._finite:
            action = self._low + (jnp.clip(action, -1, 1) + 1) / 2 * (self._high - self._low)
        obs, state, reward, terminated, *_ = self._env.step_env(key, state, action, self._params)
        as_scalar = jnp.reshape(jnp.asarray(reward, jnp.float32), ())
        return (
            state,
            obs.astype(jnp.float32),
            as_scalar,
            jnp.reshape(jnp.asarray(terminated, bool), ()),
        )
