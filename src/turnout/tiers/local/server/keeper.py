"""The keeper of one server: starts it, tells how far it is, watches it, and ends as it ends."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from turnout.tiers.local.child import describe_exit
from turnout.tiers.local.server.health import HOST, Look, look_at_health, look_at_models
from turnout.tiers.local.server.runtime import End, Runtime, StartFailed
from turnout.tiers.local.server.spec import REASON_MARK, ServerSpec
from turnout.tiers.local.worker import STDERR, STDIN, announce_failed, announce_progress, announce_ready

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5
WATCH_SECONDS = 5.0
SICK_LOOKS = 3
"""A server that says so often in a row that it is broken, or no longer listens, is ended. One that does not answer in
time is busy, not broken."""
GRACE_SECONDS = 2.0
"""Between asking a server to end and ending it. The daemon's patience with a keeper is 5 seconds, of which removing a
container takes its part."""
LAST_LINES_SECONDS = 1.0
"""For its last lines, after its end."""
LAST_WORDS = re.compile(r"(?:Error|error|ERROR|Exception|failed)\b.*")
KEPT_CHARACTERS = 400


class Keeper:
    """Keeps one server.

    Args:
        spec: What it is.
        runtime: What holds it.
    """

    def __init__(self, spec: ServerSpec, runtime: Runtime) -> None:
        self._spec = spec
        self._runtime = runtime
        self._stages = [(re.compile(stage.pattern), stage.name) for stage in spec.stages]
        self._ended = threading.Event()
        self._end = End(0)
        self._has_started = False
        self._is_stopping = False
        self._last_line = ""
        self._last_error = ""

    def run(self) -> NoReturn:
        """Keep it until it ends, the daemon says so by SIGTERM, or the daemon is gone."""
        signal.signal(signal.SIGTERM, self._stop)
        try:
            self._runtime.start()
        except StartFailed as error:
            announce_failed(str(error))
        self._has_started = True
        if self._is_stopping:  # said while it was being started
            self._end_soon()
        if self._runtime.pid:
            announce_progress(f"pid {self._runtime.pid}", None)
        printing = self._in_thread(self._print)
        self._in_thread(self._await_end)
        self._in_thread(self._await_orphaning)
        is_ready = self._load()
        if is_ready:
            announce_ready(f"http://{HOST}:{self._runtime.port}")
            self._watch()
        if self._ended.is_set():
            printing.join(LAST_LINES_SECONDS)
        self._runtime.kill()  # and what it left behind, which may hold the pipe
        self._ended.wait(GRACE_SECONDS)
        printing.join(LAST_LINES_SECONDS)
        self._leave(is_ready)

    def _load(self) -> bool:
        """Return once it serves our model, or false once it has ended."""
        pause = FIRST_PAUSE_SECONDS
        while not self._ended.wait(pause):
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
            look: Look = look_at_health(self._runtime.port)
            if look == "ready":
                look = look_at_models(self._runtime.port, self._spec.key, self._spec.served_name)
            if look == "ready":
                return not self._ended.is_set()
            if look == "another" and not self._is_stopping:
                self._runtime.kill()
                announce_failed(
                    f"port {self._runtime.port} is answered by a server that does not serve "
                    f"{self._spec.served_name!r} to us; is something else listening there?"
                )
        return False

    def _watch(self) -> None:
        """Return once it has ended or is broken."""
        sick = 0
        while not self._ended.wait(WATCH_SECONDS):
            sick = sick + 1 if look_at_health(self._runtime.port) in ("sick", "loading") else 0
            if sick >= SICK_LOOKS and not self._is_stopping:
                self._end = End(1, f"{self._spec.program} says that it is broken; {self._last_words()}")
                return

    def _leave(self, was_ready: bool) -> NoReturn:
        """End as the server has ended."""
        end = self._end
        if self._is_stopping:
            os._exit(0)
        if end.reason:
            os.write(STDERR, f"{REASON_MARK}{end.reason}\n".encode())
        if end.code < 0 and (was_ready or not end.reason):
            signal.signal(-end.code, signal.SIG_DFL) if -end.code not in (signal.SIGKILL, signal.SIGSTOP) else None
            os.kill(os.getpid(), -end.code)
        if not was_ready:
            why = end.reason or f"{describe_exit(end.code)}: {self._last_words()}"
            announce_failed(f"{self._spec.program} ended before it was ready: {why}")
        sys.stderr.flush()
        os._exit(end.code if end.code >= 0 else 1)

    def _stop(self, *_: object) -> None:
        self._is_stopping = True
        if self._has_started:
            self._end_soon()

    def _end_soon(self) -> None:
        self._runtime.stop()
        timer = threading.Timer(GRACE_SECONDS, self._runtime.kill)
        timer.daemon = True
        timer.start()

    def _await_end(self) -> None:
        end = self._runtime.wait()
        if not self._end.reason:
            self._end = end
        self._ended.set()

    def _await_orphaning(self) -> None:
        while os.read(STDIN, 65536):
            pass
        self._runtime.orphan()
        os.killpg(0, signal.SIGKILL) if os.getpgrp() == os.getpid() else os._exit(0)

    def _print(self) -> None:
        for line, is_update in lines_of(self._runtime.pieces()):
            self._tell_stage(line)
            if is_update:
                continue  # a progress bar that draws itself anew
            os.write(STDERR, line + b"\n")
            text = line.decode("utf-8", "replace").strip()
            if text:
                self._last_line = text[:KEPT_CHARACTERS]
                if found := LAST_WORDS.search(text):
                    self._last_error = (text if len(text) <= KEPT_CHARACTERS else found[0])[:KEPT_CHARACTERS]

    def _tell_stage(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        for pattern, name in self._stages:
            if found := pattern.search(text):
                fraction = float(found[1]) / 100 if pattern.groups and found[1] else None
                announce_progress(name, fraction)
                return

    def _last_words(self) -> str:
        return self._last_error or self._last_line or "it said nothing"

    def _in_thread(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread


def lines_of(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of a terminal's text; true with those that the next one overwrites (ended by CR).

    Args:
        pieces: Of any size.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = re.split(rb"(\r\n|\n|\r(?=.))", rest + piece, flags=re.DOTALL)
        yield from zip(lines[::2], (mark == b"\r" for mark in lines[1::2]), strict=True)
    if rest.strip():
        yield rest.rstrip(b"\r"), False
