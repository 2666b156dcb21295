"""When it is better to wait than to move a model that others use."""

from __future__ import annotations

import pytest

from simulation.scheduler_desk import GPU, Desk, model
from turnout.core.memory import GIB, Lease, Priority
from turnout.scheduler import messages as m


def busy_day(desk: Desk, name: str, caller: str, until: float, every: float = 10.0) -> None:
    """A caller uses a ready model every few seconds, one second each."""
    at = desk.now
    while at < until:
        desk.ask(f"{name}{at}", name, caller=caller, at=at)
        desk.done(f"{name}{at}", at=at + 1.0)
        at += every


def test_a_model_that_another_caller_uses_all_the_time_is_not_moved_at_once() -> None:
    desk = Desk([model("a", load_seconds=10.0), model("b", load_seconds=10.0)], aging_seconds=60, linger_per_load=2.0)
    desk.bring_up("a")
    busy_day(desk, "a", "you", 300.0)
    assert desk.ask("1", "b", "interactive", caller="me", at=301.0) == []
    assert desk.decider.next_at() == 321.0  # twice the seconds to get it back
    assert desk.tick(321.0) == ["stop a"]


@pytest.mark.parametrize(("priority", "seconds"), [("interactive", 5.0), ("normal", 10.0), ("background", 10.0)])
def test_who_is_in_less_of_a_hurry_lingers_longer(priority: Priority, seconds: float) -> None:
    desk = Desk([model("a", load_seconds=10.0), model("b")], aging_seconds=600, linger_per_load=0.5)
    desk.bring_up("a")
    busy_day(desk, "a", "you", 300.0)
    assert desk.ask("1", "b", priority, caller="me", at=301.0) == []
    assert desk.decider.next_at() == 301.0 + seconds


def test_a_job_lingers_longest() -> None:
    desk = Desk([model("a", load_seconds=10.0)], aging_seconds=600, linger_per_load=0.5)
    desk.bring_up("a")
    busy_day(desk, "a", "you", 300.0)
    assert desk.lease("job", 20, at=301.0, wait=1e6) == []
    assert desk.decider.next_at() == 301.0 + 80.0


def test_it_takes_less_if_more_wait() -> None:
    desk = Desk([model("a", load_seconds=10.0), model("b", load_seconds=10.0)], aging_seconds=600, linger_per_load=99.0)
    desk.bring_up("a")
    busy_day(desk, "a", "you", 300.0, every=30.0)
    waits = []
    for number in range(4):
        desk.ask(f"{number}", "b", caller="me", at=301.0)
        at = desk.decider.next_at()
        assert at is not None
        waits.append(at - 301.0)
    assert waits[0] > waits[1] > waits[3] > 0


def test_a_person_who_goes_from_one_model_to_another_does_not_wait_for_it() -> None:
    desk = Desk([model("a", load_seconds=10.0), model("b", load_seconds=10.0)])
    desk.bring_up("a")
    busy_day(desk, "a", "me", 300.0)
    assert desk.ask("1", "b", caller="me", at=301.0) == ["stop a"]


def test_a_model_that_nobody_has_used_for_long_is_moved_at_once() -> None:
    desk = Desk([model("a", load_seconds=10.0), model("b", load_seconds=10.0)])
    desk.bring_up("a")
    busy_day(desk, "a", "you", 100.0)
    assert desk.ask("1", "b", caller="me", at=8000.0) == ["stop a"]


def test_the_patience_of_the_overdue_ends() -> None:
    desk = Desk(
        [model("a", load_seconds=100.0), model("b", load_seconds=1.0)],
        aging_seconds=10,
        linger_per_load=99.0,
        patience_steps=1.0,
    )
    desk.bring_up("a")
    busy_day(desk, "a", "you", 300.0)
    assert desk.ask("1", "b", "interactive", caller="me", at=301.0) == []
    assert desk.tick(311.0) == []  # overdue
    assert desk.tick(321.0) == ["stop a"]


def test_lingering_and_patience_can_be_switched_off() -> None:
    desk = Desk([model("a"), model("b")], linger_per_load=0.0, patience_steps=0.0)
    desk.bring_up("a")
    busy_day(desk, "a", "you", 300.0)
    assert desk.ask("1", "b", caller="me", at=301.0) == ["stop a"]


def test_a_busy_model_that_is_soon_done_makes_way_rather_than_an_idle_one_in_constant_use() -> None:
    desk = Desk([model("chat", 8), model("once", 8), model("b", 12)], aging_seconds=60, patience_steps=1.0)
    desk.bring_up("chat", "once")
    busy_day(desk, "chat", "you", 300.0)
    desk.ask("running", "once", caller="other", at=301.0, expected_seconds=5.0)
    assert desk.ask("1", "b", caller="me", at=302.0) == []
    assert desk.done("running", at=306.0) == ["stop once"]


def test_a_foreign_program_that_usually_ends_soon_is_waited_for() -> None:
    desk = Desk([model("chat", 8), model("b", 8)], aging_seconds=60)
    desk.bring_up("chat")
    for number in range(3):  # such programs hold it for twenty seconds
        lease = f"l{number}"
        desk.tell(_asked(lease), at=100.0 * number)
        busy_day(desk, "chat", "you", 100.0 * number + 18.0)
        desk.tell(m.LeaseReleased(id=lease), at=100.0 * number + 20.0)
        busy_day(desk, "chat", "you", 100.0 * number + 98.0)
    desk.tell(_asked("last"), at=300.0)
    assert desk.ask("1", "b", caller="me", at=310.0) == []
    assert desk.tell(m.LeaseReleased(id="last"), at=320.0) == ["start b"]
    assert desk.phase("chat") == "ready"


def _asked(id_: str) -> m.LeaseAsked:
    lease = Lease(id=id_, devices={GPU: 12 * GIB}, lease_class="job", holder="comfyui")
    return m.LeaseAsked(lease=lease, ttl_seconds=3600.0, wait_until=1e6, caller="comfyui")


def test_voice_models_do_not_wait_for_each_other_in_their_own_room() -> None:
    desk = Desk([model("hear", 4, "voice"), model("speak", 4, "voice"), model("big", 20)])
    desk.bring_up("big", "hear")
    busy_day(desk, "hear", "you", 300.0)
    desk.ask("running", "big", at=300.0)
    assert desk.ask("1", "speak", caller="me", at=301.0) == ["stop hear"]


def test_a_busy_model_goes_on_while_another_one_that_starts_is_cheaper_to_wait_for() -> None:
    desk = Desk([model(name, 10, load_seconds=10.0, slots=8) for name in ("a", "b", "c")], aging_seconds=20)
    desk.bring_up("a")
    for number in range(100):  # everybody wants it
        desk.ask(f"a{number}", "a", at=number)
        desk.done(f"a{number}", at=number + 0.5)
    desk.ask("long", "a", at=100.0)
    assert desk.ask("b1", "b", "interactive", at=100.0) == ["start b"]
    assert desk.ask("c1", "c", "interactive", at=100.0) == []
    assert desk.ask("a100", "a", "background", at=101.0) == ["admit a100"]  # not closed for c: b will do
    desk.tick(119.9)
    assert desk.ask("a101", "a", "background", at=119.9) == ["admit a101"]
    desk.tick(120.0)
    assert desk.ask("a102", "a", "interactive", at=120.0) == ["admit a102"]  # c is overdue, and has patience once more
    assert desk.decider.next_at() == 140.0
    desk.tick(140.0)
    assert desk.ask("a103", "a", "interactive", at=140.0) == []  # and none after that
