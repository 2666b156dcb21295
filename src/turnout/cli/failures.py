"""How a command ends: exit codes, and errors as two lines on stderr."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import traceback
from typing import Any

import typer

from turnout.cli.terminal import hint, is_terminal, paint, printable, say
from turnout.core.errors import TurnoutError

OK = 0
USER_CAN_FIX = 1
BUG = 2
NOT_REACHABLE = 3
REFUSED_BY_BUDGET = 4
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

SYSTEM_SAYS_NO = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EISDIR)
"""What the operating system refuses is for its user to mend, not for us."""


def fail(message: str, told: str = "") -> None:
    """Print an error and its hint.

    Args:
        message: What happened.
        told: What to do next; empty for nothing.
    """
    print(f"{paint('error:', 'error', sys.stderr)} {_one_line(message)}", file=sys.stderr, flush=True)
    if told:
        hint(_one_line(told))


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def end_of(error: BaseException) -> int:
    """Say what an exception means for a person and return the exit code.

    Args:
        error: What a command ended with.
    """
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else OK if error.code is None else USER_CAN_FIX
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        if is_terminal(sys.stderr):
            say()
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        _leave_closed_pipes()
        return OK  # whoever reads has seen enough, which is their right
    if isinstance(error, TurnoutError):
        return _told(error)
    if (message := getattr(error, "format_message", None)) is not None:
        return _usage(error, message())
    if isinstance(error, OSError) and error.errno in SYSTEM_SAYS_NO:
        fail(str(error), "check the path, its permissions and the disk")
        _leave_closed_pipes()
        return USER_CAN_FIX
    return _bug(error)


def _told(error: TurnoutError) -> int:
    fail(error.message, error.hint)
    if error.code == "daemon_not_reachable":
        return NOT_REACHABLE
    if error.code == "internal_error":
        return BUG
    return REFUSED_BY_BUDGET if error.code.startswith("budget") else USER_CAN_FIX


def _usage(error: BaseException, message: str) -> int:
    # Typer brings a copy of Click since 0.26 and used Click itself before; their usage errors look the same.
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "turnout"
    message = message.rstrip(".")
    fail(message[:1].lower() + message[1:], f"`{path} --help` shows what it takes")
    return USER_CAN_FIX


def _bug(error: BaseException) -> int:
    from turnout import __version__
    from turnout.config.files import write_privately
    from turnout.config.paths import find_paths
    from turnout.core.clock import SystemClock

    path = find_paths().state_dir / "bugs" / f"{int(SystemClock().wall_seconds())}-{os.getpid()}.txt"
    head = f"turnout {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    text = head + "".join(traceback.format_exception(error))  # no arguments and no locals: they may hold a prompt
    try:
        write_privately(path, text.encode())
        where = f"the traceback is in {path}"
    except TurnoutError as problem:
        where = f"the traceback cannot be written: {problem.message}"
    words = " ".join(f"{type(error).__name__}: {error}".split())
    fail(f"{words}: this is a bug in turnout", where)
    return BUG


def _leave_closed_pipes() -> None:
    # Python flushes at its end, and says so when it cannot; into /dev/null it can.
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            try:
                stream.flush()
            except OSError:
                os.dup2(null, stream.fileno())
