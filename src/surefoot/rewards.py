"""Rewards on one scale: divided by the running deviation of the discounted return, with single
spikes kept out of it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from surefoot.advantages import discounted
from surefoot.normalize import VAR_EPS, RunningStats, moments
from surefoot.types import Array, Rollout

REWARD_CLIP = 10.0
"""Largest scaled reward."""
SPIKE = 1000.0
"""A reward of more than so many deviations of the discounted return is a fault, not a reward."""
MOST = 0.99
"""Share of a rollout's rewards that its deviation is taken from before there is any other."""


def scale_rewards(
    rollout: Rollout, stats: RunningStats, trace: Array, gamma: float
) -> tuple[Rollout, RunningStats, Array, Array]:
    """Rewards divided by the deviation of the running discounted return, clipped to +-10.

    One constant serves the whole rollout; it already counts this rollout's returns. Rows that are
    only resets neither count nor touch the trace [N], which starts again at zero after an end.

    A finite reward of more than 1000 deviations of the returns seen before becomes 10 of them,
    about the most that a scaled reward can be, and moves the statistics as 1 of them would: one
    faulty reading would otherwise make all others zero for the rest of the run. In the first
    rollout the deviation is that of its rewards without the largest hundredth; where all of those
    are zero, as in sparse tasks, nothing is a spike. Where such rewards are the rule, one in fifty
    or more, the deviation grows by them until they are none.

    Returns the rollout, the statistics, the trace and how many rewards were spikes.
    """
    ended = rollout.terminated | rollout.truncated
    # trace[t] = reward[t] + gamma * trace[t-1], forgotten after an end: the end at t-1 cuts row t.
    before = jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])
    rate = jnp.where(before, 0.0, gamma)

    def known() -> Array:
        return jnp.asarray(stats.var, rollout.reward.dtype)

    def first() -> Array:
        size = jnp.where(rollout.mask, jnp.abs(rollout.reward), jnp.nan)
        most = jnp.nan_to_num(jnp.nanquantile(size, MOST))
        bounded = jnp.clip(jnp.where(rollout.mask, rollout.reward, 0), -most, most)
        return moments(discounted(rate, bounded, trace), rollout.mask).var.astype(size.dtype)

    var = jax.lax.cond((stats.count > 0) & (stats.var > 0), known, first)
    deviation = jnp.where(var > 0, jnp.sqrt(var), jnp.inf)
    spike = rollout.mask & jnp.isfinite(rollout.reward)
    spike &= jnp.abs(rollout.reward) > SPIKE * deviation
    unit = jnp.sign(rollout.reward) * deviation
    reward = jnp.where(spike, unit * REWARD_CLIP, rollout.reward)

    counted = jnp.where(spike, unit, rollout.reward)
    returns = discounted(rate, jnp.where(rollout.mask, counted, 0), trace)
    stats = stats.merge(moments(returns, rollout.mask))
    scaled = jnp.clip(reward / jnp.sqrt(stats.var + VAR_EPS), -REWARD_CLIP, REWARD_CLIP)
    trace = jnp.where(ended[-1], 0, returns[-1])
    return dataclasses.replace(rollout, reward=scaled), stats, trace, jnp.sum(spike)
