"""Child processes and threads of a pull, ended when the pull is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

Result = TypeVar("Result")


async def run_child(arguments: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None]) -> int:
    """Run a program to its end and return its exit code; stdout and stderr come line by line.

    The child has a session of its own: Ctrl-C reaches turnout alone, which then kills the child with all it started.

    Args:
        arguments: The program and its arguments.
        environment: All of its environment.
        on_line: Called with each line; what it raises ends the child too.
    """
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
        limit=1 << 20,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            on_line(line.decode("utf-8", "replace").rstrip())
        return await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if sys.platform == "win32":
                    process.kill()
                else:
                    os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def in_thread(work: Callable[[Callable[[int], None]], Result], on_bytes: Callable[[int], None]) -> Result:
    """Run blocking work in a thread; when cancelled, wait until the thread has noticed.

    Args:
        work: Gets a function to call with its progress in bytes, which raises once the work is to stop.
        on_bytes: Called with that progress, in the event loop.
    """
    loop, is_stopped = asyncio.get_running_loop(), threading.Event()

    def report(done: int) -> None:
        if is_stopped.is_set():
            raise InterruptedError("the pull was cancelled")
        loop.call_soon_threadsafe(on_bytes, done)

    future = loop.run_in_executor(None, work, report)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        is_stopped.set()
        await asyncio.wait([future])
        with contextlib.suppress(Exception):
            future.result()  # read, so that asyncio does not report it as lost
        raise
