"""The panel and the plain lines."""

import io
import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from surefoot import PPO, SGD, Agent, Networks
from surefoot.console import (
    Panel,
    PlainLines,
    clock,
    gauge,
    number,
    panel_if_terminal,
    spark,
    steps_text,
)
from surefoot.incidents import Incidents
from surefoot.loops import plain
from surefoot.runs import steps_written
from surefoot.sinks import JsonLines, TensorBoard, Update, last_update
from surefoot.types import no_penalty

SMALL = dict(num_envs=4, num_steps=16)


def test_pieces():
    assert steps_text(204800) == "204 800"
    assert (clock(21), clock(3727)) == ("00:21", "1:02:07")
    assert spark([1, 2, 3]) == "▁▃█" or len(spark([1, 2, 3])) == 3
    assert spark([]) == "" and len(spark(list(range(100)))) == 12
    assert (gauge(0.5), gauge(9.0), gauge(float("nan"))) == (
        "█████░░░░░",
        "██████████",
        "██████████",
    )
    assert (number(None), number(float("nan")), number(0.5)) == ("-", "-", "0.5")


@pytest.mark.slow
def test_plain_lines_show_the_kl_against_its_budget_without_control_codes():
    out = io.StringIO()
    agent = Agent("trpo", "jax:CartPole-v1", **SMALL)
    agent.learn(128, [PlainLines(agent, 128, out)])
    text = out.getvalue()
    assert "/ 0.0100" in text and "\x1b" not in text and text.count("\n") == 3
    out = io.StringIO()
    agent = Agent("ppo", "jax:CartPole-v1", **SMALL)
    agent.learn(64, [PlainLines(agent, 64, out)])
    assert "/ none" in out.getvalue()


def test_success_is_shown_where_a_run_has_it():
    agent = Agent("trpo", "jax:CartPole-v1", **SMALL)
    row = {k: 0.0 for k in ("env_steps", "kl_mean", "kl_max", "entropy", "explained_variance")}
    row |= {"episode_return": None, "episode_length": None, "ratio_max": 1.0}
    row |= {"update_skipped": False, "value_skipped": False}
    timings = {"steps_per_second": 1.0, "seconds": 1.0}
    for rate, words in (({}, None), ({"success_rate": 0.874}, "· success 0.87")):
        plain, drawn = io.StringIO(), io.StringIO()
        PlainLines(agent, 64, plain)(Update(row | rate, timings))
        panel = Panel(agent, 64, console=Console(file=drawn, force_terminal=True, width=160))
        panel(Update(row | rate, timings))
        panel.close()
        for text in (plain.getvalue(), drawn.getvalue()):
            assert words in text if words else "success" not in text


def test_the_panel_shows_budget_time_left_and_where_the_run_is():
    out = io.StringIO()
    agent = Agent("trpo", "jax:CartPole-v1", **SMALL)
    console = Console(file=out, force_terminal=True, width=160)
    agent.learn(128, [Panel(agent, 128, "title", "runs/x", every=0.0, console=console)])
    text = out.getvalue()
    for words in ("title", "of 0.0100", "accepted", "CG residual", "runs/x", "/ ~", "worst state"):
        assert words in text


def test_no_panel_without_a_terminal():
    agent = Agent("trpo", "jax:CartPole-v1", **SMALL)
    assert panel_if_terminal(agent, 64) == []


def test_an_update_that_was_undone_is_said():
    out = io.StringIO()
    agent = Agent("trpo", "jax:CartPole-v1", **SMALL).learn(64)
    view = PlainLines(agent, 64, out)
    report = agent.report | {
        "update_skipped": True,
        "value_skipped": True,
        "accepted": False,
        "kl_mean": float("nan"),
    }
    view(Update(report, {"steps_per_second": 1.0}))
    assert "old policy kept" in out.getvalue() and "old critic kept" in out.getvalue()


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path):
    sink = JsonLines(tmp_path)
    sink(Update({"update": 1, "kl_mean": float("nan"), "entropy": 1.0}, {"seconds": 1.0}))
    sink.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "update": 1,
        "kl_mean": None,
        "entropy": 1.0,
    }


def test_vectors_are_lists_in_json_with_null_for_what_is_not_finite(tmp_path):
    sink = JsonLines(tmp_path)
    report = {"w": np.array([0.25, np.nan], np.float32), "wrote": np.array([True, False])}
    report |= {"ages": jnp.arange(3), "none": np.zeros(0), "kl_mean": np.float32(0.5)}
    sink(Update({"update": 1} | plain(report), {"seconds": 1.0}))
    sink.close()
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"update": 1, "ages": [0, 1, 2], "kl_mean": 0.5, "none": [], "w": [0.25, null], '
        '"wrote": [true, false]}\n'
    )
    with pytest.raises(ValueError, match=r"square of a report has shape \(2, 2\)"):
        plain({"square": np.eye(2)})


def test_the_last_update_is_found_however_long_its_line_is(tmp_path):
    assert last_update(tmp_path) == {}
    rows = [{"update": n, "env_steps": 64 * n, "long": [0.125] * 60_000} for n in (1, 2)]
    with (tmp_path / "metrics.jsonl").open("w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
        f.write(json.dumps(rows[0]))  # a writer was killed before the end of the line
    assert last_update(tmp_path) == rows[1] and steps_written(tmp_path) == 128
    (tmp_path / "metrics.jsonl").write_text('{"update": 1')
    assert last_update(tmp_path) == {}


def test_tensorboard_takes_the_same_keys_and_leaves_vectors_out(tmp_path):
    sink = TensorBoard(tmp_path)
    sink(
        Update(
            {"update": 1, "env_steps": 64, "kl_mean": 0.5, "x": None, "attention": [0.5, 0.5]},
            {"seconds": 1.0, "steps_per_second": 2.0},
        )
    )
    sink.close()
    written = next(tmp_path.glob("events.*")).read_bytes()
    assert b"kl_mean" in written and b"attention" not in written


@dataclass(frozen=True)
class Telling(PPO):
    """PPO that also reports vectors."""

    def update(self, policy, state, batch, key, *, penalty=no_penalty):
        new, state, info = super().update(policy, state, batch, key, penalty=penalty)
        weights = jnp.array([0.25, jnp.nan]) * batch.mean(batch.advantage * 0 + 1)
        return new, state, info | {"told_weights": weights, "told_wrote": weights > 0}


def test_a_method_may_report_vectors(tmp_path):
    out, method = io.StringIO(), Telling(sgd=SGD(epochs=1, minibatches=1))
    agent = Agent(method, "jax:CartPole-v1", networks=Networks(hidden=(4,)), **SMALL)
    sinks = [JsonLines(tmp_path), TensorBoard(tmp_path), PlainLines(agent, 64, out)]
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    agent.learn(64, [*sinks, Panel(agent, 64, every=0.0, console=console)])
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["told_weights"] == [0.25, None]
    assert agent.report["told_wrote"] == [True, False] and out.getvalue()
    agent.report["update_skipped"] = True
    Incidents(tmp_path, lambda: agent.loop.rollout)(Update(agent.report, {}))
    said = json.loads((tmp_path / "incidents" / "000001.json").read_text())
    assert said["metrics"]["told_weights"] == [0.25, "nan"]
    assert agent.trust_report().rolled_back == 0
