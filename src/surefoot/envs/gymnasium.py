"""Gymnasium environments: stepped in this process one after another, or a vector environment in any
reset mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.envs import prove, snapshot, success
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
        self._run = [snapshot.recorder(env) for env in self.envs]
        self._success = success.rule(first)
        self._infos: list[Any] = [{}] * n

    def reset(self, seed: int) -> np.ndarray:
        """Seed every environment and begin its first episode; observations [N, d] float64."""
        shape, i = self._obs.shape[1:], 0
        try:
            for i, (env, s) in enumerate(
                zip(self._run, env_seeds(seed, len(self.envs)), strict=True)
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
        mask, infos = ~self._ended, self._infos
        terminated, truncated = np.zeros_like(mask), np.zeros_like(mask)
        i = 0
        try:
            for i, env in enumerate(self._run):
                if mask[i]:
                    new, reward[i], terminated[i], truncated[i], infos[i] = env.step(acts[i])
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
        self._ended = ended = terminated | truncated
        said = None
        if np.count_nonzero(ended):
            said = np.full(len(ended), np.nan)
            for i in np.flatnonzero(ended):
                said[i] = self._success(reward[i], terminated[i], infos[i])
        return Step(obs, reward, terminated, truncated, mask, success=said)

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def cut(self) -> None:
        """Let the next step be a reset of every environment."""
        self._ended = np.ones_like(self._ended)

    def snap(self, i: int) -> snapshot.Captured | None:
        """Environment i as it is between two steps; None where its next step is only a reset.

        Raises `EnvironmentFault` where something cannot be saved.
        """
        return None if self._ended[i] else snapshot.capture([self._run[i]], self.spec.id)

    def resume_level(self, prove: bool = False) -> snapshot.Level:
        """How these environments can be resumed, and a few words for it.

        `snapshot`, `replay` or `inexact`; with `prove`, after a probe of copies (tens of
        milliseconds). Never raises.
        """
        found = snapshot.inspect(self._run, self.spec.id)
        return proved(found, self.spec, self.envs[0]) if prove else found

    def capture(self) -> snapshot.Captured:
        """All that the next steps depend on: flat arrays, and a strictly JSON-able state.

        Raises `EnvironmentFault` where something cannot be saved.
        """
        arrays, state = snapshot.capture(self._run, self.spec.id)
        rows = {"obs": self._obs, "reward": self._reward, "ended": self._ended}
        return arrays | {name: x.copy() for name, x in rows.items()}, state

    def restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        """Go on where `capture` was called, in environments of the same make; never reset them
        before or after.

        Raises `EnvironmentFault` where that cannot be.
        """
        self.reset(0)  # opens wrappers, and makes what environments make at their first reset
        with snapshot.restoring(self.spec.id):
            snapshot.restore(self._run, self.spec.id, arrays, state)
            for mine, name in ((self._obs, "obs"), (self._reward, "reward")):
                check_shape(name, arrays[name].shape, mine.shape)
                mine[...] = arrays[name]
            self._ended = np.array(arrays["ended"], bool)


def proved(
    found: snapshot.Level, spec: EnvSpec, env: Any, wrap: Callable[[Any], Any] | None = None
) -> snapshot.Level:
    """What is left of a level after a probe of copies of one environment, each wrapped by `wrap`
    (as in `InProcessEnvs`)."""
    wrap = wrap or (lambda made: InProcessEnvs([made], spec.id))

    def scratch() -> Any:
        made = prove.copy_of(env)
        return None if made is None else wrap(made)

    def probe() -> snapshot.Level:
        return prove.prove(found, spec, scratch, snapshot.known(env))

    if found[0] == "inexact":
        return found
    try:
        return prove.beside(env, probe, spec.id)
    except Exception as error:
        return "inexact", str(failed(spec.id, "the probe", error))


class Named(gymnasium.Wrapper):
    """An environment in a worker process: what it raises says which environment it was, and can be
    sent back; and it can be captured and restored from outside.

    Gymnasium waits for ever for an exception that cannot be pickled.
    """

    pending: snapshot.Captured | None = None
    """Put here from outside, for `restore_pending`."""

    def __init__(self, env: Any, index: int, env_id: str) -> None:
        super().__init__(env)
        self._id, self._who = env_id, f"environment {index} of {env_id}"
        self._run = snapshot.recorder(env)
        self._by_reward = success.rule(env) is success.by_reward

    def reset(self, **options: Any) -> Any:
        """As the environment's."""
        return self._guard("reset", self._run.reset, **options)

    def step(self, action: Any) -> Any:
        """As the environment's; at the end of an episode of MiniGrid `info` says whether it was a
        success."""
        answer = self._guard("step", self._run.step, action)
        _, reward, terminated, truncated, info = answer
        if self._by_reward and (terminated or truncated):
            info["is_success"] = bool(success.by_reward(reward, terminated, info))
        return answer

    def level(self) -> snapshot.Level:
        """As `InProcessEnvs.resume_level`, without proof."""
        return snapshot.inspect([self._run], self._id)

    def capture(self) -> snapshot.Captured | str:
        """As `InProcessEnvs.capture`, of this environment alone; or why not, for what is raised
        here would end the worker."""
        try:
            return snapshot.capture([self._run], self._id)
        except EnvironmentFault as error:
            return str(error)

    def restore_pending(self) -> None:
        """Take up `pending`, after one reset."""
        if self.pending is not None:
            snapshot.restore([self._run], self._id, *self.pending)
        self.pending = None

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
        self._inner: Any = getattr(venv, "unwrapped", venv)
        self._loud = isinstance(self._inner, gymnasium.vector.AsyncVectorEnv)
        sync = isinstance(self._inner, gymnasium.vector.SyncVectorEnv)
        self._one_by_one = sync or self._loud
        self._inside: list[Any] = list(self._inner.envs) if sync else []
        self._ended = np.zeros(n, bool)
        self._success = success.rule(self._inside[0]) if sync else success.by_info

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
            said = self._successes(reward, terminated, ended, infos) if ended.any() else None
        except Exception as error:
            raise failed(self.spec.id, "step", error) from error
        if self.mode == "DISABLED" and ended.any():
            fresh = self._reset(options={"reset_mask": ended.copy()})
            obs = np.where(ended[:, None], fresh, obs)
        return Step(obs, reward, terminated, truncated, mask, final, said)

    def close(self) -> None:
        """Close the vector environment and its workers."""
        self.venv.close()

    def cut(self) -> None:
        """Nothing: when a vector environment resets is its own affair."""

    def resume_level(self, prove: bool = False) -> snapshot.Level:
        """As that of `InProcessEnvs`."""
        try:
            return self._workers_level(prove) if self._loud else self._level(prove)
        except Exception as error:
            return "inexact", str(failed(self.spec.id, "resume_level", error))

    def _level(self, prove: bool) -> snapshot.Level:
        if any(snapshot.replayed(env) for env in self._inside):
            return "inexact", (
                f"{self.spec.id} is resumed from its actions, which a vector environment made "
                "elsewhere does not keep"
            )
        found = snapshot.inspect([self.venv, *self._inside], self.spec.id)
        if not prove:
            return found
        if self._inside:
            return proved(found, self.spec, self._inside[0])
        return proved(found, self.spec, self.venv, lambda made: VectorEnvs(made, self.spec.id))

    def _workers_level(self, prove_it: bool) -> snapshot.Level:
        why = self._closed_workers()
        found = ("inexact", why) if why else snapshot.inspect([self.venv], self.spec.id)
        if found[0] == "inexact":
            return found
        levels = self._ask("call", "level")
        found = min(levels)  # "inexact" comes before the others
        if not prove_it:
            return found

        def scratch() -> InProcessEnvs:  # in this process: a copy of none that runs
            return InProcessEnvs([self._inner.env_fns[0]().env], self.spec.id)

        return prove.prove(found, self.spec, scratch, True)

    def _closed_workers(self) -> str:
        """Why worker processes cannot be captured, or nothing."""
        if self.mode != "SAME_STEP":
            return f"{self.spec.id} has {self.mode} workers, and only they know which are to reset"
        if not all(self._ask("call", "has_wrapper_attr", "restore_pending")):
            return f"{self.spec.id} runs in worker processes that were made elsewhere"
        return ""

    def capture(self) -> snapshot.Captured:
        """As that of `InProcessEnvs`."""
        why = self._closed_workers() if self._loud else ""
        if why:
            raise EnvironmentFault(why)
        arrays, state = snapshot.capture([self.venv, *self._inside], self.spec.id)
        arrays["ended"] = self._ended.copy()
        if self._loud:
            state["workers"] = self._capture_workers(arrays)
        return arrays, state

    def _capture_workers(self, arrays: dict[str, np.ndarray]) -> list[Any]:
        states = []
        for i, part in enumerate(self._ask("call", "capture")):
            if isinstance(part, str):
                raise EnvironmentFault(part)
            arrays.update({f"worker {i}/{name}": x for name, x in part[0].items()})
            states.append(part[1])
        return states

    def restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        """As that of `InProcessEnvs`."""
        self.reset(0)
        with snapshot.restoring(self.spec.id):
            snapshot.restore([self.venv, *self._inside], self.spec.id, arrays, state)
            if self._loud:
                self._restore_workers(arrays, state.get("workers", []))
            self._ended = np.array(arrays["ended"], bool)

    def _restore_workers(self, arrays: dict[str, np.ndarray], states: list[Any]) -> None:
        if len(states) != self.spec.num_envs:
            raise EnvironmentFault(
                f"what was saved of {self.spec.id} is not of {self.spec.num_envs} workers"
            )
        parts: list[Any] = []
        for i, inner in enumerate(states):
            where = f"worker {i}/"
            mine = {k.removeprefix(where): x for k, x in arrays.items() if k.startswith(where)}
            parts.append((mine, inner))
        self._ask("set_attr", "pending", parts)
        self._ask("call", "restore_pending")

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

    def _successes(
        self, reward: np.ndarray, terminated: np.ndarray, ended: np.ndarray, infos: Any
    ) -> np.ndarray:
        if self.mode == "SAME_STEP" and isinstance(infos, dict):
            infos = infos.get("final_info", infos)
        said = np.full(len(ended), np.nan)
        for i in np.flatnonzero(ended):
            info = success.row(infos, int(i), len(ended))
            said[i] = self._success(reward[i], terminated[i], info)
        return said

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
        return self._guard(getattr(self.venv, name), name, *args, **options)

    def _ask(self, name: str, *args: Any) -> Any:
        return self._guard(getattr(self._inner, name), args[0], *args)

    def _guard(self, call: Callable[..., Any], name: str, *args: Any, **options: Any) -> Any:
        level = gymnasium.logger.min_level
        if self._loud:  # a worker's traceback would be printed, and as a format string
            gymnasium.logger.min_level = gymnasium.logger.ERROR + 1
        try:
            return call(*args, **options)
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
