"""Learning on the five probes: each fails in its own way when one part of an agent is broken."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot import envs
from surefoot.advantages import GAE
from surefoot.methods.fixpo import FixPO
from surefoot.methods.npg import NPG
from surefoot.methods.ppo import PPO
from surefoot.methods.trpo import TRPO
from surefoot.networks import Networks
from surefoot.rollouts.device import collect
from surefoot.sgd import SGD
from surefoot.train import Algorithm, init_state, learn
from surefoot.value import ValueFit
from surefoot.wrappers.fixup import Fixup

pytestmark = pytest.mark.learn

GAMMA, UPDATES, ENVS, STEPS = 0.9, 60, 16, 16
METHODS = {
    "npg": NPG(),
    "trpo": TRPO(max_kl=0.02),
    "ppo": PPO(sgd=SGD(lr=3e-3, epochs=4, minibatches=4)),
    "fixpo": FixPO(sgd=SGD(lr=3e-3, epochs=4, minibatches=4)),
    "fixup": Fixup(PPO(sgd=SGD(lr=3e-3, epochs=4, minibatches=4)), max_kl=0.5),
}
VALUES = {
    "constant": {0.0: 1.0},
    "observed": {-1.0: -1.0, 1.0: 1.0},
    "delayed": {0.0: GAMMA, 1.0: 1.0},
    "acted": {0.0: 1.0},
    "matched": {-1.0: 1.0, 1.0: 1.0},
}
ACTIONS = {"acted": {0.0: 1}, "matched": {-1.0: 0, 1.0: 1}}
"""The action that must be chosen at an observation, where there is a choice."""


@functools.lru_cache
def trained(method, probe, seed):
    """Policy and critic after training, with observations and rewards as they are."""
    env = envs.make(f"probe:{probe}", ENVS)
    fit = ValueFit(SGD(lr=1e-2, epochs=4, minibatches=4, max_grad_norm=None))
    algo = Algorithm(METHODS[method], fit, GAE(gamma=GAMMA, lam=0.9))
    ts = init_state(
        algo,
        Networks(hidden=(8,)),
        env.spec,
        seed,
        UPDATES,
        normalize_obs=False,
        normalize_reward=False,
    )
    ts = jax.tree.map(jnp.asarray, ts)

    def iteration(carry, key):
        ts, state = carry
        state, rollout, seen, _ = collect(env, ts.policy, ts.obs_stats, state, key, STEPS)
        ts, report = learn(algo, ts, rollout, seen)
        return (ts, state), report["update_skipped"]

    @jax.jit
    def run(ts, key):
        k_reset, k_run = jax.random.split(key)
        return jax.lax.scan(iteration, (ts, env.reset(k_reset)), jax.random.split(k_run, UPDATES))

    (ts, _), skipped = run(ts, jax.random.key(seed))
    assert not np.any(skipped)
    return ts.policy, ts.critic


@pytest.mark.parametrize("probe", VALUES)
@pytest.mark.parametrize("method", METHODS)
def test_value_and_action(method, probe):
    policy, critic = trained(method, probe, 0)
    for obs, value in VALUES[probe].items():
        np.testing.assert_allclose(critic(jnp.asarray([obs])), value, atol=0.1)
    for obs, action in ACTIONS.get(probe, {}).items():
        p = np.exp(policy(jnp.asarray([obs])).log_p)
        assert p[action] > 0.9


def test_an_agent_that_learns_nothing_fails():
    """The probes can fail: with a radius of nothing the action is not learnt."""
    still = dataclasses.replace(METHODS["trpo"], max_kl=1e-5)
    METHODS["still"] = still
    try:
        policy, _ = trained("still", "matched", 0)
    finally:
        del METHODS["still"]
    assert np.exp(policy(jnp.asarray([1.0])).log_p)[1] < 0.9
