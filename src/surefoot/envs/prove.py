"""The probe at the start of a run: is what can be captured of an environment enough to restore it?

It runs on copies. One lives for three short episodes and a part of a fourth and is captured;
another, which has lived another life, is given that; then both must say the same, to the byte, for
as long as the probe lasts.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from surefoot.checks import EnvironmentFault
from surefoot.envs.reader import Reader
from surefoot.envs.snapshot import Level, Snapshot, chain, names
from surefoot.types import EnvSpec, Step

EPISODES, LENGTH, BEFORE, STEPS = 3, 12, 20, 50
"""Short episodes before the one that is captured, their length; steps into that one, and after."""


def prove(found: Level, spec: EnvSpec, scratch: Callable[[], Any | None], sure: bool) -> Level:
    """The level that was found where the probe agrees, else `inexact` with the first thing that
    differs.

    `scratch` gives wrapped copies to probe, or None where there can be none: then `sure` says
    whether the level stands without. Never raises, and leaves the global random numbers as they
    were.
    """
    if found[0] == "inexact":
        return found
    copies: list[Any] = []
    with _quiet():
        try:
            copies += [scratch(), scratch()]
            if None in copies:
                no = f"no second {spec.id} can be made to prove that it can be restored"
                return (found[0], f"{found[1]}; not proved") if sure else ("inexact", no)
            why = _why_not(*copies)
        except EnvironmentFault as error:
            why = str(error)
        except Exception as error:
            why = " ".join(
                f"{spec.id} failed in the probe: {type(error).__name__}: {error}".split()
            )
        finally:
            _close(copies)
    return ("inexact", why) if why else found


def beside(env: Any, probe: Callable[[], Level], env_id: str) -> Level:
    """The answer of a probe of copies of `env`, seeing to it that `env` itself stays as it was.

    Copies may hold on to the same objects, through closures or modules. That is harmless where
    those do not change; where they do, they are put back, and no copy can prove anything.
    """
    before = Snapshot([env])
    level = probe()
    after = Snapshot([env])
    same = before.things == after.things and all(
        x.tobytes() == after.arrays[name].tobytes() for name, x in before.arrays.items()
    )
    if same:
        return level
    reader = Reader(before.arrays)
    for j, link in enumerate(chain(env)):
        reader.know(link, f"0/{j}")
    for j, (link, fields) in enumerate(zip(chain(env), before.things[0]["links"], strict=True)):
        reader.fields(link, fields, f"0/{j}")
    return "inexact", f"{env_id} shares what changes with others of its kind"


def copy_of(env: Any) -> Any | None:
    """Another environment of the same make, or None.

    Made from its spec; where it has none that gives the same chain, by a deep copy. Either may be
    a new environment or one in the middle of an episode: it is only good after a reset. None too of
    what draws on a screen.
    """
    if getattr(env, "render_mode", None) == "human":
        return None
    for make in (_from_spec, copy.deepcopy):
        try:
            made = make(env)
            if names(made) == names(env):
                return made
        except Exception:  # whatever a stranger's environment raises here, it has no such copy
            continue
    return None


def _from_spec(env: Any) -> Any:
    return gymnasium.make(env.spec, disable_env_checker=True)


def _close(copies: list[Any]) -> None:
    for env in copies:
        with contextlib.suppress(Exception):  # the probe has its answer, and must not raise
            env.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings nor global random numbers come out of the probe."""
    level, numbers, state = gymnasium.logger.min_level, np.random.get_state(), random.getstate()
    gymnasium.logger.min_level = gymnasium.logger.ERROR + 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gymnasium.logger.min_level = level
        np.random.set_state(numbers)
        random.setstate(state)


def _actions(spec: EnvSpec, count: int, seed: int) -> np.ndarray:
    """Fixed actions [count, N] or [count, N, d], as a policy would send them."""
    rng = np.random.default_rng(seed)
    if spec.discrete:
        return rng.integers(spec.action_dim, size=(count, spec.num_envs))
    return rng.standard_normal((count, spec.num_envs, spec.action_dim), np.float32)


def _live(env: Any, seed: int, episodes: int, length: int) -> str:
    """Reset, and run some short episodes; what cannot be saved at the beginning of one, or nothing.

    What ends an episode early is a reset on the next step.
    """
    env.reset(seed)
    for k in range(episodes):
        for t, action in enumerate(_actions(env.spec, length, seed + k)):
            level, words = env.resume_level() if t < 2 else ("", "")
            if level == "inexact":
                return words
            env.step(action)
        env.cut()
    return ""


def _why_not(one: Any, other: Any) -> str:
    """What is wrong with capture and restore of two copies, or nothing."""
    before = _numbers()
    why = _live(one, 1, EPISODES, LENGTH)
    for action in _actions(one.spec, BEFORE, 9):
        one.step(action)
    _live(other, 2, 1, LENGTH // 2)
    if _numbers() != before:
        return f"{one.spec.id} draws from NumPy's global generator, which is not saved"
    if why:
        return why
    arrays, state = one.capture()
    other.restore(arrays, json.loads(json.dumps(state, allow_nan=False)))
    return _compare(one, other)


def _numbers() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    return state[1].tobytes(), state[2:]


def _compare(one: Any, other: Any) -> str:
    for k, action in enumerate(_actions(one.spec, STEPS, 10)):
        if k == STEPS // 2:
            one.cut()
            other.cut()
        left = _bytes(one.step(action))
        for name, x in _bytes(other.step(action)).items():
            if x != left[name]:
                return f"{one.spec.id} restored gives another {name} {k + 1} steps later"
    return ""


def _bytes(step: Step) -> dict[str, bytes]:
    return {n: np.asarray(x).tobytes() for n, x in step._asdict().items() if x is not None}
