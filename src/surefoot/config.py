"""`Config`: every setting of a run in one record, and its way through JSON."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from surefoot.advantages import GAE, NORMALIZATIONS, VineQ
from surefoot.checks import UsageError, check_count, check_number, require
from surefoot.divergences import DIVERGENCES, STATISTICS, Divergence, Statistic
from surefoot.envs import nearest
from surefoot.memory import BLENDS, WRITINGS, Blend, Writing
from surefoot.methods import METHODS
from surefoot.multipliers import BETA_RULES, BetaRule, FactorRule
from surefoot.networks import Networks
from surefoot.projection import ENTROPIES, METRICS, EntropyControl, Metric
from surefoot.rollouts.vine import Vine
from surefoot.sgd import SGD
from surefoot.surrogates import SURROGATES, Surrogate
from surefoot.train import Algorithm
from surefoot.types import PolicyUpdate
from surefoot.value import EntropyBonus, SharedValue, ValueFit
from surefoot.wrappers import WRAPPERS, unwrapped

M = TypeVar("M", bound=PolicyUpdate)
V = TypeVar("V", ValueFit, SharedValue)

PARTS: dict[Any, dict[str, type[Any]]] = {
    Surrogate: SURROGATES,
    Divergence: DIVERGENCES,
    Statistic: STATISTICS,
    Metric: METRICS,
    EntropyControl: ENTROPIES,
    BetaRule: BETA_RULES,
    Writing: WRITINGS,
    Blend: BLENDS,
}
"""Parts that methods hold, by the annotation of the field: the records that fit, by the names they
go by in flags."""


@dataclass(frozen=True)
class Config(Generic[M, V]):
    """The settings of a run. Nothing else is configuration."""

    method: M
    """The trust-region method and its fields."""
    value: V
    """How the value function is fitted."""
    env: str = "CartPole-v1"
    """Environment: a Gymnasium id, or envpool:ID, jax:ID, gymnax:ID, probe:ID."""
    steps: int = 1_000_000
    """Environment steps to train for; a run takes the smallest whole number of updates that reaches
    them."""
    seed: int = 0
    """Seed of parameters, environments and noise."""
    num_envs: int = 8
    """Environments stepped together."""
    num_steps: int | None = None
    """Steps of every environment an update; none: batch / num_envs, rounded up."""
    batch: int = 2048
    """Environment steps an update, where num_steps is not given."""
    workers: int = 0
    """Worker processes for Gymnasium environments: 0 steps them in this process, else as many as
    num_envs."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation."""
    normalize_advantage: Literal["batch", "minibatch", "none"] = "batch"
    """Scope over which advantages are standardised."""
    normalize_obs: bool = True
    """Whether observations are normalised by running mean and deviation, frozen within an update,
    clipped to 10."""
    normalize_reward: bool = True
    """Whether rewards are divided by the running deviation of the discounted return, clipped to
    10, single spikes kept out of it."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    networks: Networks = Networks()
    """The shape of policy and critic."""
    vine: Vine = Vine()
    """TRPO's vine procedure: how many states are branched from, and how."""
    checkpoint_every: int | None = None
    """Environment steps between checkpoints; none: 100 000, on the device 500 000, and with
    EnvPool, where a checkpoint begins new episodes, ten episodes of every environment."""
    keep_checkpoints: int = 3
    """Checkpoints kept, the newest; number 0 and the best are kept beside them."""
    certify_every: int = 8
    """Updates between those checked in float64 at once for the certificate; 1 checks all."""
    preset: str = "none"
    """Where the defaults of this run came from."""

    def __post_init__(self) -> None:
        check_count(self, "steps")
        check_count(self, "seed", low=0, high=2**31 - 1)
        check_count(self, "num_envs", high=1_000_000)
        check_count(self, "num_steps", optional=True)
        check_count(self, "batch")
        check_count(self, "workers", low=0)
        check_number(self, "gamma", low=0, high=1)
        check_number(self, "lam", low=0, high=1)
        require(
            self.normalize_advantage in NORMALIZATIONS,
            self,
            "normalize_advantage",
            self.normalize_advantage,
            ", ".join(NORMALIZATIONS),
        )
        check_number(self, "entropy_coef")
        check_count(self, "checkpoint_every", optional=True)
        check_count(self, "keep_checkpoints")
        check_count(self, "certify_every")
        shared = isinstance(self.value, SharedValue)
        require(
            shared == self.networks.one_tree,
            self,
            "networks.joint" if self.networks.joint else "networks.shared_layers",
            self.networks.joint or self.networks.shared_layers,
            "at least 1 (or networks.joint) with value SharedValue, 0 and not joint with value "
            "ValueFit (--value shared or fit)",
        )
        self._check_vine()
        for sgd in sgd_records(self):
            require(
                sgd.minibatches <= self.rows,
                sgd,
                "minibatches",
                sgd.minibatches,
                f"at most {self.rows}, the rows of an update "
                f"({self.num_envs} environments x {self.rollout_steps} steps)",
            )
        _ = self.algorithm

    @property
    def rollout_steps(self) -> int:
        """Steps of every environment an update."""
        return self.num_steps or -(-self.batch // self.num_envs)

    def _check_vine(self) -> None:
        if not self.vine.states:
            return
        trunk = self.rollout_steps * self.num_envs
        allowed = f"at most {trunk}, the rows of the trunk"
        require(self.vine.states <= trunk, self.vine, "states", self.vine.states, allowed)
        why = "False with a vine, whose rows are whole returns"
        require(not self.normalize_reward, self, "normalize_reward", True, why)
        first = getattr(self.method, "first_order", False)
        name = type(self.method).__name__
        require(not first, self, "method", name, "methods of whole batches with a vine: TRPO, NPG")

    @property
    def rows(self) -> int:
        """Rows of an update; those that are only resets count here and not as environment steps. Of
        a vine: its branches, at most."""
        return self.vine.rows or self.rollout_steps * self.num_envs

    @property
    def steps_an_update(self) -> int:
        """Environment steps of an update, if no row is only a reset and, of a vine, every branch
        goes on to its horizon."""
        return self.rollout_steps * self.num_envs + self.vine.most

    @property
    def updates(self) -> int:
        """Updates that reach `steps` at `steps_an_update`; schedules run over this number."""
        return -(-self.steps // self.steps_an_update)

    @property
    def algorithm(self) -> Algorithm:
        """What `learn` is compiled for."""
        penalties = (EntropyBonus(self.entropy_coef),) if self.entropy_coef else ()
        scope = self.normalize_advantage
        advantage: GAE | VineQ = (
            VineQ(self.gamma, self.vine.bootstrap, scope)
            if self.vine.states
            else GAE(self.gamma, self.lam, scope)
        )
        return Algorithm(self.method, self.value, advantage, penalties, self.vine)


def sgd_records(record: Any) -> list[SGD]:
    """Every `SGD` among the fields of a record, however deep."""
    if isinstance(record, SGD):
        return [record]
    if not dataclasses.is_dataclass(record):
        return []
    return [s for f in dataclasses.fields(record) for s in sgd_records(getattr(record, f.name))]


def method_class(name: str) -> type[Any]:
    """The record of a method by its lower-case name. Raises `UsageError` with the nearest name."""
    if name not in METHODS:
        raise UsageError(
            f"no method is called {name!r}{nearest(name, METHODS)}; there are {', '.join(METHODS)}"
        )
    entry = METHODS[name]
    return getattr(importlib.import_module(entry.module), entry.record)


def method_name(method: Any) -> str:
    """The lower-case name of a method's record, of the one inside where it is wrapped; its class
    name in lower case for one that is not in the table."""
    method = unwrapped(method)
    names = {entry.record: name for name, entry in METHODS.items()}
    return names.get(type(method).__name__, type(method).__name__.lower())


# JSON: a record is an object with its kind under "type"; kinds come from this closed table, never
# from an import path.


def _kinds() -> dict[str, type[Any]]:
    own = [ValueFit, SharedValue, SGD, FactorRule, Networks, Vine]
    own += [part for table in PARTS.values() for part in table.values()]
    own += [method_class(name) for name in METHODS]
    own += [getattr(importlib.import_module(WRAPPERS[name]), name) for name in WRAPPERS]
    return {k.__name__: k for k in own}


def to_json(value: Any) -> Any:
    """A record, or what its fields hold, as JSON data; infinite numbers become the strings "inf"
    and "-inf"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return fields if isinstance(value, Config) else {"type": type(value).__name__} | fields
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def from_json(data: Any, where: str = "config") -> Config[Any, Any]:
    """The `Config` that `to_json` wrote. Raises `UsageError` for unknown keys, kinds and values."""
    if not isinstance(data, dict):
        raise UsageError(f"{where} is not an object of settings")
    return typing.cast("Config[Any, Any]", _record(Config, data, where, _kinds()))


def _record(kind: type[Any], data: dict[str, Any], where: str, kinds: dict[str, type[Any]]) -> Any:
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    for key in data:
        if key not in known and key != "type":
            raise UsageError(f"{where}.{key} is not a setting{nearest(key, known)}")
    values = {k: _value(v, f"{where}.{k}", kinds, hints[k]) for k, v in data.items() if k != "type"}
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(f"{where}: {error}") from error


def _fits(kind: type[Any], fitting: tuple[Any, ...]) -> bool:
    """Whether a kind of record is one of `fitting`. Every record has defaults but `Config`, and
    wrappers, which are methods."""
    return PolicyUpdate in fitting if kind.__name__ in WRAPPERS else isinstance(kind(), fitting)


def _fitting(hint: Any) -> tuple[Any, ...]:
    """The kinds of record an annotation admits; none for plain fields."""
    if isinstance(hint, type) and hint in PARTS:
        return tuple(PARTS[hint].values())
    if isinstance(hint, TypeVar):
        return hint.__constraints__ or (hint.__bound__,)
    return (hint,) if dataclasses.is_dataclass(hint) or getattr(hint, "_is_protocol", False) else ()


def _value(value: Any, where: str, kinds: dict[str, type[Any]], hint: Any) -> Any:
    fitting = _fitting(hint)
    if isinstance(value, dict) or fitting:
        kind = value.get("type") if isinstance(value, dict) else None
        record = (
            _record(kinds[kind], value, where, kinds)
            if isinstance(kind, str) and kind in kinds
            else None
        )
        if record is None or not isinstance(record, fitting):
            names = ", ".join(
                k for k, v in kinds.items() if isinstance(v, type) and _fits(v, fitting)
            )
            raise UsageError(
                f"{where} is {kind or value!r}; allowed: an object whose type is one of {names}"
            )
        return record
    if isinstance(value, list):
        value = tuple(value)
    if value in ("inf", "-inf") and accepts(hint, float):
        return float(value)
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and accepts(hint, float)
        and not accepts(hint, int)
    ):
        return float(value)
    if not accepts(hint, type(value)) and not (isinstance(value, float) and accepts(hint, int)):
        raise UsageError(f"{where} is {value!r}; allowed: {getattr(hint, '__name__', hint)}")
    return value


def accepts(hint: Any, kind: type[Any]) -> bool:
    """Whether an annotation admits values of a plain type."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(accepts(h, kind) for h in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return any(isinstance(a, kind) for a in typing.get_args(hint))
    return (typing.get_origin(hint) or hint) is kind


def read_config(path: Any) -> Config[Any, Any]:
    """The configuration in a `config.json` of a run, or in a file of settings alone. Raises
    `UsageError`."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error
    return from_json(
        data.get("settings", data) if isinstance(data, dict) else data, where=path.name
    )
