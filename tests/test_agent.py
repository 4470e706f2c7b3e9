"""The user's door: what can be handed in, what comes out, and what is refused."""

import gymnasium
import numpy as np
import pytest

import surefoot
from surefoot import (
    NPG,
    PPO,
    SGD,
    TRPO,
    Agent,
    EnvironmentFault,
    Networks,
    UsageError,
    ValueFit,
    evaluate,
)
from surefoot.envs import make
from surefoot.evaluate import play
from surefoot.normalize import RunningStats

SMALL = dict(num_envs=4, num_steps=16)


def annealed():
    """PPO with few steps, compiled once."""
    sgd = SGD(minibatches=4, epochs=1, anneal=True)
    return Agent(PPO(sgd=sgd), "jax:CartPole-v1", value=ValueFit(sgd), **SMALL)


def test_every_public_name_is_there():
    for name in surefoot.__all__:
        assert getattr(surefoot, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'TPRO'"):
        surefoot.TPRO  # noqa: B018


def test_the_submodule_evaluate_does_not_hide_the_function():
    assert callable(surefoot.evaluate)


@pytest.mark.parametrize(
    "method",
    [
        "trpo",
        TRPO(max_kl=0.02),
        "npg",
        NPG(lr=0.1, max_kl=None),
        "ppo",
        PPO(stop_kl=0.02, sgd=SGD(minibatches=4)),
    ],
)
@pytest.mark.slow
def test_methods_by_name_and_by_record(method):
    value = ValueFit(SGD(minibatches=2, epochs=2))
    agent = Agent(
        method,
        "jax:CartPole-v1",
        value=value,
        preset="none" if not isinstance(method, str) else None,
        **SMALL,
    )
    agent.learn(100)
    assert agent.env_steps == 128 and agent.update == 2
    if not isinstance(method, str):
        assert agent.config.method == method


def test_a_preset_fits_unless_told_otherwise():
    assert Agent("trpo", "CartPole-v1").config.preset == "trpo-cartpole"
    assert Agent("trpo", "CartPole-v1", preset="none").config.preset == "none"
    assert Agent(TRPO(max_kl=0.05), "CartPole-v1").config.method.max_kl == 0.05


@pytest.mark.slow
def test_environments_as_id_object_function_and_vector():
    make = lambda: gymnasium.make("CartPole-v1")  # noqa: E731
    vector = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    for env, count in (("CartPole-v1", 2), (make(), 1), (make, 2), (vector, 3)):
        agent = Agent(
            TRPO(),
            env,
            num_steps=8,
            num_envs=count if count != 3 else None,
            value=ValueFit(SGD(minibatches=2)),
        )
        agent.learn(16)
        assert agent.spec.num_envs == count
        assert agent.config.env == "CartPole-v1"
        agent.close()
    with pytest.raises(UsageError, match="num_envs is 4 but one environment"):
        Agent("trpo", make(), num_envs=4)


def test_a_callback_sees_every_update_and_can_stop():
    seen = []

    def callback(agent):
        seen.append(agent.report["kl_mean"])
        return len(seen) < 3

    agent = Agent("trpo", "jax:CartPole-v1", callback, **SMALL).learn(10_000)
    assert len(seen) == 3 and agent.update == 3


def test_learn_goes_on_and_schedules_run_over_the_first_call():
    agent = annealed().learn(640)
    assert agent.update == 10 and float(agent.state.progress) == np.float32(0.9)
    agent.learn(640)  # beyond the schedule the rate stays at that of its last update
    assert agent.update == 20 and float(agent.state.progress) == np.float32(0.9)


def test_predict_takes_one_or_many_and_answers_in_the_environments_units():
    agent = Agent(
        "ppo",
        "Pendulum-v1",
        num_envs=1,
        num_steps=64,
        preset="none",
        networks=Networks(log_std_init=2.0),
    )
    one, state = agent.predict([1.0, 0.0, 0.0])
    many, _ = agent.predict(np.zeros((5, 3)), deterministic=False)
    assert one.shape == (1,) and many.shape == (5, 1) and state is None
    assert np.all(np.abs(many) <= 2.0) and np.abs(many).max() > 1.0  # torque is in [-2, 2]
    with pytest.raises(UsageError, match=r"allowed: \[3\] or \[N, 3\]"):
        agent.predict(np.zeros(4))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_agent_and_another_another():
    runs = [
        Agent("trpo", "CartPole-v1", seed=s, num_envs=2, num_steps=32).learn(128).report
        for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.slow
def test_trust_report_counts():
    agent = Agent("trpo", "jax:CartPole-v1", **SMALL).learn(640)
    report = agent.trust_report()
    assert (report.promise, report.max_kl, report.violations) == ("mean_kl", 0.01, 0)
    assert len(report.kl_mean) == len(report.kl_max) == 10
    assert "0 violations" in str(report)
    promised_nothing = annealed().learn(64).trust_report()
    assert promised_nothing.max_kl is None and "no bound asked" in str(promised_nothing)


def test_evaluate_counts_whole_episodes_on_its_own_seeds():
    agent = Agent("trpo", "CartPole-v1", num_envs=2, num_steps=32)
    score = evaluate(agent, episodes=5)
    assert len(score.returns) == 5 and score.deterministic
    assert list(score.returns) == list(score.lengths)  # a reward of one a step
    assert score.returns == evaluate(agent, episodes=5).returns
    assert score.returns != evaluate(agent, episodes=5, seed=1).returns
    low, high = score.ci95
    assert low <= score.mean <= high
    with pytest.raises(UsageError, match="episodes is 0"):
        evaluate(agent, episodes=0)


def test_evaluation_on_device_counts_the_same_way():
    agent = Agent("trpo", "jax:CartPole-v1", **SMALL)
    score = evaluate(agent, episodes=6)
    assert list(score.returns) == [float(n) for n in score.lengths]
    constant = evaluate(Agent("ppo", "probe:constant", **SMALL), episodes=3)
    assert constant.returns == (1.0, 1.0, 1.0)


def test_evaluation_uses_the_mode_or_samples():
    agent = Agent("trpo", "CartPole-v1", num_envs=2, num_steps=32)
    assert evaluate(agent, 8).returns != evaluate(agent, 8, deterministic=False).returns


def test_evaluation_is_of_the_policy_as_it_is():
    """By hand: the most likely actions, statistics that stay, environments of the seed."""
    env, seed = make("CartPole-v1", 6, 3), 3
    policy, _ = Networks(hidden=(8,), head_gain=1.0).init(env.spec, 0)
    spread = 50 * np.float32([0.04, 1.2, 0.02, 1.8])
    frozen = RunningStats(np.float32(50), np.float32([0.1, -0.2, 0.05, 0.3]), spread)
    returns, lengths, _ = play("CartPole-v1", policy, frozen, 6, seed, True)
    raw, live, counted = env.reset(seed), np.ones(6, bool), np.zeros(6, int)
    while live.any():
        obs = (raw - frozen.mean) / np.sqrt(np.asarray(frozen.var) + 1e-8)
        step = env.step(np.argmax(np.asarray(policy(obs.astype(np.float32)).logits), axis=-1))
        counted += live & step.mask
        live &= ~(step.terminated | step.truncated)
        raw = step.obs
    assert lengths == counted.tolist() and returns == lengths and len(set(lengths)) > 2
    env.close()


class Broken(gymnasium.Env):
    """Works for a while, then does what it was told to."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault):
        self.fault, self.count = fault, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        obs, reward = np.zeros(2, np.float32), 0.0
        if self.count > 20:
            if self.fault == "raise":
                raise RuntimeError("motor on fire")
            if self.fault == "shape":
                obs = np.zeros(3, np.float32)
            if self.fault == "nan obs":
                obs[1] = np.nan
            if self.fault == "inf reward":
                reward = np.inf
        return obs, reward, False, self.count % 7 == 0, {}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "environment 0 of Broken failed in step: RuntimeError: motor on fire"),
        ("shape", "environment 0 of Broken failed in step: ValueError"),
        ("nan obs", "observation is nan in environment 0 of Broken at step"),
        ("inf reward", "reward is inf in environment 0 of Broken at step"),
    ],
)
def test_faulty_environments_are_named_and_the_agent_kept(fault, words):
    agent = Agent("trpo", lambda: Broken(fault), num_envs=2, num_steps=8)
    with pytest.raises(EnvironmentFault) as error:
        agent.learn(1000)
    assert words in str(error.value)
    assert agent.update >= 1  # the updates before the fault are kept
    assert np.all(np.isfinite(agent.policy.head.logits.weight))
