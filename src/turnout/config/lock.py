"""One daemon for each state directory: two would share a trace file, a default model and the user's confusion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from turnout.config.daemon_file import read_daemon_file
from turnout.config.files import try_lock
from turnout.config.paths import Paths
from turnout.core.errors import SetupError


@contextlib.contextmanager
def hold_lock(paths: Paths) -> Iterator[None]:
    """Hold the installation's lock; the kernel gives it back when the process ends, however it ends.

    Raises:
        SetupError: Another daemon holds it, or the state directory cannot be written.
    """
    try:
        paths.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (paths.state_dir / "daemon.lock").open("w")
    except OSError as error:
        raise SetupError(
            f"cannot write to {str(paths.state_dir)!r}: {error.strerror}",
            hint="is the disk full? XDG_STATE_HOME moves it",
        ) from error
    with file:
        if not try_lock(file.fileno()):
            running = read_daemon_file(paths.daemon_file)
            where = f" at {running.url} (pid {running.pid})" if running else ""
            raise SetupError(
                f"turnout is already running{where}", hint="`turnout ps` shows it, `turnout down` stops it"
            )
        yield
