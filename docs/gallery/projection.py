"""The picture of one projection: a Gaussian in the (mean, log sigma) plane, and three actions on
the simplex.

    python docs/gallery/projection.py [--out docs/gallery]

Writes projection.csv (every arrow: where a distribution was and where it landed) and, where
matplotlib is installed, projection.svg.
"""

import argparse
import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from surefoot import FrobeniusMetric, KLMetric, WassersteinMetric, project
from surefoot.distributions import Categorical, DiagGaussian

METRICS = {"kl": KLMetric(), "wasserstein": WassersteinMetric(), "frobenius": FrobeniusMetric()}
MEAN_BOUND, COV_BOUND, SIMPLEX_BOUND = 0.1, 0.05, 0.08
OLD = np.array([0.5, 0.3, 0.2])
COLOURS = {"kl": "#1b6ca8", "wasserstein": "#c8553d", "frobenius": "#588157"}


def gaussians() -> list[dict]:
    """One row an arrow: 16 Gaussians round N(0, 1), projected in every metric."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False) + 0.1
    raw = np.stack([1.1 * np.cos(angle), 0.75 * np.sin(angle)], -1)
    new = DiagGaussian(jnp.asarray(raw[:, :1]), jnp.asarray(raw[:, 1:]))
    old = jax.tree.map(jnp.zeros_like, new)
    rows = []
    for name, metric in METRICS.items():
        near = project(new, old, metric, MEAN_BOUND, COV_BOUND)
        landed = np.concatenate([near.mean, near.log_std], -1)
        for a, b in zip(raw, landed, strict=True):
            rows.append({"panel": "gaussian", "metric": name, "from": a, "to": b})
    return rows


def categoricals() -> list[dict]:
    """One row an arrow: twelve policies over three actions, projected into the KL ball round the
    old one."""
    edge = [(1 - w, w) for w in (0.12, 0.37, 0.63, 0.88)]
    corners = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    raw = np.array([[0.92 * np.eye(3)[i] * a + 0.92 * np.eye(3)[j] * b + 0.08 * np.eye(3)[k]]
                    for i, j, k in corners for a, b in edge])[:, 0]  # fmt: skip
    new = Categorical(jnp.log(jnp.asarray(raw)))
    old = Categorical(jnp.log(jnp.tile(OLD, (len(raw), 1))))
    landed = np.exp(project(new, old, KLMetric(), SIMPLEX_BOUND).log_p)
    return [
        {"panel": "simplex", "metric": "kl", "from": a, "to": b}
        for a, b in zip(raw, landed, strict=True)
    ]


def box(metric) -> np.ndarray:
    """The edge of the region of a Gaussian: where far means, and far sigmas, land."""
    far = jnp.asarray([[9.0, 0.0], [0.0, -3.0], [0.0, 3.0]])
    new = DiagGaussian(far[:, :1], far[:, 1:])
    near = project(new, jax.tree.map(jnp.zeros_like, new), metric, MEAN_BOUND, COV_BOUND)
    x, low, high = float(near.mean[0, 0]), *(float(y) for y in near.log_std[1:, 0])
    return np.array([[-x, low], [x, low], [x, high], [-x, high], [-x, low]])


def corner(p: np.ndarray) -> np.ndarray:
    """Probabilities [..., 3] as points of the triangle."""
    return np.stack([p[..., 1] + 0.5 * p[..., 2], np.sqrt(0.75) * p[..., 2]], -1)


def draw(rows: list[dict], path: Path) -> None:
    """Both panels."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "surefoot", "svg.fonttype": "none"}  # the same bytes
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for row in rows:
        first = row["panel"] == "gaussian"
        axes, at = (left, lambda x: x) if first else (right, corner)
        colour = COLOURS[row["metric"]]
        a, b = at(row["from"]), at(row["to"])
        if first:
            path_points = np.stack([a, b])
        else:  # the segment in logits is a curve of probabilities
            t = np.linspace(0, 1, 20)[:, None]
            p = row["to"] ** (1 - t) * row["from"] ** t
            path_points = corner(p / p.sum(-1, keepdims=True))
        axes.plot(*path_points.T, color=colour, lw=0.8, alpha=0.6)
        axes.plot(*a, "o", color="#999999", ms=4)
        axes.plot(*b, "o", color=colour, ms=4)
    for name, colour in COLOURS.items():
        left.plot([], [], "o", color=colour, label=name)
        left.plot(*box(METRICS[name]).T, color=colour, lw=0.8, ls="dashed")
    left.plot(0, 0, "k*", ms=10)
    left.set(xlabel="mean", ylabel="log sigma", title="a Gaussian: bounds apart")
    title = f"mean_bound {MEAN_BOUND}, cov_bound {COV_BOUND}"
    left.legend(title=title, loc="upper center", ncols=3, fontsize=8)
    left.set_ylim(-0.85, 1.15)
    triangle = corner(np.eye(3)[[0, 1, 2, 0]])
    right.plot(*triangle.T, "k", lw=1)
    grid = np.stack(np.meshgrid(np.linspace(1e-4, 1, 80), np.linspace(1e-4, 1, 80)), -1)
    p = np.concatenate([1 - grid.sum(-1, keepdims=True), grid], -1)
    inside = p[..., 0] > 0
    kl = np.sum(p * np.log(np.where(inside[..., None], p, 1) / OLD), -1)
    points = corner(p)
    right.contour(points[..., 0], points[..., 1], np.where(inside, kl, np.nan), [SIMPLEX_BOUND],
                  colors="k", linewidths=0.8, linestyles="dashed")  # fmt: skip
    right.plot(*corner(OLD), "k*", ms=10)
    right.set(title=f"three actions: KL(projected, old) <= {SIMPLEX_BOUND}", aspect="equal")
    right.axis("off")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    out = parser.parse_args().out
    rows = gaussians() + categoricals()
    with (out / "projection.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["panel", "metric", "from", "to"])
        number = lambda x: " ".join(f"{v:.4f}" for v in x)  # noqa: E731
        for row in rows:
            writer.writerow([row["panel"], row["metric"], number(row["from"]), number(row["to"])])
    try:
        draw(rows, out / "projection.svg")
    except ModuleNotFoundError as error:
        print(f"projection.svg is not drawn: {error}; pip install surefoot[plots]")


if __name__ == "__main__":
    main()
