"""``turnout logs``: the daemon's log or an engine's, also while it grows."""

from __future__ import annotations

import json as json_text
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from turnout.cli.options import ConfigOption, JsonOption, given, new_app
from turnout.cli.terminal import put, put_json
from turnout.config.paths import Paths, find_paths
from turnout.core.errors import SetupError

app = new_app()
POLL_SECONDS = 0.2
LOCAL = "local/"
_NEVER = threading.Event()


@app.command()
def logs(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="An engine by its key or target; the daemon if left out.")
    ] = "daemon",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="Start with the last N lines.")] = 50,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the log of the daemon or of an engine."""
    given(context, config)
    path = find_log(name, find_paths())
    if follow:
        for line in follow_lines(path, lines, _wait):
            put(json_text.dumps({"line": line}, ensure_ascii=False) if json else line)
        return
    last = last_lines(path, lines)
    if json:
        put_json({"log": str(path), "lines": last})
    else:
        for line in last:
            put(line)


def find_log(name: str, paths: Paths) -> Path:
    """Return the file of a log.

    Args:
        name: ``daemon``, ``up``, or an engine's key or target.
        paths: The installation's directories.

    Raises:
        SetupError: There is no such log; lists those that there are.
    """
    path = paths.engine_log(name.removeprefix(LOCAL))
    if path.is_file():
        return path
    known = sorted(file.stem for file in paths.log_dir.glob("*.log"))
    if known:
        raise SetupError(f"there is no log {name!r}", hint=f"logs: {', '.join(known)}")
    raise SetupError(f"there are no logs in {str(paths.log_dir)!r} yet", hint="`turnout up` starts the daemon")


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, from the file before it too if it was turned over just now.

    Args:
        path: The log.
        count: How many.
    """
    kept: deque[str] = deque(maxlen=count)
    for file in (path.with_suffix(".log.1"), path):
        try:
            with file.open(encoding="utf-8", errors="replace") as text:
                kept.extend(line.rstrip("\n") for line in text)
        except FileNotFoundError:
            continue
    return list(kept)


def follow_lines(path: Path, count: int, wait: Callable[[], None]) -> Iterator[str]:
    """Return the last lines of a log and then every new one, across its turning over; never ends by itself.

    Args:
        path: The log.
        count: How many of the lines that are there already.
        wait: Called when there is nothing new.
    """
    file = path.open("rb")
    try:
        first, rest = _read_lines(file, b"")
        yield from first[max(0, len(first) - count) :]
        while True:
            lines, rest = _read_lines(file, rest)
            yield from lines
            if not _is_turned_over(path, file):
                wait()
                continue
            lines, rest = _read_lines(file, rest)  # it may have grown before it got its new name
            yield from lines
            if rest:
                yield rest.decode("utf-8", "replace")
            file.close()
            file, rest = path.open("rb"), b""
    finally:
        file.close()


def _read_lines(file: BinaryIO, rest: bytes) -> tuple[list[str], bytes]:
    *lines, rest = (rest + file.read()).split(b"\n")
    return [line.decode("utf-8", "replace") for line in lines], rest


def _is_turned_over(path: Path, file: BinaryIO) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False  # between two names
    return now.st_ino != os.fstat(file.fileno()).st_ino or now.st_size < file.tell()


def _wait() -> None:
    sys.stdout.flush()
    _NEVER.wait(POLL_SECONDS)
