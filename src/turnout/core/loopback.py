"""What counts as this machine: names and addresses that never leave it."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback_name(name: str) -> bool:
    """Return whether a host name or address is this machine's loopback.

    ``localhost`` and names below it are loopback by RFC 6761 section 6.3.

    Args:
        name: As in a URL; an IPv6 address may be in brackets.
    """
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Return whether a URL stays on this machine: a loopback host or a Unix socket."""
    parts = urlsplit(url)
    return parts.scheme == "http+unix" or is_loopback_name(parts.hostname or "")
