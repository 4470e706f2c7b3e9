"""What the learning gate trains, and its scores: the settings of every method, many seeds as one
`vmap`, and losses that are planted. `gate.py` is the command.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from surefoot import envs
from surefoot.advantages import GAE, successor_values
from surefoot.config import Config, method_class
from surefoot.envs.device import DeviceEnv
from surefoot.envs.probes import PROBES
from surefoot.experiments.plan import digest, settings_hash
from surefoot.loops import fresh_state, iteration
from surefoot.methods import METHODS
from surefoot.networks import Networks
from surefoot.sgd import SGD
from surefoot.value import SharedValue, ValueFit
from surefoot.wrappers.fixup import Fixup
from surefoot.wrappers.virtual_region import VirtualRegion

SCORE = 1
"""Goes up when a score means something else: what was calibrated before is stale then."""

GAMMA = 0.9
"""Discount of the probes."""
VALUES = {
    "constant": {0: 1.0},
    "observed": {-1: -1.0, 1: 1.0},
    "delayed": {0: GAMMA, 1: 1.0},
}
"""Probe -> observation -> what the critic must say there: no action changes it."""
CHOICES = ("acted", "matched")
"""Probes where the action decides about the reward."""
PROBE_TASKS = (*VALUES, *CHOICES)
CARTPOLE = "CartPole-v1"
TASKS = (*PROBE_TASKS, CARTPOLE)

ADAM = SGD(lr=3e-3, epochs=4, minibatches=4)
WHOLE = SGD(lr=3e-3, epochs=8, minibatches=1)
"""For methods that step on the whole batch."""
CRITIC = ValueFit(SGD(lr=1e-2, epochs=4, minibatches=4, max_grad_norm=None))

OWN: dict[str, dict[str, Any]] = {
    "trefree": {"sgd": ADAM, "delta": 0.1},  # with the paper's 0.01 it learns little in 20 updates
    "mdpo": {"sgd": WHOLE},
    "vmpo": {"sgd": WHOLE, "eps_eta": 0.1, "target_kl": 0.1, "dual_lr": 1e-2},
    "mcpo": {"sgd": ADAM, "memory_size": 5},
}
"""Fields of the methods that the gate sets otherwise than to `ADAM`."""
WRAPPED = {
    "fixup-ppo": lambda ppo: Fixup(ppo, max_kl=0.1),
    "virtual-ppo": lambda ppo: VirtualRegion(ppo, weight=0.5),
}
NAMES = (*METHODS, *WRAPPED)
"""What the gate watches: every method, and the wrappers round PPO."""


def method(name: str) -> Any:
    """The record of a method, with the gate's fields."""
    if name in WRAPPED:
        return WRAPPED[name](method("ppo"))
    record = method_class(name)
    takes = {f.name for f in dataclasses.fields(record)}
    return record(**OWN.get(name, {"sgd": ADAM} if "sgd" in takes else {}))


def config(name: str, task: str) -> Config[Any, Any]:
    """The gate's settings of a method on a task: a run that `surefoot train` could make."""
    joint = name == "mcpo"  # policy and critic are one tree, as in its paper
    probe = task in PROBE_TASKS
    return Config(
        method=method(name),
        value=SharedValue() if joint else CRITIC,
        env=f"probe:{task}" if probe else f"jax:{task}",
        num_envs=16 if probe else 32,
        num_steps=8 if probe else 32,
        steps=40 * 128 if probe else 20 * 1024,
        gamma=GAMMA if probe else 0.98,
        lam=0.9,
        normalize_obs=False,
        normalize_reward=False,
        networks=Networks(hidden=(8,) if probe else (16, 16), joint=joint),
    )


def settings(name: str) -> str:
    """Eight hex digits of all that decides about the scores of a method, but for the code."""
    return digest([SCORE, TASKS, *(settings_hash(config(name, t)) for t in TASKS)])


@dataclass(frozen=True)
class AnyProbe:
    """One of the probes that are scored, chosen by an index that may be traced: all of them are one
    compiled program. Those with a single action ignore which of two is taken."""

    kind: Any
    id: str = "any"
    suite: str = "probe"
    obs_dim: int = 1
    action_dim: int = 2
    discrete: bool = True
    max_episode_steps: int | None = None

    def _pick(self, made: Sequence[Any]) -> Any:
        return jax.tree.map(lambda *x: jnp.stack(x)[self.kind], *made)

    def reset(self, key: Any) -> Any:
        """A first state of the chosen probe."""
        return self._pick([PROBES[p]().reset(key) for p in PROBE_TASKS])

    def step(self, state: Any, action: Any, key: Any) -> Any:
        """A step of the chosen probe."""
        return self._pick([PROBES[p]().step(state, action, key) for p in PROBE_TASKS])


@dataclass(frozen=True)
class Flipped:
    """A method that gets the sign of some advantages wrong: what a bug in an index might do. With
    share 0 it is the method, bit for bit."""

    inner: Any
    share: Any
    """Share of rows whose advantage has its sign flipped, drawn anew in every update; may be
    traced."""

    @property
    def first_order(self) -> bool:
        return self.inner.first_order

    @property
    def promise(self) -> str:
        return "none"

    def init(self, policy: Any, key: Any) -> Any:
        return self.inner.init(policy, key)

    def update(self, policy: Any, state: Any, batch: Any, key: Any, *, penalty: Any) -> Any:
        flipped = jax.random.bernoulli(
            jax.random.fold_in(key, 0x5EED), self.share, batch.advantage.shape
        )
        advantage = jnp.where(flipped, -batch.advantage, batch.advantage)
        batch = dataclasses.replace(batch, advantage=advantage)
        return self.inner.update(policy, state, batch, key, penalty=penalty)


@dataclass(frozen=True)
class Leaking(GAE):
    """Advantages and value targets that take some of the successor's value where an episode has
    terminated and nothing follows: what is wrong where ends are not told apart. With share 0 they
    are as they should be, with 1 every termination is taken for a truncation."""

    share: Any = 0.0
    """Of the successor's value; may be traced."""

    def __call__(self, rollout: Any, policy: Any, value: Any, progress: Any) -> Any:
        _, after = successor_values(rollout, value)
        leak = self.share * self.gamma * jnp.where(rollout.terminated, after, 0)
        rollout = dataclasses.replace(rollout, reward=rollout.reward + leak)
        return super().__call__(rollout, policy, value, progress)


FAULTS: dict[str, Callable[[Any, Any], Any]] = {
    "policy": lambda algo, share: dataclasses.replace(algo, method=Flipped(algo.method, share)),
    "critic": lambda algo, share: dataclasses.replace(
        algo, advantage=Leaking(**dataclasses.asdict(algo.advantage), share=share)
    ),
}
"""What can be planted, by what it reaches: (what is trained, share) -> the same with the fault."""
AIMS = {"policy": (*CHOICES, CARTPOLE), "critic": tuple(VALUES)}
"""The tasks that show a fault."""


def fault_of(task: str) -> str:
    """The fault whose loss is looked for on a task."""
    return next(kind for kind, tasks in AIMS.items() if task in tasks)


@dataclass(frozen=True)
class Planted:
    """A fault and how much of it there is, from 0 to 1."""

    kind: str
    share: float


def compiled(name: str, probe: bool, kind: str | None) -> Callable[..., Any]:
    """All runs of one call as one compiled program: (training states, words of environments, kinds
    of probes, shares of the fault) -> episodes ended [runs, updates], their returns summed, and
    the critic at -1, 0 and 1 (zeros on CartPole). `kind`: the fault that is planted."""
    task = PROBE_TASKS[-1] if probe else CARTPOLE
    setup = config(name, task)

    def whole(ts: Any, word: Any, which: Any, share: Any) -> Any:
        algo = setup.algorithm if kind is None else FAULTS[kind](setup.algorithm, share)
        env = (
            DeviceEnv(AnyProbe(which), setup.num_envs)
            if probe
            else envs.make(setup.env, setup.num_envs)
        )

        def one(carry: Any, _: Any) -> Any:
            ts, state, _, done, _ = iteration(algo, env, setup.rollout_steps, *carry)
            returns = jnp.where(done.ended, done.episode_return, 0)
            return (ts, state), (jnp.sum(done.ended), jnp.sum(returns))

        start = (ts, env.reset(jax.random.key(word)))
        (ts, _), (ended, total) = jax.lax.scan(one, start, None, length=setup.updates)
        said = jnp.zeros(3)
        if probe:
            said = algo.value.of(ts.policy, ts.critic)(jnp.asarray([[-1.0], [0.0], [1.0]]))
        return ended, total, said

    return jax.jit(jax.vmap(whole))


@functools.lru_cache(maxsize=4)
def program(name: str, probe: bool, kind: str | None) -> Callable[..., Any]:
    """`compiled`, kept: it is compiled once for every number of runs."""
    return compiled(name, probe, kind)


def first_state(setup: Config[Any, Any], seed: int) -> tuple[Any, np.uint32]:
    """The training state of a seed before its first update, and the word its environments begin
    with, as in a run of its own (`DeviceLoop`)."""
    spec = envs.make("probe:matched" if setup.env.startswith("probe:") else setup.env, 1).spec
    spec = dataclasses.replace(spec, num_envs=setup.num_envs)
    word = np.random.SeedSequence([seed, 3]).generate_state(1)[0]
    return fresh_state(dataclasses.replace(setup, seed=seed), spec), word


def raw(
    name: str, tasks: Sequence[str], seeds: Sequence[int], planted: Planted | None = None
) -> tuple[Any, Any, Any]:
    """What `compiled` gives for every task and seed, tasks outer, seeds inner: one call. Either all
    tasks are probes or the one task is CartPole."""
    probe = tasks[0] in PROBE_TASKS
    setup = config(name, tasks[0])
    states, words = zip(*(first_state(setup, s) for s in seeds), strict=True)
    many = jax.tree.map(lambda *x: jnp.stack(list(x) * len(tasks)), *states)
    which = [PROBE_TASKS.index(t) if probe else 0 for t in tasks for _ in seeds]
    shares = jnp.full(len(which), planted.share if planted else 0.0)
    run = program(name, probe, planted.kind if planted else None)
    return jax.device_get(run(many, jnp.asarray(words * len(tasks)), jnp.asarray(which), shares))


def score(
    name: str, tasks: Sequence[str], seeds: Sequence[int], planted: Planted | None = None
) -> dict[str, np.ndarray]:
    """Task -> score of every seed's run, [seeds]; more is better, NaN where no episode ended.

    Where actions decide: the mean return of all training episodes, so that learning later, less, or
    not for long all lower it. Where only the critic can be wrong: minus its largest error at the
    end; below a hundredth it says more about rounding than about learning, and counts as that.
    """
    ended, total, said = (
        np.asarray(x, float).reshape(len(tasks), len(seeds), -1)
        for x in raw(name, tasks, seeds, planted)
    )
    out = {}
    for i, task in enumerate(tasks):
        if task in VALUES:
            far = [np.abs(said[i, :, obs + 1] - v) for obs, v in VALUES[task].items()]
            out[task] = -np.maximum(np.max(far, axis=0), 0.01)
        else:
            episodes = ended[i].sum(-1)
            out[task] = np.where(episodes > 0, total[i].sum(-1) / np.maximum(episodes, 1), np.nan)
    return out
