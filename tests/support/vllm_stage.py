"""A vLLM engine that lives by itself, for tests of what a scheduler would order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from support.samples import a_context
from support.vllm import CARD, RAM, is_real, vllm_settings
from turnout.config.schema import DeadlineSettings
from turnout.core.clock import SystemClock
from turnout.core.events import Event, WorkerChanged
from turnout.tiers.base import Call
from turnout.tiers.local.vllm.engine import VllmEngine
from turnout.tiers.routed_transport import RoutedTransport
from turnout.tiers.transport import Deadlines

PATIENCE_SECONDS = 300.0 if is_real() else 20.0
NAME = "local/one"


class Stage:
    """A running engine and what it told."""

    def __init__(self, engine: VllmEngine, events: list[Event], news: asyncio.Event) -> None:
        self.engine = engine
        self.events = events
        self._news = news

    @property
    def state(self) -> str:
        """What it does now."""
        (target,) = self.engine.targets()
        return target.state

    @property
    def states(self) -> list[str]:
        """Every state that was told."""
        return [event.state for event in self.events if isinstance(event, WorkerChanged)]

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Wait for something that is told by an event."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not wanted():
                self._news.clear()
                await self._news.wait()

    async def until_state(self, state: str) -> None:
        """Wait for a state."""
        await self.until(lambda: self.state == state)

    async def ready(self) -> None:
        """Have it loaded."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.engine.ready(NAME)

    async def chat(self, **fields: Any) -> int:
        """Ask something and return the status."""
        body = {"model": "one", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2} | fields
        call = Call(kind="chat", body=msgspec.json.encode(body), request_id="r", deadlines=Deadlines())
        (target,) = self.engine.targets()
        async with asyncio.timeout(PATIENCE_SECONDS):
            response = await self.engine.send(target, call)
            await response.read_all(1 << 20)
            response.close()
        return response.status

    async def seen(self) -> dict[str, Any]:
        """Return what the double saw."""
        said: dict[str, Any] = json.loads(await self.engine.ask("GET", "/double", seconds=5))
        return said


@asynccontextmanager
async def a_running_vllm(root: Path, docker_host: str = "", **settings: Any) -> AsyncIterator[Stage]:
    """Let one live.

    Args:
        root: A folder of the test's own.
        docker_host: Where its containers go.
        settings: Of the model.
    """
    events: list[Event] = []
    news = asyncio.Event()

    def hear(event: Event) -> None:
        events.append(event)
        news.set()

    transport = RoutedTransport()
    deadlines = DeadlineSettings(load=PATIENCE_SECONDS)
    secrets = {"DOCKER_HOST": docker_host}
    context = a_context(root, transport, emit=hear, clock=SystemClock(), deadlines=deadlines, secrets=secrets)
    devices = (RAM,) if is_real() else (CARD, RAM)
    engine = VllmEngine("one", vllm_settings(root, **settings), msgspec.structs.replace(context, devices=devices))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(transport.aclose)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        life = tasks.create_task(engine.run())
        stack.callback(life.cancel)
        yield Stage(engine, events, news)
