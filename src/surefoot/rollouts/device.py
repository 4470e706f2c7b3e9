"""Collection from environments on the device: one scan, compiled together with the update."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.envs.device import DeviceEnv, EnvState
from surefoot.normalize import RunningStats, moments
from surefoot.types import Array, Key, Rollout


class Finished(eqx.Module):
    """Episodes that ended in a rollout: where `ended` [T, N] holds, their return and length."""

    ended: Array
    episode_return: Array
    length: Array
    finite: Array
    """[T, N]: whether the reward and the observations of that step were finite, before they were
    clipped."""

    def mean_return(self) -> Array:
        """Mean return of the episodes that ended; NaN if none did."""
        count = jnp.sum(self.ended)
        total = jnp.sum(jnp.where(self.ended, self.episode_return, 0))
        return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def collect(
    env: DeviceEnv,
    policy: Any,
    stats: RunningStats | None,
    state: EnvState,
    key: Key,
    num_steps: int,
) -> tuple[EnvState, Rollout, RunningStats | None, Finished]:
    """`num_steps` steps of every environment with the policy, observations normalised with frozen
    statistics."""
    return trunk(env, policy, stats, state, key, num_steps, keep=False)[:4]


def trunk(
    env: DeviceEnv,
    policy: Any,
    stats: RunningStats | None,
    state: EnvState,
    key: Key,
    num_steps: int,
    keep: bool = True,
) -> tuple[EnvState, Rollout, RunningStats | None, Finished, EnvState | None]:
    """As `collect`, and with `keep` the states it acted in, [T, N, ...]."""
    normalize = (lambda x: x) if stats is None else stats.normalize

    def step(state: EnvState, key: Key) -> tuple[EnvState, tuple[Any, ...]]:
        k_act, k_env = jax.random.split(key)
        action = policy(normalize(state.obs)).sample(k_act)
        nxt, out, (total, length) = env.step(state, action, k_env)
        # Of the observations themselves: normalisation clips an infinite one to a number.
        final: Any = out.final_obs
        finite = jnp.isfinite(out.reward) & jnp.all(
            jnp.isfinite(out.obs) & jnp.isfinite(final), axis=-1
        )
        ends = (out.terminated, out.truncated, out.mask)
        row = (state.obs, action, out.reward, *ends, final, total, length, finite)
        return nxt, (row, state if keep else None)

    state, (rows, visited) = jax.lax.scan(step, state, jax.random.split(key, num_steps))
    obs, action, reward, terminated, truncated, mask, final_obs, total, length, finite = rows
    seen = None if stats is None else moments(obs, mask)
    every = normalize(jnp.concatenate([obs, state.obs[None]]))
    rollout = Rollout(every, action, reward, terminated, truncated, mask, normalize(final_obs))
    finished = Finished(terminated | truncated, total, length, finite)
    return state, rollout, seen, finished, visited
