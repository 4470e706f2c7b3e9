"""`surefoot certify RUN`: check the certificate of a run, and with `--replay` train a stretch
again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from surefoot.checks import UsageError
from surefoot.cli.flags import parse
from surefoot.verifier import CERTIFICATE, Verifier

EXIT_REJECTED = 1
UNKNOWN = (
    "no value was computed again: policies with full covariances are not known to the verifier; "
    "float32 values, order and hashes were checked"
)


@dataclass(frozen=True)
class Flags:
    """Check the certificate of a run: chain, order, promise and bound, and the float64 value of
    every update whose arrays are kept. Exit code 1 where anything is wrong."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    replay: Annotated[str | None, tyro.conf.arg(metavar="A:B")] = None
    """Train updates A to B again from the checkpoint before A, and compare every hash and value."""
    json: bool = False
    """Print one line of JSON."""


def run(args: Sequence[str]) -> int:
    """Verify, replay, print."""
    flags = parse(Flags, args, prog="surefoot certify")
    folder = Path(flags.run)
    if not (folder / CERTIFICATE).is_file():
        raise UsageError(f"{folder} has no {CERTIFICATE}; surefoot list runs shows what there is")
    stretch = None if flags.replay is None else stretch_of(flags.replay)
    check = Verifier(folder).verify()
    if stretch is not None and check.lines:
        check.findings += replayed(folder, check.lines, *stretch)
    report(check, flags, stretch)
    return EXIT_REJECTED if check.findings else 0


def stretch_of(text: str) -> tuple[int, int]:
    """First and last update of `A:B`. Raises `UsageError`."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UsageError(f"--replay is {text!r}; allowed: A:B, updates with 1 <= A <= B, as in 1:8")
    return int(first), int(last)


def replayed(folder: Path, lines: Sequence[Mapping[str, Any]], start: int, stop: int) -> list[str]:
    """What training updates `start` to `stop` again contradicts. Raises `UsageError` where the run
    has no such updates, or cannot be trained again to the bit."""
    if stop > len(lines):
        raise UsageError(f"--replay {start}:{stop} goes beyond update {len(lines)}, the run's last")
    from surefoot.cli.cache import compilation_cache

    compilation_cache()
    from surefoot.replay import replay

    return differences(lines, replay(folder, start, stop))


def differences(
    lines: Sequence[Mapping[str, Any]], again: Iterable[tuple[int, Mapping[str, Any]]]
) -> list[str]:
    """A finding for each field of a line that is not what training again gave.

    Fields a line leaves empty are not compared, and nothing after an actor that differs: every
    later update stands on it.
    """
    found: list[str] = []
    for n, made in again:
        line = lines[n - 1]
        wrong = [k for k in made if line.get(k) is not None and line[k] != made[k]]
        found += [
            f"{CERTIFICATE} line {n + 1}: {k} is {line[k]}, and {made[k]} when trained again"
            for k in wrong
        ]
        if "old" in wrong or "new" in wrong:
            break
    return found


def unknown(check: Verifier) -> bool:
    """Whether the policies of a run are none that the verifier can compute."""
    return check.settings.get("networks", {}).get("full_covariance", False)


def report(check: Verifier, flags: Flags, stretch: tuple[int, int] | None) -> None:
    """Print findings and verdict."""
    if not flags.json:
        for finding in check.findings:
            print(finding)
        again = "" if stretch is None else f"; updates {stretch[0]} to {stretch[1]} trained again"
        print(check.summary() + again)
        if unknown(check):
            print(UNKNOWN)
        return
    values = {
        "run": flags.run,
        "holds": not check.findings,
        "promise": check.promise,
        "bound": check.bound,
        "updates": len(check.lines),
        "checked": sum(line.get("float64") is not None for line in check.lines),
        "recomputed": check.recomputed,
        "known": not unknown(check),
        "largest": check.kept.largest,
        "worst_update": check.kept.worst,
        "replayed": stretch,
        "findings": check.findings,
    }
    print(json.dumps(values))
