"""The fuzz targets: a short deterministic run each time, a long one guided by coverage in `make soak`."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.client_wire import ClientWire
from fuzz.drive import TARGETS, fuzz_with_mutations, make_target
from fuzz.mutator import Target
from fuzz.server_wire import ServerWire
from turnout.core.words import Request
from turnout.gateway import openai
from turnout.gateway.connection import Connection
from turnout.tiers.http1_connection import Http1Connection

LONG_SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
SHORT = {"server_wire": 3000, "client_wire": 5000, "bodies": 20_000}
SHORT_SECONDS = 2.5
START_SECONDS = 60.0
"""For importing, instrumenting and ending, on a busy machine."""
INTERIM = (
    b"HTTP/1.1 104 Upload Resumption Supported\r\nContent-Length: 5\r\n\r\nEXTRA"
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)
FOUND = [
    pytest.param("client_wire", b"\0\1\0\0" + INTERIM, id="the body of an interim answer"),
    pytest.param("bodies", b"\0" + b"[" * 1500, id="an error beside endless nesting"),
]
"""What once broke an invariant."""


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    made = make_target(request.param)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[ServerWire]:
    made = ServerWire()
    yield made
    made.close()


@pytest.fixture
def client() -> Iterator[ClientWire]:
    made = ClientWire()
    yield made
    made.close()


def test_some_thousand_mutations_break_nothing(target: Target) -> None:
    count, data, said = fuzz_with_mutations(target, seconds=SHORT_SECONDS, count=SHORT[target.name], seed=20)
    assert data is None, _reproducer(target.name, data or b"", said)
    assert count > len(target.seeds)


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_once_broke_an_invariant(name: str, data: bytes) -> None:
    target = make_target(name)
    try:
        target.check(data)
    finally:
        target.close()


@pytest.mark.soak
@pytest.mark.timeout(LONG_SECONDS + 2 * START_SECONDS)
@pytest.mark.parametrize("name", TARGETS)
async def test_fuzzing_for_long_breaks_nothing(name: str, tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fuzz.drive", name, "--seconds", str(LONG_SECONDS), "--found", str(tmp_path),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(tests)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(LONG_SECONDS + START_SECONDS):
            output = (await process.communicate())[0].decode("utf-8", "replace")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    broken = [file.read_bytes() for file in tmp_path.iterdir() if file.is_file()]
    told = "\n".join(line for line in output.splitlines() if not line.startswith(("#", "INFO:")))[-4000:]
    assert process.returncode == 0, "\n".join([told, *(_reproducer(name, data, "") for data in broken)])
    sys.stdout.write(f"\n{name}: {output.splitlines()[0]}\n{told[-400:]}\n")


def test_good_requests_reach_the_handler(server: ServerWire) -> None:
    calls = server.check(b"\1\0\0\0" + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert [call.ends for call in calls] == [["read", "answered"]] * 2


def test_good_answers_reach_the_caller(client: ClientWire) -> None:
    heard = client.check(b"\xc1\0\0\0" + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" * 2)
    assert [(answer.body, answer.error) for answer in heard] == [(b"{}", None)] * 2


def test_a_server_that_loses_a_byte_is_found(server: ServerWire, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Connection.on_body
    monkeypatch.setattr(Connection, "on_body", lambda self, body: whole(self, body.replace(b"w", b"")))
    assert _is_found(server)


def test_a_server_that_never_closes_is_found(server: ServerWire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "_ring", lambda self: None)
    assert _is_found(server)


def test_a_client_that_never_gives_up_is_found(client: ClientWire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Http1Connection, "_ring", lambda self: None)
    assert _is_found(client)


def test_a_client_that_takes_half_for_whole_is_found(client: ClientWire, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(self: Http1Connection) -> None:
        if self._response is not None:
            self._finish(self._response)

    monkeypatch.setattr(Http1Connection, "eof_received", end)
    assert _is_found(client)


def test_a_body_that_changes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = openai.Body.with_model
    monkeypatch.setattr(openai.Body, "with_model", lambda self, model: whole(self, model).replace(b"2.50", b"2.5"))
    target = make_target("bodies")
    assert _is_found(target)
    assert any(isinstance(target.check(seed), Request) for seed in target.seeds if b"2.50" not in seed)


def _is_found(target: Target) -> bool:
    return fuzz_with_mutations(target, seconds=20, count=2000, seed=1)[1] is not None


def _reproducer(name: str, data: bytes, said: str) -> str:
    text = base64.b64encode(data).decode()
    return f"{said}\nmake_target({name!r}).check(base64.b64decode({text!r}))  # {data!r}"
