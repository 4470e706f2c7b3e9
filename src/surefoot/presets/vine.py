"""Presets of TRPO's vine procedure; chosen by name alone. Rollout sets are scaled from the paper's
million steps an update to batches that leave at least 40 updates of a million steps."""

from __future__ import annotations

from surefoot.config import Config
from surefoot.methods.trpo import TRPO
from surefoot.presets import Preset
from surefoot.rollouts.vine import Vine
from surefoot.sgd import SGD
from surefoot.surrogates import SelfNormalised
from surefoot.value import ValueFit

_CRITIC = ValueFit(SGD(lr=1e-3, epochs=10, minibatches=4, max_grad_norm=None))
"""Fitted beside, for the report; nothing depends on it without `vine.bootstrap`."""

VINE = [
    Preset(
        name="trpo-vine-cartpole",
        methods=("trpo",),
        envs=(),
        source="the vine of Schulman et al. 2015 on trpo-cartpole's settings",
        config=Config(
            method=TRPO(
                cg_damping=1e-3,  # as trpo-cartpole
                cg_iters=15,  # as trpo-cartpole
                surrogate=SelfNormalised(),  # section 5.2
            ),
            value=_CRITIC,
            vine=Vine(
                states=100,  # scaled: 22 000 steps an update at most, 45 updates of a million
                branches=2,  # both actions, enumerated
                horizon=100,  # table 2, Hopper and Walker
            ),
            num_envs=4,
            batch=2000,  # trunk
            normalize_obs=False,  # as trpo-cartpole
            normalize_reward=False,  # rows are whole returns
        ),
    ),
    Preset(
        name="trpo-vine-mujoco",
        methods=("trpo",),
        envs=(),
        source="Schulman et al. 2015, table 2 (Hopper, Walker), rollout set scaled by 1/40",
        config=Config(
            method=TRPO(
                max_kl=0.01,  # table 2
                surrogate=SelfNormalised(),  # section 5.2
            ),
            value=_CRITIC,
            vine=Vine(
                states=56,  # scaled: 24 448 steps an update at most, 41 updates of a million
                branches=4,  # table 2
                horizon=100,  # table 2
            ),
            num_envs=8,
            batch=2048,  # trunk: two rollouts of 1000, scaled from 16
            gamma=0.99,  # table 2
            normalize_reward=False,  # rows are whole returns
        ),
    ),
]
