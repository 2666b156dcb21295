"""An OpenAI-compatible engine that fails on purpose: a raw TCP server that plays what fault_scripts.py says.

What it plays is chosen per model name (``script``); ``go_on`` lets a fault happen that comes after something was
delivered.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from types import TracebackType
from typing import Self

from support.fault_answers import Behaviour
from support.fault_scripts import FAULTS, Exchange, Play, good


class FaultPeer:
    """The server.

    Attributes:
        base_url: Up to and with ``/v1``.
        open_connections: How many there are now.
        trapped: How many requests followed the redirect.
        exchanges: By the ``x-request-id`` of their requests.
    """

    def __init__(self) -> None:
        self.base_url = ""
        self.open_connections = 0
        self.trapped = 0
        self.exchanges: dict[str, list[Exchange]] = defaultdict(list)
        self._scripts: dict[str, Behaviour] = {}
        self._plays: dict[str, Play] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._server: asyncio.Server

    def script(self, model: str, behaviour: Behaviour) -> None:
        """Say what to play for a model; others are answered well."""
        self._scripts[model] = behaviour

    def go_on(self, model: str) -> None:
        """Let the fault happen: the caller has what comes before it."""
        if (play := self._plays.get(model)) is not None:
            play.may_go_on.set()

    async def until_left(self, request_id: str, seconds: float) -> None:
        """Return once the client has closed every connection of a request that could not serve another one."""
        async with asyncio.timeout(seconds):
            for exchange in self.exchanges[request_id]:
                if not exchange.is_clean:
                    await exchange.closed.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        await self._server.wait_closed()
        if error is None and self._errors:
            raise self._errors[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self.open_connections += 1
        served: list[Exchange] = []
        try:
            while True:
                await self._answer(reader, writer, served)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001  raised again where the test ends
            self._errors.append(error)
        finally:
            for exchange in served:
                exchange.closed.set()
            writer.close()
            self.open_connections -= 1
            self._running.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, served: list[Exchange]) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        body = await reader.readexactly(int(length[1]) if length else 0)
        path = head.split(b" ", 2)[1]
        self.trapped += path == b"/trap"
        wish = json.loads(body) if body else {}
        behaviour = self._scripts.get(wish.get("model", ""))
        play = Play(reader, writer, behaviour or Behaviour("", "", "before"), is_stream=wish.get("stream") is True)
        served.append(play.exchange)
        if path != b"/v1/chat/completions":
            models = [{"id": name, "object": "model"} for name in (*self._scripts, "good")]
            play.answer("200 OK", json.dumps({"object": "list", "data": models}).encode())
            return
        request_id = re.search(rb"x-request-id: (\S+)", head)
        self.exchanges[request_id[1].decode() if request_id else ""].append(play.exchange)
        self._plays[wish["model"]] = play
        await (FAULTS[behaviour.fault][behaviour.variant] if behaviour else good)(play)
        await writer.drain()
