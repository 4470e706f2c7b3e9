# ruff: noqa: E731 (a lambda reads like the formula)
"""`Fixup`: its laws, its bound, and its way through JSON, flags and an agent."""

from __future__ import annotations

import dataclasses
import doctest
import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from rich.console import Console

import tiny
from surefoot import Agent, Fixup, UsageError
from surefoot.cli import main
from surefoot.config import Config, from_json, method_name, to_json
from surefoot.console import Panel, PlainLines
from surefoot.divergences import KLNewOld
from surefoot.methods.fixpo import FixPO
from surefoot.methods.npg import NPG
from surefoot.methods.ppo import PPO
from surefoot.methods.trpo import TRPO
from surefoot.networks import Networks
from surefoot.sgd import SGD
from surefoot.train import Algorithm
from surefoot.types import PolicyUpdate, no_penalty
from surefoot.value import SharedValue, ValueFit
from surefoot.wrappers import WRAPPERS, fixup, nest, unwrapped

KEY = jax.random.key(0)
SMALL = SGD(lr=0.05, epochs=2, minibatches=2)
INNER = {
    "ppo": PPO(sgd=SMALL),
    "trpo": TRPO(max_kl=0.05, cg_damping=1e-3),
    "npg": NPG(max_kl=0.05),
    "fixpo": FixPO(max_kl=0.1, sgd=SMALL),
}
TINY = ["--env", "jax:CartPole-v1", "--num-envs", "2", "--num-steps", "32"]


def go(method, pi, batch, penalty=no_penalty):
    """One compiled update."""
    run = lambda p, b: method.update(p, method.init(p, KEY), b, KEY, penalty=penalty)
    return jax.jit(run)(pi, batch)


@functools.lru_cache
def case(kind, name):
    """A policy, a batch, and what a method does with them."""
    pi = tiny.policy(kind)
    batch = tiny.batch(kind, pi, masked=4)
    return pi, batch, go(INNER[name], pi, batch)


@functools.lru_cache
def bounded(name):
    """`Fixup` round a method, compiled once for all bounds."""

    def run(policy, batch, max_kl):
        method = Fixup(INNER[name], max_kl=max_kl)
        return method.update(policy, method.init(policy, KEY), batch, KEY)

    return jax.jit(run)


EVERY = [pytest.param(n, marks=() if n == "ppo" else pytest.mark.slow) for n in INNER]


# The laws.


@pytest.mark.parametrize("name", EVERY)
def test_an_infinite_bound_changes_nothing(name):
    """Bit for bit, state included, compiled; twice round it likewise."""
    pi, batch, (new, state, info) = case("gaussian", name)
    endless = Fixup(INNER[name], max_kl=float("inf"))
    for method in (endless, Fixup(endless, max_kl=float("inf"))):
        got, after, told = go(method, pi, batch)
        assert tiny.same((got, after), (new, state))
        assert all(tiny.same(told[k], info[k]) for k in info)
        assert float(told["fixup_scale"]) == 1 and int(told["fixup_tries"]) == 0
        assert method.promise == "none"


@pytest.mark.parametrize("name", ["ppo", pytest.param("trpo", marks=pytest.mark.slow)])
def test_a_bound_that_holds_anyway_changes_nothing(name):
    pi, batch, (new, state, _) = case("gaussian", name)
    got, after, info = bounded(name)(pi, batch, 1e4)
    assert tiny.distance((got, after), (new, state)) < 1e-6
    assert (float(info["fixup_scale"]), int(info["fixup_tries"])) == (1, 0)


def test_the_state_is_the_inner_updates_own():
    """Also where the walk back shortened the step."""
    pi, batch, (_, state, _) = case("gaussian", "ppo")
    twice = Fixup(Fixup(INNER["ppo"], max_kl=0.02), max_kl=0.01)
    assert tiny.same(twice.init(pi, KEY), INNER["ppo"].init(pi, KEY))
    _, after, info = go(twice, pi, batch)
    assert tiny.distance(after, state) < 1e-5 and float(info["inner_fixup_scale"]) < 1


def test_wrapping_twice_nests_what_is_reported():
    pi, batch, (_, _, own) = case("gaussian", "ppo")
    twice = Fixup(Fixup(INNER["ppo"], max_kl=0.02), max_kl=0.01)
    _, _, info = go(twice, pi, batch)
    names = {"fixup_scale", "fixup_tries"}
    assert set(info) == set(own) | names | {f"inner_{n}" for n in names}
    assert float(info["fixup_scale"]) < 1 and float(info["inner_fixup_scale"]) < 1
    assert nest({"a": 1, "inner_a": 2, "b": 3}, {"a": 4}) == {
        "inner_a": 1,
        "inner_inner_a": 2,
        "b": 3,
        "a": 4,
    }


def test_the_batch_is_handed_on_as_it_is():
    seen = []

    class Spy(NPG):
        def update(self, policy, state, batch, key, *, penalty=no_penalty):
            seen.extend((policy, state, batch, key, penalty))
            return policy, state, {}

    pi, batch, _ = case("gaussian", "ppo")
    given = (pi, ("state",), batch, KEY, lambda p, b: jnp.zeros(()))
    new, state, _ = Fixup(Spy(max_kl=0.05)).update(*given[:4], penalty=given[4])
    assert all(a is b for a, b in zip(seen, given, strict=True))
    assert state is given[1] and tiny.same(new, pi)


# The bound.


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ppo", "gaussian"),
        pytest.param("ppo", "beta", marks=pytest.mark.slow),
        pytest.param("ppo", "gaussian_state", marks=pytest.mark.slow),
        pytest.param("trpo", "categorical", marks=pytest.mark.slow),
        pytest.param("npg", "gaussian", marks=pytest.mark.slow),
    ],
)
def test_no_state_is_outside(name, kind):
    """In float64; the step is along the inner one, and the one before it was outside."""
    method = Fixup(INNER[name], max_kl=0.004)
    pi = tiny.policy(kind)
    update = jax.jit(lambda p, b: method.update(p, method.init(p, KEY), b, KEY))
    scales = []
    for seed in range(6):
        batch = tiny.batch(kind, pi, seed=seed, masked=4)
        new, _, info = update(pi, batch)
        scale = float(info["fixup_scale"])
        full = jax.tree.map(lambda n, o, s=scale: o + (n - o) / s, new, pi)
        longer = jax.tree.map(lambda n, o: o + (n - o) / method.shrink, new, pi)
        in_float64 = lambda d: jax.tree.map(lambda x: np.asarray(x, np.float64), d)
        p, q, r = (in_float64(f(batch.obs)) for f in (pi, new, longer))
        mask = np.asarray(batch.mask)
        assert tiny.textbook_kl(kind, p, q)[mask].max() <= method.max_kl
        if scale < 1:
            assert tiny.textbook_kl(kind, p, r)[mask].max() > method.max_kl * 0.999
        np.testing.assert_allclose(scale, method.shrink ** int(info["fixup_tries"]), rtol=1e-5)
        assert tiny.distance(full, pi) > 1e-3
        scales.append(scale)
    assert 0 < min(scales) < 1


def test_a_state_on_the_bound_is_outside():
    """By a margin of 3e-4, for float32."""
    pi, batch, _ = case("gaussian", "ppo")
    new = bounded("ppo")(pi, batch, 1e4)[0]
    worst = np.max(np.asarray(pi(batch.obs).kl(new(batch.obs)))[np.asarray(batch.mask)])
    for excess, tries in ((0.0, 1), (2e-4, 1), (4e-4, 0)):
        info = bounded("ppo")(pi, batch, float(worst * (1 + excess)))[2]
        assert int(info["fixup_tries"]) == tries


def test_the_other_direction():
    pi, batch, _ = case("gaussian", "ppo")
    method = Fixup(INNER["ppo"], max_kl=0.004, divergence=KLNewOld())
    new, _, _ = go(method, pi, batch)
    kl = np.asarray(new(batch.obs).kl(pi(batch.obs)))[np.asarray(batch.mask)]
    assert kl.max() <= 0.004 and method.promise == "max_reverse_kl"


def test_where_no_candidate_is_inside_the_old_policy_is_kept():
    pi, batch, (_, state, _) = case("gaussian", "ppo")
    new, after, info = go(Fixup(INNER["ppo"], max_kl=1e-5, max_tries=2), pi, batch)
    assert tiny.same(new, pi) and float(info["fixup_scale"]) == 0 and int(info["fixup_tries"]) == 2
    assert tiny.distance(after, state) < 1e-5


def test_an_update_that_is_not_finite_keeps_the_old_policy():
    pi, batch, _ = case("gaussian", "ppo")
    first = int(np.flatnonzero(np.asarray(batch.mask))[0])
    bad = dataclasses.replace(batch, advantage=batch.advantage.at[first].set(jnp.nan))
    new, _, info = bounded("ppo")(pi, bad, 1e4)
    assert tiny.same(new, pi) and float(info["fixup_scale"]) == 0


@pytest.mark.slow
def test_a_shared_critic_is_not_walked_back():
    nets = tiny.networks("gaussian", hidden=(6, 5), shared_layers=1)
    pi = tiny.cast(nets.init(tiny.spec("gaussian"), 0)[0], np.float32)
    batch = tiny.batch("gaussian", pi)
    penalty = Algorithm(INNER["ppo"], SharedValue()).penalty
    free, *_ = go(INNER["ppo"], pi, batch, penalty)
    new, _, info = go(Fixup(INNER["ppo"], max_kl=0.004), pi, batch, penalty)
    scale = float(info["fixup_scale"])
    assert 0 < scale < 1 and tiny.distance(new.critic, free.critic) < 1e-6
    part = jax.tree.map(lambda n, o: o + scale * (n - o), free.actor, pi.actor)
    assert tiny.distance(new.actor, part) < 1e-5 and tiny.distance(new.critic, pi.critic) > 1e-3


@pytest.mark.slow
def test_it_maps_over_seeds_and_bounds():
    pi, batch, _ = case("gaussian", "ppo")
    flat = lambda d: ravel_pytree(
        Fixup(INNER["ppo"], max_kl=d).update(pi, INNER["ppo"].init(pi, KEY), batch, KEY)[0]
    )[0]
    bounds = jnp.asarray([1e-3, 1e-2, 1e4])
    many = jax.jit(jax.vmap(flat))(bounds)
    for got, bound in zip(many, (1e-3, 1e-2, 1e4), strict=True):
        want = ravel_pytree(go(Fixup(INNER["ppo"], max_kl=bound), pi, batch)[0])[0]
        np.testing.assert_allclose(got, want, atol=1e-5)


# The record.


def test_it_is_a_record_like_any_other():
    method = Fixup(PPO(clip=0.1), max_kl=0.2)
    assert method == Fixup(PPO(clip=0.1), max_kl=0.2) != Fixup(PPO(), max_kl=0.2)
    assert hash(method) == hash(Fixup(PPO(clip=0.1), max_kl=0.2))
    assert isinstance(method, PolicyUpdate) and method.first_order and method.promise == "max_kl"
    assert not Fixup(TRPO()).first_order
    assert "max_kl=0.2" in repr(method) and "clip=0.1" in repr(method)
    assert unwrapped(Fixup(method)) == PPO(clip=0.1) and method_name(Fixup(method)) == "ppo"
    assert WRAPPERS["Fixup"] == fixup.__name__


@pytest.mark.parametrize(
    "fields",
    [
        {"inner": "ppo"},
        {"inner": SMALL},
        {"max_kl": 1e-6},
        {"shrink": 1.0},
        {"shrink": 0.0},
        {"max_tries": -1},
    ],
)
def test_fields_out_of_range_are_refused_in_one_line(fields):
    with pytest.raises(UsageError) as caught:
        Fixup(**({"inner": PPO()} | fields))
    assert f"Fixup.{next(iter(fields))} is" in str(caught.value) and "\n" not in str(caught.value)


def test_second_order_methods_still_refuse_a_shared_critic():
    with pytest.raises(UsageError):
        Algorithm(Fixup(TRPO()), SharedValue())
    assert Algorithm(Fixup(PPO()), SharedValue()).method == Fixup(PPO())


def test_the_example_in_the_docstring():
    found = doctest.testmod(fixup)
    assert found.failed == 0 and found.attempted >= 2


@pytest.mark.parametrize(
    "method",
    [
        Fixup(PPO(clip=float("inf")), max_kl=float("inf")),
        Fixup(Fixup(TRPO(), max_kl=0.1, divergence=KLNewOld()), shrink=0.5),
    ],
)
def test_it_goes_through_json(method):
    config = Config(method, ValueFit(), networks=Networks(policy="beta"))
    text = json.dumps(to_json(config), allow_nan=False)
    assert from_json(json.loads(text)) == config


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ({"type": "SGD"}, "config.method.inner is 'SGD'; allowed: an object whose type is one of"),
        (
            {"type": "PPO", "clop": 1},
            "config.method.inner.clop is not a setting; did you mean clip",
        ),
        ("ppo", "config.method.inner is 'ppo'"),
    ],
)
def test_bad_json_is_named(inner, words):
    data = to_json(Config(Fixup(PPO()), ValueFit()))
    data["method"]["inner"] = inner
    with pytest.raises(UsageError) as caught:
        from_json(data)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    data["method"] = {"type": "Surely"}
    with pytest.raises(UsageError, match="Fixup"):
        from_json(data)


# The command line.


def printed(args, capsys):
    assert main(["train", *args, "--print-config"]) == 0
    return json.loads(capsys.readouterr().out)["method"]


def test_flags_put_it_round_a_method(capsys):
    """--method.FIELD stays the method's, --fixup.FIELD is the wrapper's, in either spelling."""
    args = ["--fixup", "0.3", "--method.clip", "0.1", "--fixup.shrink=0.5", "--fixup.divergence"]
    got = printed(["ppo", *TINY, *args, "new_old"], capsys)
    assert (got["type"], got["max_kl"], got["shrink"]) == ("Fixup", 0.3, 0.5)
    assert got["divergence"] == {"type": "KLNewOld"}
    assert (got["inner"]["type"], got["inner"]["clip"]) == ("PPO", 0.1)
    got = printed(["trpo", *TINY, "--fixup=inf", "--method.max-kl", "0.02"], capsys)
    assert (got["max_kl"], got["inner"]["max_kl"]) == ("inf", 0.02)
    assert printed(["ppo", *TINY], capsys)["type"] == "PPO"


def test_it_can_be_repeated_changed_and_taken_off(capsys, tmp_path):
    assert main(["train", "ppo", *TINY, "--fixup", "0.3", "--print-config"]) == 0
    path = tmp_path / "my.json"
    path.write_text(capsys.readouterr().out)
    again = ["ppo", "--config", str(path)]
    assert printed(again, capsys)["max_kl"] == 0.3
    changed = printed([*again, "--fixup.max-kl", "0.1", "--method.clip", "0.3"], capsys)
    assert (changed["max_kl"], changed["inner"]["clip"]) == (0.1, 0.3)
    assert printed([*again, "--fixup", "0.2"], capsys)["max_kl"] == 0.2
    assert printed([*again, "--fixup", "none"], capsys)["type"] == "PPO"


def test_two_wrappers_nest_in_one_order(capsys, tmp_path):
    """The bound goes round the pull, whichever was typed first or stood in a file."""
    both = ["--virtual", "0.3", "--fixup", "0.2", "--virtual.memory-size", "7", "--method.clip=0.1"]
    got = printed(["ppo", *TINY, *both, "--fixup.shrink", "0.5"], capsys)
    assert (got["type"], got["max_kl"], got["shrink"]) == ("Fixup", 0.2, 0.5)
    inner = got["inner"]
    assert (inner["type"], inner["weight"], inner["memory_size"]) == ("VirtualRegion", 0.3, 7)
    assert (inner["inner"]["type"], inner["inner"]["clip"]) == ("PPO", 0.1)
    assert main(["train", "ppo", *TINY, "--fixup", "0.3", "--print-config"]) == 0
    path = tmp_path / "my.json"
    path.write_text(capsys.readouterr().out)
    again = printed(["ppo", "--config", str(path), "--virtual", "2"], capsys)
    assert (again["type"], again["inner"]["type"], again["inner"]["weight"]) == (
        "Fixup",
        "VirtualRegion",
        2.0,
    )
    path.write_text(json.dumps({"env": "CartPole-v1"} | {"method": again, "value": VALUE}))
    assert printed(["ppo", "--config", str(path), "--fixup", "none"], capsys)["weight"] == 2.0
    without = printed(["ppo", "--config", str(path), "--virtual", "none"], capsys)
    assert (without["type"], without["inner"]["type"]) == ("Fixup", "PPO")


VALUE = to_json(ValueFit())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--virtual", "lots"], "--virtual is 'lots'; 'lots' is not a number"),
        (["--virtual", "-1"], "VirtualRegion.weight is -1.0; allowed: a number in [0, inf)"),
        (["--fixup", "lots"], "--fixup is 'lots'; 'lots' is not a number"),
        (["--fixup", "1e-9"], "Fixup.max_kl is 1e-09; allowed: a number in [1e-05, inf]"),
        (["--fixup", "0.5", "--method.clop", "1"], "did you mean --method.inner.clip?"),
        (["--fixup.shrink", "0.5"], "unknown flag --fixup.shrink"),
    ],
)
def test_wrong_flags_are_one_line(args, words, capsys):
    assert main(["train", "ppo", *TINY, *args]) == 2
    out = capsys.readouterr()
    assert words in out.err and out.err.count("\n") == 1


# An agent.


@pytest.mark.slow
def test_an_agent_keeps_the_presets_of_the_method_inside():
    agent = Agent(Fixup(PPO(), max_kl=0.01), "jax:CartPole-v1", num_envs=4, num_steps=64)
    assert agent.config.value == Agent("ppo", "jax:CartPole-v1").config.value
    out, drawn = io.StringIO(), io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=160)
    panel = Panel(agent, 1024, "title", every=0.0, console=console)
    agent.learn(1024, [PlainLines(agent, 1024, out), panel])
    assert out.getvalue().count("/ 0.0100") == 4
    worst = f"{agent.report['kl_max']:.4f}"
    assert f"{worst} / 0.0100" in out.getvalue()
    assert f"max KL {worst} of 0.0100" in drawn.getvalue() and "KL mean" in drawn.getvalue()
    report = agent.trust_report()
    assert (report.promise, report.max_kl, report.violations) == ("max_kl", 0.01, 0)
    assert "0 violations of max_kl <= 0.01" in str(report)
    assert agent.bound == 0.01 and agent.judged == "kl_max"
    assert max(report.kl_max) <= 0.01
