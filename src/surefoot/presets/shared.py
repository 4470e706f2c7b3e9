"""Presets with layers shared by policy and critic; chosen by name alone, for first-order
methods."""

from __future__ import annotations

from surefoot.config import Config
from surefoot.methods.ppo import PPO
from surefoot.networks import Networks
from surefoot.presets import Preset
from surefoot.sgd import SGD
from surefoot.value import SharedValue

_PPO = PPO(clip=0.2, sgd=SGD(lr=3e-4, epochs=10, minibatches=32, anneal=True))  # as ppo-mujoco

SHARED = [
    Preset(
        name="ppo-shared-first-layer",
        methods=("ppo",),
        envs=(),
        source="ppo-mujoco with the first layer shared, as TREFree's paper has it",
        config=Config(
            method=_PPO,
            value=SharedValue(coef=0.5),  # openai/baselines: vf_coef
            networks=Networks(shared_layers=1),
            normalize_advantage="minibatch",
        ),
    ),
    Preset(
        name="ppo-shared-trunk",
        methods=("ppo",),
        envs=(),
        source="ppo-mujoco with both hidden layers shared, as Atari codes have it",
        config=Config(
            method=_PPO,
            value=SharedValue(coef=0.5),  # openai/baselines: vf_coef
            networks=Networks(shared_layers=2),
            normalize_advantage="minibatch",
        ),
    ),
]
