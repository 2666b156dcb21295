"""What this process asks of its system: file descriptors, and the fast event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


def allow_many_connections() -> None:
    """Raise the limit of open files to what the system lets us have: each caller and each engine's answer takes one."""
    try:
        import resource
    except ImportError:  # native Windows knows no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS refuses some values that it names itself
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's loop where it exists, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
