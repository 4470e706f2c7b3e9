"""The non-conservative sibling of TREFree (Sun et al., section 3.2): a control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class TREFreeFree:
    r"""The non-conservative objective (Sun et al., Trust-Region-Free Policy Optimization, section
    3.2), a control for `TREFree`.

        maximise  mean[ (r - 1) A ],   r = p(a|s) / old(a|s)

    by Adam over shuffled minibatches, several epochs, with nothing to hold it back. The paper
    predicts that it degrades (and so do Schulman et al., 2017, table 1, "no clipping").

    >>> from surefoot import TREFreeFree
    >>> TREFreeFree().promise
    'none'
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32, anneal=True)
    """How the objective is maximised."""

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """(r - 1) A, [M]."""
        return (ratio(new, batch) - 1) * batch.advantage, {}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""
        return self.sgd.maximise(self.objective, policy, state, batch, key, penalty, "trefree_free")
