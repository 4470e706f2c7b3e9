# ruff: noqa: E731 (a lambda reads like the formula)
"""Fisher products, conjugate gradient and backtracking against dense linear algebra, also where it
is singular."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import tiny
from reference import regulator
from reference.network import Net
from surefoot.curvature import (
    all_finite,
    backtracking,
    conjugate_gradient,
    damped,
    gauss_newton,
    tree_add,
    tree_dot,
    tree_scale,
    tree_where,
)


def test_tree_arithmetic():
    a = {"x": np.float32([1, 2]), "y": np.float32([[3]])}
    b = {"x": np.float32([4, 5]), "y": np.float32([[6]])}
    assert float(tree_dot(a, b)) == 32
    assert tiny.same(tree_add(a, 2.0, b), {"x": np.float32([9, 12]), "y": np.float32([[15]])})
    assert tiny.same(tree_scale(2.0, a), {"x": np.float32([2, 4]), "y": np.float32([[6]])})
    assert tiny.same(tree_where(jnp.asarray(False), a, b), b)
    assert bool(all_finite((a, np.int32(3)))) and bool(all_finite(()))
    assert not bool(all_finite((a, np.float32([1, np.nan])))) and not bool(
        all_finite(np.float32(np.inf))
    )


@pytest.mark.parametrize(
    "kind",
    ["categorical", *(pytest.param(k, marks=pytest.mark.slow) for k in tiny.KINDS[1:])],
)
def test_gauss_newton_is_the_hessian_of_both_mean_kls(x64, kind):
    """And equals the dense J' M J of the reference; rows that do not count have no influence."""
    pi = tiny.policy(kind, dtype=np.float64)
    batch = tiny.batch(kind, pi, rows=10, masked=3)
    flat, unravel = ravel_pytree(pi)
    assert flat.size < 100

    @jax.jit
    def matrices(batch, flat):
        product = gauss_newton(unravel(flat), batch)
        columns = jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(jnp.eye(flat.size))
        forth = lambda v: batch.mean(batch.old.kl(unravel(v)(batch.obs)))
        back = lambda v: batch.mean(unravel(v)(batch.obs).kl(batch.old))
        return columns, jax.hessian(forth)(flat), jax.hessian(back)(flat)

    F, forth, back = matrices(batch, flat)
    np.testing.assert_allclose(F, forth, atol=1e-12)
    np.testing.assert_allclose(F, back, atol=1e-12)
    net = Net(kind, tiny.OBS, tiny.HIDDEN, tiny.spec(kind).action_dim)
    np.testing.assert_allclose(
        F, net.fisher(np.asarray(flat), [row[0] for row in tiny.rows_of(batch)]), atol=1e-12
    )
    np.testing.assert_array_equal(F, matrices(tiny.rubbish(batch), flat)[0])
    assert np.min(np.linalg.eigvalsh(F)) > -1e-14 and np.trace(F) > 1


def spd(size, seed=0, condition=100.0):
    """A random symmetric matrix with eigenvalues from 1 to `condition`."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return (q * np.geomspace(1, condition, size)) @ q.T


@jax.jit
def solve(A, b):
    """30 iterations on a pair of leaves."""
    cut = b.shape[0] // 2
    join = lambda v: jnp.concatenate([v[0], v[1]])
    product = lambda v: (lambda y: (y[:cut], y[cut:]))(A @ join(v))
    x, residual, curvature = conjugate_gradient(product, (b[:cut], b[cut:]), 30)
    return join(x), residual, curvature


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_conjugate_gradient_equals_a_dense_solve(x64, scale):
    """However small or large the right-hand side."""
    A, b = spd(8), scale * np.random.default_rng(1).normal(size=8)
    x, residual, curvature = solve(A, b)
    want = np.linalg.solve(A, b)
    assert np.linalg.norm(x - want) < 1e-5 * np.linalg.norm(want)
    np.testing.assert_allclose(
        float(residual), np.linalg.norm(b - A @ x) / np.linalg.norm(b), rtol=0.1, atol=1e-12
    )
    np.testing.assert_allclose(float(curvature), x @ A @ x, rtol=1e-9)


def test_conjugate_gradient_stops_after_its_iterations(x64):
    A, b = spd(8, condition=5.0), np.ones(8)
    for iters in (1, 3, 8):
        x, residual, curvature = jax.jit(
            lambda b, n=iters: conjugate_gradient(lambda v: A @ v, b, n, tol=0.0)
        )(b)
        krylov = np.linalg.qr(
            np.stack([np.linalg.matrix_power(A, k) @ b for k in range(iters)], 1)
        )[0]
        y = np.linalg.solve(krylov.T @ A @ krylov, krylov.T @ b)
        np.testing.assert_allclose(x, krylov @ y, rtol=1e-6)
        np.testing.assert_allclose(
            float(residual), np.linalg.norm(b - A @ x) / np.linalg.norm(b), atol=1e-10
        )
        np.testing.assert_allclose(float(curvature), x @ A @ x, rtol=1e-6)


SINGULAR = {
    "zero": (np.zeros((8, 8)), np.ones(8)),
    "rank one": (np.outer(np.arange(8), np.arange(8)), np.ones(8)),
    "rank one, b in its range": (np.outer(np.arange(8), np.arange(8)), np.arange(8)),
    "tiny": (np.diag(np.full(8, 1e-44)), np.ones(8)),
    "negative": (-np.eye(8), np.ones(8)),
    "indefinite": (np.diag([1, -1, 1, -1, 1, -1, 1, -1]), np.arange(8)),
    "b is zero": (np.eye(8), np.zeros(8)),
    "huge b": (np.eye(8), np.full(8, 1e9)),
    "ill-conditioned": (spd(8, condition=1e12), np.ones(8)),
}


@pytest.mark.parametrize("case", SINGULAR)
def test_conjugate_gradient_stays_finite(case):
    A, b = (np.asarray(x, np.float32) for x in SINGULAR[case])
    x, residual, curvature = solve(A, b)
    assert np.isfinite(curvature)
    assert np.all(np.isfinite(x)) and np.isfinite(residual)
    if case in ("zero", "tiny", "negative", "b is zero"):
        assert np.all(np.asarray(x) == 0)
    if case == "rank one, b in its range":
        np.testing.assert_allclose(A @ x, b, rtol=1e-5)
    if case == "huge b":
        np.testing.assert_allclose(x, b, rtol=1e-5)


def test_float32_parameters_stay_float32_under_x64(x64):
    A, b = np.eye(4, dtype=np.float32), np.ones(4, np.float32)
    x, _, _ = conjugate_gradient(lambda v: A @ v, jnp.asarray(b), 3)
    new, _ = backtracking(jnp.asarray(b), x, lambda p, scale: jnp.all(p == p), 0.5, 3)
    assert x.dtype == np.float32 and new.dtype == np.float32


def test_damping_adds_to_the_diagonal(x64):
    A, v = spd(5), np.arange(5.0)
    np.testing.assert_allclose(
        damped(lambda x: A @ x, 0.3)(v), (A + 0.3 * np.eye(5)) @ v, rtol=1e-14
    )


START, STEP = np.float32([0.1, -0.7, 1e-8, 3.3]), np.float32([1.0, 0.1, 1.0, -2.0])


def search(accept, shrink=0.5, limit=4, step=STEP):
    """Backtrack from START."""
    return jax.jit(lambda a, b: backtracking(a, b, accept, shrink, limit))(START, step)


def test_backtracking_takes_the_first_that_is_accepted():
    for k in range(5):
        new, found = search(lambda p, scale, k=k: scale <= 0.5**k)
        np.testing.assert_array_equal(new, START + np.float32(0.5**k) * STEP)
        assert bool(found.accepted) and int(found.backtracks) == k and float(found.scale) == 0.5**k


def test_backtracking_returns_the_start_bit_for_bit():
    for step in (STEP, STEP * np.nan, STEP * np.inf):
        new, found = search(lambda p, scale: jnp.asarray(False), step=step)
        np.testing.assert_array_equal(np.asarray(new).view(np.uint32), START.view(np.uint32))
        assert not bool(found.accepted) and int(found.backtracks) == 4 and float(found.scale) == 0
    new, found = search(lambda p, scale: scale <= 0.5**5)  # one more than allowed
    assert tiny.same(new, START) and not bool(found.accepted)
    new, found = search(lambda p, scale: scale < 1, limit=0)  # only the full step is tried
    assert tiny.same(new, START) and not bool(found.accepted) and int(found.backtracks) == 0


def test_backtracking_never_accepts_nan():
    for step in (STEP * np.nan, np.where(np.arange(4) == 2, np.nan, STEP).astype(np.float32)):
        new, found = search(lambda p, scale: jnp.sum(p) > -1e30, step=step)
        assert tiny.same(new, START) and not bool(found.accepted)
    # NaN far out, sound closer in: the search goes on until it is sound.
    new, found = search(lambda p, scale: jnp.log(1.0 - p[0]) > -3)
    assert bool(found.accepted) and int(found.backtracks) == 1 and np.all(np.isfinite(new))


def test_backtracking_hands_over_candidate_and_scale():
    _, found = search(
        lambda p, scale: jnp.all(p == START + scale * STEP) & (scale < 0.4), shrink=0.7
    )
    assert bool(found.accepted) and int(found.backtracks) == 3
    np.testing.assert_allclose(float(found.scale), 0.7**3, rtol=1e-6)


def test_backtracking_under_vmap():
    limits = np.float32([1.0, 0.5, 0.01])
    run = lambda limit: backtracking(START, STEP, lambda p, scale: scale <= limit, 0.5, 3)
    new, found = jax.vmap(run)(limits)
    np.testing.assert_array_equal(found.accepted, [True, True, False])
    np.testing.assert_array_equal(found.backtracks, [0, 1, 3])
    for row, scale in zip(new, (1.0, 0.5, 0.0), strict=True):
        np.testing.assert_array_equal(row, START + np.float32(scale) * STEP)


# methods.md 7.2: Fisher, radius, halvings, accepted parameters, gain, mean KL, utility
REGULATOR = {
    "trajectory 0.1": (1, 0.1, 0, [-0.577601, 0.460564], 0.6930906, 0.0115892, -2.4962083),
    "trajectory 1": (1, 1.0, 0, [-0.745396, 0.375291], 1.9219674, 0.1676836, -1.5474464),
    "step 0.01": (10, 0.01, 1, [-0.538801, 0.480282], 0.3564088, 0.0026871, -2.7956650),
}


@pytest.mark.parametrize("case", REGULATOR)
def test_exact_trpo_on_the_regulator(x64, case):
    """Direction, length and halving with exact expectations: no network, no sample."""
    share, radius, halvings, accepted, gain, kl, utility = REGULATOR[case]
    theta = np.array([-0.5, 0.5])
    m = regulator.second_moments(theta)
    p, c = regulator.value_coefficients(theta)
    F = regulator.trajectory_fisher(theta) / share

    def L(new):
        return jnp.sum(-m - p[2:] * ((1 + new[0]) ** 2 * m + new[1] ** 2 + 0.01) - c[2:])

    def KL(new):
        spread = theta[1] ** 2 + (theta[0] - new[0]) ** 2 * m
        return jnp.mean(jnp.log(new[1] / theta[1]) + spread / (2 * new[1] ** 2) - 0.5)

    g = jax.grad(L)(jnp.asarray(theta))
    x, _, _ = conjugate_gradient(lambda v: F * v, g, 10)
    step = tree_scale(jnp.sqrt(2 * radius / tree_dot(x, F * x)), x)
    accept = lambda new, scale: (L(new) > L(theta)) & (KL(new) <= radius)
    new, found = backtracking(jnp.asarray(theta), step, accept, 0.5, 10)
    np.testing.assert_allclose(new, accepted, atol=6e-7)
    assert bool(found.accepted) and int(found.backtracks) == halvings
    np.testing.assert_allclose([L(new) - L(theta), KL(new)], [gain, kl], atol=6e-8)
    np.testing.assert_allclose(regulator.utility(np.asarray(new)), utility, atol=6e-8)
    np.testing.assert_allclose(regulator.utility(theta), -3.1377781, atol=6e-8)
    np.testing.assert_allclose(g, [-3.567421, -11.555557], atol=6e-7)
