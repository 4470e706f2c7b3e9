# ruff: noqa: E731 (a lambda reads like the formula)
"""KL, entropy, log-probability and Fisher matrices against textbook forms, sums and integrals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from reference import divergence as ref
from surefoot.distributions import (
    BETA_INSIDE,
    Beta,
    Categorical,
    DiagGaussian,
    FullGaussian,
    expm1_minus,
)

INF = float("inf")


def wide_logits_kl(logits_p, logits_q):
    """Row by row in extended precision, through the textbook form."""
    out = []
    for lp, lq in zip(logits_p.astype(np.longdouble), logits_q.astype(np.longdouble), strict=True):
        a = lp - lp.max() - np.log(np.exp(lp - lp.max()).sum())
        b = lq - lq.max() - np.log(np.exp(lq - lq.max()).sum())
        out.append(np.sum(np.exp(a) * (a - b)))
    return np.array(out)


def test_expm1_minus(x64):
    x = np.array([0.0, 1e-12, -1e-6, 0.05, -0.0999, 0.4999, -0.5001, 1.0, -3.0, 30.0, -1e4])
    wide = x.astype(np.longdouble)
    want = np.where(
        np.abs(x) < 1e-5, wide**2 / 2 + wide**3 / 6 + wide**4 / 24, np.expm1(wide) - wide
    )
    got, slope = jax.jit(jax.vmap(jax.value_and_grad(expm1_minus)))(jnp.asarray(x))
    np.testing.assert_allclose(np.asarray(got), want.astype(float), rtol=2e-11)
    np.testing.assert_allclose(np.asarray(slope), np.expm1(x), rtol=1e-10)


@jax.jit
def both_kls(p, q):
    """KL(p || q) and KL(q || p)."""
    return p.kl(q), q.kl(p)


def test_gaussian_kl_equals_closed_form_and_integral(x64):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mp, mq = rng.normal(size=(2, 3))
        lp, lq = rng.normal(size=(2, 3)) * 0.4
        forth, back_again = both_kls(
            *(DiagGaussian(jnp.asarray(m), jnp.asarray(s)) for m, s in ((mp, lp), (mq, lq)))
        )
        want = ref.gaussian_kl(mp, np.exp(lp), mq, np.exp(lq))
        back = ref.gaussian_kl(mq, np.exp(lq), mp, np.exp(lp))
        summed = sum(
            ref.gaussian_kl_by_quadrature(a, np.exp(b), c, np.exp(d))
            for a, b, c, d in zip(mp, lp, mq, lq, strict=True)
        )
        np.testing.assert_allclose(float(forth), want, rtol=1e-12)
        np.testing.assert_allclose(float(back_again), back, rtol=1e-12)
        np.testing.assert_allclose(float(forth), summed, rtol=1e-9)
        assert abs(want - back) > 1e-3 * want  # the two directions are told apart


def test_categorical_kl_equals_enumeration(x64):
    rng = np.random.default_rng(1)
    for scale in (0.1, 1.0, 5.0):
        lp, lq = rng.normal(size=(2, 4)) * scale + 3
        forth, back = both_kls(Categorical(jnp.asarray(lp)), Categorical(jnp.asarray(lq)))
        probs = ref.probabilities(lp), ref.probabilities(lq)
        np.testing.assert_allclose(float(forth), ref.categorical_kl(*probs), rtol=1e-10)
        np.testing.assert_allclose(float(back), ref.categorical_kl(*probs[::-1]), rtol=1e-10)


RADII = [(2e-4, 2e-6), (2.5e-5, 5e-6), (2e-6, 2e-5)]


@pytest.mark.parametrize(("kl", "tolerance"), RADII)
def test_float32_gaussian_kl_at_small_radii(kl, tolerance):
    rng = np.random.default_rng(2)
    mp, lp = rng.normal(size=(2, 4000, 1))
    lq = lp + np.sqrt(kl / 2) * rng.choice([-1, 1], lp.shape)
    mq = mp + np.exp(lq) * np.sqrt(kl) * rng.choice([-1, 1], lp.shape)
    mp, lp, mq, lq = (x.astype(np.float32) for x in (mp, lp, mq, lq))
    wide = [x.astype(np.longdouble) for x in (mp, lp, mq, lq)]
    want = (
        wide[3]
        - wide[1]
        + (np.exp(2 * wide[1]) + (wide[0] - wide[2]) ** 2) / (2 * np.exp(2 * wide[3]))
        - 0.5
    )[:, 0]
    got = np.asarray(both_kls(DiagGaussian(mp, lp), DiagGaussian(mq, lq))[0])
    assert np.max(np.abs(got - want) / want) < tolerance
    assert 0.3 * kl < np.median(want) < 3 * kl


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize(("kl", "tolerance"), RADII)
def test_float32_categorical_kl_at_small_radii(kl, tolerance, offset):
    rng = np.random.default_rng(3)
    lp = rng.normal(size=(4000, 5)) + offset
    lq = (lp + rng.normal(size=lp.shape) * np.sqrt(2 * kl)).astype(np.float32)
    lp = lp.astype(np.float32)
    want = wide_logits_kl(lp, lq)
    got = np.asarray(both_kls(Categorical(lp), Categorical(lq))[0])
    assert np.max(np.abs(got - want) / want) < tolerance
    assert 0.1 * kl < np.median(want) < 3 * kl


EXTREME_LOGITS = {
    "huge": ([1e4, 0, -1e4], [1e4, 1, -1e4]),
    "one masked": ([-INF, 0.3, 0.1], [-INF, 0.1, 0.4]),
    "nearly masked": ([-1e4, 0.3, 0.1], [-200.0, 0.1, 0.4]),
    "all but one masked": ([-INF, 0.3, -INF], [-INF, 5.0, -INF]),
    "far": ([50.0, 0, 0], [0, 50.0, 0]),
    "shifted": ([1e4, 1e4 + 1, 1e4], [-1e4, -1e4 + 2, -1e4]),
    "underflow in p": ([-120.0, 0, 0], [0, 0, 0]),
}


@jax.jit
def everything(a, b):
    """Every function of two Categoricals, with gradients; the second part must be finite whatever
    the logits."""
    kl = lambda x, y: Categorical(x).kl(Categorical(y))
    entropy = lambda x: Categorical(x).entropy()
    chosen = lambda x: Categorical(x).log_prob(jnp.asarray(1))
    values = kl(a, b), kl(b, a), entropy(a), chosen(a)
    slopes = jax.grad(kl, (0, 1))(a, b), jax.grad(entropy)(a), jax.grad(chosen)(a)
    return values, (slopes, Categorical(a).fisher(Categorical(jnp.ones_like(a))).logits)


@pytest.mark.parametrize("case", EXTREME_LOGITS)
def test_extreme_logits(case):
    a, b = (jnp.asarray(x, jnp.float32) for x in EXTREME_LOGITS[case])
    (forth, back, entropy, chosen), rest = everything(a, b)
    p, q = (ref.probabilities(np.asarray(x, np.float64)) for x in (a, b))
    if min(p.min(), q.min()) > 0 or "masked" in case:
        np.testing.assert_allclose(
            float(forth), ref.categorical_kl(p, np.maximum(q, 1e-300)), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            float(back), ref.categorical_kl(q, np.maximum(p, 1e-300)), rtol=0.1, atol=1e-6
        )
    np.testing.assert_allclose(
        float(entropy), -np.sum(p * np.log(np.where(p > 0, p, 1))), atol=1e-6
    )
    np.testing.assert_allclose(
        float(chosen), np.log(max(p[1], 1e-300)) if p[1] > 0 else chosen, rtol=1e-5, atol=1e-6
    )
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(rest)), rest
    assert float(forth) >= 0 and float(back) >= 0


def test_a_policy_that_leaves_the_support_is_infinitely_far():
    forth, back = both_kls(
        Categorical(jnp.asarray([0.0, 0.0])), Categorical(jnp.asarray([0.0, -INF]))
    )
    assert float(forth) == INF
    np.testing.assert_allclose(float(back), np.log(2), rtol=1e-6)


def test_extreme_sigma():
    kl = jax.jit(
        jax.value_and_grad(
            lambda x, y: DiagGaussian(x[:1], x[1:]).kl(DiagGaussian(y[:1], y[1:])), (0, 1)
        )
    )
    for lp, lq in [(-5.0, 2.0), (2.0, -5.0), (-5.0, -5.0), (2.0, 2.0), (-20.0, -20.0)]:
        p, q = np.float32([0.5, lp]), np.float32([0.5 + 1e-3 * np.exp(lq), lq])
        value, slopes = kl(p, q)
        want = ref.gaussian_kl(
            [float(p[0])], [np.exp(float(p[1]))], [float(q[0])], [np.exp(float(q[1]))]
        )
        np.testing.assert_allclose(float(value), want, rtol=1e-5, atol=1e-9)
        assert all(bool(np.all(np.isfinite(g))) for g in slopes)


def test_kl_to_itself_is_zero_and_flat(x64):
    rng = np.random.default_rng(4)
    logits, mean, log_std = (jnp.asarray(rng.normal(size=(5, 3))) for _ in range(3))
    both = jax.jit(lambda p: (p.kl(p), jax.grad(lambda q: jnp.sum(p.kl(q)))(p)))
    for p in (Categorical(logits), DiagGaussian(mean, log_std)):
        kl, slope = both(p)
        assert np.all(np.asarray(kl) == 0)
        for leaf in jax.tree.leaves(slope):
            np.testing.assert_allclose(np.asarray(leaf), 0, atol=1e-15)


def matrices(kl, fisher, at):
    """The closed-form Fisher matrix at a point, column by column, and the Hessians of the KL in
    each argument."""

    @jax.jit
    def all_three(at):
        return (
            jax.vmap(fisher, (None, 0), 1)(at, jnp.eye(len(at))),
            jax.hessian(kl, 0)(at, at),
            jax.hessian(kl, 1)(at, at),
        )

    return all_three(jnp.asarray(at))


def test_fisher_is_the_covariance_of_scores_and_the_hessian_of_both_kls(x64):
    logits = np.random.default_rng(5).normal(size=4)
    kl = lambda a, b: Categorical(a).kl(Categorical(b))
    fisher, first, second = matrices(
        kl, lambda at, v: Categorical(at).fisher(Categorical(v)).logits, logits
    )
    np.testing.assert_allclose(fisher, ref.categorical_fisher(logits), atol=1e-12)
    np.testing.assert_allclose(first, fisher, atol=1e-12)
    np.testing.assert_allclose(second, fisher, atol=1e-12)

    unpack = lambda v: DiagGaussian(v[:1], v[1:])  # mean and log-deviation of one dimension
    pack = lambda d: jnp.concatenate([d.mean, d.log_std])
    kl = lambda a, b: unpack(a).kl(unpack(b))
    fisher, first, second = matrices(
        kl, lambda at, v: pack(unpack(at).fisher(unpack(v))), [0.3, -0.7]
    )
    np.testing.assert_allclose(fisher, ref.gaussian_fisher(0.3, -0.7), atol=1e-8)
    np.testing.assert_allclose(first, fisher, atol=1e-11)
    np.testing.assert_allclose(second, fisher, atol=1e-11)


@jax.jit
def log_prob_and_entropy(dist, action):
    """ln p(action), entropy."""
    return dist.log_prob(action), dist.entropy()


def test_log_prob_and_entropy(x64):
    rng = np.random.default_rng(6)
    mean, log_std = rng.normal(size=(2, 3))
    grid = np.linspace(-40, 40, 40001)
    for m, ls in zip(mean, log_std, strict=True):
        d = DiagGaussian(np.full((len(grid), 1), m), np.full((len(grid), 1), ls))
        log_p, entropy = (np.asarray(x) for x in log_prob_and_entropy(d, grid[:, None]))
        np.testing.assert_allclose(np.exp(log_p), ref.density(grid, m, np.exp(ls)), atol=1e-14)
        np.testing.assert_allclose(
            entropy[0], -np.trapezoid(np.exp(log_p) * log_p, grid), rtol=1e-9
        )
    parts = [
        np.log(ref.density(np.asarray(0.2), m, np.exp(ls)))
        for m, ls in zip(mean, log_std, strict=True)
    ]
    np.testing.assert_allclose(
        float(log_prob_and_entropy(DiagGaussian(mean, log_std), np.full(3, 0.2))[0]),
        sum(parts),
        rtol=1e-12,
    )

    logits = rng.normal(size=4)
    p = ref.probabilities(logits)
    got, entropy = log_prob_and_entropy(Categorical(np.tile(logits, (4, 1))), np.arange(4))
    np.testing.assert_allclose(got, np.log(p), rtol=1e-12)
    np.testing.assert_allclose(entropy, -np.sum(p * np.log(p)), rtol=1e-12)


def test_samples_and_modes():
    """Frequencies of 20000 draws, false-alarm rate below 1e-6 (six deviations); masked actions are
    never drawn."""
    n = 20000
    logits = np.tile(np.float32([0.0, 1.0, -INF, -1.0]), (n, 1))
    drawn = np.bincount(np.asarray(Categorical(logits).sample(jax.random.key(0))), minlength=4) / n
    p = ref.probabilities(np.array([0.0, 1.0, -1e9, -1.0]))
    assert drawn[2] == 0
    assert np.all(np.abs(drawn - p) <= 6 * np.sqrt(p * (1 - p) / n))
    gaussian = DiagGaussian(
        np.full((n, 1), 2.0, np.float32), np.full((n, 1), np.log(0.5), np.float32)
    )
    x = np.asarray(gaussian.sample(jax.random.key(1)))
    assert abs(x.mean() - 2) < 6 * 0.5 / np.sqrt(n) and abs(x.std() - 0.5) < 6 * 0.5 / np.sqrt(
        2 * n
    )
    assert (
        int(Categorical(jnp.asarray([0.0, 3.0, 1.0])).mode()) == 1
        and float(gaussian.mode()[0, 0]) == 2.0
    )


def test_the_parts_of_a_gaussian_kl(x64):
    """The one of the means is what is left where the deviations agree, the other where the means
    do; together they are the KL."""
    rng = np.random.default_rng(7)
    mp, mq, lp, lq = jnp.asarray(rng.normal(size=(4, 5, 3)))
    p, q = DiagGaussian(mp, lp), DiagGaussian(mq, lq)
    mean, covariance = jax.jit(lambda p, q: p.kl_parts(q))(p, q)
    forth = lambda p, q: np.asarray(both_kls(p, q)[0])
    np.testing.assert_allclose(mean + covariance, forth(p, q), rtol=1e-12)
    np.testing.assert_allclose(covariance, forth(p, DiagGaussian(mp, lq)), rtol=1e-12)
    np.testing.assert_allclose(mean, forth(DiagGaussian(mp, lq), q), rtol=1e-12)
    assert np.all(mean > 0) and np.all(covariance > 0)


# Beta, on [-1, 1].


def concentrations(rng, n, low, high):
    """Two arrays [n] between two concentrations, evenly in their logarithm."""
    return np.exp(rng.uniform(np.log(low), np.log(high), (2, n)))


@pytest.mark.parametrize(("low", "high"), [(1.0, 3.0), (1.0, 100.0), (100.0, 1000.0)])
def test_beta_against_scipy(x64, low, high):
    """Density, entropy, and the KL in textbook form and as an integral."""
    rng = np.random.default_rng(8)
    a, b = concentrations(rng, 40, low, high)
    c, d = concentrations(rng, 40, low, high)
    x = np.clip(2 * rng.beta(a, b) - 1, -0.999, 0.999)
    p, q = (Beta(jnp.asarray(u)[:, None], jnp.asarray(v)[:, None]) for u, v in ((a, b), (c, d)))
    scipys = stats.beta(a, b, loc=-1, scale=2)
    log_p, entropy = log_prob_and_entropy(p, jnp.asarray(x)[:, None])
    np.testing.assert_allclose(log_p, scipys.logpdf(x), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(entropy, scipys.entropy(), rtol=1e-8, atol=1e-9)
    forth, back = both_kls(p, q)
    np.testing.assert_allclose(forth, ref.beta_kl(a, b, c, d), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(forth, ref.beta_kl_by_its_remainder(a, b, c, d), rtol=2e-11)
    np.testing.assert_allclose(back, ref.beta_kl_by_its_remainder(c, d, a, b), rtol=2e-11)
    grid = np.linspace(-1, 1, 200_001)[1:-1]
    one, other = stats.beta(a[0], b[0], -1, 2), stats.beta(c[0], d[0], -1, 2)
    inner = one.pdf(grid) * (one.logpdf(grid) - other.logpdf(grid))
    np.testing.assert_allclose(float(forth[0]), np.trapezoid(inner, grid), rtol=1e-4)


def test_beta_sums_over_action_dimensions(x64):
    a, b = jnp.asarray([[1.5, 4.0]]), jnp.asarray([[2.5, 1.2]])
    c, d = jnp.asarray([[1.0, 5.0]]), jnp.asarray([[2.0, 1.1]])
    x = jnp.asarray([[0.3, -0.2]])
    each = [(Beta(a[:, i : i + 1], b[:, i : i + 1]), i) for i in range(2)]
    others = [Beta(c[:, i : i + 1], d[:, i : i + 1]) for i in range(2)]
    both, kl = log_prob_and_entropy(Beta(a, b), x), both_kls(Beta(a, b), Beta(c, d))
    parts = [log_prob_and_entropy(p, x[:, i : i + 1]) for p, i in each]
    for k in range(2):
        np.testing.assert_allclose(both[k], parts[0][k] + parts[1][k], rtol=1e-12)
        kls = [both_kls(p, q)[k] for (p, _), q in zip(each, others, strict=True)]
        np.testing.assert_allclose(kl[k], kls[0] + kls[1], rtol=1e-12)


@pytest.mark.parametrize("step", [1.0, 0.1, 1e-2, 1e-3])
@pytest.mark.parametrize(("low", "high"), [(1.0, 3.0), (3.0, 100.0), (100.0, 1000.0)])
def test_float32_beta_kl_at_all_radii(low, high, step):
    """Down to 1e-8 the relative error stays below the margin of `within`."""
    rng = np.random.default_rng(9)
    a, b = concentrations(rng, 1000, low, high).astype(np.float32)
    c, d = (1 + (x - 1) * np.exp(step * rng.normal(size=1000)) for x in (a, b))
    c, d = c.astype(np.float32), d.astype(np.float32)
    want = ref.beta_kl_by_its_remainder(a, b, c, d)
    got = np.asarray(both_kls(Beta(a[:, None], b[:, None]), Beta(c[:, None], d[:, None]))[0])
    far = want > 1e-9
    assert np.max(np.abs(got - want)[far] / want[far]) < 1e-5 and far.mean() > 0.9


def test_beta_kl_to_itself_is_zero_and_flat():
    a, b = jnp.asarray([[1.0, 1.7, 900.0]]), jnp.asarray([[1.0, 30.0, 2.0]])
    p = Beta(a, b)
    kl, slope = jax.jit(lambda p: (p.kl(p), jax.grad(lambda q: jnp.sum(p.kl(q)))(p)))(p)
    assert float(kl[0]) == 0 and all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(slope))


def test_beta_fisher_is_the_covariance_of_scores_and_the_curvature_of_the_kl(x64):
    a, b = 1.7, 3.2
    grid = np.linspace(0, 1, 400_001)[1:-1]
    score = np.stack([np.log(grid), np.log1p(-grid)])
    weight = stats.beta(a, b).pdf(grid)
    score = score - np.trapezoid(weight * score, grid, axis=-1)[:, None]
    want = np.trapezoid(weight * score[:, None] * score[None], grid, axis=-1)
    at = Beta(jnp.full((2, 1), a), jnp.full((2, 1), b))
    rows = at.fisher(Beta(jnp.asarray([[1.0], [0.0]]), jnp.asarray([[0.0], [1.0]])))
    got = np.concatenate([rows.alpha, rows.beta], axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    for v in ([1.0, 0.0], [0.0, 1.0], [1.0, -2.0], [0.5, 1.0]):
        near = Beta(jnp.full((2, 1), a + 1e-5 * v[0]), jnp.full((2, 1), b + 1e-5 * v[1]))
        for kl in both_kls(at, near):
            np.testing.assert_allclose(kl, 0.5e-10 * np.dot(v, got @ v), rtol=1e-4)


@pytest.mark.slow
def test_beta_samples_and_modes():
    """Kolmogorov-Smirnov on 4000 draws, false alarm 1e-6; no draw on an end, where the density of
    the next policy may be zero."""
    n = 4000
    for a, b in ((1.0, 1.0), (1.2, 6.0), (300.0, 40.0)):
        many = Beta(np.full((n, 1), a, np.float32), np.full((n, 1), b, np.float32))
        x = np.asarray(jax.jit(lambda d: d.sample(jax.random.key(2)))(many))[:, 0]
        assert stats.kstest(x, stats.beta(a, b, loc=-1, scale=2).cdf).pvalue > 1e-6
        assert np.abs(x).max() <= BETA_INSIDE < 1
    d = Beta(jnp.asarray([1.0, 3.0, 1.0, 2.0]), jnp.asarray([1.0, 1.0, 5.0, 4.0]))
    np.testing.assert_allclose(d.mode(), [0, 1, -1, -0.5])


@pytest.mark.parametrize("x", [-1.0, 1.0, 1.5, -7.0])
def test_beta_log_density_is_finite_at_the_ends(x):
    d = Beta(jnp.asarray([1.0, 4.0, 900.0]), jnp.asarray([1.0, 1.0, 2.0]))
    value, slope = jax.value_and_grad(lambda d: d.log_prob(jnp.full(3, x)))(d)
    assert np.isfinite(float(value))
    assert all(np.all(np.isfinite(np.asarray(s))) for s in jax.tree.leaves(slope))


# Full covariance.


def full(rng, rows=5, d=3, apart=0.5, dtype=np.float64):
    """Pairs of full Gaussians."""
    below = np.tril(0.6 * rng.normal(size=(rows, d, d)), -1)
    scale = np.exp(0.4 * rng.normal(size=(rows, d, 1)))
    mean = rng.normal(size=(rows, d))
    p = FullGaussian(mean, scale * (np.eye(d) + below))
    there = np.tril(apart * rng.normal(size=(rows, d, d)), -1)
    grow = np.exp(apart * rng.normal(size=(rows, d, 1)))
    q = FullGaussian(
        mean + apart * rng.normal(size=(rows, d)), grow * scale * (np.eye(d) + below + there)
    )
    return tuple(jax.tree.map(lambda x: jnp.asarray(x, dtype), x) for x in (p, q))


def full_kl(p, q, i):
    """1/2 [tr(S_q^-1 S_p) + shift' S_q^-1 shift - d + ln |S_q| / |S_p|], in float64."""
    (mp, fp), (mq, fq) = ((np.asarray(x.mean[i]), np.asarray(x.factor[i])) for x in (p, q))
    sp, sq = (np.float64(f) @ np.float64(f).T for f in (fp, fq))
    shift = np.float64(mp) - np.float64(mq)
    logs = np.linalg.slogdet(sq)[1] - np.linalg.slogdet(sp)[1]
    spread = np.trace(np.linalg.solve(sq, sp)) + shift @ np.linalg.solve(sq, shift)
    return 0.5 * (spread - len(shift) + logs)


def test_full_gaussian_kl_log_prob_and_entropy(x64):
    p, q = full(np.random.default_rng(7))
    forth, back = both_kls(p, q)
    action = p.mean + 0.3
    log_p, entropy = log_prob_and_entropy(p, action)
    for i in range(5):
        np.testing.assert_allclose(forth[i], full_kl(p, q, i), rtol=1e-10)
        np.testing.assert_allclose(back[i], full_kl(q, p, i), rtol=1e-10)
        factor = np.asarray(p.factor[i])
        normal = stats.multivariate_normal(p.mean[i], factor @ factor.T)
        np.testing.assert_allclose(log_p[i], normal.logpdf(action[i]), rtol=1e-10)
        np.testing.assert_allclose(entropy[i], normal.entropy(), rtol=1e-10)


def test_a_full_gaussian_with_a_diagonal_factor_is_a_diagonal_one(x64):
    rng = np.random.default_rng(8)
    narrow = [DiagGaussian(*(jnp.asarray(rng.normal(size=(4, 3))) for _ in "ms")) for _ in "pq"]
    wide = [FullGaussian(d.mean, jnp.exp(d.log_std)[..., None] * jnp.eye(3)[None]) for d in narrow]
    np.testing.assert_allclose(both_kls(*wide), both_kls(*narrow), rtol=1e-12)
    action = jnp.asarray(rng.normal(size=(4, 3)))
    np.testing.assert_allclose(
        log_prob_and_entropy(wide[0], action), log_prob_and_entropy(narrow[0], action), rtol=1e-12
    )


@pytest.mark.parametrize(("apart", "tolerance"), [(1e-2, 1e-5), (1e-3, 1e-4)])
def test_float32_full_gaussian_kl_at_small_radii(apart, tolerance):
    """KLs of about 3e-4 and 3e-6: better than a hundredth of the textbook form's error."""
    p, q = full(np.random.default_rng(9), rows=200, apart=apart, dtype=np.float32)
    got = both_kls(p, q)[0]
    want = np.array([full_kl(p, q, i) for i in range(200)])
    assert np.median(np.abs(got / want - 1)) < tolerance and np.median(want) < 10 * apart**2


@pytest.mark.slow
def test_full_fisher_is_the_hessian_of_both_kls(x64):
    """In the mean and the factor's entries on and below the diagonal."""
    rows, columns = np.tril_indices(3)
    unpack = lambda v: FullGaussian(v[:3], jnp.zeros((3, 3)).at[rows, columns].set(v[3:]))
    pack = lambda d: jnp.concatenate([d.mean, d.factor[rows, columns]])
    p, _ = full(np.random.default_rng(10), rows=1)
    at = pack(jax.tree.map(lambda x: x[0], p))
    kl = lambda a, b: unpack(a).kl(unpack(b))
    fisher, first, second = matrices(kl, lambda at, v: pack(unpack(at).fisher(unpack(v))), at)
    np.testing.assert_allclose(fisher, first, atol=1e-10)
    np.testing.assert_allclose(fisher, second, atol=1e-10)


@pytest.mark.slow
def test_samples_of_a_full_gaussian():
    """Mean and covariance of 20000 draws, six deviations."""
    factor = np.tile(np.float32([[1.0, 0.0], [0.8, 0.6]]), (20000, 1, 1))
    dist = FullGaussian(jnp.ones((20000, 2)), jnp.asarray(factor))
    drawn = np.asarray(dist.sample(jax.random.key(2)))
    np.testing.assert_allclose(drawn.mean(0), 1, atol=6 / np.sqrt(20000))
    np.testing.assert_allclose(np.cov(drawn.T), [[1, 0.8], [0.8, 1]], atol=6 * 1.5 / 141)
    np.testing.assert_array_equal(dist.mode(), 1)
