"""Figure 12.3: the natural gradient's region is an ellipse, and its step is longer where the
ellipse is; beside it the ball of the restricted step. The simple regulator at theta = [-0.5,
0.5], in closed form.

    python docs/gallery/figure_12_3.py [--out docs/gallery]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _sheet import BLUE, RED, columns, main

from surefoot.exact import regulator
from surefoot.exact.chapter12 import natural_step, restricted_step
from surefoot.exact.problems import LinearQuadratic

THETA, EPSILON, BALL = np.array([-0.5, 0.5]), 0.1, 0.005


def rows():
    """The two edges, and where the two steps end."""
    g = regulator.gradient(LinearQuadratic(), THETA, 10)
    F = regulator.trajectory_fisher(LinearQuadratic(), THETA, 10)
    angle = np.linspace(0, 2 * np.pi, 61)
    circle = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], -1)
    shapes = {
        "ellipse": THETA + np.sqrt(EPSILON) * circle @ np.linalg.inv(np.linalg.cholesky(F)),
        "ball": THETA + np.sqrt(BALL) * circle,
        "natural step": [natural_step(THETA, g, F, EPSILON)],
        "restricted step": [restricted_step(THETA, g, BALL)],
    }
    return [{"what": k, "t1": x, "t2": y} for k, points in shapes.items() for x, y in points]


def draw(plt, table):
    """Edges and steps."""
    figure, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
    for edge, step, colour in (("ellipse", "natural step", BLUE), ("ball", "restricted step", RED)):
        axes.plot(*columns(table, "t1", "t2", what=edge), color=colour, lw=1)
        (x,), (y,) = columns(table, "t1", "t2", what=step)
        axes.annotate("", (x, y), THETA, arrowprops={"arrowstyle": "->", "color": colour})
        axes.plot([], [], color=colour, label=step)
    axes.plot(*THETA, "ko", ms=4)
    axes.set(xlabel="theta 1", ylabel="theta 2", aspect="equal")
    axes.legend(loc="upper left")
    return figure


if __name__ == "__main__":
    main(__file__, __doc__, rows, draw)
