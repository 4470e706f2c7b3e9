# ruff: noqa: E731 (a lambda reads like the formula)
"""The repair: every row is looked at, a pass in which nothing moved certifies, and the walk back
returns what it tested."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from surefoot.divergences import KLNewOld, KLOldNew, MeanState, WorstState
from surefoot.networks import Networks
from surefoot.repair import acting_parameters, actor_from, only, repair, walk_back


def heights(rows=10, masked=()):
    """A batch whose advantage is 0, 1, 2, ..."""
    batch = tiny.batch("categorical", tiny.policy("categorical"), rows=rows)
    mask = jnp.asarray([i not in masked for i in range(rows)])
    return dataclasses.replace(batch, advantage=jnp.arange(rows, dtype=jnp.float32), mask=mask)


def lower(level, batch, order, chunks, max_sweeps=100, by=1.0):
    """A level that is inside where no row is higher; a step raises it. What was looked at is the
    state: how often every row was seen."""

    def step(level, seen, chunk):
        return level + by, seen.at[chunk.advantage.astype(int)].add(chunk.mask.astype(int))

    inside = lambda level, chunk: jnp.max(jnp.where(chunk.mask, chunk.advantage, -1)) <= level
    run = jax.jit(
        lambda b, o: repair(step, inside, level, jnp.zeros(10, int), b, o, chunks, max_sweeps)
    )
    return run(batch, order)


def by_hand(level, order, chunks, max_sweeps, masked=(), by=1.0):
    """The same with lists: (level, steps, looks, clean)."""
    size = -(-len(order) // chunks)
    parts = [order[i * size : (i + 1) * size] for i in range(chunks)]
    streak = looks = steps = 0
    while streak < chunks and looks < chunks * max_sweeps:
        part = [r for r in parts[looks % chunks] if r not in masked]
        looks, streak = looks + 1, streak + 1
        if max(part, default=-1) > level:
            level, steps, streak = level + by, steps + 1, 0
    return level, steps, looks, streak == chunks


@pytest.mark.parametrize("chunks", [1, 3, 4, 10])
@pytest.mark.parametrize("max_sweeps", [0, 2, 100])
def test_it_goes_round_until_a_whole_round_is_clean(chunks, max_sweeps):
    order = np.random.default_rng(chunks).permutation(10)
    level, _, r = lower(jnp.float32(4.5), heights(), jnp.asarray(order), chunks, max_sweeps)
    want = by_hand(4.5, order, chunks, max_sweeps)
    assert (float(level), int(r.steps), bool(r.clean)) == (want[0], want[1], want[3])
    np.testing.assert_allclose(float(r.sweeps), want[2] / chunks, rtol=1e-6)
    assert bool(r.clean) is (max_sweeps == 100)
    if bool(r.clean):
        assert float(level) >= 9


def test_what_is_inside_comes_out_bit_for_bit():
    order = jnp.arange(10)
    level, seen, r = lower(jnp.float32(9.0), heights(), order, 3)
    assert float(level) == 9 and not np.any(seen)
    assert (bool(r.clean), int(r.steps), float(r.sweeps)) == (True, 0, 1.0)


@pytest.mark.parametrize("row", range(10))
def test_no_row_is_left_out(row):
    """A single high row is found wherever it lies, in chunks that do not divide the rows; where it
    does not count it is not."""
    high = dataclasses.replace(heights(), advantage=jnp.zeros(10).at[row].set(5.0))
    order = jnp.asarray(np.random.default_rng(0).permutation(10))
    for chunks in (3, 4):
        level, _, r = lower(jnp.float32(0.0), high, order, chunks)
        assert (float(level), int(r.steps)) == (5.0, 5)
        hidden = dataclasses.replace(high, mask=jnp.arange(10) != row)
        assert int(lower(jnp.float32(0.0), hidden, order, chunks)[2].steps) == 0


def test_rows_that_fill_the_last_chunk_do_not_count():
    """Chunks of 4, 4 and 2: row 0 would fill the last one, and be stepped on twice a round."""
    seen = lower(jnp.float32(-1.0), heights(), jnp.arange(10), 3, 1, by=0.0)[1]
    np.testing.assert_array_equal(seen, np.ones(10, int))


def test_a_step_elsewhere_can_spoil_what_was_clean():
    """The certificate is of one theta: here every step of the second half puts the first half
    outside, until the second is done."""
    batch = heights()

    def inside(theta, chunk):
        first = jnp.any(chunk.mask & (chunk.advantage < 5)) & (theta[0] > 0)
        second = jnp.any(chunk.mask & (chunk.advantage >= 5)) & (theta[1] > 0)
        return ~(first | second)

    def step(theta, state, chunk):
        second = jnp.any(chunk.mask & (chunk.advantage >= 5)) & (theta[1] > 0)
        return jnp.where(second, theta + jnp.asarray([1, -1]), theta - jnp.asarray([1, 0])), state

    run = jax.jit(lambda t: repair(step, inside, t, (), batch, jnp.arange(10), 2, 50))
    theta, _, r = run(jnp.asarray([0, 3]))
    assert bool(r.clean) and theta.tolist() == [0, 0] and int(r.steps) == 6


# The walk back.


def walked(new, bound, shrink=0.5, tries=20, **options):
    """From 0 towards `new`, inside where the norm is at most `bound`."""
    old = jax.tree.map(jnp.zeros_like, new)
    inside = lambda p: jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(p))) <= bound
    return jax.jit(lambda o, n: walk_back(o, n, inside, shrink, tries, **options))(old, new)


def test_the_first_candidate_that_is_inside_is_taken():
    new = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray(4.0)}
    for bound, tries, scale in ((5.0, 0, 1.0), (4.9, 1, 0.5), (2.5, 1, 0.5), (1.0, 3, 0.125)):
        got, walk = walked(new, bound)
        assert (int(walk.tries), float(walk.scale)) == (tries, scale)
        assert tiny.same(got, jax.tree.map(lambda x, s=scale: s * x, new))


def test_what_is_inside_stays_bit_for_bit():
    """Not old + (new - old), which rounds."""
    old, new = {"x": jnp.float32([1e8, 0.1])}, {"x": jnp.float32([0.1, 1e-9])}
    got, walk = jax.jit(lambda: walk_back(old, new, lambda p: jnp.asarray(True), 0.5, 3))()
    assert tiny.same(got, new) and not tiny.same(old["x"] + (new["x"] - old["x"]), new["x"])
    assert (float(walk.scale), int(walk.tries)) == (1, 0)


@pytest.mark.parametrize("tries", [0, 1, 4])
def test_it_ends_at_the_old_policy(tries):
    new = {"x": jnp.float32([3.0, -2.0])}
    got, walk = walked(new, -1.0, tries=tries)
    assert not np.any(got["x"]) and float(walk.scale) == 0 and int(walk.tries) == tries
    got, walk = walked(new, 1.0, tries=tries)
    assert (float(walk.scale) > 0) is (tries == 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_goes_back_all_the_way(bad):
    got, walk = walked({"x": jnp.float32([3.0, bad])}, 10.0)
    assert not np.any(got["x"]) and float(walk.scale) == 0


def test_what_is_sure_is_not_tested():
    new = {"x": jnp.float32([3.0, -2.0])}
    got, walk = walked(new, -1.0, sure=True)
    assert tiny.same(got, new) and float(walk.scale) == 1


def test_what_is_returned_is_what_was_tested():
    """To the last bit, compiled: the distance is recomputed from what came out."""
    rng = np.random.default_rng(0)
    old, new = (jnp.asarray(rng.normal(size=1000), jnp.float32) for _ in range(2))
    tested = jax.jit(lambda x: jnp.sum((x - old) ** 2))
    for bound in (900.0, 300.0, 20.0, 1.0):
        inside = lambda x, b=bound: jnp.sum((x - old) ** 2) <= b
        got, walk = jax.jit(lambda inside=inside: walk_back(old, new, inside, 0.9, 80))()
        assert float(tested(got)) <= bound < float(tested(old + (got - old) / 0.9)) * 1.001
        assert 0 < float(walk.scale) < 1


# What acts.


def shared():
    nets = Networks(hidden=(5, 4), shared_layers=1)
    return tiny.cast(nets.init(tiny.spec("gaussian"), 0)[0], np.float32)


@pytest.mark.slow
def test_the_value_functions_own_layers_do_not_act():
    alone, both = tiny.policy("gaussian"), shared()
    assert acting_parameters(alone).all()
    acts = acting_parameters(both)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert len(acts) == count(both) and acts.sum() == count(both) - count(both.critic)
    slope = jax.grad(lambda p: jnp.sum(p(jnp.ones((3, tiny.OBS))).mean ** 2))(both)
    seen = np.concatenate([np.ravel(x) != 0 for x in jax.tree.leaves(slope)])
    assert np.all(acts[seen])


def test_what_does_not_act_is_held():
    both, other = shared(), jax.tree.map(lambda x: x + 1, shared())
    mixed = actor_from(both, other)
    assert tiny.same(mixed.actor, both.actor) and tiny.same(mixed.trunk, both.trunk)
    assert tiny.same(mixed.critic, other.critic)
    acts = np.array([True, False, True])
    moved = only(
        acts, {"v": jnp.ones(3), "n": jnp.asarray(2)}, {"v": jnp.zeros(3), "n": jnp.asarray(1)}
    )
    assert moved["v"].tolist() == [1, 0, 1] and int(moved["n"]) == 2


# Divergences and statistics.


def test_statistics_know_the_mask():
    batch = heights(masked=(9,))
    assert float(WorstState()(batch.advantage, batch)) == 8
    assert float(MeanState()(batch.advantage, batch)) == 4
    nothing = dataclasses.replace(batch, mask=jnp.zeros(10, bool))
    assert float(WorstState()(batch.advantage, nothing)) == 0
    assert np.isnan(WorstState()(batch.advantage.at[2].set(jnp.nan), batch))


@pytest.mark.parametrize("divergence", [KLOldNew(), KLNewOld()])
@pytest.mark.parametrize(
    "kind", ["gaussian_state", pytest.param("categorical", marks=pytest.mark.slow)]
)
def test_rows_that_do_not_count_have_no_slope(divergence, kind):
    """Not even where they are so far that a KL or its slope is not finite."""
    pi = tiny.policy(kind)
    batch = tiny.rubbish(tiny.batch(kind, pi, masked=5), 1e30)
    new = tiny.policy(kind, seed=4)
    for statistic in (MeanState(), WorstState()):
        loss = lambda p, s=statistic: s(divergence(p(batch.obs), batch), batch)
        value, slope = jax.jit(jax.value_and_grad(loss))(new)
        assert np.isfinite(float(value)) and float(value) > 0
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(slope))
