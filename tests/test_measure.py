# ruff: noqa: E731 (a lambda reads like the formula)
"""The ruler against NumPy, row by row."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import tiny
from reference.divergence import gaussian_kl
from reference.network import Net
from surefoot.measure import explained_variance, measure, quantile


def parts(net, old, new, s):
    """KL(old || new) with the new mean put back to the old one, and what is missing from it."""
    p, q = net.outputs(old, s), net.outputs(new, s)
    k = net.k
    alike = gaussian_kl(p[:k], np.exp(p[k:]), p[:k], np.exp(q[k:]))
    return alike, net.kl(old, new, s) - alike


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_column(x64, kind):
    pi = tiny.policy(kind, dtype=np.float64)
    batch = tiny.batch(kind, pi, masked=6)
    new = tiny.policy(kind, seed=9, dtype=np.float64)
    got = {k: float(v) for k, v in jax.jit(measure)(tiny.rubbish(batch), new).items()}
    net = Net(kind, tiny.OBS, tiny.HIDDEN, tiny.spec(kind).action_dim)
    old_theta, theta = (np.asarray(ravel_pytree(p)[0]) for p in (pi, new))
    data = tiny.rows_of(batch)
    kl = np.array([net.kl(old_theta, theta, s) for s, *_ in data])
    back = [net.kl(theta, old_theta, s) for s, *_ in data]
    ratio = np.exp([net.log_prob(theta, s, a) - lp for s, a, lp, _ in data])
    want = {
        "kl_mean": kl.mean(),
        "kl_q99": kl.max(),
        "kl_max": kl.max(),
        "kl_reverse": np.mean(back),
        "kl_reverse_max": np.max(back),
        "ratio_min": ratio.min(),
        "ratio_max": ratio.max(),
        "surrogate_gain": np.mean((ratio - 1) * [adv for *_, adv in data]),
    }
    rows = np.asarray(batch.mask)
    v, t = np.asarray(batch.value)[rows], np.asarray(batch.value_target)[rows]
    want["explained_variance"] = 1 - np.var(t - v) / np.var(t)
    want["entropy"] = np.asarray(new(batch.obs).entropy())[rows].mean()
    if kind != "categorical":
        same_std = [parts(net, old_theta, theta, s) for s, *_ in data]
        want["kl_part_cov"], want["kl_part_mean"] = np.mean(same_std, axis=0)
        np.testing.assert_allclose(got["kl_part_cov"] + got["kl_part_mean"], kl.mean(), rtol=1e-9)
    assert set(got) == set(want)
    np.testing.assert_allclose([got[k] for k in want], list(want.values()), rtol=1e-9)


def test_quantile_is_the_smallest_with_that_share_below():
    rank = jax.jit(lambda x, mask: quantile(x, mask, 0.99))
    x = jnp.arange(1200.0)
    for count in [*range(1, 30), 99, 100, 101, 199, 200, 201, 300, 700, 1000, 1100, 1200]:
        assert float(rank(x, x < count)) == math.ceil(Fraction(99, 100) * count) - 1


def test_explained_variance_at_its_ends():
    batch = tiny.batch("categorical", tiny.policy("categorical"), masked=4)
    ev = lambda value, target: float(explained_variance(value, target, batch))
    t = batch.value_target
    assert ev(t, t) == 1 and abs(ev(jnp.zeros_like(t), t)) < 1e-6 and ev(t, jnp.ones_like(t)) == 0
    assert ev(-t, t) < -2.9 and ev(t + 5, t) > 0.999


def test_nan_is_shown():
    batch = tiny.batch("categorical", tiny.policy("categorical"))
    new = tiny.policy("categorical", seed=3)
    broken = dataclasses.replace(batch, old=jax.tree.map(lambda x: x.at[3].set(jnp.nan), batch.old))
    got = jax.jit(measure)(broken, new)
    assert math.isnan(got["kl_mean"]) and math.isnan(got["kl_max"])


def test_quantile_orders_numbers_of_either_sign():
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.normal(size=197) * 10.0 ** rng.integers(-30, 30, 197), [0.0, np.inf, -np.inf]]
    )
    x = rng.permutation(x.astype(np.float32))
    mask = rng.uniform(size=200) < 0.8
    want = np.sort(x[mask])
    for q in (0.01, 0.25, 0.5, 0.75, 1.0):
        assert (
            float(quantile(jnp.asarray(x), jnp.asarray(mask), q))
            == want[math.ceil(q * mask.sum()) - 1]
        )
