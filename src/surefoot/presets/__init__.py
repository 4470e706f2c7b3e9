"""Presets: published settings as values, chosen by method and environment, every number with its
source."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from surefoot.checks import UsageError
from surefoot.config import Config, method_class, method_name
from surefoot.envs import nearest, split
from surefoot.value import ValueFit

DEFAULT_ENVS = {"": 8, "envpool": 64, "jax": 64, "gymnax": 64, "probe": 64}
"""Environments stepped together where the preset does not say: as many as make stepping cheap in
each suite."""


@dataclass(frozen=True)
class Preset:
    """Settings that go together. `methods` and `envs` (plain ids; () for any) say where it applies
    by itself."""

    name: str
    methods: tuple[str, ...]
    envs: tuple[str, ...]
    config: Config[Any, Any]
    source: str
    num_envs_by_suite: bool = True
    """Whether the number of environments follows the suite; the batch stays."""


def all_presets() -> list[Preset]:
    """Every preset, the specific before the general."""
    from surefoot.presets.classic import CLASSIC
    from surefoot.presets.first_order import FIRST_ORDER
    from surefoot.presets.mcpo import MCPO_PRESETS
    from surefoot.presets.minigrid import MINIGRID
    from surefoot.presets.mujoco import MUJOCO
    from surefoot.presets.shared import SHARED
    from surefoot.presets.vine import VINE

    return [*CLASSIC, *MUJOCO, *FIRST_ORDER, *MCPO_PRESETS, *MINIGRID, *SHARED, *VINE]


def choose(method: str, env: str, name: str | None = None) -> Config[Any, Any]:
    """The starting configuration for a method and an environment.

    `name` is a preset's name, `none` for the bare defaults of the records, or None to choose by
    method and environment (bare defaults where nothing fits). Raises `UsageError` for an unknown
    name or one that is of another method.
    """
    suite, tail = split(env)
    presets = all_presets()
    if name is None:
        fits = [p for p in presets if method in p.methods and tail in p.envs]
        preset = fits[0] if fits else None
    elif name == "none":
        preset = None
    else:
        preset = _named(presets, name, method)
    if preset is None:
        config: Config[Any, Any] = Config(method=method_class(method)(), value=ValueFit())
        return dataclasses.replace(config, env=env, num_envs=DEFAULT_ENVS[suite])
    num_envs = preset.config.num_envs
    if preset.num_envs_by_suite and suite:
        num_envs = DEFAULT_ENVS[suite]
    return dataclasses.replace(preset.config, env=env, num_envs=num_envs, preset=preset.name)


def _named(presets: list[Preset], name: str, method: str) -> Preset:
    table = {p.name: p for p in presets}
    if name not in table:
        raise UsageError(
            f"no preset is called {name!r}{nearest(name, table)}; "
            f"there are none, {', '.join(table)}"
        )
    preset = table[name]
    if method not in preset.methods:
        raise UsageError(f"preset {name} is for {', '.join(preset.methods)}, not for {method}")
    assert method_name(preset.config.method) == method
    return preset
