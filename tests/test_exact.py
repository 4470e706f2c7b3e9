"""Tabular problems solved exactly: every identity and bound on a thousand random ones at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import optimize

from surefoot.checks import UsageError
from surefoot.exact import ball, bounds, iteration, tabular
from surefoot.exact.tabular import TabularMDP, dirichlet, evaluate, expected, greedy, kl, tv

N, S, A = 1000, 5, 4
RULES = {
    "bounded": iteration.BoundedPolicyIteration(),
    "bounded, Pinsker": iteration.BoundedPolicyIteration(bounds.PINSKER_FACTOR),
    "conservative": iteration.ConservativePolicyIteration(),
    "conservative, sharp": iteration.ConservativePolicyIteration(sharp=True),
    "safe": iteration.SafePolicyIteration(),
    "mirror": iteration.MirrorDescent(0.5),
}


@lru_cache
def many():
    """A thousand problems, a policy for each, its evaluation, and another policy: near to far."""
    rng = np.random.default_rng(0)
    mdp = tabular.random_problems(rng, N, S, A)
    old = dirichlet(rng, 1.0, (N, S, A))
    away = 10.0 ** rng.uniform(-4, 0, (N, 1, 1))
    new = (1 - away) * old + away * dirichlet(rng, 0.3, (N, S, A))
    return mdp, old, evaluate(mdp, old), new


@lru_cache
def steps():
    """One step of every rule, and BoundedPolicyIteration's path of three."""
    mdp, old, ev, _ = many()
    return {name: rule(mdp, old, ev) for name, rule in RULES.items()}


def golden():
    """The problem of two states and two actions whose numbers were computed by hand."""
    transition = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.05, 0.95]]])
    reward = np.array([[0, -0.1], [0.2, 1.0]])
    return TabularMDP(transition, reward, np.array([1.0, 0.0]), 0.9), np.full((2, 2), 0.5)


def near(x, y, tol=1e-6):
    np.testing.assert_allclose(x, y, rtol=0, atol=tol)


def test_the_golden_problem():
    mdp, pi = golden()
    ev = evaluate(mdp, pi)
    near(ev.value, [2.624629, 3.396142])
    near(ev.action_value, [[2.431602, 2.817656], [2.770475, 4.021810]])
    near(ev.advantage, [[-0.193027, 0.193027], [-0.625668, 0.625668]])
    near(ev.visitation, [5.192878, 4.807122])
    near(ev.performance, 2.6246291)
    np.testing.assert_array_equal(greedy(ev.advantage), [[0, 1], [0, 1]])
    best = tabular.optimal(mdp)
    near(evaluate(mdp, best).performance, 8.1560694)
    near(np.sum(ev.visitation * expected(greedy(ev.advantage), ev.advantage)), 4.0100247)
    near(bounds.largest_advantage(ev), 0.6256677)
    near(bounds.penalty(mdp, ev), 4 * 0.6256677 * 0.9 / 0.01, 1e-4)  # C = 225


def test_the_golden_steps():
    mdp, pi = golden()
    ev = evaluate(mdp, pi)
    step = RULES["conservative"](mdp, pi, ev)
    near(step.size, 0.0178033)
    near(step.bound - ev.performance, 0.0356959)
    near(evaluate(mdp, step.policy).performance, 2.6965157)
    sharp = RULES["conservative, sharp"](mdp, pi, ev)
    near(sharp.size, 0.0236760)
    near(sharp.bound - ev.performance, 0.0429008)
    # The published gain is that of a share printed 5e-7 below the best one.
    published = iteration.mixture(pi, greedy(ev.advantage), np.array(0.0236760))
    near(evaluate(mdp, published).performance - ev.performance, 0.0958163)
    for beta, right, performance in (
        (1, [0.595332, 0.777531], 4.9433693),
        (0.5, [0.683976, 0.924329], 6.7085884),
        (0.1, None, 8.1314137),
    ):
        new = iteration.MirrorDescent(beta)(mdp, pi, ev).policy
        if right is not None:
            near(new[:, 1], right)
        near(evaluate(mdp, new).performance, performance)


def test_evaluation_is_the_sum_over_time():
    mdp, old, ev, _ = many()
    pick = np.argsort(mdp.discount)[:200]  # discounts whose powers vanish
    moves = np.einsum("nsa,nsat->nst", old[pick], mdp.transition[pick])
    reward = np.sum(old[pick] * mdp.reward[pick], -1)
    gamma, at = mdp.discount[pick], mdp.start[pick]
    rho, eta, value, weight = 0, 0, 0, np.ones(len(pick))
    ahead = np.broadcast_to(np.eye(S), moves.shape)
    for _ in range(300):
        rho = rho + weight[:, None] * at
        eta = eta + weight * np.sum(at * reward, -1)
        value = value + weight[:, None] * np.einsum("nst,nt->ns", ahead, reward)
        at, ahead, weight = np.einsum("ns,nst->nt", at, moves), ahead @ moves, weight * gamma
    np.testing.assert_allclose(ev.visitation[pick], rho, atol=1e-9)
    np.testing.assert_allclose(ev.value[pick], value, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(ev.performance[pick], eta, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(expected(old, ev.advantage), 0, atol=1e-10)
    np.testing.assert_allclose(ev.visitation.sum(-1), 1 / (1 - mdp.discount), rtol=1e-9)


def test_kl_and_total_variation():
    rng = np.random.default_rng(1)
    p, q = dirichlet(rng, 0.5, (500, A)), dirichlet(rng, 0.5, (500, A))
    np.testing.assert_allclose(kl(p, q), np.sum(p * np.log(p / q), -1), rtol=1e-9, atol=1e-12)
    near_p = p * (1 + 1e-7 * rng.normal(size=p.shape))
    near_p /= near_p.sum(-1, keepdims=True)
    second = np.sum((near_p - p) ** 2 / p, -1) / 2
    np.testing.assert_allclose(kl(p, near_p), second, rtol=1e-5)
    assert np.all(tv(p, q) ** 2 <= kl(p, q) / 2 + 1e-15)
    sure, half = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    near(kl(sure, half), np.log(2), 1e-15)
    assert kl(half, sure) == np.inf and kl(sure, sure) == 0 and tv(half, sure) == 0.5


def test_performance_difference_for_any_f():
    mdp, old, ev, new = many()
    gap = evaluate(mdp, new).performance - ev.performance
    f = np.random.default_rng(2).normal(size=(N, S)) * 10
    scale = 1e-10 * np.abs(f).max() / (1 - mdp.discount)
    assert np.all(np.abs(bounds.difference(mdp, old, new, f) - gap) <= scale)
    assert np.all(np.abs(bounds.difference(mdp, old, new, ev.value) - gap) <= scale)
    near(bounds.shaped_advantage(mdp, ev.value), ev.advantage, 1e-9)
    # As printed, without gamma, it is another number.
    printed = bounds.shaped_advantage(mdp, f) + (1 - mdp.discount)[:, None, None] * np.einsum(
        "nsat,nt->nsa", mdp.transition, f
    )
    mass = [np.sum(evaluate(mdp, p).visitation * expected(p, printed), -1) for p in (new, old)]
    assert np.mean(np.abs(mass[0] - mass[1] - gap) > 1e3 * scale) > 0.9


def test_surrogate_and_performance_have_the_same_value_and_gradient():
    mdp, old, ev, _ = many()
    near(tabular.surrogate(ev, old), ev.performance, 1e-9 * np.abs(ev.performance).max())
    logits, direction = np.log(old), np.random.default_rng(3).normal(size=old.shape)

    def softmax(x):
        y = np.exp(x)
        return y / y.sum(-1, keepdims=True)

    # Derivatives by a complex step: no differences, no rounding.
    nudged = softmax(logits + 1e-30j * direction)
    d_eta = evaluate(mdp, nudged).performance.imag / 1e-30
    d_surrogate = tabular.surrogate(ev, nudged).imag / 1e-30
    by_hand = np.sum(ev.visitation[..., None] * old * ev.advantage * direction, (-2, -1))
    scale = np.abs(mdp.reward).max((-2, -1)) / (1 - mdp.discount) ** 2
    assert np.all(np.abs(d_eta - d_surrogate) <= 1e-10 * scale)
    assert np.all(np.abs(d_eta - by_hand) <= 1e-10 * scale)
    far = softmax(logits + direction)  # and away from the old policy they differ
    gap = np.abs(evaluate(mdp, far).performance - tabular.surrogate(ev, far))
    assert np.mean(gap > 1e-6 * scale) > 0.9


LOWER = {
    "tv": bounds.tv_bound,
    "tv, sharp": lambda *x: bounds.tv_bound(*x, sharp=True),
    "kl": bounds.kl_bound,
    "kl, Pinsker": lambda *x: bounds.kl_bound(*x, factor=bounds.PINSKER_FACTOR),
    "TREFree": lambda mdp, old, new: bounds.trefree_bound(mdp, old, new, many()[2].value),
    "TREFree, any f": lambda mdp, old, new: bounds.trefree_bound(
        mdp, old, new, np.random.default_rng(4).normal(size=(N, S))
    ),
}


@pytest.mark.parametrize("name", LOWER)
def test_bounds_hold(name):
    mdp, old, ev, new = many()
    worst = np.eye(A)[np.argmin(ev.advantage, -1)]  # what the bound must allow for
    for to in (new, worst, greedy(ev.advantage), 0.9 * old + 0.1 * worst, old):
        performance = evaluate(mdp, to).performance
        lower = LOWER[name](mdp, old, to)
        assert np.all(lower <= performance + 1e-9 * (1 + np.abs(performance)))


def test_the_order_of_the_bounds():
    mdp, old, _, new = many()
    lower = {name: bound(mdp, old, new) for name, bound in LOWER.items()}
    slack = 1e-9 * (1 + np.abs(lower["tv"]))
    assert np.all(lower["tv, sharp"] >= lower["tv"] - slack)
    assert np.all(lower["tv"] >= lower["kl, Pinsker"] - slack)
    assert np.all(lower["kl, Pinsker"] >= lower["kl"] - slack)


def test_a_smaller_constant_would_not_be_a_bound():
    """The tests above can fail: a fifth of a percent of what is subtracted is not enough."""
    mdp, old, ev, new = many()
    worst = 0.9 * old + 0.1 * np.eye(A)[np.argmin(ev.advantage, -1)]
    for to in (new, worst):
        lower = bounds.kl_bound(mdp, old, to, factor=0.002 * 4)
        if np.any(lower > evaluate(mdp, to).performance):
            return
    pytest.fail("no random problem needs the constant")


def test_the_inner_problem_is_solved():
    rng = np.random.default_rng(5)
    for old, x, k in zip(
        dirichlet(rng, 1.0, (6, A)),
        rng.normal(size=(6, A)),
        (1e-3, 0.01, 0.1, 0.3, 1.0, 3.0),
        strict=True,
    ):
        got = ball.maximise_in_ball(old, x, np.array(k))
        ways = [
            {"type": "eq", "fun": lambda p: p.sum() - 1},
            {"type": "ineq", "fun": lambda p, k=k, old=old: k - np.sum(old * np.log(old / p))},
        ]
        peer = optimize.minimize(
            lambda p, x=x: -p @ x, old, constraints=ways, bounds=[(1e-9, 1)] * A, tol=1e-13
        )
        near(got.policy @ x, -peer.fun, 1e-6)
        near(kl(old, got.policy), k, 1e-10 * (1 + k))
        more, less = (ball.maximise_in_ball(old, x, np.array(k * s)) for s in (1.0001, 0.9999))
        slope = (more.policy - less.policy) @ x / (0.0002 * k)
        np.testing.assert_allclose(got.multiplier, slope, rtol=1e-5)


def test_the_inner_problem_at_the_edges():
    old, x = np.array([0.5, 0.5, 0.0]), np.array([1.0, 0.0, 3.0])
    got = ball.maximise_in_ball(old, x, np.array(0.2))  # the best action is one never taken
    near(kl(old, got.policy), 0.2, 1e-12)
    m = np.linspace(0, 1 - np.exp(-0.2), 2001)  # KL = KL of the rest - log(1 - m)
    rest = ball.maximise_in_ball(old[:2], x[:2], np.maximum(0.2 + np.log1p(-m), 1e-15))
    best = np.max((1 - m) * (rest.policy @ x[:2]) + 3 * m)
    assert best <= got.policy @ x + 1e-12 and got.policy @ x <= best + 1e-5
    flat = ball.maximise_in_ball(old, np.ones(3), np.array(0.2))
    np.testing.assert_array_equal(flat.policy, old)
    one = ball.maximise_in_ball(np.array([0.6, 0.4]), np.array([1.0, 0.0]), np.array(1e-12))
    np.testing.assert_allclose(kl(np.array([0.6, 0.4]), one.policy), 1e-12, rtol=1e-3)
    far = ball.maximise_in_ball(np.array([0.6, 0.4]), np.array([1.0, 0.0]), np.array(200.0))
    near(far.policy, [1, 0], 1e-12)


@pytest.mark.parametrize("name", RULES)
def test_every_update_is_monotone_and_above_its_bound(name):
    mdp, _, ev, _ = many()
    step = steps()[name]
    new = evaluate(mdp, step.policy)
    iteration.check(mdp, ev, new, step)  # raises
    gain = new.performance - ev.performance
    scale = 1e-9 * np.abs(mdp.reward).max((-2, -1)) / (1 - mdp.discount)
    assert np.all(step.bound >= ev.performance)
    assert np.all(gain >= step.bound - ev.performance - scale)
    assert np.mean(gain > scale) > 0.99  # and something moves
    np.testing.assert_allclose(step.policy.sum(-1), 1, atol=1e-12)
    assert np.all(step.policy >= 0)


def test_iterating_reaches_the_optimum_or_stays_monotone():
    mdp, pi = golden()
    path = iteration.iterate(mdp, pi, iteration.MirrorDescent(0.1), 60)
    assert np.all(np.diff(path.performance) >= -1e-12)
    near(path.performance[-1], 8.1560694)
    slow = iteration.iterate(mdp, pi, iteration.SafePolicyIteration(), 40)
    assert np.all(np.diff(slow.performance) >= -1e-12)
    assert np.all(slow.performance[1:] >= slow.bound - 1e-12)
    near(slow.performance[-1], 8.1560694)
    best = tabular.optimal(mdp)
    still = RULES["bounded"](mdp, best, evaluate(mdp, best))
    np.testing.assert_array_equal(still.policy, best)


def test_a_broken_promise_is_an_error():
    mdp, pi = golden()
    ev = evaluate(mdp, pi)
    worse = np.array([[0.6, 0.4], [0.6, 0.4]])
    step = iteration.Step(worse, ev.performance, np.array(0.1))
    with pytest.raises(iteration.BoundBroken, match="below the policy before it"):
        iteration.check(mdp, ev, evaluate(mdp, worse), step)
    better = iteration.Step(1 - worse, ev.performance + 10, np.array(0.1))
    with pytest.raises(iteration.BoundBroken, match="below its bound"):
        iteration.check(mdp, ev, evaluate(mdp, 1 - worse), better)
    with pytest.raises(iteration.BoundBroken):
        iteration.iterate(mdp, pi, lambda *_: better, 1)


@pytest.mark.parametrize("factor", [bounds.TRPO_FACTOR, bounds.PINSKER_FACTOR])
def test_the_exact_solve_beats_every_other_policy_tried(factor):
    mdp, old, ev, new = many()
    cost = bounds.penalty(mdp, ev, factor)

    def M(pi):
        return tabular.surrogate(ev, pi) - cost * np.max(kl(old, pi), -1)

    step = steps()["bounded" if factor == bounds.TRPO_FACTOR else "bounded, Pinsker"]
    best = M(step.policy)
    np.testing.assert_allclose(best, step.bound, rtol=1e-12)
    slack = 1e-12 * (np.abs(best) + cost)
    rng = np.random.default_rng(6)
    for i in range(60):
        far = 10.0 ** rng.uniform(-6, 0, (N, 1, 1))
        anywhere = dirichlet(rng, 0.3, (N, S, A))
        target = [anywhere, greedy(ev.advantage), step.policy, new][i % 4]
        centre = step.policy if i % 3 else old
        trial = (1 - far) * centre + far * target
        assert np.all(M(trial) <= best + slack)
    # Other budgets, each solved exactly state by state.
    for scale in (0.5, 0.9, 1.1, 2.0):
        budget = np.broadcast_to(step.size[:, None] * scale, (N, S))
        other = ball.maximise_in_ball(old, ev.advantage, budget).policy
        assert np.all(M(other) <= best + slack) and np.mean(M(other) < best) > 0.9
    # The exponential tilt solves the reversed KL: with the same worst KL it is never better.
    tilt = iteration.MirrorDescent(1.0)(mdp, old, ev).policy
    assert np.all(M(tilt) <= best + slack)


def test_safe_policy_iteration_promises_at_least_what_conservative_does():
    _, _, ev, _ = many()
    safe, conservative = steps()["safe"].bound, steps()["conservative"].bound
    sharp = steps()["conservative, sharp"].bound
    slack = 1e-12 * (1 + np.abs(ev.performance))
    assert np.all(safe >= conservative - slack) and np.all(sharp >= conservative - slack)
    assert np.mean(safe > conservative + slack) > 0.9


def test_the_mixtures_have_the_best_share():
    mdp, _, ev, _ = many()
    target, gamma = greedy(ev.advantage), mdp.discount
    a = expected(target, ev.advantage)
    gain, epsilon = np.sum(ev.visitation * a, -1), a.max(-1)
    for share in np.linspace(0, 1, 41):
        loss = 2 * epsilon * gamma * share**2 / (1 - gamma)
        plain = ev.performance + share * gain - loss / (1 - gamma)
        sharp = ev.performance + share * gain - loss / (1 - gamma * (1 - share))
        slack = 1e-12 * (np.abs(ev.performance) + gain)
        assert np.all(plain <= steps()["conservative"].bound + slack)
        assert np.all(sharp <= steps()["conservative, sharp"].bound + slack)


def test_without_a_future_the_greedy_policy_is_taken():
    mdp, pi = golden()
    now = TabularMDP(mdp.transition, mdp.reward, mdp.start, 0.0)
    for name, rule in RULES.items():
        if name != "mirror":
            new = rule(now, pi, evaluate(now, pi)).policy
            near(new[0], [1, 0], 1e-6), near(new[1], [0, 1], 1e-6)


def test_what_is_not_a_problem_is_refused():
    mdp, _ = golden()
    for change in (
        {"transition": mdp.transition[:1]},
        {"transition": mdp.transition * 0.9},
        {"start": np.array([1.5, -0.5])},
        {"gamma": 1.0},
        {"gamma": np.array([0.5, 0.5])},
    ):
        with pytest.raises(UsageError, match=f"TabularMDP.{next(iter(change))}"):
            TabularMDP(**({f: getattr(mdp, f) for f in mdp.__dataclass_fields__} | change))
    with pytest.raises(UsageError, match=r"factor is 1\.9"):
        iteration.BoundedPolicyIteration(1.9)
    with pytest.raises(UsageError, match="beta"):
        iteration.MirrorDescent(0)
