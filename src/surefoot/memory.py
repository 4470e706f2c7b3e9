"""A memory of past policies: the store of their parameters, the context that relates them, the
blend of the stored ones into a virtual policy, and the rules of writing (Le et al., 2022, section
3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int

from surefoot.checks import check_count, check_number, require
from surefoot.networks import Linear, acting
from surefoot.normalize import VAR_EPS, RunningStats
from surefoot.surrogates import log_ratio
from surefoot.types import Array, Batch, Key, exceeds

FEATURES, HALF = 12, 6
"""Length of the context, and of its half: distances and returns."""
LINE = 16
"""Numbers of float32 in a cache line."""
FAR = 20.0
"""Log-ratios of a virtual policy are cut here, for the safety of float32 alone."""


def prefix(policy: Any) -> int:
    """Length of the part of a policy's vector, [P], that holds all its distributions depend on: up
    to the layers only a shared value function uses, rounded up to a cache line of float32."""
    sizes = [x.size for x in jax.tree.leaves(policy)]
    acts = jax.tree.leaves(acting(policy))
    last = max(i for i, used in enumerate(acts) if used)
    return min(math.ceil(sum(sizes[: last + 1]) / LINE) * LINE, sum(sizes))


class Store(eqx.Module):
    """A queue of at most N policies as parameter vectors: a ring of N + 1 places, of which the one
    behind the newest is scratch. In two pieces, for gradients need the first alone, and the whole
    is read at the speed of the memory, not of the processor."""

    head: Float[Array, "N1 H"]
    """The vectors up to `prefix`; zero where nothing was written yet."""
    tail: Float[Array, "N1 T"]
    """The rest of the vectors."""
    born: Int[Array, " N1"]
    """Step at which each was written, -1 where nothing was."""
    pushes: Int[Array, ""]
    """Policies ever written."""

    @staticmethod
    def empty(capacity: int, policy: Any) -> Store:
        """A store of nothing for `capacity` policies like this one."""
        theta: Any = ravel_pytree(policy)[0]
        zeros = jnp.zeros((capacity + 1, theta.shape[0]), theta.dtype)
        head, tail = jnp.split(zeros, [prefix(policy)], axis=1)
        return Store(head, tail, jnp.full(capacity + 1, -1, jnp.int32), jnp.zeros((), jnp.int32))

    @property
    def rows(self) -> Float[Array, "N1 P"]:
        """The vectors, whole."""
        return jnp.concatenate([self.head, self.tail], axis=1)

    @property
    def capacity(self) -> int:
        """Policies it can hold, N."""
        return len(self.born) - 1

    @property
    def filled(self) -> Array:
        """Policies held, m."""
        return jnp.minimum(self.pushes, self.capacity)

    @property
    def oldest(self) -> Array:
        """Place of the oldest."""
        return (self.pushes - self.filled) % (self.capacity + 1)

    def push(self, theta: Array, step: Array, when: Array) -> Store:
        """With `theta` behind the newest, where `when`; the oldest falls out of a full store."""
        at = self.pushes % (self.capacity + 1)
        # The scratch place is written in any case, so that no row is read back and the ring stays
        # where it is inside a loop.
        put = lambda x, new: jax.lax.dynamic_update_slice(x, new[None], (at, jnp.zeros_like(at)))  # noqa: E731
        head, tail = jnp.split(theta, [self.head.shape[1]])
        born = jnp.where((jnp.arange(self.capacity + 1) == at) & when, step, self.born)
        pushes = self.pushes + when.astype(jnp.int32)
        return Store(put(self.head, head), put(self.tail, tail), born, pushes)

    def by_age(self, x: Array) -> Array:
        """Something in the order of the ring, [N + 1, ...], with the oldest first, [N, ...]."""
        return jnp.roll(x, -self.oldest, axis=0)[: self.capacity]

    def by_place(self, w: Array) -> Array:
        """Weights with the oldest first, [N], in the order of the ring, [N + 1]; 0 for scratch."""
        return jnp.roll(jnp.append(w, jnp.zeros_like(w[:1])), self.oldest)

    def ordered(self) -> tuple[Array, Array]:
        """Vectors [N, P] and birth steps [N], the oldest first; what is empty is at the end, its
        vectors without meaning."""
        return self.by_age(self.rows), self.by_age(self.born)


class View(NamedTuple):
    """What a policy makes of a batch."""

    dist: Any
    value: Array
    """V of every row, [M]."""


def view(policy: Any, batch: Batch) -> View:
    """A policy's distributions and values. A policy without a value head has those of the batch:
    a critic of its own does not move while the policy does."""
    own = getattr(policy, "value", None)
    return View(policy(batch.obs), batch.value if own is None else own(batch.obs))


def distance(p: Any, q: Any, batch: Batch) -> Array:
    """D(p, q) = mean over states of KL(p || q) (section 3.1)."""
    return batch.mean(p.kl(q))


def near_ratio(dist: Any, batch: Batch) -> Array:
    """tau = dist(a|s) / old(a|s), [M], log-ratios cut at +-20; 1 on rows that do not count."""
    return jnp.exp(jnp.clip(log_ratio(dist, batch), -FAR, FAR))


def context(theta: View, psi: View, batch: Batch) -> Float[Array, " 12"]:
    """The context v of the attention (section 3.1; its table is in an appendix that is lost, so
    this list is our choice): how the current, the old and the last virtual policy relate.

    [0] D(theta, psi), [1] D(old, psi), [2] D(old, theta); then of psi, old and theta in turn: [3:6]
    mean of the ratio times A, [6:9] entropy, [9:12] mean squared error of the value. No gradient
    passes. `batch.old` and `batch.value` are those of the old policy.
    """
    three = (psi.dist, batch.old, theta.dist)
    values = (psi.value, batch.value, theta.value)
    rows = (
        theta.dist.kl(psi.dist),
        batch.old.kl(psi.dist),
        batch.old.kl(theta.dist),
        near_ratio(psi.dist, batch) * batch.advantage,
        batch.advantage,
        near_ratio(theta.dist, batch) * batch.advantage,
        *(d.entropy() for d in three),
        *((x - batch.value_target) ** 2 for x in values),
    )
    return jax.lax.stop_gradient(jax.vmap(batch.mean)(jnp.stack(rows)))


def masked_softmax(logits: Array, filled: Array) -> Array:
    """Softmax over the first `filled` of the logits, [N]; the rest, and all where nothing is
    filled, exactly 0."""
    here = jnp.arange(len(logits)) < filled
    top = jnp.max(jnp.where(here, logits, -jnp.inf), initial=-jnp.inf)
    e = jnp.where(here, jnp.exp(jnp.where(here, logits - top, 0)), 0)
    return e / jnp.maximum(jnp.sum(e), 1)  # the largest term is 1


class Rate(NamedTuple):
    """How the policy is stepped, for whoever is stepped beside it."""

    lr: Array | float
    """The policy's rate now."""
    share: Array | float
    """What is left of the rate at the start."""
    eps: float
    """Adam's epsilon."""


@runtime_checkable
class Blend(Protocol):
    """How stored policies become one: their weights, learned or not."""

    def init(self, capacity: int, key: Key, dtype: Any) -> Any:
        """What is learned, and what learning it needs, as a tree of arrays."""
        ...

    def draw(self, capacity: int, key: Key) -> Any:
        """What chance decides of one step, as a tree of arrays. Apart from the step, so that all
        steps of an update draw at once."""
        ...

    def weights(self, state: Any, v: Array, store: Store, chance: Any) -> Array:
        """By age rank, the oldest first, [N]: at least 0, of sum 1 over the filled slots and 0
        elsewhere; `chance` as `draw` made it."""
        ...

    def move(
        self, state: Any, slope: Array, v: Array, store: Store, chance: Any, rate: Rate
    ) -> Any:
        """The state after one step of ascent, from the slope of the objective in the weights, [N];
        the other arguments as `weights` had them."""
        ...


def blended(store: Store, w: Array, empty: Array) -> Array:
    """psi = sum_i w_i theta_i, [P], with w by age rank (eq. 1); `empty` where nothing is stored. A
    gradient passes to w through what psi's distributions depend on."""
    at = store.by_place(w)
    whole = jnp.concatenate([at @ store.head, jax.lax.stop_gradient(at) @ store.tail])
    return jnp.where(store.filled > 0, whole, empty)


class Virtual(NamedTuple):
    """A virtual policy on a batch, of which no gradient passes."""

    psi: Array
    """Its parameters, [P]."""
    dist: Any
    """Its distributions."""
    tau: Array
    """Its near ratios, [M]."""
    gain: Array
    """L2 = mean[ tau A ] (eq. 5)."""
    slope: Array
    """The gradient of L2 in the weights, [N]."""


def virtual(
    store: Store, w: Array, empty: Array, unravel: Callable[[Array], Any], batch: Batch
) -> Virtual:
    """psi for weights by age rank, [N], and what it makes of a batch; `empty` as in `blended`."""

    def L2(w: Array) -> tuple[Array, tuple[Array, Any, Array]]:
        psi = blended(store, w, empty)  # eq. 1
        dist = unravel(psi)(batch.obs)
        tau = near_ratio(dist, batch)
        return batch.mean(tau * batch.advantage), (psi, dist, tau)

    (gain, (psi, dist, tau)), slope = jax.value_and_grad(L2, has_aux=True)(w)
    return Virtual(psi, dist, tau, gain, slope)


class AttentionState(eqx.Module):
    """The attention network and what goes with it."""

    phi: tuple[Linear, Linear]
    """Hidden layer and logits."""
    opt: Any
    """Adam's state."""
    seen: RunningStats
    """Statistics of the contexts seen, for `standardise`."""


TRANSFORMS = ("identity", "log1p", "standardise")


@dataclass(frozen=True)
class Attention:
    """The attention network f_phi of MCPO: softmax weights over the stored policies from the
    context (Le et al., 2022, eq. 1), trained to maximise mean[tau(psi) A] (eq. 5).

    One hidden layer with dropout. The paper gives neither width, dropout, activation nor optimiser
    (its appendix is lost): all are our choice, the activation (ReLU) and Adam among them, which are
    no fields. Logits belong to age ranks, 0 the oldest, not to places in memory.
    """

    hidden: int | None = None
    """Width of the hidden layer; none: as many as the memory has slots. Our choice."""
    dropout: float = 0.5
    """Share of hidden units dropped while training. Our choice."""
    transform: Literal["identity", "log1p", "standardise"] = "identity"
    """What is done to the context: nothing, sign(x) log(1 + |x|), or standardised by its running
    statistics. Our choice."""
    half_context: bool = False
    """Only distances and returns, the first six features (the paper's ablation, which does not say
    which half)."""
    lr: float | None = None
    """Adam's rate; none: that of the policy. Falls as that does. Our choice."""
    max_grad_norm: float | None = 0.5
    """Norm the gradient is clipped to, apart from the policy's; none turns it off. Our choice."""

    def __post_init__(self) -> None:
        check_count(self, "hidden", optional=True)
        check_number(self, "dropout", low=0, high=1, open_high=True)
        require(
            self.transform in TRANSFORMS, self, "transform", self.transform, ", ".join(TRANSFORMS)
        )
        check_number(self, "lr", low=0, open_high=True, optional=True)
        check_number(self, "max_grad_norm", low=0, open_low=True, optional=True)

    @property
    def inputs(self) -> int:
        """Features that are looked at."""
        return HALF if self.half_context else FEATURES

    def init(self, capacity: int, key: Key, dtype: Any) -> AttentionState:
        """Weights and biases uniform in +-1/sqrt(inputs of the layer)."""
        width = self.width(capacity)
        keys = jax.random.split(key, 4)

        def layer(k: Any, n_in: int, n_out: int) -> Linear:
            r = 1 / math.sqrt(n_in)
            draw = lambda key, *shape: jax.random.uniform(key, shape, dtype, -r, r)  # noqa: E731
            return Linear(draw(k[0], n_in, n_out), draw(k[1], n_out))

        phi = (layer(keys[:2], self.inputs, width), layer(keys[2:], width, capacity))
        zero = jnp.zeros(self.inputs, dtype)
        seen = RunningStats(jnp.zeros((), dtype), zero, zero)
        opt = self._direction(0.0).init(ravel_pytree(phi)[0])
        return AttentionState(phi, opt, seen)

    def _direction(self, eps: float) -> optax.GradientTransformation:
        clip = (
            optax.identity()
            if self.max_grad_norm is None
            else optax.clip_by_global_norm(self.max_grad_norm)
        )
        return optax.chain(clip, optax.scale_by_adam(eps=eps))

    def _seen(self, v: Array) -> RunningStats:
        part = v[: self.inputs]
        return RunningStats(jnp.ones((), part.dtype), part, jnp.zeros_like(part))

    def prepare(self, state: AttentionState, v: Array) -> Array:
        """The context as the network takes it, statistics with this one included."""
        x = v[: self.inputs]
        if self.transform == "log1p":
            return jnp.sign(x) * jnp.log1p(jnp.abs(x))
        if self.transform == "standardise":
            stats = state.seen.merge(self._seen(v))
            return (x - stats.mean) / jnp.sqrt(stats.var + VAR_EPS)
        return x

    def width(self, capacity: int) -> int:
        """Units of the hidden layer."""
        return self.hidden or capacity

    def draw(self, capacity: int, key: Key) -> Array | None:
        """Which hidden units are kept, [width]; None where none is ever dropped."""
        if isinstance(self.dropout, (int, float)) and self.dropout == 0:
            return None
        return jax.random.bernoulli(key, 1 - self.dropout, (self.width(capacity),))

    def weights(self, state: AttentionState, v: Array, store: Store, chance: Array | None) -> Array:
        """softmax(f_phi(v)) over the filled slots (eq. 1)."""
        hidden, out = state.phi
        h = jax.nn.relu(hidden(self.prepare(state, v)))
        if chance is not None:
            h = jnp.where(chance, h / (1 - self.dropout), 0)
        return masked_softmax(out(h), store.filled)

    def move(
        self,
        state: AttentionState,
        slope: Array,
        v: Array,
        store: Store,
        chance: Array | None,
        rate: Rate,
    ) -> AttentionState:
        """One step of Adam; the context is counted."""

        def weights(phi: Any) -> Array:
            return self.weights(AttentionState(phi, state.opt, state.seen), v, store, chance)

        # On one vector, as in `SGD`.
        phi, unravel = ravel_pytree(state.phi)
        (up,) = jax.vjp(lambda phi: weights(unravel(phi)), phi)[1](slope)
        move: Any
        move, opt = self._direction(rate.eps).update(up, state.opt)
        lr = rate.lr if self.lr is None else self.lr * rate.share
        phi: Any = unravel(phi + lr * move)
        return AttentionState(phi, opt, state.seen.merge(self._seen(v)))


@dataclass(frozen=True)
class MeanBlend:
    """The mean of the stored policies (Le et al., 2022, section 4.3, "Mean psi"): equal weights,
    nothing to train."""

    def init(self, capacity: int, key: Key, dtype: Any) -> tuple[()]:
        """Nothing."""
        return ()

    def draw(self, capacity: int, key: Key) -> None:
        """Nothing."""

    def weights(self, state: Any, v: Array, store: Store, chance: None) -> Array:
        """1/m on the filled slots."""
        return masked_softmax(jnp.zeros(store.capacity, v.dtype), store.filled)

    def move(
        self, state: Any, slope: Array, v: Array, store: Store, chance: None, rate: Rate
    ) -> tuple[()]:
        """Nothing."""
        return ()


BLENDS = {"attention": Attention, "mean": MeanBlend}
"""The names blends go by in flags."""


@runtime_checkable
class Writing(Protocol):
    """When a policy is stored."""

    def __call__(self, fresh: Array, threshold: Array, step: Array) -> Bool[Array, ""]:
        """Of D(theta, psi) after the step, D(old, psi), and the number of the step, from 1."""
        ...


@dataclass(frozen=True)
class Diverse:
    """Diversity-promoting writing: D(theta, psi) > D(old, psi), theta after its step (Le et al.,
    2022, eq. 2, Algorithm 1, line 6)."""

    def __call__(self, fresh: Array, threshold: Array, step: Array) -> Array:
        """Strict: a tie does not write, nor does a difference within rounding."""
        return exceeds(fresh, threshold)


@dataclass(frozen=True)
class EveryStep:
    """Writing at fixed intervals, the paper's ablations (section 4.5): 1 frequent, 10 uniform, 100
    sparse."""

    steps: int = 1
    """Minibatch steps from one write to the next."""

    def __post_init__(self) -> None:
        check_count(self, "steps")

    def __call__(self, fresh: Array, threshold: Array, step: Array) -> Array:
        """Whether the number of the step is a multiple."""
        return step % self.steps == 0


WRITINGS = {"diverse": Diverse, "every": EveryStep}
"""The names rules of writing go by in flags."""
