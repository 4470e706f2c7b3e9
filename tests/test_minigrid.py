"""MiniGrid: observations beside minigrid's own wrapper, EnvPool's tasks step by step beside
minigrid's, and going on exactly."""

import functools

import gymnasium
import numpy as np
import pytest

from conftest import need
from surefoot import PPO, Agent, envs
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.envs import success
from surefoot.envs.minigrid import FlatPool, flat, is_minigrid
from surefoot.networks import Networks
from surefoot.sgd import SGD
from surefoot.value import ValueFit

TASKS = ["MiniGrid-Unlock-v0", "MiniGrid-UnlockPickup-v0"]
LIMIT = 288


def by_hand(image, mission):
    """The layout of FlatObsWrapper, written down anew."""
    letters = "abcdefghijklmnopqrstuvwxyz ,"
    words = np.zeros((96, 28), np.uint8)
    for place, letter in enumerate(mission.lower()):
        words[place, letters.index(letter)] = 1
    return np.concatenate([image.ravel(), words.ravel()])


@pytest.mark.parametrize("task", TASKS)
def test_observations_are_those_of_minigrids_own_wrapper(task):
    need("minigrid")
    from minigrid.wrappers import FlatObsWrapper

    ours = envs.make(task, 2)
    assert (ours.spec.obs_dim, ours.spec.action_dim, ours.spec.discrete) == (2835, 7, True)
    shown = ours.reset(3)
    bare = [gymnasium.make(task) for _ in range(2)]
    wrapped = [FlatObsWrapper(gymnasium.make(task)) for _ in range(2)]
    seeds = [int(s) for s in np.random.SeedSequence([3]).generate_state(2)]
    raw = [e.reset(seed=s % (2**31 - 1))[0] for e, s in zip(bare, seeds, strict=True)]
    theirs = [e.reset(seed=s % (2**31 - 1))[0] for e, s in zip(wrapped, seeds, strict=True)]
    missions, rng = set(), np.random.default_rng(0)
    for _ in range(40):
        for i in range(2):
            missions.add(raw[i]["mission"])
            np.testing.assert_array_equal(shown[i], by_hand(raw[i]["image"], raw[i]["mission"]))
            np.testing.assert_array_equal(shown[i], theirs[i])
        action = rng.integers(6, size=2)
        step = ours.step(action)
        assert not (step.terminated | step.truncated).any()
        shown = step.obs
        raw = [e.step(int(a))[0] for e, a in zip(bare, action, strict=True)]
        theirs = [e.step(int(a))[0] for e, a in zip(wrapped, action, strict=True)]
    assert missions == {"open the door"} or all(m.startswith("pick up the ") for m in missions)


def test_only_minigrids_own_tasks_are_made_flat():
    need("minigrid")
    with pytest.raises(UsageError, match="supported are 1-D Box"):  # another language
        envs.make("BabyAI-GoToObj-v0")
    cart = gymnasium.make("CartPole-v1")
    assert flat(cart) is cart and not is_minigrid(cart)
    task = envs.gymnasium_maker(TASKS[0])()
    assert is_minigrid(task) and flat(task) is task


def pool_space(places=96):
    box = functools.partial(gymnasium.spaces.Box, 0, 255, dtype=np.uint8)
    return gymnasium.spaces.Dict(image=box((7, 7, 3)), mission=box((places,)))


def as_bytes(mission):
    return np.frombuffer(mission.encode().ljust(96, b"\0"), np.uint8)


def test_missions_as_bytes_are_encoded_likewise_and_follow_their_episodes():
    door = FlatPool(pool_space())
    rng = np.random.default_rng(0)
    for words in (["open the door", "a, b"], ["open the door", "Pick Up"], ["", "open the door"]):
        image = rng.integers(0, 11, (2, 7, 7, 3)).astype(np.uint8)
        got = door({"image": image, "mission": np.stack([as_bytes(w) for w in words])})
        want = [by_hand(x, w) for x, w in zip(image, words, strict=True)]
        np.testing.assert_array_equal(got, want)
    assert door.space.shape == (2835,)
    with pytest.raises(ValueError, match="'go to 7' has no code"):
        door({"image": image, "mission": np.stack([as_bytes("go to 7")] * 2)})


def test_which_pools_are_flat():
    assert FlatPool.fits("MiniGrid-Unlock-v0", pool_space())
    assert not FlatPool.fits("BabyAI-GoToObj-v0", pool_space())
    assert not FlatPool.fits("MiniGrid-Unlock-v0", pool_space(97))
    assert not FlatPool.fits("MiniGrid-Unlock-v0", gymnasium.spaces.Box(0, 1, (3,)))


# EnvPool's tasks beside minigrid's: a pool's worlds are rebuilt from what its agents see.

AHEAD = [(1, 0), (0, 1), (-1, 0), (0, -1)]


def cells(image, at, direction):
    """Positions and codes of what a view of 7 x 7 shows, but for the agent's own cell."""
    (fx, fy), view = AHEAD[direction], image.reshape(7, 7, 3)
    for vx, vy in np.argwhere(view[..., 0] > 0):
        if (vx, vy) != (3, 6):
            x, y = at[0] + fx * (6 - vy) - fy * (vx - 3), at[1] + fy * (6 - vy) + fx * (vx - 3)
            yield (int(x), int(y)), view[vx, vy].tolist()


def rebuilt(seen, at, direction):
    """minigrid's Unlock with the walls of every world, and the door and key of this one."""
    from minigrid.core.constants import IDX_TO_COLOR
    from minigrid.core.world_object import Door, Key, Wall

    env = envs.gymnasium_maker("MiniGrid-Unlock-v0")()
    env.reset(seed=0)
    core = env.unwrapped
    for x in range(11):
        for y in range(6):
            core.grid.set(x, y, Wall() if x in (0, 5, 10) or y in (0, 5) else None)
    for (x, y), (kind, colour, _) in seen.items():
        if kind == 4:
            core.door = Door(IDX_TO_COLOR[colour], is_locked=True)
            core.grid.set(x, y, core.door)
        if kind == 5:
            core.grid.set(x, y, Key(IDX_TO_COLOR[colour]))
    core.agent_pos, core.agent_dir = tuple(int(k) for k in at), int(direction)
    places = {kind: place for place, (kind, *_) in seen.items()}
    return env, [places[5], places[4]]


def path(core, start, target):
    """Turns (0, 1) and moves (2) until the target is ahead, and where that is."""
    queue, known = [(start, [])], {start}
    for (at, d), actions in queue:
        ahead = (at[0] + AHEAD[d][0], at[1] + AHEAD[d][1])
        if ahead == target:
            return actions, (at, d)
        onward = [((at, (d - 1) % 4), 0), ((at, (d + 1) % 4), 1)]
        if core.grid.get(*ahead) is None:
            onward.append(((ahead, d), 2))
        for state, action in onward:
            if state not in known:
                known.add(state)
                queue.append((state, [*actions, action]))
    raise AssertionError("the target cannot be reached")


def solution(core, key, door):
    """Fetch the key (3: pick up) and open the door (5: toggle)."""
    first, here = path(core, (tuple(core.agent_pos), core.agent_dir), key)
    there = core.grid.get(*key)
    core.grid.set(*key, None)
    second, _ = path(core, here, door)
    core.grid.set(*key, there)
    return [*first, 3, *second, 5]


def worlds(name, seed, n):
    """What a pool begins with, looked at in all four directions."""
    pool = envs.make(name, n, seed)
    pool.reset(seed)
    raw = pool.pool
    *_, infos = raw.step(np.full(n, 6, np.int32))  # "done" does nothing
    at, seen, first = infos["agent_pos"].copy(), [{} for _ in range(n)], None
    for _ in range(4):
        obs, *_ = raw.step(np.ones(n, np.int32))
        first = obs["direction"].copy() if first is None else first
        for i in range(n):
            seen[i].update(cells(obs["image"][i], at[i], obs["direction"][i]))
    pool.close()
    return [rebuilt(s, p, (d - 1) % 4) for s, p, d in zip(seen, at, first, strict=True)]


@pytest.mark.slow
def test_envpools_task_is_minigrids_step_by_step():
    """Views, rewards and ends until every episode has ended: solved at once, in its middle, on the
    last step, and never. On the last step EnvPool says cut where minigrid says both."""
    need("minigrid"), need("envpool")
    name, n = "envpool:MiniGrid-Unlock-v0", 5
    made = worlds(name, 4, n)
    pool = envs.make(name, n, 4)
    shown = pool.reset(4)
    assert pool.spec.max_episode_steps == LIMIT == made[0][0].unwrapped.max_steps
    plans = [solution(env.unwrapped, *places) for env, places in made]
    waits = [0, 40, LIMIT - len(plans[2]), LIMIT - len(plans[3]) - 1, 999]
    rng, live = np.random.default_rng(0), np.ones(n, bool)
    for (env, _), view in zip(made, shown, strict=True):
        core = env.unwrapped
        np.testing.assert_array_equal(view, env.observation(core.gen_obs()))
        assert core.step_count == 0
    for t in range(LIMIT):
        action = np.full(n, 6)
        for i, (plan, wait) in enumerate(zip(plans, waits, strict=True)):
            if wait <= t < wait + len(plan):
                action[i] = plan[t - wait]
        action[4] = rng.choice([0, 1, 2, 2, 3, 4, 5])
        step = pool.step(action)
        for i in np.flatnonzero(live):
            view, reward, terminated, truncated, _ = made[i][0].step(int(action[i]))
            np.testing.assert_array_equal(view, step.obs[i])
            assert step.reward[i] == pytest.approx(reward, abs=1e-6)
            last = terminated and truncated
            assert (step.terminated[i], step.truncated[i]) == (terminated and not last, truncated)
            live[i] = not (terminated or truncated)
            if not live[i]:
                assert step.success[i] == terminated == (reward > 0)
                assert reward == 0 or reward == pytest.approx(1 - 0.9 * (t + 1) / LIMIT)
                solved = min(waits[i] + len(plans[i]), LIMIT)
                assert i > 3 or (terminated and t + 1 == solved), i
                assert i != 2 or last
    assert not live.any()
    pool.close()


# Success.


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"is_success": True}, 1),
        ({"is_success": np.float64(0)}, 0),
        ({"success": np.array([1.0])}, 1),
        ({"is_success": False, "success": 1}, 0),  # the first that says it
        ({"is_success": "partly", "success": 1}, 1),
        ({"is_success": None}, None),
        ({"success": np.nan}, None),
        ({"success": [1, 0]}, None),
        ({"other": 1}, None),
        ({}, None),
    ],
)
def test_what_info_says(info, said):
    got = success.by_info(1.0, True, info)
    assert np.isnan(got) if said is None else got == said


def test_minigrid_is_judged_by_its_reward_unless_a_wrapper_pays():
    need("minigrid")
    from minigrid.wrappers import ActionBonus

    env = envs.gymnasium_maker(TASKS[0])()
    assert success.rule(env) is success.by_reward
    assert success.rule(ActionBonus(env)) is success.by_info
    shifted = gymnasium.wrappers.TransformReward(env, lambda r: r + 1)
    assert success.rule(shifted) is success.by_info
    assert success.rule(gymnasium.make("CartPole-v1")) is success.by_info
    ends = [(0.1, True), (0.0, True), (-1.0, True), (0.0, False), (0.5, False)]
    assert [success.by_reward(*end, {}) for end in ends] == [1, 0, 0, 0, 0]


class Tries(gymnasium.Env):
    """Episodes of `self.length` steps; every second is a success, every third says nothing."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    length = 3

    def __init__(self):
        self.count = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.t = self.count + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        ended = self.t == self.length
        info = {} if self.count % 3 == 2 else {"is_success": ended and self.count % 2 == 1}
        return np.zeros(1, np.float32), 1.0, ended and self.count % 2 == 0, ended, info


def episodes_of(env, steps):
    """Successes in the order of their ends, of every environment."""
    env.reset(0)
    out = []
    for _ in range(steps):
        step = env.step(np.zeros(env.spec.num_envs, int))
        ended = step.terminated | step.truncated
        assert (step.success is not None) == ended.any()
        if step.success is not None:
            assert np.isnan(step.success[~ended]).all()
            out.append(step.success[ended].tolist())
    return out


WANTED = [[0.0] * 2, [1.0] * 2, [np.nan] * 2, [1.0] * 2]


def test_success_of_environments_in_this_process():
    np.testing.assert_array_equal(episodes_of(envs.make(Tries, 2), 16), WANTED)


@pytest.mark.parametrize("mode", list(gymnasium.vector.AutoresetMode))
def test_success_of_vector_environments(mode):
    venv = gymnasium.vector.SyncVectorEnv([Tries] * 2, autoreset_mode=mode)
    steps = 16 if mode == gymnasium.vector.AutoresetMode.NEXT_STEP else 12
    np.testing.assert_array_equal(episodes_of(envs.make(venv), steps), WANTED)


def test_vector_infos_of_another_form_say_nothing():
    for infos in ([], {"is_success": True}, {"is_success": [1]}, {"other": np.ones(2)}):
        assert success.row(infos, 1, 2) == {}
    half = {"success": np.array([1, 1]), "_success": np.array([True, False])}
    assert success.row(half, 0, 2) == {"success": 1} and success.row(half, 1, 2) == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_workers_say_of_minigrid_what_this_process_says():
    need("minigrid")
    task = envs.gymnasium_maker(TASKS[0], max_episode_steps=30)
    both = [envs.make(task, 2), envs.make(task, 2, workers=2)]
    got = [episodes_of(env, 124) for env in both]
    assert got[0] == got[1] == [[0.0, 0.0]] * 4
    solved = both[1]._ask("call", "_by_reward")
    assert solved == (True, True)
    for env in both:
        env.close()


def test_success_of_pools_by_their_infos():
    from surefoot.envs.envpool import EnvPoolEnvs

    env = EnvPoolEnvs.__new__(EnvPoolEnvs)
    env._flat = None
    infos = {"is_success": np.array([1.0, 0.0, 1.0]), "env_id": np.arange(3)}
    said = env._successes(np.zeros(3), np.array([True, True, False]), infos)
    np.testing.assert_array_equal(said, [1, 0, np.nan])


# Runs.

TINY = dict(
    num_envs=2,
    num_steps=8,
    networks=Networks(hidden=(4,)),
    value=ValueFit(SGD(epochs=1, minibatches=1)),
    seed=1,
)


def agent_of(env):
    return Agent(PPO(sgd=SGD(epochs=1, minibatches=1)), env, preset="none", **TINY)


def row_of(agent, episodes):
    """The row of an update in which these episodes ended."""
    from surefoot.loops import Outcome

    report = {"kl_mean": 0.0, "kl_max": 0.0, "update_skipped": False}
    agent._account(Outcome(report, episodes, 16, 0.0, 0.0))
    return agent.report


def test_the_column_is_there_once_an_episode_has_said_it():
    from surefoot.rollouts.host import Episode

    agent = agent_of(Tries)
    assert "success_rate" not in row_of(agent, [])
    assert "success_rate" not in row_of(agent, [Episode(1.0, 3), Episode(1.0, 3)])
    row = row_of(agent, [Episode(1.0, 3, True), Episode(0.0, 3, False), Episode(0.0, 3, True)])
    assert row["success_rate"] == pytest.approx(2 / 3)  # of those that say it
    assert list(row)[3:6] == ["episode_return", "episode_length", "success_rate"]
    assert row_of(agent, [Episode(0.0, 3, False)] * 100)["success_rate"] == 0.0


def test_collected_episodes_carry_their_success_across_rollouts():
    agent = agent_of(Tries)
    collector = agent.loop.collector
    got = [e for u in range(2) for e in collector.collect(agent.policy, None, u)[2]]
    assert [e.success for e in got] == [False] * 2 + [True] * 2 + [None] * 2 + [True] * 2


def test_evaluation_reports_success_where_there_is_one():
    from surefoot.evaluate import Score, evaluate

    score = evaluate(agent_of(Tries), episodes=4)  # the first episode of each fails
    assert score.successes == (False,) * 4 and score.success_rate == 0.0
    some = Score("x", True, (1.0,) * 10, (1,) * 10, (True,) * 8 + (False, None))
    assert some.to_json()["success"]["rate"] == pytest.approx(8 / 9, abs=1e-6)
    low, high = some.success_ci95
    assert (low, high) == pytest.approx((0.565, 0.980), abs=1e-3)  # Wilson, 8 of 9
    silent = Score("x", True, (1.0,), (1,), (None,))
    assert silent.success_rate is None and silent.success_ci95 is None
    assert "success" not in silent.to_json()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "level"),
    [("MiniGrid-UnlockPickup-v0", "replay"), ("envpool:MiniGrid-UnlockPickup-v0", "barrier")],
)
def test_a_run_goes_on_exactly(env, level, tmp_path):
    need("minigrid"), need("envpool")
    whole = agent_of(env)
    whole.loop.prove()
    assert whole.loop.level == level
    whole.learn(32, sinks=[])
    whole.save(tmp_path)
    whole.learn(64, sinks=[])
    again = Agent.load(tmp_path).learn(64, sinks=[])
    assert again.report == whole.report
    for a, b in zip(again._kl + again.recent, whole._kl + whole.recent, strict=True):
        assert a == b
    whole.close(), again.close()


@pytest.mark.slow
def test_a_pool_that_shows_dictionaries_is_proved():
    need("envpool")
    env = envs.make("envpool:MiniGrid-Unlock-v0", 2)
    assert env.resume_level(prove=True)[0] == "barrier"
    with pytest.raises(EnvironmentFault, match="only made anew"):
        env.capture()
    env.close()
