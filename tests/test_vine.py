"""The vine: what branches are, what is estimated from them, and what is counted."""

from __future__ import annotations

import dataclasses
import functools

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import need
from surefoot import TRPO, Agent, SelfNormalised, UsageError, Vine, envs
from surefoot.advantages import VineQ
from surefoot.config import Config, from_json, to_json
from surefoot.distributions import Categorical, DiagGaussian
from surefoot.envs.branches import Branches
from surefoot.envs.device import DeviceEnv
from surefoot.envs.gymnasium import env_seeds
from surefoot.exact import tabular
from surefoot.networks import Networks
from surefoot.presets import all_presets
from surefoot.rollouts.branches import VineCollector
from surefoot.rollouts.host import HostCollector
from surefoot.rollouts.vine import collect_vine
from surefoot.surrogates import Importance
from surefoot.types import Batch, Rollout
from surefoot.value import ValueFit

# The estimator


def batch_of(old, action, log_q, a, branches, mask=None):
    """A batch of branches, in the precision of `a`."""
    rows = len(a)
    return Batch(
        obs=jnp.zeros((rows, 1)),
        action=action,
        log_prob=log_q,
        old=old,
        advantage=a,
        value_target=a,
        value=a,
        mask=jnp.ones(rows, bool) if mask is None else mask,
        progress=jnp.zeros(()),
        branches=branches,
    )


def sampled(seed=0, k=4, n=9, masked=()):
    """Branches of Gaussian states under a q of their own, and a new policy."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    tile = lambda x: jnp.tile(x, (k, 1))  # noqa: E731
    old = DiagGaussian(tile(draw(n, 2)), tile(0.1 * draw(n, 2)))
    new = DiagGaussian(old.mean + tile(0.3 * draw(n, 2)), old.log_std + tile(0.2 * draw(n, 2)))
    action, log_q = old.mean + draw(k * n, 2), draw(k * n)
    mask = np.ones(n, bool)
    mask[list(masked)] = False
    return batch_of(old, action, log_q, draw(k * n), k, jnp.tile(jnp.asarray(mask), k)), new, k, n


def test_self_normalised_is_its_formula(x64):
    batch, new, k, n = sampled(masked=(2, 5))
    w = np.exp(np.asarray(new.log_prob(batch.action) - batch.log_prob)).reshape(k, n)
    q = np.asarray(batch.advantage).reshape(k, n)
    keep = np.asarray(batch.mask).reshape(k, n)[0]
    want = np.mean((np.sum(w * q, 0) / np.sum(w, 0))[keep])
    np.testing.assert_allclose(batch.mean(SelfNormalised()(new, batch)), want, rtol=1e-12)


@pytest.mark.slow
def test_a_constant_of_a_state_changes_nothing(x64):
    batch, new, k, n = sampled()
    baseline = jnp.tile(jnp.asarray(np.random.default_rng(1).normal(size=n)) * 100, k)
    moved = dataclasses.replace(batch, advantage=batch.advantage + baseline)

    def slope(b):
        def L(mean):
            return b.mean(SelfNormalised()(DiagGaussian(mean, new.log_std), b))

        return jax.grad(L)(new.mean)

    np.testing.assert_allclose(slope(batch), slope(moved), atol=1e-12)
    assert float(jnp.max(jnp.abs(slope(batch)))) > 1e-3


@pytest.mark.slow
def test_at_the_old_policy_the_baseline_is_the_mean_of_the_branches(x64):
    """With q = old: the gradient is mean_k grad log p (Q_k - mean Q)."""
    batch, _, k, n = sampled()
    batch = dataclasses.replace(batch, log_prob=batch.old.log_prob(batch.action))
    q = batch.advantage.reshape(k, n)
    centred = (q - jnp.mean(q, 0, keepdims=True)).reshape(-1)

    def by_hand(mean):
        return batch.mean(DiagGaussian(mean, batch.old.log_std).log_prob(batch.action) * centred)

    def L(mean):
        return batch.mean(SelfNormalised()(DiagGaussian(mean, batch.old.log_std), batch))

    got, want = jax.grad(L)(batch.old.mean), jax.grad(by_hand)(batch.old.mean)
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_without_branches_it_is_refused():
    batch, new, k, _ = sampled()
    with pytest.raises(UsageError, match="at least 2 branches"):
        SelfNormalised()(new, dataclasses.replace(batch, branches=1))
    apart = batch.take(jnp.arange(4))
    assert apart.branches == 1 and k == 4


def test_enumerated_branches_give_the_exact_expectation(x64):
    """On 1000 random problems: every action once, whatever the policy; new / old would be wrong."""
    rng = np.random.default_rng(0)
    problems = tabular.random_problems(rng, 1000, 5, 4)
    old, new = (tabular.dirichlet(rng, 1.0, (1000, 5, 4)).reshape(-1, 4) for _ in range(2))
    q = tabular.evaluate(problems, old.reshape(1000, 5, 4)).action_value.reshape(-1, 4)
    rows = jnp.asarray(q.T.reshape(-1))  # row k N + n: action k of state n
    action = jnp.repeat(jnp.arange(4), len(q))
    dist = lambda p: Categorical(jnp.tile(jnp.log(jnp.asarray(p)), (4, 1)))  # noqa: E731
    uniform = jnp.full(len(rows), -np.log(4))
    batch = batch_of(dist(old), action, uniform, rows, 4)
    each = np.asarray(SelfNormalised()(dist(new), batch)).reshape(4, -1).mean(0)
    np.testing.assert_allclose(each, np.sum(new * q, -1), rtol=1e-11, atol=1e-11)
    printed = dataclasses.replace(batch, log_prob=dist(old).log_prob(action))
    wrong = np.asarray(SelfNormalised()(dist(new), printed)).reshape(4, -1).mean(0)
    assert np.mean(np.abs(wrong - np.sum(new * q, -1)) > 1e-3 * np.abs(q).max(-1)) > 0.9


def test_what_a_batch_is_made_of(x64):
    rng = np.random.default_rng(0)
    k, n, gamma = 3, 5, 0.9
    logits = jnp.asarray(rng.normal(size=(n, 3)))
    policy = lambda obs: Categorical(obs @ logits)  # noqa: E731
    value = lambda obs: obs @ jnp.arange(1.0, n + 1)  # noqa: E731
    obs, last = jnp.eye(n), jnp.asarray(rng.normal(size=(k, n, n)))
    action = jnp.broadcast_to(jnp.arange(k)[:, None], (k, n))
    reward, steps = jnp.asarray(rng.normal(size=(k, n))), jnp.asarray(rng.integers(1, 9, (k, n)))
    ended = jnp.asarray(rng.random((k, n)) < 0.4)
    rollout = Rollout(
        obs=jnp.broadcast_to(obs, (k + 1, n, n)), action=action, reward=reward, terminated=ended,
        truncated=~ended, mask=jnp.ones((k, n), bool), final_obs=last,
        log_prob=jnp.full((k, n), -np.log(3)), steps=steps, spent=jnp.asarray(77),
    )  # fmt: skip
    p = np.asarray(jax.nn.softmax(logits, -1)).T
    for bootstrap in (False, True):
        batch = VineQ(gamma, bootstrap, "none")(rollout, policy, value, jnp.zeros(()))
        q = np.asarray(reward + bootstrap * jnp.where(ended, 0, gamma**steps * value(last)))
        mean = np.sum(p * q, 0)  # every action once: the exact expectation under the policy
        shape = lambda x: np.asarray(x).reshape(k, n)  # noqa: E731
        np.testing.assert_allclose(shape(batch.advantage), q - mean, atol=1e-12)
        np.testing.assert_allclose(shape(batch.value_target), np.tile(mean, (k, 1)), atol=1e-12)
        np.testing.assert_allclose(shape(batch.value), np.tile(np.arange(1.0, n + 1), (k, 1)))
        assert batch.branches == k
    assert int(rollout.env_steps()) == 77
    scaled = VineQ(gamma, False, "batch")(rollout, policy, value, jnp.zeros(()))
    assert abs(float(scaled.mean(scaled.advantage**2)) - 1) < 1e-6
    own = dataclasses.replace(rollout, log_prob=None)  # the policy chose: the plain mean
    batch = VineQ(gamma, False, "none")(own, policy, value, jnp.zeros(()))
    np.testing.assert_allclose(batch.value_target[:n], np.asarray(reward).mean(0), atol=1e-12)
    np.testing.assert_allclose(batch.log_prob, batch.old.log_prob(batch.action))


# On the device: a thousand random problems at once


class TabularEnv(eqx.Module):
    """A tabular problem as an environment; observations are one-hot."""

    transition: jax.Array
    reward: jax.Array
    id = "tabular"
    suite = "probe"
    obs_dim, action_dim, discrete, max_episode_steps = 4, 3, True, None

    def observe(self, s):
        return jax.nn.one_hot(s, 4)

    def reset(self, key):
        return jnp.zeros((), jnp.int32), self.observe(0)

    def step(self, state, action, key):
        after = jax.random.categorical(key, jnp.log(self.transition[state, action]))
        reward, over = self.reward[state, action], jnp.zeros((), bool)
        return after.astype(jnp.int32), self.observe(after), reward, over


STATES, HORIZON, GAMMA, PROBLEMS = 24, 8, 0.9, 1000


@functools.lru_cache
def returns(common):
    """Discounted returns of every action from state 0 of a thousand problems, [1000, 3, 24], and
    their expectation [1000, 3]."""
    rng = np.random.default_rng(0)
    mdp = tabular.random_problems(rng, PROBLEMS, 4, 3)
    reward = rng.normal(size=(PROBLEMS, 4, 3))
    table = tabular.dirichlet(rng, 1.0, (PROBLEMS, 4, 3))
    vine = Vine(states=STATES, branches=3, horizon=HORIZON, common=common)

    @jax.jit
    @jax.vmap
    def collect(transition, reward, table, key):
        env = DeviceEnv(TabularEnv(transition, reward), STATES)
        policy = lambda obs: Categorical(obs @ jnp.log(table))  # noqa: E731
        state = env.reset(key)
        rollout = collect_vine(env, vine, GAMMA, policy, None, state, key, 1)[1]
        return rollout.reward, rollout.action, rollout.spent

    f32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), PROBLEMS)
    got, action, spent = collect(f32(mdp.transition), f32(reward), f32(table), keys)
    assert np.all(np.asarray(action) == np.arange(3)[None, :, None])
    assert np.all(np.asarray(spent) == STATES + 3 * STATES * HORIZON)  # trunk and branches
    q = np.zeros_like(reward)
    for _ in range(HORIZON):
        v = np.sum(table * q, -1)
        q = reward + GAMMA * np.einsum("nsat,nt->nsa", mdp.transition, v)
    return np.asarray(got, float), q[:, 0]


@pytest.mark.slow
def test_branches_estimate_q_without_bias():
    for common in (True, False):
        got, q = returns(common)
        error = got.mean(-1) - q
        deviation = got.std(-1, ddof=1) / np.sqrt(STATES)
        z = error / np.maximum(deviation, 1e-4)
        noisy = deviation > 1e-2
        assert noisy.mean() > 0.8
        assert abs(z[noisy].mean()) < 0.1 and 0.85 < np.mean(z[noisy] ** 2) < 1.25


@pytest.mark.slow
def test_common_random_numbers_lower_the_variance():
    """Of the difference between two actions, in nearly every one of a thousand problems."""
    gap = lambda x: (x[:, 0] - x[:, 1]).var(-1, ddof=1)  # noqa: E731
    shared, own = gap(returns(True)[0]), gap(returns(False)[0])
    assert shared.sum() < 0.5 * own.sum()
    assert np.mean(shared < own) > 0.85
    # Of one action by itself they change nothing.
    one = lambda x: x[:, 0].var(-1, ddof=1).sum()  # noqa: E731
    assert abs(one(returns(True)[0]) / one(returns(False)[0]) - 1) < 0.05


# On the host


def networks(env, **fields):
    policy, _ = Networks(hidden=(4,), **fields).init(env.spec, 0)
    return jax.tree.map(jnp.asarray, policy)


def collector(env_id, vine, steps, num_envs=2, seed=3):
    env = envs.make(env_id, num_envs, seed)
    return VineCollector(HostCollector(env, steps, seed), vine, 0.9)


def brute(env_id, seed, actions, at, i, first, policy, horizon):
    """Q of a first action by playing an environment from its reset again, with the mode of a
    policy."""
    env, over, obs = gymnasium.make(env_id), False, None
    env.reset(seed=env_seeds(seed, 2)[i])
    for t in range(at):
        over = False if over and env.reset() else any(env.step(actions[t, i])[2:4])
    total, h, terminated = 0.0, 0, False
    for h in range(horizon):
        action = first if h == 0 else np.asarray(policy(jnp.asarray(obs, jnp.float32)).mode())
        obs, reward, terminated, truncated, _ = env.step(action)
        total += 0.9**h * reward
        if terminated or truncated:
            break
    return total, h + 1, terminated


def test_a_branch_is_the_environment_from_that_state_on():
    """CartPole, with a policy that draws nothing: as an environment played again from its reset."""
    made = collector("CartPole-v1", Vine(states=12, branches=4, horizon=15), 20)
    policy = networks(made.trunk.env)
    policy = eqx.tree_at(lambda p: p.head.logits.weight, policy, 1e7 * policy.head.logits.weight)
    rollout, _, _ = made.collect(policy, None, 0)
    path = made.trunk
    assert rollout.action.shape == (2, 12) and np.all(rollout.action == [[0], [1]])
    np.testing.assert_allclose(rollout.log_prob, -np.log(2))
    keep = rollout.mask[0]
    assert keep.sum() >= 8
    for n in np.flatnonzero(keep):
        at, i = next(zip(*np.nonzero(np.all(path.obs[:-1] == rollout.obs[0, n], -1)), strict=True))
        for k in range(2):
            want = brute("CartPole-v1", 3, path.action, int(at), int(i), k, policy, 15)
            got = (rollout.reward[k, n], rollout.steps[k, n], rollout.terminated[k, n])
            assert got[1:] == want[1:]
            np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    assert rollout.terminated.any() and not rollout.terminated.all()
    spent = path.mask.sum() + rollout.steps[np.broadcast_to(rollout.mask, (2, 12))].sum()
    assert int(rollout.spent) == spent
    made.close()


def test_branches_leave_the_trunk_alone_and_come_out_again():
    plain = HostCollector(envs.make("surefoot/SimpleRegulator-v0", 2, 3), 15, 3)
    vine = Vine(states=10, branches=3, horizon=30)
    ones, others = (collector("surefoot/SimpleRegulator-v0", vine, 15) for _ in range(2))
    policy = networks(plain.env)
    for update in range(2):
        rollout, _, episodes = plain.collect(policy, None, update)
        first, _, same = ones.collect(policy, None, update)
        for mine, bare in zip(jax.tree.leaves(ones.trunk.obs), jax.tree.leaves(rollout.obs)):  # noqa: B905
            np.testing.assert_array_equal(mine, bare)
        assert same == episodes
        second, _, _ = others.collect(policy, None, update)
        for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            np.testing.assert_array_equal(x, y)
        assert first.log_prob is None and not first.terminated.any()
        # The time limit of 10 steps is the environment's, counted from its reset.
        lengths = first.steps[0, first.mask[0]]
        assert 1 <= lengths.min() < lengths.max() <= 10
        assert np.all(np.ptp(first.steps, axis=0) == 0)
    assert not np.array_equal(first.action[0], first.action[1])


@pytest.mark.parametrize("common", [True, False])
def test_noise_is_shared_within_a_state_and_not_between(common):
    """The same first action twice: the same branch, or another."""
    vine = Vine(states=8, branches=2, horizon=10, common=common)
    made = collector("surefoot/SimpleRegulator-v0", vine, 10)
    policy = networks(made.trunk.env)
    made._first = lambda actor, obs, rng: np.zeros((2, 8, 1), np.float32)
    rollout, _, _ = made.collect(policy, None, 0)
    long = rollout.mask[0] & (rollout.steps[0] > 2)
    assert long.sum() >= 3
    np.testing.assert_array_equal(rollout.reward[0, long] == rollout.reward[1, long], common)
    assert len(np.unique(rollout.reward[0, long])) == long.sum()


def test_rows_of_resets_are_no_states():
    made = collector("CartPole-v1", Vine(states=60, branches=2, horizon=2), 30)
    policy = networks(made.trunk.env)
    rollout, _, _ = made.collect(policy, None, 0)  # every row of the trunk is picked
    assert not made.trunk.mask.all()
    assert rollout.mask[0].sum() == made.trunk.mask.sum()
    batch = VineQ()(rollout, policy, lambda obs: jnp.sum(obs, -1), jnp.zeros(()))
    new = policy(batch.obs + 0.1)
    assert np.isfinite(batch.mean(SelfNormalised()(new, batch)))


def test_drawn_discrete_actions_come_from_where_they_should():
    """MountainCar has three actions: two branches are drawn, uniformly or from the policy."""
    for uniform in (True, False):
        vine = Vine(states=40, branches=2, horizon=1, uniform=uniform)
        made = collector("MountainCar-v0", vine, 30)
        policy = networks(made.trunk.env)
        policy = eqx.tree_at(
            lambda p: p.head.logits.bias, policy, jnp.asarray([5.0, 0.0, 0.0], jnp.float32)
        )
        rollout, _, _ = made.collect(policy, None, 0)
        assert (rollout.log_prob is not None) == uniform
        assert (np.mean(rollout.action == 0) < 0.6) == uniform
        if uniform:
            np.testing.assert_allclose(rollout.log_prob, -np.log(3), rtol=1e-6)


@pytest.mark.slow
def test_mujoco_branches_come_back_to_the_bit():
    need("mujoco")
    env = envs.make("Hopper-v5", 1, 0)
    env.reset(0)
    copies = Branches(env, 2)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, 1, 3)).astype(np.float32)
    for action in actions[:6]:
        env.step(action)
    at = env.snap(0)
    want = [[np.array(x) for x in env.step(a)[:4]] for a in actions[6:]]
    for _ in range(2):  # again, after the copies went elsewhere
        for lane in range(2):
            copies.put(lane, at, [lane])
        for action, step in zip(actions[6:], want, strict=True):
            got = copies.step(np.arange(2), np.repeat(action, 2, 0))
            for x, y in zip(got, step, strict=True):
                np.testing.assert_array_equal(x, np.repeat(y, 2, 0))
    copies.close()


# As a run


def small(**fields):
    """A tiny configuration on CartPole."""
    base = dict(
        method=TRPO(surrogate=SelfNormalised(), cg_iters=3),
        value=ValueFit(dataclasses.replace(ValueFit().sgd, epochs=1, minibatches=1)),
        vine=Vine(states=8, branches=2, horizon=5),
        num_envs=2,
        num_steps=16,
        normalize_reward=False,
        networks=Networks(hidden=(4,)),
        steps=2000,
    )
    return Config(**(base | fields))


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "jax:CartPole-v1"])
def test_a_run_counts_every_step_and_goes_on_to_the_bit(env, tmp_path):
    agent = Agent("trpo", env, config=small(env=env))
    agent.learn(200, sinks=())
    assert agent.update >= 2
    most = agent.update * (32 + 8 * 2 * 5)
    assert agent.update * 32 < agent.env_steps <= most
    assert agent.report["env_steps"] == agent.env_steps
    assert agent.trust_report().violations == 0 and agent.report["kl_mean"] > 0
    agent.save(tmp_path / "a")
    again = Agent.load(tmp_path / "a")
    for one in (agent, again):
        one.step()
    for x, y in zip(jax.tree.leaves(agent.policy), jax.tree.leaves(again.policy), strict=True):
        np.testing.assert_array_equal(x, y)
    assert agent.env_steps == again.env_steps
    assert len(agent.fingerprint()) == 64
    agent.close(), again.close()


def test_settings_survive_json_and_refuse_what_cannot_be():
    config = small(vine=Vine(states=8, branches=3, horizon=7, bootstrap=True, common=False))
    assert from_json(to_json(config)) == config
    assert config.algorithm.advantage == VineQ(0.99, True, "batch")
    assert config.rows == 24 and config.steps_an_update == 32 + 24 * 7
    assert small(vine=Vine()).rows == 32
    from surefoot import PPO

    for change, words in (
        ({"vine": Vine(states=33)}, "at most 32, the rows of the trunk"),
        ({"normalize_reward": True}, "False with a vine"),
        ({"method": PPO()}, "methods of whole batches"),
    ):
        with pytest.raises(UsageError, match=words):
            small(**change)
    for field in ({"branches": 1}, {"horizon": 0}, {"states": -1}):
        with pytest.raises(UsageError, match=next(iter(field))):
            Vine(**field)


def test_environments_that_cannot_branch_are_refused_in_a_sentence():
    env = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    with pytest.raises(UsageError, match=r"put back to any state.*cannot \("):
        Agent("trpo", env, config=small())
    need("envpool")
    with pytest.raises(UsageError, match=r"put back to any state.*CartPole-v1 cannot \(barrier"):
        Agent("trpo", "envpool:CartPole-v1", config=small(env="envpool:CartPole-v1"))


def test_presets_leave_forty_updates_of_a_million_steps():
    vines = [p for p in all_presets() if p.config.vine.states]
    assert [p.name for p in vines] == ["trpo-vine-cartpole", "trpo-vine-mujoco"]
    for preset in vines:
        config = dataclasses.replace(preset.config, steps=1_000_000)
        assert config.updates >= 40 and preset.envs == ()
        assert isinstance(config.method.surrogate, SelfNormalised)
    assert all(isinstance(p.config.method.surrogate, Importance) for p in all_presets()
               if p.methods == ("trpo",) and not p.config.vine.states)  # fmt: skip
