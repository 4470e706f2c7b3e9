"""The simple regulator of Kochenderfer et al., ch. 12 in closed form.

s ~ N(0.3, 0.1^2), s' ~ N(s + a, 0.1^2), r = -s^2, a ~ N(t1 s, t2^2), depth d, no discount.
"""

from __future__ import annotations

import numpy as np


def second_moments(theta, d=10):
    """E[s_t^2], t = 1 .. d."""
    m = [0.10]
    for _ in range(d - 1):
        m.append((1 + theta[0]) ** 2 * m[-1] + theta[1] ** 2 + 0.01)
    return np.array(m)


def utility(theta, d=10):
    """Expected return."""
    return -second_moments(theta, d).sum()


def trajectory_fisher(theta, d=10):
    """Diagonal of the Fisher matrix of whole trajectories; that of a step is 1/d of it."""
    return np.array([second_moments(theta, d).sum() / theta[1] ** 2, 2 * d / theta[1] ** 2])


def value_coefficients(theta, d=10):
    """p and c with V_t(s) = -p_t s^2 - c_t, t = 1 .. d + 1."""
    p, c = np.zeros(d + 2), np.zeros(d + 2)
    for t in range(d, 0, -1):
        p[t] = 1 + (1 + theta[0]) ** 2 * p[t + 1]
        c[t] = c[t + 1] + p[t + 1] * (theta[1] ** 2 + 0.01)
    return p, c
