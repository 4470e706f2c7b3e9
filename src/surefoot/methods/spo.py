"""Simple Policy Optimization (Xie et al., 2025): a quadratic that pulls ratios back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class SPO:
    r"""Simple Policy Optimization (Xie et al., 2025).

        maximise  mean[ r A - |A| (r - 1)^2 / (2 clip) ],   r = p(a|s) / old(a|s)

    by Adam over shuffled minibatches. epsilon = clip. A row's objective is largest at r = 1 + clip
    sign(A), where PPO's becomes flat; beyond, its gradient does not vanish but pulls back, so that
    in expectation |r - 1| stays near clip.

    Departures: none in the objective (the first version of the paper clipped the KL instead); the
    critic is fitted after the policy by its own passes (`ValueFit`) unless layers are shared.

    >>> from surefoot import SPO
    >>> SPO().clip
    0.2
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    clip: float = 0.2
    """|r - 1| at which a row's objective is largest, epsilon (paper: 0.2)."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=4, anneal=True)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "clip", low=0, open_low=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """r A - |A| (r - 1)^2 / (2 clip), [M], and |r - 1|."""
        r, A = ratio(new, batch), batch.advantage
        pull = jnp.abs(A) * (r - 1) ** 2 / (2 * self.clip)
        return r * A - pull, {"deviation": jnp.abs(r - 1)}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""
        return self.sgd.maximise(self.objective, policy, state, batch, key, penalty, "spo")
