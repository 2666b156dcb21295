"""Where traces go: a ring in memory at once, a SQLite file behind the request.

The file is written by one thread in batches. It may be lost, full or broken without any request noticing: then traces
stay in memory only, and one event says so.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from turnout.core.errors import UNREADABLE_JSON
from turnout.core.events import Event, RequestFinished
from turnout.core.words import Trace

RING_TRACES = 1000
QUEUE_TRACES = 20_000
BATCH_TRACES = 500
GATHER_SECONDS = 0.25
"""With the size of a batch: 2,000 traces a second are written; of more, those that failed and the newest."""
ROWS_AT_ONCE = 25
"""The interpreter is held while they are encoded, and handed over once for all of them: a request waits for less than
0.2 ms. One by one, each row would wait for the interpreter under load; 500 at once would hold it for 2 ms."""
TRIM_EVERY = 1000
RETRY_SECONDS = 10.0
FLUSH_SECONDS = 3.0
SCHEMA = "CREATE TABLE IF NOT EXISTS traces (id TEXT PRIMARY KEY, received_at REAL NOT NULL, body BLOB NOT NULL)"
INSERT = "INSERT OR REPLACE INTO traces VALUES "
# Ids begin with the time, so the newest are the largest.
TRIM = "DELETE FROM traces WHERE id < (SELECT id FROM traces ORDER BY id DESC LIMIT 1 OFFSET ?)"


class TraceStore:
    """Keeps the last traces.

    Args:
        path: The SQLite file.
        keep: Traces kept in the file; 0 for none.
        on_degraded: Called from the writing thread with the reason and the number of traces dropped.
    """

    def __init__(self, path: Path, keep: int, on_degraded: Callable[[str, int], None]) -> None:
        self._path = path
        self._keep = keep
        self._on_degraded = on_degraded
        self._ring: OrderedDict[str, Trace] = OrderedDict()
        self._waiting: deque[Trace] = deque(maxlen=QUEUE_TRACES)
        self._wake = threading.Event()
        self._is_degraded = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="traces", daemon=True)
        if keep:
            self._thread.start()

    def hear(self, event: Event) -> None:
        """Take the trace of a finished request; returns at once."""
        if not isinstance(event, RequestFinished):
            return
        trace = event.trace
        self._ring[trace.id] = trace
        if len(self._ring) > RING_TRACES:
            self._ring.popitem(last=False)
        if self._keep:
            self._waiting.append(trace)
            if not self._wake.is_set():  # once for each batch: waking a thread costs more than serving a request
                self._wake.set()

    def find(self, trace_id: str) -> Trace | None:
        """Return a trace by its id, or the newest one for ``last``; reads the file if memory does not have it.

        Args:
            trace_id: ``req_...``, the unique beginning of one, or ``last``.
        """
        if trace_id == "last":
            newest = self.newest(1)
            return newest[0] if newest else None
        if (kept := self._ring.get(trace_id)) is not None:
            return kept
        bound = (trace_id, trace_id + "\uffff")
        rows = self._read("SELECT body FROM traces WHERE id >= ? AND id <= ? ORDER BY id LIMIT 2", bound)
        # Asked from another thread than the one that hears: only a copy can be walked through.
        in_memory = [trace for key, trace in list(self._ring.items()) if key.startswith(trace_id)]
        found = {trace.id: trace for trace in [*rows, *in_memory]}
        return next(iter(found.values())) if len(found) == 1 else None

    def newest(self, limit: int) -> list[Trace]:
        """Return the newest traces, newest first."""
        recent = list(reversed(self._ring.values()))[:limit]
        if len(recent) < limit:
            seen = {trace.id for trace in recent}
            older = self._read("SELECT body FROM traces ORDER BY id DESC LIMIT ?", (limit,))
            recent += [trace for trace in older if trace.id not in seen]
        return recent[:limit]

    def close(self) -> None:
        """Write what is waiting, for at most ``FLUSH_SECONDS``."""
        if not self._keep:
            return
        self._closing.set()
        self._wake.set()
        self._thread.join(FLUSH_SECONDS)

    def _read(self, sql: str, values: tuple[object, ...]) -> list[Trace]:
        if not (self._keep and self._path.exists()):
            return []
        try:
            with contextlib.closing(
                sqlite3.connect(self._path.absolute().as_uri() + "?mode=ro", uri=True, timeout=2)
            ) as database:
                rows = database.execute(sql, values).fetchall()
        except sqlite3.Error:
            return []
        traces = []
        for (body,) in rows:
            with contextlib.suppress(*UNREADABLE_JSON):  # written by another version
                traces.append(msgspec.json.decode(body, type=Trace))
        return traces

    def _write(self) -> None:
        while True:
            try:
                self._write_until_closed()
            except (sqlite3.Error, OSError) as error:
                self._degrade(error)
                if not _set_aside(self._path, error) and self._closing.wait(RETRY_SECONDS):
                    return
            else:
                return

    def _write_until_closed(self) -> None:
        with contextlib.closing(_open(self._path)) as database:
            since_trim = TRIM_EVERY
            while True:
                batch, is_last = self._next_batch()
                try:
                    with database:
                        for start in range(0, len(batch), ROWS_AT_ONCE):
                            _insert(database, batch[start : start + ROWS_AT_ONCE])
                        since_trim += len(batch)
                        if since_trim >= TRIM_EVERY:
                            database.execute(TRIM, (self._keep - 1,))
                            since_trim = 0
                except sqlite3.Error as error:
                    self._degrade(error, len(batch))
                    raise
                self._is_degraded = False
                if is_last:
                    return

    def _next_batch(self) -> tuple[list[Trace], bool]:
        self._wake.wait()
        self._closing.wait(GATHER_SECONDS)
        self._wake.clear()
        is_last = self._closing.is_set()
        batch: list[Trace] = []
        while self._waiting:
            batch.append(self._waiting.popleft())
        return batch if is_last else thin_out(batch, BATCH_TRACES), is_last

    def _degrade(self, error: Exception, dropped: int = 0) -> None:
        if not self._is_degraded or dropped:
            self._on_degraded(str(error), dropped)
        self._is_degraded = True


def thin_out(batch: list[Trace], most: int) -> list[Trace]:
    """Return at most so many traces of a batch: those that tell of a failure first, then the newest.

    Under a load of thousands of requests a second the file would forget each trace within seconds anyway, and writing
    it would cost as much as serving the request.
    """
    if len(batch) <= most:
        return batch
    failed = [trace for trace in batch if trace.outcome != "answered"][-most:]
    room = most - len(failed)
    return failed + ([trace for trace in batch if trace.outcome == "answered"][-room:] if room else [])


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    database = sqlite3.connect(path, timeout=5)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")  # a lost trace is a small loss; the book will be stricter
        database.execute(SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _insert(database: sqlite3.Connection, traces: list[Trace]) -> None:
    values: list[object] = []
    for trace in traces:
        values += (trace.id, trace.received_at, msgspec.json.encode(trace))
    database.execute(INSERT + ", ".join(["(?, ?, ?)"] * len(traces)), values)


def _set_aside(path: Path, error: Exception) -> bool:
    """Move a file that is no database away; return whether a new one can be begun at once."""
    if not any(words in str(error) for words in ("not a database", "malformed")):
        return False
    try:
        path.replace(path.with_suffix(".broken"))
        for ending in ("-wal", "-shm"):  # what belongs to the broken file must not be played into the new one
            path.with_name(path.name + ending).unlink(missing_ok=True)
    except OSError:
        return False
    return True
