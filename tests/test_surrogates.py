"""The surrogates row by row against their formulas."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from surefoot.checks import UsageError
from surefoot.surrogates import SURROGATES, Clipped, Importance, SelfNormalised, ratio


def with_ratios(ratios, advantages):
    """A policy's distribution and a batch in which the ratios are the given ones."""
    pi = tiny.policy("categorical")
    batch = tiny.batch("categorical", pi, rows=len(ratios))
    log_prob = batch.log_prob - jnp.log(jnp.asarray(ratios, jnp.float32))
    return batch.old, dataclasses.replace(
        batch, log_prob=log_prob, advantage=jnp.asarray(advantages, jnp.float32)
    )


R = np.array([0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0] * 2)
A = np.array([1.5] * 7 + [-0.5] * 7)


def test_ratio_and_importance():
    new, batch = with_ratios(R, A)
    np.testing.assert_allclose(ratio(new, batch), R, rtol=1e-5)
    np.testing.assert_allclose(Importance()(new, batch), R * A, rtol=1e-5)


@pytest.mark.parametrize("clip", [0.2, 0.5, float("inf")])
def test_clipped_is_the_worse_of_the_two(clip):
    new, batch = with_ratios(R, A)
    want = np.minimum(R * A, np.clip(R, 1 - clip, 1 + clip) * A)
    np.testing.assert_allclose(Clipped(clip)(new, batch), want, rtol=1e-5)


def test_clipped_is_flat_only_on_the_side_the_advantage_pushes_to():
    new, batch = with_ratios(R, A)

    def gain(shift):
        moved = dataclasses.replace(batch, log_prob=batch.log_prob - shift)
        return jnp.sum(Clipped(0.2)(new, moved))

    slope = np.asarray(jax.jit(jax.grad(gain))(jnp.zeros(len(R))))
    flat = ((A > 0) & (R > 1.2)) | ((A < 0) & (R < 0.8))
    np.testing.assert_allclose(slope, np.where(flat, 0, R * A), rtol=1e-5)


def test_rows_that_do_not_count_give_no_nan():
    """Even where their ratio would overflow: zero times infinity in the gradient is NaN."""
    pi = tiny.policy("gaussian")
    batch = tiny.batch("gaussian", pi, masked=5)
    batch = dataclasses.replace(batch, log_prob=jnp.where(batch.mask, batch.log_prob, -1e6))
    for surrogate in (Importance(), Clipped(0.2)):
        slope = jax.jit(jax.grad(lambda p, s=surrogate: batch.mean(s(p(batch.obs), batch))))(pi)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(slope))


def test_the_table_and_the_ranges():
    assert {name: record() for name, record in SURROGATES.items()} == {
        "importance": Importance(),
        "clipped": Clipped(),
        "self_normalised": SelfNormalised(),
    }
    for clip in (0.0, -1.0, float("nan"), None, "0.2"):
        with pytest.raises(UsageError, match=r"Clipped\.clip is"):
            Clipped(clip)
