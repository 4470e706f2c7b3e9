"""Running statistics that are frozen for an iteration and moved after it, on jax and NumPy arrays
alike."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from surefoot.types import Array

OBS_CLIP = 10.0
VAR_EPS = 1e-8


class RunningStats(eqx.Module):
    """Count, mean and sum of squared deviations (M2) of everything seen; `count` is 0 before the
    first batch."""

    count: Any
    mean: Any
    m2: Any

    @staticmethod
    def empty(shape: tuple[int, ...]) -> RunningStats:
        """Statistics of nothing, NumPy float32."""
        return RunningStats(
            np.zeros((), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        )

    @property
    def var(self) -> Any:
        """Population variance; 1 before the first batch."""
        return jnp.where(self.count > 0, self.m2 / jnp.maximum(self.count, 1), 1.0)

    def merge(self, other: RunningStats) -> RunningStats:
        """Statistics of both samples together (Chan et al., 1983)."""
        count = self.count + other.count
        safe = jnp.maximum(count, 1)
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / safe)
        m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / safe)
        return RunningStats(count, mean, m2)

    def normalize(self, x: Array) -> Array:
        """(x - mean) / std, clipped to +-10."""
        inv = 1 / jnp.sqrt(self.var + VAR_EPS)
        shift = jnp.broadcast_to(self.mean, x.shape)
        return jnp.clip((x - shift) * jnp.broadcast_to(inv, x.shape), -OBS_CLIP, OBS_CLIP)

    def carry(self, x: Array, later: RunningStats) -> Array:
        """What `later` makes of observations [..., d] that these statistics have made x of.

        Exact where x is not clipped; a clipped one is taken to lie on the edge.
        """
        inv = 1 / jnp.sqrt(later.var + VAR_EPS)
        scale, shift = jnp.sqrt(self.var + VAR_EPS) * inv, (self.mean - later.mean) * inv
        moved = x * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(shift, x.shape)
        return jnp.clip(moved, -OBS_CLIP, OBS_CLIP)


def moments(x: Array, mask: Array) -> RunningStats:
    """Statistics of the rows of `x` [..., d] (or [...]) where `mask` [...] holds."""
    lead = tuple(range(mask.ndim))
    weight = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)).astype(x.dtype)
    count = jnp.sum(mask, dtype=x.dtype)
    safe = jnp.maximum(count, 1)
    mean = jnp.sum(x * weight, axis=lead) / safe
    centred = (x - jnp.broadcast_to(mean, x.shape)) * weight
    return RunningStats(count, mean, jnp.sum(centred**2, axis=lead))


class HostNormalizer:
    """`RunningStats.normalize` in NumPy for host collection: float64 arithmetic, float32 result,
    one call a step."""

    def __init__(self, stats: RunningStats | None) -> None:
        self.identity = stats is None
        if stats is None:
            return
        count = float(stats.count)
        var = (
            np.asarray(stats.m2, np.float64) / count
            if count > 0
            else np.ones_like(np.asarray(stats.m2, np.float64))
        )
        self.mean = np.asarray(stats.mean, np.float64)
        self.inv = 1 / np.sqrt(var + VAR_EPS)

    def __call__(self, raw: np.ndarray, out: np.ndarray) -> None:
        """Write the normalised observation [N, d] into `out` (float32)."""
        if self.identity:
            out[...] = raw
            return
        x = raw - self.mean
        x *= self.inv
        np.maximum(x, -OBS_CLIP, out=x)
        np.minimum(x, OBS_CLIP, out=out, casting="same_kind")


def host_moments(raw: np.ndarray, mask: np.ndarray) -> RunningStats:
    """`moments` of raw host observations [T, N, d], summed in float64 and kept in float32."""
    rows = raw[mask].astype(np.float64, copy=False)
    if not len(rows):
        return RunningStats.empty(raw.shape[mask.ndim :])
    mean = rows.mean(axis=0)
    m2 = np.square(rows - mean).sum(axis=0)
    return RunningStats(
        np.asarray(len(rows), np.float32), mean.astype(np.float32), m2.astype(np.float32)
    )
