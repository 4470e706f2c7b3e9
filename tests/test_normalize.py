"""Running statistics: merging is one pass, and host and device normalise alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.normalize import (
    OBS_CLIP,
    VAR_EPS,
    HostNormalizer,
    RunningStats,
    host_moments,
    moments,
)


def draw(seed, rows, d=3):
    rng = np.random.default_rng(seed)
    return rng.normal(rng.normal(size=d) * 5, np.exp(rng.normal(size=d)), (rows, d))


def everywhere(rows):
    return np.ones(len(rows), bool)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5), seed=st.integers(0, 10))
def test_merging_parts_is_one_pass_over_the_whole(sizes, seed):
    parts = [draw(seed + i, n) for i, n in enumerate(sizes)]
    stats = RunningStats.empty((3,))
    for part in parts:
        stats = stats.merge(host_moments(part, everywhere(part)))
    whole = np.concatenate(parts)
    assert stats.count == len(whole)
    if len(whole):
        np.testing.assert_allclose(stats.mean, whole.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats.var, whole.var(axis=0), rtol=1e-4, atol=1e-6)


def test_merging_in_float64_is_exact(x64):
    stats = RunningStats(*(jnp.asarray(x, float) for x in (0.0, np.zeros(3), np.zeros(3))))
    whole = draw(1, 300)
    add = jax.jit(lambda stats, x: stats.merge(moments(x, jnp.ones(len(x), bool))))
    for part in np.split(whole, [100, 200]):
        stats = add(stats, part)
    np.testing.assert_allclose(stats.mean, whole.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats.m2, whole.var(axis=0) * 300, rtol=1e-12)


def test_carrying_over_is_normalising_the_raw_observation_again(x64):
    raw = jnp.asarray(draw(3, 400))
    first = moments(jnp.asarray(draw(4, 50)), everywhere(draw(4, 50)))
    empty = RunningStats(*(jnp.asarray(x, float) for x in (0.0, np.zeros(3), np.zeros(3))))
    for before in (first, empty):
        after = before.merge(moments(raw, everywhere(raw)))
        x = before.normalize(raw)
        got, want = (np.asarray(v) for v in (before.carry(x, after), after.normalize(raw)))
        inside = np.abs(np.asarray(x)) < OBS_CLIP
        assert inside.sum() > 300
        np.testing.assert_allclose(got[inside], want[inside], rtol=1e-9, atol=1e-12)
        assert np.abs(got).max() <= OBS_CLIP


def test_merging_is_symmetric(x64):
    a, b = (moments(jnp.asarray(x), everywhere(x)) for x in (draw(1, 7), draw(2, 1000)))
    for left, right in zip(jax.tree.leaves(a.merge(b)), jax.tree.leaves(b.merge(a)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)


def test_nothing_merged_is_nothing_changed():
    some = host_moments(draw(0, 50), np.ones(50, bool))
    for merged in (some.merge(RunningStats.empty((3,))), RunningStats.empty((3,)).merge(some)):
        jax.tree.map(np.testing.assert_array_equal, merged, some)


def test_many_small_merges_keep_their_digits():
    """A thousand rollouts in float32, far from zero: what a run does to its statistics."""
    rng = np.random.default_rng(0)
    rows = rng.normal(30, 0.5, (1000, 256, 2))
    stats, merge = RunningStats.empty((2,)), jax.jit(RunningStats.merge)
    for part in rows:
        stats = merge(stats, host_moments(part, everywhere(part)))
    flat = rows.reshape(-1, 2)
    np.testing.assert_allclose(stats.mean, flat.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats.var, flat.var(axis=0), rtol=1e-3)


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4)])
def test_moments_look_at_masked_rows_only(shape):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(3, 2, shape).astype(np.float32), rng.random((5, 4)) < 0.6
    rubbish = np.where(mask.reshape(5, 4, *(1,) * (len(shape) - 2)), x, 1e4).astype(np.float32)
    for got in (moments(jnp.asarray(rubbish), jnp.asarray(mask)), host_moments(rubbish, mask)):
        assert got.count == mask.sum()
        np.testing.assert_allclose(got.mean, x[mask].mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(got.m2, x[mask].var(axis=0) * mask.sum(), rtol=1e-5)


def test_moments_of_no_rows_are_nothing():
    for got in (
        moments(jnp.ones((2, 2, 3)), jnp.zeros((2, 2), bool)),
        host_moments(np.ones((2, 2, 3)), np.zeros((2, 2), bool)),
    ):
        assert got.count == 0 and not np.any(got.mean) and not np.any(got.m2)
        assert got.mean.shape == got.m2.shape == (3,)


def host(stats, x):
    out = np.empty(x.shape, np.float32)
    HostNormalizer(stats)(x, out)
    return out


@pytest.mark.parametrize("rows", [0, 1, 2, 500])
def test_host_and_device_normalise_alike(rows):
    seen = draw(4, rows)
    stats = RunningStats.empty((3,)).merge(host_moments(seen, everywhere(seen)))
    x = draw(5, 40).astype(np.float32)
    x[0], x[1] = 1e6, -1e6
    on_device = np.asarray(stats.normalize(jnp.asarray(x)))
    np.testing.assert_allclose(host(stats, x.astype(np.float64)), on_device, rtol=2e-5, atol=2e-5)
    assert np.abs(on_device).max() == OBS_CLIP == np.abs(host(stats, x.astype(np.float64))).max()


def test_normalised_is_mean_zero_deviation_one():
    x = draw(6, 5000)
    got = host(host_moments(x, everywhere(x)), x)
    np.testing.assert_allclose(got.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(got.std(axis=0), 1, rtol=1e-4)


def test_before_anything_was_seen_numbers_pass():
    x = np.array([[0.5, -3.0, 2.0]])
    for got in (
        host(RunningStats.empty((3,)), x),
        RunningStats.empty((3,)).normalize(jnp.asarray(x, jnp.float32)),
    ):
        np.testing.assert_allclose(got, x, rtol=1e-6)
    assert np.array_equal(RunningStats.empty((3,)).var, [1, 1, 1])


def test_without_statistics_nothing_is_clipped():
    x = np.array([[50.0, -3.0, 2.0]])
    np.testing.assert_array_equal(host(None, x), x)


def test_a_constant_observation_becomes_zero():
    x = np.full((30, 3), 7.5)
    stats = host_moments(x, everywhere(x))
    assert not host(stats, x).any()
    np.testing.assert_allclose(host(stats, x + 1e-5), 1e-5 / np.sqrt(VAR_EPS), rtol=1e-3)


def test_the_input_is_left_alone():
    x = draw(1, 4)
    before = x.copy()
    host(host_moments(x, everywhere(x)), x)
    np.testing.assert_array_equal(x, before)
