"""FixPO: Zentner, Puri, Huang and Sukhatme, *Guaranteed Trust Region Optimization via Two-Phase KL
Penalization*, 2023 (arXiv 2312.05405).

The paper prints no tables. The numbers of figures 1 and 3 were read by eye off the same plots in
the authors' notebooks (github.com/uscresl/stabilized-rl), to about 5 %; of figures 4 and 5 there
are none.
"""

from __future__ import annotations

import dataclasses

from surefoot.experiments.reproduce.items import Entrant, Item, Later, Number, Paper, Quick, Task
from surefoot.experiments.reproduce.measures import FIXUP_LATER, FIXUP_START, SCORE, sigma

SEEDS = 10
READ_OFF = (
    "read by eye off the plots in the authors' notebooks, to about 5 %: the paper prints no numbers"
)
NO_NUMBERS = "no numbers in the text, and none were read off: the paper shows curves"

FIGURE_1 = {1: (90, 177), 2: (9, 20), 3: (5, 11), 5: (1.5, 4), 10: (0, 0.5)}
"""C_beta -> fix-up gradient steps an improvement step on Walker2d, at the start and at 3 million
steps, read off `notebooks/fixup_phase_steps_vs_c_beta.ipynb`."""

FIGURE_3 = {
    "HalfCheetah-v5": (4900, 7500, 6900, 6000),
    "Hopper-v5": (2200, 2800, 2400, 1850),
    "Walker2d-v5": (5300, 4000, 4600, 3700),
    "Swimmer-v5": (116, 69, 61, 60),
    "InvertedDoublePendulum-v5": (9200, 5000, 4500, 4200),
    "Reacher-v5": (-3.7, -3.8, -3.8, -9),
}
"""Task -> FixPO, PPO-clip, TRPO, KL projection at 10 million steps, read off
`notebooks/fixPO_vs_PPO.ipynb`."""
_MORE = {
    ("HalfCheetah-v5", "fixpo"): {"low": 3400, "high": 6200},
    ("Hopper-v5", "fixpo"): {"words": "peak 2750 at 2.4 million"},
    ("InvertedDoublePendulum-v5", "fixpo"): {"words": "flat from one million on"},
    **{
        ("InvertedDoublePendulum-v5", label): {"words": "noisy"}
        for label in ("ppo", "trpo", "trpl")
    },
}

ABLATIONS = {
    "fixpo": ("FixPO", {}, "the proposed method"),
    "fixpo-no-fixup": (
        "no fix-up phase",
        {"fixup": False},
        "higher on most tasks, poor in some runs",
    ),
    "fixpo-mean": (
        "limit the mean KL",
        {"statistic": {"type": "MeanState"}},
        "similar, given the best epsilon of each task",
    ),
    "fixpo-c1": ("C_beta = 1", {"c_beta": 1.0}, "poor; over 100 fix-up steps"),
    "fixpo-last": ("fix-up in the last epoch", {"fixup_every_epoch": False}, "slightly lower"),
    "fixpo-beta10": (
        "constant beta = 10",
        {"beta_init": 10.0, "beta_lr": 0.0},
        "very good on HalfCheetah, moderate elsewhere, sometimes falls",
    ),
}
"""Label -> (words, fields of FixPO, what section 4.2 says)."""

_SCALED = (
    "rewards are scaled here; in the authors' runs the critic's targets were, and advantages "
    "stayed in raw reward units, so beta's scale is another"
)
_FALLS = (
    "Adam's rate falls to 0 over the steps of a run; the paper's runs went on to 12 288 000 steps, "
    "whatever the figure shows"
)
_RETURN = (
    "the paper's return is of 10 test episodes of the stochastic policy; ours is of the last 100 "
    "training episodes"
)
_BASELINES = (
    "PPO, TRPO and the KL projection have this library's presets: their batches are not those of "
    "the authors' runs"
)

FIXPO_ROW = Entrant("fixpo", "FixPO", "fixpo")
PPO_ROW = Entrant("ppo", "PPO-clip", "ppo")
PPO_8192_ROW = Entrant(
    "ppo-8192",
    "PPO-clip, FixPO's batch",
    "ppo",
    changes={
        "batch": 8192,
        "method": {"sgd": {"minibatches": 16}},
        "value": {"sgd": {"minibatches": 16}},
    },
    ours=True,
)

_WALKER_1 = Task(
    "envpool:Walker2d-v5",
    12_288_000,
    64,
    {
        (f"fixpo-c{c}" if c != 3 else "fixpo", measure.name): Number(at)
        for c, ends in FIGURE_1.items()
        for measure, at in zip((FIXUP_START, FIXUP_LATER), ends, strict=True)
    },
)
FIGURE_1_ITEM = Item(
    name="figure1",
    title="Figure 1: gradient steps of the fix-up phase on Walker2d, by C_beta",
    tasks=(_WALKER_1,),
    entrants=tuple(
        dataclasses.replace(FIXPO_ROW, words="FixPO, C_beta 3")
        if c == 3
        else Entrant(
            f"fixpo-c{c}", f"C_beta {c}", "fixpo", changes={"method": {"c_beta": float(c)}}
        )
        for c in FIGURE_1
    ),
    seeds=SEEDS,
    measures=(FIXUP_START, FIXUP_LATER),
    quick=Quick(seeds=3, tasks=(dataclasses.replace(_WALKER_1, steps=300_000),)),
    baseline="fixpo",
    numbers=READ_OFF,
    departures=(
        "the paper's numbers are at the first steps and at 3 million of 12 288 000, over which "
        "Adam's rate falls to 0; ours are means over the first and the third tenth of the updates, "
        "where the rate is the same",
        _SCALED,
    ),
    expect="the larger C_beta, the fewer fix-up steps; at 3 there are 5 to 10 to 160 primary ones",
)

_METHODS_3 = ("fixpo", "ppo", "trpo", "trpl")
_TASKS_3 = tuple(
    Task(
        f"envpool:{env}",
        10_000_000,
        64,
        {
            (label, "score"): Number(value, **_MORE.get((env, label), {}))
            for label, value in zip(_METHODS_3, row, strict=True)
        },
    )
    for env, row in FIGURE_3.items()
)
FIGURE_3_ITEM = Item(
    name="figure3",
    title="Figure 3: MuJoCo at 10 million steps against PPO, TRPO and the KL projection, 10 seeds",
    tasks=_TASKS_3,
    entrants=(
        FIXPO_ROW,
        PPO_ROW,
        Entrant("trpo", "TRPO", "trpo"),
        Entrant("trpl", "KL projection", "trpl"),
    ),
    seeds=SEEDS,
    measures=(SCORE,),
    quick=Quick(seeds=3, tasks=(dataclasses.replace(_TASKS_3[0], steps=1_000_000),)),
    baseline="fixpo",
    numbers=READ_OFF,
    departures=(_RETURN, _BASELINES, _FALLS, _SCALED),
    expect="FixPO is ahead on Walker2d, Swimmer and InvertedDoublePendulum, and never falls far",
)

_WALKER_4 = Task(
    "envpool:Walker2d-v5",
    10_000_000,
    64,
    {
        ("fixpo", "sigma"): Number(words="higher than PPO-clip's"),
        ("ppo", "sigma"): Number(words="lower than FixPO's"),
    },
)
FIGURE_4_ITEM = Item(
    name="figure4",
    title="Figure 4: standard deviation of the policy on Walker2d, FixPO and PPO-clip",
    tasks=(_WALKER_4,),
    entrants=(FIXPO_ROW, PPO_ROW, PPO_8192_ROW),
    seeds=SEEDS,
    measures=(sigma(6),),
    quick=Quick(seeds=3, tasks=(dataclasses.replace(_WALKER_4, steps=500_000),)),
    baseline="ppo",
    numbers=NO_NUMBERS,
    departures=(
        "the figure's budget is not stated; that of figure 3 is taken",
        "the text calls the figure's standard deviation relative and does not say to what; ours is "
        "absolute, and starts at 0.61 for FixPO and 1 for PPO, as their settings do",
        "the third row is ours: PPO at FixPO's batch and minibatch, the controlled comparison",
    ),
    expect="FixPO keeps a higher standard deviation than PPO-clip",
)

_SAID_5 = {(label, "score"): Number(words=says) for label, (_, _, says) in ABLATIONS.items()}
_TASKS_5 = tuple(
    Task(f"envpool:{env}", 10_000_000, 64, _SAID_5)
    for env in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
)
FIGURE_5_ITEM = Item(
    name="figure5",
    title="Figure 5: ablations on HalfCheetah, Hopper and Walker2d, 10 seeds",
    tasks=_TASKS_5,
    entrants=tuple(
        Entrant(label, words, "fixpo", changes={"method": changes})
        for label, (words, changes, _) in ABLATIONS.items()
    ),
    seeds=SEEDS,
    measures=(SCORE,),
    quick=Quick(seeds=3, tasks=(dataclasses.replace(_TASKS_5[0], steps=500_000),)),
    baseline="fixpo",
    numbers=NO_NUMBERS,
    departures=(
        "the figure's budget is not stated; that of figure 3 is taken",
        "the authors' launchers never handed the mean on to the method, so the published curve "
        "'limit the mean KL' is most likely FixPO with C_beta = 2; ours is the variant described",
        _RETURN,
        _FALLS,
        _SCALED,
    ),
    expect="no variant is better in return and keeps the bound without more fix-up steps",
)

_META = "Meta-World comes with a later release"
FIXPO = Paper(
    name="fixpo",
    authors="Zentner et al., 2023",
    title="Guaranteed Trust Region Optimization via Two-Phase KL Penalization",
    items=(FIGURE_1_ITEM, FIGURE_3_ITEM, FIGURE_4_ITEM, FIGURE_5_ITEM),
    later=(
        Later(
            "figure2",
            "Figure 2: KL and beta within an improvement step",
            "metrics have a row an update, and the figure shows its gradient steps",
        ),
        Later("figure6", "Figure 6: the 50 tasks of Meta-World", _META),
        Later("figure7", "Figure 7: transfer among the 10 tasks of Meta-World", _META),
        Later(
            "figure9",
            "Figure 9: three tasks of DMLab-30",
            "DMLab has no wheel; 3-D navigation comes with a later release",
        ),
    ),
)
