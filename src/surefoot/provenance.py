"""What a run depends on: settings, versions, cores, code state; `config.json` says it."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from surefoot.config import Config, to_json


def write_config(folder: Path, config: Config[Any, Any], **extra: Any) -> None:
    """Write `config.json`: settings, versions, code state and core count."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"settings": to_json(config), **environment(), **extra}, indent=1)
    (folder / "config.json").write_text(text + "\n")


def environment() -> dict[str, Any]:
    """Versions, cores and code state that a run depends on."""
    packages = (
        "surefoot",
        "jax",
        "jaxlib",
        "equinox",
        "optax",
        "numpy",
        "gymnasium",
        "mujoco",
        "envpool",
        "gymnax",
        "box2d",
    )
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "versions": versions,
        "cores": cores,
        "machine": platform.machine(),
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
