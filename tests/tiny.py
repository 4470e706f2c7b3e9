# ruff: noqa: E731 (a lambda reads like the formula)
"""Tiny policies and batches that many tests share."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reference import divergence
from surefoot.networks import Networks
from surefoot.types import Batch, EnvSpec

KINDS = ("categorical", "gaussian", "gaussian_state")
"""The kinds that references by hand know."""
EVERY_KIND = (*KINDS, "beta")
OBS, ACTIONS, HIDDEN = 3, 2, 6


def spec(kind: str) -> EnvSpec:
    """A one-environment spec with 3 observations and 2 actions (3 choices where they are
    discrete)."""
    discrete = kind == "categorical"
    return EnvSpec("tiny", "probe", 1, OBS, ACTIONS + discrete, discrete)


def cast(tree: Any, dtype: Any) -> Any:
    """Every leaf as a jax array of a type."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def networks(kind: str, **fields: Any) -> Networks:
    """Small, with a head far from zero so that nothing is symmetric by accident."""
    fields = {"hidden": (HIDDEN,), "head_gain": 0.7, "log_std_init": -0.3} | fields
    own = {
        "beta": {"policy": "beta"},
        "gaussian_state": {"state_dependent_std": True},
        "gaussian_full": {"full_covariance": True},
    }
    return Networks(**(own.get(kind, {}) | fields))


def policy(kind: str, seed: int = 0, dtype: Any = np.float32, **fields: Any) -> Any:
    """A fresh policy."""
    return cast(networks(kind, **fields).init(spec(kind), seed)[0], dtype)


def batch(
    kind: str, pi: Any, seed: int = 1, rows: int = 24, masked: int = 0, scale: float = 1.0
) -> Batch:
    """A batch under the policy `pi`, in its own precision; `masked` rows, spread out, do not
    count."""
    rng = np.random.default_rng(seed)
    dtype = jax.tree.leaves(pi)[0].dtype
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    obs = draw(rows, OBS)
    old = pi(obs)
    if kind == "categorical":
        action = jnp.asarray(rng.integers(0, ACTIONS + 1, rows), jnp.int32)
    elif kind == "gaussian_full":
        action = old.mean + jnp.einsum("nij,nj->ni", old.factor, draw(rows, ACTIONS))
    elif kind == "beta":
        action = jnp.asarray(2 * rng.beta(old.alpha, old.beta) - 1, dtype)
    else:
        action = old.mean + jnp.exp(old.log_std) * draw(rows, ACTIONS)
    mask = np.ones(rows, bool)
    mask[rng.permutation(rows)[:masked]] = False
    advantage = draw(rows)
    advantage = (advantage - advantage.mean()) / advantage.std() * scale
    return Batch(
        obs=obs,
        action=action,
        log_prob=old.log_prob(action),
        old=old,
        advantage=advantage,
        value_target=draw(rows),
        value=draw(rows),
        mask=jnp.asarray(mask),
        progress=jnp.asarray(0.25, dtype),
    )


def textbook_kl(kind: str, p: Any, q: Any) -> Any:
    """KL(p || q) a row, from distributions in float64."""
    if kind == "categorical":
        log_p, log_q = (x.logits - np.log(np.exp(x.logits).sum(-1, keepdims=True)) for x in (p, q))
        return np.sum(np.exp(log_p) * (log_p - log_q), -1)
    if kind == "beta":
        return np.sum(divergence.beta_kl(p.alpha, p.beta, q.alpha, q.beta), -1)
    spread = (np.exp(2 * p.log_std) + (p.mean - q.mean) ** 2) / (2 * np.exp(2 * q.log_std))
    return np.sum(q.log_std - p.log_std + spread - 0.5, -1)


def rubbish(b: Batch, size: float = 1e6) -> Batch:
    """The same batch with large finite rubbish in the rows that do not count."""

    def spoil(x: jax.Array) -> jax.Array:
        keep = b.mask.reshape(-1, *(1,) * (x.ndim - 1))
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.where(keep, x, 0)
        sign = (
            jnp.where(jnp.arange(x.shape[0]) % 2 == 0, 1.0, -1.0)
            .astype(x.dtype)
            .reshape(keep.shape)
        )
        return jnp.where(keep, x, jnp.broadcast_to(size * sign, x.shape))

    names = ("obs", "action", "log_prob", "old", "advantage", "value_target", "value")
    return dataclasses.replace(b, **{n: jax.tree.map(spoil, getattr(b, n)) for n in names})


def rows_of(b: Batch) -> list[tuple[Any, ...]]:
    """The rows that count, as the references take them: (state, action, log-probability,
    advantage)."""
    fields = [np.asarray(x) for x in (b.obs, b.action, b.log_prob, b.advantage)]
    return [tuple(f[i] for f in fields) for i in np.flatnonzero(np.asarray(b.mask))]


def same(a: Any, b: Any) -> bool:
    """Whether two trees have the same structure and equal leaves, bit for bit (NaN equals NaN)."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in pairs)


def distance(a: Any, b: Any) -> float:
    """Largest difference between the leaves of two trees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0.0)) for x, y in pairs)
