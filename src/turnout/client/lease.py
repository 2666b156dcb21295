"""A lease that is held for a block of code: asked for, renewed while the block runs, given back at its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self

import msgspec

from turnout.client.errors import ApiError, DaemonNotReachable, error_of, read_error
from turnout.core.clock import Clock, SystemClock
from turnout.core.loopback import is_loopback_url
from turnout.core.memory import Demand, LeaseClass, Priority

if TYPE_CHECKING:
    import httpx2

RENEWALS_PER_TTL = 3
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 30.0
"""For any answer; a daemon that lets us wait says so every second."""
GONE = ("daemon_not_reachable", "shutting_down")
"""What a daemon's restart looks like."""


class GrantedLease(msgspec.Struct, frozen=True, kw_only=True, rename={"lease_class": "class"}):
    """A lease as the daemon tells it.

    Attributes:
        id: ``lease_…``.
        devices: Bytes on each device.
        lease_class: How its holder may be treated.
        holder: Whose, in words.
        priority: Of the waiting for it.
        granted_at: Seconds since the epoch.
        expires_at: Seconds since the epoch, unless it is renewed.
        process: The holder's process, if it was named.
    """

    id: str
    devices: Demand
    lease_class: LeaseClass
    holder: str
    priority: Priority = "normal"
    granted_at: float = 0.0
    expires_at: float = 0.0
    process: int | None = None


class LeaseWaiting(msgspec.Struct, frozen=True, kw_only=True):
    """Where an ask stands in the line.

    Attributes:
        position: From 1.
        waited_seconds: So far.
        expected_wait_seconds: From now, if that can be told.
    """

    position: int
    waited_seconds: float = 0.0
    expected_wait_seconds: float | None = None


class LeaseAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; as the daemon's API has it."""

    devices: Demand
    lease_class: LeaseClass = msgspec.field(name="class")
    holder: str
    ttl_seconds: float
    priority: Priority = "normal"
    wait_seconds: float = 0.0
    process: int = 0


Where = Callable[[], tuple[str, str]]
"""Returns address and key of the daemon; asked again when it does not answer, since a restart may change both."""
OnWaiting = Callable[[LeaseWaiting], None]
OnTrouble = Callable[[str], None]


class LeaseHold:
    """``async with client.lease(...) as lease``: inside the block the memory is ours.

    It is renewed three times in each ``ttl_seconds``. A daemon that is started again knows the lease; one that does not
    know it (any more) is asked for it anew, and ``on_trouble`` is told.

    Args:
        where: Finds the daemon.
        ask: What is wanted.
        on_waiting: Called about every second while it waits.
        on_trouble: Called with a line for a person when the lease is in danger.
        clock: For the patience.
        transport: How bytes travel; a test gives ``httpx2.MockTransport``.
    """

    def __init__(
        self,
        where: Where,
        ask: LeaseAsk,
        *,
        on_waiting: OnWaiting | None = None,
        on_trouble: OnTrouble | None = None,
        clock: Clock | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._where = where
        self._url, self._key = where()
        self._ask = ask
        self._on_waiting = on_waiting
        self._on_trouble = on_trouble
        self._clock = clock or SystemClock()
        self._transport = transport
        self._http: httpx2.AsyncClient | None = None
        self._granted: GrantedLease | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._is_in_line = False
        self.is_lost = False
        """The daemon does not count the memory as ours: it did not know the lease, and could not grant it anew."""

    @property
    def granted(self) -> GrantedLease:
        """The lease as it was told last."""
        if self._granted is None:
            raise RuntimeError("the lease is held inside of its `async with` block only")
        return self._granted

    @property
    def id(self) -> str:
        """Its id; another one after it had to be asked for anew."""
        return self.granted.id

    async def __aenter__(self) -> Self:
        """Ask, wait, and begin to renew.

        Raises:
            LeaseNotGranted: Not within ``wait_seconds``; says who holds the memory.
            DaemonNotReachable: Nothing answers there.
            ApiError: The daemon's own word.
        """
        import httpx2

        self._http = httpx2.AsyncClient(
            timeout=httpx2.Timeout(ANSWER_SECONDS),
            transport=self._transport,
            verify=self._url.startswith("https:"),
            trust_env=not is_loopback_url(self._url),
        )
        try:
            self._granted = await self._patiently()
        except BaseException:
            await self._http.aclose()
            raise
        # Not a task group: that would wrap whatever the block raises. It is cancelled and awaited below.
        self._renewing = asyncio.get_running_loop().create_task(self._keep_renewing(), name="lease")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the lease back; if the daemon cannot be reached, it expires by itself."""
        assert self._http is not None
        assert self._renewing is not None
        try:
            self._renewing.cancel()
            await asyncio.wait((self._renewing,))
            await self._give_back()
        finally:
            await self._http.aclose()

    async def _give_back(self) -> None:
        for _ in range(2):  # it may have been started again since the last renewal, with another address or key
            try:
                await self._call("DELETE", f"/turnout/v1/leases/{self.id}", {})
            except (DaemonNotReachable, ApiError):
                self._look_again()
            else:
                return

    async def _patiently(self) -> GrantedLease:
        """Ask until the time to wait is over, also over a restart of the daemon."""
        give_up_at = self._clock.monotonic_seconds() + self._ask.wait_seconds
        self._is_in_line = False
        is_away = False
        while True:
            left = max(0.0, give_up_at - self._clock.monotonic_seconds())
            try:
                return await self._wait_in_line(msgspec.structs.replace(self._ask, wait_seconds=left))
            except (DaemonNotReachable, ApiError) as error:
                if error.code not in GONE or not (self._is_in_line or is_away) or left <= 0:
                    raise
                if self._is_in_line:
                    self._say(f"{error.message}; asking again")
                self._is_in_line, is_away = False, True
            await asyncio.sleep(RETRY_SECONDS)
            self._look_again()

    async def _wait_in_line(self, ask: LeaseAsk) -> GrantedLease:
        assert self._http is not None
        request = self._http.build_request(
            "POST",
            f"{self._url}/turnout/v1/leases",
            json=msgspec.to_builtins(ask),
            headers={**self._headers(), "accept": "text/event-stream"},
        )
        async with self._reached(self._http.send(request, stream=True)) as response:
            if response.status_code != 200:
                raise read_error(await response.aread(), response.status_code, self._url)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                event = json.loads(line[len("data:") :])
                if "waiting" in event:
                    self._is_in_line = True
                    if self._on_waiting is not None:
                        self._on_waiting(msgspec.convert(event["waiting"], LeaseWaiting))
                elif "error" in event:
                    raise error_of(event["error"], event.get("status", 500))
                elif "lease" in event:
                    return msgspec.convert(event["lease"], GrantedLease)
        raise DaemonNotReachable("the daemon ended before it had granted the lease", hint="`turnout up` starts it")

    async def _keep_renewing(self) -> None:
        pause = self._ask.ttl_seconds / RENEWALS_PER_TTL
        is_away = False
        while True:
            await asyncio.sleep(RETRY_SECONDS if is_away else pause)
            try:
                await self._renew()
            except DaemonNotReachable as error:
                if not is_away:
                    self._say(f"{error.message}; the lease is renewed as soon as it answers")
                is_away = True
                self._look_again()
            except ApiError as error:
                if not is_away:
                    self._say(f"the lease cannot be renewed: {error.message}")
                is_away = True
                self._look_again()  # one that was started again wants another key
            else:
                is_away = False

    async def _renew(self) -> None:
        try:
            told = await self._call(
                "POST", f"/turnout/v1/leases/{self.id}/renew", {"ttl_seconds": self._ask.ttl_seconds}
            )
        except ApiError as error:
            if error.code != "lease_not_found":
                raise
            await self._ask_anew()
        else:
            self._granted = msgspec.convert(told, GrantedLease)

    async def _ask_anew(self) -> None:
        was = self.id
        try:
            told = await self._call(
                "POST", "/turnout/v1/leases", msgspec.to_builtins(msgspec.structs.replace(self._ask, wait_seconds=0.0))
            )
        except ApiError as error:
            self.is_lost = True
            self._say(f"the daemon no longer knows {was} and cannot grant it anew: {error.message}")
            return
        self._granted = msgspec.convert(told, GrantedLease)
        self.is_lost = False
        self._say(f"the daemon no longer knew {was}; it was granted anew as {self.id}")

    async def _call(self, method: str, path: str, body: dict[str, Any]) -> Any:
        assert self._http is not None
        request = self._http.build_request(method, self._url + path, json=body, headers=self._headers())
        async with self._reached(self._http.send(request)) as response:
            if response.status_code >= 300:
                raise read_error(response.content, response.status_code, self._url)
            return json.loads(response.content)

    @contextlib.asynccontextmanager
    async def _reached(self, sending: Awaitable[httpx2.Response]) -> AsyncIterator[httpx2.Response]:
        """Open an answer, and say in our own words when there is none, or it breaks off."""
        import httpx2

        try:
            response = await sending
            try:
                yield response
            finally:
                await response.aclose()
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            raise DaemonNotReachable(
                f"cannot reach a daemon at {self._url}: {reason}", hint="`turnout up` starts one"
            ) from error
        except ValueError as error:
            raise ApiError(f"{self._url} does not answer like turnout: {error}", code="not_turnout") from None

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}"} if self._key else {}

    def _say(self, words: str) -> None:
        if self._on_trouble is not None:
            self._on_trouble(words)

    def _look_again(self) -> None:
        with contextlib.suppress(DaemonNotReachable):
            self._url, self._key = self._where()


def holder_process(url: str) -> int:
    """Return the process to name as the holder: our own, where the daemon runs on this machine; else 0.

    Args:
        url: The daemon's address.
    """
    return os.getpid() if is_loopback_url(url) else 0
