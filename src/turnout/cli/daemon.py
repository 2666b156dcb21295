"""Finding the daemon: ``--url``, then ``TURNOUT_URL``, then the file that the running daemon keeps."""

from __future__ import annotations

import os

from turnout.cli.options import Given
from turnout.client import DaemonNotReachable, Turnout
from turnout.client.api import check_url
from turnout.config.daemon_file import DaemonFile, read_daemon_file
from turnout.config.paths import find_paths


def running_daemon() -> DaemonFile | None:
    """Return what this user's running daemon says of itself, or None."""
    return read_daemon_file(find_paths().daemon_file)


def named_url(options: Given) -> str:
    """Return the address that the user named, or an empty text."""
    return options.url or os.environ.get("TURNOUT_URL", "")


def find_daemon(options: Given) -> Turnout:
    """Return a client for the daemon; see ``locate_daemon``."""
    return Turnout(*locate_daemon(options))


def locate_daemon(options: Given) -> tuple[str, str]:
    """Return address and key of the daemon.

    The token in the daemon's file opens that daemon only; anywhere else ``TURNOUT_KEY`` is the key.

    Args:
        options: From the command line.

    Raises:
        DaemonNotReachable: None runs here, and none was named.
        SetupError: The named address is none.
    """
    own = running_daemon()
    if url := named_url(options):
        key = os.environ.get("TURNOUT_KEY", "")
        if not key and own is not None and check_url(url) == own.url:
            key = own.token
        return url, key
    if own is None:
        raise DaemonNotReachable(
            "turnout is not running", hint="`turnout up` starts it; --url or TURNOUT_URL names one elsewhere"
        )
    return own.url, own.token
