"""How loose the bounds are: what each subtracts, over what is really lost, L(new) - eta(new), on
1000 random problems, against how far the new policy is. Median and the middle 90 %.

    python docs/gallery/bounds.py [--out docs/gallery]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _sheet import BLUE, GREEN, GREY, RED, YELLOW, columns, main

from surefoot.exact import bounds, tabular

NAMES = ("tv, sharp", "tv", "kl, factor 2", "kl, factor 4", "TREFree")
COLOURS = dict(zip(NAMES, (GREY, BLUE, GREEN, RED, YELLOW), strict=True))
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def rows():
    """Quantiles of the looseness at every distance."""
    rng = np.random.default_rng(0)
    mdp = tabular.random_problems(rng, 1000, 5, 4)
    old = tabular.dirichlet(rng, 1.0, (1000, 5, 4))
    target = tabular.dirichlet(rng, 1.0, (1000, 5, 4))
    ev, out = tabular.evaluate(mdp, old), []
    for share in SHARES:
        new = (1 - share) * old + share * target
        L, eta = tabular.surrogate(ev, new), tabular.evaluate(mdp, new).performance
        lower = {
            "tv, sharp": bounds.tv_bound(mdp, old, new, sharp=True),
            "tv": bounds.tv_bound(mdp, old, new),
            "kl, factor 2": bounds.kl_bound(mdp, old, new, bounds.PINSKER_FACTOR),
            "kl, factor 4": bounds.kl_bound(mdp, old, new, bounds.TRPO_FACTOR),
            "TREFree": bounds.trefree_bound(mdp, old, new, ev.value),
        }
        far = np.median(np.max(tabular.tv(old, new), -1))
        for name, bound in lower.items():
            loose = (L - bound) / np.abs(L - eta)
            q05, q50, q95 = np.quantile(loose, [0.05, 0.5, 0.95])
            useful = np.mean(bound > ev.performance)
            out.append({"share": share, "tv": far, "bound": name, "q05": q05, "q50": q50,
                        "q95": q95, "promises_improvement": useful})  # fmt: skip
    return out


def draw(plt, table):
    """One band a bound."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for name, colour in COLOURS.items():
        far, low, middle, high = columns(table, "tv", "q05", "q50", "q95", bound=name)
        axes.loglog(far, middle, "o-", ms=3, color=colour, label=name)
        axes.fill_between(far, low, high, color=colour, alpha=0.12, lw=0)
    axes.set(xlabel="largest total variation (median)", ylabel="subtracted / really lost")
    axes.legend()
    return figure


if __name__ == "__main__":
    main(__file__, __doc__, rows, draw)
