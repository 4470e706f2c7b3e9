"""Checks the certificate of a run with nothing but Python and NumPy: `python verifier.py RUN`. It
shares no code with what it judges; what it proves, and how, is in docs/certificate.md."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

CERTIFICATE, FORMAT, KEEP, BLOCK, WIDEST = "certificate.jsonl", 1, 32, 512, 65536
AGREE, FLOOR, ROUNDING, GRAIN = 1e-9, 1e-12, 1e-2, 1e-6  # relative, absolute: float64; float32
UNPROMISING = "NPG PPO PPOKL TREFree TREFreeRatio TREFreeFree MDPO VMPO TRGPPO SPO ESPO TrulyPPO"
UNPROMISING += " TRPPO PPORB SPU DiscoveredPO MCPO"
PROMISES = {"TRPO": "mean_kl", "PAPI": "mean_kl"} | dict.fromkeys(UNPROMISING.split(), "none")
BOUNDS, ON_DEVICE = {"none": None, "projection": 1.0}, ("jax", "gymnax", "probe")  # 1: all of each
COLUMNS = {"max_kl": "kl_max", "mean_reverse_kl": "kl_reverse", "max_reverse_kl": "kl_reverse_max"}
COLUMNS |= {"projection": "projection_share"}
ACTIVATIONS: dict[str, Any] = {"tanh": np.tanh, "relu": lambda x, out: np.maximum(x, 0, out=out)}
TYPES = {f"{k}{8 * n}": f"<{k.lower()}{n}" for k in "UIF" for n in (1, 2, 4, 8)} | {"BOOL": "|b1"}
STIRLING = {1: 1 / 12, 3: -1 / 360, 5: 1 / 1260, 7: -1 / 1680, 9: 1 / 1188, 11: -691 / 360360}
Arrays = Mapping[str, np.ndarray]


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: the one spelling that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def fingerprint(arrays: Arrays) -> str:
    """SHA-256 of named arrays: one line of JSON, [[name, dtype, shape], ...] in order of names,
    then the little-endian bytes of each array."""
    little = {n: x.astype(x.dtype.newbyteorder("<"), copy=False) for n, x in sorted(arrays.items())}
    heads = canonical([[n, x.dtype.str, list(x.shape)] for n, x in little.items()])
    whole = b"".join((heads, b"\n", *(x.tobytes() for x in little.values())))
    return hashlib.sha256(whole).hexdigest()


def part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, by the rest of their names."""
    return {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises `ValueError` where its header lies, `OSError`."""
    data, out = path.read_bytes(), {}
    end = start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:start] if start <= min(len(data), 1 << 20) else "null")
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            kind, shape = np.dtype(TYPES[entry["dtype"]]), entry["shape"]
            (begin, stop), size = entry["data_offsets"], math.prod(shape) * kind.itemsize
            whole = all(type(x) is int and x >= 0 for x in (*shape, begin, stop))
            if not whole or (start + begin, stop - begin) != (end, size):
                raise ValueError(f"its array {name!r} does not lie where it should")
            end = start + stop
            out[name] = np.frombuffer(memoryview(data)[end - size : end], kind).reshape(shape)
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its header is not one of safetensors: {error!r}") from error
    if end != len(data):
        raise ValueError("it has bytes that belong to no array")
    return out


def _dense(arrays: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    weight, bias = (arrays[f"{name}/{k}"].astype(np.float64) for k in ("weight", "bias"))
    if weight.ndim != 2 or bias.shape != weight.shape[1:] or len(bias) > WIDEST:
        raise ValueError(f"{name} is no layer")
    return x @ weight + bias


def distribution(arrays: Arrays, obs: np.ndarray, net: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a policy says at normalised observations [M, d]: ("categorical", logits [M, K], None),
    ("gaussian", mean, log_std) or ("beta", alpha, beta), all [M, a]."""
    inner = "actor/" if any(n.startswith("actor/") for n in arrays) else ""
    x = obs.astype(np.float64)
    for body, i in itertools.product(("trunk", inner + "body"), range(len(arrays))):
        if f"{body}/layers/{i}/weight" in arrays:
            x = _dense(arrays, f"{body}/layers/{i}", x)
            x = ACTIVATIONS[net["activation"]](x, out=x)
    head = inner + "head/"
    if head + "logits/weight" in arrays:
        return "categorical", _dense(arrays, head + "logits", x), None
    if head + "alpha/weight" in arrays:
        a, b = (1 + np.logaddexp(0, _dense(arrays, head + k, x)) for k in ("alpha", "beta"))
        return "beta", a, b
    free = arrays.get(head + "std")
    log_std = _dense(arrays, head + "std", x) if free is None else free.astype(np.float64)
    bounds = net["log_std_min"], net["log_std_max"]
    return "gaussian", _dense(arrays, head + "mean", x), np.clip(log_std, *bounds)


def log_gamma(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log Gamma(x) and its derivative, x > 0: Stirling's series at x + 8, and eight steps back."""
    z, steps = x + 8, [x + i for i in range(8)]
    terms = {k: c * z**-k for k, c in STIRLING.items()}
    value = (z - 0.5) * np.log(z) - z + 0.5 * math.log(2 * math.pi) + sum(terms.values())
    slope = np.log(z) - (0.5 + sum(k * t for k, t in terms.items())) / z
    return value - sum(np.log(s) for s in steps), slope - sum(1 / s for s in steps)


def divergence(p: tuple[Any, ...], q: tuple[Any, ...]) -> np.ndarray:
    """KL(p, q), one number a state [M], by the textbook formulas."""
    (family, a, b), (other, c, d) = p, q
    if family != other:
        raise ValueError(f"it holds a {family} policy and a {other} one")
    if family == "categorical":
        a, c = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (a, c))
        return np.sum(np.exp(a) * (a - c), axis=-1)
    if family == "gaussian":
        square = np.exp(2 * b) + (a - c) ** 2
        return np.sum(d - b + 0.5 * square * np.exp(-2 * d) - 0.5, axis=-1)
    (la, ka), (lb, kb), (ls, ks) = (log_gamma(x) for x in (a, b, a + b))
    normaliser = sum(sign * log_gamma(x)[0] for sign, x in ((1, c), (1, d), (-1, c + d)))
    slope = (a - c) * ka + (b - d) * kb + (c - a + d - b) * ks
    return np.sum(normaliser - (la + lb - ls) + slope, axis=-1)


def measured(promise: str, arrays: Arrays, settings: Mapping[str, Any]) -> float:
    """What a promise bounds, over the rows that count: the mean or largest KL(old, new), or KL(new,
    old); of `projection` the largest share of its bound that a part of KL(projected, old) is."""
    batch, old, new = (part(arrays, k) for k in ("batch/", "old/", "new/"))
    rows, method = batch["mask"].view(np.uint8).reshape(-1) != 0, settings["method"]
    obs = batch["obs"][:-1].reshape(len(rows), -1)[rows]
    near = [x[rows] for _, x in sorted(part(batch, "projected/").items(), reverse=True)]
    kl = np.zeros(len(obs) or 1)
    with np.errstate(all="ignore"):
        for at in (slice(i, i + BLOCK) for i in range(0, len(obs), BLOCK)):
            p, q = (distribution(actor, obs[at], settings["networks"]) for actor in (old, new))
            kl[at] = divergence(q, p) if "reverse" in promise else divergence(p, q)
            if promise == "projection":  # in the mean, and in the covariance
                (kind, c, d), (a, b) = p, (*(x[at].astype(np.float64) for x in near), None)[:2]
                mean, cov = divergence((kind, a, d), p), divergence((kind, c, b), p)
                shares = mean / float(method["mean_bound"]), cov / float(method["cov_bound"])
                kl[at] = np.maximum(*shares)
    return float(kl.mean() if promise in ("none", "mean_kl", "mean_reverse_kl") else kl.max())


class Kept:
    """Which updates keep their arrays: the worst checked one, others spread over the planned run.
    Where they are more than `KEEP` the most crowded goes, newest and worst excepted."""

    def __init__(self, every: int, planned: int) -> None:
        self.every, self.span = every, max(planned, KEEP * every)
        self.updates: list[int] = []
        self.worst, self.largest = 0, -1.0

    def add(self, update: int, value: float) -> bool:
        """Take notice of a checked update; whether it is kept for now."""
        before, now = ((update - k) * KEEP // self.span for k in (self.every, 0))
        keep = update % self.every == 0 and now > before
        if value > self.largest:
            self.worst, self.largest, keep = update, value, True
        self.updates += [update] * keep
        if len(self.updates) > KEEP:
            rows = zip([0, *self.updates], self.updates, self.updates[1:], strict=False)
            gaps = {n: after - prior for prior, n, after in rows if n != self.worst}
            self.updates.remove(min(gaps, key=lambda n: gaps[n]))
        return keep


HEADER = dict(format=int, config=str, initial=str, every=int, batches=str)  # one, then LINEs
LINE = dict(update=int, promise=str, bound=float | None, float32=float, float64=float | None)
LINE |= dict(batch=str | None, old=str, new=str, previous=str)


class Verifier:
    """Reads a run and collects what is wrong with it in `findings`, each naming file and line."""

    def __init__(self, run: Path) -> None:
        self.run, self.promise, self.settings, self.recomputed = run, "", dict[str, Any](), 0
        self.bound: float | None = None
        self.findings, self.hashes = list[str](), list[str]()  # hashes: of all lines
        self.lines: list[dict[str, Any]] = []  # of the updates: update n is line n + 1 of the file
        self.kept = Kept(1, 1)

    def verify(self) -> Verifier:
        """Check all there is; returns itself."""
        if self._try(CERTIFICATE, self._chain) and self._try("config.json", self._settings):
            self._lines()
            for n in self.kept.updates:
                self._try(f"certificate/{n:06d}.safetensors", self._arrays)
            for p in sorted((self.run / "checkpoints").glob("[0-9]*")):
                self._try(f"checkpoints/{p.name}/arrays.safetensors", self._checkpoint)
            self._try("metrics.jsonl", self._metrics)
        return self

    def summary(self) -> str:
        """One line: the verdict, and what it rests on."""
        bound = "nothing was promised" if self.bound is None else f"{self.promise} <= {self.bound}"
        checked = sum(line.get("float64") is not None for line in self.lines)
        counts = f"{len(self.lines)} updates, {checked} checked, {self.recomputed} recomputed here"
        verdict = "REJECTED" if self.findings else "holds"
        return f"{verdict}: {bound}; the largest {self.kept.largest}; {counts}"

    def _try(self, name: str, check: Callable[[Path], None]) -> bool:
        try:
            check(self.run / name)
        except Exception as error:  # whatever a hostile file makes Python raise is a finding
            self.findings.append(f"{name}: {error or type(error).__name__}")
            return False
        return True

    def _chain(self, path: Path) -> None:
        *rows, rest = path.read_bytes().split(b"\n")
        for n, raw in enumerate(rows):
            line, shape = json.loads(raw), LINE if n else HEADER
            same = line.keys() == shape.keys() and canonical(line) == raw
            if not same or not all(isinstance(line[k], shape[k]) for k in shape):
                raise ValueError(f"line {n + 1} is not as it is written")
            if n and line["update"] != n:
                raise ValueError(f"line {n + 1} is of update {line['update']} and not of {n}")
            if n and line["previous"] != self.hashes[-1]:
                self.findings += [f"{CERTIFICATE} line {n + 1}: previous is not line {n}'s hash"]
            self.hashes.append(hashlib.sha256(raw).hexdigest())
            self.lines.append(line)
        if rest or not rows:
            raise ValueError(f"line {len(rows) + 1} is cut off")
        self.head = self.lines.pop(0)

    def _settings(self, path: Path) -> None:
        data, head = path.read_bytes(), self.head
        if hashlib.sha256(data).hexdigest() != head["config"]:
            raise ValueError(f"{CERTIFICATE} line 1 has another hash of it")
        keys = ("settings", "promise", "bound")
        settings, self.promise, self.bound = map(json.loads(data).__getitem__, keys)
        method, envs, self.settings = settings["method"], settings["num_envs"], settings
        bound = BOUNDS.get(self.promise, method.get("max_kl", self.bound))
        if (PROMISES.get(method["type"], self.promise), bound) != (self.promise, self.bound):
            raise ValueError("promise and bound are not those of its method")
        rows = envs * (settings["num_steps"] or -(-settings["batch"] // envs))
        self.kept = Kept(settings["certify_every"], -(-settings["steps"] // rows))
        if (head["format"], head["every"]) != (FORMAT, settings["certify_every"]):
            raise ValueError(f"{CERTIFICATE} line 1 has another format or every")
        if head["batches"] != "every" and settings["env"].split(":")[0] not in ON_DEVICE:
            raise ValueError(f"{CERTIFICATE} line 1 leaves out batches, but not on a device")

    def _lines(self) -> None:
        largest, actor, promised = -1.0, self.head["initial"], (self.promise, self.bound)
        bound, every, name = self.bound or math.inf, self.head["batches"] == "every", CERTIFICATE
        for n, line in enumerate(self.lines, 1):
            small, checked = line["float32"], line["float64"] is not None
            exact = line["float64"] if checked else small
            value, due = max(small, exact), n % self.kept.every == 0 or (every and small > largest)
            due = due and not self.settings["networks"].get("full_covariance", False)  # not known
            near = math.isclose(small, exact, rel_tol=ROUNDING, abs_tol=GRAIN)
            moved = 0 if self.promise == "projection" else value  # of the policy itself
            wrong = {
                f"config.json promises {promised}": (line["promise"], line["bound"]) != promised,
                f"old is not the {'new' if n > 1 else 'initial'} of line {n}": line["old"] != actor,
                "float64 is missing: this update was to be checked": due and not checked,
                "batch is missing": line["batch"] is None and (every or checked),
                f"{value} breaks the bound {bound}": small > bound or exact > bound * (1 + AGREE),
                f"float32 {small} is not float64 {exact} rounded": not near,
                f"one actor has a KL of {value}": line["old"] == line["new"] and moved > GRAIN,
            }
            self.findings += [f"{name} line {n + 1}: {what}" for what, bad in wrong.items() if bad]
            if checked:
                self.kept.add(n, exact)
            largest, actor = max(largest, small), line["new"]

    def _arrays(self, path: Path) -> None:
        line, arrays = self.lines[int(path.stem) - 1], load(path)
        for k in ("batch", "old", "new"):
            if fingerprint(part(arrays, k + "/")) != line[k]:
                raise ValueError(f"{k} has another hash than in {CERTIFICATE}")
        value, said = measured(self.promise, arrays, self.settings), line["float64"]
        if said is None or not math.isclose(value, said, rel_tol=AGREE, abs_tol=FLOOR):
            raise ValueError(f"the KL is {value}, and {CERTIFICATE} says {said}")
        self.recomputed += 1

    def _checkpoint(self, path: Path) -> None:
        n = int(path.parent.name)
        if n > len(self.lines):
            raise ValueError(f"{CERTIFICATE} has no line {n + 1}")
        actor = self.lines[n - 1]["new"] if n else self.head["initial"]
        if fingerprint(part(load(path), "policy/")) != actor:
            raise ValueError(f"the policy has another hash than in {CERTIFICATE}")
        if json.loads((path.parent / "state.json").read_bytes())["certificate"] != self.hashes[n]:
            raise ValueError(f"state.json has another hash of {CERTIFICATE} line {n + 1}")

    def _metrics(self, path: Path) -> None:
        column = COLUMNS.get(self.promise, "kl_mean")
        for n, row in enumerate(map(json.loads, path.read_bytes().splitlines()), 1):
            if n > len(self.lines) or row[column] != self.lines[n - 1]["float32"]:
                raise ValueError(f"line {n} is not the update of {CERTIFICATE} line {n + 1}")


if __name__ == "__main__":
    verifier = Verifier(Path(*sys.argv[1:2])).verify()
    print(*verifier.findings, verifier.summary(), sep="\n")
    sys.exit(bool(verifier.findings))
