"""Trust Region Policy Optimization (Schulman et al., 2015), single path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from surefoot.checks import check_count, check_number
from surefoot.curvature import (
    backtracking,
    conjugate_gradient,
    damped,
    gauss_newton,
    tree_dot,
    tree_scale,
)
from surefoot.surrogates import Importance, Surrogate
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty, within


@dataclass(frozen=True)
class TRPO:
    r"""Trust Region Policy Optimization (Schulman et al., 2015, section 5 and Appendix C), single
    path.

        maximise   L(p)  = mean[ p(a|s) / old(a|s) * A ]
        subject to KL(p) = mean[ KL(old || p) ] <= max_kl

    The direction is x = F^-1 g by conjugate gradient, the step sqrt(2 max_kl / x'Fx) x, shrunk by
    `backtrack` until the surrogate improves and the exact mean KL over the whole batch is inside.
    If none of the candidates is accepted the old policy is returned.

    delta = max_kl, alpha = backtrack.

    Departures from the paper: damping is added to F (App. C.1 leaves it implicit; 0.1 is what
    reference codes use); advantages come from GAE and the critic instead of Monte-Carlo Q; F uses
    all samples, the paper one in ten.

    >>> from surefoot import TRPO
    >>> TRPO(max_kl=0.02).max_kl
    0.02
    """

    first_order: ClassVar[bool] = False
    promise: ClassVar[str] = "mean_kl"

    max_kl: float = 0.01
    """Bound on the mean KL(old || new) over the batch, enforced. At least 1e-5."""
    cg_iters: int = 10
    """Conjugate-gradient iterations."""
    cg_damping: float = 0.1
    """Added to the diagonal of F."""
    backtrack: float = 0.8
    """Factor by which a refused step shrinks (0.5 in the first public codes)."""
    max_backtracks: int = 10
    """Times the step may shrink before the old policy is kept."""
    min_gain_ratio: float = 0.0
    """Share of the linearly predicted gain that must be realised: 0 asks for any, 0.1 is the
    authors' code."""
    surrogate: Surrogate = Importance()
    """What is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "max_kl", low=1e-5, open_high=True)
        check_count(self, "cg_iters")
        check_number(self, "cg_damping", low=0, open_high=True)
        check_number(self, "backtrack", low=0, high=1, open_low=True, open_high=True)
        check_count(self, "max_backtracks", low=0)
        check_number(self, "min_gain_ratio", low=0, high=1)

    def init(self, policy: Any, key: Key) -> tuple[()]:
        """TRPO keeps nothing between updates."""
        return ()

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """One trust-region step from `policy` on `batch`."""

        def L(p: Any) -> Array:
            return batch.mean(self.surrogate(p(batch.obs), batch)) - penalty(p, batch)

        def KL(p: Any) -> Array:
            return batch.mean(batch.old.kl(p(batch.obs)))

        L_old, g = jax.value_and_grad(L)(policy)  # policy gradient
        F = damped(gauss_newton(policy, batch), self.cg_damping)
        x, residual, curvature = conjugate_gradient(F, g, self.cg_iters)  # F x = g
        step = tree_scale(jnp.sqrt(2 * self.max_kl / jnp.where(curvature > 0, curvature, 1)), x)
        slope = tree_dot(g, step)

        def accept(p: Any, scale: Array) -> Array:  # improves and stays inside
            gain = L(p) - L_old
            return (
                (gain > 0)
                & (gain >= self.min_gain_ratio * scale * slope)
                & within(KL(p), self.max_kl)
            )

        policy, search = backtracking(policy, step, accept, self.backtrack, self.max_backtracks)
        info = {
            "accepted": search.accepted,
            "backtracks": search.backtracks,
            "cg_residual": residual,
            "curvature": curvature,
        }
        return policy, state, info
