"""Multipliers of penalties: how a coefficient follows the KL that it is to hold, by a factor or by
a gradient of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from surefoot.checks import check_number
from surefoot.types import Array, Number, exceeds

STEEPEST = 1e15
"""Gradients of multipliers are cut here, so that a KL that overflows does not make Adam's moments
infinite."""


@dataclass(frozen=True)
class FactorRule:
    """beta / down where KL < low target, beta * up where KL > high target, else beta; then kept
    between floor and ceiling (Schulman et al., 2017, section 4).

    The published rules are settings of it: PPO's is the default, modular_rl's is `FactorRule(low=
    0.7, high=1.3, down=1.5, up=1.5)`, RLlib's `FactorRule(low=0.5, high=2, down=2, up=1.5)`, and a
    fixed coefficient `FactorRule(down=1, up=1)`.
    """

    low: float = 1 / 1.5
    """Share of the target below which beta falls."""
    high: float = 1.5
    """Multiple of the target above which beta rises."""
    down: float = 2.0
    """What beta is divided by; 1 never lowers it."""
    up: float = 2.0
    """What beta is multiplied by; 1 never raises it."""
    floor: float = 1e-4
    """Smallest beta (none in the paper)."""
    ceiling: float = 1e4
    """Largest beta (none in the paper)."""

    def __post_init__(self) -> None:
        check_number(self, "low", low=0, high=1)
        check_number(self, "high", low=1)
        check_number(self, "down", low=1, open_high=True)
        check_number(self, "up", low=1, open_high=True)
        check_number(self, "floor", low=0, open_high=True)
        low = self.floor if isinstance(self.floor, (int, float)) else 0.0
        check_number(self, "ceiling", low=low)

    def __call__(self, beta: Array, kl: Array, target: Number) -> Array:
        """The next beta, after an update whose mean KL was `kl`; of a NaN it is the same beta."""
        lower = jnp.where(kl < self.low * target, beta / self.down, beta)
        moved = jnp.where(kl > self.high * target, beta * self.up, lower)
        return jnp.clip(moved, self.floor, self.ceiling)


def init_duals(values: Any) -> Any:
    """Adam's state for a tree of dual variables."""
    return optax.scale_by_adam().init(values)


def move_duals(values: Any, slopes: Any, opt: Any, lr: Number, floor: Number) -> tuple[Any, Any]:
    """One Adam step down the slopes, then each dual at least `floor`; returns duals and state."""
    cut = jax.tree.map(lambda g: jnp.clip(g, -STEEPEST, STEEPEST), slopes)
    moves: Any
    moves, opt = optax.scale_by_adam().update(cut, opt)
    step = lambda x, move: jnp.maximum(x - lr * move, floor)  # noqa: E731
    return jax.tree.map(step, values, moves), opt


@runtime_checkable
class BetaRule(Protocol):
    """The coefficient of two trust regions, one round the old policy and one round a virtual
    policy psi."""

    @property
    def first(self) -> float:
        """What is kept at the start of the run."""
        ...

    def __call__(self, kept: Array, d_theta: Array, d_psi: Array, progress: Array) -> Array:
        """The coefficient for one minibatch step: of what is kept, D(old, theta) and D(old, psi)
        before the step, and the share of the run that is done."""
        ...

    def after(self, kept: Array, d: Array) -> Array:
        """What is kept after an update that ended at D(old, theta) = d over the whole batch."""
        ...


@dataclass(frozen=True)
class SwitchingBeta:
    """`high` where D(old, theta) > D(old, psi), else `low` (Le et al., 2022, eq. 4)."""

    high: float = 10.0
    """Coefficient where theta is further from the old policy than psi, beta_max (paper: 10)."""
    low: float = 0.01
    """Coefficient elsewhere, beta_min (paper: 0.01); a tie counts here."""

    def __post_init__(self) -> None:
        check_number(self, "low", low=0, open_high=True)
        low = self.low if isinstance(self.low, (int, float)) else 0.0
        check_number(self, "high", low=low, open_high=True)

    @property
    def first(self) -> float:
        """Nothing is kept; 0 stands for it."""
        return 0.0

    def __call__(self, kept: Array, d_theta: Array, d_psi: Array, progress: Array) -> Array:
        """Eq. 4; a difference within rounding is a tie."""
        return jnp.where(exceeds(d_theta, d_psi), self.high, self.low).astype(kept.dtype)

    def after(self, kept: Array, d: Array) -> Array:
        """As it was."""
        return kept


@dataclass(frozen=True)
class ConstantBeta:
    """One number for the whole run (KL Fixed)."""

    value: float = 1.0
    """The coefficient."""

    def __post_init__(self) -> None:
        check_number(self, "value", low=0, open_high=True)

    @property
    def first(self) -> float:
        """The coefficient."""
        return self.value

    def __call__(self, kept: Array, d_theta: Array, d_psi: Array, progress: Array) -> Array:
        """What is kept."""
        return kept

    def after(self, kept: Array, d: Array) -> Array:
        """As it was."""
        return kept


@dataclass(frozen=True)
class AnnealedBeta:
    """start / max(1 - progress, t_min), as in MDPO (Le et al., 2022, section 4.5, an ablation)."""

    start: float = 1.0
    """The coefficient at the start of the run."""
    t_min: float = 1e-3
    """Floor of 1 - progress."""

    def __post_init__(self) -> None:
        check_number(self, "start", low=0, open_high=True)
        check_number(self, "t_min", low=0, high=1, open_low=True)

    @property
    def first(self) -> float:
        """The coefficient at the start."""
        return self.start

    def __call__(self, kept: Array, d_theta: Array, d_psi: Array, progress: Array) -> Array:
        """By progress alone."""
        return kept / jnp.maximum(1 - progress, self.t_min)

    def after(self, kept: Array, d: Array) -> Array:
        """As it was."""
        return kept


@dataclass(frozen=True)
class AdaptiveBeta:
    """By a factor after every update, as in PPO-KL (Le et al., 2022, section 4.5, an ablation)."""

    start: float = 1.0
    """The coefficient at the start of the run."""
    target_kl: float = 0.01
    """Mean KL(old || new) that it steers towards."""
    rule: FactorRule = FactorRule()
    """How it follows the KL."""

    def __post_init__(self) -> None:
        check_number(self, "target_kl", low=0, open_low=True, open_high=True)
        check_number(self, "start", low=self.rule.floor, high=self.rule.ceiling)

    @property
    def first(self) -> float:
        """The coefficient at the start."""
        return self.start

    def __call__(self, kept: Array, d_theta: Array, d_psi: Array, progress: Array) -> Array:
        """What is kept."""
        return kept

    def after(self, kept: Array, d: Array) -> Array:
        """Up or down by a factor."""
        return self.rule(kept, d, self.target_kl)


BETA_RULES = {
    "switching": SwitchingBeta,
    "constant": ConstantBeta,
    "annealed": AnnealedBeta,
    "adaptive": AdaptiveBeta,
}
"""The names rules of beta go by in flags."""
