# ruff: noqa: E731 (a lambda reads like the formula)
"""Projections: golden numbers, references by SciPy, derivatives by differences, and what must never
happen."""

from __future__ import annotations

import doctest
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from reference import projection as ref
from reference.divergence import gaussian_kl, probabilities
from surefoot import projection
from surefoot.checks import UsageError
from surefoot.distributions import Beta, Categorical, DiagGaussian, FullGaussian
from surefoot.projection import (
    ENTROPIES,
    METRICS,
    ExponentialEntropy,
    FreeEntropy,
    FrobeniusMetric,
    KLMetric,
    LinearEntropy,
    WassersteinMetric,
    newton_root,
    project,
    raise_entropy,
)

INF = float("inf")
FAMILIES = ("diagonal", "full", "categorical")
GAUSSIAN_METRICS = (
    KLMetric(),
    WassersteinMetric(),
    WassersteinMetric(scaled=False),
    FrobeniusMetric(),
    FrobeniusMetric(scaled=False),
)
run = functools.partial(jax.jit, static_argnums=2)(
    lambda new, old, metric, mean, cov: project(new, old, metric, mean, cov)
)
parts = functools.partial(jax.jit, static_argnums=2)(lambda new, old, m: m.parts(new, old))


def draw(family, rows=6, seed=0, scale=1.0, dtype=np.float64, d=3):
    """Pairs (new, old), `scale` apart."""
    rng = np.random.default_rng(seed)
    pick = lambda *shape: rng.normal(size=(rows, *shape))
    if family == "categorical":
        old = pick(4)
        return tiny.cast((Categorical(old + scale * pick(4)), Categorical(old)), dtype)
    mean, log_std = pick(d), 0.4 * pick(d)
    there = mean + scale * pick(d), log_std + 0.4 * scale * pick(d)
    if family == "diagonal":
        return tiny.cast((DiagGaussian(*there), DiagGaussian(mean, log_std)), dtype)
    below = np.tril(0.5 * pick(d, d), -1)
    unit = lambda r: np.eye(d) + r
    factor = np.exp(log_std)[..., None] * unit(below)
    other = np.exp(there[1])[..., None] * unit(below + np.tril(0.5 * scale * pick(d, d), -1))
    return tiny.cast((FullGaussian(there[0], other), FullGaussian(mean, factor)), dtype)


def single(*numbers):
    """[1, n]: numbers of one state."""
    return jnp.asarray([numbers], jnp.result_type(float))


def golden():
    """Section 7.3 of the notes."""
    old = DiagGaussian(single(0, 0), jnp.log(single(1, 0.5)))
    return DiagGaussian(single(1, -0.5), jnp.log(single(0.6, 0.9))), old


GOLDEN = {
    KLMetric(): (1.0, 0.7230390, [0.17320508, -0.08660254], [0.97089576, 0.50602328]),
    FrobeniusMetric(): (2.0, 0.7232, [0.12247449, -0.06123724], [0.98802907, 0.52040729]),
    WassersteinMetric(): (2.0, 0.8, [0.12247449, -0.06123724], [0.98585786, 0.51414214]),
    WassersteinMetric(scaled=False): (1.25, 0.32, None, [0.97763932, 0.52236068]),
}


@pytest.mark.parametrize("metric", GOLDEN, ids=repr)
def test_golden_gaussians(x64, metric):
    new, old = golden()
    mean_part, cov_part, mean, std = GOLDEN[metric]
    before = parts(new, old, metric)
    np.testing.assert_allclose((before.mean[0], before.cov[0]), (mean_part, cov_part), rtol=1e-6)
    near = run(new, old, metric, 0.03, 0.001)
    np.testing.assert_allclose(jnp.exp(near.log_std)[0], std, atol=5e-9)
    if mean is not None:
        np.testing.assert_allclose(near.mean[0], mean, atol=5e-9)
    after = parts(near, old, metric)
    np.testing.assert_allclose((after.mean[0], after.cov[0]), (0.03, 0.001), rtol=1e-11)


def test_golden_variances_multipliers_and_categorical(x64):
    new, old = golden()
    near = run(new, old, KLMetric(), 0.03, 0.001)
    np.testing.assert_allclose(jnp.exp(2 * near.log_std)[0], [0.94263858, 0.25605956], atol=5e-9)
    precision = lambda p: jnp.exp(-2 * p.log_std)[0]
    share = (precision(near) - precision(old)) / (precision(new) - precision(old))
    np.testing.assert_allclose(1 / share - 1, 28.2147940, rtol=1e-7)  # eta
    frobenius = run(new, old, FrobeniusMetric(), 0.03, 0.001)
    np.testing.assert_allclose(
        jnp.exp(2 * frobenius.log_std)[0], [0.97620144, 0.27082374], atol=5e-9
    )
    q, p = (Categorical(jnp.log(single(*x))) for x in ([0.1, 0.1, 0.6, 0.2], [0.4, 0.3, 0.2, 0.1]))
    near = run(p, q, KLMetric(), 0.05, 1.0)
    want = [0.1740190, 0.1591957, 0.4839149, 0.1828704]
    np.testing.assert_allclose(jnp.exp(near.log_p)[0], want, atol=5e-8)
    move = lambda c: c.log_p[0] - c.log_p[0, 0] - (q.log_p[0] - q.log_p[0, 0])
    np.testing.assert_allclose(move(near)[1:] / move(p)[1:], 0.30947438, rtol=1e-7)


def test_golden_entropy(x64):
    new, _ = golden()
    np.testing.assert_allclose(new.entropy()[0], 2.2216909, atol=5e-8)
    lifted = raise_entropy(new, 2.5)
    np.testing.assert_allclose(jnp.exp(lifted.log_std)[0], [0.68958102, 1.03437153], atol=5e-9)
    np.testing.assert_allclose(lifted.entropy()[0], 2.5, rtol=1e-12)
    schedule = ExponentialEntropy(target=-0.5, temperature=0.5)
    got = [schedule.floor(2.8, 2, x) for x in (0, 0.25, 0.5, 1)]
    np.testing.assert_allclose(got, [2.8, -0.3282486, -0.88125, -0.9962891], atol=5e-8)


def covariance(dist):
    """[rows, d, d]"""
    if isinstance(dist, FullGaussian):
        return np.asarray(dist.factor) @ np.swapaxes(np.asarray(dist.factor), -1, -2)
    return np.stack([np.diag(v) for v in np.exp(2 * np.asarray(dist.log_std))])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bound", [1e-5, 0.02, 2.0])
def test_kl_against_bisection_on_the_multiplier(x64, family, bound):
    """Near pairs and far ones; at the large bound some are inside."""
    for scale in (0.3, 2.0):
        new, old = draw(family, scale=scale)
        near = run(new, old, KLMetric(), 0.7 * bound, bound)
        if family == "categorical":
            want = [
                ref.kl_project_logits(*np.asarray(x), 0.7 * bound)
                for x in zip(new.logits, old.logits, strict=True)
            ]
            np.testing.assert_allclose(jnp.exp(near.log_p), want, rtol=1e-9)
            continue
        covs = [covariance(x) for x in (new, old)]
        for i, (cov, was) in enumerate(zip(*covs, strict=True)):
            want, _ = ref.kl_project_cov(cov, was, bound)
            np.testing.assert_allclose(covariance(near)[i], want, rtol=1e-8, atol=1e-10)
            means = np.asarray(new.mean[i]), np.asarray(old.mean[i])
            want = ref.kl_project_mean(*means, was, 0.7 * bound)
            np.testing.assert_allclose(near.mean[i], want, rtol=1e-10)


@pytest.mark.parametrize("metric", GAUSSIAN_METRICS[1:], ids=repr)
def test_closed_forms_against_the_multiplier(x64, metric):
    new, old = draw("diagonal", scale=2.0)
    near = run(new, old, metric, 0.05, 0.01)
    power = 1 if isinstance(metric, WassersteinMetric) else 2
    for i in range(len(new.mean)):
        std = [np.exp(np.asarray(x.log_std[i])) for x in (new, old)]
        scaled = power == 1 and metric.scaled
        want = ref.root_spread(*std, 0.01, power, scaled)
        np.testing.assert_allclose(jnp.exp(near.log_std[i]), want, rtol=1e-12)
        unit = np.diag(std[1] ** 2 if metric.scaled else np.ones(3))
        means = np.asarray(new.mean[i]), np.asarray(old.mean[i])
        want = ref.kl_project_mean(*means, unit, 0.025)  # there half the square is bounded
        np.testing.assert_allclose(near.mean[i], want, rtol=1e-12)


def test_projections_are_the_closest_inside(x64):
    """What SciPy finds for the problem itself: diagonal and full covariance, categorical, and the
    distances of the other metrics."""
    new, old = draw("full", scale=0.8)
    near = run(new, old, KLMetric(), 0.05, 0.02)
    tri = np.tril_indices(3)

    def cov_of(x):
        factor = np.zeros((3, 3))
        factor[tri] = x
        return factor @ factor.T

    for i in range(2):
        cov, was = (covariance(x)[i] for x in (new, old))
        found = ref.closest(
            lambda x, cov=cov: ref.kl_cov(cov_of(x), cov),
            lambda x, was=was: ref.kl_cov(cov_of(x), was),
            np.asarray(old.factor[i])[tri],
            0.02,
        )
        np.testing.assert_allclose(covariance(near)[i], cov_of(found), atol=1e-5)
    new, old = draw("categorical")
    near = run(new, old, KLMetric(), 0.05, 0.02)
    for i in range(2):
        p, q = (np.exp(np.asarray(x.log_p[i])) for x in (new, old))
        kl = lambda x, other: np.sum(probabilities(x) * np.log(probabilities(x) / other))
        found = ref.closest(
            lambda x, p=p, kl=kl: kl(x, p), lambda x, q=q, kl=kl: kl(x, q), np.log(q), 0.05
        )
        np.testing.assert_allclose(jnp.exp(near.log_p[i]), probabilities(found), atol=1e-5)
    new, old = draw("diagonal", scale=2.0)
    a, b = (np.exp(np.asarray(x.log_std[0])) for x in (new, old))
    for metric, d in (
        (WassersteinMetric(False), lambda x, y: np.sum((x - y) ** 2)),
        (WassersteinMetric(), lambda x, y: np.sum(((x - y) / b) ** 2)),
        (FrobeniusMetric(), lambda x, y: np.sum((x**2 - y**2) ** 2)),
    ):
        found = ref.closest(lambda x, d=d: d(x, a), lambda x, d=d: d(x, b), b, 0.01)
        near = run(new, old, metric, 0.05, 0.01)
        np.testing.assert_allclose(jnp.exp(near.log_std[0]), found, atol=1e-5)


def test_parts_add_up_to_the_kl_and_full_is_diagonal_where_it_is(x64):
    new, old = draw("diagonal")
    both = parts(new, old, KLMetric())
    np.testing.assert_allclose(both.mean + both.cov, new.kl(old), rtol=1e-12)
    np.testing.assert_allclose(
        both.mean[0] + both.cov[0],
        gaussian_kl(new.mean[0], np.exp(new.log_std[0]), old.mean[0], np.exp(old.log_std[0])),
        rtol=1e-10,
    )
    wide = [FullGaussian(x.mean, jax.vmap(jnp.diag)(jnp.exp(x.log_std))) for x in (new, old)]
    got, want = run(*wide, KLMetric(), 0.05, 0.02), run(new, old, KLMetric(), 0.05, 0.02)
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-12)
    np.testing.assert_allclose(covariance(got), covariance(want), rtol=1e-10, atol=1e-14)
    full = parts(*wide, KLMetric())
    np.testing.assert_allclose(full.mean, both.mean, rtol=1e-12)
    np.testing.assert_allclose(full.cov, both.cov, rtol=1e-12)


# Derivatives: those of a random linear functional of the projection, along every coordinate.


def functional(family, metric, d=3):
    """(coordinates of new) -> a number, for one state, with bounds."""
    weights = [np.cos(np.arange(1, 40) + k) for k in range(3)]

    def unpack(x):
        if family == "categorical":
            return Categorical(x)
        if family == "diagonal":
            return DiagGaussian(x[:d], x[d:])
        rows, columns = np.tril_indices(d)
        return FullGaussian(x[:d], jnp.zeros((d, d)).at[rows, columns].set(x[d:]))

    def pack(dist):
        if family == "full":
            return jnp.concatenate([dist.mean, dist.factor[np.tril_indices(d)]])
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(dist)])

    def value(x, old, mean_bound, cov_bound):
        near = project(unpack(x), old, metric, mean_bound, cov_bound)
        if family == "categorical":  # a common shift of the logits is none
            near = Categorical(near.log_p)
        out = pack(near)
        return out @ weights[0][: len(out)] + jnp.sin(out) @ weights[1][: len(out)]

    return value, pack


DIFFERENTIATED = [(f, KLMetric()) for f in FAMILIES] + [
    ("diagonal", m) for m in (WassersteinMetric(), FrobeniusMetric(scaled=False))
]


def some(fast, cases):
    """Cases of which only some are in the quick run."""
    return [pytest.param(*c, marks=() if c[0] in fast else pytest.mark.slow) for c in cases]


@pytest.mark.parametrize(
    ("family", "metric"),
    some(("diagonal", "categorical"), DIFFERENTIATED[:3]) + some((), DIFFERENTIATED[3:]),
    ids=repr,
)
def test_gradients_are_central_differences(x64, family, metric):
    """To 1e-8 outside both bounds, outside one of them, inside, and far away."""
    value, pack = functional(family, metric)
    both = jax.jit(jax.vmap(jax.grad(value), (0, 0, None, None)))
    along = jax.jit(jax.vmap(jax.vmap(value, (0, None, None, None)), (0, 0, None, None)))
    for scale, bounds in ((0.5, (0.03, 0.001)), (0.5, (9.0, 0.01)), (0.1, (9.0, 9.0))):
        new, old = draw(family, rows=3, scale=scale, seed=1)
        x = jax.vmap(pack)(new)
        h = 1e-5
        moves = h * jnp.concatenate([jnp.eye(x.shape[-1]), -jnp.eye(x.shape[-1])])
        steps = x[:, None, :] + moves[None]
        there, back = jnp.split(along(steps, old, *bounds), 2, axis=1)
        np.testing.assert_allclose(both(x, old, *bounds), (there - back) / (2 * h), atol=1e-8)


@pytest.mark.parametrize(
    "family",
    [
        "diagonal",
        pytest.param("full", marks=pytest.mark.slow),
        pytest.param("categorical", marks=pytest.mark.slow),
    ],
)
def test_on_the_boundary_the_derivative_is_that_of_the_inside(x64, family):
    """The projection has a kink there. At the boundary itself, and where new equals old, it is the
    identity, also to first order; a hair outside the derivative is the outer one, and finite."""
    value, pack = functional(family, KLMetric())
    slope = jax.jit(jax.vmap(jax.grad(value), (0, 0, 0, 0)))
    new, old = draw(family, scale=0.3)
    x, edge = jax.vmap(pack)(new), parts(new, old, KLMetric())
    free = slope(x, old, *(jnp.full(6, INF),) * 2)
    np.testing.assert_array_equal(slope(x, old, *edge), free)
    hair = [jnp.maximum(part * (1 - 1e-12), 1e-30) for part in edge]
    outer = slope(x, old, *hair)
    assert bool(jnp.all(jnp.isfinite(outer))) and float(jnp.max(jnp.abs(outer - free))) > 1e-3
    same = jax.vmap(pack)(old)
    tight = slope(same, old, *(jnp.full(6, 1e-5),) * 2)
    np.testing.assert_array_equal(tight, slope(same, old, *(jnp.full(6, INF),) * 2))


def test_the_old_distribution_is_data(x64):
    for family in FAMILIES:
        new, old = draw(family)
        total = lambda old, new: sum(
            jnp.sum(x) for x in jax.tree.leaves(project(new, old, KLMetric(), 0.03, 0.001))
        )
        for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(old, new)):
            np.testing.assert_array_equal(leaf, 0)


CASES = some(("diagonal", "categorical"), [(f, KLMetric()) for f in FAMILIES]) + some(
    (), [("diagonal", m) for m in GAUSSIAN_METRICS[1:]]
)


@pytest.mark.parametrize(("family", "metric"), CASES, ids=repr)
def test_identity_inside_boundary_outside_idempotent(x64, family, metric):
    new, old = draw(family, scale=0.7)
    middle = [float(jnp.median(x)) for x in parts(new, old, metric)]
    middle[1] = middle[1] or 1.0
    near = run(new, old, metric, *middle)
    before, after = parts(new, old, metric), parts(near, old, metric)
    leaves = lambda d: (d.logits,) if family == "categorical" else jax.tree.leaves(d)
    for was, now, bound, a, b in zip(
        before, after, middle, leaves(new), leaves(near), strict=False
    ):
        outside = np.asarray(was > bound)
        if family == "categorical" and was is before.cov:
            continue
        assert 0 < outside.sum() < 6
        np.testing.assert_array_equal(np.asarray(a)[~outside], np.asarray(b)[~outside])
        np.testing.assert_allclose(now[outside], bound, rtol=1e-10)
    again = run(near, old, metric, *middle)
    assert tiny.distance(again, near) < 1e-10
    everything = run(new, old, metric, INF, INF)
    assert tiny.same(everything, new)


def gradient_is_finite(new, old, metric, mean, cov):
    """Whether projection and derivative hold no NaN and no infinity but those of `new`."""
    total = lambda n: sum(
        jnp.sum(jnp.where(jnp.isfinite(x), x, 0))
        for x in jax.tree.leaves(project(n, old, metric, mean, cov))
    )
    value, slope = jax.value_and_grad(total)(new)
    return jnp.isfinite(value) & jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(slope)])
    )


finite = functools.partial(jax.jit, static_argnums=2)(gradient_is_finite)


@pytest.mark.parametrize(("family", "metric"), CASES, ids=repr)
@pytest.mark.slow
def test_no_nan_at_equality_at_the_boundary_or_under_vmap(family, metric):
    """In float32, the type it runs in."""
    new, old = draw(family, dtype=np.float32)
    edge = [float(x[0]) or 1.0 for x in parts(new, old, metric)]
    for near, bounds in ((old, (1e-5, 1e-5)), (new, edge), (new, (1e-5, 1e-5)), (new, (INF, INF))):
        assert bool(finite(near, old, metric, *bounds))
    many = jax.vmap(lambda n, o: project(n, o, metric, 0.03, 0.001))
    one, rows = run(new, old, metric, 0.03, 0.001), jax.jit(many)(new, old)
    assert tiny.distance(one, rows) < 1e-6
    sloped = jax.jit(jax.vmap(lambda n, o: gradient_is_finite(n, o, metric, 0.03, 0.001)))
    assert bool(jnp.all(sloped(new, old)))


@pytest.mark.slow
def test_extreme_distributions_stay_finite_and_land():
    """Deviations from floor to ceiling and back, means a thousand deviations away, logits hundreds
    apart, in float32."""
    logs = [[-5, -5, 2], [2, 2, -5], [-5, 2, -5], [-20, -20, -20], [20, 20, -20], [1, 0, -2]]
    mean = [[0, 1e3, -1], [3, 0, 0], [0, 0, 1e2], [1, 1, 1], [-1e3, 0, 0], [0, 0, 0]]
    logs, mean = np.float32(logs), np.float32(mean)
    new = tiny.cast(DiagGaussian(mean, logs), np.float32)
    old = tiny.cast(DiagGaussian(mean[::-1], logs[[1, 0, 5, 2, 2, 4]]), np.float32)
    for bounds in ((1e-5, 1e-5), (0.03, 0.001), (3.0, 10.0)):
        near = run(new, old, KLMetric(), *bounds)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(near))
        assert bool(finite(new, old, KLMetric(), *bounds))
        cov = parts(near, old, KLMetric()).cov
        np.testing.assert_allclose(cov, bounds[1], rtol=max(2e-3, 1e-6 / bounds[1]))
    far = [[300, 0, -300, 0], [0, 0, 0, 0], [-300, 0, 300, 0]]
    back = [[-300, 0, 300, 0], [0, 200, 0, 1], [0, 0, 0, 0]]
    new, old = (Categorical(jnp.asarray(x, jnp.float32)) for x in (far * 2, back * 2))
    for bound in (1e-5, 0.03, 3.0):
        near = run(new, old, KLMetric(), bound, 1.0)
        assert bool(finite(new, old, KLMetric(), bound, 1.0))
        np.testing.assert_array_less(near.kl(old), bound * (1 + 5e-2))


def test_impossible_actions():
    """What the old policy cannot do the projection cannot; what only the new one cannot do becomes
    rare, as far as the bound allows."""
    some, none = [[1, 0, -INF, 0], [0, -INF, -INF, 3]], [[0, 1, -INF, 0], [1, 0, -INF, 0]]
    new, old = (Categorical(jnp.asarray(x * 3, jnp.float32)) for x in (some, none))
    near = run(new, old, KLMetric(), 0.02, 1.0)
    np.testing.assert_allclose(near.kl(old), 0.02, rtol=1e-4)
    p = np.exp(near.log_p)
    assert np.all(p[:, 2] == 0) and p[1, 1] < np.exp(old.log_p)[1, 1]
    assert bool(finite(new, old, KLMetric(), 0.02, 1.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_against_float64(x64, family):
    """The distribution to 1e-5, and where it lands to the rounding of its own parameters: 4e-3 of a
    bound of 1e-5, 4e-4 of one of 1e-3."""
    for seed, bound in itertools.product(range(30), (1e-5, 1e-3, 0.3)):
        check_float32(draw(family, seed=seed, dtype=np.float32), family, bound)


def check_float32(narrow, family, bound):
    """Pairs of float32 against the same in float64."""
    got = run(*narrow, KLMetric(), bound, bound)
    want = run(*tiny.cast(narrow, np.float64), KLMetric(), bound, bound)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(got))
    if family == "categorical":
        np.testing.assert_allclose(jnp.exp(got.log_p), jnp.exp(want.log_p), atol=1e-5)
    else:
        np.testing.assert_allclose(got.mean, want.mean, atol=3e-6)
        np.testing.assert_allclose(covariance(got), covariance(want), rtol=1e-4, atol=1e-4)
    landed = parts(*tiny.cast((got, narrow[1]), np.float64), KLMetric())
    exact = parts(*tiny.cast((want, narrow[1]), np.float64), KLMetric())
    tolerance = 4e-3 * (1e-5 / bound) ** 0.5
    for a, b in zip(landed, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance)


def test_no_row_depends_on_its_neighbours():
    for family in FAMILIES:
        new, old = draw(family, dtype=np.float32)
        far, _ = draw(family, scale=30.0, dtype=np.float32)
        keep = np.arange(6) < 4
        pick = lambda a, b, keep=keep: jnp.where(keep.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
        mixed = jax.tree.map(pick, new, far)
        a, b = (run(x, old, KLMetric(), 0.03, 0.001) for x in (new, mixed))
        assert tiny.same(*(jax.tree.map(lambda x: x[:4], y) for y in (a, b)))


@pytest.mark.slow
def test_the_root_find_converges_and_is_safe(x64):
    """From every start: quadratic, logarithmic and steep KLs, three usual steps, and roots over
    eight orders of magnitude."""
    delta = jnp.asarray(np.random.default_rng(0).uniform(-1, 12, (400, 3)))
    delta = jnp.where(delta < 0, jnp.maximum(delta, -0.999999), jnp.expm1(delta))
    for bound in (1e-8, 1e-3, 0.1, 5.0):
        line = projection._precision_line(delta)
        outside = line(jnp.ones(400)).kl > bound
        t = jax.jit(
            lambda d, o, b=bound: newton_root(projection._precision_line(d), b, o, jnp.ones(400))
        )(delta, outside)
        assert float(t.min()) > 0 and float(t.max()) <= 1 and bool(jnp.all(t[~outside] == 1))
        np.testing.assert_allclose(line(t).kl[outside], bound, rtol=1e-9)


def test_rows_that_are_nan_stay_nan_and_end(x64):
    new, old = draw("diagonal")
    bad = DiagGaussian(new.mean, new.log_std.at[1].set(jnp.nan))
    near = run(bad, old, KLMetric(), 0.03, 0.001)
    assert bool(jnp.all(jnp.isnan(near.log_std[1]))) and bool(jnp.all(jnp.isfinite(near.mean)))
    clean = run(new, old, KLMetric(), 0.03, 0.001)
    np.testing.assert_array_equal(np.delete(near.log_std, 1, 0), np.delete(clean.log_std, 1, 0))


# Entropy and refusals.


def test_entropy_is_raised_only_where_it_is_below(x64):
    for family in FAMILIES[:2]:
        new, _ = draw(family)
        floor = float(jnp.median(new.entropy()))
        lifted, level = raise_entropy(new, floor), raise_entropy(new, floor, equality=True)
        np.testing.assert_allclose(lifted.entropy(), jnp.maximum(new.entropy(), floor), rtol=1e-12)
        np.testing.assert_allclose(level.entropy(), floor, rtol=1e-12)
        np.testing.assert_array_equal(lifted.mean, new.mean)
        inside = (slice(None), np.arange(3), np.arange(3))
        ratio = covariance(level)[inside] / covariance(new)[inside]
        np.testing.assert_allclose(ratio, ratio[:, :1].repeat(3, 1), rtol=1e-12)
        assert raise_entropy(new, None) is new


def test_schedules_start_at_the_first_policy_and_fall():
    assert FreeEntropy().floor(1.0, 2, 0.5) is None
    linear = LinearEntropy(target=-1.0)
    assert [linear.floor(3.0, 2, x) for x in (0, 0.5, 1)] == [3.0, 0.5, -2.0]
    for kind in list(ENTROPIES.values())[1:]:
        values = [kind().floor(2.0, 3, x) for x in np.linspace(0, 1, 5)]
        assert values[0] == 2.0 and np.all(np.diff(values) < 0)


@pytest.mark.parametrize("metric", GAUSSIAN_METRICS[1:], ids=repr)
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_metrics_refuse_families_they_do_not_know(metric, family):
    with pytest.raises(UsageError, match="allowed: KLMetric") as caught:
        project(*draw(family, dtype=np.float32), metric)
    assert "\n" not in str(caught.value)


def test_the_beta_is_refused():
    dist = Beta(jnp.ones((2, 1)), jnp.ones((2, 1)))
    for metric in GAUSSIAN_METRICS:
        with pytest.raises(UsageError, match="allowed"):
            project(dist, dist, metric)


def test_entropy_of_categoricals_is_refused():
    with pytest.raises(UsageError, match="FreeEntropy"):
        raise_entropy(draw("categorical", dtype=np.float32)[0], 1.0)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (LinearEntropy, {"target": INF}),
        (ExponentialEntropy, {"target": float("nan")}),
        (ExponentialEntropy, {"temperature": 0.0}),
        (ExponentialEntropy, {"temperature": 1.5}),
    ],
)
def test_fields_out_of_range_are_refused_in_one_line(kind, fields):
    with pytest.raises(UsageError, match="allowed") as caught:
        kind(**fields)
    assert "\n" not in str(caught.value)


def test_names_and_examples():
    assert set(METRICS) == {"kl", "wasserstein", "frobenius"}
    assert all(isinstance(m(), projection.Metric) for m in METRICS.values())
    assert all(isinstance(e(), projection.EntropyControl) for e in ENTROPIES.values())
    found = doctest.testmod(projection, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0 and found.attempted >= 4
