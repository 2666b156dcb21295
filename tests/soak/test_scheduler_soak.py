"""The scheduler against its world for ten million facts: every promise is checked at every effect.

``SOAK_SCHEDULER_EVENTS`` says how many (default ten million, half an hour), ``SOAK_SCHEDULER_SEED`` where to begin.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from simulation.scheduler_chance import Chance
from simulation.scheduler_world import World
from turnout.scheduler.decide import Decider

EVENTS = int(os.environ.get("SOAK_SCHEDULER_EVENTS", "10_000_000"))
SEED = int(os.environ.get("SOAK_SCHEDULER_SEED", "1"))
EVENTS_OF_A_WORLD = 200_000
LOOK_EVERY = 100
"""After so many facts everything that can be seen is compared with the world; effects are checked one by one."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(4 * 3600)]


def test_ten_million_facts() -> None:
    total: Counter[str] = Counter()
    facts = faults = worlds = 0
    while facts < EVENTS:
        world = World(Decider, look_every=LOOK_EVERY)
        chance = Chance(world, SEED + worlds)
        while world.facts < min(EVENTS_OF_A_WORLD, EVENTS - facts):
            chance.steps(1_000)
        world.settle()
        world.stop()
        facts += world.facts
        faults += world.faults
        worlds += 1
        total += world.counts
    rows = "\n".join(f"{count:>12,}  {name}" for name, count in total.most_common())
    print(f"\n{facts:,} facts in {worlds} worlds from seed {SEED}, {faults:,} faults, no promise broken\n{rows}")
    assert facts >= EVENTS
    assert total["AdmitRequest"] > 0
    assert total["GrantLease"] > 0
