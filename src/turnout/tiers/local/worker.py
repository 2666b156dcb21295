"""The worker's half of the protocol between turnout and a worker process on this machine.

1. The first line on stdin is one JSON object: the spec. ``read_spec`` returns it as a struct.
2. Stdin then stays open. Its end means that the parent died; ``exit_with_parent`` ends this process at once.
3. Stdout carries JSON lines only: any number of ``{"progress": STAGE, "fraction": 0.0..1.0 or null}``, then one
   ``{"ready": true, "url": "http://127.0.0.1:PORT"}``, or ``{"failed": REASON}`` and exit status 1.
4. Everything else that is printed goes to stderr, which is the worker's log.

Imports the standard library and msgspec only, so that every worker starts fast.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading
import time
from typing import NoReturn, TypeVar

import msgspec

STDIN, STDOUT, STDERR = 0, 1, 2
MINIMUM_SECONDS_BETWEEN_PROGRESS = 0.1
MAXIMUM_SPEC_BYTES = 4 * 1024 * 1024
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Spec = TypeVar("Spec", bound=msgspec.Struct)


def read_spec(spec_type: type[Spec]) -> Spec:
    """Read the spec from the first line of stdin, and keep stdout for the protocol from now on.

    A spec that is missing or does not fit ends the process with a ``failed`` line.

    Args:
        spec_type: The struct that the line is decoded into.
    """
    _lines()
    # Reads the descriptor itself: a buffered sys.stdin would be locked by the watching thread at interpreter exit.
    line = b""
    while b"\n" not in line and len(line) <= MAXIMUM_SPEC_BYTES:
        piece = os.read(STDIN, 65536)
        if not piece:
            break
        line += piece
    if b"\n" not in line:
        announce_failed(f"stdin has to begin with a spec: one line of JSON; got {len(line)} bytes without a line's end")
    try:
        return msgspec.json.decode(line[: line.index(b"\n")], type=spec_type)
    except msgspec.DecodeError as error:
        announce_failed(f"the spec on stdin is not a {spec_type.__name__}: {error}")


def exit_with_parent() -> None:
    """End this process at once when the parent is gone: stdin ends, or (on Linux) the kernel says so.

    Call it after ``read_spec``. The kernel's signal follows the *thread* that started the worker (prctl(2)), so the
    parent has to start workers from a thread that lives as long as it does: its main thread.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_exit_when_stdin_ends, name="parent-watch", daemon=True).start()


def announce_progress(stage: str, fraction: float | None) -> None:
    """Say how far loading is; at most ten lines a second of one stage are written, the rest is dropped.

    Args:
        stage: What is going on, such as ``loading`` or ``downloading``.
        fraction: How much of it is done, 0.0 to 1.0; None if that is unknown.
    """
    _lines().progress(stage, fraction)


def announce_ready(url: str) -> None:
    """Say that requests may come.

    Args:
        url: Where to, such as ``http://127.0.0.1:41234``.
    """
    _lines().write({"ready": True, "url": url})


def announce_failed(reason: str) -> NoReturn:
    """Say why the worker cannot serve, and end the process with status 1.

    Args:
        reason: What happened and what to do about it, for the person at the keyboard.
    """
    _lines().write({"failed": reason})
    sys.stderr.flush()
    # Not sys.exit: loading may run in a thread, where SystemExit would end the thread only.
    os._exit(1)


def _exit_when_stdin_ends() -> None:
    try:
        while os.read(STDIN, 65536):
            pass
    finally:
        os._exit(0)


class _Lines:
    """The real stdout, taken away from everything else in the process."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._descriptor = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)  # native libraries print to descriptor 1
        self._lock = threading.Lock()
        self._stage = ""
        self._progress_at = 0.0

    def write(self, line: dict[str, object]) -> None:
        rest = msgspec.json.encode(line) + b"\n"
        with self._lock:
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except BrokenPipeError:
                pass  # nobody listens; whether the parent lives is told by stdin

    def progress(self, stage: str, fraction: float | None) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._progress_at < MINIMUM_SECONDS_BETWEEN_PROGRESS:
            return
        self._stage, self._progress_at = stage, now
        self.write({"progress": stage, "fraction": fraction})


@functools.cache
def _lines() -> _Lines:
    return _Lines()
