"""One start at a time: a lock in a file, so that it holds between engines and between daemons.

An engine that measures the card while it loads counts whatever a neighbour allocates meanwhile as its own
(https://github.com/vllm-project/vllm/issues/55827).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

POLL_SECONDS = 0.1


class Turn:
    """The right to load; the kernel gives it back when the process ends, however it ends.

    Args:
        path: The lock's file; everybody who must not load at once names the same one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    async def take(self) -> None:
        """Return when nobody else loads. Without locks of files (Windows, a full disk) nothing is waited for."""
        if sys.platform == "win32" or self._descriptor is not None:
            return
        import fcntl

        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                while True:
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        await asyncio.sleep(POLL_SECONDS)
                    else:
                        self._descriptor, descriptor = descriptor, -1
                        return
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def give_back(self) -> None:
        """Let the next one load; may be called without having it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
