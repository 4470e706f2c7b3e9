"""FixPO by hand: both phases on a parameter vector, gradients of the KL in closed form (Zentner et
al., 2023, Algorithm 1)."""

from __future__ import annotations

import numpy as np

from reference.natural import gradient
from reference.proximal import Adam


def kl_slope(net, old, new, s, reverse):
    """Gradient in `new` of KL(old || new) at one state, or of KL(new || old)."""
    p, q = net.outputs(old, s), net.outputs(new, s)
    if net.kind == "categorical":
        log_p, log_q = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in (p, q))
        gap = log_q - log_p
        by_output = (
            np.exp(log_q) * (gap - np.exp(log_q) @ gap)
            if reverse
            else np.exp(log_q) - np.exp(log_p)
        )
    else:
        k = net.k
        d, vp, vq = q[:k] - p[:k], np.exp(2 * p[k:]), np.exp(2 * q[k:])
        parts = (d / vp, vq / vp - 1) if reverse else (d / vq, 1 - (vp + d**2) / vq)
        by_output = np.concatenate(parts)
    return by_output @ net.jacobian(new, s)


class FixPO:
    """Parameters, multiplier and the Adams of both; `trace` says what happened."""

    def __init__(self, net, theta, adam, *, max_kl, c_beta, beta, beta_lr, mean, reverse, margin):
        self.net, self.theta, self.adam = net, theta, adam
        self.max_kl, self.c_beta, self.mean, self.reverse = max_kl, c_beta, mean, reverse
        self.beta, self.beta_adam = beta, Adam(1, beta_lr, 1e-8, None)
        self.limit = max_kl * (1 - margin)
        self.steps, self.looks, self.betas = 0, 0, []

    def kls(self, data):
        """The KL of every row from the old parameters."""
        at = (self.theta, self.old) if self.reverse else (self.old, self.theta)
        return np.array([self.net.kl(*at, row[0]) for row in data])

    def far(self, kls):
        """The statistic that is bounded."""
        return kls.mean() if self.mean else kls.max()

    def move(self, g, kls):
        """A step of both, from one KL."""
        self.theta = self.adam.step(self.theta, g)
        slope = np.array([self.max_kl - self.c_beta * self.far(kls)])
        self.beta = max(0.0, self.beta_adam.step(np.array([self.beta]), slope)[0])
        self.betas.append(self.beta)

    def pull(self, data):
        """beta times the gradient of the mean KL over all rows."""
        slopes = [kl_slope(self.net, self.old, self.theta, row[0], self.reverse) for row in data]
        return self.beta * np.mean(slopes, axis=0)

    def primary(self, data):
        """Lines 6 and 7."""
        kls, g = self.kls(data), gradient(self.net, self.theta, data)
        self.move(-g + self.pull(data), kls)

    def fixup(self, chunks):
        """Lines 8 to 15: round and round until as many chunks in a row as there are were inside."""
        streak = 0
        while streak < len(chunks):
            data = chunks[self.looks % len(chunks)]
            kls = self.kls(data)
            self.looks += 1
            streak += 1
            if not self.far(kls) <= self.limit:
                self.move(self.pull(data), kls)
                self.steps += 1
                streak = 0

    def update(self, data, order, minibatches, chunks, every_epoch=True):
        """One update; `order` is a permutation of the rows for every epoch."""
        self.old = self.theta
        size = len(data) // minibatches
        for number, rows in enumerate(order):
            for m in range(minibatches):
                self.primary([data[i] for i in rows[m * size : (m + 1) * size]])
            if every_epoch or number == len(order) - 1:
                cut = -(-len(data) // chunks)
                self.looks = 0
                parts = [[data[i] for i in rows[c * cut : (c + 1) * cut]] for c in range(chunks)]
                self.fixup(parts)
                assert self.far(self.kls(data)) <= self.limit
        return self.theta
