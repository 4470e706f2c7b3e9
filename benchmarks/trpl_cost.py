"""What a projection costs: the time of an update of TRPL and PAPI over that of PPO, at the same
number of gradient steps, batch and network, in one process and in turn; medians of repeats.

    python benchmarks/trpl_cost.py [--repeats 15] [--out benchmarks/results/trpl_cost.json]

2048 rows of 17 observations and 6 actions (8 choices where they are discrete), 64 x 64 tanh, 20
epochs of 32 minibatches = 640 gradient steps. At the published rate (5e-5) few states are outside
their ball after one update, at 1e-3 most are: both are timed, `outside` is the share at the end.
`update` is the method alone, `learn` the whole update with critic, advantages and ruler.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from surefoot import (
    PAPI,
    PPO,
    SGD,
    TRPL,
    Algorithm,
    FrobeniusMetric,
    KLMetric,
    Networks,
    ValueFit,
    WassersteinMetric,
)
from surefoot.advantages import GAE
from surefoot.train import init_state, learn_jit
from surefoot.types import EnvSpec, Rollout

STEPS, ENVS = 256, 8
CASES = [
    ("kl", KLMetric(), {}, False),
    ("wasserstein", WassersteinMetric(), {}, False),
    ("frobenius", FrobeniusMetric(), {}, False),
    ("kl, categorical", KLMetric(), {}, True),
    ("kl, sigma by state", KLMetric(), {"state_dependent_std": True}, False),
    ("kl, full covariance", KLMetric(), {"full_covariance": True}, False),
    (
        "kl, full covariance by state",
        KLMetric(),
        {"full_covariance": True, "state_dependent_std": True},
        False,
    ),
]


def rollout(discrete: bool) -> Rollout:
    """Random observations, actions and rewards; no episode ends."""
    rng = np.random.default_rng(0)
    shape = (STEPS, ENVS)
    action = rng.integers(0, 8, shape) if discrete else rng.normal(size=(*shape, 6)).astype("f")
    no = np.zeros(shape, bool)
    return Rollout(
        rng.normal(size=(STEPS + 1, ENVS, 17)).astype("f"),
        action,
        rng.normal(size=shape).astype("f"),
        no,
        no,
        ~no,
    )


def seconds(call) -> float:
    """Of one call, to its end."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def calls(method, networks: Networks, discrete: bool):
    """Two functions without arguments: the method's update, and the whole of `learn`."""
    spec = EnvSpec("bench", "probe", ENVS, 17, 8 if discrete else 6, discrete)
    advantage = GAE(normalize="minibatch")
    algo = Algorithm(method, ValueFit(SGD(lr=4.5e-4, epochs=10, minibatches=32)), advantage)
    ts = jax.tree.map(jnp.asarray, init_state(algo, networks, spec, 0, 100, normalize_obs=False))
    data = jax.tree.map(jnp.asarray, rollout(discrete))
    batch = jax.jit(lambda: advantage(data, ts.policy, ts.critic, ts.progress))()
    step = jax.jit(lambda p, s, b: method.update(p, s, b, ts.key))
    info = step(ts.policy, ts.method_state, batch)[2]
    outside = float(info.get("trpl_outside", 0))
    update = lambda: step(ts.policy, ts.method_state, batch)  # noqa: E731
    whole = lambda: learn_jit(algo, ts, data, None)  # noqa: E731
    jax.block_until_ready(whole())
    return update, whole, outside


def measure(name: str, methods: dict, networks: Networks, discrete: bool, repeats: int) -> list:
    """A row a method; the first is the one the others are compared with."""
    made = {k: calls(m, networks, discrete) for k, m in methods.items()}
    times = {k: ([], []) for k in methods}
    for _ in range(repeats):
        for key, (update, whole, _) in made.items():
            times[key][0].append(seconds(update))
            times[key][1].append(seconds(whole))
    base = times[next(iter(methods))]
    rows = []
    for key, (update, whole) in times.items():
        ratio = lambda a, b: statistics.median(x / y for x, y in zip(a, b, strict=True))  # noqa: E731
        rows.append(
            {
                "case": name,
                "method": key,
                "update_ms": round(1000 * statistics.median(update), 2),
                "update_ratio": round(ratio(update, base[0]), 3),
                "learn_ms": round(1000 * statistics.median(whole), 2),
                "learn_ratio": round(ratio(whole, base[1]), 3),
                "outside": made[key][2],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    default = Path(__file__).resolve().parent / "results" / "trpl_cost.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    rows = []
    for name, metric, shape, discrete in CASES:
        methods = {}
        for lr in (5e-5, 1e-3):
            sgd = SGD(lr=lr, epochs=20, minibatches=32, max_grad_norm=None)
            if not methods:
                methods["ppo"] = PPO(sgd=sgd)
            methods[f"trpl lr {lr:g}"] = TRPL(metric, sgd=sgd)
        if name == "kl":
            methods["papi lr 0.001"] = PAPI(sgd=sgd)
        rows += measure(name, methods, Networks(**shape), discrete, args.repeats)
    record = {
        "command": f"python benchmarks/trpl_cost.py --repeats {args.repeats}",
        "machine": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "backend": jax.default_backend(),
            "python": platform.python_version(),
            "jax": jax.__version__,
        },
        "repeats": args.repeats,
        "rows": rows,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
