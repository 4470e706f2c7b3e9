"""Proximal Policy Optimization with a clipped surrogate (Schulman et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.sgd import SGD
from surefoot.surrogates import Clipped, ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class PPO:
    r"""Proximal Policy Optimization, clipped surrogate (Schulman et al., 2017, section 3, eq. 7).

        maximise  mean[ min(r A, clip(r, 1 - clip, 1 + clip) A) ],   r = p(a|s) / old(a|s)

    by Adam over shuffled minibatches. The clip bounds neither the ratio nor the KL: PPO promises
    nothing, and the report shows what happened. `stop_kl` (an extension found in most codes, where
    it is called target_kl) stops after the first epoch at whose end the mean KL(old || new) of the
    whole batch is above it.

    Departures: the critic is fitted after the policy by its own passes (`ValueFit`) unless layers
    are shared, so actor and critic gradients are clipped apart; learning-rate annealing, gradient
    clipping and minibatch normalisation of advantages are details of the authors' code, not of the
    paper, and are fields.

    >>> from surefoot import PPO
    >>> PPO(clip=0.1).clip
    0.1
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    clip: float = 0.2
    """Half-width of the interval of ratios, epsilon; `inf` clips nothing."""
    stop_kl: float | None = None
    """Mean KL above which no further epoch is run; none runs them all."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "clip", low=0, open_low=True)
        check_number(self, "stop_kl", low=0, open_low=True, optional=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`."""

        def loss(p: Any, mb: Batch) -> tuple[Array, Info]:
            new = p(mb.obs)
            gain = mb.mean(Clipped(self.clip)(new, mb))
            outside = jnp.abs(ratio(new, mb) - 1) > self.clip
            return penalty(p, mb) - gain, {"clip_fraction": mb.mean(outside.astype(gain.dtype))}

        def far(p: Any) -> Array:
            return batch.mean(batch.old.kl(p(batch.obs))) > limit

        limit = jnp.inf if self.stop_kl is None else self.stop_kl
        stop = None if self.stop_kl is None else far
        policy, state, info = self.sgd.minimise(loss, policy, state, batch, key, stop)
        return policy, state, {f"ppo_{name}": x for name, x in info.items()}
