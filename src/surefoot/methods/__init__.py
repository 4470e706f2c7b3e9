"""The table of methods: what each is called, where it lives, and one line on it. Importing it
imports no method."""

from __future__ import annotations

from typing import NamedTuple


class MethodEntry(NamedTuple):
    """Where a method lives."""

    module: str
    record: str
    summary: str


METHODS: dict[str, MethodEntry] = {
    "npg": MethodEntry(
        "surefoot.methods.npg", "NPG", "natural policy gradient, fixed or normalised step"
    ),
    "trpo": MethodEntry(
        "surefoot.methods.trpo", "TRPO", "trust region: mean KL <= max_kl, enforced by line search"
    ),
    "ppo": MethodEntry(
        "surefoot.methods.ppo", "PPO", "clipped surrogate, minibatch Adam; promises no bound"
    ),
    "fixpo": MethodEntry(
        "surefoot.methods.fixpo",
        "FixPO",
        "KL penalty, then a fix-up phase: every state's KL <= max_kl, enforced",
    ),
    "trpl": MethodEntry(
        "surefoot.methods.trpl", "TRPL", "every state projected into its ball, differentiably"
    ),
    "papi": MethodEntry(
        "surefoot.methods.papi", "PAPI", "PPO, then the last layer moved back: mean KL <= max_kl"
    ),
    "ppo_kl": MethodEntry(
        "surefoot.methods.ppo_kl",
        "PPOKL",
        "KL penalty, steered towards target_kl",
    ),
    "trefree": MethodEntry(
        "surefoot.methods.trefree",
        "TREFree",
        "the objective itself is capped, on one side",
    ),
    "trefree_ratio": MethodEntry(
        "surefoot.methods.trefree_ratio",
        "TREFreeRatio",
        "a control: ratios clipped, no minimum",
    ),
    "trefree_free": MethodEntry(
        "surefoot.methods.trefree_free",
        "TREFreeFree",
        "a control: no restraint at all",
    ),
    "mdpo": MethodEntry(
        "surefoot.methods.mdpo",
        "MDPO",
        "mirror descent: whole-batch steps, annealed KL(new, old)",
    ),
    "vmpo": MethodEntry(
        "surefoot.methods.vmpo",
        "VMPO",
        "best half of the batch; temperature and multipliers as duals",
    ),
    "trgppo": MethodEntry(
        "surefoot.methods.trgppo", "TRGPPO", "PPO with ratio bounds a row, shaped by a KL ball"
    ),
    "spo": MethodEntry(
        "surefoot.methods.spo", "SPO", "quadratic penalty on ratios that pulls them back"
    ),
    "espo": MethodEntry(
        "surefoot.methods.espo", "ESPO", "no clip; the update ends when ratios have strayed too far"
    ),
    "truly_ppo": MethodEntry(
        "surefoot.methods.truly_ppo", "TrulyPPO", "KL penalty on rows that left the trust region"
    ),
    "tr_ppo": MethodEntry(
        "surefoot.methods.tr_ppo", "TRPPO", "rows that left the trust region give no gradient"
    ),
    "ppo_rb": MethodEntry(
        "surefoot.methods.ppo_rb", "PPORB", "PPO whose objective falls beyond the clip"
    ),
    "spu": MethodEntry(
        "surefoot.methods.spu",
        "SPU",
        "fit with a KL penalty on states inside, and a stop",
    ),
    "mcpo": MethodEntry(
        "surefoot.methods.mcpo",
        "MCPO",
        "two trust regions: round the old policy and round a blend of past ones",
    ),
    "discovered_po": MethodEntry(
        "surefoot.methods.discovered_po", "DiscoveredPO", "a drift that was found by meta-learning"
    ),
}
