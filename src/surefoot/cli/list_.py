"""`surefoot list methods|envs|presets|runs`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surefoot.checks import UsageError
from surefoot.envs import SUITES, installed, missing, nearest, split
from surefoot.methods import METHODS
from surefoot.sinks import last_update

USAGE = """usage: surefoot list methods|envs|presets|runs [--json] [--run-dir DIR]

  methods  what can be trained with
  envs     environments of every suite that is installed
  presets  settings that are chosen by method and environment
  runs     runs under a folder (runs/ unless --run-dir says otherwise)"""


def run(args: Sequence[str]) -> int:
    """Print a table, or JSON."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    what, rest = args[0], list(args[1:])
    kinds = {"methods": methods, "envs": environments, "presets": presets, "runs": runs}
    if what not in kinds:
        raise UsageError(
            f"nothing to list is called {what!r}{nearest(what, kinds)}; "
            f"there are {', '.join(kinds)}"
        )
    as_json = "--json" in rest
    rest = [a for a in rest if a != "--json"]
    folder = Path("runs")
    if rest[:1] == ["--run-dir"] and len(rest) == 2:
        folder, rest = Path(rest[1]), []
    if rest:
        raise UsageError(f"unknown flag {rest[0]}; surefoot list --help lists the flags")
    rows = kinds[what](folder) if what == "runs" else kinds[what]()
    if as_json:
        print(json.dumps(rows))
        return 0
    table(rows)
    return 0


def table(rows: list[dict[str, Any]]) -> None:
    """Columns as wide as they need to be."""
    if not rows:
        print("nothing here")
        return
    keys = list(rows[0])
    cells = [[str(row[k]) for k in keys] for row in rows]
    widths = [max(len(k), *(len(c[i]) for c in cells)) for i, k in enumerate(keys)]
    for line in [keys, *cells]:
        print("  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip())


def methods() -> list[dict[str, Any]]:
    """Every method and its line."""
    return [{"method": name, "summary": entry.summary} for name, entry in METHODS.items()]


def environments() -> list[dict[str, Any]]:
    """Ids of every suite, with what is missing said in its place."""
    import gymnasium

    import surefoot.envs.textbook  # noqa: F401 (registers its environments)
    from surefoot.envs import _check_extra  # pyright: ignore[reportPrivateUsage] (one package)
    from surefoot.envs.classic import JAX_ENVS
    from surefoot.envs.probes import PROBES

    rows: list[dict[str, Any]] = []
    for env_id, spec in sorted(gymnasium.registry.items()):
        entry = str(spec.entry_point)
        if "phys2d" in env_id or "tabular" in env_id or env_id.startswith("GymV"):
            continue
        try:
            _check_extra(env_id, entry)
            note = ""
        except Exception as error:
            note = str(error).partition("Run: ")[2]
        rows.append({"env": env_id, "suite": SUITES[""], "missing": note})
    rows += [{"env": f"jax:{name}", "suite": SUITES["jax"], "missing": ""} for name in JAX_ENVS]
    rows += [{"env": f"probe:{name}", "suite": SUITES["probe"], "missing": ""} for name in PROBES]
    return rows + _extra_suites()


def _extra_suites() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for suite in ("gymnax", "envpool"):
        if not installed(suite):
            line = str(missing(suite, suite)).partition("Run: ")[2]
            rows.append({"env": f"{suite}:...", "suite": SUITES[suite], "missing": line})
            continue
        if suite == "gymnax":
            import gymnax

            names = list(gymnax.registered_envs)
        else:
            import envpool

            names = sorted(envpool.list_all_envs())
        rows += [
            {"env": f"{suite}:{name}", "suite": SUITES[suite], "missing": ""} for name in names
        ]
    return rows


def presets() -> list[dict[str, Any]]:
    """Every preset, what it is for and where it is from."""
    from surefoot.presets import all_presets

    return [
        {
            "preset": p.name,
            "methods": " ".join(p.methods),
            "envs": " ".join(p.envs[:3]) + (" ..." if len(p.envs) > 3 else "") or "by name",
            "source": p.source,
        }
        for p in all_presets()
    ]


def runs(folder: Path) -> list[dict[str, Any]]:
    """Every run under a folder, newest last, with its last line of metrics."""
    rows: list[dict[str, Any]] = []
    names = {entry.record: name for name, entry in METHODS.items()}
    found = (
        sorted(folder.glob("**/config.json"), key=lambda p: p.stat().st_mtime)
        if folder.is_dir()
        else []
    )
    for path in found:
        last = last_update(path.parent)
        settings = json.loads(path.read_text()).get("settings", {})
        kind = settings.get("method", {}).get("type", "?")
        rows.append(
            {
                "run": str(path.parent),
                "method": names.get(kind, kind.lower()),
                "env": settings.get("env", "?"),
                "seed": settings.get("seed", "?"),
                "env_steps": last.get("env_steps", 0),
                "of": settings.get("steps", "?"),
                "return": None
                if last.get("episode_return") is None
                else round(last["episode_return"], 1),
                "suite": split(str(settings.get("env", "")))[0] or "gymnasium",
            }
        )
    return rows
