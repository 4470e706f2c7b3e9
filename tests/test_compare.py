"""`surefoot compare`: manners, tables, verdicts, what is run and what is not, stopping and going
on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import need
from surefoot.cli import compare_, main
from surefoot.experiments import plan, plots, store, table, work
from surefoot.experiments.plan import Task
from surefoot.experiments.store import Store
from test_store import fabricate, with_success

BASE = ["compare", "trpo", "ppo", "--env", "jax:CartPole-v1", "--steps", "1000"]
TWO = [*BASE[:5], "jax:Pendulum-v1", *BASE[5:]]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUREFOOT_CACHE", "off")
    monkeypatch.setattr(plots, "available", lambda: False)  # they take seconds


def said(capsys):
    """Standard output, and standard error as one line without its end."""
    out, err = capsys.readouterr()
    assert "Traceback" not in err and err.count("\n") <= 1
    return out, err.strip()


def runs(args):
    """The runs of a command line."""
    request = compare_.parse(args[1:])
    return compare_.Plan(request, compare_.cells_of(request), None).runs


def made(args, **ends):
    """Fabricate every run of a command line: `trpo=300` makes its returns end about there."""
    for run in runs(args):
        end = ends.get(run.cell.label, 100.0) + 3 * np.sin(7.0 * run.seed + len(run.cell.label))
        fabricate(run, end=end, first=20.0 + run.seed)
    return args


def nothing_is_run(monkeypatch):
    def refuse(*args):
        raise AssertionError(f"a process was started: {args}")

    monkeypatch.setattr(work, "start", refuse)


# The command line.


@pytest.mark.parametrize("args", [["compare"], ["compare", "--help"], ["compare", "ppo", "-h"]])
def test_help_needs_no_jax(args):
    code = (
        f"import sys; from surefoot.cli import main; main({args!r}); "
        "sys.exit(bool({'jax', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--baseline" in done.stdout


WRONG = [
    (["--env", "CartPole-v1"], "METHOD is missing"),
    (["ppo"], "--env is missing"),
    (["ppo", "--env"], "--env is missing"),
    (["ppoo", "--env", "CartPole-v1"], "no method is called 'ppoo'; did you mean ppo?"),
    (["ppo", "ppo", "--env", "CartPole-v1"], "two methods are called ppo; name each once"),
    (["ppo", "mine.json", "--env", "CartPole-v1"], "mine.json does not exist"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--seeds", "0"], "--seeds is 0; allowed: a whole"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--seeds", "x"], "--seeds is x; allowed: a whole"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--jobs", "-1"], "--jobs is -1; allowed: a whole"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--seed"], "--seed takes one value; got none"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--json", "3"], "--json takes no value; got 3"),
    (
        ["ppo", "trpo", "--env", "CartPole-v1", "--seed", str(2**31 - 2)],
        "Config.seed is 2147483650",
    ),
    (["ppo", "trpo", "--env", "CartPole-v1", "--gamma", "2"], "Config.gamma is 2.0; allowed"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--gama", "0.9"], "did you mean --gamma?"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--preset", "trpo-mujoco"], "is for trpo, not for"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--method.clip", "1"], "--print-config > my.json"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--config", "x"], "name the settings file in place"),
    (["ppo", "trpo", "--env", "CartPole-v1", "--baseline", "pp"], "'pp'; did you mean ppo?"),
    (["ppo", "trpo", "--env", "CartPole-v2"], "no environment is called 'CartPole-v2'; did you"),
    (["ppo", "trpo", "--env", "jax:Cart", "CartPole-v1"], "did you mean CartPole-v1?"),
]


@pytest.mark.parametrize(("args", "message"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_wrong_usage_is_one_line_and_exit_2(args, message, capsys, tmp_path):
    assert main(["compare", *args]) == 2
    _, err = said(capsys)
    assert message in err and err.startswith("surefoot: ")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "compare").exists()


def test_flags_of_train_hold_for_every_cell():
    got = runs(
        [*BASE, "--seeds", "2", "--seed", "7", "-n", "3e3", "--hidden", "8", "8", "--jobs=1"]
    )
    assert len(got) == 4
    for run in got:
        config = run.cell.config
        assert (config.steps, config.networks.hidden) == (3000, (8, 8))
    assert [r.seed for r in got] == [7, 7, 8, 8]


def test_presets_are_chosen_for_each_cell():
    got = {(r.cell.label, r.cell.env): r.cell.config.preset for r in runs(TWO)}
    assert got["trpo", "jax:Pendulum-v1"] == "trpo-pendulum"
    assert got["ppo", "jax:CartPole-v1"] == "ppo-cartpole"
    plain = runs([*TWO, "--preset", "none"])
    assert {r.cell.config.preset.lower() for r in plain} == {"none"}


def test_a_settings_file_is_a_method_called_by_its_stem(tmp_path, capsys):
    flags = ["--env", "jax:CartPole-v1", "--method.clip", "0.1", "--print-config"]
    assert main(["train", "ppo", *flags]) == 0
    (tmp_path / "tight.json").write_text(capsys.readouterr().out)
    got = runs(["compare", "ppo", "tight.json", "--env", "jax:CartPole-v1", "--steps", "1000"])
    assert {r.cell.label: r.cell.config.method.clip for r in got} == {"ppo": 0.2, "tight": 0.1}
    assert {r.cell.config.steps for r in got} == {1000}
    args = [
        "ppo",
        "tight.json",
        "--env",
        "jax:CartPole-v1",
        "--baseline",
        "tight.json",
        "--dry-run",
    ]
    assert main(["compare", *args]) == 0
    (tmp_path / "same.json").write_text((tmp_path / "tight.json").read_text())
    capsys.readouterr()
    assert main(["compare", "same.json", "tight.json", "--env", "jax:CartPole-v1"]) == 2
    assert "same and tight have the same settings" in said(capsys)[1]


def test_a_dry_run_says_what_would_be_done(capsys, tmp_path):
    made([*BASE, "--seeds", "2"])
    third = runs([*BASE, "--seeds", "3"])[-1]
    third.folder.mkdir(parents=True)
    one = runs([*BASE, "--seeds", "2"])[0]
    (one.folder / "metrics.jsonl").write_text("")
    assert main([*BASE, "--seeds", "3", "--jobs", "2", "--dry-run"]) == 0
    out, _ = said(capsys)
    head, *lines = out.splitlines()
    assert "trpo ppo · jax:CartPole-v1 · seeds 0 to 2" in head
    assert "3 finished, 1 to go on with, 2 to train, 2 at a time" in head
    assert [line.split()[0] for line in lines].count("train") == 2
    assert not (tmp_path / "compare").exists()


# Tables.


def test_the_table_of_finished_runs(capsys, tmp_path, monkeypatch):
    made([*BASE, "--seeds", "5"], trpo=300.0, ppo=200.0)
    nothing_is_run(monkeypatch)
    assert main([*BASE, "--seeds", "5"]) == 0
    out, _ = said(capsys)
    head, columns, best, other, verdict, files, *_ = out.splitlines()
    assert "10 finished" in head
    for word in ("IQM", "95 % interval", "P(better than ppo)", "AUC", "spread", "bound kept"):
        assert word in columns
    assert best.split()[0] == "trpo" and other.split()[0] == "ppo"
    assert "1.00 [" in best and "100 % (mean <= 0.01)" in best
    assert "no bound asked" in other and " - " in other
    assert "trpo > ppo is supported (95 % interval of the difference of IQM [" in verdict
    folder = tmp_path / files.split()[1].partition("/{")[0]
    names = {p.name for p in folder.iterdir()}
    assert names == {"table.md", "summary.json", "results.csv", "curves.csv", "timings.csv"}
    summary = json.loads((folder / "summary.json").read_text())
    x = np.array([300 + 3 * np.sin(7.0 * s + 4) for s in range(5)])
    got = summary["methods"]["trpo"]
    assert got["mean"]["value"] == pytest.approx(x.mean())
    assert got["iqm"]["value"] == pytest.approx(np.sort(x)[1:4].mean())
    assert got["spread"] == pytest.approx(np.subtract(*np.quantile(x, [0.95, 0.05])))
    assert got["worst_kl"] == pytest.approx(1.0)


def contents(folder, skip=("timings.csv",)):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.name not in skip}


def test_the_same_runs_give_the_same_bytes_and_no_clock_is_in_them(capsys, tmp_path):
    args = made([*BASE, "--seeds", "3"], trpo=300.0)
    assert main([*args, "--out", "a"]) == 0
    for run in runs(args):  # the same runs, trained by a slower machine
        seconds = run.folder / "timings.jsonl"
        seconds.write_text(seconds.read_text().replace('"seconds": ', '"seconds": 7'))
    assert main([*args, "--out", "b"]) == 0
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a == b and len(a) >= 4
    first, second = ((tmp_path / x / "timings.csv").read_text() for x in "ab")
    assert first != second
    assert str(tmp_path) not in b"".join(b[n] for n in b if not n.endswith("png")).decode()


@pytest.mark.slow
def test_under_three_seeds_there_is_a_table_and_no_verdict(capsys):
    made([*BASE, "--seeds", "2"], trpo=300.0)
    assert main([*BASE, "--seeds", "2"]) == 0
    assert "no verdict, 2 seeds a method" in said(capsys)[0]
    assert main([*BASE, "--seeds", "1"]) == 0
    out, _ = said(capsys)
    assert "no verdict, 1 seed a method" in out and "at least 2 more" in out


def test_one_method_alone_is_a_table_without_verdict(capsys):
    args = made(["compare", "ppo", "--env", "jax:CartPole-v1", "--steps", "1000", "--seeds", "3"])
    assert main(args) == 0
    out, _ = said(capsys)
    assert "verdict" not in out and "ppo" in out


def test_several_environments_are_normalised_each(capsys, tmp_path):
    args = made([*TWO, "--seeds", "3", "--out", "out"], trpo=300.0, ppo=200.0)
    assert main([*args, "--json"]) == 0
    got = json.loads(said(capsys)[0])
    assert got["methods"]["trpo"]["mean"]["value"] == pytest.approx(1)
    assert 0.6 < got["methods"]["ppo"]["iqm"]["value"] < 0.7  # (200 - 21) / (300 - 21)
    assert got["scale"]["jax:CartPole-v1"]["zero"] == pytest.approx(21)
    assert got["by_env"]["jax:Pendulum-v1"]["ppo"]["iqm"]["value"] == pytest.approx(200, abs=4)
    assert "normalised in each environment" in got["score"]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "## jax:Pendulum-v1" in text and "0 of the scale above is 21.0" in text


def test_json_is_one_line(capsys):
    made([*BASE, "--seeds", "3"], trpo=300.0)
    assert main([*BASE, "--seeds", "3", "--json"]) == 0
    out, _ = said(capsys)
    got = json.loads(out)
    assert out.count("\n") == 1
    assert got["verdicts"][0]["decided"] and got["baseline"] == "ppo"
    assert set(got["timings"]["trpo"]) == {"seconds_a_run", "steps_per_second"}
    rliable = got["methods"]["ppo"]["rliable_iqm"]
    assert rliable["value"] == pytest.approx(got["methods"]["ppo"]["iqm"]["value"])
    assert rliable["low"] > got["methods"]["ppo"]["iqm"]["low"]


def test_the_baseline_is_the_last_method_or_the_one_named(capsys):
    args = made(["compare", "npg", *BASE[1:], "--seeds", "3", "--json"], npg=50.0, trpo=300.0)
    assert main(args) == 0
    assert {v["baseline"] for v in json.loads(said(capsys)[0])["verdicts"]} == {"ppo"}
    assert main([*args, "--baseline", "npg"]) == 0
    got = json.loads(said(capsys)[0])
    assert [(v["method"], v["baseline"]) for v in got["verdicts"]] == [
        ("trpo", "npg"),
        ("ppo", "npg"),
    ]
    assert got["verdicts"][0]["level"] == pytest.approx(0.975)
    assert "95 % for all 2 comparisons together" in got["verdicts"][0]["words"]


@pytest.mark.slow
def test_runs_of_several_versions_are_noted(capsys):
    args = made([*BASE, "--seeds", "3", "--json"])
    run = runs(args)[0]
    described = json.loads((run.folder / "config.json").read_text())
    described["versions"]["surefoot"], described["code"] = "0.0.9", "other"
    (run.folder / "config.json").write_text(json.dumps(described))
    assert main(args) == 0
    notes = json.loads(said(capsys)[0])["notes"]
    assert any("several versions of surefoot: 0.0.9" in n for n in notes)
    assert any("2 states of surefoot's code" in n for n in notes)


@pytest.mark.slow
def test_pictures_are_drawn(tmp_path, capsys, monkeypatch):
    need("matplotlib")
    monkeypatch.setattr(plots, "available", lambda: True)
    for args in (BASE, TWO):
        made([*args, "--seeds", "3"], trpo=300.0)
        assert main([*args, "--seeds", "3", "--out", "out"]) == 0
        for name in plots.NAMES:
            assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_without_matplotlib_a_line_says_what_to_install(capsys, tmp_path):
    made([*BASE, "--seeds", "3"])
    assert main([*BASE, "--seeds", "3", "--out", "out"]) == 0
    assert 'pip install "surefoot[plots]"' in said(capsys)[0]
    assert not list((tmp_path / "out").glob("*.png"))


def test_curves_are_of_the_interquartile_mean(tmp_path):
    args = made([*BASE, "--seeds", "3", "--out", "out"], trpo=300.0)
    assert main(args) == 0
    rows = [r.split(",") for r in (tmp_path / "out" / "curves.csv").read_text().splitlines()]
    assert rows[0] == ["method", "env", "env_steps", "iqm", "low", "high"]
    ends = [r for r in rows if r[0] == "trpo"][-1]
    assert float(ends[2]) == 1000
    assert float(ends[3]) == pytest.approx(300, abs=3)
    assert float(ends[4]) < float(ends[3]) < float(ends[5])


@pytest.mark.slow
def test_success_is_a_column_where_runs_have_it(capsys, tmp_path):
    """And nothing of it where they have none."""
    made([*BASE, "--seeds", "3"])
    assert main([*BASE, "--seeds", "3", "--out", "out"]) == 0
    silent = {p.name: p.read_text() for p in (tmp_path / "out").iterdir()}
    assert not [name for name, text in silent.items() if "success" in text.lower()]
    assert "success" not in said(capsys)[0]

    for run in runs([*BASE, "--seeds", "3"]):
        with_success(run, 0.8 + 0.1 * run.seed if run.cell.label == "trpo" else 0.5)
    assert main([*BASE, "--seeds", "3", "--out", "again"]) == 0
    rows = json.loads((tmp_path / "again" / "summary.json").read_text())["methods"]
    assert rows["trpo"]["success"]["value"] == pytest.approx(0.9)
    assert 0.5 < rows["trpo"]["success"]["low"] < 0.9 and rows["trpo"]["success"]["high"] == 1
    assert rows["ppo"]["success"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    lines = (tmp_path / "again" / "results.csv").read_text().splitlines()
    assert lines[0].endswith(",success") and lines[1].endswith(",0.8")
    table_md, out = (tmp_path / "again" / "table.md").read_text(), said(capsys)[0]
    head = next(row for row in table_md.splitlines() if row.startswith("| method"))
    place = [c.strip() for c in head.split("|")].index("success")
    row = next(row for row in table_md.splitlines() if row.startswith("| ppo"))
    assert row.split("|")[place].strip() == "0.50 [0.50, 0.50]"
    assert "Success: mean over seeds" in table_md and "0.90 [" in out and "success" in out


def test_returns_that_never_rise_above_the_start_are_only_shifted():
    from surefoot.experiments.results import Result

    result = Result(0, -10.0, -5.0, -7.0, 10, 1, None, "none", None, 0.1, 1.0, ((10, -10.0),))
    assert table.scale_of({("a", "e"): [result]}, "e") == (-5.0, -4.0)


# Running what is missing.


class Done:
    """A process that has ended."""

    def __init__(self, code=0):
        self.returncode = code

    def poll(self):
        return self.returncode

    def wait(self):
        return self.returncode

    def send_signal(self, sig):
        raise AssertionError("it has ended")


def trainer(monkeypatch, runs_there, fail=(), end=100.0):
    """Replace processes by one that fabricates its run at once; the commands it was given."""
    by_folder = {str(r.folder): r for r in runs_there}
    commands = []

    def start(command, slot, log):
        commands.append(command[3:])
        folder = command[-2]
        run = by_folder[folder]
        log.parent.mkdir(parents=True, exist_ok=True)
        if run.name in fail:
            log.write_text("compiling\nsurefoot: a reward is not finite\n\n")
            return Done(3)
        fabricate(run, end=end + run.seed)
        return Done()

    monkeypatch.setattr(work, "start", start)
    return commands


@pytest.mark.slow
def test_only_what_is_missing_is_run(monkeypatch, capsys):
    args = [*BASE, "--seeds", "3", "--jobs", "2"]
    everything = runs(args)
    for run in everything[:2]:
        fabricate(run)
    (everything[1].folder / "metrics.jsonl").write_text("")  # broken off
    commands = trainer(monkeypatch, everything)
    assert main(args) == 0
    assert sorted(c[0] for c in commands) == ["resume", "train", "train", "train", "train"]
    assert commands[0] == ["resume", str(everything[1].folder), "--quiet"]
    train = next(c for c in commands if c[0] == "train")
    assert train[1] in ("trpo", "ppo") and train[2] == "--config" and train[4] == "--seed"
    again = trainer(monkeypatch, everything)
    assert main(args) == 0 and again == []


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(monkeypatch, capsys):
    args = [*BASE, "--seeds", "3", "--jobs", "1"]
    commands = trainer(monkeypatch, runs(args), fail=("trpo jax:CartPole-v1 seed 1",))
    assert main(args) == 3
    out, _ = said(capsys)
    assert len(commands) == 6
    assert (
        "missing  trpo jax:CartPole-v1 seed 1 is missing (exit code 3): surefoot: a reward" in out
    )
    assert "no verdict, 2 seeds a method" in out


@pytest.mark.slow
def test_a_method_that_fails_altogether_leaves_the_table(monkeypatch, capsys):
    args = [*BASE, "--seeds", "3", "--json"]
    lost = [r.name for r in runs(args) if r.cell.label == "ppo"]
    trainer(monkeypatch, runs(args), fail=lost)
    assert main(args) == 3
    got = json.loads(said(capsys)[0])
    assert list(got["methods"]) == ["trpo"] and got["verdicts"] == [] and len(got["missing"]) == 3


@pytest.mark.slow
def test_a_run_somebody_else_writes_is_waited_for(monkeypatch, capsys):
    args = [*BASE, "--seeds", "1", "--jobs", "2"]
    first, second = runs(args)
    fabricate(first)
    commands = trainer(monkeypatch, [first, second])
    held = [first.folder] * 3
    monkeypatch.setattr(work, "busy", lambda task: bool(held) and held.pop() == task.first.folder)
    (first.folder / "metrics.jsonl").write_text("")
    assert main(args) == 0
    assert [c[0] for c in commands] == ["train", "resume"]


@pytest.mark.slow
def test_the_store_is_taken_from_and_added_to(monkeypatch, capsys, tmp_path):
    args = [*BASE, "--seeds", "3", "--store", "results", "--json"]
    commands = trainer(monkeypatch, runs(args))
    assert main(args) == 0
    first = json.loads(said(capsys)[0])
    assert len(commands) == 6 and len(Store(tmp_path / "results").rows()) == 6
    # Nothing but the store: no run folder is needed, and nothing is run.
    subprocess.run(["rm", "-r", str(tmp_path / "runs")], check=True)
    nothing_is_run(monkeypatch)
    assert main(args) == 0
    assert json.loads(said(capsys)[0]) == first
    # Until learning moves.
    for module in (plan, store):
        monkeypatch.setattr(module, "LEARNING_EPOCH", 999)
    commands = trainer(monkeypatch, runs(args), end=50.0)
    assert main(args) == 0 and len(commands) == 6
    assert json.loads(said(capsys)[0])["methods"]["ppo"]["iqm"]["value"] == pytest.approx(51)


@pytest.mark.slow
def test_a_run_in_which_no_episode_ended_is_missing(monkeypatch, capsys):
    args = made([*BASE, "--seeds", "3", "--store", "results"])
    silent = next(r for r in runs(args) if r.cell.label == "trpo")
    rows = (silent.folder / "metrics.jsonl").read_text().replace('"episode_return"', '"x"')
    rows = rows.replace('"x"', '"episode_return": null, "x"')
    (silent.folder / "metrics.jsonl").write_text(rows)
    nothing_is_run(monkeypatch)
    assert main(args) == 0
    assert "trpo jax:CartPole-v1 seed 0 is missing: no episode of" in said(capsys)[0]


@pytest.mark.slow
def test_finished_folders_go_into_a_store_too(monkeypatch, capsys, tmp_path):
    args = made([*BASE, "--seeds", "2"])
    nothing_is_run(monkeypatch)
    assert main([*args, "--store", "results"]) == 0
    assert len(Store(tmp_path / "results").rows()) == 4


# Processes.


def test_a_process_is_pinned_and_its_words_are_kept(tmp_path):
    before = os.sched_getaffinity(0)
    code = "import os; print(sorted(os.sched_getaffinity(0)), os.getpgid(0) == os.getpid())"
    process = work.start([sys.executable, "-c", code], 1, tmp_path / "x.log")
    assert process.wait() == 0 and os.sched_getaffinity(0) == before
    core = sorted(before)[1 % len(before)]
    assert work.last_words(tmp_path / "x.log") == f"[{core}] True"
    assert work.last_words(tmp_path / "none.log") == ""


def test_the_last_update_is_the_last_whole_line():
    run = runs(BASE)[0]
    assert work.last_update(run) == (0, None)
    fabricate(run)
    with (run.folder / "metrics.jsonl").open("a") as f:
        f.write('{"env_steps": 9')
    assert work.last_update(run) == (1000, 100.0)


def test_time_left_is_learnt_from_what_has_been_made():
    first, second, *_ = runs([*BASE, "--seeds", "2"])
    for run in (first, second):
        fabricate(run)
    rows = (first.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (first.folder / "metrics.jsonl").write_text(rows[0])
    (second.folder / "metrics.jsonl").write_text("")
    crew = work.Crew([Task((second,))], jobs=1)
    crew.running[0] = work.Going(Task((first,)), Done(None))
    pace = work.Pace()
    assert pace.left(crew, now=0.0) is None
    (first.folder / "metrics.jsonl").write_text("".join(rows[:6]))
    assert pace.left(crew, now=10.0) == pytest.approx((400 + 1000) * 10 / 500)


SLEEPER = "import signal, time\nsignal.signal(15, lambda *_: exit(130))\ntime.sleep(60)"


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_stopping_asks_every_process_once_and_says_how_to_go_on(asked, monkeypatch, capsys):
    args = [*BASE, "--seeds", "3", "--jobs", "2"]
    made([*BASE, "--seeds", "1"])
    began = []

    def start(command, slot, log):
        began.append(subprocess.Popen([sys.executable, "-c", SLEEPER]))
        if len(began) == 2:
            time.sleep(0.5)  # until the sleepers have their handlers
            os.kill(os.getpid(), asked)
        return began[-1]

    monkeypatch.setattr(work, "start", start)
    monkeypatch.setattr(sys, "argv", ["surefoot", *args])
    assert main(args) == 130
    assert [p.wait(5) for p in began] == [130, 130]
    err = said(capsys)[1]
    assert err.startswith("stopped   2 of 6 runs are finished; go on with: surefoot compare trpo")


TINY = ["--num-envs", "2", "--num-steps", "32", "--steps", "1920", "--checkpoint-every", "256"]
QUICK = [*TINY, "--value.sgd.epochs", "2", "--value.sgd.minibatches", "2", "--preset", "none"]


def compare(folder, *more):
    """`surefoot compare` as a process of its own, in a folder."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "surefoot", "compare", "trpo", "npg", "--env", "CartPole-v1"]
    command += ["--seeds", "2", "--out", "out", *QUICK, *more]
    environ = os.environ | {"SUREFOOT_CACHE": str(folder.parent / "cache")}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, env=environ, **quiet)


def written(folder):
    """Lines of metrics of all runs under a folder."""
    return sum(p.read_bytes().count(b"\n") for p in folder.glob("runs/*/*/metrics.jsonl"))


def ended(process):
    """The exit code of a process whose words nobody reads."""
    process.communicate()
    return process.returncode


def break_off(begin, folder, asks, most):
    """Begin a comparison and stop it after a random number of further updates, at most `most`, once
    for each signal. They count from the first line that it prints: an interrupted import may leave
    with any code, and runs of a comparison that was killed go on meanwhile."""
    rng = random.Random(0)
    for ask in asks:
        process = begin(folder)
        assert process.stdout.readline()
        enough = written(folder) + rng.randrange(most)
        while process.poll() is None and written(folder) < enough:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(ask)
        assert ended(process) in (0, 130, -ask)


@pytest.mark.slow
def test_broken_off_at_random_moments_it_gives_the_same_table(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert ended(compare(whole)) == 0
    asks = (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)  # the last beside what the killed left
    break_off(compare, broken, asks, most=written(whole) // 4)
    assert written(broken) <= written(whole)
    assert ended(compare(broken)) == 0
    assert contents(whole / "out") == contents(broken / "out")


@pytest.mark.slow
def test_a_comparison_with_real_processes(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    args = ["--env", "jax:CartPole-v1", "probe:acted", "--seeds", "1", "--jobs", "2"]
    assert main(["compare", "trpo", *args, "--steps", "4096", "--store", "results"]) == 0
    out = capfd.readouterr().out
    assert "2 to train, 2 at a time" in out and "probe:acted, returns" in out
    assert len(Store(tmp_path / "results").rows()) == 2
    logs = sorted((tmp_path / "runs").glob("*/*.log"))
    assert len(logs) == 2 and all("done" in log.read_text() for log in logs)


def test_the_live_table_and_the_plain_line(capsys):
    from surefoot.experiments.progress import Progress

    args = [*BASE, "--seeds", "2"]
    everything = runs(args)
    fabricate(everything[0])
    crew = work.Crew([Task((r,)) for r in everything[2:]], jobs=1)
    crew.running[0] = work.Going(Task((everything[0],)), Done(None))
    progress = Progress(crew, everything, 3)
    assert "1 of 4 runs finished" in progress.line()
    assert "seed 0 100 %, return 100.0" in progress.line()
    picture = progress.picture()
    assert "█" * 20 in picture[1] and picture[-1] == " 2 waiting"
    progress()
    assert capsys.readouterr().out == ""  # it is not time to speak yet
    progress._spoken -= 60
    progress()
    assert capsys.readouterr().out.count("\n") == 1
    progress.close()


# Seeds as one vmap.

DEVICE = ["compare", "trpo", "--env", "jax:CartPole-v1", *TINY, "--preset", "none", "--out"]


def test_seeds_on_the_device_are_one_task_each_cell_with_vmap():
    everything = runs([*BASE, "--seeds", "3"])
    tasks = plan.tasks_of(everything, vmap=True)
    assert [t.name for t in tasks] == [
        "trpo jax:CartPole-v1 seeds 0, 1, 2",
        "ppo jax:CartPole-v1 seeds 0, 1, 2",
    ]
    assert [t.together for t in plan.tasks_of(everything, vmap=False)] == [False] * 6
    host = runs(["compare", "trpo", "ppo", "--env", "CartPole-v1", "--seeds", "3"])
    assert len(plan.tasks_of(host, vmap=True)) == 6
    args = plan.prepare(tasks[0])
    assert args[:2] == ["compare", "--together"] and args[3:] == ["0", "1", "2"]


def test_what_began_as_one_goes_on_as_one_whatever_is_asked_now():
    everything = runs([*BASE, "--seeds", "3"])
    trpo = [r for r in everything if r.cell.label == "trpo"]
    for run in trpo[:2]:  # the third was killed before it could write its settings
        fabricate(run)
        path = run.folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"vmap": [0, 1, 2]}))
    (trpo[1].folder / "metrics.jsonl").write_text("")
    todo = [r for r in everything if plan.state(r) != "finished"]
    tasks = plan.tasks_of(todo, vmap=False)
    assert [[r.seed for r in t.runs] for t in tasks] == [[0], [0, 1, 2], [1], [2]]


def test_a_vmap_has_the_machine_for_itself(monkeypatch):
    both = runs([*BASE, "--seeds", "2"])
    tasks = [*plan.tasks_of(both[:1], False), *plan.tasks_of(both[1::2], True), Task((both[2],))]
    slots = []

    def begin(command, slot, log):
        slots.append(slot)
        return Done(None)

    monkeypatch.setattr(work, "start", begin)
    crew = work.Crew(list(tasks), jobs=4)
    crew.step()
    assert slots == [0, 1] and crew.waiting == [tasks[1]]  # the one that needs all cores waits
    crew.running.clear()
    crew.waiting = [tasks[1], tasks[0]]
    crew.step()
    assert slots == [0, 1, None] and crew.waiting == [tasks[0]]


@pytest.mark.slow
def test_an_update_of_several_is_that_of_each_to_rounding():
    import jax

    from surefoot import Agent
    from surefoot.experiments.gang import iterations
    from surefoot.loops import iteration_jit

    agents = [Agent("trpo", "jax:CartPole-v1", num_envs=4, num_steps=32, seed=s) for s in (0, 1)]
    loop = agents[0].loop
    fixed = (loop.algorithm, loop.env, loop.num_steps)
    both = iterations(*fixed, tuple((a.state, a.loop.state) for a in agents))
    for agent, got in zip(agents, both, strict=True):
        alone = iteration_jit(*fixed, agent.state, agent.loop.state)
        for x, y in zip(jax.tree.leaves(alone[2]), jax.tree.leaves(got[2]), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def vmapped(folder):
    """Three seeds in one vmap, as a process of its own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "surefoot", *DEVICE, "out", "--seeds", "3", "--vmap"]
    environ = os.environ | {"SUREFOOT_CACHE": str(folder.parent / "cache")}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, "--steps", "6400"], cwd=folder, env=environ, **quiet)


@pytest.mark.slow
def test_a_vmap_leaves_a_run_folder_a_seed_and_goes_on_exactly(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert ended(vmapped(whole)) == 0
    break_off(vmapped, broken, (signal.SIGTERM, signal.SIGKILL), most=written(whole) // 2)
    assert written(broken) < written(whole)
    assert ended(vmapped(broken)) == 0
    assert contents(whole / "out") == contents(broken / "out")
    seeds = sorted(whole.glob("runs/*/seed-*/config.json"))
    assert len(seeds) == 3
    for path in seeds:
        here = path.parent
        assert json.loads(path.read_text())["vmap"] == [0, 1, 2]
        assert {"metrics.jsonl", "timings.jsonl", "checkpoints", "best"} <= set(os.listdir(here))
        again = broken / here.relative_to(whole)
        assert (here / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()
