"""The learning gate's own arithmetic, its files, and that its runs are those that `train` makes."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surefoot import envs
from surefoot.advantages import GAE
from surefoot.experiments import plan
from surefoot.loops import DeviceLoop, fresh_state
from surefoot.methods import METHODS
from surefoot.networks import Networks
from surefoot.types import Rollout

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

    def drawn(name, tasks, seeds, planted=None):
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

    def drawn(name, tasks, seeds, planted=None):
        return [dict.fromkeys(tasks, 10.0) | {"matched": limit - planted.share} for _ in seeds]

    monkeypatch.setattr(gate, "draw", drawn)
    assert gate.run_here(["ppo"], 3, "0.0") == 0
    seen, line = capsys.readouterr().out.splitlines()
    assert line.startswith("learns ppo") and told(seen)["alarms"] == []
    assert gate.run_here(["ppo"], 3, "0.1") == 1
    seen, alarm, task = capsys.readouterr().out.splitlines()
    assert alarm.startswith("ALARM  ppo") and "ppo on matched: " in task
    assert told(seen)["alarms"] == ["matched"] and told(seen)["share"] == 0.1
    assert told(seen)["scores"]["matched"] == [f"{limit - 0.1:.4f}"] * gate.TRIES
    assert set(told(seen)["scores"]) == set(TASKS)


def told(line):
    """What a part hands on."""
    return json.loads(line.removeprefix(gate.SEEN))


def test_the_critics_fault_is_looked_for_on_the_tasks_that_show_it(tmp_path, monkeypatch):
    made_up(tmp_path)
    asked = []

    def drawn(name, tasks, seeds, planted=None):
        asked.append((tuple(tasks), planted))
        return [dict.fromkeys(tasks, math.nan) for _ in seeds]

    monkeypatch.setattr(gate, "draw", drawn)
    found = gate.gate("ppo", 1, tmp_path, gate_runs.Planted("critic", 1.0))
    assert [f.task for f in found] == ["constant", "observed", "delayed"]
    assert all(f.alarm for f in found)
    gate.gate("ppo", 1, tmp_path)
    assert asked == [
        (tuple(gate_runs.VALUES), gate_runs.Planted("critic", 1.0)),
        (tuple(TASKS), None),
    ]


def test_a_planted_loss_is_bisected_and_confirmed(tmp_path, monkeypatch):
    """A generator that falls by one deviation a twentieth: at 0.2 a draw is below in 84 % of cases,
    at 0.25 in 98 %, which the draws need not show and these do not, at 0.3 in 99.9 %."""
    made_up(tmp_path)
    limit = gate.thresholds("ppo", tmp_path)["acted"]
    seen = []

    def drawn(name, tasks, seeds, planted=None):
        seen.append(planted.share)
        rng = np.random.default_rng([seeds[0], round(100 * planted.share)])
        return [{tasks[0]: rng.normal(limit + 3 - 20 * planted.share, 1)} for _ in seeds]

    monkeypatch.setattr(gate, "draw", drawn)
    row = gate.plant("ppo", "acted", tmp_path)
    assert row["share"] == "0.3" and 0.25 in seen and int(row["below"]) >= 0.96 * int(row["draws"])
    assert gate.FOUND <= float(row["power_low"]) < float(row["power"]) <= float(row["power_high"])
    assert float(row["mean_with"]) == pytest.approx(limit - 3, abs=0.4)
    assert float(row["mean_without"]) == pytest.approx(10, abs=0.2)
    assert len(set(seen)) <= 5
    row = gate.plant("ppo", "constant", tmp_path)  # of the critic's fault, other shares are tried
    assert row["share"] == "0.5" and set(seen[-3:]) <= set(gate.SHARES["critic"])
    monkeypatch.setattr(gate, "draw", lambda n, tasks, seeds, s: [{tasks[0]: 1e3} for _ in seeds])
    assert gate.plant("ppo", "acted", tmp_path)["share"] == "none"


@pytest.mark.parametrize(
    ("above", "later", "draws"),
    [
        (0, 0, 64),  # all of the first are enough
        (1, 0, 192),  # one of them is not: lower end 77 %
        (4, 2, 192),
        (4, 3, 0),  # 185 of 192: lower end 79.5 %
        (5, 0, 0),  # 59 of 64 are fewer than the loss needs: it gives way at once
    ],
)
def test_a_loss_is_stated_where_the_lower_end_is_four_in_five(above, later, draws):
    asked = []

    def made(at, n):
        asked.append((at, n))
        over = later if at else above
        return [1.0] * over + [-1.0] * (n - over)

    assert len(gate.confirmed(made, 0.0)) == draws
    assert asked[0] == (0, 64) and asked[1:] in ([], [(64, 128)])
    assert bool(asked[1:]) == (1 <= above <= 4)
    if draws:
        assert gate.power(draws - above - later, draws)[1] >= gate.FOUND


def test_every_committed_loss_is_stated_by_the_rule():
    rows = gate.planted(gate.RESULTS)
    assert len(rows) == len(gate_runs.NAMES) * len(TASKS)
    for row in rows:
        assert row["share"] != "none" and float(row["power_low"]) >= gate.FOUND, row
        assert float(row["share"]) in gate.SHARES[gate_runs.fault_of(row["task"])]
        found, low, high = gate.power(int(row["below"]), int(row["draws"]))
        assert [row[k] for k in ("power", "power_low", "power_high")] == [
            f"{x:.3f}" for x in (found, low, high)
        ]


# The page.


def test_the_tables_of_the_page_are_what_the_files_say():
    text = gate.PAGE.read_text()
    assert gate_table.page(text, gate.RESULTS) == text, "python benchmarks/gate.py table"
    for name in gate_runs.NAMES:
        assert text.count(f"\n| `{name}` |") == 3


def test_the_page_states_the_gates_own_numbers():
    text = gate.PAGE.read_text()
    k, looks = gate.order(gate.DRAWS), len(gate_runs.NAMES) * len(TASKS)
    rate = gate.false_alarm(gate.DRAWS, k)
    for number in (f"{gate.DRAWS} draws", f"{looks} looks", f"{rate:.1e}", f"{looks * rate:.1e}"):
        assert number in text, number


def planted_rows(folder, rows, name="ppo", holds=None):
    """A file of planted losses: (task, share, power, its lower end) each."""
    (folder / "planted").mkdir(exist_ok=True)
    lines = [",".join(gate.PLANTED)]
    holds = holds or gate.stamp(name)[2:]
    for task, share, power, low in rows:
        lines.append(f"{name},{task},{holds},{share},64,62,{power},{low},0.98,80.0,60.0")
    (folder / "planted" / f"{name}.csv").write_text("\n".join(lines) + "\n")


THREE = (
    ("acted", "none", 0.9, 0.8),
    ("matched", 0.25, 0.909, 0.71),
    ("CartPole-v1", 0.2, 0.9, 0.8),
)


def test_a_table_shows_thresholds_and_the_smallest_loss(tmp_path):
    rows = made_up(tmp_path)
    limit = sorted(r["CartPole-v1"] for r in rows.values())[1]
    (line,) = [x for x in gate_table.thresholds(tmp_path) if x.startswith("| `ppo`")]
    assert line.endswith(f", {limit:.1f} |")
    planted_rows(tmp_path, THREE, holds="now")
    with pytest.raises(gate.Stale, match=r"gate\.py plant ppo"):  # they are of other settings
        gate.planted_by("ppo", "smallest", tmp_path)
    with pytest.raises(gate.Stale, match=r"gate\.py plant npg"):
        gate.planted_by("npg", "smallest", tmp_path)
    planted_rows(tmp_path, THREE)
    (line,) = [x for x in gate_table.losses(tmp_path) if x.startswith("| `ppo`")]
    assert "| none | 25%: -25.0%, found 91% [71%, 98%] |" in line
    assert line.endswith("| 20%, on CartPole-v1 |")
    (line,) = [x for x in gate_table.critics(tmp_path) if x.startswith("| `ppo`")]
    assert line == "| `ppo` | not planted yet | not planted yet | not planted yet |"


def test_what_is_asked_for_by_plant(tmp_path):
    made_up(tmp_path)
    critic = (("constant", 0.02, 1.0, 0.9), ("observed", 0.05, 1.0, 0.9))
    planted_rows(tmp_path, (*THREE, *critic))
    asked = {
        "smallest": ("policy", 0.2),  # the critic's shares are of something else
        "0.3": ("policy", 0.3),
        "policy:0.3": ("policy", 0.3),
        "critic": ("critic", 1.0),
        "critic:0.1": ("critic", 0.1),
        "critic:smallest": ("critic", 0.02),
    }
    for plant, (kind, share) in asked.items():
        assert gate.planted_by("ppo", plant, tmp_path) == gate_runs.Planted(kind, share), plant
    assert gate.planted_by("ppo", "", tmp_path) is None


def test_the_smallest_share_that_is_tried_may_be_less(tmp_path):
    made_up(tmp_path)
    (least, *_) = gate.SHARES["policy"]
    planted_rows(tmp_path, (("acted", least, 0.9, 0.8), *THREE[1:], ("delayed", 0.02, 1.0, 0.9)))
    (line,) = [x for x in gate_table.losses(tmp_path) if x.startswith("| `ppo`")]
    assert f"| \u2264 {least:.0%}: -25.0%" in line
    assert line.endswith(f"| \u2264 {least:.0%}, on acted |")
    (line,) = [x for x in gate_table.critics(tmp_path) if x.startswith("| `ppo`")]
    assert "| 2%: off by -60.000, found 100%" in line  # the cost is the error itself


def test_of_equal_shares_the_one_found_most_often_is_the_smallest():
    rows = [
        {"task": "acted", "share": "0.3", "power": "0.91"},
        {"task": "matched", "share": "0.30", "power": "1.000"},
        {"task": "CartPole-v1", "share": "none", "power": ""},
        {"task": "constant", "share": "0.02", "power": "1.000"},
    ]
    assert gate.smallest(rows) is rows[1] and gate.smallest(rows[2:]) is None
    assert gate.smallest(rows, "critic") is rows[3]


def test_how_likely_all_are_found_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_table, "NAMES", ("ppo", "npg"))
    for name, power in (("ppo", 0.9), ("npg", 0.8)):
        made_up(tmp_path, name)
        planted_rows(tmp_path, (*THREE[:2], ("CartPole-v1", 0.1, power, 0.8)), name)
    said = " ".join(gate_table.together(tmp_path))
    assert "all of them in 72% of cases" in said and "misses 0.3 of them" in said
    (tmp_path / "planted" / "npg.csv").unlink()
    assert gate_table.together(tmp_path)[0].startswith("Not known yet")


def test_methods_that_draw_the_same_are_named(tmp_path):
    rows = made_up(tmp_path)
    gate.write_draws("npg", rows, tmp_path)
    other = {k: v | {"acted": 0.5} for k, v in rows.items()}
    gate.write_draws("trpo", {k: v | {"matched": 0.5} for k, v in other.items()}, tmp_path)
    made_up(tmp_path, "mdpo", seed=1)
    assert gate_table.alike(tmp_path)[2:] == [
        "| `npg`, `trpo` | 0 of 512 | 0 of 512 | 512 of 512 |",
        "| `npg`, `ppo` | 512 of 512 | 512 of 512 | 512 of 512 |",
        "| `trpo`, `ppo` | 0 of 512 | 0 of 512 | 512 of 512 |",
    ]


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
    its own; with nothing of a fault, a planted run too."""
    monkeypatch.setattr(gate_runs, "program", gate_runs.compiled)
    nothing = (gate_runs.Planted(kind, 0.0) for kind in gate_runs.FAULTS)
    for planted in (None, *nothing):
        with monkeypatch.context() as m:
            m.setattr(gate_runs, "config", short)
            ended, total, said = gate_runs.raw("ppo", ["acted", "matched"], [7, 8], planted)
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
        planted = gate_runs.Planted("policy", share)
        ended, total, _ = gate_runs.raw("ppo", ["acted"], [1, 2], planted)
        late[share] = total[:, -5:].sum(1) / ended[:, -5:].sum(1)
    assert np.all(late[0.0] > 0.5) and np.all(late[1.0] < -0.5)


@pytest.mark.slow
def test_a_leak_reaches_the_critic(monkeypatch):
    """V(0) = 1 of `constant` grows past it where ends are bootstrapped, more the more of it."""
    original = gate_runs.config
    monkeypatch.setattr(gate_runs, "program", functools.lru_cache(gate_runs.compiled))
    longer = {"num_envs": 8, "num_steps": 8, "steps": 20 * 64}
    monkeypatch.setattr(
        gate_runs, "config", lambda n, t: dataclasses.replace(original(n, t), **longer)
    )
    none, some, all_of_it = (
        gate_runs.raw("ppo", ["constant"], [1, 2], gate_runs.Planted("critic", share))[2][:, 1]
        for share in (0.0, 0.3, 1.0)
    )
    assert np.all(np.abs(none - 1) < 0.1) and np.all(some > 1.2) and np.all(all_of_it > some + 0.3)


def rolled(terminated, truncated):
    """A rollout of three steps of one environment; the true successors' observations are 10 more
    than the rows'."""
    obs = np.arange(4.0).reshape(4, 1, 1)
    return Rollout(
        obs=jnp.asarray(obs),
        action=jnp.zeros((3, 1), int),
        reward=jnp.ones((3, 1)),
        terminated=jnp.asarray(terminated).reshape(3, 1),
        truncated=jnp.asarray(truncated).reshape(3, 1),
        mask=jnp.ones((3, 1), bool),
        log_prob=jnp.zeros((3, 1)),
        final_obs=jnp.asarray(obs[:3] + 10),
    )


def leaking(gae, share):
    """The fault round it."""
    return gate_runs.Leaking(**dataclasses.asdict(gae), share=share)


def test_a_leak_is_the_bootstrap_of_a_truncation_where_an_episode_terminated():
    """All of it is what comes of taking every termination for a truncation; a part is linear."""
    policy, _ = Networks(hidden=(4,)).init(
        envs.make("probe:matched", 1).spec, np.random.default_rng(0)
    )
    value = lambda obs: 0.5 * obs[..., 0]  # noqa: E731
    gae, zero = GAE(0.9, 0.8, normalize="none"), jnp.zeros(())
    yes, no = [False, True, False], [False, False, False]
    right, cut = (
        gae(rolled(*ends), policy, value, zero).value_target for ends in ((yes, no), (no, yes))
    )
    for share in (0.0, 0.4, 1.0):
        made = leaking(gae, share)(rolled(yes, no), policy, value, zero)
        np.testing.assert_allclose(made.value_target, right + share * (cut - right), rtol=1e-6)
        np.testing.assert_allclose(made.advantage, made.value_target - made.value, rtol=1e-5)
    assert right[1] == 1 and cut[1] == pytest.approx(1 + 0.9 * 0.5 * 11)
    whole = leaking(gae, 1.0)(rolled(no, yes), policy, value, zero)
    np.testing.assert_array_equal(whole.value_target, cut)  # a truncation is as it was


def test_a_fault_reaches_what_it_is_named_after():
    algo = gate_runs.config("ppo", "acted").algorithm
    policy, critic = (gate_runs.FAULTS[k](algo, 0.5) for k in ("policy", "critic"))
    assert policy.advantage == algo.advantage and policy.method.inner == algo.method
    assert critic.method == algo.method and critic.advantage == leaking(algo.advantage, 0.5)
    assert {gate_runs.fault_of(t) for t in gate_runs.VALUES} == {"critic"}
    assert sum(map(len, gate_runs.AIMS.values())) == len(TASKS)


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
        ("run ppo --plant critic:x", "--plant is critic:x"),
        ("run ppo --plant critics", "--plant is critics"),
        ("run ppo --record .", "--record is ."),
        ("run ppo --record no/such/folder/x", "a file in a folder that is there"),
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
    a_part_that_says(tmp_path, monkeypatch, says)
    assert gate.run(["ppo", "npg"], 1, 1, plant) == status


def a_part_that_says(folder, monkeypatch, says):
    """Parts that print and end well."""
    part = folder / "part"
    part.write_text(f"#!/bin/sh\nprintf '{says}\\n'\n")
    part.chmod(0o755)
    monkeypatch.setattr(gate, "stale", lambda names, folder: "")
    monkeypatch.setattr(gate.sys, "executable", str(part))


def test_a_gate_that_is_recorded_can_be_read_again(tmp_path, monkeypatch, capsys):
    lines = [
        'seen {"method": "ppo", "seconds": 9.5, "scores": {"acted": ["nan", "1.0"], "matched": '
        '["1.0", "2.0"]}, "alarms": ["acted"]}',
        "ALARM  ppo (9 s)",
        'seen {"method": "npg", "seconds": 3, "scores": {"acted": ["1.0", "1.0"]}, "alarms": []}',
        "learns npg (3 s)",
    ]
    a_part_that_says(tmp_path, monkeypatch, "\\n".join(lines))
    path = tmp_path / gate.KEPT
    for plant in ("", "0.5"):
        assert gate.run(["ppo", "npg"], 7, 1, plant, path) == 1
    out = capsys.readouterr().out
    assert "seen" not in out and "1 of 2 planted losses are found, by 1 of 3 looks" in out
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["seed"], first["plant"], first["status"], second["plant"]) == (7, "", 1, "0.5")
    assert first["jobs"] == 1 and first["cores"] >= 1 and first["seconds"] >= 0
    assert first["versions"]["jax"] == jax.__version__ and "git" in first and first["code"]
    assert list(first["methods"]) == ["npg", "ppo"]  # as everywhere, not as they ended
    assert first["methods"]["ppo"]["scores"]["acted"] == ["nan", "1.0"]
    (_, _, row, _) = gate_table.runs(tmp_path)
    assert row.startswith("| nothing | 7 | 1 of 2 | 1 of 3 | 0 min ")
    assert f" cores, {first['processor'] or first['machine']} |" in row


def test_a_gate_that_failed_is_not_recorded(tmp_path, monkeypatch):
    a_part_that_says(tmp_path, monkeypatch, "learns ppo (1 s)")
    assert gate.run(["ppo", "npg"], 1, 1, "", tmp_path / gate.KEPT) == 2
    assert not (tmp_path / gate.KEPT).exists()
    assert gate_table.runs(tmp_path) == ["None is kept yet."]
