"""`surefoot resume RUN`: go on from the newest whole checkpoint as if the run had never stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.cli.cache import compilation_cache, fix_threads
from surefoot.cli.flags import parse


@dataclass(frozen=True)
class Flags:
    """Go on with a run from its newest whole checkpoint as if it had never stopped."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    more: int | None = None
    """Environment steps to train beyond the run's target; schedules stay at their last value."""
    allow_inexact: bool = False
    """Go on where the bits may differ: other versions, other code, other cores."""
    quiet: bool = False
    """Print nothing but the closing lines."""
    json: bool = False
    """Print one line of JSON at the end instead of everything else."""


def run(args: Sequence[str]) -> int:
    """Parse and resume."""
    flags = parse(Flags, args, prog="surefoot resume")
    if flags.more is not None and flags.more < 1:
        raise UsageError(f"--more is {flags.more}; allowed: a whole number of at least 1")
    return resume(Path(flags.run), flags)


def resume(folder: Path, flags: Flags) -> int:
    """Go on with the run in `folder`; returns the exit code."""
    from surefoot.console import steps_text
    from surefoot.provenance import write_json
    from surefoot.runs import MORE, described, finished, owner

    recorded = described(folder)
    same_threads(recorded)
    with owner(folder):
        if finished(folder) and not flags.more:
            if not flags.json:
                print(
                    f"{folder} is finished: {steps_text(recorded['target'])} steps were asked for "
                    f"and made; surefoot resume {folder} --more 1_000_000 goes on"
                )
            return 0
        others = refuse_others(recorded, folder, flags.allow_inexact)
        if flags.more:
            recorded["target"] += flags.more
            write_json(folder / MORE, {"target": recorded["target"]})
        compilation_cache()
        return go_on(folder, recorded, others, flags)


def same_threads(recorded: dict[str, Any]) -> None:
    """As many threads as the run had, where there are as many cores and nothing else was asked
    for."""
    from surefoot.provenance import visible_cores

    then, cores = recorded.get("threads"), recorded.get("cores")
    if "NPROC" in os.environ or then is None or then != cores or then > visible_cores():
        fix_threads()  # refused later, in words, where it is another number
    else:
        fix_threads(then)


def refuse_others(recorded: dict[str, Any], folder: Path, allowed: bool) -> list[str]:
    """What is otherwise than it was. Raises `UsageError` where that is anything and not allowed."""
    from surefoot.provenance import differences

    found = differences(recorded)
    if found and not allowed:
        raise UsageError(
            f"{folder} cannot go on exactly: {'; '.join(found)}. Bring that back, or accept other "
            f"bits: surefoot resume {folder} --allow-inexact"
        )
    return found


def go_on(folder: Path, recorded: dict[str, Any], others: list[str], flags: Flags) -> int:
    """Load the newest whole checkpoint, say what will be done, and train to the target."""
    from surefoot.checkpoint import numbered
    from surefoot.cli.session import Talk, train
    from surefoot.cli.train_ import begin
    from surefoot.config import read_config
    from surefoot.runs import steps_written

    config, written = read_config(folder / "config.json"), steps_written(folder)
    at = None
    if numbered(folder / "checkpoints"):
        agent, at = loaded(config, folder)
    elif written:
        raise EnvironmentFault(f"{folder} has metrics and no checkpoint; it cannot go on")
    else:  # it was stopped before its first update
        agent = begin(config, folder, recorded.get("command", []))
    found = recorded.get("resume", {})
    if found.get("level") == "inexact":  # as the proof at the start of the run had it
        agent.loop.level, agent.loop.words = found["level"], found["words"]
    fingerprint = agent.fingerprint()
    if at is not None and at["fingerprint"] != fingerprint:
        others = [*others, "the compiled update gives other bits here"]
        if not flags.allow_inexact:
            raise UsageError(
                f"{folder} cannot go on exactly: {others[-1]} (fingerprint {fingerprint[:8]}, it "
                f"was {at['fingerprint'][:8]}); surefoot resume {folder} --allow-inexact goes on"
            )
    again = max(0, written - agent.env_steps)
    talk = Talk(flags.quiet, flags.json)
    if talk.aloud:
        print(how(agent, others))
        print(where(agent, again, recorded["target"]), flush=True)
    return train(agent, folder, recorded["target"], talk, at, fingerprint, again)


def loaded(config: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The agent at the newest whole checkpoint, and the state kept there; damaged ones are
    named."""
    from surefoot.agent import Agent
    from surefoot.checkpoint import newest_of, read

    path, damaged = newest_of(folder / "checkpoints")
    for line in damaged:
        print(f"surefoot: damaged checkpoint: {line}; {path} is used", file=sys.stderr)
    return Agent.at(config, path), read(path)[1]


def how(agent: Any, others: list[str]) -> str:
    """How exactly the run goes on, and why."""
    if agent.loop.level == "inexact":
        return f"resume    INEXACT: {agent.loop.words}; new episodes begin"
    if others:
        return f"resume    INEXACT: {'; '.join(others)}"
    return (
        f"resume    exact, {agent.loop.level} ({agent.loop.words}); "
        "same versions, code and cores; fingerprint equal"
    )


def where(agent: Any, again: int, target: int) -> str:
    """Where the run goes on from, and what that costs."""
    from surefoot.console import steps_text

    done, every = steps_text(agent.env_steps), steps_text(agent.checkpoint_every)
    return (
        f"resuming  at update {agent.update} ({done} steps); {steps_text(again)} steps are done "
        f"again (a checkpoint every {every}); continuing to {steps_text(target)}"
    )
