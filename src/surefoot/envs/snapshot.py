"""Environments as data between two steps, and back, to the bit: what `capture` and `restore` of
host environments stand on.

An environment is captured link by link, from its outermost wrapper to its core. Families whose
state cannot be read out, Box2D and MiniGrid, are captured as what their episode was made from
(`replay`). Nothing is pickled: deep copies and pickles of Gymnasium's MuJoCo and Box2D environments
are new ones that were never reset.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np

from surefoot.checks import EnvironmentFault
from surefoot.envs.reader import Mismatch, Reader
from surefoot.envs.replay import Tape
from surefoot.envs.walker import KINDS, Writer, attribute, class_name, is_plain

REPLAYED = ("gymnasium.envs.box2d.", "minigrid.")
"""Where the cores are defined that are captured by their actions."""
KNOWN = ("gymnasium.", "minigrid.", "surefoot.")
"""Packages whose environments and wrappers were tested, and read nothing of MuJoCo but what
`mjstate` names."""

Level = tuple[str, str]
Captured = tuple[dict[str, np.ndarray], dict]


def chain(env: Any) -> list[Any]:
    """An environment and all that it wraps, outermost first."""
    links = [env]
    while isinstance(links[-1], (gymnasium.Wrapper, gymnasium.vector.VectorWrapper)):
        links.append(links[-1].env)
    return links


def names(env: Any) -> list[str]:
    """The classes of a chain."""
    return [class_name(type(link)) for link in chain(env)]


def known(env: Any) -> bool:
    """Whether every link is of a package that was tested."""
    return all(name.startswith(KNOWN) for name in names(env))


def replayed(env: Any) -> bool:
    """Whether an environment is of a family that is captured by its actions."""
    return names(env)[-1].startswith(REPLAYED)


def recorder(env: Any) -> Any:
    """What to step instead of an environment: a tape that records it where its family needs one,
    else itself."""
    return Tape(env, chain) if replayed(env) else env


def _core(thing: Any) -> Any:
    return thing.env if isinstance(thing, Tape) else thing


class Snapshot:
    """Several environments captured together, so that what they share stays shared."""

    def __init__(self, things: Sequence[Any]) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.unsaved: list[tuple[Any, str, Any]] = []
        cores = [_core(t) for t in things]
        self._whole = [not known(core) for core in cores]
        writer = Writer(self.arrays)
        for i, core in enumerate(cores):
            for j, link in enumerate(chain(core)):
                writer.know(link, f"{i}/{j}")
        self.things = [self._one(writer, t, i) for i, t in enumerate(things)]

    def _one(self, writer: Writer, thing: Any, i: int) -> dict[str, Any]:
        if isinstance(thing, Tape):
            self.unsaved += thing.unsaved
            started = thing.last is not None
            tape = thing.capture(str(i), self.arrays) if started else {}
            return {"chain": names(thing.env), "tape": tape}
        writer.whole = self._whole[i]
        links = chain(thing)
        nodes = []
        for j, link in enumerate(links):
            before = len(writer.unsaved)
            nodes.append(writer.fields(link, f"{i}/{j}"))
            self.unsaved += [(link, path, x) for path, x in writer.unsaved[before:]]
            if not is_plain(link):
                self.unsaved.append((link, f"{i}/{j}.memory of its own", link))
        return {"chain": names(thing), "links": nodes}


def trouble(unsaved: Sequence[tuple[Any, str, Any]], env_id: str) -> str:
    """The first attribute that cannot be saved, in words."""
    link, path, value = unsaved[0]
    first = re.split(r"[.\[<]", attribute(path))[0]
    held = vars(link).get(first, value)
    if isinstance(held, (list, tuple, dict, set, np.ndarray)):
        held = value
    kind = class_name(type(held)).removeprefix("builtins.")
    if isinstance(held, np.ndarray):
        kind = "a view of other memory" if held.dtype.kind in KINDS else f"array of {held.dtype}"
    core = link is chain(link)[-1]
    who = env_id if core else f"{type(link).__name__} around {env_id}"
    return f"{who} keeps `{first}` ({kind}), which cannot be saved"


def inspect(things: Sequence[Any], env_id: str) -> Level:
    """How environments can be captured as they stand now: the level and its words. Never raises."""
    try:
        snapshot = Snapshot(things)
    except Exception as error:
        return "inexact", str(_failed(env_id, "saved", error))
    if snapshot.unsaved:
        return "inexact", trouble(snapshot.unsaved, env_id)
    tapes = [thing for thing in things if isinstance(thing, Tape)]
    if tapes:
        fresh = ", each in a fresh world" if any(tape.fresh for tape in tapes) else ""
        return "replay", f"actions since the episode began{fresh}"
    mujoco = any("mjdata" in node for node in _nodes(snapshot.things))
    return "snapshot", "MuJoCo integration state" if mujoco else "attributes"


def _nodes(things: list[dict[str, Any]]) -> list[Any]:
    fields = [field for t in things for link in t.get("links", ()) for field in link]
    return [node for _, node in fields if isinstance(node, dict)]


def capture(things: Sequence[Any], env_id: str) -> Captured:
    """All of some environments and tapes as flat arrays and strict JSON. Raises `EnvironmentFault`
    where that is not all."""
    try:
        snapshot = Snapshot(things)
    except Exception as error:
        raise _failed(env_id, "saved", error) from error
    if snapshot.unsaved:
        raise EnvironmentFault(trouble(snapshot.unsaved, env_id))
    return snapshot.arrays, {"id": env_id, "environments": snapshot.things}


def restore(
    things: Sequence[Any], env_id: str, arrays: dict[str, np.ndarray], state: dict[str, Any]
) -> None:
    """Put what `capture` gave into environments of the same make, each of which was reset once.

    Raises `EnvironmentFault` where they are not of the same make, or where a replayed episode does
    not end at the observation that was saved.
    """
    _check(state, things, env_id)
    reader = Reader(arrays)
    for i, thing in enumerate(things):
        for j, link in enumerate(chain(_core(thing))):
            reader.know(link, f"{i}/{j}")
    for i, (thing, node) in enumerate(zip(things, state["environments"], strict=True)):
        with restoring(f"environment {i} of {env_id}"):
            if isinstance(thing, Tape):
                thing.restore(node["tape"], str(i), arrays)
                continue
            for j, (link, fields) in enumerate(zip(chain(thing), node["links"], strict=True)):
                reader.fields(link, fields, f"{i}/{j}")


@contextlib.contextmanager
def restoring(who: str) -> Iterator[None]:
    """Make one line of whatever is wrong with what was saved."""
    try:
        yield
    except EnvironmentFault:
        raise
    except Exception as error:
        raise _failed(who, "restored", error) from error


def _check(state: dict[str, Any], things: Sequence[Any], env_id: str) -> None:
    saved = state.get("environments", [])
    if state.get("id") != env_id or len(saved) != len(things):
        raise EnvironmentFault(
            f"what was saved is of {len(saved)} x {state.get('id')}, not of "
            f"{len(things)} x {env_id}"
        )
    for i, (thing, node) in enumerate(zip(things, saved, strict=True)):
        here = names(_core(thing))
        if node["chain"] != here or ("tape" in node) != isinstance(thing, Tape):
            raise EnvironmentFault(
                f"environment {i} of {env_id} was {_short(node['chain'])} when it was saved, "
                f"and is {_short(here)}"
            )


def _short(classes: list[str]) -> str:
    return " around ".join(name.rpartition(".")[2] for name in classes)


def _failed(who: str, what: str, error: Exception) -> EnvironmentFault:
    kind = "" if isinstance(error, Mismatch) else f"{type(error).__name__}: "
    return EnvironmentFault(" ".join(f"{who} cannot be {what}: {kind}{error}".split()))
