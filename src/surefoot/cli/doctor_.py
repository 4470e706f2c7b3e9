"""`surefoot doctor`: what is installed, what is missing, and the line that installs it."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

from surefoot.checks import UsageError
from surefoot.envs import EXTRAS, installed

PARTS = {
    "classic": ("gymnasium", None),
    "mujoco": ("mujoco", "mujoco"),
    "box2d": ("Box2D", "box2d"),
    "envpool": ("envpool", "envpool"),
    "gymnax": ("gymnax", "gymnax"),
    "minigrid": ("minigrid", "minigrid"),
    "plots": ("matplotlib", "plots"),
}
"""Part -> (module that brings it, extra that installs it)."""


def version(package: str) -> str | None:
    """Installed version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def release(text: str) -> tuple[int, ...]:
    """`(0, 10, 2)` of a version."""
    return tuple(int(p) for p in text.split(".")[:3] if p.isdigit())


def gymnax_works() -> str:
    """What stops gymnax from being imported, or nothing."""
    try:
        import gymnax  # noqa: F401
    except Exception as error:
        return f'gymnax cannot be imported ({error}). Run: pip install "surefoot[gymnax]"'
    return ""


def notes() -> list[str]:
    """Pairs of versions that do not do what one would think."""
    out: list[str] = []
    gymnax = version("gymnax")
    if gymnax:
        problem = gymnax_works()
        if problem:
            out.append(problem)
        elif release(gymnax) < (1, 0):
            out.append(
                f"gymnax {gymnax} has one flag for ends and time limits: "
                "the limits are counted here instead"
            )
    jax = version("jax") or "0"
    if not (0, 10) <= release(jax)[:2] < (0, 13):
        out.append(f"jax {jax} is outside what surefoot is tested with, >= 0.10 and < 0.13")
    if platform.machine() == "x86_64" and platform.system() == "Darwin":
        out.append("Intel Macs have no jax since 0.4.38 and are not supported")
    return out


def renderer() -> str:
    """How `watch` would draw: a window, or which off-screen renderer."""
    from surefoot.cli.watch_ import has_display, offscreen_backend

    return (
        "window"
        if has_display()
        else f"off-screen ({offscreen_backend() or 'classic control only'})"
    )


def examine() -> dict[str, Any]:
    """Everything doctor knows."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ("jax", "gymnasium", "mujoco", "envpool", "gymnax", "numpy", "equinox", "optax")
    parts = {}
    for part, (module, extra) in PARTS.items():
        parts[part] = "ok" if installed(module) else f'missing -> pip install "surefoot[{extra}]"'
    return {
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "cores": cores,
        "versions": {p: version(p) for p in packages},
        "parts": parts,
        "render": renderer(),
        "notes": notes(),
    }


def run(args: Sequence[str]) -> int:
    """Print what `examine` finds."""
    if any(a in ("-h", "--help") for a in args):
        print(
            "usage: surefoot doctor [--json]\n\n"
            "what is installed, what is missing, and the line that installs it"
        )
        return 0
    if extra := [a for a in args if a != "--json"]:
        raise UsageError(f"unknown flag {extra[0]}; surefoot doctor --help lists the flags")
    assert set(EXTRAS.values()) <= {e for _, e in PARTS.values() if e}
    found = examine()
    if "--json" in args:
        print(json.dumps(found))
        return 0
    shown = "   ".join(
        f"{k} {v or 'missing'}"
        for k, v in found["versions"].items()
        if v or k in ("jax", "gymnasium")
    )
    print(f"python {found['python']}   {shown}")
    print(f"device    {found['backend']}, {found['cores']} cores")
    print("parts     " + " · ".join(f"{k} {v}" for k, v in found["parts"].items()))
    print(f"render    {found['render']}")
    for note in found["notes"] or ["nothing to say"]:
        print(f"notes     {note}")
    return 0
