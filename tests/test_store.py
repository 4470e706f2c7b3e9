"""Results of runs, and the store that keeps them."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from surefoot import PPO, SGD, TRPO, Config, ValueFit, checkpoint
from surefoot.certificate import promised
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.experiments import plan, results, store
from surefoot.experiments.plan import Cell, Run, Task
from surefoot.experiments.results import read_run
from surefoot.experiments.store import Store
from surefoot.provenance import write_config

ROOT = Path(__file__).resolve().parents[1]
TRPO_CONFIG = Config(TRPO(), ValueFit(), env="jax:CartPole-v1", steps=1000)
PPO_CONFIG = Config(PPO(), ValueFit(), env="jax:CartPole-v1", steps=1000)


def fabricate(run, end=100.0, first=10.0, kls=(0.009, 0.01), seconds=2.0, **lines):
    """Write the folder of a run that is finished, as training would leave it: a straight course
    from `first` to `end` in ten updates."""
    config = dataclasses.replace(run.cell.config, seed=run.seed)
    promise, bound = promised(config)
    write_config(run.folder, config, promise=promise, bound=bound)
    step = config.steps // 10
    rows = [
        {
            "env_steps": step * i,
            "update": i,
            "episode_return": None if i == 1 else first + (end - first) * (i - 2) / 8,
            "kl_mean": kls[i % len(kls)],
            "kl_max": 0.1 * i,
        }
        for i in range(1, 11)
    ]
    clock = [{"env_steps": r["env_steps"], "seconds": seconds * r["update"] / 10} for r in rows]
    for name, default in (("metrics", rows), ("timings", clock)):
        text = "".join(json.dumps(r) + "\n" for r in lines.get(name, default))
        (run.folder / f"{name}.jsonl").write_text(text)
    last = run.folder / "checkpoints" / "000010"
    checkpoint.save(last, {"x": np.zeros(1)}, {"env_steps": config.steps})
    return run


@pytest.fixture
def run(tmp_path):
    """A finished run of TRPO."""
    cell = Cell("trpo", TRPO_CONFIG)
    return fabricate(plan.runs_of(cell, [3], tmp_path / "runs")[0])


# Results.


def with_success(run, rate, **ends):
    """Fabricate a run of an environment that knows success, from its first episode on."""
    fabricate(run, **ends)
    rows = [json.loads(r) for r in (run.folder / "metrics.jsonl").read_text().splitlines()]
    rows = [r | ({} if r["update"] < 3 else {"success_rate": rate}) for r in rows]
    return fabricate(run, **ends, metrics=rows)


def test_success_is_in_the_row_only_where_there_is_one(run, tmp_path):
    store = Store(tmp_path / "results")
    assert store.add(run) and read_run(run.folder).success is None
    other = with_success(plan.runs_of(Cell("ppo", PPO_CONFIG), [4], tmp_path / "runs")[0], 0.75)
    assert store.add(other)
    silent, known = sorted(store.rows().values(), key=lambda r: r["seed"])
    assert "success" not in silent["result"] and known["result"]["success"] == 0.75
    assert store.result(silent) == read_run(run.folder)
    assert store.result(known) == read_run(other.folder)


def test_a_fabricated_run_counts_as_finished(run):
    assert plan.state(run) == "finished"


def test_a_result_by_hand(run):
    got = read_run(run.folder)
    assert (got.seed, got.score, got.first, got.env_steps, got.updates) == (3, 100, 10, 1000, 10)
    assert got.auc == pytest.approx(55)  # a straight line from 10 to 100
    assert (got.promise, got.bound, got.bound_kept) == ("mean_kl", 0.01, 1.0)
    assert got.worst_kl == pytest.approx(1.0)
    assert (got.seconds, got.steps_per_second) == (2.0, 500.0)
    assert got.curve[0] == (200, 10.0) and got.curve[-1] == (1000, 100.0) and len(got.curve) == 9


def test_updates_over_the_bound_and_not_finite_ones_did_not_keep_it(run):
    fabricate(run, kls=(0.009, 0.011))
    assert read_run(run.folder).bound_kept == 0.5
    rows = results.json_lines(run.folder / "metrics.jsonl")
    rows[1] |= {"kl_mean": None, "kl_max": None}
    fabricate(run, metrics=rows)
    got = read_run(run.folder)
    assert got.bound_kept == 0.4 and math.isinf(got.worst_kl)


def test_the_column_follows_the_promise():
    rows = [{"kl_mean": 0.1, "kl_max": 0.3}, {"kl_mean": 0.2, "kl_max": 0.5}]
    assert results.bound_kept("mean_kl", 0.2, rows) == 1.0
    assert results.bound_kept("max_kl", 0.4, rows) == 0.5


def test_a_method_that_promises_nothing_has_no_bound(tmp_path):
    other = fabricate(plan.runs_of(Cell("ppo", PPO_CONFIG), [0], tmp_path)[0])
    got = read_run(other.folder)
    assert (got.promise, got.bound, got.bound_kept) == ("none", None, None)


def test_a_run_that_was_extended_is_read_up_to_its_settings(run):
    rows = results.json_lines(run.folder / "metrics.jsonl")
    longer = [r | {"env_steps": r["env_steps"] + 1000, "episode_return": -1.0} for r in rows]
    clock = results.json_lines(run.folder / "timings.jsonl")
    later = [c | {"env_steps": c["env_steps"] + 1000, "seconds": 99.0} for c in clock]
    before = read_run(run.folder)
    fabricate(run, metrics=rows + longer, timings=clock + later)
    assert read_run(run.folder) == before


def test_a_run_without_an_episode_says_so(run):
    rows = results.json_lines(run.folder / "metrics.jsonl")
    fabricate(run, metrics=[r | {"episode_return": None} for r in rows])
    with pytest.raises(EnvironmentFault, match=r"no episode of .* ended within 1000 steps"):
        read_run(run.folder)


def test_a_line_that_is_not_json_is_named(run):
    with (run.folder / "metrics.jsonl").open("a") as f:
        f.write("{half\n")
    with pytest.raises(EnvironmentFault, match=r"metrics.jsonl line 11 is not JSON"):
        read_run(run.folder)


@pytest.mark.parametrize(
    ("clock", "seconds"),
    [
        ([1.0, 2.0, 3.0], 3),
        ([1.0, 2.0, None, 0.5, 1.0], 3),  # resumed, and said so
        ([1.0, 2.0, 0.5, 1.0], 3),  # killed before it could
        ([1.0, None, None, 2.0, None], 3),
        ([], 0),
    ],
)
def test_wall_time_is_summed_over_stretches(clock, seconds):
    rows = [{"resumed": 1} if s is None else {"seconds": s} for s in clock]
    assert results.wall_seconds(rows) == pytest.approx(seconds)


def test_half_a_line_of_timings_is_passed_over(run):
    text = (run.folder / "timings.jsonl").read_text()
    (run.folder / "timings.jsonl").write_text(text[:-5] + "\n" + text)
    assert read_run(run.folder).seconds == pytest.approx(1.8 + 2.0)


def test_area_and_thinning():
    curve = [(0, 0.0), (10, 10.0), (40, 10.0)]
    assert results.area(curve) == pytest.approx((50 + 300) / 40)
    assert results.area(curve[:1]) == 0.0
    long = [(i, float(i)) for i in range(1001)]
    short = results.thinned(long)
    assert len(short) == results.CURVE_POINTS and short[0] == long[0] and short[-1] == long[-1]
    assert results.thinned(curve) == tuple(curve)


def test_curves_at_common_steps():
    steps, columns = results.common_curve([((0, 0.0), (100, 1.0)), ((50, 5.0), (200, 5.0))])
    assert steps[0] == 50 and steps[-1] == 100 and columns.shape == (len(steps), 2)
    assert columns[0].tolist() == [0.5, 5.0] and columns[-1].tolist() == [1.0, 5.0]


# What tells two cells apart.


def hashed(**changes):
    return plan.settings_hash(dataclasses.replace(PPO_CONFIG, **changes))


def test_the_hash_is_of_what_changes_a_run():
    base = hashed()
    assert hashed(seed=7) == hashed(preset="ppo-cartpole") == hashed(keep_checkpoints=9) == base
    assert hashed(certify_every=1) == base
    changed = [
        hashed(steps=2000),
        hashed(env="jax:Pendulum-v1"),
        hashed(gamma=0.9),
        hashed(checkpoint_every=500),  # where a checkpoint cuts episodes it moves every bit
        hashed(method=PPO(clip=0.1)),
        hashed(method=PPO(sgd=SGD(lr=1e-3))),
        hashed(method=TRPO()),
    ]
    assert len({base, *changed}) == 8


def test_settings_at_their_defaults_are_left_out_so_that_new_ones_change_no_hash():
    moved = plan.moved_settings(dataclasses.replace(PPO_CONFIG, gamma=0.9))
    assert set(moved) == {"method", "value", "env", "steps", "gamma"}
    assert moved["method"] == {"type": "PPO"}


def test_the_folder_of_a_run_follows_from_settings_and_epoch(monkeypatch, tmp_path):
    cell = Cell("mine", PPO_CONFIG)
    folder = cell.folder(tmp_path)
    assert folder.name.startswith("ppo-jax-CartPole-v1-")
    assert Cell("other", dataclasses.replace(PPO_CONFIG, seed=4)).folder(tmp_path) == folder
    monkeypatch.setattr(plan, "LEARNING_EPOCH", 999)
    assert cell.folder(tmp_path) != folder


def test_the_epoch_is_the_number_of_entries_under_learning():
    sections = re.findall(
        r"^### Learning\n(.*?)(?=^##|\Z)", (ROOT / "CHANGELOG.md").read_text(), re.M | re.S
    )
    entries = sum(len(re.findall(r"^- ", s, re.M)) for s in sections)
    assert entries == plan.LEARNING_EPOCH, (
        "the changelog's Learning section moved: set LEARNING_EPOCH in experiments/plan.py to the "
        "number of its entries, and results are made anew"
    )


# States of folders.


def test_states(run, tmp_path):
    new = Run(run.cell, 4, run.folder.parent / "seed-4")
    assert plan.state(new) == "train"
    new.folder.mkdir()
    (new.folder / ".lock").touch()  # what a process killed early leaves
    assert plan.state(new) == "train"
    args = plan.prepare(Task((new,)))
    assert args[:2] == ["train", "trpo"] and not new.folder.exists()
    assert json.loads(new.settings_file.read_text())["env"] == "jax:CartPole-v1"
    (run.folder / "metrics.jsonl").write_text("")
    assert plan.state(run) == "resume"
    assert plan.prepare(Task((run,))) == ["resume", str(run.folder), "--quiet"]


def test_a_folder_of_something_else_is_not_touched(run):
    with pytest.raises(UsageError, match="holds a run with other settings"):
        plan.state(Run(run.cell, 5, run.folder))
    other = Run(run.cell, 6, run.folder.parent / "seed-6")
    other.folder.mkdir()
    (other.folder / "precious").touch()
    with pytest.raises(UsageError, match=r"holds files but no config.json"):
        plan.prepare(Task((other,)))
    assert (other.folder / "precious").exists()


# The store.


def test_a_run_goes_into_the_store_and_comes_out_the_same(run, tmp_path):
    s = Store(tmp_path / "results")
    assert s.rows() == {} and s.add(run)
    row = s.rows()[run.cell.hash, 3]
    assert s.result(row) == read_run(run.folder)
    assert (row["method"], row["env"], row["suite"]) == ("trpo", "jax:CartPole-v1", "jax")
    assert set(row["env_versions"]) == {"surefoot"} and row["surefoot"]
    assert {"git", "code", "settings", "epoch"} <= set(row)
    assert (tmp_path / "results" / row["curve"]).read_text().startswith("env_steps,episode_return")
    assert str(tmp_path) not in (tmp_path / "results" / "runs.jsonl").read_text()


def test_an_infinite_kl_survives_the_store(run, tmp_path):
    rows = results.json_lines(run.folder / "metrics.jsonl")
    fabricate(run, metrics=[r | {"kl_max": None} for r in rows])
    s = Store(tmp_path / "results")
    s.add(run)
    assert math.isinf(s.result(s.rows()[run.cell.hash, 3]).worst_kl)


def test_what_is_there_is_not_added_again(run, tmp_path):
    s = Store(tmp_path / "results")
    assert s.add(run) and not s.add(run)
    assert len((tmp_path / "results" / "runs.jsonl").read_text().splitlines()) == 1


def test_rows_of_another_epoch_do_not_count_and_stay(run, tmp_path, monkeypatch):
    s = Store(tmp_path / "results")
    s.add(run)
    for module in (plan, store):
        monkeypatch.setattr(module, "LEARNING_EPOCH", 999)
    assert s.rows() == {}
    moved = fabricate(plan.runs_of(run.cell, [3], tmp_path / "runs")[0], end=50.0)
    assert s.add(moved) and s.result(s.rows()[run.cell.hash, 3]).score == 50.0
    assert len((tmp_path / "results" / "runs.jsonl").read_text().splitlines()) == 2
    assert len(list((tmp_path / "results" / "curves").iterdir())) == 2


def test_half_a_row_that_a_killed_writer_left_is_dropped(run, tmp_path):
    s = Store(tmp_path / "results")
    s.add(run)
    with s.path.open("a") as f:
        f.write('{"method": "tr')
    assert len(s.rows()) == 1
    other = fabricate(Run(run.cell, 4, run.folder.parent / "seed-4"))
    assert s.add(other) and len(s.rows()) == 2
    assert [json.loads(line)["seed"] for line in s.path.read_text().splitlines()] == [3, 4]


def test_a_row_that_is_none_is_named(run, tmp_path):
    s = Store(tmp_path / "results")
    s.add(run)
    s.path.write_text("[1]\n" + s.path.read_text())
    with pytest.raises(EnvironmentFault, match=r"runs.jsonl line 1 is not a row"):
        s.rows()


def test_a_curve_that_is_missing_is_named(run, tmp_path):
    s = Store(tmp_path / "results")
    s.add(run)
    row = s.rows()[run.cell.hash, 3]
    (s.folder / row["curve"]).unlink()
    with pytest.raises(EnvironmentFault, match=r"curves/.*csv cannot be read"):
        s.result(row)


WRITER = """
import sys
from pathlib import Path
from surefoot import TRPO, Config, ValueFit
from surefoot.experiments.plan import Cell, runs_of
from surefoot.experiments.store import Store

cell = Cell("trpo", Config(TRPO(), ValueFit(), env="jax:CartPole-v1", steps=1000))
for run in runs_of(cell, list(range(20)), Path("runs")):
    Store(Path("results")).add(run)
"""


@pytest.mark.slow
def test_two_writers_at_once_leave_every_row_once(tmp_path):
    cell = Cell("trpo", TRPO_CONFIG)
    for run in plan.runs_of(cell, list(range(20)), tmp_path / "runs"):
        fabricate(run)
    pair = [subprocess.Popen([sys.executable, "-c", WRITER], cwd=tmp_path) for _ in range(2)]
    assert [p.wait() for p in pair] == [0, 0]
    rows = [json.loads(r) for r in (tmp_path / "results" / "runs.jsonl").read_text().splitlines()]
    assert sorted(r["seed"] for r in rows) == list(range(20))


@pytest.mark.parametrize(
    ("env", "packages"),
    [
        ("envpool:Hopper-v5", ["envpool"]),
        ("jax:CartPole-v1", ["surefoot"]),
        ("CartPole-v1", ["gymnasium"]),
        ("HalfCheetah-v5", ["gymnasium", "mujoco"]),
    ],
)
def test_the_packages_an_environment_is_from(env, packages):
    assert store.env_packages(env) == packages
