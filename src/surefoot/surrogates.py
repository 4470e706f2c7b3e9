"""Surrogate objectives: records whose call gives what to maximise, one number a row of the
batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from surefoot.checks import UsageError, check_number
from surefoot.types import Array, Batch


@runtime_checkable
class Surrogate(Protocol):
    """`(new distribution, batch) -> [M]`."""

    def __call__(self, new: Any, batch: Batch) -> Array: ...


def log_ratio(new: Any, batch: Batch) -> Array:
    """ln of new(a|s) / old(a|s), [M]; 0 on rows that do not count."""
    return jnp.where(batch.mask, new.log_prob(batch.action) - batch.log_prob, 0)


def ratio(new: Any, batch: Batch) -> Array:
    """new(a|s) / old(a|s), [M]; 1 on rows that do not count."""
    # Masked before exp: there it could overflow, and zero times infinity in the gradient is NaN.
    return jnp.exp(log_ratio(new, batch))


@dataclass(frozen=True)
class Importance:
    """r A, with r the ratio of new to old probability (TRPO, eq. 14)."""

    def __call__(self, new: Any, batch: Batch) -> Array:
        return ratio(new, batch) * batch.advantage


@dataclass(frozen=True)
class Clipped:
    """min(r A, clip(r, 1 - clip, 1 + clip) A) (Schulman et al., 2017, eq. 7)."""

    clip: float = 0.2
    """Half-width of the interval of ratios."""

    def __post_init__(self) -> None:
        check_number(self, "clip", low=0, open_low=True)

    def __call__(self, new: Any, batch: Batch) -> Array:
        r = ratio(new, batch)
        clipped = jnp.clip(r, 1 - self.clip, 1 + self.clip)
        return jnp.minimum(r * batch.advantage, clipped * batch.advantage)


@dataclass(frozen=True)
class SelfNormalised:
    """sum_k w_k A_k / sum_k w_k over the branches of a state, w = new(a|s) / q(a|s) with q the
    distribution that chose the branches' first actions (TRPO, section 5.2). A row is its share
    times the number of branches, so that the mean over rows is the mean over states.

    A constant added to the A of a state changes nothing, so no baseline is needed. The paper prints
    new / old, which is the same where q is the old policy; for the uniform q that it advises for
    discrete actions only new / q estimates the objective. Where every action is a branch the
    denominator is constant, and the estimate the exact sum over actions.

    Raises `UsageError` on a batch without branches: with one row a state it would be constant.
    """

    def __call__(self, new: Any, batch: Batch) -> Array:
        if batch.branches < 2:
            raise UsageError(
                "SelfNormalised needs at least 2 branches a state: --vine.states 100, or a vine "
                "preset"
            )
        log = jnp.where(batch.mask, new.log_prob(batch.action) - batch.log_prob, 0)
        share = jax.nn.softmax(log.reshape(batch.branches, -1), axis=0).reshape(-1)
        return batch.branches * share * batch.advantage


SURROGATES = {
    "importance": Importance,
    "clipped": Clipped,
    "self_normalised": SelfNormalised,
}
"""The names surrogates go by in flags and JSON."""
