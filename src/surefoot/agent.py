"""`Agent`: the user's door. A method and an environment in, a policy that acts out."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot import checkpoint, envs
from surefoot.checks import UsageError, require
from surefoot.config import Config, method_class, method_name, read_config, to_json
from surefoot.envs.spaces import ActionDoor
from surefoot.loops import Loop, Outcome, fresh_state, make_loop, release_memory
from surefoot.networks import Networks
from surefoot.normalize import HostNormalizer, RunningStats
from surefoot.presets import choose
from surefoot.provenance import write_config
from surefoot.rollouts.host import Episode, act, draw_noise, host_actor
from surefoot.sinks import Sink, Update
from surefoot.train import TrainState
from surefoot.types import PROMISES, EnvSpec, PolicyUpdate
from surefoot.value import SharedValue, ValueFit
from surefoot.wrappers import unwrapped

RATE_WINDOW = 20
"""Updates that `steps_per_second` looks back over."""
WINDOW = 100
"""Episodes that `episode_return` and `episode_length` are the mean of."""


@dataclass(frozen=True)
class TrustReport:
    """What became of the bound: one number an update, and counts."""

    promise: str
    """What is enforced, as in `PolicyUpdate.promise`: `mean_kl`, `max_kl` (every state), ...,
    `none`."""
    max_kl: float | None
    """The bound; None where nothing is promised."""
    kl_mean: tuple[float, ...]
    kl_max: tuple[float, ...]
    """The worst state of each update."""
    violations: int
    """Updates above the bound."""
    rolled_back: int
    """Updates that kept the old policy: refused by the method, or not finite."""

    def __str__(self) -> str:
        worst = max(self.kl_max, default=0.0)
        median = float(np.median(self.kl_mean)) if self.kl_mean else 0.0
        bound = (
            "no bound asked"
            if self.max_kl is None
            else f"{self.violations} violations of {self.promise} <= {self.max_kl:g}"
        )
        return (
            f"{bound} in {len(self.kl_mean)} updates · {self.rolled_back} rolled back · "
            f"median KL {median:.3g} · worst state {worst:.3g}"
        )


class Agent:
    """A policy, its critic, and all that training needs to go on.

    `method` is a record such as `TRPO(max_kl=0.01)` or a name such as "trpo"; `env` is an id
    ("HalfCheetah-v5", "envpool:Hopper-v5", "jax:CartPole-v1"), a Gymnasium environment, a vector
    environment, or a function that makes one. Settings not given come from the preset that fits
    method and environment; `preset="none"` takes the bare defaults. `callback(agent)` is called
    after every update and stops training by returning False.

    Raises `UsageError` for settings that cannot be used, `EnvironmentFault` where an environment
    cannot be made.

    >>> from surefoot import Agent, TRPO
    >>> agent = Agent(TRPO(max_kl=0.01), "jax:CartPole-v1", num_envs=4, num_steps=32).learn(256)
    >>> action, _ = agent.predict([0.0, 0.1, 0.0, -0.1])
    """

    def __init__(
        self,
        method: PolicyUpdate | str,
        env: Any,
        callback: Callable[[Agent], bool | None] | None = None,
        *,
        seed: int | None = None,
        num_envs: int | None = None,
        num_steps: int | None = None,
        workers: int | None = None,
        gamma: float | None = None,
        lam: float | None = None,
        entropy_coef: float | None = None,
        networks: Networks | None = None,
        value: ValueFit | SharedValue | None = None,
        preset: str | None = None,
        config: Config[Any, Any] | None = None,
    ) -> None:
        given = dict(
            seed=seed,
            num_envs=num_envs,
            num_steps=num_steps,
            workers=workers,
            gamma=gamma,
            lam=lam,
            entropy_coef=entropy_coef,
            networks=networks,
            value=value,
        )
        self.env_source = env
        config = _settle(
            method, env, preset, config, {k: v for k, v in given.items() if v is not None}
        )
        made = envs.make(env, config.num_envs, config.seed, config.workers)
        spec = made.spec
        config = dataclasses.replace(
            config, num_envs=spec.num_envs, env=env if isinstance(env, str) else spec.id
        )
        self._start(config, spec, getattr(made, "door", None), fresh_state(config, spec), callback)
        self._loop: Loop | None = make_loop(config, made)

    def _start(
        self,
        config: Config[Any, Any],
        spec: EnvSpec,
        door: ActionDoor | None,
        ts: TrainState,
        callback: Callable[[Agent], bool | None] | None,
    ) -> None:
        self.config, self.spec, self._door, self._ts, self.callback = (
            config,
            spec,
            door,
            ts,
            callback,
        )
        self._loop = None
        self.env_steps = 0
        self.update = 0
        self.episodes = 0
        self.report: dict[str, Any] = {}
        """Metrics of the last update, as in `metrics.jsonl`."""
        self._scheduled = False
        self._compiled = False
        self._recent_rate: deque[tuple[float, int]] = deque(maxlen=RATE_WINDOW)
        self._window: deque[Episode] = deque(maxlen=WINDOW)
        self._kl: list[tuple[float, float, float]] = []
        self._rolled_back = 0
        self._noise = np.random.default_rng([config.seed, 4])
        self._actor: Any = None

    # What others read.

    @property
    def policy(self) -> Any:
        """The policy: a callable pytree, normalised observations [..., obs_dim] -> distribution."""
        return self._ts.policy

    @property
    def obs_stats(self) -> RunningStats | None:
        """Statistics observations are normalised with; None where they are not."""
        return self._ts.obs_stats

    @property
    def state(self) -> TrainState:
        """The whole training state."""
        return self._ts

    @property
    def recent(self) -> list[Episode]:
        """The last episodes of training, at most 100."""
        return list(self._window)

    @property
    def bound(self) -> float | None:
        """The enforced bound on `judged`, or None where the method promises nothing."""
        return self.config.method.max_kl if self.config.method.promise in PROMISES else None

    @property
    def judged(self) -> str:
        """The column of the ruler that the bound is on; `kl_mean` where nothing is promised."""
        return PROMISES.get(self.config.method.promise, "kl_mean")

    # Training.

    def learn(self, steps: int, sinks: Sequence[Sink] | None = None) -> Agent:
        """Train for at least `steps` more environment steps, in whole updates; schedules run over
        the first call's.

        Without `sinks` a panel is shown on a terminal, and nothing elsewhere. Raises
        `EnvironmentFault` where the environment fails; the agent then holds the state before the
        failing update.
        """
        check = dataclasses.replace(self.config, steps=steps)
        if not self._scheduled:
            self.config, self._scheduled = check, True
            self._ts = dataclasses.replace(self._ts, total=np.asarray(check.updates, np.int32))
        if sinks is None:
            from surefoot.console import panel_if_terminal

            sinks = panel_if_terminal(self, self.env_steps + steps)
        target, start = self.env_steps + steps, time.perf_counter()
        self._recent_rate = deque([(start, self.env_steps)], maxlen=RATE_WINDOW)
        try:
            going = True
            while going and self.env_steps < target:
                going = self._iterate(sinks, start)
        finally:
            for sink in sinks:
                sink.close()
        return self

    def _iterate(self, sinks: Sequence[Sink], start: float) -> bool:
        if self._loop is None:
            self._loop = make_loop(self.config, self._make_env())
        before = time.perf_counter()
        self._ts, outcome = self._loop.iterate(self._ts)
        if not self._compiled:
            self._compiled = True
            release_memory()
        self._actor = None
        self._account(outcome)
        now = time.perf_counter()
        then, steps_then = self._recent_rate[0]
        self._recent_rate.append((now, self.env_steps))
        timings = {
            "update": self.update,
            "env_steps": self.env_steps,
            "seconds": round(now - start, 6),
            "steps_per_second": round((self.env_steps - steps_then) / (now - then), 1),
            "seconds_collect": round(outcome.seconds_collect, 6),
            "seconds_learn": round(outcome.seconds_learn, 6),
            "seconds_update": round(now - before, 6),
        }
        for sink in sinks:
            sink(Update(self.report, timings))
        return self.callback is None or self.callback(self) is not False

    def _account(self, outcome: Outcome) -> None:
        self.update += 1
        self.env_steps += outcome.env_steps
        self.episodes += len(outcome.episodes)
        self._window.extend(outcome.episodes)
        report = outcome.report
        self._kl.append((report["kl_mean"], report["kl_max"], report[self.judged]))
        kept = min(report.get("fixpo_scale", 1), report.get("fixup_scale", 1)) == 0
        refused = kept or not report.get("accepted", True)
        self._rolled_back += refused or bool(report["update_skipped"])
        mean: dict[str, float | None] = {"episode_return": None, "episode_length": None}
        if self._window:
            returns, lengths = zip(*self._window, strict=True)
            mean = {
                "episode_return": float(np.mean(returns)),
                "episode_length": float(np.mean(lengths)),
            }
        self.report = {
            "env_steps": self.env_steps,
            "update": self.update,
            "episodes": self.episodes,
            **mean,
            **report,
        }

    def _make_env(self) -> Any:
        made = envs.make(
            self.env_source, self.config.num_envs, self.config.seed, self.config.workers
        )
        same = (made.spec.obs_dim, made.spec.action_dim, made.spec.discrete)
        if same != (self.spec.obs_dim, self.spec.action_dim, self.spec.discrete):
            raise UsageError(
                f"{made.spec.id} has other spaces than the environment this agent was trained in"
            )
        self.spec, self._door = made.spec, getattr(made, "door", None)
        return made

    def close(self) -> None:
        """Close the environments."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    # Acting.

    def predict(self, obs: Any, state: None = None, deterministic: bool = True) -> tuple[Any, None]:
        """Actions for raw observations [obs_dim] or [N, obs_dim], in the environment's units, and
        the next state.

        The state is for recurrent policies and always None here. Not deterministic means sampled
        from the policy.
        """
        raw = np.asarray(obs, np.float64)
        d = self.spec.obs_dim
        fits = raw.shape[-1:] == (d,) and raw.ndim in (1, 2)
        require(fits, self, "obs", raw.shape, f"[{d}] or [N, {d}]")
        rows = np.atleast_2d(raw)
        x = np.empty(rows.shape, np.float32)
        HostNormalizer(self.obs_stats)(rows, x)
        if self._actor is None:
            self._actor = host_actor(self.policy)
        spec = dataclasses.replace(self.spec, num_envs=len(rows))
        action = act(self._actor, x, None if deterministic else draw_noise(self._noise, spec, 1)[0])
        action = action if self._door is None else self._door(action)
        return (action[0] if raw.ndim == 1 else action), None

    def trust_report(self) -> TrustReport:
        """Mean and worst KL of every update, violations of the bound, roll-backs."""
        means, worst, judged = zip(*self._kl, strict=True) if self._kl else ((), (), ())
        bound = self.bound
        violations = 0 if bound is None else sum(k > bound for k in judged)
        return TrustReport(
            self.config.method.promise,
            bound,
            tuple(means),
            tuple(worst),
            violations,
            self._rolled_back,
        )

    # Saving.

    def save(self, folder: str | Path) -> Path:
        """Write the agent as a folder that `Agent.load`, `surefoot eval` and `surefoot watch` read.

        `config.json` and `checkpoints/<update>/`; a checkpoint already there is kept. Raises
        `UsageError` where the folder holds an agent with other settings, `EnvironmentFault` where
        the disk refuses.
        """
        folder = Path(folder)
        path = folder / "config.json"
        if path.exists() and to_json(read_config(path)) != to_json(self.config):
            raise UsageError(f"{folder} holds an agent with other settings; name another folder")
        if not path.exists():
            write_config(folder, self.config)
        self.checkpoint(folder)
        return folder

    def checkpoint(self, run: Path) -> Path:
        """Write the state under `run/checkpoints`, named by the number of the update."""
        state = {
            "env_steps": self.env_steps,
            "update": self.update,
            "episodes": self.episodes,
            "scheduled": self._scheduled,
            "rolled_back": self._rolled_back,
            "window": [list(e) for e in self._window],
            "kl": [list(k) for k in self._kl],
            "spec": dataclasses.asdict(self.spec),
            "door": None if self._door is None else self._door.to_json(),
        }
        return checkpoint.save(run / "checkpoints" / f"{self.update:06d}", self._ts, state)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        env: Any = None,
        callback: Callable[[Agent], bool | None] | None = None,
    ) -> Agent:
        """The agent of a saved folder or a run, at its newest whole checkpoint.

        `env` replaces the environment by name, and is needed where that was an object. Environments
        are made when first needed, and begin new episodes. Raises `UsageError` where there is no
        run, `EnvironmentFault` where no checkpoint is whole.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"{folder} does not exist; surefoot list runs shows what there is")
        config = read_config(folder / "config.json")
        path, _ = checkpoint.newest(folder)
        arrays, state = checkpoint.read(path)
        spec = EnvSpec(**state["spec"])
        door = None if state["door"] is None else ActionDoor.from_json(state["door"])
        agent = cls.__new__(cls)
        agent.env_source = config.env if env is None else env
        ts = checkpoint.tree_from_arrays(fresh_state(config, spec), arrays, str(path))
        agent._start(config, spec, door, ts, callback)
        agent.env_steps, agent.update, agent.episodes = (
            state["env_steps"],
            state["update"],
            state["episodes"],
        )
        agent._scheduled, agent._rolled_back = state["scheduled"], state["rolled_back"]
        agent._window.extend(Episode(*e) for e in state["window"])
        agent._kl = [(k[0], k[1], k[-1]) for k in state["kl"]]
        return agent


def _settle(
    method: PolicyUpdate | str,
    env: Any,
    preset: str | None,
    config: Config[Any, Any] | None,
    given: dict[str, Any],
) -> Config[Any, Any]:
    """The configuration of an agent: a given one or a preset's, with what was given by name on
    top."""
    name = method if isinstance(method, str) else method_name(method)
    env_name = env if isinstance(env, str) else _plain_id(env)
    if config is None:
        if isinstance(method, str) or type(unwrapped(method)) is _known(name):
            base = choose(name, env_name, preset)
        else:
            base = Config(method=method, value=ValueFit(), env=env_name)
        if not isinstance(env, str):
            single = not callable(env) and not hasattr(env, "num_envs")
            base = dataclasses.replace(
                base, num_envs=getattr(env, "num_envs", 1 if single else base.num_envs)
            )
        config = base
    if not isinstance(method, str):
        given = {"method": method} | given
    return dataclasses.replace(config, **given)


def _known(name: str) -> type[Any] | None:
    try:
        return method_class(name)
    except UsageError:
        return None


def _plain_id(env: Any) -> str:
    spec = getattr(env, "spec", None)
    return getattr(spec, "id", None) or type(env).__name__
