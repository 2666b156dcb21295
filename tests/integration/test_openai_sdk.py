"""The official SDK against the daemon as it starts out of the box: real llama.cpp, real embeddings."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from support.daemon import RunningDaemon, StartDaemon

pytestmark = pytest.mark.timeout(180)


class Person(BaseModel):
    """What the model is made to answer."""

    name: str
    age: int


@pytest.fixture
async def daemon(start_daemon: StartDaemon) -> RunningDaemon:
    """A daemon without any configuration of its own."""
    return await start_daemon()


@pytest.fixture
async def client(daemon: RunningDaemon) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK, pointed at it; it always sends a key."""
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(text: str) -> list[Any]:
    """Return the messages of a question."""
    return [{"role": "user", "content": text}]


async def test_everything_a_client_does_on_its_first_day(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="auto", messages=ask("Hello"), max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0

    stream = await client.chat.completions.create(
        model="auto", messages=ask("Hello"), max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage is not None

    parsed = await client.chat.completions.parse(
        model="local/orchestrator", messages=ask("Bob is 42 years old."), response_format=Person, max_tokens=60
    )
    assert parsed.choices[0].message.parsed is not None
    assert parsed.choices[0].message.parsed.name

    logged = await client.chat.completions.create(
        model="auto", messages=ask("Hi"), max_tokens=2, logprobs=True, top_logprobs=2
    )
    assert logged.choices[0].logprobs is not None
    assert logged.choices[0].logprobs.content

    completed = await client.completions.create(model="orchestrator", prompt="Once upon a", max_tokens=4)
    assert completed.choices[0].text

    names = [model.id async for model in client.models.list()]
    assert names[0] == "auto"
    assert {"local/orchestrator", "local/embedding", "orchestrator", "embedding"} <= set(names)
    assert len(names) == len(set(names))
    for name in names:
        assert (await client.models.retrieve(name)).id == name


async def test_embeddings_in_both_encodings(client: openai.AsyncOpenAI) -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again."]
    decoded = await client.embeddings.create(model="embedding", input=texts)  # the SDK asks for base64 by default
    plain = await client.embeddings.create(model="embedding", input=texts, encoding_format="float")
    raw = await client.embeddings.with_raw_response.create(model="auto", input=texts, encoding_format="base64")
    packed = raw.http_response.json()["data"][0]["embedding"]
    first = list(struct.unpack(f"<{len(plain.data[0].embedding)}f", base64.b64decode(packed)))
    assert len(first) == 384
    assert first == pytest.approx(plain.data[0].embedding, abs=1e-5)
    vectors = [item.embedding for item in decoded.data]
    assert _dot(vectors[0], vectors[1]) > _dot(vectors[0], vectors[2])
    with pytest.raises(openai.BadRequestError) as failure:
        await client.embeddings.create(model="embedding", input="word " * 5000)
    assert failure.value.code == "context_length_exceeded"


async def test_errors_as_the_sdk_sees_them(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="local/orchestrater", messages=ask("Hi"))
    assert unknown.value.code == "model_not_found"
    assert "local/orchestrator" in unknown.value.body["hint"]  # type: ignore[index]
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="auto", messages=[])
    with pytest.raises(openai.BadRequestError) as wrong_kind:
        await client.embeddings.create(model="local/orchestrator", input="Hi")
    assert wrong_kind.value.code == "not_supported"
    with pytest.raises(openai.BadRequestError) as overflow:
        await client.chat.completions.create(model="auto", messages=ask("word " * 20_000))
    assert overflow.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


def _dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
