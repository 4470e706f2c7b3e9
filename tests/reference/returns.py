"""Advantages by the definitions, one step at a time."""

from __future__ import annotations

import numpy as np


def td_errors(reward, value, next_value, terminated, gamma):
    """r + gamma V(s') - V(s), with V(s') = 0 where nothing follows."""
    delta = np.zeros_like(value)
    for t in range(value.shape[0]):
        for n in range(value.shape[1]):
            bootstrap = 0.0 if terminated[t, n] else next_value[t, n]
            delta[t, n] = reward[t, n] + gamma * bootstrap - value[t, n]
    return delta


def gae(reward, value, next_value, terminated, truncated, gamma, lam):
    """sum_k (gamma lam)^k delta[t + k] up to the end of the episode or of the rollout (2016, eq.
    16)."""
    delta = td_errors(reward, value, next_value, terminated, gamma)
    out = np.zeros_like(value)
    steps, envs = value.shape
    for n in range(envs):
        for t in range(steps):
            for k in range(t, steps):
                out[t, n] += (gamma * lam) ** (k - t) * delta[k, n]
                if terminated[k, n] or truncated[k, n]:
                    break
    return out


def returns(reward, next_value, terminated, truncated, gamma):
    """Discounted rewards up to an end, plus the value of what was cut off there or at the rollout's
    last row."""
    out = np.zeros_like(reward)
    steps, envs = reward.shape
    for n in range(envs):
        for t in range(steps):
            for k in range(t, steps):
                out[t, n] += gamma ** (k - t) * reward[k, n]
                if terminated[k, n]:
                    break
                if truncated[k, n] or k == steps - 1:
                    out[t, n] += gamma ** (k - t + 1) * next_value[k, n]
                    break
    return out


def standardise(x, mask):
    """Mean 0 and deviation 1 over the rows that count, 0 elsewhere."""
    rows = x[mask]
    out = np.zeros_like(x)
    out[mask] = (rows - rows.mean()) / (rows.std() + 1e-8)
    return out
