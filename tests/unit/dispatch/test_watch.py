"""What is known of a stream from its bytes, however they were cut into pieces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.core.words import Usage
from turnout.dispatch.watch import AnswerLimits, StreamWatch

CHUNK = b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n'
CALL = b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = CHUNK + USAGE + DONE
CRLF = WHOLE.replace(b"\n", b"\r\n")
COMMENTED = b": ping\n\n" + CHUNK + b"event: message\n" + CHUNK + b"retry: 5\n\n" + DONE
WORDS = b'data: {"choices":[{"delta":{"content":"data: [DONE]\\n\\n"}}]}\n\n'
"""A model that says the marker's own words: inside JSON a line break is written as two letters."""
GOOD = [WHOLE, CRLF, DONE, DONE.replace(b"\n", b"\r\n"), WORDS + DONE, COMMENTED, CHUNK + CALL + DONE]
BAD = {
    b"data: oops\n\n": "malformed_answer",
    b'data: {"choices":[\n\n': "malformed_answer",
    b"<html>\n\n": "malformed_answer",
    b"data: []\n\n": "malformed_answer",
    b'data: {"error":{"message":"out of memory"}}\n\n': "upstream_failed",
    b'data:{"error":"x"}\n\n': "upstream_failed",
    b'data: {"id":1,"error":{"message":"late"}}\n\n: end\n\n': "upstream_failed",
    b'error: {"message":"bad"}\n\n': "upstream_failed",
}


def a_watch(*, strips_usage: bool = False, **limits: int) -> StreamWatch:
    return StreamWatch("local/a", AnswerLimits(**limits), strips_usage=strips_usage)


def feed(watch: StreamWatch, *pieces: bytes) -> bytes:
    """Feed until the watch says that it is over, as the relay does; return what the caller got."""
    given_out = b""
    for piece in pieces:
        given_out += watch.feed(piece)
        if watch.is_done or watch.failure is not None:
            break
    watch.finish()
    return given_out


def cuttings(stream: bytes) -> Iterator[tuple[bytes, bytes]]:
    return ((stream[:cut], stream[cut:]) for cut in range(1, len(stream)))


@st.composite
def pieces_of(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    places = [0, *cuts, len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(places) if a < b]


@pytest.mark.parametrize("stream", GOOD)
def test_a_good_stream_passes_untouched_wherever_it_is_cut(stream: bytes) -> None:
    for first, second in cuttings(stream):
        watch = a_watch()
        assert feed(watch, first, second) == stream
        assert (watch.is_done, watch.failure) == (True, None)


@given(st.data(), st.sampled_from(GOOD))
def test_any_cutting_gives_the_same_bytes_end_and_usage(data: st.DataObject, stream: bytes) -> None:
    watch, whole = a_watch(), a_watch()
    assert feed(watch, *data.draw(pieces_of(stream))) == feed(whole, stream) == stream
    assert (watch.is_done, watch.usage, watch.delivered) == (whole.is_done, whole.usage, whole.delivered)


def test_byte_by_byte_is_the_same() -> None:
    for stream in GOOD:
        watch = a_watch()
        assert feed(watch, *(bytes([byte]) for byte in stream)) == stream
        assert watch.is_done


@pytest.mark.parametrize(
    "stream", [WORDS, CHUNK, CHUNK + b"data: [DONE]", CHUNK + b"data: [DONE]\n", b'data: {"a":"data: [DONE]"}\n\n']
)
def test_a_models_words_and_half_a_marker_are_not_the_end(stream: bytes) -> None:
    for pieces in [(stream,), *cuttings(stream)]:
        watch = a_watch()
        assert feed(watch, *pieces) == stream[: stream.rfind(b"\n\n") + 2 or None]
        assert (watch.is_done, watch.failure) == (False, None)


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_event_stops_the_stream_behind_what_was_good(bad: bytes) -> None:
    for pieces in [(CHUNK + CALL + bad + DONE,), *cuttings(CHUNK + CALL + bad + DONE)]:
        watch = a_watch()
        out = feed(watch, *pieces)
        assert watch.failure is not None
        assert watch.failure.code == BAD[bad]
        assert not watch.is_done
        assert out == CHUNK + CALL


def test_an_error_field_that_is_null_is_no_error() -> None:
    stream = b'data: {"error":null,"choices":[]}\n\n' + DONE
    watch = a_watch()
    assert feed(watch, stream) == stream
    assert watch.failure is None


@pytest.mark.parametrize("garbage", [b"x", CHUNK, b"HTTP/1.1 200 OK\r\n\r\n", DONE])
def test_what_comes_behind_the_end_is_dropped(garbage: bytes) -> None:
    for cut in (len(WHOLE), len(WHOLE) - 3, 5):
        watch = a_watch()
        stream = WHOLE + garbage
        assert feed(watch, stream[:cut], stream[cut:]) == WHOLE
        assert watch.is_done


@pytest.mark.parametrize(
    ("tail", "is_marked"),
    [(b"data: [DONE]", True), (b"data: [DONE]\n", True), (b"data: [DONE]\r\n", True), (WORDS, False), (CHUNK, False)],
)
def test_a_marker_without_its_blank_line_still_counts_at_the_end(tail: bytes, is_marked: bool) -> None:
    watch = a_watch()
    feed(watch, CHUNK + tail)
    assert watch.is_marked is is_marked


def test_half_an_event_is_held_back() -> None:
    for first, second in cuttings(CHUNK):
        watch = a_watch()
        assert watch.feed(CHUNK + first) == CHUNK
        assert watch.feed(second) == CHUNK


@pytest.mark.parametrize(
    ("stream", "usage"),
    [
        (WHOLE, Usage(3, 5)),
        (LAST + DONE, Usage(3, 5)),
        (b'data: {"usage": {"prompt_tokens": 1}}\n\n' + DONE, Usage(1, 0)),
        (b'data:{"choices":[{"delta":{"content":"data: x"}}],"usage":{"prompt_tokens":2}}\n\n' + DONE, Usage(2, 0)),
        (b'data: {"usage":{"prompt_tokens":1}}\n\n' + USAGE + DONE, Usage(3, 5)),
        (CHUNK + DONE, None),
        (b'data: {"choices":[{"delta":{"content":"\\"usage\\":{\\"prompt_tokens\\":9}"}}]}\n\n' + DONE, None),
        (b'data: {"usage":{"prompt_tokens":"many"}}\n\n' + DONE, None),
        (b": ping\n\n" + LAST + DONE, Usage(3, 5)),
    ],
)
def test_usage_is_read_from_the_tail(stream: bytes, usage: Usage | None) -> None:
    watch = a_watch()
    feed(watch, stream)
    assert watch.failure is None
    assert watch.usage == usage


def test_a_long_stream_keeps_only_its_tail() -> None:
    watch = a_watch()
    feed(watch, *[CHUNK] * 2000, USAGE, DONE)
    assert len(watch._tail) <= 8192
    assert watch.usage == Usage(3, 5)


@pytest.mark.parametrize("last", [USAGE, LAST])
@given(data=st.data())
def test_usage_that_only_turnout_asked_for_is_taken_out(last: bytes, data: st.DataObject) -> None:
    stream = CHUNK * 3 + last + DONE
    watch = a_watch(strips_usage=True)
    out = feed(watch, *data.draw(pieces_of(stream)))
    # An event that also ends the text stays: its usage is then the engine's own habit.
    assert out == (CHUNK * 3 + DONE if last is USAGE else stream)
    assert watch.usage == Usage(3, 5)
    assert watch.is_done


@pytest.mark.parametrize(
    ("stream", "delivered"),
    [(b": ping\n\n", "nothing"), (CHUNK, "text"), (CALL, "tool_call"), (CALL + CHUNK, "tool_call"),
     (b'data: {"choices":[{"delta":{"content":"\\"tool_calls\\":[{"}}]}\n\n', "text"),
     (b'data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}\n\n', "text")],
)  # fmt: skip
def test_it_is_known_what_the_caller_was_given(stream: bytes, delivered: str) -> None:
    watch = a_watch()
    feed(watch, stream)
    assert watch.delivered == delivered


def test_a_huge_event_and_an_endless_stream_reach_their_limits() -> None:
    huge = b'data: {"a":"' + b"x" * 5000 + b'"}\n\n'
    for pieces in [(CHUNK, huge), (CHUNK, huge[:3000], huge[3000:]), (CHUNK + huge + CHUNK,)]:
        watch = a_watch(event_bytes=2000)
        out = feed(watch, *pieces)
        assert watch.failure is not None
        assert watch.failure.code == "answer_too_large"
        assert out == CHUNK, "what came before it is good"
    first = a_watch(event_bytes=2000)
    assert feed(first, huge) == b""
    assert not first.has_event, "somebody else may still take over"
    endless = a_watch(answer_bytes=10_000)
    feed(endless, *[CHUNK] * 1000)
    assert endless.failure is not None
    assert endless.failure.code == "answer_too_large"
    assert endless._bytes <= 10_000 + len(CHUNK)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_no_bytes_however_odd_raise(pieces: list[bytes]) -> None:
    watch = a_watch(answer_bytes=500, event_bytes=100)
    out = feed(watch, *pieces)
    assert b"".join(pieces).startswith(out)


OBJECTS = st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3)


@given(st.lists(OBJECTS, min_size=1, max_size=8), st.data())
def test_any_json_objects_are_a_good_stream(objects: list[dict[str, str]], data: st.DataObject) -> None:
    objects = [{key: value for key, value in item.items() if key != "error"} for item in objects]
    stream = b"".join(b"data: " + json.dumps(item).encode() + b"\n\n" for item in objects) + DONE
    watch = a_watch()
    assert feed(watch, *data.draw(pieces_of(stream))) == stream
    assert (watch.is_done, watch.failure) == (True, None)
