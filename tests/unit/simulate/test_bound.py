"""The lower bound: never above what the best of all schedules needs, nor above what any policy did."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.cards import a_card, asked, asked_and_leased, at_random, run
from turnout.core.memory import GIB
from turnout.simulate.bound import least_swaps
from turnout.simulate.comparison import POLICIES, scheduler_of
from turnout.simulate.profile import Profile
from turnout.simulate.traces.arrivals import Arrivals
from turnout.simulate.world import SERVED

THREE = a_card(8, a={}, b={}, c={})


def test_two_that_do_not_fit_and_take_turns() -> None:
    card = a_card(4, a={}, b={})
    arrivals = asked(card, *((100.0 * n, "ab"[n % 2], 1.0) for n in range(6)), patience=10)
    assert least_swaps(arrivals, 4 * GIB) == 5
    assert least_swaps(arrivals, 8 * GIB) == 0


def test_long_patience_lets_requests_be_served_together() -> None:
    card = a_card(4, a={}, b={})
    arrivals = asked(card, *((100.0 * n, "ab"[n % 2], 1.0) for n in range(6)), patience=10_000)
    assert least_swaps(arrivals, 4 * GIB) == 1


def test_what_was_not_served_binds_nobody() -> None:
    card = a_card(4, a={}, b={})
    arrivals = asked(card, (0, "a", 1), (100, "b", 1), (200, "a", 1), patience=10)
    assert least_swaps(arrivals, 4 * GIB) == 2
    assert least_swaps(arrivals, 4 * GIB, [1, 0, 1]) == 0


def test_several_at_once_count_at_once() -> None:
    card = a_card(8, a={}, b={}, c={}, d={})
    arrivals = asked(card, *((0.0, name, 1.0) for name in "abcd"), patience=10)
    assert least_swaps(arrivals, 8 * GIB) == 2


def test_a_lease_may_make_room_that_saves_more_swaps_than_it_is() -> None:
    card = a_card(8, a={"vram_gib": 4}, b={"vram_gib": 4}, c={"vram_gib": 4}, d={"vram_gib": 4})
    asks = [(0.0, name, 1.0) for name in "abcd"]
    # Evicting both for a lease of 8 GiB is one swap, and what it gives back holds the other two.
    assert least_swaps(asked_and_leased(card, asks, [(0, 8, 1)], patience=10), 8 * GIB) == 1
    assert least_swaps(asked_and_leased(card, asks, [(0, 1, 1)], patience=10), 8 * GIB) == 2


def test_what_a_pinned_model_holds_is_not_there_for_the_others() -> None:
    models: dict[str, dict[str, object]] = {"chat": {"class": "pinned"}, "a": {}, "b": {}}
    asks = [(0.0, "chat", 1.0), *((100.0 + 100 * n, "ab"[n % 2], 1.0) for n in range(6))]
    pinned = a_card(8, **models)
    assert least_swaps(asked(pinned, *asks, patience=10), 8 * GIB) == 5
    free = a_card(8, chat={}, a={}, b={})
    assert least_swaps(asked(free, *asks, patience=10), 8 * GIB) == 1
    # Before it must have been there it may be away, and the others both in memory.
    late = [*asks[1:], (2000.0, "chat", 1.0)]
    assert least_swaps(asked(pinned, *late, patience=10), 8 * GIB) == 0


def best_of_all(arrivals: Arrivals, room: int) -> int:
    """Return the fewest swaps of any schedule, by trying all: memory changes at the moments when windows open."""
    windows = [
        (at, at + patience, target)
        for at, patience, target in zip(arrivals.at, arrivals.patience, arrivals.target, strict=True)
    ]
    moments = sorted({begin for begin, _, _ in windows})
    names = sorted(set(arrivals.target))
    states = [frozenset(held) for count in range(room + 1) for held in combinations(names, count)]
    # A state: what is in memory, how many were ever loaded into fresh room, who was served so far. At each moment any
    # number of loads may follow each other.
    open_at = {moment: [i for i, (begin, end, _) in enumerate(windows) if begin <= moment <= end] for moment in moments}
    costs: dict[tuple[frozenset[int], int, frozenset[int]], int] = {(frozenset(), room, frozenset()): 0}
    for moment in moments:
        queue = list(costs.items())
        reached: dict[tuple[frozenset[int], int, frozenset[int]], int] = {}
        while queue:
            (held, fresh, done), cost = queue.pop()
            done |= {i for i in open_at[moment] if windows[i][2] in held}
            key = (held, fresh, done)
            if reached.get(key, 99) <= cost:
                continue
            reached[key] = cost
            for state in states:
                loaded = state - held
                if len(loaded) == 1:
                    took_fresh = len(state) > len(held)
                    if took_fresh and not fresh:
                        continue
                    queue.append(((state, fresh - took_fresh, done), cost + (not took_fresh)))
        gone = {
            i for i, (_, end, _) in enumerate(windows) if end < min((m for m in moments if m > moment), default=1e9)
        }
        costs = {key: cost for key, cost in reached.items() if gone <= key[2]}
    return min(costs.values())


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_it_is_never_above_the_best_schedule(seed: int) -> None:
    random = Random(seed)  # noqa: S311  repeatable
    count, room = random.randint(2, 4), random.randint(1, 2)
    card = a_card(room * 4, **{name: {} for name in "abcd"[:count]})
    asks = sorted(
        (float(random.randint(0, 12)), random.choice("abcd"[:count]), 1.0) for _ in range(random.randint(1, 8))
    )
    arrivals = asked(card, *asks, patience=float(random.randint(1, 6)))
    assert least_swaps(arrivals, room * 4 * GIB) <= best_of_all(arrivals, room)


def test_it_is_often_the_best_schedule() -> None:
    hits = 0
    for seed in range(40):
        random = Random(seed)  # noqa: S311  repeatable
        card = a_card(4, a={}, b={}, c={})
        asks = sorted((float(random.randint(0, 20)), random.choice("abc"), 1.0) for _ in range(6))
        arrivals = asked(card, *asks, patience=1.0)
        hits += least_swaps(arrivals, 4 * GIB) == best_of_all(arrivals, 1)
    assert hits > 30


@pytest.mark.parametrize("policy", POLICIES)
@given(seed=st.integers(0, 10_000), gap=st.sampled_from([0.5, 3.0, 12.0]))
@settings(max_examples=15, deadline=None)
def test_no_policy_stays_below_it(policy: str, seed: int, gap: float) -> None:
    profile: Profile = THREE
    arrivals = at_random(profile, seed, 150, gap, patience=40)
    world = run(scheduler_of(policy, profile), profile, arrivals)
    served = [status == SERVED for status in world.status]
    assert least_swaps(arrivals, profile.usable_bytes, served) <= world.swaps + world.idle_unloads
