"""The gallery: every figure's data comes out again, shows what its caption says, and leaves no
method out."""

from __future__ import annotations

import csv
import importlib.util
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from surefoot.methods import METHODS
from surefoot.types import PROMISES

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "docs" / "gallery"
SCRIPTS = ("bounds", *(f"figure_12_{n}" for n in range(1, 8)))
PICTURE = "methods"


@lru_cache
def script(name):
    """A script of the gallery as a module; its picture is not drawn."""
    spec = importlib.util.spec_from_file_location(f"gallery_{name}", GALLERY / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@lru_cache
def rows(name):
    return script(name).rows()


def kept(name):
    """The CSV beside a script."""
    with (GALLERY / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(name, rtol, atol):
    """Whether the script gives the rows that are kept."""
    fresh, old = rows(name), kept(name)
    assert len(fresh) == len(old)
    for a, b in zip(fresh, old, strict=True):
        assert list(a) == list(b)
        for key, value in a.items():
            if not b[key]:
                assert value == "" or np.isnan(value), key
            elif isinstance(value, str):
                assert value == b[key], key
            else:
                np.testing.assert_allclose(float(b[key]), value, rtol, atol, err_msg=key)


def column(name, key, **where):
    kept = [r for r in rows(name) if all(r[k] == v for k, v in where.items())]
    return np.array([r[key] for r in kept])


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_data_of_a_figure_comes_out_again(name):
    same(name, 1e-3, 1e-5)
    assert (GALLERY / f"{name}.svg").stat().st_size > 1000
    assert f"python docs/gallery/{name}.py" in script(name).__doc__


def test_12_1_scaling_and_clipping_keep_steps_short():
    def steps(way):
        path = np.stack([column("figure_12_1", t, way=way) for t in ("t1", "t2")], -1)
        return np.diff(path, axis=0)

    assert np.linalg.norm(steps("as it is")[0]) > 4
    lengths = np.linalg.norm(steps("scaled to 1"), axis=-1)
    assert np.all(lengths <= 0.2 + 1e-12) and lengths[0] > 0.2 - 1e-12
    clipped = np.abs(steps("clipped to 1"))
    assert np.all(clipped <= 0.2 + 1e-12) and np.any(np.linalg.norm(clipped, axis=-1) > 0.2)
    for way in ("scaled to 1", "clipped to 1"):
        U = column("figure_12_1", "utility", way=way)
        assert U[-1] > 0.2 * U[0]


def test_12_2_the_natural_gradient_points_at_the_optimum():
    get = lambda *keys: np.stack([column("figure_12_2", k) for k in keys], -1)  # noqa: E731
    to = np.array([-1.0, 0.0]) - get("t1", "t2")
    to /= np.linalg.norm(to, axis=-1, keepdims=True)
    true, natural = np.sum(to * get("g1", "g2"), -1), np.sum(to * get("u1", "u2"), -1)
    assert natural.min() > 0.94 and true.min() < 0.4 and natural.mean() > true.mean() + 0.1
    assert np.all(get("g1", "g2")[:, 1] < -0.65)  # most of it down, wherever the optimum is


def test_12_3_steps_end_on_their_edges():
    figure = script("figure_12_3")
    for edge, step in (("ellipse", "natural step"), ("ball", "restricted step")):
        around = np.stack([column("figure_12_3", t, what=edge) for t in ("t1", "t2")], -1)
        (end,) = np.stack([column("figure_12_3", t, what=step) for t in ("t1", "t2")], -1)
        gap = np.linalg.norm(around - end, axis=-1)
        assert gap.min() < 0.05 * np.ptp(around[:, 0])
        g = figure.regulator.gradient(figure.LinearQuadratic(), figure.THETA, 10)
        assert np.all((around - figure.THETA) @ g <= (end - figure.THETA) @ g + 1e-9)


def test_12_4_the_search_ends_inside():
    get = lambda what: column("figure_12_4", "kl", what=what)  # noqa: E731
    assert np.all(get("refused") > 0.01) and len(get("refused")) == 1
    assert len(get("accepted")) == 1 and get("accepted")[0] <= 0.01
    np.testing.assert_allclose(get("true KL"), 0.01, rtol=1e-9)
    np.testing.assert_allclose(get("refused"), 0.0115892, atol=1e-7)
    assert np.ptp(get("ellipse")) > 0.003  # the model is not the KL


def test_12_5_trust_regions_reach_the_optimum():
    for n in range(4):
        U = column("figure_12_5", "utility", path=n)
        assert U[-1] > -0.5 > U[0]


def test_12_6_the_lower_bound_is_one():
    get = lambda key: column("figure_12_6", key)  # noqa: E731
    low = get("lower bound")
    assert np.all(low <= get("original") + 1e-6) and np.all(low <= get("clamped") + 1e-6)
    np.testing.assert_allclose(low, np.minimum(get("original"), get("clamped")), atol=1e-6)
    assert np.any(get("clamped") > get("original") + 0.1)  # clamping alone is none


def test_12_7_the_surrogates():
    get = lambda key: column("figure_12_7", key)  # noqa: E731
    for key in ("surrogate", "penalised", "clamped", "lower bound", "kl"):
        assert abs(get(key)[0]) < 1e-12
    assert np.all(get("lower bound") <= get("surrogate") + 1e-12)
    assert np.all(np.diff(get("kl")) > 0)
    for key in ("penalised", "lower bound"):
        assert 0 < np.argmax(get(key)) < len(get(key)) - 1  # each has its best on the way
    assert np.argmax(get("surrogate")) > np.argmax(get("lower bound"))


def test_bounds_are_bounds_and_loose():
    assert np.all(column("bounds", "q05") >= 1)
    far, loose = (column("bounds", k, bound="TREFree") for k in ("tv", "q50"))
    # It subtracts in proportion to the step, and what is lost goes with its square.
    np.testing.assert_allclose((loose * far)[:4], (loose * far)[0], rtol=0.1)
    assert np.all(column("bounds", "promises_improvement", bound="TREFree") == 0)
    tv = column("bounds", "q50", bound="tv")
    assert np.all(np.abs(tv / tv[0] - 1) < 0.1)


# The picture


def check_promises(table):
    for panel in ("simplex", "gaussian"):
        shown = {r["method"] for r in table if r["panel"] == panel}
        missing = set(METHODS) - shown
        assert not missing, f"{missing} are not in the picture: python docs/gallery/{PICTURE}.py"
    for row in table:
        if row["promise"] == "none":
            assert row["inside"] == ""
            continue
        assert row["inside"] == "yes", row
        if row["promise"] in ("mean_kl", "max_kl"):
            assert float(row["kl"]) <= script(PICTURE).RADIUS * (1 + 1e-6)
        else:
            assert row["promise"] in PROMISES
    assert {"mean_kl", "max_kl", "none"} <= {r["promise"] for r in table}


def test_every_method_is_in_the_picture_and_keeps_its_promise():
    check_promises(kept(PICTURE))
    assert "docs/gallery/methods.svg" in (ROOT / "README.md").read_text()
    best = [r for r in kept(PICTURE) if r["method"] == script(PICTURE).EXACT]
    assert len(best) == 1


@pytest.mark.slow
def test_the_picture_comes_out_again():
    check_promises(rows(PICTURE))
    same(PICTURE, 0.02, 1e-3)
    # Nobody inside the ball does better than the exact optimum; and everybody moved towards it.
    module = script(PICTURE)
    for row in rows(PICTURE):
        if row["panel"] == "simplex":
            p = np.array([row["x"], row["y"], row["z"]])
            pay, best = p @ module.PAY, module.maximise_in_ball(
                module.OLD, module.PAY, np.array(max(row["kl"], 1e-9))
            ).policy @ module.PAY  # fmt: skip
            assert pay <= best + 1e-6 and pay > module.OLD @ module.PAY, row["method"]


def test_the_edges_of_the_balls():
    module = script(PICTURE)
    mean, s = module.gaussian_edge().T
    np.testing.assert_allclose(
        s + (1 + mean**2) / (2 * np.exp(2 * s)) - 0.5, module.RADIUS, atol=1e-9
    )
    xy = module.simplex_edge()
    third = xy[:, 1] / np.sqrt(0.75)
    p = np.stack([1 - (xy[:, 0] - third / 2) - third, xy[:, 0] - third / 2, third], -1)
    np.testing.assert_allclose(
        np.sum(module.OLD * np.log(module.OLD / p), -1), module.RADIUS, rtol=1e-6
    )
