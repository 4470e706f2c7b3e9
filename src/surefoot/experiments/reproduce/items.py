"""What a table or figure of a paper is made of, and what part of it is run.

A `Paper` has `Item`s: the tasks, the methods, the budget, the paper's numbers, and a quick part. A
`Scope` is the part that is run; its cells are those of `compare`, so that runs and rows of a store
are shared with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surefoot.checks import UsageError
from surefoot.envs import nearest, split
from surefoot.experiments.plan import Cell


@dataclass(frozen=True)
class Number:
    """What a paper says of a cell: a mean with its deviation over runs, or a range."""

    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    words: str = ""
    """What the text says where it prints no number, or what must be known of the number."""

    @property
    def text(self) -> str:
        """`254.26 ± 19.43`, `4900 [3400, 6200]`, `[-2, 1]`, or words."""
        parts = [] if self.mean is None else [f"{self.mean:.6g}"]
        parts += [] if self.std is None else [f"± {self.std:.6g}"]
        if self.low is not None and self.high is not None:
            parts.append(f"[{self.low:g}, {self.high:g}]")
        return " ".join(parts + [f"({self.words})"] * bool(parts and self.words)) or (
            self.words or "-"
        )


@dataclass(frozen=True)
class Measure:
    """A number that is read of a run."""

    name: str
    words: str
    better: int = 1
    """1: more is better; -1: less is; 0: neither."""
    of: Callable[[Sequence[Mapping[str, Any]]], float | None] | None = None
    """From the rows of `metrics.jsonl`; None: the field `name` of `Result`, which a store keeps."""

    @property
    def needs_folder(self) -> bool:
        """Whether a store cannot answer it, so that the run itself is needed."""
        return self.of is not None


@dataclass(frozen=True)
class Entrant:
    """A row of the table: a method at the settings that the paper gives it."""

    label: str
    """Name of the cells, as of a settings file handed to `compare`."""
    words: str
    """What the table calls it."""
    method: str
    preset: str | None = None
    """None: the preset that `train` chooses by itself."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings beyond the preset, as JSON data, laid over it key by key."""
    ours: bool = False
    """Whether the paper has no such row."""


@dataclass(frozen=True)
class Task:
    """A column of the table: an environment and its budget."""

    env: str
    steps: int
    """Environment steps of the paper's runs, or our choice where `Item.steps_stated` is false."""
    num_envs: int
    paper: Mapping[tuple[str, str], Number] = field(default_factory=dict)
    """(label, measure) -> what the paper says."""

    @property
    def plain(self) -> str:
        """The environment without its suite."""
        return split(self.env)[1]


@dataclass(frozen=True)
class Quick:
    """The part that `--quick` runs."""

    seeds: int
    tasks: tuple[Task, ...]
    """Tasks with the steps of the quick part."""
    labels: tuple[str, ...] = ()
    """Rows; all of them where empty."""
    because: str = ""
    """Why this part, where it is not plain."""


@dataclass(frozen=True)
class Item:
    """A table or figure."""

    name: str
    title: str
    tasks: tuple[Task, ...]
    entrants: tuple[Entrant, ...]
    seeds: int
    measures: tuple[Measure, ...]
    quick: Quick
    baseline: str
    """The row that `compare` holds the others against."""
    numbers: str
    """Where the paper's numbers come from, in a sentence."""
    effect_size: bool = False
    """Whether differences are said in Cohen's d."""
    steps_stated: bool = True
    departures: tuple[str, ...] = ()
    """What differs from the paper by nature, a sentence each."""
    expect: str = ""
    """What the paper claims, in a sentence."""
    also: tuple[str, ...] = ()
    """Other names of it, by which it is found too."""

    @property
    def needs_folders(self) -> bool:
        """Whether a store cannot answer all of it."""
        return any(m.needs_folder for m in self.measures)

    def entrant(self, label: str) -> Entrant:
        """The row of a label. Raises `UsageError` for one that is not there."""
        table = {e.label: e for e in self.entrants}
        if label not in table:
            raise UsageError(
                f"{self.name} has no method called {label!r}{nearest(label, table)}; "
                f"there are {', '.join(table)}"
            )
        return table[label]


@dataclass(frozen=True)
class Later:
    """A table or figure that cannot be run yet."""

    name: str
    title: str
    why: str


@dataclass(frozen=True)
class Paper:
    """A paper and what of it can be run."""

    name: str
    authors: str
    title: str
    items: tuple[Item, ...]
    later: tuple[Later, ...] = ()

    def item(self, name: str) -> Item:
        """An item by name. Raises `UsageError` for one that is not there, or not yet."""
        for item in self.items:
            if name in (item.name, *item.also):
                return item
        for later in self.later:
            if later.name == name:
                raise UsageError(f"{self.name} {name} is not there yet: {later.why}")
        names = [n for i in self.items for n in (i.name, *i.also)]
        names += [x.name for x in self.later]
        raise UsageError(
            f"{self.name} has no item {name!r}{nearest(name, names)}; there are "
            f"{', '.join(i.name for i in self.items)}"
        )


@dataclass(frozen=True)
class Scope:
    """The part of an item that is run."""

    item: Item
    tasks: tuple[Task, ...]
    entrants: tuple[Entrant, ...]
    seeds: tuple[int, ...]
    because: str = ""

    @property
    def steps(self) -> int:
        """Environment steps of all runs together, but for those of tasks that stand in."""
        own = sum(t.steps for t in self.tasks if t not in self.foreign)
        return own * len(self.entrants) * len(self.seeds)

    @property
    def foreign(self) -> tuple[Task, ...]:
        """Tasks that are not the item's own, but stand in for them."""
        own = {t.env for t in self.item.tasks}
        return tuple(t for t in self.tasks if t.env not in own)

    def cells(self) -> list[Cell]:
        """Every row in every task, task by task."""
        return [Cell(e.label, config(e, t)) for e in self.entrants for t in self.tasks]


def whole(item: Item) -> Scope:
    """All of an item, at the paper's budget."""
    return Scope(item, item.tasks, item.entrants, tuple(range(item.seeds)))


def quick(item: Item) -> Scope:
    """The quick part of an item."""
    q = item.quick
    rows = tuple(item.entrant(label) for label in q.labels) or item.entrants
    return Scope(item, q.tasks, rows, tuple(range(q.seeds)), q.because)


def narrowed(
    scope: Scope,
    envs: Sequence[str] = (),
    labels: Sequence[str] = (),
    steps: int | None = None,
    seeds: Sequence[int] = (),
) -> Scope:
    """A scope with some tasks, rows, steps or seeds in place of its own; what is empty stays.
    Raises `UsageError` for a task or a row that the item has not."""
    tasks = scope.tasks
    if envs:
        own = {t.plain: t for t in (*scope.item.tasks, *scope.tasks)}
        for env in envs:
            if split(env)[1] not in own:
                raise UsageError(
                    f"{scope.item.name} has no task {env!r}{nearest(env, own)}; "
                    f"there are {', '.join(own)}"
                )
        tasks = tuple(own[split(env)[1]] for env in dict.fromkeys(envs))
    if steps is not None:
        tasks = tuple(dataclasses.replace(t, steps=steps) for t in tasks)
    rows = tuple(scope.item.entrant(x) for x in dict.fromkeys(labels)) or scope.entrants
    return dataclasses.replace(scope, tasks=tasks, entrants=rows, seeds=tuple(seeds) or scope.seeds)


def config(entrant: Entrant, task: Task) -> Any:
    """The settings of a cell: the preset's, the task's environments and steps, the row's changes.
    Raises `UsageError` for a change that is not a setting."""
    from surefoot.config import from_json, to_json
    from surefoot.presets import choose

    chosen = choose(entrant.method, task.env, entrant.preset)
    chosen = dataclasses.replace(chosen, steps=task.steps, num_envs=task.num_envs)
    # Through JSON also without changes: it spells numbers as the folder of a run does, and the hash
    # of a cell is of the spelling.
    return from_json(_laid(to_json(chosen), entrant.changes), entrant.label)


def _laid(data: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes over data, key by key; a record of another kind takes the old one's place whole."""
    out = dict(data)
    for key, value in changes.items():
        old = out.get(key)
        out[key] = value
        if isinstance(old, dict) and isinstance(value, dict):
            kind = old.get("type")
            out[key] = _laid(old, value) if value.get("type", kind) == kind else value
    return out


def share(scope: Scope) -> list[str]:
    """What part of the item a scope is, a line each."""
    item, full = scope.item, whole(scope.item)
    lines: list[str] = []
    counts = [
        (len(scope.tasks) - len(scope.foreign), len(full.tasks), "task"),
        (len(scope.entrants), len(full.entrants), "method"),
        (len(scope.seeds), len(full.seeds), "seed"),
    ]
    said = [f"{a} of {b} {word}{'s' * (b != 1)}" for a, b, word in counts]
    own = {t.env: t.steps for t in full.tasks}
    for task in scope.tasks:
        stated = "" if item.steps_stated else " (our choice: the paper states no budget)"
        if task.env in own:
            said.append(f"{task.steps:,} of {own[task.env]:,} steps of {task.plain}{stated}")
        else:
            said.append(
                f"{task.plain} at {task.steps:,} steps as a stand-in, in place of "
                + ", ".join(t.plain for t in item.tasks)
            )
    part = f"{100 * scope.steps / full.steps:.3g} %" if scope.steps else "none"
    lines.append(f"{', '.join(said)}: {part} of its {full.steps:,} environment steps")
    return lines + ([scope.because] if scope.because else [])
