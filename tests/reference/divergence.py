"""KL, entropy and Fisher matrices of single distributions, in textbook form and by summing or
integrating."""

from __future__ import annotations

import numpy as np
from scipy import special


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of one row of logits, in float64 or wider."""
    e = np.exp(logits - np.max(logits))
    return e / e.sum()


def categorical_kl(p: np.ndarray, q: np.ndarray) -> float:
    """sum p ln(p / q) over the actions that p can take."""
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def gaussian_kl(
    mean_p: np.ndarray, std_p: np.ndarray, mean_q: np.ndarray, std_q: np.ndarray
) -> float:
    """sum [ln(sq / sp) + (sp^2 + (mp - mq)^2) / (2 sq^2) - 1/2]."""
    total = 0.0
    for mp, sp, mq, sq in zip(mean_p, std_p, mean_q, std_q, strict=True):
        total += np.log(sq / sp) + (sp**2 + (mp - mq) ** 2) / (2 * sq**2) - 0.5
    return float(total)


def density(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    """The normal density."""
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


def gaussian_kl_by_quadrature(mean_p: float, std_p: float, mean_q: float, std_q: float) -> float:
    """The integral of p ln(p / q) on a fine grid (the trapezoid rule is exponentially good for such
    integrands)."""
    x = np.linspace(mean_p - 14 * std_p, mean_p + 14 * std_p, 20001)
    log_ratio = (
        np.log(std_q / std_p)
        - 0.5 * ((x - mean_p) / std_p) ** 2
        + 0.5 * ((x - mean_q) / std_q) ** 2
    )
    return float(np.trapezoid(density(x, mean_p, std_p) * log_ratio, x))


def categorical_fisher(logits: np.ndarray) -> np.ndarray:
    """Covariance of the score by enumeration: sum_a p(a) (e_a - p)(e_a - p)'."""
    p = probabilities(logits)
    total = np.zeros((len(p), len(p)))
    for a in range(len(p)):
        score = np.eye(len(p))[a] - p
        total += p[a] * np.outer(score, score)
    return total


def gaussian_fisher(mean: float, log_std: float) -> np.ndarray:
    """Covariance of the score of one dimension in (mean, log std), integrated on a grid."""
    std = np.exp(log_std)
    x = np.linspace(mean - 14 * std, mean + 14 * std, 20001)
    score = np.stack([(x - mean) / std**2, ((x - mean) / std) ** 2 - 1])
    weight = density(x, mean, std)
    return np.trapezoid(weight * score[:, None] * score[None, :], x, axis=-1)


def beta_kl(a, b, a_new, b_new):
    """KL of Beta(a, b) from Beta(a_new, b_new), textbook form: ln B(new) / B + (a - a_new) psi(a) +
    (b - b_new) psi(b) + (a_new - a + b_new - b) psi(a + b)."""
    a, b, a_new, b_new = (np.asarray(x, np.float64) for x in (a, b, a_new, b_new))
    both = (a_new - a + b_new - b) * special.digamma(a + b)
    each = (a - a_new) * special.digamma(a) + (b - b_new) * special.digamma(b)
    return special.betaln(a_new, b_new) - special.betaln(a, b) + each + both


def beta_kl_by_its_remainder(a, b, a_new, b_new):
    """The same as the remainder of ln B beyond its tangent, the integral over t of (1 - t) d' H(t)
    d (Gauss-Legendre): nothing cancels in it."""
    t, w = np.polynomial.legendre.leggauss(80)
    t, w = (t + 1) / 2, w / 2
    a, b, a_new, b_new = (np.asarray(x, np.float64)[..., None] for x in (a, b, a_new, b_new))
    da, db = a_new - a, b_new - b
    curve = lambda x, d: special.polygamma(1, x + t * d) * d**2  # noqa: E731
    return np.sum(w * (1 - t) * (curve(a, da) + curve(b, db) - curve(a + b, da + db)), axis=-1)
