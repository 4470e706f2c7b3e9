"""Host environments captured as data and restored in others: every byte of what they say afterwards
is compared.

State passes through safetensors and strict JSON each time, into environments that were never reset.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections import OrderedDict, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from safetensors.numpy import load, save

from conftest import need
from processes import Plan, Stairs
from surefoot import envs
from surefoot.checks import EnvironmentFault
from surefoot.envs import gymnasium_maker, mjstate, reader, replay, snapshot, walker
from surefoot.envs.gymnasium import InProcessEnvs, VectorEnvs
from surefoot.envs.reader import Mismatch, Reader
from surefoot.envs.walker import Writer

MODE = gymnasium.vector.AutoresetMode
N, SEED = 2, 5

MUJOCO = [f"{n}-v{v}" for n in (
    "Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum",
    "InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d",
) for v in (4, 5) if (n, v) != ("Pusher", 4)]  # fmt: skip
CLASSIC = [
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
]
TEXT = ["FrozenLake", "CliffWalking", "Blackjack", "Taxi"]
MINIGRID = [
    "Empty-Random-5x5",
    "UnlockPickup",
    "DoorKey-5x5",
    "Dynamic-Obstacles-5x5",
    "MultiRoom-N2-S4",
]


def through_files(arrays, state):
    """As a checkpoint would hold them."""
    assert all(type(x) is np.ndarray and x.flags.c_contiguous for x in arrays.values())
    return load(save(arrays)), json.loads(json.dumps(state, allow_nan=False, sort_keys=True))


def actions_of(spec, count):
    rng = np.random.default_rng(1)
    if spec.discrete:
        return rng.integers(spec.action_dim, size=(count, spec.num_envs))
    return rng.standard_normal((count, spec.num_envs, spec.action_dim), np.float32)


def said(step):
    return {k: np.asarray(x).tobytes() for k, x in step._asdict().items() if x is not None}


def touching(env):
    """Contacts in the first environment, where it is MuJoCo's."""
    inside = getattr(env, "envs", None)
    data = getattr(inside[0].unwrapped, "data", None) if inside else None
    return 0 if data is None else data.ncon


class Watch:
    """Runs an environment, and captures it at every kind of moment that matters."""

    def __init__(self, env, steps, each=2):
        self.actions = actions_of(env.spec, steps)
        self.said, self.saved, self.kinds = [], {}, {}
        env.reset(SEED)
        was_over = [False, False]
        for t, action in enumerate(self.actions):
            step = env.step(action)
            self.said.append(said(step))
            over = bool((step.terminated | step.truncated)[0])
            begun = was_over[0 if env.spec.same_step else 1]
            was_over = [over, was_over[0]]
            kind = ("end" if over else "one step in" if begun else
                    "in contact" if touching(env) else "on the way")  # fmt: skip
            self._note(env, t, kind, each, last=t + 1 == steps)

    def _note(self, env, t, kind, each, last):
        many = self.kinds.setdefault(kind, [])
        far = not many or t - many[-1] > 12 or kind in ("end", "one step in")
        if not last and len(many) < each and far and t > 4:
            many.append(t)
            self.saved[t] = through_files(*env.capture())

    def differs(self, make):
        """Checkpoints from which another environment says something else, with the first field."""
        out = []
        for t, saved in self.saved.items():
            env = make()
            env.restore(*saved)
            for k in range(t + 1, len(self.actions)):
                now = said(env.step(self.actions[k]))
                wrong = [name for name in now if now[name] != self.said[k][name]]
                if wrong:
                    out.append((t, k - t, wrong[0]))
                    break
            env.close()
        return out


def limited(env_id, steps=40, wrap=None, **options):
    """A maker of two environments that are cut after some steps."""

    def make():
        maker = gymnasium_maker(env_id, max_episode_steps=steps, **options)
        made = [maker() for _ in range(N)]
        return InProcessEnvs([wrap(env) if wrap else env for env in made], env_id)

    return make


def minigrid(name, steps=40):
    return limited(f"MiniGrid-{name}-v0", steps)


def exact(make, steps, kinds=("end", "one step in"), each=2):
    """Assert that every checkpoint is exact, and that there were checkpoints of these kinds."""
    watch = Watch(make(), steps, each)
    assert all(watch.kinds.get(k) for k in kinds), watch.kinds
    assert watch.differs(make) == []
    return watch


# Families


@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5", "Ant-v5"])
def test_mujoco(env_id):
    need("mujoco")
    exact(limited(env_id), 100, ("end", "one step in", "in contact"))


def test_humanoid():
    need("mujoco")
    exact(limited("Humanoid-v5", 60), 90, ("end", "one step in", "in contact"), each=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*out of date.*:DeprecationWarning")
@pytest.mark.parametrize("env_id", MUJOCO)
def test_all_of_mujoco(env_id):
    need("mujoco")
    watch = exact(limited(env_id, 90), 200, each=2)
    pendulums = env_id.startswith(("Inverted", "Swimmer", "Reacher"))
    assert pendulums or watch.kinds["in contact"]


@pytest.mark.parametrize("env_id", CLASSIC)
def test_classic_control(env_id):
    exact(limited(env_id), 150)


@pytest.mark.filterwarnings("ignore:.*precision lowered.*")
@pytest.mark.filterwarnings("ignore:.*out of date.*:DeprecationWarning")
@pytest.mark.parametrize("name", TEXT)
def test_toy_text(name):
    env_id = max(i for i in gymnasium.registry if i.startswith(f"{name}-v"))
    exact(limited(env_id, 10, wrappers.FlattenObservation), 40, each=1)


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("LunarLander-v3", {}),
        ("LunarLander-v3", {"continuous": True, "enable_wind": True}),
        ("BipedalWalker-v3", {}),
    ],
)
@pytest.mark.slow
def test_box2d(env_id, options):
    need("Box2D")
    exact(limited(env_id, 60, **options), 240, each=3)


@pytest.mark.slow
@pytest.mark.parametrize("hardcore", [False, True])
def test_walkers_for_longer(hardcore):
    need("Box2D")
    name = "BipedalWalkerHardcore-v3" if hardcore else "BipedalWalker-v3"
    exact(limited(name, 200), 450, each=3)


@pytest.mark.slow
def test_car_racing():
    need("Box2D")
    make = limited("CarRacing-v3", 15, wrappers.FlattenObservation)
    exact(make, 36, each=1)


@pytest.mark.parametrize("name", MINIGRID[:2])
def test_minigrid(name):
    need("minigrid")
    exact(minigrid(name), 90)


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIGRID[2:])
def test_more_of_minigrid(name):
    need("minigrid")
    exact(minigrid(name), 150)


def test_a_capture_changes_nothing():
    def stream(often):
        env = limited("CartPole-v1")()
        env.reset(SEED)
        out = []
        for action in actions_of(env.spec, 80):
            out.append(said(env.step(action)))
            if often:
                env.capture()
        return out

    assert stream(True) == stream(False)


def test_a_restored_environment_can_be_captured_again():
    for make in (limited("CartPole-v1"), limited("LunarLander-v3") if need("Box2D") else None):
        one, other = make(), make()
        one.reset(SEED)
        for action in actions_of(one.spec, 57):
            one.step(action)
        first = one.capture()
        other.restore(*through_files(*first))
        again = other.capture()
        assert json.dumps(again[1], sort_keys=True) == json.dumps(first[1], sort_keys=True)
        assert again[0].keys() == first[0].keys()
        for name, x in first[0].items():
            np.testing.assert_array_equal(again[0][name], x)


CHILD = """
import hashlib, json, sys
import numpy as np
from safetensors.numpy import load_file
from test_snapshot import ACROSS, actions_of, said
folder = sys.argv[1]
for name, make in ACROSS.items():
    env = make()
    env.restore(load_file(f"{folder}/{name}.safetensors"), json.load(open(f"{folder}/{name}.json")))
    digest = hashlib.sha256()
    for action in actions_of(env.spec, 150)[60:]:
        for x in said(env.step(action)).values():
            digest.update(x)
    print(name, digest.hexdigest())
"""
ACROSS: dict[str, Any] = {
    "hopper": limited("Hopper-v5"),
    "ant": limited("Ant-v5"),
    "humanoid": limited("Humanoid-v5"),
    "pendulum": limited("Pendulum-v1"),
    "lander": limited("LunarLander-v3"),
    "walker": limited("BipedalWalker-v3"),
    "doors": minigrid("DoorKey-5x5"),
}


@pytest.mark.slow
def test_across_processes(tmp_path):
    need("mujoco"), need("Box2D"), need("minigrid")
    want = {}
    for name, make in ACROSS.items():
        env, digest = make(), hashlib.sha256()
        env.reset(SEED)
        for t, action in enumerate(actions_of(env.spec, 150)):
            step = said(env.step(action))
            if t >= 60:
                for x in step.values():
                    digest.update(x)
            if t == 59:
                arrays, state = env.capture()
                (tmp_path / f"{name}.safetensors").write_bytes(save(arrays))
                (tmp_path / f"{name}.json").write_text(json.dumps(state, allow_nan=False))
        want[name] = digest.hexdigest()
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, env=here
    )
    assert done.returncode == 0, done.stderr
    assert dict(line.split() for line in done.stdout.splitlines()) == want


# What must not be left out


@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5"])
def test_without_the_warm_start_it_would_not_be_exact(env_id, monkeypatch):
    need("mujoco")
    make = limited(env_id)
    monkeypatch.setattr(mjstate, "SPEC", "mjSTATE_FULLPHYSICS")
    watch = Watch(make(), 100, each=4)
    assert {t for t, _, _ in watch.differs(make)} & set(watch.kinds["in contact"])


@pytest.mark.parametrize(("env_id", "kept"), [("Ant-v5", "xipos"), ("Humanoid-v5", "xpos")])
def test_without_the_lagging_positions_the_first_reward_would_be_wrong(env_id, kept, monkeypatch):
    need("mujoco")
    make = limited(env_id)
    monkeypatch.setattr(mjstate, "DERIVED", (kept,))
    watch = Watch(make(), 70, each=1)
    wrong = watch.differs(make)
    assert wrong and {(after, field) for _, after, field in wrong} == {(1, "reward")}


def test_forward_after_restoring_would_be_wrong(monkeypatch):
    mujoco = need("mujoco")
    real = mjstate.restore

    def eager(data, *args):
        out = real(data, *args)
        mujoco.mj_forward(data.model, data)
        return out

    make = limited("Ant-v5")
    monkeypatch.setattr(mjstate, "restore", eager)
    assert Watch(make(), 70, each=1).differs(make)


def test_a_walker_in_the_world_of_earlier_episodes_cannot_be_replayed(monkeypatch):
    need("Box2D")
    make = limited("BipedalWalker-v3", 60)
    monkeypatch.setattr(replay, "fresh_world", lambda env: None)
    watch = Watch(make(), 240, each=4)
    with pytest.raises(EnvironmentFault, match="replayed actions its observation is not the saved"):
        watch.differs(make)
    level, words = make().resume_level(prove=True)
    assert level == "inexact" and "replayed actions" in words


@pytest.mark.parametrize("lost", ["generator", "wrappers"])
def test_without_generators_or_wrappers_it_would_not_be_exact(lost, monkeypatch):
    if lost == "generator":
        monkeypatch.setitem(reader._READERS, "generator", lambda r, node, path, old: old)
    else:
        real = Reader.fields
        monkeypatch.setattr(
            Reader,
            "fields",
            lambda r, owner, nodes, path: (
                None if isinstance(owner, gymnasium.Wrapper) else real(r, owner, nodes, path)
            ),
        )
    make = limited("Pendulum-v1")
    assert Watch(make(), 100).differs(make)


# Wrappers


def noisy(env):
    """A wrapper with a generator of its own, in a closure."""
    rng = np.random.default_rng(7)
    return wrappers.TransformObservation(
        env, lambda obs: (obs + rng.normal(size=obs.shape)).astype(np.float32), None
    )


WRAPPED = {
    "statistics": lambda env: wrappers.RecordEpisodeStatistics(env, buffer_length=3),
    "normalised": lambda env: wrappers.NormalizeReward(wrappers.NormalizeObservation(env)),
    "stacked": lambda env: wrappers.FlattenObservation(wrappers.FrameStackObservation(env, 3)),
    "delayed": lambda env: wrappers.DelayObservation(env, 2),
    "timed": lambda env: wrappers.TimeAwareObservation(env),
    "sticky": lambda env: wrappers.StickyAction(env, 0.3),
    "noisy": noisy,
    "checked": lambda env: wrappers.PassiveEnvChecker(env),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "LunarLander-v3"])
@pytest.mark.slow
def test_wrappers(kind, env_id):
    need("Box2D")
    exact(limited(env_id, 30, WRAPPED[kind]), 100)


def test_the_clock_of_statistics_is_dropped():
    env = limited("CartPole-v1", 30, WRAPPED["statistics"])()
    env.reset(0)
    names = {name for name, _ in env.capture()[1]["environments"][0]["links"][0]}
    assert "return_queue" in names and not names & {"time_queue", "episode_start_time"}


def test_nothing_of_this_machine_is_saved():
    need("mujoco")
    env = limited("Hopper-v5")()
    env.reset(0)
    assert os.sep + "assets" not in json.dumps(env.capture()[1])


def test_the_generator_of_an_action_space_goes_along_where_there_is_one():
    one, other = limited("CartPole-v1")(), limited("CartPole-v1")()
    one.reset(0)
    assert one.envs[0].action_space._np_random is None
    one.capture()
    assert one.envs[0].action_space._np_random is None
    one.envs[0].action_space.seed(3)
    one.envs[0].action_space.sample()
    other.restore(*through_files(*one.capture()))
    left, right = one.envs[0].action_space, other.envs[0].action_space
    assert [left.sample() for _ in range(20)] == [right.sample() for _ in range(20)]
    assert other.envs[1].action_space._np_random is None


# Vector environments


def sync(env_id, mode, steps=30):

    def make():
        maker = gymnasium_maker(env_id, max_episode_steps=steps)
        return VectorEnvs(gymnasium.vector.SyncVectorEnv([maker] * N, autoreset_mode=mode), env_id)

    return make


@pytest.mark.parametrize("mode", list(MODE))
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Hopper-v5"])
@pytest.mark.slow
def test_vectors_of_single_environments(env_id, mode):
    need("mujoco")
    make = sync(env_id, mode)
    exact(make, 100)
    assert make().resume_level(prove=True)[0] == "snapshot"


def test_a_vector_environment_of_its_own():
    def make():
        vec = gymnasium.make_vec("CartPole-v1", 3, "vector_entry_point")
        return envs.make(gymnasium.wrappers.vector.RecordEpisodeStatistics(vec))

    exact(make, 120)
    assert make().resume_level(prove=True) == ("snapshot", "attributes")


def test_a_vector_environment_keeps_no_actions():
    need("Box2D")
    env = sync("LunarLander-v3", MODE.SAME_STEP)()
    level, words = env.resume_level()
    assert level == "inexact" and "does not keep" in words
    env.reset(0)
    with pytest.raises(EnvironmentFault, match=r"keeps `world` \(Box2D"):
        env.capture()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize(
    ("env_id", "level"),
    [("Pendulum-v1", "snapshot"), ("Hopper-v5", "snapshot"), ("LunarLander-v3", "replay"),
     ("BipedalWalker-v3", "replay")],
)  # fmt: skip
def test_workers(env_id, level):
    need("mujoco"), need("Box2D")

    def make():
        return envs.make(functools.partial(gymnasium_maker(env_id, max_episode_steps=30)), N, 0, N)

    watch = exact(make, 70, each=1)
    env = make()
    assert env.resume_level(prove=True)[0] == level
    arrays, state = next(iter(watch.saved.values()))
    with pytest.raises(EnvironmentFault, match="is not of 2 workers"):
        env.restore(arrays, {**state, "workers": state["workers"][:1]})
    env.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (MODE.NEXT_STEP, "has NEXT_STEP workers, and only they know"),
        (MODE.DISABLED, "has DISABLED workers"),
        (MODE.SAME_STEP, "were made elsewhere"),
    ],
)
def test_workers_that_are_not_ours(mode, words):
    maker = gymnasium_maker("CartPole-v1")
    env = VectorEnvs(gymnasium.vector.AsyncVectorEnv([maker] * N, autoreset_mode=mode), "x")
    env.reset(0)
    for prove in (False, True):
        level, said_words = env.resume_level(prove)
        assert level == "inexact" and words in said_words
    with pytest.raises(EnvironmentFault, match=words):
        env.capture()
    env.step(np.zeros(N, int))
    env.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_worker_that_cannot_be_captured_is_named():
    env = envs.make(lambda: Stranger("socket"), N, workers=N)
    env.reset(0)
    assert env.resume_level() == ("inexact", SOCKET)
    with pytest.raises(EnvironmentFault) as error:
        env.capture()
    assert str(error.value) == SOCKET
    env.step(np.zeros(N, int))  # the workers live
    env.close()


# Strangers


SOCKET = "Stranger keeps `held` (socket.socket), which cannot be saved"


class Point(NamedTuple):
    x: float
    y: float


class Body:
    """An object of an environment, replaced at its reset."""

    def __init__(self, x: float) -> None:
        self.x, self.trail = x, [x]


class Stranger(gymnasium.Env):
    """An environment of a third party that holds something."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(2)
    counted = 0

    def __init__(self, how: str = "") -> None:
        self.how, self.t, self.x = how, 0, np.zeros(2)
        self.held: Any = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.x = 0, self.np_random.normal(size=2)
        held: dict[str, Any] = {
            "socket": lambda: socket.socket(),
            "view": lambda: self.x[:1],
            "columns": lambda: np.zeros((3, 4))[:, ::2],
            "objects": lambda: np.array([object()]),
            "bodies": lambda: [Body(1.0)],
            "iterator": lambda: iter([1, 2, 3]),
            "body": lambda: Body(float(self.x[0])),
            "point": lambda: Point(1.5, float("-inf")),
            "rng": lambda: self.np_random,
            "visited": lambda: {(1, 2), (3, 4)},
            "much": lambda: OrderedDict(
                a=deque([1, 2], 5), b={3: (None, True)}, c=float("nan"), d=np.float32(0.1)
            ),
        }
        self.held = held.get(self.how, lambda: None)()
        return self.x, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        noise = self.np_random.normal(size=2)
        if self.how == "global":
            noise = np.random.normal(size=2)
        if self.how == "class":
            Stranger.counted += 1
            noise = noise + Stranger.counted
        if self.how == "body":
            self.held.x += float(noise[0])
            self.held.trail.append(self.held.x)
            noise = noise + sum(self.held.trail)
        if self.how == "rng":
            noise = self.held.normal(size=2)
        if self.how == "view":
            self.x += noise
        else:
            self.x = self.x + action + noise
        return self.x, float(self.x[0]), False, self.t == 20, {}


def strangers(how):
    return lambda: InProcessEnvs([Stranger(how) for _ in range(N)], "Stranger")


@pytest.mark.parametrize("how", ["", "body", "point", "rng", "visited", "much"])
def test_a_stranger_made_of_data_is_exact(how):
    make = strangers(how)
    exact(make, 60)
    assert make().resume_level(prove=True) == ("snapshot", "attributes")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("socket", SOCKET),
        ("view", "Stranger keeps `held` (a view of other memory), which cannot be saved"),
        ("columns", "Stranger keeps `held` (a view of other memory), which cannot be saved"),
        ("objects", "Stranger keeps `held` (array of object), which cannot be saved"),
        ("bodies", "Stranger keeps `held` (test_snapshot.Body), which cannot be saved"),
        ("iterator", "Stranger keeps `held` (list_iterator), which cannot be saved"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stranger_that_keeps_something_else_is_named(how, words):
    env = strangers(how)()
    assert env.resume_level(prove=True) == ("inexact", words)
    env.reset(0)
    assert env.resume_level() == ("inexact", words)
    with pytest.raises(EnvironmentFault) as error:
        env.capture()
    assert str(error.value) == words
    if how == "socket":
        for one in env.envs:
            one.held.close()


def test_the_probe_finds_what_the_walker_cannot_see():
    level, words = strangers("class")().resume_level(prove=True)
    assert (level, words) == ("inexact", "Stranger restored gives another obs 1 steps later")
    level, words = strangers("global")().resume_level(prove=True)
    assert level == "inexact" and "NumPy's global generator" in words


def test_the_probe_leaves_everything_as_it_was():
    np.random.seed(3)
    env = strangers("global")()
    env.reset(0)
    before = env.capture()
    env.resume_level(prove=True)
    after, drawn = env.capture(), np.random.normal()
    np.random.seed(3)
    assert np.random.normal() == drawn
    assert after[1] == before[1]


def test_the_probe_never_raises():
    class Faulty(Stranger):
        def step(self, action: Any) -> Any:
            raise RuntimeError("no\nlicence")

    class Single(Stranger):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("there is only one")

    env = InProcessEnvs([Faulty()], "Faulty")
    assert env.resume_level(prove=True) == (
        "inexact",
        "environment 0 of Faulty failed in step: RuntimeError: no licence",
    )
    level, words = InProcessEnvs([Single()], "Single").resume_level(prove=True)
    assert (level, words) == (
        "inexact",
        "no second Single can be made to prove that it can be restored",
    )


def test_a_probe_whose_copies_share_with_the_running_one_puts_it_back():
    both, constant = np.random.default_rng(0), np.ones(2)

    class Sharing(Stranger):
        def __init__(self, draws: bool) -> None:
            super().__init__("")
            self.draws, self.both, self.constant = draws, both, constant

        def __deepcopy__(self, memo: Any) -> Any:
            return Sharing(self.draws)

        def step(self, action: Any) -> Any:
            if self.draws:
                self.x = self.x + self.both.normal(size=2)
            return super().step(action)

    before = both.bit_generator.state
    level, words = InProcessEnvs([Sharing(True)], "Sharing").resume_level(prove=True)
    assert (level, words) == ("inexact", "Sharing shares what changes with others of its kind")
    assert both.bit_generator.state == before
    assert InProcessEnvs([Sharing(False)], "S").resume_level(prove=True)[0] == "snapshot"


class Eager(gymnasium.Wrapper):
    """Reads, before each step, what the step before left in MuJoCo's data."""

    def step(self, action: Any) -> Any:
        lag = float(self.env.unwrapped.data.cvel[1, 5])
        obs, paid, *rest = self.env.step(action)
        return obs, float(paid) + lag, *rest


class Randomised(gymnasium.Wrapper):
    """Draws another friction for each episode."""

    def reset(self, **options: Any) -> Any:
        answer = self.env.reset(**options)
        core = self.env.unwrapped
        core.model.geom_friction[:, 0] = core.np_random.uniform(0.5, 1.5)
        return answer


@pytest.mark.slow
def test_a_strangers_mujoco_is_captured_whole(monkeypatch):
    need("mujoco")
    make = limited("Hopper-v5", wrap=Eager)
    exact(make, 80, ("end", "one step in", "in contact"))
    assert make().resume_level(prove=True)[0] == "snapshot"
    monkeypatch.setattr(snapshot, "known", lambda env: True)
    assert Watch(make(), 60).differs(make)


def test_a_model_that_changes_while_it_runs_is_found():
    need("mujoco")
    make = limited("Hopper-v5", wrap=Randomised)
    level, words = make().resume_level(prove=True)
    assert level == "inexact" and "model is another MuJoCo model" in words


# Levels


@pytest.mark.parametrize(
    ("env_id", "level", "words"),
    [
        ("Hopper-v5", "snapshot", "MuJoCo integration state"),
        ("CartPole-v1", "snapshot", "attributes"),
        ("LunarLander-v3", "replay", "actions since the episode began"),
        ("BipedalWalker-v3", "replay", "actions since the episode began, each in a fresh world"),
    ],
)
def test_levels(env_id, level, words):
    need("mujoco"), need("Box2D")
    env = envs.make(env_id, 2)
    assert env.resume_level() == (level, words)
    assert env.resume_level(prove=True) == (level, words)
    env.reset(0)
    assert env.resume_level(prove=True) == (level, words)


def test_the_level_of_minigrid():
    need("minigrid")
    assert minigrid("DoorKey-5x5")().resume_level(True) == (
        "replay",
        "actions since the episode began",
    )


@pytest.mark.parametrize("lost", ["warm start", "positions"])
def test_the_probe_finds_what_was_left_out(lost, monkeypatch):
    need("mujoco")
    if lost == "warm start":
        monkeypatch.setattr(mjstate, "SPEC", "mjSTATE_FULLPHYSICS")
    else:
        monkeypatch.setattr(mjstate, "DERIVED", ())
    level, words = envs.make("Ant-v5").resume_level(prove=True)
    assert level == "inexact" and words.startswith("Ant-v5 restored gives another")


@pytest.mark.slow
class TestEnvPool:
    """On EnvPool itself."""

    @pytest.mark.parametrize("env_id", ["CartPole-v1", "Hopper-v5", "LunarLander-v3"])
    def test_it_is_made_anew(self, env_id):
        need("envpool")
        env = envs.make(f"envpool:{env_id}", 3)
        words = "the pool is made anew at every checkpoint"
        assert env.resume_level() == env.resume_level(prove=True) == ("barrier", words)
        with pytest.raises(EnvironmentFault, match="cannot be captured"):
            env.capture()
        with pytest.raises(EnvironmentFault, match="cannot be restored"):
            env.restore({}, {})
        env.close()


def test_pools_that_differ_are_inexact(monkeypatch):
    from processes import Pool
    from surefoot.envs.envpool import EnvPoolEnvs

    env = EnvPoolEnvs(lambda seed: Pool(Plan(), 2), "Othello-v1", 0)
    assert env.resume_level()[0] == "inexact"
    unsteady = SimpleNamespace(
        reset=lambda: (np.random.default_rng().normal(size=(4, 3)), {}), close=lambda: None
    )
    fake = SimpleNamespace(make_gymnasium=lambda *args, **options: unsteady)
    monkeypatch.setitem(sys.modules, "envpool", fake)
    env = EnvPoolEnvs(lambda seed: Pool(Plan(), 2), "Stairs-v1", 0)
    assert env.resume_level()[0] == "barrier"
    assert env.resume_level(prove=True) == (
        "inexact",
        "two pools of Stairs-v1 with one seed differ at step 0",
    )


# Faults


def saved_cartpole():
    env = limited("CartPole-v1")()
    env.reset(0)
    return through_files(*env.capture())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (limited("Acrobot-v1"), r"^what was saved is of 2 x CartPole-v1, not of 2 x Acrobot-v1$"),
        (
            lambda: envs.make("CartPole-v1", 3),
            r"^what was saved is of 2 x CartPole-v1, not of 3 x CartPole-v1$",
        ),
        (
            limited("CartPole-v1", wrap=WRAPPED["statistics"]),
            r"^environment 0 of CartPole-v1 was TimeLimit around OrderEnforcing around CartPoleEnv "
            r"when it was saved, and is RecordEpisodeStatistics around TimeLimit .*$",
        ),
    ],
)
def test_other_environments_are_refused(make, words):
    with pytest.raises(EnvironmentFault, match=words):
        make().restore(*saved_cartpole())


def test_what_is_missing_or_unknown_is_one_line():
    arrays, state = saved_cartpole()
    for name in arrays:
        if name[0].isdigit():
            with pytest.raises(EnvironmentFault, match="cannot be restored: KeyError") as error:
                limited("CartPole-v1")().restore(
                    {k: x for k, x in arrays.items() if k != name}, state
                )
            assert "\n" not in str(error.value)
    state["environments"][0]["links"][0][0][1] = {"pickle": "cos\nsystem"}
    with pytest.raises(EnvironmentFault, match="was saved as"):
        limited("CartPole-v1")().restore(arrays, state)


def test_a_replay_that_comes_out_otherwise_is_refused():
    need("Box2D")
    make = limited("LunarLander-v3")
    env = make()
    env.reset(0)
    for action in actions_of(env.spec, 9):
        env.step(action)
    arrays, state = through_files(*env.capture())
    arrays["1.actions"] = (arrays["1.actions"] + 1) % 4
    with pytest.raises(
        EnvironmentFault,
        match=r"^environment 1 of LunarLander-v3 cannot be restored: after 9 replayed actions",
    ):
        make().restore(arrays, state)


def test_a_tape_keeps_what_was_sent_even_if_an_environment_writes_into_it():
    class Clipping(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            action *= 0
            return self.env.step(action)

    need("Box2D")
    env = limited("BipedalWalker-v3", wrap=Clipping)()
    env.reset(0)
    sent = actions_of(env.spec, 3)
    for action in sent:
        env.step(action)
    arrays, _ = env.capture()
    assert arrays["0.actions"].dtype == np.float32
    np.testing.assert_array_equal(arrays["0.actions"], np.clip(sent[:, 0], -1, 1))


# The walker


class Holder:
    """Something to hang attributes on."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def carried(left, right):
    """Attributes of one object written, filed, and read into another."""
    arrays: dict[str, np.ndarray] = {}
    writer = Writer(arrays)
    writer.know(left, "0/0")
    nodes = writer.fields(left, "0/0")
    assert not writer.unsaved, writer.unsaved
    arrays, state = through_files(arrays, {"nodes": nodes})
    reader = Reader(arrays)
    reader.know(right, "0/0")
    reader.fields(right, state["nodes"], "0/0")
    return right


VALUES = [
    None, True, 7, 2**127 + 1, -0.0, 5e-324, float("inf"), "text \ud800", b"\x00\xff", 1 + 2j,
    (1, (2.5, [3])), [], {"a": {1: 2}, (1, "b"): None}, OrderedDict(b=1, a=2),
    deque([1, (2,)], maxlen=4), {1, 2}, frozenset([(1, 2)]),
    np.float32(0.1), np.float64(0.1), np.int8(-3), np.bool_(True), np.str_("x"),
    np.datetime64("2020-01-01"),
    np.zeros((0, 3)), np.array(1.5), np.arange(6, dtype=np.int16).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(["a", "bc"]), np.array([1 + 2j]),
    np.array([True, False]), np.arange(3, dtype=">f8"), np.array([1.5], np.longdouble),
    np.array([np.nan, -0.0]), range(3), np.dtype("f4"), len, int,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda x: f"{type(x).__name__}-{x!r:.20}")
def test_values_keep_their_type_and_bits(value):
    same_there = callable(value) or isinstance(value, (range, np.dtype))
    got = carried(Holder(x=value), Holder(x=value if same_there else "something else")).x
    assert type(got) is type(value) and repr(got) == repr(value)
    if isinstance(value, (np.ndarray, np.generic)):
        assert got.dtype == value.dtype and got.tobytes("A") == value.tobytes("A")
    if isinstance(value, np.ndarray):
        assert got.flags.f_contiguous == value.flags.f_contiguous
        assert got.flags.writeable and got.flags.owndata
    if isinstance(value, deque):
        assert got.maxlen == value.maxlen


def test_an_array_that_may_not_be_written_stays_so():
    fixed = np.arange(3.0)
    fixed.flags.writeable = False
    assert not carried(Holder(x=fixed), Holder()).x.flags.writeable


@pytest.mark.parametrize("kind", walker.GENERATORS)
def test_generators_go_on_where_they_were(kind):
    rng = np.random.Generator(getattr(np.random, kind)(3))
    rng.integers(10, dtype=np.int32)  # half a word is left over
    for there in (Holder(), Holder(rng=np.random.default_rng(0))):
        got = carried(Holder(rng=rng), there).rng
        assert got.bit_generator.state["bit_generator"] == kind
        copy = np.random.Generator(getattr(np.random, kind)())
        copy.bit_generator.state = rng.bit_generator.state
        for draw in ("normal", "random", "standard_exponential"):
            np.testing.assert_array_equal(getattr(got, draw)(size=9), getattr(copy, draw)(size=9))
        np.testing.assert_array_equal(
            got.integers(9, size=5, dtype=np.int32), copy.integers(9, size=5, dtype=np.int32)
        )


def test_old_generators_too():
    import random

    legacy, plain = np.random.RandomState(4), random.Random(4)
    legacy.normal()
    plain.gauss(0, 1)
    got = carried(Holder(a=legacy, b=plain), Holder())
    assert [legacy.normal() for _ in range(5)] == [got.a.normal() for _ in range(5)]
    assert [plain.gauss(0, 1) for _ in range(5)] == [got.b.gauss(0, 1) for _ in range(5)]


def test_what_is_one_object_stays_one():
    rows, rng, number = [1], np.random.default_rng(0), np.float64(2.0)
    left = Holder(a=rows, b=(rows, {"c": rows}), rng=rng, again=rng, n=number, m=number)
    left.me, left.loop = left, []
    left.loop.append(left.loop)
    got = carried(left, Holder(rng=np.random.default_rng(1), again=np.random.default_rng(2)))
    assert got.a is got.b[0] is got.b[1]["c"] and got.rng is got.again and got.me is got
    assert got.loop[0] is got.loop and got.n == got.m == 2


def test_what_is_two_objects_becomes_two():
    shared = np.random.default_rng(9)
    left = Holder(a=np.random.default_rng(1), b=np.random.default_rng(2))
    got = carried(left, Holder(a=shared, b=shared))
    assert got.a is not got.b
    assert (got.a.random(), got.b.random()) == (left.a.random(), left.b.random())


def test_attributes_that_were_not_there_go():
    got = carried(Holder(a=1), Holder(a=2, b=3))
    assert vars(got) == {"a": 1}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Body(1.0), None),
        (Body(1.0), Holder()),
        (Point(1, 2), (1, 2)),
        (len, sum),
        (spaces.Discrete(2), None),
        (MODE.SAME_STEP, "same"),
    ],
)
def test_nothing_is_built_from_a_name(left, right):
    with pytest.raises(Mismatch, match=r"^x was .* when it was saved, and here is"):
        carried(Holder(x=left), Holder(x=right))


def test_members_of_enumerations_come_back():
    assert carried(Holder(x=MODE.SAME_STEP), Holder(x=MODE.DISABLED)).x is MODE.SAME_STEP


def test_stairs_are_exact():
    def make():
        return InProcessEnvs([Stairs(Plan(), i) for i in range(N)], "stairs")

    exact(make, 60)
