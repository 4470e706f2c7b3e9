"""Pictures of a run: what is drawn, from metrics made up here; and one tiny run of MCPO."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import need
from surefoot import checkpoint, figures
from surefoot.agent import Agent
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.cli import main
from surefoot.evaluate import Score
from surefoot.figures import memory, quality, sheet
from surefoot.figures.course import course
from surefoot.figures.quality import Way
from surefoot.train import TrainState

STEPS, SLOTS = 12, 3
"""Minibatch steps an update, and slots of the memory, of the runs made up here."""


def update(n, **values):
    """Update `n` (from 1) of a made-up run of MCPO."""
    step = STEPS * (n - 1)
    return {
        "env_steps": 100 * n,
        "update": n,
        "episode_return": None if n == 1 else 10.0 * n,
        "kl_mean": 0.001 * n,
        "kl_q99": 0.002 * n,
        "kl_max": 0.003 * n,
        "entropy": 1 / n,
        "update_skipped": False,
        "mcpo_step": step,
        "mcpo_written": [i % 5 == 0 for i in range(STEPS)],
        "mcpo_query": step + 10,
        "mcpo_attended": step + 6,
        "mcpo_slot": 1,
        "mcpo_age": 4,
        "mcpo_filled": SLOTS,
        "mcpo_attention": [0.2, 0.5, 0.3],
        "mcpo_alpha": 0.5 + 0.01 * n,
        "mcpo_alpha_spread": 0.1,
        "mcpo_beta": 1.0,
        "mcpo_writes": 3,
        "mcpo_attention_entropy": 1.0,
        "mcpo_psi_gain": -0.1,
        "mcpo_kl_old_theta": 0.01,
        "mcpo_kl_old_psi": 0.02,
        "mcpo_kl_theta_psi": 0.0,
    } | values


def without_memory(n):
    return {k: v for k, v in update(n).items() if not k.startswith("mcpo_")}


def pulled(n):
    """An update of `VirtualRegion` round another method."""
    names = ("kl_old_psi", "kl_new_psi", "psi_gain", "writes", "filled", "age")
    return without_memory(n) | {f"virtual_{k}": float(i) for i, k in enumerate(names)}


def run_of(folder, rows, method="MCPO", promise="none", bound=None):
    """A run folder with these updates and no checkpoint."""
    folder.mkdir(exist_ok=True)
    settings = {"method": {"type": method}, "env": "jax:CartPole-v1", "seed": 3}
    about = {"settings": settings, "target": 1000, "promise": promise, "bound": bound}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def table(path):
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path / "run", [update(n) for n in range(1, 11)])


# What is drawn.


def test_marks_are_where_the_columns_say():
    updates = [update(n) for n in range(1, 11)]
    here = memory.stretch(updates, 24, 47)
    rows = memory.mark_rows(updates, here)
    at = lambda lane: [r["step"] for r in rows if r["lane"] == lane]  # noqa: E731
    # The first step of update 3 is the 25th of the run.
    assert at("written") == [25, 30, 35, 37, 42, 47]
    assert at("old") == [24, 36]
    assert at("query") == [34, 46] and at("attended") == [30, 42]
    queries = [r for r in rows if r["lane"] == "query"]
    assert [(r["update"], r["attended"], r["linked"]) for r in queries] == [
        (3, 30, True),
        (4, 42, True),
    ]
    assert not any(r["linked"] for r in rows if r["lane"] != "query")


@pytest.mark.parametrize(
    ("start", "stop", "here"),
    [
        (None, None, (24, 96)),  # updates 3 to 8 of 10
        (60, None, (60, 120)),  # six updates on, but no further than the run
        (None, 80, (8, 80)),
        (0, 5, (0, 5)),
    ],
)
def test_the_stretch_is_six_updates_in_the_middle_unless_asked(start, stop, here):
    assert memory.stretch([update(n) for n in range(1, 11)], start, stop) == here


def test_a_short_run_is_drawn_whole():
    assert memory.stretch([update(1), update(2)], None, None) == (0, 24)


def test_three_queries_are_linked_those_inside_the_stretch_first():
    updates = [update(n) for n in range(1, 11)]
    here = memory.stretch(updates, 0, 120)
    links = lambda: {  # noqa: E731
        r["update"] for r in memory.mark_rows(updates, here) if r["linked"]
    }
    assert links() == {1, 5, 10}  # spread (4.5 rounds to even)
    updates[0]["mcpo_attended"] = -1  # nothing was in the memory
    assert links() == {2, 6, 10}
    here = memory.stretch(updates, 84, 120)
    for n in (7, 8):
        updates[n]["mcpo_attended"] = 3
    assert links() == {8, 9, 10}
    rows = memory.mark_rows(updates, here)
    assert [r["step"] for r in rows if r["lane"] == "attended"] == [114]  # the others are before


def test_updates_that_were_undone_are_not_drawn(tmp_path, capsys):
    # The update after one that was undone begins at the same step.
    rows = [update(1), update(2, update_skipped=True, mcpo_alpha=None)]
    rows.append(update(3, mcpo_step=12, mcpo_query=22, mcpo_attended=13))
    kept = memory.made(rows)
    assert {r["update"] for r in memory.marks("", kept, None, None).rows} == {1, 3}
    assert [r["alpha"] for r in memory.alpha("", kept).rows] == [0.51, 0.53]
    run = run_of(tmp_path / "run", [update(1, update_skipped=True)])
    assert main(["plot", str(run)]) == 2
    assert "every update of the run was undone" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_mcpo_is_a_picture_and_a_table_each(run, capsys):
    need("matplotlib")
    assert main(["plot", str(run), "--episodes", "0"]) == 0
    names = ["course", "marks", "slot", "alpha", "regions"]
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    out = run / "plots"
    assert said == [[n, f"{out / n}.svg", f"{out / n}.csv"] for n in names]
    words = {
        "course": ("return of training", "environment steps", "nats"),
        "marks": ("steps 24 to 96", "written to memory", "old policy", "attended most", "query"),
        "slot": ("0 is the oldest", "attention weight", "minibatch steps"),
        "alpha": ("0.5100 in the first tenth, 0.6000 in the last", "weight of the virtual region"),
        "regions": ("KL(old, theta)", "beta", "policies written", "entropy of the attention"),
    }
    for name, expected in words.items():
        svg = (out / f"{name}.svg").read_text()
        assert "MCPO · jax:CartPole-v1 · seed 3" in svg
        assert all(word in svg for word in expected), name
        assert table(out / f"{name}.csv")
    slot = table(out / "slot.csv")[3]
    assert slot == {
        "update": "4",
        "env_steps": "400",
        "slot": "1",
        "filled": "3",
        "age": "4",
        "weight_0": "0.2",
        "weight_1": "0.5",
        "weight_2": "0.3",
    }
    regions = table(out / "regions.csv")[0]
    assert (regions["kl_old_psi"], regions["writes"], regions["psi_gain"]) == ("0.02", "3", "-0.1")


def test_an_arrow_that_leaves_the_stretch_names_the_step(tmp_path):
    need("matplotlib")
    rows = [update(n, mcpo_attended=2) for n in range(1, 11)]
    drawn, _ = sheet.write(memory.marks("title", rows, 60, 100), tmp_path, "svg")
    svg = drawn.read_text()
    assert svg.count("to step 2") == 3 and "steps 60 to 100" in svg


def test_the_same_run_gives_the_same_bytes(tmp_path):
    need("matplotlib")
    rows, kept = [update(n) for n in range(1, 11)], []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths = sheet.write(memory.alpha("title", rows), tmp_path / name, "svg")
        kept.append([p.read_bytes() for p in paths])
    assert kept[0] == kept[1] and len(set(kept[0])) == 2


def test_files_go_where_they_are_asked_for(tmp_path):
    need("matplotlib")
    run, out = run_of(tmp_path / "run", [without_memory(1)], "PPO"), tmp_path / "deep" / "out"
    assert main(["plot", str(run), "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["course.csv", "course.svg"]
    assert not (run / "plots").exists()


@pytest.mark.parametrize(
    ("promise", "bound", "column"),
    [("mean_kl", 0.01, "kl_mean"), ("max_kl", 0.5, "kl_max"), ("none", None, "kl_mean")],
)
def test_every_method_has_return_kl_against_its_bound_and_entropy(
    promise, bound, column, tmp_path, capsys
):
    need("matplotlib")
    run = run_of(tmp_path / "run", [without_memory(n) for n in (1, 2, 3)], "TRPO", promise, bound)
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"update": 4, "env')  # somebody is writing it
    assert main(["plot", str(run), "--format", "png", "--json"]) == 0
    out = run / "plots"
    assert json.loads(capsys.readouterr().out) == {
        "run": str(run),
        "files": {"course": [str(out / "course.png"), str(out / "course.csv")]},
        "notes": [],
    }
    assert (out / "course.png").read_bytes().startswith(b"\x89PNG")
    rows = table(out / "course.csv")
    assert (
        len(rows) == 3 and rows[0]["episode_return"] == "" and rows[2]["episode_return"] == "30.0"
    )
    assert rows[1]["bound"] == ("" if bound is None else str(bound))
    from matplotlib.figure import Figure

    figure = Figure()
    course("title", [without_memory(n) for n in (1, 2, 3)], promise, bound).paint(figure)
    lines = figure.axes[1].get_legend().get_texts()
    said = [t.get_text() for t in lines]
    assert said == ["mean", "99th percentile", "worst"] + [f"bound of {column}"] * (
        bound is not None
    )


def test_a_promise_about_another_column_is_drawn_against_that():
    need("matplotlib")
    from matplotlib.figure import Figure

    rows = [without_memory(n) | {"projection_share": 0.9} for n in (1, 2)]
    picture = course("title", rows, "projection", 1.0)
    figure = Figure()
    picture.paint(figure)
    said = [t.get_text() for t in figure.axes[1].get_legend().get_texts()]
    assert said[-2:] == ["projection_share", "bound of projection_share"]
    assert picture.rows[0]["projection_share"] == 0.9


def test_a_region_round_another_method_has_its_own_picture(tmp_path):
    need("matplotlib")
    run = run_of(tmp_path / "run", [pulled(n) for n in (1, 2, 3)], "VirtualRegion")
    assert main(["plot", str(run), "--episodes", "0"]) == 0
    assert sorted(p.name for p in (run / "plots").glob("*.svg")) == ["course.svg", "virtual.svg"]
    row = table(run / "plots" / "virtual.csv")[0]
    assert {"kl_old_psi": "0.0", "age": "5.0"}.items() <= row.items()
    assert "VirtualRegion · jax:CartPole-v1" in (run / "plots" / "virtual.svg").read_text()


def test_weights_are_means_over_neighbouring_updates():
    steps = np.arange(1, 601) * 10.0
    heights = np.stack([np.arange(600.0), np.full(600, np.nan)])
    edges, means = memory.binned(steps, heights)
    assert len(edges) == memory.CELLS + 1 and (edges[0], edges[-1]) == (0, 6000)
    assert means[0, :2].tolist() == [1.0, 4.0] and np.isnan(means[1]).all()


def test_means_know_what_is_missing():
    x = np.array([1.0, np.nan, 3.0, 5.0])
    np.testing.assert_allclose(sheet.moving_mean(x, 3), [1, 2, 4, 4])
    assert memory.ends(x) == (1.0, 5.0) and np.isnan(memory.ends(x * np.nan)).all()
    with pytest.raises(EnvironmentFault, match="beta is not a number"):
        sheet.column([{"beta": "high"}], "beta")


def luminance(colour):
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("page", ["#ffffff", "#1e2129", "#0d1117"])
def test_everything_is_seen_on_light_pages_and_on_dark_ones(page):
    """At least 3 to 1, as WCAG 2.2 asks of graphics."""
    for colour in (sheet.INK, sheet.BLUE, sheet.RED, sheet.GREEN, sheet.PURPLE):
        low, high = sorted((luminance(colour), luminance(page)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour
    assert sheet.SETTINGS["savefig.facecolor"] == "none"


# What cannot be drawn.


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--start", "50", "--stop", "40"], "--start 50 --stop 40 is no stretch of this run"),
        (["--start", "120"], "start below 120"),
        (["--start", "-1"], "--start is -1; allowed: a whole number of at least 0"),
        (["--stop", "0"], "--stop is 0; allowed: a whole number of at least 1"),
        (["--start", "21", "--stop", "21"], "is no stretch of this run"),
        (["--start", "3", "--stop", "4"], "steps 3 to 4 hold no mark"),
        (["--episodes", "-2"], "--episodes is -2"),
        (["--episodes", "0", "--stochastic"], "--stochastic is about episodes"),
        (["--format", "gif"], "gif"),
        (["--frames", "3"], "unknown flag --frames"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(args, message, run, capsys):
    assert main(["plot", str(run), *args]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith("surefoot: ")


@pytest.mark.parametrize(
    "flag", [["--start", "1"], ["--stop", "9"], ["--episodes", "3"], ["--stochastic"]]
)
def test_flags_about_a_memory_are_refused_where_there_is_none(flag, tmp_path, capsys):
    run = run_of(tmp_path / "run", [without_memory(1)], "PPO")
    assert main(["plot", str(run), *flag]) == 2
    assert flag[0] in capsys.readouterr().err


def test_what_is_no_run_or_no_metrics_is_said(run, tmp_path, capsys, monkeypatch):
    expected = {tmp_path / "none": "does not exist", tmp_path: "it holds the runs run"}
    for folder, message in expected.items():
        assert main(["plot", str(folder)]) == 2
        assert message in capsys.readouterr().err
    with monkeypatch.context() as m:
        m.setattr(figures, "available", lambda: False)
        assert main(["plot", str(run)]) == 3
        assert 'Run: pip install "surefoot[plots]"' in capsys.readouterr().err
        assert not (run / "plots").exists()
    for text, code, message in (
        ("", 2, "has no update yet"),
        ('{"update": 1}\n', 3, "line 1 is not an update"),
        (json.dumps(update(1)) + "\n{\n", 3, "line 2 is not JSON"),
    ):
        (run / "metrics.jsonl").write_text(text)
        assert main(["plot", str(run)]) == code
        assert message in capsys.readouterr().err


# The virtual policy against the old one.


def agent_at(state, policy=None, config=None):
    """An agent that was never started, with what `quality` looks at."""
    agent = Agent.__new__(Agent)
    agent._ts = TrainState.__new__(TrainState)
    for name, value in {"policy": policy, "method_state": state, "obs_stats": None}.items():
        object.__setattr__(agent._ts, name, value)
    agent.config, agent.env_source = config, "env"
    return agent


def test_the_virtual_policy_is_found_behind_wrappers():
    policy = {"a": np.array([1.0, 2.0], np.float32), "b": np.float32(3)}
    psi = np.array([4.0, 5.0, 6.0], np.float32)
    own = SimpleNamespace(psi=psi, memory=None)
    for state in (own, SimpleNamespace(inner=own), SimpleNamespace(psi=psi, inner=())):
        found = quality.virtual_policy(agent_at(state, policy))
        assert np.asarray(found["a"]).tolist() == [4, 5] and float(found["b"]) == 6
    with pytest.raises(UsageError, match="no virtual policy"):
        quality.virtual_policy(agent_at((), policy, SimpleNamespace(method=1)))


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A run with three checkpoints whose evaluation is made up, and the list of evaluations."""
    made = []

    def at(config, path):
        number = int(path.name)
        arrays, state = checkpoint.read(path)
        psi = SimpleNamespace(psi=arrays["psi"])
        agent = agent_at(psi, {"x": np.float32(number)}, SimpleNamespace(env="e"))
        agent.update, agent.env_steps = number, state["env_steps"]
        return agent

    def evaluate(agent, episodes, deterministic, seed):
        assert agent.obs_stats is None and agent.env_source == "env"
        made.append((float(agent.policy["x"]), episodes, deterministic))
        return Score("e", deterministic, (made[-1][0],) * episodes, (1,) * episodes)

    monkeypatch.setattr(quality.Agent, "at", at)
    monkeypatch.setattr(quality, "evaluate", evaluate)
    monkeypatch.setattr(quality, "read_config", lambda path: None)
    run = run_of(tmp_path / "run", [update(n) for n in range(1, 9)])
    for n in (0, 4, 8):
        keep(run, n)
    return run, made


def keep(run, n, better=0.5):
    arrays = {"psi": np.array([n + better], np.float32)}
    checkpoint.save(run / "checkpoints" / f"{n:06d}", arrays, {"env_steps": 100 * n})


def test_both_policies_are_evaluated_once_at_every_checkpoint(scored):
    run, made = scored
    rows, damaged = quality.evaluated(run, Way(2))
    assert not damaged
    assert made == [(x, 2, True) for n in (0, 4, 8) for x in (n, n + 0.5)]
    assert [(r["env_steps"], r["policy"], r["mean"]) for r in rows[2:4]] == [
        (400, "old", 4.0),
        (400, "virtual", 4.5),
    ]
    assert quality.evaluated(run, Way(2))[0] == rows and len(made) == 6
    quality.evaluated(run, Way(2, deterministic=False))
    quality.evaluated(run, Way(3))
    assert len(made) == 18
    assert quality.evaluated(run, Way(2))[0] == rows and len(made) == 18


def test_scores_outlive_their_checkpoints_but_not_their_run(scored):
    run, made = scored
    quality.evaluated(run, Way(2))
    checkpoint.remove(run / "checkpoints" / "000004")  # thinned out
    assert [r["update"] for r in quality.evaluated(run, Way(2))[0]] == [0, 0, 4, 4, 8, 8]
    checkpoint.remove(run / "checkpoints" / "000008")
    keep(run, 8, better=1.0)  # another run in the same folder
    assert quality.evaluated(run, Way(2))[0][-1]["mean"] == 9.0 and len(made) == 8


def test_damaged_checkpoints_are_passed_over_and_named(scored):
    run, made = scored
    path = run / "checkpoints" / "000004" / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (run / "checkpoints" / "000008" / "manifest.json").write_text("{}")
    rows, damaged = quality.evaluated(run, Way(1))
    assert [r["update"] for r in rows] == [0, 0] and len(made) == 2
    assert "000004" in damaged[0] and "000008" in damaged[1]
    (run / quality.KEPT).unlink()
    checkpoint.remove(run / "checkpoints" / "000000")
    with pytest.raises(EnvironmentFault, match=r"has no whole checkpoint; .*000004"):
        quality.evaluated(run, Way(1))


@pytest.mark.parametrize("line", ["1,2,3", "1,100,ab,old,two,True,0,1.0,1.0,1.0", "x"])
def test_a_foreign_file_of_scores_is_refused(line, scored):
    run, _ = scored
    (run / quality.KEPT).write_text(",".join(quality.COLUMNS) + f"\n{line}\n")
    with pytest.raises(EnvironmentFault, match=r"evaluations\.csv line 2 is not as surefoot plot"):
        quality.evaluated(run, Way(1))


def test_few_checkpoints_are_said_with_the_flags_that_keep_more(scored, capsys, monkeypatch):
    need("matplotlib")
    run, made = scored
    for name in ("slot", "regions"):  # which take the longest to draw
        monkeypatch.setattr(memory, name, memory.alpha)
    assert main(["plot", str(run), "--stochastic"]) == 0
    out = capsys.readouterr()
    assert "--checkpoint-every 50 --keep-checkpoints 20" in out.out
    assert out.err.count("evaluating update") == 3
    assert made[0] == (0.0, 10, False)
    svg = (run / "plots" / "quality.svg").read_text()
    assert "10 sampled episodes a point" in svg and "virtual policy, psi" in svg
    assert len(table(run / "plots" / "quality.csv")) == 6
    assert table(run / quality.KEPT) == table(run / "plots" / "quality.csv")


@pytest.mark.slow
def test_a_run_of_mcpo_inside_fixup_is_drawn(tmp_path, capsys):
    need("matplotlib")
    from jax.flatten_util import ravel_pytree

    from surefoot import evaluate

    run = tmp_path / "run"
    sizes = ["--num-envs", "2", "--num-steps", "32", "--steps", "192", "--networks.hidden", "4"]
    fit = ["--value.sgd.epochs", "1", "--value.sgd.minibatches", "1", "--preset", "none"]
    own = ["--method.sgd.epochs", "3", "--method.sgd.minibatches", "4", "--method.memory-size", "3"]
    often = ["--fixup", "0.5", "--checkpoint-every", "64", "--keep-checkpoints", "9", "--quiet"]
    train = ["train", "mcpo", "--env", "CartPole-v1", *sizes, *fit, *own, *often]
    assert main([*train, "--run-dir", str(run)]) == 0
    capsys.readouterr()
    assert main(["plot", str(run), "--episodes", "2", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert list(files) == ["course", "marks", "slot", "alpha", "regions", "quality"]
    updates = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [u["mcpo_step"] for u in updates] == [12 * i for i in range(len(updates))]
    marks = table(run / "plots" / "marks.csv")
    written = [int(r["step"]) for r in marks if r["lane"] == "written"]
    assert len(written) == sum(u["mcpo_writes"] for u in updates) and written
    for r in marks:  # a policy that is attended was written before, unless it has left the memory
        if r["lane"] == "query":
            assert int(r["attended"]) in written and int(r["attended"]) < int(r["step"])
    assert all(sum(u["mcpo_attention"]) == pytest.approx(1, abs=1e-5) for u in updates)
    rows = table(run / "plots" / "quality.csv")
    there = [int(p.name) for p in checkpoint.numbered(run / "checkpoints")]
    assert [int(r["update"]) for r in rows[::2]] == there and len(there) > 2
    assert rows[0]["mean"] == rows[1]["mean"]  # at the start both are the first policy
    agent = Agent.load(run)
    assert float(rows[-2]["mean"]) == evaluate(agent, 2).mean
    psi = agent.state.method_state.psi
    assert np.array_equal(ravel_pytree(quality.virtual_policy(agent))[0], psi)
    assert not np.array_equal(ravel_pytree(agent.policy)[0], psi)
