"""What fails, is lost, comes twice or too late."""

from __future__ import annotations

import subprocess
import sys

import pytest

from simulation.scheduler_desk import LIGHT, Desk, card, memory, model
from turnout.scheduler import messages as m


def test_a_start_that_failed_is_tried_again_when_that_makes_sense() -> None:
    desk = Desk([model("a")])
    desk.ask("1", "a")
    assert desk.gone("a", at=1.0, reason="out of memory", retry_in=4.0) == []
    assert desk.granted_gib() == 0.0
    assert desk.decider.next_at() == 5.0
    assert desk.tick(5.0) == ["start a"]


def test_a_failure_that_only_a_person_can_mend_refuses_everybody_with_the_reason() -> None:
    desk = Desk([model("a")], failed_seconds=60)
    desk.ask("1", "a")
    assert desk.gone("a", at=1.0, reason="no such file", retry_in=None) == ["refuse 1 failed"]
    assert "no such file" in desk.refusal().message
    assert desk.phase("a") == "failed"
    assert desk.ask("2", "a", at=31.0) == ["refuse 2 failed"]
    assert desk.refusal().retry_after_seconds == 30.0


def test_after_a_while_a_failed_model_is_tried_again() -> None:
    desk = Desk([model("a")], failed_seconds=60)
    desk.ask("1", "a")
    desk.gone("a", at=1.0, reason="no such file", retry_in=None)
    assert desk.ask("2", "a", at=61.0) == ["start a"]
    assert desk.ready("a", at=62.0) == ["admit 2"]


def test_a_failed_model_takes_no_room_from_others() -> None:
    desk = Desk([model("a"), model("b")])
    desk.ask("1", "a")
    desk.ask("2", "b", "background")
    assert desk.gone("a", retry_in=5.0) == ["start b"]


def test_a_worker_that_dies_takes_its_requests_with_it_and_is_started_for_those_who_wait() -> None:
    desk = Desk([model("a")])
    desk.bring_up("a")
    desk.ask("1", "a")
    desk.ask("2", "a")
    assert desk.gone("a", reason="killed") == ["start a"]
    assert desk.done("1") == []  # its caller was told otherwise
    assert desk.ready("a") == ["admit 2"]


def test_a_sleeper_that_dies_frees_what_it_kept() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,), idle_seconds=1.0)], [card(), memory()])
    desk.bring_up("a")
    desk.tick(1.0)
    desk.asleep("a", at=2.0)
    desk.gone("a", reason="killed", at=3.0)
    assert (desk.granted_gib(), desk.granted_gib("host/ram")) == (0.0, 0.0)


def test_a_stop_without_an_end_is_ordered_again_and_its_memory_stays_counted() -> None:
    desk = Desk([model("a"), model("b")], order_seconds=60)
    desk.bring_up("a")
    assert desk.ask("1", "b") == ["stop a"]
    number = desk.orders["a"]
    assert desk.tick(60.0) == ["stop a"]
    assert desk.orders["a"] == number
    assert desk.granted_gib() == 16.0
    assert desk.tick(120.0) == ["stop a"]
    assert desk.gone("a", at=121.0) == ["start b"]


def test_a_start_without_an_end_is_ordered_again() -> None:
    desk = Desk([model("a")], start_seconds=100)
    desk.ask("1", "a")
    assert desk.tick(99.0) == []
    assert desk.tick(100.0) == ["start a"]
    assert desk.granted_gib() == 16.0


def test_a_slow_model_is_given_four_times_its_usual_load() -> None:
    desk = Desk([model("a", load_seconds=50.0)], start_seconds=100)
    desk.ask("1", "a")
    assert desk.tick(199.0) == []
    assert desk.tick(200.0) == ["start a"]


@pytest.mark.parametrize(
    "fact",
    [
        m.WorkerReady(model="cold"),
        m.WorkerAsleep(model="cold", level=1),
        m.WorkerGone(model="cold", retry_in=None),
        m.OrderFailed(model="cold", reason="?"),
        m.WorkerReady(model="nobody"),
        m.RequestFinished(ticket="nobody"),
        m.RequestLeft(ticket="nobody"),
        m.ModelRemoved(name="nobody"),
        m.Ticked(),
    ],
    ids=repr,
)
def test_facts_that_cannot_be_are_ignored(fact: m.Fact) -> None:
    desk = Desk([model("cold"), model("b", 8)])
    desk.bring_up("b")
    before = desk.decider.view(0.0)
    assert desk.tell(fact) == []
    assert desk.decider.view(0.0) == before
    assert desk.ask("1", "cold") == ["start cold"]


@pytest.mark.parametrize(
    "fact",
    [m.WorkerAsleep(model="a", level=1), m.OrderFailed(model="a", reason="?"), m.WorkerReady(model="a")],
    ids=repr,
)
def test_facts_that_do_not_belong_to_a_ready_worker_are_ignored(fact: m.Fact) -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,))], [card(), memory()])
    desk.bring_up("a")
    assert desk.tell(fact) == []
    assert desk.phase("a") == "ready"
    assert desk.granted_gib() == 16.0


def test_a_late_fact_about_an_earlier_order_is_told_by_its_number() -> None:
    desk = Desk([model("a"), model("b")])
    desk.bring_up("a")
    first = desk.orders["a"]
    desk.ask("b1", "b")
    desk.ask("a1", "a")
    end = m.WorkerGone(model="a", order=desk.orders["a"])
    desk.tell(end)
    desk.ready("b")
    desk.done("b1")
    desk.gone("b")
    assert desk.phase("a") == "loading"
    assert desk.tell(end) == []  # doubled: it is about the worker before
    assert desk.tell(m.WorkerReady(model="a", order=first)) == []
    assert desk.phase("a") == "loading"
    assert desk.ready("a") == ["admit a1"]


def test_a_worker_that_died_before_the_last_order_reached_it_is_gone_all_the_same() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,), idle_seconds=1.0)], [card(), memory()])
    desk.bring_up("a")
    started = m.WorkerGone(model="a", reason="killed", order=desk.orders["a"])
    assert desk.tell(started, at=1.0) == ["sleep a 1"]  # ordered in the same moment
    assert desk.granted_gib() == 0.0


def test_a_fact_without_a_number_is_believed() -> None:
    desk = Desk([model("a")])
    desk.ask("1", "a")
    assert desk.tell(m.WorkerReady(model="a")) == ["admit 1"]


def test_nothing_is_learnt_from_impossible_times() -> None:
    desk = Desk([model("a", load_seconds=7.0)])
    desk.ask("1", "a")
    desk.ready("a", seconds=-3.0)
    (worker,) = desk.decider.view(0.0).workers
    assert worker.load_seconds == 7.0


def test_a_sleep_level_that_nobody_ordered_is_believed_if_it_exists() -> None:
    desk = Desk([model("a", sleep_levels=(LIGHT,), idle_seconds=1.0)], [card(), memory()])
    desk.bring_up("a")
    desk.tick(1.0)
    desk.asleep("a", level=9, at=2.0)
    assert desk.phase("a") == "asleep"
    assert desk.granted_gib() == 1.0


def test_next_at_is_silent_when_nothing_can_come_of_time() -> None:
    desk = Desk([model("a")])
    assert desk.decider.next_at() is None
    desk.bring_up("a")
    desk.tick(10_000.0)
    assert desk.decider.next_at() is None


STORY = """
import sys
sys.path.insert(0, {tests!r})
from simulation.scheduler_chance import Chance
from simulation.scheduler_world import World
from turnout.scheduler.decide import Decider
import hashlib
told = hashlib.sha256()
class Told(Decider):
    def decide(self, fact, now):
        effects = super().decide(fact, now)
        told.update(repr(effects).encode())
        return effects
Chance(World(Told, look_every=1000), 3).steps(800)
print(told.hexdigest())
"""


def test_nothing_depends_on_the_order_of_hashes() -> None:
    tests = str(__import__("pathlib").Path(__file__).parents[2])
    told = {
        subprocess.run(
            [sys.executable, "-c", STORY.format(tests=tests)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=50,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
