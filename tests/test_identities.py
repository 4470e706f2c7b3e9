# ruff: noqa: E731 (a lambda reads like the formula)
"""Methods equal each other where theory says so."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import tiny
from surefoot.advantages import GAE
from surefoot.checks import UsageError
from surefoot.distributions import Categorical
from surefoot.divergences import KLNewOld, tsallis
from surefoot.methods.espo import ESPO
from surefoot.methods.fixpo import FixPO
from surefoot.methods.mdpo import MDPO
from surefoot.methods.npg import NPG
from surefoot.methods.ppo import PPO
from surefoot.methods.ppo_kl import PPOKL
from surefoot.methods.ppo_rb import PPORB
from surefoot.methods.tr_ppo import TRPPO
from surefoot.methods.trefree import TREFree
from surefoot.methods.trefree_free import TREFreeFree
from surefoot.methods.trefree_ratio import TREFreeRatio
from surefoot.methods.trgppo import TRGPPO
from surefoot.methods.trpo import TRPO
from surefoot.methods.truly_ppo import TrulyPPO
from surefoot.multipliers import FactorRule
from surefoot.sgd import SGD, shuffles
from surefoot.surrogates import Clipped, ratio
from surefoot.train import Algorithm
from surefoot.value import EntropyBonus, SharedValue
from surefoot.wrappers.fixup import Fixup

KEY = jax.random.key(0)


def run(method, pi, batch, **options):
    """One compiled update."""
    return jax.jit(lambda p, b: method.update(p, method.init(p, KEY), b, KEY, **options))(pi, batch)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@pytest.mark.slow
def test_trpo_at_its_first_candidate_is_npg(kind):
    """Bit for bit, operation by operation; compiled, a multiplication and an addition may be
    rounded together."""
    pi = tiny.policy(kind)
    batch = tiny.batch(kind, pi, masked=3)
    trpo, _, info = run(TRPO(max_kl=0.01), pi, batch)
    npg, _, npg_info = run(NPG(max_kl=0.01), pi, batch)
    assert bool(info["accepted"]) and int(info["backtracks"]) == 0
    assert tiny.distance(trpo, npg) < 5e-7 < 1e-3 < tiny.distance(npg, pi)
    np.testing.assert_allclose(info["curvature"], npg_info["curvature"], rtol=1e-5)
    with jax.disable_jit():
        trpo, _, info = TRPO(max_kl=0.01).update(pi, (), batch, KEY)
        npg, _, npg_info = NPG(max_kl=0.01).update(pi, (), batch, KEY)
    assert tiny.same(trpo, npg) and float(info["curvature"]) == float(npg_info["curvature"])


def test_npg_with_a_fixed_step_is_npg_with_a_radius_at_the_right_length(x64):
    pi = tiny.policy("gaussian", dtype=np.float64)
    batch = tiny.batch("gaussian", pi)
    normalised, _, info = run(NPG(max_kl=0.01), pi, batch)
    fixed, _, _ = run(NPG(lr=float(np.sqrt(0.02 / info["curvature"])), max_kl=None), pi, batch)
    assert tiny.distance(normalised, fixed) < 1e-12


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_ppo_without_clip_epochs_and_minibatches_is_a_step_on_the_policy_gradient(x64, kind):
    """One Adam step of optax on mean[A grad ln pi]."""
    pi = tiny.policy(kind, dtype=np.float64)
    batch = tiny.batch(kind, pi, masked=3)
    sgd = SGD(lr=0.01, epochs=1, minibatches=1, max_grad_norm=None)
    got, _, _ = run(PPO(clip=float("inf"), sgd=sgd), pi, batch)
    flat, unravel = ravel_pytree(pi)
    gain = lambda v: batch.mean(unravel(v)(batch.obs).log_prob(batch.action) * batch.advantage)
    adam = optax.adam(0.01, eps=1e-5)
    direction, _ = adam.update(-jax.jit(jax.grad(gain))(flat), adam.init(flat))
    np.testing.assert_allclose(ravel_pytree(got)[0], flat + direction, atol=1e-12)


def test_a_huge_clip_is_no_clip():
    pi, new = tiny.policy("gaussian"), tiny.policy("gaussian", seed=4)
    batch = tiny.batch("gaussian", pi)
    r = ratio(new(batch.obs), batch)
    np.testing.assert_array_equal(Clipped(float("inf"))(new(batch.obs), batch), r * batch.advantage)
    np.testing.assert_array_equal(Clipped(1e6)(new(batch.obs), batch), r * batch.advantage)


@pytest.mark.slow
def test_ppo_with_a_stop_that_never_comes_runs_all_its_epochs():
    pi = tiny.policy("categorical")
    batch = tiny.batch("categorical", pi)
    for epochs in (1, 3):
        sgd = SGD(lr=0.01, epochs=epochs, minibatches=2)
        _, state, info = run(PPO(stop_kl=1e9, sgd=sgd), pi, batch)
        _, other, _ = run(PPO(sgd=sgd), pi, batch)
        assert (
            int(info["ppo_epochs"]) == epochs
            and int(state[1].count) == int(other[1].count) == 2 * epochs
        )


STEPS = SGD(lr=0.03, epochs=2, minibatches=2)
UNCLIPPED = {
    "trefree_free": TREFreeFree(sgd=STEPS),
    "trefree, inf": TREFree(delta=float("inf"), sgd=STEPS),
    "trefree_ratio, inf": TREFreeRatio(clip=float("inf"), sgd=STEPS),
    "espo that never stops": ESPO(stop_deviation=1e9, sgd=STEPS),
    "ppo_kl, beta 0": PPOKL(beta_init=0.0, rule=FactorRule(floor=0.0), sgd=STEPS),
    "trgppo, huge delta": TRGPPO(delta=1e3, sgd=STEPS),
    "truly_ppo that is never far": TrulyPPO(delta=float("inf"), sgd=STEPS),
    "tr_ppo that is never far": TRPPO(delta=float("inf"), sgd=STEPS),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_without_restraint_all_are_ppo_without_a_clip(x64, kind):
    pi = tiny.policy(kind, dtype=np.float64)
    batch = tiny.batch(kind, pi, masked=3)
    want, _, _ = run(PPO(clip=float("inf"), sgd=STEPS), pi, batch)
    for name, method in UNCLIPPED.items():
        got, _, _ = run(method, pi, batch)
        assert tiny.distance(got, want) < 1e-12, name
    assert tiny.distance(want, pi) > 0.03


@pytest.mark.slow
def test_rollback_with_slope_zero_is_ppo(x64):
    pi = tiny.policy("gaussian", dtype=np.float64)
    batch = tiny.batch("gaussian", pi, masked=3)
    clipped, _, info = run(PPO(clip=0.05, sgd=STEPS), pi, batch)
    rolled, _, _ = run(PPORB(clip=0.05, alpha=0.0, sgd=STEPS), pi, batch)
    assert tiny.distance(clipped, rolled) < 1e-12 and float(info["ppo_clip_fraction"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_mdpo_with_a_constant_step_size_is_a_fixed_reverse_penalty(x64, kind):
    pi = tiny.policy(kind, dtype=np.float64)
    batch = tiny.batch(kind, pi, masked=3)
    fixed = FactorRule(down=1.0, up=1.0)
    reverse = PPOKL(beta_init=2.5, rule=fixed, divergence=KLNewOld(), sgd=STEPS)
    want, state, _ = run(reverse, pi, batch)
    got, _, _ = run(MDPO(beta=2.5, t_min=1.0, sgd=STEPS), pi, batch)
    assert tiny.distance(got, want) < 1e-12 and float(state.beta) == 2.5
    other, _, _ = run(dataclasses.replace(reverse, beta_init=1.0), pi, batch)
    assert tiny.distance(other, want) > 1e-4


@pytest.mark.slow
def test_tsallis_tends_to_the_reverse_kl(x64):
    """Over every action at the weight of the old policy, as its index tends to 1; and at 2 it is
    the chi-square divergence, sum (new - old)^2 / old."""
    rng = np.random.default_rng(0)
    old, new = (Categorical(jnp.asarray(rng.normal(size=(1, 5)))) for _ in range(2))
    batch = tiny.batch("categorical", tiny.policy("categorical", dtype=np.float64), rows=5)
    every = lambda d: Categorical(jnp.repeat(d.logits, 5, axis=0))
    action = jnp.arange(5)
    at = dataclasses.replace(
        batch, action=action, old=every(old), log_prob=every(old).log_prob(action)
    )
    p, q = np.exp(old.log_p[0]), np.exp(new.log_p[0])
    mean = lambda index: float(np.sum(p * np.asarray(tsallis(every(new), at, index))))
    np.testing.assert_allclose(mean(1 + 1e-7), float(new.kl(old)[0]), rtol=1e-6)
    np.testing.assert_allclose(mean(2.0), np.sum((q - p) ** 2 / p), rtol=1e-10)


@pytest.mark.slow
def test_espo_stops_before_the_step_that_strays(x64):
    """What it returns, optimiser included, is what as many steps give; the step at which the
    minibatch had strayed is not among them."""
    pi = tiny.policy("gaussian", dtype=np.float64)
    batch = tiny.batch("gaussian", pi, rows=24)
    sgd = SGD(lr=0.02, epochs=4, minibatches=3)

    @jax.jit
    def until(limit):
        method = ESPO(stop_deviation=limit, sgd=sgd)
        return method.update(pi, method.init(pi, KEY), batch, KEY)

    policies = {}
    for limit in np.geomspace(1e-3, 1.0, 25):
        new, (_, adam), info = until(limit)
        steps = int(info["espo_steps"])
        assert int(adam.count) == steps
        policies.setdefault(steps, (new, adam))
        assert tiny.same(policies[steps], (new, adam))  # many limits, the same steps
        assert float(info["espo_deviation"]) <= limit
    assert min(policies) == 1 and len(policies) >= 3  # the first deviation is 0: one step at least
    rows = np.asarray(shuffles(KEY, 4, 24)).reshape(12, 8)
    for steps, (new, _) in policies.items():
        if steps == 12:
            continue
        mb = batch.take(jnp.asarray(rows[steps]))
        strayed = float(jnp.mean(jnp.abs(ratio(new(mb.obs), mb) - 1)))
        again, _, info = until(strayed * (1 - 1e-9))
        assert int(info["espo_steps"]) == steps and tiny.same(again, new)
        _, _, info = until(strayed * (1 + 1e-9))
        assert int(info["espo_steps"]) > steps


def test_a_penalty_enters_the_objective_with_a_minus(x64):
    """An entropy bonus so large that nothing else counts raises the entropy, in every method."""
    pi = tiny.policy("categorical", dtype=np.float64)
    batch = tiny.batch("categorical", pi, masked=3)
    before = float(batch.mean(batch.old.entropy()))
    sgd = SGD(lr=0.01, epochs=1, minibatches=1)
    for method in (TRPO(), NPG(), PPO(sgd=sgd)):
        for coef, sign in ((1e3, 1), (-1e3, -1)):
            new, _, _ = run(method, pi, batch, penalty=EntropyBonus(coef))
            assert sign * (float(batch.mean(new(batch.obs).entropy())) - before) > 1e-4


def test_second_order_methods_refuse_a_shared_critic():
    for method in (TRPO(), NPG()):
        with pytest.raises(UsageError) as caught:
            Algorithm(method, value=SharedValue())
        assert type(method).__name__ in str(caught.value) and "\n" not in str(caught.value)
    assert Algorithm(PPO(), value=SharedValue()).value == SharedValue()


def test_equal_records_are_equal_and_hash_alike():
    """A record built again reuses compiled code."""
    for make in (
        TRPO,
        NPG,
        PPO,
        FixPO,
        lambda: Fixup(PPO(), max_kl=0.1),
        GAE,
        SGD,
        lambda: Algorithm(PPO(), penalties=(EntropyBonus(0.1),)),
    ):
        assert make() == make() and hash(make()) == hash(make())
    assert dataclasses.replace(TRPO(), max_kl=0.02) != TRPO()


@pytest.mark.slow
def test_a_sweep_over_a_field_maps_over_the_record(x64):
    """`dataclasses.replace` with a tracer inside one's own `jit(vmap(...))`."""
    pi = tiny.policy("gaussian", dtype=np.float64)
    batch = tiny.batch("gaussian", pi)
    radii = jnp.asarray([0.001, 0.01])
    many = jax.jit(
        jax.vmap(lambda d: dataclasses.replace(TRPO(), max_kl=d).update(pi, (), batch, KEY)[0])
    )(radii)
    for i, radius in enumerate((0.001, 0.01)):
        one, _, _ = run(TRPO(max_kl=radius), pi, batch)
        assert tiny.distance(jax.tree.map(lambda x, i=i: x[i], many), one) < 1e-10
