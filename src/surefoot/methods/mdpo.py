"""Mirror Descent Policy Optimization, on-policy (Tomar et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.divergences import KLNewOld, tsallis
from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class MDPO:
    r"""Mirror Descent Policy Optimization, on-policy (Tomar et al., 2022, section 4).

        maximise  mean[ r A - (beta / t_k) KL(p || old) ],   t_k = 1 - (k - 1) / K

    by several gradient steps on the whole batch, k counting updates and K those of the run. The
    first step is that on the policy gradient, for the KL has no slope at the old policy: several
    steps are the method (paper: 10 is best, 1 clearly worse).

    With `q` other than 1 the KL is the Tsallis divergence of index q (section 4's variant),
    mean_old[ (r^q - 1) / (q - 1) ], with each row's share made non-negative by the term q (r - 1) /
    (q - 1) whose mean is zero; it tends to the KL as q tends to 1.

    Departures: t_k is at least `t_min`, for 1 / t_k diverges at the end of the run; the Tsallis
    penalty is weighted by the ratio, where the authors' code averages a difference of
    q-logarithms over old actions (which at q = 1 is not the KL of its other branch); `beta` is not
    in the paper, whose t_1 is 1.

    >>> from surefoot import MDPO
    >>> MDPO().sgd.minibatches
    1
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    beta: float = 1.0
    """Weight of the penalty at the start, the inverse of t_1 (paper: 1)."""
    t_min: float = 1e-3
    """Floor of the step size t_k; 1 keeps it constant."""
    q: float = 1.0
    """Index of the Tsallis divergence, from 1 (the KL) to 2 (paper: best per domain)."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=1, anneal=True)
    """How the objective is maximised: by as many steps as epochs, on the whole batch."""

    def __post_init__(self) -> None:
        check_number(self, "beta", low=0, open_high=True)
        check_number(self, "t_min", low=0, high=1, open_low=True)
        check_number(self, "q", low=1, high=2)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def t(self, progress: Array) -> Array:
        """The step size t_k at a share of the run."""
        return jnp.maximum(1 - progress, self.t_min)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """r A - (beta / t_k) D, [M]."""
        D = KLNewOld()(new, batch) if self.q == 1 else tsallis(new, batch, self.q)
        gain = ratio(new, batch) * batch.advantage
        return gain - self.beta / self.t(batch.progress) * D, {}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several steps of ascent from `policy` on the whole of `batch`."""
        policy, state, info = self.sgd.maximise(
            self.objective, policy, state, batch, key, penalty, "mdpo"
        )
        return policy, state, info | {"mdpo_t": self.t(batch.progress)}
