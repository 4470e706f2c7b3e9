"""`surefoot train METHOD`: one run, or several seeds side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.cli.cache import compilation_cache, fix_threads
from surefoot.cli.seeds import many, strip
from surefoot.envs import nearest
from surefoot.methods import METHODS

if TYPE_CHECKING:
    from surefoot.agent import Agent
    from surefoot.config import Config

ALIASES = {"-n": "--steps", "--hidden": "--networks.hidden"}
"""Short flags -> the fields they stand for."""

USAGE = "usage: surefoot train METHOD --env ID [--steps N] [--seed N] [--method.FIELD VALUE] ..."


def overview() -> str:
    """The text of `surefoot train --help`."""
    width = max(map(len, METHODS))
    lines = [USAGE, "", "methods:"]
    lines += [f"  {name:<{width}}  {entry.summary}" for name, entry in METHODS.items()]
    lines += ["", "surefoot train METHOD --help lists every flag with its default for that method."]
    return "\n".join(lines)


def scan(args: Sequence[str], *names: str) -> str | None:
    """The value a flag has among arguments, before they are parsed: it decides what the defaults
    are."""
    value = None
    for i, arg in enumerate(args):
        for name in names:
            if arg == name and i + 1 < len(args):
                value = args[i + 1]
            elif arg.startswith(f"{name}="):
                value = arg.partition("=")[2]
    return value


def run(args: Sequence[str]) -> int:
    """Parse and train."""
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, rest = args[0], list(args[1:])
    if name not in METHODS:
        raise UsageError(
            f"no method is called {name!r}{nearest(name, METHODS)}; there are {', '.join(METHODS)}"
        )
    request = parse_train(name, rest)
    if request.print_config:
        from surefoot.config import to_json

        print(json.dumps(to_json(request.config), indent=1))
        return 0
    if request.dry_run:
        return dry_run(request)
    if request.seeds > 1:
        parent = request.run_dir or folder_for(request.config, None)
        return many(name, rest, parent, request)
    return one(request)


@dataclass(frozen=True)
class Request:
    """What a command line of `train` asks for."""

    config: Any
    run_dir: Path | None
    quiet: bool
    json: bool
    dry_run: bool
    print_config: bool
    seeds: int
    jobs: int


def parse_train(name: str, args: list[str]) -> Request:
    """The request that flags describe, on top of a preset or of `--config`. Raises `UsageError`."""
    from surefoot.cli.flags import parse
    from surefoot.cli.train_flags import (
        WRAPPER_FLAGS,
        Flags,
        method_flags,
        method_type,
        with_wrapper,
    )
    from surefoot.config import method_name, read_config
    from surefoot.presets import choose

    if name == "ppo" and any(
        a.split("=")[0] in ("--method.target-kl", "--method.target_kl") for a in args
    ):
        raise UsageError(
            "PPO has no target_kl: what other libraries call so stops epochs, "
            "and is --method.stop-kl here"
        )
    args = [spell(a) for a in args]
    path, env = scan(args, "--config"), scan(args, "--env")
    if path is not None:
        base = read_config(Path(path))
        if method_name(base.method) != name:
            raise UsageError(f"{path} is of method {method_name(base.method)}, not {name}")
    else:
        base = choose(name, env or "CartPole-v1", preset_name(scan(args, "--preset")))
    base = with_value(base, scan(args, "--value"))
    for flag in reversed(WRAPPER_FLAGS):
        base = with_wrapper(base, flag, scan(args, f"--{flag}"))
    args = method_flags(args, base.method)
    kind = Flags[method_type(base.method), type(base.value)]  # pyright: ignore[reportInvalidTypeArguments] (types at run time)
    flags = parse(kind, args, prog=f"surefoot train {name}", default=Flags(settings=base))
    if env is None and path is None:
        raise UsageError(f"--env is missing; {USAGE.removeprefix('usage: ')}")
    config = flags.settings
    for field in ("seeds", "jobs"):
        if getattr(flags, field) < 1:
            raise UsageError(
                f"--{field} is {getattr(flags, field)}; allowed: a whole number of at least 1"
            )
    run_dir = None if flags.run_dir is None else Path(flags.run_dir)
    return Request(
        config,
        run_dir,
        flags.quiet,
        flags.json,
        flags.dry_run,
        flags.print_config,
        flags.seeds,
        flags.jobs,
    )


def preset_name(asked: str | None) -> str | None:
    """`none` in the records' spelling."""
    return "none" if asked == "None" else asked


def spell(arg: str) -> str:
    """An argument in the parser's spelling: short flags in full, `none` as it writes it."""
    head, equals, tail = arg.partition("=")
    if not equals:
        return ALIASES.get(arg, "None" if arg == "none" else arg)
    return f"{ALIASES.get(head, head)}={'None' if tail == 'none' else tail}"


def with_value(config: Config[Any, Any], name: str | None) -> Config[Any, Any]:
    """The configuration with its value function separate (`fit`) or on shared layers (`shared`)."""
    from surefoot.value import SharedValue, ValueFit

    if name is None:
        return config
    if name not in ("fit", "shared"):
        raise UsageError(f"--value is {name!r}; allowed: fit, shared")
    if name == "shared" and not isinstance(config.value, SharedValue):
        shared = dataclasses.replace(config.networks, shared_layers=len(config.networks.hidden))
        return dataclasses.replace(config, value=SharedValue(), networks=shared)
    if name == "fit" and not isinstance(config.value, ValueFit):
        apart = dataclasses.replace(config.networks, shared_layers=0, joint=False)
        return dataclasses.replace(config, value=ValueFit(), networks=apart)
    return config


def plan(config: Any, spec: Any) -> str:
    """The first line of a run: what will be done."""
    from surefoot.config import method_name
    from surefoot.console import steps_text

    rows = (
        "rows (reset rows are not steps)" if not spec.on_device and not spec.same_step else "steps"
    )
    preset = f"preset {config.preset}" if config.preset != "none" else "no preset"
    return (
        f"{method_name(config.method)} · {config.env} · seed {config.seed} · {preset} · "
        f"{config.updates} updates of {config.steps_an_update} {rows} "
        f"reach {steps_text(config.steps)} steps · "
        f"{config.num_envs} environments x {config.rollout_steps}{branches(config.vine)}"
    )


def branches(vine: Any) -> str:
    """The branches of an update, or nothing."""
    if not vine.states:
        return ""
    return f" + {vine.states} states x {vine.branches} branches x at most {vine.horizon}"


def folder_for(config: Any, run_dir: Path | None) -> Path:
    """A folder that does not exist yet, made. Raises `UsageError` where `run_dir` is taken."""
    from surefoot.config import method_name

    if run_dir is not None:
        refuse_taken(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        return run_dir
    plain = "".join(c if c.isalnum() or c in "-._" else "-" for c in config.env)
    while True:
        folder = (
            Path("runs")
            / f"{method_name(config.method)}-{plain}-{config.seed}-{secrets.token_hex(2)}"
        )
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder


def refuse_taken(run_dir: Path) -> None:
    """Raise `UsageError` where there is anything under this name but the lock of a run that never
    began."""
    from surefoot.runs import LOCK

    if not run_dir.exists():
        return
    if not run_dir.is_dir() or any(p.name != LOCK for p in run_dir.iterdir()):
        raise UsageError(
            f"--run-dir {run_dir} exists and is not empty; a run is never overwritten: "
            f"name another folder, or go on with it: surefoot resume {run_dir}"
        )


def one(request: Request) -> int:
    """Train one seed in this process."""
    fix_threads()
    folder = folder_for(request.config, request.run_dir)
    from surefoot.provenance import write_config
    from surefoot.runs import owner

    with owner(folder):
        refuse_taken(folder)  # again: another process may have been faster
        # Before anything that takes time, so that whatever is killed after it can be resumed.
        # Where the folder is called otherwise the run is the same, to the certificate's last bit.
        command = ["surefoot", *strip(sys.argv[1:], ("--run-dir",))]
        write_config(folder, request.config, command=command)
        try:
            agent = begin(request.config, folder, command)
        except (UsageError, EnvironmentFault):
            never_was(folder)
            raise
        from surefoot.cli.session import Talk, envpool_note, train

        talk = Talk(request.quiet, request.json)
        if talk.aloud:
            print(plan(agent.config, agent.spec))
            print(f"resume    {level_text(agent)}")
            note = envpool_note(request.config.env)
            if note:
                print(note)
            print("compiling the update ...", flush=True)
        return train(agent, folder, request.config.steps, talk)


def never_was(folder: Path) -> None:
    """Remove the folder of a run that could not begin, and `runs/` if it held nothing else."""
    from surefoot.runs import LOCK

    (folder / "config.json").unlink()
    with contextlib.suppress(OSError):  # not empty, or its lock cannot be removed while it is held
        (folder / LOCK).unlink()
        folder.rmdir()
        if folder.parent == Path("runs"):
            folder.parent.rmdir()


def begin(config: Any, folder: Path, command: list[str]) -> Agent:
    """The agent of a run that begins, its level of resume found out and written down."""
    compilation_cache()
    from surefoot.agent import Agent
    from surefoot.certificate import promised
    from surefoot.provenance import write_config

    agent = Agent(config.method, config.env, config=config)
    agent.loop.prove()
    level = {"level": agent.loop.level, "words": agent.loop.words}
    level |= {"checkpoint_every": agent.checkpoint_every}
    promise, bound = promised(agent.config)
    write_config(folder, agent.config, promise=promise, bound=bound, resume=level, command=command)
    return agent


def level_text(agent: Agent) -> str:
    """How exactly a run could go on, in words."""
    from surefoot.console import steps_text

    loop, every = agent.loop, steps_text(agent.checkpoint_every)
    if loop.level == "inexact":
        return f"inexact: {loop.words}; after a resume new episodes begin"
    return f"exact, {loop.level} ({loop.words}); a checkpoint every {every} steps"


def dry_run(request: Request) -> int:
    """Print what a run would be: settings, size, steps an update."""
    import jax
    import numpy as np

    from surefoot import envs
    from surefoot.config import to_json
    from surefoot.loops import fresh_state

    config = request.config
    made = envs.make(config.env, config.num_envs, config.seed, config.workers)
    ts = fresh_state(config, made.spec)
    count = lambda tree: sum(np.asarray(x).size for x in jax.tree.leaves(tree))  # noqa: E731
    print(plan(config, made.spec))
    print(f"policy    {count(ts.policy)} parameters, critic {count(ts.critic)}")
    per_row = made.spec.obs_dim * 12 + made.spec.action_dim * 12 + 40
    print(f"memory    about {config.rows * per_row / 1e6:.1f} MB a rollout")
    print(json.dumps(to_json(config), indent=1))
    if not made.spec.on_device:
        made.close()
    return 0
