"""MCPO by hand on parameter vectors, row by row and without jax (Le et al., 2022, Algorithm 1).

    psi = sum_i w_i theta_i,  w = softmax(f_phi(v)) over the m vectors of the memory       (Eq. 1)
    write theta where D(theta, psi) > D(theta_old, psi)                                     (Eq. 2)
    L1 = mean[ tau A - beta ((1 - alpha) KL(old, theta) + alpha KL(psi, theta)) ]           (Eq. 3)
    beta = high where D(theta_old, theta) > D(theta_old, psi), else low                     (Eq. 4)
    L2 = mean[ tau(psi) A ]                                                                 (Eq. 5)

with D(a, b) the mean of KL(a || b) and alpha = sigmoid(A (tau(psi) - 1)) of each row. The gradient
of theta is put together from scores and Jacobians, that of phi from dL2/dz_i = w_i <dL2/dpsi,
theta_i - psi> and a walk back through the two layers.

A row is (state, action, log-probability under the old policy, advantage, value, value target); the
critic is apart from the policy, so that the three value losses of the context are one number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reference.fixup import kl_slope

CUT = 20.0
"""Log-ratios of the virtual policy are kept within this, for the safety of exp alone."""


# The attention network: v -> logits by age, oldest first.


@dataclass
class Attention:
    """Linear, relu, Linear; the parameters are one vector: W1 [n, h], b1, W2 [h, N], b2."""

    n: int
    h: int
    N: int
    transform: str = "identity"

    def split(self, phi):
        """The vector as its arrays."""
        ends = np.cumsum([self.n * self.h, self.h, self.h * self.N, self.N])
        assert len(phi) == ends[-1]
        a, b, c, d = np.split(phi, ends[:-1])
        return a.reshape(self.n, self.h), b, c.reshape(self.h, self.N), d

    def inputs(self, v):
        """The transformed context, as much of it as the network takes."""
        v = v[: self.n]
        return {"identity": v, "log1p": np.sign(v) * np.log(1 + np.abs(v))}[self.transform]

    def hidden(self, phi, v, keep):
        """What the first layer lets through; `keep` multiplies it (dropout, 1 without)."""
        w1, b1, _, _ = self.split(phi)
        before = self.inputs(v) @ w1 + b1
        return np.where(before.real > 0, before, 0) * keep

    def logits(self, phi, v, keep=1.0):
        """All N of them."""
        _, _, w2, b2 = self.split(phi)
        return self.hidden(phi, v, keep) @ w2 + b2

    def back(self, phi, v, by_logit, keep=1.0):
        """d / d phi, given d / d logits [N], by hand."""
        _, _, w2, _ = self.split(phi)
        x, z = self.inputs(v), self.hidden(phi, v, keep)
        by_hidden = (w2 @ by_logit) * (z > 0) * keep
        parts = (np.outer(x, by_hidden), by_hidden, np.outer(z, by_logit), by_logit)
        return np.concatenate([p.ravel() for p in parts])


def softmax(z):
    """Of a vector that may be complex."""
    e = np.exp(z - z.real.max())
    return e / e.sum()


# What is known of a policy on a minibatch.


def entropy(net, theta, s):
    """In nats, at one state."""
    out = net.outputs(theta, s)
    if net.kind == "categorical":
        p = softmax(out)
        return -np.sum(p * np.log(p))
    return np.sum(out[net.k :] + 0.5 * np.log(2 * np.pi * np.e))


def distance(net, a, b, data):
    """D(a, b): the mean of KL(a || b)."""
    return np.mean([net.kl(a, b, row[0]) for row in data])


def log_ratios(net, theta, data):
    """Of new to old probability, a row."""
    return np.array([net.log_prob(theta, row[0], row[1]) - row[2] for row in data])


def cut(x):
    """Log-ratios within CUT; the real part decides."""
    return np.where(x.real > CUT, CUT, np.where(x.real < -CUT, -CUT, x))


def advantages(data):
    """A of every row."""
    return np.array([row[3] for row in data])


def context(net, theta, old, psi_old, data):
    """The twelve numbers, in the order of the specification: distances, returns, entropies, value
    losses."""
    A = advantages(data)
    loss = np.mean([(row[4] - row[5]) ** 2 for row in data])
    H = [np.mean([entropy(net, p, row[0]) for row in data]) for p in (psi_old, old, theta)]
    return np.array(
        [
            distance(net, theta, psi_old, data),
            distance(net, old, psi_old, data),
            distance(net, old, theta, data),
            np.mean(np.exp(cut(log_ratios(net, psi_old, data))) * A),
            np.mean(A),
            np.mean(np.exp(log_ratios(net, theta, data)) * A),
            *H,
            *[loss] * 3,
        ]
    )


def virtual_alpha(net, psi, data):
    """exp(R(psi)) / (exp(R(psi)) + exp(R(old))) of every row, as printed but for a factor of
    both."""
    A = advantages(data)
    R = np.stack([np.exp(cut(log_ratios(net, psi, data))) * A, A])
    a, b = np.exp(R - R.max(axis=0))
    return a / (a + b)


def loss_theta(net, theta, old, psi, alpha, beta, data):
    """-L1; takes a complex theta but for the KLs, whose slope is in closed form."""
    gain = np.mean(np.exp(log_ratios(net, theta, data)) * advantages(data))
    kls = [
        (1 - a) * net.kl(old, theta, row[0]) + a * net.kl(psi, theta, row[0])
        for a, row in zip(alpha, data, strict=True)
    ]
    return -gain + beta * np.mean(kls)


def slope_theta(net, theta, old, psi, alpha, beta, data):
    """Its gradient in theta; old, psi, alpha and beta are data."""
    r = np.exp(log_ratios(net, theta, data))
    total = np.zeros(net.size)
    for row, ratio, a in zip(data, r, alpha, strict=True):
        s, action, _, A = row[:4]
        total -= ratio * A * net.score(theta, s, action)
        total += beta * (1 - a) * kl_slope(net, old, theta, s, False)
        total += beta * a * kl_slope(net, psi, theta, s, False)
    return total / len(data)


def loss_phi(net, psi, data):
    """-L2, of a psi that may be complex."""
    return -np.mean(np.exp(cut(log_ratios(net, psi, data))) * advantages(data))


def slope_psi(net, psi, data):
    """Its gradient in psi: rows that are cut give none."""
    total = np.zeros(net.size)
    for row, x in zip(data, log_ratios(net, psi, data), strict=True):
        if abs(x) < CUT:
            total -= np.exp(x) * row[3] * net.score(psi, row[0], row[1])
    return total / len(data)


# The rules.


@dataclass
class Switching:
    """Eq. 4."""

    high: float = 10.0
    low: float = 0.01

    def __call__(self, run, d_old_theta, d_old_psi):
        return self.high if d_old_theta > d_old_psi else self.low


@dataclass
class Constant:
    """A number."""

    value: float = 1.0

    def __call__(self, run, d_old_theta, d_old_psi):
        return self.value


@dataclass
class Annealed:
    """start / t, t falling from 1 to t_min over the run (MDPO)."""

    start: float = 1.0
    t_min: float = 1e-3

    def __call__(self, run, d_old_theta, d_old_psi):
        return self.start / max(1 - run.progress, self.t_min)


@dataclass
class Adaptive:
    """PPO's: moved after an update by its KL."""

    start: float = 1.0
    target: float = 0.01

    def __call__(self, run, d_old_theta, d_old_psi):
        return run.beta


def follow(beta, kl, target):
    """Half where the KL is below target / 1.5, twice where it is above 1.5 target."""
    return beta / 2 if kl < target / 1.5 else beta * 2 if kl > 1.5 * target else beta


# The algorithm.


@dataclass
class MCPO:
    """Everything that is kept, and a minibatch step of it; `trace` says what each step did."""

    net: object
    theta: np.ndarray
    psi_old: np.ndarray
    adam: object
    N: int
    attention: Attention | None
    """None: the plain mean of the memory."""
    phi: np.ndarray | None
    phi_adam: object
    beta_rule: object
    alpha: float | None = None
    every: int | None = None
    """Write after every so many steps; None: where Eq. 2 says so."""
    memory: list = field(default_factory=list)
    """Parameter vectors, oldest first."""
    born: list = field(default_factory=list)
    steps: int = 0
    beta: float = 1.0
    progress: float = 0.0
    trace: list = field(default_factory=list)

    def weights(self, phi, v, keep=1.0):
        """One of each vector in the memory."""
        m = len(self.memory)
        if self.attention is None:
            return np.full(m, 1 / m)
        return softmax(self.attention.logits(phi, v, keep)[:m])

    def virtual(self, phi, v, keep=1.0):
        """psi, and the weights that made it."""
        if not self.memory:
            return self.psi_old, np.zeros(0)
        w = self.weights(phi, v, keep)
        return w @ np.stack(self.memory), w

    def slope_phi(self, v, psi, w, data, keep=1.0):
        """Of -L2 in phi."""
        g = slope_psi(self.net, psi, data)
        by_logit = np.zeros(self.N)
        for i, vector in enumerate(self.memory):
            by_logit[i] = w[i] * (g @ (vector - psi))
        return self.attention.back(self.phi, v, by_logit, keep)

    def step(self, data, keep=1.0):
        """One minibatch."""
        net, theta, old = self.net, self.theta, self.old
        v = context(net, theta, old, self.psi_old, data)
        psi, w = self.virtual(self.phi, v, keep)
        alpha = (
            virtual_alpha(net, psi, data)
            if self.alpha is None
            else np.full(len(data), float(self.alpha))
        )
        d_old_theta, d_old_psi = distance(net, old, theta, data), distance(net, old, psi, data)
        beta = self.beta_rule(self, d_old_theta, d_old_psi)
        told = {
            "v": v,
            "psi": psi,
            "w": w,
            "alphas": alpha,
            "loss": loss_theta(net, theta, old, psi, alpha, beta, data),
            "alpha": np.mean(alpha),
            "alpha_spread": np.std(alpha),
            "beta": beta,
            "kl_old_theta": d_old_theta,
            "kl_old_psi": d_old_psi,
            "psi_gain": -loss_phi(net, psi, data) - np.mean(advantages(data)),
            "attention_entropy": -np.sum(w * np.log(np.where(w > 0, w, 1))),
            "born": list(self.born),
        }

        g = slope_theta(net, theta, old, psi, alpha, beta, data)
        if self.attention is not None:
            self.phi = self.phi_adam.step(self.phi, self.slope_phi(v, psi, w, data, keep))
        self.theta = self.adam.step(theta, g)
        self.steps += 1

        away = distance(net, self.theta, psi, data)
        write = (
            away > distance(net, old, psi, data)
            if self.every is None
            else self.steps % self.every == 0
        )
        if write:
            self.memory, self.born = [*self.memory, self.theta], [*self.born, self.steps]
            self.memory, self.born = self.memory[-self.N :], self.born[-self.N :]
        self.psi_old = psi
        self.trace.append(told | {"kl_theta_psi": away, "wrote": write, "g": g})

    def update(self, data, order, progress=0.0, keeps=None):
        """One iteration: a step for every list of indices in `order`; then beta, where it follows
        the KL of the whole batch."""
        self.old, self.progress = self.theta, progress
        for i, rows in enumerate(order):
            self.step([data[j] for j in rows], 1.0 if keeps is None else keeps[i])
        if isinstance(self.beta_rule, Adaptive):
            kl = distance(self.net, self.old, self.theta, data)
            self.beta = follow(self.beta, kl, self.beta_rule.target)
