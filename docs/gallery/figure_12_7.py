"""Figure 12.7: surrogates along the line from theta (0) to the natural step (1) and beyond, on
the regulator: 500 rollouts of depth 10 from theta = [-0.5, 0.5], epsilon = 1 for the step, 0.2
for the clamp, beta = 1 for the penalty. Advantages are rewards-to-go less their mean over
rollouts at each step.

    python docs/gallery/figure_12_7.py [--out docs/gallery]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _sheet import BLUE, GREEN, GREY, RED, columns, main

from surefoot.exact import chapter12
from surefoot.exact.chapter12 import LinearGaussian, Natural
from surefoot.exact.problems import LinearQuadratic

THETA, PI = np.array([-0.5, 0.5]), LinearGaussian()
CLAMP, BETA = 0.2, 1.0


def rows():
    """Surrogates, centred at theta, and the mean KL."""
    tau = chapter12.simulate(LinearQuadratic(), PI, THETA, 10, 500, 0)
    advantage = tau.to_go(1.0) - tau.to_go(1.0).mean(0)
    step = Natural(1.0)(PI, THETA, tau, 1.0) - THETA
    old = chapter12.log_likelihood(PI, THETA, tau.state, tau.action)
    out = []
    for x in np.linspace(0, 1.5, 31):
        new = THETA + x * step
        ratio = np.exp(chapter12.log_likelihood(PI, new, tau.state, tau.action) - old)
        clamped = np.clip(ratio, 1 - CLAMP, 1 + CLAMP) * advantage
        kl = chapter12.surrogate_constraint(PI, THETA, new, tau, 1.0)
        gain = tau.mean((ratio - 1) * advantage)
        out.append({
            "x": float(x), "surrogate": gain, "penalised": gain - BETA * kl,
            "clamped": tau.mean(clamped - advantage),
            "lower bound": tau.mean(np.minimum(ratio * advantage, clamped) - advantage), "kl": kl,
        })  # fmt: skip
    return out


def draw(plt, table):
    """Four lines, and the KL."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    (x,) = columns(table, "x")
    for name, colour in zip(
        ("surrogate", "penalised", "clamped", "lower bound"), (GREY, GREEN, RED, BLUE), strict=True
    ):
        axes.plot(x, *columns(table, name), color=colour, label=name)
    axes.plot(x, *columns(table, "kl"), "k:", label="mean KL of a step")
    axes.axhline(0, color="#dddddd", lw=0.7, zorder=0)
    axes.set(xlabel="share of the natural step", ylabel="surrogate less its value at theta")
    axes.legend()
    return figure


if __name__ == "__main__":
    main(__file__, __doc__, rows, draw)
