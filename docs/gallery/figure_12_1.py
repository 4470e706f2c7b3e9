"""Figure 12.1: gradient scaling and clipping on the simple regulator. Every gradient is of 10
rollouts of depth 10, the step factor is 0.2; without either the first step already leaves the
picture.

    python docs/gallery/figure_12_1.py [--out docs/gallery]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _sheet import BLUE, GREEN, RED, columns, main

from surefoot.exact import regulator
from surefoot.exact.chapter12 import GradientAscent, LinearGaussian, improve
from surefoot.exact.problems import LinearQuadratic

START = (-0.1, 0.6)
WAYS = {
    "as it is": GradientAscent(0.2),
    "scaled to 1": GradientAscent(0.2, scale=1.0),
    "clipped to 1": GradientAscent(0.2, clip=1.0),
}
COLOURS = dict(zip(WAYS, (RED, BLUE, GREEN), strict=True))


def rows():
    """Parameters after every update."""
    out = []
    for name, update in WAYS.items():
        updates = 2 if name == "as it is" else 14
        path = improve(
            LinearQuadratic(), LinearGaussian(), START, update,
            depth=10, samples=10, updates=updates, seed=1,
        )  # fmt: skip
        for k, theta in enumerate(path):
            U = regulator.utility(LinearQuadratic(), *regulator.scalar(theta), 10)
            out.append({"way": name, "update": k, "t1": theta[0], "t2": theta[1], "utility": U})
    return out


def draw(plt, table):
    """Paths in the plane of parameters, over the utility."""
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    t1, t2 = np.meshgrid(np.linspace(-1.8, 0.4, 60), np.linspace(0.0, 1.0, 50))
    U = [regulator.utility(LinearQuadratic(), *regulator.scalar(np.array(t)), 10)
         for t in zip(t1.ravel(), t2.ravel(), strict=True)]  # fmt: skip
    level = np.log(-np.reshape(U, t1.shape))
    axes.contour(t1, t2, level, 12, colors="#cccccc", linewidths=0.7)
    for name in WAYS:
        x, y = columns(table, "t1", "t2", way=name)
        axes.plot(x, np.abs(y), "o-", ms=3, lw=1, color=COLOURS[name], label=name)
    axes.plot(-1, 0, "ko", ms=7, clip_on=False)
    axes.set(xlabel="theta 1", ylabel="|theta 2|", xlim=(-1.8, 0.4), ylim=(0, 1))
    axes.legend()
    return figure


if __name__ == "__main__":
    main(__file__, __doc__, rows, draw)
