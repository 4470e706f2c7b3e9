"""The textbook's problems, to be simulated: the single-state problem, the linear-quadratic
regulator and the simple regulator, 2048. All simulate n trajectories at once."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from surefoot.checks import check_number, require
from surefoot.exact.tabular import Array

Matrix = tuple[tuple[float, ...], ...]


@runtime_checkable
class Problem(Protocol):
    """Anything that can be simulated from a distribution of first states."""

    @property
    def gamma(self) -> float:
        """Discount, at most 1: trajectories have a depth."""
        ...

    def reset(self, rng: np.random.Generator, n: int) -> Array:
        """First states of n trajectories, [n, d]."""
        ...

    def step(
        self, state: Array, action: Array, rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """Rewards [n], next states [n, d], and whether nothing follows [n]."""
        ...


@dataclass(frozen=True)
class SingleState:
    """One state, a real action, and the action as the reward (examples 11.1, 11.3 and 12.1)."""

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "gamma", low=0, high=1)

    def reset(self, rng: np.random.Generator, n: int) -> Array:
        """The one state, 0."""
        return np.zeros((n, 1))

    def step(
        self, state: Array, action: Array, rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """The reward is the action."""
        return action[:, 0].astype(float), state, np.zeros(len(state), bool)


@dataclass(frozen=True)
class LinearQuadratic:
    """A linear-quadratic regulator: s' = Ts s + Ta a + noise, r = s' Rs s + a' Ra a of the state
    acted in.

    As it stands it is the simple regulator of appendix F.5: s ~ N(0.3, 0.1^2),
    s' ~ N(s + a, 0.1^2) cut to [-10, 10], r = -s^2. Its optimum over policies N(t1 s, t2^2) is
    t1 = -1, t2 = 0. The figures of chapter 12 use it throughout.
    """

    Ts: Matrix = ((1.0,),)
    Ta: Matrix = ((1.0,),)
    Rs: Matrix = ((-1.0,),)
    """Negative semi-definite."""
    Ra: Matrix = ((0.0,),)
    """Negative semi-definite; 0 in the simple regulator."""
    noise: float = 0.1
    """Deviation of every component of the next state."""
    start_mean: tuple[float, ...] = (0.3,)
    start_std: float = 0.1
    limit: float = 10.0
    """States are cut to +- this; inf for a regulator that is linear everywhere."""
    gamma: float = 1.0

    def __post_init__(self) -> None:
        n, d = len(self.start_mean), len(self.Ta[0])
        shapes = {"Ts": (n, n), "Ta": (n, d), "Rs": (n, n), "Ra": (d, d)}
        for name, shape in shapes.items():
            require(
                np.shape(getattr(self, name)) == shape, self, name, getattr(self, name), f"{shape}"
            )
        for name in ("noise", "start_std"):
            check_number(self, name, low=0, open_high=True)
        check_number(self, "limit", low=0, open_low=True)
        check_number(self, "gamma", low=0, high=1)

    def reset(self, rng: np.random.Generator, n: int) -> Array:
        """Gaussian first states."""
        mean = np.array(self.start_mean)
        return mean + self.start_std * rng.standard_normal((n, len(mean)))

    def step(
        self, state: Array, action: Array, rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """The quadratic reward of where it was, and where it goes."""
        Rs, Ra = np.array(self.Rs), np.array(self.Ra)
        reward = np.einsum("ni,ij,nj->n", state, Rs, state)
        reward = reward + np.einsum("ni,ij,nj->n", action, Ra, action)
        after = state @ np.array(self.Ts).T + action @ np.array(self.Ta).T
        after = after + self.noise * rng.standard_normal(after.shape)
        return reward, np.clip(after, -self.limit, self.limit), np.zeros(len(state), bool)


LQR = LinearQuadratic(
    Ts=((1.0, 0.1), (0.0, 1.0)),
    Ta=((0.0,), (0.1,)),
    Rs=((-1.0, 0.0), (0.0, -0.1)),
    Ra=((-0.1,),),
    noise=0.01,
    start_mean=(1.0, 0.0),
    start_std=0.1,
    limit=float("inf"),
)
"""A regulator with two states: a mass (position and speed) that is pushed back to zero."""


@functools.cache
def slides() -> tuple[Array, Array]:
    """What becomes of every row of four 2048 tiles (exponents, 4 bits each) that is slid towards
    its first cell, [65536], and the reward: the tiles that merging makes."""
    code = np.arange(1 << 16)
    cells = (code[:, None] >> (4 * np.arange(4))) & 15
    cells = _packed(cells)
    reward = np.zeros(len(code))
    for i in range(3):
        merge = (cells[:, i] > 0) & (cells[:, i] == cells[:, i + 1]) & (cells[:, i] < 15)
        reward += np.where(merge, 2.0 ** (cells[:, i] + 1), 0)
        cells[:, i] += merge
        cells[merge, i + 1] = 0
        # What was just made does not merge again: the gap closes behind it.
        cells[:, i + 1 :] = _packed(cells[:, i + 1 :])
    return np.sum(cells << (4 * np.arange(4)), -1), reward


def _packed(cells: Array) -> Array:
    """Rows with their zeros moved to the end, in order otherwise."""
    return np.take_along_axis(cells, np.argsort(cells == 0, axis=-1, kind="stable"), -1)


TURNS = tuple(
    np.array(cells)
    for cells in (
        [[4 * r + c for c in range(4)] for r in range(4)],  # left: rows from their left end
        [[4 * r + c for r in (3, 2, 1, 0)] for c in range(4)],  # down
        [[4 * r + c for c in (3, 2, 1, 0)] for r in range(4)],  # right
        [[4 * r + c for r in range(4)] for c in range(4)],  # up
    )
)


@dataclass(frozen=True)
class Twenty48:
    """2048 (appendix F.2): sixteen cells of tiles 2^k, slid left, down, right or up (0 to 3); equal
    tiles that meet merge, and the merged tile is the reward.

    A state is the exponents, row by row, 0 for an empty cell. After a move that changes something a
    2 (or, one time in ten, a 4) appears in a random empty cell; a move that changes nothing is
    worth nothing and no tile appears. It ends when no move changes anything. Rewards span 4 to
    65536: the chapter's example of gradients that need scaling.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "gamma", low=0, high=1)

    def reset(self, rng: np.random.Generator, n: int) -> Array:
        """Two tiles on an empty board."""
        board = np.zeros((n, 16), int)
        everyone = np.ones(n, bool)
        return _spawn(_spawn(board, everyone, rng), everyone, rng)

    def step(
        self, state: Array, action: Array, rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """Slide, merge, and let a tile appear."""
        tries = [slide(state, k) for k in range(4)]
        rows = np.arange(len(state))
        after = np.stack([board for board, _ in tries])[action, rows]
        reward = np.stack([r for _, r in tries])[action, rows]
        moved = np.any(after != state, -1)
        board = _spawn(after, moved, rng)
        stuck = np.all([np.all(slide(board, k)[0] == board, -1) for k in range(4)], 0)
        return reward, board, stuck


def slide(board: Array, action: int) -> tuple[Array, Array]:
    """Boards [n, 16] after a move, before a tile appears, and the reward [n]."""
    cells, shift = TURNS[action], 4 * np.arange(4)
    made, reward = slides()
    code = np.sum(board[:, cells] << shift, -1)  # [n, 4], one number a line
    after = np.empty_like(board)
    after[:, cells] = (made[code][..., None] >> shift) & 15
    return after, reward[code].sum(-1)


def _spawn(board: Array, where: Array, rng: np.random.Generator) -> Array:
    """Boards with a tile in a random empty cell, for the rows of `where`."""
    draw = np.where(board == 0, rng.random(board.shape), -1)
    cell, tile = np.argmax(draw, -1), 1 + (rng.random(len(board)) < 0.1)
    rows = np.flatnonzero(where & np.any(board == 0, -1))
    board = board.copy()
    board[rows, cell[rows]] = tile[rows]
    return board
