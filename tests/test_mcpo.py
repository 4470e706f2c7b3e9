# ruff: noqa: E731 (a lambda reads like the formula)
"""MCPO in float64 against a slow NumPy version; the nineteen properties of its specification, each
under its number; its report; and its equality with PPO-KL where it must be that."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import tiny
from reference import first_order, natural
from reference import mcpo as by_hand
from reference.fixup import kl_slope
from reference.network import Net, complex_step
from reference.proximal import Adam
from surefoot.checks import UsageError
from surefoot.distributions import DiagGaussian
from surefoot.memory import (
    Attention,
    Diverse,
    EveryStep,
    MeanBlend,
    Rate,
    Store,
    context,
    masked_softmax,
    near_ratio,
    prefix,
    view,
    virtual,
)
from surefoot.methods.mcpo import MCPO
from surefoot.methods.ppo_kl import PPOKL
from surefoot.multipliers import (
    AdaptiveBeta,
    AnnealedBeta,
    ConstantBeta,
    FactorRule,
    SwitchingBeta,
)
from surefoot.networks import ActorCritic
from surefoot.sgd import SGD, shuffles
from surefoot.types import no_penalty
from surefoot.value import EntropyBonus, SharedValue
from surefoot.wrappers.fixup import Fixup

KEY = jax.random.key(0)
KINDS = ("categorical", "gaussian")
BOTH = pytest.mark.parametrize(
    "kind", [pytest.param("categorical", marks=pytest.mark.slow), "gaussian"]
)
SIX = SGD(lr=0.05, epochs=2, minibatches=3, max_grad_norm=0.3, anneal=True)
"""Six steps an update."""
SINGLE = SGD(lr=0.05, epochs=1, minibatches=1, max_grad_norm=None)
FREE = Attention(hidden=5, dropout=0.0, max_grad_norm=None)
ONE = MCPO(memory_size=4, blend=FREE, sgd=SINGLE)
"""One step, whose gradients can be read from Adam's moments."""
TWO = dataclasses.replace(ONE, sgd=dataclasses.replace(SINGLE, epochs=2))
SETTINGS = {
    "as in the paper": MCPO(memory_size=4, blend=Attention(dropout=0.0), sgd=SIX),
    "starts with theta_0": MCPO(
        memory_size=3,
        first_policy=True,
        alpha=1.0,
        beta=SwitchingBeta(high=3.0, low=0.2),
        blend=Attention(hidden=7, dropout=0.0, transform="log1p", lr=0.2, max_grad_norm=None),
        sgd=SIX,
    ),
    "half": MCPO(
        memory_size=4,
        alpha=0.5,
        beta=AnnealedBeta(start=2.0),
        blend=Attention(hidden=5, dropout=0.0, half_context=True),
        writing=EveryStep(4),
        sgd=SIX,
    ),
    "mean": MCPO(
        memory_size=5,
        beta=AdaptiveBeta(start=1.5, target_kl=0.3),
        blend=MeanBlend(),
        writing=EveryStep(1),
        sgd=SIX,
    ),
    "constant": MCPO(
        memory_size=3,
        beta=ConstantBeta(0.7),
        blend=Attention(dropout=0.0, transform="log1p"),
        sgd=dataclasses.replace(SIX, anneal=False, max_grad_norm=None),
    ),
}


# Settings.


def net_of(kind):
    """The reference network of the tiny policies."""
    net = Net(kind, tiny.OBS, tiny.HIDDEN, tiny.spec(kind).action_dim)
    assert net.size < 100
    return net


def vector(tree):
    """Parameters as the reference takes them."""
    return np.asarray(ravel_pytree(tree)[0], np.float64)


def rows_of(batch):
    """The rows that count, with values and their targets."""
    both = np.asarray(batch.value), np.asarray(batch.value_target)
    count = np.flatnonzero(np.asarray(batch.mask))
    return [
        (*row, *(x[i] for x in both)) for row, i in zip(tiny.rows_of(batch), count, strict=True)
    ]


def batch_of(kind, pi, seed=1):
    """15 rows that count and 3 of rubbish."""
    return tiny.rubbish(tiny.batch(kind, pi, seed=seed, rows=18, masked=3), 1e3)


@functools.lru_cache
def setting(kind):
    """Policy, batch, and its rows; the 64-bit flag must be on."""
    pi = tiny.policy(kind, dtype=np.float64)
    batch = batch_of(kind, pi)
    return pi, batch, rows_of(batch)


def narrowed(tree):
    """In float32."""
    return jax.tree.map(
        lambda x: x.astype(np.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


@functools.lru_cache
def program(method):
    """One compiled update a method."""
    return jax.jit(method.update)


def begin(method, policy):
    """The state at the start of a run."""
    return method.init(policy, KEY)


def order(batch, sgd, key=KEY):
    """Rows of every step, as indices into the rows that count."""
    place = {row: i for i, row in enumerate(np.flatnonzero(np.asarray(batch.mask)))}
    rows = np.asarray(shuffles(key, sgd.epochs, len(batch.mask)))
    cut = rows.shape[1] // sgd.minibatches
    rows = rows[:, : cut * sgd.minibatches].reshape(-1, cut)
    return [[place[r] for r in part if r in place] for part in rows]


push = jax.jit(Store.push)


def holding(state, vectors, born=None, psi=None, step=40):
    """A state whose memory holds the given vectors, oldest first, in a ring that has gone round
    where it is full."""
    N, m = state.memory.capacity, len(vectors)
    clean = jax.tree.map(jnp.zeros_like, state.memory)
    store = eqx.tree_at(lambda s: s.born, clean, clean.born - 1)
    born = range(3, 3 + 7 * m, 7) if born is None else born
    early = [(np.full(state.memory.rows.shape[1], 9.0), 0)] * (3 if m == N else 0)
    for x, b in [*early, *zip(vectors, born, strict=True)]:
        store = push(store, x.astype(store.rows.dtype), np.int32(b), np.bool_(True))
    psi = state.psi if psi is None else jnp.asarray(psi, state.psi.dtype)
    at = lambda s: (s.memory, s.psi, s.step)
    return eqx.tree_at(at, state, (store, psi, jnp.asarray(step, jnp.int32)))


def with_phi(state, change):
    """A state whose attention network is changed by a function of an array."""
    return eqx.tree_at(lambda s: s.blend.phi, state, jax.tree.map(change, state.blend.phi))


FAR = {"categorical": 0.4, "gaussian": 0.15}


def strangers(kind, count, seed=0):
    """Vectors some way from the policy."""
    theta, rng = vector(tiny.policy(kind, dtype=np.float64)), np.random.default_rng(seed)
    return [theta + FAR[kind] * rng.normal(size=theta.shape) for _ in range(count)]


def primed(method, pi, kind, count=4):
    """A state in the middle of a run: a memory, a virtual policy elsewhere, and attention far from
    even."""
    *vectors, psi = strangers(kind, count + 1)
    return with_phi(holding(begin(method, pi), vectors, psi=psi), lambda x: 2 * x)


RULES = {SwitchingBeta: by_hand.Switching, ConstantBeta: by_hand.Constant}


def reference(kind, method, pi, state):
    """The reference with a method's settings, at a state of it."""
    net, blend, sgd, rule = net_of(kind), method.blend, method.sgd, method.beta
    if isinstance(rule, AdaptiveBeta):
        hand = by_hand.Adaptive(rule.start, rule.target_kl)
    elif isinstance(rule, AnnealedBeta):
        hand = by_hand.Annealed(rule.start, rule.t_min)
    else:
        hand = RULES[type(rule)](*dataclasses.astuple(rule))
    m = int(state.memory.filled)
    rows, born = (np.asarray(x)[:m] for x in state.memory.ordered())
    attention = phi = own = None
    if isinstance(blend, Attention):
        n = 6 if blend.half_context else 12
        N = method.memory_size
        attention = by_hand.Attention(n, blend.hidden or N, N, blend.transform)
        phi = vector(state.blend.phi)
        lr = sgd.lr if blend.lr is None else blend.lr
        own = Adam(len(phi), lr, sgd.adam_eps, blend.max_grad_norm)
    return by_hand.MCPO(
        net,
        vector(pi),
        np.asarray(state.psi, np.float64),
        Adam(net.size, sgd.lr, sgd.adam_eps, sgd.max_grad_norm),
        method.memory_size,
        attention,
        phi,
        own,
        hand,
        alpha=method.alpha,
        every=method.writing.steps if isinstance(method.writing, EveryStep) else None,
        memory=[np.asarray(x, np.float64) for x in rows],
        born=[int(b) for b in born],
        steps=int(state.step),
        beta=getattr(rule, "start", 1.0),
    )


def anneal(run, method, progress):
    """Both learning rates at a share of the run."""
    if method.sgd.anneal:
        for adam, start in (
            (run.adam, method.sgd.lr),
            (run.phi_adam, getattr(method.blend, "lr", None) or method.sgd.lr),
        ):
            if adam is not None:
                adam.lr = start * (1 - progress)


def moment(opt):
    """Adam's first moment."""
    (found,) = [s.mu for s in opt if hasattr(s, "mu")]
    return vector(found)


def slopes(state):
    """Gradients of -L1 in theta and of -L2 in phi of a first step, read from Adam's moments."""
    return moment(state.opt) / 0.1, -moment(state.blend.opt) / 0.1


# The reference.


@pytest.mark.parametrize("kind", KINDS)
def test_the_references_slopes_are_those_of_its_losses(x64, kind):
    """By complex steps: the gradient of phi is w_i <g, theta_i - psi> walked back, also through
    dropped units; that of theta knows psi and alpha as data."""
    _, _, data = setting(kind)
    net = net_of(kind)
    old = vector(tiny.policy(kind, dtype=np.float64))
    theta, psi_old, *memory = strangers(kind, 5)
    rng = np.random.default_rng(0)
    v = by_hand.context(net, theta, old, psi_old, data)
    for attention in (by_hand.Attention(12, 5, 4), by_hand.Attention(6, 5, 4, "log1p")):
        phi = 0.3 * rng.normal(size=attention.n * 5 + 5 + 20 + 4)
        for keep in (1.0, np.array([2.0, 0, 2, 2, 0])):
            fixed = (net, theta, psi_old, None, 4, attention, phi, None, None)
            run = by_hand.MCPO(*fixed, memory=memory)
            psi, w = run.virtual(phi, v, keep)
            loss = lambda p: by_hand.loss_phi(net, run.virtual(p, v, keep)[0], data)  # noqa: B023
            got, want = run.slope_phi(v, psi, w, data, keep), complex_step(loss, phi)
            np.testing.assert_allclose(got, want, atol=1e-13)
            assert np.max(np.abs(want)) > 1e-5 and np.min(w) > 1e-4
    alpha = by_hand.virtual_alpha(net, psi, data)

    def loss(t):
        gain = np.mean(np.exp(by_hand.log_ratios(net, t, data)) * by_hand.advantages(data))
        kls = [
            (1 - a) * first_order.kl(net, old, t, row[0]) + a * first_order.kl(net, psi, t, row[0])
            for a, row in zip(alpha, data, strict=True)
        ]
        return 0.7 * np.mean(kls) - gain

    args = (net, theta, old, psi, alpha, 0.7, data)
    np.testing.assert_allclose(by_hand.loss_theta(*args), loss(theta), rtol=1e-12)
    want = complex_step(loss, theta)
    np.testing.assert_allclose(by_hand.slope_theta(*args), want, atol=1e-12 * np.max(np.abs(want)))


@functools.lru_cache
def two_steps(kind):
    """Two full-batch steps by hand, and what they started from."""
    pi, batch, data = setting(kind)
    state = primed(TWO, pi, kind)
    run = reference(kind, TWO, pi, state)
    run.update(data, order(batch, TWO.sgd), 0.25)
    return pi, batch, state, run


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients(x64, kind):
    """Of a step away from both anchors, through the moments after two: to 1e-10 in float64, to 1e-5
    in float32."""
    pi, batch, state, run = two_steps(kind)
    first, second = run.trace
    assert first["beta"] == 0.01 and second["beta"] in (10, 0.01)
    assert np.min(first["w"]) > 1e-3 and np.ptp(first["w"]) > 0.15
    assert np.max(np.abs(second["alphas"] - 0.5)) > 0.05 and second["kl_old_theta"] > 1e-3
    for dtype, tol in ((np.float64, 1e-10), (np.float32, 1e-5)):
        cast = (lambda x: x) if dtype == np.float64 else narrowed
        new, after, info = program(TWO)(cast(pi), cast(state), cast(batch), KEY)
        want = np.mean([t["loss"] for t in run.trace])
        np.testing.assert_allclose(info["mcpo_loss"], want, rtol=tol)
        for got, adam in ((after.opt, run.adam), (after.blend.opt, run.phi_adam)):
            sign = 1 if adam is run.adam else -1
            np.testing.assert_allclose(
                sign * moment(got), adam.m, atol=tol * np.max(np.abs(adam.m))
            )
        assert vector(new).shape == run.theta.shape


def check(method, kind, run, new, state, tol=1e-9):
    """Everything that is kept, beside the reference."""
    m = len(run.memory)
    close = functools.partial(np.testing.assert_allclose, atol=tol, rtol=tol)
    close(vector(new), run.theta)
    close(state.psi, run.psi_old)
    if run.phi is not None:
        close(vector(state.blend.phi), run.phi)
    rows, born = state.memory.ordered()
    assert int(state.memory.filled) == m and int(state.step) == run.steps
    close(rows[:m], np.stack(run.memory))
    assert list(np.asarray(born)[:m]) == run.born and np.all(np.asarray(born)[m:] == -1)
    if isinstance(method.beta, AdaptiveBeta):
        close(state.beta, run.beta)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("as in the paper", "categorical"),
        ("as in the paper", "gaussian"),
        ("starts with theta_0", "gaussian"),
        ("half", "categorical"),
        ("mean", "gaussian"),
        ("mean", "categorical"),
        ("constant", "categorical"),
    ],
)
def test_two_updates_of_six_steps(x64, name, kind):
    """Everything that is kept, after each, and what is reported of them."""
    method = SETTINGS[name]
    pi, _, _ = setting(kind)
    state = begin(method, pi)
    run = reference(kind, method, pi, state)
    wrote = []
    for number in range(2):
        key = jax.random.key(number)
        batch = batch_of(kind, pi, seed=number)
        batch = dataclasses.replace(batch, progress=jnp.asarray(0.25 * (number + 1)))
        rows = order(batch, SIX, key)
        assert len({len(r) for r in rows}) > 1  # some have more rows that count than others
        anneal(run, method, 0.25 * (number + 1))
        run.trace = []
        run.update(rows_of(batch), rows, 0.25 * (number + 1))
        start = pi
        pi, state, info = program(method)(pi, state, batch, key)
        check(method, kind, run, pi, state)
        check_report(method, run, info)
        wrote += [t["wrote"] for t in run.trace]
        assert np.max(np.abs(vector(pi) - vector(start))) > 0.05
    if isinstance(method.writing, Diverse):
        assert True in wrote and (name != "as in the paper" or len(run.memory) == 4)


def check_report(method, run, info):
    """The report of an update beside the trace of its steps."""
    trace, N, steps = run.trace, method.memory_size, len(run.trace)
    close = functools.partial(np.testing.assert_allclose, atol=1e-9, rtol=1e-9)
    means = ("loss", "alpha", "alpha_spread", "beta", "kl_old_theta", "kl_old_psi", "kl_theta_psi")
    for name in (*means, "psi_gain", "attention_entropy"):
        close(info[f"mcpo_{name}"], np.mean([t[name] for t in trace]), err_msg=name)
    np.testing.assert_array_equal(info["mcpo_written"], [t["wrote"] for t in trace])
    assert int(info["mcpo_writes"]) == sum(t["wrote"] for t in trace)
    assert int(info["mcpo_filled"]) == len(run.memory)
    assert int(info["mcpo_step"]) == run.steps - steps
    query = min(10, steps)
    assert int(info["mcpo_query"]) == run.steps - steps + query
    asked = trace[query - 1]
    w = np.concatenate([asked["w"], np.zeros(N - len(asked["w"]))])
    close(info["mcpo_attention"], w)
    slot = int(np.argmax(w))
    assert int(info["mcpo_slot"]) == slot
    assert int(info["mcpo_attended"]) == asked["born"][slot]
    assert int(info["mcpo_age"]) == run.steps - steps + query - asked["born"][slot]


@pytest.mark.slow
def test_the_report_asks_the_tenth_step(x64):
    """Of twelve; and of an empty memory it says that nothing was attended."""
    sgd = dataclasses.replace(SIX, epochs=4)
    method = MCPO(memory_size=4, blend=Attention(dropout=0.0), sgd=sgd)
    pi, batch, data = setting("gaussian")
    state = begin(method, pi)
    run = reference("gaussian", method, pi, state)
    anneal(run, method, 0.25)
    run.update(data, order(batch, sgd), 0.25)
    _, _, info = program(method)(pi, state, batch, KEY)
    assert int(info["mcpo_query"]) == 10
    check_report(method, run, info)
    _, _, info = program(ONE)(pi, begin(ONE, pi), batch, KEY)
    assert int(info["mcpo_attended"]) == -1 and int(info["mcpo_query"]) == 1
    np.testing.assert_array_equal(info["mcpo_attention"], 0)
    assert float(info["mcpo_attention_entropy"]) == 0 and int(info["mcpo_step"]) == 0


# The nineteen properties.


@BOTH
def test_01_alpha_is_a_sigmoid_of_the_gain_of_psi(x64, kind):
    """Of the batch, of single rows through their weights, and where it saturates."""
    pi, batch, data = setting(kind)
    state = primed(ONE, pi, kind)
    _, after, info = program(ONE)(pi, state, batch, KEY)
    net, psi = net_of(kind), np.asarray(after.psi)
    A, tau = by_hand.advantages(data), np.exp(by_hand.log_ratios(net, psi, data))
    alpha = 1 / (1 + np.exp(-A * (tau - 1)))
    np.testing.assert_allclose(alpha, by_hand.virtual_alpha(net, psi, data), rtol=1e-12)
    np.testing.assert_allclose(info["mcpo_alpha"], alpha.mean(), rtol=1e-12)
    np.testing.assert_allclose(info["mcpo_alpha_spread"], alpha.std(), rtol=1e-11)
    assert np.all((alpha > 0.5) == (A * (tau - 1) > 0)) and np.all((alpha > 0) & (alpha < 1))
    for i in range(0, len(data), 4):  # one row alone
        row = int(np.flatnonzero(np.asarray(batch.mask))[i])
        only = dataclasses.replace(batch, mask=jnp.arange(18) == row)
        _, after, info = program(ONE)(pi, state, only, KEY)
        tau = np.exp(by_hand.log_ratios(net, np.asarray(after.psi), data[i : i + 1]))[0]
        want = 1 / (1 + np.exp(-A[i] * (tau - 1)))
        np.testing.assert_allclose(info["mcpo_alpha"], want, rtol=1e-12)
    for scale, low in ((1e6, 0.0), (0.0, 0.5)):
        scaled = dataclasses.replace(batch, advantage=scale * batch.advantage)
        _, _, info = program(ONE)(pi, state, scaled, KEY)
        assert low <= float(info["mcpo_alpha"]) <= 1
        assert scale > 0 or (float(info["mcpo_alpha"]), float(info["mcpo_alpha_spread"])) == (
            0.5,
            0,
        )


@BOTH
def test_02_attention_to_one_is_that_one(x64, kind):
    """Bit for bit, wherever it lies in the ring; and a memory of one is psi whatever phi."""
    pi, batch, _ = setting(kind)
    state = primed(ONE, pi, kind)
    rows = np.asarray(state.memory.ordered()[0])
    for slot in range(4):
        still = with_phi(state, jnp.zeros_like)
        bias = 1e4 * (jnp.arange(4) == slot)
        still = eqx.tree_at(lambda s: s.blend.phi[1].bias, still, bias)
        _, after, info = program(ONE)(pi, still, batch, KEY)
        np.testing.assert_array_equal(after.psi, rows[slot])
        np.testing.assert_array_equal(info["mcpo_attention"], np.arange(4) == slot)
        assert int(info["mcpo_slot"]) == slot and int(info["mcpo_attended"]) == 3 + 7 * slot
    for size in (0.0, 1.0, 50.0):
        alone = primed(ONE, pi, kind, count=1)
        alone = with_phi(alone, lambda x: size * x)  # noqa: B023
        _, after, _ = program(ONE)(pi, alone, batch, KEY)
        np.testing.assert_array_equal(after.psi, alone.memory.rows[0])


@BOTH
def test_03_a_memory_of_equals_is_that_policy(x64, kind):
    pi, batch, _ = setting(kind)
    (other,) = strangers(kind, 1)
    for count in (2, 3, 4):
        state = with_phi(holding(begin(ONE, pi), [other] * count), lambda x: 3 * x)
        _, after, _ = program(ONE)(pi, state, batch, KEY)
        np.testing.assert_allclose(after.psi, other, rtol=1e-14)


@BOTH
def test_04_weights_are_a_distribution_over_what_is_filled(x64, kind):
    """And without NaN where nothing is."""
    pi, batch, _ = setting(kind)
    for count in range(5):
        state = primed(ONE, pi, kind, count)
        new, after, info = program(ONE)(pi, state, batch, KEY)
        w = np.asarray(info["mcpo_attention"])
        assert np.all(w[:count] > 0) and np.all(w[count:] == 0)
        assert abs(w.sum() - (count > 0)) < 1e-6
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((new, after, info)))
        if count == 0:  # psi stays where it was
            np.testing.assert_array_equal(after.psi, state.psi)
            np.testing.assert_array_equal(vector(after.blend.phi), vector(state.blend.phi))


def test_04_the_masked_softmax():
    """In float32, with logits as large as they come."""
    softmax = jax.jit(masked_softmax)
    for logits in ([1.0, 2.0, 3.0, 9.0], [-1e4, -2e4, 0.0, 1e4], [3e38, -3e38, 0.0, 3e38]):
        for m in range(5):
            w = np.asarray(softmax(np.asarray(logits, np.float32), np.int32(m)))
            assert np.all(w >= 0) and np.all(w[m:] == 0) and abs(w.sum() - (m > 0)) < 1e-6
            if m:
                want = by_hand.softmax(np.asarray(logits[:m]))
                np.testing.assert_allclose(w[:m], want, atol=1e-6)


@BOTH
def test_05_psi_lies_in_the_box_of_the_memory(x64, kind):
    pi, batch, _ = setting(kind)
    for count in (2, 4):
        for size in (0.1, 1.0, 10.0):
            state = with_phi(primed(ONE, pi, kind, count), lambda x: size * x)  # noqa: B023
            rows = np.asarray(state.memory.ordered()[0])[:count]
            psi = np.asarray(program(ONE)(pi, state, batch, KEY)[1].psi)
            slack = 1e-14 * np.max(np.abs(rows))
            assert np.all(psi >= rows.min(axis=0) - slack)
            assert np.all(psi <= rows.max(axis=0) + slack)


@pytest.mark.parametrize("kind", KINDS)
def test_06_the_memory_is_a_queue(x64, kind):
    """After k pushes the last min(k, N) policies, in their order; refused pushes leave no trace.
    Through whole updates: `test_two_updates_of_six_steps`, "mean"."""
    pi, _, _ = setting(kind)
    theta = vector(pi) + 1e-9  # in float32 this would be lost
    assert np.any(theta != theta.astype(np.float32))
    for N in (1, 3):
        store, kept = Store.empty(N, pi), []
        for k in range(1, 14):
            when = k % 4 != 0
            store = push(store, k * theta, np.int32(k), np.bool_(when))
            kept = [*kept, k][-N:] if when else kept
            rows, born = (np.asarray(x) for x in store.ordered())
            m = int(store.filled)
            assert m == len(kept) <= N and rows.shape == (N, len(theta))
            assert list(born[:m]) == kept and np.all(born[m:] == -1)
            np.testing.assert_array_equal(rows[:m], [x * theta for x in kept])
            assert int(store.pushes) == k - k // 4
            w = jnp.arange(1.0, N + 1) * (jnp.arange(N) < m)
            np.testing.assert_allclose(store.by_place(w) @ store.rows, w @ rows, rtol=1e-14)


def test_07_beta_is_one_of_two_numbers(x64):
    """The tie and theta = theta_old give the smaller."""
    rule = SwitchingBeta(high=10.0, low=0.01)
    given = lambda *d: float(rule(*(jnp.asarray(x) for x in (rule.first, *d, 0.5))))
    for a, b, want in ((0.2, 0.1, 10), (0.1, 0.1, 0.01), (0.0, 0.0, 0.01), (0.1, 0.2, 0.01)):
        assert given(a, b) == want
    assert given(0.1001, 0.1) == 10 and given(np.nextafter(0.1, 1), 0.1) == 0.01  # rounding
    assert given(1e-12, 0.0) == 0.01 and given(1e-9, 0.0) == 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_07_beta_follows_the_distances_of_the_step(x64, kind):
    """The smaller at theta_old; then by which of the two is further."""
    pi, batch, data = setting(kind)
    for scale, second in ((4.0, 0.01), (1e-3, 10.0)):
        vectors = [vector(pi) + scale * (x - vector(pi)) for x in strangers(kind, 4)]
        state = holding(begin(TWO, pi), vectors)
        run = reference(kind, TWO, pi, state)
        run.update(data, order(batch, TWO.sgd), 0.25)
        assert [t["beta"] for t in run.trace] == [0.01, second]
        info = program(TWO)(pi, state, batch, KEY)[2]
        np.testing.assert_allclose(info["mcpo_beta"], (0.01 + second) / 2, rtol=1e-12)
        assert float(program(ONE)(pi, state, batch, KEY)[2]["mcpo_beta"]) == 0.01


STILL = dataclasses.replace(
    ONE, alpha=0.0, beta=ConstantBeta(0.7), blend=Attention(hidden=5, dropout=0.0)
)
"""A step that does not depend on psi."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_08_a_tie_is_not_written(x64, kind):
    """Where theta stays theta_old, and where it comes to lie on psi; elsewhere it is written."""
    pi, batch, _ = setting(kind)
    far = strangers(kind, 3)
    state = holding(begin(STILL, pi), far)
    new, after, info = program(STILL)(pi, state, batch, KEY)
    net, psi, data = net_of(kind), np.asarray(after.psi), setting(kind)[2]
    gap = by_hand.distance(net, vector(new), psi, data)
    gap -= by_hand.distance(net, vector(pi), psi, data)
    assert bool(info["mcpo_written"][0]) == (gap > 0)
    state = holding(begin(STILL, pi), [vector(new)])  # theta_new = psi
    again, after, info = program(STILL)(pi, state, batch, KEY)
    assert tiny.same(again, new) and float(info["mcpo_kl_theta_psi"]) == 0
    assert not bool(info["mcpo_written"][0]) and int(after.memory.filled) == 1
    state = holding(begin(STILL, pi), [vector(pi)])  # psi = theta_old: any step is further away
    _, after, info = program(STILL)(pi, state, batch, KEY)
    assert bool(info["mcpo_written"][0]) and int(after.memory.filled) == 2
    np.testing.assert_array_equal(after.memory.rows[1], vector(new))
    flat = dataclasses.replace(batch, advantage=jnp.zeros(18))  # theta_new = theta_old
    new, after, info = program(STILL)(pi, holding(begin(STILL, pi), far), flat, KEY)
    assert tiny.same(new, pi) and not bool(info["mcpo_written"][0])
    assert int(after.memory.filled) == 3 and float(info["mcpo_kl_old_psi"]) > 1e-3


@BOTH
def test_09_theta_and_phi_have_a_loss_each_and_the_rest_is_data(x64, kind):
    """Gradients with every stop in its place; without one of them they would be others."""
    pi, batch, data = setting(kind)
    state = primed(ONE, pi, kind)
    run = reference(kind, ONE, pi, state)
    net, phi, old = net_of(kind), run.phi, vector(pi)
    run.update(data, order(batch, ONE.sgd), 0.25)
    told = run.trace[0]
    _, after, _ = program(ONE)(pi, state, batch, KEY)
    by_theta, by_phi = slopes(after)
    np.testing.assert_allclose(by_theta, told["g"], atol=1e-12)
    again = reference(kind, ONE, pi, state)
    psi_of = lambda p: again.virtual(p, told["v"])[0]
    own = complex_step(lambda p: by_hand.loss_phi(net, psi_of(p), data), phi)
    np.testing.assert_allclose(by_phi, own, atol=1e-12)
    # L1 would have a gradient in phi, through alpha and through the second KL.
    A, beta = by_hand.advantages(data), told["beta"]

    def others(p):
        psi = psi_of(p)
        x = A * (np.exp(by_hand.log_ratios(net, psi, data)) - 1)
        kls = np.array([first_order.kl(net, psi, old, row[0]) for row in data])
        return np.mean(kls / (1 + np.exp(-x)))

    assert np.max(np.abs(beta * complex_step(others, phi))) > 1e-6 * np.max(np.abs(own))

    # L2 would have one in theta through the context.
    def through_context(t):
        parts = told["v"].astype(complex)
        parts[5] = np.mean(np.exp(by_hand.log_ratios(net, t, data)) * A)
        return by_hand.loss_phi(net, again.virtual(phi, parts)[0], data)

    assert np.max(np.abs(complex_step(through_context, old))) > 1e-5


@BOTH
def test_10_slopes_of_weights_and_logits(x64, kind):
    """The last bias of phi is added to the logits, so its gradient is theirs: w_i <g, theta_i -
    psi>, by age; that of a weight is <g, theta_i>. The reference's are of -L2."""
    pi, batch, data = setting(kind)
    state = primed(ONE, pi, kind)
    _, after, info = program(ONE)(pi, state, batch, KEY)
    psi, w = np.asarray(after.psi), np.asarray(info["mcpo_attention"])
    rows = np.asarray(state.memory.ordered()[0])
    net = net_of(kind)
    g = by_hand.slope_psi(net, psi, data)
    by_logit = np.array([w[i] * (g @ (rows[i] - psi)) for i in range(4)])
    np.testing.assert_allclose(slopes(after)[1][-4:], by_logit, atol=1e-12)
    assert np.max(np.abs(by_logit)) > 1e-3
    unravel = ravel_pytree(pi)[1]
    by_weight = -virtual(state.memory, info["mcpo_attention"], state.psi, unravel, batch).slope
    np.testing.assert_allclose(by_weight, rows @ g, atol=1e-12)
    by_step = complex_step(lambda x: by_hand.loss_phi(net, x @ rows, data), w)
    np.testing.assert_allclose(by_weight, by_step, atol=1e-10)
    assert np.min(np.abs(by_weight)) > 1e-3


@BOTH
def test_11_at_the_old_policy_only_the_virtual_region_pulls(x64, kind):
    pi, batch, data = setting(kind)
    state = primed(ONE, pi, kind)
    _, after, info = program(ONE)(pi, state, batch, KEY)
    net, old, psi = net_of(kind), vector(pi), np.asarray(after.psi)
    assert float(info["mcpo_kl_old_theta"]) == 0
    alpha = by_hand.virtual_alpha(net, psi, data)
    pull = [a * kl_slope(net, psi, old, r[0], False) for a, r in zip(alpha, data, strict=True)]
    want = -natural.gradient(net, old, [r[:4] for r in data]) + 0.01 * np.mean(pull, axis=0)
    np.testing.assert_allclose(slopes(after)[0], want, atol=1e-12)
    assert 0.01 * np.max(np.abs(np.mean(pull, axis=0))) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_12_where_psi_is_the_old_policy_alpha_means_nothing(x64, kind):
    """By the returns it is a half everywhere, and L2 the mean advantage; L1 is that of PPO-KL also
    with 0 and with 1."""
    pi, batch, _ = setting(kind)
    rule = {"beta": ConstantBeta(0.7), "writing": EveryStep(1000)}
    learnt = dataclasses.replace(TWO, **rule)
    state = holding(begin(learnt, pi), [vector(pi)])
    new, after, info = program(learnt)(pi, state, batch, KEY)
    np.testing.assert_array_equal(after.psi, vector(pi))
    assert float(info["mcpo_alpha"]) == 0.5 and float(info["mcpo_alpha_spread"]) == 0
    np.testing.assert_allclose(info["mcpo_psi_gain"], 0, atol=1e-15)
    assert float(info["mcpo_kl_old_psi"]) == 0
    assert float(info["mcpo_kl_old_theta"]) > 1e-4
    none = PPOKL(beta_init=0.7, rule=FactorRule(down=1, up=1), sgd=TWO.sgd)
    plain, _, told = jax.jit(none.update)(pi, none.init(pi, KEY), batch, KEY)
    for alpha in (0.5, 0.0, 1.0):
        if alpha != 0.5:
            fixed = dataclasses.replace(learnt, alpha=alpha)
            new, after, info = program(fixed)(pi, state, batch, KEY)
            assert float(info["mcpo_alpha"]) == alpha
        assert tiny.distance(new, plain) < 1e-12
        np.testing.assert_allclose(info["mcpo_loss"], told["ppo_kl_loss"], rtol=1e-12)
        np.testing.assert_allclose(slopes(after)[1], 0, atol=1e-12)  # one policy: no choice


def chain(method, kind, dtype, penalty=no_penalty, policy=None):
    """Two updates, the second on what the first left; the policies, Adam's states, what beta was,
    and the losses."""
    pi = tiny.policy(kind, dtype=dtype) if policy is None else policy
    state, out = method.init(pi, KEY), []
    run = jax.jit(functools.partial(method.update, penalty=penalty))
    for seed in range(2):
        pi, state, info = run(pi, state, batch_of(kind, pi, seed), jax.random.key(seed))
        (loss,) = [v for k, v in info.items() if k.endswith("_loss")]
        out.append((pi, state.opt, state.beta, loss))
    return out


FIXED = FactorRule(down=1, up=1)
PAIRS = {
    "constant": (ConstantBeta(0.7), {"beta_init": 0.7, "rule": FIXED}),
    "adaptive": (AdaptiveBeta(start=2.0, target_kl=1.0), {"beta_init": 2.0, "target_kl": 1.0}),
}
"""A rule of beta, and PPO-KL's own settings for the same."""


def twins(kind, pair, dtype):
    """MCPO without psi and PPO-KL: two updates of each."""
    rule, other = PAIRS[pair]
    ours = chain(MCPO(memory_size=3, alpha=0.0, beta=rule, sgd=SIX), kind, dtype)
    return ours, chain(PPOKL(sgd=SIX, **other), kind, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_13_without_psi_it_is_ppo_with_a_kl_penalty(x64, kind, pair):
    """Bit for bit, in float32 and in float64; attention, its dropout and the memory go on beside it
    and count for nothing."""
    for dtype in (np.float32, np.float64):
        ours, plain = twins(kind, pair, dtype)
        assert tiny.same(ours, plain)
        assert float(plain[1][2]) == np.asarray({"constant": 0.7, "adaptive": 0.5}[pair], dtype)


OPTIMISED = """
import jax
import numpy as np

jax.config.update("jax_enable_x64", True)
import test_mcpo
import tiny

f32, f64 = np.float32, np.float64
for kind, dtype in (("gaussian", f32), ("gaussian", f64), ("categorical", f32)):
    assert tiny.same(*test_mcpo.twins(kind, "constant", dtype)), (kind, dtype)
"""


@pytest.mark.slow
def test_13_also_as_users_compile_it(request):
    """With the compiler's own flags, which contract products with sums, where those of the tests do
    not."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    cache = Path(request.config.rootpath) / ".pytest_cache" / "jax-optimised"
    env |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": str(Path(__file__).parent)}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", OPTIMISED], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_13_without_psi_attention_does_not_move_theta(x64, kind):
    """Another phi, or another memory and psi: the same bits of theta and of its optimiser, while
    psi is another. With an alpha above 0, or with a beta by psi, theta is another too."""
    pi, batch, _ = setting(kind)
    for fields, same in (
        ({"alpha": 0.0, "beta": ConstantBeta(0.7)}, True),
        ({"alpha": None, "beta": ConstantBeta(0.7)}, False),
        ({"alpha": 0.0, "beta": SwitchingBeta()}, False),
    ):
        method = dataclasses.replace(SETTINGS["as in the paper"], **fields)
        state = primed(method, pi, kind)
        near = [vector(pi) + 1e-2 * (x - vector(pi)) for x in strangers(kind, 3, seed=1)]
        new, after, _ = program(method)(pi, state, batch, KEY)
        moved = []
        for other in (with_phi(state, lambda x: -3 * x), holding(state, near, psi=near[0])):
            again, left, _ = program(method)(pi, other, batch, KEY)
            assert np.max(np.abs(left.psi - after.psi)) > 1e-3
            moved.append(not tiny.same((again, left.opt), (new, after.opt)))
        assert moved == [False, False] if same else any(moved)


class KeepsTheDistance(ConstantBeta):
    """A rule that keeps what it is told after an update."""

    def after(self, kept, d):
        return d


@pytest.mark.slow
def test_13_adaptive_beta_follows_the_kl_of_the_whole_batch(x64):
    """That of the policy the update ends at, not of a minibatch before a step; by PPO's factors."""
    pi, batch, data = setting("gaussian")
    method = dataclasses.replace(SETTINGS["mean"], beta=KeepsTheDistance(0.7))
    new, state, _ = program(method)(pi, begin(method, pi), batch, KEY)
    d = by_hand.distance(net_of("gaussian"), vector(pi), vector(new), data)
    np.testing.assert_allclose(state.beta, d, rtol=1e-10)
    rule = AdaptiveBeta(start=3.0, target_kl=0.1)
    for share, factor in ((1.51, 2.0), (1.49, 1.0), (1 / 1.49, 1.0), (1 / 1.51, 0.5)):
        after = rule.after(jnp.asarray(rule.first), jnp.asarray(0.1 * share))
        assert float(after) == 3.0 * factor == by_hand.follow(3.0, 0.1 * share, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_14_equal_logits_are_the_mean(x64, kind):
    pi, batch, _ = setting(kind)
    mean = dataclasses.replace(ONE, blend=MeanBlend())
    for count in (1, 3, 4):
        state = with_phi(primed(ONE, pi, kind, count), jnp.zeros_like)
        new, after, info = program(ONE)(pi, state, batch, KEY)
        plain = eqx.tree_at(lambda s: s.blend, state, ())
        same, left, told = program(mean)(pi, plain, batch, KEY)
        np.testing.assert_allclose(after.psi, left.psi, atol=1e-15)
        assert tiny.distance(new, same) < 1e-12
        np.testing.assert_allclose(told["mcpo_attention"][:count], 1 / count, rtol=1e-15)
        np.testing.assert_allclose(
            info["mcpo_attention_entropy"], np.log(count), rtol=1e-12, atol=1e-15
        )


def values_of(policy, vectors, obs):
    """Distributions and values of parameter vectors, in NumPy."""
    unravel = ravel_pytree(policy)[1]
    policies = [unravel(jnp.asarray(x)) for x in vectors]
    return [p(obs) for p in policies], [np.asarray(p.value(obs)) for p in policies]


def context_in_numpy(kind, dists, values, batch):
    """The context from distributions and values of theta, theta_old and psi_old."""
    keep = np.asarray(batch.mask)
    mean = lambda x: np.mean(np.asarray(x)[keep])
    theta, old, psi = dists
    V = dict(zip(("theta", "old", "psi"), values, strict=True))
    ratio = lambda d: np.exp(np.asarray(d.log_prob(batch.action) - batch.log_prob))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(
            [
                mean(tiny.textbook_kl(kind, theta, psi)),
                mean(tiny.textbook_kl(kind, old, psi)),
                mean(tiny.textbook_kl(kind, old, theta)),
                *(mean(ratio(d) * np.asarray(batch.advantage)) for d in (psi, old, theta)),
                *(mean(d.entropy()) for d in (psi, old, theta)),
                *(
                    mean((V[n] - np.asarray(batch.value_target)) ** 2)
                    for n in ("psi", "old", "theta")
                ),
            ]
        )


@functools.lru_cache
def shared(kind):
    """A policy with a value head on its first layer, a batch of its own values, and other parameter
    vectors."""
    pi = tiny.networks(kind, shared_layers=1).init(tiny.spec(kind), 0)[0]
    pi = tiny.cast(pi, np.float64)
    assert isinstance(pi, ActorCritic)
    batch = tiny.batch(kind, pi, rows=18, masked=3)
    batch = dataclasses.replace(batch, value=pi.value(batch.obs))
    rng = np.random.default_rng(3)
    far = [vector(pi) + FAR[kind] * rng.normal(size=len(vector(pi))) for _ in range(5)]
    return pi, tiny.rubbish(batch, 1e3), far


@BOTH
def test_15_the_context_and_its_beginning(x64, kind):
    """Against the reference; at the start distances are nothing, and returns, entropies and value
    losses the same."""
    pi, batch, data = setting(kind)
    unravel = ravel_pytree(pi)[1]
    theta, psi = strangers(kind, 2)
    see = lambda x: view(unravel(jnp.asarray(x)), batch)
    want = by_hand.context(net_of(kind), theta, vector(pi), psi, data)
    np.testing.assert_allclose(context(see(theta), see(psi), batch), want, rtol=1e-10)
    assert len({float(x) for x in want[:9]}) == 9
    v = np.asarray(context(see(vector(pi)), see(vector(pi)), batch))
    np.testing.assert_array_equal(v[:3], 0)
    for part in (v[3:6], v[6:9], v[9:]):
        np.testing.assert_allclose(part, part[0], rtol=1e-14)
    pi, batch, far = shared(kind)
    see = lambda x: view(ravel_pytree(pi)[1](jnp.asarray(x)), batch)
    v = np.asarray(context(see(vector(pi)), see(vector(pi)), batch))
    np.testing.assert_allclose(v[9:], v[9], rtol=1e-14)
    v = np.asarray(context(see(far[0]), see(far[1]), batch))
    dists, values = values_of(pi, (far[0], vector(pi), far[1]), batch.obs)
    np.testing.assert_allclose(v, context_in_numpy(kind, dists, values, batch), rtol=1e-10)
    assert len({float(x) for x in v}) == 12
    slope = jax.grad(lambda x: jnp.sum(context(see(x), see(x), batch)))(jnp.asarray(far[0]))
    np.testing.assert_array_equal(slope, 0)


@BOTH
def test_16_psi_is_kept_and_the_old_policy_stays(x64, kind):
    """psi_old after a step is the psi of that step, of the memory and the network before it; the
    second step still measures from the policy that acted."""
    pi, batch, _ = setting(kind)
    state = primed(ONE, pi, kind)
    _, after, info = program(ONE)(pi, state, batch, KEY)
    rows = np.asarray(state.memory.ordered()[0])
    np.testing.assert_allclose(after.psi, np.asarray(info["mcpo_attention"]) @ rows, rtol=1e-13)
    unravel = ravel_pytree(pi)[1]
    v = context(view(pi, batch), view(unravel(state.psi), batch), batch)
    attention = by_hand.Attention(12, 5, 4)
    w = by_hand.softmax(attention.logits(vector(state.blend.phi), np.asarray(v)))
    np.testing.assert_allclose(info["mcpo_attention"], w, rtol=1e-12)
    pi, batch, state, run = two_steps(kind)
    _, after, info = program(TWO)(pi, state, batch, KEY)
    moved = run.trace[1]["kl_old_theta"]
    np.testing.assert_allclose(2 * info["mcpo_kl_old_theta"], moved, rtol=1e-9)
    assert moved > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_17_writing_at_fixed_intervals(x64, kind):
    """Every step; every tenth and every hundredth of the run, across updates."""
    pi, batch, _ = setting(kind)
    for steps, start in ((1, 0), (10, 6), (100, 96)):
        method = dataclasses.replace(
            SETTINGS["as in the paper"], writing=EveryStep(steps), blend=MeanBlend()
        )
        state = holding(begin(method, pi), [], step=start)
        _, after, info = program(method)(pi, state, batch, KEY)
        numbers = np.arange(start + 1, start + 7)
        want = numbers % steps == 0
        np.testing.assert_array_equal(info["mcpo_written"], want)
        kept = list(numbers[want])[-4:]
        assert list(np.asarray(after.memory.ordered()[1]))[: len(kept)] == kept
        assert int(after.memory.pushes) == int(info["mcpo_writes"]) == sum(want)


def test_17_rules_of_writing():
    """Intervals know nothing of distances, and the paper's rule nothing of the number."""
    for rule in (EveryStep(1), EveryStep(3), Diverse()):
        for step in range(1, 8):
            further, tie, nearer = (
                bool(rule(jnp.asarray(x), jnp.asarray(0.2), jnp.asarray(step)))
                for x in (0.3, 0.2, 0.1)
            )
            if isinstance(rule, Diverse):
                assert (further, tie, nearer) == (True, False, False)
            else:
                assert further == tie == nearer == (step % rule.steps == 0)


@pytest.mark.slow
def test_18_closed_forms_of_the_kl(x64):
    """Nothing of itself, never negative, a sum over dimensions, and the mean log-ratio of samples
    (six deviations)."""
    rng = np.random.default_rng(0)
    p = DiagGaussian(
        jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(0.3 * rng.normal(size=(5, 3)))
    )
    q = DiagGaussian(
        jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(0.3 * rng.normal(size=(5, 3)))
    )
    each = [
        DiagGaussian(p.mean[:, i : i + 1], p.log_std[:, i : i + 1]).kl(
            DiagGaussian(q.mean[:, i : i + 1], q.log_std[:, i : i + 1])
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(p.kl(q), sum(each), rtol=1e-12)
    for kind in KINDS:
        pi, batch, _ = setting(kind)
        unravel = ravel_pytree(pi)[1]
        p, q = (unravel(jnp.asarray(x))(batch.obs[:1]) for x in strangers(kind, 2))
        np.testing.assert_array_equal(p.kl(p), 0)
        assert float(p.kl(q)[0]) > 0.01
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (40_000, *x.shape[1:])), (p, q))
        a = many[0].sample(KEY)
        gaps = np.asarray(many[0].log_prob(a) - many[1].log_prob(a))
        assert abs(gaps.mean() - float(p.kl(q)[0])) < 6 * gaps.std() / 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_19_parameter_updates_of_an_iteration(x64, kind):
    """Epochs times minibatches, the rest of the rows left out; the counts of both Adams and of the
    run agree."""
    pi, batch, _ = setting(kind)
    short = batch.take(jnp.arange(17))  # minibatches of 5, two rows left out of an epoch
    method = SETTINGS["as in the paper"]
    state = begin(method, pi)
    for update in (1, 2):
        _, state, info = program(method)(pi, state, short, KEY)
        for opt in (state.opt, state.blend.opt):
            (count,) = [int(s.count) for s in opt if hasattr(s, "mu")]
            assert count == 6 * update
        assert int(state.step) == 6 * update and info["mcpo_written"].shape == (6,)
        assert int(info["mcpo_step"]) == 6 * (update - 1)


# Policies with a value head.


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_head_is_stored_and_blended(x64, kind):
    """Its losses are in the context, those of psi_old by psi_old's own head; the penalty is theta's
    alone."""
    pi, batch, far = shared(kind)
    *vectors, psi_old = far
    penalty = lambda p, mb: SharedValue(coef=0.5).penalty(p, mb) + EntropyBonus(0.1)(p, mb)
    run = jax.jit(functools.partial(ONE.update, penalty=penalty))
    state = with_phi(holding(begin(ONE, pi), vectors, psi=psi_old), lambda x: 2 * x)
    assert state.memory.ordered()[0].shape == (4, len(vector(pi)))
    new, after, info = run(pi, state, batch, KEY)
    dists, values = values_of(pi, (vector(pi), vector(pi), psi_old), batch.obs)
    v = context_in_numpy(kind, dists, values, batch)
    assert abs(v[9] - v[10]) > 1e-2 and abs(v[10] - v[11]) < 1e-12
    logits = by_hand.Attention(12, 5, 4).logits(vector(state.blend.phi), v)
    np.testing.assert_allclose(info["mcpo_attention"], by_hand.softmax(logits), rtol=1e-10)
    np.testing.assert_allclose(after.psi, by_hand.softmax(logits) @ np.stack(vectors), rtol=1e-10)
    b = batch.take(jnp.flatnonzero(batch.mask))
    psi, A = ravel_pytree(pi)[1](after.psi)(b.obs), b.advantage
    alpha = jax.nn.sigmoid(A * (jnp.exp(psi.log_prob(b.action) - b.log_prob) - 1))

    def loss(p):
        d = p(b.obs)
        r = jnp.exp(d.log_prob(b.action) - b.log_prob)
        kl = (1 - alpha) * b.old.kl(d) + alpha * psi.kl(d)
        return penalty(p, b) - jnp.mean(r * A - 0.01 * kl)

    want = vector(jax.grad(loss)(pi))
    np.testing.assert_allclose(slopes(after)[0], want, atol=1e-12)
    np.testing.assert_allclose(info["mcpo_loss"], loss(pi), rtol=1e-10)
    with_penalty = slopes(after)[1]
    without = slopes(program(ONE)(pi, state, batch, KEY)[1])[1]
    np.testing.assert_allclose(with_penalty, without, atol=1e-14)
    critic = lambda p: vector(p.critic)
    assert np.max(np.abs(critic(new) - critic(pi))) > 1e-3


@pytest.mark.parametrize("fields", [{"joint": True}, {"shared_layers": 1}, {}])
def test_what_gradients_need_is_in_front(x64, fields):
    """The distributions depend on the first piece of a stored policy and on nothing behind it, and
    the slope of L2 in the weights is that of the whole."""
    pi = tiny.policy("gaussian", dtype=np.float64, **fields)
    theta, unravel = ravel_pytree(pi)
    at = prefix(pi)
    assert (at < len(theta)) == ("joint" in fields)  # the others have less than a line behind
    store, rng = Store.empty(3, pi), np.random.default_rng(0)
    rows = jnp.stack([theta + 0.1 * rng.normal(size=len(theta)) for _ in range(2)])
    for n, x in enumerate(rows):
        store = push(store, x, np.int32(n), np.bool_(True))
    assert store.head.shape[1] == at and tiny.same(store.ordered()[0][:2], rows)
    batch = tiny.batch("gaussian", pi, rows=18, masked=3)
    w = jnp.asarray([0.3, 0.7, 0.0])

    def L2(w):
        tau = near_ratio(unravel(w[:2] @ rows)(batch.obs), batch)
        return batch.mean(tau * batch.advantage)

    found = virtual(store, w, theta, unravel, batch)
    np.testing.assert_allclose(found.slope, jax.grad(L2)(w), rtol=1e-9, atol=1e-14)
    assert np.min(np.abs(found.slope[:2])) > 1e-6
    behind = unravel(theta + (jnp.arange(len(theta)) >= at))
    assert tiny.same(behind(batch.obs), pi(batch.obs))


@pytest.mark.slow
def test_13_also_with_shared_layers(x64):
    """The penalty enters as it does in PPO-KL, bit for bit."""
    pi, _, _ = shared("gaussian")
    pi = narrowed(pi)
    pay = SharedValue(coef=0.5).penalty
    plain = chain(PPOKL(beta_init=0.7, rule=FIXED, sgd=SIX), "gaussian", None, pay, pi)
    rule = ConstantBeta(0.7)
    ours = chain(MCPO(memory_size=3, alpha=0.0, beta=rule, sgd=SIX), "gaussian", None, pay, pi)
    assert tiny.same(ours, plain)


# Dropout, transforms, beginnings, refusals.


@pytest.mark.slow
def test_dropout_draws_from_a_key_of_its_own(x64):
    """The units of each step are those of fold_in(fold_in(key, 1), step), twice as loud; another
    key drops others."""
    method = dataclasses.replace(
        SETTINGS["as in the paper"], blend=Attention(hidden=6, dropout=0.5), writing=EveryStep(1)
    )
    pi, batch, data = setting("gaussian")
    state = primed(method, pi, "gaussian")
    run = reference("gaussian", method, pi, state)
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, 1), 40 + i) for i in range(6)]
    keeps = [2.0 * np.asarray(jax.random.bernoulli(k, 0.5, (6,))) for k in keys]
    assert len({tuple(k) for k in keeps}) > 1
    anneal(run, method, 0.25)
    run.update(data, order(batch, SIX), 0.25, keeps)
    new, after, info = program(method)(pi, state, batch, KEY)
    check(method, "gaussian", run, new, after)
    check_report(method, run, info)
    none = dataclasses.replace(method, blend=Attention(hidden=6, dropout=0.0))
    assert tiny.distance(program(none)(pi, state, batch, KEY)[0], new) > 1e-6


def test_standardised_contexts(x64):
    """By the mean and the variance of all contexts seen, this one included; the first is nothing
    but zeros."""
    blend = Attention(hidden=5, dropout=0.0, transform="standardise")
    state = blend.init(4, KEY, jnp.float64)
    seen = []
    store, rng = Store.empty(4, jnp.zeros(2)), np.random.default_rng(0)
    prepare = jax.jit(blend.prepare)
    move = jax.jit(lambda s, v: blend.move(s, jnp.zeros(4), v, store, None, Rate(0.1, 1.0, 1e-5)))
    for _ in range(4):
        v = 10.0 ** rng.normal(size=12) * rng.normal(size=12)
        seen.append(v)
        want = (v - np.mean(seen, axis=0)) / np.sqrt(np.var(seen, axis=0) + 1e-8)
        np.testing.assert_allclose(prepare(state, v), want, rtol=1e-6, atol=1e-9)
        state = move(state, v)


@pytest.mark.slow
def test_both_beginnings(x64):
    """An empty memory, or one of theta_0; the first minibatch is the same, theta_0 has a slot
    later."""
    pi, batch, _ = setting("gaussian")
    both = [
        dataclasses.replace(SETTINGS["as in the paper"], first_policy=first)
        for first in (False, True)
    ]
    states = [begin(m, pi) for m in both]
    assert [int(s.memory.filled) for s in states] == [0, 1]
    np.testing.assert_array_equal(states[1].memory.rows[0], vector(pi))
    assert [int(s.memory.born[0]) for s in states] == [-1, 0]
    for s in states:
        np.testing.assert_array_equal(s.psi, vector(pi))
        assert int(s.step) == 0
    first = [
        program(dataclasses.replace(ONE, first_policy=f))(
            pi, begin(dataclasses.replace(ONE, first_policy=f), pi), batch, KEY
        )
        for f in (False, True)
    ]
    assert tiny.same(first[0][0], first[1][0])
    assert [int(f[1].memory.filled) for f in first] == [1, 2]
    np.testing.assert_array_equal(first[0][1].psi, first[1][1].psi)


def test_the_first_network(x64):
    """Weights and biases uniform within 1/sqrt(inputs); widths as told."""
    for blend, shapes in (
        (Attention(), [(12, 40), (40,), (40, 40), (40,)]),
        (Attention(hidden=7, half_context=True), [(6, 7), (7,), (7, 40), (40,)]),
    ):
        state = blend.init(40, KEY, jnp.float64)
        leaves = jax.tree.leaves(state.phi)
        assert [x.shape for x in leaves] == shapes
        for x, n in zip(leaves, [shapes[0][0]] * 2 + [shapes[2][0]] * 2, strict=True):
            assert float(jnp.max(jnp.abs(x))) < n**-0.5 and len(np.unique(x)) == x.size
            assert x.size < 100 or abs(float(jnp.std(x)) * (3 * n) ** 0.5 - 1) < 0.2


@pytest.mark.slow
def test_the_memory_keeps_what_theta_was(x64):
    """Not the parameters that move on: with a write every step the slots are the path of theta, one
    policy a step, and later updates leave them alone."""
    method = dataclasses.replace(
        SETTINGS["as in the paper"], memory_size=12, writing=EveryStep(1), blend=MeanBlend()
    )
    pi, batch, data = setting("gaussian")
    state = begin(method, pi)
    run = reference("gaussian", method, pi, state)
    anneal(run, method, 0.25)
    run.update(data, order(batch, SIX), 0.25)
    new, after, _ = program(method)(pi, state, batch, KEY)
    rows = np.asarray(after.memory.rows)
    np.testing.assert_allclose(rows[:6], run.memory, atol=1e-9)
    np.testing.assert_array_equal(rows[5], vector(new))
    assert all(np.max(np.abs(a - b)) > 1e-3 for a, b in itertools.pairwise(rows[:6]))
    kept = rows.copy()
    _, later, _ = program(method)(new, after, batch_of("gaussian", new, 2), KEY)
    np.testing.assert_array_equal(np.asarray(later.memory.rows)[:6], kept[:6])
    np.testing.assert_array_equal(after.memory.rows, kept)


def test_refusals():
    for record, fields, name in (
        (MCPO, {"memory_size": 0}, "memory_size"),
        (MCPO, {"alpha": 1.5}, "alpha"),
        (MCPO, {"alpha": -0.1}, "alpha"),
        (Attention, {"hidden": 0}, "hidden"),
        (Attention, {"dropout": 1.0}, "dropout"),
        (Attention, {"max_grad_norm": 0.0}, "max_grad_norm"),
        (EveryStep, {"steps": 0}, "steps"),
        (SwitchingBeta, {"high": 0.1, "low": 0.2}, "high"),
        (AnnealedBeta, {"t_min": 0.0}, "t_min"),
        (AdaptiveBeta, {"target_kl": 0.0}, "target_kl"),
        (ConstantBeta, {"value": -1.0}, "value"),
    ):
        with pytest.raises(UsageError, match=rf"{record.__name__}\.{name} is"):
            record(**fields)


# Wrapped.


@pytest.mark.slow
def test_a_fixup_round_it_keeps_the_bound():
    """In float64 over every state, on updates that would leave it far behind."""
    inner = dataclasses.replace(SETTINGS["as in the paper"], beta=ConstantBeta(0.01))
    held = Fixup(inner, max_kl=0.02)
    run = jax.jit(held.update)
    pi = tiny.policy("gaussian")
    state, walked = held.init(pi, KEY), []
    for seed in range(4):
        batch = tiny.batch("gaussian", pi, seed=seed, masked=3)
        new, state, info = run(pi, state, batch, jax.random.key(seed))
        p, q = (
            jax.tree.map(lambda x: np.asarray(x, np.float64), x)
            for x in (pi(batch.obs), new(batch.obs))
        )
        kl = tiny.textbook_kl("gaussian", p, q)[np.asarray(batch.mask)]
        assert kl.max() <= 0.02 and tiny.distance(new, pi) > 1e-4
        walked.append(float(info["fixup_scale"]))
        pi = new
    assert min(walked) < 1 and int(state.step) == 24
