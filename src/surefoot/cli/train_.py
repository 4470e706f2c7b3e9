"""`surefoot train METHOD`: one run, or several seeds side by side."""

from __future__ import annotations

import dataclasses
import json
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.checks import EnvironmentFault, UsageError
from surefoot.cli.cache import compilation_cache
from surefoot.cli.seeds import many
from surefoot.envs import ALSO_IN_ENVPOOL, installed, nearest, split
from surefoot.methods import METHODS

if TYPE_CHECKING:
    from surefoot.agent import Agent
    from surefoot.config import Config

EVAL_EPISODES = 20

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
    from surefoot.cli.train_flags import Flags, method_flags, method_type, with_fixup
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
    base = with_fixup(with_value(base, scan(args, "--value")), scan(args, "--fixup"))
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
        apart = dataclasses.replace(config.networks, shared_layers=0)
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
        f"{config.updates} updates of {config.rows} {rows} "
        f"reach {steps_text(config.steps)} steps · "
        f"{config.num_envs} environments x {config.rollout_steps}"
    )


def folder_for(config: Any, run_dir: Path | None) -> Path:
    """A folder that does not exist yet, made. Raises `UsageError` where `run_dir` is taken."""
    from surefoot.config import method_name

    if run_dir is not None:
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise UsageError(
                f"--run-dir {run_dir} exists and is not empty; "
                "a run is never overwritten, name another folder"
            )
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


class Stop:
    """Ctrl-C or SIGTERM once: finish the update and stop. Twice: leave at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Stop:
        self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._old.items():
            signal.signal(s, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def one(request: Request) -> int:
    """Train one seed in this process."""
    compilation_cache()
    from surefoot.agent import Agent
    from surefoot.provenance import write_config
    from surefoot.sinks import JsonLines, TensorBoard

    config = request.config
    agent = Agent(config.method, config.env, config=config)
    folder = folder_for(config, request.run_dir)
    write_config(folder, agent.config, command=["surefoot", *sys.argv[1:]])
    talk = not (request.quiet or request.json)
    if talk:
        print(plan(agent.config, agent.spec))
        note = envpool_note(config.env)
        if note:
            print(note)
        print("compiling the update ...", flush=True)
    stop = Stop()
    saver = Saver(agent, folder, config.checkpoint_every)
    agent.callback = lambda _: not stop.asked
    sinks: list[Any] = [JsonLines(folder), TensorBoard(folder), saver]
    if talk:
        sinks.insert(0, view(agent, folder))
    agent.checkpoint(folder)
    try:
        with stop:
            agent.learn(config.steps, sinks)
    except EnvironmentFault as error:
        last = saver.last.relative_to(folder) if saver.last else "checkpoints/000000"
        raise EnvironmentFault(
            f"{error}; update {agent.update + 1} was not made, {folder / last} is kept"
        ) from error
    agent.checkpoint(folder)
    agent.close()
    if stop.asked and agent.env_steps < config.steps:
        print(
            f"stopped   at update {agent.update} ({agent.env_steps} steps), saved in {folder}",
            file=sys.stderr,
        )
        return 130
    return closing(agent, folder, request)


def view(agent: Agent, folder: Path) -> Any:
    """A panel on a terminal, plain lines elsewhere."""
    from surefoot.console import Panel, PlainLines, is_terminal

    if is_terminal():
        title = (
            f"{type(agent.config.method).__name__} · {agent.config.env} · seed {agent.config.seed}"
        )
        return Panel(agent, agent.config.steps, title, str(folder))
    return PlainLines(agent, agent.config.steps)


class Saver:
    """A sink that writes a checkpoint each time a number of environment steps has passed."""

    def __init__(self, agent: Agent, folder: Path, every: int) -> None:
        self.agent, self.folder, self.every = agent, folder, every
        self.next = every
        self.last: Path | None = None

    def __call__(self, update: Any) -> None:
        if self.agent.env_steps >= self.next:
            self.last = self.agent.checkpoint(self.folder)
            self.next = (self.agent.env_steps // self.every + 1) * self.every

    def close(self) -> None:
        """Nothing to close."""


def envpool_note(env: str) -> str:
    """A line for plain ids that EnvPool also has."""
    suite, tail = split(env)
    if suite or tail not in ALSO_IN_ENVPOOL:
        return ""
    how = "" if installed("envpool") else ' after pip install "surefoot[envpool]"'
    return f"note      EnvPool has this too, and is faster: --env envpool:{tail}{how}"


def closing(agent: Agent, folder: Path, request: Request) -> int:
    """Evaluate, and print the four closing lines (or one of JSON)."""
    from surefoot.evaluate import evaluate

    score = evaluate(agent, EVAL_EPISODES)
    trust = agent.trust_report()
    if request.json:
        print(
            json.dumps(
                score.to_json()
                | {"run": str(folder), "env_steps": agent.env_steps, "violations": trust.violations}
            )
        )
        return 0
    low, high = score.ci95
    updates = f"{len(trust.kl_mean)} updates"
    if trust.max_kl is None:
        kept = f"no bound asked, worst state KL {max(trust.kl_max):.3g} in {updates}"
    else:
        what = trust.promise.replace("_", " ").replace("kl", "KL")
        kept = f"{trust.violations} bound violations in {updates} ({what} <= {trust.max_kl:g})"
    kept += f" · {trust.rolled_back} rolled back" if trust.rolled_back else ""
    print(
        f"done      {score.mean:.1f} [{low:.1f}, {high:.1f}] over {EVAL_EPISODES} "
        f"evaluation episodes, deterministic · {kept}"
    )
    print(f"folder    {folder}")
    print(f"next      surefoot watch {folder}")
    print(f"          surefoot eval {folder} --episodes 100")
    note = envpool_note(agent.config.env)
    if note and not request.quiet:
        print(note)
    return 0


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
