"""Lower bounds on the performance of a new policy, and the identities they come from, evaluated
exactly."""

from __future__ import annotations

import numpy as np

from surefoot.exact.tabular import (
    Array,
    Evaluation,
    TabularMDP,
    evaluate,
    expected,
    kl,
    surrogate,
    tv,
)

TRPO_FACTOR, PINSKER_FACTOR = 4.0, 2.0
"""C = factor * epsilon gamma / (1 - gamma)^2: 4 as in TRPO (from TV^2 <= KL), 2 as in TREFree (from
TV^2 <= KL / 2, Pinsker's inequality)."""


def largest_advantage(old: Evaluation) -> Array:
    """epsilon = max over s and a of |A(s, a)|, [...] (of TRPO's theorem 1)."""
    return np.max(np.abs(old.advantage), (-2, -1))


def penalty(mdp: TabularMDP, old: Evaluation, factor: float = TRPO_FACTOR) -> Array:
    """C of TRPO's equation 9, [...]: what a unit of the worst state's KL costs."""
    gamma = mdp.discount
    return factor * largest_advantage(old) * gamma / (1 - gamma) ** 2


def tv_bound(mdp: TabularMDP, policy: Array, new: Array, sharp: bool = False) -> Array:
    """L - 4 epsilon gamma alpha^2 / (1 - gamma)^2 with alpha the worst state's total variation,
    [...] (TRPO, theorem 1); `sharp` divides by (1 - gamma)(1 - gamma(1 - alpha)) instead, which the
    proof gives before it is simplified (appendix A)."""
    old, gamma = evaluate(mdp, policy), mdp.discount
    alpha = np.max(tv(policy, new), -1)
    scale = (1 - gamma) * (1 - gamma * (1 - alpha)) if sharp else (1 - gamma) ** 2
    return surrogate(old, new) - 4 * largest_advantage(old) * gamma * alpha**2 / scale


def kl_bound(mdp: TabularMDP, policy: Array, new: Array, factor: float = TRPO_FACTOR) -> Array:
    """L - C max_s KL(policy || new), [...] (TRPO, equation 9), with either published constant."""
    old = evaluate(mdp, policy)
    return surrogate(old, new) - penalty(mdp, old, factor) * np.max(kl(policy, new), -1)


def shaped_advantage(mdp: TabularMDP, f: Array) -> Array:
    """r(s, a) + gamma E[f(s')] - f(s), [..., S, A], for any f [..., S] (Achiam et al., 2017).

    TREFree's definition 3.1 prints it without gamma; then its proposition 3.2 does not hold.
    """
    after = np.einsum("...sat,...t->...sa", mdp.transition, f)
    return mdp.reward + mdp.discount[..., None, None] * after - f[..., None]


def difference(mdp: TabularMDP, policy: Array, new: Array, f: Array) -> Array:
    """eta(new) - eta(policy) through any f, [...] (TREFree, proposition 3.2): E_new[A_f] -
    E_policy[A_f], each under its own unnormalised visitation. With f = V(policy) the second term is
    zero, and it is the performance-difference lemma of Kakade and Langford (2002)."""
    a = shaped_advantage(mdp, f)
    mass = lambda p: np.sum(evaluate(mdp, p).visitation * expected(p, a), -1)  # noqa: E731
    return mass(new) - mass(policy)


def trefree_bound(mdp: TabularMDP, policy: Array, new: Array, f: Array) -> Array:
    """eta(policy) + G - 2 gamma / (1 - gamma) (delta + epsilon), [...] (TREFree, theorem 3.3).

    G = sum_s rho(s) sum_a (new - policy) A_f; delta = max_{s,a} |(ratio - 1) A_f|; epsilon is
    printed as |sum_a policy A_f| of an unnamed state: it is the largest over states that the proof
    needs. Ratios to actions that `policy` never takes are infinite.
    """
    old, a, gamma = evaluate(mdp, policy), shaped_advantage(mdp, f), mdp.discount
    gain = np.sum(old.visitation * expected(new - policy, a), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(policy > 0, new / policy, np.where(new > 0, np.inf, 1))
        delta = np.max(np.where(ratio == 1, 0, np.abs((ratio - 1) * a)), (-2, -1))
    epsilon = np.max(np.abs(expected(policy, a)), -1)
    return old.performance + gain - 2 * gamma / (1 - gamma) * (delta + epsilon)
