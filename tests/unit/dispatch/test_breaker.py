"""Circuit breakers: one probe at a time, never stuck, and calls from before the opening cannot confuse them."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from turnout.dispatch.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breakers, Entry

T = "local/a"


def fail(breakers: Breakers, now: float = 0.0, *, at_once: bool = False, is_probe: bool = False) -> float:
    return breakers.failed(T, "it fell", now, at_once=at_once, is_probe=is_probe)


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
    assert breakers.enter(T, 5.0).is_probe
    assert "one call is finding out" in breakers.enter(T, 6.0).blocked
    assert breakers.succeeded(T) is True
    assert breakers.enter(T, 6.0) == Entry()
    assert breakers.succeeded(T) is False


def test_each_failed_probe_doubles_the_pause_up_to_a_minute() -> None:
    breakers, now, pauses = Breakers(), 0.0, []
    pauses.append(fail(breakers, at_once=True))
    for _ in range(6):
        now += pauses[-1]
        assert breakers.enter(T, now).is_probe
        pauses.append(fail(breakers, now, is_probe=True))
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    assert max(pauses) == LONGEST_PAUSE_SECONDS


def test_a_probe_whose_caller_left_makes_room_for_the_next() -> None:
    breakers = Breakers()
    fail(breakers, at_once=True)
    assert breakers.enter(T, 5.0).is_probe
    breakers.gave_up(T, is_probe=True)
    assert breakers.enter(T, 5.0).is_probe


def test_calls_from_before_the_opening_do_not_speak_for_the_probe() -> None:
    breakers = Breakers()
    fail(breakers, at_once=True)
    assert breakers.enter(T, 5.0).is_probe
    assert fail(breakers, 5.0, at_once=True) == 0.0
    breakers.gave_up(T, is_probe=False)
    assert breakers.enter(T, 5.0).blocked


@pytest.mark.parametrize(("now", "wait"), [(0.0, 5.0), (4.0, 1.0), (9.0, 0.0)])
def test_wait_seconds_is_that_of_the_first_to_come_back(now: float, wait: float) -> None:
    breakers = Breakers()
    breakers.failed("local/b", "x", 2.0, at_once=True, is_probe=False)
    fail(breakers, at_once=True)
    assert breakers.wait_seconds([T, "local/b", "local/c"], now) == wait
    assert breakers.wait_seconds(["local/c"], now) is None


class OneTarget(RuleBasedStateMachine):
    """Many callers, one target, any order of ends."""

    calls: Bundle[bool] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.breakers = Breakers()
        self.now = 0.0
        self.probes_out = 0
        self.may_be_open = False

    @rule(target=calls)
    def enter(self) -> bool:
        entry = self.breakers.enter(T, self.now)
        if entry.blocked:
            assert self.may_be_open, "a target without a failure is never held back"
        self.probes_out += entry.is_probe
        return entry.is_probe if not entry.blocked else self._nobody()

    def _nobody(self) -> bool:
        # A blocked caller has nothing to report; it stands for a call from before the opening.
        return False

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(is_probe=consumes(calls), at_once=st.booleans())
    def fail(self, is_probe: bool, at_once: bool) -> None:
        self.probes_out -= is_probe
        pause = self.breakers.failed(T, "x", self.now, at_once=at_once, is_probe=is_probe)
        assert 0.0 <= pause <= LONGEST_PAUSE_SECONDS
        self.may_be_open = True

    @rule(is_probe=consumes(calls))
    def give_up(self, is_probe: bool) -> None:
        self.probes_out -= is_probe
        self.breakers.gave_up(T, is_probe=is_probe)

    @rule(is_probe=consumes(calls))
    def succeed(self, is_probe: bool) -> None:
        self.breakers.succeeded(T)
        assert self.breakers.enter(T, self.now) == Entry(), "a good answer closes it"
        self.may_be_open = False
        # Whoever was probing now speaks for a breaker that is closed: one more probe may go out later.
        self.probes_out = 0 if not is_probe else self.probes_out - 1

    @invariant()
    def never_two_probes(self) -> None:
        assert self.probes_out <= 1

    @invariant()
    def lets_through_again_in_the_end(self) -> None:
        if self.probes_out == 0:
            later = self.now + LONGEST_PAUSE_SECONDS
            entry = self.breakers.enter(T, later)
            assert not entry.blocked
            if entry.is_probe:
                self.breakers.gave_up(T, is_probe=True)


OneTarget.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestOneTarget = OneTarget.TestCase
