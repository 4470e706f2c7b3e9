"""Projections for approximate policy iteration (Akrour et al., 2019): after a PPO-style update the
last layer is moved back until the mean KL is inside its bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.checks import UsageError, check_count, check_number
from surefoot.curvature import backtracking, tree_add, tree_where
from surefoot.networks import free_spread, head_of, with_head, with_spread
from surefoot.projection import EntropyControl, FreeEntropy, raise_entropy
from surefoot.sgd import SGD
from surefoot.surrogates import Clipped
from surefoot.types import Array, Batch, Info, Key, Number, Penalty, no_penalty, within


class PAPIState(eqx.Module):
    """What PAPI keeps between updates."""

    opt: Any
    """The optimiser's state."""
    entropy: Array
    """Mean entropy of the first policy on the first batch, from which schedules fall."""
    started: Array
    """1 once there was a first batch, else 0."""


@dataclass(frozen=True)
class PAPI:
    r"""Projections for approximate policy iteration (Akrour et al., 2019), the variant for
    networks: the clipped surrogate by Adam, and then

        new(layers, last)  with  mean[ KL(old || new) ] <= max_kl,

    found in three steps, each left out where the policy is inside already: the free deviations of a
    Gaussian are raised to the entropy asked for; the layers below the last are walked back towards
    the old ones until they are inside under the old last layer; the last layer is interpolated,
    old + eta (new - old), with the largest eta that a bisection finds inside. If nothing is inside,
    the old policy is kept.

    Departures: KL(old || new), the direction of the ruler and of the promise, where the paper has
    the other; the last layer's mean and deviation (in log sigma) move by one eta found on the exact
    KL, where the paper has a closed form for the mean after one for the covariance; so Categoricals
    and full covariances need nothing of their own.

    >>> from surefoot import PAPI
    >>> PAPI(max_kl=0.02).max_kl
    0.02
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "mean_kl"

    max_kl: float = 0.015
    """Bound on the mean KL(old || new) over the batch, enforced. At least 1e-5."""
    clip: float = 0.2
    """Half-width of the interval of ratios inside the update; `inf` clips nothing."""
    shrink: float = 0.8
    """Factor of the walk back of the layers below the last."""
    max_shrinks: int = 20
    """Times they may shrink before the old ones are kept."""
    bisections: int = 20
    """Halvings that find eta."""
    entropy: EntropyControl = FreeEntropy()
    """Entropy asked of a Gaussian with free deviations: `free`, `linear` or `exponential` in
    time."""
    entropy_equality: bool = False
    """Whether the entropy is set to that value, and not only raised to it."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "max_kl", low=1e-5, open_high=True)
        check_number(self, "clip", low=0, open_low=True)
        check_number(self, "shrink", low=0, high=1, open_low=True, open_high=True)
        check_count(self, "max_shrinks", low=0)
        check_count(self, "bisections", low=0)

    def init(self, policy: Any, key: Key) -> PAPIState:
        """The optimiser's state; the entropy is known with the first batch."""
        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(policy)))
        return PAPIState(self.sgd.init(policy), zero, jnp.zeros((), jnp.int32))

    def update(
        self,
        policy: Any,
        state: PAPIState,
        batch: Batch,
        key: Key,
        *,
        penalty: Penalty = no_penalty,
    ) -> tuple[Any, PAPIState, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`, and the way back inside."""

        def loss(p: Any, mb: Batch) -> tuple[Array, Info]:
            gain = mb.mean(Clipped(self.clip)(p(mb.obs), mb))
            return penalty(p, mb) - gain, {}

        def inside(p: Any) -> Array:
            return within(batch.mean(batch.old.kl(p(batch.obs))), self.max_kl)

        new, opt, info = self.sgd.minimise(loss, policy, state.opt, batch, key)
        initial = jnp.where(state.started > 0, state.entropy, batch.mean(batch.old.entropy()))
        floor = self.entropy.floor(initial, batch.action.shape[-1], batch.progress)
        new = self.lifted(new, floor)
        one = jnp.ones_like(initial)
        found, layers, eta = jax.lax.cond(
            inside(new), lambda: (new, one, one), lambda: self.walk_back(policy, new, inside)
        )
        kept = inside(found)  # NaN is outside
        policy = tree_where(kept, found, policy)
        info = {
            "papi_fallback": ~kept,
            "papi_layers": layers,
            "papi_eta": eta,
            "papi_loss": info["loss"],
        }
        return policy, PAPIState(opt, initial, jnp.ones((), jnp.int32)), info

    def lifted(self, policy: Any, floor: Number | None) -> Any:
        """The policy with its free deviations raised to the entropy asked for."""
        if floor is None:
            return policy
        spread = free_spread(policy)
        if spread is None:
            raise UsageError(
                "PAPI controls the entropy of Gaussians whose deviations are free parameters; "
                "allowed: FreeEntropy() (--method.entropy free)"
            )
        return with_spread(policy, raise_entropy(spread, floor, self.entropy_equality))

    def walk_back(self, old: Any, new: Any, inside: Any) -> tuple[Any, Array, Array]:
        """A policy inside between `old` and `new`, the share of the way that its layers below the
        last went, and that of the last; `old` itself at the worst."""
        was, will = head_of(old), head_of(new)
        if was is None:
            raise UsageError("PAPI moves the last layer of a policy made by Networks")
        below = tree_add(with_head(new, was), -1.0, old)
        base, search = backtracking(
            old, below, lambda p, _: inside(p), self.shrink, self.max_shrinks
        )
        step = tree_add(will, -1.0, was)
        at = lambda eta: with_head(base, tree_add(was, eta, step))  # noqa: E731

        def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = 0.5 * (low + high)
            ok = inside(at(middle))
            return jnp.where(ok, middle, low), jnp.where(ok, high, middle)

        zero = jnp.zeros_like(search.scale)
        low, _ = jax.lax.fori_loop(0, self.bisections, halve, (zero, zero + 1))
        return at(low), search.scale, low
