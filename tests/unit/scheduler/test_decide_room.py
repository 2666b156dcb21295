"""Room for models: who makes way for whom, when, and how."""

from __future__ import annotations

import pytest

from simulation.scheduler_desk import DEEP, GPU, GPU1, LIGHT, Desk, card, elastic, memory, model
from turnout.core.memory import GIB, HOST_RAM, Model, Priority
from turnout.scheduler import messages as m


def test_an_idle_model_makes_way_and_its_memory_counts_until_it_is_gone() -> None:
    desk = Desk([model("a"), model("b")])
    desk.bring_up("a")
    assert desk.ask("1", "b") == ["stop a"]
    assert desk.granted_gib() == 16.0
    assert desk.gone("a") == ["start b"]
    assert desk.ready("b") == ["admit 1"]


def test_models_that_fit_beside_each_other_stay() -> None:
    desk = Desk([model("a", 12), model("b", 12)])
    desk.bring_up("a")
    assert desk.ask("1", "b") == ["start b"]
    assert desk.phase("a") == "ready"


def test_a_running_request_is_never_disturbed() -> None:
    desk = Desk([model("a"), model("b")], aging_seconds=1)
    desk.bring_up("a")
    desk.ask("long", "a")
    desk.ask("1", "b", "interactive")
    assert all(desk.tick(float(second)) == [] for second in range(1, 100))
    assert desk.done("long") == ["stop a"]


def test_a_pinned_model_is_never_moved() -> None:
    desk = Desk([model("pinned", 16, "pinned"), model("b", 6)])
    desk.bring_up("pinned")
    assert desk.ask("1", "b") == ["start b"]
    assert desk.lease("lease", 20) == ["refuse lease"]
    assert desk.phase("pinned") == "ready"


def test_requests_for_a_ready_model_come_before_a_switch_away_from_it() -> None:
    desk = Desk([model("a"), model("b")])
    desk.bring_up("a")
    desk.ask("a1", "a")
    desk.ask("b1", "b")
    desk.ask("a2", "a")
    desk.ask("a3", "a")
    assert desk.done("a1", 1.0) == ["admit a2"]
    assert desk.done("a2", 2.0) == ["admit a3"]
    assert desk.done("a3", 3.0) == ["stop a"]


def test_a_more_urgent_request_for_another_model_holds_less_urgent_ones_back() -> None:
    desk = Desk([model("a"), model("b")])
    desk.bring_up("a")
    desk.ask("a1", "a", "background")
    desk.ask("a2", "a", "background")
    desk.ask("b1", "b", "interactive")
    assert desk.done("a1") == ["stop a"]
    desk.gone("a")
    assert desk.ready("b") == ["admit b1"]
    assert desk.done("b1") == ["stop b"]
    desk.gone("b")
    assert desk.ready("a") == ["admit a2"]


def test_an_overdue_request_forces_the_switch() -> None:
    desk = Desk([model("a"), model("b")], aging_seconds=10)
    desk.bring_up("a")
    desk.ask("a1", "a", "interactive", at=0.0)
    desk.ask("b1", "b", "normal", at=0.0)
    desk.ask("a2", "a", "interactive", at=19.0)
    assert desk.done("a1", at=19.5) == ["admit a2"]
    assert desk.ask("a3", "a", "interactive", at=20.0) == []
    assert desk.ask("a4", "a", "interactive", at=20.0) == []
    assert desk.done("a2", at=21.0) == ["stop a"]


def test_two_busy_models_that_have_to_go_together_both_stop_admitting() -> None:
    desk = Desk([model("a", 12), model("b", 12), model("large", 24)], aging_seconds=1)
    desk.bring_up("a", "b")
    for name in "ab":
        desk.ask(f"{name}1", name)
        desk.ask(f"{name}2", name)
    desk.ask("large1", "large", at=0.0)
    desk.tick(2.0)
    assert desk.done("a1", at=3.0) == []
    assert desk.done("b1", at=4.0) == ["stop a", "stop b"]


def test_the_gate_opens_again_when_nobody_needs_it_closed() -> None:
    desk = Desk([model("a"), model("b")], aging_seconds=1)
    desk.bring_up("a")
    desk.ask("a1", "a")
    desk.ask("b1", "b", at=0.0)
    desk.tick(2.0)
    desk.ask("a2", "a", at=3.0)
    assert desk.done("a1", at=3.5) == ["stop a"]  # and without the one who left:
    other = Desk([model("a", slots=2), model("b")], aging_seconds=1)
    other.bring_up("a")
    other.ask("a1", "a")
    other.ask("b1", "b", at=0.0)
    other.tick(2.0)
    assert other.ask("a2", "a", at=3.0) == []
    assert other.tell(m.RequestLeft(ticket="b1")) == ["admit a2"]


@pytest.mark.parametrize(("priority", "until"), [("background", 15.0), ("normal", 6.0), ("interactive", 6.0)])
def test_a_fresh_idle_model_keeps_its_place_against_background_work(priority: Priority, until: float) -> None:
    desk = Desk([model("a", min_residency_seconds=10.0), model("b")], linger_per_load=0.0, patience_steps=0.0)
    desk.ask("0", "a", at=0.0)
    desk.ready("a", at=5.0)
    desk.done("0", at=6.0)
    if until > 6.0:
        assert desk.ask("1", "b", priority, at=6.0) == []
        assert desk.decider.next_at() == until
        assert desk.tick(until) == ["stop a"]
    else:
        assert desk.ask("1", "b", priority, at=6.0) == ["stop a"]


def test_background_work_that_has_waited_long_does_not_wait_for_the_residency_of_an_idle_model() -> None:
    desk = Desk([model("a", min_residency_seconds=100.0), model("b")], aging_seconds=5)
    desk.bring_up("a")
    assert desk.ask("1", "b", "background", at=0.0) == []
    assert desk.tick(5.0) == ["stop a"]


def test_a_busy_model_stays_a_multiple_of_its_load_even_against_overdue_requests() -> None:
    desk = Desk([model("a"), model("b")], aging_seconds=1, residency_per_load=2.0)
    desk.ask("a1", "a", at=0.0)
    desk.ready("a", at=10.0, seconds=10.0)
    desk.ask("a2", "a", at=10.0)
    desk.ask("b1", "b", at=10.0)
    assert desk.done("a1", at=20.0) == ["admit a2"]  # b1 is overdue since 12.0
    desk.ask("a3", "a", at=29.0)
    desk.tick(30.0)
    assert desk.done("a2", at=31.0) == ["stop a"]


def test_the_model_that_is_cheapest_to_get_back_makes_way() -> None:
    desk = Desk([model("slow", 8, load_seconds=60.0), model("fast", 8, load_seconds=5.0), model("new", 12)])
    desk.bring_up("slow", "fast")
    assert desk.ask("1", "new") == ["stop fast"]


def test_the_model_that_is_hardly_used_makes_way() -> None:
    desk = Desk([model("often", 8), model("rarely", 8), model("new", 12)])
    desk.bring_up("often", "rarely")
    for number in range(10):
        desk.ask(f"{number}", "often", at=float(number))
        desk.done(f"{number}")
    assert desk.ask("new", "new") == ["stop rarely"]


def test_no_more_is_moved_than_is_needed() -> None:
    desk = Desk([model("a", 4), model("b", 6), model("c", 10), model("new", 12)])
    desk.bring_up("a", "b", "c")
    assert desk.ask("1", "new") == ["stop c"]


def test_learnt_load_times_count_and_not_the_first_guess() -> None:
    desk = Desk([model("guessed", 8, load_seconds=1.0), model("other", 8, load_seconds=5.0), model("new", 12)])
    desk.ask("0", "guessed")
    desk.ready("guessed", seconds=90.0)
    desk.done("0")
    desk.bring_up("other")
    assert desk.ask("1", "new") == ["stop other"]
    worker = next(worker for worker in desk.decider.view(0.0).workers if worker.model == "guessed")
    assert worker.load_seconds == 90.0


def test_a_model_sleeps_rather_than_stops_and_what_it_keeps_counts() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT, DEEP)), model("b")], [card(), memory()])
    desk.bring_up("a")
    assert desk.ask("1", "b") == ["sleep a 1"]
    assert (desk.granted_gib(), desk.granted_gib(HOST_RAM)) == (16.0, 10.0)
    assert desk.asleep("a") == ["start b"]
    assert desk.granted_gib() == 17.0


def test_a_model_sleeps_deeper_if_the_weights_have_no_room_elsewhere() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT, DEEP)), model("b")], [card(), memory(5)])
    desk.bring_up("a")
    assert desk.ask("1", "b") == ["sleep a 2"]


def test_a_model_stops_if_what_it_keeps_asleep_is_still_too_much() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,)), model("b", 24)], [card(), memory()])
    desk.bring_up("a")
    assert desk.ask("1", "b") == ["stop a"]


def test_a_sleeper_goes_when_its_rest_is_needed() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT, DEEP)), model("b", 23.5)], [card(), memory()])
    desk.bring_up("a")
    desk.ask("1", "b")
    desk.asleep("a", level=2)
    assert desk.granted_gib() == 24.0


def test_waking_needs_room_like_a_start() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,)), model("b")], [card(), memory()])
    desk.bring_up("a")
    desk.ask("b1", "b")
    desk.asleep("a")
    desk.ready("b")
    assert desk.ask("a1", "a") == []
    assert desk.done("b1") == ["stop b"]
    assert desk.gone("b") == ["wake a"]
    assert desk.ready("a") == ["admit a1"]
    assert desk.granted_gib(HOST_RAM) == 0.0


def test_a_model_that_failed_to_sleep_is_stopped_the_next_time() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,)), model("b")], [card(), memory()])
    desk.bring_up("a")
    desk.ask("1", "b")
    assert desk.tell(m.OrderFailed(model="a", reason="no", order=desk.orders["a"])) == ["stop a"]


def test_a_model_that_failed_to_wake_is_started_anew() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,), idle_seconds=5.0)], [card(), memory()])
    desk.bring_up("a")
    assert desk.tick(5.0) == ["sleep a 1"]
    desk.asleep("a")
    assert desk.ask("1", "a") == ["wake a"]
    assert desk.tell(m.OrderFailed(model="a", reason="no", order=desk.orders["a"])) == ["stop a"]
    assert desk.gone("a") == ["start a"]


def test_an_idle_model_is_put_away_step_by_step() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT, DEEP), idle_seconds=10.0)], [card(), memory()])
    desk.bring_up("a")
    assert desk.decider.next_at() == 10.0
    assert desk.tick(10.0) == ["sleep a 1"]
    desk.asleep("a", 1, at=11.0)
    assert desk.tick(21.0) == ["sleep a 2"]
    desk.asleep("a", 2, at=22.0)
    assert desk.tick(32.0) == ["stop a"]


def test_use_puts_off_the_end_of_idleness() -> None:
    desk = Desk([model("a", idle_seconds=10.0)])
    desk.bring_up("a")
    desk.ask("1", "a", at=8.0)
    assert desk.tick(10.0) == []
    desk.done("1", at=12.0)
    assert desk.tick(21.9) == []
    assert desk.tick(22.0) == ["stop a"]


def test_a_pinned_model_is_never_idle_for_too_long() -> None:
    desk = Desk([model("a", 16, "pinned", idle_seconds=10.0)])
    desk.bring_up("a")
    assert desk.tick(100.0) == []


def test_starts_on_one_card_come_one_after_the_other() -> None:
    desk = Desk([model("a", 8), model("b", 8)])
    assert desk.ask("1", "a") == ["start a"]
    assert desk.ask("2", "b") == []
    assert desk.ready("a") == ["admit 1", "start b"]


def test_starts_on_different_cards_need_not_wait_for_each_other() -> None:
    desk = Desk([model("a", 8), model("b", devices={GPU1: 8 * GIB})], [card(), card(id_=GPU1)])
    assert desk.ask("1", "a") == ["start a"]
    assert desk.ask("2", "b") == ["start b"]


def test_starts_in_the_machines_own_memory_need_not_wait_for_each_other() -> None:
    desk = Desk([model(name, devices={HOST_RAM: 8 * GIB}) for name in "ab"], [memory()])
    assert desk.ask("1", "a") == ["start a"]
    assert desk.ask("2", "b") == ["start b"]


def test_how_many_may_start_at_once_can_be_set() -> None:
    desk = Desk([model("a", 8), model("b", 8)], starts_at_once_per_device=2)
    assert desk.ask("1", "a") == ["start a"]
    assert desk.ask("2", "b") == ["start b"]


def test_room_is_made_while_another_start_goes_on() -> None:
    desk = Desk([model("idle", 8), model("a", 8), model("b", 16)])
    desk.bring_up("idle")
    assert desk.ask("1", "a") == ["start a"]
    assert desk.ask("2", "b") == ["stop idle"]
    assert desk.gone("idle") == []
    assert desk.ready("a") == ["admit 1", "start b"]


def test_an_elastic_model_starts_in_the_size_that_is_preferred_if_there_is_room() -> None:
    assert Desk([elastic()]).ask("1", "elastic") == ["start elastic 12g"]


def test_an_elastic_model_starts_smaller_rather_than_move_somebody() -> None:
    desk = Desk([model("a", 14), elastic()])
    desk.bring_up("a")
    assert desk.ask("1", "elastic") == ["start elastic 8g"]


def test_an_elastic_model_is_never_smaller_than_its_request_allows() -> None:
    desk = Desk([model("a", 14), elastic()])
    desk.bring_up("a")
    assert desk.ask("1", "elastic", least_quality=3) == ["stop a"]
    assert desk.gone("a") == ["start elastic 12g"]


def test_an_elastic_model_may_be_larger_than_preferred_if_it_must() -> None:
    assert Desk([elastic(preferred_size=0)]).ask("1", "elastic", least_quality=2) == ["start elastic 8g"]


def test_an_idle_elastic_model_shrinks_for_a_job_and_grows_for_a_hard_request() -> None:
    desk = Desk([elastic(resizes_live=True)])
    desk.bring_up("elastic")
    assert desk.lease("job", 14) == ["resize elastic 8g"]
    assert desk.granted_gib() == 12.0
    assert desk.ready("elastic") == ["grant job"]
    assert desk.granted_gib() == 22.0
    assert desk.ask("easy", "elastic", least_quality=2) == ["admit easy"]
    assert desk.ask("hard", "elastic", least_quality=3) == []
    desk.done("easy")
    assert desk.tell(m.LeaseReleased(id="job")) == ["resize elastic 12g"]
    assert desk.ready("elastic") == ["admit hard"]


def test_an_elastic_model_that_cannot_be_switched_starts_anew_to_grow() -> None:
    desk = Desk([model("a", 18), elastic()])
    desk.bring_up("a")
    assert desk.ask("1", "elastic") == ["start elastic 4g"]
    desk.ready("elastic")
    desk.done("1")
    desk.gone("a", reason="died")
    assert desk.ask("2", "elastic", least_quality=3) == ["stop elastic"]
    assert desk.gone("elastic") == ["start elastic 12g"]
    assert desk.ready("elastic") == ["admit 2"]


def test_a_growing_model_first_finishes_what_runs() -> None:
    desk = Desk([elastic(resizes_live=True, preferred_size=0)])
    desk.bring_up("elastic")
    desk.ask("easy", "elastic")
    assert desk.ask("hard", "elastic", "interactive", least_quality=3) == []
    assert desk.ask("easy2", "elastic", "normal") == []
    assert desk.done("easy") == ["resize elastic 12g"]


def test_a_model_over_two_cards_takes_both_or_none() -> None:
    wide = model("wide", devices={GPU: 16 * GIB, GPU1: 16 * GIB})
    desk = Desk([model("a", devices={GPU1: 16 * GIB}), wide], [card(), card(id_=GPU1)])
    desk.bring_up("a")
    desk.ask("a1", "a")
    assert desk.ask("1", "wide") == []
    assert (desk.granted_gib(), desk.granted_gib(GPU1)) == (0.0, 16.0)
    assert desk.done("a1") == ["stop a"]
    assert desk.gone("a") == ["start wide"]


def test_a_cold_model_that_is_less_urgent_does_not_take_what_a_more_urgent_one_drains_for() -> None:
    desk = Desk([model("a", 16), model("b", 20), model("small", 6)], aging_seconds=10)
    desk.bring_up("a")
    desk.ask("a1", "a", "background")
    desk.ask("b1", "b", "interactive")
    assert desk.ask("small1", "small", "background") == []


def test_while_a_foreign_program_holds_the_room_others_may_use_what_is_free() -> None:
    desk = Desk([model("b", 20), model("small", 6)], aging_seconds=1)
    desk.lease("foreign", 16)
    desk.ask("b1", "b", "interactive")
    desk.tick(50.0)
    assert desk.ask("small1", "small", "background") == ["start small"]


def test_models_come_and_go_while_everything_runs() -> None:
    desk = Desk()
    assert desk.tell(m.ModelAdded(model=model("a"))) == []
    assert desk.ask("1", "a") == ["start a"]
    desk.ready("a")
    desk.ask("2", "a")
    assert desk.tell(m.ModelRemoved(name="a")) == ["refuse 2 removed"]
    assert desk.ask("3", "a") == ["refuse 3 removed"]
    assert desk.done("1") == ["stop a"]
    assert desk.gone("a") == []
    assert desk.decider.view(0.0).workers == ()


def test_a_cold_model_is_removed_at_once() -> None:
    desk = Desk([model("a")])
    desk.tell(m.ModelRemoved(name="a"))
    assert desk.decider.view(0.0).workers == ()


def test_a_worker_stays_under_new_words_that_it_fits() -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    desk.ask("1", "a")
    desk.ask("2", "a")
    assert desk.tell(m.ModelAdded(model=model("a", slots=2))) == ["admit 2"]
    assert desk.phase("a") == "ready"


def test_a_worker_ends_and_starts_anew_under_words_that_it_does_not_fit() -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    desk.ask("1", "a")
    assert desk.tell(m.ModelAdded(model=model("a", 20))) == []
    assert desk.ask("2", "a") == []
    assert desk.done("1") == ["stop a"]
    assert desk.gone("a") == ["start a"]
    assert desk.granted_gib() == 20.0


@pytest.mark.parametrize("words", [model("a", 16), model("a", 16, slots=3)])
def test_a_removed_model_may_come_back_before_its_worker_has_ended(words: Model) -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    desk.ask("1", "a")
    desk.tell(m.ModelRemoved(name="a"))
    desk.tell(m.ModelAdded(model=words))
    assert desk.done("1") == []
    assert desk.ask("2", "a") == ["admit 2"]


def test_devices_are_shown() -> None:
    desk = Desk([model("a")], [card(24, headroom=2)])
    desk.bring_up("a")
    (device,) = desk.decider.view(0.0).devices
    assert device.granted_bytes == 16 * GIB
    assert device.free_bytes == 6 * GIB
    assert device.measured_bytes is None
    assert device.device.id == GPU
