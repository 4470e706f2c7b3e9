"""CartPole-v1 and Pendulum-v1 as pure functions, equal to Gymnasium's step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Float

from surefoot.types import Array, Key


@dataclass(frozen=True)
class CartPole:
    """Gymnasium's CartPole-v1 (Barto, Sutton and Anderson, 1983; semi-implicit constants and Euler
    steps as there)."""

    id: str = "CartPole-v1"
    suite: str = "jax"
    obs_dim: int = 4
    action_dim: int = 2
    discrete: bool = True
    max_episode_steps: int | None = 500

    def reset(self, key: Key) -> tuple[Float[Array, " 4"], Float[Array, " 4"]]:
        """x, dx/dt, theta, dtheta/dt, each uniform in [-0.05, 0.05]."""
        state = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return state, state

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """Push left (0) or right (1) with 10 N for 0.02 s; reward 1 a step."""
        x, x_dot, theta, theta_dot = state
        force = jnp.where(action == 1, 10.0, -10.0)
        cos, sin = jnp.cos(theta), jnp.sin(theta)
        total_mass, pole_moment, length, dt = 1.1, 0.1 * 0.5, 0.5, 0.02
        temp = (force + pole_moment * theta_dot**2 * sin) / total_mass
        theta_acc = (9.8 * sin - cos * temp) / (length * (4.0 / 3.0 - 0.1 * cos**2 / total_mass))
        x_acc = temp - pole_moment * theta_acc * cos / total_mass
        nxt = jnp.stack(
            [x + dt * x_dot, x_dot + dt * x_acc, theta + dt * theta_dot, theta_dot + dt * theta_acc]
        )
        fallen = (jnp.abs(nxt[0]) > 2.4) | (jnp.abs(nxt[2]) > 12 * 2 * math.pi / 360)
        return nxt, nxt, jnp.ones((), nxt.dtype), fallen


@dataclass(frozen=True)
class Pendulum:
    """Gymnasium's Pendulum-v1: swing up and hold, torque in [-2, 2] N m, never terminated."""

    id: str = "Pendulum-v1"
    suite: str = "jax"
    obs_dim: int = 3
    action_dim: int = 1
    discrete: bool = False
    max_episode_steps: int | None = 200

    def reset(self, key: Key) -> tuple[Float[Array, " 2"], Float[Array, " 3"]]:
        """Angle uniform in [-pi, pi], speed in [-1, 1]."""
        high = jnp.array([math.pi, 1.0])
        state = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0) * high
        return state, self.observe(state)

    def observe(self, state: Float[Array, " 2"]) -> Float[Array, " 3"]:
        """cos, sin and speed."""
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """Apply 2 clip(action, -1, 1) N m for 0.05 s."""
        theta, theta_dot = state
        torque = 2.0 * jnp.clip(action[0], -1, 1)
        angle = (theta + math.pi) % (2 * math.pi) - math.pi
        cost = angle**2 + 0.1 * theta_dot**2 + 0.001 * torque**2
        gravity, mass, length, dt = 10.0, 1.0, 1.0, 0.05
        speed = (
            theta_dot
            + (3 * gravity / (2 * length) * jnp.sin(theta) + 3.0 / (mass * length**2) * torque) * dt
        )
        speed = jnp.clip(speed, -8, 8)
        nxt = jnp.stack([theta + speed * dt, speed])
        return nxt, self.observe(nxt), -cost, jnp.zeros((), bool)


JAX_ENVS = {"CartPole-v1": CartPole, "Pendulum-v1": Pendulum}
