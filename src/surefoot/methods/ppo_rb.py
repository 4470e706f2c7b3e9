"""PPO with rollback (Wang et al., 2019): beyond the interval the slope is negative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class PPORB:
    r"""PPO with rollback (Wang, He and Tan, Truly Proximal Policy Optimization, 2019, section 4.1).

        maximise  mean[ min(r A, F(r) A) ],   r = p(a|s) / old(a|s),
                  F(r) = -alpha r + (1 + alpha) (1 + clip)   for r >= 1 + clip
                         -alpha r + (1 + alpha) (1 - clip)   for r <= 1 - clip,   else r

    by Adam over shuffled minibatches: where PPO's objective is flat, this one falls. epsilon =
    clip. `alpha=0` is PPO.

    Departures: the critic is fitted after the policy by its own passes (`ValueFit`) unless layers
    are shared.

    >>> from surefoot import PPORB
    >>> PPORB().alpha
    0.3
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    clip: float = 0.2
    """Half-width of the interval of ratios, epsilon (paper: 0.2)."""
    alpha: float = 0.3
    """Slope beyond it (paper: 0.3, Humanoid 0.1; the authors' Atari runs 0.01)."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "clip", low=0, open_low=True)
        check_number(self, "alpha", low=0, open_high=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """min(r A, F(r) A), [M], and the share of ratios outside."""
        r, A = ratio(new, batch), batch.advantage
        near = jnp.clip(r, 1 - self.clip, 1 + self.clip)
        F = near - self.alpha * (r - near)
        outside = (jnp.abs(r - 1) > self.clip).astype(A.dtype)
        return jnp.minimum(r * A, F * A), {"clip_fraction": outside}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""
        return self.sgd.maximise(self.objective, policy, state, batch, key, penalty, "ppo_rb")
