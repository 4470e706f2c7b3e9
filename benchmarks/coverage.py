"""Are the intervals and verdicts of `surefoot compare` right as often as they say? By simulation.

    python benchmarks/coverage.py                    # every part below, about fifteen minutes
    python benchmarks/coverage.py intervals          # how often an interval holds the truth
    python benchmarks/coverage.py verdicts           # how often equal methods are told apart
    python benchmarks/coverage.py improvement        # the same for the probability of improvement
    python benchmarks/coverage.py power              # whether `further seeds` decide so often
    python benchmarks/coverage.py learnt             # on trained runs: PPO, itself, and a worse PPO

Each part replaces its key in benchmarks/results/coverage.json. Scores are drawn from: a normal; a
gamma of shape 4 (mildly skewed); a mixture in which a run in four fails, four deviations below the
others; Student's t with 3 degrees of freedom (outliers); a log-normal of deviation 1 (heavily
skewed, where nothing is promised). In several environments their deviations differ by up to ten.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import dataclasses
import functools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from surefoot.experiments import statistics as st

OUT = Path(__file__).resolve().parent / "results" / "coverage.json"
REPEATS = 20_000
"""Experiments a cell of a table: the error of a share near 95 % is 0.15 points."""
CELLS = [(k, n) for k in (1, 2, 4) for n in (3, 5, 10, 20)]
"""(environments, seeds)."""
SCALES = (1.0, 1.0, 0.3, 3.0)
"""Deviations of the environments."""

DRAW = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "gamma": lambda rng, shape: (rng.gamma(4.0, size=shape) - 4) / 2,
    "failing": lambda rng, shape: rng.standard_normal(shape) - 4 * (rng.random(shape) < 0.25),
    "outliers": lambda rng, shape: rng.standard_t(3, size=shape),
    "lognormal": lambda rng, shape: np.exp(rng.standard_normal(shape)),
}


@functools.cache
def truth(name: str, kind: str) -> float:
    """An aggregate of the distribution itself, from four million draws."""
    x = np.sort(DRAW[kind](np.random.default_rng(1), 4_000_000))
    n = len(x)
    return float(
        {"mean": x, "iqm": x[n // 4 : 3 * n // 4], "median": x[n // 2 : n // 2 + 1]}[name].mean()
    )


def draw(rng: Any, kind: str, k: int, n: int, factor: float = 1.0) -> list[np.ndarray]:
    """Scores of a method, one array [repeats, seeds] an environment."""
    return [factor * s * DRAW[kind](rng, (REPEATS, n)) for s in SCALES[:k]]


def percent(holds: Any) -> float:
    return round(100 * float(np.mean(holds)), 2)


def intervals() -> dict[str, Any]:
    """Share of 95 % intervals that hold the truth, and the same of the percentile bootstrap."""
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {}
    for name in st.AGGREGATES:
        for kind in DRAW:
            row = {}
            for k, n in CELLS:
                x = draw(rng, kind, k, n)
                low, high = st.estimate(x, name).interval()
                t = truth(name, kind) * np.mean(SCALES[:k])
                row[cell(k, n)] = percent((low <= t) & (t <= high))
            out[f"{name} {kind}"] = row
    out["percentile bootstrap, iqm normal"] = {
        cell(1, n): percentile_coverage(rng, n) for n in (3, 5, 10, 20)
    }
    return out


def percentile_coverage(rng: Any, n: int, repeats: int = 4000, draws: int = 1000) -> float:
    """The percentile interval of the interquartile mean of normal scores."""
    x = rng.standard_normal((repeats, n))
    index = rng.integers(0, n, (draws, n))
    low, high = np.quantile(st.aggregate([x[:, index]]), [0.025, 0.975], axis=1)
    return percent((low <= 0) & (high >= 0))


def cell(k: int, n: int) -> str:
    return f"{k} env{'s' if k > 1 else ''}, {n} seeds"


def verdicts() -> dict[str, Any]:
    """Share of comparisons of equal methods in which a difference is called supported; nominal 5 %.

    Also with the second method three times as spread out as the first (their truths still equal),
    and over three comparisons with one baseline, any of which may be wrong.
    """
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {}
    for kind in DRAW:
        for label, factor in (("", 1.0), (", spread 1 to 3", 3.0)):
            row = {}
            for k, n in CELLS:
                a, b = draw(rng, kind, k, n), draw(rng, kind, k, n, factor)
                shift = truth("iqm", kind) * (1 - factor)
                b = [y + s * shift for y, s in zip(b, SCALES, strict=False)]
                row[cell(k, n)] = percent(wrong(a, b, st.LEVEL))
            out[f"{kind}{label}"] = row
    for n in (3, 5, 10):
        base = draw(rng, "normal", 1, n)
        each = 1 - (1 - st.LEVEL) / 3
        any_wrong = [wrong(draw(rng, "normal", 1, n), base, each) for _ in range(3)]
        out.setdefault("normal, three methods against one", {})[cell(1, n)] = percent(
            np.any(any_wrong, axis=0)
        )
    return out


def wrong(a: st.Scores, b: st.Scores, level: float) -> Any:
    """Where the interval of the difference excludes zero."""
    low, high = st.difference(a, b).interval(level)
    return (low > 0) | (high < 0)


def improvement() -> dict[str, Any]:
    """Share of 95 % intervals of the probability of improvement that hold it, normal scores.

    Few seeds give few possible values (ten at three seeds), so no interval can be exact there.
    """
    from scipy import stats

    rng = np.random.default_rng(0)
    out: dict[str, Any] = {}
    for shift, spread in ((0, 1), (0, 3), (1, 1), (1, 3), (2, 1)):
        t = float(stats.norm.cdf(shift / np.hypot(1, spread)))
        row = {}
        for k, n in CELLS:
            a = [rng.standard_normal((REPEATS, n)) + shift for _ in range(k)]
            b = [rng.standard_normal((REPEATS, n)) * spread for _ in range(k)]
            values, count = np.unique(np.round(st.improvement(a, b), 9), return_counts=True)
            ends = [st.improvement_interval(float(p), [(n, n)] * k) for p in values]
            holds = [low - 1e-9 <= t <= high + 1e-9 for low, high in ends]
            row[cell(k, n)] = round(100 * float(np.dot(holds, count)) / REPEATS, 2)
        out[f"truth {t:.2f}, spread 1 to {spread}"] = row
    return out


def power() -> dict[str, Any]:
    """Whether as many seeds as `further_seeds` names decide in 80 % of experiments, if the
    difference and the spread are as seen: normal scores, differences in deviations."""
    rng = np.random.default_rng(0)
    out = {}
    for gap in (0.5, 1.0, 1.5, 2.0):
        for n in (3, 5, 10):
            c, dof = st.calibration("iqm", n)
            variance = float(
                np.mean(st.bootstrap_variance(rng.standard_normal((REPEATS, n)), "iqm"))
            )
            seen = st.Estimate(gap, np.sqrt(2 * c * variance), 2 * dof)
            more = st.further_seeds(seen, n)
            if more is None or more == 1:
                continue
            total = n + more
            a = [rng.standard_normal((REPEATS, total)) + gap]
            found = wrong(a, [rng.standard_normal((REPEATS, total))], st.LEVEL)
            out[f"difference {gap} at {n} seeds"] = {"seeds": total, "decided": percent(found)}
    return out


# On trained runs.


@dataclass(frozen=True)
class Flipped:
    """A method that gets the sign of some advantages wrong: what a bug in an index might do."""

    first_order: ClassVar[bool] = True
    promise: ClassVar[str] = "none"

    inner: Any
    share: float = 0.1
    """Share of rows whose advantage has its sign flipped, drawn anew in every update."""

    def init(self, policy: Any, key: Any) -> Any:
        return self.inner.init(policy, key)

    def update(self, policy: Any, state: Any, batch: Any, key: Any, *, penalty: Any) -> Any:
        import jax
        import jax.numpy as jnp

        k_flip, key = jax.random.split(key)
        flipped = jax.random.bernoulli(k_flip, self.share, batch.advantage.shape)
        advantage = jnp.where(flipped, -batch.advantage, batch.advantage)
        batch = dataclasses.replace(batch, advantage=advantage)
        return self.inner.update(policy, state, batch, key, penalty=penalty)


def trained(
    config: Any, seeds: int, first: int, at: tuple[int, ...], together: int = 16
) -> np.ndarray:
    """Mean return of the last 100 training episodes after `at` environment steps, [seeds, at], of
    runs of which `together` go in one vmap."""
    import jax

    import surefoot as sf
    from surefoot import envs
    from surefoot.loops import iteration

    init, _ = sf.build(config.method, config.env, config=config, steps=config.steps)
    env = envs.make(config.env, config.num_envs)

    def one(state: Any, _: Any) -> Any:
        ts, env_state, _, ended, *_ = iteration(
            config.algorithm, env, config.rollout_steps, state.train, state.envs
        )
        return type(state)(ts, env_state), (ended.ended, ended.episode_return)

    def whole(key: Any) -> Any:
        return jax.lax.scan(one, init(key), None, length=config.updates)[1]

    many = jax.jit(jax.vmap(whole))
    keys = jax.random.split(jax.random.key(first), seeds)
    updates = [-(-steps // config.rows) for steps in at]
    scores = []
    for i in range(0, seeds, together):
        for ended, returns in zip(*jax.device_get(many(keys[i : i + together])), strict=True):
            scores.append([returns[:u][ended[:u]][-100:].mean() for u in updates])
    return np.array(scores, float)


LEARNT_ENV, LEARNT_AT = "jax:Pendulum-v1", (45_000, 75_000)
POOL, WORSE = 128, 64


def learnt() -> dict[str, Any]:
    """PPO by its preset on Pendulum against itself, and against PPO with the sign of one advantage
    in ten flipped: in the middle of learning, and where most runs are done and some have failed."""
    from surefoot.config import to_json
    from surefoot.presets import choose

    base = dataclasses.replace(choose("ppo", LEARNT_ENV), steps=LEARNT_AT[-1])
    flipped = dataclasses.replace(base, method=Flipped(base.method))
    pool = trained(base, POOL, 1, LEARNT_AT)
    worse = trained(flipped, WORSE, 2, LEARNT_AT)
    return {
        "env": LEARNT_ENV,
        "draws": f"{REPEATS} draws of disjoint groups from {POOL} and {WORSE} trained seeds",
        "settings": to_json(base),
        **{f"{s} steps": told_apart(pool[:, i], worse[:, i]) for i, s in enumerate(LEARNT_AT)},
    }


def told_apart(pool: np.ndarray, worse: np.ndarray) -> dict[str, Any]:
    """How often groups of seeds are told apart, from scores [seeds] of PPO and of a worse PPO."""
    rng = np.random.default_rng(0)
    itself, found = {}, {}
    for n in (3, 5, 10, 20, 30):
        picked = np.argsort(rng.random((REPEATS, POOL)), axis=1)[:, : 2 * n]
        a, b = pool[picked[:, :n]], pool[picked[:, n:]]
        itself[f"{n} seeds"] = percent(wrong([a], [b], st.LEVEL))
        other = worse[np.argsort(rng.random((REPEATS, WORSE)), axis=1)[:, :n]]
        low, _ = st.difference([a], [other]).interval()
        found[f"{n} seeds"] = percent(low > 0)
    names = ("ppo", "ppo with one advantage in ten flipped")
    return {
        "ppo against itself, called different": itself,
        "ppo called better than with flips": found,
        f"verdict on {WORSE} seeds": st.verdict(names, [pool[:WORSE]], [worse]).words,
        "scores of ppo": np.round(pool, 2).tolist(),
        "scores with flips": np.round(worse, 2).tolist(),
    }


PARTS = {f.__name__: f for f in (intervals, verdicts, improvement, power, learnt)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parts = parser.parse_args().parts or list(PARTS)
    from surefoot.provenance import environment

    for name in parts:
        start = time.perf_counter()
        got = PARTS[name]()
        found = json.loads(OUT.read_text()) if OUT.exists() else {}
        found["command"] = "python benchmarks/coverage.py"
        found["repeats"] = REPEATS
        found[name] = {"seconds": round(time.perf_counter() - start), **environment()} | {
            "result": got
        }
        OUT.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {found[name]['seconds']} s", file=sys.stderr)


if __name__ == "__main__":
    main()
