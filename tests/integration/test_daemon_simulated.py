"""The daemon as a process, with simulated models: routing, failover, streams, start and end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from support.daemon import RunningDaemon, StartDaemon, children_of, until_gone

FAST: dict[str, Any] = {"engine": "simulated", "tokens_per_second": 5000, "roles": ["orchestrator"]}


async def test_whole_answer_and_its_facts(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon({"models": {"fast": FAST}})
    answer = await daemon.chat()
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    headers = answer.headers
    assert headers["x-turnout-requested-model"] == "auto"
    assert headers["x-turnout-served-model"] == "local/fast"
    assert headers["x-turnout-tier"] == "local"
    assert headers["x-turnout-attempts"] == "1"
    assert headers["x-turnout-cost-usd"] == "0"
    trace = await daemon.why(headers["x-turnout-request-id"])
    assert trace["outcome"] == "answered"
    assert trace["usage"]["completion_tokens"] > 0
    assert [step["name"] for step in trace["attempts"][0]["steps"]] == ["send", "first_byte", "body"]
    assert "Hello" not in json.dumps(trace)


async def test_stream_passes_through_and_ends(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon({"models": {"fast": FAST}})
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    async with daemon.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["object"] == "chat.completion.chunk"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "error", "status": 500}, "upstream_failed"),
        ({"kind": "refuse_connection"}, "answer_cut_off"),
        ({"kind": "cut", "after_tokens": 0}, "answer_cut_off"),
    ],
)
async def test_next_target_takes_over_before_the_first_byte(
    start_daemon: StartDaemon, fault: dict[str, Any], code: str
) -> None:
    models = {"bad": {**FAST, "faults": [fault]}, "good": FAST}
    daemon = await start_daemon({"models": models, "chains": {"orchestrator": ["local/bad", "local/good"]}})
    for stream in (False, True):
        answer = await daemon.chat(stream=stream)
        assert answer.status_code == 200
        assert answer.headers["x-turnout-served-model"] == "local/good"
        assert answer.headers["x-turnout-attempts"] == "2"
        trace = await daemon.why(answer.headers["x-turnout-request-id"])
        assert [attempt["target"] for attempt in trace["attempts"]] == ["local/bad", "local/good"]
        assert trace["attempts"][0]["code"] == code
        assert trace["attempts"][0]["error"]


@pytest.mark.parametrize("kind", ["cut", "truncate"])
async def test_broken_stream_is_told_and_ended(start_daemon: StartDaemon, kind: str) -> None:
    models = {"bad": {**FAST, "faults": [{"kind": kind, "after_tokens": 3}]}, "good": FAST}
    daemon = await start_daemon({"models": models, "chains": {"orchestrator": ["local/bad", "local/good"]}})
    answer = await daemon.chat(stream=True)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    error = json.loads(events[-2])["error"]
    assert error["code"] == "answer_cut_off"
    assert (await daemon.why(answer.headers["x-turnout-request-id"]))["outcome"] == "broken"


async def test_stalled_stream_reaches_its_deadline(start_daemon: StartDaemon) -> None:
    models = {"bad": {**FAST, "faults": [{"kind": "stall", "after_tokens": 3}]}}
    daemon = await start_daemon({"models": models, "deadlines": {"gap": 0.3}})
    answer = await daemon.chat(stream=True)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert json.loads(events[-2])["error"]["code"] == "answer_stalled"
    assert events[-1] == "[DONE]"


async def test_a_crashed_worker_comes_back(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon({"models": {"fast": FAST}})
    (worker,) = children_of(daemon.pid)
    os.kill(worker, signal.SIGKILL)
    await until_gone({worker})
    answer = await daemon.chat()
    assert answer.status_code in (200, 502)  # the first call may meet the dead process before its death was noticed
    await daemon.until_state("local/fast", "ready")
    assert (await daemon.chat()).status_code == 200
    assert children_of(daemon.pid) - {worker}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("load", ["idle", "stream"])
async def test_nothing_is_left_running(start_daemon: StartDaemon, number: int, load: str) -> None:
    slow = {**FAST, "tokens_per_second": 20, "reply_tokens": 100_000}
    daemon = await start_daemon({"models": {"slow": slow}, "server": {"drain_seconds": 0.5}})
    workers = children_of(daemon.pid)
    assert workers
    if load == "idle":
        await daemon.stop(number)
    else:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True}
        async with daemon.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            pieces = answer.aiter_text()
            seen = await anext(pieces)
            await daemon.stop(number)
            if number == signal.SIGTERM:
                seen += "".join([piece async for piece in pieces])
        if number == signal.SIGTERM:
            events = [line.removeprefix("data: ") for line in seen.splitlines() if line]
            assert events[-1] == "[DONE]"
            assert json.loads(events[-2])["error"]["code"] == "shutting_down"
    await until_gone(workers)
    if number == signal.SIGTERM:
        assert daemon.process.returncode == 0
        assert not (daemon.home / "state" / "turnout" / "daemon.json").exists()


async def test_a_caller_who_leaves_frees_the_engine(start_daemon: StartDaemon) -> None:
    slow = {**FAST, "tokens_per_second": 50, "reply_tokens": 100_000}
    upstream = await start_daemon({"models": {"slow": slow}})
    daemon = await start_daemon(
        {"models": {"far": {"engine": "external", "base_url": f"{upstream.url}/v1", "model": "local/slow"}}}
    )
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True}
    async with daemon.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        await anext(answer.aiter_bytes())
        assert (await upstream.status())["running_requests"] == 1
    await _until_idle(upstream)
    assert (await daemon.why("last"))["outcome"] == "caller_left"
    assert (await upstream.why("last"))["outcome"] == "caller_left"


async def test_a_dead_external_costs_one_caller_not_every_caller(start_daemon: StartDaemon) -> None:
    dead = {"engine": "external", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    models = {"dead": dead, "good": FAST}
    daemon = await start_daemon({"models": models, "chains": {"orchestrator": ["local/dead", "local/good"]}})
    first, second = await daemon.chat(), await daemon.chat()
    assert first.headers["x-turnout-attempts"] == "2"
    assert second.headers["x-turnout-attempts"] == "1"
    trace = await daemon.why(second.headers["x-turnout-request-id"])
    assert trace["attempts"][0]["code"] == "breaker_open"
    assert "refused" in trace["attempts"][0]["error"].lower()


async def test_the_callers_mistake_is_not_tried_elsewhere(start_daemon: StartDaemon) -> None:
    small = {**FAST, "context_tokens": 64}
    daemon = await start_daemon(
        {"models": {"small": small, "other": FAST}, "chains": {"orchestrator": ["local/small", "local/other"]}}
    )
    answer = await daemon.client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "word " * 500}]}
    )
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["source"] == "upstream"
    assert error["hint"]
    assert answer.headers["x-turnout-attempts"] == "1"


async def test_two_daemons_cannot_share_a_state_directory(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon({"models": {"fast": FAST}})
    with pytest.raises(AssertionError, match=r"already running at http(.|\n)*`turnout ps`"):
        await start_daemon({"models": {"fast": FAST}}, home=daemon.home)


async def test_a_port_in_use_is_one_clear_line(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon({"models": {"fast": FAST}})
    port = int(daemon.url.rsplit(":", 1)[1])
    with pytest.raises(AssertionError, match=r"error: 127.0.0.1:\d+ is in use\nhint:"):
        await start_daemon({"models": {"fast": FAST}}, port=port)


async def test_beyond_loopback_needs_a_key(start_daemon: StartDaemon) -> None:
    with pytest.raises(AssertionError, match="needs at least one key"):
        await start_daemon({"models": {"fast": FAST}, "server": {"host": "0.0.0.0"}})  # noqa: S104


async def _until_idle(daemon: RunningDaemon) -> None:
    async with asyncio.timeout(5):
        while (await daemon.status())["running_requests"]:
            pass
