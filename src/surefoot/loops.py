"""One update after another: host environments stepped by a Python loop, device environments inside
the compiled call."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from surefoot.checkpoint import digest, tree_from_arrays, tree_to_arrays
from surefoot.checks import EnvironmentFault
from surefoot.config import Config
from surefoot.envs.device import DeviceEnv, EnvState
from surefoot.normalize import host_moments
from surefoot.rollouts.branches import VineCollector
from surefoot.rollouts.device import Finished, collect
from surefoot.rollouts.host import Episode, HostCollector
from surefoot.rollouts.vine import collect_vine
from surefoot.train import Algorithm, TrainState, init_state, learn, learn_jit
from surefoot.types import Rollout

SAVED = ("snapshot", "replay")
"""Levels at which a checkpoint holds the environments; at the others new episodes begin."""


def release_memory() -> None:
    """Give back to the system what compiling took: hundreds of megabytes that glibc otherwise
    keeps.

    Does nothing where the C library has no such call.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Outcome(NamedTuple):
    """What one update reports."""

    report: dict[str, Any]
    """What `learn` reports, as Python numbers and lists of them."""
    episodes: list[Episode]
    """Episodes that ended while its rollout was collected, in order."""
    env_steps: int
    """Environment steps its rollout counts for: rows that are only resets are not steps."""
    seconds_collect: float
    """Seconds in environments and acting; on the device the whole update, which is one call."""
    seconds_learn: float
    """Seconds in `learn`."""


@runtime_checkable
class Loop(Protocol):
    """Collects and learns once per call."""

    level: str
    """How exactly a run of these environments can go on from a checkpoint: `snapshot` (their state
    is saved), `replay` (the actions of the running episodes are), `barrier` (in broken and unbroken
    runs alike new episodes begin at a checkpoint), `inexact` (new episodes begin after a resume
    only)."""
    words: str
    """The same for people."""
    rollout: Any
    """What the last call learned from: on the device where it was made there, on the host good
    until the next call."""

    def iterate(self, ts: TrainState) -> tuple[TrainState, Outcome]: ...
    def prove(self) -> None: ...
    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]: ...
    def restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any], where: str) -> None: ...
    def begin(self, ts: TrainState, checkpoint: int) -> TrainState: ...
    def fingerprint(self, ts: TrainState) -> str: ...
    def close(self) -> None: ...


def begin_seed(seed: int, checkpoint: int) -> int:
    """Seed below 2^31 of the episodes that begin at a checkpoint: a function of the run's seed and
    its number alone."""
    return int(np.random.SeedSequence([seed, 5, checkpoint]).generate_state(1)[0]) >> 1


def fresh_state(config: Config[Any, Any], spec: Any) -> TrainState:
    """The training state before the first update of a run."""
    return init_state(
        config.algorithm,
        config.networks,
        spec,
        config.seed,
        config.updates,
        normalize_obs=config.normalize_obs,
        normalize_reward=config.normalize_reward,
    )


def plain(report: dict[str, Any]) -> dict[str, Any]:
    """A fetched report in the order of its keys: scalars as Python bools, ints and floats, vectors
    as lists of them. Raises `ValueError` for an array of more dimensions."""
    for key, value in report.items():
        if np.ndim(value) > 1:
            raise ValueError(
                f"{key} of a report has shape {np.shape(value)}; allowed: numbers and vectors"
            )
    return {k: np.asarray(v).tolist() for k, v in sorted(report.items())}


class HostLoop:
    """Collection in Python, learning in one compiled call."""

    def __init__(self, config: Config[Any, Any], env: Any) -> None:
        self.algorithm = config.algorithm
        self.collector = HostCollector(env, config.rollout_steps, config.seed)
        self.env = env
        self.rollout: Any = None
        self.level, self.words = env.resume_level()
        vine, gamma = self.algorithm.vine, self.algorithm.advantage.gamma
        self.vine = VineCollector(self.collector, vine, gamma) if vine.states else None

    def prove(self) -> None:
        """Try on scratch copies whether environments come back exactly; the level falls to
        `inexact` where they do not."""
        self.level, self.words = self.env.resume_level(prove=True)

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What a checkpoint must hold of the environments and of episodes that run: arrays by name,
        and JSON data."""
        c = self.collector
        state: dict[str, Any] = {
            "steps": c.steps,
            "seed": c.begin_seed,
            "begun": c.last is not None,
        }
        if c.last is None or self.level not in SAVED:
            return {}, state
        try:
            arrays, inner = self.env.capture()
        except EnvironmentFault as error:  # it holds something now that it did not at the start
            self.level, self.words = "inexact", str(error)
            return {}, state | {"lost": str(error)}
        arrays = {f"env/{k}": v for k, v in arrays.items()} | {
            "last": c.last,
            "running_return": c.running_return,
            "running_length": c.running_length,
        }
        return arrays, state | {"env": inner}

    def restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any], where: str) -> None:
        """Bring freshly made environments to where `capture` saw them. Raises `EnvironmentFault`
        where they do not come back."""
        c = self.collector
        c.steps = state["steps"]
        c.begin(state["seed"])
        if "lost" in state:
            self.level, self.words = "inexact", state["lost"]
        if "last" not in arrays:
            return
        inner = {k.removeprefix("env/"): v for k, v in arrays.items() if k.startswith("env/")}
        self.env.restore(inner, state["env"])
        c.last = np.array(arrays["last"])
        c.running_return = np.array(arrays["running_return"])
        c.running_length = np.array(arrays["running_length"])

    def begin(self, ts: TrainState, checkpoint: int) -> TrainState:
        """Cut the episodes that run and begin new ones, seeded by run and checkpoint.

        The rollout before has been bootstrapped at its end, so the cut ones count as truncated;
        they are not reported, and the trace of rewards forgets them.
        """
        self.collector.begin(begin_seed(self.collector.seed, checkpoint))
        return dataclasses.replace(ts, return_trace=np.zeros(ts.return_trace.shape, np.float32))

    def fingerprint(self, ts: TrainState) -> str:
        """SHA-256 of what this machine's compiled update makes of `ts` and a rollout of noise in
        the run's own shapes."""
        rollout = (self.vine or self.collector).example()
        obs, mask = np.asarray(rollout.obs[:-1], np.float64), np.asarray(rollout.mask)
        seen = None if ts.obs_stats is None else host_moments(obs, mask)
        return digest(tree_to_arrays(learn_jit(self.algorithm, ts, rollout, seen)[0]))

    def iterate(self, ts: TrainState) -> tuple[TrainState, Outcome]:
        """One rollout and one update. Raises `EnvironmentFault` where the environment fails; `ts`
        is then the last state."""
        start = time.perf_counter()
        collector = self.vine or self.collector
        rollout, seen, episodes = collector.collect(ts.policy, ts.obs_stats, int(ts.update))
        self.rollout, collected = rollout, time.perf_counter()
        ts, report = learn_jit(self.algorithm, ts, rollout, seen)
        report = plain(jax.device_get(report))
        done = time.perf_counter()
        return ts, Outcome(
            report, episodes, int(report.pop("rows")), collected - start, done - collected
        )

    def close(self) -> None:
        """Close the environments."""
        self.collector.env.close()
        if self.vine is not None:
            self.vine.close()


def iteration(
    algo: Algorithm, env: DeviceEnv, num_steps: int, ts: TrainState, state: EnvState
) -> tuple[TrainState, EnvState, dict[str, Any], Finished, Rollout]:
    """Collect and learn, as one pure function of training state and environment state."""
    key, k_collect = jax.random.split(ts.key)
    here = (ts.policy, ts.obs_stats, state, k_collect, num_steps)
    state, rollout, seen, finished = (
        collect_vine(env, algo.vine, algo.advantage.gamma, *here)
        if algo.vine.states
        else collect(env, *here)
    )
    ts = TrainState(**{f: getattr(ts, f) for f in ts.__dataclass_fields__} | {"key": key})
    ts, report = learn(algo, ts, rollout, seen)
    return ts, state, report, finished, rollout


iteration_jit = jax.jit(iteration, static_argnums=(0, 1, 2))


class DeviceLoop:
    """Collection and learning in one compiled call."""

    def __init__(self, config: Config[Any, Any], env: DeviceEnv) -> None:
        self.algorithm, self.env, self.num_steps = config.algorithm, env, config.rollout_steps
        self.call: Callable[..., Any] = iteration_jit
        """Collects and learns once; another may stand in for it, as when seeds go as one `vmap`."""
        word = int(np.random.SeedSequence([config.seed, 3]).generate_state(1)[0])
        self.state = self._initial = jax.jit(env.reset)(jax.random.key(word))
        self.steps = 0
        self.rollout: Any = None
        self.level, self.words = "snapshot", "environments on the device"

    def prove(self) -> None:
        """Nothing to try: the environments are data."""

    def capture(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The state of the environments, as arrays by name, and the steps they made."""
        return tree_to_arrays(self.state), {"steps": self.steps}

    def restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any], where: str) -> None:
        """The environments as they were captured. Raises `DamagedCheckpoint` where a leaf is
        missing or misshapen."""
        self.state, self.steps = tree_from_arrays(self.state, arrays, where), state["steps"]

    def begin(self, ts: TrainState, checkpoint: int) -> TrainState:
        """Nothing begins anew: the state is saved."""
        return ts

    def fingerprint(self, ts: TrainState) -> str:
        """SHA-256 of what this machine's compiled iteration makes of `ts` and the first states of
        the environments."""
        made = self.call(self.algorithm, self.env, self.num_steps, ts, self._initial)
        return digest(tree_to_arrays(made[:2]))

    def iterate(self, ts: TrainState) -> tuple[TrainState, Outcome]:
        """One rollout and one update. Raises `EnvironmentFault` where a reward or observation was
        not finite."""
        start = time.perf_counter()
        new, self.state, report, finished, self.rollout = self.call(
            self.algorithm, self.env, self.num_steps, ts, self.state
        )
        report, finished = jax.device_get((report, finished))
        report = plain(report)
        if not finished.finite.all():
            t, i = np.argwhere(~finished.finite)[0]
            name, step = (
                f"{self.env.spec.suite}:{self.env.spec.id}",
                self.steps + int(t) * self.env.spec.num_envs,
            )
            raise EnvironmentFault(
                f"a reward or observation is not finite in environment {i} of {name} at step {step}"
            )
        rows = int(report.pop("rows"))
        self.steps += rows
        where = np.argwhere(finished.ended)
        episodes = [
            Episode(float(finished.episode_return[t, i]), int(finished.length[t, i]))
            for t, i in where
        ]
        return new, Outcome(report, episodes, rows, 0.0, time.perf_counter() - start)

    def close(self) -> None:
        """Nothing to close."""


def make_loop(config: Config[Any, Any], env: Any) -> Loop:
    """The loop for environments on the host or on the device."""
    return DeviceLoop(config, env) if env.spec.on_device else HostLoop(config, env)
