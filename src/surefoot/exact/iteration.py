"""Policy iteration that cannot get worse: TRPO's bound maximised exactly, conservative and safe
policy iteration, mirror descent. Every update is checked to be monotone and above its bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from surefoot.checks import check_number
from surefoot.exact.ball import maximise_in_ball, root
from surefoot.exact.bounds import TRPO_FACTOR, penalty
from surefoot.exact.tabular import (
    Array,
    Evaluation,
    TabularMDP,
    evaluate,
    expected,
    greedy,
    kl,
    surrogate,
)

SLACK = 1e-9
"""How far rounding may put a performance below what was promised, relative to its scale."""
SMALLEST, LARGEST = np.log(1e-100), np.log(1e3)
"""Logs of the budgets that are looked at: below, nothing is left to gain, above, a policy is greedy
to the last digit."""


class BoundBroken(ArithmeticError):
    """An update was worse than what it promised: an error of the library, or of the theory."""


class Step(NamedTuple):
    """What a rule proposes."""

    policy: Array
    """[..., S, A]."""
    bound: Array
    """What its performance is promised to be at least, [...]."""
    size: Array
    """How far it went, [...]: the KL budget, the mixture's share, or the temperature."""


Rule = Callable[[TabularMDP, Array, Evaluation], Step]
"""From a policy and its evaluation to a policy that is promised to be no worse."""


@dataclass(frozen=True)
class BoundedPolicyIteration:
    """Maximise M(new) = L(new) - C max_s KL(old || new) over all policies (Schulman et al., 2015,
    Algorithm 1), C = factor * epsilon gamma / (1 - gamma)^2.

    The penalty is on a maximum over states, so for each budget k every state by itself is
    maximised in its KL ball of radius k (`maximise_in_ball`); M is concave in k, and its derivative
    is sum_s rho(s) m_s(k) - C with m_s the multiplier of state s: one root in k solves it.
    """

    factor: float = TRPO_FACTOR
    """4 in TRPO, 2 by Pinsker's inequality; below 2 nothing is proven."""

    def __post_init__(self) -> None:
        check_number(self, "factor", low=2, open_high=True)

    def __call__(self, mdp: TabularMDP, policy: Array, old: Evaluation) -> Step:
        cost = penalty(mdp, old, self.factor)

        def inner(log_k: Array) -> tuple[Array, Array]:
            budget = np.broadcast_to(np.exp(log_k)[..., None], old.value.shape)
            return maximise_in_ball(policy, old.advantage, budget)

        def excess(log_k: Array) -> Array:
            gain = np.sum(old.visitation * inner(log_k)[1], -1)
            return np.log(np.maximum(gain, 1e-300)) - np.log(np.maximum(cost, 1e-300))

        # For small k the multiplier of a state is its deviation of A over sqrt(2 k).
        centred = old.advantage - expected(policy, old.advantage)[..., None]
        spread = np.sqrt(expected(policy, centred**2))
        guess = np.sum(old.visitation * spread, -1) / np.maximum(cost, 1e-300)
        middle = 2 * np.log(np.maximum(guess, 1e-100)) - np.log(2)
        low, high = bracket(excess, middle)
        log_k = root(excess, low, high)
        new, _ = inner(log_k)
        worst = np.max(kl(policy, new), -1)
        return _no_worse(Step(new, surrogate(old, new) - cost * worst, worst), policy, old)


def bracket(f: Callable[[Array], Array], middle: Array) -> tuple[Array, Array]:
    """Ends round `middle` between which a falling f changes sign, found in growing steps."""
    middle = np.clip(middle, SMALLEST, LARGEST)
    low, high = middle - 0.5, middle + 0.5
    step = 1.0
    for _ in range(12):
        up, down = f(high) > 0, f(low) < 0
        if not (up.any() or down.any()):
            break
        high = np.where(up, np.minimum(high + step, LARGEST), high)
        low = np.where(down, np.maximum(low - step, SMALLEST), low)
        step *= 2
    return low, high


def _no_worse(step: Step, policy: Array, old: Evaluation) -> Step:
    """The proposal, or the old policy where it promises no more than that has."""
    better = step.bound > old.performance
    return Step(
        np.where(better[..., None, None], step.policy, policy),
        np.where(better, step.bound, old.performance),
        np.where(better, step.size, 0),
    )


@dataclass(frozen=True)
class ConservativePolicyIteration:
    """Mix the greedy policy in: new = (1 - alpha) old + alpha greedy (Kakade and Langford, 2002),
    with the alpha that maximises the bound L - 2 epsilon gamma alpha^2 / (1 - gamma)^2, where
    epsilon = max_s |E_greedy A(s, a)| (TRPO, equation 6).

    A mixture of policies, not of parameters.
    """

    sharp: bool = False
    """Whether to maximise the bound with (1 - gamma)(1 - gamma(1 - alpha)) below (Kakade and
    Langford's theorem 4.1) instead."""

    def __call__(self, mdp: TabularMDP, policy: Array, old: Evaluation) -> Step:
        target, gamma = greedy(old.advantage), mdp.discount
        a = expected(target, old.advantage)
        gain, epsilon = np.sum(old.visitation * a, -1), np.max(np.abs(a), -1)
        c = 2 * epsilon * gamma / (1 - gamma)
        if self.sharp:
            alpha = _sharpest(gain, c, gamma)
            loss = c * alpha**2 / (1 - gamma * (1 - alpha))
        else:
            alpha = _ratio(gain * (1 - gamma), 2 * c)
            loss = c * alpha**2 / (1 - gamma)
        new = mixture(policy, target, alpha)
        return Step(new, old.performance + alpha * gain - loss, alpha)


def _ratio(x: Array, y: Array) -> Array:
    """min(1, x / y), 0 where x is, 1 where only y is."""
    return np.where(x > 0, np.minimum(1, x / np.where(y > 0, y, 1) + (y <= 0)), 0)


def _sharpest(gain: Array, c: Array, gamma: Array) -> Array:
    """The alpha in [0, 1] that maximises gain alpha - c alpha^2 / (1 - gamma + gamma alpha)."""
    # With z = 1 - gamma + gamma alpha the derivative is
    # gain - (c / gamma) (1 - (1 - gamma)^2 / z^2).
    slope = c - gain * gamma
    z = np.sqrt(np.where(slope > 0, c / np.where(slope > 0, slope, 1), np.inf)) * (1 - gamma)
    alpha = (z - (1 - gamma)) / np.where(gamma > 0, gamma, 1)
    return np.where(gain > 0, np.where(gamma > 0, np.minimum(alpha, 1), 1), 0)


def mixture(policy: Array, target: Array, alpha: Array) -> Array:
    """(1 - alpha) policy + alpha target, in every state alike."""
    alpha = alpha[..., None, None]
    return (1 - alpha) * policy + alpha * target


@dataclass(frozen=True)
class SafePolicyIteration:
    """The same mixture with a sharper bound (Pirotta et al., 2013, one parameter for all states):
    L - alpha^2 gamma d D / (2 (1 - gamma)^2), where d = max_s ||greedy - old||_1 and D is the range
    over states of E_greedy A(s, a).

    Visitations of both policies have the same mass, so only the range of the expected advantage can
    hurt, not its size.
    """

    def __call__(self, mdp: TabularMDP, policy: Array, old: Evaluation) -> Step:
        target, gamma = greedy(old.advantage), mdp.discount
        a = expected(target, old.advantage)
        gain = np.sum(old.visitation * a, -1)
        distance = np.max(np.sum(np.abs(target - policy), -1), -1)
        c = gamma * distance * np.ptp(a, -1) / (2 * (1 - gamma) ** 2)
        alpha = _ratio(gain, 2 * c)
        bound = old.performance + alpha * gain - c * alpha**2
        return Step(mixture(policy, target, alpha), bound, alpha)


@dataclass(frozen=True)
class MirrorDescent:
    """new(a|s) proportional to old(a|s) exp(A(s, a) / beta): the policy that maximises E_new A -
    beta KL(new || old) in every state.

    No step is too long: E_new A = beta KL(new || old) + beta log Z(s) >= beta log Z(s) >= 0 with
    Z(s) = E_old exp(A / beta), so eta grows by at least beta sum_s start(s) log Z(s).
    """

    beta: float = 1.0
    """Temperature, in units of advantage."""

    def __post_init__(self) -> None:
        check_number(self, "beta", low=0, open_low=True, open_high=True)

    def __call__(self, mdp: TabularMDP, policy: Array, old: Evaluation) -> Step:
        x = old.advantage / self.beta
        top = np.max(np.where(policy > 0, x, -np.inf), -1, keepdims=True)
        weight = policy * np.exp(np.where(policy > 0, x - top, -np.inf))
        total = weight.sum(-1, keepdims=True)
        log_z = (top + np.log(total))[..., 0]
        bound = old.performance + self.beta * np.sum(mdp.start * np.maximum(log_z, 0), -1)
        return Step(weight / total, bound, np.full(bound.shape, self.beta))


class Path(NamedTuple):
    """Policies an iteration went through, the first included; all with a leading axis of time."""

    policy: Array
    """[T + 1, ..., S, A]."""
    performance: Array
    """[T + 1, ...]."""
    bound: Array
    """What each update promised, [T, ...]."""
    size: Array
    """How far each went, [T, ...]."""


def iterate(mdp: TabularMDP, policy: Array, rule: Rule, updates: int) -> Path:
    """`updates` steps of a rule from a policy [..., S, A].

    Raises `BoundBroken` at an update that is worse than the policy before it, or than its bound, by
    more than rounding.
    """
    old = evaluate(mdp, policy)
    policies, performance, steps = [policy], [old.performance], []
    for _ in range(updates):
        step = rule(mdp, policy, old)
        new = evaluate(mdp, step.policy)
        check(mdp, old, new, step)
        policy, old = step.policy, new
        policies.append(policy)
        performance.append(old.performance)
        steps.append(step)
    stack = lambda name: np.array([getattr(s, name) for s in steps])  # noqa: E731
    return Path(np.array(policies), np.array(performance), stack("bound"), stack("size"))


def check(mdp: TabularMDP, old: Evaluation, new: Evaluation, step: Step) -> None:
    """Raise `BoundBroken` unless the new performance is at least the old and at least the bound."""
    scale = SLACK * np.max(np.abs(mdp.reward), (-2, -1)) / (1 - mdp.discount)
    for name, least in (("the policy before it", old.performance), ("its bound", step.bound)):
        short = least - new.performance - scale
        if np.any(~(short <= 0)):
            worst = np.unravel_index(np.argmax(short), np.shape(short))
            raise BoundBroken(
                f"performance {new.performance[worst]:.12g} is below {name}, {least[worst]:.12g}"
            )
