"""Natural policy gradient (Kakade, 2001), with a fixed or a normalised step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from surefoot.checks import UsageError, check_count, check_number
from surefoot.curvature import conjugate_gradient, damped, gauss_newton, tree_add
from surefoot.surrogates import Importance, Surrogate
from surefoot.types import Array, Batch, Info, Key, Penalty, no_penalty


@dataclass(frozen=True)
class NPG:
    r"""Natural policy gradient (Kakade, 2001; step rules as in Schulman et al., 2015, and Duan et
    al., 2016).

        x = F^-1 g,   new = old + lr x                        (fixed step, Kakade)
                      new = old + sqrt(2 max_kl / x'Fx) x     (normalised step, "truncated" NPG)

    Exactly one of `lr` and `max_kl` is given. Here `max_kl` bounds the *quadratic model* of the KL,
    1/2 d'Fd <= max_kl; the realised KL is not checked (that is TRPO) and is shown by the report.

    Departures: damping is added to F, as in every public code.

    >>> from surefoot import NPG
    >>> NPG(lr=0.1, max_kl=None)
    NPG(lr=0.1, max_kl=None, cg_iters=10, cg_damping=0.1, surrogate=Importance())
    """

    first_order: ClassVar[bool] = False
    promise: ClassVar[str] = "none"

    lr: float | None = None
    """Fixed step length alpha (published settings: 0.1 with normalised advantages)."""
    max_kl: float | None = 0.01
    """Radius of the quadratic model that sets the length of the step."""
    cg_iters: int = 10
    """Conjugate-gradient iterations."""
    cg_damping: float = 0.1
    """Added to the diagonal of F."""
    surrogate: Surrogate = Importance()
    """What is maximised."""

    def __post_init__(self) -> None:
        if (self.lr is None) == (self.max_kl is None):
            both = f"lr = {self.lr!r} and max_kl = {self.max_kl!r}"
            hint = "give exactly one, as in --method.lr 0.1 --method.max-kl none"
            raise UsageError(f"NPG has {both}; {hint}")
        check_number(self, "lr", low=0, open_high=True, optional=True)
        check_number(self, "max_kl", low=1e-5, open_high=True, optional=True)
        check_count(self, "cg_iters")
        check_number(self, "cg_damping", low=0, open_high=True)

    def init(self, policy: Any, key: Key) -> tuple[()]:
        """NPG keeps nothing between updates."""
        return ()

    def update(
        self, policy: Any, state: Any, batch: Batch, key: Key, *, penalty: Penalty = no_penalty
    ) -> tuple[Any, Any, Info]:
        """One natural-gradient step from `policy` on `batch`."""

        def L(p: Any) -> Array:
            return batch.mean(self.surrogate(p(batch.obs), batch)) - penalty(p, batch)

        g = jax.grad(L)(policy)
        F = damped(gauss_newton(policy, batch), self.cg_damping)
        x, residual, curvature = conjugate_gradient(F, g, self.cg_iters)
        if self.max_kl is None:
            length: Any = self.lr
        else:
            length = jnp.sqrt(2 * self.max_kl / jnp.where(curvature > 0, curvature, 1))
        return tree_add(policy, length, x), state, {"cg_residual": residual, "curvature": curvature}
