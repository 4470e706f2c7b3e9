"""`surefoot reproduce PAPER ITEM`: a paper's table or figure run again, its numbers beside ours."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.checks import UsageError
from surefoot.cli import compare_
from surefoot.envs import nearest

if TYPE_CHECKING:
    from surefoot.experiments.reproduce.estimate import Estimate
    from surefoot.experiments.reproduce.items import Item, Paper, Scope
    from surefoot.experiments.store import Store

USAGE = "usage: surefoot reproduce PAPER ITEM [--quick] [--store DIR]"
MAX_HOURS = 1.0

HELP = f"""{USAGE}

Runs a table or figure of a paper again: its tasks, methods, settings and budget, and prints the
paper's numbers beside ours, with intervals, what changed in the tasks since, and the deviation.
Runs that are finished are used as they are, also those of compare; Ctrl-C once: every run saves,
and the same command goes on. Without an item: what there is, its budget, how long it would take.

  PAPER           mcpo, fixpo, trefree
  ITEM            table1, figure3, ...: surefoot reproduce PAPER says which, and by what other
                  name an item is found too (mcpo figure2 is mcpo ablations)

  --quick         a part that takes minutes; which part is said before it starts
  --seeds N       seeds a method, in place of the item's
  --seed FIRST    the first seed (0)
  --steps N       steps of every run, in place of the item's
  --env ID...     some of the item's tasks
  --method M...   some of its rows, by their labels
  --max-hours H   what would take longer is not begun ({MAX_HOURS:g}); exit code 4
  --jobs J        runs at a time, a process pinned to a core each (as many as there are cores)
  --store DIR     a store of results: what it holds is not run, what is run is added
  --run-dir DIR   where run folders live (runs)
  --out DIR       where tables and pictures go (reproduce/<paper>-<item>-<eight letters>)
  --dry-run       say what would be run and how long it takes, and do nothing
  --quiet         print nothing but the tables
  --json          print one line of JSON at the end instead of everything else, also of --dry-run
                  and of what is not begun"""

VALUED = ("--seeds", "--seed", "--steps", "--max-hours", "--jobs", "--store", "--run-dir", "--out")
LISTS = ("--env", "--method")
SWITCHES = ("--quick", "--dry-run", "--quiet", "--json")
ALIASES = {"-n": "--steps", "--methods": "--method", "--envs": "--env"}
FILES = ("reproduce.md", "reproduce.json")


@dataclass(frozen=True)
class Asked:
    """What a command line of `reproduce` asks for."""

    names: list[str]
    """Paper and item; fewer where a list is asked for."""
    flags: dict[str, list[str]]

    def has(self, switch: str) -> bool:
        """Whether a switch is on."""
        return switch in self.flags

    def path(self, name: str) -> Path | None:
        """The folder that a flag names."""
        return Path(self.flags[name][0]) if name in self.flags else None

    @property
    def jobs(self) -> int:
        """Runs at a time."""
        from surefoot.provenance import visible_cores

        return compare_.whole(self.flags, "--jobs", visible_cores(), 1)

    @property
    def max_hours(self) -> float:
        """What would take longer is not begun. Raises `UsageError`."""
        said = self.flags.get("--max-hours", [str(MAX_HOURS)])[0]
        try:
            hours = float(said)
        except ValueError:
            hours = 0.0
        if not hours > 0:
            raise UsageError(f"--max-hours is {said}; allowed: a number above 0")
        return hours

    @property
    def store(self) -> Store | None:
        """The store of results. Raises `UsageError`."""
        return compare_.store_at(self.path("--store"))


def run(args: Sequence[str]) -> int:
    """List what there is, or run an item and print it beside the paper."""
    if any(a in ("-h", "--help") for a in args):
        print(HELP)
        return 0
    asked = parse(list(args))
    from surefoot.experiments.reproduce.papers import all_papers, paper

    if len(asked.names) < 2:
        chosen = [paper(asked.names[0])] if asked.names else list(all_papers().values())
        _of_an_item_alone(asked)
        return overview(asked, chosen)
    found = paper(asked.names[0])
    item = found.item(asked.names[1])
    # By its first name, so that the files are the same whichever was typed.
    return one(dataclasses.replace(asked, names=[found.name, item.name]), found, item)


# The command line.


def parse(args: list[str]) -> Asked:
    """What arguments ask for. Raises `UsageError`."""
    names, groups = compare_.grouped(args)
    flags: dict[str, list[str]] = {}
    for given, values in groups:
        name = ALIASES.get(given, given)
        known = (*VALUED, *LISTS, *SWITCHES)
        if name not in known:
            raise UsageError(
                f"{given} is not a flag of reproduce{nearest(name, known)}; the settings of an "
                "item are its paper's: surefoot compare runs others"
            )
        if name in LISTS:
            if not values:
                raise UsageError(f"{name} takes at least one value; got none")
            flags[name] = [*flags.get(name, []), *values]
        else:
            flags[name] = compare_.one_value(name, values, SWITCHES)
    if len(names) > 2:
        raise UsageError(f"one item at a time; got {' '.join(names)}. {USAGE}")
    return Asked(names, flags)


def _of_an_item_alone(asked: Asked) -> None:
    """Raise `UsageError` for flags that say nothing of a list."""
    extra = [name for name in asked.flags if name not in ("--json", "--jobs", "--store")]
    if extra:
        verb = "is" if len(extra) == 1 else "are"
        raise UsageError(
            f"ITEM is missing; {' '.join(extra)} {verb} of one item: "
            f"surefoot reproduce {' '.join(asked.names) or 'PAPER'} lists what there is"
        )


def scope_of(asked: Asked, item: Item) -> Scope:
    """The part of an item that a command line asks for. Raises `UsageError`."""
    from surefoot.experiments.reproduce import items

    flags = asked.flags
    base = items.quick(item) if asked.has("--quick") else items.whole(item)
    first = compare_.whole(flags, "--seed", 0, 0)
    count = compare_.whole(flags, "--seeds", len(base.seeds), 1)
    return items.narrowed(
        base,
        envs=flags.get("--env", ()),
        labels=flags.get("--method", ()),
        steps=compare_.whole(flags, "--steps", 1, 1) if "--steps" in flags else None,
        seeds=range(first, first + count),
    )


def plan_of(asked: Asked, scope: Scope, store: Store | None) -> compare_.Plan:
    """The runs of a scope, as `compare` would make them."""
    request = compare_.Request(
        methods=[e.label for e in scope.entrants],
        envs=[t.env for t in scope.tasks],
        seeds=list(scope.seeds),
        jobs=asked.jobs,
        baseline=None,
        store=asked.path("--store"),
        runs=asked.path("--run-dir") or Path("runs"),
        out=asked.path("--out"),
        vmap=False,
        dry_run=asked.has("--dry-run"),
        quiet=asked.has("--quiet"),
        json=asked.has("--json"),
        shared=[],
    )
    return compare_.Plan(request, scope.cells(), store, folders=scope.item.needs_folders)


def estimate_of(plan: compare_.Plan) -> Estimate:
    """How long what is missing takes."""
    from surefoot.experiments.reproduce.estimate import estimate
    from surefoot.provenance import visible_cores

    return estimate(plan.todo, plan.request.jobs, plan.rows.values(), visible_cores())


def command_of(asked: Asked) -> str:
    """The command line that makes the table again, with nothing of this machine in it."""
    words = ["surefoot", "reproduce", *asked.names]
    for name in ("--quick", "--env", "--method", "--steps", "--seeds", "--seed"):
        if name in asked.flags:
            words += [name, *asked.flags[name]]
    return shlex.join(words)


# The list.


def overview(asked: Asked, papers: list[Paper]) -> int:
    """Every paper's items: tasks, budget, how long, whether it is there."""
    store = asked.store
    data = [described(asked, p, item, store) for p in papers for item in p.items]
    later = [
        {"paper": p.name, "item": x.name, "title": x.title, "status": "not there yet", "why": x.why}
        for p in papers
        for x in p.later
    ]
    if asked.has("--json"):
        print(json.dumps([*data, *later]))
        return 0
    for p in papers:
        print(f"{p.name} · {p.authors}, {p.title}")
        for d in (d for d in data if d["paper"] == p.name):
            also = "".join(f", also {name}" for name in d["also"])
            print(f"  {d['item']:<10} {d['title']}{also}")
            print(f"  {'':<10} {d['budget']}")
            print(f"  {'':<10} {d['time']}; --quick {d['quick']}")
        for d in (d for d in later if d["paper"] == p.name):
            print(f"  {d['item']:<10} {d['title']}: not there yet ({d['why']})")
    print("run one with: surefoot reproduce PAPER ITEM --quick")
    return 0


def described(asked: Asked, paper: Paper, item: Item, store: Store | None) -> dict[str, Any]:
    """A line of the list."""
    from surefoot.experiments.reproduce import items

    full, part = (plan_of(asked, s, store) for s in (items.whole(item), items.quick(item)))
    at = sorted({t.steps for t in item.tasks})
    steps = " and ".join(f"{n:,}" for n in at)
    there = f", {len(full.runs) - len(full.todo)} of {len(full.runs)} runs there"
    time, quick = estimate_of(full), estimate_of(part)
    return {
        "paper": paper.name,
        "item": item.name,
        "also": list(item.also),
        "title": item.title,
        "status": "there",
        "tasks": [t.env for t in item.tasks],
        "methods": [e.label for e in item.entrants],
        "seeds": item.seeds,
        "steps": {t.env: t.steps for t in item.tasks},
        "seconds": time.seconds,
        "quick_seconds": quick.seconds,
        "budget": f"{' '.join(t.plain for t in item.tasks)} · {len(item.entrants)} methods · "
        f"{item.seeds} seeds · {steps} steps"
        + ("" if item.steps_stated else " (our choice)")
        + (there if store else ""),
        "time": time.words,
        "quick": quick.words.partition(" (")[0],
    }


# One item.


def one(asked: Asked, paper: Paper, item: Item) -> int:
    """Run what is missing of an item and print it beside the paper."""
    from surefoot.experiments.reproduce.items import share

    hours = asked.max_hours
    scope = scope_of(asked, item)
    plan = plan_of(asked, scope, asked.store)
    time = estimate_of(plan)
    aloud = not (asked.has("--quiet") or asked.has("--json"))
    head = [f"{paper.name} {item.name} · {item.title}"]
    head += [f"part      {line}" for line in share(scope)]
    head += [f"estimate  {time.words}" if plan.todo else "estimate  nothing is left to run"]
    if asked.has("--dry-run"):
        if asked.has("--json"):
            each = [
                {"run": r.name, "state": plan.state[r], "folder": str(r.folder)} for r in plan.runs
            ]
            said = standing("planned", asked, plan, time)
            print(json.dumps(said | {"share": share(scope), "plan": each}))
        else:
            print("\n".join([*head, *plan.lines()]))
        return 0
    if aloud:
        print("\n".join([*head, plan.head()]), flush=True)
    if time.seconds > 3600 * hours:
        return stopped(asked, paper, scope, plan, time)
    code, lost = plan.carry_out()
    if code == 130:
        return code
    return closing(asked, paper, scope, plan, lost) or code


def stopped(asked: Asked, paper: Paper, scope: Scope, plan: compare_.Plan, time: Estimate) -> int:
    """Begin nothing: print what is finished already, and what to type instead. 4."""
    from surefoot.experiments.reproduce.estimate import duration

    todo, all_of_it = len(plan.todo), len(plan.runs)
    words = ["surefoot", "reproduce", *asked.names, *_spelled(asked), "--max-hours"]
    all_of_it_by = f"{shlex.join(words)} {_hours(time)}"
    said = standing("stopped", asked, plan, time)
    said |= {"max_hours": asked.max_hours, "next": all_of_it_by}
    if todo < all_of_it:
        closing(asked, paper, scope, plan, [f"{todo} of {all_of_it} runs: not begun"], said)
    elif asked.has("--json"):
        print(json.dumps(said))
    if asked.has("--json"):
        return 4
    quick = f"a part in minutes: surefoot reproduce {' '.join(asked.names)} --quick\n          "
    print(
        f"stopped   {todo} of {all_of_it} runs would take about {duration(time.seconds)}, more "
        f"than --max-hours {asked.max_hours:g}; none was begun\n"
        f"next      all of it: {all_of_it_by}\n"
        f"          {'' if asked.has('--quick') else quick}"
        "a part of your own: --steps N --seeds N --env ID... --method M...",
        file=sys.stderr,
    )
    return 4


def standing(status: str, asked: Asked, plan: compare_.Plan, time: Estimate) -> dict[str, Any]:
    """What `--json` says where nothing was run."""
    return {
        "status": status,
        "command": command_of(asked),
        "estimate_seconds": time.seconds,
        "estimate": time.words if plan.todo else time.source,
        "runs": len(plan.runs),
        "todo": len(plan.todo),
    }


def _spelled(asked: Asked) -> list[str]:
    """The flags that were given, but for the limit on time."""
    return [
        word
        for name, values in asked.flags.items()
        if name != "--max-hours"
        for word in (name, *values)
    ]


def _hours(time: Estimate) -> int:
    """A limit that lets an estimate through, with room for one that is wrong."""
    return max(1, int(1.5 * time.seconds / 3600) + 1)


def closing(
    asked: Asked,
    paper: Paper,
    scope: Scope,
    plan: compare_.Plan,
    lost: list[str],
    standing: Mapping[str, Any] | None = None,
) -> int:
    """Write and print what is finished, with `standing` in the line of `--json`. 3 where nothing
    is."""
    from surefoot.experiments import table
    from surefoot.experiments.plan import LEARNING_EPOCH, digest
    from surefoot.experiments.reproduce import beside
    from surefoot.experiments.store import write_whole

    labels = plan.request.methods
    baseline = scope.item.baseline if scope.item.baseline in labels else labels[-1]
    command = command_of(asked)
    comparison = dataclasses.replace(compare_.gather(plan, labels, baseline, lost), command=command)
    said = {"paper": paper.name, "command": command} | beside.compared(
        scope, values_of(plan, scope, comparison.results)
    )
    said |= {
        "made_with": made_with(plan),
        "versions": beside.version_lines(paper.name, scope),
        "missing": list(comparison.missing),
        "notes": list(comparison.notes),
    }
    cells = [[c.label, c.env, c.hash] for c in plan.cells]
    key = digest([cells, list(scope.seeds), LEARNING_EPOCH])
    folder = asked.path("--out") or Path("reproduce") / f"{paper.name}-{scope.item.name}-{key}"
    summary = table.summary(comparison) | compare_.whereabouts(plan, folder)
    files = compare_.write_files(comparison, summary, folder)
    write_whole(folder / "reproduce.md", beside.page(said))
    write_whole(folder / "reproduce.json", json.dumps(said, indent=1, allow_nan=False) + "\n")
    if asked.has("--json"):
        state = standing or {"status": "incomplete" if comparison.missing else "finished"}
        print(json.dumps(said | {"folder": str(folder)} | dict(state), allow_nan=False))
    else:
        print("\n".join(beside.lines(said)))
        print(f" files    {folder}/{{{','.join([*FILES, *files])}}}")
    return 0 if any(comparison.results.values()) or lost else 3


def made_with(plan: compare_.Plan) -> dict[str, list[str]]:
    """Environment -> the packages its dynamics come from, with the versions of the runs."""
    out: dict[str, list[str]] = {}
    for (env, package), versions in compare_.env_versions(plan).items():
        out.setdefault(env, []).append(f"{package} {' and '.join(versions)}")
    return out


def values_of(
    plan: compare_.Plan, scope: Scope, results: dict[tuple[str, str], list[Any]]
) -> dict[tuple[str, str, str], list[float]]:
    """(label, environment, measure) -> a number a seed: of the results of runs, or of the metrics
    of those whose folder is here."""
    from surefoot.experiments.plan import state
    from surefoot.experiments.results import up_to
    from surefoot.sinks import json_lines

    out: dict[tuple[str, str, str], list[float]] = {}
    for measure in scope.item.measures:
        if measure.of is None:
            for (label, env), runs in results.items():
                got = [getattr(r, measure.name) for r in runs]
                out[label, env, measure.name] = [float(x) for x in got if x is not None]
    read = [m for m in scope.item.measures if m.of is not None]
    for run in plan.runs if read else []:
        if state(run) != "finished":
            continue
        rows = up_to(json_lines(run.folder / "metrics.jsonl"), run.cell.config.steps)
        for measure in read:
            value = None if measure.of is None else measure.of(rows)
            if value is not None:
                out.setdefault((run.cell.label, run.cell.env, measure.name), []).append(value)
    return out
