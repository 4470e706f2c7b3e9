"""Trust-region PPO (Wang et al., 2019): the KL of a state, not the ratio, ends its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.divergences import KLOldNew
from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class TRPPO:
    r"""Trust region-based PPO (Wang, He and Tan, 2019, Truly Proximal Policy Optimization, section
    4.2).

        maximise  mean[ r A ],   r = p(a|s) / old(a|s),   with A in place of r A on rows where
                  KL(old(.|s) || p(.|s)) >= delta  and  r A >= A

    by Adam over shuffled minibatches: a row whose state has left the region, and would be pushed
    further by its advantage, gives no gradient. (Without the second condition performance
    collapses.) delta triggers; nothing is promised about the KL of the new policy.

    Departures: the KL is in closed form, where some ports take -ln r of the sampled action; the
    critic is fitted after the policy by its own passes (`ValueFit`) unless layers are shared.

    >>> from surefoot import TRPPO
    >>> TRPPO().delta
    0.025
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    delta: float = 0.025
    """KL of a state from which its rows may be frozen (paper: 0.025; HalfCheetah 0.03)."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "delta", low=0, open_low=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """r A, or A where the gate is shut, [M], and the share of such rows."""
        r, A = ratio(new, batch), batch.advantage
        far = (KLOldNew()(new, batch) >= self.delta) & ((r - 1) * A >= 0)
        return jnp.where(far, A, r * A), {"frozen_fraction": far.astype(A.dtype)}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""
        return self.sgd.maximise(self.objective, policy, state, batch, key, penalty, "tr_ppo")
