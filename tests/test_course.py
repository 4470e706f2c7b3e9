"""The course of a run, as the store keeps it and as a report shows it."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

import reported
from surefoot.checks import EnvironmentFault
from surefoot.cli import main
from surefoot.config import Config
from surefoot.experiments import course, plan
from surefoot.experiments.course import (
    STRETCHES,
    from_data,
    pooled,
    read_course,
    thinned,
    to_data,
    whole,
)
from surefoot.experiments.plan import Cell
from surefoot.experiments.report.figures import figures
from surefoot.experiments.report.files import tables
from surefoot.experiments.report.gather import gather
from surefoot.experiments.store import Store
from surefoot.methods.trpo import TRPO
from surefoot.value import ValueFit

CONFIG = Config(TRPO(), ValueFit(), env="jax:Pendulum-v1", steps=1000)


def long_trace(updates=1003, seed=0):
    """Columns as training might leave them: one that some updates lack, one with values that are
    not finite, one of true and false."""
    rng = np.random.default_rng(seed)
    kl = rng.lognormal(-4, 1, updates)
    kl[[17, 500]] = math.inf
    tries = np.where(rng.random(updates) < 0.3, math.nan, rng.integers(0, 5, updates))
    tries[:60] = math.nan  # whole stretches without a value
    return {
        "env_steps": 2048.0 * np.arange(1, updates + 1),
        "episode_return": rng.normal(size=updates),
        "kl_max": kl,
        "fixup_tries": tries,
        "accepted": (rng.random(updates) < 0.9).astype(float),
    }


@pytest.fixture
def run(tmp_path):
    """A finished run with every column, in ten updates."""
    return reported.rich(plan.runs_of(Cell("trpo", CONFIG), [3], tmp_path / "runs")[0])


def test_thinning_loses_no_extreme_and_no_count():
    trace = long_trace()
    got = thinned(whole(trace))
    assert len(got.at) == STRETCHES and got.counts.sum() == 1003 == got.updates
    assert set(got.columns) == {"kl_max", "fixup_tries", "accepted"}
    for name, c in got.columns.items():
        values, ends = trace[name], [*got.at, 1003]
        for i, (a, b) in enumerate(itertools.pairwise(ends)):
            part = values[a:b][~np.isnan(values[a:b])]
            assert c.known[i] == len(part) and c.lost[i] == np.isinf(part).sum()
            if len(part):
                want = part.mean(), part.min(), part.max()
                np.testing.assert_allclose((c.mean[i], c.low[i], c.high[i]), want)
            else:
                assert math.isnan(c.mean[i]) and math.isnan(c.high[i])
            np.testing.assert_allclose(got.steps[i], trace["env_steps"][a:b].mean())
    assert np.isnan(got.columns["fixup_tries"].mean[0])
    assert got.columns["kl_max"].lost.sum() == 2


def test_pooling_runs_is_pooling_their_updates():
    """Runs of several lengths, one of them kept in stretches: means weigh every update alike."""
    a, b = (whole(long_trace(n, seed)) for n, seed in ((800, 1), (1003, 2)))
    for name in a.columns:
        steps, plain = pooled([a, b], name, 20)
        _, kept = pooled([a, thinned(b, 40)], name, 20)
        assert len(steps) == 20 and plain.known.sum() == kept.known.sum()
        np.testing.assert_allclose(plain.lost.sum(), kept.lost.sum())
        finite = np.isfinite(plain.mean) & np.isfinite(kept.mean)
        np.testing.assert_allclose(
            plain.mean[finite] @ plain.known[finite], kept.mean[finite] @ kept.known[finite]
        )
        np.testing.assert_array_equal(np.nanmax(plain.high), np.nanmax(kept.high))
    same = whole(long_trace(1000))
    for n in (20, 40):
        one, other = pooled([same], "kl_max", n)[1], pooled([thinned(same)], "kl_max", n)[1]
        np.testing.assert_allclose(one, other)


@pytest.mark.parametrize("updates", [1, 7, 39, 40, 41, 79, 81, 997])
def test_every_stretch_has_updates(updates):
    trace = long_trace(1003)
    got = thinned(whole({k: v[:updates] for k, v in trace.items()}))
    assert len(got.at) == min(updates, STRETCHES) and got.counts.min() >= 1
    steps, c = pooled([got, whole(trace)], "kl_max", 33)
    assert np.all(np.diff(steps) > 0) and c.known.sum() == updates + 1003


def test_a_course_goes_through_json(run):
    got = read_course(run.folder, 1000)
    long = course.Course(thinned(whole(long_trace())), got.clock, None, {})
    for c in (got, long):
        again = from_data(json.loads(json.dumps(to_data(c), allow_nan=False)))
        assert (again.certificate, again.about) == (c.certificate, c.about)
        np.testing.assert_array_equal(again.ruler.at, c.ruler.at)
        np.testing.assert_allclose(again.ruler.steps, c.ruler.steps, rtol=1e-6)
        np.testing.assert_allclose(again.clock, c.clock, atol=1e-3)
        assert again.ruler.columns.keys() == c.ruler.columns.keys()
        for name, column in c.ruler.columns.items():
            np.testing.assert_allclose(again.ruler.columns[name], column, rtol=1e-4)
    assert set(got.about) <= set(course.ABOUT) and "versions" in got.about
    assert got.ruler.columns["sigma"].mean == pytest.approx(np.full(10, reported.SIGMA))


def test_the_store_keeps_it(run, tmp_path):
    s = Store(tmp_path / "results")
    assert s.add(run)
    row = s.rows()[run.cell.hash, 3]
    kept, want = s.course(row), read_course(run.folder, 1000)
    np.testing.assert_allclose(kept.ruler.columns["kl_max"], want.ruler.columns["kl_max"])
    (path,) = (tmp_path / "results" / "courses").iterdir()
    assert path.stem == Path(row["curve"]).stem and str(tmp_path) not in path.read_text()
    path.write_text('{"updates": 3')
    with pytest.raises(EnvironmentFault, match="is not the course of a run"):
        s.course(row)


def test_a_row_without_a_course_gets_it_from_its_own_training_alone(run, tmp_path):
    s = Store(tmp_path / "results")
    s.add(run)
    row = s.rows()[run.cell.hash, 3]
    (path,) = (tmp_path / "results" / "courses").iterdir()
    before = (path.read_text(), s.path.read_text())
    path.unlink()
    assert s.lacks_course(row) and s.course(row) is None
    shutil.rmtree(run.folder)
    reported.rich(run, 50.0)  # other bits under the same settings and seed
    assert not s.add(run) and s.lacks_course(row)
    shutil.rmtree(run.folder)
    reported.rich(run)
    assert not s.add(run) and not s.lacks_course(row)
    assert (path.read_text(), s.path.read_text()) == before


def test_compare_gives_stored_rows_the_courses_of_folders_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reported.compared()
    want = {p.name: p.read_text() for p in Path("results/courses").iterdir()}
    assert len(want) == 9  # all of TRPO, and PPO's of one environment
    gone = [n for n in want if n.startswith("trpo")]
    for name in gone:
        Path("results/courses", name).unlink()
    assert main(reported.COMPARE) == 0
    assert {p.name: p.read_text() for p in Path("results/courses").iterdir()} == want


def test_a_report_of_stored_courses_is_that_of_the_folders(tmp_path, monkeypatch):
    """Up to the five digits that are kept; runs of ten updates are not thinned."""
    monkeypatch.chdir(tmp_path)
    made = reported.compared()
    read = lambda: [  # noqa: E731
        [line.split(",") for line in tables(m, figures(m))[name].splitlines()]
        for m in [gather([made])]
        for name in ("trust.csv", "curves.csv", "certificates.csv")
        if name in tables(m, figures(m))
    ]
    folders = read()
    shutil.rmtree("runs")
    for a, b in zip(folders, read(), strict=True):
        assert [x[:2] for x in a] == [x[:2] for x in b] and len(a) > 20
        for x, y in zip(a[1:], b[1:], strict=True):
            for u, v in zip(x, y, strict=True):
                assert u == v or float(u) == pytest.approx(float(v), rel=1e-4), (x, y)
