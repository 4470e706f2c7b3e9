"""The first-order family by hand, row by row: what each method maximises, its gradient by complex
steps, and what it does between gradient steps. Written from the papers' formulas, without jax.

A row is (state, action, log-probability under the old policy, advantage). Every function of a
parameter vector also takes a complex one, so that a gradient is exact to rounding
(`network.complex_step`); conditions look at real parts, and so carry no derivative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from reference.network import complex_step


def log_softmax(x):
    """Normalised log-probabilities."""
    top = x.real.max()
    return x - top - np.log(np.sum(np.exp(x - top)))


def gaussian_kl(mp, lp, mq, lq):
    """sum of ln(sq / sp) + (sp^2 + (mp - mq)^2) / (2 sq^2) - 1/2; deviations as logarithms."""
    return np.sum(lq - lp + (np.exp(2 * lp) + (mp - mq) ** 2) / (2 * np.exp(2 * lq)) - 0.5)


def kl(net, p, q, s):
    """KL(p || q) at a state, of two parameter vectors either of which may be complex."""
    p, q = net.outputs(p, s), net.outputs(q, s)
    if net.kind == "categorical":
        log_p, log_q = log_softmax(p), log_softmax(q)
        return np.sum(np.exp(log_p) * (log_p - log_q))
    return gaussian_kl(p[: net.k], p[net.k :], q[: net.k], q[net.k :])


def decoupled_kl(net, old, new, s):
    """V-MPO: KL(old || new) with the new mean alone, and with the new deviations alone."""
    p, q = net.outputs(old, s), net.outputs(new, s)
    mp, lp, mq, lq = p[: net.k], p[net.k :], q[: net.k], q[net.k :]
    return gaussian_kl(mp, lp, mq, lp), gaussian_kl(mp, lp, mp, lq)


def smaller(a, b):
    """The one with the smaller real part."""
    return a if a.real <= b.real else b


def larger(a, b):
    """The one with the larger real part."""
    return a if a.real >= b.real else b


def kept(x, low, high):
    """x kept within [low, high]."""
    return larger(low + 0 * x, smaller(x, high + 0 * x))


@dataclass
class Row:
    """What the formulas of a row may use: ratio, advantage, and KL in both directions."""

    r: complex
    A: float
    kl: complex
    """KL(old || new)."""
    reverse: complex
    """KL(new || old)."""
    bounds: tuple[float, float] = (0.0, np.inf)


# methods.md 3.8 to 3.23, one function a method, of a row and the settings of the method.


def ppo_kl(row, beta, reverse=False):
    """r A - beta KL."""
    return row.r * row.A - beta * (row.reverse if reverse else row.kl)


def trefree(row, delta):
    """min((r - 1) A, delta)."""
    return smaller((row.r - 1) * row.A, delta + 0 * row.r)


def trefree_ratio(row, clip):
    """clip(r - 1, -clip, clip) A."""
    return kept(row.r - 1, -clip, clip) * row.A


def trefree_free(row):
    """(r - 1) A."""
    return (row.r - 1) * row.A


def mdpo(row, t, q=1.0):
    """r A - D / t with D = KL(new || old), or the Tsallis divergence of a row, [r^q - 1 - q (r -
    1)] / (q - 1), whose mean under the old policy is that of index q."""
    D = row.reverse if q == 1 else (row.r**q - 1 - q * (row.r - 1)) / (q - 1)
    return row.r * row.A - D / t


def trgppo(row):
    """min(r A, clip(r, l, u) A) with the row's own l and u."""
    return smaller(row.r * row.A, kept(row.r, *row.bounds) * row.A)


def spo(row, clip):
    """r A - |A| (r - 1)^2 / (2 clip)."""
    return row.r * row.A - abs(row.A) * (row.r - 1) ** 2 / (2 * clip)


def espo(row):
    """r A."""
    return row.r * row.A


def truly_ppo(row, delta, alpha):
    """r A, and where KL >= delta on the improving side, r A - alpha KL."""
    far = row.kl.real >= delta and (row.r.real - 1) * row.A >= 0
    return row.r * row.A - (alpha * row.kl if far else 0)


def tr_ppo(row, delta):
    """r A, and where KL >= delta on the improving side, A (no gradient)."""
    far = row.kl.real >= delta and (row.r.real - 1) * row.A >= 0
    return row.A + 0 * row.r if far else row.r * row.A


def ppo_rb(row, clip, alpha):
    """min(r A, F(r) A), F = -alpha r + (1 + alpha) (1 +- clip) outside the interval, r inside."""
    r = row.r
    if r.real >= 1 + clip:
        F = -alpha * r + (1 + alpha) * (1 + clip)
    elif r.real <= 1 - clip:
        F = -alpha * r + (1 + alpha) * (1 - clip)
    else:
        F = r
    return smaller(r * row.A, F * row.A)


def spu(row, epsilon, lam):
    """r A / lambda - KL(new || old) where that KL <= epsilon, else nothing."""
    return row.r * row.A / lam - row.reverse if row.reverse.real <= epsilon else 0 * row.r


def discovered_po(row, alpha, beta):
    """r A minus the drift: relu((r - 1) A - alpha tanh((r - 1) A / alpha)) for A >= 0, relu(A ln r
    - beta tanh(A ln r / beta)) for A < 0."""
    x, width = ((row.r - 1) * row.A, alpha) if row.A >= 0 else (row.A * np.log(row.r), beta)
    drift = x - width * np.tanh(x / width)
    return row.r * row.A - (drift if drift.real > 0 else 0)


# Ratio bounds of TRGPPO (methods.md 3.10).


def categorical_bounds(p, delta):
    """Both roots r of (1 - p) ln((1 - p) / (1 - p r)) - p ln r = delta."""
    p = min(max(p, 0.01), 0.99)
    f = lambda r: (1 - p) * np.log((1 - p) / (1 - p * r)) - p * np.log(r) - delta  # noqa: E731
    root = lambda a, b: optimize.brentq(f, a, b, xtol=1e-15, rtol=1e-14)  # noqa: E731
    low = 0.5
    while f(low) < 0:
        low /= 2
    gap = 0.5
    while f(1 / p - gap * (1 / p - 1)) < 0:
        gap /= 2
    return root(low, 1), root(1, 1 / p - gap * (1 / p - 1))


def gaussian_bounds_1d(a, delta):
    """Smallest and largest N(a | m, v) / N(a | 0, 1) with KL(N(m, v) || N(0, 1)) = (v + m^2 - 1 -
    ln v) / 2 = delta, as logarithms: at an extreme v = (m - a)(m^2 - a m - 1) / a; the root in m is
    between 0 and a for the largest, beyond 0 on the other side for the smallest."""
    a = abs(a)
    if a == 0:
        v = [-special.lambertw(-np.exp(-2 * delta - 1), k).real for k in (-1, 0)]
        return -0.5 * np.log(v[0]), -0.5 * np.log(v[1])
    v_of = lambda m: (m - a) * (m * m - a * m - 1) / a  # noqa: E731

    def f(m):
        v = v_of(m)
        return np.inf if v <= 0 else 0.5 * (v + m * m - 1 - np.log(v)) - delta

    def log_ratio(m):
        v = v_of(m)
        return -0.5 * np.log(v) - (a - m) ** 2 / (2 * v) + a * a / 2

    def root(end):
        # towards the end, where v falls to 0 and f grows without bound
        share = 0.5
        while not np.isfinite(f(end * (1 - share))) or f(end * (1 - share)) < 0:
            share /= 2
        # the first crossing from 0
        grid = np.linspace(0, end * (1 - share), 20001)[1:]
        values = np.array([f(m) for m in grid])
        first = int(np.argmax(values >= 0))
        start = grid[first - 1] if first else 0.0
        return optimize.brentq(f, start, grid[first], xtol=1e-16, rtol=1e-14)

    far = (a - np.sqrt(a * a + 4)) / 2  # m^2 - a m - 1 = 0 on the other side: there v = 0
    return log_ratio(root(far)), log_ratio(root(a))


def gaussian_delta(clip, d):
    """The radius at which the range of the mode ends at 1 + clip."""
    s = -2 * np.log(1 + clip) / d
    return d * (np.exp(s) - s - 1) / 2


def bounds(net, theta, s, a, delta=None, clip=0.2):
    """l and u of an action at a state. Without `delta`, the one of `clip`."""
    out = net.outputs(theta, s)
    if net.kind == "categorical":
        return categorical_bounds(float(np.exp(log_softmax(out)[int(a)])), delta)
    z = (a - out[: net.k]) / np.exp(out[net.k :])
    delta = gaussian_delta(clip, net.k) if delta is None else delta
    low, high = gaussian_bounds_1d(float(np.sqrt(z @ z / net.k)), delta / net.k)
    return np.exp(net.k * low), np.exp(net.k * high)


# The mean over a batch, its gradient, and runs of Adam.


def rows_at(net, old, theta, data, limits=None):
    """Every row's quantities at theta."""
    out = []
    for i, (s, a, lp, A) in enumerate(data):
        r = np.exp(net.log_prob(theta, s, a) - lp)
        between = () if limits is None else (limits[i],)
        out.append(Row(r, A, kl(net, old, theta, s), kl(net, theta, old, s), *between))
    return out


def loss(net, old, theta, data, formula, limits=None, **settings):
    """minus the mean of a formula."""
    total = [formula(row, **settings) for row in rows_at(net, old, theta, data, limits)]
    return -sum(total) / len(total)


def gradient(net, old, theta, data, formula, limits=None, **settings):
    """Of the loss, by complex steps."""
    f = lambda t: loss(net, old, t, data, formula, limits, **settings)  # noqa: E731
    return complex_step(f, theta)


def descend(net, old, theta, data, rows, adam, formula, limits=None, **settings):
    """One Adam step for every list of indices in `rows`; and the mean of the losses before them."""
    losses = []
    for indices in rows:
        part = [data[i] for i in indices]
        own = None if limits is None else [limits[i] for i in indices]
        losses.append(loss(net, old, theta, part, formula, own, **settings))
        theta = adam.step(theta, gradient(net, old, theta, part, formula, own, **settings))
    return theta, np.mean(losses)


# V-MPO (methods.md 3.15).


def top_half(advantages, fraction=0.5):
    """Indices of the larger half."""
    order = sorted(range(len(advantages)), key=lambda i: -advantages[i])
    return order[: int(len(advantages) * fraction)]


def psi(advantages, eta):
    """softmax(A / eta) of the advantages given."""
    e = np.exp((advantages - np.max(advantages)) / eta)
    return e / e.sum()


@dataclass
class VMPO:
    """The losses of V-MPO by hand, and steps on them."""

    net: object
    eps_eta: float
    radii: tuple[float, ...]
    """epsilon of the KL, or of its part of the mean and its part of the covariance."""
    eta: float
    alphas: list[float]
    fraction: float = 0.5

    def kls(self, old, theta, s):
        """The KL of a state, or its two parts."""
        if len(self.radii) == 2:
            return decoupled_kl(self.net, old, theta, s)
        return (kl(self.net, old, theta, s),)

    def policy_loss(self, old, theta, data):
        """L_pi + sg(alpha) KL, a function of theta."""
        top = top_half([row[3] for row in data], self.fraction)
        weights = psi(np.array([data[i][3] for i in top]), self.eta)
        total = 0
        for w, i in zip(weights, top, strict=True):
            total -= w * self.net.log_prob(theta, *data[i][:2])
        for s, _, _, _ in data:
            parts = self.kls(old, theta, s)
            total += sum(x * part for x, part in zip(self.alphas, parts, strict=True)) / len(data)
        return total

    def temperature_loss(self, data, eta):
        """eta epsilon + eta ln mean exp(A / eta) over the top half."""
        top = np.array([data[i][3] for i in top_half([row[3] for row in data], self.fraction)])
        return eta * self.eps_eta + eta * np.log(np.mean(np.exp(top / eta)))

    def dual_gradients(self, old, theta, data):
        """d L_eta / d eta by complex step, d L_alpha / d alpha = epsilon - mean KL."""
        g = [complex_step(lambda e: self.temperature_loss(data, e[0]), np.array([self.eta]))[0]]
        means = np.mean([self.kls(old, theta, s) for s, _, _, _ in data], axis=0)
        return np.array([*g, *(e - m for e, m in zip(self.radii, means, strict=True))])

    def step(self, old, theta, data, adam, dual_adam):
        """One step of both optimisers from the same point; duals kept at or above 1e-8."""
        g = complex_step(lambda t: self.policy_loss(old, t, data), theta)
        duals = dual_adam.step(
            np.array([self.eta, *self.alphas]), self.dual_gradients(old, theta, data)
        )
        self.eta, *self.alphas = np.maximum(duals, 1e-8)
        return adam.step(theta, g)


# A tabular problem solved exactly (methods.md 7.4).

P = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.05, 0.95]]])
R = np.array([[0.0, -0.1], [0.2, 1.0]])
GAMMA = 0.9


def solve(pi):
    """V, Q, A, discounted visits from state 0 and the return of a policy [state, action]."""
    step = np.einsum("sa,sat->st", pi, P)
    V = np.linalg.solve(np.eye(2) - GAMMA * step, np.einsum("sa,sa->s", pi, R))
    Q = R + GAMMA * P @ V
    visits = np.linalg.solve(np.eye(2) - GAMMA * step.T, np.array([1.0, 0.0]))
    return V, Q, Q - V[:, None], visits, V[0]
