"""`TrainState` and `learn`: one pytree and one compiled function, the same for host and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from surefoot.advantages import GAE
from surefoot.checks import UsageError
from surefoot.curvature import all_finite, tree_where
from surefoot.measure import measure, projection_share
from surefoot.networks import Networks
from surefoot.normalize import RunningStats
from surefoot.rewards import scale_rewards
from surefoot.types import Array, Batch, EnvSpec, Info, Key, PolicyUpdate, Rollout
from surefoot.value import EntropyBonus, SharedValue, ValueFit

TRACES = {"learn": 0}
"""How often `learn` was traced in this process: a run traces it once, and a test counts."""


class TrainState(eqx.Module):
    """Everything that training changes, apart from the environments."""

    policy: Any
    critic: Any
    method_state: Any
    value_state: Any
    obs_stats: RunningStats | None
    """Statistics observations are normalised with; None where they are not."""
    return_stats: RunningStats | None
    """Statistics of the discounted return that rewards are scaled by; None where they are not."""
    return_trace: Array
    """Running discounted return of every environment, [N]."""
    key: Key
    update: Array
    """Updates done."""
    total: Array
    """Updates the run was started for; schedules run over it."""
    skipped: Array
    """Updates that were not finite and were undone."""

    @property
    def progress(self) -> Array:
        """Share of the run that is done, 0 to below 1.

        Updates beyond the total (`resume --more`, rows that were only resets) stay at the share of
        the last one, so that a schedule goes on at its last value and not at zero.
        """
        done = jnp.minimum(self.update, self.total - 1)
        return (done / jnp.maximum(self.total, 1)).astype(jnp.float32)


@dataclass(frozen=True)
class Algorithm:
    """What `learn` needs to know: a method, how values are fitted, how advantages are made, what is
    penalised."""

    method: PolicyUpdate
    """How the policy moves."""
    value: ValueFit | SharedValue = ValueFit()
    """How the critic is fitted."""
    advantage: GAE = GAE()
    """How advantages and value targets are made of a rollout."""
    penalties: tuple[EntropyBonus, ...] = ()
    """What is subtracted from the method's objective beside a shared value loss."""

    def __post_init__(self) -> None:
        if isinstance(self.value, SharedValue) and not getattr(self.method, "first_order", False):
            name = type(self.method).__name__
            raise UsageError(
                f"{name} refuses layers shared by policy and critic: parameters the distribution "
                "does not see have zero Fisher information and would eat the step; "
                "allowed: --networks.shared-layers 0"
            )

    def penalty(self, policy: Any, batch: Batch) -> Array:
        """What is subtracted from the method's objective: the shared value loss, if any, and the
        penalties."""
        own = self.value.penalty(policy, batch)
        terms = [p(policy, batch) for p in self.penalties] + ([] if own is None else [own])
        return sum(terms, start=jnp.zeros((), batch.advantage.dtype))


def init_state(
    algo: Algorithm,
    networks: Networks,
    spec: EnvSpec,
    seed: int,
    total_updates: int,
    *,
    normalize_obs: bool = True,
    normalize_reward: bool = True,
) -> TrainState:
    """The state before the first update. Parameters are drawn in NumPy from the seed, the rest is
    zeros."""
    k_params, k_key = np.random.SeedSequence([seed, 1]).spawn(2)
    policy, critic = networks.init(spec, np.random.default_rng(k_params))
    key = jax.random.key(int(k_key.generate_state(1)[0]))
    # Under one jit: eager initialisation would compile every little operation by itself.
    method_state, value_state = _init_states(algo, policy, critic, key)
    return TrainState(
        policy=policy,
        critic=critic,
        method_state=method_state,
        value_state=value_state,
        obs_stats=RunningStats.empty((spec.obs_dim,)) if normalize_obs else None,
        return_stats=RunningStats.empty(()) if normalize_reward else None,
        return_trace=np.zeros(spec.num_envs, np.float32),  # pyright: ignore[reportArgumentType] (NumPy until the first jit)
        key=key,
        update=np.zeros((), np.int32),  # pyright: ignore[reportArgumentType]
        total=np.asarray(total_updates, np.int32),  # pyright: ignore[reportArgumentType]
        skipped=np.zeros((), np.int32),  # pyright: ignore[reportArgumentType]
    )


def _init_states_impl(algo: Algorithm, policy: Any, critic: Any, key: Key) -> tuple[Any, Any]:
    return algo.method.init(policy, key), algo.value.init(critic)


_init_states = jax.jit(_init_states_impl, static_argnames="algo")


def kl_drift(
    batch: Batch, policy: Any, before: RunningStats | None, after: RunningStats | None
) -> Array:
    """Mean KL(old || new) of the batch where the new policy is given the observations as the next
    iteration normalises them: how far behaviour moves, the normaliser's move included."""
    obs = batch.obs
    if before is not None and after is not None:
        obs = before.carry(obs, after)
    return batch.mean(batch.old.kl(policy(obs)))


def learn(
    algo: Algorithm, ts: TrainState, rollout: Rollout, seen: RunningStats | None
) -> tuple[TrainState, Info]:
    """One update from one rollout: rewards scaled, advantages made, policy moved, critic fitted,
    all of it measured.

    `seen` are the moments of the raw observations; the statistics move by them only after the
    update. An update that is not finite, or whose KL is not, is undone: policy and method state are
    the old ones, `update_skipped` is 1.
    """
    TRACES["learn"] += 1
    key, k_policy, k_value = jax.random.split(ts.key, 3)
    return_stats, trace, spikes = ts.return_stats, ts.return_trace, jnp.zeros((), jnp.int32)
    if return_stats is not None:
        rollout, return_stats, trace, spikes = scale_rewards(
            rollout, return_stats, trace, algo.advantage.gamma
        )
        # A reward that is not finite spoils this update, not every one after it.
        return_stats = tree_where(all_finite(return_stats), return_stats, ts.return_stats)
        trace = jnp.where(jnp.isfinite(trace), trace, 0)
    batch = algo.advantage(rollout, ts.policy, algo.value.of(ts.policy, ts.critic), ts.progress)

    policy, method_state, info = algo.method.update(
        ts.policy, ts.method_state, batch, k_policy, penalty=algo.penalty
    )
    critic, value_state, value_info = algo.value.update(ts.critic, ts.value_state, batch, k_value)

    kl = batch.max(batch.old.kl(policy(batch.obs)))
    sound = (
        all_finite((policy, method_state))
        & jnp.isfinite(kl)
        & jnp.isfinite(batch.mean(batch.advantage))
    )
    policy, method_state = tree_where(sound, (policy, method_state), (ts.policy, ts.method_state))
    fitted = all_finite((critic, value_state))
    critic, value_state = tree_where(fitted, (critic, value_state), (ts.critic, ts.value_state))

    report = measure(batch, policy) | info | {f"value_{k}": v for k, v in value_info.items()}
    if algo.method.promise == "projection":
        report["projection_share"] = projection_share(algo.method, batch, policy, report)
    report |= {"update_skipped": ~sound, "value_skipped": ~fitted, "reward_spikes": spikes}
    report["rows"] = jnp.sum(rollout.mask)
    obs_stats = ts.obs_stats
    if obs_stats is not None and seen is not None:
        obs_stats = tree_where(all_finite(seen), obs_stats.merge(seen), obs_stats)
    report["kl_drift"] = kl_drift(batch, policy, ts.obs_stats, obs_stats)
    ts = TrainState(
        policy=policy,
        critic=critic,
        method_state=method_state,
        value_state=value_state,
        obs_stats=obs_stats,
        return_stats=return_stats,
        return_trace=trace,
        key=key,
        update=ts.update + 1,
        total=ts.total,
        skipped=ts.skipped + (~sound).astype(jnp.int32),
    )
    return ts, report


learn_jit: Callable[..., tuple[TrainState, Info]] = jax.jit(learn, static_argnames="algo")
