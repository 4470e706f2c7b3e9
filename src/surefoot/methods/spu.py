"""Supervised Policy Update (Vuong et al., 2019): a KL penalty on states inside, and a stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.divergences import KLNewOld
from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class SPU:
    r"""Supervised Policy Update (Vuong, Zhang and Ross, 2019), forward-KL constraints: the optimal
    non-parametric policy within them, and a fit to it.

        minimise  mean[ (KL(p(.|s) || old(.|s)) - r A / lam) 1{KL(p(.|s) || old(.|s)) <= epsilon} ]

    by Adam over shuffled minibatches, r = p(a|s) / old(a|s); no further epoch is run once the mean
    KL(p || old) over the batch is above delta (`stop_kl`). lambda = lam.

    Departures: the KL is in closed form, where a port takes half the square of ln r; the critic is
    fitted after the policy by its own passes (`ValueFit`) unless layers are shared.

    >>> from surefoot import SPU
    >>> SPU().stop_kl
    0.03
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    lam: float = 1.0
    """Weight of the KL against the gain, lambda (a port's default: 1)."""
    epsilon: float = 0.2
    """KL of a state above which its rows give no gradient (a port's default: 0.2)."""
    stop_kl: float | None = 0.03
    """Mean KL(new || old) above which no further epoch is run, delta (a port's default: 0.03); none
    runs them all."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "lam", low=0, open_low=True, open_high=True)
        check_number(self, "epsilon", low=0, open_low=True)
        check_number(self, "stop_kl", low=0, open_low=True, optional=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """r A / lam - KL(new || old) on rows of states inside, [M], and the share of others."""
        kl = KLNewOld()(new, batch)
        gain = ratio(new, batch) * batch.advantage / self.lam - kl
        outside = kl > self.epsilon  # not so of a NaN, which shows
        return jnp.where(outside, 0, gain), {"outside_fraction": outside.astype(kl.dtype)}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""

        def far(p: Any) -> Array:
            return batch.mean(KLNewOld()(p(batch.obs), batch)) > limit

        limit = jnp.inf if self.stop_kl is None else self.stop_kl
        stop = None if self.stop_kl is None else far
        return self.sgd.maximise(
            self.objective, policy, state, batch, key, penalty, "spu", stop=stop
        )
