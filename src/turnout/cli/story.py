"""A trace as a person wants to read it: what was asked, who was meant, who tried, how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from turnout.core.words import Attempt, Trace

Line = tuple[str, str]
"""Text and style."""
LABEL_COLUMNS = 11
STYLES = {"answered": "good", "caller_left": "warning"}


def story_of(trace: Trace) -> Iterator[Line]:
    """Return the lines of a trace's story, each with its style.

    Args:
        trace: As the daemon keeps it.
    """
    when = datetime.fromtimestamp(trace.received_at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    yield f"{trace.id}  {when}", "bold"
    yield _line("asked", _asked(trace)), ""
    if trace.plan is not None:
        yield _line("read as", trace.plan.resolution), ""
        yield from _listed("candidates", [f"{c.target}: {c.reason}" for c in trace.plan.candidates] or ["nobody"])
        yield from _listed("refused", [f"{c.target}: {c.reason}" for c in trace.plan.refusals])
    for number, attempt in enumerate(trace.attempts, 1):
        yield from _attempt(number, attempt)
    yield _line("outcome", _outcome(trace)), STYLES.get(trace.outcome, "error")
    if trace.error:
        yield _line("error", f"{trace.error} ({trace.code})" if trace.code else trace.error), ""
    if trace.hint:
        yield _line("hint", trace.hint), ""
    yield _line("time", _time(trace)), ""
    yield _line("cost", "0 (local work is free)" if trace.tier in ("local", "") else "0"), ""


def _asked(trace: Trace) -> str:
    request = trace.request
    words = [f"{request.kind} of model {request.selector!r}"]
    words += ["streamed"] if request.stream else []
    words += ["with tools"] if request.tools else []
    words += ["as JSON"] if request.json else []
    words += [f"effort {request.effort}"] if request.effort else []
    words += [f"privacy {request.privacy}"] if request.privacy != "any" else []
    words += [f"within {request.deadline_seconds:g} s"] if request.deadline_seconds else []
    words += [f"{request.body_bytes:,} bytes"] if request.body_bytes else []
    words += [f"key {trace.key_name!r}"] if trace.key_name else []
    return ", ".join(words)


def _attempt(number: int, attempt: Attempt) -> Iterator[Line]:
    words = f"{attempt.target} {attempt.outcome.replace('_', ' ')}"
    if attempt.status is not None:
        words += f" (HTTP {attempt.status})"
    words += f", began at {_ms(attempt.started_ms)}"
    yield _line(f"attempt {number}", words), ""
    if attempt.error or attempt.code:
        said = {"upstream": ", said by the engine", "gateway": ", said by turnout"}.get(attempt.source, "")
        yield _line("", f"{attempt.error or 'no reason'} ({attempt.code or 'no code'}{said})"), "error"
    if attempt.steps:
        yield _line("", " · ".join(f"{s.name.replace('_', ' ')} {_ms(s.milliseconds)}" for s in attempt.steps)), "dim"


def _outcome(trace: Trace) -> str:
    words = f"{trace.outcome.replace('_', ' ')} (HTTP {trace.http_status})"
    if trace.served_target:
        words += f" by {trace.served_target}, model {trace.served_model!r}, tier {trace.tier}"
    return words


def _time(trace: Trace) -> str:
    words = [f"total {_ms(trace.total_ms)}"]
    if trace.first_byte_ms is not None:
        words.insert(0, f"first byte {_ms(trace.first_byte_ms)}")
    if (usage := trace.usage) is not None:
        words.append(f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens")
        seconds = (trace.total_ms - (trace.first_byte_ms or 0.0)) / 1000
        if trace.request.stream and usage.completion_tokens > 1 and seconds > 0:
            words.append(f"{usage.completion_tokens / seconds:.0f} tok/s")
    return " · ".join(words)


def _listed(label: str, items: list[str]) -> Iterator[Line]:
    for index, item in enumerate(items):
        yield _line("" if index else label, item), ""


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_COLUMNS}}{text}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.1f} ms"
