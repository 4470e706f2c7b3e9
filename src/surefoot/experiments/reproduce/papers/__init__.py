"""The papers, a file each, and finding them by name."""

from __future__ import annotations

from surefoot.checks import UsageError
from surefoot.envs import nearest
from surefoot.experiments.reproduce.items import Item, Paper


def all_papers() -> dict[str, Paper]:
    """Name -> paper."""
    from surefoot.experiments.reproduce.papers.fixpo import FIXPO
    from surefoot.experiments.reproduce.papers.mcpo import MCPO
    from surefoot.experiments.reproduce.papers.trefree import TREFREE

    return {p.name: p for p in (MCPO, FIXPO, TREFREE)}


def paper(name: str) -> Paper:
    """A paper by name. Raises `UsageError` for one that is not there."""
    table = all_papers()
    if name not in table:
        raise UsageError(
            f"no paper is called {name!r}{nearest(name, table)}; there are {', '.join(table)}"
        )
    return table[name]


def all_items() -> list[tuple[Paper, Item]]:
    """Everything that can be run."""
    return [(p, item) for p in all_papers().values() for item in p.items]
