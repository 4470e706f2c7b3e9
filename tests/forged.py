"""Forged certificates: what a liar may do to the folder of a run, and how it comes out.

A forger works on a copy of an honest run. With `mend`, everything on disk that is a hash of
something changed is made to fit again: `previous` of every line, the hash of `config.json` and the
hash in every checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from surefoot.config import read_config, to_json
from surefoot.verifier import CERTIFICATE, Verifier, canonical, fingerprint, measured, part

EVERY = 2


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Forger:
    """The files of a run in memory; `update(n)` is the line of update n."""

    def __init__(self, run: Path, rng: np.random.Generator) -> None:
        self.run, self.rng = run, rng
        self.rows = [json.loads(row) for row in (run / CERTIFICATE).read_text().splitlines()]
        self.metrics = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
        self.config = json.loads((run / "config.json").read_text())
        self.kept = Verifier(run).verify().kept.updates
        self.saved = [int(p.name) for p in (run / "checkpoints").iterdir()]
        self.settings = to_json(read_config(run / "config.json"))

    @property
    def last(self) -> int:
        return len(self.rows) - 1

    def update(self, n: int) -> dict[str, Any]:
        return self.rows[n]

    def pick(self, fits: Callable[[int], bool]) -> int:
        """An update that fits, neither the first nor the last two."""
        return int(self.rng.choice([n for n in range(2, self.last - 1) if fits(n)]))

    def checked(self, n: int) -> bool:
        return self.rows[n]["float64"] is not None

    def arrays(self, n: int) -> Path:
        return self.run / "certificate" / f"{n:06d}.safetensors"

    def falsehood(self) -> str:
        return sha256(self.rng.bytes(8))

    def rename_after(self, n: int, shift: int) -> None:
        """Move arrays and checkpoints of updates after n to numbers lower by `shift`."""
        for path in sorted((self.run / "certificate").iterdir()):
            if int(path.stem) > n:
                path.rename(self.arrays(int(path.stem) - shift))
        for path in sorted((self.run / "checkpoints").iterdir()):
            if int(path.name) > n:
                path.rename(path.parent / f"{int(path.name) - shift:06d}")

    def write(self, mend: bool) -> None:
        """Write everything, the hashes made to fit if `mend`."""
        data = json.dumps(self.config).encode()
        if json.loads((self.run / "config.json").read_text()) != self.config:
            (self.run / "config.json").write_bytes(data)
        if mend:
            self.rows[0]["config"] = sha256((self.run / "config.json").read_bytes())
            for before, row in zip(self.rows, self.rows[1:], strict=False):
                row["previous"] = sha256(canonical(before))
            for path in (self.run / "checkpoints").iterdir():
                state = json.loads((path / "state.json").read_text())
                state["certificate"] = sha256(canonical(self.rows[min(int(path.name), self.last)]))
                (path / "state.json").write_text(json.dumps(state))
        lines = b"".join(canonical(row) + b"\n" for row in self.rows)
        (self.run / CERTIFICATE).write_bytes(lines)
        rows = "".join(json.dumps(row) + "\n" for row in self.metrics)
        (self.run / "metrics.jsonl").write_text(rows)


# Each takes a forger and changes something.


def value_kept(f: Forger) -> None:
    f.update(f.pick(lambda n: n in f.kept))["float64"] *= 0.995


def value_far(f: Forger) -> None:
    f.update(f.pick(lambda n: f.checked(n) and n not in f.kept))["float64"] *= 0.5


def value_near(f: Forger) -> None:
    f.update(f.pick(lambda n: f.checked(n) and n not in f.kept))["float64"] *= 0.995


def value_erased(f: Forger) -> None:
    f.update(f.pick(lambda n: n % EVERY == 0))["float64"] = None


def seen(f: Forger) -> None:
    f.update(f.pick(lambda n: not f.checked(n)))["float32"] *= 0.99


def seen_and_metrics(f: Forger) -> None:
    n = f.pick(lambda n: not f.checked(n))
    f.update(n)["float32"] *= 0.99
    f.metrics[n - 1]["kl_mean"] = f.update(n)["float32"]


def bound_line(f: Forger) -> None:
    f.update(f.pick(lambda n: True))["bound"] = 0.02


def bound_lines(f: Forger) -> None:
    for row in f.rows[1:]:
        row["bound"] = 0.02


def bound_config(f: Forger) -> None:
    f.config["settings"]["method"]["max_kl"] = f.config["bound"] = 0.02


def bound_everywhere(f: Forger) -> None:
    bound_lines(f)
    bound_config(f)


def bound_beside(f: Forger) -> None:
    bound_lines(f)
    f.config["bound"] = 0.02


def bound_lower(f: Forger) -> None:
    f.config["settings"]["method"]["max_kl"] = f.config["bound"] = 0.002
    for row in f.rows[1:]:
        row["bound"] = 0.002


def promise(f: Forger) -> None:
    for row in f.rows[1:]:
        row["promise"], row["bound"] = "none", None


def promise_everywhere(f: Forger) -> None:
    promise(f)
    f.config["promise"], f.config["bound"] = "none", None


def hash_batch_kept(f: Forger) -> None:
    f.update(f.pick(lambda n: n in f.kept))["batch"] = f.falsehood()


def hash_batch(f: Forger) -> None:
    f.update(f.pick(lambda n: n not in f.kept))["batch"] = f.falsehood()


def hash_actor(f: Forger) -> None:
    f.update(f.pick(lambda n: n not in f.kept))[f.rng.choice(["old", "new"])] = f.falsehood()


def hash_actors(f: Forger) -> None:
    n = f.pick(lambda n: n not in f.kept and n + 1 not in f.kept and n not in f.saved)
    f.update(n)["new"] = f.update(n + 1)["old"] = f.falsehood()


def hash_initial(f: Forger) -> None:
    f.rows[0]["initial"] = f.rows[1]["old"] = f.falsehood()


def order(f: Forger) -> None:
    n = f.pick(lambda n: True)
    f.rows[n], f.rows[n + 1] = f.rows[n + 1], f.rows[n]


def order_renumbered(f: Forger) -> None:
    order(f)
    for n, row in enumerate(f.rows[1:], 1):
        row["update"] = n


def order_of_values(f: Forger) -> None:
    a, b = (f.pick(lambda n: not f.checked(n) and n not in f.kept) for _ in range(2))
    x, y = f.update(a), f.update(b)
    for k in ("float32", "batch"):
        x[k], y[k] = y[k], x[k]
    f.metrics[a - 1]["kl_mean"], f.metrics[b - 1]["kl_mean"] = x["float32"], y["float32"]
    if a == b:
        value_near(f)


def missing(f: Forger) -> None:
    del f.rows[f.pick(lambda n: True)]


def missing_renumbered(f: Forger) -> None:
    missing(f)
    for n, row in enumerate(f.rows[1:], 1):
        row["update"] = n


def missing_last(f: Forger) -> None:
    del f.rows[-1]


def missing_bridged(f: Forger) -> None:
    n = f.pick(lambda n: n not in f.kept and n + 1 not in f.kept and n + 2 not in f.kept)
    f.update(n + 2)["old"] = f.update(n)["old"]
    del f.rows[n : n + 2]
    del f.metrics[n - 1 : n + 1]
    f.rename_after(n, 2)
    for k, row in enumerate(f.rows[1:], 1):
        row["update"] = k


def arrays_swapped(f: Forger) -> None:
    a, b = f.rng.choice(f.kept, 2, replace=False)
    other = f.run / "other"
    f.arrays(a).rename(other)
    f.arrays(b).rename(f.arrays(a))
    other.rename(f.arrays(b))


def arrays_swapped_hashes(f: Forger) -> None:
    a, b = f.rng.choice(f.kept, 2, replace=False)
    arrays_of = [load_file(f.arrays(n)) for n in (a, b)]
    for n, arrays in zip((b, a), arrays_of, strict=True):
        save_file(arrays, f.arrays(n))
        f.update(n).update({k: fingerprint(part(arrays, k + "/")) for k in ("batch", "old", "new")})


def actors_swapped(f: Forger) -> None:
    path = f.arrays(int(f.rng.choice(f.kept)))
    arrays = load_file(path)
    turn = {"old": "new", "new": "old", "batch": "batch"}
    save_file({turn[k.split("/")[0]] + k[k.index("/") :]: x for k, x in arrays.items()}, path)


def arrays_gone(f: Forger) -> None:
    f.arrays(int(f.rng.choice(f.kept))).unlink()


def arrays_changed(f: Forger) -> None:
    path = f.arrays(int(f.rng.choice(f.kept)))
    arrays = load_file(path)
    arrays["new/head/mean/weight"] = arrays["new/head/mean/weight"] * np.float32(0.9)
    save_file(arrays, path)


def _fit(f: Forger, n: int, arrays: dict[str, np.ndarray]) -> None:
    """Arrays, hashes, values and metrics of update n, all in agreement."""
    save_file(arrays, f.arrays(n))
    f.update(n).update({k: fingerprint(part(arrays, k + "/")) for k in ("batch", "old", "new")})
    f.update(n)["float64"] = measured("mean_kl", arrays, f.settings)
    f.update(n)["float32"] = f.metrics[n - 1]["kl_mean"] = float(np.float32(f.update(n)["float64"]))


def arrays_shrunk(f: Forger) -> None:
    n = f.pick(lambda n: n in f.kept and n + 1 not in f.kept and n not in f.saved)
    arrays = load_file(f.arrays(n))
    for k in part(arrays, "new/"):
        arrays[f"new/{k}"] = np.float32(0.5) * (arrays[f"new/{k}"] + arrays[f"old/{k}"])
    _fit(f, n, arrays)
    f.update(n + 1)["old"] = f.update(n)["new"]


def batch_of_another(f: Forger) -> None:
    n, other = f.rng.choice(f.kept, 2, replace=False)
    batch = {k: x for k, x in load_file(f.arrays(other)).items() if k.startswith("batch/")}
    _fit(f, int(n), load_file(f.arrays(n)) | batch)


PLAIN: dict[str, Callable[[Forger], None]] = {
    "float64 of kept arrays": value_kept,
    "float64 by a half": value_far,
    "float64 by 0.5 %": value_near,
    "float64 erased": value_erased,
    "float32": seen,
    "float32, metrics.jsonl too": seen_and_metrics,
    "bound of one line": bound_line,
    "bound of every line": bound_lines,
    "bound in config.json": bound_config,
    "bound everywhere": bound_everywhere,
    "promise of every line": promise,
    "hash of a kept batch": hash_batch_kept,
    "hash of a batch": hash_batch,
    "hash of an actor": hash_actor,
    "hash of an actor, in both lines": hash_actors,
    "hash of the initial actor": hash_initial,
    "lines exchanged": order,
    "lines exchanged, renumbered": order_renumbered,
    "values exchanged between lines": order_of_values,
    "line missing": missing,
    "line missing, renumbered": missing_renumbered,
    "last line missing": missing_last,
    "files exchanged": arrays_swapped,
    "old and new exchanged": actors_swapped,
    "arrays changed": arrays_changed,
}
"""What is done without making the chain fit again: all of it comes out offline."""

MENDED: dict[str, tuple[Callable[[Forger], None], bool]] = {
    "float64 of kept arrays": (value_kept, False),
    "float64 by a half": (value_far, False),
    "float64 by 0.5 %": (value_near, True),
    "float64 erased": (value_erased, False),
    "float32": (seen, False),
    "float32, metrics.jsonl too": (seen_and_metrics, True),
    "bound of one line": (bound_line, False),
    "bound of every line and of config.json": (bound_beside, False),
    "bound in config.json": (bound_config, False),
    "bound everywhere": (bound_everywhere, True),
    "bound everywhere, lower": (bound_lower, False),
    "promise everywhere": (promise_everywhere, False),
    "hash of a kept batch": (hash_batch_kept, False),
    "hash of a batch": (hash_batch, True),
    "hash of an actor": (hash_actor, False),
    "hash of an actor, in both lines": (hash_actors, True),
    "hash of the initial actor": (hash_initial, False),
    "lines exchanged, renumbered": (order_renumbered, False),
    "values exchanged between lines": (order_of_values, True),
    "line missing, renumbered": (missing_renumbered, False),
    "lines missing, everything renamed": (missing_bridged, False),
    "files exchanged, hashes too": (arrays_swapped_hashes, False),
    "a kept file gone": (arrays_gone, False),
    "new actor halfway, everything fits": (arrays_shrunk, True),
    "batch of another update, everything fits": (batch_of_another, True),
}
"""The same with every hash on disk made to fit, and whether only `--replay` finds it."""


def forge(honest: Path, folder: Path, how: Callable[[Forger], None], mend: bool, seed: int) -> Path:
    """A forged copy of an honest run."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(honest, folder)
    forger = Forger(folder, np.random.default_rng(seed))
    how(forger)
    forger.write(mend)
    return folder
