"""Every name that a caller may use, each once; and an answer's headers and end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from support.exchange import POST, Answer, MemoryTransport, ask
from support.samples import a_request, a_target
from turnout.core.errors import CutOff, RateLimited, Unauthorized
from turnout.core.snapshot import Snapshot
from turnout.core.words import Target
from turnout.gateway.catalogue import list_models
from turnout.gateway.exchange import Exchange
from turnout.gateway.sink import OpenAiSink, route_lines, send_error


def world(*targets: Target, **facts: Any) -> Snapshot:
    return Snapshot(targets={target.name: target for target in targets}, **facts)


def test_auto_is_first_and_every_name_is_there_once() -> None:
    lead = a_target("local/lead", roles=("orchestrator", "coding"), state="failed", detail="it fell")
    snapshot = world(
        lead,
        a_target("local/e", can=frozenset({"embedding"}), roles=("embedding",)),
        aliases={
            "gpt-4o*": "coding",
            "a?": "coding",
            "b[c]": "coding",
            "fast": "local/lead",
            "coding": "local/e",
            "best": "auto",
        },
    )
    entries = list_models(snapshot, 7)
    ids = [entry["id"] for entry in entries]

    assert ids == ["auto", "local/lead", "local/e", "fast", "coding", "best", "orchestrator", "embedding"]
    assert all((entry["object"], entry["created"]) == ("model", 7) for entry in entries)
    by_id = {entry["id"]: entry for entry in entries}
    assert by_id["auto"]["served_by"] == by_id["best"]["served_by"] == ["local/lead"]
    assert by_id["coding"]["kind"] == "alias", "an alias comes before the role of its name"
    assert by_id["coding"]["capabilities"] == ["embedding"]
    assert (by_id["local/lead"]["note"], by_id["local/lead"]["state"]) == ("it fell", "failed")
    assert by_id["local/lead"]["owned_by"] == "simulated"


def test_nothing_is_listed_where_nothing_is_but_auto() -> None:
    assert [entry["id"] for entry in list_models(world(), 1)] == ["auto"]
    gone = list_models(world(aliases={"x": "local/gone"}, chains={"coding": ("local/gone",)}), 1)
    assert [(entry["id"], entry["capabilities"]) for entry in gone] == [("auto", []), ("x", []), ("coding", [])]


def facts(lines: bytes) -> dict[bytes, bytes]:
    """Return rendered header lines as a dictionary."""
    assert lines.endswith(b"\r\n")
    pairs = [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]
    return {name: value for name, _, value in pairs}


Story = Callable[[OpenAiSink], Awaitable[None]]


async def told(story: Story, **request: Any) -> tuple[Answer, MemoryTransport]:
    """Return what a caller gets whose answer is given by ``story``."""

    async def handle(exchange: Exchange) -> None:
        await exchange.read_body()
        await story(OpenAiSink(exchange, a_request(**request)))

    return await ask(handle, POST)


@pytest.mark.parametrize(
    ("selector", "shown"),
    [
        ("local/tiny", b"local/tiny"),
        ("a b:c@d", b"a b:c@d"),
        ("modèle", b"mod%C3%A8le"),
        ("模型", b"%E6%A8%A1%E5%9E%8B"),
        ("a\r\nx: y", b"a%0D%0Ax:%20y".replace(b"%20", b" ")),
        ("\x00", b"%00"),
        ("\x7f", b"%7F"),
    ],
)
def test_a_selector_cannot_break_the_headers(selector: str, shown: bytes) -> None:
    headers = facts(route_lines(a_request(selector=selector), None, 0))
    assert headers[b"x-turnout-requested-model"] == shown
    assert all(b"\r" not in value and b"\n" not in value and value.isascii() for value in headers.values())


def test_the_facts_of_the_route_are_in_the_headers() -> None:
    served = a_target("local/é")
    headers = facts(route_lines(a_request(effort=7), served, 2))
    assert headers == {
        b"x-turnout-request-id": b"req_1", b"x-turnout-requested-model": b"auto", b"x-turnout-effort": b"7",
        b"x-turnout-attempts": b"2", b"x-turnout-cost-usd": b"0", b"x-turnout-served-model": b"local/%C3%A9",
        b"x-turnout-tier": b"local",
    }  # fmt: skip
    bare = facts(route_lines(a_request(), None, 0))
    assert bare[b"x-turnout-effort"] == b"unrated"
    assert b"x-turnout-served-model" not in bare


async def test_a_stream_that_fails_ends_with_an_error_event_and_the_marker() -> None:
    async def story(out: OpenAiSink) -> None:
        await out.begin(a_target())
        await out.write(b"data: {}\n\n")
        await asyncio.sleep(0)
        await out.fail(CutOff("gone"))

    answer, transport = await told(story)

    assert answer.status == 200
    assert answer.headers[b"content-type"].startswith(b"text/event-stream")
    assert answer.body.startswith(b"data: {}\n\ndata: ")
    event, marker, rest = answer.body.removeprefix(b"data: {}\n\n").partition(b"\n\ndata: [DONE]\n\n")
    assert (marker, rest) == (b"\n\ndata: [DONE]\n\n", b"")
    assert msgspec.json.decode(event.removeprefix(b"data: "))["error"]["code"] == "answer_cut_off"
    assert len(transport.writes) == 2, "the head leaves with the first piece, the end with the last"


async def test_a_stream_that_ends_at_once_is_one_write() -> None:
    async def story(out: OpenAiSink) -> None:
        await out.begin(a_target())
        assert out.is_begun
        await out.finish(b"data: [DONE]\n\n")

    answer, transport = await told(story)
    assert answer.body == b"data: [DONE]\n\n"
    assert len(transport.writes) == 1


async def test_where_the_head_came_before_the_route_was_known_its_facts_come_last() -> None:
    async def story(out: OpenAiSink) -> None:
        await out.progress("turnout: waiting for local/a, position 2")
        assert (out.is_begun, out.is_answering) == (True, False)
        await out.progress("turnout: waiting for local/a, position 1")
        out.attempts = 3
        await out.begin(a_target())
        assert out.is_answering
        await out.write(b"data: {}\n\n")
        await out.finish(b"data: {}\n\ndata: [DONE]\n\n")

    answer, _ = await told(story, selector="auto")

    assert answer.status == 200
    assert b"x-turnout-served-model" not in answer.headers
    first, second, *events, end = answer.body.split(b"\n\n")
    assert (first, second, end) == (
        b": turnout: waiting for local/a, position 2", b": turnout: waiting for local/a, position 1", b""
    )  # fmt: skip
    assert events[:2] == [b"data: {}", b"data: {}"]
    assert events[3:] == [b"data: [DONE]"]
    facts = msgspec.json.decode(events[2].removeprefix(b"data: "))
    assert (facts["choices"], facts["object"]) == ([], "chat.completion.chunk")
    assert facts["turnout"] == {
        "request_id": "req_1", "requested_model": "auto", "served_model": a_target().name, "tier": "local",
        "attempts": 3, "effort": None, "cost_usd": 0,
    }  # fmt: skip


async def test_who_waited_and_gets_nothing_gets_an_error_in_the_stream() -> None:
    async def story(out: OpenAiSink) -> None:
        await out.progress("turnout: waiting")
        await out.fail(CutOff("gone"))

    answer, _ = await told(story)
    assert answer.status == 200
    assert answer.body.startswith(b': turnout: waiting\n\ndata: {"error"')
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_a_whole_answer_is_json_and_ends() -> None:
    async def story(out: OpenAiSink) -> None:
        await out.whole(a_target(), b"{}")
        await out.fail(CutOff("the caller did not take it"))
        assert out.is_begun

    answer, transport = await told(story)
    assert (answer.headers[b"content-type"], answer.headers[b"content-length"]) == (b"application/json", b"2")
    assert answer.body == b"{}"
    assert len(transport.writes) == 1


@pytest.mark.parametrize(("seconds", "header"), [(0.2, b"1"), (7.4, b"7"), (None, None)])
async def test_an_error_is_a_whole_answer_with_its_headers(seconds: float | None, header: bytes | None) -> None:
    async def handle(exchange: Exchange) -> None:
        await send_error(exchange, RateLimited("slow", retry_after_seconds=seconds), "req_9", b"allow: GET\r\n")

    answer, _ = await ask(handle, POST)
    assert answer.status == 429
    assert answer.headers.get(b"retry-after") == header
    assert answer.headers[b"x-turnout-request-id"] == b"req_9"
    assert answer.headers[b"allow"] == b"GET"
    assert answer.error["code"] == "rate_limited"
    assert b"www-authenticate" not in answer.headers


async def test_an_unknown_caller_is_told_how_to_come_in_and_the_id_once() -> None:
    async def handle(exchange: Exchange) -> None:
        await send_error(exchange, Unauthorized("no"), "req_9", b"x-turnout-request-id: req_9\r\n")

    answer, _ = await ask(handle, POST)
    names = [name for name, _ in answer.pairs]
    assert b"www-authenticate" in names
    assert names.count(b"x-turnout-request-id") == 1
