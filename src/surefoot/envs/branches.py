"""Copies of a Gymnasium environment that are put at snapshots of it and go on from there."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.envs import prove, snapshot
from surefoot.envs.gymnasium import InProcessEnvs
from surefoot.envs.spaces import failed


class Branches:
    """As many copies of an environment as branches go side by side.

    Raises `UsageError` where the environment cannot be put back to any state of its episodes.
    """

    def __init__(self, env: Any, lanes: int) -> None:
        self.spec = env.spec
        level, words = env.resume_level(prove=True)
        if level != "snapshot" or not isinstance(env, InProcessEnvs):
            why = words if level != "snapshot" else "it is a vector environment"
            raise UsageError(
                f"a vine needs environments that can be put back to any state: those of jax:, "
                f"gymnax: and Gymnasium's MuJoCo and classic control in this process; "
                f"{env.spec.id} cannot ({level}: {why})"
            )
        self.env, self.door = env, env.door
        self._copies = [self._copy() for _ in range(lanes)]

    def _copy(self) -> Any:
        made = prove.copy_of(self.env.envs[0])
        if made is None:
            raise UsageError(
                f"a vine needs a second {self.spec.id}, and none can be made of the one that was "
                "handed in; hand in an id, or a function that makes one"
            )
        made.reset(seed=0)  # makes what environments make at their first reset
        return made

    def put(self, lane: int, at: snapshot.Captured, seed: list[int]) -> None:
        """Bring a copy to a snapshot, and give it random numbers of its own from there on.

        Raises `EnvironmentFault` where it does not come back.
        """
        copy = self._copies[lane]
        snapshot.restore([copy], self.spec.id, *at)
        copy.unwrapped.np_random = np.random.default_rng(seed)

    def step(
        self, lanes: np.ndarray, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of some copies: observations [n, obs_dim] float64, rewards, whether nothing
        follows, whether it was cut.

        Raises `EnvironmentFault` where a copy raises, or says something that is not finite.
        """
        n = len(lanes)
        obs, reward = np.zeros((n, self.spec.obs_dim)), np.zeros(n)
        terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
        acts = self.door(action)
        try:
            for j, lane in enumerate(lanes):
                answer = self._copies[lane].step(acts[j])
                obs[j], reward[j], terminated[j], truncated[j], _ = answer
        except Exception as error:
            raise failed(f"a branch of {self.spec.id}", "step", error) from error
        if not (np.all(np.isfinite(obs)) and np.all(np.isfinite(reward))):
            raise EnvironmentFault(
                f"a reward or observation is not finite in a branch of {self.spec.id}"
            )
        return obs, reward, terminated, truncated

    def close(self) -> None:
        """Close the copies."""
        for copy in self._copies:
            copy.close()
