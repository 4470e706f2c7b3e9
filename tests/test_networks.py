# ruff: noqa: E731 (a lambda reads like the formula)
"""Initialisation, shapes, and the floor and ceiling of log sigma."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from surefoot.checks import UsageError
from surefoot.distributions import Beta, Categorical, DiagGaussian, FullGaussian
from surefoot.networks import (
    ACTIVATIONS,
    SHARPEST,
    ActorCritic,
    Linear,
    Networks,
    acting,
    bounded,
    free_spread,
    head_of,
    with_head,
    with_spread,
)


@pytest.mark.parametrize(("n_in", "n_out"), [(8, 8), (5, 64), (64, 5), (3, 1)])
@pytest.mark.parametrize("gain", [math.sqrt(2), 0.01, 1.0])
def test_orthogonal_weights(n_in, n_out, gain):
    layer = Linear.orthogonal(np.random.default_rng(0), n_in, n_out, gain)
    w = np.asarray(layer.weight, np.float64)
    gram = w.T @ w if n_in >= n_out else w @ w.T
    np.testing.assert_allclose(gram, gain**2 * np.eye(min(n_in, n_out)), atol=1e-6 * gain**2)
    assert w.shape == (n_in, n_out) and layer.weight.dtype == np.float32 and not np.any(layer.bias)


def test_orthogonal_draws_are_uniform():
    """Mean of the first entry over 400 draws is 0 and its square 1/n; six deviations."""
    rng = np.random.default_rng(1)
    first = np.array(
        [np.asarray(Linear.orthogonal(rng, 4, 4, 1.0).weight)[0, 0] for _ in range(400)]
    )
    assert abs(first.mean()) < 6 * 0.5 / 20 and abs((first**2).mean() - 0.25) < 6 * 0.25 / 20


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_gains_of_body_and_heads(kind):
    pi, critic = Networks(hidden=(8, 8), state_dependent_std=kind == "gaussian_state").init(
        tiny.spec(kind), 0
    )
    spectral = lambda layer: np.linalg.norm(np.asarray(layer.weight), 2)
    for body in (pi.body, critic.body):
        assert [layer.weight.shape for layer in body.layers] == [(3, 8), (8, 8)]
        np.testing.assert_allclose(
            [spectral(layer) for layer in body.layers], math.sqrt(2), rtol=1e-5
        )
    heads = [pi.head.logits] if kind == "categorical" else [pi.head.mean]
    heads += [pi.head.std] if kind == "gaussian_state" else []
    np.testing.assert_allclose([spectral(layer) for layer in heads], 0.01, rtol=1e-5)
    np.testing.assert_allclose(spectral(critic.out), 1.0, rtol=1e-5)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves((pi, critic)))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_policies_are_batched_and_seeded(kind):
    nets = tiny.networks(kind)
    pi, critic = (tiny.cast(x, np.float32) for x in nets.init(tiny.spec(kind), 3))
    dist = pi(jnp.ones((5, 7, 3)))
    leaf = dist.logits if isinstance(dist, Categorical) else dist.mean
    assert leaf.shape == (5, 7, tiny.spec(kind).action_dim) and critic(
        jnp.ones((5, 7, 3))
    ).shape == (5, 7)
    assert all(x.shape == leaf.shape for x in jax.tree.leaves(dist))
    assert tiny.same(nets.init(tiny.spec(kind), 3), nets.init(tiny.spec(kind), 3))
    assert not tiny.same(nets.init(tiny.spec(kind), 3), nets.init(tiny.spec(kind), 4))
    if isinstance(dist, DiagGaussian):
        tolerance = 1e-6 if kind == "gaussian" else 2.0
        np.testing.assert_allclose(dist.log_std, -0.3, atol=tolerance)
    actor = np.asarray(pi.body(jnp.ones(3)))
    np.testing.assert_allclose(
        actor, np.tanh(np.ones(3) @ np.asarray(pi.body.layers[0].weight)), rtol=1e-5
    )


def test_activations_are_the_same_in_jax_and_numpy():
    x = np.linspace(-3, 3, 61, dtype=np.float32)
    for in_jax, in_numpy in ACTIVATIONS.values():
        np.testing.assert_allclose(in_jax(x), in_numpy(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ACTIVATIONS["relu"][1](x), x * (x > 0))


def test_bounded_is_a_clip_with_derivative_one():
    x = np.float32([-1e9, -5.000001, -5, -4.999, 0, 1.999, 2, 2.3, 1e4, 1e9])
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(lambda v: bounded(v, -5.0, 2.0))))(x)
    np.testing.assert_array_equal(value, np.clip(x, -5, 2))
    np.testing.assert_array_equal(slope, 1)


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_state"])
def test_log_sigma_keeps_to_its_floor_and_ceiling(kind):
    pi = tiny.policy(kind, log_std_min=-1.0, log_std_max=0.5)
    for raw, kept in ((-30.0, -1.0), (30.0, 0.5)):
        leaf = (lambda p: p.head.std) if kind == "gaussian" else (lambda p: p.head.std.bias)
        far = eqx.tree_at(leaf, pi, jnp.full_like(leaf(pi), raw))
        total, slope = jax.value_and_grad(lambda p: jnp.sum(p(jnp.ones((1, 3))).log_std))(far)
        assert float(total) == 2 * kept
        np.testing.assert_allclose(leaf(slope), 1)


def test_beta_policies():
    """Concentrations are softplus + 1 of two linear layers of the body, near those of a flat
    density at first, and never above their ceiling; discrete actions stay discrete."""
    nets = Networks(hidden=(8, 8), policy="beta")
    pi = tiny.cast(nets.init(tiny.spec("beta"), 0)[0], np.float32)
    spectral = lambda layer: np.linalg.norm(np.asarray(layer.weight), 2)
    np.testing.assert_allclose([spectral(pi.head.alpha), spectral(pi.head.beta)], 0.01, rtol=1e-5)
    assert not tiny.same(pi.head.alpha, pi.head.beta)
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    dist = pi(obs)
    assert isinstance(dist, Beta) and dist.alpha.shape == dist.beta.shape == (5, tiny.ACTIONS)
    np.testing.assert_allclose(dist.alpha, 1 + np.log(2), atol=0.03)
    x = np.asarray(pi.body(obs)) @ np.asarray(pi.head.beta.weight)
    np.testing.assert_allclose(dist.beta, 1 + np.log1p(np.exp(x)), rtol=1e-5)
    far = eqx.tree_at(lambda p: p.head.alpha.bias, pi, jnp.full(tiny.ACTIONS, 1e9))
    assert np.all(np.asarray(far(obs).alpha) == 1 + SHARPEST)
    discrete, _ = Networks(policy="beta").init(tiny.spec("categorical"), 0)
    assert tiny.same(discrete, Networks().init(tiny.spec("categorical"), 0)[0])


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_what_acts(shared):
    """Everything but the value function's own layers."""
    pi, _ = Networks(hidden=(6, 5), shared_layers=shared).init(tiny.spec("gaussian"), 0)
    marks = acting(pi)
    assert jax.tree.structure(marks) == jax.tree.structure(pi)
    own = jax.tree.leaves(marks.critic) if shared else [False]
    assert not any(own)
    assert sum(jax.tree.leaves(marks)) == len(jax.tree.leaves(pi)) - (len(own) if shared else 0)


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_shared_layers(shared):
    nets = Networks(hidden=(6, 5), shared_layers=shared, joint=shared == 0)
    pi, critic = nets.init(tiny.spec("categorical"), 0)
    assert critic == () and isinstance(pi, ActorCritic)
    pi = tiny.cast(pi, np.float32)
    obs = jnp.ones((4, 3))
    assert pi(obs).logits.shape == (4, 3) and pi.value(obs).shape == (4,)
    assert (
        len(pi.trunk.layers) == shared
        and len(pi.actor.body.layers) == len(pi.critic.body.layers) == 2 - shared
    )
    slopes = jax.grad(lambda p: jnp.sum(p.value(obs)))(pi)
    if shared:
        assert tiny.distance(slopes.trunk, jax.tree.map(jnp.zeros_like, slopes.trunk)) > 0
    assert tiny.distance(slopes.actor, jax.tree.map(jnp.zeros_like, slopes.actor)) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden": (0,)},
        {"hidden": 64},
        {"activation": "swish"},
        {"policy": "cauchy"},
        {"head_gain": -1.0},
        {"log_std_min": 3.0},
        {"log_std_init": 9.0},
        {"shared_layers": 3},
        {"shared_layers": -1},
    ],
)
def test_fields_out_of_range_are_refused_in_one_line(fields):
    with pytest.raises(UsageError) as caught:
        Networks(**fields)
    assert (
        next(iter(fields)) in str(caught.value)
        and "allowed" in str(caught.value)
        and "\n" not in str(caught.value)
    )


@pytest.mark.parametrize("contextual", [False, True])
def test_a_full_covariance_starts_diagonal_and_is_a_factor(contextual):
    nets = Networks(
        hidden=(6,), full_covariance=True, state_dependent_std=contextual, log_std_init=-0.3
    )
    pi = tiny.cast(nets.init(tiny.spec("gaussian"), 0)[0], np.float32)
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7, 3)), jnp.float32)
    dist = pi(obs)
    assert isinstance(dist, FullGaussian) and dist.factor.shape == (5, 7, 2, 2)
    diagonal = np.broadcast_to(math.exp(-0.3) * np.eye(2), dist.factor.shape)
    np.testing.assert_allclose(dist.factor, diagonal, atol=0.02 if contextual else 1e-6)
    far = pi.head.std.bias if contextual else pi.head.std
    assert far.shape == (3,)
    moved = jax.tree.map(lambda x: x + 0.7, pi)(obs).factor
    assert bool(jnp.all(moved[..., 0, 1] == 0)) and bool(jnp.all(moved[..., 1, 0] != 0))
    assert bool(jnp.all(jnp.diagonal(moved, axis1=-2, axis2=-1) > 0))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("shared", [0, 1])
def test_a_free_covariance_can_be_read_and_set(full, shared):
    nets = Networks(hidden=(6, 5), full_covariance=full, shared_layers=shared, log_std_max=0.5)
    pi = tiny.cast(nets.init(tiny.spec("gaussian"), 0)[0], np.float32)
    raw = jnp.asarray([-0.4, 0.2, 0.6][: 2 + full], jnp.float32)
    head = eqx.tree_at(lambda h: h.std, head_of(pi), raw)
    pi = with_head(pi, head)
    spread, dist = free_spread(pi), pi(jnp.ones((4, 3)))
    for got, want in zip(jax.tree.leaves(spread)[1:], jax.tree.leaves(dist)[1:], strict=True):
        np.testing.assert_allclose(jnp.broadcast_to(got, want.shape), want, rtol=1e-6)
    np.testing.assert_array_equal(spread.mean, 0)
    np.testing.assert_allclose(head_of(with_spread(pi, spread)).std, raw, rtol=1e-6)
    if full:
        np.testing.assert_allclose(spread.factor[1, 0], math.exp(0.2) * 0.6, rtol=1e-6)
    above = with_head(pi, eqx.tree_at(lambda h: h.std, head, raw + 9))
    top = free_spread(above)
    scale = jnp.diagonal(top.factor) if full else jnp.exp(top.log_std)
    np.testing.assert_allclose(scale, math.exp(0.5), rtol=1e-6)


def test_what_depends_on_the_state_or_is_discrete_is_not_free():
    for kind in ("gaussian_state", "categorical"):
        assert free_spread(tiny.policy(kind)) is None and head_of(tiny.policy(kind)) is not None
    assert head_of(lambda x: x) is None
