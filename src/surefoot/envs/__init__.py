"""`make`: from a name to environments. A prefix chooses the suite; what runs never depends on what
is installed."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

from surefoot.checks import EnvironmentFault, UsageError

SUITES = {
    "": "Gymnasium, stepped in this process",
    "envpool": "EnvPool's C++ threads",
    "jax": "CartPole-v1 and Pendulum-v1, compiled with the update",
    "gymnax": "gymnax, compiled with the update",
    "probe": "tiny environments for tests",
}

EXTRAS = {
    "mujoco": "mujoco",
    "Box2D": "box2d",
    "envpool": "envpool",
    "gymnax": "gymnax",
    "minigrid": "minigrid",
}
"""Module that an extra brings -> the extra."""

ALSO_IN_ENVPOOL = frozenset(
    [f"{name}-v{v}" for name in (
        "Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum",
        "InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d",
    ) for v in (4, 5)]
    + ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
    + ["LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3", "BipedalWalkerHardcore-v3"]
)  # fmt: skip
"""Plain ids that EnvPool also has, so that a run can say so without importing it."""


def installed(module: str) -> bool:
    """Whether a module could be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def missing(module: str, wanted_by: str) -> EnvironmentFault:
    """The error for an extra that is not installed, with the line that installs it."""
    extra = EXTRAS[module]
    return EnvironmentFault(
        f'{extra} is not installed; {wanted_by} needs it. Run: pip install "surefoot[{extra}]"'
    )


def not_made(name: str, error: Exception) -> EnvironmentFault:
    """The error for an environment that exists and could not be made, on one line."""
    return EnvironmentFault(
        " ".join(f"{name} could not be made: {type(error).__name__}: {error}".split())
    )


def _importable(module: str) -> bool:
    try:
        return installed(module)
    except (ImportError, ValueError):  # its parent is missing, or the name is none
        return False


def split(name: str) -> tuple[str, str]:
    """`("envpool", "Hopper-v5")` from `envpool:Hopper-v5`; suite "" for anything that Gymnasium
    resolves itself."""
    head, colon, tail = name.partition(":")
    return (head, tail) if colon and head in SUITES else ("", name)


def nearest(word: str, words: Any) -> str:
    """` (did you mean X?)` for the closest of `words`, or nothing."""
    table = {str(w).lower(): str(w) for w in words}
    close = difflib.get_close_matches(word.lower(), table, n=1, cutoff=0.5)
    return f"; did you mean {table[close[0]]}?" if close else ""


def make(env: Any, num_envs: int = 1, seed: int = 0, workers: int = 0) -> Any:
    """`num_envs` environments of a name, a Gymnasium environment, a vector environment, or a
    function making one.

    `workers` asks for worker processes and must then equal `num_envs`; the default steps in this
    process. Raises `UsageError` for an unknown name or unsupported spaces, `EnvironmentFault` for a
    missing extra.
    """
    if not isinstance(env, str):
        return _from_object(env, num_envs, workers)
    suite, tail = split(env)
    if workers and suite:
        raise UsageError(
            f"--workers is {workers} with {env}; worker processes are for plain Gymnasium ids only"
        )
    if suite == "":
        return _gymnasium(tail, num_envs, workers)
    if suite == "envpool":
        return _envpool(tail, num_envs, seed)
    return _device(suite, tail, num_envs)


def _from_object(env: Any, num_envs: int, workers: int) -> Any:
    import gymnasium

    from surefoot.envs.gymnasium import InProcessEnvs, VectorEnvs, time_limit

    if workers and isinstance(env, (gymnasium.Env, gymnasium.vector.VectorEnv)):
        raise UsageError(
            f"--workers is {workers} but the environment is made already; "
            "hand in a function that makes one"
        )
    if isinstance(env, gymnasium.vector.VectorEnv):
        return VectorEnvs(env, _name(env))
    if isinstance(env, gymnasium.Env):
        if num_envs != 1:
            raise UsageError(
                f"num_envs is {num_envs} but one environment was handed in; "
                "hand in a function that makes one"
            )
        return InProcessEnvs([env], _name(env))
    if not callable(env):
        raise UsageError(
            f"env is {env!r}; allowed: an id, a Gymnasium environment, or a function that makes one"
        )
    first: Any = env()
    if isinstance(first, gymnasium.vector.VectorEnv):
        return VectorEnvs(first, _name(first))
    if workers:
        first.close()
        return _workers(env, _name(first), time_limit(first), num_envs, workers)
    return InProcessEnvs([first, *(env() for _ in range(num_envs - 1))], _name(first))


def _name(env: Any) -> str:
    spec = getattr(env, "spec", None)
    return getattr(spec, "id", None) or type(getattr(env, "unwrapped", env)).__name__


def _gymnasium(env_id: str, num_envs: int, workers: int) -> Any:
    from surefoot.envs.gymnasium import InProcessEnvs, time_limit

    maker = gymnasium_maker(env_id)
    if workers:
        first = maker()
        first.close()
        return _workers(maker, env_id, time_limit(first), num_envs, workers)
    return InProcessEnvs([maker() for _ in range(num_envs)], env_id)


def _workers(
    maker: Callable[[], Any], env_id: str, limit: int | None, num_envs: int, workers: int
) -> Any:
    import gymnasium

    from surefoot.envs.gymnasium import Named, VectorEnvs

    if workers != num_envs:
        raise UsageError(
            f"--workers is {workers} with {num_envs} environments; "
            f"allowed: 0 (this process) or {num_envs}"
        )
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    makers = [functools.partial(_made, Named, maker, i, env_id) for i in range(num_envs)]
    return VectorEnvs(gymnasium.vector.AsyncVectorEnv(makers, autoreset_mode=mode), env_id, limit)


def _made(wrapper: Any, maker: Callable[[], Any], *args: Any) -> Any:
    return wrapper(maker(), *args)


def gymnasium_maker(env_id: str, **options: Any) -> Callable[[], Any]:
    """A function that makes the Gymnasium environment of an id, after checking that the id
    exists."""
    import gymnasium

    module, _, plain = env_id.rpartition(":")
    if not module and plain.startswith("MiniGrid") and plain not in gymnasium.registry:
        if not installed("minigrid"):
            raise missing("minigrid", env_id)
        importlib.import_module("minigrid")
    if not module and plain.startswith("surefoot/"):
        importlib.import_module("surefoot.envs.textbook")
    if not module and plain not in gymnasium.registry:
        raise UsageError(
            f"no environment is called {env_id!r}{nearest(env_id, gymnasium.registry)}"
        )
    if module and not _importable(module):
        raise UsageError(
            f"no suite or module is called {module!r}{nearest(module, filter(None, SUITES))}"
        )
    entry_point = str(getattr(gymnasium.registry.get(plain), "entry_point", ""))
    _check_extra(env_id, entry_point)
    if "envs.mujoco" in entry_point:
        _hush_mujoco()
    return functools.partial(_make_gymnasium, env_id, options)


def _hush_mujoco() -> None:
    """Keep MuJoCo 4 from printing, for every HalfCheetah it builds, that its own model file uses an
    old attribute."""
    import mujoco

    api: Any = mujoco  # its stubs lack these two
    if not hasattr(api, "set_mju_user_warning") or api.get_mju_user_warning() is not None:
        return  # an older MuJoCo does not warn; a handler of the user's own stays

    def speak(message: str) -> None:
        if "settotalmass" not in message:
            print(f"WARNING: {message}", file=sys.stderr)

    api.set_mju_user_warning(speak)


def _make_gymnasium(env_id: str, options: dict[str, Any]) -> Any:
    import gymnasium

    from surefoot.envs.minigrid import flat

    try:
        return flat(gymnasium.make(env_id, disable_env_checker=True, **options))
    except gymnasium.error.UnregisteredEnv as error:  # of a module that was only imported just now
        near = nearest(env_id.rpartition(":")[2], gymnasium.registry)
        raise UsageError(f"no environment is called {env_id!r}{near}") from error
    except Exception as error:
        raise not_made(env_id, error) from error


def _check_extra(env_id: str, entry_point: str) -> None:
    for part, module in (("envs.mujoco", "mujoco"), ("envs.box2d", "Box2D")):
        if part in entry_point and not installed(module):
            raise missing(module, env_id)


def _envpool(env_id: str, num_envs: int, seed: int) -> Any:
    if not installed("envpool"):
        raise missing("envpool", f"envpool:{env_id}")
    import envpool

    from surefoot.envs.envpool import EnvPoolEnvs
    from surefoot.envs.gymnasium import env_seeds

    known = envpool.list_all_envs()
    if env_id not in known:
        raise UsageError(f"EnvPool has no environment called {env_id!r}{nearest(env_id, known)}")
    threads = min(
        num_envs,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )

    def build(pool_seed: int) -> Any:
        # A seed each: from one, EnvPool counts up, and neighbouring seeds would share nearly all
        # their streams.
        seeds = env_seeds(pool_seed, num_envs)
        try:
            return envpool.make_gymnasium(
                env_id, num_envs=num_envs, seed=seeds, num_threads=threads
            )
        except Exception as error:
            raise not_made(f"envpool:{env_id}", error) from error

    return EnvPoolEnvs(build, env_id, seed)


def _device(suite: str, tail: str, num_envs: int) -> Any:
    from surefoot.envs.device import DeviceEnv

    return DeviceEnv(_gymnax(tail) if suite == "gymnax" else _own(suite, tail), num_envs)


def _own(suite: str, tail: str) -> Any:
    if suite == "jax":
        from surefoot.envs.classic import JAX_ENVS as table
    else:
        from surefoot.envs.probes import PROBES as table
    if tail not in table:
        raise UsageError(
            f"no environment is called {suite}:{tail}{nearest(tail, table)}; "
            f"there are {', '.join(table)}"
        )
    return table[tail]()


def _gymnax(tail: str) -> Any:
    if not installed("gymnax"):
        raise missing("gymnax", f"gymnax:{tail}")
    import gymnax

    from surefoot.envs.gymnax import GymnaxEnv

    known = list(gymnax.registered_envs)
    if tail not in known:
        raise UsageError(f"gymnax has no environment called {tail!r}{nearest(tail, known)}")
    try:
        env, params = gymnax.make(tail)
    except Exception as error:
        raise not_made(f"gymnax:{tail}", error) from error
    return GymnaxEnv(env, params, tail)
