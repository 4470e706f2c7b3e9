"""Several seeds as one on the device: every update of all of them is one vmapped, compiled call."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from surefoot.loops import DeviceLoop, iteration


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def iterations(algo: Any, env: Any, num_steps: int, each: tuple[tuple[Any, Any], ...]) -> Any:
    """`iteration` of several (training state, environment state), stacked and taken apart again
    inside the compiled call; a tuple with what each gives."""
    states = jax.tree.map(lambda *x: jnp.stack(x), *each)
    out = jax.vmap(functools.partial(iteration, algo, env, num_steps))(*states)
    return tuple(jax.tree.map(lambda x, i=i: x[i], out) for i in range(len(each)))


class Together:
    """Steps device loops, each driven by a thread of its own, in time with each other.

    The last of them to ask for an update computes all of them. Bits are those of this number of
    seeds: alone, or in another company, a seed rounds otherwise.
    """

    def __init__(self, loops: list[DeviceLoop], asked: Callable[[], bool]) -> None:
        """`asked` says whether to stop; all loops hear the answer after the same update."""
        self._asked = asked
        self.stopping = False
        self._barrier = threading.Barrier(len(loops), action=self._advance)
        self._given: list[Any] = [None] * len(loops)
        self._made: tuple[Any, ...] = ()
        for i, loop in enumerate(loops):
            loop.call = functools.partial(self._step, i)

    def _step(self, i: int, *given: Any) -> Any:
        self._given[i] = given
        self._barrier.wait()
        return self._made[i]

    def _advance(self) -> None:
        algo, env, num_steps, *_ = self._given[0]
        self._made = iterations(algo, env, num_steps, tuple(g[3:] for g in self._given))
        self.stopping = self._asked()

    def leave(self) -> None:
        """One of them fails: the others, which wait for it, get a `BrokenBarrierError`."""
        self._barrier.abort()
