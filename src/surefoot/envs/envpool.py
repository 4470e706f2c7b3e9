"""EnvPool: many environments stepped by one call to C++ threads. Resets on the step after an end,
ignoring that action.

Where a task ends on the very step of its time limit, EnvPool calls it a cut and not an end; nothing
it returns could tell them apart.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from surefoot.checks import EnvironmentFault
from surefoot.envs import success
from surefoot.envs.minigrid import FlatPool
from surefoot.envs.spaces import ActionDoor, check_shape, failed, flat_obs_dim
from surefoot.types import EnvSpec, Step

UNSTEADY = ("Go19x19", "ChineseGo19x19", "Othello-v1", "IntersectionMultiAgent")
"""Tasks of which two pools of one seed do not always say the same (rows change places, in some)."""
PROBE = (4, 20)
"""Environments and steps of the two pools that the probe compares."""


class EnvPoolEnvs:
    """A pool with EnvPool's Gymnasium interface. `make(seed)` builds it: its seed is fixed at
    construction."""

    def __init__(self, make: Any, env_id: str, seed: int) -> None:
        self._make, self._seed = make, seed
        self.pool = make(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EnvPool's bounds are float64, its boxes float32
            self.door = ActionDoor(self.pool.action_space, env_id)
            space: Any = self.pool.observation_space
            self._flat = FlatPool(space) if FlatPool.fits(env_id, space) else None
            d = flat_obs_dim(space if self._flat is None else self._flat.space, env_id)
        config = self.pool.spec.config
        n = int(config.num_envs)
        limit = getattr(config, "max_episode_steps", None)
        self.spec = EnvSpec(env_id, "envpool", n, d, self.door.dim, self.door.discrete, limit)
        self._ended = np.zeros(n, bool)
        self._fresh = True

    def reset(self, seed: int) -> np.ndarray:
        """Begin new episodes; a pool that has stepped, or has another seed, is made anew (reset
        restores nothing)."""
        if seed != self._seed or not self._fresh:
            self.close()
            self.pool, self._seed = self._make(seed), seed
        self._fresh = False
        self._ended = np.zeros(self.spec.num_envs, bool)
        return self._call("reset")[0]

    def step(self, action: np.ndarray) -> Step:
        """One step of every environment; rows after an end are only a reset and masked."""
        obs, reward, terminated, truncated, infos = self._call("step", self.door(action))
        mask = ~self._ended
        terminated, truncated = (
            np.asarray(terminated, bool) & mask,
            np.asarray(truncated, bool) & mask,
        )
        self._ended = ended = terminated | truncated
        said = self._successes(reward, ended, infos) if np.count_nonzero(ended) else None
        return Step(obs, np.where(mask, reward, 0.0), terminated, truncated, mask, success=said)

    def _successes(self, reward: np.ndarray, ended: np.ndarray, infos: Any) -> np.ndarray:
        said = np.full(len(ended), np.nan)
        for i in np.flatnonzero(ended):
            if self._flat is not None:  # solved on the step of the limit, it is called a cut
                said[i] = success.by_reward(reward[i], True, {})
            else:
                said[i] = success.by_info(None, True, success.row(infos, int(i), len(ended)))
        return said

    def close(self) -> None:
        """Stop the pool's threads."""
        self.pool.close()

    def resume_level(self, prove: bool = False) -> tuple[str, str]:
        """How a pool can be resumed, and a few words for it. It cannot be read out, but new ones of
        one seed are the same.

        `barrier` or `inexact`; with `prove`, after running two pools of one seed beside each other.
        Never raises.
        """
        if self.spec.id.startswith(UNSTEADY):
            return "inexact", f"two pools of {self.spec.id} with one seed do not say the same"
        try:
            why = self._differ() if prove else ""
        except Exception as error:
            why = str(failed(self.spec.id, "the probe", error))
        return ("inexact", why) if why else ("barrier", "the pool is made anew at every checkpoint")

    def capture(self) -> tuple[dict[str, np.ndarray], dict]:
        """Raises `EnvironmentFault`: EnvPool cannot be captured, only made anew."""
        raise EnvironmentFault(f"{self.spec.id} of EnvPool cannot be captured, only made anew")

    def restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        """Raises `EnvironmentFault`, as `capture` does."""
        raise EnvironmentFault(f"{self.spec.id} of EnvPool cannot be restored, only made anew")

    def _differ(self) -> str:
        """What two small pools of one seed say differently, or nothing."""
        import envpool

        (n, steps), spec, rng = PROBE, self.spec, np.random.default_rng(0)
        shape = (steps, n, spec.action_dim)
        actions = (
            rng.integers(spec.action_dim, size=shape[:2])
            if spec.discrete
            else rng.standard_normal(shape, np.float32)
        )
        one, other = (
            envpool.make_gymnasium(spec.id, num_envs=n, seed=1, num_threads=2) for _ in range(2)
        )
        try:
            first = (pool.reset()[0] for pool in (one, other))
            same = all(np.array_equal(x, y) for x, y in zip(*map(_leaves, first), strict=True))
            for k, action in enumerate(self.door(a) for a in actions):
                if not same:
                    return f"two pools of {spec.id} with one seed differ at step {k}"
                pairs = zip(*(_leaves(p.step(action)[:4]) for p in (one, other)), strict=True)
                same = all(x.tobytes() == y.tobytes() for x, y in pairs)
            return "" if same else f"two pools of {spec.id} with one seed differ at step {steps}"
        finally:
            one.close()
            other.close()

    def _call(self, name: str, *args: Any) -> tuple[Any, ...]:
        try:
            obs, *rest = getattr(self.pool, name)(*args)
            obs = np.asarray(obs) if self._flat is None else self._flat(obs)
            check_shape("observation", obs.shape, (self.spec.num_envs, self.spec.obs_dim))
        except Exception as error:
            raise failed(self.spec.id, name, error) from error
        return obs, *rest


def _leaves(x: Any) -> list[np.ndarray]:
    """The arrays of what a pool said, in order."""
    if isinstance(x, dict):
        return [leaf for key in sorted(x) for leaf in _leaves(x[key])]
    if isinstance(x, (tuple, list)):
        return [leaf for y in x for leaf in _leaves(y)]
    return [np.asarray(x)]
