"""Evaluation: whole episodes of a frozen policy, on seeds of their own, deterministic unless asked
otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot import envs
from surefoot.checks import EnvironmentFault, UsageError
from surefoot.normalize import HostNormalizer, RunningStats
from surefoot.rollouts.host import act, host_actor

MAX_POOL = 32
STEP_CAP = 100_000
EVAL_SEED = 1_000_003
"""Offset that keeps evaluation seeds apart from training seeds."""


@dataclass(frozen=True)
class Score:
    """Returns of evaluation episodes, and how they were obtained."""

    env: str
    """The environment's id."""
    deterministic: bool
    """Whether the most likely action was taken, or one drawn."""
    returns: tuple[float, ...]
    """Undiscounted return of every episode, raw rewards."""
    lengths: tuple[int, ...]
    """Steps of every episode."""
    successes: tuple[bool | None, ...] = ()
    """Whether every episode was a success; None where the environment does not say."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def success_rate(self) -> float | None:
        """Share of successes among the episodes of which the environment says it; None if of
        none."""
        said = [x for x in self.successes if x is not None]
        return float(np.mean(said)) if said else None

    @property
    def success_ci95(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the success rate of this policy."""
        from scipy.stats import binomtest

        said = [x for x in self.successes if x is not None]
        if not said:
            return None
        low, high = binomtest(sum(said), len(said)).proportion_ci(method="wilson")
        return float(low), float(high)

    @property
    def iqm(self) -> float:
        """Mean of the middle half of the returns (interquartile mean, fractional weights at the
        edges)."""
        return interquartile_mean(np.asarray(self.returns))

    @property
    def ci95(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean over these episodes: of this policy, not of the
        method."""
        rng = np.random.default_rng(0)
        x = np.asarray(self.returns)
        means = x[rng.integers(0, len(x), (10_000, len(x)))].mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """The line `eval --json` prints; `success` only where the environment has a notion of
        it."""
        low, high = self.ci95
        value = {
            "mean": self.mean,
            "iqm": self.iqm,
            "ci95": [low, high],
            "min": min(self.returns),
            "max": max(self.returns),
        }
        rate, ends, success = self.success_rate, self.success_ci95, {}
        if rate is not None and ends is not None:
            said = {"rate": round(rate, 6), "ci95": [round(x, 6) for x in ends]}
            success = {"success": said}
        return {
            "return": {
                k: [round(x, 6) for x in v] if isinstance(v, list) else round(v, 6)
                for k, v in value.items()
            },
            **success,
            "length": {"mean": round(float(np.mean(self.lengths)), 3)},
            "episodes": len(self.returns),
            "deterministic": self.deterministic,
            "env": self.env,
        }


def interquartile_mean(x: np.ndarray) -> float:
    """Mean of the middle half: a quarter of the mass is cut from either end, values on the edge by
    their share."""
    x = np.sort(np.asarray(x, np.float64))
    n = len(x)
    edges = np.arange(n + 1) / n
    weight = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float(np.sum(weight * x) / np.sum(weight))


def evaluate(agent: Any, episodes: int = 20, deterministic: bool = True, seed: int = 0) -> Score:
    """Score of an `Agent` over whole episodes, with its normaliser frozen.

    Every environment plays its own first episode, so that short episodes are not counted more often
    than long ones. Environments are new ones, of the same name as in training, seeded apart from
    it. Raises `UsageError` for agents whose environment was handed in as an object (hand in a
    function or an id), `EnvironmentFault` for episodes that do not end.
    """
    if not isinstance(episodes, int) or episodes < 1:
        raise UsageError(f"episodes is {episodes!r}; allowed: a whole number of at least 1")
    returns: list[float] = []
    lengths: list[int] = []
    successes: list[bool | None] = []
    for first in range(0, episodes, MAX_POOL):
        count = min(MAX_POOL, episodes - first)
        env_seed = (EVAL_SEED + 7919 * seed + first) % 2**31
        got = play(agent.env_source, agent.policy, agent.obs_stats, count, env_seed, deterministic)
        returns += got[0]
        lengths += got[1]
        successes += got[2]
    return Score(agent.config.env, deterministic, tuple(returns), tuple(lengths), tuple(successes))


Played = tuple[list[float], list[int], list[bool | None]]
"""Return, length and success of episodes."""


def play(
    source: Any, policy: Any, stats: RunningStats | None, count: int, seed: int, deterministic: bool
) -> Played:
    """Return, length and success of the first episode of each of `count` environments."""
    env = envs.make(source, count, seed)
    try:
        if env.spec.on_device:
            return _play_device(env, policy, stats, seed, deterministic)
        return _play_host(env, policy, stats, seed, deterministic)
    finally:
        if not env.spec.on_device:
            env.close()


def _play_host(
    env: Any, policy: Any, stats: RunningStats | None, seed: int, deterministic: bool
) -> Played:
    n = env.spec.num_envs
    rng = np.random.default_rng(seed)
    actor, normalize = host_actor(policy), HostNormalizer(stats)
    total, length, live = np.zeros(n), np.zeros(n, int), np.ones(n, bool)
    success = np.full(n, np.nan)
    obs = np.empty((n, env.spec.obs_dim), np.float32)
    raw = np.asarray(env.reset(seed), np.float64)
    for t in range(STEP_CAP):
        normalize(raw, obs)
        noise = None if deterministic else _noise(rng, env.spec)
        step = env.step(act(actor, obs, noise))
        counted = live & step.mask
        if not np.isfinite(np.dot(step.reward, counted)):
            raise EnvironmentFault(
                f"a reward of {env.spec.id} is not finite in step {t} of an evaluation episode"
            )
        total += np.where(counted, step.reward, 0.0)
        length += counted
        ended = step.terminated | step.truncated
        if step.success is not None:
            success = np.where(live & ended, step.success, success)
        live &= ~ended
        if not live.any():
            said = [None if np.isnan(x) else bool(x) for x in success]
            return total.tolist(), length.tolist(), said
        raw = np.asarray(step.obs, np.float64)
    raise EnvironmentFault(
        f"an evaluation episode of {env.spec.id} did not end within {STEP_CAP} steps"
    )


def _noise(rng: np.random.Generator, spec: Any) -> np.ndarray:
    from surefoot.rollouts.host import draw_noise

    return draw_noise(rng, spec, 1)[0]


def _play_device(
    env: Any, policy: Any, stats: RunningStats | None, seed: int, deterministic: bool
) -> Played:
    import jax
    import jax.numpy as jnp

    n = env.spec.num_envs
    normalize = (lambda x: x) if stats is None else stats.normalize

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, key, total, length, live, t = carry
        key, k_act, k_env = jax.random.split(key, 3)
        dist = policy(normalize(state.obs))
        state, out, _ = env.step(state, dist.mode() if deterministic else dist.sample(k_act), k_env)
        total, length = total + jnp.where(live, out.reward, 0), length + live
        return state, key, total, length, live & ~(out.terminated | out.truncated), t + 1

    def run(key: Any) -> tuple[Any, ...]:
        k_reset, key = jax.random.split(key)
        start = (
            env.reset(k_reset),
            key,
            jnp.zeros(n),
            jnp.zeros(n, jnp.int32),
            jnp.ones(n, bool),
            jnp.zeros((), jnp.int32),
        )
        return jax.lax.while_loop(lambda c: jnp.any(c[4]) & (c[5] < STEP_CAP), step, start)

    _, _, total, length, live, _ = jax.device_get(jax.jit(run)(jax.random.key(seed)))
    if live.any():
        raise EnvironmentFault(
            f"an evaluation episode of {env.spec.id} did not end within {STEP_CAP} steps"
        )
    return [float(x) for x in total], [int(x) for x in length], [None] * n
