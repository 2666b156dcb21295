"""The simulated memory: never more than there is, and what an eviction made is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.core.memory import Device
from turnout.simulate.memory import Memory, MemoryOverrun
from turnout.simulate.timeline import MOST_BUCKETS, Timeline

CARD = Device(id="gpu", kind="simulated", total_bytes=12, headroom_bytes=2)


def a_memory() -> Memory:
    return Memory((CARD,), Timeline())


def test_more_than_there_is_is_not_granted() -> None:
    memory = a_memory()
    memory.take("a", {}, {"gpu": 10}, 0)
    with pytest.raises(MemoryOverrun, match="b was granted 1 bytes of gpu, but 0 are free"):
        memory.take("b", {}, {"gpu": 1}, 0)


def test_a_grant_of_fresh_room_needed_no_eviction() -> None:
    memory = a_memory()
    assert not memory.take("a", {}, {"gpu": 6}, 0)
    assert not memory.take("b", {}, {"gpu": 4}, 0)


def test_a_grant_that_takes_what_an_eviction_made_needed_it() -> None:
    memory = a_memory()
    memory.take("a", {}, {"gpu": 6}, 0)
    memory.give_back("a", {"gpu": 6}, {}, 1, is_eviction=True)
    assert not memory.take("b", {}, {"gpu": 4}, 2)  # the four that were fresh all along
    assert memory.take("c", {}, {"gpu": 1}, 3)


def test_room_that_was_left_freely_is_fresh() -> None:
    memory = a_memory()
    memory.take("a", {}, {"gpu": 10}, 0)
    memory.give_back("a", {"gpu": 10}, {}, 1, is_eviction=False)
    assert not memory.take("b", {}, {"gpu": 10}, 2)


def test_growing_takes_only_the_difference() -> None:
    memory = a_memory()
    memory.take("a", {}, {"gpu": 6}, 0)
    memory.take("a", {"gpu": 6}, {"gpu": 9}, 1)
    memory.take("b", {}, {"gpu": 1}, 2)
    with pytest.raises(MemoryOverrun):
        memory.take("c", {}, {"gpu": 1}, 3)


def test_the_timeline_holds_means() -> None:
    timeline = Timeline()
    timeline.change("a", 8, 0.0)
    timeline.change("a", 4, 0.125)
    timeline.change("b", 2, 0.25)
    columns = timeline.columns(0.625)
    assert columns == {"a": [6.0, 4.0, 4.0], "b": [0.0, 2.0, 2.0]}


@given(
    changes=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.floats(0.001, 5000)), min_size=1, max_size=40
    )
)
def test_however_long_the_run_nothing_of_the_area_is_lost(changes: list[tuple[str, int, float]]) -> None:
    timeline = Timeline()
    held: dict[str, int] = {}
    area = dict.fromkeys("abc", 0.0)
    now = 0.0
    for holder, amount, gap in changes:
        for name, held_now in held.items():
            area[name] += held_now * gap
        now += gap
        timeline.change(holder, amount, now)
        held[holder] = amount
    columns = timeline.columns(now)
    width = timeline.bucket_seconds
    assert not columns or now <= width * MOST_BUCKETS
    for name, column in columns.items():
        assert len(column) <= MOST_BUCKETS
        last = now - (len(column) - 1) * width
        total = sum(mean * (width if i < len(column) - 1 else last) for i, mean in enumerate(column))
        assert total == pytest.approx(area[name], rel=1e-6, abs=1e-6)
