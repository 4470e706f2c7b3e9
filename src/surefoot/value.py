"""Fitting the value function: with a network of its own after the policy's update, or inside the
policy's loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.networks import ActorCritic
from surefoot.sgd import SGD
from surefoot.types import Array, Batch, Info, Key


def value_loss(value: Array, batch: Batch, clip: float | None) -> Array:
    """Half the mean squared error to the value target; with `clip`, the worse of that and the same
    error after the new value is kept within `clip` of the old one (the PPO2 detail)."""
    error = (value - batch.value_target) ** 2
    if clip is not None:
        near = batch.value + jnp.clip(value - batch.value, -clip, clip)
        error = jnp.maximum(error, (near - batch.value_target) ** 2)
    return 0.5 * batch.mean(error)


@dataclass(frozen=True)
class ValueFit:
    """A critic of its own, fitted after the policy by its own minibatch passes."""

    sgd: SGD = SGD(lr=1e-3, epochs=10, minibatches=16, max_grad_norm=None)
    """How the critic is fitted."""
    clip: float | None = None
    """Range round the old value outside which the loss does not improve; none turns value clipping
    off."""

    def __post_init__(self) -> None:
        check_number(self, "clip", low=0, open_low=True, optional=True)

    def init(self, critic: Any) -> Any:
        """Optimiser state."""
        return self.sgd.init(critic)

    def of(self, policy: Any, critic: Any) -> Callable[[Any], Array]:
        """The function V."""
        return critic

    def penalty(self, policy: Any, batch: Batch) -> Array | None:
        """What the policy's objective pays for the value function: nothing."""
        return None

    def update(self, critic: Any, state: Any, batch: Batch, key: Key) -> tuple[Any, Any, Info]:
        """Fit V to the value targets."""

        def loss(c: Any, mb: Batch) -> tuple[Array, Info]:
            return value_loss(c(mb.obs), mb, self.clip), {}

        return self.sgd.minimise(loss, critic, state, batch, key)


@dataclass(frozen=True)
class SharedValue:
    """A value function on the policy's own first layers; its loss enters the objective of
    first-order methods."""

    coef: float = 0.5
    """Weight of the value loss."""
    clip: float | None = None
    """As in `ValueFit`."""

    def __post_init__(self) -> None:
        check_number(self, "coef", low=0)
        check_number(self, "clip", low=0, open_low=True, optional=True)

    def init(self, critic: Any) -> Any:
        """No state of its own: the policy's optimiser moves the value function too."""
        return ()

    def of(self, policy: ActorCritic, critic: Any) -> Callable[[Any], Array]:
        """The function V."""
        return policy.value

    def penalty(self, policy: ActorCritic, batch: Batch) -> Array | None:
        """coef times the value loss."""
        return self.coef * value_loss(policy.value(batch.obs), batch, self.clip)

    def update(self, critic: Any, state: Any, batch: Batch, key: Key) -> tuple[Any, Any, Info]:
        """Nothing is left to do after the policy's update."""
        return critic, state, {}


@dataclass(frozen=True)
class EntropyBonus:
    """A penalty of minus coef times the mean entropy."""

    coef: float = 0.01
    """Weight of the entropy."""

    def __post_init__(self) -> None:
        check_number(self, "coef")

    def __call__(self, policy: Any, batch: Batch) -> Array:
        return -self.coef * batch.mean(policy(batch.obs).entropy())
