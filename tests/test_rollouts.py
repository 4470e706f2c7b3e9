"""Collection: the NumPy actor is the jax actor, noise is what it says, and rollouts hold what was
done and seen."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from processes import DeviceStairs, Plan, Stairs
from surefoot.distributions import BETA_INSIDE, Beta, Categorical, FullGaussian
from surefoot.envs import make
from surefoot.envs.classic import Pendulum
from surefoot.envs.device import DeviceEnv
from surefoot.envs.gymnasium import InProcessEnvs
from surefoot.networks import Networks
from surefoot.normalize import RunningStats
from surefoot.rollouts.device import collect
from surefoot.rollouts.host import (
    SHADOW_WIDTH,
    Concentrations,
    HostCollector,
    JittedActor,
    Shadow,
    act,
    draw_noise,
    host_actor,
)
from surefoot.types import EnvSpec

SHAPES = {
    "two layers": {},
    "one layer": {"hidden": (16,)},
    "no hidden layer": {"hidden": ()},
    "relu": {"activation": "relu"},
    "one tree, nothing shared": {"joint": True},
    "first layer shared": {"shared_layers": 1},
    "all layers shared": {"shared_layers": 2},
    "sigma by state": {"state_dependent_std": True},
    "sigma by state, shared": {"state_dependent_std": True, "shared_layers": 1},
    "sigma at its floor": {"log_std_init": -2.0, "log_std_min": -2.0},
    "full covariance": {"full_covariance": True},
    "full covariance by state": {"full_covariance": True, "state_dependent_std": True},
    "beta": {"policy": "beta"},
    "beta, first layer shared": {"policy": "beta", "shared_layers": 1},
}


def spec(discrete, n=3):
    return EnvSpec("x", "probe", n, 5, 4, discrete)


def policy_of(discrete, **shape):
    """A policy whose head is far from zero, and whose every number was moved."""
    policy, _ = Networks(**({"hidden": (32, 24), "head_gain": 1.0} | shape)).init(spec(discrete), 3)
    rng = np.random.default_rng(9)
    return jax.tree.map(lambda x: (x + 0.3 * rng.normal(size=x.shape)).astype(np.float32), policy)


def parameters(dist):
    if isinstance(dist, Beta):
        return dist.alpha, dist.beta
    if isinstance(dist, Categorical):
        return dist.logits, None
    return dist.mean, dist.factor if isinstance(dist, FullGaussian) else dist.log_std


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_numpy_actor_is_the_jax_actor(shape, discrete):
    policy = policy_of(discrete, **SHAPES[shape])
    shadow = host_actor(policy)
    assert isinstance(shadow, Shadow)
    forward = jax.jit(lambda p, x: p(x))
    for n in (1, 7, 1):  # the buffers of one batch size do not spoil another's
        obs = np.random.default_rng(n).normal(0, 2, (n, 5)).astype(np.float32)
        first, log_std = shadow(obs)
        want, want_std = parameters(forward(policy, obs))
        assert first.dtype == np.float32
        np.testing.assert_allclose(first, want, rtol=2e-6, atol=2e-6)
        if discrete:
            assert log_std is None
        else:
            np.testing.assert_allclose(
                np.broadcast_to(log_std, want_std.shape), want_std, rtol=2e-6, atol=2e-6
            )


def test_the_numpy_actor_takes_leaves_of_jax():
    policy = policy_of(False)
    obs = np.ones((2, 5), np.float32)
    on_device = Shadow(jax.tree.map(jnp.asarray, policy))(obs)
    for got, want in zip(on_device, Shadow(policy)(obs), strict=True):
        assert isinstance(got, np.ndarray)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("width", "kind"), [(SHADOW_WIDTH, Shadow), (SHADOW_WIDTH + 1, JittedActor)]
)
def test_wide_networks_are_jitted(width, kind):
    assert isinstance(host_actor(policy_of(True, hidden=(8, width))), kind)
    assert isinstance(host_actor(policy_of(True, hidden=(8, width), shared_layers=2)), kind)


def test_other_networks_are_jitted():
    policy = jax.tree_util.Partial(lambda w, x: Categorical(x @ w), jnp.ones((5, 4)))
    actor = host_actor(policy)
    assert isinstance(actor, JittedActor)
    logits, none = actor(np.ones((2, 5), np.float32))
    assert none is None
    np.testing.assert_allclose(logits, np.full((2, 4), 5.0))


@pytest.mark.parametrize(
    ("discrete", "kind"),
    [(True, {}), (False, {}), (False, SHAPES["beta"]), (False, SHAPES["full covariance"])],
)
def test_the_jitted_actor_is_the_numpy_actor(discrete, kind):
    policy, obs = (
        policy_of(discrete, **kind),
        np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32),
    )
    for got, want in zip(JittedActor(policy)(obs), Shadow(policy)(obs), strict=True):
        if want is not None:
            np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), rtol=2e-6, atol=2e-6)


def test_without_noise_the_mode_is_taken():
    obs = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    for discrete, kind in ((True, {}), (False, {}), (False, SHAPES["beta"])):
        policy = policy_of(discrete, **kind)
        np.testing.assert_allclose(
            act(Shadow(policy), obs, None), policy(obs).mode(), rtol=1e-5, atol=1e-5
        )


def test_discrete_actions_follow_their_probabilities():
    logits = np.array([[0.5, -1.0, 2.0, 0.0]], np.float32)
    noise = draw_noise(np.random.default_rng(1), spec(True, 40_000), 1)[0]
    actions = act(lambda obs: (np.repeat(logits, 40_000, 0), None), np.zeros((40_000, 5)), noise)
    p = np.exp(logits[0].astype(float)) / np.exp(logits.astype(float)).sum()
    assert scipy_stats.chisquare(np.bincount(actions, minlength=4), 40_000 * p).pvalue > 1e-3


def test_continuous_actions_follow_their_distribution():
    mean, log_std = np.float32([1.0, -2.0, 0.0, 3.0]), np.float32([0.0, -1.0, 1.0, -3.0])
    noise = draw_noise(np.random.default_rng(1), spec(False, 40_000), 1)[0]
    actions = act(
        lambda obs: (np.repeat(mean[None], 40_000, 0), log_std), np.zeros((40_000, 5)), noise
    )
    assert actions.dtype == np.float32
    for i in range(4):
        z = (actions[:, i] - mean[i]) / np.exp(log_std[i])
        assert scipy_stats.kstest(z, "norm").pvalue > 1e-3


@pytest.mark.parametrize("rows", [1, 40_000])
def test_correlated_actions_follow_their_covariance(rows):
    """With one factor for all and with one a row; four actions and four rows are not confused."""
    factor = np.linalg.cholesky(np.cov(np.random.default_rng(2).normal(size=(4, 30)))).astype("f")
    actor = lambda obs: (np.ones((len(obs), 4), np.float32), np.tile(factor, (rows, 1, 1)))  # noqa: E731
    noise = draw_noise(np.random.default_rng(1), spec(False, 40_000), 1)[0]
    actions = act(actor, np.zeros((40_000, 5)), noise)
    assert actions.dtype == np.float32 and actions.shape == (40_000, 4)
    np.testing.assert_allclose(np.cov(actions.T), factor @ factor.T, atol=0.05)
    np.testing.assert_array_equal(act(actor, np.zeros((40_000, 5)), None), 1)


def test_beta_actions_follow_their_distribution():
    """A function of the noise alone, in float32, inside (-1, 1) to the last draw."""
    alpha, beta = np.float32([1.0, 1.3, 60.0, 2.0]), np.float32([1.0, 7.0, 9.0, 900.0])
    noise = draw_noise(np.random.default_rng(1), spec(False, 40_000), 1)[0]
    repeat = lambda x: np.repeat(x[None], 40_000, 0)  # noqa: E731
    actor = lambda obs: Concentrations(repeat(alpha), repeat(beta))  # noqa: E731
    actions = act(actor, np.zeros((40_000, 5)), noise)
    assert actions.dtype == np.float32 and np.abs(actions).max() <= BETA_INSIDE
    np.testing.assert_array_equal(actions, act(actor, np.zeros((40_000, 5)), noise))
    for i in range(4):
        want = scipy_stats.beta(alpha[i], beta[i], loc=-1, scale=2)
        assert scipy_stats.kstest(actions[:, i], want.cdf).pvalue > 1e-3
    extreme = np.float32([[-40.0, 40.0, -40.0, 40.0]])
    ends = act(lambda obs: Concentrations(alpha[None], beta[None]), np.zeros((1, 5)), extreme)
    assert np.isfinite(ends).all() and np.abs(ends).max() <= BETA_INSIDE


def test_noise_is_finite_even_where_the_generator_gives_zero():
    class Zero:
        def standard_exponential(self, shape, dtype):
            return np.zeros(shape, dtype)

    assert np.isfinite(draw_noise(Zero(), spec(True), 2)).all()


def stairs(n=3):
    return InProcessEnvs([Stairs(Plan(), i) for i in range(n)], "stairs")


def copied(rollout):
    return jax.tree.map(np.array, rollout)


def test_noise_depends_on_seed_and_update_alone():
    policy, _ = Networks(hidden=(4,)).init(stairs().spec, 0)

    def run(seed, update):
        collector = HostCollector(stairs(), 20, seed)
        return copied(collector.collect(policy, None, update)[0]).action

    np.testing.assert_array_equal(run(1, 5), run(1, 5))
    assert (run(1, 5) != run(1, 6)).any() and (run(1, 5) != run(2, 5)).any()


def ratios(policy, rollout, actor_action):
    """pi(a|s) recomputed by jax over what it was when the action was drawn."""
    dist = jax.jit(lambda p, x: p(x))(policy, rollout.obs[:-1])
    return np.exp(np.asarray(dist.log_prob(jnp.asarray(rollout.action))) - actor_action)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_host_rollouts_are_what_the_policy_did(name):
    """Observations are stored as they were acted on, normalised with the statistics the rollout
    began with."""
    env = make(name, 3)
    policy, _ = Networks(hidden=(16,), head_gain=1.0).init(env.spec, 0)
    rng = np.random.default_rng(0)
    d = env.spec.obs_dim
    frozen = RunningStats(
        np.float32(50),
        rng.normal(size=d).astype(np.float32),
        np.float32(50 * rng.uniform(0.1, 4, d)),
    )
    collector, plain = HostCollector(env, 40, 1), []
    step = env.step

    def spy(action):
        plain.append((collector.raw[len(plain)].copy(), action.copy()))
        return step(action)

    env.step = spy
    rollout, seen, _ = collector.collect(policy, frozen, 0)
    raw, actions = (np.stack(x) for x in zip(*plain, strict=True))
    want = np.clip((raw - frozen.mean) / np.sqrt(np.asarray(frozen.var) + 1e-8), -10, 10)
    np.testing.assert_allclose(rollout.obs[:-1], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(rollout.action, actions)
    assert (
        rollout.obs.dtype == np.float32
        and rollout.reward.dtype == np.float32
        and rollout.final_obs is None
    )
    # The first ratio is 1: the shadow's density of every action is the policy's.
    actor = Shadow(policy)
    first, log_std = actor(rollout.obs[:-1].reshape(-1, d))
    if env.spec.discrete:
        log_p = first - np.log(np.exp(first).sum(axis=1, keepdims=True))
        acted = np.take_along_axis(log_p, actions.reshape(-1, 1), 1)[:, 0]
    else:
        z = (actions.reshape(-1, 1) - first) / np.exp(log_std)
        acted = (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(axis=1)
    np.testing.assert_allclose(ratios(policy, rollout, acted.reshape(40, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(seen.mean, raw[rollout.mask].mean(axis=0), rtol=1e-4, atol=1e-5)
    env.close()


def test_host_rollouts_join():
    """The last row of one is the first of the next, and a rollout of 12 is two of 6 in the same
    process."""
    policy, _ = Networks(hidden=(4,)).init(stairs().spec, 0)
    collector = HostCollector(stairs(), 6, 1)
    a, b = (copied(collector.collect(policy, None, u)[0]) for u in range(2))
    np.testing.assert_array_equal(a.obs[-1], b.obs[0])


def test_episodes_are_whole_across_rollouts():
    env = stairs(1)
    policy, _ = Networks(hidden=(4,)).init(env.spec, 0)
    collector = HostCollector(env, 1, 1)
    episodes = [e for u in range(60) for e in collector.collect(policy, None, u)[2]]
    plan = Plan()
    assert len(episodes) > 8 and [e.length for e in episodes] == [
        plan.length(0, j) for j in range(len(episodes))
    ]


collect_jit = jax.jit(collect, static_argnums=(0, 5))


def test_device_rollouts_are_what_the_policy_did():
    """The same keys, one step at a time: normalised with frozen statistics, drawn by the policy,
    stored unclipped."""
    env = DeviceEnv(Pendulum(max_episode_steps=7), 4)
    policy, _ = Networks(hidden=(16,), head_gain=1.0).init(env.spec, 0)
    frozen = RunningStats(np.float32(50), np.float32([0.3, -0.2, 1.0]), np.float32([20, 30, 900]))
    normal = lambda x: np.clip((x - frozen.mean) / np.sqrt(frozen.m2 / 50 + 1e-8), -10, 10)  # noqa: E731
    start, key, steps = jax.jit(env.reset)(jax.random.key(0)), jax.random.key(1), 10
    out = jax.device_get(collect_jit(env, policy, frozen, start, key, steps))
    last, rollout, seen, finished = out

    @jax.jit
    def one(state, k):
        k_act, k_env = jax.random.split(k)
        dist = policy(frozen.normalize(state.obs))
        action = dist.sample(k_act)
        nxt, step, _ = env.step(state, action, k_env)
        return nxt, (state.obs, action, dist.log_prob(action), step)

    rows, state = [], start
    for k in jax.random.split(key, steps):
        state, row = one(state, k)
        rows.append(jax.device_get(row))
    raw, action, log_p = (np.stack([row[i] for row in rows]) for i in range(3))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(rollout.obs, normal(np.concatenate([raw, np.asarray(state.obs)[None]])))
    close(rollout.action, action)
    close(rollout.reward, np.stack([row[3].reward for row in rows]))
    close(rollout.final_obs, normal(np.stack([row[3].final_obs for row in rows])))
    np.testing.assert_array_equal(rollout.truncated, np.stack([row[3].truncated for row in rows]))
    close(last.obs, state.obs)
    assert (np.abs(rollout.action) > 1).any()
    np.testing.assert_allclose(ratios(policy, rollout, log_p), 1, atol=1e-5)
    np.testing.assert_array_equal(np.where(finished.ended)[0], np.repeat(6, 4))
    assert (finished.length[6] == 7).all() and finished.finite.all()
    close(finished.mean_return(), finished.episode_return[6].mean())
    close(finished.episode_return[6], rollout.reward[:7].sum(axis=0))
    raw = raw.reshape(-1, 3)
    assert seen.count == 40
    close(seen.mean, raw.mean(axis=0))
    np.testing.assert_allclose(seen.m2, raw.var(axis=0) * 40, rtol=1e-3)
    again = jax.device_get(collect_jit(env, policy, frozen, start, key, steps))
    jax.tree.map(np.testing.assert_array_equal, out, again)


@dataclasses.dataclass(frozen=True)
class Sick(DeviceStairs):
    """Pays infinity at the first step of an episode and shows it at the third, which is its
    last."""

    kind: str = "truncated"

    def step(self, state, action, key):
        state, obs, paid, over = super().step(state, action, key)
        pays, shows = (jnp.where(state[0] == k, jnp.inf, 0.0) for k in (1, 3))
        return state, obs + shows, paid + pays, over


def test_device_rollouts_say_where_they_are_not_finite():
    """An infinite observation would otherwise be hidden: normalisation clips it to a number."""
    env = DeviceEnv(Sick(), 2)
    policy, _ = Networks(hidden=(4,)).init(env.spec, 0)
    state = jax.jit(env.reset)(jax.random.key(0))
    _, _, _, finished = collect_jit(
        env, policy, RunningStats.empty((3,)), state, jax.random.key(1), 5
    )
    np.testing.assert_array_equal(
        finished.finite, np.array([[0, 0], [1, 1], [0, 0], [0, 0], [1, 1]], bool)
    )


def test_no_episode_has_no_mean():
    from surefoot.rollouts.device import Finished

    nothing = jnp.zeros((3, 2))
    assert np.isnan(Finished(nothing > 1, nothing, nothing, nothing == 0).mean_return())
