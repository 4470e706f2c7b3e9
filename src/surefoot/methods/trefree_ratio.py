"""The ratio-conservative sibling of TREFree (Sun et al., section 3.2): a control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class TREFreeRatio:
    r"""The ratio-conservative objective (Sun et al., Trust-Region-Free Policy Optimization, section
    3.2), a control for `TREFree`.

        maximise  mean[ clip(r - 1, -clip, clip) A ],   r = p(a|s) / old(a|s)

    by Adam over shuffled minibatches. lambda = clip. The paper calls this PPO, but PPO takes the
    minimum with (r - 1) A; without it a row that went beyond the interval the wrong way has no
    gradient and never comes back. It is here as the paper writes it, to be compared with.

    >>> from surefoot import TREFreeRatio
    >>> TREFreeRatio(clip=0.1).clip
    0.1
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    clip: float = 0.2
    """Half-width of the interval of ratios, lambda (the paper gives no number; 0.2 is PPO's)."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32, anneal=True)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "clip", low=0, open_low=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """clip(r - 1, -clip, clip) A, [M], and where it is clipped."""
        away = ratio(new, batch) - 1
        outside = (jnp.abs(away) > self.clip).astype(away.dtype)
        clipped = jnp.clip(away, -self.clip, self.clip)
        return clipped * batch.advantage, {"clip_fraction": outside}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""
        return self.sgd.maximise(
            self.objective, policy, state, batch, key, penalty, "trefree_ratio"
        )
