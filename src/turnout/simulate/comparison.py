"""Runs policies over arrivals: the one function behind ``turnout simulate``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence

from turnout.core.errors import SetupError
from turnout.scheduler.decide import Decider
from turnout.scheduler.messages import Scheduler
from turnout.scheduler.settings import SchedulerSettings
from turnout.simulate.policies.fifo import Fifo
from turnout.simulate.policies.lru import Lru
from turnout.simulate.profile import Profile
from turnout.simulate.report import Report, report_of
from turnout.simulate.traces.arrivals import Arrivals
from turnout.simulate.world import World

POLICIES = ("turnout", "lru", "fifo")
"""Ours, Ollama's, llama-swap's."""

Tell = Callable[[str, int, int, int], None]
"""Is told of progress: policy, seed, arrivals so far, arrivals in all."""


def check_policies(names: Sequence[str]) -> None:
    """Check that all policies exist.

    Raises:
        SetupError: One does not.
    """
    for name in names:
        if name not in POLICIES:
            near = difflib.get_close_matches(name, POLICIES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"policies are {', '.join(POLICIES)}"
            raise SetupError(f"there is no policy {name!r}", hint=hint)


def scheduler_of(policy: str, profile: Profile, settings: SchedulerSettings | None = None) -> Scheduler:
    """Return a fresh scheduler.

    Args:
        policy: One of ``POLICIES``.
        profile: What there is.
        settings: For ours.
    """
    models = tuple(entry.model for entry in profile.models)
    if policy == "lru":
        return Lru(profile.devices, models)
    if policy == "fifo":
        return Fifo(profile.devices, models)
    return Decider(profile.devices, models, settings or SchedulerSettings())


def simulate(
    profile: Profile,
    read: Callable[[int], Arrivals],
    *,
    policies: Sequence[str] = POLICIES,
    seeds: Sequence[int] = (1,),
    settings: SchedulerSettings | None = None,
    tell: Tell | None = None,
) -> Iterator[Report]:
    """Yield a report for each seed and policy, as they are ready.

    Args:
        profile: What there is.
        read: Returns the arrivals of a seed; all policies get the same.
        policies: Who shall decide.
        seeds: Each is a run of its own.
        settings: For ours.
        tell: Is told of progress.
    """
    for seed in seeds:
        arrivals = read(seed)
        bounds: dict[bytes, int] = {}
        for policy in policies:
            world = World(scheduler_of(policy, profile, settings), profile, arrivals)

            def so_far(count: int, policy: str = policy, seed: int = seed, total: int = len(arrivals)) -> None:
                if tell:
                    tell(policy, seed, count, total)

            world.run(so_far)
            so_far(len(arrivals))
            yield report_of(world, policy, seed, bounds)
