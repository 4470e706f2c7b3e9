"""Gymnasium environments: stepped in this process one after another, or a vector environment in any reset mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.envs.spaces import ActionDoor, flat_obs_dim
from surefoot.types import EnvSpec, Step


def env_seeds(seed: int, count: int) -> list[int]:
    """A seed of 31 bits for each of `count` environments of a run."""
    words = np.random.SeedSequence([seed]).generate_state(count)
    return [int(w) >> 1 for w in words]


def time_limit(env: Any) -> int | None:
    """Steps after which an environment cuts its episodes, where its spec says so."""
    spec = getattr(env, "spec", None)
    return getattr(spec, "max_episode_steps", None)


class InProcessEnvs:
    """Gymnasium environments stepped one after another in this thread, each resetting on the step after its end.

    This is as fast as the environments themselves: no worker processes, no checker, no copies.
    """

    def __init__(self, envs: Sequence[Any], env_id: str) -> None:
        self.envs = list(envs)
        first = self.envs[0]
        self.door = ActionDoor(first.action_space, env_id)
        n, d = len(self.envs), flat_obs_dim(first.observation_space, env_id)
        self.spec = EnvSpec(env_id, "gymnasium", n, d, self.door.dim, self.door.discrete, time_limit(first))
        self._obs = np.zeros((n, d), np.float64)
        self._reward = np.zeros(n, np.float64)
        self._ended = np.zeros(n, bool)
        self._where = "reset"

    def reset(self, seed: int) -> np.ndarray:
        """Seed every environment and begin its first episode; observations [N, d] float64."""
        for i, (env, s) in enumerate(zip(self.envs, env_seeds(seed, len(self.envs)), strict=True)):
            self._guard(i, "reset", lambda env=env, s=s, i=i: self._store(i, env.reset(seed=s)[0]))
        self._ended[:] = False
        return self._obs

    def step(self, action: np.ndarray) -> Step:
        """One step of every environment; those that had ended are reset instead. Arrays are reused at the next call."""
        obs, reward = self._obs, self._reward
        acts = self.door(action)
        mask = ~self._ended
        terminated, truncated = np.zeros_like(mask), np.zeros_like(mask)
        i = 0
        try:
            for i, env in enumerate(self.envs):
                if mask[i]:
                    obs[i], reward[i], terminated[i], truncated[i], _ = env.step(acts[i])
                else:
                    obs[i], _ = env.reset()
                    reward[i] = 0.0
        except Exception as error:
            raise EnvironmentFault(self._blame(i, "step" if mask[i] else "reset", error)) from error
        self._ended = terminated | truncated
        return Step(obs, reward, terminated, truncated, mask)

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def _store(self, i: int, obs: Any) -> None:
        self._obs[i] = obs

    def _guard(self, i: int, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            raise EnvironmentFault(self._blame(i, what, error)) from error

    def _blame(self, i: int, what: str, error: Exception) -> str:
        return f"environment {i} of {self.spec.id} failed in {what}: {type(error).__name__}: {error}"


class VectorEnvs:
    """A Gymnasium vector environment, in whichever of the three reset modes it declares.

    Next-step: the row after an end is masked. Same-step: the true successor is taken from `infos["final_obs"]`.
    Disabled: environments that ended are reset here, through `options={"reset_mask": ...}`, which is same-step for us.
    """

    def __init__(self, venv: Any, env_id: str) -> None:
        self.venv = venv
        self.mode = reset_mode(venv, env_id)
        self.door = ActionDoor(venv.single_action_space, env_id)
        d = flat_obs_dim(venv.single_observation_space, env_id)
        self.spec = EnvSpec(
            env_id,
            "gymnasium",
            int(venv.num_envs),
            d,
            self.door.dim,
            self.door.discrete,
            time_limit(venv),
            same_step=self.mode != "NEXT_STEP",
        )
        self._ended = np.zeros(self.spec.num_envs, bool)

    def reset(self, seed: int) -> np.ndarray:
        """Seed and begin; observations [N, d]."""
        self._ended = np.zeros(self.spec.num_envs, bool)
        return np.asarray(self._call("reset", seed=env_seeds(seed, self.spec.num_envs))[0], np.float64)

    def step(self, action: np.ndarray) -> Step:
        """One step of every environment."""
        obs, reward, terminated, truncated, infos = self._call("step", self.door(action))
        obs = np.asarray(obs, np.float64)
        terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
        ended = terminated | truncated
        mask, final = np.ones_like(ended), None
        if self.mode == "NEXT_STEP":
            mask = ~self._ended
            reward = np.where(mask, reward, 0.0)
        elif self.mode == "SAME_STEP":
            final = obs.copy()
            for i in np.flatnonzero(ended):
                final[i] = infos["final_obs"][i]
        else:
            final = obs.copy()
            if ended.any():
                obs = np.asarray(self._call("reset", options={"reset_mask": ended})[0], np.float64)
        self._ended = ended
        return Step(obs, np.asarray(reward, np.float64), terminated, truncated, mask, final)

    def close(self) -> None:
        """Close the vector environment and its workers."""
        self.venv.close()

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        try:
            return getattr(self.venv, name)(*args, **options)
        except Exception as error:
            raise EnvironmentFault(f"{self.spec.id} failed in {name}: {type(error).__name__}: {error}") from error


def reset_mode(venv: Any, env_id: str) -> str:
    """`NEXT_STEP`, `SAME_STEP` or `DISABLED`, as the vector environment declares it."""
    mode = (getattr(venv, "metadata", None) or {}).get("autoreset_mode")
    name = getattr(mode, "name", mode)
    if name not in ("NEXT_STEP", "SAME_STEP", "DISABLED"):
        raise UsageError(
            f"{env_id} does not say when it resets (metadata['autoreset_mode'] is {mode!r}); "
            "set it to a gymnasium.vector.AutoresetMode"
        )
    return str(name)
