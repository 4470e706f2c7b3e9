"""The smallest and the largest ratio new(a|s) / old(a|s) that policies in a KL ball round the old
one can have (Wang et al., 2019), row by row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from surefoot.checks import UsageError
from surefoot.distributions import Categorical, DiagGaussian
from surefoot.types import Array, Batch, Number

HALVINGS = 50
"""Of a bracket: the last bit of float64."""
CELLS, SECTIONS = 32, 22
"""Of the search over variances: cells of a grid, then golden sections of the best two."""
LEAST, MOST = 0.01, 0.99
"""Probabilities of discrete actions are kept inside (the authors' code): at smaller ones the bounds
are lost in rounding."""
GOLDEN = 0.6180339887498949


def bisect(f: Any, low: Array, high: Array) -> Array:
    """Where a function that rises from below 0 at `low` to above 0 at `high` crosses it,
    elementwise."""

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        above = f(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return 0.5 * (low + high)


def categorical_range(p: Array, delta: Number) -> tuple[Array, Array]:
    """ln of the smallest and of the largest ratio of an action of probability p over policies with
    KL(old || new) <= delta: the two roots r of (1 - p) ln((1 - p) / (1 - p r)) - p ln r = delta. At
    both the other actions keep their proportions."""
    p = jnp.clip(p, LEAST, MOST)
    rest = jnp.log1p(-p)

    def excess(x: Array) -> Array:  # convex in x = ln r, with its minimum -delta at 0
        return (1 - p) * (rest - jnp.log(-jnp.expm1(jnp.log(p) + x))) - p * x - delta

    far = -(delta - (1 - p) * rest) / p  # there the excess is above 0
    low = -bisect(lambda x: excess(-x), jnp.zeros_like(p), -far)
    return low, bisect(excess, jnp.zeros_like(p), -jnp.log(p))


def gaussian_range(a: Array, delta: Number) -> tuple[Array, Array]:
    """ln of the smallest and of the largest N(a | m, v) / N(a | 0, 1) over KL(N(m, v) || N(0, 1)) =
    (v + m^2 - 1 - ln v) / 2 <= delta.

    For a given v the best mean is known: as far from a as the ball allows, or as near. What is left
    is a search over ln v, by a grid and golden sections, which finds the best of several extremes.
    """
    a = jnp.abs(a)
    gap = lambda x: jnp.expm1(x) - x - 2 * delta  # noqa: E731 (m^2 <= -gap)
    one = jnp.ones((), a.dtype)
    most = bisect(gap, 0 * one, jnp.log1p(2 * delta + 2 * jnp.sqrt(delta * one)) + 2 * delta)
    least = -bisect(lambda x: gap(-x), 0 * one, 1 + 2 * delta * one)

    def shrunk(x: Array) -> Array:  # minus the log ratio at the farthest mean
        return _log_ratio(a, -jnp.sqrt(jnp.maximum(-gap(x), 0)), x)

    def grown(x: Array) -> Array:  # the log ratio at the nearest mean
        return -_log_ratio(a, jnp.minimum(a, jnp.sqrt(jnp.maximum(-gap(x), 0))), x)

    return _smallest(shrunk, a, least, most), -_smallest(grown, a, least, most)


def _log_ratio(a: Array, m: Array, x: Array) -> Array:
    """ln N(a | m, e^x) / N(a | 0, 1)."""
    far = jnp.where(a == m, 0, (a - m) ** 2 * jnp.exp(-x))  # in a huge ball exp(-x) may be infinite
    return 0.5 * (a * a - x - far)


def _smallest(f: Any, like: Array, low: Array, high: Array) -> Array:
    """The smallest value of f over [low, high], elementwise with `like`."""
    width = (high - low) / CELLS
    grid = low + width * jnp.arange(CELLS + 1, dtype=like.dtype)
    at = jnp.broadcast_to(grid.reshape(-1, *(1,) * like.ndim), (CELLS + 1, *like.shape))
    best = grid[jnp.argmin(jax.vmap(f)(at), axis=0)]
    left, right = jnp.maximum(best - width, low), jnp.minimum(best + width, high)

    def cut(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = ends
        span = GOLDEN * (right - left)
        c, d = right - span, left + span
        lower = f(c) < f(d)
        return jnp.where(lower, left, c), jnp.where(lower, d, right)

    left, right = jax.lax.fori_loop(0, SECTIONS, cut, (left, right))
    # The best may be an end of the range, where the function is not flat.
    return jnp.minimum(f(0.5 * (left + right)), jnp.minimum(f(left), f(right)))


def calibrated(clip: Number, d: int | None) -> Array:
    """The radius at which ranges are like PPO's. In d dimensions of a Gaussian: that of the mode
    ends at 1 + clip (the authors' "base_clip_upper"). Of discrete actions (None): that of an action
    of probability one half is [1 - clip, 1 + clip]."""
    if d is None:
        return -0.5 * jnp.log1p(-jnp.square(clip))
    s = -2 * jnp.log1p(jnp.asarray(clip)) / d
    return 0.5 * d * (jnp.expm1(s) - s)


def log_ranges(batch: Batch, delta: Number | None, clip: Number) -> tuple[Array, Array]:
    """ln of the bounds of every row's ratio, both [M]; 0 on rows that do not count.

    Discrete actions: KL(old || new) <= delta. Gaussians: KL(new || old) <= delta, reduced to one
    dimension as in the authors' code (every dimension at the root mean square of the standardised
    action, with its share of delta). Without `delta` it is that of `clip` by `calibrated`. Raises
    `UsageError` for other distributions.
    """
    old = batch.old
    if isinstance(old, Categorical):
        radius = calibrated(clip, None) if delta is None else delta
        return _counted(batch, *categorical_range(jnp.exp(batch.log_prob), radius))
    if not isinstance(old, DiagGaussian):
        raise UsageError(
            f"TRGPPO knows no ratio bounds for a {type(old).__name__} policy; "
            "allowed: --networks.policy gaussian, or discrete actions"
        )
    d = old.mean.shape[-1]
    z = (batch.action - old.mean) * jnp.exp(-old.log_std)
    radius = calibrated(clip, d) if delta is None else delta
    low, high = gaussian_range(jnp.sqrt(jnp.mean(z * z, axis=-1)), radius / d)
    return _counted(batch, d * low, d * high)


def _counted(batch: Batch, low: Array, high: Array) -> tuple[Array, Array]:
    return jnp.where(batch.mask, low, 0), jnp.where(batch.mask, high, 0)
