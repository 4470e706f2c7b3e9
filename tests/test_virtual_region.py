# ruff: noqa: E731 (a lambda reads like the formula)
"""`VirtualRegion`: its laws, its pull and its memory by hand, and the bounds of what it holds."""

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
from reference import mcpo as by_hand
from reference import natural
from reference.fixup import kl_slope
from reference.network import Net
from surefoot import UsageError
from surefoot.memory import Attention, EveryStep, MeanBlend, Store
from surefoot.methods.mcpo import MCPO
from surefoot.methods.npg import NPG
from surefoot.methods.ppo import PPO
from surefoot.methods.trpo import TRPO
from surefoot.sgd import SGD
from surefoot.types import no_penalty
from surefoot.wrappers.fixup import Fixup
from surefoot.wrappers.virtual_region import VirtualRegion

KEY = jax.random.key(0)
SMALL = SGD(lr=0.05, epochs=2, minibatches=2)
INNER = {"ppo": PPO(sgd=SMALL), "trpo": TRPO(max_kl=0.02, cg_damping=1e-3)}
STEADY = Attention(hidden=5, dropout=0.0, max_grad_norm=None)
ONE = VirtualRegion(
    PPO(clip=1e6, sgd=SGD(lr=0.05, epochs=1, minibatches=1, max_grad_norm=None)),
    weight=0.7,
    memory_size=3,
    blend=STEADY,
)
"""One step of ascent on r A and the pull, so that its gradient can be read from Adam's moment."""


@functools.lru_cache
def chain(method, updates=3):
    """Updates in a row, from one policy, each on a batch of its own: policies, states, reports."""
    pi = tiny.policy("gaussian")
    state, run, out = method.init(pi, KEY), jax.jit(method.update), []
    for seed in range(updates):
        batch = tiny.batch("gaussian", pi, seed=seed, masked=4)
        pi, state, info = run(pi, state, batch, jax.random.key(seed))
        out.append((pi, state, info))
    return out


def vector(tree):
    """Parameters as the reference takes them."""
    return np.asarray(ravel_pytree(tree)[0], np.float64)


# The laws.


@pytest.mark.slow
@pytest.mark.parametrize("name", INNER)
def test_without_weight_it_is_the_inner_method(name):
    """Bit for bit, state and report included, with a memory that fills meanwhile."""
    plain, round_it = chain(INNER[name]), chain(VirtualRegion(INNER[name], weight=0.0))
    for (pi, state, info), (other, after, told) in zip(plain, round_it, strict=True):
        assert tiny.same((other, after.inner), (pi, state))
        assert all(tiny.same(told[k], info[k]) for k in info)
    assert [int(x[1].memory.filled) for x in round_it] == [1, 2, 3]


@pytest.mark.slow
def test_wrapping_twice_nests_reports_and_states():
    twice = VirtualRegion(VirtualRegion(INNER["ppo"], weight=0.5), weight=0.5, memory_size=2)
    info = chain(twice)[-1][2]
    own = {k for k in info if k.startswith("virtual_")}
    inner = set(chain(INNER["ppo"])[-1][2])
    assert len(own) == 6 and set(info) == inner | own | {f"inner_{k}" for k in own}
    _, state, _ = chain(twice)[-1]
    assert state.memory.capacity == 2 and state.inner.memory.capacity == 5
    assert int(state.step) == int(state.inner.step) == 3


@pytest.mark.slow
def test_the_batch_and_the_key_are_handed_on_as_they_are():
    seen = {}

    class Spy(NPG):
        def init(self, policy, key):
            seen["init"] = key
            return ("state",)

        def update(self, policy, state, batch, key, *, penalty=no_penalty):
            seen.update(policy=policy, state=state, batch=batch, key=key, penalty=penalty)
            return policy, state, {}

    pi = tiny.policy("gaussian")
    batch = tiny.batch("gaussian", pi, masked=4)
    method = VirtualRegion(Spy(max_kl=0.05), weight=2.0)
    state = method.init(pi, KEY)
    assert seen["init"] is KEY and state.inner == ("state",)
    fine = lambda p, b: jnp.asarray(3.0)
    new, after, _ = method.update(pi, state, batch, KEY, penalty=fine)
    assert seen["batch"] is batch and seen["key"] is KEY and seen["policy"] is pi
    assert seen["state"] is state.inner and after.inner is state.inner and tiny.same(new, pi)
    paid = float(seen["penalty"](pi, batch))  # psi is the policy itself so far
    np.testing.assert_allclose(paid, 3.0, rtol=1e-6)
    other = tiny.policy("gaussian", seed=4)
    pull = 2.0 * float(batch.mean(batch.old.kl(other(batch.obs))))
    np.testing.assert_allclose(seen["penalty"](other, batch), 3.0 + pull, rtol=1e-5)
    assert pull > 0.01
    assert method.promise == "none" and method.max_kl == 0.05 and not method.first_order


# By hand.


@functools.lru_cache
def one():
    """A compiled update of `ONE`."""
    return jax.jit(ONE.update)


@pytest.mark.parametrize("kind", ["gaussian", pytest.param("categorical", marks=pytest.mark.slow)])
def test_the_pull_the_blend_and_the_write_by_hand(x64, kind):
    """In float64, from the middle of a run; both outcomes of the test of writing."""
    pi = tiny.policy(kind, dtype=np.float64)
    batch = tiny.batch(kind, pi, rows=18, masked=3)
    keep = np.flatnonzero(np.asarray(batch.mask))
    values = np.asarray(batch.value), np.asarray(batch.value_target)
    data = [(*r, *(x[i] for x in values)) for r, i in zip(tiny.rows_of(batch), keep, strict=True)]
    batch = tiny.rubbish(batch, 1e3)
    net, old = Net(kind, tiny.OBS, tiny.HIDDEN, tiny.spec(kind).action_dim), vector(pi)
    wrote = []
    for scale, seed in ((0.02, 0), (0.2, 0), (0.4, 1), (0.4, 2)):
        rng = np.random.default_rng(seed)
        far = [old + scale * rng.normal(size=old.shape) for _ in range(4)]
        store = Store.empty(3, pi)
        for step, x in enumerate(far[:3]):
            store = store.push(jnp.asarray(x), jnp.asarray(step + 1), jnp.asarray(True))
        state = ONE.init(pi, KEY)
        at = lambda s: (s.memory, s.psi, s.step)
        state = eqx.tree_at(at, state, (store, jnp.asarray(far[3]), jnp.asarray(6, jnp.int32)))
        new, after, info = one()(pi, state, batch, KEY)
        attention = by_hand.Attention(12, 5, 3)
        phi = vector(state.blend.phi)
        run = by_hand.MCPO(net, old, far[3], None, 3, attention, phi, None, None, memory=far[:3])
        v = by_hand.context(net, old, old, far[3], data)
        psi, w = run.virtual(phi, v)
        np.testing.assert_allclose(after.psi, psi, atol=1e-12)
        (mu,) = [s.mu for s in after.inner if hasattr(s, "mu")]
        pull = np.mean([kl_slope(net, psi, old, row[0], False) for row in data], axis=0)
        want = -natural.gradient(net, old, [row[:4] for row in data]) + 0.7 * pull
        np.testing.assert_allclose(vector(mu) / 0.1, want, atol=1e-12)
        assert np.max(np.abs(pull)) > 1e-3
        (mu,) = [s.mu for s in after.blend.opt if hasattr(s, "mu")]
        slope = run.slope_phi(v, psi, w, data)
        np.testing.assert_allclose(-vector(mu) / 0.1, slope, atol=1e-12)
        np.testing.assert_allclose(  # Adam's first step; epsilon 1e-5
            vector(after.blend.phi) - phi, -3e-4 * slope / (np.abs(slope) + 1e-5), atol=1e-10
        )
        D = lambda p: by_hand.distance(net, p, psi, data)  # noqa: B023
        np.testing.assert_allclose(info["virtual_kl_old_psi"], D(old), rtol=1e-9)
        np.testing.assert_allclose(info["virtual_kl_new_psi"], D(vector(new)), rtol=1e-9)
        gain = -by_hand.loss_phi(net, psi, data) - np.mean(by_hand.advantages(data))
        np.testing.assert_allclose(info["virtual_psi_gain"], gain, atol=1e-12)
        write = D(vector(new)) > D(old)
        wrote.append(write)
        assert bool(info["virtual_writes"]) == write and int(after.step) == 7
        born = list(np.asarray(after.memory.ordered()[1]))
        assert born == ([2, 3, 7] if write else [1, 2, 3])
        assert int(info["virtual_age"]) == 7 - (int(np.argmax(w)) + 1)
    assert True in wrote and False in wrote


@pytest.mark.slow
def test_a_stronger_pull_ends_nearer():
    """To the virtual policy, update for update."""
    ends = []
    for weight in (0.0, 1.0, 30.0):
        method = VirtualRegion(INNER["ppo"], weight=weight, blend=MeanBlend())
        ends.append(float(chain(method)[-1][2]["virtual_kl_new_psi"]))
    assert ends[0] > ends[1] > ends[2]


CHANGES = {
    "inner": PPO(clip=0.01, sgd=SMALL),
    "weight": 5.0,
    "memory_size": 1,
    "writing": EveryStep(2),
    "blend": MeanBlend(),
    "blend_lr": 1.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_the_updates(field):
    """Within four of them: attention must have two policies to choose from."""
    base = VirtualRegion(INNER["ppo"], weight=3.0, blend=dataclasses.replace(STEADY, lr=None))
    changed = dataclasses.replace(base, **{field: CHANGES[field]})
    assert tiny.distance(chain(base, 4)[-1][0], chain(changed, 4)[-1][0]) > 1e-5
    assert set(CHANGES) == {f.name for f in dataclasses.fields(VirtualRegion)}


# What it holds, and what holds it.


@pytest.mark.slow
def test_bounds_hold_inside_and_outside_of_it():
    """TRPO's mean KL under the pull; every state's with a `Fixup` round MCPO under a pull."""
    pulled = VirtualRegion(INNER["trpo"], weight=0.5)
    held = Fixup(VirtualRegion(MCPO(memory_size=3, sgd=SMALL)), max_kl=0.01)
    assert (pulled.promise, pulled.max_kl, held.promise) == ("mean_kl", 0.02, "max_kl")
    for method, statistic in ((pulled, np.mean), (held, np.max)):
        pi, moved = tiny.policy("gaussian"), 0
        for seed, (new, _, _) in enumerate(chain(method)):
            batch = tiny.batch("gaussian", pi, seed=seed, masked=4)
            wide = lambda d: jax.tree.map(lambda x: np.asarray(x, np.float64), d)
            kl = tiny.textbook_kl("gaussian", wide(pi(batch.obs)), wide(new(batch.obs)))
            assert statistic(kl[np.asarray(batch.mask)]) <= method.max_kl
            moved += tiny.distance(pi, new) > 1e-4
            pi = new
        assert moved == 3
    info = chain(held)[-1][2]
    assert "mcpo_loss" in info and "virtual_age" in info and "fixup_scale" in info


def test_refusals():
    with pytest.raises(UsageError, match=r"VirtualRegion\.inner is 3"):
        VirtualRegion(3)
    with pytest.raises(UsageError, match=r"VirtualRegion\.weight is -1"):
        VirtualRegion(PPO(), weight=-1.0)
    with pytest.raises(UsageError, match=r"VirtualRegion\.memory_size is 0"):
        VirtualRegion(PPO(), memory_size=0)
