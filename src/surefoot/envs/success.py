"""Whether an episode was a success, where an environment has a notion of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from surefoot.envs.minigrid import is_minigrid
from surefoot.envs.snapshot import chain

KEYS = ("is_success", "success")
"""Where suites say it in `info`, the first that is there: Gymnasium's robotics, and Meta-World."""
BONUSES = frozenset(["ActionBonus", "PositionBonus"])
"""Wrappers of minigrid that pay for steps, so that a reward is no success."""

Rule = Callable[[Any, Any, Any], float]
"""(reward, terminated, info) of an episode's last step -> 1 for a success, 0 for a failure, NaN
where nothing is said."""


def by_info(reward: Any, terminated: Any, info: Any) -> float:
    """By `info["is_success"]` or `info["success"]` of an episode's last step."""
    for key in KEYS:
        x = np.asarray(info[key]) if key in info else np.empty(0)
        if x.size == 1 and x.dtype.kind in "biuf" and not np.isnan(x.item()):
            return float(bool(x.item()))
    return np.nan


def by_reward(reward: Any, terminated: Any, info: Any) -> float:
    """MiniGrid: its tasks pay once, on the step that solves them, and end there."""
    return float(bool(terminated) and reward > 0)


def rule(env: Any) -> Rule:
    """How to tell of a Gymnasium environment: MiniGrid's by the reward, others by `info`."""
    paid = any(
        isinstance(link, gymnasium.RewardWrapper) or type(link).__name__ in BONUSES
        for link in chain(env)
    )
    return by_reward if is_minigrid(env) and not paid else by_info


def row(infos: Any, i: int, count: int) -> dict[str, Any]:
    """What a vector environment's infos say of the success of environment i out of `count`."""
    if not isinstance(infos, Mapping):
        return {}
    there = [k for k in KEYS if k in infos and np.shape(infos[k])[:1] == (count,)]
    return {k: infos[k][i] for k in there if np.size(m := infos.get(f"_{k}", True)) == 1 or m[i]}
