"""What a run depends on: settings, versions, cores, code; `config.json` says it, and `resume` asks
whether it still holds."""

from __future__ import annotations

import hashlib
import importlib.metadata as metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from surefoot.config import Config, to_json


def write_config(folder: Path, config: Config[Any, Any], **extra: Any) -> None:
    """Write `config.json`: settings, the steps to reach (`target`), versions, code and cores."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {"settings": to_json(config), "target": config.steps, **environment(), **extra}
    write_json(folder / "config.json", described)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a file of JSON, whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with temporary.open("w") as f:
            f.write(json.dumps(data, indent=1) + "\n")
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def visible_cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads() -> int:
    """Threads that XLA splits large sums over: a run's bits depend on it. `NPROC` overrules the
    cores that are visible."""
    asked = os.environ.get("NPROC", "")
    return int(asked) if asked.isdigit() and int(asked) else visible_cores()


def source_hash() -> str:
    """Sixteen hex digits that differ between any two states of this package's source."""
    root = Path(__file__).resolve().parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def differences(recorded: dict[str, Any]) -> list[str]:
    """What a run depended on and is otherwise now, each in a few words; `recorded` is its
    config.json."""
    now = environment()
    then, here = recorded.get("versions", {}), now["versions"]
    out = [
        f"{name} {then.get(name, 'was not installed')} then, {here.get(name, 'not installed')} now"
        for name in sorted(then.keys() | here.keys())
        if then.get(name) != here.get(name)
    ]
    if recorded.get("code") != now["code"]:
        out.append(f"surefoot's code {recorded.get('code')} then, {now['code']} now")
    if recorded.get("machine") != now["machine"]:
        out.append(f"a {recorded.get('machine')} processor then, {now['machine']} now")
    for key, word in (("threads", "thread"), ("cores", "core")):
        if recorded.get(key) != now[key]:
            plural = "" if recorded.get(key) == 1 else "s"
            out.append(f"{recorded.get(key)} {word}{plural} then, {now[key]} now")
    return out


def environment() -> dict[str, Any]:
    """Versions, cores and code that a run depends on."""
    packages = (
        "surefoot",
        "jax",
        "jaxlib",
        "equinox",
        "optax",
        "numpy",
        "scipy",
        "gymnasium",
        "mujoco",
        "envpool",
        "gymnax",
        "box2d",
        "minigrid",
    )
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "cores": visible_cores(),
        "threads": threads(),
        "machine": platform.machine(),
        "code": source_hash(),
        "git": code_state(),
    }


def code_state() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from and whether it was changed; None for an
    installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ("git", "-C", str(root), *args),
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return (
        None
        if commit is None
        else {"commit": commit, "changed": bool(git("status", "--porcelain", "--", "src"))}
    )
