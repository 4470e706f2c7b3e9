"""Fixup Policy Optimization (Zentner et al., 2023): a KL penalty with a multiplier tuned on the
worst state, then a fix-up phase that guarantees the trust region."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from surefoot.checks import check_count, check_number
from surefoot.divergences import Divergence, KLOldNew, Statistic, WorstState
from surefoot.multipliers import init_duals, move_duals
from surefoot.repair import acting_parameters, only, repair, walk_back
from surefoot.sgd import SGD, minibatch_rows, shuffles
from surefoot.surrogates import Importance
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty, within

SHRINK, TRIES = 0.8, 50
"""The walk back after the cap: factor, and tries before the old policy is kept."""


class FixPOState(eqx.Module):
    """What FixPO keeps between updates."""

    opt: Any
    """Adam's state for the policy."""
    beta: Array
    """The multiplier."""
    beta_opt: Any
    """Adam's state for the multiplier."""


class Ends(NamedTuple):
    """How a fix-up phase ended."""

    steps: Array
    """Gradient steps."""
    sweeps: Array
    """Passes over the batch, the one that certifies included."""
    capped: Array
    """Whether it hit `max_sweeps`, so that the parameters walked back."""
    scale: Array
    """Share of the way from the old policy that was kept."""

    @classmethod
    def none(cls, dtype: Any) -> Ends:
        """Of a phase that was left out."""
        zero = jnp.zeros((), jnp.int32)
        return cls(zero, jnp.zeros((), jnp.float32), zero > 0, jnp.ones((), dtype))

    def report(self) -> Info:
        """Of the phases of an update, stacked: totals, and the share that the last one kept."""
        totals = {k: jnp.sum(getattr(self, k)) for k in ("steps", "sweeps", "capped")}
        return {f"fixpo_{k}": x for k, x in totals.items()} | {"fixpo_scale": self.scale[-1]}


@dataclass(frozen=True)
class FixPO:
    r"""Fixup Policy Optimization (Zentner et al., 2023, Algorithm 1).

        primary phase, on minibatches:
          theta by Adam on   L_theta = -mean[ r A ] + beta mean[ KL(old || new) ]       (eqs. 3, 5)
          beta  by Adam on   L_beta  = beta (max_kl - c_beta max_s KL(old || new)),  beta >= 0   (4)
        fix-up phase, after every epoch: sweep the batch; where a state has KL > max_kl,
          theta by Adam on   beta mean[ KL(old || new) ],   beta as above,
        until a whole pass in which no parameter moved finds every state inside.

    r = p(a|s) / old(a|s), unclipped; L_beta uses the KL of the same minibatch before its step.
    epsilon_KL = max_kl, C_beta = c_beta, gamma_beta = beta_lr. The fix-up phase uses theta's own
    Adam, rate and clip, and beta's own; it never touches a critic.

    The defaults are those of the published MuJoCo runs (with 8192 steps an update: minibatches of
    512). The paper's ablations (section 4.2): `fixup=False`, `statistic=MeanState()`, `c_beta=1`,
    `fixup_every_epoch=False`, `beta_init=10, beta_lr=0`.

    Departures: the fix-up phase is bounded by `max_sweeps`, after which the parameters walk back
    towards the old policy until every state is inside (the paper's loop has no bound); a KL that is
    not a number counts as outside; the pass that certifies begins after the last step rather than
    with the next sweep, and goes through the order of the epoch before; a state is inside at max_kl
    (1 - 3e-4), so that the float64 value is inside max_kl too; the critic is fitted after the
    policy by its own passes (`ValueFit`) unless layers are shared, where the paper has one
    optimiser for both; on shared layers the fix-up phase leaves out what only the value function
    uses, its moments included (Adam counts its steps for both).

    >>> from surefoot import FixPO
    >>> FixPO(max_kl=0.2).c_beta
    3.0
    """

    first_order: ClassVar[bool] = True

    max_kl: float = 0.5
    """Bound on the KL of every state of the batch, epsilon_KL; enforced. At least 1e-5."""
    c_beta: float = 3.0
    """Factor by which the primary phase aims below the bound, C_beta."""
    beta_init: float = 1.0
    """The multiplier at the start of the run."""
    beta_lr: float = 0.01
    """Adam's rate for the multiplier, gamma_beta; 0 keeps it constant."""
    beta_min: float = 0.0
    """Floor of the multiplier."""
    beta_max: float = float("inf")
    """Ceiling of the multiplier."""
    divergence: Divergence = KLOldNew()
    """Direction of the KL: `old_new` as in the authors' MuJoCo code, or `new_old` as in equations 3
    and 4."""
    statistic: Statistic = WorstState()
    """What of the KL is bounded: that of the worst state (`max`), or the `mean` over states."""
    fixup: bool = True
    """Whether there is a fix-up phase; without it nothing is promised."""
    fixup_every_epoch: bool = True
    """Whether it runs after every epoch, or only after the last."""
    fixup_minibatches: int = 16
    """Minibatches a pass of the fix-up phase is cut into (8 in the authors' runs: it takes as many
    steps, at twice the price)."""
    max_sweeps: int = 100
    """Passes of a fix-up phase before the parameters walk back instead; 0 only walks back."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=16, anneal=True, adam_eps=1e-8)
    """How theta is moved."""

    def __post_init__(self) -> None:
        check_number(self, "max_kl", low=1e-5, open_high=True)
        check_number(self, "c_beta", low=0, open_high=True)
        check_number(self, "beta_lr", low=0, open_high=True)
        check_number(self, "beta_min", low=0, open_high=True)
        low = self.beta_min if isinstance(self.beta_min, (int, float)) else 0.0
        check_number(self, "beta_max", low=low)
        high = self.beta_max if isinstance(self.beta_max, (int, float)) else math.inf
        check_number(self, "beta_init", low=low, high=high, open_high=math.isinf(high))
        check_count(self, "fixup_minibatches")
        check_count(self, "max_sweeps", low=0)

    @property
    def promise(self) -> str:
        """`max_kl`, `mean_kl` or the same of the reverse KL; `none` without a fix-up phase."""
        return f"{self.statistic.word}_{self.divergence.word}" if self.fixup else "none"

    def init(self, policy: Any, key: Key) -> FixPOState:
        """Two optimisers' states and beta."""
        beta = jnp.asarray(self.beta_init, jnp.result_type(*jax.tree.leaves(policy)))
        return FixPOState(self.sgd.init(policy), beta, init_duals(beta))

    def L_theta(self, p: Any, beta: Array, mb: Batch, penalty: Penalty) -> tuple[Array, Array]:
        """What the primary phase minimises (eq. 5), and the KL per state."""
        new = p(mb.obs)
        kl = self.divergence(new, mb)
        return penalty(p, mb) - mb.mean(Importance()(new, mb)) + beta * mb.mean(kl), kl

    def L_KL(self, p: Any, beta: Array, mb: Batch) -> tuple[Array, Array]:
        """What the fix-up phase minimises (the second term of eq. 3), and the KL per state."""
        kl = self.divergence(p(mb.obs), mb)
        return beta * mb.mean(kl), kl

    def inside(self, p: Any, mb: Batch) -> Array:
        """Whether no state is outside (of Algorithm 1, line 11); NaN is outside."""
        kl = self.statistic(self.divergence(p(mb.obs), mb), mb)
        return within(kl, self.max_kl, self.statistic.margin)

    def tune(self, state: FixPOState, kl: Array) -> tuple[Array, Any]:
        """One step of beta's Adam on L_beta, then back to its range (eq. 4; eq. 6 for the mean)."""
        slope = self.max_kl - self.c_beta * kl
        beta, opt = move_duals(state.beta, slope, state.beta_opt, self.beta_lr, self.beta_min)
        return jnp.minimum(beta, self.beta_max), opt

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Primary phases, each (or the last) followed by a fix-up phase, on `batch`."""
        old: Any
        old, unravel = ravel_pytree(policy)
        acts, rate = acting_parameters(policy), self.sgd.rate(batch.progress)

        def step(L: Any, theta: Any, state: Any, mb: Batch) -> tuple[Any, Any, Array]:
            loss = lambda theta: L(unravel(theta), state.beta, mb)  # noqa: E731
            (value, kl), g = jax.value_and_grad(loss, has_aux=True)(theta)
            move: Any
            move, opt = self.sgd.direction.update(g, state.opt)
            beta, beta_opt = self.tune(state, self.statistic(kl, mb))
            return theta - rate * move, FixPOState(opt, beta, beta_opt), value

        def primary(at: tuple[Any, Any], rows: Array) -> tuple[tuple[Any, Any], Array]:
            L = lambda p, beta, mb: self.L_theta(p, beta, mb, penalty)  # noqa: E731
            theta, state, value = step(L, *at, batch.minibatch(rows))  # lines 6 and 7
            return (theta, state), value

        def fix(theta: Any, state: Any, mb: Batch) -> tuple[Any, Any]:
            moved = step(self.L_KL, theta, state, mb)[:2]  # lines 13 and 14
            return only(acts, moved, (theta, state))

        def inside(theta: Any, mb: Batch = batch) -> Array:
            return self.inside(unravel(theta), mb)

        def fixup(theta: Any, state: Any, order: Array, last: Array) -> tuple[Any, Any, Ends]:
            cut = (self.fixup_minibatches, self.max_sweeps)
            theta, state, r = repair(fix, inside, theta, state, batch, order, *cut)
            # The last word has the whole batch at once, as the ruler sees it.
            sure, start = r.clean & ~last, jnp.where(acts, old, theta)
            theta, walk = walk_back(start, theta, inside, SHRINK, TRIES, sure)
            return theta, state, Ends(r.steps, r.sweeps, ~r.clean, walk.scale)

        def epoch(at: tuple[Any, Any], x: Any) -> tuple[tuple[Any, Any], tuple[Array, Ends]]:
            rows, order, last = x
            (theta, state), losses = jax.lax.scan(primary, at, rows)  # line 5
            due = self.fixup & (last | self.fixup_every_epoch)  # lines 8 to 15
            skip = lambda theta, state, *_: (theta, state, Ends.none(theta.dtype))  # noqa: E731
            theta, state, ends = jax.lax.cond(due, fixup, skip, theta, state, order, last)
            return (theta, state), (jnp.mean(losses), ends)

        order = shuffles(key, self.sgd.epochs, len(batch.mask))
        rows = minibatch_rows(order, self.sgd.minibatches)
        last = jnp.arange(self.sgd.epochs) == self.sgd.epochs - 1
        at, (losses, ends) = jax.lax.scan(epoch, (old, state), (rows, order, last))  # line 4
        info = {"fixpo_loss": jnp.mean(losses), "fixpo_beta": at[1].beta} | ends.report()
        return unravel(at[0]), at[1], info
