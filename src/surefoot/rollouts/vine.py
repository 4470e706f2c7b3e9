"""The vine procedure of TRPO (Schulman et al., 2015, section 5.2): trunks, a rollout set of their
states, and short branches from each under common random numbers. The record, and the collection on
the device; `branches` is the same on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.checks import check_count
from surefoot.envs.device import DeviceEnv, EnvState
from surefoot.normalize import RunningStats
from surefoot.rollouts.device import Finished, trunk
from surefoot.types import Array, EnvSpec, Key, Rollout


@dataclass(frozen=True)
class Vine:
    """How states are branched from. With `states=0` nothing is: an update sees its trunk, the
    single path.

    From each of `states` states, drawn uniformly from those the trunk acted in, every branch takes
    another first action and then follows the policy for at most `horizon` steps; its discounted
    return is Q of that first action. The trunk itself only offers states (and moves the
    observations' statistics, which branches do not). Every step of trunk and branches counts as an
    environment step.

    What `learn` is given is a `Rollout` of K rows: row k holds the k-th branch of every state, its
    first action, and as reward its discounted return.
    """

    states: int = 0
    """States of the rollout set, N; 0: single path."""
    branches: int = 4
    """Branches a state, K, at least 2. Where there are no more discrete actions than that, each is
    taken once instead, and nothing is drawn."""
    horizon: int = 100
    """Steps of a branch at most; an end or a time limit of the environment comes first."""
    uniform: bool = True
    """Whether discrete first actions that are drawn are drawn uniformly, as the paper advises for
    exploration, or from the policy. Continuous ones come from the policy."""
    common: bool = True
    """Common random numbers: whether the branches of a state share the noise of policy and
    environment after the first action."""
    bootstrap: bool = False
    """Whether a branch that was cut goes on with V of its last state; the paper leaves it cut."""

    def __post_init__(self) -> None:
        check_count(self, "states", low=0)
        check_count(self, "branches", low=2)
        check_count(self, "horizon")

    @property
    def rows(self) -> int:
        """Branches an update at most."""
        return self.states * self.branches

    @property
    def most(self) -> int:
        """Environment steps of the branches of an update at most."""
        return self.rows * self.horizon

    def enumerates(self, spec: EnvSpec) -> bool:
        """Whether every action is taken once."""
        return spec.discrete and spec.action_dim <= self.branches

    def count(self, spec: EnvSpec) -> int:
        """Branches a state."""
        return spec.action_dim if self.enumerates(spec) else self.branches

    def choices(self, spec: EnvSpec) -> int | None:
        """Actions that first ones are drawn from uniformly (or all of which are taken); None where
        they come from the policy."""
        known = spec.discrete and (self.uniform or self.enumerates(spec))
        return spec.action_dim if known else None


class Branch(eqx.Module):
    """Branches between two steps."""

    inner: Any
    obs: Array
    """Last observation, not normalised."""
    elapsed: Array
    alive: Array
    total: Array
    """Discounted return so far."""
    discount: Array
    steps: Array
    terminated: Array


def collect_vine(
    env: DeviceEnv,
    vine: Vine,
    gamma: float,
    policy: Any,
    stats: RunningStats | None,
    state: EnvState,
    key: Key,
    num_steps: int,
) -> tuple[EnvState, Rollout, RunningStats | None, Finished]:
    """A trunk of `num_steps` steps of every environment, and the branches from its states; as
    `device.collect`."""
    k_trunk, k_pick, k_first, k_branch = jax.random.split(key, 4)
    state, path, seen, finished, visited = trunk(env, policy, stats, state, k_trunk, num_steps)
    n, count = env.spec.num_envs, vine.count(env.spec)
    picks = jax.random.permutation(k_pick, num_steps * n)[: vine.states]
    at = jax.tree.map(lambda x: x[picks // n, picks % n], visited)
    normalize = (lambda x: x) if stats is None else stats.normalize
    obs = normalize(at.obs)
    first = _first(vine, env.spec, policy, obs, k_first)

    def branch(at: EnvState, action: Array, key: Key) -> Branch:
        def step(b: Branch, x: tuple[Array, Key]) -> tuple[Branch, None]:
            begins, (k_act, k_env) = x[0], jax.random.split(x[1])
            drawn = policy(normalize(b.obs)).sample(k_act)
            a = jnp.where(begins, action, drawn)
            inner, after, reward, terminated = env.env.step(b.inner, a, k_env)
            elapsed = b.elapsed + 1
            limit = env.spec.max_episode_steps
            over = terminated if limit is None else terminated | (elapsed >= limit)
            new = Branch(
                inner=inner,
                obs=after,
                elapsed=elapsed,
                alive=~over,
                total=b.total + b.discount * reward.astype(b.total.dtype),
                discount=b.discount * gamma,
                steps=b.steps + 1,
                terminated=terminated,
            )
            return jax.tree.map(lambda x, y: jnp.where(b.alive, x, y), new, b), None

        zero, one = jnp.zeros((), float), jnp.ones((), float)
        no, yes = jnp.zeros((), bool), jnp.ones((), bool)
        b = Branch(at.inner, at.obs, at.elapsed, yes, zero, one, jnp.zeros((), jnp.int32), no)
        begins = jnp.arange(vine.horizon) == 0
        return jax.lax.scan(step, b, (begins, jax.random.split(key, vine.horizon)))[0]

    shape = (vine.states,) if vine.common else (count, vine.states)
    keys = jax.random.split(k_branch, shape)
    ways = (None, 0, None if vine.common else 0)
    b = jax.vmap(jax.vmap(branch), ways)(at, first, keys)
    choices = vine.choices(env.spec)
    rollout = Rollout(
        obs=jnp.broadcast_to(obs, (count + 1, *obs.shape)),
        action=first,
        reward=b.total,
        terminated=b.terminated,
        truncated=~b.terminated,
        mask=jnp.ones(b.total.shape, bool),
        final_obs=normalize(b.obs),
        log_prob=None if choices is None else jnp.full(b.total.shape, -jnp.log(choices)),
        steps=b.steps,
        spent=jnp.sum(path.mask) + jnp.sum(b.steps),
    )
    return state, rollout, seen, finished


def _first(vine: Vine, spec: EnvSpec, policy: Any, obs: Array, key: Key) -> Array:
    """First actions of every branch, [K, N] or [K, N, d]."""
    count, n = vine.count(spec), vine.states
    if vine.enumerates(spec):
        return jnp.broadcast_to(jnp.arange(count)[:, None], (count, n))
    choices = vine.choices(spec)
    if choices is not None:
        return jax.random.randint(key, (count, n), 0, choices)
    return jax.vmap(policy(obs).sample)(jax.random.split(key, count))
