"""Checkpoints: a folder of arrays (safetensors), state (JSON) and a manifest of sizes and hashes.
No pickle.

Written under a temporary name, synced and renamed, so that a folder under its final name is whole.
Arrays go by the path of the leaf in the state; nothing in a checkpoint names code.
"""

from __future__ import annotations

import hashlib
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

FORMAT = 1
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


def save(folder: Path, tree: Any, state: dict[str, Any]) -> Path:
    """Write a checkpoint under `folder`, whole or not at all; an existing folder of that name is
    kept as it is.

    Raises `EnvironmentFault` where the disk refuses; nothing is then left under the final name.
    """
    if folder.exists():
        return folder
    temporary = folder.parent / f".tmp-{folder.name}-{os.getpid()}"
    arrays = {k: np.asarray(v, order="C") for k, v in tree_to_arrays(tree).items()}
    members = {
        "arrays.safetensors": save_arrays(arrays),
        "state.json": json.dumps(state, indent=1, sort_keys=True).encode(),
    }
    try:
        temporary.mkdir(parents=True)
        manifest = {
            "format": FORMAT,
            "files": {name: _write(temporary / name, data) for name, data in members.items()},
        }
        _write(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        _sync(temporary)
        temporary.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise EnvironmentFault(
            f"checkpoint {folder.name} could not be written: {error.strerror or error}"
        ) from error
    return folder


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and state of a checkpoint, checked against its manifest. Raises `DamagedCheckpoint`
    naming the file."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        files = manifest["files"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedCheckpoint(f"{folder / 'manifest.json'} cannot be read: {error}") from error
    if manifest.get("format") != FORMAT:
        raise DamagedCheckpoint(
            f"{folder} has format {manifest.get('format')!r}; this version reads {FORMAT}"
        )
    data = {name: _checked(folder / name, files.get(name)) for name in MEMBERS}
    return load_arrays(data["arrays.safetensors"]), json.loads(data["state.json"])


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
    damaged: list[str] = []
    for candidate in sorted((p for p in folder.iterdir() if p.name.isdigit()), reverse=True):
        try:
            read(candidate)
        except DamagedCheckpoint as error:
            damaged.append(str(error))
        else:
            return candidate, damaged
    raise EnvironmentFault("; ".join([f"{run} has no whole checkpoint", *damaged]))
