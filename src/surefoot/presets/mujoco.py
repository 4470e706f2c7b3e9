"""Presets for Gymnasium's MuJoCo tasks. 64 x 64 tanh, observations and rewards normalised unless
said otherwise."""

from __future__ import annotations

from surefoot.config import Config
from surefoot.methods.fixpo import FixPO
from surefoot.methods.npg import NPG
from surefoot.methods.papi import PAPI
from surefoot.methods.ppo import PPO
from surefoot.methods.trpl import TRPL
from surefoot.methods.trpo import TRPO
from surefoot.networks import Networks
from surefoot.presets import Preset
from surefoot.projection import KLMetric, WassersteinMetric
from surefoot.sgd import SGD
from surefoot.value import ValueFit

_NAMES = (
    "Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum",
    "InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d",
)  # fmt: skip
TASKS = tuple(f"{name}-v{version}" for name in _NAMES for version in (5, 4))

MUJOCO = [
    Preset(
        name="trpo-mujoco",
        methods=("trpo",),
        envs=TASKS,
        source="sb3-contrib's defaults (methods.md 3.3.3), max_kl as in the paper",
        config=Config(
            method=TRPO(
                max_kl=0.01,  # Schulman et al. 2015, table 2: delta = 0.01
                cg_iters=10,  # openai/baselines, Spinning Up, Tianshou, RL-X
                cg_damping=0.1,  # the same
                backtrack=0.8,  # sb3-contrib, Spinning Up, Tianshou
                max_backtracks=10,  # the same
            ),
            value=ValueFit(
                SGD(
                    lr=1e-3,  # sb3-contrib, Spinning Up, Tianshou
                    epochs=10,  # sb3-contrib: n_critic_updates
                    minibatches=16,  # sb3-contrib: minibatches of 128
                    max_grad_norm=None,  # sb3-contrib does not clip the critic
                )
            ),
            num_envs=8,
            batch=2048,  # sb3-contrib: n_steps 2048
            gamma=0.99,  # every code but modular_rl
            lam=0.95,  # sb3-contrib, Tianshou
            normalize_advantage="batch",  # methods.md 1.5: TRPO family
        ),
    ),
    Preset(
        name="npg-mujoco",
        methods=("npg",),
        envs=TASKS,
        source="Tianshou's NPG benchmark (methods.md 3.2)",
        config=Config(
            method=NPG(
                lr=0.1,  # Tianshou: actor_step_size
                max_kl=None,
                cg_iters=10,  # Tianshou
                cg_damping=0.1,  # Tianshou
            ),
            value=ValueFit(
                SGD(
                    lr=1e-3,  # Tianshou
                    epochs=20,  # Tianshou: 20 critic steps
                    minibatches=1,  # Tianshou: full batch
                    anneal=True,  # Tianshou: linear decay
                    max_grad_norm=None,
                )
            ),
            num_envs=16,  # Tianshou
            batch=1024,  # Tianshou
            gamma=0.99,  # Tianshou
            lam=0.95,  # Tianshou
            networks=Networks(log_std_init=-0.5),  # Tianshou: sigma = exp(-0.5)
        ),
    ),
    Preset(
        name="ppo-mujoco",
        methods=("ppo",),
        envs=TASKS,
        source="Schulman et al. 2017, table 3, with openai/baselines' details (methods.md 3.7)",
        config=Config(
            method=PPO(
                clip=0.2,  # Schulman et al. 2017, table 3
                sgd=SGD(
                    lr=3e-4,  # table 3
                    epochs=10,  # table 3
                    minibatches=32,  # table 3: minibatches of 64
                    anneal=True,  # openai/baselines, CleanRL
                    max_grad_norm=0.5,  # openai/baselines, CleanRL
                    adam_eps=1e-5,  # openai/baselines, CleanRL
                ),
            ),
            value=ValueFit(
                SGD(lr=3e-4, epochs=10, minibatches=32, anneal=True)
            ),  # table 3: the same passes
            num_envs=8,
            batch=2048,  # table 3: horizon 2048
            gamma=0.99,  # table 3
            lam=0.95,  # table 3
            normalize_advantage="minibatch",  # openai/baselines, CleanRL
        ),
    ),
    Preset(
        name="fixpo-mujoco",
        methods=("fixpo",),
        envs=TASKS,
        source="Zentner et al. 2023, the authors' launcher of the MuJoCo runs (mcpo_fixpo.md B.4)",
        config=Config(
            method=FixPO(
                max_kl=0.5,  # the launcher; the paper: as good from 0.1 to 0.5
                c_beta=3.0,  # the published curves (the launcher's default is 2)
                beta_init=1.0,  # the launcher
                beta_lr=0.01,  # the launcher
                fixup_minibatches=16,  # tuned here: as many steps as with the launcher's 8
                sgd=SGD(
                    lr=3e-4,  # the launcher
                    epochs=10,  # the launcher
                    minibatches=16,  # the launcher: minibatches of 512
                    anneal=True,  # the launcher: linear decay
                    max_grad_norm=0.5,  # the launcher (there over actor and critic together)
                    adam_eps=1e-8,  # torch's default
                ),
            ),
            value=ValueFit(
                SGD(lr=3e-4, epochs=10, minibatches=16, anneal=True, adam_eps=1e-8),  # the same
                clip=0.2,  # the launcher: value clipping
            ),
            num_envs=64,  # the launcher
            batch=8192,  # the launcher
            gamma=0.99,  # the launcher
            lam=0.95,  # the launcher
            normalize_advantage="none",  # the launcher
            networks=Networks(log_std_init=-0.5),  # the launcher: sigma = exp(-0.5)
        ),
    ),
    Preset(
        name="trpl-mujoco",
        methods=("trpl",),
        envs=TASKS,
        source="the KL configuration that FixPO's authors ran (methods.md 3.17.8)",
        config=Config(
            method=TRPL(
                metric=KLMetric(),
                mean_bound=0.03,  # Otto et al. 2021, and that configuration
                cov_bound=0.001,  # the same
                regression=8.0,  # that configuration
                sgd=SGD(
                    lr=5e-5,  # that configuration
                    epochs=20,  # the same
                    minibatches=32,  # the same
                    max_grad_norm=None,  # the same: no gradient clip
                ),
            ),
            value=ValueFit(
                SGD(lr=4.5e-4, epochs=10, minibatches=32, max_grad_norm=None)
            ),  # that configuration
            num_envs=8,
            batch=2048,  # that configuration
            gamma=0.99,  # Otto et al.'s code
            lam=0.95,  # the same
            normalize_advantage="minibatch",  # the same
            normalize_reward=False,  # the same; observations are normalised
        ),
    ),
    Preset(
        name="trpl-mujoco-wasserstein",
        methods=("trpl",),
        envs=(),
        source="Otto et al.'s code, HalfCheetah with the Wasserstein metric (methods.md 3.17.8)",
        config=Config(
            method=TRPL(
                metric=WassersteinMetric(),
                mean_bound=0.085,  # that configuration
                cov_bound=5e-5,  # the same
                regression=1.0,  # the same
                sgd=SGD(lr=5e-5, epochs=20, minibatches=128, max_grad_norm=None),  # the same
            ),
            value=ValueFit(
                SGD(lr=7.5e-4, epochs=10, minibatches=128, max_grad_norm=None)
            ),  # the same
            num_envs=8,
            batch=2048,  # the same
            normalize_advantage="minibatch",  # the same
            normalize_reward=False,  # the same
        ),
    ),
    Preset(
        name="papi-mujoco",
        methods=("papi",),
        envs=TASKS,
        source="Otto et al.'s code, PAPI on Humanoid (methods.md 3.17.8), its schedule of rates "
        "left out",
        config=Config(
            method=PAPI(
                max_kl=0.015,  # that configuration
                clip=0.2,  # the same
                sgd=SGD(lr=3e-4, epochs=10, minibatches=32),  # the same
            ),
            value=ValueFit(SGD(lr=2.5e-4, epochs=10, minibatches=32)),  # the same
            num_envs=8,
            batch=2048,  # the same
            normalize_advantage="minibatch",  # Otto et al.'s code
        ),
    ),
]
