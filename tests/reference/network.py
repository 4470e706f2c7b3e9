"""A policy with one tanh layer: distribution, log-probability, score and KL, derivatives by hand
and by complex step.

Parameters are one vector: W1 [n, h], b1 [h], W2 [h, k], b2 [k], then for Gaussians either the
log-deviations [k] or, where they depend on the state, W3 [h, k], b3 [k].
"""

from __future__ import annotations

import numpy as np

KINDS = ("categorical", "gaussian", "gaussian_state")


class Net:
    """Shapes of a policy, and everything that can be computed from a parameter vector."""

    def __init__(
        self, kind: str, n: int, h: int, k: int, low: float = -5.0, high: float = 2.0
    ) -> None:
        assert kind in KINDS
        self.kind, self.n, self.h, self.k, self.low, self.high = kind, n, h, k, low, high
        self.shapes = [(n, h), (h,), (h, k), (k,)]
        self.shapes += {"categorical": [], "gaussian": [(k,)], "gaussian_state": [(h, k), (k,)]}[
            kind
        ]
        self.size = sum(int(np.prod(s)) for s in self.shapes)

    def split(self, theta):
        """The vector as its arrays."""
        out, at = [], 0
        for shape in self.shapes:
            count = int(np.prod(shape))
            out.append(theta[at : at + count].reshape(shape))
            at += count
        return out

    def outputs(self, theta, s):
        """Parameters of the distribution at one state: logits [k], or mean and log-deviation
        [2k]."""
        w1, b1, w2, b2, *rest = self.split(theta)
        z = np.tanh(s @ w1 + b1)
        first = z @ w2 + b2
        if self.kind == "categorical":
            return first
        raw = rest[0] if self.kind == "gaussian" else z @ rest[0] + rest[1]
        clipped = np.where(
            raw.real < self.low, self.low, np.where(raw.real > self.high, self.high, raw)
        )
        return np.concatenate([first, clipped])

    def jacobian(self, theta, s):
        """d outputs / d theta by hand, [outputs, size]. A clipped deviation passes its derivative
        as if unclipped."""
        w1, b1, w2, _, *rest = self.split(theta)
        z = np.tanh(s @ w1 + b1)
        slope = 1 - z**2
        rows = []
        heads = [(w2, 2)]
        if self.kind == "gaussian_state":
            heads.append((rest[0], 4))
        for weight, index in heads:
            for j in range(self.k):
                parts = [np.zeros(shape) for shape in self.shapes]
                back = weight[:, j] * slope
                parts[0] = np.outer(s, back)
                parts[1] = back
                parts[index][:, j] = z
                parts[index + 1][j] = 1
                rows.append(np.concatenate([p.ravel() for p in parts]))
        if self.kind == "gaussian":
            for j in range(self.k):
                parts = [np.zeros(shape) for shape in self.shapes]
                parts[4][j] = 1
                rows.append(np.concatenate([p.ravel() for p in parts]))
        return np.stack(rows)

    def log_prob(self, theta, s, a):
        """ln pi(a | s)."""
        out = self.outputs(theta, s)
        if self.kind == "categorical":
            top = out.real.max()
            return out[int(a)] - top - np.log(np.sum(np.exp(out - top)))
        mean, log_std = out[: self.k], out[self.k :]
        return np.sum(
            -0.5 * ((a - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
        )

    def score(self, theta, s, a):
        """d ln pi(a | s) / d theta by hand."""
        out = self.outputs(theta, s)
        if self.kind == "categorical":
            e = np.exp(out - out.max())
            by_output = np.eye(self.k)[int(a)] - e / e.sum()
        else:
            mean, std = out[: self.k], np.exp(out[self.k :])
            by_output = np.concatenate([(a - mean) / std**2, ((a - mean) / std) ** 2 - 1])
        return by_output @ self.jacobian(theta, s)

    def kl(self, theta_p, theta_q, s):
        """KL(p || q) at one state, textbook form."""
        p, q = self.outputs(theta_p, s), self.outputs(theta_q, s)
        if self.kind == "categorical":
            log_p = p - p.max() - np.log(np.exp(p - p.max()).sum())
            log_q = q - q.max() - np.log(np.exp(q - q.max()).sum())
            return float(np.sum(np.exp(log_p) * (log_p - log_q)))
        mp, lp, mq, lq = p[: self.k], p[self.k :], q[: self.k], q[self.k :]
        return float(
            np.sum(lq - lp + (np.exp(2 * lp) + (mp - mq) ** 2) / (2 * np.exp(2 * lq)) - 0.5)
        )

    def fisher(self, theta, states):
        """Dense Fisher matrix, mean over states of J' M J."""
        total = np.zeros((self.size, self.size))
        for s in states:
            out, J = self.outputs(theta, s), self.jacobian(theta, s)
            if self.kind == "categorical":
                e = np.exp(out - out.max())
                p = e / e.sum()
                M = np.diag(p) - np.outer(p, p)
            else:
                M = np.diag(np.concatenate([np.exp(-2 * out[self.k :]), 2 * np.ones(self.k)]))
            total += J.T @ M @ J
        return total / len(states)


def complex_step(f, theta, h=1e-30):
    """Gradient of a real function that also takes complex arguments; exact to rounding."""
    out = np.zeros_like(theta)
    for i in range(len(theta)):
        shifted = theta.astype(complex)
        shifted[i] += 1j * h
        out[i] = f(shifted).imag / h
    return out
