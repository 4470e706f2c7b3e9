"""The nouns every other file speaks of: `Step`, `Rollout`, `Batch`, and the protocols of policies
and updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

Array = jax.Array | np.ndarray
"""An array; NumPy's stand for jax's until the first compiled call."""
Number = float | Array
"""A number, or a traced one where a sweep runs over it."""
Key = jax.Array
Obs = Any  # Float[Array, "... obs_dim"]; other observation spaces come as pytrees of arrays
Action = Any  # Float[Array, "... act_dim"] for a Gaussian, Int[Array, "..."] for a Categorical
State = Any  # whatever a method keeps between updates: a pytree of arrays
Info = dict[str, Any]  # scalars and vectors a method reports about its update


@runtime_checkable
class Distribution(Protocol):
    """A pytree that holds one distribution per state, batched over leading axes."""

    def sample(self, key: Key) -> Action: ...
    def mode(self) -> Action: ...
    def log_prob(self, action: Action) -> Array: ...
    def entropy(self) -> Array: ...
    def kl(self, other: Any) -> Array:
        """KL(self || other) in closed form, one number a state."""
        ...

    def fisher(self, tangent: Any) -> Any:
        """The Fisher matrix of the distribution's own parameters, times a tangent in those
        parameters."""
        ...


@runtime_checkable
class Policy(Protocol):
    """A pytree of parameters that is also the function from observations to distributions."""

    def __call__(self, obs: Obs) -> Any: ...


@dataclass(frozen=True)
class EnvSpec:
    """What the rest of the library may know of an environment."""

    id: str
    suite: str
    """`gymnasium`, `envpool`, `jax`, `gymnax` or `probe`."""
    num_envs: int
    obs_dim: int
    action_dim: int
    """Number of actions if discrete, else the length of the action vector."""
    discrete: bool
    max_episode_steps: int | None = None
    on_device: bool = False
    same_step: bool = False
    """True where the first observation of the next episode comes with the end of the last one; then
    every `Step` has `final_obs`. False where the next step is only a reset, marked by `mask`."""


class Step(NamedTuple):
    """What `num_envs` environments returned, whichever suite they are from. Arrays are `[N,
    ...]`."""

    obs: Obs
    """First observation of the next episode if one just ended and the suite resets in the same
    step."""
    reward: Any
    terminated: Any
    """Nothing follows: bootstrap with zero."""
    truncated: Any
    """Cut short: bootstrap with the value of the true successor."""
    mask: Any
    """False on rows that are only a reset: their action was ignored and their reward means
    nothing."""
    final_obs: Obs | None = None
    """The true successor of the action, before any reset; None on next-step suites, where `obs` is
    it."""
    success: Any = None
    """Where an episode ended: 1 for a success, 0 for a failure, NaN where the environment does not
    say, and elsewhere. None where nothing is said of any."""


class Rollout(eqx.Module):
    """What the environment said, time-major, observations normalised with the statistics of this
    iteration.

    `obs` has one row more than the rest. On next-step suites row t+1 is the true successor of row
    t, and the row after an end has `mask=False`; on same-step suites `final_obs[t]` is the true
    successor where an episode ended.
    """

    obs: Float[Array, "T1 N obs"]
    action: Any
    reward: Float[Array, "T N"]
    terminated: Bool[Array, "T N"]
    truncated: Bool[Array, "T N"]
    mask: Bool[Array, "T N"]
    final_obs: Any = None
    log_prob: Any = None
    """Behaviour log-probability [T, N], where another distribution than the policy handed to
    `learn` chose the actions; None means: it did."""
    steps: Any = None
    """Environment steps behind each row [T, N], where those are not one: branches of a vine, whose
    reward is their discounted return."""
    spent: Any = None
    """Environment steps it took in all, where those are not the rows that count."""

    def env_steps(self) -> Array:
        """Environment steps it took."""
        return jnp.sum(self.mask) if self.spent is None else self.spent


class Batch(eqx.Module):
    """All that an update may see. Leading axis M = T * N, time-major flattened."""

    obs: Obs
    action: Action
    log_prob: Float[Array, " M"]
    """Under the behaviour policy."""
    old: Any
    """The behaviour distribution itself, so that a KL needs no second network."""
    advantage: Float[Array, " M"]
    value_target: Float[Array, " M"]
    value: Float[Array, " M"]
    """V under the critic that made the advantages."""
    mask: Bool[Array, " M"]
    progress: Float[Array, ""]
    """Share of training done, 0 to 1; every schedule reads this."""
    standardize_minibatch: bool = eqx.field(static=True, default=False)
    """Whether `minibatch` standardises the advantage again over the rows it takes."""
    branches: int = eqx.field(static=True, default=1)
    """Rows of each state: row r is a branch of state r mod (M / branches). Rows that were taken
    apart (`take`) are states of their own."""
    extra: Any = None
    """Arrays [M, ...] of a method's own that travel with the rows; nobody else reads them."""

    def mean(self, x: Array) -> Array:
        """Mean over the rows that count. The only mean in the library."""
        total = jnp.sum(jnp.where(self.mask, x, 0))
        return total / jnp.maximum(jnp.sum(self.mask, dtype=x.dtype), 1)

    def max(self, x: Array) -> Array:
        """Largest value over the rows that count; NaN anywhere among them is NaN."""
        return jnp.max(jnp.where(self.mask, x, -jnp.inf))

    def take(self, rows: Array) -> Batch:
        """The given rows of every array; scalars stay."""
        pick = lambda x: jnp.take(x, rows, axis=0)  # noqa: E731
        fields = (
            self.obs,
            self.action,
            self.log_prob,
            self.old,
            self.advantage,
            self.value_target,
            self.value,
            self.mask,
        )
        taken, extra = jax.tree.map(pick, (fields, self.extra))
        return Batch(*taken, self.progress, self.standardize_minibatch, extra=extra)  # pyright: ignore[reportCallIssue] (a tuple of eight)

    def minibatch(self, rows: Array) -> Batch:
        """`take`, with the advantage standardised over the rows taken where the batch asks for
        it."""
        mb = self.take(rows)
        if not self.standardize_minibatch:
            return mb
        return eqx.tree_at(lambda b: b.advantage, mb, standardize(mb, mb.advantage))


def standardize(batch: Batch, x: Array, eps: float = 1e-8) -> Array:
    """(x - mean) / (std + eps) over the rows that count; rows that do not count become 0."""
    centred = jnp.where(batch.mask, x - batch.mean(x), 0)
    return centred / (jnp.sqrt(batch.mean(centred**2)) + eps)


Penalty = Callable[[Any, Batch], Array]
"""Something to subtract from the objective, as a function of policy and (mini)batch."""


def no_penalty(policy: PyTree, batch: Batch) -> Array:
    """The penalty of no penalty: zero."""
    return jnp.zeros((), batch.advantage.dtype)


PROMISES = {
    "mean_kl": "kl_mean",
    "max_kl": "kl_max",
    "mean_reverse_kl": "kl_reverse",
    "max_reverse_kl": "kl_reverse_max",
    "projection": "projection_share",
}
"""What an update may promise to keep within a bound (`bound_of`) -> the column of the ruler that
shows it."""


def bound_of(method: Any) -> float | None:
    """The bound that a method promises to keep, on the column of `PROMISES`: its field `max_kl`, or
    1 where the promise is `projection`, whose column is a share of bounds; None for `none`."""
    if method.promise not in PROMISES:
        return None
    return 1.0 if method.promise == "projection" else float(method.max_kl)


@runtime_checkable
class PolicyUpdate(Protocol):
    """A trust-region method: a pure function from a policy and a batch to a nearby policy."""

    @property
    def first_order(self) -> bool:
        """Whether the objective is followed by gradients alone, so that a value loss may enter
        through `penalty`. A class variable, or a property where it depends on fields."""
        ...

    @property
    def promise(self) -> str:
        """What is enforced over the states of the batch: `mean_kl` (the mean KL(old || new) is at
        most the field `max_kl`), `max_kl` (that of the worst state is), the same of KL(new || old)
        (`mean_reverse_kl`, `max_reverse_kl`), `projection` (of every state both parts of
        KL(witness || old) are at most the fields `mean_bound` and `cov_bound`, where the
        distribution `witness(new, old, info)` is the method's to say, and `metric.parts` its
        distance; of the new policy nothing is promised), or `none`."""
        ...

    def init(self, policy: Any, key: Key) -> State: ...

    def update(
        self, policy: Any, state: State, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, State, Info]: ...


KL_MARGIN = 1e-5
"""Relative margin for a mean over many states."""
WORST_MARGIN = 3e-4
"""Relative margin for a single state, whose rounding nothing averages out: against a network in
float64 the worst of 8192 states was off by 5e-7 at a KL of 0.5, 2e-5 at 1e-3 and 2e-4 at 1e-5."""


NO_KL = 1e-10
"""A mean KL below this is that of a policy to itself: two evaluations of one policy differ so."""


def exceeds(kl: Array, other: Array) -> Array:
    """Whether a mean KL is larger than another by more than both are rounded, so that a tie is one
    in every program. NaN does not exceed."""
    return kl > other * (1 + KL_MARGIN) + NO_KL


def within(kl: Array, bound: Number, margin: float = KL_MARGIN) -> Array:
    """Whether a float32 KL is inside a bound with the margin that makes the float64 value inside it
    too.

    A KL computed in float32 is off by up to 1e-5 relative, and a bound is judged in float64 without
    slack. NaN is outside; an infinite bound holds whatever is not NaN.
    """
    return kl <= bound * (1 - margin)
