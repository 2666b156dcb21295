"""``turnout why``: what happened to a request, from the daemon or, where none runs, from the trace file."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from turnout.cli.daemon import find_daemon, named_url
from turnout.cli.options import ConfigOption, Given, JsonOption, UrlOption, given, new_app
from turnout.cli.story import story_of
from turnout.cli.terminal import printable, put, put_json, put_table, say
from turnout.client import DaemonNotReachable
from turnout.config.paths import find_paths
from turnout.core.clock import SystemClock
from turnout.core.errors import NotFound
from turnout.core.words import Trace

app = new_app()
LISTED = 20
ALL = "SELECT body FROM traces ORDER BY id DESC LIMIT ?"
BY_START = "SELECT body FROM traces WHERE id >= ? AND id <= ? ORDER BY id LIMIT 2"


@app.command()
def why(
    context: typer.Context,
    request: Annotated[
        str, typer.Argument(metavar="[ID]", help="`req_…`, the beginning of one, or `last`; the newest 20 if left out.")
    ] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Tell the story of a request."""
    options = given(context, config, url)
    if not request:
        traces = _newest(options)
        if json:
            put_json({"traces": traces})
        else:
            _put_list(traces)
        return
    trace = _find(options, request)
    if json:
        put_json(trace)
    else:
        for line, style in story_of(trace):
            put(printable(line), style)


def read_traces(path: Path, sql: str, values: tuple[object, ...]) -> list[Trace]:
    """Return traces from the daemon's file, without writing to it.

    Args:
        path: The SQLite file.
        sql: ``ALL`` or ``BY_START``.
        values: For its parameters.
    """
    if not path.exists():
        return []
    # Without a log beside it nobody writes, and SQLite need not make files of its own to read it.
    is_at_rest = not path.with_name(path.name + "-wal").exists()
    address = f"{path.as_uri()}?mode=ro" + ("&immutable=1" if is_at_rest else "")
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=2)) as database:
            rows = database.execute(sql, values).fetchall()
    except sqlite3.Error as error:
        raise NotFound(f"{str(path)!r} cannot be read: {error}", hint="`turnout up` makes a new one") from error
    traces = []
    for (body,) in rows:
        with contextlib.suppress(msgspec.DecodeError):  # written by another version
            traces.append(msgspec.json.decode(body, type=Trace))
    return traces


def _newest(options: Given) -> list[Trace]:
    try:
        with find_daemon(options) as daemon:
            return daemon.traces(LISTED)
    except DaemonNotReachable:
        if named_url(options):
            raise
        return read_traces(find_paths().traces_file, ALL, (LISTED,))


def _find(options: Given, request: str) -> Trace:
    try:
        with find_daemon(options) as daemon:
            return daemon.trace(request)
    except DaemonNotReachable:
        if named_url(options):
            raise
    path = find_paths().traces_file
    if request == "last":
        found = read_traces(path, ALL, (1,))
    else:
        found = read_traces(path, BY_START, (request, request + "\uffff"))
        found = [trace for trace in found if trace.id == request] or found
    if len(found) != 1:
        several = "there are several traces that begin with" if found else "there is no trace"
        raise NotFound(f"{several} {request!r}", hint="`turnout why` without an id lists the newest")
    return found[0]


def _put_list(traces: list[Trace]) -> None:
    if not traces:
        say('no requests yet; `turnout run "Hello"` makes one')
        return
    now = datetime.fromtimestamp(SystemClock().wall_seconds(), UTC).astimezone()
    rows = [
        (
            trace.id,
            _spell_time(trace.received_at, now),
            trace.request.selector,
            trace.served_target or "nobody",
            trace.outcome.replace("_", " "),
            f"{trace.total_ms:,.0f}",
        )
        for trace in traces
    ]
    put_table(("ID", "TIME", "MODEL", "SERVED BY", "OUTCOME", "MS"), rows, right=("MS",))


def _spell_time(seconds: float, now: datetime) -> str:
    then = datetime.fromtimestamp(seconds, UTC).astimezone()
    return then.strftime("%H:%M:%S" if then.date() == now.date() else "%m-%d %H:%M")
