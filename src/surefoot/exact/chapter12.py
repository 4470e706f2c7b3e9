"""Chapter 12 of *Algorithms for Decision Making* (Kochenderfer, Wheeler and Wray, 2022): its six
updates as functions of whole trajectories.

Notation of the book: theta the parameters, tau a trajectory, R(tau) its discounted return, U the
expected utility, F the Fisher matrix, f the surrogate objective and g the surrogate constraint.
Likelihood, gradient and KL come from the library's own distributions by automatic differentiation,
in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from surefoot.checks import check_count, check_number
from surefoot.distributions import Categorical, DiagGaussian
from surefoot.exact.problems import Problem
from surefoot.exact.tabular import Array

Parametrised = Callable[[Any, Any], Any]
"""`(theta [n], states [..., d]) -> distribution`, a hashable function or record on jax arrays."""


@dataclass(frozen=True)
class Gaussian:
    """a ~ N(t1, t2^2), whatever the state (example 11.3)."""

    def __call__(self, theta: Any, state: Any) -> DiagGaussian:
        mean = jnp.broadcast_to(theta[0], state.shape)
        return DiagGaussian(mean, jnp.broadcast_to(jnp.log(jnp.abs(theta[1])), state.shape))


@dataclass(frozen=True)
class LinearGaussian:
    """a ~ N(K s, (|t| + floor)^2): theta is the rows of K, [actions, states], and then t for each
    action. With one state and one action it is the book's N(t1 s, (|t2| + 1e-5)^2)."""

    actions: int = 1
    floor: float = 1e-5

    def __call__(self, theta: Any, state: Any) -> DiagGaussian:
        gain = theta[: -self.actions].reshape(self.actions, -1)
        mean = state @ gain.T
        std = jnp.abs(theta[-self.actions :]) + self.floor
        return DiagGaussian(mean, jnp.broadcast_to(jnp.log(std), mean.shape))


@dataclass(frozen=True)
class LinearSoftmax:
    """Logits linear in the state and a constant: theta is [actions, states + 1], row by row."""

    actions: int

    def __call__(self, theta: Any, state: Any) -> Categorical:
        one = jnp.ones((*state.shape[:-1], 1), theta.dtype)
        features = jnp.concatenate([state.astype(theta.dtype), one], -1)
        return Categorical(features @ theta.reshape(self.actions, -1).T)


class Trajectories(NamedTuple):
    """m trajectories of depth d."""

    state: Array
    """[m, d, states]."""
    action: Array
    """[m, d] or [m, d, actions]."""
    reward: Array
    """[m, d]; 0 after an end."""
    counts: Array
    """Whether a step was taken, [m, d]: False after an end."""

    def mean(self, x: Array) -> Array:
        """Mean over the steps of each trajectory, then over trajectories: a short one weighs as
        much as a long one (Algorithms 12.5 and 12.6)."""
        return np.mean(np.sum(np.where(self.counts, x, 0), -1) / self.counts.sum(-1))

    def discounts(self, gamma: float) -> Array:
        """gamma^(k - 1) at step k, [d]."""
        return gamma ** np.arange(self.reward.shape[1])

    def returns(self, gamma: float) -> Array:
        """R(tau), [m]."""
        return np.sum(self.discounts(gamma) * self.reward, -1)

    def to_go(self, gamma: float) -> Array:
        """R(tau, k) = sum_{l >= k} r_l gamma^(l - 1), [m, d]: discounted to the first step, so that
        it weighs states by gamma^(k - 1) (the book's footnote 7)."""
        late = (self.discounts(gamma) * self.reward)[:, ::-1]
        return np.cumsum(late, -1)[:, ::-1]


def simulate(
    problem: Problem, policy: Parametrised, theta: Array, depth: int, samples: int, seed: int
) -> Trajectories:
    """`samples` trajectories of a policy to a depth."""
    rng = np.random.default_rng(seed)
    state = problem.reset(rng, samples)
    alive, rows = np.ones(samples, bool), []
    for _ in range(depth):
        action = _sample(policy, theta, state, int(rng.integers(2**31)))
        reward, after, ended = problem.step(state, action, rng)
        rows.append((state, action, np.where(alive, reward, 0), alive))
        alive = alive & ~ended
        state = after
    return Trajectories(*(np.stack(x, 1) for x in zip(*rows, strict=True)))


def _double(function: Callable) -> Callable:
    """A function of (policy, arrays...) compiled once a policy, and run in float64."""
    compiled = jax.jit(function, static_argnums=0)

    def run(policy: Parametrised, *args: Any) -> Array:
        with jax.enable_x64(True):
            return np.asarray(compiled(policy, *args))

    return run


@_double
def _sample(policy: Any, theta: Any, state: Any, seed: Any) -> Any:
    return policy(theta, state).sample(jax.random.key(seed))


@_double
def log_likelihood(policy: Any, theta: Any, state: Any, action: Any) -> Any:
    """log pi_theta(a|s) of every step, [m, d]."""
    return policy(theta, state).log_prob(action)


@_double
def kl_each(policy: Any, theta: Any, new: Any, state: Any) -> Any:
    """KL(pi_theta || pi_new) at every state, [m, d]."""
    return policy(theta, state).kl(policy(new, state))


@_double
def scores(policy: Any, theta: Any, weight: Any, state: Any, action: Any) -> Any:
    """sum_k weight_k grad log pi_theta(a_k|s_k) of every trajectory, [m, n]."""

    def one(t: Any, w: Any, s: Any, a: Any) -> Any:
        return jnp.sum(w * policy(t, s).log_prob(a))

    return jax.vmap(jax.grad(one), (None, 0, 0, 0))(theta, weight, state, action)


def gradients(
    policy: Parametrised, theta: Array, tau: Trajectories, gamma: float, to_go: bool = False
) -> tuple[Array, Array]:
    """grad U(tau) [m, n] and the scores sum_k grad log pi [m, n] of every trajectory.

    grad U(tau) is the scores times the whole return (Algorithms 12.3 to 12.5), or, with `to_go`,
    each score times the reward from there on (equation 11.26), which has the same mean and less
    variance.
    """
    one = tau.counts.astype(float)
    s = scores(policy, theta, one, tau.state, tau.action)
    if to_go:
        return scores(policy, theta, one * tau.to_go(gamma), tau.state, tau.action), s
    return s * tau.returns(gamma)[:, None], s


def scale_gradient(g: Array, largest: float = 1.0) -> Array:
    """Shrunk to an L2 norm of at most `largest`; its direction stays (Algorithm 12.2)."""
    norm = np.linalg.norm(g)
    return g * min(largest / norm, 1) if norm > 0 else g


def clip_gradient(g: Array, low: float = -1.0, high: float = 1.0) -> Array:
    """Every entry cut to [low, high]; its direction may turn (Algorithm 12.2)."""
    return np.clip(g, low, high)


def restricted_step(theta: Array, g: Array, epsilon: float) -> Array:
    """theta + sqrt(2 epsilon) g / ||g|| (12.6); theta itself where the gradient is zero."""
    norm = np.linalg.norm(g)
    return theta + g * np.sqrt(2 * epsilon) / norm if norm > 0 else theta


def natural_direction(g: Array, F: Array, damping: float = 0.0) -> Array:
    """u = F^-1 g (12.13). F of m trajectories has rank m at most; g lies in its range, and the
    smallest solution is taken."""
    return np.linalg.lstsq(F + damping * np.eye(len(g)), g)[0]


def natural_step(theta: Array, g: Array, F: Array, epsilon: float, damping: float = 0.0) -> Array:
    """theta + u sqrt(2 epsilon / g'u) (12.12); theta itself where g'u is not positive."""
    u = natural_direction(g, F, damping)
    slope = g @ u
    return theta + u * np.sqrt(2 * epsilon / slope) if slope > 0 else theta


class Search(NamedTuple):
    """How a line search ended."""

    theta: Array
    halvings: int
    """How often the step shrank."""
    accepted: bool
    """False: nothing was accepted, and theta is where it began."""


def line_search(
    f: Callable[[Array], Any],
    g: Callable[[Array], Any],
    theta: Array,
    candidate: Array,
    epsilon: float,
    shrink: float = 0.5,
    most: int = 30,
) -> Search:
    """theta' <- theta + shrink (theta' - theta) until f(theta') > f(theta) and g(theta') <= epsilon
    (12.20, Algorithm 12.5).

    The book's loop has no end where nothing improves (f(theta') tends to f(theta), and the test is
    strict); here theta is kept after `most` shrinkings.
    """
    start = f(theta)
    for k in range(most + 1):
        if g(candidate) <= epsilon and f(candidate) > start:
            return Search(candidate, k, True)
        candidate = theta + shrink * (candidate - theta)
    return Search(theta, most, False)


def surrogate_objective(
    policy: Parametrised, theta: Array, new: Array, tau: Trajectories, gamma: float
) -> Array:
    """f(theta, theta') = mean over tau of the mean over its steps of ratio * R(tau, k) (12.18)."""
    ratio = np.exp(_log_ratio(policy, theta, new, tau))
    return tau.mean(ratio * tau.to_go(gamma))


def surrogate_constraint(
    policy: Parametrised, theta: Array, new: Array, tau: Trajectories, gamma: float
) -> Array:
    """g(theta, theta') = mean over tau of the mean over its steps of KL gamma^(k - 1) (12.19)."""
    return tau.mean(kl_each(policy, theta, new, tau.state) * tau.discounts(gamma))


def _log_ratio(policy: Parametrised, theta: Array, new: Array, tau: Trajectories) -> Array:
    log = [log_likelihood(policy, t, tau.state, tau.action) for t in (new, theta)]
    return np.where(tau.counts, log[0] - log[1], 0)


def surrogate_gradient(
    policy: Parametrised,
    theta: Array,
    new: Array,
    tau: Trajectories,
    gamma: float,
    clip: float | None = None,
) -> Array:
    """The gradient of f in theta' (12.23); with `clip` the gradient of the lower bound (12.22),
    where steps whose ratio is past 1 +- clip in the direction that pays add nothing."""
    ratio, q = np.exp(_log_ratio(policy, theta, new, tau)), tau.to_go(gamma)
    weight = ratio * q
    if clip is not None:
        flat = ((q > 0) & (ratio > 1 + clip)) | ((q < 0) & (ratio < 1 - clip))
        weight = np.where(flat, 0, weight)
    weight = np.where(tau.counts, weight, 0) / tau.counts.sum(-1, keepdims=True)
    return np.mean(scores(policy, new, weight, tau.state, tau.action), 0)


@runtime_checkable
class Update(Protocol):
    """One of the chapter's updates: from parameters and trajectories drawn with them to new
    parameters. `k` counts the updates before it."""

    def __call__(
        self, policy: Parametrised, theta: Array, tau: Trajectories, gamma: float, k: int = 0
    ) -> Array: ...


@dataclass(frozen=True)
class GradientAscent:
    """theta + alpha decay^k grad U (Algorithm 12.1), the gradient scaled or clipped first where
    asked (Algorithm 12.2)."""

    alpha: float = 0.2
    """Step factor."""
    decay: float = 1.0
    """What the step factor is multiplied by after every update."""
    scale: float | None = None
    """Largest L2 norm of the gradient."""
    clip: float | None = None
    """Largest entry of the gradient, either way; after scaling."""
    to_go: bool = False
    """Whether scores are weighed by the reward from there on instead of the whole return."""

    def __post_init__(self) -> None:
        check_number(self, "alpha", low=0, open_low=True, open_high=True)
        check_number(self, "decay", low=0, high=1, open_low=True)
        check_number(self, "scale", low=0, open_low=True, optional=True)
        check_number(self, "clip", low=0, open_low=True, optional=True)

    def __call__(
        self, policy: Parametrised, theta: Array, tau: Trajectories, gamma: float, k: int = 0
    ) -> Array:
        g = gradients(policy, theta, tau, gamma, self.to_go)[0].mean(0)
        if self.scale is not None:
            g = scale_gradient(g, self.scale)
        if self.clip is not None:
            g = clip_gradient(g, -self.clip, self.clip)
        return theta + self.alpha * self.decay**k * g


@dataclass(frozen=True)
class Restricted:
    """The best step of a given length (Algorithm 12.3)."""

    epsilon: float = 0.1
    """Half the squared length."""
    to_go: bool = False

    def __post_init__(self) -> None:
        check_number(self, "epsilon", low=0, open_low=True, open_high=True)

    def __call__(
        self, policy: Parametrised, theta: Array, tau: Trajectories, gamma: float, k: int = 0
    ) -> Array:
        g = gradients(policy, theta, tau, gamma, self.to_go)[0].mean(0)
        return restricted_step(theta, g, self.epsilon)


@dataclass(frozen=True)
class Natural:
    """The natural gradient step (Algorithm 12.4), F the mean outer product of the scores of whole
    trajectories."""

    epsilon: float = 0.1
    """Quadratic model of the KL between distributions of trajectories: about depth times the KL a
    step that TRPO of the literature bounds."""
    damping: float = 0.0
    """Added to the diagonal of F."""
    to_go: bool = False

    def __post_init__(self) -> None:
        check_number(self, "epsilon", low=0, open_low=True, open_high=True)
        check_number(self, "damping", low=0, open_high=True)

    def __call__(
        self, policy: Parametrised, theta: Array, tau: Trajectories, gamma: float, k: int = 0
    ) -> Array:
        g, s = gradients(policy, theta, tau, gamma, self.to_go)
        F = s.T @ s / len(s)
        return natural_step(theta, g.mean(0), F, self.epsilon, self.damping)


@dataclass(frozen=True)
class TrustRegion:
    """The natural step, then a line search on the surrogate objective and constraint (Algorithm
    12.5)."""

    epsilon: float = 0.1
    shrink: float = 0.5
    most: int = 30
    """Shrinkings before theta is kept (the book's loop has no bound)."""
    damping: float = 0.0
    to_go: bool = False

    def __post_init__(self) -> None:
        check_number(self, "epsilon", low=0, open_low=True, open_high=True)
        check_number(self, "shrink", low=0, high=1, open_low=True, open_high=True)
        check_count(self, "most", low=0)
        check_number(self, "damping", low=0, open_high=True)

    def search(self, policy: Parametrised, theta: Array, tau: Trajectories, gamma: float) -> Search:
        """The update, with how its search went."""
        f = partial(surrogate_objective, policy, theta, tau=tau, gamma=gamma)
        g = partial(surrogate_constraint, policy, theta, tau=tau, gamma=gamma)
        natural = Natural(self.epsilon, self.damping, self.to_go)
        candidate = natural(policy, theta, tau, gamma)
        return line_search(f, g, theta, candidate, self.epsilon, self.shrink, self.most)

    def __call__(
        self, policy: Parametrised, theta: Array, tau: Trajectories, gamma: float, k: int = 0
    ) -> Array:
        return self.search(policy, theta, tau, gamma).theta


@dataclass(frozen=True)
class ClampedSurrogate:
    """Plain gradient ascent on the clamped lower bound, several steps on the same trajectories
    (Algorithm 12.6)."""

    epsilon: float = 0.2
    """How far a ratio may go before its step stops counting."""
    alpha: float = 0.01
    """Step factor."""
    iterations: int = 10

    def __post_init__(self) -> None:
        check_number(self, "epsilon", low=0, open_low=True)
        check_number(self, "alpha", low=0, open_low=True, open_high=True)
        check_count(self, "iterations")

    def __call__(
        self, policy: Parametrised, theta: Array, tau: Trajectories, gamma: float, k: int = 0
    ) -> Array:
        new = theta
        for _ in range(self.iterations):
            g = surrogate_gradient(policy, theta, new, tau, gamma, self.epsilon)
            new = new + self.alpha * g
        return new


def improve(
    problem: Problem,
    policy: Parametrised,
    theta: Array,
    update: Update,
    *,
    depth: int,
    samples: int,
    updates: int,
    seed: int = 0,
) -> Array:
    """Parameters before and after each of `updates` updates, [updates + 1, n], each on trajectories
    of its own."""
    path = [np.asarray(theta, float)]
    seeds = np.random.SeedSequence(seed).generate_state(updates)
    for k in range(updates):
        tau = simulate(problem, policy, path[-1], depth, samples, int(seeds[k]))
        path.append(update(policy, path[-1], tau, problem.gamma, k))
    return np.array(path)
