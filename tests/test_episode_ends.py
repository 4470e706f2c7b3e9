"""Where episodes end: every suite against the closed form of a process whose values are known, with
no row to spare."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from processes import KINDS, DeviceStairs, NewGymnax, OldGymnax, Plan, Pool, Stairs, value
from reference.episodes import Timeline, of_device, of_plan
from surefoot.advantages import GAE
from surefoot.envs.device import DeviceEnv
from surefoot.envs.envpool import EnvPoolEnvs
from surefoot.envs.gymnasium import InProcessEnvs, VectorEnvs
from surefoot.envs.gymnax import GymnaxEnv
from surefoot.networks import Networks
from surefoot.normalize import RunningStats
from surefoot.rewards import scale_rewards
from surefoot.rollouts.device import collect
from surefoot.rollouts.host import HostCollector

N, ROLLOUTS, GAMMA, LAM = 3, 4, 0.9, 0.8
MODE = gymnasium.vector.AutoresetMode


def vector(plan, mode, cls=gymnasium.vector.SyncVectorEnv):
    return VectorEnvs(
        cls([functools.partial(Stairs, plan, i) for i in range(N)], autoreset_mode=mode), "stairs"
    )


def pool(plan, rubbish=False):
    return EnvPoolEnvs(lambda seed: Pool(plan, N, rubbish), "stairs", 0)


ASYNC = gymnasium.vector.AsyncVectorEnv
HOST = {
    "in process": lambda plan: InProcessEnvs([Stairs(plan, i) for i in range(N)], "stairs"),
    "next step": lambda plan: vector(plan, MODE.NEXT_STEP),
    "same step": lambda plan: vector(plan, MODE.SAME_STEP),
    "disabled": lambda plan: vector(plan, MODE.DISABLED),
    "pool": pool,
    "pool, rubbish": lambda plan: pool(plan, rubbish=True),
}
WORKERS = {
    "worker, next step": lambda plan: vector(plan, MODE.NEXT_STEP, ASYNC),
    "worker, same step": lambda plan: vector(plan, MODE.SAME_STEP, ASYNC),
    "worker, disabled": lambda plan: vector(plan, MODE.DISABLED, ASYNC),
}
DEVICE = {
    "device": DeviceStairs,
    "gymnax, five values": lambda kind: GymnaxEnv(OldGymnax(kind), limits(kind), "stairs"),
    "gymnax, six values": lambda kind: GymnaxEnv(NewGymnax(kind), limits(kind), "stairs"),
}
RESET_ROW = {"in process", "next step", "pool", "pool, rubbish", "worker, next step"}


@dataclasses.dataclass(frozen=True)
class Params:
    max_steps_in_episode: int


@dataclasses.dataclass(frozen=True)
class NoLimit:
    max_steps_in_episode: int = 1 << 20


def limits(kind):
    limit = DeviceStairs(kind).max_episode_steps
    return NoLimit() if limit is None else Params(limit)


def critic(obs):
    obs = obs.astype(float)
    return value(obs[..., 0], obs[..., 1], obs[..., 2])


@jax.jit
def batch_of(rollout, policy):
    """A batch with advantages as they are, and the same advantages standardised."""
    plain, scaled = GAE(GAMMA, LAM, normalize="none"), GAE(GAMMA, LAM)
    progress = jnp.zeros(())
    return plain(rollout, policy, critic, progress), scaled(
        rollout, policy, critic, progress
    ).advantage


@functools.cache
def device_env(suite, kind):
    """One object a process, so that what was compiled for it serves every test."""
    return DeviceEnv(DEVICE[suite](kind), N)


collect_jit = jax.jit(collect, static_argnums=(0, 5))


@dataclasses.dataclass
class Seen:
    """A rollout with what it should be."""

    rollout: Any
    expected: Any
    episodes: list[tuple[float, int]]
    policy: Any


def host_rollouts(suite, kind, steps, rollouts=ROLLOUTS):
    plan = Plan(kind)
    env = (HOST | WORKERS)[suite](plan)
    collector = HostCollector(env, steps, seed=5)
    policy, _ = Networks(hidden=(4,)).init(env.spec, 0)
    timeline = Timeline(of_plan(plan), N, suite in RESET_ROW, GAMMA, LAM)
    counted = 0
    for update in range(rollouts):
        rollout, _, episodes = collector.collect(policy, None, update)
        rollout = jax.tree.map(np.array, rollout)  # the collector writes over its arrays
        expected = timeline.follow(rollout.obs, rollout.action)
        counted += int(expected.real.sum())
        assert collector.steps == counted
        yield Seen(rollout, expected, [e[:2] for e in episodes], policy)
    env.close()


def device_rollouts(suite, kind, steps, rollouts=ROLLOUTS):
    env = device_env(suite, kind)
    policy, _ = Networks(hidden=(4,)).init(env.spec, 0)
    timeline = Timeline(of_device(DeviceStairs(kind)), N, False, GAMMA, LAM)
    state = env.reset(jax.random.key(1))
    for update in range(rollouts):
        state, rollout, _, finished = collect_jit(
            env, policy, None, state, jax.random.key(10 + update), steps
        )
        rollout, finished = jax.device_get((rollout, finished))
        where = np.argwhere(finished.ended)
        episodes = [
            (float(finished.episode_return[t, i]), int(finished.length[t, i])) for t, i in where
        ]
        assert finished.finite.all()
        yield Seen(rollout, timeline.follow(rollout.obs, rollout.action), episodes, policy)


def rollouts_of(suite, *args):
    return (device_rollouts if suite in DEVICE else host_rollouts)(suite, *args)


def judge_rollout(seen):
    """What was recorded: every step that was taken, and nothing else as a step."""
    got, want = seen.rollout, seen.expected
    np.testing.assert_array_equal(got.mask, want.real)
    np.testing.assert_array_equal(np.where(want.real, got.terminated, False), want.terminated)
    np.testing.assert_array_equal(np.where(want.real, got.truncated, False), want.truncated)
    np.testing.assert_array_equal(got.obs[:-1][want.real], want.obs[want.real])
    np.testing.assert_array_equal(got.reward[want.real], want.reward[want.real])
    assert (
        not got.reward[~want.real].any() and not (got.terminated | got.truncated)[~want.real].any()
    )
    assert len(seen.episodes) == len(want.episodes)
    if want.episodes:
        np.testing.assert_allclose(seen.episodes, want.episodes, rtol=1e-6)


def judge_batch(seen, rollout, rtol=1e-6, atol=1e-9):
    """What an update sees: advantages and targets of the steps there were, their number and their
    mean."""
    want = seen.expected
    batch, scaled = batch_of(rollout, seen.policy)
    scaled = np.asarray(scaled)
    mask = np.asarray(batch.mask)
    rows = want.real.ravel()
    assert mask.sum() == rows.sum()
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    close(np.asarray(batch.advantage)[mask], want.advantage.ravel()[rows])
    close(np.asarray(batch.value_target)[mask], (want.advantage + want.value).ravel()[rows])
    close(np.asarray(batch.value)[mask], want.value.ravel()[rows])
    close(batch.mean(batch.advantage), want.advantage[want.real].mean())
    close(batch.max(batch.advantage), want.advantage[want.real].max())
    real = want.advantage.ravel()[rows]
    close(scaled[mask], (real - real.mean()) / (real.std() + 1e-8))
    assert not scaled[~mask].any()


def conform(suite, kind, steps):
    begins_masked = crosses = ends = 0
    for seen in rollouts_of(suite, kind, steps):
        judge_rollout(seen)
        judge_batch(seen, seen.rollout)
        begins_masked += int((~seen.expected.real[0]).sum())
        last = seen.expected.terminated[-1] | seen.expected.truncated[-1]
        crosses += int((seen.expected.real[-1] & ~last).sum())
        ends += len(seen.expected.episodes)
    assert ends and crosses, "the process was to end and to be cut by a rollout's border"
    assert bool(begins_masked) == (suite in RESET_ROW)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suite", HOST)
@pytest.mark.parametrize("steps", [5, 8])
def test_host_suites_equal_the_closed_form(suite, kind, steps, x64):
    conform(suite, kind, steps)


@pytest.mark.parametrize("suite", HOST)
def test_rollouts_of_one_step(suite, x64):
    for seen in rollouts_of(suite, "mixed", 1, 12):
        judge_rollout(seen)
        if seen.expected.real.any():
            got = np.asarray(batch_of(seen.rollout, seen.policy)[0].advantage)[
                seen.expected.real.ravel()
            ]
            np.testing.assert_allclose(got, seen.expected.advantage[seen.expected.real], rtol=1e-6)


@pytest.mark.parametrize("suite", DEVICE)
def test_device_suites_equal_the_closed_form(suite, x64):
    conform(suite, "mixed", 7)


@pytest.mark.slow
@pytest.mark.parametrize("suite", DEVICE)
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_device_suites_equal_the_closed_form_for_every_end(suite, kind, x64):
    conform(suite, kind, 7)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize("suite", WORKERS)
def test_workers_equal_the_closed_form(suite, x64):
    conform(suite, "mixed", 7)


@pytest.mark.parametrize("suite", ["in process", "pool", "same step"])
def test_float32_is_close(suite):
    for seen in rollouts_of(suite, "mixed", 8, 2):
        judge_rollout(seen)
        judge_batch(seen, seen.rollout, rtol=1e-5, atol=2e-6)


def fails(seen, rollout):
    try:
        judge_batch(seen, rollout)
    except AssertionError:
        return True
    return False


PLANTED = {
    "the mask is ignored": lambda r: eqx.tree_at(lambda x: x.mask, r, np.ones_like(r.mask)),
    "a cut is an end": lambda r: eqx.tree_at(lambda x: x.terminated, r, r.terminated | r.truncated),
    "an end is a cut": lambda r: eqx.tree_at(
        lambda x: (x.terminated, x.truncated),
        r,
        (np.zeros_like(r.mask), r.terminated | r.truncated),
    ),
    "cuts are not seen": lambda r: eqx.tree_at(lambda x: x.truncated, r, np.zeros_like(r.mask)),
    "the reset observation is the successor": lambda r: dataclasses.replace(r, final_obs=None),
}


HAVE_THE_ROW = {
    "the mask is ignored": RESET_ROW,
    "the reset observation is the successor": {"same step", "disabled", "device"},
}


@pytest.mark.parametrize(
    ("suite", "bug"),
    [
        (suite, bug)
        for suite in ("in process", "pool", "same step", "device")
        for bug in PLANTED
        if suite in HAVE_THE_ROW.get(bug, {suite})
    ],
)
def test_the_comparison_can_fail(suite, bug, x64):
    caught = [fails(seen, PLANTED[bug](seen.rollout)) for seen in rollouts_of(suite, "mixed", 7)]
    assert sum(caught) >= ROLLOUTS - 1, (
        "of a rollout in which nothing was cut, a bug in cuts may say nothing"
    )


@pytest.mark.parametrize(
    "suite", ["in process", "next step", "disabled", "pool, rubbish", "device"]
)
def test_reward_scaling_counts_steps_only(suite, x64):
    stats, trace = RunningStats.empty(()), np.zeros(N)
    scale = jax.jit(scale_rewards, static_argnums=3)
    for seen in rollouts_of(suite, "mixed", 7, 6):
        scaled, stats, trace, _ = scale(seen.rollout, stats, trace, GAMMA)
        real = seen.expected.real
        np.testing.assert_allclose(
            np.asarray(scaled.reward)[real], seen.expected.scaled[real], rtol=1e-5
        )
        assert not np.asarray(scaled.reward)[~real].any()


@pytest.mark.parametrize("suite", ["in process", "disabled"])
def test_moments_count_steps_only(suite):
    """Only observations something was done in move the statistics: no true successor, no reset
    row."""
    collector = HostCollector(HOST[suite](Plan()), 9, 0)
    policy, _ = Networks(hidden=(4,)).init(collector.env.spec, 0)
    rollout, seen, _ = collector.collect(policy, RunningStats.empty((3,)), 0)
    raw = np.asarray(rollout.obs[:-1])[
        np.asarray(rollout.mask)
    ]  # statistics of nothing only clip, and nothing is large
    assert seen.count == len(raw)
    np.testing.assert_allclose(seen.mean, raw.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(seen.m2, raw.var(axis=0) * len(raw), rtol=1e-5)
