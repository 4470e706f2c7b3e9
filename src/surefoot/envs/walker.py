"""The attribute walker: what an object holds, as strict JSON and flat arrays. `reader` is its way
back.

Only data is written (numbers, text, arrays, containers, random generators, plain objects made of
them), exactly: Python type, dtype, memory order and which attributes are one object are kept.
Nothing is ever built from the name of a class: reading puts data into objects that exist already.
What cannot be written is reported with its path, never skipped.
"""

from __future__ import annotations

import enum
import math
import random
import types
import zlib
from collections import OrderedDict, deque
from typing import Any

import gymnasium
import numpy as np

from surefoot.envs import mjstate

GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
CONSTANT_TYPES = (
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    types.MethodType,
    np.ufunc,
    np.dtype,
    range,
    slice,
)
DRAWING = ("pygame", "matplotlib", "glfw", "OpenGL", "gymnasium.envs.mujoco.mujoco_rendering")
"""Modules whose objects only show what happens."""
MADE_FROM = ("_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs", "fullpath")
SET_ASIDE = frozenset(["spec", "_cached_spec", "metadata", "_metadata", *MADE_FROM])
"""Attributes of environments that say how they were made, and may hold paths of this machine."""
KINDS = "biufcSUMm"
"""Kinds of dtypes that can be written."""
SUB = frozenset(["envs", "env_fns", "_env_obs"])
"""The environments of a vector, captured one by one, and what they said last, which is not read
again."""
CLOCKS = frozenset(["episode_start_time", "time_queue"])


class _Plain:
    """For the size of an object that holds nothing but a dictionary of attributes."""


def class_name(kind: type) -> str:
    """A class in full, such as `gymnasium.wrappers.common.TimeLimit`."""
    return f"{getattr(kind, '__module__', '?')}.{kind.__qualname__}"  # SWIG's types have no module


def is_plain(x: Any) -> bool:
    """Whether all that an object holds is in its `__dict__`: no slots, no memory of a C library."""
    return hasattr(x, "__dict__") and type(x).__basicsize__ == _Plain.__basicsize__


def is_drawing(x: Any) -> bool:
    """Whether an object only serves to show what happens."""
    return class_name(type(x)).startswith(DRAWING)


def set_aside(owner: Any, name: str) -> bool:
    """Whether an attribute of an environment or wrapper is not its state."""
    if not isinstance(owner, (gymnasium.Env, gymnasium.vector.VectorEnv)):
        return False
    if isinstance(owner, gymnasium.vector.AsyncVectorEnv):
        return True  # its environments live in the workers; all else is written anew at each step
    if isinstance(owner, gymnasium.vector.SyncVectorEnv) and name in SUB:
        return True
    wrapped = isinstance(owner, (gymnasium.Wrapper, gymnasium.vector.VectorWrapper))
    clock = type(owner).__name__ == "RecordEpisodeStatistics" and name in CLOCKS
    return name in SET_ASIDE or clock or (wrapped and name == "env")


def is_table(owner: Any, name: str) -> bool:
    """Whether an attribute is the table of transitions of a toy text task: large, and fixed when it
    is made, so that it is compared and not saved."""
    return name == "P" and class_name(type(owner)).startswith("gymnasium.envs.toy_text.")


def digest(x: Any) -> int:
    """A check sum of what is compared and not saved."""
    return zlib.crc32(repr(x).encode())


def constant(x: Any) -> str:
    """What is written of code and types: a name, to be compared and never looked up."""
    if isinstance(x, (range, slice, np.dtype)):
        return repr(x)
    name = getattr(x, "__qualname__", None) or getattr(x, "__name__", "")
    return f"{getattr(x, '__module__', None) or type(x).__name__}.{name}"


def attribute(path: str) -> str:
    """A path without the places of its environment and wrapper: `state[2]`."""
    return path.partition(".")[2] or path


def _owner(x: np.ndarray) -> Any:
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x if x.base is None else x.base


class Writer:
    """From values to JSON nodes and flat arrays; `unsaved` gathers (path, value) of what cannot be
    written.

    A node is itself for None, bool, int, str and finite floats, a list for a list, and otherwise a
    dictionary whose first key says what it is. `whole` writes all of MuJoCo's arrays and not only
    those that Gymnasium's own tasks read.
    """

    def __init__(self, arrays: dict[str, np.ndarray], whole: bool = False) -> None:
        self.arrays, self.whole = arrays, whole
        self.unsaved: list[tuple[str, Any]] = []
        self._seen: dict[int, str] = {}
        self._alive: list[Any] = []  # an id is only good while its object lives
        self._memory: dict[int, list[np.ndarray]] = {}

    def know(self, x: Any, path: str) -> None:
        """Remember an object, so that whatever else refers to it says only where it is."""
        self._seen[id(x)] = path
        self._alive.append(x)

    def fields(self, owner: Any, path: str) -> list[Any]:
        """[name, node] of every attribute of an object. A list, because the order counts."""
        return [
            [
                name,
                {"table": digest(x)} if is_table(owner, name) else self.write(x, f"{path}.{name}"),
            ]
            for name, x in vars(owner).items()
            if not set_aside(owner, name)
        ]

    def write(self, x: Any, path: str) -> Any:
        """The node of one value."""
        kind = type(x)
        if x is None or kind in (bool, int, str):
            return x
        if kind is float:
            return x if math.isfinite(x) else {"float": repr(x)}
        if id(x) in self._seen:
            return {"same": self._seen[id(x)]}
        if kind is tuple:
            return {"tuple": self._items(x, path)}
        if kind not in _IMMUTABLE:
            self.know(x, path)
        by_type = _WRITERS.get(kind)
        return by_type(self, x, path) if by_type else self._other(x, path)

    def _other(self, x: Any, path: str) -> Any:
        for fits, writer in _BY_TEST:
            if fits(x):
                return writer(self, x, path)
        return self._no(x, path)

    def _no(self, x: Any, path: str) -> Any:
        self.unsaved.append((path, x))
        return {"unsaved": path}

    def _items(self, xs: Any, path: str) -> list[Any]:
        return [self.write(x, f"{path}[{k}]") for k, x in enumerate(xs)]

    def _dict(self, x: Any, path: str) -> Any:
        pairs = [
            [self.write(k, f"{path}[key {n}]"), self.write(v, f"{path}[{k!r}]")]
            for n, (k, v) in enumerate(x.items())
        ]
        return {"dict": pairs, "ordered": type(x) is OrderedDict}

    def _array(self, x: np.ndarray, path: str) -> Any:
        if not self._is_its_own(x) or x.dtype.kind not in KINDS:
            return self._no(x, path)
        order = "C" if x.flags.c_contiguous else "F"
        flat = np.ascontiguousarray(x if order == "C" else x.T)
        native = x.dtype.kind in "biuf" and x.dtype.isnative and x.dtype.itemsize <= 8
        self.arrays[path] = flat.copy() if native else np.frombuffer(flat.tobytes(), np.uint8)
        meta = {"dtype": x.dtype.str, "shape": list(x.shape), "order": order}
        return {"array": path, **meta, "writeable": x.flags.writeable}

    def _is_its_own(self, x: np.ndarray) -> bool:
        """Whether an array is no view of what something else holds, nor has gaps in memory."""
        owner = _owner(x)
        kin = self._memory.setdefault(id(owner), [])
        shared = any(np.may_share_memory(x, y) for y in kin)
        kin.append(x)
        straight = x.flags.c_contiguous or x.flags.f_contiguous
        return isinstance(owner, np.ndarray) and not shared and straight

    def _scalar(self, x: np.generic, path: str) -> Any:
        if x.dtype.kind not in KINDS:
            return self._no(x, path)
        return {"scalar": x.dtype.str, "hex": x.tobytes().hex()}

    def _generator(self, x: np.random.Generator, path: str) -> Any:
        if type(x.bit_generator).__name__ not in GENERATORS:
            return self._no(x, path)
        return {"generator": self.write(x.bit_generator.state, f"{path}.state")}

    def _legacy(self, x: np.random.RandomState, path: str) -> Any:
        return {"random_state": self.write(x.get_state(legacy=False), f"{path}.state")}

    def _space(self, x: Any, path: str) -> Any:
        # Not its property, which would make a generator where none was needed.
        return {"space": self.write(getattr(x, "_np_random", None), f"{path}.np_random")}

    def _named(self, x: Any, path: str) -> Any:
        return self._needs_old({"named": self._items(x, path)}, x, path)

    def _object(self, x: Any, path: str) -> Any:
        if path.endswith("]"):
            return self._no(x, path)
        return {"object": class_name(type(x)), "fields": self.fields(x, path)}

    def _function(self, x: Any, path: str) -> Any:
        cells = [
            self.write(cell.cell_contents, f"{path}<{name}>")
            for name, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True)
        ]
        return {"constant": constant(x), "cells": cells}

    def _needs_old(self, node: dict[str, Any], x: Any, path: str) -> Any:
        """A node to be read into an object of its class: in a container there may be none."""
        return self._no(x, path) if path.endswith("]") else node

    def _mj_data(self, x: Any, path: str) -> Any:
        names = mjstate.capture(x, path, self.arrays, self.whole)
        return {"mjdata": names}


_IMMUTABLE = frozenset([bytes, complex])
_WRITERS: dict[type, Any] = {
    list: Writer._items,
    dict: Writer._dict,
    OrderedDict: Writer._dict,
    deque: lambda w, x, path: {"deque": w._items(x, path), "maxlen": x.maxlen},
    set: lambda w, x, path: {"set": w._items(x, path)},
    frozenset: lambda w, x, path: {"frozenset": w._items(x, path)},
    bytes: lambda w, x, path: {"bytes": x.hex()},
    complex: lambda w, x, path: {"complex": [w.write(x.real, path), w.write(x.imag, path)]},
    np.ndarray: Writer._array,
    np.random.RandomState: Writer._legacy,
    random.Random: lambda w, x, path: {"random": w.write(x.getstate(), f"{path}.state")},
    types.FunctionType: Writer._function,
}
_BY_TEST: list[tuple[Any, Any]] = [
    (
        lambda x: isinstance(x, enum.Enum),
        lambda w, x, path: w._needs_old({"enum": x.name}, x, path),
    ),
    (lambda x: isinstance(x, np.generic), Writer._scalar),
    (lambda x: isinstance(x, np.random.Generator), Writer._generator),
    (lambda x: isinstance(x, gymnasium.spaces.Space), Writer._space),
    (is_drawing, lambda w, x, path: {"drawing": True}),
    (mjstate.is_data, Writer._mj_data),
    (mjstate.is_model, lambda w, x, path: {"mjmodel": mjstate.fingerprint(x)}),
    (lambda x: isinstance(x, CONSTANT_TYPES), lambda w, x, path: {"constant": constant(x)}),
    (lambda x: isinstance(x, tuple) and hasattr(x, "_fields"), Writer._named),
    (is_plain, Writer._object),
    (callable, lambda w, x, path: {"constant": constant(x)}),
]
"""Tried in this order."""
