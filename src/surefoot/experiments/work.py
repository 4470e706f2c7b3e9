"""Runs side by side: a process each, pinned to a core of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from surefoot import sinks
from surefoot.experiments.plan import Run, Task, busy, prepare, state

TAIL = 65536
"""Bytes at the end of a file that its last line is looked for in."""


@dataclass(frozen=True)
class Failure:
    """A run that could not be finished."""

    run: Run
    code: int
    """Exit code of its process; negative for a signal."""
    said: str
    """The last line it printed."""

    @property
    def exit_code(self) -> int:
        """The code to leave with: the process's own, 3 where a signal ended it."""
        return self.code if self.code > 0 else 3

    @property
    def words(self) -> str:
        """One line."""
        how = f"exit code {self.code}" if self.code > 0 else f"ended by signal {-self.code}"
        return f"{self.run.name} is missing ({how}): {self.said or 'it printed nothing'}"


@runtime_checkable
class Process(Protocol):
    """What is asked of a `subprocess.Popen`."""

    @property
    def returncode(self) -> Any: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def send_signal(self, sig: int) -> None: ...


@dataclass
class Going:
    """A task that is being worked on, and by whom."""

    task: Task
    process: Process


@dataclass
class Crew:
    """Works through tasks, `jobs` at a time. One that fails does not stop the others; one that
    trains several runs as one has the machine for itself."""

    waiting: list[Task]
    jobs: int
    failures: list[Failure] = field(default_factory=list)
    done: list[Run] = field(default_factory=list)
    running: dict[int, Going] = field(default_factory=dict)
    """By the place of its core among those that are visible."""

    def step(self) -> bool:
        """Start what can be started and take in what has ended; whether anything is left to do.

        Runs that another process is writing to are waited for.
        """
        for slot, going in list(self.running.items()):
            if going.process.poll() is not None:
                del self.running[slot]
                self._ended(going)
        for task in list(self.waiting):
            slot = self._room(task)
            if slot is not None and not busy(task):
                self.waiting.remove(task)
                self._start(task, slot)
        return bool(self.waiting or self.running)

    def _room(self, task: Task) -> int | None:
        """The core a task could have now; None where it must wait."""
        alone = task.together or any(g.task.together for g in self.running.values())
        if alone and self.running:
            return None
        free = [slot for slot in range(self.jobs) if slot not in self.running]
        return free[0] if free else None

    def _start(self, task: Task, slot: int) -> None:
        if task.finished:
            self.done.extend(task.runs)
            return
        command = [sys.executable, "-m", "surefoot", *prepare(task)]
        core = None if task.together else slot
        self.running[slot] = Going(task, start(command, core, task.first.log))

    def _ended(self, going: Going) -> None:
        task, code = going.task, going.process.returncode
        if code and busy(task):  # somebody else began it at the same moment
            self.waiting.append(task)
            return
        said = last_words(task.first.log)
        for run in task.runs:
            if state(run) == "finished":
                self.done.append(run)
            else:
                self.failures.append(Failure(run, code, said))

    def stop(self) -> None:
        """Ask every process to save and end, and wait until all have."""
        for going in self.running.values():
            going.process.send_signal(signal.SIGTERM)
        for going in self.running.values():
            going.process.wait()
            self.done += [run for run in going.task.runs if state(run) == "finished"]
        self.running.clear()


def start(command: list[str], slot: int | None, log: Path) -> Process:
    """Start a process on a core of its own (on all, where `slot` is None), what it prints going to
    `log`.

    A child inherits the cores that are set while it is started. It is in a process group of its
    own: Ctrl-C on the terminal reaches this process, which asks each child once.
    """
    pinned = hasattr(os, "sched_setaffinity")
    cores = sorted(os.sched_getaffinity(0)) if pinned else []
    with log.open("ab") as out:
        try:
            if pinned and slot is not None:
                os.sched_setaffinity(0, {cores[slot % len(cores)]})
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                process_group=0 if os.name == "posix" else None,
            )
        finally:
            if pinned:
                os.sched_setaffinity(0, cores)


def last_words(log: Path) -> str:
    """The last line of a log, or an empty text."""
    try:
        with log.open("rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - TAIL))
            tail = f.read()
    except FileNotFoundError:
        return ""
    lines = tail.decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def last_update(run: Run) -> tuple[int, float | None]:
    """(environment steps, return) on the last whole line of a run's metrics; (0, None) before the
    first."""
    row = sinks.last_update(run.folder)
    return row.get("env_steps", 0), row.get("episode_return")


@dataclass
class Pace:
    """How long runs of each cell take, learnt while they go on."""

    begun: dict[Path, tuple[float, int]] = field(default_factory=dict)
    seconds_a_step: dict[Path, float] = field(default_factory=dict)
    """Folder of the cell -> seconds a step."""

    def left(self, crew: Crew, now: float | None = None) -> float | None:
        """Seconds until all is done, or None while nothing is known."""
        now = time.monotonic() if now is None else now
        for going in crew.running.values():
            self._learn(going.task.first, now)
        todo = [g.task for g in crew.running.values()] + crew.waiting
        if not self.seconds_a_step:
            return None
        usual = sum(self.seconds_a_step.values()) / len(self.seconds_a_step)
        each = [
            steps_left(task) * self.seconds_a_step.get(task.first.folder.parent, usual)
            for task in todo
        ]
        return max([sum(each) / crew.jobs, *each], default=0.0)

    def _learn(self, run: Run, now: float) -> None:
        steps = last_update(run)[0]
        if not steps:
            return
        then, before = self.begun.setdefault(run.folder, (now, steps))
        if steps > before:
            self.seconds_a_step[run.folder.parent] = (now - then) / (steps - before)


def steps_left(task: Task) -> int:
    """Environment steps that each run of a task has to make yet."""
    run = task.first
    return max(0, run.cell.config.steps - last_update(run)[0])
