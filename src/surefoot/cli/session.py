"""A run in this process, from its first update or from a checkpoint, to its closing lines."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot import checkpoint
from surefoot.certificate import Certifier
from surefoot.checks import EnvironmentFault
from surefoot.cli import EXIT_GUARD, EXIT_INTERRUPTED
from surefoot.config import read_config
from surefoot.envs import ALSO_IN_ENVPOOL, installed, split
from surefoot.incidents import LIMIT, SPAN, Incidents
from surefoot.sinks import JsonLines, Sink, TensorBoard
from surefoot.verifier import CERTIFICATE

if TYPE_CHECKING:
    from surefoot.agent import Agent

EVAL_EPISODES = 20


@dataclass(frozen=True)
class Talk:
    """What a command says: a panel or lines, only the closing lines, or one line of JSON."""

    quiet: bool = False
    json: bool = False

    @property
    def aloud(self) -> bool:
        """Whether anything is said before the end."""
        return not (self.quiet or self.json)


class Stop:
    """Ctrl-C or SIGTERM once: finish the update and stop. Twice: leave at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Stop:
        self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._old.items():
            signal.signal(s, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Saver:
    """A sink that writes checkpoints: by steps, so that a run repeated writes the same ones.

    One is written where the next rollout could pass `checkpoint_every` steps since the last, so
    that no more than that is ever lost. Comes after the sink of the metrics, whose length it notes.
    """

    def __init__(self, agent: Agent, folder: Path, metrics: JsonLines, since: int = 0) -> None:
        self.agent, self.folder, self.metrics = agent, folder, metrics
        self.since = since
        """Environment steps at the last checkpoint that was due; one on Ctrl-C does not move the
        next."""
        self.incidents: list[int] = []
        """Numbers of the updates that were undone, the guard's memory."""
        self.fingerprint = ""
        """What the compiled update makes of a rollout of noise, to be compared on resume."""

    def __call__(self, update: Any) -> None:
        if self.agent.due(self.since):
            self.since = self.agent.env_steps
            self.save()

    def save(self) -> Path:
        """Write one now, and thin out the old ones."""
        extra = {"since": self.since, "fingerprint": self.fingerprint}
        extra |= self.metrics.mark() | {"incidents": self.incidents}
        level = self.agent.loop.level
        path = self.agent.checkpoint(self.folder, extra)
        if self.agent.loop.level != level:
            print(
                f"surefoot: resume is inexact from here: {self.agent.loop.words}", file=sys.stderr
            )
        checkpoint.thin(path.parent, self.agent.config.keep_checkpoints)
        return path

    def close(self) -> None:
        """Nothing to close."""


def train(
    agent: Agent,
    folder: Path,
    target: int,
    talk: Talk,
    at: dict[str, Any] | None = None,
    fingerprint: str | None = None,
    again: int = 0,
    stop: Stop | None = None,
) -> int:
    """Train to `target` steps; returns the exit code.

    From the beginning (`at` None), or from the checkpoint whose state is `at`; `again` are the
    steps that were made before and will be made once more. `stop` is given where somebody else
    listens for signals.
    """
    agent.schedule(agent.config.steps)
    metrics = JsonLines(folder, at)
    certifier = agent.certifier = certificate(agent, folder, at)
    saver = Saver(agent, folder, metrics, 0 if at is None else at["since"])
    saver.fingerprint = fingerprint or agent.fingerprint()
    guard = Incidents(folder, lambda: agent.loop.rollout, [] if at is None else at["incidents"])
    saver.incidents = guard.recent
    sinks: list[Sink] = [
        guard,
        metrics,
        TensorBoard(folder, None if at is None else agent.env_steps + 1),
        saver,
    ]
    if talk.aloud:
        sinks.insert(0, view(agent, folder, target))
    if at is None:
        saver.save()
    else:
        done = {"resumed": agent.update, "env_steps": agent.env_steps, "done_again": again}
        metrics.note(done)
    stop = stop or Stop()
    agent.callback = lambda _: not (stop.asked or guard.tripped)
    try:
        with stop:
            agent.learn(target - agent.env_steps, sinks)
        if agent.env_steps < target:
            return stopped(agent, folder, saver, guard.tripped)
        saver.save()
        certifier.sweep(last=True)
    except EnvironmentFault as error:
        kept = checkpoint.numbered(folder / "checkpoints")[-1]
        raise EnvironmentFault(
            f"{error}; update {agent.update + 1} was not made, {kept} is kept"
        ) from error
    finally:
        certifier.close()
        agent.certifier = None
    agent.close()
    return closing(agent, folder, talk)


def certificate(agent: Agent, folder: Path, at: dict[str, Any] | None) -> Certifier:
    """The writer of the run's certificate, at its first line or where a checkpoint was."""
    certifier = Certifier(folder, read_config(folder / "config.json"), agent.spec.on_device)
    if at is not None:
        certifier.restore(agent.update, at["certificate"])
        return certifier
    # Of a process that was killed before its first checkpoint.
    (folder / CERTIFICATE).unlink(missing_ok=True)
    shutil.rmtree(folder / "certificate", ignore_errors=True)
    certifier.first(agent.policy)
    return certifier


def stopped(agent: Agent, folder: Path, saver: Saver, tripped: bool) -> int:
    """Save, unless that would change the run (at a barrier episodes are cut, so it must be one that
    an unbroken run has too); print the line to type."""
    if agent.loop.level != "barrier":
        saver.save()
        again = "nothing will be done again"
    else:
        again = (
            f"{agent.env_steps - saver.since} steps since the last checkpoint will be done again"
        )
    agent.close()
    why = f", {LIMIT} updates of the last {SPAN} were undone: see {folder / 'incidents'}"
    print(
        f"stopped   at update {agent.update} ({agent.env_steps} steps){why if tripped else ''}, "
        f"{again}; go on with: surefoot resume {folder}",
        file=sys.stderr,
    )
    return EXIT_GUARD if tripped else EXIT_INTERRUPTED


def view(agent: Agent, folder: Path, target: int) -> Any:
    """A panel on a terminal, plain lines elsewhere."""
    from surefoot.console import Panel, PlainLines, is_terminal

    if is_terminal():
        title = (
            f"{type(agent.config.method).__name__} · {agent.config.env} · seed {agent.config.seed}"
        )
        return Panel(agent, target, title, str(folder))
    return PlainLines(agent, target)


def envpool_note(env: str) -> str:
    """A line for plain ids that EnvPool also has."""
    suite, tail = split(env)
    if suite or tail not in ALSO_IN_ENVPOOL:
        return ""
    how = "" if installed("envpool") else ' after pip install "surefoot[envpool]"'
    return f"note      EnvPool has this too, and is faster: --env envpool:{tail}{how}"


def closing(agent: Agent, folder: Path, talk: Talk) -> int:
    """Evaluate, and print the four closing lines (or one of JSON)."""
    from surefoot.config import method_name
    from surefoot.evaluate import evaluate

    score = evaluate(agent, EVAL_EPISODES)
    trust = agent.trust_report()
    if talk.json:
        print(
            json.dumps(
                score.to_json()
                | {"run": str(folder), "env_steps": agent.env_steps, "violations": trust.violations}
            )
        )
        return 0
    low, high = score.ci95
    updates = f"{len(trust.kl_mean)} updates"
    if trust.max_kl is None:
        kept = f"no bound asked, worst state KL {max(trust.kl_max):.3g} in {updates}"
    else:
        what = trust.promise.replace("_", " ").replace("kl", "KL")
        kept = f"{trust.violations} bound violations in {updates} ({what} <= {trust.max_kl:g})"
    kept += f" · {trust.rolled_back} rolled back" if trust.rolled_back else ""
    print(
        f"done      {score.mean:.1f} [{low:.1f}, {high:.1f}] over {EVAL_EPISODES} "
        f"evaluation episodes, deterministic · {kept}"
    )
    print(f"folder    {folder}")
    print(f"next      surefoot watch {folder}")
    name = method_name(agent.config.method)
    other = "ppo" if name != "ppo" else "trpo"
    print(f"          surefoot compare {name} {other} --env {agent.config.env} --seeds 5")
    note = envpool_note(agent.config.env)
    if note and not talk.quiet:
        print(note)
    return 0
