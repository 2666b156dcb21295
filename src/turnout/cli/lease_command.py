"""A command that runs while a lease is held: started, given signals, awaited, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Self

from turnout.cli.terminal import say, warn
from turnout.client import LeaseHold
from turnout.core.memory import GIB
from turnout.tiers.local.worker import PR_SET_PDEATHSIG

PASSED_ON = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGQUIT")
FROM_THE_KEYBOARD = ("SIGINT", "SIGQUIT")
SIGNAL_STATUS = 128
"""Shells add the number of the signal that ended a program."""


async def run_command(hold: LeaseHold, command: Sequence[str]) -> int:
    """Return a command's exit status, after the lease was given back.

    Args:
        hold: Waited for first, held while the command runs.
        command: Program and arguments.
    """
    async with hold as lease:
        held = ", ".join(f"{count / GIB:.1f} GiB of {device}" for device, count in lease.granted.devices.items())
        say(f"holding {held} ({lease.id})", "dim")
        with _Signals() as signals:
            process = await asyncio.create_subprocess_exec(*command, preexec_fn=_dies_with(os.getpid()))
            signals.pass_to(process.pid)
            code = await process.wait()
        if lease.is_lost:
            warn("for a part of the time the memory was not counted as held: see above")
    return code if code >= 0 else SIGNAL_STATUS - code


def _dies_with(parent: int) -> Callable[[], None] | None:
    """Return what makes a child die with its parent, to be called in the child before it becomes the command.

    The kernel's signal follows the thread that forked (prctl(2)): that is the main thread, which ends last. It reaches
    the command itself; what the command started has to look after itself.

    Args:
        parent: Our process: one that is gone already sends no signal any more.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork

    def act() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(SIGNAL_STATUS + signal.SIGKILL)

    return act


class _Signals:
    """Passes signals on to a process; one that comes before there is a process waits for it.

    What a person types at a terminal reaches the command without us, since it is in the same foreground group: it is
    not sent twice.
    """

    def __init__(self) -> None:
        self._numbers = [getattr(signal, name) for name in PASSED_ON if hasattr(signal, name)]
        self._early: list[signal.Signals] = []
        self._pid = 0

    def __enter__(self) -> Self:
        for number in self._numbers:
            asyncio.get_running_loop().add_signal_handler(number, self._hear, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._numbers:
            asyncio.get_running_loop().remove_signal_handler(number)

    def pass_to(self, pid: int) -> None:
        """Say which process they are for."""
        self._pid = pid
        for number in self._early:
            self._send(number)

    def _hear(self, number: signal.Signals) -> None:
        if number.name in FROM_THE_KEYBOARD and _is_in_foreground():
            return
        if self._pid:
            self._send(number)
        else:
            self._early.append(number)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)


def _is_in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False  # no terminal: whoever sent the signal sent it to us alone
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
