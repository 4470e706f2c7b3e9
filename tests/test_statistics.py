"""Statistics over seeds: by hand, by brute force, against rliable and by simulation."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from scipy import stats

from surefoot.experiments import statistics as st

ROOT = Path(__file__).resolve().parents[1]
RLIABLE = json.loads((ROOT / "tests" / "reference" / "rliable.json").read_text())
CASES = RLIABLE["cases"]
NAMES = [f"{c['seeds']}-seeds-{c['envs']}-envs" for c in CASES]


def scores(seeds, envs=1, shift=0.0, seed=0):
    """Normal scores of a method."""
    rng = np.random.default_rng([seed, seeds, envs])
    return [rng.standard_normal(seeds) + shift for _ in range(envs)]


# Values.


@pytest.mark.parametrize(
    ("name", "x", "value"),
    [
        ("iqm", [1, 2, 3], 2),  # nothing is cut
        ("iqm", [1, 2, 6, 9], 4),
        ("iqm", [0, 1, 2, 6, 100], 3),  # one is cut at either end
        ("iqm", [0, 0, 1, 2, 3, 4, 99, 99], 2.5),  # two are
        ("mean", [1, 2, 6], 3),
        ("median", [5, 1, 3], 3),
        ("median", [5, 1, 3, 4], 3.5),
    ],
)
def test_aggregates_by_hand(name, x, value):
    assert st.aggregate([np.array(x, float)], name) == pytest.approx(value)


def test_environments_count_the_same_however_many_seeds_they_have():
    two = [np.array([1.0, 3.0]), np.array([10.0, 10.0, 10.0, 10.0])]
    assert st.aggregate(two, "mean") == pytest.approx(6)
    assert st.pooled_iqm(two) == pytest.approx((10 * 3 + 3) / 4)  # 1 and one of the tens are cut


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 11, 20])
def test_aggregates_are_scipys_and_numpys(n):
    (x,) = scores(n)
    assert st.aggregate([x], "iqm") == pytest.approx(stats.trim_mean(x, 0.25), abs=1e-12)
    assert st.aggregate([x], "mean") == pytest.approx(x.mean(), abs=1e-12)
    assert st.aggregate([x], "median") == pytest.approx(np.median(x), abs=1e-12)


def test_improvement_by_hand():
    a, b = [np.array([1.0, 2.0, 3.0])], [np.array([2.0, 0.0])]
    assert st.improvement(a, b) == pytest.approx((0 + 1 + 0.5 + 1 + 1 + 1) / 6)
    u = stats.mannwhitneyu(a[0], b[0]).statistic
    assert st.improvement(a, b) == pytest.approx(u / 6)
    assert st.improvement(a, a) == 0.5
    assert st.improvement([*a, a[0]], [*b, a[0]]) == pytest.approx((0.75 + 0.5) / 2)


def test_spread_by_hand():
    assert st.spread(np.arange(101.0)) == pytest.approx(90)
    assert st.spread(np.array([4.0, 4.0, 4.0])) == 0


# rliable.


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_values_are_rliables(case):
    a, b = ([np.array(x) for x in case[m]] for m in "ab")
    assert st.pooled_iqm(a) == pytest.approx(case["iqm"]["value"], abs=1e-12)
    assert st.aggregate(a, "mean") == pytest.approx(case["mean"]["value"], abs=1e-12)
    assert st.improvement(a, b) == pytest.approx(case["improvement"]["value"], abs=1e-12)
    if case["envs"] == 1:
        assert st.aggregate(a, "iqm") == pytest.approx(case["iqm"]["value"], abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_percentile_intervals_are_rliables_to_the_error_of_drawing(case):
    a, b = ([np.array(x) for x in case[m]] for m in "ab")
    statistics = {
        "iqm": lambda **how: st.percentile(st.pooled_iqm, a, **how),
        "mean": lambda **how: st.percentile(lambda x: st.aggregate(x, "mean"), a, **how),
        "improvement": lambda **how: st.percentile(st.improvement, a, b, **how),
    }
    for name, ends in statistics.items():
        low, high = case[name]["interval"]
        # Quantiles of few scores jump, so not the ends are compared but where they lie among draws:
        # its 2.5 % quantile between our 2 % and our 3 % one.
        wide, narrow = (ends(level=level, draws=20_000) for level in (0.96, 0.94))
        slack = 1e-9
        assert wide[0] - slack <= low <= narrow[0] + slack, name
        assert narrow[1] - slack <= high <= wide[1] + slack, name


# The bootstrap variance and the calibration.


@pytest.mark.parametrize("name", st.AGGREGATES)
@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_the_bootstrap_variance_is_that_over_all_resamples(name, n):
    (x,) = scores(n, seed=3)
    every = x[np.array(list(itertools.product(range(n), repeat=n)))]
    brute = np.var(st.aggregate([every], name))
    assert st.bootstrap_variance(x, name) == pytest.approx(brute, rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_interval_of_the_mean_is_students(n):
    (x,) = scores(n, seed=4)
    got = st.estimate([x], "mean").interval(0.9)
    expected = stats.t.interval(0.9, n - 1, x.mean(), x.std(ddof=1) / np.sqrt(n))
    assert got == pytest.approx(expected, rel=1e-9)


def test_the_difference_of_means_is_welchs_test():
    (a,), (b,) = scores(4, seed=5), scores(7, seed=6)
    gap = st.difference([a], [b], "mean")
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert (gap.p_value(), gap.dof) == pytest.approx((welch.pvalue, welch.df), rel=1e-9)


@pytest.mark.parametrize("n", [4, 5, 10, 20])
def test_degrees_of_freedom_lie_between_those_of_the_middle_half_and_of_all(n):
    c, dof = st.calibration("iqm", n)
    assert 0.8 < c < 1.0
    assert n - 2 * (n // 4) - 1 <= dof <= n


def test_intervals_of_many_samples_at_once_are_those_of_each():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((6, 5)), rng.standard_normal((6, 4))
    together = st.difference([a, a], [b, 2 * b]).interval()
    for i in range(6):
        one = st.difference([a[i], a[i]], [b[i], 2 * b[i]]).interval()
        assert one == pytest.approx((together[0][i], together[1][i]), rel=1e-12)


# Properties.

SEVERAL = arrays(np.float64, some.integers(2, 9), elements=some.floats(-1e3, 1e3, width=32))


@settings(max_examples=50, deadline=None)
@given(SEVERAL, some.randoms(), some.sampled_from(st.AGGREGATES))
def test_the_order_of_seeds_does_not_matter(x, random, name):
    y = list(x)
    random.shuffle(y)
    a, b = st.estimate([x], name), st.estimate([np.array(y)], name)
    assert a.value == pytest.approx(b.value, abs=1e-9)
    assert a.se == pytest.approx(b.se, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(SEVERAL, some.floats(0.01, 100), some.floats(-1e3, 1e3), some.sampled_from(st.AGGREGATES))
def test_units_do_not_matter(x, scale, shift, name):
    a, b = st.estimate([x], name), st.estimate([scale * x + shift], name)
    size = max(1.0, scale) * 1e3
    assert b.value == pytest.approx(scale * a.value + shift, abs=1e-9 * size)
    assert b.se == pytest.approx(scale * a.se, abs=1e-6 * size)


@pytest.mark.parametrize("name", st.AGGREGATES)
@pytest.mark.parametrize("value", [0.1, 500.0, 481.3])
def test_equal_scores_are_themselves_exactly(name, value):
    got = st.estimate([np.full(7, value)], name)
    assert got.value == value and got.se == 0 and got.interval() == (value, value)


def test_the_studentised_interval_is_wider_than_the_percentile_one_at_few_seeds():
    x = scores(5, seed=7)
    low, high = st.estimate(x).interval()
    inner = st.percentile(st.pooled_iqm, x)
    assert low < inner[0] < inner[1] < high


def test_one_seed_has_no_interval():
    assert np.isnan(st.estimate([np.array([3.0])]).interval()[0])
    assert st.improvement_interval(1.0, [(1, 1)]) is None


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_the_interval_of_the_probability_of_improvement(p):
    low, high = st.improvement_interval(p, [(5, 5)])
    assert 0 <= low <= p <= high <= 1 and high - low > 0.2
    mirrored = st.improvement_interval(1 - p, [(5, 5)])
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-6)
    several = st.improvement_interval(p, [(5, 5)] * 4)
    assert several[1] - several[0] < high - low


# Verdicts.


def words(a, b, comparisons=1):
    return st.verdict(("ours", "theirs"), a, b, comparisons).words


def test_a_verdict_that_is_supported():
    a, b = scores(5, shift=5), scores(5, seed=1)
    assert words(a, b).startswith("ours > theirs is supported (95 % interval of the difference")
    assert "excludes 0" in words(a, b)
    assert words(b, a).startswith("ours < theirs is supported")
    v = st.verdict(("ours", "theirs"), a, b)
    assert v.decided and v.further is None and v.low > 0


def test_a_verdict_that_is_not_says_how_many_seeds_would_decide():
    a, b = scores(5, shift=1.5), scores(5, seed=1)
    v = st.verdict(("ours", "theirs"), a, b)
    assert not v.decided and v.low < 0 < v.high
    assert f"about {v.further} more seeds a method would decide (80 % power" in v.words


@pytest.mark.parametrize(("seeds", "lacking"), [(1, 2), (2, 1)])
def test_no_verdict_under_three_seeds_however_clear(seeds, lacking):
    v = st.verdict(("ours", "theirs"), scores(seeds, shift=1e6), scores(seeds, seed=1))
    assert not v.decided
    assert "no verdict" in v.words and f"at least {lacking} more" in v.words


def test_equal_methods_are_undecided_and_no_number_of_seeds_is_promised():
    x = scores(5)
    assert words(x, x).endswith("no difference was seen")
    y = [x[0] + 1e-6]
    assert "more than 1000 more seeds a method would be needed" in words(y, x)
    assert "undecided" in words([np.full(3, 500.0)], [np.full(4, 500.0)])


@pytest.mark.slow
def test_several_comparisons_share_the_error():
    a, b = scores(8, shift=1.25), scores(8, seed=1)
    one, four = (st.verdict(("ours", "theirs"), a, b, m) for m in (1, 4))
    assert four.level == pytest.approx(1 - 0.05 / 4)
    assert four.low < one.low and four.high > one.high
    assert "95 % for all 4 comparisons together" in words(scores(8, shift=9), b, 4)


def test_further_seeds_by_the_textbook():
    # Two groups, means 1 deviation apart: 17 a group give 80 % power to the t test of means; the
    # interquartile mean of normal scores needs about 1 / 0.85 as many.
    gap = st.Estimate(1.0, st._normal_errors(5)[0] * np.sqrt(2), 8.0)
    assert 5 + st.further_seeds(gap, 5) in range(19, 23)
    assert st.further_seeds(gap, 5, power=0.5) < st.further_seeds(gap, 5, power=0.9)


# Simulation; benchmarks/coverage.py does the same with more of everything.


@pytest.mark.parametrize("name", st.AGGREGATES)
@pytest.mark.parametrize(("envs", "seeds"), [(1, 3), (1, 5), (1, 10), (2, 5), (4, 3)])
def test_intervals_hold_the_truth_as_often_as_they_say(name, envs, seeds):
    rng = np.random.default_rng([envs, seeds])
    x = [s * rng.standard_normal((20_000, seeds)) for s in (1.0, 1.0, 0.3, 3.0)[:envs]]
    low, high = st.estimate(x, name).interval()
    assert 93 <= 100 * np.mean((low <= 0) & (high >= 0)) <= 97


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equal_methods_are_told_apart_no_more_often_than_said(seeds):
    rng = np.random.default_rng(seeds)
    a, b = rng.standard_normal((2, 20_000, seeds))
    low, high = st.difference([a], [b]).interval()
    assert 3 <= 100 * np.mean((low > 0) | (high < 0)) <= 5.5


def test_the_percentile_bootstrap_does_not_at_three_seeds():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 3))
    index = rng.integers(0, 3, (500, 3))
    low, high = np.quantile(st.aggregate([x[:, index]]), [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.8


# What benchmarks/coverage.py found.

COVERAGE = json.loads((ROOT / "benchmarks" / "results" / "coverage.json").read_text())


@pytest.mark.parametrize("name", st.AGGREGATES)
def test_the_committed_coverage_is_within_two_points_for_normal_scores(name):
    row = COVERAGE["intervals"]["result"][f"{name} normal"]
    assert len(row) == 12 and all(93 <= share <= 97 for share in row.values())


def test_the_committed_rates_of_false_verdicts():
    made_up = COVERAGE["verdicts"]["result"]
    assert all(share <= 6 for row in made_up.values() for share in row.values())
    assert all(share >= 3 for share in made_up["normal"].values())
    learnt = COVERAGE["learnt"]["result"]["45000 steps"]
    assert all(share <= 6 for share in learnt["ppo against itself, called different"].values())
    assert learnt["ppo called better than with flips"]["20 seeds"] > 90


TOLD_APART = """
import dataclasses, importlib.util, sys
from surefoot.experiments.statistics import verdict
from surefoot.presets import choose

spec = importlib.util.spec_from_file_location("coverage", sys.argv[1])
coverage = importlib.util.module_from_spec(spec)
sys.modules["coverage"] = coverage
spec.loader.exec_module(coverage)
base = dataclasses.replace(choose("ppo", "jax:Pendulum-v1"), steps=45_000)
flipped = dataclasses.replace(base, method=coverage.Flipped(base.method))
# Sixteen go in one vmap: a number that is no multiple of it is compiled twice.
ours, worse = (
    coverage.trained(config, seeds, seed, (45_000,))[:, 0]
    for config, seeds, seed in ((base, 32, 11), (flipped, 16, 13))
)
print(verdict(("ppo", "flipped"), [ours], [worse]).words)
print(verdict(("ppo", "ppo"), [ours[:16]], [ours[16:]]).words)
"""


@pytest.mark.learn
def test_ppo_with_the_sign_of_one_advantage_in_ten_flipped_is_found_worse_and_ppo_is_not():
    environ = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # tests compile unoptimised
    script = [sys.executable, "-c", TOLD_APART, str(ROOT / "benchmarks" / "coverage.py")]
    done = subprocess.run(script, capture_output=True, text=True, env=environ, check=True)
    worse, itself = done.stdout.splitlines()
    assert worse.startswith("ppo > flipped is supported")
    assert itself.startswith("ppo against ppo: undecided")
