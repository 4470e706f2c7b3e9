"""Collection from host environments: a Python loop round a NumPy copy of the actor, one transfer a
batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from surefoot.checks import EnvironmentFault
from surefoot.distributions import BETA_INSIDE, Beta, Categorical, FullGaussian
from surefoot.networks import (
    ACTIVATIONS,
    SHARPEST,
    Actor,
    ActorCritic,
    BetaHead,
    FullGaussianHead,
    GaussianHead,
    Linear,
)
from surefoot.normalize import HostNormalizer, RunningStats, host_moments
from surefoot.types import EnvSpec, Rollout, Step

SHADOW_WIDTH = 256
"""Widest layer the NumPy actor is used for; above it one jitted call a step is faster."""


@runtime_checkable
class HostEnv(Protocol):
    """N environments outside the device, stepped together."""

    spec: EnvSpec

    def reset(self, seed: int) -> np.ndarray: ...
    def step(self, action: np.ndarray) -> Step: ...
    def close(self) -> None: ...


class Episode(NamedTuple):
    """A finished episode."""

    episode_return: float
    length: int
    success: bool | None = None
    """Whether it was one; None where the environment does not say."""


class Concentrations(NamedTuple):
    """The parameters of Beta distributions, [N, d] each."""

    alpha: np.ndarray
    beta: np.ndarray


Parameters = tuple[np.ndarray, np.ndarray | None]
"""Mean [N, d] and log-sigma or Cholesky factor, or `Concentrations`, or logits [N, K] and None."""
GAUSSIANS = (GaussianHead, FullGaussianHead)


class Shadow:
    """The actor in NumPy: normalised observations [N, d] to the parameters of the distribution.

    Equal to the jax actor to float32 rounding. A call gives the mean [N, act] and the log-sigma,
    bounded as in the policy, or the Cholesky factor, which has one axis more than the mean ([1 or
    N, act, act]); the concentrations [N, act] of a Beta; or the logits [N, K] and None.
    """

    def __init__(self, policy: Any) -> None:
        bodies, head = actor_parts(policy)
        self._layers = [
            (np.asarray(la.weight), np.asarray(la.bias)) for body in bodies for la in body.layers
        ]
        self._act = ACTIVATIONS[bodies[0].activation][1]
        self._head = head
        out = head_layers(head)[0]
        self._out = (np.asarray(out.weight), np.asarray(out.bias))
        self._buffers: dict[int, list[np.ndarray]] = {}
        std = head.std if isinstance(head, GAUSSIANS) else None
        free = std is not None and not isinstance(std, Linear)
        self._spread = self._bound(np.asarray(std)) if free else None

    def _bound(self, raw: np.ndarray) -> np.ndarray:
        """Log-sigma, or the Cholesky factor with its first axis, from what the head holds."""
        low, high = self._head.log_std_min, self._head.log_std_max
        if not isinstance(self._head, FullGaussianHead):
            return np.clip(raw, low, high)
        raw, d = np.atleast_2d(raw), len(self._out[1])
        factor = np.tile(np.eye(d, dtype=np.float32), (len(raw), 1, 1))
        factor[(slice(None), *np.tril_indices(d, -1))] = raw[:, d:]
        return np.exp(np.clip(raw[:, :d], low, high))[..., None] * factor

    def features(self, obs: np.ndarray) -> np.ndarray:
        """Output of the last hidden layer."""
        n = len(obs)
        if n not in self._buffers:
            self._buffers[n] = [np.empty((n, w.shape[1]), np.float32) for w, _ in self._layers]
        tanh = self._act is np.tanh
        for (w, b), out in zip(self._layers, self._buffers[n], strict=True):
            np.dot(obs, w, out=out)
            out += b
            obs = np.tanh(out, out=out) if tanh else self._act(out)
        return obs

    def __call__(self, obs: np.ndarray) -> Parameters:
        """(mean, log_std), (mean, factor), (alpha, beta) or (logits, None)."""
        x = self.features(obs)
        first = x @ self._out[0]
        first += self._out[1]
        if isinstance(self._head, BetaHead):
            second = x @ np.asarray(self._head.beta.weight) + np.asarray(self._head.beta.bias)
            return Concentrations(_concentration(first), _concentration(second))
        if self._spread is not None or not isinstance(self._head, GAUSSIANS):
            return first, self._spread
        std = self._head.std
        return first, self._bound(x @ np.asarray(std.weight) + np.asarray(std.bias))


class JittedActor:
    """The jax actor behind the same call, for networks too large (or of another kind) for the NumPy
    copy."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def __call__(self, obs: np.ndarray) -> Parameters:
        """(mean, log_std), (mean, factor), (alpha, beta) or (logits, None)."""
        dist = _forward(self._policy, obs)
        if isinstance(dist, Categorical):
            return np.asarray(dist.logits), None
        if isinstance(dist, Beta):
            return Concentrations(np.asarray(dist.alpha), np.asarray(dist.beta))
        if isinstance(dist, FullGaussian):
            return np.asarray(dist.mean), np.asarray(dist.factor)
        return np.asarray(dist.mean), np.asarray(dist.log_std)


_forward = jax.jit(lambda policy, obs: policy(obs))


def actor_parts(policy: Any) -> tuple[list[Any], Any]:
    """The bodies, in order, and the head of a policy made by `Networks`."""
    if isinstance(policy, ActorCritic):
        return [policy.trunk, policy.actor.body], policy.actor.head
    return [policy.body], policy.head


def head_layers(head: Any) -> list[Linear]:
    """The layers of a head that always depend on the state, the first first."""
    if isinstance(head, GAUSSIANS):
        return [head.mean]
    return [head.alpha, head.beta] if isinstance(head, BetaHead) else [head.logits]


def _concentration(x: np.ndarray) -> np.ndarray:
    return 1 + np.minimum(np.logaddexp(x, np.float32(0)), np.float32(SHARPEST))


def host_actor(policy: Any) -> Callable[[np.ndarray], Parameters]:
    """The fastest actor for a policy: NumPy for small networks, else jitted."""
    if not isinstance(policy, (Actor, ActorCritic)):
        return JittedActor(policy)
    bodies, _ = actor_parts(policy)
    widths = [layer.weight.shape[1] for body in bodies for layer in body.layers]
    return Shadow(policy) if max(widths, default=0) <= SHADOW_WIDTH else JittedActor(policy)


def act(actor: Callable, obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
    """Actions for observations: sampled with `noise` (standard normal [N, d], or Gumbel [N, K]),
    the mode if None."""
    parameters = actor(obs)
    if isinstance(parameters, Concentrations):
        return _act_beta(parameters, noise)
    first, spread = parameters
    if spread is None:
        return np.argmax(first if noise is None else first + noise, axis=-1)
    if noise is None:
        return first
    if spread.ndim > first.ndim:  # a Cholesky factor
        return first + np.squeeze(spread @ noise[..., None], -1)
    return first + np.exp(spread) * noise


def _act_beta(p: Concentrations, noise: np.ndarray | None) -> np.ndarray:
    """The mode, or the quantile of the Beta at the standard normal's level, on [-1, 1]: a draw that
    is a function of the noise, like those of the other distributions."""
    if noise is None:
        span = p.alpha + p.beta - 2
        return np.where(span > 0, (p.alpha - p.beta) / np.where(span > 0, span, 1), np.float32(0))
    from scipy import special

    y = special.betaincinv(p.alpha, p.beta, special.ndtr(noise))
    return np.clip(2 * y - 1, -BETA_INSIDE, BETA_INSIDE, dtype=np.float32)


def draw_noise(rng: Any, spec: EnvSpec, steps: int) -> np.ndarray:
    """Noise for a whole rollout, float32 [T, N, action_dim]: standard normal, or Gumbel for
    discrete actions."""
    shape = (steps, spec.num_envs, spec.action_dim)
    if not spec.discrete:
        return rng.standard_normal(shape, np.float32)
    # The generator does return 0, once in ten million draws.
    return -np.log(
        np.maximum(rng.standard_exponential(shape, np.float32), np.finfo(np.float32).tiny)
    )


class HostCollector:
    """Steps host environments and records what they said, in arrays made once: a rollout is good
    until the next one."""

    def __init__(self, env: HostEnv, num_steps: int, seed: int) -> None:
        self.env, self.num_steps, self.seed = env, num_steps, seed
        spec = env.spec
        t, n = num_steps, spec.num_envs
        self.raw = np.zeros((t + 1, n, spec.obs_dim), np.float64)
        self.obs = np.zeros((t + 1, n, spec.obs_dim), np.float32)
        self.action = np.zeros(
            (t, n) if spec.discrete else (t, n, spec.action_dim),
            np.int32 if spec.discrete else np.float32,
        )
        self.reward = np.zeros((t, n), np.float64)
        self.terminated, self.truncated = np.zeros((t, n), bool), np.zeros((t, n), bool)
        self.mask = np.ones((t, n), bool)
        self.success = np.full((t, n), np.nan, np.float32)
        self.final_obs = np.zeros((t, n, spec.obs_dim), np.float32) if spec.same_step else None
        self._zeros = np.zeros(n * spec.obs_dim)
        self.steps = 0
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """Let the next rollout begin with new episodes, seeded so; those that run now are cut and
        forgotten."""
        self.begin_seed = seed
        self.last: np.ndarray | None = None
        self.running_return = np.zeros(self.env.spec.num_envs, np.float64)
        self.running_length = np.zeros(self.env.spec.num_envs, np.int64)

    def collect(
        self,
        policy: Any,
        stats: RunningStats | None,
        update: int,
        visit: Callable[[int], None] | None = None,
    ) -> tuple[Rollout, RunningStats | None, list[Episode]]:
        """`num_steps` steps with the policy; rollout, moments of the raw observations, and episodes
        that ended.

        `visit(t)` is called before step t. Noise depends on the run's seed and the number of the
        update alone. Raises `EnvironmentFault` where an environment raises or says something that
        is not finite.
        """
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, 2, update])))
        noise = draw_noise(rng, self.env.spec, self.num_steps)
        jax.block_until_ready(
            policy
        )  # the update before may still be reading the arrays that are written now
        actor, normalize = host_actor(policy), HostNormalizer(stats)
        if self.last is None:
            self.last = np.array(self.env.reset(self.begin_seed), np.float64)
            self._check(self.last, None, 0)
        raw, obs, final_obs = self.raw, self.obs, self.final_obs
        raw[0] = self.last
        normalize(raw[0], obs[0])
        self.success[:] = np.nan
        with np.errstate(invalid="ignore"):  # what is not finite is found, and named, by `_check`
            for t in range(self.num_steps):
                if visit is not None:
                    visit(t)
                action = act(actor, obs[t], noise[t])
                self.action[t] = action
                step = self._step(action, t)
                raw[t + 1] = step.obs
                self.reward[t] = step.reward
                self.terminated[t], self.truncated[t], self.mask[t] = (
                    step.terminated,
                    step.truncated,
                    step.mask,
                )
                if step.success is not None:
                    self.success[t] = step.success
                self._check(raw[t + 1], self.reward[t], t)
                normalize(raw[t + 1], obs[t + 1])
                if final_obs is not None:
                    final = np.asarray(step.final_obs, np.float64)
                    self._check(final, None, t)
                    normalize(final, final_obs[t])
        self.last = raw[-1].copy()
        episodes = self._episodes()
        self.steps += int(self.mask.sum())
        reward = self.reward.astype(np.float32)
        arrays: Any = (
            obs,
            self.action,
            reward,
            self.terminated,
            self.truncated,
            self.mask,
            final_obs,
        )
        rollout = Rollout(*arrays)  # NumPy until the jit
        return rollout, None if stats is None else host_moments(raw[:-1], self.mask), episodes

    def _step(self, action: np.ndarray, t: int) -> Step:
        try:
            return self.env.step(action)
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{error} (at step {self._at(t)})") from error

    def _at(self, t: int) -> int:
        return self.steps + int(self.mask[:t].sum())

    def _check(self, obs: np.ndarray, reward: np.ndarray | None, t: int) -> None:
        zeros = self._zeros
        total = np.dot(obs.ravel(), zeros) + (
            0 if reward is None else np.dot(reward, zeros[: len(reward)])
        )
        if total == 0:  # 0 * NaN and 0 * inf are NaN
            return
        what, bad = ("observation", obs) if not np.all(np.isfinite(obs)) else ("reward", reward)
        index = int(
            np.argwhere(~np.isfinite(np.asarray(bad).reshape(len(obs), -1)).all(axis=1))[0, 0]
        )
        value = np.asarray(bad).reshape(len(obs), -1)[index]
        value = value[~np.isfinite(value)][0]
        raise EnvironmentFault(
            f"{what} is {value} in environment {index} of {self.env.spec.id} at step {self._at(t)}"
        )

    def _episodes(self) -> list[Episode]:
        ended = self.terminated | self.truncated
        out: list[Episode] = []
        ret, length = self.running_return, self.running_length
        if not ended.any():
            ret += self.reward.sum(axis=0)
            length += self.mask.sum(axis=0)
            return out
        for t in range(self.num_steps):
            ret += self.reward[t]
            length += self.mask[t]
            for i in np.flatnonzero(ended[t]):
                said = self.success[t, i]
                success = None if np.isnan(said) else bool(said)
                out.append(Episode(float(ret[i]), int(length[i]), success))
                ret[i], length[i] = 0.0, 0
        return out

    def example(self) -> Rollout:
        """A rollout of noise in the shapes of `collect`."""
        rng = np.random.default_rng(0)
        noise = lambda shape: rng.standard_normal(shape, np.float32)  # noqa: E731
        obs, reward = noise(self.obs.shape), noise(self.reward.shape)
        action = (
            rng.integers(0, self.env.spec.action_dim, self.action.shape, np.int32)
            if self.env.spec.discrete
            else noise(self.action.shape)
        )
        no, yes = np.zeros(self.mask.shape, bool), np.ones(self.mask.shape, bool)
        final = None if self.final_obs is None else obs[1:].copy()
        return Rollout(obs, action, reward, no, no, yes, final)  # pyright: ignore[reportArgumentType]
