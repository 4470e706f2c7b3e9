"""From what `walker` wrote back to values, put into objects that exist."""

from __future__ import annotations

import enum
import random
from collections import OrderedDict, deque
from typing import Any

import gymnasium
import numpy as np

from surefoot.envs import mjstate
from surefoot.envs.walker import (
    GENERATORS,
    attribute,
    class_name,
    constant,
    digest,
    is_drawing,
    set_aside,
)

MISSING = object()


class Mismatch(ValueError):
    """What was saved does not fit the object that it is put into."""


class Reader:
    """From nodes and arrays back to values, into objects that exist. Raises `Mismatch` where they
    do not fit."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self._made: dict[str, Any] = {}
        self._used: list[Any] = []

    def know(self, x: Any, path: str) -> None:
        """The object that stands for the one `Writer.know` remembered under this path."""
        self._made[path] = x

    def fields(self, owner: Any, nodes: list[Any], path: str) -> None:
        """Give an object the saved attributes, and no others."""
        have, saved = vars(owner), {name for name, _ in nodes}
        for name in [k for k in have if k not in saved and not set_aside(owner, k)]:
            del have[name]
        for name, node in nodes:
            have[name] = self.read(node, f"{path}.{name}", have.get(name, MISSING))

    def read(self, node: Any, path: str, old: Any = MISSING) -> Any:
        """The value of a node; `old` is what stands in its place now."""
        if is_drawing(old):
            return old
        if isinstance(node, list):
            made = self._made[path] = []
            made.extend(self._items(node, path, old))
            return made
        if not isinstance(node, dict):
            return node
        tag = next((k for k in node if k in _READERS), None)
        if tag is None:
            raise Mismatch(f"{attribute(path)} was saved as {sorted(node)}, not known here")
        made = _READERS[tag](self, node, path, old)
        self._made[path] = made
        return made

    def _items(self, nodes: list[Any], path: str, old: Any) -> list[Any]:
        olds = list(old) if isinstance(old, (list, tuple, deque)) else []
        olds += [MISSING] * len(nodes)
        return [self.read(n, f"{path}[{k}]", olds[k]) for k, n in enumerate(nodes)]

    def _dict(self, node: Any, path: str, old: Any) -> Any:
        made = self._made[path] = OrderedDict() if node["ordered"] else {}
        olds = old if isinstance(old, dict) else {}
        for n, (k, v) in enumerate(node["dict"]):
            key = self.read(k, f"{path}[key {n}]")
            made[key] = self.read(v, f"{path}[{key!r}]", olds.get(key, MISSING))
        return made

    def _deque(self, node: Any, path: str, old: Any) -> Any:
        made = self._made[path] = deque(maxlen=node["maxlen"])
        made.extend(self._items(node["deque"], path, old))
        return made

    def _array(self, node: Any, path: str, old: Any) -> Any:
        flat = self.arrays[node["array"]]
        shape, dtype = tuple(node["shape"]), np.dtype(node["dtype"])
        if flat.dtype != dtype:
            flat = np.frombuffer(flat.tobytes(), dtype)
        made = flat.reshape(shape if node["order"] == "C" else shape[::-1]).copy()
        made = made if node["order"] == "C" else made.T.copy(order="F")
        made.flags.writeable = node["writeable"]
        return made

    def _generator(self, node: Any, path: str, old: Any) -> Any:
        """In place, so that whoever shares the generator goes on sharing it."""
        state = self.read(node["generator"], f"{path}.state")
        name = state["bit_generator"]
        if name not in GENERATORS:
            raise Mismatch(f"{attribute(path)} is a generator {name!r}, which is not known here")
        fits = isinstance(old, np.random.Generator) and not any(old is x for x in self._used)
        if not fits or type(old.bit_generator).__name__ != name:
            old = np.random.Generator(getattr(np.random, name)())
        self._used.append(old)
        old.bit_generator.state = state
        return old

    def _legacy(self, node: Any, path: str, old: Any) -> Any:
        made = old if isinstance(old, np.random.RandomState) else np.random.RandomState()
        made.set_state(self.read(node["random_state"], f"{path}.state"))
        return made

    def _random(self, node: Any, path: str, old: Any) -> Any:
        made = old if isinstance(old, random.Random) else random.Random()
        made.setstate(self.read(node["random"], f"{path}.state"))
        return made

    def _space(self, node: Any, path: str, old: Any) -> Any:
        _check(isinstance(old, gymnasium.spaces.Space), path, "a space", old)
        old._np_random = self.read(
            node["space"], f"{path}.np_random", getattr(old, "_np_random", None)
        )
        return old

    def _object(self, node: Any, path: str, old: Any) -> Any:
        _check(class_name(type(old)) == node["object"], path, node["object"], old)
        self._made[path] = old
        self.fields(old, node["fields"], path)
        return old

    def _constant(self, node: Any, path: str, old: Any) -> Any:
        _check(
            old is not MISSING and constant(old) == node["constant"], path, node["constant"], old
        )
        cells = getattr(old, "__closure__", None) or ()
        names = old.__code__.co_freevars if cells else ()
        for name, cell, inner in zip(names, cells, node.get("cells", ()), strict=True):
            cell.cell_contents = self.read(inner, f"{path}<{name}>", cell.cell_contents)
        return old

    def _table(self, node: Any, path: str, old: Any) -> Any:
        if digest(old) != node["table"]:
            raise Mismatch(f"{attribute(path)} is another table than when it was saved")
        return old

    def _enum(self, node: Any, path: str, old: Any) -> Any:
        _check(isinstance(old, enum.Enum), path, "an enumeration", old)
        members: Any = type(old)
        return members[node["enum"]]

    def _named(self, node: Any, path: str, old: Any) -> Any:
        _check(hasattr(old, "_fields"), path, "a named tuple", old)
        return type(old)._make(self._items(node["named"], path, old))

    def _mj_data(self, node: Any, path: str, old: Any) -> Any:
        _check(mjstate.is_data(old), path, "MuJoCo's data", old)
        wrong = mjstate.restore(old, node["mjdata"], path, self.arrays)
        if wrong:
            raise Mismatch(f"{attribute(path)}.{wrong} has another shape than was saved")
        return old

    def _mj_model(self, node: Any, path: str, old: Any) -> Any:
        _check(mjstate.is_model(old), path, "MuJoCo's model", old)
        if mjstate.fingerprint(old) != node["mjmodel"]:
            raise Mismatch(f"{attribute(path)} is another MuJoCo model than when it was saved")
        return old


def _check(ok: bool, path: str, wanted: str, old: Any) -> None:
    if not ok:
        found = "nothing" if old is MISSING else class_name(type(old))
        raise Mismatch(f"{attribute(path)} was {wanted} when it was saved, and here is {found}")


_READERS: dict[str, Any] = {
    "same": lambda r, node, path, old: r._made[node["same"]],
    "float": lambda r, node, path, old: float(node["float"]),
    "tuple": lambda r, node, path, old: tuple(r._items(node["tuple"], path, old)),
    "dict": Reader._dict,
    "deque": Reader._deque,
    "set": lambda r, node, path, old: set(r._items(node["set"], path, MISSING)),
    "frozenset": lambda r, node, path, old: frozenset(r._items(node["frozenset"], path, MISSING)),
    "bytes": lambda r, node, path, old: bytes.fromhex(node["bytes"]),
    "complex": lambda r, node, path, old: complex(*r._items(node["complex"], path, MISSING)),
    "array": Reader._array,
    "scalar": lambda r, node, path, old: np.frombuffer(
        bytes.fromhex(node["hex"]), np.dtype(node["scalar"])
    )[0],
    "generator": Reader._generator,
    "random_state": Reader._legacy,
    "random": Reader._random,
    "space": Reader._space,
    "drawing": lambda r, node, path, old: None if old is MISSING else old,
    "object": Reader._object,
    "constant": Reader._constant,
    "table": Reader._table,
    "enum": Reader._enum,
    "named": Reader._named,
    "mjdata": Reader._mj_data,
    "mjmodel": Reader._mj_model,
}
