"""Gymnasium environments: stepped in this process one after another, or a vector environment in any
reset mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.envs.spaces import ActionDoor, check_shape, failed, flat_obs_dim
from surefoot.types import EnvSpec, Step


def env_seeds(seed: int, count: int) -> list[int]:
    """A seed below 2^31 - 1 (EnvPool's largest) for each of `count` environments; runs share no
    streams."""
    words = np.random.SeedSequence([seed]).generate_state(count)
    return [int(w) % (2**31 - 1) for w in words]


def time_limit(env: Any) -> int | None:
    """Steps after which an environment cuts its episodes, where its spec says so."""
    spec = getattr(env, "spec", None)
    return getattr(spec, "max_episode_steps", None)


class InProcessEnvs:
    """Gymnasium environments stepped one after another in this thread, each resetting on the step
    after its end.

    This is as fast as the environments themselves: no worker processes, no checker, no copies.
    """

    def __init__(self, envs: Sequence[Any], env_id: str) -> None:
        self.envs = list(envs)
        first = self.envs[0]
        self.door = ActionDoor(first.action_space, env_id)
        n, d = len(self.envs), flat_obs_dim(first.observation_space, env_id)
        self.spec = EnvSpec(
            env_id, "gymnasium", n, d, self.door.dim, self.door.discrete, time_limit(first)
        )
        self._obs = np.zeros((n, d), np.float64)
        self._reward = np.zeros(n, np.float64)
        self._ended = np.zeros(n, bool)

    def reset(self, seed: int) -> np.ndarray:
        """Seed every environment and begin its first episode; observations [N, d] float64."""
        shape, i = self._obs.shape[1:], 0
        try:
            for i, (env, s) in enumerate(
                zip(self.envs, env_seeds(seed, len(self.envs)), strict=True)
            ):
                first, _ = env.reset(seed=s)
                check_shape("observation", np.shape(first), shape)
                self._obs[i] = first
        except Exception as error:
            raise failed(f"environment {i} of {self.spec.id}", "reset", error) from error
        self._ended[:] = False
        return self._obs

    def step(self, action: np.ndarray) -> Step:
        """One step of every environment; those that had ended are reset instead. Arrays are reused
        at the next call."""
        obs, reward = self._obs, self._reward
        acts, shape = self.door(action), obs.shape[1:]
        mask = ~self._ended
        terminated, truncated = np.zeros_like(mask), np.zeros_like(mask)
        i = 0
        try:
            for i, env in enumerate(self.envs):
                if mask[i]:
                    new, reward[i], terminated[i], truncated[i], _ = env.step(acts[i])
                else:
                    new, _ = env.reset()
                    reward[i] = 0.0
                if getattr(new, "shape", None) != shape:
                    check_shape("observation", np.shape(new), shape)
                obs[i] = new
        except Exception as error:
            raise failed(
                f"environment {i} of {self.spec.id}", "step" if mask[i] else "reset", error
            ) from error
        self._ended = terminated | truncated
        return Step(obs, reward, terminated, truncated, mask)

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


class Named(gymnasium.Wrapper):
    """An environment in a worker process: what it raises says which environment it was, and can be
    sent back.

    Gymnasium waits for ever for an exception that cannot be pickled.
    """

    def __init__(self, env: Any, index: int, env_id: str) -> None:
        super().__init__(env)
        self._who = f"environment {index} of {env_id}"

    def reset(self, **options: Any) -> Any:
        """As the environment's."""
        return self._guard("reset", self.env.reset, **options)

    def step(self, action: Any) -> Any:
        """As the environment's."""
        return self._guard("step", self.env.step, action)

    def _guard(self, what: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            answer = call(*args, **options)
            check_shape("observation", np.shape(answer[0]), self.env.observation_space.shape or ())
        except Exception as error:
            raise failed(self._who, what, error) from None
        return answer


class VectorEnvs:
    """A Gymnasium vector environment, in whichever of the three reset modes it declares.

    Next-step: the row after an end is masked. Same-step: the true successor is taken from
    `infos["final_obs"]`. Disabled: environments that ended are reset here, through
    `options={"reset_mask": ...}`, which is same-step for us.
    """

    def __init__(self, venv: Any, env_id: str, limit: int | None = None) -> None:
        self.venv = venv
        self.mode = reset_mode(venv, env_id)
        self.door = ActionDoor(venv.single_action_space, env_id)
        n, d = int(venv.num_envs), flat_obs_dim(venv.single_observation_space, env_id)
        limit = time_limit(venv) if limit is None else limit
        same_step = self.mode != "NEXT_STEP"
        self.spec = EnvSpec(
            env_id, "gymnasium", n, d, self.door.dim, self.door.discrete, limit, same_step=same_step
        )
        inner = getattr(venv, "unwrapped", venv)
        self._one_by_one = isinstance(
            inner, (gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv)
        )
        self._loud = isinstance(inner, gymnasium.vector.AsyncVectorEnv)
        self._ended = np.zeros(n, bool)

    def reset(self, seed: int) -> np.ndarray:
        """Seed and begin; observations [N, d].

        Only vectors of single environments take a seed each; the others draw all their streams from
        one.
        """
        self._ended = np.zeros(self.spec.num_envs, bool)
        seeds = env_seeds(seed, self.spec.num_envs)
        return self._reset(seed=seeds if self._one_by_one else seeds[0])

    def step(self, action: np.ndarray) -> Step:
        """One step of every environment."""
        answer = self._call("step", self.door(action))
        try:
            obs, reward, terminated, truncated, infos = answer
            obs, reward = self._observations(obs), np.array(reward, np.float64)
            terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
            for name, x in (
                ("reward", reward),
                ("terminated", terminated),
                ("truncated", truncated),
            ):
                check_shape(name, x.shape, self._ended.shape)
            mask, final = np.ones_like(self._ended), None
            if self.mode == "NEXT_STEP":
                mask = ~self._ended
                reward = np.where(mask, reward, 0.0)
                terminated, truncated = terminated & mask, truncated & mask
            else:
                final = obs.copy()
            ended = self._ended = terminated | truncated
            if self.mode == "SAME_STEP":
                self._true_successors(final, ended, infos)
        except Exception as error:
            raise failed(self.spec.id, "step", error) from error
        if self.mode == "DISABLED" and ended.any():
            fresh = self._reset(options={"reset_mask": ended.copy()})
            obs = np.where(ended[:, None], fresh, obs)
        return Step(obs, reward, terminated, truncated, mask, final)

    def close(self) -> None:
        """Close the vector environment and its workers."""
        self.venv.close()

    def _true_successors(self, final: Any, ended: np.ndarray, infos: Any) -> None:
        for i in np.flatnonzero(ended):
            last = infos["final_obs"][i] if "final_obs" in infos else None
            if last is None:
                raise ValueError(
                    f"environment {i} ended and infos['final_obs'] does not hold "
                    "its last observation"
                )
            check_shape("final_obs", np.shape(last), final.shape[1:])
            final[i] = last

    def _reset(self, **options: Any) -> np.ndarray:
        answer = self._call("reset", **options)
        try:
            return self._observations(answer[0])
        except Exception as error:
            raise failed(self.spec.id, "reset", error) from error

    def _observations(self, obs: Any) -> np.ndarray:
        obs = np.array(obs, np.float64)
        check_shape("observation", obs.shape, (self.spec.num_envs, self.spec.obs_dim))
        return obs

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        level = gymnasium.logger.min_level
        if self._loud:  # a worker's traceback would be printed, and as a format string
            gymnasium.logger.min_level = gymnasium.logger.ERROR + 1
        try:
            return getattr(self.venv, name)(*args, **options)
        except EnvironmentFault:
            raise  # a worker has said which environment it was
        except Exception as error:
            raise failed(self.spec.id, name, error) from error
        finally:
            if self._loud:
                gymnasium.logger.min_level = level


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
