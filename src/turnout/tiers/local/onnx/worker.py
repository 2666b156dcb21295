"""The embeddings worker: OpenAI's ``/v1/embeddings`` on 127.0.0.1, from a MiniLM on onnxruntime.

``python -m turnout.tiers.local.onnx.worker``; the spec comes on stdin (worker.py). Every path but ``/health`` wants the
key. The model runs in one thread, a group of texts at a time: requests take turns, and ``/health`` answers meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from turnout.core.errors import (
    BodyTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TurnoutError,
    Unauthorized,
)
from turnout.tiers.local.onnx.embedder import DIMENSIONS, Embedder, Tokens, Vectors, group_by_length
from turnout.tiers.local.onnx.spec import OnnxSpec
from turnout.tiers.local.weights.check import check_weights
from turnout.tiers.local.worker import (
    announce_failed,
    announce_progress,
    announce_ready,
    exit_with_parent,
    read_spec,
)
from turnout.tiers.local.worker_server import WorkerServer, address_of, configure, listen

MAXIMUM_BODY_BYTES = 16 * 1024 * 1024
MAXIMUM_INPUTS = 2048

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Result = TypeVar("Result")


class CallerLeft(Exception):
    """The connection is gone."""


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """The body of a request; fields that change nothing here are ignored."""

    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    def texts(self) -> list[str]:
        """Return the texts to embed.

        Raises:
            InvalidRequest: There is none, one is empty, there are too many, or they are tokens.
        """
        inputs = [self.input] if isinstance(self.input, str) else self.input
        if not 1 <= len(inputs) <= MAXIMUM_INPUTS:
            raise InvalidRequest(f"input has {len(inputs)} items, it may have 1 to {MAXIMUM_INPUTS}", param="input")
        texts = [item for item in inputs if isinstance(item, str)]
        if len(texts) != len(inputs):
            raise InvalidRequest("input holds token ids; this model takes text only: send strings", param="input")
        for index, text in enumerate(texts):
            if not text:
                raise InvalidRequest(f"input[{index}] is empty", param=f"input[{index}]")
        if self.dimensions not in (None, DIMENSIONS):
            raise InvalidRequest(
                f"dimensions has to be {DIMENSIONS}, not {self.dimensions}: these vectors cannot be shortened",
                param="dimensions",
            )
        return texts


class EmbeddingsApp:
    """The worker as an ASGI application.

    Args:
        spec: What to serve.
        embedder: The loaded model.
    """

    def __init__(self, spec: OnnxSpec, embedder: Embedder) -> None:
        self._spec = spec
        self._embedder = embedder
        self._authorization = f"Bearer {spec.key}".encode()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnx")

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            await _answer(send, 200, await self._serve(scope, receive))
        except CallerLeft:
            return
        except TurnoutError as error:
            fields = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
            await _answer(send, error.status, msgspec.json.encode({"error": fields}))

    async def _serve(self, scope: Event, receive: Receive) -> bytes:
        path, method = scope["path"], scope["method"]
        if path == "/health":
            return b'{"status":"ok"}'
        if not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self._authorization):
            raise Unauthorized("the Authorization header is not 'Bearer' and this worker's key")
        if path == "/v1/models" and method == "GET":
            entry = {"id": self._spec.model, "object": "model", "created": 0, "owned_by": "turnout"}
            return msgspec.json.encode({"object": "list", "data": [entry]})
        if path not in ("/v1/embeddings", "/v1/models"):
            raise NotFound(f"no path {path!r}")
        if path != "/v1/embeddings" or method != "POST":
            raise MethodNotAllowed(f"{path} does not take {method!r}")
        return await self._embed(await _read_body(receive), receive)

    async def _embed(self, body: bytes, receive: Receive) -> bytes:
        request = _decode(body)
        texts = request.texts()
        answer = b""
        try:
            async with asyncio.TaskGroup() as group:
                departure = group.create_task(_wait_until_left(receive))
                rows = await self._in_thread(self._embedder.tokenize, texts)
                vectors = await self._vectors(rows)
                is_base64 = request.encoding_format == "base64"
                answer = await self._in_thread(_body, vectors, rows, self._spec.model, is_base64)
                departure.cancel()
        except* (CallerLeft, TurnoutError) as found:
            raise found.exceptions[0] from None
        return answer

    async def _vectors(self, rows: list[Tokens]) -> list[Vectors]:
        vectors: dict[int, Vectors] = {}
        for group in group_by_length([len(row.ids) for row in rows]):
            # One group, then the next in line: a batch of 2,048 texts does not keep a single one waiting.
            found = await self._in_thread(self._embedder.embed, [rows[index] for index in group])
            vectors.update(zip(group, found, strict=True))
        return [vectors[index] for index in range(len(rows))]

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, functools.partial(work, *arguments))


def _decode(body: bytes) -> EmbeddingRequest:
    try:
        return msgspec.json.decode(body, type=EmbeddingRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # msgspec ends its message with the place, such as "- at `$.encoding_format`".
        param = next((name for name in EmbeddingRequest.__struct_fields__ if f"$.{name}" in str(error)), None)
        raise InvalidRequest(f"the body is not an embeddings request: {error}", param=param) from error


def _body(vectors: list[Vectors], rows: list[Tokens], model: str, is_base64: bool) -> bytes:
    prompt_tokens = sum(len(row.ids) for row in rows)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.tobytes()).decode() if is_base64 else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise CallerLeft
        body += event.get("body", b"")
        if len(body) > MAXIMUM_BODY_BYTES:
            raise BodyTooLarge(f"the body has more than {MAXIMUM_BODY_BYTES} bytes: send fewer texts at once")
        if not event.get("more_body", False):
            return bytes(body)


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise CallerLeft


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve(spec: OnnxSpec, embedder: Embedder) -> None:
    """Serve until the process ends.

    Args:
        spec: What and where.
        embedder: The loaded model.
    """
    listener = listen(spec.port)
    server = WorkerServer(configure(EmbeddingsApp(spec, embedder)))
    announce_ready(address_of(listener))  # it listens: what comes early waits in the backlog
    await server.serve(sockets=[listener])


def main() -> None:
    """Run the worker until its parent or a signal ends it."""
    spec = read_spec(OnnxSpec)
    exit_with_parent()
    if not spec.key:
        announce_failed("the spec has no key: the port would serve everybody")
    check_weights(Path(spec.path), spec.sha256)
    check_weights(Path(spec.tokenizer_path), spec.tokenizer_sha256)
    announce_progress("loading", None)
    try:
        embedder = Embedder(Path(spec.path), Path(spec.tokenizer_path), spec.threads)
    except ImportError as error:
        announce_failed(f"onnxruntime or tokenizers cannot be imported ({error}); pip install 'turnout[embedded]'")
    except Exception as error:  # noqa: BLE001  both libraries raise bare and private classes
        announce_failed(f"cannot load {spec.path!r} with {spec.tokenizer_path!r}: {error}; pull the model again")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(spec, embedder))


if __name__ == "__main__":
    main()
