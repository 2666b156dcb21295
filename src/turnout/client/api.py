"""The daemon's API as methods. Synchronous; one client may be used from several threads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from turnout.client.errors import ApiError, DaemonNotReachable, error_of, read_error
from turnout.client.lease import LeaseAsk, LeaseHold, OnTrouble, OnWaiting, Where, holder_process
from turnout.client.stream import ChatStream
from turnout.core.clock import Clock, SystemClock
from turnout.core.errors import SetupError
from turnout.core.loopback import is_loopback_url
from turnout.core.memory import Demand, LeaseClass, Priority
from turnout.core.words import AUTO, Trace

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
ANSWER_SECONDS = 3900.0
"""The daemon has deadlines of its own for answers (``deadlines.total``); this one is for a daemon that hangs."""


class Turnout:
    """A daemon.

    Args:
        url: Its address; a trailing ``/v1`` is taken off.
        key: An API key, where the daemon wants one.
        clock: For the speed of answers.
        transport: How bytes travel; a test gives ``httpx2.MockTransport``.
        async_transport: The same for leases.

    Raises:
        SetupError: The address is none.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        clock: Clock | None = None,
        transport: httpx2.BaseTransport | None = None,
        async_transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        import httpx2  # 40 ms that whoever only reads this package need not pay

        self.url = check_url(url)
        self._key = key
        self._clock = clock or SystemClock()
        self._async_transport = async_transport
        is_tls = self.url.startswith("https:")
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            verify=is_tls,  # without TLS there is nothing to verify, and loading the authorities takes 100 ms
            transport=transport,
            trust_env=not is_loopback_url(self.url),  # a proxy cannot reach our loopback
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def health(self) -> dict[str, Any]:
        """Return whether the daemon lives; needs no key.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: Something else answers there.
        """
        return self._ask("GET", "/health")

    def status(self) -> dict[str, Any]:
        """Return the daemon's targets, what ``auto`` means, and how long it has been up.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: The daemon's own word.
        """
        return self._ask("GET", "/turnout/v1/status")

    def traces(self, limit: int = 20) -> list[Trace]:
        """Return the newest traces, newest first.

        Args:
            limit: At most so many, 1 to 1000.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: The daemon's own word.
        """
        answer = self._ask("GET", f"/turnout/v1/traces?limit={limit}")
        return self._convert(answer.get("traces"), list[Trace])

    def trace(self, trace_id: str) -> Trace:
        """Return one trace.

        Args:
            trace_id: ``req_...``, the unique beginning of one, or ``last``.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: There is no such trace.
        """
        return self._convert(self._ask("GET", f"/turnout/v1/traces/{quote(trace_id, safe='')}"), Trace)

    def models(self) -> list[dict[str, Any]]:
        """Return what ``GET /v1/models`` lists.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: The daemon's own word.
        """
        return self._convert(self._ask("GET", "/v1/models").get("data"), list[dict[str, Any]])

    def set_default(self, target: str) -> dict[str, Any]:
        """Choose what ``auto`` means and return the choice.

        Args:
            target: A target; empty to let turnout choose.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: No such target, or one that cannot chat.
        """
        return self._ask("PUT", "/turnout/v1/default", {"target": target})

    def shutdown(self) -> None:
        """Begin to stop the daemon: running answers may end first.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: The daemon's own word.
        """
        self._ask("POST", "/turnout/v1/shutdown", {})

    def devices(self) -> list[dict[str, Any]]:
        """Return every device: size, headroom, what is granted, in use and free, and who holds what.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: The daemon's own word.
        """
        return self._convert(self._ask("GET", "/turnout/v1/devices").get("devices"), list[dict[str, Any]])

    def leases(self) -> dict[str, Any]:
        """Return the ``leases`` that hold, and those that are ``waiting``.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: The daemon's own word.
        """
        return self._ask("GET", "/turnout/v1/leases")

    def release_lease(self, lease_id: str) -> dict[str, Any]:
        """Take a lease back, whoever holds it, and return it as it was.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: There is no such lease.
        """
        answer = self._ask("DELETE", f"/turnout/v1/leases/{quote(lease_id, safe='')}", {})
        return self._convert(answer.get("released"), dict[str, Any])

    def lease(
        self,
        devices: Demand,
        *,
        lease_class: LeaseClass = "job",
        holder: str = "",
        priority: Priority = "normal",
        ttl_seconds: float = 60.0,
        wait_seconds: float = 0.0,
        process: int | None = None,
        on_waiting: OnWaiting | None = None,
        on_trouble: OnTrouble | None = None,
        where: Where | None = None,
    ) -> LeaseHold:
        """Return the right to use memory, for an ``async with`` block: renewed inside it, given back behind it.

        Args:
            devices: Bytes on each device: ``{"host/gpu0": 16 << 30}``.
            lease_class: How its holder may be treated.
            holder: Who it is, in words for people; the program's name if left out.
            priority: Of the waiting.
            ttl_seconds: How long it lasts without a renewal, 1 second to a day.
            wait_seconds: How long to wait for it.
            process: The holder's process on the daemon's machine: when it ends, so does the lease. Our own if left out
                and the daemon is on this machine; 0 for none, inside of a container for example.
            on_waiting: Called about every second while it waits.
            on_trouble: Called with a line for a person when the lease is in danger.
            where: Finds the daemon again when it does not answer.
        """
        ask = LeaseAsk(
            devices=devices,
            lease_class=lease_class,
            holder=holder or Path(sys.argv[0]).name or "python",
            ttl_seconds=ttl_seconds,
            priority=priority,
            wait_seconds=wait_seconds,
            process=holder_process(self.url) if process is None else process,
        )
        return LeaseHold(
            where or (lambda: (self.url, self._key)),
            ask,
            on_waiting=on_waiting,
            on_trouble=on_trouble,
            clock=self._clock,
            transport=self._async_transport,
        )

    def use_profile(self, name: str, on_step: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Switch the running daemon to a profile; return when that is done.

        Args:
            name: Which.
            on_step: Called with every step, in words.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: The daemon's own word; the old profile runs then.
        """
        return self._follow("/turnout/v1/profiles/active", {"profile": name}, "profile", on_step)

    def load_model(
        self, target: str, *, keep_alive: float | str | None = None, on_step: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Load a model and return how it is then.

        Args:
            target: Which; ``local/`` may be left out.
            keep_alive: How long it stays while nobody uses it, as in a request; as before if left out.
            on_step: Called with how far it is, in words.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: No such model, not one of ours, or there is no room for it.
        """
        body = {} if keep_alive is None else {"keep_alive": keep_alive}
        return self._follow(_model_path(target, "load"), body, "name", on_step)

    def unload_model(self, target: str, *, on_step: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Unload a model once its running answers have ended; arguments and errors as in ``load_model``."""
        return self._follow(_model_path(target, "unload"), {}, "name", on_step)

    def pin_model(self, target: str, *, is_pinned: bool = True) -> dict[str, Any]:
        """Keep a model in memory once it is loaded, or let it go again; return how it is then.

        Args:
            target: Which; ``local/`` may be left out.
            is_pinned: False lets it go.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: No such model, not one of ours, or the configuration pins it.
        """
        return self._ask("POST", _model_path(target, "pin" if is_pinned else "unpin"), {})

    def _follow(
        self, path: str, body: dict[str, Any], last: str, on_step: Callable[[str], None] | None
    ) -> dict[str, Any]:
        """Ask for something that takes its time, tell every step, and return the event that has the last one's key."""
        import httpx2

        request = self._http.build_request(
            "POST",
            path,
            json=body,
            headers={"accept": "text/event-stream"},
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )
        response = self._send(request, is_stream=True)
        try:
            if response.status_code != httpx2.codes.OK:
                raise self._told(response)
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                event = json.loads(line[len("data:") :])
                if "step" in event and on_step is not None:
                    on_step(str(event["step"]))
                elif "error" in event:
                    raise error_of(event["error"], event.get("status", 500))
                elif last in event:
                    return dict(event)
        except httpx2.TransportError as error:
            raise DaemonNotReachable(f"the daemon is gone: {error}", hint="`turnout ps` looks again") from error
        finally:
            response.close()
        raise DaemonNotReachable("the daemon ended before this was done", hint="`turnout up` starts it")

    def chat_stream(
        self, messages: Sequence[Mapping[str, Any]], model: str = AUTO, *, max_tokens: int | None = None
    ) -> ChatStream:
        """Begin a chat answer: iterate for its text, then read its ``facts``.

        Args:
            messages: ``{"role": ..., "content": ...}``, oldest first.
            model: ``auto``, a target, an alias or a role.
            max_tokens: Limit of the answer.

        Raises:
            DaemonNotReachable: Nothing answers there.
            ApiError: Nobody serves it; says why.
        """
        import httpx2

        body: dict[str, Any] = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        request = self._http.build_request("POST", "/v1/chat/completions", json=body, timeout=timeout)
        started_at = self._clock.monotonic_seconds()
        response = self._send(request, is_stream=True)
        if response.status_code != httpx2.codes.OK:
            try:
                raise self._told(response)
            finally:
                response.close()
        return ChatStream(response, self._clock, started_at)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self._send(self._http.build_request(method, path, json=body))
        if response.status_code >= 300:
            raise self._told(response)
        try:
            answer = json.loads(response.content)
        except ValueError:
            raise read_error(response.content, response.status_code, self.url) from None
        if not isinstance(answer, dict):
            raise read_error(b"", response.status_code, self.url)
        return answer

    def _send(self, request: httpx2.Request, *, is_stream: bool = False) -> httpx2.Response:
        import httpx2

        try:
            return self._http.send(request, stream=is_stream)
        except httpx2.TimeoutException as error:
            raise DaemonNotReachable(f"{self.url} did not answer in time", hint="`turnout ps` looks again") from error
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            raise DaemonNotReachable(
                f"cannot reach a daemon at {self.url}: {reason}", hint="`turnout up` starts one"
            ) from error

    def _told(self, response: httpx2.Response) -> ApiError:
        error = read_error(response.read(), response.status_code, self.url)
        error.request_id = error.request_id or response.headers.get("x-turnout-request-id", "")
        return error

    def _convert(self, value: Any, kind: type[T]) -> T:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise ApiError(
                f"{self.url} answers in a way that this version does not understand: {error}",
                hint="are daemon and client of the same version? `turnout doctor` compares them",
                code="not_understood",
            ) from None


def _model_path(target: str, act: str) -> str:
    return f"/turnout/v1/models/{quote(target)}/{act}"


def check_url(url: str) -> str:
    """Return an address without its trailing ``/v1``.

    Raises:
        SetupError: It is none.
    """
    hint = "write one like http://127.0.0.1:8150"
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url:
        raise SetupError(f"{url!r} is not the address of a daemon", hint=hint)
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
