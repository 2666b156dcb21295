"""What is added in one turn of the loop is written at its end, in order and once."""

from __future__ import annotations

import asyncio

from turnout.core.outbox import TOGETHER, Outbox


async def test_one_turn_is_written_at_its_end_in_order() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    written: list[int] = []
    for number in range(3):
        outbox.add(lambda number=number: written.append(number))  # type: ignore[misc]
    assert not written
    await asyncio.sleep(0)
    assert written == [0, 1, 2]
    await asyncio.sleep(0)
    assert written == [0, 1, 2]


async def test_what_is_added_while_writing_waits_for_the_next_turn() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    written: list[str] = []

    def first() -> None:
        written.append("first")
        outbox.add(lambda: written.append("second"))

    outbox.add(first)
    await asyncio.sleep(0)
    assert written == ["first"]
    await asyncio.sleep(0)
    assert written == ["first", "second"]


async def test_enough_do_not_wait_for_more() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    written: list[int] = []
    for number in range(TOGETHER + 1):
        outbox.add(lambda number=number: written.append(number))  # type: ignore[misc]
    assert written == list(range(TOGETHER))
    await asyncio.sleep(0)
    assert written == list(range(TOGETHER + 1))
