# ruff: noqa: E731 (a lambda reads like the formula)
"""What every method promises, for every distribution; and that every field of every record changes
something."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from surefoot.advantages import GAE
from surefoot.distributions import Beta
from surefoot.divergences import KLNewOld, MeanState
from surefoot.measure import measure
from surefoot.methods import METHODS
from surefoot.methods.fixpo import FixPO
from surefoot.methods.npg import NPG
from surefoot.methods.papi import PAPI
from surefoot.methods.ppo import PPO
from surefoot.methods.trpl import TRPL
from surefoot.methods.trpo import TRPO
from surefoot.networks import Networks
from surefoot.projection import FreeEntropy, LinearEntropy, WassersteinMetric
from surefoot.sgd import SGD
from surefoot.surrogates import Clipped, ratio
from surefoot.types import PROMISES, WORST_MARGIN, Batch, within
from surefoot.value import EntropyBonus, SharedValue, ValueFit
from surefoot.wrappers import WRAPPERS
from surefoot.wrappers.fixup import Fixup

KEY = jax.random.key(0)
TINY_SGD = SGD(lr=0.01, epochs=2, minibatches=2)


class Row(NamedTuple):
    """A method and what it promises."""

    method: Any
    enforces: str = "none"
    """As in `PolicyUpdate.promise`: `mean_kl`, the mean KL(old || new) of the batch is at most the
    field `max_kl`; `max_kl`, that of every state is; `projection`, every state's projection is
    inside its bounds (tests/test_trpl.py)."""
    zero_advantage_is_a_fixed_point: bool = True
    """False where the rounding of a KL moves something: Adam amplifies it."""
    uses_the_key: bool = False


TABLE = {
    "npg lr": Row(NPG(lr=0.1, max_kl=None)),
    "npg max_kl": Row(NPG(max_kl=0.01)),
    "trpo": Row(TRPO(max_kl=0.02, cg_damping=1e-3), enforces="mean_kl"),
    "ppo": Row(PPO(sgd=TINY_SGD), uses_the_key=True),
    "ppo stop_kl": Row(PPO(stop_kl=1e-3, sgd=TINY_SGD), uses_the_key=True),
    "fixpo": Row(
        FixPO(max_kl=0.004, c_beta=1.0, fixup_minibatches=3, sgd=TINY_SGD),
        enforces="max_kl",
        zero_advantage_is_a_fixed_point=False,
        uses_the_key=True,
    ),
    "fixup": Row(
        Fixup(PPO(sgd=TINY_SGD), max_kl=0.002),
        enforces="max_kl",
        uses_the_key=True,
    ),
    "trpl": Row(
        TRPL(mean_bound=0.002, cov_bound=1e-4, sgd=TINY_SGD),
        enforces="projection",
        uses_the_key=True,
    ),
    "papi": Row(PAPI(max_kl=0.001, sgd=TINY_SGD), enforces="mean_kl", uses_the_key=True),
}
FAST = {
    ("npg lr", "gaussian"),
    ("npg max_kl", "categorical"),
    ("trpo", "categorical"),
    ("trpo", "gaussian"),
    ("ppo", "gaussian"),
    ("ppo stop_kl", "categorical"),
    ("fixpo", "gaussian"),
    ("fixup", "beta"),
    ("trpl", "gaussian"),
    ("papi", "gaussian"),
}
"""Rows of every method and both distributions for the quick run; `make test` goes through the whole
table."""


def row(name, kind):
    """One case of the table."""
    return pytest.param(name, kind, marks=() if (name, kind) in FAST else pytest.mark.slow)


def kinds(name):
    """The policies that a row is tried with: full covariances are nothing special to most, the
    Beta is unknown to projections and nothing special to PAPI."""
    if name in ("trpl", "papi"):
        return (*tiny.KINDS, "gaussian_full")
    return (*tiny.EVERY_KIND, *(["gaussian_full"] if name == "trpo" else []))


EVERY = pytest.mark.parametrize(
    ("name", "kind"),
    [row(name, kind) for name in TABLE for kind in kinds(name)],
)


@functools.lru_cache
def compiled(name, kind):
    """One compiled function a row, that all tests of the row share, with the policy it starts
    from."""
    method = TABLE[name].method
    pi = tiny.policy(kind)
    state = method.init(pi, KEY)

    def update(batch, key):
        new, after, info = method.update(pi, state, batch, key)
        return new, after, info, measure(batch, new)

    return jax.jit(update), pi, state


@functools.lru_cache
def plain(kind):
    """A batch with 4 of 24 rows that do not count."""
    return tiny.batch(kind, tiny.policy(kind), masked=4)


def like(tree):
    """Shapes and types of a tree."""
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


@EVERY
def test_structure_shapes_and_types_are_kept(name, kind):
    """So that `scan` and `tree_where` work; the state that goes out is fit to come in."""
    update, pi, state = compiled(name, kind)
    new, after, info, _ = update(plain(kind), KEY)
    assert like(new) == like(pi) and like(after) == like(state)
    assert jax.tree.structure(new) == jax.tree.structure(pi)
    assert all(jnp.shape(x) == () for x in info.values())
    assert tiny.distance(new, pi) > 1e-5
    assert tiny.same(update(plain(kind), KEY), update(plain(kind), KEY))


@EVERY
def test_rows_that_do_not_count_have_no_influence(name, kind):
    update, _, _ = compiled(name, kind)
    batch = plain(kind)
    for size in (1e3, 1e6):
        assert tiny.same(update(tiny.rubbish(batch, size), KEY)[:2], update(batch, KEY)[:2])


@EVERY
def test_zero_advantage_moves_nothing(name, kind):
    update, pi, _ = compiled(name, kind)
    batch = dataclasses.replace(plain(kind), advantage=jnp.zeros(24))
    new, _, info, ruler = update(batch, KEY)
    assert not bool(info.get("accepted", False))  # no gain is no improvement
    if not TABLE[name].zero_advantage_is_a_fixed_point:
        assert float(ruler["kl_max"]) <= TABLE[name].method.max_kl
        return
    assert tiny.same(new, pi)
    assert float(ruler["kl_max"]) < 1e-10 and abs(float(ruler["ratio_max"]) - 1) < 1e-5


@EVERY
def test_huge_advantages_leave_everything_finite(name, kind):
    update, _, _ = compiled(name, kind)
    for scale in (1e9, 1e-9):
        batch = plain(kind)
        out = update(dataclasses.replace(batch, advantage=batch.advantage * scale), KEY)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(out))


@pytest.mark.parametrize(
    "kind",
    [
        "categorical",
        "gaussian",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("gaussian_state", "beta")),
    ],
)
@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if "kl" in row.enforces])
def test_bounds_hold_and_are_not_trivial(name, kind):
    """In float64 and without slack, on many batches; the median step uses more than half of the
    bound."""
    method, worst = TABLE[name].method, TABLE[name].enforces == "max_kl"
    margin = {"margin": WORST_MARGIN} if worst else {}
    update, pi, _ = compiled(name, kind)
    in_float64 = lambda d: jax.tree.map(lambda x: np.asarray(x, np.float64), d)
    used = []
    for seed in range(10):
        batch = tiny.batch(kind, pi, seed=seed, masked=4)
        new, _, info, ruler = update(batch, KEY)
        p, q = in_float64(pi(batch.obs)), in_float64(new(batch.obs))
        kl = tiny.textbook_kl(kind, p, q)[np.asarray(batch.mask)]
        kl = kl.max() if worst else kl.mean()
        assert kl <= method.max_kl
        assert bool(within(ruler[PROMISES[method.promise]], method.max_kl, **margin))
        assert worst or (bool(info.get("accepted", True)) and float(ruler["surrogate_gain"]) > 0)
        used.append(kl / method.max_kl)
    assert np.median(used) > 0.5


@EVERY
def test_a_nan_never_passes_for_an_update(name, kind):
    """Either the policy is the old one bit for bit, or the NaN is there to be seen by `learn`."""
    update, pi, _ = compiled(name, kind)
    batch = plain(kind)
    first = int(np.flatnonzero(np.asarray(batch.mask))[0])
    new, _, _, _ = update(
        dataclasses.replace(batch, advantage=batch.advantage.at[first].set(jnp.nan)), KEY
    )
    assert tiny.same(new, pi) or not all(
        bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(new)
    )


@EVERY
def test_the_key_is_used_or_not(name, kind):
    update, _, _ = compiled(name, kind)
    a, b = (update(plain(kind), jax.random.key(k))[0] for k in (1, 2))
    assert tiny.same(a, b) is not TABLE[name].uses_the_key


def wide(name, kind):
    """A row's update in float64, where rounding cannot hide or feign a difference (ten float32
    products of conjugate gradient may differ by a percent of the step), with its policy and three
    batches."""
    method = TABLE[name].method
    pi = tiny.policy(kind, dtype=np.float64)
    batches = [tiny.batch(kind, pi, seed=s, masked=4) for s in range(3)]
    return lambda batch, key: method.update(pi, method.init(pi, KEY), batch, key)[:2], batches


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        row("trpo", "gaussian"),
        *(row(n, "categorical") for n in TABLE if n != "fixpo"),
        row("ppo", "gaussian"),
        pytest.param("fixpo", "categorical", marks=pytest.mark.slow),
        pytest.param("trpo", "beta", marks=pytest.mark.slow),
    ],
)
def test_jit_equals_no_jit(x64, name, kind):
    update, (batch, *_) = wide(name, kind)
    quick = jax.jit(update)(batch, KEY)
    with jax.disable_jit():
        slow = update(batch, KEY)
    assert like(slow) == like(quick)
    assert tiny.distance(slow, quick) < 1e-9


@pytest.mark.parametrize(
    ("name", "kind"), [row("trpo", "categorical"), *(row(n, "gaussian_state") for n in TABLE)]
)
def test_vmap_over_keys_and_batches(x64, name, kind):
    update, batches = wide(name, kind)
    keys = jax.random.split(KEY, 3)
    many = jax.jit(jax.vmap(update))(jax.tree.map(lambda *x: jnp.stack(x), *batches), keys)
    one = jax.jit(update)
    for i in range(3):
        assert (
            tiny.distance(jax.tree.map(lambda x, i=i: x[i], many), one(batches[i], keys[i])) < 1e-9
        )


@pytest.mark.parametrize(
    "name",
    [
        *("npg max_kl", "trpo", "ppo stop_kl", "fixpo", "fixup"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("trpl", "papi")),
    ],
)
def test_float32_parameters_stay_float32_under_x64(x64, name):
    method = TABLE[name].method
    pi, batch = tiny.policy("gaussian"), plain("gaussian")
    new, after, _ = jax.eval_shape(lambda p: method.update(p, method.init(p, KEY), batch, KEY), pi)
    assert like(new) == like(pi) and like(after) == like(method.init(pi, KEY))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_at_the_old_policy_the_ratio_is_one_and_the_kl_nothing(kind):
    """Also on minibatches, whose rows go through the network beside other rows, and for a sharp
    policy."""
    pi = tiny.policy(kind, hidden=(64, 64), head_gain=3.0, log_std_init=-3.0)
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(size=(512, tiny.OBS)), jnp.float32)

    @jax.jit
    def door(obs, key):
        old = pi(obs)
        action = old.sample(key)
        return old, action, old.log_prob(action)

    old, action, log_prob = door(obs, KEY)
    zero = jnp.zeros(512)
    batch = Batch(obs, action, log_prob, old, zero, zero, zero, jnp.ones(512, bool), jnp.zeros(()))
    ruler = jax.jit(
        lambda b: (jnp.max(jnp.abs(ratio(pi(b.obs), b) - 1)), b.max(b.old.kl(pi(b.obs))))
    )
    for rows in (np.arange(512), rng.permutation(512)[:37], np.arange(3)):
        off, kl = ruler(batch.take(jnp.asarray(rows)))
        assert float(off) < 1e-5 * max(1, float(jnp.max(jnp.abs(log_prob)))) and float(kl) < 1e-10


def test_every_method_has_a_row_and_says_what_it_promises():
    records = {type(row.method).__name__ for row in TABLE.values()}
    assert records == {entry.record for entry in METHODS.values()} | set(WRAPPERS)
    for row in TABLE.values():
        assert row.method.promise == row.enforces and isinstance(row.method.first_order, bool)


# Every field of every record changes something, or the table says why not.
FEW = SGD(lr=0.05, epochs=2, minibatches=2, max_grad_norm=None)
BASE = {
    "NPG": NPG(max_kl=0.05, cg_iters=3),
    "NPG lr": NPG(lr=0.1, max_kl=None),
    "TRPO": TRPO(
        max_kl=2.0, cg_damping=0.03, cg_iters=10, backtrack=0.5
    ),  # the full step is refused
    "PPO": PPO(sgd=SGD(lr=0.05, epochs=2, minibatches=2, max_grad_norm=0.3)),
    "FixPO": FixPO(
        max_kl=0.05,
        beta_lr=0.3,
        fixup_minibatches=2,
        max_sweeps=9,
        sgd=SGD(lr=0.05, epochs=2, minibatches=2),
    ),
    "Fixup": Fixup(
        PPO(sgd=SGD(lr=0.3, epochs=1, minibatches=1)), max_kl=2.0, max_tries=40, shrink=0.7
    ),  # one try in this direction of the KL, two in the other
    "TRPL": TRPL(sgd=FEW, entropy=LinearEntropy(4.0)),  # more than the policy has
    "TRPL low": TRPL(sgd=FEW, entropy=LinearEntropy(-4.0)),  # less
    "PAPI": PAPI(sgd=FEW),
    "PAPI low": PAPI(max_kl=9.0, sgd=FEW, entropy=LinearEntropy(-4.0)),
}
CHANGES = {
    "NPG": {
        "max_kl": 0.02,
        "cg_iters": 2,
        "cg_damping": 0.5,
        "surrogate": "no change: its slope at the old policy",
    },
    "NPG lr": {"lr": 0.2},
    "TRPO": {
        "max_kl": 1.0,
        "cg_iters": 3,
        "cg_damping": 0.5,
        "backtrack": 0.7,
        "max_backtracks": 0,
        "min_gain_ratio": 1.0,
        "surrogate": Clipped(0.01),
    },
    "PPO": {"clip": 0.01, "stop_kl": 1e-9},
    "FixPO": {
        "max_kl": 0.02,
        "c_beta": 1.0,
        "beta_init": 3.0,
        "beta_lr": 0.1,
        "beta_min": 0.9,
        "beta_max": 1.0,
        "divergence": KLNewOld(),
        "statistic": MeanState(),
        "fixup": False,
        "fixup_every_epoch": False,
        "fixup_minibatches": 5,
        "max_sweeps": 0,
    },
    "Fixup": {
        "inner": PPO(sgd=SGD(lr=0.4, epochs=1, minibatches=1)),
        "max_kl": 0.1,
        "divergence": KLNewOld(),
        "shrink": 0.5,
        "max_tries": 0,
    },
    "TRPL": {
        "metric": WassersteinMetric(),
        "mean_bound": 0.001,
        "cov_bound": 0.01,
        "regression": 1.0,
        "surrogate": Clipped(0.01),
        "entropy": FreeEntropy(),
        "entropy_first": False,
    },
    "TRPL low": {"entropy_equality": True},
    "PAPI": {
        "max_kl": 0.005,
        "clip": 0.01,
        "shrink": 0.3,
        "max_shrinks": 0,
        "bisections": 1,
        "entropy": LinearEntropy(4.0),
    },
    "PAPI low": {"entropy_equality": True},
}
SGD_CHANGES = {
    "lr": 0.02,
    "epochs": 3,
    "minibatches": 3,
    "anneal": True,
    "max_grad_norm": None,
    "adam_eps": 0.1,
}


def outcome(method, batch):
    """The new policy, operation by operation: a changed field would otherwise be compiled anew."""
    pi = tiny.policy("gaussian")
    with jax.disable_jit():
        return method.update(pi, method.init(pi, KEY), batch, KEY)[0]


@functools.lru_cache
def base_outcome(name):
    return outcome(BASE[name], plain("gaussian"))


QUICK = {("FixPO", "c_beta"), ("TRPL", "mean_bound"), ("PAPI", "max_kl")}
LONG = {
    (name, f) for name in CHANGES if name[:4] in ("FixP", "TRPL", "PAPI") for f in CHANGES[name]
}
LONG -= QUICK
METHOD_FIELDS = [
    pytest.param(name, field, marks=pytest.mark.slow if (name, field) in LONG else ())
    for name, fields in CHANGES.items()
    for field in fields
]


@pytest.mark.parametrize(("name", "field"), METHOD_FIELDS)
def test_every_field_of_a_method_changes_the_step(name, field):
    value = CHANGES[name][field]
    if name == "NPG" and field == "surrogate":
        changed = dataclasses.replace(BASE[name], surrogate=Clipped(0.2))
        assert tiny.distance(outcome(changed, plain("gaussian")), base_outcome(name)) < 1e-6
        return
    changed = dataclasses.replace(BASE[name], **{field: value})
    assert tiny.distance(outcome(changed, plain("gaussian")), base_outcome(name)) > 1e-4


@pytest.mark.parametrize("field", SGD_CHANGES)
def test_every_field_of_sgd_changes_the_step(field):
    sgd = dataclasses.replace(BASE["PPO"].sgd, **{field: SGD_CHANGES[field]})
    changed = dataclasses.replace(BASE["PPO"], sgd=sgd)
    assert tiny.distance(outcome(changed, plain("gaussian")), base_outcome("PPO")) > 1e-5


def test_the_tables_name_every_field():
    names = lambda record: {f.name for f in dataclasses.fields(record)}
    assert names(NPG) == set(CHANGES["NPG"]) | set(CHANGES["NPG lr"])
    assert names(TRPO) == set(CHANGES["TRPO"])
    assert names(PPO) == set(CHANGES["PPO"]) | {"sgd"}
    assert names(FixPO) == set(CHANGES["FixPO"]) | {"sgd"}
    assert names(Fixup) == set(CHANGES["Fixup"])
    for record in (TRPL, PAPI):
        tables = CHANGES[record.__name__], CHANGES[f"{record.__name__} low"]
        assert names(record) == set().union(*tables) | {"sgd"}
    assert names(SGD) == set(SGD_CHANGES)
    assert names(ValueFit) == {"sgd", "clip"} and names(SharedValue) == {"coef", "clip"}
    assert names(EntropyBonus) == {"coef"} and names(GAE) == {"gamma", "lam", "normalize"}
    assert names(Networks) == set(NETWORK_CHANGES)


def test_every_field_of_the_value_records_changes_something():
    shared, _ = Networks(hidden=(6,), shared_layers=1).init(tiny.spec("categorical"), 0)
    shared = tiny.cast(shared, np.float32)
    batch = plain("categorical")
    pay = lambda record: float(record.penalty(shared, batch))
    assert len({pay(SharedValue()), pay(SharedValue(coef=1.0)), pay(SharedValue(clip=0.1))}) == 3
    bonus = lambda coef: float(EntropyBonus(coef)(tiny.policy("categorical"), batch))
    assert bonus(0.1) != bonus(0.2)
    critic = tiny.cast(
        tiny.networks("categorical").init(tiny.spec("categorical"), 0)[1], np.float32
    )
    base = ValueFit(SGD(lr=0.05, epochs=1, minibatches=1))

    def fitted(record):
        with jax.disable_jit():
            return record.update(critic, record.init(critic), batch, KEY)[0]

    assert tiny.distance(fitted(base), fitted(dataclasses.replace(base, clip=0.1))) > 1e-5
    assert (
        tiny.distance(
            fitted(base),
            fitted(dataclasses.replace(base, sgd=SGD(lr=0.02, epochs=1, minibatches=1))),
        )
        > 1e-5
    )


NETWORK_CHANGES = {
    "hidden": (9,),
    "activation": "relu",
    "head_gain": 0.5,
    "policy": "beta",
    "log_std_init": 0.4,
    "log_std_min": -0.2,
    "log_std_max": -0.4,
    "state_dependent_std": True,
    "full_covariance": True,
    "shared_layers": 1,
}


@pytest.mark.parametrize("field", NETWORK_CHANGES)
def test_every_field_of_the_networks_changes_the_policy(field):
    """The floor and the ceiling are seen with a log-sigma beyond them, which training may bring
    about."""
    base = Networks(hidden=(6,), log_std_init=-0.3)
    extra = {"log_std_min": {"log_std_init": -0.1}, "log_std_max": {"log_std_init": -0.5}}.get(
        field, {}
    )
    changed = dataclasses.replace(base, **{field: NETWORK_CHANGES[field]}, **extra)
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)

    def far(nets):
        pi, critic = nets.init(tiny.spec("gaussian"), 0)
        if field in ("log_std_min", "log_std_max"):
            pi = eqx.tree_at(lambda p: p.head.std, pi, np.full(2, -0.3, np.float32))
        return tiny.cast(pi, np.float32)(obs), critic

    (a, critic), (b, other) = far(base), far(changed)
    if field == "full_covariance":  # another family
        assert type(a) is not type(b)
        return
    if field == "policy":
        assert isinstance(b, Beta) and not isinstance(a, Beta)
        return
    assert tiny.distance(a, b) > 1e-4 or (field == "shared_layers" and critic != other == ())
