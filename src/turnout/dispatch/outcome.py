"""What an upstream's answer means: good, the caller's mistake, busy, or broken. Pure."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from turnout.core.errors import (
    UNREADABLE_JSON,
    Broken,
    Busy,
    ContextOverflow,
    RateLimited,
    Refused,
    TurnoutError,
    UpstreamFailed,
    UpstreamRejected,
    Wrong,
)
from turnout.core.words import Outcome

OVERFLOW_WORDS = ("exceed_context_size", "context_length_exceeded")
OVERFLOW_PHRASES = ("maximum context length", "exceeds the available context", "context size", "context length")
ERROR_TEXT_CHARACTERS = 600
LONGEST_RETRY_SECONDS = 86_400.0


class UpstreamError(msgspec.Struct, frozen=True):
    """The body of an OpenAI-shaped error, as far as engines agree on it."""

    message: str = ""
    type: str | None = None
    param: Any = None
    code: Any = None


class UpstreamErrorBody(msgspec.Struct, frozen=True):
    """Either ``{"error": {...}}``, ``{"error": "text"}`` or vLLM's flat form."""

    error: UpstreamError | str | None = None
    message: str = ""
    detail: Any = None


def read_error(body: bytes) -> UpstreamError:
    """Return the error that a body tells, whatever its shape; the raw text where it has none."""
    try:
        told = msgspec.json.decode(body, type=UpstreamErrorBody)
    except UNREADABLE_JSON:
        return UpstreamError(message=body[:ERROR_TEXT_CHARACTERS].decode("utf-8", "replace").strip())
    if isinstance(told.error, UpstreamError):
        return told.error
    return UpstreamError(message=(told.error or told.message or str(told.detail or "")).strip())


def classify(status: int, body: bytes, target: str, retry_after: bytes | None = None) -> TurnoutError:
    """Return what an answer with a status other than 2xx means.

    Args:
        status: The upstream's HTTP status.
        body: Its body.
        target: Who said it.
        retry_after: The value of its ``retry-after`` header.
    """
    told = read_error(body)
    text = (told.message or f"status {status} without a text")[:ERROR_TEXT_CHARACTERS]
    kind = f"{told.type or ''} {told.code or ''}"
    if status in (400, 413, 422):
        lowered = text.lower()
        if any(word in kind for word in OVERFLOW_WORDS) or any(phrase in lowered for phrase in OVERFLOW_PHRASES):
            return ContextOverflow(
                text,
                hint="shorten the messages or lower max_tokens, or choose a model with a larger context",
                param="messages",
                source="upstream",
            )
        param = told.param if isinstance(told.param, str) else None
        code = told.code if isinstance(told.code, str) else None
        return UpstreamRejected(
            text, status=status, param=param, code=code, source="upstream", hint=f"{target} does not accept the request"
        )
    if status == 429:
        return RateLimited(
            f"{target}: {text}", source="upstream", hint="try again later", retry_after_seconds=_seconds(retry_after)
        )
    if status == 503:
        return Busy(
            f"{target}: {text}", source="upstream", hint="try again later", retry_after_seconds=_seconds(retry_after)
        )
    if status in (401, 403):
        return Broken(
            f"{target} refuses our key: {text}", source="upstream", code="upstream_auth", hint="check its api_key_env"
        )
    if status in (404, 405):
        return Broken(
            f"{target}: {text}", source="upstream", code="upstream_not_found", hint="check its base_url and model"
        )
    return UpstreamFailed(f"{target} answered {status}: {text}", source="upstream", hint="`turnout logs` may tell why")


def outcome_of(error: TurnoutError) -> Outcome:
    """Return the word for an error in a trace."""
    if isinstance(error, Wrong):
        return "wrong"
    if isinstance(error, Refused):
        return "refused"
    if isinstance(error, Busy):
        return "busy"
    return "broken"


def _seconds(header: bytes | None) -> float | None:
    try:
        seconds = float(header or b"nan")
    except ValueError:  # a date, which only clocks that agree could read
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_SECONDS) if math.isfinite(seconds) else None
