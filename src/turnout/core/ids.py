"""Identifiers: sortable by time, unguessable in their random part."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator

KEY_PREFIX = "sk-turnout-"


POOL_BYTES = 6 * 512


def _random_parts() -> Iterator[bytes]:
    """Yield 6 random bytes at a time; the kernel is asked for many at once, since the question costs more than they."""
    while True:
        pool = os.urandom(POOL_BYTES)
        for start in range(0, POOL_BYTES, 6):
            yield pool[start : start + 6]


_RANDOM_PARTS = _random_parts()


def new_request_id() -> str:
    """Return an id such as ``req_01936f2a4b7c9f3e8d21c6a0``: 6 bytes of milliseconds, 6 random bytes, in hex.

    The time comes first (as in UUID version 7, RFC 9562 section 5.7), so ids sort in the order of arrival.
    """
    milliseconds = time.time_ns() // 1_000_000
    return "req_" + (milliseconds.to_bytes(6, "big") + next(_RANDOM_PARTS)).hex()


def new_lease_id() -> str:
    """Return an id such as ``lease_01936f2a4b7c9f3e8d21c6a0``, made like a request's."""
    return "lease_" + new_request_id().removeprefix("req_")


def new_key() -> str:
    """Return a fresh secret key with 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)
