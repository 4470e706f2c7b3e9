"""Presets for classic control, after the RL zoo's tuned files (methods.md 4.1). 64 x 64 tanh."""

from __future__ import annotations

from surefoot.config import Config
from surefoot.methods.fixpo import FixPO
from surefoot.methods.npg import NPG
from surefoot.methods.ppo import PPO
from surefoot.methods.trpl import TRPL
from surefoot.methods.trpo import TRPO
from surefoot.presets import Preset
from surefoot.sgd import SGD
from surefoot.value import ValueFit

CLASSIC = [
    Preset(
        name="trpo-cartpole",
        methods=("trpo",),
        envs=("CartPole-v1",),
        source="RL zoo, trpo.yml CartPole-v1",
        config=Config(
            method=TRPO(
                cg_damping=1e-3,  # RL zoo
                cg_iters=15,  # sb3-contrib's default, which the zoo keeps
            ),
            value=ValueFit(
                SGD(
                    lr=1e-3,  # RL zoo
                    epochs=20,  # RL zoo: n_critic_updates
                    minibatches=8,  # sb3-contrib: minibatches of 128
                    max_grad_norm=None,  # sb3-contrib
                )
            ),
            steps=100_000,  # RL zoo
            num_envs=2,  # RL zoo
            batch=1024,  # RL zoo: 512 steps of 2 environments
            gamma=0.99,  # RL zoo
            lam=0.98,  # RL zoo
            normalize_obs=False,  # RL zoo
            normalize_reward=False,  # RL zoo
        ),
    ),
    Preset(
        name="ppo-cartpole",
        methods=("ppo",),
        envs=("CartPole-v1",),
        source="RL zoo, ppo.yml CartPole-v1",
        config=Config(
            method=PPO(
                clip=0.2,  # RL zoo (there it also falls linearly)
                sgd=SGD(
                    lr=1e-3, epochs=20, minibatches=1, anneal=True
                ),  # RL zoo: batch 256, 20 epochs, lr 1e-3 linear
            ),
            value=ValueFit(
                SGD(lr=1e-3, epochs=20, minibatches=1, anneal=True)
            ),  # RL zoo: the same passes
            steps=100_000,  # RL zoo
            num_envs=8,  # RL zoo
            batch=256,  # RL zoo: 32 steps of 8 environments
            gamma=0.98,  # RL zoo
            lam=0.8,  # RL zoo
            normalize_advantage="minibatch",  # SB3's default, which the zoo keeps
            normalize_obs=False,  # RL zoo
            normalize_reward=False,  # RL zoo
        ),
        num_envs_by_suite=False,
    ),
    Preset(
        name="npg-cartpole",
        methods=("npg",),
        envs=("CartPole-v1",),
        source="the TRPO preset without its line search",
        config=Config(
            method=NPG(max_kl=0.01, cg_damping=1e-3, cg_iters=15),  # as trpo-cartpole
            value=ValueFit(
                SGD(lr=1e-3, epochs=20, minibatches=8, max_grad_norm=None)
            ),  # as trpo-cartpole
            steps=100_000,
            num_envs=2,
            batch=1024,
            lam=0.98,
            normalize_obs=False,
            normalize_reward=False,
        ),
    ),
    Preset(
        name="trpo-pendulum",
        methods=("trpo",),
        envs=("Pendulum-v1",),
        source="RL zoo, trpo.yml Pendulum-v1, without its state-dependent exploration; "
        "rewards normalised",
        config=Config(
            method=TRPO(),
            value=ValueFit(
                SGD(lr=1e-3, epochs=15, minibatches=16, max_grad_norm=None)
            ),  # RL zoo: 15 critic passes
            steps=300_000,  # more than the zoo's 1e5, which counts on state-dependent exploration
            num_envs=2,  # RL zoo
            batch=2048,  # RL zoo: 1024 steps of 2 environments
            gamma=0.9,  # RL zoo
            lam=0.95,
        ),
    ),
    Preset(
        name="ppo-pendulum",
        methods=("ppo",),
        envs=("Pendulum-v1",),
        source="RL zoo, ppo.yml Pendulum-v1, without its state-dependent exploration; "
        "rewards normalised",
        config=Config(
            method=PPO(
                clip=0.2, sgd=SGD(lr=1e-3, epochs=10, minibatches=64)
            ),  # RL zoo: lr 1e-3, minibatches of 64
            value=ValueFit(SGD(lr=1e-3, epochs=10, minibatches=64)),
            steps=300_000,  # more than the zoo's 1e5, which counts on state-dependent exploration
            num_envs=4,  # RL zoo
            batch=4096,  # RL zoo: 1024 steps of 4 environments
            gamma=0.9,  # RL zoo
            lam=0.95,  # RL zoo
            normalize_advantage="minibatch",
        ),
    ),
    Preset(
        name="ppo-acrobot",
        methods=("ppo",),
        envs=("Acrobot-v1", "MountainCar-v0"),
        source="RL zoo, ppo.yml Acrobot-v1",
        config=Config(
            method=PPO(
                sgd=SGD(lr=3e-4, epochs=4, minibatches=64)
            ),  # RL zoo: 4 epochs, minibatches of 64
            value=ValueFit(SGD(lr=3e-4, epochs=4, minibatches=64)),
            steps=1_000_000,  # RL zoo
            num_envs=16,  # RL zoo
            batch=4096,  # RL zoo: 256 steps of 16 environments
            lam=0.94,  # RL zoo
            normalize_advantage="minibatch",
        ),
    ),
    Preset(
        name="trpo-acrobot",
        methods=("trpo",),
        envs=("Acrobot-v1", "MountainCar-v0"),
        source="RL zoo, trpo.yml Acrobot-v1 and MountainCar-v0",
        config=Config(
            method=TRPO(),
            value=ValueFit(
                SGD(lr=1e-3, epochs=20, minibatches=16, max_grad_norm=None)
            ),  # RL zoo: 20 critic passes
            steps=100_000,  # RL zoo
            num_envs=2,  # RL zoo
            batch=2048,  # RL zoo: 1024 steps of 2 environments
        ),
    ),
    Preset(
        name="fixpo-pendulum",
        methods=("fixpo",),
        envs=("Pendulum-v1",),
        source="FixPO's published settings on the batch and rate of ppo-pendulum, "
        "advantages standardised",
        config=Config(
            method=FixPO(sgd=SGD(lr=1e-3, epochs=10, minibatches=32, anneal=True, adam_eps=1e-8)),
            value=ValueFit(SGD(lr=1e-3, epochs=10, minibatches=32)),
            steps=300_000,
            num_envs=4,  # as ppo-pendulum
            batch=4096,  # as ppo-pendulum
            gamma=0.9,  # as ppo-pendulum
            lam=0.95,  # as ppo-pendulum
        ),
    ),
    Preset(
        name="fixpo-cartpole",
        methods=("fixpo",),
        envs=("CartPole-v1",),
        source="FixPO's published settings on the batch of ppo-cartpole, advantages standardised",
        config=Config(
            method=FixPO(
                sgd=SGD(lr=1e-3, epochs=10, minibatches=4, anneal=True, adam_eps=1e-8),
                fixup_minibatches=4,
            ),
            value=ValueFit(SGD(lr=1e-3, epochs=10, minibatches=4, anneal=True)),
            steps=100_000,
            num_envs=8,
            batch=1024,
            gamma=0.98,
            lam=0.95,
            normalize_obs=False,
            normalize_reward=False,
        ),
    ),
    Preset(
        name="trpl-cartpole",
        methods=("trpl",),
        envs=("CartPole-v1",),
        source="tuned here (no settings are published for discrete actions), bounds as in the "
        "paper; 500 of 500 with seeds 0 to 2",
        config=Config(
            method=TRPL(
                sgd=SGD(lr=1e-3, epochs=10, minibatches=8, max_grad_norm=None),  # tuned here
            ),
            value=ValueFit(SGD(lr=1e-3, epochs=10, minibatches=8, max_grad_norm=None)),
            steps=100_000,  # RL zoo
            num_envs=8,  # RL zoo, ppo.yml
            batch=1024,  # RL zoo, trpo.yml
            gamma=0.98,  # RL zoo, ppo.yml
            lam=0.9,  # between the zoo's two, 0.8 and 0.98
            normalize_advantage="minibatch",  # Otto et al.'s code
            normalize_obs=False,  # RL zoo
            normalize_reward=False,  # RL zoo
        ),
        num_envs_by_suite=False,
    ),
    Preset(
        name="trpl-lunarlander",
        methods=("trpl",),
        envs=("LunarLander-v3",),
        source="the collection of RL zoo's ppo.yml LunarLander, the bounds of the paper; 273 over "
        "20 episodes after 400 000 steps with seed 0",
        config=Config(
            method=TRPL(
                sgd=SGD(lr=3e-4, epochs=10, minibatches=64, max_grad_norm=None),  # tuned here
            ),
            value=ValueFit(SGD(lr=1e-3, epochs=10, minibatches=64, max_grad_norm=None)),
            steps=1_000_000,  # RL zoo
            num_envs=16,  # RL zoo
            batch=4096,  # a quarter of the zoo's, whose 16384 leave 61 updates
            gamma=0.999,  # RL zoo
            lam=0.98,  # RL zoo
            normalize_advantage="minibatch",  # Otto et al.'s code
            normalize_reward=False,  # Otto et al.'s code
        ),
        num_envs_by_suite=False,
    ),
]
