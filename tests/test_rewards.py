"""One faulty reward leaves the scale of all others alone; ordinary rewards are never touched."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from surefoot.normalize import RunningStats, moments
from surefoot.rewards import scale_rewards
from surefoot.types import Rollout

T, N, GAMMA = 128, 4, 0.9


@functools.lru_cache
def go():
    return jax.jit(lambda r, stats, trace: scale_rewards(r, stats, trace, GAMMA))


def rollout(reward, mask=None):
    rows = np.zeros(reward.shape, bool)
    return Rollout(
        obs=jnp.zeros((*reward.shape, 1)),
        action=jnp.zeros((*reward.shape, 1)),
        reward=jnp.asarray(reward, jnp.float32),
        terminated=jnp.asarray(rows),
        truncated=jnp.asarray(rows),
        mask=jnp.asarray(~rows if mask is None else mask),
        final_obs=None,
    )


def scaled(reward, stats=None, mask=None):
    stats = stats if stats is not None else RunningStats.empty(())
    return go()(rollout(reward, mask), stats, jnp.zeros(N))


def dense(seed=0):
    return np.random.default_rng(seed).normal(1, 1, (T, N))


def spiked(reward, value, at=(40, 2)):
    reward = reward.copy()
    reward[at] = value
    return reward


@pytest.mark.parametrize("rollouts_before", [0, 1])
@pytest.mark.parametrize("value", [1e9, -1e9, 1e30])
def test_a_spike_counts_as_the_largest_reward(value, rollouts_before):
    stats = scaled(dense(1))[1] if rollouts_before else None
    clean, clean_stats, *_ = scaled(dense(), stats)
    got, after, trace, spikes = scaled(spiked(dense(), value), stats)
    assert int(spikes) == 1
    assert 0.9 < float(after.var / clean_stats.var) < 1.1
    assert np.all(np.isfinite(trace)) and abs(float(trace[2])) < 30
    ratio = np.sqrt(float(clean_stats.var / after.var))
    others = np.arange(T) != 40
    np.testing.assert_allclose(
        np.asarray(got.reward)[others], np.asarray(clean.reward)[others] * ratio, rtol=1e-4
    )
    assert 8 < np.sign(value) * float(got.reward[40, 2]) <= 10


def test_a_spike_in_a_row_that_is_only_a_reset_is_nothing():
    mask = np.ones((T, N), bool)
    mask[40, 2] = False
    for reward in (dense(), spiked(dense(), 1e9)):
        *_, spikes = scaled(reward, mask=mask)
        assert int(spikes) == 0
    assert np.isfinite(float(scaled(spiked(dense(), 1e9), mask=mask)[1].var))


@pytest.mark.parametrize(
    "reward",
    [
        np.ones((T, N)),
        np.zeros((T, N)),
        spiked(np.zeros((T, N)), 1.0),
        spiked(np.full((T, N), -0.1), 100.0),
        spiked(dense() * 1e-3, 1.0),
        dense() * 1e6,
    ],
    ids=["constant", "zero", "sparse", "goal", "hundreds of times", "large"],
)
def test_ordinary_rewards_are_not_touched(reward):
    """In the first rollout and in later ones: what comes out is what no guard would give."""
    stats = None
    for _ in range(2):
        before = stats if stats is not None else RunningStats.empty(())
        got, stats, _, spikes = scaled(reward, stats)
        running, seen = np.zeros(N), []
        for row in np.asarray(reward, np.float32):
            running = GAMMA * running + row
            seen.append(running)
        want = before.merge(moments(jnp.asarray(np.stack(seen), jnp.float32), jnp.ones((T, N))))
        assert int(spikes) == 0
        np.testing.assert_allclose(stats.var, want.var, rtol=1e-4, atol=1e-12)
        scale = np.sqrt(np.float64(want.var) + 1e-8)
        np.testing.assert_allclose(got.reward, np.clip(reward / scale, -10, 10), rtol=1e-4)


def test_the_first_reward_after_nothing_but_zeros_is_not_a_spike():
    stats = scaled(np.zeros((T, N)))[1]
    got, stats, _, spikes = scaled(spiked(np.zeros((T, N)), 1.0), stats)
    assert int(spikes) == 0 and float(stats.var) > 0 and float(got.reward[40, 2]) > 1


def test_a_new_scale_of_rewards_is_learnt():
    """Rewards that have become ten thousand times as large are spikes at first, and then not."""
    stats, seen = scaled(dense())[1], []
    for seed in range(12):
        _, stats, _, spikes = scaled(1e4 * dense(seed), stats)
        seen.append(int(spikes))
    assert seen[0] > T and seen[-1] == 0, seen


def test_spikes_now_and_then_stay_spikes():
    """However many come, at one in a hundred steps the scale stays that of ordinary rewards."""
    stats, draw = None, np.random.default_rng(0)
    for seed in range(30):
        where = draw.random((T, N)) < 0.01
        reward = np.where(where, 1e9 * draw.choice([-1, 1], (T, N)), dense(seed))
        _, stats, _, spikes = scaled(reward, stats)
        assert seed == 0 or int(spikes) == where.sum()
    assert float(stats.var) < 3 * float(scaled(dense())[1].var)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_left_for_the_incident_guard(value):
    got, _, _, spikes = scaled(spiked(dense(), value))
    assert int(spikes) == 0 and not np.isfinite(np.asarray(got.reward)).all()


def test_under_vmap():
    many = jax.vmap(lambda r: go()(r, RunningStats.empty(()), jnp.zeros(N)))
    pair = [rollout(dense()), rollout(spiked(dense(), 1e9))]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *pair)
    got = many(stacked)
    assert got[3].tolist() == [0, 1]
    for i, r in enumerate(pair):
        alone = go()(r, RunningStats.empty(()), jnp.zeros(N))
        assert tiny.distance(got[0].reward[i], alone[0].reward) < 1e-4


def test_integer_rewards_of_float16_range_stay_float32():
    got, stats, trace, _ = scaled(spiked(np.ones((T, N)), 3.0e38))
    assert {got.reward.dtype, trace.dtype, np.asarray(stats.var).dtype} == {np.dtype(np.float32)}
    assert dataclasses.is_dataclass(got)
