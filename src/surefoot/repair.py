"""Bringing a policy back inside a region: descent until a whole pass over the states finds none
outside, and the walk back towards the old policy, which always ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from surefoot.curvature import tree_add, tree_where
from surefoot.networks import acting
from surefoot.types import Array, Batch, Number


class Repair(NamedTuple):
    """How a repair went."""

    clean: Array
    """Whether it ended with a pass that found every state inside; if not, `max_sweeps` was hit."""
    steps: Array
    """Descent steps taken."""
    sweeps: Array
    """Passes over the batch: chunks looked at, over the number of chunks."""


def repair(
    step: Callable[[Any, Any, Batch], tuple[Any, Any]],
    inside: Callable[[Any, Batch], Array],
    theta: Any,
    state: Any,
    batch: Batch,
    order: Int[Array, " M"],
    chunks: int,
    max_sweeps: int,
) -> tuple[Any, Any, Repair]:
    """Go round and round the batch in `chunks` chunks of its rows in a given order, with `theta,
    state = step(theta, state, chunk)` on every chunk that is not `inside(theta, chunk)`, until a
    full pass in which nothing moved finds every chunk inside, or after `max_sweeps` passes (Zentner
    et al., 2023, Algorithm 1, lines 8 to 15).

    The pass that certifies begins after the last step, in the middle of the order where that is: it
    is a pass over all rows at one theta, and so all of them are inside at once. What is inside
    comes out as it went in, bit for bit. The last chunk may be short; no row is left out.
    """
    total = batch.mask.shape[0]
    size = -(-total // chunks)
    taken = (jnp.arange(chunks * size) < total).reshape(chunks, size)
    rows = jnp.pad(order, (0, chunks * size - total)).reshape(chunks, size)

    def go_on(s: tuple[Any, Any, Array, Array, Array]) -> Array:
        _, _, streak, looks, _ = s
        return (streak < chunks) & (looks < chunks * max_sweeps)

    def look(s: tuple[Any, Any, Array, Array, Array]) -> tuple[Any, Any, Array, Array, Array]:
        theta, state, streak, looks, steps = s
        at = looks % chunks
        chunk = batch.take(rows[at])
        chunk = dataclasses.replace(chunk, mask=chunk.mask & taken[at])
        ok = inside(theta, chunk)
        theta, state = jax.lax.cond(
            ok, lambda t, s: (t, s), lambda t, s: step(t, s, chunk), theta, state
        )
        return theta, state, jnp.where(ok, streak + 1, 0), looks + 1, steps + ~ok

    zero = jnp.zeros((), jnp.int32)
    end = jax.lax.while_loop(go_on, look, (theta, state, zero, zero, zero))
    theta, state, streak, looks, steps = end
    return theta, state, Repair(streak >= chunks, steps, looks.astype(jnp.float32) / chunks)


class Walk(NamedTuple):
    """How a walk back went."""

    scale: Array
    """Share of the way from old to new that was kept: 1 all of it, 0 the old policy."""
    tries: Array
    """Times the way was shortened."""


def walk_back(
    old: Any,
    new: Any,
    inside: Callable[[Any], Array],
    shrink: Number,
    max_tries: int,
    sure: Array | bool = False,
) -> tuple[Any, Walk]:
    """First of `new`, old + shrink (new - old), old + shrink^2 (new - old), ... that is `inside`,
    else `old` (methods.md 2.3). Where `sure`, `new` is not tested but taken.

    What is returned is what was tested, to the last bit, and `new` itself where that is inside. It
    always ends: the distance is continuous along the segment and 0 at the old policy, and after
    `max_tries` tries that policy is returned. NaN is never inside.
    """
    step = tree_add(new, -1.0, old)
    scale = jnp.ones((), jnp.result_type(*jax.tree.leaves(new)))

    def go_on(s: tuple[Any, Walk, Array]) -> Array:
        _, walk, ok = s
        return ~ok & (walk.tries <= max_tries)

    def look(s: tuple[Any, Walk, Array]) -> tuple[Any, Walk, Array]:
        candidate, walk, _ = s
        ok = inside(candidate)
        shorter = walk.scale * shrink
        after = tree_where(ok, candidate, tree_add(old, shorter, step))
        return after, Walk(jnp.where(ok, walk.scale, shorter), walk.tries + ~ok), ok

    start = (new, Walk(scale, jnp.zeros((), jnp.int32)), jnp.asarray(sure))
    found, walk, ok = jax.lax.while_loop(go_on, look, start)
    scale, tries = jnp.where(ok, walk.scale, 0), jnp.minimum(walk.tries, max_tries)
    return tree_where(ok, found, old), Walk(scale, tries)


def acting_parameters(policy: Any) -> np.ndarray:
    """[P] booleans over the policy as one vector: what the distribution depends on."""
    yes, leaves = jax.tree.leaves(acting(policy)), jax.tree.leaves(policy)
    return np.concatenate([np.full(np.size(x), y) for y, x in zip(yes, leaves, strict=True)])


def only(acts: np.ndarray, moved: Any, before: Any) -> Any:
    """A tree `moved` whose vectors of parameters, or of their moments, are as `before` where they
    do not act."""
    if acts.all():
        return moved
    keep = lambda a, b: jnp.where(acts, a, b) if a.shape == acts.shape else a  # noqa: E731
    return jax.tree.map(keep, moved, before)


def actor_from(old: Any, new: Any) -> Any:
    """The policy `new` with what the distribution depends on as in `old`: layers that only a shared
    value function uses stay as they are in `new`."""
    return jax.tree.map(lambda yes, a, b: a if yes else b, acting(new), old, new)
