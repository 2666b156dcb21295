"""Watches an event stream by its bytes: framing, limits, end marker, errors, tool calls and usage. Pure.

An honest stream of many events in one piece costs a handful of searches in C, no loop over its events: every event is
``data: {…}`` and ends in a blank line, so counting ``}``, blank line, ``data: {`` in a row checks them all. JSON text
cannot contain a raw line break, so a model's words are never mistaken for framing. Only a piece that looks different
(comments, other fields, CRLF, an error, nonsense) is inspected event by event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from turnout.core.errors import UNREADABLE_JSON, Broken, Malformed, UpstreamFailed
from turnout.core.words import Delivered, Usage
from turnout.dispatch.outcome import read_error

DONE_EVENT = b"data: [DONE]\n\n"
JOINT = b"}\n\ndata: {"
EVENT_START, EVENT_END = b"data: {", b"}\n\n"
ERROR_SIGN = b'"error"'
"""In a JSON string the quotes would be escaped, so this is a name or a whole value; inspection tells which."""
BLANK_LINE = re.compile(rb"\n\n|\r\n\r\n|\r\r")
LINE = re.compile(rb"\r\n|\n|\r")
TAIL_BYTES = 8192
SHOWN_BYTES = 80


class AnswerLimits(msgspec.Struct, frozen=True):
    """How much one answer may be.

    Attributes:
        answer_bytes: The whole answer or stream.
        event_bytes: One event of a stream.
    """

    answer_bytes: int = 256 << 20
    event_bytes: int = 16 << 20


class UsageWire(msgspec.Struct, frozen=True):
    """``usage`` as engines send it; embeddings have no completion tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class EventWire(msgspec.Struct, frozen=True):
    """The few fields of an answer or an event that turnout reads; an odd value in one must not break the whole."""

    usage: msgspec.Raw = msgspec.Raw(b"null")
    choices: msgspec.Raw = msgspec.Raw(b"[]")
    error: msgspec.Raw = msgspec.Raw(b"null")


EVENT = msgspec.json.Decoder(EventWire)
USAGE: msgspec.json.Decoder[UsageWire | None] = msgspec.json.Decoder(UsageWire | None)


class StreamWatch:
    """The state of one stream. Feed it every piece; send what it returns.

    Args:
        target: Whose stream it is, for messages.
        limits: How much it may be.
        strips_usage: The usage was asked for by turnout, not by the caller: the event that carries it is taken out.

    Attributes:
        failure: Why the stream may not go on; what ``feed`` returned is still good.
        is_done: The end marker came.
        is_told: The caller has the whole answer: whatever happens from now on, it was answered.
        has_event: A whole event has come (comments do not count).
        delivered: What the caller has been given so far.
        usage: Tokens as the engine counted them, once known.
    """

    def __init__(self, target: str, limits: AnswerLimits, *, strips_usage: bool = False) -> None:
        self.failure: Broken | None = None
        self.is_done = False
        self.is_told = False
        self.has_event = False
        self.delivered: Delivered = "nothing"
        self.usage: Usage | None = None
        self._target = target
        self._limits = limits
        self._strips_usage = strips_usage
        self._bytes = 0
        self._open = bytearray()  # the beginning of an event whose end has not come
        self._tail = b""

    @property
    def is_marked(self) -> bool:
        """Whether the stream stopped right behind an end marker that lacks its blank line."""
        return self._open.rstrip() == b"data: [DONE]"

    def feed(self, piece: bytes) -> bytes:
        """Look at the next piece and return what the caller may have: whole events only.

        Half an event is held back, since a caller that got it could not read the error that may follow.

        Args:
            piece: As it arrived.
        """
        self._bytes += len(piece)
        whole = self._whole_events(piece)
        if len(whole) > self._limits.event_bytes:
            whole = self._before_a_huge_one(whole)
        good = self._check(whole) if whole else b""
        if self.failure is None and not self.is_done:
            self._check_size()
        if good:
            self._note(good)
        return good

    def finish(self) -> None:
        """Read the usage from the tail, if no event has told it yet."""
        if self.usage is None:
            self.usage = _usage_in_tail(self._tail)

    def _whole_events(self, piece: bytes) -> bytes:
        """Take a piece in, and give out the events that are whole now."""
        if self._open:
            # Only the seam can hold a blank line that neither part has: a long event is not searched again and again.
            seam = bytes(self._open[-3:]) + piece
            if not self._end_of_last_event(seam):
                self._open += piece
                return b""
            piece = bytes(self._open) + piece
        cut = self._end_of_last_event(piece)
        if cut == len(piece):
            self._open = bytearray()
            return piece
        self._open = bytearray(piece[cut:])
        return piece[:cut]

    def _end_of_last_event(self, data: bytes) -> int:
        end = data.rfind(b"\n\n")
        if end >= 0:
            return end + 2
        if b"\r" in data:
            ends = [match.end() for match in BLANK_LINE.finditer(data)]
            return ends[-1] if ends else 0
        return 0

    def _before_a_huge_one(self, whole: bytes) -> bytes:
        start = 0
        for event in _split(whole):
            if len(event) > self._limits.event_bytes:
                self.failure = self._huge()
                return whole[:start]
            start += len(event)
        return whole

    def _check(self, whole: bytes) -> bytes:
        """Return the part of some whole events that may go on: all of it, where nothing is wrong."""
        is_last = whole.endswith(DONE_EVENT)
        end = len(whole) - len(DONE_EVENT) if is_last else len(whole)
        is_plain = not end or (
            whole.startswith(EVENT_START)
            and whole.endswith(EVENT_END, 0, end)
            # Two line breaks in each joint and two at the end: if that is all of them, nothing else breaks a line.
            and whole.count(b"\n", 0, end) == 2 * whole.count(JOINT, 0, end) + 2
            and ERROR_SIGN not in whole
            and not (self._strips_usage and b'"usage"' in whole)
        )
        if is_plain:
            self.has_event, self.is_done = True, is_last
            return whole
        return self._inspect(whole)

    def _inspect(self, whole: bytes) -> bytes:
        kept: list[bytes] = []
        for event in _split(whole):
            payload = _payload(event)
            if payload == b"[DONE]":
                self.is_done = self.has_event = True
                kept.append(event)
                break
            if payload is None or self._is_good(payload, event):
                kept.append(event)
            if self.failure is not None:
                break
        return b"".join(kept)

    def _is_good(self, payload: bytes, event: bytes) -> bool:
        """Return whether an event goes on to the caller; a bad one sets ``failure``."""
        try:
            wire = EVENT.decode(payload)
        except UNREADABLE_JSON:
            shown = event[:SHOWN_BYTES].decode("utf-8", "replace")
            self.failure = Malformed(f"{self._target} sent an event that is not JSON: {shown!r}", source="upstream")
            return False
        if bytes(wire.error) != b"null":
            told = read_error(payload).message or payload[:SHOWN_BYTES].decode("utf-8", "replace")
            self.failure = UpstreamFailed(f"{self._target} broke off with an error: {told}", source="upstream")
            return False
        self.has_event = True
        usage = read_usage(wire)
        self.usage = usage or self.usage
        return not (self._strips_usage and usage is not None and bytes(wire.choices) in (b"[]", b"null"))

    def _check_size(self) -> None:
        most = self._limits.answer_bytes
        if self._bytes > most:
            self.failure = _too_large(f"{self._target} sent more than {most} bytes without an end")
        elif len(self._open) > self._limits.event_bytes:
            self.failure = self._huge()

    def _huge(self) -> Malformed:
        return _too_large(f"{self._target} sent an event of more than {self._limits.event_bytes} bytes")

    def _note(self, good: bytes) -> None:
        if self.delivered != "tool_call" and self.has_event:
            self.delivered = "tool_call" if has_tool_call(good) else "text"
        self._tail = good[-TAIL_BYTES:] if len(good) >= TAIL_BYTES else (self._tail + good)[-TAIL_BYTES:]


def has_tool_call(data: bytes) -> bool:
    """Return whether an answer or some events carry a tool call. A model's words cannot look so: quotes are escaped."""
    # One search where there is none; some engines send `null` or an empty list in every event.
    return b'tool_calls":' in data and (b'"tool_calls":[{' in data or b'"tool_calls": [{' in data)


def read_usage(wire: EventWire) -> Usage | None:
    """Return the counted tokens of an answer or event, or None if it has none; a count that is missing is zero."""
    try:
        usage = USAGE.decode(wire.usage)
    except UNREADABLE_JSON:
        return None
    return Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else None


def _split(whole: bytes) -> Iterator[bytes]:
    """Yield events with the blank line that ends each."""
    start = 0
    for match in BLANK_LINE.finditer(whole):
        yield whole[start : match.end()]
        start = match.end()
    if start < len(whole):
        yield whole[start:]


def _payload(event: bytes) -> bytes | None:
    """Return the data of an event, or None if it has none (a comment, a mere ``event:`` or ``retry:``).

    Text that is no field at all is returned as it is, so that it is found out as malformed.
    """
    data: list[bytes] = []
    for line in LINE.split(event.strip(b"\r\n")):
        name, colon, value = line.partition(b":")
        if name == b"data" and colon:
            data.append(value.removeprefix(b" "))
        elif not line or not name or name in (b"event", b"id", b"retry"):
            continue
        elif name == b"error" and colon:  # old llama.cpp servers end a stream so
            return b'{"error":' + value + b"}"
        else:
            return event
    return b"\n".join(data) if data else None


def _usage_in_tail(tail: bytes) -> Usage | None:
    at = max(tail.rfind(b'"usage":{'), tail.rfind(b'"usage": {'))
    if at < 0:
        return None
    start = tail.rfind(b"\n", 0, at) + 1
    end = tail.find(b"\n", at)
    payload = _payload(tail[start : end if end >= 0 else len(tail)])
    try:
        return read_usage(EVENT.decode(payload or b""))
    except UNREADABLE_JSON:
        return None


def _too_large(message: str) -> Malformed:
    return Malformed(message, code="answer_too_large", hint="raise `limits` if such answers are wanted")
