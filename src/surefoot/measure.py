"""The common ruler: what every update did, measured the same way for every method and outside
it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from surefoot.distributions import DiagGaussian, FullGaussian
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info


def quantile(x: Array, mask: Array, q: float) -> Array:
    """The smallest value with at least a share `q` of the rows that count at or below it."""
    # Whole numbers sort ten times as fast as floats on a CPU, and the bits of a float, those of the
    # negative ones flipped, are whole numbers in the same order.
    whole = jnp.int64 if x.dtype == jnp.float64 else jnp.int32
    flip = lambda bits: jnp.where(bits < 0, bits ^ jnp.iinfo(whole).max, bits)  # noqa: E731
    ordered = jnp.sort(flip(jax.lax.bitcast_convert_type(jnp.where(mask, x, jnp.inf), whole)))
    count = jnp.sum(mask)
    index = jnp.clip(jnp.ceil(q * count).astype(jnp.int32) - 1, 0, x.shape[0] - 1)
    return jax.lax.bitcast_convert_type(flip(ordered[index]), x.dtype)


def explained_variance(value: Array, target: Array, batch: Batch) -> Array:
    """1 - Var[target - value] / Var[target]; 0 where the targets do not vary."""
    variance = lambda x: batch.mean((x - batch.mean(x)) ** 2)  # noqa: E731
    total = variance(target)
    return jnp.where(total > 0, 1 - variance(target - value) / jnp.where(total > 0, total, 1), 0)


def measure(batch: Batch, policy: Any) -> dict[str, Array]:
    """Scalars on the whole batch after the last step that can move the actor.

    `kl_*` is KL(old || new) per state; of Gaussians also apart, what the mean (`kl_part_mean`) and
    what the covariance (`kl_part_cov`) contribute to `kl_mean`. `kl_reverse` and `kl_reverse_max`
    are of KL(new || old), `ratio_min` and `ratio_max` are the smallest and the largest new/old
    probability of an action taken, `surrogate_gain` the mean of (ratio - 1) A with A as the update
    saw it, `entropy` that of the new policy, and `explained_variance` that of the critic that made
    the advantages.
    """
    new = policy(batch.obs)
    kl, reverse = batch.old.kl(new), new.kl(batch.old)
    r = ratio(new, batch)
    return _parts(batch, new) | {
        "kl_mean": batch.mean(kl),
        "kl_q99": quantile(kl, batch.mask, 0.99),
        "kl_max": batch.max(kl),
        "kl_reverse": batch.mean(reverse),
        "kl_reverse_max": batch.max(reverse),
        "ratio_min": -batch.max(-r),
        "ratio_max": batch.max(r),
        "surrogate_gain": batch.mean((r - 1) * batch.advantage),
        "entropy": batch.mean(new.entropy()),
        "explained_variance": explained_variance(batch.value, batch.value_target, batch),
    }


def projection_share(method: Any, batch: Batch, policy: Any, info: Info) -> Array:
    """The largest share of its bound that a part of the distance of a state's projected
    distribution from the old one takes, where a method promises `projection`; 1 is on the bound."""
    near = method.witness(policy(batch.obs), batch.old, info)
    parts = method.metric.parts(near, batch.old)
    return batch.max(jnp.maximum(parts.mean / method.mean_bound, parts.cov / method.cov_bound))


def _parts(batch: Batch, new: Any) -> dict[str, Array]:
    """The KL of Gaussians in its two parts, mean over states; nothing for other distributions."""
    if not isinstance(new, (DiagGaussian, FullGaussian)):
        return {}
    mean, covariance = batch.old.kl_parts(new)
    return {"kl_part_mean": batch.mean(mean), "kl_part_cov": batch.mean(covariance)}
