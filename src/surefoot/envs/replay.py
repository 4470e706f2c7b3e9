"""Environments that are restored by running their episode again: its actions since it began, and
the random numbers it began from.

Needed where the state lives in a library that cannot write it (Box2D), or in objects that cannot be
told from one another afterwards (MiniGrid). It is exact where an episode depends on nothing but
that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from surefoot.envs.reader import Mismatch, Reader
from surefoot.envs.walker import Writer, class_name

OLD_WORLDS = ("gymnasium.envs.box2d.bipedal_walker.", "gymnasium.envs.box2d.car_racing.")
"""Environments that keep one Box2D world for the life of the object. Its order of contacts
remembers earlier episodes, so that a later one could not be run again."""


def fresh_world(env: Any) -> None:
    """Give a BipedalWalker or CarRacing a new world before its reset.

    Our departure from Gymnasium, in every run and not only in resumed ones: from the second episode
    on its trajectories are not those of stock Gymnasium, though of the same distribution.
    """
    core = env.unwrapped
    core._destroy()  # its bodies belong to the old world; the reset finds none
    gravity = tuple(core.world.gravity)
    core.world = type(core.world)(gravity)


class Tape:
    """Steps an environment and keeps what its running episode was made from.

    `unsaved` gathers what wrappers hold and cannot be saved, as in `Snapshot`.
    """

    def __init__(self, env: Any, chain: Callable[[Any], list[Any]]) -> None:
        self.env = env
        self._wrappers = chain(env)[:-1]
        self.fresh = class_name(type(env.unwrapped)).startswith(OLD_WORLDS)
        self._begin(None)

    def _begin(self, seed: int | None) -> None:
        self.seed, self.actions = seed, []
        self.last: Any = None
        self._arrays: dict[str, np.ndarray] = {}
        writer = Writer(self._arrays)
        for j, link in enumerate((*self._wrappers, self.env.unwrapped)):
            writer.know(link, f"start/{j}")
        self.unsaved: list[tuple[Any, str, Any]] = []
        self._links = []
        for j, link in enumerate(self._wrappers):
            self._links.append(writer.fields(link, f"start/{j}"))
            self.unsaved += [(link, path, x) for path, x in writer.unsaved[len(self.unsaved) :]]
        generator = getattr(self.env.unwrapped, "_np_random", None)
        self._rng = writer.write(generator, "start/rng")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """As the environment's, remembering what the episode begins from."""
        self._begin(seed)
        if options:
            self.unsaved.append((self.env, "0/0.options", options))
        return self._reset(options)

    def _reset(self, options: dict[str, Any] | None) -> Any:
        if self.fresh:
            fresh_world(self.env)
        answer = self.env.reset(seed=self.seed, options=options)
        self.last = answer[0]
        return answer

    def step(self, action: Any) -> Any:
        """As the environment's, remembering the action in the dtype that was sent."""
        self.actions.append(action.copy())  # an environment may change it in place
        answer = self.env.step(action)
        self.last = answer[0]
        return answer

    def capture(self, path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """The episode so far: JSON, and arrays under names that begin with `path`."""
        arrays[f"{path}.actions"] = np.array(self.actions)
        arrays[f"{path}.last"] = np.array(self.last)
        arrays.update({f"{path}.{name}": x for name, x in self._arrays.items()})
        space = Writer(arrays).write(self.env.unwrapped.action_space, f"{path}.space")
        return {"seed": self.seed, "links": self._links, "rng": self._rng, "space": space}

    def restore(self, node: dict[str, Any], path: str, arrays: dict[str, np.ndarray]) -> None:
        """Run a captured episode again, in an environment that was reset once.

        Raises `Mismatch` where it does not end at the captured observation.
        """
        if not node:
            raise Mismatch("it was never reset when it was saved")
        mine = {k.removeprefix(f"{path}."): x for k, x in arrays.items()}
        reader = Reader(mine)
        core = self.env.unwrapped
        for j, link in enumerate((*self._wrappers, core)):
            reader.know(link, f"start/{j}")
        for j, (link, fields) in enumerate(zip(self._wrappers, node["links"], strict=True)):
            reader.fields(link, fields, f"start/{j}")
        core._np_random = reader.read(node["rng"], "start/rng", core._np_random)
        self.reset(seed=node["seed"])
        for action in mine["actions"]:
            self.step(action)
        Reader(arrays).read(node["space"], f"{path}.space", core.action_space)
        if np.asarray(self.last).tobytes() != mine["last"].tobytes():
            raise Mismatch(
                f"after {len(self.actions)} replayed actions its observation is not the saved one"
            )
