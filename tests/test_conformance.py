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
from surefoot.checks import UsageError
from surefoot.distributions import Beta
from surefoot.divergences import KLNewOld, MeanState
from surefoot.measure import measure
from surefoot.memory import EveryStep, MeanBlend
from surefoot.methods import METHODS
from surefoot.methods.discovered_po import DiscoveredPO
from surefoot.methods.espo import ESPO
from surefoot.methods.fixpo import FixPO
from surefoot.methods.mcpo import MCPO
from surefoot.methods.mdpo import MDPO
from surefoot.methods.npg import NPG
from surefoot.methods.papi import PAPI
from surefoot.methods.ppo import PPO
from surefoot.methods.ppo_kl import PPOKL
from surefoot.methods.ppo_rb import PPORB
from surefoot.methods.spo import SPO
from surefoot.methods.spu import SPU
from surefoot.methods.tr_ppo import TRPPO
from surefoot.methods.trefree import TREFree
from surefoot.methods.trefree_free import TREFreeFree
from surefoot.methods.trefree_ratio import TREFreeRatio
from surefoot.methods.trgppo import TRGPPO
from surefoot.methods.trpl import TRPL
from surefoot.methods.trpo import TRPO
from surefoot.methods.truly_ppo import TrulyPPO
from surefoot.methods.vmpo import VMPO
from surefoot.multipliers import ConstantBeta, FactorRule
from surefoot.networks import Networks
from surefoot.projection import FreeEntropy, LinearEntropy, WassersteinMetric
from surefoot.sgd import SGD
from surefoot.surrogates import Clipped, ratio
from surefoot.types import PROMISES, WORST_MARGIN, Batch, within
from surefoot.value import EntropyBonus, SharedValue, ValueFit
from surefoot.wrappers import WRAPPERS
from surefoot.wrappers.fixup import Fixup
from surefoot.wrappers.virtual_region import VirtualRegion

KEY = jax.random.key(0)
TINY_SGD = SGD(lr=0.01 / 0.75, epochs=2, minibatches=2, anneal=True)
"""A rate of 0.01 on batches at a quarter of the run, and of nothing at its end."""
LONG_SGD = SGD(lr=0.05 / 0.75, epochs=2, minibatches=2, anneal=True)
"""Steps long enough for clips and gates to be felt."""


class Row(NamedTuple):
    """A method and what it promises."""

    method: Any
    enforces: str = "none"
    """As in `PolicyUpdate.promise`: `mean_kl`, the mean KL(old || new) of the batch is at most the
    field `max_kl`; `max_kl`, that of every state is; `projection`, every state's projection is
    inside its bounds (tests/test_trpl.py)."""
    at_zero_advantage: str = "still"
    """`still`: nothing moves; `shakes`: the rounding of a KL does, for Adam amplifies it (that its
    slope is nothing there: test_first_order); `inside`: so it does, and the bound holds; `moves`: a
    target is fitted whatever the advantages are."""
    uses_the_key: bool = False
    numbers: dict[str, Any] | None = None
    """Fields that are numbers, with another value of each. The row is then tested in one program:
    all its cases, and one a field, are lanes of a `vmap`. None: one call a case."""


TABLE = {
    "npg lr": Row(NPG(lr=0.1, max_kl=None)),
    "npg max_kl": Row(NPG(max_kl=0.01)),
    "trpo": Row(TRPO(max_kl=0.02, cg_damping=1e-3), enforces="mean_kl"),
    "ppo": Row(PPO(sgd=TINY_SGD), uses_the_key=True),
    "ppo stop_kl": Row(PPO(stop_kl=1e-3, sgd=TINY_SGD), uses_the_key=True),
    "fixpo": Row(
        FixPO(max_kl=0.004, c_beta=1.0, fixup_minibatches=3, sgd=TINY_SGD),
        enforces="max_kl",
        at_zero_advantage="inside",
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


def lanes(method, at_zero_advantage="still", **numbers):
    """A row whose cases are lanes."""
    return Row(method, "none", at_zero_advantage, True, numbers)


TABLE |= {
    "ppo_kl": lanes(PPOKL(target_kl=0.1, sgd=LONG_SGD), "shakes", target_kl=1e-4, beta_init=3.0),
    "trefree": lanes(TREFree(delta=0.05, sgd=LONG_SGD), delta=0.01),
    "trefree_ratio": lanes(TREFreeRatio(clip=0.05, sgd=LONG_SGD), clip=0.1),
    "trefree_free": lanes(TREFreeFree(sgd=LONG_SGD)),
    "mdpo": lanes(MDPO(sgd=LONG_SGD), "shakes", beta=2.0, t_min=1.0),
    "vmpo": lanes(
        VMPO(dual_lr=0.1, sgd=LONG_SGD),
        "moves",
        eps_eta=0.5,
        eta_init=0.3,
        alpha_init=1.0,
        dual_lr=0.2,
        fraction=0.8,
        target_kl={"categorical": 0.5},
        target_kl_mean={"gaussian": 0.5},
        target_kl_cov={"gaussian": 0.5},
    ),
    "trgppo": lanes(TRGPPO(sgd=LONG_SGD), clip=0.05),
    "spo": lanes(SPO(sgd=LONG_SGD), clip=0.1),
    "espo": lanes(ESPO(stop_deviation=9.0, sgd=LONG_SGD), stop_deviation=0.01),
    "truly_ppo": lanes(TrulyPPO(delta=0.001, sgd=LONG_SGD), "still", delta=0.01, alpha=20.0),
    "tr_ppo": lanes(TRPPO(delta=0.001, sgd=LONG_SGD), delta=9.0),
    "ppo_rb": lanes(PPORB(clip=0.05, sgd=LONG_SGD), clip=0.1, alpha=1.0),
    "spu": lanes(
        SPU(epsilon=0.01, stop_kl=1.0, sgd=LONG_SGD), "shakes", lam=0.2, epsilon=0.05, stop_kl=1e-6
    ),
    "discovered_po": lanes(DiscoveredPO(alpha=0.2, beta=0.1, sgd=LONG_SGD), alpha=0.02, beta=0.02),
    "mcpo": lanes(MCPO(memory_size=3, sgd=LONG_SGD), "shakes"),
    "virtual": lanes(VirtualRegion(PPO(sgd=LONG_SGD)), "shakes", weight=20.0),
}
FAST = {
    ("npg max_kl", "categorical"),
    ("trpo", "categorical"),
    ("trpo", "gaussian"),
    ("ppo", "gaussian"),
    ("ppo stop_kl", "categorical"),
    ("fixpo", "gaussian"),
    ("fixup", "beta"),
    ("ppo_kl", "gaussian"),
    ("trefree", "categorical"),
    ("trpl", "gaussian"),
    ("papi", "gaussian"),
}
"""Rows of every kind of method and both distributions for the quick run; `make test` goes through
the whole table."""


def row(name, kind):
    """One case of the table."""
    return pytest.param(name, kind, marks=() if (name, kind) in FAST else pytest.mark.slow)


BY_LANES = [name for name in TABLE if TABLE[name].numbers is not None]
BY_CALLS = [name for name in TABLE if name not in BY_LANES]


def kinds(name):
    """The policies that a row is tried with: full covariances are nothing special to most, the
    Beta is unknown to projections and nothing special to PAPI, and variants of a row are of its
    distributions."""
    if name in BY_LANES or name in ("npg lr", "ppo stop_kl"):
        return ("categorical", "gaussian")
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


def cases(kind):
    """What every row is tried on: batches and keys, by name."""
    batch, second = plain(kind), tiny.batch(kind, tiny.policy(kind), seed=2, masked=4)
    scaled = lambda x: dataclasses.replace(batch, advantage=batch.advantage * x)
    first = int(np.flatnonzero(np.asarray(batch.mask))[0])
    nan = dataclasses.replace(batch, advantage=batch.advantage.at[first].set(jnp.nan))
    return {
        "plain": (batch, KEY),
        "again": (batch, KEY),
        "rubbish": (tiny.rubbish(batch, 1e3), KEY),
        "much rubbish": (tiny.rubbish(batch, 1e6), KEY),
        "zero": (dataclasses.replace(batch, advantage=jnp.zeros(24)), KEY),
        "huge": (scaled(1e9), KEY),
        "small": (scaled(1e-9), KEY),
        "nan": (nan, KEY),
        "key 1": (batch, jax.random.key(1)),
        "key 2": (batch, jax.random.key(2)),
        "second": (second, jax.random.key(3)),
        "end": (dataclasses.replace(batch, progress=jnp.ones(())), KEY),
    }


@functools.lru_cache
def outcomes(name, kind):
    """Policy, state, report and ruler of every case; of rows by lanes also with every number
    changed, under the name of the field."""
    if name not in BY_LANES:
        update, _, _ = compiled(name, kind)
        return {case: update(*args) for case, args in cases(kind).items()}
    method, pi = TABLE[name].method, tiny.policy(kind)
    changed = {k: v[kind] if isinstance(v, dict) else v for k, v in numbers_of(name, kind).items()}
    base = {field: float(getattr(method, field)) for field in changed}
    tried = [(*args, base, 0.0) for args in cases(kind).values()]
    tried += [(plain(kind), KEY, base | {field: x}, 0.0) for field, x in changed.items()]
    tried += [(plain(kind), KEY, base, coef) for coef in (1e3, -1e3)]

    def update(batch, key, numbers, coef):
        own = dataclasses.replace(method, **numbers)
        bonus = EntropyBonus(coef)
        new, after, info = own.update(pi, own.init(pi, KEY), batch, key, penalty=bonus)
        return new, after, info, measure(batch, new)

    many = jax.jit(jax.vmap(update))(*jax.tree.map(lambda *x: jnp.stack(x), *tried))
    names = [*cases(kind), *changed, "more entropy", "less entropy"]
    return {k: jax.tree.map(lambda x, i=i: x[i], many) for i, k in enumerate(names)}


def numbers_of(name, kind):
    """Fields of a row that count for a kind of policy, with their other values."""
    fits = lambda x: not isinstance(x, dict) or kind in x
    return {field: x for field, x in TABLE[name].numbers.items() if fits(x)}


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
    method, pi = TABLE[name].method, tiny.policy(kind)
    new, after, info, _ = outcomes(name, kind)["plain"]
    assert like(new) == like(pi) and like(after) == like(method.init(pi, KEY))
    assert jax.tree.structure(new) == jax.tree.structure(pi)
    assert all(jnp.ndim(x) <= 1 for x in info.values())
    assert tiny.distance(new, pi) > 1e-5
    assert tiny.same(outcomes(name, kind)["again"], outcomes(name, kind)["plain"])


@EVERY
def test_rows_that_do_not_count_have_no_influence(name, kind):
    got = outcomes(name, kind)
    for case in ("rubbish", "much rubbish"):
        assert tiny.same(got[case][:2], got["plain"][:2])


@EVERY
def test_zero_advantage_moves_nothing(name, kind):
    pi, promised = tiny.policy(kind), TABLE[name].at_zero_advantage
    new, _, info, ruler = outcomes(name, kind)["zero"]
    assert not bool(info.get("accepted", False))  # no gain is no improvement
    if promised == "inside":
        assert float(ruler["kl_max"]) <= TABLE[name].method.max_kl
        return
    if promised == "moves":
        assert tiny.distance(new, pi) > 1e-3
        return
    if promised == "shakes":
        assert float(ruler["kl_mean"]) < 0.3 * float(outcomes(name, kind)["plain"][3]["kl_mean"])
        return
    assert tiny.same(new, pi)
    assert float(ruler["kl_max"]) < 1e-10 and abs(float(ruler["ratio_max"]) - 1) < 1e-5


NOTHING = (
    *("_fraction", "_deviation", "_drift", "_part", "_outside", "_regression", "_psi_gain"),
    *("_kl_max", "_kl_mean", "_kl_old_theta", "_kl_old_psi", "_kl_theta_psi", "_kl_new_psi"),
    *("fixpo_steps", "_capped", "_tries", "_fallback"),
)
"""How columns end that are zero where no policy has left the old one."""


@EVERY
def test_the_first_ratio_is_one_and_the_first_kl_nothing(name, kind):
    """Every step is a first one where the rate is nothing, at the end of a run; NPG and TRPO, which
    have no rate, stand still without advantage."""
    case = "zero" if name.startswith(("npg", "trpo")) else "end"
    new, _, info, ruler = outcomes(name, kind)[case]
    assert tiny.same(new, tiny.policy(kind))
    assert max(abs(float(ruler[f"ratio_{end}"]) - 1) for end in ("min", "max")) < 1e-5
    assert max(float(ruler[column]) for column in ("kl_max", "kl_reverse")) < 1e-10
    assert max([abs(float(x)) for k, x in info.items() if k.endswith(NOTHING)], default=0) < 1e-6


@EVERY
@pytest.mark.slow
def test_huge_advantages_leave_everything_finite(name, kind):
    for case in ("huge", "small"):
        out = outcomes(name, kind)[case]
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
    new = outcomes(name, kind)["nan"][0]
    assert tiny.same(new, tiny.policy(kind)) or not all(
        bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(new)
    )


@EVERY
def test_the_key_is_used_or_not(name, kind):
    a, b = (outcomes(name, kind)[case][0] for case in ("key 1", "key 2"))
    assert tiny.same(a, b) is not TABLE[name].uses_the_key


def both_kinds(names):
    """Cases of the table for a categorical and a Gaussian policy."""
    kinds = ("categorical", "gaussian")
    return pytest.mark.parametrize(("name", "kind"), [row(n, k) for n in names for k in kinds])


@both_kinds(BY_LANES)
@pytest.mark.slow
def test_compiled_lanes_equal_single_updates_as_written(name, kind):
    """`jit` and `vmap` in one: a lane beside the update run operation by operation. In float32;
    that every method agrees to 1e-9 in float64 is shown beside its reference."""
    method, pi = TABLE[name].method, tiny.policy(kind)
    batch, key = cases(kind)["second"]
    with jax.disable_jit():
        slow = method.update(pi, method.init(pi, KEY), batch, key)
    lane = outcomes(name, kind)["second"][:3]
    assert like(slow) == like(lane)
    assert tiny.distance(slow[0], lane[0]) < 1e-4 < 0.03 < tiny.distance(slow[0], pi)


def wide(name, kind, **fields):
    """A row's update in float64, where rounding cannot hide or feign a difference (ten float32
    products of conjugate gradient may differ by a percent of the step), with its policy and three
    batches."""
    method = dataclasses.replace(TABLE[name].method, **fields)
    pi = tiny.policy(kind, dtype=np.float64)
    batches = [tiny.batch(kind, pi, seed=s, masked=4) for s in range(3)]
    return lambda batch, key: method.update(pi, method.init(pi, KEY), batch, key)[:2], batches


BRANCHING = ("trpo", "ppo stop_kl", "fixpo", "fixup", "papi")
"""Rows whose updates take one way or another, where a `vmap` takes both."""


@both_kinds(BY_CALLS)
@pytest.mark.slow
def test_compiled_updates_equal_updates_as_written(x64, name, kind):
    """Over keys and batches; FixPO for one epoch: its loops are many operations."""
    shorter = {"sgd": dataclasses.replace(TINY_SGD, epochs=1)} if name == "fixpo" else {}
    update, batches = wide(name, kind, **shorter)
    keys = jax.random.split(KEY, 3)
    many = jax.jit(jax.vmap(update))(jax.tree.map(lambda *x: jnp.stack(x), *batches), keys)
    many = [jax.tree.map(lambda x, i=i: x[i], many) for i in range(3)]
    with jax.disable_jit():
        slow = update(batches[1], keys[1])
    assert like(slow) == like(many[1])
    assert tiny.distance(slow, many[1]) < 1e-9 < tiny.distance(many[0], many[2])
    if name in BRANCHING:
        one = jax.jit(update)
        assert all(
            tiny.distance(one(*args), many[i]) < 1e-9
            for i, args in enumerate(zip(batches, keys, strict=True))
        )


@pytest.mark.parametrize(
    "name",
    [
        *("npg max_kl", "trpo", "ppo stop_kl", "fixpo", "fixup"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("trpl", "papi")),
        *BY_LANES,
    ],
)
@pytest.mark.slow
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


@pytest.mark.parametrize(("name", "kind"), [p for p in EVERY.args[1] if p.values[0] in BY_LANES])
def test_a_penalty_enters_with_a_minus(name, kind):
    """An entropy bonus so large that nothing else counts raises the entropy."""
    got, batch = outcomes(name, kind), plain(kind)
    before = float(batch.mean(batch.old.entropy()))
    more, less = (float(got[f"{word} entropy"][3]["entropy"]) for word in ("more", "less"))
    assert less + 1e-3 < before < more - 1e-3


@pytest.mark.slow
def test_beta_policies_are_served_or_refused():
    pi = tiny.policy("beta")
    batch = tiny.batch("beta", pi, masked=4)
    for name in BY_LANES:
        method = TABLE[name].method
        run = lambda p, m=method: m.update(p, m.init(p, KEY), batch, KEY)
        if name == "trgppo":
            with pytest.raises(UsageError, match="no ratio bounds for a Beta policy"):
                jax.eval_shape(run, pi)
            continue
        new, after, _ = jax.eval_shape(run, pi)
        assert like(new) == like(pi) and like(after) == like(method.init(pi, KEY))


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


def outcome(method):
    """The new policy, compiled."""
    pi = tiny.policy("gaussian")
    run = lambda batch: method.update(pi, method.init(pi, KEY), batch, KEY)[0]
    return jax.jit(run)(plain("gaussian"))


@functools.lru_cache
def base_outcome(name):
    return outcome(BASE[name])


@functools.lru_cache
def numbers_changed(name):
    """New policies with each number among the fields changed, by field, and with none ("base"):
    lanes of one program, which compiling a program a field would take ten times as long as."""
    changed = {
        field: x
        for field, x in CHANGES[name].items()
        if isinstance(x, float) and isinstance(getattr(BASE[name], field), float)
        if field not in ("cg_damping", "backtrack", "shrink")  # `curvature` asks for a float
    }
    base = {field: getattr(BASE[name], field) for field in changed}
    lanes = [base] + [base | {field: x} for field, x in changed.items()]
    stacked = {field: jnp.asarray([lane[field] for lane in lanes]) for field in changed}
    pi, batch = tiny.policy("gaussian"), plain("gaussian")

    def run(numbers):
        method = dataclasses.replace(BASE[name], **numbers)
        return method.update(pi, method.init(pi, KEY), batch, KEY)[0]

    many = jax.jit(jax.vmap(run))(stacked) if changed else None
    names = ["base", *changed] if changed else []
    return {k: jax.tree.map(lambda x, i=i: x[i], many) for i, k in enumerate(names)}


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
@pytest.mark.slow
def test_every_field_of_a_method_changes_the_step(name, field):
    value = CHANGES[name][field]
    if name == "NPG" and field == "surrogate":
        changed = dataclasses.replace(BASE[name], surrogate=Clipped(0.2))
        assert tiny.distance(outcome(changed), base_outcome(name)) < 1e-6
        return
    lanes = numbers_changed(name)
    if field in lanes:
        assert tiny.distance(lanes[field], lanes["base"]) > 1e-4
        return
    changed = dataclasses.replace(BASE[name], **{field: value})
    assert tiny.distance(outcome(changed), base_outcome(name)) > 1e-4


@pytest.mark.parametrize(("name", "kind"), [p for p in EVERY.args[1] if p.values[0] in BY_LANES])
def test_every_number_changes_the_update(name, kind):
    """The policy, or what is kept for the next update."""
    got = outcomes(name, kind)
    for field in numbers_of(name, kind):
        assert tiny.distance(got[field][:2], got["plain"][:2]) > 1e-4, field


CHOICES = {
    ("ppo_kl", "divergence"): ({}, KLNewOld()),
    ("ppo_kl", "rule"): ({}, FactorRule(up=3.0)),
    ("mdpo", "q"): ({}, 1.5),
    ("trgppo", "delta"): ({}, 1e-3),
    ("trgppo", "at_least_clip"): ({"delta": 1e-4}, True),
    ("vmpo", "target_every"): ({}, 2),
    ("mcpo", "memory_size"): ({}, 1),
    ("mcpo", "alpha"): ({}, 1.0),
    ("mcpo", "beta"): ({}, ConstantBeta(3.0)),
    ("mcpo", "writing"): ({}, EveryStep(3)),
    ("mcpo", "blend"): ({}, MeanBlend()),
    ("mcpo", "first_policy"): ({}, True),
}
"""Fields that are no numbers, or whose value chooses a part of the program: what else is set, and
another value."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "field"), CHOICES)
def test_every_choice_changes_the_update(name, field):
    """Over two updates, the second from where the first ended: a slower target is felt then."""
    pi, batch = tiny.policy("gaussian"), plain("gaussian")
    others, value = CHOICES[name, field]

    def twice(method):
        new, state, _ = method.update(pi, method.init(pi, KEY), batch, KEY)
        old = new(batch.obs)
        moved = dataclasses.replace(batch, old=old, log_prob=old.log_prob(batch.action))
        return method.update(new, state, moved, KEY)[:2]

    sgd = SGD(lr=0.1, epochs=1, minibatches=2)
    method = dataclasses.replace(TABLE[name].method, sgd=sgd, **others)
    changed = dataclasses.replace(method, **{field: value})
    (new, state), (other, after) = jax.jit(lambda: (twice(method), twice(changed)))()
    beta = lambda s: s.beta if name == "ppo_kl" else 0.0
    assert tiny.distance((new, beta(state)), (other, beta(after))) > 1e-5


@pytest.mark.parametrize("field", SGD_CHANGES)
@pytest.mark.slow
def test_every_field_of_sgd_changes_the_step(field):
    sgd = dataclasses.replace(BASE["PPO"].sgd, **{field: SGD_CHANGES[field]})
    changed = dataclasses.replace(BASE["PPO"], sgd=sgd)
    assert tiny.distance(outcome(changed), base_outcome("PPO")) > 1e-5


OWN_LOOPS = {"FixPO": BASE["FixPO"], "VMPO": VMPO(), "MCPO": MCPO(blend=MeanBlend())}
"""Methods that read `SGD` by hand instead of calling `minimise`."""
SGD_NUMBERS = {"lr": 0.02, "max_grad_norm": 0.03, "adam_eps": 0.1}
SGD_OTHERS = {"epochs": 3, "minibatches": 3, "anneal": True}


@pytest.mark.parametrize("name", OWN_LOOPS)
@pytest.mark.slow
def test_every_field_of_sgd_changes_the_step_of_a_loop_of_its_own(name):
    """In one program, numbers as lanes of it."""
    pi, sgd = tiny.policy("gaussian"), SGD(lr=0.05, epochs=2, minibatches=2, max_grad_norm=0.3)
    base = {field: getattr(sgd, field) for field in SGD_NUMBERS}
    lanes = [base, *(base | {field: x} for field, x in SGD_NUMBERS.items())]
    stacked = {field: jnp.asarray([lane[field] for lane in lanes]) for field in base}

    def run(batch, **fields):
        method = dataclasses.replace(OWN_LOOPS[name], sgd=dataclasses.replace(sgd, **fields))
        return method.update(pi, method.init(pi, KEY), batch, KEY)[0]

    @jax.jit
    def every(batch):
        numbers = jax.vmap(lambda lane: run(batch, **lane))(stacked)
        return numbers, {field: run(batch, **{field: x}) for field, x in SGD_OTHERS.items()}

    numbers, found = every(plain("gaussian"))
    was, *moved = (jax.tree.map(lambda x, i=i: x[i], numbers) for i in range(len(lanes)))
    found |= dict(zip(SGD_NUMBERS, moved, strict=True))
    for field in SGD_CHANGES:
        assert tiny.distance(found[field], was) > 1e-4, field


def test_the_tables_name_every_field():
    names = lambda record: {f.name for f in dataclasses.fields(record)}
    assert names(NPG) == set(CHANGES["NPG"]) | set(CHANGES["NPG lr"])
    assert names(TRPO) == set(CHANGES["TRPO"])
    assert names(PPO) == set(CHANGES["PPO"]) | {"sgd"}
    assert names(FixPO) == set(CHANGES["FixPO"]) | {"sgd"}
    assert names(Fixup) == set(CHANGES["Fixup"])
    for name in BY_LANES:
        chosen = {field for other, field in CHOICES if other == name}
        own = {"sgd"}
        if name == "virtual":  # changed in test_virtual_region
            own = {"inner", "memory_size", "writing", "blend", "blend_lr"}
        told = set(TABLE[name].numbers) | chosen | own
        assert names(TABLE[name].method) == told, name
    fields = {"low", "high", "down", "up", "floor", "ceiling"}  # changed in test_first_order
    assert names(FactorRule) == fields
    for record in (TRPL, PAPI):
        tables = CHANGES[record.__name__], CHANGES[f"{record.__name__} low"]
        assert names(record) == set().union(*tables) | {"sgd"}
    assert names(SGD) == set(SGD_CHANGES) == set(SGD_NUMBERS) | set(SGD_OTHERS)
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
        return jax.jit(lambda: record.update(critic, record.init(critic), batch, KEY)[0])()

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
    "joint": True,
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
    assert tiny.distance(a, b) > 1e-4 or (
        field in ("shared_layers", "joint") and critic != other == ()
    )
