# ruff: noqa: E731 (a lambda reads like the formula)
"""GAE against the sum it stands for, and what becomes of ends, cuts and rows that do not count."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from reference import returns as ref
from surefoot.advantages import GAE, discounted, gae, successor_values
from surefoot.checks import UsageError
from surefoot.types import Rollout

T, N = 9, 4


def episode_data(seed=0):
    """Rewards, values and ends; env 0 terminates, env 1 is cut, env 2 does both at once, env 3 goes
    on."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, T, N))
    terminated, truncated = np.zeros((2, T, N), bool)
    terminated[[2, 6], 0] = True
    truncated[[1, 8], 1] = True
    terminated[4, 2] = truncated[4, 2] = True
    return reward, value, next_value, terminated, truncated


gae_jit = jax.jit(gae)


@pytest.mark.parametrize(
    ("gamma", "lam"), [(0.99, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0), (0.0, 0.9)]
)
def test_gae_is_the_sum_of_its_errors(x64, gamma, lam):
    data = episode_data()
    np.testing.assert_allclose(gae_jit(*data, gamma, lam), ref.gae(*data, gamma, lam), atol=1e-12)


def test_gae_at_its_ends(x64):
    """lam = 1 is the Monte-Carlo return minus V, lam = 0 the one-step error."""
    reward, value, next_value, terminated, truncated = episode_data(1)
    # For the sum of errors to telescope the value of a successor is that of the next row, but where
    # an episode ended.
    ended = terminated | truncated
    next_value[:-1] = np.where(ended[:-1], next_value[:-1], value[1:])
    data = (reward, value, next_value, terminated, truncated)
    want = ref.returns(reward, next_value, terminated, truncated, 0.97) - value
    np.testing.assert_allclose(gae_jit(*data, 0.97, 1.0), want, atol=1e-12)
    np.testing.assert_allclose(
        gae_jit(*data, 0.97, 0.0),
        ref.td_errors(reward, value, next_value, terminated, 0.97),
        atol=1e-12,
    )


def test_nothing_crosses_an_end(x64):
    """Whatever follows an end, advantages before it stay; a cut keeps its own successor's value, an
    end has none."""
    data = episode_data(2)
    before = np.asarray(gae_jit(*data, 0.99, 0.95))
    for env, last in ((0, 2), (1, 1), (2, 4)):
        reward, value, next_value, terminated, truncated = (x.copy() for x in data)
        reward[last + 1 :, env] = 1e6
        value[last + 1 :, env] = -1e6
        after = np.asarray(gae_jit(reward, value, next_value, terminated, truncated, 0.99, 0.95))
        np.testing.assert_array_equal(after[: last + 1, env], before[: last + 1, env])
        next_value[last, env] += 1
        moved = np.asarray(
            gae_jit(data[0], data[1], next_value, terminated, truncated, 0.99, 0.95)
        )[last, env]
        np.testing.assert_allclose(moved - before[last, env], 0.99 if env == 1 else 0, atol=1e-12)


def test_discounted_both_ways(x64):
    rate, x = np.random.default_rng(0).uniform(size=(2, 6, 2))
    forth, back = discounted(rate, x, np.ones(2)), discounted(rate, x, np.ones(2), reverse=True)
    y = np.ones(2)
    for t in range(6):
        y = x[t] + rate[t] * y
        np.testing.assert_allclose(forth[t], y)
    y = np.ones(2)
    for t in reversed(range(6)):
        y = x[t] + rate[t] * y
        np.testing.assert_allclose(back[t], y)


def rollout(same_step, seed=3):
    """A rollout with an end and a cut; after them comes a fresh episode (same step) or a dead row
    (next step)."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(T + 1, N, tiny.OBS)).astype(np.float32)
    terminated, truncated, mask = (
        np.zeros((T, N), bool),
        np.zeros((T, N), bool),
        np.ones((T, N), bool),
    )
    terminated[2, 0] = truncated[5, 1] = True
    if not same_step:
        mask[3, 0] = mask[6, 1] = False
    return Rollout(
        obs=jnp.asarray(obs),
        action=jnp.asarray(rng.integers(0, 3, (T, N))),
        reward=jnp.asarray(rng.normal(size=(T, N)), jnp.float32),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
        mask=jnp.asarray(mask),
        final_obs=jnp.asarray(rng.normal(size=(T, N, tiny.OBS)), jnp.float32)
        if same_step
        else None,
    )


def linear_value(obs):
    """V = sum of the observation."""
    return jnp.sum(obs, axis=-1)


@pytest.mark.parametrize("same_step", [False, True])
def test_the_true_successor(same_step):
    r = rollout(same_step)
    now, after = successor_values(r, linear_value)
    np.testing.assert_allclose(now, np.asarray(r.obs).sum(-1)[:-1], rtol=1e-5)
    want = np.asarray(r.obs).sum(-1)[1:]
    if same_step:
        ended = np.asarray(r.terminated | r.truncated)
        want = np.where(ended, np.asarray(r.final_obs).sum(-1), want)
    np.testing.assert_allclose(after, want, rtol=1e-5)


@pytest.mark.parametrize("same_step", [False, True])
@pytest.mark.parametrize("normalize", ["batch", "none"])
def test_the_batch(same_step, normalize):
    pi = tiny.policy("categorical")
    r = rollout(same_step)
    batch = jax.jit(lambda r: GAE(0.9, 0.8, normalize)(r, pi, linear_value, jnp.asarray(0.5)))(r)
    now, after = (np.asarray(x) for x in successor_values(r, linear_value))
    arrays = [np.asarray(x) for x in (r.reward, now, after, r.terminated, r.truncated)]
    raw = ref.gae(*arrays, 0.9, 0.8)
    mask = np.asarray(r.mask)
    want = ref.standardise(raw, mask) if normalize == "batch" else raw
    np.testing.assert_allclose(
        np.where(mask, want, 0).ravel(), np.where(batch.mask, batch.advantage, 0), atol=1e-5
    )
    np.testing.assert_allclose(batch.value_target, (raw + now).ravel(), atol=1e-5)
    np.testing.assert_allclose(batch.value, now.ravel(), rtol=1e-6)
    np.testing.assert_array_equal(
        batch.obs, np.asarray(r.obs)[:-1].reshape(-1, tiny.OBS)
    )  # time-major
    np.testing.assert_array_equal(batch.action, np.asarray(r.action).ravel())
    np.testing.assert_array_equal(batch.mask, mask.ravel())
    np.testing.assert_allclose(batch.log_prob, batch.old.log_prob(batch.action), rtol=1e-6)
    assert float(batch.progress) == 0.5 and not batch.standardize_minibatch


def test_dead_rows_have_no_influence():
    """Whatever reward, action and end a reset row carries, the rows that count get the same."""
    pi = tiny.policy("categorical")
    make = jax.jit(lambda r: GAE()(r, pi, linear_value, jnp.asarray(0.5)))
    r = rollout(False)
    spoilt = dataclasses.replace(
        r, reward=jnp.where(r.mask, r.reward, 1e6), action=jnp.where(r.mask, r.action, 0)
    )
    a, b = make(r), make(spoilt)
    for x, y in ((a.advantage, b.advantage), (a.value_target, b.value_target)):
        np.testing.assert_array_equal(
            np.asarray(x)[np.asarray(a.mask)], np.asarray(y)[np.asarray(a.mask)]
        )


def test_minibatch_normalisation_starts_from_the_batch():
    pi = tiny.policy("categorical")
    make = lambda how: GAE(normalize=how)(rollout(True), pi, linear_value, jnp.asarray(0.5))
    whole, parts = make("batch"), make("minibatch")
    np.testing.assert_array_equal(whole.advantage, parts.advantage)
    assert parts.standardize_minibatch and not whole.standardize_minibatch
    np.testing.assert_allclose(
        parts.minibatch(jnp.arange(36)).advantage, whole.advantage, atol=1e-5
    )


def test_a_recorded_log_probability_is_kept():
    r = dataclasses.replace(rollout(True), log_prob=jnp.full((T, N), -0.123))
    batch = GAE()(r, tiny.policy("categorical"), linear_value, jnp.asarray(0.0))
    np.testing.assert_array_equal(batch.log_prob, np.float32(-0.123))


@pytest.mark.parametrize(
    "fields", [{"gamma": 1.1}, {"gamma": None}, {"lam": -0.1}, {"normalize": "episode"}]
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(UsageError, match=f"GAE.{next(iter(fields))} is"):
        GAE(**fields)
