"""Proximal Policy Optimization with a KL penalty, adaptive or fixed (Schulman et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.divergences import Divergence, KLOldNew
from surefoot.multipliers import FactorRule
from surefoot.sgd import SGD
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Number, Penalty, no_penalty


class PPOKLState(eqx.Module):
    """What PPO-KL keeps between updates."""

    opt: Any
    """Adam's state for the policy."""
    beta: Array
    """The coefficient of the penalty."""


@dataclass(frozen=True)
class PPOKL:
    r"""Proximal Policy Optimization, KL penalty (Schulman et al., 2017, section 4, eq. 8).

        maximise  mean[ r A - beta KL(old || p) ],   r = p(a|s) / old(a|s)

    by Adam over shuffled minibatches. After the update, with d the mean KL over the batch:
    d < target_kl / 1.5 halves beta, d > 1.5 target_kl doubles it. d_targ = target_kl. Nothing is
    promised: a step that went too far is not undone, it only makes the next ones shorter.

    `rule=FactorRule(down=1, up=1)` is the fixed penalty (paper: beta of 0.3, 1, 3 or 10).

    Departures: beta is kept between `rule.floor` and `rule.ceiling`; the critic is fitted after the
    policy by its own passes (`ValueFit`) unless layers are shared.

    >>> from surefoot import PPOKL
    >>> PPOKL(target_kl=0.03).rule.up
    2.0
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    target_kl: float = 0.01
    """Mean KL that beta steers towards, d_targ (paper: 0.003, 0.01, 0.03; 0.01 is best)."""
    beta_init: float = 1.0
    """The coefficient at the start of the run."""
    rule: FactorRule = FactorRule()
    """How beta follows the KL."""
    divergence: Divergence = KLOldNew()
    """Direction of the KL, in the penalty and in the rule: `old_new` as in the paper, or `new_old`
    (an option of modular_rl)."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "target_kl", low=0, open_low=True, open_high=True)
        check_number(self, "beta_init", low=self.rule.floor, high=self.rule.ceiling)

    def init(self, policy: Any, key: Key) -> PPOKLState:
        """The optimiser's state and beta."""
        dtype = jnp.result_type(*jax.tree.leaves(policy))
        return PPOKLState(self.sgd.init(policy), jnp.asarray(self.beta_init, dtype))

    def objective(self, new: Any, batch: Batch, beta: Number) -> tuple[Array, Info]:
        """r A - beta KL (eq. 8), [M]."""
        return ratio(new, batch) * batch.advantage - beta * self.divergence(new, batch), {}

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch ascent, then a step of beta by the KL of the whole batch."""
        L = lambda new, mb: self.objective(new, mb, state.beta)  # noqa: E731
        policy, opt, info = self.sgd.maximise(L, policy, state.opt, batch, key, penalty, "ppo_kl")
        d = batch.mean(self.divergence(policy(batch.obs), batch))
        beta = self.rule(state.beta, d, self.target_kl)
        return policy, PPOKLState(opt, beta), info | {"ppo_kl_beta": beta}
