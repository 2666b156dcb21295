"""Circuit breakers: one probe at a time, never stuck, and calls from before the opening cannot confuse them."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from turnout.dispatch.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breakers, Entry

T = "local/a"


def fail(breakers: Breakers, now: float = 0.0, *, at_once: bool = False, probe: int = 0) -> float:
    return breakers.failed(T, "it fell", now, at_once=at_once, probe=probe)


def test_three_failures_in_a_row_open_it_and_a_costly_one_at_once() -> None:
    breakers = Breakers()
    assert [fail(breakers) for _ in range(FAILURES_TO_OPEN)] == [0.0, 0.0, FIRST_PAUSE_SECONDS]
    assert "held back for 5.0 s after 3 failures: it fell" in breakers.enter(T, 0.0).blocked
    assert fail(Breakers(), at_once=True) == FIRST_PAUSE_SECONDS


def test_a_success_starts_the_count_again() -> None:
    breakers = Breakers()
    fail(breakers)
    fail(breakers)
    assert breakers.succeeded(T) is False
    assert [fail(breakers), fail(breakers)] == [0.0, 0.0]
    assert breakers.enter(T, 0.0) == Entry()


def test_after_the_pause_one_call_finds_out_and_a_success_closes() -> None:
    breakers = Breakers()
    fail(breakers, at_once=True)
    assert breakers.enter(T, 4.9).blocked
    assert breakers.enter(T, 5.0).probe
    assert "one call is finding out" in breakers.enter(T, 6.0).blocked
    assert breakers.succeeded(T) is True
    assert breakers.enter(T, 6.0) == Entry()
    assert breakers.succeeded(T) is False


def test_each_failed_probe_doubles_the_pause_up_to_a_minute() -> None:
    breakers, now, pauses = Breakers(), 0.0, []
    pauses.append(fail(breakers, at_once=True))
    for _ in range(6):
        now += pauses[-1]
        probe = breakers.enter(T, now).probe
        assert probe
        pauses.append(fail(breakers, now, probe=probe))
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    assert max(pauses) == LONGEST_PAUSE_SECONDS


def test_a_probe_whose_caller_left_makes_room_for_the_next() -> None:
    breakers = Breakers()
    fail(breakers, at_once=True)
    probe = breakers.enter(T, 5.0).probe
    assert probe
    breakers.gave_up(T, probe=probe)
    assert breakers.enter(T, 5.0).probe


def test_calls_from_before_the_opening_do_not_speak_for_the_probe() -> None:
    breakers = Breakers()
    fail(breakers, at_once=True)
    assert breakers.enter(T, 5.0).probe
    assert fail(breakers, 5.0, at_once=True) == 0.0
    breakers.gave_up(T, probe=0)
    assert breakers.enter(T, 5.0).blocked


def test_a_probe_of_an_earlier_opening_does_not_speak_for_a_later_one() -> None:
    breakers = Breakers()
    fail(breakers, at_once=True)
    old = breakers.enter(T, 5.0).probe
    breakers.succeeded(T)
    fail(breakers, 5.0, at_once=True)
    new = breakers.enter(T, 10.0).probe
    assert new not in (0, old)
    assert fail(breakers, 10.0, probe=old) == 0.0
    breakers.gave_up(T, probe=old)
    assert breakers.enter(T, 10.0).blocked


@pytest.mark.parametrize(("now", "wait"), [(0.0, 5.0), (4.0, 1.0), (9.0, 0.0)])
def test_wait_seconds_is_that_of_the_first_to_come_back(now: float, wait: float) -> None:
    breakers = Breakers()
    breakers.failed("local/b", "x", 2.0, at_once=True, probe=0)
    fail(breakers, at_once=True)
    assert breakers.wait_seconds([T, "local/b", "local/c"], now) == wait
    assert breakers.wait_seconds(["local/c"], now) is None


class OneTarget(RuleBasedStateMachine):
    """Many callers, one target, any order of ends."""

    calls: Bundle[int] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.breakers = Breakers()
        self.now = 0.0
        self.probe = 0
        self.has_failed = False

    @rule(target=calls)
    def enter(self) -> int:
        entry = self.breakers.enter(T, self.now)
        if entry.blocked:
            assert self.has_failed, "a target without a failure is never held back"
            return 0  # a blocked caller has nothing to report; this stands for a call from before the opening
        if entry.probe:
            assert not self.probe, "one probe is out already"
            self.probe = entry.probe
        return entry.probe

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(probe=consumes(calls), at_once=st.booleans())
    def fail(self, probe: int, at_once: bool) -> None:
        pause = self.breakers.failed(T, "x", self.now, at_once=at_once, probe=probe)
        assert 0.0 <= pause <= LONGEST_PAUSE_SECONDS
        if probe and probe == self.probe:
            assert pause, "a failed probe opens it again"
            self.probe = 0
        self.has_failed = True

    @rule(probe=consumes(calls))
    def give_up(self, probe: int) -> None:
        self.breakers.gave_up(T, probe=probe)
        if probe == self.probe:
            self.probe = 0

    @rule(probe=consumes(calls))
    def succeed(self, probe: int) -> None:
        self.breakers.succeeded(T)
        assert self.breakers.enter(T, self.now) == Entry(), "a good answer closes it"
        self.probe, self.has_failed = 0, False

    @invariant()
    def lets_through_again_in_the_end_but_one_at_a_time(self) -> None:
        entry = self.breakers.enter(T, self.now + LONGEST_PAUSE_SECONDS)
        assert bool(entry.blocked) is bool(self.probe)
        if entry.probe:
            assert self.breakers.enter(T, self.now + LONGEST_PAUSE_SECONDS).blocked
            self.breakers.gave_up(T, probe=entry.probe)


OneTarget.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestOneTarget = OneTarget.TestCase
