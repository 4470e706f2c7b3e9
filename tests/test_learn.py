# ruff: noqa: E731 (a lambda reads like the formula)
"""`learn`: one trace, rows that do not count, updates that are not finite, and what moves when."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from surefoot import train
from surefoot.advantages import GAE
from surefoot.methods.npg import NPG
from surefoot.methods.ppo import PPO
from surefoot.methods.trpo import TRPO
from surefoot.normalize import RunningStats, moments
from surefoot.rewards import scale_rewards
from surefoot.sgd import SGD
from surefoot.train import Algorithm, init_state, learn_jit
from surefoot.types import Rollout
from surefoot.value import EntropyBonus, SharedValue, ValueFit

T, N = 8, 2
FIT = ValueFit(SGD(lr=1e-3, epochs=1, minibatches=2, max_grad_norm=None))
SMALL = SGD(lr=1e-3, epochs=2, minibatches=2)
ALGORITHMS = {
    "npg": Algorithm(NPG(), FIT),
    "trpo": Algorithm(TRPO(), FIT),
    "ppo": Algorithm(PPO(sgd=SMALL), FIT, GAE(normalize="minibatch"), (EntropyBonus(0.01),)),
    "ppo shared": Algorithm(PPO(stop_kl=0.1, sgd=SMALL), SharedValue()),
}


QUICK = [
    pytest.param(name, marks=() if name in ("trpo", "ppo shared") else pytest.mark.slow)
    for name in ALGORITHMS
]


def rollout(kind="categorical", seed=0, dead=True):
    """Next-step rollout of two environments; env 0 terminates at row 3 and row 4 is only a
    reset."""
    rng = np.random.default_rng(seed)
    terminated, mask = np.zeros((T, N), bool), np.ones((T, N), bool)
    if dead:
        terminated[3, 0], mask[4, 0] = True, False
    discrete = kind == "categorical"
    action = (
        rng.integers(0, 3, (T, N))
        if discrete
        else rng.normal(size=(T, N, tiny.ACTIONS)).astype(np.float32)
    )
    return Rollout(
        obs=jnp.asarray(rng.normal(size=(T + 1, N, tiny.OBS)), jnp.float32),
        action=jnp.asarray(action),
        reward=jnp.asarray(rng.normal(size=(T, N)), jnp.float32),
        terminated=jnp.asarray(terminated),
        truncated=jnp.zeros((T, N), bool),
        mask=jnp.asarray(mask),
    )


def start(name, kind="categorical", **options):
    """A fresh state."""
    shared = int(name == "ppo shared")
    nets = dataclasses.replace(tiny.networks(kind), shared_layers=shared)
    spec = dataclasses.replace(tiny.spec(kind), num_envs=N)
    return init_state(ALGORITHMS[name], nets, spec, 0, 10, **options)


def seen(r):
    """Moments of the observations, as the collectors hand them over."""
    return moments(r.obs[:-1], r.mask)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.slow
def test_three_updates_one_trace(name):
    """From NumPy leaves to jax ones, with types that are weak or not: the second update reuses the
    first's code. An equal record built again does too, and a changed field does not."""
    algo, ts = ALGORITHMS[name], start(name)
    before = train.TRACES["learn"]
    first = None
    for seed in range(3):
        r = rollout(seed=seed)
        rebuilt = dataclasses.replace(algo)
        ts, report = learn_jit(rebuilt, ts, r, seen(r))
        first = first or {k: (v.shape, v.dtype) for k, v in report.items()}
        assert {k: (v.shape, v.dtype) for k, v in report.items()} == first
        assert not any(x.weak_type for x in jax.tree.leaves(ts) if hasattr(x, "weak_type"))
    assert train.TRACES["learn"] == before + 1
    assert int(ts.update) == 3 and int(ts.skipped) == 0 and int(ts.total) == 10
    learn_jit.lower(dataclasses.replace(algo, advantage=GAE(gamma=0.5)), ts, r, seen(r))
    assert train.TRACES["learn"] == before + 2


@pytest.mark.parametrize("name", QUICK)
def test_rows_that_do_not_count_have_no_influence(name):
    """A reset row's reward and action mean nothing, for the update and for the statistics of
    observations."""
    r = rollout()
    spoilt = dataclasses.replace(
        r,
        reward=jnp.where(r.mask, r.reward, 1e6),
        action=jnp.where(r.mask, r.action, (r.action + 1) % 3),
    )
    ts = start(name)
    a, report = learn_jit(ALGORITHMS[name], ts, r, seen(r))
    b, _ = learn_jit(ALGORITHMS[name], ts, spoilt, seen(spoilt))
    for part in ("policy", "critic", "method_state", "value_state", "obs_stats"):
        assert tiny.same(getattr(a, part), getattr(b, part)), part
    assert int(report["rows"]) == T * N - 1


@pytest.mark.parametrize("which", ["return_stats", "return_trace"])
def test_the_reward_of_a_reset_row_does_not_enter_the_running_return(which):
    r = rollout()
    spoilt = dataclasses.replace(r, reward=jnp.where(r.mask, r.reward, 1e6))
    ts = start("trpo")
    a, b = (learn_jit(ALGORITHMS["trpo"], ts, x, seen(x))[0] for x in (r, spoilt))
    assert tiny.same(getattr(a, which), getattr(b, which))


@functools.lru_cache
def after_nan(name):
    """A sound update, one with a NaN reward, one with sound rewards again."""
    algo, states, reports = ALGORITHMS[name], [start(name)], []
    for seed, spoil in ((0, False), (1, True), (2, False)):
        r = rollout(seed=seed)
        if spoil:
            r = dataclasses.replace(r, reward=r.reward.at[2, 1].set(jnp.nan))
        ts, report = learn_jit(algo, states[-1], r, seen(r))
        states.append(ts)
        reports.append(report)
    return states, reports


@pytest.mark.parametrize("name", QUICK)
def test_nan_rewards_leave_policy_and_critic_as_they_were(name):
    """Bit for bit, with the optimisers' states."""
    states, reports = after_nan(name)
    for part in ("policy", "method_state", "critic", "value_state"):
        assert tiny.same(getattr(states[2], part), getattr(states[1], part)), part
    assert not bool(reports[0]["update_skipped"]) and int(states[1].skipped) == 0
    assert tiny.distance(states[1].policy, states[0].policy) > 0
    assert int(states[2].update) == 2


@pytest.mark.parametrize("name", QUICK)
def test_nan_rewards_are_counted(name):
    states, reports = after_nan(name)
    assert bool(reports[1]["update_skipped"]) and int(states[2].skipped) == 1
    if name != "ppo shared":
        assert bool(reports[1]["value_skipped"])


@pytest.mark.parametrize("name", QUICK)
def test_after_a_nan_training_goes_on(name):
    """One bad rollout must not poison the statistics for ever."""
    states, reports = after_nan(name)
    assert not bool(reports[2]["update_skipped"])
    assert tiny.distance(states[3].policy, states[2].policy) > 0
    assert all(
        bool(jnp.all(jnp.isfinite(x)))
        for x in jax.tree.leaves((states[3].return_stats, states[3].return_trace))
    )


def test_statistics_move_only_after_the_update():
    """The update sees rewards scaled with this rollout's statistics but observations as they were
    collected."""
    ts, r = start("trpo"), rollout()
    new, _ = learn_jit(ALGORITHMS["trpo"], ts, r, seen(r))
    rows = np.asarray(r.obs[:-1])[np.asarray(r.mask)]
    np.testing.assert_allclose(new.obs_stats.mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new.obs_stats.var, rows.var(0), rtol=1e-5)
    other, _ = learn_jit(
        ALGORITHMS["trpo"], ts, r, dataclasses.replace(seen(r), mean=jnp.full(3, 50.0))
    )
    assert tiny.same(other.policy, new.policy)


@pytest.mark.parametrize("kind", ["categorical", "gaussian_state"])
@pytest.mark.slow
def test_drift_is_between_the_policies_of_two_iterations_on_raw_observations(kind):
    """Old parameters with the old statistics, new ones with the new, on what the environment
    said."""
    ts, r = start("trpo", kind), rollout(kind)
    stats = RunningStats(
        jnp.asarray(40.0), jnp.asarray([1.0, -2.0, 0.5]), jnp.asarray([90.0, 10.0, 40.0])
    )
    ts = dataclasses.replace(ts, obs_stats=stats)
    deviation = np.sqrt(np.asarray(stats.var) + 1e-8)
    raw = jnp.asarray(np.asarray(r.obs) * deviation + np.asarray(stats.mean))
    new, report = learn_jit(ALGORITHMS["trpo"], ts, r, moments(raw[:-1], r.mask))
    old_obs, new_obs = (s.normalize(raw[:-1]) for s in (stats, new.obs_stats))
    kl = np.asarray(ts.policy(old_obs).kl(new.policy(new_obs)))
    assert float(report["kl_drift"]) == pytest.approx(kl[np.asarray(r.mask)].mean(), rel=1e-4)
    assert float(report["kl_drift"]) > 1.2 * float(report["kl_mean"])


@pytest.mark.parametrize(
    "options", [{"normalize_obs": False}, pytest.param({}, marks=pytest.mark.slow)]
)
def test_drift_without_a_move_is_the_mean_kl(options):
    ts, r = start("trpo", **options), rollout()
    _, report = learn_jit(ALGORITHMS["trpo"], ts, r, None)
    assert float(report["kl_drift"]) == pytest.approx(float(report["kl_mean"]), rel=1e-5)


def test_rewards_are_scaled_by_the_running_return():
    """Against a loop in NumPy, with an end in between."""
    r, gamma = rollout(), 0.9
    r = dataclasses.replace(r, reward=jnp.where(r.mask, r.reward, 0.0))
    ts = start("trpo")
    scaled, stats, trace, spikes = jax.jit(scale_rewards, static_argnums=3)(
        r, ts.return_stats, jnp.asarray([2.0, -1.0]), gamma
    )
    reward, ended, mask = (np.asarray(x, np.float64) for x in (r.reward, r.terminated, r.mask))
    running, all_returns = np.array([2.0, -1.0]), []
    for t in range(T):
        running = running * gamma + reward[t]
        all_returns.append(running.copy())
        running = np.where(ended[t] > 0, 0, running)
    counted = np.stack(all_returns)[mask > 0]
    assert int(spikes) == 0
    np.testing.assert_allclose(trace, running, rtol=1e-5)
    np.testing.assert_allclose([stats.mean, stats.var], [counted.mean(), counted.var()], rtol=1e-4)
    want = np.clip(reward / np.sqrt(counted.var() + 1e-8), -10, 10)
    np.testing.assert_allclose(np.asarray(scaled.reward)[mask > 0], want[mask > 0], rtol=1e-5)


def test_without_statistics_nothing_is_scaled():
    ts, r = start("trpo", normalize_obs=False, normalize_reward=False), rollout()
    new, _ = learn_jit(ALGORITHMS["trpo"], ts, r, None)
    assert (
        new.obs_stats is None
        and new.return_stats is None
        and tiny.same(new.return_trace, ts.return_trace)
    )


def test_progress_and_annealing():
    ts = start("ppo")
    assert float(dataclasses.replace(ts, update=jnp.asarray(5)).progress) == 0.5
    # Beyond the plan it stays at that of the last of ten updates.
    assert float(dataclasses.replace(ts, update=jnp.asarray(50)).progress) == np.float32(0.9)
    algo = Algorithm(PPO(sgd=dataclasses.replace(SMALL, anneal=True)), FIT)
    last, over = (dataclasses.replace(ts, update=np.asarray(n, np.int32)) for n in (9, 10))
    new, later = (learn_jit(algo, t, rollout(), seen(rollout()))[0] for t in (last, over))
    assert tiny.same(new.policy, later.policy) and not tiny.same(new.policy, ts.policy)


def test_the_report_is_of_the_policy_that_is_kept():
    ts, r = start("trpo"), rollout()
    algo = ALGORITHMS["trpo"]
    _, report = learn_jit(algo, ts, r, seen(r))
    assert {
        "kl_mean",
        "kl_max",
        "surrogate_gain",
        "accepted",
        "value_loss",
        "update_skipped",
    } <= set(report)
    assert 0 < float(report["kl_mean"]) <= 0.01 and float(report["kl_mean"]) <= float(
        report["kl_max"]
    )
    _, reports = after_nan("trpo")
    assert float(reports[1]["kl_mean"]) < 1e-10


def test_updates_are_repeatable_and_keys_move_on():
    ts, r = start("ppo"), rollout()
    a, b = (learn_jit(ALGORITHMS["ppo"], ts, r, seen(r))[0] for _ in range(2))
    data = lambda x: (x.policy, x.critic, x.method_state, jax.random.key_data(x.key))
    assert tiny.same(data(a), data(b))
    assert not np.array_equal(jax.random.key_data(a.key), jax.random.key_data(ts.key))
    assert tiny.same(start("ppo").policy, ts.policy)
