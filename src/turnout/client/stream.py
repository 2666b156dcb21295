"""One streamed chat answer: pieces of text, then the facts of who gave it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import msgspec

from turnout.client.errors import ApiError, error_of
from turnout.core.clock import Clock

if TYPE_CHECKING:
    import httpx2

DATA = b"data:"
END_MARKER = b"[DONE]"


class AnswerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered, and how fast.

    Attributes:
        request_id: ``turnout why`` tells its story.
        served_model: The target.
        tier: Where its compute lives.
        attempts: How many targets were tried.
        finish_reason: ``stop``, ``length``, ... as the engine said it.
        prompt_tokens: As the engine counted them; None if it did not.
        completion_tokens: The same for the answer.
        first_token_seconds: From the call to the first piece; None if there was none.
        total_seconds: From the call to the end.
    """

    request_id: str
    served_model: str
    tier: str
    attempts: int
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_seconds: float | None = None
    total_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """The speed after the first token; None where it cannot be told."""
        if self.completion_tokens is None or self.completion_tokens < 2 or self.first_token_seconds is None:
            return None
        seconds = self.total_seconds - self.first_token_seconds
        return (self.completion_tokens - 1) / seconds if seconds > 0 else None


class ChatStream:
    """Iterate over it for the text; afterwards ``facts`` says who gave it. Closing it early cancels the answer.

    Args:
        response: An open answer with status 200.
        clock: For the speed.
        started_at: Monotonic seconds when the call was made.
    """

    def __init__(self, response: httpx2.Response, clock: Clock, started_at: float) -> None:
        self._response = response
        self._clock = clock
        self._started_at = started_at
        self.facts = facts_of(response.headers)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the answer."""
        self.close()

    def close(self) -> None:
        """Let go of the answer; an unfinished one is cancelled."""
        self._response.close()

    def __iter__(self) -> Iterator[str]:
        """Return the pieces of text.

        Raises:
            ApiError: The daemon ended the answer with an error, or it was cut off.
        """
        import httpx2  # loaded already: it made the response

        is_done = False
        try:
            for data in read_events(self._response.iter_raw()):
                if data == END_MARKER:
                    is_done = True
                    break
                if text := self._take(data):
                    yield text
        except httpx2.TransportError as error:
            raise self._cut_off(str(error)) from error
        finally:
            self._note(total_seconds=self._seconds())
        if not is_done:
            raise self._cut_off("the stream has no end marker")

    def _take(self, data: bytes) -> str:
        try:
            event = json.loads(data)
        except ValueError:
            raise self._cut_off(f"an event is not JSON: {data[:80]!r}") from None
        if not isinstance(event, dict):
            return ""
        if "error" in event:
            error = error_of(event["error"], 502)
            error.request_id = error.request_id or self.facts.request_id
            raise error
        if isinstance(usage := event.get("usage"), dict):
            self._note(
                prompt_tokens=usage.get("prompt_tokens"),
                completion_tokens=usage.get("completion_tokens"),
            )
        return self._text_of(event)

    def _text_of(self, event: dict[str, Any]) -> str:
        choices = event.get("choices") or [{}]
        delta = choices[0].get("delta") or {}
        if reason := choices[0].get("finish_reason"):
            self._note(finish_reason=reason)
        text = delta.get("content") or ""
        # A thinking model's first token is a thought; that is when it began to work.
        is_first = self.facts.first_token_seconds is None and (text or delta.get("reasoning_content"))
        if is_first:
            self._note(first_token_seconds=self._seconds())
        return str(text)

    def _note(self, **facts: Any) -> None:
        self.facts = msgspec.structs.replace(self.facts, **facts)

    def _seconds(self) -> float:
        return self._clock.monotonic_seconds() - self._started_at

    def _cut_off(self, reason: str) -> ApiError:
        return ApiError(
            f"the answer was cut off: {reason}",
            request_id=self.facts.request_id,
            hint=f"`turnout why {self.facts.request_id or 'last'}` tells what happened",
            code="answer_cut_off",
            status=502,
        )


def facts_of(headers: Mapping[str, str]) -> AnswerFacts:
    """Return what the headers of an answer say."""
    attempts = headers.get("x-turnout-attempts", "")
    return AnswerFacts(
        request_id=headers.get("x-turnout-request-id", ""),
        served_model=unquote(headers.get("x-turnout-served-model", "")),
        tier=headers.get("x-turnout-tier", ""),
        attempts=int(attempts) if attempts.isdigit() else 0,
    )


def read_events(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Return the data of each server-sent event.

    Lines end at line feeds only: JSON text may hold U+2028 and the like, which ``str.splitlines`` would break at.

    Args:
        pieces: The stream's bytes, cut anywhere.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(DATA):
                yield line[len(DATA) :].strip()
    if rest.startswith(DATA):
        yield rest[len(DATA) :].strip()
