"""Figure 12.6: the original, the clamped and the lower-bound objective against the ratio, for an
advantage of 1 and of -1, epsilon = 0.2. The lower bound is the library's own Clipped surrogate.

    python docs/gallery/figure_12_6.py [--out docs/gallery]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _sheet import BLUE, GREY, RED, columns, main

EPSILON = 0.2


def rows():
    """Three objectives on a grid of ratios."""
    import jax.numpy as jnp

    from surefoot import Clipped
    from surefoot.distributions import Categorical
    from surefoot.types import Batch

    ratio = np.linspace(0.5, 1.5, 41)
    out = []
    for advantage in (1.0, -1.0):
        # Two actions: the one taken had probability 0.5, and now has ratio * 0.5.
        half = jnp.full(len(ratio), 0.5)
        logits = jnp.log(jnp.stack([half, half], -1))
        batch = Batch(
            obs=None, action=jnp.zeros(len(ratio), jnp.int32), log_prob=jnp.log(half),
            old=Categorical(logits), advantage=jnp.full(len(ratio), advantage), value_target=half,
            value=half, mask=jnp.ones(len(ratio), bool), progress=jnp.zeros(()),
        )  # fmt: skip
        new = Categorical(jnp.log(jnp.asarray(np.stack([ratio / 2, 1 - ratio / 2], -1) + 1e-12)))
        lower = np.asarray(Clipped(EPSILON)(new, batch), float)
        for r, low in zip(ratio, lower, strict=True):
            clamped = float(np.clip(r, 1 - EPSILON, 1 + EPSILON)) * advantage
            out.append({"advantage": advantage, "ratio": float(r), "original": float(r * advantage),
                        "clamped": clamped, "lower bound": float(low)})  # fmt: skip
    return out


def draw(plt, table):
    """Three lines for each sign, set apart vertically."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for axes, advantage in zip(panels, (1.0, -1.0), strict=True):
        (ratio,) = columns(table, "ratio", advantage=advantage)
        for k, (name, colour) in enumerate(
            (("original", GREY), ("clamped", RED), ("lower bound", BLUE))
        ):
            (y,) = columns(table, name, advantage=advantage)
            axes.plot(ratio, np.array(y) - 0.06 * k, color=colour, label=name)
            axes.plot(1, advantage - 0.06 * k, "ko", ms=4)
        axes.set(xlabel="ratio", title=f"advantage {advantage:+.0f}")
    panels[0].legend()
    return figure


if __name__ == "__main__":
    main(__file__, __doc__, rows, draw)
