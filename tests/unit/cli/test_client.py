"""The public client against a scripted daemon: no socket is opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import msgspec
import pytest

from support.samples import a_trace
from turnout.client import ApiError, DaemonNotReachable, Turnout
from turnout.client.stream import read_events
from turnout.core.clock import ManualClock
from turnout.core.errors import SetupError

HEADERS = {
    "x-turnout-request-id": "req_7",
    "x-turnout-served-model": "local/caf%C3%A9",
    "x-turnout-tier": "local",
    "x-turnout-attempts": "2",
}
HELLO = [{"role": "user", "content": "Hello"}]


def client_of(answer: Callable[[httpx2.Request], httpx2.Response], url: str = "http://127.0.0.1:9") -> Turnout:
    return Turnout(url, "sk-turnout-x", clock=ManualClock(), transport=httpx2.MockTransport(answer))


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(**fields: Any) -> bytes:
    return event(choices=[{"delta": fields}])


def streaming(*events: bytes) -> Turnout:
    return client_of(lambda _: httpx2.Response(200, headers=HEADERS, content=iter(events)))


def test_a_status_is_read_with_the_key() -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={"url": "u"})

    with client_of(answer, "http://127.0.0.1:9/v1/") as client:
        assert client.status() == {"url": "u"}
    assert str(seen[0].url) == "http://127.0.0.1:9/turnout/v1/status"
    assert seen[0].headers["authorization"] == "Bearer sk-turnout-x"


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://x", "http://", "http://h:99999", "127.0.0.1:8150"])
def test_a_text_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SetupError, match="not the address"):
        Turnout(url)


def test_a_trace_comes_as_a_trace() -> None:
    body = msgspec.json.encode(a_trace("req_1"))
    assert client_of(lambda _: httpx2.Response(200, content=body)).trace("last").id == "req_1"


def test_an_id_cannot_leave_its_place_in_the_path() -> None:
    seen: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.raw_path)
        return httpx2.Response(404, json={"error": {"message": "no", "code": "trace_not_found", "hint": "h"}})

    with pytest.raises(ApiError) as caught:
        client_of(answer).trace("../../default?x")
    assert seen == [b"/turnout/v1/traces/..%2F..%2Fdefault%3Fx"]
    assert (caught.value.code, caught.value.hint, caught.value.status) == ("trace_not_found", "h", 404)


def test_another_program_is_told_from_a_daemon() -> None:
    with pytest.raises(ApiError, match="does not answer like turnout"):
        client_of(lambda _: httpx2.Response(404, text="<html>")).status()
    with pytest.raises(ApiError, match="does not answer like turnout"):
        client_of(lambda _: httpx2.Response(200, text="hello")).status()


def test_an_answer_of_another_version_is_an_error_with_a_hint() -> None:
    with pytest.raises(ApiError, match="does not understand") as caught:
        client_of(lambda _: httpx2.Response(200, json={"traces": [{"id": 3}]})).traces()
    assert "doctor" in caught.value.hint


@pytest.mark.parametrize("error", [httpx2.ConnectError("refused"), httpx2.ReadTimeout("slow")])
def test_nobody_there(error: Exception) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise error

    with pytest.raises(DaemonNotReachable):
        client_of(answer).shutdown()


def test_a_stream_gives_text_and_then_facts() -> None:
    events = (
        delta(role="assistant", content=""),
        delta(content="Hel"),
        b": a comment\n\n",
        delta(content="lo"),
        event(choices=[{"delta": {}, "finish_reason": "stop"}]),
        event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2}),
        b"data: [DONE]\n\n",
    )
    with streaming(*events).chat_stream(HELLO) as stream:
        assert list(stream) == ["Hel", "lo"]
    facts = stream.facts
    assert (facts.request_id, facts.served_model, facts.tier, facts.attempts) == ("req_7", "local/café", "local", 2)
    assert (facts.finish_reason, facts.prompt_tokens, facts.completion_tokens) == ("stop", 3, 2)


def test_a_stream_asks_for_usage_and_passes_the_limit_on() -> None:
    seen: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(json.loads(request.content))
        return httpx2.Response(200, content=iter([b"data: [DONE]\n\n"]))

    assert list(client_of(answer).chat_stream(HELLO, "local/x", max_tokens=5)) == []
    assert seen[0]["stream_options"] == {"include_usage": True}
    assert (seen[0]["model"], seen[0]["max_tokens"]) == ("local/x", 5)


def test_the_speed_is_counted_after_the_first_token() -> None:
    clock = ManualClock()

    def events() -> Iterator[bytes]:
        clock.advance(2.0)
        yield delta(content="a")
        clock.advance(5.0)
        yield event(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 11}) + b"data: [DONE]\n\n"

    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=events()))
    stream = Turnout("http://127.0.0.1:9", clock=clock, transport=transport).chat_stream(HELLO)
    assert list(stream) == ["a"]
    assert (stream.facts.first_token_seconds, stream.facts.total_seconds) == (2.0, 7.0)
    assert stream.facts.tokens_per_second == 2.0


def test_an_error_event_inside_a_stream_is_raised_after_its_text() -> None:
    error = {"message": "cut", "code": "answer_cut_off", "hint": "again", "source": "upstream"}
    got: list[str] = []
    with pytest.raises(ApiError, match="cut") as caught:
        got.extend(streaming(delta(content="He"), event(error=error), b"data: [DONE]\n\n").chat_stream(HELLO))
    assert (caught.value.code, caught.value.source, caught.value.request_id) == ("answer_cut_off", "upstream", "req_7")


@pytest.mark.parametrize("last", [b"", b"data: {\n\n", b"data: {}"])
def test_a_stream_without_its_end_is_an_error(last: bytes) -> None:
    with pytest.raises(ApiError, match="cut off") as caught:
        list(streaming(delta(content="He"), last).chat_stream(HELLO))
    assert "turnout why req_7" in caught.value.hint


def test_a_connection_that_breaks_is_an_error_of_the_answer() -> None:
    def events() -> Iterator[bytes]:
        yield delta(content="He")
        raise httpx2.ReadError("reset")

    with pytest.raises(ApiError, match="reset"):
        list(client_of(lambda _: httpx2.Response(200, content=events())).chat_stream(HELLO))


def test_an_error_before_a_stream_is_the_daemons_word() -> None:
    body = {"error": {"message": "no model 'x'", "code": "model_not_found", "hint": "local/y"}}
    with pytest.raises(ApiError, match="no model 'x'") as caught:
        client_of(lambda _: httpx2.Response(404, headers=HEADERS, json=body)).chat_stream(HELLO, "x")
    assert (caught.value.status, caught.value.request_id) == (404, "req_7")


def test_events_are_cut_at_line_feeds_only() -> None:
    text = "data: \u2028one\r\n\ndata:two\n\n".encode()
    assert list(read_events(iter([text[:7], text[7:], b"data: last"]))) == ["\u2028one".encode(), b"two", b"last"]
