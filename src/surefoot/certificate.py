"""The certificate of a run: a line an update in `certificate.jsonl`, each with the hash of the line
before, and the arrays of up to 32 updates in `certificate/`.

`verifier.py`, a copy of which lies in the run folder, judges it; the float64 values written here
are that file's too, so that none of them comes from code a method uses. The format, and what it
proves, is in docs/certificate.md.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save as save_arrays

from surefoot import verifier
from surefoot.checkpoint import tree_to_arrays
from surefoot.checks import EnvironmentFault
from surefoot.config import Config, to_json
from surefoot.types import bound_of
from surefoot.verifier import (
    CERTIFICATE,
    COLUMNS,
    FORMAT,
    Arrays,
    Kept,
    canonical,
    fingerprint,
)


def promised(config: Config[Any, Any]) -> tuple[str, float | None]:
    """What the method of a run promises, and the bound; None where it promises nothing.
    `config.json` says both."""
    return config.method.promise, bound_of(config.method)


def joined(batch: Arrays, old: Arrays, new: Arrays) -> dict[str, np.ndarray]:
    """The arrays of an update under the names they are kept by: `batch/obs`,
    `old/body/layers/0/weight`, ..."""
    parts = {"batch": batch, "old": old, "new": new}
    return {f"{k}/{n}": np.asarray(x, order="C") for k, xs in parts.items() for n, x in xs.items()}


def evidence(
    config: Config[Any, Any], old: Any, new: Any, rollout: Any, report: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays of an update's batch: the rollout that `learn` was given and, where the promise is
    about a projection, that of every row of it, [T * N, ...], under `projected/`.

    `old` and `new` are the policies before and after, `report` what `learn` reports.
    """
    arrays = tree_to_arrays(rollout)
    if config.method.promise == "projection":
        told = {k: x for k, x in report.items() if isinstance(x, float)}
        near = _projected(config.method, old, new, rollout.obs, told)
        arrays |= {f"projected/{name}": x for name, x in tree_to_arrays(near).items()}
    return arrays


@functools.partial(jax.jit, static_argnums=0)
def _projected(method: Any, old: Any, new: Any, obs: Any, info: Mapping[str, Any]) -> Any:
    flat = obs[:-1].reshape(-1, *obs.shape[2:])
    return method.witness(new(flat), old(flat), info)


def attest(
    config: Config[Any, Any],
    update: int,
    actors: tuple[Arrays, Arrays],
    batch: Arrays | None,
    report: Mapping[str, Any],
    check: bool,
) -> dict[str, Any]:
    """The line of an update, all but `previous`.

    `actors` are the arrays of the policy before and after, `batch` the `evidence` (None where the
    rollout has stayed on the device), `report` what `learn` reports. With `check` the float64
    value is computed, which needs the batch, and a policy that the verifier knows: not one with
    full covariances.
    """
    promise, bound = promised(config)
    exact = None
    if check and batch is not None and not config.networks.full_covariance:
        exact = verifier.measured(promise, joined(batch, *actors), to_json(config))
    return {
        "update": update,
        "promise": promise,
        "bound": bound,
        "float32": _number(report[COLUMNS.get(promise, "kl_mean")]),
        "float64": None if exact is None else _number(exact),
        "batch": None if batch is None else fingerprint(batch),
        "old": fingerprint(actors[0]),
        "new": fingerprint(actors[1]),
    }


def _number(x: Any) -> float | str:
    """A float; as text where it is not finite, which JSON has no word for and no verifier
    accepts."""
    return float(x) if math.isfinite(x) else str(float(x))


class Certifier:
    """Writes the certificate of a run whose folder holds `config.json`, with `promise` and `bound`
    in it as `promised` has them.

    One update in `config.certify_every` is checked in float64 at once, and each whose float32 value
    is the largest so far. Call `first` or `restore`, then `record` after every update; around
    a checkpoint `state` before it is written and `sweep` after. On the device (`on_device`) batches
    are fetched and hashed for the checked updates only.

    Everything but `sweep` depends on the lines written so far and on nothing else, so that a run
    that was interrupted and resumed leaves the same bytes. Every method raises `EnvironmentFault`
    where the disk refuses.
    """

    def __init__(self, folder: Path, config: Config[Any, Any], on_device: bool = False) -> None:
        self.config = config
        self.every = config.certify_every
        self._all_batches = not on_device
        self._path, self._kept_in = folder / CERTIFICATE, folder / "certificate"
        self._begin()

    def _begin(self) -> None:
        self._kept = Kept(self.every, self.config.updates)
        self._largest = -1.0
        self._last = ""
        self._unsynced: list[Path] = []
        self._needed: set[int] = set()
        """Updates whose arrays the checkpoint before the next one may have to come back to."""

    def first(self, policy: Any) -> None:
        """Begin a certificate: the first line, and the copy of the verifier."""
        with _disk():
            folder = self._path.parent
            self._kept_in.mkdir()
            shutil.copyfile(verifier.__file__, folder / "verifier.py")
            config = (folder / "config.json").read_bytes()
            self._file = self._path.open("xb")
            self._write(
                {
                    "format": FORMAT,
                    "config": hashlib.sha256(config).hexdigest(),
                    "initial": fingerprint(tree_to_arrays(policy)),
                    "every": self.every,
                    "batches": "every" if self._all_batches else "checked",
                }
            )

    def record(
        self,
        update: int,
        old: Any,
        new: Any,
        rollout: Callable[[], Any] | None,
        report: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write the line of an update and return it.

        `old` and `new` are the policies before and after, `rollout` gives the `Rollout` that
        `learn` was given (None where it cannot be had), `report` is what `learn` said.
        """
        actors = tree_to_arrays(old), tree_to_arrays(new)
        value = float(report[COLUMNS.get(self.config.method.promise, "kl_mean")])
        check = rollout is not None and (update % self.every == 0 or value > self._largest)
        batch = None
        if rollout is not None and (check or self._all_batches):
            batch = evidence(self.config, old, new, rollout(), report)
        line = attest(self.config, update, actors, batch, report, check)
        with _disk():
            if batch is not None and self._notice(line):
                self._keep(update, joined(batch, *actors))
            self._write(line | {"previous": self._last})
        return line

    def _notice(self, line: Mapping[str, Any]) -> bool:
        """Whether the arrays of a line are kept; what later lines depend on moves."""
        small, exact = line["float32"], line["float64"]
        if isinstance(small, float):
            self._largest = max(self._largest, small)
        if exact is None:
            return False
        return self._kept.add(line["update"], exact if isinstance(exact, float) else math.inf)

    def _keep(self, update: int, arrays: dict[str, np.ndarray]) -> None:
        path = self._kept_in / f"{update:06d}.safetensors"
        temporary = self._kept_in / f".tmp-{path.name}"
        temporary.write_bytes(save_arrays(arrays))
        temporary.rename(path)
        self._unsynced.append(path)

    def _write(self, line: dict[str, Any]) -> None:
        data = canonical(line)
        self._file.write(data + b"\n")
        self._file.flush()
        self._last = hashlib.sha256(data).hexdigest()

    # Checkpoints.

    def state(self) -> str:
        """Make everything written so far durable; the hash of the last line, which a checkpoint
        keeps."""
        with _disk():
            os.fsync(self._file.fileno())
            for path in [p for p in self._unsynced if p.exists()] + [self._kept_in]:
                _sync(path)
        self._unsynced = []
        return self._last

    def sweep(self, last: bool = False) -> None:
        """Remove arrays that are not needed from here on, after a checkpoint is in its place.

        Those that the checkpoint before it needs stay until the next, lest this one be damaged; not
        so after the `last` of a run.
        """
        now = set(self._kept.updates)
        needed = now if last else now | self._needed
        with _disk():
            for path in self._kept_in.glob("*.safetensors"):
                if int(path.stem) not in needed:
                    path.unlink()
        self._needed = now

    def restore(self, update: int, state: str) -> None:
        """Go back to where `state()` was called after an update: what came later is cut off.

        Raises `EnvironmentFault` where the file is shorter, or is not the one of the checkpoint.
        """
        self._begin()
        with _disk():
            rows = self._path.read_bytes().split(b"\n")[:-1]
        if len(rows) <= update:
            raise EnvironmentFault(
                f"{self._path} has {len(rows)} lines, the checkpoint was written after {update + 1}"
            )
        for number, row in enumerate(rows[: update + 1], 1):
            try:
                line = json.loads(row)
                whole = number == 1 or line["previous"] == self._last
                if whole and number > 1:
                    self._notice(line)
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                raise EnvironmentFault(f"{self._path} was edited at line {number} or before it")
            self._last = hashlib.sha256(row).hexdigest()
        if self._last != state:
            raise EnvironmentFault(f"{self._path} was edited at line {update + 1}")
        self._cut(update, sum(len(row) + 1 for row in rows[: update + 1]))

    def _cut(self, update: int, size: int) -> None:
        self._needed = set(self._kept.updates)
        with _disk():
            os.truncate(self._path, size)
            self._file = self._path.open("ab")
            for path in self._kept_in.iterdir():
                if path.name.startswith(".tmp-") or int(path.stem) > update:
                    path.unlink()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"the certificate could not be written: {error.strerror or error}"
        ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
