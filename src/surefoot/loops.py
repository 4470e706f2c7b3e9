"""One update after another: host environments stepped by a Python loop, device environments inside
the compiled call."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from surefoot.checks import EnvironmentFault
from surefoot.config import Config
from surefoot.envs.device import DeviceEnv, EnvState
from surefoot.rollouts.device import Finished, collect
from surefoot.rollouts.host import Episode, HostCollector
from surefoot.train import Algorithm, TrainState, init_state, learn, learn_jit


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
    """Scalars of `learn`, as Python numbers."""
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

    def iterate(self, ts: TrainState) -> tuple[TrainState, Outcome]: ...
    def close(self) -> None: ...


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
    """A fetched report as Python bools, ints and floats, in the order of its keys."""
    return {k: np.asarray(v).item() for k, v in sorted(report.items())}


class HostLoop:
    """Collection in Python, learning in one compiled call."""

    def __init__(self, config: Config[Any, Any], env: Any) -> None:
        self.algorithm = config.algorithm
        self.collector = HostCollector(env, config.rollout_steps, config.seed)

    def iterate(self, ts: TrainState) -> tuple[TrainState, Outcome]:
        """One rollout and one update. Raises `EnvironmentFault` where the environment fails; `ts`
        is then the last state."""
        start = time.perf_counter()
        rollout, seen, episodes = self.collector.collect(ts.policy, ts.obs_stats, int(ts.update))
        collected = time.perf_counter()
        ts, report = learn_jit(self.algorithm, ts, rollout, seen)
        report = plain(jax.device_get(report))
        done = time.perf_counter()
        return ts, Outcome(
            report, episodes, int(report.pop("rows")), collected - start, done - collected
        )

    def close(self) -> None:
        """Close the environments."""
        self.collector.env.close()


def iteration(
    algo: Algorithm, env: DeviceEnv, num_steps: int, ts: TrainState, state: EnvState
) -> tuple[TrainState, EnvState, dict[str, Any], Finished]:
    """Collect and learn, as one pure function of training state and environment state."""
    key, k_collect = jax.random.split(ts.key)
    state, rollout, seen, finished = collect(
        env, ts.policy, ts.obs_stats, state, k_collect, num_steps
    )
    ts = TrainState(**{f: getattr(ts, f) for f in ts.__dataclass_fields__} | {"key": key})
    ts, report = learn(algo, ts, rollout, seen)
    return ts, state, report, finished


iteration_jit = jax.jit(iteration, static_argnums=(0, 1, 2))


class DeviceLoop:
    """Collection and learning in one compiled call."""

    def __init__(self, config: Config[Any, Any], env: DeviceEnv) -> None:
        self.algorithm, self.env, self.num_steps = config.algorithm, env, config.rollout_steps
        key = jax.random.key(int(np.random.SeedSequence([config.seed, 3]).generate_state(1)[0]))
        self.state = jax.jit(env.reset)(key)
        self.steps = 0

    def iterate(self, ts: TrainState) -> tuple[TrainState, Outcome]:
        """One rollout and one update. Raises `EnvironmentFault` where a reward or observation was
        not finite."""
        start = time.perf_counter()
        new, self.state, report, finished = iteration_jit(
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
        self.steps += self.num_steps * self.env.spec.num_envs
        where = np.argwhere(finished.ended)
        episodes = [
            Episode(float(finished.episode_return[t, i]), int(finished.length[t, i]))
            for t, i in where
        ]
        return new, Outcome(
            report, episodes, int(report.pop("rows")), 0.0, time.perf_counter() - start
        )

    def close(self) -> None:
        """Nothing to close."""


def make_loop(config: Config[Any, Any], env: Any) -> Loop:
    """The loop for environments on the host or on the device."""
    return DeviceLoop(config, env) if env.spec.on_device else HostLoop(config, env)
