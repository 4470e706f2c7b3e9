"""The verifier: what it may import, its numbers against others', hostile files, and forgeries."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import json
import math
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from safetensors.numpy import save

import certified
import tiny
from forged import EVERY, MENDED, PLAIN, forge
from surefoot import networks, verifier
from surefoot.checkpoint import tree_to_arrays
from surefoot.cli.certify_ import differences
from surefoot.config import method_class, read_config, to_json
from surefoot.distributions import Categorical, DiagGaussian
from surefoot.methods import METHODS
from surefoot.projection import KLMetric
from surefoot.types import PROMISES, bound_of
from surefoot.verifier import Kept, Verifier, distribution, divergence, fingerprint, load, measured

SOURCE = Path(verifier.__file__)
PAGE = Path(__file__).parents[1] / "docs" / "certificate.md"
NAMED = re.compile(r"(certificate\.jsonl line \d+|\S+\.(jsonl?|safetensors)): \S")
"""Every finding names its file, and its line where there is one."""
NET = to_json(tiny.networks("gaussian"))
SETTINGS = {"networks": NET, "method": {}}


# What it is made of.


def test_it_imports_the_standard_library_and_numpy():
    names = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").partition(".")[0])
    assert names - sys.stdlib_module_names == {"numpy"}


def test_it_is_short():
    assert len(SOURCE.read_text().splitlines()) < 300


def test_its_tables_are_those_of_the_package():
    for name, entry in METHODS.items():
        method = method_class(name)
        alone = vars(method)["promise"]  # not a word where it depends on fields
        word = alone if isinstance(alone, str) else None
        assert verifier.PROMISES.get(entry.record) == word, f"{name}: mend PROMISES"
        assert method().promise in verifier.BOUNDS or hasattr(method(), "max_kl")
        if method().promise in verifier.BOUNDS:
            assert bound_of(method()) == verifier.BOUNDS[method().promise]
    assert PROMISES == {"mean_kl": "kl_mean"} | verifier.COLUMNS
    assert set(verifier.ACTIVATIONS) == set(networks.ACTIVATIONS)


# Numbers.


def test_gamma_functions():
    x = np.concatenate([np.geomspace(1e-3, 1e6, 400), np.arange(1, 50, 0.5)])
    value, slope = verifier.log_gamma(x)
    np.testing.assert_allclose(value, scipy.special.gammaln(x), rtol=2e-14, atol=2e-14)
    np.testing.assert_allclose(slope, scipy.special.digamma(x), rtol=2e-14, atol=2e-14)


def test_kl_of_gaussians_and_categoricals_is_the_packages(x64):
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1e-1, 1.0):
        a, b, c, d = (rng.normal(size=(50, 4)) for _ in range(4))
        c, d = a + scale * c, b + scale * d
        want = DiagGaussian(jnp.asarray(a), jnp.asarray(b)).kl(
            DiagGaussian(jnp.asarray(c), jnp.asarray(d))
        )
        got = divergence(("gaussian", a, b), ("gaussian", c, d))
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-14)
        want = Categorical(jnp.asarray(a)).kl(Categorical(jnp.asarray(c)))
        got = divergence(("categorical", a, None), ("categorical", c, None))
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-14)


def test_kl_of_betas_is_the_integral():
    rng = np.random.default_rng(1)
    x, weight = np.polynomial.legendre.leggauss(400)
    x, weight = (x + 1) / 2, weight / 2
    for a, b, c, d in 1 + rng.gamma(2, 2, size=(20, 4)):
        p, q = scipy.stats.beta(a, b), scipy.stats.beta(c, d)
        want = np.sum(weight * p.pdf(x) * (p.logpdf(x) - q.logpdf(x)))
        params = (np.array([[v]]) for v in (a, b, c, d))
        a, b, c, d = params
        got = divergence(("beta", a, b), ("beta", c, d))[0]
        assert got == pytest.approx(want, rel=1e-6)  # log x at 0 limits the quadrature


def test_families_are_not_mixed():
    x = np.zeros((2, 2))
    with pytest.raises(ValueError, match="gaussian policy and a beta one"):
        divergence(("gaussian", x, x), ("beta", x, x))


def beta_policy(rng):
    """Arrays of a Beta policy, as the verifier names them."""
    layer = lambda a, b: {  # noqa: E731
        "weight": rng.normal(size=(a, b)).astype(np.float32),
        "bias": rng.normal(size=b).astype(np.float32),
    }
    parts = {"body/layers/0": layer(3, 6), "head/alpha": layer(6, 2), "head/beta": layer(6, 2)}
    return {f"{part}/{k}": x for part, arrays in parts.items() for k, x in arrays.items()}


def test_a_beta_policy():
    rng = np.random.default_rng(2)
    arrays, obs = beta_policy(rng), rng.normal(size=(5, 3)).astype(np.float32)
    family, a, b = distribution(arrays, obs, NET)
    hidden = np.tanh(
        obs @ arrays["body/layers/0/weight"].astype(np.float64) + arrays["body/layers/0/bias"]
    )
    for got, name in ((a, "alpha"), (b, "beta")):
        raw = hidden @ arrays[f"head/{name}/weight"] + arrays[f"head/{name}/bias"]
        np.testing.assert_allclose(got, 1 + np.log1p(np.exp(raw)), rtol=1e-12)
    assert family == "beta" and (a >= 1).all()


POLICIES = [(kind, shared) for kind in tiny.KINDS for shared in (0, 1, 2)]


@pytest.mark.parametrize(("kind", "shared"), POLICIES)
@pytest.mark.parametrize("activation", networks.ACTIVATIONS)
def test_what_is_measured_is_the_ruler_in_float64(x64, kind, shared, activation):
    """Every head, shared layers, masks, both directions; log-sigma outside its bounds is clipped
    in both."""
    rng = np.random.default_rng(3)
    fields = {"hidden": (6, 5), "shared_layers": shared, "activation": activation}
    net = dataclasses.replace(tiny.networks(kind), **fields, log_std_max=-0.25)
    old, new = (net.init(tiny.spec(kind), seed)[0] for seed in (0, 1))
    obs = rng.normal(size=(9, 2, tiny.OBS)).astype(np.float32)
    mask = rng.uniform(size=(8, 2)) < 0.8
    batch = {"obs": obs, "mask": mask, "reward": np.zeros((8, 2), np.float32)}
    parts = {"batch/": batch, "old/": tree_to_arrays(old), "new/": tree_to_arrays(new)}
    arrays = {k + n: x for k, xs in parts.items() for n, x in xs.items()}
    p, q = (
        tiny.cast(policy, jnp.float64)(jnp.asarray(obs[:-1], jnp.float64)) for policy in (old, new)
    )
    forth, back = (np.asarray(kl)[mask] for kl in (p.kl(q), q.kl(p)))
    want = {
        "mean_kl": forth.mean(),
        "none": forth.mean(),
        "max_kl": forth.max(),
        "mean_reverse_kl": back.mean(),
        "max_reverse_kl": back.max(),
    }
    for promise, value in want.items():
        settings = {"networks": to_json(net), "method": {}}
        assert measured(promise, arrays, settings) == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize(
    "kind",
    ["gaussian_state", *(pytest.param(k, marks=pytest.mark.slow) for k in tiny.KINDS[:2])],
)
def test_the_share_of_a_projection_is_that_of_the_metric(x64, kind):
    """The worst state, in the mean, in the covariance, in both, and beside an infinite bound."""
    rng = np.random.default_rng(5)
    net = tiny.networks(kind)
    old, new, other = (net.init(tiny.spec(kind), seed)[0] for seed in range(3))
    obs = rng.normal(size=(9, 2, tiny.OBS)).astype(np.float32)
    mask = rng.uniform(size=(8, 2)) < 0.8
    flat = jnp.asarray(obs[:-1].reshape(16, -1))
    near = tiny.cast(other, jnp.float32)(flat)
    parts = {"old/": tree_to_arrays(old), "new/": tree_to_arrays(new)}
    parts |= {"batch/": {"obs": obs, "mask": mask}, "batch/projected/": tree_to_arrays(near)}
    arrays = {k + n: x for k, xs in parts.items() for n, x in xs.items()}
    wide = tiny.cast(near, np.float64), tiny.cast(old, np.float64)(flat.astype(np.float64))
    mean, cov = (np.asarray(x)[mask.reshape(-1)] for x in KLMetric().parts(*wide))
    assert mean.max() > 0.01 and (cov.max() > 1e-4 or kind != "gaussian_state")
    for bounds in ((0.02, 0.003), (0.5, 1e-5), (1e-5, 0.5), ("inf", 0.003), (0.02, "inf")):
        method = dict(zip(("mean_bound", "cov_bound"), bounds, strict=True))
        want = np.maximum(mean / float(bounds[0]), cov / float(bounds[1])).max()
        settings = {"networks": to_json(net), "method": method}
        assert measured("projection", arrays, settings) == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_blocks_do_not_change_a_value(monkeypatch):
    rng = np.random.default_rng(4)
    arrays = {f"old/{k}": x for k, x in beta_policy(rng).items()}
    arrays |= {f"new/{k}": x for k, x in beta_policy(rng).items()}
    arrays["batch/obs"] = rng.normal(size=(51, 3, 3)).astype(np.float32)
    arrays["batch/mask"] = np.ones((50, 3), bool)
    whole = measured("mean_kl", arrays, SETTINGS)
    monkeypatch.setattr(verifier, "BLOCK", 7)
    assert measured("mean_kl", arrays, SETTINGS) == pytest.approx(whole, rel=1e-14)
    arrays["batch/mask"][:] = False
    assert measured("mean_kl", arrays, SETTINGS) == measured("max_kl", arrays, SETTINGS) == 0


def test_fingerprints_are_of_names_types_shapes_and_bytes():
    x = {"a": np.arange(6, dtype=np.float32), "b": np.zeros(0), "c": np.array(True)}
    text = b'[["a","<f4",[6]],["b","<f8",[0]],["c","|b1",[]]]\n'
    assert fingerprint(x) == hashlib.sha256(text + x["a"].tobytes() + b"\1").hexdigest()
    others = [
        x | {"a": x["a"].reshape(2, 3)},
        x | {"a": x["a"].view(np.int32)},
        x | {"a": x["a"][::-1]},
        {"d" if k == "a" else k: v for k, v in x.items()},
    ]
    assert len({fingerprint(x), *map(fingerprint, others)}) == 5
    again = {"c": x["c"], "b": x["b"], "a": x["a"].astype(">f4")}
    assert fingerprint(again) == fingerprint(x)
    assert fingerprint({"a": np.arange(12, dtype=np.float32)[::2] / 2}) == fingerprint(
        {"a": x["a"]}
    )


# Which arrays are kept.


@pytest.mark.parametrize("planned", [10, 489, 3000])
@pytest.mark.parametrize("overrun", [0.3, 1.0, 1.07, 4.0])
def test_kept_are_the_worst_and_others_spread_over_the_run(planned, overrun):
    rng = np.random.default_rng(planned)
    kept, values = Kept(8, planned), {}
    for update in range(1, int(planned * overrun) + 1):
        value = float(rng.uniform())
        if update % 8 == 0 or value > max(values.values(), default=-1):
            values[update] = value
            kept.add(update, value)
    assert len(kept.updates) <= 32 and kept.updates == sorted(kept.updates)
    if values:
        assert max(values, key=lambda n: values[n]) in kept.updates
    if len(values) > 64:
        assert len(kept.updates) >= (31 if overrun >= 1 else 8)
        gaps = np.diff([0, *kept.updates, int(planned * overrun)])
        assert gaps.max() <= 2 * max(planned * max(overrun, 1) / 31, 8) + 8


# Hostile files.


def test_the_reader_reads_what_the_library_writes(tmp_path):
    rng = np.random.default_rng(0)
    kinds = (np.float32, np.float64, np.float16, np.int8, np.int64, np.uint32, np.bool_)
    arrays = {f"x/{i}": rng.integers(0, 2, size=(i, 3)).astype(k) for i, k in enumerate(kinds)}
    arrays["scalar"] = np.array(3.5, np.float32)
    (tmp_path / "a").write_bytes(save(arrays, {"note": "1"}))
    got = load(tmp_path / "a")
    assert set(got) == set(arrays)
    for k, x in arrays.items():
        assert got[k].dtype == x.dtype and got[k].shape == x.shape
        np.testing.assert_array_equal(got[k], x)


def file_of(header, body=b""):
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype="F32", shape=(2,), span=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


HOSTILE = {
    "empty": b"",
    "no header": b"\0" * 7,
    "header beyond the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "header of all memory": b"\xff" * 8 + b"{}",
    "not JSON": file_of(b"{"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "no object": file_of([]),
    "null": file_of(None),
    "deep": file_of(b"[" * 200_000),
    "huge number": file_of(b'{"a": ' + b"9" * 10_000 + b"}"),
    "entry is a number": file_of({"a": 1}),
    "entry is a list": file_of({"a": []}),
    "no dtype": file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "unknown dtype": file_of({"a": entry("BF16")}, bytes(8)),
    "dtype is a list": file_of({"a": entry(["F32"])}, bytes(8)),
    "negative size": file_of({"a": entry(shape=(-2, -1))}, bytes(8)),
    "huge size": file_of({"a": entry(shape=(1 << 62, 1 << 62))}, bytes(8)),
    "huge and empty": file_of({"a": entry(shape=(0, 10**30), span=(0, 0))}),
    "size is a float": file_of({"a": entry(shape=(2.0,))}, bytes(8)),
    "size is true": file_of({"a": entry("U8", (True,), (0, 1))}, bytes(1)),
    "hundred axes": file_of({"a": entry(shape=(1,) * 100, span=(0, 4))}, bytes(4)),
    "three offsets": file_of({"a": entry(span=(0, 4, 8))}, bytes(8)),
    "backwards": file_of({"a": entry(span=(8, 0))}, bytes(8)),
    "negative offset": file_of({"a": entry(span=(-8, 0))}, bytes(8)),
    "beyond the end": file_of({"a": entry(span=(0, 8))}, bytes(4)),
    "after the end": file_of({"a": entry(span=(1 << 60, (1 << 60) + 8))}, bytes(8)),
    "rest": file_of({"a": entry()}, bytes(12)),
    "gap": file_of({"a": entry(), "b": entry(span=(12, 20))}, bytes(20)),
    "overlap": file_of({"a": entry(), "b": entry(span=(4, 12))}, bytes(12)),
    "the same bytes twice": file_of({"a": entry(), "b": entry()}, bytes(8)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_lie_are_refused(tmp_path, name):
    (tmp_path / "a").write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            load(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 2 * len(HOSTILE[name]) + (16 << 20)
    finally:
        tracemalloc.stop()


def test_damaged_files_are_refused_or_read(tmp_path):
    """A thousand files with a few bytes changed, cut or added: arrays or `ValueError`."""
    rng = np.random.default_rng(5)
    good = bytearray(save({"a": np.ones((3, 2), np.float32), "b": np.zeros(5, np.int64)}))
    path, refused = tmp_path / "a", 0
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data) if rng.uniform() < 0.3 else 130))
            data[at] = int(rng.integers(256))
        if rng.uniform() < 0.3:
            data = data[: rng.integers(len(data))] + bytes(int(rng.integers(9)))
        path.write_bytes(data)
        try:
            load(path)
        except ValueError:
            refused += 1
    assert refused > 500


# Runs.


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run of 80 updates, every second one checked, 32 of them with arrays."""
    settings = certified.config(updates=80, certify_every=EVERY)
    return certified.certified(tmp_path_factory.mktemp("honest") / "run", settings, save_every=20)


@functools.lru_cache(maxsize=4)
def again(settings, stop):
    """What training again gives; settings are values."""
    return list(certified.replay(settings, 1, stop))


def test_an_honest_run_holds(honest):
    check = Verifier(honest).verify()
    assert check.findings == [] and check.recomputed == 32 and len(check.lines) == 80
    assert check.summary().startswith("holds: mean_kl <= 0.01; the largest 0.00")
    assert differences(check.lines, again(read_config(honest / "config.json"), 80)) == []


def test_the_copy_in_the_run_runs_alone(honest, tmp_path):
    """With nothing but its own folder on the path, and no site packages but NumPy's."""
    command = [sys.executable, str(honest / "verifier.py"), str(honest)]
    block = {"surefoot", "jax", "safetensors", "equinox", "scipy"}
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n" + "".join(f"sys.modules[{m!r}] = None\n" for m in sorted(block))
    )
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, check=False
    )
    assert done.returncode == 0 and done.stdout.startswith("holds: "), done.stderr
    bad = forge(honest, tmp_path / "bad", PLAIN["bound of one line"], False, 0)
    done = subprocess.run([*command[:2], str(bad)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "config.json promises" in done.stdout
    assert "REJECTED" in done.stdout.splitlines()[-1]


CASES = [(how, seed) for how in PLAIN for seed in (0, 1)]


@pytest.mark.parametrize(("how", "seed"), CASES)
def test_fifty_forgeries_with_a_broken_chain(honest, tmp_path, how, seed):
    check = Verifier(forge(honest, tmp_path / "run", PLAIN[how], False, seed)).verify()
    assert check.findings
    assert all(NAMED.match(f) for f in check.findings), check.findings


def test_there_are_a_hundred():
    assert len(CASES) == 2 * len(MENDED) == 50


@pytest.mark.parametrize("seed", (0, 1))
@pytest.mark.parametrize("how", MENDED)
@pytest.mark.slow
def test_fifty_forgeries_with_every_hash_made_to_fit(honest, tmp_path, how, seed):
    forgery, needs_replay = MENDED[how]
    for attempt in range(50):  # a liar tries until the verifier is content
        run = forge(honest, tmp_path / "run", forgery, True, 1000 * seed + attempt)
        check = Verifier(run).verify()
        if not (needs_replay and check.findings):
            break
    assert bool(check.findings) != needs_replay, check.findings
    found = check.findings or differences(
        check.lines, again(read_config(run / "config.json"), len(check.lines))
    )
    assert found
    assert all(NAMED.match(f) for f in found), found


def test_the_page_says_which_need_training_again():
    page = PAGE.read_text()
    for how, (_, needs_replay) in MENDED.items():
        found = "`--replay`" if needs_replay else "`certify`"
        assert f"| {how} | {found} |" in page, how
    alone = sum(needs for _, needs in MENDED.values())
    assert f"Of the {len(MENDED)} kinds\nof those, {alone} agree" in page


def test_the_page_computes_a_kl_by_hand(honest):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    check = Verifier(honest).verify()
    path = honest / "certificate" / f"{check.kept.worst:06d}.safetensors"
    space: dict[str, Any] = {"PATH": path}
    code = code.replace("from verifier", "from surefoot.verifier").replace("range(2)", "range(1)")
    exec(code.replace('sys.path.insert(0, "RUN")', ""), space)
    assert space["kl"] == pytest.approx(check.kept.largest, rel=1e-6)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{}\n", b"[]\n", b"nonsense", b"\xff\n", b'{"a":' * 9999]
)
@pytest.mark.parametrize("name", ["certificate.jsonl", "config.json", "metrics.jsonl"])
def test_files_that_are_no_certificate_are_findings(honest, tmp_path, name, data):
    run = forge(honest, tmp_path / "run", lambda _: None, False, 0)
    (run / name).write_bytes(data)
    if name != "metrics.jsonl" or data:
        assert Verifier(run).verify().findings


def test_nothing_there_is_a_finding(tmp_path):
    assert "certificate.jsonl: " in Verifier(tmp_path).verify().findings[0]


def test_a_checkpoint_of_another_policy_is_found(honest, tmp_path):
    run = forge(honest, tmp_path / "run", lambda _: None, False, 0)
    checkpoints = sorted((run / "checkpoints").iterdir())
    (checkpoints[0] / "arrays.safetensors").replace(checkpoints[1] / "arrays.safetensors")
    found = Verifier(run).verify().findings
    assert any("checkpoints/000020" in f and "another hash" in f for f in found)


@pytest.mark.slow
def test_a_method_that_promises_nothing_holds(tmp_path):
    settings = certified.config("ppo", "CartPole-v1", updates=9, certify_every=4)
    check = Verifier(certified.certified(tmp_path / "run", settings)).verify()
    assert check.findings == [] and "nothing was promised" in check.summary()
    assert check.kept.largest > 0


def test_float32_and_float64_are_near_at_the_smallest_sigma_and_radius(x64):
    """What ROUNDING allows is seldom used: sigma e^-5, mean KL near 1e-5."""
    rng = np.random.default_rng(6)
    net = dataclasses.replace(tiny.networks("gaussian"), log_std_init=-5.0)
    old = net.init(tiny.spec("gaussian"), 0)[0]
    step = lambda x: (x + 2e-5 * rng.normal(size=x.shape)).astype(np.float32)  # noqa: E731
    new = jax.tree.map(step, old)
    obs = rng.normal(size=(257, 8, tiny.OBS)).astype(np.float32)
    arrays = {f"old/{k}": x for k, x in tree_to_arrays(old).items()}
    arrays |= {f"new/{k}": x for k, x in tree_to_arrays(new).items()}
    arrays |= {"batch/obs": obs, "batch/mask": np.ones((256, 8), bool)}
    exact = measured("mean_kl", arrays, {"networks": to_json(net), "method": {}})
    flat = jnp.asarray(obs[:-1].reshape(-1, tiny.OBS))
    p, q = (tiny.cast(policy, jnp.float32)(flat) for policy in (old, new))
    assert 1e-6 < exact < 1e-4
    assert math.isclose(float(jnp.mean(p.kl(q))), exact, rel_tol=1e-3)
