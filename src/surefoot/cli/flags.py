"""Flags from records: tyro parses, and what it says of mistakes is cut to our one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import typing
from collections.abc import Sequence
from typing import Any

import tyro

from surefoot.checks import UsageError
from surefoot.config import PARTS, accepts

_SCALE = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


def whole_number(text: str) -> int:
    """`1000000`, `1_000_000`, `1e6` or `1m`. Raises `ValueError` for anything else."""
    match = re.fullmatch(r"([-+]?[\d_]*\.?\d[\d_]*(?:e[+-]?\d+)?)([kmb]?)", text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a whole number; write 1000000, 1_000_000, 1e6 or 1m")
    value = float(match[1].replace("_", "")) * _SCALE.get(match[2], 1)
    if not value.is_integer() or abs(value) >= 2**53:
        raise ValueError(f"{text!r} is not a whole number; write 1000000, 1_000_000, 1e6 or 1m")
    return int(value)


def number(text: str) -> float:
    """A number, `inf` included, `nan` not. Raises `ValueError`."""
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if value != value:
        raise ValueError("nan is not a number; write none where a field may be off")
    return value


def registry() -> Any:
    """How fields become flags: numbers with thousands marks and exponents, parts of methods by
    their names."""
    rules = tyro.constructors.ConstructorRegistry()
    spec = tyro.constructors.PrimitiveConstructorSpec

    @rules.primitive_rule
    def integers(info: Any) -> Any:
        if info.type is not int:
            return None
        return spec(
            nargs=1,
            metavar="N",
            instance_from_str=lambda args: whole_number(args[0]),
            is_instance=lambda x: isinstance(x, int) and not isinstance(x, bool),
            str_from_instance=lambda x: [str(x)],
        )

    @rules.primitive_rule
    def floats(info: Any) -> Any:
        if info.type is not float:
            return None
        return spec(
            nargs=1,
            metavar="X",
            instance_from_str=lambda args: number(args[0]),
            is_instance=lambda x: isinstance(x, (int, float)) and not isinstance(x, bool),
            str_from_instance=lambda x: [f"{x:g}"],
        )

    @rules.primitive_rule
    def parts(info: Any) -> Any:
        table = PARTS.get(info.type) if isinstance(info.type, type) else None
        if table is None:
            return None
        plain = not any(dataclasses.fields(record) for record in table.values())
        return spec(
            nargs=1,
            metavar="{" + ",".join(table) + "}" + ("" if plain else "[:FIELD=X,...]"),
            instance_from_str=lambda args: part(args[0], table),
            is_instance=lambda x: type(x) in table.values(),
            str_from_instance=lambda x: [part_text(x, table)],
            choices=tuple(table) if plain else None,
        )

    return rules


def part(text: str, table: dict[str, type[Any]]) -> Any:
    """The part that `name` or `name:field=value,field=value` describes, its other fields at their
    defaults. Raises `ValueError`."""
    name, _, rest = text.partition(":")
    if name not in table:
        raise ValueError(f"{text!r} is none of {', '.join(table)}")
    record = table[name]()
    known = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    given = {}
    for pair in filter(None, rest.split(",")):
        field, equals, value = pair.partition("=")
        field = field.replace("-", "_")
        if not equals or field not in known:
            fields = ", ".join(known) or "none"
            raise ValueError(f"{pair!r} is not FIELD=X of {name}; its fields: {fields}")
        given[field] = _part_field(record, field, value)
    return dataclasses.replace(record, **given)


def _part_field(record: Any, field: str, text: str) -> Any:
    """A field of a part from its text, by the annotation."""
    hint = typing.get_type_hints(type(record))[field]
    if dataclasses.is_dataclass(hint):
        raise ValueError(f"{field} is set in a file for --config")
    if text.lower() == "none" and accepts(hint, type(None)):
        return None
    if accepts(hint, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if accepts(hint, int):
        return whole_number(text)
    return number(text) if accepts(hint, float) else text


def part_text(record: Any, table: dict[str, type[Any]]) -> str:
    """What `part` would make the record of."""
    name = next(name for name, kind in table.items() if kind is type(record))
    fields = [f for f in dataclasses.fields(record) if not dataclasses.is_dataclass(f.default)]
    own = [
        (f.name, getattr(record, f.name)) for f in fields if getattr(record, f.name) != f.default
    ]
    return name + (":" if own else "") + ",".join(f"{k}={v}" for k, v in own)


@contextlib.contextmanager
def _wide() -> Any:
    """A terminal so wide that a message is one line."""
    old = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if old is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = old


def parse(kind: Any, args: Sequence[str], *, prog: str, default: Any = None) -> Any:
    """The record of `kind` that flags describe. Raises `UsageError` with one line; `--help` prints
    and exits 0."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    settings = {"prog": prog, "config": (tyro.conf.AvoidSubcommands,)}
    if any(a in ("-h", "--help") for a in args):
        with registry():
            return tyro.cli(kind, args=list(args), **settings, **options)
    heard = io.StringIO()
    try:
        with (
            _wide(),
            contextlib.redirect_stderr(heard),
            contextlib.redirect_stdout(heard),
            registry(),
        ):
            return tyro.cli(kind, args=list(args), **settings, **options)
    except SystemExit as stop:
        raise UsageError(one_line(heard.getvalue(), prog)) from stop


def one_line(box: str, prog: str) -> str:
    """The message inside tyro's box as one line, with the nearest flag where it suggests one."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [re.sub(r"^[\s│|]+|[\s│|]+$", "", line) for line in plain.splitlines()]
    # The first line is the box's title; lines of dashes are its rules.
    said = [line for line in lines if line.strip("─-╭╮╰╯ ")][1:] or ["wrong flags"]
    message = re.sub(r"^Error parsing \S+: (?=\w+\.\w+ is |\w+ has )", "", said[0])
    message = re.sub(r"^Error parsing (\S+): ", r"\1: ", message).replace(
        "Unrecognized options: ", "unknown flag "
    )
    hints = [m[1] for line in said[1:] if (m := re.match(r"(--[\w.-]+)", line))]
    if (
        message.endswith(":") and len(said) > 1
    ):  # "Missing from ...:" and what is missing on the next line
        return f"{said[1].partition(' ')[0].strip('(,')} is missing; {prog} --help lists the flags"
    if "unknown flag" not in message:
        return message
    return message + (
        f"; did you mean {hints[0]}?" if hints else f"; {prog} --help lists the flags"
    )
