"""The record whose fields are the flags of `train`: a configuration, and what concerns this command
alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple

import tyro

from surefoot.checks import UsageError
from surefoot.cli.flags import number
from surefoot.config import Config, M, V
from surefoot.wrappers import unwrapped
from surefoot.wrappers.fixup import Fixup
from surefoot.wrappers.virtual_region import VirtualRegion


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
    virtual: Annotated[str | None, tyro.conf.arg(metavar="{None}|X")] = None
    """Put `VirtualRegion` round the method: pull every update with weight X towards a blend of past
    policies. --virtual.FIELD sets its other fields."""
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


class Wrapper(NamedTuple):
    """How a wrapper is asked for."""

    record: Any
    field: str
    """What the flag itself sets."""
    outermost: bool
    """Whether it goes round everything, or next to the method."""


WRAPPER_FLAGS = {
    "fixup": Wrapper(Fixup, "max_kl", outermost=True),
    "virtual": Wrapper(VirtualRegion, "weight", outermost=False),
}
"""Flag -> the wrapper it puts round the method; `--FLAG.FIELD` sets its other fields."""


def with_wrapper(config: Config[Any, Any], flag: str, text: str | None) -> Config[Any, Any]:
    """The configuration with a wrapper round its method, whose field the flag sets to a number, or
    without it for `None`; as it is where the flag was not given. Raises `UsageError`."""
    if text is None:
        return config
    wrapper, held = WRAPPER_FLAGS[flag], config.method
    if text.lower() == "none":
        return dataclasses.replace(config, method=_without(held, wrapper.record))
    try:
        value = {wrapper.field: number(text)}
    except ValueError as error:
        raise UsageError(f"--{flag} is {text!r}; {error}") from None
    return dataclasses.replace(config, method=_within(held, wrapper, value))


def _without(method: Any, record: Any) -> Any:
    """The method with every wrapper of a kind taken off."""
    if method is unwrapped(method):
        return method
    inner = _without(method.inner, record)
    return inner if isinstance(method, record) else dataclasses.replace(method, inner=inner)


def _within(method: Any, wrapper: Wrapper, value: dict[str, float]) -> Any:
    """The method with a field of its wrapper set, and with the wrapper where it had none."""
    if isinstance(method, wrapper.record):
        return dataclasses.replace(method, **value)
    held = any(isinstance(m, wrapper.record) for m in chain(method))
    if method is unwrapped(method) or (wrapper.outermost and not held):
        return wrapper.record(method, **value)
    return dataclasses.replace(method, inner=_within(method.inner, wrapper, value))


def chain(method: Any) -> list[Any]:
    """The wrappers round a method, the outermost first, and the method itself."""
    return [method, *([] if method is unwrapped(method) else chain(method.inner))]


def method_type(method: Any) -> Any:
    """The type whose fields are the flags of a method: for a wrapped one, wrapper and method."""
    if method is unwrapped(method):
        return type(method)
    return type(method)[method_type(method.inner)]  # pyright: ignore[reportIndexIssue] (wrappers are generic)


def method_flags(args: Sequence[str], method: Any) -> list[str]:
    """Arguments as the parser knows them: round a wrapped method, --method.FIELD is the method's,
    and --fixup.FIELD or --virtual.FIELD the wrapper's."""
    places: dict[str, str] = {}
    for depth, one in enumerate(chain(method)):
        flags = [f for f, w in WRAPPER_FLAGS.items() if isinstance(one, w.record)]
        places[f"--{flags[0] if flags else 'method'}."] = "--method." + "inner." * depth
    return [_placed(arg, places) for arg in args]


def _placed(arg: str, places: dict[str, str]) -> str:
    for prefix, place in places.items():
        if arg.startswith(prefix) and not arg.startswith("--method.inner."):
            return place + arg.removeprefix(prefix)
    return arg
