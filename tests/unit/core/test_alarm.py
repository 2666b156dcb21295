"""An alarm rings once its deadline has come, however often it was moved."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from turnout.core.alarm import Alarm


class Clockwork:
    """The two methods of a loop that an alarm needs, on a clock that is moved by hand."""

    class Timer:
        def __init__(self, when: float, fire: object) -> None:
            self.when, self.fire, self.is_cancelled = when, fire, False

        def cancel(self) -> None:
            self.is_cancelled = True

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Clockwork.Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, fire: object) -> Timer:
        timer = self.Timer(when, fire)
        self.timers.append(timer)
        return timer

    def go_to(self, now: float) -> None:
        self.now = now
        for timer in [t for t in self.timers if t.when <= now]:
            self.timers.remove(timer)
            if not timer.is_cancelled:
                timer.fire()  # type: ignore[operator]


@pytest.fixture
def clockwork() -> Clockwork:
    return Clockwork()


def an_alarm(clockwork: Clockwork) -> tuple[Alarm, list[float]]:
    rung: list[float] = []
    return Alarm(clockwork, lambda: rung.append(clockwork.now)), rung  # type: ignore[arg-type]


def test_it_rings_once_at_its_time(clockwork: Clockwork) -> None:
    alarm, rung = an_alarm(clockwork)
    assert alarm.set_in(5) == 5
    clockwork.go_to(4.9)
    assert not rung
    clockwork.go_to(5)
    clockwork.go_to(50)
    assert rung == [5]


def test_a_later_time_arms_no_second_timer(clockwork: Clockwork) -> None:
    alarm, rung = an_alarm(clockwork)
    for seconds in range(1, 100):
        alarm.set_at(seconds)
    assert len(clockwork.timers) == 1
    clockwork.go_to(1)
    assert not rung
    clockwork.go_to(99)
    assert rung == [99]


def test_an_earlier_time_counts(clockwork: Clockwork) -> None:
    alarm, rung = an_alarm(clockwork)
    alarm.set_in(100)
    alarm.set_in(1)
    clockwork.go_to(1)
    clockwork.go_to(200)
    assert rung == [1]


def test_what_was_put_off_does_not_ring_until_it_is_set_again(clockwork: Clockwork) -> None:
    alarm, rung = an_alarm(clockwork)
    alarm.set_in(1)
    alarm.off()
    clockwork.go_to(10)
    assert not rung
    alarm.set_in(1)
    clockwork.go_to(11)
    assert rung == [11]


def test_closing_leaves_no_timer_and_no_owner(clockwork: Clockwork) -> None:
    class Owner:
        def __init__(self) -> None:
            self.alarm = Alarm(clockwork, self.ring)  # type: ignore[arg-type]

        def ring(self) -> None:
            raise AssertionError

    owner = Owner()
    owner.alarm.set_in(1)
    owner.alarm.close()
    assert all(timer.is_cancelled for timer in clockwork.timers)
    clockwork.timers.clear()
    gone = weakref.ref(owner)
    gc.disable()
    try:
        del owner
        assert gone() is None
    finally:
        gc.enable()


async def test_on_a_real_loop() -> None:
    rung = asyncio.Event()
    Alarm(asyncio.get_running_loop(), rung.set).set_in(0.001)
    async with asyncio.timeout(5):
        await rung.wait()
