"""Small cards, models and arrivals for tests of the simulator; each names only what its test is about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from turnout.config.document import parse_document
from turnout.core.memory import GIB, PRIORITIES, Priority
from turnout.scheduler.messages import Scheduler
from turnout.simulate.profile import Profile, parse_profile
from turnout.simulate.traces.arrivals import Arrivals, ArrivalsBuilder, LeaseShape
from turnout.simulate.world import World

Ask = tuple[float, str, float]
"""When, which model, for how many seconds."""


def a_card(gib: float = 10, **models: dict[str, Any]) -> Profile:
    """Return a card without headroom; each model says what is not 4 GiB, 5 s of load and 4 slots."""
    base = {"vram_gib": 4.0, "load_seconds": 5.0, "slots": 4}
    values = {
        "devices": [{"vram_gib": gib}],
        "models": {name: base | facts for name, facts in models.items()},
        "stop_seconds": 1.0,
    }
    return parse_profile(parse_document(json.dumps(values), "a card"), "card")


def asked(
    profile: Profile, *asks: Ask, priority: Priority = "normal", patience: float | None = None, caller: str = "somebody"
) -> Arrivals:
    """Return requests of known length, all alike otherwise."""
    builder = ArrivalsBuilder(profile, "asked")
    for at, name, seconds in asks:
        index = profile.model_index(name)
        assert index is not None
        builder.add_work(at, index, name, priority, caller, seconds, patience)
    return builder.build()


def asked_and_leased(
    profile: Profile, asks: Sequence[Ask], leases: Sequence[tuple[float, float, float]], patience: float | None = None
) -> Arrivals:
    """Return requests, and leases as (when, GiB, seconds)."""
    builder = ArrivalsBuilder(profile, "asked and leased")
    for at, name, seconds in asks:
        index = profile.model_index(name)
        assert index is not None
        builder.add_work(at, index, name, "normal", "somebody", seconds, patience)
    for at, gib, seconds in leases:
        shape = LeaseShape(holder="painter", devices={profile.devices[0].id: round(gib * GIB)})
        builder.add_work(at, builder.add_lease_shape(shape), "picture", "normal", "painter", seconds, patience)
    return builder.build()


def at_random(profile: Profile, seed: int, count: int, mean_gap: float, patience: float | None = None) -> Arrivals:
    """Return requests for all models of a profile, drawn by a seed."""
    random = Random(seed)  # noqa: S311  repeatable
    builder = ArrivalsBuilder(profile, f"at random {seed}")
    at = 0.0
    for _ in range(count):
        at += random.expovariate(1 / mean_gap)
        index = random.randrange(len(profile.models))
        priority = PRIORITIES[random.randrange(3)]
        caller = f"caller {random.randrange(3)}"
        builder.add_work(at, index, f"role {index}", priority, caller, random.uniform(0.1, 6), patience)
    return builder.build()


def run(scheduler: Scheduler, profile: Profile, arrivals: Arrivals) -> World:
    """Run a world to its end."""
    world = World(scheduler, profile, arrivals)
    world.run()
    return world


def waits(world: World) -> list[float]:
    """Return how long each waited, rounded."""
    return [round(wait, 3) for wait in world.wait]


def write_trace(path: Path, rows: int, seed: int, mean_gap: float = 0.4) -> Path:
    """Write a trace like Azure's: many short answers to prompts of very different length."""
    random = Random(seed)  # noqa: S311  repeatable
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    at = 0.0
    for _ in range(rows):
        at += random.expovariate(1 / mean_gap)
        prompt = min(8000, round(random.lognormvariate(7.1, 1.0)))
        answer = min(1000, round(random.lognormvariate(2.8, 1.0)))
        minutes, seconds = divmod(at, 60)
        hours, minutes = divmod(int(minutes), 60)
        lines.append(f"2023-11-16 {10 + hours:02}:{minutes:02}:{seconds:010.7f},{prompt},{answer}")
    path.write_text("\n".join(lines) + "\n")
    return path
