"""A run compiles what it needs in its first updates and nothing afterwards."""

import logging

import jax
import pytest

from surefoot import Agent
from surefoot.train import TRACES


class Count(logging.Handler):
    """Counts what jax says it compiles."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        text = record.getMessage()
        if text.startswith("Compiling"):
            self.names.append(text[:80])


@pytest.mark.parametrize("env", ["CartPole-v1", "jax:CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("method", ["trpo", "ppo"])
@pytest.mark.slow
def test_nothing_is_compiled_after_the_third_update(method, env, caplog):
    count = Count()
    seen = []

    def callback(agent):
        seen.append((len(count.names), TRACES["learn"]))

    logger = logging.getLogger("jax")
    logger.addHandler(count)
    try:
        with jax.log_compiles():
            Agent(method, env, callback, num_envs=4, num_steps=64, preset="none").learn(7 * 256)
    finally:
        logger.removeHandler(count)
    assert len(seen) >= 7
    assert seen[0][0] > 0  # the handler hears compilations
    assert seen[2] == seen[-1], count.names[seen[2][0] :]
