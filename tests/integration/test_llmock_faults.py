"""Somebody else's failing engine: llmock's scenarios end as docs/concepts/faults.md says.

llmock (github.com/JulienRabault/LLMock) is another process behind a common server (uvicorn): the table has to hold for
more than our own idea of how an engine fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
import pytest_asyncio

from support.daemon import RunningDaemon, launch
from support.fault_table import AFTER, BEFORE, Outcome, read_table
from turnout.core.words import ROLES

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = {row[:2]: row for row in read_table((Path(__file__).parents[2] / "docs/concepts/faults.md").read_text("utf-8"))}
FAILING, GOOD = "gpt-4o", "gpt-4o-mini"
FIRST_BYTE, GAP, MARGIN = 1.5, 1.0, 2.0
RETRY_AFTER = 7
TOO_LONG = 8.0
CHUNKS = 3
READY_SECONDS, END_SECONDS = 30.0, 15.0


class Case(NamedTuple):
    """One scenario of llmock, and the row of the table that it is an example of."""

    name: str
    scenario: dict[str, Any]
    fault: str
    is_after: bool = False
    forms: tuple[bool, ...] = (True,)
    """Streamed, whole, or both."""

    def expected(self, *, is_stream: bool) -> Outcome:
        """Return what the table says."""
        row = ROWS[self.fault, AFTER if self.is_after else BEFORE]
        outcome = row.streamed if is_stream else row.whole
        assert outcome is not None
        return outcome


def _stream_fault(kind: str, after_chunks: int) -> dict[str, Any]:
    return {"type": "stream_fault", "kind": kind, "after_chunks": after_chunks, "stall_seconds": TOO_LONG}


BOTH = (True, False)
CASES = [
    Case("fail-429", {"type": "fail", "status": 429, "retry_after": RETRY_AFTER}, "status-429", forms=BOTH),
    Case("fail-500", {"type": "fail", "status": 500}, "status-500", forms=BOTH),
    Case("fail-503", {"type": "fail", "status": 503, "retry_after": RETRY_AFTER}, "status-503", forms=BOTH),
    Case("delay-stream", {"type": "delay", "seconds": TOO_LONG}, "slow-headers"),
    Case("delay-whole", {"type": "delay", "seconds": TOO_LONG}, "slow-headers", forms=(False,)),
    Case("slow-first-token", {"type": "slow_first_token", "seconds": TOO_LONG}, "stall"),
    Case("disconnect-before", _stream_fault("disconnect", 0), "cut"),
    Case("disconnect-after", _stream_fault("disconnect", CHUNKS), "cut", is_after=True),
    Case("truncate-before", _stream_fault("truncate", 0), "no-end-marker"),
    Case("truncate-after", _stream_fault("truncate", CHUNKS), "no-end-marker", is_after=True),
    Case("malformed-before", _stream_fault("malformed", 0), "malformed"),
    Case("malformed-after", _stream_fault("malformed", CHUNKS), "malformed", is_after=True),
    Case("stall-after", _stream_fault("stall", CHUNKS), "stall", is_after=True),
]
"""As many as there are roles: each has a chain, and so a breaker, of its own."""


class Setup(NamedTuple):
    """A daemon in front of llmock, and llmock's own control API."""

    daemon: RunningDaemon
    control: httpx2.AsyncClient


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Setup]:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("llmock"), "serve", "--port", "0", "--stream-chunk-delay-ms", "20",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        try:
            url = await _url_of(process)
            tasks.create_task(_drain(process))
            daemon = await launch(tmp_path_factory.mktemp("llmock"), _config(f"{url}/v1"))
            try:
                tasks.create_task(_drain(daemon.process))
                async with httpx2.AsyncClient(base_url=f"{url}/_llmock", timeout=10) as control:
                    yield Setup(daemon, control)
            finally:
                await daemon.aclose()
        finally:
            await _end(process)


async def _url_of(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(READY_SECONDS):
        async for line in process.stderr:
            if b"running on http" in line:
                return line.decode().split("running on ")[1].split()[0]
    raise AssertionError(f"llmock ended with {await process.wait()}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    async for _ in process.stderr:
        pass


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _config(base_url: str) -> dict[str, Any]:
    failing = {"engine": "external", "base_url": base_url, "model": FAILING}
    models = {f"{case.name}-{count}": failing for case in CASES for count in ("one", "two")}
    chains = {role: [f"local/{case.name}-two", "local/good"] for role, case in zip(ROLES, CASES, strict=True)}
    deadlines = {"connect": 1, "first_byte": FIRST_BYTE, "gap": GAP, "total": 10}
    return {"models": {**models, "good": {**failing, "model": GOOD}}, "chains": chains, "deadlines": deadlines}


@pytest.mark.parametrize("has_second", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_llmock_fault(setup: Setup, case: Case, has_second: bool) -> None:
    selector = ROLES[CASES.index(case)] if has_second else f"local/{case.name}-one"
    for is_stream in case.forms:
        await _play(setup, case, selector, has_second=has_second, is_stream=is_stream)


async def _play(setup: Setup, case: Case, selector: str, *, has_second: bool, is_stream: bool) -> None:
    # The path keeps turnout's own look at /v1/models from meeting the fault.
    match = {"model": FAILING, "path": "/v1/chat/completions"}
    queued = await setup.control.post("/scenario", json={"behaviors": [{**case.scenario, "match": match}]})
    assert queued.json() == {"queued": 1, "pending": 1}
    loop = asyncio.get_running_loop()
    started = loop.time()
    answer = await setup.daemon.chat(selector, stream=is_stream)
    seconds = loop.time() - started
    assert (await setup.control.get("/scenario")).json() == {"pending": []}

    expected = case.expected(is_stream=is_stream)
    takes_over = has_second and expected.takes_over
    failing = f"local/{case.name}-{'two' if has_second else 'one'}"
    assert answer.status_code == (200 if takes_over else expected.status), answer.text
    assert answer.headers["x-turnout-attempts"] == ("2" if takes_over else "1")
    assert seconds < max(FIRST_BYTE, GAP) + MARGIN
    if takes_over:
        assert answer.headers["x-turnout-served-model"] == "local/good"
        _check_good(answer.text, is_stream=is_stream)
    elif expected.status == 200:
        *events, error = _events(answer.text)
        assert error["error"]["code"] == expected.code
        assert len(events) == CHUNKS
        assert all(event["object"] == "chat.completion.chunk" for event in events)
    else:
        assert answer.json()["error"]["code"] == expected.code
        assert answer.headers.get("retry-after") == (str(RETRY_AFTER) if "retry_after" in case.scenario else None)

    trace = await _trace_of(setup.daemon, answer.headers["x-turnout-request-id"])
    tries = [(failing, expected.code)] + [("local/good", "")] * takes_over
    assert [(attempt["target"], attempt["code"]) for attempt in trace["attempts"]] == tries
    assert trace["attempts"][0]["error"]
    assert trace["delivered"] == ("text" if answer.status_code == 200 else "nothing")


def _events(text: str) -> list[Any]:
    *events, marker, rest = text.split("\n\n")
    assert (marker, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: {") for event in events)
    return [json.loads(event[6:]) for event in events]


def _check_good(text: str, *, is_stream: bool) -> None:
    choice = _events(text)[-1]["choices"][0] if is_stream else json.loads(text)["choices"][0]
    assert choice["finish_reason"] == "stop"


async def _trace_of(daemon: RunningDaemon, request_id: str) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while (reply := await daemon.client.get(f"/turnout/v1/traces/{request_id}")).status_code == 404:
            pass  # it is written a moment after the caller has the end; each look is a round trip
    trace: dict[str, Any] = reply.json()
    return trace
