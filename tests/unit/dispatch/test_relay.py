"""Bytes go through untouched, and whether the answer was whole is known however they were cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.samples import a_target
from turnout.core.errors import CutOff, Malformed, TurnoutError, UpstreamFailed
from turnout.core.words import Target, Usage
from turnout.dispatch.relay import StreamWatch, error_event, first_piece, read_answer, read_usage, relay_stream
from turnout.tiers.scripted_transport import ScriptedAnswer, ScriptedResponse

EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"),)
CHUNK = b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = CHUNK + USAGE + DONE
CRLF = WHOLE.replace(b"\n", b"\r\n")
WORDS = b'data: {"choices":[{"delta":{"content":"data: [DONE]\\n\\n"}}]}\n\n'
"""A model that says the marker's own words: inside JSON a line break is written as two letters."""


class ListSink:
    """Keeps what the caller would see."""

    def __init__(self) -> None:
        self.is_begun = False
        self.attempts = 0
        self.data = b""
        self.is_finished = False

    async def begin(self, served: Target, *, is_stream: bool) -> None:
        self.is_begun = True

    async def write(self, data: bytes) -> None:
        assert not self.is_finished
        self.data += data

    async def finish(self) -> None:
        assert not self.is_finished
        self.is_finished = True

    async def fail(self, error: TurnoutError, *, is_inside_event: bool) -> None:
        raise AssertionError(error)


def watch(*pieces: bytes) -> StreamWatch:
    seen = StreamWatch()
    for piece in pieces:
        seen.feed(piece)
    return seen


def answer(*pieces: bytes | TurnoutError, headers: tuple[tuple[bytes, bytes], ...] = EVENTS) -> ScriptedAnswer:
    return ScriptedAnswer(ScriptedResponse(headers=headers, pieces=pieces))


@pytest.mark.parametrize("stream", [WHOLE, CRLF, DONE, DONE.replace(b"\n", b"\r\n"), WORDS + DONE])
def test_the_end_is_seen_wherever_the_stream_is_cut(stream: bytes) -> None:
    for cut in range(1, len(stream)):
        first, second = stream[:cut], stream[cut:]
        assert not watch(first).is_done, f"done after only {first[-20:]!r}"
        assert watch(first, second).is_done, f"not done although cut after {first[-20:]!r}"


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12), st.sampled_from([WHOLE, CRLF]))
def test_any_cutting_gives_the_same_end_and_usage(cuts: list[int], stream: bytes) -> None:
    places = sorted({0, *cuts, len(stream)})
    pieces = [stream[a:b] for a, b in zip(places, [*places[1:], len(stream)], strict=True) if stream[a:b]]
    seen = watch(*pieces)

    assert seen.is_done
    assert not seen.is_inside_event
    assert seen.usage() == Usage(3, 5)


def test_byte_by_byte_is_the_same() -> None:
    seen = StreamWatch()
    for place, byte in enumerate(WHOLE):
        assert not seen.is_done, place
        seen.feed(bytes([byte]))
    assert seen.is_done


@pytest.mark.parametrize(
    "stream",
    [
        WORDS,
        CHUNK,
        CHUNK + b"data: [DONE]",
        CHUNK + b"data: [DONE]\n",
        b'data: "x data: [DONE]"\n\n',
        b"x data: [DONE]\n\n",
        b"event: data: [DONE]\n\n",
        DONE + CHUNK,
    ],
)
def test_a_models_words_and_half_a_marker_are_not_the_end(stream: bytes) -> None:
    assert not watch(stream).is_done
    assert not any(watch(stream[:cut], stream[cut:]).is_done for cut in range(1, len(stream)))


@pytest.mark.parametrize(
    ("tail", "is_marked"),
    [(b"data: [DONE]", True), (b"data: [DONE]\n", True), (b"data: [DONE]\r\n", True), (WORDS, False), (CHUNK, False)],
)
def test_a_marker_without_its_blank_line_still_counts_at_the_end(tail: bytes, is_marked: bool) -> None:
    assert watch(CHUNK + tail).is_marked is is_marked


@pytest.mark.parametrize(
    ("stream", "is_inside"), [(b"", False), (CHUNK, False), (CRLF, False), (CHUNK[:-1], True), (b"d", True)]
)
def test_it_is_known_whether_an_event_was_cut(stream: bytes, is_inside: bool) -> None:
    assert watch(*([stream] if stream else [])).is_inside_event is is_inside


@pytest.mark.parametrize(
    ("stream", "usage"),
    [
        (WHOLE, Usage(3, 5)),
        (b'data: {"usage": {"prompt_tokens": 1}}\n\n' + DONE, Usage(1, 0)),
        (b'data:{"choices":[{"delta":{"content":"data: x"}}],"usage":{"prompt_tokens":2}}\n\n' + DONE, Usage(2, 0)),
        (b'data: {"usage":{"prompt_tokens":1}}\n\n' + USAGE + DONE, Usage(3, 5)),
        (CHUNK + DONE, None),
        (b'data: {"choices":[{"delta":{"content":"\\"usage\\":{\\"prompt_tokens\\":9}"}}]}\n\n' + DONE, None),
        (b'data: {"usage":{"prompt_tokens":"many"}}\n\n' + DONE, None),
        (b'event: {"usage":{"prompt_tokens":1}}\n\n' + DONE, None),
        (b"", None),
    ],
)
def test_usage_is_read_from_the_tail(stream: bytes, usage: Usage | None) -> None:
    assert watch(stream).usage() == usage


def test_a_long_stream_keeps_only_its_tail() -> None:
    seen = StreamWatch()
    for _ in range(2000):
        seen.feed(CHUNK)
    seen.feed(USAGE)
    seen.feed(DONE)
    assert len(seen.tail) < 8192 + len(CHUNK) + len(USAGE) + len(DONE)
    assert seen.usage() == Usage(3, 5)


@pytest.mark.parametrize(
    ("piece", "told"),
    [
        (b'data: {"error":{"message":"out of memory"}}\n\n', "out of memory"),
        (b'data:{"error":"x"}\n\n', "x"),
        (b'\n\ndata: {"error":{}}\n\n', '{"error":{}}'),
        (b'error: {"message":"bad"}\n\n', "bad"),
        (CHUNK, ""),
        (b": ping\n\n", ""),
        (b'data: {"errors":1}\n\n', ""),
    ],
)
def test_a_stream_that_begins_with_an_error_is_recognised(piece: bytes, told: str) -> None:
    assert told in error_event(piece)
    assert bool(error_event(piece)) is bool(told)


async def test_the_first_piece_decides_whether_somebody_else_may_take_over() -> None:
    assert await first_piece(answer(CHUNK, DONE), "t") == CHUNK
    with pytest.raises(Malformed, match="'application/json'"):
        await first_piece(answer(CHUNK, headers=((b"content-type", b"application/json"),)), "t")
    with pytest.raises(Malformed, match="'nothing'"):
        await first_piece(answer(CHUNK, headers=()), "t")
    with pytest.raises(CutOff, match="before its first event"):
        await first_piece(answer(), "t")
    with pytest.raises(UpstreamFailed, match="began with an error: x"):
        await first_piece(answer(b'data: {"error":"x"}\n\n'), "t")
    with pytest.raises(CutOff, match="power"):
        await first_piece(answer(CutOff("power")), "t")


async def test_a_whole_answer_comes_with_its_usage() -> None:
    body = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    assert await read_answer(answer(body[:9], body[9:]), "t", 1000) == (body, Usage(1, 2))
    assert await read_answer(answer(b'{"data":[]}'), "t", 1000) == (b'{"data":[]}', None)
    assert await read_answer(answer(b'{"usage":null}'), "t", 1000) == (b'{"usage":null}', None)


@pytest.mark.parametrize(
    "body", [b"", b"oops", b'{"a":', b"[1]", b'{"usage":{"prompt_tokens":"\xff"}}', b"[" * 100_000]
)
async def test_an_answer_that_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match="proper JSON"):
        await read_answer(answer(body), "local/a", 1 << 20)
    assert read_usage(body) is None


async def test_an_answer_above_the_limit_is_hung_up_on() -> None:
    response = answer(b"x" * 11)
    with pytest.raises(Malformed, match="larger than 10"):
        await read_answer(response, "t", 10)
    assert response.is_cut_short


async def test_a_stream_is_copied_byte_for_byte_and_its_end_is_drained() -> None:
    sink, seen = ListSink(), StreamWatch()
    response = answer(CHUNK + DONE[:5], DONE[5:])
    await relay_stream(response, USAGE, sink, seen, a_target().name)

    assert sink.data == USAGE + CHUNK + DONE
    assert sink.is_finished
    assert seen.is_told
    response.close()
    assert not response.is_cut_short, "a connection that was read to its end can serve again"


async def test_a_marker_at_the_very_end_gets_its_blank_line() -> None:
    sink = ListSink()
    await relay_stream(answer(b"data: [DONE]"), CHUNK, sink, StreamWatch(), "t")
    assert sink.data == CHUNK + b"data: [DONE]\n\n"
    assert sink.is_finished


async def test_a_stream_without_an_end_is_cut_off() -> None:
    sink = ListSink()
    with pytest.raises(CutOff, match="without an end marker"):
        await relay_stream(answer(WORDS), CHUNK, sink, StreamWatch(), "t")
    assert not sink.is_finished


async def test_trouble_after_the_marker_is_nobodys_trouble() -> None:
    sink = ListSink()
    response = answer(DONE, CutOff("late"))
    await relay_stream(response, CHUNK, sink, StreamWatch(), "t")
    assert sink.is_finished
    assert response.is_closed
