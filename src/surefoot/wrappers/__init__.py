"""What goes round a method: records that hold an update and are one themselves. Here is the table
of them, and what all share; importing it imports no wrapper."""

from __future__ import annotations

from typing import Any

from surefoot.types import Info

WRAPPERS = {
    "Fixup": "surefoot.wrappers.fixup",
    "VirtualRegion": "surefoot.wrappers.virtual_region",
}
"""Record -> the module it lives in."""
INNER = "inner_"


def unwrapped(method: Any) -> Any:
    """The method that wrappers hold, however deep."""
    while type(method).__name__ in WRAPPERS:
        method = method.inner
    return method


def nest(inner: Info, own: Info) -> Info:
    """What an update and the wrapper round it report. The wrapper's names win: where the inner
    update uses one of them, because it is wrapped likewise, it goes by `inner_` and that name, once
    for every layer."""
    deeper = lambda k: INNER + k if k.replace(INNER, "") in own else k  # noqa: E731
    return {deeper(k): v for k, v in inner.items()} | own
