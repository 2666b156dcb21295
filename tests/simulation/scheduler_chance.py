"""What happens next in the world, drawn from a seed: for long runs, and for defects that must be found."""

from __future__ import annotations

import random

from simulation.scheduler_cast import GPU0, GPU1
from simulation.scheduler_world import World
from turnout.core.memory import GIB, HOST_RAM, PRIORITIES, Demand, LeaseClass

CLASSES: tuple[LeaseClass, ...] = ("job", "job", "resident", "voice")
DEMANDS: tuple[Demand, ...] = (
    {GPU0: 6 * GIB},
    {GPU0: 18 * GIB, GPU1: 5 * GIB},
    {GPU1: 9 * GIB},
    {GPU0: 23 * GIB},
    {HOST_RAM: 20 * GIB},
)
WEIGHTS = {
    "arrive": 30.0,
    "finish": 22.0,
    "leave": 3.0,
    "ask": 4.0,
    "release": 3.0,
    "renew": 2.0,
    "end_order": 16.0,
    "die": 0.6,
    "measure": 3.0,
    "nonsense": 1.5,
    "repeat": 1.5,
    "change_model": 0.3,
    "unload": 0.5,
    "restart": 0.03,
    "pass_time": 14.0,
}
ELASTIC = (2, 3)
"""Which models have more than one size."""


class Chance:
    """Draws what happens.

    Args:
        world: To whom.
        seed: The same seed, the same world.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)  # noqa: S311  repeatable
        self._kinds = list(WEIGHTS)
        self._weights = list(WEIGHTS.values())

    def steps(self, count: int) -> None:
        """Let so many things happen."""
        for kind in self.random.choices(self._kinds, self._weights, k=count):
            self._do(kind)

    def _do(self, kind: str) -> None:  # noqa: C901  a flat list of everything that can happen
        world, chance = self.world, self.random
        index, doubled = chance.randrange(100), chance.random() < 0.15
        match kind:
            case "arrive":
                self._arrive(doubled=doubled)
            case "finish":
                world.finish(index, doubled=doubled)
            case "leave":
                world.leave(index, doubled=doubled)
            case "ask":
                self._ask(doubled=doubled)
            case "release":
                world.release(index, doubled=doubled)
            case "renew":
                world.renew(index)
            case "end_order":
                world.end_order(index, how=chance.choices(("good", "bad", "lost"), (90, 7, 3))[0], doubled=doubled)
            case "die":
                world.die(index, retry_in=chance.choice((0.0, 3.0, None)), doubled=doubled)
            case "measure":
                world.measure(index, chance.choice((0, 0, 0, 3 * GIB, 12 * GIB)))
            case "nonsense":
                world.nonsense(index)
            case "repeat":
                world.repeat(index)
            case "change_model":
                world.change_model(index, chance.choice(("removed", "added", "added", "added", "pinned", "other")))
            case "unload":
                world.unload(index)
            case "restart":
                world.restart()
            case _:
                world.pass_time(chance.choice((0.01, 0.3, 1.0, 3.0, 15.0)))

    def _arrive(self, *, doubled: bool) -> None:
        chance = self.random
        model = chance.randrange(8)
        self.world.arrive(
            model,
            priority=chance.choice(PRIORITIES),
            caller=chance.choice("abc"),
            deadline_in=chance.choice((None, None, 1.0, 20.0, 100.0)),
            quality=chance.choice((0, 0, 0, 1, 2, 3)) if model in ELASTIC else 0,
            keep=chance.choice((None,) * 12 + (0.0, 2.0, 40.0, -1.0)),
            doubled=doubled,
        )

    def _ask(self, *, doubled: bool) -> None:
        chance = self.random
        self.world.ask(
            chance.choice(DEMANDS),
            lease_class=chance.choice(CLASSES),
            priority=chance.choice(PRIORITIES),
            caller=chance.choice("abc"),
            ttl=chance.choice((1.0, 10.0, 40.0)),
            wait=chance.choice((0.0, 5.0, 100.0)),
            doubled=doubled,
        )
