# ruff: noqa: E731 (a lambda reads like the formula)
"""FixPO: against the algorithm by hand, and the properties of mcpo_fixpo.md B.10, by their
numbers."""

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
from reference.fixup import FixPO as ByHand
from reference.network import Net
from reference.proximal import Adam
from surefoot import Agent, train
from surefoot.checks import UsageError
from surefoot.divergences import KLNewOld, KLOldNew, MeanState, WorstState
from surefoot.methods.fixpo import FixPO
from surefoot.methods.ppo import PPO
from surefoot.networks import Networks
from surefoot.sgd import SGD, shuffles
from surefoot.train import Algorithm
from surefoot.types import no_penalty
from surefoot.value import SharedValue

KEY = jax.random.key(0)
SMALL = SGD(lr=0.05, epochs=2, minibatches=2, max_grad_norm=0.5, adam_eps=1e-8)
BASE = FixPO(max_kl=0.05, beta_lr=0.3, fixup_minibatches=3, sgd=SMALL)
OFF = dataclasses.replace(BASE, fixup=False)
LAST = dataclasses.replace(BASE, fixup_every_epoch=False)
MEAN = dataclasses.replace(BASE, statistic=MeanState())
WALK = dataclasses.replace(BASE, max_sweeps=0)
FEW = dataclasses.replace(BASE, max_sweeps=4)


@functools.lru_cache
def compiled(method):
    """An update whose numbers may be changed without compiling again."""

    def run(policy, state, batch, key, lr, numbers):
        sgd = dataclasses.replace(method.sgd, lr=lr)
        changed = dataclasses.replace(method, sgd=sgd, **numbers)
        return changed.update(policy, state, batch, key)

    return jax.jit(run)


def run(method, pi, batch, state=None, key=KEY, lr=SMALL.lr, **numbers):
    """One compiled update."""
    state = method.init(pi, key) if state is None else state
    return compiled(method)(pi, state, batch, key, lr, numbers)


def setting(kind="gaussian", seed=0, dtype=np.float32, masked=0):
    """A policy and a batch under it, of 17 rows: neither minibatches nor chunks divide them."""
    pi = tiny.policy(kind, seed=seed, dtype=dtype)
    return pi, tiny.batch(kind, pi, seed=seed + 1, rows=17, masked=masked)


def kls(old, new, batch, reverse=False):
    """The KL of every row."""
    p, q = (new, old) if reverse else (old, new)
    return np.asarray(jax.jit(lambda p, q: p(batch.obs).kl(q(batch.obs)))(p, q))


def stepped(beta, lr, **numbers):
    """Where `tune` takes a fresh multiplier at a KL, and the method."""
    method = dataclasses.replace(BASE, beta_init=beta, beta_lr=lr, **numbers)
    state = method.init({"x": jnp.ones(3)}, KEY)
    return method, lambda kl: method.tune(state, jnp.asarray(kl))[0]


# Against the algorithm by hand.


CASES = {
    "worst": {},
    "mean": {"statistic": MeanState()},
    "reverse": {"divergence": KLNewOld()},
    "last epoch": {"fixup_every_epoch": False},
}


def check(kind, case):
    """Two updates, the second with the state of the first, step by step as by hand."""
    method = dataclasses.replace(BASE, max_kl=0.02, **CASES[case])
    pi, _ = setting(kind, dtype=np.float64)
    net = Net(kind, tiny.OBS, tiny.HIDDEN, tiny.spec(kind).action_dim)
    adam = Adam(net.size, SMALL.lr, SMALL.adam_eps, SMALL.max_grad_norm)
    hand = ByHand(
        net,
        np.asarray(ravel_pytree(pi)[0]),
        adam,
        max_kl=method.max_kl,
        c_beta=method.c_beta,
        beta=1.0,
        beta_lr=method.beta_lr,
        mean=isinstance(method.statistic, MeanState),
        reverse=isinstance(method.divergence, KLNewOld),
        margin=method.statistic.margin,
    )
    new, state = pi, method.init(pi, KEY)
    for seed in (3, 4):
        key = jax.random.key(seed)
        batch = tiny.batch(kind, new, seed=seed, rows=17)
        data, before = tiny.rows_of(batch), hand.steps
        new, state, info = run(method, new, batch, state, key)
        order = np.asarray(shuffles(key, SMALL.epochs, 17))
        want = hand.update(data, order, SMALL.minibatches, 3, method.fixup_every_epoch)
        np.testing.assert_allclose(ravel_pytree(new)[0], want, atol=1e-8)
        np.testing.assert_allclose(float(state.beta), hand.beta, rtol=1e-7)
        assert int(info["fixpo_steps"]) == hand.steps - before
        assert int(info["fixpo_capped"]) == 0 and float(info["fixpo_scale"]) == 1
    assert hand.steps > 2
    return hand


@pytest.mark.parametrize(
    ("kind", "case"),
    [pytest.param("gaussian", "worst", marks=pytest.mark.slow), ("categorical", "reverse")],
)
def test_both_phases_by_hand(x64, kind, case):
    check(kind, case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (kind, case)
        for kind in tiny.KINDS
        for case in CASES
        if (kind, case) not in (("gaussian", "worst"), ("categorical", "reverse"))
    ],
)
def test_every_variant_by_hand(x64, kind, case):
    check(kind, case)


# B.10, 1 and 2: the guarantee.


BOTH = ["gaussian", *(pytest.param(k, marks=pytest.mark.slow) for k in ("categorical", "beta"))]


@pytest.mark.parametrize("kind", BOTH)
def test_1_no_state_is_outside(kind):
    """In float64, from the distributions that the float32 policies give."""
    worst = []
    for seed in range(8):
        pi, batch = setting(kind, seed, masked=3)
        new, _, info = run(BASE, pi, batch, max_kl=0.02)
        p, q = (jax.tree.map(lambda x: np.asarray(x, np.float64), f(batch.obs)) for f in (pi, new))
        kl = tiny.textbook_kl(kind, p, q)[np.asarray(batch.mask)]
        assert kl.max() <= 0.02
        worst.append(kl.max() / 0.02)
        assert int(info["fixpo_capped"]) == 0
    assert np.median(worst) > 0.5


def test_1_a_state_is_inside_with_a_margin_for_float32():
    """3e-4 of the bound for a state, 1e-5 for a mean; on the bound itself it is outside."""
    pi, batch = setting()
    new = tiny.policy("gaussian", seed=5)
    kl = kls(pi, new, batch)
    for method, value, margin in ((BASE, kl.max(), 3e-4), (MEAN, kl.mean(), 1e-5)):
        inside = jax.jit(lambda d, m=method: dataclasses.replace(m, max_kl=d).inside(new, batch))
        for excess, want in ((0.0, False), (0.8 * margin, False), (1.2 * margin, True)):
            assert bool(inside(jnp.float32(value * (1 + excess)))) is want


def test_2_a_policy_inside_is_not_touched():
    """Bit for bit, both optimisers and beta included."""
    pi, batch = setting()
    new, state, info = run(BASE, pi, batch, max_kl=1e3)
    bare, bare_state, _ = run(OFF, pi, batch, max_kl=1e3)
    assert int(info["fixpo_steps"]) == 0 and float(info["fixpo_sweeps"]) == SMALL.epochs
    assert tiny.same((new, state), (bare, bare_state)) and tiny.distance(new, pi) > 0.01


# B.10, 3 to 5: the multiplier.


def test_3_beta_is_never_negative_persists_and_is_constant_without_a_rate():
    pi, batch = setting()
    _, state, _ = run(BASE, pi, batch, max_kl=1e3, beta_lr=3.0)
    assert float(state.beta) == 0
    _, state, info = run(BASE, pi, batch)
    again, after, _ = run(BASE, pi, batch, state)
    fresh, _, _ = run(BASE, pi, batch)
    assert float(info["fixpo_beta"]) == float(state.beta) != BASE.beta_init
    assert tiny.distance(again, fresh) > 1e-6
    assert int(after.beta_opt.count) > int(state.beta_opt.count)
    _, state, _ = run(BASE, pi, batch, beta_lr=0.0)
    assert float(state.beta) == BASE.beta_init


def test_3_beta_keeps_to_its_range():
    for kl, want in ((0.0, 0.9), (1e3, 1.05)):
        _, tune = stepped(1.0, 0.2, beta_min=0.9, beta_max=1.05)
        np.testing.assert_allclose(float(tune(kl)), want, rtol=1e-6)


def test_4_beta_follows_the_kl_and_theta_the_rest(x64):
    """dL_beta/dbeta = max_kl - c_beta kl, as its Adam first sees it; theta's gradient is linear in
    beta, with that of the fix-up phase as its slope."""
    method, _ = stepped(2.0, 1.0, max_kl=0.5, c_beta=3.0)
    for kl in (0.0, 0.1, 0.3):
        opt = method.tune(method.init({"x": jnp.ones(3)}, KEY), jnp.asarray(kl))[1]
        np.testing.assert_allclose(float(opt.mu) / 0.1, 0.5 - 3 * kl, rtol=1e-12)
    _, batch = setting(dtype=np.float64)
    new = tiny.policy("gaussian", seed=5, dtype=np.float64)
    grad = jax.jit(jax.grad(lambda p, beta: BASE.L_theta(p, beta, batch, no_penalty)[0]))
    slope = lambda beta: ravel_pytree(grad(new, jnp.asarray(beta)))[0]
    pull = jax.jit(jax.grad(lambda p: BASE.L_KL(p, jnp.ones(()), batch)[0]))(new)
    np.testing.assert_allclose(slope(3.0) - slope(1.0), 2 * ravel_pytree(pull)[0], atol=1e-12)


@pytest.mark.parametrize(("kl", "sign"), [(0.0, -1), (0.15, -1), (0.18, 1), (1e4, 1)])
def test_5_the_first_step_of_beta_is_its_rate(x64, kl, sign):
    """Up where c_beta times the KL is above the bound, down below: at 0.5 / 3."""
    _, tune = stepped(2.0, 0.01, max_kl=0.5, c_beta=3.0)
    np.testing.assert_allclose(float(tune(kl)) - 2.0, sign * 0.01, rtol=1e-6)


def test_5_an_overflowing_kl_leaves_the_multiplier_finite():
    method, _ = stepped(2.0, 0.01)
    state = method.init({"x": jnp.ones(3, jnp.float32)}, KEY)
    beta, opt = method.tune(state, jnp.float32(jnp.inf))
    assert all(np.isfinite(x) for x in jax.tree.leaves((beta, opt))) and float(beta) > 2


# B.10, 6: the first minibatch.


@pytest.mark.parametrize("kind", BOTH)
def test_6_at_the_first_minibatch_nothing_pulls(x64, kind):
    pi, batch = setting(kind, dtype=np.float64)
    L = lambda p: BASE.L_KL(p, jnp.ones(()), batch)
    (loss, kl), slope = jax.jit(jax.value_and_grad(L, has_aux=True))(pi)
    assert float(loss) < 1e-25 and float(jnp.max(kl)) < 1e-25
    assert float(jnp.max(jnp.abs(ravel_pytree(slope)[0]))) < 1e-12
    _, tune = stepped(1.0, 0.01)
    np.testing.assert_allclose(float(tune(jnp.max(kl))), 0.99, rtol=1e-7)


# B.10, 7 to 9: what ends the fix-up phase.


@pytest.mark.slow
def test_7_the_exit_does_not_look_at_c_beta():
    """A worst state between max_kl / c_beta and max_kl needs no step; one above max_kl does. With a
    constant beta the primary phase does not depend on the bound."""
    pi, batch = setting()
    free, _, _ = run(OFF, pi, batch, beta_lr=0.0)
    worst = float(kls(pi, free, batch).max())
    for share, c_beta, moved in ((1.1, 3.0, False), (0.9, 0.5, True)):
        numbers = dict(max_kl=share * worst, c_beta=c_beta, beta_lr=0.0)
        new, _, info = run(LAST, pi, batch, **numbers)
        assert (int(info["fixpo_steps"]) > 0) is moved and tiny.same(new, free) is not moved


@pytest.mark.slow
def test_8_the_mean_variant_lets_a_state_be_outside():
    pi, batch = setting()
    kl = kls(pi, run(MEAN, pi, batch, max_kl=0.02)[0], batch)
    assert kl.mean() <= 0.02 < kl.max()
    assert (MEAN.promise, BASE.promise) == ("mean_kl", "max_kl")


def test_9_the_last_epoch_variant_repairs_once():
    pi, batch = setting()
    assert float(run(LAST, pi, batch, max_kl=1e3)[2]["fixpo_sweeps"]) == 1
    new, _, info = run(LAST, pi, batch, max_kl=0.02)
    assert int(info["fixpo_steps"]) > 0 and kls(pi, new, batch).max() <= 0.02


# B.10, 10: the critic.


@pytest.mark.slow
def test_10_a_shared_critic_is_left_alone():
    """Parameters that only the value function uses come out of the update as they went into the
    fix-up phase, and so do their moments; the shared layers move. The walk back leaves them too."""
    nets = tiny.networks("gaussian", hidden=(6, 5), shared_layers=1)
    pi = tiny.cast(nets.init(tiny.spec("gaussian"), 0)[0], np.float32)
    batch = tiny.batch("gaussian", pi, rows=17)
    penalty = Algorithm(BASE, SharedValue(coef=0.5)).penalty
    variants = [dataclasses.replace(m, max_kl=0.01, beta_lr=0.0) for m in (LAST, OFF)]
    variants.append(dataclasses.replace(variants[0], max_sweeps=0))
    out = jax.jit(
        lambda p: [m.update(p, m.init(p, KEY), batch, KEY, penalty=penalty) for m in variants]
    )(pi)
    (new, state, info), (bare, bare_state, _), (walked, walked_state, walk) = out
    assert int(info["fixpo_steps"]) > 0
    assert tiny.same(new.critic, bare.critic) and tiny.distance(new.critic, pi.critic) > 1e-4
    assert tiny.distance(new.trunk, bare.trunk) > 1e-4 < tiny.distance(new.actor, bare.actor)
    unravel = ravel_pytree(pi)[1]
    for moment in ("mu", "nu"):
        a, b = (unravel(getattr(s.opt[1], moment)) for s in (state, bare_state))
        assert tiny.same(a.critic, b.critic) and tiny.distance(a.trunk, b.trunk) > 0
    assert 0 < float(walk["fixpo_scale"]) < 1 and int(walk["fixpo_capped"]) == 1
    assert tiny.same(walked.critic, bare.critic) and tiny.same(walked_state, bare_state)
    assert tiny.distance(walked.actor, bare.actor) > 1e-3


# B.10, 11: the cap.


@pytest.mark.slow
def test_11_the_cap_walks_back_and_says_so():
    """Without sweeps; with a rate at which descent diverges; with a multiplier of nothing."""
    pi, batch = setting()
    idle = {"beta_init": 0.0, "beta_lr": 0.0}
    for method, fields in ((WALK, {}), (FEW, {"lr": 3.0}), (FEW, idle)):
        new, _, info = run(method, pi, batch, max_kl=0.01, **fields)
        assert int(info["fixpo_capped"]) >= 1
        assert kls(pi, new, batch).max() <= 0.01 and 0 < float(info["fixpo_scale"]) < 1
        assert float(info["fixpo_sweeps"]) <= SMALL.epochs * method.max_sweeps


def test_11_what_cannot_be_brought_back_is_the_old_policy():
    """Here because no candidate of the walk is close enough: the KL is then exactly 0."""
    pi, batch = setting()
    new, _, info = run(WALK, pi, batch, max_kl=1e-5, lr=1e6)
    assert tiny.same(new, pi) and float(info["fixpo_scale"]) == 0


def test_11_without_sweeps_a_policy_that_is_inside_stays():
    pi, batch = setting()
    new, _, info = run(WALK, pi, batch, max_kl=1e3)
    free, _, _ = run(OFF, pi, batch, max_kl=1e3)
    assert tiny.same(new, free) and float(info["fixpo_scale"]) == 1


# B.10, 13 and 14: what a KL is.


@pytest.mark.slow
def test_13_a_kl_that_is_not_a_number_is_outside():
    pi, batch = setting()
    for bad in (jnp.nan, jnp.inf):
        old = eqx.tree_at(lambda d: d.mean, batch.old, batch.old.mean.at[3].set(bad))
        broken = dataclasses.replace(batch, old=old)
        assert not bool(BASE.inside(pi, broken)) and bool(BASE.inside(pi, batch))
        hidden = dataclasses.replace(broken, mask=batch.mask.at[3].set(False))
        assert bool(BASE.inside(pi, hidden))
    spoilt = dataclasses.replace(batch, advantage=batch.advantage.at[3].set(jnp.nan))
    new, _, info = run(FEW, pi, spoilt)
    assert tiny.same(new, pi) and float(info["fixpo_scale"]) == 0


@pytest.mark.parametrize("kind", BOTH)
def test_14_directions(x64, kind):
    """Each is the KL in its order; they differ, but for Gaussians of one deviation they agree."""
    _, batch = setting(kind, dtype=np.float64)
    new = tiny.policy(kind, seed=5, dtype=np.float64)(batch.obs)
    forth, back = KLOldNew()(new, batch), KLNewOld()(new, batch)
    np.testing.assert_allclose(forth, tiny.textbook_kl(kind, batch.old, new), rtol=1e-9)
    np.testing.assert_allclose(back, tiny.textbook_kl(kind, new, batch.old), rtol=1e-9)
    if kind == "gaussian":
        np.testing.assert_allclose(forth, back, rtol=1e-12)  # both deviations are the initial one
    else:
        assert np.max(np.abs(forth - back) / forth) > 0.01


@pytest.mark.slow
def test_14_the_other_direction_is_bounded_too():
    pi, batch = setting("gaussian_state")
    method = dataclasses.replace(BASE, divergence=KLNewOld())
    new, _, info = run(method, pi, batch, max_kl=0.02)
    assert int(info["fixpo_steps"]) > 0 and kls(pi, new, batch, reverse=True).max() <= 0.02
    assert method.promise == "max_reverse_kl"


# B.10, 15 to 18.


def test_15_primary_steps_do_not_depend_on_the_fixup_phase():
    pi, batch = setting()
    for max_kl in (1e3, 0.02, 0.005):
        _, state, info = run(BASE, pi, batch, max_kl=max_kl)
        primary = SMALL.epochs * SMALL.minibatches
        assert int(state.opt[1].count) == primary + int(info["fixpo_steps"])
        assert int(state.beta_opt.count) == primary + int(info["fixpo_steps"])


@pytest.mark.parametrize("kind", BOTH)
def test_16_without_multiplier_and_fixup_it_is_ppo_without_clip(x64, kind):
    """The same minibatches, the same Adam, a penalty alike."""
    pi, batch = setting(kind, dtype=np.float64)
    penalty = lambda p, mb: -0.1 * mb.mean(p(mb.obs).entropy())
    bare = dataclasses.replace(OFF, beta_init=0.0, beta_lr=0.0)
    ppo = PPO(clip=float("inf"), sgd=SMALL)
    go = lambda m: jax.jit(lambda p: m.update(p, m.init(p, KEY), batch, KEY, penalty=penalty))(pi)
    (a, state, info), (b, opt, want) = go(bare), go(ppo)
    assert tiny.distance(a, b) < 1e-12 and tiny.distance(state.opt, opt) < 1e-12
    np.testing.assert_allclose(info["fixpo_loss"], want["ppo_loss"], rtol=1e-12)


def test_17_a_huge_bound_is_none_and_a_tiny_one_holds():
    pi, batch = setting()
    state = None
    for _ in range(3):
        _, state, info = run(BASE, pi, batch, state, max_kl=1e9)
        assert int(info["fixpo_steps"]) == 0
    assert float(state.beta) == 0 and np.isfinite(float(state.beta_opt.nu))
    new, _, _ = run(FEW, pi, batch, max_kl=1e-5)
    assert kls(pi, new, batch).max() <= 1e-5
    with pytest.raises(UsageError, match=r"FixPO.max_kl is inf"):
        FixPO(max_kl=float("inf"))


@pytest.mark.slow
def test_18_a_larger_c_beta_needs_fewer_steps():
    """Mean over seeds, the second of two updates, when beta has settled a little."""
    method = dataclasses.replace(BASE, max_kl=0.02, beta_init=5.0, beta_lr=0.5)

    def one(policy, state, batch, key, c_beta):
        m = dataclasses.replace(method, c_beta=c_beta)
        _, state, info = m.update(policy, state, batch, key)
        return state, info["fixpo_steps"]

    many = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, None)))
    pairs = [setting(seed=s) for s in range(12)]
    stack = lambda *x: jnp.stack(x)
    policies, batches = (jax.tree.map(stack, *part) for part in zip(*pairs, strict=True))
    keys, steps = jax.random.split(KEY, 12), []
    for c_beta in (1.0, 3.0, 10.0):
        states = jax.tree.map(stack, *(method.init(pi, KEY) for pi, _ in pairs))
        for _ in range(2):
            states, taken = many(policies, states, batches, keys, c_beta)
        steps.append(float(jnp.mean(taken.astype(jnp.float32))))
    assert steps[0] > steps[1] > steps[2]


# Beyond B.10.


def test_the_first_step_without_advantage_is_none(x64):
    """The KL is flat where it begins. (Later steps amplify what rounding left: a gradient of 1e-17
    over Adam's epsilon of 1e-8 is a step.)"""
    pi, batch = setting(dtype=np.float64)
    still = dataclasses.replace(batch, advantage=jnp.zeros_like(batch.advantage))
    one = dataclasses.replace(OFF, sgd=dataclasses.replace(SMALL, epochs=1, minibatches=1))
    assert tiny.distance(run(one, pi, still)[0], pi) < 1e-8


def test_the_defaults_are_those_of_the_published_runs():
    method = FixPO()
    assert (method.max_kl, method.c_beta, method.beta_init, method.beta_lr) == (0.5, 3, 1, 0.01)
    assert (method.divergence, method.statistic) == (KLOldNew(), WorstState())
    assert (method.fixup, method.fixup_every_epoch) == (True, True)
    sgd = method.sgd
    assert (sgd.lr, sgd.epochs, 8192 // sgd.minibatches, sgd.anneal) == (3e-4, 10, 512, True)
    assert sgd.max_grad_norm == 0.5


def test_the_rate_follows_the_schedule():
    """At the end of the run nothing moves."""
    pi, batch = setting()
    end = dataclasses.replace(batch, progress=jnp.ones(()))
    method = dataclasses.replace(BASE, sgd=dataclasses.replace(SMALL, anneal=True))
    new, _, info = run(method, pi, end)
    assert tiny.same(new, pi) and int(info["fixpo_steps"]) == 0
    assert tiny.distance(run(method, pi, batch)[0], pi) > 0.01


def test_what_is_promised():
    assert FixPO(fixup=False).promise == "none" and FixPO.first_order
    reverse = FixPO(statistic=MeanState(), divergence=KLNewOld())
    assert reverse.promise == "mean_reverse_kl"


@pytest.mark.parametrize(
    "fields",
    [
        {"max_kl": 1e-6},
        {"c_beta": -1.0},
        {"beta_lr": -0.1},
        {"beta_min": -1.0},
        {"beta_min": 2.0, "beta_max": 1.0},
        {"beta_max": 0.5, "beta_init": 1.0},
        {"beta_init": float("inf")},
        {"fixup_minibatches": 0},
        {"max_sweeps": -1},
    ],
)
def test_fields_out_of_range_are_refused_in_one_line(fields):
    with pytest.raises(UsageError) as caught:
        FixPO(**fields)
    field = list(fields)[-1]
    assert f"FixPO.{field} is {fields[field]!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.slow
def test_an_agent_keeps_its_bound_and_its_multiplier(tmp_path):
    """On Beta policies too; a run that was saved and loaded has beta, both Adams and the counts."""
    sgd = dataclasses.replace(FixPO().sgd, epochs=3, minibatches=4)
    agent = Agent(
        FixPO(max_kl=0.02, sgd=sgd),
        "Pendulum-v1",
        num_envs=2,
        num_steps=64,
        networks=Networks(policy="beta", hidden=(16,)),
    )
    before = train.TRACES["learn"]
    agent.learn(512, sinks=[])
    assert train.TRACES["learn"] == before + 1  # no type changes from update to update
    assert not any(x.weak_type for x in jax.tree.leaves(agent.state.method_state))
    report = agent.trust_report()
    assert (report.promise, report.violations) == ("max_kl", 0) and len(report.kl_max) >= 4
    assert max(report.kl_max) <= 0.02 and agent.report["fixpo_beta"] != 1
    action, _ = agent.predict(np.zeros((5, 3)), deterministic=False)
    assert action.shape == (5, 1) and np.all(np.abs(action) <= 2)
    agent.save(tmp_path / "run")
    again = Agent.load(tmp_path / "run")
    assert tiny.same(again.state.method_state, agent.state.method_state)
    assert again.config == agent.config and again.trust_report() == report
    again.learn(128, sinks=[])
    assert again.trust_report().violations == 0
