"""`surefoot watch RUN`: a window where there is a display, else a video or a strip of frames; it
says which."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.cli.flags import parse
from surefoot.envs import gymnasium_maker, split

STRIP_FRAMES = 12


@dataclass(frozen=True)
class Flags:
    """See a run act at its newest checkpoint."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    episodes: int = 1
    """Episodes to show."""
    seed: int = 0
    """Seed of the environment."""
    stochastic: bool = False
    """Sample actions instead of taking the mode."""
    best: bool = False
    """Take the policy of the best mean return over 100 training episodes instead of the newest."""
    video: bool = False
    """Write a video even where there is a display."""
    max_steps: int = 1000
    """Steps after which an episode is cut short for the recording."""


def has_display() -> bool:
    """Whether a window can be opened."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def offscreen_backend() -> str | None:
    """`egl` or `osmesa`, whichever library is there for MuJoCo to draw with; None where neither
    is."""
    from ctypes.util import find_library

    asked = os.environ.get("MUJOCO_GL")
    if asked:
        return asked
    for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if find_library(library):
            return name
    return None


def run(args: Sequence[str]) -> int:
    """Load the run, make the Gymnasium environment of the same id, and show it."""
    flags = parse(Flags, args, prog="surefoot watch")
    for name in ("episodes", "max_steps"):
        value = getattr(flags, name)
        if value < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {value}; allowed: a whole number of at least 1")
    window = has_display() and not flags.video
    backend = None if window else offscreen_backend()
    if not window:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        if backend:
            os.environ["MUJOCO_GL"] = backend
    from surefoot.agent import Agent

    agent = Agent.load(flags.run, best=flags.best)
    env_id = drawable(agent.config.env)
    env = open_env(env_id, window, backend)
    if window:
        print(f"window    {env_id}, {flags.episodes} episodes of update {agent.update}")
        show(agent, env, flags, lambda: None)
        return 0
    frames: list[np.ndarray] = []
    show(agent, env, flags, lambda: frames.append(np.asarray(env.render())))
    fps = int((env.metadata or {}).get("render_fps", 30) or 30)
    folder = Path(flags.run) / "video"
    folder.mkdir(exist_ok=True)
    print(
        record(frames, folder, f"update-{agent.update:06d}", fps)
        + f" (no display; drawn off-screen{f' with {backend}' if backend else ''})"
    )
    return 0


def drawable(env: str) -> str:
    """The Gymnasium id that looks like an environment. Raises `UsageError` where there is none."""
    suite, tail = split(env)
    if suite == "probe":
        raise UsageError(f"{env} has nothing to look at; watch shows Gymnasium environments")
    return tail


def open_env(env_id: str, window: bool, backend: str | None) -> Any:
    """The environment, ready to be drawn. Raises `EnvironmentFault` with what to install where it
    cannot be."""
    make = gymnasium_maker(env_id, render_mode="human" if window else "rgb_array")
    try:
        env = make()
        env.reset(seed=0)
        if not window:
            env.render()
    except Exception as error:
        raise EnvironmentFault(f"{env_id} cannot be drawn here: {cure(error, backend)}") from error
    return env


def cure(error: Exception, backend: str | None) -> str:
    """What to do about a renderer that does not start."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if "pygame" in text:
        return 'pygame is not installed. Run: pip install "surefoot[plots]"'
    if backend is None:
        return (
            f"{text}. MuJoCo needs EGL or OSMesa off-screen; "
            "on Debian run: apt-get install libegl1 libgl1-mesa-dri"
        )
    return text


def show(agent: Any, env: Any, flags: Flags, draw: Any) -> None:
    """Play episodes, drawing every step, and print each return."""
    door = agent_door(env, agent)
    for episode in range(flags.episodes):
        obs, _ = env.reset(seed=flags.seed + episode)
        total, ended, steps = 0.0, False, 0
        while not ended and steps < flags.max_steps:
            draw()
            action = door(agent.predict(obs, deterministic=not flags.stochastic)[0])
            obs, reward, terminated, truncated, _ = env.step(action)
            total, ended, steps = total + float(reward), terminated or truncated, steps + 1
        draw()
        print(
            f"episode   {episode + 1}: return {total:.1f} in {steps} steps"
            + ("" if ended else " (cut short)")
        )
    env.close()


def agent_door(env: Any, agent: Any) -> Any:
    """Actions of `predict` in the units of the environment that is drawn: device runs act in [-1,
    1]."""
    from surefoot.envs.spaces import ActionDoor

    if agent.spec.on_device:
        door = ActionDoor(env.action_space, agent.config.env)
        return lambda action: door(np.asarray(action)[None])[0]
    return lambda action: action


def record(frames: list[np.ndarray], folder: Path, name: str, fps: int) -> str:
    """Write an mp4 where an encoder is installed, else a strip of frames as a PNG; says which."""
    if importlib.util.find_spec("imageio_ffmpeg"):
        import imageio.v2 as imageio

        path = folder / f"{name}.mp4"
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", RuntimeWarning
            )  # the encoder is a process started beside jax's threads
            imageio.mimwrite(path, frames, fps=fps, macro_block_size=1)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return f"video     {path}: {len(frames)} frames"
    path = folder / f"{name}.png"
    picked = [
        frames[i]
        for i in np.linspace(0, len(frames) - 1, min(STRIP_FRAMES, len(frames))).astype(int)
    ]
    write_png(path, np.concatenate([p[::2, ::2] for p in picked], axis=1))
    return (
        f"frames    {path}: {len(picked)} of {len(frames)} frames; "
        'for a video: pip install "surefoot[plots]"'
    )


def write_png(path: Path, image: np.ndarray) -> None:
    """An RGB image [H, W, 3] of bytes as a PNG, with the standard library alone."""
    import struct
    import zlib

    image = np.ascontiguousarray(image[..., :3], np.uint8)
    height, width = image.shape[:2]
    rows = np.concatenate(
        [np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1
    ).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 6))
        + chunk(b"IEND", b"")
    )
