"""Environments that are pure functions: many at once, same-step resets, time limits told apart from
ends."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.types import Array, EnvSpec, Key, Step


@runtime_checkable
class PureEnv(Protocol):
    """One environment as two pure functions; no resets and no time limit of its own."""

    id: str
    suite: str
    obs_dim: int
    action_dim: int
    discrete: bool
    max_episode_steps: int | None

    def reset(self, key: Key) -> tuple[Any, Array]:
        """A fresh state and its observation [obs_dim]."""
        ...

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, Array, Array, Array]:
        """State, observation, reward, whether nothing follows. Continuous actions come in [-1, 1],
        not yet clipped."""
        ...


class EnvState(eqx.Module):
    """State of N environments between steps, with what is needed to report whole episodes."""

    inner: Any
    obs: Array
    elapsed: Array
    episode_return: Array


class DeviceEnv:
    """N copies of a `PureEnv`. Where an episode ends the next one begins in the same step, and
    `final_obs` keeps the true successor."""

    def __init__(self, env: PureEnv, num_envs: int) -> None:
        self.env = env
        self.spec = EnvSpec(
            id=env.id,
            suite=env.suite,
            num_envs=num_envs,
            obs_dim=env.obs_dim,
            action_dim=env.action_dim,
            discrete=env.discrete,
            max_episode_steps=env.max_episode_steps,
            on_device=True,
            same_step=True,
        )

    def reset(self, key: Key) -> EnvState:
        """Fresh episodes in every environment; the observations are in the state."""
        inner, obs = jax.vmap(self.env.reset)(jax.random.split(key, self.spec.num_envs))
        n = self.spec.num_envs
        return EnvState(inner, obs, jnp.zeros(n, jnp.int32), jnp.zeros(n, float))

    def step(
        self, state: EnvState, action: Array, key: Key
    ) -> tuple[EnvState, Step, tuple[Array, Array]]:
        """One step of every environment. The last value is (return, length) so far, whole where an
        episode ended."""
        n = self.spec.num_envs
        k_step, k_reset = jax.random.split(key)
        keys = jax.random.split(k_step, n)
        inner, final_obs, reward, terminated = jax.vmap(self.env.step)(state.inner, action, keys)
        elapsed = state.elapsed + 1
        total = state.episode_return + reward.astype(state.episode_return.dtype)
        limit = self.spec.max_episode_steps
        truncated = jnp.zeros_like(terminated) if limit is None else (elapsed >= limit)
        ended = terminated | truncated
        fresh_inner, fresh_obs = jax.vmap(self.env.reset)(jax.random.split(k_reset, n))

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(ended.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

        obs = choose(fresh_obs, final_obs)
        nxt = EnvState(
            inner=jax.tree.map(choose, fresh_inner, inner),
            obs=obs,
            elapsed=jnp.where(ended, 0, elapsed),
            episode_return=jnp.where(ended, 0, total),
        )
        return (
            nxt,
            Step(obs, reward, terminated, truncated, jnp.ones(n, bool), final_obs),
            (total, elapsed),
        )
