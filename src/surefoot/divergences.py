"""How far a new policy is from the one that acted: a divergence per state, and the statistic of it
over states that a bound is put on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from surefoot.distributions import DiagGaussian, expm1_minus
from surefoot.surrogates import log_ratio
from surefoot.types import KL_MARGIN, WORST_MARGIN, Array, Batch, Number


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


def decoupled(new: DiagGaussian, batch: Batch) -> tuple[Array, Array]:
    """KL(old || new) of Gaussians with the new mean alone, and with the new covariance alone, each
    [M] (Song et al., 2020, section 3.3). Unlike `DiagGaussian.kl_parts` they do not add up to the
    KL: the mean's part is in units of the old covariance."""
    old, new = batch.old, counted(new, batch)
    mean = old.kl(DiagGaussian(new.mean, old.log_std))
    return mean, old.kl(DiagGaussian(old.mean, new.log_std))


def tsallis(new: Any, batch: Batch, q: Number) -> Array:
    """A sample of the Tsallis divergence of index q > 1 of the new policy from the old, [M], at
    least 0: with r the ratio, [r^q - 1 - q (r - 1)] / (q - 1), whose mean over old actions is
    mean[(r^q - 1) / (q - 1)]; as q tends to 1 that mean is KL(new || old).

    On rows that do not count it is 0.
    """
    x = log_ratio(new, batch)  # the linear terms of both cancel, so nothing is lost near r = 1
    return (expm1_minus(q * x) - q * expm1_minus(x)) / (q - 1)


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
