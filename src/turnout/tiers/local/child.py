"""One worker process, from the parent's side: its birth, its lines, its log, its end.

The protocol is described in worker.py. A child gets a session of its own, so that Ctrl-C in a terminal reaches the
daemon alone, and an environment of a few names, so that no secret of the user's travels along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from turnout.core.errors import UNREADABLE_JSON, LoadFailed

PASSED_ON = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "TZ", "SYSTEMROOT", "PYTHONPATH",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "COVERAGE_PROCESS_START",
)  # fmt: skip
STOP_SECONDS = 5.0
LINE_BYTES = 1 << 20
LOG_BYTES = 4 << 20
KEPT_LINES = 20


class Announcement(msgspec.Struct, frozen=True):
    """One line of a worker's stdout."""

    ready: bool = False
    url: str = ""
    failed: str = ""
    progress: str = ""
    fraction: float | None = None


class EngineLog:
    """A log file that cannot grow without end: at ``LOG_BYTES`` it becomes ``NAME.log.1``. Never raises.

    Args:
        path: The file; its folder is made when needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)

    def write(self, line: bytes) -> None:
        """Append one line."""
        self.last_lines.append(line.decode("utf-8", "replace").rstrip()[:500])
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size > LOG_BYTES:
                self.path.replace(self.path.with_suffix(".log.1"))
            with self.path.open("ab") as file:
                file.write(line if line.endswith(b"\n") else line + b"\n")


class Child:
    """A running worker process.

    Args:
        process: The process, with pipes on all three descriptors.
        log: Where its stderr goes.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: EngineLog) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: the signal), or None while it lives."""
        return self._process.returncode

    async def started(self, on_progress: Callable[[str, float | None], None]) -> str:
        """Wait for the ``ready`` line and return the worker's URL.

        Args:
            on_progress: Called with stage and fraction of every progress line.

        Raises:
            LoadFailed: The worker said so, or ended first.
        """
        assert self._process.stdout is not None
        while line := await _line_of(self._process.stdout):
            try:
                said = msgspec.json.decode(line, type=Announcement)
            except UNREADABLE_JSON:
                self._log.write(b"not understood: " + line)
                continue
            if said.ready:
                return said.url
            if said.failed:
                raise LoadFailed(said.failed)
            on_progress(said.progress, said.fraction)
        code = await self._process.wait()
        last = self._log.last_lines[-1] if self._log.last_lines else "it said nothing"
        raise LoadFailed(f"the worker ended with {describe_exit(code)} before it was ready: {last}")

    async def exited(self) -> int:
        """Wait for the end and return the exit code (negative: the signal)."""
        return await self._process.wait()

    async def pump_log(self) -> None:
        """Copy stderr into the log until it ends."""
        assert self._process.stderr is not None
        while line := await _line_of(self._process.stderr):
            self._log.write(line)

    async def stop(self) -> None:
        """End the process and everything it started: SIGTERM, then SIGKILL after ``STOP_SECONDS``."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


async def _line_of(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than the buffer: the reader has dropped it
        return b"(a line of over 1 MiB was dropped)\n"


async def spawn_worker(module: str, spec: Any, log: EngineLog, extra: dict[str, str]) -> Child:
    """Start ``python -m module`` and hand it its spec; the caller ends it with ``Child.stop``.

    Args:
        module: A worker module that follows worker.py.
        spec: A struct; encoded as the first line on stdin, so that secrets are in no argument list.
        log: Takes stderr.
        extra: Environment variables beyond the few that are passed on.

    Raises:
        LoadFailed: The process cannot be started.
    """
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | extra
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=sys.platform != "win32",
            limit=LINE_BYTES,
        )
    except OSError as error:
        raise LoadFailed(f"cannot start {module}: {error}") from error
    assert process.stdin is not None
    # A process that was killed this early has a closed pipe (uvloop says so with a RuntimeError): `started` will tell.
    with contextlib.suppress(RuntimeError, OSError):
        process.stdin.write(msgspec.json.encode(spec) + b"\n")
    return Child(process, log)


def describe_exit(code: int) -> str:
    """Return an exit code in words: ``exit status 1`` or ``signal SIGKILL``."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
