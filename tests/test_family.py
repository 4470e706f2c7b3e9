"""The committed comparison of eleven methods and its report are what the store of results says, and
need nothing else."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from surefoot.cli import compare_
from surefoot.experiments import table
from surefoot.experiments.report.figures import figures
from surefoot.experiments.report.files import tables
from surefoot.experiments.report.gather import gather
from surefoot.experiments.report.page import page

ROOT = Path(__file__).resolve().parents[1]
FAMILY = Path("benchmarks/results/family")
AGAIN = "it is not what the store says; benchmarks/README.md has the two commands that make it"


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Where the commands are typed."""
    monkeypatch.chdir(ROOT)


@pytest.mark.slow
def test_the_table_is_what_the_store_says():
    said = json.loads((FAMILY / "summary.json").read_text())
    words = [*shlex.split(said["command"])[2:], "--store", "benchmarks/results"]
    request = compare_.parse(words)
    cells = compare_.cells_of(request)
    plan = compare_.Plan(request, cells, compare_.store_at(request.store))
    assert plan.todo == [] and len(plan.runs) == 165
    labels = list(dict.fromkeys(c.label for c in cells))
    comparison = compare_.gather(plan, labels, "ppo", [])
    assert (FAMILY / "table.md").read_text() == table.table_text(table.summary(comparison)), AGAIN
    assert (FAMILY / "results.csv").read_text() == table.results_csv(comparison), AGAIN
    assert (FAMILY / "curves.csv").read_text() == table.curves_csv(comparison), AGAIN


@pytest.mark.slow
def test_the_report_is_what_the_store_says():
    """Methods that promise a bound are shown against it, and every promise of a certified update
    was kept. The store keeps no course of TRPO and PPO on the two tasks that were run first."""
    material = gather([FAMILY])
    drawn = figures(material)
    made = tables(material, drawn)
    beside = {p.name for p in (FAMILY / "report").iterdir()} - {"report.html"}
    assert beside == set(made)
    for name, text in made.items():
        assert (FAMILY / "report" / name).read_text() == text, AGAIN
    assert (FAMILY / "report" / "report.html").read_text() == page(material, drawn, list(made))
    bare = {(p.method, p.env.removeprefix("envpool:")) for p in drawn.panels if not p.charts}
    first = {(m, e) for m in ("trpo", "ppo") for e in ("HalfCheetah-v5", "Hopper-v5")}
    assert bare <= first and len(drawn.panels) == 33
    bounded = {p.method for p in drawn.panels if any(c.bound is not None for c in p.charts)}
    assert bounded == {"trpo", "fixpo", "trpl"}
    promised = [x for x in material.evidence if x.certificate and x.bound is not None]
    assert len(promised) >= 13 and not any(x.certificate.findings for x in promised)
    assert sum(x.certificate.above for x in promised) == 0
