"""What README and CONTRIBUTING show works as shown, and every method and column has its page."""

import ast
import dataclasses
import importlib
import json
import re
import runpy
import sys
from pathlib import Path

import jax
import pytest

import surefoot
import tiny
from surefoot import NPG, Agent, Fixup
from surefoot.cli import main
from surefoot.config import method_class
from surefoot.methods import METHODS
from surefoot.wrappers import WRAPPERS

ROOT = Path(__file__).resolve().parents[1]


def blocks(name, language):
    """Fenced code of a language in a file."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), re.S)


@pytest.mark.slow
def test_the_method_in_contributing_trains_as_it_stands(tmp_path):
    (code,) = blocks("CONTRIBUTING.md", "python")
    space = {"__name__": "contributed"}
    exec(code, space)
    agent = Agent(space["RestrictedStep"](), "jax:CartPole-v1", num_envs=4, num_steps=32).learn(256)
    assert agent.update == 2 and agent.report["kl_mean"] > 0


@pytest.mark.slow
def test_the_projected_method_on_the_page_of_trpl_trains_as_it_stands():
    (code,) = blocks("docs/methods/trpl.md", "python")
    space = {"__name__": "projected"}
    exec(code, space)
    agent = Agent(space["ProjectedPPO"](), "jax:CartPole-v1", num_envs=4, num_steps=32).learn(256)
    assert agent.update == 2 and agent.report["kl_mean"] > 0


@pytest.mark.slow
def test_the_picture_of_a_projection_is_drawn_from_its_script(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    gallery = ROOT / "docs" / "gallery"
    monkeypatch.setattr(sys, "argv", ["projection.py", "--out", str(tmp_path)])
    runpy.run_path(str(gallery / "projection.py"), run_name="__main__")
    assert (tmp_path / "projection.svg").stat().st_size > 10_000
    drawn, kept = ((p / "projection.csv").read_text().split() for p in (tmp_path, gallery))
    number = re.compile(r"-?\d+\.\d+")
    far = [
        abs(float(a) - float(b))
        for x, y in zip(drawn, kept, strict=True)
        for a, b in zip(number.findall(x), number.findall(y), strict=True)
    ]
    assert len(far) > 100 and max(far) < 2e-4


@pytest.mark.slow
def test_the_ten_lines_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = blocks("README.md", "python")
    quick = (
        first.replace("1_000_000", "4_096")
        .replace("HalfCheetah-v5", "Pendulum-v1")
        .replace("[0.0] * 17", "[0.0] * 3")
    )
    exec(quick.replace("episodes=20", "episodes=2"), {})
    assert (tmp_path / "cheetah" / "config.json").exists()
    exec(second.replace("num_envs=64", "num_envs=2").replace("100)", "2)"), {})


def test_the_readme_opens_with_exactly_two_commands():
    opening = blocks("README.md", "console")[0].strip().splitlines()
    assert [line.split()[:2] for line in opening] == [["make", "train"], ["make", "test"]]


@pytest.mark.parametrize(
    "line",
    [
        w
        for b in blocks("README.md", "console")[1:]
        for w in b.splitlines()
        if "surefoot train" in w
    ],
)
@pytest.mark.slow
def test_the_readmes_training_commands_are_understood(line, tmp_path, monkeypatch, capsys):
    if "envpool:" in line:
        pytest.importorskip("envpool")
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    words = line.split("#")[0].split()
    assert main([*words[words.index("surefoot") + 1 :], "--print-config"]) == 0
    assert '"method"' in capsys.readouterr().out


def test_every_method_has_a_page_and_a_row():
    readme = (ROOT / "README.md").read_text()
    for name in METHODS:
        assert (ROOT / "docs" / "methods" / f"{name}.md").exists()
        assert f"(docs/methods/{name}.md)" in readme
    for name in map(str.lower, WRAPPERS):
        assert (ROOT / "docs" / "methods" / f"{name}.md").exists()
        assert f"(docs/methods/{name}.md)" in readme


SECTIONS = (
    "## The problem",
    "## The algorithm, and the code",
    "## Fields",
    "## Departures from the paper",
    "## What was measured",
    "## References",
)


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_page_is_of_one_form(name):
    """In this order; a row for every field and a word on every column of its own."""
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    found = [line for line in page.splitlines() if line in SECTIONS]
    assert found == list(SECTIONS)
    module, record, _ = METHODS[name]
    fields = dataclasses.fields(getattr(importlib.import_module(module), record))
    assert [f.name for f in fields if f"`{f.name}" not in page] == []
    assert "surefoot train" in page


@pytest.mark.slow
def test_the_page_of_results_is_made_from_the_store(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    made = importlib.import_module("results_page")
    written = made.PAGE.read_text()
    assert written == made.page(made.Store(ROOT / "benchmarks" / "results")), (
        "docs/results.md is not what the store says; run python benchmarks/results_page.py"
    )
    for method in METHODS:
        assert f"| `{method}` |" in written


@pytest.mark.slow
def test_what_was_asked_of_the_family_is_made_from_the_store(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    made = importlib.import_module("first_order")
    written = made.OUT.read_text()
    assert written == made.page(made.Store(made.RESULTS)), "run python benchmarks/first_order.py"
    for method in made.FAMILY:
        passes = "no, a control" if method in made.CONTROLS else "yes"
        assert re.search(rf"\| `{method}` \|.*\| {passes} \|", written), method


SHOWN = {
    "mdpo": ["t", "objective", "update"],
    "ppo": ["update"],
    "trgppo": ["bounds", "objective", "update"],
    "vmpo": ["losses", "L_alpha", "update"],
}
"""What some pages show of the source, in this order; of others the first is `objective` where there
is one."""


def test_pages_show_the_source_of_their_algorithm(monkeypatch):
    """Not `update` alone, which for most of the family is one call of `SGD.maximise`."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    source = importlib.import_module("source")
    for name, (module, record, _) in METHODS.items():
        shown = source.code(module, record)
        names = re.findall(r"^def (\w+)\(", shown, re.M)
        assert compile(shown, name, "exec") and names[-1] == "update"
        assert SHOWN.get(name, names) == names, name
        assert ("objective" in names) is hasattr(method_class(name), "objective")
    monkeypatch.setattr(source, "LEFT_OUT", {"losses"})  # and what is called by that alone
    assert re.findall(r"^def (\w+)\(", source.code(*METHODS["vmpo"][:2]), re.M) == ["update"]
    with pytest.raises(LookupError, match="has no update of Nobody"):
        source.code("surefoot.methods.ppo", "Nobody")


def test_what_updates_cost_is_what_was_measured(monkeypatch):
    """The table, and the sentence on every page of the family."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    cost = importlib.import_module("family_cost")
    measured = json.loads(cost.OUT.read_text())
    assert cost.TABLE.read_text() == cost.table(measured), (
        "run python benchmarks/family_cost.py --table"
    )
    names = {row["method"].split(",")[0] for row in measured["methods"]}
    for name in names - {"ppo"}:
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
        assert cost.sentence(measured, name) in " ".join(page.split()), name


def test_every_public_name_is_documented(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    public = importlib.import_module("public")
    assert sorted(public.homes()) == sorted(surefoot.__all__) and public.undocumented() == []
    assert all(f"::: surefoot.{m}.{n}" in public.page() for n, m in public.homes().items())
    bare = "class A:\n    'a'\n    x: int = 0\n    def f(self): ...\n"
    assert public.lacking(ast.parse(bare).body[0]) == [".x", ".f"]


@pytest.mark.slow
def test_every_column_of_every_method_is_explained():
    """By tracing an update; those of a training run are below."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    for kind in ("categorical", "gaussian"):
        pi = tiny.policy(kind)
        batch = tiny.batch(kind, pi, rows=64)
        for name in METHODS:
            m = method_class(name)()
            key = jax.random.key(0)
            run = lambda p, m=m, k=key, b=batch: m.update(p, m.init(p, k), b, k)[2]  # noqa: E731
            info = jax.eval_shape(run, pi)
            own = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
            for column in info:
                assert f"`{column}`" in page and f"`{column}`" in own, (name, column)


REPORTS = [
    ("trpo", "jax:CartPole-v1"),
    pytest.param("ppo", "jax:CartPole-v1", marks=pytest.mark.slow),
    pytest.param("fixpo", "jax:Pendulum-v1", marks=pytest.mark.slow),
    pytest.param("trpl", "jax:CartPole-v1", marks=pytest.mark.slow),
    pytest.param("papi", "jax:CartPole-v1", marks=pytest.mark.slow),
    pytest.param(Fixup(NPG()), "jax:Pendulum-v1", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "env"), REPORTS)
def test_every_column_is_explained(method, env):
    page = (ROOT / "docs" / "metrics.md").read_text()
    agent = Agent(method, env, num_envs=4, num_steps=64).learn(256)
    for key in agent.report:
        assert f"`{key}`" in page, key
