"""The page of results, docs/results.md, from the store and from nothing else.

    python benchmarks/results_page.py                    # writes the page
    python benchmarks/results_page.py --settings 1a2b3c4d > mine.json   # the settings of a row

A row is a method with its settings in an environment: those of the preset that `surefoot train`
takes by itself, those of a file in benchmarks/settings, or, where they are neither, what differs
from the preset. `test_docs.py` holds that the page is what this makes.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.cli.train_ import parse_train
from surefoot.config import from_json, method_name, read_config, to_json
from surefoot.experiments import statistics as st
from surefoot.experiments.plan import LEARNING_EPOCH, WITHOUT_EFFECT, settings_hash
from surefoot.experiments.store import Store
from surefoot.experiments.table import bound_words, markdown, share_kept, updates_kept
from surefoot.methods import METHODS

HERE = Path(__file__).resolve().parent
SETTINGS, PAGE = HERE / "settings", HERE.parent / "docs" / "results.md"
CLASSIC = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")
MUJOCO = tuple(
    f"{name}-v5"
    for name in (
        *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup"),
        *("InvertedDoublePendulum", "InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"),
    )
)
FAMILIES = {"Classic control": CLASSIC, "MuJoCo": MUJOCO}
Row = dict[str, Any]
Group = list[tuple[Row, Any]]
"""Rows of the same settings, by seed, with their results."""
KNOWN: dict[str, tuple[str, str]] = {}
"""Settings hash -> what `label` found."""


def bare(env: str) -> str:
    """An environment without its suite."""
    return env.rpartition(":")[2]


def family(env: str) -> str:
    """The heading an environment stands under."""
    return next((name for name, envs in FAMILIES.items() if bare(env) in envs), "Others")


def own(row: Row, *more: str) -> list[str]:
    """Flags that say a row's environment, steps and number of environments."""
    s = row["settings"]
    return [
        *("--env", row["env"], "--steps", str(s["steps"]), "--num-envs", str(s["num_envs"])),
        *more,
    ]


def preset(row: Row) -> Any:
    """What `train` would take by itself for a row's method and environment."""
    return parse_train(row["method"], [*own(row), "--seed", str(row["seed"])]).config


@functools.cache
def files() -> dict[str, Any]:
    """Stem -> settings of the files."""
    return {p.stem: read_config(p) for p in sorted(SETTINGS.glob("*.json"))}


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of JSON settings."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, data


def differences(row: Row, config: Any) -> str:
    """What a row has otherwise than other settings."""
    here, there = (dict(leaves(to_json(c))) for c in (from_json(row["settings"]), config))
    names = [n for n in here | there if n.partition(".")[0] not in WITHOUT_EFFECT]
    said = [f"{n} {here.get(n, '-')}" for n in names if here.get(n) != there.get(n)]
    return ", ".join(said)


def label(row: Row) -> tuple[str, str]:
    """What a row's settings are called, and the word of `compare` that gives them, empty where
    there is none; found once."""
    key = row["settings_hash"]
    if key not in KNOWN:
        KNOWN[key] = name_of(row)
    return KNOWN[key]


def name_of(row: Row) -> tuple[str, str]:
    """As `label`, from the preset and the files."""
    taken = preset(row)
    if settings_hash(taken) == row["settings_hash"]:
        return f"`{row['method']}`", row["method"]
    for stem, config in files().items():
        if method_name(config.method) != row["method"]:
            continue
        path = f"benchmarks/settings/{stem}.json"
        args = [*own(row, "--config", str(SETTINGS / f"{stem}.json")), "--seed", str(row["seed"])]
        if settings_hash(parse_train(row["method"], args).config) == row["settings_hash"]:
            return f"`{stem}.json`", path
    return f"`{row['method']}` with {differences(row, taken)} ({row['settings_hash']})", ""


def seeds_text(seeds: list[int]) -> str:
    """`0 to 4`, or `0, 2`."""
    whole = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def estimate(values: np.ndarray, name: str) -> str:
    """An aggregate over seeds with its interval."""
    found = st.estimate([values], name)
    if len(values) < 2:
        return st.number_text(float(found.value))
    return f"{st.number_text(float(found.value))} {st.interval_text(*map(float, found.interval()))}"


def line(group: Group) -> list[str]:
    """A row of a table."""
    rows, results = zip(*group, strict=True)
    scores = np.array([r.score for r in results])
    spread = st.number_text(st.spread(scores)) if len(scores) > 1 else "-"
    return [
        label(rows[0])[0],
        seeds_text([r["seed"] for r in rows]),
        estimate(scores, "iqm"),
        estimate(np.array([r.auc for r in results]), "iqm"),
        spread,
        kept(results),
        f"{max(r.worst_kl for r in results):.3g}",
        ", ".join(sorted({r["git"]["commit"][:7] + "+" * r["git"]["changed"] for r in rows})),
    ]


def kept(results: Any) -> str:
    """`100 % (mean <= 0.01)`, or that nothing is promised."""
    words = bound_words(results)
    share = None if any(r.bound_kept is None for r in results) else updates_kept(results)
    return words if share is None else f"{share_kept(share)} ({words})"


HEAD = [
    *("method or settings", "seeds", "return: IQM [95 %]", "area under the curve: IQM [95 %]"),
    *("spread", "bound kept", "worst state's KL", "commits"),
]


def commands(groups: list[Group]) -> list[str]:
    """What repeats a table's rows: one command for those with as many seeds."""
    out, together = [], {}
    for group in groups:
        word = label(group[0][0])[1]
        seeds = [row["seed"] for row, _ in group]
        if not word:
            key = group[0][0]["settings_hash"]
            word = f"{key}.json"
            out.append(f"$ python benchmarks/results_page.py --settings {key} > {word}")
        for first in (x for x in seeds if x - 1 not in seeds):
            many = next(n for n in itertools.count(1) if first + n not in seeds)
            together.setdefault((first, many), []).append(word)
    flags = " ".join(own(groups[0][0][0]))
    for (first, many), words in together.items():
        start = f" --seed {first}" if first else ""
        out.append(f"$ surefoot compare {' '.join(words)} {flags}{start} --seeds {many}")
    return out


def groups_of(store: Store) -> dict[tuple[str, int, int], list[Group]]:
    """(environment, steps, environments) -> its groups, the best first."""
    by: dict[Any, Group] = {}
    for (key, _), row in sorted(store.rows().items()):
        by.setdefault(key, []).append((row, store.result(row)))
    out: dict[tuple[str, int, int], list[Group]] = {}
    for group in by.values():
        row = group[0][0]
        where = (row["env"], row["settings"]["steps"], row["settings"]["num_envs"])
        out.setdefault(where, []).append(group)

    def best_first(group: Group) -> tuple[float, float, str]:
        scores, areas = (np.array([getattr(r, k) for _, r in group]) for k in ("score", "auc"))
        return -float(st.aggregate([scores])), -float(st.aggregate([areas])), group[0][0]["method"]

    return {where: sorted(groups, key=best_first) for where, groups in sorted(out.items())}


def versions(groups: list[Group]) -> str:
    """What the runs of a table were made with."""
    said = {
        ", ".join(f"{p} {v}" for p, v in row["env_versions"].items())
        for group in groups
        for row, _ in group
    }
    return "; ".join(sorted(said))


def coverage(tables: dict[tuple[str, int, int], list[Group]], envs: tuple[str, ...]) -> list[str]:
    """Method by task: the most seeds of a row, or that nothing was run."""
    ran = {
        (row["method"], bare(row["env"])): 0
        for groups in tables.values()
        for ((row, _), *_) in groups
    }
    for groups in tables.values():
        for group in groups:
            key = group[0][0]["method"], bare(group[0][0]["env"])
            ran[key] = max(ran[key], len(group))
    tried = [e for e in envs if any(env == e for _, env in ran)]
    rows = [
        [f"`{m}`", *(str(ran[m, e]) if (m, e) in ran else "not run" for e in tried)]
        for m in METHODS
    ]
    left = [e for e in envs if e not in tried]
    out = [*markdown([["method", *tried], *rows]), ""]
    return [*out, f"No method was run on {', '.join(left)}.", ""] if left else out


def page(store: Store) -> str:
    """The text of the page."""
    tables = groups_of(store)
    every = [g for groups in tables.values() for g in groups]
    made_with = sorted({row["surefoot"] for g in every for row, _ in g})
    runs = sum(map(len, every))
    out = [
        "# Results",
        "",
        "Made by `python benchmarks/results_page.py` from `benchmarks/results/runs.jsonl`; nothing "
        f"here is typed by hand. {runs} runs of {len(every)} settings, surefoot "
        f"{', '.join(made_with)}, learning epoch {LEARNING_EPOCH}.",
        "",
        "Return: mean of the last 100 training episodes at the end of a run, its interquartile "
        "mean over seeds (of three seeds none is cut, and it is the mean) with its 95 % interval, "
        "studentised with the stratified bootstrap's standard error. Area under the curve: mean "
        "return over environment steps. Spread: distance between the 5th and 95th percentile over "
        "seeds. Bound kept: share of updates. Worst state's KL: the largest of any state in any "
        "update of any seed. Commits: of the code that made the runs, with + where it had changes "
        "that were not committed. A method's name alone stands for the preset that `surefoot "
        "train` takes by itself; a file is one of "
        "`benchmarks/settings`. Rows of one table are not all of one comparison, and no verdict "
        "follows from them: `surefoot compare` gives those.",
        "",
        "The commands train what is missing; with `--store benchmarks/results` they take from the "
        "store what is there.",
        "",
    ]
    for name in (*FAMILIES, "Others"):
        out += [f"## {name}", ""]
        for (env, steps, count), groups in tables.items():
            if family(env) != name:
                continue
            words = f"{steps:,}".replace(",", " ")
            out += [
                f"### {env}, {words} steps, {count} environments",
                "",
                f"Versions: {versions(groups)}.",
                "",
                *markdown([HEAD, *map(line, groups)]),
                "",
                "```console",
                *commands(groups),
                "```",
                "",
            ]
        if name in FAMILIES:
            out += ["Seeds that were run, the most of any settings:", ""]
            out += coverage(tables, FAMILIES[name])
    return "\n".join(out).rstrip() + "\n"


def main() -> None:
    """Write the page, or print the settings of a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", metavar="HASH", help="print a row's settings and stop")
    parser.add_argument("--store", type=Path, default=HERE / "results")
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    store = Store(args.store)
    if args.settings:
        found = [row for (key, _), row in store.rows().items() if key == args.settings]
        if not found:
            sys.exit(
                f"no row of {store.path} has settings {args.settings}; docs/results.md has all"
            )
        print(json.dumps(found[0]["settings"], indent=1))
        return
    args.out.write_text(page(store))
    print(args.out)


if __name__ == "__main__":
    main()
