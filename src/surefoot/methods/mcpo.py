"""Memory-Constrained Policy Optimization (Le et al., 2022): a second trust region round a virtual
policy, blended from a memory of past policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from surefoot.checks import check_count, check_number
from surefoot.divergences import KLOldNew, counted
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
from surefoot.multipliers import BetaRule, SwitchingBeta
from surefoot.sgd import SGD, sweep
from surefoot.surrogates import ratio
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty

QUERY = 10
"""Step of an update at which the attention is reported (the paper's Figure 1a queries the tenth
step after the old policy)."""


class MCPOState(eqx.Module):
    """What MCPO keeps between updates."""

    opt: Any
    """Adam's state for theta."""
    memory: Store
    """Past policies, the memory M."""
    blend: Any
    """The attention network with its own optimiser; `()` for a blend that is not learned."""
    psi: Array
    """The last virtual policy, psi_old, [P]."""
    beta: Array
    """What the rule of beta keeps."""
    step: Array
    """Minibatch steps of the run."""


@dataclass(frozen=True)
class MCPO:
    r"""Memory-Constrained Policy Optimization (Le et al., 2022, Algorithm 1).

        psi   = sum_i f_phi(v)_i theta_i       over a queue M of at most N past policies       (1)
        theta maximises  L1 = mean[ tau(theta) A ]                                             (3)
                              - beta mean[ (1 - alpha) KL(old || theta) + alpha KL(psi || theta) ]
        phi   maximises  L2 = mean[ tau(psi) A ]                                               (5)
        alpha = e^R(psi) / (e^R(psi) + e^R(old)) = sigmoid(A (tau(psi) - 1))  a row
        beta  = beta_max if D(old, theta) > D(old, psi), else beta_min                         (4)
        theta joins M   if D(theta, psi) > D(old, psi), after its step                         (2)

    tau(x) = x(a|s) / old(a|s), R(x) = tau(x) A, D(a, b) = mean KL(a || b), all over the minibatch;
    v is the context of theta, old and the last psi (`surefoot.memory.context`). N = memory_size.
    One is fixed while the other is optimised: no gradient passes through v, M, alpha, beta, nor
    into psi from L1. While M is empty psi is the last psi, at the start the first policy.

    The ablations of section 4.5: `alpha=0.0`, `0.5`, `1.0`; `beta=AnnealedBeta()`,
    `AdaptiveBeta()`; `writing=EveryStep(1)`, `(10)`, `(100)`; `blend=MeanBlend()`,
    `Attention(half_context=True)`; `memory_size` 5, 10, 40. With `alpha=0.0` and
    `beta=ConstantBeta(b)` it is PPO with the fixed penalty b, bit for bit: the same operations in
    the same order.

    Stored policies are whole parameter vectors, the value head included where policy and critic are
    one tree (`Networks(joint=True)` or shared layers, as the presets have it); with a critic of its
    own the value losses of the context are all those of the batch. All policies see observations
    normalised with the statistics of today.

    Departures: the list of context features, the attention's width, dropout, activation and
    optimiser were in an appendix that is lost, as were minibatches, epochs and rates: named fields,
    our choice; log-ratios of psi are cut at +-20; distances that differ by less than their
    rounding are a tie (psi is often theta itself: right after the first write, and whenever the
    attention is all on the newest). The paper's appendix claims monotone improvement;
    at beta_min nothing of the kind holds, and nothing is promised here.

    >>> from surefoot import MCPO
    >>> MCPO(memory_size=40).beta.high
    10.0
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    memory_size: int = 10
    """Policies remembered, N (paper: 5, 10 or 40; 10 on BipedalWalkerHardcore and Atari)."""
    alpha: float | None = None
    """Weight of the virtual region; none: by the returns, a row (the paper's). 0, 0.5 and 1 are its
    ablations."""
    beta: BetaRule = SwitchingBeta()
    """How strongly both regions hold."""
    writing: Writing = Diverse()
    """When a policy is stored."""
    blend: Blend = Attention()
    """How stored policies become psi."""
    first_policy: bool = False
    """Whether the memory starts with the first policy rather than empty; the paper does not say."""
    sgd: SGD = SGD(lr=3e-4, epochs=10, minibatches=32, anneal=True)
    """How theta is moved; the attention has its epsilon and, unless it says otherwise, its rate.
    Our choice, after the code base the authors built on: the paper states none of it."""

    def __post_init__(self) -> None:
        check_count(self, "memory_size")
        check_number(self, "alpha", low=0, high=1, optional=True)

    def init(self, policy: Any, key: Key) -> MCPOState:
        """Optimisers, an empty memory (or one of the first policy), and psi = theta."""
        theta: Any = ravel_pytree(policy)[0]
        zero = jnp.zeros((), jnp.int32)
        memory = Store.empty(self.memory_size, policy)
        return MCPOState(
            opt=self.sgd.init(policy),
            memory=memory.push(theta, zero, jnp.asarray(self.first_policy)),
            blend=self.blend.init(self.memory_size, key, theta.dtype),
            psi=theta,
            beta=jnp.asarray(self.beta.first, theta.dtype),
            step=zero,
        )

    def share(self, tau: Array, batch: Batch) -> Array:
        """alpha of every row, [M], from the ratios of psi (section 3.2)."""
        if self.alpha is not None:
            return jnp.full_like(tau, self.alpha)
        return jax.nn.sigmoid(batch.advantage * (tau - 1))

    def L1(self, p: Any, psi: Any, alpha: Array, beta: Array, batch: Batch) -> Array:
        """tau A - beta ((1 - alpha) KL(old || p) + alpha KL(psi || p)), [M] (eq. 3); `psi` is a
        distribution."""
        new = p(batch.obs)
        # In PPO-KL's order, so that the gradients of the terms are summed as there.
        gain = ratio(new, batch) * batch.advantage
        if isinstance(self.alpha, (int, float)) and self.alpha == 0:
            # (1 - 0) KL + 0 KL has the value of KL, but a compiler contracts its products with
            # their sums, and the last bits are then other than PPO-KL's.
            return gain - beta * KLOldNew()(new, batch)
        near = (1 - alpha) * KLOldNew()(new, batch) + alpha * psi.kl(counted(new, batch))
        return gain - beta * near

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several epochs of minibatch steps of theta and of the attention in turn."""
        theta: Any
        unravel: Any
        theta, unravel = ravel_pytree(policy)
        lr, k_blend = self.sgd.rate(batch.progress), jax.random.fold_in(key, 1)
        rate = Rate(lr, self.sgd.share(batch.progress), self.sgd.adam_eps)
        draw = lambda t: self.blend.draw(self.memory_size, jax.random.fold_in(k_blend, t))  # noqa: E731
        chances = jax.vmap(draw)(state.step + jnp.arange(self.sgd.epochs * self.sgd.minibatches))

        def step(at: tuple[Any, MCPOState, Array], mb: Batch) -> tuple[Any, Info]:
            theta, s, due = at
            # What line 6 of the step before decided; done here, where all reads come after the
            # write, the memory is not copied.
            memory = s.memory.push(theta, s.step, due)
            v = context(view(unravel(theta), mb), view(unravel(s.psi), mb), mb)
            chance = jax.tree.map(lambda x: x[s.step - state.step], chances)
            w = self.blend.weights(s.blend, v, memory, chance)

            psi, dist, tau, gain, slope = virtual(memory, w, s.psi, unravel, mb)  # eq. 1
            alpha, d_psi = self.share(tau, mb), distance(mb.old, dist, mb)
            beta = self.beta(s.beta, v[2], d_psi, batch.progress)  # eq. 4

            def loss(theta: Array) -> Array:
                p = unravel(theta)
                return penalty(p, mb) - mb.mean(self.L1(p, dist, alpha, beta, mb))

            value, g = jax.value_and_grad(loss)(theta)
            move: Any
            move, opt = self.sgd.direction.update(g, s.opt)
            theta = theta - lr * move  # line 5: theta, then phi
            blend = self.blend.move(s.blend, slope, v, memory, chance, rate)
            far = distance(unravel(theta)(mb.obs), dist, mb)
            write = self.writing(far, d_psi, s.step + 1)  # line 6
            after = MCPOState(opt, memory, blend, psi, s.beta, s.step + 1)  # line 9
            slot = jnp.argmax(w)
            born = memory.by_age(memory.born)[slot]
            return (theta, after, write), {
                "loss": value,
                "alpha": mb.mean(alpha),
                "alpha_spread": jnp.sqrt(mb.mean((alpha - mb.mean(alpha)) ** 2)),
                "beta": beta,
                "kl_old_theta": v[2],
                "kl_old_psi": d_psi,
                "kl_theta_psi": far,
                "psi_gain": gain - mb.mean(mb.advantage),
                "attention_entropy": -jnp.sum(jax.scipy.special.xlogy(w, w)),
                "attention": w,
                "slot": slot,
                "attended": jnp.where(memory.filled > 0, born, -1),
                "written": write,
            }

        start = (theta, state, jnp.zeros((), bool))
        (theta, after, due), told = sweep(
            step, start, batch, key, self.sgd.epochs, self.sgd.minibatches
        )
        policy = unravel(theta)
        d = batch.mean(KLOldNew()(policy(batch.obs), batch))
        memory = after.memory.push(theta, after.step, due)
        kept = (memory, self.beta.after(state.beta, d))
        after = eqx.tree_at(lambda s: (s.memory, s.beta), after, kept)
        return policy, after, self.report(state, after, told)

    def report(self, before: MCPOState, after: MCPOState, told: Info) -> Info:
        """What the steps told, [steps, ...], as the columns of an update."""
        at = min(QUERY, len(told["written"])) - 1
        query = before.step + at + 1
        attended = told["attended"][at]
        one = {k: told[k][at] for k in ("attention", "slot", "attended")}
        own = {
            "written": told["written"],
            "writes": jnp.sum(told["written"]),
            "filled": after.memory.filled,
            "step": before.step,
            "query": query,
            "age": jnp.where(attended < 0, 0, query - attended),
        }
        means = {k: jnp.mean(x) for k, x in told.items() if k not in (*one, *own)}
        return {f"mcpo_{k}": x for k, x in (means | one | own).items()}
