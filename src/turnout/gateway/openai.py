"""OpenAI's dialect on the caller's side: read a body for what routing needs, and write errors in its shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from turnout.core.errors import InvalidRequest, TurnoutError
from turnout.core.keep_alive import EXPECTED, read_keep_alive
from turnout.core.memory import PRIORITIES, Priority
from turnout.core.words import AUTO, Privacy, Request, RequestKind

PRIVACIES: tuple[Privacy, ...] = ("any", "no-frontier", "local-only")
MODEL_CHARACTERS = 1000
SESSION_CHARACTERS = 200


class Message(msgspec.Struct, frozen=True):
    """The part of a message that must be right whatever engine answers."""

    role: str
    content: str | list[msgspec.Raw] | None = None


class CommonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Fields that every kind of request may carry; unknown ones pass through untouched."""

    model: str | msgspec.UnsetType = msgspec.UNSET
    user: str | None = None
    keep_alive: float | str | msgspec.UnsetType | None = msgspec.UNSET
    """Ollama's word. It is for turnout: no engine behind it is told."""


class GenerationFacts(CommonFacts, frozen=True, kw_only=True):
    """Fields of chat and completion that are checked for their type."""

    stream: bool | None = None
    stream_options: dict[str, msgspec.Raw] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class ChatFacts(GenerationFacts, frozen=True, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: list[Message]
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    response_format: dict[str, msgspec.Raw] | None = None


class CompletionFacts(GenerationFacts, frozen=True, kw_only=True):
    """``POST /v1/completions``."""

    prompt: msgspec.Raw


class EmbeddingFacts(CommonFacts, frozen=True, kw_only=True):
    """``POST /v1/embeddings``."""

    input: msgspec.Raw
    encoding_format: str | None = None
    dimensions: int | None = None


class RequestHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's wishes in ``x-turnout-*`` headers."""

    effort: int | None = None
    privacy: Privacy = "any"
    deadline_seconds: float | None = None
    priority: Priority = "normal"
    session: str = ""
    progress: bool = False
    keep_alive_seconds: float | None = None


NO_WISHES = RequestHeaders()
Fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
MODEL_VALUE = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("[^"\\]*")')
FACTS: dict[RequestKind, msgspec.json.Decoder[Any]] = {
    "chat": msgspec.json.Decoder(ChatFacts),
    "completion": msgspec.json.Decoder(CompletionFacts),
    "embedding": msgspec.json.Decoder(EmbeddingFacts),
}
REQUIRED = {"chat": "messages", "completion": "prompt", "embedding": "input"}


class Body:
    """A parsed body whose ``model`` can be replaced without touching anything else.

    Args:
        data: The bytes that the caller sent.
        place: Where the value of ``model`` begins and ends, if that is plain to see and the rest stays as it is.
    """

    def __init__(self, data: bytes, place: tuple[int, int] | None) -> None:
        self.data = data
        self._place = place

    def with_model(self, model: str, *, asks_usage: bool = False) -> bytes:
        """Return the body with another ``model`` and without ``keep_alive``; every other value keeps its bytes.

        Args:
            model: The engine's own name for its model.
            asks_usage: Also set ``stream_options.include_usage``.
        """
        if self._place is not None and not asks_usage:
            start, end = self._place
            return b"%b%b%b" % (self.data[:start], msgspec.json.encode(model), self.data[end:])
        fields: dict[str, Any] = {**Fields.decode(self.data), "model": model}
        fields.pop("keep_alive", None)
        if asks_usage:
            given = fields.get("stream_options")
            options = Fields.decode(given) if given and bytes(given) != b"null" else {}
            fields["stream_options"] = {**options, "include_usage": True}
        return msgspec.json.encode(fields)


def read_request(kind: RequestKind, data: bytes, request_id: str, wishes: RequestHeaders) -> tuple[Request, Body]:
    """Check a body and return its facts.

    Args:
        kind: What the path says.
        data: The body.
        request_id: For the request.
        wishes: From the headers.

    Raises:
        InvalidRequest: Not JSON, or a field that is missing, empty or mistyped.
    """
    try:
        facts = FACTS[kind].decode(data)
        if not data.isascii():
            data.decode()  # values that only pass through are not looked at by msgspec
    except msgspec.ValidationError as error:
        raise _not_json(data) or _explain(error, kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid_json(error) from None
    except RecursionError:
        raise _too_deep() from None
    selector = AUTO if facts.model is msgspec.UNSET else facts.model
    if not selector:
        raise InvalidRequest("model is empty", param="model", hint="name a model, or leave it out for 'auto'")
    if len(selector) > MODEL_CHARACTERS:  # it goes into headers, messages and traces
        raise InvalidRequest(
            f"model has {len(selector)} characters", param="model", hint=f"a name has at most {MODEL_CHARACTERS}"
        )
    _check_content(kind, facts)
    request = Request(
        id=request_id,
        kind=kind,
        selector=selector,
        stream=bool(getattr(facts, "stream", False)),
        tools=bool(getattr(facts, "tools", None) or getattr(facts, "functions", None)),
        json=getattr(facts, "response_format", None) is not None,
        wants_usage=_wants_usage(facts),
        effort=wishes.effort,
        privacy=wishes.privacy,
        deadline_seconds=wishes.deadline_seconds,
        priority=wishes.priority,
        session=wishes.session,
        progress=wishes.progress,
        keep_alive_seconds=_keep_alive(facts, wishes),
        body_bytes=len(data),
    )
    place = _model_place(data, facts.model) if facts.keep_alive is msgspec.UNSET else None
    return request, Body(data, place)


def _keep_alive(facts: CommonFacts, wishes: RequestHeaders) -> float | None:
    """Return what the body says, or else the header."""
    given = facts.keep_alive
    if given is None or isinstance(given, msgspec.UnsetType):
        return wishes.keep_alive_seconds
    seconds = read_keep_alive(given)
    if seconds is None:
        raise InvalidRequest(f"keep_alive {given!r} is no duration", param="keep_alive", hint=f"send {EXPECTED}")
    return seconds


def _invalid_json(error: Exception) -> InvalidRequest:
    return InvalidRequest(
        f"the body is not valid JSON: {error}", hint="send one JSON object in UTF-8", code="invalid_json"
    )


def _too_deep() -> InvalidRequest:
    return InvalidRequest("the body is nested too deeply", hint="flatten it", code="invalid_json")


def _not_json(data: bytes) -> InvalidRequest | None:
    """Return the error of a body that is no JSON at all: what is wrong with its fields was only seen first."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _invalid_json(error)
    except RecursionError:
        return _too_deep()
    return None


def _model_place(data: bytes, model: str | msgspec.UnsetType) -> tuple[int, int] | None:
    """Return where the value of the top-level ``model`` stands, or None where that is not plain to see.

    The body is known to be an object with this ``model``. If the letters stand in quotes only once, and no key can be
    written with escapes, then that is the key; the value is compared all the same.
    """
    if model is msgspec.UNSET or data.count(b'"model"') != 1 or b"\\u00" in data:
        return None
    value = b'"%b"' % model.encode()
    usual = data.find(b'"model":' + value)
    if usual >= 0:
        start = usual + len(b'"model":')
        return start, start + len(value)
    found = MODEL_VALUE.search(data)
    return found.span(1) if found is not None and found[1] == value else None


def _wants_usage(facts: Any) -> bool:
    options = getattr(facts, "stream_options", None) or {}
    return bytes(options.get("include_usage", b"")) == b"true"


def _check_content(kind: RequestKind, facts: Any) -> None:
    if kind == "chat":
        if not facts.messages:
            raise InvalidRequest("messages is empty", param="messages", hint="send at least one message")
        return
    name = REQUIRED[kind]
    value = bytes(getattr(facts, name)).strip()
    if value in (b'""', b"null") or (value.startswith(b"[") and not value[1:-1].strip()):
        raise InvalidRequest(f"{name} is empty", param=name, hint="send a text or a list of texts")
    if not value.startswith((b'"', b"[")):
        raise InvalidRequest(f"{name} has the wrong type", param=name, hint="send a text or a list of texts")


def _explain(error: msgspec.ValidationError, kind: RequestKind) -> InvalidRequest:
    message, _, dollar = str(error).partition(" - at `$")
    path = dollar.rstrip("`").lstrip(".")
    if missing := re.search(r"missing required field `(.+?)`", message):
        path = f"{path}.{missing[1]}" if path else missing[1]
        return InvalidRequest(f"{path} is missing", param=path, code="missing_field", hint=f"add {path!r} to the body")
    expected = message.replace("`", "").lower()
    where = path or "the body"
    return InvalidRequest(
        f"{where}: {expected}", param=path or REQUIRED[kind], code="invalid_type", hint=f"correct the type of {where}"
    )


def read_wishes(headers: list[tuple[bytes, bytes]]) -> RequestHeaders:
    """Return the caller's wishes.

    Raises:
        InvalidRequest: A header whose value makes no sense.
    """
    wished = [header for header in headers if header[0].startswith(b"x-turnout-")]
    if not wished:
        return NO_WISHES
    given: dict[str, Any] = {}
    for name, value in wished:
        read = WISHES.get(name)
        if read is not None:
            field, convert, expected = read
            text = value.decode("latin-1").strip()
            given[field] = convert(text)
            if given[field] is None:
                raise _bad_header(name, text, expected)
    return RequestHeaders(**given)


def _effort(text: str) -> int | None:
    return int(text) if _is_number(text) and 1 <= int(text) <= 10 else None


def _deadline_seconds(text: str) -> float | None:
    return int(text) / 1000 if _is_number(text) and 0 < int(text) <= 86_400_000 else None


def _session(text: str) -> str | None:
    return text if text.isascii() and text.isprintable() and 0 < len(text) <= SESSION_CHARACTERS else None


def _one_of(words: Iterable[str]) -> Callable[[str], str | None]:
    known = frozenset(words)
    return lambda text: text if text in known else None


WISHES: dict[bytes, tuple[str, Callable[[str], Any], str]] = {
    b"x-turnout-effort": ("effort", _effort, "a whole number from 1 to 10"),
    b"x-turnout-privacy": ("privacy", _one_of(PRIVACIES), "one of any, no-frontier, local-only"),
    b"x-turnout-deadline-ms": ("deadline_seconds", _deadline_seconds, "milliseconds, from 1 to 86400000"),
    b"x-turnout-priority": ("priority", _one_of(PRIORITIES), "one of interactive, normal, background"),
    b"x-turnout-session": ("session", _session, f"1 to {SESSION_CHARACTERS} printable ASCII characters"),
    b"x-turnout-keep-alive": ("keep_alive_seconds", read_keep_alive, EXPECTED),
    b"x-turnout-progress": ("progress", {"true": True, "false": False}.get, "true or false"),
}
"""The field that a header sets, what reads its value (None: it makes no sense), and what was expected."""


def _is_number(text: str) -> bool:
    # int() itself refuses more than 4,300 digits with an error of its own.
    return text.isascii() and text.isdigit() and len(text) <= 9


def _bad_header(name: bytes, text: str, expected: str) -> InvalidRequest:
    header = name.decode()
    return InvalidRequest(f"header {header}: {text!r} is not {expected}", param=header, hint=f"send {expected}")


def error_body(error: TurnoutError, request_id: str) -> bytes:
    """Return an error in OpenAI's shape, with turnout's additions.

    Args:
        error: What happened.
        request_id: So that a report can be matched with a trace.
    """
    return msgspec.json.encode(
        {
            "error": {
                "message": error.message,
                "type": error.kind,
                "param": error.param,
                "code": error.code,
                "hint": error.hint,
                "source": error.source,
                "retryable": error.retryable,
                "request_id": request_id,
            }
        }
    )
