"""What came of a run, as plain numbers: the JSON of ``turnout simulate`` and what tables and pictures are made of.

A percentile is the smallest value that at least so many per cent do not exceed (nearest rank). Whoever was refused or
left counts with the whole patience as wait, and with that and the time of reading the prompt as time to the first
token: so a policy that refuses more has never lower figures for it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

import msgspec

from turnout.core.memory import PRIORITIES
from turnout.simulate.bound import least_swaps
from turnout.simulate.world import SERVED, World

DIGITS = 6


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of some seconds; all None where there are none."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    mean: float | None = None
    max: float | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Of all that belong to one role, model or foreign program."""

    requests: int
    served: int
    refused: int
    wait_seconds: Quantiles
    first_token_seconds: Quantiles


class MemoryOverTime(msgspec.Struct, frozen=True, kw_only=True):
    """Mean bytes held in each bucket of time, by holder.

    Attributes:
        capacity_bytes: What may be granted, on all devices together.
        held_share: How much of it was held, over the whole time.
        bucket_seconds: Width of a bucket; the last one may be narrower.
        holders: A column for each.
    """

    capacity_bytes: int
    held_share: float
    bucket_seconds: float
    holders: dict[str, list[int]]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One policy with one seed.

    Attributes:
        policy: Who decided.
        seed: Of all that was drawn.
        profile: What there was.
        trace: What was asked.
        requests: All arrivals, leases among them.
        served: Those whose work began within their patience.
        refused: All others.
        refusals: The same by reason.
        swaps: Loads, and grants to foreign programs, that took room which an eviction had made.
        swaps_lower_bound: What no scheduler that serves the same could have stayed below.
        evictions: Workers put away or made smaller to make room.
        loads: Workers started or woken.
        idle_unloads: Workers put away because nobody had used them for long.
        wait_seconds: From the arrival to the begin of the work, by priority.
        first_token_seconds: From the arrival to the first token, by priority; of what has tokens.
        by_role: The same by role.
        simulated_seconds: From the first arrival to the last end.
        memory: Who held how much, when.
    """

    policy: str
    seed: int
    profile: str
    trace: str
    requests: int
    served: int
    refused: int
    refusals: dict[str, int]
    swaps: int
    swaps_lower_bound: int
    evictions: int
    loads: int
    idle_unloads: int
    wait_seconds: dict[str, Quantiles]
    first_token_seconds: dict[str, Quantiles]
    by_role: dict[str, Group]
    simulated_seconds: float
    memory: MemoryOverTime


def report_of(world: World, policy: str, seed: int, bounds: dict[bytes, int] | None = None) -> Report:
    """Return the figures of a finished run.

    Args:
        world: After its run.
        policy: Who decided.
        seed: Of the arrivals.
        bounds: Remembers lower bounds by what was served, for runs over the same arrivals.
    """
    arrivals, capacity = world.arrivals, world.profile.usable_bytes
    is_served = bytes(status == SERVED for status in world.status)
    bounds = {} if bounds is None else bounds
    if is_served not in bounds:
        bounds[is_served] = least_swaps(arrivals, capacity, is_served)
    by_priority = [[] for _ in PRIORITIES], [[] for _ in PRIORITIES]  # type: tuple[list[list[float]], list[list[float]]]
    by_role = [[] for _ in arrivals.roles], [[] for _ in arrivals.roles]  # type: tuple[list[list[float]], list[list[float]]]
    served_of, count_of = [0] * len(arrivals.roles), [0] * len(arrivals.roles)
    for index, wait in enumerate(world.wait):
        role, priority, first = arrivals.role[index], arrivals.priority[index], arrivals.first[index]
        count_of[role] += 1
        served_of[role] += is_served[index]
        by_priority[0][priority].append(wait)
        by_role[0][role].append(wait)
        if not math.isnan(first):
            by_priority[1][priority].append(wait + first)
            by_role[1][role].append(wait + first)
    served = sum(is_served)
    columns = world.timeline.columns(world.now)
    return Report(
        policy=policy,
        seed=seed,
        profile=world.profile.name,
        trace=arrivals.name,
        requests=len(arrivals),
        served=served,
        refused=len(arrivals) - served,
        refusals=dict(sorted(world.refusals.items())),
        swaps=world.swaps,
        swaps_lower_bound=bounds[is_served],
        evictions=world.evictions,
        loads=world.loads,
        idle_unloads=world.idle_unloads,
        wait_seconds={name: quantiles(by_priority[0][i]) for i, name in enumerate(PRIORITIES)},
        first_token_seconds={name: quantiles(by_priority[1][i]) for i, name in enumerate(PRIORITIES)},
        by_role={
            name: Group(
                requests=count_of[i],
                served=served_of[i],
                refused=count_of[i] - served_of[i],
                wait_seconds=quantiles(by_role[0][i]),
                first_token_seconds=quantiles(by_role[1][i]),
            )
            for i, name in sorted(enumerate(arrivals.roles), key=lambda pair: pair[1])
        },
        simulated_seconds=round(world.now, DIGITS),
        memory=MemoryOverTime(
            capacity_bytes=capacity,
            held_share=round(world.timeline.area / (capacity * world.now), DIGITS) if world.now else 0.0,
            bucket_seconds=world.timeline.bucket_seconds,
            holders={name: [round(amount) for amount in columns[name]] for name in sorted(columns)},
        ),
    )


def quantiles(values: Iterable[float]) -> Quantiles:
    """Return the quantiles of some seconds.

    Args:
        values: In any order.
    """
    ordered = array("d", sorted(values))
    if not ordered:
        return Quantiles()
    return Quantiles(
        p50=_nearest_rank(ordered, 0.50),
        p95=_nearest_rank(ordered, 0.95),
        p99=_nearest_rank(ordered, 0.99),
        mean=round(math.fsum(ordered) / len(ordered), DIGITS),
        max=round(ordered[-1], DIGITS),
    )


def _nearest_rank(ordered: Sequence[float], share: float) -> float:
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], DIGITS)
