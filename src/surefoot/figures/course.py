"""The course of any run: its return, its KL against the bound, its entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surefoot.figures.sheet import (
    BLUE,
    GREEN,
    INK,
    PURPLE,
    RED,
    Picture,
    column,
    log_where_it_can,
    picked,
)
from surefoot.types import PROMISES

KLS = {"kl_mean": (BLUE, "mean"), "kl_q99": (GREEN, "99th percentile"), "kl_max": (RED, "worst")}


def course(
    title: str, updates: Sequence[dict[str, Any]], promise: str, bound: float | None
) -> Picture:
    """Return, KL(old, new) over states against the bound on its column, and entropy, over
    environment steps."""
    judged = PROMISES.get(promise, "kl_mean")
    names = dict.fromkeys(["episode_return", *KLS, judged, "entropy"])
    rows = picked(updates, **{name: name for name in names})
    for row in rows:
        row["bound"] = bound

    def paint(figure: Any) -> None:
        figure.set_size_inches(10, 3)
        figure.suptitle(title)
        steps = column(rows, "env_steps")
        returns, kls, entropy = figure.subplots(1, 3)
        returns.plot(steps, column(rows, "episode_return"), color=BLUE)
        returns.set(title="return of training", ylabel="mean of 100 episodes")
        lines = KLS if judged in KLS else KLS | {judged: (PURPLE, judged)}
        for name, (colour, word) in lines.items():
            kls.plot(steps, column(rows, name), color=colour, label=word, linewidth=1)
        if bound is not None:
            word = f"bound of {judged}"
            kls.axhline(bound, color=INK, linestyle="--", linewidth=1, label=word)
        log_where_it_can(kls, *(column(rows, name) for name in lines))
        kls.set(title="KL(old, new) over states", ylabel="nats")
        kls.legend()
        entropy.plot(steps, column(rows, "entropy"), color=BLUE)
        entropy.set(title="entropy of the policy", ylabel="nats")
        for axis in (returns, kls, entropy):
            axis.set_xlabel("environment steps")

    return Picture("course", rows, paint)
