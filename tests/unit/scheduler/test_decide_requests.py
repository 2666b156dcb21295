"""Requests for models: who is admitted when, who waits behind whom, and who is refused."""

from __future__ import annotations

import pytest

from simulation.scheduler_desk import GPU, GPU1, Desk, card, elastic, model
from turnout.core.memory import GIB
from turnout.scheduler import messages as m


def test_a_request_for_a_cold_model_starts_it_and_is_admitted_when_it_is_ready() -> None:
    desk = Desk([model("chat")])
    assert desk.ask("1", "chat") == ["start chat"]
    assert desk.ask("2", "chat") == []
    assert desk.ready("chat", 10.0) == ["admit 1"]
    assert desk.done("1", 12.0) == ["admit 2"]


def test_a_request_for_a_ready_model_with_a_free_slot_is_admitted_at_once() -> None:
    desk = Desk([model("chat", slots=2)])
    desk.bring_up("chat")
    assert [desk.ask(str(number), "chat") for number in range(3)] == [["admit 0"], ["admit 1"], []]
    assert desk.done("0") == ["admit 2"]


def test_a_model_without_slots_has_no_limit() -> None:
    desk = Desk([model("chat", slots=None)])
    desk.bring_up("chat")
    assert all(desk.ask(str(number), "chat") == [f"admit {number}"] for number in range(50))


def test_more_urgent_requests_go_first() -> None:
    desk = Desk([model("chat")])
    desk.bring_up("chat")
    desk.ask("running", "chat")
    desk.ask("background", "chat", "background")
    desk.ask("normal", "chat", "normal")
    desk.ask("interactive", "chat", "interactive")
    assert desk.done("running") == ["admit interactive"]
    assert desk.done("interactive") == ["admit normal"]
    assert desk.done("normal") == ["admit background"]


def test_a_request_moves_up_one_priority_each_time_it_has_waited_long_enough() -> None:
    desk = Desk([model("chat")], aging_seconds=10)
    desk.bring_up("chat")
    desk.ask("running", "chat")
    desk.ask("old", "chat", "background", at=0.0)
    desk.ask("young", "chat", "normal", at=15.0)
    assert desk.done("running", at=19.0) == ["admit old"]  # both are normal now, and it came first


def test_callers_take_turns_within_a_priority() -> None:
    desk = Desk([model("chat")])
    desk.bring_up("chat")
    desk.ask("running", "chat")
    for number in range(5):
        desk.ask(f"script{number}", "chat", caller="script")
    desk.ask("person", "chat", caller="person")
    assert desk.done("running") == ["admit script0"]
    assert desk.done("script0") == ["admit person"]
    assert desk.done("person") == ["admit script1"]


def test_a_callers_urgent_request_does_not_stand_behind_its_own_aged_ones() -> None:
    desk = Desk([model("chat")], aging_seconds=10)
    desk.bring_up("chat")
    desk.ask("running", "chat")
    for number in range(5):
        desk.ask(f"batch{number}", "chat", "background", caller="me")
    desk.ask("urgent", "chat", "interactive", caller="me", at=25.0)  # the batch stands on the same level by now
    desk.done("running", at=25.5)
    assert "admit urgent" in [*desk.done("batch0", at=26.0), *desk.done("urgent", at=26.0)]


def test_a_model_takes_so_many_waiting_requests_and_no_more() -> None:
    desk = Desk([model("chat", queue_limit=2)])
    desk.bring_up("chat")
    desk.ask("running", "chat")
    desk.ask("1", "chat")
    desk.ask("2", "chat")
    assert desk.ask("3", "chat") == ["refuse 3 queue_full"]
    refusal = desk.refusal()
    assert "2 requests wait for chat" in refusal.message
    assert refusal.retry_after_seconds is not None
    assert refusal.retry_after_seconds >= 1.0


def test_the_queue_says_when_another_try_makes_sense() -> None:
    desk = Desk([model("chat", queue_limit=1)])
    desk.bring_up("chat")
    desk.ask("running", "chat", expected_seconds=40.0)
    desk.ask("1", "chat")
    desk.ask("2", "chat", at=10.0)
    assert desk.refusal().retry_after_seconds == 30.0


def test_a_request_is_refused_when_its_deadline_comes() -> None:
    desk = Desk([model("chat")])
    desk.ask("1", "chat", deadline=5.0)
    assert desk.decider.next_at() == 5.0
    assert desk.tick(5.0) == ["refuse 1 deadline"]
    assert "waited 5.0 s for chat, which is loading" in desk.refusal().message
    assert desk.ready("chat", 10.0) == []


def test_a_request_whose_deadline_has_passed_is_refused_on_arrival() -> None:
    desk = Desk([model("chat")])
    desk.bring_up("chat")
    assert desk.ask("1", "chat", deadline=1.0, at=1.0) == ["refuse 1 deadline"]


def test_a_late_tick_refuses_before_it_admits() -> None:
    desk = Desk([model("chat")])
    desk.ask("1", "chat", deadline=5.0)
    assert desk.ready("chat", 7.0) == ["refuse 1 deadline"]


def test_a_caller_may_leave_while_waiting_and_while_running() -> None:
    desk = Desk([model("chat")])
    desk.bring_up("chat")
    desk.ask("1", "chat")
    desk.ask("2", "chat")
    desk.ask("3", "chat")
    assert desk.tell(m.RequestLeft(ticket="2")) == []
    assert desk.tell(m.RequestLeft(ticket="1")) == ["admit 3"]


def test_a_doubled_request_waits_and_runs_once() -> None:
    desk = Desk([model("chat", slots=2)])
    desk.ask("1", "chat")
    assert desk.ask("1", "chat") == []
    assert desk.ready("chat") == ["admit 1"]
    assert desk.ask("1", "chat") == []
    desk.done("1")
    assert desk.done("1") == []


def test_a_model_that_can_never_fit_is_refused_with_the_figures() -> None:
    desk = Desk([model("huge", 23)], [card(24, headroom=2)])
    assert desk.ask("1", "huge") == ["refuse 1 too_large"]
    assert "23.0 GiB of host/gpu0, of which 22.0 GiB can be granted" in desk.refusal().message


def test_what_is_pinned_counts_against_those_who_can_never_fit() -> None:
    desk = Desk([model("embed", 4, "pinned"), model("large", 22)])
    assert desk.ask("1", "large") == ["start large"]
    desk.ready("large")
    desk.done("1")
    desk.ask("2", "embed")
    desk.gone("large")
    assert desk.ask("3", "large") == ["refuse 3 too_large"]
    assert "4.0 GiB are pinned" in desk.refusal().message


def test_those_who_wait_are_refused_when_a_pinned_model_takes_the_room_for_good() -> None:
    desk = Desk([model("embed", 4, "pinned"), model("large", 22), model("other", 20)])
    desk.bring_up("other")
    desk.ask("busy", "other")
    desk.ask("1", "large")
    assert "start embed" in desk.ask("2", "embed")
    assert [short for short in desk_effects(desk) if "refuse" in short] == ["refuse 1 too_large"]


def desk_effects(desk: Desk) -> list[str]:
    return [f"refuse {effect.ticket} {effect.reason}" for effect in desk.last if isinstance(effect, m.RefuseRequest)]


def test_a_device_that_is_not_there_is_named() -> None:
    desk = Desk([model("far", devices={GPU1: GIB})])
    assert desk.ask("1", "far") == ["refuse 1 too_large"]
    assert "no device 'host/gpu1'" in desk.refusal().message


def test_a_quality_that_no_size_has_is_refused() -> None:
    desk = Desk([elastic()])
    assert desk.ask("1", "elastic", least_quality=4) == ["refuse 1 too_large"]
    assert "its best is 3" in desk.refusal().message


def test_an_unknown_model_is_refused() -> None:
    assert Desk().ask("1", "nobody") == ["refuse 1 removed"]


def test_a_stopping_daemon_refuses_everybody_and_grants_nothing() -> None:
    desk = Desk([model("chat"), model("other")])
    desk.ask("1", "chat")
    desk.ask("2", "other")
    desk.lease("lease", 20)
    effects = desk.tell(m.Stopping())
    assert sorted(effects) == ["refuse 1 stopping", "refuse 2 stopping", "refuse lease"]
    assert desk.ready("chat") == []
    assert desk.ask("3", "chat") == ["refuse 3 stopping"]
    assert desk.lease("late", 1) == ["refuse late"]


def test_positions_and_expected_waits_are_told() -> None:
    desk = Desk([model("chat", load_seconds=8.0)])
    desk.ask("1", "chat")
    desk.ask("2", "chat", at=3.0)
    first, second = desk.decider.position("1", 3.0), desk.decider.position("2", 3.0)
    assert first is not None
    assert second is not None
    assert (first.position, first.waited_seconds, first.expected_wait_seconds) == (1, 3.0, 5.0)
    assert second.position == 2
    assert second.expected_wait_seconds == 6.0  # and one request of a second, nothing else being known
    assert desk.decider.position("nobody", 3.0) is None


def test_what_is_running_tells_how_long_the_next_waits() -> None:
    desk = Desk([model("chat")])
    desk.bring_up("chat")
    desk.ask("running", "chat", expected_seconds=30.0)
    desk.ask("1", "chat", at=10.0)
    waiting = desk.decider.position("1", 10.0)
    assert waiting is not None
    assert waiting.expected_wait_seconds == 20.0


def test_a_request_for_a_model_that_needs_room_is_told_when_there_will_be() -> None:
    desk = Desk([model("chat"), model("other", load_seconds=7.0)])
    desk.bring_up("chat")
    desk.ask("running", "chat", expected_seconds=30.0)
    desk.ask("1", "other", at=10.0)
    waiting = desk.decider.position("1", 10.0)
    assert waiting is not None
    assert waiting.expected_wait_seconds == pytest.approx(20.0 + 1.0 + 7.0)  # its rest, a stop, a load


def test_the_view_shows_who_runs_and_who_waits() -> None:
    desk = Desk([model("chat")])
    desk.bring_up("chat")
    desk.ask("1", "chat")
    desk.ask("2", "chat", "interactive")
    view = desk.decider.view(0.0)
    (worker,) = view.workers
    assert (worker.phase, worker.running, worker.waiting, worker.devices) == ("ready", 1, 1, {GPU: 16 * GIB})
    (waiting,) = view.waiting
    assert (waiting.id, waiting.model, waiting.priority, waiting.position) == ("2", "chat", "interactive", 1)
