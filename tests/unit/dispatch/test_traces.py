"""Traces: a ring in memory, a file behind it, and no trouble with the file ever reaches a request."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.samples import a_trace
from turnout.core.events import DaemonReady, RequestFinished
from turnout.dispatch import traces
from turnout.dispatch.traces import TraceStore, thin_out

PATIENCE_SECONDS = 10.0


class Troubles:
    """What the store said about its file."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.came = threading.Event()

    def __call__(self, reason: str, dropped: int) -> None:
        self.told.append((reason, dropped))
        self.came.set()


@pytest.fixture
def stores() -> Iterator[list[TraceStore]]:
    """Every store of a test; all are closed at its end."""
    opened: list[TraceStore] = []
    yield opened
    for store in opened:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state 100%#?x" / "traces.sqlite3"


def identity(number: int) -> str:
    return f"req_{number:024x}"


def fill(store: TraceStore, *numbers: int) -> None:
    for number in numbers:
        store.hear(RequestFinished(trace=a_trace(identity(number))))


def ids(store: TraceStore, limit: int = 1000) -> list[int]:
    return [int(trace.id.removeprefix("req_"), 16) for trace in store.newest(limit)]


def reopened(path: Path, keep: int = 100) -> list[int]:
    """Return what the file has, newest first, as a new daemon sees it."""
    store = TraceStore(path, keep, Troubles())
    try:
        return ids(store)
    finally:
        store.close()


def test_the_newest_come_first_from_memory_and_file(path: Path, stores: list[TraceStore]) -> None:
    old = TraceStore(path, 100, Troubles())
    fill(old, 1, 2, 3)
    old.close()
    store = TraceStore(path, 100, Troubles())
    stores.append(store)
    fill(store, 4, 5)

    assert ids(store) == [5, 4, 3, 2, 1]
    assert ids(store, 3) == [5, 4, 3]
    newest = store.find("last")
    assert newest is not None
    assert newest.id == identity(5)


def test_traces_are_found_by_id_or_by_its_unique_beginning(path: Path, stores: list[TraceStore]) -> None:
    old = TraceStore(path, 100, Troubles())
    fill(old, 0x10, 0x21)
    old.close()
    store = TraceStore(path, 100, Troubles())
    stores.append(store)
    fill(store, 0x22, 0x30)

    def found(text: str) -> str | None:
        trace = store.find(text)
        return trace.id if trace else None

    assert found(identity(0x10)) == identity(0x10)
    assert found(identity(0x30)) == identity(0x30)
    assert found(identity(0x10)[:-1]) == identity(0x10), "only in the file"
    assert found(identity(0x30)[:-1]) == identity(0x30), "in memory and perhaps in the file"
    assert found(identity(0x20)[:-1]) is None, "one in the file, one in memory: ambiguous"
    assert found("req_") is None
    assert found("nonsense") is None
    assert found("last") == identity(0x30)


def test_nothing_yet_is_found_as_nothing(path: Path, stores: list[TraceStore]) -> None:
    stores.append(TraceStore(path, 10, Troubles()))
    assert stores[0].find("last") is None
    assert stores[0].newest(5) == []
    stores[0].hear(DaemonReady(url="u", seconds=1))
    assert stores[0].newest(5) == []


def test_the_ring_forgets_the_oldest(path: Path, stores: list[TraceStore]) -> None:
    stores.append(TraceStore(path, 0, Troubles()))
    fill(stores[0], *range(traces.RING_TRACES + 5))

    assert len(ids(stores[0], 5000)) == traces.RING_TRACES
    assert stores[0].find(identity(4)) is None
    assert stores[0].find(identity(5)) is not None
    assert not path.exists(), "keep: 0 writes nothing"


def test_close_writes_what_is_waiting_and_the_file_is_the_owners(path: Path) -> None:
    store = TraceStore(path, 10_000, Troubles())
    fill(store, *range(3000))
    store.close()

    assert len(reopened(path, 10_000)) == 1000
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM traces").fetchone() == (3000,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_keeps_only_the_newest(path: Path) -> None:
    store = TraceStore(path, 5, Troubles())
    fill(store, *range(20))
    store.close()
    store = TraceStore(path, 5, Troubles())
    fill(store, 20)
    store.close()

    assert reopened(path) == [20, 19, 18, 17, 16]


def test_a_store_without_a_file_still_answers(tmp_path: Path, stores: list[TraceStore]) -> None:
    (tmp_path / "file").write_text("not a folder")
    troubles = Troubles()
    store = TraceStore(tmp_path / "file" / "traces.sqlite3", 10, troubles)
    stores.append(store)
    fill(store, 1)

    assert troubles.came.wait(PATIENCE_SECONDS)
    assert ids(store) == [1]
    assert store.find(identity(1)[:-1]) is not None
    assert len(troubles.told) == 1, "one event says so"


def test_a_folder_where_the_file_should_be_degrades(tmp_path: Path, stores: list[TraceStore]) -> None:
    folder = tmp_path / "traces.sqlite3"
    folder.mkdir()
    troubles = Troubles()
    store = TraceStore(folder, 10, troubles)
    stores.append(store)
    fill(store, 1)

    assert troubles.came.wait(PATIENCE_SECONDS)
    assert ids(store) == [1]
    assert store.find("nonsense") is None
    assert folder.is_dir()


def test_a_full_queue_is_survived_and_close_returns(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    troubles = Troubles()
    store = TraceStore(tmp_path / "file" / "t.sqlite3", 10, troubles)
    assert troubles.came.wait(PATIENCE_SECONDS)
    event = RequestFinished(trace=a_trace(identity(7)))
    for _ in range(traces.QUEUE_TRACES + 10):
        store.hear(event)

    assert ids(store) == [7]
    store.close()
    assert not store._thread.is_alive()


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_broken_file_is_set_aside_and_a_new_one_is_written_at_once(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    troubles = Troubles()
    store = TraceStore(path, 10, troubles)
    assert troubles.came.wait(PATIENCE_SECONDS)
    fill(store, 1, 2)
    store.close()

    assert reopened(path) == [2, 1]
    assert path.with_suffix(".broken").read_bytes() == content


def test_rows_of_another_version_are_passed_over(path: Path) -> None:
    store = TraceStore(path, 100, Troubles())
    fill(store, 1)
    store.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO traces VALUES ('req_a', 1.0, '{}')")
        database.execute("INSERT INTO traces VALUES ('req_b', 1.0, ?)", (b'{"id": "\xff"}',))

    assert reopened(path) == [1]


def test_a_store_may_be_asked_while_it_hears(path: Path, stores: list[TraceStore]) -> None:
    # The console asks from a thread of its own.
    store = TraceStore(path, 0, Troubles())
    stores.append(store)
    failures: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                store.find("req_")
                store.newest(50)
                store.find(identity(1))
        except BaseException as error:  # noqa: BLE001  handed to the test
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    fill(store, *range(20_000))
    done.set()
    thread.join(PATIENCE_SECONDS)
    assert failures == []


def test_a_flood_keeps_what_failed_and_the_newest() -> None:
    flood = [
        a_trace(f"req_{number:04}", outcome="broken" if number % 100 == 0 else "answered") for number in range(1000)
    ]
    kept = thin_out(flood, 50)

    assert len(kept) == 50
    assert sum(trace.outcome == "broken" for trace in kept) == 10
    assert kept[-1] == flood[-1]
    assert thin_out(flood[:50], 50) == flood[:50]
    assert all(trace.outcome == "broken" for trace in thin_out(flood, 5))
