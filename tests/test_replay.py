"""A stretch of a run trained again gives the lines its certificate has."""

import json

import pytest

from conftest import need
from surefoot.checkpoint import numbered, remove
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.cli import main
from surefoot.replay import replay
from surefoot.verifier import canonical
from test_resume import SMALL, unfinish


def made(tmp_path, env, *more):
    run = tmp_path / "run"
    args = ["train", "trpo", "--env", env, *SMALL, "--steps", "2048", "--checkpoint-every", "512"]
    assert main([*args, "--run-dir", str(run), "--quiet", *more]) == 0
    return run


def lines(run):
    return [json.loads(x) for x in (run / "certificate.jsonl").read_text().splitlines()][1:]


@pytest.mark.parametrize("env", ["jax:CartPole-v1", "CartPole-v1", "envpool:CartPole-v1"])
@pytest.mark.slow
def test_a_stretch_trained_again_gives_the_same_lines(tmp_path, env):
    if "envpool" in env:
        need("envpool")
    run = made(tmp_path, env)
    for path in numbered(run / "checkpoints")[1:]:  # so that it passes checkpoints on its way
        remove(path)
    written, again = lines(run), dict(replay(run, 3, 14))
    assert list(again) == list(range(3, 15))
    for n, line in again.items():
        there = {k: v for k, v in written[n - 1].items() if v is not None}
        assert {k: line[k] for k in there if k in line} == {k: there[k] for k in there if k in line}
        assert line["batch"] and line["float64"]
    assert not list(run.glob(".tmp*")) and len(numbered(run / "checkpoints")) == 1


@pytest.mark.slow
def test_it_begins_at_the_checkpoint_before(tmp_path):
    run = made(tmp_path, "jax:CartPole-v1")
    last = int(numbered(run / "checkpoints")[-2].name)
    unfinish(run, last)
    for path in numbered(run / "checkpoints")[:-1]:
        remove(path)
    assert [n for n, _ in replay(run, last + 2, last + 3)] == [last + 2, last + 3]
    with pytest.raises(EnvironmentFault, match=f"no whole checkpoint before update {last}"):
        list(replay(run, last, last))


@pytest.mark.slow
def test_a_forged_line_is_found_by_training_again(tmp_path, capsys):
    run = made(tmp_path, "jax:CartPole-v1")
    assert main(["certify", str(run), "--replay", "1:9"]) == 0
    assert "updates 1 to 9 trained again" in capsys.readouterr().out
    path = run / "certificate.jsonl"
    text = path.read_text().splitlines()
    fake = json.loads(text[5]) | {"old": "0" * 64}
    text[5] = canonical(fake).decode()
    path.write_text("\n".join(text) + "\n")
    assert main(["certify", str(run), "--replay", "5:5"]) != 0
    assert "old is 000000" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_that_cannot_be_trained_again_say_so(tmp_path, capsys):
    run = made(tmp_path, "jax:CartPole-v1")
    path = run / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"code": "0" * 16}))
    with pytest.raises(UsageError, match="code 0000000000000000 then"):
        next(replay(run, 1, 1))
    words = {"level": "inexact", "words": "it keeps `world`"}
    path.write_text(json.dumps(config | {"resume": words}))
    with pytest.raises(UsageError, match="cannot be trained again to the bit: it keeps `world`"):
        next(replay(run, 1, 1))
