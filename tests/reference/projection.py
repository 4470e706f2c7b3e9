"""Projections of one state's distribution by bisection on the multiplier and, for the problem
itself, by a constrained minimiser of SciPy (Otto et al., 2021; methods.md 3.17)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq, minimize

from reference.divergence import categorical_kl, probabilities


def kl_cov(cov: np.ndarray, old: np.ndarray) -> float:
    """1/2 [tr(S_old^-1 S) - d + ln |S_old| / |S|]."""
    ratio = np.linalg.solve(old, cov)
    return 0.5 * (np.trace(ratio) - len(cov) - np.linalg.slogdet(ratio)[1])


def kl_project_cov(cov: np.ndarray, old: np.ndarray, bound: float) -> tuple[np.ndarray, float]:
    """The covariance between, in precisions, with its KL on the bound, and the multiplier eta."""
    if kl_cov(cov, old) <= bound:
        return cov, 0.0
    a, b = np.linalg.inv(cov), np.linalg.inv(old)
    between = lambda eta: np.linalg.inv((a + eta * b) / (1 + eta))  # noqa: E731
    eta = brentq(lambda x: kl_cov(between(x), old) - bound, 0, 1e9, xtol=1e-13, rtol=1e-15)
    return between(eta), eta


def kl_project_mean(mean: np.ndarray, old: np.ndarray, cov: np.ndarray, bound: float) -> np.ndarray:
    """(mean + omega old) / (1 + omega) with omega = sqrt(d / bound) - 1."""
    shift = mean - old
    part = 0.5 * shift @ np.linalg.solve(cov, shift)
    if part <= bound:
        return mean
    omega = np.sqrt(part / bound) - 1
    return (mean + omega * old) / (1 + omega)


def kl_project_logits(logits: np.ndarray, old: np.ndarray, bound: float) -> np.ndarray:
    """Probabilities between, in logits, with KL(projected || old) on the bound."""
    q = probabilities(old)
    if categorical_kl(probabilities(logits), q) <= bound:
        return probabilities(logits)
    between = lambda t: probabilities(old + t * (logits - old))  # noqa: E731
    t = brentq(lambda x: categorical_kl(between(x), q) - bound, 0, 1, xtol=1e-15, rtol=1e-15)
    return between(t)


def closest(distance_new, distance_old, start: np.ndarray, bound: float) -> np.ndarray:
    """min distance_new(x) subject to distance_old(x) <= bound, from `start`."""
    limit = {"type": "ineq", "fun": lambda x: (bound - distance_old(x)) / bound}
    found = minimize(
        distance_new,
        start,
        method="SLSQP",
        jac="3-point",
        constraints=[limit],
        options={"ftol": 1e-13, "maxiter": 500},
    )
    # 8: rounding lets the line search get no lower, which depends on the processor; whoever
    # compares judges how near that is.
    assert found.success or found.status == 8, found.message
    return found.x


def root_spread(std: np.ndarray, old: np.ndarray, bound: float, power: int, scaled: bool):
    """sigma with sigma^power (s + eta s_old) / (1 + eta), eta = sqrt(d / bound) - 1."""
    a, b = std**power, old**power
    part = np.sum(((a - b) / (b if scaled else 1)) ** 2)
    if part <= bound:
        return std
    eta = np.sqrt(part / bound) - 1
    return ((a + eta * b) / (1 + eta)) ** (1 / power)


# TRPL's loss for the small networks of `reference.network`, state by state.


def project_outputs(net, new: np.ndarray, old: np.ndarray, bounds: tuple[float, float]):
    """Outputs of the network at one state after the KL projection: logits, or mean and log
    sigma."""
    if net.kind == "categorical":
        return np.log(kl_project_logits(new, old, bounds[0]))
    (mean, log_std), (was, log_was) = np.split(new, 2), np.split(old, 2)
    cov, _ = kl_project_cov(np.diag(np.exp(2 * log_std)), np.diag(np.exp(2 * log_was)), bounds[1])
    mean = kl_project_mean(mean, was, np.diag(np.exp(2 * log_was)), bounds[0])
    return np.concatenate([mean, 0.5 * np.log(np.diag(cov))])


def output_log_prob(net, out: np.ndarray, action) -> float:
    """ln p(action) of outputs."""
    if net.kind == "categorical":
        return float(np.log(probabilities(out)[int(action)]))
    mean, log_std = np.split(out, 2)
    z = (action - mean) / np.exp(log_std)
    return float(np.sum(-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)))


def output_distance(net, new: np.ndarray, target: np.ndarray, contextual: bool) -> float:
    """KL(new || target); of the means alone where sigma is a free parameter."""
    if net.kind == "categorical":
        return categorical_kl(probabilities(new), probabilities(target))
    (mean, log_std), (to, log_to) = np.split(new, 2), np.split(target, 2)
    shift = 0.5 * np.sum(((mean - to) / np.exp(log_to)) ** 2)
    cov = kl_cov(np.diag(np.exp(2 * log_std)), np.diag(np.exp(2 * log_to)))
    return shift + cov * contextual


def trpl_loss(net, theta, frozen, old, data, bounds, regression) -> float:
    """regression * mean d(p, q) - mean [q(a|s) / old(a|s) A], with q = project(p) at `theta` in the
    gain and, as data, at `frozen` in the distance."""
    total = 0.0
    for s, a, log_prob, advantage in data:
        was = net.outputs(old, s)
        new = net.outputs(theta, s)
        near = project_outputs(net, new, was, bounds)
        target = project_outputs(net, net.outputs(frozen, s), was, bounds)
        ratio = np.exp(output_log_prob(net, near, a) - log_prob)
        far = output_distance(net, new, target, net.kind == "gaussian_state")
        total += regression * far - ratio * advantage
    return total / len(data)


def trpl(net, theta, old, data, rows, adam, bounds, regression):
    """One Adam step on the loss for every row of `rows`, by central differences; then the free
    deviations are set to their projection."""
    h = 1e-6
    for indices in rows:
        part = [data[i] for i in indices]
        at = lambda x, f=theta, p=part: trpl_loss(net, x, f, old, p, bounds, regression)  # noqa: E731
        steps = h * np.eye(net.size)
        slope = np.array([(at(theta + d) - at(theta - d)) / (2 * h) for d in steps])
        theta = adam.step(theta, slope)
    if net.kind == "gaussian":
        s = data[0][0]
        near = project_outputs(net, net.outputs(theta, s), net.outputs(old, s), bounds)
        theta = np.concatenate([theta[: -net.k], near[-net.k :]])
    return theta
