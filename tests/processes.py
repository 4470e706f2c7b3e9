"""A small Markov decision process whose every reward, end and value is known, behind the interface
of every suite.

An episode has two constants p and q. Its observation is [k, p, q] with k the steps taken in it, so
that nothing of one episode can pass for another's. What it pays and what it is worth are `reward`
and `value`; `reference/episodes.py` knows the same and nothing of masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("terminated", "truncated", "both", "mixed")
SPACE = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)


def reward(k: Any, p: Any, q: Any, action: Any) -> Any:
    """What the k-th step of episode (p, q) pays; a multiple of 1/4, exact in float32."""
    return 0.25 * ((5 * k + 3 * p + 7 * q) % 11) - 1 + 0.5 * action


def value(k: Any, p: Any, q: Any) -> Any:
    """What the critic of these tests says of an observation; nowhere zero, not even after an
    end."""
    return 1.5 + 0.3 * k - 0.7 * p + 0.2 * q


@dataclass(frozen=True)
class Plan:
    """How long the j-th episode of environment i is, and how it ends. Here p = i and q = j."""

    kind: str = "mixed"

    def length(self, i: int, j: int) -> int:
        """1 to 6 steps."""
        return 1 + (2 * i + 3 * j) % 6

    def end(self, i: int, j: int) -> tuple[bool, bool]:
        """(terminated, truncated) of its last step."""
        kind = KINDS[(i + j) % 3] if self.kind == "mixed" else self.kind
        return kind != "truncated", kind != "terminated"


class Stairs(gymnasium.Env):
    """Environment i of a plan, as Gymnasium has it. Stepping past an end is an error."""

    observation_space = SPACE
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, plan: Plan, index: int) -> None:
        self.plan, self.index, self.episode, self.seeds = plan, index, -1, []
        self.k, self.over = 0, True

    def _obs(self) -> np.ndarray:
        return np.array([self.k, self.index, self.episode], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.seeds.append(seed)
        self.episode, self.k, self.over = self.episode + 1, 0, False
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        assert not self.over, "stepped after its end"
        paid = reward(self.k, self.index, self.episode, int(action))
        self.k += 1
        self.over = self.k == self.plan.length(self.index, self.episode)
        ends = self.plan.end(self.index, self.episode) if self.over else (False, False)
        return self._obs(), paid, *ends, {}


class Pool:
    """Environments of a plan behind EnvPool's Gymnasium interface: an end is followed by a step
    that only resets.

    EnvPool itself pays 0 and reports no end on that step. `rubbish` does neither, for adapters that
    believe it.
    """

    observation_space = SPACE
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, plan: Plan, num_envs: int, rubbish: bool = False) -> None:
        self.envs = [Stairs(plan, i) for i in range(num_envs)]
        self.spec = SimpleNamespace(config=SimpleNamespace(num_envs=num_envs, max_episode_steps=6))
        self.rubbish = rubbish
        self.closed = False

    def reset(self) -> Any:
        return np.stack([env.reset()[0] for env in self.envs]), {}

    def step(self, action: np.ndarray) -> Any:
        rows = [self._one(env, a) for env, a in zip(self.envs, action, strict=True)]
        obs, paid, terminated, truncated = (np.array(x) for x in zip(*rows, strict=True))
        return obs, paid.astype(np.float32), terminated, truncated, {"env_id": np.arange(len(rows))}

    def close(self) -> None:
        self.closed = True

    def _one(self, env: Stairs, action: Any) -> Any:
        if env.over:
            return env.reset()[0], 123.0 * self.rubbish, self.rubbish, self.rubbish
        return env.step(action)[:4]


@dataclass(frozen=True)
class DeviceStairs:
    """The same process as pure functions. Its length p and its q are drawn at reset; the limit is
    the caller's.

    p is 1 to 6 where episodes end by themselves, far away where they are only cut, and the limit
    itself for both.
    """

    kind: str = "mixed"
    id: str = "stairs"
    suite: str = "probe"
    obs_dim: int = 3
    action_dim: int = 2
    discrete: bool = True
    limits: ClassVar[dict[str, int | None]] = {
        "terminated": None,
        "truncated": 3,
        "both": 4,
        "mixed": 4,
    }

    @property
    def max_episode_steps(self) -> int | None:
        """Time limit."""
        return self.limits[self.kind]

    def reset(self, key: Any) -> tuple[Any, Any]:
        """[0, p, q]."""
        low, high = {"truncated": (9, 10), "both": (4, 5)}.get(self.kind, (1, 7))
        p, q = jax.random.randint(key, (2,), jnp.array([low, 0]), jnp.array([high, 4])).astype(
            float
        )
        state = jnp.stack([jnp.zeros_like(p), p, q])
        return state, state

    def step(self, state: Any, action: Any, key: Any) -> tuple[Any, Any, Any, Any]:
        """One step up."""
        k, p, q = state
        nxt = state + jnp.array([1.0, 0.0, 0.0])
        return nxt, nxt, reward(k, p, q, action), nxt[0] >= p


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clock:
    """State of `OldGymnax`."""

    stairs: Any
    time: Any


@dataclass(frozen=True)
class Limit:
    """Parameters of `OldGymnax`."""

    max_steps_in_episode: int = 4


class OldGymnax:
    """`DeviceStairs` as a gymnax environment: five values, of which one flag tells ends and cuts
    alike."""

    name = "stairs"

    def __init__(self, kind: str) -> None:
        self.stairs = DeviceStairs(kind)

    def action_space(self, params: Limit) -> Any:
        return SimpleNamespace(n=2, shape=())

    def observation_space(self, params: Limit) -> Any:
        return SimpleNamespace(shape=(3,))

    def reset_env(self, key: Any, params: Limit) -> Any:
        state, obs = self.stairs.reset(key)
        return obs, Clock(state, jnp.zeros((), jnp.int32))

    def step_env(self, key: Any, state: Clock, action: Any, params: Limit) -> Any:
        obs, after, paid, over, cut = self._advance(key, state, action, params)
        return obs, after, paid, over | cut, {}

    def _advance(self, key: Any, state: Clock, action: Any, params: Limit) -> Any:
        stairs, obs, paid, over = self.stairs.step(state.stairs, action, key)
        time = state.time + 1
        return obs, Clock(stairs, time), paid, over, time >= params.max_steps_in_episode


class NewGymnax(OldGymnax):
    """The same with six values: terminated and truncated."""

    def step_env(self, key: Any, state: Clock, action: Any, params: Limit) -> Any:
        obs, after, paid, over, cut = self._advance(key, state, action, params)
        return obs, after, paid, over, cut, {}
