# ruff: noqa: E731 (a lambda reads like the formula)
"""Shuffles, minibatch sweeps, and Adam behind a clipped gradient."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import tiny
from reference.proximal import Adam
from surefoot.checks import UsageError
from surefoot.sgd import SGD, shuffles, sweep
from surefoot.types import standardize

FALSE_ALARM = 1e-7


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64, 1000, 4096, 4097, 5000])
def test_every_epoch_is_a_permutation(rows):
    out = np.asarray(shuffles(jax.random.key(rows), 3, rows))
    np.testing.assert_array_equal(np.sort(out, axis=-1), np.tile(np.arange(rows), (3, 1)))
    assert out.dtype == np.int32
    if rows >= 64:
        assert not np.array_equal(out[0], out[1]) and not np.array_equal(out[1], out[2])
        assert not np.array_equal(out, np.asarray(shuffles(jax.random.key(rows + 1), 3, rows)))


@pytest.mark.parametrize("rows", [4, 6])
def test_all_orders_are_equally_likely(rows):
    """Chi-square over every order of a few rows; a false alarm has probability 1e-7."""
    draws = 720 * 40
    out = np.asarray(shuffles(jax.random.key(0), draws, rows))
    code = out @ rows ** np.arange(rows)
    counts = np.unique(code, return_counts=True)[1]
    orders = int(np.prod(np.arange(1, rows + 1)))
    counts = np.concatenate([counts, np.zeros(orders - len(counts))])
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


@pytest.mark.parametrize("rows", [4096, 4100])
def test_rows_land_everywhere(rows):
    """Both ways of sorting: where the rows of each sixteenth land, in sixteenths (chi-square, false
    alarm 1e-7), and the rank correlation of row and place (six deviations)."""
    epochs, cells = 24, 16
    out = np.asarray(shuffles(jax.random.key(1), epochs, rows))[:, : rows // cells * cells]
    place = np.broadcast_to(np.arange(out.shape[1]) * cells // out.shape[1], out.shape)
    table = np.zeros((cells, cells))
    np.add.at(table, (np.minimum(out * cells // rows, cells - 1).ravel(), place.ravel()), 1)
    assert stats.chisquare(table.ravel(), ddof=2 * cells - 2).pvalue > FALSE_ALARM
    for row in out:
        assert abs(np.corrcoef(row, np.arange(len(row)))[0, 1]) < 6 / np.sqrt(len(row))


def counting_batch(rows=10):
    """A batch whose advantage is the row number."""
    batch = tiny.batch("categorical", tiny.policy("categorical"), rows=rows)
    return dataclasses.replace(batch, advantage=jnp.arange(rows, dtype=jnp.float32))


def test_sweep_takes_every_row_once_an_epoch():
    step = lambda seen, mb: (seen + 1, {"rows": mb.advantage})
    run = jax.jit(lambda k: sweep(step, jnp.asarray(0), counting_batch(10), k, 3, 3))
    last, info = run(jax.random.key(0))
    assert int(last) == 9 and info["rows"].shape == (
        9,
        3,
    )  # 10 // 3 rows each, one left out an epoch
    for epoch in np.asarray(info["rows"]).reshape(3, 9):
        assert len(set(epoch)) == 9
    want = np.asarray(shuffles(jax.random.key(0), 3, 10))[:, :9].reshape(9, 3)
    np.testing.assert_array_equal(info["rows"], want)


def test_sweep_standardises_each_minibatch_where_the_batch_asks():
    batch = dataclasses.replace(
        counting_batch(12), standardize_minibatch=True, mask=jnp.arange(12) != 5
    )
    seen = sweep(
        lambda c, mb: (c, {"a": mb.advantage, "m": mb.mask}), 0, batch, jax.random.key(2), 2, 3
    )[1]
    for a, m in zip(np.asarray(seen["a"]), np.asarray(seen["m"]), strict=True):
        assert abs(a[m].mean()) < 1e-6 and abs(a[m].std() - 1) < 1e-5 and np.all(a[~m] == 0)


def test_more_minibatches_than_rows_is_refused():
    with pytest.raises(UsageError, match="minibatches is 11 but a batch has 10 rows"):
        sweep(lambda c, mb: (c, {}), 0, counting_batch(10), jax.random.key(0), 1, 11)


def quadratic(params, mb):
    """Distance of the parameters to the mean row number."""
    loss = jnp.sum((params["x"] - mb.mean(mb.advantage)) ** 2) + 100 * jnp.sum(params["y"] ** 2)
    return loss, {"norm": jnp.sum(params["x"] ** 2)}


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6])
@pytest.mark.parametrize("anneal", [False, True])
def test_adam_with_clipped_gradient(x64, max_norm, anneal):
    sgd = SGD(
        lr=0.03, epochs=3, minibatches=2, anneal=anneal, max_grad_norm=max_norm, adam_eps=1e-3
    )
    batch = dataclasses.replace(counting_batch(10), progress=jnp.asarray(0.25))
    batch = dataclasses.replace(batch, advantage=batch.advantage.astype(np.float64))
    start = {"x": jnp.asarray([1.0, -2.0]), "y": jnp.asarray([0.3])}
    run = jax.jit(lambda p, o, k: sgd.minimise(quadratic, p, o, batch, k))
    params, opt, info = run(start, sgd.init(start), jax.random.key(4))

    adam = Adam(3, 0.03 * (0.75 if anneal else 1), 1e-3, max_norm)
    theta, losses = np.array([1.0, -2.0, 0.3]), []
    for rows in np.asarray(shuffles(jax.random.key(4), 3, 10)).reshape(6, 5):
        mean = rows.mean()
        losses.append(np.sum((theta[:2] - mean) ** 2) + 100 * theta[2] ** 2)
        theta = adam.step(theta, np.array([*(2 * (theta[:2] - mean)), 200 * theta[2]]))
    np.testing.assert_allclose(np.concatenate([params["x"], params["y"]]), theta, rtol=1e-12)
    np.testing.assert_allclose(float(info["loss"]), np.mean(losses), rtol=1e-12)
    again, _, _ = run(params, opt, jax.random.key(5))  # the moments are carried on
    for rows in np.asarray(shuffles(jax.random.key(5), 3, 10)).reshape(6, 5):
        theta = adam.step(theta, np.array([*(2 * (theta[:2] - rows.mean())), 200 * theta[2]]))
    np.testing.assert_allclose(np.concatenate([again["x"], again["y"]]), theta, rtol=1e-12)


@pytest.mark.parametrize(("limit", "epochs"), [(-1.0, 1), (0.0, 1), (1e9, 4)])
def test_stop_ends_after_an_epoch(limit, epochs):
    sgd = SGD(lr=0.1, epochs=4, minibatches=2)
    start = {"x": jnp.asarray([1.0, -2.0]), "y": jnp.asarray([0.3])}
    batch = counting_batch(10)
    stop = lambda p: jnp.sum((p["x"] - start["x"]) ** 2) > limit
    run = jax.jit(lambda p: sgd.minimise(quadratic, p, sgd.init(p), batch, jax.random.key(0), stop))
    params, opt, info = run(start)
    assert int(info["epochs"]) == epochs
    assert int(opt[1].count) == 2 * epochs
    assert tiny.distance(params, start) > 0.05


def test_stop_is_asked_with_the_new_parameters():
    sgd = SGD(lr=0.1, epochs=20, minibatches=2, max_grad_norm=None)
    start = {"x": jnp.asarray([1.0, -2.0]), "y": jnp.asarray([0.3])}
    far = lambda p: jnp.sum((p["x"] - start["x"]) ** 2) > 0.5
    params, _, info = jax.jit(
        lambda p: sgd.minimise(
            quadratic, p, sgd.init(p), counting_batch(10), jax.random.key(0), far
        )
    )(start)
    assert 1 < int(info["epochs"]) < 20 and bool(far(params))
    fewer = dataclasses.replace(sgd, epochs=int(info["epochs"]) - 1)
    before, _, _ = jax.jit(
        lambda p: fewer.minimise(
            quadratic, p, fewer.init(p), counting_batch(10), jax.random.key(0), far
        )
    )(start)
    assert not bool(far(before))


@pytest.mark.slow
def test_standardising_twice_is_standardising_once(x64):
    batch = counting_batch(12)
    batch = dataclasses.replace(
        batch, advantage=batch.advantage.astype(np.float64) ** 2, mask=jnp.arange(12) != 3
    )
    once = standardize(batch, batch.advantage)
    part = dataclasses.replace(batch, advantage=once).take(jnp.asarray([0, 3, 4, 7, 9]))
    raw = batch.take(jnp.asarray([0, 3, 4, 7, 9]))
    np.testing.assert_allclose(
        standardize(part, part.advantage), standardize(raw, raw.advantage), atol=1e-6
    )
    np.testing.assert_allclose(standardize(batch, once), once, atol=1e-7)


@pytest.mark.parametrize(
    "fields",
    [
        {"lr": -1.0},
        {"lr": float("inf")},
        {"epochs": 0},
        {"minibatches": 0},
        {"minibatches": 2.0},
        {"max_grad_norm": 0.0},
        {"adam_eps": 0.0},
    ],
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(UsageError, match=f"SGD.{next(iter(fields))} is"):
        SGD(**fields)
