"""Probe environments: each fails in its own way when one part of an agent is broken.

After the debugging folklore of the field: (1) one action, reward 1: is a constant value learnt? (2)
reward equal to a random observation: does the value see the observation? (3) reward after two
steps: is the discount right? (4) reward by action: does the policy follow the advantage? (5) reward
by action and observation: does the policy see the observation? `counting` has an observation that
is the step number, for tests of what is recorded where episodes end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from surefoot.types import Array, Key


@dataclass(frozen=True)
class Probe:
    """Fields that all probes share; episodes last one step unless said otherwise."""

    id: str = ""
    suite: str = "probe"
    obs_dim: int = 1
    action_dim: int = 2
    discrete: bool = True
    max_episode_steps: int | None = None

    def reset(self, key: Key) -> tuple[Any, Array]:
        """Observation 0."""
        state = jnp.zeros(1)
        return state, state


@dataclass(frozen=True)
class Constant(Probe):
    """Reward 1, always: V(0) = 1."""

    id: str = "constant"
    action_dim: int = 1

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, Array, Array, Array]:
        """One step, reward 1."""
        return state, state, jnp.ones(()), jnp.asarray(True)


def random_sign(key: Key) -> Array:
    """+1 or -1, as an observation [1]."""
    return jnp.where(jax.random.bernoulli(key, 0.5, (1,)), 1.0, -1.0)


@dataclass(frozen=True)
class Observed(Probe):
    """Reward equal to the observation, +1 or -1: V(o) = o."""

    id: str = "observed"
    action_dim: int = 1

    def reset(self, key: Key) -> tuple[Any, Array]:
        """+1 or -1."""
        obs = random_sign(key)
        return obs, obs

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, Array, Array, Array]:
        """One step, reward as observed."""
        return state, state, state[0], jnp.asarray(True)


@dataclass(frozen=True)
class Delayed(Probe):
    """Observation 0, then 1; reward 1 at the second step: V(1) = 1 and V(0) = gamma."""

    id: str = "delayed"
    action_dim: int = 1

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, Array, Array, Array]:
        """Two steps."""
        second = state[0] > 0.5
        obs = jnp.ones(1)
        return obs, obs, jnp.where(second, 1.0, 0.0), second


@dataclass(frozen=True)
class Acted(Probe):
    """Reward +1 for action 1 and -1 for action 0: the policy must choose 1, V(0) = 1."""

    id: str = "acted"

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, Array, Array, Array]:
        """One step, reward by action."""
        return state, state, jnp.where(action == 1, 1.0, -1.0), jnp.asarray(True)


@dataclass(frozen=True)
class Matched(Probe):
    """Reward +1 where the action agrees with the observation's sign, else -1."""

    id: str = "matched"

    def reset(self, key: Key) -> tuple[Any, Array]:
        """+1 or -1."""
        obs = random_sign(key)
        return obs, obs

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, Array, Array, Array]:
        """One step, reward by agreement."""
        agree = (action == 1) == (state[0] > 0)
        return state, state, jnp.where(agree, 1.0, -1.0), jnp.asarray(True)


@dataclass(frozen=True)
class Counting(Probe):
    """Observation = steps taken in the episode, reward = that number; ends or is cut at fixed
    steps."""

    id: str = "counting"
    terminate_at: int | None = None
    """Step at which nothing follows; None never."""
    max_episode_steps: int | None = 5

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, Array, Array, Array]:
        """Count one."""
        nxt = state + 1
        over = jnp.asarray(False) if self.terminate_at is None else nxt[0] >= self.terminate_at
        return nxt, nxt, nxt[0], over


PROBES = {p().id: p for p in (Constant, Observed, Delayed, Acted, Matched, Counting)}
