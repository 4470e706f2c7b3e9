# ruff: noqa: E731 (a lambda reads like the formula)
"""The first-order family in float64 against slow NumPy versions on networks of fewer than 100
parameters: losses, gradients, four steps; golden numbers; and the properties of drifts."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import tiny
from reference import first_order as by_hand
from reference.network import Net
from reference.proximal import Adam
from surefoot.checks import UsageError
from surefoot.distributions import Categorical, DiagGaussian
from surefoot.divergences import KLNewOld
from surefoot.methods.discovered_po import DiscoveredPO
from surefoot.methods.espo import ESPO
from surefoot.methods.mdpo import MDPO
from surefoot.methods.ppo_kl import PPOKL
from surefoot.methods.ppo_rb import PPORB
from surefoot.methods.spo import SPO
from surefoot.methods.spu import SPU
from surefoot.methods.tr_ppo import TRPPO
from surefoot.methods.trefree import TREFree
from surefoot.methods.trefree_free import TREFreeFree
from surefoot.methods.trefree_ratio import TREFreeRatio
from surefoot.methods.trgppo import TRGPPO
from surefoot.methods.truly_ppo import TrulyPPO
from surefoot.methods.vmpo import VMPO, Duals, top
from surefoot.multipliers import FactorRule
from surefoot.ranges import calibrated, categorical_range, gaussian_range
from surefoot.sgd import SGD, shuffles
from surefoot.surrogates import Clipped, ratio
from surefoot.types import Batch

KEY = jax.random.key(0)
KINDS = ("categorical", "gaussian")
STEPS = SGD(lr=0.05, epochs=2, minibatches=2, max_grad_norm=0.3, adam_eps=1e-5)


class Case(NamedTuple):
    """A method beside its formula by hand."""

    method: Any
    formula: Any
    settings: dict[str, Any]
    beta: float | None = None
    """Of PPO-KL, whose objective takes it."""


CASES = {
    "ppo_kl": Case(PPOKL(beta_init=0.7), by_hand.ppo_kl, {"beta": 0.7}, 0.7),
    "ppo_kl reverse": Case(
        PPOKL(beta_init=3.0, divergence=KLNewOld()),
        by_hand.ppo_kl,
        {"beta": 3.0, "reverse": True},
        3.0,
    ),
    "trefree": Case(TREFree(delta=0.05), by_hand.trefree, {"delta": 0.05}),
    "trefree_ratio": Case(TREFreeRatio(clip=0.1), by_hand.trefree_ratio, {"clip": 0.1}),
    "trefree_free": Case(TREFreeFree(), by_hand.trefree_free, {}),
    "mdpo": Case(MDPO(beta=2.0), by_hand.mdpo, {"t": 0.75 / 2.0}),
    "mdpo tsallis": Case(MDPO(q=1.6, t_min=0.9), by_hand.mdpo, {"t": 0.9, "q": 1.6}),
    "trgppo": Case(TRGPPO(delta=0.01), by_hand.trgppo, {}),
    "spo": Case(SPO(clip=0.1), by_hand.spo, {"clip": 0.1}),
    "espo": Case(ESPO(stop_deviation=1e9), by_hand.espo, {}),
    "truly_ppo": Case(
        TrulyPPO(delta=0.005, alpha=3.0), by_hand.truly_ppo, {"delta": 0.005, "alpha": 3.0}
    ),
    "tr_ppo": Case(TRPPO(delta=0.005), by_hand.tr_ppo, {"delta": 0.005}),
    "ppo_rb": Case(PPORB(clip=0.1), by_hand.ppo_rb, {"clip": 0.1, "alpha": 0.3}),
    "spu": Case(
        SPU(lam=1.3, epsilon=0.03, stop_kl=None), by_hand.spu, {"epsilon": 0.03, "lam": 1.3}
    ),
    "discovered_po": Case(
        DiscoveredPO(alpha=0.5, beta=0.2), by_hand.discovered_po, {"alpha": 0.5, "beta": 0.2}
    ),
}


def net_of(kind):
    """The reference network of the tiny policies."""
    net = Net(kind, tiny.OBS, tiny.HIDDEN, tiny.spec(kind).action_dim)
    assert net.size < 100
    return net


def vector(policy):
    """A policy's parameters as the references take them."""
    return np.asarray(ravel_pytree(policy)[0], np.float64)


@functools.lru_cache
def setting(kind, rows=16, masked=3):
    """Policy, batch (some rows of which do not count and hold rubbish) and the rows that count; the
    64-bit flag must be on."""
    pi = tiny.policy(kind, dtype=np.float64)
    batch = tiny.batch(kind, pi, seed=1, rows=rows + masked, masked=masked)
    return pi, tiny.rubbish(batch, 1e3), tiny.rows_of(batch)


def limits(name, net, old, data):
    """Ratio bounds of every row, where the method has them."""
    if name != "trgppo":
        return None
    return [by_hand.bounds(net, old, s, a, delta=0.01) for s, a, _, _ in data]


def prepared(case, batch):
    """The batch as the objective sees it."""
    if isinstance(case.method, TRGPPO):
        return dataclasses.replace(batch, extra=case.method.bounds(batch))
    return batch


def slope(case, policy, batch):
    """Loss and gradient of a case."""
    mb = prepared(case, batch)
    extra = () if case.beta is None else (jnp.asarray(case.beta, batch.advantage.dtype),)
    loss = lambda p: -mb.mean(case.method.objective(p(mb.obs), mb, *extra)[0])
    return jax.value_and_grad(loss)(policy)


FAR = {"categorical": 0.7, "gaussian": 0.25}
"""Share of the way to another policy at which losses are compared: far enough for every gate to be
open on some rows and shut on others."""


def away(kind):
    """A policy some way from the old one."""
    pi, other = tiny.policy(kind, dtype=np.float64), tiny.policy(kind, seed=5, dtype=np.float64)
    rng = np.random.default_rng(2)  # biases and deviations are the same in both
    step = lambda a, b: FAR[kind] * (b - a) + 0.1 * rng.normal(size=a.shape)
    return jax.tree.map(lambda a, b: a + step(a, b), pi, other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients(x64, name, kind):
    """To 1e-10 in float64, and to 1e-5 of the largest entry in float32."""
    case, (pi, batch, data), new = CASES[name], setting(kind), away(kind)
    net, old, theta = net_of(kind), vector(pi), vector(new)
    args = (net, old, theta, data, case.formula, limits(name, net, old, data))
    want, g = by_hand.loss(*args, **case.settings), by_hand.gradient(*args, **case.settings)
    run = jax.jit(functools.partial(slope, case))
    got = run(new, batch)
    np.testing.assert_allclose(got[0], want.real, atol=1e-10)
    np.testing.assert_allclose(vector(got[1]), g, atol=1e-10)
    got = run(tiny.cast(new, np.float32), narrowed(batch))
    np.testing.assert_allclose(got[0], want.real, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vector(got[1]), g, atol=1e-5 * np.max(np.abs(g)))


def narrowed(batch):
    """The batch in float32."""
    return jax.tree.map(
        lambda x: x.astype(np.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, batch
    )


@pytest.mark.slow
def test_every_gate_is_open_and_shut_in_these_settings(x64):
    """So that no formula is compared in one of its branches alone."""
    for kind in KINDS:
        _, _, data = setting(kind)
        net, old, theta = net_of(kind), vector(tiny.policy(kind, dtype=np.float64)), away(kind)
        rows = by_hand.rows_at(net, old, vector(theta), data)
        r, A = np.array([row.r for row in rows]), np.array([row.A for row in rows])
        kls = np.array([row.kl for row in rows])
        reverse = np.array([row.reverse for row in rows])
        between = np.array(limits("trgppo", net, old, data))
        gates = {
            "trefree": (r - 1) * A > 0.05,
            "clip": np.abs(r - 1) > 0.1,
            "truly": (kls >= 0.005) & ((r - 1) * A >= 0),
            "spu": reverse <= 0.03,
            "trgppo low": (r < between[:, 0]) & (A < 0),
            "trgppo high": (r > between[:, 1]) & (A > 0),
            "dpo": (A < 0) & (np.log(r) * A > 0),
        }
        for name, gate in gates.items():
            assert 0 < gate.sum() < len(data), (kind, name)


def steps_by_hand(name, kind, data, order, adam):
    """An Adam step for every row of `order`, and the mean loss."""
    case, net = CASES[name], net_of(kind)
    old = theta = vector(tiny.policy(kind, dtype=np.float64))
    between = limits(name, net, old, data)
    return by_hand.descend(
        net, old, theta, data, order, adam, case.formula, between, **case.settings
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_four_steps(x64, name, kind):
    """With Adam, a clipped gradient and shuffled minibatches, some rows of which do not count."""
    pi, batch, data = setting(kind, rows=15)
    method = dataclasses.replace(CASES[name].method, sgd=STEPS)
    run = jax.jit(lambda p, b: method.update(p, method.init(p, KEY), b, KEY))
    place = {row: i for i, row in enumerate(np.flatnonzero(np.asarray(batch.mask)))}
    order = np.asarray(shuffles(KEY, 2, 18)).reshape(4, -1)
    order = [[place[row] for row in rows if row in place] for rows in order]
    assert len({len(rows) for rows in order}) > 1
    adam = Adam(net_of(kind).size, STEPS.lr, STEPS.adam_eps, STEPS.max_grad_norm)
    want, loss = steps_by_hand(name, kind, data, order, adam)
    new, _, info = run(pi, batch)
    np.testing.assert_allclose(vector(new), want, atol=1e-9)
    np.testing.assert_allclose(info[f"{name.split()[0]}_loss"], loss.real, atol=1e-9)
    assert np.max(np.abs(want - vector(pi))) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_spu_stops_on_the_reverse_kl_of_the_whole_batch(x64, kind):
    """After the first epoch at whose end the mean KL(new || old) is above `stop_kl`; by the
    reference's KL, which differs from the other direction by more than the bounds tried do."""
    pi, batch, data = setting(kind)
    net, old = net_of(kind), vector(pi)
    sgd = SGD(lr=0.1, epochs=3, minibatches=2)

    @jax.jit
    def run(stop_kl):
        method = SPU(stop_kl=stop_kl, sgd=sgd)
        new, _, info = method.update(pi, method.init(pi, KEY), batch, KEY)
        return new, info["spu_epochs"]

    once, epochs = run(0.0)
    assert epochs == 1
    rows = by_hand.rows_at(net, old, vector(once), data)
    reverse, forward = np.mean([row.reverse for row in rows]), np.mean([row.kl for row in rows])
    assert reverse > 1e-4 and abs(forward / reverse - 1) > 0.01
    assert run(0.999 * reverse)[1] == 1 < run(1.001 * reverse)[1]
    assert run(1e9)[1] == 3


# PPO-KL's rule.


PUBLISHED = {
    "ppo": (FactorRule(), (0.5, 1.0, 2.0)),
    "modular_rl": (FactorRule(low=0.7, high=1.3, down=1.5, up=1.5), (1 / 1.5, 1.0, 1.5)),
    "rllib": (FactorRule(low=0.5, high=2.0, down=2.0, up=1.5), (0.5, 1.0, 1.5)),
    "fixed": (FactorRule(down=1.0, up=1.0), (1.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_rules(x64, name):
    rule, want = PUBLISHED[name]
    for kl, factor in zip((rule.low * 0.0099, 0.01, rule.high * 0.0101), want, strict=True):
        np.testing.assert_allclose(rule(jnp.asarray(3.0), jnp.asarray(kl), 0.01), 3.0 * factor)
    at = [rule(jnp.asarray(3.0), jnp.asarray(x * 0.01), 0.01) for x in (rule.low, rule.high)]
    np.testing.assert_allclose(at, 3.0)  # at its ends nothing moves
    assert float(rule(jnp.asarray(3.0), jnp.asarray(np.nan), 0.01)) == 3.0


def test_beta_stays_in_its_range():
    rule = FactorRule(floor=0.5, ceiling=3.0)
    assert float(rule(jnp.asarray(0.6), jnp.asarray(0.0), 0.01)) == 0.5
    assert float(rule(jnp.asarray(2.0), jnp.asarray(1.0), 0.01)) == 3.0
    for fields in ({"low": 1.1}, {"high": 0.9}, {"down": 0.5}, {"up": 0.0}, {"floor": -1.0}):
        with pytest.raises(UsageError, match=f"FactorRule.{next(iter(fields))} is"):
            FactorRule(**fields)
    with pytest.raises(UsageError, match=r"FactorRule\.ceiling is 0\.1"):
        FactorRule(floor=1.0, ceiling=0.1)
    with pytest.raises(UsageError, match=r"PPOKL\.beta_init is 0\.0"):
        PPOKL(beta_init=0.0)


@pytest.mark.slow
def test_beta_follows_the_kl_of_the_whole_batch(x64):
    """Not that of the last minibatch, and in the direction that is penalised."""
    pi, batch, data = setting("gaussian", masked=0)
    net, old = net_of("gaussian"), vector(pi)
    for divergence in ({}, {"divergence": KLNewOld()}):
        method = PPOKL(sgd=dataclasses.replace(STEPS, lr=0.02), **divergence)

        @jax.jit
        def run(target, method=method):
            changed = dataclasses.replace(method, target_kl=target)
            new, state, info = changed.update(pi, method.init(pi, KEY), batch, KEY)
            return new, state.beta, info["ppo_kl_beta"]

        theta = vector(run(0.01)[0])
        rows = by_hand.rows_at(net, old, theta, data)
        d = np.mean([row.reverse if divergence else row.kl for row in rows])
        assert d > 1e-4
        for share, factor in ((1.51, 0.5), (1.49, 1.0), (1 / 1.49, 1.0), (1 / 1.51, 2.0)):
            new, beta, shown = run(d * share)
            np.testing.assert_allclose(vector(new), theta)
            assert float(beta) == float(shown) == factor


# V-MPO.


def by_hand_vmpo(kind, method):
    """The reference with a method's settings."""
    radii = (method.target_kl,)
    if kind == "gaussian":
        radii = (method.target_kl_mean, method.target_kl_cov)
    alphas = [method.alpha_init] * len(radii)
    return by_hand.VMPO(net_of(kind), method.eps_eta, radii, method.eta_init, alphas)


VMPO_SLOW = VMPO(
    eps_eta=0.1,
    target_kl=0.004,
    target_kl_mean=0.003,
    target_kl_cov=0.0004,
    eta_init=0.8,
    alpha_init=2.0,
    dual_lr=0.03,
    sgd=SGD(lr=0.02, epochs=4, minibatches=1, max_grad_norm=None, adam_eps=1e-8),
)
VMPO_PARTS = dataclasses.replace(
    VMPO_SLOW,
    sgd=SGD(lr=0.03, epochs=2, minibatches=2, anneal=True, max_grad_norm=0.2, adam_eps=1e-3),
)
"""Every field of `SGD` away from what V-MPO has by itself."""


@pytest.mark.parametrize("kind", [pytest.param("categorical", marks=pytest.mark.slow), "gaussian"])
def test_vmpo_losses_and_gradients(x64, kind):
    """Of the policy and of the duals, with each stop-gradient where it belongs; in float64 and
    float32."""
    pi, batch, data = setting(kind)
    old, new = vector(pi), away(kind)
    hand = by_hand_vmpo(kind, VMPO_SLOW)

    @jax.jit
    def run(p, alpha, eta, mb):
        total = lambda p, d: sum(VMPO_SLOW.losses(p, d, mb))
        duals = Duals(eta, alpha)
        return VMPO_SLOW.losses(p, duals, mb), jax.grad(total, (0, 1))(p, duals)

    theta = vector(new)
    want = by_hand.complex_step(lambda t: hand.policy_loss(old, t, data), theta)
    dual_slopes = hand.dual_gradients(old, theta, data)
    pi_and_kl = hand.policy_loss(old, theta, data).real
    for dtype, tol in ((np.float64, 1e-10), (np.float32, 1e-5)):
        mb = batch if dtype == np.float64 else narrowed(batch)
        alpha, eta = jnp.full(2, 2.0, dtype), jnp.asarray(0.8, dtype)
        (L_pi, L_eta, L_alpha), (g, d) = run(tiny.cast(new, dtype), alpha, eta, mb)
        np.testing.assert_allclose(vector(g), want, atol=tol * np.max(np.abs(want)))
        got = np.array([d.eta, *d.alpha])[: len(dual_slopes)]
        np.testing.assert_allclose(got, dual_slopes, rtol=tol, atol=tol)
        np.testing.assert_allclose(L_eta, hand.temperature_loss(data, 0.8), rtol=tol)
        kept = sum(2.0 * eps for eps in hand.radii)  # L_alpha = alpha eps - alpha KL + alpha KL
        apart = kl_term(hand, old, theta, data)  # what cancels, and leaves its rounding
        np.testing.assert_allclose(L_alpha, kept, atol=tol * max(kept, apart))
        np.testing.assert_allclose(L_pi + kl_term(hand, old, theta, data), pi_and_kl, rtol=tol)


def kl_term(hand, old, theta, data):
    """alpha KL, what the policy's loss holds beside L_pi."""
    means = np.mean([hand.kls(old, theta, s) for s, _, _, _ in data], axis=0)
    return float(np.sum(np.array(hand.alphas) * means))


def check_vmpo(kind, method, updates, lag=1):
    """Updates beside the reference; the target is renewed every `lag`."""
    pi = tiny.policy(kind, dtype=np.float64)
    net, hand = net_of(kind), by_hand_vmpo(kind, method)
    sgd = method.sgd
    left = 0.75 if sgd.anneal else 1.0  # the batches are at a quarter of the run
    adam = Adam(net.size, left * sgd.lr, sgd.adam_eps, sgd.max_grad_norm)
    duals = Adam(1 + len(hand.radii), method.dual_lr, 1e-8, None)
    run = jax.jit(lambda p, s, b: method.update(p, s, b, KEY))
    new, state, theta = pi, method.init(pi, KEY), vector(pi)
    for number in range(updates):
        batch = tiny.batch(kind, new, seed=number, rows=16, masked=2)
        data = tiny.rows_of(batch)
        old = theta if number % lag == 0 else old  # noqa: F821
        new, state, info = run(new, state, batch)
        place = {row: i for i, row in enumerate(np.flatnonzero(np.asarray(batch.mask)))}
        order = np.asarray(shuffles(KEY, sgd.epochs, 16)).reshape(sgd.epochs * sgd.minibatches, -1)
        for rows in order:
            part = [data[place[row]] for row in rows if row in place]
            theta = hand.step(old, theta, part, adam, duals)
        np.testing.assert_allclose(vector(new), theta, atol=1e-9)
        got = [state.duals.eta, *state.duals.alpha][: 1 + len(hand.radii)]
        np.testing.assert_allclose(got, [hand.eta, *hand.alphas], atol=1e-9)
        assert float(info["vmpo_eta"]) == float(state.duals.eta)
    assert hand.eta != method.eta_init and np.max(np.abs(theta - vector(pi))) > 0.01


@pytest.mark.parametrize("kind", ["categorical", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_four_vmpo_steps(x64, kind):
    check_vmpo(kind, VMPO_SLOW, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_vmpo_steps_on_minibatches(x64, kind):
    """Shuffled, each with the better half of its own; the rate falls, the gradient is clipped."""
    check_vmpo(kind, VMPO_PARTS, 2)


@pytest.mark.slow
def test_vmpo_with_a_slower_target(x64):
    check_vmpo("gaussian", dataclasses.replace(VMPO_SLOW, target_every=2), 3, lag=2)


@pytest.mark.slow
def test_duals_stay_above_their_floor(x64):
    method = dataclasses.replace(VMPO_SLOW, dual_lr=10.0, target_kl_mean=50.0, eps_eta=50.0)
    pi, batch, _ = setting("gaussian")
    _, state, _ = jax.jit(lambda p, b: method.update(p, method.init(p, KEY), b, KEY))(pi, batch)
    assert float(state.duals.eta) == float(state.duals.alpha[0]) == 1e-8


def test_the_top_half():
    """The golden numbers of a batch of four, ties, and rows that do not count."""
    batch = tiny.batch("categorical", tiny.policy("categorical"), rows=6)
    mask = jnp.asarray([True, True, True, True, False, False])
    batch = dataclasses.replace(batch, mask=mask)
    A = jnp.asarray([1.0, 2.0, -1.0, 0.0, 9.0, np.nan])
    np.testing.assert_array_equal(top(batch, A, 0.5), [True, True, False, False, False, False])
    np.testing.assert_array_equal(top(batch, A, 1.0), mask)
    np.testing.assert_array_equal(top(batch, A, 1e-6), [False, True, *[False] * 4])
    same = top(batch, jnp.zeros(6), 0.5)
    np.testing.assert_array_equal(same, mask)


@pytest.mark.slow
def test_the_golden_numbers_of_vmpo(x64):
    """A = [1, 2, -1, 0], eta = 1, eps_eta = 0.1 (methods.md 7.4)."""
    pi = tiny.policy("categorical", dtype=np.float64)
    batch = tiny.batch("categorical", pi, rows=4)
    batch = dataclasses.replace(batch, advantage=jnp.asarray([1.0, 2.0, -1.0, 0.0]))
    method = VMPO(eps_eta=0.1)
    duals = Duals(jnp.asarray(1.0), jnp.ones(2))
    L_pi, L_eta, _ = method.losses(pi, duals, batch)
    np.testing.assert_allclose(L_eta, 1.7201145, atol=1e-7)
    weights = np.array([0.268941, 0.731059])
    np.testing.assert_allclose(L_pi, -weights @ np.asarray(batch.log_prob[:2]), atol=1e-6)


# Golden numbers of a tabular problem (methods.md 7.4).


class Tabular(eqx.Module):
    """Logits a state, for observations that are rows of the identity."""

    logits: Any

    def __call__(self, obs):
        return Categorical(obs @ self.logits)


def test_the_tabular_problem_by_hand():
    pi = np.full((2, 2), 0.5)
    V, Q, A, visits, eta = by_hand.solve(pi)
    np.testing.assert_allclose(V, [2.624629, 3.396142], atol=1e-6)
    np.testing.assert_allclose(Q, [[2.431602, 2.817656], [2.770475, 4.021810]], atol=1e-6)
    np.testing.assert_allclose(A, [[-0.193027, 0.193027], [-0.625668, 0.625668]], atol=1e-6)
    np.testing.assert_allclose(visits, [5.192878, 4.807122], atol=1e-6)
    np.testing.assert_allclose(eta, 2.6246291, atol=1e-7)
    best = by_hand.solve(np.array([[0.0, 1.0], [0.0, 1.0]]))[4]
    np.testing.assert_allclose(best, 8.1560694, atol=1e-7)


def everything(A):
    """Every pair of state and action once, under the uniform policy."""
    pi = Tabular(jnp.zeros((2, 2)))
    obs, action = jnp.eye(2)[jnp.asarray([0, 0, 1, 1])], jnp.asarray([0, 1, 0, 1])
    old, zero = pi(obs), jnp.zeros(4)
    batch = Batch(
        obs=obs,
        action=action,
        log_prob=old.log_prob(action),
        old=old,
        advantage=jnp.asarray(A.ravel()),
        value_target=zero,
        value=zero,
        mask=jnp.ones(4, bool),
        progress=jnp.zeros(()),
    )
    return pi, batch


MIRROR = {1.0: ([0.595332, 0.777531], 4.9433693), 0.5: ([0.683976, 0.924329], 6.7085884)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mdpo", "ppo_kl"])
def test_mirror_descent_on_the_tabular_problem(x64, name):
    """Enough steps solve the problem: new = old exp(A / beta) / Z, with the golden probabilities
    and returns."""
    A = by_hand.solve(np.full((2, 2), 0.5))[2]
    pi, batch = everything(A)
    sgd = SGD(lr=0.02, epochs=1500, minibatches=1, max_grad_norm=None, adam_eps=1e-8)

    @jax.jit
    def run(beta):
        fixed = FactorRule(down=1.0, up=1.0)
        both = {
            "mdpo": MDPO(t_min=1.0, sgd=sgd),
            "ppo_kl": PPOKL(rule=fixed, divergence=KLNewOld(), sgd=sgd),
        }
        method = both[name]
        state = method.init(pi, KEY)
        if name == "mdpo":
            method = dataclasses.replace(method, beta=beta)
        else:
            state = dataclasses.replace(state, beta=beta)
        new, _, _ = method.update(pi, state, batch, KEY)
        return jax.nn.softmax(new.logits)

    for beta, (probabilities, eta) in MIRROR.items():
        p = np.asarray(run(jnp.asarray(beta)))
        np.testing.assert_allclose(p[:, 1], probabilities, atol=1e-6)
        np.testing.assert_allclose(by_hand.solve(p)[4], eta, atol=1e-5)


@pytest.mark.slow
def test_vmpo_with_every_row_and_a_huge_temperature_moves_nothing(x64):
    """Weights are uniform then, and over all actions of the uniform policy scores cancel."""
    A = by_hand.solve(np.full((2, 2), 0.5))[2]
    pi, batch = everything(A)
    run = lambda m: m.update(pi, m.init(pi, KEY), batch, KEY)[0].logits
    still = VMPO(fraction=1.0, eta_init=1e12, sgd=SGD(lr=0.1, epochs=1, minibatches=1))
    np.testing.assert_allclose(run(still), 0, atol=1e-6)
    assert np.max(np.abs(run(dataclasses.replace(still, eta_init=1.0)))) > 0.05


# Ratio bounds of TRGPPO (methods.md 7.5).


DISCRETE = {
    0.001: [
        (0.05, 0.816965, 1.207011),
        (0.25, 0.923906, 1.078759),
        (0.5, 0.955301, 1.044699),
        (0.9, 0.984502, 1.014313),
    ],
    0.01: [
        (0.05, 0.499623, 1.738043),
        (0.25, 0.769339, 1.257160),
        (0.5, 0.859283, 1.140717),
        (0.9, 0.947027, 1.041210),
    ],
}
GAUSSIAN = [
    (0.0, 0.84996, 1.20000),
    (0.5, 0.84166, 1.20377),
    (1.0, 0.74775, 1.25213),
    (2.0, 0.39551, 1.75943),
    (3.0, 0.13236, 3.45458),
]


def test_the_golden_ratio_bounds(x64):
    for delta, rows in DISCRETE.items():
        p, low, high = np.array(rows).T
        got = categorical_range(jnp.asarray(p), delta)
        np.testing.assert_allclose(np.exp(got), [low, high], atol=1e-6)
    a, low, high = np.array(GAUSSIAN).T
    got = gaussian_range(jnp.asarray(a), 0.02954378)
    np.testing.assert_allclose(np.exp(got), [low, high], atol=1e-5)
    for d, delta in ((1, 0.029544), (6, 0.0054296), (17, 0.0019415)):
        np.testing.assert_allclose(calibrated(0.2, d), delta, rtol=5e-5)


@pytest.mark.slow
def test_ratio_bounds_beside_root_finding(x64):
    """Over probabilities, actions and radii, to 1e-9; and both signs of an action alike."""
    p = np.linspace(0.01, 0.99, 25)
    a = np.array([0.0, 1e-3, 0.1, 0.5, 1.0, 1.7, 3.0, 6.0])
    both = jax.jit(lambda p, a, d: (categorical_range(p, d), gaussian_range(a, d)))
    for delta in (1e-4, 0.003, 0.03, 0.2):
        discrete, gaussian = both(jnp.asarray(p), jnp.asarray(a), delta)
        want = np.array([by_hand.categorical_bounds(x, delta) for x in p]).T
        np.testing.assert_allclose(np.exp(discrete), want, rtol=1e-8)
        want = np.array([by_hand.gaussian_bounds_1d(x, delta) for x in a]).T
        np.testing.assert_allclose(gaussian, want, atol=1e-9)
        np.testing.assert_array_equal(gaussian, both(jnp.asarray(p), jnp.asarray(-a), delta)[1])


@pytest.mark.slow
def test_no_policy_in_the_ball_has_a_ratio_outside(x64):
    """Random Gaussians on its boundary: none beyond the bounds, some close to them. At a large
    radius too, where there are several local extremes."""
    rng = np.random.default_rng(0)
    for delta in (0.03, 0.5, 2.0):
        ends = np.array([*np.linspace(0, 1, 4001)[1:-1]])
        gap = lambda v, d=delta: 2 * d + 1 + np.log(v) - v
        v = np.exp(np.concatenate([-ends, ends]) * (2 * delta + 3))
        v = v[gap(v) >= 0]
        m = np.sqrt(gap(v)) * rng.choice([-1, 1], len(v))
        m = np.concatenate([m, -m])
        v = np.concatenate([v, v])
        for a in (0.05, 0.3, 1.0, 2.5):
            log_r = -0.5 * np.log(v) - (a - m) ** 2 / (2 * v) + a * a / 2
            low, high = (float(x) for x in gaussian_range(jnp.asarray(a), delta))
            assert low <= log_r.min() + 1e-9 and log_r.max() - 1e-9 <= high
            assert log_r.min() - low < 0.02 and high - log_r.max() < 0.02


@pytest.mark.slow
def test_bounds_of_rows(x64):
    """Gaussians of several dimensions in logarithms, without overflow; rows that do not count; the
    constant interval; the distributions that are refused."""
    pi = tiny.policy("gaussian", dtype=np.float64)
    batch = tiny.batch("gaussian", pi, masked=5)
    low, high = TRGPPO().bounds(batch)
    net, old = net_of("gaussian"), vector(pi)
    for i in range(24):
        want = (1.0, 1.0)
        if bool(batch.mask[i]):
            want = by_hand.bounds(net, old, np.asarray(batch.obs[i]), np.asarray(batch.action[i]))
        np.testing.assert_allclose(np.exp([low[i], high[i]]), want, rtol=1e-8)
    wide_low, wide_high = TRGPPO(at_least_clip=True).bounds(batch)
    np.testing.assert_allclose(wide_low, np.minimum(low, np.log(0.8)))
    np.testing.assert_allclose(wide_high, np.maximum(high, np.log(1.2)))
    many = DiagGaussian(jnp.zeros((24, 400)), jnp.zeros((24, 400)))
    far = dataclasses.replace(batch, old=many, action=jnp.full((24, 400), 5.0))
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in TRGPPO(delta=2000.0).bounds(far))
    discrete = tiny.batch("categorical", tiny.policy("categorical", dtype=np.float64))
    low, high = TRGPPO(clip=0.3).bounds(
        dataclasses.replace(discrete, log_prob=jnp.full(24, np.log(0.5)))
    )
    np.testing.assert_allclose(np.exp([low, high]), np.array([[0.7] * 24, [1.3] * 24]), rtol=1e-9)
    with pytest.raises(UsageError, match="no ratio bounds for a Beta policy"):
        TRGPPO().bounds(tiny.batch("beta", tiny.policy("beta", dtype=np.float64)))


# Drifts: what a method takes away from r A.


NO_DRIFT = {
    "trefree_ratio": "a control: without the minimum it also pays for going the wrong way",
    "spu": "its gate gives up what a row outside would lose as well as what it would gain",
}
"""What each takes away may be negative: rows for which that is seen are asked for."""
UNGATED = "spu without its gate"
LAMBDA = {"spu": 1.3}
"""SPU's objective is divided by it."""


def drifts(policy, advantage, batch):
    """r A minus the objective, counted from its value at the old policy, of every case."""
    batch = dataclasses.replace(batch, advantage=advantage)
    ungated = CASES["spu"]._replace(method=SPU(lam=1.3, epsilon=1e9))

    def one(name, case):
        mb = prepared(case, batch)
        extra = () if case.beta is None else (jnp.asarray(case.beta, advantage.dtype),)
        scale = LAMBDA.get(name.split()[0], 1.0)
        gain = lambda new: case.method.objective(new, mb, *extra)[0] * scale
        new = policy(mb.obs)
        return (ratio(new, mb) - 1) * advantage - (gain(new) - gain(mb.old))

    out = {name: one(name, case) for name, case in (CASES | {UNGATED: ungated}).items()}
    r = ratio(policy(batch.obs), batch)
    return out | {"ppo": r * advantage - Clipped(0.2)(policy(batch.obs), batch)}


@functools.lru_cache
def compiled_drifts(kind):
    batch = setting(kind)[1]
    return jax.jit(lambda p, A: drifts(p, A, batch))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_drifts_are_not_negative(x64, kind):
    """Policies near and far, advantages of both signs and all sizes (mirror learning asks for it:
    Kuba et al., 2022)."""
    pi, batch, _ = setting(kind)
    flat, unravel = ravel_pytree(pi)
    mask = np.asarray(batch.mask)
    seen = dict.fromkeys([*CASES, UNGATED, "ppo"], 0.0)
    negative = dict.fromkeys(NO_DRIFT, 0.0)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.integers(0, 2**32 - 1), st.floats(-6, 0.5), st.floats(-3, 2))
    def check(seed, size, scale):
        rng = np.random.default_rng(seed)
        policy = unravel(flat + 10**size * rng.normal(size=flat.shape))
        A = 10**scale * rng.normal(size=len(mask))
        for name, drift in compiled_drifts(kind)(policy, jnp.asarray(A)).items():
            worst = float(np.min(np.asarray(drift)[mask]))
            seen[name] = max(seen[name], float(np.max(np.asarray(drift)[mask])))
            # Rounding is relative to r A, which may be large.
            slack = 1e-10 * (1 + np.max(np.abs(A))) * max(1, np.max(np.abs(np.asarray(drift))))
            if name in NO_DRIFT:
                negative[name] = min(negative[name], worst)
            else:
                assert worst >= -slack, name

    check()
    assert all(worst < -0.1 for worst in negative.values())
    none = {"trefree_free", "espo"}
    assert {name for name, most in seen.items() if most < 1e-6} == none


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_drifts_are_flat_at_the_old_policy(x64, kind):
    """So that the first step of every method is that of the policy gradient."""
    pi, batch, _ = setting(kind)
    slopes = jax.jit(lambda p, b: {name: slope(c, p, b)[1] for name, c in CASES.items()})(pi, batch)
    gain = lambda p: -batch.mean(ratio(p(batch.obs), batch) * batch.advantage)
    want = vector(jax.jit(jax.grad(gain))(pi))
    for name in CASES:
        scale = LAMBDA.get(name, 1.0)
        np.testing.assert_allclose(scale * vector(slopes[name]), want, atol=1e-12, err_msg=name)


# Where a row's gradient vanishes (methods.md 7.6).


def row_slopes(method, r, A, beta=None):
    """d objective / d ln r of rows with given ratios and advantages."""
    pi = tiny.policy("categorical", dtype=np.float64)
    batch = tiny.batch("categorical", pi, rows=len(r))
    batch = dataclasses.replace(batch, advantage=jnp.asarray(A))

    def gain(shift):
        at = dataclasses.replace(batch, log_prob=batch.log_prob - jnp.log(jnp.asarray(r)) - shift)
        return jnp.sum(method.objective(batch.old, at)[0])

    return np.asarray(jax.grad(gain)(jnp.zeros(len(r))))


R = np.array([0.5, 0.799, 0.801, 0.995, 1.0, 1.005, 1.199, 1.201, 3.0] * 2)
A = np.array([1.5] * 9 + [-0.5] * 9)


def test_where_gradients_vanish(x64):
    np.testing.assert_array_equal(row_slopes(TREFree(delta=0.01), R, A) == 0, (R - 1) * A > 0.01)
    np.testing.assert_array_equal(row_slopes(TREFreeRatio(), R, A) == 0, np.abs(R - 1) > 0.2)
    np.testing.assert_allclose(row_slopes(TREFreeFree(), R, A), R * A)
    at = 1 + 0.3 * np.sign(A)
    np.testing.assert_allclose(row_slopes(SPO(clip=0.3), at, A), 0, atol=1e-12)
    beyond = row_slopes(SPO(clip=0.3), at + 0.1 * np.sign(A), A)
    assert np.all(beyond * np.sign(A) < 0)  # it pulls back
    beyond = row_slopes(PPORB(), at, A)
    np.testing.assert_allclose(beyond, -0.3 * at * A)
