"""``turnout why``: the whole story, also from the file when no daemon runs."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import msgspec
import pytest

from support.samples import a_request, a_trace
from turnout.cli import main as cli
from turnout.cli.story import story_of
from turnout.cli.why import ALL, read_traces
from turnout.config.paths import find_paths
from turnout.core.errors import NotFound
from turnout.core.events import RequestFinished
from turnout.core.words import Attempt, Choice, Plan, Step, Trace, Usage
from turnout.dispatch.traces import TraceStore

Captured = pytest.CaptureFixture[str]


def a_rough_trace() -> Trace:
    """A request whose first target broke and whose second answered."""
    return a_trace(
        "req_rough",
        request=a_request(
            id="req_rough", selector="gpt-4o", stream=True, effort=7, privacy="local-only", body_bytes=99
        ),
        plan=Plan(
            resolution="alias 'gpt-4o*' -> role 'coding'",
            candidates=(Choice("local/a", "first of chains.coding"), Choice("local/b", "second of chains.coding")),
            refusals=(Choice("local/far", "leaves this machine"),),
        ),
        attempts=(
            Attempt(
                target="local/a", started_ms=0.2, outcome="broken", steps=(Step("send", 250.0),),
                code="upstream_failed", error="HTTP 500", source="upstream", status=500,
            ),
            Attempt(
                target="local/b", started_ms=251.0, outcome="answered", steps=(Step("first_byte", 3.25),), status=200
            ),
        ),
        served_target="local/b", served_model="b", tier="local", first_byte_ms=260.0, total_ms=1260.0,
        usage=Usage(5, 40), key_name="laptop",
    )  # fmt: skip


def test_the_story_tells_everything() -> None:
    text = "\n".join(line for line, _ in story_of(a_rough_trace()))
    for words in (
        "req_rough",
        "chat of model 'gpt-4o', streamed, effort 7, privacy local-only, 99 bytes, key 'laptop'",
        "read as    alias 'gpt-4o*' -> role 'coding'",
        "candidates local/a: first of chains.coding\n           local/b: second of chains.coding",
        "refused    local/far: leaves this machine",
        "attempt 1  local/a broken (HTTP 500), began at 0.2 ms",
        "HTTP 500 (upstream_failed, said by the engine)",
        "send 250 ms",
        "attempt 2  local/b answered (HTTP 200), began at 251 ms",
        "first byte 3.2 ms",
        "outcome    answered (HTTP 200) by local/b, model 'b', tier local",
        "first byte 260 ms · total 1,260 ms · 5 + 40 tokens · 40 tok/s",
        "cost       0",
    ):
        assert words in text


def test_a_request_that_nobody_was_asked_for_has_a_story_too() -> None:
    trace = a_trace(outcome="wrong", http_status=404, code="model_not_found", error="no model 'x'", hint="local/y")
    text = "\n".join(line for line, _ in story_of(trace))
    assert "outcome    wrong (HTTP 404)" in text
    assert "error      no model 'x' (model_not_found)" in text
    assert "hint       local/y" in text


def store(*traces: Trace) -> Path:
    path = find_paths().traces_file
    keeper = TraceStore(path, 100, lambda reason, dropped: None)
    for trace in traces:
        keeper.hear(RequestFinished(trace=trace))
    keeper.close()
    return path


def test_without_a_daemon_the_file_is_read(capsys: Captured) -> None:
    store(a_trace("req_1a"), a_trace("req_1b"), a_rough_trace())
    assert cli.main(["why"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "req_rough", "req_1b", "req_1a"]
    assert cli.main(["why", "last"]) == 0
    assert capsys.readouterr().out.startswith("req_rough")
    assert cli.main(["why", "req_1a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "req_1a"
    assert cli.main(["why", "req_r"]) == 0
    assert capsys.readouterr().out.startswith("req_rough")
    assert cli.main(["why", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["traces"]) == 3


def test_an_unknown_and_an_ambiguous_id(capsys: Captured) -> None:
    store(a_trace("req_1a"), a_trace("req_1b"))
    assert cli.main(["why", "req_9"]) == 1
    assert "there is no trace 'req_9'" in capsys.readouterr().err
    assert cli.main(["why", "req_1"]) == 1
    assert "several traces that begin with 'req_1'" in capsys.readouterr().err


def test_an_id_that_begins_another_one_is_still_itself(capsys: Captured) -> None:
    store(a_trace("req_1"), a_trace("req_1b"))
    assert cli.main(["why", "req_1"]) == 0
    assert capsys.readouterr().out.startswith("req_1 ")


def test_no_request_yet(capsys: Captured) -> None:
    assert cli.main(["why"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, "turnout run" in captured.err) == ("", True)
    assert cli.main(["why", "last"]) == 1
    assert cli.main(["why", "--json"]) == 0


def test_a_named_daemon_is_not_replaced_by_the_file(capsys: Captured) -> None:
    store(a_trace("req_1"))
    assert cli.main(["why", "--url", "http://127.0.0.1:9", "last"]) == 3
    assert cli.main(["why", "--url", "http://127.0.0.1:9"]) == 3
    assert capsys.readouterr().out == ""


def test_reading_writes_nothing(tmp_path: Path) -> None:
    path = store(a_trace("req_1"))
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert [trace.id for trace in read_traces(path, ALL, (9,))] == ["req_1"]
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_damaged_file_and_foreign_traces(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqlite3"
    broken.write_bytes(b"not a database, really not" * 100)
    with pytest.raises(NotFound, match="cannot be read"):
        read_traces(broken, ALL, (9,))
    path = store(a_trace("req_1"))
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO traces VALUES ('req_2', 2.0, ?)", (msgspec.json.encode({"id": 7}),))
    database.close()
    assert [trace.id for trace in read_traces(path, ALL, (9,))] == ["req_1"]
