"""Train a stretch of a run again, from a checkpoint before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surefoot import checkpoint
from surefoot.agent import Agent
from surefoot.certificate import attest, evidence
from surefoot.checkpoint import tree_to_arrays
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.config import read_config
from surefoot.provenance import differences
from surefoot.runs import described


def replay(folder: Path, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of the certificate that updates `start` to `stop` give when trained again, each
    checked in float64, with the number of its update.

    Goes on from the newest whole checkpoint before `start`. Nothing is written. Raises `UsageError`
    where the run cannot be trained again to the bit: level `inexact`, or other versions, code or
    cores; `EnvironmentFault` where no checkpoint before `start` is whole.
    """
    agent, since = before(folder, start)
    config = read_config(folder / "config.json")
    agent.schedule(config.steps)
    while agent.update < stop:
        old = agent.policy
        agent.step()
        if agent.update >= start:
            actors = tree_to_arrays(old), tree_to_arrays(agent.policy)
            batch = evidence(config, old, agent.policy, agent.loop.rollout, agent.report)
            yield agent.update, attest(config, agent.update, actors, batch, agent.report, True)
        if agent.due(since):
            since = agent.env_steps
            agent.pass_checkpoint()
    agent.close()


def before(folder: Path, start: int) -> tuple[Agent, int]:
    """The agent at the newest whole checkpoint before an update, and the steps at which one was
    last due."""
    recorded = described(folder)
    if recorded["resume"]["level"] == "inexact":
        words = recorded["resume"]["words"]
        raise UsageError(f"{folder} cannot be trained again to the bit: {words}")
    found = differences(recorded)
    if found:
        raise UsageError(f"{folder} cannot be trained again to the bit: {'; '.join(found)}")
    damaged = []
    for path in reversed(checkpoint.numbered(folder / "checkpoints")):
        if int(path.name) >= start:
            continue
        try:
            _, state = checkpoint.read(path)
        except checkpoint.DamagedCheckpoint as error:
            damaged.append(str(error))
            continue
        return Agent.at(read_config(folder / "config.json"), path), state["since"]
    what = "; ".join([f"{folder} has no whole checkpoint before update {start}", *damaged])
    raise EnvironmentFault(what)
