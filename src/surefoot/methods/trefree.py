"""Trust-Region-Free Policy Optimization (Sun et al.): the objective itself is capped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class TREFree:
    r"""Trust-Region-Free Policy Optimization (Sun et al., Algorithm 1), objective-conservative.

        maximise  mean[ min((r - 1) A, delta) ],   r = p(a|s) / old(a|s)

    by Adam over shuffled minibatches. In theorem 3.3 the return gains at least the mean of (r - 1)
    A less a multiple of max |(r - 1) A|, instead of one of a divergence; the minimum takes away
    what would be gained by making it larger than delta. One-sided: nothing holds back a negative (r
    - 1) A but its own gradient, which never vanishes. delta is in units of the advantage, which is
    standardised over the whole batch (section 4); over minibatches, or not at all, delta means
    something else.

    The siblings of section 3.2 are `TREFreeRatio` and `TREFreeFree`. The paper's network, with a
    shared first layer and a state-dependent variance, is the preset `trefree-paper`.

    Departures: none in the objective. No code was released; minibatches, epochs, gradient clipping
    and Adam's epsilon are those of openai/baselines, which the paper builds on.

    >>> from surefoot import TREFree
    >>> TREFree().delta
    0.01
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    delta: float = 0.01
    """Largest (r - 1) A that is rewarded (paper: 0.01 in all tasks); `inf` caps nothing."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32, anneal=True)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "delta", low=0, open_low=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """min((r - 1) A, delta), [M], and where it is capped."""
        gain = (ratio(new, batch) - 1) * batch.advantage
        capped = (gain > self.delta).astype(gain.dtype)
        return jnp.minimum(gain, self.delta), {"capped_fraction": capped}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""
        return self.sgd.maximise(self.objective, policy, state, batch, key, penalty, "trefree")
