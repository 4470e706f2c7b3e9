"""`build`: a method on device environments as two pure functions, one line from `vmap` over
seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from surefoot import envs
from surefoot.checks import UsageError
from surefoot.config import Config, method_name
from surefoot.envs.device import EnvState
from surefoot.loops import fresh_state, iteration
from surefoot.presets import choose
from surefoot.train import TrainState
from surefoot.types import Key, PolicyUpdate


class RunState(eqx.Module):
    """Training state and environments: everything a run on the device is."""

    train: TrainState
    envs: EnvState


def build(
    method: PolicyUpdate | str,
    env: str,
    *,
    num_envs: int | None = None,
    num_steps: int | None = None,
    steps: int = 1_000_000,
    config: Config[Any, Any] | None = None,
) -> tuple[Callable[[Key], RunState], Callable[[RunState, int], tuple[RunState, dict[str, Any]]]]:
    """`init(key) -> state` and `iterate(state, n) -> state, log` for a method on `jax:`, `gymnax:`
    or `probe:`.

    `log` holds every column of the ruler as [n], and `episode_return`, the mean over episodes that
    ended in that update (NaN if none did). Both are pure: `jax.vmap(init)(keys)` is many seeds.
    Schedules run over `steps`. Raises `UsageError` for environments on the host.

    >>> import jax, surefoot as sf
    >>> init, iterate = sf.build(sf.TRPO(), "jax:CartPole-v1", num_envs=4, num_steps=16)
    >>> state = jax.vmap(init)(jax.random.split(jax.random.key(0), 2))
    >>> state, log = jax.jit(jax.vmap(iterate, in_axes=(0, None)), static_argnums=1)(state, 3)
    >>> log["kl_mean"].shape
    (2, 3)
    """
    if config is None:
        name = method if isinstance(method, str) else method_name(method)
        config = choose(name, env)
    given = {"num_envs": num_envs, "num_steps": num_steps, "steps": steps}
    if not isinstance(method, str):
        given["method"] = method
    config = dataclasses.replace(
        config, env=env, **{k: v for k, v in given.items() if v is not None}
    )
    made = envs.make(env, config.num_envs)
    if not made.spec.on_device:
        raise UsageError(
            f"{env} runs on the host; build takes jax:, gymnax: and probe: environments, "
            "Agent takes all"
        )
    algo, settings = config.algorithm, config
    template = fresh_state(config, made.spec)

    def init(key: Key) -> RunState:
        # Parameters are drawn on the host; one callback draws them for a traced key.
        k_params, k_train, k_env = jax.random.split(key, 3)
        word = jax.random.bits(k_params, (), jnp.uint32)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (template.policy, template.critic)
        )

        def draw(seed: Any) -> Any:
            return settings.networks.init(made.spec, int(seed))

        policy, critic = jax.pure_callback(draw, shapes, word, vmap_method="sequential")
        train = dataclasses.replace(template, policy=policy, critic=critic, key=k_train)
        train = jax.tree.map(jnp.asarray, train)
        return RunState(train, made.reset(k_env))

    def iterate(state: RunState, n: int) -> tuple[RunState, dict[str, Any]]:
        def one(state: RunState, _: None) -> tuple[RunState, dict[str, Any]]:
            ts, env_state, report, finished, _rollout = iteration(
                algo, made, settings.rollout_steps, state.train, state.envs
            )
            return RunState(ts, env_state), report | {"episode_return": finished.mean_return()}

        return jax.lax.scan(one, state, None, length=n)

    return init, iterate
