"""Figure 12.4: the line search of a trust region update. It begins at the natural step, on the
ellipse of the quadratic model, and halves until the surrogate improves and the true KL (dashed)
is inside. The simple regulator at theta = [-0.5, 0.5] in expectation, KL a step at most 0.01
(Fisher matrix of a step).

    python docs/gallery/figure_12_4.py [--out docs/gallery]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _sheet import BLUE, GREEN, GREY, RED, columns, main

from surefoot.exact import regulator
from surefoot.exact.chapter12 import line_search, natural_step
from surefoot.exact.problems import LinearQuadratic

THETA, EPSILON, DEPTH = np.array([-0.5, 0.5]), 0.01, 10
MOMENT = regulator.moments(LinearQuadratic(), *regulator.scalar(THETA), DEPTH)[:, 0, 0]


def g(new):
    """Mean KL(theta || new) of a step, exactly."""
    shift = (THETA[0] - new[0]) ** 2 * MOMENT.mean()
    return np.log(new[1] / THETA[1]) + (THETA[1] ** 2 + shift) / (2 * new[1] ** 2) - 0.5


def f(new):
    """The utility: in the regulator the exact surrogate differs from it by little this near."""
    return regulator.utility(LinearQuadratic(), *regulator.scalar(new), DEPTH)


def edge(angle):
    """Where the true KL is EPSILON in a direction."""
    low, high = 0.0, 0.4
    way = np.array([np.cos(angle), np.sin(angle)])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if g(THETA + middle * way) < EPSILON else (low, middle)
    return THETA + low * way


def rows():
    """The ellipse, the true edge, and every candidate."""
    gradient = regulator.gradient(LinearQuadratic(), THETA, DEPTH)
    F = regulator.trajectory_fisher(LinearQuadratic(), THETA, DEPTH) / DEPTH
    angle = np.linspace(0, 2 * np.pi, 61)
    circle = np.sqrt(2 * EPSILON) * np.stack([np.cos(angle), np.sin(angle)], -1)
    ellipse = THETA + circle @ np.linalg.inv(np.linalg.cholesky(F))
    seen = []

    def constraint(new):
        seen.append(new)
        return g(new)

    first = natural_step(THETA, gradient, F, EPSILON)
    search = line_search(f, constraint, THETA, first, EPSILON)
    out = [("ellipse", *x) for x in ellipse] + [("true KL", *edge(a)) for a in angle]
    out += [("refused", *x) for x in seen if not np.array_equal(x, search.theta)]
    out.append(("accepted", *search.theta))
    return [{"what": k, "t1": x, "t2": y, "kl": g(np.array([x, y]))} for k, x, y in out]


def draw(plt, table):
    """Edges and candidates."""
    figure, axes = plt.subplots(figsize=(5, 4.6), layout="constrained")
    edge = lambda what: columns(table, "t1", "t2", what=what)  # noqa: E731
    axes.plot(*edge("ellipse"), color=BLUE, lw=1, label="quadratic model")
    axes.plot(*edge("true KL"), "--", color=GREY, lw=1, label="true KL")
    for what, colour in (("refused", RED), ("accepted", GREEN)):
        x, y = columns(table, "t1", "t2", what=what)
        axes.plot(x, y, "o", color=colour, ms=5, label=what)
        axes.plot([THETA[0], x[0]], [THETA[1], y[0]], color=colour, lw=0.8, zorder=0)
    axes.plot(*THETA, "ko", ms=4)
    axes.set(xlabel="theta 1", ylabel="theta 2")
    axes.legend(loc="upper right")
    return figure


if __name__ == "__main__":
    main(__file__, __doc__, rows, draw)
