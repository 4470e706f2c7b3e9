"""What a person sees while a run goes on: a panel on a terminal, one plain line an update
elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from surefoot.sinks import Sink, Update

if TYPE_CHECKING:
    from surefoot.agent import Agent

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = " env steps        return            kl / bound    worst  entropy  expl.var  steps/s"


def steps_text(n: float) -> str:
    """204800 as `204 800`."""
    return f"{int(n):,}".replace(",", " ")


def clock(seconds: float) -> str:
    """`00:21` or `1:02:07`."""
    whole = int(max(0, seconds))
    hours, rest = divmod(whole, 3600)
    return (
        f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
        if hours
        else f"{rest // 60:02d}:{rest % 60:02d}"
    )


def spark(values: list[float], width: int = 12) -> str:
    """The course of a number as little bars."""
    if not values:
        return ""
    picked = (
        values
        if len(values) <= width
        else [values[int(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    )
    low, high = min(picked), max(picked)
    span = (high - low) or 1.0
    return "".join(BARS[min(7, int(8 * (v - low) / span))] for v in picked)


def gauge(share: float, width: int = 10) -> str:
    """A share of 1 as a bar; over 1 it is full."""
    full = max(0, min(width, round(share * width))) if math.isfinite(share) else width
    return "█" * full + "░" * (width - full)


def budget_text(bound: float | None, stop: float | None) -> str:
    """What the KL is shown against."""
    if bound is not None:
        return f"{bound:.4f}"
    return "none" if stop is None else f"stop {stop:g}"


def number(x: Any, form: str = ".3g") -> str:
    """A number, or `-` where there is none yet."""
    return "-" if x is None or not math.isfinite(x) else format(x, form)


class _View:
    """What panel and plain lines have in common: the agent, and text for parts of an update."""

    def __init__(self, agent: Agent, target: int) -> None:
        self.agent, self.target, self.first = agent, target, agent.env_steps
        self.stop = getattr(agent.config.method, "stop_kl", None)

    def returns(self, m: dict[str, Any]) -> str:
        if m["episode_return"] is None:
            return "-"
        values = [e.episode_return for e in self.agent.recent]
        mean = m["episode_return"]
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        return f"{mean:.1f} ± {deviation:.1f}"

    def success(self, m: dict[str, Any]) -> str:
        """Nothing where the environment has no notion of it."""
        rate = m.get("success_rate")
        return "" if rate is None else f" · success {rate:.2f}"

    def notes(self, m: dict[str, Any]) -> str:
        out = " · update not finite: old policy kept" if m["update_skipped"] else ""
        return out + (" · critic not finite: old critic kept" if m["value_skipped"] else "")


class PlainLines(_View):
    """One line an update, no control codes."""

    def __init__(self, agent: Agent, target: int, out: Any = None) -> None:
        super().__init__(agent, target)
        self._out = out or sys.stdout
        self._count = 0

    def __call__(self, update: Update) -> None:
        m, t = update.metrics, update.timings
        if self._count % 25 == 0:
            print(COLUMNS, file=self._out)
        self._count += 1
        judged = number(m[self.agent.judged], ".4f")
        kl = f"{judged} / {budget_text(self.agent.bound, self.stop)}"
        accepted = "" if m.get("accepted", True) else " · refused: old policy kept"
        line = (
            f"{steps_text(m['env_steps']):>10}  {self.returns(m):>17}  {kl:>17}"
            f"  {number(m['kl_max']):>7}  {number(m['entropy']):>7}"
            f"  {number(m['explained_variance'], '.2f'):>8}  {steps_text(t['steps_per_second']):>7}"
        )
        print(line + self.success(m) + accepted + self.notes(m), file=self._out, flush=True)

    def close(self) -> None:
        """Nothing to close."""


class Panel(_View):
    """A live panel: return, trust region, step, and where the run is saved; drawn at most twice a
    second."""

    def __init__(
        self,
        agent: Agent,
        target: int,
        title: str = "",
        saved: str = "",
        every: float = 0.5,
        console: Any = None,
    ) -> None:
        super().__init__(agent, target)
        from rich.live import Live

        self.title, self.saved, self._every = title, saved, every
        self._curve: deque[float] = deque(maxlen=512)
        self._best, self._drawn = -math.inf, 0.0
        self._refused, self._backtracks, self._count = 0, 0, 0
        self._worst = 0.0
        self._last: Update | None = None
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def __call__(self, update: Update) -> None:
        m = update.metrics
        self._count += 1
        self._refused += not m.get("accepted", True)
        self._backtracks += m.get("backtracks", 0)
        self._worst = max(self._worst, m["kl_max"] if math.isfinite(m["kl_max"]) else 0.0)
        if m["episode_return"] is not None:
            self._curve.append(m["episode_return"])
            self._best = max(self._best, m["episode_return"])
        self._last = update
        if time.perf_counter() - self._drawn >= self._every:
            self._draw()

    def _draw(self) -> None:
        if self._last is None:
            return
        self._drawn = time.perf_counter()
        self._live.update(self._lines(self._last), refresh=True)

    def _trust(self, m: dict[str, Any]) -> str:
        """What is bounded against its bound, and the rest beside it."""
        agent, mean = self.agent, f"KL mean {number(m['kl_mean'], '.4f')}"
        if agent.bound is None:
            stop = "" if self.stop is None else f", epochs stop above {self.stop:g}"
            return f"{mean}, no bound asked{stop}   worst state {number(m['kl_max'])}"
        bar = f"of {agent.bound:.4f} {gauge(m[agent.judged] / agent.bound)}"
        if agent.judged == "kl_mean":
            return f"{mean} {bar}   worst state {number(m['kl_max'])}"
        what = agent.config.method.promise.replace("_", " ").replace("kl", "KL")
        return f"{what} {number(m[agent.judged], '.4f')} {bar}   {mean}"

    def _lines(self, update: Update) -> Any:
        from rich.text import Text

        m, t = update.metrics, update.timings
        done = max(1, m["env_steps"] - self.first)
        left = t["seconds"] * max(0, self.target - m["env_steps"]) / done
        trust = self._trust(m)
        if "accepted" in m:
            trust += f"   accepted {self._count - self._refused}/{self._count}"
            trust += f" · backtracks {self._backtracks / self._count:.1f}"
        step = f"entropy {number(m['entropy'])}"
        if "cg_residual" in m:
            residual, curvature = number(m["cg_residual"], ".1e"), number(m["curvature"])
            step = f"CG residual {residual} · curvature {curvature} · {step}"
        rows = [
            f" {self.title}   {clock(t['seconds'])} / ~{clock(t['seconds'] + left)}"
            f"   {steps_text(m['env_steps'])} steps   {steps_text(t['steps_per_second'])} steps/s",
            f" return   {spark(list(self._curve))}   {self.returns(m)}"
            f"   best {number(self._best, '.1f')}{self.success(m)}"
            f"   length {number(m['episode_length'], '.0f')}"
            f"   explained variance {number(m['explained_variance'], '.2f')}",
            f" trust    {trust}",
            f" step     {step}   ratio {number(m['ratio_max'])}{self.notes(m)}",
        ]
        if self.saved:
            rows.append(f" saved    {self.saved}")
        return Text("\n".join(rows), overflow="ellipsis", no_wrap=True)

    def close(self) -> None:
        """Draw the last state and leave it on the screen."""
        self._draw()
        self._live.stop()


def is_terminal(out: Any = None) -> bool:
    """Whether a live panel can be shown."""
    return bool((out or sys.stdout).isatty())


def panel_if_terminal(agent: Agent, target: int) -> list[Sink]:
    """A panel on a terminal, nothing elsewhere."""
    return (
        [Panel(agent, target, f"{type(agent.config.method).__name__} · {agent.config.env}")]
        if is_terminal()
        else []
    )
