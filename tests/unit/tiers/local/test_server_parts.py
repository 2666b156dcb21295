"""The small parts around somebody else's server: its lines, port and turn, its container, and Docker's words."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.samples import some_paths
from turnout.core.errors import SetupError
from turnout.core.memory import HOST_RAM
from turnout.tiers.local.server.container import explain, out_of_memory, port_of
from turnout.tiers.local.server.container_note import Note, identified, kept_key, note_path, read_note
from turnout.tiers.local.server.engine import gpus_of
from turnout.tiers.local.server.health import look_at_health
from turnout.tiers.local.server.keeper import LAST_WORDS, lines_of
from turnout.tiers.local.server.port import choose_port
from turnout.tiers.local.server.spec import ContainerSpec, ServerSpec
from turnout.tiers.local.server.turn import Turn

CONTAINER = ContainerSpec(image="i", name="", labels={}, note="")


def a_server(**facts: object) -> ServerSpec:
    base = ServerSpec(
        key="k", program="p", arguments=("p", "--port", "8000"), environment={}, port=8000, served_name="s"
    )
    return msgspec.structs.replace(base, **facts)


# Its lines


def test_a_bar_that_draws_itself_anew_is_told_apart_from_a_line() -> None:
    pieces = [b"one\ntw", b"o\r\n  0%", b"\r 50%\r100%\nlast"]
    assert list(lines_of(iter(pieces))) == [
        (b"one", False), (b"two", False), (b"  0%", True), (b" 50%", True), (b"100%", False), (b"last", False),
    ]  # fmt: skip


@given(st.lists(st.binary(max_size=20)))
def test_no_text_is_lost_or_invented(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    told = b"".join(line for line, _ in lines_of(iter(pieces)))
    assert told.replace(b"\r", b"").strip() == re.sub(rb"[\r\n]", b"", whole).strip()


@given(st.text(alphabet="ab\r\n%", max_size=30), st.integers(1, 5))
def test_how_it_is_cut_into_pieces_does_not_matter(text: str, size: int) -> None:
    data = text.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert list(lines_of(iter(pieces))) == list(lines_of(iter([data])))


@pytest.mark.parametrize(
    "line",
    ["ValueError: no such config", "error: invalid argument", "E load_model: failed to load", "OSError: disk"],
)
def test_what_looks_like_a_reason_is_kept(line: str) -> None:
    assert LAST_WORDS.search(line)


# Its port


def test_a_free_port_is_chosen_and_a_taken_one_refused() -> None:
    assert choose_port(None) > 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=str(port)):
            choose_port(port)
    assert choose_port(port) == port
    assert look_at_health(port) == "silent"


# Its card


def test_cards_are_known_by_their_index() -> None:
    assert gpus_of({"host/gpu1": 1, HOST_RAM: 1, "host/gpu0": 1, "host/gpux": 1}) == (0, 1)


# Its container


def test_a_container_is_the_same_whatever_its_port_and_another_with_other_arguments(tmp_path: Path) -> None:
    paths = some_paths(tmp_path)
    first = identified(CONTAINER, "a b/c", a_server(), paths)
    again = identified(CONTAINER, "a b/c", a_server(port=9, arguments=("p", "--port", "9")), paths)
    other = identified(CONTAINER, "a b/c", a_server(arguments=("p", "--port", "8000", "--more")), paths)
    elsewhere = identified(CONTAINER, "a b/c", a_server(), some_paths(tmp_path / "elsewhere"))
    assert re.fullmatch(r"turnout-[0-9a-f]{8}-a-b-c", first.name)
    assert first.labels == again.labels
    assert first.labels["turnout.settings"] != other.labels["turnout.settings"]
    assert first.labels["turnout.installation"] != elsewhere.labels["turnout.installation"]


def test_its_key_stays_and_is_nobody_elses(tmp_path: Path) -> None:
    paths = some_paths(tmp_path)
    key = kept_key(paths, "one")
    assert len(key) >= 32
    assert kept_key(paths, "one") == key
    assert kept_key(paths, "two") != key
    assert note_path(paths, "one").with_suffix(".key").stat().st_mode & 0o777 == 0o600


def test_a_note_about_a_process_that_is_another_one_now_is_not_believed(tmp_path: Path) -> None:
    path = note_path(some_paths(tmp_path), "one")
    assert read_note(path) == 0
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode(Note(container="f" * 64, pid=os.getpid())))
    assert read_note(path) == 0
    path.write_bytes(b"\xff{")
    assert read_note(path) == 0


def test_a_containers_port_is_what_docker_says_or_what_it_was_told() -> None:
    published = {"NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "4711"}]}}}
    on_host = {"NetworkSettings": {"Ports": {}}, "Config": {"Cmd": ["serve", "--port", "8200"]}}
    silent = {"NetworkSettings": {"Ports": None}, "Config": {"Cmd": None}}
    assert port_of(published, 1) == 4711
    assert port_of(on_host, 1) == 8200
    assert port_of(silent, 1) == 1


def test_dockers_words_become_something_to_do() -> None:
    assert "Container Toolkit" in explain(CONTAINER, 'could not select device driver "" with capabilities: [[gpu]]')
    assert "is it started" in explain(CONTAINER, "Error while fetching server API version: Connection refused")
    assert "group docker" in explain(CONTAINER, "Error while fetching ...: PermissionError(13, 'Permission denied')")
    assert explain(CONTAINER, "odd").endswith("odd")
    assert "8 GiB" in out_of_memory(8 << 30)
    assert "memory_gib" not in out_of_memory(0)


# Its turn


async def test_a_turn_is_taken_by_one_at_a_time_and_given_back_twice_without_harm(tmp_path: Path) -> None:
    first, second = Turn(tmp_path / "t" / "lock"), Turn(tmp_path / "t" / "lock")
    await first.take()
    await first.take()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(second.take())
        done, _ = await asyncio.wait([waiting], timeout=0.25)
        assert not done
        first.give_back()
        first.give_back()
    second.give_back()


async def test_a_turn_that_was_waited_for_in_vain_is_left_to_others(tmp_path: Path) -> None:
    first, second = Turn(tmp_path / "lock"), Turn(tmp_path / "lock")
    await first.take()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(second.take())
        await asyncio.sleep(0)
        waiting.cancel()
    first.give_back()
    await asyncio.wait_for(first.take(), 5)
    first.give_back()


async def test_where_there_can_be_no_lock_nothing_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await asyncio.wait_for(Turn(tmp_path / "file" / "lock").take(), 5)
