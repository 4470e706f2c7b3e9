"""Truly PPO (Wang et al., 2019): a KL penalty on rows that left the trust region."""

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
class TrulyPPO:
    r"""Truly Proximal Policy Optimization (Wang, He and Tan, 2019, section 4.3).

        maximise  mean[ r A - alpha KL(old(.|s) || p(.|s)) 1{far} ],   r = p(a|s) / old(a|s),
                  far:  KL(old(.|s) || p(.|s)) >= delta  and  r A >= A

    by Adam over shuffled minibatches: a row whose state has left the region, and would be pushed
    further by its advantage, is penalised. delta triggers; nothing is promised about the KL of the
    new policy.

    Departures: the paper subtracts the constant delta from rows inside, which has no gradient; the
    variant with a negative slope alpha r A instead of the penalty (TR-PPO-RB) is not here; the
    critic is fitted after the policy by its own passes (`ValueFit`) unless layers are shared.

    >>> from surefoot import TrulyPPO
    >>> TrulyPPO().alpha
    5.0
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    delta: float = 0.03
    """KL of a state from which its rows may be penalised (authors' code: 0.03; Humanoid 0.05)."""
    alpha: float = 5.0
    """Weight of the penalty (authors' code: 5)."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "delta", low=0, open_low=True)
        check_number(self, "alpha", low=0, open_high=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """r A, less alpha KL where the row is far, [M], and the share of such rows."""
        r, A, kl = ratio(new, batch), batch.advantage, KLOldNew()(new, batch)
        far = (kl >= self.delta) & ((r - 1) * A >= 0)
        return r * A - jnp.where(far, self.alpha * kl, 0), {"far_fraction": far.astype(A.dtype)}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""
        return self.sgd.maximise(self.objective, policy, state, batch, key, penalty, "truly_ppo")
