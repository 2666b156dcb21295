"""Every name that a caller may use, each once; and an answer's headers and end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from support.samples import a_request, a_target
from turnout.core.errors import CutOff, RateLimited, Unauthorized
from turnout.core.snapshot import Snapshot
from turnout.core.words import Target
from turnout.gateway.catalogue import list_models
from turnout.gateway.sink import OpenAiSink, route_headers, send_error


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


Sent = list[dict[str, Any]]


def sink(sent: Sent, **facts: Any) -> OpenAiSink:
    async def send(message: Any) -> None:
        sent.append(dict(message))

    return OpenAiSink(send, a_request(**facts))


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
    headers = dict(route_headers(a_request(selector=selector), None, 0))
    assert headers[b"x-turnout-requested-model"] == shown
    assert all(b"\r" not in value and b"\n" not in value and value.isascii() for value in headers.values())


def test_the_facts_of_the_route_are_in_the_headers() -> None:
    served = a_target("local/é")
    headers = dict(route_headers(a_request(effort=7), served, 2))
    assert headers == {
        b"x-turnout-request-id": b"req_1", b"x-turnout-requested-model": b"auto", b"x-turnout-effort": b"7",
        b"x-turnout-attempts": b"2", b"x-turnout-cost-usd": b"0", b"x-turnout-served-model": b"local/%C3%A9",
        b"x-turnout-tier": b"local",
    }  # fmt: skip
    bare = dict(route_headers(a_request(), None, 0))
    assert bare[b"x-turnout-effort"] == b"unrated"
    assert b"x-turnout-served-model" not in bare


async def test_a_stream_that_fails_ends_with_an_error_event_and_the_marker() -> None:
    sent: Sent = []
    out = sink(sent)
    await out.begin(a_target())
    await out.write(b"data: {}\n\n")
    await out.fail(CutOff("gone"))

    assert sent[0]["status"] == 200
    assert dict(sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
    event, marker, rest = sent[2]["body"].partition(b"\n\ndata: [DONE]\n\n")
    assert (marker, rest) == (b"\n\ndata: [DONE]\n\n", b"")
    assert msgspec.json.decode(event.removeprefix(b"data: "))["error"]["code"] == "answer_cut_off"
    assert [message["more_body"] for message in sent[1:]] == [True, True, False]


async def test_a_whole_answer_is_json_and_ends() -> None:
    sent: Sent = []
    out = sink(sent)
    await out.whole(a_target(), b"{}")
    await out.fail(CutOff("the caller did not take it"))

    assert out.is_begun
    headers = dict(sent[0]["headers"])
    assert (headers[b"content-type"], headers[b"content-length"]) == (b"application/json", b"2")
    assert [(m["body"], m["more_body"]) for m in sent[1:]] == [(b"{}", False)]


@pytest.mark.parametrize(("seconds", "header"), [(0.2, b"1"), (7.4, b"7"), (None, None)])
async def test_an_error_is_a_whole_answer_with_its_headers(seconds: float | None, header: bytes | None) -> None:
    sent: Sent = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await send_error(send, RateLimited("slow down", retry_after_seconds=seconds), "req_9", [(b"allow", b"GET")])
    headers = dict(sent[0]["headers"])

    assert sent[0]["status"] == 429
    assert headers.get(b"retry-after") == header
    assert headers[b"x-turnout-request-id"] == b"req_9"
    assert headers[b"allow"] == b"GET"
    assert headers[b"content-length"] == str(len(sent[1]["body"])).encode()
    assert b"www-authenticate" not in headers
    await send_error(send, Unauthorized("no"), "req_9", [(b"x-turnout-request-id", b"req_9")])
    headers_of_401 = [name for name, _ in sent[2]["headers"]]
    assert b"www-authenticate" in headers_of_401
    assert headers_of_401.count(b"x-turnout-request-id") == 1
