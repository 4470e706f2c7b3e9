"""Presets of MCPO, and those of the methods it was compared with, all on one backbone (Le et al.,
2022; what its lost appendix would fix is from the code base the authors built on:
mcpo_fixpo.md A.6 and A.7)."""

from __future__ import annotations

import dataclasses
from typing import Any

from surefoot.config import Config, method_name
from surefoot.memory import MeanBlend
from surefoot.methods.mcpo import MCPO
from surefoot.methods.mdpo import MDPO
from surefoot.methods.ppo import PPO
from surefoot.methods.ppo_kl import PPOKL
from surefoot.methods.vmpo import VMPO
from surefoot.multipliers import FactorRule
from surefoot.networks import Networks
from surefoot.presets import Preset
from surefoot.presets.mujoco import TASKS
from surefoot.sgd import SGD
from surefoot.value import SharedValue

_SGD = SGD(
    lr=3e-4,  # A.6: the code base's MuJoCo settings
    epochs=10,  # the same
    minibatches=32,  # the same
    anneal=True,  # the same: linearly to 0
    max_grad_norm=0.5,  # the same
    adam_eps=1e-5,  # the same: arguments.py
)
_TABLE_1 = {"Pendulum-v1": 5, "LunarLander-v3": 40, "BipedalWalker-v3": 10}
"""Task -> the N that is best there (table 1)."""
_SOURCE = "Le et al. 2022, {}; what its appendix would say: the code base (mcpo_fixpo.md A.6)"


def backbone(method: Any, **changes: Any) -> Config[Any, Any]:
    """The settings that all methods of the comparison share, classic control."""
    config = Config(
        method=method,
        value=SharedValue(coef=0.5),  # A.6: 0.5 times an inner 0.5
        num_envs=4,  # A.6: our choice
        batch=8192,  # A.6: 2048 steps of 4 actors
        gamma=0.99,  # A.6
        lam=0.95,  # A.6
        normalize_advantage="batch",  # A.6
        networks=Networks(hidden=(64, 64), joint=True),  # A.6: two MLPs, one optimiser
    )
    return dataclasses.replace(config, **changes)


def mcpo(memory_size: int, **fields: Any) -> MCPO:
    """MCPO on the backbone's optimiser."""
    return MCPO(memory_size=memory_size, sgd=_SGD, **fields)


_MUJOCO = {"num_envs": 1, "batch": 2048}  # A.6: one actor of 2048 steps

BASELINES: dict[str, tuple[str, Any]] = {
    "ppo": ("clip 0.3", PPO(clip=0.3, sgd=_SGD)),
    "ppo-kl-adaptive": ("d_targ 0.01", PPOKL(target_kl=0.01, sgd=_SGD)),
    "ppo-kl-fixed": (
        "beta 0.1",
        PPOKL(beta_init=0.1, rule=FactorRule(down=1, up=1), sgd=_SGD),
    ),
    "mdpo": ("beta_0 2", MDPO(beta=2.0, sgd=_SGD)),
    "vmpo": (
        "alpha_0 1",
        # A.7: the small references have eta 1, eps_eta 0.02 and, for discrete actions, 0.1
        VMPO(alpha_init=1.0, eps_eta=0.02, target_kl=0.1, dual_lr=1e-2, sgd=_SGD),
    ),
}
"""The methods of table 1 at their best settings."""

MCPO_PRESETS = [
    *(
        Preset(
            name=f"mcpo-{env.partition('-')[0].lower()}",
            methods=("mcpo",),
            envs=(env,),
            config=backbone(mcpo(n), steps=1_000_000),
            source=_SOURCE.format(f"table 1: N = {n}"),
        )
        for env, n in _TABLE_1.items()
    ),
    Preset(
        name="mcpo-mujoco",
        methods=("mcpo",),
        envs=TASKS,
        config=backbone(mcpo(40), **_MUJOCO),
        source=_SOURCE.format("table 2: N = 40"),
    ),
    Preset(
        name="mcpo-mean-psi",
        methods=("mcpo",),
        envs=(),
        config=backbone(mcpo(40, blend=MeanBlend()), **_MUJOCO),
        source=_SOURCE.format("table 2: mean psi, N = 40"),
    ),
    *(
        Preset(
            name=f"table-1-{name}",
            methods=(method_name(method),),
            envs=(),
            config=backbone(method),
            source=_SOURCE.format(f"table 1: {word}"),
        )
        for name, (word, method) in BASELINES.items()
    ),
]
