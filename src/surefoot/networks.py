"""Networks as pytrees of float arrays: MLP, policy heads, critic, and an actor-critic that shares
first layers.

Initialised in NumPy (orthogonal by QR): eager initialisation through jax costs more than compiling
the update.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from surefoot.checks import check_number, require
from surefoot.distributions import Beta, Categorical, DiagGaussian, FullGaussian
from surefoot.types import Array, EnvSpec

ACTIVATIONS = {"tanh": (jnp.tanh, np.tanh), "relu": (jax.nn.relu, lambda x: np.maximum(x, 0))}
"""Name -> (function on jax arrays, the same on NumPy arrays)."""


POLICIES = ("gaussian", "beta")
"""Distributions of continuous actions."""


class Linear(eqx.Module):
    """x @ weight + bias."""

    weight: Float[Array, "*seeds n_in n_out"]
    bias: Float[Array, "*seeds n_out"]

    def __call__(self, x: Array) -> Array:
        y = x @ self.weight
        return y + jnp.broadcast_to(self.bias, y.shape)

    @staticmethod
    def orthogonal(rng: np.random.Generator, n_in: int, n_out: int, gain: float) -> Linear:
        """A layer with orthogonal weights times `gain` and zero bias, as NumPy float32 arrays."""
        a = rng.standard_normal((max(n_in, n_out), min(n_in, n_out)))
        q, r = np.linalg.qr(a)
        q = q * np.sign(np.diag(r))  # makes the draw uniform over orthogonal matrices
        weight = gain * (q if n_in >= n_out else q.T)
        return Linear(np.ascontiguousarray(weight, np.float32), np.zeros(n_out, np.float32))  # pyright: ignore[reportArgumentType] (NumPy until the first jit)


class MLP(eqx.Module):
    """Dense layers with an activation after each; the output layer, if any, is the caller's."""

    layers: tuple[Linear, ...]
    activation: str = eqx.field(static=True, default="tanh")

    def __call__(self, x: Array) -> Array:
        act = ACTIVATIONS[self.activation][0]
        for layer in self.layers:
            x = act(layer(x))
        return x


def bounded(x: Array, low: float, high: float) -> Array:
    """Clip whose derivative is one everywhere, so that a parameter outside can always come back."""
    # In this order the value is the clipped one to the last bit, however far outside x is.
    return jax.lax.stop_gradient(jnp.clip(x, low, high)) + (x - jax.lax.stop_gradient(x))


class GaussianHead(eqx.Module):
    """Mean by a linear layer; log-sigma a free parameter, or linear in the features too (`std` is a
    layer then)."""

    mean: Linear
    std: Any
    """[d], or a `Linear` where sigma depends on the state."""
    log_std_min: float = eqx.field(static=True, default=-5.0)
    log_std_max: float = eqx.field(static=True, default=2.0)

    def __call__(self, x: Array) -> DiagGaussian:
        mean = self.mean(x)
        log_std = (
            self.std(x) if isinstance(self.std, Linear) else jnp.broadcast_to(self.std, mean.shape)
        )
        return DiagGaussian(mean, bounded(log_std, self.log_std_min, self.log_std_max))

    def spread(self) -> DiagGaussian:
        """The distribution of one state round 0, where sigma is a free parameter."""
        log_std = bounded(self.std, self.log_std_min, self.log_std_max)
        return DiagGaussian(jnp.zeros_like(log_std), log_std)

    def raw(self, spread: DiagGaussian) -> Array:
        """The parameter `std` that gives a spread."""
        return spread.log_std


class FullGaussianHead(eqx.Module):
    """Mean by a linear layer; the Cholesky factor of the covariance diag(exp(x)) (I + R), from d
    numbers x, bounded like log-sigma, and the d (d - 1) / 2 entries of R below the diagonal, row by
    row: free parameters, or linear in the features too (`std` is a layer then).

    An entry of R is in units of its row's scale, so that a step on it means the same at every
    sigma.
    """

    mean: Linear
    std: Any
    """[d + d (d - 1) / 2], x before R, or a `Linear` where the covariance depends on the state."""
    log_std_min: float = eqx.field(static=True, default=-5.0)
    log_std_max: float = eqx.field(static=True, default=2.0)

    def __call__(self, x: Array) -> FullGaussian:
        mean = self.mean(x)
        d = mean.shape[-1]
        factor = self.factor(self.std(x) if isinstance(self.std, Linear) else self.std, d)
        return FullGaussian(mean, jnp.broadcast_to(factor, (*mean.shape, d)))

    def factor(self, raw: Array, d: int) -> Array:
        """The Cholesky factor [..., d, d] of raw numbers [..., d + d (d - 1) / 2]."""
        scale = jnp.exp(bounded(raw[..., :d], self.log_std_min, self.log_std_max))[..., None]
        unit = jnp.broadcast_to(jnp.eye(d, dtype=raw.dtype), (*raw.shape[:-1], d, d))
        rows, columns = np.tril_indices(d, -1)
        return scale * unit.at[..., rows, columns].set(raw[..., d:])

    def spread(self) -> FullGaussian:
        """The distribution of one state round 0, where the covariance is a free parameter."""
        mean = jnp.zeros_like(self.mean.bias)
        return FullGaussian(mean, self.factor(self.std, mean.shape[-1]))

    def raw(self, spread: FullGaussian) -> Array:
        """The parameter `std` that gives a spread."""
        rows, columns = np.tril_indices(spread.factor.shape[-1], -1)
        unit = spread.factor / jnp.diagonal(spread.factor)[:, None]
        return jnp.concatenate([spread.log_diagonal, unit[rows, columns]])


def full_size(d: int) -> int:
    """Numbers that make a Cholesky factor: d + d (d - 1) / 2."""
    return d * (d + 1) // 2


SHARPEST = 1e3
"""Ceiling of a Beta's concentrations above 1: a deviation of 0.02 on [-1, 1], where log-densities
in float32 are still good to 1e-3."""


class BetaHead(eqx.Module):
    """Two concentrations by linear layers, softplus(.) + 1 (as in FixPO's released code), bounded
    from above."""

    alpha: Linear
    beta: Linear

    def __call__(self, x: Array) -> Beta:
        above = lambda y: bounded(jax.nn.softplus(y), 0.0, SHARPEST)  # noqa: E731
        return Beta(1 + above(self.alpha(x)), 1 + above(self.beta(x)))


class CategoricalHead(eqx.Module):
    """Logits by a linear layer."""

    logits: Linear

    def __call__(self, x: Array) -> Categorical:
        return Categorical(self.logits(x))


class Actor(eqx.Module):
    """A policy of its own: body and head."""

    body: MLP
    head: GaussianHead | FullGaussianHead | BetaHead | CategoricalHead

    def __call__(self, obs: Array) -> DiagGaussian | FullGaussian | Beta | Categorical:
        return self.head(self.body(obs))


class Critic(eqx.Module):
    """A value function of its own: [..., obs_dim] -> [...]."""

    body: MLP
    out: Linear

    def __call__(self, obs: Array) -> Array:
        return jnp.squeeze(self.out(self.body(obs)), -1)


class ActorCritic(eqx.Module):
    """A policy and the value function `value` as one tree; the first layers (`trunk`, which may
    have none) serve both."""

    trunk: MLP
    actor: Actor
    critic: Critic

    def __call__(self, obs: Array) -> DiagGaussian | FullGaussian | Beta | Categorical:
        return self.actor(self.trunk(obs))

    def value(self, obs: Array) -> Array:
        """V, [...]; its gradient reaches the shared layers."""
        return self.critic(self.trunk(obs))


Head = GaussianHead | FullGaussianHead | BetaHead | CategoricalHead


def head_of(policy: Any) -> Head | None:
    """The last layer of a policy made by `Networks`; None for any other."""
    actor = policy.actor if isinstance(policy, ActorCritic) else policy
    return actor.head if isinstance(actor, Actor) else None


def with_head(policy: Any, head: Head) -> Any:
    """The same policy with another last layer."""
    if isinstance(policy, ActorCritic):
        return eqx.tree_at(lambda p: p.actor.head, policy, head)
    return eqx.tree_at(lambda p: p.head, policy, head)


def free_spread(policy: Any) -> DiagGaussian | FullGaussian | None:
    """The covariance of a policy as the distribution of one state round 0, where it is a free
    parameter and therefore the same in every state; None where it depends on the state, for
    discrete actions, and for policies not made by `Networks`."""
    head = head_of(policy)
    if isinstance(head, (GaussianHead, FullGaussianHead)) and not isinstance(head.std, Linear):
        return head.spread()
    return None


def with_spread(policy: Any, spread: Any) -> Any:
    """The same policy with another free covariance, where `free_spread` found one."""
    head: Any = head_of(policy)
    return with_head(policy, eqx.tree_at(lambda h: h.std, head, head.raw(spread)))


def acting(policy: Any) -> Any:
    """A tree like `policy` of booleans, leaf by leaf: whether the distribution over actions depends
    on it. False are the layers that only a shared value function uses."""
    every = jax.tree.map(lambda _: True, policy)
    if not isinstance(policy, ActorCritic):
        return every
    return eqx.tree_at(lambda p: p.critic, every, jax.tree.map(lambda _: False, policy.critic))


@dataclass(frozen=True)
class Networks:
    """The shape of policy and critic. Orthogonal weights: gain sqrt(2), policy head 0.01, value
    head 1; no biases."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the policy and of the critic."""
    activation: str = "tanh"
    """`tanh` or `relu`."""
    head_gain: float = 0.01
    """Gain of the policy's output layer."""
    policy: Literal["gaussian", "beta"] = "gaussian"
    """Distribution of continuous actions: `gaussian`, clipped to the box at the environment's door,
    or `beta`, which lives on [-1, 1], what a finite box is mapped from."""
    log_std_init: float = 0.0
    """Initial log of sigma (sigma 1; some published settings start at -0.5)."""
    log_std_min: float = -5.0
    """Floor of log sigma."""
    log_std_max: float = 2.0
    """Ceiling of log sigma."""
    state_dependent_std: bool = False
    """Whether sigma is an output of the network rather than a free parameter."""
    full_covariance: bool = False
    """Whether actions are correlated: a Gaussian with a full Cholesky factor."""
    shared_layers: int = 0
    """Hidden layers that policy and critic share: 0 none, 1 the first (TREFree), len(hidden) the
    whole trunk."""
    joint: bool = False
    """Whether policy and critic are one set of parameters for one optimiser even where they share
    no layer (MCPO, whose memory holds both)."""

    def __post_init__(self) -> None:
        sizes = isinstance(self.hidden, (tuple, list)) and all(
            isinstance(h, int) and 1 <= h <= 65536 for h in self.hidden
        )
        require(sizes, self, "hidden", self.hidden, "widths of at least 1, as in 64 64")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        require(
            self.activation in ACTIVATIONS,
            self,
            "activation",
            self.activation,
            ", ".join(ACTIVATIONS),
        )
        check_number(self, "head_gain", low=0, high=100)
        require(self.policy in POLICIES, self, "policy", self.policy, ", ".join(POLICIES))
        require(
            not (self.full_covariance and self.policy == "beta"),
            self,
            "full_covariance",
            self.full_covariance,
            "false with policy beta",
        )
        check_number(self, "log_std_min", low=-20, high=20)
        check_number(self, "log_std_max", low=-20, high=20)
        require(
            self.log_std_min < self.log_std_max,
            self,
            "log_std_min",
            self.log_std_min,
            f"less than log_std_max = {self.log_std_max}",
        )
        check_number(self, "log_std_init", low=self.log_std_min, high=self.log_std_max)
        ok = isinstance(self.shared_layers, int) and 0 <= self.shared_layers <= len(self.hidden)
        require(
            ok,
            self,
            "shared_layers",
            self.shared_layers,
            f"0 to {len(self.hidden)}, the number of hidden layers",
        )

    @property
    def one_tree(self) -> bool:
        """Whether the critic is part of the policy's parameters."""
        return self.shared_layers > 0 or self.joint

    def init(self, spec: EnvSpec, seed: int | np.random.Generator) -> tuple[Any, Any]:
        """Fresh `(policy, critic)` of NumPy float32 leaves; the critic is `()` where it is part of
        the policy: layers are shared, or `joint`."""
        rng = np.random.default_rng(seed)
        body = lambda widths: self._body(rng, widths)  # noqa: E731
        widths = (spec.obs_dim, *self.hidden)
        if not self.one_tree:
            actor = Actor(body(widths), self._head(rng, spec, widths[-1]))
            return actor, Critic(body(widths), Linear.orthogonal(rng, widths[-1], 1, 1.0))
        cut = self.shared_layers
        trunk = body(widths[: cut + 1])
        actor = Actor(body(widths[cut:]), self._head(rng, spec, widths[-1]))
        critic = Critic(body(widths[cut:]), Linear.orthogonal(rng, widths[-1], 1, 1.0))
        return ActorCritic(trunk, actor, critic), ()

    def _body(self, rng: np.random.Generator, widths: tuple[int, ...]) -> MLP:
        pairs = itertools.pairwise(widths)
        return MLP(
            tuple(Linear.orthogonal(rng, a, b, math.sqrt(2)) for a, b in pairs), self.activation
        )

    def _head(self, rng: np.random.Generator, spec: EnvSpec, width: int) -> Head:
        d = spec.action_dim
        out = Linear.orthogonal(rng, width, d, self.head_gain)
        if spec.discrete:
            return CategoricalHead(out)
        if self.policy == "beta":
            return BetaHead(out, Linear.orthogonal(rng, width, d, self.head_gain))
        kind = FullGaussianHead if self.full_covariance else GaussianHead
        init = np.zeros(full_size(d) if self.full_covariance else d, np.float32)
        init[:d] = self.log_std_init
        if self.state_dependent_std:
            layer = Linear.orthogonal(rng, width, len(init), self.head_gain)
            std: Any = Linear(layer.weight, init)  # pyright: ignore[reportArgumentType] (NumPy until the first jit)
        else:
            std = init
        return kind(out, std, self.log_std_min, self.log_std_max)
