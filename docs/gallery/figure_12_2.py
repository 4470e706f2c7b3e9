"""Figure 12.2: the true gradient of the simple regulator points down, the natural gradient at the
optimum. Both in closed form, depth 10.

    python docs/gallery/figure_12_2.py [--out docs/gallery]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _sheet import BLUE, RED, columns, main

from surefoot.exact import regulator
from surefoot.exact.chapter12 import natural_direction
from surefoot.exact.problems import LinearQuadratic

DEPTH = 10


def rows():
    """Unit vectors of both on a grid."""
    out = []
    for t1 in np.linspace(-1.8, -0.2, 9):
        for t2 in np.linspace(0.1, 0.7, 7):
            theta = np.array([t1, t2])
            g = regulator.gradient(LinearQuadratic(), theta, DEPTH)
            u = natural_direction(g, regulator.trajectory_fisher(LinearQuadratic(), theta, DEPTH))
            g, u = g / np.linalg.norm(g), u / np.linalg.norm(u)
            out.append({"t1": t1, "t2": t2, "g1": g[0], "g2": g[1], "u1": u[0], "u2": u[1]})
    return out


def draw(plt, table):
    """Two fields of arrows."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axes, (x, y), title, colour in zip(
        panels, (("g1", "g2"), ("u1", "u2")), ("true gradient", "natural gradient"), (RED, BLUE),
        strict=True,
    ):  # fmt: skip
        axes.quiver(*columns(table, "t1", "t2", x, y), color=colour, angles="xy", scale=12)
        axes.plot(-1, 0, "ko", ms=7, clip_on=False)
        axes.set(xlabel="theta 1", title=title, ylim=(-0.05, 0.75))
    panels[0].set_ylabel("theta 2")
    return figure


if __name__ == "__main__":
    main(__file__, __doc__, rows, draw)
