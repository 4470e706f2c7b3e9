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
}
