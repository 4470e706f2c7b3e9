"""The door to environments: names, spaces, actions, seeds, and what is said when something is
wrong."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import need
from processes import Plan, Pool, Stairs
from surefoot import envs
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.envs.envpool import EnvPoolEnvs
from surefoot.envs.gymnasium import InProcessEnvs, VectorEnvs, env_seeds
from surefoot.envs.spaces import ActionDoor, flat_obs_dim
from surefoot.networks import Networks
from surefoot.rollouts.host import HostCollector

MODE = gymnasium.vector.AutoresetMode


# Spaces and actions


def box(low, high, dtype=np.float32):
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


class TestActionDoor:
    def test_finite_boxes_are_mapped_and_clipped(self):
        door = ActionDoor(box([-2, 0], [2, 10]), "x")
        got = door(np.array([[0, 0], [1, -1], [-0.5, 0.5], [7, -7]], np.float32))
        np.testing.assert_allclose(got, [[0, 5], [2, 0], [-1, 7.5], [2, 0]])
        assert got.dtype == np.float32 and door.dim == 2 and not door.discrete

    def test_a_unit_box_is_clipped(self):
        door = ActionDoor(box([-1], [1]), "x")
        np.testing.assert_array_equal(door(np.array([[0.25], [-3.0]], np.float32)), [[0.25], [-1]])

    def test_unbounded_boxes_pass(self):
        for low, high in ([-np.inf], [np.inf]), ([0.0], [np.inf]):
            door = ActionDoor(box(low, high), "x")
            np.testing.assert_array_equal(door(np.array([[-37.5]], np.float32)), [[-37.5]])

    def test_the_environments_own_precision(self):
        assert (
            ActionDoor(box([-2], [2], np.float64), "x")(np.zeros((1, 1), np.float32)).dtype
            == np.float64
        )

    def test_discrete_actions_begin_where_the_space_begins(self):
        door = ActionDoor(spaces.Discrete(3, start=-1), "x")
        np.testing.assert_array_equal(door(np.array([0, 1, 2])), [-1, 0, 1])
        assert door.dim == 3 and door.discrete

    def test_the_policys_actions_are_left_alone(self):
        action = np.full((1, 2), 5, np.float32)
        ActionDoor(box([-2, -1], [2, 1]), "x")(action)
        ActionDoor(box([-1, -1], [1, 1]), "x")(action)
        assert (action == 5).all()

    @settings(max_examples=300, deadline=None)
    @given(
        bounds=st.lists(
            st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=2, unique=True
        ).map(sorted),
        action=st.floats(-(2.0**100), 2.0**100, width=32) | st.just(1.0),
        dtype=st.sampled_from([np.float32, np.float64]),
    )
    @example(bounds=[-540.32515397, 0.57657385], action=1.0, dtype=np.float64)  # the sum rounds up
    def test_what_comes_out_is_in_the_space(self, bounds, action, dtype):
        space = box([bounds[0]], [bounds[1]], dtype)
        got = ActionDoor(space, "x")(np.array([[action]], np.float32))
        assert space.contains(got[0]), (got, space)

    @pytest.mark.parametrize(
        "space", [box([-2, 0], [2, 10]), box([-1], [1]), box([0], [np.inf]), spaces.Discrete(3)]
    )
    def test_a_door_is_rebuilt_from_what_is_stored(self, space):
        door = ActionDoor(space, "x")
        again = ActionDoor.from_json(json.loads(json.dumps(door.to_json())))
        action = (
            np.array([0, 2])
            if door.discrete
            else np.array([[0.3] * door.dim, [5.0] * door.dim], np.float32)
        )
        np.testing.assert_array_equal(door(action), again(action))
        assert door(action).dtype == again(action).dtype


BAD_OBS = {
    "Discrete": spaces.Discrete(4),
    "Dict": spaces.Dict(a=box([0], [1])),
    "image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "scalar": spaces.Box(0, 1, ()),
}
BAD_ACTION = {
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "whole numbers": spaces.Box(0, 9, (2,), np.int64),
    "Tuple": spaces.Tuple([spaces.Discrete(2)]),
}


@pytest.mark.parametrize("name", BAD_OBS)
def test_observations_not_supported_are_named(name):
    with pytest.raises(UsageError) as error:
        flat_obs_dim(BAD_OBS[name], "Some-v0")
    text = str(error.value)
    assert "Some-v0" in text and str(BAD_OBS[name]) in text and "supported are 1-D Box" in text


@pytest.mark.parametrize("name", BAD_ACTION)
def test_actions_not_supported_are_named(name):
    with pytest.raises(UsageError) as error:
        ActionDoor(BAD_ACTION[name], "Some-v0")
    text = str(error.value)
    assert (
        "Some-v0" in text
        and str(BAD_ACTION[name]) in text
        and "supported are Discrete and 1-D float Box" in text
    )


# Names


def test_prefixes_choose_the_suite():
    assert envs.split("envpool:Hopper-v5") == ("envpool", "Hopper-v5")
    assert envs.split("CartPole-v1") == ("", "CartPole-v1")
    assert envs.split("some.module:Env-v0") == ("", "some.module:Env-v0")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("CartPol-v1", "did you mean CartPole-v1?"),
        ("cartpole-v1", "did you mean CartPole-v1?"),
        ("HalfCheetah", "did you mean HalfCheetah-"),
        ("jax:CartPole-v0", "did you mean CartPole-v1?"),
        ("probe:count", "did you mean counting?"),
        ("envpol:CartPole-v1", "did you mean envpool?"),
        ("no.such.module:CartPole-v1", "no suite or module is called 'no.such.module'"),
        ("json:CartPole-v7", "did you mean CartPole-v"),
        ("qqqqqqqqqqqqq", "no environment is called 'qqqqqqqqqqqqq'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, near):
    with pytest.raises(UsageError) as error:
        envs.make(name)
    assert near in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("HalfCheetah-v5", "mujoco", "mujoco"),
        ("LunarLander-v3", "Box2D", "box2d"),
        ("envpool:CartPole-v1", "envpool", "envpool"),
        ("gymnax:CartPole-v1", "gymnax", "gymnax"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
    ],
)
def test_a_missing_extra_is_named_with_the_line_that_installs_it(name, module, extra, monkeypatch):
    monkeypatch.setattr(envs, "installed", lambda m: m != module)
    # Another test may have imported it, and with it its environments.
    monkeypatch.setattr(
        gymnasium, "registry", {k: v for k, v in gymnasium.registry.items() if "MiniGrid" not in k}
    )
    with pytest.raises(
        EnvironmentFault, match=re.escape(f'Run: pip install "surefoot[{extra}]"')
    ) as error:
        envs.make(name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_extras_are_those_of_the_package():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(envs.EXTRAS.values()) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("name", ["FrozenLake-v1", "Blackjack-v1"])
def test_a_real_environment_that_is_not_supported(name):
    with pytest.raises(UsageError, match="supported are"):
        envs.make(name)


def broken_maker():
    raise OSError("no display\nfound")


def test_an_environment_that_cannot_be_made_is_one_line():
    gymnasium.register("Surefoot/Unmade-v0", entry_point=lambda: broken_maker())
    try:
        with pytest.raises(
            EnvironmentFault, match=r"Unmade-v0 could not be made: OSError: no display found$"
        ):
            envs.make("Surefoot/Unmade-v0")
    finally:
        del gymnasium.registry["Surefoot/Unmade-v0"]


class TestMake:
    def test_an_id(self):
        env = envs.make("CartPole-v1", 3)
        spec = env.spec
        assert (spec.id, spec.suite, spec.num_envs, spec.obs_dim, spec.action_dim) == (
            "CartPole-v1",
            "gymnasium",
            3,
            4,
            2,
        )
        assert (
            spec.discrete
            and spec.max_episode_steps == 500
            and not spec.on_device
            and not spec.same_step
        )
        assert isinstance(env, InProcessEnvs)
        env.close()

    def test_an_environment(self):
        raw = Stairs(Plan(), 0)
        env = envs.make(raw)
        assert env.envs == [raw] and env.spec.id == "Stairs"
        with pytest.raises(UsageError, match="num_envs is 2 but one environment was handed in"):
            envs.make(raw, 2)
        with pytest.raises(UsageError, match="--workers is 1"):
            envs.make(raw, 1, workers=1)

    def test_a_function(self):
        env = envs.make(lambda: Stairs(Plan(), 0), 2)
        assert len(env.envs) == 2 and env.envs[0] is not env.envs[1]

    @pytest.mark.parametrize("mode", list(MODE))
    def test_a_vector_environment_in_the_mode_it_declares(self, mode):
        vector = gymnasium.vector.SyncVectorEnv(
            [lambda: Stairs(Plan(), 0)] * 2, autoreset_mode=mode
        )
        for given_env in (vector, lambda: vector):
            env = envs.make(given_env)
            assert isinstance(env, VectorEnvs) and env.mode == mode.name and env.spec.num_envs == 2
            assert env.spec.same_step == (mode != MODE.NEXT_STEP)

    def test_a_vector_environment_that_declares_none(self):
        vector = gymnasium.vector.SyncVectorEnv([lambda: Stairs(Plan(), 0)])
        vector.metadata = {}
        with pytest.raises(UsageError, match=r"does not say when it resets.*autoreset_mode"):
            envs.make(vector)

    @pytest.mark.parametrize("thing", [3, None, object()])
    def test_something_else(self, thing):
        with pytest.raises(UsageError, match="allowed: an id"):
            envs.make(thing)

    def test_workers_only_where_they_can_work(self):
        with pytest.raises(
            UsageError, match=r"--workers is 3 with 2 environments; allowed: 0 .* or 2"
        ):
            envs.make("CartPole-v1", 2, workers=3)
        with pytest.raises(UsageError, match="worker processes are for plain Gymnasium ids only"):
            envs.make("jax:CartPole-v1", 2, workers=2)


# Seeds


def test_seeds_are_distinct_and_in_range():
    seeds = env_seeds(0, 1000)
    assert len(set(seeds)) == 1000 and min(seeds) >= 0 and max(seeds) < 2**31 - 1
    assert env_seeds(0, 10) == seeds[:10]
    assert not set(seeds) & set(env_seeds(1, 1000))


def stream(env, seed, steps=30):
    """Observations of a fixed sequence of actions after a reset."""
    rng = np.random.default_rng(0)
    spec = env.spec
    out = [np.array(env.reset(seed))]
    for _ in range(steps):
        shape = (spec.num_envs, spec.action_dim)
        action = (
            rng.integers(spec.action_dim, size=spec.num_envs)
            if spec.discrete
            else rng.normal(size=shape)
        )
        out.append(np.array(env.step(action).obs))
    env.close()
    return np.stack(out)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_every_environment_has_its_own_stream_and_keeps_it(name):
    one, again, other = (stream(envs.make(name, 3), seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, again)
    firsts = np.concatenate([one[0], other[0]])
    assert len({tuple(x) for x in firsts}) == 6


def test_seeds_reach_every_environment():
    made = [Stairs(Plan(), i) for i in range(3)]
    InProcessEnvs(made, "x").reset(4)
    assert [env.seeds for env in made] == [[s] for s in env_seeds(4, 3)]


@pytest.mark.parametrize("mode", list(MODE))
def test_vectors_of_single_environments_get_the_same_seeds(mode):
    makers = [functools.partial(gymnasium.make, "Pendulum-v1", disable_env_checker=True)] * 3
    vector = VectorEnvs(gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=mode), "x")
    np.testing.assert_array_equal(stream(vector, 7), stream(envs.make("Pendulum-v1", 3), 7))


def test_a_vector_environment_that_takes_one_seed():
    """Gymnasium's own vectorised CartPole has one generator for all its environments."""

    def build():
        return envs.make(
            gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
        )

    one, again, other = stream(build(), 7), stream(build(), 7), stream(build(), 8)
    np.testing.assert_array_equal(one, again)
    assert len({tuple(x) for x in np.concatenate([one[0], other[0]])}) == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_workers_are_what_this_process_would_have_been():
    with_workers = envs.make("Pendulum-v1", 2, workers=2)
    assert with_workers.spec.max_episode_steps == 200 and with_workers.spec.same_step
    np.testing.assert_array_equal(stream(with_workers, 7), stream(envs.make("Pendulum-v1", 2), 7))


# Faults


class Faulty(gymnasium.Env):
    """Goes wrong in one way at its fourth step."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, how: str | None, at: int = 4) -> None:
        self.how, self.at, self.steps = how, at, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.how == "reset raises":
            raise RuntimeError("no\nlicence")
        return np.full(2, np.nan if self.how == "first observation" else 0.0, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        obs, paid, over = np.zeros(2, np.float32), 0.0, False
        if self.steps == self.at:
            if self.how == "raises":
                raise RuntimeError("the 100% solver\n  diverged")
            obs = {
                "nan": np.array([0, np.nan]),
                "inf": np.array([np.inf, 0]),
                "shape": np.zeros(1),
            }.get(self.how, obs)
            paid = {"nan reward": float("nan"), "inf reward": float("-inf")}.get(self.how, paid)
            if self.how == "nan at its end":
                obs, over = np.array([np.nan, 0]), True
            if self.how == "four values":
                return obs, paid, over, {}
        return obs.astype(np.float32), paid, over, False, {}


WORDS = {
    "nan": r"observation is nan in environment 1 of faulty at step 6$",
    "inf": r"observation is inf in environment 1 of faulty at step 6$",
    "nan reward": r"reward is nan in environment 1 of faulty at step 6$",
    "inf reward": r"reward is -inf in environment 1 of faulty at step 6$",
    "nan at its end": r"observation is nan in environment 1 of faulty at step 6$",
}


def run(env):
    policy, _ = Networks(hidden=(4,)).init(env.spec, 0)
    HostCollector(env, 8, 0).collect(policy, None, 0)


def in_process(how):
    return InProcessEnvs([Faulty(None), Faulty(how)], "faulty")


def vector(how, mode=MODE.NEXT_STEP):
    makers = [functools.partial(Faulty, None), functools.partial(Faulty, how)]
    return VectorEnvs(gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=mode), "faulty")


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize(
    "build", [in_process, vector, functools.partial(vector, mode=MODE.SAME_STEP)]
)
def test_what_is_not_finite_is_named_with_step_and_environment(build, how):
    with pytest.raises(EnvironmentFault, match=WORDS[how]):
        run(build(how))


def test_disabled_resets_look_at_the_last_observation_too():
    class Masked(gymnasium.vector.SyncVectorEnv):
        pass

    env = VectorEnvs(
        Masked([functools.partial(Faulty, "nan at its end")], autoreset_mode=MODE.DISABLED),
        "faulty",
    )
    with pytest.raises(
        EnvironmentFault, match=r"observation is nan in environment 0 of faulty at step 3$"
    ):
        run(env)


def test_infinite_rewards_of_both_signs_do_not_cancel():
    env = InProcessEnvs([Faulty("inf reward"), Faulty("inf reward")], "faulty")
    with pytest.raises(EnvironmentFault, match=r"reward is -inf in environment 0"):
        run(env)


def test_huge_numbers_are_numbers():
    collector = HostCollector(InProcessEnvs([Faulty(None), Faulty(None)], "faulty"), 2, 0)
    collector._check(np.full((2, 2), 1e300), np.full(2, 1e308), 0)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            "raises",
            "environment 1 of faulty failed in step: RuntimeError: the 100% solver diverged "
            "(at step 6)",
        ),
        (
            "shape",
            "environment 1 of faulty failed in step: ValueError: observation of shape (1,) "
            "where (2,) was promised (at step 6)",
        ),
        ("reset raises", "environment 1 of faulty failed in reset: RuntimeError: no licence"),
        ("first observation", "observation is nan in environment 1 of faulty at step 0"),
    ],
)
def test_an_environment_that_fails_is_named_on_one_line(how, words):
    with pytest.raises(EnvironmentFault) as error:
        run(in_process(how))
    assert str(error.value) == words


def test_the_old_interface_is_a_fault():
    with pytest.raises(
        EnvironmentFault,
        match=r"environment 1 of faulty failed in step: ValueError: .*\(at step 6\)$",
    ):
        run(in_process("four values"))


def test_a_vector_environment_that_fails_is_named_on_one_line():
    with pytest.raises(EnvironmentFault) as error:
        run(vector("raises"))
    assert (
        str(error.value)
        == "faulty failed in step: RuntimeError: the 100% solver diverged (at step 6)"
    )


class Odd(gymnasium.vector.SyncVectorEnv):
    """A vector environment that breaks a promise in its answers."""

    def __init__(self, mode: Any, how: str) -> None:
        super().__init__(
            [functools.partial(Stairs, Plan("terminated"), i) for i in range(2)],
            autoreset_mode=mode,
        )
        self.how = how

    def step(self, actions: Any) -> Any:
        obs, paid, terminated, truncated, infos = super().step(actions)
        if self.how == "obs":
            obs = obs[:, :1]
        if self.how == "reward":
            paid = paid[:, None]
        if self.how == "final":
            infos = {}
        return obs, paid, terminated, truncated, infos


@pytest.mark.parametrize(
    ("how", "mode", "words"),
    [
        (
            "obs",
            MODE.NEXT_STEP,
            r"observation of shape \(2, 1\) where \(2, 3\) was promised \(at step 0\)$",
        ),
        (
            "reward",
            MODE.NEXT_STEP,
            r"reward of shape \(2, 1\) where \(2,\) was promised \(at step 0\)$",
        ),
        (
            "final",
            MODE.SAME_STEP,
            r"environment 0 ended and infos\['final_obs'\] does not hold its last observation",
        ),
    ],
)
def test_a_vector_environment_that_breaks_a_promise(how, mode, words):
    with pytest.raises(EnvironmentFault, match=words):
        run(VectorEnvs(Odd(mode, how), "odd"))


class Unsendable(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__("this % that")
        self.lock = lambda: (a, b)


class Worker(Faulty):
    def step(self, action: Any) -> Any:
        if self.how == "unsendable":
            raise Unsendable(1, 2)
        return super().step(action)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            "raises",
            r"environment 1 of Worker failed in step: RuntimeError: the 100% solver diverged "
            r"\(at step 6\)$",
        ),
        (
            "unsendable",
            r"environment 1 of Worker failed in step: Unsendable: this % that \(at step 0\)$",
        ),
        (
            "shape",
            r"environment 1 of Worker failed in step: ValueError: observation of shape .* "
            r"\(at step 6\)$",
        ),
    ],
)
def test_a_worker_that_fails_is_named(how, words, capfd, monkeypatch):
    def made(wrapper, maker, i, env_id):
        return wrapper(Worker(how if i == 1 else None), i, env_id)

    monkeypatch.setattr(envs, "_made", made)
    env = envs.make(lambda: Worker(None), 2, workers=2)
    level = gymnasium.logger.min_level
    try:
        with pytest.raises(EnvironmentFault, match=words):
            run(env)
    finally:
        env.venv.close(terminate=True)
    assert gymnasium.logger.min_level == level
    assert "Traceback" not in capfd.readouterr().err


# EnvPool


def test_a_pool_that_fails_is_named():
    pool = Pool(Plan(), 2)
    env = EnvPoolEnvs(lambda seed: pool, "stairs", 0)
    env.reset(0)
    pool.envs[0].over = True
    pool._one = lambda env, a: env.step(a)[:4]
    with pytest.raises(
        EnvironmentFault, match=r"^stairs failed in step: AssertionError: stepped after its end"
    ):
        env.step(np.zeros(2, int))


def test_a_pool_is_made_anew_for_another_seed_and_after_it_has_run():
    made = []

    def build(seed):
        made.append((seed, Pool(Plan(), 2)))
        return made[-1][1]

    env = EnvPoolEnvs(build, "stairs", 3)
    env.reset(3)
    assert [seed for seed, _ in made] == [3]
    env.step(np.zeros(2, int))
    env.reset(3)
    env.reset(4)
    assert [seed for seed, _ in made] == [3, 3, 4]
    assert [pool.closed for _, pool in made] == [True, True, False]


@pytest.mark.slow
class TestEnvPool:
    """On EnvPool itself."""

    def test_the_ids_that_runs_mention_exist(self):
        assert set(need("envpool").list_all_envs()) >= envs.ALSO_IN_ENVPOOL

    def test_plain_ids_that_runs_mention_are_gymnasiums(self):
        assert {
            i for i in envs.ALSO_IN_ENVPOOL if "Lunar" not in i or "Continuous" not in i
        } <= set(gymnasium.registry)

    def test_unknown_names(self):
        need("envpool")
        with pytest.raises(
            UsageError,
            match=r"EnvPool has no environment called 'CartPol-v1'; did you mean CartPole-v1\?",
        ):
            envs.make("envpool:CartPol-v1")

    def test_spaces_not_supported(self):
        need("envpool")
        with pytest.raises(UsageError, match="FrozenLake-v1 has observations"):
            envs.make("envpool:FrozenLake-v1")

    def test_seeds(self):
        need("envpool")
        one, again, other = (
            stream(envs.make("envpool:CartPole-v1", 4, seed), seed) for seed in (7, 7, 8)
        )
        np.testing.assert_array_equal(one, again)
        # EnvPool by itself counts up from one seed: neighbouring runs would share all streams but
        # one.
        assert len({tuple(x) for x in np.concatenate([one[0], other[0]])}) == 8

    def test_the_seed_of_reset_is_the_one_that_counts(self):
        need("envpool")
        env = envs.make("envpool:Pendulum-v1", 2, seed=1)
        np.testing.assert_array_equal(
            stream(env, 5), stream(envs.make("envpool:Pendulum-v1", 2, seed=5), 5)
        )

    def test_actions_pass_the_door(self):
        need("envpool")
        env = envs.make("envpool:Pendulum-v1", 2)
        assert (
            env.door.bounded and env.spec.max_episode_steps == 200 and env.spec.suite == "envpool"
        )
        np.testing.assert_allclose(env.door(np.array([[9.0], [0.5]], np.float32)), [[2.0], [1.0]])


def cartpole_after(obs, action):
    """CartPole's equations (Barto, Sutton and Anderson, 1983), float64: the next observation and
    whether it fell."""
    x, dx, theta, dtheta = obs.astype(np.float64)
    force = 10.0 if action == 1 else -10.0
    push = (force + 0.05 * dtheta**2 * np.sin(theta)) / 1.1
    ddtheta = (9.8 * np.sin(theta) - np.cos(theta) * push) / (
        0.5 * (4 / 3 - 0.1 * np.cos(theta) ** 2 / 1.1)
    )
    ddx = push - 0.05 * ddtheta * np.cos(theta) / 1.1
    nxt = np.array([x + 0.02 * dx, dx + 0.02 * ddx, theta + 0.02 * dtheta, dtheta + 0.02 * ddtheta])
    return nxt, bool(abs(nxt[0]) > 2.4 or abs(nxt[2]) > np.deg2rad(12)), 1.0


def pendulum_after(obs, action):
    """Pendulum's equations, float64: it never falls."""
    cos, sin, speed = obs.astype(np.float64)
    theta, torque = np.arctan2(sin, cos), 2 * np.clip(float(action[0]), -1, 1)
    cost = theta**2 + 0.1 * speed**2 + 0.001 * torque**2
    speed = np.clip(speed + (15 * sin + 3 * torque) * 0.05, -8, 8)
    theta = theta + 0.05 * speed
    return np.array([np.cos(theta), np.sin(theta), speed]), False, -cost


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "after", "limit"),
    [("CartPole-v1", cartpole_after, 16), ("Pendulum-v1", pendulum_after, 7)],
)
@pytest.mark.parametrize("steps", [33, 40])
def test_envpools_own_tasks_recomputed(name, after, limit, steps, x64):
    """Rows, ends and advantages follow from the equations of motion and a count of steps, whatever
    the mask says."""
    import jax
    import jax.numpy as jnp

    from surefoot.advantages import GAE

    pools = need("envpool")
    n, gamma, lam = 3, 0.9, 0.8

    def build(seed):
        return pools.make_gymnasium(
            name, num_envs=n, seed=env_seeds(seed, n), num_threads=1, max_episode_steps=limit
        )

    env = EnvPoolEnvs(build, name, 2)
    collector = HostCollector(env, steps, 2)
    policy, _ = Networks(hidden=(4,)).init(env.spec, 0)
    weights = np.arange(1.0, env.spec.obs_dim + 1)
    critic = lambda obs: 2 + obs.astype(float) @ jnp.asarray(weights)  # noqa: E731
    count, fresh = np.zeros(n, int), np.zeros(n, bool)
    taken = ends = cuts = resets = 0
    for update in range(4):
        rollout, _, episodes = collector.collect(policy, None, update)
        obs, value = rollout.obs, 2 + rollout.obs.astype(np.float64) @ weights
        error, last = np.zeros((steps, n)), np.zeros((steps, n), bool)
        real = np.zeros((steps, n), bool)
        for t in range(steps):
            for i in range(n):
                if fresh[i]:
                    fresh[i], count[i] = False, 0
                    resets += 1
                    continue
                nxt, fell, paid = after(obs[t, i], rollout.action[t, i])
                np.testing.assert_allclose(obs[t + 1, i], nxt, rtol=1e-5, atol=2e-6)
                np.testing.assert_allclose(rollout.reward[t, i], paid, rtol=1e-5, atol=1e-5)
                count[i] += 1
                cut = count[i] == limit
                ended = fell and not cut  # EnvPool calls an end on the step of its limit a cut
                assert (rollout.terminated[t, i], rollout.truncated[t, i]) == (ended, cut)
                real[t, i], last[t, i] = True, fell or cut
                error[t, i] = paid + gamma * (0 if ended else value[t + 1, i]) - value[t, i]
                fresh[i] = last[t, i]
                ends, cuts = ends + ended, cuts + cut
        np.testing.assert_array_equal(rollout.mask, real)
        taken += int(real.sum())
        assert collector.steps == taken and len(episodes) == last.sum()
        want = np.zeros((steps, n))
        for t in reversed(range(steps)):
            onward = 0 if t + 1 == steps else np.where(last[t], 0, gamma * lam * want[t + 1])
            want[t] = error[t] + onward
        advantage = GAE(gamma, lam, normalize="none")
        batch = jax.jit(lambda r: advantage(r, policy, critic, jnp.zeros(())))(rollout)  # noqa: B023
        got = np.asarray(batch.advantage)[np.asarray(batch.mask)]
        np.testing.assert_allclose(got, want[real], rtol=1e-5, atol=1e-5)
    env.close()
    assert cuts and resets and (ends or name.startswith("Pendulum"))
