"""The writer of certificates: what a line says, which arrays stay, and that a resumed run leaves
the same bytes."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import types
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import certified
import forged
import tiny
from surefoot import EnvironmentFault, certificate
from surefoot.certificate import Certifier
from surefoot.cli import certify_, main
from surefoot.networks import Networks
from surefoot.types import Rollout
from surefoot.verifier import Verifier, fingerprint, load, measured, part

EVERY, SAVE_EVERY, UPDATES = 2, 10, 130
SETTINGS = certified.config(updates=UPDATES, certify_every=EVERY)


@functools.cache
def policy(n):
    """The policy after update n; every seventh update keeps the old one."""
    n -= n and n % 7 == 0
    rng = np.random.default_rng([1, n])
    base = tiny.networks("gaussian", hidden=(4,)).init(tiny.spec("gaussian"), 0)[0]
    step = lambda x: (x + 0.01 * rng.normal(size=x.shape)).astype(np.float32)  # noqa: E731
    return jax.tree.map(step, base)


@functools.cache
def rollout(n):
    """The rollout of update n: 6 steps of 2 environments."""
    rng = np.random.default_rng([2, n])
    arrays: Any = (
        rng.normal(size=(7, 2, tiny.OBS)).astype(np.float32),
        rng.normal(size=(6, 2, tiny.ACTIONS)).astype(np.float32),
        rng.normal(size=(6, 2)).astype(np.float32),
        np.zeros((6, 2), bool),
        np.zeros((6, 2), bool),
        rng.uniform(size=(6, 2)) < 0.9,
    )
    return Rollout(*arrays)


@functools.cache
def report(n):
    """What `learn` would say of update n."""
    old, new = policy(n - 1), policy(n)
    r = rollout(n)
    kl = old(r.obs[:-1]).kl(new(r.obs[:-1]))
    return {"kl_mean": float(np.mean(np.asarray(kl)[r.mask], dtype=np.float32))}


def begin(folder, settings=SETTINGS, **options):
    """A certificate of a fresh run folder."""
    certified.write(folder, settings)
    certifier = Certifier(folder, settings, **options)
    certifier.first(policy(0))
    return certifier


def go_on(certifier, start, stop, states):
    """Updates after `start` up to `stop`, and the hash that each checkpoint keeps."""
    for n in range(start + 1, stop + 1):
        certifier.record(n, policy(n - 1), policy(n), lambda n=n: rollout(n), report(n))
        if n % SAVE_EVERY == 0:
            states[n] = certifier.state()
            certifier.sweep()


def finish(certifier, start, states):
    go_on(certifier, start, UPDATES, states)
    certifier.sweep(last=True)
    certifier.close()


def contents(folder):
    """Every byte of a certificate."""
    files = [folder / "certificate.jsonl", *sorted((folder / "certificate").iterdir())]
    return {p.name: p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    finish(begin(folder), 0, {})
    return folder


def metrics_for(folder, updates):
    rows = "".join(json.dumps(report(n)) + "\n" for n in range(1, updates + 1))
    (folder / "metrics.jsonl").write_text(rows)


def test_the_verifier_is_content(unbroken):
    metrics_for(unbroken, UPDATES)
    check = Verifier(unbroken).verify()
    assert check.findings == [] and check.recomputed == len(check.kept.updates) == 32
    kept = sorted(int(p.stem) for p in (unbroken / "certificate").iterdir())
    assert kept == check.kept.updates


def test_what_a_line_says(unbroken):
    head, *lines = map(json.loads, (unbroken / "certificate.jsonl").read_text().splitlines())
    assert set(head) == {"format", "config", "initial", "every", "batches"}
    assert head["initial"] == lines[0]["old"] and head["batches"] == "every"
    largest = -1.0
    for n, line in enumerate(lines, 1):
        assert line["update"] == n and (line["promise"], line["bound"]) == ("mean_kl", 0.01)
        assert line["float32"] == report(n)["kl_mean"]
        checked = n % EVERY == 0 or line["float32"] > largest
        assert (line["float64"] is not None) == checked
        if checked:
            assert line["float64"] == pytest.approx(line["float32"], rel=1e-4, abs=1e-9)
        assert (line["old"] == line["new"]) == (n % 7 == 0)
        largest = max(largest, line["float32"])
    arrays = load(next((unbroken / "certificate").iterdir()))
    assert {n.split("/")[0] for n in arrays} == {"batch", "old", "new"}
    assert {"obs", "action", "reward", "terminated", "truncated", "mask"} == set(
        part(arrays, "batch/")
    )
    assert fingerprint(part(arrays, "old/")) in {line["old"] for line in lines}


KILLS = [(57,), (95,), (13, 13, 14), (3, 64, 129), (10, 20, 30), (99, 98, 97, 100)]


@pytest.mark.parametrize("kills", KILLS, ids=str)
def test_a_resumed_run_leaves_the_same_bytes(unbroken, tmp_path, kills):
    """Killed after an update, in the middle of a line and of a file; resumed from the checkpoint
    before, as often as it takes."""
    states: dict[int, str] = {}
    certifier = begin(tmp_path)
    states[0], at = certifier.state(), 0
    (tmp_path / "config.json").write_bytes((unbroken / "config.json").read_bytes())
    for kill in kills:
        go_on(certifier, at, kill, states)
        certifier.close()
        with (tmp_path / "certificate.jsonl").open("ab") as file:
            file.write(b'{"batch":"12')
        (tmp_path / "certificate" / ".tmp-000001.safetensors").write_bytes(b"half")
        at = kill // SAVE_EVERY * SAVE_EVERY
        certifier = Certifier(tmp_path, SETTINGS)
        certifier.restore(at, states[at])
    finish(certifier, at, states)
    assert contents(tmp_path) == contents(unbroken)


def test_arrays_a_checkpoint_needs_are_there(tmp_path):
    """At every checkpoint, and after a kill anywhere behind it, also for the checkpoint before."""
    states: dict[int, str] = {}
    certifier, needed = begin(tmp_path), {}
    for n in range(1, UPDATES + 1):
        go_on(certifier, n - 1, n, states)
        if n % SAVE_EVERY == 0:
            needed[n] = set(certifier._kept.updates)
        there = {int(p.stem) for p in (tmp_path / "certificate").iterdir()}
        for at in (n // SAVE_EVERY, n // SAVE_EVERY - 1):
            assert needed.get(at * SAVE_EVERY, set()) <= there
    certifier.close()


def test_what_does_not_fit_the_checkpoint_is_refused(tmp_path):
    states: dict[int, str] = {}
    certifier = begin(tmp_path)
    go_on(certifier, 0, 25, states)
    certifier.close()
    path = tmp_path / "certificate.jsonl"
    rows = path.read_bytes().split(b"\n")

    def restore(data):
        path.write_bytes(data)
        other = Certifier(tmp_path, SETTINGS)
        other.restore(20, states[20])
        other.close()

    with pytest.raises(EnvironmentFault, match=r"has 15 lines, the checkpoint was .* after 21"):
        restore(b"\n".join(rows[:15]) + b"\n")
    for at in (0, 7, 20):
        edited = [*rows]
        edited[at] = edited[at].replace(b'"format":1', b'"format":2').replace(b"0.01", b"0.02")
        with pytest.raises(EnvironmentFault, match=f"was edited at line {at + 1 + (at < 20)}"):
            restore(b"\n".join(edited))
    with pytest.raises(EnvironmentFault, match="was edited at line 8"):
        restore(b"\n".join([*rows[:7], b"nonsense", *rows[8:]]))
    restore(b"\n".join(rows))
    assert path.read_bytes() == b"\n".join(rows[:21]) + b"\n"


def test_on_the_device_only_checked_batches_are_fetched(tmp_path):
    """Rollouts that cannot be had (inside a scan) leave their line without batch and float64."""
    settings = certified.config(env="jax:CartPole-v1", updates=16, certify_every=4)
    certifier, fetched = begin(tmp_path, settings, on_device=True), []

    def fetch(n):
        fetched.append(n)
        return rollout(n)

    for n in range(1, 17):
        source = (lambda n=n: fetch(n)) if n % 4 == 0 else None
        certifier.record(n, policy(n - 1), policy(n), source, report(n))
    certifier.close()
    metrics_for(tmp_path, 16)
    assert fetched == [4, 8, 12, 16]
    check = Verifier(tmp_path).verify()
    assert check.findings == []
    for n, line in enumerate(check.lines, 1):
        assert (line["batch"] is None) == (line["float64"] is None) == (n % 4 != 0)


def test_a_host_run_may_not_leave_batches_out(tmp_path):
    begin(tmp_path, on_device=True).close()
    assert "leaves out batches" in Verifier(tmp_path).verify().findings[0]


def test_a_value_that_is_not_finite_is_no_certificate(tmp_path):
    certifier = begin(tmp_path)
    line = certifier.record(1, policy(0), policy(1), lambda: rollout(1), {"kl_mean": np.nan})
    assert line["float32"] == "nan"
    go_on(certifier, 1, 2, {})
    certifier.close()
    assert "line 2 is not as it is written" in Verifier(tmp_path).verify().findings[0]


def test_a_value_above_its_bound_is_found(tmp_path):
    settings = dataclasses.replace(
        SETTINGS, method=dataclasses.replace(SETTINGS.method, max_kl=2e-5), certify_every=1
    )
    certifier = begin(tmp_path, settings)
    go_on(certifier, 0, 6, {})
    certifier.close()
    metrics_for(tmp_path, 6)
    found = Verifier(tmp_path).verify().findings
    assert found and all("breaks the bound 2e-05" in f for f in found)


def test_a_refusing_disk_is_named(tmp_path, monkeypatch):
    certifier = begin(tmp_path)

    def full(arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(certificate, "save_arrays", full)
    with pytest.raises(EnvironmentFault, match="could not be written: No space left"):
        go_on(certifier, 0, 1, {})
    certifier.close()
    with pytest.raises(EnvironmentFault, match="File exists"):
        begin(tmp_path)


# The command.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = certified.config(updates=12, certify_every=4)
    return certified.certified(tmp_path_factory.mktemp("run") / "run", settings)


def said(capsys):
    out, err = capsys.readouterr()
    return out.splitlines(), err.strip()


def test_certify(run, capsys):
    assert main(["certify", str(run)]) == 0
    (line,), _ = said(capsys)
    assert line.startswith("holds: mean_kl <= 0.01") and "12 updates" in line
    assert main(["certify", str(run), "--json"]) == 0
    (line,), _ = said(capsys)
    values = json.loads(line)
    assert values["holds"] and values["updates"] == 12 and values["findings"] == []
    assert values["recomputed"] == values["checked"] and values["largest"] <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_a_projection_is_certified_by_what_it_was(tmp_path, capsys, env):
    """Every update is near its bounds and inside them; a projection that is further out is found,
    every hash fitting, and so is one that is not there."""
    settings = certified.config("trpl", env, updates=6, certify_every=2)
    run = certified.certified(tmp_path / "run", settings)
    assert main(["certify", str(run)]) == 0
    (line,), _ = said(capsys)
    assert line.startswith("holds: projection <= 1.0; the largest 0.9")
    check = Verifier(run).verify()
    again = list(certified.replay(settings, 1, 6))
    assert certify_.differences(check.lines, again) == []
    n = check.kept.updates[-1]
    name = f"certificate/{n:06d}.safetensors"
    names = [k for k in load(run / name) if k.startswith("batch/projected/")]
    assert len(names) == 1 + (env == "Pendulum-v1")
    for far, text in ((True, "breaks the bound 1.0"), (False, name)):
        bad = forged.forge(run, tmp_path / "bad", partial(other_projection, n, names, far), True, 0)
        found = Verifier(bad).verify().findings
        assert any(text in what for what in found), found


def other_projection(n, names, far, f):
    """Update n with a projection far from the old policy, or with none, every hash fitting."""
    arrays = load(f.arrays(n))
    moved = {k: (arrays[k] + f.rng.normal(size=arrays[k].shape)).astype(np.float32) for k in names}
    arrays = {k: x for k, x in arrays.items() if k not in names} | (moved if far else {})
    f.update(n)["batch"] = fingerprint(part(arrays, "batch/"))
    if far:
        exact = measured("projection", arrays, f.settings)
        f.update(n).update(float64=exact, float32=exact)
        f.metrics[n - 1]["projection_share"] = exact
    save_file(arrays, f.arrays(n))


@pytest.mark.slow
def test_what_the_verifier_does_not_know_is_said(tmp_path, capsys):
    nets = Networks(hidden=(8,), full_covariance=True)
    settings = certified.config("trpo", updates=4, certify_every=1, networks=nets)
    run = certified.certified(tmp_path / "run", settings)
    assert main(["certify", str(run)]) == 0
    (line, note), _ = said(capsys)
    assert "4 updates, 0 checked, 0 recomputed" in line and note == certify_.UNKNOWN
    assert main(["certify", str(run), "--json"]) == 0
    assert json.loads(said(capsys)[0][0])["known"] is False


def test_certify_rejects(run, tmp_path, capsys):
    bad = forged.forge(run, tmp_path / "bad", forged.bound_line, True, 0)
    assert main(["certify", str(bad)]) == 1
    lines, _ = said(capsys)
    assert "config.json promises" in lines[0] and lines[-1].startswith("REJECTED")
    assert main(["certify", str(bad), "--json"]) == 1
    assert not json.loads(said(capsys)[0][0])["holds"]


def test_certify_with_replay(run, capsys, monkeypatch, tmp_path):
    module: Any = types.ModuleType("surefoot.replay")
    module.replay = lambda folder, start, stop: certified.replay(
        certified.config(updates=12, certify_every=4), start, stop
    )
    monkeypatch.setitem(sys.modules, "surefoot.replay", module)
    monkeypatch.setenv("SUREFOOT_CACHE", "off")
    assert main(["certify", str(run), "--replay", "2:12"]) == 0
    assert "updates 2 to 12 trained again" in said(capsys)[0][-1]
    bad = forged.forge(run, tmp_path / "bad", forged.seen_and_metrics, True, 0)
    assert main(["certify", str(bad)]) == 0
    assert main(["certify", str(bad), "--replay", "1:12"]) == 1
    lines, _ = said(capsys)
    assert any("float32 is" in line and "when trained again" in line for line in lines)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["nowhere"], "nowhere has no certificate.jsonl"),
        (["RUN", "--replay", "3"], "--replay is '3'; allowed: A:B"),
        (["RUN", "--replay", "0:3"], "--replay is '0:3'"),
        (["RUN", "--replay", "5:4"], "--replay is '5:4'"),
        (["RUN", "--replay", "5:13"], "goes beyond update 12"),
    ],
)
def test_certify_says_what_is_wrong(run, capsys, args, text):
    assert main(["certify", *(str(run) if a == "RUN" else a for a in args)]) == 2
    assert text in said(capsys)[1]


def test_training_again_is_compared_up_to_the_first_other_actor():
    from surefoot.cli.certify_ import differences

    line = {"float32": 0.5, "float64": None, "old": "a", "new": "b"}
    lines = [line, line | {"old": "b", "new": "c"}]
    made = [(1, line | {"float64": 0.5}), (2, line | {"old": "b", "new": "c"})]
    assert differences(lines, made) == []
    found = differences(lines, [(1, line | {"new": "x", "float32": 0.4}), (2, line)])
    assert [f.split()[3] for f in found] == ["float32", "new"]
