"""Ollama's way: one line, strictly in order; idle first; nobody is unloaded while they serve."""

from __future__ import annotations

from support.cards import a_card, asked, asked_and_leased, run, waits
from turnout.scheduler import messages as m
from turnout.simulate.policies.lru import LONGEST_LINE, Lru
from turnout.simulate.profile import Profile
from turnout.simulate.world import World


def lru(profile: Profile) -> Lru:
    return Lru(profile.devices, [entry.model for entry in profile.models])


def ran(profile: Profile, *asks: tuple[float, str, float], patience: float | None = None) -> World:
    return run(lru(profile), profile, asked(profile, *asks, patience=patience))


def test_a_loaded_model_serves_at_once_while_another_loads() -> None:
    card = a_card(10, a={}, b={})
    world = ran(card, (0, "a", 1), (10, "b", 1), (12, "a", 1))
    assert waits(world) == [5.0, 5.0, 0.0]


def test_the_first_of_the_line_blocks_all_behind_it() -> None:
    card = a_card(12, a={}, b={}, c={})
    # b and c both fit, and are still loaded one after the other.
    assert waits(ran(card, (0, "a", 1), (0, "b", 1), (0, "c", 1))) == [5.0, 10.0, 15.0]


def test_the_line_is_not_sorted_by_model() -> None:
    card = a_card(4, a={}, b={})
    world = ran(card, (0, "a", 1), (0.1, "b", 1), (0.2, "a", 1), (0.3, "b", 1))
    assert world.loads == 4
    # 0: a loads; 5: b waits until a is idle at 6, is free at 7, loaded at 12; and so on in turn.
    assert waits(world) == [5.0, 11.9, 18.8, 25.7]


def test_an_idle_model_goes_before_a_busy_one_though_the_busy_one_was_used_longer_ago() -> None:
    card = a_card(8, a={}, b={}, c={})
    world = ran(card, (0, "a", 100), (10, "b", 1), (30, "c", 1), (60, "b", 1))
    assert waits(world)[2] == 6.0  # b is stopped, a still serves
    assert waits(world)[3] == 6.0  # then c, which is idle, for b


def test_of_several_idle_ones_the_first_by_name_goes() -> None:
    card = a_card(8, b={}, a={}, c={})
    scheduler = lru(card)
    world = World(scheduler, card, asked(card, (0, "b", 1), (10, "a", 1), (30, "c", 1), (60, "b", 1)))
    world.run()
    assert waits(world) == [5.0, 5.0, 6.0, 0.0]  # a was stopped for c: b is still there


def test_no_idle_one_then_the_first_goes_when_it_is_idle_and_new_requests_keep_it() -> None:
    card = a_card(4, a={}, b={})
    # b waits for a, but a's next request (at 12) is served at once and keeps a until 25.
    world = ran(card, (0, "a", 10), (6, "b", 1), (12, "a", 13))
    assert waits(world) == [5.0, 25 - 6 + 6.0, 0.0]


def test_three_models_for_a_card_and_no_more() -> None:
    card = a_card(100, a={}, b={}, c={}, d={})
    world = ran(card, (0, "a", 1), (10, "b", 1), (20, "c", 1), (30, "d", 1))
    assert waits(world) == [5.0, 5.0, 5.0, 6.0]
    assert (world.evictions, world.swaps) == (1, 0)  # it was put away, though its room was not needed


def test_five_minutes_of_idleness_end_a_model_and_that_is_no_eviction() -> None:
    card = a_card(8, a={})
    world = ran(card, (0, "a", 1), (305, "a", 1), (700, "a", 1))
    assert waits(world) == [5.0, 0.0, 5.0]
    assert (world.idle_unloads, world.evictions, world.loads) == (1, 0, 2)


def test_a_pinned_model_has_no_keep_alive_and_goes_last() -> None:
    card = a_card(8, a={"class": "pinned"}, b={}, c={})
    world = ran(card, (0, "a", 1), (10, "b", 1), (30, "c", 1), (400, "a", 1))
    assert waits(world) == [5.0, 5.0, 6.0, 0.0]


def test_a_full_line_refuses() -> None:
    card = a_card(4, a={})
    asks = [(0.001 * n, "a", 1.0) for n in range(LONGEST_LINE + 2)]
    world = ran(card, *asks, patience=1000)
    # One is being loaded for, 512 stand in the line.
    assert world.refusals == {"queue_full": 1}


def test_whoever_left_is_passed_over() -> None:
    card = a_card(4, a={}, b={})
    world = ran(card, (0, "a", 40), (1, "b", 1), patience=20)
    assert waits(world) == [5.0, 20.0]
    assert world.loads == 1


def test_a_caller_who_leaves_during_the_load_does_not_end_it() -> None:
    card = a_card(4, a={"load_seconds": 50})
    world = ran(card, (0, "a", 1), (40, "a", 1), patience=20)
    assert waits(world) == [20.0, 10.0]


def test_a_model_larger_than_the_card_is_refused() -> None:
    card = a_card(4, a={}, b={"vram_gib": 5})
    assert ran(card, (0, "b", 1), (1, "a", 1)).refusals == {"too_large": 1}


def test_a_lease_stands_in_the_same_line_and_is_left_alone() -> None:
    card = a_card(8, a={}, b={})
    arrivals = asked_and_leased(card, [(0, "a", 1), (12, "b", 1), (13, "a", 1)], [(10, 6, 30)])
    world = run(lru(card), card, arrivals)
    # a is stopped for the lease (11); b does not fit beside it, waits for its end (41) and loads; then a loads.
    by_role = dict(zip([arrivals.roles[role] for role in arrivals.role], waits(world), strict=True))
    assert by_role == {"a": 38.0, "picture": 1.0, "b": 34.0}


def test_a_lease_that_never_fits_is_refused_and_one_that_left_is_forgotten() -> None:
    card = a_card(8, a={})
    world = run(lru(card), card, asked_and_leased(card, [], [(0, 9, 1)]))
    assert world.refusals == {"too_large": 1}
    world = run(lru(card), card, asked_and_leased(card, [], [(0, 8, 50), (1, 8, 1), (2, 8, 1)], patience=20))
    assert world.refusals == {"deadline": 2}


def test_nothing_is_due_while_everybody_works() -> None:
    card = a_card(8, a={})
    scheduler = lru(card)
    assert scheduler.next_at() is None
    scheduler.decide(m.RequestArrived(ticket="0", model="local/a"), 0.0)
    scheduler.decide(m.WorkerReady(model="local/a"), 5.0)
    assert scheduler.next_at() is None
    scheduler.decide(m.RequestFinished(ticket="0"), 6.0)
    assert scheduler.next_at() == 306.0
