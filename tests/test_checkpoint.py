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


def test_round_trip_keeps_values_shapes_and_keys(tmp_path):
    checkpoint.save(tmp_path / "000001", tree(1), {"update": 1})
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
    checkpoint.save(tmp_path / "000001", tree(1), {"update": 1})
    checkpoint.save(tmp_path / "000001", tree(2), {"update": 2})
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
        checkpoint.save(run / "checkpoints" / f"{n:06d}", tree(n), {"update": n})
    DAMAGE[damage](run / "checkpoints" / "000002" / member)
    found, damaged = checkpoint.newest(run)
    assert found.name == "000001"
    assert len(damaged) == 1 and member in damaged[0]


def test_other_formats_are_refused(tmp_path):
    folder = checkpoint.save(tmp_path / "000001", tree(), {})
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(DamagedCheckpoint, match="format 99"):
        checkpoint.read(folder)


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
        checkpoint.save(tmp_path / "000001", tree(), {})
    assert not list(tmp_path.iterdir())


def test_agents_come_back_as_they_were(tmp_path):
    agent = Agent("trpo", "jax:CartPole-v1", num_envs=4, num_steps=16, seed=3).learn(128)
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
