"""From what the environment said to what an update may see: advantages and value targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from surefoot.checks import check_number, require
from surefoot.types import Array, Batch, Number, Rollout, standardize

NORMALIZATIONS = ("batch", "minibatch", "none")


def discounted(
    rate: Float[Array, "T N"],
    x: Float[Array, "T N"],
    start: Float[Array, " N"],
    reverse: bool = False,
) -> Array:
    """y[t] = x[t] + rate[t] y[t-1] with y[-1] = start (or from the end, with y[t+1], if
    `reverse`)."""

    def step(y: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        y = row[1] + row[0] * y
        return y, y

    return jax.lax.scan(step, start, (rate, x), reverse=reverse, unroll=4)[1]


def gae(
    reward: Float[Array, "T N"],
    value: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    gamma: Number,
    lam: Number,
) -> Float[Array, "T N"]:
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16).

    `next_value` is the value of the true successor, also where an episode was cut short:
    termination bootstraps with zero, truncation with that value, and neither lets the recursion
    cross into the next episode.
    """
    delta = reward + gamma * jnp.where(terminated, 0, next_value) - value
    rate = gamma * lam * (1 - (terminated | truncated).astype(value.dtype))
    return discounted(rate, delta, jnp.zeros_like(value[0]), reverse=True)


def successor_values(rollout: Rollout, value: Callable[[Any], Array]) -> tuple[Array, Array]:
    """V of every row and of its true successor, both [T, N], from as few forward passes as the
    suite allows."""
    values = value(rollout.obs)
    if rollout.final_obs is None:
        return values[:-1], values[1:]
    ended = rollout.terminated | rollout.truncated
    return values[:-1], jnp.where(ended, value(rollout.final_obs), values[1:])


@dataclass(frozen=True)
class GAE:
    """GAE(gamma, lam) and the scope over which advantages are standardised."""

    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """Lambda: 0 is the one-step error, 1 the Monte-Carlo return minus V."""
    normalize: Literal["batch", "minibatch", "none"] = "batch"
    """Advantages to mean 0, deviation 1: over the batch, again over each minibatch, or not at
    all."""

    def __post_init__(self) -> None:
        check_number(self, "gamma", low=0, high=1)
        check_number(self, "lam", low=0, high=1)
        require(
            self.normalize in NORMALIZATIONS,
            self,
            "normalize",
            self.normalize,
            ", ".join(NORMALIZATIONS),
        )

    def __call__(
        self, rollout: Rollout, policy: Any, value: Callable[[Any], Array], progress: Array
    ) -> Batch:
        """Flatten a rollout, [T, N, ...] to [M, ...], with everything an update needs beside it.

        `value_target` is advantage + value before any standardisation.
        """
        now, after = successor_values(rollout, value)
        advantage = gae(
            rollout.reward, now, after, rollout.terminated, rollout.truncated, self.gamma, self.lam
        )
        flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        obs = jax.tree.map(lambda x: flat(x[:-1]), rollout.obs)
        action = flat(rollout.action)
        old = jax.lax.stop_gradient(policy(obs))
        acted = old.log_prob(action) if rollout.log_prob is None else flat(rollout.log_prob)
        batch = Batch(
            obs=obs,
            action=action,
            log_prob=acted,
            old=old,
            advantage=flat(advantage),
            value_target=flat(advantage + now),
            value=flat(now),
            mask=flat(rollout.mask),
            progress=progress,
            standardize_minibatch=self.normalize == "minibatch",
        )
        if self.normalize == "none":
            return batch
        # Standardising a part of what is standardised is standardising the part: full-batch methods
        # under "minibatch" therefore see the batch's own scale, and minibatch methods the
        # minibatch's.
        return eqx.tree_at(lambda b: b.advantage, batch, standardize(batch, batch.advantage))


@dataclass(frozen=True)
class VineQ:
    """Q of every branch of a vine, less what the policy expects of its state.

    Q is the branch's discounted return, with `bootstrap` and where the environment did not end it
    plus gamma^length V of its last state. The baseline of a state, which is also the target its
    value is fitted to, is sum_k w_k Q_k / sum_k w_k with w = old(a|s) / q(a|s): the plain mean
    where the policy chose the first actions.
    """

    gamma: float = 0.99
    """Discount; returns of branches are discounted by it already."""
    bootstrap: bool = False
    """Whether branches that were cut go on with V of their last state."""
    normalize: Literal["batch", "minibatch", "none"] = "batch"
    """As in `GAE`; TRPO and NPG do not depend on it."""

    def __post_init__(self) -> None:
        check_number(self, "gamma", low=0, high=1)
        allowed = ", ".join(NORMALIZATIONS)
        require(self.normalize in NORMALIZATIONS, self, "normalize", self.normalize, allowed)

    def __call__(
        self, rollout: Rollout, policy: Any, value: Callable[[Any], Array], progress: Array
    ) -> Batch:
        """Rows k N + n for branch k of state n."""
        q = rollout.reward
        if self.bootstrap:
            later = self.gamma**rollout.steps * value(rollout.final_obs)
            q = q + jnp.where(rollout.terminated, 0, later)
        flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        obs, action, mask = flat(rollout.obs[:-1]), flat(rollout.action), flat(rollout.mask)
        old = jax.lax.stop_gradient(policy(obs))
        likely = old.log_prob(action)
        chosen = likely if rollout.log_prob is None else flat(rollout.log_prob)
        weight = jax.nn.softmax(jnp.where(mask, likely - chosen, 0).reshape(q.shape), axis=0)
        mean = jnp.broadcast_to(jnp.sum(weight * q, axis=0), q.shape)
        batch = Batch(
            obs=obs,
            action=action,
            log_prob=chosen,
            old=old,
            advantage=flat(q - mean),
            value_target=flat(mean),
            value=value(obs),
            mask=mask,
            progress=progress,
            standardize_minibatch=self.normalize == "minibatch",
            branches=q.shape[0],
        )
        if self.normalize == "none":
            return batch
        return eqx.tree_at(lambda b: b.advantage, batch, standardize(batch, batch.advantage))
