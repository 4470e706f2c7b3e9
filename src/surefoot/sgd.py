"""The first-order engine: shuffles, minibatch sweeps, and Adam on one flat vector of parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from surefoot.checks import UsageError, check_count, check_number
from surefoot.types import Array, Batch, Info, Key, Penalty

_PACKED_ROWS = 1 << 12


def shuffles(key: Key, epochs: int, rows: int) -> Array:
    """[epochs, rows]: a permutation of the rows for every epoch, all from one sort.

    Up to 4096 rows the random bits (20 or more of them) and the row share one 32-bit integer;
    above, a stable sort of random bits carries the rows along. `jax.random.permutation` inside the
    loop was a quarter of a PPO update.
    """
    bits = jax.random.bits(key, (epochs, rows), jnp.uint32)
    index = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.uint32), (epochs, rows))
    if rows <= _PACKED_ROWS:
        width = max(1, (rows - 1).bit_length())
        packed = jnp.sort((bits >> width << width) | index, axis=-1)
        return (packed & ((1 << width) - 1)).astype(jnp.int32)
    return jax.lax.sort((bits, index), dimension=-1, num_keys=1)[1].astype(jnp.int32)


def minibatch_rows(order: Array, minibatches: int) -> Array:
    """Orders of the rows, [epochs, M], cut into minibatches: [epochs, minibatches, M //
    minibatches]. Where that leaves a rest, it is left out of that epoch.

    Raises `UsageError` where there are fewer rows than minibatches.
    """
    epochs, total = order.shape
    size = total // minibatches
    if size == 0:  # an empty minibatch has mean 0, and nothing would be learnt without a word
        raise UsageError(
            f"minibatches is {minibatches} but a batch has {total} rows; allowed: at most {total}"
        )
    return order[:, : size * minibatches].reshape(epochs, minibatches, size)


def sweep(
    step: Callable[[Any, Batch], tuple[Any, dict[str, Array]]],
    carry: Any,
    batch: Batch,
    key: Key,
    epochs: int,
    minibatches: int,
) -> tuple[Any, dict[str, Array]]:
    """Run `step(carry, minibatch) -> carry, info` over shuffled minibatches of every epoch in one
    scan, rows as in `minibatch_rows`.

    Returns the last carry and info stacked, [epochs * minibatches]. Raises `UsageError` where there
    are fewer rows than minibatches.
    """
    rows = minibatch_rows(shuffles(key, epochs, batch.mask.shape[0]), minibatches)
    rows = rows.reshape(epochs * minibatches, -1)
    return jax.lax.scan(lambda c, r: step(c, batch.minibatch(r)), carry, rows)


Loss = Callable[[Any, Batch], tuple[Array, dict[str, Array]]]
Objective = Callable[[Any, Batch], tuple[Array, dict[str, Array]]]
"""`(new distribution, minibatch) -> what is maximised [M], what is reported of it [M]`."""


@dataclass(frozen=True)
class SGD:
    """Adam over shuffled minibatches for several epochs."""

    lr: float = 3e-4
    """Learning rate at the start."""
    epochs: int = 10
    """Passes over the batch."""
    minibatches: int = 32
    """Minibatches a pass is cut into."""
    anneal: bool = False
    """Whether the learning rate falls linearly to 0 over the run."""
    max_grad_norm: float | None = 0.5
    """Global norm the gradient is clipped to; none turns it off."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""

    def __post_init__(self) -> None:
        check_number(self, "lr", low=0, open_high=True)
        check_count(self, "epochs")
        check_count(self, "minibatches")
        check_number(self, "max_grad_norm", low=0, open_low=True, optional=True)
        check_number(self, "adam_eps", low=0, open_low=True)

    @property
    def direction(self) -> optax.GradientTransformation:
        """Gradient to direction; the rate multiplies outside, so that it may follow
        `batch.progress`."""
        clip = (
            optax.identity()
            if self.max_grad_norm is None
            else optax.clip_by_global_norm(self.max_grad_norm)
        )
        return optax.chain(clip, optax.scale_by_adam(eps=self.adam_eps))

    def rate(self, progress: Array) -> Array | float:
        """Learning rate at a share of the run."""
        return self.lr * self.share(progress)

    def share(self, progress: Array) -> Array | float:
        """What is left of the rate at a share of the run."""
        return 1 - progress if self.anneal else 1.0

    def init(self, params: Any) -> Any:
        """Optimiser state for a pytree of parameters."""
        return self.direction.init(ravel_pytree(params)[0])

    def minimise(
        self,
        loss: Loss,
        params: Any,
        opt: Any,
        batch: Batch,
        key: Key,
        stop: Callable[[Any], Array] | None = None,
        halt: Callable[[Info], Array] | None = None,
    ) -> tuple[Any, Any, dict[str, Array]]:
        """Minimise `loss(params, minibatch) -> value, info`; returns parameters, optimiser state,
        mean info.

        `stop(params)` is asked after every epoch but the last; where it says True no further epoch
        is run, and `epochs` in the info says how many were. `halt(info)` is asked before every step
        with the info of its minibatch; where it says True neither this step nor any other is made,
        and `steps` in the info says how many were. At most one of the two is given.
        """
        assert stop is None or halt is None
        flat: Any
        flat, unravel = ravel_pytree(params)
        transform, rate = self.direction, self.rate(batch.progress)

        def step(
            carry: tuple[jax.Array, Any], mb: Batch
        ) -> tuple[tuple[Array, Any], dict[str, Array]]:
            flat, opt = carry
            (value, info), grads = jax.value_and_grad(loss, has_aux=True)(unravel(flat), mb)
            move: Any
            move, opt = transform.update(ravel_pytree(grads)[0], opt)
            return (flat - rate * move, opt), {"loss": value} | info

        if halt is not None:
            return self._until(halt, step, unravel, flat, opt, batch, key)
        if stop is None:
            (flat, opt), infos = sweep(step, (flat, opt), batch, key, self.epochs, self.minibatches)
            return unravel(flat), opt, {k: jnp.mean(v) for k, v in infos.items()}
        halt_after = stop

        def epoch(state: tuple[Any, Array, Any]) -> tuple[Any, Array, Any]:
            carry, done, totals = state
            carry, infos = sweep(
                step, carry, batch, jax.random.fold_in(key, done), 1, self.minibatches
            )
            return carry, done + 1, {k: totals[k] + jnp.mean(v) for k, v in infos.items()}

        def go_on(state: tuple[Any, Array, Any]) -> Array:
            (flat, _), done, _ = state
            return (done < self.epochs) & ((done == 0) | ~halt_after(unravel(flat)))

        shapes = jax.eval_shape(step, (flat, opt), batch.minibatch(jnp.zeros(1, jnp.int32)))[1]
        zeros = {k: jnp.zeros(s.shape, s.dtype) for k, s in shapes.items()}
        (flat, opt), done, totals = jax.lax.while_loop(
            go_on, epoch, ((flat, opt), jnp.zeros((), jnp.int32), zeros)
        )
        info = {k: v / done.astype(v.dtype) for k, v in totals.items()}
        return unravel(flat), opt, info | {"epochs": done}

    def _until(
        self,
        halt: Callable[[Info], Array],
        step: Callable[[Any, Batch], tuple[Any, Info]],
        unravel: Callable[[Any], Any],
        flat: Any,
        opt: Any,
        batch: Batch,
        key: Key,
    ) -> tuple[Any, Any, Info]:
        """Steps until `halt` says True before one of them, as in `minimise`."""
        rows = minibatch_rows(shuffles(key, self.epochs, len(batch.mask)), self.minibatches)
        rows = rows.reshape(self.epochs * self.minibatches, -1)

        def go_on(state: Any) -> Array:
            _, done, halted, _ = state
            return (done < len(rows)) & ~halted

        def one(state: Any) -> Any:
            carry, done, _, totals = state
            moved, info = step(carry, batch.minibatch(rows[done]))
            halted = halt(info)
            carry = jax.tree.map(lambda a, b: jnp.where(halted, b, a), moved, carry)
            totals = {k: totals[k] + jnp.where(halted, 0, v) for k, v in info.items()}
            return carry, done + ~halted, halted, totals

        shapes = jax.eval_shape(step, (flat, opt), batch.minibatch(rows[0]))[1]
        totals = {k: jnp.zeros(s.shape, s.dtype) for k, s in shapes.items()}
        start = ((flat, opt), jnp.zeros((), jnp.int32), jnp.zeros((), bool), totals)
        (flat, opt), done, _, totals = jax.lax.while_loop(go_on, one, start)
        info = {k: v / jnp.maximum(done, 1).astype(v.dtype) for k, v in totals.items()}
        return unravel(flat), opt, info | {"steps": done}

    def maximise(
        self,
        objective: Objective,
        policy: Any,
        opt: Any,
        batch: Batch,
        key: Key,
        penalty: Penalty,
        name: str,
        *,
        stop: Callable[[Any], Array] | None = None,
        halt: Callable[[Info], Array] | None = None,
    ) -> tuple[Any, Any, Info]:
        """Maximise the mean of `objective` over the rows that count, less `penalty`.

        Returns policy, optimiser state and the means of what is reported, `loss` included, each
        under `name`; `stop` and `halt` as in `minimise`.
        """

        def loss(p: Any, mb: Batch) -> tuple[Array, Info]:
            gain, info = objective(p(mb.obs), mb)
            return penalty(p, mb) - mb.mean(gain), {k: mb.mean(x) for k, x in info.items()}

        policy, opt, info = self.minimise(loss, policy, opt, batch, key, stop, halt)
        return policy, opt, {f"{name}_{k}": x for k, x in info.items()}
