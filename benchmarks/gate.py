"""The learning gate: does every method still learn? Fresh seeds every time, and calibrated, so that
it cries wolf less than once in a thousand (docs/gate.md).

    python benchmarks/gate.py run                     # what `make learn` runs
    python benchmarks/gate.py run --seed S            # the same draws again
    python benchmarks/gate.py run --plant critic      # is a critic that takes ends wrongly found?
    python benchmarks/gate.py run --record FILE       # and a line of what was seen, kept
    python benchmarks/gate.py calibrate --shard 0/2   # what is missing of every second method
    python benchmarks/gate.py plant --shard 0/2       # the smallest planted loss it finds
    python benchmarks/gate.py table                   # the tables of docs/gate.md from the files

Results lie in results/gate/, a file a method: in draws/ the scores it is calibrated on, with the
learning epoch and the settings they hold for, in planted/ the losses that are found; runs.jsonl has
gates that were kept. Whatever is there is not run again; scores of another epoch or of other
settings are refused, and `calibrate --again` begins those methods anew.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gate_runs import Planted

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "gate"
PAGE = HERE.parent / "docs" / "gate.md"
KEPT = "runs.jsonl"
"""Gates that were kept, a line each."""
# Compiling is most of it: one level of optimisation, in one piece. Calibration and gate alike.
FLAGS = [
    "--xla_backend_optimization_level=1",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false",
]

COMMAND = "python benchmarks/gate.py"
"""What messages say to type."""
TRIES = 3
"""Fresh draws in a row that must fall below the threshold for an alarm."""
DRAWS = 512
"""Draws a method is calibrated on."""
RUNS = 2
"""Runs, of consecutive seeds, whose mean score is one draw."""
QUANTILE, CONFIDENCE = 0.01, 0.95
"""The threshold is below this quantile of the scores with this confidence."""
FALSE_ALARMS = 1e-3
"""Of the whole gate, at most."""
CHUNK = 32
"""Draws computed as one `vmap`, and written at once."""
LEARNS, ALARMS = "learns", "ALARM"
"""How the line on a method begins."""
SEEN = "seen"
"""How the line begins in which a part hands on what it saw, and which is not shown."""
ALARM = 3
"""Exit status of a part of the gate in which a method alarms: a crash has 1."""
FOUND = 0.8
"""How often a loss must be found that is said to be found."""
SHARES = {
    "policy": (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
    "critic": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
}
"""Fault -> what is tried of it: advantages whose sign is flipped, of which 0.5 leave nothing to
learn; and of the successor's value, what is bootstrapped where an episode has terminated."""
SEARCH, CONFIRM, FURTHER = 32, 64, 128
"""Draws at every share that is tried, fresh ones at the share that is stated, and those that follow
where the first do not show enough."""
PLANTED_AT, CONFIRMED_AT = 1_000_000_000, 1_500_000_000
"""First seeds of planted runs; calibration begins at 0."""


class Stale(Exception):
    """What was calibrated is not what is there now; the message says what to type."""


class Refused(Exception):
    """What was typed is not understood; the message says what is allowed."""


# Arithmetic: no more than order statistics and binomials.


def binomial_at_most(k: int, n: int, p: float) -> float:
    """P(at most k of n happen) where each does with probability p."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def order(n: int, quantile: float = QUANTILE, confidence: float = CONFIDENCE) -> int:
    """The largest k such that the k-th smallest of n scores is at or below the quantile with the
    confidence, whatever their distribution: P(Binomial(n, quantile) <= k - 1) <= 1 - confidence.

    Raises `ValueError` where n is too small for any.
    """
    k = 0
    while binomial_at_most(k, n, quantile) <= 1 - confidence:
        k += 1
    if k == 0:
        raise ValueError(f"{n} draws are too few for a quantile of {quantile}")
    return k


def threshold(scores: Sequence[float]) -> float:
    """The `order`-th smallest; scores that are not numbers are the smallest."""
    return sorted(map(lowest, scores))[order(len(scores)) - 1]


def lowest(score: float) -> float:
    """A score that is not a number is below every other."""
    return -math.inf if math.isnan(score) else score


def alarms(scores: Sequence[float], limit: float) -> bool:
    """Whether all draws fall below the threshold; one at it does not."""
    return len(scores) >= TRIES and all(lowest(s) < limit for s in scores)


def false_alarm(n: int, k: int, tries: int = TRIES) -> float:
    """P(`tries` fresh scores all fall below the k-th smallest of n), over the chance of calibration
    and gate together: E[level^tries], where the level of that order statistic is Beta(k, n + 1 - k)
    whatever the distribution, so k (k+1) ... / ((n+1) (n+2) ...); ties make it less."""
    return math.prod((k + i) / (n + 1 + i) for i in range(tries))


def interval(hits: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share, by bisection."""
    half = (1 - confidence) / 2

    def solve(above: bool) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            p = 0.5 * (low + high)
            # The bound from below makes `hits` or more unlikely, that from above `hits` or fewer.
            tail = binomial_at_most(hits, n, p) if above else 1 - binomial_at_most(hits - 1, n, p)
            if (tail > half) == above:
                low = p
            else:
                high = p
        return low

    return (solve(False) if hits else 0.0, solve(True) if hits < n else 1.0)


def needed() -> float:
    """Share of single draws that must fall below the threshold for `TRIES` in a row to do so in
    `FOUND` of gates."""
    return FOUND ** (1 / TRIES)


# Files.


def fields() -> list[str]:
    from gate_runs import TASKS

    return ["seed", *TASKS]


def stamp(name: str) -> str:
    """The first line of a method's file: what its scores hold for."""
    from gate_runs import settings

    from surefoot.experiments.plan import LEARNING_EPOCH

    return f"# epoch {LEARNING_EPOCH} settings {settings(name)} runs {RUNS}"


def read_draws(name: str, folder: Path) -> tuple[str, dict[int, dict[str, float]]]:
    """What a method's file says it holds for, and first seed -> task -> score; both empty where
    there is no file."""
    path = folder / "draws" / f"{name}.csv"
    if not path.exists():
        return "", {}
    first, *lines = path.read_text().splitlines()
    return first, {
        int(r["seed"]): {k: float(v) for k, v in r.items() if k != "seed"}
        for r in csv.DictReader(lines)
    }


def draws_of(name: str, folder: Path) -> dict[int, dict[str, float]]:
    """First seed -> task -> score, as calibrated; empty where there is no file.

    Raises `Stale` where it is of another learning epoch or of other settings.
    """
    first, draws = read_draws(name, folder)
    if first and first != stamp(name):
        raise Stale(f"calibrated for {first[2:]}, and it is {stamp(name)[2:]} now")
    return draws


def write_draws(name: str, draws: dict[int, dict[str, float]], folder: Path) -> None:
    """A method's file, whole or not at all."""
    path = folder / "draws" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = fields()
    lines = [stamp(name), ",".join(head)]
    for seed in sorted(draws):
        lines.append(",".join([str(seed), *(f"{draws[seed][t]:.4f}" for t in head[1:])]))
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(path)


def thresholds(name: str, folder: Path) -> dict[str, float]:
    """Task -> threshold of a method.

    Raises `Stale` where fewer than `DRAWS` draws are there, or draws of something else.
    """
    draws = draws_of(name, folder)
    if len(draws) < DRAWS:
        raise Stale(f"{len(draws)} of {DRAWS} draws")
    return {t: threshold([d[t] for d in draws.values()]) for t in fields()[1:]}


def stale(names: Iterable[str], folder: Path) -> str:
    """One line: what must be typed before the gate can say anything; empty where nothing."""
    found = {}
    for name in names:
        try:
            thresholds(name, folder)
        except Stale as error:
            found[name] = str(error)
    if not found:
        return ""
    first = next(iter(found))
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"not calibrated: {first} ({found[first]}){more}. "
        f"Type: {COMMAND} calibrate --again {' '.join(found)}"
    )


# Draws.


def draw(
    name: str, tasks: Sequence[str], seeds: Sequence[int], planted: Planted | None = None
) -> list[dict[str, float]]:
    """Task -> score for the draws whose first seeds are given; NaN where a run gives none."""
    from gate_runs import CARTPOLE, score

    each = [s + i for s in seeds for i in range(RUNS)]
    out: list[dict[str, float]] = [{} for _ in seeds]
    probes = [t for t in tasks if t != CARTPOLE]
    for group in (probes, [CARTPOLE] if CARTPOLE in tasks else []):
        if not group:
            continue
        for task, scores in score(name, group, each, planted).items():
            for made, mean in zip(out, scores.reshape(-1, RUNS).mean(1), strict=True):
                made[task] = round(float(mean), 4)
    return out


def calibrate(name: str, folder: Path, draws: int = DRAWS) -> None:
    """Run what is missing and write as it goes."""
    from gate_runs import TASKS

    there, start = draws_of(name, folder), time.process_time()
    missing = [RUNS * i for i in range(draws) if RUNS * i not in there]
    for at in range(0, len(missing), CHUNK):
        seeds = missing[at : at + CHUNK]
        there |= dict(zip(seeds, draw(name, TASKS, seeds), strict=True))
        write_draws(name, there, folder)
    if missing:
        print(f"{name}: {len(there)} draws, {time.process_time() - start:.0f} s", flush=True)


def fresh(seed: int, name: str) -> list[int]:
    """First seeds of the draws of a gate for a method, from the gate's own seed."""
    import numpy as np

    word = [seed, *name.encode()]
    drawn = np.random.SeedSequence(word).generate_state(TRIES, np.uint32)
    return [int(w >> 1) // RUNS * RUNS for w in drawn]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the gate saw of a method on a task."""

    method: str
    task: str
    limit: float
    scores: tuple[float, ...]

    @property
    def alarm(self) -> bool:
        """Whether it is one."""
        return alarms(self.scores, self.limit)

    def __str__(self) -> str:
        drawn = " ".join(f"{s:.4f}" for s in self.scores)
        return f"{self.method} on {self.task}: {drawn}, threshold {self.limit:.4f}"


def gate(name: str, seed: int, folder: Path, planted: Planted | None = None) -> list[Finding]:
    """Three fresh draws of a method on every task; with the critic's fault, on those that show it.
    All are made at once: the second and third cost next to nothing beside compiling."""
    from gate_runs import AIMS

    limits = thresholds(name, folder)
    tasks = AIMS["critic"] if planted and planted.kind == "critic" else list(limits)
    made = draw(name, tasks, fresh(seed, name), planted)
    return [Finding(name, t, limits[t], tuple(m[t] for m in made)) for t in tasks]


# Planted losses.

PLANTED = (
    "method",
    "task",  # which says what is planted: `gate_runs.AIMS`
    "stamp",  # as in the file of draws that the threshold is from
    "share",  # the smallest that is found; `none` where not even the largest is
    "draws",
    "below",  # of them, below the threshold
    "power",  # (below / draws) ** TRIES, and its 95 % interval
    "power_low",
    "power_high",
    "mean_without",
    "mean_with",
)
"""Columns of the files of planted losses."""


def first_found(found: Callable[[int], bool], confirmed: Callable[[int], bool], n: int) -> int:
    """The first of n rising losses that is found, by bisection, and then the first from there on
    that fresh draws confirm: one that was lucky gives way to the next. n where there is none."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle + 1, high)
    while low < n and not confirmed(low):
        low += 1
    return low


def power(below: int, draws: int) -> tuple[float, float, float]:
    """How often a gate finds a loss of which so many draws fell below the threshold, and the 95 %
    interval of that."""
    low, high = interval(below, draws)
    return (below / draws) ** TRIES, low**TRIES, high**TRIES


def confirmed(draws: Callable[[int, int], list[float]], limit: float) -> list[float]:
    """The scores that show a loss to be found in `FOUND` of gates: the lower end of the interval is
    not below it. Empty where they do not show it. `draws` makes so many scores from a place on.

    The first `CONFIRM` draws may be enough; where they are not and are no reason to give up,
    `FURTHER` ones join them. Each look errs in 1 of 40, so both in 1 of 20 at most.
    """

    def below(made: Sequence[float]) -> int:
        return sum(lowest(s) < limit for s in made)

    made = draws(0, CONFIRM)
    if below(made) < needed() * CONFIRM:
        return []
    if power(below(made), CONFIRM)[1] < FOUND:
        made += draws(CONFIRM, FURTHER)
    return made if power(below(made), len(made))[1] >= FOUND else []


def plant(name: str, task: str, folder: Path) -> dict[str, str]:
    """The smallest share of the fault that a task is to show, of those tried, that the gate finds
    there in `FOUND` of cases, and what it costs; a share of `none` where it finds not even the
    largest."""
    from gate_runs import Planted, fault_of

    kind = fault_of(task)
    shares, limit = SHARES[kind], thresholds(name, folder)[task]
    without = [d[task] for d in draws_of(name, folder).values()]
    made: list[float] = []

    def scores(i: int, first: int, count: int) -> list[float]:
        out: list[float] = []
        for at in range(0, count, CHUNK):
            seeds = [first + RUNS * (at + j) for j in range(CHUNK)]
            out += [d[task] for d in draw(name, [task], seeds, Planted(kind, shares[i]))]
        return out

    def found(i: int) -> bool:
        return sum(lowest(s) < limit for s in scores(i, PLANTED_AT, SEARCH)) >= needed() * SEARCH

    def shown(i: int) -> bool:
        fresh = lambda at, n: scores(i, CONFIRMED_AT + RUNS * at, n)  # noqa: E731
        made[:] = confirmed(fresh, limit)
        return bool(made)

    at = first_found(found, shown, len(shares))
    row = {"method": name, "task": task, "stamp": stamp(name)[2:]}
    row |= {"mean_without": f"{math.fsum(without) / len(without):.4f}"}
    if at == len(shares):
        return row | {"share": "none"}
    return row | stated(shares[at], sum(lowest(s) < limit for s in made), made)


def stated(share: float, below: int, made: Sequence[float]) -> dict[str, str]:
    """The part of a row that says what was found with a share."""
    found, least, most = power(below, len(made))
    return {
        "share": str(share),
        "draws": str(len(made)),
        "below": str(below),
        "power": f"{found:.3f}",
        "power_low": f"{least:.3f}",
        "power_high": f"{most:.3f}",
        "mean_with": f"{math.fsum(made) / len(made):.4f}",
    }


def planted(folder: Path) -> list[dict[str, str]]:
    """Rows of every file of planted losses, sorted by method and task."""
    from gate_runs import NAMES, TASKS

    rows = []
    for path in sorted((folder / "planted").glob("*.csv")):
        with path.open(newline="") as f:
            rows += list(csv.DictReader(f))
    return sorted(rows, key=lambda r: (NAMES.index(r["method"]), TASKS.index(r["task"])))


def plant_all(name: str, folder: Path) -> None:
    """Every task of a method whose loss is not there yet, on the settings of now.

    Raises `Stale` where it is not calibrated for them.
    """
    from gate_runs import TASKS

    missing = stale([name], folder)
    if missing:
        raise Stale(missing)
    path = folder / "planted" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    here = stamp(name)[2:]
    rows = [r for r in planted(folder) if r["method"] == name and r["stamp"] == here]
    for task in TASKS:
        if task in [r["task"] for r in rows]:
            continue
        start = time.process_time()
        rows.append(plant(name, task, folder))
        rows.sort(key=lambda r: TASKS.index(r["task"]))
        with path.open("w", newline="") as f:
            writer = csv.DictWriter(f, PLANTED, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        spent = time.process_time() - start
        share = next(r["share"] for r in rows if r["task"] == task)
        print(f"{name} {task}: share {share}, {spent:.0f} s", flush=True)


# Commands.


def chosen(names: Sequence[str], shard: str) -> list[str]:
    """The methods named, or all, and of those every so many."""
    from gate_runs import NAMES

    unknown = [n for n in names if n not in NAMES]
    if unknown:
        raise Refused(f"no method is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    part, slash, parts = shard.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise Refused(f"--shard is {shard}; allowed: PART/PARTS with PART below PARTS, as in 0/2")
    here = list(names or NAMES)[int(part) :: int(parts)]
    if not here:
        raise Refused(f"--shard {shard} leaves none of {len(names or NAMES)} methods")
    return here


def smallest(rows: Sequence[dict[str, str]], kind: str = "policy") -> dict[str, str] | None:
    """The row of the smallest share of a fault that is found, of the rows of a method, and of equal
    shares the one found most often; None where none is."""
    from gate_runs import fault_of

    found = [r for r in rows if fault_of(r["task"]) == kind and r["share"] != "none"]
    return min(found, key=lambda r: (float(r["share"]), -float(r["power"])), default=None)


def planted_by(name: str, plant: str, folder: Path) -> Planted | None:
    """What `--plant` asks for: nothing; a share of flipped advantages, or the method's smallest
    that is found; `critic`, which is all of its fault, or `critic:SHARE`.

    Raises `Stale` where the smallest is not known, `Refused` for anything else.
    """
    from gate_runs import FAULTS, Planted

    if not plant:
        return None
    kind, amount = "policy", plant
    if plant.partition(":")[0] in FAULTS:
        kind, colon, amount = plant.partition(":")
        amount = amount if colon else {"policy": "smallest", "critic": "1"}[kind]
    if amount != "smallest":
        try:
            share = float(amount)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            raise Refused(
                f"--plant is {plant}; allowed: a share from 0 to 1, smallest, or critic[:SHARE]"
            )
        return Planted(kind, share)
    row = smallest([r for r in planted(folder) if r["method"] == name], kind)
    if row is None or row["stamp"] != stamp(name)[2:]:
        raise Stale(f"no loss of {name} is known to be found. Type: {COMMAND} plant {name}")
    return Planted(kind, float(row["share"]))


def run_here(names: Sequence[str], seed: int, plant: str = "") -> int:
    """Gate some methods in this process; how many alarm."""
    bad = 0
    for name in names:
        start = time.perf_counter()
        fault = planted_by(name, plant, RESULTS)
        found = gate(name, seed, RESULTS, fault)
        spent = time.perf_counter() - start
        wrong = [f for f in found if f.alarm]
        bad += bool(wrong)
        seen: dict[str, Any] = {"method": name, "seconds": round(spent, 1)}
        seen |= {"share": fault.share} if fault else {}
        # As text: JSON knows no score that is not a number.
        seen |= {"scores": {f.task: [f"{s:.4f}" for s in f.scores] for f in found}}
        print(SEEN, json.dumps(seen | {"alarms": [f.task for f in wrong]}), flush=True)
        print(f"{ALARMS if wrong else LEARNS:6} {name} ({spent:.0f} s)", flush=True)
        for finding in wrong:
            print(f"       {finding}", flush=True)
    return bad


def run(names: Sequence[str], seed: int, jobs: int, plant: str, record: Path | None = None) -> int:
    """Gate methods in pinned processes, one a core; the exit status: 1 if any alarms, or if a loss
    is planted and any does not. `record`: the file that gets a line of what was seen."""
    if jobs < 1:
        raise Refused(f"--jobs is {jobs}; allowed: 1 or more")
    if record is not None and (record.is_dir() or not record.parent.is_dir()):
        raise Refused(f"--record is {record}; allowed: a file in a folder that is there")
    missing = stale(names, RESULTS)
    if missing:
        print(missing)
        return 2
    for name in names:
        planted_by(name, plant, RESULTS)  # known, before anything starts
    start = time.perf_counter()
    print(f"seed {seed}: to repeat, SUREFOOT_GATE_SEED={seed} make learn", flush=True)
    parts = begin(names, seed, jobs, plant)
    said = list(relay(parts))
    codes = [p.wait() for p in parts]
    spent = time.perf_counter() - start
    told = {words[1] for line in said if (words := line.split())[0] in (LEARNS, ALARMS)}
    if any(c not in (0, ALARM) for c in codes) or told != set(names):
        missing = ", ".join(n for n in names if n not in told)
        print(f"a part of the gate failed, exit statuses {codes}; nothing was said of: {missing}")
        return 2
    bad = sum(line.startswith(ALARMS) for line in said)
    status = int(bad < len(names)) if plant else int(bad > 0)
    seen = [json.loads(line.removeprefix(SEEN)) for line in said if line.startswith(SEEN)]
    if record is not None:
        asked = {"seed": seed, "plant": plant, "status": status, "jobs": len(parts)}
        keep(record, seen, asked | {"seconds": round(spent, 1)})
    print(f"{outcome(bad, len(names), plant, seen)}, {spent:.0f} s")
    return status


def begin(names: Sequence[str], seed: int, jobs: int, plant: str) -> list[subprocess.Popen[str]]:
    """Processes that gate a share of the methods each, pinned to a core each."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    command = [sys.executable, __file__, "part", "--seed", str(seed)]
    command += ["--plant", plant] if plant else []
    parts = []
    for job in range(min(jobs, len(names))):
        pin = ["taskset", "-c", str(cores[job % len(cores)])] if len(cores) > 1 else []
        line = [*pin, *command, *names[job::jobs]]
        parts.append(subprocess.Popen(line, stdout=subprocess.PIPE, text=True))
    return parts


def outcome(bad: int, of: int, plant: str, seen: Sequence[dict[str, Any]]) -> str:
    """What a gate says at its end."""
    if plant:
        looks, found = (sum(len(x[k]) for x in seen) for k in ("scores", "alarms"))
        return f"{bad} of {of} planted losses are found, by {found} of {looks} looks"
    words = f"{bad} do not learn as they did" if bad else "every method learns as it did"
    return f"{words}: {of} of them"


def keep(path: Path, seen: Sequence[dict[str, Any]], said: dict[str, Any]) -> None:
    """Add a line to a file of gates: what was asked, on what, and every score."""
    from gate_runs import NAMES

    from surefoot.provenance import environment

    here, methods = environment(), sorted(seen, key=lambda x: NAMES.index(x["method"]))
    each = {x["method"]: {k: v for k, v in x.items() if k != "method"} for x in methods}
    with path.open("a") as f:
        f.write(json.dumps(said | {"processor": processor()} | here | {"methods": each}) + "\n")


def processor() -> str:
    """What the system calls the processor; empty where it does not say."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else ""


def relay(parts: Sequence[subprocess.Popen[str]]) -> Iterable[str]:
    """Lines of several processes as they come, printed but for what they hand on."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read(part: subprocess.Popen[str]) -> None:
        assert part.stdout is not None
        with part.stdout as said:
            for line in said:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    for part in parts:
        threading.Thread(target=read, args=(part,), daemon=True).start()
    left = len(parts)
    while left:
        line = lines.get()
        if line is None:
            left -= 1
        elif line:
            if not line.startswith(SEEN):
                print(line, flush=True)
            yield line


def calibrate_all(names: Sequence[str], draws: int, again: bool) -> int:
    """Calibrate methods one after another; exit status 2 at a stale one that may not begin anew."""
    for name in names:
        try:
            draws_of(name, RESULTS)
        except Stale as error:
            if not again:
                print(f"{name}: {error}. Type: {COMMAND} calibrate --again {name}")
                return 2
            (RESULTS / "draws" / f"{name}.csv").unlink()
        calibrate(name, RESULTS, draws)
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "part", "calibrate", "plant", "table"])
    parser.add_argument("methods", nargs="*", help="none: all")
    parser.add_argument("--seed", default=None, help="of the draws; none: from the system")
    parser.add_argument("--shard", default="0/1", help="part/parts: every so many of the methods")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of a calibration that begins")
    parser.add_argument("--jobs", type=int, default=2, help="processes of run, one a core")
    parser.add_argument("--again", action="store_true", help="calibrate anew what is stale")
    parser.add_argument(
        "--plant",
        default="",
        metavar="SHARE",
        help="flip these advantages; or `smallest`; or `critic[:SHARE]`: bootstrap at ends",
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="run: add a line of it here")
    return parser.parse_intermixed_args(argv)  # methods may come after options


def act(args: argparse.Namespace) -> int:
    """Do it; the exit status."""
    names = chosen(args.methods, args.shard)
    asked = os.environ.get("SUREFOOT_GATE_SEED") or str(secrets.randbits(31))
    word = asked if args.seed is None else args.seed
    if not word.isdecimal() or int(word) >= 2**31:
        raise Refused(f"the seed is {word}; allowed: a whole number from 0 to {2**31 - 1}")
    seed = int(word)
    if args.what == "run":
        return run(names, seed, args.jobs, args.plant, args.record)
    if args.what == "part":
        return ALARM if run_here(names, seed, args.plant) else 0
    if args.what == "calibrate":
        return calibrate_all(names, args.draws, args.again)
    for name in names:
        plant_all(name, RESULTS)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    if args.what == "table":
        from gate_table import write

        write()
        return 0
    try:
        return act(args)
    except (Refused, Stale) as error:
        print(error)
        return 2


if __name__ == "__main__":
    # What was calibrated holds for these, whatever else the system has or says.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = " ".join(FLAGS)
    sys.exit(main())
