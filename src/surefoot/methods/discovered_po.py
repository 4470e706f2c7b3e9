"""Discovered Policy Optimisation (Lu et al., 2022): a drift found by meta-learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.sgd import SGD
from surefoot.surrogates import log_ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class DiscoveredPO:
    r"""Discovered Policy Optimisation (Lu et al., 2022, section 6): a drift of mirror learning, in
    closed form, read off a learnt one. Not direct preference optimisation.

        maximise  mean[ r A - D ],   r = p(a|s) / old(a|s),
                  D = relu((r - 1) A - alpha tanh((r - 1) A / alpha))    for A >= 0
                      relu(A ln r - beta tanh(A ln r / beta))            for A < 0

    by Adam over shuffled minibatches. D is zero and flat at the old policy, and never negative.

    Departures: the critic is fitted after the policy by its own passes (`ValueFit`) unless layers
    are shared.

    >>> from surefoot import DiscoveredPO
    >>> DiscoveredPO().beta
    0.6
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    alpha: float = 2.0
    """Scale beyond which gains are held back (paper: 2)."""
    beta: float = 0.6
    """Scale beyond which avoided losses are held back (paper: 0.6)."""
    sgd: SGD = SGD(lr=3e-4, epochs=4, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "alpha", low=0, open_low=True)
        check_number(self, "beta", low=0, open_low=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """r A - D, [M], and D."""
        x, A = log_ratio(new, batch), batch.advantage
        r = jnp.exp(x)
        gain, loss = (r - 1) * A, A * x
        above = gain - self.alpha * jnp.tanh(gain / self.alpha)
        below = loss - self.beta * jnp.tanh(loss / self.beta)
        D = jax.nn.relu(jnp.where(A >= 0, above, below))
        return r * A - D, {"drift": D}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""
        return self.sgd.maximise(
            self.objective, policy, state, batch, key, penalty, "discovered_po"
        )
