"""What the engine of the fault matrix says: streams and whole answers as exact bytes, and how much is sent first."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

Phase = Literal["before", "text", "tool_call", "inside_tool_call"]


def event_of(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """Return one event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _call(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **fields}]}


def _whole(message: dict[str, Any], finish: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}
    return json.dumps(answer, ensure_ascii=False).encode()


DONE = b"data: [DONE]\n\n"
ROLE = event_of({"role": "assistant", "content": ""})
WORDS = tuple(event_of({"content": text}) for text in ("Grüße ", "aus \\n 东京 ", "🚉: data: [DONE]"))
FRAGMENTS = tuple(event_of(_call(function={"arguments": text})) for text in ('{"city": "Zü', 'rich"}'))
FUNCTION = {"name": "weather", "arguments": ""}
TOOL = (ROLE, event_of(_call(id="call_1", type="function", function=FUNCTION)), *FRAGMENTS)
TEXT_STREAM = (ROLE, *WORDS, event_of({}, "stop"))
TOOL_STREAM = (*TOOL, event_of({}, "tool_calls"))
TEXT_WHOLE = _whole({"content": "Grüße aus 东京 🚉"}, "stop")
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}
TOOL_WHOLE = _whole({"content": None, "tool_calls": [TOOL_CALL]}, "tool_calls")
GOOD_STREAM = (ROLE, event_of({"content": "I take over."}), event_of({}, "stop"))
GOOD_WHOLE = _whole({"content": "I take over."}, "stop")

STREAMS: dict[Phase, tuple[bytes, ...]] = {
    "before": TEXT_STREAM, "text": TEXT_STREAM, "tool_call": TOOL_STREAM, "inside_tool_call": TOOL_STREAM,
}  # fmt: skip
WHOLES: dict[Phase, bytes] = {
    "before": TEXT_WHOLE, "text": TEXT_WHOLE, "tool_call": TOOL_WHOLE, "inside_tool_call": TOOL_WHOLE,
}  # fmt: skip
EVENTS_BEFORE_FAULT: dict[Phase, int] = {"before": 0, "text": 4, "tool_call": 4, "inside_tool_call": 3}
BYTES_BEFORE_FAULT: dict[Phase, int] = {
    "before": 0,
    "text": TEXT_WHOLE.index("东京".encode()),
    "tool_call": TOOL_WHOLE.index(b"}]") + 2,
    "inside_tool_call": TOOL_WHOLE.index(b"rich"),
}


class Behaviour(NamedTuple):
    """What to play for one model.

    Attributes:
        fault: A key of ``FAULTS``.
        variant: A key of that fault's variants.
        phase: What is delivered before it.
        chunks: How many events go before it, if not as many as the phase says.
    """

    fault: str
    variant: str
    phase: Phase
    chunks: int | None = None

    @property
    def delivered(self) -> tuple[bytes, ...]:
        """The events of a stream that come before the fault."""
        return STREAMS[self.phase][: EVENTS_BEFORE_FAULT[self.phase] if self.chunks is None else self.chunks]
