"""What a call to the daemon can end with.

The tree::

    TurnoutError
    ├── DaemonNotReachable      nothing answers at the address, or not in time
    └── ApiError                the daemon's own word: ``status``, ``code``, ``hint``, ``request_id``
        └── LeaseNotGranted     not in time: ``position``, ``expected_wait_seconds``, ``holders``
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from turnout.core.errors import TurnoutError


class DaemonNotReachable(TurnoutError):
    """Nothing answers at the address."""

    status = 503
    code = "daemon_not_reachable"
    retryable = True


class ApiError(TurnoutError):
    """The daemon answered with an error, before or inside an answer.

    Attributes:
        request_id: So that ``turnout why`` can tell its story; empty if the answer named none.
    """

    code = "unknown_error"

    def __init__(self, message: str, *, request_id: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.request_id = request_id


class LeaseNotGranted(ApiError):
    """The memory was not free in time.

    Attributes:
        position: The place in the line when the waiting ended, from 1.
        expected_wait_seconds: How much longer it would have been, if that could be told.
        holders: Who holds what on the devices that were asked for: ``holder``, ``class``, ``devices``.
    """

    code = "lease_not_granted"

    def __init__(
        self,
        message: str,
        *,
        position: int = 1,
        expected_wait_seconds: float | None = None,
        holders: Sequence[Mapping[str, Any]] = (),
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.position = position
        self.expected_wait_seconds = expected_wait_seconds
        self.holders = holders


def read_error(data: bytes, status: int, url: str) -> ApiError:
    """Return the error in an answer's body.

    Args:
        data: JSON in OpenAI's shape, or whatever another program sends.
        status: The HTTP status.
        url: Whom we asked, for an answer that is not the daemon's.
    """
    try:
        told = json.loads(data)["error"]
    except (ValueError, KeyError, TypeError):
        return ApiError(
            f"{url} does not answer like turnout (HTTP {status})",
            hint="is another program listening there? `turnout doctor` looks",
            code="not_turnout",
            status=status,
        )
    return error_of(told, status)


def error_of(told: Any, status: int) -> ApiError:
    """Return the error that an ``error`` object describes; engines also send a plain text there."""
    if not isinstance(told, dict):
        return ApiError(str(told), status=status)
    message = str(told.get("message") or "the daemon gave no reason")
    facts: dict[str, Any] = {
        "request_id": str(told.get("request_id") or ""),
        "hint": str(told.get("hint") or ""),
        "code": str(told.get("code") or ApiError.code),
        "param": told.get("param"),
        "source": "upstream" if told.get("source") == "upstream" else "gateway",
        "status": status,
    }
    if facts["code"] == LeaseNotGranted.code:
        return LeaseNotGranted(
            message,
            position=told.get("position") or 1,
            expected_wait_seconds=told.get("expected_wait_seconds"),
            holders=told.get("holders") or (),
            **facts,
        )
    return ApiError(message, **facts)
