"""Range checks for the fields of records, with the field, the value and what is allowed in the
message."""

from __future__ import annotations

import math
from typing import Any


class UsageError(ValueError):
    """What a person typed cannot be used; the message is the one line to show. Exit code 2."""


class EnvironmentFault(RuntimeError):
    """An environment or the disk failed; the message is the one line to show. Exit code 3."""


def require(ok: bool, record: object, field: str, value: Any, allowed: str) -> None:
    """Raise `UsageError` naming the field unless `ok`."""
    if not ok:
        raise UsageError(f"{type(record).__name__}.{field} is {value!r}; allowed: {allowed}")


def check_number(
    record: object,
    field: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
    optional: bool = False,
) -> None:
    """Check that a field is a number in a range. Only Python numbers are looked at: tracers pass.

    Raises `UsageError` with the field, the value and the range.
    """
    value: Any = getattr(record, field)
    if value is None and optional:
        return
    if value is not None and not isinstance(value, (int, float, str, bool, tuple, list)):
        return  # a tracer or an array: a sweep is running this record inside its own jit
    left, right = "(" if open_low else "[", ")" if open_high else "]"
    allowed = f"a number in {left}{low:g}, {high:g}{right}" + (", or none" if optional else "")
    ok = False
    if isinstance(value, (int, float)) and not isinstance(
        value, bool
    ):  # NaN compares false with everything
        ok = (value > low if open_low else value >= low) and (
            value < high if open_high else value <= high
        )
    require(ok, record, field, value, allowed)


def check_count(
    record: object, field: str, *, low: int = 1, high: int | None = None, optional: bool = False
) -> None:
    """Check that a field is a whole number of at least `low` (and at most `high`). Raises
    `UsageError`."""
    value = getattr(record, field)
    if value is None and optional:
        return
    ok = (
        isinstance(value, int)
        and not isinstance(value, bool)
        and value >= low
        and (high is None or value <= high)
    )
    upper = "" if high is None else f" and at most {high}"
    require(
        ok,
        record,
        field,
        value,
        f"a whole number of at least {low}{upper}" + (", or none" if optional else ""),
    )
