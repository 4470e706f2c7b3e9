"""Updates that are not finite are undone and leave a file; five in a hundred stop the run."""

import json
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from surefoot.cli import main
from surefoot.incidents import Incidents
from surefoot.sinks import Update


class Spiky(gymnasium.Env):
    """Pays 1 a step, and 1e38 at the steps of the table: their squares are not finite."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    spikes = frozenset()

    def __init__(self):
        self.count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.k, self.count = self.k + 1, self.count + 1
        paid = 1e38 if self.count in self.spikes else 1.0
        return np.full(2, self.k / 8, np.float32), paid, self.k == 8, False, {}


gymnasium.register("Spiky-v0", entry_point=lambda: Spiky())


def trained(run, *spikes, steps=640):
    Spiky.spikes = frozenset(spikes)
    # 2 environments x 32 rows: 29 steps and 3 resets, or 28 and 4, of each an update.
    settings = [
        "--num-envs",
        "2",
        "--num-steps",
        "32",
        "--networks.hidden",
        "8",
        "--preset",
        "none",
    ]
    flags = ["--steps", str(steps), "--no-normalize-reward", "--quiet"]
    return main(["train", "ppo", "--env", "Spiky-v0", *settings, *flags, "--run-dir", str(run)])


def lines(run):
    return [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_incident_keeps_the_last_good_state_and_says_what_happened(tmp_path, capsys):
    assert trained(tmp_path / "run", 40) == 0
    undone = [m["update"] for m in lines(tmp_path / "run") if m["update_skipped"]]
    assert undone == [2]
    (path,) = (tmp_path / "run" / "incidents").iterdir()
    said = json.loads(path.read_text())
    assert path.name == "000002.json" and said["kept_as_it_was"] == ["policy", "critic"]
    assert said["rollout"]["reward"]["range"][1] == pytest.approx(1e38)
    assert all(m["kl_mean"] is not None for m in lines(tmp_path / "run")[2:])
    assert main(["certify", str(tmp_path / "run")]) == 0


def test_five_in_a_hundred_stop_the_run_with_exit_4(tmp_path, capsys):
    run = tmp_path / "run"
    assert trained(run, *(30 * k for k in range(2, 9))) == 4
    said = capsys.readouterr().err
    assert "5 updates of the last 100 were undone: see" in said and "surefoot resume" in said
    assert len(list((run / "incidents").iterdir())) == 5
    last = lines(run)[-1]["update"]
    assert (run / "checkpoints" / f"{last:06d}").is_dir()
    Spiky.spikes = frozenset()
    assert main(["resume", str(run), "--quiet"]) == 0  # whoever has mended it may go on
    assert len(list((run / "incidents").iterdir())) == 5


def test_what_is_long_ago_does_not_count(tmp_path):
    rollout = SimpleNamespace(obs=np.zeros(2), action=np.zeros(2), reward=np.array([1.0, np.inf]))

    def report(number, *columns):
        skipped = {c: c in columns for c in ("update_skipped", "value_skipped")}
        return Update({"update": number, "kl_mean": float("nan")} | skipped, {})

    guard = Incidents(tmp_path, lambda: rollout)
    for number in (1, 2, 3, 4, 101):
        guard(report(number, "value_skipped"))
    assert not guard.tripped and guard.recent == [2, 3, 4, 101]  # 1 is a hundred updates ago
    guard(report(101 + 1))
    assert not guard.tripped
    again = Incidents(tmp_path, lambda: rollout, guard.recent)
    again(report(103, "update_skipped"))
    assert not again.tripped and again.recent == [4, 101, 103]
    for number in (104, 105, 106):
        again(report(number, "update_skipped"))
    assert again.tripped
    said = json.loads((tmp_path / "incidents" / "000103.json").read_text())
    assert said["kept_as_it_was"] == ["policy"] and said["metrics"]["kl_mean"] == "nan"
    assert said["rollout"]["reward"] == {"range": [1.0, 1.0], "not_finite": 1}
