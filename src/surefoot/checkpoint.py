"""Checkpoints: a folder of arrays (safetensors), state (JSON) and a manifest of sizes and hashes.
No pickle.

Written under a temporary name, synced and renamed, so that a folder under its final name is whole;
old ones are removed only after that. Validity is a matter of content: a folder is a checkpoint if
it holds what its manifest says. Arrays go by the path of the leaf in the state; nothing in a
checkpoint names code.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from surefoot.checks import EnvironmentFault, UsageError

FORMAT = 2
TEMPORARY, REMOVED = ".tmp-", ".del-"
MEMBERS = ("arrays.safetensors", "state.json")


class DamagedCheckpoint(EnvironmentFault):
    """A checkpoint does not match its manifest; the message names the file."""


def _path_name(path: Any) -> str:
    """`policy/body/layers/0/weight` for the path of a leaf."""
    return "/".join(str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def tree_to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Every leaf by its path, as NumPy arrays; random keys as their key data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        _path_name(p): np.asarray(jax.random.key_data(x) if _is_key(x) else x) for p, x in leaves
    }


def tree_from_arrays(template: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    """The tree of `template`'s structure with leaves from `arrays`.

    Raises `DamagedCheckpoint` where a leaf is missing or has another shape or dtype.
    """

    def fill(path: Any, leaf: Any) -> Any:
        name = _path_name(path)
        like = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        got = arrays.get(name)
        if got is None:
            raise DamagedCheckpoint(f"{where} has no array {name}")
        if got.shape != like.shape or got.dtype != like.dtype:
            raise DamagedCheckpoint(
                f"{where}: array {name} is {got.dtype}{list(got.shape)}, "
                f"the configuration asks for {like.dtype}{list(like.shape)}"
            )
        return (
            jax.random.wrap_key_data(jnp.asarray(got), impl=jax.random.key_impl(leaf))
            if _is_key(leaf)
            else got
        )

    return jax.tree_util.tree_map_with_path(fill, template)


def _write(path: Path, data: bytes) -> dict[str, Any]:
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of arrays, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        x = np.asarray(arrays[name], order="C")
        total.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
        total.update(x.tobytes())
    return total.hexdigest()


def save(folder: Path, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> Path:
    """Write a checkpoint under `folder`, whole or not at all.

    A whole checkpoint of that name is kept as it is (it has the same bits); a damaged one is moved
    aside to `.bad-<name>`, never removed. Raises `EnvironmentFault` where the disk refuses; nothing
    is then left under the final name.
    """
    temporary = folder.parent / f"{TEMPORARY}{folder.name}-{os.getpid()}"
    try:
        if folder.exists():
            if whole(folder):
                return folder
            _aside(folder)
        _fill(temporary, folder.name, arrays, state)
        temporary.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise EnvironmentFault(
            f"checkpoint {folder.name} could not be written: {error.strerror or error}; "
            "the ones before it are kept"
        ) from error
    return folder


def _fill(folder: Path, name: str, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
    """Write the members, then the manifest, and sync them all."""
    ready = {k: np.asarray(v, order="C") for k, v in arrays.items()}
    members = {
        "arrays.safetensors": save_arrays(ready),
        "state.json": json.dumps(state, indent=1, sort_keys=True, allow_nan=False).encode(),
    }
    folder.mkdir(parents=True)
    files = {member: _write(folder / member, data) for member, data in members.items()}
    manifest = {"format": FORMAT, "name": name, "files": files}
    _write(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    _sync(folder)


def _aside(folder: Path) -> None:
    """Move a damaged checkpoint to the first free `.bad-` name."""
    for n in itertools.count():
        target = folder.parent / f".bad-{folder.name}{f'-{n}' if n else ''}"
        if not target.exists():
            folder.rename(target)
            return


def whole(folder: Path) -> bool:
    """Whether a checkpoint matches its manifest."""
    try:
        read(folder)
    except DamagedCheckpoint:
        return False
    return True


def numbered(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by number, whole or not."""
    found = (p for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else ()
    return sorted(found, key=lambda p: int(p.name))


def thin(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and number 0, from which all can be repeated.

    Called after a new one is whole. What cannot be removed is left: a full disk is no reason to
    stop.
    """
    for path in numbered(folder)[:-keep]:
        if int(path.name):
            remove(path)


def remove(folder: Path) -> None:
    """Remove a checkpoint: renamed first, so that no half of one is ever under its final name."""
    gone = folder.parent / f"{REMOVED}{folder.name}"
    with contextlib.suppress(OSError):
        folder.rename(gone)
        shutil.rmtree(gone)


def sweep_litter(folder: Path) -> None:
    """Remove what a process killed while writing or removing left behind; only for the run's
    owner."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.startswith((TEMPORARY, REMOVED)):
            shutil.rmtree(path, ignore_errors=True)


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and state of a checkpoint, checked against its manifest. Raises `DamagedCheckpoint`
    naming the file."""
    files = _files(folder)
    data = {name: _checked(folder / name, files.get(name)) for name in MEMBERS}
    try:
        return load_arrays(data["arrays.safetensors"]), json.loads(data["state.json"])
    except Exception as error:  # whatever the reader of arrays raises: the file is not one of ours
        raise DamagedCheckpoint(f"{folder} cannot be read: {error}") from error


def arrays_hash(folder: Path) -> str:
    """SHA-256 of a checkpoint's file of arrays, as its manifest has it; the file is not read.
    Raises `DamagedCheckpoint`."""
    entry = _files(folder)["arrays.safetensors"]
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        raise DamagedCheckpoint(f"{folder / 'manifest.json'} has no hash of arrays.safetensors")
    return entry["sha256"]


def _files(folder: Path) -> dict[str, Any]:
    """The members that a manifest names, with size and hash."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        files = manifest["files"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedCheckpoint(f"{folder / 'manifest.json'} cannot be read: {error}") from error
    if manifest.get("format") != FORMAT:
        raise DamagedCheckpoint(
            f"{folder / 'manifest.json'} has format {manifest.get('format')!r}; "
            f"this version reads {FORMAT}"
        )
    if manifest.get("name") != folder.name:
        raise DamagedCheckpoint(
            f"{folder / 'manifest.json'} is of checkpoint {manifest.get('name')}, not {folder.name}"
        )
    if not isinstance(files, dict) or set(files) != set(MEMBERS):
        raise DamagedCheckpoint(f"{folder / 'manifest.json'} does not name {' and '.join(MEMBERS)}")
    return files


def _checked(path: Path, entry: Any) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(entry, dict) or len(data) != entry.get("size"):
        raise DamagedCheckpoint(f"{path} has {len(data)} bytes, its manifest says otherwise")
    if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise DamagedCheckpoint(f"{path} does not match the hash in its manifest")
    return data


def newest(run: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint of a run that is whole, and what is wrong with those passed over.

    Raises `UsageError` where there is no run, `EnvironmentFault` where no checkpoint of it is
    whole.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise UsageError(f"{run} is not a run: it has no folder checkpoints/")
    return newest_of(folder)


def newest_of(folder: Path) -> tuple[Path, list[str]]:
    """`newest` for the folder that holds the checkpoints themselves."""
    damaged: list[str] = []
    for candidate in reversed(numbered(folder)):
        try:
            read(candidate)
        except DamagedCheckpoint as error:
            damaged.append(str(error))
        else:
            return candidate, damaged
    raise EnvironmentFault("; ".join([f"{folder} holds no whole checkpoint", *damaged]))
