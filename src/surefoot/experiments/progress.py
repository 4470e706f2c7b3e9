"""What a person sees while a comparison runs: a live table on a terminal, a plain line now and then
elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from surefoot.console import clock, gauge, is_terminal, steps_text
from surefoot.experiments.plan import Run, Task
from surefoot.experiments.work import Crew, Pace, last_update

PLAIN_EVERY = 10.0
"""Seconds between plain lines."""
DRAW_EVERY = 0.5
"""Seconds between pictures of the live table."""


class Progress:
    """Shows how far a crew is. Called often; speaks at its own pace."""

    def __init__(
        self, crew: Crew, runs: Sequence[Run], todo: int, quiet: bool = False, out: Any = None
    ) -> None:
        """`runs` are all of the comparison, of which `todo` were missing when it began."""
        self.crew, self.runs, self.present = crew, set(runs), len(runs) - todo
        self.pace, self.begun = Pace(), time.monotonic()
        self.quiet, self._out = quiet, out or sys.stdout
        self._spoken = self.begun
        self._live: Any = None
        if not quiet and is_terminal(self._out):
            from rich.live import Live

            self._live = Live(auto_refresh=False, transient=True)
            self._live.start()

    def __call__(self) -> None:
        """Say how things stand if it is time to."""
        now = time.monotonic()
        every = DRAW_EVERY if self._live else PLAIN_EVERY
        if self.quiet or now - self._spoken < every:
            return
        self._spoken = now
        if self._live is None:
            print(self.line(), file=self._out, flush=True)
        else:
            from rich.text import Text

            self._live.update(Text("\n".join(self.picture()), no_wrap=True), refresh=True)

    def close(self) -> None:
        """Take the live table off the screen."""
        if self._live is not None:
            self._live.stop()

    def head(self) -> str:
        """`4 of 6 runs finished · 00:31 / ~01:10`."""
        spent = time.monotonic() - self.begun
        left = self.pace.left(self.crew)
        until = "" if left is None else f" / ~{clock(spent + left)}"
        failed = f" · {len(self.crew.failures)} failed" if self.crew.failures else ""
        finished = self.present + len(self.runs & set(self.crew.done))
        return f"{finished} of {len(self.runs)} runs finished{failed} · {clock(spent)}{until}"

    def line(self) -> str:
        """One line for logs."""
        busy = [_short(going.task) for going in self.crew.running.values()]
        return " · ".join([self.head(), *busy])

    def picture(self) -> list[str]:
        """Lines of the live table: what is running, with a bar each."""
        lines = [f" {self.head()}"]
        for task in (going.task for going in self.crew.running.values()):
            steps, value = last_update(task.first)
            share = steps / task.first.cell.config.steps
            lines.append(
                f" {task.name:<36} {gauge(share, 20)} {100 * min(share, 1):3.0f} %"
                f"   {steps_text(steps):>11} steps   return {_return(value)}"
            )
        return lines + ([f" {len(self.crew.waiting)} waiting"] if self.crew.waiting else [])


def _return(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _short(task: Task) -> str:
    steps, value = last_update(task.first)
    share = 100 * min(1.0, steps / task.first.cell.config.steps)
    return f"{task.name} {share:.0f} %, return {_return(value)}"
