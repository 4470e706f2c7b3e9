"""The command line: manners, files, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import changed
from surefoot import envs
from surefoot.cli import COMMANDS, main
from surefoot.cli.flags import number, one_line, part, part_text, whole_number
from surefoot.cli.seeds import strip
from surefoot.cli.train_ import ALIASES, scan, spell
from surefoot.config import PARTS, to_json
from surefoot.memory import Attention, Blend, MeanBlend
from surefoot.methods import METHODS
from surefoot.multipliers import BetaRule, ConstantBeta
from surefoot.presets import choose

TINY = ["--env", "CartPole-v1", "--num-envs", "2", "--num-steps", "32", "--steps", "128"]
QUICK = [*TINY, "--value.sgd.epochs", "2", "--value.sgd.minibatches", "2"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUREFOOT_CACHE", "off")


def said(capsys):
    """Standard output, and standard error as one line without its end."""
    out, err = capsys.readouterr()
    assert "Traceback" not in err and err.count("\n") <= 1
    return out, err.strip()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--help"],
        ["-h"],
        ["--version"],
        ["train"],
        ["train", "--help"],
        ["list"],
        ["doctor", "--help"],
    ],
)
def test_help_is_free(args, capsys):
    assert main(args) == 0
    out, err = said(capsys)
    assert "surefoot" in out and not err


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["trian"],
        ["train", "trop"],
        ["train", "--help"],
        ["list", "methods"],
        ["list", "nothing"],
    ],
)
def test_help_and_wrong_names_answer_without_jax(args):
    code = (
        f"import sys; from surefoot.cli import main; main({args!r}); sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


ABLATIONS = {
    "no fix-up": (["--method.no-fixup"], {"fixup": False}),
    "mean KL": (["--method.statistic", "mean"], {"statistic": {"type": "MeanState"}}),
    "c_beta 1": (["--method.c-beta", "1"], {"c_beta": 1.0}),
    "last epoch": (["--method.no-fixup-every-epoch"], {"fixup_every_epoch": False}),
    "constant beta": (
        ["--method.beta-init", "10", "--method.beta-lr", "0"],
        {"beta_init": 10.0, "beta_lr": 0.0},
    ),
    "other direction": (["--method.divergence", "new_old"], {"divergence": {"type": "KLNewOld"}}),
}
"""Section 4.2 of the FixPO paper, and its other direction of the KL."""


MCPO_ABLATIONS = {
    "alpha 0": (["--method.alpha", "0"], {"alpha": 0.0}),
    "annealed": (
        ["--method.beta", "annealed:start=2"],
        {"beta": {"type": "AnnealedBeta", "start": 2.0, "t_min": 1e-3}},
    ),
    "constant": (
        ["--method.beta=constant:value=0.1"],
        {"beta": {"type": "ConstantBeta", "value": 0.1}},
    ),
    "sparse": (
        ["--method.writing", "every:steps=100"],
        {"writing": {"type": "EveryStep", "steps": 100}},
    ),
    "mean": (["--method.blend", "mean"], {"blend": {"type": "MeanBlend"}}),
    "half": (
        ["--method.blend", "attention:half-context=true,hidden=none,lr=1e-3,transform=log1p"],
        {
            "blend": {
                "type": "Attention",
                "hidden": None,
                "dropout": 0.5,
                "transform": "log1p",
                "half_context": True,
                "lr": 1e-3,
                "max_grad_norm": 0.5,
            }
        },
    ),
    "capacity": (["--method.memory-size", "40"], {"memory_size": 40}),
}
"""Section 4.5 of the MCPO paper."""


@pytest.mark.parametrize(
    ("method", "name"),
    [*(("fixpo", n) for n in ABLATIONS), *(("mcpo", n) for n in MCPO_ABLATIONS)],
)
def test_every_ablation_is_a_flag(method, name, capsys):
    flags, changed = (ABLATIONS if method == "fixpo" else MCPO_ABLATIONS)[name]
    shown = []
    for extra in ([], flags):
        assert main(["train", method, *TINY, *extra, "--print-config"]) == 0
        shown.append(json.loads(capsys.readouterr().out)["method"])
    assert shown[1] == shown[0] | changed != shown[0]


@pytest.mark.parametrize("name", METHODS)
def test_every_field_of_every_method_is_a_flag(name, capsys):
    """All at once, each with another value than the preset's."""
    env = "jax:CartPole-v1"
    base = choose(name, env).method
    method = changed.every_field(base)
    assert main(["train", name, "--env", env, *changed.flags(method), "--print-config"]) == 0
    shown = json.loads(capsys.readouterr().out)["method"]
    assert shown == to_json(method)
    was = to_json(base)
    assert [field for field in shown if field != "type" and shown[field] == was[field]] == []


def test_a_part_prints_as_it_is_typed():
    """So that --help shows the defaults of a preset, and they can be typed again."""
    table = PARTS[Blend] | PARTS[BetaRule]
    for record in (Attention(), Attention(hidden=7, lr=0.1), MeanBlend(), ConstantBeta(0.25)):
        assert part(part_text(record, table), table) == record
    assert part_text(Attention(hidden=7), table) == "attention:hidden=7"


WRONG = [
    (["trian"], "no command is called 'trian'; did you mean train?"),
    (["train", "trop", "--env", "CartPole-v1"], "no method is called 'trop'; did you mean trpo?"),
    (["train", "trpo"], "--env is missing"),
    (
        ["train", "trpo", "--env", "CartPole-v2"],
        "no environment is called 'CartPole-v2'; did you mean CartPole-v1?",
    ),
    (["train", "trpo", "--env", "jax:CartPole"], "did you mean CartPole-v1?"),
    (
        ["train", "trpo", *TINY, "--method.max-lk", "3"],
        "unknown flag --method.max-lk, 3; did you mean --method.max-kl?",
    ),
    (
        ["train", "trpo", *TINY, "--method.max-kl", "-1"],
        "TRPO.max_kl is -1.0; allowed: a number in [1e-05, inf)",
    ),
    (
        ["train", "trpo", *TINY, "--method.max-kl", "1e-6"],
        "TRPO.max_kl is 1e-06; allowed: a number in [1e-05, inf)",
    ),
    (["train", "trpo", *TINY, "--gamma", "2"], "Config.gamma is 2.0; allowed: a number in [0, 1]"),
    (["train", "trpo", *TINY, "--gamma", "nan"], "nan is not a number"),
    (["train", "trpo", *TINY, "--steps", "abc"], "'abc' is not a whole number"),
    (
        ["train", "trpo", *TINY, "--steps", "0"],
        "Config.steps is 0; allowed: a whole number of at least 1",
    ),
    (["train", "trpo", *TINY, "--seed"], "Missing value for argument '--seed'"),
    (["train", "trpo", *TINY, "--seed", "-1"], "Config.seed is -1"),
    (["train", "trpo", *TINY, "--preset", "trpo-mojoco"], "did you mean trpo-mujoco?"),
    (["train", "trpo", *TINY, "--value", "shared"], "TRPO refuses layers shared"),
    (["train", "trpo", *TINY, "--value", "both"], "--value is 'both'; allowed: fit, shared"),
    (
        ["train", "npg", *TINY, "--method.lr", "0.1"],
        "give exactly one, as in --method.lr 0.1 --method.max-kl none",
    ),
    (["train", "ppo", *TINY, "--method.target-kl", "0.1"], "is --method.stop-kl here"),
    (
        ["train", "ppo", *TINY, "--normalize-advantage", "some"],
        "Expected one of ('batch', 'minibatch', 'none')",
    ),
    (
        ["train", "ppo", *TINY, "--method.sgd.minibatches", "100"],
        "SGD.minibatches is 100; allowed: at most 64",
    ),
    (
        ["train", "fixpo", *TINY, "--method.divergence", "old"],
        "invalid choice 'old' for argument '--method.divergence'",
    ),
    (["train", "fixpo", *TINY, "--method.max-kl", "inf"], "FixPO.max_kl is inf"),
    (
        ["train", "mcpo", *TINY, "--method.blend", "median"],
        "'median' is none of attention, mean",
    ),
    (
        ["train", "mcpo", *TINY, "--method.blend", "attention:width=3"],
        "'width=3' is not FIELD=X of attention; its fields: hidden, dropout",
    ),
    (
        ["train", "mcpo", *TINY, "--method.blend", "attention:dropout=2"],
        "Attention.dropout is 2.0; allowed: a number in [0, 1)",
    ),
    (
        ["train", "mcpo", *TINY, "--method.writing", "every:steps=x"],
        "'x' is not a whole number",
    ),
    (["train", "trpo", *TINY, "--config", "nowhere.json"], "nowhere.json does not exist"),
    (["train", "trpo", *TINY, "--seeds", "0"], "--seeds is 0"),
    (["train", "trpo", *TINY, "--workers", "5"], "allowed: 0 (this process) or 2"),
    (
        ["train", "trpo", "--env", "jax:CartPole-v1", "--workers", "2"],
        "worker processes are for plain Gymnasium ids only",
    ),
    (["train", "ppo", "--env", "Blackjack-v1"], "supported are 1-D Box observations"),
    (["eval"], "RUN is missing"),
    (["eval", "nowhere"], "nowhere does not exist"),
    (["eval", "nowhere", "--episodes", "0"], "--episodes is 0"),
    (["watch", "nowhere"], "nowhere does not exist"),
    (["list", "nothing"], "nothing to list is called 'nothing'"),
    (["list", "runs", "--josn"], "unknown flag --josn"),
    (["doctor", "--x"], "unknown flag --x"),
]


@pytest.mark.parametrize(("args", "message"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_wrong_usage_is_one_line_and_exit_2(args, message, capsys, tmp_path):
    assert main(args) == 2
    _, err = said(capsys)
    assert message in err and err.startswith("surefoot: ")
    assert not (tmp_path / "runs").exists()  # nothing is left behind


def test_a_missing_extra_is_the_line_that_installs_it_and_exit_3(monkeypatch, capsys):
    monkeypatch.setattr(envs, "installed", lambda module: False)
    for env, extra in (
        ("envpool:Hopper-v5", "envpool"),
        ("Hopper-v5", "mujoco"),
        ("LunarLander-v3", "box2d"),
        ("gymnax:CartPole-v1", "gymnax"),
    ):
        assert main(["train", "trpo", "--env", env]) == 3
        assert f'Run: pip install "surefoot[{extra}]"' in said(capsys)[1]


def test_a_run_leaves_what_it_promises(tmp_path, capsys):
    assert main(["train", "trpo", *QUICK, "--run-dir", "run", "--checkpoint-every", "64"]) == 0
    out, _ = said(capsys)
    run = tmp_path / "run"
    assert "trpo · CartPole-v1 · seed 0 · preset trpo-cartpole · 2 updates of 64 rows" in out
    assert "EnvPool has this too" in out
    tail = [line for line in out.splitlines() if line[:4] in ("done", "fold", "next", "    ")][-4:]
    assert [t.split()[0] for t in tail[:3]] == ["done", "folder", "next"]
    assert "0 bound violations" in tail[0] and "deterministic" in tail[0]
    metrics, timings = lines(run / "metrics.jsonl"), lines(run / "timings.jsonl")
    assert metrics[-1]["env_steps"] >= 128
    for key in [
        "env_steps",
        "update",
        "episode_return",
        "episode_length",
        "kl_mean",
        "kl_q99",
        "kl_max",
        "kl_reverse",
        "kl_drift",
        "ratio_min",
        "ratio_max",
        "surrogate_gain",
        "entropy",
        "explained_variance",
        "accepted",
        "backtracks",
        "cg_residual",
        "curvature",
    ]:
        assert key in metrics[-1]
    assert not any("second" in key for key in metrics[-1])
    assert {"seconds", "steps_per_second"} <= set(timings[-1])
    assert list(run.glob("events.*"))
    config = json.loads((run / "config.json").read_text())
    assert {"settings", "versions", "git", "cores"} <= set(config)
    updates = [p.name for p in sorted((run / "checkpoints").iterdir())]
    assert updates[0] == "000000" and updates[-1] == f"{metrics[-1]['update']:06d}"
    assert sorted(p.name for p in (run / "checkpoints" / updates[-1]).iterdir()) == [
        "arrays.safetensors",
        "manifest.json",
        "state.json",
    ]


def test_masked_rows_are_not_steps(tmp_path, capsys):
    assert main(["train", "trpo", *QUICK, "--run-dir", "run", "--quiet"]) == 0
    said(capsys)
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    # CartPole ends within 64 steps here, so reset rows were masked, and one update more reached the
    # steps asked for.
    assert metrics[-1]["env_steps"] < 64 * len(metrics)
    assert metrics[-1]["env_steps"] >= 128 > metrics[-2]["env_steps"]


@pytest.mark.parametrize(
    "method_and_env", [("trpo", "CartPole-v1"), ("ppo", "jax:CartPole-v1"), ("npg", "Pendulum-v1")]
)
@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(method_and_env, tmp_path, capsys):
    method, env = method_and_env
    args = [
        "train",
        method,
        "--env",
        env,
        "--preset",
        "none",
        "--num-envs",
        "2",
        "--num-steps",
        "32",
        "--steps",
        "256",
        "--quiet",
    ]
    for name in ("a", "b"):
        assert main([*args, "--run-dir", name]) == 0
    said(capsys)
    a, b = ((tmp_path / n / "metrics.jsonl").read_bytes() for n in ("a", "b"))
    assert a == b and a.count(b"\n") >= 4
    assert main([*args, "--run-dir", "c", "--seed", "1"]) == 0
    assert (tmp_path / "c" / "metrics.jsonl").read_bytes() != a


def test_an_existing_run_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("x")
    assert main(["train", "trpo", *QUICK, "--run-dir", "run"]) == 2
    assert "exists and is not empty" in said(capsys)[1]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["precious"]


def test_settings_printed_repeat_the_run(tmp_path, capsys):
    assert (
        main(["train", "ppo", *QUICK, "--method.clip", "0.3", "--hidden", "8", "--print-config"])
        == 0
    )
    (tmp_path / "my.json").write_text(said(capsys)[0])
    assert main(["train", "ppo", "--config", "my.json", "--seed", "3", "--print-config"]) == 0
    again = json.loads(said(capsys)[0])
    assert (
        again["method"]["clip"],
        again["seed"],
        again["networks"]["hidden"],
        again["num_steps"],
    ) == (
        0.3,
        3,
        [8],
        32,
    )
    assert main(["train", "trpo", "--config", "my.json", "--seed", "3", "--print-config"]) == 2
    assert "is of method ppo, not trpo" in said(capsys)[1]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_does_nothing(tmp_path, capsys):
    assert main(["train", "trpo", *QUICK, "--dry-run"]) == 0
    out, _ = said(capsys)
    assert "policy    4610 parameters" in out and not (tmp_path / "runs").exists()


def test_json_is_one_line_and_eval_repeats_it(tmp_path, capsys):
    assert main(["train", "trpo", *QUICK, "--run-dir", "run", "--json"]) == 0
    out, _ = said(capsys)
    result = json.loads(out)
    assert out.count("\n") == 1 and {"mean", "iqm", "ci95"} <= set(result["return"])
    assert main(["eval", "run", "--json"]) == 0
    scored = json.loads(said(capsys)[0])
    assert (
        scored["return"] == result["return"]
        and scored["episodes"] == 20
        and scored["deterministic"]
    )
    assert main(["eval", "run", "--episodes", "3", "--stochastic"]) == 0
    assert "3, sampled, CartPole-v1" in said(capsys)[0]
    assert main(["list", "runs", "--run-dir", ".", "--json"]) == 0
    row = json.loads(said(capsys)[0])[0]
    assert (row["run"], row["method"], row["env"]) == ("run", "trpo", "CartPole-v1")


def test_a_fault_keeps_the_last_checkpoint_and_exits_3(tmp_path, capsys, monkeypatch):
    import numpy as np

    from surefoot.envs.gymnasium import InProcessEnvs

    real, calls = InProcessEnvs.step, []

    def step(self, action):
        out = real(self, action)
        if len(self.envs) > 1:  # not in the probe before the run, which has copies of one
            calls.append(1)
        if len(calls) == 50:
            out.reward[1] = np.nan
        return out

    monkeypatch.setattr(InProcessEnvs, "step", step)
    assert main(["train", "trpo", *QUICK, "--run-dir", "run", "--quiet"]) == 3
    _, err = said(capsys)
    assert "reward is nan in environment 1 of CartPole-v1 at step" in err
    assert "run/checkpoints/000000 is kept" in err
    assert (tmp_path / "run" / "checkpoints" / "000000" / "manifest.json").exists()


def test_list_and_doctor(capsys):
    assert main(["list", "presets"]) == 0
    assert "ppo-mujoco" in said(capsys)[0]
    assert main(["doctor", "--json"]) == 0
    found = json.loads(said(capsys)[0])
    assert found["versions"]["jax"] and set(found["parts"]) >= {
        "mujoco",
        "envpool",
        "box2d",
        "gymnax",
    }
    assert main(["doctor"]) == 0


@pytest.mark.slow
def test_list_envs(capsys):
    assert main(["list", "envs", "--json"]) == 0
    names = {row["env"] for row in json.loads(said(capsys)[0])}
    assert {"CartPole-v1", "jax:Pendulum-v1", "probe:constant", "HalfCheetah-v5"} <= names


@pytest.mark.slow
def test_watch_without_a_display_writes_frames_and_says_so(tmp_path, capsys, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert main(["train", "trpo", *QUICK, "--run-dir", "run", "--quiet"]) == 0
    said(capsys)
    from surefoot.cli import watch_

    find = watch_.importlib.util.find_spec
    monkeypatch.setattr(
        watch_.importlib.util,
        "find_spec",
        lambda name: None if name == "imageio_ffmpeg" else find(name),
    )
    assert main(["watch", "run", "--max-steps", "20"]) == 0
    out = capsys.readouterr().out
    assert "frames" in out and "no display" in out and "pip install" in out
    png = next((tmp_path / "run" / "video").glob("*.png")).read_bytes()
    assert png.startswith(b"\x89PNG")


@pytest.mark.slow
def test_watch_writes_a_video(tmp_path, capsys, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert main(["train", "trpo", *QUICK, "--run-dir", "run", "--quiet"]) == 0
    assert main(["watch", "run", "--max-steps", "20"]) == 0
    assert "video     run/video" in capsys.readouterr().out
    assert next((tmp_path / "run" / "video").glob("*.mp4")).stat().st_size > 1000


@pytest.mark.slow
def test_probes_have_nothing_to_look_at(tmp_path, capsys):
    args = [
        "--env",
        "probe:acted",
        "--num-envs",
        "4",
        "--num-steps",
        "4",
        "--steps",
        "16",
        "--preset",
        "none",
    ]
    assert (
        main(
            ["train", "trpo", *args, "--run-dir", "run", "--value.sgd.minibatches", "1", "--quiet"]
        )
        == 0
    )
    assert main(["watch", "run"]) == 2
    assert "nothing to look at" in capsys.readouterr().err


@pytest.mark.slow
def test_seeds_side_by_side(tmp_path, capfd):
    assert (
        main(
            [
                "train",
                "trpo",
                *QUICK,
                "--seeds",
                "2",
                "--jobs",
                "2",
                "--run-dir",
                "many",
                "--seed",
                "5",
            ]
        )
        == 0
    )
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["seed-5", "seed-6"]
    seeds = [
        json.loads((tmp_path / "many" / f"seed-{s}" / "config.json").read_text())["settings"][
            "seed"
        ]
        for s in (5, 6)
    ]
    assert seeds == [5, 6]
    assert (tmp_path / "many" / "seed-5" / "metrics.jsonl").read_text() != (
        tmp_path / "many" / "seed-6" / "metrics.jsonl"
    ).read_text()


@pytest.mark.slow
def test_one_interrupt_finishes_the_update_saves_and_exits_130(tmp_path):
    args = ["train", "trpo", "--env", "CartPole-v1", "--steps", "50m", "--run-dir", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "surefoot", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    last = lines(metrics)[-1]["update"]
    assert (tmp_path / "run" / "checkpoints" / f"{last:06d}").is_dir()
    assert "stopped" in err and "Traceback" not in err


def test_numbers_as_people_write_them():
    assert [whole_number(t) for t in ("1000000", "1_000_000", "1e6", "1m", "1M", "2.5k", "-3")] == [
        10**6
    ] * 5 + [
        2500,
        -3,
    ]
    for text in ("1.5", "x", "", "1e-3", "0.3m1"):
        with pytest.raises(ValueError, match="is not a whole number"):
            whole_number(text)
    assert number("inf") == float("inf") and number("1_000.5") == 1000.5


def test_helpers_for_arguments():
    assert scan(["--a", "1", "--b=2"], "--a") == "1" and scan(["--a", "1", "--b=2"], "--b") == "2"
    assert scan(["--a"], "--a") is None
    assert [spell(a) for a in ("-n", "none", "--x=none", "--hidden", "y")] == [
        "--steps",
        "None",
        "--x=None",
        ALIASES["--hidden"],
        "y",
    ]
    assert strip(["--seed", "3", "--x", "--jobs=2", "y"], ("--seed", "--jobs")) == ["--x", "y"]
    assert one_line("", "surefoot") == "wrong flags"
    names = "train resume compare reproduce eval certify watch plot report list doctor"
    assert set(COMMANDS) == set(names.split())
