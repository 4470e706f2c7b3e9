"""`build`: pure functions that `vmap` over seeds."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import surefoot as sf
from surefoot import UsageError


@pytest.mark.slow
def test_many_seeds_are_one_vmap_and_differ():
    init, iterate = sf.build(sf.TRPO(), "jax:CartPole-v1", num_envs=4, num_steps=16)
    state = jax.vmap(init)(jax.random.split(jax.random.key(0), 3))
    state, log = jax.jit(jax.vmap(iterate, in_axes=(0, None)), static_argnums=1)(state, 4)
    assert log["kl_mean"].shape == (3, 4)
    weights = np.asarray(state.train.policy.head.logits.weight)
    assert not np.allclose(weights[0], weights[1])
    assert np.all(np.asarray(log["kl_mean"]) <= 0.01)
    assert np.asarray(state.train.update).tolist() == [4, 4, 4]


@pytest.mark.slow
def test_a_lane_is_the_single_run_to_rounding():
    init, iterate = sf.build(
        sf.PPO(sgd=sf.SGD(minibatches=2, epochs=2)), "probe:acted", num_envs=8, num_steps=4
    )
    keys = jax.random.split(jax.random.key(1), 2)
    _, many = jax.jit(jax.vmap(iterate, in_axes=(0, None)), static_argnums=1)(
        jax.vmap(init)(keys), 3
    )
    _, single = jax.jit(iterate, static_argnums=1)(init(keys[1]), 3)
    np.testing.assert_allclose(many["entropy"][1], single["entropy"], rtol=1e-4)


def test_host_environments_are_refused():
    with pytest.raises(UsageError, match="runs on the host"):
        sf.build("trpo", "CartPole-v1")


def test_modules_do_not_take_the_place_of_functions():
    """In any order of imports, in a process of its own."""
    code = (
        "import surefoot.build, surefoot.evaluate, surefoot as sf\n"
        "from surefoot import Agent\n"
        "assert sf.build is sys.modules['surefoot.build'].build\n"
        "assert sf.evaluate is sys.modules['surefoot.evaluate'].evaluate and callable(sf.evaluate)"
    )
    subprocess.run([sys.executable, "-c", "import sys\n" + code], check=True)
