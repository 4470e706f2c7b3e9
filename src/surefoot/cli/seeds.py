"""Several seeds side by side: one process each, pinned to a core of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def many(name: str, args: list[str], parent: Path, request: Any) -> int:
    """Train several seeds, `jobs` at a time, each a process pinned to a core, in `parent/seed-<n>`.

    `args` are those of `train NAME`; `request` is what they were parsed to. Returns the largest
    exit code: the other seeds are trained to their end where one fails.
    """
    first = request.config.seed
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    waiting = [first + i for i in range(request.seeds)]
    running: dict[int, tuple[subprocess.Popen[bytes], int]] = {}
    free = list(range(request.jobs))
    codes: list[int] = []
    base = strip(args, ("--seed", "--seeds", "--jobs", "--run-dir"))
    try:
        while waiting or running:
            while waiting and free:
                seed, slot = waiting.pop(0), free.pop(0)
                command = [
                    sys.executable,
                    "-m",
                    "surefoot",
                    "train",
                    name,
                    *base,
                    "--seed",
                    str(seed),
                ]
                command += ["--run-dir", str(parent / f"seed-{seed}")] + (
                    [] if request.json else ["--quiet"]
                )
                running[seed] = (launch(command, cores, slot), slot)
            time.sleep(0.05)
            for seed, (process, slot) in list(running.items()):
                if process.poll() is not None:
                    codes.append(process.returncode)
                    free.append(slot)
                    del running[seed]
    except KeyboardInterrupt:
        for process, _ in running.values():
            process.send_signal(signal.SIGTERM)
        for process, _ in running.values():
            process.wait()
        return 130
    return max(codes, default=0)


def launch(command: list[str], cores: list[int], slot: int) -> subprocess.Popen[bytes]:
    """Start a process on a core of its own; children inherit the affinity that is set while they
    are started."""
    if not cores:
        return subprocess.Popen(command)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores[slot % len(cores)]})
    try:
        return subprocess.Popen(command)
    finally:
        os.sched_setaffinity(0, before)


def strip(args: Sequence[str], names: tuple[str, ...]) -> list[str]:
    """Arguments without some flags and their values."""
    out: list[str] = []
    skip = False
    for arg in args:
        if skip:
            skip = False
        elif arg in names:
            skip = True
        elif arg.partition("=")[0] not in names:
            out.append(arg)
    return out
