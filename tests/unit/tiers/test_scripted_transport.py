"""The scripted transport plays what it was given and records what it was asked."""

from __future__ import annotations

import asyncio

import pytest

from turnout.core.errors import ConnectFailed, CutOff, Malformed
from turnout.tiers.scripted_transport import ScriptedResponse, ScriptedTransport, json_response
from turnout.tiers.transport import Deadlines, HttpRequest, Transport

REQUEST = HttpRequest(method="POST", base_url="http://engine", path="/v1/chat/completions", body=b"{}")


async def test_plays_the_list_in_order_and_records_the_requests() -> None:
    fake = ScriptedTransport([json_response({"a": 1}), ConnectFailed("down"), json_response({}, status=503)])
    transport: Transport = fake

    first = await transport.send(REQUEST, Deadlines())
    with pytest.raises(ConnectFailed, match="down"):
        await transport.send(REQUEST, Deadlines())
    third = await transport.send(REQUEST, Deadlines(gap=1))

    assert first.status == 200
    assert first.header(b"content-type") == b"application/json"
    assert first.header(b"x-none") is None
    assert await first.read_all(100) == b'{"a":1}'
    assert third.status == 503
    assert fake.requests == [REQUEST] * 3
    assert fake.deadlines[2].gap == 1
    with pytest.raises(RuntimeError, match="no step for request 4"):
        await transport.send(REQUEST, Deadlines())


async def test_a_function_chooses_by_the_request() -> None:
    transport = ScriptedTransport(lambda request: json_response(request.path))

    answer = await transport.send(REQUEST, Deadlines())

    assert await answer.read_all(100) == b'"/v1/chat/completions"'


async def test_a_body_that_breaks_raises_at_its_place() -> None:
    transport = ScriptedTransport([ScriptedResponse(pieces=(b"data: 1\n\n", CutOff("power failure")))])

    answer = await transport.send(REQUEST, Deadlines())

    assert await answer.read() == b"data: 1\n\n"
    with pytest.raises(CutOff, match="power failure"):
        await answer.read()


async def test_an_event_holds_the_body_back() -> None:
    gate = asyncio.Event()
    transport = ScriptedTransport([ScriptedResponse(pieces=(b"a", gate, b"b"))])
    answer = await transport.send(REQUEST, Deadlines())
    assert await answer.read() == b"a"

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        second = group.create_task(answer.read())
        gate.set()

    assert second.result() == b"b"
    assert await answer.read() == b""


async def test_closing_early_is_told_from_closing_at_the_end() -> None:
    transport = ScriptedTransport([ScriptedResponse(pieces=(b"a", b"b"))] * 2)
    early, late = [await transport.send(REQUEST, Deadlines()) for _ in range(2)]

    assert await early.read() == b"a"
    early.close()
    assert await late.read_all(2) == b"ab"
    await late.aclose()
    await transport.aclose()

    assert (early.is_closed, early.is_cut_short) == (True, True)
    assert (late.is_closed, late.is_cut_short) == (True, False)
    assert transport.is_closed
    with pytest.raises(CutOff):
        await early.read()


async def test_a_body_above_the_limit_is_refused_and_hung_up_on() -> None:
    transport = ScriptedTransport([ScriptedResponse(pieces=(b"abc", b"d"))])
    answer = await transport.send(REQUEST, Deadlines())

    with pytest.raises(Malformed) as raised:
        await answer.read_all(3)

    assert raised.value.code == "answer_too_large"
    assert answer.is_cut_short
