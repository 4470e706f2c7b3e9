# ruff: noqa: E731 (a lambda reads like the formula)
"""TRPL and PAPI: whole updates against slow NumPy versions, what they promise, and where they equal
PPO."""

from __future__ import annotations

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import tiny
from reference import projection as ref
from reference.network import Net
from reference.proximal import Adam
from surefoot.checks import UsageError
from surefoot.distributions import DiagGaussian, FullGaussian
from surefoot.measure import measure
from surefoot.methods.papi import PAPI
from surefoot.methods.ppo import PPO
from surefoot.methods.trpl import TRPL, inward
from surefoot.networks import free_spread, head_of, with_head, with_spread
from surefoot.projection import (
    ExponentialEntropy,
    FrobeniusMetric,
    KLMetric,
    LinearEntropy,
    WassersteinMetric,
)
from surefoot.sgd import SGD, shuffles
from surefoot.surrogates import Clipped, Importance
from surefoot.types import no_penalty, within
from surefoot.value import SharedValue

KEY = jax.random.key(3)
QUICK = SGD(lr=0.05, epochs=2, minibatches=2, max_grad_norm=None)


def some(fast, cases):
    """Cases of which only some are in the quick run."""
    return [
        pytest.param(
            *(c if isinstance(c, tuple) else (c,)), marks=() if c in fast else pytest.mark.slow
        )
        for c in cases
    ]


def run(method, pi, batch, state=None, penalty=no_penalty):
    """One compiled update."""
    state = method.init(pi, KEY) if state is None else state
    return jax.jit(lambda p, s, b: method.update(p, s, b, KEY, penalty=penalty))(pi, state, batch)


@pytest.mark.parametrize("kind", some([], tiny.KINDS))
def test_trpl_steps(x64, kind):
    """Four Adam steps, the last of them well outside of both bounds, and the deviations set; the
    gradient of the reference comes from differences of a loss that solves for every multiplier."""
    pi = tiny.policy(kind, dtype=np.float64)
    batch = tiny.batch(kind, pi, rows=8, scale=3.0)
    net = Net(kind, tiny.OBS, tiny.HIDDEN, tiny.spec(kind).action_dim)
    method = TRPL(mean_bound=0.02, cov_bound=0.002, regression=2.0, sgd=QUICK)
    new, _, info = run(method, pi, batch)
    theta = np.asarray(ravel_pytree(pi)[0])
    rows = np.asarray(shuffles(KEY, 2, 8)).reshape(4, -1)
    adam = Adam(net.size, QUICK.lr, QUICK.adam_eps, None)
    bounds = inward(0.02), inward(0.002)
    want = ref.trpl(net, theta, theta, tiny.rows_of(batch), rows, adam, bounds, 2.0)
    np.testing.assert_allclose(ravel_pytree(new)[0], want, atol=2e-6)
    assert float(info["trpl_outside"]) > 0.5
    np.testing.assert_allclose(info["trpl_mean_part"], bounds[0], rtol=1e-6)


METRICS = {
    "kl": TRPL(sgd=QUICK),
    "small": TRPL(mean_bound=1e-5, cov_bound=1e-5, sgd=QUICK),
    "wasserstein": TRPL(WassersteinMetric(), 0.03, 5e-5, sgd=QUICK),
    "frobenius": TRPL(FrobeniusMetric(), 0.03, 5e-5, sgd=QUICK),
}
PROMISES = [(name, "gaussian") for name in ("kl", "wasserstein", "frobenius")] + [
    ("small", kind) for kind in ("categorical", "gaussian_state", "gaussian_full")
]


FAST = [("small", "gaussian_state")]


@pytest.mark.parametrize(("name", "kind"), some(FAST, PROMISES))
def test_every_state_is_projected_inside_its_bounds(x64, name, kind):
    """Judged in float64 and without slack, on what float32 returns; the median of the states that
    were outside uses 0.98 of the bound, and the network itself is outside."""
    method = METRICS[name]
    pi = tiny.policy(kind)
    update = jax.jit(lambda b: method.update(pi, method.init(pi, KEY), b, KEY))
    place = jax.jit(method.projected)
    wide = jax.jit(lambda new, old: method.metric.parts(new, old))
    to64 = lambda tree: tiny.cast(tree, np.float64)
    for seed in range(3):
        batch = tiny.batch(kind, pi, seed=seed, rows=64, masked=4, scale=3.0)
        new, _, info = update(batch)
        raw = new(batch.obs)
        near = place(raw, batch.old)
        kept = wide(to64(near), to64(batch.old))
        far = wide(to64(raw), to64(batch.old))
        assert float(kept.mean.max()) <= method.mean_bound
        assert float(kept.cov.max()) <= method.cov_bound
        outside = np.asarray(far.mean > method.mean_bound)
        assert outside.sum() > 3 and np.median(kept.mean[outside]) > 0.98 * method.mean_bound
        if free_spread(pi) is None and kind != "categorical":
            outside = np.asarray(far.cov > method.cov_bound)
            assert outside.sum() > 3 and np.median(kept.cov[outside]) > 0.98 * method.cov_bound
        elif kind != "categorical":
            assert float(far.cov.max()) <= method.cov_bound < 1.05 * float(far.cov.max())
        rows = np.asarray(batch.mask)
        for column, part in (("mean_part", kept.mean), ("network_mean_part", far.mean)):
            np.testing.assert_allclose(info[f"trpl_{column}"], part[rows].max(), rtol=1e-3)
        for column, part in (("cov_part", kept.cov), ("network_cov_part", far.cov)):
            np.testing.assert_allclose(info[f"trpl_{column}"], part[rows].max(), rtol=1e-3)
        beyond = (far.mean > method.mean_bound) | (far.cov > method.cov_bound)
        np.testing.assert_allclose(info["trpl_outside"], np.mean(np.asarray(beyond)[rows]))
        kl = np.asarray(batch.old.kl(near))[rows]
        np.testing.assert_allclose(info["trpl_kl_mean"], kl.mean(), rtol=1e-3)
        np.testing.assert_allclose(info["trpl_kl_max"], kl.max(), rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "clip"),
    some(
        [],
        [("categorical", 0.1), ("gaussian", None)],
    ),
)
def test_trpl_without_bounds_is_the_importance_objective(kind, clip):
    """PPO without a clip, to rounding; and with PPO's surrogate, PPO."""
    pi = tiny.policy(kind)
    batch = tiny.batch(kind, pi, masked=3)
    surrogate = Importance() if clip is None else Clipped(clip)
    bounds = {"mean_bound": float("inf"), "cov_bound": float("inf")}
    a, _, info = run(TRPL(surrogate=surrogate, sgd=QUICK, **bounds), pi, batch)
    b, _, _ = run(PPO(clip=clip or float("inf"), sgd=QUICK), pi, batch)
    assert tiny.distance(a, b) < 2e-6 < 1e-2 < tiny.distance(a, pi)
    assert float(info["trpl_regression"]) == float(info["trpl_outside"]) == 0


@pytest.mark.slow
def test_trpl_inside_wide_bounds_is_the_importance_objective_too():
    """Bounds so wide that nothing is ever outside change nothing."""
    pi = tiny.policy("gaussian_state")
    batch = tiny.batch("gaussian_state", pi, masked=3)
    wide, free = (TRPL(mean_bound=b, cov_bound=b, sgd=QUICK) for b in (1e4, float("inf")))
    assert tiny.distance(run(wide, pi, batch)[0], run(free, pi, batch)[0]) < 1e-6


@pytest.mark.slow
def test_regression_draws_the_network_in():
    pi = tiny.policy("gaussian_state")
    batch = tiny.batch("gaussian_state", pi, rows=64, scale=3.0)
    sgd = dataclasses.replace(QUICK, epochs=20)
    far = [
        run(TRPL(regression=w, sgd=sgd), pi, batch)[2]["trpl_network_mean_part"] for w in (0.0, 8.0)
    ]
    assert far[1] < 0.5 * far[0]


@pytest.mark.parametrize("kind", some([], ["gaussian", "gaussian_full"]))
def test_free_deviations_are_set_to_their_projection(kind):
    """Also where a parameter lies beyond the ceiling of log sigma."""
    pi = tiny.policy(kind, log_std_max=-0.25)
    pi = eqx.tree_at(lambda p: p.head.std, pi, pi.head.std.at[0].set(0.5))
    batch = tiny.batch(kind, pi, rows=64, scale=3.0)
    method = TRPL(sgd=dataclasses.replace(QUICK, epochs=10))
    new, _, _ = run(method, pi, batch)
    old, now = free_spread(pi), free_spread(new)
    part = float(KLMetric().parts(now, old).cov)
    np.testing.assert_allclose(part, inward(method.cov_bound), rtol=1e-3)
    assert float(new.head.std[0]) <= -0.25 + 1e-6
    assert tiny.distance(method.projected(now, old), now) == 0


@pytest.mark.slow
def test_the_deviations_are_solved_for_once_and_equal_those_of_every_state(x64):
    """A policy whose deviations come from a layer that ignores the state makes the same first step
    of its mean."""
    pi = tiny.policy("gaussian", dtype=np.float64)
    batch = tiny.batch("gaussian", pi, rows=16, scale=3.0)
    far = with_spread(pi, DiagGaussian(jnp.zeros(2), free_spread(pi).log_std + 0.2))
    state = tiny.policy("gaussian_state", dtype=np.float64)
    layer = dataclasses.replace(
        state.head.std, weight=jnp.zeros_like(state.head.std.weight), bias=far.head.std
    )
    state = eqx.tree_at(lambda p: (p.body, p.head.mean, p.head.std), state,
                        (far.body, far.head.mean, layer))  # fmt: skip
    method = TRPL(regression=0.0, sgd=dataclasses.replace(QUICK, epochs=1, minibatches=1))
    a, _, _ = run(method, far, batch)
    b, _, _ = run(method, state, batch)
    assert tiny.distance((a.body, a.head.mean), (b.body, b.head.mean)) < 1e-9


@pytest.mark.slow
def test_entropy_is_raised_before_or_after(x64):
    """Before the projection the bound stands; after it, the entropy does."""
    pi = tiny.policy("gaussian", dtype=np.float64)
    batch = tiny.batch("gaussian", pi)
    initial = float(batch.old.entropy()[0])
    high = LinearEntropy(target=4.0)
    floor = initial + 0.25 * (2 * 4.0 - initial)
    first = run(TRPL(entropy=high, sgd=QUICK), pi, batch)
    after = run(TRPL(entropy=high, entropy_first=False, sgd=QUICK), pi, batch)
    bound = TRPL().cov_bound
    assert float(first[2]["trpl_cov_part"]) <= bound < float(after[2]["trpl_cov_part"])
    np.testing.assert_allclose(free_spread(after[0]).entropy(), floor, rtol=1e-9)
    assert initial < float(free_spread(first[0]).entropy()) < floor


@pytest.mark.slow
def test_entropy_is_kept_at_its_schedule(x64):
    """The first batch sets where schedules start, and nothing after it."""
    pi = tiny.policy("gaussian", dtype=np.float64)
    batch = tiny.batch("gaussian", pi)
    initial = float(batch.old.entropy()[0])
    low = ExponentialEntropy(target=-4.0, temperature=0.9)
    pull = TRPL(entropy=low, entropy_first=False, entropy_equality=True, sgd=QUICK)
    step = jax.jit(lambda p, s, b: pull.update(p, s, b, KEY))
    new, state, _ = step(pi, pull.init(pi, KEY), batch)
    floor = -8 + (initial + 8) * 0.9**2.5
    np.testing.assert_allclose(free_spread(new).entropy(), floor, rtol=1e-9)
    np.testing.assert_allclose(state.entropy, initial, rtol=1e-12)
    later = dataclasses.replace(tiny.batch("gaussian", new), progress=jnp.asarray(1.0))
    new, again, _ = step(new, state, later)
    np.testing.assert_allclose(again.entropy, initial, rtol=1e-12)
    np.testing.assert_allclose(free_spread(new).entropy(), -8 + (initial + 8) * 0.9**10, rtol=1e-9)
    pi = tiny.policy("categorical")
    with pytest.raises(UsageError, match="Gaussians only"):
        run(pull, pi, tiny.batch("categorical", pi))


REFUSED = [
    (TRPL, {"mean_bound": 1e-6}),
    (TRPL, {"cov_bound": 0.0}),
    (TRPL, {"regression": -1.0}),
    (PAPI, {"max_kl": 1e-6}),
    (PAPI, {"max_kl": float("inf")}),
    (PAPI, {"clip": 0.0}),
    (PAPI, {"shrink": 1.0}),
    (PAPI, {"max_shrinks": -1}),
    (PAPI, {"bisections": 1.5}),
]


@pytest.mark.parametrize(("record", "fields"), REFUSED)
def test_fields_out_of_range_are_refused_in_one_line(record, fields):
    with pytest.raises(UsageError) as caught:
        record(**fields)
    ((field, value),) = fields.items()
    assert f"{record.__name__}.{field} is {value!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


# PAPI.


@functools.lru_cache
def far_update(kind, epochs=6):
    """PPO's own update, well outside, with policy and batch."""
    pi = tiny.policy(kind, dtype=np.float64)
    batch = tiny.batch(kind, pi, rows=32, masked=4, scale=3.0)
    sgd = dataclasses.replace(QUICK, epochs=epochs)
    return pi, batch, sgd, run(PPO(sgd=sgd), pi, batch)[0]


def mean_kl(pi, batch):
    return float(batch.mean(batch.old.kl(pi(batch.obs))))


@pytest.mark.parametrize("kind", some([], ["gaussian", "categorical", "gaussian_full"]))
def test_papi_moves_the_last_layer_back(x64, kind):
    """The layers below went the first of shrink^k that is inside under the old last layer; the last
    one went as far as it can."""
    far_update.cache_clear()
    pi, batch, sgd, ppo = far_update(kind)
    method = PAPI(max_kl=0.01, sgd=sgd)
    new, _, info = run(method, pi, batch)
    assert mean_kl(ppo, batch) > 0.02 and not bool(info["papi_fallback"])
    assert 0.99 * 0.01 < mean_kl(new, batch) <= 0.01 * (1 - 1e-5)
    along = lambda share, a, b: jax.tree.map(lambda x, y: x + share * (y - x), a, b)
    shares = [1 if k == 0 else 0.8**k for k in range(21)]
    bodies = [with_head(along(s, pi, ppo), head_of(pi)) for s in shares]
    layers = next(
        s for s, p in zip(shares, bodies, strict=True) if mean_kl(p, batch) <= 0.01 * (1 - 1e-5)
    )
    np.testing.assert_allclose(info["papi_layers"], layers, rtol=1e-12)
    at = lambda eta: with_head(along(layers, pi, ppo), along(eta, head_of(pi), head_of(ppo)))
    eta = float(info["papi_eta"])
    assert tiny.distance(new, at(eta)) < 1e-9
    assert eta > 1 - 2e-6 or mean_kl(at(eta + 2e-6), batch) > 0.01 * (1 - 1e-5)


@pytest.mark.slow
def test_papi_inside_its_bound_is_ppo(x64):
    pi, batch, sgd, ppo = far_update("gaussian")
    new, _, info = run(PAPI(max_kl=1e3, sgd=sgd), pi, batch)
    assert tiny.distance(new, ppo) < 1e-12
    assert float(info["papi_eta"]) == float(info["papi_layers"]) == 1
    new, _, info = run(PAPI(max_kl=1e-5, max_shrinks=0, bisections=0, sgd=sgd), pi, batch)
    assert tiny.same(new, pi) and not bool(info["papi_fallback"])
    assert float(info["papi_eta"]) == float(info["papi_layers"]) == 0
    far_update.cache_clear()


@pytest.mark.slow
def test_papi_controls_the_entropy_of_free_deviations(x64):
    pi = tiny.policy("gaussian", dtype=np.float64)
    batch = tiny.batch("gaussian", pi)
    method = PAPI(max_kl=10.0, entropy=LinearEntropy(target=2.0), sgd=QUICK)
    new, _, _ = run(method, pi, batch)
    initial = float(batch.old.entropy()[0])
    np.testing.assert_allclose(
        free_spread(new).entropy(), initial + 0.25 * (4.0 - initial), rtol=1e-9
    )
    state = tiny.policy("gaussian_state", dtype=np.float64)
    with pytest.raises(UsageError, match="allowed: FreeEntropy"):
        run(method, state, tiny.batch("gaussian_state", state))


def test_papi_keeps_to_policies_with_a_last_layer():
    odd = jax.tree_util.Partial(lambda w, x: DiagGaussian(x @ w, 0 * (x @ w)), jnp.ones((3, 2)))
    with pytest.raises(UsageError, match="made by Networks"):
        run(PAPI(sgd=QUICK), odd, tiny.batch("gaussian", odd))
    assert free_spread(odd) is None and head_of(odd) is None


@pytest.mark.slow
def test_trpl_takes_any_policy():
    odd = jax.tree_util.Partial(lambda w, x: DiagGaussian(x @ w, 0 * (x @ w)), jnp.ones((3, 2)))
    new, _, info = run(TRPL(sgd=QUICK), odd, tiny.batch("gaussian", odd))
    assert bool(jnp.isfinite(info["trpl_loss"])) and tiny.distance(new, odd) > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", [TRPL(sgd=QUICK), PAPI(sgd=QUICK)], ids=["trpl", "papi"])
def test_layers_may_be_shared_with_the_critic(method):
    pi, _ = tiny.networks("gaussian", hidden=(6, 5), shared_layers=1).init(tiny.spec("gaussian"), 0)
    pi = tiny.cast(pi, np.float32)
    batch = tiny.batch("gaussian", pi)
    new, _, info = run(method, pi, batch, penalty=SharedValue().penalty)
    assert tiny.distance(new.critic, pi.critic) > 1e-4
    ruler = measure(batch, new)
    if method.promise == "mean_kl":
        assert bool(within(ruler["kl_mean"], method.max_kl))
    else:
        assert float(info["trpl_network_cov_part"]) <= method.cov_bound


@pytest.mark.slow
def test_a_full_covariance_learns_correlations():
    """Actions that pay along the diagonal make it longer."""
    pi = tiny.policy("gaussian_full")
    batch = tiny.batch("gaussian_full", pi, rows=256)
    noise = batch.action - batch.old.mean
    batch = dataclasses.replace(batch, advantage=noise[:, 0] * noise[:, 1])
    method = TRPL(cov_bound=0.05, sgd=dataclasses.replace(QUICK, epochs=10))
    new, _, _ = run(method, pi, batch)
    spread = free_spread(new)
    assert isinstance(spread, FullGaussian) and float(spread.factor[1, 0]) > 0.05
