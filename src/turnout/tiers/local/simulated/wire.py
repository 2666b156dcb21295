"""The simulated worker's answers as bytes, in OpenAI's shapes: whole bodies, and one event for each token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from turnout.core.errors import TurnoutError
from turnout.core.ids import new_request_id
from turnout.tiers.local.simulated.replies import Reply, base64_vector

DONE = b"data: [DONE]\n\n"
NOT_JSON = b'data: {"choices": [{"delta": oops\n\n'


class Wire:
    """One answer's way onto the wire.

    Args:
        reply: What to say.
        is_chat: Whether it is a chat completion; otherwise a plain one.
        model: The served name.
        created: Seconds since the Unix epoch.
        prompt_tokens: Length of the prompt.
        has_usage: Whether the stream tells the usage in a last chunk.
    """

    def __init__(
        self, reply: Reply, *, is_chat: bool, model: str, created: int, prompt_tokens: int, has_usage: bool
    ) -> None:
        self.reply = reply
        self._is_chat = is_chat
        self._prompt_tokens = prompt_tokens
        self._has_usage = has_usage
        identity = new_request_id().removeprefix("req_")
        self._call_id = f"call_{identity}"
        self._head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{identity}",
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": created,
            "model": model,
        }
        # 1,000 streams of 60 tokens a second: what does not change from token to token is encoded once.
        self._prefix = b"data: " + msgspec.json.encode(self._head)[:-1] + b',"choices":[{"index":0,'
        self._suffix = b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null' if has_usage else b"") + b"}\n\n"

    def opening(self) -> bytes:
        """Return what comes before the first token: a chat's role."""
        return self._event(b'"delta":{"role":"assistant","content":""}') if self._is_chat else b""

    def tokens(self, places: Iterable[int]) -> bytes:
        """Return the events of some tokens; places beyond the end begin anew.

        Args:
            places: Which tokens, counted from 0.
        """
        pieces = self.reply.pieces
        return b"".join([self._event(self._delta(place, pieces[place % len(pieces)])) for place in places])

    def closing(self, tokens: int) -> bytes:
        """Return the finish reason, the usage if it was asked for, and ``[DONE]``.

        Args:
            tokens: How many were sent.
        """
        choice: dict[str, Any] = {"index": 0, "delta": {}} if self._is_chat else {"index": 0, "text": ""}
        choice |= {"logprobs": None, "finish_reason": self.reply.finish_reason}
        last = self._head | {"choices": [choice]} | ({"usage": None} if self._has_usage else {})
        events = [b"data: " + msgspec.json.encode(last) + b"\n\n"]
        if self._has_usage:
            usage = self._head | {"choices": [], "usage": self._usage(tokens)}
            events.append(b"data: " + msgspec.json.encode(usage) + b"\n\n")
        return b"".join([*events, DONE])

    def body(self) -> bytes:
        """Return the whole answer as one JSON body."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self.reply.finish_reason}
        if not self._is_chat:
            choice["text"] = self.reply.text()
        elif self.reply.function_name:
            function = {"name": self.reply.function_name, "arguments": self.reply.text()}
            calls = [{"id": self._call_id, "type": "function", "function": function}]
            choice["message"] = {"role": "assistant", "content": None, "tool_calls": calls}
        else:
            choice["message"] = {"role": "assistant", "content": self.reply.text()}
        head = self._head | ({"object": "chat.completion"} if self._is_chat else {})
        return msgspec.json.encode(head | {"choices": [choice], "usage": self._usage(len(self.reply.pieces))})

    def _event(self, inner: bytes) -> bytes:
        return self._prefix + inner + self._suffix

    def _delta(self, place: int, piece: str) -> bytes:
        text = msgspec.json.encode(piece)
        if not self._is_chat:
            return b'"text":' + text
        if not self.reply.function_name:
            return b'"delta":{"content":' + text + b"}"
        call: dict[str, Any] = {"index": 0, "function": {"arguments": piece}}
        if place == 0:
            function = {"name": self.reply.function_name, "arguments": piece}
            call = {"index": 0, "id": self._call_id, "type": "function", "function": function}
        return b'"delta":{"tool_calls":[' + msgspec.json.encode(call) + b"]}"

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }


def embeddings_body(vectors: list[tuple[float, ...]], *, model: str, prompt_tokens: int, is_base64: bool) -> bytes:
    """Return the body of an embeddings answer.

    Args:
        vectors: One for each text.
        model: The served name.
        prompt_tokens: Length of all texts.
        is_base64: Whether the caller asked for base64.
    """
    data = [
        {"object": "embedding", "index": index, "embedding": base64_vector(vector) if is_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def models_body(model: str, *, created: int, context_tokens: int) -> bytes:
    """Return the list of the one model.

    Args:
        model: The served name.
        created: Seconds since the Unix epoch.
        context_tokens: Length of the context; as ``max_model_len``, where vLLM tells it.
    """
    entry = {"id": model, "object": "model", "created": created, "owned_by": "turnout", "max_model_len": context_tokens}
    return msgspec.json.encode({"object": "list", "data": [entry]})


def error_body(error: TurnoutError) -> bytes:
    """Return an error in OpenAI's shape.

    Args:
        error: What went wrong.
    """
    fields = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})
