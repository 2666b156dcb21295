"""Every row of docs/concepts/faults.md over real sockets: what callers see when an engine fails.

Every cell has a model key, and so a breaker, of its own. A second target takes a chain, and there are only as many
chains as roles: so the cells are dealt out to a few daemons, each of which meets faults of every kind.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from support.daemon import RunningDaemon, launch
from support.fault_answers import DONE, EVENTS_BEFORE_FAULT, GOOD_STREAM, GOOD_WHOLE, STREAMS, WHOLES
from support.fault_peer import FaultPeer
from support.fault_scripts import FAULTS, RETRY_AFTER_SECONDS
from support.fault_table import AFTER, BEFORE, DEMANDED, Cell, Row, cells_of, cuts_at_every_chunk, read_table
from turnout.core.words import ROLES

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLE = (Path(__file__).parents[2] / "docs/concepts/faults.md").read_text("utf-8")
# The first byte may take longer than a gap, so that it is never a race which of the two ends a wait.
FIRST_BYTE, GAP, MARGIN, LEAVING = 1.5, 1.0, 2.0, 3.0
CELLS_AT_ONCE = 12  # on a busy machine of two cores more of them would wait for each other until a deadline
ANSWER_BYTES, EVENT_BYTES = 1 << 20, 64 << 10
DEADLINES = {"slow-headers": FIRST_BYTE, "stall": max(GAP, FIRST_BYTE), "endless": FIRST_BYTE}
"""The longest wait that turnout may make for a target with this fault."""
SETTINGS: dict[str, Any] = {
    "deadlines": {"connect": 1, "first_byte": FIRST_BYTE, "gap": GAP, "total": 10},
    "limits": {"answer_mib": ANSWER_BYTES >> 20, "event_kib": EVENT_BYTES >> 10},
}
ROWS = read_table(TABLE)
CHUNK_CELLS = list(cuts_at_every_chunk(ROWS))
CELLS = [cell for row in ROWS for cell in cells_of(row)] + CHUNK_CELLS


class Matrix(NamedTuple):
    """Everything that runs: daemons by the key of the cell that they serve, and what to ask them for."""

    bad: FaultPeer
    good: FaultPeer
    seats: dict[str, tuple[RunningDaemon, str]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Matrix]:
    doubles = [cell for cell in CELLS if cell.has_second]
    count = -(-len(doubles) // len(ROLES))
    roles = {cell.key: (n // len(ROLES), ROLES[n % len(ROLES)]) for n, cell in enumerate(doubles)}
    dealt = {cell.key: n for cell, n in zip((c for c in CELLS if not c.has_second), cycle(range(count)), strict=False)}
    async with FaultPeer() as bad, FaultPeer() as good, asyncio.TaskGroup() as tasks:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
            nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
            configs: list[dict[str, Any]] = [
                {**SETTINGS, "models": {"good": _external(good.base_url, "good")}, "chains": {}} for _ in range(count)
            ]
            for cell in CELLS:
                number, role = roles.get(cell.key) or (dealt[cell.key], "")
                base_url = nowhere if cell.behaviour.fault == "refused" else bad.base_url
                configs[number]["models"][cell.key] = _external(base_url, cell.key)
                if role:
                    configs[number]["chains"][role] = [f"local/{cell.key}", "local/good"]
                bad.script(cell.key, cell.behaviour)
            home = tmp_path_factory.mktemp("matrix")
            daemons = await asyncio.gather(*[launch(home / str(n), config) for n, config in enumerate(configs)])
            try:
                for daemon in daemons:
                    tasks.create_task(_drain(daemon))
                seats = {key: (daemons[number], f"local/{key}") for key, number in dealt.items()}
                seats |= {key: (daemons[number], role) for key, (number, role) in roles.items()}
                yield Matrix(bad, good, seats)
                for daemon in daemons:
                    assert (await daemon.status())["running_requests"] == 0
                    assert not [line for line in daemon.output if "Traceback" in line]
            finally:
                await asyncio.gather(*[daemon.aclose() for daemon in daemons])
            async with asyncio.timeout(LEAVING):
                while bad.open_connections + good.open_connections:
                    await asyncio.sleep(0)
        _say(request.config, f"fault matrix: {len(CELLS)} cells in {len(ROWS)} rows, {count} daemons")


def _say(config: pytest.Config, text: str) -> None:
    reporter, capture = (config.pluginmanager.get_plugin(name) for name in ("terminalreporter", "capturemanager"))
    if reporter is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"\n{text}")


def _external(base_url: str, model: str) -> dict[str, str]:
    return {"engine": "external", "base_url": base_url, "model": model}


async def _drain(daemon: RunningDaemon) -> None:
    assert daemon.process.stderr is not None
    async for line in daemon.process.stderr:
        daemon.output.append(line.decode())


class Answer(NamedTuple):
    """What the caller got."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def request_id(self) -> str:
        """The id by which everybody knows the request."""
        return self.headers["x-turnout-request-id"]


async def _ask(matrix: Matrix, cell: Cell) -> Answer:
    daemon, selector = matrix.seats[cell.key]
    question = {"model": selector, "stream": cell.is_stream, "messages": [{"role": "user", "content": "Hi"}]}
    loop = asyncio.get_running_loop()
    started, data = loop.time(), b""
    async with daemon.client.stream("POST", "/v1/chat/completions", json=question) as reply:
        async for piece in reply.aiter_raw():
            data += piece
            if len(data) >= len(cell.prefix):
                matrix.bad.go_on(cell.key)
    return Answer(reply.status_code, dict(reply.headers), data, loop.time() - started)


async def _trace_of(daemon: RunningDaemon, request_id: str) -> dict[str, Any]:
    """Return a trace once it is there: it is written when the request has ended, which its caller sees a bit before."""
    while (reply := await daemon.client.get(f"/turnout/v1/traces/{request_id}")).status_code == 404:
        pass  # each look is a round trip
    trace: dict[str, Any] = reply.json()
    return trace


def _events(stream: bytes) -> list[Any]:
    """Return what a strict caller reads: JSON in every event, then one end marker as the very last bytes."""
    *events, marker, rest = stream.split(b"\n\n")
    assert rest == b"", f"the stream ends with {rest[-200:]!r}"
    assert marker == DONE.strip(), f"the last event is {marker[-200:]!r}"
    read = []
    for event in events:
        assert event.startswith(b"data: {"), f"an event is {event[:200]!r}"
        try:
            read.append(json.loads(event[6:]))
        except ValueError as error:
            raise AssertionError(f"an event is not JSON: {event[:200]!r}") from error
    return read


def _check_answer(cell: Cell, answer: Answer) -> None:
    fault, expected = cell.behaviour.fault, cell.expected
    assert answer.status == (200 if cell.is_good else expected.status), answer.body[:300]
    assert answer.headers["x-turnout-attempts"] == ("2" if cell.takes_over else "1")
    assert answer.seconds < DEADLINES.get(fault, 0) + MARGIN
    served = "local/good" if cell.takes_over else f"local/{cell.key}" if answer.status == 200 else None
    assert answer.headers.get("x-turnout-served-model") == served
    assert answer.headers["content-type"].startswith(
        "text/event-stream" if cell.is_stream and answer.status == 200 else "application/json"
    )
    if cell.is_good:
        stream, whole = STREAMS[cell.behaviour.phase], WHOLES[cell.behaviour.phase]
        if cell.takes_over:
            stream, whole = GOOD_STREAM, GOOD_WHOLE
        assert answer.body == (b"".join(stream) + DONE if cell.is_stream else whole)
    elif answer.status == 200:
        assert answer.body.startswith(cell.prefix), f"{answer.body[:2000]!r} does not begin with what was delivered"
        *more, error = _events(answer.body[len(cell.prefix) :])
        assert error["error"]["code"] == expected.code
        assert not any("error" in event for event in more)
        assert bool(more) == (fault == "endless"), f"more than the error follows what was delivered: {more!r}"
        assert len(answer.body) <= 2 * ANSWER_BYTES  # what was read together with the byte too many goes out too
    else:
        assert json.loads(answer.body)["error"]["code"] == expected.code
        wait = str(RETRY_AFTER_SECONDS) if fault == "status-429" else None
        assert answer.headers.get("retry-after") == wait


def _check_trace(cell: Cell, answer: Answer, trace: dict[str, Any]) -> None:
    code = cell.expected.code
    outcome = "answered" if not code else "busy" if code in ("busy", "rate_limited") else "broken"
    tries = [(f"local/{cell.key}", code, outcome)] + [("local/good", "", "answered")] * cell.takes_over
    assert [(attempt["target"], attempt["code"], attempt["outcome"]) for attempt in trace["attempts"]] == tries
    assert bool(trace["attempts"][0]["error"]) == bool(code)
    if cell.behaviour.fault.startswith("status-"):
        assert trace["attempts"][0]["status"] == int(cell.behaviour.fault[-3:])
    assert trace["outcome"] == ("answered" if cell.is_good else outcome)
    assert trace["code"] == ("" if cell.is_good else code)
    assert bool(trace["error"]) != cell.is_good
    assert trace["http_status"] == answer.status
    assert trace["served_target"] == answer.headers.get("x-turnout-served-model", "")
    assert trace["delivered"] == cell.delivered


async def _play(matrix: Matrix, cell: Cell, room: asyncio.Semaphore) -> None:
    async with room, asyncio.timeout(20):
        answer = await _ask(matrix, cell)
        _check_answer(cell, answer)
        _check_trace(cell, answer, await _trace_of(matrix.seats[cell.key][0], answer.request_id))
        # A request that met a closed connection in the pool is repeated once; nothing else is ever asked twice.
        asked = len(matrix.bad.exchanges[answer.request_id])
        may_repeat = cell.behaviour.fault == "reset-before-headers" and asked == 2
        assert asked == (cell.behaviour.fault != "refused") or may_repeat
        assert len(matrix.good.exchanges[answer.request_id]) == cell.takes_over
        assert matrix.bad.trapped == 0
        if cell.behaviour.variant == "in-body":
            return  # the body itself was framed well: its connection may serve again
        try:
            await matrix.bad.until_left(answer.request_id, LEAVING)
        except TimeoutError as error:
            raise AssertionError("a connection to the engine was left open") from error


async def _play_all(matrix: Matrix, cells: list[Cell]) -> None:
    room = asyncio.Semaphore(CELLS_AT_ONCE)
    results = await asyncio.gather(*[_play(matrix, cell, room) for cell in cells], return_exceptions=True)
    red = [f"RED {c.key}: {error!r:.600}" for c, error in zip(cells, results, strict=True) if error is not None]
    assert not red, "\n".join([f"{len(red)} of {len(cells)} cells are red", *red])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.fault}-{'before' if row.phases == BEFORE else 'after'}")
async def test_fault(matrix: Matrix, row: Row) -> None:
    await _play_all(matrix, list(cells_of(row)))


async def test_cut_at_every_chunk(matrix: Matrix) -> None:
    await _play_all(matrix, CHUNK_CELLS)


async def test_the_table_has_what_is_demanded() -> None:
    there = {(row.fault, phase) for row in ROWS for phase in row.phases}
    assert there >= {(fault, phase) for fault, phases in DEMANDED.items() for phase in phases}
    assert {row.fault for row in ROWS} == set(FAULTS)
    assert len({cell.key for cell in CELLS}) == len(CELLS)
    assert list(EVENTS_BEFORE_FAULT) == [*BEFORE, *AFTER]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("| refused |", "| unplugged |"),
        ("| refused | before |", "| refused | later |"),
        ("| fault | phase |", "| fault | when |"),
        ("502 connect_failed | takes over", "502 connect_failed | perhaps"),
        ("502 connect_failed | takes over", "502 connect_failed | not used"),
        ("502 connect_failed |", "connect_failed |"),
        ("| stall | after |", "| stall | before |"),
    ],
)
async def test_the_reader_of_the_table_is_strict(right: str, wrong: str) -> None:
    assert right in TABLE
    with pytest.raises(AssertionError):
        read_table(TABLE.replace(right, wrong, 1))
