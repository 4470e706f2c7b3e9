# ruff: noqa: E731 (a lambda reads like the formula)
"""The critic's loss and fit, the shared critic's penalty, and the entropy bonus."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from surefoot.checks import UsageError
from surefoot.networks import Networks
from surefoot.sgd import SGD
from surefoot.types import Batch
from surefoot.value import EntropyBonus, SharedValue, ValueFit, value_loss


def critic_and_batch(rows=64):
    """A critic and a batch whose value target is linear in the observation."""
    critic = tiny.cast(
        tiny.networks("categorical").init(tiny.spec("categorical"), 0)[1], np.float32
    )
    batch = tiny.batch("categorical", tiny.policy("categorical"), rows=rows, masked=8)
    return critic, dataclasses.replace(
        batch, value_target=batch.obs @ jnp.asarray([1.0, -0.5, 0.2]), value=critic(batch.obs)
    )


def test_value_loss_is_half_the_mean_square_and_clips_pessimistically():
    _, batch = critic_and_batch()
    rng = np.random.default_rng(0)
    value = jnp.asarray(np.asarray(batch.value) + rng.normal(size=64), jnp.float32)
    v, old, target, mask = (
        np.asarray(x, np.float64) for x in (value, batch.value, batch.value_target, batch.mask)
    )
    plain = (v - target) ** 2
    np.testing.assert_allclose(
        value_loss(value, batch, None), 0.5 * np.average(plain, weights=mask), rtol=1e-5
    )
    near = old + np.clip(v - old, -0.3, 0.3)
    worse = np.maximum(plain, (near - target) ** 2)
    np.testing.assert_allclose(
        value_loss(value, batch, 0.3), 0.5 * np.average(worse, weights=mask), rtol=1e-5
    )
    assert np.average(worse, weights=mask) > np.average(plain, weights=mask)


def test_the_critic_is_fitted_and_dead_rows_have_no_influence():
    critic, batch = critic_and_batch()
    fit = ValueFit(SGD(lr=0.03, epochs=20, minibatches=2, max_grad_norm=None))
    run = jax.jit(lambda b: fit.update(critic, fit.init(critic), b, jax.random.key(0)))
    new, state, info = run(batch)
    before = value_loss(critic(batch.obs), batch, None)
    after = value_loss(new(batch.obs), batch, None)
    assert float(after) < 0.3 * float(before) and float(after) < float(info["loss"]) < float(before)
    assert fit.of(None, critic) is critic and fit.penalty(None, batch) is None
    assert tiny.same((new, state), run(tiny.rubbish(batch))[:2])


def test_the_shared_critic_pays_through_the_penalty():
    pi, critic = Networks(hidden=(6,), shared_layers=1).init(tiny.spec("categorical"), 0)
    pi = tiny.cast(pi, np.float32)
    _, batch = critic_and_batch()
    shared = SharedValue(coef=0.7)
    want = 0.7 * value_loss(pi.value(batch.obs), batch, None)
    np.testing.assert_allclose(shared.penalty(pi, batch), want, rtol=1e-6)
    assert shared.update(critic, shared.init(critic), batch, jax.random.key(0)) == ((), (), {})
    np.testing.assert_array_equal(shared.of(pi, critic)(batch.obs), pi.value(batch.obs))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_entropy_bonus_and_its_gradient(kind):
    """The gradient of minus coef times the mean entropy: checked along a line by differences,
    masked rows excluded."""
    pi = tiny.policy(kind)
    batch: Batch = tiny.batch(kind, pi, masked=5)
    bonus = EntropyBonus(0.3)
    value, slope = jax.jit(jax.value_and_grad(bonus))(pi, batch)
    rows = np.asarray(batch.mask)
    np.testing.assert_allclose(
        value, -0.3 * np.asarray(batch.old.entropy())[rows].mean(), rtol=1e-5
    )
    along = jax.tree.map(lambda g: g / 0.3, slope)
    moved = lambda t: jax.tree.map(lambda p, d: p + t * d, pi, along)
    h = 1e-2
    entropy = lambda t: np.asarray(moved(t)(batch.obs).entropy(), np.float64)[rows].mean()
    by_difference = -0.3 * (entropy(h) - entropy(-h)) / (2 * h)
    square = 0.3 * sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(along))
    np.testing.assert_allclose(square, by_difference, rtol=2e-2)
    if kind == "gaussian":  # entropy is the sum of the log-deviations, so its slope in each is 1
        np.testing.assert_allclose(slope.head.std, -0.3, rtol=1e-5)


def test_fields_out_of_range_are_refused():
    for make in (
        lambda: ValueFit(clip=0.0),
        lambda: SharedValue(coef=-1.0),
        lambda: SharedValue(clip=-1.0),
        lambda: EntropyBonus(None),
    ):
        with pytest.raises(UsageError, match="allowed"):
            make()
