"""rliable's numbers on made-up scores, for tests/test_statistics.py.

    make .venvs/rliable/.done
    .venvs/rliable/bin/python benchmarks/peers/check_rliable.py

It writes tests/reference/rliable.json.

Scores of two methods on one, two and three environments, with ties and with runs that fail; of each
its interquartile mean, mean and probability of improvement with percentile intervals of the
stratified bootstrap, 50 000 draws (rliable's default; 5 000 for the probability, which is slow).
rliable 1.2.0 resamples with NumPy's global generator, which is seeded here.
"""

import json
import platform
from importlib import metadata
from pathlib import Path

import numpy as np
from rliable import library, metrics

OUT = Path(__file__).resolve().parents[2] / "tests" / "reference" / "rliable.json"
DRAWS, SLOW_DRAWS = 50_000, 5_000
SHAPES = [(3, 1), (5, 1), (8, 1), (10, 1), (5, 2), (4, 3), (10, 3)]
"""(seeds, environments)."""


def scores(seeds: int, envs: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two methods, [seeds, environments], rounded so that some tie."""
    rng = np.random.default_rng(100 * seeds + envs)
    a = rng.normal(0.7, 0.15, (seeds, envs)) - 0.5 * (rng.random((seeds, envs)) < 0.15)
    b = rng.normal(0.6, 0.10, (seeds, envs))
    return a.round(2), b.round(2)


def case(seeds: int, envs: int) -> dict:
    """One pair of methods and what rliable says of it."""
    a, b = scores(seeds, envs)
    out: dict = {"a": a.T.tolist(), "b": b.T.tolist(), "seeds": seeds, "envs": envs}
    for name, f in (("iqm", metrics.aggregate_iqm), ("mean", metrics.aggregate_mean)):
        points, ends = estimates({"a": a}, lambda x, f=f: np.array([f(x)]))
        out[name] = {"value": points["a"][0], "interval": ends["a"][:, 0].tolist()}
    points, ends = estimates(
        {"a": (a, b)},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        SLOW_DRAWS,
    )
    out["improvement"] = {"value": points["a"][0], "interval": ends["a"][:, 0].tolist()}
    return out


def estimates(score_dict: dict, statistic, draws: int = DRAWS) -> tuple[dict, dict]:
    """rliable's points and intervals."""
    np.random.seed(0)
    return library.get_interval_estimates(score_dict, statistic, reps=draws)


def main() -> None:
    packages = ("rliable", "arch", "numpy", "scipy", "pandas")
    record = {
        "command": "python benchmarks/peers/check_rliable.py",
        "versions": {"python": platform.python_version()}
        | {p: metadata.version(p) for p in packages},
        "draws": {"iqm": DRAWS, "mean": DRAWS, "improvement": SLOW_DRAWS},
        "cases": [case(*shape) for shape in SHAPES],
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(SHAPES)} cases in {OUT.name}")


if __name__ == "__main__":
    main()
