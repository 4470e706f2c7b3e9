"""Early Stopping Policy Optimization (Sun et al., 2022): no clip, a stop in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class ESPO:
    r"""Early Stopping Policy Optimization (Sun et al., 2022, You May Not Need Ratio Clipping in
    PPO).

        maximise  mean[ r A ],   r = p(a|s) / old(a|s)

    by Adam, one minibatch after another, until a minibatch has mean |r - 1| > delta
    (`stop_deviation`): neither that step nor any other of the update is made. In expectation
    mean |r - 1| is twice the total variation between the policies.

    Departures: minibatches are those of shuffled passes over the batch, at most epochs times
    minibatches of them, where RL-X draws each afresh, at most 300; the critic is fitted after the
    policy by its own passes (`ValueFit`), which do not stop, unless layers are shared.

    >>> from surefoot import ESPO
    >>> ESPO().stop_deviation
    0.25
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    stop_deviation: float = 0.25
    """Mean |r - 1| of a minibatch above which the update ends, delta (RL-X: 0.25)."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "stop_deviation", low=0, open_low=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """r A, [M], and |r - 1|."""
        r = ratio(new, batch)
        return r * batch.advantage, {"deviation": jnp.abs(r - 1)}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""
        stop = lambda info: info["deviation"] > self.stop_deviation  # noqa: E731
        return self.sgd.maximise(
            self.objective, policy, state, batch, key, penalty, "espo", halt=stop
        )
