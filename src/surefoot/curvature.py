"""Second-order tools: damped Fisher products, conjugate gradient, backtracking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from surefoot.types import Array, Batch

Product = Callable[[Any], Any]


def tree_dot(a: Any, b: Any) -> Array:
    """Inner product of two trees of arrays."""
    # From a Python zero: an array would be float64 under jax_enable_x64 and widen float32
    # parameters.
    return jnp.asarray(sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b))))


def tree_scale(scale: Array | float, tree: Any) -> Any:
    """scale * tree."""
    return jax.tree.map(lambda x: scale * x, tree)


def tree_add(a: Any, scale: Array | float, b: Any) -> Any:
    """a + scale * b."""
    return jax.tree.map(lambda x, y: x + scale * y, a, b)


def tree_where(condition: Array, a: PyTree, b: PyTree) -> Any:
    """`a` where the scalar condition holds, else `b`, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def all_finite(tree: PyTree) -> Array:
    """Whether no leaf holds NaN or infinity."""
    numbers = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return (
        jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in numbers]))
        if numbers
        else jnp.asarray(True)
    )


def gauss_newton(policy: Any, batch: Batch) -> Product:
    """v -> F v with F = mean over states of J' M J, the Fisher matrix of the policy's parameters.

    J is the Jacobian of the distribution's parameters, linearised once and transposed once; M its
    closed-form Fisher matrix. Equal to the Hessian of the mean KL at the old policy in either
    direction, and positive semi-definite by construction (Schulman et al., 2015, App. C.1).
    """
    dist, push = jax.linearize(lambda p: p(batch.obs), policy)
    pull = jax.linear_transpose(push, policy)
    count = jnp.maximum(jnp.sum(batch.mask), 1)

    def weigh(x: Array) -> Array:
        mask = batch.mask.reshape(-1, *(1,) * (x.ndim - 1))
        return jnp.where(mask, x, 0) / count.astype(x.dtype)

    def product(v: Any) -> Any:
        return pull(jax.tree.map(weigh, dist.fisher(push(v))))[0]

    return product


def damped(product: Product, damping: float) -> Product:
    """v -> (F + damping I) v."""
    return lambda v: tree_add(product(v), damping, v)


class Solution(NamedTuple):
    """What conjugate gradient found for A x = b."""

    x: Any
    residual: Array
    """|b - A x| / |b|."""
    curvature: Array
    """x' A x, from the residual: one product less than computing it anew."""


def conjugate_gradient(product: Product, b: Any, iters: int, tol: float = 1e-10) -> Solution:
    """Solve A x = b from x = 0.

    Stops after `iters` products, when |r|^2 falls below `tol` (times |b|^2 where that is less than
    1, so that a small gradient is no reason to stand still), or at a direction without positive
    curvature (rounding at convergence, a singular A), and then returns what it has.
    """
    rr0 = tree_dot(b, b)
    enough = tol * jnp.minimum(rr0, 1)

    def go_on(s: tuple[Any, Any, Any, Array, Array, Array]) -> Array:
        return (s[4] < iters) & (s[3] > enough) & s[5]

    def step(
        s: tuple[Any, Any, Any, Array, Array, Array],
    ) -> tuple[Any, Any, Any, Array, Array, Array]:
        x, r, p, rr, i, _ = s
        Ap = product(p)
        curvature = tree_dot(p, Ap)
        alpha = rr / jnp.where(curvature > 0, curvature, 1)
        good = (curvature > 0) & jnp.isfinite(alpha)  # a curvature of 1e-40 is rounding too
        alpha = jnp.where(good, alpha, 0)
        x, r = tree_add(x, alpha, p), tree_add(r, -alpha, Ap)
        new = tree_dot(r, r)
        return x, r, tree_add(r, new / rr, p), new, i + 1, good

    zero = jax.tree.map(jnp.zeros_like, b)
    start = (zero, b, b, rr0, jnp.zeros((), jnp.int32), jnp.asarray(True))
    x, r, _, rr, _, _ = jax.lax.while_loop(go_on, step, start)
    residual = jnp.sqrt(rr / jnp.where(rr0 > 0, rr0, 1))
    return Solution(x, residual, tree_dot(x, tree_add(b, -1.0, r)))


class Search(NamedTuple):
    """How a search along a segment ended."""

    accepted: Array
    """Whether a candidate was accepted; if not, the start was returned."""
    backtracks: Array
    """Times the step was shrunk before the candidate that was accepted (or before giving up)."""
    scale: Array
    """Share of the full step taken; 0 if none was accepted."""


def backtracking(
    start: Any, step: Any, accept: Callable[[Any, Array], Array], shrink: float, max_backtracks: int
) -> tuple[Any, Search]:
    """First of start + shrink^k step, k = 0 .. max_backtracks, that `accept(candidate, scale)`
    takes, else `start`.

    The start is returned as a value: nothing was changed, so nothing needs restoring. NaN is never
    accepted, because every comparison with it is false.
    """
    start_scale = jnp.ones((), jnp.result_type(*jax.tree.leaves(step)))

    def go_on(s: tuple[Array, Array, Array]) -> Array:
        return (s[0] <= max_backtracks) & ~s[2]

    def try_next(s: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k, scale, _ = s
        ok = accept(tree_add(start, scale, step), scale)
        return k + 1, jnp.where(ok, scale, scale * shrink), ok

    tries, scale, ok = jax.lax.while_loop(
        go_on, try_next, (jnp.zeros((), jnp.int32), start_scale, jnp.asarray(False))
    )
    new = tree_where(ok, tree_add(start, scale, step), start)
    return new, Search(ok, tries - 1, jnp.where(ok, scale, 0))
