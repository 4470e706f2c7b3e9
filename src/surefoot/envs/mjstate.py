"""What the next step of a MuJoCo simulation depends on, as arrays.

The integration state holds the warm start of the solver, without which the next observation differs
in its last digits wherever something touches. Positions of bodies lag one sub-step behind it (a
step computes them first and integrates last), and Ant and Humanoid read them before they step: they
are saved as well, and `mj_forward` must not be called after restoring, for it would bring them up
to date.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

SPEC = "mjSTATE_INTEGRATION"
DERIVED = ("xpos", "xipos")
"""The derived arrays that Gymnasium's own tasks read before they step."""


def is_data(x: Any) -> bool:
    """Whether a value is an `MjData`, without importing MuJoCo."""
    return type(x).__name__ == "MjData" and type(x).__module__.startswith("mujoco")


def is_model(x: Any) -> bool:
    """Whether a value is an `MjModel`, without importing MuJoCo."""
    return type(x).__name__ == "MjModel" and type(x).__module__.startswith("mujoco")


def capture(data: Any, path: str, arrays: dict[str, np.ndarray], whole: bool) -> list[str]:
    """Put the state into `arrays` under names that begin with `path`; the names of the derived
    arrays.

    `whole` takes every array whose size the model fixes, for tasks of which nothing is known.
    """
    import mujoco

    api: Any = mujoco
    spec = int(api.mjtState.__members__[SPEC])
    state = np.empty(api.mj_stateSize(data.model, spec))
    api.mj_getState(data.model, data, state, spec)
    arrays[f"{path}.integration"] = state
    names: list[str] = _fixed(api.MjData(data.model), data) if whole else [*DERIVED]
    for name in names:
        arrays[f"{path}.{name}"] = np.array(getattr(data, name))
    return names


def restore(data: Any, names: list[str], path: str, arrays: dict[str, np.ndarray]) -> str:
    """Put a captured state back; the name of an array that does not fit, or nothing."""
    import mujoco

    api: Any = mujoco
    spec = int(api.mjtState.__members__[SPEC])
    state = arrays[f"{path}.integration"]
    if state.shape != (api.mj_stateSize(data.model, spec),):
        return "integration"
    api.mj_setState(data.model, data, np.array(state), spec)
    for name in names:
        here, saved = getattr(data, name), arrays[f"{path}.{name}"]
        if here.shape != saved.shape or here.dtype != saved.dtype:
            return name
        here[...] = saved
    return ""


def fingerprint(model: Any) -> int:
    """A check sum over all of a model, which is not saved: tasks build it from a file, and only a
    task that changes it while it runs has another at restoring."""
    import mujoco

    api: Any = mujoco
    buffer: Any = np.empty(api.mj_sizeModel(model), np.uint8)
    api.mj_saveModel(model, None, buffer)
    return zlib.crc32(buffer)


def _fixed(fresh: Any, data: Any) -> list[str]:
    """Arrays that are there before anything touches: what depends on contacts is computed again."""
    names = [n for n in dir(fresh) if isinstance(getattr(fresh, n, None), np.ndarray)]
    return [
        n
        for n in names
        if getattr(fresh, n).size and getattr(fresh, n).shape == getattr(data, n).shape
    ]
