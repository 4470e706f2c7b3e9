"""The record whose fields are the flags of `train`: a configuration, and what concerns this command
alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic

import tyro

from surefoot.config import Config, M, V


@dataclass(frozen=True)
class Flags(Generic[M, V]):
    """Train one policy, or the same on several seeds. `-n` is short for --steps, `--hidden` for
    --networks.hidden."""

    settings: Annotated[Config[M, V], tyro.conf.arg(name="")]
    config: str | None = None
    """A config.json to repeat; flags given beside it win."""
    value: Annotated[str | None, tyro.conf.arg(metavar="{fit,shared}")] = None
    """A critic of its own (fit), or on layers shared with the policy (shared; first-order
    methods)."""
    run_dir: str | None = None
    """Folder of the run; none: runs/<method>-<env>-<seed>-<four letters>. Never overwritten."""
    seeds: int = 1
    """Number of seeds, counted from --seed; more than one run side by side, each in
    run-dir/seed-<n>."""
    jobs: int = 1
    """Seeds trained at the same time, one process a core."""
    quiet: bool = False
    """Print nothing but the closing lines."""
    json: bool = False
    """Print one line of JSON at the end instead of everything else."""
    dry_run: bool = False
    """Print what would be done, and do nothing."""
    print_config: bool = False
    """Print the settings as JSON, for --config, and do nothing."""
