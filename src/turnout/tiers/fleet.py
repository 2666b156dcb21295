"""All engines together: who serves which target, and the world as one value for routing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from turnout.core.snapshot import Snapshot
from turnout.core.words import Target
from turnout.tiers.base import Engine

REVIVAL_SECONDS = 1.0
logger = logging.getLogger("turnout.fleet")


class Fleet:
    """The engines of this daemon.

    Args:
        aliases: As configured.
        chains: As configured.
    """

    def __init__(self, aliases: dict[str, str], chains: dict[str, tuple[str, ...]]) -> None:
        self._engines: list[Engine] = []
        self._aliases = aliases
        self._chains = chains
        self._default = ""
        self._snapshot: Snapshot | None = None
        self._owners: dict[str, Engine] = {}

    def add(self, engine: Engine) -> None:
        """Take an engine in; the order of adding is the order of preference."""
        self._engines.append(engine)
        self.changed()

    def changed(self) -> None:
        """Forget the snapshot: some target is not what it was."""
        self._snapshot = None

    def set_default(self, target: str) -> None:
        """Say which target leads the orchestrator's chain; empty for none."""
        self._default = target
        self.changed()

    @property
    def engines(self) -> Iterable[Engine]:
        """Every engine, in order of preference."""
        return tuple(self._engines)

    @property
    def snapshot(self) -> Snapshot:
        """The world now; the same object until something changes."""
        if self._snapshot is None:
            targets: dict[str, Target] = {}
            self._owners = {}
            for engine in self._engines:
                for target in engine.targets():
                    if targets.setdefault(target.name, target) is target:
                        self._owners[target.name] = engine
            self._snapshot = Snapshot(
                targets=targets, aliases=self._aliases, chains=self._chains, default=self._default
            )
        return self._snapshot

    def owner(self, target: str) -> Engine | None:
        """Return the engine that serves a target, or None if it is gone."""
        _ = self.snapshot
        return self._owners.get(target)

    async def run(self) -> None:
        """Let every engine live until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for engine in self._engines:
                tasks.create_task(self._keep_alive(engine), name=f"engine {engine.name}")

    async def _keep_alive(self, engine: Engine) -> None:
        while True:
            try:
                await engine.run()
            except Exception:  # the supervisor: one engine's fault must not take the others along
                logger.exception("engine %s failed; it is started again", engine.name)
            await asyncio.sleep(REVIVAL_SECONDS)

    async def wait_known(self) -> None:
        """Return once every engine has been looked at."""
        for engine in self._engines:
            await engine.wait_known()
