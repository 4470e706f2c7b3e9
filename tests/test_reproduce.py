"""`surefoot reproduce`: what items are made of, the papers' numbers, what is run and what is not,
the tables."""

import dataclasses
import inspect
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from surefoot import envs
from surefoot.cli import compare_, main, reproduce_
from surefoot.config import read_config
from surefoot.experiments import plan, plots, work
from surefoot.experiments.plan import settings_hash
from surefoot.experiments.reproduce import beside, estimate, items, measures, pages
from surefoot.experiments.reproduce.items import Entrant, Number, Task
from surefoot.experiments.reproduce.papers import all_items, all_papers, paper
from surefoot.experiments.reproduce.papers import fixpo as fixpo_paper
from surefoot.experiments.reproduce.versions import ENVPOOL_MUJOCO, PHYSICS, VERSIONS
from surefoot.experiments.store import Store
from test_store import fabricate

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ROOT / "benchmarks" / "settings"
ITEMS = [pytest.param(p, i, id=f"{p.name}-{i.name}") for p, i in all_items()]
MCPO_1 = paper("mcpo").item("table1")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "available", lambda: False)  # they take seconds


def nothing_is_run(monkeypatch):
    def refuse(*args):
        raise AssertionError(f"a process was started: {args}")

    monkeypatch.setattr(work, "start", refuse)


def scope(args):
    """The part of an item that a command line asks for."""
    asked = reproduce_.parse(args)
    return reproduce_.scope_of(asked, paper(asked.names[0]).item(asked.names[1]))


def made(args, skip=(), **ends):
    """Fabricate the runs of a command line, `ends` by label."""
    asked = reproduce_.parse(args)
    for run in reproduce_.plan_of(asked, scope(args), asked.store).runs:
        if (run.cell.label, run.seed) not in skip:
            end = ends.get(run.cell.label.replace("-", "_"), 100.0)
            fabricate(run, end=end + 3 * np.sin(7.0 * run.seed + len(run.cell.label)))
    return ["reproduce", *args]


# What items are made of.


@pytest.mark.parametrize(("p", "item"), ITEMS)
def test_an_item_plans_to_cells_that_can_be_trained(p, item):
    for part in (items.whole(item), items.quick(item)):
        cells = part.cells()
        assert len(cells) == len(part.entrants) * len(part.tasks)
        for cell in cells:
            task = next(t for t in part.tasks if t.env == cell.env)
            assert cell.config.steps == task.steps and cell.config.num_envs == task.num_envs
            assert cell.method == item.entrant(cell.label).method
        assert len({(c.hash, c.env) for c in cells}) == len(cells)  # no two rows are the same


@pytest.mark.parametrize("env", sorted({t.env for _, i in all_items() for t in i.tasks}))
def test_the_environments_of_all_items_exist(env):
    if env.startswith("envpool:"):
        listed = pytest.importorskip("envpool").list_all_envs()
        assert env.partition(":")[2] in listed
    else:
        envs.make(env, 1).close()


@pytest.mark.parametrize(("p", "item"), ITEMS)
def test_the_quick_part_is_a_part_and_says_which(p, item):
    full, part = items.whole(item), items.quick(item)
    own = {t.env: t for t in full.tasks}
    assert all(e in full.entrants for e in part.entrants)
    assert set(part.seeds) < set(full.seeds)
    assert all(t.steps <= own[t.env].steps for t in part.tasks if t not in part.foreign)
    assert part.steps < full.steps
    line = items.share(part)[0]
    assert f"{len(part.seeds)} of {len(full.seeds)} seeds" in line
    own = sum(t.steps for t in part.tasks if t.env in own) * len(part.entrants) * len(part.seeds)
    share = f"{100 * own / full.steps:.3g} %" if own else "none"
    assert line.endswith(f": {share} of its {full.steps:,} environment steps")
    assert all(f"a stand-in, in place of {item.tasks[0].plain}" in line for _ in part.foreign)
    assert len(part.seeds) >= 3  # or there is no interval worth its name


def test_nothing_of_the_papers_steps_is_run_where_a_task_stands_in():
    assert items.share(scope(["mcpo", "ablations", "--quick"]))[0] == (
        "0 of 1 task, 13 of 13 methods, 3 of 5 seeds, LunarLander-v3 at 300,000 steps as a "
        "stand-in, in place of BipedalWalkerHardcore-v3: none of its 3,250,000,000 environment "
        "steps"
    )
    both = items.quick(paper("mcpo").item("ablations"))
    both = dataclasses.replace(both, tasks=(*both.tasks, *both.item.tasks))
    assert items.share(both)[0].endswith(": 60 % of its 3,250,000,000 environment steps")


def test_an_item_is_found_by_what_the_paper_calls_it(capsys):
    """MCPO's ablations are its figure 2; the same runs, folder and words whichever is typed."""
    assert paper("mcpo").item("figure2") is paper("mcpo").item("ablations")
    said = []
    for name in ("figure2", "ablations"):
        part = ["--method", "mcpo-10", "--seeds", "1", "--dry-run", "--json"]
        assert main(["reproduce", "mcpo", name, *part]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1] and said[0]["command"].startswith("surefoot reproduce mcpo ablations")
    with pytest.raises(ValueError, match="did you mean figure2"):
        paper("mcpo").item("figur2")
    for p in all_papers().values():
        names = [n for i in p.items for n in (i.name, *i.also)] + [x.name for x in p.later]
        assert len(set(names)) == len(names)
    text = (ROOT / "docs" / "reproduce.md").read_text()
    assert "| `ablations`, also `figure2` |" in text


def test_the_quick_part_of_table_1_by_hand():
    part = scope(["mcpo", "table1", "--quick"])
    assert items.share(part)[0] == (
        "1 of 3 tasks, 5 of 8 methods, 3 of 5 seeds, 1,000,000 of 1,000,000 steps of "
        "LunarLander-v3: 5.36 % of its 280,000,000 environment steps"
    )  # 5 * 3 * 1 of 8 * 5 * (1 + 1 + 5) million


@pytest.mark.parametrize(("p", "item"), ITEMS)
def test_every_number_of_a_paper_is_of_a_row_and_a_measure(p, item):
    rows = {(e.label, m.name) for e in item.entrants for m in item.measures}
    theirs = {(e.label, m.name) for e in item.entrants for m in item.measures if not e.ours}
    for task in (*item.tasks, *item.quick.tasks):
        assert set(task.paper) <= rows
        said = {label for label, _ in task.paper}
        if item.numbers != fixpo_paper.NO_NUMBERS:
            assert {label for label, _ in theirs} == said


def test_numbers_of_the_mcpo_paper():
    """Tables 1 and 2 as printed."""
    pendulum, lunar, walker = (t.paper for t in MCPO_1.tasks)
    assert pendulum["table-1-ppo-kl-fixed", "score"].text == "-464.29 ± 426.27"
    assert lunar["mcpo-40", "score"].text == "267.19 ± 13.42"
    assert lunar["table-1-vmpo", "score"].text == "212.85 ± 43.35"
    assert walker["mcpo-10", "score"].text == "266.26 ± 8.87"
    two = {t.plain: t.paper for t in paper("mcpo").item("table2").tasks}
    assert two["HalfCheetah-v5"]["mcpo", "score"].text == "6173 ± 595"
    assert two["Walker2d-v5"]["ppo", "score"].text == "5278 ± 594"
    assert two["Hopper-v5"]["trgppo", "score"].text == "3713 ± 275"
    assert two["Humanoid-v5"]["mcpo-mean-psi", "score"].text == "353 ± 27"
    assert two["HumanoidStandup-v5"]["mcpo", "score"].text == "195404 ± 32801"
    assert [t.steps for t in MCPO_1.tasks] == [10**6, 10**6, 5 * 10**6]


def test_numbers_that_no_paper_prints_say_where_they_are_from():
    three = {t.plain: t.paper for t in paper("fixpo").item("figure3").tasks}
    assert three["HalfCheetah-v5"]["fixpo", "score"].text == "4900 [3400, 6200]"
    assert three["Reacher-v5"]["trpl", "score"].mean == -9
    one = paper("fixpo").item("figure1")
    (walker,) = one.tasks
    got = [walker.paper[label, "fixup_later"].mean for label in ("fixpo-c1", "fixpo", "fixpo-c10")]
    assert got == [177, 11, 0.5]
    assert "read by eye off the plots" in one.numbers
    ratios = paper("trefree").item("figure2").tasks[0].paper
    assert ratios["trpo", "log_ratio_low"].mean == -2
    assert ratios["trefree", "log_ratio_low"].mean == 0


@pytest.mark.parametrize(
    ("name", "item"), [("fixpo", "figure4"), ("fixpo", "figure5"), ("trefree", "figure1")]
)
def test_where_the_text_has_no_numbers_none_are_there(name, item):
    found = paper(name).item(item)
    assert found.numbers.startswith("no numbers in the text")
    for task in found.tasks:
        for n in task.paper.values():
            assert (n.mean, n.std, n.low, n.high) == (None,) * 4 and n.words


# Cells are those of compare.


def stems(label):
    """The settings file of a row."""
    return SETTINGS / f"{label}.json"


SHIPPED = [
    pytest.param(item, e.label, id=f"{p.name}-{item.name}-{e.label}")
    for p, item in all_items()
    for e in item.entrants
    if stems(e.label).exists()
]


@pytest.mark.parametrize(("item", "label"), SHIPPED)
def test_rows_have_the_settings_of_the_files_that_were_run(item, label):
    """So that cells of the results store are found again."""
    task = item.tasks[0]
    there = read_config(stems(label))
    there = dataclasses.replace(there, env=task.env, steps=task.steps, num_envs=task.num_envs)
    ours = items.config(item.entrant(label), task)
    assert settings_hash(ours) == settings_hash(there)


def test_every_row_of_table_1_and_of_the_ablations_has_a_file():
    assert {label for _, label in (p.values for p in SHIPPED)} >= {
        e.label for n in ("table1", "ablations") for e in paper("mcpo").item(n).entrants
    } | {"fixpo-c1", "fixpo-no-fixup", "fixpo-mean", "fixpo-last", "fixpo-beta10", "ppo-8192"}


def test_the_committed_store_answers_the_quick_part_of_table_1():
    keys = set(Store(ROOT / "benchmarks" / "results").rows())
    part = scope(["mcpo", "table1", "--quick"])
    assert {(c.hash, s) for c in part.cells() for s in part.seeds} <= keys
    asked = scope(["mcpo", "table2", "--steps", "1m", "--seeds", "3", "--env", "Hopper-v5"])
    assert {(c.hash, s) for c in asked.cells() for s in asked.seeds} <= keys


def test_the_same_run_folder_as_compare():
    args = ["ppo", "--env", "envpool:Reacher-v5", "--steps", "10m", "--num-envs", "64"]
    request = compare_.parse(args)
    (theirs, *_) = compare_.Plan(request, compare_.cells_of(request), None).runs
    asked = reproduce_.parse(["fixpo", "figure3", "--env", "Reacher-v5", "--method", "ppo"])
    (ours, *_) = reproduce_.plan_of(
        asked, scope(["fixpo", "figure3", "--env", "Reacher-v5", "--method", "ppo"]), None
    ).runs
    assert ours.folder == theirs.folder


def test_changes_are_laid_over_a_preset():
    task = Task("Pendulum-v1", 1000, 4)
    kept = items.config(
        Entrant("x", "", "mcpo", "mcpo-lunarlander", {"method": {"memory_size": 7}}), task
    )
    assert kept.method.memory_size == 7 and kept.method.sgd.minibatches == 32
    other = {"method": {"blend": {"type": "MeanBlend"}}}
    swapped = items.config(Entrant("x", "", "mcpo", "mcpo-lunarlander", other), task)
    assert type(swapped.method.blend).__name__ == "MeanBlend"
    wrong = Entrant("x", "", "mcpo", changes={"method": {"memory": 7}})
    with pytest.raises(ValueError, match="memory is not a setting"):
        items.config(wrong, task)


# The version map.


def test_the_version_map_covers_every_task_of_every_item():
    for p, item in all_items():
        for task in item.tasks:
            assert p.name in VERSIONS[task.plain].then, f"{p.name}: {task.plain}"
        lines = beside.version_lines(p.name, items.whole(item))
        for line, _ in zip(lines, item.tasks, strict=False):
            assert " -> " in line and "Expect: " in line
        about = lines[len(item.tasks) :]
        pooled = [t.plain for t in item.tasks if t.env.startswith("envpool:")]
        assert about[0].endswith(f"EnvPool's own implementation of {', '.join(pooled)}")
        mujoco = any(PHYSICS in VERSIONS[name].changed for name in pooled)
        assert about[1:] == [ENVPOOL_MUJOCO] * mujoco
    assert beside.version_lines("mcpo", scope(["mcpo", "table1", "--env", "Pendulum-v1"]))[1:] == []
    assert {t.plain for _, i in all_items() for t in i.tasks} == set(VERSIONS)


def test_a_task_that_stands_in_is_said_to():
    (line,) = beside.version_lines("mcpo", scope(["mcpo", "ablations", "--quick"]))
    assert line == "LunarLander-v3: not the paper's task for this"


MUJOCO = sorted(v.now for v in VERSIONS.values() if PHYSICS in v.changed)
SWITCHED = {
    "Ant-v5": {"legacy_healthy_reward": False, "use_contact_force": True,
               "exclude_worldbody_contact_forces": True},
    "Hopper-v5": {"legacy_healthy_reward": False},
    "Humanoid-v5": {"legacy_healthy_reward": False, "use_contact_force": True,
                    "exclude_worldbody_observations": True, "exclude_root_actuator_forces": True},
    "HumanoidStandup-v5": {"exclude_worldbody_observations": True,
                           "exclude_root_actuator_forces": True},
    "InvertedDoublePendulum-v5": {"reward_if_not_terminated": True, "constraint_obs_dim": 1},
    "Reacher-v5": {"reward_after_step": True, "obs_include_z_distance": False},
    "Walker2d-v5": {"legacy_healthy_reward": False, "xml_file": "walker2d_v5.xml"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MUJOCO)
def test_what_is_said_of_envpools_v5_is_so(name):
    """Sizes, weights, switches of what is listed, and Walker2d's feet."""
    envpool, gym = pytest.importorskip("envpool"), pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    spec = envpool.make_spec(name)
    settings = spec.config._asdict()
    env = gym.make(name).unwrapped
    assert spec.observation_space.shape == env.observation_space.shape
    defaults = inspect.signature(type(env).__init__).parameters
    weights = {k for k in settings if k.endswith("_weight") or k == "healthy_reward"}
    for key in weights & set(defaults):
        assert settings[key] == pytest.approx(defaults[key].default), key
    env.close()
    assert settings.items() >= SWITCHED.get(name, {}).items()
    assert set(SWITCHED) <= set(MUJOCO)
    listed = any(c.startswith(("v4: ", "v5: ")) for c in VERSIONS[name].changed if c != PHYSICS)
    assert listed == (name in SWITCHED)
    if name == "Walker2d-v5":
        folder = Path(settings["base_path"]) / "mujoco" / "assets_gym"
        model = next(p for p in (folder, folder.parents[1]) if p.is_dir())
        (xml,) = model.rglob("walker2d_v5_envpool.xml")
        feet = [x for x in xml.read_text().splitlines() if '"foot_' in x and "<geom" in x]
        assert len(feet) == 2 and all('friction="1.9"' in x for x in feet)


def test_the_page_holds_the_tables_of_the_data():
    text = (ROOT / "docs" / "reproduce.md").read_text()
    assert pages.written(text) == text, (
        "python -m surefoot.experiments.reproduce.pages docs/reproduce.md writes them anew"
    )
    assert all(f"| {v.now} |" in text for v in VERSIONS.values())
    assert " ".join(ENVPOOL_MUJOCO.split()) in " ".join(text.split())
    assert all(x.title in text for p in all_papers().values() for x in p.later)


# The command line.

WRONG = [
    (["mcppo"], "no paper is called 'mcppo'; did you mean mcpo?"),
    (["mcpo", "tabel1"], "mcpo has no item 'tabel1'; did you mean table1?"),
    (["mcpo", "table3"], "mcpo table3 is not there yet: Atari"),
    (["fixpo", "figure6"], "fixpo figure6 is not there yet: Meta-World"),
    (["fixpo", "figure9"], "is not there yet: DMLab"),
    (["mcpo", "table1", "--env", "Pendulum-v0"], "did you mean Pendulum-v1?"),
    (["mcpo", "table1", "--method", "mcpo-11"], "did you mean mcpo-10?"),
    (["mcpo", "table1", "--quik"], "--quik is not a flag of reproduce; did you mean --quick?"),
    (["mcpo", "table1", "--gamma", "0.9"], "--gamma is not a flag of reproduce"),
    (["mcpo", "table1", "--seeds", "0"], "--seeds is 0"),
    (["mcpo", "table1", "--max-hours", "0"], "--max-hours is 0; allowed: a number above 0"),
    (["mcpo", "table1", "--max-hours", "soon"], "--max-hours is soon"),
    (["mcpo", "table1", "--quick", "3"], "--quick takes no value"),
    (["mcpo", "table1", "figure1"], "one item at a time"),
    (
        ["mcpo", "table1", "--store", __file__],
        f"--store is {__file__}, a file; a store is a folder",
    ),
    (["--store", __file__], "a store is a folder"),
    (["fixpo", "--env", "Nope-v5", "--quick"], "ITEM is missing; --env --quick are of one item"),
    (["--steps", "1m"], "ITEM is missing; --steps is of one item: surefoot reproduce PAPER"),
]


@pytest.mark.parametrize(("args", "words"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_what_cannot_be_used_is_one_line(args, words, capsys, monkeypatch):
    nothing_is_run(monkeypatch)
    assert main(["reproduce", *args]) == 2
    out, err = capsys.readouterr()
    assert not out and words in err and err.count("\n") == 1


def test_help(capsys):
    assert main(["reproduce", "mcpo", "--help"]) == 0
    said = capsys.readouterr().out
    known = (*reproduce_.VALUED, *reproduce_.LISTS, *reproduce_.SWITCHES)
    assert all(f"  {flag}" in said for flag in known) and all(p in said for p in all_papers())


@pytest.mark.slow
def test_the_list_has_every_item_its_time_and_what_is_not_there(capsys):
    assert main(["reproduce", "--json", "--jobs", "2"]) == 0
    rows = json.loads(capsys.readouterr().out)
    there = {(r["paper"], r["item"]) for r in rows if r["status"] == "there"}
    assert there == {(p.name, i.name) for p, i in all_items()}
    assert all(r["why"] for r in rows if r["status"] == "not there yet")
    assert {tuple(r.get("also", ())) for r in rows} == {(), ("figure2",)}
    assert main(["reproduce", "mcpo"]) == 0
    assert "50 million steps, also figure2\n" in capsys.readouterr().out
    assert all(0 < r["quick_seconds"] < r["seconds"] for r in rows if r["status"] == "there")
    assert main(["reproduce", "fixpo"]) == 0
    said = capsys.readouterr().out
    assert "figure3" in said and "not there yet (Meta-World" in said and "mcpo" not in said


def test_a_dry_run_runs_nothing(capsys, monkeypatch):
    nothing_is_run(monkeypatch)
    assert main(["reproduce", "mcpo", "table1", "--quick", "--dry-run", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert "15 to train" in said and "5.36 %" in said and "estimate  about" in said
    assert not list(Path().iterdir())


def test_a_dry_run_and_what_is_not_begun_are_one_line_of_json(capsys, monkeypatch):
    nothing_is_run(monkeypatch)
    args = ["mcpo", "table1", "--quick", "--jobs", "2", "--json"]
    time = reproduce_.estimate_of(reproduce_.plan_of(reproduce_.parse(args), scope(args), None))

    def said(code, *more):
        assert main(["reproduce", *args, *more]) == code
        out, err = capsys.readouterr()
        assert not err and out.count("\n") == 1
        return json.loads(out)

    planned, stopped = said(0, "--dry-run"), said(4, "--max-hours", "0.01")
    assert planned["status"] == "planned" and stopped["status"] == "stopped"
    for one in (planned, stopped):
        assert (one["runs"], one["todo"]) == (15, 15)
        assert one["estimate_seconds"] == time.seconds
        assert one["command"] == "surefoot reproduce mcpo table1 --quick"
    assert [r["state"] for r in planned["plan"]] == ["train"] * 15
    assert "5.36 %" in planned["share"][0] and stopped["max_hours"] == 0.01
    assert stopped["next"].endswith("--json --max-hours 1")
    args = ["mcpo", "table1", "--env", "Pendulum-v1", "--method", "mcpo-5", "mcpo-10", "--json"]
    args += ["--seeds", "1"]
    made(args, {("mcpo-10", 0)})
    part = said(4, "--max-hours", "0.001")  # the table of what is there, in the same line
    assert (part["status"], part["runs"], part["todo"]) == ("stopped", 2, 1)
    rows = part["tasks"]["Pendulum-v1"]["score"]["rows"]
    assert rows["mcpo-5"]["ours"] is not None and rows["mcpo-10"]["ours"] is None


# How long it takes.


def test_an_estimate_by_hand():
    part = scope(["mcpo", "table1", "--quick", "--method", "table-1-ppo", "--seeds", "4"])
    runs = [r for c in part.cells() for r in plan.runs_of(c, list(part.seeds), Path("runs"))]
    each = estimate.START + estimate.PACE["LunarLander-v3"]  # a million steps
    assert estimate.estimate(runs, 2).seconds == pytest.approx(2 * each)
    assert estimate.estimate(runs, 8).seconds == pytest.approx(each)
    assert estimate.estimate(runs, 8, cores=1).seconds == pytest.approx(4 * each)
    pace = {"env_steps": 10**6, "seconds": 50.0}
    row = {"method": "ppo", "env": "envpool:LunarLander-v3", "result": pace}
    slow = row | {"result": pace | {"seconds": 90.0}}
    got = estimate.estimate(runs, 1, [slow, row])
    assert got.seconds == pytest.approx(4 * (estimate.START + 50)) and "store's" in got.source
    assert estimate.estimate([], 2).seconds == 0
    assert [estimate.duration(s) for s in (40, 360, 9000, 270000)] == [
        "40 s", "6 min", "2.5 h", "3.1 days"
    ]  # fmt: skip


@pytest.mark.slow
def test_quick_parts_take_minutes_and_every_task_has_a_pace():
    for _, item in all_items():
        for part in (items.whole(item), items.quick(item)):
            cells = part.cells()
            runs = [r for c in cells for r in plan.runs_of(c, list(part.seeds), Path("runs"))]
            seconds = estimate.estimate(runs, 2).seconds
            assert seconds > 0
        assert 60 < seconds < 400, (item.name, seconds)  # of the quick part


def test_what_takes_too_long_is_not_begun(capsys, monkeypatch):
    nothing_is_run(monkeypatch)
    assert main(["reproduce", "mcpo", "ablations", "--jobs", "2"]) == 4
    out, err = capsys.readouterr()
    assert "50,000,000 of 50,000,000 steps of BipedalWalkerHardcore-v3" in out
    assert "65 of 65 runs would take about" in err and "more than --max-hours 1;" in err
    said = err.partition("all of it: surefoot ")[2].splitlines()[0].split()
    hours = float(said[-1])
    asked = reproduce_.parse(said[1:])
    part = scope(said[1:])
    time = reproduce_.estimate_of(reproduce_.plan_of(asked, part, None))
    assert asked.max_hours == hours and time.seconds < 3600 * hours  # what is told to type works
    assert not Path("runs").exists()


def test_what_is_finished_is_shown_where_the_rest_takes_too_long(capsys, monkeypatch):
    nothing_is_run(monkeypatch)
    args = made(["mcpo", "table1", "--env", "Pendulum-v1", "--seeds", "1"], {("mcpo-5", 0)})
    assert main([*args, "--max-hours", "0.001"]) == 4
    out, err = capsys.readouterr()
    assert "1 of 8 runs would take" in err and " --quick\n" in err
    assert "-591.31 ± 229.32" in out and " missing  1 of 8 runs: not begun" in out


def test_the_quick_part_is_not_told_to_those_who_asked_for_it(capsys, monkeypatch):
    nothing_is_run(monkeypatch)
    assert main(["reproduce", "mcpo", "table1", "--quick", "--max-hours", "0.001"]) == 4
    err = capsys.readouterr().err
    assert "a part in minutes" not in err and "a part of your own: --steps N" in err
    assert err.count("--quick") == 1  # in the line that does all of it


@pytest.mark.parametrize("command", ["reproduce", "compare"])
def test_a_store_that_answers_nothing_is_said_to_be_new_or_empty(command, capsys, monkeypatch):
    """A folder that was misspelt would train everything, and so would say nothing of it."""
    nothing_is_run(monkeypatch)
    args = ["--env", "Pendulum-v1", "--seeds", "1", "--dry-run"]
    args += ["--store", "store", "--run-dir", "runs"]
    which = ["mcpo", "table1", "--method", "mcpo-5"] if command == "reproduce" else ["ppo"]

    def head():
        assert main([command, *which, *args]) == 0
        return next(x for x in capsys.readouterr().out.splitlines() if " · seed 0 · " in x)

    assert head().endswith("1 to train · store store is new")
    Path("store").mkdir()
    assert head().endswith("1 to train · store store is empty")
    row = json.loads((ROOT / "benchmarks/results/runs.jsonl").read_text().splitlines()[0])
    Path("store/runs.jsonl").write_text(json.dumps(row | {"epoch": 0}) + "\n")
    assert head().endswith(" · store store has no row of this learning epoch")
    args[args.index("store")] = str(ROOT / "benchmarks" / "results")
    assert " · store " not in head()
    args[args.index(str(ROOT / "benchmarks" / "results"))] = __file__
    assert main([command, *which, *args]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and f"--store is {__file__}, a file" in err


# Measures.


def test_measures_by_hand():
    rows = [
        {"fixpo_steps": n, "entropy": 0.0, "ratio_min": 0.5, "ratio_max": 2.0} for n in range(20)
    ]
    assert measures.FIXUP_START.of(rows) == 0.5 and measures.FIXUP_LATER.of(rows) == 4.5
    sigma = measures.sigma(2)
    normal = 0.5 * math.log(2 * math.pi * math.e)
    two = [{"entropy": math.log(0.3) + math.log(0.6) + 2 * normal}]
    assert sigma.of(two) == pytest.approx(math.sqrt(0.3 * 0.6))
    assert measures.LOG_RATIO_LOW.of(rows) == pytest.approx(math.log(0.5))
    assert measures.LOG_RATIO_HIGH.of(rows) == pytest.approx(math.log(2))
    assert measures.LOG_RATIO_LOW.of([{"ratio_min": 0.0}]) is None
    assert measures.FIXUP_START.of(rows[:2]) == 0 and measures.FIXUP_LATER.of(rows[:2]) is None
    assert measures.FIXUP_LATER.of(rows[:3]) == 2  # the shortest run that has a third tenth
    for measure in (measures.FIXUP_LATER, sigma, measures.LOG_RATIO_HIGH):
        assert measure.of([{"env_steps": 1}]) is None and measure.of([]) is None


@pytest.mark.slow
def test_what_a_store_does_not_hold_is_read_of_folders(capsys, monkeypatch):
    """A row of the store is not enough where columns are asked for."""
    args = ["fixpo", "figure1", "--quick", "--seeds", "2", "--store", "store"]
    asked = reproduce_.parse(args)
    for run in reproduce_.plan_of(asked, scope(args), asked.store).runs:
        fabricate(run)
        path = run.folder / "metrics.jsonl"
        c = run.cell.config.method.c_beta
        rows = [
            json.loads(r) | {"fixpo_steps": 60 / c + i}
            for i, r in enumerate(path.read_text().splitlines())
        ]
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    nothing_is_run(monkeypatch)
    assert main(["reproduce", *args, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rows = said["tasks"]["envpool:Walker2d-v5"]
    assert rows["fixup_start"]["rows"]["fixpo-c1"]["ours"]["values"] == [60, 60]
    assert rows["fixup_later"]["rows"]["fixpo"]["ours"]["values"] == [22, 22]
    assert rows["fixup_later"]["rows"]["fixpo"]["difference"]["value"] == 11  # the paper has 11
    assert len(Store(Path("store")).rows()) == 10
    elsewhere = reproduce_.parse([*args, "--run-dir", "others"])
    there = reproduce_.plan_of(elsewhere, scope(args), elsewhere.store)
    assert len(there.todo) == 10  # though the store has all of them


# The table.


def test_cohens_d_by_hand():
    assert beside.effect_size((10, 3), (14, 4)) == pytest.approx(4 / math.sqrt(12.5))
    assert (
        beside.effect_size((1, 0), (1, 0)) == 0 and beside.effect_size((1, 0), (2, 0)) == math.inf
    )


def test_effect_sizes_are_held_against_the_best_that_has_a_deviation():
    column = {"a": (1.0, 1.0), "b": (3.0, 1.0), "c": (9.0, None), "d": (None, None)}
    assert beside.effects(column) == {"a": 2, "b": 0}
    assert beside.effects(column, -1) == {"a": 0, "b": 2} and beside.effects({}) == {}


def one_task(paper_numbers, ours, effect=True, steps=10, **changes):
    """What is said of a task with these numbers."""
    task = Task("Pendulum-v1", 10, 4, {(k, "score"): n for k, n in paper_numbers.items()})
    rows = tuple(Entrant(k, k.upper(), "ppo") for k in ours)
    item = dataclasses.replace(
        MCPO_1, tasks=(task,), entrants=rows, effect_size=effect, baseline=next(iter(ours)),
        **changes,
    )  # fmt: skip
    values = {(k, "Pendulum-v1", "score"): v for k, v in ours.items()}
    return beside.compared(items.narrowed(items.whole(item), steps=steps), values)


def says(paper_numbers, ours, **changes):
    """The sentences of a task, paper's numbers given by their means."""
    numbers = {k: Number(v) for k, v in paper_numbers.items()}
    said = one_task(numbers, ours, effect=False, **changes)
    return said["tasks"]["Pendulum-v1"]["score"]["says"]


def test_ties_are_named_and_places_are_among_the_same_rows():
    ours = {"a": [2.0, 2.0], "b": [3.0, 3.0], "c": [3.0, 3.0], "ours": [9.0, 9.0]}
    best = [x for x in says({"a": 5.0, "b": 1.0, "c": 2.0}, ours) if x.startswith("best")]
    assert best == [
        "best of these in the paper: A, ours: B (shared with C); A is number 3 here"
    ]  # the row that the paper has not is no rival of its rows
    ours = {"a": [2.0, 2.0], "b": [2.0, 2.0], "c": [3.0, 3.0]}
    (best,) = (x for x in says({"a": 5.0, "b": 5.0, "c": 2.0}, ours) if x.startswith("best"))
    assert best == (
        "best of these in the paper: A (shared with B), ours: C; A is number 2 here (shared with B)"
    )
    ours = {"a": [3.0, 3.1], "b": [3.0, 3.1], "c": [1.0, 1.1]}
    best = says({"a": 1.0, "b": 5.0, "c": 2.0}, ours)[1]
    assert best == "best of these in the paper: B, ours: A (shared with B)"
    ours = {"a": [1.0, 1.1], "b": [1.0, 1.1]}
    assert says({"a": 7.0}, ours)[-1:] == ["best here: A (shared with B)"]


def test_at_other_steps_the_papers_numbers_are_not_said_to_be_comparable():
    numbers = {"a": Number(10, 1), "b": Number(20, 2)}
    ours = {"a": [14.0, 15.0, 16.0], "b": [19.0, 20.0, 21.0]}
    same, fewer = one_task(numbers, ours), one_task(numbers, ours, steps=1_000_000)
    unstated = one_task(numbers, ours, steps_stated=False)
    blocks = [s["tasks"]["Pendulum-v1"]["score"] for s in (same, fewer, unstated)]
    assert [beside.grid(b)[0][5] for b in blocks] == [
        "ours - paper",
        "ours at 1,000,000 - paper at 10",
        "ours at 10 - paper (steps not stated)",
    ]
    assert [any("95 % interval" in x for x in b["says"]) for b in blocks] == [True, False, False]
    assert blocks[1]["says"][0] == "ours are at 1,000,000 steps, the paper's runs at 10 steps"
    assert "the paper's runs of which it states no steps" in blocks[2]["says"][0]
    inside = [b["rows"]["b"]["difference"]["paper_inside"] for b in blocks]
    assert inside == [True, None, None]
    assert all(b["rows"]["a"]["difference"]["value"] == 5 for b in blocks)
    quick = scope(["mcpo", "table2", "--quick"])
    assert beside.paper_steps(quick, quick.tasks[0]) == 10_000_000 > quick.tasks[0].steps


PAGE = {"paper": "mcpo", "command": "surefoot reproduce mcpo table1"}


def test_a_table_by_hand():
    said = one_task(
        {"a": Number(10, 1), "b": Number(20, 2), "c": Number(words="slow")},
        {"a": [14.0, 15.0, 16.0], "b": [11.0, 12.0, 13.0], "c": []},
    )
    block = said["tasks"]["Pendulum-v1"]["score"]
    a, b, c = (block["rows"][k] for k in "abc")
    half = 4.302653 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert (a["ours"]["mean"], a["ours"]["std"]) == (15, 1)
    assert a["ours"]["high"] == pytest.approx(15 + half, abs=1e-4)
    assert a["difference"] == {"value": 5, "share": 0.5, "paper_inside": False}
    assert b["difference"]["share"] == -0.4
    assert a["paper_d"] == pytest.approx(10 / math.sqrt(2.5)) and b["paper_d"] == 0
    assert a["d"] == 0 and b["d"] == 3
    assert c["ours"] is None and c["difference"] is None
    assert block["says"] == [
        "the paper's mean lies in our 95 % interval in 0 of 2",
        "best of these in the paper: B, ours: A; B is number 2 here",
    ]
    table = beside.grid(block)
    assert table[0][-2:] == ["paper's d, computed", "d"]
    assert "the paper prints none, and its d is computed here" in beside.page(PAGE | said)
    assert table[1][1:6] == ["3", "10 ± 1", "15.0 ± 1.000", table[1][4], "+5.000 (+50 %)"]
    assert table[3][1:4] == ["0", "slow", "not run"]


def test_orders_that_agree_and_that_do_not():
    numbers = {k: Number(v) for k, v in zip("abc", (1.0, 2.0, 3.0), strict=True)}
    same = one_task(numbers, {"a": [1.0, 1.1], "b": [2.0, 2.1], "c": [3.0, 3.1]}, effect=False)
    turned = one_task(numbers, {"a": [3.0, 3.1], "b": [2.0, 2.1], "c": [1.0, 1.1]}, effect=False)
    says = [s["tasks"]["Pendulum-v1"]["score"]["says"] for s in (same, turned)]
    assert says[0][1:] == [
        "best of these in the paper: C, ours: C",
        "rank correlation of the paper's order and ours 1.00",
    ]
    assert says[1][-1] == "rank correlation of the paper's order and ours -1.00"
    assert "d" not in same["tasks"]["Pendulum-v1"]["score"]["rows"]["a"]
    assert "Cohen" not in beside.page(PAGE | same)


@pytest.mark.slow
def test_a_task_that_stands_in_is_not_held_against_the_papers_numbers(capsys, monkeypatch):
    nothing_is_run(monkeypatch)
    some = ["--method", "mcpo-10", "mcpo-adaptive", "--seeds", "2"]
    args = made(["mcpo", "ablations", "--quick", *some])
    assert main([*args, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rows = said["tasks"]["envpool:LunarLander-v3"]["score"]["rows"]
    assert all(r["difference"] is None and len(r["ours"]["values"]) == 2 for r in rows.values())
    assert rows["mcpo-adaptive"]["paper"]["text"] == "about 200 below"


@pytest.mark.slow
def test_a_store_is_printed_beside_the_paper(capsys, monkeypatch):
    """From the rows of a store alone: tables, files, what differs; the same bytes twice."""
    nothing_is_run(monkeypatch)
    args = ["mcpo", "table1", "--quick", "--store", "store"]
    made(args, mcpo_40=267.0, table_1_ppo=200.0)
    assert main(["reproduce", *args, "--run-dir", "runs"]) == 0  # fills the store
    capsys.readouterr()
    again = ["reproduce", *args, "--run-dir", "elsewhere", "--out", "out"]
    assert main(again) == 0
    out = capsys.readouterr().out
    assert "15 finished" in out and "5 of 8 methods" in out
    (line,) = (x for x in out.splitlines() if x.startswith(" MCPO, N 40"))
    assert "267.19 ± 13.42" in line and "[" in line
    assert "LunarLander (no version stated) -> LunarLander-v3" in out
    assert " differs  " in out and " claim    " in out
    files = {p.name: p.read_bytes() for p in Path("out").iterdir()}
    assert {"reproduce.md", "reproduce.json", "table.md", "results.csv"} <= set(files)
    said = json.loads(files["reproduce.json"])
    assert said["command"] == "surefoot reproduce mcpo table1 --quick"
    assert said["paper"] == "mcpo" and len(said["versions"]) == 2
    made_with = Store(Path("store")).rows().popitem()[1]["env_versions"]
    assert said["made_with"] == {"envpool:LunarLander-v3": [f"envpool {made_with['envpool']}"]}
    assert f" ran with envpool {made_with['envpool']}\n" in out
    page = files["reproduce.md"].decode()
    assert page.count("| MCPO, N 40 |") == 1 and "267.19 ± 13.42" in page
    assert main([*again, "--quiet"]) == 0
    assert capsys.readouterr().out.startswith(" mean return of the last 100")
    assert files == {p.name: p.read_bytes() for p in Path("out").iterdir()}


@pytest.mark.slow
def test_report_reads_what_reproduce_wrote(capsys, monkeypatch):
    """Of run folders, of the store alone, and of a folder that was moved with its runs."""
    nothing_is_run(monkeypatch)
    args = ["mcpo", "table1", "--env", "Pendulum-v1", "--method", "mcpo-10", "table-1-ppo"]
    args += ["--seeds", "2", "--store", "w/store", "--run-dir", "w/runs", "--out", "w/out"]
    assert main([*made(args, table_1_ppo=50.0), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["status"] == "finished"
    assert said["made_with"]["Pendulum-v1"][0].startswith("gymnasium ")

    def reported(folder):
        assert main(["report", folder, "--no-pictures", "--json"]) == 0
        got = json.loads(capsys.readouterr().out)
        page = (Path(got["folder"]) / got["files"][0]).read_text()
        assert "mcpo-10" in page and "table-1-ppo" in page and said["command"] in page
        assert not any("missing" in note for note in got["notes"])

    reported("w/out")
    Path("w").rename("moved")
    reported("moved/out")
    shutil.rmtree("moved/runs")
    reported("moved/out")


def test_a_file_is_no_run_to_report_and_its_folder_is_named(capsys):
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    Path("notes.txt").write_text("")
    for path, words in (
        ("run/config.json", ": name its folder, run\n"),
        ("notes.txt", " one of a comparison\n"),
    ):
        assert main(["report", path]) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        assert f"{path} is a file; surefoot report RUN... | COMPARE takes folders" in err
        assert err.endswith(words)


def test_numbers_that_json_has_not_are_not_written(capsys, monkeypatch):
    args = made(["mcpo", "table1", "--env", "Pendulum-v1", "--method", "mcpo-5", "--seeds", "1"])
    monkeypatch.setattr(reproduce_, "values_of", lambda plan, scope, results: {
        ("mcpo-5", "Pendulum-v1", "score"): [math.nan]})  # fmt: skip
    with pytest.raises(ValueError, match="not JSON compliant"):
        main(args)


@pytest.mark.slow
def test_a_run_that_failed_is_named_and_its_code_is_kept(capsys, monkeypatch):
    args = made(["mcpo", "table1", "--quick", "--seeds", "2"], {("mcpo-10", 1)})

    class Broken:
        returncode = 3

        def poll(self):
            return 3

        def wait(self):
            return 3

        def send_signal(self, sig):
            raise AssertionError("it has ended already")

    monkeypatch.setattr(work, "start", lambda *args: Broken())
    assert main(args) == 3
    out = capsys.readouterr().out
    assert " missing  mcpo-10 envpool:LunarLander-v3 seed 1 is missing (exit code 3)" in out
    (line,) = (x for x in out.splitlines() if x.startswith(" MCPO, N 10"))
    assert line.split()[3] == "1"  # one seed: no deviation, no interval


# From beginning to end.


@pytest.mark.slow
def test_an_item_is_trained_and_found_again(capsys, monkeypatch):
    args = ["reproduce", "mcpo", "table1", "--env", "Pendulum-v1", "--method", "table-1-ppo"]
    args += ["--steps", "16384", "--seeds", "1", "--jobs", "1", "--store", "store"]
    assert main([*args, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    row = said["tasks"]["Pendulum-v1"]["score"]["rows"]["table-1-ppo"]
    (value,) = row["ours"]["values"]
    assert -2500 < value < 0 and row["difference"]["value"] == pytest.approx(value + 591.31)
    assert "16,384 of 1,000,000 steps of Pendulum-v1" in said["share"][0]
    assert len(Store(Path("store")).rows()) == 1
    nothing_is_run(monkeypatch)
    assert main([*args, "--json", "--run-dir", "elsewhere"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == said["tasks"]
