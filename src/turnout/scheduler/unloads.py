"""Who waits until a worker has gone that was asked to unload."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from turnout.scheduler.leases import PROGRESS_SECONDS
from turnout.scheduler.messages import Fact, UnloadAsked, WorkerView

Watch = Callable[[WorkerView], Awaitable[None]]
"""Takes how a worker is while it ends."""


class Unloads:
    """The waiting.

    Args:
        tell: Takes a fact for the scheduler.
        worker: Returns a worker as it is; None if there is no such model.
    """

    def __init__(self, tell: Callable[[Fact], None], worker: Callable[[str], WorkerView | None]) -> None:
        self._tell = tell
        self._worker = worker
        self._ends: dict[str, list[asyncio.Future[None]]] = {}

    async def unload(self, target: str, watch: Watch | None = None) -> bool:
        """Ask for a worker's end and return when it has gone; False if there was none.

        What runs on it goes on to the end. Whoever stops waiting does not take the wish back.

        Args:
            target: Its model.
            watch: Called at once and about every second until then.
        """
        worker = self._worker(target)
        if worker is None or worker.phase in {"cold", "failed"}:
            return False
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends.setdefault(target, []).append(end)
        self._tell(UnloadAsked(model=target))
        while not end.done():
            worker = self._worker(target)
            if watch is not None and worker is not None:
                await watch(worker)
            await asyncio.wait((end,), timeout=PROGRESS_SECONDS)
        return True

    def gone(self, target: str) -> None:
        """Say that a worker has gone, however."""
        for end in self._ends.pop(target, ()):
            if not end.done():
                end.set_result(None)
