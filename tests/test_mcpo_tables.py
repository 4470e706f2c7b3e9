"""The tables of MCPO that are kept are those that the store says, with the seeds of each table."""

import csv
import importlib
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made():
    """The script that makes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("mcpo_tables")


def test_the_tables_are_made_from_the_store(made):
    rows = made.Store(ROOT / "benchmarks" / "results").rows()
    pages = made.pages(rows)
    kept = {p.stem: p.read_text() for p in made.OUT.glob("*.md")}
    assert kept == pages, "run python benchmarks/mcpo_tables.py"
    assert not any("not run" in page for page in pages.values())
    # Rows of more seeds, as other tables have them, do not enter.
    more = {
        (h, 3): row | {"result": row["result"] | {"score": 0.0}} for (h, _), row in rows.items()
    }
    assert made.table_2(rows | more) == pages["table2"]


def test_an_entry_that_the_paper_has_twice_is_marked(made):
    page = made.table_2({})
    marked = [line for line in page.splitlines() if made.TWICE in line]
    assert [line[:8] for line in marked] == ["| TRPO |", "| TRGPPO", "† TRPO a"]
    assert page.index("## HalfCheetah-v5") < page.index(made.TWICE) < page.index("## Hopper-v5")
    assert made.TWICE not in made.table_1({})


def test_the_kept_runs_say_what_the_pages_say(made):
    """The sentences about beta, attention and alpha, from the numbers of the runs."""

    def run(name):
        lines = (made.OUT / f"{name}.csv").read_text().splitlines()
        return [{k: float(x) for k, x in row.items() if x} for row in csv.DictReader(lines)]

    def words(page):
        return " ".join((ROOT / "docs" / page).read_text().split())

    page, lander = words("methods/mcpo.md"), run("lunarlander")
    assert all(u["mcpo_kl_old_theta"] > u["mcpo_kl_old_psi"] for u in lander)
    mean = statistics.mean(u["mcpo_beta"] for u in lander)
    first, last = lander[0], lander[-1]
    assert f"beta is {mean:.1f} over the run" in page and f"only {len(lander)} updates" in page
    assert f"(entropy {first['mcpo_attention_entropy']:.2f} of ln 10 = 2.30)" in page
    assert f"and beta is {first['mcpo_beta']:.2f}" in page and last["mcpo_slot"] == 9
    assert max(u["mcpo_beta"] for u in lander) == first["mcpo_beta"]
    assert round(statistics.mean(u["kl_mean"] for u in lander), 4) == 4e-4
    for name in ("hopper", "halfcheetah"):
        late = [u for u in run(name) if u["env_steps"] > 1e5]
        assert {u["mcpo_slot"] for u in late} == {39}
    alphas = [u["mcpo_alpha"] for u in run("halfcheetah")]
    tenth = len(alphas) // 10
    means = [statistics.mean(alphas[i * tenth :][:tenth]) for i in range(9)]
    said = f"from {means[0]:.4f} (mean of the first tenth) to {means[3]:.4f}"
    assert said in words("gallery.md") and max(means) == means[3]
    assert f"to {statistics.mean(alphas[9 * tenth :]):.4f} in the last tenth" in words("gallery.md")


def test_a_cost_above_its_bound_is_said(made):
    """Of MCPO alone, by processor time alone."""
    cost = importlib.import_module("mcpo_cost")

    def row(name, cpu, size, wall=1.0):
        ratio = {"update_cpu": cpu, "update_wall": wall}
        return {"method": name, "ratio": ratio, "memory_megabytes": size}

    held = [row("ppo", 1.0, 0.0), row("mcpo, N 40", cost.BOUND, cost.MEGABYTES, wall=9.0)]
    assert cost.exceeded(held) == []
    assert cost.exceeded([*held, row("mcpo, N 10", 3.01, 20.1)]) == [
        "mcpo, N 10 takes 3.01 times PPO's update (at most 3)",
        "mcpo, N 10 holds 20.1 MB (at most 20)",
    ]
