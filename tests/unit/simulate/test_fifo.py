"""llama-swap's way: whoever asks for a running model is served at once; loads that do not collide run side by side."""

from __future__ import annotations

from support.cards import a_card, asked, asked_and_leased, run, waits
from turnout.simulate.policies.fifo import Fifo
from turnout.simulate.profile import Profile
from turnout.simulate.world import World


def fifo(profile: Profile) -> Fifo:
    return Fifo(profile.devices, [entry.model for entry in profile.models])


def ran(profile: Profile, *asks: tuple[float, str, float], patience: float | None = None) -> World:
    return run(fifo(profile), profile, asked(profile, *asks, patience=patience))


def test_a_b_a_b_becomes_a_a_b_b() -> None:
    card = a_card(4, a={}, b={})
    world = ran(card, (0, "a", 1), (0.1, "b", 1), (0.2, "a", 1), (0.3, "b", 1))
    assert world.loads == 2
    assert waits(world) == [5.0, 11.9, 4.8, 11.7]


def test_loads_that_fit_run_side_by_side() -> None:
    card = a_card(12, a={}, b={}, c={})
    assert waits(ran(card, (0, "a", 1), (0, "b", 1), (0, "c", 1))) == [5.0, 5.0, 5.0]


def test_a_running_model_serves_past_everybody_who_waits_and_nothing_ages() -> None:
    card = a_card(4, a={}, b={})
    # One request for a every 4 s, each of 5 s: a is never idle, and b waits until they stop.
    world = ran(card, *((4.0 * n, "a", 5.0) for n in range(20)), (6, "b", 1))
    assert max(waits(world)) == (4.0 * 19 + 5 + 1 + 5) - 6


def test_a_busy_model_is_not_stopped() -> None:
    card = a_card(4, a={}, b={})
    assert waits(ran(card, (0, "a", 20), (6, "b", 1))) == [5.0, 25 - 6 + 6.0]


def test_the_fewest_running_models_have_to_go() -> None:
    card = a_card(10, big={"vram_gib": 6}, small={"vram_gib": 3}, other={"vram_gib": 6})
    # For other the big one has to go; the small one may stay.
    world = ran(card, (0, "big", 1), (0, "small", 1), (20, "other", 1), (40, "small", 1))
    assert waits(world) == [5.0, 5.0, 6.0, 0.0]
    assert world.evictions == 1


def test_a_pinned_model_is_in_every_set() -> None:
    card = a_card(8, a={"class": "pinned"}, b={}, c={})
    world = ran(card, (0, "a", 1), (0, "b", 1), (20, "c", 1), (40, "a", 1))
    assert waits(world) == [5.0, 5.0, 6.0, 0.0]


def test_a_load_that_wants_to_stop_one_under_way_waits_for_it() -> None:
    card = a_card(4, a={}, b={})
    world = ran(card, (0, "a", 1), (2, "b", 1))
    assert waits(world) == [5.0, 10.0]


def test_whoever_left_is_pruned_and_starts_nothing() -> None:
    card = a_card(4, a={}, b={})
    world = ran(card, (0, "a", 40), (1, "b", 1), patience=20)
    assert waits(world) == [5.0, 20.0]
    assert world.loads == 1


def test_a_full_line_of_a_model_refuses() -> None:
    card = a_card(4, a={"slots": 1, "queue_limit": 2})
    world = ran(card, *((0.0, "a", 1.0) for _ in range(5)))
    assert world.refusals == {"queue_full": 2}


def test_a_model_in_no_set_is_refused() -> None:
    card = a_card(4, a={}, b={"vram_gib": 5})
    assert ran(card, (0, "b", 1), (1, "a", 1)).refusals == {"too_large": 1}


def test_a_lease_is_a_model_without_a_load_that_goes_by_itself() -> None:
    card = a_card(8, a={}, b={})
    arrivals = asked_and_leased(card, [(0, "a", 1), (12, "b", 1), (13, "b", 1)], [(10, 6, 30)])
    world = run(fifo(card), card, arrivals)
    by_role = dict(zip([arrivals.roles[role] for role in arrivals.role], waits(world), strict=True))
    assert by_role == {"a": 5.0, "picture": 1.0, "b": 33.0}
    assert (world.swaps, world.evictions) == (1, 1)


def test_leases_wait_for_each_other_and_may_leave() -> None:
    card = a_card(8, a={})
    world = run(fifo(card), card, asked_and_leased(card, [], [(0, 9, 1)]))
    assert world.refusals == {"too_large": 1}
    world = run(fifo(card), card, asked_and_leased(card, [], [(0, 8, 15), (1, 8, 50), (2, 8, 1)], patience=20))
    assert waits(world) == [0.0, 14.0, 20.0]


def test_a_lease_that_leaves_while_room_is_made_does_not_hold_it() -> None:
    card = a_card(4, a={})
    arrivals = asked_and_leased(card, [(0, "a", 1), (10.5, "a", 1)], [(10, 4, 50)], patience=0.5)
    world = run(fifo(card), card, arrivals)
    assert world.refusals == {"deadline": 3}  # nobody waits for a load of 5 s that long
    assert world.now < 60
