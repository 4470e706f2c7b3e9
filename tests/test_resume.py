"""A run that was stopped goes on as if it had not been: to the bit, from whatever is left of it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import need
from surefoot import SGD, TRPL, TRPO, Agent, LinearEntropy, checkpoint
from surefoot.checkpoint import tree_to_arrays
from surefoot.cli import main
from surefoot.loops import begin_seed
from surefoot.runs import finished, steps_written

ENVS = ["jax:CartPole-v1", "CartPole-v1", "Hopper-v5", "envpool:CartPole-v1", "envpool:Hopper-v5"]
CACHE = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "commands")
"""Compiled programs of commands that are processes of their own."""
SMALL = ["--num-envs", "4", "--num-steps", "32", "--networks.hidden", "8"]


def needed(env):
    for word, module in (("envpool", "envpool"), ("Hopper", "mujoco")):
        if word in env:
            need(module)


def small(method, env, **settings):
    return Agent(method, env, num_envs=4, num_steps=32, seed=3, **settings)


def same_state(a, b):
    left, right = tree_to_arrays(a.state), tree_to_arrays(b.state)
    return [k for k in left if not np.array_equal(left[k], right[k])]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def result(run):
    """Every file of the last checkpoint, and every byte of metrics and certificate."""
    last = checkpoint.numbered(run / "checkpoints")[-1]
    files = [last / "manifest.json", run / "metrics.jsonl", run / "certificate.jsonl"]
    files += sorted((run / "certificate").iterdir())
    return last.name, {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# In one process.


FALLING = TRPL(
    entropy=LinearEntropy(-1.0), sgd=SGD(lr=1e-3, epochs=1, minibatches=2, max_grad_norm=None)
)
"""Its state holds the entropy of the first policy, from which the schedule falls."""
TWICE = [("trpo", env) for env in ENVS]
TWICE += [("ppo", env) for env in ENVS if "CartPole" in env]  # Adam's moments, in every loop


@pytest.mark.parametrize(
    ("method", "env"),
    [
        *TWICE,
        pytest.param(FALLING, "jax:Pendulum-v1", id="trpl-jax:Pendulum-v1", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_n_and_m_updates_are_n_a_checkpoint_and_m(tmp_path, env, method):
    needed(env)
    whole = small(method, env)
    whole.learn(128 * 8)  # schedules run over these
    broken = small(method, env)
    broken.callback = lambda agent: agent.update < 3
    broken.learn(128 * 8)
    broken.save(tmp_path)
    again = Agent.load(tmp_path)
    assert again.update == 3
    barrier = broken.loop.level == "barrier"
    assert barrier == env.startswith("envpool")
    rest = whole.env_steps - again.env_steps
    broken.callback = None
    broken.learn(rest)
    again.learn(rest)
    assert not same_state(broken, again)
    assert broken.report == again.report and broken.recent == again.recent
    assert broken.trust_report() == again.trust_report()
    if not barrier:  # saving changed nothing, so this is also the run that was left alone
        assert not same_state(whole, again)
        assert whole.report == again.report


@pytest.mark.slow
def test_a_barrier_begins_episodes_of_run_and_checkpoint(tmp_path):
    need("envpool")
    agent = small("trpo", "envpool:CartPole-v1", preset="none").learn(128)
    assert agent.loop.collector.running_length.any() and np.asarray(agent.state.return_trace).any()
    agent.checkpoint(tmp_path)
    collector = agent.loop.collector
    assert collector.begin_seed == begin_seed(3, agent.update) and collector.last is None
    assert not collector.running_length.any() and not np.asarray(agent.state.return_trace).any()
    assert len({begin_seed(s, c) for s in range(30) for c in range(30)}) == 900
    assert all(0 <= begin_seed(s, 2) < 2**31 - 1 for s in range(300))


@pytest.mark.slow
def test_the_first_checkpoint_is_no_barrier(tmp_path):
    need("envpool")
    agent = small("trpo", "envpool:CartPole-v1")
    agent.checkpoint(tmp_path)
    other = small("trpo", "envpool:CartPole-v1")
    agent.learn(256)
    other.learn(256)
    assert agent.report == other.report


@pytest.mark.slow
def test_environments_that_cannot_be_saved_any_more_make_it_inexact_and_the_run_goes_on(
    tmp_path, monkeypatch, capsys
):
    from surefoot.checks import EnvironmentFault
    from surefoot.envs.gymnasium import InProcessEnvs

    real, calls = InProcessEnvs.capture, []

    def capture(self):
        calls.append(1)
        if len(calls) > 1:
            raise EnvironmentFault("CartPole-v1 holds `thread` now, which cannot be saved")
        return real(self)

    run = tmp_path / "run"
    args = train_args("trpo", "CartPole-v1", 1024, 256, run)
    monkeypatch.setattr(InProcessEnvs, "resume_level", lambda *_, **__: ("snapshot", "data"))
    monkeypatch.setattr(InProcessEnvs, "capture", capture)
    assert main([*args, "--keep-checkpoints", "9"]) == 0
    said = capsys.readouterr().err
    why = "CartPole-v1 holds `thread` now, which cannot be saved"
    assert said == f"surefoot: resume is inexact from here: {why}\n"
    unfinish(run, 4)
    assert main(["resume", str(run)]) == 0
    assert "INEXACT: CartPole-v1 holds `thread`" in capsys.readouterr().out


def test_closing_and_learning_on_changes_nothing():
    a, b = small("trpo", "CartPole-v1"), small("trpo", "CartPole-v1")
    a.learn(256)
    b.callback = lambda agent: agent.update < 1
    b.learn(256)
    b.close()
    b.callback = None
    b.learn(128)
    assert not same_state(a, b) and a.report == b.report


@pytest.mark.slow
def test_schedules_stay_at_their_last_value():
    agent = small(TRPO(), "jax:CartPole-v1").learn(128 * 4)
    assert float(agent.state.progress) == 0.75  # that of the last of four updates
    agent.learn(128 * 2)
    assert float(agent.state.progress) == 0.75


@pytest.mark.slow
def test_the_best_policy_is_the_one_that_acted(tmp_path):
    agent = small("trpo", "jax:CartPole-v1", preset="none")
    seen = {}
    agent.callback = lambda a: seen.update({a.update: tree_to_arrays(a.policy)}) or True
    agent.learn(128 * 30)
    agent.save(tmp_path)
    (best,) = checkpoint.numbered(tmp_path / "best")
    arrays, state = checkpoint.read(best)
    assert state["best"]["update"] == int(best.name) > 0
    for name, x in seen[int(best.name)].items():
        np.testing.assert_array_equal(arrays[f"policy/{name}"], x)
    loaded = Agent.load(tmp_path, best=True)
    for name, x in tree_to_arrays(loaded.policy).items():
        np.testing.assert_array_equal(arrays[f"policy/{name}"], x)
    np.testing.assert_array_equal(arrays["obs_stats/mean"], loaded.obs_stats.mean)


# As commands.


def command(*args, wait=True, **options):
    call = [sys.executable, "-m", "surefoot", *map(str, args)]
    # Commands run in this process have fixed its threads; a process of its own starts without.
    own = {k: v for k, v in os.environ.items() if k != "NPROC"} | {"SUREFOOT_CACHE": CACHE}
    options.setdefault("env", own)
    if not wait:
        return subprocess.Popen(
            call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options
        )
    return subprocess.run(call, capture_output=True, text=True, check=False, **options)


def train_args(method, env, steps, every, run):
    settings = ["--steps", steps, "--checkpoint-every", every, "--run-dir", run, "--quiet"]
    return [str(x) for x in ("train", method, "--env", env, *SMALL, *settings)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of 10 updates with checkpoints every other one, which nobody changes."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    args = train_args("trpo", "jax:CartPole-v1", 1280, 256, folder)
    assert main([*args, "--keep-checkpoints", "5"]) == 0
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, trained):
    """A copy of that run."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def unfinish(run, keep):
    """Take back what came after the checkpoint `keep`; metrics stay as a killed run leaves them."""
    for path in checkpoint.numbered(run / "checkpoints"):
        if int(path.name) > keep:
            checkpoint.remove(path)


KINDS = {
    "jax:CartPole-v1": ("ppo", 64_000, 6_400),
    "Hopper-v5": ("trpo", 12_288, 1_024),
    "envpool:Hopper-v5": ("ppo", 12_288, 1_024),
}


@pytest.mark.slow
@pytest.mark.parametrize("env", KINDS)
def test_kill_9_and_resume_equal_the_unbroken_run(tmp_path, env):
    needed(env)
    method, steps, every = KINDS[env]
    assert command(*train_args(method, env, steps, every, tmp_path / "whole")).returncode == 0
    args = train_args(method, env, steps, every, tmp_path / "run")
    process = command(*args, wait=False)
    deadline = time.monotonic() + 120
    while steps_written(tmp_path / "run") < 3.3 * every and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not finished(tmp_path / "run")
    again = command("resume", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert "exact" in again.stdout and "fingerprint equal" in again.stdout
    assert result(tmp_path / "run") == result(tmp_path / "whole")
    resumed = [x for x in lines(tmp_path / "run" / "timings.jsonl") if "resumed" in x]
    assert len(resumed) == 1 and resumed[0]["env_steps"] > 0
    assert resumed[0]["done_again"] <= every


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "envpool:CartPole-v1"])
def test_sigterm_and_resume_equal_the_unbroken_run(tmp_path, env):
    needed(env)
    args = ("trpo", env, 40_960, 8_192)
    assert command(*train_args(*args, tmp_path / "whole")).returncode == 0
    run = tmp_path / "run"
    process = command(*train_args(*args, run), wait=False)
    while steps_written(run) < 9_000:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"surefoot resume {run}" in said
    numbers = [int(p.name) for p in checkpoint.numbered(run / "checkpoints")]
    if env.startswith("envpool"):
        assert "steps since the last checkpoint will be done again" in said
        assert numbers[-1] <= 64
    else:
        assert "nothing will be done again" in said
        assert numbers[-1] == lines(run / "metrics.jsonl")[-1]["update"]
    assert command("resume", run, "--quiet").returncode == 0
    assert result(run) == result(tmp_path / "whole")


def test_a_finished_run_says_so(run, capsys):
    before = result(run)
    assert finished(run)
    assert main(["resume", str(run)]) == 0
    assert "is finished: 1 280 steps were asked for" in capsys.readouterr().out
    assert result(run) == before
    assert main(["resume", str(run), "--json"]) == 0
    assert not capsys.readouterr().out


def test_checkpoints_come_by_steps_and_old_ones_go(run, tmp_path):
    numbers = [int(p.name) for p in checkpoint.numbered(run / "checkpoints")]
    assert numbers == [0, 2, 4, 6, 8, 10]
    args = train_args("trpo", "jax:CartPole-v1", 1280, 300, tmp_path / "other")
    assert main([*args, "--keep-checkpoints", "2"]) == 0
    # Never more than 300 steps apart: 256 are two updates, 384 would be three.
    assert [int(p.name) for p in checkpoint.numbered(tmp_path / "other" / "checkpoints")] == [
        *(0, 8, 10)
    ]
    assert [p.name for p in (run / "best").iterdir()]


@pytest.mark.slow
def test_resume_from_every_checkpoint_is_the_same_run(run):
    whole = result(run)
    for number in (8, 4, 2, 0):
        unfinish(run, number)
        assert not finished(run)
        assert main(["resume", str(run), "--quiet"]) == 0
        assert result(run) == whole
        assert finished(run)


@pytest.mark.slow
def test_more_goes_on_and_is_itself_resumed(run, capsys):
    before = (run / "metrics.jsonl").read_text()
    assert main(["resume", str(run), "--more", "384"]) == 0
    said = capsys.readouterr().out
    assert "resuming  at update 10 (1 280 steps); 0 steps are done again" in said
    assert "continuing to 1 664" in said
    after, whole = (run / "metrics.jsonl").read_text(), result(run)
    assert after.startswith(before) and lines(run / "metrics.jsonl")[-1]["env_steps"] == 1664
    unfinish(run, 10)
    assert main(["resume", str(run), "--quiet"]) == 0
    assert result(run) == whole


BAD_METRICS = {
    "shorter": (lambda b: b[: len(b) // 4], 3, "was cut"),
    "edited": (lambda b: b.replace(b'"update": 1,', b'"update": 7,'), 3, "was edited"),
    "gone": (lambda b: b"", 3, "was cut"),
    "half a line": (lambda b: b[:-20], 0, None),
    "longer": (lambda b: b + b'{"env_steps": 99', 0, None),
}


@pytest.mark.parametrize("change", BAD_METRICS)
@pytest.mark.slow
def test_metrics_have_neither_gap_nor_duplicate(run, change, capsys):
    how, code, words = BAD_METRICS[change]
    whole, path = result(run), run / "metrics.jsonl"
    unfinish(run, 8)
    path.write_bytes(how(path.read_bytes()))
    assert main(["resume", str(run), "--quiet"]) == code
    if words:
        assert words in capsys.readouterr().err
    else:
        assert result(run) == whole


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(run, capsys):
    whole = result(run)
    target = run / "checkpoints" / "000010" / "arrays.safetensors"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 4
    target.write_bytes(data)
    assert not finished(run)
    assert main(["resume", str(run)]) == 0
    said = capsys.readouterr()
    assert str(target) in said.err and "000008 is used" in said.err
    assert result(run) == whole
    assert (run / "checkpoints" / ".bad-000010").is_dir()


REFUSALS = {
    "versions": (lambda c: c["versions"].update(jax="0.1.0"), "jax 0.1.0 then"),
    "code": (lambda c: c.update(code="0" * 16), "surefoot's code 0000000000000000 then"),
    "threads": (lambda c: c.update(threads=64, cores=64), "64 threads then"),
    "package": (lambda c: c["versions"].pop("numpy"), "numpy was not installed then"),
}


@pytest.mark.parametrize("what", REFUSALS)
@pytest.mark.slow
def test_what_would_give_other_bits_is_refused_and_may_be_allowed(run, what, capsys):
    change, words = REFUSALS[what]
    path = run / "config.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    unfinish(run, 8)
    before = result(run)
    assert main(["resume", str(run)]) == 2
    assert words in capsys.readouterr().err
    assert result(run) == before
    assert main(["resume", str(run), "--allow-inexact"]) == 0
    assert f"INEXACT: {words}" in capsys.readouterr().out


def test_another_fingerprint_is_refused(run, capsys, monkeypatch):
    unfinish(run, 8)
    monkeypatch.setattr(Agent, "fingerprint", lambda self: "f" * 64)
    assert main(["resume", str(run)]) == 2
    assert "other bits here (fingerprint ffffffff" in capsys.readouterr().err
    assert main(["resume", str(run), "--allow-inexact", "--quiet"]) == 0


@pytest.mark.slow
def test_the_fingerprint_is_of_the_update():
    a, b = small("trpo", "CartPole-v1"), small("trpo", "CartPole-v1")
    mark = a.fingerprint()
    assert b.fingerprint() == mark
    a.learn(128)
    assert a.fingerprint() == mark  # whatever the run has done meanwhile
    assert small(TRPO(max_kl=0.02), "CartPole-v1").fingerprint() != mark
    device = small("trpo", "jax:CartPole-v1")
    mark = device.fingerprint()
    device.learn(128)
    assert device.fingerprint() == mark


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_other_cores_are_refused_and_fewer_are_kept_to(tmp_path, monkeypatch, capsys):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    args = train_args("trpo", "jax:CartPole-v1", 2560, 1280, tmp_path / "run")
    two = lambda: os.sched_setaffinity(0, set(cores[:2]))  # noqa: E731
    one = lambda: os.sched_setaffinity(0, {cores[0]})  # noqa: E731
    assert command(*args, preexec_fn=two).returncode == 0
    whole = result(tmp_path / "run")
    unfinish(tmp_path / "run", 10)
    refused = command("resume", tmp_path / "run", preexec_fn=one)
    assert refused.returncode == 2 and "2 cores then, 1 now" in refused.stderr
    monkeypatch.setenv("NPROC", "1")
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "2 threads then, 1 now" in capsys.readouterr().err
    assert command("resume", tmp_path / "run", preexec_fn=two).returncode == 0
    assert result(tmp_path / "run") == whole
    # A run of one core goes on on one of two.
    args[args.index(str(tmp_path / "run"))] = str(tmp_path / "narrow")
    assert command(*args, preexec_fn=one).returncode == 0
    whole = result(tmp_path / "narrow")
    unfinish(tmp_path / "narrow", 10)
    again = command("resume", tmp_path / "narrow", preexec_fn=two)
    assert again.returncode == 0, again.stderr
    assert result(tmp_path / "narrow") == whole


def test_a_run_that_never_began_begins(run, tmp_path):
    whole = result(run)
    unfinish(run, -1)
    for path in (run / "metrics.jsonl", run / "timings.jsonl"):
        path.unlink()
    assert (run / "certificate.jsonl").exists()  # as of a process killed before its checkpoint 0
    assert main(["resume", str(run), "--quiet"]) == 0
    assert result(run) == whole


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["resume", "nowhere"], "nowhere does not exist"),
        (["resume", "."], "is not a run: it has no config.json; it holds the runs run"),
        (["resume", "run", "--more", "0"], "--more is 0; allowed"),
        (["resume", "run", "--mor", "1"], "did you mean --more"),
        (["resume"], "RUN is missing"),
    ],
)
@pytest.mark.slow
def test_wrong_usage_is_one_line(run, args, words, capsys):
    assert main(args) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


# Two writers.


def test_a_second_writer_is_refused(run, capsys):
    from surefoot.runs import owner

    unfinish(run, 8)
    before = result(run)
    with owner(run):  # the lock is of an open file, so this process is another to itself
        assert main(["resume", str(run)]) == 2
    assert "is being written by another process" in capsys.readouterr().err
    assert result(run) == before


RACER = """
import sys
from surefoot.cli import main
for line in sys.stdin:
    print("code", main(["resume", line.rstrip(), "--quiet"]), flush=True)
"""
"""Resumes the run that each line names: started once, ten races take a tenth of the time, and both
set off closer together than processes do."""


@pytest.mark.slow
def test_ten_races_have_one_winner_each(run):
    whole = result(run)
    own = {k: v for k, v in os.environ.items() if k != "NPROC"} | {"SUREFOOT_CACHE": CACHE}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER], env=own, text=True, bufsize=1, **pipes)
        for _ in range(2)
    ]

    def outcome(racer):
        """What one said, and its exit code."""
        said = []
        for line in racer.stdout:
            if line.startswith("code "):
                return "".join(said), int(line.split()[1])
            said.append(line)
        raise AssertionError(f"a racer ended: {said}")

    for _ in range(10):
        unfinish(run, 0)
        for racer in racers:
            racer.stdin.write(f"{run}\n")
        ends = [outcome(racer) for racer in racers]
        codes = sorted(code for _, code in ends)
        # The slower one may come when the faster is done, and then finds a finished run.
        assert codes[0] == 0 and codes[1] in (0, 2), ends
        assert all(("another process" in said) is (code == 2) for said, code in ends)
        resumed = [x for x in lines(run / "timings.jsonl") if "resumed" in x]
        assert result(run) == whole
        (run / "timings.jsonl").write_text("")
        assert len(resumed) == 1
    for racer in racers:
        racer.communicate(timeout=60)
        assert racer.returncode == 0
