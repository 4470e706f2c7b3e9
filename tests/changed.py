"""A record with every field changed, and the flags that say so."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

from surefoot.cli.flags import part_text
from surefoot.config import PARTS
from surefoot.surrogates import Clipped

OTHERS: dict[tuple[str, str], Any] = {
    ("NPG", "lr"): 0.05,
    ("NPG", "max_kl"): None,  # exactly one of the two
    ("MDPO", "q"): 1.25,  # at least 1
    ("TRPO", "surrogate"): Clipped(0.3),
    ("TRPL", "surrogate"): Clipped(0.3),
    ("NPG", "surrogate"): Clipped(0.3),
}
"""Values that no rule gives, or that must fit together."""


def every_field(record: Any) -> Any:
    """A record that has another value in every field, at every depth."""
    hints = typing.get_type_hints(type(record))
    own = lambda f: (type(record).__name__, f.name)  # noqa: E731
    return dataclasses.replace(
        record,
        **{
            f.name: OTHERS[own(f)]
            if own(f) in OTHERS
            else other(getattr(record, f.name), PARTS.get(hints[f.name]))
            for f in dataclasses.fields(record)
        },
    )


def other(x: Any, table: dict[str, type[Any]] | None) -> Any:
    """Another value of a field; of a part another record of its table, with fields not at their
    defaults where it has some that flags can set."""
    if table is not None:
        kind = next(kind for kind in reversed(table.values()) if kind is not type(x))
        made = kind()
        plain = [f.name for f in dataclasses.fields(made) if not held(getattr(made, f.name))]
        return dataclasses.replace(made, **{n: other(getattr(made, n), None) for n in plain})
    if held(x):
        return every_field(x)
    if x is None:
        return 0.5
    if isinstance(x, bool):
        return not x
    if isinstance(x, int):
        return x + 1
    assert isinstance(x, float), f"no other value of {x!r} is known"
    return 2.5 if math.isinf(x) else 0.9375 * x if x else 0.5


def held(x: Any) -> bool:
    """Whether a value is a record."""
    return dataclasses.is_dataclass(x) and not isinstance(x, type)


def leaves(record: Any, path: str) -> list[tuple[str, Any]]:
    """(dotted name, value) of the fields of a record that have flags; a part is one value."""
    hints, out = typing.get_type_hints(type(record)), []
    for f in dataclasses.fields(record):
        x, name = getattr(record, f.name), f"{path}.{f.name}"
        table = PARTS.get(hints[f.name])
        if table is not None:
            out.append((name, part_text(x, table)))
        else:
            out += leaves(x, name) if held(x) else [(name, x)]
    return out


def flags(record: Any, path: str = "--method") -> list[str]:
    """The flags that give every field its value."""
    out = []
    for name, x in leaves(record, path):
        spelled = name.replace("_", "-")
        if isinstance(x, bool):
            before, _, last = spelled.rpartition(".")
            out.append(f"{before}.{'' if x else 'no-'}{last}")
        else:
            out += [spelled, "none" if x is None else str(x)]
    return out
