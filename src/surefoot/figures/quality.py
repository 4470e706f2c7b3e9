"""Whether the virtual policy is better than the old one: both evaluated at every checkpoint."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jax.flatten_util import ravel_pytree

from surefoot import checkpoint
from surefoot.agent import Agent
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.config import read_config
from surefoot.evaluate import evaluate
from surefoot.figures.sheet import BLUE, RED, Picture, Table, column, write_table

KEPT = "evaluations.csv"
"""Where the scores of a run's checkpoints are kept, in its folder."""
COLUMNS = (
    *("update", "env_steps", "arrays", "policy", "episodes", "deterministic", "seed"),
    *("mean", "low", "high"),
)
OLD, VIRTUAL = "old", "virtual"


class Way(NamedTuple):
    """How policies are evaluated."""

    episodes: int
    deterministic: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Acting:
    """What `evaluate` asks of an agent, for a policy that is not the agent's own."""

    env_source: Any
    policy: Any
    obs_stats: Any
    config: Any


def virtual_policy(agent: Agent) -> Any:
    """The last virtual policy of an agent whose method, or a wrapper round it, keeps one. Raises
    `UsageError` where none does."""
    state = agent.state.method_state
    while state is not None and getattr(state, "psi", None) is None:
        state = getattr(state, "inner", None)
    if state is None:
        raise UsageError(f"{type(agent.config.method).__name__} has no virtual policy")
    unravel: Any = ravel_pytree(agent.policy)[1]
    return unravel(state.psi)


def scores(agent: Agent, way: Way) -> dict[str, tuple[float, float, float]]:
    """Mean return and its 95 % interval of an agent's policy, which is the old one of the next
    update, and of its virtual policy."""
    found = {}
    for name, policy in ((OLD, agent.policy), (VIRTUAL, virtual_policy(agent))):
        who = Acting(agent.env_source, policy, agent.obs_stats, agent.config)
        score = evaluate(who, way.episodes, way.deterministic, way.seed)
        found[name] = (score.mean, *score.ci95)
    return found


def evaluated(
    folder: Path, way: Way, said: Callable[[str], None] = lambda _: None
) -> tuple[Table, list[str]]:
    """Scores of old and virtual policy at every checkpoint of a run, two rows each, and what is
    wrong with checkpoints passed over.

    Each is evaluated once and kept in the run's `evaluations.csv`; scores of checkpoints that were
    since thinned out are still good. `said` hears of every evaluation. Raises `EnvironmentFault`
    where no checkpoint can be read and none was evaluated before, or that file is not ours.
    """
    rows, damaged = read_kept(folder / KEPT), list[str]()
    config = read_config(folder / "config.json")
    for path in checkpoint.numbered(folder / "checkpoints"):
        try:
            arrays = checkpoint.arrays_hash(path)[:16]
            of_another = [r for r in rows if r["update"] == int(path.name)]
            if any(r["arrays"] != arrays for r in of_another):  # the run was trained anew
                rows = [r for r in rows if r not in of_another]
            if any(r["update"] == int(path.name) and way_of(r) == way for r in rows):
                continue
            agent = Agent.at(config, path)
        except checkpoint.DamagedCheckpoint as error:
            damaged.append(str(error))
            continue
        said(f"evaluating update {agent.update}, {way.episodes} episodes of either policy")
        head = (agent.update, agent.env_steps, arrays)
        for name, found in scores(agent, way).items():
            rows.append(dict(zip(COLUMNS, (*head, name, *way, *found), strict=True)))
        rows.sort(key=lambda r: (r["update"], r["episodes"], r["deterministic"], r["seed"]))
        write_table(rows, folder / KEPT)
    drawn = [r for r in rows if way_of(r) == way]
    if not drawn:
        raise EnvironmentFault("; ".join([f"{folder} has no whole checkpoint", *damaged]))
    return drawn, damaged


def way_of(row: dict[str, Any]) -> Way:
    """How a row was made."""
    return Way(row["episodes"], row["deterministic"], row["seed"])


def read_kept(path: Path) -> Table:
    """Scores of before; none where there is no file. Raises `EnvironmentFault` where it is not one
    that `evaluated` wrote."""
    if not path.exists():
        return []
    rows: Table = []
    with path.open(newline="") as f:
        for i, cells in enumerate(csv.reader(f), 1):
            if i == 1 and tuple(cells) == COLUMNS:
                continue
            try:
                update, steps, arrays, policy, episodes, deterministic, seed, *found = cells
                head = (int(update), int(steps), arrays, policy)
                way = (int(episodes), {"True": True, "False": False}[deterministic], int(seed))
                row = (*head, *way, *map(float, found))
                rows.append(dict(zip(COLUMNS, row, strict=True)))
            except (ValueError, KeyError):
                raise EnvironmentFault(
                    f"{path} line {i} is not as surefoot plot writes it; "
                    "remove the file to evaluate again"
                ) from None
    return rows


def quality(title: str, rows: Table) -> Picture:
    """Figure 1b: return of the virtual policy and of the old one over training."""
    way = way_of(rows[0])
    how = "deterministic" if way.deterministic else "sampled"

    def paint(figure: Any) -> None:
        figure.set_size_inches(6, 3.4)
        axis = figure.subplots()
        lines = {OLD: (BLUE, "o-", "old policy"), VIRTUAL: (RED, "s--", "virtual policy, psi")}
        for name, (colour, style, word) in lines.items():
            own = [r for r in rows if r["policy"] == name]
            steps, mean, low, high = (column(own, k) for k in ("env_steps", "mean", "low", "high"))
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.plot(steps, mean, style, color=colour, markersize=4, label=word)
        axis.set(
            title=f"{title}\n{way.episodes} {how} episodes a point, 95 % intervals",
            xlabel="environment steps",
            ylabel="return",
        )
        axis.legend()

    return Picture("quality", rows, paint)
