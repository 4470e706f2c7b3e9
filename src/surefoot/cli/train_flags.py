"""The record whose fields are the flags of `train`: a configuration, and what concerns this command
alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic

import tyro

from surefoot.checks import UsageError
from surefoot.cli.flags import number
from surefoot.config import Config, M, V
from surefoot.wrappers import unwrapped
from surefoot.wrappers.fixup import Fixup


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
    fixup: Annotated[str | None, tyro.conf.arg(metavar="{None}|X")] = None
    """Put `Fixup` round the method: after every update walk back until the KL of every state of the
    batch is at most X. --fixup.FIELD sets its other fields, --method.FIELD those of the method."""
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


def with_fixup(config: Config[Any, Any], bound: str | None) -> Config[Any, Any]:
    """The configuration with `Fixup` round its method at a bound, or none for `None`; as it is
    where the flag was not given. Raises `UsageError`."""
    if bound is None:
        return config
    if bound.lower() == "none":
        return dataclasses.replace(config, method=unwrapped(config.method))
    try:
        max_kl = number(bound)
    except ValueError as error:
        raise UsageError(f"--fixup is {bound!r}; {error}") from None
    held = config.method
    round_it = (
        dataclasses.replace(held, max_kl=max_kl)
        if isinstance(held, Fixup)
        else Fixup(held, max_kl=max_kl)
    )
    return dataclasses.replace(config, method=round_it)


def method_type(method: Any) -> Any:
    """The type whose fields are the flags of a method: for a wrapped one, wrapper and method."""
    return Fixup[method_type(method.inner)] if isinstance(method, Fixup) else type(method)


def method_flags(args: Sequence[str], method: Any) -> list[str]:
    """Arguments as the parser knows them: round a wrapped method, --method.FIELD is the method's,
    and --fixup.FIELD the wrapper's."""
    if not isinstance(method, Fixup):
        return list(args)
    return [_wrapped_flag(arg) for arg in args]


def _wrapped_flag(arg: str) -> str:
    for prefix, place in (("--method.", "--method.inner."), ("--fixup.", "--method.")):
        if arg.startswith(prefix) and not arg.startswith("--method.inner."):
            return place + arg.removeprefix(prefix)
    return arg
