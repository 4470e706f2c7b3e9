"""surefoot: trust-region policy optimisation. Names are imported when first used, so that `import
surefoot` is quick."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surefoot.agent import Agent, TrustReport
    from surefoot.build import build
    from surefoot.checks import EnvironmentFault, UsageError
    from surefoot.config import Config
    from surefoot.divergences import KLNewOld, KLOldNew, MeanState, WorstState
    from surefoot.evaluate import Score, evaluate
    from surefoot.memory import Attention, Diverse, EveryStep, MeanBlend
    from surefoot.methods.discovered_po import DiscoveredPO
    from surefoot.methods.espo import ESPO
    from surefoot.methods.fixpo import FixPO
    from surefoot.methods.mcpo import MCPO
    from surefoot.methods.mdpo import MDPO
    from surefoot.methods.npg import NPG
    from surefoot.methods.papi import PAPI
    from surefoot.methods.ppo import PPO
    from surefoot.methods.ppo_kl import PPOKL
    from surefoot.methods.ppo_rb import PPORB
    from surefoot.methods.spo import SPO
    from surefoot.methods.spu import SPU
    from surefoot.methods.tr_ppo import TRPPO
    from surefoot.methods.trefree import TREFree
    from surefoot.methods.trefree_free import TREFreeFree
    from surefoot.methods.trefree_ratio import TREFreeRatio
    from surefoot.methods.trgppo import TRGPPO
    from surefoot.methods.trpl import TRPL
    from surefoot.methods.trpo import TRPO
    from surefoot.methods.truly_ppo import TrulyPPO
    from surefoot.methods.vmpo import VMPO
    from surefoot.multipliers import (
        AdaptiveBeta,
        AnnealedBeta,
        ConstantBeta,
        FactorRule,
        SwitchingBeta,
    )
    from surefoot.networks import Networks
    from surefoot.projection import (
        ExponentialEntropy,
        FreeEntropy,
        FrobeniusMetric,
        KLMetric,
        LinearEntropy,
        WassersteinMetric,
        project,
    )
    from surefoot.rollouts.vine import Vine
    from surefoot.sgd import SGD
    from surefoot.surrogates import Clipped, Importance, SelfNormalised
    from surefoot.train import Algorithm
    from surefoot.value import EntropyBonus, SharedValue, ValueFit
    from surefoot.wrappers.fixup import Fixup
    from surefoot.wrappers.virtual_region import VirtualRegion

__version__ = "0.1.0"

_HOMES = {
    "Agent": "agent",
    "TrustReport": "agent",
    "build": "build",
    "EnvironmentFault": "checks",
    "UsageError": "checks",
    "Config": "config",
    "KLNewOld": "divergences",
    "KLOldNew": "divergences",
    "MeanState": "divergences",
    "WorstState": "divergences",
    "Score": "evaluate",
    "evaluate": "evaluate",
    "Attention": "memory",
    "Diverse": "memory",
    "EveryStep": "memory",
    "MeanBlend": "memory",
    "FixPO": "methods.fixpo",
    "MCPO": "methods.mcpo",
    "PPOKL": "methods.ppo_kl",
    "TREFree": "methods.trefree",
    "TREFreeRatio": "methods.trefree_ratio",
    "TREFreeFree": "methods.trefree_free",
    "MDPO": "methods.mdpo",
    "VMPO": "methods.vmpo",
    "TRGPPO": "methods.trgppo",
    "SPO": "methods.spo",
    "ESPO": "methods.espo",
    "TrulyPPO": "methods.truly_ppo",
    "TRPPO": "methods.tr_ppo",
    "PPORB": "methods.ppo_rb",
    "SPU": "methods.spu",
    "DiscoveredPO": "methods.discovered_po",
    "NPG": "methods.npg",
    "PAPI": "methods.papi",
    "PPO": "methods.ppo",
    "TRPL": "methods.trpl",
    "TRPO": "methods.trpo",
    "AdaptiveBeta": "multipliers",
    "AnnealedBeta": "multipliers",
    "ConstantBeta": "multipliers",
    "FactorRule": "multipliers",
    "SwitchingBeta": "multipliers",
    "Networks": "networks",
    "ExponentialEntropy": "projection",
    "FreeEntropy": "projection",
    "FrobeniusMetric": "projection",
    "KLMetric": "projection",
    "LinearEntropy": "projection",
    "WassersteinMetric": "projection",
    "project": "projection",
    "Vine": "rollouts.vine",
    "SGD": "sgd",
    "Clipped": "surrogates",
    "Importance": "surrogates",
    "SelfNormalised": "surrogates",
    "Algorithm": "train",
    "EntropyBonus": "value",
    "SharedValue": "value",
    "ValueFit": "value",
    "Fixup": "wrappers.fixup",
    "VirtualRegion": "wrappers.virtual_region",
}

__all__ = [
    "ESPO",
    "MCPO",
    "MDPO",
    "NPG",
    "PAPI",
    "PPO",
    "PPOKL",
    "PPORB",
    "SGD",
    "SPO",
    "SPU",
    "TRGPPO",
    "TRPL",
    "TRPO",
    "TRPPO",
    "VMPO",
    "AdaptiveBeta",
    "Agent",
    "Algorithm",
    "AnnealedBeta",
    "Attention",
    "Clipped",
    "Config",
    "ConstantBeta",
    "DiscoveredPO",
    "Diverse",
    "EntropyBonus",
    "EnvironmentFault",
    "EveryStep",
    "ExponentialEntropy",
    "FactorRule",
    "FixPO",
    "Fixup",
    "FreeEntropy",
    "FrobeniusMetric",
    "Importance",
    "KLMetric",
    "KLNewOld",
    "KLOldNew",
    "LinearEntropy",
    "MeanBlend",
    "MeanState",
    "Networks",
    "Score",
    "SelfNormalised",
    "SharedValue",
    "SwitchingBeta",
    "TREFree",
    "TREFreeFree",
    "TREFreeRatio",
    "TrulyPPO",
    "TrustReport",
    "UsageError",
    "ValueFit",
    "Vine",
    "VirtualRegion",
    "WassersteinMetric",
    "WorstState",
    "build",
    "evaluate",
    "project",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'surefoot' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"surefoot.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Modules that are named like what they hold (build, evaluate) do not take its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
