"""Bytes go through untouched, and an answer that is not whole is never taken for one."""

from __future__ import annotations

import pytest

from support.samples import a_target
from turnout.core.errors import Broken, CutOff, DeadlineExceeded, Malformed, TurnoutError, UpstreamFailed
from turnout.core.words import Target, Usage
from turnout.dispatch.relay import first_events, relay_stream, usage_of
from turnout.dispatch.watch import AnswerLimits, StreamWatch
from turnout.tiers.scripted_transport import ScriptedAnswer, ScriptedResponse

EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"),)
CHUNK = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


class ListSink:
    """Keeps what the caller would see."""

    def __init__(self) -> None:
        self.is_begun = self.is_answering = False
        self.told: list[str] = []
        self.attempts = 0
        self.data = b""
        self.is_finished = False

    async def progress(self, text: str) -> None:
        self.is_begun = True
        self.told.append(text)

    async def begin(self, served: Target) -> None:
        self.is_begun = self.is_answering = True

    async def whole(self, served: Target, data: bytes) -> None:
        await self.begin(served)
        await self.write(data)
        await self.finish()

    async def write(self, data: bytes) -> None:
        assert not self.is_finished
        self.data += data

    async def finish(self, last: bytes = b"") -> None:
        await self.write(last)
        self.is_finished = True

    async def fail(self, error: TurnoutError) -> None:
        raise AssertionError(error)


def answer(*pieces: bytes | TurnoutError, headers: tuple[tuple[bytes, bytes], ...] = EVENTS) -> ScriptedAnswer:
    return ScriptedAnswer(ScriptedResponse(headers=headers, pieces=pieces))


def a_watch() -> StreamWatch:
    return StreamWatch("t", AnswerLimits(answer_bytes=1 << 20))


async def first(response: ScriptedAnswer) -> bytes:
    return await first_events(response, a_watch(), "t", 5)


async def relayed(*pieces: bytes | TurnoutError) -> tuple[ListSink, StreamWatch, Broken | None]:
    """Relay a stream; return what the caller got, the watch, and why it broke."""
    sink, watch, response = ListSink(), a_watch(), answer(*pieces)
    begun = await first_events(response, watch, "t", 5)
    await sink.begin(a_target("local/a"))
    try:
        await relay_stream(response, begun, sink, watch, "t")
    except Broken as error:
        return sink, watch, error
    return sink, watch, None


async def test_the_first_event_decides_whether_somebody_else_may_take_over() -> None:
    assert await first(answer(CHUNK, DONE)) == CHUNK
    assert await first(answer(PING, CHUNK[:9], CHUNK[9:] + PING, DONE)) == PING + CHUNK + PING
    with pytest.raises(Malformed, match="'application/json'"):
        await first(answer(CHUNK, headers=((b"content-type", b"application/json"),)))
    with pytest.raises(Malformed, match="'nothing'"):
        await first(answer(CHUNK, headers=()))
    for pieces in ((), (PING,), (PING, CHUNK[:-1])):
        with pytest.raises(CutOff, match="before its first event"):
            await first(answer(*pieces))
    with pytest.raises(UpstreamFailed, match="broke off with an error: x"):
        await first(answer(PING, b'data: {"error":"x"}\n\n'))
    with pytest.raises(Malformed, match="not JSON: 'data: <html>"):
        await first(answer(b"data: <html>\n\n"))
    with pytest.raises(CutOff, match="power"):
        await first(answer(PING, CutOff("power")))


async def test_comments_alone_are_no_answer() -> None:
    class Pinging(ScriptedAnswer):
        async def read(self) -> bytes:
            import asyncio

            await asyncio.sleep(0)
            return PING

    response = Pinging(ScriptedResponse(headers=EVENTS))
    with pytest.raises(DeadlineExceeded, match=r"no event within 0.01 s") as told:
        await first_events(response, a_watch(), "t", 0.01)
    assert told.value.code == "first_byte_deadline"


async def test_a_whole_stream_goes_through_and_its_connection_is_given_back() -> None:
    sink, watch, error = await relayed(CHUNK, CHUNK + CHUNK[:20], CHUNK[20:] + DONE)
    assert (sink.data, sink.is_finished, watch.is_told, error) == (CHUNK * 3 + DONE, True, True, None)


@pytest.mark.parametrize("tail", [b"data: [DONE]", b"data: [DONE]\n"])
async def test_a_marker_without_its_blank_line_is_completed(tail: bytes) -> None:
    sink, watch, error = await relayed(CHUNK, tail)
    assert (sink.is_finished, watch.is_told, error) == (True, True, None)
    assert sink.data == CHUNK + DONE


async def test_a_broken_stream_raises_behind_what_was_good_and_is_not_finished() -> None:
    for pieces, code in (
        ((CHUNK,), "answer_cut_off"),
        ((CHUNK, CutOff("power")), "answer_cut_off"),
        ((CHUNK, CHUNK + b"oops\n\n"), "malformed_answer"),
        ((CHUNK, CHUNK + b'data: {"error":"x"}\n\n', DONE), "upstream_failed"),
        ((CHUNK, CHUNK, *[CHUNK * 1000] * 40), "answer_too_large"),
    ):
        sink, watch, error = await relayed(*pieces)
        assert error is not None
        assert error.code == code
        assert sink.data.startswith(CHUNK)
        assert sink.data.count(b"oops") == sink.data.count(b"error") == 0
        assert not sink.is_finished
        assert not watch.is_told


async def test_garbage_behind_the_end_costs_the_connection_only() -> None:
    sink, watch, response = ListSink(), a_watch(), answer(CHUNK, DONE, b"garbage", b"more")
    begun = await first_events(response, watch, "t", 5)
    await relay_stream(response, begun, sink, watch, "t")
    assert sink.data == CHUNK + DONE
    assert response.is_closed


def test_a_whole_answer_tells_its_usage() -> None:
    assert usage_of(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', "t") == Usage(1, 2)
    for odd in (b'{"data":[]}', b'{"usage":null}', b'{"usage":"many"}', b'{"usage":{"prompt_tokens":"x"}}'):
        assert usage_of(odd, "t") is None


@pytest.mark.parametrize("body", [b"", b"oops", b'{"a":', b"[1]", b"<html></html>", b"[" * 100_000])
def test_an_answer_that_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match="proper JSON"):
        usage_of(body, "local/a")


async def test_an_answer_above_the_limit_is_hung_up_on() -> None:
    response = answer(b"x" * 11)
    with pytest.raises(Malformed, match="larger than 10"):
        await response.read_all(10)
    assert response.is_cut_short
