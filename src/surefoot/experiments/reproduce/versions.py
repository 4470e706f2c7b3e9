"""Tasks then and now: which version a paper ran, which is run here, what changed between, and what
to expect of it.

What changed is from the version histories in Gymnasium 1.4's own sources, an entry a version; only
what moves observations, rewards or dynamics is listed. Most runs are of EnvPool's own
implementation of a task, of which `ENVPOOL` and `ENVPOOL_MUJOCO` say what is known.
"""

from __future__ import annotations

from dataclasses import dataclass

PHYSICS = (
    "v2, v3: MuJoCo through mujoco-py (1.50 and later); v4: MuJoCo's own bindings; v5: MuJoCo "
    "2.3.3 or later"
)
"""What changed in every MuJoCo task."""

ENVPOOL = (
    "the lists of what changed are from Gymnasium's version histories, while the runs here are of "
    "EnvPool's own implementation of {tasks}"
)
"""What a table says where tasks are EnvPool's."""
ENVPOOL_MUJOCO = (
    "EnvPool's documentation says that its MuJoCo tasks follow Gymnasium 1.2.3's v4 and v5, on "
    "MuJoCo 3.6.0; the v5 tasks of EnvPool 1.2.5 have the sizes of observations, the weights of "
    "rewards and the switches for what is listed of v5; that rewards and dynamics are equal was "
    "not measured"
)
"""What is known of EnvPool's v5: from its documentation (env/mujoco_gym), and from the package (the
settings that its registry gives a task, its models), as tests/test_reproduce.py holds it."""


@dataclass(frozen=True)
class Version:
    """A task then and now."""

    now: str
    """The id that is run here, without its suite."""
    then: dict[str, str]
    """Paper -> the id it ran, or what it calls the task where it states no version."""
    changed: tuple[str, ...]
    """What moves observations, rewards or dynamics."""
    expect: str
    """What that does to a return."""

    def line(self, paper: str) -> str:
        """What a table says under its numbers."""
        changed = "; ".join(self.changed) or "nothing"
        return f"{self.then[paper]} -> {self.now}: {changed}. Expect: {self.expect}"


_UNSTATED = "{} (no version stated)"
_UNHEALTHY = "v5: the reward for being healthy is no longer paid on the step that ends unhealthy"
_SMALL = "returns about as before"


def _mujoco(name: str, changed: tuple[str, ...], expect: str, **then: str) -> Version:
    return Version(f"{name}-v5", then, (PHYSICS, *changed), expect)


def _task(name: str, *papers: str) -> dict[str, str]:
    return {paper: _UNSTATED.format(name) for paper in papers}


VERSIONS = {
    v.now: v
    for v in (
        _mujoco(
            "HalfCheetah",
            (),
            "returns about as before: nothing but the simulator moved",
            **_task("HalfCheetah", "mcpo", "trefree"),
            fixpo="HalfCheetah-v3",
        ),
        _mujoco(
            "Hopper",
            (_UNHEALTHY,),
            "returns lower by up to 1 an episode that falls",
            **_task("Hopper", "mcpo", "trefree"),
            fixpo="Hopper-v3",
        ),
        _mujoco(
            "Walker2d",
            (_UNHEALTHY, "v5: both feet have friction 1.9; the right one had 0.9"),
            "another gait: the right foot slides less and needs more force; not the same task",
            **_task("Walker2d", "mcpo", "trefree"),
            fixpo="Walker2d-v3",
        ),
        _mujoco(
            "Swimmer",
            (),
            "returns about as before: nothing but the simulator moved",
            fixpo="Swimmer-v3",
        ),
        _mujoco(
            "InvertedDoublePendulum",
            (
                _UNHEALTHY,
                "v5: the constraint forces of the hinges, always 0, are no longer observed",
            ),
            "returns lower by up to 10 an episode that falls",
            fixpo="InvertedDoublePendulum-v2",
        ),
        _mujoco(
            "Reacher",
            (
                "v5: the reward's distance is that after the physics step, not before it",
                "v5: the finger's height, always 0, is no longer observed",
            ),
            "returns shifted a little, an episode of 50 steps being paid one step later",
            fixpo="Reacher-v2",
        ),
        _mujoco(
            "Ant",
            (
                "v4: contact forces not observed; v5: observed again, without the world's",
                "v5: the contact cost is always part of the reward",
                _UNHEALTHY,
                "v2 and v3 with MuJoCo 2.0 and later: contact forces were all zero "
                "(openai/gym issue 1541)",
            ),
            "returns lower by the contact cost where the old forces were zero, and more to observe "
            "that is not zero",
            **_task("Ant", "mcpo", "trefree"),
        ),
        _mujoco(
            "Humanoid",
            (
                "before gym 0.21 the robot's model was another",
                "v4: no contact cost; v5: it is back, with v3's weights",
                "v5: observations that were always 0 are left out (376 to 348 numbers)",
                _UNHEALTHY,
                "v2 and v3 with MuJoCo 2.0 and later: contact forces were all zero "
                "(openai/gym issue 1541)",
            ),
            "not comparable with results of before gym 0.21; the paper does not say which it ran",
            **_task("Humanoid", "mcpo", "trefree"),
        ),
        _mujoco(
            "HumanoidStandup",
            ("v5: observations that were always 0 are left out (376 to 348 numbers)",),
            "returns about as before",
            **_task("HumanoidStandup", "mcpo", "trefree"),
        ),
        Version(
            "Pendulum-v1",
            _task("Pendulum", "mcpo"),
            ("v1: the equations are written more simply, with no difference in behaviour",),
            _SMALL,
        ),
        Version(
            "LunarLander-v3",
            _task("LunarLander", "mcpo"),
            (
                "v3: episodes no longer share the state of a world that was not wholly destroyed",
                "v3: wind starts anew in every episode (no wind by default)",
                "v3: wider bounds of the observation space, which clip nothing",
            ),
            _SMALL,
        ),
        Version(
            "BipedalWalker-v3",
            _task("BipedalWalker", "mcpo"),
            ("v3: the lidar sees the nearest thing, not the furthest",),
            "returns about as before if the paper ran v3, as it did of the hardcore task",
        ),
        Version("BipedalWalkerHardcore-v3", {"mcpo": "BipedalWalkerHardcore-v3"}, (), _SMALL),
        *(
            Version(
                f"MiniGrid-{name}-v0",
                {"mcpo": f"{name} of gym-minigrid (no version stated)"},
                (
                    "gym-minigrid became minigrid; a success pays 1 - 0.9 steps / 288, where the "
                    "paper speaks of +1",
                ),
                "success rates as before; returns below them by the steps taken",
            )
            for name in ("Unlock", "UnlockPickup")
        ),
    )
}
"""Id now -> then, what changed, what to expect."""
