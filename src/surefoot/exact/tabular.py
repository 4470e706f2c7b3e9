"""Tabular Markov decision processes: value, advantage, visitation and performance of a policy by
linear solves in float64, for one problem or for a stack of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from surefoot.checks import require

Array = Any
"""A NumPy array, or a NumPy number where no axes are left."""
ROUNDING = 1e-9
"""How far probabilities may be from summing to one."""


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A Markov decision process with S states and A actions, or a stack of them (leading axes
    `...`, the same for all fields).

    Raises `UsageError` where shapes do not agree or probabilities do not sum to one.
    """

    transition: Array
    """P(s'|s, a), [..., S, A, S]."""
    reward: Array
    """Expected reward r(s, a), [..., S, A]."""
    start: Array
    """Distribution of the first state, [..., S]."""
    gamma: float | Array
    """Discount in [0, 1); a number, or one a problem, [...]."""

    def __post_init__(self) -> None:
        shape = np.shape(self.reward)
        fits = len(shape) >= 2 and np.shape(self.transition) == (*shape, shape[-2])
        require(fits, self, "transition", np.shape(self.transition), "[..., S, A, S]")
        require(np.shape(self.start) == shape[:-1], self, "start", np.shape(self.start), "[..., S]")
        for name in ("transition", "start"):
            p = getattr(self, name)
            sums = bool(np.all(p >= 0) and np.all(np.abs(p.sum(-1) - 1) <= ROUNDING))
            require(sums, self, name, "not a distribution", "probabilities that sum to one")
        discount = np.asarray(self.gamma)
        require(discount.shape in ((), shape[:-2]), self, "gamma", discount.shape, "[] or [...]")
        ok = bool(np.all((discount >= 0) & (discount < 1)))
        require(ok, self, "gamma", self.gamma, "numbers in [0, 1)")

    @property
    def discount(self) -> Array:
        """gamma of each problem, [...]."""
        return np.broadcast_to(np.asarray(self.gamma, float), np.shape(self.reward)[:-2])


class Evaluation(NamedTuple):
    """All that is known of a policy in a problem."""

    value: Array
    """V(s), [..., S]."""
    action_value: Array
    """Q(s, a), [..., S, A]."""
    advantage: Array
    """A(s, a) = Q(s, a) - V(s), [..., S, A]."""
    visitation: Array
    """Unnormalised discounted visitation rho(s) = sum_t gamma^t P(s_t = s), [..., S]; sums to
    1 / (1 - gamma)."""
    performance: Array
    """eta = E[sum_t gamma^t r_t], [...]."""


def under(mdp: TabularMDP, policy: Array) -> tuple[Array, Array]:
    """State-to-state probabilities [..., S, S] and expected rewards [..., S] of a policy
    [..., S, A]."""
    moves = np.einsum("...sa,...sat->...st", policy, mdp.transition)
    return moves, np.sum(policy * mdp.reward, -1)


def evaluate(mdp: TabularMDP, policy: Array) -> Evaluation:
    """Value, action value, advantage, visitation and performance of a policy [..., S, A], each by
    one linear solve.

    A policy of complex numbers is allowed, so that derivatives can be taken by a complex step.
    """
    moves, reward = under(mdp, policy)
    gamma = mdp.discount[..., None, None]
    system = np.eye(reward.shape[-1]) - gamma * moves
    value = np.linalg.solve(system, reward[..., None])[..., 0]
    action_value = mdp.reward + gamma * np.einsum("...sat,...t->...sa", mdp.transition, value)
    start = np.broadcast_to(mdp.start, reward.shape)
    visitation = np.linalg.solve(np.swapaxes(system, -1, -2), start[..., None])[..., 0]
    performance = np.sum(start * value, -1)
    return Evaluation(value, action_value, action_value - value[..., None], visitation, performance)


def surrogate(old: Evaluation, policy: Array) -> Array:
    """L_old(policy) = eta(old) + sum_s rho_old(s) sum_a policy(a|s) A_old(s, a), [...] (Schulman et
    al., 2015, eq. 3)."""
    return old.performance + np.sum(old.visitation * expected(policy, old.advantage), -1)


def expected(policy: Array, x: Array) -> Array:
    """E_{a ~ policy(.|s)} x(s, a), [..., S]."""
    return np.sum(policy * x, -1)


def greedy(x: Array) -> Array:
    """The policy that takes the action with the largest x(s, a), the first of equals, [..., S,
    A]."""
    return np.eye(x.shape[-1])[np.argmax(x, -1)]


def kl(p: Array, q: Array) -> Array:
    """KL(p || q) over the last axis, [...]; infinite where q lacks what p has.

    A sum of p (exp(d) - 1 - d) with d = log(q / p), plus q where p is zero: every term is
    non-negative, so that nothing cancels where the two are close.
    """
    has = p > 0
    with np.errstate(divide="ignore"):
        d = np.log(np.where(has, q, 1)) - np.log(np.where(has, p, 1))
    small = np.abs(d) < 0.01
    x = np.where(small, d, 0)
    series = x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x / 720))))
    with np.errstate(over="ignore"):
        gap = np.where(small, series, np.expm1(np.where(small, 0, d)) - d)
    far = np.where(has, q, 0) - p - p * np.where(has & np.isfinite(d), d, 0)
    term = np.where(d > 1, far, np.where(has, p, 0) * np.where(has, gap, 0))
    return np.sum(np.where(has, term, q), -1)


def tv(p: Array, q: Array) -> Array:
    """Total variation sum |p - q| / 2 over the last axis, [...]."""
    return np.sum(np.abs(p - q), -1) / 2


def optimal(mdp: TabularMDP, most: int = 1000) -> Array:
    """An optimal policy by Howard's policy iteration, [..., S, A].

    Raises `ArithmeticError` if it has not settled after `most` rounds.
    """
    policy = greedy(mdp.reward)
    for _ in range(most):
        a = evaluate(mdp, policy).advantage
        better = a.max(-1, keepdims=True) > 1e-12 * (1 + np.abs(a).max())
        new = np.where(better, greedy(a), policy)
        if np.array_equal(new, policy):
            return policy
        policy = new
    raise ArithmeticError(f"policy iteration has not settled after {most} rounds")


def random_problems(rng: np.random.Generator, n: int, states: int, actions: int) -> TabularMDP:
    """`n` random problems: Dirichlet transitions of random sparsity, normal rewards of random
    scale, discounts between 0.5 and 0.99."""
    concentration = rng.choice([0.1, 0.5, 1.0, 5.0], n)
    transition = dirichlet(rng, concentration[:, None, None], (n, states, actions, states))
    reward = rng.normal(size=(n, states, actions)) * 10.0 ** rng.uniform(-1, 1, (n, 1, 1))
    start = dirichlet(rng, concentration, (n, states))
    return TabularMDP(transition, reward, start, 1 - 10.0 ** rng.uniform(-2, np.log10(0.5), n))


def dirichlet(rng: np.random.Generator, concentration: float | Array, shape: tuple) -> Array:
    """Random distributions over the last axis of `shape`, symmetric with a concentration a row."""
    x = rng.standard_gamma(np.asarray(concentration)[..., None], shape) + 1e-12
    return x / x.sum(-1, keepdims=True)
