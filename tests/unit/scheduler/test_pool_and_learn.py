"""The book, and what experience teaches."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.core.memory import GIB, Device
from turnout.scheduler.learn import ArrivalRate, Interest, LearntSeconds
from turnout.scheduler.messages import Measured
from turnout.scheduler.pool import Holder, Pool

GPU = "host/gpu0"
A: Holder = ("model", "a")
B: Holder = ("lease", "b")


def pool(gib: int = 24, headroom: int = 0) -> Pool:
    device = Device(id=GPU, kind="simulated", total_bytes=gib * GIB, headroom_bytes=headroom * GIB)
    return Pool([device], reading_seconds=10)


def test_free_is_total_less_headroom_less_what_is_held() -> None:
    book = pool(24, headroom=2)
    book.hold(A, {GPU: 10 * GIB}, is_beside=True)
    assert book.free_by_book(GPU) == 12 * GIB
    book.hold(A, {GPU: 4 * GIB}, is_beside=True)
    assert book.free_by_book(GPU) == 18 * GIB
    book.release(A)
    book.release(A)
    assert book.free_by_book(GPU) == 22 * GIB


def test_what_is_used_by_nobody_counts_and_what_a_holder_uses_counts_once() -> None:
    book = pool()
    book.hold(A, {GPU: 10 * GIB}, is_beside=True)
    book.hold(B, {GPU: 2 * GIB}, is_beside=True)
    book.measured(Measured(device=GPU, used_bytes=17 * GIB, by_holder={"a": 12 * GIB}), 0.0)
    # a uses 2 more than granted; b is not measured, and stands for what it was granted; 3 belong to nobody.
    assert book.unattributed(GPU, 0.0) == 3 * GIB
    assert book.free(GPU, 0.0) == (24 - 12 - 2 - 3) * GIB
    assert book.use(A, GPU, 0.0) == 12 * GIB
    assert book.free_by_book(GPU) == 12 * GIB


def test_a_reading_counts_for_so_long() -> None:
    book = pool()
    book.measured(Measured(device=GPU, used_bytes=20 * GIB), 5.0)
    assert book.free(GPU, 14.9) == 4 * GIB
    assert book.free(GPU, 15.0) == 24 * GIB
    assert book.reading_ends_at(GPU) == 15.0


def test_the_room_for_voice_binds_everybody_else() -> None:
    book = pool()
    book.hold(A, {GPU: 10 * GIB}, is_beside=True)
    book.set_voice_room({GPU: 4 * GIB})
    beside = book.beside[GPU]
    assert book.free_by_book(beside) == 10 * GIB
    book.hold(B, {GPU: 3 * GIB}, is_beside=False)
    assert (book.free_by_book(beside), book.free_by_book(GPU)) == (10 * GIB, 11 * GIB)
    assert book.charge({GPU: GIB}, is_beside=True) == {GPU: GIB, beside: GIB}
    book.set_voice_room({})
    assert book.free_by_book(GPU) == 11 * GIB
    assert book.charge({GPU: GIB}, is_beside=True) == {GPU: GIB}


AMOUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 12), max_size=4)


@given(AMOUNTS, AMOUNTS, st.integers(0, 40))
def test_a_measurement_never_allows_more_than_the_book(
    granted: dict[str, int], measured: dict[str, int], used: int
) -> None:
    book = pool()
    for name, gib in granted.items():
        book.hold(("model", name), {GPU: gib * GIB}, is_beside=True)
    by_holder = {name: gib * GIB for name, gib in measured.items()}
    book.measured(Measured(device=GPU, used_bytes=used * GIB, by_holder=by_holder), 0.0)
    assert book.free(GPU, 0.0) <= book.free_by_book(GPU)
    holders = sum(max(gib, measured.get(name, 0)) for name, gib in granted.items())
    assert book.unattributed(GPU, 0.0) >= 0
    assert book.free(GPU, 0.0) == (24 - holders) * GIB - book.unattributed(GPU, 0.0)


def test_one_odd_load_moves_nothing_and_three_in_a_row_do() -> None:
    learnt = LearntSeconds(10.0)
    assert learnt.seconds == 10.0
    for seconds in (4.0, 4.2, 60.0):
        learnt.learn(seconds)
    assert learnt.seconds == 4.2
    for _ in range(3):
        learnt.learn(60.0)
    assert learnt.seconds == 60.0


@given(st.floats(), st.lists(st.floats()))
def test_learnt_times_are_never_negative_and_always_finite(guess: float, samples: list[float]) -> None:
    learnt = LearntSeconds(guess if math.isfinite(guess) else 1.0)
    for sample in samples:
        learnt.learn(sample)
    assert 0.0 <= learnt.seconds < math.inf


def test_a_rate_decays() -> None:
    rate = ArrivalRate(100.0, burst_seconds=1.0)
    assert rate.uses_within(60.0, 0.0) == 0.0
    for second in range(0, 100, 2):
        rate.arrived(float(second))
    assert rate.uses_within(60.0, 98.0) == pytest.approx(30.0, rel=0.05)
    assert rate.uses_within(60.0, 198.0) < 20.0
    assert rate.uses_within(60.0, 98.0 + 1000.0) < 0.01


def test_a_rate_is_not_drawn_from_a_moment() -> None:
    rate = ArrivalRate(600.0, burst_seconds=1.0)
    rate.arrived(0.0)
    rate.arrived(2.0)
    assert rate.uses_within(60.0, 2.0) == pytest.approx(2.0, rel=0.1)  # two within the first minute, as it were


def test_a_burst_is_one_occasion() -> None:
    interest = Interest(600.0)
    for number in range(1000):
        interest.arrived("script", number / 1000)
    assert interest.occasions_within(60.0, 1.0) < 1.5
    assert interest.requests_within(60.0, 1.0) < 6.0


def test_those_who_wait_elsewhere_do_not_count() -> None:
    interest = Interest(600.0)
    for second in range(0, 100, 10):
        interest.arrived("me", float(second))
        interest.arrived("you", second + 5.0)
    everybody = interest.occasions_within(60.0, 100.0)
    assert interest.occasions_within(60.0, 100.0, {"me"}) == pytest.approx(everybody / 2, rel=0.1)
    assert interest.occasions_within(60.0, 100.0, {"me", "you"}) == 0.0
    assert interest.occasions_within(60.0, 100.0, {"somebody"}) == everybody


def test_of_many_callers_the_last_are_known() -> None:
    interest = Interest(600.0)
    for second in range(100):
        interest.arrived(f"caller{second}", second * 10.0)
    recent = {f"caller{second}" for second in range(92, 100)}
    assert interest.occasions_within(60.0, 1000.0, recent) == 0.0
    assert interest.occasions_within(60.0, 1000.0, {"caller5"}) > 0.0
