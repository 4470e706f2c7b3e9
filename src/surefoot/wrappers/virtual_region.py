"""A second trust region round any method: a pull towards a policy blended from past ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from surefoot.checks import check_count, check_number, require
from surefoot.divergences import counted
from surefoot.memory import (
    Attention,
    Blend,
    Diverse,
    Rate,
    Store,
    Writing,
    context,
    distance,
    view,
    virtual,
)
from surefoot.types import Array, Batch, Info, Key, Penalty, PolicyUpdate, no_penalty
from surefoot.wrappers import nest

M = TypeVar("M", bound=PolicyUpdate)


class VirtualState(eqx.Module):
    """What the wrapper keeps between updates."""

    inner: Any
    """The inner update's state."""
    memory: Store
    """Past policies."""
    blend: Any
    """The attention network with its own optimiser; `()` for a blend that is not learned."""
    psi: Array
    """The last virtual policy, [P]."""
    step: Array
    """Updates done."""


@dataclass(frozen=True)
class VirtualRegion(Generic[M]):
    """Pull any update towards a virtual policy psi, blended from a memory of past policies.

        inner update with the penalty   weight mean[ KL(psi || p) ]
        psi = sum_i f_phi(v)_i theta_i, once an update, from the whole batch                   (1)
        phi one step up mean[ tau(psi) A ]                                                     (5)
        the new policy joins the memory where D(new, psi) > D(old, psi)                        (2)

    (numbers are equations of Le et al., 2022). MCPO's second region for everyone else's method, and
    not MCPO: there psi, the memory and beta move in every minibatch, and the weight is shared out
    by returns. Here the current policy is the old one when psi is made, so the context compares two
    policies, not three. With `weight=0` it is the inner method, bit for bit. A bound that the inner
    update enforces on its policy holds on, for the pull is a part of what it maximises; a promise
    about projections is not passed on.

    >>> from surefoot import PPO, VirtualRegion
    >>> VirtualRegion(PPO(), weight=0.5).inner.clip
    0.2
    """

    inner: M
    """The update that is pulled."""
    weight: float = 1.0
    """Weight of the pull."""
    memory_size: int = 5
    """Policies remembered."""
    writing: Writing = Diverse()
    """When a policy is stored; its steps are updates here."""
    blend: Blend = Attention()
    """How stored policies become psi."""
    blend_lr: float = 3e-4
    """Adam's rate for the blend, where that has none of its own."""

    def __post_init__(self) -> None:
        held = isinstance(self.inner, PolicyUpdate)
        require(held, self, "inner", self.inner, "a method such as PPO()")
        check_number(self, "weight", low=0, open_high=True)
        check_count(self, "memory_size")
        check_number(self, "blend_lr", low=0, open_high=True)

    @property
    def first_order(self) -> bool:
        """As the inner update."""
        return self.inner.first_order

    @property
    def promise(self) -> str:
        """As the inner update, but for `projection`."""
        return "none" if self.inner.promise == "projection" else self.inner.promise

    @property
    def max_kl(self) -> float:
        """The inner update's bound, where it promises one."""
        return getattr(self.inner, "max_kl")  # noqa: B009 (only methods that promise one have it)

    def init(self, policy: Any, key: Key) -> VirtualState:
        """The inner update's state, an empty memory, and psi = the policy."""
        theta: Any = ravel_pytree(policy)[0]
        # The key goes on as it came, so that the inner update draws what it would draw alone.
        own = jax.random.fold_in(key, 1)
        blend = self.blend.init(self.memory_size, own, theta.dtype)
        memory = Store.empty(self.memory_size, policy)
        inner = self.inner.init(policy, key)
        return VirtualState(inner, memory, blend, theta, jnp.zeros((), jnp.int32))

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """One blend, the inner update under its pull, and perhaps a write."""
        unravel: Any = ravel_pytree(policy)[1]
        v = context(view(policy, batch), view(unravel(state.psi), batch), batch)
        chance = self.blend.draw(self.memory_size, jax.random.fold_in(key, 1))
        w = self.blend.weights(state.blend, v, state.memory, chance)

        psi, near, _, gain, slope = virtual(state.memory, w, state.psi, unravel, batch)
        other = unravel(psi)

        def pull(p: Any, mb: Batch) -> Array:
            kl = other(mb.obs).kl(counted(p(mb.obs), mb))
            return penalty(p, mb) + self.weight * mb.mean(kl)

        new, inner, info = self.inner.update(policy, state.inner, batch, key, penalty=pull)
        rate = Rate(self.blend_lr, 1.0, 1e-5)
        blend = self.blend.move(state.blend, slope, v, state.memory, chance, rate)
        far, d_psi = distance(new(batch.obs), near, batch), distance(batch.old, near, batch)
        step = state.step + 1
        write = self.writing(far, d_psi, step)
        theta: Any = ravel_pytree(new)[0]
        memory = state.memory.push(theta, step, write)
        slot, filled = jnp.argmax(w), state.memory.filled
        born = state.memory.by_age(state.memory.born)[slot]
        own = {
            "virtual_kl_old_psi": d_psi,
            "virtual_kl_new_psi": far,
            "virtual_psi_gain": gain - batch.mean(batch.advantage),
            "virtual_writes": write,
            "virtual_filled": memory.filled,
            "virtual_age": jnp.where(filled > 0, step - born, 0),
        }
        return new, VirtualState(inner, memory, blend, psi, step), nest(info, own)
