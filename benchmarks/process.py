"""A child process on a core of its own: started, waited for, and ended by its pid."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.machine import birth, tree

PR_SET_PDEATHSIG = 1
NICE = -15
LIBC = ctypes.CDLL(None)


class Failed(Exception):
    """A row cannot be measured; the text says why."""


def _prepare(core: int) -> Callable[[], None]:
    """Return what a child does before it becomes its program: it moves to a core and does not outlive us."""

    def prepare() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.sched_setaffinity(0, {core})
        os.setsid()
        with contextlib.suppress(OSError):  # for root only: others on the machine disturb less
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
            Path("/proc/self/autogroup").write_text(str(NICE))  # sched(7): else niceness counts within a session only

    return prepare


@contextlib.contextmanager
def running(
    command: Sequence[str], core: int, log: Path, env: Mapping[str, str] | None = None, grace_seconds: float = 10
) -> Iterator[subprocess.Popen[str]]:
    """Run a program on a core; end it and all its descendants afterwards.

    Args:
        command: Program and arguments.
        core: Where it and its descendants run.
        log: Takes its stderr, and its stdout until somebody reads that.
        env: Added to our environment.
        grace_seconds: Between SIGTERM and SIGKILL.
    """
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, text=True,
            env=os.environ | dict(env or {}), preexec_fn=_prepare(core),
        )  # fmt: skip
    try:
        yield process
    finally:
        _end(process, grace_seconds)


def _end(process: subprocess.Popen[str], grace_seconds: float) -> None:
    births = {pid: birth(pid) for pid in tree(process.pid)} if process.poll() is None else {}
    process.terminate()
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, born in births.items():
        if born and birth(pid) == born:  # a descendant that was left behind, and not a later process with its pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def run_on(command: Sequence[str], core: int, timeout_seconds: float) -> str:
    """Run a program on a core to its end; return what it printed on stdout.

    Args:
        command: Program and arguments.
        core: Where it runs.
        timeout_seconds: For the whole run.

    Raises:
        Failed: It did not end in time, or with an error.
    """
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, preexec_fn=_prepare(core)
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{Path(command[0]).name} did not end within {timeout_seconds:g} s") from None
    if ran.returncode != 0:
        raise Failed(f"{Path(command[0]).name} ended with {ran.returncode}: {ran.stderr.strip()[-300:]}")
    return ran.stdout


def wait_for(probe: Callable[[], bool], process: subprocess.Popen[str] | None, log: Path, seconds: float) -> None:
    """Ask again and again until the answer is yes.

    Args:
        probe: The question.
        process: Whose end means that there will be no answer.
        log: Whose last lines say why.
        seconds: How long to ask.

    Raises:
        Failed: The process ended or the time is over.
    """
    until = time.monotonic() + seconds
    while not probe():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > until:
            why = "ended before it answered" if ended else f"did not answer within {seconds:g} s"
            last = "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else ""
            raise Failed(f"{why}: {last}")
        time.sleep(0.01)
