"""MiniGrid: observations as the flat vector of minigrid's own FlatObsWrapper, whichever suite steps
the task."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from surefoot.envs.walker import class_name

LETTERS, LENGTH = 28, 96
"""Of a mission in FlatObsWrapper: letters of its alphabet (a to z, space, comma), and places."""


def _alphabet() -> np.ndarray:
    """[256, 28]: a byte as FlatObsWrapper has it; nothing for what is not in its alphabet."""
    table = np.zeros((256, LETTERS), np.uint8)
    for k, letter in enumerate(b"abcdefghijklmnopqrstuvwxyz ,"):
        table[[letter, ord(chr(letter).upper())], k] = 1
    return table


ONE_HOT = _alphabet()
KNOWN_BYTES = ONE_HOT.any(axis=1) | (np.arange(256) == 0)


def is_minigrid(env: Any) -> bool:
    """Whether the core of a Gymnasium environment is a task of minigrid or BabyAI."""
    return class_name(type(env.unwrapped)).startswith("minigrid.")


def flat(env: Any) -> Any:
    """minigrid's FlatObsWrapper round a task that shows an image and a mission, else the
    environment itself.

    The symbolic view, [7, 7, 3] in most tasks, then the mission, a one-hot of 28 for each of 96
    letters: 147 + 2688 numbers. The compass (`direction`) is not in it. BabyAI's missions are
    another language, and stay as they are.
    """
    babyai = class_name(type(env.unwrapped)).startswith("minigrid.envs.babyai.")
    shown = getattr(env.observation_space, "spaces", {})
    if babyai or not is_minigrid(env) or not {"image", "mission"} <= set(shown):
        return env
    from minigrid.wrappers import FlatObsWrapper

    return FlatObsWrapper(env, maxStrLen=LENGTH)


class FlatPool:
    """Observations of EnvPool's MiniGrid tasks, which have missions as bytes, as `flat` makes
    them."""

    def __init__(self, space: Any) -> None:
        self._pixels = math.prod(space["image"].shape)
        size = self._pixels + LENGTH * LETTERS
        self.space = gymnasium.spaces.Box(0, 255, (size,), np.uint8)
        self._out = np.zeros((0, size), np.uint8)
        self._missions = np.zeros((0, LENGTH), np.uint8)

    @staticmethod
    def fits(env_id: str, space: Any) -> bool:
        """Whether a pool's observations are an image and a mission in FlatObsWrapper's alphabet."""
        shown = getattr(space, "spaces", {})
        there = {"image", "mission"} <= set(shown) and shown["mission"].shape == (LENGTH,)
        return env_id.startswith("MiniGrid-") and there

    def __call__(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """[N, pixels + 2688], good until the next call. Raises `ValueError` for a letter that
        FlatObsWrapper does not know."""
        image, missions = obs["image"], obs["mission"]
        n = len(image)
        if len(self._out) != n:
            self._out = np.zeros((n, *self._out.shape[1:]), np.uint8)
            self._missions = np.zeros((n, LENGTH), np.uint8)
        self._out[:, : self._pixels] = image.reshape(n, -1)
        for i in np.flatnonzero((missions != self._missions).any(axis=1)):
            if not KNOWN_BYTES[missions[i]].all():
                words = missions[i].tobytes().rstrip(b"\0").decode("latin-1")
                raise ValueError(f"a letter of the mission {words!r} has no code")
            self._out[i, self._pixels :] = ONE_HOT[missions[i]].ravel()
        self._missions[:] = missions
        return self._out
