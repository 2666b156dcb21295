"""Whether a server on this machine's loopback answers, and as whom. Blocking: for keeper processes."""

from __future__ import annotations

import http.client
from typing import Any, Literal

import msgspec

from turnout.core.errors import UNREADABLE_JSON

HOST = "127.0.0.1"
LOOK_SECONDS = 2.0
ANSWER_BYTES = 4 << 20

Look = Literal["silent", "loading", "sick", "ready", "another"]


class _Entry(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Entry]


def look_at_health(port: int) -> Look:
    """Ask ``/health``: silent (nobody answers), loading (503), sick (any other 5xx), ready.

    Args:
        port: On loopback.
    """
    status, _ = _get(port, "/health", {})
    if status == 0:
        return "silent"
    if status == 503:
        return "loading"
    return "sick" if status >= 500 else "ready"


def look_at_models(port: int, key: str, served_name: str) -> Look:
    """Ask ``/v1/models``: ready if it lists the model to who has the key, else silent or another.

    Args:
        port: On loopback.
        key: Bearer key.
        served_name: The model.
    """
    status, body = _get(port, "/v1/models", {"authorization": f"Bearer {key}"})
    if status == 0:
        return "silent"
    try:
        names = [entry.id for entry in msgspec.json.decode(body, type=_Models).data]
    except UNREADABLE_JSON:
        return "another"
    return "ready" if status == 200 and served_name in names else "another"


def _get(port: int, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Return status and body; 0 if nobody answers."""
    connection: Any = http.client.HTTPConnection(HOST, port, timeout=LOOK_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
