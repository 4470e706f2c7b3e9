"""The learning gate's own arithmetic, its files, and that its runs are those that `train` makes."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from surefoot import envs
from surefoot.experiments import plan
from surefoot.loops import DeviceLoop, fresh_state
from surefoot.methods import METHODS

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import gate
import gate_runs
import gate_table

TASKS = gate_runs.TASKS


def made_up(folder, name="ppo", draws=gate.DRAWS, seed=0):
    """A file of normal scores, as if calibrated now."""
    scores = np.random.default_rng(seed).normal(10, 1, (draws, len(TASKS)))
    rows = {4 * i: dict(zip(TASKS, map(float, row), strict=True)) for i, row in enumerate(scores)}
    gate.write_draws(name, rows, folder)
    return rows


# Arithmetic.


@pytest.mark.parametrize(("n", "k"), [(299, 1), (512, 2), (1000, 5), (298, 0)])
def test_the_order_statistic_is_below_the_quantile_with_confidence(n, k):
    """299 is the textbook's smallest sample for a bound on 1 % at 95 %."""
    if not k:
        with pytest.raises(ValueError, match="298 draws are too few"):
            gate.order(n)
        return
    assert gate.order(n) == k
    rng = np.random.default_rng(n)
    levels = np.sort(rng.random((4000, n)), axis=1)  # of a uniform, a quantile is its own level
    assert np.mean(levels[:, k - 1] <= gate.QUANTILE) > 0.945
    assert np.mean(levels[:, k] <= gate.QUANTILE) < 0.955


@pytest.mark.parametrize(("n", "k"), [(20, 3), (50, 5)])
def test_the_rate_of_false_alarms_holds_for_any_distribution(n, k):
    """Against a simulation of calibration and gate together, with scores far from normal."""
    rng = np.random.default_rng(k)
    scores = rng.standard_cauchy((60_000, n + 3)) ** 3
    limit = np.partition(scores[:, :n], k - 1, axis=1)[:, k - 1]
    seen = np.mean(np.all(scores[:, n:] < limit[:, None], axis=1))
    want = gate.false_alarm(n, k)
    assert abs(seen - want) < 5 * math.sqrt(want / 60_000)


def test_the_whole_gate_alarms_falsely_less_than_once_in_a_thousand():
    looks = len(gate_runs.NAMES) * len(TASKS)
    k = gate.order(gate.DRAWS)
    assert k == 2 and gate.false_alarm(gate.DRAWS, k) < gate.QUANTILE**3
    assert looks * gate.false_alarm(gate.DRAWS, k) < gate.FALSE_ALARMS / 20
    # Even where every threshold were at its quantile and no lower.
    assert looks * gate.QUANTILE**3 < gate.FALSE_ALARMS


def test_three_in_a_row_find_what_a_planted_generator_does_worse():
    """Scores from normals: what is calibrated passes, a loss of `needed` is found in 80 %."""
    rng = np.random.default_rng(1)
    limit = gate.threshold(list(rng.normal(0, 1, gate.DRAWS)))
    rate = lambda mean: np.mean(  # noqa: E731
        [gate.alarms(list(row), limit) for row in rng.normal(mean, 1, (4000, gate.TRIES))]
    )
    assert rate(0) == 0
    assert gate.needed() == pytest.approx(0.9283, abs=1e-4)
    assert rate(limit - 1.4634) == pytest.approx(gate.FOUND, abs=0.03)
    assert rate(limit) == pytest.approx(0.125, abs=0.03)


def test_what_alarms_and_what_does_not():
    assert gate.alarms([1, 2, 2.9], 3) and gate.alarms([math.nan, 1, 2], 3)
    assert not gate.alarms([1, 2, 3], 3)  # at the threshold is not below it
    assert not gate.alarms([1, 2], 3)  # two are not three
    assert not gate.alarms([math.nan] * 3, -math.inf)  # as it was calibrated
    assert gate.threshold([math.nan] * 2 + [5.0] * 510) == -math.inf
    assert gate.threshold([5.0, math.nan] + [6.0] * 510) == 5.0


def test_the_interval_of_a_share_is_clopper_and_pearsons():
    """Known ends: 0 of n is 1 - 0.025^(1/n); the rest from tables."""
    assert gate.interval(0, 10) == (0, pytest.approx(1 - 0.025**0.1))
    assert gate.interval(10, 10) == (pytest.approx(0.025**0.1), 1)
    assert gate.interval(8, 10) == (
        pytest.approx(0.4439, abs=1e-4),
        pytest.approx(0.9748, abs=1e-4),
    )


# Files.


def test_what_is_calibrated_is_read_as_it_was_written(tmp_path):
    rows = made_up(tmp_path)
    read = gate.draws_of("ppo", tmp_path)
    assert list(read) == sorted(rows)
    for seed, row in rows.items():
        assert read[seed] == pytest.approx(row, abs=5e-5)
    limits = gate.thresholds("ppo", tmp_path)
    for task in TASKS:
        assert limits[task] == sorted(r[task] for r in read.values())[1]


def test_calibration_of_another_epoch_or_of_other_settings_is_refused(tmp_path, monkeypatch):
    made_up(tmp_path)
    assert gate.stale(["ppo"], tmp_path) == ""
    now = gate.stamp("ppo")
    with monkeypatch.context() as m:
        m.setattr(plan, "LEARNING_EPOCH", plan.LEARNING_EPOCH + 1)
        with pytest.raises(gate.Stale, match=rf"for {now[2:]}, and it is epoch "):
            gate.thresholds("ppo", tmp_path)
        line = gate.stale(["ppo"], tmp_path)
        assert line.endswith("Type: python benchmarks/gate.py calibrate --again ppo")
        assert "\n" not in line
    with monkeypatch.context() as m:
        m.setitem(gate_runs.OWN, "ppo", {"sgd": gate_runs.WHOLE})
        assert gate.stale(["ppo"], tmp_path)
        assert gate.stale(["npg", "ppo"], tmp_path).count("npg") == 2  # it has no file
    with monkeypatch.context() as m:
        m.setattr(gate_runs, "SCORE", gate_runs.SCORE + 1)
        assert gate.stale(["ppo"], tmp_path)
    assert gate.stamp("ppo") == now


def test_too_few_draws_are_no_calibration(tmp_path):
    made_up(tmp_path, draws=gate.DRAWS - 1)
    assert f"ppo ({gate.DRAWS - 1} of {gate.DRAWS} draws)" in gate.stale(["ppo"], tmp_path)


def test_calibration_runs_what_is_missing_and_only_that(tmp_path, monkeypatch):
    asked = []

    def drawn(name, tasks, seeds, share=None):
        asked.extend(seeds)
        return [dict.fromkeys(tasks, float(s)) for s in seeds]

    monkeypatch.setattr(gate, "draw", drawn)
    gate.calibrate("ppo", tmp_path, 20)
    gate.calibrate("ppo", tmp_path, 40)
    assert asked == [gate.RUNS * i for i in range(40)]
    assert len(gate.draws_of("ppo", tmp_path)) == 40


def test_the_line_that_says_what_to_type_can_be_typed(tmp_path, monkeypatch, capsys):
    """A stale file is refused by the gate and by `calibrate`, and begun anew by what they say."""
    monkeypatch.setattr(gate, "RESULTS", tmp_path)
    monkeypatch.setattr(
        gate, "draw", lambda n, tasks, seeds, s=None: [dict.fromkeys(tasks, 1.0)] * 2
    )
    monkeypatch.setattr(gate, "CHUNK", 2)
    made_up(tmp_path, draws=8)
    monkeypatch.setattr(gate_runs, "SCORE", gate_runs.SCORE + 1)
    assert gate.main(["run", "ppo"]) == 2 and gate.main(["calibrate", "ppo"]) == 2
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    typed = said[0].partition("Type: python benchmarks/gate.py ")[2].split()
    assert said[1].endswith(" ".join(typed))
    assert gate.main([*typed[:2], "--draws", "4", *typed[2:]]) == 0
    assert len(gate.draws_of("ppo", tmp_path)) == 4


def test_the_draws_of_a_gate_follow_from_its_seed_and_the_method():
    seeds = gate.fresh(5, "ppo")
    assert seeds == gate.fresh(5, "ppo") and len(set(seeds)) == gate.TRIES
    assert not set(seeds) & set(gate.fresh(6, "ppo")) | set(seeds) & set(gate.fresh(5, "npg"))
    assert all(s >= 0 and s + gate.RUNS <= 2**31 for s in seeds)
    assert all(s > gate.DRAWS * gate.RUNS for s in seeds)


def test_the_gate_says_which_method_no_longer_learns_which_task(tmp_path, monkeypatch, capsys):
    made_up(tmp_path)
    limit = gate.thresholds("ppo", tmp_path)["matched"]
    monkeypatch.setattr(gate, "RESULTS", tmp_path)

    def drawn(name, tasks, seeds, share=None):
        return [dict.fromkeys(tasks, 10.0) | {"matched": limit - share} for _ in seeds]

    monkeypatch.setattr(gate, "draw", drawn)
    assert gate.run_here(["ppo"], 3, "0.0") == 0
    assert capsys.readouterr().out.startswith("learns ppo")
    assert gate.run_here(["ppo"], 3, "0.1") == 1
    alarm, task = capsys.readouterr().out.splitlines()
    assert alarm.startswith("ALARM  ppo") and "ppo on matched: " in task


def test_a_planted_loss_is_bisected_and_confirmed(tmp_path, monkeypatch):
    """A generator that falls by one deviation a twentieth: at 0.2 a draw is below in 84 % of cases,
    at 0.25 in 98 %."""
    made_up(tmp_path)
    limit = gate.thresholds("ppo", tmp_path)["acted"]
    seen = []

    def drawn(name, tasks, seeds, share=None):
        seen.append(share)
        rng = np.random.default_rng([seeds[0], round(100 * share)])
        return [{tasks[0]: rng.normal(limit + 3 - 20 * share, 1)} for _ in seeds]

    monkeypatch.setattr(gate, "draw", drawn)
    row = gate.plant("ppo", "acted", tmp_path)
    assert row["share"] == "0.25" and int(row["below"]) >= 60
    assert float(row["power_low"]) < float(row["power"]) < float(row["power_high"])
    assert float(row["mean_with"]) == pytest.approx(limit - 2, abs=0.4)
    assert float(row["mean_without"]) == pytest.approx(10, abs=0.2)
    assert len(set(seen)) <= 5
    monkeypatch.setattr(gate, "draw", lambda n, tasks, seeds, s: [{tasks[0]: 1e3} for _ in seeds])
    assert gate.plant("ppo", "acted", tmp_path)["share"] == "none"


# The page.


def test_the_tables_of_the_page_are_what_the_files_say():
    text = gate.PAGE.read_text()
    assert gate_table.page(text, gate.RESULTS) == text, "python benchmarks/gate.py table"
    for name in gate_runs.NAMES:
        assert text.count(f"\n| `{name}` |") == 2


def test_the_page_states_the_gates_own_numbers():
    text = gate.PAGE.read_text()
    k, looks = gate.order(gate.DRAWS), len(gate_runs.NAMES) * len(TASKS)
    rate = gate.false_alarm(gate.DRAWS, k)
    for number in (f"{gate.DRAWS} draws", f"{looks} looks", f"{rate:.1e}", f"{looks * rate:.1e}"):
        assert number in text, number


def test_a_table_shows_thresholds_and_the_smallest_loss(tmp_path):
    rows = made_up(tmp_path)
    limit = sorted(r["CartPole-v1"] for r in rows.values())[1]
    (line,) = [x for x in gate_table.thresholds(tmp_path) if x.startswith("| `ppo`")]
    assert line.endswith(f", {limit:.1f} |")
    folder = tmp_path / "planted"
    folder.mkdir()
    lines = [",".join(gate.PLANTED)]
    for task, share in (("acted", "none"), ("matched", "0.25"), ("CartPole-v1", "0.2")):
        lines.append(f"ppo,{task},now,{share},64,62,0.909,0.71,0.98,80.0,60.0")
    (folder / "ppo.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(gate.Stale, match=r"gate\.py plant ppo"):  # they are of other settings
        gate.share_of("ppo", "smallest", tmp_path)
    with pytest.raises(gate.Stale, match=r"gate\.py plant npg"):
        gate.share_of("npg", "smallest", tmp_path)
    text = (folder / "ppo.csv").read_text()
    (folder / "ppo.csv").write_text(text.replace(",now,", f",{gate.stamp('ppo')[2:]},"))
    assert gate.share_of("ppo", "smallest", tmp_path) == 0.2
    assert gate.share_of("ppo", "0.3", tmp_path) == 0.3
    assert gate.share_of("ppo", "", tmp_path) is None
    (line,) = [x for x in gate_table.losses(tmp_path) if x.startswith("| `ppo`")]
    assert "| none | 25%: -25.0%, found 91% [71%, 98%] |" in line
    assert line.endswith("| 20%, on CartPole-v1 |")


# Runs.


def test_every_method_and_both_wrappers_are_watched():
    assert set(METHODS) < set(gate_runs.NAMES) and len(gate_runs.NAMES) == len(METHODS) + 2
    hashes = {gate_runs.settings(name) for name in gate_runs.NAMES}
    assert len(hashes) == len(gate_runs.NAMES)
    for name in gate_runs.NAMES:
        assert re.fullmatch(r"[a-z_-]+", name)


SHORT = {"num_envs": 4, "num_steps": 8, "steps": 3 * 32}


def short(name, task, original=gate_runs.config):
    """The gate's settings for three small updates."""
    return dataclasses.replace(original(name, task), **SHORT)


@functools.lru_cache
def alone(name, task, seed):
    """Episodes and returns of every update of a run of its own, and what its critic says."""
    setup = dataclasses.replace(short(name, task), seed=seed)
    made = envs.make(setup.env, setup.num_envs)
    loop, ts, out = DeviceLoop(setup, made), fresh_state(setup, made.spec), []
    for _ in range(setup.updates):
        ts, outcome = loop.iterate(ts)
        returns = [e.episode_return for e in outcome.episodes]
        out.append((len(returns), sum(returns)))
    said = setup.algorithm.value.of(ts.policy, ts.critic)(np.asarray([[-1.0], [0.0], [1.0]]))
    return np.array(out).T, np.asarray(said)


@pytest.mark.slow
def test_many_runs_at_once_are_the_runs_of_their_seeds(monkeypatch):
    """On two probes in one program: environments, first parameters and noise are those of a run of
    its own; with no sign flipped, a planted run too."""
    monkeypatch.setattr(gate_runs, "program", gate_runs.compiled)
    for share in (None, 0.0):
        with monkeypatch.context() as m:
            m.setattr(gate_runs, "config", short)
            ended, total, said = gate_runs.raw("ppo", ["acted", "matched"], [7, 8], share)
        for i, (task, seed) in enumerate((("acted", 7), ("acted", 8), ("matched", 7))):
            (want, returns), critic = alone("ppo", task, seed)
            np.testing.assert_array_equal(ended[i], want)
            np.testing.assert_allclose(total[i], returns, atol=1e-4)
            np.testing.assert_allclose(said[i], critic, atol=1e-4)
        assert not np.array_equal(total[0], total[1])


@pytest.mark.slow
def test_flips_reach_the_method_and_nothing_else_does(monkeypatch):
    """With every sign flipped a bandit is unlearnt: the worse action is chosen."""
    original = gate_runs.config
    monkeypatch.setattr(gate_runs, "program", functools.lru_cache(gate_runs.compiled))
    longer = {"num_envs": 8, "num_steps": 8, "steps": 20 * 64}
    monkeypatch.setattr(
        gate_runs, "config", lambda n, t: dataclasses.replace(original(n, t), **longer)
    )
    late = {}
    for share in (0.0, 1.0):
        ended, total, _ = gate_runs.raw("ppo", ["acted"], [1, 2], share)
        late[share] = total[:, -5:].sum(1) / ended[:, -5:].sum(1)
    assert np.all(late[0.0] > 0.5) and np.all(late[1.0] < -0.5)


def test_scores_are_mean_returns_and_critics_errors(monkeypatch):
    said = np.zeros((6, 3))
    said[:, 1], said[0] = 1.0, [0, 1.3, 0]
    ended, total = np.full((6, 2), 4.0), np.full((6, 2), 6.0)
    ended[5] = 0
    monkeypatch.setattr(gate_runs, "raw", lambda *_: (ended, total, said))
    out = gate_runs.score("ppo", ["constant", "acted", "matched"], [0, 1])
    np.testing.assert_allclose(out["constant"], [-0.3, -0.01])
    np.testing.assert_allclose(out["acted"], [1.5, 1.5])
    np.testing.assert_allclose(out["matched"], [1.5, np.nan])


def test_any_probe_is_each_of_them():
    for kind, name in enumerate(gate_runs.PROBE_TASKS):
        one, probe = gate_runs.AnyProbe(kind), gate_runs.PROBES[name]()
        key = jax.random.key(kind)
        (state, obs), (want, want_obs) = one.reset(key), probe.reset(key)
        assert np.array_equal(obs, want_obs)
        for action in (0, 1, 1):
            state, *got = one.step(state, np.asarray(action), key)
            want, *expected = probe.step(want, np.asarray(action), key)
            assert all(np.array_equal(x, y) for x, y in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("run ppo --jobs 0", "--jobs is 0"),
        ("calibrate --shard 3/2", "--shard is 3/2"),
        ("calibrate --shard x", "--shard is x"),
        ("calibrate ppo --shard 1/2", "leaves none of 1 methods"),
        ("run ppo --plant x", "--plant is x"),
        ("run ppo --plant 2", "--plant is 2"),
        ("run ppo --seed -1", "the seed is -1"),
        ("run pop", "no method is called pop"),
    ],
)
def test_what_is_not_understood_is_refused_in_a_line(monkeypatch, capsys, typed, said):
    monkeypatch.setattr(gate, "stale", lambda names, folder: "")
    assert gate.main(typed.split()) == 2
    out = capsys.readouterr().out
    assert said in out and out.count("\n") == 1


@pytest.mark.parametrize(
    ("says", "plant", "status"),
    [
        ("learns ppo (1 s)\\nlearns npg (1 s)", "", 0),
        ("learns ppo (1 s)\\nALARM  npg (1 s)", "", 1),
        ("learns ppo (1 s)", "", 2),  # nothing of npg
        ("learns ppo (1 s)\\nALARM  npg (1 s)", "0.5", 1),  # one of two is not found
        ("ALARM  ppo (1 s)\\nALARM  npg (1 s)", "0.5", 0),
    ],
)
def test_the_gate_believes_only_what_is_said(tmp_path, monkeypatch, says, plant, status):
    """A part that ends well and says nothing of a method is no gate."""
    part = tmp_path / "part"
    part.write_text(f"#!/bin/sh\nprintf '{says}\\n'\n")
    part.chmod(0o755)
    monkeypatch.setattr(gate, "stale", lambda names, folder: "")
    monkeypatch.setattr(gate.sys, "executable", str(part))
    assert gate.run(["ppo", "npg"], 1, 1, plant) == status
