"""The best policy in a KL ball round another, one state at a time: the inner problem of exact
policy iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from surefoot.exact.tabular import Array

TINY = -690.0
"""Log of the smallest distance between multiplier and best value that is looked at."""
SETTLED = 4e-16
"""Relative width at which a bracket is a root."""


def root(f: Callable[[Array], Array], low: Array, high: Array, most: int = 100) -> Array:
    """Where f changes sign between `low` and `high`, elementwise (Chandrupatla, 1997): inverse
    quadratic steps where they are safe, bisection elsewhere. Where there is no change of sign the
    end with the smaller |f|."""
    a, b = np.array(low, float), np.array(high, float)
    fa, fb = f(a), f(b)
    bracketed = np.sign(fa) != np.sign(fb)
    nearest = np.where(np.abs(fa) < np.abs(fb), a, b)
    t = np.full(a.shape, 0.5)
    for _ in range(most):
        x = a + t * (b - a)
        fx = f(x)
        same = np.sign(fx) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        with np.errstate(all="ignore"):
            least = SETTLED * (1 + np.abs(best)) / np.abs(b - a)
            done = ~(least < 0.5) | (fa == 0) | (fb == 0) | ~bracketed
            if done.all():
                break
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
            first = fa / (fb - fa) * fc / (fb - fc)
            second = (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
            t = np.where(smooth, first + second, 0.5)
        t = np.where(done, 0.0, np.clip(np.where(np.isfinite(t), t, 0.5), least, 1 - least))
    return np.where(bracketed, np.where(np.abs(fa) < np.abs(fb), a, b), nearest)


class Inner(NamedTuple):
    """Solutions of the inner problem, one a state."""

    policy: Array
    """[..., A]."""
    multiplier: Array
    """What a little more budget would gain, d(optimum) / d(budget), [...]."""


def maximise_in_ball(old: Array, x: Array, budget: Array) -> Inner:
    """Maximise sum_a policy(a) x(a) subject to KL(old || policy) <= budget, for every state.

    `old` and `x` are [..., A], `budget` > 0 is [...]. The solution is policy(a) = m old(a) /
    (nu - x(a)) with nu > max x, not the exponential tilt (which solves the same with the KL turned
    round): m is fixed by normalisation and nu, the one unknown, by the budget. Actions that `old`
    never takes cost nothing in this KL but what they take from the others: where one of them is
    best, nu is at most its x and the rest of the budget goes to it.
    """
    has = old > 0
    top = np.max(np.where(has, x, -np.inf), -1)
    span = top - np.min(np.where(has, x, np.inf), -1)
    flat = span <= 1e-14 * np.abs(top)
    below = np.where(has & ~flat[..., None], top[..., None] - x, 0)
    lift = np.sum(old * below, -1)  # of the best value over the mean
    centred = np.where(has, lift[..., None] - below, 0)

    def shape(u: Array) -> tuple[Array, Array]:
        """KL at nu = top + exp(u), and 1 / sum old / (nu - x)."""
        g = np.exp(u)
        d = lift + g
        share = centred / d[..., None]
        rest = (below + g[..., None]) / d[..., None]  # 1 - share, without cancellation at the top
        near = np.abs(share) < 0.5
        log = np.where(near, np.log1p(np.where(near, -share, 0)), np.log(rest))
        excess = np.sum(old * share**2 / rest, -1)
        return np.sum(old * log, -1) + np.log1p(excess), d / (1 + excess)

    def short(u: Array) -> Array:
        return np.log(np.maximum(shape(u)[0], 1e-300)) - np.log(budget)

    scale = np.where(flat, 1, span)
    high = np.log(scale) + np.log1p(np.sqrt(2 / budget))
    u = np.where(flat, np.log(scale), root(short, np.full(high.shape, TINY), high))
    lead = np.max(x, -1) - top  # of an action that is never taken
    ahead = lead > 0
    u = np.where(ahead, np.maximum(u, np.log(np.where(ahead, lead, 1))), u)
    kl, m = shape(u)
    weight = np.where(has, old * m[..., None] / (below + np.exp(u)[..., None]), 0)
    policy = np.where(flat[..., None], old, weight / np.sum(weight, -1, keepdims=True))
    left = budget - np.where(flat, 0, kl)
    jump = np.where(ahead & (left > 0), -np.expm1(-np.maximum(left, 0)), 0)
    policy = (1 - jump)[..., None] * policy + jump[..., None] * np.eye(x.shape[-1])[
        np.argmax(x, -1)
    ]
    # A flat state gains nothing from more budget, unless by an action that is never taken.
    multiplier = np.where(flat, np.where(ahead, (1 - jump) * lead, 0), (1 - jump) * m)
    return Inner(policy, multiplier)
