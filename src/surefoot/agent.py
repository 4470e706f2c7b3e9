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
from surefoot.certificate import Certifier
from surefoot.checks import UsageError, require
from surefoot.config import Config, method_class, method_name, read_config, to_json
from surefoot.envs.spaces import ActionDoor
from surefoot.loops import Loop, Outcome, fresh_state, make_loop, release_memory
from surefoot.networks import Networks
from surefoot.normalize import HostNormalizer, RunningStats
from surefoot.presets import choose
from surefoot.provenance import write_config
from surefoot.rollouts.host import Episode, act, draw_noise, host_actor
from surefoot.rollouts.vine import Vine
from surefoot.sinks import Sink, Update
from surefoot.train import TrainState
from surefoot.types import PROMISES, EnvSpec, PolicyUpdate, bound_of
from surefoot.value import SharedValue, ValueFit
from surefoot.wrappers import unwrapped

RATE_WINDOW = 20
"""Updates that `steps_per_second` looks back over."""
WINDOW = 100
"""Episodes that `episode_return`, `episode_length` and `success_rate` are the mean of."""
CHECKPOINT_EVERY = 100_000
"""Environment steps between checkpoints where a checkpoint changes nothing."""
CHECKPOINT_EVERY_ON_DEVICE = 500_000
"""The same where steps are so fast that writing more often would cost more than a hundredth."""
EPISODES_A_BARRIER, LONG_EPISODE = 10, 1000
"""Where it cuts episodes: episodes between two, and the length of those without a time limit."""
LOOP, KL = "environments/", "trust/kl"
"""Where a checkpoint keeps the environments, and the mean and worst KL of every update."""


@dataclass(frozen=True)
class TrustReport:
    """What became of the bound: one number an update, and counts."""

    promise: str
    """What is enforced, as in `PolicyUpdate.promise`: `mean_kl`, `max_kl` (every state), ...,
    `none`."""
    max_kl: float | None
    """The bound, 1 for `projection`, which is about a share; None where nothing is promised."""
    kl_mean: tuple[float, ...]
    """The mean over states of each update."""
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
        vine: Vine | None = None,
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
            vine=vine,
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
        self._loop = make_loop(config, made)

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
        self._loop: Loop | None = None
        self._environments: tuple[dict[str, np.ndarray], dict[str, Any], str] | None = None
        self._best: Best | None = None
        self.certifier: Certifier | None = None
        """Writes the certificate of the run this agent trains in, if it trains in one."""
        self.env_steps = 0
        self.update = 0
        self.episodes = 0
        self._best_acts: int | None = None
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
    def acting(self) -> int:
        """Updates behind the policy that acts: all, or those of the best one where that was
        loaded."""
        return self.update if self._best_acts is None else self._best_acts

    @property
    def bound(self) -> float | None:
        """The enforced bound on `judged`, or None where the method promises nothing."""
        return bound_of(self.config.method)

    @property
    def judged(self) -> str:
        """The column of the ruler that the bound is on; `kl_mean` where nothing is promised."""
        return PROMISES.get(self.config.method.promise, "kl_mean")

    # Training.

    def learn(self, steps: int, sinks: Sequence[Sink] | None = None) -> Agent:
        """Train for at least `steps` more environment steps, in whole updates; schedules run over
        the first call's.

        A loaded agent goes on as if it had never stopped, environments included. Without `sinks` a
        panel is shown on a terminal, and nothing elsewhere. Raises `EnvironmentFault` where the
        environment fails; the agent then holds the state before the failing update.
        """
        if self._best_acts is not None:
            raise UsageError(
                "this agent was loaded with best=True, to act with: the optimiser is of a later "
                "policy; load it without to go on training"
            )
        self.schedule(steps)
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

    def schedule(self, steps: int) -> None:
        """Let schedules run over `steps` environment steps, unless they run over something
        already. Raises `UsageError` where that is no number of steps."""
        config = dataclasses.replace(self.config, steps=steps)
        if not self._scheduled:
            self.config, self._scheduled = config, True
            self._ts = dataclasses.replace(self._ts, total=np.asarray(config.updates, np.int32))

    def step(self) -> Outcome:
        """Collect and learn once; `report` says what came of it. Raises `EnvironmentFault` as
        `learn`."""
        loop, acted = self.loop, self._ts
        self._ts, outcome = loop.iterate(self._ts)
        if not self._compiled:
            self._compiled = True
            release_memory()
        self._actor = None
        self._account(outcome)
        self._keep_best(acted)
        if self.certifier is not None:
            policies = acted.policy, self._ts.policy
            self.certifier.record(self.update, *policies, lambda: loop.rollout, self.report)
        return outcome

    def pass_checkpoint(self) -> None:
        """Do to the run what a checkpoint here does, without writing one: at level `barrier` the
        episodes begin anew."""
        if self.loop.level == "barrier" and self.update:
            self._ts = self.loop.begin(self._ts, self.update)

    def due(self, since: int) -> bool:
        """Whether a checkpoint is due, the last one having been at `since` environment steps: the
        next rollout could pass the interval."""
        return self.env_steps + self.config.steps_an_update > since + self.checkpoint_every

    def _iterate(self, sinks: Sequence[Sink], start: float) -> bool:
        before = time.perf_counter()
        outcome = self.step()
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
        kept = kept or report.get("papi_fallback", False)
        refused = kept or not report.get("accepted", True)
        self._rolled_back += refused or bool(report["update_skipped"])
        mean: dict[str, float | None] = {"episode_return": None, "episode_length": None}
        if self._window:
            returns, lengths, successes = zip(*self._window, strict=True)
            said = [x for x in successes if x is not None]
            mean = {
                "episode_return": float(np.mean(returns)),
                "episode_length": float(np.mean(lengths)),
            }
            if said:  # a row of an environment that knows no success has no such column
                mean["success_rate"] = float(np.mean(said))
        self.report = {
            "env_steps": self.env_steps,
            "update": self.update,
            "episodes": self.episodes,
            **mean,
            **report,
        }

    def _keep_best(self, acted: TrainState) -> None:
        """Remember the policy that acted last where the mean return of training is the best yet."""
        if not self._window:
            return
        best = Best(len(self._window), self.report["episode_return"], self.update - 1)
        if self._best is None or best.beats(self._best):
            self._best = dataclasses.replace(best, parameters=_parameters(acted))

    @property
    def loop(self) -> Loop:
        """Environments and the compiled update; made when first needed, and brought to where the
        checkpoint was."""
        if self._loop is None:
            loop = make_loop(self.config, self._make_env())
            if self._environments is not None:
                arrays, state, _ = self._environments
                loop.restore(*self._environments)
                if state.get("begun") and not arrays:  # episodes ran that could not be saved
                    self._ts = loop.begin(self._ts, self.update)
                self._environments = None
            self._loop = loop
        return self._loop

    @property
    def checkpoint_every(self) -> int:
        """Environment steps between checkpoints: as configured, or by how exactly the environments
        come back.

        A barrier cuts every episode that runs, so there it is ten episodes of every environment,
        and 100 000 steps at least.
        """
        if self.config.checkpoint_every is not None:
            return self.config.checkpoint_every
        if self.spec.on_device:
            return CHECKPOINT_EVERY_ON_DEVICE
        if self.loop.level != "barrier":
            return CHECKPOINT_EVERY
        episode = self.spec.max_episode_steps or LONG_EPISODE
        return max(CHECKPOINT_EVERY, EPISODES_A_BARRIER * self.spec.num_envs * episode)

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
        """Close the environments; `learn` makes them again where they were."""
        if self._loop is not None:
            self._environments = (*self._loop.capture(), "this agent")
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

        `config.json` and `checkpoints/<update>/`, which holds the environments too where they can
        be saved (see `checkpoint`). Raises `UsageError` where the folder holds an agent with other
        settings, `EnvironmentFault` where the disk refuses.
        """
        folder = Path(folder)
        path = folder / "config.json"
        if path.exists() and to_json(read_config(path)) != to_json(self.config):
            raise UsageError(f"{folder} holds an agent with other settings; name another folder")
        if not path.exists():
            write_config(folder, self.config)
        self.checkpoint(folder)
        return folder

    def checkpoint(self, run: Path, extra: dict[str, Any] | None = None) -> Path:
        """Write the state under `run/checkpoints`, named by the number of the update, and the best
        policy so far under `run/best`.

        Training goes on from it to the bit: parameters, optimiser, normaliser, keys, and the
        environments with their running episodes. Where those cannot be saved but are a function of
        a seed (EnvPool, level `barrier`) the running episodes are cut here, and new ones begin,
        seeded by run and update, whether training goes on now or from the file. `extra` is JSON
        data to keep beside it.
        """
        held, environments = self._held()
        arrays = checkpoint.tree_to_arrays(self._ts) | {f"{LOOP}{k}": v for k, v in held.items()}
        arrays[KL] = np.asarray(self._kl, np.float64).reshape(-1, 3)
        self._save_best(run)  # first: the checkpoint says that it is there
        state = self._counters() | {"environments": environments, **(extra or {})}
        if self.certifier is not None:
            state["certificate"] = self.certifier.state()
        path = checkpoint.save(run / "checkpoints" / f"{self.update:06d}", arrays, state)
        if self.certifier is not None:
            self.certifier.sweep()
        return path

    def _held(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What a checkpoint holds of the environments; at level `barrier` they begin anew here."""
        if self._loop is None and self._environments is not None:
            return self._environments[:2]
        self.pass_checkpoint()
        return self.loop.capture()

    def fingerprint(self) -> str:
        """SHA-256 of what the compiled update makes of the initial state and a rollout of noise.

        It differs between machines and versions whose runs would differ.
        """
        one_update = dataclasses.replace(self.config, steps=1)  # whatever the run's length
        return self.loop.fingerprint(fresh_state(one_update, self.spec))

    def _counters(self) -> dict[str, Any]:
        best = None if self._best is None else self._best.to_json()
        return {
            "env_steps": self.env_steps,
            "update": self.update,
            "episodes": self.episodes,
            "scheduled": self._scheduled,
            "rolled_back": self._rolled_back,
            "window": [list(e) for e in self._window],
            "best": best,
            "spec": dataclasses.asdict(self.spec),
            "door": None if self._door is None else self._door.to_json(),
        }

    def _save_best(self, run: Path) -> None:
        best = self._best
        if best is None or best.parameters is None:  # None: it is on the disk already
            return
        arrays = checkpoint.tree_to_arrays(best.parameters)
        state = self._counters() | {"update": best.update}
        checkpoint.save(run / "best" / f"{best.update:06d}", arrays, state)
        for older in checkpoint.numbered(run / "best"):
            if int(older.name) != best.update:
                checkpoint.remove(older)
        self._best = dataclasses.replace(best, parameters=None)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        env: Any = None,
        callback: Callable[[Agent], bool | None] | None = None,
        *,
        best: bool = False,
    ) -> Agent:
        """The agent of a saved folder or a run, at its newest whole checkpoint; `learn` goes on
        from there as if never stopped.

        `env` replaces the environment by name, and is needed where that was an object; another one
        begins new episodes. `best` takes the policy and normaliser of the best mean return over 100
        training episodes, to act with. Environments are made when first needed. Raises `UsageError`
        where there is no run, `EnvironmentFault` where no checkpoint is whole.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"{folder} does not exist; surefoot list runs shows what there is")
        config = read_config(folder / "config.json")
        path, _ = checkpoint.newest(folder)
        agent = cls.at(config, path, env, callback)
        if best:
            agent._take(*checkpoint.newest_of(folder / "best"))
        return agent

    def _take(self, path: Path, damaged: list[str]) -> None:
        """Policy, critic and normaliser of a best checkpoint in place of this agent's."""
        arrays, state = checkpoint.read(path)
        self._best_acts = state["update"]
        parameters = checkpoint.tree_from_arrays(_parameters(self._ts), arrays, str(path))
        self._ts = dataclasses.replace(self._ts, **parameters)

    @classmethod
    def at(
        cls,
        config: Config[Any, Any],
        path: Path,
        env: Any = None,
        callback: Callable[[Agent], bool | None] | None = None,
    ) -> Agent:
        """The agent of a configuration at a checkpoint (a folder under `checkpoints/`); as
        `load`."""
        arrays, state = checkpoint.read(path)
        spec = EnvSpec(**state["spec"])
        door = None if state["door"] is None else ActionDoor.from_json(state["door"])
        agent = cls.__new__(cls)
        agent.env_source = config.env if env is None else env
        ts = checkpoint.tree_from_arrays(fresh_state(config, spec), arrays, str(path))
        agent._start(config, spec, door, ts, callback)
        if env is None:
            held = {k.removeprefix(LOOP): v for k, v in arrays.items() if k.startswith(LOOP)}
            agent._environments = (held, state["environments"], str(path))
        agent.env_steps, agent.update, agent.episodes = (
            state["env_steps"],
            state["update"],
            state["episodes"],
        )
        agent._scheduled, agent._rolled_back = state["scheduled"], state["rolled_back"]
        agent._window.extend(Episode(*e) for e in state["window"])
        agent._best = None if state["best"] is None else Best(**state["best"])
        agent._kl = [(a, b, c) for a, b, c in arrays[KL].tolist()]
        return agent


@dataclass(frozen=True)
class Best:
    """The best policy so far, by mean return over the last 100 training episodes."""

    episodes: int
    """Episodes the mean is over; below 100 only where there have not been more."""
    episode_return: float
    update: int
    """Updates the policy that acted had behind it."""
    parameters: dict[str, Any] | None = None
    """Policy, critic and normaliser; None once they are on the disk."""

    def beats(self, other: Best) -> bool:
        """A mean over more episodes is worth more than a higher one over fewer."""
        return (self.episodes, self.episode_return) > (other.episodes, other.episode_return)

    def to_json(self) -> dict[str, Any]:
        """The record without its parameters."""
        return {
            "episodes": self.episodes,
            "episode_return": self.episode_return,
            "update": self.update,
        }


def _parameters(ts: TrainState) -> dict[str, Any]:
    return {"policy": ts.policy, "critic": ts.critic, "obs_stats": ts.obs_stats}


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
