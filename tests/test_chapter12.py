"""Chapter 12: example 12.1, the exercises, and the updates on the textbook's problems, to the
printed digits."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from reference import regulator as by_hand
from surefoot import envs
from surefoot.checks import UsageError
from surefoot.envs import snapshot, textbook
from surefoot.exact import chapter12, problems, regulator, tabular
from surefoot.exact.chapter12 import (
    ClampedSurrogate,
    Gaussian,
    GradientAscent,
    LinearGaussian,
    LinearSoftmax,
    Natural,
    Restricted,
    Trajectories,
    TrustRegion,
)

THETA, PI = np.array([0.0, 1.0]), Gaussian()
ACTIONS = np.array([[-0.532, 0.597, 1.947], [-0.263, -2.212, 2.364]])
TAU = Trajectories(np.zeros((2, 3, 1)), ACTIONS[..., None], ACTIONS, np.ones((2, 3), bool))
REGULATOR, LINEAR = problems.LinearQuadratic(), LinearGaussian()


def near(x, y, tol=1e-6):
    np.testing.assert_allclose(x, y, rtol=0, atol=tol)


def ratios(theta):
    log = [chapter12.log_likelihood(PI, t, TAU.state, TAU.action) for t in (theta, THETA)]
    return np.exp(log[0] - log[1])


# Example 12.1 (methods.md 6.3 and 7.1)


def test_example_12_1():
    g, s = chapter12.gradients(PI, THETA, TAU, 1.0)
    near(s, [[2.012, 1.430242], [-0.111, 7.550609]])
    near(TAU.returns(1.0), [2.012, -0.111])
    near(np.outer(s[0], s[0]), [[4.048144, 2.877647], [2.877647, 2.045592]])
    near(np.outer(s[1], s[1]), [[0.012321, -0.838118], [-0.838118, 57.011696]])
    F, grad = s.T @ s / 2, g.mean(0)
    near(F, [[2.030232, 1.019765], [1.019765, 29.528644]])
    near(grad, [2.030232, 1.019765])
    near(np.linalg.inv(F), [[0.501249, -0.017311], [-0.017311, 0.034463]])
    near(np.linalg.det(F), 58.910093)
    near(chapter12.natural_direction(grad, F), [1, 0], 1e-12)
    search = TrustRegion(0.1).search(PI, THETA, TAU, 1.0)
    near(search.theta, [0.313864, 1])
    assert search.accepted and search.halvings == 0
    f = [chapter12.surrogate_objective(PI, THETA, t, TAU, 1.0) for t in (THETA, search.theta)]
    near(f, [1.4846667, 2.1095593], 1e-7)
    near(chapter12.surrogate_constraint(PI, THETA, search.theta, TAU, 1.0), 0.0492554, 1e-7)
    near(
        ratios(search.theta),
        [[0.805549, 1.148115, 1.753894], [0.876515, 0.475436, 1.999146]],
    )
    move = search.theta - THETA
    near(move @ F @ move / 2, 0.1, 1e-12)  # the model's KL of a trajectory; the true one is
    near(3 * 0.0492554, 0.147766)


def test_the_natural_direction_of_the_single_state_problem_is_exact_on_every_sample():
    """The return is theta2^2 times the first score, so u = [theta2^2, 0] whatever was drawn."""
    for seed, spread in enumerate((0.3, 1.0, 2.5)):
        theta = np.array([0.0, spread])
        tau = chapter12.simulate(problems.SingleState(), PI, theta, 3, 2 + seed, seed)
        g, s = chapter12.gradients(PI, theta, tau, 1.0)
        u = chapter12.natural_direction(g.mean(0), s.T @ s / len(s))
        near(u, [spread**2, 0], 1e-9)


def test_the_single_state_problem_in_expectation():
    theta = np.array([0.4, 0.7])
    tau = chapter12.simulate(problems.SingleState(), PI, theta, 3, 40_000, 0)
    g, s = chapter12.gradients(PI, theta, tau, 1.0)
    error = g.std(0) / 200
    assert np.all(np.abs(g.mean(0) - [3, 0]) < 4 * error)
    fisher = 3 * np.diag([1, 2]) / 0.7**2
    assert np.all(np.abs(s.T @ s / len(s) - fisher) < 0.05 * fisher.max())
    near(tau.returns(1.0).mean(), 3 * 0.4, 0.03)
    one = np.array([[0.5], [-1.0], [0.7]])  # example 11.3: one step, likelihood ratio
    single = Trajectories(np.zeros((3, 1, 1)), one[..., None], one, np.ones((3, 1), bool))
    g, _ = chapter12.gradients(PI, THETA, single, 1.0)
    near(g.mean(0), [0.58, -0.244], 5e-5)
    new = np.array([0.1, 0.4])
    kl = np.log(0.4 / 0.7) + (0.7**2 + 0.3**2) / (2 * 0.4**2) - 0.5
    near(chapter12.kl_each(PI, theta, new, np.zeros((1, 1))), [kl], 1e-12)


def test_steps_on_the_example():
    g = chapter12.gradients(PI, THETA, TAU, 1.0)[0].mean(0)
    near(np.linalg.norm(g), 2.2719516, 1e-7)
    near(chapter12.scale_gradient(g), [0.893607, 0.448850])
    near(chapter12.scale_gradient(g, 5.0), g, 0)
    near(chapter12.clip_gradient(g), [1, 1], 0)
    near(GradientAscent(0.2)(PI, THETA, TAU, 1.0), [0.406046, 1.203953])
    near(
        GradientAscent(0.2, scale=1.0)(PI, THETA, TAU, 1.0),
        0.2 * np.array([0.893607, 0.44885]) + THETA,
    )
    near(GradientAscent(0.2, clip=1.0)(PI, THETA, TAU, 1.0), [0.2, 1.2], 1e-12)
    late = GradientAscent(0.2, decay=0.5)(PI, THETA, TAU, 1.0, k=2)
    near(late - THETA, 0.25 * 0.2 * g, 1e-12)
    near(Restricted(0.1)(PI, THETA, TAU, 1.0), [0.399633, 1.200732])
    near(Restricted(1.0)(PI, THETA, TAU, 1.0), [1.263752, 1.634769])
    near(Natural(0.1)(PI, THETA, TAU, 1.0), [0.313864, 1])
    to_go = TrustRegion(0.1, to_go=True).search(PI, THETA, TAU, 1.0)
    near(to_go.theta, [0.294025, 1.020379])
    near(chapter12.surrogate_constraint(PI, THETA, to_go.theta, TAU, 1.0), 0.0419176, 1e-7)
    near(chapter12.surrogate_objective(PI, THETA, to_go.theta, TAU, 1.0), 2.1222576, 1e-7)


def test_clamping_does_not_bound_ratios():
    clamped = lambda k: ClampedSurrogate(0.2, 0.01, k)(PI, THETA, TAU, 1.0)  # noqa: E731
    for k, theta in (
        (1, [0.015868, 1.023160]),
        (2, [0.032678, 1.046993]),
        (5, [0.039337, 1.044027]),
        (10, [0.052792, 1.042007]),
        (100, [0.21056, 0.940876]),
    ):
        near(clamped(k), theta)
    near(ratios(clamped(100)), [[0.8967, 1.1674, 1.2883], [0.9693, 0.4460, 1.2662]], 5e-5)


# Exercises


def test_exercise_12_1_the_gradient_of_the_surrogate_is_the_policy_gradient():
    # On one sample the printed surrogate (reward-to-go, mean over steps) has another gradient.
    got = chapter12.surrogate_gradient(PI, THETA, THETA, TAU, 1.0)
    near(got, [1.586776, 2.316018])
    near(3 * got, [4.760329, 6.948054])
    # With reward-to-go on both sides they are the same for every sample, discounted or not.
    tau = chapter12.simulate(REGULATOR, LINEAR, np.array([-0.5, 0.5]), 10, 30, 0)
    for gamma in (1.0, 0.9):
        there = chapter12.gradients(LINEAR, np.array([-0.5, 0.5]), tau, gamma, to_go=True)[0]
        here = chapter12.surrogate_gradient(LINEAR, *[np.array([-0.5, 0.5])] * 2, tau, gamma)
        near(10 * here, there.mean(0), 1e-9)


def test_exercise_12_1_in_expectation():
    """Closed form: the gradient of the exact surrogate is that of the utility. Sampled: the whole
    return and the reward-to-go have the same mean."""
    theta = np.array([-0.5, 0.5])
    m = by_hand.second_moments(theta)
    p, c = by_hand.value_coefficients(theta)

    def L(new):
        after = (1 + new[0]) ** 2 * m + new[1] ** 2 + 0.01
        return np.sum(-m - p[2:] * after - c[2:])

    exact = np.array([L(theta + 1e-30j * e).imag / 1e-30 for e in np.eye(2)])
    near(exact, [-3.567421, -11.555557])
    near(regulator.gradient(REGULATOR, theta, 10), exact, 1e-9)
    tau = chapter12.simulate(REGULATOR, LINEAR, theta, 10, 20_000, 1)
    whole, s = chapter12.gradients(LINEAR, theta, tau, 1.0)
    to_go = chapter12.gradients(LINEAR, theta, tau, 1.0, to_go=True)[0]
    for sampled in (whole, to_go):
        assert np.all(np.abs(sampled.mean(0) - exact) < 4 * sampled.std(0) / np.sqrt(20_000))
    assert np.all(to_go.var(0) < whole.var(0))  # and that is what it is for
    fisher = regulator.trajectory_fisher(REGULATOR, theta, 10)
    near(s.T @ s / 20_000, fisher, 0.05 * fisher.max())


def test_exercise_12_2():
    F, g = np.array([[2.030, 1.020], [1.020, 29.529]]), np.array([2.030, 1.020])
    near(np.linalg.inv(F), [[0.501, -0.017], [-0.017, 0.034]], 1e-3)
    near(chapter12.natural_direction(g, F), [1, 0], 1e-3)
    near(chapter12.natural_step(THETA, g, F, 0.1), [0.314, 1], 1e-3)
    printed = np.array([[0.341, 0.332], [0.332, 29.529]])  # what the book inverts, literally
    near(np.linalg.inv(printed), [[2.965008, -0.033336], [-0.033336, 0.034240]])
    near(np.linalg.solve(printed, g), [5.985, -0.033], 1e-3)


def test_exercise_12_3():
    old = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.6, 0.2]])
    new = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.5, 0.3]])
    visited = [0, 1, 0, 0, 1]
    near(tabular.kl(old, new), [0.4564348, 0.0282999], 1e-7)
    near(tabular.kl(old, new)[visited].mean(), 0.2851809, 1e-7)
    near(tabular.kl(new, old), [0.4564348, 0.0304788], 1e-7)
    near(tabular.kl(new, old)[visited].mean(), 0.2860524, 1e-7)
    near(tabular.tv(old, new), [0.4, 0.1], 1e-12)


# The regulator (methods.md 6.5 and 7.2)


@pytest.mark.parametrize(
    ("theta", "U", "grad", "F", "u"),
    [
        ([0, 1], -46.45, [-251.4, -90.0], [46.45, 20], [-5.412271, -4.5]),
        ([0, 0.5], -12.70, [-71.4, -45.0], [50.8, 80], [-1.405512, -0.5625]),
        ([-0.5, 0.5], -3.137778, [-3.567421, -11.555557], [12.551112, 80], [-0.284231, -0.144444]),
        ([-0.4, 0.3], -1.474613, [-2.307259, -7.910210], [16.384584, 222.2222],
         [-0.140819, -0.035596]),
        ([-1, 0.2], -0.55, [0, -3.6], [13.75, 500], [0, -0.0072]),
        ([-1.5, 0.5], -3.137778, [3.567421, -11.555557], [12.551112, 80], [0.284231, -0.144444]),
    ],
)  # fmt: skip
def test_the_regulator_in_closed_form(theta, U, grad, F, u):
    theta = np.array(theta, float)
    near(regulator.utility(REGULATOR, *regulator.scalar(theta), 10), U)
    near(by_hand.utility(theta), U)
    near(regulator.gradient(REGULATOR, theta, 10), grad)
    fisher = regulator.trajectory_fisher(REGULATOR, theta, 10)
    near(np.diag(fisher), F, 5e-5)
    near(chapter12.natural_direction(np.array(grad), fisher), u)
    near(regulator.utility(REGULATOR, np.array([[-1.0]]), np.zeros(1), 10), -0.19, 1e-12)


@pytest.mark.parametrize(
    ("steps", "epsilon", "candidate", "kl", "halvings", "theta", "gain", "mean_kl", "U"),
    [
        (1, 0.1, [-0.577601, 0.460564], 0.0115892, 0, None, 0.6930906, 0.0115892, -2.4962083),
        (1, 1.0, [-0.745396, 0.375291], 0.1676836, 0, None, 1.9219674, 0.1676836, -1.5474464),
        (10, 0.01, [-0.577601, 0.460564], 0.0115892, 1, [-0.538801, 0.480282], 0.3564088,
         0.0026871, -2.7956650),
    ],
)  # fmt: skip
def test_the_trust_region_step_in_expectation(
    steps, epsilon, candidate, kl, halvings, theta, gain, mean_kl, U
):
    """Algorithm 12.5 with the exact gradient, Fisher matrix, surrogate and KL of the regulator; the
    Fisher matrix of `steps` = 10 is that of one step."""
    start = np.array([-0.5, 0.5])
    m = by_hand.second_moments(start)
    p, c = by_hand.value_coefficients(start)

    def f(new):  # the exact surrogate, up to a constant
        return np.sum(-m - p[2:] * ((1 + new[0]) ** 2 * m + new[1] ** 2 + 0.01) - c[2:])

    def g(new):  # the exact mean KL of a step
        shift = (start[0] - new[0]) ** 2 * m.mean()
        return np.log(new[1] / start[1]) + (start[1] ** 2 + shift) / (2 * new[1] ** 2) - 0.5

    F = regulator.trajectory_fisher(REGULATOR, start, 10) / steps
    first = chapter12.natural_step(start, regulator.gradient(REGULATOR, start, 10), F, epsilon)
    near(first, candidate)
    near(g(first), kl, 1e-7)
    limit = epsilon if steps > 1 else 1.0
    search = chapter12.line_search(f, g, start, first, limit)
    assert search.accepted and search.halvings == halvings
    near(search.theta, candidate if theta is None else theta)
    near(f(search.theta) - f(start), gain, 1e-7)
    near(g(search.theta), mean_kl, 1e-7)
    near(by_hand.utility(search.theta), U, 1e-7)


def test_the_line_search_ends_where_the_books_does_not():
    worse = lambda x: -np.sum(x**2)  # noqa: E731
    search = chapter12.line_search(worse, lambda x: 0.0, np.zeros(2), np.ones(2), 0.1, most=12)
    assert not search.accepted and search.halvings == 12
    np.testing.assert_array_equal(search.theta, np.zeros(2))
    seen = []

    def g(x):
        seen.append(x[0])
        return x[0]

    chapter12.line_search(lambda x: x[0], g, np.zeros(1), np.ones(1), 0.2, shrink=0.5)
    assert seen == [1.0, 0.5, 0.25, 0.125]


def test_no_gradient_moves_nothing():
    still = TAU._replace(reward=np.zeros((2, 3)))
    for update in (GradientAscent(), Restricted(), Natural(), TrustRegion(), ClampedSurrogate()):
        np.testing.assert_array_equal(update(PI, THETA, still, 1.0), THETA)


def test_fewer_trajectories_than_parameters():
    """F has rank one; the gradient lies in its range, and the model's KL is still epsilon."""
    one = Trajectories(*(x[:1] for x in TAU))
    g, s = chapter12.gradients(PI, THETA, one, 1.0)
    move = Natural(0.1)(PI, THETA, one, 1.0) - THETA
    near((s @ move) ** 2 / 2, [0.1], 1e-12)
    assert g.mean(0) @ move > 0
    damped = Natural(0.1, damping=1.0)(PI, THETA, one, 1.0) - THETA
    assert not np.allclose(damped, move)


def test_a_short_trajectory_weighs_as_much_as_a_long_one():
    counts = np.array([[True, False, False], [True, True, True]])
    x = np.array([[3.0, 99, 99], [1.0, 2, 6]])
    tau = Trajectories(TAU.state, TAU.action, np.where(counts, ACTIONS, 0), counts)
    assert tau.mean(x) == (3 + 3) / 2
    near(tau.to_go(0.5)[1], [-0.263 - 1.106 + 0.591, -1.106 + 0.591, 0.591], 1e-12)
    g, s = chapter12.gradients(PI, THETA, tau, 1.0)
    near(s[0], [-0.532, 0.532**2 - 1], 1e-12)  # steps that were not taken have no score
    near(g[0], -0.532 * s[0], 1e-12)
    here = chapter12.surrogate_gradient(PI, THETA, THETA, tau, 1.0)
    there = np.mean(chapter12.gradients(PI, THETA, tau, 1.0, True)[0] / [[1], [3]], 0)
    near(here, there, 1e-12)


@pytest.mark.parametrize(
    "update",
    [
        GradientAscent(0.2, scale=1.0),
        GradientAscent(0.2, clip=1.0),
        Restricted(0.02),
        Natural(0.3),
        TrustRegion(0.3),
        ClampedSurrogate(0.2, 0.02, 10),
    ],
    ids=lambda u: type(u).__name__,
)
def test_every_update_improves_the_regulator(update):
    start = np.array([-0.2, 0.5])
    path = chapter12.improve(
        REGULATOR, LINEAR, start, update, depth=10, samples=50, updates=8, seed=3
    )
    assert by_hand.utility(path[-1]) > 0.5 * by_hand.utility(start)
    again = chapter12.improve(
        REGULATOR, LINEAR, start, update, depth=10, samples=50, updates=8, seed=3
    )
    np.testing.assert_array_equal(path, again)


def test_unscaled_gradients_of_the_regulator_overshoot():
    path = chapter12.improve(
        REGULATOR, LINEAR, [-0.3, 0.5], GradientAscent(0.2), depth=10, samples=10, updates=10
    )
    assert np.abs(path).max() > 10


# Problems


def test_the_regulator_simulated_is_the_closed_form():
    theta = np.array([-0.6, 0.3])
    tau = chapter12.simulate(REGULATOR, LINEAR, theta, 10, 20_000, 5)
    error = tau.returns(1.0).std() / np.sqrt(20_000)
    assert abs(tau.returns(1.0).mean() - by_hand.utility(theta)) < 4 * error
    wild = chapter12.simulate(REGULATOR, LINEAR, np.array([1.0, 0.1]), 12, 50, 0)
    assert np.abs(wild.state).max() == 10  # cut to its limits


def test_the_regulator_with_two_states_and_riccati():
    lqr, depth = problems.LQR, 30
    gains = regulator.best_gains(lqr, depth)
    K = gains[0]
    best = regulator.utility(lqr, K, np.zeros(1), depth)
    for nudge in ([[0.3, 0]], [[-0.3, 0]], [[0, 0.3]], [[0, -0.3]]):
        assert regulator.utility(lqr, K + nudge, np.zeros(1), depth) < best + 0.02
    assert regulator.utility(lqr, 0 * K, np.zeros(1), depth) < 2 * best
    theta = np.append(K.ravel(), 0.2)
    tau = chapter12.simulate(lqr, LINEAR, theta, depth, 4000, 0)
    want = regulator.utility(lqr, K, np.array([0.2]), depth)
    assert abs(tau.returns(1.0).mean() - want) < 4 * tau.returns(1.0).std() / np.sqrt(4000)
    simple = regulator.best_gains(REGULATOR, 10)
    near(simple[:-1], -1, 1e-12)
    near(simple[-1], 0, 1e-12)  # the last action changes nothing that is rewarded


def slid(row):
    """A row of 2048 slid to the left, cell by cell."""
    tiles, out, reward = [x for x in row if x], [], 0
    while tiles:
        x = tiles.pop(0)
        if tiles and tiles[0] == x and x < 15:
            tiles.pop(0)
            x += 1
            reward += 2**x
        out.append(x)
    return out + [0] * (4 - len(out)), reward


def test_2048_slides_and_merges():
    rng = np.random.default_rng(0)
    boards = rng.integers(0, 5, (200, 16)) * rng.integers(0, 2, (200, 16))
    boards[0] = [15, 15, 0, 0] * 4
    for action in range(4):
        after, reward = problems.slide(boards, action)
        for board, got, r in zip(boards, after, reward, strict=True):
            grid = np.rot90(board.reshape(4, 4), -action)  # left, down, right, up
            rows = [slid(list(row)) for row in grid]
            want = np.rot90([row for row, _ in rows], action)
            np.testing.assert_array_equal(got.reshape(4, 4), want)
            assert r == sum(x for _, x in rows)


def test_2048_goes_on_until_nothing_moves():
    game = problems.Twenty48()
    tau = chapter12.simulate(game, LinearSoftmax(4), np.zeros(68), 600, 8, 0)
    assert np.all(np.sum(tau.state[:, 0] > 0, -1) == 2)
    moved = np.any(tau.state[:, 1:] != tau.state[:, :-1], -1) & tau.counts[:, 1:]
    total = np.sum(np.where(tau.state > 0, 2**tau.state, 0), -1)
    np.testing.assert_array_equal(moved, (np.diff(total) > 0) & tau.counts[:, 1:])
    assert np.all(np.isin(np.diff(total)[moved], [2, 4]))  # a tile appears, merging keeps the sum
    ends = tau.counts.sum(-1)
    assert np.all(ends < 600)
    board = tau.state[np.arange(8), ends]
    for action in range(4):
        np.testing.assert_array_equal(problems.slide(board, action)[0], board)


def test_2048_has_wild_gradients():
    theta, pi = np.zeros(68), LinearSoftmax(4)
    tau = chapter12.simulate(problems.Twenty48(), pi, theta, 400, 12, 0)
    norms = np.linalg.norm(chapter12.gradients(pi, theta, tau, 1.0)[0], axis=-1)
    assert norms.max() > 1e4 and norms.max() > 5 * norms.min()
    g = chapter12.gradients(pi, theta, tau, 1.0)[0].mean(0)
    near(np.linalg.norm(chapter12.scale_gradient(g)), 1, 1e-12)


def test_what_is_out_of_range_is_refused():
    for make in (
        lambda: problems.LinearQuadratic(Ts=((1.0, 0.0),)),
        lambda: problems.LinearQuadratic(noise=-1.0),
        lambda: problems.SingleState(1.5),
        lambda: GradientAscent(decay=0.0),
        lambda: TrustRegion(shrink=1.0),
        lambda: ClampedSurrogate(iterations=0),
        lambda: Natural(0.0),
    ):
        with pytest.raises(UsageError, match="allowed"):
            make()


# As environments


@pytest.mark.filterwarnings("ignore:.*(probably too|we recommend using).*:UserWarning")
@pytest.mark.parametrize("name", textbook.PROBLEMS)
def test_the_problems_are_gymnasium_environments(name):
    env_id = textbook.NAMESPACE + name
    made = envs.make(env_id, num_envs=2)
    assert made.spec.discrete == (name == "2048-v0")
    core = textbook.TextbookEnv(name)
    check_env(core, skip_render_check=True)
    problem, depth, actions = textbook.PROBLEMS[name]
    obs, _ = core.reset(seed=4)
    core.action_space.seed(0)
    rng = np.random.default_rng()
    rng.bit_generator.state = core.np_random.bit_generator.state
    state = core.state
    for _ in range(5):
        action = core.action_space.sample()
        row = np.array([action]) if actions else np.asarray(action, float)[None]
        want, state, _ = problem.step(state, row, rng)
        obs, reward, _, truncated, _ = core.step(action)
        assert reward == want[0] and not truncated
        np.testing.assert_array_equal(obs, state[0].astype(np.float32))
    assert made.envs[0].spec.max_episode_steps == depth
    made.reset(0)
    assert snapshot.inspect(made.envs, env_id)[0] == "snapshot"
