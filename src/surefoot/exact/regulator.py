"""Linear-quadratic regulators in closed form: utility, gradient and Fisher matrix of a linear
Gaussian policy, and the best gain."""

from __future__ import annotations

import numpy as np

from surefoot.exact.problems import LinearQuadratic
from surefoot.exact.tabular import Array

STEP = 1e-30
"""Of the imaginary axis, for derivatives without differences."""


def moments(problem: LinearQuadratic, gain: Array, std: Array, depth: int) -> Array:
    """E[s s'] at times 1 to `depth`, [depth, n, n], under a ~ N(gain s, diag(std^2)), cut to no
    limit."""
    Ts, Ta, mean = np.array(problem.Ts), np.array(problem.Ta), np.array(problem.start_mean)
    n = len(mean)
    closed = Ts + Ta @ gain
    added = Ta @ np.diag(std**2) @ Ta.T + problem.noise**2 * np.eye(n)
    out = [np.outer(mean, mean) + problem.start_std**2 * np.eye(n)]
    for _ in range(depth - 1):
        out.append(closed @ out[-1] @ closed.T + added)
    return np.array(out)


def utility(problem: LinearQuadratic, gain: Array, std: Array, depth: int) -> Array:
    """Expected discounted return to a depth; numbers may be complex."""
    Rs, Ra = np.array(problem.Rs), np.array(problem.Ra)
    m = moments(problem, gain, std, depth)
    reward = np.einsum("ij,tji->t", Rs + gain.T @ Ra @ gain, m) + np.sum(np.diag(Ra) * std**2)
    return np.sum(problem.gamma ** np.arange(depth) * reward)


def scalar(theta: Array) -> tuple[Array, Array]:
    """Gain [1, 1] and deviation [1] of the textbook's policy N(t1 s, t2^2)."""
    return np.reshape(theta[0], (1, 1)), np.reshape(theta[1], 1)


def gradient(problem: LinearQuadratic, theta: Array, depth: int) -> Array:
    """The true gradient of the utility in theta = [t1, t2], of a problem with one state, [2]."""
    nudged = np.asarray(theta) + 1j * STEP * np.eye(2)
    return np.array([utility(problem, *scalar(t), depth).imag / STEP for t in nudged])


def trajectory_fisher(problem: LinearQuadratic, theta: Array, depth: int) -> Array:
    """The true Fisher matrix of whole trajectories in theta, [2, 2]; that of a step is 1 / depth of
    it."""
    m = moments(problem, *scalar(np.asarray(theta)), depth)
    return np.diag([m.sum(), 2 * depth]) / theta[1] ** 2


def best_gains(problem: LinearQuadratic, depth: int) -> Array:
    """The optimal gain at each of `depth` times, [depth, d, n], by Riccati's recursion (chapter 7).

    At the last time only the reward of the action counts. Where the action costs nothing the
    smallest of the best gains is taken.
    """
    Ts, Ta = np.array(problem.Ts), np.array(problem.Ta)
    Rs, Ra = np.array(problem.Rs), np.array(problem.Ra)
    V, gains = np.zeros_like(Rs), []
    for _ in range(depth):
        gain = -np.linalg.pinv(Ra + problem.gamma * Ta.T @ V @ Ta) @ Ta.T @ V @ Ts * problem.gamma
        closed = Ts + Ta @ gain
        V = Rs + gain.T @ Ra @ gain + problem.gamma * closed.T @ V @ closed
        gains.append(gain)
    return np.array(gains[::-1])
