"""What a rollout of `processes.py` must hold, told episode by episode in float64; masks are not
looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from processes import DeviceStairs, Plan, reward, value

CLIP, EPS = 10.0, 1e-8


@dataclass
class Transition:
    """One step of one episode."""

    k: int
    p: float
    q: float
    paid: float
    terminated: bool
    truncated: bool

    @property
    def ends(self) -> bool:
        """Whether it is the episode's last."""
        return self.terminated or self.truncated

    def error(self, gamma: float) -> float:
        """The one-step error of `processes.value`."""
        after = 0.0 if self.terminated else value(self.k + 1, self.p, self.q)
        return self.paid + gamma * after - value(self.k, self.p, self.q)


@dataclass
class Expected:
    """Arrays [T, N] of a rollout; rows where `real` is False belong to no episode."""

    real: np.ndarray
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    advantage: np.ndarray
    value: np.ndarray
    scaled: np.ndarray
    episodes: list[tuple[float, int]]


@dataclass
class Timeline:
    """Follows every environment from episode to episode, over any number of rollouts.

    `begin(i, j, obs)` gives p, q, length and end of the j-th episode of environment i, whose first
    observation is obs. `reset_row` says that a row is lost between episodes.
    """

    begin: Callable[[int, int, np.ndarray], tuple[float, float, int, bool, bool]]
    num_envs: int
    reset_row: bool
    gamma: float
    lam: float
    j: list[int] = field(default_factory=list)
    now: list[Any] = field(default_factory=list)
    traces: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    """Discounted returns so far of every step there was, which rewards are scaled by."""

    def __post_init__(self) -> None:
        n = self.num_envs
        self.j, self.now, self.traces, self.totals = [0] * n, [None] * n, [0.0] * n, [0.0] * n

    def follow(self, obs: np.ndarray, action: np.ndarray) -> Expected:
        """The next rollout, in which these actions were taken; `obs` is handed to `begin` only."""
        steps = len(action)
        rows = [
            [self._row(i, obs[t, i], float(action[t, i])) for i in range(self.num_envs)]
            for t in range(steps)
        ]
        self.returns += [trace for row in rows for _, trace, _ in row if trace is not None]
        spread = np.sqrt(np.var(self.returns) + EPS)

        def table(pick: Callable[[Transition], float], dtype: Any = float) -> np.ndarray:
            return np.array(
                [[0 if tr is None else pick(tr) for tr, _, _ in row] for row in rows], dtype
            )

        return Expected(
            real=np.array([[tr is not None for tr, _, _ in row] for row in rows]),
            obs=np.array(
                [
                    [(0, 0, 0) if tr is None else (tr.k, tr.p, tr.q) for tr, _, _ in row]
                    for row in rows
                ]
            ),
            reward=table(lambda tr: tr.paid),
            terminated=table(lambda tr: tr.terminated, bool),
            truncated=table(lambda tr: tr.truncated, bool),
            advantage=self._advantages([[tr for tr, _, _ in row] for row in rows]),
            value=table(lambda tr: value(tr.k, tr.p, tr.q)),
            scaled=np.clip(table(lambda tr: tr.paid) / spread, -CLIP, CLIP),
            episodes=[done for row in rows for _, _, done in row if done is not None],
        )

    def _row(self, i: int, obs: np.ndarray, action: float) -> tuple[Any, Any, Any]:
        if self.now[i] == "reset":
            self.now[i] = None
            return None, None, None
        if self.now[i] is None:
            self.now[i] = [0, *self.begin(i, self.j[i], obs)]
        k, p, q, length, terminated, truncated = self.now[i]
        last = k + 1 == length
        tr = Transition(k, p, q, reward(k, p, q, action), last and terminated, last and truncated)
        trace = self.traces[i] = tr.paid + self.gamma * self.traces[i]
        self.totals[i] += tr.paid
        self.now[i][0] = k + 1
        if not last:
            return tr, trace, None
        done = (self.totals[i], length)
        self.j[i], self.traces[i], self.totals[i] = self.j[i] + 1, 0.0, 0.0
        self.now[i] = "reset" if self.reset_row else None
        return tr, trace, done

    def _advantages(self, rows: list[list[Transition | None]]) -> np.ndarray:
        out = np.zeros((len(rows), self.num_envs))
        for t in range(len(rows)):
            for i in range(self.num_envs):
                weight = 1.0
                for later in range(t, len(rows)):
                    tr = rows[later][i]
                    if tr is None:
                        break
                    out[t, i] += weight * tr.error(self.gamma)
                    weight *= self.gamma * self.lam
                    if tr.ends:
                        break
        return out


def of_plan(plan: Plan) -> Callable[[int, int, np.ndarray], tuple[float, float, int, bool, bool]]:
    """`begin` of environments on the host."""
    return lambda i, j, obs: (i, j, plan.length(i, j), *plan.end(i, j))


def of_device(
    env: DeviceStairs,
) -> Callable[[int, int, np.ndarray], tuple[float, float, int, bool, bool]]:
    """`begin` of environments on the device, where p and q were drawn."""
    limit = np.inf if env.max_episode_steps is None else env.max_episode_steps

    def begin(i: int, j: int, obs: np.ndarray) -> tuple[float, float, int, bool, bool]:
        p, q = float(obs[1]), float(obs[2])
        return p, q, int(min(p, limit)), p <= limit, limit <= p

    return begin
