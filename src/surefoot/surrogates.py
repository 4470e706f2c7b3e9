"""Surrogate objectives: records whose call gives what to maximise, one number a row of the
batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from surefoot.checks import check_number
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


SURROGATES = {"importance": Importance, "clipped": Clipped}
"""The names surrogates go by in flags and JSON."""
