"""PPO with a clipped surrogate by hand: loss, gradient, Adam with a clipped gradient (Schulman et
al., 2017)."""

from __future__ import annotations

import numpy as np


def loss(net, theta, data, clip):
    """minus the mean of min(r A, clip(r) A)."""
    total = 0.0
    for s, a, lp, adv in data:
        r = np.exp(net.log_prob(theta, s, a) - lp)
        total += min(r * adv, min(max(r, 1 - clip), 1 + clip) * adv)
    return -total / len(data)


def gradient(net, theta, data, clip):
    """Rows beyond the clip on the side that A pushes to give nothing, all others r A score."""
    total = np.zeros(net.size)
    for s, a, lp, adv in data:
        r = np.exp(net.log_prob(theta, s, a) - lp)
        flat = (adv > 0 and r > 1 + clip) or (adv < 0 and r < 1 - clip)
        if not flat:
            total += r * adv * net.score(theta, s, a)
    return -total / len(data)


class Adam:
    """Adam (Kingma and Ba, 2015, Algorithm 1) behind a clip of the global norm."""

    def __init__(self, size, lr, eps, max_norm, b1=0.9, b2=0.999):
        self.m, self.v, self.t = np.zeros(size), np.zeros(size), 0
        self.lr, self.eps, self.max_norm, self.b1, self.b2 = lr, eps, max_norm, b1, b2

    def step(self, theta, g):
        """theta after one gradient."""
        norm = np.sqrt(g @ g)
        if self.max_norm is not None and norm >= self.max_norm:
            g = g / norm * self.max_norm
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        m_hat = self.m / (1 - self.b1**self.t)
        v_hat = self.v / (1 - self.b2**self.t)
        return theta - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


def standardise_advantages(data):
    """The rows of a minibatch with the advantage at mean 0 and deviation 1."""
    adv = np.array([row[3] for row in data])
    adv = (adv - adv.mean()) / (adv.std() + 1e-8)
    return [(s, a, lp, x) for (s, a, lp, _), x in zip(data, adv, strict=True)]


def ppo(net, theta, data, rows, adam, clip, normalize):
    """One Adam step for every row of `rows`, each a list of indices into the data."""
    for indices in rows:
        part = [data[i] for i in indices]
        if normalize:
            part = standardise_advantages(part)
        theta = adam.step(theta, gradient(net, theta, part, clip))
    return theta
