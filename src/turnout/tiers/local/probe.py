"""Engines that somebody else runs: asked at intervals whether they answer and what they serve, never owned."""

from __future__ import annotations

import asyncio
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from turnout.core.errors import UNREADABLE_JSON, Broken, LoadFailed, Malformed, Stalled
from turnout.core.events import WorkerChanged
from turnout.core.words import Target, WorkerState
from turnout.tiers.base import EngineContext
from turnout.tiers.transport import Deadlines, HttpRequest

PROBE_ANSWER_BYTES = 8 << 20
PROBE_SECONDS = 10.0
QUESTION_PARTS = 3
"""A question may take so many times the deadline of each of its parts (connect, first byte, the rest)."""
Reply = TypeVar("Reply")


class ProbedEngine:
    """Base of the engines that are only spoken to: one loop that looks, and a state that follows what it saw.

    Args:
        context: What the composition root provides.
        base_url: The engine's address, without a trailing slash.
        key: Bearer key that the engine demands, if it does.
    """

    def __init__(self, context: EngineContext, base_url: str, key: str | None) -> None:
        self.context = context
        self.base_url = base_url.rstrip("/")
        self._key = key
        self._known = asyncio.Event()
        self._look_now = asyncio.Event()
        self._targets: tuple[Target, ...] = ()

    async def look(self) -> tuple[Target, ...]:
        """Ask the engine what it serves; subclasses say how.

        Raises:
            Broken: It did not answer, or not in its own language.
        """
        raise NotImplementedError

    def absent(self, reason: str) -> tuple[Target, ...]:
        """Return the targets to show while the engine does not answer."""
        raise NotImplementedError

    def targets(self) -> tuple[Target, ...]:
        """Return what the last look saw."""
        return self._targets

    async def wait_known(self) -> None:
        """Return after the first look."""
        await self._known.wait()

    def wish(self, target: str) -> None:  # noqa: ARG002  the engine loads its models itself
        """Look again soon."""
        self._look_now.set()

    async def ready(self, target: str) -> None:
        """Return at once: whether it answers, the call itself will show (and the breaker remember).

        Raises:
            LoadFailed: The engine says that it does not have this model.
        """
        for known in self._targets:
            if known.name == target and known.state == "failed":
                self.wish(target)
                raise LoadFailed(f"{target}: {known.detail}")

    async def run(self) -> None:
        """Look every ``PROBE_SECONDS``, and at once when wished for."""
        while True:
            self._look_now.clear()
            try:
                seen = await self.look()
            except Broken as error:
                seen = self.absent(error.message)
            self._update(seen)
            self._known.set()
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._look_now.wait()
                await asyncio.sleep(1.0)  # wishes come with every failed call: one look a second is enough
            except TimeoutError:
                pass

    async def ask(
        self, method: str, path: str, body: bytes, reply_type: type[Reply], base_url: str | None = None
    ) -> Reply:
        """Make one small call and decode its JSON answer.

        Args:
            method: Of HTTP.
            path: Below the base URL.
            body: JSON, or nothing.
            reply_type: What the answer has to be.
            base_url: Instead of the engine's.

        Raises:
            Broken: No answer, a status that is not 200, or not the JSON that was expected.
        """
        limit = self.context.deadlines.probe
        base_url = self.base_url if base_url is None else base_url
        request = HttpRequest(method, base_url, path, self.headers(), body)
        deadlines = Deadlines(connect=limit, first_byte=limit, gap=limit, write=limit)
        try:
            async with asyncio.timeout(QUESTION_PARTS * limit):
                response = await self.context.transport.send(request, deadlines)
                try:
                    data = await response.read_all(PROBE_ANSWER_BYTES)
                finally:
                    response.close()
        except TimeoutError:
            raise Stalled(f"{base_url}{path} sends its answer by drops") from None
        if response.status != 200:
            raise Malformed(f"{base_url}{path} answered with status {response.status}")
        try:
            return msgspec.json.decode(data, type=reply_type)
        except UNREADABLE_JSON as error:
            raise Malformed(f"{base_url}{path} did not answer in the expected form: {error}") from error

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers of every call."""
        fixed: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
        return (*fixed, (b"authorization", b"Bearer " + self._key.encode())) if self._key else fixed

    def _update(self, seen: tuple[Target, ...]) -> None:
        before = {target.name: target.state for target in self._targets}
        if seen == self._targets:
            return
        self._targets = seen
        self.context.changed()  # before anybody is told: who hears it looks at the new world
        for target in seen:
            if before.pop(target.name, None) != target.state:
                self._tell(target.name, target.engine, target.state, target.detail)
        for name in before:
            self._tell(name, "", "unreachable", "no longer there")

    def _tell(self, target: str, engine: str, state: WorkerState, detail: str) -> None:
        self.context.emit(WorkerChanged(target=target, engine=engine, state=state, detail=detail))


def check_base_url(url: str) -> str:
    """Return what is wrong with a base URL, or an empty string."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:  # brackets without an end, a port that is no number or too large
        return f"{error}".lower()
    if parts.scheme not in ("http", "https", "http+unix") or not (parts.netloc or parts.path):
        return "expected something like 'http://127.0.0.1:8000/v1'"
    if parts.query or parts.fragment or parts.username:
        return "a base URL has no query, fragment or user; put a key into api_key_env"
    return ""
