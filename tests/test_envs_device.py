"""Environments that are pure functions: equal to Gymnasium's step by step, probes as told, gymnax
as installed."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import need
from processes import OldGymnax
from surefoot import envs
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.envs.classic import CartPole, Pendulum
from surefoot.envs.device import DeviceEnv
from surefoot.envs.gymnax import GymnaxEnv
from surefoot.envs.probes import PROBES, Counting

KEY = jax.random.key(0)


@functools.cache
def step_jit(env):
    """Compiled once a process and precision."""
    return jax.jit(env.step)


@functools.cache
def one(name):
    """Our environment of one of Gymnasium's names."""
    return envs.make(f"jax:{name}", 1)


def gym_with(name, state):
    """Gymnasium's environment in a given state, at the beginning of an episode."""
    env = gymnasium.make(name, disable_env_checker=True)
    env.reset(seed=0)
    env.unwrapped.state = np.array(state, np.float64)
    return env


def balance(obs):
    """Keeps CartPole up for as long as it is asked."""
    x, dx, theta, dtheta = obs
    return int(theta + 0.3 * dtheta + 0.02 * x + 0.06 * dx > 0)


def follow(name, actions, rtol, atol, exact=True):
    """Steps both through whole episodes with the same actions; returns what ended each, as
    Gymnasium says."""
    env = one(name)
    state = jax.jit(env.reset)(KEY)
    twin, ends, fresh = None, [], True
    for act in actions:
        if fresh:
            twin = gym_with(name, np.asarray(state.inner[0], np.float64))
        if not exact:  # begin every step where the other stands, or chaos takes them apart
            state = dataclasses.replace(state, inner=jnp.asarray(twin.unwrapped.state)[None])
        action = act(np.asarray(twin.unwrapped.state))
        state, step, (total, length) = step_jit(env)(state, jnp.asarray(action)[None], KEY)
        given_action = action if env.spec.discrete else 2.0 * np.asarray(action)
        _, reward, terminated, truncated, _ = twin.step(given_action)
        truth = twin.unwrapped.state
        want = truth if env.spec.discrete else [np.cos(truth[0]), np.sin(truth[0]), truth[1]]
        np.testing.assert_allclose(step.final_obs[0], want, rtol=rtol, atol=atol)
        np.testing.assert_allclose(step.reward[0], reward, rtol=rtol, atol=atol)
        assert (bool(step.terminated[0]), bool(step.truncated[0])) == (terminated, truncated)
        assert bool(step.mask[0])
        fresh = terminated or truncated
        if fresh:
            ends.append((terminated, truncated, int(length[0]), float(total[0])))
            np.testing.assert_array_equal(state.elapsed, 0)
            assert not np.allclose(step.obs, step.final_obs)
            twin.close()
    return ends


def random_actions(name, count):
    rng = np.random.default_rng(3)
    if name == "CartPole-v1":
        return [lambda s, a=int(a): a for a in rng.integers(2, size=count)]
    return [
        lambda s, a=a: a for a in rng.normal(0, 1, (count, 1))
    ]  # beyond [-1, 1] as well: the door clips


@pytest.fixture(params=["CartPole-v1", "Pendulum-v1"])
def name(request):
    return request.param


def test_equal_to_gymnasium_step_by_step(name, x64):
    ends = follow(name, random_actions(name, 450), rtol=1e-9, atol=1e-9)
    if name == "Pendulum-v1":
        assert [(t, c, n) for t, c, n, _ in ends] == [(False, True, 200)] * 2
    else:
        assert len(ends) > 10 and all(terminated and not cut for terminated, cut, _, _ in ends)
        assert all(n == total for _, _, n, total in ends)


def test_equal_to_gymnasium_in_float32(name):
    follow(name, random_actions(name, 150), rtol=1e-5, atol=1e-5, exact=False)


def test_the_time_limit_is_gymnasiums(x64):
    ends = follow("CartPole-v1", [balance] * 501, rtol=1e-9, atol=1e-9, exact=False)
    assert ends == [(False, True, 500, 500.0)]


def test_cartpole_falls_to_every_side(x64):
    """Each bound by itself, from both sides of it."""
    step = jax.jit(CartPole().step)
    theta = 12 * 2 * np.pi / 360
    for state, fallen in [
        ([2.39999, 0, 0, 0], False),
        ([2.40001, 0, 0, 0], True),
        ([-2.40001, 0, 0, 0], True),
        ([0, 0, theta - 1e-5, 0], False),
        ([0, 0, theta + 1e-5, 0], True),
        ([0, 0, -theta - 1e-5, 0], True),
        ([2.39, 1.0, 0, 0], True),
    ]:
        assert bool(step(jnp.array(state, float), jnp.asarray(1), KEY)[3]) == fallen
        twin = gym_with("CartPole-v1", state)
        assert twin.step(1)[2] == fallen


def test_fresh_states_are_drawn_as_gymnasiums():
    keys = jax.random.split(KEY, 4000)
    carts = np.asarray(jax.jit(jax.vmap(CartPole().reset))(keys)[0])
    assert np.abs(carts).max() <= 0.05 and np.abs(carts).max() > 0.0499
    np.testing.assert_allclose(carts.std(axis=0), 0.05 / np.sqrt(3), rtol=0.05)
    state, obs = (np.asarray(x) for x in jax.jit(jax.vmap(Pendulum().reset))(keys))
    assert np.abs(state[:, 0]).max() <= np.pi + 1e-5 and np.abs(state[:, 1]).max() <= 1
    np.testing.assert_allclose(state.std(axis=0), np.array([np.pi, 1]) / np.sqrt(3), rtol=0.05)
    np.testing.assert_allclose(
        obs, np.stack([np.cos(state[:, 0]), np.sin(state[:, 0]), state[:, 1]], 1), atol=1e-6
    )


def test_specs_are_gymnasiums(name):
    ours, theirs = envs.make(f"jax:{name}", 3).spec, envs.make(name, 3).spec
    for field in ("id", "num_envs", "obs_dim", "action_dim", "discrete", "max_episode_steps"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert ours.on_device and ours.same_step and ours.suite == "jax"


def test_environments_begin_apart_and_begin_again_apart():
    env = DeviceEnv(CartPole(max_episode_steps=1), 8)
    state = jax.jit(env.reset)(KEY)
    nxt, step, _ = jax.jit(env.step)(state, jnp.zeros(8, int), jax.random.key(1))
    assert bool(step.truncated.all())
    assert len({tuple(x) for x in np.concatenate([state.obs, nxt.obs])}) == 16


# Probes


def play(name, actions, num_envs=64):
    env = envs.make(f"probe:{name}", num_envs)
    state = jax.jit(env.reset)(KEY)
    rows, step = [np.asarray(state.obs)], jax.jit(env.step)
    steps = []
    for t, a in enumerate(actions):
        state, out, _ = step(state, jnp.full(num_envs, a), jax.random.key(t))
        steps.append(jax.device_get(out))
        rows.append(np.asarray(state.obs))
    return np.stack(rows), steps


def test_the_constant_probe_pays_one():
    obs, steps = play("constant", [0, 0])
    assert not obs.any() and all((s.reward == 1).all() and s.terminated.all() for s in steps)


def test_the_observed_probe_pays_what_is_seen():
    obs, steps = play("observed", [0, 0, 0])
    for t, s in enumerate(steps):
        np.testing.assert_array_equal(s.reward, obs[t, :, 0])
        assert s.terminated.all()
    assert set(np.unique(obs)) == {-1.0, 1.0} and (obs[0] != obs[1]).any()


def test_the_delayed_probe_pays_at_its_second_step():
    obs, steps = play("delayed", [0] * 4)
    assert [float(o[0, 0]) for o in obs] == [0, 1, 0, 1, 0]
    assert [float(s.reward[0]) for s in steps] == [0, 1, 0, 1]
    assert [bool(s.terminated[0]) for s in steps] == [False, True, False, True]


def test_the_acted_probe_pays_by_action():
    _, steps = play("acted", [0, 1])
    assert [float(s.reward[0]) for s in steps] == [-1, 1]


def test_the_matched_probe_pays_for_agreement():
    obs, steps = play("matched", [0, 1])
    for t, a in enumerate((0, 1)):
        np.testing.assert_array_equal(
            steps[t].reward, np.where((obs[t, :, 0] > 0) == bool(a), 1, -1)
        )
    assert {float(r) for r in steps[0].reward} == {-1.0, 1.0}


def test_the_counting_probe_counts():
    _, steps = play("counting", [0] * 6)
    assert [float(s.final_obs[0, 0]) for s in steps] == [1, 2, 3, 4, 5, 1]
    assert [float(s.reward[0]) for s in steps] == [1, 2, 3, 4, 5, 1]
    assert [bool(s.truncated[0]) for s in steps] == [False] * 4 + [True, False]
    assert float(steps[4].obs[0, 0]) == 0 and not any(s.terminated.any() for s in steps)


def test_the_counting_probe_can_end_and_be_cut_at_once():
    env = DeviceEnv(Counting(terminate_at=2, max_episode_steps=2), 1)
    state, step = jax.jit(env.reset)(KEY), jax.jit(env.step)
    for _ in range(2):
        state, out, (total, length) = step(state, jnp.zeros(1, int), KEY)
    assert (
        bool(out.terminated[0])
        and bool(out.truncated[0])
        and (float(total[0]), int(length[0])) == (3, 2)
    )


def test_every_probe_is_reached_by_name():
    assert set(PROBES) == {"constant", "observed", "delayed", "acted", "matched", "counting"}
    for probe in PROBES:
        spec = envs.make(f"probe:{probe}", 2).spec
        assert (spec.id, spec.suite, spec.num_envs) == (probe, "probe", 2)


# gymnax


class Boxed(OldGymnax):
    """Continuous actions with bounds, and a record of what came in."""

    def __init__(self, low, high, shape=(2,)):
        super().__init__("mixed")
        self.low, self.high, self.shape = low, high, shape

    def action_space(self, params: Any) -> Any:
        return type("Box", (), {"low": self.low, "high": self.high, "shape": self.shape})()

    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        return action, state, jnp.ones((1,)), jnp.zeros((1,), bool), {}


@dataclasses.dataclass(frozen=True)
class NoParams:
    pass


@dataclasses.dataclass(frozen=True)
class Steps:
    max_steps_in_episode: int = 7


def test_gymnax_actions_are_mapped_and_clipped():
    env = GymnaxEnv(Boxed(-2.0, np.array([2.0, 10.0])), Steps(), "x")
    assert env.max_episode_steps == 7 and env.action_dim == 2 and not env.discrete
    _, got, reward, over = env.step(None, jnp.array([9.0, 0.0]), KEY)
    np.testing.assert_allclose(got, [2.0, 4.0])
    assert reward.shape == () and over.shape == ()


def test_gymnax_actions_without_bounds_pass():
    env = GymnaxEnv(Boxed(-np.inf, np.inf), NoParams(), "x")
    assert env.max_episode_steps is None
    np.testing.assert_allclose(env.step(None, jnp.array([9.0, -9.0]), KEY)[1], [9, -9])


def test_gymnax_spaces_not_supported():
    with pytest.raises(
        UsageError,
        match=r"gymnax:x has actions of shape \(2, 2\); supported are Discrete and 1-D Box",
    ):
        GymnaxEnv(Boxed(-1.0, 1.0, (2, 2)), Steps(), "x")
    odd = OldGymnax("mixed")
    odd.observation_space = lambda params: type("Box", (), {"shape": (4, 4)})()
    with pytest.raises(
        UsageError, match=r"gymnax:x has observations of shape \(4, 4\); supported are 1-D Box"
    ):
        GymnaxEnv(odd, Steps(), "x")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestGymnax:
    """On gymnax itself."""

    def test_names(self):
        need("gymnax")
        with pytest.raises(
            UsageError,
            match=r"gymnax has no environment called 'Cartpole-v1'; did you mean CartPole-v1\?",
        ):
            envs.make("gymnax:Cartpole-v1")
        assert envs.make("gymnax:MemoryChain-bsuite").spec.id == "MemoryChain-bsuite"

    def test_one_that_cannot_be_made(self, monkeypatch):
        gymnax = need("gymnax")

        def offline(name):
            raise OSError("no\nnetwork")

        monkeypatch.setattr(gymnax, "make", offline)
        with pytest.raises(
            EnvironmentFault, match=r"gymnax:CartPole-v1 could not be made: OSError: no network$"
        ):
            envs.make("gymnax:CartPole-v1")

    def test_time_limits_are_cuts(self):
        need("gymnax")
        env = envs.make("gymnax:Pendulum-v1", 2)
        state, step = jax.jit(env.reset)(KEY), jax.jit(env.step)
        for t in range(401):
            state, out, _ = step(state, jnp.zeros((2, 1)), jax.random.key(t))
            assert not out.terminated.any()
            assert bool(out.truncated.all()) == ((t + 1) % 200 == 0)

    def test_falls_are_ends(self):
        need("gymnax")
        env = envs.make("gymnax:CartPole-v1", 2)
        state, step, ends = jax.jit(env.reset)(KEY), jax.jit(env.step), 0
        for t in range(60):
            state, out, _ = step(state, jnp.ones(2, int), jax.random.key(t))
            fallen = (jnp.abs(out.final_obs[:, 2]) > 12 * 2 * np.pi / 360) | (
                jnp.abs(out.final_obs[:, 0]) > 2.4
            )
            np.testing.assert_array_equal(out.terminated, fallen)
            assert not out.truncated.any()
            ends += int(fallen.sum())
        assert ends > 6

    def test_where_time_is_observed_it_is_shown_and_its_end_is_an_end(self):
        need("gymnax")
        env = envs.make("gymnax:DiscountingChain-bsuite", 1)
        state, step = jax.jit(env.reset)(KEY), jax.jit(env.step)
        for t in range(100):
            state, out, _ = step(state, jnp.zeros(1, int), jax.random.key(t))
            assert float(out.final_obs[0, 1]) == pytest.approx((t + 1) / 100)
        assert bool(out.terminated[0]) and not bool(out.truncated[0])
