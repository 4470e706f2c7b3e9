"""`surefoot plot RUN`: pictures of a run, and of what its memory of policies does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from surefoot import figures
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.cli.flags import parse

EPISODES, POINTS = 10, 20
"""Episodes a point where none are asked for (the paper's), and points that make a curve."""


@dataclass(frozen=True)
class Flags:
    """Draw a run: its return, its KL against the bound and its entropy; of a run with a memory of
    past policies also what is written and attended, alpha, and the virtual policy's quality. A
    picture and a table each; prints where they are."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    out: str | None = None
    """Folder for the files; none: plots/ in the run's."""
    format: Literal["svg", "png"] = "svg"
    """What pictures are written as."""
    start: int | None = None
    """First minibatch step of the stretch whose writes and queries are marked; none: about six
    updates in the middle of the run."""
    stop: int | None = None
    """Last minibatch step of that stretch."""
    episodes: int | None = None
    """Episodes either policy plays at every checkpoint the run keeps; none: 10; 0 leaves that
    picture out. Scores stay in the run's evaluations.csv."""
    stochastic: bool = False
    """Sample actions in those episodes instead of taking the mode."""
    json: bool = False
    """Print one line of JSON."""


@dataclass
class Drawn:
    """What was written."""

    files: dict[str, list[str]] = field(default_factory=dict)
    """Picture -> its files."""
    notes: list[str] = field(default_factory=list)


def run(args: Sequence[str]) -> int:
    """Read, draw, print."""
    flags = parse(Flags, args, prog="surefoot plot")
    for name, least in (("start", 0), ("stop", 1), ("episodes", 0)):
        value = getattr(flags, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} is {value}; allowed: a whole number of at least {least}")
    from surefoot.runs import described, updates

    folder = Path(flags.run)
    about, rows = described(folder), updates(folder)
    remembers, pulled = "mcpo_step" in rows[-1], "virtual_age" in rows[-1]
    fit(flags, folder, remembers, remembers or pulled)
    if not figures.available():
        raise EnvironmentFault(
            'matplotlib is not installed; plot draws with it. Run: pip install "surefoot[plots]"'
        )
    out = Path(flags.out) if flags.out is not None else folder / "plots"
    out.mkdir(parents=True, exist_ok=True)
    from surefoot.figures.sheet import write

    drawn = Drawn()
    for picture in pictures(flags, folder, about, rows, remembers, pulled, drawn):
        paths = [str(p) for p in write(picture, out, flags.format)]
        drawn.files[picture.name] = paths
        if not flags.json:
            print(f"{picture.name:<9} {'  '.join(paths)}", flush=True)
    if flags.json:
        print(json.dumps({"run": flags.run, "files": drawn.files, "notes": drawn.notes}))
    else:
        for note in drawn.notes:
            print(f"note      {note}")
    return 0


def fit(flags: Flags, folder: Path, remembers: bool, virtual: bool) -> None:
    """Refuse flags about what a run does not have."""
    asked = {"start": flags.start is not None, "stop": flags.stop is not None}
    for name in (k for k, given in asked.items() if given and not remembers):
        raise UsageError(f"--{name} is about the memory of mcpo, which {folder} was not trained by")
    asked = {"episodes": flags.episodes is not None, "stochastic": flags.stochastic}
    for name in (k for k, given in asked.items() if given and not virtual):
        raise UsageError(f"--{name} is about a virtual policy, which {folder} has none of")
    if flags.stochastic and flags.episodes == 0:
        raise UsageError("--stochastic is about episodes, and --episodes is 0")


def pictures(
    flags: Flags,
    folder: Path,
    about: dict[str, Any],
    rows: list[dict[str, Any]],
    remembers: bool,
    pulled: bool,
    drawn: Drawn,
) -> Iterator[Any]:
    """The pictures of a run, those that take long last."""
    from surefoot.figures import memory
    from surefoot.figures.course import course

    title = titled(about.get("settings", {}))
    yield course(title, rows, about.get("promise", "none"), about.get("bound"))
    if not (remembers or pulled):
        return
    kept = memory.made(rows)
    if remembers:
        yield memory.marks(title, kept, flags.start, flags.stop)
        yield memory.slot(title, kept)
        yield memory.alpha(title, kept)
        yield memory.regions(title, kept)
    if pulled:
        yield memory.virtual(title, kept)
    episodes = EPISODES if flags.episodes is None else flags.episodes
    if episodes:
        from surefoot.cli.cache import compilation_cache

        compilation_cache()
        from surefoot.figures.quality import Way, evaluated, quality

        tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
        way = Way(episodes, not flags.stochastic)
        found, damaged = evaluated(folder, way, (lambda _: None) if flags.json else tell)
        drawn.notes += damaged
        points = len({r["update"] for r in found})
        if points < POINTS:
            every = max(1, int(about["target"]) // POINTS)
            drawn.notes.append(
                f"quality has {points} checkpoints; a run keeps more of them with "
                f"--checkpoint-every {every} --keep-checkpoints {POINTS}"
            )
        yield quality(title, found)


def titled(settings: dict[str, Any]) -> str:
    """Method, environment and seed."""
    method, names = settings.get("method", {}), list[str]()
    while isinstance(method, dict) and "type" in method:
        names.append(method["type"])
        method = method.get("inner")
    name = "(".join(names) + ")" * (len(names) - 1)
    return f"{name} · {settings.get('env')} · seed {settings.get('seed')}"
