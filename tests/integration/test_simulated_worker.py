"""The simulated worker as a real process: every endpoint, every fault, its key, its life and its death."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

import turnout

COMMAND = (sys.executable, "-m", "turnout.tiers.local.simulated.worker")
SOURCE = str(Path(turnout.__file__).parents[1])
PATIENCE_SECONDS = 10.0
FAST = {"tokens_per_second": 2000}
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
JSON = dict[str, Any]


class Worker:
    """A running worker and a client for it."""

    def __init__(self, process: Process, key: str = "") -> None:
        self.process = process
        self.progress: list[JSON] = []
        self.client = httpx2.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False)
        self._key = key

    async def line(self) -> JSON:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line: JSON = json.loads(await self.process.stdout.readline())
        return line

    async def wait_until_ready(self) -> None:
        while "ready" not in (line := await self.line()):
            self.progress.append(line)
        self.connect_to(line["url"])

    def connect_to(self, url: str) -> None:
        self.client.base_url = httpx2.URL(url)
        if self._key:
            self.client.headers["Authorization"] = f"Bearer {self._key}"

    async def chat(self, **fields: Any) -> httpx2.Response:
        return await self.client.post("/v1/chat/completions", json=CHAT | fields)

    async def stream(self, path: str = "/v1/chat/completions", **fields: Any) -> AsyncIterator[str]:
        """Yield what follows ``data: `` in each event."""
        body = (CHAT if "chat" in path else {"prompt": "hello"}) | fields | {"stream": True}
        async with self.client.stream("POST", path, json=body) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            async for line in response.aiter_lines():
                if line:
                    yield line.removeprefix("data: ")

    async def state(self) -> JSON:
        state: JSON = (await self.client.get("/simulated/state")).json()
        return state

    async def wait_for_state(self, **wanted: int) -> float:
        """Ask until the state is as wanted; return how long that took."""
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not wanted.items() <= (await self.state()).items():
                pass
        return time.monotonic() - began

    async def exit_status(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def started(*arguments: str, spec: JSON | None = None) -> AsyncIterator[Worker]:
    """Start a worker and let it go in the end, whatever happened."""
    environment = os.environ | {"PYTHONPATH": SOURCE}
    process = await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdin=PIPE, stdout=PIPE, env=environment)
    assert process.stdin is not None
    if spec is not None:
        process.stdin.write(json.dumps(spec).encode() + b"\n")
    worker = Worker(process, key=(spec or {}).get("key", ""))
    try:
        async with worker.client:
            yield worker
    finally:
        if process.returncode is None:
            process.kill()
        process.stdin.close()
        await process.communicate()


@asynccontextmanager
async def ready(**spec: Any) -> AsyncIterator[Worker]:
    async with started(spec=FAST | spec) as worker:
        await worker.wait_until_ready()
        yield worker


def words(events: list[str]) -> list[str]:
    """Return the texts of a chat stream, leaving out what has none."""
    deltas = [choice["delta"] for event in events if event.startswith("{") for choice in choices(event)]
    return [delta["content"] for delta in deltas if delta.get("content")]


def choices(event: str) -> list[JSON]:
    try:
        return list(json.loads(event)["choices"])
    except json.JSONDecodeError:
        return []


async def read_until(error: type[Exception], events: AsyncIterator[str]) -> list[str]:
    """Return the events before an error that has to come."""
    seen: list[str] = []
    while True:
        try:
            seen.append(await anext(events))
        except error:
            return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- Life and death


async def test_it_listens_while_it_loads_and_tells_how_far_it_is() -> None:
    port = free_port()
    async with started(spec={"port": port, "load_seconds": 0.5}) as worker:
        assert (await worker.line())["progress"] == "loading"
        worker.connect_to(f"http://127.0.0.1:{port}")
        for path in ("/health", "/v1/models"):
            response = await worker.client.get(path)
            assert response.status_code == 503
            assert response.json()["error"]["message"] == "Loading model"
        await worker.wait_until_ready()
        assert (await worker.client.get("/health")).json() == {"status": "ok"}
        fractions = [line["fraction"] for line in worker.progress]
        assert 2 <= len(fractions) <= 6
        assert fractions == sorted(fractions)
        assert all(0.0 <= fraction <= 1.0 for fraction in fractions)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"load_error": "out of memory"}\n', "out of memory"),
        (b'{"slots": 0}\n', "slots"),
        (b'{"slotz": 1}\n', "slotz"),
        (b"nonsense\n", "SimulatedSpec"),
        (b'{"slots": 1}', "one line of JSON"),
    ],
)
async def test_what_cannot_load_says_why_and_exits_with_1(line: bytes, reason: str) -> None:
    async with started() as worker:
        assert worker.process.stdin is not None
        worker.process.stdin.write(line)
        if not line.endswith(b"\n"):
            worker.process.stdin.close()
        while "failed" not in (answer := await worker.line()):
            assert "progress" in answer
        assert reason in answer["failed"]
        assert await worker.exit_status() == 1


async def test_a_port_in_use_is_a_failure_to_load() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with started(spec={"port": taken.getsockname()[1]}) as worker:
            assert "cannot listen" in (await worker.line())["failed"]
            assert await worker.exit_status() == 1


async def test_the_end_of_stdin_ends_it_even_in_the_middle_of_an_answer() -> None:
    async with ready(tokens_per_second=1) as worker:
        events = worker.stream()
        await anext(events)
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert await worker.exit_status() == 0
        with pytest.raises(httpx2.TransportError):
            [event async for event in events]


async def test_sigterm_ends_it_within_a_second_even_in_the_middle_of_an_answer() -> None:
    async with ready(tokens_per_second=1) as worker:
        events = worker.stream()
        await anext(events)
        began = time.monotonic()
        worker.process.terminate()
        assert await worker.exit_status() == -signal.SIGTERM
        assert time.monotonic() - began < 1.0
        with pytest.raises(httpx2.TransportError):
            [event async for event in events]


async def test_by_hand_it_takes_options_and_watches_no_parent() -> None:
    fault = json.dumps({"kind": "error", "times": 1})
    arguments = ("--port", str(free_port()), "--model", "by-hand", "--tokens-per-second", "500.5", "--fault", fault)
    async with started(*arguments) as worker:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        await worker.wait_until_ready()
        assert (await worker.chat()).status_code == 500
        assert (await worker.chat()).json()["model"] == "by-hand"
        worker.process.send_signal(signal.SIGINT)
        assert await worker.exit_status() == 0


async def test_by_hand_a_wrong_option_is_told() -> None:
    async with started("--slots", "0") as worker:
        assert await worker.exit_status() == 2


# --- Endpoints


async def test_only_health_is_open_without_the_key() -> None:
    async with ready(key="secret") as worker:
        assert (await worker.chat(max_tokens=1)).status_code == 200
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            async with httpx2.AsyncClient(base_url=worker.client.base_url, headers=header, trust_env=False) as stranger:
                assert (await stranger.get("/health")).status_code == 200
                for path in ("/v1/models", "/simulated/state", "/nowhere"):
                    refused = await stranger.get(path)
                    assert refused.status_code == 401
                    assert refused.json()["error"]["code"] == "invalid_api_key"
                assert (await stranger.post("/v1/chat/completions", json=CHAT)).status_code == 401


async def test_unknown_paths_methods_and_bodies_are_the_callers_mistake() -> None:
    async with ready(context_tokens=16) as worker:
        assert (await worker.client.get("/nowhere")).status_code == 404
        assert (await worker.client.get("/v1/embeddings")).status_code == 405
        mistakes: list[JSON] = [{"messages": "hello"}, {"messages": []}, {"n": 2}, {"max_tokens": 0}, {"seed": "odd"}]
        for fields in mistakes:
            assert (await worker.chat(**fields)).status_code == 400
        assert (await worker.client.post("/v1/completions", content=b"{")).status_code == 400
        assert (await worker.client.post("/v1/embeddings", json={"input": "a", "dimensions": 9})).status_code == 400
        overflow = await worker.chat(messages=[{"role": "user", "content": "x" * 64}])
        assert overflow.status_code == 400
        error = overflow.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "context_length_exceeded")
        assert (await worker.state())["started"] == 0


async def test_a_chat_has_the_same_words_whole_and_streamed() -> None:
    async with ready(model="plain") as worker:
        whole = (await worker.chat(max_tokens=20)).json()
        events = [event async for event in worker.stream(max_tokens=20, stream_options={"include_usage": True})]
        assert whole["model"] == "plain"
        assert whole["object"] == "chat.completion"
        assert abs(whole["created"] - time.time()) < 60  # noqa: TID251  compared with another process's clock
        assert whole["usage"] == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22}
        assert len(words(events)) == 20, "one token in each event"
        assert "".join(words(events)) == whole["choices"][0]["message"]["content"]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["usage"] == whole["usage"]
        assert choices(events[-3])[0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"
        assert choices(events[0])[0]["delta"] == {"role": "assistant", "content": ""}
        assert await worker.state() == {
            "running": 0, "queued": 0, "started": 2, "finished": 2, "cancelled": 0, "tokens_sent": 40
        }  # fmt: skip


async def test_usage_is_streamed_only_if_it_was_asked_for() -> None:
    async with ready() as worker:
        assert not any("usage" in event for event in [event async for event in worker.stream()])


async def test_plain_completions_whole_and_streamed() -> None:
    async with ready() as worker:
        whole = (await worker.client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 8})).json()
        events = [event async for event in worker.stream("/v1/completions", max_tokens=8)]
        assert whole["object"] == "text_completion"
        assert "".join(choice["text"] for event in events for choice in choices(event)) == whole["choices"][0]["text"]
        assert events[-1] == "[DONE]"


async def test_a_tool_call_whole_and_streamed() -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string", "minLength": 9}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    async with ready() as worker:
        whole = (await worker.chat(tools=tools, tool_choice="required")).json()["choices"][0]
        assert whole["finish_reason"] == "tool_calls"
        assert whole["message"]["content"] is None
        function = whole["message"]["tool_calls"][0]["function"]
        assert (function["name"], json.loads(function["arguments"])) == ("weather", {"city": "aaaaaaaaa"})

        events = [event async for event in worker.stream(tools=tools, tool_choice="required")]
        deltas = [choice["delta"] for event in events for choice in choices(event)]
        calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        assert calls[0]["function"]["name"] == "weather"
        assert calls[0]["id"].startswith("call_")
        assert "".join(call["function"]["arguments"] for call in calls) == function["arguments"]
        assert len(calls) > 2
        assert choices(events[-2])[0]["finish_reason"] == "tool_calls"


async def test_embeddings_as_floats_and_base64() -> None:
    async with ready(embedding_dimensions=12) as worker:
        floats = (await worker.client.post("/v1/embeddings", json={"input": ["a", "b", "a"]})).json()
        vectors = [entry["embedding"] for entry in floats["data"]]
        assert [entry["index"] for entry in floats["data"]] == [0, 1, 2]
        assert vectors[0] == vectors[2] != vectors[1]
        assert all(len(vector) == 12 and math.hypot(*vector) == pytest.approx(1.0) for vector in vectors)
        assert floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        request = {"input": "a", "encoding_format": "base64", "dimensions": 4}
        text = (await worker.client.post("/v1/embeddings", json=request)).json()["data"][0]["embedding"]
        assert isinstance(text, str)
        assert len(text) == 24


async def test_models_lists_the_served_name() -> None:
    async with ready(model="served") as worker:
        models = (await worker.client.get("/v1/models")).json()
        assert [entry["id"] for entry in models["data"]] == ["served"]


# --- Pace, slots and callers that leave


async def test_tokens_come_no_faster_than_the_rate() -> None:
    async with ready(tokens_per_second=100, first_token_seconds=0.1) as worker:
        began = time.monotonic()
        await worker.chat(max_tokens=31)
        assert time.monotonic() - began >= 0.1 + 30 / 100


async def test_more_requests_than_slots_wait_in_line() -> None:
    async with ready(slots=2, tokens_per_second=100) as worker, asyncio.TaskGroup() as group:
        answers = [group.create_task(worker.chat(max_tokens=20)) for _ in range(5)]
        await worker.wait_for_state(running=2, queued=3)
        await asyncio.gather(*answers)
        await worker.wait_for_state(running=0, queued=0, started=5, finished=5)


async def test_a_caller_who_leaves_a_stream_ends_it_at_once() -> None:
    async with ready(tokens_per_second=2) as worker:
        events = worker.stream()
        await anext(events)
        assert (await worker.state())["running"] == 1
        await events.aclose()  # type: ignore[attr-defined]  # an async generator is what it is
        assert await worker.wait_for_state(running=0, cancelled=1, finished=0) < 0.3


async def test_a_caller_who_leaves_before_the_whole_answer_ends_it_at_once() -> None:
    async with ready(tokens_per_second=2) as worker, asyncio.TaskGroup() as group:
        answer = group.create_task(worker.chat())
        await worker.wait_for_state(running=1)
        answer.cancel()
        assert await worker.wait_for_state(running=0, cancelled=1) < 0.3


async def test_a_caller_who_leaves_the_queue_never_starts() -> None:
    async with ready(slots=1, tokens_per_second=2) as worker, asyncio.TaskGroup() as group:
        first = group.create_task(worker.chat())
        await worker.wait_for_state(running=1)
        second = group.create_task(worker.chat())
        await worker.wait_for_state(queued=1)
        second.cancel()
        assert await worker.wait_for_state(running=1, queued=0, started=1, cancelled=1) < 0.3
        first.cancel()
        await worker.wait_for_state(running=0, cancelled=2)


async def test_a_hundred_streams_at_once_lose_no_token() -> None:
    async with ready(slots=100, tokens_per_second=200) as worker, asyncio.TaskGroup() as group:

        async def count() -> int:
            return len(words([event async for event in worker.stream(max_tokens=50, ignore_eos=True)]))

        counts = [group.create_task(count()) for _ in range(100)]
        assert await asyncio.gather(*counts) == [50] * 100


# --- Faults


async def test_an_error_comes_before_the_first_byte_and_only_as_often_as_told() -> None:
    fault = {"kind": "error", "skip": 1, "times": 1, "status": 429, "seconds": 7}
    async with ready(faults=[fault]) as worker:
        statuses = []
        for _ in range(3):
            response = await worker.chat(stream=True, max_tokens=1)
            statuses.append(response.status_code)
            if response.status_code == 429:
                assert response.headers["retry-after"] == "7"
                assert response.json()["error"]["code"] == "rate_limited"
        assert statuses == [200, 429, 200]


async def test_a_refused_connection_closes_without_an_answer() -> None:
    async with ready(faults=[{"kind": "refuse_connection", "times": 1}]) as worker:
        with pytest.raises(httpx2.TransportError):
            await worker.chat()
        assert (await worker.chat()).status_code == 200


async def test_a_slow_first_token_is_slow() -> None:
    async with ready(faults=[{"kind": "slow_first_token", "seconds": 0.4}]) as worker:
        began = time.monotonic()
        assert [event async for event in worker.stream(max_tokens=1)]
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("after_tokens", [0, 3])
async def test_a_stalled_stream_sends_nothing_until_the_caller_leaves(after_tokens: int) -> None:
    async with ready(faults=[{"kind": "stall", "after_tokens": after_tokens}]) as worker:
        worker.client.timeout = httpx2.Timeout(0.3)
        seen = await read_until(httpx2.ReadTimeout, worker.stream())
        assert len(words(seen)) == after_tokens
        await worker.wait_for_state(running=0, cancelled=1, tokens_sent=after_tokens)


@pytest.mark.parametrize("after_tokens", [0, 3])
async def test_a_cut_stream_breaks_off_after_what_was_sent(after_tokens: int) -> None:
    async with ready(faults=[{"kind": "cut", "after_tokens": after_tokens}]) as worker:
        seen = await read_until(httpx2.TransportError, worker.stream())
        assert len(words(seen)) == after_tokens
        await worker.wait_for_state(running=0, cancelled=1)


async def test_a_truncated_stream_ends_cleanly_but_too_early() -> None:
    async with ready(faults=[{"kind": "truncate", "after_tokens": 3}]) as worker:
        events = [event async for event in worker.stream()]
        assert len(words(events)) == 3
        assert "[DONE]" not in events
        assert not any(choice["finish_reason"] for event in events for choice in choices(event))


async def test_a_malformed_stream_has_one_event_that_is_not_json() -> None:
    async with ready(faults=[{"kind": "malformed", "after_tokens": 3}]) as worker:
        events = [event async for event in worker.stream(max_tokens=10)]
        assert len(words(events)) == 10
        assert events[-1] == "[DONE]"
        assert [place for place, event in enumerate(events[:-1]) if not choices(event)] == [4]


async def test_an_endless_stream_goes_on_beyond_its_limit() -> None:
    async with ready(faults=[{"kind": "endless"}]) as worker:
        count = 0
        events = worker.stream(max_tokens=5)
        async for _ in events:
            count += 1
            if count == 200:
                break
        await events.aclose()  # type: ignore[attr-defined]  # an async generator is what it is
        await worker.wait_for_state(running=0, cancelled=1)


async def test_a_crash_takes_the_process_along_after_what_was_sent() -> None:
    async with ready(faults=[{"kind": "crash", "after_tokens": 3}]) as worker:
        seen = await read_until(httpx2.TransportError, worker.stream())
        assert len(words(seen)) == 3
        assert await worker.exit_status() == 9


@pytest.mark.parametrize("kind", ["cut", "crash"])
async def test_a_whole_answer_breaks_off(kind: str) -> None:
    async with ready(faults=[{"kind": kind, "after_tokens": 2}]) as worker:
        with pytest.raises(httpx2.TransportError):
            await worker.chat()


@pytest.mark.parametrize("kind", ["truncate", "malformed"])
async def test_a_whole_answer_is_not_json(kind: str) -> None:
    async with ready(faults=[{"kind": kind}]) as worker:
        for response in (await worker.chat(), await worker.client.post("/v1/embeddings", json={"input": "a"})):
            assert response.status_code == 200
            with pytest.raises(json.JSONDecodeError):
                response.json()


@pytest.mark.parametrize("kind", ["stall", "endless"])
async def test_a_whole_answer_never_comes(kind: str) -> None:
    async with ready(faults=[{"kind": kind}]) as worker:
        worker.client.timeout = httpx2.Timeout(0.3)
        with pytest.raises(httpx2.ReadTimeout):
            await worker.chat(max_tokens=3)
        await worker.wait_for_state(running=0, cancelled=1)
