"""The panel and the plain lines."""

import io
import json

from rich.console import Console

from surefoot import Agent
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
from surefoot.sinks import JsonLines, TensorBoard, Update

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


def test_tensorboard_takes_the_same_keys(tmp_path):
    sink = TensorBoard(tmp_path)
    sink(
        Update(
            {"update": 1, "env_steps": 64, "kl_mean": 0.5, "x": None},
            {"seconds": 1.0, "steps_per_second": 2.0},
        )
    )
    sink.close()
    assert b"kl_mean" in next(tmp_path.glob("events.*")).read_bytes()
