# ruff: noqa: E731 (a lambda reads like the formula)
"""TRPO, NPG and PPO in float64 against slow NumPy versions on networks of fewer than 100
parameters."""

from __future__ import annotations

import dataclasses
import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import tiny
from reference import natural, proximal
from reference.network import Net, complex_step
from surefoot.checks import UsageError
from surefoot.curvature import damped, gauss_newton, tree_dot
from surefoot.methods import METHODS
from surefoot.methods.npg import NPG
from surefoot.methods.ppo import PPO
from surefoot.methods.trpo import TRPO
from surefoot.sgd import SGD, shuffles
from surefoot.surrogates import Clipped, Importance
from surefoot.types import within

SCALE = 1e6
"""Advantages are this large where steps of solved systems are compared: conjugate gradient stops at
|r|^2 = 1e-10, and against a gradient of 1e6 that is as good as a dense solve. Step lengths do not
depend on it, but
NPG's fixed one."""


def net_of(kind):
    """The reference network of the tiny policies."""
    net = Net(kind, tiny.OBS, tiny.HIDDEN, tiny.spec(kind).action_dim)
    assert net.size < 100
    return net


def setting(kind, scale=1.0, rows=14, seed=0):
    """Policy, batch (3 rows of which do not count and hold rubbish), reference network, parameter
    vector, data."""
    pi = tiny.policy(kind, seed=seed, dtype=np.float64)
    batch = tiny.batch(kind, pi, seed=seed + 1, rows=rows + 3, masked=3, scale=scale)
    return (
        pi,
        tiny.rubbish(batch),
        net_of(kind),
        np.asarray(ravel_pytree(pi)[0]),
        tiny.rows_of(batch),
    )


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_reference_differentiates_itself(kind):
    """Scores by hand equal complex steps, and the reference's surrogate gradient equals one of its
    surrogate."""
    rng = np.random.default_rng(0)
    net = net_of(kind)
    theta = rng.normal(size=net.size) * 0.5
    s = rng.normal(size=tiny.OBS)
    a = 1 if kind == "categorical" else rng.normal(size=tiny.ACTIONS)
    np.testing.assert_allclose(
        net.score(theta, s, a), complex_step(lambda t: net.log_prob(t, s, a), theta), atol=1e-12
    )
    data = [(s, a, -1.3, 0.7), (-s, a, -0.2, -1.1)]
    by_step = complex_step(lambda t: natural.surrogate(net, t, data), theta)
    np.testing.assert_allclose(natural.gradient(net, theta, data), by_step, atol=1e-12)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_losses_and_gradients(x64, kind):
    """Importance and clipped surrogates away from the old policy, to 1e-10."""
    _, batch, net, _, data = setting(kind)
    new = tiny.policy(kind, seed=5, dtype=np.float64)
    theta = np.asarray(ravel_pytree(new)[0])

    @jax.jit
    def both(p, batch):
        grad = lambda surrogate: jax.value_and_grad(
            lambda p: batch.mean(surrogate(p(batch.obs), batch))
        )(p)
        return grad(Importance()), grad(Clipped(0.2))

    (importance, g_importance), (clipped, g_clipped) = both(new, batch)
    np.testing.assert_allclose(importance, natural.surrogate(net, theta, data), atol=1e-10)
    np.testing.assert_allclose(
        ravel_pytree(g_importance)[0], natural.gradient(net, theta, data), atol=1e-10
    )
    np.testing.assert_allclose(-clipped, proximal.loss(net, theta, data, 0.2), atol=1e-10)
    np.testing.assert_allclose(
        -ravel_pytree(g_clipped)[0], proximal.gradient(net, theta, data, 0.2), atol=1e-10
    )
    ratios = np.exp([net.log_prob(theta, s, a) - lp for s, a, lp, _ in data])
    advantages = np.array([row[3] for row in data])
    beyond = np.stack([ratios > 1.2, ratios < 0.8])
    assert np.all([np.any(b & (advantages > 0)) or np.any(b & (advantages < 0)) for b in beyond])


TRPO_CASES = {
    "full step": TRPO(max_kl=0.01, cg_damping=0.1, cg_iters=200),
    "little damping": TRPO(max_kl=0.05, cg_damping=1e-3, cg_iters=400, backtrack=0.7),
    "large radius": TRPO(max_kl=2.0, cg_damping=0.03, cg_iters=200, backtrack=0.5),
    "gain asked for": TRPO(
        max_kl=1.0, cg_damping=0.03, cg_iters=200, backtrack=0.5, min_gain_ratio=0.95
    ),
    "out of tries": TRPO(
        max_kl=2.0, cg_damping=1e-3, cg_iters=400, backtrack=0.9, max_backtracks=1
    ),
}


def check_trpo(kind, case):
    """The whole step, the number of halvings and the verdict."""
    method = TRPO_CASES[case]
    pi, batch, net, theta, data = setting(kind, SCALE)
    new, state, info = jax.jit(lambda p, b: method.update(p, (), b, jax.random.key(0)))(pi, batch)
    want = natural.trpo(
        net,
        theta,
        data,
        max_kl=method.max_kl,
        damping=method.cg_damping,
        backtrack=method.backtrack,
        max_backtracks=method.max_backtracks,
        min_gain_ratio=method.min_gain_ratio,
    )
    assert (bool(info["accepted"]), int(info["backtracks"])) == (
        want.accepted,
        want.backtracks,
    ) and state == ()
    np.testing.assert_allclose(ravel_pytree(new)[0], want.theta, atol=1e-8)
    return want


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_trpo_step(x64, kind):
    want = check_trpo(kind, "large radius")
    assert np.linalg.norm(want.theta) > 0 and want.accepted


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_trpo_steps(x64, kind):
    """Among them are full steps, shrunk ones, ones shrunk for want of gain, and failures."""
    ends = {case: check_trpo(kind, case)[1:] for case in TRPO_CASES}
    assert ends["full step"] == (True, 0)
    assert len(set(ends.values())) >= 3


def test_trpo_searches_in_every_way_over_the_kinds(x64):
    """In the references alone: the cases do exercise acceptance, shrinking and giving up."""
    seen = set()
    for kind in tiny.KINDS:
        _, _, net, theta, data = setting(kind, SCALE)
        for m in TRPO_CASES.values():
            fields = dict(
                max_kl=m.max_kl,
                damping=m.cg_damping,
                backtrack=m.backtrack,
                max_backtracks=m.max_backtracks,
            )
            end = natural.trpo(net, theta, data, **fields, min_gain_ratio=m.min_gain_ratio)
            seen.add((end.accepted, min(end.backtracks, 1)))
    assert seen >= {(True, 0), (True, 1), (False, 1)}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_npg_steps(x64, kind):
    """Normalised and fixed step."""
    pi, batch, net, theta, data = setting(kind, SCALE)
    fixed = NPG(lr=0.3 / SCALE, max_kl=None, cg_iters=200, cg_damping=0.02)
    normalised = NPG(max_kl=0.02, cg_iters=200, cg_damping=0.02)
    step = lambda m, p, b: m.update(p, (), b, jax.random.key(0))
    (a, _, _), (b, _, info) = jax.jit(lambda p, b: (step(fixed, p, b), step(normalised, p, b)))(
        pi, batch
    )
    want = natural.npg(net, theta, data, lr=0.3 / SCALE, max_kl=None, damping=0.02)
    np.testing.assert_allclose(ravel_pytree(a)[0], want, atol=1e-8)
    want = natural.npg(net, theta, data, lr=None, max_kl=0.02, damping=0.02)
    np.testing.assert_allclose(ravel_pytree(b)[0], want, atol=1e-8)
    d = want - theta
    F = net.fisher(theta, [row[0] for row in data]) + 0.02 * np.eye(net.size)
    np.testing.assert_allclose(
        0.5 * d @ F @ d, 0.02, rtol=1e-8
    )  # the quadratic model is at its radius
    assert float(info["cg_residual"]) < 1e-9


def check_ppo(kind, fields, sgd, steps, normalize):
    """Steps with Adam, clipped gradient and shuffled rows; then an update more with the optimiser's
    state."""
    pi, batch, net, theta, data = setting(kind, rows=16)
    batch = batch.take(jnp.flatnonzero(batch.mask, size=16))
    batch = dataclasses.replace(batch, standardize_minibatch=normalize)
    method = PPO(**fields, sgd=sgd)
    run = jax.jit(lambda p, s, k: method.update(p, s, batch, k))
    adam = proximal.Adam(
        net.size, sgd.lr * (0.75 if sgd.anneal else 1), sgd.adam_eps, sgd.max_grad_norm
    )
    new, state = pi, method.init(pi, jax.random.key(0))
    for seed in (3, 4):
        key = jax.random.key(seed)
        rows = np.asarray(shuffles(key, sgd.epochs, 16)).reshape(steps, -1)
        new, state, _ = run(new, state, key)
        theta = proximal.ppo(net, theta, data, rows, adam, method.clip, normalize)
        np.testing.assert_allclose(ravel_pytree(new)[0], theta, atol=1e-9)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_four_ppo_steps(x64, kind):
    """Large enough steps for the clip to bite, small enough a norm for the gradient to be
    clipped."""
    check_ppo(
        kind,
        {"clip": 0.1},
        SGD(lr=0.1, epochs=2, minibatches=2, max_grad_norm=0.3),
        4,
        normalize=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_more_ppo_steps(x64, kind):
    check_ppo(
        kind,
        {"clip": 0.3},
        SGD(lr=0.05, epochs=3, minibatches=4, max_grad_norm=None),
        12,
        normalize=False,
    )
    check_ppo(
        kind,
        {"clip": 0.3},
        SGD(lr=0.05, epochs=1, minibatches=4, anneal=True, adam_eps=1e-2),
        4,
        normalize=False,
    )


@pytest.mark.slow
def test_ppo_stops_on_the_kl_of_the_whole_batch(x64):
    """After the first epoch at whose end the mean KL(old || new) is above `stop_kl`, in the
    reference's numbers."""
    kind, sgd = "gaussian", SGD(lr=0.01, epochs=8, minibatches=2)
    pi, batch, net, old, data = setting(kind, rows=16)
    key = jax.random.key(3)
    kls = {}
    for stop_kl in (1e-9, 0.01, 1e9):
        method = PPO(stop_kl=stop_kl, sgd=sgd)
        new, _, info = jax.jit(lambda p, m=method: m.update(p, m.init(p, key), batch, key))(pi)
        kls[stop_kl] = (
            natural.mean_kl(net, old, np.asarray(ravel_pytree(new)[0]), data),
            int(info["ppo_epochs"]),
        )
    assert kls[1e-9][1] == 1 and kls[1e9][1] == 8
    assert 1 < kls[0.01][1] < 8 and kls[0.01][0] > 0.01
    fewer = PPO(stop_kl=0.01, sgd=dataclasses.replace(sgd, epochs=kls[0.01][1] - 1))
    before, _, _ = jax.jit(lambda p: fewer.update(p, fewer.init(p, key), batch, key))(pi)
    assert natural.mean_kl(net, old, np.asarray(ravel_pytree(before)[0]), data) <= 0.01


def test_ppo_reports_the_share_outside_the_clip(x64):
    _, batch, net, _, data = setting("gaussian")
    far = tiny.policy("gaussian", seed=5, dtype=np.float64)
    method = PPO(clip=0.2, sgd=SGD(lr=0.0, epochs=1, minibatches=1))
    _, _, info = jax.jit(
        lambda p: method.update(p, method.init(p, jax.random.key(0)), batch, jax.random.key(0))
    )(far)
    theta = np.asarray(ravel_pytree(far)[0])
    ratios = np.exp([net.log_prob(theta, s, a) - lp for s, a, lp, _ in data])
    np.testing.assert_allclose(
        info["ppo_clip_fraction"], np.mean(np.abs(ratios - 1) > 0.2), rtol=1e-12
    )
    np.testing.assert_allclose(info["ppo_loss"], proximal.loss(net, theta, data, 0.2), rtol=1e-9)


def test_the_step_does_not_depend_on_the_scale_of_advantages(x64):
    """TRPO's step has the length the radius says, for advantages of 1e-6 as for those of 1."""
    pi, batch, *_ = setting("gaussian")
    method = TRPO(max_kl=0.02)
    run = jax.jit(lambda b: method.update(pi, (), b, jax.random.key(0)))
    one, _, info = run(batch)
    for scale in (1e-6, 1e-3):
        small, _, small_info = run(dataclasses.replace(batch, advantage=batch.advantage * scale))
        assert bool(info["accepted"]) and bool(small_info["accepted"])
        assert tiny.distance(one, small) < 1e-4


def test_curvature_is_of_the_damped_matrix(x64):
    pi, batch, *_ = setting("gaussian")
    flat, unravel = ravel_pytree(pi)
    product = gauss_newton(pi, batch)
    v = jnp.ones_like(flat)
    bare = float(v @ ravel_pytree(product(unravel(v)))[0])
    np.testing.assert_allclose(
        tree_dot(unravel(v), damped(product, 0.3)(unravel(v))), bare + 0.3 * flat.size, rtol=1e-12
    )


REFUSED = [
    (TRPO, {"max_kl": 1e-6}),
    (TRPO, {"max_kl": float("inf")}),
    (TRPO, {"cg_iters": 0}),
    (TRPO, {"cg_damping": -0.1}),
    (TRPO, {"backtrack": 1.0}),
    (TRPO, {"backtrack": 0.0}),
    (TRPO, {"max_backtracks": -1}),
    (TRPO, {"min_gain_ratio": 1.5}),
    (NPG, {"max_kl": 1e-6}),
    (NPG, {"max_kl": None, "lr": -0.1}),
    (NPG, {"cg_iters": 1.5}),
    (PPO, {"clip": 0.0}),
    (PPO, {"stop_kl": 0.0}),
    (PPO, {"stop_kl": "0.1"}),
]


@pytest.mark.parametrize(("record", "fields"), REFUSED)
def test_fields_out_of_range_are_refused_in_one_line(record, fields):
    with pytest.raises(UsageError) as caught:
        record(**fields)
    field = list(fields)[-1]
    assert f"{record.__name__}.{field} is {fields[field]!r}" in str(
        caught.value
    ) and "\n" not in str(caught.value)


def test_npg_takes_exactly_one_of_its_two_steps():
    for fields in ({"lr": 0.1}, {"lr": None, "max_kl": None}):
        with pytest.raises(UsageError, match="give exactly one"):
            NPG(**fields)


@pytest.mark.parametrize("name", METHODS)
def test_examples_in_docstrings(name):
    entry = METHODS[name]
    module = importlib.import_module(entry.module)
    found = doctest.testmod(module)
    assert found.failed == 0 and found.attempted >= 2
    assert getattr(module, entry.record).__name__ == entry.record


def test_within_has_a_margin_and_refuses_nan():
    bound = 0.01
    assert not bool(within(jnp.float32(bound), bound)) and bool(
        within(jnp.float32(bound * (1 - 2e-5)), bound)
    )
    assert not bool(within(jnp.float32(jnp.nan), bound)) and not bool(
        within(jnp.float32(jnp.nan), float("inf"))
    )
    assert bool(within(jnp.float32(1e30), float("inf"))) and bool(within(jnp.float32(0), bound))
