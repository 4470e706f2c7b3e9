"""How far a new policy is from the one that acted: a divergence per state, and the statistic of it
over states that a bound is put on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from surefoot.types import KL_MARGIN, WORST_MARGIN, Array, Batch


@runtime_checkable
class Divergence(Protocol):
    """`(new distribution, batch) -> [M]`: the distance from `batch.old`; on rows that do not count
    it means nothing, and has no gradient."""

    word: ClassVar[str]
    """How a promise calls it."""

    def __call__(self, new: Any, batch: Batch) -> Array: ...


def counted(new: Any, batch: Batch) -> Any:
    """The distribution, through which no gradient passes on rows that do not count: zero times the
    infinite slope of a far row would be NaN."""

    def cut(x: Array) -> Array:
        mask = batch.mask.reshape(-1, *(1,) * (x.ndim - 1))
        return jnp.where(jnp.broadcast_to(mask, x.shape), x, jax.lax.stop_gradient(x))

    return jax.tree.map(cut, new)


@dataclass(frozen=True)
class KLOldNew:
    """KL(old || new): TRPO's direction, and that of FixPO's released code on MuJoCo."""

    word: ClassVar[str] = "kl"

    def __call__(self, new: Any, batch: Batch) -> Array:
        return batch.old.kl(counted(new, batch))


@dataclass(frozen=True)
class KLNewOld:
    """KL(new || old): as equations 3 and 4 of the FixPO paper are written."""

    word: ClassVar[str] = "reverse_kl"

    def __call__(self, new: Any, batch: Batch) -> Array:
        return counted(new, batch).kl(batch.old)


DIVERGENCES = {"old_new": KLOldNew, "new_old": KLNewOld}
"""The names divergences go by in flags."""


@runtime_checkable
class Statistic(Protocol):
    """`([M], batch) -> scalar`: what of a divergence is compared with a bound."""

    word: ClassVar[str]
    """How a promise calls it."""
    margin: ClassVar[float]
    """Float32 margin that a bound on it needs (`types.within`)."""

    def __call__(self, x: Array, batch: Batch) -> Array: ...


@dataclass(frozen=True)
class WorstState:
    """The largest value over the rows that count, at least 0; NaN among them is NaN."""

    word: ClassVar[str] = "max"
    margin: ClassVar[float] = WORST_MARGIN

    def __call__(self, x: Array, batch: Batch) -> Array:
        return jnp.maximum(batch.max(x), 0)  # no row counts: nothing is far


@dataclass(frozen=True)
class MeanState:
    """The mean over the rows that count."""

    word: ClassVar[str] = "mean"
    margin: ClassVar[float] = KL_MARGIN

    def __call__(self, x: Array, batch: Batch) -> Array:
        return batch.mean(x)


STATISTICS = {"max": WorstState, "mean": MeanState}
"""The names statistics go by in flags."""
