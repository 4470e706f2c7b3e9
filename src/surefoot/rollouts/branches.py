"""The vine procedure on host environments: snapshots along the trunk, branches in copies."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from surefoot.envs.branches import Branches
from surefoot.normalize import HostNormalizer, RunningStats
from surefoot.rollouts.host import Episode, HostCollector, act, draw_noise, host_actor
from surefoot.rollouts.vine import Vine
from surefoot.types import Rollout

LANES = 64
"""Branches stepped side by side, so that the actor sees many observations at once."""


class Ends(NamedTuple):
    """How branches went, [branches] each."""

    total: np.ndarray
    """Discounted return."""
    steps: np.ndarray
    terminated: np.ndarray
    last: np.ndarray
    """Last observation, normalised, [branches, obs_dim]."""


class VineCollector:
    """Trunks by a `HostCollector`, and branches from a rollout set of their states; see `Vine`.

    Raises `UsageError` where the environments cannot be put back to a state.
    """

    def __init__(self, trunk: HostCollector, vine: Vine, gamma: float) -> None:
        self.trunk, self.vine, self.gamma = trunk, vine, gamma
        self.spec = trunk.env.spec
        self.count = vine.count(self.spec)
        self.copies = Branches(trunk.env, min(LANES, vine.states * self.count))

    def collect(
        self, policy: Any, stats: RunningStats | None, update: int
    ) -> tuple[Rollout, RunningStats | None, list[Episode]]:
        """A trunk, and the branches of its states; moments and episodes are the trunk's.

        What is random depends on the run's seed and the number of the update alone. Raises
        `EnvironmentFault` as `HostCollector.collect`.
        """
        seed = [self.trunk.seed, 6, update]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        env: Any = self.trunk.env
        n, states = self.spec.num_envs, self.vine.states
        picks = rng.permutation(self.trunk.num_steps * n)[:states]
        snaps: list[Any] = [None] * states
        due: dict[int, list[int]] = {}
        for slot, pick in enumerate(picks):
            due.setdefault(int(pick) // n, []).append(slot)

        def visit(t: int) -> None:
            for slot in due.get(t, ()):
                snaps[slot] = env.snap(int(picks[slot]) % n)

        path, seen, episodes = self.trunk.collect(policy, stats, update, visit)
        obs = np.asarray(path.obs)[picks // n, picks % n]
        visited = np.array([s is not None for s in snaps])  # the others are rows of resets
        actor = host_actor(policy)
        first = self._first(actor, obs, rng)
        ends = self._branches(actor, stats, snaps, obs, first, rng, seed)
        return self._rollout(obs, first, ends, visited, int(path.mask.sum())), seen, episodes

    def _first(self, actor: Any, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """First actions, [K, N] or [K, N, d]."""
        shape = (self.count, self.vine.states)
        if self.vine.enumerates(self.spec):
            return np.broadcast_to(np.arange(self.count, dtype=np.int32)[:, None], shape).copy()
        choices = self.vine.choices(self.spec)
        if choices is not None:
            return rng.integers(0, choices, shape, np.int32)
        noise = self._noise(rng, self.vine.states, self.count)
        return np.stack([act(actor, obs, e) for e in noise])

    def _noise(self, rng: np.random.Generator, lanes: int, steps: int) -> np.ndarray:
        return draw_noise(rng, dataclasses.replace(self.spec, num_envs=lanes), steps)

    def _branches(
        self,
        actor: Any,
        stats: RunningStats | None,
        snaps: list[Any],
        obs: np.ndarray,
        first: np.ndarray,
        rng: np.random.Generator,
        seed: list[int],
    ) -> Ends:
        """Every branch of every state, state by state; [K, N] in `Ends`."""
        states, count, common = self.vine.states, self.count, self.vine.common
        noise = self._noise(rng, states if common else states * count, self.vine.horizon)
        ends = Ends(
            np.zeros((count, states)),
            np.zeros((count, states), np.int32),
            np.zeros((count, states), bool),
            np.broadcast_to(obs, (count, *obs.shape)).copy(),
        )
        every = [(k, s) for s in range(states) for k in range(count) if snaps[s] is not None]
        lanes = min(LANES, states * count)
        for start in range(0, len(every), lanes):
            k, s = np.array(every[start : start + lanes]).T
            own = s if common else s * count + k
            for lane, (branch, state) in enumerate(zip(k, s, strict=True)):
                stream = [int(state)] if common else [int(state), 1 + int(branch)]
                self.copies.put(lane, snaps[state], [*seed, *stream])
            for mine, x in zip(ends, self._run(actor, stats, obs[s], first[k, s], noise[:, own]),
                               strict=True):  # fmt: skip
                mine[k, s] = x
        return ends

    def _run(
        self,
        actor: Any,
        stats: RunningStats | None,
        obs: np.ndarray,
        first: np.ndarray,
        noise: np.ndarray,
    ) -> Ends:
        """The copies from where they were put: `first`, then the policy, until each has ended."""
        n, normalize = len(obs), HostNormalizer(stats)
        total, steps, terminated = np.zeros(n), np.zeros(n, np.int32), np.zeros(n, bool)
        obs, alive = obs.copy(), np.ones(n, bool)
        raw = np.zeros(obs.shape)
        for h in range(self.vine.horizon):
            action = first if h == 0 else act(actor, obs, noise[h])
            lanes = np.flatnonzero(alive)
            new, reward, over, cut = self.copies.step(lanes, action[lanes])
            total[lanes] += self.gamma**h * reward
            steps[lanes] += 1
            terminated[lanes] = over
            raw[lanes] = new
            there = np.empty_like(obs)
            normalize(raw, there)
            obs[lanes] = there[lanes]
            alive[lanes] = ~(over | cut)
            if not alive.any():
                break
        return Ends(total, steps, terminated, obs)

    def _rollout(
        self, obs: np.ndarray, first: np.ndarray, ends: Ends, visited: np.ndarray, trunk: int
    ) -> Rollout:
        """Branches as rows; states that were only resets do not count."""
        choices, shape = self.vine.choices(self.spec), ends.total.shape
        log_prob = None if choices is None else np.full(shape, -np.log(choices), np.float32)
        arrays: Any = (
            np.broadcast_to(obs, (len(first) + 1, *obs.shape)).copy(),
            first,
            ends.total.astype(np.float32),
            ends.terminated,
            ~ends.terminated,
            np.broadcast_to(visited, shape).copy(),
            ends.last,
            log_prob,
            ends.steps,
            np.asarray(trunk + ends.steps.sum(), np.int32),
        )
        return Rollout(*arrays)

    def example(self) -> Rollout:
        """A rollout of noise in the shapes of `collect`."""
        rng = np.random.default_rng(0)
        shape = (self.count, self.vine.states)
        noise = lambda *more: rng.standard_normal((*shape, *more), np.float32)  # noqa: E731
        spec, obs = self.spec, noise(self.spec.obs_dim)
        first = (
            rng.integers(0, spec.action_dim, shape, np.int32)
            if spec.discrete
            else noise(spec.action_dim)
        )
        some = np.zeros(shape, bool)
        ends = Ends(noise(), np.ones(shape, np.int32), some, obs)
        return self._rollout(obs[0], first, ends, ~some[0], 0)

    def close(self) -> None:
        """Close the copies."""
        self.copies.close()
