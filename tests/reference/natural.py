"""Natural policy gradient and TRPO with dense linear algebra (Kakade, 2001; Schulman et al., 2015,
App. C)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def surrogate(net, theta, data):
    """mean of pi(a|s) / old(a|s) * A."""
    return np.mean([np.exp(net.log_prob(theta, s, a) - lp) * adv for s, a, lp, adv in data])


def gradient(net, theta, data):
    """Its gradient: mean of ratio * A * score."""
    total = np.zeros(net.size)
    for s, a, lp, adv in data:
        total += np.exp(net.log_prob(theta, s, a) - lp) * adv * net.score(theta, s, a)
    return total / len(data)


def mean_kl(net, old, new, data):
    """mean over states of KL(old || new)."""
    return np.mean([net.kl(old, new, row[0]) for row in data])


def direction(net, theta, data, damping):
    """(F + damping I)^-1 g and its squared length under the damped matrix."""
    A = net.fisher(theta, [row[0] for row in data]) + damping * np.eye(net.size)
    g = gradient(net, theta, data)
    x = np.linalg.solve(A, g)
    return x, x @ A @ x, g


def npg(net, theta, data, *, lr, max_kl, damping):
    """One step of fixed (`lr`) or normalised (`max_kl`) length."""
    x, curvature, _ = direction(net, theta, data, damping)
    return theta + (lr if max_kl is None else np.sqrt(2 * max_kl / curvature)) * x


class Result(NamedTuple):
    """Where TRPO ended, and how."""

    theta: np.ndarray
    accepted: bool
    backtracks: int


def trpo(
    net,
    theta,
    data,
    *,
    max_kl,
    damping,
    backtrack,
    max_backtracks,
    min_gain_ratio=0.0,
    kl_margin=1e-5,
):
    """The first candidate that improves the surrogate and stays inside, or the old parameters."""
    x, curvature, g = direction(net, theta, data, damping)
    full = np.sqrt(2 * max_kl / curvature) * x
    before = surrogate(net, theta, data)
    for k in range(max_backtracks + 1):
        candidate = theta + backtrack**k * full
        gain = surrogate(net, candidate, data) - before
        promised = min_gain_ratio * backtrack**k * (g @ full)
        inside = mean_kl(net, theta, candidate, data) <= max_kl * (1 - kl_margin)
        if gain > 0 and gain >= promised and inside:
            return Result(candidate, True, k)
    return Result(theta, False, max_backtracks)
