"""V-MPO (Song et al., 2020): maximum a posteriori policy optimisation on policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from surefoot.checks import check_count, check_number
from surefoot.distributions import DiagGaussian
from surefoot.divergences import KLOldNew, decoupled
from surefoot.multipliers import init_duals, move_duals
from surefoot.sgd import SGD, sweep
from surefoot.types import Array, Batch, Info, Key, Number, Penalty, no_penalty

LEAST = 1e-8
"""Floor of the dual variables (section 3.2)."""


class Duals(eqx.Module):
    """The dual variables."""

    eta: Array
    """The temperature."""
    alpha: Array
    """[2]: multipliers of the KL's part of the mean and of the covariance; of a distribution that
    is no diagonal Gaussian the first is that of its KL, and the second is not used."""


class VMPOState(eqx.Module):
    """What V-MPO keeps between updates."""

    opt: Any
    """Adam's state for the policy."""
    duals: Duals
    dual_opt: Any
    """Adam's state for the duals."""
    target: Any
    """The target policy, where it is slower than the batch's own; else ()."""
    age: Array
    """Updates done."""


@dataclass(frozen=True)
class VMPO:
    r"""V-MPO (Song et al., 2020, section 3 and eqs. 3 to 5): a non-parametric target distribution
    within a KL of the samples, then a fit to it within a KL of the target policy.

        minimise  L_pi + L_eta + L_alpha, over p, eta and alpha together:
        L_pi    = -sum_i psi_i ln p(a_i|s_i),   psi_i = exp(A_i / eta) / sum_j exp(A_j / eta)
        L_eta   = eta eps_eta + eta ln mean_i exp(A_i / eta)
        L_alpha = mean_s [ alpha (eps_alpha - sg KL) + sg(alpha) KL ],   KL = KL(target || p)

    i and j run over the half of the rows with the larger advantage, the same in both losses; s over
    all rows. psi is a constant of the policy's gradient. For Gaussians L_alpha has two terms with
    multipliers of their own: KL with the new mean and the target's covariance <= target_kl_mean,
    and with the target's mean and the new covariance <= target_kl_cov.

    Each step moves the policy by one Adam and the duals by another, then keeps the duals at 1e-8 or
    above. The target policy is that which gathered the batch; an update of several steps is one
    period T_target of the paper. With `target_every` above 1 the target lags behind: it is the
    policy of up to that many updates ago.

    Departures: equation 14 of the paper has the opposite sign on alpha (eps - KL); equations 5 and
    15 are followed. Advantages come from GAE and are standardised unless asked otherwise, and the
    critic is fitted after the policy (`ValueFit`) unless layers are shared; the paper has n-step
    returns, PopArt and one loss for all. The covariance's part is per state, not per dimension.

    >>> from surefoot import VMPO
    >>> VMPO().fraction
    0.5
    """

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    eps_eta: float = 0.01
    """Bound on the KL of the non-parametric distribution, epsilon_eta (codes after the paper: 0.01
    in Gym, 0.1 from pixels)."""
    target_kl: float = 0.01
    """KL(target || new) that alpha steers towards, epsilon_alpha, for distributions other than
    diagonal Gaussians (codes after the paper: log-uniform in [0.001, 0.01])."""
    target_kl_mean: float = 0.01
    """The same for the Gaussian mean's part (codes after the paper: 0.005 to 0.1)."""
    target_kl_cov: float = 5e-5
    """The same for the Gaussian covariance's part (codes after the paper: 1e-6 to 5e-4)."""
    eta_init: float = 1.0
    """Temperature at the start of the run (codes after the paper: 1)."""
    alpha_init: float = 5.0
    """Multipliers at the start of the run (codes after the paper: 5)."""
    dual_lr: float = 1e-4
    """Rate of the duals' Adam (paper: 1e-4, that of everything)."""
    fraction: float = 0.5
    """Share of the rows, those of largest advantage, that L_pi and L_eta are made of."""
    target_every: int = 1
    """Updates between copies of the policy to the target; 1 makes it the policy that gathered the
    batch."""
    sgd: SGD = SGD(lr=1e-4, epochs=16, minibatches=1, max_grad_norm=None, adam_eps=1e-8)
    """How the losses are minimised: by as many steps as epochs, on the whole batch."""

    def __post_init__(self) -> None:
        for field in ("eps_eta", "target_kl", "target_kl_mean", "target_kl_cov"):
            check_number(self, field, low=0, open_low=True, open_high=True)
        check_number(self, "eta_init", low=LEAST, open_high=True)
        check_number(self, "alpha_init", low=LEAST, open_high=True)
        check_number(self, "dual_lr", low=0, open_high=True)
        check_number(self, "fraction", low=0, high=1, open_low=True)
        check_count(self, "target_every")

    def init(self, policy: Any, key: Key) -> VMPOState:
        """Two optimisers' states, the duals, and the target where it is slower."""
        dtype = jnp.result_type(*jax.tree.leaves(policy))
        duals = Duals(jnp.asarray(self.eta_init, dtype), jnp.full(2, self.alpha_init, dtype))
        target = () if self.target_every == 1 else jax.tree.map(jnp.asarray, policy)
        age = jnp.zeros((), jnp.int32)
        return VMPOState(self.sgd.init(policy), duals, init_duals(duals), target, age)

    def losses(self, p: Any, duals: Duals, mb: Batch) -> tuple[Array, Array, Array]:
        """L_pi, L_eta and L_alpha, with `mb.old` as the target."""
        new, A, eta = p(mb.obs), mb.advantage, duals.eta
        best = top(mb, A, self.fraction)
        largest = jnp.where(jnp.any(mb.mask), mb.max(A), 0)  # NaN among the rows shows
        e = jnp.where(best, jnp.exp(jnp.where(best, A - largest, 0) / eta), 0)
        total, count = jnp.sum(e), jnp.sum(best, dtype=A.dtype)
        psi = jax.lax.stop_gradient(e / jnp.maximum(total, LEAST))
        L_pi = -jnp.sum(psi * jnp.where(best, new.log_prob(mb.action), 0))
        mean = jnp.where(count > 0, total, 1) / jnp.maximum(count, 1)
        L_eta = eta * self.eps_eta + eta * jnp.log(mean) + largest
        return L_pi, L_eta, self.L_alpha(new, duals.alpha, mb)

    def L_alpha(self, new: Any, alpha: Array, mb: Batch) -> Array:
        """The KL's loss: its gradient raises alpha where the KL is above its bound, and draws the
        policy to the target by alpha."""
        gaussian = isinstance(new, DiagGaussian)
        parts = decoupled(new, mb) if gaussian else (KLOldNew()(new, mb),)
        radii = (self.target_kl_mean, self.target_kl_cov) if gaussian else (self.target_kl,)
        sg, total = jax.lax.stop_gradient, jnp.zeros((), mb.advantage.dtype)
        for i, (part, eps) in enumerate(zip(parts, radii, strict=True)):
            kl = mb.mean(part)
            total = total + alpha[i] * (eps - sg(kl)) + sg(alpha[i]) * kl
        return total

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """Several steps on the three losses from `policy` on `batch`."""
        flat: Any
        flat, unravel = ravel_pytree(policy)
        rate, target, seen = self.sgd.rate(batch.progress), (), batch
        if self.target_every > 1:
            due = state.age % self.target_every == 0
            target = jax.tree.map(lambda a, b: jnp.where(due, a, b), policy, state.target)
            seen = replace(batch, old=jax.lax.stop_gradient(target(batch.obs)))

        def loss(flat: Any, duals: Duals, mb: Batch) -> tuple[Array, Array]:
            p = unravel(flat)
            L_pi, L_eta, L_alpha = self.losses(p, duals, mb)
            return L_pi + L_eta + L_alpha + penalty(p, mb), L_pi

        def step(at: Any, mb: Batch) -> tuple[Any, Info]:
            flat, opt, duals, dual_opt = at
            (g, slopes), L_pi = jax.grad(loss, (0, 1), has_aux=True)(flat, duals, mb)
            move: Any
            move, opt = self.sgd.direction.update(g, opt)
            duals, dual_opt = move_duals(duals, slopes, dual_opt, self.dual_lr, LEAST)
            return (flat - rate * move, opt, duals, dual_opt), {"loss": L_pi}

        at = (flat, state.opt, state.duals, state.dual_opt)
        at, infos = sweep(step, at, seen, key, self.sgd.epochs, self.sgd.minibatches)
        flat, opt, duals, dual_opt = at
        info = {"vmpo_loss": jnp.mean(infos["loss"]), "vmpo_eta": duals.eta}
        info |= {"vmpo_alpha": duals.alpha[0]}
        if isinstance(batch.old, DiagGaussian):
            info |= {"vmpo_alpha_cov": duals.alpha[1]}
        return unravel(flat), VMPOState(opt, duals, dual_opt, target, state.age + 1), info


def top(mb: Batch, x: Array, fraction: Number) -> Array:
    """Which rows are among the share `fraction` with the largest x, of those that count; rows that
    equal the last of them are too. [M], False on rows that do not count."""
    count = jnp.sum(mb.mask)
    keep = jnp.maximum(jnp.floor(fraction * count).astype(jnp.int32), 1)
    ordered = jnp.sort(jnp.where(mb.mask, x, -jnp.inf))
    return mb.mask & (x >= ordered[x.shape[0] - keep])
