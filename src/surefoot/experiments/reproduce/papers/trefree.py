"""TREFree: Sun, Ellis, Mahajan, Devlin, Hofmann and Whiteson, *Trust-Region-Free Policy
Optimization for Stochastic Policies*.

The paper shows curves, and states neither steps nor seeds nor versions of tasks. No code was
released.
"""

from __future__ import annotations

import dataclasses

from surefoot.experiments.reproduce.items import Entrant, Item, Number, Paper, Quick, Task
from surefoot.experiments.reproduce.measures import LOG_RATIO_HIGH, LOG_RATIO_LOW, SCORE

SEEDS = 5
STEPS = 1_000_000
"""Our choice: the paper states no budget."""
NO_NUMBERS = "no numbers in the text, and none were read off: the paper shows curves"

AHEAD = ("Ant-v5", "HalfCheetah-v5", "Humanoid-v5", "HumanoidStandup-v5", "Walker2d-v5")
"""Tasks on which TREFree is said to be ahead by a large margin."""

FIGURE_2 = {"trpo": (-2.0, 1.0), "trefree": (0.0, 1.0)}
"""Method -> range of the log ratio, as section 4 says it. PPO's grows without bound."""

ENTRANTS = (
    Entrant("trefree", "TREFree, delta 0.01", "trefree", "trefree-paper"),
    Entrant("trpo", "TRPO", "trpo"),
    Entrant("ppo", "PPO", "ppo"),
)
_UNSTATED = (
    "the paper states no budget, seeds, batch or epochs: ours are one million steps, five seeds "
    "and the settings of openai/baselines, which it builds on"
)
_NETWORK = (
    "TREFree has the paper's network (first layer shared with the critic, variance by state); TRPO "
    "and PPO have this library's presets, PPO without the paper's sweep of its clip"
)


def _said(env: str) -> dict[tuple[str, str], Number]:
    """What section 4 says of a task of Figure 1."""
    if env == "Hopper-v5":
        words = "behind PPO and TRPO; the curves overlap"
        rest = "ahead of TREFree; the curves overlap"
    else:
        words, rest = "ahead by a large margin", "behind TREFree"
    said = {"trefree": words, "trpo": rest, "ppo": rest}
    return {(label, "score"): Number(words=text) for label, text in said.items()}


_TASKS_1 = tuple(Task(f"envpool:{e}", STEPS, 64, _said(e)) for e in (*AHEAD, "Hopper-v5"))
FIGURE_1_ITEM = Item(
    name="figure1",
    title="Figure 1: TREFree against TRPO and PPO on MuJoCo",
    tasks=_TASKS_1,
    entrants=ENTRANTS,
    seeds=SEEDS,
    measures=(SCORE,),
    quick=Quick(seeds=3, tasks=_TASKS_1[1:2]),
    baseline="trefree",
    numbers=NO_NUMBERS,
    steps_stated=False,
    departures=(_UNSTATED, _NETWORK),
    expect="TREFree is ahead on every task but Hopper",
)

_RATIOS = {
    **{
        (label, measure.name): Number(end, words=f"of the range [{ends[0]:g}, {ends[1]:g}]")
        for label, ends in FIGURE_2.items()
        for measure, end in zip((LOG_RATIO_LOW, LOG_RATIO_HIGH), ends, strict=True)
    },
    ("ppo", LOG_RATIO_LOW.name): Number(words="grows without bound"),
    ("ppo", LOG_RATIO_HIGH.name): Number(words="grows without bound"),
}
_TASK_2 = Task("envpool:HalfCheetah-v5", STEPS, 64, _RATIOS)
FIGURE_2_ITEM = Item(
    name="figure2",
    title="Figure 2: ranges of the ratio new / old",
    tasks=(_TASK_2,),
    entrants=ENTRANTS,
    seeds=SEEDS,
    measures=(LOG_RATIO_LOW, LOG_RATIO_HIGH),
    quick=Quick(seeds=3, tasks=(dataclasses.replace(_TASK_2, steps=300_000),)),
    baseline="trefree",
    numbers="the text gives the ranges of TRPO and TREFree on a log scale, and none of PPO",
    steps_stated=False,
    departures=(
        "the text does not say which task the figure is of; HalfCheetah is taken",
        "ours are medians over updates of the batch's extremes, after the update",
        _UNSTATED,
        _NETWORK,
    ),
    expect="TREFree's ratios only grow, [0, 1]; TRPO's lie in [-2, 1]; PPO's are not bounded",
)

TREFREE = Paper(
    name="trefree",
    authors="Sun et al.",
    title="Trust-Region-Free Policy Optimization for Stochastic Policies",
    items=(FIGURE_1_ITEM, FIGURE_2_ITEM),
)
