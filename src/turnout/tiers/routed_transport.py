"""The transport that the daemon uses: the fast client where it can serve, httpx2 everywhere else."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from turnout.core.loopback import is_loopback_name
from turnout.tiers.http1 import Origin, PooledHttp1Transport, origin_of
from turnout.tiers.https import Httpx2Transport
from turnout.tiers.transport import Deadlines, HttpRequest, HttpResponse, Transport

KNOWN_LIMIT = 1024


def has_proxy(origin: Origin) -> bool:
    """Say whether the environment sends plain HTTP to this host through a proxy."""
    from urllib.request import getproxies, proxy_bypass  # late: it brings half of the standard library

    proxies = getproxies()
    return ("http" in proxies or "all" in proxies) and not proxy_bypass(origin.host)


class RoutedTransport(Transport):
    """Plain HTTP and Unix sockets on `PooledHttp1Transport`; https, and http through a proxy, on `Httpx2Transport`.

    Args:
        plain: Instead of a `PooledHttp1Transport`.
        general: Instead of an `Httpx2Transport`.
        trust_env: Whether the proxy variables of the environment count; they never do for loopback. They are read once
            for each base URL.
    """

    def __init__(
        self, *, plain: Transport | None = None, general: Transport | None = None, trust_env: bool = True
    ) -> None:
        self._plain = plain or PooledHttp1Transport()
        self._general = general or Httpx2Transport(trust_env=trust_env)
        self._trust_env = trust_env
        self._known: dict[str, Transport] = {}

    def send(self, request: HttpRequest, deadlines: Deadlines) -> Coroutine[Any, Any, HttpResponse]:
        """Send a request by the transport that fits its base URL; see `Transport.send`."""
        transport = self._known.get(request.base_url)
        if transport is None:
            if len(self._known) >= KNOWN_LIMIT:
                self._known.clear()
            transport = self._known[request.base_url] = self._choose(origin_of(request.base_url))
        return transport.send(request, deadlines)  # its own coroutine: another one around it would only cost

    async def aclose(self) -> None:
        """Close both."""
        try:
            await self._plain.aclose()
        finally:
            await self._general.aclose()

    def _choose(self, origin: Origin) -> Transport:
        if origin.unix_path:
            return self._plain
        if origin.scheme == "https":
            return self._general
        if self._trust_env and not is_loopback_name(origin.host) and has_proxy(origin):
            return self._general
        return self._plain
