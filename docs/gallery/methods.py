"""The picture of this library: one batch, one update of every method, and the KL ball round the
old policy. Left, three arms: a policy is a point of the triangle. Right, one Gaussian action: a
policy is a mean and a log sigma.

    python docs/gallery/methods.py [--out docs/gallery]

The star is the best policy in the ball, by the exact room. Every method of the table `METHODS` is
here, with its own defaults but one: where it has a `max_kl` or a `target_kl`, that is the radius of
the ball. `inside` is empty where nothing is promised; a promise about a projection is about
that, and the network that lands here may be outside.
"""

import dataclasses
import importlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

# Compiling is all it does. Read when the backend starts; another jax may not know the second flag.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jax").startswith("0.10."),
)

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _sheet import GREY, columns, main

from surefoot.exact.ball import maximise_in_ball
from surefoot.measure import measure, projection_share
from surefoot.methods import METHODS
from surefoot.networks import Networks
from surefoot.types import PROMISES, Batch, EnvSpec, bound_of

RADIUS, ROWS = 0.02, 1024
OLD, PAY = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 0.3])
EXACT = "exact optimum"
BEST = 1.5
"""The Gaussian's best action; it begins at N(0, 1)."""
MARKS = "osD^v<>pPXhd*8H"


def policy(panel):
    """A fresh network whose one state has the old policy."""
    discrete = panel == "simplex"
    spec = EnvSpec("picture", "probe", 1, 1, 3 if discrete else 1, discrete)
    new, _ = Networks(head_gain=0.0).init(spec, 0)
    if discrete:
        new.head.logits.bias[:] = np.log(OLD)
    return jax.tree.map(jnp.asarray, new)


def batch(panel, old):
    """One batch for everybody: noisy pay, standardised."""
    rng = np.random.default_rng(0)
    obs = jnp.ones((ROWS, 1))
    dist = old(obs)
    if panel == "simplex":
        action = rng.choice(3, ROWS, p=OLD).astype(np.int32)
        pay = PAY[action]
    else:
        action = rng.standard_normal((ROWS, 1)).astype(np.float32)
        pay = -((action[:, 0] - BEST) ** 2)
    pay = pay + 0.3 * rng.standard_normal(ROWS)
    a = jnp.asarray((pay - pay.mean()) / pay.std(), jnp.float32)
    one, action = jnp.ones(ROWS), jnp.asarray(action)
    return Batch(
        obs=obs, action=action, log_prob=dist.log_prob(action), old=dist, advantage=a,
        value_target=a, value=0 * one, mask=one > 0, progress=jnp.zeros(()),
    )  # fmt: skip


def method(name):
    """A method of the table with the ball's radius as its bound."""
    entry = METHODS[name]
    made = getattr(importlib.import_module(entry.module), entry.record)()
    fields = {f.name for f in dataclasses.fields(made)} & {"max_kl", "target_kl"}
    known = {f: RADIUS for f in fields if isinstance(getattr(made, f), float)}
    return dataclasses.replace(made, **known)


def inside(update, new, data, info):
    """Whether a promise is kept: None where there is none."""
    if update.promise == "none":
        return None
    if update.promise == "projection":  # of another distribution than the one that lands here
        return projection_share(update, data, new, info) <= bound_of(update)
    return measure(data, new)[PROMISES[update.promise]] <= bound_of(update)


def place(panel, dist):
    """Where a policy is: three probabilities, or mean and log sigma."""
    if panel == "simplex":
        weight = np.exp(np.asarray(dist.logits[0], float))
        return weight / weight.sum()
    return np.array([dist.mean[0, 0], dist.log_std[0, 0], np.nan], float)


def landings(panel):
    """Where every method lands in a panel."""
    old, out = policy(panel), []
    data = batch(panel, old)
    for name in METHODS:
        update = method(name)

        @jax.jit
        def go(p, data, update=update):
            key = jax.random.key(0)
            new, _, info = update.update(p, update.init(p, key), data, key)
            dist, kept = new(data.obs), inside(update, new, data, info)
            return dist, data.old.kl(dist)[0], kept

        dist, kl, kept = go(old, data)
        p = place(panel, dist)
        out.append({
            "panel": panel, "method": name, "promise": update.promise,
            "kl": float(kl), "x": p[0], "y": p[1], "z": p[2],
            "inside": "" if kept is None else ("yes" if kept else "no"),
        })  # fmt: skip
    return out


def rows():
    """Both panels, compiled side by side, and the exact optimum."""
    with ThreadPoolExecutor(2) as pool:
        out = [row for part in pool.map(landings, ("simplex", "gaussian")) for row in part]
    best = maximise_in_ball(OLD, PAY, np.array(RADIUS)).policy
    out.append({"panel": "simplex", "method": EXACT, "promise": "max_kl", "kl": RADIUS,
                "x": best[0], "y": best[1], "z": best[2], "inside": "yes"})  # fmt: skip
    return out


def corner(p):
    """Probabilities [..., 3] as points of the triangle."""
    return np.stack([p[..., 1] + 0.5 * p[..., 2], np.sqrt(0.75) * p[..., 2]], -1)


def simplex_edge():
    """Where KL(old || new) is the radius, for policies of three arms."""
    angle = np.linspace(0, 2 * np.pi, 181)
    way = np.stack([np.cos(angle), np.sin(angle)], -1) @ np.array([[1, -1, 0], [1, 1, -2]])
    low = np.zeros(len(angle))
    high = np.min(np.where(way < 0, OLD / np.where(way < 0, -way, 1), np.inf), -1)  # the triangle's
    for _ in range(50):
        t = (low + high) / 2
        p = OLD + t[:, None] * way
        near = np.sum(OLD * np.log(OLD / p), -1) < RADIUS
        low, high = np.where(near, t, low), np.where(near, high, t)
    return corner(OLD + low[:, None] * way)


def gaussian_edge():
    """The same round N(0, 1): KL = log sigma + (1 + mean^2) / (2 sigma^2) - 1/2."""
    s = np.linspace(-0.2, 0.2, 4001)
    square = 2 * np.exp(2 * s) * (RADIUS + 0.5 - s) - 1
    s, mean = s[square >= 0], np.sqrt(square[square >= 0])
    return np.stack([np.r_[mean, -mean[::-1], mean[0]], np.r_[s, s[::-1], s[0]]], -1)


def draw(plt, table):
    """Both panels, with a mark for each method."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.2), layout="constrained")
    colours = plt.get_cmap("tab20").colors
    left.fill(*simplex_edge().T, color="#1b6ca8", alpha=0.12, lw=0)
    left.plot(*simplex_edge().T, color="#1b6ca8", lw=1)
    right.fill(*gaussian_edge().T, color="#1b6ca8", alpha=0.12, lw=0)
    right.plot(*gaussian_edge().T, color="#1b6ca8", lw=1)
    left.plot(*corner(OLD), "k+", ms=12)
    right.plot(0, 0, "k+", ms=12)
    for i, name in enumerate(METHODS):
        (x,), (y,), (z,), (promise,) = columns(
            table, "x", "y", "z", "promise", panel="simplex", method=name
        )
        style = {"marker": MARKS[i % len(MARKS)], "ls": "none", "ms": 7, "mec": "k", "mew": 0.5}
        style |= {"color": colours[i % 20], "alpha": 0.9}
        left.plot(*corner(np.array([x, y, z])), **style)
        (x,), (y,) = columns(table, "x", "y", panel="gaussian", method=name)
        word = {"none": "", "projection": " (its projection is inside)"}.get(promise, " (promises)")
        right.plot(x, y, **style, label=name + word)
    best = columns(table, "x", "y", "z", panel="simplex", method=EXACT)
    left.plot(*corner(np.array(best)[:, 0]), "k*", ms=9, label="the best in the ball, exactly")
    left.legend(fontsize=7, loc="lower right")
    spot = corner(OLD)
    left.set(xlim=(spot[0] - 0.13, spot[0] + 0.2), ylim=(spot[1] - 0.13, spot[1] + 0.13))
    left.set(aspect="equal", xticks=[], yticks=[], title=f"three arms: KL(old, new) <= {RADIUS}")
    whole = left.inset_axes([0.02, 0.72, 0.3, 0.26])
    whole.plot(*corner(np.eye(3)[[0, 1, 2, 0]]).T, "k", lw=0.8)
    whole.fill(*simplex_edge().T, color="#1b6ca8", alpha=0.6, lw=0)
    for i, arm in enumerate(("worst arm", "best arm", "middling arm")):
        whole.annotate(arm, corner(np.eye(3)[i]), fontsize=6, ha="center", color=GREY)
    whole.set(aspect="equal", ylim=(-0.05, 1.0))
    whole.axis("off")
    right.set(xlabel="mean", ylabel="log sigma", title=f"one Gaussian action, best at {BEST}")
    marks = right.get_legend_handles_labels()
    figure.legend(*marks, loc="outside lower center", ncols=6, fontsize=7)
    return figure


if __name__ == "__main__":
    main(__file__, __doc__, rows, draw)
