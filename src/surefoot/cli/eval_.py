"""`surefoot eval RUN`: score a run over whole episodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from surefoot.checks import UsageError
from surefoot.cli.cache import compilation_cache
from surefoot.cli.flags import parse


@dataclass(frozen=True)
class Flags:
    """Score a run at its newest checkpoint: whole episodes, seeds apart from training, normaliser
    frozen."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    episodes: int = 20
    """Number of episodes."""
    seed: int = 0
    """Seed of the evaluation's environments."""
    stochastic: bool = False
    """Sample actions instead of taking the mode."""
    best: bool = False
    """Take the policy of the best mean return over 100 training episodes instead of the newest."""
    json: bool = False
    """Print one line of JSON."""


def run(args: Sequence[str]) -> int:
    """Load, play, print."""
    flags = parse(Flags, args, prog="surefoot eval")
    if flags.episodes < 1:
        raise UsageError(f"--episodes is {flags.episodes}; allowed: a whole number of at least 1")
    if flags.seed < 0:
        raise UsageError(f"--seed is {flags.seed}; allowed: a whole number of at least 0")
    compilation_cache()
    from surefoot.agent import Agent
    from surefoot.evaluate import evaluate

    agent = Agent.load(flags.run, best=flags.best)
    score = evaluate(agent, flags.episodes, deterministic=not flags.stochastic, seed=flags.seed)
    if flags.json:
        print(json.dumps(score.to_json()))
        return 0
    low, high = score.ci95
    how = "deterministic" if score.deterministic else "sampled"
    length = sum(score.lengths) / len(score.lengths)
    print(f"return    {score.mean:.1f} [{low:.1f}, {high:.1f}], interquartile mean {score.iqm:.1f}")
    if score.success_rate is not None and score.success_ci95 is not None:
        least, most = score.success_ci95
        print(f"success   {score.success_rate:.2f} [{least:.2f}, {most:.2f}]")
    print(
        f"episodes  {len(score.returns)}, {how}, {score.env}, normaliser frozen, "
        f"policy after {agent.acting} updates"
    )
    print(
        f"range     {min(score.returns):.1f} to {max(score.returns):.1f}, mean length {length:.0f}"
    )
    return 0
