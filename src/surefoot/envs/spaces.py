"""The door between policies and environments: which spaces are supported, and how actions pass
through it."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.checks import EnvironmentFault, UsageError


def flat_obs_dim(space: Any, env_id: str) -> int:
    """Length of a 1-D Box observation. Raises `UsageError` for anything else."""
    shape = getattr(space, "shape", None)
    if type(space).__name__ != "Box" or shape is None or len(shape) != 1:
        raise UsageError(f"{env_id} has observations {space}; supported are 1-D Box observations")
    return int(shape[0])


def failed(who: str, what: str, error: Exception) -> EnvironmentFault:
    """The one line for an environment that raised: who, while doing what, and its own words."""
    return EnvironmentFault(
        " ".join(f"{who} failed in {what}: {type(error).__name__}: {error}".split())
    )


def check_shape(what: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise `ValueError` unless an environment keeps to the shape it promised; NumPy would
    broadcast silently."""
    if shape != wanted:
        raise ValueError(f"{what} of shape {shape} where {wanted} was promised")


class ActionDoor:
    """From a policy's actions [N, d] or [N] to an environment's.

    Finite boxes are mapped from [-1, 1] and clipped here and nowhere else; unbounded boxes and
    discrete actions pass. Raises `UsageError` for spaces that are not supported.
    """

    def __init__(self, space: Any, env_id: str) -> None:
        kind = type(space).__name__
        self.discrete = kind == "Discrete"
        self.dtype = (
            np.dtype(space.dtype)
            if getattr(space, "dtype", None) is not None
            else np.dtype(np.float32)
        )
        if self.discrete:
            self.dim, self.start = int(space.n), int(getattr(space, "start", 0))
            self.bounded = self.unit = False
            return
        if kind != "Box" or len(space.shape) != 1 or not np.issubdtype(self.dtype, np.floating):
            raise UsageError(
                f"{env_id} has actions {space}; supported are Discrete and 1-D float Box actions"
            )
        self.dim, self.start = int(space.shape[0]), 0
        low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        self.bounded = bool(np.all(np.isfinite(low)) and np.all(np.isfinite(high)))
        self.unit = self.bounded and bool(np.all(low == -1) and np.all(high == 1))
        if self.bounded:
            self.low, self.high = low, high

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """Actions in the environment's units and dtype, a new array."""
        if self.discrete:
            return action + self.start if self.start else action
        if not self.bounded:
            return action.astype(self.dtype)
        unit = np.minimum(
            np.maximum(action, -1), 1
        )  # np.clip costs three times as much on a few rows
        if not self.unit:
            # The sum may be rounded past the upper bound, which some environments assert.
            unit = np.minimum(self.low + (unit + 1) * ((self.high - self.low) / 2), self.high)
        return unit.astype(self.dtype, copy=False)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs to build the same door without the environment."""
        keys = ("discrete", "dim", "start", "bounded", "unit")
        bounds = {"low": self.low.tolist(), "high": self.high.tolist()} if self.bounded else {}
        return {k: getattr(self, k) for k in keys} | {"dtype": self.dtype.str} | bounds

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ActionDoor:
        """The door that `to_json` described."""
        door = cls.__new__(cls)
        door.discrete, door.bounded, door.unit = (
            bool(data["discrete"]),
            bool(data["bounded"]),
            bool(data["unit"]),
        )
        door.dim, door.start, door.dtype = (
            int(data["dim"]),
            int(data["start"]),
            np.dtype(data["dtype"]),
        )
        if door.bounded:
            door.low, door.high = (
                np.asarray(data["low"], np.float64),
                np.asarray(data["high"], np.float64),
            )
        return door
