"""turnout's own request log as a trace: the SQLite file that the daemon keeps, or JSON of ``turnout why --json``.

Only what became of a request's *asking* is taken: when, by whom, for what, with how many tokens. How long it took then
is what the simulation answers anew.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec

from turnout.core.errors import UNREADABLE_JSON, SetupError
from turnout.core.memory import PRIORITIES, Priority
from turnout.core.words import AUTO, Trace
from turnout.simulate.profile import Profile
from turnout.simulate.traces.arrivals import Arrivals, ArrivalsBuilder
from turnout.simulate.traces.mix import Mix

SQLITE_MAGIC = b"SQLite format 3\x00"
ALL = "SELECT body FROM traces ORDER BY id"


class TraceList(msgspec.Struct):
    """What ``turnout why --json`` prints without an id."""

    traces: tuple[Trace, ...]


def read_requests(path: Path, profile: Profile, seed: int, rate: float) -> Arrivals:
    """Return the arrivals of a request log. A target that the profile does not have is taken by its role.

    Args:
        path: A SQLite file, JSON lines, or one JSON document.
        profile: Whose models shall serve them.
        seed: For what the log does not say: the priority.
        rate: How many times as fast as recorded they arrive.

    Raises:
        SetupError: With file and line.
    """
    builder = ArrivalsBuilder(profile, path.name)
    mix = Mix(profile, seed)
    for trace in _traces(path):
        model, role = _target(trace, profile)
        # A later version's requests may tell how urgent they were.
        told = getattr(trace.request, "priority", None)
        priority = cast("Priority", told) if told in PRIORITIES else None
        _, priority, caller = mix.draw(role, priority, trace.key_name)
        if model is None:
            builder.left_out += 1
            continue
        prompt = trace.usage.prompt_tokens if trace.usage else trace.request.body_bytes // 4
        answer = trace.usage.completion_tokens if trace.usage and trace.request.kind != "embedding" else 0
        builder.add_request(trace.received_at, model, role, priority, caller, prompt, answer)
    if not len(builder):
        raise SetupError(
            f"{path}: no request of this log is for a model of profile {profile.name!r}"
            if builder.left_out
            else f"{path}: the log has no requests",
            hint="a model is known by its name (local/coding), its key (coding) or a role",
        )
    return builder.build(rate)


def _target(trace: Trace, profile: Profile) -> tuple[int | None, str]:
    first = trace.plan.candidates[0].target if trace.plan and trace.plan.candidates else ""
    selector = "orchestrator" if trace.request.selector == AUTO else trace.request.selector
    for name in (trace.served_target, first, selector):
        if name and (index := profile.model_index(name)) is not None:
            roles = profile.models[index].roles
            return index, selector if selector in roles else roles[0] if roles else profile.models[index].model.name
    return None, selector


def _traces(path: Path) -> Iterator[Trace]:
    with path.open("rb") as file:
        is_database = file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    return _from_database(path) if is_database else _from_json(path)


def _from_database(path: Path) -> Iterator[Trace]:
    # Without a log beside it nobody writes, and SQLite need not make files of its own to read it.
    is_at_rest = not path.with_name(path.name + "-wal").exists()
    address = f"{path.absolute().as_uri()}?mode=ro" + ("&immutable=1" if is_at_rest else "")
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=2)) as database:
            for (body,) in database.execute(ALL):
                with contextlib.suppress(*UNREADABLE_JSON):  # written by another version
                    yield msgspec.json.decode(body, type=Trace)
    except sqlite3.Error as error:
        raise SetupError(f"{path}: cannot be read: {error}", hint="it has to be turnout's traces.sqlite3") from error


def _from_json(path: Path) -> Iterator[Trace]:
    with path.open("rb") as file:
        is_document = _is_document(file.readline())
    if is_document:
        body = path.read_bytes()
        try:
            if b'"traces"' in body[:64]:
                traces = msgspec.json.decode(body, type=TraceList).traces
            else:
                traces = (msgspec.json.decode(body, type=Trace),)
        except UNREADABLE_JSON as error:
            raise _refusal(path, 1, error) from None
        yield from traces
        return
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                try:
                    yield msgspec.json.decode(text, type=Trace)
                except UNREADABLE_JSON as error:
                    raise _refusal(path, line, error) from None


def _is_document(first_line: bytes) -> bool:
    """Return whether a file is one JSON document, by its first line: a lone brace, or a list of traces."""
    return first_line.strip() == b"{" or b'"traces"' in first_line[:64]


def _refusal(path: Path, line: int, error: Exception) -> SetupError:
    return SetupError(
        f"{path}:{line}: expected a trace as JSON: {error}",
        hint="`turnout why --json` prints traces, one JSON object for each",
    )
