"""All engines together: who serves which target, and the world as one value for routing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import cast

from turnout.core.memory import Model
from turnout.core.snapshot import Snapshot
from turnout.core.words import Target
from turnout.tiers.base import Engine, LiveWorker, ManagedEngine

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
        self._tasks: asyncio.TaskGroup | None = None
        self._lives: dict[Engine, asyncio.Task[None]] = {}

    def add(self, engine: Engine) -> None:
        """Take an engine in; the order of adding is the order of preference. In a living fleet it begins at once."""
        self._engines.append(engine)
        self._begin(engine)
        self.changed()

    async def end(self, engine: Engine) -> None:
        """End an engine's life, and then forget it: until then it holds what it holds."""
        life = self._lives.pop(engine, None)
        if life is not None:
            life.cancel()
            await asyncio.wait((life,))
        if engine in self._engines:
            self._engines.remove(engine)
        self.changed()

    def arrange(self, order: Iterable[Engine]) -> None:
        """Put the engines into another order of preference; those that are not named come last."""
        places = {engine: place for place, engine in enumerate(order)}
        self._engines.sort(key=lambda engine: places.get(engine, len(places)))
        self.changed()

    def set_routes(self, aliases: dict[str, str], chains: dict[str, tuple[str, ...]]) -> None:
        """Take other aliases and chains."""
        self._aliases, self._chains = aliases, chains
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

    @property
    def managed(self) -> Iterable[ManagedEngine]:
        """The engines whose models need room on the devices."""
        return (cast("ManagedEngine", engine) for engine in self._engines if engine.capabilities.takes_orders)

    def models(self) -> dict[str, tuple[Model, ManagedEngine]]:
        """Return every model that needs room, with its engine, by target; the first engine wins a name."""
        found: dict[str, tuple[Model, ManagedEngine]] = {}
        for engine in self.managed:
            for model in engine.models():
                found.setdefault(model.name, (model, engine))
        return found

    def workers(self) -> tuple[LiveWorker, ...]:
        """Return every worker process of ours that lives; also called from other threads."""
        return tuple(worker for engine in self.managed for worker in engine.workers())

    async def run(self) -> None:
        """Let every engine live until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for engine in self._engines:
                    self._begin(engine)
                await asyncio.Event().wait()  # engines come and go; the fleet stays
        finally:
            self._tasks = None

    def _begin(self, engine: Engine) -> None:
        if self._tasks is not None:
            self._lives[engine] = self._tasks.create_task(self._keep_alive(engine), name=f"engine {engine.name}")

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
