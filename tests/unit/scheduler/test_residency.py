"""How long a model stays in memory: keep-alives, unloading, pins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from simulation.scheduler_desk import LIGHT, Desk, card, memory, model
from turnout.core.memory import Model
from turnout.scheduler import messages as m
from turnout.scheduler.pins import Pins


def ask(desk: Desk, ticket: str, name: str, keep: float | None = None, at: float | None = None) -> list[str]:
    return desk.tell(m.RequestArrived(ticket=ticket, model=name, keep_seconds=keep), at)


def unload(desk: Desk, name: str) -> list[str]:
    return desk.tell(m.UnloadAsked(model=name))


def view_of(desk: Desk, name: str) -> m.WorkerView:
    return next(worker for worker in desk.decider.view(desk.now).workers if worker.model == name)


# Keep-alives


def test_a_request_says_how_long_its_model_is_kept() -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    ask(desk, "1", "a", 5.0, at=10.0)
    desk.done("1", at=12.0)
    assert view_of(desk, "a").put_away_in_seconds == 5.0
    assert desk.tick(16.9) == []
    assert desk.tick(17.0) == ["stop a"]


def test_nothing_is_kept_after_an_answer_that_wants_it_so_not_even_asleep() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,), idle_seconds=60.0)], [card(), memory()])
    desk.bring_up("a")
    ask(desk, "1", "a", 0.0, at=10.0)
    assert desk.done("1", at=12.0) == ["stop a"]


def test_below_0_it_stays_although_its_settings_would_put_it_away() -> None:
    desk = Desk([model("a", idle_seconds=5.0)])
    desk.bring_up("a")
    ask(desk, "1", "a", -1.0, at=1.0)
    desk.done("1", at=2.0)
    assert desk.tick(1000.0) == []
    assert view_of(desk, "a").idle_seconds is None


def test_what_is_kept_makes_way_all_the_same() -> None:
    desk = Desk([model("a"), model("b")])
    desk.bring_up("a")
    ask(desk, "1", "a", -1.0, at=1.0)
    desk.done("1", at=2.0)
    assert desk.ask("2", "b", at=100.0) == ["stop a"]


def test_it_holds_until_the_next_request_says_otherwise() -> None:
    desk = Desk([model("a", idle_seconds=5.0)])
    desk.bring_up("a")
    ask(desk, "1", "a", 100.0, at=1.0)
    desk.done("1", at=2.0)
    ask(desk, "2", "a", at=3.0)  # says nothing
    desk.done("2", at=4.0)
    assert desk.tick(50.0) == []
    ask(desk, "3", "a", 1.0, at=51.0)
    desk.done("3", at=52.0)
    assert desk.tick(53.0) == ["stop a"], "a shorter time is not looked at when the longer one is over"


def test_one_that_waited_is_heard_when_it_is_admitted() -> None:
    desk = Desk([model("a")])
    ask(desk, "1", "a", 7.0)
    desk.ready("a", at=1.0)
    desk.done("1", at=2.0)
    assert desk.tick(9.0) == ["stop a"]


def test_the_next_worker_knows_nothing_of_it() -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    ask(desk, "1", "a", 5.0, at=1.0)
    desk.done("1", at=2.0)
    desk.tick(7.0)
    desk.gone("a", at=8.0)
    desk.ask("2", "a", at=9.0)
    desk.ready("a", at=10.0)
    desk.done("2", at=11.0)
    assert desk.tick(1000.0) == []


# Unloading


def test_what_nobody_uses_is_unloaded_at_once() -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    assert unload(desk, "a") == ["stop a"]
    assert desk.gone("a") == []
    assert desk.granted_gib() == 0.0


def test_running_answers_end_first_and_who_comes_is_served_by_the_next_worker() -> None:
    desk = Desk([model("a", slots=2)])
    desk.bring_up("a")
    desk.ask("1", "a")
    assert unload(desk, "a") == []
    assert view_of(desk, "a").is_unloading
    assert desk.ask("2", "a") == []
    assert desk.done("1") == ["stop a"]
    assert desk.gone("a") == ["start a"]
    assert desk.ready("a") == ["admit 2"]
    assert not view_of(desk, "a").is_unloading


@pytest.mark.parametrize("phase", ["asleep", "loading"])
def test_a_sleeper_ends_and_a_start_that_is_under_way_too(phase: str) -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,), idle_seconds=5.0)], [card(), memory()])
    if phase == "asleep":
        desk.bring_up("a")
        desk.tick(5.0)
        desk.asleep("a")
        assert unload(desk, "a") == ["stop a"]
    else:
        desk.ask("1", "a")
        assert unload(desk, "a") == []
        assert desk.ready("a") == ["stop a"]
        assert desk.gone("a") == ["start a"]


@pytest.mark.parametrize("name", ["a", "nobody"])
def test_where_there_is_no_worker_nothing_happens(name: str) -> None:
    desk = Desk([model("a")])
    assert unload(desk, name) == []
    assert desk.ask("1", "a") == ["start a"]


def test_a_pinned_model_can_be_unloaded_too() -> None:
    desk = Desk([model("a", 16, "pinned")])
    desk.bring_up("a")
    assert unload(desk, "a") == ["stop a"]


def test_new_words_do_not_make_it_forgotten() -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    desk.ask("1", "a")
    unload(desk, "a")
    desk.tell(m.ModelAdded(model=model("a", idle_seconds=7.0)))
    assert desk.done("1") == ["stop a"]
    desk.gone("a")
    assert view_of(desk, "a").idle_seconds == 7.0


# Pins


def test_a_pin_counts_for_the_worker_that_is_there() -> None:
    desk = Desk([model("a", idle_seconds=5.0), model("b")])
    desk.bring_up("a")
    desk.tell(m.ModelAdded(model=model("a", 16, "pinned", idle_seconds=5.0)))
    assert desk.tick(100.0) == [], "a look that was due before the pin came puts nothing away"
    assert desk.ask("1", "b") == ["refuse 1 too_large"]
    assert "16.0 GiB are pinned" in desk.refusal().message


def test_without_its_pin_it_makes_way_and_is_idle_again() -> None:
    desk = Desk([model("a", 16, "pinned", idle_seconds=5.0), model("b")])
    desk.bring_up("a")
    desk.tell(m.ModelAdded(model=model("a", idle_seconds=5.0)), at=1.0)
    assert desk.tick(5.0) == ["stop a"]
    desk.gone("a")
    assert desk.ask("1", "b") == ["start b"]


def test_pins_are_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state" / "pins.json"
    pins = Pins(path)
    pins.set("local/a", is_pinned=True)
    pins.set("local/b", is_pinned=True)
    pins.set("local/a", is_pinned=False)
    again = Pins(path)
    assert ("local/a" in again, "local/b" in again) == (False, True)

    def applied(name: str, **words: Any) -> Model:
        return again.applied(model(name, **words))

    assert applied("local/a") == model("local/a")
    assert applied("local/b") == model("local/b", 16, "pinned")


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b"\xff", b"[1]"])
def test_an_unreadable_file_counts_as_no_pins(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pins.json"
    path.write_bytes(content)
    pins = Pins(path)
    assert "local/a" not in pins
    pins.set("local/a", is_pinned=True)
    assert "local/a" in Pins(path)


def test_a_sleeper_that_was_pinned_and_wakes_leaves_nobody_waiting_for_what_it_takes() -> None:
    sleeper = model("chat", 12, sleep_levels=(LIGHT,), idle_seconds=5.0)
    desk = Desk([sleeper, model("image", 16, lease_class="job")], [card(), memory()])
    desk.bring_up("chat")
    assert desk.tick(5.0) == ["sleep chat 1"]
    desk.asleep("chat")
    desk.tell(m.ModelAdded(model=msgspec.structs.replace(sleeper, lease_class="pinned")))
    desk.ask("1", "image", at=6.0)
    desk.gone("image", reason="it crashed", retry_in=60.0)
    assert "wake chat" in desk.ask("2", "chat", at=7.0)
    assert view_of(desk, "image").waiting == 0, "16 of 24 GiB are never to be had beside 12 that are pinned"
