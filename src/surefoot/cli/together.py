"""Seeds of one cell trained as one `vmap`, each with a run folder of its own; a process that
`compare` starts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.cli.cache import compilation_cache, fix_threads

if TYPE_CHECKING:
    from surefoot.agent import Agent
    from surefoot.experiments.gang import Together


@dataclass
class Member:
    """A seed on its way."""

    folder: Path
    agent: Agent
    at: dict[str, Any] | None
    """State of the checkpoint it goes on from; None from the beginning."""
    error: Exception | None = None
    code: int = 0


class Signals:
    """In place of `session.Stop` where the main thread listens: what it heard, for all after the
    same update."""

    def __init__(self, together: Together) -> None:
        self._together = together

    @property
    def asked(self) -> bool:
        """Whether to stop after this update."""
        return self._together.stopping

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""


def run(args: Sequence[str]) -> int:
    """Train `SETTINGS SEED...` in `seed-<n>` folders beside the settings."""
    fix_threads()
    compilation_cache()
    from surefoot.cli.session import Stop
    from surefoot.config import read_config
    from surefoot.experiments.gang import Together
    from surefoot.runs import owner

    settings, seeds = Path(args[0]), [int(a) for a in args[1:]]
    config = read_config(settings)
    folders = [settings.parent / f"seed-{s}" for s in seeds]
    with contextlib.ExitStack() as held:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(owner(folder))
        members = opened([dataclasses.replace(config, seed=s) for s in seeds], folders)
        with Stop() as stop:
            together = Together([m.agent.loop for m in members], lambda: stop.asked)  # pyright: ignore[reportArgumentType]
            threads = [
                threading.Thread(target=train, args=(m, together), daemon=True) for m in members
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    return outcome(members)


def opened(configs: list[Any], folders: list[Path]) -> list[Member]:
    """Members at the newest checkpoint that all of them have, or at the beginning."""
    from surefoot.agent import Agent
    from surefoot.checkpoint import read
    from surefoot.cli.resume_ import refuse_others
    from surefoot.runs import described

    name = common_checkpoint(folders)
    if name is None:
        return [
            began(c, f, [c.seed for c in configs]) for c, f in zip(configs, folders, strict=True)
        ]
    members = []
    for config, folder in zip(configs, folders, strict=True):
        refuse_others(described(folder), folder, allowed=False)
        path = folder / "checkpoints" / name
        members.append(Member(folder, Agent.at(config, path), read(path)[1]))
    return members


def common_checkpoint(folders: list[Path]) -> str | None:
    """Name of the newest checkpoint that is whole in every folder; None where there is none."""
    from surefoot.checkpoint import DamagedCheckpoint, numbered, read

    names = set.intersection(*({p.name for p in numbered(f / "checkpoints")} for f in folders))
    for name in sorted(names, reverse=True):
        with contextlib.suppress(DamagedCheckpoint):
            for folder in folders:
                read(folder / "checkpoints" / name)
            return name
    return None


def began(config: Any, folder: Path, seeds: list[int]) -> Member:
    """A member at its beginning, its company written down. Raises `UsageError` where there is
    something to lose."""
    from surefoot.cli.train_ import begin
    from surefoot.provenance import write_json
    from surefoot.runs import LOCK, steps_written

    if steps_written(folder):
        raise UsageError(f"{folder} has metrics and shares no checkpoint with the other seeds")
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    agent = begin(config, folder, ["surefoot", *sys.argv[1:]])
    described = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", described | {"vmap": seeds})
    return Member(folder, agent, None)


def train(member: Member, together: Together) -> None:
    """Train one member in this thread."""
    from surefoot.cli import session
    from surefoot.runs import described, steps_written

    try:
        agent, at, folder = member.agent, member.at, member.folder
        fingerprint = agent.fingerprint()
        if at is not None and at["fingerprint"] != fingerprint:
            raise UsageError(
                f"{folder} cannot go on exactly: the compiled update gives other bits here"
            )
        again = max(0, steps_written(folder) - agent.env_steps)
        stop: Any = Signals(together)
        member.code = session.train(
            agent,
            folder,
            described(folder)["target"],
            session.Talk(quiet=True),
            at,
            fingerprint,
            again,
            stop=stop,
        )
        if member.code and not together.stopping:  # its guard: the others cannot go on without it
            together.leave()
    except Exception as error:
        member.error = error
        together.leave()


def outcome(members: list[Member]) -> int:
    """The exit code of all, and the error of one that others only heard of. Raises it."""
    errors = [m.error for m in members if m.error is not None]
    own = [e for e in errors if not isinstance(e, threading.BrokenBarrierError)]
    for error in own or errors:
        if isinstance(error, (UsageError, EnvironmentFault, OSError)):
            raise error
        raise EnvironmentFault(f"a seed of the vmap failed: {error!r}") from error
    return max(m.code for m in members)
