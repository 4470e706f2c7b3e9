"""Projections: every state's distribution put back into its ball round the old one, differentiably
(Otto et al., 2021; for categoricals and in one exponential-family form, methods.md 3.17.4).

    new -> projected:  min d(projected, new)  subject to  d(projected, old) <= bound, state by state

A distribution inside its ball is returned bit for bit. One outside lands on the boundary, on the
segment from old to new in the metric's own coordinates: natural parameters (precision, logits) for
the KL, the standard deviation for Wasserstein, the covariance for Frobenius. Mean and covariance of
a Gaussian have bounds of their own. Gradients reach `new` only: `old` is data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from surefoot.checks import UsageError, check_number
from surefoot.distributions import (
    Categorical,
    DiagGaussian,
    FullGaussian,
    expm1_minus,
    solve_lower,
)
from surefoot.types import Array, Number

MAX_NEWTON = 40
"""Steps of the root-find at most; three are usual, and a safeguarded step halves the bracket."""
IMPOSSIBLE = -1e4
"""Log-probability, against the most probable action, that an action counts as where only the new
policy calls it impossible."""


class Parts(NamedTuple):
    """How far a distribution is from the old one, apart for mean and covariance, one number a
    state."""

    mean: Array
    """Of the means; for a Categorical, which has no other part, the whole."""
    cov: Array
    """Of the covariances; zero for a Categorical."""


def sum_parts(parts: Parts) -> Array:
    """Mean and covariance together."""
    return parts.mean + parts.cov


@runtime_checkable
class Metric(Protocol):
    """What distance is bounded, and how a distribution is brought back inside."""

    def parts(self, new: Any, old: Any) -> Parts:
        """Both parts of the distance of `new` from `old`."""
        ...

    def project_mean(self, new: Any, old: Any, bound: Number) -> Any:
        """`new` with its mean's part at most `bound`."""
        ...

    def project_cov(self, new: Any, old: Any, bound: Number) -> Any:
        """`new` with its covariance's part at most `bound`."""
        ...

    def distance(self, new: Any, target: Any) -> Array:
        """What regression onto a projection pays, one number a state."""
        ...


def project(
    new: Any, old: Any, metric: Metric, mean_bound: Number = 0.03, cov_bound: Number = 0.001
) -> Any:
    """The distribution closest to `new` within both bounds of `old`, state by state; of the same
    family, differentiable in `new`.

    >>> import jax.numpy as jnp
    >>> from surefoot.distributions import DiagGaussian
    >>> old = DiagGaussian(jnp.zeros((1, 2)), jnp.log(jnp.asarray([[1.0, 0.5]])))
    >>> new = DiagGaussian(jnp.asarray([[1.0, -0.5]]), jnp.log(jnp.asarray([[0.6, 0.9]])))
    >>> bool(jnp.all(abs(project(new, old, KLMetric()).mean) <= jnp.asarray([[0.1733, 0.0867]])))
    True
    """
    return metric.project_cov(metric.project_mean(new, old, mean_bound), old, cov_bound)


@dataclass(frozen=True)
class KLMetric:
    """KL(new || old): mean 1/2 |factor_old^-1 (mean - mean_old)|^2, covariance 1/2 [tr(S_old^-1 S)
    - d + ln |S_old| / |S|], together the KL; for a Categorical the whole KL is the mean's part."""

    def parts(self, new: Any, old: Any) -> Parts:
        """Both parts, in the direction new || old."""
        _known_only(self, new)
        if isinstance(new, Categorical):
            kl = new.kl(old)
            return Parts(kl, jnp.zeros_like(kl))
        return Parts(0.5 * _squared_shift(new, old, True), _kl_of_covariances(new, old))

    def project_mean(self, new: Any, old: Any, bound: Number) -> Any:
        """The mean on the segment from the old one; for a Categorical the logits."""
        _known_only(self, new)
        old = jax.lax.stop_gradient(old)
        if isinstance(new, Categorical):
            return _kl_project_logits(new, old, bound)
        return new.at(_project_mean(new, old, 0.5, True, bound))

    def project_cov(self, new: Any, old: Any, bound: Number) -> Any:
        """The precision on the segment from the old one; a Categorical has none."""
        old = jax.lax.stop_gradient(old)
        if isinstance(new, Categorical):
            return new
        if isinstance(new, FullGaussian):
            return FullGaussian(new.mean, _kl_project_factor(new.factor, old.factor, bound))
        return DiagGaussian(new.mean, _kl_project_log_std(new.log_std, old.log_std, bound))

    def distance(self, new: Any, target: Any) -> Array:
        """KL(new || target)."""
        return sum_parts(self.parts(new, target))


@dataclass(frozen=True)
class WassersteinMetric:
    """Wasserstein-2 of diagonal Gaussians: mean |mean - mean_old|^2, covariance sum (s - s_old)^2;
    `scaled` measures both in units of the old deviation."""

    scaled: bool = True
    """Whether differences are divided by the old standard deviation (the authors' default)."""

    def parts(self, new: Any, old: Any) -> Parts:
        """Both parts."""
        _diagonal_only(self, new)
        spread = _squared_spread(new.log_std, old.log_std, 1, 0 if self.scaled else 1)
        return Parts(_squared_shift(new, old, self.scaled), spread)

    def project_mean(self, new: Any, old: Any, bound: Number) -> Any:
        """The mean on the segment from the old one."""
        _diagonal_only(self, new)
        return new.at(_project_mean(new, jax.lax.stop_gradient(old), 1.0, self.scaled, bound))

    def project_cov(self, new: Any, old: Any, bound: Number) -> Any:
        """The standard deviation on the segment from the old one."""
        old = jax.lax.stop_gradient(old)
        part = self.parts(new, old).cov
        return DiagGaussian(new.mean, _project_spread(new.log_std, old.log_std, 1, part, bound))

    def distance(self, new: Any, target: Any) -> Array:
        """Both parts added up."""
        return sum_parts(self.parts(new, target))


@dataclass(frozen=True)
class FrobeniusMetric:
    """Frobenius norm for diagonal Gaussians: mean |mean - mean_old|^2, covariance sum (s^2 -
    s_old^2)^2; `scaled` measures the mean in units of the old deviation."""

    scaled: bool = True
    """Whether the means' difference is divided by the old standard deviation (the authors'
    default)."""

    def parts(self, new: Any, old: Any) -> Parts:
        """Both parts."""
        _diagonal_only(self, new)
        spread = _squared_spread(new.log_std, old.log_std, 2, 2)
        return Parts(_squared_shift(new, old, self.scaled), spread)

    def project_mean(self, new: Any, old: Any, bound: Number) -> Any:
        """The mean on the segment from the old one."""
        _diagonal_only(self, new)
        return new.at(_project_mean(new, jax.lax.stop_gradient(old), 1.0, self.scaled, bound))

    def project_cov(self, new: Any, old: Any, bound: Number) -> Any:
        """The variance on the segment from the old one."""
        old = jax.lax.stop_gradient(old)
        part = self.parts(new, old).cov
        return DiagGaussian(new.mean, _project_spread(new.log_std, old.log_std, 2, part, bound))

    def distance(self, new: Any, target: Any) -> Array:
        """The mean's part and the squared error of the standard deviations."""
        error = _squared_spread(new.log_std, target.log_std, 1, 1)
        return sum_parts(Parts(_squared_shift(new, target, self.scaled), error))


METRICS = {"kl": KLMetric, "wasserstein": WassersteinMetric, "frobenius": FrobeniusMetric}
"""The names metrics go by in flags and JSON."""


def _known_only(metric: Any, dist: Any) -> None:
    if not isinstance(dist, (Categorical, DiagGaussian, FullGaussian)):
        raise UsageError(
            f"{type(metric).__name__} projects Gaussians and Categoricals, not "
            f"{type(dist).__name__}; allowed: --networks.policy gaussian"
        )


def _diagonal_only(metric: Any, dist: Any) -> None:
    if not isinstance(dist, DiagGaussian):
        raise UsageError(
            f"{type(metric).__name__} knows diagonal Gaussians, not {type(dist).__name__}; "
            "allowed: KLMetric (--method.metric kl)"
        )


# The part of the mean: closed form in every metric.


def _squared_shift(new: Any, old: Any, scaled: bool) -> Array:
    """|mean - mean_old|^2, whitened by the old covariance where `scaled`."""
    shift = new.mean - old.mean
    if scaled:
        full = isinstance(old, FullGaussian)
        shift = old.whiten(shift) if full else shift * jnp.exp(-old.log_std)
    return jnp.sum(shift**2, axis=-1)


def _shrink(part: Array, bound: Number) -> tuple[Array, Array]:
    """(outside, the factor that puts a quadratic part on its bound), both [..., 1]; the factor is
    1, with no derivative, inside."""
    outside = part > bound
    # Both kept apart from what is not used, or an infinite bound, or a part of zero, would make the
    # derivative of the other branch NaN.
    limit, safe = jnp.where(outside, bound, 1).astype(part.dtype), jnp.where(outside, part, 1)
    return outside[..., None], jnp.sqrt(limit / safe)[..., None]


def _project_mean(new: Any, old: Any, weight: float, scaled: bool, bound: Number) -> Array:
    """mean_old + (mean - mean_old) sqrt(bound / part) outside the ball of weight * the squared
    distance."""
    outside, scale = _shrink(weight * _squared_shift(new, old, scaled), bound)
    shift = new.mean - old.mean
    landed = old.mean + jnp.broadcast_to(scale, shift.shape) * shift
    return jnp.where(outside, landed, new.mean)


# The part of the covariance where it is quadratic in sigma^power: closed form.


def _squared_spread(log_std: Array, old: Array, power: int, unit: int) -> Array:
    """sum of (s^power - s_old^power)^2, over s_old^(2 power) where `unit` is 0."""
    change = jnp.expm1(power * (log_std - old))
    return jnp.sum((change * jnp.exp(unit * old)) ** 2, axis=-1)


def _between(log_std: Array, old: Array, t: Array, power: int) -> Array:
    """Log sigma where sigma^power is t of the way from the old to the new."""
    return old + jnp.log1p(t * jnp.expm1(power * (log_std - old))) / power


def _project_spread(log_std: Array, old: Array, power: int, part: Array, bound: Number) -> Array:
    """Log sigma with `part` at most the bound, on the segment of sigma^power."""
    outside, scale = _shrink(part, bound)
    inner = jnp.where(outside, log_std, old)
    landed = _between(inner, old, jnp.broadcast_to(scale, old.shape), power)
    return jnp.where(outside, landed, log_std)


# The KL: u is the difference of natural parameters, t in (0, 1] the place between old and new, F
# the Fisher matrix there. KL(t) grows from 0 and d KL / dt = t u'Fu. In coordinates whitened by the
# old covariance the old precision is I.


class Place(NamedTuple):
    """What the root-find reads at a place t: the KL from the old distribution, and u'Fu."""

    kl: Array
    slope: Array


def newton_root(
    line: Callable[[Array], Place], bound: Number, outside: Array, reach: Array
) -> Array:
    """t in (0, reach] with KL(t) = bound on the rows that are `outside`, where KL(reach) is above
    it; `reach` on the others. Shape [...].

    Newton in (log t, log KL), where a quadratic KL is a straight line, from the root of the
    quadratic model at the old distribution (from `reach` where that is near), inside a bracket that
    shrinks: a step that leaves it becomes a halving, and a KL that overflows is above the bound. A
    row that has converged is frozen, so no row depends on its neighbours. A row that is NaN stays
    where it is.
    """
    zero = jnp.zeros_like(reach)
    limit = jnp.where(outside, bound, 1).astype(reach.dtype)
    first = jnp.sqrt(2 * limit / jnp.maximum(line(zero).slope, 1e-30))
    start = jnp.where(outside & (first < 0.5 * reach), first, reach)
    # One step of quadratic convergence from here is rounding.
    close = float(jnp.finfo(reach.dtype).eps) ** 0.5

    def go_on(state: tuple[Array, ...]) -> Array:
        return jnp.any(state[3]) & (state[4] < MAX_NEWTON)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        t, low, high, active, count = state
        kl, slope = line(t)
        low, high = jnp.where(kl < limit, t, low), jnp.where(kl < limit, high, t)
        miss = jnp.log(limit / kl)
        newton = t * jnp.exp(miss * kl / (t * t * slope))
        there = jnp.abs(miss) <= close
        safe = there | ((newton >= low) & (newton <= high))
        moved = jnp.where(safe, jnp.clip(newton, low, high), 0.5 * (low + high))
        return jnp.where(active, moved, t), low, high, active & ~there, count + 1

    state = (start, zero, reach, outside, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(go_on, step, state)[0]


def implicit(t: Array, slope: Array, change: Array) -> Array:
    """t with the derivative of the root: `change` is <F u, u> with F u held fixed, less its own
    value, so that it is zero and its derivative is <F u, du>; `slope` is u'Fu.

    From KL(t) = bound, dt = -t <F u, du> / u'Fu. Then t u moves by t (du - u <F u, du> / u'Fu): the
    scaled projection orthogonal, in the Fisher metric, to the direction towards the old
    distribution.
    """
    return t * (1 - change / jnp.where(slope > 0, slope, 1))


def _unit(u: Array) -> tuple[Array, Array]:
    """(largest |u|, [...]; u over it, [..., d]): squares of what e^40 separates would overflow."""
    size = jnp.max(jnp.abs(u), axis=-1)
    size = jnp.where(size > 0, size, 1)
    return size, u / jnp.broadcast_to(size[..., None], u.shape)


def _kl_of_covariances(new: Any, old: Any) -> Array:
    """The covariance part of KL(new || old), with no term that cancels."""
    if isinstance(new, DiagGaussian):
        return 0.5 * jnp.sum(expm1_minus(2 * (new.log_std - old.log_std)), axis=-1)
    return FullGaussian(old.mean, new.factor).kl(old)


def _precision_line(v: Array) -> Callable[[Array], Place]:
    """For precisions that are I + t diag(v) in whitened coordinates, v [..., d]."""

    def line(t: Array) -> Place:
        move = jnp.broadcast_to(t[..., None], v.shape) * v
        kl = 0.5 * jnp.sum(expm1_minus(-jnp.log1p(move)), axis=-1)
        return Place(kl, 0.5 * jnp.sum((v / (1 + move)) ** 2, axis=-1))

    return line


def _kl_project_log_std(log_std: Array, old: Array, bound: Number) -> Array:
    """Log sigma with the covariance part of the KL at most `bound`: precisions in between."""
    fixed = jax.lax.stop_gradient(log_std)
    outside = 0.5 * jnp.sum(expm1_minus(2 * (fixed - old)), axis=-1) > bound
    rows = outside[..., None]
    delta = jnp.expm1(2 * (old - jnp.where(rows, log_std, old)))  # u, whitened; 0 inside
    fixed = jax.lax.stop_gradient(delta)
    size, v = _unit(fixed)
    line = _precision_line(v)
    reach = newton_root(line, bound, outside, size)
    weight = 0.5 * v / (1 + reach[..., None] * v) ** 2  # F u, over its size
    change = jnp.sum(weight * (delta - fixed), axis=-1) / size
    t = implicit(reach / size, line(reach).slope, change)[..., None]
    return jnp.where(rows, old - 0.5 * jnp.log1p(t * delta), log_std)


def _matmul(a: Array, b: Array) -> Array:
    """a @ b for many small matrices: on a CPU a sum of products takes a fifth of the time of the
    batched product."""
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def _kl_project_factor(factor: Array, old: Array, bound: Number) -> Array:
    """Cholesky factor with the covariance part of the KL at most `bound`: precisions in between.

    One eigendecomposition a state, of the covariance in whitened coordinates, makes it the diagonal
    problem; it is not differentiated, so equal eigenvalues do no harm.
    """
    fixed, zero = jax.lax.stop_gradient(factor), jnp.zeros_like(old[..., 0])
    outside = FullGaussian(zero, fixed).kl(FullGaussian(zero, old)) > bound
    rows = outside[..., None, None]
    eye = jnp.broadcast_to(jnp.eye(old.shape[-1], dtype=old.dtype), old.shape)
    flip = lambda x: jnp.swapaxes(x, -1, -2)  # noqa: E731
    x = solve_lower(old, jnp.where(rows, factor, old) - old)
    m = eye + x  # the new factor, whitened
    excess = x + flip(x) + _matmul(x, flip(x))  # the new covariance, whitened, less I
    fixed = jax.lax.stop_gradient(excess)
    values, vectors = jnp.linalg.eigh(fixed)
    delta = -values / (1 + values)  # u: precisions less I
    size, v = _unit(delta)
    line = _precision_line(v)
    reach = newton_root(line, bound, outside, size)
    # <F u, du> with du = - P dE P, where P = I + u is the new precision and E the excess.
    weight = -0.5 * v * ((1 + delta) / (1 + reach[..., None] * v)) ** 2
    matrix = _matmul(vectors * weight[..., None, :], flip(vectors))
    change = jnp.sum(matrix * (excess - fixed), axis=(-2, -1)) / size
    t = implicit(reach / size, line(reach).slope, change)[..., None, None]
    # The covariance in between, whitened, is m (t I + (1 - t) m'm)^-1 m'. With W W' = t I + (1 - t)
    # m'm and W upper triangular, m W^-T is its lower factor.
    middle = eye + (1 - t) * (_matmul(flip(m), m) - eye)
    reverse = (Ellipsis, slice(None, None, -1), slice(None, None, -1))
    upper = jnp.linalg.cholesky(middle[reverse])[reverse]
    root = jax.lax.linalg.triangular_solve(upper, flip(m), left_side=True, lower=False)
    return jnp.where(rows, _matmul(old, jnp.tril(flip(root))), factor)


def _tilted_line(log_q: Array, u: Array) -> Callable[[Array], Place]:
    """For categoricals q exp(t u) / Z, u [..., K]."""

    def line(t: Array) -> Place:
        tilt = jnp.broadcast_to(t[..., None], u.shape) * u
        log_z = jax.nn.logsumexp(log_q + tilt, axis=-1, keepdims=True)
        p, d = jnp.exp(log_q + tilt - log_z), log_z - tilt  # d = log q - log p
        spread = u - jnp.sum(p * u, axis=-1, keepdims=True)
        # As in Categorical.kl: an error in log_z enters squared.
        return Place(jnp.sum(p * expm1_minus(d), axis=-1), jnp.sum(p * spread**2, axis=-1))

    return line


def _kl_project_logits(new: Categorical, old: Categorical, bound: Number) -> Categorical:
    """The Categorical with KL(projected || old) at most `bound`: logits in between.

    What the old policy calls impossible (a logit of -inf) stays impossible.
    """
    outside = jax.lax.stop_gradient(new).kl(old) > bound
    rows = outside[..., None]
    possible = rows & (old.logits > -jnp.inf)
    floor = jax.lax.stop_gradient(jnp.max(new.logits, axis=-1, keepdims=True)) + IMPOSSIBLE
    wanted = jnp.where(new.logits > -jnp.inf, new.logits, floor)
    u = jnp.where(possible, wanted, 0) - jnp.where(possible, old.logits, 0)
    log_q = old.log_p
    u = u - jnp.sum(jnp.exp(log_q) * u, axis=-1, keepdims=True)  # a common shift is none
    fixed = jax.lax.stop_gradient(u)
    line = _tilted_line(log_q, fixed)
    t = newton_root(line, bound, outside, jnp.ones_like(u[..., 0]))
    tilted = Categorical(log_q + t[..., None] * fixed)
    weight = tilted.fisher(Categorical(fixed)).logits  # F u
    change = jnp.sum(weight * (u - fixed), axis=-1)
    t = implicit(t, line(t).slope, change)[..., None]
    return Categorical(jnp.where(rows, old.logits + t * u, new.logits))


# Entropy: the value asked for, which falls over the run.


@runtime_checkable
class EntropyControl(Protocol):
    """Which entropy is asked of every state's distribution."""

    def floor(self, initial: Number, size: int, progress: Number) -> Number | None:
        """Entropy asked for at a share of the run, in nats, given that of the first policy and the
        number of action dimensions; None asks for nothing."""
        ...


@dataclass(frozen=True)
class FreeEntropy:
    """No control of the entropy."""

    def floor(self, initial: Number, size: int, progress: Number) -> None:
        """Nothing is asked for."""
        return None


@dataclass(frozen=True)
class LinearEntropy:
    """A straight line from the entropy of the first policy to `target` a dimension."""

    target: float = 0.0
    """Entropy at the end, a dimension, in nats."""

    def __post_init__(self) -> None:
        check_number(self, "target", open_low=True, open_high=True)

    def floor(self, initial: Number, size: int, progress: Number) -> Number:
        """initial + progress (size target - initial)."""
        return initial + progress * (size * self.target - initial)


@dataclass(frozen=True)
class ExponentialEntropy:
    """An exponential from the entropy of the first policy: size target + (initial - size target)
    T^(10 progress)."""

    target: float = 0.0
    """Entropy it tends to, a dimension, in nats."""
    temperature: float = 0.5
    """T: the share of the way that is left after a tenth of the run."""

    def __post_init__(self) -> None:
        check_number(self, "target", open_low=True, open_high=True)
        check_number(self, "temperature", low=0, high=1, open_low=True)

    def floor(self, initial: Number, size: int, progress: Number) -> Number:
        """size target + (initial - size target) T^(10 progress)."""
        goal = size * self.target
        return goal + (initial - goal) * self.temperature ** (10 * progress)


ENTROPIES = {
    "free": FreeEntropy,
    "linear": LinearEntropy,
    "exponential": ExponentialEntropy,
}
"""The names entropy controls go by in flags and JSON."""


def raise_entropy(dist: Any, floor: Number | None, equality: bool = False) -> Any:
    """A Gaussian with every deviation scaled by exp((floor - H) / d) where its entropy H is below
    `floor`, or everywhere where `equality`; itself where nothing is asked for. Raises `UsageError`
    for a Categorical."""
    if floor is None:
        return dist
    if isinstance(dist, Categorical):
        raise UsageError("entropy is controlled for Gaussians only; allowed: FreeEntropy()")
    gap = floor - dist.entropy()
    gap = gap if equality else jnp.where(gap > 0, gap, 0)
    each = (gap / dist.mean.shape[-1])[..., None]
    if isinstance(dist, FullGaussian):
        return FullGaussian(dist.mean, dist.factor * jnp.exp(each)[..., None])
    return DiagGaussian(dist.mean, dist.log_std + each)
