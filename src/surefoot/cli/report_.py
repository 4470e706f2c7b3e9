"""`surefoot report RUN... | COMPARE`: one page that shows runs, or a comparison, with nothing
behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from surefoot.checks import UsageError
from surefoot.cli.flags import parse

USAGE = "surefoot report RUN... | COMPARE"


@dataclass(frozen=True)
class Flags:
    """One self-contained HTML page of runs, or of a comparison: learning curves, the KL against its
    bound, certificates, settings side by side, versions, commands; numbers as CSV and pictures as
    PNG beside it."""

    runs: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN... | COMPARE")
    ] = ()
    """Run folders, folders of several seeds, or the one folder that surefoot compare wrote."""
    out: str | None = None
    """Folder for the files; none: report/ in the folder named, report/NAMES-LETTERS where there are
    several."""
    baseline: str | None = None
    """The method the others are held against; none: that of the comparison, or the last one
    named."""
    pictures: bool = True
    """Draw PNG as well, where matplotlib is installed."""
    json: bool = False
    """Print one line of JSON."""


def run(args: Sequence[str]) -> int:
    """Read, draw, write, print."""
    flags = parse(Flags, args, prog="surefoot report")
    if not flags.runs:
        raise UsageError(f"RUN is missing; {USAGE} takes folders of runs, or one of a comparison")
    for path in map(Path, flags.runs):
        no_file(path)
    from surefoot import figures as pictures
    from surefoot.experiments.report.figures import figures
    from surefoot.experiments.report.files import picture_names, tables, write
    from surefoot.experiments.report.gather import gather
    from surefoot.experiments.report.page import page

    paths = [Path(r) for r in flags.runs]
    material = gather(paths, flags.baseline)
    drawn = figures(material)
    out = out_folder(flags.out, paths, material.comparison.methods)
    draws = flags.pictures and pictures.available()
    beside = [*tables(material, drawn), *(picture_names(drawn) if draws else [])]
    files = write(out, page(material, drawn, beside), material, drawn, draws)
    notes = [*(f"missing: {w}" for w in material.missing), *material.notes]
    if flags.json:
        print(json.dumps({"folder": str(out), "files": files, "notes": notes}))
        return 0
    size = (out / files[0]).stat().st_size / 1000
    runs = f"{len(material.evidence)} run{'s'[: len(material.evidence) != 1]}"
    print(f"report    {out / files[0]} ({size:.0f} kB, {runs})")
    print(f"beside    {out}/{{{','.join(files[1:])}}}")
    for note in notes:
        print(f"note      {note}")
    if flags.pictures and not draws:
        print('pictures  matplotlib is not installed; pip install "surefoot[plots]" draws them')
    return 0


def no_file(path: Path) -> None:
    """Raise `UsageError` for a file, and name its folder where that is of a run or a comparison."""
    if not path.exists() or path.is_dir():
        return
    holds = [n for n in ("summary.json", "config.json") if (path.parent / n).is_file()]
    meant = f": name its folder, {path.parent.as_posix()}" if holds else ""
    raise UsageError(
        f"{path} is a file; {USAGE} takes folders of runs, or one of a comparison{meant}"
    )


def out_folder(asked: str | None, paths: Sequence[Path], methods: Sequence[str]) -> Path:
    """Where the files of a report go."""
    if asked is not None:
        return Path(asked)
    if len(paths) == 1:
        return paths[0] / "report"
    from surefoot.experiments.plan import digest, plain_name

    key = digest([p.as_posix() for p in paths])
    return Path("report") / f"{plain_name('-'.join(methods))[:60]}-{key}"
