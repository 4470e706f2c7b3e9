"""Trust Region-Guided PPO (Wang et al., 2019): ratio bounds that differ from row to row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.ranges import log_ranges
from surefoot.sgd import SGD
from surefoot.surrogates import log_ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class TRGPPO:
    r"""Trust Region-Guided Proximal Policy Optimization (Wang, He, Tan and Gan, 2019).

        maximise  mean[ min(r A, clip(r, l, u) A) ],   r = p(a|s) / old(a|s)

    by Adam over shuffled minibatches, where l(s, a) and u(s, a) are the smallest and the largest
    ratio that policies within a KL of delta of old(.|s) can have: unlikely actions get wide
    intervals, likely ones narrow. They are computed once an update, for all rows at once. delta
    shapes the intervals; nothing is promised about the KL of the new policy.

    Direction of the KL as in the authors' code: old || new for discrete actions, new || old for
    Gaussians, where the problem is reduced to one dimension (`ranges.log_ranges`).

    Departures: bounds are found by bisection and golden sections instead of a table of them; ratios
    are clipped as logarithms, for u = u_1^d overflows in many dimensions; probabilities of discrete
    actions are kept within [0.01, 0.99] where bounds are made (the authors' code); the default
    radius for discrete actions is ours.

    >>> from surefoot import TRGPPO
    >>> TRGPPO(delta=0.01).delta
    0.01
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    delta: float | None = None
    """Radius of the KL ball that shapes the intervals. None: of Gaussians the one at which the
    interval of the most likely action ends at 1 + clip (0.0295 in one dimension, 0.0054 in 6); of
    discrete actions that at which an action of probability one half has PPO's interval (0.0204;
    0.001 in the authors' Atari runs)."""
    clip: float = 0.2
    """What delta follows from where it is none, and the half-width for `at_least_clip`."""
    at_least_clip: bool = False
    """Whether intervals are at least [1 - clip, 1 + clip] (an option of the paper)."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "delta", low=0, open_low=True, open_high=True, optional=True)
        check_number(self, "clip", low=0, high=1, open_low=True, open_high=True)

    def init(self, policy: Any, key: Key) -> Any:
        """The optimiser's state, kept between updates."""
        return self.sgd.init(policy)

    def bounds(self, batch: Batch) -> tuple[Array, Array]:
        """ln l and ln u of every row, both [M]."""
        low, high = log_ranges(batch, self.delta, self.clip)
        if not self.at_least_clip:
            return low, high
        near, far = jnp.log1p(-jnp.asarray(self.clip)), jnp.log1p(jnp.asarray(self.clip))
        return jnp.minimum(low, near.astype(low.dtype)), jnp.maximum(high, far.astype(low.dtype))

    def objective(self, new: Any, batch: Batch) -> tuple[Array, Info]:
        """min(r A, clip(r, l, u) A), [M], and where it is clipped; the logarithms of l and u are
        `batch.extra`."""
        low, high = batch.extra
        x = log_ratio(new, batch)
        clipped = jnp.exp(jnp.clip(x, low, high))
        outside = ((x < low) | (x > high)).astype(x.dtype)
        gain = jnp.minimum(jnp.exp(x) * batch.advantage, clipped * batch.advantage)
        return gain, {"clip_fraction": outside}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """The bounds of all rows, then several epochs of minibatch ascent from `policy`."""
        low, high = self.bounds(batch)
        with_bounds = replace(batch, extra=(low, high))
        policy, state, info = self.sgd.maximise(
            self.objective, policy, state, with_bounds, key, penalty, "trgppo"
        )
        info |= {"trgppo_low": batch.mean(jnp.exp(low)), "trgppo_high": batch.mean(jnp.exp(high))}
        return policy, state, info
