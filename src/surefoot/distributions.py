"""Distributions over actions: closed-form KL, entropy and Fisher matrix, stable in float32 at small
radii."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy import special
from jaxtyping import Float, Int

from surefoot.types import Array, Key

_SERIES_BELOW = 0.5
_SERIES = tuple(1 / math.factorial(n) for n in range(13, 1, -1))


def expm1_minus(x: Array) -> Array:
    """exp(x) - 1 - x, to full relative precision for small x (where the plain expression cancels).

    With y = expm1(x) it equals y - log1p(y): the form in which the KL of Gaussians and of
    Categoricals loses no digits. Below |x| = 0.5 the Taylor series is summed to x^13 (relative
    truncation error below 1e-14); above, the plain expression loses one digit, and is three times
    as fast as expm1.
    """
    small = jnp.abs(x) < _SERIES_BELOW
    s = jnp.where(small, x, 0)
    series = jnp.zeros_like(s)
    for coefficient in _SERIES:
        series = series * s + coefficient
    big = jnp.where(small, 1, x)
    return jnp.where(small, s * s * series, jnp.exp(big) - 1 - big)


def _scale(logits: Array) -> tuple[Array, Array]:
    """Largest logit and the sum of exp(logit - largest), both [..., 1]; their log-sum-exp is kept
    apart on purpose."""
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return top, jnp.sum(
        jnp.exp(logits - jnp.broadcast_to(top, logits.shape)), axis=-1, keepdims=True
    )


class Categorical(eqx.Module):
    """A distribution over K actions per state, by unnormalised log-probabilities `logits` [...,
    K]."""

    logits: Float[Array, "*batch K"]

    @property
    def log_p(self) -> Float[Array, "*batch K"]:
        """Normalised log-probabilities."""
        return jax.nn.log_softmax(self.logits, axis=-1)

    def sample(self, key: Key) -> Int[Array, "*batch"]:
        """One action a state."""
        return jax.random.categorical(key, self.logits, axis=-1)

    def mode(self) -> Int[Array, "*batch"]:
        """The most probable action of every state."""
        return jnp.argmax(self.logits, axis=-1)

    def log_prob(self, action: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
        """log p(action), one number a state."""
        hot = jax.nn.one_hot(action, self.logits.shape[-1], dtype=self.logits.dtype)
        # A product with the one-hot row has a cheap gradient (no scatter); 0 * -inf of a masked
        # action is kept out.
        return jnp.sum(jnp.where(hot > 0, self.log_p, 0), axis=-1)

    def entropy(self) -> Float[Array, "*batch"]:
        """Entropy in nats, one number a state."""
        log_p = self.log_p
        p = jnp.exp(log_p)
        # Inside as well: the gradient of p log p at p = 0 would be 0 * -inf.
        return -jnp.sum(p * jnp.where(p > 0, log_p, 0), axis=-1)

    def kl(self, other: Categorical) -> Float[Array, "*batch"]:
        """KL(self || other) = sum p (exp(d) - 1 - d) with d = log q - log p, every term
        non-negative.

        Equal to sum p log(p/q) because both sides sum to one; an error c in the normalisation of d
        then enters as c^2 and not as c. So d is taken from the difference of the logits, which
        loses nothing where they are close, and not from the log-probabilities, each of which is
        rounded by itself: that cost 1e-3 at radii of 1e-6. Actions with p = 0 add q, which is what
        is missing from the first sum.
        """
        log_q = other.log_p
        p = jnp.exp(self.log_p)
        known = p != 0  # NaN is known, and shows
        top_p, sum_p = _scale(self.logits)
        top_q, sum_q = _scale(other.logits)
        shift = jnp.broadcast_to((top_q - top_p) + jnp.log(sum_q / sum_p), p.shape)
        d = (
            jnp.where(known, other.logits, 0)
            - jnp.where(known, self.logits, 0)
            - jnp.where(known, shift, 0)
        )
        near = d < 1
        # p exp(d) may overflow in exp(d) while the product is small: there the term is q - p - p d.
        far_term = jnp.exp(log_q) - p - p * jnp.where(near, 0, d)
        term = jnp.where(near, p * expm1_minus(jnp.where(near, d, 0)), far_term)
        return jnp.sum(jnp.where(known, term, jnp.exp(log_q)), axis=-1)

    def fisher(self, tangent: Categorical) -> Categorical:
        """(diag(p) - p p') v in the logits."""
        p = jax.nn.softmax(self.logits, axis=-1)
        v = tangent.logits
        return Categorical(p * (v - jnp.sum(p * v, axis=-1, keepdims=True)))


class DiagGaussian(eqx.Module):
    """A Gaussian with diagonal covariance per state: `mean` and `log_std`, both [..., d].

    Actions are stored as sampled, unclipped; clipping happens only at the environment's door.
    """

    mean: Float[Array, "*batch d"]
    log_std: Float[Array, "*batch d"]

    def sample(self, key: Key) -> Float[Array, "*batch d"]:
        """One action a state."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> Float[Array, "*batch d"]:
        """The mean."""
        return self.mean

    def log_prob(self, action: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Log-density, summed over action dimensions, one number a state."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Float[Array, "*batch"]:
        """Differential entropy in nats, summed over action dimensions."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: DiagGaussian) -> Float[Array, "*batch"]:
        """KL(self || other), summed over action dimensions: the two parts together."""
        mean, covariance = self._kl_parts(other)
        return jnp.sum(covariance + mean, axis=-1)

    def kl_parts(
        self, other: DiagGaussian
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """What the mean and what the covariance contribute to KL(self || other), each summed over
        action dimensions; both are at least 0, and they add up to the KL."""
        mean, covariance = self._kl_parts(other)
        return jnp.sum(mean, axis=-1), jnp.sum(covariance, axis=-1)

    def _kl_parts(self, other: DiagGaussian) -> tuple[Array, Array]:
        # The covariance part is (x - log1p(x)) / 2 with x = s_p^2 / s_q^2 - 1, evaluated through
        # log1p(x) = 2 (log s_p - log s_q), so that radii of 1e-5 keep five digits in float32
        # (methods.md 1.2).
        covariance = 0.5 * expm1_minus(2 * (self.log_std - other.log_std))
        shift = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return 0.5 * shift**2, covariance

    def at(self, mean: Array) -> DiagGaussian:
        """The same covariance round other means [..., d]."""
        return DiagGaussian(mean, jnp.broadcast_to(self.log_std, mean.shape))

    def fisher(self, tangent: DiagGaussian) -> DiagGaussian:
        """diag(1 / s^2, 2) v in (mean, log_std)."""
        return DiagGaussian(tangent.mean * jnp.exp(-2 * self.log_std), 2 * tangent.log_std)


class FullGaussian(eqx.Module):
    """A Gaussian with full covariance per state: `mean` [..., d] and `factor` [..., d, d], the
    lower Cholesky factor of the covariance, its diagonal positive and zero above it.

    Actions are stored as sampled, unclipped; clipping happens only at the environment's door.
    """

    mean: Float[Array, "*batch d"]
    factor: Float[Array, "*batch d d"]

    @property
    def log_diagonal(self) -> Float[Array, "*batch d"]:
        """Logarithm of the factor's diagonal; its sum is half the log-determinant."""
        return jnp.log(_diagonal(self.factor))

    def sample(self, key: Key) -> Float[Array, "*batch d"]:
        """One action a state."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.einsum("...ij,...j->...i", self.factor, noise)

    def mode(self) -> Float[Array, "*batch d"]:
        """The mean."""
        return self.mean

    def whiten(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """factor^-1 x."""
        return jnp.squeeze(solve_lower(self.factor, x[..., None]), -1)

    def log_prob(self, action: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Log-density, one number a state."""
        z = self.whiten(action - self.mean)
        return -jnp.sum(0.5 * z**2 + self.log_diagonal + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Float[Array, "*batch"]:
        """Differential entropy in nats."""
        return jnp.sum(self.log_diagonal + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: FullGaussian) -> Float[Array, "*batch"]:
        """KL(self || other).

        With X = factor_q^-1 (factor_p - factor_q), lower triangular, the covariance part is half
        the sum of the squares below the diagonal and, on it, of exp(y) - 1 - y with y = 2
        log1p(X_ii): no term cancels, and the difference of close factors is exact.
        """
        mean, covariance = self.kl_parts(other)
        return mean + covariance

    def kl_parts(
        self, other: FullGaussian
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """What the mean and what the covariance contribute to KL(self || other); both are at least
        0, and they add up to the KL."""
        x = solve_lower(other.factor, self.factor - other.factor)
        y = 2 * _log_ratio(_diagonal(self.factor), _diagonal(other.factor))
        below = jnp.sum(jnp.tril(x, -1) ** 2, axis=(-2, -1))
        shift = other.whiten(self.mean - other.mean)
        covariance = 0.5 * (below + jnp.sum(expm1_minus(y), axis=-1))
        return 0.5 * jnp.sum(shift**2, axis=-1), covariance

    def at(self, mean: Array) -> FullGaussian:
        """The same covariance round other means [..., d]."""
        shape = (*mean.shape, mean.shape[-1])
        return FullGaussian(mean, jnp.broadcast_to(self.factor, shape))

    def fisher(self, tangent: FullGaussian) -> FullGaussian:
        """The Fisher matrix in (mean, factor) times a tangent: covariance^-1 v for the mean, and
        the lower triangle of factor^-T (B + B') with B = factor^-1 v for the factor."""
        mean = solve_lower(self.factor, self.whiten(tangent.mean)[..., None], transpose=True)
        b = solve_lower(self.factor, tangent.factor)
        both = solve_lower(self.factor, b + jnp.swapaxes(b, -1, -2), transpose=True)
        return FullGaussian(jnp.squeeze(mean, -1), jnp.tril(both))


def solve_lower(
    factor: Float[Array, "*batch d d"], x: Float[Array, "*batch d k"], transpose: bool = False
) -> Float[Array, "*batch d k"]:
    """factor^-1 x for a lower-triangular factor, or factor^-T x."""
    return jax.lax.linalg.triangular_solve(
        factor, x, left_side=True, lower=True, transpose_a=transpose
    )


def _diagonal(matrix: Array) -> Array:
    return jnp.diagonal(matrix, axis1=-2, axis2=-1)


def _log_ratio(a: Array, b: Array) -> Array:
    """log(a / b) of positive numbers, to full relative precision where they are close."""
    x = (a - b) / b
    near = jnp.abs(x) < 0.5
    return jnp.where(near, jnp.log1p(jnp.where(near, x, 0)), jnp.log(a) - jnp.log(b))


BETA_INSIDE = 1 - 2.0**-20
"""Actions of a `Beta` keep this far from the ends of [-1, 1], where a log-density may be
infinite."""
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)
"""Coefficients of 1 / x^(2n+1) in Stirling's series of ln Gamma(x)."""


def _log1p_gap(x: Array) -> Array:
    """x - log1p(x), to full relative precision for small x."""
    return expm1_minus(jnp.log1p(x))


def _stirling_gap(x: Array, d: Array) -> Array:
    """c(x + d) - c(x) - d c'(x) of Stirling's series c without its leading terms, free of
    cancellation: with r = (x + d) / x, r^-n - 1 + n (r - 1) is (r - 1)^2 (1 + 2r + ... + n r^(n-1))
    / r^n."""
    r = (x + d) / x
    total = jnp.zeros_like(x)
    for i, coefficient in enumerate(_STIRLING):
        n = 2 * i + 1
        ladder = jnp.zeros_like(x)
        for k in range(n, 0, -1):
            ladder = ladder * r + k
        total = total + coefficient * ladder / (x * r) ** n
    return total * (d / x) ** 2


class Beta(eqx.Module):
    """Independent Beta distributions on [-1, 1] per state, by their concentrations `alpha` and
    `beta`, both [..., d] and at least 1 (so that there is one mode).

    [-1, 1] is what finite action boxes are mapped from, so no action is ever clipped.
    """

    alpha: Float[Array, "*batch d"]
    beta: Float[Array, "*batch d"]

    def sample(self, key: Key) -> Float[Array, "*batch d"]:
        """One action a state, strictly inside (-1, 1); no gradient passes."""
        y = jax.random.beta(key, self.alpha, self.beta, dtype=self.alpha.dtype)
        return jnp.clip(2 * y - 1, -BETA_INSIDE, BETA_INSIDE)

    def mode(self) -> Float[Array, "*batch d"]:
        """The most probable action of every state; the middle where all are equally so."""
        span = self.alpha + self.beta - 2
        return jnp.where(span > 0, (self.alpha - self.beta) / jnp.where(span > 0, span, 1), 0)

    def log_prob(self, action: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Log-density on [-1, 1], summed over action dimensions; actions outside are taken to the
        nearest end."""
        x = jnp.clip(action, -BETA_INSIDE, BETA_INSIDE)
        low, high = jnp.log1p(x) - math.log(2), jnp.log1p(-x) - math.log(2)
        inner = (self.alpha - 1) * low + (self.beta - 1) * high
        return jnp.sum(inner - self._log_normaliser(), axis=-1)

    def _log_normaliser(self) -> Array:
        """ln of 2 B(alpha, beta): the 2 is the length of [-1, 1]."""
        a, b = self.alpha, self.beta
        return special.gammaln(a) + special.gammaln(b) - special.gammaln(a + b) + math.log(2)

    def entropy(self) -> Float[Array, "*batch"]:
        """Differential entropy on [-1, 1] in nats, summed over action dimensions."""
        a, b = self.alpha, self.beta
        both = (a + b - 2) * special.digamma(a + b)
        each = (a - 1) * special.digamma(a) + (b - 1) * special.digamma(b)
        return jnp.sum(self._log_normaliser() - each + both, axis=-1)

    def kl(self, other: Beta) -> Float[Array, "*batch"]:
        """KL(self || other), summed over action dimensions.

        With G = ln Gamma and D the gap between a function and its tangent at self, it is D G(alpha)
        + D G(beta) - D G(alpha + beta). Its textbook form cancels: in float32 nothing is left of it
        at radii of 1e-4. Here the recurrence of Gamma first moves the arguments up by n, n and 2n,
        then Stirling's series takes over; every D in it is written as a square without
        cancellation, and the leading terms x ln x combine into the KL of two coins (alpha to
        alpha + beta), which is written likewise. So radii of 1e-5 keep five digits.
        """
        # Five terms of the series are good to 2e-7 from 3 on, and to 3e-12 from 7 on.
        n = 6 if self.alpha.dtype == jnp.float64 else 2
        da, db = other.alpha - self.alpha, other.beta - self.beta
        at = (self.alpha, self.beta, self.alpha + self.beta)
        ways = tuple(zip(at, (da, db, da + db), (n, n, 2 * n), (1, 1, -1), strict=True))
        gaps = [(sign, d / (x + k)) for x, d, up, sign in ways for k in range(up)]
        gaps += [(0.5 * sign, d / (x + up)) for x, d, up, sign in ways]
        a, b = self.alpha + n, self.beta + n
        turn = (a * db - b * da) / (a + b)
        gaps += [(a + da, turn / (a + da)), (b + db, -turn / (b + db))]
        # All at once: one small program instead of thirty.
        weights = jnp.stack([w * jnp.ones_like(x) for w, x in gaps])
        total = jnp.sum(weights * _log1p_gap(jnp.stack([x for _, x in gaps])), axis=0)
        up = jnp.stack([x + up for x, _, up, _ in ways])
        tails = _stirling_gap(up, jnp.stack([d for _, d, _, _ in ways]))
        return jnp.sum(total + tails[0] + tails[1] - tails[2], axis=-1)

    def fisher(self, tangent: Beta) -> Beta:
        """The Hessian of ln B in (alpha, beta), times v."""
        both = special.polygamma(1, self.alpha + self.beta) * (tangent.alpha + tangent.beta)
        return Beta(
            special.polygamma(1, self.alpha) * tangent.alpha - both,
            special.polygamma(1, self.beta) * tangent.beta - both,
        )
