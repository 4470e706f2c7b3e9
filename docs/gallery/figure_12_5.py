"""Figure 12.5: trust region updates on the simple regulator, from four starting points: 50
rollouts of depth 10 each, epsilon = 1.

    python docs/gallery/figure_12_5.py [--out docs/gallery]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _sheet import BLUE, GREEN, RED, YELLOW, columns, main

from surefoot.exact import regulator
from surefoot.exact.chapter12 import LinearGaussian, TrustRegion, improve
from surefoot.exact.problems import LinearQuadratic

STARTS = [(-0.1, 0.6), (-0.4, 0.8), (-1.7, 0.5), (-1.4, 0.9)]


def rows():
    """Parameters after every update."""
    out = []
    for n, start in enumerate(STARTS):
        path = improve(
            LinearQuadratic(), LinearGaussian(), start, TrustRegion(1.0),
            depth=10, samples=50, updates=10, seed=n,
        )  # fmt: skip
        for k, theta in enumerate(path):
            U = regulator.utility(LinearQuadratic(), *regulator.scalar(theta), 10)
            out.append({"path": n, "update": k, "t1": theta[0], "t2": theta[1], "utility": U})
    return out


def draw(plt, table):
    """Paths in the plane of parameters."""
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for n, colour in enumerate((BLUE, RED, GREEN, YELLOW)):
        x, y = columns(table, "t1", "t2", path=n)
        axes.plot(x, np.abs(y), "o-", ms=3, lw=1, color=colour)
    axes.plot(-1, 0, "ko", ms=7, clip_on=False)
    axes.set(xlabel="theta 1", ylabel="|theta 2|", ylim=(0, None))
    return figure


if __name__ == "__main__":
    main(__file__, __doc__, rows, draw)
