"""A line: levels that age, lanes that take turns, and turns for the overdue."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from turnout.scheduler.messages import RequestArrived
from turnout.scheduler.queue import NEVER, OVERDUE, Line, Waiter


def waiter(line: Line, id_: str, priority: int = 1, *, caller: str = "", now: float = 0.0) -> Waiter:
    fact = RequestArrived(ticket=id_, model="m")
    made = Waiter(id_, fact, caller=caller, priority=priority, since=now, until=None, line=line)
    line.add(made, now)
    return made


def served(line: Line, count: int, now: float = 0.0) -> list[str]:
    order = []
    for _ in range(count):
        line.age(now)
        head = line.head()
        assert head is not None
        line.take(head, now)
        order.append(head.id)
    return order


def test_the_most_urgent_goes_first_and_then_the_oldest() -> None:
    line = Line(10)
    waiter(line, "b", 2)
    waiter(line, "n1", 1)
    waiter(line, "n2", 1)
    waiter(line, "i", 0)
    assert len(line) == 4
    assert served(line, 4) == ["i", "n1", "n2", "b"]
    assert line.head() is None
    assert line.level() is None


def test_lanes_take_turns() -> None:
    line = Line(10)
    for number in range(3):
        waiter(line, f"a{number}", caller="a")
    waiter(line, "b0", caller="b")
    waiter(line, "c0", caller="c")
    assert served(line, 5) == ["a0", "b0", "c0", "a1", "a2"]


def test_each_step_of_age_moves_up_one_level() -> None:
    line = Line(10)
    old = waiter(line, "old", 2)
    levels = []
    for now in (9.9, 10.0, 19.9, 20.0, 30.0, 99.0):
        line.age(now)
        levels.append(old.level)
    assert levels == [2, 1, 1, 0, OVERDUE, OVERDUE]
    assert old.level_since == 30.0


def test_a_long_silence_ages_several_steps_at_once() -> None:
    line = Line(10)
    first, second = waiter(line, "1", 2), waiter(line, "2", 0, now=25.0)
    line.age(1000.0)
    assert (first.level, second.level) == (OVERDUE, OVERDUE)
    assert (first.level_since, second.level_since) == (30.0, 35.0)
    assert served(line, 2, 1000.0) == ["1", "2"]


def test_the_overdue_and_the_others_take_turns() -> None:
    line = Line(10)
    for number in range(3):
        waiter(line, f"old{number}", 0)
    line.age(10.0)
    for number in range(3):
        waiter(line, f"new{number}", 0, caller="else", now=10.0)
    assert served(line, 6, 10.0) == ["old0", "new0", "old1", "new1", "old2", "new2"]


def test_a_gate_lets_only_the_urgent_through() -> None:
    line = Line(10)
    waiter(line, "low", 2)
    assert line.head(1) is None
    waiter(line, "high", 0)
    head = line.head(1)
    assert head is not None
    assert head.id == "high"
    line.age(100.0)
    assert line.head(OVERDUE) is not None
    assert line.head(OVERDUE - 1) is None


def test_the_standing_says_when_it_gets_better() -> None:
    line = Line(10)
    waiter(line, "1", 2)
    assert line.standing() == (2, 0.0, 10.0)
    waiter(line, "2", 1, now=3.0)
    assert line.standing() == (1, 3.0, 13.0)
    line.age(30.0)
    assert line.standing() == (OVERDUE, 23.0, NEVER)  # the second one came to be overdue first


def test_a_served_lane_waits_anew() -> None:
    line = Line(10)
    waiter(line, "1", caller="a")
    waiter(line, "2", caller="a")
    head = line.head()
    assert head is not None
    line.take(head, 7.0)
    assert line.urgency() == (1, 7.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.floats(0, 5)), max_size=40), st.integers(0, 99))
def test_nobody_is_lost_whoever_comes_goes_and_ages(arrivals: list[tuple[str, int, float]], seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311  repeatable
    line, now, inside = Line(4), 0.0, {}
    for number, (caller, priority, gap) in enumerate(arrivals):
        now += gap
        made = waiter(line, str(number), priority, caller=caller, now=now)
        inside[made.id] = made
        line.age(now)
        if inside and dice.random() < 0.4:
            gone = dice.choice(list(inside.values()))
            del inside[gone.id]
            if gone is line.head():
                line.take(gone, now)
            else:
                line.remove(gone)
        assert sorted(waiter.id for waiter in line) == sorted(inside)
        assert sorted(waiter.id for waiter in line.in_order()) == sorted(inside)
        assert len(line) == len(inside)
        for one in inside.values():
            assert one.level == max(OVERDUE, one.priority - int((now - one.since) / 4 + 1e-9))
        for place, one in enumerate(line.in_order()):
            assert line.ahead_of(one) == place
