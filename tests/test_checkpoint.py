"""Checkpoints: whole or not there, damage named, nothing but data."""

import json
import shutil

import jax
import numpy as np
import pytest

from surefoot import Agent, EnvironmentFault, UsageError, checkpoint
from surefoot.checkpoint import DamagedCheckpoint


def tree(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a": rng.standard_normal((3, 2)).astype(np.float32),
        "b": (np.int32(7), np.zeros((), np.float32)),
        "key": jax.random.key(seed),
    }


def arrays_of(tree):
    return checkpoint.tree_to_arrays(tree)


def test_round_trip_keeps_values_shapes_and_keys(tmp_path):
    checkpoint.save(tmp_path / "000001", arrays_of(tree(1)), {"update": 1})
    arrays, state = checkpoint.read(tmp_path / "000001")
    again = checkpoint.tree_from_arrays(tree(2), arrays, "here")
    assert state == {"update": 1}
    np.testing.assert_array_equal(again["a"], tree(1)["a"])
    assert again["b"][0] == 7 and again["b"][1].shape == ()
    assert jax.random.bits(again["key"]) == jax.random.bits(jax.random.key(1))
    assert sorted(p.name for p in (tmp_path / "000001").iterdir()) == [
        "arrays.safetensors",
        "manifest.json",
        "state.json",
    ]
    assert not list(tmp_path.glob(".tmp*"))


def test_a_checkpoint_is_never_overwritten(tmp_path):
    checkpoint.save(tmp_path / "000001", arrays_of(tree(1)), {"update": 1})
    checkpoint.save(tmp_path / "000001", arrays_of(tree(2)), {"update": 2})
    assert checkpoint.read(tmp_path / "000001")[1] == {"update": 1}


def test_missing_and_misshapen_arrays_are_named(tmp_path):
    arrays = checkpoint.tree_to_arrays(tree())
    wrong = dict(arrays, a=np.zeros((2, 2), np.float32))
    with pytest.raises(DamagedCheckpoint, match=r"array a is float32\[2, 2\]"):
        checkpoint.tree_from_arrays(tree(), wrong, "here")
    del arrays["b/0"]
    with pytest.raises(DamagedCheckpoint, match="no array b/0"):
        checkpoint.tree_from_arrays(tree(), arrays, "here")


DAMAGE = {
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "flip": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "gone": lambda p: p.unlink(),
}


@pytest.mark.parametrize("member", ["arrays.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_the_newest_whole_one_used(tmp_path, member, damage):
    run = tmp_path / "run"
    for n in (1, 2):
        save_one(run / "checkpoints" / f"{n:06d}", n)
    DAMAGE[damage](run / "checkpoints" / "000002" / member)
    found, damaged = checkpoint.newest(run)
    assert found.name == "000001"
    assert len(damaged) == 1 and member in damaged[0]


def cut(folder, rng):
    """One of the members loses its end."""
    path = member(folder, rng)
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])
    return path


def flip(folder, rng):
    """One bit of one of the members is another."""
    path = member(folder, rng)
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return path


def lose(folder, rng):
    """One of the members is not there."""
    path = member(folder, rng)
    path.unlink()
    return path


def swap(folder, rng):
    """One of the members is that of the checkpoint before."""
    path = member(folder, rng)
    path.write_bytes((folder.parent / "000001" / path.name).read_bytes())
    return path


def other_version(folder, rng):
    """The manifest says another format."""
    path = folder / "manifest.json"
    version = [0, 1, 3, 99, "2", None][rng.integers(6)]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": version}))
    return path


def member(folder, rng):
    names = ("arrays.safetensors", "state.json", "manifest.json")
    return folder / names[rng.integers(3)]


@pytest.mark.parametrize("number", range(100))
def test_a_hundred_damages_are_found_and_the_newest_whole_one_used(tmp_path, number):
    rng = np.random.default_rng(number)
    for n in (1, 2):
        save_one(tmp_path / "checkpoints" / f"{n:06d}", n)
    folder = tmp_path / "checkpoints" / "000002"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    harm = (cut, flip, lose, swap, other_version)[number % 5]
    path = harm(folder, rng)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} != before
    found, damaged = checkpoint.newest(tmp_path)
    assert found.name == "000001", f"{harm.__name__} of {path.name}"
    assert len(damaged) == 1 and str(folder) in damaged[0]
    if path.name != "manifest.json":
        assert str(path) in damaged[0]


def save_one(folder, n):
    return checkpoint.save(folder, arrays_of(tree(n)), {"update": n})


def test_a_folder_under_another_number_is_no_checkpoint(tmp_path):
    for n in (1, 2):
        save_one(tmp_path / "checkpoints" / f"{n:06d}", n)
    shutil.copytree(tmp_path / "checkpoints" / "000001", tmp_path / "checkpoints" / "000003")
    found, damaged = checkpoint.newest(tmp_path)
    assert found.name == "000002" and "is of checkpoint 000001, not 000003" in damaged[0]


def test_numbers_are_compared_as_numbers(tmp_path):
    for n in (999_999, 1_000_000):
        save_one(tmp_path / "checkpoints" / f"{n:06d}", n)
    assert checkpoint.newest(tmp_path)[0].name == "1000000"


def test_a_damaged_one_is_moved_aside_and_written_again(tmp_path):
    for n in range(3):
        folder = save_one(tmp_path / "000001", 1)
        DAMAGE["flip"](folder / "state.json")
        assert len(list(tmp_path.glob(".bad-*"))) == n
    assert checkpoint.read(save_one(tmp_path / "000001", 1))[1] == {"update": 1}
    assert len(list(tmp_path.glob(".bad-000001*"))) == 3


def test_the_newest_and_number_0_are_kept(tmp_path):
    for n in (0, 3, 6, 9, 12):
        save_one(tmp_path / f"{n:06d}", n)
        checkpoint.thin(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000", "000009", "000012"]


class Crash(BaseException):
    """The process is gone."""


CALLS = (
    (checkpoint.os, "fsync"),
    (checkpoint.os, "open"),
    (checkpoint.Path, "open"),
    (checkpoint.Path, "mkdir"),
    (checkpoint.Path, "rename"),
    (checkpoint.shutil, "rmtree"),
)
"""Every call with which a checkpoint touches the disk."""


def strike(monkeypatch, at, error):
    """Let the call number `at` (from 0) fail instead; returns the list of calls made."""
    made = []

    def guarded(name, real):
        def call(*args, **options):
            made.append(name)
            if len(made) == at + 1 or (error is Crash and len(made) > at):
                raise error if error is Crash else OSError(*error)
            return real(*args, **options)

        return call

    for owner, name in CALLS:
        monkeypatch.setattr(owner, name, guarded(name, getattr(owner, name)))
    return made


def write_and_thin(folder):
    save_one(folder / "000003", 3)
    checkpoint.thin(folder, 1)


def test_a_crash_before_any_call_leaves_the_old_or_the_new_one(tmp_path):
    with pytest.MonkeyPatch.context() as m:
        calls = strike(m, 10_000, Crash)
        for n in (1, 2):
            save_one(tmp_path / "count" / f"{n:06d}", n)
        calls.clear()
        write_and_thin(tmp_path / "count")
        count = len(calls)
    assert count > 12
    names = set()
    for at in range(count):
        folder = tmp_path / f"at-{at}"
        for n in (1, 2):
            save_one(folder / f"{n:06d}", n)
        with pytest.MonkeyPatch.context() as m, pytest.raises(Crash):
            strike(m, at, Crash)
            write_and_thin(folder)
        found, damaged = checkpoint.newest_of(folder)
        assert not damaged
        names.add(found.name)
        arrays, state = checkpoint.read(found)
        assert state["update"] == int(found.name)
        np.testing.assert_array_equal(arrays["a"], tree(state["update"])["a"])
        checkpoint.sweep_litter(folder)
        write_and_thin(folder)  # the run goes on
        assert [p.name for p in folder.iterdir()] == ["000003"]
    assert names == {"000002", "000003"}


@pytest.mark.parametrize("error", [(28, "No space left on device"), (5, "Input/output error")])
def test_a_disk_that_refuses_any_call_loses_nothing(tmp_path, error):
    at, refused = 0, 0
    while True:
        folder = tmp_path / f"{error[0]}-{at}"
        for n in (1, 2):
            save_one(folder / f"{n:06d}", n)
        with pytest.MonkeyPatch.context() as m:
            made = strike(m, at, error)
            try:
                save_one(folder / "000003", 3)
            except EnvironmentFault as fault:
                assert error[1] in str(fault) and "000003" in str(fault)
                refused += 1
            reached = len(made) > at
        if not reached:
            break
        found, damaged = checkpoint.newest_of(folder)
        assert not damaged and int(found.name) >= 2
        save_one(folder / "000003", 3)  # there is room again
        assert checkpoint.newest_of(folder)[0].name == "000003"
        at += 1
    assert refused >= 10


def test_no_run_and_no_whole_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="is not a run"):
        checkpoint.newest(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(EnvironmentFault, match="no whole checkpoint"):
        checkpoint.newest(tmp_path)


def test_a_refusing_disk_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        checkpoint.save(tmp_path / "000001", arrays_of(tree()), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_agents_come_back_as_they_were(tmp_path):
    options = {"num_envs": 4, "num_steps": 16, "seed": 3, "preset": "none"}
    agent = Agent("trpo", "jax:CartPole-v1", **options).learn(128)
    assert float(agent.state.obs_stats.count) == 128 and agent.recent
    agent.save(tmp_path / "saved")
    again = Agent.load(tmp_path / "saved")
    for a, b in zip(
        jax.tree.leaves(checkpoint.tree_to_arrays(agent.state)),
        jax.tree.leaves(checkpoint.tree_to_arrays(again.state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert (again.env_steps, again.update, again.episodes) == (
        agent.env_steps,
        agent.update,
        agent.episodes,
    )
    assert again.recent == agent.recent
    assert again.trust_report() == agent.trust_report()
    assert again.config == agent.config
    obs = np.linspace(-0.1, 0.1, 8).reshape(2, 4)
    np.testing.assert_array_equal(again.predict(obs)[0], agent.predict(obs)[0])
    again.learn(64)
    assert again.update == agent.update + 1


def test_saving_into_another_agents_folder_is_refused(tmp_path):
    agent = Agent("trpo", "jax:CartPole-v1", num_envs=4, num_steps=16)
    agent.save(tmp_path / "saved")
    other = Agent("ppo", "jax:CartPole-v1", num_envs=4, num_steps=16)
    with pytest.raises(UsageError, match="other settings"):
        other.save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "saved" / "checkpoints")
    with pytest.raises(UsageError, match="is not a run"):
        Agent.load(tmp_path / "saved")
    with pytest.raises(UsageError, match="does not exist"):
        Agent.load(tmp_path / "nowhere")
