"""Runs with a certificate, made by the loops and the writer alone, for tests of both."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from surefoot import checkpoint, envs
from surefoot.certificate import Certifier, attest, evidence, promised
from surefoot.checkpoint import tree_to_arrays
from surefoot.config import Config
from surefoot.loops import fresh_state, plain
from surefoot.methods.ppo import PPO
from surefoot.methods.trpl import TRPL
from surefoot.methods.trpo import TRPO
from surefoot.networks import Networks
from surefoot.provenance import write_config
from surefoot.rollouts.device import collect
from surefoot.rollouts.host import HostCollector
from surefoot.sgd import SGD
from surefoot.sinks import JsonLines, Update
from surefoot.train import learn, learn_jit
from surefoot.value import ValueFit

FIT = ValueFit(SGD(lr=1e-3, epochs=1, minibatches=1))
FEW = SGD(lr=3e-3, epochs=2, minibatches=2)
METHODS = {"trpo": TRPO(), "ppo": PPO(sgd=FEW)}
METHODS["trpl"] = TRPL(mean_bound=3e-4, cov_bound=2e-5, sgd=FEW)


def config(method: str = "trpo", env: str = "Pendulum-v1", updates: int = 12, **fields: Any) -> Any:
    """Tiny settings: 2 environments x 16 steps, 8 hidden units."""
    base = Config(
        method=METHODS[method],
        value=FIT,
        env=env,
        num_envs=2,
        num_steps=16,
        steps=32 * updates,
        networks=Networks(hidden=(8,)),
    )
    return dataclasses.replace(base, **fields)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def on_device(algo: Any, env: Any, steps: int, ts: Any, state: Any) -> tuple[Any, ...]:
    """Collect and learn in one call that also gives the rollout."""
    key, k_collect = jax.random.split(ts.key)
    state, rollout, seen, _ = collect(env, ts.policy, ts.obs_stats, state, k_collect, steps)
    ts, report = learn(algo, dataclasses.replace(ts, key=key), rollout, seen)
    return ts, state, report, rollout


class Trained:
    """A run by hand: what the loops do, as far as certificates go."""

    def __init__(self, settings: Config[Any, Any]) -> None:
        made = envs.make(settings.env, settings.num_envs, settings.seed, settings.workers)
        self.config, self.env, self.spec = settings, made, made.spec
        self.ts = fresh_state(settings, made.spec)
        self.update, self.rollout = 0, None
        if self.spec.on_device:
            self.state = made.reset(jax.random.key(settings.seed))
        else:
            self.collector = HostCollector(made, settings.rollout_steps, settings.seed)

    def step(self) -> tuple[Any, Any, dict[str, Any]]:
        """One update; the policies before and after, and the report."""
        old, algo = self.ts.policy, self.config.algorithm
        if self.spec.on_device:
            self.ts, self.state, report, self.rollout = on_device(
                algo, self.env, self.config.rollout_steps, self.ts, self.state
            )
        else:
            self.rollout, seen, _ = self.collector.collect(old, self.ts.obs_stats, self.update)
            self.ts, report = learn_jit(algo, self.ts, self.rollout, seen)
        self.update += 1
        return old, self.ts.policy, plain(jax.device_get(report))

    def close(self) -> None:
        """Close the environments."""
        if not self.spec.on_device:
            self.env.close()


def write(folder: Path, settings: Config[Any, Any]) -> None:
    """`config.json` of a run."""
    promise, bound = promised(settings)
    write_config(folder, settings, promise=promise, bound=bound)


def certified(folder: Path, settings: Config[Any, Any], save_every: int = 5) -> Path:
    """Train in `folder` with a certificate, metrics and a checkpoint every `save_every` updates."""
    write(folder, settings)
    run, sink = Trained(settings), JsonLines(folder)
    certifier = Certifier(folder, settings, run.spec.on_device)
    certifier.first(run.ts.policy)
    save(folder, run, certifier)
    while run.update < settings.updates:
        old, new, report = run.step()
        certifier.record(run.update, old, new, lambda: run.rollout, report)
        sink(Update({"update": run.update, **report}, {}))
        if run.update % save_every == 0:
            save(folder, run, certifier)
    save(folder, run, certifier)
    certifier.sweep(last=True)
    for part in (certifier, sink, run):
        part.close()
    return folder


def save(folder: Path, run: Trained, certifier: Certifier) -> None:
    """A checkpoint, as the agent writes it."""
    state = {"update": run.update, "certificate": certifier.state()}
    checkpoint.save(
        folder / "checkpoints" / f"{run.update:06d}", checkpoint.tree_to_arrays(run.ts), state
    )
    certifier.sweep()


def replay(settings: Config[Any, Any], start: int, stop: int) -> Iterator[tuple[int, Any]]:
    """The lines of updates `start` to `stop`, from training again, every one checked."""
    run = Trained(settings)
    while run.update < stop:
        old, new, report = run.step()
        if run.update >= start:
            actors = tree_to_arrays(old), tree_to_arrays(new)
            batch = evidence(settings, old, new, run.rollout, report)
            yield run.update, attest(settings, run.update, actors, batch, report, check=True)
    run.close()
