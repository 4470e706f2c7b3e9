"""Trust region projection layers (Otto et al., 2021): every state's distribution is put back into
its ball before the objective sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot.checks import check_number
from surefoot.networks import free_spread, with_spread
from surefoot.projection import (
    EntropyControl,
    FreeEntropy,
    KLMetric,
    Metric,
    project,
    raise_entropy,
)
from surefoot.sgd import SGD
from surefoot.surrogates import Importance, Surrogate
from surefoot.types import Array, Batch, Info, Key, Number, Penalty, no_penalty


def inward(bound: Number) -> Number:
    """What is projected onto for a bound: (1 - 3e-5 / sqrt(bound)) of it, a hundredth less at a
    bound of 1e-5 and 2e-4 less at 0.03.

    The bound is judged in float64 without slack, and the mean is a float32: rounding it moves a
    part by up to a share of 2e-7 |mean| / (sigma sqrt(bound)).
    """
    return bound * (1 - 3e-5 / bound**0.5)


class TRPLState(eqx.Module):
    """What TRPL keeps between updates."""

    opt: Any
    """The optimiser's state."""
    entropy: Array
    """Mean entropy of the first policy on the first batch, from which schedules fall."""
    started: Array
    """1 once there was a first batch, else 0."""


@dataclass(frozen=True)
class TRPL:
    r"""Trust region projection layers (Otto et al., 2021), for diagonal and full Gaussians and, in
    the KL metric, for Categoricals.

        maximise  mean[ q(a|s) / old(a|s) A ] - regression * mean[ d(p, q) ],   q = project(p, old)

    by Adam over shuffled minibatches, where p is the network's distribution, q the closest one with
    d(q, old) within its bounds in every state, and gradients pass through the projection. In
    d(p, q), q is data. The bounds are `mean_bound` on the part of the mean (for a Categorical on
    the whole) and `cov_bound` on that of the covariance: epsilon_mu and epsilon_Sigma of the paper.
    regression = alpha.

    What is promised is about q alone: `witness(new, old)` is within both bounds in every state. The
    network p acts next. It is drawn towards q by the regression and nothing else, and its own KL,
    which the report shows, is not promised; only a covariance that is a free parameter is set to
    its projection at the end, not regressed. `Fixup(TRPL())` bounds p and promises that.

    Departures: sigma is exp of a parameter, not softplus; Categoricals are ours (the same
    projection in its exponential-family form); the projection ends a little inside its bound
    (`inward`), so that rounding does not carry it out; `entropy_first` defaults to the order that
    keeps the promise, the authors' is the other.

    >>> from surefoot import TRPL
    >>> TRPL(cov_bound=0.0005).cov_bound
    0.0005
    """

    first_order: ClassVar[bool] = True

    metric: Metric = KLMetric()
    """What distance is bounded: `kl`, `wasserstein` or `frobenius`."""
    mean_bound: float = 0.03
    """Bound on the mean's part in every state; for a Categorical on KL(q || old). At least 1e-5."""
    cov_bound: float = 0.001
    """Bound on the covariance's part in every state. At least 1e-5."""
    regression: float = 8.0
    """Weight of the regression of the network onto its projection (alpha; 1 with Wasserstein)."""
    surrogate: Surrogate = Importance()
    """What is maximised, of the projection; `Clipped(0.2)` is PPO with a projected policy."""
    entropy: EntropyControl = FreeEntropy()
    """Entropy asked of every state's Gaussian: `free`, `linear` or `exponential` in time."""
    entropy_equality: bool = False
    """Whether the entropy is kept at that value, and not only above it."""
    entropy_first: bool = True
    """Whether the entropy is raised before the projection; if after (the authors' order), the
    projection may leave its bound of the covariance by what that takes."""
    sgd: SGD = SGD(lr=5e-5, epochs=20, minibatches=32, max_grad_norm=None)
    """How the objective is maximised."""

    def __post_init__(self) -> None:
        check_number(self, "mean_bound", low=1e-5)
        check_number(self, "cov_bound", low=1e-5)
        check_number(self, "regression", low=0, open_high=True)

    @property
    def promise(self) -> str:
        """`projection`, in the metric that certificates know, the KL; `none` in the others, whose
        bounds hold likewise, and where the entropy is raised last, which may leave a bound."""
        last = not self.entropy_first and not isinstance(self.entropy, FreeEntropy)
        return "projection" if isinstance(self.metric, KLMetric) and not last else "none"

    def init(self, policy: Any, key: Key) -> TRPLState:
        """The optimiser's state; the entropy is known with the first batch."""
        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(policy)))
        return TRPLState(self.sgd.init(policy), zero, jnp.zeros((), jnp.int32))

    def projected(self, new: Any, old: Any, floor: Number | None = None) -> Any:
        """`new` within both bounds of `old`, its entropy at least `floor`."""
        if self.entropy_first:
            new = raise_entropy(new, floor, self.entropy_equality)
        near = project(new, old, self.metric, inward(self.mean_bound), inward(self.cov_bound))
        if not self.entropy_first:
            near = raise_entropy(near, floor, self.entropy_equality)
        return near

    def witness(self, new: Any, old: Any, info: Mapping[str, Any]) -> Any:
        """The distribution that `promise` is about: the projection of `new`, with the entropy asked
        for in the update that reported `info`."""
        return self.projected(new, old, info.get("trpl_floor"))

    def update(
        self,
        policy: Any,
        state: TRPLState,
        batch: Batch,
        key: Key,
        *,
        penalty: Penalty = no_penalty,
    ) -> tuple[Any, TRPLState, Info]:
        """Several epochs of minibatch ascent from `policy` on `batch`, through the projection."""
        initial = jnp.where(state.started > 0, state.entropy, batch.mean(batch.old.entropy()))
        floor = self.entropy.floor(initial, batch.action.shape[-1], batch.progress)
        # Where the covariance is the same in every state it is projected once, not once a state.
        shared = None if free_spread(policy) is None else first_spread(batch)

        def both(p: Any, mb: Batch) -> tuple[Any, Any]:
            new = p(mb.obs)
            old = counted(mb, new)
            if shared is None:
                return new, self.projected(new, old, floor)
            cov = self.projected(free_spread(p), shared, floor)
            mean = self.metric.project_mean(new, old, inward(self.mean_bound)).mean
            return new, cov.at(mean)

        def loss(p: Any, mb: Batch) -> tuple[Array, Info]:
            new, near = both(p, mb)
            gain = mb.mean(self.surrogate(near, mb))
            target = jax.lax.stop_gradient(near)
            far = (
                self.metric.distance(new, target)
                if shared is None
                else self.metric.parts(new, target).mean
            )
            regression = mb.mean(far)
            total = penalty(p, mb) + self.regression * regression - gain
            return total, {"regression": regression}

        policy, opt, info = self.sgd.minimise(loss, policy, state.opt, batch, key)
        if shared is not None:  # set, not regressed
            policy = with_spread(policy, self.projected(free_spread(policy), shared, floor))
        info |= self.report(policy, batch, floor)
        state = TRPLState(opt, initial, jnp.ones((), jnp.int32))
        return policy, state, {f"trpl_{name}": x for name, x in info.items()}

    def report(self, policy: Any, batch: Batch, floor: Number | None) -> Info:
        """The worst state of the projection, which is promised, and of the network, which is
        not."""
        new = policy(batch.obs)
        old = counted(batch, new)
        near = self.projected(new, old, floor)
        kept, raw = self.metric.parts(near, old), self.metric.parts(new, old)
        outside = (raw.mean > self.mean_bound) | (raw.cov > self.cov_bound)
        kl = old.kl(near)
        asked = {} if floor is None else {"floor": jnp.asarray(floor)}
        return asked | {
            "mean_part": batch.max(kept.mean),
            "cov_part": batch.max(kept.cov),
            "network_mean_part": batch.max(raw.mean),
            "network_cov_part": batch.max(raw.cov),
            "outside": batch.mean(outside.astype(raw.mean.dtype)),
            "kl_mean": batch.mean(kl),
            "kl_max": batch.max(kl),
        }


def first_spread(batch: Batch) -> Any:
    """The old distribution in the first state that counts, moved round 0."""
    old = jax.tree.map(lambda x: x[jnp.argmax(batch.mask)], batch.old)
    return old.at(jnp.zeros_like(old.mean))


def counted(batch: Batch, new: Any) -> Any:
    """The old distribution; on rows that do not count the new one, as data, so that what such rows
    hold is neither projected on nor differentiated."""

    def pick(old: Array, new: Array) -> Array:
        mask = batch.mask.reshape(-1, *(1,) * (old.ndim - 1))
        return jnp.where(mask, old, jax.lax.stop_gradient(new))

    return jax.tree.map(pick, batch.old, new)
