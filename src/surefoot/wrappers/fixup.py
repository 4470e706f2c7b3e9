"""A trust region round any method: walk back towards the old policy until every state is inside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import jax.numpy as jnp

from surefoot.checks import check_count, check_number, require
from surefoot.divergences import Divergence, KLOldNew, WorstState
from surefoot.repair import actor_from, walk_back
from surefoot.types import (
    Array,
    Batch,
    Info,
    Key,
    Penalty,
    PolicyUpdate,
    State,
    no_penalty,
    within,
)
from surefoot.wrappers import nest

M = TypeVar("M", bound=PolicyUpdate)


@dataclass(frozen=True)
class Fixup(Generic[M]):
    """Walk back towards the old policy after any update, until no state of the batch is further
    than `max_kl`.

        new = first of  p_k = old + shrink^k (inner - old),  k = 0, 1, ..., max_tries,
              with  max_s KL(old(.|s) || p_k(.|s)) <= max_kl;   else new = old

    in the parameters of the actor (methods.md 2.3). The candidate 0 is what the inner update
    returned, bit for bit, so an update that is inside already is not touched, and an infinite bound
    changes nothing at all. It always ends. The state is the inner update's own and is not walked
    back; nor are layers that only a shared value function uses.

    What the inner update promises of its own is not promised any more where the walk shortened its
    step. (FixPO descends on the KL instead, by its own optimiser, and is a method of its own.)

    >>> from surefoot import PPO, Fixup
    >>> Fixup(PPO(), max_kl=0.2).inner.clip
    0.2
    """

    inner: M
    """The update that is held."""
    max_kl: float = 0.5
    """Bound on the KL of every state of the batch, enforced. At least 1e-5; `inf` is no bound."""
    divergence: Divergence = KLOldNew()
    """Direction of the KL: `old_new` or `new_old`."""
    shrink: float = 0.8
    """Factor by which the way from the old policy shortens."""
    max_tries: int = 50
    """Times it may shorten before the old policy is kept."""

    def __post_init__(self) -> None:
        held = isinstance(self.inner, PolicyUpdate)
        require(held, self, "inner", self.inner, "a method such as PPO()")
        check_number(self, "max_kl", low=1e-5)
        check_number(self, "shrink", low=0, high=1, open_low=True, open_high=True)
        check_count(self, "max_tries", low=0)

    @property
    def first_order(self) -> bool:
        """As the inner update."""
        return self.inner.first_order

    @property
    def promise(self) -> str:
        """`max_kl`, or that of the reverse KL; `none` where the bound is infinite."""
        return "none" if self._infinite else f"max_{self.divergence.word}"

    @property
    def _infinite(self) -> bool:
        # A traced bound is finite: a sweep over it is not over whether there is one.
        return isinstance(self.max_kl, float) and math.isinf(self.max_kl)

    def init(self, policy: Any, key: Key) -> State:
        """The inner update's state."""
        return self.inner.init(policy, key)

    def update(
        self, policy: Any, state: State, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, State, Info]:
        """The inner update, and the walk back."""
        new, state, info = self.inner.update(policy, state, batch, key, penalty=penalty)
        if self._infinite:
            walk = {"fixup_scale": jnp.ones(()), "fixup_tries": jnp.zeros((), jnp.int32)}
            return new, state, nest(info, walk)

        def inside(p: Any) -> Array:
            worst = WorstState()
            kl = self.divergence(p(batch.obs), batch)
            return within(worst(kl, batch), self.max_kl, worst.margin)

        old = actor_from(policy, new)
        new, walk = walk_back(old, new, inside, self.shrink, self.max_tries)
        return new, state, nest(info, {"fixup_scale": walk.scale, "fixup_tries": walk.tries})
