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
from surefoot.methods.fixpo import FixPO
from surefoot.methods.npg import NPG
from surefoot.methods.ppo import PPO
from surefoot.methods.trpo import TRPO
from surefoot.sgd import SGD
from surefoot.surrogates import Clipped, ratio
from surefoot.train import Algorithm
from surefoot.value import EntropyBonus, SharedValue
from surefoot.wrappers.fixup import Fixup

KEY = jax.random.key(0)


def run(method, pi, batch, **options):
    """One compiled update."""
    return jax.jit(lambda p, b: method.update(p, method.init(p, KEY), b, KEY, **options))(pi, batch)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
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
