"""`surefoot report`: the page, parsed; the numbers in it; what it must take; what it refuses."""

import base64
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import reported
from conftest import need
from surefoot.cli import main
from surefoot.experiments import plan, plots
from surefoot.experiments import table as tb
from surefoot.experiments.plan import Cell
from surefoot.experiments.report import chart as ch
from surefoot.experiments.report import style, svg
from surefoot.experiments.report.chart import MARKERS, Chart, Series, look
from surefoot.experiments.report.evidence import (
    clock_of,
    flat,
    from_folder,
    method_of,
    not_finite,
)
from surefoot.experiments.report.figures import average, course
from surefoot.experiments.report.figures import figures as figures_of
from surefoot.experiments.report.files import OWN, picture_names, tables
from surefoot.experiments.report.gather import gather
from surefoot.experiments.report.markup import Markup, element, identifier
from surefoot.experiments.report.page import page as page_of
from surefoot.experiments.results import wall_seconds
from surefoot.sinks import json_lines
from test_store import PPO_CONFIG, TRPO_CONFIG, fabricate

PLACE = r"([-\d.]+) ([-\d.]+)"
VOID = {"meta", "wbr", "br", "hr", "link", "input", "img"}


class Node(dict):
    """A tag: itself and nothing else is equal to it."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Page(HTMLParser):
    """A page read strictly: every tag is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.wrong = [], [], []
        self.feed(text)
        self.close()
        self.wrong += [f"<{t['tag']}> is never closed" for t in self.open]

    def handle_starttag(self, tag, attrs):
        names = [k for k, _ in attrs]
        if len(names) != len(set(names)):
            self.wrong.append(f"<{tag}> says an attribute twice")
        node = Node(tag=tag, at=dict(attrs), text="", parents=list(self.open), below=[])
        node["in"] = {t["tag"] for t in self.open}
        for parent in self.open:
            parent["below"].append(node)
        self.tags.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag):
        if not self.open or self.open[-1]["tag"] != tag:
            self.wrong.append(f"</{tag}> closes nothing")
        else:
            self.open.pop()

    def handle_data(self, data):
        for node in self.open:
            node["text"] += data

    def all(self, *tags):
        return [t for t in self.tags if t["tag"] in tags]

    def within(self, node, *tags):
        return [t for t in node["below"] if t["tag"] in tags]

    def by_id(self, name):
        (node,) = [t for t in self.tags if t["at"].get("id") == name]
        return node

    def rows(self, table):
        """Cells' text of every line of a table's body."""
        lines = [r for r in self.within(table, "tr") if "tbody" in r["in"]]
        return [[c["text"] for c in self.within(r, "th", "td")] for r in lines]

    def table(self, caption):
        (found,) = [t for t in self.all("caption") if t["text"].startswith(caption)]
        return found["parents"][-1]


def sound(text):
    """A page that holds to all that every report promises; parsed."""
    page = Page(text)
    assert page.wrong == []
    self_contained(page, text)
    accessible(page)
    return page


def self_contained(page, text):
    for node in page.tags:
        for key, value in node["at"].items():
            if key in ("src", "srcset", "href", "xlink:href", "action", "data", "poster", "style"):
                assert key == "href" and value.startswith("#"), (node["tag"], key, value)
            assert not key.startswith("on"), f"<{node['tag']}> has a handler in an attribute"
    assert {t["tag"] for t in page.tags} & {"link", "img", "iframe", "object", "embed"} == set()
    (look,), (script,) = page.all("style"), page.all("script")
    assert "url(" not in look["text"] and "@import" not in look["text"]
    for word in ("fetch(", "XMLHttpRequest", "http", "eval", "innerHTML"):
        assert word not in script["text"]
    (policy,) = [m for m in page.all("meta") if m["at"].get("http-equiv")]
    hashes = [hashlib.sha256(t["text"].encode()).digest() for t in (look, script)]
    style, run = (f"'sha256-{base64.b64encode(h).decode()}'" for h in hashes)
    assert policy["at"]["content"].split("; ") == [
        "default-src 'none'",
        f"style-src {style}",
        f"script-src {run}",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def accessible(page):
    ids = [t["at"]["id"] for t in page.tags if "id" in t["at"]]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[A-Za-z][\w-]*", i) for i in ids)
    for node in page.tags:
        at = node["at"]
        wanted = [at["href"][1:]] if "href" in at else []
        for key in ("aria-labelledby", "aria-controls", "aria-describedby"):
            wanted += at.get(key, "").split()
        assert set(wanted) <= set(ids), at
    levels = [int(t["tag"][1]) for t in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.all("html")[0]["at"]["lang"] == "en" and page.all("title")[0]["text"].strip()
    first = page.all("a")[0]
    assert first["at"]["class"] == "skip" and page.by_id(first["at"]["href"][1:])["tag"] == "main"
    for picture in page.all("svg"):
        if picture["at"].get("aria-hidden") == "true":
            assert "li" in picture["in"], "only swatches are silent"
            continue
        assert picture["at"]["role"] == "img"
        said = {t["tag"]: t["text"] for t in page.within(picture, "title", "desc")}
        assert len(said["title"]) > 3 and len(said["desc"]) > 10
    for table in page.all("table"):
        assert len(page.within(table, "caption")) == 1
        box = table["parents"][-1]["at"]
        assert box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"]
        heads = [t for t in page.within(table, "th") if "thead" in t["in"]]
        assert all(t["at"]["scope"] == "col" for t in heads)
        assert {len(r) for r in page.rows(table)} <= {len(heads)}
    assert all(b["at"]["type"] == "button" and b["text"] for b in page.all("button"))
    for node in page.all("figure"):
        assert page.within(node, "figcaption") and page.within(node, "table")


def said(capsys):
    """Standard output, and standard error as one line without its end."""
    out, err = capsys.readouterr()
    assert "Traceback" not in err and err.count("\n") <= 1
    return out, err.strip()


@pytest.fixture
def away(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "available", lambda: False)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A comparison, and the folder of its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("report"))
        patch.setattr(plots, "available", lambda: False)
        folder = reported.compared().resolve()
        assert main(["report", str(folder), "--no-pictures"]) == 0
    return folder


@pytest.fixture(scope="module")
def page(made):
    """Its page, which is sound."""
    return sound((made / "report" / "report.html").read_text())


def table_of(folder, name):
    """A CSV beside the page."""
    return list(csv.DictReader(io.StringIO((folder / "report" / name).read_text())))


def one(folder, seed=0, config=TRPO_CONFIG):
    """A run of its own."""
    return reported.rich(plan.runs_of(Cell("trpo", config), [seed], folder)[0]).folder


# The page of a comparison.


def test_every_section_is_there(page):
    titles = [t["text"] for t in page.all("h2")]
    assert titles == [
        "Summary",
        "Learning curves",
        "Performance profile",
        "Trust panel",
        "Certificates",
        "Settings",
        "Versions",
        "Runs and commands",
    ]
    links = [t["text"] for t in page.all("a")[1:]]
    assert links == titles


def test_numbers_below_figures_are_those_of_the_csv(page, made):
    lines = set()
    for name in ("curves.csv", "profile.csv", "trust.csv"):
        text = (made / "report" / name).read_text()
        header, *rest = csv.reader(io.StringIO(text))
        assert tuple(header) == ch.HEADER
        assert len(rest) == len({tuple(r[:3]) for r in rest})
        lines |= {tuple(r) for r in rest}
    drawn = set()
    for node in page.all("figure"):
        name = node["at"]["id"].removeprefix("f-")
        (table,) = page.within(node, "table")
        rows = page.rows(table)
        assert rows and all((name, *row) in lines for row in rows), name
        drawn.add(name)
    assert drawn == {r[0] for r in lines}  # and no figure without its numbers


def test_curves_are_those_of_the_runs(made):
    got = [r for r in table_of(made, "curves.csv") if r["figure"] == "return-steps-0"]
    for method, end in (("trpo", 300), ("ppo", 200)):
        ends = [end + 3 * math.sin(7.0 * s + len(method)) for s in range(3)]
        mine = [r for r in got if r["series"] == method]
        assert float(mine[-1]["x"]) == 1000 and float(mine[0]["x"]) == 200
        assert float(mine[-1]["value"]) == pytest.approx(np.mean(ends), rel=1e-5)
        assert float(mine[0]["value"]) == pytest.approx(21)
        assert float(mine[-1]["low"]) < min(ends) and float(mine[-1]["high"]) > max(ends)
    clock = [r for r in table_of(made, "curves.csv") if r["figure"] == "return-seconds-0"]
    for method in ("trpo", "ppo"):  # two, three and four seconds
        mine = [r for r in clock if r["series"] == method]
        assert float(mine[-1]["x"]) == pytest.approx(3.0)
        steps = [r for r in got if r["series"] == method]
        assert [r["value"] for r in mine] == [r["value"] for r in steps]


def test_verdicts_and_scores_are_those_of_compare(page, made):
    summary = json.loads((made / "summary.json").read_text())
    (verdict,) = summary["verdicts"]
    rows = page.rows(page.table("Verdicts"))
    assert rows[0][:2] == ["trpo", "ppo"] and rows[0][5] == "supported" and verdict["decided"]
    assert verdict["words"] in page.by_id("summary")["parents"][-1]["text"]
    scores = page.rows(page.table("All environments"))
    assert [r[0] for r in scores] == list(summary["methods"])
    table = (made / "table.md").read_text()
    for row in scores:
        assert f"| {' | '.join(row)} |" in table
    assert (made / "report" / "results.csv").read_text() == (made / "results.csv").read_text()


def test_the_trust_panel_is_of_folders_and_of_the_courses_of_the_store(page, made):
    shown = [t["text"] for t in page.all("summary") if t["text"] != "Numbers"]
    cart, pendulum = reported.ENVS
    cells = [("trpo", cart), ("ppo", cart), ("trpo", pendulum)]
    assert shown == [f"{method} on {e}, 3 runs" for method, e in cells]
    text = page.by_id("trust-panel")["parents"][-1]["text"]
    assert f"Neither is there of: ppo on {pendulum}." in text
    whole = page.by_id("summary")["parents"][-1]["text"]
    assert "6 of 12 runs are known from the results store alone" in whole
    assert "of 3 of them also the ruler over time" in whole and "; of 3 not" in whole
    promised = page.rows(page.table("What was promised"))
    assert promised[0][:5] == [
        "trpo",
        reported.ENVS[0],
        "mean over states of KL(old, new) ≤ 0.01",
        "30",
        "100 %",
    ]
    assert promised[1][2] == "nothing" and promised[1][5] == "1"  # a row of the store
    names = {r["figure"].rpartition("-")[0] for r in table_of(made, "trust.csv")}
    assert names == {"kl", "accepted", "backtracks", "sigma", "entropy"}


def test_the_trust_panel_by_hand(made):
    rows = table_of(made, "trust.csv")
    at = lambda f, s: [r for r in rows if (r["figure"], r["series"]) == (f, s)]  # noqa: E731
    third = at("kl-0", "mean")[2]
    assert [float(third[k]) for k in ("x", "value", "low", "high")] == pytest.approx(
        [300, 0.0085, 0.0083, 0.0087]
    )
    assert float(at("kl-0", "worst state")[9]["value"]) == pytest.approx(1.0)
    assert [float(r["value"]) for r in at("accepted-0", "accepted")] == [1, 1, 1, 0, *[1] * 6]
    assert {float(r["value"]) for r in at("sigma-2", "sigma")} == {reported.SIGMA}
    assert not at("sigma-0", "sigma")  # discrete actions have none


def test_the_bound_is_drawn_where_the_promise_is(made):
    text = (made / "report" / "report.html").read_text()
    figure = text[text.index('id="f-kl-0"') : text.index('id="f-accepted-0"')]
    assert figure.count('class="bound"') == 2  # a line and its swatch
    assert ">bound on the mean 0.01<" in figure and "the bound on the mean is 0.01" in figure
    ends = re.findall(r'class="end[^"]*">([^<]*)', figure)
    assert ends[ends.index("bound on") + 1] == "the mean"  # in two lines, nothing between
    frame = text[text.index('id="f-entropy-0"') :][:6000]
    assert 'class="bound"' not in frame.partition("</figure>")[0]


def test_settings_that_differ_are_marked_and_only_they(page):
    def leaves(x, prefix=()):
        if not isinstance(x, dict):
            return {prefix: x}
        return {k: v for key in x for k, v in leaves(x[key], (*prefix, key)).items()}

    for i, env in enumerate(reported.ENVS):
        table = page.by_id(f"settings-{i}")
        marked = {
            page.within(r, "th")[0]["text"]
            for r in page.within(table, "tr")
            if r["at"].get("class") == "differs"
        }
        signed = {r[0] for r in page.rows(table) if r[1] == "≠"}
        from surefoot.cli import compare_

        cells = compare_.cells_of(compare_.parse(reported.COMPARE[1:]))
        both = [leaves(plan.to_json(c.config)) for c in cells if c.env == env]
        keys = {k for side in both for k in side} - {("seed",)}
        none = object()
        differ = {k for k in keys if both[0].get(k, none) != both[1].get(k, none)}
        said = {".".join(k[:-1] if k[-1] == "type" else k) for k in differ}
        assert marked == signed == said and "method.max_kl" in said
        first = [r[1] for r in page.rows(table)]
        assert first == sorted(first, key=lambda s: s != "≠")  # they come first
    assert ["method", "≠", "TRPO", "PPO"] in page.rows(page.by_id("settings-0"))


def test_versions_and_commands(page, made):
    rows = {r[0]: r for r in page.rows(page.table("What the runs were made with"))}
    assert rows["surefoot"][1:] == ["", "0.1.0"]
    assert "not recorded (3 runs)" in rows["jax"][2] and rows["jax"][1] == ""
    (box,) = page.all("pre")
    assert box["text"] == json.loads((made / "summary.json").read_text())["command"]
    runs = page.rows(page.table("Every run"))
    assert len(runs) == 12
    assert sum(r[-1].startswith("store ") for r in runs) == 6


def test_the_same_runs_give_the_same_bytes(made):
    material = gather([made])
    drawn = figures_of(material)
    files = ["curves.csv", "profile.csv", "trust.csv", "results.csv", "settings.csv"]
    assert page_of(material, drawn, files) == (made / "report" / "report.html").read_text()
    for name, text in tables(material, drawn).items():
        assert (made / "report" / name).read_text() == text


def test_it_can_be_moved_with_its_runs_and_its_store(made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "elsewhere")
    material = gather([tmp_path / "elsewhere" / "compared"])
    assert len(material.evidence) == 12 and not material.missing


# Runs, and what is not as it should be.


def test_one_run_is_a_page_beside_it(away, capsys):
    folder = one(away)
    assert main(["report", str(folder), "--no-pictures"]) == 0
    out, _ = said(capsys)
    assert out.startswith(f"report    {folder}/report/report.html")
    page = sound((folder / "report" / "report.html").read_text())
    assert page.all("h1")[0]["text"] == "trpo on jax:CartPole-v1 seed 0"
    assert "Performance profile" not in [t["text"] for t in page.all("h2")]
    assert "differs" not in [t["text"] for t in page.within(page.by_id("settings-0"), "th")]
    assert {r["low"] for r in table_of(folder, "curves.csv")} == {""}  # one seed has no band


def test_several_runs_are_compared(away, capsys):
    paths = [str(one(away, seed)) for seed in range(3)]
    paths.append(str(one(away, 0, PPO_CONFIG)))
    assert main(["report", *paths, "--json", "--no-pictures"]) == 0
    got = json.loads(said(capsys)[0])
    assert Path(got["folder"]).parent == Path("report") and got["files"][0] == "report.html"
    page = sound((Path(got["folder"]) / "report.html").read_text())
    (row,) = page.rows(page.table("Verdicts"))
    assert row[:2] == ["trpo", "ppo"] and row[5] == "no verdict"
    assert main(["report", *paths, "--baseline", "trpo", "--out", "x", "--no-pictures"]) == 0
    page = sound((away / "x" / "report.html").read_text())
    assert page.rows(page.table("Verdicts"))[0][:2] == ["ppo", "trpo"]


def test_a_folder_of_seeds_is_its_runs(away):
    folder = one(away, 1).parent
    one(away, 10)
    material = gather([folder])
    assert [x.seed for x in material.evidence] == [1, 10]
    assert [Path(x.place).name for x in material.evidence] == ["seed-1", "seed-10"]


def test_variants_of_a_method_are_told_apart(away):
    other = dataclasses.replace(TRPO_CONFIG, gamma=0.9)
    material = gather([one(away), one(away, 0, other)])
    a, b = material.comparison.methods
    assert a != b and re.fullmatch(r"trpo [0-9a-f]{4}", a)
    sheet = page_of(material, figures_of(material), [])
    table = sound(sheet).by_id("settings-0")
    assert [r[0] for r in sound(sheet).rows(table) if r[1]] == ["gamma"]


def test_names_cannot_become_markup(away, capsys):
    folder = away / 'runs <img src=x onerror="alert(1)">' / "seed-0"
    evil = '"><script>alert(1)</script>&amp;'
    fabricate(
        dataclasses.replace(plan.runs_of(Cell("t", TRPO_CONFIG), [0], away)[0], folder=folder)
    )
    config = json.loads((folder / "config.json").read_text())
    config["settings"] |= {"env": evil, evil: evil}
    config["settings"]["method"]["type"] = evil
    config |= {"command": ["surefoot", evil], "versions": {evil: evil}}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["report", str(folder), "--no-pictures"]) == 0
    text = (folder / "report" / "report.html").read_text()
    page = sound(text)
    assert len(page.all("script")) == 1 and not page.all("img")
    assert text.count("<script>") == 1
    assert page.all("h1")[0]["text"] == f"{evil} on {evil} seed 0"
    assert str(folder) in page.rows(page.table("Every run"))[0][-1]


def test_runs_of_older_versions_are_shown_as_far_as_they_go(away, capsys):
    folder = one(away)
    config = json.loads((folder / "config.json").read_text())
    for key in ("promise", "bound", "code"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    rows = json_lines(folder / "metrics.jsonl")
    for row in rows:
        for key in ("kl_q99", "kl_max", "accepted", "backtracks"):
            del row[key]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "timings.jsonl").unlink()
    assert main(["report", str(folder), "--no-pictures"]) == 0
    assert "has no score: its files lack promise, as those of older runs do" in said(capsys)[0]
    page = sound((folder / "report" / "report.html").read_text())
    assert page.rows(page.table("What was promised"))[0][2] == "not recorded"
    figures = {r["figure"] for r in table_of(folder, "trust.csv")}
    assert figures == {"kl-0", "accepted-0", "entropy-0"}  # kept: update_skipped
    curves = {r["figure"] for r in table_of(folder, "curves.csv")}
    assert curves == {"return-steps-0"}  # no clock


def test_a_run_without_an_episode_or_not_at_its_end_is_said_to_be(away, capsys):
    folder = one(away)
    rows = json_lines(folder / "metrics.jsonl")[:4]
    text = "".join(json.dumps(r | {"episode_return": None, "entropy": None}) + "\n" for r in rows)
    (folder / "metrics.jsonl").write_text(text)
    assert main(["report", str(folder), "--no-pictures"]) == 0
    out, _ = said(capsys)
    assert "is at 400 of 1000 steps" in out and "no episode of" in out
    page = sound((folder / "report" / "report.html").read_text())
    assert "No episode has ended yet" in page.by_id("learning-curves")["parents"][-1]["text"]
    assert not (folder / "report" / "curves.csv").exists()


def test_a_broken_certificate_is_rejected_on_the_page(away):
    folder = one(away)
    (folder / "certificate.jsonl").write_text("{}\n")
    page = sound(page_of(gather([folder]), figures_of(gather([folder])), []))
    assert page.rows(page.table("Certificates"))[0][1] == "REJECTED"
    text = page.by_id("certificates")["parents"][-1]["text"]
    assert "1 rejected" in text and "line 1 is not as it is written" in text


def test_another_training_of_a_stored_run_is_not_mixed_in(made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "x")
    compared = tmp_path / "x" / "compared"
    cell = next(
        c
        for c in json.loads((compared / "summary.json").read_text())["cells"]
        if c["method"] == "ppo"
    )
    run = plan.runs_of(Cell("ppo", dataclasses.replace(PPO_CONFIG, env=cell["env"])), [0], tmp_path)
    theirs = gather([compared])
    settings = next(
        x.settings for x in theirs.evidence if (x.label, x.env, x.seed) == ("ppo", cell["env"], 0)
    )
    target = compared / cell["runs"] / "seed-0"
    shutil.copytree(reported.rich(run[0], 77.0).folder, target)
    reported.edit(target / "config.json", settings=settings)
    got = gather([compared])
    (mine,) = [x for x in got.evidence if (x.label, x.env, x.seed) == ("ppo", cell["env"], 0)]
    assert mine.stored and mine.result.score > 190
    assert any("holds another training than the store's row" in n for n in got.notes)


def test_runs_that_are_gone_are_missing_and_the_page_says_so(made, tmp_path, capsys):
    shutil.copytree(made.parent, tmp_path / "x")
    compared = tmp_path / "x" / "compared"
    cell = next((tmp_path / "x" / "runs").glob("trpo-jax-CartPole*"))
    shutil.rmtree(cell / "seed-1")
    panel = figures_of(gather([compared])).panels[0]
    assert (panel.method, panel.env) == ("trpo", reported.ENVS[0])
    assert (panel.runs, panel.asked) == (3, 3)  # the store has the third, and its course
    rows = tmp_path / "x" / "results" / "runs.jsonl"
    kept = [r for r in rows.read_text().splitlines(True) if json.loads(r)["method"] == "ppo"]
    rows.write_text("".join(kept))
    shutil.rmtree(cell)
    assert main(["report", str(compared), "--no-pictures"]) == 0
    out, _ = said(capsys)
    assert "missing: trpo jax:CartPole-v1 seed 1 is missing: no trpo-jax-CartPole" in out
    assert "the runs are not those that summary.json was written from" in out
    page = sound((compared / "report" / "report.html").read_text())
    assert [r[0] for r in page.rows(page.table("jax:CartPole-v1, returns"))] == ["ppo"]
    shutil.rmtree(tmp_path / "x" / "runs")
    shutil.rmtree(tmp_path / "x" / "results")
    assert main(["report", str(compared)]) == 3
    assert "none of the runs of" in said(capsys)[1]


def wrong_folders(away):
    """Folders that are no runs, by name."""
    for name in ("empty", "damaged", "old", "epoch", "torn", "none", *FLAWS):
        (away / name).mkdir()
    (away / "damaged" / "summary.json").write_text("{")
    (away / "old" / "summary.json").write_text('{"command": "surefoot compare a b"}')
    epoch = {"command": "surefoot compare a b", "cells": [], "store": None, "learning_epoch": 1}
    (away / "epoch" / "summary.json").write_text(json.dumps(epoch))
    cell = {"method": "a", "env": "e", "hash": "h", "runs": "r"}
    whole = {"command": "surefoot compare a b", "cells": [cell], "store": None, "notes": []}
    whole |= {"learning_epoch": plan.LEARNING_EPOCH, "seeds": [0], "envs": ["e"], "baseline": "a"}
    for name, (values, _) in FLAWS.items():
        text = json.dumps({k: v for k, v in (whole | values).items() if v is not ...})
        (away / name / "summary.json").write_text(text)
    one(away).rename(away / "run")
    shutil.copytree(away / "run", away / "twin")
    shutil.copytree(away / "run", away / "torn", dirs_exist_ok=True)
    (away / "torn" / "metrics.jsonl").write_text("no\n")
    shutil.copytree(away / "run", away / "none", dirs_exist_ok=True)
    (away / "none" / "metrics.jsonl").write_text("")


FLAWS = {
    "whole": ({}, "none of the runs of whole is there (a e seed 0 is missing: no r/seed-0"),
    "no-seeds": ({"seeds": ...}, "seeds is not a list of integers"),
    "no-envs": ({"envs": "e"}, "envs is not a list of texts"),
    "no-notes": ({"notes": ...}, "notes is not a list of texts"),
    "no-cells": ({"cells": []}, "cells is empty"),
    "no-baseline": ({"baseline": ...}, "baseline is not a text"),
    "odd-store": ({"store": 1}, "store is not a text"),
    "odd-cell": ({"cells": [{"method": "a", "env": "e", "runs": None}]}, "has no hash, runs;"),
    "other-env": ({"envs": ["x"]}, "cell 1 is of e, which envs lacks"),
    "odd-row": ({"methods": {"a": {"iqm": {}}}}, "methods has a row without its iqm"),
}
"""What a summary has otherwise (`...`: not at all), and what is said of it."""
WRONG = [
    ([], 2, "RUN is missing; surefoot report RUN... | COMPARE takes folders"),
    (["gone"], 2, "gone does not exist; surefoot list runs shows what there is"),
    (["empty"], 2, "empty is neither a run (it has no config.json) nor a comparison"),
    (["run", "old"], 2, "old is a comparison, and 2 folders are named; name runs, or one"),
    (["run", "twin"], 2, "run and twin are one training, trpo jax:CartPole-v1 seed 0; name one"),
    (["none"], 2, "none has no update yet"),
    (["run", "--baseline", "trp"], 2, "--baseline is 'trp'; did you mean trpo?; allowed: trpo"),
    (["run", "--bseline", "x"], 2, "did you mean --baseline?"),
    (["damaged"], 3, "damaged/summary.json cannot be read as JSON"),
    (["old"], 3, "old/summary.json does not say where its runs are, as it did not in earlier"),
    (["epoch"], 3, "make it again: surefoot compare a b"),
    (["torn"], 3, "torn/metrics.jsonl line 1 is not JSON"),
    *(([name], 3, message) for name, (_, message) in FLAWS.items()),
]


def test_wrong_usage_is_one_line_with_its_exit_code(away, capsys):
    wrong_folders(away)
    for args, code, message in WRONG:
        assert main(["report", *args]) == code, args
        _, err = said(capsys)
        assert message in err and err.startswith("surefoot: "), (args, err)
        assert not (away / "report").exists()


def test_without_matplotlib_there_is_a_line_and_no_picture(away, capsys, monkeypatch):
    from surefoot import figures

    monkeypatch.setattr(figures, "available", lambda: False)
    folder = one(away)
    assert main(["report", str(folder)]) == 0
    assert said(capsys)[0].endswith('pip install "surefoot[plots]" draws them\n')
    assert not list((folder / "report").glob("*.png"))


# The parts.


def test_a_peak_of_one_update_is_not_thinned_away(away):
    folder = one(away)
    base = json_lines(folder / "metrics.jsonl")[5]
    rows = [base | {"update": i, "env_steps": i, "kl_max": 0.1} for i in range(1, 1001)]
    rows[637]["kl_max"] = 9.0
    rows[900]["kl_max"] = rows[901]["kl_max"] = None
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    run = from_folder(folder, "trpo")
    got = course([run], "kl_max")
    assert len(got.of.high) == 120 and set(got.of.high) == {0.1, 9.0, math.inf}
    assert np.sum(got.of.high == 9.0) == 1
    (at,) = np.flatnonzero(got.of.lost)
    assert got.of.lost[at] == 2 and np.flatnonzero(np.isinf(got.of.high)) == [at]
    assert got.steps[at - 1] < 901 < got.steps[at + 1]
    assert np.all(np.diff(got.steps) > 0) and np.all(got.of.low <= got.of.mean)
    assert course([], "kl_max") is None
    assert math.isinf(run.result.worst_kl)  # as here it says there
    material = gather([folder])
    assert "trpo jax:CartPole-v1 seed 0: the KL is not finite in updates 901, 902" in material.notes
    (kl,) = [c for c in figures_of(material).panels[0].charts if c.name == "kl-0"]
    (worst,) = [s for s in kl.series if s.label == "worst state"]
    assert set(worst.y) == {0.1, 9.0, math.inf} and kl.lost == ((got.steps[at], 2),)
    text = page_of(material, figures_of(material), [])
    figure = text[text.index('id="f-kl-0"') : text.index('id="f-accepted-0"')]
    assert figure.count("not finite, drawn at the top: 2 updates") == 2  # in words, and the legend
    marks = re.findall(r'd="M[\d.]+ ([\d.]+)[^"]*" class="lost"', figure)
    assert len(marks) == 2 and float(marks[0]) < svg.TOP + 5


def test_updates_that_are_not_finite_are_named_a_few():
    trace = {"kl_mean": np.array([0.1, math.inf, math.nan]), "entropy": np.full(3, math.inf)}
    assert not_finite(trace, [7, 8, 9]) == "update 8"
    assert not_finite({"entropy": np.full(3, math.inf)}, [7, 8, 9]) == ""
    many = {"kl_max": np.full(7, math.inf)}
    assert not_finite(many, range(7)) == "updates 0, 1, 2, 3, 4 and 2 more"


def test_a_bound_says_what_it_is_on(away):
    folder = one(away)
    reported.edit(folder / "config.json", promise="max_kl", bound=0.5)
    (kl,) = [c for c in figures_of(gather([folder])).panels[0].charts if c.name == "kl-0"]
    assert kl.bound == 0.5 and kl.bound_name == "bound on each state"
    reported.edit(folder / "config.json", promise="none", bound=None)
    (kl,) = [c for c in figures_of(gather([folder])).panels[0].charts if c.name == "kl-0"]
    assert kl.bound is None


def test_a_share_is_rounded_down_so_that_100_is_all(away):
    shares = (0.0, 0.29, 0.5712, 29 / 30, 0.99996, 1 - 1e-12, 1.0)
    said = ["0 %", "29 %", "57.12 %", "96.66 %", "99.99 %", "99.99 %", "100 %"]
    assert [tb.share_kept(x) for x in shares] == said
    folders = [one(away, seed) for seed in range(2)]
    long = from_folder(folders[0], "trpo").result
    runs = [
        dataclasses.replace(long, updates=n, bound_kept=kept)
        for n, kept in ((99_990, 1.0), (10, 0.6), (5, None))
    ]
    assert tb.updates_kept(runs) == pytest.approx(0.99996, abs=1e-12)
    assert tb.updates_kept(runs[2:]) is None and tb.updates_kept(runs[:1]) == 1.0
    material = gather(folders)
    mine = [dataclasses.replace(x, result=r) for x, r in zip(material.evidence, runs, strict=False)]
    material = dataclasses.replace(
        material, evidence=tuple(mine), cells=dict.fromkeys(material.cells, mine)
    )
    page = sound(page_of(material, figures_of(material), []))
    text = page.by_id("summary")["parents"][-1]["text"]
    assert "updates within the bound99.99 %" in text
    assert page.rows(page.table("What was promised"))[0][3:5] == ["100000", "99.99 %"]
    assert [r[6] for r in page.rows(page.table("Every run"))] == ["100 %", "60 %"]


def test_a_promise_that_differs_between_runs_is_said_to(away):
    folders = [one(away, seed) for seed in range(2)]
    reported.edit(folders[1] / "config.json", bound=0.02)
    material = gather(folders)
    page = sound(page_of(material, figures_of(material), []))
    assert page.rows(page.table("What was promised"))[0][2] == "differs between runs"


def test_runs_without_a_clock_are_counted(away):
    folders = [one(away, seed) for seed in range(3)]
    assert not any("clock" in n for n in gather(folders).notes)
    (folders[1] / "timings.jsonl").unlink()
    material = gather(folders)
    assert "1 of 3 runs with a return have no clock" in " ".join(material.notes)
    (steps, seconds) = figures_of(material).curves["jax:CartPole-v1"]
    assert steps.series[0].low is not None and seconds.name == "return-seconds-0"


def test_a_report_leaves_nothing_of_an_earlier_one(away):
    folder = one(away)
    out = folder / "report"
    out.mkdir()
    theirs = ("trust-mine.png", "profile.csv", "notes.txt")
    for name in theirs:
        (out / name).write_text("mine")
    main(["report", str(folder), "--no-pictures"])
    assert {"curves.csv", *theirs} <= {p.name for p in out.iterdir()}
    text = (out / "report.html").read_text().replace("curves.csv", "curves.csv, curves.png")
    (out / "report.html").write_text(text)
    (out / "curves.png").write_text("old")
    rows = json_lines(folder / "metrics.jsonl")
    text = "".join(json.dumps(r | {"episode_return": None}) + "\n" for r in rows)
    (folder / "metrics.jsonl").write_text(text)
    main(["report", str(folder), "--no-pictures"])
    names = {p.name for p in out.iterdir()}
    assert names == {"report.html", "trust.csv", "settings.csv", *theirs}


def test_every_file_beside_a_page_has_a_name_of_its_own(made):
    material = gather([made])
    drawn = figures_of(material)
    for name in [*tables(material, drawn), *picture_names(drawn), "certificates.csv"]:
        assert OWN.fullmatch(name), name
    assert not OWN.fullmatch("intervals.png") and not OWN.fullmatch("mine.csv")


def test_a_locale_without_umlauts_changes_nothing(away, monkeypatch):
    folder = one(away)
    main(["report", str(folder), "--no-pictures"])
    path = folder / "report" / "report.html"
    before = path.read_bytes()
    assert "≤".encode() in before
    monkeypatch.setattr(io, "text_encoding", lambda encoding, stacklevel=2: encoding or "ascii")
    main(["report", str(folder), "--no-pictures"])
    assert path.read_bytes() == before


def test_the_clock_goes_on_where_a_run_was_resumed(away):
    rows = [(100, 1.0), (200, 2.0), (300, 3.0), (300, 1.5), (400, 2.5)]
    lines = [{"env_steps": s, "seconds": t} for s, t in rows]
    (away / "timings.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    got = clock_of(away)
    assert got.tolist() == [[100, 1], [200, 2], [300, 4.5], [400, 5.5]]
    assert got[-1, 1] == wall_seconds(lines)
    (away / "timings.jsonl").unlink()
    assert clock_of(away).shape == (0, 2)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1500, 300), (3e5, 1e6), (0.0081, 0.0099)])
def test_ticks_are_round_and_inside(low, high):
    got = ch.ticks(low, high)
    assert 3 <= len(got) <= 7 and all(low - 1e-9 <= x <= high + 1e-9 for x in got)
    steps = np.diff(got)
    assert np.allclose(steps, steps[0])
    assert f"{steps[0]:.1e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


def test_ticks_of_small_and_large_spans():
    assert ch.log_ticks(0.004, 0.03) == pytest.approx([0.005, 0.01, 0.02])
    assert ch.log_ticks(1e-8, 10)[0] == 1e-8 and len(ch.log_ticks(1e-8, 10)) <= 6
    assert ch.ticks(1.0, 1.0) == [1.0]
    texts = [ch.tick_text(x) for x in (0, 0.0001, 0.25, 1500, 20_000, 1.5e6, -2500)]
    assert texts == ["0", "1e-4", "0.25", "1500", "20k", "1.5M", "-2500"]


def drawn(**fields):
    x = np.array([0.0, 50.0, 100.0])
    y = np.array([1.0, math.nan, 3.0])
    base = Chart("one", "Title", "steps", "height", (Series("a", x, y, y - 5, y + 5),))
    return dataclasses.replace(base, **fields)


def test_a_picture_by_hand():
    text = svg.draw(drawn(limits=(1.0, 3.0), bound=2.0))
    page = Page(text)
    assert page.wrong == []
    (mark,) = [t for t in page.tags if t["at"].get("class") == "line"]
    places = re.findall(r"M([\d.]+) ([\d.]+)", mark["at"]["d"])
    (x0, y0), (x1, y1) = [(float(a), float(b)) for a, b in places]  # apart: the middle is unknown
    assert x0 == svg.LEFT and x1 > x0 and y1 < y0
    (bound,) = [t for t in page.tags if t["at"].get("class") == "bound"]
    assert float(re.findall(r" ([\d.]+)H", bound["at"]["d"])[0]) == pytest.approx((y0 + y1) / 2)
    (band,) = [t for t in page.tags if t["at"].get("class", "").startswith("band")]
    heights = [float(b) for _, b in re.findall(r"([\d.]+) ([\d.]+)", band["at"]["d"])]
    assert min(heights) >= svg.TOP and max(heights) <= svg.HEIGHT - svg.BOTTOM  # cut at the limits
    assert "a: 1 at 0, 3 at 100, band from -2 to 8. the bound is 2" in text


def test_places_stay_inside_the_picture():
    names = [f"method-{i}" for i in range(11)]
    x = np.linspace(1, 1e6, 50)
    rng = np.random.default_rng(0)
    for log in (False, True):
        many = tuple(
            Series(n, x, 10.0 ** rng.normal(size=50), style=i) for i, n in enumerate(names)
        )
        for series in (many, many[:4]):
            text = svg.draw(drawn(series=series, log=log, bound=0.5))
            paths = [t["at"] for t in Page(text).all("path") if t["at"]["class"] != "mark"]
            across = [float(a) for p in paths for a, _ in re.findall(PLACE, p["d"])]
            assert min(across) >= 0 and max(across) <= svg.WIDTH
            labels = [float(y) for y in re.findall(r'y="([\d.]+)" class="end', text)]
            assert len(labels) == (5 if series is not many else 0)
            assert all(b - a >= 12.9 for a, b in itertools.pairwise(labels))
            assert all(0 < y <= svg.HEIGHT for y in labels)
    assert len({look(i)[:2] for i in range(32)}) == 32  # without markers, too
    assert len({(svg.colour(i), svg.dashes(i)) for i in range(32)}) == 32
    assert len({svg.marker(i, 0.0, 0.0) for i in range(24)}) == MARKERS
    assert svg.apart([5, 5, 100], [10, 10, 10], 0, 110) == [5, 15, 100]
    assert svg.apart([5, 5, 100], [20, 10, 20], 0, 110) == [5, 25, 90]
    assert svg.apart([-5, 3, 3], [10, 10, 10], 0, 20) == [0, 10, 20]  # no room: none on another


def test_the_text_of_a_falling_share_says_where_a_half_is_left():
    x = np.linspace(0, 1, 5)
    lines = (
        Series("a", x, np.array([1.0, 1.0, 0.8, 0.4, 0.0])),
        Series("b", x, np.full(5, 0.3)),
    )
    said = ch.ends_text(drawn(series=lines, falling=True))
    assert "a: above a half up to 0.5. b: a half nowhere" in said


def test_seconds_are_medians_over_seeds():
    """One seed on a busy machine neither draws the line out nor hides how the others ended."""
    steps = np.linspace(100, 1000, 10)
    curves = [np.column_stack([steps, pace * steps / 1000, steps]) for pace in (9.0, 1.0, 1.1)]
    got = average("m", curves, "seconds", 0)
    np.testing.assert_allclose(got.x, 1.1 * average("m", curves, "steps", 0).x / 1000)


def test_the_widest_spread_of_times_is_named(page):
    text = page.by_id("learning-curves")["parents"][-1]["text"]
    assert "drawn at the median time of its seeds" in text
    assert "seeds of trpo on jax:CartPole-v1 took 00:02 to 00:04, the widest spread here" in text
    assert "of which the store keeps no course are spread evenly" in text


def test_an_empty_picture_is_one():
    x = np.zeros(0)
    for chart in (drawn(series=(Series("a", x, x),)), drawn(series=(), log=True)):
        assert Page(svg.draw(chart)).wrong == [] and chart.empty
    nothing = drawn(series=(Series("a", np.ones(1), np.full(1, math.nan)),))
    assert "a: nothing is known" in svg.draw(nothing)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [style.LIGHT, style.DARK])
def test_contrast_of_both_themes(theme):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for ground in ("page", "card", "mark"):
        for ink in ("ink", "soft", "link", "good", "bad"):
            assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
    for ground in ("page", "card"):
        for i in range(ch.COLOURS):
            assert contrast(theme[f"s{i}"], theme[ground]) >= 3, (i, ground)
    assert set(style.LIGHT) == set(style.DARK)


def test_markup_escapes_what_is_no_markup():
    assert element("p", "<b>", Markup("<i>x</i>"), None, title='"') == (
        '<p title="&quot;">&lt;b&gt;<i>x</i></p>'
    )
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert element("a", "x", aria_label="b", hidden=False, class_=None) == '<a aria-label="b">x</a>'
    assert identifier("Trust panel", "é/1") == "trust-panel---1"


def test_names_of_methods_and_settings():
    assert method_of({"method": {"type": "Fixup", "inner": {"type": "PPO"}}}) == "Fixup(ppo)"
    assert method_of({"method": {"type": "Mine"}}) == "Mine" and method_of({}) == "?"
    settings = {"type": "x", "method": {"type": "PPO", "sgd": {"lr": 1}}}
    assert flat(settings) == {"type": "x", "method": "PPO", "method.sgd.lr": 1}


# With runs that were trained.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of TRPO on Pendulum, three updates each."""
    need("gymnasium")
    folder = tmp_path_factory.mktemp("trained") / "run"
    args = ["--env", "Pendulum-v1", "--steps", "1500", "--num-envs", "4", "--quiet"]
    args += ["--hidden", "8", "--preset", "none", "--certify-every", "1"]
    args += ["--num-steps", "128"]
    for seed in (0, 1):
        assert (
            main(["train", "trpo", *args, "--seed", str(seed), "--run-dir", f"{folder}/{seed}"])
            == 0
        )
    return folder


@pytest.mark.slow
def test_a_trained_run_is_whole(trained, capsys):
    assert main(["report", str(trained), "--no-pictures"]) == 0
    page = sound((trained / "report" / "report.html").read_text())
    rows = page.rows(page.table("Certificates"))
    assert [r[1] for r in rows] == ["holds", "holds"] and [r[6] for r in rows] == ["0", "0"]
    assert [r[3] for r in rows] == [r[4] for r in rows] == ["3", "3"]
    names = {r["figure"].rpartition("-")[0] for r in table_of(trained, "trust.csv")}
    assert {"kl", "accepted", "backtracks", "sigma", "entropy"} <= names
    words = json.loads((trained / "0" / "config.json").read_text())["command"]
    assert page.all("pre")[0]["text"].splitlines()[0] == shlex.join(words)


@pytest.mark.slow
def test_sigma_is_that_of_the_policy(trained):
    from surefoot.verifier import load

    folder = trained / "0"
    last = sorted((folder / "checkpoints").glob("[0-9]*"))[-1]
    log_std = load(last / "arrays.safetensors")["policy/head/std"]
    got = from_folder(folder, "trpo").ruler.columns["sigma"].mean
    assert got[-1] == pytest.approx(float(np.exp(log_std.mean())), rel=1e-5)


@pytest.mark.slow
def test_pictures_stand_beside_the_page(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["report", str(trained), "--out", str(tmp_path / "x"), "--json"]) == 0
    files = json.loads(said(capsys)[0])["files"]
    pictures = [f for f in files if f.endswith(".png")]
    assert pictures == ["curves.png", "profile.png", "trust-pendulum-v1.png"]
    for name in pictures:
        data = (tmp_path / "x" / name).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 5000
        assert name in (tmp_path / "x" / "report.html").read_text()
